//! A function that is a frame and what is behind its BARs.

use block::Cx;
use block::ResetKind;
use block::SimTime;
use block::StateError;
use block::Width;

use crate::Bdf;
use crate::Completion;
use crate::Frame;
use crate::Function;
use crate::FunctionState;
use crate::Outcome;
use crate::Rate;
use crate::Upstream;

/// Something around a [`Frame`]. Apart from [`FramedFunction`], as it has no event type: so a function without a frame may have any.
pub trait Framed: Send {
    /// The frame.
    fn frame(&self) -> &Frame;
    /// The same, to change.
    fn frame_mut(&mut self) -> &mut Frame;
}

/// What a function adds to its frame. Every such type is a [`Function`]: the frame answers for the rest.
pub trait FramedFunction<E>: Framed {
    /// A read inside an enabled BAR, as (BAR, offset).
    fn bar_read(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, at: (u8, u32), w: Width) -> u64;
    /// A write inside an enabled BAR.
    fn bar_write(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, at: (u8, u32), w: Width, v: u64);
    /// Configuration register `off` is about to be read.
    fn before_config_read(&mut self, _off: u16) {}
    /// Configuration register `off` has been written.
    fn config_written(&mut self, _cx: &mut Cx<'_, E>, _up: &mut dyn Upstream<E>, _off: u16) {}
    /// See [`Function::valueless_doorbells`].
    fn valueless_doorbells(&self, _out: &mut Vec<u64>) {}
    /// See [`Function::next_deadline`].
    fn next_deadline(&self) -> Option<SimTime> {
        None
    }
    /// See [`Function::tick`].
    fn tick(&mut self, _cx: &mut Cx<'_, E>, _up: &mut dyn Upstream<E>) {}
    /// A reset has reached the frame and reaches what is behind it.
    fn reset(&mut self, cx: &mut Cx<'_, E>, kind: ResetKind);
    /// Facts for the oracle besides those of the frame.
    fn sample(&self, _out: &mut dyn FnMut(&str, u64)) {}
    /// See [`Function::save`]; the frame's state is part of it.
    fn save(&self) -> FunctionState;
    /// See [`Function::restore`].
    fn restore(&mut self, saved: &FunctionState) -> Result<(), StateError>;
}

impl<E, F: FramedFunction<E>> Function<E> for F {
    fn config_read(&mut self, _cx: &mut Cx<'_, E>, link: Option<Rate>, off: u16, w: Width) -> u64 {
        self.before_config_read(off);
        self.frame().config_read(link, off, w)
    }

    fn config_write(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        bdf: Bdf,
        off: u16,
        w: Width,
        v: u64,
    ) {
        self.frame_mut().config_write(cx, up, bdf, off, w, v);
        self.config_written(cx, up, off);
    }

    fn mem_read(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, addr: u64, w: Width) -> Outcome {
        match self.frame().hit(addr, w) {
            Some(at) => Outcome::ok(self.bar_read(cx, up, at, w)),
            None => Outcome::refused(self.frame_mut().unsupported(cx, up, false), w),
        }
    }

    fn mem_write(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        addr: u64,
        w: Width,
        v: u64,
    ) -> Completion {
        let Some(at) = self.frame().hit(addr, w) else { return self.frame_mut().unsupported(cx, up, true) };
        self.bar_write(cx, up, at, w, v);
        Completion::Success
    }

    fn intx(&self) -> u8 {
        self.frame().intx()
    }

    fn decodes(&self, addr: u64, w: Width) -> bool {
        self.frame().hit(addr, w).is_some()
    }

    fn make_multifunction(&mut self) {
        self.frame_mut().config_mut().make_multifunction();
    }

    fn claims(&self) -> Vec<(u64, u64)> {
        self.frame().claims()
    }

    fn msi_target(&self) -> Option<u64> {
        self.frame().msi_target()
    }

    fn valueless_doorbells(&self, out: &mut Vec<u64>) {
        FramedFunction::valueless_doorbells(self, out);
    }

    fn next_deadline(&self) -> Option<SimTime> {
        FramedFunction::next_deadline(self)
    }

    fn tick(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>) {
        FramedFunction::tick(self, cx, up);
    }

    fn reset(&mut self, cx: &mut Cx<'_, E>, kind: ResetKind) {
        self.frame_mut().reset(kind);
        FramedFunction::reset(self, cx, kind);
    }

    fn sample(&self, out: &mut dyn FnMut(&str, u64)) {
        self.frame().sample(out);
        FramedFunction::sample(self, out);
    }

    fn save(&self) -> FunctionState {
        FramedFunction::save(self)
    }

    fn restore(&mut self, saved: &FunctionState) -> Result<(), StateError> {
        FramedFunction::restore(self, saved)
    }
}
