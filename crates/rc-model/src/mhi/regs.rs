//! Counters of the MHI block. No behaviour.

use block::Reg;

/// Entries into L2.
pub const LINKST_IN_L2: u32 = 0xc04;

const SRC: &str = "spec §2.7; Linux v6.12 pcie-qcom.c PARF_DEBUG_CNT_*";

/// All registers.
pub const REGS: &[Reg] = &[
    Reg::ro("DEBUG_CNT_PM_LINKST_IN_L2", LINKST_IN_L2, 0, SRC).effect("counts entries into L2"),
    Reg::ro("DEBUG_CNT_PM_LINKST_IN_L1", 0xc0c, 0, SRC),
    Reg::ro("DEBUG_CNT_PM_LINKST_IN_L0S", 0xc10, 0, SRC),
    Reg::ro("DEBUG_CNT_AUX_CLK_IN_L1SUB_L1", 0xc84, 0, SRC),
    Reg::ro("DEBUG_CNT_AUX_CLK_IN_L1SUB_L2", 0xc88, 0, SRC),
];
