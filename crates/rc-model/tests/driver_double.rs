//! A double of Linux v6.12's pcie-qcom (ops 1_9_0) that makes its accesses in its order, without a kernel.
//!
//! Each function is named after, and follows, the kernel function it stands for:
//! drivers/pci/controller/dwc/pcie-qcom.c (Q), pcie-designware.c (D), pcie-designware-host.c (H),
//! drivers/phy/qualcomm/phy-qcom-pcie2.c (PHY), drivers/pci (PCI). Phases P1–P14 are those of spec §4.1,
//! the orders of removal those of spec §4.3.

use block::Width;
use rc_fuzz::machine::Machine;
use rc_fuzz::machine::MS;
use rc_fuzz::machine::MSI_TARGET;
use rc_model::soc;
use rc_model::Event;
use rc_model::Sample;
use rc_model::SamplePoint;
use rc_model::Window;

const ALL: u32 = 0xffff_ffff;
const ATU_ENABLE: u32 = 1 << 31;
const GROUPS: u64 = 8;
/// hwirq that the double gives the endpoint: group 1, so that group arithmetic is exercised.
const HWIRQ: u32 = 37;

/// What the driver keeps between calls.
struct Driver {
    m: Machine,
    /// dw_pcie_rp.irq_mask[]
    irq_mask: [u32; GROUPS as usize],
    /// dw_pcie.num_ob_windows, num_ib_windows
    windows: (u32, u32),
    region_align: u32,
    region_limit: u64,
    handled: Vec<u32>,
}

/// clk_bulk_prepare_enable(), clk_bulk_disable_unprepare() on gpio-gate-clocks (clk-gpio.c).
fn clk_bulk(m: &mut Machine, on: bool) {
    let n = soc::SM8250.clocks.len() as u32;
    let order: Vec<u32> = if on { (0..n).collect() } else { (0..n).rev().collect() };
    for i in order {
        m.gpio_set(soc::GPIO_CLK0 + i, on);
    }
}

fn regulator_bulk(m: &mut Machine, on: bool) {
    for i in 0..soc::SM8250.supplies.len() as u32 {
        m.gpio_set(soc::GPIO_REG0 + i, on);
    }
}

impl Driver {
    /// Providers have probed: clk-gpio and fixed regulators requested their lines as outputs, off.
    fn new() -> Driver {
        let mut m = Machine::new();
        for i in 0..soc::SM8250.clocks.len() as u32 {
            m.gpio_dir_out(soc::GPIO_CLK0 + i, false);
        }
        for i in 0..soc::SM8250.supplies.len() as u32 {
            m.gpio_dir_out(soc::GPIO_REG0 + i, false);
        }
        Driver {
            m,
            irq_mask: [ALL; GROUPS as usize],
            windows: (0, 0),
            region_align: 0,
            region_limit: 0,
            handled: Vec::new(),
        }
    }

    fn dbi(&mut self, off: u64) -> u32 {
        self.m.readl(Window::Dbi, off)
    }

    fn dbi_set(&mut self, off: u64, v: u32) {
        self.m.writel(Window::Dbi, off, v);
    }

    /// D: dw_pcie_find_capability()
    fn find_capability(&mut self, id: u16) -> u64 {
        let mut at = u64::from(self.m.readw(Window::Dbi, 0x34) & 0xff);
        while at != 0 {
            let reg = self.m.readw(Window::Dbi, at);
            if reg & 0xff == id {
                return at;
            }
            at = u64::from(reg >> 8);
        }
        panic!("capability {id:#x} not found");
    }

    fn dbi_ro_wr(&mut self, on: bool) {
        self.m.rmw(Window::Dbi, 0x8bc, 1, u32::from(on));
    }

    /// Q: qcom_pcie_link_up()
    fn link_up(&mut self) -> bool {
        let exp = self.find_capability(0x10);
        self.m.readw(Window::Dbi, exp + 0x12) & 1 << 13 != 0
    }

    /// Q: qcom_ep_reset_assert(), qcom_ep_reset_deassert()
    fn perst(&mut self, assert: bool) {
        if !assert {
            self.m.sleep(100 * MS);
        }
        self.m.gpio_set(soc::GPIO_PERST, !assert);
        self.m.sleep(MS);
    }

