//! The SoCs, and the address map and interrupt lines of the modelled machine: what the FDT tells the guest and the bus
//! decodes.
//!
//! Register windows follow the SoCs' own nodes (spec §1.7, §2); addresses are our own, chosen for a small machine.

use serde::Deserialize;
use serde::Serialize;

use crate::wrapper::qcom;
use crate::wrapper::rockchip::RK3568;
use crate::wrapper::snps::DW_ECAM;
use crate::wrapper::snps::SNPS;
use crate::wrapper::Wrapper;

/// A CPU-visible window of the root complex or of one of its providers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Window {
    /// Qualcomm wrapper.
    Parf,
    /// Root port configuration space and port logic.
    Dbi,
    /// External local bus interface; the same 4 KiB page as DBI.
    Elbi,
    /// Unrolled iATU, 8 windows per direction.
    Atu,
    /// MHI debug counters.
    Mhi,
    /// Outbound configuration window.
    Config,
    /// Outbound memory window (BAR space).
    Mem,
    /// GPIO bank (gpio-mmio): PERST#, clock gates, regulator enables.
    Gpio,
    /// Reset controller word (reset-simple).
    Reset,
    /// qcom,pcie2-phy registers.
    Phy,
    /// Rockchip client registers.
    Apb,
    /// ECAM of a port that firmware runs: bus 0 is DBI.
    Ecam,
}

/// Base address and length in bytes of each window of a Qualcomm SoC, in ascending order. Page-aligned except DBI/ELBI.
pub const MAP: &[(Window, u64, u64)] = &[
    (Window::Parf, 0x1c0_0000, 0x3000),
    (Window::Mhi, 0x1c0_3000, 0x1000),
    (Window::Phy, 0x1c0_6000, 0x1000),
    (Window::Gpio, 0x1c0_8000, 0x1000),
    (Window::Reset, 0x1c0_9000, 0x1000),
    (Window::Dbi, 0x6000_0000, 0xf20),
    (Window::Elbi, 0x6000_0f20, 0xa8),
    (Window::Atu, 0x6000_1000, 0x1000),
    (Window::Config, 0x6010_0000, 0x10_0000),
    (Window::Mem, 0x6030_0000, 0x100_0000),
];

/// Where a window of a Qualcomm SoC lies: (base, length in bytes).
pub fn window(w: Window) -> (u64, u64) {
    qcom::WRAPPER.window(w)
}

/// The root complex' interrupt outputs, as bits of [`block::IrqLevels`] and as GIC SPI numbers. Which of them are there, and
/// their names, are the wrapper's ([`Wrapper::lines`]).
pub const IRQ_LINES: u32 = 19;

/// Bit of the first iMSI-RX line in the levels; up to seven others follow.
pub const IRQ_MSI0: u32 = 0;
/// Bit of INTA in the levels; INTB–INTD follow.
pub const IRQ_INTA: u32 = 8;
/// Bit of the `global` interrupt in the levels.
pub const IRQ_GLOBAL: u32 = 12;
/// Bit of Rockchip's `legacy` in the levels: all INTx.
pub const IRQ_LEGACY: u32 = 13;
/// Bit of Rockchip's `sys`: link events.
pub const IRQ_SYS: u32 = 14;
/// Bit of Rockchip's `pmc`.
pub const IRQ_PMC: u32 = 15;
/// Bit of Rockchip's `msg`.
pub const IRQ_MSG: u32 = 16;
/// Bit of Rockchip's `err`.
pub const IRQ_ERR: u32 = 17;
/// Bit of `hp` of the core alone.
pub const IRQ_HP: u32 = 18;

/// GIC SPI number (0-based, as in the device tree) of output `line`.
pub const fn spi(line: u32) -> u32 {
    32 + line
}

