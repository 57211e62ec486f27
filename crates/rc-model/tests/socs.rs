//! What differs between SoCs, natively: every row of the table comes up, is held and is cleared as its driver expects.

use block::Width;
use endpoints::EndpointTest;
use pcie::Device;
use rc_fuzz::machine::Machine;
use rc_fuzz::machine::MS;
use rc_model::soc;
use rc_model::wrapper::Kind;
use rc_model::Config;
use rc_model::Soc;
use rc_model::Window;

fn machine(soc: &'static Soc) -> Machine {
    Machine::with(Config::new(soc, Some(Device::single(EndpointTest::default()).boxed())))
}

/// Every SoC in Qualcomm's wrapper; the others: tests/wrappers.rs.
fn all() -> impl Iterator<Item = (&'static Soc, Machine)> {
    soc::SOCS.iter().filter(|s| s.wrapper.kind == Kind::Qcom).map(|s| (s, machine(s)))
}

/// PARF_PHY_CTRL, PARF_LTSSM and ELBI_SYS_CTRL.
const PHY_CTRL: u64 = 0x40;
const LTSSM: u64 = 0x1b0;
const ELBI_SYS_CTRL: u64 = 0x4;

#[test]
fn the_link_comes_up_by_the_enable_that_the_generation_has() {
    for (soc, mut m) in all() {
        m.wake();
        m.writel(Window::Phy, 0x44, 0);
        if soc.ops != "1_0_0" {
            m.writel(Window::Parf, PHY_CTRL, 0);
        }
        m.gpio_dir_out(soc::GPIO_PERST, true);
        match soc.ops {
            "1_0_0" | "2_1_0" => m.writel(Window::Elbi, ELBI_SYS_CTRL, 1),
            _ => m.writel(Window::Parf, LTSSM, 1 << 8),
        }
        m.sleep(30 * MS);
        assert!(m.dllla(), "{}", soc.name);
    }
}

#[test]
fn linux_finds_eight_regions_each_way_in_the_style_of_the_soc() {
    for (soc, mut m) in all() {
        m.wake();
        let unrolled = m.readl(Window::Dbi, 0x900) == u32::MAX;
        assert_eq!(unrolled, soc.unroll, "{}", soc.name);
        if soc.unroll {
            continue;
        }
        // dw_pcie_iatu_detect() of Linux v6.12: count by the index bits that stick, then by the target that does.
        m.writel(Window::Dbi, 0x900, 0xff);
        assert_eq!(m.readl(Window::Dbi, 0x900) + 1, 8, "{}", soc.name);
        for selector in (0..8).chain((0..8).map(|n| n | 1 << 31)) {
            m.writel(Window::Dbi, 0x900, selector);
            m.writel(Window::Dbi, 0x918, 0x1111_0000);
            assert_eq!(m.readl(Window::Dbi, 0x918), 0x1111_0000, "{}: {selector:#x}", soc.name);
        }
        assert_eq!(m.item("iatu.ob.enabled") | m.item("iatu.ib.enabled"), 0);
        m.writel(Window::Dbi, 0x900, 3);
        m.writel(Window::Dbi, 0x908, 1 << 31);
        assert_eq!(m.item("iatu.ob.enabled"), 1 << 3);
    }
}

#[test]
fn the_version_register_is_the_socs_and_survives_resets() {
    for (soc, mut m) in all() {
        m.wake();
        let version = |m: &mut Machine| m.readl(Window::Dbi, 0x8f8);
        assert_eq!(version(&mut m), soc.version, "{}", soc.name);
        m.reset_line(soc::RESET_CORE, true);
        m.reset_line(soc::RESET_CORE, false);
        assert_eq!(version(&mut m), soc.version, "{}", soc.name);
    }
}

#[test]
fn any_core_reset_or_lost_supply_holds_the_core_and_clears_it() {
    for (soc, mut m) in all() {
        let lines = soc::RESET_CORE..soc::RESET_CORE + soc.resets.len() as u32;
        m.wake();
        let armed = |m: &mut Machine| m.writel(Window::Dbi, 0x828, u32::MAX);
        for line in lines {
            armed(&mut m);
            m.reset_line(line, true);
            assert_eq!(m.item("reset.core"), 1, "{} line {line}", soc.name);
            assert_eq!(m.readl(Window::Dbi, 0), u32::MAX, "{} line {line}", soc.name);
            m.reset_line(line, false);
            assert_eq!(m.item("msi.enable[0]"), 0, "{} line {line}", soc.name);
        }
        if soc.resets.is_empty() {
            armed(&mut m);
            m.gpio_set(soc::GPIO_REG0, false);
            assert_eq!((m.item("reset.core"), m.item("msi.enable[0]")), (1, 0), "{}", soc.name);
            assert_eq!(m.readl(Window::Dbi, 0), u32::MAX, "{}", soc.name);
        }
    }
}

#[test]
fn parf_needs_its_ahb_clock_or_none_at_all() {
    for (soc, mut m) in all() {
        m.read(Window::Parf, PHY_CTRL, Width::B4);
        assert_eq!(m.item("count.gated") == 0, soc.ahb_clock.is_none(), "{}", soc.name);
        if let Some(n) = soc.ahb_clock {
            m.gpio_dir_out(soc::GPIO_CLK0 + n as u32, true);
            m.writel(Window::Parf, LTSSM, 0);
            assert_eq!(m.item("count.gated"), 1, "{}: the one clock suffices", soc.name);
        }
    }
}

#[test]
fn a_single_msi_line_is_the_or_of_all_groups() {
    for (soc, mut m) in all() {
        m.link_up();
        if !m.dllla() {
            m.writel(Window::Elbi, ELBI_SYS_CTRL, 1);
            m.sleep(30 * MS);
        }
        m.open_downstream();
        m.arm_msi();
        // hwirq 37: bit 5 of group 1.
        m.writel(Window::Dbi, 0x834, u32::MAX);
        m.writew(Window::Config, 0x5c, 37);
        m.raise(1, 1);
        assert_eq!(m.item("msi.status[1]"), 1 << 5, "{}", soc.name);
        let lines: Vec<u32> = (0..8).filter(|&l| m.line(soc::IRQ_MSI0 + l)).collect();
        assert_eq!(lines, if soc.msi_lines == 1 { [0] } else { [1] }, "{}", soc.name);
    }
}

#[test]
fn the_atu_window_is_there_only_where_the_iatu_is_unrolled() {
    for (soc, mut m) in all() {
        m.wake();
        m.writel(Window::Atu, 0x14, 0x1111_0000);
        let want = if soc.unroll { 0x1111_0000 } else { u32::MAX };
        assert_eq!(m.readl(Window::Atu, 0x14), want, "{}", soc.name);
    }
}
