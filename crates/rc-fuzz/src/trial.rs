//! A machine that goes through operations while what must hold is checked after each of them.
//!
//! Checked: output levels are a function of state; a restored machine has the same future; after power-on a machine is
//! as a new one; after a core reset registers read as after one on a new machine, except what they keep; PERST# leaves
//! a new endpoint; one operation lets an observer know, and does outside, no more than a bound; time advances.

use block::SimTime;
use rc_model::soc;
use rc_model::wrapper::Kind;
use rc_model::Effect;
use rc_model::Event;
use rc_model::RootComplex;
use rc_model::SamplePoint;
use rc_model::Window;
use serde_json::Value;

use crate::machine::Machine;
use crate::ops::CardKind;
use crate::ops::Op;
use crate::ops::Pause;
use crate::ops::Setup;
use crate::ops::OP_BYTES;
use crate::ops::SETUP_BYTES;

/// Most events of one operation: twice (a life may end in it) the budgets of all kinds.
const MOST_EVENTS: usize = 2 * (5 * 64 + 256 + 2 * 4096);
/// Most effects of one operation: vectors of a function, for each of its commands in the longest pause, and two storms.
const MOST_EFFECTS: usize = 512 + 2 * 3000;

/// How far a trial got: what an operation can only do to a machine in use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Operations.
    pub ops: u64,
    /// Of these, those that began with the link up.
    pub ops_link_up: u64,
    /// Accesses of the guest, without those of [`Op::BringUp`] and the like.
    pub accesses: u64,
    /// Times that the link came to L0.
    pub link_ups: u64,
    /// Messages that iMSI-RX or the ITS took.
    pub msis: u64,
    /// Accesses to a block that stood still.
    pub gated: u64,
    /// Accesses downstream that ended nowhere.
    pub unrouted: u64,
    /// Requests of the endpoint that were refused.
    pub dma_refused: u64,
    /// What no correct driver does.
    pub bad_inputs: u64,
    /// Save and restore.
    pub forks: u64,
    /// Operations on a machine whose restored twin did the same.
    pub ops_with_twin: u64,
    /// Comparisons with a new machine: power-on, core reset, PERST#.
    pub resets_compared: u64,
}

impl Tally {
    /// Add what another trial counted.
    pub fn add(&mut self, t: &Tally) {
        self.ops += t.ops;
        self.ops_link_up += t.ops_link_up;
        self.accesses += t.accesses;
        self.link_ups += t.link_ups;
        self.msis += t.msis;
        self.gated += t.gated;
        self.unrouted += t.unrouted;
        self.dma_refused += t.dma_refused;
        self.bad_inputs += t.bad_inputs;
        self.forks += t.forks;
        self.ops_with_twin += t.ops_with_twin;
        self.resets_compared += t.resets_compared;
    }
}

/// What an operation makes visible.
#[derive(Debug, PartialEq)]
struct Seen {
    data: u64,
    aborted: bool,
    levels: u64,
    next_deadline: Option<SimTime>,
    events: Vec<Event>,
    effects: Vec<Effect>,
}

/// The machine, and its restored twin after the first [`Op::Fork`].
pub struct Trial {
    /// As it would be built now: faults change it.
    setup: Setup,
    machine: Machine,
    twin: Option<Machine>,
    /// What happened so far.
    pub tally: Tally,
}

/// Run what `bytes` mean: a [`Setup`], then operations. What is too short for another one is left.
pub fn run_bytes(bytes: &[u8]) -> Result<Tally, String> {
    let Some((setup, ops)) = bytes.split_first_chunk::<SETUP_BYTES>() else { return Ok(Tally::default()) };
    let mut trial = Trial::new(Setup::from_bytes(*setup));
    for (n, op) in ops.chunks_exact(OP_BYTES).enumerate() {
        let op = Op::from_bytes(trial.setup.soc, op.try_into().expect("a chunk's length"));
        trial.step(op).map_err(|e| format!("{}: operation {n}, {op:x?}: {e}", trial.setup.soc.name))?;
    }
    trial.finish()
}

