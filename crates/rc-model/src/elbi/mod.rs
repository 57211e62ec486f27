//! ELBI: the core's external local bus interface.
//!
//! *Modelled*: link training enable, PME_Turn_Off, the LTSSM mirror; the rest is storage (spec §6.c).
//! *Not modelled*: everything else behind the interface.
//! *Sources*: spec/dwc-qcom-registers.md §2.3.

pub mod regs;

use block::RegFile;
use block::ResetKind;
use block::StateError;
use block::Width;
use block::Words;

/// The interface.
#[derive(Clone, Debug)]
pub struct Elbi {
    regs: RegFile,
}

impl Default for Elbi {
    fn default() -> Self {
        Elbi { regs: RegFile::with_scratch(0xa8, regs::REGS) }
    }
}

impl Elbi {
    /// A guest read; `ltssm` is the link's state.
    pub fn read(&self, ltssm: u8, off: u64, w: Width) -> u64 {
        if off & !3 == u64::from(regs::SYS_STTS) {
            let word = u64::from(ltssm) << regs::STTS_LTSSM_SHIFT;
            return (word >> ((off & 3) * 8)) & w.ones();
        }
        self.regs.read(off, w)
    }

    /// A guest write. Returns whether it asked for a PME_Turn_Off message.
    #[must_use]
    pub fn write(&mut self, off: u64, w: Width, v: u64) -> bool {
        self.regs.write(off, w, v, false);
        off == u64::from(regs::SYS_CTRL) && v as u32 & regs::PME_TURNOFF_MSG != 0
    }

    /// Whether link training is enabled here (PARF has an enable of its own).
    pub fn lt_enable(&self) -> bool {
        self.regs.word(regs::SYS_CTRL) & regs::LT_ENABLE != 0
    }

    /// The block's state.
    pub fn save(&self) -> Words {
        let Elbi { regs } = self;
        regs.save()
    }

    /// Take a saved state. Nothing changes if it does not fit.
    pub fn restore(&mut self, saved: &Words) -> Result<(), StateError> {
        self.regs.restore("elbi", saved)
    }

    /// A reset of the core.
    pub fn reset(&mut self, kind: ResetKind) {
        self.regs.reset(kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pme_turn_off_is_reported_and_reads_back_zero() {
        let mut e = Elbi::default();
        assert!(!e.write(4, Width::B4, 1));
        assert!(e.lt_enable());
        assert!(e.write(4, Width::B4, 0x10), "Linux 7.3 writes the whole register");
        assert!(!e.lt_enable(), "so it clears LT_ENABLE too");
        assert_eq!(e.read(0, 4, Width::B4), 0);
    }

    #[test]
    fn status_mirrors_the_link_state() {
        let e = Elbi::default();
        assert_eq!(e.read(0x11, 8, Width::B4), 0x11 << 12);
        assert_eq!(e.read(0x11, 9, Width::B1), 0x10);
    }
}
