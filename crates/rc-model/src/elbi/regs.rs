//! Registers of the external local bus interface. No behaviour.

use block::Field;
use block::Reg;

/// Link training enable, PME_Turn_Off.
pub const SYS_CTRL: u32 = 0x04;
/// Status.
pub const SYS_STTS: u32 = 0x08;

/// SYS_CTRL: link training enable of the old wrappers.
pub const LT_ENABLE: u32 = 1 << 0;
/// SYS_CTRL: send PME_Turn_Off; reads 0.
pub const PME_TURNOFF_MSG: u32 = 1 << 4;
/// SYS_STTS: where the LTSSM state begins.
pub const STTS_LTSSM_SHIFT: u32 = 12;

/// All registers.
pub const REGS: &[Reg] = &[
    Reg::rw(
        "ELBI_SYS_CTRL",
        SYS_CTRL,
        0,
        !PME_TURNOFF_MSG,
        "spec §2.3; Linux v6.12 pcie-qcom.c ELBI_SYS_CTRL",
    )
    .fields(&[Field::bit("PME_TURNOFF_MSG", 4), Field::bit("LT_ENABLE", 0)])
    .effect("bit 0 enables training; bit 4 sends PME_Turn_Off and clears itself (INFERRED)"),
    Reg::ro("ELBI_SYS_STTS", SYS_STTS, 0, "spec §2.3")
        .fields(&[Field::bits("STATE", 17, 12).values(crate::link::ltssm::NAMES)])
        .effect("bits 17:12 mirror the LTSSM state"),
    Reg::rw("ELBI_CS2_ENABLE", 0xa4, 0, !0, "spec §2.3; Linux pcie-qcom-ep.c"),
];