impl Trial {
    /// After power-on.
    pub fn new(setup: Setup) -> Trial {
        Trial { setup, machine: Machine::with(setup.config()), twin: None, tally: Tally::default() }
    }

    /// Do it, and check what must hold afterwards.
    pub fn step(&mut self, op: Op) -> Result<(), String> {
        self.tally.ops += 1;
        self.tally.ops_link_up += u64::from(link_up(&mut self.machine));
        self.follow_setup(op);
        let seen = apply(&mut self.machine, op, self.setup.card);
        self.count(op, &seen);
        // A card may have vanished by itself.
        self.setup.slot = self.machine.rc.slot();
        if seen.events.len() > MOST_EVENTS || seen.effects.len() > MOST_EFFECTS {
            return Err(format!("{} events, {} effects", seen.events.len(), seen.effects.len()));
        }
        let expected = self.levels_from_state();
        // What a switch joins and turns its own tests check.
        if self.setup.card.is_none_or(CardKind::is_one_function) && seen.levels != expected {
            return Err(format!("levels {:#x}, from state {expected:#x}", seen.levels));
        }
        if let Some(twin) = &mut self.twin {
            self.tally.ops_with_twin += 1;
            let of_twin = apply(twin, op, self.setup.card);
            if seen != of_twin {
                return Err(format!("the restored machine does something else:\n{seen:x?}\n{of_twin:x?}"));
            }
        }
        match op {
            Op::Fork => self.fork(),
            Op::PowerOn => self.compare_power_on(),
            Op::CoreReset => self.compare_core_reset(),
            Op::Perst { asserted: true } => self.compare_perst(),
            _ => Ok(()),
        }
    }

    /// The last check: machine and twin end in the same state.
    pub fn finish(self) -> Result<Tally, String> {
        if let Some(twin) = &self.twin {
            same("the restored machine's end", &state(&self.machine), &state(twin))?;
        }
        Ok(self.tally)
    }

    /// What the world has done to the slot stays done when power comes back.
    fn follow_setup(&mut self, op: Op) {
        match op {
            Op::SetSlot(slot) => self.setup.slot = slot,
            Op::ChangeRate(rate) => self.setup.endpoint_rate = rate,
            Op::SetRrs(count) => self.setup.rrs_count = count,
            _ => {}
        }
    }

    fn count(&mut self, op: Op, seen: &Seen) {
        let t = &mut self.tally;
        t.accesses += u64::from(matches!(op, Op::Read { .. } | Op::Write { .. }));
        t.msis += seen.effects.len() as u64;
        for e in &seen.events {
            match e {
                Event::Ltssm { state: rc_model::link::ltssm::L0 } => t.link_ups += 1,
                Event::Msi { .. } => t.msis += 1,
                Event::GatedAccess { .. } => t.gated += 1,
                Event::Unrouted { .. } => t.unrouted += 1,
                Event::DmaRefused { .. } => t.dma_refused += 1,
                Event::BadInput { .. } => t.bad_inputs += 1,
                _ => {}
            }
        }
    }

    /// A copy by way of its saved form as text.
    fn restored(&self) -> Result<Machine, String> {
        let text = serde_json::to_string(&self.machine.rc.save()).map_err(|e| e.to_string())?;
        let state = serde_json::from_str(&text).map_err(|e| format!("its own state does not parse: {e}"))?;
        let rc = RootComplex::restore(self.setup.config(), &state)
            .map_err(|e| format!("its own state is refused: {e}"))?;
        Ok(Machine {
            soc: self.setup.soc,
            rc,
            mem: self.machine.mem.clone(),
            events: Vec::new(),
            now: self.machine.now,
        })
    }

    fn fork(&mut self) -> Result<(), String> {
        self.tally.forks += 1;
        if let Some(twin) = self.twin.take() {
            same("the restored machine's state", &state(&self.machine), &state(&twin))?;
        }
        self.twin = Some(self.restored()?);
        Ok(())
    }

    /// A new machine like this one, at the same time.
    fn new_one(&self) -> Machine {
        Machine { now: self.machine.now, ..Machine::with(self.setup.config()) }
    }

