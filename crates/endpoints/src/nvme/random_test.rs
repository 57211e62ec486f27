//! Random drivers: no panic, bounded effects, and a restored controller has the same future.

use std::sync::Arc;
use std::sync::Mutex;

use pcie::Function;
use proptest::prelude::*;

use super::bench::*;
use super::command::admin;
use super::command::nvm;
use super::*;
use crate::MemDisk;

/// A disk whose contents the test can copy.
struct Shared(Arc<Mutex<MemDisk>>);

impl Shared {
    fn disk(&self) -> std::sync::MutexGuard<'_, MemDisk> {
        self.0.lock().expect("one thread")
    }
}

impl Disk for Shared {
    fn len_bytes(&self) -> u64 {
        self.disk().len_bytes()
    }

    fn read(&mut self, off: u64, buf: &mut [u8]) -> bool {
        self.disk().read(off, buf)
    }

    fn write(&mut self, off: u64, data: &[u8]) -> bool {
        self.disk().write(off, data)
    }

    fn flush(&mut self) -> bool {
        true
    }
}

#[derive(Clone, Debug)]
enum Op {
    /// A register or a doorbell.
    Write(u32, Width, u64),
    Read(u32, Width),
    /// A command at an entry of a submission queue, and its tail doorbell.
    Command(u16, u16, [u32; 16]),
    /// The head doorbell of a completion queue.
    Head(u16, u16),
    Config(u16, u16),
    Wait(u64),
    Reset(ResetKind),
    /// What Linux does to begin again.
    Enable,
    /// Doorbell buffers, where queues and data are too.
    Buffers(u64, u64),
}

const QUEUES: u16 = 4;
const LATENCY_NS: u64 = 500;

/// Values that mean something somewhere, and some that do not.
fn value() -> impl Strategy<Value = u32> {
    prop_oneof![
        0u32..40,
        Just(DATA as u32),
        Just(DATA as u32 + 4096),
        Just(sq_at(1) as u32),
        Just(cq_at(2) as u32),
        any::<u32>(),
        (0u32..4).prop_map(|n| n << 16 | 3),
        (0u32..4).prop_map(|n| 31 << 16 | n),
    ]
}

fn command() -> impl Strategy<Value = [u32; 16]> {
    let opcodes = prop_oneof![
        Just(u32::from(admin::CREATE_CQ)),
        Just(u32::from(admin::CREATE_SQ)),
        Just(u32::from(admin::ASYNC_EVENT)),
        Just(u32::from(nvm::READ)),
        Just(u32::from(nvm::WRITE)),
        0u32..16,
        any::<u8>().prop_map(u32::from),
    ];
    let address = prop_oneof![(0u32..64).prop_map(|n| DATA as u32 + n * 0x800), value()];
    let words = proptest::array::uniform10(value());
    (opcodes, 0u32..3, address.clone(), address, words).prop_map(|(op, nsid, prp1, prp2, w)| {
        let dw10 = if op < 2 || op == 5 { w[0] & 7 | 31 << 16 } else { w[0] };
        [op | w[1] << 16, nsid, 0, 0, 0, 0, prp1, 0, prp2, 0, dw10, w[2], w[3] & 0x3f, w[4] & 1, w[5], w[6]]
    })
}

fn op() -> impl Strategy<Value = Op> {
    let width = prop_oneof![Just(Width::B4), Just(Width::B8), Just(Width::B2), Just(Width::B1)];
    let place = prop_oneof![0u32..0x40, 0x1000u32..0x1040, 0x2000u32..0x2080];
    let at = (place, width).prop_map(|(o, w)| (o & !(w.bytes() as u32 - 1), w));
    let kind = prop_oneof![Just(ResetKind::HotReset), Just(ResetKind::Perst), Just(ResetKind::LinkDown)];
    prop_oneof![
        2 => (at.clone(), value()).prop_map(|((o, w), v)| Op::Write(o, w, v.into())),
        1 => at.prop_map(|(o, w)| Op::Read(o, w)),
        8 => (0..=QUEUES, 0u16..DEPTH, command()).prop_map(|(q, n, c)| Op::Command(q, n, c)),
        3 => (0..=QUEUES, 0u16..DEPTH).prop_map(|(q, n)| Op::Head(q, n)),
        1 => (prop_oneof![Just(0x04u16), Just(0x44), Just(0x52), Just(0xb2)], any::<u16>()).prop_map(|(o, v)| Op::Config(o, v)),
        2 => (0u64..2000).prop_map(Op::Wait),
        1 => kind.prop_map(Op::Reset),
        3 => Just(Op::Enable),
        2 => (0u64..40, 0u64..40).prop_map(|(s, e)| Op::Buffers(RAM + s * 0x8000, RAM + e * 0x8000)),
    ]
}

