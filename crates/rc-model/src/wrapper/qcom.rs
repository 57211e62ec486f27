//! Qualcomm's wrapper: PARF, ELBI and MHI counters around the core (spec §1.1, §1.2).

use super::Kind;
use super::Perst;
use super::Wrapper;
use crate::soc;
use crate::soc::Window;

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
    lines: &[
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
    ],
    vectors_per_line: 32,
    perst: Some(Perst { property: "perst-gpios", active_low: true }),
    phy: Some("pciephy"),
    intx_node: None,
};
