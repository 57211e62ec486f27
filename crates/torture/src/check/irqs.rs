//! IRQ mappings and domains: which exist that did not before the first probe.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use guest_agent::IrqDesc;
use guest_agent::IrqSnapshot;
use serde::Deserialize;
use serde::Serialize;

use crate::finding::Class;
use crate::finding::Finding;
use crate::finding::Source;

/// One IRQ mapping, as reports name it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Mapping {
    /// Linux IRQ number.
    pub virq: u32,
    /// Hardware number in the domain, if the descriptor still has one.
    pub hwirq: Option<u64>,
    /// Outermost domain's name, as last seen while the mapping was in use.
    pub domain: String,
    /// Outermost chip's name.
    pub chip: String,
    /// Owning PCI device, or empty.
    pub owner: String,
    /// Interrupt line of the host bridge, e.g. `1c00000.pcie msi0`, or empty.
    pub line: String,
    /// Names of the actions, or empty.
    pub actions: String,
    /// Cycle in which it was first seen.
    #[serde(default)]
    pub created_in: u32,
}

impl Mapping {
    fn new(virq: u32, d: &IrqDesc, lines: &Lines) -> Mapping {
        let line = d.hwirq.filter(|_| d.chip.starts_with("GIC")).and_then(|h| lines.get(&h));
        Mapping {
            virq,
            hwirq: d.hwirq,
            domain: d.domain.clone(),
            chip: d.chip.clone(),
            owner: d.owner.clone(),
            line: line.cloned().unwrap_or_default(),
            actions: d.actions.clone(),
            created_in: 0,
        }
    }
}

/// What the interrupt lines of the host bridge are called, by INTID.
pub type Lines = BTreeMap<u64, String>;

/// Follows mappings through the snapshots of one run.
///
/// A mapping is *created* when a snapshot shows it and the one before did not, *released* when a later snapshot no
/// longer shows it, *leaked* when the snapshot after a teardown shows it and the baseline did not.
#[derive(Clone, Debug)]
pub struct Ledger {
    baseline: IrqSnapshot,
    lines: Lines,
    source: Source,
    live: BTreeMap<u32, Mapping>,
    leaked: BTreeMap<u32, Mapping>,
    /// Leaked mappings that were told to dangle.
    dangling: BTreeSet<u32>,
    /// Cycle that snapshots belong to.
    cycle: u32,
    /// Mappings created since the start.
    pub created: u64,
    /// Mappings released since the start.
    pub released: u64,
}

impl Ledger {
    /// Start from the state before the first probe, as `source` shows it.
    pub fn new(baseline: IrqSnapshot, lines: Lines, source: Source) -> Ledger {
        Ledger {
            baseline,
            lines,
            source,
            live: BTreeMap::new(),
            leaked: BTreeMap::new(),
            dangling: BTreeSet::new(),
            cycle: 0,
            created: 0,
            released: 0,
        }
    }

    /// Snapshots from now on are of this cycle.
    pub fn begin_cycle(&mut self, cycle: u32) {
        self.cycle = cycle;
    }

    /// Mappings leaked so far and still there.
    pub fn leaked(&self) -> impl Iterator<Item = &Mapping> {
        self.leaked.values()
    }

    /// Take in a snapshot made while the driver is bound.
    pub fn observe(&mut self, s: &IrqSnapshot) {
        let now: BTreeMap<u32, Mapping> = s
            .irqs
            .iter()
            .filter(|(virq, d)| self.baseline.irqs.get(virq).is_none_or(|b| !same(b, d)))
            .map(|(&virq, d)| (virq, Mapping::new(virq, d, &self.lines)))
            .collect();
        for (virq, old) in &self.live {
            match now.get(virq) {
                Some(m) if same_mapping(old, m) => {}
                _ => self.released += 1,
            }
        }
        for (virq, m) in &now {
            if !self.live.get(virq).is_some_and(|old| same_mapping(old, m)) {
                self.created += 1;
            }
        }
        self.live = now
            .into_iter()
            .map(|(virq, mut m)| {
                m.created_in = self.cycle;
                // A mapping seen without details (after teardown) keeps the domain it was last seen in.
                if let Some(old) = self.live.get(&virq).filter(|old| same_mapping(old, &m)) {
                    fill(&mut m, old);
                }
                (virq, m)
            })
            .collect();
    }

