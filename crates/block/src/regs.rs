//! Register tables and the register file that they drive.
//!
//! One [`Reg`] row states one fact about one register, with its source. The same rows feed dispatch
//! (through [`RegFile`]), the all-registers tests, trace decoding and generated documentation.
//! Behaviour that a mask cannot express (self-clearing bits, mirrors) is written beside the table, in
//! the block, and named in the row's `side_effect`.

use serde::Deserialize;
use serde::Serialize;

use crate::ResetKind;
use crate::StateError;
use crate::Width;

/// Which resets a register keeps its value through. Power-on never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Survives(u8);

impl Survives {
    /// Cleared by every reset kind.
    pub const NONE: Survives = Survives(0);
    /// Kept through everything but power-on.
    pub const ALL: Survives = Survives(0x3e);
    /// Sticky in the PCIe sense: kept through hot reset and link down, not through a fundamental reset.
    pub const STICKY: Survives = Survives(
        Self::bit(ResetKind::HotReset) | Self::bit(ResetKind::LinkDown) | Self::bit(ResetKind::D3HotToD0),
    );

    const fn bit(kind: ResetKind) -> u8 {
        1 << kind as u8
    }

    /// Whether a register of this class keeps its value through `kind`.
    pub const fn keeps(self, kind: ResetKind) -> bool {
        self.0 & Self::bit(kind) != 0 && !matches!(kind, ResetKind::PowerOn)
    }
}

/// A named part of a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name as the kernel headers or the databook spell it, without the register's.
    pub name: &'static str,
    /// Highest bit.
    pub high: u8,
    /// Lowest bit.
    pub low: u8,
    /// Names of its values, where they have some.
    pub values: &'static [(u32, &'static str)],
}

impl Field {
    /// One bit.
    pub const fn bit(name: &'static str, bit: u8) -> Field {
        Field::bits(name, bit, bit)
    }

    /// Bits `high` down to `low`.
    pub const fn bits(name: &'static str, high: u8, low: u8) -> Field {
        Field { name, high, low, values: &[] }
    }

    /// The same field, its values named.
    #[must_use]
    pub const fn values(mut self, values: &'static [(u32, &'static str)]) -> Field {
        self.values = values;
        self
    }

    /// Its bits in the register.
    pub const fn mask(self) -> u32 {
        (u32::MAX >> (31 - self.high)) & (u32::MAX << self.low)
    }

    /// What it says in `value`; nothing if it is zero and zero has no name.
    pub fn show(self, value: u32) -> Option<String> {
        let v = (value & self.mask()) >> self.low;
        let named = self.values.iter().find(|n| n.0 == v).map(|n| n.1);
        match (named, v) {
            (Some(n), _) => Some(format!("{}={n}", self.name)),
            (None, 0) => None,
            (None, _) if self.high == self.low => Some(self.name.to_owned()),
            (None, v) => Some(format!("{}={v:#x}", self.name)),
        }
    }
}

/// One register: one fact with its source. Registers are at most 32 bits wide and naturally aligned.
#[derive(Clone, Copy, Debug)]
pub struct Reg {
    /// Name as the kernel headers or the databook spell it.
    pub name: &'static str,
    /// Byte offset in its block (or in its capability).
    pub off: u32,
    /// Width: B1, B2 or B4.
    pub width: Width,
    /// Value after power-on.
    pub reset: u32,
    /// Bits that a guest may write.
    pub rw: u32,
    /// Bits that a guest clears by writing one.
    pub w1c: u32,
    /// Bits that become writable while DBI_RO_WR_EN is set (DesignWare configuration space only).
    pub ro_wr: u32,
    /// Which resets its `sticky` bits survive.
    pub survives: Survives,
    /// The bits that survive these; the others take their reset values.
    pub sticky: u32,
    /// What a read or write does beyond the masks; empty where nothing.
    pub side_effect: &'static str,
    /// Where the fact comes from (spec section; kernel file and version).
    pub src: &'static str,
    /// Its named parts; bits outside them have no name.
    pub fields: &'static [Field],
}

