use std::sync::mpsc::channel;

use block::VecMem;
use endpoints::nvme::command::admin;
use endpoints::nvme::command::nvm;
use endpoints::nvme::regs::cc;
use endpoints::nvme::regs::off;
use endpoints::MemDisk;
use endpoints::Nvme;
use endpoints::NvmeSpec;
use pcie::Device;
use proptest::prelude::*;
use rc_fuzz::machine::Machine;
use rc_fuzz::machine::RAM;
use rc_model::soc;
use rc_model::Config;

use super::*;

/// Records line changes.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<(u32, bool)>>>);

impl Lines for Recorder {
    fn set(&mut self, line: u32, level: bool) {
        lock(&self.0).push((line, level));
    }

    fn its_msi(&mut self, _: Bdf, _: u64, _: u32) {}
}

fn cpu(vcpu: u8) -> Origin {
    Origin { vcpu, pc: 0 }
}

fn bus(trace: usize) -> (RcBus, Recorder) {
    bus_of(Config::new(&soc::SM8250, None), trace)
}

fn bus_of(config: Config, trace: usize) -> (RcBus, Recorder) {
    let lines = Recorder::default();
    let bus = RcBus::new(
        RootComplex::new(config),
        Box::new(VecMem::new(0x8000_0000, 0x1000)),
        Box::new(lines.clone()),
        Box::new(|| SimTime(7)),
        Box::new(|_, _| {}),
        trace,
    );
    (bus, lines)
}

#[test]
fn every_window_decodes_at_both_ends_and_not_beside_them() {
    let (bus, _) = bus(0);
    for &(w, base, len) in soc::MAP {
        assert_eq!(bus.decode(base), Some((w, 0)));
        assert_eq!(bus.decode(base + len - 1), Some((w, len - 1)));
    }
    for addr in [0, 0x1bf_ffff, 0x6000_0fc8, 0x6130_0000, 0x8000_0000, u64::MAX] {
        assert_eq!(bus.decode(addr), None, "{addr:#x}");
    }
}

#[test]
fn windows_do_not_overlap_and_lie_below_memory() {
    let mut end = 0;
    for &(w, base, len) in soc::MAP {
        assert!(base >= end, "{w:?}");
        end = base + len;
    }
    assert!(end <= crate::layout::RAM);
}

#[test]
fn accesses_are_traced_with_their_values_and_only_if_asked() {
    let (bus, _) = self::bus(8);
    let gpio = soc::window(Window::Gpio).0;
    assert_eq!(bus.write(cpu(1), gpio + soc::gpio::SET, Width::B4, 0x5), Answer::Value(5));
    assert_eq!(bus.read(cpu(0), gpio + soc::gpio::SET, Width::B4), Answer::Value(5));
    let t = bus.take_trace().entries;
    let got: Vec<_> = t.iter().map(|e| (e.vcpu, e.window, e.off, e.write, e.value)).collect();
    assert_eq!(got, [(1, Window::Gpio, 4, true, 5), (0, Window::Gpio, 4, false, 5)]);
    assert_eq!(bus.accesses(), 2);
    assert_eq!(self::bus(0).0.take_trace().entries, vec![]);
}

#[test]
fn a_record_says_from_where_and_whether_nobody_answered() {
    let (bus, _) = self::bus(8);
    let (reset, dbi) = (soc::window(Window::Reset).0, soc::window(Window::Dbi).0);
    let by = Origin { vcpu: 1, pc: 0xffff_8000_8001_005c };
    bus.read(by, reset, Width::B4);
    // Out of power-on the core has no clock and is in reset.
    assert_eq!(bus.read(by, dbi, Width::B4), Answer::Value(0xffff_ffff));
    bus.write(by, dbi, Width::B4, 0);
    let t = bus.take_trace().entries;
    assert_eq!(t.iter().map(|e| e.gated).collect::<Vec<_>>(), [false, true, true]);
    let (long, _) = self::bus(1000);
    for _ in 0..1000 {
        long.read(by, dbi, Width::B4);
    }
    assert!(long.take_trace().entries.iter().all(|e| e.gated), "records have no budget as events have");
    assert!(t.iter().all(|e| e.pc == by.pc), "{t:?}");
    assert!(bus.traces(dbi) && !bus.traces(0), "only what is recorded is worth a question to KVM");
    assert!(!self::bus(0).0.traces(dbi), "no trace");
}

