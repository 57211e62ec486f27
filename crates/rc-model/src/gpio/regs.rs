//! Registers of the GPIO bank. No behaviour.

use block::Reg;

/// Level of each line as read.
pub const DAT: u32 = crate::soc::gpio::DAT as u32;
/// Output latch.
pub const SET: u32 = crate::soc::gpio::SET as u32;
/// Direction: 1 = output.
pub const DIROUT: u32 = crate::soc::gpio::DIROUT as u32;

const SRC: &str = "spec §1.4; Linux v6.12 gpio-mmio.c bgpio_setup_io(), bgpio_setup_direction()";

/// All registers.
pub const REGS: &[Reg] = &[
    Reg::ro("DAT", DAT, 0, SRC).effect("reads the level of each line"),
    Reg::rw("SET", SET, 0, !0, SRC).effect("drives the lines that are outputs"),
    Reg::rw("DIROUT", DIROUT, 0, !0, SRC).effect("an input is pulled low"),
];
