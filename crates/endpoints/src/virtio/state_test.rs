//! Saved states, and random accesses, rings, resets and time against a twin that was restored half-way.

use super::*;

#[test]
fn work_in_flight_is_saved_and_goes_on() {
    let mut a = Bench::probed(net().with_latency_ns(1000), Irq::MsiX);
    a.advance(1000);
    a.add(1, &[(DATA, 12 + 14, false)]);
    a.kick(1);
    let mut b = Bench::new(net().with_latency_ns(1000));
    (b.mem, b.now, b.queues) = (a.mem.clone(), a.now, a.queues.clone());
    Function::<()>::restore(&mut b.f, &a.save()).unwrap();
    assert_eq!(b.save(), a.save());
    assert_eq!(b.deadline(), a.deadline());
    b.advance(1000);
    assert_eq!((b.used(1), b.messages()), (vec![0], vec![2]));
    b.add(0, &[(DATA + 0x1000, 1530, true)]);
    let mut c = Bench::new(net());
    (c.mem, c.now, c.queues) = (b.mem.clone(), b.now, b.queues.clone());
    Function::<()>::restore(&mut c.f, &b.save()).unwrap();
    c.kick(0);
    assert_eq!(c.used(0), [26], "a frame that waited");
}

#[test]
fn a_pin_that_is_high_is_high_in_the_twin() {
    let mut a = Bench::probed(rng(), Irq::Intx);
    ask(&mut a);
    a.kick(0);
    let mut b = Bench::new(rng());
    Function::<()>::restore(&mut b.f, &a.save()).unwrap();
    assert_eq!((b.intx(), b.isr(), b.intx()), (1, 1, 0));
}

#[test]
fn a_state_that_does_not_fit_changes_nothing() {
    let mut a = Bench::probed(console(), Irq::MsiX);
    let before = a.save();
    let edits: [(&str, serde_json::Value); 9] = [
        ("/isr", 4.into()),
        ("/notified", 1.into()),
        ("/due", 5.into()),
        ("/error", "refused".into()),
        ("/common/status", 0x1f.into()),
        ("/common/features", 0.into()),
        ("/common/config_vector", 9.into()),
        ("/common/queues/0/size", 24.into()),
        ("/common/vectors", serde_json::json!([0])),
    ];
    for (at, v) in edits {
        let mut s = before.clone();
        *s.data.pointer_mut(at).unwrap() = v;
        assert!(Function::<()>::restore(&mut a.f, &s).is_err(), "{at}");
        assert_eq!(a.save(), before, "{at}");
    }
    let mut s = before.clone();
    s.data["device"] = serde_json::json!(vec![0; super::super::console::WAITING_BYTES + 1]);
    assert!(Function::<()>::restore(&mut a.f, &s).is_err());
    assert_eq!(a.save(), before);
    let foreign = Bench::new(rng()).save();
    assert!(Function::<()>::restore(&mut a.f, &foreign).is_err());
    let larger = FunctionState { data: Bench::new(net()).save().data, ..before.clone() };
    assert!(Function::<()>::restore(&mut a.f, &larger).is_err(), "queues of another device");
    assert_eq!(a.save(), before);
}

#[derive(Clone, Debug)]
enum Op {
    Read(u32, Width),
    Write(u32, Width, u64),
    Config(u16, Width, u64),
    Ram(u32, u16),
    Chain(usize, u16, [u16; 3]),
    Kick(u32),
    Wait(u64),
    Reset(ResetKind),
}

fn width() -> impl Strategy<Value = Width> {
    prop_oneof![Just(Width::B1), Just(Width::B2), Just(Width::B4), Just(Width::B8)]
}

fn op() -> impl Strategy<Value = Op> {
    let at =
        prop_oneof![8 => 0u32..0x40, 1 => 0x1000u32..0x1008, 1 => 0x2000u32..0x2030, 2 => 0x3000u32..0x3010];
    let value =
        prop_oneof![2 => 0u64..0x10, 1 => any::<u64>(), 1 => (0u64..0x20).prop_map(|v| RAM + v * 0x1000)];
    // Ring heads, indices and the first descriptors of two queues.
    let ram = (0u32..2, prop_oneof![0u32..0x80, 0x4000u32..0x4020, 0x8000u32..0x8020])
        .prop_map(|(q, at)| q * 0x1_0000 + at);
    prop_oneof![
        2 => (at.clone(), width()).prop_map(|(at, w)| Op::Read(at, w)),
        2 => (at, width(), value).prop_map(|(at, w, v)| Op::Write(at, w, v)),
        1 => (0x40u16..0x100, width(), any::<u64>()).prop_map(|(at, w, v)| Op::Config(at, w, v)),
        4 => (ram, prop_oneof![0u16..0x10, any::<u16>()]).prop_map(|(at, v)| Op::Ram(at, v)),
        8 => (0usize..2, 0u16..8, [0u16..0x800, 0u16..0x800, 0u16..0x800]).prop_map(|(q, f, l)| Op::Chain(q, f, l)),
        8 => (0u32..4).prop_map(Op::Kick),
        3 => (0u64..3000).prop_map(Op::Wait),
        1 => prop_oneof![Just(ResetKind::HotReset), Just(ResetKind::D3HotToD0)].prop_map(Op::Reset),
    ]
}

