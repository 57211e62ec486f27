//! What the port above sees of a card: a device with its functions, or a switch with more slots.

use block::Cx;
use block::ResetKind;
use block::SimTime;
use block::StateError;
use block::Width;
use serde::Deserialize;
use serde::Serialize;

use crate::Bdf;
use crate::Completion;
use crate::Function;
use crate::FunctionState;
use crate::Outcome;
use crate::Upstream;

/// Functions of a device without ARI.
pub const FUNCTIONS: usize = 8;

/// A configuration request as it arrives over a link: naturally aligned and at most a dword wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConfigRequest {
    /// Whom it is for.
    pub bdf: Bdf,
    /// Type 1: for a bus further down. Type 0: for the device at the end of this link.
    pub type1: bool,
    /// Register, 0–0xfff.
    pub off: u16,
    /// Width.
    pub w: Width,
}

/// Something that happens to a slot of a card that has slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SlotEvent {
    /// The card is pulled, whatever runs at the moment.
    Pull,
    /// The card is put back.
    Insert,
    /// Somebody presses the attention button.
    Press,
}

/// A saved card: one entry for each function or port, in an order of the card's own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CardState {
    /// Functions; for a switch its ports.
    pub functions: Vec<FunctionState>,
    /// Cards in its slots.
    pub cards: Vec<CardState>,
}

/// What is at the end of a link.
pub trait Card<E>: Send {
    /// A configuration read.
    fn config_read(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, r: ConfigRequest) -> Outcome;
    /// A configuration write.
    fn config_write(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        r: ConfigRequest,
        v: u64,
    ) -> Completion;
    /// A memory read that the port above forwarded; `UnsupportedRequest` if nothing claims `addr`.
    fn mem_read(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, addr: u64, w: Width) -> Outcome;
    /// A memory write that the port above forwarded.
    fn mem_write(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        addr: u64,
        w: Width,
        v: u64,
    ) -> Completion;
    /// INTx wires at this end of the link: bit 0 INTA … bit 3 INTD. A function of state.
    fn intx(&self) -> u8;
    /// Memory that enabled BARs claim, as (base, bytes), appended to `out`.
    fn claims(&self, out: &mut Vec<(u64, u64)>);
    /// [`Function::valueless_doorbells`] of all functions that a write reaches, appended to `out`. A layer that counts or changes
    /// writes has none.
    fn valueless_doorbells(&self, _out: &mut Vec<u64>) {}
    /// Where each function's MSIs go while MSI is enabled, appended to `out` in an order that requests do not change.
    fn msi_targets(&self, out: &mut Vec<Option<u64>>);
    /// When `tick` wants to run next.
    fn next_deadline(&self) -> Option<SimTime>;
    /// Time has reached `next_deadline`.
    fn tick(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>);
    /// A reset arrives over the link, or power comes.
    fn reset(&mut self, cx: &mut Cx<'_, E>, kind: ResetKind);
    /// Device-side facts for the oracle, as (item, value). Items begin with `ep` and `path`.
    fn sample(&self, path: &str, out: &mut dyn FnMut(&str, u64));
    /// Something happens to the slot that `path` names: slot numbers, from this card down. `false`: there is no such slot.
    fn slot_event(
        &mut self,
        _cx: &mut Cx<'_, E>,
        _up: &mut dyn Upstream<E>,
        _path: &[u8],
        _e: SlotEvent,
    ) -> bool {
        false
    }
    /// The harness begins a phase of its own, e.g. `rmmod`: what a misbehaving link waits for.
    fn announce(&mut self, _cx: &mut Cx<'_, E>, _up: &mut dyn Upstream<E>, _phase: &str) {}
    /// Everything that decides what the card does next, as plain data.
    fn save(&self) -> CardState;
    /// Take what a card like this one saved.
    fn restore(&mut self, saved: &CardState) -> Result<(), StateError>;
}

/// A device: functions at device number 0.
pub struct Device<E> {
    functions: Vec<(u8, Box<dyn Function<E>>)>,
}

impl<E> std::fmt::Debug for Device<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Device").field("functions", &self.functions.len()).finish()
    }
}

impl<E> Device<E> {
    /// A device of one function.
    pub fn single(function: impl Function<E> + 'static) -> Device<E> {
        Device { functions: vec![(0, Box::new(function))] }
    }