/// State of one of the SPIs that the interrupt lines end in, as seen in the guest's GIC.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpiState {
    /// Name of the line, e.g. `msi0`.
    pub name: String,
    /// SPI number (0-based, as in the device tree).
    pub spi: u32,
    /// GICD_ISENABLER bit.
    pub enabled: bool,
    /// GICD_ISPENDR bit (the latch) or, for a level interrupt, its line.
    pub pending: bool,
    /// GICD_ISACTIVER bit.
    pub active: bool,
    /// Level of the input line.
    pub level: bool,
}

/// GPIO line of PERST# (active low: 0 = asserted).
pub const GPIO_PERST: u32 = 0;
/// GPIO lines of the clock gates, in the order of [`Soc::clocks`] (1 = on).
pub const GPIO_CLK0: u32 = 1;
/// GPIO lines of the regulator enables, in the order of [`Soc::supplies`] (1 = on).
pub const GPIO_REG0: u32 = 16;
/// Reset word bit of the PHY's `phy` reset (`snps,dw-high-reset`: 1 = asserted).
pub const RESET_PHY: u32 = 0;
/// Reset word bit of the PHY's `pipe` reset.
pub const RESET_PIPE: u32 = 1;
/// Reset word bit of the first core reset; the others follow in the order of [`Soc::resets`].
pub const RESET_CORE: u32 = 2;
/// Most clocks that a [`Soc`] can have.
pub const MAX_CLOCKS: usize = (GPIO_REG0 - GPIO_CLK0) as usize;

/// What one SoC's root complex is made of. Everything else is the same for all of them.
#[derive(Debug, PartialEq, Eq)]
pub struct Soc {
    /// Name, as on the command line.
    pub name: &'static str,
    /// Compatible of the device tree node.
    pub compatible: &'static str,
    /// The driver's ops generation (spec §1.1); `–` where drivers have none.
    pub ops: &'static str,
    /// Oldest kernel series of ours that knows the compatible, as (major, minor).
    pub since: (u32, u32),
    /// Clocks by name; Linux 6.1 asks for each of them (spec §6.b).
    pub clocks: &'static [&'static str],
    /// Index of the clock that alone lets the wrapper's registers answer; none: they always answer.
    pub ahb_clock: Option<usize>,
    /// Core resets by name; while one is asserted the core stands still (INFERRED).
    pub resets: &'static [&'static str],
    /// Supplies by name.
    pub supplies: &'static [&'static str],
    /// Interrupt lines of iMSI-RX: 8 (`msi0`–`msi7`) or 1 (`msi`, the OR of all).
    pub msi_lines: u32,
    /// Whether the iATU is unrolled into a window of its own; else it is behind the viewport (spec §2.5).
    pub unroll: bool,
    /// PCIE_VERSION_NUMBER: ASCII as in 5.40a, 0 before 4.70a (spec §2.4).
    pub version: u32,
    /// Whether newer device trees have PHY and PERST# at the root port's node (spec §1.3). Kernels before 7.0 do not look there.
    pub phy_at_port: bool,
    /// What surrounds the core.
    pub wrapper: &'static Wrapper,
}

const fn version(ascii: &[u8; 4]) -> u32 {
    u32::from_be_bytes(*ascii)
}

const CLOCKS_2_3_2: &[&str] = &["aux", "cfg", "bus_master", "bus_slave"];
const CLOCKS_2_7_0: &[&str] = &["aux", "cfg", "bus_master", "bus_slave", "slave_q2a", "tbu"];
const SUPPLIES_2_7_0: &[&str] = &["vdda", "vddpe-3v3"];
const RESETS_2_1_0: &[&str] = &["pci", "axi", "ahb", "por", "phy", "ext"];
const RESETS_2_3_3: &[&str] = &["axi_m", "axi_s", "pipe", "axi_m_sticky", "sticky", "ahb", "sleep"];
const RESETS_2_4_0: &[&str] = &["axi_m", "axi_s", "axi_m_sticky", "pipe_sticky", "pwr", "ahb"];
const RESETS_IPQ4019: &[&str] = &[
    "axi_m",
    "axi_s",
    "axi_m_sticky",
    "pipe_sticky",
    "pwr",
    "ahb",
    "pipe",
    "axi_m_vmid",
    "axi_s_xpu",
    "parf",
    "phy",
    "phy_ahb",
];
const RESETS_2_9_0: &[&str] =
    &["pipe", "sticky", "axi_s_sticky", "axi_s", "axi_m_sticky", "axi_m", "aux", "ahb"];