    /// PHY: qcom_pcie2_phy_init()
    fn phy_init(&mut self) {
        self.m.reset_line(soc::RESET_PHY, false);
    }

    /// PHY: qcom_pcie2_phy_power_on()
    fn phy_power_on(&mut self) {
        let m = &mut self.m;
        m.rmw(Window::Phy, 0xa0, 1 << 1, 0);
        m.sleep(MS);
        m.rmw(Window::Phy, 0xa0, 1 << 0, 0);
        m.rmw(Window::Phy, 0xa4, 0, 1 << 0);
        m.sleep(MS);
        m.rmw(Window::Phy, 0x44, 0, 1);
        for (off, clear, set) in
            [(0x88, 0x7f, 120), (0x8c, 0x7f, 120), (0x74, 0x3f, 36), (0x78, 0x3f, 26), (0x7c, 0x3f, 24)]
        {
            m.rmw(Window::Phy, off, clear, set);
        }
        m.rmw(Window::Phy, 0x84, 0x7, 4);
        m.rmw(Window::Phy, 0x94, 0x1f, 0);
        m.rmw(Window::Phy, 0x80, 1 << 1, 0);
        m.rmw(Window::Phy, 0x44, 1, 0);
        m.sleep(MS);
        m.reset_line(soc::RESET_PIPE, false);
        assert_eq!(m.readl(Window::Phy, 0x3c) & 1, 0, "phy initialization failed");
    }

    /// PHY: qcom_pcie2_phy_power_off()
    fn phy_power_off(&mut self) {
        self.m.rmw(Window::Phy, 0x44, 0, 1);
        self.m.reset_line(soc::RESET_PIPE, true);
    }

    /// PHY: qcom_pcie2_phy_exit()
    fn phy_exit(&mut self) {
        self.m.reset_line(soc::RESET_PHY, true);
    }

    /// Q: qcom_pcie_init_2_7_0()
    fn init_2_7_0(&mut self) {
        let m = &mut self.m;
        regulator_bulk(m, true);
        clk_bulk(m, true);
        m.reset_line(soc::RESET_CORE, true);
        m.sleep(MS);
        m.reset_line(soc::RESET_CORE, false);
        m.sleep(MS);
        m.writel(Window::Parf, 0x1000, 4);
        m.rmw(Window::Parf, 0x40, 1, 0);
        // qcom_pcie_configure_dbi_atu_base()
        let (dbi, atu) = (soc::window(Window::Dbi).0, soc::window(Window::Atu).0);
        for (off, v) in [
            (0x350, dbi),
            (0x354, dbi >> 32),
            (0x634, atu),
            (0x638, atu >> 32),
            (0x358, 0),
            (0x35c, 0x8000_0000),
        ] {
            m.writel(Window::Parf, off, v as u32);
        }
        m.rmw(Window::Parf, 0x000, 1 << 29, 0);
        m.rmw(Window::Parf, 0x174, 0, 1 << 4);
        m.rmw(Window::Parf, 0x020, 1 << 5, 0);
        m.rmw(Window::Parf, 0x1a8, 0, 1 << 31);
    }

    /// Q: qcom_pcie_clear_hpc(), from qcom_pcie_post_init_2_7_0()
    fn clear_hpc(&mut self) {
        let exp = self.find_capability(0x10);
        self.dbi_ro_wr(true);
        self.m.rmw(Window::Dbi, exp + 0x14, 1 << 6, 0);
        self.dbi_ro_wr(false);
        assert_eq!(self.dbi(exp + 0x14) & 1 << 6, 0);
    }

    /// Q: qcom_pcie_host_init()
    fn qcom_host_init(&mut self) {
        self.perst(true);
        self.init_2_7_0();
        self.phy_power_on();
        self.clear_hpc();
        self.perst(false);
    }

    /// Q: qcom_pcie_host_deinit()
    fn qcom_host_deinit(&mut self) {
        self.perst(true);
        self.phy_power_off();
        self.deinit_2_7_0();
    }

    /// Q: qcom_pcie_deinit_2_7_0()
    fn deinit_2_7_0(&mut self) {
        clk_bulk(&mut self.m, false);
        regulator_bulk(&mut self.m, false);
    }

