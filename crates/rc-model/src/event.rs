//! What the root complex lets an observer know. Events are evidence, never control flow.

use pcie::Bdf;
use pcie::Completion;
use serde::Deserialize;
use serde::Serialize;

use crate::sample::Sample;
use crate::soc::Window;

/// One observation of the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// A sampling point of the oracle was passed (spec §4.5).
    Sampled(Sample),
    /// The link state machine entered a new LTSSM state (spec §3 numbers).
    Ltssm {
        /// LTSSM state number.
        state: u8,
    },
    /// PERST# changed level.
    Perst {
        /// `true`: asserted (line low).
        asserted: bool,
    },
    /// The core clocks started or stopped (all on / not all on).
    Clocks {
        /// Whether every gate is on.
        on: bool,
    },
    /// An access reached a block whose clock is off or that is held in reset; it read all ones.
    GatedAccess {
        /// Which window.
        window: Window,
        /// Offset in the window.
        off: u64,
        /// Whether it was a write.
        write: bool,
        /// What gated it: "clock" or "reset".
        why: String,
    },
    /// A function's memory request upstream was refused.
    DmaRefused {
        /// Requester.
        rid: Bdf,
        /// Address of the request.
        addr: u64,
        /// Whether it was a write.
        write: bool,
        /// How it was refused.
        status: Completion,
        /// Which gate refused: "function-bme", "bridge-bme", "link", "iatu" or "memory".
        gate: String,
    },
    /// A 4-byte write that looks like an MSI missed the controller's address (or the vector is not enabled).
    RogueMsi {
        /// Requester.
        rid: Bdf,
        /// Address written.
        addr: u64,
        /// Data written.
        data: u32,
    },
    /// iMSI-RX latched a vector.
    Msi {
        /// Requester.
        rid: Bdf,
        /// Vector 0–255.
        vector: u8,
    },
    /// The guest did what no correct driver does. What follows is defined (docs/fidelity.md), and never harms the machine.
    BadInput {
        /// "unaligned", "past-the-end", "iatu-inverted", "iatu-wraps", "iatu-overlap", "msi-in-mem-window" (the controller's
        /// address), "bars-overlap" or "msi-elsewhere" (the endpoint's enabled MSI does not go to the controller).
        what: String,
        /// Window of the access that did it.
        window: Window,
        /// Offset in it.
        off: u64,
        /// Whether it was a write.
        write: bool,
    },
    /// A downstream request found no enabled outbound window, no link or no function.
    Unrouted {
        /// Which window the CPU used.
        window: Window,
        /// Offset in it.
        off: u64,
        /// Whether it was a write.
        write: bool,
        /// Why it ended: "no-window", "link-down", "bridge", "no-function", "timeout".
        why: String,
    },
}

/// Something that the model wants done outside, after its lock is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// A message for the machine's ITS.
    ItsMsi {
        /// Requester: the ITS' device ID.
        rid: Bdf,
        /// Address written.
        addr: u64,
        /// Data written: the event ID.
        data: u32,
    },
}
