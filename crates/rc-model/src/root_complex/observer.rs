//! What the oracle counts and which events it may still emit.
//!
//! A guest decides how often most events happen, so each kind has a budget per life. Counting never stops.

use block::Cx;
use block::StateError;
use serde::Deserialize;
use serde::Serialize;

use crate::event::Event;

/// Kinds of events that share a budget.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Gated,
    Unrouted,
    Dma,
    Rogue,
    Msi,
    Edge,
    Sample,
    BadInput,
}

const KINDS: usize = 8;

impl Kind {
    /// Events per life: enough to see a pattern, little enough to keep whatever a guest does.
    const fn budget(self) -> u32 {
        match self {
            Kind::Gated | Kind::Unrouted | Kind::Dma | Kind::Rogue | Kind::BadInput => 64,
            Kind::Sample => 256,
            Kind::Msi | Kind::Edge => 4096,
        }
    }
}

/// Totals since power-on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub gated: u64,
    pub msi: u64,
    pub rogue_msi: u64,
    pub dma_refused: u64,
    pub unrouted: u64,
    pub bad_input: u64,
    pub after_s3: u64,
}

/// The oracle's own state: it never influences what the guest sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observer {
    pub life: u32,
    /// S4 was taken: the next access begins a new life.
    pub s5_armed: bool,
    /// The clocks stopped: accesses to the core are late ones.
    pub after_s3: bool,
    pub counts: Counts,
    /// The last address other than 0 that iMSI-RX matched.
    pub last_msi_addr: Option<u64>,
    emitted: [u32; KINDS],
}

impl Observer {
    /// Emit an event if its kind's budget has room; the event is built only then.
    pub fn emit(&mut self, cx: &mut Cx<'_, Event>, kind: Kind, event: impl FnOnce() -> Event) {
        let emitted = &mut self.emitted[kind as usize];
        if *emitted < kind.budget() {
            *emitted += 1;
            cx.events.push(event());
        }
    }

    /// Take a saved state. Nothing changes if it does not fit.
    pub fn restore(&mut self, saved: &Observer) -> Result<(), StateError> {
        let Counts { gated, msi, rogue_msi, dma_refused, unrouted, bad_input, after_s3 } = saved.counts;
        let counts = [gated, msi, rogue_msi, dma_refused, unrouted, bad_input, after_s3];
        if counts.iter().any(|n| *n > crate::MAX_COUNT) {
            return Err(StateError::Impossible { what: "observer counts" });
        }
        self.clone_from(saved);
        Ok(())
    }

    /// A new probe begins.
    pub fn begin_life(&mut self) {
        self.life = self.life.wrapping_add(1);
        self.s5_armed = false;
        self.emitted = [0; KINDS];
    }

    /// Power applied: totals start again; lives go on, they pair samples with cycles of the harness.
    pub fn power_on(&mut self) {
        *self = Observer { life: self.life, ..Observer::default() };
    }
}
