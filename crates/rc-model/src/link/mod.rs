//! Link training and status state machine, as far as the driver can see it.
//!
//! *Modelled*: detection, training to L0 in a few steps of simulated time, a partner that never leaves Polling, loss of the
//! link, hot reset, link disable, retraining, PME_Turn_Off to L2.
//! *Not modelled*: lanes, equalisation, speed negotiation in steps, L0s and L1.
//! *Sources*: spec/dwc-qcom-registers.md §3; Linux pcie-designware.h enum dw_pcie_ltssm.

use block::SimTime;
use block::StateError;
use serde::Deserialize;
use serde::Serialize;

/// LTSSM state numbers (spec §3).
pub mod ltssm {
    /// Detect.Quiet.
    pub const DETECT_QUIET: u8 = 0x00;
    /// Detect.Active.
    pub const DETECT_ACTIVE: u8 = 0x01;
    /// Polling.Active.
    pub const POLL_ACTIVE: u8 = 0x02;
    /// Polling.Configuration.
    pub const POLL_CONFIG: u8 = 0x04;
    /// First of the Configuration states.
    pub const CONFIG_START: u8 = 0x07;
    /// Recovery.RcvrLock.
    pub const RECOVERY: u8 = 0x0d;
    /// L0.
    pub const L0: u8 = 0x11;
    /// L2.Idle.
    pub const L2_IDLE: u8 = 0x15;
    /// Disabled.
    pub const DISABLED: u8 = 0x19;
    /// Hot Reset.
    pub const HOT_RESET: u8 = 0x1f;

    /// Names of all states (Linux 7.3 pcie-designware.h enum dw_pcie_ltssm).
    pub const NAMES: &[(u32, &str)] = &[
        (0x00, "DETECT_QUIET"),
        (0x01, "DETECT_ACT"),
        (0x02, "POLL_ACTIVE"),
        (0x03, "POLL_COMPLIANCE"),
        (0x04, "POLL_CONFIG"),
        (0x05, "PRE_DETECT_QUIET"),
        (0x06, "DETECT_WAIT"),
        (0x07, "CFG_LINKWD_START"),
        (0x08, "CFG_LINKWD_ACEPT"),
        (0x09, "CFG_LANENUM_WAI"),
        (0x0a, "CFG_LANENUM_ACEPT"),
        (0x0b, "CFG_COMPLETE"),
        (0x0c, "CFG_IDLE"),
        (0x0d, "RCVRY_LOCK"),
        (0x0e, "RCVRY_SPEED"),
        (0x0f, "RCVRY_RCVRCFG"),
        (0x10, "RCVRY_IDLE"),
        (0x11, "L0"),
        (0x12, "L0S"),
        (0x13, "L123_SEND_EIDLE"),
        (0x14, "L1_IDLE"),
        (0x15, "L2_IDLE"),
        (0x16, "L2_WAKE"),
        (0x17, "DISABLED_ENTRY"),
        (0x18, "DISABLED_IDLE"),
        (0x19, "DISABLED"),
        (0x1a, "LPBK_ENTRY"),
        (0x1b, "LPBK_ACTIVE"),
        (0x1c, "LPBK_EXIT"),
        (0x1d, "LPBK_EXIT_TIMEOUT"),
        (0x1e, "HOT_RESET_ENTRY"),
        (0x1f, "HOT_RESET"),
        (0x20, "RCVRY_EQ0"),
        (0x21, "RCVRY_EQ1"),
        (0x22, "RCVRY_EQ2"),
        (0x23, "RCVRY_EQ3"),
    ];
}

/// States of one training, in order; the last is L0.
const TRAINING: [u8; 6] = [
    ltssm::DETECT_QUIET,
    ltssm::DETECT_ACTIVE,
    ltssm::POLL_ACTIVE,
    ltssm::POLL_CONFIG,
    ltssm::CONFIG_START,
    ltssm::L0,
];

/// Time in each Detect state while nobody is there. PCIe §4.2.6.1: Detect.Quiet lasts at most 12 ms.
const DETECT_NS: u64 = 12_000_000;
/// Time in Recovery for a retrain. INFERRED: short enough for Linux' 1 s timeout, long enough to be seen.
const RECOVERY_NS: u64 = 100_000;
/// From PME_Turn_Off to L2. INFERRED: well within the 10 ms that Linux waits (spec §3).
const TURN_OFF_NS: u64 = 1_000_000;

