//! Reset controller: one word of active-high reset lines.
//!
//! *Modelled*: the word that Linux' reset-simple reads, changes and writes back (`snps,dw-high-reset`).
//! *Not modelled*: self-deasserting resets, status apart from the control word.
//! *Sources*: spec/dwc-qcom-registers.md §1.4; Linux v6.12 reset-simple.c.

pub mod regs;

use block::RegFile;
use block::ResetKind;
use block::StateError;
use block::Width;
use block::Words;

use crate::soc;
use crate::soc::Soc;

/// The controller.
#[derive(Clone, Debug)]
pub struct Resets {
    regs: RegFile,
    core: u32,
}

impl Resets {
    /// The controller of `soc`, after power-on.
    pub fn new(soc: &Soc) -> Resets {
        let mut file = RegFile::new(4, regs::REGS);
        file.set_reset(regs::RESETS, !soc.open_reset_bits());
        file.reset(ResetKind::PowerOn);
        Resets { regs: file, core: soc.core_reset_bits() }
    }

    /// A guest read.
    pub fn read(&self, off: u64, w: Width) -> u64 {
        self.regs.read(off, w)
    }

    /// A guest write.
    pub fn write(&mut self, off: u64, w: Width, v: u64) {
        self.regs.write(off, w, v, false);
    }

    fn asserted(&self, line: u32) -> bool {
        self.regs.word(regs::RESETS) >> line & 1 == 1
    }

    /// Whether one of the core's resets is asserted.
    pub fn core(&self) -> bool {
        self.regs.word(regs::RESETS) & self.core != 0
    }

    /// Whether the PHY's `phy` reset is asserted.
    pub fn phy(&self) -> bool {
        self.asserted(soc::RESET_PHY)
    }

    /// Whether the PHY's `pipe` reset is asserted.
    pub fn pipe(&self) -> bool {
        self.asserted(soc::RESET_PIPE)
    }

    /// The block's state.
    pub fn save(&self) -> Words {
        let Resets { regs, core: _ } = self;
        regs.save()
    }

    /// Take a saved state. Nothing changes if it does not fit.
    pub fn restore(&mut self, saved: &Words) -> Result<(), StateError> {
        self.regs.restore("reset", saved)
    }

    /// Power applied.
    pub fn power_on(&mut self) {
        self.regs.reset(ResetKind::PowerOn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn power_on_asserts_every_line() {
        let r = Resets::new(&soc::SM8250);
        assert!(r.core() && r.phy() && r.pipe());
    }

    #[test]
    fn lines_that_linux_6_1_never_touches_do_not_hold_ipq4019() {
        let soc = soc::find("ipq4019").unwrap();
        let mut r = Resets::new(soc);
        let driven = soc.core_reset_bits() & !soc.open_reset_bits();
        assert_eq!(driven.count_ones(), 9);
        let v = r.read(0, Width::B4) & !u64::from(driven);
        r.write(0, Width::B4, v);
        assert!(!r.core());
    }

    #[test]
    fn one_line_changes_without_the_others() {
        let mut r = Resets::new(&soc::SM8250);
        let v = r.read(0, Width::B4) & !(1 << soc::RESET_PHY);
        r.write(0, Width::B4, v);
        assert!(r.core() && !r.phy() && r.pipe());
    }

    #[test]
    fn any_of_several_core_resets_holds_the_core() {
        let mut r = Resets::new(soc::find("qcs404").unwrap());
        r.write(0, Width::B4, 0);
        assert!(!r.core());
        r.write(0, Width::B4, 1 << (soc::RESET_CORE + 5));
        assert!(r.core());
        r.write(0, Width::B4, 1 << (soc::RESET_CORE + 6));
        assert!(!r.core(), "qcs404 has six");
    }
}