/// sm8250: the default.
pub const SM8250: Soc = Soc {
    name: "sm8250",
    compatible: "qcom,pcie-sm8250",
    ops: "1_9_0",
    since: (6, 1),
    clocks: &["aux", "cfg", "bus_master", "bus_slave", "slave_q2a", "tbu", "ddrss_sf_tbu"],
    ahb_clock: Some(1),
    resets: &["pci"],
    supplies: SUPPLIES_2_7_0,
    msi_lines: 8,
    unroll: true,
    version: version(b"540*"),
    phy_at_port: false,
    wrapper: &qcom::WRAPPER,
};

/// Generation 2_1_0. Its driver touches PARF before the first clock and after the last (spec §4.5), so PARF has to
/// answer without one.
const IPQ8064: Soc = Soc {
    name: "ipq8064",
    compatible: "qcom,pcie-ipq8064",
    ops: "2_1_0",
    since: (6, 1),
    clocks: &["iface", "core", "phy", "aux", "ref"],
    ahb_clock: None,
    resets: RESETS_2_1_0,
    supplies: &["vdda", "vdda_phy", "vdda_refclk"],
    msi_lines: 1,
    unroll: false,
    version: 0,
    phy_at_port: false,
    wrapper: &qcom::WRAPPER,
};

const SDM845: Soc = Soc {
    name: "sdm845",
    compatible: "qcom,pcie-sdm845",
    ops: "2_7_0",
    clocks: CLOCKS_2_7_0,
    msi_lines: 8,
    unroll: false,
    version: 0,
    ..SM8250
};

const QCS404: Soc = Soc {
    name: "qcs404",
    compatible: "qcom,pcie-qcs404",
    ops: "2_4_0",
    clocks: &["aux", "master_bus", "slave_bus", "iface"],
    ahb_clock: Some(3),
    resets: RESETS_2_4_0,
    supplies: &[],
    msi_lines: 1,
    unroll: false,
    version: 0,
    ..SM8250
};

const IPQ9574: Soc = Soc {
    name: "ipq9574",
    compatible: "qcom,pcie-ipq9574",
    ops: "2_9_0",
    since: (6, 12),
    clocks: &["axi_m", "axi_s", "axi_bridge", "rchng", "ahb", "aux"],
    ahb_clock: Some(4),
    resets: RESETS_2_9_0,
    supplies: &[],
    msi_lines: 8,
    unroll: true,
    version: version(b"500*"),
    phy_at_port: false,
    wrapper: &qcom::WRAPPER,
};

const SC8280XP: Soc = Soc {
    name: "sc8280xp",
    compatible: "qcom,pcie-sc8280xp",
    ops: "1_21_0",
    clocks: &[
        "aux",
        "cfg",
        "bus_master",
        "bus_slave",
        "slave_q2a",
        "ddrss_sf_tbu",
        "noc_aggr_4",
        "noc_aggr_south_sf",
    ],
    version: version(b"560*"),
    ..SM8250
};

