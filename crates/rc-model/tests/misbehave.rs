//! A card that misbehaves, behind the root complex: each act, when it strikes, and what the root complex makes of it.

use block::Width::B2;
use block::Width::B4;
use endpoints::EndpointTest;
use pcie::misbehave::Act;
use pcie::misbehave::Misbehaving;
use pcie::misbehave::On;
use pcie::misbehave::Rule;
use pcie::Device;
use pcie::LinkFailure;
use rc_fuzz::machine::MS;
use rc_fuzz::Machine;
use rc_model::soc;
use rc_model::Config;
use rc_model::Event;
use rc_model::RootComplex;
use rc_model::Slot;
use rc_model::Window;

const COMMAND: u16 = 4;

fn config(rules: &[Rule]) -> Config {
    let card = Device::single(EndpointTest::default()).boxed();
    Config::new(&soc::SM8250, Some(Box::new(Misbehaving::new(card, rules.to_vec(), 1))))
}

/// A machine in use: link up, windows open, MSI armed.
fn machine(rules: &[Rule]) -> Machine {
    let mut m = Machine::with(config(rules));
    m.link_up();
    m.open_downstream();
    m.arm_msi();
    m
}

fn msis(m: &Machine) -> usize {
    m.events.iter().filter(|e| matches!(e, Event::Msi { .. })).count()
}

/// COMMAND of the endpoint without bus mastering.
fn clear_bme(m: &mut Machine) {
    m.write(Window::Config, u64::from(COMMAND), B2, 2);
}

#[test]
fn an_msi_comes_late_although_bus_mastering_is_off() {
    let mut m = machine(&[Rule::once(On::BmeClear, Act::LateMsi { delay_ns: 5 * MS })]);
    m.raise_msi(1);
    m.sleep(10 * MS);
    assert_eq!(msis(&m), 1);
    clear_bme(&mut m);
    m.sleep(4 * MS);
    assert_eq!(msis(&m), 1, "not yet");
    m.sleep(2 * MS);
    assert_eq!(msis(&m), 2, "the same message once more");
    clear_bme(&mut m);
    m.sleep(10 * MS);
    assert_eq!(msis(&m), 2, "once, and only when BME falls");
}

#[test]
fn a_late_dma_meets_the_closed_bridge() {
    let mut m = machine(&[Rule::once(On::Phase("rmmod".into()), Act::LateDma { delay_ns: 0 })]);
    m.writel(Window::Mem, 0x14, 0x4000_1000);
    m.writel(Window::Mem, 0x1c, 4);
    m.command(1 << 4);
    m.sleep(10 * MS);
    m.with_cx(|rc, cx| rc.announce(cx, "insmod"));
    m.sleep(MS);
    assert_eq!(m.item("count.dma_refused"), 0, "another phase");
    m.rmw(Window::Dbi, 4, 4, 0);
    m.with_cx(|rc, cx| rc.announce(cx, "rmmod"));
    m.sleep(MS);
    assert!(m.events.iter().any(|e| matches!(e, Event::DmaRefused { gate, .. } if gate == "bridge-bme")));
}

#[test]
fn a_storm_has_a_number_and_a_pace_and_power_ends_it() {
    let storm = Act::MsiStorm { count: 500, every_ns: 1000 };
    let mut m = machine(&[Rule { nth: 2, ..Rule::once(On::Msi, storm) }]);
    m.raise_msi(1);
    m.sleep(10 * MS);
    assert_eq!(msis(&m), 1, "the first passes");
    m.raise_msi(1);
    m.sleep(10 * MS);
    let taken = m.item("count.msi");
    assert_eq!(taken, 2 + 500);
    let mut m = machine(&[Rule::once(On::Msi, Act::MsiStorm { count: u32::MAX, every_ns: 1 })]);
    m.raise_msi(1);
    m.sleep(4 * MS + MS / 1000);
    m.power_on_reset();
    let before = m.item("count.msi");
    m.sleep(MS);
    assert_eq!(m.item("count.msi"), before);
}

