//! The root complex as the bus sees it: windows in, levels and events out.
//!
//! *Modelled*: clock and reset gating of each window, outbound routing to the card, propagation of PERST#,
//! link loss and hot reset, the INTx wires, the oracle's sampling points.
//! *Not modelled*: the abort itself ([`RootComplex::aborted`] tells the owner to inject one).
//! *Sources*: spec/dwc-qcom-registers.md §2.1, §3, §4.5, §5.1.
//!
//! One access is: let due time pass, sample if a new life begins, gate, dispatch, settle the link. Levels are
//! computed on demand from state ([`RootComplex::irq_levels`]).

mod controller;
mod observer;
mod sampling;
mod slot;
mod state;
mod upstream;

pub use slot::Slot;

use std::collections::BTreeMap;

use block::Cx;
use block::IrqLevels;
use block::ResetKind;
use block::SimTime;
use block::Width;
use pcie::Bdf;
use pcie::Card;
use pcie::Completion;
use pcie::ConfigRequest;
use pcie::LinkFailure;
use pcie::Outcome;
use pcie::Rate;

use crate::dbi::ras_des::Count;
use crate::event::Effect;
use crate::event::Event;
use crate::iatu::Outbound;
use crate::sample::Sample;
use crate::sample::SamplePoint;
use crate::soc::Soc;
use crate::soc::Window;
use crate::wrapper::Kind as Vendor;
use controller::Controller;
use observer::Kind;

pub use state::State;

/// What is built.
pub struct Config {
    /// Which SoC's root complex.
    pub soc: &'static Soc,
    /// The card behind the port, if the slot is occupied.
    pub card: Option<Box<dyn Card<Event>>>,
    /// What is in the slot at power-on; without a card it is empty whatever this says.
    pub slot: Slot,
    /// How many configuration requests the card answers with RRS after each reset.
    pub rrs_count: u32,
    /// What the card's side of the link can do.
    pub endpoint_rate: Rate,
    /// From the last condition of link training to L0.
    pub train_ns: u64,
    /// Whether an access to a block that stands still aborts, as on silicon (spec §2.1), instead of reading all ones.
    pub strict: bool,
    /// Whether INT_ALL_MASK bits 30:23 gate the msiN lines (spec §2.2.2: silicon differs per SoC).
    pub msi_gating: bool,
    /// Address of the GITS_TRANSLATER that takes MSIs, where the device tree has a `msi-map`; iMSI-RX is then idle (spec §1.2).
    pub its_translater: Option<u64>,
}

impl Config {
    /// A port of `soc`: gen 3 x1, 20 ms of training, MSI lines not gated by PARF.
    pub fn new(soc: &'static Soc, card: Option<Box<dyn Card<Event>>>) -> Config {
        Config {
            soc,
            card,
            slot: Slot::Present,
            rrs_count: 0,
            endpoint_rate: Rate { speed: 3, width: 1 },
            train_ns: 20_000_000,
            strict: false,
            msi_gating: false,
            its_translater: None,
        }
    }
}

/// The root complex with its providers and the card behind it.
pub struct RootComplex {
    port: Controller,
    card: Option<Box<dyn Card<Event>>>,
    rrs_count: u32,
    /// Configuration requests that the card will still answer with RRS.
    rrs_left: u32,
    /// Requests that will still get no completion.
    lost_completions: u32,
    strict: bool,
    /// The last access met a block that stands still.
    gated: bool,
}

impl std::fmt::Debug for RootComplex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RootComplex").field("port", &self.port).field("card", &self.card.is_some()).finish()
    }
}

/// Where an access goes that may be one to ECAM: bus 0 is the port alone, which is DBI; nothing: nobody answers.
fn ecam(win: Window, off: u64) -> Option<(Window, u64)> {
    let bdf = Bdf((off >> 12) as u16);
    match win {
        Window::Ecam if bdf.bus() == 0 => (bdf == Bdf::new(0, 0, 0)).then_some((Window::Dbi, off & 0xfff)),
        _ => Some((win, off)),
    }
}

