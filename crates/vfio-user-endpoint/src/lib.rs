//! A PCIe function whose device model runs in a process of the user's own, reached over vfio-user on a UNIX socket, or through a
//! [`relay`] where that socket is on another machine.
//!
//! This is no model crate: it talks to another process and measures host time. Each exchange with it ends within
//! [`VfioUserSpec::timeout`], whatever that process does.
//!
//! *Modelled*: BARs, COMMAND, MSI and MSI-X registers (the model decides by them, so it owns them; the server sees each write),
//! the rest of configuration space as the server has it; DMA by messages, each through the gates of the port above; MSI, MSI-X
//! and INTx from eventfds, which are looked at after each access and every [`POLL_NS`]; reset.
//! *Not modelled*: mapped regions, shared guest memory, twin sockets, migration, D3hot and AER of the model's own.
//! DEVIATION: every memory BAR is presented as a 32-bit one that is not prefetchable, I/O BARs and the expansion ROM are left out.
//! DEVIATION: INTx is deasserted by each access to a BAR and asserted again if the server triggers it anew after the unmask that
//! follows, as QEMU does it (hw/vfio/pci.c, `vfio_pci_intx_eoi`): the protocol has triggers, no levels.
//! *Sources*: QEMU docs/interop/vfio-user.rst ("vfio-user §…"); Linux include/uapi/linux/vfio.h; PCI Express Base Specification.
#![forbid(unsafe_code)]

mod connection;
mod endpoint;
mod interrupts;
mod registers;
pub mod relay;
pub mod server;
mod transport;
pub mod wire;

pub use connection::Failure;
pub use endpoint::ConnectError;
pub use endpoint::VfioUser;
pub use endpoint::VfioUserSpec;
pub use endpoint::POLL_NS;
