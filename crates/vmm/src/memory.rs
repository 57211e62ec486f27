//! Guest memory, and how models reach it.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::fd::FromRawFd;
use std::sync::Arc;

use block::MemPort;
use vm_memory::Bytes;
use vm_memory::FileOffset;
use vm_memory::GuestAddress;
use vm_memory::GuestMemoryBackend;
use vm_memory::GuestMemoryMmap;
use vm_memory::GuestMemoryRegion;

use crate::layout;
use crate::Error;

/// Map `bytes` of guest memory from a memfd.
pub fn map(bytes: u64) -> Result<GuestMemoryMmap, Error> {
    let fail = |why: String| Error::Memory { mib: bytes >> 20, why };
    // SAFETY: a constant, NUL-terminated name; the result is checked before use.
    let fd = unsafe { libc::memfd_create(c"rcvm-guest-ram".as_ptr(), libc::MFD_CLOEXEC) };
    if fd < 0 {
        return Err(fail(std::io::Error::last_os_error().to_string()));
    }
    // SAFETY: `fd` was just created and belongs to nobody else.
    let file = unsafe { File::from_raw_fd(fd) };
    file.set_len(bytes).map_err(|e| fail(e.to_string()))?;
    let ranges = [(GuestAddress(layout::RAM), bytes as usize, Some(FileOffset::new(file, 0)))];
    GuestMemoryMmap::from_ranges_with_files(ranges).map_err(|e| fail(e.to_string()))
}

/// Where memory at `offset` of `file`, or behind it, was ever touched; `None`: nowhere. Reading it would touch what was not.
pub fn touched_from(file: &File, offset: u64) -> Option<u64> {
    // SAFETY: the descriptor is open as long as `file` is borrowed; nothing else uses its position.
    let at = unsafe { libc::lseek(file.as_raw_fd(), i64::try_from(offset).ok()?, libc::SEEK_DATA) };
    u64::try_from(at).ok()
}

/// Guest memory as a model sees it: checked, refusing instead of failing.
#[derive(Clone)]
pub struct Ram(pub Arc<GuestMemoryMmap>);

impl Ram {
    /// Fill `buf` from `addr`; `false`: not all of it is memory.
    pub fn read_at(&self, addr: u64, buf: &mut [u8]) -> bool {
        self.0.read_slice(buf, GuestAddress(addr)).is_ok()
    }

    /// Where memory is, in ascending order.
    pub fn ranges(&self) -> Vec<Range<u64>> {
        self.0.iter().map(|r| r.start_addr().0..r.start_addr().0.saturating_add(r.len())).collect()
    }
}

impl MemPort for Ram {
    fn read(&mut self, addr: u64, buf: &mut [u8]) -> bool {
        self.0.read_slice(buf, GuestAddress(addr)).is_ok()
    }

    fn write(&mut self, addr: u64, data: &[u8]) -> bool {
        self.0.write_slice(data, GuestAddress(addr)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_that_nobody_touched_is_passed_over() {
        let mem = map(8 << 20).unwrap();
        mem.write_slice(&[1], GuestAddress(layout::RAM + (5 << 20))).unwrap();
        let file = mem.iter().next().and_then(|r| r.file_offset()).unwrap().file();
        // A huge page may begin before the byte that was written.
        let at = touched_from(file, 0).unwrap();
        assert!(at > 0 && at <= 5 << 20, "{at:#x}");
        assert_eq!(touched_from(file, 8 << 20), None);
    }
}
