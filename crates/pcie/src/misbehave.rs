//! A card that misbehaves: a layer on the link in front of any card, so that no device has to be written twice.
//!
//! *Modelled*: MSIs and DMA after bus mastering was taken away, storms of MSIs, an INTx that stays asserted, lost vectors, retries,
//! lost completions, unsupported requests, all ones, a BAR that claims another size, a link that flaps, a card that vanishes.
//! *Not modelled*: malformed TLPs, poisoned data.
//! *Sources*: PCI Express Base Specification §2.3.1, §2.8, §7.5.1.1.3 (what a function must not do).
//!
//! Each [`Rule`] is a trigger, how many of its occurrences pass first, how many are acted on, and an act. Chances are drawn from a
//! seed: the same accesses in the same order meet the same misbehaviour.

use block::splitmix64;
use block::Cx;
use block::ResetKind;
use block::SimTime;
use block::StateError;
use block::Width;
use serde::Deserialize;
use serde::Serialize;

use crate::config::regs as cfg;
use crate::config::regs::hdr;
use crate::Bdf;
use crate::Card;
use crate::CardState;
use crate::Completion;
use crate::ConfigRequest;
use crate::ErrorMessage;
use crate::FunctionState;
use crate::LinkFailure;
use crate::Message;
use crate::Outcome;
use crate::Rate;
use crate::Sender;
use crate::SlotEvent;
use crate::Upstream;

/// Most messages that one storm sends, whatever its rule says.
pub const MOST_REPEATS: u32 = 100_000;
/// Most messages of one tick.
const MOST_AT_ONCE: u32 = 1024;
/// Bytes of a late DMA write: a cache line.
const LATE_DMA_BYTES: usize = 64;

/// What a rule waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum On {
    /// A configuration read that touches this register.
    ConfigRead(u16),
    /// A configuration write that touches this register.
    ConfigWrite(u16),
    /// Any configuration request.
    Config,
    /// A memory read below the port.
    MemRead,
    /// A memory write below the port.
    MemWrite,
    /// The card sends an MSI.
    Msi,
    /// Bus mastering of a function was switched off.
    BmeClear,
    /// The harness begins a phase of this name.
    Phase(String),
    /// So long after power-on, ns.
    Time(u64),
}

/// What happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// The last MSI again, after a delay, bus mastering or not.
    LateMsi {
        /// From the trigger.
        delay_ns: u64,
    },
    /// A write to where the card has last written or read, after a delay, bus mastering or not.
    LateDma {
        /// From the trigger.
        delay_ns: u64,
    },
    /// The last MSI again and again.
    MsiStorm {
        /// How often.
        count: u32,
        /// From one to the next.
        every_ns: u64,
    },
    /// INTA stays asserted from now on, until power goes.
    StuckIntx,
    /// MSIs of this vector are lost. Waits for nothing but [`On::Msi`].
    LoseVector(u32),
    /// Configuration requests are answered with request retry status for so long.
    Retry {
        /// From the trigger.
        for_ns: u64,
    },
    /// The request that triggered gets no completion.
    Timeout,
    /// The request that triggered is unsupported.
    Unsupported,
    /// The request that triggered reads all ones, or its write is lost.
    AllOnes,
    /// This BAR of function 0 claims so many bytes, a power of two.
    BarSize {
        /// BAR, 0–5.
        bar: u8,
        /// What it claims.
        bytes: u32,
    },
    /// The link fails.
    Link(LinkFailure),
}

/// One misbehaviour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// What it waits for.
    pub on: On,
    /// The first occurrence that counts, from 1.
    pub nth: u64,
    /// How many occurrences are acted on; 0: all from then on.
    pub times: u64,
    /// Of 1000 occurrences that count, so many are acted on; drawn from the seed.
    pub permille: u16,
    /// What happens.
    pub act: Act,
}

impl Rule {
    /// At the first occurrence, once.
    pub fn once(on: On, act: Act) -> Rule {
        Rule { on, nth: 1, times: 1, permille: 1000, act }
    }
}

/// How far a rule has got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    seen: u64,
    acted: u64,
}

/// Something that the card will send by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Pending {
    at: SimTime,
    left: u32,
    every_ns: u64,
    write: Write,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Write {
    Msi,
    Dma,
}

/// What the layer remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    progress: Vec<Progress>,
    random: u64,
    /// The last MSI that went up, and who sent it.
    message: Option<(Bdf, u64, u32)>,
    /// The last other request that went up, and who sent it.
    dma: Option<(Bdf, u64)>,
    pending: Vec<Pending>,
    stuck: bool,
    retry_until: Option<SimTime>,
    /// COMMAND.BME of each function, as last written.
    bme: u8,
    acted: u64,
}

