//! What the engine needs of a running guest.

use std::time::Duration;

use guest_agent::Op;
use guest_agent::OpError;
use guest_agent::Value;
use guest_view::IrqView;
use rc_model::soc::SpiState;
use rc_model::Event;
use rc_model::Sample;
use rc_model::SamplePoint;

use crate::finding::Class;
use crate::plan::Fault;
use crate::stall::StallRule;
use crate::stall::Stalled;

/// Why a call to the agent gave no value.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CallError {
    /// The operation failed in the guest; the guest goes on.
    #[error("{} failed: {} (errno {})", .0.what, .0.why, .0.errno)]
    Failed(OpError),
    /// No answer in time.
    #[error("no answer of the guest within {waited_ms} ms")]
    Hang {
        /// How long was waited.
        waited_ms: u64,
    },
    /// The guest is gone.
    #[error("the guest ended: {reason}")]
    Ended {
        /// How, in one line.
        reason: String,
    },
    /// The agent said something that is not the protocol.
    #[error("the agent broke the protocol: {why}")]
    Protocol {
        /// What was wrong.
        why: String,
    },
}

/// Why there is no view of the guest's memory.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookError {
    /// Not of this guest, ever.
    #[error("guest memory cannot be read: {0}")]
    Unreadable(String),
    /// Not now: somebody was always in the middle of a change.
    #[error("guest memory did not stand still: {0}")]
    Unsteady(String),
}

/// A guest with an agent, and the devices behind it.
pub trait Machine {
    /// Have the agent do `op`; give up after `timeout`.
    fn call(&mut self, op: Op, timeout: Duration) -> Result<Value, CallError>;
    /// IRQ domains and descriptors as they lie in the guest's memory, at a moment when nobody is changing them.
    fn look(&mut self) -> Result<IrqView, LookError>;
    /// Device-side state now.
    fn sample(&mut self, point: SamplePoint) -> Sample;
    /// Our SPIs in the GIC.
    fn spi_state(&mut self) -> Vec<SpiState>;
    /// What the model observed since the last call, oldest first.
    fn take_events(&mut self) -> Vec<Event>;
    /// Let this happen to the slot now.
    fn fault(&mut self, fault: Fault);
    /// Tell the cards that a phase begins: one that misbehaves may have waited for it.
    fn announce(&mut self, phase: &str);
    /// Wait until nothing has happened to the link for `quiet`; `false`: not within `limit`.
    fn settle(&mut self, quiet: Duration, limit: Duration) -> bool;
    /// Hold an access of the guest as `rule` says; `draw` decides what the rule leaves open.
    fn stall(&mut self, rule: &StallRule, draw: u64);
    /// Give up stalls that hold nothing, wait for the others, and tell what became of each, in the order in which they began.
    fn stalled(&mut self) -> Vec<(StallRule, Stalled)>;
    /// Have the guest's kernel list its blocked tasks on the console.
    fn show_blocked_tasks(&mut self);
    /// A finding of this class was just made: keep the guest's state if that is evidence.
    fn preserve(&mut self, _class: Class) {}
    /// Milliseconds since some fixed moment, for timings.
    fn now_ms(&mut self) -> u64;
    /// The cycle is over: hand over what was recorded (trace) if anything is kept.
    fn end_cycle(&mut self);
}
