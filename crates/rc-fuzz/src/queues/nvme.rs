//! An NVMe controller under any driver.
//!
//! The checks follow what the controller reads: an entry of a submission queue is a command, and what is read besides may be a
//! list of pages. Each write is then one of these: a completion, in a completion queue that a command or ACQ names, of a command
//! that was fetched and not completed yet, with the identifier of a queue that holds it; data, beginning at an address that a
//! command or a list has; an event index, in the page that a command names.

use std::collections::HashSet;

use block::Width;
use endpoints::nvme::command::admin;
use endpoints::nvme::command::nvm;
use endpoints::nvme::command::Command;
use endpoints::nvme::command::CQE_BYTES;
use endpoints::nvme::command::SQE_BYTES;
use endpoints::nvme::regs::cc;
use endpoints::nvme::regs::csts;
use endpoints::nvme::regs::off;
use endpoints::MemDisk;
use endpoints::Nvme;
use endpoints::NvmeSpec;
use pcie::Function;

use super::disk::Shared;
use super::port::Access;
use super::Bytes;
use super::Call;
use super::Pair;
use super::Tally;
use super::BAR0;
use super::MSI_ADDR;
use super::OP_BYTES;
use super::RAM;
use super::SETUP_BYTES;
use super::STATE_EVERY;

const QUEUES: u16 = 4;
const DEPTH: u16 = 16;
const DISK_BYTES: usize = 64 << 10;
/// Entry sizes of 64 and 16 bytes.
const CC: u64 = 0x0046_0000;
/// Commands that one call can take: eight rounds (a host that goes on in its shadow doorbells) of each queue at its largest.
const MOST_COMMANDS: usize = 8 * (4096 + QUEUES as usize * 256);
/// Requests of one command: data in pages, their lists, entry and completion, and what shadow doorbells ask for.
const REQUESTS_A_COMMAND: usize = 128 + 2 + 2 + 24;

fn controller(latency_ns: u64, disk: MemDisk) -> (Box<dyn Function<()>>, Shared) {
    let disk = Shared::new(disk);
    let spec = NvmeSpec { io_queues: QUEUES, latency_ns, ..NvmeSpec::new(Box::new(disk.clone()), "fuzz") };
    (Box::new(Nvme::new(spec)), disk)
}

fn sq_at(q: u16) -> u64 {
    RAM + u64::from(q) * 0x8000
}

fn cq_at(q: u16) -> u64 {
    sq_at(q) + 0x4000
}

/// A ring in guest memory that some command names.
struct Ring {
    id: u16,
    base: u64,
    bytes: u64,
}

impl Ring {
    fn has(&self, addr: u64, entry_bytes: usize) -> bool {
        let off = addr.wrapping_sub(self.base);
        off < self.bytes && off.is_multiple_of(entry_bytes as u64)
    }
}

/// What the controller has been told since it was enabled.
#[derive(Default)]
struct Told {
    sqs: Vec<Ring>,
    cqs: Vec<Ring>,
    /// Where data may begin.
    addresses: HashSet<u64>,
    /// Pages of event indices.
    events: HashSet<u64>,
    /// Commands that have been fetched and not completed: where, and their identifiers.
    outstanding: Vec<(u64, u16)>,
}

impl Told {
    fn read(&mut self, a: &Access) -> bool {
        let (words, _) = a.data.as_chunks::<8>();
        self.addresses.extend(words.iter().map(|w| u64::from_le_bytes(*w)).filter(|a| *a != 0));
        let Ok(sqe) = <&[u8; SQE_BYTES]>::try_from(&a.data[..]) else { return false };
        if !a.done || !self.sqs.iter().any(|q| q.has(a.addr, SQE_BYTES)) {
            return false;
        }
        let c = Command::decode(sqe);
        self.addresses.extend([c.prp1, c.prp2]);
        self.outstanding.push((a.addr, c.cid));
        if self.sqs.iter().any(|q| q.id == 0 && q.has(a.addr, SQE_BYTES)) {
            let entries = u64::from(c.cdw10 >> 16) + 1;
            let ring =
                |entry: usize| Ring { id: c.cdw10 as u16, base: c.prp1, bytes: entries * entry as u64 };
            match c.opcode {
                admin::CREATE_SQ => self.sqs.push(ring(SQE_BYTES)),
                admin::CREATE_CQ => self.cqs.push(ring(CQE_BYTES)),
                admin::DOORBELL_BUFFER => {
                    self.events.insert(c.prp2 & !0xfff);
                }
                _ => {}
            }
        }
        true
    }