    /// A device of these functions, numbered from 0. At most [`FUNCTIONS`]; the others are not there. With more than one, function 0
    /// says so in its header.
    pub fn new(functions: Vec<Box<dyn Function<E>>>) -> Device<E> {
        let mut functions: Vec<_> = (0..FUNCTIONS as u8).zip(functions).collect();
        if functions.len() > 1 {
            for (_, f) in &mut functions {
                f.make_multifunction();
            }
        }
        Device { functions }
    }

    /// A slot's card of this device.
    pub fn boxed(self) -> Box<dyn Card<E>>
    where
        E: 'static,
    {
        Box::new(self)
    }

    /// The function that a request is for.
    fn target(&mut self, r: ConfigRequest) -> Option<&mut dyn Function<E>> {
        if r.type1 || r.bdf.dev() != 0 {
            return None;
        }
        match self.functions.iter_mut().find(|f| f.0 == r.bdf.func()) {
            Some((_, f)) => Some(f.as_mut()),
            None => None,
        }
    }
}

impl<E> Card<E> for Device<E> {
    fn config_read(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, r: ConfigRequest) -> Outcome {
        match self.target(r) {
            Some(f) => Outcome::ok(f.config_read(cx, up.link_rate(), r.off, r.w)),
            None => Outcome::refused(Completion::UnsupportedRequest, r.w),
        }
    }

    fn config_write(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        r: ConfigRequest,
        v: u64,
    ) -> Completion {
        match self.target(r) {
            Some(f) => {
                f.config_write(cx, up, r.bdf, r.off, r.w, v);
                Completion::Success
            }
            None => Completion::UnsupportedRequest,
        }
    }

    fn mem_read(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, addr: u64, w: Width) -> Outcome {
        for (_, f) in &mut self.functions {
            if f.decodes(addr, w) {
                return f.mem_read(cx, up, addr, w);
            }
        }
        // Function 0 reports for the device what none of its functions claims.
        match self.functions.first_mut() {
            Some((_, f)) => f.mem_read(cx, up, addr, w),
            None => Outcome::refused(Completion::UnsupportedRequest, w),
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
        for (_, f) in &mut self.functions {
            if f.decodes(addr, w) {
                return f.mem_write(cx, up, addr, w, v);
            }
        }
        match self.functions.first_mut() {
            Some((_, f)) => f.mem_write(cx, up, addr, w, v),
            None => Completion::UnsupportedRequest,
        }
    }

    fn intx(&self) -> u8 {
        self.functions.iter().fold(0, |pins, (_, f)| pins | f.intx())
    }

    fn claims(&self, out: &mut Vec<(u64, u64)>) {
        for (_, f) in &self.functions {
            out.extend(f.claims());
        }
    }

    fn valueless_doorbells(&self, out: &mut Vec<u64>) {
        for (n, (_, f)) in self.functions.iter().enumerate() {
            // Of functions that claim the same address the first gets the write.
            let mut its = Vec::new();
            f.valueless_doorbells(&mut its);
            its.retain(|at| !self.functions.iter().take(n).any(|(_, g)| g.decodes(*at, Width::B4)));
            out.extend(its);
        }
    }

    fn msi_targets(&self, out: &mut Vec<Option<u64>>) {
        out.extend(self.functions.iter().map(|(_, f)| f.msi_target()));
    }

    fn next_deadline(&self) -> Option<SimTime> {
        self.functions.iter().filter_map(|(_, f)| f.next_deadline()).min()
    }

    fn tick(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>) {
        for (_, f) in &mut self.functions {
            if f.next_deadline().is_some_and(|d| d <= cx.now) {
                f.tick(cx, up);
            }
        }
    }

    fn reset(&mut self, cx: &mut Cx<'_, E>, kind: ResetKind) {
        for (_, f) in &mut self.functions {
            f.reset(cx, kind);
        }
    }

    fn sample(&self, path: &str, out: &mut dyn FnMut(&str, u64)) {
        for (n, f) in &self.functions {
            let who = if *n == 0 { format!("ep{path}") } else { format!("ep{path}:{n}") };
            f.sample(&mut |item, v| out(&format!("{who}.{item}"), v));
        }
    }

    fn save(&self) -> CardState {
        CardState { functions: self.functions.iter().map(|(_, f)| f.save()).collect(), cards: Vec::new() }
    }

    fn restore(&mut self, saved: &CardState) -> Result<(), StateError> {
        StateError::unless_length("functions", self.functions.len(), saved.functions.len())?;
        StateError::unless_length("slots of a device", 0, saved.cards.len())?;
        self.functions.iter_mut().zip(&saved.functions).try_for_each(|((_, f), s)| f.restore(s))
    }
}

#[cfg(test)]
#[path = "card_test.rs"]
mod tests;
