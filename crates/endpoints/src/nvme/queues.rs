//! Submission and completion queues: where they are, and how far host and controller have got (NVMe 1.4 §4.1).

use serde::Deserialize;
use serde::Serialize;

use super::command::CQE_BYTES;
use super::command::SQE_BYTES;
use super::regs::MAX_ENTRIES;

/// Entries that an admin queue may have (AQA).
pub const MAX_ADMIN_ENTRIES: u16 = 4096;

/// `from` to `to` in a ring of `size`, in steps ahead.
fn ahead(size: u16, from: u16, to: u16) -> u16 {
    if to >= from {
        to - from
    } else {
        size - from + to
    }
}

fn next(size: u16, at: u16) -> u16 {
    if at + 1 >= size {
        0
    } else {
        at + 1
    }
}

/// A submission queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubmissionQueue {
    base: u64,
    size: u16,
    head: u16,
    tail: u16,
    /// Its completion queue.
    pub cq: u16,
}

impl SubmissionQueue {
    /// An empty queue of `size` entries at `base`.
    pub fn new(base: u64, size: u16, cq: u16) -> SubmissionQueue {
        SubmissionQueue { base, size, head: 0, tail: 0, cq }
    }

    /// Next entry to fetch.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// What the doorbell said last.
    pub fn tail(&self) -> u16 {
        self.tail
    }

    /// The doorbell's value. `false`: it adds more than there is room for, or is no index of the queue.
    pub fn set_tail(&mut self, tail: u32) -> bool {
        let Ok(tail) = u16::try_from(tail) else { return false };
        let room = self.size - 1 - ahead(self.size, self.head, self.tail);
        if tail >= self.size || ahead(self.size, self.tail, tail) > room {
            return false;
        }
        self.tail = tail;
        true
    }

    /// Where the next command is, if there is one.
    pub fn pending(&self) -> Option<u64> {
        (self.head != self.tail).then(|| self.base.saturating_add(u64::from(self.head) * SQE_BYTES as u64))
    }

    /// The command at the head has been fetched.
    pub fn fetched(&mut self) {
        self.head = next(self.size, self.head);
    }

    fn is_possible(&self, most: u16) -> bool {
        is_ring(self.base, self.size, most) && self.head < self.size && self.tail < self.size
    }
}

/// A completion queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompletionQueue {
    base: u64,
    size: u16,
    head: u16,
    tail: u16,
    phase: bool,
    /// Interrupt vector.
    pub vector: u16,
    /// Whether it interrupts at all.
    pub interrupts: bool,
    /// Commands in flight that will need an entry. Derived from what is in flight.
    #[serde(skip)]
    reserved: u16,
}

impl CompletionQueue {
    /// An empty queue of `size` entries at `base`; `vector`: where it interrupts, if it does.
    pub fn new(base: u64, size: u16, vector: u16, interrupts: bool) -> CompletionQueue {
        CompletionQueue { base, size, head: 0, tail: 0, phase: true, vector, interrupts, reserved: 0 }
    }

    /// What the doorbell said last.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// The doorbell's value. `false`: it takes more than there is, or is no index of the queue.
    pub fn set_head(&mut self, head: u32) -> bool {
        let Ok(head) = u16::try_from(head) else { return false };
        if head >= self.size || ahead(self.size, self.head, head) > ahead(self.size, self.head, self.tail) {
            return false;
        }
        self.head = head;
        true
    }

    /// Whether there are entries that the host has not taken.
    pub fn is_unread(&self) -> bool {
        self.head != self.tail
    }

    /// Whether one more command can be taken on: an entry is left for it.
    pub fn has_room(&self) -> bool {
        ahead(self.size, self.head, self.tail) + self.reserved < self.size - 1
    }

    /// A command in flight needs an entry.
    pub fn reserve(&mut self) {
        self.reserved = self.reserved.saturating_add(1);
    }