    fn atu(&mut self, n: u32, inbound: bool, reg: u64) -> u64 {
        u64::from(n) << 9 | u64::from(inbound) << 8 | reg
    }

    /// D: dw_pcie_version_detect(), dw_pcie_iatu_detect()
    fn detect(&mut self) {
        assert!(self.dbi(0x8f8) >= 0x3534_302a, "5.40a: no legacy eDMA probe at 0x978");
        assert_ne!(self.dbi(0x8fc), 0);
        assert_eq!(self.dbi(0x900), ALL, "unroll");
        let max_region = (soc::window(Window::Atu).1 / 512) as u32;
        let mut found = [0; 2];
        for (dir, count) in found.iter_mut().enumerate() {
            while *count < max_region {
                let off = self.atu(*count, dir == 1, 0x14);
                self.m.writel(Window::Atu, off, 0x1111_0000);
                if self.m.readl(Window::Atu, off) != 0x1111_0000 {
                    break;
                }
                *count += 1;
            }
        }
        self.windows = (found[0], found[1]);
        self.m.writel(Window::Atu, 0x10, 0);
        let min = self.m.readl(Window::Atu, 0x10);
        self.m.writel(Window::Atu, 0x20, ALL);
        let max = u64::from(self.m.readl(Window::Atu, 0x20));
        self.region_align = 1 << (32 - min.leading_zeros());
        self.region_limit = max << 32 | 0xffff_ffff;
    }

    /// D: dw_pcie_prog_outbound_atu()
    fn prog_outbound_atu(&mut self, index: u32, kind: u32, cpu: u64, pci: u64, size: u64) {
        let last = cpu + size - 1;
        let align = u64::from(self.region_align) - 1;
        assert_eq!((cpu & align, pci & align, (cpu ^ last) & !self.region_limit), (0, 0, 0), "-EINVAL");
        for (reg, v) in [
            (0x08, cpu),
            (0x0c, cpu >> 32),
            (0x10, last),
            (0x20, last >> 32),
            (0x14, pci),
            (0x18, pci >> 32),
            (0x00, u64::from(kind)),
            (0x04, u64::from(ATU_ENABLE)),
        ] {
            let off = self.atu(index, false, reg);
            self.m.writel(Window::Atu, off, v as u32);
        }
        let ctrl2 = self.atu(index, false, 0x04);
        assert_ne!(self.m.readl(Window::Atu, ctrl2) & ATU_ENABLE, 0, "Outbound iATU is not being enabled");
    }

    /// D: dw_pcie_setup(); H: dw_pcie_setup_rc(), dw_pcie_iatu_setup()
    fn setup_rc(&mut self) {
        self.dbi_ro_wr(true);
        let exp = self.find_capability(0x10);
        assert_eq!(self.dbi(exp + 0x0c) & 0xf, 3, "max_link_speed is cached from LNKCAP");
        self.m.rmw(Window::Dbi, 0x710, 1 << 7, 1 << 5);
        // num-lanes = <1>: dw_pcie_link_set_max_link_width()
        self.m.rmw(Window::Dbi, 0x710, 1 << 7 | 0x3f << 16, 1 << 16);
        self.m.rmw(Window::Dbi, 0x80c, 0x1f << 8, 1 << 8);
        self.m.rmw(Window::Dbi, exp + 0x0c, 0x3f << 4, 1 << 4);
        for g in 0..GROUPS {
            let mask = self.irq_mask[g as usize];
            self.dbi_set(0x82c + g * 12, mask);
            self.dbi_set(0x828 + g * 12, ALL);
        }
        self.dbi_set(0x820, MSI_TARGET as u32);
        self.dbi_set(0x824, (MSI_TARGET >> 32) as u32);
        self.dbi_set(0x10, 4);
        self.dbi_set(0x14, 0);
        self.m.rmw(Window::Dbi, 0x3c, 0xff00, 0x0100);
        self.m.rmw(Window::Dbi, 0x18, 0x00ff_ffff, 0x00ff_0100);
        self.m.rmw(Window::Dbi, 0x04, 0xffff, 0x107);
        for n in 0..self.windows.0 {
            let off = self.atu(n, false, 4);
            self.m.writel(Window::Atu, off, 0);
        }
        for n in 0..self.windows.1 {
            let off = self.atu(n, true, 4);
            self.m.writel(Window::Atu, off, 0);
        }
        let (mem, len) = soc::window(Window::Mem);
        self.prog_outbound_atu(1, 0, mem, mem, len);
        self.dbi_set(0x10, 0);
        self.m.writew(Window::Dbi, 0x0a, 0x0604);
        self.m.rmw(Window::Dbi, 0x80c, 0, 1 << 17);
        self.dbi_ro_wr(false);
        assert_eq!(self.m.readw(Window::Dbi, 0x0a), 0x0604, "no fix-up would help a module (spec §2.8)");
    }