    /// virqs that the kernel did not get back: what they point to may be gone, so nobody should look at it.
    pub fn shunned(&self) -> Vec<u32> {
        self.leaked.keys().copied().collect()
    }

    /// Take in the snapshot after a teardown and say what is wrong with it. `adrift`: virqs that are known to lead to a domain that
    /// is gone, whatever names say.
    pub fn after_teardown(&mut self, s: &IrqSnapshot, adrift: &BTreeSet<u32>) -> Vec<Finding> {
        self.observe(s);
        let mut found = Vec::new();
        let mut dangling = BTreeSet::new();
        for (virq, m) in &self.live {
            let gone = adrift.contains(virq)
                || (!m.domain.is_empty() && !s.domains.is_empty() && !s.domains.contains_key(&m.domain));
            let told = self.leaked.get(virq).is_some_and(|l| same_mapping(l, m));
            // A mapping that leaked with its domain may lose it in a later cycle.
            if !told || (gone && !self.dangling.contains(virq)) {
                found.push(self.leak(m, gone));
            }
            if gone {
                dangling.insert(*virq);
            }
        }
        self.dangling = dangling;
        self.leaked.clone_from(&self.live);
        for (virq, d) in &self.baseline.irqs {
            if !s.irqs.contains_key(virq) {
                found.push(
                    Finding::new(
                        Class::IrqLost,
                        self.source,
                        format!("S4 irq {virq} lost"),
                        format!("IRQ {virq} ({}) existed before the first probe and is gone", d.chip),
                    )
                    .fact("virq", virq)
                    .fact("chip", &d.chip),
                );
            }
        }
        found.extend(check_domains(&self.baseline, s, self.source));
        found
    }

    /// A mapping that is left, its domain too or not.
    fn leak(&self, m: &Mapping, gone: bool) -> Finding {
        let hwirq = m.hwirq.map_or("none".to_owned(), |h| format!("{h:#x}"));
        let name = |s: &str| if s.is_empty() { "unknown".to_owned() } else { s.to_owned() };
        let owner = [&m.owner, &m.line].into_iter().find(|s| !s.is_empty()).map_or("unknown", String::as_str);
        let held =
            if m.actions.is_empty() { "no handler".to_owned() } else { format!("held by {}", m.actions) };
        let (class, what, state) =
            if gone { (Class::IrqDangling, "dangling", " (gone)") } else { (Class::IrqLeak, "leak", "") };
        Finding::new(
            class,
            self.source,
            format!("S4 irq {what} {}:{hwirq}", name(&m.domain)),
            format!(
                "virq {} left: hwirq {hwirq} of domain {}{state}, chip {}, owner {}, {held}",
                m.virq,
                name(&m.domain),
                name(&m.chip),
                owner
            ),
        )
        .fact("virq", m.virq)
        .fact("hwirq", hwirq)
        .fact("domain", name(&m.domain))
        .fact("chip", name(&m.chip))
        .fact("owner", owner)
        .fact("actions", &m.actions)
        .fact("domain exists", !gone)
        .fact("created in cycle", m.created_in)
        .fact("disposed by", "nobody")
    }
}

/// A snapshot without details has no chips.
fn same(a: &IrqDesc, b: &IrqDesc) -> bool {
    agree(&a.chip, &b.chip) && a.hwirq == b.hwirq
}

/// Whether two names are the same, as far as both are known.
fn agree(a: &str, b: &str) -> bool {
    a.is_empty() || b.is_empty() || a == b
}

fn same_mapping(a: &Mapping, b: &Mapping) -> bool {
    // A leaked mapping may have lost its chip and hwirq (free_irq and domain removal clear them); the number is what
    // the kernel did not get back.
    (a.hwirq == b.hwirq || a.hwirq.is_none() || b.hwirq.is_none())
        && agree(&a.chip, &b.chip)
        && agree(&a.owner, &b.owner)
}

