//! The address map and interrupt lines of the modelled machine: what the FDT tells the guest and the bus decodes.
//!
//! Register windows follow sm8250's own node (spec §1.7, §2); addresses are our own, chosen for a small machine.

use serde::Deserialize;
use serde::Serialize;

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
}

/// Base address and length in bytes of each window, in ascending order. Page-aligned except DBI/ELBI.
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

/// Where a window lies: (base, length in bytes).
pub fn window(w: Window) -> (u64, u64) {
    MAP.iter().find(|m| m.0 == w).map_or((0, 0), |m| (m.1, m.2))
}

/// The root complex' interrupt outputs, as bits of [`block::IrqLevels`] and as GIC SPI numbers.
/// Bits 0–7: msi0–msi7. Bits 8–11: INTA–INTD. Bit 12: `global`.
pub const IRQ_LINES: u32 = 13;

/// Bit of `msi0` in the levels.
pub const IRQ_MSI0: u32 = 0;
/// Bit of INTA in the levels.
pub const IRQ_INTA: u32 = 8;
/// Bit of the `global` interrupt in the levels.
pub const IRQ_GLOBAL: u32 = 12;

/// GIC SPI number (0-based, as in the device tree) of output `line`.
pub const fn spi(line: u32) -> u32 {
    32 + line
}

/// Name of output `line`, as in `interrupt-names` (INTx: `inta`…).
pub const fn irq_name(line: u32) -> &'static str {
    const NAMES: [&str; IRQ_LINES as usize] = [
        "msi0", "msi1", "msi2", "msi3", "msi4", "msi5", "msi6", "msi7", "inta", "intb", "intc", "intd",
        "global",
    ];
    NAMES[line as usize]
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
/// GPIO lines of the clock gates, in the order of [`CLOCKS`] (1 = on).
pub const GPIO_CLK0: u32 = 1;
/// GPIO lines of the regulator enables, in the order of [`SUPPLIES`] (1 = on).
pub const GPIO_REG0: u32 = 16;
/// Core clocks of sm8250's node (spec §1.7).
pub const CLOCKS: &[&str] = &["aux", "cfg", "bus_master", "bus_slave", "slave_q2a", "tbu", "ddrss_sf_tbu"];
/// Supplies of the 2_7_0 family (spec §1.2).
pub const SUPPLIES: &[&str] = &["vdda", "vddpe-3v3"];
/// Reset word bits (`snps,dw-high-reset`: 1 = asserted).
pub const RESET_CORE: u32 = 0;
/// Reset word bit of the PHY's `phy` reset.
pub const RESET_PHY: u32 = 1;
/// Reset word bit of the PHY's `pipe` reset.
pub const RESET_PIPE: u32 = 2;

/// GPIO bank registers, offsets in [`Window::Gpio`] (gpio-mmio with `dat`, `set` and `dirout`).
pub mod gpio {
    /// Level of each line as read.
    pub const DAT: u64 = 0x0;
    /// Output latch.
    pub const SET: u64 = 0x4;
    /// Direction: 1 = output.
    pub const DIROUT: u64 = 0x8;
}
