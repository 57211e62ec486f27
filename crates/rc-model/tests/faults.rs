//! Faults of the device's side, and the services of the root port that tell of them over INTA.

use std::sync::Arc;
use std::sync::Mutex;

use block::Cx;
use block::ResetKind;
use block::Width;
use endpoints::EndpointTest;
use pcie::Device;
use proptest::prelude::*;
use rc_fuzz::machine::MS;
use rc_fuzz::machine::MSI_TARGET;
use rc_fuzz::recorder::Recorder;
use rc_fuzz::Machine;
use rc_model::soc;
use rc_model::Config;
use rc_model::ErrorMessage;
use rc_model::Event;
use rc_model::Rate;
use rc_model::RootComplex;
use rc_model::Slot;
use rc_model::Window;

const ALL: u32 = 0xffff_ffff;
const AER: u64 = 0x100;
const DPC: u64 = 0x1a8;
/// Offsets of the PCI Express capability in DBI.
const DEVCTL: u64 = 0x78;
const LNKCTL: u64 = 0x80;
const LNKSTA: u64 = 0x82;
const SLTCTL: u64 = 0x88;
const SLTSTA: u64 = 0x8a;
const RTCTL: u64 = 0x8c;
const RTSTA: u64 = 0x90;

fn config() -> Config {
    Config::new(&soc::SM8250, Some(Device::single(EndpointTest::default()).boxed()))
}

fn up() -> Machine {
    let mut m = Machine::with(config());
    m.link_up();
    m.open_downstream();
    m.events.clear();
    m
}