    /// Whether `a` is a completion of an outstanding command, which it ends.
    fn complete(&mut self, a: &Access) -> bool {
        if a.data.len() != CQE_BYTES || !self.cqs.iter().any(|q| q.has(a.addr, CQE_BYTES)) {
            return false;
        }
        let half = |n: usize| u16::from_le_bytes([a.data[n], a.data[n + 1]]);
        let (sq, cid) = (half(10), half(12));
        let ends = self
            .outstanding
            .iter()
            .position(|(at, c)| *c == cid && self.sqs.iter().any(|q| q.id == sq && q.has(*at, SQE_BYTES)));
        ends.map(|n| self.outstanding.remove(n)).is_some()
    }

    fn check_write(&self, a: &Access) -> Result<(), String> {
        let event = a.data.len() == 4 && self.events.contains(&(a.addr & !0xfff));
        if event || self.addresses.contains(&a.addr) {
            return Ok(());
        }
        Err(format!("a write that nobody asked for: {a:x?}; outstanding {:x?}", self.outstanding))
    }
}

/// A driver's way through the controller.
pub struct Trial {
    pair: Pair,
    latency_ns: u64,
    disk: Shared,
    told: Told,
    enabled: bool,
    tails: [u16; QUEUES as usize + 1],
    /// After the last completion of each queue.
    heads: [u16; QUEUES as usize + 1],
    shadow: u64,
}

/// Run what `bytes` mean: a set-up, then operations. What is too short for another one is left.
pub fn run_bytes(bytes: &[u8]) -> Result<Tally, String> {
    let Some((setup, ops)) = bytes.split_first_chunk::<SETUP_BYTES>() else { return Ok(Tally::default()) };
    let mut trial = Trial::new(if setup[0] & 1 == 0 { 0 } else { 500 });
    trial.enable(setup[1])?;
    for (n, op) in ops.chunks_exact(OP_BYTES).enumerate() {
        trial.step(op).map_err(|e| format!("operation {n}, {op:02x?}: {e}"))?;
    }
    trial.finish()
}

impl Trial {
    fn new(latency_ns: u64) -> Trial {
        let (f, disk) = controller(latency_ns, MemDisk::new(DISK_BYTES));
        let most = MOST_COMMANDS * REQUESTS_A_COMMAND;
        let pair = Pair::new(f, BAR0 + u64::from(off::MSIX_TABLE), usize::from(QUEUES) + 1, most);
        Trial {
            pair,
            latency_ns,
            disk,
            told: Told::default(),
            enabled: false,
            tails: [0; QUEUES as usize + 1],
            heads: [0; QUEUES as usize + 1],
            shadow: 0,
        }
    }

    fn step(&mut self, op: &[u8]) -> Result<(), String> {
        self.pair.tally.ops += 1;
        let b = &mut Bytes(op);
        match b.u8() {
            0..112 => self.command(b)?,
            112..136 => {
                let q = u16::from(b.u8()) % (QUEUES + 1);
                self.reap(q)?;
            }
            136..150 => {
                let (q, v) = (u32::from(b.u8() % 12), b.u16());
                let v = if b.u8() & 1 == 0 { v & 0x1f } else { v };
                self.write(off::DOORBELLS + q * 4, Width::B4, v.into())?;
            }
            150..165 => self.list(b),
            165..175 => {
                let (at, v) = (b.address(), b.u64());
                self.pair.put(at, &v.to_le_bytes());
            }
            175..187 => {
                let (at, w, v) = (place(b), b.width(), b.u64());
                self.write(at & !(w.bytes() as u32 - 1), w, v)?;
            }
            187..192 => {
                let (at, w) = (place(b), b.width());
                self.call(Call::Read(BAR0 + u64::from(at & !(w.bytes() as u32 - 1)), w))?;
            }
            192..198 => {
                let (at, v) = (u16::from(b.u8()) * 2, b.u16());
                self.call(Call::ConfigWrite(at, Width::B2, v.into()))?;
            }
            198..220 => {
                let ns = b.u16() & 0x7ff;
                self.call(Call::Wait(ns.into()))?;
            }
            220..224 => {
                let kind = b.reset_kind();
                self.call(Call::Reset(kind))?;
            }
            224..236 => self.enable(b.u8())?,
            236..246 => self.buffers(b)?,
            _ => {
                let copy = self.disk.disk().clone();
                let (f, _) = controller(self.latency_ns, copy);
                self.pair.fork(f)?;
            }
        }
        if self.pair.tally.ops.is_multiple_of(STATE_EVERY) {
            self.pair.check_state_size()?;
        }
        Ok(())
    }