    /// D: dw_pcie_wait_for_link()
    fn wait_for_link(&mut self) {
        for _ in 0..10 {
            if self.link_up() {
                self.m.sleep(100 * MS);
                return;
            }
            self.m.sleep(90 * MS);
        }
        panic!("Phy link never came up");
    }

    /// H: dw_pcie_other_conf_map_bus() before every downstream access
    fn map_bus(&mut self, dev: u64) -> bool {
        if !self.link_up() {
            return false;
        }
        let (cfg, len) = soc::window(Window::Config);
        self.prog_outbound_atu(0, 4, cfg, 1 << 24 | dev << 19, len);
        true
    }

    fn conf_read(&mut self, dev: u64, off: u64, w: Width) -> u32 {
        if self.map_bus(dev) {
            self.m.read(Window::Config, off, w) as u32
        } else {
            w.ones() as u32
        }
    }

    fn conf_write(&mut self, off: u64, w: Width, v: u32) {
        if self.map_bus(0) {
            self.m.write(Window::Config, off, w, u64::from(v));
        }
    }

    fn ep_capability(&mut self, id: u32) -> u64 {
        let mut at = u64::from(self.conf_read(0, 0x34, Width::B1));
        while at != 0 {
            if self.conf_read(0, at, Width::B1) == id {
                return at;
            }
            at = u64::from(self.conf_read(0, at + 1, Width::B1));
        }
        panic!("endpoint capability {id:#x} not found");
    }

    /// PCI: pci_scan_bridge(), pci_scan_slot(), __pci_read_base(), pci_setup_bridge()
    fn enumerate(&mut self) {
        assert_eq!(self.m.read(Window::Dbi, 0x0e, Width::B1), 1);
        self.m.rmw(Window::Dbi, 0x18, 0x00ff_ffff, 0x0001_0100);
        assert_eq!(self.conf_read(0, 0, Width::B4), 0xb500_104c);
        assert_eq!(self.conf_read(1, 0, Width::B4), ALL, "only device 0 answers");
        let old = self.conf_read(0, 0x10, Width::B4);
        self.conf_write(0x10, Width::B4, ALL);
        let size = !(self.conf_read(0, 0x10, Width::B4) & !0xf) + 1;
        self.conf_write(0x10, Width::B4, old);
        assert_eq!(size, endpoints::endpoint_test::BAR0_BYTES);
        let mem = soc::window(Window::Mem).0;
        self.conf_write(0x10, Width::B4, mem as u32);
        let mem_hi = (mem >> 16) as u32;
        self.dbi_set(0x20, mem_hi << 16 | mem_hi);
        // pci_enable_device(), pci_set_master()
        self.conf_write(0x04, Width::B2, 0x6);
    }

    /// IRQ and PCI: __pci_enable_msi_range(), __pci_write_msi_msg(), dw_pci_bottom_unmask()
    fn request_msi(&mut self) {
        let cap = self.ep_capability(0x05);
        self.conf_write(cap + 0x4, Width::B4, MSI_TARGET as u32);
        self.conf_write(cap + 0x8, Width::B4, 0);
        self.conf_write(cap + 0xc, Width::B2, HWIRQ);
        let flags = self.conf_read(0, cap + 2, Width::B2);
        self.conf_write(cap + 2, Width::B2, flags | 1);
        self.unmask(HWIRQ, true);
    }