fn world(m: &mut Machine, f: impl FnOnce(&mut RootComplex, &mut Cx<'_, Event>)) {
    let mut cx = Cx { now: m.now, mem: &mut m.mem, events: &mut m.events };
    f(&mut m.rc, &mut cx);
}

fn ltssm(m: &mut Machine) -> u32 {
    m.readl(Window::Parf, 0x1b0) & 0x3f
}

fn with_slot(slot: Slot) -> Machine {
    let mut m = Machine::with(Config { slot, ..config() });
    m.link_up();
    m.sleep(1000 * MS);
    m
}

#[test]
fn an_empty_slot_stays_in_detect_and_shows_no_presence() {
    let mut m = with_slot(Slot::Absent);
    assert!(!m.dllla() && ltssm(&mut m) <= 1);
    assert_eq!(m.readw(Window::Dbi, SLTSTA) & 1 << 6, 0);
}

#[test]
fn a_mute_card_is_present_and_stays_in_polling() {
    let mut m = with_slot(Slot::Mute);
    assert_eq!((m.dllla(), ltssm(&mut m)), (false, 2), "Linux 7.3: found, but not active");
    assert_ne!(m.readw(Window::Dbi, SLTSTA) & 1 << 6, 0);
    world(&mut m, |rc, cx| rc.set_slot(cx, Slot::Present));
    m.sleep(30 * MS);
    assert!(m.dllla(), "it begins to talk");
}

#[test]
fn a_pulled_card_takes_the_link_its_registers_and_its_interrupts_with_it() {
    let mut m = up();
    m.writel(Window::Parf, 0x22c, 0x7f80_0002);
    m.writew(Window::Dbi, SLTCTL, 1 << 5 | 1 << 3);
    m.writew(Window::Dbi, SLTSTA, 0x11f);
    m.raise(0, 0);
    world(&mut m, |rc, cx| rc.set_slot(cx, Slot::Absent));
    assert_eq!((m.dllla(), ltssm(&mut m), m.rc.slot()), (false, 0, Slot::Absent));
    assert!(m.line(soc::IRQ_GLOBAL), "LINK_DOWN is enabled");
    assert_ne!(m.readl(Window::Parf, 0x1b0) & 1 << 11, 0, "flush mode");
    assert_ne!(m.readl(Window::Parf, 0x230) & 1 << 8, 0, "nothing is outstanding");
    assert_eq!(m.readw(Window::Dbi, SLTSTA) & (1 << 3 | 1 << 6 | 1 << 8), 1 << 3 | 1 << 8);
    assert!(m.line(soc::IRQ_INTA), "presence changed");
    m.writew(Window::Dbi, SLTSTA, 1 << 3);
    assert!(!m.line(soc::IRQ_INTA), "the card's own INTx went with the link");
    assert_eq!(m.readl(Window::Config, 0), ALL);
    world(&mut m, |rc, cx| rc.set_slot(cx, Slot::Present));
    m.sleep(30 * MS);
    assert!(m.dllla());
    assert_eq!(m.readl(Window::Config, 0x10), 0, "a card that comes back has lost its state");
}

#[test]
fn a_lost_link_trains_again_and_the_card_was_reset_once() {
    let function = Recorder::default();
    let resets: Arc<Mutex<Vec<ResetKind>>> = function.resets.clone();
    let mut m = Machine::with(Config::new(&soc::SM8250, Some(Device::single(function).boxed())));
    m.link_up();
    world(&mut m, |rc, cx| rc.surprise_down(cx));
    assert!(!m.dllla());
    m.sleep(30 * MS);
    assert!(m.dllla());
    assert_eq!(*resets.lock().expect("not poisoned"), [ResetKind::LinkDown]);
    m.gpio_set(soc::GPIO_PERST, false);
    world(&mut m, |rc, cx| rc.surprise_down(cx));
    assert_eq!(resets.lock().expect("not poisoned").len(), 2, "no link, nothing to lose");
}

#[test]
fn the_global_interrupt_of_a_lost_link_ends_by_clear_and_the_core_reset_forgets_it() {
    for by_reset in [false, true] {
        let mut m = up();
        m.writel(Window::Parf, 0x228, ALL);
        m.writel(Window::Parf, 0x22c, 0x7f80_0002);
        world(&mut m, |rc, cx| rc.surprise_down(cx));
        assert_eq!(m.readl(Window::Parf, 0x224), 1 << 1);
        assert!(m.line(soc::IRQ_GLOBAL));
        if by_reset {
            m.reset_line(soc::RESET_CORE, true);
        } else {
            m.writel(Window::Parf, 0x228, 1 << 1);
        }
        assert!(!m.line(soc::IRQ_GLOBAL));
        m.reset_line(soc::RESET_CORE, false);
        assert_eq!(m.readl(Window::Parf, 0x224) & 1 << 1, 0);
    }
}

#[test]
fn a_surprise_is_an_aer_error_and_what_software_does_to_the_link_is_none() {
    type Cause = fn(&mut Machine);
    let asked: [Cause; 5] = [
        |m| m.writew(Window::Dbi, 0x3e, 1 << 6),
        |m| m.writew(Window::Dbi, LNKCTL, 1 << 4),
        |m| m.writel(Window::Elbi, 4, 0x10),
        |m| m.gpio_set(soc::GPIO_PERST, false),
        |m| m.writel(Window::Parf, 0x1b0, 0),
    ];
    for cause in asked {
        let mut m = up();
        cause(&mut m);
        m.sleep(10 * MS);
        assert!(!m.dllla());
        assert_eq!(m.readl(Window::Dbi, AER + 4), 0);
    }
    let mut m = up();
    m.writew(Window::Dbi, DEVCTL, 0xf);
    m.writel(Window::Dbi, AER + 0x2c, 0x7);
    world(&mut m, |rc, cx| rc.surprise_down(cx));
    assert_eq!(m.readl(Window::Dbi, AER + 4), 1 << 5);
    assert!(m.line(soc::IRQ_INTA));
    m.writel(Window::Dbi, AER + 0x2c, 0);
    assert!(!m.line(soc::IRQ_INTA), "ROOT_COMMAND gates it");
}

#[test]
fn dpc_holds_the_link_down_after_a_surprise_until_software_lets_go() {
    let mut m = up();
    m.writew(Window::Dbi, DPC + 6, 1 | 1 << 3);
    world(&mut m, |rc, cx| rc.surprise_down(cx));
    m.sleep(100 * MS);
    assert_eq!((m.dllla(), ltssm(&mut m)), (false, 0x19));
    assert!(m.line(soc::IRQ_INTA));
    m.writew(Window::Dbi, DPC + 8, 0x9);
    assert!(!m.line(soc::IRQ_INTA));
    m.sleep(30 * MS);
    assert!(m.dllla());
}

#[test]
fn dpc_contains_a_fatal_message_and_the_card_is_reset() {
    let mut m = up();
    m.writew(Window::Dbi, 0x3e, 1 << 1);
    m.writew(Window::Dbi, DPC + 6, 1);
    world(&mut m, |rc, cx| rc.send_error(cx, ErrorMessage::Fatal));
    assert!(!m.dllla());
    assert_eq!((m.readw(Window::Dbi, DPC + 8), m.readw(Window::Dbi, DPC + 0xa)), (0xd, 0x100));
    assert_eq!(m.item("ep.command"), 0);
}

#[test]
fn configuration_requests_are_retried_as_often_as_asked_after_each_reset() {
    let mut m = Machine::with(Config { rrs_count: 3, ..config() });
    m.link_up();
    m.open_downstream();
    // open_downstream() made two requests, which were lost.
    m.writew(Window::Dbi, RTCTL, 1 << 4);
    assert_eq!(m.readl(Window::Config, 0), 0xffff_0001);
    assert_eq!(m.readl(Window::Config, 0), 0xb500_104c);
    assert_eq!(m.readw(Window::Config, 4), 0, "the writes were not taken");
    m.gpio_set(soc::GPIO_PERST, false);
    m.gpio_set(soc::GPIO_PERST, true);
    m.sleep(30 * MS);
    m.writew(Window::Dbi, RTCTL, 0);
    assert_eq!(m.readl(Window::Config, 0), ALL, "invisible to software that did not ask");
    m.writew(Window::Dbi, RTCTL, 1 << 4);
    assert_eq!(m.readl(Window::Config, 4), ALL, "only the vendor ID tells");
    assert_eq!(m.readl(Window::Config, 0), 0xffff_0001);
    assert_eq!(m.readl(Window::Config, 0), 0xb500_104c);
    m.rc.set_rrs_count(0);
    m.writew(Window::Dbi, 0x3e, 1 << 6);
    m.writew(Window::Dbi, 0x3e, 0);
    m.sleep(30 * MS);
    assert_eq!(m.readl(Window::Config, 0), 0xb500_104c);
}

#[test]
fn a_request_without_completion_reads_ones_and_is_a_timeout_for_aer() {
    let mut m = up();
    m.writew(Window::Dbi, DEVCTL, 0xf);
    m.writel(Window::Dbi, AER + 0x2c, 0x2);
    m.rc.lose_completions(2);
    assert_eq!(m.readl(Window::Mem, 0), ALL);
    assert!(m.line(soc::IRQ_INTA));
    assert_eq!(m.readl(Window::Dbi, AER + 4), 1 << 14);
    assert_eq!(m.readl(Window::Dbi, AER + 0x30), 1 << 2 | 1 << 5, "non-fatal");
    m.writel(Window::Mem, 0, 1);
    m.writel(Window::Config, 0x10, 0);
    assert_ne!(
        m.readl(Window::Config, 0x10),
        0,
        "a configuration write wants a completion, a memory write does not"
    );
    let timeouts =
        m.events.iter().filter(|e| matches!(e, Event::Unrouted { why, .. } if why == "timeout")).count();
    assert_eq!(timeouts, 2);
}

#[test]
fn with_completion_timeouts_disabled_nothing_is_reported() {
    let mut m = up();
    m.writew(Window::Dbi, 0x98, 1 << 4);
    m.rc.lose_completions(1);
    assert_eq!(m.readl(Window::Mem, 0), ALL);
    assert_eq!(m.readl(Window::Dbi, AER + 4), 0);
}

#[test]
fn an_unclaimed_request_is_a_received_master_abort_and_the_cards_own_error() {
    let mut m = up();
    m.writew(Window::Dbi, 0x3e, 1 << 1);
    m.writel(Window::Dbi, AER + 0x2c, 0x7);
    let (card_devctl, card_aer) = (0x78, 0x100);
    m.readl(Window::Mem, 0x10_0000);
    assert_ne!(m.readw(Window::Dbi, 0x1e) & 1 << 13, 0);
    assert_eq!(m.readl(Window::Config, card_aer + 4), 1 << 20);
    assert_eq!(m.readl(Window::Dbi, AER + 0x30), 0, "an advisory error, masked out of reset");
    m.writew(Window::Config, card_devctl, 0xf);
    m.readl(Window::Mem, 0x10_0000);
    assert!(!m.line(soc::IRQ_INTA));
    m.writel(Window::Config, card_aer + 0x14, 0);
    m.readl(Window::Mem, 0x10_0000);
    assert_eq!(m.readl(Window::Dbi, AER + 0x30), 1, "ERR_COR");
    m.writel(Window::Mem, 0x10_0000, 0);
    assert_eq!(
        m.readl(Window::Dbi, AER + 0x30),
        1 | 1 << 2 | 1 << 5,
        "a write that nobody claims is non-fatal"
    );
    assert_eq!(m.readl(Window::Dbi, AER + 0x34), 0x0100_0100);
    assert!(m.line(soc::IRQ_INTA));
}

#[test]
fn pme_error_and_rate_messages_assert_inta_where_enabled_and_die_with_the_link() {
    let mut m = up();
    m.writew(Window::Dbi, RTCTL, 1 << 3);
    world(&mut m, |rc, cx| rc.send_pme(cx));
    assert_eq!((m.line(soc::IRQ_INTA), m.readl(Window::Dbi, RTSTA)), (true, 0x1_0100));
    m.writel(Window::Dbi, RTSTA, 1 << 16);
    assert!(!m.line(soc::IRQ_INTA));
    m.gpio_set(soc::GPIO_PERST, false);
    world(&mut m, |rc, cx| rc.send_pme(cx));
    world(&mut m, |rc, cx| rc.send_error(cx, ErrorMessage::Fatal));
    assert_eq!(m.readl(Window::Dbi, RTSTA), 0);
}

#[test]
fn a_card_that_slows_down_is_an_autonomous_change() {
    let mut m = up();
    m.writew(Window::Dbi, LNKCTL, 1 << 11);
    assert_eq!(m.readw(Window::Dbi, LNKSTA) & 0x3ff, 0x13);
    world(&mut m, |rc, cx| rc.change_rate(cx, Rate { speed: 1, width: 1 }));
    assert!(m.dllla(), "through Recovery, not through Detect");
    assert_ne!(m.readw(Window::Dbi, LNKSTA) & 1 << 11, 0);
    m.sleep(MS);
    assert_eq!(m.readw(Window::Dbi, LNKSTA) & (0x3ff | 1 << 14 | 1 << 15), 0x11 | 1 << 15, "LABS, not LBMS");
    assert!(m.line(soc::IRQ_INTA));
    m.writew(Window::Dbi, LNKSTA, 1 << 15);
    assert!(!m.line(soc::IRQ_INTA));
}

#[test]
fn a_target_speed_takes_effect_with_the_retrain_and_the_speed_change_bit_clears_itself() {
    let mut m = up();
    m.writew(Window::Dbi, 0xa0, 1);
    assert_eq!(m.readw(Window::Dbi, LNKSTA) & 0xf, 3, "not before the retrain");
    m.rmw(Window::Dbi, 0x80c, 0, 1 << 17);
    assert_ne!(m.readl(Window::Dbi, 0x80c) & 1 << 17, 0);
    m.sleep(MS);
    assert_eq!((m.readl(Window::Dbi, 0x80c) & 1 << 17, m.readw(Window::Dbi, LNKSTA) & 0xf), (0, 1));
}

#[test]
fn the_ports_own_msi_never_reaches_the_controller() {
    let mut m = up();
    m.arm_msi();
    m.writel(Window::Dbi, 0x54, MSI_TARGET as u32);
    m.writel(Window::Dbi, 0x58, 0);
    m.writew(Window::Dbi, 0x5c, 0);
    m.writew(Window::Dbi, 0x52, 1);
    m.writew(Window::Dbi, RTCTL, 1 << 3);
    world(&mut m, |rc, cx| rc.send_pme(cx));
    assert_eq!(m.readl(Window::Dbi, 0x830), 0, "iMSI-RX sees what arrives over the link");
    assert_eq!((m.rc.irq_levels(), m.item("count.msi")), (0, 0));
    assert!(m.mem.bytes.iter().all(|b| *b == 0));
    m.writew(Window::Dbi, 0x52, 0);
    assert!(m.line(soc::IRQ_INTA), "with its MSI off, the port uses its pin");
}

#[test]
fn l2_ends_when_the_driver_starts_the_link_anew() {
    let mut m = up();
    m.writel(Window::Elbi, 4, 0x10);
    assert_eq!(m.readl(Window::Elbi, 4), 0, "PME_Turn_Off clears itself");
    m.sleep(10 * MS);
    assert_eq!((m.dllla(), ltssm(&mut m)), (false, 0x15));
    // As Linux 7.3 resumes: PERST#, the clocks off and on, the core reset, training enabled.
    m.gpio_set(soc::GPIO_PERST, false);
    m.gpio_set(soc::GPIO_CLK0, false);
    m.gpio_set(soc::GPIO_CLK0, true);
    m.reset_line(soc::RESET_CORE, true);
    m.link_up();
    assert_eq!((m.dllla(), ltssm(&mut m)), (true, 0x11));
}

#[test]
fn counters_see_what_passes_the_link() {
    let mut m = up();
    let (ctrl, data) = (0x1d0, 0x1d4);
    let counter = |m: &mut Machine, group: u32, event: u32| {
        m.writel(Window::Dbi, ctrl, group << 24 | event << 16);
        m.readl(Window::Dbi, data)
    };
    m.writel(Window::Dbi, ctrl, 7 << 2);
    m.readl(Window::Config, 0);
    m.read(Window::Mem, 0, Width::B4);
    m.writel(Window::Mem, 0, 1);
    m.rmw(Window::Dbi, LNKCTL, 0, 1 << 5);
    m.sleep(MS);
    let seen: Vec<u32> =
        [(7, 3), (7, 1), (7, 0), (5, 0)].into_iter().map(|(g, e)| counter(&mut m, g, e)).collect();
    assert_eq!(seen, [1, 1, 1, 1]);
}

/// Fault or action number `n` of a random sequence.
fn happen(m: &mut Machine, n: u32) {
    match n {
        0 => world(m, |rc, cx| rc.set_slot(cx, Slot::Absent)),
        1 => world(m, |rc, cx| rc.set_slot(cx, Slot::Mute)),
        2 | 3 => world(m, |rc, cx| rc.set_slot(cx, Slot::Present)),
        4 => world(m, |rc, cx| rc.surprise_down(cx)),
        5 => world(m, |rc, cx| rc.change_rate(cx, Rate { speed: 1, width: 1 })),
        6 => m.rc.set_rrs_count(2),
        7 => m.rc.lose_completions(2),
        8 => world(m, |rc, cx| rc.send_pme(cx)),
        9 => world(m, |rc, cx| rc.send_error(cx, ErrorMessage::Fatal)),
        10 => m.writew(Window::Dbi, DPC + 6, 0x4b),
        11 => m.writew(Window::Dbi, DPC + 8, 0x9),
        12 => m.gpio_set(soc::GPIO_PERST, false),
        13 => m.reset_line(soc::RESET_CORE, true),
        14 => m.writel(Window::Elbi, 4, 0x10),
        15 => m.raise(0, 0),
        16 => m.power_on_reset(),
        17 => {
            m.readl(Window::Config, 0);
            m.readl(Window::Mem, 8);
        }
        _ => {
            m.link_up();
            m.open_downstream();
        }
    }
}

proptest! {
    #[test]
    fn any_sequence_of_faults_leaves_a_machine_that_a_new_start_brings_back(
        faults in proptest::collection::vec((0..22u32, 0..30u64), 0..40),
    ) {
        let mut m = Machine::with(config());
        for (n, ms) in faults {
            happen(&mut m, n);
            m.sleep(ms * MS);
            let up = m.item("rp.dllla") == 1;
            prop_assert!(!up || m.rc.slot() == Slot::Present, "after {}", n);
            let inta = m.item("rp.intx") | if up { m.item("ep.intx") } else { 0 };
            prop_assert_eq!(u64::from(m.line(soc::IRQ_INTA)), inta & 1, "after {}", n);
        }
        m.rc.set_rrs_count(0);
        m.rc.lose_completions(0);
        m.gpio_set(soc::GPIO_PERST, false);
        world(&mut m, |rc, cx| rc.set_slot(cx, Slot::Present));
        m.reset_line(soc::RESET_CORE, true);
        m.link_up();
        m.open_downstream();
        prop_assert!(m.dllla());
        prop_assert_eq!(m.readl(Window::Config, 0), 0xb500_104c);
    }
}
