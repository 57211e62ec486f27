//! IRQ domains and descriptors as the host reads them from guest memory: what must hold of them at any quiet moment, and what
//! must hold after a teardown.
//!
//! *Modelled*: the invariants of teardown-research §3.3: INV1 no descriptor leads to a domain that is gone; INV2 a domain counts as many
//! mappings as it has, forwards and backwards; INV3 handlers, chips and operations belong to code that is loaded; INV4 and INV5 are
//! the ledger's ([`super::irqs`]), which [`snapshot`] feeds; INV6 no handler, hint or thread came to a descriptor of before;
//! INV7, first half: an MSI descriptor and its descriptor name one another.
//! *Not modelled*: INV7, second half (`pci_dev.msi_enabled` against the capability of the emulated function).
//! *Sources*: Linux 6.1, 6.12 and 7.3: kernel/irq/irqdomain.c (`irq_domain_insert_irq`, `irq_domain_remove`), kernel/irq/irqdesc.c,
//! kernel/irq/manage.c (`__free_irq`), kernel/irq/msi.c.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::fmt::Write;

use guest_agent::IrqDesc;
use guest_agent::IrqDomain;
use guest_agent::IrqSnapshot;
use guest_agent::CHAINED;
use guest_view::Corruption;
use guest_view::Desc;
use guest_view::Domain;
use guest_view::IrqView;

use crate::finding::Class;
use crate::finding::Finding;
use crate::finding::Source;

/// IRQ_DOMAIN_FLAG_NO_MAP: bit 7 in 6.1, bit 6 since; no other flag of arm64 kernels has either. Such a domain keeps no mappings.
const NO_MAP: u32 = 1 << 6 | 1 << 7;

/// The view in the terms of the agent's, for the same books. Names are of live domains only: what a dangling pointer leads to
/// may be anything by now.
pub fn snapshot(view: &IrqView) -> IrqSnapshot {
    let names: HashMap<u64, &str> = view.domains.iter().map(|d| (d.va, d.name.as_str())).collect();
    let mut s = IrqSnapshot::default();
    for d in &view.domains {
        let known = |n: &str| s.domains.contains_key(n);
        let mut name = if d.name.is_empty() { "unnamed".to_owned() } else { d.name.clone() };
        if known(&name) {
            // Buses may share a name; a number tells how many are left.
            let numbered = (2..).map(|n| format!("{} ({n})", d.name)).find(|n| !known(n));
            name = numbered.unwrap_or(name);
        }
        s.domains.insert(name, IrqDomain { size: 0, mapped: d.mapcount.into() });
    }
    let adrift = adrift(view);
    for d in &view.descs {
        let Ok(virq) = u32::try_from(d.virq) else { continue };
        let level = d.levels.first();
        // With the domain went its chip and the device: their names may be anything by now.
        let sound = !adrift.contains(&virq);
        let device = d.msi.as_ref().and_then(|m| m.device.clone()).filter(|_| sound);
        let desc = IrqDesc {
            chip: level.and_then(|l| l.chip_name.clone()).filter(|_| sound).unwrap_or_default(),
            // As the kernel's attribute has it: none without a domain.
            hwirq: level.filter(|l| l.domain != 0).map(|l| l.hwirq),
            actions: actions(d),
            domain: level.and_then(|l| names.get(&l.domain)).map(|n| (*n).to_owned()).unwrap_or_default(),
            owner: device.unwrap_or_default(),
            ..IrqDesc::default()
        };
        s.irqs.insert(virq, desc);
    }
    s
}

/// virqs whose hierarchy leads to a domain that is in no list.
pub fn adrift(view: &IrqView) -> BTreeSet<u32> {
    let live: BTreeSet<u64> = view.domains.iter().map(|d| d.va).collect();
    let gone = |d: &&Desc| d.levels.iter().any(|l| l.domain != 0 && !live.contains(&l.domain));
    view.descs.iter().filter(gone).filter_map(|d| u32::try_from(d.virq).ok()).collect()
}