/// Every SoC that can be chosen. Compatibles, generations, resets and supplies: spec §1.1, §1.2; clock names: Linux
/// v6.1 pcie-qcom.c qcom_pcie_get_resources_*(), which asks by name; number of msi lines and iATU style: the SoC's own
/// device tree (spec §1.2) or, where that is not in the spec, INFERRED from the IP version; which newer device trees have the PHY
/// at the root port: INFERRED.
pub const SOCS: &[Soc] = &[
    SM8250,
    Soc { name: "apq8064", compatible: "qcom,pcie-apq8064", resets: RESETS_2_1_0.split_at(5).0, ..IPQ8064 },
    IPQ8064,
    Soc {
        name: "apq8084",
        compatible: "qcom,pcie-apq8084",
        ops: "1_0_0",
        clocks: &["iface", "master_bus", "slave_bus", "aux"],
        ahb_clock: Some(0),
        resets: &["core"],
        supplies: &["vdda"],
        ..IPQ8064
    },
    Soc {
        name: "msm8996",
        compatible: "qcom,pcie-msm8996",
        ops: "2_3_2",
        clocks: CLOCKS_2_3_2,
        ahb_clock: Some(1),
        resets: &[],
        supplies: SUPPLIES_2_7_0,
        ..IPQ8064
    },
    Soc {
        name: "ipq4019",
        compatible: "qcom,pcie-ipq4019",
        clocks: &["aux", "master_bus", "slave_bus"],
        ahb_clock: Some(2),
        resets: RESETS_IPQ4019,
        ..QCS404
    },
    QCS404,
    Soc {
        name: "ipq8074",
        compatible: "qcom,pcie-ipq8074",
        ops: "2_3_3",
        clocks: &["iface", "axi_m", "axi_s", "ahb", "aux"],
        ahb_clock: Some(3),
        resets: RESETS_2_3_3,
        ..QCS404
    },
    Soc {
        name: "ipq6018",
        compatible: "qcom,pcie-ipq6018",
        since: (6, 1),
        clocks: &["iface", "axi_m", "axi_s", "axi_bridge", "rchng"],
        ahb_clock: Some(0),
        ..IPQ9574
    },
    IPQ9574,
    SDM845,
    Soc { name: "sc7280", compatible: "qcom,pcie-sc7280", ..SM8250 },
    Soc { name: "sc8180x", compatible: "qcom,pcie-sc8180x", clocks: CLOCKS_2_7_0, ..SM8250 },
    Soc {
        name: "sdx55",
        compatible: "qcom,pcie-sdx55",
        since: (6, 12),
        clocks: CLOCKS_2_7_0,
        msi_lines: 1,
        ..SM8250
    },
    Soc { name: "sm8150", compatible: "qcom,pcie-sm8150", clocks: CLOCKS_2_7_0, ..SM8250 },
    Soc { name: "sm8350", compatible: "qcom,pcie-sm8350", since: (6, 12), ..SM8250 },
    Soc { name: "sm8450", compatible: "qcom,pcie-sm8450-pcie0", ..SM8250 },
    Soc { name: "sm8550", compatible: "qcom,pcie-sm8550", since: (6, 12), phy_at_port: true, ..SM8250 },
    Soc { name: "sa8775p", compatible: "qcom,pcie-sa8775p", since: (6, 12), ops: "1_34_0", ..SM8250 },
    Soc { name: "sa8540p", compatible: "qcom,pcie-sa8540p", ..SC8280XP },
    SC8280XP,
    Soc { name: "x1e80100", compatible: "qcom,pcie-x1e80100", since: (6, 12), phy_at_port: true, ..SC8280XP },
    Soc { name: "sm8250-ecam", compatible: "qcom,pcie-sm8250", wrapper: &qcom::ECAM, ..SM8250 },
    qcom::SA8255P,
    RK3568,
    SNPS,
    DW_ECAM,
];

/// The SoC of this name.
pub fn find(name: &str) -> Option<&'static Soc> {
    SOCS.iter().find(|s| s.name == name)
}

impl Soc {
    /// Bits of the core resets in the reset word.
    pub const fn core_reset_bits(&self) -> u32 {
        ((1 << self.resets.len()) - 1) << RESET_CORE
    }

    /// Bits of the core resets that are not asserted out of power-on. INFERRED: Linux 6.1 asks for these three of ipq4019
    /// and never touches them, and links come up.
    pub fn open_reset_bits(&self) -> u32 {
        const OPEN: [&str; 3] = ["axi_m_vmid", "axi_s_xpu", "parf"];
        let open = |(n, name): (usize, &&str)| if OPEN.contains(name) { 1 << n } else { 0 };
        self.resets.iter().enumerate().map(open).sum::<u32>() << RESET_CORE
    }

