//! The guest as an ELF core: what drgn, crash and gdb open.
//!
//! *Modelled*: ET_CORE for AArch64: a PT_NOTE segment with one NT_PRSTATUS a vCPU and the guest's own VMCOREINFO note, and a PT_LOAD
//! segment for each run of memory that is not all zeros. A segment's memory reaches to the next run: what is not in the file reads
//! as zero. `p_paddr` is the guest physical address, `p_vaddr` is 0, as in QEMU's dumps without paging: readers translate by the
//! page tables that VMCOREINFO names.
//! *Not modelled*: floating-point registers, compression, more than 65534 segments (runs are of whole 64 KiB blocks, so 4 GiB of
//! guest memory stay below that).
//! *Sources*: ELF-64 object file format; Linux include/linux/elfcore.h (`struct elf_prstatus`),
//! arch/arm64/include/uapi/asm/ptrace.h (`struct user_pt_regs`) and kernel/vmcore_info.c (the note), all 6.12.
//!
//! Headers are planned first, so that a core can be streamed: nothing is ever written twice.

use serde::Deserialize;
use serde::Serialize;

/// Memory is left out in blocks of this size.
pub const BLOCK_BYTES: u64 = 64 << 10;
/// Pages at whose start the VMCOREINFO note may lie: the smallest that arm64 has.
pub const PAGE_BYTES: u64 = 4 << 10;
/// Longest note that is taken for VMCOREINFO: Linux has one page of text, of 64 KiB at most.
const MAX_VMCOREINFO_BYTES: usize = 64 << 10;
const VMCOREINFO: &[u8] = b"VMCOREINFO\0";
const EHDR_BYTES: u64 = 64;
const PHDR_BYTES: u64 = 56;
/// Size of arm64's `struct elf_prstatus`, and where its PID and its registers are.
const PRSTATUS_BYTES: usize = 392;
const PRSTATUS_PID: usize = 32;
const PRSTATUS_REGS: usize = 112;

/// General registers of a vCPU, as `struct user_pt_regs` has them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registers {
    /// X0 to X30.
    pub x: Vec<u64>,
    /// Stack pointer of the exception level that it is at.
    pub sp: u64,
    /// Program counter.
    pub pc: u64,
    /// PSTATE.
    pub pstate: u64,
    /// TTBR1_EL1, TCR_EL1, ESR_EL1, FAR_EL1, ELR_EL1: not in an ELF note, but in the report.
    pub system: Vec<(String, u64)>,
}

/// Memory that is not all zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Guest physical address.
    pub start: u64,
    /// Bytes.
    pub len: u64,
}

/// Grows the list of runs block by block, in order of addresses.
pub fn add_block(runs: &mut Vec<Run>, start: u64, len: u64) {
    match runs.last_mut() {
        Some(r) if r.start + r.len == start => r.len += len,
        _ => runs.push(Run { start, len }),
    }
}

/// The text of a VMCOREINFO note at the start of `bytes`, if one begins there.
pub fn vmcoreinfo(bytes: &[u8]) -> Option<&[u8]> {
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    let len = word(4).filter(|n| *n <= MAX_VMCOREINFO_BYTES)?;
    if word(0)? != VMCOREINFO.len() || word(8)? != 0 || bytes.get(12..23)? != VMCOREINFO {
        return None;
    }
    bytes.get(24..24 + len).filter(|text| text.starts_with(b"OSRELEASE="))
}

/// Everything of a core before its memory. `end`: where guest memory ends.
pub fn headers(vcpus: &[Registers], vmcoreinfo: Option<&[u8]>, runs: &[Run], end: u64) -> Vec<u8> {
    let notes = notes(vcpus, vmcoreinfo);
    let phnum = runs.len() as u64 + 1;
    let notes_at = EHDR_BYTES + phnum * PHDR_BYTES;
    let mut out = ehdr(phnum as u16);
    // PT_NOTE is 4, PT_LOAD 1 with flags RWX.
    phdr(&mut out, (4, 0), notes_at, 0, (notes.len() as u64, notes.len() as u64));
    let mut at = notes_at + notes.len() as u64;
    for (i, r) in runs.iter().enumerate() {
        let next = runs.get(i + 1).map_or(end, |n| n.start);
        phdr(&mut out, (1, 7), at, r.start, (r.len, next.saturating_sub(r.start).max(r.len)));
        at += r.len;
    }
    out.extend(notes);
    out
}

fn ehdr(phnum: u16) -> Vec<u8> {
    let mut h = b"\x7fELF\x02\x01\x01".to_vec();
    h.resize(16, 0);
    // ET_CORE, EM_AARCH64, version 1, no entry, program headers right behind, no sections.
    h.extend(4_u16.to_le_bytes());
    h.extend(183_u16.to_le_bytes());
    h.extend(1_u32.to_le_bytes());
    for word in [0, EHDR_BYTES, 0] {
        h.extend(word.to_le_bytes());
    }
    h.extend(0_u32.to_le_bytes());
    for half in [EHDR_BYTES as u16, PHDR_BYTES as u16, phnum, 0, 0, 0] {
        h.extend(half.to_le_bytes());
    }
    h
}

