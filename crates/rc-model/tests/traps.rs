//! The traps of spec §8 and anchors-style §7, and what crosses block boundaries: gating, resets, routing, DMA gates.

use block::ResetKind;
use block::Width;
use endpoints::EndpointTest;
use endpoints::MemDisk;
use endpoints::Nvme;
use endpoints::NvmeSpec;
use endpoints::VirtioPci;
use pcie::misbehave::Misbehaving;
use pcie::Card;
use pcie::Device;
use pcie::Switch;
use pcie::SwitchSpec;
use rc_fuzz::machine::Machine;
use rc_fuzz::machine::MS;
use rc_fuzz::machine::MSI_TARGET;
use rc_fuzz::machine::RAM;
use rc_fuzz::recorder::Recorder;
use rc_model::soc;
use rc_model::Config;
use rc_model::Effect;
use rc_model::Event;
use rc_model::SamplePoint;
use rc_model::Window;

const ALL: u32 = 0xffff_ffff;
const CORE: [Window; 5] = [Window::Dbi, Window::Elbi, Window::Atu, Window::Config, Window::Mem];

fn up() -> Machine {
    let mut m = Machine::new();
    m.link_up();
    m.open_downstream();
    m.events.clear();
    m
}

fn gates(m: &Machine) -> Vec<&str> {
    m.events
        .iter()
        .filter_map(|e| if let Event::DmaRefused { gate, .. } = e { Some(gate.as_str()) } else { None })
        .collect()
}

#[test]
fn nothing_answers_before_its_clock_and_each_miss_is_recorded() {
    let mut m = Machine::new();
    for win in CORE.into_iter().chain([Window::Parf, Window::Mhi]) {
        assert_eq!(m.readl(win, 0), ALL, "{win:?}");
    }
    assert_eq!(m.events.len(), 7);
    assert!(m
        .events
        .iter()
        .all(|e| matches!(e, Event::GatedAccess { why, write: false, .. } if why == "clock")));
    m.gpio_dir_out(soc::GPIO_CLK0 + 1, true);
    assert_eq!(m.readl(Window::Parf, 0x1b0), 0, "cfg alone lets PARF answer");
    assert_eq!(m.readl(Window::Dbi, 0), ALL);
    assert_eq!(m.item("count.gated"), 8);
}

#[test]
fn a_write_to_a_core_in_reset_is_lost_and_recorded_as_reset() {
    let mut m = Machine::new();
    m.wake();
    m.reset_line(soc::RESET_CORE, true);
    m.writel(Window::Dbi, 0x820, 0x1234);
    assert!(
        matches!(m.events.last(), Some(Event::GatedAccess { why, write: true, off: 0x820, .. }) if why == "reset")
    );
    m.reset_line(soc::RESET_CORE, false);
    assert_eq!(m.readl(Window::Dbi, 0x820), 0);
}

#[test]
fn each_single_clock_gates_the_core() {
    for n in 0..soc::SM8250.clocks.len() as u32 {
        let mut m = Machine::new();
        m.wake();
        assert_ne!(m.readl(Window::Dbi, 0), ALL);
        m.gpio_set(soc::GPIO_CLK0 + n, false);
        assert_eq!(m.readl(Window::Dbi, 0), ALL, "{}", soc::SM8250.clocks[n as usize]);
    }
}

#[test]
fn the_core_reset_clears_parf_msi_iatu_and_drops_link_and_interrupts() {
    let mut m = up();
    m.arm_msi();
    m.writel(Window::Parf, 0x22c, 1 << 13 | 1 << 1);
    m.raise_msi(1);
    assert!(m.line(soc::IRQ_MSI0) && m.line(soc::IRQ_GLOBAL));
    m.reset_line(soc::RESET_CORE, true);
    assert_eq!(m.rc.irq_levels(), 0);
    m.reset_line(soc::RESET_CORE, false);
    assert_eq!(m.readl(Window::Parf, 0x224), 0, "the link-down that the reset causes is not left latched");
    assert_eq!(m.readl(Window::Parf, 0x22c), 0x7f80_0000);
    assert_eq!((m.item("msi.enable[0]"), m.item("iatu.ob.enabled"), m.item("msi.addr")), (0, 0, 0));
    assert!(!m.dllla());
}