/// What is wrong with the view by itself (`before`: none), or compared with the one before the first probe. Mappings that are `left` are
/// the ledger's to tell.
pub fn check(before: Option<&IrqView>, now: &IrqView, left: &BTreeSet<u32>) -> Vec<Finding> {
    let mut found: Vec<Finding> = now.corruptions.iter().map(corrupt).collect();
    let of_ledger = |d: &Desc| u32::try_from(d.virq).is_ok_and(|v| left.contains(&v));
    let adrift = adrift(now);
    for d in &now.descs {
        if !of_ledger(d) && u32::try_from(d.virq).is_ok_and(|v| adrift.contains(&v)) {
            found.push(dangling(d, now));
        }
        found.extend(unloaded(d, now));
        // An msi_desc goes with its domain.
        if u32::try_from(d.virq).is_ok_and(|v| !adrift.contains(&v)) {
            found.extend(msi(d));
        }
        if let Some(b) = before.and_then(|b| b.desc(d.virq)).filter(|_| !of_ledger(d)) {
            found.extend(came(b, d));
        }
    }
    // A list that broke off does not have all that is counted.
    if now.corruptions.is_empty() {
        found.extend(books(now));
    }
    found.extend(operations(now));
    found
}

/// INV1, for a descriptor that was there before the first probe.
fn dangling(d: &Desc, view: &IrqView) -> Finding {
    finding(
        Class::IrqDangling,
        format!("S4 irq dangling {}", place(d)),
        format!("virq {} points to an irq_domain that is gone: {}", d.virq, hierarchy(d, view)),
    )
    .fact("virq", d.virq)
}

/// INV2.
fn books(view: &IrqView) -> Vec<Finding> {
    let mut pointing: HashMap<u64, u64> = HashMap::new();
    for level in view.descs.iter().flat_map(|d| &d.levels) {
        *pointing.entry(level.domain).or_default() += 1;
    }
    let wrong = view.domains.iter().filter(|d| d.flags & NO_MAP == 0).filter_map(|d| {
        let (counted, mapped) = (u64::from(d.mapcount), d.revmap.len() as u64);
        let pointing = pointing.get(&d.va).copied().unwrap_or(0);
        (counted != mapped || mapped != pointing).then_some((d, counted, mapped, pointing))
    });
    wrong
        .map(|(d, counted, mapped, pointing)| {
            finding(
                Class::IrqCorrupt,
                format!("S4 domain books {}", d.name),
                format!(
                    "irq_domain {} counts {counted} mappings, its reverse map has {mapped}, and {pointing} descriptors \
                     point to it",
                    d.name
                ),
            )
            .fact("domain", &d.name)
            .fact("mapcount", counted)
            .fact("reverse map", mapped)
            .fact("descriptors", pointing)
        })
        .collect()
}

/// INV3, for one descriptor.
fn unloaded(d: &Desc, view: &IrqView) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut wrong = |what: &str, va: u64| {
        found.push(
            finding(
                Class::IrqDangling,
                format!("S4 unloaded {what} {}", place(d)),
                format!("virq {}: its {what} at {va:#x} belongs to no code that is loaded", d.virq),
            )
            .fact("virq", d.virq)
            .fact(what, format!("{va:#x}")),
        );
    };
    if !is_code(d.handler, view) {
        wrong("flow handler", d.handler);
    }
    for a in d.actions.iter().filter(|a| !is_code(a.handler, view)) {
        wrong("handler", a.handler);
    }
    // Of a domain that is gone nobody expects a chip.
    let live = |va: u64| va == 0 || view.domain(va).is_some();
    for l in d.levels.iter().filter(|l| live(l.domain) && !is_data(l.chip, view)) {
        wrong("chip", l.chip);
    }
    found
}

/// INV3, for domains.
fn operations(view: &IrqView) -> Vec<Finding> {
    let wrong = view.domains.iter().filter(|d| !is_data(d.ops, view));
    wrong
        .map(|d| {
            finding(
                Class::IrqDangling,
                format!("S4 unloaded operations {}", d.name),
                format!(
                    "irq_domain {}: its operations at {:#x} belong to no code that is loaded",
                    d.name, d.ops
                ),
            )
            .fact("domain", &d.name)
        })
        .collect()
}

fn is_code(va: u64, view: &IrqView) -> bool {
    va == 0 || view.code.is_empty() || view.owner_of(va).is_some()
}

/// In the image, in a module, or allocated.
fn is_data(va: u64, view: &IrqView) -> bool {
    is_code(va, view) || va < view.linear_end
}

