//! Registers of the iMSI-RX, at their offsets in DBI. No behaviour.

use block::Reg;
use block::Width;

/// First byte of the controller's registers in DBI.
pub const BASE: u32 = 0x820;
/// First byte after them.
pub const END: u32 = 0x888;

/// Low half of the match address.
pub const ADDR_LO: u32 = 0x820;
/// High half of the match address.
pub const ADDR_HI: u32 = 0x824;
/// ENABLE of group 0; the others follow every [`GROUP_STRIDE`] bytes.
pub const INTR0_ENABLE: u32 = 0x828;
/// MASK of group 0.
pub const INTR0_MASK: u32 = 0x82c;
/// STATUS of group 0.
pub const INTR0_STATUS: u32 = 0x830;
/// Bytes from one group's registers to the next group's.
pub const GROUP_STRIDE: u32 = 12;

const SRC: &str = "spec §2.6; Linux v6.12 pcie-designware.h PCIE_MSI_*, MSI_REG_CTRL_BLOCK_SIZE";

macro_rules! group {
    ($n:literal, $enable:literal, $mask:literal, $status:literal) => {
        [
            Reg::rw($enable, INTR0_ENABLE + $n * GROUP_STRIDE, 0, !0, SRC)
                .effect("a vector whose bit is 0 does not latch (INFERRED)"),
            Reg::rw($mask, INTR0_MASK + $n * GROUP_STRIDE, 0, !0, SRC)
                .effect("1 keeps the latched vector off the line; unmasking raises it at once"),
            Reg::ro($status, INTR0_STATUS + $n * GROUP_STRIDE, 0, SRC)
                .w1c(!0)
                .effect("latched by a matching memory write"),
        ]
    };
}

const GROUPS: [[Reg; 3]; 8] = [
    group!(0, "MSI_INTR0_ENABLE", "MSI_INTR0_MASK", "MSI_INTR0_STATUS"),
    group!(1, "MSI_INTR1_ENABLE", "MSI_INTR1_MASK", "MSI_INTR1_STATUS"),
    group!(2, "MSI_INTR2_ENABLE", "MSI_INTR2_MASK", "MSI_INTR2_STATUS"),
    group!(3, "MSI_INTR3_ENABLE", "MSI_INTR3_MASK", "MSI_INTR3_STATUS"),
    group!(4, "MSI_INTR4_ENABLE", "MSI_INTR4_MASK", "MSI_INTR4_STATUS"),
    group!(5, "MSI_INTR5_ENABLE", "MSI_INTR5_MASK", "MSI_INTR5_STATUS"),
    group!(6, "MSI_INTR6_ENABLE", "MSI_INTR6_MASK", "MSI_INTR6_STATUS"),
    group!(7, "MSI_INTR7_ENABLE", "MSI_INTR7_MASK", "MSI_INTR7_STATUS"),
];

/// All registers. Reset values 0 are INFERRED (spec §2.6: what makes "never initialised" quiet).
pub const REGS: &[Reg] = &{
    let mut rows = [Reg::ro("", 0, 0, SRC).width(Width::B4); 2 + 8 * 3];
    rows[0] = Reg::rw("MSI_ADDR_LO", ADDR_LO, 0, !0, SRC).effect("moves the match address at once");
    rows[1] = Reg::rw("MSI_ADDR_HI", ADDR_HI, 0, !0, SRC).effect("moves the match address at once");
    let mut i = 0;
    while i < 8 * 3 {
        rows[2 + i] = GROUPS[i / 3][i % 3];
        i += 1;
    }
    rows
};
