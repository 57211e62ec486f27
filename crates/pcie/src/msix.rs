//! MSI-X table and pending bits (PCIe §6.1.4, §7.7.2).

use block::StateError;
use block::Width;
use serde::Deserialize;
use serde::Serialize;

use crate::msi::Message;

const MASKED: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    addr_lo: u32,
    addr_hi: u32,
    data: u32,
    control: u32,
}

/// An entry out of reset: masked, no message.
const RESET: Entry = Entry { addr_lo: 0, addr_hi: 0, data: 0, control: MASKED };

/// Most vectors of a function (PCIe §7.7.2.2).
const MOST: usize = 2048;

/// The MSI-X table of a function with its pending bit array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixTable {
    entries: Vec<Entry>,
    /// One bit a vector, 64 a word.
    pending: Vec<u64>,
}

impl MsixTable {
    /// A table of `entries` vectors, 1–2048.
    pub fn new(entries: usize) -> MsixTable {
        let entries = entries.clamp(1, MOST);
        MsixTable { entries: vec![RESET; entries], pending: vec![0; entries.div_ceil(64)] }
    }

    /// Bytes of the table.
    pub fn table_bytes(&self) -> u32 {
        self.entries.len() as u32 * 16
    }

    /// Back to the reset state.
    pub fn reset(&mut self) {
        self.entries.fill(RESET);
        self.pending.fill(0);
    }

    /// Take a saved table. Nothing changes if it does not fit.
    pub fn restore(&mut self, saved: &MsixTable) -> Result<(), StateError> {
        let vectors = self.entries.len();
        StateError::unless_length("msi-x table", vectors, saved.entries.len())?;
        StateError::unless_length("msi-x pending bits", self.pending.len(), saved.pending.len())?;
        let last = saved.pending.last().copied().unwrap_or(0);
        let beyond = !vectors.is_multiple_of(64) && last >> (vectors % 64) != 0;
        if beyond || saved.entries.iter().any(|e| e.addr_lo & 3 != 0 || e.control & !MASKED != 0) {
            return Err(StateError::Impossible { what: "msi-x table" });
        }
        self.clone_from(saved);
        Ok(())
    }

    /// How many vectors are pending.
    pub fn pending(&self) -> u64 {
        self.pending.iter().map(|w| u64::from(w.count_ones())).sum()
    }

    /// Entries that are not masked.
    pub fn unmasked(&self) -> usize {
        self.entries.iter().filter(|e| e.control & MASKED == 0).count()
    }

    /// Entries that hold a message.
    pub fn programmed(&self) -> usize {
        self.entries.iter().filter(|e| e.addr_lo != 0 || e.addr_hi != 0 || e.data != 0).count()
    }

    /// A read of the table at byte `off`.
    pub fn read_table(&self, off: u32, w: Width) -> u64 {
        let word = |off: u32| u64::from(self.word(off));
        match w {
            Width::B8 => word(off) | word(off + 4) << 32,
            w => word(off) >> ((off & 3) * 8) & w.ones(),
        }
    }

    /// A write to the table; DWORD and QWORD accesses are the legal ones, others are dropped (PCIe §7.7.2).
    pub fn write_table(&mut self, off: u32, w: Width, v: u64) {
        match w {
            Width::B4 => self.set_word(off, v as u32),
            Width::B8 => {
                self.set_word(off, v as u32);
                self.set_word(off + 4, (v >> 32) as u32);
            }
            _ => {}
        }
    }

    /// A read of the pending bit array at byte `off`.
    pub fn read_pba(&self, off: u32, w: Width) -> u64 {
        let word = self.pending.get((off / 8) as usize).copied().unwrap_or(0);
        word >> (off % 8 * 8) & w.ones()
    }

    fn word(&self, off: u32) -> u32 {
        let Some(e) = self.entries.get((off / 16) as usize) else { return 0 };
        match off & 0xc {
            0x0 => e.addr_lo,
            0x4 => e.addr_hi,
            0x8 => e.data,
            _ => e.control,
        }
    }

    fn set_word(&mut self, off: u32, v: u32) {
        let Some(e) = self.entries.get_mut((off / 16) as usize) else { return };
        match off & 0xc {
            0x0 => e.addr_lo = v & !3,
            0x4 => e.addr_hi = v,
            0x8 => e.data = v,
            _ => e.control = v & MASKED,
        }
    }

