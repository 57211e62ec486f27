//! PL031 real-time clock: what wakes a guest from suspend-to-idle.
//!
//! *Modelled*: counter, load, match, the match interrupt, identification.
//! *Not modelled*: stopping the counter (CR is one out of reset and stays so).
//! *Sources*: ARM DDI 0224 (PL031) §3; Linux drivers/rtc/rtc-pl031.c.

use block::SimTime;

/// Register offsets (DDI 0224 §3.2).
mod off {
    pub const DR: u64 = 0x00;
    pub const MR: u64 = 0x04;
    pub const LR: u64 = 0x08;
    pub const CR: u64 = 0x0c;
    pub const IMSC: u64 = 0x10;
    pub const RIS: u64 = 0x14;
    pub const MIS: u64 = 0x18;
    pub const ICR: u64 = 0x1c;
    pub const ID: u64 = 0xfe0;
}

/// PeriphID0–3 and PCellID0–3, a byte in each word (DDI 0224 §3.3).
const ID: [u8; 8] = [0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1];
const NS_PER_S: u64 = 1_000_000_000;

/// The clock. Time is handed in with each call.
#[derive(Clone, Debug)]
pub struct Rtc {
    /// Counter at [`SimTime::ZERO`], seconds.
    at_zero: u32,
    load: u32,
    alarm: u32,
    alarm_set: bool,
    mask: bool,
    raw: bool,
}

impl Rtc {
    /// A clock that shows `seconds` since 1970 at power-on.
    pub fn new(seconds: u32) -> Rtc {
        Rtc { at_zero: seconds, load: 0, alarm: 0, alarm_set: false, mask: false, raw: false }
    }

    fn counter(&self, now: SimTime) -> u32 {
        self.at_zero.wrapping_add((now.0 / NS_PER_S) as u32)
    }

    /// Level of the interrupt: a function of state.
    pub fn line(&self) -> bool {
        self.raw && self.mask
    }

    /// When the counter reaches the match register, if software set one that lies ahead.
    pub fn next_deadline(&self, now: SimTime) -> Option<SimTime> {
        if !self.alarm_set || self.raw {
            return None;
        }
        let ahead = u64::from(self.alarm.wrapping_sub(self.counter(now)));
        Some(SimTime((now.0 / NS_PER_S).saturating_add(ahead).saturating_mul(NS_PER_S)))
    }

    /// Time has passed.
    pub fn tick(&mut self, now: SimTime) {
        if self.alarm_set && self.counter(now) == self.alarm {
            self.raw = true;
            self.alarm_set = false;
        }
    }

    /// A 32-bit read.
    pub fn read(&self, now: SimTime, at: u64) -> u32 {
        match at {
            off::DR => self.counter(now),
            off::MR => self.alarm,
            off::LR => self.load,
            off::CR => 1,
            off::IMSC => self.mask.into(),
            off::RIS => self.raw.into(),
            off::MIS => self.line().into(),
            off::ID.. => ID.get(((at - off::ID) / 4) as usize).copied().unwrap_or(0).into(),
            _ => 0,
        }
    }

    /// A 32-bit write.
    pub fn write(&mut self, now: SimTime, at: u64, v: u32) {
        match at {
            off::MR => {
                self.alarm = v;
                self.alarm_set = true;
                self.tick(now);
            }
            off::LR => {
                self.load = v;
                self.at_zero = v.wrapping_sub((now.0 / NS_PER_S) as u32);
            }
            off::IMSC => self.mask = v & 1 != 0,
            off::ICR if v & 1 != 0 => self.raw = false,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(n: u64) -> SimTime {
        SimTime(n * NS_PER_S)
    }

    #[test]
    fn the_counter_runs_and_can_be_set() {
        let mut r = Rtc::new(1000);
        assert_eq!(r.read(SimTime(2 * NS_PER_S + 5), off::DR), 1002);
        r.write(s(3), off::LR, 50);
        assert_eq!((r.read(s(3), off::DR), r.read(s(10), off::DR), r.read(s(10), off::LR)), (50, 57, 50));
    }

    #[test]
    fn the_alarm_raises_the_line_if_it_is_unmasked_and_until_it_is_cleared() {
        let mut r = Rtc::new(100);
        assert_eq!(r.next_deadline(s(0)), None, "nobody set an alarm");
        r.write(s(1), off::MR, 103);
        assert_eq!(r.next_deadline(SimTime(NS_PER_S + 7)), Some(s(3)));
        r.tick(s(2));
        assert_eq!((r.read(s(2), off::RIS), r.line()), (0, false), "not before its time");
        r.tick(s(3));
        assert_eq!((r.read(s(3), off::RIS), r.read(s(3), off::MIS), r.line()), (1, 0, false));
        r.write(s(3), off::IMSC, 1);
        assert!(r.line() && r.read(s(3), off::MIS) == 1);
        assert_eq!(r.next_deadline(s(3)), None);
        r.write(s(3), off::ICR, 1);
        assert!(!r.line());
        r.tick(s(3));
        assert!(!r.line(), "a match comes once");
    }

    #[test]
    fn an_alarm_in_the_past_waits_for_the_wrap() {
        let mut r = Rtc::new(100);
        r.write(s(0), off::MR, 99);
        assert_eq!(r.next_deadline(s(0)), Some(s(u64::from(u32::MAX))));
    }

    #[test]
    fn it_says_who_it_is() {
        let r = Rtc::new(0);
        let id: Vec<u32> = (0..8).map(|n| r.read(s(0), off::ID + 4 * n)).collect();
        assert_eq!(id, [0x31, 0x10, 0x04, 0x00, 0x0d, 0xf0, 0x05, 0xb1]);
        assert_eq!(r.read(s(0), 0xffc + 4), 0);
    }
}
