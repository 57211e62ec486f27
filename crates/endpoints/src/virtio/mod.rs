//! virtio 1.x devices over PCI: a transport, and device types behind it.
//!
//! *Modelled*: the modern interface (no transitional or legacy one) of rng, blk, console and net; split queues.
//! *Not modelled*: packed queues, queue reset, admin queue, shared memory, notification data.
//! *Sources*: Virtual I/O Device (VIRTIO) Version 1.2; Linux v6.1, v6.12 and 7.3 drivers/virtio/virtio_pci_modern*.c.
//!
//! To add one: a file with a type that implements [`VirtioDevice`]; [`VirtioPci`] makes a function of it.

pub mod blk;
mod common;
pub mod console;
pub mod net;
pub mod pci;
pub mod queue;
pub mod regs;
pub mod rng;

use block::MemPort;
use block::StateError;
use serde::de::DeserializeOwned;
use serde::Serialize;

pub use blk::Blk;
pub use console::Console;
pub use net::Net;
pub use pci::VirtioPci;
pub use queue::Chain;
pub use queue::RingError;
pub use rng::Rng;

use queue::Queue;

/// Most queues of a device.
pub const MAX_QUEUES: u16 = 16;
/// Memory requests after which a device leaves the rest for later, give or take one chain.
pub const TURN_REQUESTS: u32 = 2048;
/// Bytes that a device moves by one call.
pub const CHUNK_BYTES: usize = 4096;

/// What makes a device type: its identity, and what it does with its queues.
pub trait VirtioDevice: Send {
    /// What it saves.
    type State: Serialize + DeserializeOwned;
    /// Its name in saved states and errors.
    const NAME: &'static str;
    /// virtio device ID (virtio 1.2 §5).
    const ID: u16;
    /// PCI class code.
    const CLASS: u32;

    /// Feature bits of the device type.
    fn features(&self) -> u64;
    /// Size of each queue: powers of two; at most [`MAX_QUEUES`] of them.
    fn queue_sizes(&self) -> Vec<u16>;
    /// Its configuration structure. It never changes.
    fn config(&self) -> Vec<u8>;
    /// The driver has notified queue `q`.
    fn serve(&mut self, q: usize, io: &mut Io<'_>) -> Result<(), RingError>;
    /// The device is reset.
    fn reset(&mut self);
    /// What it does next depends on this.
    fn save(&self) -> Self::State;
    /// Take what a device like this one saved. Nothing changes if it does not fit.
    fn restore(&mut self, saved: Self::State) -> Result<(), StateError>;
}

/// A device's queues and the way to memory, for one turn of work.
pub struct Io<'a> {
    queues: &'a mut [Queue],
    mem: &'a mut dyn MemPort,
    features: u64,
    requests: u32,
    tired: bool,
}

impl std::fmt::Debug for Io<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Io").field("queues", &self.queues).field("requests", &self.requests).finish()
    }
}

impl<'a> Io<'a> {
    /// One turn with `queues`.
    fn new(queues: &'a mut [Queue], mem: &'a mut dyn MemPort, features: u64) -> Io<'a> {
        Io { queues, mem, features, requests: 0, tired: false }
    }

    /// Whether the driver has taken all of `features`.
    pub fn negotiated(&self, features: u64) -> bool {
        self.features & features == features
    }

    /// The next chain of queue `q`: none if there is none, the queue is not enabled, or the turn is over.
    pub fn pop(&mut self, q: usize) -> Result<Option<Chain>, RingError> {
        if self.requests >= TURN_REQUESTS {
            self.tired = true;
            return Ok(None);
        }
        let Some(queue) = self.queues.get_mut(q).filter(|q| q.enabled) else { return Ok(None) };
        let chain = queue.pop(self.mem, self.features)?;
        self.requests += 4 + chain.as_ref().map_or(0, |c| c.descriptors() as u32);
        Ok(chain)
    }

    /// Give `chain` back to queue `q`, its first `len` writable bytes written.
    pub fn push(&mut self, q: usize, chain: &Chain, len: usize) -> Result<(), RingError> {
        let Some(queue) = self.queues.get_mut(q) else { return Ok(()) };
        queue.push(self.mem, chain, len as u32)
    }

    /// Fill `buf` from byte `off` of what the device reads.
    pub fn read(&mut self, chain: &Chain, off: u64, buf: &mut [u8]) -> Result<(), RingError> {
        self.requests += 1;
        chain.readable.read(self.mem, off, buf)
    }

    /// Store `data` at byte `off` of what the device writes.
    pub fn write(&mut self, chain: &Chain, off: u64, data: &[u8]) -> Result<(), RingError> {
        self.requests += 1;
        chain.writable.write(self.mem, off, data)
    }

    /// Count work that took as long as `requests` memory requests.
    pub fn spend(&mut self, requests: u32) {
        self.requests = self.requests.saturating_add(requests);
    }

    /// Whether the turn ended before the work did. Asked once.
    fn take_tired(&mut self) -> bool {
        std::mem::take(&mut self.tired)
    }

    /// Queues, one bit each, whose driver wants an interrupt for what was used since `old`.
    fn interrupts(&mut self, old: &[u16]) -> Result<u16, RingError> {
        let mut bits = 0;
        for (i, (q, old)) in self.queues.iter().zip(old).enumerate() {
            if q.next_used() != *old && q.wants_interrupt(self.mem, self.features, *old)? {
                bits |= 1 << i;
            }
        }
        Ok(bits)
    }
}

/// Call `step(offset, bytes)` for `len` bytes in chunks.
fn for_chunks(len: u64, mut step: impl FnMut(u64, usize) -> Result<(), RingError>) -> Result<(), RingError> {
    let mut at = 0;
    while at < len {
        let n = (len - at).min(CHUNK_BYTES as u64);
        step(at, n as usize)?;
        at += n;
    }
    Ok(())
}

#[cfg(test)]
#[path = "virtio_test.rs"]
mod tests;