impl Reg {
    /// A 32-bit read-only register that reads `reset`; refine it with the `with_*` methods.
    pub const fn ro(name: &'static str, off: u32, reset: u32, src: &'static str) -> Reg {
        Reg {
            name,
            off,
            width: Width::B4,
            reset,
            rw: 0,
            w1c: 0,
            ro_wr: 0,
            survives: Survives::NONE,
            sticky: 0,
            side_effect: "",
            src,
            fields: &[],
        }
    }

    /// A 32-bit register whose `mask` bits are writable.
    pub const fn rw(name: &'static str, off: u32, reset: u32, mask: u32, src: &'static str) -> Reg {
        let mut r = Reg::ro(name, off, reset, src);
        r.rw = mask;
        r
    }

    /// The same register, `width` wide.
    #[must_use]
    pub const fn width(mut self, width: Width) -> Reg {
        self.width = width;
        self
    }

    /// The same register with write-one-to-clear bits.
    #[must_use]
    pub const fn w1c(mut self, mask: u32) -> Reg {
        self.w1c = mask;
        self
    }

    /// The same register with bits that DBI_RO_WR_EN makes writable.
    #[must_use]
    pub const fn ro_wr(mut self, mask: u32) -> Reg {
        self.ro_wr = mask;
        self
    }

    /// The same register, all of its bits surviving some resets.
    #[must_use]
    pub const fn survives(self, s: Survives) -> Reg {
        self.bits_survive(u32::MAX, s)
    }

    /// The same register, the bits of `mask` surviving some resets.
    #[must_use]
    pub const fn bits_survive(mut self, mask: u32, s: Survives) -> Reg {
        self.survives = s;
        self.sticky = mask;
        self
    }

    /// Bits that keep their values through `kind`.
    pub const fn kept(&self, kind: ResetKind) -> u32 {
        if self.survives.keeps(kind) {
            self.sticky & self.width.ones() as u32
        } else {
            0
        }
    }

    /// The same register with named parts.
    #[must_use]
    pub const fn fields(mut self, fields: &'static [Field]) -> Reg {
        self.fields = fields;
        self
    }

    /// The parts that say something in `value`, by falling bit.
    pub fn show(&self, value: u32) -> String {
        self.show_in(value, u32::MAX)
    }

    /// The same, of the parts that lie in `reached` as a whole.
    pub fn show_in(&self, value: u32, reached: u32) -> String {
        let mut fields: Vec<&Field> = self.fields.iter().filter(|f| f.mask() & !reached == 0).collect();
        fields.sort_by_key(|f| std::cmp::Reverse(f.high));
        fields.iter().filter_map(|f| f.show(value)).collect::<Vec<_>>().join(" ")
    }

    /// The same register with a named side effect.
    #[must_use]
    pub const fn effect(mut self, what: &'static str) -> Reg {
        self.side_effect = what;
        self
    }
}

/// Kinds of reset, each at its number.
const KINDS: [ResetKind; 6] = [
    ResetKind::PowerOn,
    ResetKind::Core,
    ResetKind::Perst,
    ResetKind::HotReset,
    ResetKind::LinkDown,
    ResetKind::D3HotToD0,
];

#[derive(Clone, Copy, Default)]
struct Cell {
    reset: u32,
    rw: u32,
    w1c: u32,
    ro_wr: u32,
    /// Bits that a reset of each kind leaves as they are, by [`ResetKind`].
    kept: [u32; KINDS.len()],
    /// Bits that some row describes; the rest follow the file's rule for unlisted registers.
    listed: u32,
}

/// The saved form of a [`RegFile`]: its words, in order. Masks and reset values are the table's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Words(pub Vec<u32>);

/// A file of 32-bit words built from register rows, with byte-lane merging and W1C done once and right.
///
/// Unlisted offsets read 0 and ignore writes, or are plain scratch if built by [`RegFile::with_scratch`].
#[derive(Clone)]
pub struct RegFile {
    cells: Vec<Cell>,
    words: Vec<u32>,
}