#[test]
fn every_condition_is_needed_for_the_link() {
    type Step = fn(&mut Machine);
    let spoil: [(&str, Step); 8] = [
        ("LTSSM_EN", |m| m.writel(Window::Parf, 0x1b0, 0)),
        ("PHY_CTRL", |m| m.writel(Window::Parf, 0x40, 1)),
        ("PHY RESET_CTRL", |m| m.writel(Window::Phy, 0x44, 1)),
        ("phy reset", |m| m.reset_line(soc::RESET_PHY, true)),
        ("pipe reset", |m| m.reset_line(soc::RESET_PIPE, true)),
        ("core reset", |m| m.reset_line(soc::RESET_CORE, true)),
        ("PERST#", |m| m.gpio_set(soc::GPIO_PERST, false)),
        ("clock", |m| m.gpio_set(soc::GPIO_CLK0, false)),
    ];
    for (name, f) in spoil {
        let mut m = Machine::new();
        m.link_up();
        assert_eq!(m.item("rp.dllla"), 1, "{name}");
        f(&mut m);
        assert_eq!((m.item("rp.dllla"), m.item("parf.ltssm_state")), (0, 0), "{name} drops it at once");
        m.sleep(100 * MS);
        assert_eq!(m.item("rp.dllla"), 0, "{name} keeps it down");
    }
}

#[test]
fn elbi_enables_training_as_well() {
    let mut m = Machine::new();
    m.link_up();
    m.writel(Window::Parf, 0x1b0, 0);
    assert!(!m.dllla());
    m.writel(Window::Elbi, 4, 1);
    m.sleep(30 * MS);
    assert!(m.dllla());
    assert_eq!(m.readl(Window::Elbi, 8) >> 12, 0x11);
}

#[test]
fn an_empty_slot_toggles_detect_and_never_links() {
    let mut m = Machine::with(Config::new(&soc::SM8250, None));
    m.link_up();
    assert!(!m.dllla());
    assert!(m.readl(Window::Parf, 0x1b0) & 0x3f <= 1);
    assert_eq!(m.rc.next_deadline(), None);
}

#[test]
fn a_read_after_the_deadline_sees_the_link_even_if_the_tick_is_late() {
    let mut m = Machine::new();
    m.link_up();
    m.writel(Window::Parf, 0x1b0, 0);
    m.writel(Window::Parf, 0x1b0, 1 << 8);
    assert!(!m.dllla());
    m.now = m.now.after_ns(25 * MS);
    assert!(m.dllla());
    assert_eq!(m.readl(Window::Parf, 0x1b0) & 0x3f, 0x11);
    assert_eq!(m.readl(Window::Dbi, 0x728) & 0x3f, 0x11);
    assert_ne!(m.readl(Window::Parf, 0x224) & 1 << 13, 0, "LINK_UP is latched");
}

#[test]
fn downstream_reads_need_window_link_and_function() {
    let mut m = up();
    assert_eq!(m.readl(Window::Config, 0), 0xb500_104c);
    let why = |m: &Machine| match m.events.last() {
        Some(Event::Unrouted { why, .. }) => why.clone(),
        other => panic!("{other:?}"),
    };
    let (cfg, len) = soc::window(Window::Config);
    m.outbound(0, cfg, cfg + len - 1, 0x0108_0000, 4);
    assert_eq!(m.readl(Window::Config, 0), ALL);
    assert_eq!(why(&m), "no-function", "device 1");
    m.outbound(0, cfg, cfg + len - 1, 0x0200_0000, 5);
    assert_eq!(m.readl(Window::Config, 0), ALL);
    assert_eq!(why(&m), "no-function", "CFG1 to a bus behind the endpoint");
    m.outbound(0, cfg, cfg + len - 1, 0x0100_0000, 5);
    assert_eq!(m.readl(Window::Config, 0), ALL);
    assert_eq!(why(&m), "no-function", "a type 1 request is not for an endpoint, even with its address");
    m.writel(Window::Atu, 4, 0);
    assert_eq!(m.readl(Window::Config, 0), ALL);
    assert_eq!(why(&m), "no-window");
    assert_eq!(m.readl(Window::Mem, 0x10_0000), ALL);
    assert_eq!(why(&m), "no-function", "no BAR there");
    m.writew(Window::Dbi, 0x04, 0);
    assert_eq!(m.readl(Window::Mem, 0), ALL);
    assert_eq!(why(&m), "bridge");
    m.gpio_set(soc::GPIO_PERST, false);
    assert_eq!(m.readl(Window::Mem, 0), ALL);
    assert_eq!(why(&m), "link-down");
    assert_eq!(m.item("count.unrouted"), 7);
}

