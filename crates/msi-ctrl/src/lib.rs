//! iMSI-RX, the MSI receiver of the DesignWare PCIe core: 8 groups of 32 vectors.
//!
//! *Modelled*: the match address, per-vector enable, mask and latched status, one level output a group.
//! *Not modelled*: the GPIO outputs of the block; delivery of the root port's own MSIs, which never arrive
//! here on silicon either (spec §6.a, anchors-style §7).
//! *Sources*: spec/dwc-qcom-registers.md §2.6; Linux v6.12 pcie-designware-host.c.
//!
//! An MSI is a memory write that the owner offers to [`MsiCtrl::mem_write`] before it reaches memory. The
//! output levels are a function of STATUS and MASK ([`MsiCtrl::levels`]): there is no "raise".
#![forbid(unsafe_code)]

pub mod regs;

use block::RegFile;
use block::ResetKind;
use block::StateError;
use block::Width;
use block::Words;

/// Number of groups, each with one output line.
pub const GROUPS: u32 = 8;

/// What became of a memory write offered to the controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// The address is not the controller's: the write goes on to memory.
    Missed,
    /// Consumed, but the vector's ENABLE bit is 0: nothing latched.
    Ignored(u8),
    /// Consumed, and the vector's STATUS bit is set.
    Latched(u8),
}

/// The controller. Register offsets are DBI offsets, [`regs::BASE`]..[`regs::END`].
#[derive(Clone, Debug)]
pub struct MsiCtrl {
    // Sized to end at END: a few hundred spare bytes are cheaper than translating every offset.
    regs: RegFile,
}

impl Default for MsiCtrl {
    fn default() -> Self {
        Self::new()
    }
}

impl MsiCtrl {
    /// A controller after power-on.
    pub fn new() -> Self {
        MsiCtrl { regs: RegFile::new(regs::END, regs::REGS) }
    }

    /// Whether DBI offset `off` belongs to the controller.
    pub const fn claims(off: u64) -> bool {
        off >= regs::BASE as u64 && off < regs::END as u64
    }

    /// A guest read.
    pub fn read(&self, off: u64, w: Width) -> u64 {
        self.regs.read(off, w)
    }

    /// A guest write.
    pub fn write(&mut self, off: u64, w: Width, v: u64) {
        self.regs.write(off, w, v, false);
    }

    /// The match address.
    pub fn addr(&self) -> u64 {
        u64::from(self.regs.word(regs::ADDR_HI)) << 32 | u64::from(self.regs.word(regs::ADDR_LO))
    }

    /// ENABLE of `group`.
    pub fn enable(&self, group: u32) -> u32 {
        self.regs.word(regs::INTR0_ENABLE + (group & 7) * regs::GROUP_STRIDE)
    }

    /// MASK of `group`.
    pub fn mask(&self, group: u32) -> u32 {
        self.regs.word(regs::INTR0_MASK + (group & 7) * regs::GROUP_STRIDE)
    }

    /// STATUS of `group`.
    pub fn status(&self, group: u32) -> u32 {
        self.regs.word(regs::INTR0_STATUS + (group & 7) * regs::GROUP_STRIDE)
    }

    /// Offer an inbound memory write. A match is by the full 64-bit address and takes `data[7:0]` as the
    /// vector: `data[7:5]` the group, `data[4:0]` the bit (spec §2.6).
    pub fn mem_write(&mut self, addr: u64, data: u32) -> Match {
        if addr != self.addr() {
            return Match::Missed;
        }
        let vector = data as u8;
        let (group, bit) = (u32::from(vector >> 5), 1u32 << (vector & 31));
        if self.enable(group) & bit == 0 {
            return Match::Ignored(vector);
        }
        self.regs.update(regs::INTR0_STATUS + group * regs::GROUP_STRIDE, bit, bit);
        Match::Latched(vector)
    }

    /// The outputs: bit i is `|(STATUS_i & ~MASK_i)`. ENABLE gates latching, not the line.
    pub fn levels(&self) -> u8 {
        (0..GROUPS).fold(0, |l, g| l | u8::from(self.status(g) & !self.mask(g) != 0) << g)
    }

    /// The block's state.
    pub fn save(&self) -> Words {
        let MsiCtrl { regs } = self;
        regs.save()
    }

    /// Take a saved state. Nothing changes if it does not fit.
    pub fn restore(&mut self, saved: &Words) -> Result<(), StateError> {
        self.regs.restore("msi", saved)
    }