/// The layer, with the card behind it.
pub struct Misbehaving<E> {
    card: Box<dyn Card<E>>,
    rules: Vec<Rule>,
    state: State,
}

/// What the triggering request becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pass,
    Refuse(Completion),
    Lost,
}

impl<E> Misbehaving<E> {
    /// `card` behind a link that keeps to `rules`; `seed` decides chances.
    pub fn new(card: Box<dyn Card<E>>, rules: Vec<Rule>, seed: u64) -> Misbehaving<E> {
        let state =
            State { progress: vec![Progress::default(); rules.len()], random: seed, ..State::default() };
        Misbehaving { card, rules, state }
    }

    /// What becomes of a request that `is` says a rule waits for.
    fn occurs(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, is: impl Fn(&On) -> bool) -> Fate {
        let mut fate = Fate::Pass;
        for (n, rule) in self.rules.iter().enumerate() {
            if is(&rule.on) {
                fate = fate.or(self.state.meet(cx, up, n, rule));
            }
        }
        fate
    }

    /// Bus mastering that a configuration write has switched off.
    fn bme_cleared(&mut self, r: ConfigRequest, v: u64) -> bool {
        if u32::from(r.off) & !3 != hdr::COMMAND || r.off != 0x04 || r.type1 {
            return false;
        }
        let bit = 1 << r.bdf.func();
        let was = self.state.bme & bit != 0;
        let is = v & u64::from(cfg::COMMAND_BME) != 0;
        self.state.bme = self.state.bme & !bit | if is { bit } else { 0 };
        was && !is
    }

    fn bar_size(&self, r: ConfigRequest) -> Option<u32> {
        let bar = (u32::from(r.off).checked_sub(hdr::BAR0)? / 4) as u8;
        self.rules.iter().find_map(|rule| match rule.act {
            Act::BarSize { bar: b, bytes } if b == bar && r.bdf.func() == 0 && !r.type1 => Some(bytes),
            _ => None,
        })
    }

    fn retries(&self, now: SimTime) -> bool {
        self.state.retry_until.is_some_and(|t| now < t)
    }

    /// The way up, with the rules in it.
    fn layer<'a>(&'a mut self, up: &'a mut dyn Upstream<E>) -> (&'a mut dyn Card<E>, Layer<'a, E>) {
        (self.card.as_mut(), Layer { up, rules: &self.rules, state: &mut self.state })
    }
}

impl Fate {
    fn or(self, other: Fate) -> Fate {
        if other == Fate::Pass {
            self
        } else {
            other
        }
    }
}

impl State {
    /// An occurrence of what rule `n` waits for.
    fn meet<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, n: usize, rule: &Rule) -> Fate {
        if !self.strikes(n, rule) {
            return Fate::Pass;
        }
        if let Act::Link(how) = rule.act {
            up.fail_link(cx, how);
        }
        self.act(cx.now, &rule.act)
    }

    /// Whether this occurrence is acted on.
    fn strikes(&mut self, n: usize, rule: &Rule) -> bool {
        let Some(p) = self.progress.get_mut(n) else { return false };
        p.seen += 1;
        if p.seen < rule.nth || rule.times != 0 && p.acted >= rule.times {
            return false;
        }
        if rule.permille < 1000 {
            self.random = splitmix64(self.random);
            if self.random % 1000 >= u64::from(rule.permille) {
                return false;
            }
        }
        p.acted += 1;
        self.acted += 1;
        true
    }

    fn act(&mut self, now: SimTime, act: &Act) -> Fate {
        match *act {
            Act::LateMsi { delay_ns } => self.send_later(now, delay_ns, 1, 0, Write::Msi),
            Act::LateDma { delay_ns } => self.send_later(now, delay_ns, 1, 0, Write::Dma),
            Act::MsiStorm { count, every_ns } => {
                self.send_later(now, 0, count.min(MOST_REPEATS), every_ns.max(1), Write::Msi);
            }
            Act::StuckIntx => self.stuck = true,
            Act::Retry { for_ns } => self.retry_until = Some(now.after_ns(for_ns)),
            Act::Timeout => return Fate::Refuse(Completion::Timeout),
            Act::Unsupported => return Fate::Refuse(Completion::UnsupportedRequest),
            Act::AllOnes | Act::LoseVector(_) => return Fate::Lost,
            Act::BarSize { .. } | Act::Link(_) => {}
        }
        Fate::Pass
    }

    fn send_later(&mut self, now: SimTime, delay_ns: u64, left: u32, every_ns: u64, write: Write) {
        // A rule that strikes at every request must not pile up what it sends.
        if left > 0 && self.pending.len() < 64 {
            self.pending.push(Pending { at: now.after_ns(delay_ns), left, every_ns, write });
        }
    }

    /// When a rule that waits for a time wants its turn.
    fn time_of(&self, n: usize, rule: &Rule) -> Option<SimTime> {
        match rule.on {
            On::Time(ns) if self.progress.get(n).is_some_and(|p| p.seen == 0) => Some(SimTime(ns)),
            _ => None,
        }
    }

    fn next_deadline(&self) -> Option<SimTime> {
        self.pending.iter().map(|p| p.at).min()
    }
}

