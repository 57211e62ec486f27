//! PCI Express building blocks: who sends what to whom, and what a function looks like.
//!
//! *Modelled*: requester IDs, memory and configuration requests with typed completions, configuration
//! space with masks and capabilities, BARs, MSI, MSI-X, INTx level, type-1 bridges.
//! *Not modelled*: flow control, ordering between virtual channels, data link retransmission.
//! *Sources*: PCI Express Base Specification; spec/dwc-qcom-registers.md §2.8, §5.
#![forbid(unsafe_code)]

mod function;
mod tlp;

pub use function::Function;
pub use function::Outcome;
pub use function::Upstream;
pub use tlp::Bdf;
pub use tlp::Completion;
