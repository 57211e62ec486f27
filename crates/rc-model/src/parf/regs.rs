//! Registers of the PARF. No behaviour.

use block::Field;
use block::Reg;

/// Bytes of the window.
pub const LEN_BYTES: u32 = 0x3000;

/// PHY control.
pub const PHY_CTRL: u32 = 0x040;
/// Link training enable, LTSSM state, flush mode.
pub const LTSSM: u32 = 0x1b0;
/// Latched events.
pub const INT_ALL_STATUS: u32 = 0x224;
/// Write one to clear an event.
pub const INT_ALL_CLEAR: u32 = 0x228;
/// Enabled events.
pub const INT_ALL_MASK: u32 = 0x22c;
/// Flush status.
pub const STATUS: u32 = 0x230;
/// BDF to SID translation control.
pub const BDF_TO_SID_CFG: u32 = 0x2c00;
/// First entry of the BDF to SID table.
pub const BDF_TO_SID_TABLE: u32 = 0x2000;
/// First byte after the table.
pub const BDF_TO_SID_TABLE_END: u32 = 0x2400;

/// PHY_CTRL: PHY powered down.
pub const PHY_TEST_PWR_DOWN: u32 = 1 << 0;
/// LTSSM: current state.
pub const LTSSM_STATE: u32 = 0x3f;
/// LTSSM: enable link training.
pub const LTSSM_EN: u32 = 1 << 8;
/// LTSSM: leave flush mode.
pub const SW_CLEAR_FLUSH_MODE: u32 = 1 << 10;
/// LTSSM: the bridge is in flush mode.
pub const FLUSH_MODE: u32 = 1 << 11;
/// INT_ALL: the link went down.
pub const INT_LINK_DOWN: u32 = 1 << 1;
/// INT_ALL: the link came up.
pub const INT_LINK_UP: u32 = 1 << 13;
/// INT_ALL: the eight MSI bits.
pub const INT_MSI: u32 = 0xff << INT_MSI_SHIFT;
/// INT_ALL: bit of MSI group 0.
pub const INT_MSI_SHIFT: u32 = 23;
/// STATUS: nothing outstanding.
pub const FLUSH_COMPLETED: u32 = 1 << 8;
/// BDF_TO_SID_CFG: translation bypassed.
pub const BDF_TO_SID_BYPASS: u32 = 1 << 0;

const SRC: &str = "spec §2.2.1; Linux v6.12 pcie-qcom.c PARF_*";
const EP: &str = "spec §2.2.1; Linux pcie-qcom-ep.c";

/// Events of INT_ALL (spec §2.2.1; Linux pcie-qcom-ep.c).
const INT_ALL: &[Field] = &[
    Field::bit("LINK_DOWN", 1),
    Field::bit("BME", 2),
    Field::bit("PM_TURNOFF", 3),
    Field::bit("DEBUG", 4),
    Field::bit("LTR", 5),
    Field::bit("MHI_Q6", 6),
    Field::bit("MHI_A7", 7),
    Field::bit("DSTATE_CHANGE", 8),
    Field::bit("L1SUB_TIMEOUT", 9),
    Field::bit("MMIO_WRITE", 10),
    Field::bit("CFG_WRITE", 11),
    Field::bit("BRIDGE_FLUSH_N", 12),
    Field::bit("LINK_UP", 13),
    Field::bit("AER_LEGACY", 14),
    Field::bit("PLS_ERR", 15),
    Field::bit("PME_LEGACY", 16),
    Field::bit("PLS_PME", 17),
    Field::bit("EDMA", 22),
    Field::bits("MSI_DEV", 30, 23),
];

