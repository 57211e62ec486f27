//! A DesignWare PCIe root complex in its vendor wrapper.
//!
//! *Modelled*: PARF, ELBI, DBI (root port configuration space and port logic), iATU, iMSI-RX, the
//! link state machine, PERST#, and the clock, reset and regulator providers a mainline driver can drive.
//! *Not modelled*: eDMA.
//! *Sources*: spec/dwc-qcom-registers.md.
#![forbid(unsafe_code)]

pub mod dbi;
pub mod elbi;
pub mod event;
pub mod gpio;
pub mod iatu;
pub mod link;
pub mod mhi;
pub mod parf;
pub mod phy;
pub mod registry;
pub mod reset;
pub mod root_complex;
pub mod sample;
pub mod soc;
pub mod wrapper;

pub use event::Effect;
pub use event::Event;
pub use pcie::Bdf;
pub use pcie::ErrorMessage;
pub use pcie::Rate;
pub use registry::decode;
pub use registry::reference;
pub use registry::register_name;
pub use registry::register_named;
pub use registry::tables;
pub use registry::Part;
pub use root_complex::Config;
pub use root_complex::RootComplex;
pub use root_complex::Slot;
pub use root_complex::State;
pub use sample::Sample;
pub use sample::SamplePoint;
pub use soc::Soc;
pub use soc::Window;
pub use wrapper::Wrapper;

/// Most that a saved counter may hold: no machine lives long enough to count that far, and none overflows from there.
pub(crate) const MAX_COUNT: u64 = 1 << 62;
