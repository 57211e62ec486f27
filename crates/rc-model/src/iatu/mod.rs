//! iATU: address translation between the CPU and the link, 8 regions a direction, unrolled or behind the viewport.
//!
//! *Modelled*: region registers with their granule and limit masks, MEM, I/O, CFG0, CFG1 and messages outbound, CFG_SHIFT,
//! inbound address match, lowest enabled region first, pass-through while no inbound region is enabled.
//! *Not modelled*: function match, inbound BAR mode (such a region matches nothing in a root complex).
//! *Sources*: spec/dwc-qcom-registers.md §2.5; Linux v6.12 pcie-designware.c dw_pcie_prog_outbound_atu().

pub mod regs;

use block::RegFile;
use block::ResetKind;
use block::StateError;
use block::Width;
use block::Words;
use pcie::Bdf;
use serde::Deserialize;
use serde::Serialize;

/// What an outbound access becomes on the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// A memory request at this PCI address.
    Mem(u64),
    /// An I/O request at this PCI address.
    Io(u64),
    /// A message with this code.
    Msg(u8),
    /// A configuration request; `type1`: meant for a bus further down.
    Cfg {
        /// Target function.
        bdf: Bdf,
        /// Register, 0–0xfff.
        reg: u16,
        /// CFG1 rather than CFG0.
        type1: bool,
    },
}

/// What an outbound region is programmed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutboundRegion {
    /// First CPU address.
    pub base: u64,
    /// Last CPU address.
    pub last: u64,
    /// Where the first one goes.
    pub target: u64,
    /// CTRL1: kind of request.
    pub ctrl1: u32,
    /// CTRL2: enable and modes.
    pub ctrl2: u32,
}

/// Bits of the viewport's selector that are there. Index bits without a region are not: that is how Linux counts them
/// (spec §2.5).
const SELECTOR_BITS: u32 = regs::SELECT_INBOUND | (regs::REGIONS - 1);

/// The unit's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    regs: Words,
    selector: Option<u32>,
}

/// The unit.
#[derive(Clone, Debug)]
pub struct Iatu {
    regs: RegFile,
    /// The region that the viewport shows; none: the regions have a window of their own.
    selector: Option<u32>,
}

impl Iatu {
    /// After power-on.
    pub fn new(unroll: bool) -> Iatu {
        let mut file = RegFile::new(regs::LEN_BYTES, &[]);
        for n in 0..regs::REGIONS {
            file.add(regs::outbound(n), regs::REGION);
            file.add(regs::inbound(n), regs::REGION);
        }
        Iatu { regs: file, selector: (!unroll).then_some(0) }
    }

    /// Whether the DBI offset `off` is the viewport's.
    pub fn claims(&self, off: u64) -> bool {
        self.selector.is_some() && (regs::VIEWPORT..regs::VIEWPORT_END).contains(&off)
    }

    /// The region register that a viewport offset stands for.
    fn viewed(&self, off: u64) -> Option<u64> {
        let reg = off.checked_sub(regs::VIEWPORT_REGION)?;
        let selector = self.selector?;
        let n = selector & (regs::REGIONS - 1);
        let at = if selector & regs::SELECT_INBOUND != 0 { regs::inbound(n) } else { regs::outbound(n) };
        Some(u64::from(at) + reg)
    }

    /// A guest read of the viewport.
    pub fn viewport_read(&self, off: u64, w: Width) -> u64 {
        match self.viewed(off) {
            Some(at) => self.regs.read(at, w),
            None => (u64::from(self.selector.unwrap_or(0)) >> ((off & 3) * 8)) & w.ones(),
        }
    }

    /// A guest write of the viewport.
    pub fn viewport_write(&mut self, off: u64, w: Width, v: u64) {
        match (self.viewed(off), self.selector.as_mut()) {
            (Some(at), _) => self.regs.write(at, w, v, false),
            (None, Some(selector)) => {
                let shift = (off & 3) * 8;
                let (mask, bits) = ((w.ones() << shift) as u32, ((v & w.ones()) << shift) as u32);
                *selector = (*selector & !mask | bits & mask) & SELECTOR_BITS;
            }
            (None, None) => {}
        }
    }

    /// A guest read.
    pub fn read(&self, off: u64, w: Width) -> u64 {
        self.regs.read(off, w)
    }

