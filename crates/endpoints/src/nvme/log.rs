//! What the controller counts, and the log pages that tell of it (NVMe 1.4 §5.14.1).

use std::collections::VecDeque;

use serde::Deserialize;
use serde::Serialize;

use super::command::Command;
use super::command::Status;
use super::identify::put;
use super::identify::Page;
use super::identify::FIRMWARE;
use super::prp::PAGE_BYTES;

/// Log page identifiers.
pub mod lid {
    /// Error Information.
    pub const ERROR: u8 = 0x01;
    /// SMART / Health Information.
    pub const SMART: u8 = 0x02;
    /// Firmware Slot Information.
    pub const FIRMWARE: u8 = 0x03;
    /// Changed Namespace List.
    pub const CHANGED_NAMESPACES: u8 = 0x04;
}

/// Entries of the error log (ELPE is one less).
pub const ERROR_ENTRIES: usize = 16;
const ERROR_BYTES: usize = 64;
/// Composite temperature, and the one that is too much (WCTEMP, CCTEMP), in kelvin.
pub const TEMPERATURE_K: u16 = 311;
/// Warning composite temperature threshold.
pub const WARNING_K: u16 = 343;
/// Critical composite temperature threshold.
pub const CRITICAL_K: u16 = 353;
/// A data unit of the SMART log: 1000 units of 512 bytes.
const DATA_UNIT_BYTES: u64 = 512_000;
/// "Not of a particular command", "not of a particular parameter".
const NONE: u16 = 0xffff;

/// One error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Error {
    count: u64,
    sq: u16,
    cid: u16,
    status: u16,
    lba: u64,
    nsid: u32,
}

/// Counters and errors. They outlive controller resets.
///
/// DEVIATION: those of a real controller are kept on its medium. Here a reset of the function forgets them, as it does all else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// Newest first.
    errors: VecDeque<Error>,
    error_count: u64,
    reads: u64,
    read_bytes: u64,
    writes: u64,
    written_bytes: u64,
    media_errors: u64,
}

impl Log {
    /// A read of `bytes` succeeded.
    pub fn read(&mut self, bytes: usize) {
        self.reads = self.reads.saturating_add(1);
        self.read_bytes = self.read_bytes.saturating_add(bytes as u64);
    }

    /// A write of `bytes` succeeded.
    pub fn written(&mut self, bytes: usize) {
        self.writes = self.writes.saturating_add(1);
        self.written_bytes = self.written_bytes.saturating_add(bytes as u64);
    }

    /// A command failed.
    pub fn failed(&mut self, sq: u16, c: &Command, io: bool, status: Status) {
        let lba = if io { c.slba() } else { 0 };
        if matches!(status, Status::READ_ERROR | Status::WRITE_FAULT) {
            self.media_errors = self.media_errors.saturating_add(1);
        }
        self.push(Error { count: 0, sq, cid: c.cid, status: status.0 << 1, lba, nsid: c.nsid });
    }

    /// A doorbell was written that does not exist, or with a value that it cannot have.
    pub fn bad_doorbell(&mut self) {
        self.push(Error { count: 0, sq: NONE, cid: NONE, status: 0, lba: 0, nsid: 0 });
    }

    fn push(&mut self, e: Error) {
        self.error_count = self.error_count.saturating_add(1);
        self.errors.truncate(ERROR_ENTRIES - 1);
        self.errors.push_front(Error { count: self.error_count, ..e });
    }

    /// Error Information.
    pub fn errors(&self) -> Page {
        let mut p = [0; PAGE_BYTES];
        for (i, e) in self.errors.iter().take(ERROR_ENTRIES).enumerate() {
            let at = i * ERROR_BYTES;
            put(&mut p, at, &e.count.to_le_bytes());
            put(&mut p, at + 8, &e.sq.to_le_bytes());
            put(&mut p, at + 10, &e.cid.to_le_bytes());
            put(&mut p, at + 12, &e.status.to_le_bytes());
            put(&mut p, at + 14, &NONE.to_le_bytes());
            put(&mut p, at + 16, &e.lba.to_le_bytes());
            put(&mut p, at + 24, &e.nsid.to_le_bytes());
        }
        p
    }

    /// SMART / Health Information.
    pub fn smart(&self, too_hot_or_cold: bool) -> Page {
        let mut p = [0; PAGE_BYTES];
        let units = |bytes: u64| bytes.div_ceil(DATA_UNIT_BYTES).to_le_bytes();
        p[0] = u8::from(too_hot_or_cold) << 1;
        put(&mut p, 1, &TEMPERATURE_K.to_le_bytes());
        // Available spare and its threshold, in percent.
        p[3] = 100;
        p[4] = 10;
        put(&mut p, 32, &units(self.read_bytes));
        put(&mut p, 48, &units(self.written_bytes));
        put(&mut p, 64, &self.reads.to_le_bytes());
        put(&mut p, 80, &self.writes.to_le_bytes());
        put(&mut p, 112, &1u64.to_le_bytes());
        put(&mut p, 160, &self.media_errors.to_le_bytes());
        put(&mut p, 176, &self.error_count.to_le_bytes());
        p
    }

    /// Firmware Slot Information: slot 1 is active.
    pub fn firmware(&self) -> Page {
        let mut p = [0; PAGE_BYTES];
        p[0] = 1;
        put(&mut p, 8, FIRMWARE);
        p
    }

    /// Whether a saved log can be one.
    pub fn is_possible(&self) -> bool {
        self.errors.len() <= ERROR_ENTRIES
    }
}
