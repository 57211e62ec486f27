//! Qualcomm's wrapper: PARF, ELBI and MHI counters around the core (spec §1.1, §1.2).

use super::Kind;
use super::Perst;
use super::Wrapper;
use crate::soc;
use crate::soc::Soc;
use crate::soc::Window;

const LINES: &[(u32, &str)] = &[
    (soc::IRQ_MSI0, "msi0"),
    (soc::IRQ_MSI0 + 1, "msi1"),
    (soc::IRQ_MSI0 + 2, "msi2"),
    (soc::IRQ_MSI0 + 3, "msi3"),
    (soc::IRQ_MSI0 + 4, "msi4"),
    (soc::IRQ_MSI0 + 5, "msi5"),
    (soc::IRQ_MSI0 + 6, "msi6"),
    (soc::IRQ_MSI0 + 7, "msi7"),
    (soc::IRQ_INTA, "inta"),
    (soc::IRQ_INTA + 1, "intb"),
    (soc::IRQ_INTA + 2, "intc"),
    (soc::IRQ_INTA + 3, "intd"),
    (soc::IRQ_GLOBAL, "global"),
];

/// The wrapper of every `qcom,pcie-*`.
pub const WRAPPER: Wrapper = Wrapper {
    kind: Kind::Qcom,
    driver: "qcom-pcie",
    module: "pcie-qcom",
    map: soc::MAP,
    reg: &[
        ("parf", Window::Parf, Window::Parf),
        ("dbi", Window::Dbi, Window::Dbi),
        ("elbi", Window::Elbi, Window::Elbi),
        ("config", Window::Config, Window::Config),
        ("mhi", Window::Mhi, Window::Mhi),
        ("atu", Window::Atu, Window::Atu),
    ],
    lines: LINES,
    vectors_per_line: 32,
    perst: Some(Perst { property: "perst-gpios", active_low: true }),
    phy: Some("pciephy"),
    intx_node: None,
};

/// The same with a `config` window that Linux 7 takes for ECAM: aligned to 256 MiB, 1 MiB a bus (spec §1.6). DBI lies outside of it.
pub const ECAM: Wrapper = Wrapper {
    map: &[
        (Window::Parf, 0x1c0_0000, 0x3000),
        (Window::Mhi, 0x1c0_3000, 0x1000),
        (Window::Phy, 0x1c0_6000, 0x1000),
        (Window::Gpio, 0x1c0_8000, 0x1000),
        (Window::Reset, 0x1c0_9000, 0x1000),
        (Window::Dbi, 0x6000_0000, 0xf20),
        (Window::Elbi, 0x6000_0f20, 0xa8),
        (Window::Atu, 0x6000_1000, 0x1000),
        (Window::Mem, 0x6030_0000, 0x100_0000),
        (Window::Config, 0x7000_0000, 0x40_0000),
    ],
    ..WRAPPER
};

/// sa8255p: one window, ECAM, whose bus 0 is DBI, iMSI-RX included (spec §1.5).
const FIRMWARE: Wrapper = Wrapper {
    kind: Kind::QcomFirmware,
    map: &[(Window::Mem, 0x6030_0000, 0x100_0000), (Window::Ecam, 0x7000_0000, 0x40_0000)],
    reg: &[("", Window::Ecam, Window::Ecam)],
    lines: LINES.split_at(12).0,
    // The driver asks for 32 in all, whatever the number of lines.
    vectors_per_line: 4,
    perst: None,
    phy: None,
    ..WRAPPER
};

/// sa8255p. Its clocks, resets and supplies are firmware's.
pub const SA8255P: Soc = Soc {
    name: "sa8255p",
    compatible: "qcom,pcie-sa8255p",
    ops: "none",
    since: (7, 0),
    clocks: &[],
    ahb_clock: None,
    resets: &[],
    supplies: &[],
    wrapper: &FIRMWARE,
    ..soc::SM8250
};