/// What an upstream request passes on its way.
struct Layer<'a, E> {
    up: &'a mut dyn Upstream<E>,
    rules: &'a [Rule],
    state: &'a mut State,
}

impl<E> Layer<'_, E> {
    /// Send what is due.
    fn send_due(&mut self, cx: &mut Cx<'_, E>) {
        let mut pending = std::mem::take(&mut self.state.pending);
        let mut budget = MOST_AT_ONCE;
        pending.retain_mut(|p| {
            while p.left > 0 && p.at <= cx.now && budget > 0 {
                self.send(cx, &p.write);
                budget -= 1;
                p.left -= 1;
                p.at = p.at.after_ns(p.every_ns);
            }
            // A storm that time has outrun goes on from now.
            p.at = p.at.max(SimTime(cx.now.0.saturating_add(1)));
            p.left > 0
        });
        self.state.pending = pending;
    }

    fn send(&mut self, cx: &mut Cx<'_, E>, write: &Write) {
        match (write, self.state.message, self.state.dma) {
            (Write::Msi, Some((rid, addr, data)), _) => {
                self.up.mem_write(cx, rid, true, addr, &data.to_le_bytes());
            }
            (Write::Dma, _, Some((rid, addr))) => {
                self.up.mem_write(cx, rid, true, addr, &[0xa5; LATE_DMA_BYTES]);
            }
            // It has never sent anything.
            _ => {}
        }
    }
}

impl<E> Upstream<E> for Layer<'_, E> {
    fn mem_write(&mut self, cx: &mut Cx<'_, E>, rid: Bdf, bme: bool, addr: u64, data: &[u8]) -> Completion {
        self.state.dma = Some((rid, addr));
        self.up.mem_write(cx, rid, bme, addr, data)
    }

    fn mem_read(&mut self, cx: &mut Cx<'_, E>, rid: Bdf, bme: bool, addr: u64, buf: &mut [u8]) -> Completion {
        self.state.dma = Some((rid, addr));
        self.up.mem_read(cx, rid, bme, addr, buf)
    }

    fn message(&mut self, cx: &mut Cx<'_, E>, from: Sender, vector: u32, m: Message) -> Completion {
        self.state.message = Some((from.rid, m.addr, m.data));
        // An MSI is a memory write: of a card that does no other it is where it has written.
        self.state.dma.get_or_insert((from.rid, m.addr));
        let mut fate = Fate::Pass;
        for (n, rule) in self.rules.iter().enumerate() {
            let other_vector = matches!(rule.act, Act::LoseVector(v) if v != vector);
            if rule.on == On::Msi && !other_vector {
                fate = fate.or(self.state.meet(cx, self.up, n, rule));
            }
        }
        if fate == Fate::Pass {
            self.up.message(cx, from, vector, m)
        } else {
            // Posted: whoever sent it never learns.
            Completion::Success
        }
    }

    fn pme(&mut self, cx: &mut Cx<'_, E>, rid: Bdf) {
        self.up.pme(cx, rid);
    }

    fn fail_link(&mut self, cx: &mut Cx<'_, E>, how: LinkFailure) {
        self.up.fail_link(cx, how);
    }

    fn link_rate(&self) -> Option<Rate> {
        self.up.link_rate()
    }

    fn error(&mut self, cx: &mut Cx<'_, E>, rid: Bdf, error: ErrorMessage) {
        self.up.error(cx, rid, error);
    }
}

impl<E> Card<E> for Misbehaving<E> {
    fn config_read(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, r: ConfigRequest) -> Outcome {
        let fate = self.occurs(cx, up, |on| match on {
            On::Config => true,
            On::ConfigRead(off) => touches(r, *off),
            _ => false,
        });
        if let Some(refused) = refused(fate, r.w) {
            return refused;
        }
        if self.retries(cx.now) {
            return Outcome::refused(Completion::Retry, r.w);
        }
        let size = self.bar_size(r);
        let (card, mut layer) = self.layer(up);
        let mut got = card.config_read(cx, &mut layer, r);
        if let (Some(bytes), Completion::Success) = (size, got.status) {
            // What a BAR of that size keeps of an address.
            got.data &= u64::from(!(bytes.max(16) - 1)) | 0xf;
        }
        got
    }