    /// A guest write.
    pub fn write(&mut self, off: u64, w: Width, v: u64) {
        self.regs.write(off, w, v, false);
    }

    fn pair(&self, lo: u32, hi: u32) -> u64 {
        u64::from(self.regs.word(hi)) << 32 | u64::from(self.regs.word(lo))
    }

    /// First and last address of the region at `at`. One that ends before it begins holds nothing.
    fn span(&self, at: u32) -> (u64, u64) {
        let base = self.pair(at + regs::LOWER_BASE, at + regs::UPPER_BASE);
        let increase = self.regs.word(at + regs::CTRL1) & regs::INCREASE_REGION_SIZE != 0;
        let upper = if increase { regs::UPPER_LIMIT } else { regs::UPPER_BASE };
        (base, self.pair(at + regs::LIMIT, at + upper))
    }

    fn is_enabled(&self, at: u32) -> bool {
        self.regs.word(at + regs::CTRL2) & regs::EN != 0
    }

    /// What is wrong with the region that a write of `w` at `off` has just left enabled. `off` is in the unrolled window, or in
    /// DBI for the viewport. Each has a defined outcome: an inverted region holds nothing, a wrapping one ends at the end
    /// of the address space and goes on at 0, of overlapping ones the lowest wins.
    pub fn flaw(&self, off: u64, w: Width) -> Option<&'static str> {
        let at = if self.selector.is_some() { self.viewed(off)? } else { off };
        let reg = at & 0xff;
        if reg > u64::from(regs::CTRL2) + 3 || reg + w.bytes() <= u64::from(regs::CTRL2) {
            return None;
        }
        let at = u32::try_from(at).ok()? & !0xff;
        if at >= regs::LEN_BYTES || !self.is_enabled(at) {
            return None;
        }
        let (base, last) = self.span(at);
        let direction = at & 0x100;
        let overlaps = |other: u32| {
            let (first, end) = self.span(other);
            other != at && self.is_enabled(other) && first <= last && base <= end
        };
        if last < base {
            Some("iatu-inverted")
        } else if self.target(at).checked_add(last - base).is_none() {
            Some("iatu-wraps")
        } else if (0..regs::REGIONS).map(|n| n << 9 | direction).any(overlaps) {
            Some("iatu-overlap")
        } else {
            None
        }
    }

    /// `addr` relative to the base of the region at `at`, if the region holds all `len` bytes.
    fn offset_in(&self, at: u32, addr: u64, len: u64) -> Option<u64> {
        let (base, last) = self.span(at);
        let end = addr.checked_add(len.checked_sub(1)?)?;
        (base <= addr && end <= last).then(|| addr - base)
    }

    fn target(&self, at: u32) -> u64 {
        self.pair(at + regs::LOWER_TARGET, at + regs::UPPER_TARGET)
    }

    /// What a CPU access of `len` bytes at `addr` becomes; `None` if no enabled region translates it.
    pub fn outbound(&self, addr: u64, len: u64) -> Option<Outbound> {
        let (at, off) = (0..regs::REGIONS).map(regs::outbound).find_map(|at| {
            self.is_enabled(at).then(|| self.offset_in(at, addr, len)).flatten().map(|off| (at, off))
        })?;
        let to = self.target(at).wrapping_add(off);
        match self.regs.word(at + regs::CTRL1) & regs::TYPE {
            regs::TYPE_MEM => Some(Outbound::Mem(to)),
            regs::TYPE_IO => Some(Outbound::Io(to)),
            kind if kind & regs::TYPE_MSG_MASK == regs::TYPE_MSG => {
                Some(Outbound::Msg(self.regs.word(at + regs::CTRL2) as u8))
            }
            kind @ (regs::TYPE_CFG0 | regs::TYPE_CFG1) => {
                let shift = self.regs.word(at + regs::CTRL2) & regs::CFG_SHIFT != 0;
                // Without the shift the whole region is one function and only the low bits select a register. With it bits 27:12
                // of the CPU address are the function: Linux 7.3 programs target 0 (dw_pcie_config_ecam_iatu).
                let bdf = if shift { addr >> 12 } else { self.target(at) >> 16 };
                Some(Outbound::Cfg {
                    bdf: Bdf(bdf as u16),
                    reg: (off & 0xfff) as u16,
                    type1: kind == regs::TYPE_CFG1,
                })
            }
            _ => None,
        }
    }

    /// CPU addresses whose access may become a memory request at PCI address `addr`, one a region; [`Iatu::outbound`] knows
    /// which of them do.
    pub fn sources(&self, addr: u64) -> impl Iterator<Item = u64> + '_ {
        (0..regs::REGIONS).map(regs::outbound).filter(|at| self.is_enabled(*at)).filter_map(move |at| {
            let off = addr.wrapping_sub(self.target(at));
            self.span(at).0.checked_add(off)
        })
    }

    /// Where an inbound request of `len` bytes at PCI address `addr` goes in guest-physical memory.
    pub fn inbound(&self, addr: u64, len: u64) -> Option<u64> {
        let mut enabled = (0..regs::REGIONS)
            .map(regs::inbound)
            .filter(|at| self.regs.word(at + regs::CTRL2) & (regs::EN | regs::BAR_MODE) == regs::EN);
        let mut any = false;
        let hit = enabled.find_map(|at| {
            any = true;
            self.offset_in(at, addr, len).map(|off| self.target(at).wrapping_add(off))
        });
        if any {
            hit
        } else {
            Some(addr)
        }
    }

    /// Program outbound region `n`, as firmware does before the OS starts.
    pub fn program_outbound(&mut self, n: u32, r: &OutboundRegion) {
        let at = regs::outbound(n);
        for (reg, v) in [
            (regs::LOWER_BASE, r.base as u32),
            (regs::UPPER_BASE, (r.base >> 32) as u32),
            (regs::LIMIT, r.last as u32),
            (regs::UPPER_LIMIT, (r.last >> 32) as u32),
            (regs::LOWER_TARGET, r.target as u32),
            (regs::UPPER_TARGET, (r.target >> 32) as u32),
            (regs::CTRL1, r.ctrl1),
            (regs::CTRL2, r.ctrl2),
        ] {
            self.write(u64::from(at + reg), Width::B4, u64::from(v));
        }
    }

    fn enabled(&self, at: fn(u32) -> u32) -> u32 {
        (0..regs::REGIONS).fold(0, |m, n| m | (self.regs.word(at(n) + regs::CTRL2) >> 31) << n)
    }

    /// Enabled outbound regions, bit n = region n.
    pub fn outbound_enabled(&self) -> u32 {
        self.enabled(regs::outbound)
    }

    /// Enabled inbound regions, bit n = region n.
    pub fn inbound_enabled(&self) -> u32 {
        self.enabled(regs::inbound)
    }

    /// The unit's state.
    pub fn save(&self) -> State {
        let Iatu { regs, selector } = self;
        State { regs: regs.save(), selector: *selector }
    }

    /// Take a saved state. Nothing changes if it does not fit.
    pub fn restore(&mut self, saved: &State) -> Result<(), StateError> {
        let State { regs, selector } = saved;
        let unrolled = self.selector.is_none();
        if unrolled != selector.is_none() || selector.unwrap_or(0) & !SELECTOR_BITS != 0 {
            return Err(StateError::Impossible { what: "iatu viewport" });
        }
        self.regs.restore("iatu", regs)?;
        self.selector = *selector;
        Ok(())
    }

    /// A reset of the core.
    pub fn reset(&mut self, kind: ResetKind) {
        self.regs.reset(kind);
        self.selector = self.selector.map(|_| 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In the order of dw_pcie_prog_outbound_atu() of Linux v6.12.
    fn program(i: &mut Iatu, at: u32, base: u64, last: u64, target: u64, ctrl1: u32, ctrl2: u32) {
        let mut put = |reg: u32, v: u64| i.write(u64::from(at + reg), Width::B4, v & 0xffff_ffff);
        put(regs::LOWER_BASE, base);
        put(regs::UPPER_BASE, base >> 32);
        put(regs::LIMIT, last);
        put(regs::UPPER_LIMIT, last >> 32);
        put(regs::LOWER_TARGET, target);
        put(regs::UPPER_TARGET, target >> 32);
        put(regs::CTRL1, u64::from(ctrl1));
        put(regs::CTRL2, u64::from(ctrl2));
    }

    #[test]
    fn linux_counts_eight_regions_and_a_64k_granule() {
        let mut i = Iatu::new(true);
        for n in 0..8 {
            for at in [regs::outbound(n), regs::inbound(n)] {
                let off = u64::from(at + regs::LOWER_TARGET);
                i.write(off, Width::B4, 0x1111_0000);
                assert_eq!(i.read(off, Width::B4), 0x1111_0000);
            }
        }
        i.write(u64::from(regs::LIMIT), Width::B4, 0);
        assert_eq!(i.read(u64::from(regs::LIMIT), Width::B4), 0xffff);
        i.write(u64::from(regs::UPPER_LIMIT), Width::B4, 0xffff_ffff);
        assert_eq!(i.read(u64::from(regs::UPPER_LIMIT), Width::B4), 0xff);
        assert_eq!(i.outbound_enabled() | i.inbound_enabled(), 0, "probing enables nothing");
        i.write(0x1c, Width::B4, 1);
        assert_eq!(i.read(0x1c, Width::B4), 0, "a hole is RAZ/WI");
    }

    #[test]
    fn a_memory_region_translates_and_ends_at_its_limit() {
        let mut i = Iatu::new(true);
        program(&mut i, regs::outbound(1), 0x6030_0000, 0x6031_ffff, 0x1_2000_0000, 0, regs::EN);
        assert_eq!(i.outbound(0x6030_0004, 4), Some(Outbound::Mem(0x1_2000_0004)));
        assert_eq!(i.outbound(0x6031_fffc, 4), Some(Outbound::Mem(0x1_2001_fffc)));
        assert_eq!(i.outbound(0x6031_fffc, 8), None, "across the limit");
        assert_eq!(i.outbound(0x602f_ffff, 1), None);
        assert_eq!(i.outbound(u64::MAX, 8), None);
    }

    #[test]
    fn config_regions_name_one_function_or_shift_it_out_of_the_address() {
        let mut i = Iatu::new(true);
        let bdf = Bdf::new(1, 2, 3);
        program(&mut i, 0, 0x6010_0000, 0x601f_ffff, u64::from(bdf.0) << 16, regs::TYPE_CFG0, regs::EN);
        let cfg = |bdf, reg, type1| Some(Outbound::Cfg { bdf, reg, type1 });
        assert_eq!(i.outbound(0x6010_0004, 4), cfg(bdf, 4, false));
        assert_eq!(i.outbound(0x6011_0ffc, 4), cfg(bdf, 0xffc, false), "only offset[11:0] counts");
        program(&mut i, 0, 0x7010_0000, 0x701f_ffff, 0, regs::TYPE_CFG0, regs::EN | regs::CFG_SHIFT);
        assert_eq!(i.outbound(0x7010_8010, 4), cfg(Bdf::new(1, 1, 0), 0x10, false));
    }

    #[test]
    fn the_lower_numbered_region_wins_and_disabling_uncovers_the_next() {
        let mut i = Iatu::new(true);
        program(&mut i, regs::outbound(3), 0x6000_0000, 0x6fff_ffff, 0x3000_0000, 0, regs::EN);
        program(&mut i, regs::outbound(2), 0x6000_0000, 0x6000_ffff, 0x2000_0000, 0, regs::EN);
        assert_eq!(i.outbound(0x6000_0000, 4), Some(Outbound::Mem(0x2000_0000)));
        assert_eq!(i.outbound_enabled(), 0b1100);
        i.write(u64::from(regs::outbound(2) + regs::CTRL2), Width::B4, 0);
        assert_eq!(i.outbound(0x6000_0000, 4), Some(Outbound::Mem(0x3000_0000)));
    }

    #[test]
    fn a_region_crosses_4_gib_only_with_increase_region_size() {
        let mut i = Iatu::new(true);
        let (base, last) = (0xffff_0000, 0x1_0000_ffff);
        program(&mut i, 0, base, last, 0, regs::INCREASE_REGION_SIZE, regs::EN);
        assert_eq!(i.outbound(0x1_0000_0000, 4), Some(Outbound::Mem(0x1_0000)));
        program(&mut i, 0, base, last, 0, 0, regs::EN);
        assert_eq!(i.outbound(0x1_0000_0000, 4), None);
    }

    #[test]
    fn inbound_passes_through_until_a_region_is_enabled() {
        let mut i = Iatu::new(true);
        assert_eq!(i.inbound(0x8000_0000, 4), Some(0x8000_0000));
        program(&mut i, regs::inbound(0), 0x1000_0000, 0x1fff_ffff, 0x4000_0000, 0, regs::EN);
        assert_eq!(i.inbound(0x1000_0010, 4), Some(0x4000_0010));
        assert_eq!(i.inbound(0x8000_0000, 4), None);
        assert_eq!(i.inbound_enabled(), 1);
    }

    #[test]
    fn the_viewport_shows_one_region_at_a_time() {
        let mut i = Iatu::new(false);
        assert!(i.claims(0x900) && i.claims(0x924) && !i.claims(0x92c) && !Iatu::new(true).claims(0x900));
        i.viewport_write(0x900, Width::B4, 0xff);
        assert_eq!(i.viewport_read(0x900, Width::B4), 7, "eight regions");
        for (selector, at) in [(3, regs::outbound(3)), (1 << 31 | 2, regs::inbound(2))] {
            i.viewport_write(0x900, Width::B4, selector);
            i.viewport_write(0x918, Width::B4, 0x1111_0000);
            assert_eq!(i.viewport_read(0x918, Width::B4), 0x1111_0000);
            assert_eq!(i.read(u64::from(at + regs::LOWER_TARGET), Width::B4), 0x1111_0000);
        }
        i.reset(ResetKind::Core);
        assert_eq!(i.viewport_read(0x900, Width::B4), 0);
    }

    #[test]
    fn io_and_message_regions_carry_their_kind() {
        let mut i = Iatu::new(true);
        program(&mut i, 0, 0x6000_0000, 0x6000_ffff, 0x1_0000, regs::TYPE_IO, regs::EN);
        assert_eq!(i.outbound(0x6000_0004, 4), Some(Outbound::Io(0x1_0004)));
        program(&mut i, 0, 0x6000_0000, 0x6000_ffff, 0, 0x13, regs::EN | 1 << 22 | 0x19);
        assert_eq!(i.outbound(0x6000_0000, 4), Some(Outbound::Msg(0x19)));
        program(&mut i, 0, 0x6000_0000, 0x6000_ffff, 0, 0x8, regs::EN);
        assert_eq!(i.outbound(0x6000_0000, 4), None, "a reserved type");
    }

    #[test]
    fn a_region_with_a_flaw_is_named_when_it_is_enabled() {
        let cases: [(u64, u64, u64, Option<&str>); 5] = [
            (0x6000_0000, 0x6000_ffff, 0, None),
            (0x6001_0000, 0x6000_ffff, 0, Some("iatu-inverted")),
            (0x6000_0000, 0x6002_ffff, u64::MAX - 0x1_ffff, Some("iatu-wraps")),
            (0x7000_0000, 0x7000_ffff, 0, Some("iatu-overlap")),
            (0x7001_0000, 0x7001_ffff, 0, None),
        ];
        for (base, last, target, want) in cases {
            let mut i = Iatu::new(true);
            program(&mut i, regs::outbound(5), 0x7000_0000, 0x7000_ffff, 0, 0, regs::EN);
            program(&mut i, regs::inbound(1), base, last, 0, 0, regs::EN);
            program(&mut i, regs::outbound(2), base, last, target, 0, regs::EN);
            let ctrl2 = u64::from(regs::outbound(2) + regs::CTRL2);
            assert_eq!(i.flaw(ctrl2, Width::B4), want, "{base:#x}");
            assert_eq!(i.flaw(ctrl2 - 4, Width::B8), want, "by a wider write");
            assert_eq!(i.flaw(ctrl2 + 4, Width::B4), None, "other registers may be halfway");
            i.write(ctrl2, Width::B4, 0);
            assert_eq!(i.flaw(ctrl2, Width::B4), None, "disabled");
        }
        let mut i = Iatu::new(false);
        i.viewport_write(0x900, Width::B4, 3);
        i.viewport_write(0x90c, Width::B4, 0x6001_0000);
        i.viewport_write(0x908, Width::B4, 1 << 31);
        assert_eq!(i.flaw(0x908, Width::B4), Some("iatu-inverted"), "through the viewport");
        assert_eq!(i.flaw(0x900, Width::B4), None);
    }
}
