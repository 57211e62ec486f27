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

/// The MSI-X table of a function, at most 64 vectors, with its pending bit array.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixTable {
    entries: Vec<Entry>,
    pending: u64,
}

impl MsixTable {
    /// A table of `entries` vectors, 1–64.
    pub fn new(entries: usize) -> MsixTable {
        MsixTable { entries: vec![RESET; entries.clamp(1, 64)], pending: 0 }
    }

    /// Bytes of the table.
    pub fn table_bytes(&self) -> u32 {
        self.entries.len() as u32 * 16
    }

    /// Back to the reset state.
    pub fn reset(&mut self) {
        self.entries.fill(RESET);
        self.pending = 0;
    }

    /// Take a saved table. Nothing changes if it does not fit.
    pub fn restore(&mut self, saved: &MsixTable) -> Result<(), StateError> {
        let vectors = self.entries.len();
        StateError::unless_length("msi-x table", vectors, saved.entries.len())?;
        let beyond = saved.pending.checked_shr(vectors as u32).unwrap_or(0) != 0;
        if beyond || saved.entries.iter().any(|e| e.addr_lo & 3 != 0 || e.control & !MASKED != 0) {
            return Err(StateError::Impossible { what: "msi-x table" });
        }
        self.clone_from(saved);
        Ok(())
    }

    /// Pending bits.
    pub fn pending(&self) -> u64 {
        self.pending
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
        if off >= 8 {
            0
        } else {
            self.pending >> (off * 8) & w.ones()
        }
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
            self.pending |= 1 << vector;
            return None;
        }
        Some(message(&e))
    }

    /// After a write to the table or to MSIX_FLAGS: messages that are pending and may now be sent.
    pub fn take_unmasked(&mut self, flags: u16) -> Vec<Message> {
        if self.pending == 0 || !sends(flags) {
            return Vec::new();
        }
        let mut out = Vec::new();
        for (i, e) in self.entries.iter().enumerate() {
            if self.pending & 1 << i != 0 && e.control & MASKED == 0 {
                self.pending &= !(1 << i);
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
    fn vectors_and_offsets_out_of_range_do_nothing() {
        let mut t = table();
        assert_eq!(t.raise(ENABLED, 99), None);
        t.write_table(0xffff_fff0, Width::B4, 1);
        assert_eq!(t.read_pba(8, Width::B4), 0);
    }
}