    fn config_write(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        r: ConfigRequest,
        v: u64,
    ) -> Completion {
        let fate = self.occurs(cx, up, |on| match on {
            On::Config => true,
            On::ConfigWrite(off) => touches(r, *off),
            _ => false,
        });
        if let Some(refused) = refused(fate, r.w) {
            return refused.status;
        }
        if self.retries(cx.now) {
            return Completion::Retry;
        }
        let cleared = self.bme_cleared(r, v);
        let (card, mut layer) = self.layer(up);
        let status = card.config_write(cx, &mut layer, r, v);
        if cleared {
            self.occurs(cx, up, |on| *on == On::BmeClear);
        }
        status
    }

    fn mem_read(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, addr: u64, w: Width) -> Outcome {
        let fate = self.occurs(cx, up, |on| *on == On::MemRead);
        if let Some(refused) = refused(fate, w) {
            return refused;
        }
        let (card, mut layer) = self.layer(up);
        card.mem_read(cx, &mut layer, addr, w)
    }

    fn mem_write(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        addr: u64,
        w: Width,
        v: u64,
    ) -> Completion {
        let fate = self.occurs(cx, up, |on| *on == On::MemWrite);
        if let Some(refused) = refused(fate, w) {
            return refused.status;
        }
        let (card, mut layer) = self.layer(up);
        card.mem_write(cx, &mut layer, addr, w, v)
    }

    fn intx(&self) -> u8 {
        self.card.intx() | u8::from(self.state.stuck)
    }

    fn claims(&self, out: &mut Vec<(u64, u64)>) {
        self.card.claims(out);
    }

    fn msi_targets(&self, out: &mut Vec<Option<u64>>) {
        self.card.msi_targets(out);
    }

    fn next_deadline(&self) -> Option<SimTime> {
        let times = self.rules.iter().enumerate().filter_map(|(n, r)| self.state.time_of(n, r));
        times.chain(self.card.next_deadline()).chain(self.state.next_deadline()).min()
    }

    fn tick(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>) {
        for (n, rule) in self.rules.iter().enumerate() {
            if self.state.time_of(n, rule).is_some_and(|t| t <= cx.now) {
                self.state.meet(cx, up, n, rule);
            }
        }
        let (card, mut layer) = self.layer(up);
        if card.next_deadline().is_some_and(|d| d <= cx.now) {
            card.tick(cx, &mut layer);
        }
        layer.send_due(cx);
    }

    fn reset(&mut self, cx: &mut Cx<'_, E>, kind: ResetKind) {
        // What it will still send it sends whatever happens to it: that is the misbehaviour. Without power it does nothing.
        self.state.bme = 0;
        if kind == ResetKind::PowerOn {
            self.state.pending.clear();
            self.state.stuck = false;
            self.state.retry_until = None;
        }
        self.card.reset(cx, kind);
    }

    fn sample(&self, path: &str, out: &mut dyn FnMut(&str, u64)) {
        self.card.sample(path, out);
        out(&format!("misbehaved{path}"), self.state.acted);
        out(&format!("stuck-intx{path}"), u64::from(self.state.stuck));
    }

    fn slot_event(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        path: &[u8],
        e: SlotEvent,
    ) -> bool {
        let (card, mut layer) = self.layer(up);
        card.slot_event(cx, &mut layer, path, e)
    }

    fn announce(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, phase: &str) {
        self.occurs(cx, up, |on| matches!(on, On::Phase(p) if p == phase));
        let (card, mut layer) = self.layer(up);
        card.announce(cx, &mut layer, phase);
    }

    fn save(&self) -> CardState {
        let Misbehaving { card, rules: _, state } = self;
        CardState { functions: vec![FunctionState::new(NAME, state)], cards: vec![card.save()] }
    }

    fn restore(&mut self, saved: &CardState) -> Result<(), StateError> {
        let ([own], [card]) = (saved.functions.as_slice(), saved.cards.as_slice()) else {
            return Err(StateError::Impossible { what: NAME });
        };
        let state: State = own.data(NAME)?;
        StateError::unless_length("misbehaviour", self.rules.len(), state.progress.len())?;
        let most = state.pending.iter().map(|p| p.left).max().unwrap_or(0);
        if most > MOST_REPEATS || state.pending.iter().any(|p| p.left > 1 && p.every_ns == 0) {
            return Err(StateError::Impossible { what: NAME });
        }
        self.card.restore(card)?;
        self.state = state;
        Ok(())
    }
}

/// Name in a [`FunctionState`].
const NAME: &str = "misbehaviour";

/// Whether a request touches the byte at `off`.
fn touches(r: ConfigRequest, off: u16) -> bool {
    (r.off..r.off.saturating_add(r.w.bytes() as u16)).contains(&off)
}

fn refused(fate: Fate, w: Width) -> Option<Outcome> {
    match fate {
        Fate::Pass => None,
        Fate::Refuse(status) => Some(Outcome::refused(status, w)),
        Fate::Lost => Some(Outcome::ok(w.ones())),
    }
}