/// INV6: what a descriptor of before has and had not.
fn came(before: &Desc, now: &Desc) -> Vec<Finding> {
    let mut found = Vec::new();
    let had = |handler, dev_id| before.actions.iter().any(|a| (a.handler, a.dev_id) == (handler, dev_id));
    for a in now.actions.iter().filter(|a| !had(a.handler, a.dev_id)) {
        let name = a.name.as_deref().unwrap_or(CHAINED);
        found.push(
            finding(
                Class::IrqLeak,
                format!("S4 action left {name} {}", place(now)),
                format!("virq {} has kept handler {name}, which it had not before the first probe", now.virq),
            )
            .fact("virq", now.virq)
            .fact("actions", name),
        );
    }
    if now.actions.is_empty() && now.affinity_hint != 0 && before.affinity_hint == 0 {
        found.push(
            finding(
                Class::IrqLeak,
                format!("S4 affinity hint left {}", place(now)),
                format!("virq {} has an affinity hint and no handler", now.virq),
            )
            .fact("virq", now.virq),
        );
    }
    if now.actions.is_empty() && now.threads_active != 0 {
        found.push(
            finding(
                Class::IrqLeak,
                format!("S4 handler thread left {}", place(now)),
                format!(
                    "virq {} counts {} handler threads at work and has no handler",
                    now.virq, now.threads_active
                ),
            )
            .fact("virq", now.virq),
        );
    }
    found
}

/// INV7.
fn msi(d: &Desc) -> Option<Finding> {
    if d.msi_desc == 0 {
        return None;
    }
    let of = |m: &guest_view::Msi| u64::from(m.irq)..u64::from(m.irq) + u64::from(m.nvec_used);
    let says = match &d.msi {
        Some(m) if of(m).contains(&d.virq) => return None,
        Some(m) => format!("names virq {} and {} behind it", m.irq, m.nvec_used.saturating_sub(1)),
        None => "cannot be read".to_owned(),
    };
    Some(
        finding(
            Class::IrqDangling,
            format!("S4 msi_desc dangling {}", place(d)),
            format!("virq {}: its msi_desc at {:#x} {says}", d.virq, d.msi_desc),
        )
        .fact("virq", d.virq),
    )
}

fn corrupt(c: &Corruption) -> Finding {
    let what = match c {
        Corruption::Cycle { container, .. } => format!("cycle in {container}"),
        Corruption::WildPointer { container, .. } => format!("wild pointer in {container}"),
        Corruption::BackLink { .. } => "list without way back".to_owned(),
        Corruption::Malformed { container, .. } => format!("malformed {container}"),
        Corruption::TooLong { container, .. } => format!("endless {container}"),
        Corruption::NoType(name) => format!("no type {name}"),
    };
    finding(Class::IrqCorrupt, format!("S4 memory: {what}"), c.to_string())
}

/// What the agent and the host's own reading say of the same moment and cannot both be true.
pub fn disagreements(told: &IrqSnapshot, read: &IrqSnapshot) -> Vec<Finding> {
    let mut found = Vec::new();
    let virqs: BTreeSet<u32> = told.irqs.keys().chain(read.irqs.keys()).copied().collect();
    for virq in virqs {
        let (agent, memory) = (told.irqs.get(&virq), read.irqs.get(&virq));
        let same = match (agent, memory) {
            (Some(a), Some(m)) => {
                let agree = |a: &str, m: &str| a.is_empty() || a == m;
                // A domain without a name here is one that is gone: sysfs and debugfs follow the pointer all the same.
                let domain = m.domain.is_empty() || agree(&a.domain, &m.domain);
                a.hwirq == m.hwirq && a.actions == m.actions && agree(&a.chip, &m.chip) && domain
            }
            _ => false,
        };
        if !same {
            found.push(disagreement(&format!("virq {virq}"), agent.map(terms), memory.map(terms)));
        }
    }
    // No domains: the kernel has no debugfs of them.
    if !told.domains.is_empty() {
        let names: BTreeSet<&String> = told.domains.keys().chain(read.domains.keys()).collect();
        for name in names {
            let mapped = |s: &IrqSnapshot| s.domains.get(name).map(|d| d.mapped);
            // debugfs has one file a name, and none for domains without.
            let beyond = name.starts_with("unnamed") || name.ends_with(')');
            if mapped(told) != mapped(read) && !beyond {
                let says = |n: u64| format!("{n} mappings");
                found.push(disagreement(
                    &format!("irq_domain {name}"),
                    mapped(told).map(says),
                    mapped(read).map(says),
                ));
            }
        }
    }
    found
}

fn terms(d: &IrqDesc) -> String {
    let hwirq = d.hwirq.map_or("none".to_owned(), |h| format!("{h:#x}"));
    format!("hwirq {hwirq}, chip {}, domain {}, handlers {}", d.chip, d.domain, d.actions)
}

fn disagreement(what: &str, agent: Option<String>, memory: Option<String>) -> Finding {
    let [agent, memory] = [agent, memory].map(|s| s.unwrap_or_else(|| "nothing".to_owned()));
    finding(
        Class::ViewDisagreement,
        format!("S4 views of {what}"),
        format!("{what}: the guest's files say {agent}; its memory says {memory}"),
    )
    .fact("agent", agent)
    .fact("memory", memory)
}

