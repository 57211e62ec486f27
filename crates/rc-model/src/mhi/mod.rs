//! MHI debug counters of link power states.
//!
//! *Modelled*: the L2 counter.
//! *Not modelled*: L0s, L1 and the L1 substates, which the link model does not enter; their counters read 0.
//! *Sources*: spec/dwc-qcom-registers.md §2.7.

pub mod regs;

use block::RegFile;
use block::ResetKind;
use block::StateError;
use block::Width;
use block::Words;

/// The counters.
#[derive(Clone, Debug)]
pub struct Mhi {
    regs: RegFile,
}

impl Default for Mhi {
    fn default() -> Self {
        Mhi { regs: RegFile::new(0xc8c, regs::REGS) }
    }
}

impl Mhi {
    /// A guest read. There is nothing to write.
    pub fn read(&self, off: u64, w: Width) -> u64 {
        self.regs.read(off, w)
    }

    /// The link entered L2.
    pub fn entered_l2(&mut self) {
        let n = self.regs.word(regs::LINKST_IN_L2).wrapping_add(1);
        self.regs.set_word(regs::LINKST_IN_L2, n);
    }

    /// The block's state.
    pub fn save(&self) -> Words {
        let Mhi { regs } = self;
        regs.save()
    }

    /// Take a saved state. Nothing changes if it does not fit.
    pub fn restore(&mut self, saved: &Words) -> Result<(), StateError> {
        self.regs.restore("mhi", saved)
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
    fn an_l2_entry_counts_once_and_a_core_reset_clears_it() {
        let mut m = Mhi::default();
        m.entered_l2();
        assert_eq!(m.read(0xc04, Width::B4), 1);
        m.reset(ResetKind::Core);
        assert_eq!(m.read(0xc04, Width::B4), 0);
    }
}