#[test]
fn a_64_bit_config_read_is_two_dwords() {
    let mut m = up();
    let v = m.read(Window::Config, 0, Width::B8);
    assert_eq!(v as u32, 0xb500_104c);
    assert_eq!((v >> 32) as u32, m.readl(Window::Config, 4));
}

#[test]
fn msi_travels_from_the_endpoint_to_the_line_and_back_down() {
    let mut m = up();
    m.arm_msi();
    m.raise_msi(1);
    assert!(m.line(soc::IRQ_MSI0));
    assert_eq!(m.readl(Window::Dbi, 0x830), 1);
    m.writel(Window::Dbi, 0x82c, 1);
    assert!(!m.line(soc::IRQ_MSI0), "masking lowers the line");
    m.writel(Window::Dbi, 0x82c, 0);
    assert!(m.line(soc::IRQ_MSI0), "unmasking with a pending status raises it");
    m.writel(Window::Dbi, 0x830, 1);
    assert!(!m.line(soc::IRQ_MSI0));
    assert_eq!(m.item("count.msi"), 1);
    assert!(m.mem.bytes.iter().all(|b| *b == 0), "an MSI never reaches memory");
}

#[test]
fn a_stale_status_fires_when_the_next_life_unmasks() {
    let mut m = up();
    m.arm_msi();
    m.writel(Window::Dbi, 0x82c, ALL);
    m.raise_msi(1);
    m.gpio_set(soc::GPIO_PERST, false);
    assert!(!m.line(soc::IRQ_MSI0));
    m.writel(Window::Dbi, 0x82c, 0);
    assert!(m.line(soc::IRQ_MSI0), "PERST# does not clear iMSI-RX");
}

#[test]
fn parf_gates_msi_lines_only_where_the_soc_is_wired_so() {
    for gating in [false, true] {
        let mut config =
            Config::new(&soc::SM8250, Some(Device::single(endpoints::EndpointTest::default()).boxed()));
        config.msi_gating = gating;
        let mut m = Machine::with(config);
        m.link_up();
        m.open_downstream();
        m.arm_msi();
        m.raise_msi(1);
        assert!(m.line(soc::IRQ_MSI0), "enabled out of reset");
        // What Linux 6.12 writes if the device tree has `global` (spec §2.2.2).
        m.writel(Window::Parf, 0x22c, 1 << 13);
        assert_eq!(m.line(soc::IRQ_MSI0), !gating);
        assert!(m.line(soc::IRQ_GLOBAL), "the latched LINK_UP");
        m.writel(Window::Parf, 0x22c, 0x7f80_0002);
        assert!(m.line(soc::IRQ_MSI0) && !m.line(soc::IRQ_GLOBAL), "MSI bits never raise global");
    }
}

#[test]
fn intx_follows_the_endpoint_and_dies_with_the_link() {
    let mut m = up();
    m.raise(0, 0);
    assert!(m.line(soc::IRQ_INTA));
    m.writel(Window::Dbi, 0x3c, 0x0100);
    m.gpio_set(soc::GPIO_PERST, false);
    assert!(!m.line(soc::IRQ_INTA));
}

#[test]
fn an_endpoint_pulse_ends_by_its_own_deadline() {
    let mut m = up();
    m.raise(0, 0);
    assert!(m.line(soc::IRQ_INTA));
    m.sleep(endpoints::endpoint_test::INTX_PULSE_NS - MS);
    assert!(m.line(soc::IRQ_INTA), "nobody has read STATUS");
    m.sleep(2 * MS);
    assert!(!m.line(soc::IRQ_INTA));
}

