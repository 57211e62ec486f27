//! Doorbells of I/O queues in host memory: shadow doorbells and event indices (NVMe 1.4 §5.7, §7.13).
//!
//! The host writes a queue's doorbell value to the shadow buffer, and the register only if that passes the controller's event
//! index. So a register write of an I/O queue says "look", and the shadow says what: how the write came here does not matter,
//! which is what lets the machine deliver it without its value.
//!
//! Submission: the index is the tail, as soon as the queue has been worked through. Completion: the index stays behind unless the
//! controller waits for the head (the queue is full, or the pin follows it), which costs one doorbell a lap at most.
//!
//! INFERRED: a buffer that cannot be reached is a Data Transfer Error; the host zeroes both buffers before it configures them.
//! DEVIATION: doorbells of the admin queues stay registers, as Linux has it (v6.12 drivers/nvme/host/pci.c, nvme_dbbuf_init).

use block::Cx;
use pcie::Completion;
use pcie::IrqMode;
use pcie::Upstream;
use serde::Deserialize;
use serde::Serialize;

use super::command::Command;
use super::command::Reply;
use super::command::Status;
use super::prp::PAGE_BYTES;
use super::regs::off;
use super::Nvme;

/// How often a host that is faster than the controller is followed at once; then the controller goes on in its next tick.
const MOST_ROUNDS: u32 = 8;

/// Where the buffers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffers {
    shadow: u64,
    event: u64,
}

impl Buffers {
    /// A page each; 0 is none.
    pub fn is_possible(&self) -> bool {
        [self.shadow, self.event].iter().all(|a| *a != 0 && a.is_multiple_of(PAGE_BYTES as u64))
    }
}

/// Which of a pair of queues.
#[derive(Clone, Copy)]
pub(super) enum Side {
    Submission,
    Completion,
}

/// Where the entry of a queue is in both buffers: as doorbells lie in the registers.
fn entry(side: Side, id: u16) -> u64 {
    u64::from(id) * 8 + if matches!(side, Side::Submission) { 0 } else { 4 }
}

impl Nvme {
    /// Doorbell Buffer Config.
    pub(super) fn configure_doorbells<E>(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        c: &Command,
    ) -> Reply {
        let buffers = Buffers { shadow: c.prp1, event: c.prp2 };
        if !buffers.is_possible() {
            return Err(Status::INVALID_FIELD);
        }
        // The entries of the admin queues, which nobody uses.
        let mut word = [0; 4];
        if self.frame.fetch(cx, up, buffers.shadow, &mut word) != Completion::Success
            || self.frame.store(cx, up, buffers.event, &[0; 4]) != Completion::Success
        {
            return Err(Status::DATA_TRANSFER);
        }
        self.core.buffers = Some(buffers);
        Ok(0)
    }

    /// The buffers, if queue `id` has its doorbells there. What does not run touches no memory.
    fn buffers_of(&self, id: u16) -> Option<Buffers> {
        self.core.buffers.filter(|_| id != 0 && self.is_running())
    }

    /// The value of a doorbell that was written with `written`; nothing: the buffer cannot be reached.
    pub(super) fn value<E>(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        (side, id): (Side, u16),
        written: u32,
    ) -> Option<u32> {
        let Some(b) = self.buffers_of(id) else { return Some(written) };
        let mut word = [0; 4];
        if self.frame.fetch(cx, up, b.shadow + entry(side, id), &mut word) != Completion::Success {
            self.fail();
            return None;
        }
        Some(u32::from_le_bytes(word))
    }

    /// Ask for a doorbell when the host goes on from `at`, and look whether it has already; nothing: it has not.
    fn ask<E>(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        of: (Side, u16),
        at: u16,
    ) -> Option<u32> {
        let b = self.buffers_of(of.1)?;
        let index = u32::from(at).to_le_bytes();
        if self.frame.store(cx, up, b.event + entry(of.0, of.1), &index) != Completion::Success {
            self.fail();
            return None;
        }
        self.value(cx, up, of, 0).filter(|v| *v != u32::from(at))
    }

    /// Submission queue `id` has been worked through: ask for its next doorbell. Returns whether there is more already.
    pub(super) fn await_tail<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, id: u16) -> bool {
        let Some(at) = self.core.queues.sq(id).map(|q| q.tail()) else { return false };
        let Some(tail) = self.ask(cx, up, (Side::Submission, id), at) else { return false };
        let taken = self.core.queues.sq(id).is_some_and(|q| q.set_tail(tail));
        if !taken {
            self.bad_doorbell(cx, up, 1);
        }
        taken
    }

    /// The controller waits for the head of completion queue `id`: take what is there, and ask for the doorbell.
    pub(super) fn await_head<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, id: u16) {
        for _ in 0..MOST_ROUNDS {
            let Some(at) = self.core.queues.cq(id).map(|q| q.head()) else { return };
            let Some(head) = self.ask(cx, up, (Side::Completion, id), at) else { return };
            if !self.core.queues.cq(id).is_some_and(|q| q.set_head(head)) {
                return self.bad_doorbell(cx, up, 1);
            }
        }
        self.core.again = true;
    }

    /// The pin follows the heads: where they are in memory the controller has to be told each time.
    pub(super) fn follow_head<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, id: u16) {
        if self.frame.irq_mode() == IrqMode::Intx {
            self.await_head(cx, up, id);
        }
    }

    /// Work through submission queue `id` until its host rests, or has been followed often enough.
    pub(super) fn process<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, id: u16) {
        for _ in 0..MOST_ROUNDS {
            self.take_commands(cx, up, id);
            let rests = self.core.queues.sq(id).is_none_or(|q| q.pending().is_some());
            if rests || !self.await_tail(cx, up, id) {
                return;
            }
        }
        self.core.again = true;
    }

    /// Go on where [`MOST_ROUNDS`] ended.
    pub(super) fn go_on<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>) {
        if !std::mem::take(&mut self.core.again) {
            return;
        }
        for id in 1..=self.io_queues {
            self.follow_head(cx, up, id);
            self.process(cx, up, id);
        }
    }

    /// Registers whose write says no more than "look", appended to `out`.
    pub(super) fn valueless_doorbells(&self, out: &mut Vec<u64>) {
        if self.core.buffers.is_none() || !self.is_running() || !self.frame.in_d0() {
            return;
        }
        let Some((bar, _)) = self.frame.claims().first().copied() else { return };
        let queues = (0u64..).zip(&self.core.queues.sqs).skip(1).filter(|(_, q)| q.is_some());
        out.extend(queues.map(|(id, _)| bar + u64::from(off::DOORBELLS) + id * 8));
    }
}

#[cfg(test)]
#[path = "doorbells_test.rs"]
mod tests;