fn fill(m: &mut Mapping, old: &Mapping) {
    for (new, old) in [
        (&mut m.domain, &old.domain),
        (&mut m.owner, &old.owner),
        (&mut m.chip, &old.chip),
        (&mut m.line, &old.line),
    ] {
        if new.is_empty() {
            new.clone_from(old);
        }
    }
    m.hwirq = m.hwirq.or(old.hwirq);
    m.created_in = old.created_in;
}

fn check_domains(before: &IrqSnapshot, after: &IrqSnapshot, source: Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (name, d) in &after.domains {
        match before.domains.get(name) {
            None => found.push(
                Finding::new(
                    Class::IrqLeak,
                    source,
                    format!("S4 domain leak {name}"),
                    format!("irq_domain {name} did not exist before the first probe and is left, with {} mappings", d.mapped),
                )
                .fact("domain", name)
                .fact("mapped", d.mapped),
            ),
            Some(b) if b.mapped != d.mapped => {
                let mut f = Finding::new(
                    if d.mapped > b.mapped { Class::IrqLeak } else { Class::IrqLost },
                    source,
                    format!("S4 domain count {name}"),
                    format!("irq_domain {name} counts {} mappings, {} before the first probe", d.mapped, b.mapped),
                )
                .fact("domain", name)
                .fact("mapped", d.mapped)
                .fact("mapped before", b.mapped);
                f.magnitude = d.mapped.abs_diff(b.mapped);
                found.push(f);
            }
            Some(_) => {}
        }
    }
    for name in before.domains.keys().filter(|n| !after.domains.contains_key(*n)) {
        found.push(
            Finding::new(
                Class::IrqLost,
                source,
                format!("S4 domain lost {name}"),
                format!("irq_domain {name} existed before the first probe and is gone"),
            )
            .fact("domain", name),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use guest_agent::IrqDomain;

    use super::*;

    fn desc(chip: &str, hwirq: u64) -> IrqDesc {
        IrqDesc { chip: chip.into(), hwirq: Some(hwirq), ..IrqDesc::default() }
    }

    fn snap(irqs: &[(u32, IrqDesc)]) -> IrqSnapshot {
        IrqSnapshot { irqs: irqs.iter().cloned().collect(), domains: BTreeMap::new() }
    }

    #[test]
    fn a_mapping_that_goes_is_released_and_one_that_stays_is_leaked() {
        let base = snap(&[(1, desc("GICv3", 27))]);
        let mut l = Ledger::new(base.clone(), Lines::new(), Source::GuestKernel);
        l.observe(&snap(&[
            (1, desc("GICv3", 27)),
            (20, desc("PCI-MSI", 0x80000)),
            (21, desc("PCI-MSI", 0x80001)),
        ]));
        let found = l.after_teardown(
            &snap(&[(1, desc("GICv3", 27)), (21, desc("PCI-MSI", 0x80001))]),
            &BTreeSet::new(),
        );
        assert_eq!((l.created, l.released, l.leaked().count()), (2, 1, 1));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].class, Class::IrqLeak);
        assert_eq!(found[0].evidence["virq"], "21");
    }

    #[test]
    fn a_line_of_the_host_bridge_is_named_as_the_owner() {
        let mut l =
            Ledger::new(snap(&[]), Lines::from([(64, "1c00000.pcie msi0".into())]), Source::GuestKernel);
        let found =
            l.after_teardown(&snap(&[(15, desc("GICv3", 64)), (16, desc("PCI-MSI", 64))]), &BTreeSet::new());
        assert_eq!(found[0].evidence["owner"], "1c00000.pcie msi0");
        assert_eq!(found[1].evidence["owner"], "unknown", "64 is an INTID in the GIC's domain only");
    }

    #[test]
    fn a_mapping_that_outlives_its_domain_dangles_and_is_shunned() {
        let domain = |names: &[&str]| {
            names
                .iter()
                .map(|n| ((*n).to_owned(), IrqDomain { size: 4, mapped: 1 }))
                .collect::<BTreeMap<_, _>>()
        };
        let mut base = snap(&[]);
        base.domains = domain(&["gic"]);
        let mut l = Ledger::new(base.clone(), Lines::new(), Source::GuestKernel);
        let live = IrqDesc { domain: "intx".into(), owner: "0000:01:00.0".into(), ..desc("INTx", 0) };
        let mut bound = snap(&[(30, live)]);
        bound.domains = domain(&["gic", "intx"]);
        l.observe(&bound);
        assert!(l.shunned().is_empty());
        let mut after = snap(&[(30, IrqDesc { hwirq: Some(0), ..IrqDesc::default() })]);
        after.domains = base.domains;
        let found = l.after_teardown(&after, &BTreeSet::new());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].class, Class::IrqDangling);
        assert_eq!(
            found[0].summary,
            "virq 30 left: hwirq 0x0 of domain intx (gone), chip INTx, owner 0000:01:00.0, no handler"
        );
        assert_eq!(l.shunned(), [30]);
    }

    #[test]
    fn a_snapshot_without_chips_shows_the_baseline_as_it_was() {
        let base = snap(&[(1, desc("GICv3", 27))]);
        let mut l = Ledger::new(base, Lines::new(), Source::GuestKernel);
        let after = snap(&[(1, IrqDesc { hwirq: Some(27), ..IrqDesc::default() })]);
        assert_eq!(l.after_teardown(&after, &BTreeSet::new()), vec![]);
        assert_eq!(l.created, 0);
    }

    #[test]
    fn a_leak_is_told_once_and_a_second_one_again() {
        let base = snap(&[]);
        let mut l = Ledger::new(base, Lines::new(), Source::GuestKernel);
        assert_eq!(l.after_teardown(&snap(&[(9, desc("PCI-MSI", 1))]), &BTreeSet::new()).len(), 1);
        assert_eq!(l.after_teardown(&snap(&[(9, desc("PCI-MSI", 1))]), &BTreeSet::new()).len(), 0);
        assert_eq!(
            l.after_teardown(&snap(&[(9, desc("PCI-MSI", 1)), (10, desc("PCI-MSI", 2))]), &BTreeSet::new())
                .len(),
            1
        );
        assert_eq!(l.leaked().count(), 2);
    }

    #[test]
    fn a_leaked_descriptor_without_chip_is_still_the_same_mapping() {
        let mut l = Ledger::new(snap(&[]), Lines::new(), Source::GuestKernel);
        let mut live = desc("PCI-MSI", 7);
        live.domain = "msi-dom".into();
        l.observe(&snap(&[(30, live)]));
        let found = l.after_teardown(&snap(&[(30, IrqDesc::default())]), &BTreeSet::new());
        assert_eq!((l.created, l.released), (1, 0));
        assert_eq!(found[0].evidence["domain"], "msi-dom");
        assert_eq!(found[0].evidence["hwirq"], "0x7");
    }

    #[test]
    fn the_same_virq_with_another_hwirq_is_a_new_mapping() {
        let mut l = Ledger::new(snap(&[]), Lines::new(), Source::GuestKernel);
        l.observe(&snap(&[(5, desc("PCI-MSI", 1))]));
        l.observe(&snap(&[(5, desc("GICv3", 72))]));
        assert_eq!((l.created, l.released), (2, 1));
    }

    #[test]
    fn domains_are_compared_by_name_and_count() {
        let mut base = snap(&[]);
        base.domains.insert("gic".into(), IrqDomain { size: 0, mapped: 5 });
        base.domains.insert("gone".into(), IrqDomain { size: 0, mapped: 0 });
        let mut after = snap(&[]);
        after.domains.insert("gic".into(), IrqDomain { size: 0, mapped: 7 });
        after.domains.insert("pcie-msi".into(), IrqDomain { size: 256, mapped: 32 });
        let rules: Vec<_> = Ledger::new(base, Lines::new(), Source::GuestKernel)
            .after_teardown(&after, &BTreeSet::new())
            .into_iter()
            .map(|f| f.rule)
            .collect();
        assert_eq!(rules, ["S4 domain count gic", "S4 domain leak pcie-msi", "S4 domain lost gone"]);
    }
}
