//! From an MMIO exit to a register: interposer → trace → bus → model → interrupt lines, effects and events.
//!
//! The model is behind one lock. Its interrupt levels are a function of its state; after each call the bus compares
//! them with what the lines carry and moves the lines that differ. The line lock is taken *before* the model lock is
//! dropped, so that two vCPUs cannot deliver their changes in the wrong order, and the model is free again while
//! KVM is asked to move a line.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;

use block::Cx;
use block::IrqLevels;
use block::MemPort;
use block::SimTime;
use block::Width;
use rc_model::Bdf;
use rc_model::Effect;
use rc_model::Event;
use rc_model::RootComplex;
use rc_model::Sample;
use rc_model::SamplePoint;
use rc_model::Window;
use vmm_sys_util::epoll::ControlOperation;
use vmm_sys_util::epoll::Epoll;
use vmm_sys_util::epoll::EpollEvent;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;

use crate::doorbells::Doorbells;
use crate::doorbells::Switchboard;
use crate::interposer::Access;
use crate::interposer::Interposer;
use crate::timer::Timer;
use crate::trace::Entry;
use crate::trace::Ring;
use crate::trace::Taken;

/// Moves interrupt lines and carries messages: KVM in a machine, a recorder in tests.
pub trait Lines: Send {
    /// Line `line` of the root complex has now this level.
    fn set(&mut self, line: u32, level: bool);
    /// `rid` wrote `data` to `addr` of the ITS.
    fn its_msi(&mut self, rid: Bdf, addr: u64, data: u32);
}

/// What became of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A read's value; of a write, what was written.
    Value(u64),
    /// The guest gets an external abort.
    Abort,
    /// Nothing of ours is at this address.
    Nobody,
}

/// Who in the guest makes an access.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Which vCPU.
    pub vcpu: u8,
    /// Its program counter; 0 if it is not known.
    pub pc: u64,
}

/// Gives the time since power-on.
pub type Clock = Box<dyn Fn() -> SimTime + Send + Sync>;
/// Takes the model's observations.
pub type Observer = Box<dyn Fn(Event, SimTime) + Send + Sync>;

struct Modelled {
    rc: RootComplex,
    mem: Box<dyn MemPort + Send>,
    events: Vec<Event>,
}

struct LineState {
    levels: IrqLevels,
    out: Box<dyn Lines>,
}

/// The root complex on the bus of a machine.
pub struct RcBus {
    ranges: BTreeMap<u64, (Window, u64)>,
    /// Held by the machine's owner to stall accesses.
    pub interposer: Arc<Interposer>,
    model: Mutex<Modelled>,
    lines: Mutex<LineState>,
    trace: Option<Mutex<Ring>>,
    clock: Clock,
    observer: Observer,
    accesses: AtomicU64,
    doorbell_events: AtomicU64,
    /// Next deadline of the model.
    timer: Timer,
    doorbells: Option<DoorbellThread>,
}

/// Doorbells that are eventfds, and what the thread waits for that delivers them.
struct DoorbellThread {
    doorbells: Mutex<Doorbells>,
    epoll: Epoll,
    stop: EventFd,
}

