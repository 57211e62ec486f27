//! A virtio function under any driver.
//!
//! The checks follow what the device reads in a call: sixteen bytes may be a descriptor, two may be the head of a chain. Each write
//! is then one of these: a used element, whose head was read and whose length the descriptors hold; the used index or
//! `avail_event`; or data, inside a buffer that a descriptor gives to the device to write.

use block::Width;
use endpoints::virtio::pci::NOTIFY_AT;
use endpoints::virtio::queue::flag;
use endpoints::virtio::regs::off;
use endpoints::virtio::regs::status;
use endpoints::virtio::Blk;
use endpoints::virtio::Console;
use endpoints::virtio::Net;
use endpoints::virtio::Rng;
use endpoints::virtio::VirtioPci;
use endpoints::virtio::TURN_REQUESTS;
use endpoints::MemDisk;
use pcie::Function;

use super::disk::Shared;
use super::port::Access;
use super::Bytes;
use super::Call;
use super::Pair;
use super::Seen;
use super::Tally;
use super::BAR0;
use super::BAR1;
use super::DATA;
use super::MSI_ADDR;
use super::OP_BYTES;
use super::RAM;
use super::SETUP_BYTES;
use super::STATE_EVERY;

/// Queues that the driver uses.
const QUEUES: u16 = 2;
const DEPTH: u16 = 16;
const DISK_BYTES: usize = 64 << 10;
const RUNNING: u8 = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;
/// Requests of one call: a turn, and the one chain that it may go over by.
const MOST_REQUESTS: usize = 4 * TURN_REQUESTS as usize;

/// What decides the function.
#[derive(Clone, Copy)]
struct Kind {
    device: u8,
    latency_ns: u64,
}

impl Kind {
    fn function(self, disk: Shared) -> Box<dyn Function<()>> {
        match self.device & 3 {
            0 => {
                Box::new(VirtioPci::new(Blk::new(Box::new(disk), 2, "fuzz")).with_latency_ns(self.latency_ns))
            }
            1 => Box::new(VirtioPci::new(Net::new([2, 0, 0, 0, 0, 9])).with_latency_ns(self.latency_ns)),
            2 => Box::new(VirtioPci::new(Console::new()).with_latency_ns(self.latency_ns)),
            _ => Box::new(VirtioPci::new(Rng::new(7)).with_latency_ns(self.latency_ns)),
        }
    }
}

fn desc_at(q: u16) -> u64 {
    RAM + u64::from(q) * 0x8000
}

fn avail_at(q: u16) -> u64 {
    desc_at(q) + 0x4000
}

fn used_at(q: u16) -> u64 {
    desc_at(q) + 0x6000
}

/// A used ring, as the queue's registers name it.
#[derive(Clone, Copy)]
struct Used {
    base: u64,
    size: u64,
}

/// What the device has read in a call.
#[derive(Default)]
struct Told {
    heads: Vec<u16>,
    /// Buffers for the device to write: where, and how long.
    buffers: Vec<(u64, u64)>,
}

impl Told {
    fn read(&mut self, a: &Access) {
        if let Ok(head) = <[u8; 2]>::try_from(&a.data[..]) {
            self.heads.push(u16::from_le_bytes(head));
        }
        if let Ok(d) = <[u8; 16]>::try_from(&a.data[..]) {
            let d = u128::from_le_bytes(d);
            let (addr, len, flags) = (d as u64, u64::from((d >> 64) as u32), (d >> 96) as u16);
            if flags & flag::WRITE != 0 {
                self.buffers.push((addr, len));
            }
        }
    }

    /// Whether it is a used element of `rings`, or wrong as one.
    fn is_element(&self, a: &Access, rings: &[Used]) -> bool {
        let Ok(e) = <[u8; 8]>::try_from(&a.data[..]) else { return false };
        let (head, len) = (u64::from_le_bytes(e) as u32, u64::from_le_bytes(e) >> 32);
        let room: u64 = self.buffers.iter().map(|b| b.1).fold(0, u64::saturating_add);
        let placed = rings.iter().any(|r| {
            let at = a.addr.wrapping_sub(r.base).wrapping_sub(4);
            at.is_multiple_of(8) && at / 8 < r.size
        });
        placed && self.heads.iter().any(|h| u32::from(*h) == head) && len <= room
    }

