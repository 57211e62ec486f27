//! A function with queues in guest memory, alone behind a recording port, under any driver.
//!
//! The functions of a whole machine are reached by `crate::trial` too, but seldom with queues that work. Here each target
//! has one kind of function, a driver that knows how to set its queues up, and checks that follow every memory request.
//!
//! Checked for both: no panic; each request is one page's; requests of one call are bounded; the function reaches memory by the
//! port alone; the state that it saves is bounded; a restored twin does the same. What is written, and which interrupts are
//! sent, each target checks against what the function has read: see [`nvme`] and [`virtio`].

mod disk;
pub mod nvme;
mod port;
pub mod virtio;

use block::Cx;
use block::MemPort;
use block::ResetKind;
use block::SimTime;
use block::VecMem;
use block::Width;
use pcie::Bdf;
use pcie::Function;
use pcie::Outcome;
use port::Access;
use port::Port;

/// Bytes of an operation.
pub const OP_BYTES: usize = 16;
/// Bytes before the first operation.
pub const SETUP_BYTES: usize = 8;

const BAR0: u64 = 0x6030_0000;
const BAR1: u64 = 0x6030_4000;
const BDF: Bdf = Bdf::new(1, 0, 0);
const RAM: u64 = 0x8000_0000;
const RAM_BYTES: usize = 0x8_0000;
const RAM_END: u64 = RAM + RAM_BYTES as u64;
/// Data buffers of the driver; its queues are below.
const DATA: u64 = RAM + 0x4_0000;
/// Where messages go.
const MSI_ADDR: u64 = 0xfee0_0000;
/// Most bytes of a saved state as text.
const MOST_STATE_BYTES: usize = 1 << 20;
/// How often the size of the state is looked at.
const STATE_EVERY: u64 = 16;

/// How far a trial got.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Operations.
    pub ops: u64,
    /// Commands or chains that the function has taken.
    pub taken: u64,
    /// Completions or used chains that it has given back.
    pub completed: u64,
    /// Messages.
    pub messages: u64,
    /// Saves and restores.
    pub forks: u64,
}

/// One operation's bytes, taken from the front; past the end they are 0.
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn u8(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }

    fn width(&mut self) -> Width {
        [Width::B4, Width::B2, Width::B1, Width::B8][usize::from(self.u8() & 3)]
    }

    /// An address: mostly in the driver's data, at times in a queue or at an edge.
    fn address(&mut self) -> u64 {
        let x = self.u16();
        let n = u64::from(x & 0x1fff);
        match x >> 13 {
            0..3 => DATA + (n & 0x3f) * 0x1000,
            3 => DATA + n * 0x20,
            4 => RAM + (n & 0x7f) * 0x1000,
            5 => RAM + n * 0x10,
            6 => DATA + (n & 0x3f) * 0x1000 + 0xff0,
            _ => {
                let edges = [0, RAM_END - 8, RAM_END, RAM - 0x1000, MSI_ADDR, BAR0, !0xfff, u64::MAX - 15];
                edges[usize::from(x & 7)]
            }
        }
    }

    fn reset_kind(&mut self) -> ResetKind {
        [ResetKind::Perst, ResetKind::HotReset, ResetKind::LinkDown, ResetKind::D3HotToD0]
            [usize::from(self.u8() & 3)]
    }
}

/// A function may reach memory by its port only.
struct NoMemory;

impl MemPort for NoMemory {
    fn read(&mut self, addr: u64, _: &mut [u8]) -> bool {
        panic!("memory read at {addr:#x} past the port")
    }

    fn write(&mut self, addr: u64, _: &[u8]) -> bool {
        panic!("memory written at {addr:#x} past the port")
    }
}

/// What one call makes visible.
#[derive(Debug, PartialEq)]
struct Seen {
    data: u64,
    accesses: Vec<Access>,
    messages: Vec<(u32, pcie::Message)>,
    intx: u8,
    next_deadline: Option<SimTime>,
}

/// One call of the function.
#[derive(Clone, Copy, Debug)]
enum Call {
    Read(u64, Width),
    Write(u64, Width, u64),
    ConfigRead(u16, Width),
    ConfigWrite(u16, Width, u64),
    Wait(u64),
    Reset(ResetKind),
}

