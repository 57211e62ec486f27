//! Guest-physical memory, and where it comes from: a core file or bytes.

use std::cell::RefCell;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::ops::Range;

use crate::le;

/// Guest-physical memory that stands still while it is read.
pub trait Memory {
    /// Fill `buf` from `pa`; all of it or an error.
    fn read(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError>;
    /// Where memory is, in ascending order.
    fn ranges(&self) -> Vec<Range<u64>>;
}

impl<M: Memory + ?Sized> Memory for &M {
    fn read(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        (**self).read(pa, buf)
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        (**self).ranges()
    }
}

/// Why physical memory cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// No memory there.
    #[error("no memory at physical address {pa:#x}, {len} bytes")]
    Absent {
        /// First address asked for.
        pa: u64,
        /// Bytes asked for.
        len: usize,
    },
    /// The file under it failed, or is shorter than its headers say.
    #[error("physical address {pa:#x} cannot be read from the core: {reason}")]
    Core {
        /// First address asked for.
        pa: u64,
        /// What the file said.
        reason: String,
    },
}

/// Memory as plain bytes.
#[derive(Debug, Clone, Default)]
pub struct RamImage {
    parts: Vec<(u64, Vec<u8>)>,
}

impl RamImage {
    /// One range from `base`.
    pub fn new(base: u64, bytes: Vec<u8>) -> Self {
        Self { parts: vec![(base, bytes)] }
    }

    /// The bytes from `pa` to the end of its range, to change them.
    pub fn bytes_mut(&mut self, pa: u64) -> Option<&mut [u8]> {
        self.parts.iter_mut().find_map(|(base, bytes)| {
            let at = usize::try_from(pa.checked_sub(*base)?).ok()?;
            bytes.get_mut(at..)
        })
    }
}

impl Memory for RamImage {
    fn read(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        let found = self.parts.iter().find_map(|(base, bytes)| {
            let at = usize::try_from(pa.checked_sub(*base)?).ok()?;
            bytes.get(at..at.checked_add(buf.len())?)
        });
        let part = found.ok_or(MemoryError::Absent { pa, len: buf.len() })?;
        buf.copy_from_slice(part);
        Ok(())
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        self.parts.iter().map(|(base, bytes)| *base..base.saturating_add(bytes.len() as u64)).collect()
    }
}

/// Why a file is no arm64 core.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// Reading failed, mostly because the file is truncated.
    #[error("the core cannot be read")]
    Io(#[from] std::io::Error),
    /// Not an ELF core of 64 bits, little-endian.
    #[error("not a 64-bit little-endian ELF core")]
    NotACore,
    /// Another machine's core.
    #[error("a core of ELF machine {0}, not of arm64 (183)")]
    OtherMachine(u16),
    /// No memory in it.
    #[error("the core has no memory segment")]
    NoMemory,
}

struct Segment {
    pa: Range<u64>,
    offset: u64,
    /// Bytes in the file; what the segment has beyond them is zero (ELF, `p_memsz`).
    in_file: u64,
}

/// One vCPU's general registers, from a core's NT_PRSTATUS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuRegisters {
    /// x0 to x30.
    pub x: [u64; 31],
    /// Stack pointer.
    pub sp: u64,
    /// Program counter.
    pub pc: u64,
    /// Processor state.
    pub pstate: u64,
}

/// An ELF core (vmcore): segments by physical address, read as they are asked for.
pub struct Core<F> {
    file: RefCell<F>,
    segments: Vec<Segment>,
    /// Text of the VMCOREINFO note, if there is one.
    pub vmcoreinfo: Option<Vec<u8>>,
    /// Registers of each vCPU, as noted.
    pub cpus: Vec<CpuRegisters>,
}

/// More notes than any dump of a guest has (a kilobyte or two per vCPU).
const NOTES_MAX_BYTES: u64 = 16 << 20;

