//! RAS-DES: the core's event counters, time-based analysis, error injection and silicon debug status.
//!
//! *Modelled*: counters with their enable and clear commands, of which those of [`Count`] count; time in L0 and the length
//! of a measurement; damaged LCRCs of received TLPs; receiver status of lane 0.
//! *Not modelled*: other error injections (their count stays), other silicon debug registers.
//! *Sources*: spec/dwc-qcom-registers.md §2.8; Linux v6.12 dwc_pcie_pmu.c, 7.3 pcie-designware-debugfs.c.

pub mod regs;

use std::collections::BTreeMap;

use block::SimTime;
use block::StateError;
use serde::Deserialize;
use serde::Serialize;

/// What the model counts, by group and event number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Count {
    /// A received TLP was bad.
    BadTlp,
    /// A completion said unsupported request.
    UnsupportedRequest,
    /// No completion came.
    CompletionTimeout,
    /// The link went from L0 to Recovery.
    L0ToRecovery,
    /// The link entered L2.
    L2Entry,
    /// The link's speed changed.
    SpeedChange,
    /// The link's width changed.
    WidthChange,
    /// A memory write went down.
    TxMemoryWrite,
    /// A memory read went down.
    TxMemoryRead,
    /// A configuration write went down.
    TxConfigWrite,
    /// A configuration read went down.
    TxConfigRead,
    /// A message went down.
    TxMessage,
    /// A memory write came up.
    RxMemoryWrite,
    /// A memory read came up.
    RxMemoryRead,
    /// A message came up.
    RxMessage,
}

impl Count {
    const fn event(self) -> u16 {
        let (group, event) = match self {
            Count::BadTlp => (2, 0x0),
            Count::UnsupportedRequest => (3, 0x3),
            Count::CompletionTimeout => (3, 0x5),
            Count::L0ToRecovery => (5, 0x0),
            Count::L2Entry => (5, 0xb),
            Count::SpeedChange => (5, 0xc),
            Count::WidthChange => (5, 0xd),
            Count::TxMemoryWrite => (7, 0x0),
            Count::TxMemoryRead => (7, 0x1),
            Count::TxConfigWrite => (7, 0x2),
            Count::TxConfigRead => (7, 0x3),
            Count::TxMessage => (7, 0x8),
            Count::RxMemoryWrite => (7, 0xb),
            Count::RxMemoryRead => (7, 0xc),
            Count::RxMessage => (7, 0x13),
        };
        id(group, event)
    }
}

/// A group and an event of it.
const fn id(group: u8, event: u8) -> u16 {
    (group as u16) << 8 | event as u16
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Counter {
    on: bool,
    count: u32,
}

/// Counters and the running measurement: all state. The registers themselves are in the configuration space.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RasDes {
    /// Only counters that were ever started; there are as many as there are events.
    counters: BTreeMap<u16, Counter>,
    /// When the measurement began; none: it has never been started.
    began: Option<SimTime>,
    /// When it ended, if it has.
    ended: Option<SimTime>,
    /// Time in L0 up to `l0_until`.
    l0_ns: u64,
    /// Since when the link has been in L0, if it is and a measurement runs.
    l0_since: Option<SimTime>,
}

/// The event that COUNTER_CTRL selects, if the core has a counter for it.
fn selected(ctrl: u32) -> Option<u16> {
    let (group, event) = ((ctrl >> regs::GROUP_SHIFT & 0xf) as u8, (ctrl >> regs::EVENT_SHIFT) as u8);
    let known = regs::EVENTS.get(usize::from(group)).is_some_and(|events| events.contains(&event));
    // One lane: the counters of others are not there.
    let lane = ctrl & regs::LANE_SELECT == 0 || !regs::LANE_GROUPS.contains(&group);
    (known && lane).then(|| id(group, event))
}

/// Whether the core has a counter for `event`.
fn exists(event: u16) -> bool {
    let (group, event) = (event >> 8, event as u8);
    regs::EVENTS.get(usize::from(group)).is_some_and(|events| events.contains(&event))
}