    /// H: dw_pci_bottom_mask(), dw_pci_bottom_unmask()
    fn unmask(&mut self, hwirq: u32, on: bool) {
        let (group, bit) = ((hwirq / 32) as usize, 1 << (hwirq % 32));
        if on {
            self.irq_mask[group] &= !bit;
        } else {
            self.irq_mask[group] |= bit;
        }
        let v = self.irq_mask[group];
        self.dbi_set(0x82c + group as u64 * 12, v);
    }

    /// Q: qcom_pcie_probe()
    fn probe(&mut self) {
        self.irq_mask = [ALL; GROUPS as usize];
        // devm_gpiod_get_optional(dev, "perst", GPIOD_OUT_HIGH), active low
        self.m.gpio_dir_out(soc::GPIO_PERST, false);
        self.phy_init();
        self.qcom_host_init();
        self.detect();
        self.setup_rc();
        assert!(!self.link_up(), "or start_link would be skipped");
        self.m.rmw(Window::Parf, 0x1b0, 0, 1 << 8);
        self.wait_for_link();
        self.enumerate();
        self.request_msi();
    }

    /// H: dw_chained_msi_isr() while a line is high; kernel/irq/chip.c handle_edge_irq() acknowledges first.
    fn isr(&mut self) {
        for _ in 0..4 {
            if self.m.rc.irq_levels() & 0xff == 0 {
                return;
            }
            for g in 0..GROUPS {
                let status = self.dbi(0x830 + g * 12);
                for bit in (0..32).filter(|b| status >> b & 1 == 1) {
                    self.dbi_set(0x830 + g * 12, 1 << bit);
                    // pci_endpoint_test_irqhandler()
                    assert_ne!(self.m.readl(Window::Mem, 0x08) & 1 << 6, 0, "STATUS.IRQ_RAISED");
                    self.handled.push(g as u32 * 32 + bit);
                }
            }
        }
        panic!("the line stays high");
    }

    /// The endpoint driver's remove and the PCI core's part of it (spec §4.4).
    fn endpoint_remove(&mut self) {
        let cap = self.ep_capability(0x05);
        self.unmask(HWIRQ, false);
        let flags = self.conf_read(0, cap + 2, Width::B2);
        self.conf_write(cap + 2, Width::B2, flags & !1);
        for (off, w) in [(0x4, Width::B4), (0x8, Width::B4), (0xc, Width::B2)] {
            self.conf_write(cap + off, w, 0);
        }
        // pci_disable_device(): BME only
        let command = self.conf_read(0, 0x04, Width::B2);
        self.conf_write(0x04, Width::B2, command & !4);
        // portdrv's pci_disable_device()
        self.m.rmw(Window::Dbi, 0x04, 4, 0);
    }

    /// A remove in the order of spec §4.3, A1–A9.
    fn remove_correct(&mut self) {
        self.m.rmw(Window::Parf, 0x22c, 1 << 1 | 1 << 13, 0);
        self.endpoint_remove();
        self.m.rmw(Window::Parf, 0x1b0, 1 << 8, 0);
        self.perst(true);
        for g in 0..GROUPS {
            self.dbi_set(0x828 + g * 12, 0);
            self.dbi_set(0x82c + g * 12, ALL);
            self.dbi_set(0x830 + g * 12, ALL);
        }
        self.dbi_set(0x820, 0);
        self.dbi_set(0x824, 0);
        self.m.writel(Window::Parf, 0x228, ALL);
        for n in 0..8 {
            for inbound in [false, true] {
                let off = self.atu(n, inbound, 4);
                self.m.writel(Window::Atu, off, 0);
            }
        }
        self.m.rmw(Window::Dbi, 0x04, 0xffff, 0);
        self.phy_power_off();
        self.phy_exit();
        self.m.rmw(Window::Parf, 0x40, 0, 1);
        self.m.reset_line(soc::RESET_CORE, true);
        self.deinit_2_7_0();
    }

    fn emitted(&self, point: SamplePoint) -> &Sample {
        self.m.sampled(point).unwrap_or_else(|| panic!("no {point:?}"))
    }
}

fn value(s: &Sample, item: &str) -> u64 {
    s.get(item).unwrap_or_else(|| panic!("no item {item} in {:?}", s.point))
}