/// The function with its port and memory.
struct Bench {
    f: Box<dyn Function<()>>,
    port: Port,
    now: SimTime,
}

impl Bench {
    fn new(f: Box<dyn Function<()>>) -> Bench {
        Bench { f, port: Port::new(VecMem::new(RAM, RAM_BYTES)), now: SimTime::ZERO }
    }

    fn call(&mut self, call: Call) -> Seen {
        if let Call::Wait(ns) = call {
            self.now = self.now.after_ns(ns);
        }
        let mut events = Vec::new();
        let (f, up) = (&mut self.f, &mut self.port);
        let cx = &mut Cx { now: self.now, mem: &mut NoMemory, events: &mut events };
        let data = match call {
            Call::Read(at, w) => outcome(f.mem_read(cx, up, at, w), w),
            Call::Write(at, w, v) => f.mem_write(cx, up, at, w, v & w.ones()) as u64,
            Call::ConfigRead(at, w) => f.config_read(cx, None, at, w),
            Call::ConfigWrite(at, w, v) => {
                f.config_write(cx, up, BDF, at, w, v & w.ones());
                0
            }
            Call::Wait(_) => {
                f.tick(cx, up);
                0
            }
            Call::Reset(kind) => {
                f.reset(cx, kind);
                0
            }
        };
        let (accesses, messages) = self.port.take();
        Seen { data, accesses, messages, intx: self.f.intx(), next_deadline: self.f.next_deadline() }
    }

    /// A copy by way of the saved form as text, around the new function `f`.
    fn restored(&self, mut f: Box<dyn Function<()>>) -> Result<Bench, String> {
        let text = serde_json::to_string(&self.f.save()).map_err(|e| e.to_string())?;
        let state = serde_json::from_str(&text).map_err(|e| format!("its own state does not parse: {e}"))?;
        f.restore(&state).map_err(|e| format!("its own state is refused: {e}"))?;
        Ok(Bench { f, port: self.port.clone(), now: self.now })
    }
}

/// A read that nobody answers is not the same as one of ones.
fn outcome(o: Outcome, w: Width) -> u64 {
    if o.status == pcie::Completion::Success {
        o.data & w.ones()
    } else {
        u64::MAX
    }
}

/// The function under test, its twin after the first fork, and checks that hold for any function.
struct Pair {
    bench: Bench,
    twin: Option<Bench>,
    /// Most requests of one call.
    most_requests: usize,
    msix: Msix,
    tally: Tally,
}

/// The vectors as the driver has programmed them.
struct Msix {
    table: u64,
    entries: Vec<[u64; 4]>,
}

impl Pair {
    fn new(f: Box<dyn Function<()>>, table: u64, vectors: usize, most_requests: usize) -> Pair {
        let msix = Msix { table, entries: vec![[0, 0, 0, 1]; vectors] };
        Pair { bench: Bench::new(f), twin: None, most_requests, msix, tally: Tally::default() }
    }

    /// Make `call` and check what must hold of any function.
    fn call(&mut self, call: Call) -> Result<Seen, String> {
        let seen = self.bench.call(call);
        if let Some(twin) = &mut self.twin {
            let of_twin = twin.call(call);
            if seen != of_twin {
                return Err(format!(
                    "{call:x?}: the restored function does something else:\n{seen:x?}\n{of_twin:x?}"
                ));
            }
        }
        self.follow_table(call);
        let requests = seen.accesses.len() + seen.messages.len();
        if requests > self.most_requests {
            return Err(format!("{call:x?}: {requests} requests"));
        }
        if let Some(a) = seen.accesses.iter().find(|a| a.crosses_page()) {
            return Err(format!(
                "{call:x?}: a request crosses a page: {:#x}, {} bytes",
                a.addr,
                a.data.len()
            ));
        }
        for (vector, m) in &seen.messages {
            self.check_message(*vector, *m).map_err(|e| format!("{call:x?}: {e}"))?;
        }
        self.tally.messages += seen.messages.len() as u64;
        Ok(seen)
    }

