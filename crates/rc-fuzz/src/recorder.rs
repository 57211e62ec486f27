//! A function that keeps INTA asserted whatever happens and records the resets that reach it.

use std::sync::Arc;
use std::sync::Mutex;

use block::Cx;
use block::ResetKind;
use block::SimTime;
use block::StateError;
use block::Width;
use pcie::Bdf;
use pcie::Completion;
use pcie::Function;
use pcie::FunctionState;
use pcie::Outcome;
use pcie::Rate;
use pcie::Upstream;
use rc_model::Event;

/// What a test keeps of a [`Recorder`].
pub type Resets = Arc<Mutex<Vec<ResetKind>>>;

/// The function.
#[derive(Default)]
pub struct Recorder {
    /// Resets that have reached it, in order.
    pub resets: Resets,
}

impl Function<Event> for Recorder {
    fn config_read(&mut self, _: &mut Cx<'_, Event>, _: Option<Rate>, _: u16, _: Width) -> u64 {
        0
    }

    fn config_write(
        &mut self,
        _: &mut Cx<'_, Event>,
        _: &mut dyn Upstream<Event>,
        _: Bdf,
        _: u16,
        _: Width,
        _: u64,
    ) {
    }

    fn mem_read(&mut self, _: &mut Cx<'_, Event>, _: &mut dyn Upstream<Event>, _: u64, _: Width) -> Outcome {
        Outcome::ok(0)
    }

    fn mem_write(
        &mut self,
        _: &mut Cx<'_, Event>,
        _: &mut dyn Upstream<Event>,
        _: u64,
        _: Width,
        _: u64,
    ) -> Completion {
        Completion::Success
    }

    fn decodes(&self, _: u64, _: Width) -> bool {
        true
    }

    fn make_multifunction(&mut self) {}

    fn intx(&self) -> u8 {
        1
    }

    fn next_deadline(&self) -> Option<SimTime> {
        None
    }

    fn tick(&mut self, _: &mut Cx<'_, Event>, _: &mut dyn Upstream<Event>) {}

    fn reset(&mut self, _: &mut Cx<'_, Event>, kind: ResetKind) {
        self.resets.lock().expect("not poisoned").push(kind);
    }

    fn sample(&self, _: &mut dyn FnMut(&str, u64)) {}

    /// It has no state: what it records is the test's.
    fn save(&self) -> FunctionState {
        FunctionState::new("recorder", &())
    }

    fn restore(&mut self, saved: &FunctionState) -> Result<(), StateError> {
        saved.data("recorder")
    }
}
