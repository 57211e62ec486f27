//! A switch: an upstream port and downstream ports with native hot-plug slots.
//!
//! *Modelled*: the routing of configuration requests by bus number and of memory requests by bridge windows; requests, MSIs, INTx
//! and error messages on their way up; slots with surprise removal, attention button, power control and command completion; link
//! training, link disable, retraining and secondary bus reset of each port; D3hot of the ports. A slot may hold a switch.
//! *Not modelled*: I/O windows, ARI, ACS, DPC, LTR, MRL sensors, power faults, ASPM, PERST# that stays asserted (links below
//! train from its assertion on), surprise down errors (slots may lose their card without notice, PCIe §3.2.1).
//! *Sources*: PCI Express Base Specification §2.2.8.1, §6.2.6, §6.6.1, §6.7, §7.3, §7.5; Linux 6.1, 6.12 and 7.3
//! drivers/pci/hotplug/pciehp_hpc.c and pciehp_ctrl.c for the order of accesses.
//!
//! DEVIATION: requests from one slot to memory of another go up to the root, which refuses them. On silicon the switch routes
//! them to the other port.

mod port;

use block::Cx;
use block::ResetKind;
use block::SimTime;
use block::StateError;
use block::Width;

pub use port::DOWNSTREAM_DEVICE;
pub use port::UPSTREAM_DEVICE;
pub use port::VENDOR;

use crate::Bdf;
use crate::Card;
use crate::CardState;
use crate::Completion;
use crate::ConfigRequest;
use crate::ErrorMessage;
use crate::LinkFailure;
use crate::Outcome;
use crate::Rate;
use crate::SlotEvent;
use crate::Upstream;
use port::Bridge;
use port::Downstream;
use port::SlotKind;

/// Most downstream ports of a switch.
pub const MAX_SLOTS: usize = 8;

/// What is built.
pub struct SwitchSpec<E> {
    /// One downstream port each, with the card that belongs to the slot. 1 to [`MAX_SLOTS`]: more are not there, and a switch of
    /// none has one that is empty.
    pub slots: Vec<Option<Box<dyn Card<E>>>>,
    /// From the last condition of link training to L0.
    pub train_ns: u64,
    /// Whether slots have an attention button, and with it attention and power indicators (PCIe §6.7.1).
    pub attention_button: bool,
    /// Whether slots have a power controller.
    pub power_control: bool,
    /// Whether ports tell of completed commands; if not, they say so (NCCS).
    pub command_completed: bool,
    /// Physical slot number of the first port; the others follow.
    pub first_slot: u16,
}

impl<E> SwitchSpec<E> {
    /// 20 ms of training, completed commands told, neither button nor power controller, slots numbered from 1.
    pub fn new(slots: Vec<Option<Box<dyn Card<E>>>>) -> SwitchSpec<E> {
        SwitchSpec {
            slots,
            train_ns: 20_000_000,
            attention_button: false,
            power_control: false,
            command_completed: true,
            first_slot: 1,
        }
    }
}

/// A downstream port and the card of its slot. A card that was pulled stays here, without power.
struct Slot<E> {
    port: Downstream,
    card: Option<Box<dyn Card<E>>>,
}

/// The switch.
pub struct Switch<E> {
    upstream: Bridge,
    slots: Vec<Slot<E>>,
}

impl<E> std::fmt::Debug for Switch<E> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ports: Vec<_> = self.slots.iter().map(|s| &s.port).collect();
        f.debug_struct("Switch").field("upstream", &self.upstream).field("ports", &ports).finish()
    }
}

/// The internal bus's way up, through the upstream port.
///
/// DEVIATION: a request that a port does not let pass goes on as one that its function may not send: whoever is at the root refuses it
/// for that, and has it in its events.
struct Internal<'a, E> {
    upstream: &'a mut Bridge,
    up: &'a mut dyn Upstream<E>,
}

