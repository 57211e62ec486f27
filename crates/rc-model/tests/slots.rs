//! A switch in the port's slot, and what happens to slots: the root port and the switch as one machine.

use block::Width;
use endpoints::EndpointTest;
use pcie::Bdf;
use pcie::Card;
use pcie::Device;
use pcie::SlotEvent;
use pcie::Switch;
use pcie::SwitchSpec;
use rc_fuzz::machine::MS;
use rc_fuzz::machine::MSI_TARGET;
use rc_fuzz::Machine;
use rc_model::soc;
use rc_model::Config;
use rc_model::Event;
use rc_model::Rate;
use rc_model::RootComplex;
use rc_model::Slot;
use rc_model::Window;

const UP: Bdf = Bdf::new(1, 0, 0);
const DOWN: Bdf = Bdf::new(2, 0, 0);
const EP: Bdf = Bdf::new(3, 0, 0);
const LNKSTA: u64 = 0x82;
const SLTCTL: u64 = 0x88;
const SLTSTA: u64 = 0x8a;

fn config() -> Config {
    let ep: Box<dyn Card<Event>> = Device::single(EndpointTest::default()).boxed();
    let switch = Switch::new(SwitchSpec { attention_button: true, ..SwitchSpec::new(vec![Some(ep), None]) });
    Config::new(&soc::SM8250, Some(switch.boxed()))
}

/// Aim the configuration window as dw_pcie_other_conf_map_bus() does.
fn aim(m: &mut Machine, bdf: Bdf) {
    let (base, len) = m.soc.window(Window::Config);
    m.outbound(0, base, base + len - 1, u64::from(bdf.0) << 16, if bdf.bus() == 1 { 4 } else { 5 });
}

fn get(m: &mut Machine, bdf: Bdf, off: u64, w: Width) -> u64 {
    aim(m, bdf);
    m.read(Window::Config, off, w)
}

fn put(m: &mut Machine, bdf: Bdf, off: u64, w: Width, v: u64) {
    aim(m, bdf);
    m.write(Window::Config, off, w, v);
}

/// MSI of `bdf` goes to the controller, vector `n`.
fn arm(m: &mut Machine, bdf: Bdf, n: u64) {
    put(m, bdf, 0x54, Width::B4, MSI_TARGET);
    put(m, bdf, 0x58, Width::B4, 0);
    put(m, bdf, 0x5c, Width::B2, n);
    put(m, bdf, 0x52, Width::B2, 1);
}

/// Buses 1 to 4, the endpoint's BAR 0 at the start of the memory window.
fn open(m: &mut Machine) {
    let (mem, len) = m.soc.window(Window::Mem);
    m.outbound(1, mem, mem + len - 1, mem, 0);
    m.writel(Window::Dbi, 0x18, 0x0004_0100);
    m.writel(Window::Dbi, 0x20, (mem >> 16) as u32 | mem as u32);
    m.writew(Window::Dbi, 0x04, 0x107);
    m.writel(Window::Dbi, 0x82c, 0);
    m.writel(Window::Dbi, 0x828, u32::MAX);
    m.writel(Window::Dbi, 0x820, MSI_TARGET as u32);
    for (bdf, buses) in [(UP, 0x0004_0201), (DOWN, 0x0003_0302)] {
        put(m, bdf, 0x18, Width::B4, buses);
        put(m, bdf, 0x20, Width::B4, mem >> 16 | mem);
        put(m, bdf, 0x04, Width::B2, 6);
    }
    put(m, EP, 0x10, Width::B4, mem);
    put(m, EP, 0x04, Width::B2, 6);
    arm(m, EP, 3);
    arm(m, DOWN, 5);
    m.events.clear();
}

fn up() -> Machine {
    let mut m = Machine::with(config());
    m.link_up();
    open(&mut m);
    m
}

fn msis(m: &mut Machine) -> Vec<(Bdf, u8)> {
    std::mem::take(&mut m.events)
        .into_iter()
        .filter_map(|e| match e {
            Event::Msi { rid, vector } => Some((rid, vector)),
            _ => None,
        })
        .collect()
}

fn event(m: &mut Machine, path: &[u8], e: SlotEvent) -> bool {
    m.with_cx(|rc, cx| rc.slot_event(cx, path, e))
}

#[test]
fn each_end_of_a_link_shows_the_rate_that_the_other_shows() {
    let mut m = up();
    let rates = |m: &mut Machine| {
        let [up, down, ep] = [UP, DOWN, EP].map(|b| get(m, b, LNKSTA, Width::B2) & 0x3ff);
        [u64::from(m.readw(Window::Dbi, LNKSTA) & 0x3ff), up, down, ep]
    };
    assert_eq!(rates(&mut m), [0x13; 4]);
    m.with_cx(|rc, cx| rc.change_rate(cx, Rate { speed: 1, width: 1 }));
    m.sleep(MS);
    assert_eq!(rates(&mut m), [0x11, 0x11, 0x13, 0x13], "the link of the root port only");
    m.with_cx(|rc, cx| rc.change_rate(cx, Rate { speed: 2, width: 1 }));
    m.with_cx(|rc, cx| rc.surprise_down(cx));
    m.sleep(1000 * MS);
    assert_eq!(m.readw(Window::Dbi, LNKSTA) & 0x3ff, 0x12);
    assert_eq!(get(&mut m, UP, LNKSTA, Width::B2) & 0x3ff, 0x12, "after it was lost");
}