impl std::fmt::Debug for RegFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegFile").field("bytes", &(self.words.len() * 4)).finish()
    }
}

impl RegFile {
    /// A file of `len_bytes` (rounded up to 4) whose unlisted registers are RAZ/WI.
    pub fn new(len_bytes: u32, rows: &[Reg]) -> Self {
        let n = len_bytes.div_ceil(4) as usize;
        let mut f = RegFile { cells: vec![Cell::default(); n], words: vec![0; n] };
        f.add(0, rows);
        f
    }

    /// The same, with unlisted registers as plain read/write scratch (spec §6.c: "treat every unlisted
    /// PARF/DBI register as RW scratch").
    pub fn with_scratch(len_bytes: u32, rows: &[Reg]) -> Self {
        let mut f = Self::new(len_bytes, rows);
        for c in &mut f.cells {
            c.rw |= !c.listed;
        }
        f
    }

    /// Add rows at `base`, taking their reset values at once. Rows outside the file are a bug of the table.
    pub fn add(&mut self, base: u32, rows: &[Reg]) {
        for r in rows {
            let off = base + r.off;
            let shift = (off & 3) * 8;
            let lane = (r.width.ones() as u32) << shift;
            let i = (off / 4) as usize;
            let c = &mut self.cells[i];
            let put = |old: u32, new: u32| (old & !lane) | ((new << shift) & lane);
            c.reset = put(c.reset, r.reset);
            c.rw = put(c.rw, r.rw);
            c.w1c = put(c.w1c, r.w1c);
            c.ro_wr = put(c.ro_wr, r.ro_wr);
            for (kept, kind) in c.kept.iter_mut().zip(KINDS) {
                *kept = put(*kept, r.kept(kind));
            }
            c.listed |= lane;
            self.words[i] = (self.words[i] & !lane) | (c.reset & lane);
        }
    }

    /// Bytes covered.
    pub fn len_bytes(&self) -> u32 {
        (self.words.len() * 4) as u32
    }

    /// Whether a row describes any byte of the word at `off`.
    pub fn is_listed(&self, off: u32) -> bool {
        self.cells.get((off / 4) as usize).is_some_and(|c| c.listed != 0)
    }

    /// The 32-bit word that contains byte `off`; 0 outside the file.
    pub fn word(&self, off: u32) -> u32 {
        self.words.get((off / 4) as usize).copied().unwrap_or(0)
    }

    /// Set the word that contains byte `off`, past all masks: for the hardware side. Ignored outside the file.
    pub fn set_word(&mut self, off: u32, v: u32) {
        if let Some(w) = self.words.get_mut((off / 4) as usize) {
            *w = v;
        }
    }

    /// Change the reset value of the word at `off` and set it now: for values that configuration decides.
    pub fn set_reset(&mut self, off: u32, v: u32) {
        let i = (off / 4) as usize;
        if let Some(c) = self.cells.get_mut(i) {
            c.reset = v;
            self.words[i] = v;
        }
    }

    /// Replace the bits of `mask` in the word at `off` by those of `v`, past all masks.
    pub fn update(&mut self, off: u32, mask: u32, v: u32) {
        self.set_word(off, (self.word(off) & !mask) | (v & mask));
    }

    /// The reset value of the word at `off`.
    pub fn reset_value(&self, off: u32) -> u32 {
        self.cells.get((off / 4) as usize).map_or(0, |c| c.reset)
    }

    /// A guest read of `w` at `off`: no side effects here.
    pub fn read(&self, off: u64, w: Width) -> u64 {
        let Ok(off) = u32::try_from(off) else { return 0 };
        if w == Width::B8 {
            return u64::from(self.word(off)) | u64::from(self.word(off.wrapping_add(4))) << 32;
        }
        (u64::from(self.word(off)) >> ((off & 3) * 8)) & w.ones()
    }