#[test]
fn a_stuck_pin_stays_whatever_the_driver_does_until_power_goes() {
    let mut m = machine(&[Rule::once(On::ConfigWrite(COMMAND), Act::StuckIntx)]);
    assert!(m.line(soc::IRQ_INTA), "arming wrote COMMAND");
    m.write(Window::Config, u64::from(COMMAND), B2, 0x400);
    assert!(m.line(soc::IRQ_INTA), "INTX_DISABLE does not help");
    m.power_on_reset();
    m.link_up();
    assert!(!m.line(soc::IRQ_INTA));
}

#[test]
fn a_lost_vector_is_lost_and_the_others_come() {
    let mut m = machine(&[Rule { times: 0, ..Rule::once(On::Msi, Act::LoseVector(2)) }]);
    m.writew(Window::Config, 0x52, 0x51);
    for (vector, seen) in [(1, 1), (3, 1), (2, 2), (3, 2)] {
        // RAISE_MSI counts from 1.
        m.raise_msi(vector);
        m.sleep(10 * MS);
        assert_eq!(msis(&m), seen, "after {vector}");
    }
}

#[test]
fn retries_last_their_time() {
    let mut m = machine(&[Rule::once(On::ConfigRead(0), Act::Retry { for_ns: 50 * MS })]);
    m.readl(Window::Dbi, 0);
    let id = |m: &mut Machine| m.readl(Window::Config, 0);
    assert_ne!(id(&mut m), 0xb500_104c);
    m.sleep(49 * MS);
    assert_ne!(id(&mut m), 0xb500_104c);
    m.sleep(2 * MS);
    assert_eq!(id(&mut m), 0xb500_104c);
}

#[test]
fn refusals_read_ones_and_only_a_timeout_is_an_error_of_that_kind() {
    for (act, unrouted) in
        [(Act::Timeout, Some("timeout")), (Act::Unsupported, Some("no-function")), (Act::AllOnes, None)]
    {
        let mut m = machine(&[Rule { nth: 2, ..Rule::once(On::MemRead, act.clone()) }]);
        let magic = |m: &mut Machine| m.readl(Window::Mem, 0);
        m.writel(Window::Mem, 0, 7);
        assert_eq!(magic(&mut m), 7, "the first passes");
        m.events.clear();
        assert_eq!(magic(&mut m), u32::MAX, "{act:?}");
        let why = m.events.iter().find_map(|e| match e {
            Event::Unrouted { why, .. } => Some(why.as_str()),
            _ => None,
        });
        assert_eq!(why, unrouted, "{act:?}");
        assert_eq!(magic(&mut m), 7, "once");
    }
}

#[test]
fn a_bar_claims_another_size() {
    let mut m = machine(&[Rule::once(On::Config, Act::BarSize { bar: 0, bytes: 0x10_0000 })]);
    m.writel(Window::Config, 0x10, u32::MAX);
    assert_eq!(m.readl(Window::Config, 0x10) & !0xf, 0xfff0_0000);
    m.writel(Window::Config, 0x18, u32::MAX);
    assert_eq!(m.readl(Window::Config, 0x18) & !0xf, 0xffff_f000, "the other BAR is as it was");
}

#[test]
fn the_link_flaps_or_the_card_vanishes_in_the_middle_of_an_access() {
    for (how, back) in [(LinkFailure::Flap, true), (LinkFailure::Vanish, false)] {
        let mut m = machine(&[Rule { nth: 3, ..Rule::once(On::MemRead, Act::Link(how)) }]);
        assert!(m.readl(Window::Mem, 0) == 0 && m.readl(Window::Mem, 0) == 0 && m.dllla());
        m.readl(Window::Mem, 0);
        assert!(!m.dllla(), "{how:?}");
        assert_eq!(m.readl(Window::Mem, 0), u32::MAX);
        m.sleep(200 * MS);
        assert_eq!(m.dllla(), back, "{how:?}");
        assert_eq!(m.rc.slot() == Slot::Present, back);
    }
}