    fn check_write(&self, a: &Access, rings: &[Used]) -> Result<(), String> {
        let len = a.data.len() as u64;
        let index = |r: &Used| [2, 4 + 8 * r.size].iter().any(|at| r.base.checked_add(*at) == Some(a.addr));
        if len == 2 && rings.iter().any(index) {
            return Ok(());
        }
        let inside = |b: &(u64, u64)| a.addr >= b.0 && a.addr - b.0 + len <= b.1;
        if self.buffers.iter().any(inside) {
            return Ok(());
        }
        Err(format!(
            "a write that nobody asked for: {a:x?}; heads {:x?}, buffers {:x?}",
            self.heads, self.buffers
        ))
    }
}

/// A driver's way through the device.
pub struct Trial {
    pair: Pair,
    kind: Kind,
    disk: Shared,
    /// Descriptors and available entries that the driver has used up, counting on.
    next_desc: [u16; QUEUES as usize],
    added: [u16; QUEUES as usize],
}

/// Run what `bytes` mean: a set-up, then operations. What is too short for another one is left.
pub fn run_bytes(bytes: &[u8]) -> Result<Tally, String> {
    let Some((setup, ops)) = bytes.split_first_chunk::<SETUP_BYTES>() else { return Ok(Tally::default()) };
    let latency_ns = if setup[1] & 1 == 0 { 0 } else { 500 };
    let mut trial = Trial::new(Kind { device: setup[0], latency_ns });
    trial.probe(setup[2])?;
    for (n, op) in ops.chunks_exact(OP_BYTES).enumerate() {
        trial.step(op).map_err(|e| format!("operation {n}, {op:02x?}: {e}"))?;
    }
    trial.finish()
}

impl Trial {
    fn new(kind: Kind) -> Trial {
        let disk = Shared::new(MemDisk::new(DISK_BYTES));
        let f = kind.function(disk.clone());
        let vectors = if kind.device & 3 == 3 { 2 } else { 3 };
        Trial {
            pair: Pair::new(f, BAR1, vectors, MOST_REQUESTS),
            kind,
            disk,
            next_desc: [0; QUEUES as usize],
            added: [0; QUEUES as usize],
        }
    }