    fn compare_power_on(&mut self) -> Result<(), String> {
        self.tally.resets_compared += 1;
        let mut new = self.new_one();
        new.power_on_reset();
        // Lives and faults that wait are not the machine's.
        let state = |m: &Machine| {
            let mut s = inside(state(m));
            s["observer"]["life"] = Value::Null;
            s["lost_completions"] = Value::Null;
            // Nor is how far a misbehaviour has got.
            if s.pointer("/endpoint/functions/0/data/acted").is_some() {
                s["endpoint"]["functions"] = Value::Null;
            }
            s
        };
        same("a new machine after power-on", &state(&self.machine), &state(&new))
    }

    /// Bits that a guest can write or clear; the others show the link, the slot or the SoC.
    fn compare_core_reset(&mut self) -> Result<(), String> {
        if self.setup.soc.resets.is_empty() {
            return Ok(());
        }
        self.tally.resets_compared += 1;
        let (mut used, mut new) = (self.restored()?, self.new_one());
        for m in [&mut used, &mut new] {
            m.wake();
            core_reset(m);
        }
        for t in rc_model::tables() {
            if matches!(t.window, Window::Gpio | Window::Reset | Window::Phy)
                || !self.setup.soc.wrapper.has(t.window)
            {
                continue;
            }
            for (base, r) in t.bases.iter().flat_map(|b| t.rows.iter().map(move |r| (b, r))) {
                let changeable = u64::from((r.rw | r.w1c | r.ro_wr) & !r.kept(block::ResetKind::Core));
                if changeable == 0 {
                    continue;
                }
                let off = u64::from(base + r.off);
                let [u, n] = [&mut used, &mut new].map(|m| m.read(t.window, off, r.width) & changeable);
                if u != n {
                    return Err(format!(
                        "{:?} {} is {u:#x} after a core reset, {n:#x} on a new machine",
                        t.window, r.name
                    ));
                }
            }
        }
        Ok(())
    }

    /// Output levels, from nothing but what a sample shows of the registers and from INTx that the link must carry.
    fn levels_from_state(&mut self) -> u64 {
        let s = self.machine.sample(SamplePoint::Now);
        let get = |name: &str| s.get(name).unwrap_or(0);
        let mut groups = 0;
        for g in 0..8 {
            let pending = get(&format!("msi.status[{g}]")) & !get(&format!("msi.mask[{g}]"));
            groups |= u64::from(pending != 0) << g;
        }
        if self.setup.msi_gating {
            groups &= get("parf.int_all_mask") >> 23;
        }
        if self.setup.soc.msi_lines == 1 {
            groups = u64::from(groups != 0);
        }
        let card = get("ep.intx") | get("stuck-intx");
        let downstream = if get("rp.dllla") == 1 { card } else { 0 };
        let intx = (get("rp.intx") | downstream) & 0xf;
        groups
            | match self.setup.soc.wrapper.kind {
                Kind::Qcom => {
                    let global = get("parf.int_all_status") & get("parf.int_all_mask") & !0x7f80_0000 != 0;
                    intx << soc::IRQ_INTA | u64::from(global) << soc::IRQ_GLOBAL
                }
                Kind::Rockchip => {
                    let legacy = intx & !get("apb.intx_mask") & 0xf != 0;
                    let sys = get("apb.misc_status") & !get("apb.misc_mask") != 0;
                    u64::from(legacy) << soc::IRQ_LEGACY | u64::from(sys) << soc::IRQ_SYS
                }
                Kind::Snps | Kind::SnpsEcam | Kind::QcomFirmware => intx << soc::IRQ_INTA,
            }
    }

    fn compare_perst(&mut self) -> Result<(), String> {
        // A switch has links of its own, which train from then on; those of a new one have trained from power-on.
        if self.setup.soc.wrapper.perst.is_none() || self.setup.card == Some(CardKind::Switch) {
            return Ok(());
        }
        self.tally.resets_compared += 1;
        let new = self.new_one();
        same("a new endpoint", &card(&inside(state(&self.machine))), &card(&inside(state(&new))))
    }
}

/// The card's own state, without that of a layer in front of it.
fn card(state: &Value) -> Value {
    let card = &state["endpoint"];
    card.pointer("/cards/0").unwrap_or(card).clone()
}

