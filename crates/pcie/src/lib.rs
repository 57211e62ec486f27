//! PCI Express building blocks: who sends what to whom, and what a function looks like.
//!
//! *Modelled*: requester IDs, memory and configuration requests with typed completions, configuration
//! space with masks and capabilities, BARs, MSI, MSI-X, INTx level, type-1 bridges, switches with hot-plug slots.
//! *Not modelled*: flow control, ordering between virtual channels, data link retransmission.
//! *Sources*: PCI Express Base Specification; spec/dwc-qcom-registers.md §2.8, §5.
#![forbid(unsafe_code)]

mod card;
pub mod config;
mod errors;
pub mod frame;
mod framed;
mod function;
pub mod misbehave;
mod msi;
mod msix;
pub mod switch;
mod tlp;

pub use card::Card;
pub use card::CardState;
pub use card::ConfigRequest;
pub use card::Device;
pub use card::SlotEvent;
pub use card::FUNCTIONS;
pub use config::ConfigSpace;
pub use frame::Frame;
pub use frame::FrameSpec;
pub use frame::FrameState;
pub use frame::IrqMode;
pub use frame::MsixSpec;
pub use framed::Framed;
pub use framed::FramedFunction;
pub use function::Function;
pub use function::FunctionState;
pub use function::LinkFailure;
pub use function::Outcome;
pub use function::Rate;
pub use function::Sender;
pub use function::Upstream;
pub use msi::Message;
pub use msi::Msi;
pub use msix::MsixTable;
pub use switch::Switch;
pub use switch::SwitchSpec;
pub use tlp::Bdf;
pub use tlp::Completion;
pub use tlp::ErrorMessage;
