//! PARF: Qualcomm's wrapper around the core.
//!
//! *Modelled*: link training enable and state mirror, flush mode, latched link events with their mask and the
//! `global` interrupt, the PHY power-down bit; everything else as storage.
//! *Not modelled*: what the stored values do to buses, power saving and the SMMU (the BDF to SID table).
//! DEVIATION: the DBI and iATU base registers are storage; the windows do not move with them.
//! *Sources*: spec/dwc-qcom-registers.md §2.2.

pub mod regs;

use block::RegFile;
use block::ResetKind;
use block::StateError;
use block::Width;
use block::Words;

use crate::soc::Soc;

/// The wrapper.
#[derive(Clone, Debug)]
pub struct Parf {
    regs: RegFile,
}

impl Parf {
    /// The wrapper of `soc`, after power-on.
    pub fn new(soc: &Soc) -> Parf {
        let mut file = RegFile::with_scratch(regs::LEN_BYTES, regs::REGS);
        if soc.ops == "1_0_0" {
            // INFERRED: its driver never powers the PHY up here (spec §4.1), and links come up.
            file.set_reset(regs::PHY_CTRL, 0);
        }
        file.reset(ResetKind::PowerOn);
        Parf { regs: file }
    }

    /// A guest read of at most 32 bits; `ltssm` is the link's state.
    pub fn read(&self, ltssm: u8, off: u64, w: Width) -> u64 {
        let v = self.regs.read(off, w);
        if off == u64::from(regs::LTSSM) {
            return v | u64::from(u32::from(ltssm) & regs::LTSSM_STATE);
        }
        v
    }

    /// A guest write of at most 32 bits.
    pub fn write(&mut self, off: u64, w: Width, v: u64) {
        self.regs.write(off, w, v, false);
        let bits = ((v & w.ones()) << ((off & 3) * 8)) as u32;
        match (off & !3) as u32 {
            regs::LTSSM if bits & regs::SW_CLEAR_FLUSH_MODE != 0 => {
                self.regs.update(regs::LTSSM, regs::FLUSH_MODE, 0);
            }
            regs::INT_ALL_CLEAR => self.regs.update(regs::INT_ALL_STATUS, bits, 0),
            _ => {}
        }
    }

    /// Whether link training is enabled here (ELBI has an enable of its own).
    pub fn ltssm_en(&self) -> bool {
        self.regs.word(regs::LTSSM) & regs::LTSSM_EN != 0
    }

    /// Whether PHY_CTRL powers the PHY down.
    pub fn phy_powered_down(&self) -> bool {
        self.regs.word(regs::PHY_CTRL) & regs::PHY_TEST_PWR_DOWN != 0
    }

    /// Whether BDF to SID translation is bypassed.
    pub fn sid_bypass(&self) -> bool {
        self.regs.word(regs::BDF_TO_SID_CFG) & regs::BDF_TO_SID_BYPASS != 0
    }

    /// INT_ALL_STATUS.
    pub fn int_status(&self) -> u32 {
        self.regs.word(regs::INT_ALL_STATUS)
    }

    /// INT_ALL_MASK.
    pub fn int_mask(&self) -> u32 {
        self.regs.word(regs::INT_ALL_MASK)
    }

    /// MSI groups whose lines INT_ALL_MASK lets through.
    pub fn msi_gate(&self) -> u8 {
        (self.int_mask() >> regs::INT_MSI_SHIFT) as u8
    }

    /// Level of the `global` interrupt. The MSI bits gate `msiN` and never raise it (spec §2.2.2).
    pub fn global(&self) -> bool {
        self.int_status() & self.int_mask() & !regs::INT_MSI != 0
    }

    /// The link came up.
    pub fn link_up(&mut self) {
        self.regs.update(regs::INT_ALL_STATUS, regs::INT_LINK_UP, regs::INT_LINK_UP);
    }

    /// The link went down: the bridge goes to flush mode until software leaves it (spec §3).
    pub fn link_down(&mut self) {
        self.regs.update(regs::INT_ALL_STATUS, regs::INT_LINK_DOWN, regs::INT_LINK_DOWN);
        self.regs.update(regs::LTSSM, regs::FLUSH_MODE, regs::FLUSH_MODE);
    }