#[test]
fn only_lines_that_change_are_moved() {
    let lines = Recorder::default();
    let mut s = LineState { levels: 0b0101, out: Box::new(lines.clone()) };
    move_lines(&mut s, 0b0110);
    move_lines(&mut s, 0b0110);
    assert_eq!(*lock(&lines.0), [(0, false), (1, true)]);
}

#[test]
fn a_held_access_does_not_hold_the_model() {
    let (bus, _) = bus(0);
    let bus = Arc::new(bus);
    let reset = soc::window(Window::Reset).0;
    let stall = bus.interposer.stall(crate::interposer::Match {
        window: Window::Reset,
        off: 0,
        len_bytes: 4,
        write: Some(false),
        vcpu: Some(1),
        skip: 0,
    });
    let (tx, rx) = channel();
    let other = Arc::clone(&bus);
    let vcpu1 = std::thread::spawn(move || tx.send(other.read(cpu(1), reset, Width::B4)).unwrap());
    assert!(stall.wait_held());
    // vCPU 0 goes on while vCPU 1 is held, and what it writes is what vCPU 1 will read.
    assert_eq!(bus.write(cpu(0), reset, Width::B4, 0x6), Answer::Value(6));
    drop(stall);
    assert_eq!(rx.recv().unwrap(), Answer::Value(6));
    vcpu1.join().unwrap();
}

#[test]
fn the_timer_thread_stops_when_told() {
    let (bus, _) = bus(0);
    let bus = Arc::new(bus);
    let other = Arc::clone(&bus);
    let t = std::thread::spawn(move || other.run_timer());
    bus.stop_timer();
    t.join().unwrap();
}

/// What is connected, to be rung.
#[derive(Clone, Default)]
struct Board(Arc<Mutex<BTreeMap<u64, EventFd>>>);

impl Switchboard for Board {
    fn connect(&mut self, addr: u64, fd: &EventFd) -> bool {
        fd.try_clone().is_ok_and(|fd| lock(&self.0).insert(addr, fd).is_none())
    }

    fn disconnect(&mut self, addr: u64, _: &EventFd) {
        lock(&self.0).remove(&addr);
    }
}

/// Where the test has an NVMe driver's queues and buffers: admin pair, I/O pair, shadow doorbells, event indices, data.
const ASQ: u64 = RAM + 0x1_0000;
const ACQ: u64 = RAM + 0x1_1000;
const SQ: u64 = RAM + 0x1_2000;
const CQ: u64 = RAM + 0x1_3000;
const SHADOW: u64 = RAM + 0x1_4000;
const DATA: u64 = RAM + 0x1_6000;

/// An NVMe controller with shadow doorbells, one pair of I/O queues, and one read in it that no doorbell was rung for.
fn nvme_with_a_read() -> Machine {
    let spec = NvmeSpec::new(Box::new(MemDisk::new(1 << 20)), "1");
    let card = Device::single(Nvme::new(spec)).boxed();
    let mut m = Machine::with(Config::new(&soc::SM8250, Some(card)));
    m.mem = VecMem::new(RAM, 1 << 20);
    m.link_up();
    m.open_downstream();
    m.arm_msi();
    let poke = |m: &mut Machine, at: u64, words: &[u32]| {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        m.poke(at - RAM, &bytes);
    };
    let [asq, acq, sq, cq, shadow, data] = [ASQ, ACQ, SQ, CQ, SHADOW, DATA].map(|a| a as u32);
    for (off, v) in [
        (off::AQA, 0x000f_000f),
        (off::ASQ, asq),
        (off::ACQ, acq),
        (off::CC, 6 << cc::IOSQES_SHIFT | 4 << cc::IOCQES_SHIFT | cc::EN),
    ] {
        m.writel(Window::Mem, off.into(), v);
    }
    let commands = [
        [admin::CREATE_CQ.into(), cq, 0, 0x000f_0001, 3],
        [admin::CREATE_SQ.into(), sq, 0, 0x000f_0001, 0x0001_0001],
        // Doorbell Buffer Config (NVMe 1.4 §5.7).
        [0x7c, shadow, shadow + 0x1000, 0, 0],
    ];
    for (n, [opcode, prp1, prp2, dw10, dw11]) in (0u32..).zip(commands) {
        let sqe = [opcode | n << 16, 0, 0, 0, 0, 0, prp1, 0, prp2, 0, dw10, dw11];
        poke(&mut m, ASQ + u64::from(n) * 64, &sqe);
        m.writel(Window::Mem, off::DOORBELLS.into(), n + 1);
    }
    poke(&mut m, SQ, &[nvm::READ.into(), 1, 0, 0, 0, 0, data]);
    poke(&mut m, SHADOW + 8, &[1]);
    m
}

