//! Each device behind the transport against a recording port, driven in the order of Linux v6.12
//! drivers/virtio/virtio_pci_modern*.c and virtio.c.

use std::sync::Arc;
use std::sync::Mutex;

use block::Cx;
use block::ResetKind;
use block::SimTime;
use block::VecMem;
use block::Width;
use pcie::Bdf;
use pcie::Completion;
use pcie::Function;
use pcie::FunctionState;
use pcie::Upstream;
use proptest::prelude::*;

use super::pci::NEXT_TURN_NS;
use super::pci::NOTIFY_AT;
use super::queue::flag::INDIRECT;
use super::queue::flag::NEXT;
use super::queue::flag::WRITE;
use super::regs::cap;
use super::regs::feature;
use super::regs::off;
use super::regs::status;
use super::regs::NO_VECTOR;
use super::Rng;
use super::*;
use crate::disk::Disk;

const BAR0: u64 = 0x6030_0000;
const BAR1: u64 = 0x6030_4000;
const BDF: Bdf = Bdf::new(1, 0, 0);
const RAM: u64 = 0x8000_0000;
const RAM_BYTES: usize = 0x28_0000;
/// Rings of queue n are at n * 0x1_0000 in RAM; data begins here.
const DATA: u64 = RAM + 0x20_0000;
const MSI: u64 = 0x9000_0000;
const RUNNING: u8 = status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK | status::DRIVER_OK;

/// Nothing used, no messages.
const NONE: [u32; 0] = [];

/// A port that records writes, counts requests, and passes them to memory.
#[derive(Clone, Default)]
struct Port {
    writes: Vec<(u64, Vec<u8>)>,
    requests: u32,
    refused: u32,
}

impl Port {
    fn pass(&mut self, rid: Bdf, ok: bool) -> Completion {
        assert_eq!(rid, BDF);
        self.requests += 1;
        if ok {
            return Completion::Success;
        }
        self.refused += 1;
        Completion::UnsupportedRequest
    }
}

impl Upstream<()> for Port {
    fn mem_write(&mut self, cx: &mut Cx<'_, ()>, rid: Bdf, bme: bool, addr: u64, data: &[u8]) -> Completion {
        self.writes.push((addr, data.to_vec()));
        let ok = bme && (addr == MSI || cx.mem.write(addr, data));
        self.pass(rid, ok)
    }

    fn mem_read(
        &mut self,
        cx: &mut Cx<'_, ()>,
        rid: Bdf,
        bme: bool,
        addr: u64,
        buf: &mut [u8],
    ) -> Completion {
        let ok = bme && cx.mem.read(addr, buf);
        self.pass(rid, ok)
    }
}

/// Disk contents that the test sees, with a count of flushes.
#[derive(Clone)]
struct SharedDisk(Arc<Mutex<(Vec<u8>, u32)>>);

impl SharedDisk {
    fn new(bytes: usize) -> SharedDisk {
        SharedDisk(Arc::new(Mutex::new((vec![0; bytes], 0))))
    }

    fn copy(&self) -> SharedDisk {
        SharedDisk(Arc::new(Mutex::new(self.0.lock().unwrap().clone())))
    }
}

impl Disk for SharedDisk {
    fn len_bytes(&self) -> u64 {
        self.0.lock().unwrap().0.len() as u64
    }

    fn read(&mut self, off: u64, buf: &mut [u8]) -> bool {
        buf.copy_from_slice(&self.0.lock().unwrap().0[off as usize..][..buf.len()]);
        true
    }

    fn write(&mut self, off: u64, data: &[u8]) -> bool {
        self.0.lock().unwrap().0[off as usize..][..data.len()].copy_from_slice(data);
        true
    }