    fn finish(self) -> Result<Tally, String> {
        self.pair.check_state_size()?;
        self.pair.compare_twin()?;
        Ok(self.pair.tally)
    }

    fn call(&mut self, call: Call) -> Result<u64, String> {
        let seen = self.pair.call(call)?;
        let rdy = u64::from(csts::RDY);
        let enabled = match call {
            Call::Reset(_) => false,
            Call::Write(..) => {
                self.pair.peek(BAR0 + u64::from(off::CSTS)).map_or(self.enabled, |v| v & rdy != 0)
            }
            _ => self.enabled,
        };
        if enabled && !self.enabled {
            self.begin();
        }
        self.enabled = enabled;
        for a in &seen.accesses {
            if !a.write {
                self.pair.tally.taken += u64::from(self.told.read(a));
            } else if self.told.complete(a) {
                self.pair.tally.completed += 1;
                self.follow(a);
            } else {
                self.told.check_write(a)?;
            }
        }
        if !enabled {
            self.told = Told::default();
        }
        Ok(seen.data)
    }

    /// The controller has been enabled: its admin queues are those of the registers.
    fn begin(&mut self) {
        let mut get = |at: u32| self.pair.peek(BAR0 + u64::from(at)).unwrap_or(0);
        let aqa = get(off::AQA);
        let mut ring = |at: u32, size: u64, entry: usize| Ring {
            id: 0,
            base: get(at) | get(at + 4) << 32,
            bytes: ((size & 0xfff) + 1) * entry as u64,
        };
        let (sq, cq) = (ring(off::ASQ, aqa, SQE_BYTES), ring(off::ACQ, aqa >> 16, CQE_BYTES));
        self.told = Told { sqs: vec![sq], cqs: vec![cq], ..Told::default() };
    }

    /// Where the driver will put the head of the queue that this completion is in.
    fn follow(&mut self, a: &Access) {
        for q in 0..=QUEUES {
            let n = a.addr.wrapping_sub(cq_at(q)) / CQE_BYTES as u64;
            if n < DEPTH.into() {
                self.heads[usize::from(q)] = (n as u16 + 1) % DEPTH;
            }
        }
    }

    fn write(&mut self, at: u32, w: Width, v: u64) -> Result<(), String> {
        self.call(Call::Write(BAR0 + u64::from(at), w, v)).map(|_| ())
    }

    /// What Linux does to begin (v6.12 drivers/nvme/host/pci.c); the low bits of `how` say what is different.
    fn enable(&mut self, how: u8) -> Result<(), String> {
        self.call(Call::ConfigWrite(0x44, Width::B2, 0))?;
        self.call(Call::ConfigWrite(0x10, Width::B4, BAR0))?;
        self.call(Call::ConfigWrite(0x04, Width::B2, 6))?;
        self.interrupts(how & 3)?;
        self.write(off::CC, Width::B4, 0)?;
        let depth = u64::from(DEPTH) - 1;
        self.write(off::AQA, Width::B4, depth | depth << 16)?;
        self.write(off::ASQ, Width::B8, sq_at(0))?;
        self.write(off::ACQ, Width::B8, cq_at(0))?;
        self.write(off::CC, Width::B4, CC | u64::from(cc::EN))?;
        self.tails = [0; QUEUES as usize + 1];
        self.heads = self.tails;
        self.shadow = 0;
        for q in 1..=QUEUES.min(1 + u16::from(how >> 2 & 3)) {
            let id = u32::from(q) | u32::from(DEPTH - 1) << 16;
            // With the pin and with one MSI there is one vector.
            let vector = if how & 3 < 2 { u32::from(q) } else { 0 };
            self.submit(0, sqe(admin::CREATE_CQ, 0, cq_at(q), 0, [id, 3 | vector << 16, 0]))?;
            self.submit(0, sqe(admin::CREATE_SQ, 0, sq_at(q), 0, [id, 1 | u32::from(q) << 16, 0]))?;
        }
        self.reap(0)
    }

