//! Stalls: an access of the guest that is held until something has happened, so that a race has one outcome.

use serde::Deserialize;
use serde::Serialize;

/// Hold an access to a register.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StallRule {
    /// Which accesses.
    pub access: Access,
    /// vCPU; `None`: any.
    pub vcpu: Option<u8>,
    /// When the access goes on.
    pub until: Until,
    /// It goes on after this at the latest, ms.
    pub timeout_ms: u64,
}

/// An access to a register of the root complex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Name as in docs/registers.md.
    pub register: String,
    /// Write or read.
    pub write: bool,
    /// Which of them, from 1, counted from the moment at which the stall begins to watch.
    pub nth: u32,
}

/// What ends a stall.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Until {
    /// Another access is done.
    Access(Access),
    /// Another access has come, whether it is held or not.
    Reached(Access),
    /// Time since the access was held, drawn by seed from this range, ms.
    DelayMs(u64, u64),
}

impl std::fmt::Display for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {}", if self.write { "write" } else { "read" }, self.register)
    }
}

/// What became of a stall.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stalled {
    /// The access never came.
    NeverHeld,
    /// What it was held for has happened, after so many ms.
    Released(u64),
    /// It has not happened in time.
    TimedOut,
}

impl std::fmt::Display for Stalled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stalled::NeverHeld => f.write_str("never came"),
            Stalled::Released(ms) => write!(f, "held for {ms} ms, until what was waited for"),
            Stalled::TimedOut => f.write_str("held until its time was over"),
        }
    }
}