#[test]
fn a_rule_strikes_at_its_time() {
    let mut m = Machine::with(config(&[Rule::once(On::Time(300 * MS), Act::Link(LinkFailure::Vanish))]));
    m.link_up();
    m.sleep(100 * MS);
    assert!(m.dllla());
    m.sleep(300 * MS);
    assert!(!m.dllla());
}

#[test]
fn chances_come_from_the_seed_and_rates_are_kept() {
    let lost = |seed| {
        let rule = Rule { times: 0, permille: 300, ..Rule::once(On::MemRead, Act::AllOnes) };
        let card = Device::single(EndpointTest::default()).boxed();
        let mut m = Machine::with(Config::new(
            &soc::SM8250,
            Some(Box::new(Misbehaving::new(card, vec![rule], seed))),
        ));
        m.link_up();
        m.open_downstream();
        m.arm_msi();
        (0..1000).map(|_| m.readl(Window::Mem, 0) == u32::MAX).collect::<Vec<_>>()
    };
    let (a, b) = (lost(1), lost(2));
    assert_eq!(a, lost(1));
    assert_ne!(a, b);
    let n = a.iter().filter(|l| **l).count();
    assert!((230..370).contains(&n), "{n} of 1000");
}

#[test]
fn a_restored_machine_misbehaves_as_the_saved_one_would_have() {
    let rules = [
        Rule { nth: 2, ..Rule::once(On::Msi, Act::MsiStorm { count: 50, every_ns: 100_000 }) },
        Rule { times: 0, permille: 500, ..Rule::once(On::MemRead, Act::AllOnes) },
    ];
    let mut m = machine(&rules);
    m.raise_msi(1);
    m.sleep(10 * MS);
    m.raise_msi(1);
    m.sleep(6 * MS);
    let text = serde_json::to_string(&m.rc.save()).unwrap();
    let rc = RootComplex::restore(config(&rules), &serde_json::from_str(&text).unwrap()).unwrap();
    let mut twin = Machine { soc: m.soc, rc, mem: m.mem.clone(), events: Vec::new(), now: m.now };
    for m in [&mut m, &mut twin] {
        m.events.clear();
        m.sleep(20 * MS);
        for _ in 0..20 {
            m.read(Window::Mem, 0, B4);
        }
    }
    assert_eq!(m.events, twin.events);
    assert_eq!(m.rc.save(), twin.rc.save());
    let fewer = serde_json::from_str(&text).unwrap();
    assert!(RootComplex::restore(config(&rules[..1]), &fewer).is_err());
}

#[test]
fn behind_a_switch_the_link_of_the_slot_fails_not_that_of_the_root_port() {
    for (how, back) in [(LinkFailure::Flap, 1), (LinkFailure::Vanish, 0)] {
        let card = Device::single(EndpointTest::default()).boxed();
        let rules = vec![Rule::once(On::Phase("rmmod".into()), Act::Link(how))];
        let slots: Vec<Option<Box<dyn pcie::Card<Event>>>> =
            vec![Some(Box::new(Misbehaving::new(card, rules, 1))), None];
        let switch = pcie::Switch::new(pcie::SwitchSpec::new(slots)).boxed();
        let mut m = Machine::with(Config::new(&soc::SM8250, Some(switch)));
        m.link_up();
        let up = |m: &mut Machine| (m.dllla(), m.item("sw.port[0].dllla"));
        assert_eq!(up(&mut m), (true, 1));
        m.with_cx(|rc, cx| rc.announce(cx, "rmmod"));
        assert_eq!(up(&mut m), (true, 0), "{how:?}");
        m.sleep(100 * MS);
        assert_eq!(up(&mut m), (true, back), "{how:?}");
        assert_eq!(m.item("misbehaved/0"), 1);
    }
}
