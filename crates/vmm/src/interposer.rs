//! Stands between a vCPU's MMIO exit and the bus: it can hold one access of one vCPU, without any lock, until
//! somebody lets it go. This is what makes races reproducible.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use rc_model::Window;

/// Which access to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    /// Window.
    pub window: Window,
    /// First offset.
    pub off: u64,
    /// Bytes covered from `off`.
    pub len_bytes: u64,
    /// Direction; `None`: both.
    pub write: Option<bool>,
    /// vCPU; `None`: any.
    pub vcpu: Option<u8>,
    /// How many matching accesses pass before the one that is held.
    pub skip: u32,
}

impl Match {
    fn covers(&self, a: &Access) -> bool {
        a.window == self.window
            && a.off.checked_sub(self.off).is_some_and(|d| d < self.len_bytes)
            && self.write.is_none_or(|w| w == a.write)
            && self.vcpu.is_none_or(|v| v == a.vcpu)
    }
}

/// An access on its way to the bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Window.
    pub window: Window,
    /// Offset.
    pub off: u64,
    /// Direction.
    pub write: bool,
    /// vCPU.
    pub vcpu: u8,
}

#[derive(Debug)]
struct Rule {
    id: u64,
    what: Match,
    held: bool,
}

/// When an access counts as seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// It has come, and may be held.
    Come,
    /// It is done.
    Done,
}

/// An access that somebody waits for without holding it.
#[derive(Debug)]
struct Lookout {
    id: u64,
    what: Match,
    when: Seen,
    seen: bool,
}

#[derive(Debug, Default)]
struct State {
    next_id: u64,
    rules: Vec<Rule>,
    lookouts: Vec<Lookout>,
    closed: bool,
}