impl<E> Upstream<E> for Internal<'_, E> {
    fn mem_write(&mut self, cx: &mut Cx<'_, E>, rid: Bdf, bme: bool, addr: u64, data: &[u8]) -> Completion {
        self.up.mem_write(cx, rid, bme && self.upstream.masters(), addr, data)
    }

    fn mem_read(&mut self, cx: &mut Cx<'_, E>, rid: Bdf, bme: bool, addr: u64, buf: &mut [u8]) -> Completion {
        self.up.mem_read(cx, rid, bme && self.upstream.masters(), addr, buf)
    }

    fn pme(&mut self, cx: &mut Cx<'_, E>, rid: Bdf) {
        self.up.pme(cx, rid);
    }

    fn error(&mut self, cx: &mut Cx<'_, E>, rid: Bdf, error: ErrorMessage) {
        if self.upstream.in_d0() && self.upstream.forwards_error(error) {
            self.up.error(cx, rid, error);
        }
    }
}

/// A card's way up, over its link and through its downstream port.
struct Below<'a, 'b, E> {
    port: &'a mut Downstream,
    bus: &'a mut Internal<'b, E>,
}

impl<E> Upstream<E> for Below<'_, '_, E> {
    fn mem_write(&mut self, cx: &mut Cx<'_, E>, rid: Bdf, bme: bool, addr: u64, data: &[u8]) -> Completion {
        if !self.port.link_up() {
            return Completion::Timeout;
        }
        self.bus.mem_write(cx, rid, bme && self.port.bridge().masters(), addr, data)
    }

    fn mem_read(&mut self, cx: &mut Cx<'_, E>, rid: Bdf, bme: bool, addr: u64, buf: &mut [u8]) -> Completion {
        if !self.port.link_up() {
            buf.fill(0xff);
            return Completion::Timeout;
        }
        self.bus.mem_read(cx, rid, bme && self.port.bridge().masters(), addr, buf)
    }

    fn pme(&mut self, cx: &mut Cx<'_, E>, rid: Bdf) {
        if self.port.link_up() {
            self.bus.pme(cx, rid);
        }
    }

    fn fail_link(&mut self, _: &mut Cx<'_, E>, how: LinkFailure) {
        self.port.fail(how);
    }

    fn link_rate(&self) -> Option<Rate> {
        self.port.link_rate()
    }

    fn error(&mut self, cx: &mut Cx<'_, E>, rid: Bdf, error: ErrorMessage) {
        if self.port.passes() && self.port.bridge_mut().forwards_error(error) {
            self.bus.error(cx, rid, error);
        }
    }
}

impl<E> Slot<E> {
    /// After any change of the port: the card learns what happened to its power and its link, the root what it wants to be told.
    fn settle(&mut self, cx: &mut Cx<'_, E>, bus: &mut Internal<'_, E>) {
        let held = bus.upstream.secondary_bus_reset();
        if let (Some(kind), Some(card)) = (self.port.settle(cx.now, held), self.card.as_mut()) {
            card.reset(cx, kind);
        }
        if let Some(m) = self.port.refresh() {
            let (rid, masters) = (self.port.bridge().bdf(), self.port.bridge().masters());
            bus.mem_write(cx, rid, masters, m.addr, &m.data.to_le_bytes());
        }
        if self.port.wakes() {
            bus.pme(cx, self.port.bridge().bdf());
        }
    }

    /// The card has had its turn: it may have made its link fail.
    fn follow(&mut self, cx: &mut Cx<'_, E>, bus: &mut Internal<'_, E>) {
        if self.port.failed() {
            self.settle(cx, bus);
        }
    }

    /// The switch resets the port.
    fn reset(&mut self, cx: &mut Cx<'_, E>, kind: ResetKind, held: bool) {
        let kind = self.port.reset(cx.now, kind, held);
        if let Some(card) = self.card.as_mut() {
            card.reset(cx, kind);
        }
    }

    fn tick(&mut self, cx: &mut Cx<'_, E>, bus: &mut Internal<'_, E>) {
        self.port.tick(cx.now);
        self.settle(cx, bus);
        let powered = self.port.powered();
        if let Some(card) = self.card.as_mut().filter(|_| powered) {
            if card.next_deadline().is_some_and(|d| d <= cx.now) {
                card.tick(cx, &mut Below { port: &mut self.port, bus });
            }
        }
        self.follow(cx, bus);
    }

    fn next_deadline(&self) -> Option<SimTime> {
        let card = self.card.as_ref().filter(|_| self.port.powered()).and_then(|c| c.next_deadline());
        [self.port.next_deadline(), card].into_iter().flatten().min()
    }

