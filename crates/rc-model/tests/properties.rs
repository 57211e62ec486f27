//! Whatever a guest does: no panic, levels are a function of state, what is kept is bounded.

use block::Width;
use proptest::prelude::*;
use rc_fuzz::machine::Machine;
use rc_fuzz::machine::MS;
use rc_model::soc;
use rc_model::SamplePoint;
use rc_model::Window;

#[derive(Clone, Debug)]
enum Op {
    Read { win: usize, off: u64, w: Width },
    Write { win: usize, off: u64, w: Width, v: u64 },
    Sleep(u64),
    LinkUp,
    RaiseMsi(u32),
    Sample,
    PowerOn,
}

/// Offsets that matter more than their share of the windows.
const HOT: &[u64] = &[
    0x0, 0x4, 0x8, 0x10, 0x18, 0x20, 0x3c, 0x40, 0x44, 0x50, 0x52, 0x54, 0x80, 0x88, 0x1b0, 0x224, 0x228,
    0x22c, 0x80c, 0x820, 0x824, 0x828, 0x82c, 0x830, 0x8bc, 0xc00,
];

fn width() -> impl Strategy<Value = Width> {
    prop_oneof![Just(Width::B1), Just(Width::B2), Just(Width::B4), Just(Width::B8)]
}

fn offset() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => proptest::sample::select(HOT),
        4 => 0..0x3000u64,
        1 => any::<u64>(),
    ]
}

fn value() -> impl Strategy<Value = u64> {
    prop_oneof![Just(0u64), Just(u64::MAX), Just(1u64 << 8), (0..32u32).prop_map(|b| 1 << b), any::<u64>()]
}

fn op() -> impl Strategy<Value = Op> {
    let win = 0..soc::MAP.len();
    prop_oneof![
        4 => (win.clone(), offset(), width()).prop_map(|(win, off, w)| Op::Read { win, off, w }),
        8 => (win, offset(), width(), value()).prop_map(|(win, off, w, v)| Op::Write { win, off, w, v }),
        2 => (0..40 * MS).prop_map(Op::Sleep),
        1 => Just(Op::LinkUp),
        1 => (0..40u32).prop_map(Op::RaiseMsi),
        1 => Just(Op::Sample),
        1 => Just(Op::PowerOn),
    ]
}

fn run(m: &mut Machine, op: &Op) {
    match *op {
        Op::Read { win, off, w } => {
            m.read(soc::MAP[win].0, off, w);
        }
        Op::Write { win, off, w, v } => m.write(soc::MAP[win].0, off, w, v),
        Op::Sleep(ns) => m.sleep(ns),
        Op::LinkUp => {
            m.link_up();
            m.open_downstream();
            m.arm_msi();
        }
        Op::RaiseMsi(n) => m.raise_msi(n),
        Op::Sample => {
            m.sample(SamplePoint::S4);
        }
        Op::PowerOn => m.power_on_reset(),
    }
}

/// The levels, from nothing but what a sample shows of the registers and from INTx that the link must carry.
fn levels_from_state(m: &mut Machine) -> u64 {
    let s = m.sample(SamplePoint::Now);
    let get = |name: String| s.get(&name).unwrap_or_else(|| panic!("{name}"));
    let mut levels = 0;
    for g in 0..8 {
        levels |= u64::from(get(format!("msi.status[{g}]")) & !get(format!("msi.mask[{g}]")) != 0) << g;
    }
    let link = get("rp.dllla".into()) == 1;
    let intx = get("rp.intx".into()) | if link { get("ep.intx".into()) } else { 0 };
    let global = get("parf.int_all_status".into()) & get("parf.int_all_mask".into()) & !0x7f80_0000 != 0;
    levels | intx << soc::IRQ_INTA | u64::from(global) << soc::IRQ_GLOBAL
}

proptest! {
    #[test]
    fn any_access_sequence_keeps_levels_a_function_of_state(ops in proptest::collection::vec(op(), 0..120)) {
        let mut m = Machine::new();
        for op in &ops {
            run(&mut m, op);
            prop_assert_eq!(m.rc.irq_levels(), levels_from_state(&mut m), "{:?}", op);
        }
    }

    #[test]
    fn the_same_sequence_always_gives_the_same_machine(ops in proptest::collection::vec(op(), 0..60)) {
        let (mut a, mut b) = (Machine::new(), Machine::new());
        for op in &ops {
            run(&mut a, op);
            run(&mut b, op);
        }
        prop_assert_eq!(a.sample(SamplePoint::Now), b.sample(SamplePoint::Now));
        prop_assert_eq!(a.events, b.events);
    }
}

#[test]
fn a_guest_that_toggles_everything_for_long_leaves_a_bounded_trail() {
    let mut m = Machine::new();
    m.link_up();
    m.open_downstream();
    m.arm_msi();
    for i in 0..20_000u32 {
        m.raise_msi(1);
        m.readl(Window::Mem, 0xff_0000);
        m.writew(Window::Config, 0x04, 0x2);
        m.raise_msi(1);
        m.writew(Window::Config, 0x04, 0x6);
        m.writel(Window::Dbi, 0x828, i & 1);
        if i % 16 == 0 {
            m.gpio_set(soc::GPIO_CLK0, false);
            m.readl(Window::Dbi, 0);
            m.gpio_set(soc::GPIO_PERST, false);
            m.link_up();
            m.open_downstream();
            m.arm_msi();
        }
    }
    let most = 4 * 64 + 256 + 2 * 4096;
    assert!(m.events.len() <= most, "{} events", m.events.len());
    assert!(m.item("count.dma_refused") >= 20_000);
}
