//! Features: what Get Features and Set Features see (NVMe 1.4 §5.21.1). Nothing is saveable; a controller reset brings defaults.

use serde::Deserialize;
use serde::Serialize;

use super::command::Command;
use super::command::Reply;
use super::command::Status;
use super::command::NSID;
use super::command::NSID_ALL;

/// Feature identifiers.
pub mod fid {
    /// Arbitration.
    pub const ARBITRATION: u8 = 0x01;
    /// Power Management.
    pub const POWER: u8 = 0x02;
    /// Temperature Threshold.
    pub const TEMPERATURE: u8 = 0x04;
    /// Error Recovery.
    pub const ERROR_RECOVERY: u8 = 0x05;
    /// Volatile Write Cache.
    pub const WRITE_CACHE: u8 = 0x06;
    /// Number of Queues.
    pub const QUEUES: u8 = 0x07;
    /// Interrupt Coalescing.
    pub const COALESCING: u8 = 0x08;
    /// Interrupt Vector Configuration.
    pub const VECTOR: u8 = 0x09;
    /// Write Atomicity Normal.
    pub const ATOMICITY: u8 = 0x0a;
    /// Asynchronous Event Configuration.
    pub const ASYNC_EVENT: u8 = 0x0b;
}

const SAVE: u32 = 1 << 31;
/// Interrupt Vector Configuration: coalescing disable.
const COALESCING_DISABLE: u32 = 1 << 16;
/// Temperature Threshold: under temperature; the composite temperature is the only sensor.
const UNDER: u32 = 1 << 20;
/// What Temperature Threshold selects: sensor and type.
const TEMPERATURE_SELECT: u32 = 0x003f_0000;
/// Kelvin: no threshold that a temperature reaches.
const NO_LIMIT: u16 = 0xffff;

/// What the host has set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    arbitration: u32,
    /// Kelvin.
    over: u16,
    /// Kelvin.
    under: u16,
    error_recovery: u16,
    /// Whether a write may stay in the volatile cache until the next flush.
    pub write_cache: bool,
    coalescing: u16,
    atomicity: bool,
    async_event: u32,
}

impl Default for Features {
    fn default() -> Features {
        Features {
            arbitration: 0,
            over: NO_LIMIT,
            under: 0,
            error_recovery: 0,
            write_cache: true,
            coalescing: 0,
            atomicity: false,
            async_event: 0,
        }
    }
}

impl Features {
    /// Whether `kelvin` is beyond a threshold.
    pub fn is_out_of_range(&self, kelvin: u16) -> bool {
        kelvin >= self.over || kelvin <= self.under
    }

    /// Get Features. SEL needs ONCS bit 4 and is ignored without it.
    pub fn get(&self, c: &Command, io_queues: u16) -> Reply {
        Ok(match c.cdw10 as u8 {
            fid::ARBITRATION => self.arbitration,
            fid::POWER => 0,
            fid::TEMPERATURE => match c.cdw11 & TEMPERATURE_SELECT {
                0 => self.over.into(),
                UNDER => self.under.into(),
                _ => return Err(Status::INVALID_FIELD),
            },
            fid::ERROR_RECOVERY => self.error_recovery.into(),
            fid::WRITE_CACHE => self.write_cache.into(),
            fid::QUEUES => queues(io_queues),
            fid::COALESCING => self.coalescing.into(),
            fid::VECTOR => vector(c, io_queues)? | COALESCING_DISABLE,
            fid::ATOMICITY => self.atomicity.into(),
            fid::ASYNC_EVENT => self.async_event,
            _ => return Err(Status::INVALID_FIELD),
        })
    }

    /// Set Features.
    pub fn set(&mut self, c: &Command, io_queues: u16) -> Reply {
        let (id, v) = (c.cdw10 as u8, c.cdw11);
        if c.cdw10 & SAVE != 0 {
            return Err(Status::NOT_SAVEABLE);
        }
        if !matches!(c.nsid, 0 | NSID_ALL) && (id, c.nsid) != (fid::ERROR_RECOVERY, NSID) {
            return Err(Status::NOT_PER_NAMESPACE);
        }
        match id {
            fid::ARBITRATION => self.arbitration = v & 0xffff_ff07,
            // Power state 0 is the only one (NPSS).
            fid::POWER if v & 0x1f == 0 => {}
            fid::TEMPERATURE => match v & TEMPERATURE_SELECT {
                0 => self.over = v as u16,
                UNDER => self.under = v as u16,
                _ => return Err(Status::INVALID_FIELD),
            },
            // Bit 16 asks for an error on deallocated blocks, which NSFEAT does not offer.
            fid::ERROR_RECOVERY if v & 1 << 16 == 0 => self.error_recovery = v as u16,
            fid::WRITE_CACHE => self.write_cache = v & 1 != 0,
            // 65535 is no number of queues (§5.21.1.7). The controller has what it has, whatever is asked for.
            fid::QUEUES if v as u16 != 0xffff && v >> 16 != 0xffff => return Ok(queues(io_queues)),
            // Thresholds are recommendations (§5.21.1.8). This controller never waits.
            fid::COALESCING => self.coalescing = v as u16,
            fid::VECTOR => {
                vector(c, io_queues)?;
                if v & COALESCING_DISABLE == 0 {
                    return Err(Status::NOT_CHANGEABLE);
                }
            }
            fid::ATOMICITY => self.atomicity = v & 1 != 0,
            fid::ASYNC_EVENT => self.async_event = v,
            _ => return Err(Status::INVALID_FIELD),
        }
        Ok(0)
    }
}

/// Number of Queues: both numbers are 0's based.
fn queues(io_queues: u16) -> u32 {
    let n = u32::from(io_queues) - 1;
    n | n << 16
}

/// A vector that exists: one for each queue.
fn vector(c: &Command, io_queues: u16) -> Reply {
    let v = c.cdw11 & 0xffff;
    if v > u32::from(io_queues) {
        return Err(Status::INVALID_FIELD);
    }
    Ok(v)
}
