//! The wrappers other than Qualcomm's, as their drivers use them.

use block::Width;
use endpoints::EndpointTest;
use pcie::Device;
use rc_fuzz::machine::Machine;
use rc_fuzz::machine::MS;
use rc_model::soc;
use rc_model::wrapper::qcom::SA8255P;
use rc_model::wrapper::rockchip::RK3568;
use rc_model::wrapper::snps::DW_ECAM;
use rc_model::wrapper::snps::SNPS;
use rc_model::Config;
use rc_model::SamplePoint;
use rc_model::Soc;
use rc_model::Window;

fn machine(soc: &'static Soc) -> Machine {
    Machine::with(Config::new(soc, Some(Device::single(EndpointTest::default()).boxed())))
}

/// Client registers: GENERAL_CON, INTR_STATUS_LEGACY, INTR_MASK_LEGACY, LTSSM_STATUS.
const GENERAL_CON: u64 = 0x0;
const INTR_STATUS_LEGACY: u64 = 0x8;
const INTR_MASK_LEGACY: u64 = 0x1c;
const LTSSM_STATUS: u64 = 0x300;

/// rockchip_pcie_probe() and rockchip_pcie_start_link() of Linux v6.12, as far as the link needs them.
fn rk3568_up() -> Machine {
    let mut m = machine(&RK3568);
    m.wake();
    m.writel(Window::Phy, 0x44, 0);
    m.writel(Window::Apb, GENERAL_CON, 0x0040_0040);
    m.writel(Window::Apb, GENERAL_CON, 0x000c_000c);
    m.sleep(100 * MS);
    assert_eq!(m.readl(Window::Apb, LTSSM_STATUS) & 0x3_0000, 0, "PERST# is still asserted");
    m.gpio_dir_out(soc::GPIO_PERST, true);
    m.sleep(30 * MS);
    m
}

#[test]
fn rk3568_trains_when_enabled_and_out_of_perst_and_stops_when_disabled() {
    let mut m = rk3568_up();
    assert_eq!(m.readl(Window::Apb, LTSSM_STATUS), 0x3_0011);
    assert!(m.dllla());
    m.writel(Window::Apb, GENERAL_CON, 0x000c_0008);
    assert_eq!(m.readl(Window::Apb, LTSSM_STATUS), 0);
    assert!(!m.dllla());
}

#[test]
fn rk3568_combines_intx_into_one_maskable_line() {
    let mut m = rk3568_up();
    m.open_downstream();
    // RAISE_INTX of the endpoint-test function.
    m.raise(0, 1);
    assert_eq!(m.item("ep.intx"), 1);
    assert_eq!(m.readl(Window::Apb, INTR_STATUS_LEGACY), 1);
    assert!(!m.line(soc::IRQ_LEGACY), "masked out of reset");
    m.writel(Window::Apb, INTR_MASK_LEGACY, 0x0001_0000);
    assert!(m.line(soc::IRQ_LEGACY));
    assert!((0..4).all(|i| !m.line(soc::IRQ_INTA + i)), "the pins have no lines of their own");
    m.writel(Window::Apb, INTR_MASK_LEGACY, 0x0001_0001);
    assert!(!m.line(soc::IRQ_LEGACY));
}

#[test]
fn rk3568_client_registers_need_pclk_and_nothing_else() {
    let mut m = machine(&RK3568);
    assert_eq!(m.readl(Window::Apb, LTSSM_STATUS), u32::MAX);
    m.gpio_dir_out(soc::GPIO_CLK0 + 3, true);
    assert_eq!(m.readl(Window::Apb, LTSSM_STATUS), 0);
    assert_eq!(m.item("count.gated"), 1);
}

#[test]
fn rk3568_ignores_what_is_written_to_dbi2() {
    let mut m = rk3568_up();
    let before = m.readl(Window::Dbi, 0x10);
    m.writel(Window::Dbi, 0x10_0010, 0);
    m.writel(Window::Dbi, 0x10_0010, u32::MAX);
    assert_eq!(m.readl(Window::Dbi, 0x10), before);
    assert_eq!(m.item("count.gated"), 0);
}