#[test]
fn a_doorbell_that_is_an_eventfd_is_delivered_once_and_counted_and_a_recorded_bus_has_none() {
    let bell = soc::window(Window::Mem).0 + u64::from(off::DOORBELLS) + 8;
    let status = soc::window(Window::Mem).0 + u64::from(off::CSTS);
    for trace in [0, 8] {
        let Machine { rc, mem, now, .. } = nvme_with_a_read();
        let lines = Box::new(Recorder::default());
        let mut bus = RcBus::new(rc, Box::new(mem), lines, Box::new(move || now), Box::new(|_, _| {}), trace);
        let board = Board::default();
        bus.set_switchboard(Box::new(board.clone())).unwrap();
        let msis = |bus: &RcBus| bus.sample(SamplePoint::Now).get("count.msi").unwrap_or(0);
        let before = msis(&bus);
        bus.read(cpu(0), status, Width::B4);
        let connected: Vec<u64> = lock(&board.0).keys().copied().collect();
        assert_eq!(connected, if trace == 0 { vec![bell] } else { vec![] });
        assert_eq!((bus.doorbell_events(), msis(&bus)), (0, before));
        if let Some(fd) = lock(&board.0).get(&bell) {
            fd.write(1).unwrap();
        } else {
            bus.write(cpu(0), bell, Width::B4, 1);
        }
        for _ in 0..2 {
            bus.read(cpu(0), status, Width::B4);
        }
        let events = u64::from(trace == 0);
        assert_eq!((bus.doorbell_events(), msis(&bus)), (events, before + 1), "the read is done");
        assert_eq!(bus.accesses(), 4, "however the doorbell came");
    }
}

/// Near the edges of a window, of an access that is as wide as 8 bytes, or anywhere.
fn address() -> impl Strategy<Value = u64> {
    let near = proptest::sample::select(soc::MAP).prop_flat_map(|(_, base, len)| {
        prop_oneof![base.saturating_sub(8)..base + 0x40, base..base + len, base + len - 8..base + len + 8]
    });
    prop_oneof![15 => near, 1 => any::<u64>()]
}

proptest! {
    #[test]
    fn any_access_anywhere_is_answered(
        strict in any::<bool>(),
        accesses in proptest::collection::vec((address(), 0..4usize, any::<Option<u64>>()), 0..300),
    ) {
        let card = Some(Device::single(endpoints::EndpointTest::default()).boxed());
        let (bus, lines) = bus_of(Config { strict, ..Config::new(&soc::SM8250, card) }, 1000);
        let mut decoded = 0;
        for &(addr, w, written) in &accesses {
            let w = [Width::B1, Width::B2, Width::B4, Width::B8][w];
            let answer = match written {
                Some(v) => bus.write(cpu(0), addr, w, v),
                None => bus.read(cpu(0), addr, w),
            };
            decoded += u64::from(bus.decode(addr).is_some());
            prop_assert_eq!(answer == Answer::Nobody, bus.decode(addr).is_none(), "{:#x}", addr);
            prop_assert!(strict || answer != Answer::Abort);
            if let (Answer::Value(v), None) = (answer, written) {
                prop_assert_eq!(v & !w.ones(), 0, "{:#x}: no more than was asked for", addr);
            }
        }
        prop_assert_eq!(bus.accesses(), decoded);
        prop_assert_eq!(bus.take_trace().entries.len() as u64, decoded);
        let moved = lock(&lines.0).iter().fold(0, |l: u64, &(n, up)| l & !(1 << n) | u64::from(up) << n);
        prop_assert_eq!(moved, bus.line_levels(), "what the GIC was told");
    }
}