    /// A reset of the core.
    pub fn reset(&mut self, kind: ResetKind) {
        self.regs.reset(kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDR: u64 = 0x1_4000_0000;

    fn group_reg(base: u32, group: u32) -> u64 {
        u64::from(base + group * regs::GROUP_STRIDE)
    }

    /// As Linux leaves it after `dw_pcie_setup_rc()`: everything enabled and masked.
    fn initialised() -> MsiCtrl {
        let mut m = MsiCtrl::new();
        for g in 0..GROUPS {
            m.write(group_reg(regs::INTR0_MASK, g), Width::B4, 0xffff_ffff);
            m.write(group_reg(regs::INTR0_ENABLE, g), Width::B4, 0xffff_ffff);
        }
        m.write(u64::from(regs::ADDR_LO), Width::B4, ADDR & 0xffff_ffff);
        m.write(u64::from(regs::ADDR_HI), Width::B4, ADDR >> 32);
        m
    }

    #[test]
    fn every_register_has_its_reset_value_masks_and_reset() {
        for r in regs::REGS {
            let off = u64::from(r.off);
            let mut m = MsiCtrl::new();
            assert_eq!(m.read(off, r.width), u64::from(r.reset), "{}", r.name);
            m.write(off, r.width, u64::MAX);
            assert_eq!(m.read(off, r.width), u64::from(r.rw), "{}: only rw bits take", r.name);
            m.reset(ResetKind::Core);
            assert_eq!(m.read(off, r.width), u64::from(r.reset), "{}: core reset", r.name);
            assert!(MsiCtrl::claims(off) && !r.src.is_empty());
        }
        assert_eq!(regs::REGS.len(), 26);
    }

    #[test]
    fn each_vector_latches_its_own_bit_and_raises_its_own_group() {
        for vector in 0..=255u8 {
            let mut m = initialised();
            let group = u32::from(vector / 32);
            m.write(group_reg(regs::INTR0_MASK, group), Width::B4, 0);
            assert_eq!(m.mem_write(ADDR, u32::from(vector)), Match::Latched(vector));
            for g in 0..GROUPS {
                let want = if g == group { 1u32 << (vector % 32) } else { 0 };
                assert_eq!(m.status(g), want, "vector {vector} group {g}");
            }
            assert_eq!(m.levels(), 1 << group);
        }
    }

    #[test]
    fn unmask_with_pending_status_raises_the_line() {
        let mut m = initialised();
        assert_eq!(m.mem_write(ADDR, 3), Match::Latched(3));
        assert_eq!(m.levels(), 0, "masked");
        m.write(group_reg(regs::INTR0_MASK, 0), Width::B4, !(1 << 3));
        assert_eq!(m.levels(), 1);
        m.write(group_reg(regs::INTR0_MASK, 0), Width::B4, 0xffff_ffff);
        assert_eq!(m.levels(), 0, "masking lowers it again");
    }

    #[test]
    fn status_write_clears_ones_and_never_sets() {
        let mut m = initialised();
        m.mem_write(ADDR, 0);
        m.write(group_reg(regs::INTR0_STATUS, 0), Width::B4, 0b11);
        assert_eq!(m.status(0), 0, "W1C is not XOR: bit 1 was clear and stays clear");
    }

    #[test]
    fn a_masked_bit_does_not_hold_the_line_of_its_group() {
        let mut m = initialised();
        m.write(group_reg(regs::INTR0_MASK, 1), Width::B4, !0b10);
        m.mem_write(ADDR, 32);
        m.mem_write(ADDR, 33);
        assert_eq!(m.levels(), 0b10);
        m.write(group_reg(regs::INTR0_STATUS, 1), Width::B4, 0b10);
        assert_eq!((m.levels(), m.status(1)), (0, 1), "bit 0 is pending but masked");
    }

    #[test]
    fn a_vector_latches_again_right_after_its_acknowledge() {
        let mut m = initialised();
        m.write(group_reg(regs::INTR0_MASK, 0), Width::B4, 0);
        for _ in 0..3 {
            m.mem_write(ADDR, 7);
            assert_eq!(m.levels(), 1);
            m.write(group_reg(regs::INTR0_STATUS, 0), Width::B4, 1 << 7);
            assert_eq!(m.levels(), 0);
        }
    }

    #[test]
    fn a_disabled_vector_is_consumed_without_a_latch() {
        let mut m = initialised();
        m.write(group_reg(regs::INTR0_ENABLE, 0), Width::B4, !1);
        m.write(group_reg(regs::INTR0_MASK, 0), Width::B4, 0);
        assert_eq!(m.mem_write(ADDR, 0), Match::Ignored(0));
        assert_eq!((m.status(0), m.levels()), (0, 0));
    }

    #[test]
    fn disabling_after_the_latch_keeps_status_and_line() {
        let mut m = initialised();
        m.write(group_reg(regs::INTR0_MASK, 0), Width::B4, 0);
        m.mem_write(ADDR, 0);
        m.write(group_reg(regs::INTR0_ENABLE, 0), Width::B4, 0);
        assert_eq!((m.status(0), m.levels()), (1, 1));
    }

    #[test]
    fn the_match_is_by_the_whole_address_and_follows_it() {
        let mut m = initialised();
        assert_eq!(m.mem_write(ADDR & 0xffff_ffff, 0), Match::Missed);
        assert_eq!(m.mem_write(ADDR + 4, 0), Match::Missed);
        m.write(u64::from(regs::ADDR_HI), Width::B4, 0);
        assert_eq!(m.mem_write(ADDR, 0), Match::Missed);
        assert_eq!(m.mem_write(ADDR & 0xffff_ffff, 0), Match::Latched(0));
    }

    #[test]
    fn only_the_low_byte_of_the_data_selects_the_vector() {
        let mut m = initialised();
        assert_eq!(m.mem_write(ADDR, 0xabcd_ef05), Match::Latched(5));
    }
}