    /// MSI-X twice as often as one MSI or the pin.
    fn interrupts(&mut self, how: u8) -> Result<(), String> {
        self.call(Call::ConfigWrite(0xb2, Width::B2, if how < 2 { 0x8000 } else { 0 }))?;
        self.call(Call::ConfigWrite(0x52, Width::B2, u64::from(how == 2)))?;
        self.call(Call::ConfigWrite(0x54, Width::B4, MSI_ADDR))?;
        self.call(Call::ConfigWrite(0x5c, Width::B2, 0x40))?;
        for v in 0..=u32::from(QUEUES) {
            let at = off::MSIX_TABLE + v * 16;
            self.write(at, Width::B8, MSI_ADDR)?;
            self.write(at + 8, Width::B8, v.into())?;
        }
        Ok(())
    }

    /// A command at the driver's tail of a queue, and mostly its doorbell.
    fn command(&mut self, b: &mut Bytes<'_>) -> Result<(), String> {
        let how = b.u8();
        let q = u16::from(how & 7).min(QUEUES);
        let kind = b.u8();
        let opcode = match (q, kind & 0x1f) {
            (0, n @ 0..=10) => [
                admin::CREATE_CQ,
                admin::CREATE_SQ,
                admin::DELETE_SQ,
                admin::DELETE_CQ,
                admin::IDENTIFY,
                admin::GET_LOG_PAGE,
                admin::ASYNC_EVENT,
                admin::ABORT,
                admin::SET_FEATURES,
                admin::GET_FEATURES,
                admin::DOORBELL_BUFFER,
            ][usize::from(n)],
            (_, n @ 0..=12) => [nvm::READ, nvm::WRITE, nvm::READ, nvm::FLUSH, nvm::WRITE_ZEROES, nvm::DSM]
                [usize::from(n % 6)],
            _ => kind,
        };
        let (prp1, prp2) = (b.address(), b.address());
        let (cdw10, cdw11, cdw12, flags) = (b.u16(), b.u16(), b.u16(), b.u8());
        // Queues and blocks that exist are low numbers; a size is in the upper half.
        let dw10 =
            if flags & 1 == 0 { u32::from(cdw10 & 7) | u32::from(cdw10 >> 8) << 16 } else { cdw10.into() };
        let dw11 =
            if flags & 2 == 0 && q != 0 { 0 } else { u32::from(cdw11 & 0xff) | u32::from(cdw11 >> 8) << 16 };
        let dw12 = u32::from(if flags & 4 == 0 { cdw12 & 0x3f } else { cdw12 });
        let psdt_fuse = if flags >> 3 & 7 == 7 { u32::from(flags) } else { 0 };
        let mut words = sqe(opcode, psdt_fuse, prp1, prp2, [dw10, dw11, dw12]);
        words[1] = if flags & 0x40 == 0 { 1 } else { flags.into() };
        self.put_command(q, words);
        if how & 0x80 == 0 {
            self.ring(q)?;
        }
        Ok(())
    }

    fn submit(&mut self, q: u16, words: [u32; 16]) -> Result<(), String> {
        self.put_command(q, words);
        self.ring(q)
    }

    fn put_command(&mut self, q: u16, mut words: [u32; 16]) {
        let tail = &mut self.tails[usize::from(q)];
        let at = sq_at(q) + u64::from(*tail) * SQE_BYTES as u64;
        words[0] |= (u32::from(q) << 8 | u32::from(*tail)) << 16;
        *tail = (*tail + 1) % DEPTH;
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.pair.put(at, &bytes);
    }

    fn ring(&mut self, q: u16) -> Result<(), String> {
        self.ring_with(u32::from(q) * 8, self.tails[usize::from(q)])
    }

    /// Take all completions of a queue.
    fn reap(&mut self, q: u16) -> Result<(), String> {
        self.ring_with(u32::from(q) * 8 + 4, self.heads[usize::from(q)])
    }

