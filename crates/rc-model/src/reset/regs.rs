//! Register of the reset controller. No behaviour.

use block::Reg;

use crate::soc;

/// The reset lines, 1 = asserted.
pub const RESETS: u32 = 0x0;

const LINES: u32 = 1 << soc::RESET_CORE | 1 << soc::RESET_PHY | 1 << soc::RESET_PIPE;

/// All registers.
pub const REGS: &[Reg] = &[Reg::rw(
    "RESETS",
    RESETS,
    LINES,
    LINES,
    "spec §1.4; Linux v6.12 reset-simple.c, snps,dw-high-reset; INFERRED: all asserted after power-on",
)
.effect("asserting the core reset resets PARF, DBI, iATU, MSI and the link")];
