//! Register of the reset controller. No behaviour.

use block::Reg;

/// The reset lines, 1 = asserted.
pub const RESETS: u32 = 0x0;

/// All registers.
pub const REGS: &[Reg] = &[Reg::rw(
    "RESETS",
    RESETS,
    !0,
    !0,
    "spec §1.4; Linux v6.12 reset-simple.c, snps,dw-high-reset; INFERRED: all asserted after power-on",
)
.effect("asserting a core reset resets PARF, DBI, iATU, MSI and the link")];
