//! Virtual to physical addresses of an arm64 kernel, through the tables that its CPU uses (TTBR1).
//!
//! *Modelled*: granules of 4, 16 and 64 KiB, any VA size, block mappings, top-byte tags.
//!
//! *Not modelled*: output addresses of 2^48 and above; attributes.
//!
//! *Sources*: Arm ARM (DDI 0487) D8.3, Linux arch/arm64/include/asm/pgtable-hwdef.h.

use crate::le;
use crate::memory::Memory;
use crate::memory::MemoryError;

/// Why an address does not translate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranslateError {
    /// Not in the kernel's half, or beyond its VA size.
    #[error("{0:#x} is no kernel address")]
    NotKernel(u64),
    /// A table entry is not valid.
    #[error("{va:#x} is not mapped (level {level})")]
    Unmapped {
        /// The address.
        va: u64,
        /// Level of the entry.
        level: u32,
    },
    /// A table lies where there is no memory.
    #[error("page table of {va:#x} is unreadable")]
    Table {
        /// The address.
        va: u64,
        /// Why.
        #[source]
        source: MemoryError,
    },
}

/// A root of tables and how to read them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tables {
    /// Physical address of the first table.
    pub root_pa: u64,
    /// log2 of the page size: 12, 14 or 16.
    pub granule_bits: u32,
    /// Bits of a kernel virtual address.
    pub va_bits: u32,
}

impl Tables {
    /// From a vCPU's TTBR1_EL1 and TCR_EL1; `None` for values that no kernel has.
    pub fn from_registers(ttbr1_el1: u64, tcr_el1: u64) -> Option<Self> {
        // TG1, TCR_EL1[31:30].
        let granule_bits = match tcr_el1 >> 30 & 3 {
            1 => 14,
            2 => 12,
            3 => 16,
            _ => return None,
        };
        let va_bits = 64 - (tcr_el1 >> 16 & 0x3f) as u32;
        let tables = Self { root_pa: ttbr1_el1 & 0xffff_ffff_fffe, granule_bits, va_bits };
        tables.is_sane().then_some(tables)
    }

    /// Whether the sizes are among those the architecture has.
    pub fn is_sane(&self) -> bool {
        matches!(self.granule_bits, 12 | 14 | 16) && (self.granule_bits + 9..=52).contains(&self.va_bits)
    }

    /// A kernel address without its tag, if it is one.
    pub fn canonical(&self, va: u64) -> Result<u64, TranslateError> {
        let untagged = if va >> 55 & 1 == 1 { va | 0xff << 56 } else { va };
        if untagged >> self.va_bits == u64::MAX >> self.va_bits {
            Ok(untagged)
        } else {
            Err(TranslateError::NotKernel(va))
        }
    }

    /// Physical address of `va`, by at most five reads.
    pub fn translate(&self, memory: &impl Memory, va: u64) -> Result<u64, TranslateError> {
        let va = self.canonical(va)?;
        let per_level = self.granule_bits - 3;
        let levels = (self.va_bits - self.granule_bits).div_ceil(per_level);
        let mut table = self.root_pa;
        for left in (0..levels).rev() {
            let shift = self.granule_bits + per_level * left;
            let width = if left + 1 == levels { self.va_bits - shift } else { per_level };
            let index = va >> shift & ((1 << width) - 1);
            let mut entry = [0; 8];
            let at = table.saturating_add(8 * index);
            memory.read(at, &mut entry).map_err(|source| TranslateError::Table { va, source })?;
            let entry = le(&entry, 0, 8).unwrap_or(0);
            let inside = (1_u64 << shift) - 1;
            match (entry & 3, left) {
                (3, 0) | (1, 1..=3) => return Ok((entry & 0xffff_ffff_ffff & !inside) | (va & inside)),
                (3, _) => table = entry & 0xffff_ffff_ffff & !((1 << self.granule_bits) - 1),
                _ => return Err(TranslateError::Unmapped { va, level: 3 - left.min(3) }),
            }
        }
        Err(TranslateError::NotKernel(va))
    }
}
