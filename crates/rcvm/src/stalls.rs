//! Carries out the stalls of a plan: a thread each, which lets the access go when its time has come.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use std::time::Instant;

use torture::stall::Access;
use torture::stall::StallRule;
use torture::stall::Stalled;
use torture::stall::Until;
use vmm::interposer::Interposer;
use vmm::interposer::Match;
use vmm::interposer::Seen;

/// The stalls of one machine.
pub struct Stalls {
    interposer: Arc<Interposer>,
    begun: Vec<(StallRule, JoinHandle<Stalled>)>,
}

impl Stalls {
    /// None yet.
    pub fn new(interposer: Arc<Interposer>) -> Stalls {
        Stalls { interposer, begun: Vec::new() }
    }

    /// Watch for the access of `rule` from now on. A register that no table has is never accessed.
    pub fn begin(&mut self, rule: &StallRule, draw: u64) {
        let limit = Duration::from_millis(rule.timeout_ms);
        let held = matching(&rule.access, rule.vcpu).map(|m| self.interposer.stall(m));
        // From now on, not from when the access is held: the two may come in any order.
        let watch = match &rule.until {
            Until::Access(a) => matching(a, None).map(|m| self.interposer.watch(m, Seen::Done)),
            Until::Reached(a) => matching(a, None).map(|m| self.interposer.watch(m, Seen::Come)),
            Until::DelayMs(..) => None,
        };
        let until = rule.until.clone();
        let thread = std::thread::spawn(move || {
            let Some(stall) = held.filter(|s| s.wait_held()) else { return Stalled::NeverHeld };
            let begun = Instant::now();
            let happened = match (&until, &watch) {
                (Until::DelayMs(first, last), _) => {
                    let ms = first + draw % (last.saturating_sub(*first) + 1);
                    std::thread::sleep(Duration::from_millis(ms).min(limit));
                    true
                }
                (_, Some(w)) => w.wait(limit),
                (_, None) => false,
            };
            drop(stall);
            if happened {
                Stalled::Released(begun.elapsed().as_millis() as u64)
            } else {
                Stalled::TimedOut
            }
        });
        self.begun.push((rule.clone(), thread));
    }

    /// End them all; what became of each.
    pub fn end(&mut self) -> Vec<(StallRule, Stalled)> {
        self.interposer.give_up();
        let begun = std::mem::take(&mut self.begun);
        begun.into_iter().map(|(rule, t)| (rule, t.join().unwrap_or(Stalled::NeverHeld))).collect()
    }
}

fn matching(a: &Access, vcpu: Option<u8>) -> Option<Match> {
    let (window, off, len_bytes) = rc_model::register_named(&a.register)?;
    Some(Match { window, off, len_bytes, write: Some(a.write), vcpu, skip: a.nth.saturating_sub(1) })
}

#[cfg(test)]
mod tests {
    use rc_model::Window;
    use vmm::interposer::Access as Passing;

    use super::*;

    const STATUS: Passing = Passing { window: Window::Dbi, off: 0x830, write: false, vcpu: 1 };
    const PERST: Passing = Passing { window: Window::Gpio, off: 4, write: true, vcpu: 0 };

    fn access(register: &str, write: bool) -> Access {
        Access { register: register.into(), write, nth: 1 }
    }

    fn rule(until: Until, timeout_ms: u64) -> StallRule {
        StallRule { access: access("MSI_INTR0_STATUS", false), vcpu: None, until, timeout_ms }
    }

    fn only(told: Vec<(StallRule, Stalled)>) -> Stalled {
        assert_eq!(told.len(), 1);
        told.into_iter().next().unwrap().1
    }

    #[test]
    fn an_access_goes_on_when_the_other_one_is_done() {
        let i = Arc::new(Interposer::default());
        let mut stalls = Stalls::new(Arc::clone(&i));
        stalls.begin(&rule(Until::Access(access("SET", true)), 60_000), 0);
        let other = Arc::clone(&i);
        let held = std::thread::spawn(move || other.pass(&STATUS));
        i.pass(&PERST);
        i.passed(&PERST);
        held.join().unwrap();
        assert!(matches!(only(stalls.end()), Stalled::Released(_)));
        assert_eq!(stalls.end(), []);
    }

    #[test]
    fn one_side_of_a_race_can_wait_for_the_other_to_be_held() {
        let i = Arc::new(Interposer::default());
        let mut stalls = Stalls::new(Arc::clone(&i));
        let perst = Access { register: "SET".into(), write: true, nth: 1 };
        stalls.begin(&rule(Until::Access(perst.clone()), 60_000), 0);
        let first = StallRule {
            access: perst,
            until: Until::Reached(access("MSI_INTR0_STATUS", false)),
            ..rule(Until::DelayMs(0, 0), 60_000)
        };
        stalls.begin(&first, 0);
        let other = Arc::clone(&i);
        let removal = std::thread::spawn(move || {
            other.pass(&PERST);
            other.passed(&PERST);
        });
        i.pass(&STATUS);
        removal.join().unwrap();
        assert!(stalls.end().iter().all(|s| matches!(s.1, Stalled::Released(_))));
    }

    #[test]
    fn what_never_happens_costs_no_more_than_its_time_and_what_never_comes_costs_none() {
        let i = Arc::new(Interposer::default());
        let mut stalls = Stalls::new(Arc::clone(&i));
        stalls.begin(&rule(Until::Access(access("SET", true)), 1), 0);
        i.pass(&STATUS);
        assert_eq!(only(stalls.end()), Stalled::TimedOut);
        stalls.begin(&rule(Until::DelayMs(0, 15_000), 15_000), 0);
        assert_eq!(only(stalls.end()), Stalled::NeverHeld);
        assert!(!i.is_watching());
    }

    #[test]
    fn a_delay_is_drawn_from_its_range() {
        let i = Arc::new(Interposer::default());
        let mut stalls = Stalls::new(Arc::clone(&i));
        stalls.begin(&rule(Until::DelayMs(2, 4), 15_000), 4);
        i.pass(&STATUS);
        assert!(matches!(only(stalls.end()), Stalled::Released(ms) if ms >= 3), "2 + 4 mod 3");
    }
}
