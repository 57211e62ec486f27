//! A DesignWare PCIe root complex in its Qualcomm wrapper (sm8250, ops 1_9_0).
//!
//! *Modelled*: PARF, ELBI, DBI (root port configuration space and port logic), unrolled iATU, iMSI-RX, the
//! link state machine, PERST#, and the clock, reset and regulator providers a mainline driver can drive.
//! *Not modelled*: other SoC generations, eDMA, viewport iATU, AER message generation.
//! *Sources*: spec/dwc-qcom-registers.md.
#![forbid(unsafe_code)]

pub mod event;
pub mod sample;
pub mod soc;

pub use event::Event;
pub use sample::Sample;
pub use sample::SamplePoint;
pub use soc::Window;
