//! Registers of the PHY. No behaviour.

use block::Field;
use block::Reg;

/// PHY status: bit 0 = not ready.
pub const PHY_STTS: u32 = 0x3c;
/// PHY software reset: bit 0 = held in reset.
pub const RESET_CTRL: u32 = 0x44;

const SRC: &str = "spec §1.4; Linux v6.12 phy-qcom-pcie2.c";

/// All registers. Reset values are INFERRED except that the PHY starts in reset.
pub const REGS: &[Reg] = &[
    Reg::ro("PHY_STTS", PHY_STTS, 0, SRC)
        .fields(&[Field::bit("NOT_READY", 0)])
        .effect("bit 0 reads 1 while a reset holds the PHY (INFERRED)"),
    Reg::rw("RESET_CTRL", RESET_CTRL, 1, !0, SRC)
        .fields(&[Field::bit("RESET", 0)])
        .effect("bit 0 holds the PHY in reset"),
    Reg::rw("PCS_DEEMPH1", 0x74, 0, !0, SRC),
    Reg::rw("PCS_DEEMPH2", 0x78, 0, !0, SRC),
    Reg::rw("PCS_DEEMPH3", 0x7c, 0, !0, SRC),
    Reg::rw("PCS_CTRL", 0x80, 0, !0, SRC),
    Reg::rw("CONFIGBITS", 0x84, 0, !0, SRC),
    Reg::rw("PCS_SWING_CTRL1", 0x88, 0, !0, SRC),
    Reg::rw("PCS_SWING_CTRL2", 0x8c, 0, !0, SRC),
    Reg::rw("PHY_CTRL3", 0x94, 0, !0, SRC),
    Reg::rw("PHY_REFCLK_CTRL2", 0xa0, 0, !0, SRC),
    Reg::rw("PHY_REFCLK_CTRL3", 0xa4, 0, !0, SRC),
];