    /// The table is written through its BAR alone: after such a write it can be read.
    fn follow_table(&mut self, call: Call) {
        match call {
            Call::Reset(_) => self.msix.entries.fill([0, 0, 0, 1]),
            Call::Write(..) | Call::ConfigWrite(..) => {
                for i in 0..self.msix.entries.len() * 4 {
                    // A BAR that is elsewhere or off: the table is as it was.
                    let Some(v) = self.peek(self.msix.table + i as u64 * 4) else { return };
                    self.msix.entries[i / 4][i % 4] = v;
                }
            }
            _ => {}
        }
    }

    /// A dword of a BAR, read from the twin too: an access that nobody answers leaves a trace in the error registers.
    fn peek(&mut self, at: u64) -> Option<u64> {
        let read = Call::Read(at, Width::B4);
        if let Some(twin) = &mut self.twin {
            twin.call(read);
        }
        Some(self.bench.call(read).data).filter(|v| *v != u64::MAX)
    }

    /// A message is that of a vector, as the driver has programmed it and not masked.
    fn check_message(&mut self, vector: u32, m: pcie::Message) -> Result<(), String> {
        let mut config = |at, w| self.bench.call(Call::ConfigRead(at, w)).data;
        if config(0xb2, Width::B2) & 0x8000 == 0 {
            let addr = config(0x54, Width::B4) | config(0x58, Width::B4) << 32;
            let enabled = config(0x50, Width::B1) == 5 && config(0x52, Width::B2) & 1 != 0;
            let granted = 1 << (config(0x52, Width::B2) >> 4 & 7).min(5);
            let data = u64::from(m.data) & !(granted - 1);
            let expected = config(0x5c, Width::B2) & !(granted - 1);
            return if enabled && m.addr == addr && data == expected && u64::from(vector) < granted {
                Ok(())
            } else {
                Err(format!("MSI {vector} that nobody programmed: {m:x?}"))
            };
        }
        match self.msix.entries.get(vector as usize) {
            Some([lo, hi, data, control])
                if m.addr == lo | hi << 32 && u64::from(m.data) == *data && control & 1 == 0 =>
            {
                Ok(())
            }
            entry => Err(format!("MSI-X {vector} is {entry:x?}, and sends {m:x?}")),
        }
    }

    /// Save, and go on with a restored twin beside.
    fn fork(&mut self, f: Box<dyn Function<()>>) -> Result<(), String> {
        self.tally.forks += 1;
        self.compare_twin()?;
        self.twin = Some(self.bench.restored(f)?);
        Ok(())
    }

    /// Function and twin have the same state and the same memory.
    fn compare_twin(&self) -> Result<(), String> {
        let Some(twin) = &self.twin else { return Ok(()) };
        if self.bench.f.save() != twin.f.save() {
            return Err(format!("the twin's state differs: {:?}\n{:?}", self.bench.f.save(), twin.f.save()));
        }
        if self.bench.port.mem.bytes != twin.port.mem.bytes {
            return Err("the twin's memory differs".to_owned());
        }
        Ok(())
    }

    fn check_state_size(&self) -> Result<(), String> {
        let bytes = serde_json::to_string(&self.bench.f.save()).map_err(|e| e.to_string())?.len();
        if bytes > MOST_STATE_BYTES {
            return Err(format!("a state of {bytes} bytes"));
        }
        Ok(())
    }

    /// The driver writes its memory.
    fn put(&mut self, addr: u64, bytes: &[u8]) {
        // What is not RAM stays as it is: any address is the driver's to try.
        let _ = self.bench.port.mem.write(addr, bytes);
        if let Some(twin) = &mut self.twin {
            let _ = twin.port.mem.write(addr, bytes);
        }
    }
}

/// What the seeds of a target reach together.
#[cfg(test)]
fn tally_of_seeds(target: &str, run: impl Fn(&[u8]) -> Result<Tally, String>) -> Tally {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds").join(target);
    let mut all = Tally::default();
    for entry in std::fs::read_dir(dir).expect("the seeds of the repository") {
        let seed = std::fs::read(entry.expect("an entry").path()).expect("a seed");
        let t = run(&seed).expect("every check holds");
        all.taken += t.taken;
        all.completed += t.completed;
        all.messages += t.messages;
        all.forks += t.forks;
    }
    all
}