    /// Where a window lies: (base, length in bytes); (0, 0) if it is not there.
    pub fn window(&self, w: Window) -> (u64, u64) {
        self.wrapper.window(w)
    }

    /// Outputs that this SoC has, by line number.
    pub fn lines(&self) -> impl Iterator<Item = u32> {
        let msi = IRQ_MSI0..IRQ_MSI0 + self.msi_lines;
        self.wrapper.lines.iter().map(|l| l.0).filter(move |l| *l >= IRQ_INTA || msi.contains(l))
    }

    /// Name of output `line`, as in `interrupt-names` (INTx: `inta`…).
    pub fn line_name(&self, line: u32) -> &'static str {
        if self.msi_lines == 1 && line == IRQ_MSI0 {
            return "msi";
        }
        self.wrapper.lines.iter().find(|l| l.0 == line).map_or("", |l| l.1)
    }

    /// Vectors of iMSI-RX that the driver uses.
    pub fn msi_vectors(&self) -> u32 {
        self.wrapper.vectors_per_line * self.msi_lines
    }
}

/// GPIO bank registers, offsets in [`Window::Gpio`] (gpio-mmio with `dat`, `set` and `dirout`).
pub mod gpio {
    /// Level of each line as read.
    pub const DAT: u64 = 0x0;
    /// Output latch.
    pub const SET: u64 = 0x4;
    /// Direction: 1 = output.
    pub const DIROUT: u64 = 0x8;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wrapper::Kind;

    #[test]
    fn windows_do_not_overlap_and_every_reg_has_its_own() {
        for s in SOCS {
            let mut end = 0;
            for &(w, base, len) in s.wrapper.map {
                assert!(base >= end && len > 0, "{} {w:?}", s.name);
                end = base + len;
            }
            for &(name, first, last) in s.wrapper.reg {
                assert!(s.wrapper.has(first) && s.wrapper.has(last), "{} {name}", s.name);
            }
            assert!(s.lines().all(|l| l < IRQ_LINES), "{}", s.name);
        }
        assert_eq!(SM8250.wrapper.device(), "1c00000.pcie");
        assert_eq!(RK3568.wrapper.device(), "60000000.pcie");
    }

    #[test]
    fn lines_follow_the_binding_of_the_wrapper() {
        let names = |s: &Soc| s.lines().map(|l| s.line_name(l)).collect::<Vec<_>>().join(" ");
        assert_eq!(names(&RK3568), "sys pmc msg legacy err msi");
        assert_eq!(names(&SNPS), "msi hp inta intb intc intd");
    }

    #[test]
    fn every_soc_fits_the_gpio_bank_and_the_reset_word() {
        for s in SOCS {
            assert!(
                s.clocks.len() <= MAX_CLOCKS && GPIO_REG0 as usize + s.supplies.len() <= 32,
                "{}",
                s.name
            );
            assert!(RESET_CORE as usize + s.resets.len() <= 32, "{}", s.name);
            assert!(s.ahb_clock.is_none_or(|i| i < s.clocks.len()), "{}", s.name);
            assert!(matches!(s.msi_lines, 1 | 8), "{}", s.name);
            let resets = !s.resets.is_empty() || !s.supplies.is_empty();
            let driven = !(s.wrapper.kind == Kind::Snps || s.wrapper.is_firmware());
            assert_eq!(resets, driven, "{}: something resets the core", s.name);
        }
    }

    #[test]
    fn names_are_unique() {
        for (i, s) in SOCS.iter().enumerate() {
            assert_eq!(SOCS.iter().position(|o| o.name == s.name), Some(i));
            assert_eq!(find(s.name), Some(s));
        }
        assert_eq!(find("sm9999"), None);
    }

    #[test]
    fn a_single_msi_line_has_the_bindings_name() {
        let (one, eight) = (find("msm8996").unwrap(), find("sm8250").unwrap());
        assert_eq!(one.lines().map(|l| one.line_name(l)).take(2).collect::<Vec<_>>(), ["msi", "inta"]);
        assert_eq!(eight.lines().count(), 13);
    }
}
