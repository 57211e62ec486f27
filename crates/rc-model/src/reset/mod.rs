//! Reset controller: one word of active-high reset lines.
//!
//! *Modelled*: the word that Linux' reset-simple reads, changes and writes back (`snps,dw-high-reset`).
//! *Not modelled*: self-deasserting resets, status apart from the control word.
//! *Sources*: spec/dwc-qcom-registers.md §1.4; Linux v6.12 reset-simple.c.

pub mod regs;

use block::RegFile;
use block::ResetKind;
use block::Width;

use crate::soc;

/// The controller.
#[derive(Clone, Debug)]
pub struct Resets {
    regs: RegFile,
}

impl Default for Resets {
    fn default() -> Self {
        Resets { regs: RegFile::new(4, regs::REGS) }
    }
}

impl Resets {
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

    /// Whether the controller's core ("pci"/BCR) reset is asserted.
    pub fn core(&self) -> bool {
        self.asserted(soc::RESET_CORE)
    }

    /// Whether the PHY's `phy` reset is asserted.
    pub fn phy(&self) -> bool {
        self.asserted(soc::RESET_PHY)
    }

    /// Whether the PHY's `pipe` reset is asserted.
    pub fn pipe(&self) -> bool {
        self.asserted(soc::RESET_PIPE)
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
        let r = Resets::default();
        assert!(r.core() && r.phy() && r.pipe());
    }

    #[test]
    fn one_line_changes_without_the_others() {
        let mut r = Resets::default();
        let v = r.read(0, Width::B4) & !(1 << soc::RESET_PHY);
        r.write(0, Width::B4, v);
        assert!(r.core() && !r.phy() && r.pipe());
    }

    #[test]
    fn bits_without_a_line_read_zero() {
        let mut r = Resets::default();
        r.write(0, Width::B4, 0xffff_fff8);
        assert_eq!(r.read(0, Width::B4), 0);
    }
}