/// What the event that ends the thread has in place of an address.
const STOP: u64 = u64::MAX;

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic in a model would be our bug; the state is still the best there is for a report.
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl RcBus {
    /// A bus with `rc` at the windows of its SoC.
    pub fn new(
        rc: RootComplex,
        mem: Box<dyn MemPort + Send>,
        out: Box<dyn Lines>,
        clock: Clock,
        observer: Observer,
        trace_entries: usize,
    ) -> RcBus {
        RcBus {
            ranges: rc.soc().wrapper.map.iter().map(|&(w, base, len)| (base, (w, len))).collect(),
            interposer: Arc::new(Interposer::default()),
            model: Mutex::new(Modelled { rc, mem, events: Vec::new() }),
            lines: Mutex::new(LineState { levels: 0, out }),
            trace: (trace_entries > 0).then(|| Mutex::new(Ring::new(trace_entries))),
            clock,
            observer,
            accesses: AtomicU64::new(0),
            doorbell_events: AtomicU64::new(0),
            timer: Timer::default(),
            doorbells: None,
        }
    }

    /// Have doorbells be eventfds, which `board` connects. A bus that records accesses has none: each shall be seen.
    pub fn set_switchboard(&mut self, board: Box<dyn Switchboard>) -> std::io::Result<()> {
        if self.trace.is_some() {
            return Ok(());
        }
        let (epoll, stop) = (Epoll::new()?, EventFd::new(0)?);
        let wait = Epoll::new()?;
        for (fd, data) in [(epoll.as_raw_fd(), 0), (stop.as_raw_fd(), STOP)] {
            wait.ctl(ControlOperation::Add, fd, EpollEvent::new(EventSet::IN, data))?;
        }
        let doorbells = Mutex::new(Doorbells::new(board, epoll));
        self.doorbells = Some(DoorbellThread { doorbells, epoll: wait, stop });
        Ok(())
    }

    /// The window that has `addr`, and the offset in it.
    pub fn decode(&self, addr: u64) -> Option<(Window, u64)> {
        let (base, (window, len)) = self.ranges.range(..=addr).next_back()?;
        let off = addr - base;
        (off < *len).then_some((*window, off))
    }

    /// Whether an access at `addr` is recorded, so that it is worth knowing where it comes from.
    pub fn traces(&self, addr: u64) -> bool {
        self.trace.is_some() && self.decode(addr).is_some()
    }

    /// A guest read.
    pub fn read(&self, by: Origin, addr: u64, w: Width) -> Answer {
        let Some((window, off)) = self.decode(addr) else { return Answer::Nobody };
        self.access(by, window, off, w, None)
    }

    /// A guest write.
    pub fn write(&self, by: Origin, addr: u64, w: Width, value: u64) -> Answer {
        let Some((window, off)) = self.decode(addr) else { return Answer::Nobody };
        self.access(by, window, off, w, Some(value))
    }

    /// `written`: the value of a write.
    fn access(&self, by: Origin, window: Window, off: u64, width: Width, written: Option<u64>) -> Answer {
        let access = Access { window, off, write: written.is_some(), vcpu: by.vcpu };
        self.interposer.pass(&access);
        self.accesses.fetch_add(1, Ordering::Relaxed);
        let answer = self.with_model(|rc, cx| {
            let value = match written {
                Some(v) => {
                    rc.write(cx, window, off, width, v);
                    v
                }
                None => rc.read(cx, window, off, width),
            };
            if let Some(trace) = &self.trace {
                let (time_ns, write, gated) = (cx.now.0, written.is_some(), rc.gated());
                // Under the model lock: the trace has the order in which the model saw the accesses.
                let Origin { vcpu, pc } = by;
                lock(trace).push(Entry { time_ns, off, value, window, vcpu, width, write, pc, gated });
            }
            if rc.aborted() {
                Answer::Abort
            } else {
                Answer::Value(value)
            }
        });
        self.interposer.passed(&access);
        answer
    }

    /// Let the world act on the root complex, as between two accesses.
    pub fn act(&self, f: impl FnOnce(&mut RootComplex, &mut Cx<'_, Event>)) {
        self.with_model(f);
    }

    /// Device-side state now.
    pub fn sample(&self, point: SamplePoint) -> Sample {
        lock(&self.model).rc.sample((self.clock)(), point)
    }

    /// Levels that the lines carry.
    pub fn line_levels(&self) -> IrqLevels {
        lock(&self.lines).levels
    }

    /// Accesses so far.
    pub fn accesses(&self) -> u64 {
        self.accesses.load(Ordering::Relaxed)
    }

    /// Doorbells among them that came as eventfds.
    pub fn doorbell_events(&self) -> u64 {
        self.doorbell_events.load(Ordering::Relaxed)
    }

    /// Empty the trace.
    pub fn take_trace(&self) -> Taken {
        self.trace.as_ref().map(|t| lock(t).take()).unwrap_or_default()
    }

    fn with_model<R>(&self, f: impl FnOnce(&mut RootComplex, &mut Cx<'_, Event>) -> R) -> R {
        let now = (self.clock)();
        let mut m = lock(&self.model);
        let Modelled { rc, mem, events } = &mut *m;
        let mut cx = Cx { now, mem: mem.as_mut(), events };
        self.deliver(rc, &mut cx);
        let r = f(rc, &mut cx);
        let levels = rc.irq_levels();
        let deadline = rc.next_deadline();
        let effects = rc.take_effects();
        let events = std::mem::take(events);
        // Under the model lock: of two calls the later one's deadline has to win.
        self.timer.arm(deadline);
        // The line lock before the model lock goes: see the module comment.
        let mut lines = lock(&self.lines);
        let doorbells = self.doorbells.as_ref().map(|d| (lock(&d.doorbells), self.wanted_doorbells(rc)));
        drop(m);
        if let Some((mut doorbells, wanted)) = doorbells {
            doorbells.arm(&wanted);
        }
        move_lines(&mut lines, levels);
        for Effect::ItsMsi { rid, addr, data } in effects {
            lines.out.its_msi(rid, addr, data);
        }
        drop(lines);
        for e in events {
            (self.observer)(e, now);
        }
        r
    }

    /// Doorbells that rang before the access that comes now.
    fn deliver(&self, rc: &mut RootComplex, cx: &mut Cx<'_, Event>) {
        let Some(d) = &self.doorbells else { return };
        let mut doorbells = lock(&d.doorbells);
        if doorbells.is_empty() {
            return;
        }
        let rung = doorbells.take_rung();
        drop(doorbells);
        for addr in rung {
            self.accesses.fetch_add(1, Ordering::Relaxed);
            self.doorbell_events.fetch_add(1, Ordering::Relaxed);
            if let Some((_, off)) = self.decode(addr) {
                rc.ring(cx, off);
            }
        }
    }

    /// Addresses that are to be eventfds. While somebody wants to hold an access there are none.
    fn wanted_doorbells(&self, rc: &RootComplex) -> Vec<u64> {
        if self.interposer.is_watching() {
            return Vec::new();
        }
        let base = rc.soc().window(Window::Mem).0;
        rc.doorbells().into_iter().map(|off| base + off).collect()
    }

    /// Delivers doorbells until [`RcBus::stop_doorbells`]; the body of a thread.
    pub fn run_doorbells(&self) {
        let Some(d) = &self.doorbells else { return };
        let mut event = [EpollEvent::default(); 2];
        loop {
            let n = d.epoll.wait(-1, &mut event).unwrap_or(0);
            if event.iter().take(n).any(|e| e.data() == STOP) {
                return;
            }
            self.with_model(|_, _| ());
        }
    }

    /// End the thread of doorbells.
    pub fn stop_doorbells(&self) {
        if let Some(d) = &self.doorbells {
            let _ = d.stop.write(1);
        }
    }

    /// Runs the model's deadlines until [`RcBus::stop_timer`]; the body of the timer thread.
    pub fn run_timer(&self) {
        self.timer.run(&self.clock, || self.with_model(|rc, cx| rc.tick(cx)));
    }

    /// End the timer thread.
    pub fn stop_timer(&self) {
        self.timer.stop();
    }
}

fn move_lines(s: &mut LineState, levels: IrqLevels) {
    let mut changed = s.levels ^ levels;
    s.levels = levels;
    while changed != 0 {
        let line = changed.trailing_zeros();
        changed &= changed - 1;
        s.out.set(line, levels >> line & 1 != 0);
    }
}

#[cfg(test)]
#[path = "bus_test.rs"]
mod tests;
