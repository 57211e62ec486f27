//! PCIe functions behind a root port, one folder per function.
//!
//! To add one: a folder with `regs.rs` (its tables) and `mod.rs` (a type that implements [`pcie::Function`]), tests
//! beside it.
#![forbid(unsafe_code)]

pub mod disk;
pub mod endpoint_test;
pub mod nvme;
pub mod serial;
pub mod virtio;

pub use disk::Disk;
pub use disk::MemDisk;
pub use endpoint_test::EndpointTest;
pub use endpoint_test::EndpointTestSpec;
pub use nvme::Nvme;
pub use nvme::NvmeSpec;
pub use serial::SerialCard;
pub use serial::SerialSpec;
pub use virtio::VirtioPci;
