//! virtio 1.x devices over PCI.
//!
//! *Modelled*: split queues.
//! *Not modelled*: packed queues.
//! *Sources*: Virtual I/O Device (VIRTIO) Version 1.2; Linux v6.12 drivers/virtio/virtio_ring.c.

pub mod queue;
pub mod regs;

pub use queue::Chain;
pub use queue::RingError;
