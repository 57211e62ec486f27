//! No wrapper: the core as `snps,dw-pcie` describes it, for Linux' pcie-designware-plat.
//!
//! The driver knows no clock, reset, supply, PHY or PERST#, and no way to start the link (spec §1.4; Linux v6.12
//! pcie-designware-plat.c). INFERRED: what it does not control is strapped on, so the link trains by itself from power-on.

use super::Kind;
use super::Wrapper;
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