    /// The block's state.
    pub fn save(&self) -> Words {
        let Parf { regs } = self;
        regs.save()
    }

    /// Take a saved state. Nothing changes if it does not fit.
    pub fn restore(&mut self, saved: &Words) -> Result<(), StateError> {
        self.regs.restore("parf", saved)
    }

    /// A reset of the core. INFERRED: every register of the block is non-sticky (spec §2.1).
    pub fn reset(&mut self, kind: ResetKind) {
        self.regs.reset(kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soc::SM8250;

    fn at(off: u32) -> u64 {
        u64::from(off)
    }

    #[test]
    fn clear_is_write_one_to_clear_of_status_and_reads_zero() {
        let mut p = Parf::new(&SM8250);
        p.link_up();
        p.link_down();
        p.write(at(regs::INT_ALL_CLEAR), Width::B4, u64::from(regs::INT_LINK_UP | 1 << 30));
        assert_eq!(p.int_status(), regs::INT_LINK_DOWN);
        assert_eq!(p.read(0, at(regs::INT_ALL_CLEAR), Width::B4), 0);
        p.write(at(regs::INT_ALL_STATUS), Width::B4, 0);
        assert_eq!(p.int_status(), regs::INT_LINK_DOWN, "STATUS itself is read-only");
    }

    #[test]
    fn global_follows_status_and_mask_at_once() {
        let mut p = Parf::new(&SM8250);
        p.link_up();
        assert!(!p.global(), "not enabled out of reset");
        p.write(at(regs::INT_ALL_MASK), Width::B4, u64::from(regs::INT_LINK_UP));
        assert!(p.global(), "enabling with a latched event raises the line");
        p.write(at(regs::INT_ALL_MASK), Width::B4, u64::from(regs::INT_LINK_DOWN | regs::INT_MSI));
        assert!(!p.global());
    }

    #[test]
    fn ltssm_mirrors_the_state_and_keeps_only_its_enable() {
        let mut p = Parf::new(&SM8250);
        p.write(at(regs::LTSSM), Width::B4, 0xffff_ffff);
        let v = p.read(0x11, at(regs::LTSSM), Width::B4) as u32;
        assert_eq!(v & regs::LTSSM_STATE, 0x11, "5:0 are read-only");
        assert_eq!(v & regs::LTSSM_EN, regs::LTSSM_EN);
        assert_eq!(v & (regs::SW_CLEAR_FLUSH_MODE | regs::FLUSH_MODE), 0);
        assert!(p.ltssm_en());
    }

    #[test]
    fn flush_mode_lasts_until_software_clears_it() {
        let mut p = Parf::new(&SM8250);
        p.link_down();
        p.write(at(regs::LTSSM), Width::B4, u64::from(regs::LTSSM_EN));
        assert_ne!(p.read(0, at(regs::LTSSM), Width::B4) as u32 & regs::FLUSH_MODE, 0);
        p.write(at(regs::LTSSM) + 1, Width::B1, 0x04);
        assert_eq!(p.read(0, at(regs::LTSSM), Width::B4) as u32 & regs::FLUSH_MODE, 0);
    }

    #[test]
    fn a_core_reset_clears_latched_events_and_the_mask() {
        let mut p = Parf::new(&SM8250);
        p.link_down();
        p.write(at(regs::INT_ALL_MASK), Width::B4, u64::from(regs::INT_LINK_DOWN));
        assert!(p.global());
        p.reset(ResetKind::Core);
        assert!(!p.global());
        assert_eq!((p.int_status(), p.int_mask()), (0, regs::INT_MSI));
    }

    #[test]
    fn unlisted_registers_are_storage() {
        let mut p = Parf::new(&SM8250);
        p.write(0x2000, Width::B4, 0x0100_0000);
        p.write(0x700, Width::B4, 0x1234_5678);
        assert_eq!(p.read(0, 0x2000, Width::B4), 0x0100_0000);
        assert_eq!(p.read(0, 0x702, Width::B2), 0x1234);
    }
}