fn apply(b: &mut Bench, op: &Op) -> u64 {
    let doorbell = |q: u16| off::DOORBELLS + u32::from(q) * 8;
    match op {
        Op::Write(o, w, v) => {
            b.write(*o, *w, *v);
        }
        Op::Read(o, w) => return b.read(*o, *w),
        Op::Command(q, n, words) => {
            let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
            b.put(sq_at(*q) + u64::from(*n) * 64, &bytes);
            b.write(doorbell(*q), Width::B4, u64::from((n + 1) % DEPTH));
        }
        Op::Head(q, n) => {
            b.write(doorbell(*q) + 4, Width::B4, (*n).into());
        }
        Op::Config(o, v) => b.cfg_write(*o, Width::B2, (*v).into()),
        Op::Wait(ns) => {
            let t = b.now.after_ns(*ns);
            b.tick(t);
        }
        Op::Reset(kind) => b.with(|f, cx, _| Function::<()>::reset(f, cx, *kind)),
        Op::Enable => {
            b.cfg_write(0x44, Width::B2, 0);
            b.enumerate();
            b.msix_on();
            b.enable();
            b.create_io_queues(2, false);
        }
        Op::Buffers(shadow, event) => {
            b.queue(0, Sqe::new(admin::DOORBELL_BUFFER).prp(*shadow, *event));
            b.write(doorbell(0), Width::B4, b.tail(0).into());
        }
    }
    0
}

fn bench(latency_ns: u64, disk: MemDisk) -> (Bench, Arc<Mutex<MemDisk>>) {
    let shared = Arc::new(Mutex::new(disk));
    let spec =
        NvmeSpec { disk: Box::new(Shared(Arc::clone(&shared))), io_queues: QUEUES, latency_ns, ..spec() };
    (Bench::of(spec), shared)
}

/// Most requests of one operation: each command of the largest queue with data in pages, lists and its completion.
const MOST_REQUESTS: usize = 4096 * (MAX_TRANSFER_BYTES / 4096 + 4);

proptest! {
    #[test]
    fn any_driver_has_bounded_effects_and_a_restored_controller_the_same_future(
        latency in prop_oneof![Just(0), Just(LATENCY_NS)],
        before in proptest::collection::vec(op(), 0..40),
        after in proptest::collection::vec(op(), 1..40),
    ) {
        let (mut a, disk) = bench(latency, MemDisk::new(BLOCKS as usize * 512));
        apply(&mut a, &Op::Enable);
        for op in &before {
            a.port = Port::default();
            apply(&mut a, op);
            prop_assert!(a.port.reads.len() + a.port.writes.len() + a.port.messages.len() <= MOST_REQUESTS);
            let s = a.sample();
            prop_assert!(s["nvme.inflight"] <= u64::from(QUEUES) * 255);
            prop_assert!(s["nvme.queues"] <= u64::from(QUEUES) * 2);
            prop_assert!(s["nvme.inflight"] == 0 || s["nvme.enabled"] == 1, "nothing is in flight in what does not run");
        }
        let state = a.save();
        let (mut b, copy) = bench(latency, disk.lock().expect("one thread").clone());
        prop_assert_eq!(b.restore(&state), Ok(()));
        (b.mem, b.now, b.pairs) = (a.mem.clone(), a.now, a.pairs.clone());
        prop_assert_eq!(b.save(), state);
        for op in &after {
            (a.port, b.port) = (Port::default(), Port::default());
            prop_assert_eq!(apply(&mut a, op), apply(&mut b, op));
            prop_assert_eq!(&a.port.messages, &b.port.messages);
            prop_assert_eq!(&a.port.writes, &b.port.writes);
            prop_assert_eq!(&a.port.reads, &b.port.reads);
            prop_assert_eq!((a.intx(), a.deadline()), (b.intx(), b.deadline()));
        }
        prop_assert_eq!(a.save(), b.save());
        prop_assert!(a.mem.bytes == b.mem.bytes);
        let (mut x, mut y) = (vec![0; BLOCKS as usize * 512], vec![0; BLOCKS as usize * 512]);
        prop_assert!(disk.lock().expect("one thread").read(0, &mut x) && copy.lock().expect("one thread").read(0, &mut y));
        prop_assert!(x == y);
    }

    #[test]
    fn a_driver_that_keeps_the_rules_reads_what_it_wrote(
        latency in prop_oneof![Just(0), Just(LATENCY_NS)],
        ios in proptest::collection::vec((1u16..=3, any::<bool>(), 0u64..60, 1u32..20, 0u64..4096), 1..40),
    ) {
        let mut b = Bench::probed(NvmeSpec { latency_ns: latency, ..spec() }, 3);
        let list = DATA - 0x1000;
        let mut disk = vec![0u8; 80 * 512];
        for (n, (q, write, slba, blocks, at)) in ios.into_iter().enumerate() {
            let (at, len, from) = (DATA + (at & !3), blocks as usize * 512, slba as usize * 512);
            let second = (at & !0xfff) + 4096;
            b.put_list(list, &[second, second + 4096, second + 8192]);
            let prp2 = if len as u64 > second - at + 4096 { list } else { second };
            let op = if write { nvm::WRITE } else { nvm::READ };
            if write {
                let data: Vec<u8> = (0..len).map(|i| (i * 7 + n) as u8).collect();
                b.put(at, &data);
                disk[from..from + len].copy_from_slice(&data);
            }
            prop_assert_eq!(b.sync(q, Sqe::io(op, slba, blocks).prp(at, prp2)).status, 0);
            prop_assert!(b.bytes(at, len) == &disk[from..from + len]);
        }
    }
}