    /// A command in flight is completed or dropped.
    pub fn release(&mut self) {
        self.reserved = self.reserved.saturating_sub(1);
    }

    /// Where the next entry goes.
    pub fn slot(&self) -> u64 {
        self.base.saturating_add(u64::from(self.tail) * CQE_BYTES as u64)
    }

    /// Its phase tag.
    pub fn phase(&self) -> bool {
        self.phase
    }

    /// The entry has been written.
    pub fn posted(&mut self) {
        self.tail = next(self.size, self.tail);
        self.phase ^= self.tail == 0;
    }

    fn is_possible(&self, most: u16) -> bool {
        let full = u32::from(self.reserved) + u32::from(ahead(self.size, self.head, self.tail));
        is_ring(self.base, self.size, most)
            && self.head < self.size
            && self.tail < self.size
            && full < u32::from(self.size)
    }
}

fn is_ring(base: u64, size: u16, most: u16) -> bool {
    base & 0xfff == 0 && (2..=most).contains(&size)
}

/// The queues of a controller by their identifier; 0 are the admin queues.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queues {
    /// Submission queues.
    pub sqs: Vec<Option<SubmissionQueue>>,
    /// Completion queues.
    pub cqs: Vec<Option<CompletionQueue>>,
}

impl Queues {
    /// None yet, of a controller that has admin queues and `io_queues` others.
    pub fn new(io_queues: u16) -> Queues {
        let n = usize::from(io_queues) + 1;
        Queues { sqs: vec![None; n], cqs: vec![None; n] }
    }

    /// Submission queue `id`, if it exists.
    pub fn sq(&mut self, id: u16) -> Option<&mut SubmissionQueue> {
        self.sqs.get_mut(usize::from(id))?.as_mut()
    }

    /// Completion queue `id`, if it exists.
    pub fn cq(&mut self, id: u16) -> Option<&mut CompletionQueue> {
        self.cqs.get_mut(usize::from(id))?.as_mut()
    }

    /// Where an I/O submission queue `id` would be.
    pub fn io_sq_slot(&mut self, id: u16) -> Option<&mut Option<SubmissionQueue>> {
        self.sqs.get_mut(usize::from(id)).filter(|_| id != 0)
    }

    /// Where an I/O completion queue `id` would be.
    pub fn io_cq_slot(&mut self, id: u16) -> Option<&mut Option<CompletionQueue>> {
        self.cqs.get_mut(usize::from(id)).filter(|_| id != 0)
    }

    /// Whether a submission queue completes to `cq`.
    pub fn is_used(&self, cq: u16) -> bool {
        self.sqs.iter().flatten().any(|s| s.cq == cq)
    }

    /// I/O queues of both kinds that exist.
    pub fn io_queues(&self) -> usize {
        self.sqs.iter().skip(1).flatten().count() + self.cqs.iter().skip(1).flatten().count()
    }

    /// Whether a saved set could be one of a controller with `io_queues`.
    pub fn is_possible(&self, io_queues: u16) -> bool {
        let n = usize::from(io_queues) + 1;
        let most = |id: usize| if id == 0 { MAX_ADMIN_ENTRIES } else { MAX_ENTRIES };
        let cq_of = |s: &SubmissionQueue| self.cqs.get(usize::from(s.cq)).is_some_and(Option::is_some);
        let admin = |present: Option<bool>| present == Some(true);
        self.sqs.len() == n
            && self.cqs.len() == n
            && admin(self.sqs.first().map(Option::is_some)) == admin(self.cqs.first().map(Option::is_some))
            && self.sqs.iter().enumerate().all(|(id, q)| {
                q.as_ref().is_none_or(|s| s.is_possible(most(id)) && cq_of(s) && (id == 0) == (s.cq == 0))
            })
            && self.cqs.iter().enumerate().all(|(id, q)| q.as_ref().is_none_or(|c| c.is_possible(most(id))))
    }
}
