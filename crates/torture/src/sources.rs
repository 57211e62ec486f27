//! The books of IRQ mappings by who is asked: the guest's files through its agent, and the guest's memory.

use std::collections::BTreeSet;

use guest_agent::IrqSnapshot;
use guest_view::IrqView;
use serde::Deserialize;
use serde::Serialize;

use crate::check::irqs::Ledger;
use crate::check::irqs::Lines;
use crate::check::irqs::Mapping;
use crate::check::memory;
use crate::finding::Finding;
use crate::finding::Source;

/// Both views of one moment, as far as they are taken.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// What the agent tells.
    pub told: Option<IrqSnapshot>,
    /// What is in memory.
    pub view: Option<IrqView>,
}

/// What a memory view has, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// IRQ domains.
    pub domains: u64,
    /// Mappings in their reverse maps.
    pub mappings: u64,
    /// IRQ descriptors.
    pub descs: u64,
}

/// Books from each source that is asked.
pub(crate) struct Sources {
    agent: Option<Ledger>,
    memory: Option<(Ledger, IrqView)>,
}

impl Seen {
    /// The one that there is in the agent's terms, the agent's first.
    pub fn snapshot(&self) -> IrqSnapshot {
        self.told.clone().or_else(|| self.view.as_ref().map(memory::snapshot)).unwrap_or_default()
    }

    /// What cannot be true of both views.
    pub fn disagreements(&self) -> Vec<Finding> {
        match (&self.told, &self.view) {
            (Some(told), Some(view)) => memory::disagreements(told, &memory::snapshot(view)),
            _ => Vec::new(),
        }
    }

    /// The memory view in numbers.
    pub fn counts(&self) -> Option<Counts> {
        self.view.as_ref().map(|v| Counts {
            domains: v.domains.len() as u64,
            mappings: v.domains.iter().map(|d| d.revmap.len() as u64).sum(),
            descs: v.descs.len() as u64,
        })
    }

    /// IRQ descriptors.
    pub fn descs(&self) -> u64 {
        match (&self.told, &self.view) {
            (Some(told), _) => told.irqs.len() as u64,
            (None, view) => view.as_ref().map_or(0, |v| v.descs.len() as u64),
        }
    }

    /// The memory view with the owners that the agent knows: those of INTx stand in sysfs. Names of devices in memory are believed
    /// where `owners` says so: what an MSI descriptor that nobody freed points to may be anything.
    fn read(&self, view: &IrqView, owners: impl Fn(u32) -> bool) -> IrqSnapshot {
        let mut read = memory::snapshot(view);
        for (virq, d) in &mut read.irqs {
            if !owners(*virq) {
                d.owner.clear();
            }
            let told = self.told.as_ref().and_then(|t| t.irqs.get(virq));
            if let Some(t) = told.filter(|t| !t.owner.is_empty()) {
                d.owner.clone_from(&t.owner);
            }
        }
        read
    }
}

impl Sources {
    /// Start from the state before the first probe.
    pub fn new(seen: Seen, lines: &Lines) -> Sources {
        let read = seen.view.as_ref().map(|v| seen.read(v, |_| true));
        let ledger = |s, source| Ledger::new(s, lines.clone(), source);
        Sources {
            agent: seen.told.map(|s| ledger(s, Source::GuestKernel)),
            memory: read.zip(seen.view).map(|(s, view)| (ledger(s, Source::GuestMemory), view)),
        }
    }

    /// The books that numbers come from.
    fn first(&self) -> Option<&Ledger> {
        self.agent.as_ref().or(self.memory.as_ref().map(|(ledger, _)| ledger))
    }

    fn ledgers(&mut self) -> impl Iterator<Item = &mut Ledger> {
        self.agent.iter_mut().chain(self.memory.iter_mut().map(|(ledger, _)| ledger))
    }

    /// Mappings created and released since the start.
    pub fn created_released(&self) -> (u64, u64) {
        self.first().map_or((0, 0), |l| (l.created, l.released))
    }

    /// Mappings leaked so far and still there.
    pub fn leaked(&self) -> Vec<Mapping> {
        self.first().map(|l| l.leaked().cloned().collect()).unwrap_or_default()
    }

    /// virqs that nobody should look into through the kernel's own files.
    pub fn shunned(&self) -> Vec<u32> {
        self.first().map(Ledger::shunned).unwrap_or_default()
    }

    /// Views from now on are of this cycle.
    pub fn begin_cycle(&mut self, cycle: u32) {
        self.ledgers().for_each(|l| l.begin_cycle(cycle));
    }

    /// Take in views made while the driver is bound.
    pub fn observe(&mut self, seen: &Seen) {
        if let (Some(ledger), Some(told)) = (&mut self.agent, &seen.told) {
            ledger.observe(told);
        }
        if let (Some((ledger, _)), Some(view)) = (&mut self.memory, &seen.view) {
            let left = ledger.shunned();
            ledger.observe(&seen.read(view, |virq| !left.contains(&virq)));
        }
    }

    /// Take in the views after a teardown and say what is wrong with them: what both show is one finding.
    pub fn after_teardown(&mut self, seen: &Seen) -> Vec<Finding> {
        let mut told = Vec::new();
        if let (Some(ledger), Some(s)) = (&mut self.agent, &seen.told) {
            told = ledger.after_teardown(s, &BTreeSet::new());
        }
        let mut found = Vec::new();
        if let (Some((ledger, before)), Some(view)) = (&mut self.memory, &seen.view) {
            found = ledger.after_teardown(&seen.read(view, |_| false), &memory::adrift(view));
            let left = ledger.shunned().into_iter().collect();
            found.extend(memory::check(Some(before), view, &left));
        }
        let mut found = memory::merge(told, found);
        if let Some(view) = &seen.view {
            memory::explain(&mut found, view);
        }
        found
    }
}