#[test]
fn the_ports_own_intx_shares_inta() {
    let mut m = up();
    m.writew(Window::Dbi, 0x80, 1 << 10 | 1 << 5);
    assert_ne!(m.readw(Window::Dbi, 0x82) & 1 << 11, 0, "training while it retrains");
    assert!(m.dllla());
    m.sleep(MS);
    assert!(m.line(soc::IRQ_INTA), "LBMS after a retrain");
    m.writew(Window::Dbi, 0x82, 1 << 14);
    assert!(!m.line(soc::IRQ_INTA));
}

#[test]
fn every_gate_of_the_way_up_refuses_by_its_name() {
    let mut m = up();
    m.arm_msi();
    m.writew(Window::Config, 0x04, 0x2);
    m.raise_msi(1);
    m.writew(Window::Config, 0x04, 0x6);
    m.writew(Window::Dbi, 0x04, 0x103);
    m.raise_msi(1);
    m.writew(Window::Dbi, 0x04, 0x107);
    // A region that does not cover the target: no match any more for plain DMA, but MSI matches before the iATU.
    m.writel(Window::Atu, 0x100 + 4, 1 << 31);
    m.raise_msi(1);
    assert!(m.line(soc::IRQ_MSI0));
    m.writel(Window::Mem, 0x0c, RAM as u32);
    m.writel(Window::Mem, 0x1c, 16);
    m.command(1 << 3);
    m.writel(Window::Atu, 0x100 + 4, 0);
    m.writel(Window::Mem, 0x0c, 0x1000);
    m.command(1 << 3);
    let refused = m.item("count.dma_refused");
    let seen = gates(&m);
    assert!(seen.starts_with(&["function-bme", "bridge-bme", "iatu"]), "{seen:?}");
    assert_eq!(*seen.last().unwrap_or(&""), "memory");
    assert_eq!(refused, seen.len() as u64);
}

#[test]
fn dma_passes_all_gates_into_memory_and_through_an_inbound_window() {
    let mut m = up();
    let write = |m: &mut Machine, to: u64| {
        m.writel(Window::Mem, 0x14, to as u32);
        m.writel(Window::Mem, 0x18, 0);
        m.writel(Window::Mem, 0x1c, 64);
        m.command(1 << 4);
    };
    write(&mut m, RAM + 0x100);
    assert!(m.mem.bytes[0x100..0x140].iter().any(|b| *b != 0));
    m.writel(Window::Atu, 0x100 + 0x08, 0x1000_0000);
    m.writel(Window::Atu, 0x100 + 0x10, 0x1000_ffff);
    m.writel(Window::Atu, 0x100 + 0x14, RAM as u32);
    m.writel(Window::Atu, 0x100 + 0x04, 1 << 31);
    write(&mut m, 0x1000_0200);
    assert!(m.mem.bytes[0x200..0x240].iter().any(|b| *b != 0));
    assert_eq!(m.item("count.dma_refused"), 0);
}

#[test]
fn an_msi_after_the_controller_moved_away_is_rogue_and_lands_in_memory() {
    let mut m = up();
    m.arm_msi();
    m.mem.bytes[0x8000] = 0xaa;
    m.writel(Window::Dbi, 0x820, 0);
    m.raise_msi(1);
    assert!(matches!(m.events.last(), Some(Event::RogueMsi { addr: MSI_TARGET, data: 0, .. })));
    assert_eq!(m.mem.bytes[0x8000], 0, "a plain write: guest memory is overwritten");
    assert_eq!(m.item("count.rogue_msi"), 1);
    assert!(!m.line(soc::IRQ_MSI0));
}