#[test]
fn the_core_alone_trains_from_power_on_and_delivers_msis_on_one_line() {
    let mut m = machine(&SNPS);
    m.sleep(30 * MS);
    // PORT_DEBUG1: bit 4 up, bit 29 in training (dw_pcie_link_up of Linux v6.12).
    assert_eq!(m.readl(Window::Dbi, 0x72c) & (1 << 4 | 1 << 29), 1 << 4);
    m.open_downstream();
    m.arm_msi();
    m.raise(1, 1);
    assert!(m.line(soc::IRQ_MSI0));
}

#[test]
fn a_sample_has_no_item_of_what_is_not_there() {
    let has = |soc, item: &str| machine(soc).sample(SamplePoint::Now).get(item).is_some();
    for item in ["parf.ltssm_en", "elbi.lt_enable", "parf.int_all_mask"] {
        assert!(!has(&RK3568, item) && !has(&SNPS, item), "{item}");
    }
    for item in ["gpio.perst", "clk.on", "reset.core", "reg.on", "phy.reset"] {
        assert!(has(&RK3568, item) && !has(&SNPS, item), "{item}");
    }
    assert!(
        has(&RK3568, "apb.ltssm_en") && !has(&SNPS, "apb.ltssm_en") && !has(&soc::SM8250, "apb.ltssm_en")
    );
}

/// A configuration address in ECAM.
fn ecam(bus: u64, dev: u64, reg: u64) -> u64 {
    bus << 20 | dev << 15 | reg
}

#[test]
fn a_port_that_firmware_runs_is_up_and_bus_0_of_its_ecam_is_dbi() {
    let mut m = machine(&SA8255P);
    m.sleep(30 * MS);
    assert_eq!(m.readl(Window::Ecam, ecam(0, 0, 0)) & 0xffff, 0x17cb);
    assert_eq!(m.readl(Window::Ecam, ecam(0, 0, 8)) >> 8, 0x06_0400, "firmware has set the class");
    assert_eq!(m.readl(Window::Ecam, ecam(0, 1, 0)), u32::MAX);
    assert_eq!(m.readl(Window::Ecam, ecam(1, 0, 0)), u32::MAX, "no bus number yet");
    m.writel(Window::Ecam, ecam(0, 0, 0x18), 0x01_0100);
    assert_eq!(m.readl(Window::Ecam, ecam(1, 0, 0)), 0xb500_104c);
    assert_eq!(m.readl(Window::Ecam, ecam(1, 1, 0)), u32::MAX);
    assert_eq!(m.readl(Window::Ecam, ecam(3, 31, 0xffc)), u32::MAX, "the last bus there is");
}

/// As pci-host-generic finds it, with bus 1 below the port.
fn dw_ecam_up() -> Machine {
    let mut m = machine(&DW_ECAM);
    m.sleep(30 * MS);
    m.writel(Window::Ecam, ecam(0, 0, 0x18), 0x3f_0100);
    m
}

#[test]
fn ecam_of_the_core_alone_has_one_device_on_bus_0_and_ends_at_its_last_bus() {
    let mut m = machine(&DW_ECAM);
    assert_eq!(m.readl(Window::Ecam, ecam(0, 0, 0x82)) & 1 << 13, 0, "the link still trains");
    m.sleep(30 * MS);
    assert!(m.dllla(), "nobody enabled it");
    assert_eq!(m.readl(Window::Ecam, ecam(0, 0, 8)) >> 8, 0x06_0400, "firmware has set the class");
    for (bus, dev, reg) in [(0, 1, 0), (0, 31, 0xffc), (1, 0, 0)] {
        assert_eq!(m.readl(Window::Ecam, ecam(bus, dev, reg)), u32::MAX, "{bus}:{dev}");
    }
    assert_eq!(m.readl(Window::Ecam, ecam(0, 0, 0) | 1 << 12), u32::MAX, "function 1 of the port");
    let mut m = dw_ecam_up();
    assert_eq!(m.readl(Window::Ecam, ecam(1, 0, 0)), 0xb500_104c);
    assert_eq!(m.readl(Window::Ecam, ecam(1, 1, 0)), u32::MAX, "the card is device 0");
    assert_eq!(m.readl(Window::Ecam, ecam(2, 0, 0)), u32::MAX, "no bridge below");
    assert_eq!(m.readl(Window::Ecam, ecam(63, 31, 0xffc)), u32::MAX, "the last bus there is");
    assert_eq!(m.item("count.bad_input"), 0);
    assert_eq!(m.readl(Window::Ecam, ecam(64, 0, 0)), u32::MAX);
    assert_eq!(m.item("count.bad_input"), 1, "past the window");
}

