//! What the port above sees of a function, and what a function sees of the port.

use block::Cx;
use block::ResetKind;
use block::SimTime;
use block::StateError;
use block::Width;

use serde::Deserialize;
use serde::Serialize;

use crate::Bdf;
use crate::Completion;
use crate::ErrorMessage;
use crate::Message;

/// The way up from a function: a port bound to the function's live requester ID.
///
/// The implementation gates every request: function BME (checked by the caller's configuration space,
/// reported here as `bme`), bridge BME, link, inbound iATU, memory. Posted writes keep their order.
pub trait Upstream<E> {
    /// A posted memory write (DMA or MSI: an MSI is nothing else).
    fn mem_write(&mut self, cx: &mut Cx<'_, E>, rid: Bdf, bme: bool, addr: u64, data: &[u8]) -> Completion;
    /// A memory read; on anything but `Success` the contents of `buf` are all ones.
    fn mem_read(&mut self, cx: &mut Cx<'_, E>, rid: Bdf, bme: bool, addr: u64, buf: &mut [u8]) -> Completion;
    /// An MSI: the memory write that carries it. A layer that wants to know which vector it is looks here.
    fn message(&mut self, cx: &mut Cx<'_, E>, from: Sender, vector: u32, m: Message) -> Completion {
        let _ = vector;
        self.mem_write(cx, from.rid, from.bme, m.addr, &m.data.to_le_bytes())
    }
    /// PM_PME: a function that sleeps wants to be woken. It needs no bus mastering.
    fn pme(&mut self, _cx: &mut Cx<'_, E>, _rid: Bdf) {}
    /// The link above this card fails by itself.
    fn fail_link(&mut self, _cx: &mut Cx<'_, E>, _how: LinkFailure) {}
    /// At which rate the link above this card runs, while it is up. What has no link above it has no rate.
    fn link_rate(&self) -> Option<Rate> {
        None
    }
    /// An error message to the root. It needs no bus mastering.
    fn error(&mut self, _cx: &mut Cx<'_, E>, _rid: Bdf, _error: ErrorMessage) {}
}

/// Speed (1 = 2.5 GT/s …) and width of a port or link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Link speed, as LNKCAP.SLS.
    pub speed: u8,
    /// Lanes.
    pub width: u8,
}

impl Rate {
    /// LNKSTA: current link speed and negotiated link width (PCIe §7.5.3.8).
    pub const LNKSTA: u16 = 0x03ff;

    /// What LNKSTA shows of a link that runs at this rate.
    pub fn lnksta(self) -> u16 {
        (u16::from(self.speed & 0xf) | u16::from(self.width) << 4) & Rate::LNKSTA
    }

    /// The rate that LNKSTA shows.
    pub fn of_lnksta(v: u16) -> Rate {
        Rate { speed: (v & 0xf) as u8, width: (v >> 4 & 0x3f) as u8 }
    }
}

/// Who sends a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sender {
    /// Requester ID.
    pub rid: Bdf,
    /// Whether the function may master the bus.
    pub bme: bool,
}

/// How a link fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinkFailure {
    /// The signal is lost; the link trains again.
    Flap,
    /// The card is gone.
    Vanish,
}

/// A completion with data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub status: Completion,
    /// Data, all ones unless successful.
    pub data: u64,
}

impl Outcome {
    /// A successful read of `data`.
    pub const fn ok(data: u64) -> Outcome {
        Outcome { status: Completion::Success, data }
    }

    /// Nobody answered a read of width `w`: `status` with all ones.
    pub const fn refused(status: Completion, w: Width) -> Outcome {
        Outcome { status, data: w.ones() }
    }
}

/// A function's saved state, as the port above keeps it: it knows whose it is, not what is in it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionState {
    /// Which function saved it.
    pub function: String,
    /// Its state, as plain data.
    pub data: serde_json::Value,
}

impl FunctionState {
    /// The state `data` of `function`.
    pub fn new(function: &str, data: &impl Serialize) -> FunctionState {
        // Structs of numbers, lists and options always have a JSON form; a function whose state has none restores nothing.
        let data = serde_json::to_value(data).unwrap_or_default();
        FunctionState { function: function.to_owned(), data }
    }

    /// The data, if `function` saved it.
    pub fn data<'de, T: Deserialize<'de>>(&'de self, function: &'static str) -> Result<T, StateError> {
        StateError::unless_of("endpoint", function, &self.function)?;
        T::deserialize(&self.data).map_err(|e| StateError::Malformed { what: function, why: e.to_string() })
    }
}

/// One PCIe function behind a port (type 0). It captures its bus number from configuration writes.
pub trait Function<E>: Send {
    /// A type-0 configuration read of register `off` (0–0xfff, aligned), over a link that runs at the rate `link`.
    fn config_read(&mut self, cx: &mut Cx<'_, E>, link: Option<Rate>, off: u16, w: Width) -> u64;
    /// A type-0 configuration write, addressed to `bdf` (the function latches bus and device number).
    fn config_write(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        bdf: Bdf,
        off: u16,
        w: Width,
        v: u64,
    );
    /// A memory read that the bridge forwarded; `UnsupportedRequest` if no enabled BAR claims `addr`.
    fn mem_read(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, addr: u64, w: Width) -> Outcome;
    /// A memory write that the bridge forwarded.
    fn mem_write(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        addr: u64,
        w: Width,
        v: u64,
    ) -> Completion;
    /// INTx pins that the function asserts now: bit 0 INTA … bit 3 INTD. A function of state.
    fn intx(&self) -> u8;
    /// Whether an enabled BAR claims an access.
    fn decodes(&self, addr: u64, w: Width) -> bool;
    /// Say in the header that the device has more functions. Before anything else happens.
    fn make_multifunction(&mut self);
    /// Memory that its enabled BARs claim, as (base, bytes).
    fn claims(&self) -> Vec<(u64, u64)> {
        Vec::new()
    }
    /// Doorbells, four bytes each at these addresses, that a write of any value rings in the same way, appended to `out`. The
    /// machine may deliver such a write later, and as one with others.
    fn valueless_doorbells(&self, _out: &mut Vec<u64>) {}
    /// Where its MSIs go, while MSI is enabled.
    fn msi_target(&self) -> Option<u64> {
        None
    }
    /// When `tick` wants to run next.
    fn next_deadline(&self) -> Option<SimTime>;
    /// Time has reached `next_deadline`.
    fn tick(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>);
    /// A reset reaches the function.
    fn reset(&mut self, cx: &mut Cx<'_, E>, kind: ResetKind);
    /// Device-side facts for the oracle, as (item, value): see `rc_model::Sample` for the names, which come without `ep.` here.
    fn sample(&self, out: &mut dyn FnMut(&str, u64));
    /// Everything that decides what the function does next, as plain data.
    fn save(&self) -> FunctionState;
    /// Take what a function like this one saved. Nothing changes if it does not fit.
    fn restore(&mut self, saved: &FunctionState) -> Result<(), StateError>;
}
