//! What a storage function keeps its blocks in. It is handed in: the model knows no files.

/// Bytes that survive the function's resets. All ranges are checked by the implementation.
pub trait Disk: Send {
    /// Size in bytes; it does not change.
    fn len_bytes(&self) -> u64;
    /// Fill `buf` from byte `off`. `false`: beyond the end, or the medium failed.
    fn read(&mut self, off: u64, buf: &mut [u8]) -> bool;
    /// Store `data` at byte `off`. `false`: beyond the end, or the medium failed.
    fn write(&mut self, off: u64, data: &[u8]) -> bool;
    /// What was written before survives a loss of power from now on.
    fn flush(&mut self) -> bool;
    /// Whether every write fails: the function tells its driver so.
    fn is_read_only(&self) -> bool {
        false
    }
}

/// A disk in memory.
#[derive(Clone, Debug)]
pub struct MemDisk(Vec<u8>);

impl MemDisk {
    /// `len` zeroed bytes.
    pub fn new(len: usize) -> MemDisk {
        MemDisk(vec![0; len])
    }

    fn range(&self, off: u64, len: usize) -> Option<std::ops::Range<usize>> {
        let start = usize::try_from(off).ok()?;
        let end = start.checked_add(len)?;
        (end <= self.0.len()).then_some(start..end)
    }
}

impl Disk for MemDisk {
    fn len_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read(&mut self, off: u64, buf: &mut [u8]) -> bool {
        let Some(r) = self.range(off, buf.len()) else { return false };
        buf.copy_from_slice(&self.0[r]);
        true
    }

    fn write(&mut self, off: u64, data: &[u8]) -> bool {
        let Some(r) = self.range(off, data.len()) else { return false };
        self.0[r].copy_from_slice(data);
        true
    }

    fn flush(&mut self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_read_or_written_beyond_the_end() {
        let mut d = MemDisk::new(1024);
        let mut buf = [0; 512];
        assert!(d.write(512, &[7; 512]) && d.read(512, &mut buf) && buf == [7; 512]);
        for off in [513, 1024, u64::MAX] {
            assert!(!d.write(off, &[1; 512]) && !d.read(off, &mut buf), "{off}");
        }
    }
}