    /// The card with its way up, if requests reach it.
    fn reach<'a, 'b>(
        &'a mut self,
        bus: &'a mut Internal<'b, E>,
    ) -> Option<(&'a mut dyn Card<E>, Below<'a, 'b, E>)> {
        let card = self.card.as_mut().filter(|_| self.port.passes())?;
        Some((card.as_mut(), Below { port: &mut self.port, bus }))
    }

    /// INTx wires on the internal bus's side of the port. The card is device 0 of its bus, so the port turns nothing; wires of a link
    /// that is down are not asserted (PCIe §2.2.8.1).
    fn intx(&self) -> u8 {
        let card = self.card.as_ref().filter(|_| self.port.passes()).map_or(0, |c| c.intx());
        self.port.intx() | card
    }
}

/// Whom a configuration request is for.
enum Target {
    Upstream,
    /// The downstream port of this number.
    Port(usize),
    /// The bus below this port, type 1 or 0 as given.
    Below(usize, bool),
    Nobody,
}

impl<E> Switch<E> {
    /// Out of power-on reset at time 0.
    pub fn new(spec: SwitchSpec<E>) -> Switch<E> {
        let SwitchSpec {
            mut slots,
            train_ns,
            attention_button,
            power_control,
            command_completed,
            first_slot,
        } = spec;
        if slots.is_empty() {
            slots.push(None);
        }
        let slot = |(n, card): (u8, Option<Box<dyn Card<E>>>)| {
            let number = first_slot.wrapping_add(u16::from(n));
            let kind = SlotKind { attention_button, power_control, command_completed, number };
            Slot { port: Downstream::new(n + 1, kind, train_ns, card.is_some()), card }
        };
        Switch { upstream: Bridge::upstream(), slots: (0..MAX_SLOTS as u8).zip(slots).map(slot).collect() }
    }

    /// A slot's card of this switch.
    pub fn boxed(self) -> Box<dyn Card<E>>
    where
        E: 'static,
    {
        Box::new(self)
    }

    /// Whether the upstream port holds the internal bus in reset.
    fn held(&self) -> bool {
        self.upstream.secondary_bus_reset()
    }

    /// PCIe §7.3.3: a type 1 request for the bus right below a port becomes one of type 0. There, without ARI, a downstream port knows
    /// device 0 only (§7.3.1).
    fn target(&self, r: ConfigRequest) -> Target {
        let bus = r.bdf.bus();
        if !r.type1 {
            let it = r.bdf.dev() == 0 && r.bdf.func() == 0;
            return if it { Target::Upstream } else { Target::Nobody };
        }
        if !self.upstream.has_below(bus) || self.held() {
            return Target::Nobody;
        }
        if bus == self.upstream.secondary_bus() {
            let n = usize::from(r.bdf.dev());
            let it = n < self.slots.len() && r.bdf.func() == 0;
            return if it { Target::Port(n) } else { Target::Nobody };
        }
        let Some(n) = self.slots.iter().position(|s| s.port.bridge().has_below(bus)) else {
            return Target::Nobody;
        };
        let type1 = bus != self.slots[n].port.bridge().secondary_bus();
        if !type1 && r.bdf.dev() != 0 {
            return Target::Nobody;
        }
        Target::Below(n, type1)
    }

    /// The slot that a memory request from above is for.
    fn window(&self, addr: u64) -> Option<usize> {
        if !self.upstream.forwards_mem(addr) || self.held() {
            return None;
        }
        self.slots.iter().position(|s| s.port.bridge().forwards_mem(addr))
    }

    /// Nobody takes a request: the upstream port reports it.
    fn unsupported(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, posted: bool) -> Completion {
        if let Some(message) = self.upstream.unsupported(posted) {
            up.error(cx, self.upstream.bdf(), message);
        }
        Completion::UnsupportedRequest
    }

    /// Slot `n` with the internal bus.
    fn slot<'a>(
        &'a mut self,
        up: &'a mut dyn Upstream<E>,
        n: usize,
    ) -> Option<(&'a mut Slot<E>, Internal<'a, E>)> {
        let slot = self.slots.get_mut(n)?;
        Some((slot, Internal { upstream: &mut self.upstream, up }))
    }

    /// A write to the upstream port. The edge of SBR resets the internal bus (PCIe §7.5.1.3.13).
    fn write_upstream(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, r: ConfigRequest, v: u64) {
        let was_held = self.held();
        self.upstream.write(r.bdf, r.off, r.w, v);
        let held = self.held();
        for n in 0..self.slots.len() {
            let Some((slot, mut bus)) = self.slot(up, n) else { continue };
            if held && !was_held {
                slot.reset(cx, ResetKind::HotReset, true);
            }
            slot.settle(cx, &mut bus);
        }
    }
}