    /// The shadow, if there is one, then the register.
    fn ring_with(&mut self, at: u32, v: u16) -> Result<(), String> {
        if self.shadow != 0 {
            self.pair.put(self.shadow.wrapping_add(at.into()), &u32::from(v).to_le_bytes());
        }
        self.write(off::DOORBELLS + at, Width::B4, v.into())
    }

    /// A list of pages, which may be its own continuation.
    fn list(&mut self, b: &mut Bytes<'_>) {
        let (at, first, n) = (b.address(), b.address(), b.u8() & 0x7f);
        let (step, last) = (u64::from(b.u8() & 3) * 0x800, b.address());
        for i in 0..u64::from(n) {
            self.pair.put(at.wrapping_add(i * 8), &first.wrapping_add(i * step).to_le_bytes());
        }
        self.pair.put(at | 0xff8, &last.to_le_bytes());
    }

    /// Doorbell buffers, mostly pages of their own.
    fn buffers(&mut self, b: &mut Bytes<'_>) -> Result<(), String> {
        let (shadow, event) = match b.u8() {
            0..192 => (RAM + 0x3_0000, RAM + 0x3_1000),
            _ => (b.address(), b.address()),
        };
        self.pair.put(shadow, &[0; 0x100]);
        self.submit(0, sqe(admin::DOORBELL_BUFFER, 0, shadow, event, [0; 3]))?;
        if self.enabled {
            self.shadow = shadow;
        }
        Ok(())
    }
}

/// A register, a doorbell or a place in the table.
fn place(b: &mut Bytes<'_>) -> u32 {
    let at = u32::from(b.u8());
    match b.u8() & 3 {
        0 => at & 0x3f,
        1 => off::DOORBELLS + (at & 0x3f),
        2 => off::MSIX_TABLE + (at & 0x7f),
        _ => at << 6,
    }
}

fn sqe(opcode: u8, flags: u32, prp1: u64, prp2: u64, dw10: [u32; 3]) -> [u32; 16] {
    let mut w = [0; 16];
    w[0] = u32::from(opcode) | flags << 8;
    (w[6], w[7], w[8], w[9]) = (prp1 as u32, (prp1 >> 32) as u32, prp2 as u32, (prp2 >> 32) as u32);
    w[10..13].copy_from_slice(&dw10);
    w
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(addr: u64, data: &[u8]) -> Access {
        Access { addr, data: data.to_vec(), write: true, done: true }
    }

    fn completion(sq: u8, cid: u8) -> [u8; CQE_BYTES] {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, sq, 0, cid, 0, 1, 0]
    }

    /// Told of one read of admin queue 0, with identifier 7 and data at `DATA`.
    fn told() -> Told {
        let ring = |base| Ring { id: 0, base, bytes: 0x400 };
        let mut t = Told { sqs: vec![ring(sq_at(0))], cqs: vec![ring(cq_at(0))], ..Told::default() };
        let words = sqe(admin::IDENTIFY, 7 << 8, super::super::DATA, 0, [0; 3]);
        let data = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        assert!(t.read(&Access { addr: sq_at(0), data, write: false, done: true }));
        t
    }

    #[test]
    fn a_command_has_one_completion_in_its_queue() {
        for (entry, at, taken) in [
            (completion(0, 7), cq_at(0), true),
            (completion(0, 6), cq_at(0), false),
            (completion(1, 7), cq_at(0), false),
            (completion(0, 7), cq_at(0) + 8, false),
            (completion(0, 7), cq_at(1), false),
        ] {
            let mut t = told();
            assert_eq!(t.complete(&write(at, &entry)), taken, "{entry:?} at {at:#x}");
            assert!(!t.complete(&write(at, &entry)), "no second one");
        }
    }

    #[test]
    fn data_goes_where_a_command_says() {
        let t = told();
        assert_eq!(t.check_write(&write(super::super::DATA, &[0; 4096])), Ok(()));
        assert!(t.check_write(&write(super::super::DATA + 4, &[0; 4])).is_err());
        assert!(t.check_write(&write(super::super::DATA + 0x1000, &[0; 4])).is_err());
    }

    #[test]
    fn a_driver_of_the_seeds_gets_its_commands_completed() {
        let t = super::super::tally_of_seeds("nvme_queues", run_bytes);
        assert!(t.completed >= 20 && t.messages >= 10 && t.forks >= 8, "{t:?}");
    }
}
