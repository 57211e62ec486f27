//! No wrapper: the core as `snps,dw-pcie` describes it, for Linux' pcie-designware-plat.
//!
//! The driver knows no clock, reset, supply, PHY or PERST#, and no way to start the link (spec §1.4; Linux v6.12
//! pcie-designware-plat.c). INFERRED: what it does not control is strapped on, so the link trains by itself from power-on.
//!
//! And the same core as firmware hands it over to `snps,dw-pcie-ecam`, for pci-host-generic: `ECAM`, [`firmware_regions`].

use super::Kind;
use super::Wrapper;
use crate::iatu::regs;
use crate::iatu::OutboundRegion;
use crate::soc;
use crate::soc::Soc;
use crate::soc::Window;

/// The wrapper that is none.
pub const WRAPPER: Wrapper = Wrapper {
    kind: Kind::Snps,
    driver: "dw-pcie",
    module: "pcie-designware-plat",
    map: &[
        (Window::Dbi, 0x6000_0000, 0x1000),
        (Window::Atu, 0x6000_1000, 0x1000),
        (Window::Config, 0x6010_0000, 0x10_0000),
        (Window::Mem, 0x6030_0000, 0x100_0000),
    ],
    reg: &[
        ("dbi", Window::Dbi, Window::Dbi),
        ("config", Window::Config, Window::Config),
        ("atu", Window::Atu, Window::Atu),
    ],
    // The driver takes the second interrupt by its place (dw_plat_add_pcie_port), the first is iMSI-RX.
    lines: &[
        (soc::IRQ_MSI0, "msi"),
        (soc::IRQ_HP, "hp"),
        (soc::IRQ_INTA, "inta"),
        (soc::IRQ_INTA + 1, "intb"),
        (soc::IRQ_INTA + 2, "intc"),
        (soc::IRQ_INTA + 3, "intd"),
    ],
    vectors_per_line: 256,
    perst: None,
    phy: None,
    intx_node: None,
};

/// The core alone.
pub const SNPS: Soc = Soc {
    name: "snps",
    compatible: "snps,dw-pcie",
    ops: "–",
    since: (6, 1),
    clocks: &[],
    ahb_clock: None,
    resets: &[],
    supplies: &[],
    msi_lines: 1,
    wrapper: &WRAPPER,
    ..soc::SM8250
};

/// The core in ECAM mode. Linux' driver knows a window and nothing else (v6.12 pci-host-generic.c, pci_dw_ecam_bus_ops): its
/// bus 0 has device 0 alone, which is the root port. Such a host has no MSI controller: a `msi-map` names the ITS.
const ECAM: Wrapper = Wrapper {
    kind: Kind::SnpsEcam,
    driver: "pci-host-generic",
    module: "pci-host-generic",
    map: &[(Window::Mem, 0x6030_0000, 0x100_0000), (Window::Ecam, 0x7000_0000, 0x400_0000)],
    reg: &[("", Window::Ecam, Window::Ecam)],
    lines: WRAPPER.lines.split_at(2).1,
    vectors_per_line: 0,
    ..WRAPPER
};

/// The core as firmware hands it over.
pub const DW_ECAM: Soc = Soc { name: "dw-ecam", compatible: "snps,dw-pcie-ecam", wrapper: &ECAM, ..SNPS };

/// What firmware programs into the outbound iATU of [`DW_ECAM`], by region.
///
/// As Linux 7.3 does when it is its own firmware (pcie-designware-host.c dw_pcie_config_ecam_iatu()): bus 1 by type 0 and
/// the buses behind it by type 1, bus and function out of the address. INFERRED: the memory window is one region, one to one.
pub fn firmware_regions() -> [OutboundRegion; 3] {
    let (ecam, ecam_bytes) = ECAM.window(Window::Ecam);
    let (mem, mem_bytes) = ECAM.window(Window::Mem);
    let (bus_1, bus_2) = (ecam + BUS_BYTES, ecam + 2 * BUS_BYTES);
    let config = |base, end, kind| OutboundRegion {
        base,
        last: end - 1,
        target: 0,
        ctrl1: kind,
        ctrl2: regs::EN | regs::CFG_SHIFT,
    };
    [
        config(bus_1, bus_2, regs::TYPE_CFG0),
        config(bus_2, ecam + ecam_bytes, regs::TYPE_CFG1),
        OutboundRegion {
            base: mem,
            last: mem + mem_bytes - 1,
            target: mem,
            ctrl1: regs::TYPE_MEM,
            ctrl2: regs::EN,
        },
    ]
}

/// ECAM of one bus (PCIe §7.2.2).
const BUS_BYTES: u64 = 1 << 20;
