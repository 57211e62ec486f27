//! Client registers (`apb` in the device tree). No behaviour.
//!
//! Reset values are not documented; where they matter they are INFERRED from what the driver does not write.

use block::Field;
use block::Reg;

const SRC: &str = "Linux v7.3 pcie-dw-rockchip.c PCIE_CLIENT_*";

/// Bytes of the block that the model covers.
pub const LEN_BYTES: u32 = 0x1000;

/// LTSSM_EN, mode.
pub const GENERAL_CON: u32 = 0x0;
/// GENERAL_CON: link training enabled.
pub const LTSSM_EN: u32 = 1 << 2;
/// INTx pins.
pub const INTR_STATUS_LEGACY: u32 = 0x8;
/// Latched link events.
pub const INTR_STATUS_MISC: u32 = 0x10;
/// INTR_STATUS_MISC: the data link layer came up.
pub const RDLH_LINK_UP_CHGED: u32 = 1 << 1;
/// INTR_STATUS_MISC: link down or hot reset asks for a reset.
pub const LINK_REQ_RST_NOT: u32 = 1 << 2;
/// Masks of INTR_STATUS_LEGACY.
pub const INTR_MASK_LEGACY: u32 = 0x1c;
/// Masks of INTR_STATUS_MISC.
pub const INTR_MASK_MISC: u32 = 0x24;
/// LTSSM state and link.
pub const LTSSM_STATUS: u32 = 0x300;
/// LTSSM_STATUS: physical and data link layer up.
pub const LINK_UP: u32 = 3 << 16;
/// What the debug FIFO holds next.
pub const DBG_FIFO_STATUS: u32 = 0x350;

/// A register whose high half is the write mask of its low half; all writable ones are of this kind.
const fn masked(name: &'static str, off: u32, reset: u32, bits: u32, src: &'static str) -> Reg {
    Reg::rw(name, off, reset, bits, src).effect("bits 31:16 are the write mask of 15:0")
}

/// All registers.
pub const REGS: &[Reg] = &[
    masked("GENERAL_CON", GENERAL_CON, 0, 0xffff, SRC).fields(&[
        Field::bits("DEVICE_TYPE", 7, 4).values(&[(0, "EP"), (4, "RC")]),
        Field::bit("LD_RQ_RST_GRT", 3),
        Field::bit("LTSSM_EN", 2),
    ]),
    Reg::ro("INTR_STATUS_LEGACY", INTR_STATUS_LEGACY, 0, SRC)
        .fields(&[Field::bit("INTD", 3), Field::bit("INTC", 2), Field::bit("INTB", 1), Field::bit("INTA", 0)])
        .effect("INTA–INTD pins (INFERRED: before the mask)"),
    Reg::ro("INTR_STATUS_MISC", INTR_STATUS_MISC, 0, SRC)
        .fields(&[Field::bit("LINK_REQ_RST_NOT", 2), Field::bit("RDLH_LINK_UP_CHGED", 1)])
        .w1c(RDLH_LINK_UP_CHGED | LINK_REQ_RST_NOT)
        .effect("latches link events"),
    // INFERRED: masked out of reset; the driver unmasks what it wants and masks nothing at first.
    masked("INTR_MASK_LEGACY", INTR_MASK_LEGACY, 0xff, 0xff, SRC).fields(&[
        Field::bit("INTD", 3),
        Field::bit("INTC", 2),
        Field::bit("INTB", 1),
        Field::bit("INTA", 0),
    ]),
    masked("INTR_MASK_MISC", INTR_MASK_MISC, 0xffff, 0xffff, SRC)
        .fields(&[Field::bit("LINK_REQ_RST_NOT", 2), Field::bit("RDLH_LINK_UP_CHGED", 1)]),
    masked("POWER_CON", 0x2c, 0, 0xffff, SRC),
    Reg::ro("CDM_RASDES_TBA_INFO_CMN", 0x154, 0, SRC)
        .effect("L1 substates, which the link model does not enter"),
    masked("HOT_RESET_CTRL", 0x180, 0, 0xffff, SRC),
    Reg::ro("LTSSM_STATUS", LTSSM_STATUS, 0, SRC)
        .fields(&[
            Field::bit("RDLH_LINK_UP", 17),
            Field::bit("SMLH_LINK_UP", 16),
            Field::bits("STATE", 5, 0).values(crate::link::ltssm::NAMES),
        ])
        .effect("5:0 LTSSM state, 17:16 link up"),
    masked("DBG_FIFO_MODE_CON", 0x310, 0, 0xffff, SRC),
    masked("DBG_FIFO_PTN_HIT_D0", 0x320, 0, 0xffff, SRC),
    masked("DBG_FIFO_PTN_HIT_D1", 0x324, 0, 0xffff, SRC),
    masked("DBG_FIFO_TRN_HIT_D0", 0x328, 0, 0xffff, SRC),
    masked("DBG_FIFO_TRN_HIT_D1", 0x32c, 0, 0xffff, SRC),
    Reg::ro("DBG_FIFO_STATUS", DBG_FIFO_STATUS, 0, SRC)
        .fields(&[Field::bits("STATE", 5, 0).values(crate::link::ltssm::NAMES)])
        .effect("5:0 LTSSM state; no history (DEVIATION)"),
];