/// `sizes`: in the file and in memory.
fn phdr(out: &mut Vec<u8>, (kind, flags): (u32, u32), at: u64, paddr: u64, sizes: (u64, u64)) {
    out.extend(kind.to_le_bytes());
    out.extend(flags.to_le_bytes());
    for word in [at, 0, paddr, sizes.0, sizes.1, 0] {
        out.extend(word.to_le_bytes());
    }
}

fn notes(vcpus: &[Registers], vmcoreinfo: Option<&[u8]>) -> Vec<u8> {
    let mut out = Vec::new();
    for (pid, r) in (1_u32..).zip(vcpus) {
        let mut status = vec![0; PRSTATUS_BYTES];
        status[PRSTATUS_PID..PRSTATUS_PID + 4].copy_from_slice(&pid.to_le_bytes());
        let x = r.x.iter().copied().chain(std::iter::repeat(0)).take(31);
        let regs = x.chain([r.sp, r.pc, r.pstate]).flat_map(u64::to_le_bytes);
        for (to, from) in status[PRSTATUS_REGS..].iter_mut().zip(regs) {
            *to = from;
        }
        // NT_PRSTATUS is 1.
        note(&mut out, b"CORE\0", 1, &status);
    }
    if let Some(text) = vmcoreinfo {
        note(&mut out, VMCOREINFO, 0, text);
    }
    out
}

fn note(out: &mut Vec<u8>, name: &[u8], kind: u32, desc: &[u8]) {
    for word in [name.len() as u32, desc.len() as u32, kind] {
        out.extend(word.to_le_bytes());
    }
    for part in [name, desc] {
        out.extend(part);
        out.resize(out.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn u64_at(b: &[u8], at: usize) -> u64 {
        u64::from_le_bytes(b[at..at + 8].try_into().unwrap())
    }

    #[test]
    fn blocks_that_touch_are_one_run() {
        let mut runs = Vec::new();
        for start in [0, BLOCK_BYTES, 4 * BLOCK_BYTES] {
            add_block(&mut runs, start, BLOCK_BYTES);
        }
        let want = [(0, 2 * BLOCK_BYTES), (4 * BLOCK_BYTES, BLOCK_BYTES)];
        assert_eq!(runs, want.map(|(start, len)| Run { start, len }));
    }

    #[test]
    fn headers_say_where_memory_is_and_what_is_zero() {
        let runs = [Run { start: 0x8000_0000, len: 0x10000 }, Run { start: 0x8004_0000, len: 0x20000 }];
        let regs = Registers { x: (0..31).collect(), sp: 100, pc: 101, pstate: 0x3c5, system: Vec::new() };
        let h = headers(&[regs.clone(), regs], None, &runs, 0x9000_0000);
        assert_eq!((&h[..4], h[16], h[18], h[56]), (&b"\x7fELF"[..], 4, 183, 3));
        let p = |i: usize| 64 + 56 * i;
        let (notes_at, notes) = (u64_at(&h, p(0) + 8) as usize, u64_at(&h, p(0) + 32) as usize);
        assert_eq!((notes_at, notes_at + notes), (64 + 3 * 56, h.len()));
        assert_eq!(notes, 2 * (12 + 8 + 392));
        assert_eq!(u64_at(&h, p(1) + 8), h.len() as u64, "memory follows the headers");
        assert_eq!((u64_at(&h, p(1) + 32), u64_at(&h, p(1) + 40)), (0x10000, 0x40000), "up to the next run");
        assert_eq!(u64_at(&h, p(2) + 8), h.len() as u64 + 0x10000);
        assert_eq!(u64_at(&h, p(2) + 40), 0x9000_0000 - 0x8004_0000, "up to the end");
        let reg = notes_at + 20 + 112;
        assert_eq!(
            (u64_at(&h, reg + 8 * 30), u64_at(&h, reg + 8 * 32), u64_at(&h, reg + 8 * 33)),
            (30, 101, 0x3c5)
        );
    }

    #[test]
    fn the_note_of_a_guest_is_found_and_nothing_else_is() {
        let mut n = Vec::new();
        note(&mut n, VMCOREINFO, 0, b"OSRELEASE=6.12\nX=1\n");
        assert_eq!(vmcoreinfo(&n), Some(&b"OSRELEASE=6.12\nX=1\n"[..]));
        assert_eq!(vmcoreinfo(&n[..30]), None, "cut");
        for (at, value) in [(0, 0xff), (6, 0xff), (8, 1), (12, b'v'), (24, b'o')] {
            let mut bad = n.clone();
            bad[at] = value;
            assert_eq!(vmcoreinfo(&bad), None, "byte {at}");
        }
        assert_eq!(vmcoreinfo(&[]), None);
    }
}