impl<E> Card<E> for Switch<E> {
    fn config_read(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, r: ConfigRequest) -> Outcome {
        match self.target(r) {
            Target::Upstream => Outcome::ok(self.upstream.read(up.link_rate(), r.off, r.w)),
            Target::Port(n) => Outcome::ok(self.slots[n].port.bridge().read(None, r.off, r.w)),
            Target::Below(n, type1) => {
                let Some((slot, mut bus)) = self.slot(up, n) else {
                    return Outcome::refused(Completion::UnsupportedRequest, r.w);
                };
                let got = match slot.reach(&mut bus) {
                    Some((card, mut up)) => card.config_read(cx, &mut up, ConfigRequest { type1, ..r }),
                    None => Outcome::refused(Completion::UnsupportedRequest, r.w),
                };
                slot.follow(cx, &mut bus);
                got
            }
            Target::Nobody => Outcome::refused(self.unsupported(cx, up, false), r.w),
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
            Target::Upstream => {
                self.write_upstream(cx, up, r, v);
                Completion::Success
            }
            Target::Port(n) => {
                if let Some((slot, mut bus)) = self.slot(up, n) {
                    slot.port.write(cx.now, r.bdf, r.off, r.w, v);
                    slot.settle(cx, &mut bus);
                }
                Completion::Success
            }
            Target::Below(n, type1) => {
                let Some((slot, mut bus)) = self.slot(up, n) else { return Completion::UnsupportedRequest };
                let status = match slot.reach(&mut bus) {
                    Some((card, mut up)) => card.config_write(cx, &mut up, ConfigRequest { type1, ..r }, v),
                    None => Completion::UnsupportedRequest,
                };
                slot.follow(cx, &mut bus);
                status
            }
            Target::Nobody => self.unsupported(cx, up, false),
        }
    }

    fn mem_read(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, addr: u64, w: Width) -> Outcome {
        let Some(n) = self.window(addr) else {
            return Outcome::refused(self.unsupported(cx, up, false), w);
        };
        let Some((slot, mut bus)) = self.slot(up, n) else {
            return Outcome::refused(Completion::UnsupportedRequest, w);
        };
        let got = match slot.reach(&mut bus) {
            Some((card, mut up)) => card.mem_read(cx, &mut up, addr, w),
            None => Outcome::refused(Completion::UnsupportedRequest, w),
        };
        slot.follow(cx, &mut bus);
        got
    }

    fn mem_write(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        addr: u64,
        w: Width,
        v: u64,
    ) -> Completion {
        let Some(n) = self.window(addr) else { return self.unsupported(cx, up, true) };
        let Some((slot, mut bus)) = self.slot(up, n) else { return Completion::UnsupportedRequest };
        let status = match slot.reach(&mut bus) {
            Some((card, mut up)) => card.mem_write(cx, &mut up, addr, w, v),
            None => Completion::UnsupportedRequest,
        };
        slot.follow(cx, &mut bus);
        status
    }

    fn intx(&self) -> u8 {
        if !self.upstream.in_d0() {
            return 0;
        }
        // Pin p of device d on the internal bus is pin (p + d) mod 4 above it (PCIe §2.2.8.1).
        self.slots.iter().enumerate().fold(0, |wires, (d, s)| {
            let pins = s.intx() & 0xf;
            let by = d % 4;
            wires | (pins << by | pins >> (4 - by)) & 0xf
        })
    }

    fn claims(&self, out: &mut Vec<(u64, u64)>) {
        for card in self.slots.iter().filter_map(|s| s.card.as_ref()) {
            card.claims(out);
        }
    }

    fn valueless_doorbells(&self, out: &mut Vec<u64>) {
        for (n, s) in self.slots.iter().enumerate() {
            let Some(card) = s.card.as_ref().filter(|_| s.port.passes()) else { continue };
            let mut its = Vec::new();
            card.valueless_doorbells(&mut its);
            out.extend(its.into_iter().filter(|at| self.window(*at) == Some(n)));
        }
    }