/// All registers with a name; the rest of the window is storage (spec §6.c). Reset values other than those
/// of LTSSM and BDF_TO_SID_CFG are INFERRED.
pub const REGS: &[Reg] = &[
    Reg::rw("PARF_SYS_CTRL", 0x000, 0, !0, SRC).fields(&[
        Field::bit("MAC_PHY_POWERDOWN_IN_P2_D_MUX_EN", 29),
        Field::bit("MST_WAKEUP_EN", 13),
        Field::bit("SLV_WAKEUP_EN", 12),
        Field::bit("SLV_DBI_WAKE_DISABLE", 11),
        Field::bit("MSTR_ACLK_CGC_DIS", 10),
        Field::bit("SLV_ACLK_CGC_DIS", 9),
        Field::bit("CORE_CLK_CGC_DIS", 6),
        Field::bit("AUX_PWR_DET", 4),
        Field::bit("L23_CLK_RMV_DIS", 2),
        Field::bit("L1_CLK_RMV_DIS", 1),
    ]),
    Reg::rw("PARF_DB_CTRL", 0x010, 0, !0, EP),
    Reg::rw("PARF_PM_CTRL", 0x020, 0, !0, SRC).fields(&[
        Field::bit("REQ_NOT_ENTR_L1", 5),
        Field::bit("READY_ENTR_L23", 2),
        Field::bit("REQ_EXIT_L1", 1),
    ]),
    Reg::rw("PARF_PCS_DEEMPH", 0x034, 0, !0, SRC),
    Reg::rw("PARF_PCS_SWING", 0x038, 0, !0, SRC),
    Reg::rw("PARF_PHY_CTRL", PHY_CTRL, PHY_TEST_PWR_DOWN, !0, SRC)
        .fields(&[Field::bits("TX0_TERM_OFFSET", 20, 16), Field::bit("PHY_TEST_PWR_DOWN", 0)])
        .effect("bit 0 powers the PHY down"),
    Reg::rw("PARF_PHY_REFCLK", 0x04c, 0, !0, SRC)
        .fields(&[Field::bit("SSP_EN", 16), Field::bit("USE_PAD", 12)]),
    Reg::rw("PARF_CONFIG_BITS", 0x050, 0, !0, SRC).fields(&[Field::bits("RX0_EQ", 26, 24)]),
    Reg::rw("PARF_DBI_BASE_ADDR", 0x168, 0, !0, SRC),
    Reg::rw("PARF_SLV_ADDR_SPACE_SIZE", 0x16c, 0, !0, SRC),
    Reg::rw("PARF_MHI_CLOCK_RESET_CTRL", 0x174, 0, !0, SRC).fields(&[
        Field::bit("BYPASS", 4),
        Field::bit("MSTR_AXI_CLK_EN", 1),
        Field::bit("AHB_CLK_EN", 0),
    ]),
    Reg::rw("PARF_AXI_MSTR_WR_ADDR_HALT", 0x178, 0, !0, SRC).fields(&[Field::bit("EN", 31)]),
    Reg::rw("PARF_AXI_MSTR_WR_ADDR_HALT_V2", 0x1a8, 0, !0, SRC).fields(&[Field::bit("EN", 31)]),
    Reg::rw("PARF_Q2A_FLUSH", 0x1ac, 0, !0, SRC).fields(&[Field::bit("EN", 16)]),
    Reg::rw("PARF_LTSSM", LTSSM, 0, !(LTSSM_STATE | SW_CLEAR_FLUSH_MODE | FLUSH_MODE), SRC)
        .fields(&[
            Field::bit("FLUSH_MODE", 11),
            Field::bit("SW_CLEAR_FLUSH_MODE", 10),
            Field::bit("LTSSM_EN", 8),
            Field::bits("STATE", 5, 0).values(crate::link::ltssm::NAMES),
        ])
        .effect("bit 8 enables training; 5:0 mirror the state; writing bit 10 leaves flush mode (bit 11)"),
    Reg::ro("PARF_INT_ALL_STATUS", INT_ALL_STATUS, 0, SRC).fields(INT_ALL).effect("latches link events"),
    Reg::ro("PARF_INT_ALL_CLEAR", INT_ALL_CLEAR, 0, SRC)
        .fields(INT_ALL)
        .effect("writing 1 clears a bit of STATUS; reads 0"),
    Reg::rw("PARF_INT_ALL_MASK", INT_ALL_MASK, INT_MSI, !0, "spec §2.2.1, §2.2.2; INFERRED reset value")
        .fields(INT_ALL)
        .effect("1 enables an event; bits 30:23 gate msiN where the SoC wires them so"),
    Reg::ro("PARF_STATUS", STATUS, FLUSH_COMPLETED, "spec §2.2.1; Linux 7.3 pcie-qcom.c")
        .fields(&[Field::bit("FLUSH_COMPLETED", 8)])
        .effect("bit 8 is 1 whenever nothing is outstanding, which is always between two accesses"),
    Reg::rw("PARF_SID_OFFSET", 0x234, 0, !0, SRC),
    Reg::rw("PARF_BDF_TRANSLATE_CFG", 0x24c, 0, !0, SRC),
    Reg::rw("PARF_DBI_BASE_ADDR_V2", 0x350, 0, !0, SRC),
    Reg::rw("PARF_DBI_BASE_ADDR_V2_HI", 0x354, 0, !0, SRC),
    Reg::rw("PARF_SLV_ADDR_SPACE_SIZE_V2", 0x358, 0, !0, SRC),
    Reg::rw("PARF_SLV_ADDR_SPACE_SIZE_V2_HI", 0x35c, 0, !0, SRC),
    Reg::rw("PARF_NO_SNOOP_OVERRIDE", 0x3d4, 0, !0, SRC)
        .fields(&[Field::bit("RD_EN", 3), Field::bit("WR_EN", 1)]),
    Reg::rw("PARF_ATU_BASE_ADDR", 0x634, 0, !0, SRC),
    Reg::rw("PARF_ATU_BASE_ADDR_HI", 0x638, 0, !0, SRC),
    Reg::rw("PARF_DEVICE_TYPE", 0x1000, 0, !0, SRC)
        .fields(&[Field::bits("TYPE", 3, 0).values(&[(0, "EP"), (4, "RC")])]),
    Reg::rw("PARF_BDF_TO_SID_CFG", BDF_TO_SID_CFG, BDF_TO_SID_BYPASS, !0, SRC)
        .fields(&[Field::bit("BYPASS", 0)]),
    Reg::rw("PARF_INT_ALL_5_MASK", 0x2dcc, 0, !0, EP),
    Reg::rw("PARF_INT_ALL_3_MASK", 0x2e18, 0, !0, EP),
];
