//! Runs something at a deadline that moves.

use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;

use block::SimTime;

/// A deadline, and the thread that waits for it ([`Timer::run`]).
#[derive(Debug, Default)]
pub struct Timer {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    deadline: Option<SimTime>,
    stopped: bool,
}

impl Timer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next deadline; none: wait until there is one.
    pub fn arm(&self, deadline: Option<SimTime>) {
        let mut s = self.lock();
        if s.deadline != deadline {
            s.deadline = deadline;
            self.changed.notify_one();
        }
    }

    /// Call `due` at each deadline, with nothing locked, until [`Timer::stop`]; `due` arms the next one.
    pub fn run(&self, clock: impl Fn() -> SimTime, mut due: impl FnMut()) {
        let mut s = self.lock();
        while !s.stopped {
            let now = clock();
            match s.deadline {
                None => s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner),
                Some(d) if d <= now => {
                    s.deadline = None;
                    drop(s);
                    due();
                    s = self.lock();
                }
                Some(d) => {
                    let wait = Duration::from_nanos(d.0 - now.0);
                    s = self.changed.wait_timeout(s, wait).unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    /// End [`Timer::run`].
    pub fn stop(&self) {
        self.lock().stopped = true;
        self.changed.notify_all();
    }
}