/// What decides whether the link may train and stay up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Clocks on, core reset off, PHY powered and out of reset, training enabled.
    pub enabled: bool,
    /// An endpoint is there and out of PERST#.
    pub partner: bool,
    /// The endpoint has a receiver but never answers.
    pub mute: bool,
    /// LNKCTL.LD.
    pub disabled: bool,
    /// BRIDGE_CONTROL.SBR.
    pub hot_reset: bool,
}

/// What the link does: all of its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Not enabled.
    Idle,
    /// Nobody is there.
    Detect {
        /// When it began to look.
        since: SimTime,
    },
    /// The partner never answers.
    Polling,
    /// On the way to L0.
    Training {
        /// How far: an index of the states of a training.
        step: usize,
        /// When the next one begins.
        next: SimTime,
    },
    /// L0.
    Up,
    /// Retraining.
    Recovery {
        /// When it ends.
        until: SimTime,
    },
    /// PME_Turn_Off was sent.
    TurningOff {
        /// When L2 begins.
        until: SimTime,
    },
    /// L2.
    L2,
    /// LNKCTL.LD.
    Disabled,
    /// BRIDGE_CONTROL.SBR.
    HotReset,
}

/// A change of the link that the rest of the controller has to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// The data link layer became active.
    Up,
    /// The data link layer is no longer active.
    Down,
    /// A retrain that was asked for ended.
    Retrained,
    /// The link entered L2 (and is no longer active).
    L2,
}

/// The state machine.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    state: State,
    train_ns: u64,
}

impl Link {
    /// A link that takes `train_ns` from the last condition to L0.
    pub fn new(train_ns: u64) -> Link {
        Link { state: State::Idle, train_ns }
    }

    /// The link's state.
    pub fn save(&self) -> State {
        let Link { state, train_ns: _ } = self;
        *state
    }

    /// Take a saved state. Nothing changes if it does not fit.
    pub fn restore(&mut self, saved: &State) -> Result<(), StateError> {
        if let State::Training { step, .. } = saved {
            // The last state of a training is no longer training.
            if *step >= TRAINING.len() - 1 {
                return Err(StateError::Impossible { what: "link training" });
            }
        }
        self.state = *saved;
        Ok(())
    }

    /// LTSSM state number at `now`.
    pub fn ltssm(&self, now: SimTime) -> u8 {
        match self.state {
            State::Idle => ltssm::DETECT_QUIET,
            // Computed from the time, not by deadlines: a port without a card would wake the host for ever.
            State::Detect { since } => (now.0.saturating_sub(since.0) / DETECT_NS % 2) as u8,
            State::Polling => ltssm::POLL_ACTIVE,
            State::Training { step, .. } => TRAINING[step],
            State::Up | State::TurningOff { .. } => ltssm::L0,
            State::Recovery { .. } => ltssm::RECOVERY,
            State::L2 => ltssm::L2_IDLE,
            State::Disabled => ltssm::DISABLED,
            State::HotReset => ltssm::HOT_RESET,
        }
    }

    /// LTSSM state number in which the current state was entered: [`Link::ltssm`] without what time changes by itself.
    pub fn entered(&self) -> u8 {
        match self.state {
            State::Detect { since } => self.ltssm(since),
            _ => self.ltssm(SimTime::ZERO),
        }
    }

    /// Data link layer active (LNKSTA.DLLLA).
    pub fn up(&self) -> bool {
        matches!(self.state, State::Up | State::Recovery { .. } | State::TurningOff { .. })
    }

    /// Link training (LNKSTA.LT).
    pub fn training(&self) -> bool {
        // Detection is not training: LT is for Configuration and Recovery (PCIe §7.5.3.8).
        match self.state {
            State::Training { step, .. } => TRAINING[step] >= ltssm::CONFIG_START,
            State::Recovery { .. } => true,
            _ => false,
        }
    }

    /// When [`Link::tick`] wants to run.
    pub fn next_deadline(&self) -> Option<SimTime> {
        match self.state {
            State::Training { next, .. } => Some(next),
            State::Recovery { until } | State::TurningOff { until } => Some(until),
            _ => None,
        }
    }

    fn step_ns(&self) -> u64 {
        self.train_ns / (TRAINING.len() as u64 - 1)
    }

