//! A disk whose blocks are a file's, or a block device's: the worker's side of `file=`.
//!
//! Writes go to the page cache, as to a disk with a volatile cache; a flush is fdatasync, after which they are durable. In the
//! nested mode the file is a virtio disk of the outer machine: fdatasync there is a flush to QEMU, which flushes the file.
//! Whatever fails is the function's error to tell, with the status that its kind has for a failed medium; a cached write
//! that cannot be stored fails the next flush, and all later ones: the kernel tells of it once and forgets it, a driver may
//! repeat the flush (Linux v6.12 drivers/nvme/host/core.c, nvme_decide_disposition), and what was lost stays lost.

use std::fs::File;
use std::io;
use std::io::Seek;
use std::io::SeekFrom;
use std::os::unix::fs::FileExt;
use std::path::Path;

use endpoints::Disk;
use rustix::fs::FlockOperation;

/// A file as a disk.
#[derive(Debug)]
pub struct FileDisk {
    file: File,
    len_bytes: u64,
    read_only: bool,
    /// A flush failed: nobody knows what is stored.
    lost: bool,
}

impl FileDisk {
    /// Open `path`, and lock it against other disks of this kind: one that can be written to has the file for itself.
    pub fn open(path: &Path, read_only: bool) -> io::Result<FileDisk> {
        let mut file = File::options().read(true).write(!read_only).open(path)?;
        let lock = if read_only {
            FlockOperation::NonBlockingLockShared
        } else {
            FlockOperation::NonBlockingLockExclusive
        };
        // A file system without locks has other errors, and no lock.
        if let Err(rustix::io::Errno::WOULDBLOCK) = rustix::fs::flock(&file, lock) {
            return Err(io::Error::new(io::ErrorKind::WouldBlock, "another rcvm is using it"));
        }
        // What metadata says of a block device is 0.
        let len_bytes = file.seek(SeekFrom::End(0))?;
        Ok(FileDisk { file, len_bytes, read_only, lost: false })
    }

    fn has(&self, off: u64, len: usize) -> bool {
        off.checked_add(len as u64).is_some_and(|end| end <= self.len_bytes)
    }
}

impl Disk for FileDisk {
    fn len_bytes(&self) -> u64 {
        self.len_bytes
    }

    fn read(&mut self, off: u64, buf: &mut [u8]) -> bool {
        self.has(off, buf.len()) && told("read", self.file.read_exact_at(buf, off))
    }

    fn write(&mut self, off: u64, data: &[u8]) -> bool {
        !self.read_only && self.has(off, data.len()) && told("write", self.file.write_all_at(data, off))
    }

    fn flush(&mut self) -> bool {
        self.lost |= !self.read_only && !told("flush", self.file.sync_data());
        !self.lost
    }

    fn is_read_only(&self) -> bool {
        self.read_only
    }
}

impl Drop for FileDisk {
    /// The machine ends in order: what the guest left in the cache is stored.
    fn drop(&mut self) {
        self.flush();
    }
}

/// The guest gets a status; why, the log of a native worker says.
fn told(what: &str, done: io::Result<()>) -> bool {
    if let Err(e) = &done {
        log::warn!("disk file: {what}: {e}");
    }
    done.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: u64) -> tempfile::NamedTempFile {
        let f = tempfile::NamedTempFile::new().unwrap();
        f.as_file().set_len(bytes).unwrap();
        f
    }

    #[test]
    fn what_is_written_is_in_the_file_and_in_the_next_disk() {
        let f = file(8192);
        let mut d = FileDisk::open(f.path(), false).unwrap();
        assert_eq!((d.len_bytes(), d.is_read_only()), (8192, false));
        assert!(d.write(4096, &[7; 512]) && d.flush());
        assert_eq!(std::fs::read(f.path()).unwrap()[4096..4608], [7; 512]);
        drop(d);
        let (mut d, mut buf) = (FileDisk::open(f.path(), true).unwrap(), [0; 512]);
        assert!(d.read(4096, &mut buf) && buf == [7; 512]);
    }

    #[test]
    fn nothing_is_beyond_the_end_and_a_file_does_not_grow() {
        let f = file(1024);
        let mut d = FileDisk::open(f.path(), false).unwrap();
        let mut buf = [0; 512];
        assert!(d.write(512, &[1; 512]) && d.read(512, &mut buf));
        for off in [513, 1024, u64::MAX - 511, u64::MAX] {
            assert!(!d.write(off, &[1; 512]) && !d.read(off, &mut buf), "{off}");
        }
        assert_eq!(f.as_file().metadata().unwrap().len(), 1024);
    }

    #[test]
    fn a_read_only_disk_is_not_written() {
        let f = file(1024);
        let mut d = FileDisk::open(f.path(), true).unwrap();
        assert!(d.is_read_only() && !d.write(0, &[1; 512]) && d.flush());
        assert_eq!(std::fs::read(f.path()).unwrap(), [0; 1024]);
    }

    #[test]
    fn a_file_that_is_written_to_has_one_disk() {
        let f = file(1024);
        let d = FileDisk::open(f.path(), false).unwrap();
        let e = FileDisk::open(f.path(), true).unwrap_err();
        assert!(e.to_string().contains("another rcvm"), "{e}");
        drop(d);
        let _readers = [(); 2].map(|()| FileDisk::open(f.path(), true).unwrap());
        assert!(FileDisk::open(f.path(), false).is_err());
    }

    #[test]
    fn errors_of_the_host_are_failures_of_the_medium() {
        // ENOSPC: /dev/full says that it is empty, so its size is put in.
        let full = File::options().read(true).write(true).open("/dev/full").unwrap();
        let mut d = FileDisk { file: full, len_bytes: 1024, read_only: false, lost: false };
        assert!(!d.write(0, &[1; 512]));
        // EINVAL: it cannot be synchronised.
        assert!(!d.flush());
        // What was lost does not come back with a flush that succeeds.
        d.file = file(1024).into_file();
        assert!(!d.flush());
        // A file that somebody cut short.
        let f = file(1024);
        let mut d = FileDisk::open(f.path(), false).unwrap();
        f.as_file().set_len(600).unwrap();
        assert!(!d.read(512, &mut [0; 512]) && d.read(0, &mut [0; 512]));
    }
}