#[test]
fn with_an_its_an_msi_leaves_the_machine_and_iatu_and_imsi_rx_have_no_part_in_it() {
    const TRANSLATER: u64 = 0x0821_0040;
    let mut config = Config::new(&soc::SM8250, Some(Device::single(EndpointTest::default()).boxed()));
    config.its_translater = Some(TRANSLATER);
    let mut m = Machine::with(config);
    m.link_up();
    m.open_downstream();
    m.arm_msi();
    m.writel(Window::Dbi, 0x820, 0);
    m.writel(Window::Config, 0x54, TRANSLATER as u32);
    m.writew(Window::Config, 0x5c, 0x40);
    m.rc.take_effects();
    m.raise_msi(1);
    let rid = rc_model::Bdf::new(1, 0, 0);
    assert_eq!(m.rc.take_effects(), [Effect::ItsMsi { rid, addr: TRANSLATER, data: 0x40 }]);
    assert_eq!((m.item("count.msi"), m.item("count.rogue_msi"), m.item("msi.status[0]")), (1, 0, 0));
    m.writew(Window::Config, 0x04, 0x2);
    m.raise_msi(1);
    assert_eq!(m.rc.take_effects(), [], "without bus mastering nothing leaves the function");
}

#[test]
fn an_msi_that_no_controller_was_ever_programmed_for_is_rogue() {
    let mut m = up();
    m.writel(Window::Config, 0x54, MSI_TARGET as u32);
    m.writew(Window::Config, 0x52, 1);
    m.raise_msi(1);
    assert_eq!(m.item("count.rogue_msi"), 1);
}

#[test]
fn dma_to_another_page_of_memory_is_no_rogue_msi() {
    let mut m = up();
    m.arm_msi();
    m.writel(Window::Config, 0x54, RAM as u32);
    m.raise_msi(1);
    assert_eq!(m.item("count.rogue_msi"), 0);
}

#[test]
fn an_msi_to_a_disabled_vector_is_rogue_but_consumed() {
    let mut m = up();
    m.arm_msi();
    m.mem.bytes[0x8000] = 0xaa;
    m.writel(Window::Dbi, 0x828, 0);
    m.raise_msi(1);
    assert_eq!((m.item("count.rogue_msi"), m.mem.bytes[0x8000]), (1, 0xaa));
}

#[test]
fn secondary_bus_reset_resets_the_endpoint_and_retrains() {
    let mut m = up();
    m.writew(Window::Dbi, 0x3e, 1 << 6);
    assert!(!m.dllla());
    assert_eq!(m.readl(Window::Parf, 0x1b0) & 0x3f, 0x1f);
    m.writew(Window::Dbi, 0x3e, 0);
    m.sleep(30 * MS);
    assert!(m.dllla());
    assert_eq!(m.readl(Window::Config, 0x10), 0, "BAR lost");
    assert_eq!(m.item("ep.command"), 0);
    assert_ne!(m.readw(Window::Dbi, 0x04), 0, "the port itself is untouched");
}

/// A machine with its link up and a function that records its resets.
fn recorded() -> (Machine, rc_fuzz::recorder::Resets) {
    let function = Recorder::default();
    let resets = function.resets.clone();
    let mut m = Machine::with(Config::new(&soc::SM8250, Some(Device::single(function).boxed())));
    m.link_up();
    m.open_downstream();
    (m, resets)
}

#[test]
fn each_cause_of_a_lost_link_reaches_the_endpoint_once_as_its_own_kind() {
    type Cause = fn(&mut Machine);
    let causes: [(ResetKind, Cause); 5] = [
        (ResetKind::Perst, |m| m.gpio_set(soc::GPIO_PERST, false)),
        (ResetKind::HotReset, |m| m.writew(Window::Dbi, 0x3e, 1 << 6)),
        (ResetKind::LinkDown, |m| m.writew(Window::Dbi, 0x80, 1 << 4)),
        (ResetKind::LinkDown, |m| m.reset_line(soc::RESET_CORE, true)),
        (ResetKind::LinkDown, |m| m.gpio_set(soc::GPIO_CLK0, false)),
    ];
    for (kind, cause) in causes {
        let (mut m, resets) = recorded();
        cause(&mut m);
        m.sleep(100 * MS);
        assert_eq!(*resets.lock().expect("not poisoned"), [kind]);
    }
}