/// One list of what both found: a mapping by its virq, anything else by its rule. Memory knows more of each.
pub fn merge(agent: Vec<Finding>, mut memory: Vec<Finding>) -> Vec<Finding> {
    let mapping =
        |f: &Finding| f.rule.starts_with("S4 irq ").then(|| f.evidence.get("virq").cloned()).flatten();
    for mut f in agent {
        let virq = mapping(&f);
        let same = |m: &&mut Finding| m.rule == f.rule || (virq.is_some() && mapping(m) == virq);
        match memory.iter_mut().find(same) {
            Some(m) => {
                m.also.push(f.source);
                for (name, value) in std::mem::take(&mut f.evidence) {
                    m.evidence.entry(name).or_insert(value);
                }
            }
            None => memory.push(f),
        }
    }
    memory
}

/// Add what the view knows of the descriptors and domains that findings name.
pub fn explain(found: &mut [Finding], view: &IrqView) {
    for f in found {
        let fact = |name: &str| f.evidence.get(name).map(String::as_str);
        let virq = fact("virq").and_then(|v| v.parse().ok());
        if let Some(d) = virq.and_then(|virq: u64| view.desc(virq)) {
            f.evidence.extend(terms_of(d, view));
        } else if let Some(d) = fact("domain").and_then(|n| view.domains.iter().find(|d| d.name == n)) {
            f.evidence.extend(terms_of_domain(d, view));
        }
    }
}

fn terms_of(d: &Desc, view: &IrqView) -> BTreeMap<String, String> {
    let handlers: Vec<String> = d
        .actions
        .iter()
        .map(|a| {
            let code = code(a.handler, a.handler_symbol.as_deref(), view);
            format!("{}: {code}", a.name.as_deref().unwrap_or(CHAINED))
        })
        .collect();
    let mut facts = BTreeMap::from([
        ("hierarchy".to_owned(), hierarchy(d, view)),
        ("flow handler".to_owned(), code(d.handler, d.handler_symbol.as_deref(), view)),
        ("irq_desc".to_owned(), format!("{:#x}", d.va)),
    ]);
    if !handlers.is_empty() {
        facts.insert("handlers".into(), handlers.join(", "));
    }
    facts
}

fn terms_of_domain(d: &Domain, view: &IrqView) -> BTreeMap<String, String> {
    let parent = match d.parent {
        0 => "none".to_owned(),
        va => view.domain(va).map_or(format!("{va:#x} (gone)"), |p| p.name.clone()),
    };
    let mut facts =
        BTreeMap::from([("parent".to_owned(), parent), ("irq_domain".to_owned(), format!("{:#x}", d.va))]);
    facts.extend(d.device.clone().map(|device| ("device".to_owned(), device)));
    facts
}

fn code(va: u64, symbol: Option<&str>, view: &IrqView) -> String {
    match (symbol, view.owner_of(va)) {
        (Some(symbol), _) => symbol.to_owned(),
        (None, Some(module)) => format!("{va:#x} [{module}]"),
        (None, None) => format!("{va:#x}"),
    }
}

/// From the outermost level to the root.
fn hierarchy(d: &Desc, view: &IrqView) -> String {
    let mut out = String::new();
    for l in &d.levels {
        let chip = l.chip_name.as_deref().unwrap_or("no chip");
        let (chip, domain) = match (l.domain, view.domain(l.domain)) {
            (0, _) => (chip, "no domain".to_owned()),
            (_, Some(d)) => (chip, d.name.clone()),
            (va, None) => ("unknown chip", format!("a domain that is gone ({va:#x})")),
        };
        let arrow = if out.is_empty() { "" } else { " → " };
        let _ = write!(out, "{arrow}{chip} hwirq {:#x} in {domain}", l.hwirq);
    }
    out
}

/// What a descriptor is called in rules: chip and hwirq, which stay the same from run to run.
fn place(d: &Desc) -> String {
    let level = d.levels.first();
    let chip = level.and_then(|l| l.chip_name.as_deref()).unwrap_or("none");
    format!("{chip}:{:#x}", level.map_or(0, |l| l.hwirq))
}

fn actions(d: &Desc) -> String {
    let names: Vec<&str> = d.actions.iter().map(|a| a.name.as_deref().unwrap_or(CHAINED)).collect();
    names.join(",")
}

fn finding(class: Class, rule: String, summary: String) -> Finding {
    Finding::new(class, Source::GuestMemory, rule, summary)
}

#[cfg(test)]
#[path = "memory_test.rs"]
mod tests;