    /// The function raises `vector`; `flags` is MSIX_FLAGS. What cannot be sent now becomes pending.
    pub fn raise(&mut self, flags: u16, vector: u32) -> Option<Message> {
        let e = *self.entries.get(vector as usize)?;
        if !sends(flags) || e.control & MASKED != 0 {
            self.pending[vector as usize / 64] |= 1 << (vector % 64);
            return None;
        }
        Some(message(&e))
    }

    /// After a write to the table or to MSIX_FLAGS: messages that are pending and may now be sent.
    pub fn take_unmasked(&mut self, flags: u16) -> Vec<Message> {
        if !sends(flags) || self.pending.iter().all(|w| *w == 0) {
            return Vec::new();
        }
        let mut out = Vec::new();
        for (i, e) in self.entries.iter().enumerate() {
            let (word, bit) = (&mut self.pending[i / 64], 1 << (i % 64));
            if *word & bit != 0 && e.control & MASKED == 0 {
                *word &= !bit;
                out.push(message(e));
            }
        }
        out
    }
}

/// MSIX_FLAGS: enabled and not function-masked.
fn sends(flags: u16) -> bool {
    flags & 0xc000 == 0x8000
}

fn message(e: &Entry) -> Message {
    Message { addr: u64::from(e.addr_lo) | u64::from(e.addr_hi) << 32, data: e.data }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENABLED: u16 = 0x8000;
    const FUNC_MASK: u16 = 0xc000;

    fn table() -> MsixTable {
        let mut t = MsixTable::new(32);
        t.write_table(16, Width::B8, 0x1_8000_0040);
        t.write_table(24, Width::B4, 0x55);
        t
    }

    #[test]
    fn entries_come_out_of_reset_masked() {
        let t = MsixTable::new(32);
        assert_eq!((t.unmasked(), t.programmed(), t.read_table(31 * 16 + 12, Width::B4)), (0, 0, 1));
        assert_eq!(t.read_table(32 * 16, Width::B4), 0);
    }

    #[test]
    fn an_unmasked_entry_sends_its_message() {
        let mut t = table();
        t.write_table(28, Width::B4, 0);
        assert_eq!(t.raise(ENABLED, 1), Some(Message { addr: 0x1_8000_0040, data: 0x55 }));
        assert_eq!(t.pending(), 0);
    }

    #[test]
    fn each_gate_makes_it_pending_and_opening_it_sends_once() {
        for closed in [0, FUNC_MASK] {
            let mut t = table();
            t.write_table(28, Width::B4, 0);
            assert_eq!(t.raise(closed, 1), None);
            assert_eq!(t.read_pba(0, Width::B8), 2);
            assert_eq!(t.take_unmasked(closed), vec![]);
            assert_eq!(t.take_unmasked(ENABLED).len(), 1);
            assert_eq!(t.take_unmasked(ENABLED), vec![]);
        }
        let mut t = table();
        assert_eq!(t.raise(ENABLED, 1), None, "entry mask");
        t.write_table(28, Width::B4, 0);
        assert_eq!(t.take_unmasked(ENABLED).len(), 1);
    }

    #[test]
    fn a_table_of_2048_has_a_pending_bit_for_each() {
        let mut t = MsixTable::new(5000);
        assert_eq!(t.table_bytes(), 2048 * 16);
        assert_eq!(t.raise(ENABLED, 2047), None, "masked");
        assert_eq!(
            (t.read_pba(0xf8, Width::B8), t.read_pba(0xff, Width::B1), t.pending()),
            (1 << 63, 0x80, 1)
        );
        t.write_table(2047 * 16 + 12, Width::B4, 0);
        assert_eq!(t.take_unmasked(ENABLED).len(), 1);
        assert_eq!(t.pending(), 0);
    }

    #[test]
    fn vectors_and_offsets_out_of_range_do_nothing() {
        let mut t = table();
        assert_eq!(t.raise(ENABLED, 99), None);
        t.write_table(0xffff_fff0, Width::B4, 1);
        assert_eq!(t.read_pba(8, Width::B4), 0);
    }
}