#[test]
fn a_link_that_is_not_up_carries_no_intx() {
    let (mut m, resets) = recorded();
    assert!(m.line(soc::IRQ_INTA));
    m.writel(Window::Elbi, 4, 0x10);
    m.sleep(10 * MS);
    assert!(!m.line(soc::IRQ_INTA), "L2");
    assert_eq!(resets.lock().expect("not poisoned").len(), 0, "nobody reset the endpoint");
}

#[test]
fn link_disable_holds_the_link_down_until_it_is_cleared() {
    let mut m = up();
    m.writew(Window::Dbi, 0x80, 1 << 4);
    m.sleep(100 * MS);
    assert!(!m.dllla());
    m.writew(Window::Dbi, 0x80, 0);
    m.sleep(30 * MS);
    assert!(m.dllla());
}

#[test]
fn link_loss_latches_the_event_and_flush_mode() {
    let mut m = up();
    m.writel(Window::Parf, 0x22c, 0x7f80_0002);
    m.gpio_set(soc::GPIO_PERST, false);
    assert!(m.line(soc::IRQ_GLOBAL));
    assert_ne!(m.readl(Window::Parf, 0x1b0) & 1 << 11, 0);
    assert_ne!(m.readl(Window::Parf, 0x230) & 1 << 8, 0, "FLUSH_COMPLETED when idle");
    m.rmw(Window::Parf, 0x1b0, 0, 1 << 10);
    assert_eq!(m.readl(Window::Parf, 0x1b0) & 1 << 11, 0);
    m.writel(Window::Parf, 0x228, ALL);
    assert!(!m.line(soc::IRQ_GLOBAL));
}

#[test]
fn pme_turn_off_ends_in_l2_within_10_ms() {
    let mut m = up();
    m.writel(Window::Elbi, 4, 0x10);
    m.sleep(10 * MS);
    assert_eq!(m.readl(Window::Parf, 0x1b0) & 0x3f, 0x15);
    assert!(!m.dllla());
    assert_eq!(m.readl(Window::Mhi, 0xc04), 1);
}

#[test]
fn samples_are_taken_at_the_edges_that_erase_evidence() {
    let mut m = up();
    m.arm_msi();
    m.gpio_set(soc::GPIO_PERST, false);
    let s1 = m.sampled(SamplePoint::S1).expect("S1");
    assert_eq!((s1.get("gpio.perst"), s1.get("rp.dllla")), (Some(0), Some(1)));
    let s2 = m.sampled(SamplePoint::S2).expect("S2");
    assert_eq!((s2.get("gpio.perst"), s2.get("rp.dllla")), (Some(1), Some(0)));
    assert_eq!(s2.get("ep.msi.enable"), Some(1), "endpoint state from before the edge");
    assert_eq!(m.item("ep.msi.enable"), 0);
    assert!(m.sampled(SamplePoint::S3).is_none());
    m.gpio_set(soc::GPIO_CLK0 + 6, false);
    m.gpio_set(soc::GPIO_CLK0 + 5, false);
    let s3: Vec<_> =
        m.events.iter().filter(|e| matches!(e, Event::Sampled(s) if s.point == SamplePoint::S3)).collect();
    assert_eq!(s3.len(), 1, "only the first clock");
    assert_eq!(m.sampled(SamplePoint::S3).and_then(|s| s.get("clk.on")), Some(0x7f));
}

#[test]
fn late_accesses_count_between_s3_and_the_next_clock_on() {
    let mut m = up();
    m.gpio_set(soc::GPIO_CLK0, false);
    m.readl(Window::Parf, 0);
    m.writel(Window::Dbi, 0x82c, 0);
    m.readl(Window::Gpio, 0);
    assert_eq!(m.item("count.after_s3"), 2, "providers are not the core");
    m.gpio_set(soc::GPIO_CLK0, true);
    m.readl(Window::Parf, 0);
    assert_eq!(m.item("count.after_s3"), 2);
}

