//! The sans-I/O contract that every emulated hardware block keeps.
//!
//! *Modelled*: register access, time, interrupt levels, reset kinds, register files with masks.
//! *Not modelled*: anything that touches a host: no KVM, no threads, no host clock, no files.
//! *Sources*: design.md §4.
//!
//! A block is a deterministic state machine. Everything it can touch is handed in through [`Cx`];
//! everything it wants done outside comes back as data. Interrupt levels are a *function of state*
//! ([`Block::irq_levels`]); the owner diffs them after every access, tick and reset, so no write can
//! forget to re-evaluate a line.
#![forbid(unsafe_code)]

pub mod regs;
mod state;

pub use regs::Field;
pub use regs::Reg;
pub use regs::RegFile;
pub use regs::Words;
pub use state::StateError;

use serde::Deserialize;
use serde::Serialize;

/// Width of one register access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Width {
    /// 8-bit access.
    B1,
    /// 16-bit access.
    B2,
    /// 32-bit access.
    B4,
    /// 64-bit access.
    B8,
}

impl Width {
    /// The width of an access of `n` bytes, or `None` where no single-register access has that size.
    pub const fn from_bytes(n: usize) -> Option<Width> {
        match n {
            1 => Some(Width::B1),
            2 => Some(Width::B2),
            4 => Some(Width::B4),
            8 => Some(Width::B8),
            _ => None,
        }
    }

    /// Number of bytes: 1, 2, 4 or 8.
    pub const fn bytes(self) -> u64 {
        match self {
            Width::B1 => 1,
            Width::B2 => 2,
            Width::B4 => 4,
            Width::B8 => 8,
        }
    }

    /// All ones of this width: what a read that nobody answers returns.
    pub const fn ones(self) -> u64 {
        match self {
            Width::B8 => u64::MAX,
            w => (1 << (w.bytes() * 8)) - 1,
        }
    }
}

/// Guest-visible time since power-on of the machine, in nanoseconds. Handed in, never read from a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SimTime(pub u64);

impl SimTime {
    /// Power-on.
    pub const ZERO: SimTime = SimTime(0);

    /// This time plus `ns` nanoseconds, saturating.
    #[must_use]
    pub const fn after_ns(self, ns: u64) -> SimTime {
        SimTime(self.0.saturating_add(ns))
    }
}

/// SplitMix64: one step of a well-known 64-bit mixer; enough to spread what a seed decides.
pub const fn splitmix64(x: u64) -> u64 {
    let z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// What kind of reset reaches a block; each register's row says which of them it survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ResetKind {
    /// Power applied: everything takes its reset value.
    PowerOn,
    /// The controller's core reset ("pci"/BCR reset of the SoC reset controller).
    Core,
    /// PERST# asserted: fundamental reset of the endpoint.
    Perst,
    /// Hot reset over the link (secondary bus reset).
    HotReset,
    /// The data link layer went down.
    LinkDown,
    /// D3hot to D0 transition without No_Soft_Reset.
    D3HotToD0,
}

/// Levels of a block's named interrupt outputs, one bit a line. Bit meaning is the owner's.
pub type IrqLevels = u64;

/// Guest memory as a block sees it. All accesses are checked; a refusal is a value, not a panic.
pub trait MemPort {
    /// Fill `buf` from guest-physical `addr`. `false`: some byte of the range is not RAM; `buf` is then unspecified.
    fn read(&mut self, addr: u64, buf: &mut [u8]) -> bool;
    /// Store `data` at guest-physical `addr`. `false`: some byte of the range is not RAM.
    fn write(&mut self, addr: u64, data: &[u8]) -> bool;
}

/// A flat RAM for tests and benches, starting at guest-physical `base`.
#[derive(Clone, Debug, Default)]
pub struct VecMem {
    /// Guest-physical address of the first byte.
    pub base: u64,
    /// Contents.
    pub bytes: Vec<u8>,
}

impl VecMem {
    /// Zeroed RAM of `len` bytes at `base`.
    pub fn new(base: u64, len: usize) -> Self {
        VecMem { base, bytes: vec![0; len] }
    }

    fn range(&self, addr: u64, len: usize) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(addr.checked_sub(self.base)?).ok()?;
        let end = start.checked_add(len)?;
        (end <= self.bytes.len()).then_some(start..end)
    }
}

impl MemPort for VecMem {
    fn read(&mut self, addr: u64, buf: &mut [u8]) -> bool {
        let Some(r) = self.range(addr, buf.len()) else { return false };
        buf.copy_from_slice(&self.bytes[r]);
        true
    }

    fn write(&mut self, addr: u64, data: &[u8]) -> bool {
        let Some(r) = self.range(addr, data.len()) else { return false };
        self.bytes[r].copy_from_slice(data);
        true
    }
}

/// What one access, tick or reset may touch, and where it leaves what it has seen.
///
/// `E` is the event type of the model family (the root complex has one: `rc_model::Event`); events are
/// observations for the oracle, never control flow.
pub struct Cx<'a, E> {
    /// The time of this access.
    pub now: SimTime,
    /// Guest memory, for DMA.
    pub mem: &'a mut dyn MemPort,
    /// Observations, in order. The owner drains it after each call and bounds what it keeps.
    pub events: &'a mut Vec<E>,
}

impl<E> Cx<'_, E> {
    /// Record an observation.
    pub fn event(&mut self, e: impl Into<E>) {
        self.events.push(e.into());
    }
}

/// One emulated hardware block.
///
/// `off` is relative to the block's window and always inside it, naturally aligned for `w`. Everything a
/// guest can do is legal input: a block never panics on it and never reports an error to its caller.
pub trait Block<E> {
    /// A guest read. May have side effects (read-to-clear).
    fn read(&mut self, cx: &mut Cx<'_, E>, off: u64, w: Width) -> u64;
    /// A guest write.
    fn write(&mut self, cx: &mut Cx<'_, E>, off: u64, w: Width, v: u64);
    /// When `tick` wants to run next, if at all.
    fn next_deadline(&self) -> Option<SimTime> {
        None
    }
    /// Time has reached `next_deadline` (or later).
    fn tick(&mut self, _cx: &mut Cx<'_, E>) {}
    /// A reset reaches the block.
    fn reset(&mut self, cx: &mut Cx<'_, E>, kind: ResetKind);
    /// Levels of its interrupt outputs: a pure function of state.
    fn irq_levels(&self) -> IrqLevels {
        0
    }
}