    fn enter(&mut self, to: State) -> Option<Edge> {
        let was_up = self.up();
        self.state = to;
        match (was_up, self.up()) {
            (true, false) if to == State::L2 => Some(Edge::L2),
            (true, false) => Some(Edge::Down),
            (false, true) => Some(Edge::Up),
            _ => None,
        }
    }

    /// Whether only a condition keeps the link from training.
    fn at_rest(&self) -> bool {
        use State::*;
        matches!(self.state, Idle | Detect { .. } | Polling | Disabled | HotReset)
    }

    /// The signal is lost while every condition holds. The link trains again when conditions are applied next.
    #[must_use]
    pub fn lose(&mut self) -> Option<Edge> {
        if self.up() {
            self.enter(State::Idle)
        } else {
            None
        }
    }

    /// Power applied. Conditions that hold are applied next.
    pub fn power_on(&mut self) {
        self.state = State::Idle;
    }

    /// Apply the conditions that hold at `now`.
    #[must_use]
    pub fn apply(&mut self, now: SimTime, c: Conditions) -> Option<Edge> {
        let rest = if !c.enabled {
            State::Idle
        } else if c.disabled {
            State::Disabled
        } else if !c.partner {
            match self.state {
                State::Detect { .. } => self.state,
                _ => State::Detect { since: now },
            }
        } else if c.hot_reset {
            State::HotReset
        } else if c.mute {
            // INFERRED: it stays here; silicon goes back to Detect and comes again (spec §3: "stay 2 or 3").
            State::Polling
        } else if self.at_rest() {
            State::Training { step: 0, next: now.after_ns(self.step_ns()) }
        } else {
            return None;
        };
        if rest == self.state {
            return None;
        }
        self.enter(rest)
    }

    /// Take the step that is due at `now`, if one is; call again until the deadline lies ahead.
    #[must_use]
    pub fn tick(&mut self, now: SimTime) -> Option<Edge> {
        let due = self.next_deadline().filter(|d| *d <= now)?;
        match self.state {
            State::Training { step, .. } if TRAINING[step + 1] == ltssm::L0 => self.enter(State::Up),
            State::Training { step, .. } => {
                self.enter(State::Training { step: step + 1, next: due.after_ns(self.step_ns()) })
            }
            State::Recovery { .. } => {
                self.state = State::Up;
                Some(Edge::Retrained)
            }
            State::TurningOff { .. } => self.enter(State::L2),
            _ => None,
        }
    }

    /// LNKCTL.RL or a directed speed change: through Recovery back to L0.
    pub fn retrain(&mut self, now: SimTime) {
        if self.state == State::Up {
            self.state = State::Recovery { until: now.after_ns(RECOVERY_NS) };
        }
    }