impl RasDes {
    /// Take a saved state. Nothing changes if it does not fit.
    pub fn restore(&mut self, saved: &RasDes) -> Result<(), StateError> {
        if saved.l0_ns > crate::MAX_COUNT || !saved.counters.keys().all(|e| exists(*e)) {
            return Err(StateError::Impossible { what: "ras-des" });
        }
        self.clone_from(saved);
        Ok(())
    }

    /// One more of `what`.
    pub fn count(&mut self, what: Count) {
        if let Some(c) = self.counters.get_mut(&what.event()).filter(|c| c.on) {
            c.count = c.count.wrapping_add(1);
        }
    }

    /// Software wrote `bits` to COUNTER_CTRL, which now selects by `ctrl`.
    pub fn command(&mut self, ctrl: u32, bits: u32) {
        match bits >> regs::ENABLE_SHIFT & 7 {
            on @ (1 | 3) => {
                if let Some(event) = selected(ctrl) {
                    self.counters.entry(event).or_default().on = on == 3;
                }
            }
            5 => self.counters.values_mut().for_each(|c| c.on = false),
            7 => {
                for (group, events) in (0..).zip(regs::EVENTS) {
                    for event in events {
                        self.counters.entry(id(group, event)).or_default().on = true;
                    }
                }
            }
            _ => {}
        }
        match bits & 3 {
            1 => {
                if let Some(c) = selected(ctrl).and_then(|e| self.counters.get_mut(&e)) {
                    c.count = 0;
                }
            }
            3 => self.counters.values_mut().for_each(|c| c.count = 0),
            _ => {}
        }
    }

    fn counter(&self, ctrl: u32) -> Counter {
        selected(ctrl).and_then(|e| self.counters.get(&e)).copied().unwrap_or_default()
    }

    /// COUNTER_CTRL's bit 7.
    pub fn status(&self, ctrl: u32) -> u32 {
        if self.counter(ctrl).on {
            regs::COUNTER_ENABLED
        } else {
            0
        }
    }

    /// COUNTER_DATA.
    pub fn data(&self, ctrl: u32) -> u32 {
        self.counter(ctrl).count
    }

    /// Software wrote TIME_CTRL: it was `old` and is `new`. `l0`: the link is in L0.
    pub fn time_control(&mut self, now: SimTime, old: u32, new: u32, l0: bool) {
        match (old & regs::TIMER_START != 0, new & regs::TIMER_START != 0) {
            (false, true) => {
                // A measurement starts from zero (Linux v6.12 dwc_pcie_pmu.c).
                *self = RasDes { counters: std::mem::take(&mut self.counters), ..RasDes::default() };
                self.began = Some(now);
                self.l0_since = l0.then_some(now);
                let ns = duration_ns(new);
                self.ended = ns.map(|ns| now.after_ns(ns));
            }
            (true, false) if self.ended.is_none_or(|end| now < end) => {
                self.link_changed(now, false);
                self.ended = Some(now);
            }
            _ => {}
        }
    }

    /// The link entered or left L0.
    pub fn link_changed(&mut self, now: SimTime, l0: bool) {
        let running = self.began.is_some() && self.ended.is_none_or(|end| now < end);
        if let Some(since) = self.l0_since.take() {
            self.l0_ns = self.l0_ns.saturating_add(self.until(now).saturating_sub(since.0));
        }
        self.l0_since = (l0 && running).then_some(now);
    }

    fn until(&self, now: SimTime) -> u64 {
        self.ended.map_or(now.0, |end| end.0.min(now.0))
    }

    /// The report that TIME_CTRL selects: 0 the length of the measurement, 3 the time in L0, the others nothing. INFERRED unit:
    /// nanoseconds, as of a core clock of 1 GHz.
    pub fn report(&self, now: SimTime, ctrl: u32) -> u64 {
        let Some(began) = self.began else { return 0 };
        match ctrl >> regs::REPORT_SHIFT {
            0 => self.until(now).saturating_sub(began.0),
            3 => self.l0_ns + self.l0_since.map_or(0, |since| self.until(now).saturating_sub(since.0)),
            _ => 0,
        }
    }
}