#[test]
fn ecam_takes_every_width_and_writes_to_nobody_change_nothing() {
    let mut m = dw_ecam_up();
    for (at, id) in [(ecam(0, 0, 0), m.readl(Window::Ecam, ecam(0, 0, 0))), (ecam(1, 0, 0), 0xb500_104c)] {
        assert_eq!(u32::from(m.readw(Window::Ecam, at + 2)), id >> 16);
        let bytes = (0..4).map(|i| m.read(Window::Ecam, at + i, Width::B1) << (8 * i));
        assert_eq!(bytes.sum::<u64>(), u64::from(id));
    }
    let before = m.rc.save();
    m.writel(Window::Ecam, ecam(0, 1, 4), u32::MAX);
    m.writew(Window::Ecam, ecam(0, 31, 4), 0xffff);
    assert_eq!(m.rc.save(), before);
}

#[test]
fn firmwares_regions_follow_the_bus_number_and_come_back_with_power() {
    let mut m = dw_ecam_up();
    // Bus 1 goes out as type 0 whatever the port calls it: a port that calls it 2 has nobody on bus 1, and bus 2 is type 1.
    m.writel(Window::Ecam, ecam(0, 0, 0x18), 0x3f_0200);
    assert_eq!(m.readl(Window::Ecam, ecam(1, 0, 0)), u32::MAX);
    assert_eq!(m.readl(Window::Ecam, ecam(2, 0, 0)), u32::MAX);
    m.power_on_reset();
    m.sleep(30 * MS);
    m.writel(Window::Ecam, ecam(0, 0, 0x18), 0x3f_0100);
    assert_eq!(m.readl(Window::Ecam, ecam(1, 0, 0)), 0xb500_104c);
    assert_eq!(m.sample(SamplePoint::Now).get("iatu.ob.enabled"), None, "they are not the driver's");
}

#[test]
fn intx_of_ecam_are_lines_of_their_own_and_nothing_takes_msis() {
    let mut m = dw_ecam_up();
    m.open_downstream();
    m.raise(0, 1);
    assert_eq!(m.item("ep.intx"), 1);
    assert!(m.line(soc::IRQ_INTA) && !m.line(soc::IRQ_INTA + 1));
    let lines: Vec<_> = DW_ECAM.lines().map(|l| DW_ECAM.line_name(l)).collect();
    assert_eq!(lines, ["inta", "intb", "intc", "intd"]);
    assert!(!DW_ECAM.wrapper.takes_msis() && SNPS.wrapper.takes_msis() && SA8255P.wrapper.takes_msis());
}

#[test]
fn firmwares_imsi_rx_answers_at_ecam_and_takes_msis_at_address_0() {
    let mut m = machine(&SA8255P);
    m.sleep(30 * MS);
    let (mem, _) = m.soc.window(Window::Mem);
    m.writel(Window::Ecam, ecam(0, 0, 0x18), 0x01_0100);
    m.writel(Window::Ecam, ecam(0, 0, 0x20), (mem as u32) >> 16 | mem as u32);
    m.writel(Window::Ecam, ecam(0, 0, 0x04), 0x6);
    m.writel(Window::Ecam, ecam(1, 0, 0x10), mem as u32);
    m.writel(Window::Ecam, ecam(1, 0, 0x04), 0x6);
    m.writel(Window::Ecam, 0x82c, 0);
    m.writel(Window::Ecam, 0x828, u32::MAX);
    // Address 0 is what Linux 7.3 programs there (spec §1.5), into iMSI-RX and into the function.
    m.writel(Window::Ecam, ecam(1, 0, 0x52) & !3, 1 << 16 | 0x5005);
    m.raise(1, 1);
    assert_eq!((m.item("count.msi"), m.item("count.rogue_msi")), (1, 0));
    assert!(m.line(soc::IRQ_MSI0));
}

#[test]
fn power_on_takes_a_link_down_that_nothing_else_holds() {
    for soc in [&SNPS, &SA8255P] {
        let mut m = machine(soc);
        m.link_up();
        assert!(m.dllla(), "{}", soc.name);
        m.power_on_reset();
        assert!(!m.dllla(), "{}: it trains anew", soc.name);
        m.sleep(30 * MS);
        assert!(m.dllla(), "{}", soc.name);
    }
}