    /// PME_Turn_Off was sent.
    pub fn turn_off(&mut self, now: SimTime) {
        if self.up() {
            self.state = State::TurningOff { until: now.after_ns(TURN_OFF_NS) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const GOOD: Conditions =
        Conditions { enabled: true, partner: true, mute: false, disabled: false, hot_reset: false };

    fn trained() -> (Link, SimTime) {
        let mut l = Link::new(20 * MS);
        assert_eq!(l.apply(SimTime(0), GOOD), None);
        let now = SimTime(20 * MS);
        let edges: Vec<_> = std::iter::from_fn(|| l.next_deadline().map(|_| l.tick(now))).flatten().collect();
        assert_eq!(edges, [Edge::Up]);
        (l, now)
    }

    #[test]
    fn training_passes_the_states_in_order_and_takes_train_ns() {
        let mut l = Link::new(20 * MS);
        assert_eq!(l.apply(SimTime(MS), GOOD), None);
        let mut seen = vec![l.ltssm(SimTime(MS))];
        let mut now = SimTime(MS);
        while let Some(d) = l.next_deadline() {
            assert_eq!(l.tick(SimTime(d.0 - 1)), None, "not before its time");
            now = d;
            let _ = l.tick(now);
            seen.push(l.ltssm(now));
        }
        assert_eq!(seen, [0x00, 0x01, 0x02, 0x04, 0x07, 0x11]);
        assert_eq!(now, SimTime(21 * MS));
        assert!(l.up() && !l.training());
    }

    #[test]
    fn without_a_partner_it_toggles_between_the_detect_states_and_asks_for_no_tick() {
        let mut l = Link::new(20 * MS);
        assert_eq!(l.apply(SimTime(0), Conditions { partner: false, ..GOOD }), None);
        assert_eq!(l.next_deadline(), None);
        let seen: Vec<u8> = [0, 11, 12, 23, 24, 36].map(|ms| l.ltssm(SimTime(ms * MS))).into();
        assert_eq!(seen, [0, 0, 1, 1, 0, 1]);
        assert_eq!(l.apply(SimTime(40 * MS), Conditions { partner: false, ..GOOD }), None);
        assert_eq!(l.ltssm(SimTime(36 * MS)), 1, "repeating the conditions does not restart it");
    }

    #[test]
    fn each_lost_condition_drops_the_link_at_once() {
        let idle = Conditions { enabled: false, ..GOOD };
        let alone = Conditions { partner: false, ..GOOD };
        let disabled = Conditions { disabled: true, ..GOOD };
        let hot = Conditions { hot_reset: true, ..GOOD };
        for (c, state) in [(idle, 0x00), (alone, 0x00), (disabled, 0x19), (hot, 0x1f)] {
            let (mut l, now) = trained();
            assert_eq!(l.apply(now, c), Some(Edge::Down), "{c:?}");
            assert_eq!((l.up(), l.ltssm(now)), (false, state), "{c:?}");
            assert_eq!(l.apply(now, c), None, "the edge comes once");
        }
    }

    #[test]
    fn the_link_trains_again_after_hot_reset_and_disable() {
        for c in [Conditions { hot_reset: true, ..GOOD }, Conditions { disabled: true, ..GOOD }] {
            let (mut l, now) = trained();
            let _ = l.apply(now, c);
            assert_eq!(l.apply(now, GOOD), None);
            assert_eq!(l.next_deadline(), Some(now.after_ns(4 * MS)));
        }
    }

    #[test]
    fn a_mute_partner_keeps_it_in_polling_until_it_is_gone_or_answers() {
        let mute = Conditions { mute: true, ..GOOD };
        let mut l = Link::new(20 * MS);
        assert_eq!(l.apply(SimTime(0), mute), None);
        assert_eq!(
            (l.ltssm(SimTime(500 * MS)), l.up(), l.training(), l.next_deadline()),
            (2, false, false, None)
        );
        assert_eq!(l.apply(SimTime(MS), Conditions { partner: false, ..mute }), None);
        assert_eq!(l.ltssm(SimTime(MS)), 0);
        let _ = l.apply(SimTime(MS), mute);
        let _ = l.apply(SimTime(2 * MS), GOOD);
        assert_eq!(l.next_deadline(), Some(SimTime(6 * MS)), "it trains");
        let (mut l, now) = trained();
        assert_eq!(l.apply(now, mute), Some(Edge::Down));
    }

    #[test]
    fn a_lost_link_is_down_at_once_and_trains_again() {
        let (mut l, now) = trained();
        assert_eq!(l.lose(), Some(Edge::Down));
        assert_eq!((l.lose(), l.up(), l.ltssm(now)), (None, false, 0));
        assert_eq!(l.apply(now, GOOD), None);
        assert_eq!(l.next_deadline(), Some(now.after_ns(4 * MS)));
    }

    #[test]
    fn retrain_keeps_the_link_active_and_ends_by_itself() {
        let (mut l, now) = trained();
        l.retrain(now);
        assert!(l.up() && l.training());
        assert_eq!(l.apply(now, GOOD), None, "unchanged conditions do not disturb it");
        assert_eq!(l.tick(now.after_ns(MS)), Some(Edge::Retrained));
        assert!(l.up() && !l.training());
        let mut idle = Link::new(1);
        idle.retrain(now);
        assert!(!idle.up(), "nothing to retrain");
    }

    #[test]
    fn turn_off_ends_in_l2_within_10_ms_and_stays_there() {
        let (mut l, now) = trained();
        l.turn_off(now);
        assert_eq!(l.tick(now.after_ns(10 * MS)), Some(Edge::L2));
        assert_eq!((l.ltssm(now), l.up()), (0x15, false));
        assert_eq!(l.apply(now, GOOD), None);
        assert_eq!(l.ltssm(now), 0x15);
        assert_eq!(l.apply(now, Conditions { partner: false, ..GOOD }), None);
        assert_eq!(l.ltssm(now), 0, "PERST# ends it");
    }
}