impl<D: VirtioDevice> Bench<D> {
    fn apply(&mut self, op: &Op) -> u64 {
        let align = |at: u32, w: Width| at & !(w.bytes() as u32 - 1);
        let before = self.port.requests;
        let seen = match op {
            Op::Read(at, w) => {
                let at = BAR0 + u64::from(align(*at, *w));
                self.with(|f, cx, p| f.mem_read(cx, p, at, *w).data)
            }
            Op::Write(at, w, v) => {
                let at = BAR0 + u64::from(align(*at, *w));
                self.with(|f, cx, p| f.mem_write(cx, p, at, *w, v & w.ones()) as u64)
            }
            Op::Config(at, w, v) => {
                let at = align((*at).into(), *w) as u16;
                self.cfg_write(at, *w, v & w.ones());
                self.cfg_read(at, *w)
            }
            Op::Ram(at, v) => {
                self.put(RAM + u64::from(at & !1), &v.to_le_bytes());
                0
            }
            Op::Chain(q, flags, lens) => {
                let q = q % self.queues.len();
                let parts =
                    [0, 1, 2].map(|i| (DATA + 0x1000 * i as u64, lens[i].into(), flags >> i & 1 != 0));
                self.add(q, &parts);
                0
            }
            Op::Kick(q) => {
                let at = BAR0 + u64::from(NOTIFY_AT + 4 * q);
                self.with(|f, cx, p| f.mem_write(cx, p, at, Width::B2, (*q).into()) as u64)
            }
            Op::Wait(ns) => {
                self.advance(*ns);
                self.deadline().map_or(0, |t| t.0)
            }
            Op::Reset(kind) => {
                self.with(|f, cx, _| f.reset(cx, *kind));
                // Somebody enumerates and probes it again.
                self.enumerate(Irq::MsiX);
                self.negotiate(0);
                self.find_vqs(Irq::MsiX);
                self.write8(off::STATUS, RUNNING);
                0
            }
        };
        assert!(self.port.requests - before < 4 * TURN_REQUESTS, "bounded work");
        seen
    }
}

/// Runs `ops` on a device, and from `split` on also on a twin that was restored from its state.
fn twins<D: VirtioDevice>(
    make: impl Fn() -> VirtioPci<D>,
    fork: impl Fn() -> VirtioPci<D>,
    ops: &[Op],
    split: usize,
) {
    let mut a = Bench::new(make());
    a.probe_without(Irq::MsiX, 0);
    let split = split.min(ops.len());
    for op in &ops[..split] {
        a.apply(op);
    }
    let mut b = Bench::new(fork());
    (b.port, b.mem, b.now, b.queues) = (a.port.clone(), a.mem.clone(), a.now, a.queues.clone());
    Function::<()>::restore(&mut b.f, &a.save()).unwrap();
    for op in &ops[split..] {
        assert_eq!(a.apply(op), b.apply(op), "{op:?}");
        assert_eq!(a.intx(), b.intx(), "{op:?}");
    }
    assert_eq!(a.save(), b.save());
    assert_eq!(a.port.writes, b.port.writes);
    assert!(a.mem.bytes == b.mem.bytes);
}

proptest! {
    #[test]
    fn no_access_and_no_ring_panics_works_without_end_or_tells_twins_apart(
        ops in proptest::collection::vec(op(), 0..80),
        split in 0usize..80,
        late in any::<bool>(),
    ) {
        let latency_ns = if late { 1000 } else { 0 };
        let disk = SharedDisk::new(0x4000);
        twins(
            || blk(&disk, 2).with_latency_ns(latency_ns),
            || blk(&disk.copy(), 2).with_latency_ns(latency_ns),
            &ops,
            split,
        );
        let with = || console().with_latency_ns(latency_ns);
        twins(with, with, &ops, split);
        let with = || net().with_latency_ns(latency_ns);
        twins(with, with, &ops, split);
        let with = || rng().with_latency_ns(latency_ns);
        twins(with, with, &ops, split);
    }
}
