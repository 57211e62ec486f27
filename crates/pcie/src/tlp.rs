//! Addresses of functions and the outcomes of requests.

use serde::Deserialize;
use serde::Serialize;

/// Bus, device, function: the 16-bit requester ID of a function.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Bdf(pub u16);

impl Bdf {
    /// `bus` 0–255, `dev` 0–31, `func` 0–7; out-of-range bits are dropped.
    pub const fn new(bus: u8, dev: u8, func: u8) -> Bdf {
        Bdf((bus as u16) << 8 | ((dev as u16) & 0x1f) << 3 | (func as u16) & 7)
    }

    /// Bus number.
    pub const fn bus(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Device number, 0–31.
    pub const fn dev(self) -> u8 {
        (self.0 >> 3) as u8 & 0x1f
    }

    /// Function number, 0–7.
    pub const fn func(self) -> u8 {
        self.0 as u8 & 7
    }
}

impl std::fmt::Display for Bdf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:02x}:{:02x}.{}", self.bus(), self.dev(), self.func())
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Completion {
    /// Successful completion (for a posted write: accepted).
    Success,
    /// Unsupported request: nobody claims the address, or bus mastering is off on the way.
    UnsupportedRequest,
    /// Completer abort.
    CompleterAbort,
    /// Request retry status, to a configuration request: come back later (PCIe §2.3.1).
    Retry,
    /// No completion came: link down, or the function is in reset.
    Timeout,
}

/// An error message, from a function to the root (PCIe §2.2.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ErrorMessage {
    /// ERR_COR.
    Correctable,
    /// ERR_NONFATAL.
    NonFatal,
    /// ERR_FATAL.
    Fatal,
}