impl State {
    fn next_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

/// The interposer of one machine.
#[derive(Debug, Default)]
pub struct Interposer {
    state: Mutex<State>,
    /// Whether `state` has anything to match: every access asks, and hardly ever is there.
    watching: AtomicBool,
    changed: Condvar,
}

/// A stall in force; dropping it lets the access go.
#[derive(Debug)]
pub struct Stall {
    interposer: Arc<Interposer>,
    id: u64,
}

/// Somebody waits for an access to have been done; dropping it ends that.
#[derive(Debug)]
pub struct Watch {
    interposer: Arc<Interposer>,
    id: u64,
}

impl Interposer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Change what is matched, and tell whoever waits.
    fn change<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        let mut s = self.lock();
        let result = f(&mut s);
        self.watching.store(!s.rules.is_empty() || !s.lookouts.is_empty(), Ordering::SeqCst);
        self.changed.notify_all();
        result
    }

    /// Hold the first access that matches until the result is dropped.
    pub fn stall(self: &Arc<Self>, what: Match) -> Stall {
        let id = self.change(|s| {
            let id = s.next_id();
            s.rules.push(Rule { id, what, held: false });
            id
        });
        Stall { interposer: Arc::clone(self), id }
    }

    /// Notice the access that matches.
    pub fn watch(self: &Arc<Self>, what: Match, when: Seen) -> Watch {
        let id = self.change(|s| {
            let id = s.next_id();
            s.lookouts.push(Lookout { id, what, when, seen: false });
            id
        });
        Watch { interposer: Arc::clone(self), id }
    }

    /// Whether anybody holds an access or waits for one.
    pub fn is_watching(&self) -> bool {
        self.watching.load(Ordering::SeqCst)
    }

    /// Give up every stall whose access has not come: [`Stall::wait_held`] says `false`. Held ones stay.
    pub fn give_up(&self) {
        self.change(|s| s.rules.retain(|r| r.held));
    }

    /// Called by a vCPU thread that holds no lock, after every access.
    pub fn passed(&self, a: &Access) {
        if self.is_watching() {
            self.notice(&mut self.lock(), a, Seen::Done);
        }
    }

    fn notice(&self, s: &mut State, a: &Access, when: Seen) {
        for l in s.lookouts.iter_mut().filter(|l| l.when == when && !l.seen && l.what.covers(a)) {
            if l.what.skip > 0 {
                l.what.skip -= 1;
            } else {
                l.seen = true;
                self.changed.notify_all();
            }
        }
    }

    /// Called by a vCPU thread that holds no lock, before every access.
    pub fn pass(&self, a: &Access) {
        if !self.is_watching() {
            return;
        }
        let mut s = self.lock();
        self.notice(&mut s, a, Seen::Come);
        let Some(rule) = s.rules.iter_mut().find(|r| !r.held && r.what.covers(a)) else { return };
        if rule.what.skip > 0 {
            rule.what.skip -= 1;
            return;
        }
        rule.held = true;
        let id = rule.id;
        self.changed.notify_all();
        while !s.closed && s.rules.iter().any(|r| r.id == id) {
            s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Let everything go, now and from now on: the machine stops.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

impl Stall {
    /// Wait until an access is held (`true`), or until the interposer is closed or the stall given up.
    pub fn wait_held(&self) -> bool {
        let mut s = self.interposer.lock();
        loop {
            match s.rules.iter().find(|r| r.id == self.id) {
                Some(r) if r.held => return true,
                Some(_) if !s.closed => {}
                _ => return false,
            }
            s = self.interposer.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Watch {
    /// Wait until the access is done; `false`: not within `limit`, or the interposer is closed.
    pub fn wait(&self, limit: Duration) -> bool {
        let deadline = Instant::now() + limit;
        let mut s = self.interposer.lock();
        loop {
            if s.lookouts.iter().any(|l| l.id == self.id && l.seen) {
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if s.closed || left.is_zero() {
                return false;
            }
            s = self.interposer.changed.wait_timeout(s, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.interposer.change(|s| s.lookouts.retain(|l| l.id != self.id));
    }
}

impl Drop for Stall {
    fn drop(&mut self) {
        self.interposer.change(|s| s.rules.retain(|r| r.id != self.id));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;
    use std::sync::mpsc::TryRecvError;

    use super::*;

    const READ: Access = Access { window: Window::Dbi, off: 0x830, write: false, vcpu: 1 };

    fn rule(skip: u32) -> Match {
        Match { window: Window::Dbi, off: 0x830, len_bytes: 4, write: Some(false), vcpu: Some(1), skip }
    }

    #[test]
    fn one_access_is_held_while_others_pass() {
        let i = Arc::new(Interposer::default());
        let stall = i.stall(rule(0));
        let (tx, rx) = channel();
        let other = Arc::clone(&i);
        let vcpu1 = std::thread::spawn(move || {
            other.pass(&READ);
            tx.send(()).unwrap();
        });
        assert!(stall.wait_held());
        i.pass(&Access { vcpu: 0, ..READ });
        i.pass(&Access { write: true, ..READ });
        i.pass(&Access { off: 0x834, ..READ });
        i.pass(&READ);
        assert_eq!(rx.try_recv(), Err(TryRecvError::Empty));
        drop(stall);
        rx.recv().unwrap();
        vcpu1.join().unwrap();
    }

    #[test]
    fn the_nth_access_can_be_chosen() {
        let i = Arc::new(Interposer::default());
        let stall = i.stall(rule(2));
        i.pass(&READ);
        i.pass(&READ);
        let other = Arc::clone(&i);
        let t = std::thread::spawn(move || other.pass(&READ));
        assert!(stall.wait_held());
        drop(stall);
        t.join().unwrap();
    }

    #[test]
    fn closing_lets_go_of_held_vcpus_and_waiters() {
        let i = Arc::new(Interposer::default());
        let stall = i.stall(rule(0));
        let other = Arc::clone(&i);
        let t = std::thread::spawn(move || other.pass(&READ));
        assert!(stall.wait_held());
        let never = i.stall(Match { window: Window::Phy, ..rule(0) });
        i.close();
        t.join().unwrap();
        assert!(!never.wait_held());
    }

    #[test]
    fn an_access_is_noticed_after_it_is_done_and_not_held() {
        let i = Arc::new(Interposer::default());
        let watch = i.watch(rule(1), Seen::Done);
        assert!(i.is_watching());
        i.pass(&READ);
        i.passed(&READ);
        assert!(!watch.wait(Duration::ZERO), "the second is meant");
        i.pass(&READ);
        assert!(!watch.wait(Duration::ZERO), "it is not done yet");
        i.passed(&READ);
        assert!(watch.wait(Duration::from_secs(60)));
        drop(watch);
        assert!(!i.is_watching());
    }

    #[test]
    fn a_stall_that_is_given_up_is_over_and_one_that_holds_is_not() {
        let i = Arc::new(Interposer::default());
        let (held, never) = (i.stall(rule(0)), i.stall(Match { window: Window::Phy, ..rule(0) }));
        let other = Arc::clone(&i);
        let t = std::thread::spawn(move || other.pass(&READ));
        assert!(held.wait_held());
        i.give_up();
        assert!(!never.wait_held());
        assert!(held.wait_held());
        drop(held);
        t.join().unwrap();
    }
}
