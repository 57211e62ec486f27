//! Software faults: the n-th allocation of an operation fails (Linux Documentation/fault-injection/fault-injection.rst).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use guest_agent::Injected;
use guest_agent::Op;
use guest_agent::OpError;
use guest_agent::Value;

use super::failed;
use super::invalid;
use super::perform;
use super::Agent;

/// The thread's own counter: each point where a fault can be injected counts it down, and the one that makes it 0 fails.
const FAIL_NTH: &str = "proc/thread-self/fail-nth";
/// failslab spares allocations that may wait, which is nearly all of a probe, unless told not to (mm/failslab.c).
const IGNORE_WAIT: &str = "sys/kernel/debug/failslab/ignore-gfp-wait";

/// Digits of the largest counter, and the line's end.
const MAX_DIGITS: usize = 12;

/// [`Op::FailNth`](guest_agent::Op::FailNth).
pub fn fail_nth(agent: &mut Agent, nth: u32, op: &Op) -> Result<Value, OpError> {
    let what = "have an allocation fail";
    if nth == 0 || matches!(op, Op::FailNth { .. } | Op::Together { .. }) {
        return Err(invalid(what, "needs a number from 1 and one operation that runs in one thread"));
    }
    std::fs::write(agent.root.path(IGNORE_WAIT), "N")
        .map_err(|e| failed(format!("write /{IGNORE_WAIT}"), &e))?;
    let counter = File::options()
        .read(true)
        .write(true)
        .open(agent.root.path(FAIL_NTH))
        .map_err(|e| failed(format!("open /{FAIL_NTH}"), &e))?;
    set(&counter, nth).map_err(|e| failed(format!("write /{FAIL_NTH}"), &e))?;
    let result = perform(agent, op);
    let left = left(&counter).map_err(|e| failed(format!("read /{FAIL_NTH}"), &e))?;
    set(&counter, 0).map_err(|e| failed(format!("write /{FAIL_NTH}"), &e))?;
    Ok(Value::Injected(Injected { injected: left == 0, error: result.err() }))
}

// The file cannot seek, and opening it anew would allocate: the counter would count that.
fn set(counter: &File, n: u32) -> io::Result<()> {
    counter.write_all_at(n.to_string().as_bytes(), 0)
}

fn left(counter: &File) -> io::Result<u32> {
    let mut text = [0; MAX_DIGITS];
    let n = counter.read_at(&mut text, 0)?;
    let text = String::from_utf8_lossy(text.get(..n).unwrap_or_default()).into_owned();
    text.trim().parse().map_err(|_| io::Error::other(format!("{text:?} is no number")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Root;

    /// A system whose counter nobody counts down.
    fn system() -> (tempfile::TempDir, Agent) {
        let dir = tempfile::tempdir().unwrap();
        for file in [FAIL_NTH, IGNORE_WAIT, "tmp/a"] {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "0").unwrap();
        }
        let agent = Agent::new(Root(dir.path().into()));
        (dir, agent)
    }

    fn read(path: &str) -> Op {
        Op::ReadFile { path: path.into(), max_bytes: 8 }
    }

    #[test]
    fn an_allocation_that_was_never_reached_is_not_injected_and_the_counter_is_off_again() {
        let (dir, mut agent) = system();
        let Value::Injected(told) = fail_nth(&mut agent, 7, &read("/tmp/a")).unwrap() else { panic!() };
        assert_eq!(told, Injected { injected: false, error: None });
        assert_eq!(std::fs::read_to_string(dir.path().join(FAIL_NTH)).unwrap(), "0");
        assert_eq!(std::fs::read_to_string(dir.path().join(IGNORE_WAIT)).unwrap(), "N");
        let Value::Injected(told) = fail_nth(&mut agent, 7, &read("/tmp/none")).unwrap() else { panic!() };
        assert_eq!(told.error.unwrap().errno, libc::ENOENT);
    }

    #[test]
    fn a_kernel_that_cannot_inject_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let e = fail_nth(&mut Agent::new(Root(dir.path().into())), 1, &read("/tmp/a")).unwrap_err();
        assert!(e.what.contains("failslab"), "{e:?}");
        let (_dir, mut agent) = system();
        for (nth, op) in [(0, read("/tmp/a")), (1, Op::FailNth { nth: 1, op: Box::new(Op::SystemState) })] {
            assert_eq!(fail_nth(&mut agent, nth, &op).unwrap_err().errno, libc::EINVAL);
        }
    }
}