fn state(m: &Machine) -> Value {
    serde_json::to_value(m.rc.save()).unwrap_or_default()
}

/// The state without what a card has put out and nobody has taken: that is outside, and no reset takes it back.
fn inside(mut state: Value) -> Value {
    forget_output(&mut state);
    state
}

fn forget_output(v: &mut Value) {
    match v {
        Value::Object(fields) => {
            fields.remove("output");
            fields.values_mut().for_each(forget_output);
        }
        Value::Array(all) => all.iter_mut().for_each(forget_output),
        _ => {}
    }
}

/// The first place where `a` and `b` differ, at or below `at`.
fn difference(at: &str, a: &Value, b: &Value) -> Option<String> {
    match (a, b) {
        _ if a == b => None,
        (Value::Object(x), Value::Object(y)) if x.keys().eq(y.keys()) => {
            x.iter().find_map(|(k, v)| difference(&format!("{at}/{k}"), v, &y[k]))
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).enumerate().find_map(|(n, (v, w))| difference(&format!("{at}/{n:#x}"), v, w))
        }
        _ => Some(format!("{at}: {a} and {b}")),
    }
}

fn same(what: &str, a: &Value, b: &Value) -> Result<(), String> {
    difference("", a, b).map_or(Ok(()), |d| Err(format!("{what} differs: {d}")))
}

fn link_up(m: &mut Machine) -> bool {
    m.item("rp.dllla") == 1
}

fn core_reset(m: &mut Machine) {
    for asserted in [true, false] {
        for n in soc::RESET_CORE..soc::RESET_CORE + m.soc.resets.len() as u32 {
            m.reset_line(n, asserted);
        }
    }
}

fn apply(m: &mut Machine, op: Op, card: Option<CardKind>) -> Seen {
    let mut data = 0;
    match op {
        Op::Read { win, off, w } => data = m.read(win, off, w),
        Op::Write { win, off, w, v } => m.write(win, off, w, v),
        Op::Sleep(pause) => sleep(m, pause),
        Op::BringUp => {
            m.link_up();
            m.open_downstream();
            m.arm_msi();
            match card {
                Some(CardKind::Nvme) => m.start_nvme(),
                Some(CardKind::Blk | CardKind::Net | CardKind::Console | CardKind::Rng) => m.start_virtio(),
                _ => {}
            }
        }
        Op::Poke { off, v } => m.poke(u64::from(off), &v.to_le_bytes()),
        Op::Raise(kind, n) => m.raise(kind, n),
        Op::Command(bits) => m.command(bits),
        Op::PowerOn => m.power_on_reset(),
        Op::CoreReset => core_reset(m),
        Op::Perst { asserted } => m.gpio_dir_out(soc::GPIO_PERST, !asserted),
        Op::SetSlot(slot) => m.with_cx(|rc, cx| rc.set_slot(cx, slot)),
        Op::SurpriseDown => m.with_cx(|rc, cx| rc.surprise_down(cx)),
        Op::ChangeRate(rate) => m.with_cx(|rc, cx| rc.change_rate(cx, rate)),
        Op::SetRrs(count) => m.rc.set_rrs_count(count),
        Op::LoseCompletions(count) => m.rc.lose_completions(count),
        Op::SendPme => m.with_cx(|rc, cx| rc.send_pme(cx)),
        Op::SendError(error) => m.with_cx(|rc, cx| rc.send_error(cx, error)),
        Op::EndLife => {
            m.sample(SamplePoint::S4);
        }
        Op::Fork => {}
    }
    Seen {
        data,
        aborted: m.rc.aborted(),
        levels: m.rc.irq_levels(),
        next_deadline: m.rc.next_deadline(),
        events: std::mem::take(&mut m.events),
        effects: m.rc.take_effects(),
    }
}

fn sleep(m: &mut Machine, pause: Pause) {
    let to_deadline = m.rc.next_deadline().map_or(0, |d| d.0.saturating_sub(m.now.0));
    m.sleep(match pause {
        Pause::Ns(ns) => ns,
        Pause::ToDeadline { short } => to_deadline.saturating_sub(u64::from(short)),
    });
}
