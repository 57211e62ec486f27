//! Plans, cycles, checks, findings, verdicts and reports.
//!
//! The engine drives a [`Machine`] (a guest with an agent, and the model behind it) through load–use–teardown
//! cycles, compares what it sees after each teardown with the state before the first probe, and tells an
//! observer, as [`Event`]s, what happened. The observer keeps the [`report::Report`]; the two may live on different
//! machines, joined by [`stream`].
//!
//! *Sources*: design.md §6; spec/dwc-qcom-registers.md §4.5; spec/teardown-research.md §3.
#![forbid(unsafe_code)]

pub mod check;
pub mod consumer;
pub mod defect;
pub mod engine;
pub mod finding;
pub mod machine;
pub mod plan;
pub mod render;
pub mod report;
pub mod script;
pub mod sources;
pub mod splat;
pub mod stall;
pub mod stream;
pub mod summary;
pub mod verdict;

pub use consumer::Consumer;
pub use defect::Defect;
pub use engine::Event;
pub use finding::Class;
pub use finding::Finding;
pub use finding::Source;
pub use machine::CallError;
pub use machine::LookError;
pub use machine::Machine;
pub use plan::Plan;
pub use plan::Target;
pub use verdict::Verdict;
