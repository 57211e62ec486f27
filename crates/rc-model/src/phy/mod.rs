//! PHY with the register interface of `qcom,pcie2-phy`.
//!
//! *Modelled*: the software reset, the ready bit, the tuning registers as plain storage.
//! *Not modelled*: the analogue part, the pipe clock (spec §1.4: it may be a fixed clock), its supplies.
//! *Sources*: spec/dwc-qcom-registers.md §1.4; Linux v6.12 phy-qcom-pcie2.c.
//!
//! INFERRED: the `phy` and `pipe` resets stop the PHY but spare its registers, so that a missing
//! `phy_power_off()` stays visible in RESET_CTRL.

pub mod regs;

use block::RegFile;
use block::ResetKind;
use block::StateError;
use block::Width;
use block::Words;

use crate::reset::Resets;

/// The PHY.
#[derive(Clone, Debug)]
pub struct Phy {
    regs: RegFile,
}

impl Default for Phy {
    fn default() -> Self {
        Phy { regs: RegFile::new(0xa8, regs::REGS) }
    }
}

impl Phy {
    /// A guest read.
    pub fn read(&self, resets: &Resets, off: u64, w: Width) -> u64 {
        if off & !3 == u64::from(regs::PHY_STTS) {
            return (u64::from(!self.up(resets)) >> ((off & 3) * 8)) & w.ones();
        }
        self.regs.read(off, w)
    }

    /// A guest write.
    pub fn write(&mut self, off: u64, w: Width, v: u64) {
        self.regs.write(off, w, v, false);
    }

    /// RESET_CTRL bit 0: held in software reset.
    pub fn software_reset(&self) -> bool {
        self.regs.word(regs::RESET_CTRL) & 1 == 1
    }

    /// Whether the PHY works: powered on and out of both resets.
    pub fn up(&self, resets: &Resets) -> bool {
        !self.software_reset() && !resets.phy() && !resets.pipe()
    }

    /// The block's state.
    pub fn save(&self) -> Words {
        let Phy { regs } = self;
        regs.save()
    }

    /// Take a saved state. Nothing changes if it does not fit.
    pub fn restore(&mut self, saved: &Words) -> Result<(), StateError> {
        self.regs.restore("phy", saved)
    }

    /// Power applied.
    pub fn power_on(&mut self) {
        self.regs.reset(ResetKind::PowerOn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soc;

    /// The order of qcom_pcie2_phy_init() and qcom_pcie2_phy_power_on().
    #[test]
    fn the_phy_is_up_after_the_drivers_power_on_and_down_after_either_reset() {
        let (mut p, mut r) = (Phy::default(), Resets::new(&soc::SM8250));
        let deassert = |r: &mut Resets, line: u32| {
            let v = r.read(0, Width::B4) & !(1 << line);
            r.write(0, Width::B4, v);
        };
        deassert(&mut r, soc::RESET_PHY);
        p.write(u64::from(regs::RESET_CTRL), Width::B4, 0);
        assert_eq!(p.read(&r, u64::from(regs::PHY_STTS), Width::B4), 1, "pipe reset still asserted");
        deassert(&mut r, soc::RESET_PIPE);
        assert!(p.up(&r));
        assert_eq!(p.read(&r, u64::from(regs::PHY_STTS), Width::B4), 0);
        p.write(u64::from(regs::RESET_CTRL), Width::B4, 1);
        assert!(!p.up(&r));
    }
}
