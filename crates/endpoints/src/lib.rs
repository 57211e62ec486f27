//! PCIe functions behind a root port, one folder per function.
//!
//! To add one: a folder with `regs.rs` (its tables) and `mod.rs` (a type that implements [`pcie::Function`]), tests
//! beside it.
#![forbid(unsafe_code)]

pub mod disk;
pub mod endpoint_test;
pub mod serial;

pub use disk::Disk;
pub use disk::MemDisk;
pub use endpoint_test::EndpointTest;
pub use endpoint_test::EndpointTestSpec;
pub use serial::SerialCard;
pub use serial::SerialSpec;
