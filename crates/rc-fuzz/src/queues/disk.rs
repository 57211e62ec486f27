//! A disk whose contents can be copied for the twin.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;

use endpoints::Disk;
use endpoints::MemDisk;

/// One that the function and its trial both hold.
#[derive(Clone)]
pub(super) struct Shared(Arc<Mutex<MemDisk>>);

impl Shared {
    pub(super) fn new(disk: MemDisk) -> Shared {
        Shared(Arc::new(Mutex::new(disk)))
    }

    pub(super) fn disk(&self) -> MutexGuard<'_, MemDisk> {
        self.0.lock().expect("one thread")
    }
}

impl Disk for Shared {
    fn len_bytes(&self) -> u64 {
        self.disk().len_bytes()
    }

    fn read(&mut self, off: u64, buf: &mut [u8]) -> bool {
        self.disk().read(off, buf)
    }

    fn write(&mut self, off: u64, data: &[u8]) -> bool {
        self.disk().write(off, data)
    }

    fn flush(&mut self) -> bool {
        true
    }
}