/// How long a measurement lasts by itself (Linux v6.12 dwc_pcie_pmu.c DWC_PCIE_DURATION_*).
fn duration_ns(ctrl: u32) -> Option<u64> {
    const MS: u64 = 1_000_000;
    match ctrl >> regs::DURATION_SHIFT & 0xff {
        1 => Some(MS),
        2 => Some(10 * MS),
        3 => Some(100 * MS),
        4 => Some(1000 * MS),
        5 => Some(2000 * MS),
        6 => Some(4000 * MS),
        0xff => Some(4000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TX_CFG_RD: u32 = 7 << 24 | 3 << 16;
    const ON: u32 = 3 << 2;
    const OFF: u32 = 1 << 2;

    #[test]
    fn a_counter_counts_only_between_its_on_and_its_off() {
        let mut r = RasDes::default();
        r.count(Count::TxConfigRead);
        r.command(TX_CFG_RD, TX_CFG_RD | ON);
        assert_eq!((r.status(TX_CFG_RD), r.data(TX_CFG_RD)), (1 << 7, 0));
        r.count(Count::TxConfigRead);
        r.count(Count::TxConfigWrite);
        assert_eq!(r.data(TX_CFG_RD), 1);
        r.command(TX_CFG_RD, TX_CFG_RD);
        assert_eq!(r.status(TX_CFG_RD), 1 << 7, "selecting changes nothing");
        r.command(TX_CFG_RD, TX_CFG_RD | OFF);
        r.count(Count::TxConfigRead);
        assert_eq!((r.status(TX_CFG_RD), r.data(TX_CFG_RD)), (0, 1), "the count stays");
    }

    #[test]
    fn clear_is_of_one_or_of_all() {
        let mut r = RasDes::default();
        let other = 7 << 24 | 2 << 16;
        r.command(0, 7 << 2);
        r.count(Count::TxConfigRead);
        r.count(Count::TxConfigWrite);
        r.command(TX_CFG_RD, TX_CFG_RD | 1);
        assert_eq!((r.data(TX_CFG_RD), r.data(other)), (0, 1));
        r.command(TX_CFG_RD, TX_CFG_RD | 3);
        assert_eq!((r.data(other), r.status(other)), (0, 1 << 7), "clearing stops nothing");
        r.command(0, 5 << 2);
        assert_eq!(r.status(other), 0);
    }

    #[test]
    fn counters_that_the_core_does_not_have_do_not_start() {
        let mut r = RasDes::default();
        for ctrl in [8 << 24, 3 << 24 | 6 << 16, 1 << 24, 1 << 8] {
            r.command(ctrl, ctrl | ON);
            assert_eq!(r.status(ctrl), 0, "{ctrl:#x}: Linux then says that it is not supported");
        }
        let any_lane = 5 << 24 | 1 << 8;
        r.command(any_lane, any_lane | ON);
        assert_eq!(r.status(any_lane), 1 << 7, "the link's own counters have no lane");
    }

    #[test]
    fn a_measurement_adds_up_the_time_in_l0_and_starts_from_zero() {
        let mut r = RasDes::default();
        let (length, l0) = (0, 3 << 24);
        r.time_control(SimTime(100), 0, 1, true);
        r.link_changed(SimTime(150), false);
        r.link_changed(SimTime(400), true);
        assert_eq!((r.report(SimTime(500), length), r.report(SimTime(500), l0)), (400, 150));
        r.time_control(SimTime(600), 1, 0, true);
        assert_eq!((r.report(SimTime(900), length), r.report(SimTime(900), l0)), (500, 250));
        r.time_control(SimTime(1000), 0, 1 | 0xff << 8, true);
        assert_eq!(r.report(SimTime(1001), l0), 1);
        assert_eq!(
            (r.report(SimTime(9999), length), r.report(SimTime(9999), l0)),
            (4000, 4000),
            "4 µs are over"
        );
        r.time_control(SimTime(10_000), 1, 0, true);
        assert_eq!(r.report(SimTime(10_000), l0), 4000);
    }
}