#[test]
fn an_endpoint_behind_a_switch_works_as_one_at_the_port() {
    let mut m = up();
    assert_eq!(get(&mut m, UP, 0, Width::B4), 0x8232_104c);
    assert_eq!(get(&mut m, EP, 0, Width::B4), 0xb500_104c);
    m.raise_msi(1);
    assert_eq!(msis(&mut m), [(EP, 3)]);
    put(&mut m, EP, 0x52, Width::B2, 0);
    m.raise(0, 1);
    assert!(m.line(soc::IRQ_INTA));
    for bdf in [UP, DOWN] {
        let mut m = up();
        put(&mut m, bdf, 0x04, Width::B2, 2);
        m.raise_msi(1);
        let refused = |e: &Event| matches!(e, Event::DmaRefused { rid: EP, .. });
        assert_eq!(m.events.iter().filter(|e| refused(e)).count(), 1, "{bdf}");
        assert_eq!(msis(&mut m), [], "{bdf}");
    }
}

#[test]
fn a_slot_of_the_switch_loses_its_card_and_tells_by_msi_or_pin() {
    let mut m = up();
    put(&mut m, DOWN, SLTSTA, Width::B2, 0x11f);
    put(&mut m, DOWN, SLTCTL, Width::B2, 0x1029);
    msis(&mut m);
    assert!(event(&mut m, &[0], SlotEvent::Pull));
    assert_eq!(msis(&mut m), [(DOWN, 5)]);
    assert_eq!(get(&mut m, EP, 0, Width::B4), 0xffff_ffff);
    assert_eq!((m.item("sw.port[0].dllla"), m.item("sw.port[0].slot_status") & 0x48), (0, 8));
    assert!(m.dllla(), "the port's own link stays");
    put(&mut m, DOWN, SLTSTA, Width::B2, 0x11f);
    put(&mut m, DOWN, 0x52, Width::B2, 0);
    assert!(event(&mut m, &[0], SlotEvent::Insert));
    assert!(m.line(soc::IRQ_INTA));
    put(&mut m, DOWN, SLTSTA, Width::B2, 0x11f);
    assert!(!m.line(soc::IRQ_INTA));
    m.sleep(20 * MS);
    assert!(m.line(soc::IRQ_INTA), "the link is up");
    assert_eq!((m.item("sw.port[0].dllla"), get(&mut m, EP, 0x10, Width::B4)), (1, 0));
    for path in [&[2][..], &[0, 0], &[1, 0]] {
        assert!(!event(&mut m, path, SlotEvent::Pull), "{path:?}");
    }
    let mut plain = Machine::new();
    assert!(!event(&mut plain, &[0], SlotEvent::Pull), "an endpoint has no slots");
}

#[test]
fn the_ports_own_slot_is_the_empty_path() {
    let mut m = up();
    m.writew(Window::Dbi, SLTSTA, 0x11f);
    m.writew(Window::Dbi, SLTCTL, 1 << 5 | 1);
    m.writew(Window::Dbi, SLTSTA, 0x11f);
    assert!(event(&mut m, &[], SlotEvent::Press));
    assert_eq!((m.readw(Window::Dbi, SLTSTA) & 0x11f, m.line(soc::IRQ_INTA)), (1, true));
    m.writew(Window::Dbi, SLTSTA, 1);
    assert!(!m.line(soc::IRQ_INTA));
    assert!(event(&mut m, &[], SlotEvent::Pull));
    assert_eq!((m.rc.slot(), m.dllla()), (Slot::Absent, false));
    m.sleep(100 * MS);
    assert!(event(&mut m, &[], SlotEvent::Insert));
    m.sleep(30 * MS);
    assert_eq!((m.rc.slot(), m.dllla(), m.item("sw.port[0].dllla")), (Slot::Present, true, 1));
    assert_eq!(get(&mut m, UP, 0x18, Width::B4), 0, "the switch has lost its state");
    open(&mut m);
    m.raise_msi(1);
    assert_eq!(msis(&mut m), [(EP, 3)]);
}

#[test]
fn a_root_complex_with_a_switch_is_saved_and_restored() {
    let mut m = up();
    event(&mut m, &[0], SlotEvent::Pull);
    event(&mut m, &[0], SlotEvent::Insert);
    m.sleep(MS);
    let saved = m.rc.save();
    let text = serde_json::to_string(&saved).expect("plain data");
    let again =
        RootComplex::restore(config(), &serde_json::from_str(&text).expect("its form")).expect("its own");
    assert_eq!((again.save(), again.next_deadline()), (saved, m.rc.next_deadline()));
    let mut twin = Machine { rc: again, mem: m.mem.clone(), events: Vec::new(), ..Machine::with(config()) };
    twin.now = m.now;
    for m in [&mut m, &mut twin] {
        m.sleep(20 * MS);
        open(m);
        m.raise_msi(1);
        assert_eq!(msis(m), [(EP, 3)]);
    }
    assert_eq!(m.rc.save(), twin.rc.save());
}