/// Every row of spec §4.5 that a single-vector endpoint can show, as (point, item, clean value).
const CLEAN: &[(SamplePoint, &str, u64)] = &[
    (SamplePoint::S2, "ep.msi.enable", 0),
    (SamplePoint::S2, "ep.msi.addr", 0),
    (SamplePoint::S2, "ep.msi.data", 0),
    (SamplePoint::S2, "ep.msix.enable", 0),
    (SamplePoint::S2, "ep.msix.programmed", 0),
    (SamplePoint::S2, "ep.intx", 0),
    (SamplePoint::S2, "msi.mask[1]", 0xffff_ffff),
    (SamplePoint::S3, "msi.enable[1]", 0),
    (SamplePoint::S3, "msi.status[1]", 0),
    (SamplePoint::S3, "msi.addr", 0),
    (SamplePoint::S3, "msi.line[1]", 0),
    (SamplePoint::S3, "iatu.ob.enabled", 0),
    (SamplePoint::S3, "iatu.ib.enabled", 0),
    (SamplePoint::S3, "parf.ltssm_en", 0),
    (SamplePoint::S3, "parf.int_all_mask", 0x7f80_0000),
    (SamplePoint::S3, "dbi.ro_wr_en", 0),
    (SamplePoint::S3, "rp.command", 0),
    (SamplePoint::S3, "rp.rtctl", 0),
    (SamplePoint::S4, "rp.dllla", 0),
    (SamplePoint::S4, "parf.ltssm_state", 0),
    (SamplePoint::S4, "parf.phy_ctrl.pwr_down", 1),
    (SamplePoint::S4, "gpio.perst", 1),
    (SamplePoint::S4, "gpio.perst_out", 1),
    (SamplePoint::S4, "clk.on", 0),
    (SamplePoint::S4, "reset.core", 1),
    (SamplePoint::S4, "reg.on", 0),
    (SamplePoint::S4, "phy.reset_ctrl", 1),
    (SamplePoint::S4, "phy.reset", 3),
    (SamplePoint::S4, "count.gated", 0),
    (SamplePoint::S4, "count.rogue_msi", 0),
    (SamplePoint::S4, "count.dma_refused", 0),
    (SamplePoint::S4, "count.after_s3", 0),
];

/// Items of [`CLEAN`] that do not hold; a point that was never passed counts against all its items.
fn dirty(d: &mut Driver) -> Vec<&'static str> {
    let s4 = d.m.sample(SamplePoint::S4);
    let holds = |&(point, item, want): &(SamplePoint, &'static str, u64)| match point {
        SamplePoint::S4 => s4.get(item) == Some(want),
        _ => d.m.sampled(point).is_some_and(|s| s.get(item) == Some(want)),
    };
    CLEAN.iter().filter(|row| !holds(row)).map(|row| row.1).collect()
}

#[test]
fn probe_finds_windows_link_and_endpoint() {
    let mut d = Driver::new();
    d.probe();
    assert_eq!(d.windows, (8, 8));
    assert_eq!((d.region_align, d.region_limit), (0x1_0000, 0xff_ffff_ffff));
    assert_eq!(d.m.item("count.gated"), 0, "the driver never touches a gated block");
    let states: Vec<u8> =
        d.m.events
            .iter()
            .filter_map(|e| if let Event::Ltssm { state } = e { Some(*state) } else { None })
            .collect();
    assert_eq!(states, [0x01, 0x02, 0x04, 0x07, 0x11]);
}

#[test]
fn an_msi_reaches_its_handler_once_and_the_line_falls() {
    let mut d = Driver::new();
    d.probe();
    for n in 1..=3 {
        d.m.raise_msi(1);
        assert!(d.m.line(soc::IRQ_MSI0 + 1), "hwirq 37 is in group 1");
        d.isr();
        assert_eq!(d.handled, vec![HWIRQ; n]);
        assert_eq!(d.m.rc.irq_levels(), 0);
    }
}

