//! What QEMU's DesignWare model leaves out (spec §7), item by item. Each test fails on a model that leaves it out.

use block::Cx;
use block::Width;
use endpoints::EndpointTest;
use pcie::Device;
use rc_fuzz::machine::MS;
use rc_fuzz::machine::MSI_TARGET;
use rc_fuzz::machine::RAM;
use rc_fuzz::Machine;
use rc_model::soc;
use rc_model::Config;
use rc_model::Event;
use rc_model::RootComplex;
use rc_model::Window;

const ALL: u32 = 0xffff_ffff;

fn up() -> Machine {
    with(config())
}

fn config() -> Config {
    Config::new(&soc::SM8250, Some(Device::single(EndpointTest::default()).boxed()))
}

fn with(config: Config) -> Machine {
    let mut m = Machine::with(config);
    m.link_up();
    m.open_downstream();
    m.events.clear();
    m
}

fn awake(name: &str) -> Machine {
    let soc = soc::find(name).expect("in the table");
    let mut m = Machine::with(Config::new(soc, Some(Device::single(EndpointTest::default()).boxed())));
    m.wake();
    m
}

fn world(m: &mut Machine, f: impl FnOnce(&mut RootComplex, &mut Cx<'_, Event>)) {
    let mut cx = Cx { now: m.now, mem: &mut m.mem, events: &mut m.events };
    f(&mut m.rc, &mut cx);
}

fn ltssm(m: &mut Machine) -> u32 {
    m.readl(Window::Parf, 0x1b0) & 0x3f
}

#[test]
fn omission_01_parf_elbi_and_mhi_are_there_and_act() {
    let mut m = up();
    assert_eq!((ltssm(&mut m), m.readl(Window::Elbi, 8)), (0x11, 0x11 << 12));
    assert_eq!(m.readl(Window::Parf, 0x2c00) & 1, 1, "SID translation is bypassed out of reset");
    m.writel(Window::Parf, 0x40, 1);
    assert!(!m.dllla(), "PHY_CTRL powers the PHY down");
    m.writel(Window::Parf, 0x40, 0);
    m.sleep(30 * MS);
    assert_eq!(m.readl(Window::Mhi, 0xc04), 0);
    m.writel(Window::Elbi, 4, 0x10);
    m.sleep(10 * MS);
    assert_eq!(m.readl(Window::Mhi, 0xc04), 1, "L2 entries");
}

#[test]
fn omission_02_the_link_waits_for_its_conditions_and_takes_its_time() {
    let mut m = Machine::with(config());
    m.wake();
    m.writel(Window::Phy, 0x44, 0);
    m.writel(Window::Parf, 0x40, 0);
    m.writel(Window::Parf, 0x1b0, 1 << 8);
    m.sleep(100 * MS);
    assert!(!m.dllla(), "PERST# is asserted");
    m.gpio_dir_out(soc::GPIO_PERST, true);
    let mut states = vec![ltssm(&mut m)];
    while !m.dllla() {
        m.sleep(MS);
        states.push(ltssm(&mut m));
    }
    assert!((10..50).contains(&(states.len() - 1)), "{} ms", states.len() - 1);
    states.dedup();
    assert_eq!(states, [0x00, 0x01, 0x02, 0x04, 0x07, 0x11]);
    m.writel(Window::Parf, 0x1b0, 0);
    assert_eq!((m.dllla(), m.readl(Window::Dbi, 0x72c) & 1 << 4), (false, 0), "training disabled");
}

#[test]
fn omission_02_hot_reset_disable_and_l2_are_states_of_the_link() {
    let mut m = up();
    m.writew(Window::Dbi, 0x3e, 1 << 6);
    assert_eq!((m.dllla(), ltssm(&mut m)), (false, 0x1f));
    m.writew(Window::Dbi, 0x3e, 0);
    m.writew(Window::Dbi, 0x80, 1 << 4);
    assert_eq!(ltssm(&mut m), 0x19);
    m.writew(Window::Dbi, 0x80, 0);
    m.sleep(30 * MS);
    m.writew(Window::Dbi, 0x80, 1 << 5);
    assert_eq!((m.dllla(), m.readw(Window::Dbi, 0x82) >> 11 & 1), (true, 1), "it retrains");
    m.sleep(MS);
    m.writel(Window::Elbi, 4, 0x10);
    m.sleep(10 * MS);
    assert_eq!((m.dllla(), ltssm(&mut m)), (false, 0x15));
}

#[test]
fn omission_03_link_control_and_speed_change_keep_and_clear_what_is_written() {
    let mut m = up();
    m.writel(Window::Dbi, 0x710, 0x0003_0120);
    assert_eq!(m.readl(Window::Dbi, 0x710), 0x0003_0120);
    m.writel(Window::Dbi, 0x80c, 0x0000_0155);
    assert_eq!(m.readl(Window::Dbi, 0x80c), 0x0000_0155);
    m.writel(Window::Dbi, 0x80c, 1 << 17);
    assert_eq!(m.readl(Window::Dbi, 0x80c), 1 << 17);
    m.sleep(MS);
    assert_eq!(m.readl(Window::Dbi, 0x80c), 0, "done");
}

#[test]
fn omission_04_read_only_fields_change_under_dbi_ro_wr_en_and_only_then() {
    // Class, LNKCAP, and the link from PCI Express to the next capability.
    for (off, w, v) in [(0x0a, Width::B2, 0x0604), (0x7c, Width::B4, 0x0011_2c12), (0x71, Width::B1, 0x50)] {
        let mut m = up();
        let before = m.read(Window::Dbi, off, w);
        m.write(Window::Dbi, off, w, v);
        assert_eq!(m.read(Window::Dbi, off, w), before, "{off:#x}");
        m.writel(Window::Dbi, 0x8bc, 1);
        m.write(Window::Dbi, off, w, v);
        m.writel(Window::Dbi, 0x8bc, 0);
        assert_eq!(m.read(Window::Dbi, off, w), v, "{off:#x}");
    }
}

#[test]
fn omission_05_versions_and_both_kinds_of_iatu() {
    let mut new = awake("sm8250");
    assert_eq!((new.readl(Window::Dbi, 0x8f8), new.readl(Window::Dbi, 0x900)), (0x3534_302a, ALL));
    let windows = |m: &mut Machine| {
        (0..8u64)
            .filter(|n| {
                m.writel(Window::Atu, n << 9 | 0x14, 0x1111_0000);
                m.readl(Window::Atu, n << 9 | 0x14) == 0x1111_0000
            })
            .count()
    };
    assert_eq!(windows(&mut new), 8);
    let mut old = awake("msm8996");
    assert_eq!(old.readl(Window::Dbi, 0x8f8), 0);
    old.writel(Window::Dbi, 0x900, 0xff);
    assert_eq!(old.readl(Window::Dbi, 0x900), 7, "the index is clipped");
    old.writel(Window::Dbi, 0x900, 1 << 31 | 3);
    old.writel(Window::Dbi, 0x918, 0x1111_0000);
    old.writel(Window::Dbi, 0x900, 3);
    assert_eq!(old.readl(Window::Dbi, 0x918), 0, "inbound and outbound regions are different ones");
}

#[test]
fn omission_06_regions_have_granules_upper_halves_and_sizes_beyond_4_gib() {
    let mut m = up();
    let at = 5 << 9;
    m.writel(Window::Atu, at | 0x10, 0);
    assert_eq!(m.readl(Window::Atu, at | 0x10), 0xffff, "granule");
    m.writel(Window::Atu, at | 0x20, ALL);
    assert_eq!(m.readl(Window::Atu, at | 0x20), 0xff, "UPPER_LIMIT");
    m.writel(Window::Atu, at | 0x14, 0x1234_0000);
    m.writel(Window::Atu, at | 0x18, 0x5);
    assert_eq!(m.readl(Window::Atu, at | 0x14), 0x1234_0000, "UPPER_TARGET leaves the lower half alone");
    // Inbound: 8 GiB from 4 GiB below to the machine's memory; only INCREASE_REGION_SIZE makes it so long.
    let ib = 0x100;
    let write = |m: &mut Machine, to: u64| {
        m.writel(Window::Mem, 0x14, to as u32);
        m.writel(Window::Mem, 0x18, (to >> 32) as u32);
        m.writel(Window::Mem, 0x1c, 16);
        m.command(1 << 4);
        m.mem.bytes.iter().any(|b| *b != 0)
    };
    let (base, last) = (0x1_0000_0000u64 + RAM, 0x2_ffff_ffffu64);
    for (increase, lands) in [(0, false), (1 << 13, true)] {
        for (reg, v) in [
            (0x08, 0),
            (0x0c, 1),
            (0x10, last as u32),
            (0x20, (last >> 32) as u32),
            (0x14, 0),
            (0x18, 0xffff_ffff),
            (0x00, increase),
            (0x04, 1 << 31),
        ] {
            m.writel(Window::Atu, ib + reg, v);
        }
        // 4 GiB behind the base, so beyond a region whose limit has no upper half.
        assert_eq!(write(&mut m, base + 0x1_0000_0000), lands, "INCREASE_REGION_SIZE {increase:#x}");
    }
}

#[test]
fn omission_06_config_types_differ_and_messages_and_shifted_bdfs_work() {
    let (cfg, len) = soc::window(Window::Config);
    let mut m = up();
    assert_eq!(m.readl(Window::Config, 0), 0xb500_104c);
    m.outbound(0, cfg, cfg + len - 1, 0x0100_0000, 5);
    assert_eq!(m.readl(Window::Config, 0), ALL, "a type 1 request is for a bridge");
    m.outbound(0, cfg, cfg + len - 1, 0x0010_0000, 4);
    m.writel(Window::Atu, 4, 1 << 31 | 1 << 28);
    assert_eq!(
        (m.readl(Window::Config, 0), m.readl(Window::Config, 0x8000)),
        (0xb500_104c, ALL),
        "CFG_SHIFT"
    );
    m.outbound(0, cfg, cfg + len - 1, 0, 0x2);
    assert_eq!(m.readl(Window::Config, 0), ALL, "I/O, which the endpoint does not have");
    m.outbound(0, cfg, cfg + len - 1, 0, 0x13);
    m.writel(Window::Atu, 4, 1 << 31 | 0x19);
    m.writel(Window::Config, 0, 0);
    m.sleep(10 * MS);
    assert_eq!(ltssm(&mut m), 0x15, "PME_Turn_Off by a message region");
}

#[test]
fn omission_06_no_inbound_region_is_enabled_by_itself() {
    let mut m = up();
    assert_eq!(m.item("iatu.ib.enabled"), 0);
    assert_eq!(m.readl(Window::Atu, 0x104), 0);
}

#[test]
fn omission_07_msis_have_groups_w1c_masks_that_act_at_once_and_a_64_bit_address() {
    let mut m = up();
    m.arm_msi();
    m.writel(Window::Dbi, 0x828 + 7 * 12, ALL);
    m.writew(Window::Config, 0x5c, 0xff);
    m.raise_msi(1);
    assert_eq!(m.rc.irq_levels(), 1 << 7, "group 7 has a line of its own");
    m.writel(Window::Dbi, 0x830 + 7 * 12, 1 << 31 | 1);
    assert_eq!(m.readl(Window::Dbi, 0x830 + 7 * 12), 0, "W1C, not XOR");
    m.writew(Window::Config, 0x5c, 0);
    m.writel(Window::Dbi, 0x82c, 1);
    m.raise_msi(1);
    assert_eq!((m.rc.irq_levels(), m.readl(Window::Dbi, 0x830)), (0, 1), "masked: latched and silent");
    m.writel(Window::Dbi, 0x82c, 0);
    assert!(m.line(soc::IRQ_MSI0), "the MSI is not lost");
    m.writel(Window::Dbi, 0x82c, 1);
    assert!(!m.line(soc::IRQ_MSI0));
    m.writel(Window::Dbi, 0x830, 1);
    m.writel(Window::Dbi, 0x82c, 0);
    m.writel(Window::Dbi, 0x824, 1);
    m.raise_msi(1);
    assert!(!m.line(soc::IRQ_MSI0), "the upper half of the address counts");
}

#[test]
fn omission_08_dbi_takes_bytes_and_halfwords() {
    let mut m = up();
    m.writel(Window::Dbi, 0x708, 0x4433_2211);
    m.write(Window::Dbi, 0x709, Width::B1, 0xaa);
    m.write(Window::Dbi, 0x70a, Width::B2, 0xbbcc);
    assert_eq!(m.readl(Window::Dbi, 0x708), 0xbbcc_aa11);
    m.writew(Window::Dbi, 0x80, 1 << 5);
    m.sleep(MS);
    let status = m.readw(Window::Dbi, 0x82);
    m.writew(Window::Dbi, 0x80, 0x40);
    assert_eq!(m.readw(Window::Dbi, 0x82), status, "LNKCTL alone: W1C bits beside it stay");
    m.writel(Window::Dbi, 0x80, u32::from(status) << 16);
    assert_ne!(m.readw(Window::Dbi, 0x82), status);
}

#[test]
fn omission_09_the_port_is_qualcomms_with_its_capabilities_and_slot() {
    let mut m = up();
    assert_eq!(m.readw(Window::Dbi, 0), 0x17cb);
    assert_ne!(m.readw(Window::Dbi, 0x72) & 1 << 8, 0, "a slot");
    let mut at = 0x100;
    let mut ids = Vec::new();
    while at != 0 {
        let head = m.readl(Window::Dbi, at);
        ids.push(head & 0xffff);
        if head & 0xffff == 0x0b {
            ids.push(m.readl(Window::Dbi, at + 4) & 0xf_ffff);
        }
        at = u64::from(head >> 20);
    }
    // AER, SECPCI, L1SS, 16 GT/s, LTR, DPC, PTM, RAS-DES (VSEC 2 revision 4), PTM registers (VSEC 4 revision 1).
    assert_eq!(ids, [0x01, 0x19, 0x1e, 0x26, 0x18, 0x1d, 0x1f, 0x0b, 0x4_0002, 0x0b, 0x1_0004]);
}

#[test]
fn omission_09_the_ports_own_msi_does_not_work() {
    let mut m = up();
    m.arm_msi();
    m.writel(Window::Dbi, 0x54, MSI_TARGET as u32);
    m.writew(Window::Dbi, 0x52, 1);
    m.writew(Window::Dbi, 0x8c, 1 << 3);
    world(&mut m, |rc, cx| rc.send_pme(cx));
    assert_eq!((m.rc.irq_levels(), m.readl(Window::Dbi, 0x830)), (0, 0));
    m.writew(Window::Dbi, 0x52, 0);
    assert!(m.line(soc::IRQ_INTA));
}

#[test]
fn omission_10_a_gated_access_is_seen_and_a_core_reset_clears_iatu_and_msi() {
    let mut m = up();
    m.arm_msi();
    m.gpio_set(soc::GPIO_CLK0, false);
    assert_eq!(m.readl(Window::Dbi, 0), ALL);
    assert!(m.events.iter().any(|e| matches!(e, Event::GatedAccess { why, .. } if why == "clock")));
    m.gpio_set(soc::GPIO_CLK0, true);
    m.reset_line(soc::RESET_CORE, true);
    m.readl(Window::Dbi, 0);
    assert!(m.events.iter().any(|e| matches!(e, Event::GatedAccess { why, .. } if why == "reset")));
    m.reset_line(soc::RESET_CORE, false);
    assert_eq!(
        (m.item("iatu.ob.enabled"), m.readl(Window::Dbi, 0x828), m.readl(Window::Dbi, 0x820)),
        (0, 0, 0)
    );
}

#[test]
fn omission_11_retry_unsupported_requests_timeouts_and_link_loss_are_told_apart() {
    let mut m = with(Config { rrs_count: 3, ..config() });
    m.writew(Window::Dbi, 0x8c, 1 << 4);
    assert_eq!(m.readl(Window::Config, 0), 0xffff_0001, "RRS");
    m.open_downstream();
    m.writew(Window::Dbi, 0x78, 0xf);
    m.writew(Window::Dbi, 0x3e, 1 << 1);
    m.writel(Window::Dbi, 0x12c, 0x7);
    m.writew(Window::Config, 0x78, 0xf);
    m.writel(Window::Mem, 0x10_0000, 0);
    assert_eq!(m.readl(Window::Config, 0x104), 1 << 20, "the endpoint's own AER: unsupported request");
    assert!(m.line(soc::IRQ_INTA), "its ERR_NONFATAL");
    m.writel(Window::Dbi, 0x130, ALL);
    m.rc.lose_completions(1);
    m.readl(Window::Mem, 0);
    assert_eq!(m.readl(Window::Dbi, 0x104), 1 << 14, "completion timeout");
    m.writel(Window::Dbi, 0x104, ALL);
    m.writel(Window::Parf, 0x22c, 0x7f80_0002);
    world(&mut m, |rc, cx| rc.surprise_down(cx));
    assert_eq!(m.readl(Window::Dbi, 0x104), 1 << 5, "surprise down");
    assert!(m.line(soc::IRQ_GLOBAL));
}

#[test]
fn omission_12_the_endpoint_test_function_works_and_there_is_no_edma() {
    let mut m = up();
    assert_eq!(m.readl(Window::Dbi, 0x978), ALL, "Linux then looks for no eDMA");
    m.arm_msi();
    m.mem.bytes[0x100..0x110].copy_from_slice(b"0123456789abcdef");
    for (reg, v) in [(0x0c, RAM as u32 + 0x100), (0x14, RAM as u32 + 0x200), (0x1c, 16), (0x24, 1), (0x28, 1)]
    {
        m.writel(Window::Mem, reg, v);
    }
    m.command(1 << 5);
    assert_eq!(m.readl(Window::Mem, 8), 1 << 4 | 1 << 6, "COPY succeeded, interrupt raised");
    assert_eq!(m.mem.bytes[0x200..0x210], *b"0123456789abcdef");
    assert!(m.line(soc::IRQ_MSI0));
}