    fn flush(&mut self) -> bool {
        self.0.lock().unwrap().1 += 1;
        true
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Irq {
    Intx,
    MsiX,
}

/// A buffer for a chain: address, length, whether the device writes it.
type Part = (u64, u32, bool);

#[derive(Clone, Default)]
struct DriverQueue {
    size: u16,
    next_desc: u16,
    added: u16,
    seen: u16,
}

struct Bench<D> {
    f: VirtioPci<D>,
    port: Port,
    mem: VecMem,
    now: SimTime,
    queues: Vec<DriverQueue>,
}

fn desc_at(q: usize) -> u64 {
    RAM + q as u64 * 0x1_0000
}

fn avail_at(q: usize) -> u64 {
    desc_at(q) + 0x4000
}

fn used_at(q: usize) -> u64 {
    desc_at(q) + 0x8000
}

impl<D: VirtioDevice> Bench<D> {
    fn new(f: VirtioPci<D>) -> Bench<D> {
        Bench {
            f,
            port: Port::default(),
            mem: VecMem::new(RAM, RAM_BYTES),
            now: SimTime(5),
            queues: Vec::new(),
        }
    }

    fn with<R>(&mut self, f: impl FnOnce(&mut VirtioPci<D>, &mut Cx<'_, ()>, &mut Port) -> R) -> R {
        let mut events = Vec::new();
        let mut cx = Cx { now: self.now, mem: &mut self.mem, events: &mut events };
        f(&mut self.f, &mut cx, &mut self.port)
    }

    fn cfg_write(&mut self, off: u16, w: Width, v: u64) {
        self.with(|f, cx, p| f.config_write(cx, p, BDF, off, w, v));
    }

    fn cfg_read(&mut self, off: u16, w: Width) -> u64 {
        self.with(|f, cx, _| f.config_read(cx, None, off, w))
    }

    fn write(&mut self, at: u32, w: Width, v: u64) {
        let c = self.with(|f, cx, p| f.mem_write(cx, p, BAR0 + u64::from(at), w, v));
        assert_eq!(c, Completion::Success);
    }

    fn read(&mut self, at: u32, w: Width) -> u64 {
        self.with(|f, cx, p| f.mem_read(cx, p, BAR0 + u64::from(at), w).data)
    }

    fn write8(&mut self, at: u32, v: u8) {
        self.write(at, Width::B1, v.into());
    }

    fn write16(&mut self, at: u32, v: u16) {
        self.write(at, Width::B2, v.into());
    }

    fn write32(&mut self, at: u32, v: u32) {
        self.write(at, Width::B4, v.into());
    }

    fn read8(&mut self, at: u32) -> u8 {
        self.read(at, Width::B1) as u8
    }

    fn read16(&mut self, at: u32) -> u16 {
        self.read(at, Width::B2) as u16
    }

    fn status(&mut self) -> u8 {
        self.read8(off::STATUS)
    }

    fn isr(&mut self) -> u8 {
        self.read8(super::pci::ISR_AT)
    }

    fn intx(&self) -> u8 {
        Function::<()>::intx(&self.f)
    }

    fn deadline(&self) -> Option<SimTime> {
        Function::<()>::next_deadline(&self.f)
    }

    fn advance(&mut self, ns: u64) {
        self.now = self.now.after_ns(ns);
        self.with(|f, cx, p| Function::tick(f, cx, p));
    }

    fn save(&self) -> FunctionState {
        Function::<()>::save(&self.f)
    }

    fn sample(&self, item: &str) -> u64 {
        let mut v = None;
        Function::<()>::sample(&self.f, &mut |k, x| {
            if k == item {
                v = Some(x);
            }
        });
        v.unwrap()
    }

    /// BARs, memory and bus mastering; MSI-X entry n sends n.
    fn enumerate(&mut self, irq: Irq) {
        self.cfg_write(0x10, Width::B4, BAR0);
        self.cfg_write(0x14, Width::B4, BAR1);
        self.cfg_write(0x04, Width::B2, 0x6);
        if irq == Irq::MsiX {
            for v in 0..u64::from(MAX_QUEUES) {
                for (at, word) in [(0, MSI), (4, 0), (8, v), (12, 0)] {
                    self.with(|f, cx, p| f.mem_write(cx, p, BAR1 + v * 16 + at, Width::B4, word));
                }
            }
            self.cfg_write(0xb2, Width::B2, 0x8000);
        }
    }

    /// `virtio_pci_find_capability`: the capability of a structure.
    fn find_capability(&mut self, kind: u8) -> Option<u16> {
        let mut at = self.cfg_read(0x34, Width::B1) as u16;
        while at != 0 {
            let is = |b: &mut Self, off, v: u8| b.cfg_read(at + off, Width::B1) == u64::from(v);
            if is(self, 0, 0x09) && is(self, 3, kind) {
                return Some(at);
            }
            at = self.cfg_read(at + 1, Width::B1) as u16;
        }
        None
    }

    /// Bar, offset and length of a structure.
    fn structure(&mut self, kind: u8) -> Option<(u64, u64, u64)> {
        let at = self.find_capability(kind)?;
        let mut word = |off, w| self.cfg_read(at + off, w);
        Some((word(4, Width::B1), word(8, Width::B4), word(12, Width::B4)))
    }

    /// Reset, ACKNOWLEDGE, DRIVER, all features but `without`, FEATURES_OK.
    fn negotiate(&mut self, without: u64) {
        self.write8(off::STATUS, 0);
        assert_eq!(self.status(), 0);
        self.write8(off::STATUS, status::ACKNOWLEDGE);
        self.write8(off::STATUS, status::ACKNOWLEDGE | status::DRIVER);
        for half in 0..2 {
            self.write32(off::DEVICE_FEATURE_SELECT, half);
            let offered = self.read(off::DEVICE_FEATURE, Width::B4) as u32;
            self.write32(off::DRIVER_FEATURE_SELECT, half);
            self.write32(off::DRIVER_FEATURE, offered & !((without >> (32 * half)) as u32));
        }
        self.write8(off::STATUS, status::ACKNOWLEDGE | status::DRIVER | status::FEATURES_OK);
    }

    /// `vp_modern_find_vqs`: vector n + 1 for queue n, 0 for the configuration.
    fn find_vqs(&mut self, irq: Irq) {
        if irq == Irq::MsiX {
            self.write16(off::CONFIG_VECTOR, 0);
            assert_eq!(self.read16(off::CONFIG_VECTOR), 0);
        }
        let n = usize::from(self.read16(off::NUM_QUEUES));
        self.queues = vec![DriverQueue::default(); n];
        for q in 0..n {
            self.write16(off::QUEUE_SELECT, q as u16);
            let size = self.read16(off::QUEUE_SIZE);
            assert!(size.is_power_of_two() && self.read16(off::QUEUE_ENABLE) == 0, "queue {q}");
            self.queues[q].size = size;
            self.write16(off::QUEUE_SIZE, size);
            let rings = [
                (off::QUEUE_DESC, desc_at(q)),
                (off::QUEUE_AVAIL, avail_at(q)),
                (off::QUEUE_USED, used_at(q)),
            ];
            for (at, ring) in rings {
                self.write32(at, ring as u32);
                self.write32(at + 4, (ring >> 32) as u32);
            }
            if irq == Irq::MsiX {
                self.write16(off::QUEUE_VECTOR, q as u16 + 1);
                assert_eq!(self.read16(off::QUEUE_VECTOR), q as u16 + 1);
            }
            assert_eq!(self.read16(off::QUEUE_NOTIFY_OFF), q as u16);
            let ring_bytes = 0x1_0000;
            self.mem.bytes[q * ring_bytes..][..ring_bytes].fill(0);
        }
        for q in 0..n {
            self.write16(off::QUEUE_SELECT, q as u16);
            self.write16(off::QUEUE_ENABLE, 1);
        }
    }

    /// A driver's whole probe.
    fn probe_without(&mut self, irq: Irq, without: u64) {
        self.enumerate(irq);
        self.negotiate(without);
        assert_ne!(self.status() & status::FEATURES_OK, 0);
        self.find_vqs(irq);
        self.write8(off::STATUS, RUNNING);
        assert_eq!(self.status(), RUNNING);
        self.port = Port::default();
    }

    fn probed(f: VirtioPci<D>, irq: Irq) -> Bench<D> {
        let mut b = Bench::new(f);
        b.probe_without(irq, feature::EVENT_IDX);
        b
    }

    fn put(&mut self, addr: u64, bytes: &[u8]) {
        assert!(self.mem.write(addr, bytes), "{addr:#x}");
    }

    fn get<const N: usize>(&mut self, addr: u64) -> [u8; N] {
        let mut b = [0; N];
        assert!(self.mem.read(addr, &mut b), "{addr:#x}");
        b
    }

    fn descriptor(&mut self, at: u64, (addr, len, flags, next): (u64, u32, u16, u16)) {
        self.put(at, &addr.to_le_bytes());
        self.put(at + 8, &len.to_le_bytes());
        self.put(at + 12, &flags.to_le_bytes());
        self.put(at + 14, &next.to_le_bytes());
    }

    /// Make descriptor `head` available.
    fn add_head(&mut self, q: usize, head: u16) {
        let d = &mut self.queues[q];
        let slot = d.added % d.size;
        d.added = d.added.wrapping_add(1);
        let added = d.added;
        self.put(avail_at(q) + 4 + 2 * u64::from(slot), &head.to_le_bytes());
        self.put(avail_at(q) + 2, &added.to_le_bytes());
    }

    /// Make a chain of `parts` available; descriptors are used round and round.
    fn add(&mut self, q: usize, parts: &[Part]) {
        let size = self.queues[q].size;
        let head = self.queues[q].next_desc;
        for (i, (addr, len, device_writes)) in parts.iter().enumerate() {
            let at = (head + i as u16) % size;
            let last = i + 1 == parts.len();
            let flags = if *device_writes { WRITE } else { 0 } | if last { 0 } else { NEXT };
            self.descriptor(desc_at(q) + u64::from(at) * 16, (*addr, *len, flags, (at + 1) % size));
        }
        self.queues[q].next_desc = (head + parts.len() as u16) % size;
        self.add_head(q, head);
    }

    fn kick(&mut self, q: usize) {
        self.write16(NOTIFY_AT + 4 * q as u32, q as u16);
    }

    /// Lengths of what was used since the last call.
    fn used(&mut self, q: usize) -> Vec<u32> {
        let idx = u16::from_le_bytes(self.get(used_at(q) + 2));
        let mut out = Vec::new();
        while self.queues[q].seen != idx {
            let d = &mut self.queues[q];
            let slot = u64::from(d.seen % d.size);
            d.seen = d.seen.wrapping_add(1);
            out.push(u32::from_le_bytes(self.get(used_at(q) + 8 + 8 * slot)));
        }
        out
    }

    /// Messages sent since the last call, by vector.
    fn messages(&mut self) -> Vec<u32> {
        let sent = self.port.writes.iter().filter(|w| w.0 == MSI);
        let out = sent.map(|w| u32::from_le_bytes(w.1[..].try_into().unwrap())).collect();
        self.port.writes.clear();
        out
    }
}

fn rng() -> VirtioPci<Rng> {
    VirtioPci::new(Rng::new(7))
}

fn console() -> VirtioPci<Console> {
    VirtioPci::new(Console::new())
}

fn net() -> VirtioPci<Net> {
    VirtioPci::new(Net::new([2, 0, 0, 0, 0, 9]))
}

fn blk(disk: &SharedDisk, queues: u16) -> VirtioPci<Blk> {
    VirtioPci::new(Blk::new(Box::new(disk.clone()), queues, "serial-0123456789-too-long"))
}

fn small_blk() -> VirtioPci<Blk> {
    blk(&SharedDisk::new(0x4000), 1)
}

/// One entropy request, without notification.
fn ask(b: &mut Bench<Rng>) {
    b.add(0, &[(DATA, 16, true)]);
}

#[path = "transport_test.rs"]
mod transport;

#[path = "devices_test.rs"]
mod devices;

#[path = "state_test.rs"]
mod state;