    /// A guest write of `w` at `off` with read-only bits protected; `ro_wr_en` opens the `ro_wr` bits.
    pub fn write(&mut self, off: u64, w: Width, v: u64, ro_wr_en: bool) {
        let Ok(off) = u32::try_from(off) else { return };
        if w == Width::B8 {
            self.write_lane(off, u32::MAX, v as u32, ro_wr_en);
            self.write_lane(off.wrapping_add(4), u32::MAX, (v >> 32) as u32, ro_wr_en);
            return;
        }
        let shift = (off & 3) * 8;
        self.write_lane(off, (w.ones() << shift) as u32, (v << shift) as u32, ro_wr_en);
    }

    fn write_lane(&mut self, off: u32, lane: u32, v: u32, ro_wr_en: bool) {
        let i = (off / 4) as usize;
        let Some(c) = self.cells.get(i) else { return };
        let rw = (c.rw | if ro_wr_en { c.ro_wr } else { 0 }) & lane;
        let cleared = v & c.w1c & lane;
        let w = &mut self.words[i];
        *w = ((*w & !rw) | (v & rw)) & !cleared;
    }

    /// Apply a reset: bits that do not survive `kind`, as those of no row, take their reset values.
    pub fn reset(&mut self, kind: ResetKind) {
        for (c, w) in self.cells.iter().zip(&mut self.words) {
            let kept = c.kept.get(kind as usize).copied().unwrap_or(0);
            *w = *w & kept | c.reset & !kept;
        }
    }

    /// The saved form.
    pub fn save(&self) -> Words {
        Words(self.words.clone())
    }