    fn step(&mut self, op: &[u8]) -> Result<(), String> {
        self.pair.tally.ops += 1;
        let b = &mut Bytes(op);
        match b.u8() {
            0..72 => {
                let q = u16::from(b.u8()) % QUEUES;
                self.chain(q, b)?;
            }
            72..96 => {
                let q = u16::from(b.u8()) % QUEUES;
                self.request(q, b)?;
            }
            96..120 => {
                let q = u32::from(b.u8() % 5);
                self.write(NOTIFY_AT + q * 4, Width::B2, q.into())?;
            }
            120..140 => {
                let (table, n) = (b.address(), u64::from(b.u8() & 0xf));
                let d = (b.address(), b.u32(), b.u16() & 7, b.u16());
                self.descriptor(table.wrapping_add(n * 16), d);
            }
            140..156 => self.corrupt(b),
            156..172 => {
                let (at, w, v) = (place(b), b.width(), b.u64());
                self.write(at & !(w.bytes() as u32 - 1), w, v)?;
            }
            172..178 => {
                let (at, w) = (place(b), b.width());
                self.call(Call::Read(BAR0 + u64::from(at & !(w.bytes() as u32 - 1)), w))?;
            }
            178..188 => {
                let (at, w, v) = (u16::from(b.u8()), b.width(), b.u64());
                let at = at & !(w.bytes().min(4) as u16 - 1);
                let w = if w == Width::B8 { Width::B4 } else { w };
                self.call(Call::ConfigWrite(at, w, v))?;
                self.call(Call::ConfigRead(at, w))?;
            }
            188..212 => {
                let ns = b.u16() & 0xfff;
                self.call(Call::Wait(ns.into()))?;
            }
            212..216 => {
                let kind = b.reset_kind();
                self.call(Call::Reset(kind))?;
            }
            216..232 => self.probe(b.u8())?,
            232..242 => self.resize(b)?,
            _ => {
                let copy = Shared::new(self.disk.disk().clone());
                self.pair.fork(self.kind.function(copy))?;
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

    /// The used rings that the registers name. The saved state shows those of all queues; a driver sees one at a time.
    fn rings(&self) -> Vec<Used> {
        let state = self.pair.bench.f.save();
        let queues = state.data.pointer("/common/queues").and_then(|q| q.as_array().cloned());
        let get = |q: &serde_json::Value, name: &str| q[name].as_u64().unwrap_or(0);
        queues
            .unwrap_or_default()
            .iter()
            .map(|q| Used { base: get(q, "used"), size: get(q, "size") })
            .collect()
    }

    fn call(&mut self, call: Call) -> Result<u64, String> {
        let rings = self.rings();
        let Seen { data, accesses, .. } = self.pair.call(call)?;
        let mut told = Told::default();
        let mut rest = accesses.iter().peekable();
        while let Some(a) = rest.next() {
            let whole = rest.peek().and_then(|b| a.joined(b));
            if !a.write {
                for a in [Some(a), whole.as_ref()].into_iter().flatten() {
                    told.read(a);
                    self.pair.tally.taken += u64::from(a.data.len() == 16);
                }
            } else if told.is_element(a, &rings) {
                self.pair.tally.completed += 1;
            } else if whole.is_some_and(|w| told.is_element(&w, &rings)) {
                self.pair.tally.completed += 1;
                rest.next();
            } else {
                told.check_write(a, &rings).map_err(|e| format!("{call:x?}: {e}"))?;
            }
        }
        Ok(data)
    }

    fn write(&mut self, at: u32, w: Width, v: u64) -> Result<(), String> {
        self.call(Call::Write(BAR0 + u64::from(at), w, v)).map(|_| ())
    }

    /// What Linux does in probe (v6.12 drivers/virtio/virtio_pci_modern.c, virtio.c); `how` says what is different.
    fn probe(&mut self, how: u8) -> Result<(), String> {
        self.call(Call::ConfigWrite(0x44, Width::B2, 0))?;
        self.call(Call::ConfigWrite(0x10, Width::B4, BAR0))?;
        self.call(Call::ConfigWrite(0x14, Width::B4, BAR1))?;
        self.call(Call::ConfigWrite(0x04, Width::B2, 6))?;
        let msix = how & 3 != 0;
        for v in 0..=u64::from(QUEUES) {
            self.call(Call::Write(BAR1 + v * 16, Width::B8, MSI_ADDR))?;
            self.call(Call::Write(BAR1 + v * 16 + 8, Width::B8, v))?;
        }
        self.call(Call::ConfigWrite(0xb2, Width::B2, if msix { 0x8000 } else { 0 }))?;
        self.write(off::STATUS, Width::B1, 0)?;
        self.write(off::STATUS, Width::B1, (status::ACKNOWLEDGE | status::DRIVER).into())?;
        // Without event indices, or without indirect descriptors.
        let without = u64::from(how >> 2 & 1) << 29 | u64::from(how >> 3 & u8::from(how & 0x10 != 0)) << 28;
        for half in 0..2u64 {
            self.write(off::DEVICE_FEATURE_SELECT, Width::B4, half)?;
            let offered = self.call(Call::Read(BAR0 + u64::from(off::DEVICE_FEATURE), Width::B4))?;
            self.write(off::DRIVER_FEATURE_SELECT, Width::B4, half)?;
            self.write(off::DRIVER_FEATURE, Width::B4, offered & !(without >> (32 * half)))?;
        }
        self.write(off::STATUS, Width::B1, u64::from(RUNNING & !status::DRIVER_OK))?;
        self.write(off::CONFIG_VECTOR, Width::B2, 0)?;
        for q in 0..QUEUES {
            self.write(off::QUEUE_SELECT, Width::B2, q.into())?;
            self.write(off::QUEUE_SIZE, Width::B2, DEPTH.into())?;
            self.write(off::QUEUE_DESC, Width::B8, desc_at(q))?;
            self.write(off::QUEUE_AVAIL, Width::B8, avail_at(q))?;
            self.write(off::QUEUE_USED, Width::B8, used_at(q))?;
            self.write(off::QUEUE_VECTOR, Width::B2, u64::from(q) + 1)?;
            self.pair.put(desc_at(q), &[0; 0x8000]);
            self.write(off::QUEUE_ENABLE, Width::B2, 1)?;
        }
        self.next_desc = [0; QUEUES as usize];
        self.added = [0; QUEUES as usize];
        self.write(off::STATUS, Width::B1, RUNNING.into())
    }

    fn descriptor(&mut self, at: u64, (addr, len, flags, next): (u64, u32, u16, u16)) {
        let d = u128::from(addr) | u128::from(len) << 64 | u128::from(flags) << 96 | u128::from(next) << 112;
        self.pair.put(at, &d.to_le_bytes());
    }

    /// Descriptors one behind the other, made available.
    fn add(&mut self, q: u16, list: &[(u64, u32, u16)], broken_next: Option<u16>) {
        let n = usize::from(q);
        let head = self.next_desc[n];
        for (i, (addr, len, flags)) in list.iter().enumerate() {
            let at = (head + i as u16) % DEPTH;
            let last = i + 1 == list.len();
            let next = if last { broken_next } else { Some((at + 1) % DEPTH) };
            let flags = flags | if next.is_some() { flag::NEXT } else { 0 };
            self.descriptor(desc_at(q) + u64::from(at) * 16, (*addr, *len, flags, next.unwrap_or(0)));
        }
        self.next_desc[n] = (head + list.len() as u16) % DEPTH;
        self.make_available(q, head);
    }

    fn make_available(&mut self, q: u16, head: u16) {
        let added = &mut self.added[usize::from(q)];
        let slot = u64::from(*added % DEPTH);
        *added = added.wrapping_add(1);
        let idx = added.to_le_bytes();
        self.pair.put(avail_at(q) + 4 + 2 * slot, &head.to_le_bytes());
        self.pair.put(avail_at(q) + 2, &idx);
    }

    fn kick(&mut self, q: u16) -> Result<(), String> {
        self.write(NOTIFY_AT + u32::from(q) * 4, Width::B2, q.into())
    }

    /// A chain of one to three buffers of any kind, at times one that goes on where it should not.
    fn chain(&mut self, q: u16, b: &mut Bytes<'_>) -> Result<(), String> {
        let how = b.u8();
        let mut list = Vec::new();
        for i in 0..1 + how % 3 {
            let addr = b.address();
            let len = match b.u8() {
                n @ 0..128 => u32::from(n) * 16,
                n @ 128..224 => u32::from(n),
                n => 1 << (n & 31),
            };
            let write = if how >> (3 + i) & 1 != 0 { flag::WRITE } else { 0 };
            let indirect = if how >> 6 == 3 { flag::INDIRECT } else { 0 };
            list.push((addr, len, write | indirect));
        }
        let broken = b.u8();
        self.add(q, &list, (broken > 0xe0).then(|| u16::from(broken & 0x1f)));
        if how & 0x40 == 0 {
            self.kick(q)?;
        }
        Ok(())
    }

    /// A request as a block device takes it; the others see a chain that is good enough.
    fn request(&mut self, q: u16, b: &mut Bytes<'_>) -> Result<(), String> {
        let (kind, sector, len) = (b.u8(), u64::from(b.u16() & 0x8f), u32::from(b.u8() & 31) * 512);
        let kind = [0, 1, 4, 8][usize::from(kind & 3)];
        let header = u128::from(kind as u32) | u128::from(sector) << 64;
        self.pair.put(DATA, &header.to_le_bytes());
        let write = if kind == 1 { 0 } else { flag::WRITE };
        let data = b.address();
        self.add(q, &[(DATA, 16, 0), (data, len, write), (DATA + 0x100, 1, flag::WRITE)], None);
        self.kick(q)
    }

    /// What the driver says last of its rings: index, flags, `used_event`, a head.
    fn corrupt(&mut self, b: &mut Bytes<'_>) {
        let q = u16::from(b.u8()) % QUEUES;
        let (what, v) = (b.u8(), b.u16());
        let added = self.added[usize::from(q)];
        match what & 7 {
            0 => self.make_available(q, v),
            1 => self.pair.put(avail_at(q) + 2, &v.to_le_bytes()),
            2 => self.pair.put(avail_at(q) + 2, &added.wrapping_add(v & 0x1f).to_le_bytes()),
            3 => self.pair.put(avail_at(q), &(v & 1).to_le_bytes()),
            4 => self.pair.put(avail_at(q) + 4 + 2 * u64::from(DEPTH), &v.to_le_bytes()),
            5 => self.make_available(q, v % DEPTH),
            6 => self.pair.put(avail_at(q) + 2, &added.to_le_bytes()),
            _ => {
                let table = b.address();
                let list = [(table, 16 * u32::from(v & 0x1f), flag::INDIRECT)];
                self.add(q, &list, None);
            }
        }
    }

    /// A queue's registers, changed while it is in use.
    fn resize(&mut self, b: &mut Bytes<'_>) -> Result<(), String> {
        let (q, what) = (b.u8() % 3, b.u8());
        self.write(off::QUEUE_SELECT, Width::B2, q.into())?;
        let v = b.u16();
        match what & 7 {
            0 => self.write(off::QUEUE_SIZE, Width::B2, 1 << (v & 15)),
            1 => self.write(off::QUEUE_SIZE, Width::B2, v.into()),
            2 => self.write(off::QUEUE_DESC, Width::B8, b.address()),
            3 => self.write(off::QUEUE_AVAIL, Width::B8, b.address()),
            4 => self.write(off::QUEUE_USED, Width::B8, b.address()),
            5 => self.write(off::QUEUE_ENABLE, Width::B2, u64::from(v & 1)),
            6 => self.write(off::QUEUE_VECTOR, Width::B2, u64::from(v & 3)),
            _ => self.write(off::STATUS, Width::B1, u64::from(v & 0xff)),
        }
    }
}

/// A register of one of the structures.
fn place(b: &mut Bytes<'_>) -> u32 {
    let at = u32::from(b.u8());
    match b.u8() & 7 {
        0 => 0x1000 + (at & 7),
        1 => 0x2000 + (at & 0x3f),
        2 => NOTIFY_AT + (at & 0x3f),
        3 => at << 6,
        _ => at & 0x3f,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(addr: u64, data: &[u8], write: bool) -> Access {
        Access { addr, data: data.to_vec(), write, done: true }
    }

    /// Told of head 3 and a buffer of 32 bytes to write at `DATA`.
    fn told() -> Told {
        let mut t = Told::default();
        t.read(&access(avail_at(0) + 4, &[3, 0], false));
        let d = u128::from(DATA) | 32 << 64 | u128::from(flag::WRITE) << 96;
        t.read(&access(desc_at(0), &d.to_le_bytes(), false));
        t
    }

    #[test]
    fn an_element_has_a_head_that_was_read_and_no_more_than_its_buffers_hold() {
        let rings = [Used { base: used_at(0), size: 8 }];
        for (at, head, len, good) in [
            (used_at(0) + 4, 3, 32, true),
            (used_at(0) + 4, 4, 32, false),
            (used_at(0) + 4, 3, 33, false),
            (used_at(0) + 4 + 8 * 8, 3, 32, false),
            (used_at(0) + 8, 3, 32, false),
        ] {
            let element = [head, 0, 0, 0, len, 0, 0, 0];
            assert_eq!(told().is_element(&access(at, &element, true), &rings), good, "{at:#x} {head} {len}");
        }
    }

    #[test]
    fn data_stays_in_the_buffer_that_a_descriptor_gives() {
        for (at, bytes, good) in
            [(DATA, 32, true), (DATA + 31, 1, true), (DATA, 33, false), (DATA - 1, 1, false)]
        {
            let checked = told().check_write(&access(at, &vec![0; bytes], true), &[]);
            assert_eq!(checked.is_ok(), good, "{at:#x} {bytes}");
        }
    }

    #[test]
    fn a_driver_of_the_seeds_gets_its_chains_used() {
        let t = super::super::tally_of_seeds("virtio_queues", run_bytes);
        assert!(t.completed >= 5 && t.messages >= 10 && t.forks >= 8, "{t:?}");
    }
}