impl<F: Read + Seek> Core<F> {
    /// Headers and notes of a core.
    pub fn open(mut file: F) -> Result<Self, CoreError> {
        let mut head = [0; 64];
        file.rewind()?;
        file.read_exact(&mut head)?;
        // ELF64, little-endian, ET_CORE.
        if head.get(..6) != Some(b"\x7fELF\x02\x01".as_slice()) || le(&head, 16, 2) != Some(4) {
            return Err(CoreError::NotACore);
        }
        let number = |at, size| le(&head, at, size).unwrap_or(0);
        if number(18, 2) != 183 {
            return Err(CoreError::OtherMachine(number(18, 2) as u16));
        }
        let (phoff, phentsize, phnum) = (number(32, 8), number(54, 2), number(56, 2));
        let (mut segments, mut vmcoreinfo, mut cpus) = (Vec::new(), None, Vec::new());
        for i in 0..phnum {
            let mut ph = [0; 56];
            file.seek(SeekFrom::Start(phoff.saturating_add(i * phentsize)))?;
            file.read_exact(&mut ph)?;
            let field = |at| le(&ph, at, 8).unwrap_or(0);
            let (offset, pa, size, memory) = (field(8), field(24), field(32), field(40));
            match le(&ph, 0, 4) {
                Some(1) => segments.push(Segment {
                    pa: pa..pa.saturating_add(memory.max(size)),
                    offset,
                    in_file: size,
                }),
                Some(4) => {
                    let mut notes = Vec::new();
                    file.seek(SeekFrom::Start(offset))?;
                    (&mut file).take(size.min(NOTES_MAX_BYTES)).read_to_end(&mut notes)?;
                    each_note(&notes, |name, kind, desc| match (name, kind) {
                        (b"VMCOREINFO", _) => vmcoreinfo = Some(desc.to_vec()),
                        (b"CORE", 1) => cpus.extend(registers(desc)),
                        _ => {}
                    });
                }
                _ => {}
            }
        }
        if segments.is_empty() {
            return Err(CoreError::NoMemory);
        }
        segments.sort_by_key(|s| s.pa.start);
        Ok(Self { file: RefCell::new(file), segments, vmcoreinfo, cpus })
    }
}

impl<F: Read + Seek> Core<F> {
    fn read_segment(&self, s: &Segment, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        let inside = pa - s.pa.start;
        let there = usize::try_from(s.in_file.saturating_sub(inside)).unwrap_or(usize::MAX).min(buf.len());
        let (there, zero) = buf.split_at_mut(there);
        zero.fill(0);
        if there.is_empty() {
            return Ok(());
        }
        let mut file = self.file.borrow_mut();
        file.seek(SeekFrom::Start(s.offset.saturating_add(inside)))
            .and_then(|_| file.read_exact(there))
            .map_err(|e| MemoryError::Core { pa, reason: e.to_string() })
    }
}

/// struct elf_prstatus of arm64: the registers start at 112.
fn registers(desc: &[u8]) -> Option<CpuRegisters> {
    let reg = |i: usize| le(desc, 112 + 8 * i, 8);
    let mut x = [0; 31];
    for (i, x) in x.iter_mut().enumerate() {
        *x = reg(i)?;
    }
    Some(CpuRegisters { x, sp: reg(31)?, pc: reg(32)?, pstate: reg(33)? })
}

/// Call `see` with name, type and contents of each ELF note, as far as they are whole.
pub(crate) fn each_note(mut notes: &[u8], mut see: impl FnMut(&[u8], u64, &[u8])) {
    let mut next = || -> Option<()> {
        let (name_len, desc_len) = (le(notes, 0, 4)? as usize, le(notes, 4, 4)? as usize);
        let kind = le(notes, 8, 4)?;
        let desc_at = 12 + name_len.next_multiple_of(4);
        let name = notes.get(12..12 + name_len)?;
        let name = name.split(|&b| b == 0).next().unwrap_or(name);
        see(name, kind, notes.get(desc_at..desc_at + desc_len)?);
        notes = notes.get(desc_at + desc_len.next_multiple_of(4)..)?;
        Some(())
    };
    while next().is_some() {}
}

impl<F: Read + Seek> Memory for Core<F> {
    fn read(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        let absent = MemoryError::Absent { pa, len: buf.len() };
        let (mut at, mut rest) = (pa, buf);
        // What lies behind one another may be in several segments.
        while !rest.is_empty() {
            let Some(s) = self.segments.iter().find(|s| s.pa.contains(&at)) else { return Err(absent) };
            let len = usize::try_from(s.pa.end - at).unwrap_or(usize::MAX).min(rest.len());
            let (part, after) = rest.split_at_mut(len);
            self.read_segment(s, at, part)?;
            at = s.pa.end;
            rest = after;
        }
        Ok(())
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        self.segments.iter().map(|s| s.pa.clone()).collect()
    }
}