/// Why a downstream request ended nowhere.
type Unrouted = &'static str;

impl RootComplex {
    /// After power-on.
    pub fn new(config: Config) -> RootComplex {
        let port = Controller::new(&config);
        RootComplex {
            port,
            card: config.card,
            rrs_count: config.rrs_count,
            rrs_left: config.rrs_count,
            lost_completions: 0,
            strict: config.strict,
            gated: false,
        }
    }

    /// What the last call wants done outside, in order.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.port.effects)
    }

    /// A guest read of `w` at `off` of `win`.
    pub fn read(&mut self, cx: &mut Cx<'_, Event>, win: Window, off: u64, w: Width) -> u64 {
        if off & (w.bytes() - 1) != 0 {
            return self.read_unaligned(cx, win, off, w);
        }
        if !self.begin(cx, win, off, w, false) {
            return w.ones();
        }
        let Some((win, off)) = ecam(win, off) else { return w.ones() };
        if let Some(why) = self.port.gate(win) {
            self.port.gated(cx, win, off, false, why);
            self.gated = true;
            return w.ones();
        }
        match win {
            Window::Config | Window::Mem | Window::Ecam => {
                let got = self.read_downstream(cx, win, off, w);
                // What came back may have been an error that DPC contains.
                self.settle(cx);
                got.unwrap_or_else(|why| {
                    self.port.unrouted(cx, win, off, false, why);
                    w.ones()
                })
            }
            Window::Apb => self.port.read_client(cx.now, self.card_intx(), off, w),
            _ => self.port.read(cx.now, win, off, w),
        }
    }

    /// A guest write of `w` at `off` of `win`.
    pub fn write(&mut self, cx: &mut Cx<'_, Event>, win: Window, off: u64, w: Width, v: u64) {
        if off & (w.bytes() - 1) != 0 {
            return self.write_unaligned(cx, win, off, w, v);
        }
        if !self.begin(cx, win, off, w, true) {
            return;
        }
        let Some((win, off)) = ecam(win, off) else { return };
        if let Some(why) = self.port.gate(win) {
            self.port.gated(cx, win, off, true, why);
            self.gated = true;
            return;
        }
        match win {
            Window::Config | Window::Mem | Window::Ecam => {
                // Memory writes do not change what the card claims.
                let before = (win != Window::Mem).then(|| self.card_claims());
                let put = self.write_downstream(cx, win, off, w, v);
                if let Some(what) = before.and_then(|b| self.card_flaw(b)) {
                    self.port.bad_input(cx, what, win, off, true);
                }
                self.settle(cx);
                if let Err(why) = put {
                    self.port.unrouted(cx, win, off, true, why);
                }
            }
            Window::Gpio => self.write_gpio(cx, off, w, v),
            Window::Reset => self.write_reset(cx, off, w, v),
            _ => {
                self.port.write(cx.now, win, off, w, v);
                if let Some(what) = self.port.flaw(win, off, w) {
                    self.port.bad_input(cx, what, win, off, true);
                }
                self.settle(cx);
            }
        }
    }

    /// An access that is not aligned arrives as its bytes, lowest first; those outside the window read ones and write nothing.
    fn read_unaligned(&mut self, cx: &mut Cx<'_, Event>, win: Window, off: u64, w: Width) -> u64 {
        self.port.bad_input(cx, "unaligned", win, off, false);
        let (mut v, mut gated) = (0, false);
        for i in 0..w.bytes() {
            v |= self.read(cx, win, off.saturating_add(i), Width::B1) << (8 * i);
            gated |= self.gated;
        }
        self.gated = gated;
        v
    }

    fn write_unaligned(&mut self, cx: &mut Cx<'_, Event>, win: Window, off: u64, w: Width, v: u64) {
        self.port.bad_input(cx, "unaligned", win, off, true);
        let mut gated = false;
        for i in 0..w.bytes() {
            self.write(cx, win, off.saturating_add(i), Width::B1, v >> (8 * i) & 0xff);
            gated |= self.gated;
        }
        self.gated = gated;
    }

    /// Whether the last access ended in an external abort. Only a strict machine has any.
    pub fn aborted(&self) -> bool {
        self.strict && self.gated
    }

    /// Whether the last access reached a block without clock or in reset. Unlike the event this has no budget.
    pub fn gated(&self) -> bool {
        self.gated
    }

    /// When [`RootComplex::tick`] wants to run next.
    pub fn next_deadline(&self) -> Option<SimTime> {
        let card = self.card.as_ref().and_then(|c| c.next_deadline());
        [self.port.link.next_deadline(), card].into_iter().flatten().min()
    }

    /// Time has reached [`RootComplex::next_deadline`].
    pub fn tick(&mut self, cx: &mut Cx<'_, Event>) {
        self.advance(cx);
    }

    /// Offsets in [`Window::Mem`] of doorbells that a write of any value rings in the same way: a function of state. Their writes
    /// may be collected elsewhere and handed to [`RootComplex::ring`].
    pub fn doorbells(&self) -> Vec<u64> {
        let mut at = Vec::new();
        if let Some(card) = self.card.as_ref().filter(|_| self.port.gate(Window::Mem).is_none()) {
            card.valueless_doorbells(&mut at);
        }
        at.into_iter().filter_map(|addr| self.source(addr)).collect()
    }

    /// Where in [`Window::Mem`] a write of a dword goes to PCI address `addr`.
    fn source(&self, addr: u64) -> Option<u64> {
        let (base, len) = self.soc().window(Window::Mem);
        let reaches = |off: &u64| self.route(Window::Mem, *off, Width::B4) == Ok(Outbound::Mem(addr));
        let direct = std::iter::once(addr);
        let offs = self.port.iatu.sources(addr).chain(direct).filter_map(|cpu| cpu.checked_sub(base));
        offs.filter(|off| off.checked_add(4).is_some_and(|end| end <= len)).find(reaches)
    }

    /// The doorbell at this offset of [`Window::Mem`] was written. If it is none any more, the write is lost.
    pub fn ring(&mut self, cx: &mut Cx<'_, Event>, off: u64) {
        if self.doorbells().contains(&off) {
            self.write(cx, Window::Mem, off, Width::B4, 0);
        }
    }

    /// Levels of the interrupt outputs, bits as in [`crate::soc`]: a function of state.
    pub fn irq_levels(&self) -> IrqLevels {
        self.port.levels(self.card_intx())
    }

    fn card_intx(&self) -> u8 {
        self.card.as_ref().map_or(0, |c| c.intx())
    }

    /// Which SoC this is.
    pub fn soc(&self) -> &'static Soc {
        self.port.soc()
    }

    /// Take a sample. S4 says that a life is over: the next access begins a new one and is preceded by S5.
    pub fn sample(&mut self, now: SimTime, point: SamplePoint) -> Sample {
        if point == SamplePoint::S4 {
            self.port.observer.s5_armed = true;
        }
        self.sample_now(now, point)
    }

    /// Power applied to the machine: everything takes its reset value.
    pub fn power_on_reset(&mut self, cx: &mut Cx<'_, Event>) {
        self.gated = false;
        self.port.power_on(cx);
        self.reset_card(cx, ResetKind::PowerOn);
    }

    /// What precedes every access. Returns whether the window holds all of it.
    fn begin(&mut self, cx: &mut Cx<'_, Event>, win: Window, off: u64, w: Width, write: bool) -> bool {
        self.gated = false;
        self.advance(cx);
        if self.port.observer.s5_armed {
            self.port.observer.begin_life();
            let sample = self.sample_now(cx.now, SamplePoint::S5);
            self.port.observer.emit(cx, Kind::Sample, || Event::Sampled(sample));
        }
        if self.port.observer.after_s3 && self.port.clocked(win) {
            self.port.observer.counts.after_s3 += 1;
        }
        let fits = off.checked_add(w.bytes()).is_some_and(|end| end <= self.soc().window(win).1);
        if !fits {
            self.port.bad_input(cx, "past-the-end", win, off, write);
        }
        fits
    }

    fn advance(&mut self, cx: &mut Cx<'_, Event>) {
        if self.port.link.next_deadline().is_some_and(|d| d <= cx.now) && self.port.advance(cx) {
            self.link_lost(cx);
        }
        if let Some(card) = self.card.as_mut() {
            if card.next_deadline().is_some_and(|d| d <= cx.now) {
                card.tick(cx, &mut self.port);
                self.settle(cx);
            }
        }
    }

    fn settle(&mut self, cx: &mut Cx<'_, Event>) {
        match self.port.failure.take() {
            Some(LinkFailure::Flap) => self.lose_link(cx),
            Some(LinkFailure::Vanish) => self.change_slot(cx, Slot::Absent),
            None => {}
        }
        if self.port.settle(cx) {
            self.link_lost(cx);
        }
    }

    fn link_lost(&mut self, cx: &mut Cx<'_, Event>) {
        // PERST# has reset the card already, and harder.
        if self.port.gpio.perst() {
            return;
        }
        let hot = self.port.dbi.secondary_bus_reset();
        self.reset_card(cx, if hot { ResetKind::HotReset } else { ResetKind::LinkDown });
    }

    fn reset_card(&mut self, cx: &mut Cx<'_, Event>, kind: ResetKind) {
        self.rrs_left = self.rrs_count;
        if let Some(card) = self.card.as_mut() {
            card.reset(cx, kind);
        }
    }

    /// PERST#, clocks and supplies. Evidence is taken before the edge that erases it (spec §4.5).
    fn write_gpio(&mut self, cx: &mut Cx<'_, Event>, off: u64, w: Width, v: u64) {
        let mut next = self.port.gpio.clone();
        next.write(off, w, v);
        let perst_change = self.port.gpio.perst() != next.perst();
        let perst_falls = perst_change && next.perst();
        let clocks_change = self.port.gpio.clocks_on() != next.clocks_on();
        if clocks_change && !next.clocks_on() {
            self.emit_sample(cx, SamplePoint::S3);
        }
        let before = perst_falls.then(|| self.emit_sample(cx, SamplePoint::S1));

        let held = self.port.held().is_some();
        self.port.gpio = next;
        let lost_power = !held && self.port.held() == Some("supply");
        if clocks_change {
            let on = self.port.gpio.clocks_on();
            self.port.observer.after_s3 = !on;
            self.port.observer.emit(cx, Kind::Edge, || Event::Clocks { on });
        }
        if perst_change {
            self.port.observer.emit(cx, Kind::Edge, || Event::Perst { asserted: perst_falls });
        }
        if perst_falls {
            self.reset_card(cx, ResetKind::Perst);
        }
        self.settle(cx);
        if lost_power {
            self.port.reset_core(ResetKind::PowerOn);
        }
        if let Some(endpoint) = before {
            let sample = sampling::sample(&self.port, cx.now, SamplePoint::S2, endpoint);
            self.port.observer.emit(cx, Kind::Sample, || Event::Sampled(sample));
        }
    }

    fn write_reset(&mut self, cx: &mut Cx<'_, Event>, off: u64, w: Width, v: u64) {
        let was = self.port.resets.core();
        self.port.write(cx.now, Window::Reset, off, w, v);
        self.settle(cx);
        if !was && self.port.resets.core() {
            self.port.reset_core(ResetKind::Core);
        }
    }

    fn card_items(&self) -> BTreeMap<String, u64> {
        let mut items = BTreeMap::new();
        if let Some(card) = &self.card {
            card.sample("", &mut |name, v| {
                items.insert(name.to_owned(), v);
            });
        }
        items
    }

    fn sample_now(&self, now: SimTime, point: SamplePoint) -> Sample {
        sampling::sample(&self.port, now, point, self.card_items())
    }

    /// Emit a sample and return the card's items in it.
    fn emit_sample(&mut self, cx: &mut Cx<'_, Event>, point: SamplePoint) -> BTreeMap<String, u64> {
        let sample = self.sample_now(cx.now, point);
        self.port.observer.emit(cx, Kind::Sample, || Event::Sampled(sample));
        self.card_items()
    }

    /// Where an outbound access goes, as far as the port decides it.
    fn route(&self, win: Window, off: u64, w: Width) -> Result<Outbound, Unrouted> {
        let cpu_addr = self.soc().window(win).0 + off;
        let to = match win {
            Window::Ecam if self.soc().wrapper.kind == Vendor::QcomFirmware => {
                let bdf = Bdf((off >> 12) as u16);
                let type1 = bdf.bus() != self.port.dbi.secondary_bus();
                Outbound::Cfg { bdf, reg: (off & 0xfff) as u16, type1 }
            }
            // INFERRED: firmware's window maps one to one.
            _ if self.soc().wrapper.kind == Vendor::QcomFirmware => Outbound::Mem(cpu_addr),
            _ => self.port.iatu.outbound(cpu_addr, w.bytes()).ok_or("no-window")?,
        };
        if !self.port.link.up() {
            return Err("link-down");
        }
        match to {
            Outbound::Cfg { bdf, type1, .. } if !self.port.dbi.forwards_config(bdf.bus(), type1) => {
                Err("no-function")
            }
            Outbound::Mem(addr) if !self.port.dbi.forwards_mem(addr) => Err("bridge"),
            // The functions have no I/O BARs.
            Outbound::Io(_) => Err("no-function"),
            _ => Ok(to),
        }
    }

    fn read_downstream(
        &mut self,
        cx: &mut Cx<'_, Event>,
        win: Window,
        off: u64,
        w: Width,
    ) -> Result<u64, Unrouted> {
        let to = self.route(win, off, w)?;
        match to {
            Outbound::Mem(_) => self.port.dbi.count(Count::TxMemoryRead),
            Outbound::Cfg { .. } => self.port.dbi.count(Count::TxConfigRead),
            Outbound::Io(_) | Outbound::Msg(_) => {}
        }
        if let (Outbound::Cfg { reg, .. }, true) = (to, self.retries(to)) {
            return Ok(self.port.dbi.rrs_data(reg, w));
        }
        self.complete()?;
        let card = self.card.as_mut().ok_or("no-function")?;
        let up = &mut self.port;
        let got = match to {
            // A configuration request carries one dword.
            Outbound::Cfg { bdf, reg, type1 } if w == Width::B8 => {
                let half = |off| ConfigRequest { bdf, type1, off, w: Width::B4 };
                let low = card.config_read(cx, up, half(reg));
                let high = card.config_read(cx, up, half(reg + 4));
                Outcome { data: low.data | high.data << 32, ..low }
            }
            Outbound::Cfg { bdf, reg, type1 } => {
                card.config_read(cx, up, ConfigRequest { bdf, type1, off: reg, w })
            }
            Outbound::Mem(addr) => card.mem_read(cx, up, addr, w),
            // A message has no completion to carry data.
            Outbound::Io(_) | Outbound::Msg(_) => return Err("no-function"),
        };
        match (got.status, to) {
            (Completion::Success, _) => {
                self.port.dbi.received_tlp();
                Ok(got.data)
            }
            (Completion::Retry, Outbound::Cfg { reg, .. }) => Ok(self.port.dbi.rrs_data(reg, w)),
            (Completion::Timeout, _) => Err(self.timed_out()),
            _ => Err(self.unsupported()),
        }
    }

    /// Whether the card answers this request with RRS (PCIe §2.3.1): it may, after a reset, to configuration requests.
    fn retries(&mut self, to: Outbound) -> bool {
        let retries = matches!(to, Outbound::Cfg { .. }) && self.rrs_left > 0;
        self.rrs_left -= u32::from(retries);
        retries
    }

    /// Whether a request that wants a completion gets one.
    fn complete(&mut self) -> Result<(), Unrouted> {
        if self.lost_completions == 0 {
            return Ok(());
        }
        self.lost_completions -= 1;
        Err(self.timed_out())
    }

    fn timed_out(&mut self) -> Unrouted {
        self.port.dbi.completion_timeout();
        "timeout"
    }

    /// The card answered with unsupported request.
    fn unsupported(&mut self) -> Unrouted {
        self.port.dbi.received_unsupported();
        "no-function"
    }

    fn write_downstream(
        &mut self,
        cx: &mut Cx<'_, Event>,
        win: Window,
        off: u64,
        w: Width,
        v: u64,
    ) -> Result<(), Unrouted> {
        let to = self.route(win, off, w)?;
        if let Outbound::Msg(code) = to {
            self.port.send_message(cx.now, code);
            return Ok(());
        }
        if matches!(to, Outbound::Mem(_)) {
            self.port.dbi.count(Count::TxMemoryWrite);
        } else {
            self.port.dbi.count(Count::TxConfigWrite);
            if self.retries(to) {
                return Ok(());
            }
            self.complete()?;
        }
        let card = self.card.as_mut().ok_or("no-function")?;
        let up = &mut self.port;
        let status = match to {
            Outbound::Cfg { bdf, reg, type1 } if w == Width::B8 => {
                let half = |off| ConfigRequest { bdf, type1, off, w: Width::B4 };
                card.config_write(cx, up, half(reg), v & 0xffff_ffff);
                card.config_write(cx, up, half(reg + 4), v >> 32)
            }
            Outbound::Cfg { bdf, reg, type1 } => {
                card.config_write(cx, up, ConfigRequest { bdf, type1, off: reg, w }, v)
            }
            Outbound::Mem(addr) => card.mem_write(cx, up, addr, w, v),
            Outbound::Io(_) | Outbound::Msg(_) => return Err("no-function"),
        };
        match (status, to) {
            (Completion::Success | Completion::Retry, _) => Ok(()),
            (Completion::Timeout, Outbound::Cfg { .. }) => Err(self.timed_out()),
            _ => Err("no-function"),
        }
    }

    /// Whether BARs of the card overlap, and where MSIs of each function go if they are enabled.
    fn card_claims(&self) -> (bool, Vec<Option<u64>>) {
        let (mut claims, mut targets) = (Vec::new(), Vec::new());
        if let Some(card) = &self.card {
            card.claims(&mut claims);
            card.msi_targets(&mut targets);
        }
        let meets =
            |a: &(u64, u64), b: &(u64, u64)| a.0 < b.0.saturating_add(b.1) && b.0 < a.0.saturating_add(a.1);
        let overlap = claims.iter().enumerate().any(|(n, a)| claims[..n].iter().any(|b| meets(a, b)));
        (overlap, targets)
    }

    /// What the last write has made wrong in the card's configuration. A message that changes while MSI is enabled is none:
    /// Linux does that when it frees an interrupt (spec §4.4).
    fn card_flaw(&self, before: (bool, Vec<Option<u64>>)) -> Option<&'static str> {
        let now = self.card_claims();
        let elsewhere = |to: u64| to != self.port.msi.addr() && !self.port.is_its(to);
        let enabled = |(was, is): (&Option<u64>, &Option<u64>)| is.filter(|_| was.is_none());
        if now.0 && !before.0 {
            Some("bars-overlap")
        } else if before.1.iter().zip(&now.1).filter_map(enabled).any(elsewhere) {
            Some("msi-elsewhere")
        } else {
            None
        }
    }
}