#[test]
fn an_msi_that_arrives_while_masked_is_delivered_at_unmask() {
    let mut d = Driver::new();
    d.probe();
    d.unmask(HWIRQ, false);
    d.m.raise_msi(1);
    assert_eq!(d.m.rc.irq_levels(), 0);
    d.unmask(HWIRQ, true);
    d.isr();
    assert_eq!(d.handled, [HWIRQ]);
}

#[test]
fn the_correct_remove_leaves_every_sample_clean() {
    let mut d = Driver::new();
    d.probe();
    d.m.raise_msi(1);
    d.isr();
    d.remove_correct();
    assert_eq!(dirty(&mut d), [""; 0]);
    assert_eq!(value(d.emitted(SamplePoint::S2), "ep.command") & (1 << 2 | 1 << 10), 0, "BME, INTX_DISABLE");
    assert_eq!(value(d.emitted(SamplePoint::S1), "gpio.perst"), 0);
    for n in soc::SM8250.clocks {
        let (on, off) = (d.m.item(&format!("clk.edges[{n}].on")), d.m.item(&format!("clk.edges[{n}].off")));
        assert_eq!((on, off), (1, 1), "clock {n} is balanced");
    }
}

#[test]
fn removing_without_a_remove_callback_is_caught_on_many_counts() {
    let mut d = Driver::new();
    d.probe();
    // Only devres runs: handles are put, nothing is disabled, no register is written (spec §4.3).
    let found = dirty(&mut d);
    for item in
        ["gpio.perst", "clk.on", "rp.dllla", "reset.core", "phy.reset", "msi.enable[1]", "parf.ltssm_en"]
    {
        assert!(found.contains(&item), "{item} not in {found:?}");
    }
}

#[test]
fn an_interrupt_after_a_naive_remove_still_arrives() {
    let mut d = Driver::new();
    d.probe();
    d.m.sample(SamplePoint::S4);
    d.m.raise_msi(1);
    assert!(d.m.line(soc::IRQ_MSI0 + 1), "the use-after-free that the harness hunts");
}

#[test]
fn dismantling_msi_before_the_endpoint_is_stopped_betrays_a_rogue_msi() {
    let mut d = Driver::new();
    d.probe();
    d.dbi_set(0x820, 0);
    d.m.raise_msi(1);
    assert_eq!(dirty(&mut d).iter().filter(|i| **i == "count.rogue_msi").count(), 1);
}

#[test]
fn vanilla_deinit_leaves_what_the_specification_says_it_leaves() {
    let mut d = Driver::new();
    d.probe();
    // dw_pcie_host_deinit() of 6.12: buses removed, no stop_link, MSI domains freed, ops->deinit.
    d.endpoint_remove();
    d.qcom_host_deinit();
    let found = dirty(&mut d);
    for item in ["msi.enable[1]", "msi.addr", "iatu.ob.enabled", "parf.ltssm_en", "reset.core"] {
        assert!(found.contains(&item), "{item} not in {found:?}");
    }
    for item in ["clk.on", "rp.dllla", "gpio.perst", "msi.mask[1]", "ep.msi.enable", "count.after_s3"] {
        assert!(!found.contains(&item), "{item}");
    }
}

#[test]
fn a_late_isr_after_clocks_off_is_seen() {
    let mut d = Driver::new();
    d.probe();
    d.remove_correct();
    d.dbi(0x830);
    assert_eq!(dirty(&mut d), ["count.gated", "count.after_s3"]);
}

#[test]
fn every_probe_finds_what_the_first_one_found() {
    let mut d = Driver::new();
    let mut first = None;
    for life in 1..=3u32 {
        d.m.sample(SamplePoint::S4);
        d.m.events.clear();
        d.probe();
        let mut s5 = d.emitted(SamplePoint::S5).clone();
        assert_eq!(s5.life, life);
        // Power-on leaves PERST# undriven and the edge and MSI totals at 0; MASK differs by reset or by remove.
        s5.items
            .retain(|k, _| k != "gpio.perst_out" && !k.starts_with("clk.edges") && !k.starts_with("count"));
        let first = first.get_or_insert_with(|| s5.items.clone());
        assert_eq!(*first, s5.items, "life {life}");
        d.m.raise_msi(1);
        d.isr();
        d.remove_correct();
        assert_eq!(dirty(&mut d), [""; 0], "life {life}");
    }
}
