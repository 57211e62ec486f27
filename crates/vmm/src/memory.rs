//! Guest memory, and how models reach it.

use std::fs::File;
use std::os::fd::FromRawFd;
use std::sync::Arc;

use block::MemPort;
use vm_memory::Bytes;
use vm_memory::FileOffset;
use vm_memory::GuestAddress;
use vm_memory::GuestMemoryMmap;

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

/// Guest memory as a model sees it: checked, refusing instead of failing.
#[derive(Clone)]
pub struct Ram(pub Arc<GuestMemoryMmap>);

impl MemPort for Ram {
    fn read(&mut self, addr: u64, buf: &mut [u8]) -> bool {
        self.0.read_slice(buf, GuestAddress(addr)).is_ok()
    }

    fn write(&mut self, addr: u64, data: &[u8]) -> bool {
        self.0.write_slice(data, GuestAddress(addr)).is_ok()
    }
}
