//! Lanes: threads that do operations at the same time.

use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use guest_agent::Lane;
use guest_agent::LaneResult;
use guest_agent::OpError;
use guest_agent::Value;

use super::failed;
use super::invalid;
use super::perform;
use super::Agent;
use super::Root;

/// More lanes than this are a mistake, and threads that a stuck operation leaves behind are bounded by it.
const MAX_LANES: usize = 16;
/// Different failures that a lane tells.
const MAX_ERRORS: usize = 4;

/// A lane on its way, as both sides see it.
#[derive(Default)]
struct Progress(Mutex<LaneResult>);

impl Progress {
    fn lock(&self) -> MutexGuard<'_, LaneResult> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self, result: Result<Value, OpError>) {
        let mut p = self.lock();
        p.busy = None;
        match result {
            Ok(_) => p.done += 1,
            Err(e) => {
                p.failed += 1;
                if p.errors.len() < MAX_ERRORS && !p.errors.contains(&e) {
                    p.errors.push(e);
                }
            }
        }
    }
}

/// [`Op::Together`](guest_agent::Op::Together).
pub fn together(root: &Root, lanes: &[Lane], timeout_ms: u64) -> Result<Value, OpError> {
    check(lanes)?;
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    let enough = Arc::new(AtomicBool::new(false));
    let (through, ends) = mpsc::channel();
    let mut told = Vec::new();
    for (n, lane) in lanes.iter().enumerate() {
        let progress = Arc::new(Progress::default());
        progress.lock().name.clone_from(&lane.name);
        told.push(Arc::clone(&progress));
        let (mut agent, lane) = (Agent::new(root.clone()), lane.clone());
        let (enough, through) = (Arc::clone(&enough), through.clone());
        std::thread::Builder::new()
            .name(lane.name.clone())
            .spawn(move || {
                match pin(lane.cpu) {
                    Ok(()) => run(&mut agent, &lane, &enough, &progress),
                    Err(e) => progress.ended(Err(e)),
                }
                // Nobody listens any more: the time was over.
                let _ = through.send(n);
            })
            .map_err(|e| failed("start a lane", &e))?;
    }
    let mut waiting: Vec<usize> = (0..lanes.len()).collect();
    let finite = |n: &usize| lanes.get(*n).is_some_and(|l| l.times > 0);
    while !waiting.is_empty() {
        if !waiting.iter().any(finite) {
            enough.store(true, Ordering::Relaxed);
        }
        match ends.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(n) => waiting.retain(|w| *w != n),
            Err(_) => break,
        }
    }
    enough.store(true, Ordering::Relaxed);
    Ok(Value::Lanes(told.iter().map(|p| p.lock().clone()).collect()))
}

fn check(lanes: &[Lane]) -> Result<(), OpError> {
    let what = "run lanes";
    if lanes.len() > MAX_LANES {
        return Err(invalid(what, format!("{} lanes are more than {MAX_LANES}", lanes.len())));
    }
    if lanes.iter().any(|l| l.ops.is_empty()) {
        return Err(invalid(what, "a lane without operations never ends"));
    }
    if !lanes.iter().any(|l| l.times > 0) {
        return Err(invalid(what, "no lane has an end"));
    }
    Ok(())
}

/// Keep this thread on one CPU: a race between two CPUs needs its sides on different ones.
fn pin(cpu: Option<u32>) -> Result<(), OpError> {
    let Some(cpu) = cpu else { return Ok(()) };
    let mut set = rustix::thread::CpuSet::new();
    let n = cpu as usize;
    if n >= rustix::thread::CpuSet::MAX_CPU {
        return Err(invalid(format!("run on CPU {cpu}"), "there is none of that number"));
    }
    set.set(n);
    rustix::thread::sched_setaffinity(None, &set)
        .map_err(|e| failed(format!("run on CPU {cpu}"), &std::io::Error::from(e)))
}

fn run(agent: &mut Agent, lane: &Lane, enough: &AtomicBool, progress: &Progress) {
    let mut round = 0;
    while lane.times == 0 || round < lane.times {
        for op in &lane.ops {
            if enough.load(Ordering::Relaxed) {
                return;
            }
            progress.lock().busy = Some(op.clone());
            let result = perform(agent, op);
            progress.ended(result);
        }
        round = round.wrapping_add(1);
    }
}

#[cfg(test)]
mod tests {
    use guest_agent::Op;

    use super::*;

    fn lane(name: &str, times: u32, ops: Vec<Op>) -> Lane {
        Lane { name: name.into(), ops, times, cpu: None }
    }

    fn read(path: &str) -> Op {
        Op::ReadFile { path: path.into(), max_bytes: 16 }
    }

    fn results(value: Result<Value, OpError>) -> Vec<LaneResult> {
        match value.unwrap() {
            Value::Lanes(l) => l,
            v => panic!("{v:?}"),
        }
    }

    #[test]
    fn a_lane_without_a_number_runs_as_long_as_one_that_has_one() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("tmp")).unwrap();
        let root = Root(dir.path().into());
        let write = Op::WriteFile { path: "/tmp/a".into(), text: "1".into() };
        let lanes =
            [lane("writer", 50, vec![write]), lane("reader", 0, vec![read("/tmp/a"), read("/tmp/none")])];
        let told = results(together(&root, &lanes, 10_000));
        assert_eq!((told[0].name.as_str(), told[0].done, told[0].failed), ("writer", 50, 0));
        assert_eq!((told[0].busy.as_ref(), told[1].busy.as_ref()), (None, None));
        assert!(told[1].errors.len() <= 2, "each failure once: {:?}", told[1].errors);
    }

    #[test]
    fn a_lane_that_does_not_come_back_is_told_with_what_it_does() {
        let root = Root(tempfile::tempdir().unwrap().path().into());
        let wait = Op::WaitPath { path: "/tmp/never".into(), timeout_ms: 5_000 };
        let told = results(together(&root, &[lane("stuck", 1, vec![wait.clone()])], 1));
        assert_eq!(told[0].busy, Some(wait));
    }

    #[test]
    fn a_lane_that_cannot_have_its_cpu_does_nothing_and_says_so() {
        let root = Root(tempfile::tempdir().unwrap().path().into());
        for cpu in [1000, 100_000] {
            let lanes = [Lane { cpu: Some(cpu), ..lane("a", 1, vec![read("/tmp/a")]) }];
            let told = results(together(&root, &lanes, 10_000));
            assert_eq!((told[0].done, told[0].failed), (0, 1));
            assert_eq!(told[0].errors[0].what, format!("run on CPU {cpu}"));
        }
    }

    #[test]
    fn lanes_that_would_never_end_are_refused() {
        let root = Root("/nowhere".into());
        for lanes in [
            vec![lane("a", 0, vec![read("/tmp/a")])],
            vec![lane("a", 1, vec![])],
            vec![lane("a", 1, vec![read("/tmp/a")]); MAX_LANES + 1],
        ] {
            assert_eq!(together(&root, &lanes, 1).unwrap_err().errno, libc::EINVAL);
        }
    }
}