    fn msi_targets(&self, out: &mut Vec<Option<u64>>) {
        for s in &self.slots {
            out.push(s.port.msi_target());
            if let Some(card) = &s.card {
                card.msi_targets(out);
            }
        }
    }

    fn next_deadline(&self) -> Option<SimTime> {
        self.slots.iter().filter_map(Slot::next_deadline).min()
    }

    fn tick(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>) {
        for n in 0..self.slots.len() {
            if let Some((slot, mut bus)) = self.slot(up, n) {
                slot.tick(cx, &mut bus);
            }
        }
    }

    fn reset(&mut self, cx: &mut Cx<'_, E>, kind: ResetKind) {
        self.upstream.reset(kind);
        for slot in &mut self.slots {
            slot.reset(cx, kind, false);
        }
    }

    /// Items of the switch begin with `sw` and the path, those of the card in slot `k` have `/k` behind the path.
    fn sample(&self, path: &str, out: &mut dyn FnMut(&str, u64)) {
        out(&format!("sw{path}.command"), self.upstream.command().into());
        for (k, s) in self.slots.iter().enumerate() {
            s.port.sample(&mut |item, v| out(&format!("sw{path}.port[{k}].{item}"), v));
            if let Some(card) = &s.card {
                card.sample(&format!("{path}/{k}"), out);
            }
        }
    }

    /// A slot without a card of its own stays empty whatever happens; one without a button ignores that it is pressed.
    fn slot_event(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        path: &[u8],
        e: SlotEvent,
    ) -> bool {
        let Some((n, rest)) = path.split_first() else { return false };
        let Some((slot, mut bus)) = self.slot(up, usize::from(*n)) else { return false };
        if !rest.is_empty() {
            let Some(card) = slot.card.as_mut() else { return false };
            let done = card.slot_event(cx, &mut Below { port: &mut slot.port, bus: &mut bus }, rest, e);
            slot.follow(cx, &mut bus);
            return done;
        }
        match e {
            SlotEvent::Pull => slot.port.pull(),
            SlotEvent::Insert if slot.card.is_some() => slot.port.insert(),
            SlotEvent::Insert => {}
            SlotEvent::Press => slot.port.press(),
        }
        slot.settle(cx, &mut bus);
        true
    }

    fn announce(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, phase: &str) {
        for n in 0..self.slots.len() {
            let Some((slot, mut bus)) = self.slot(up, n) else { continue };
            if let Some(card) = slot.card.as_mut() {
                card.announce(cx, &mut Below { port: &mut slot.port, bus: &mut bus }, phase);
            }
            slot.follow(cx, &mut bus);
        }
    }

    fn save(&self) -> CardState {
        let ports = self.slots.iter().map(|s| s.port.save());
        CardState {
            functions: std::iter::once(self.upstream.save()).chain(ports).collect(),
            cards: self.slots.iter().filter_map(|s| s.card.as_ref()).map(|c| c.save()).collect(),
        }
    }

    fn restore(&mut self, saved: &CardState) -> Result<(), StateError> {
        StateError::unless_length("ports", self.slots.len() + 1, saved.functions.len())?;
        let cards = self.slots.iter().filter(|s| s.card.is_some()).count();
        StateError::unless_length("cards in slots", cards, saved.cards.len())?;
        let mut upstream = self.upstream.clone();
        let mut ports = Vec::new();
        if let Some((first, rest)) = saved.functions.split_first() {
            upstream.restore(first)?;
            for (slot, state) in self.slots.iter().zip(rest) {
                let mut port = slot.port.clone();
                port.restore(state, slot.card.is_some())?;
                ports.push(port);
            }
        }
        let cards = self.slots.iter_mut().filter_map(|s| s.card.as_mut());
        cards.zip(&saved.cards).try_for_each(|(card, state)| card.restore(state))?;
        self.upstream = upstream;
        self.slots.iter_mut().zip(ports).for_each(|(slot, port)| slot.port = port);
        Ok(())
    }
}

#[cfg(test)]
mod bench;
#[cfg(test)]
mod routing_test;
#[cfg(test)]
mod slot_test;