    /// Take a saved form; `what` names the file in errors. Nothing changes if it does not fit.
    pub fn restore(&mut self, what: &'static str, saved: &Words) -> Result<(), StateError> {
        StateError::unless_length(what, self.words.len(), saved.0.len())?;
        // Bits that no row describes and no guest can write are 0 for ever.
        if self.cells.iter().zip(&saved.0).any(|(c, w)| w & !(c.listed | c.rw) != 0) {
            return Err(StateError::Impossible { what });
        }
        self.words.clone_from(&saved.0);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROWS: &[Reg] = &[
        Reg::rw("CTRL", 0x0, 0x1, 0x0000_ffff, "test"),
        Reg::ro("STATUS", 0x4, 0xf0, "test").w1c(0xf0).survives(Survives::STICKY),
        Reg::ro("ID", 0x8, 0x17cb, "test").width(Width::B2).ro_wr(0xffff),
        Reg::rw("CMD", 0xa, 0, 0x7, "test").width(Width::B2),
    ];

    #[test]
    fn fields_show_what_is_set_and_named_values_always() {
        const R: Reg = Reg::ro("R", 0, 0, "test").fields(&[
            Field::bits("STATE", 5, 0).values(&[(0, "IDLE"), (0x11, "L0")]),
            Field::bit("EN", 8),
            Field::bits("N", 31, 28),
        ]);
        assert_eq!(R.show(0), "STATE=IDLE");
        assert_eq!(R.show(0x2000_0111), "N=0x2 EN STATE=L0");
        assert_eq!(R.show(0x12), "STATE=0x12", "a value without a name is a number");
        assert_eq!(R.fields.iter().map(|f| f.mask()).collect::<Vec<_>>(), [0x3f, 0x100, 0xf000_0000]);
    }

    #[test]
    fn a_byte_write_changes_its_lane_only() {
        let mut f = RegFile::new(16, ROWS);
        f.write(1, Width::B1, 0xab, false);
        assert_eq!(f.read(0, Width::B4), 0xab01);
    }

    #[test]
    fn w1c_clears_written_ones_and_keeps_the_rest() {
        let mut f = RegFile::new(16, ROWS);
        f.write(4, Width::B4, 0x30, false);
        assert_eq!(f.read(4, Width::B4), 0xc0);
        f.write(4, Width::B4, 0x30, false);
        assert_eq!(f.read(4, Width::B4), 0xc0, "W1C is not XOR");
    }

    #[test]
    fn ro_bits_open_only_under_ro_wr_en() {
        let mut f = RegFile::new(16, ROWS);
        f.write(8, Width::B4, 0x0005_1234, false);
        assert_eq!(f.read(8, Width::B4), 0x0005_17cb);
        f.write(8, Width::B2, 0x1234, true);
        assert_eq!(f.read(8, Width::B2), 0x1234);
    }

    #[test]
    fn resets_spare_what_survives() {
        let mut f = RegFile::new(16, ROWS);
        f.write(0, Width::B4, 0x7777, false);
        f.write(4, Width::B4, 0xf0, false);
        f.reset(ResetKind::HotReset);
        assert_eq!((f.word(0), f.word(4)), (1, 0));
        f.reset(ResetKind::Core);
        assert_eq!(f.word(4), 0xf0);
    }

    #[test]
    fn kinds_are_at_their_numbers_and_bits_of_a_row_survive_alone() {
        assert!(KINDS.iter().enumerate().all(|(n, k)| *k as usize == n));
        let mut f =
            RegFile::new(4, &[Reg::rw("A", 0, 0, u32::MAX, "test").bits_survive(0xf0, Survives::STICKY)]);
        f.write(0, Width::B4, 0xabcd, false);
        f.reset(ResetKind::LinkDown);
        assert_eq!(f.word(0), 0xc0);
        f.reset(ResetKind::Core);
        assert_eq!(f.word(0), 0);
    }

    #[test]
    fn rows_of_one_word_survive_each_by_itself_in_either_order() {
        let sticky = Reg::rw("A", 0x0, 1, 0xffff, "test").width(Width::B2).survives(Survives::STICKY);
        let plain = Reg::rw("B", 0x2, 2, 0xffff, "test").width(Width::B2);
        for rows in [[sticky, plain], [plain, sticky]] {
            let mut f = RegFile::new(4, &rows);
            f.write(0, Width::B4, 0x5678_1234, false);
            f.reset(ResetKind::HotReset);
            assert_eq!(f.word(0), 0x0002_1234);
            f.reset(ResetKind::Perst);
            assert_eq!(f.word(0), 0x0002_0001);
        }
    }

    #[test]
    fn unlisted_words_are_razwi_or_scratch() {
        let mut raz = RegFile::new(0x20, ROWS);
        raz.write(0x10, Width::B4, 5, false);
        assert_eq!(raz.word(0x10), 0);
        let mut scratch = RegFile::with_scratch(0x20, ROWS);
        scratch.write(0x10, Width::B8, 0x1_0000_0005, false);
        assert_eq!(scratch.read(0x10, Width::B8), 0x1_0000_0005);
        scratch.write(8, Width::B2, 0xffff, false);
        assert_eq!(scratch.read(8, Width::B2), 0x17cb, "a listed read-only register stays read-only");
    }

    #[test]
    fn a_saved_file_is_restored_and_one_that_does_not_fit_changes_nothing() {
        let mut a = RegFile::new(16, ROWS);
        a.write(0, Width::B4, 0x7777, false);
        let mut b = RegFile::new(16, ROWS);
        assert_eq!(b.restore("b", &a.save()), Ok(()));
        assert_eq!((b.word(0), b.save()), (0x7777, a.save()));
        let short = Words(vec![0; 3]);
        assert_eq!(b.restore("b", &short), Err(StateError::Length { what: "b", expected: 4, found: 3 }));
        let mut hole = a.save();
        hole.0[3] = 1;
        assert_eq!(b.restore("b", &hole), Err(StateError::Impossible { what: "b" }));
        assert_eq!(b.save(), a.save());
    }

    #[test]
    fn accesses_past_the_end_are_ignored() {
        let mut f = RegFile::new(16, ROWS);
        f.write(u64::MAX - 7, Width::B8, 1, true);
        f.write(0x10, Width::B4, 1, true);
        assert_eq!(f.read(0xc, Width::B8) >> 32, 0);
    }
}