#[test]
fn s5_precedes_the_first_access_after_s4_and_opens_a_life() {
    let mut m = Machine::new();
    assert_eq!(m.sample(SamplePoint::S4).life, 0);
    m.gpio_dir_out(soc::GPIO_PERST, true);
    let s5 = m.sampled(SamplePoint::S5).expect("S5");
    assert_eq!((s5.life, s5.get("gpio.perst_out")), (1, Some(0)), "before the access takes effect");
    m.readl(Window::Gpio, 0);
    let n = m.events.iter().filter(|e| matches!(e, Event::Sampled(s) if s.point == SamplePoint::S5)).count();
    assert_eq!(n, 1);
}

#[test]
fn only_a_strict_machine_aborts_and_only_where_a_block_stands_still() {
    for strict in [false, true] {
        let mut config = Config::new(&soc::SM8250, None);
        config.strict = strict;
        let mut m = Machine::with(config);
        assert_eq!(m.readl(Window::Dbi, 0), ALL);
        assert_eq!(m.rc.aborted(), strict);
        m.writel(Window::Parf, 0x40, 0);
        assert_eq!(m.rc.aborted(), strict);
        m.power_on_reset();
        assert!(!m.rc.aborted(), "power-on is no access");
        m.readl(Window::Gpio, 0);
        assert!(!m.rc.aborted(), "providers always answer");
        m.wake();
        m.readl(Window::Dbi, 0);
        m.readl(Window::Mem, 0);
        assert!(!m.rc.aborted(), "a dead link is no abort (spec §3)");
    }
}

#[test]
fn samples_name_every_item_of_the_documented_table() {
    let table = include_str!("../src/sample.rs");
    let test: Box<dyn Card<Event>> = Device::single(EndpointTest::default()).boxed();
    let nvme = Nvme::new(NvmeSpec::new(Box::new(MemDisk::new(1 << 20)), "a"));
    let rng = VirtioPci::new(endpoints::virtio::Rng::new(1));
    let samples: Vec<_> = [
        (&soc::SM8250, Box::new(Misbehaving::new(test, Vec::new(), 1)) as Box<dyn Card<Event>>),
        (&soc::SM8250, Device::single(nvme).boxed()),
        (soc::find("rk3568").unwrap(), Device::single(rng).boxed()),
        (&soc::SM8250, Switch::new(SwitchSpec::new(vec![None])).boxed()),
    ]
    .into_iter()
    .map(|(soc, card)| Machine::with(Config::new(soc, Some(card))).sample(SamplePoint::Now))
    .collect();
    let mut rows = 0;
    for row in table.lines().filter(|l| l.starts_with("/// | `")) {
        let items = row.split('|').nth(1).unwrap_or_default();
        for name in items.split('`').skip(1).step_by(2) {
            let name = name.replace("[i]", "[7]").replace("[name]", "[aux]").replace("[k]", "[0]");
            assert!(samples.iter().any(|s| s.get(&name).is_some()), "{name}");
            rows += 1;
        }
    }
    assert!(rows > 40, "the table was read");
}

#[test]
fn events_a_guest_can_repeat_are_bounded_while_counts_go_on() {
    let mut m = Machine::new();
    for _ in 0..1000 {
        m.readl(Window::Dbi, 0);
    }
    assert_eq!(m.events.len(), 64);
    assert_eq!(m.item("count.gated"), 1000);
    m.events.clear();
    m.sample(SamplePoint::S4);
    m.readl(Window::Dbi, 0);
    assert_eq!(m.events.len(), 2, "a new life has a new budget: S5 and the access");
}

#[test]
fn an_access_across_the_end_of_a_window_reads_ones_and_writes_nothing() {
    let mut m = Machine::new();
    m.wake();
    assert_eq!(m.read(Window::Dbi, 0xf20, Width::B4), u64::from(ALL));
    m.write(Window::Dbi, u64::MAX, Width::B8, 1);
    assert_eq!(m.read(Window::Elbi, 0xa8, Width::B8), u64::MAX);
}

#[test]
fn power_on_reset_is_a_cold_boot() {
    let mut cold = Machine::new();
    let want = cold.sample(SamplePoint::Now).items;
    let mut m = up();
    m.arm_msi();
    m.raise_msi(1);
    m.power_on_reset();
    assert_eq!(m.sample(SamplePoint::Now).items, want);
    assert_eq!(m.rc.irq_levels(), 0);
}
