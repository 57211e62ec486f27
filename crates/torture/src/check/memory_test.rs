//! The invariants over views made by hand.

use guest_view::irq::Action;
use guest_view::Code;
use guest_view::Level;
use guest_view::Msi;

use super::*;

const GIC: u64 = 0xffff_0000_0000_1000;
const MSI: u64 = 0xffff_0000_0000_2000;
const IMAGE: u64 = 0xffff_8000_8000_0000;
const MODULE: u64 = 0xffff_8000_7890_0000;

fn domain(va: u64, name: &str, revmap: &[(u64, u64)]) -> Domain {
    Domain {
        va,
        name: name.into(),
        flags: 0,
        mapcount: revmap.len() as u32,
        bus_token: 0,
        parent: 0,
        ops: IMAGE + 0x100,
        device: None,
        revmap: revmap.to_vec(),
    }
}

fn level(va: u64, hwirq: u64, domain: u64, chip_name: &str) -> Level {
    Level { va, hwirq, domain, chip: IMAGE + 0x200, chip_name: Some(chip_name.into()) }
}

fn action(name: &str, handler: u64) -> Action {
    Action { name: Some(name.into()), handler, handler_symbol: None, dev_id: 7, thread: 0 }
}

fn desc(virq: u64, levels: Vec<Level>) -> Desc {
    Desc {
        virq,
        va: 0xffff_0000_0001_0000 + 0x200 * virq,
        levels,
        handler: IMAGE + 0x300,
        handler_symbol: Some("handle_edge_irq".into()),
        actions: Vec::new(),
        status: 0,
        depth: 0,
        threads_active: 0,
        affinity_hint: 0,
        msi_desc: 0,
        msi: None,
        owner: 0,
    }
}

/// virq 1: the timer's; virq 20: an MSI of 0000:01:00.0 over the GIC.
fn sound() -> IrqView {
    let mut timer = desc(1, vec![level(0x10, 27, GIC, "GICv3")]);
    timer.actions.push(action("arch_timer", IMAGE + 0x400));
    let mut msi = desc(20, vec![level(0x20, 0x8_0000, MSI, "PCI-MSI"), level(0x30, 72, GIC, "GICv3")]);
    msi.actions.push(action("nvme0q0", MODULE + 8));
    msi.msi_desc = 0xffff_0000_0002_0000;
    msi.msi = Some(Msi { irq: 20, nvec_used: 1, device: Some("0000:01:00.0".into()) });
    let mut top = domain(MSI, "pci-msi", &[(0x8_0000, 0x20)]);
    top.parent = GIC;
    IrqView {
        domains: vec![top, domain(GIC, "gic", &[(27, 0x10), (72, 0x30)])],
        descs: vec![timer, msi],
        code: vec![
            Code { name: "vmlinux".into(), start: IMAGE, end: IMAGE + 0x10_0000 },
            Code { name: "nvme".into(), start: MODULE, end: MODULE + 0x1000 },
        ],
        linear_end: 0xffff_8000_0000_0000,
        ..IrqView::default()
    }
}

fn msi_of(view: &mut IrqView) -> &mut Desc {
    view.descs.iter_mut().find(|d| d.virq == 20).unwrap()
}

#[test]
fn a_sound_view_breaks_no_invariant_and_has_the_agents_terms() {
    let view = sound();
    assert_eq!(check(None, &view, &BTreeSet::new()), vec![]);
    assert_eq!(check(Some(&view), &view, &BTreeSet::new()), vec![]);
    let s = snapshot(&view);
    let d = &s.irqs[&20];
    assert_eq!(
        (d.chip.as_str(), d.hwirq, d.domain.as_str(), d.owner.as_str(), d.actions.as_str()),
        ("PCI-MSI", Some(0x8_0000), "pci-msi", "0000:01:00.0", "nvme0q0")
    );
    assert_eq!(s.domains["gic"].mapped, 2);
    assert_eq!(disagreements(&s, &s), vec![]);
}

#[test]
fn each_broken_invariant_is_a_finding_of_its_class() {
    type Break = fn(&mut IrqView);
    let cases: &[(&str, Break, Class, &[&str])] = &[
        (
            "INV1: the domain is in no list",
            |v| v.domains.retain(|d| d.va != MSI),
            Class::IrqDangling,
            &["S4 irq dangling PCI-MSI:0x80000"],
        ),
        (
            "INV2: one count too many",
            |v| v.domains[1].mapcount = 3,
            Class::IrqCorrupt,
            &["S4 domain books gic"],
        ),
        (
            "INV2: a slot that no descriptor has",
            |v| {
                v.domains[1].mapcount = 3;
                v.domains[1].revmap.push((99, 0x99));
            },
            Class::IrqCorrupt,
            &["S4 domain books gic"],
        ),
        (
            "INV3: the module of a handler is gone",
            |v| v.code.truncate(1),
            Class::IrqDangling,
            &["S4 unloaded handler PCI-MSI:0x80000"],
        ),
        (
            "INV3: a flow handler in freed memory",
            |v| msi_of(v).handler = 0xffff_0000_0000_9000,
            Class::IrqDangling,
            &["S4 unloaded flow handler PCI-MSI:0x80000"],
        ),
        (
            "INV3: chip and operations of a module that is gone",
            |v| {
                msi_of(v).levels[0].chip = MODULE + 0x10_0000;
                v.domains[0].ops = MODULE + 0x10_0000;
            },
            Class::IrqDangling,
            &["S4 unloaded chip PCI-MSI:0x80000", "S4 unloaded operations pci-msi"],
        ),
        (
            "INV7: an msi_desc of other virqs",
            |v| msi_of(v).msi = Some(Msi { irq: 21, nvec_used: 4, device: None }),
            Class::IrqDangling,
            &["S4 msi_desc dangling PCI-MSI:0x80000"],
        ),
        (
            "INV7: an msi_desc that cannot be read",
            |v| msi_of(v).msi = None,
            Class::IrqDangling,
            &["S4 msi_desc dangling PCI-MSI:0x80000"],
        ),
        (
            "a list that leads nowhere",
            |v| {
                let reason = "not mapped".to_owned();
                v.corruptions.push(Corruption::WildPointer { container: "list", node: 1, reason });
            },
            Class::IrqCorrupt,
            &["S4 memory: wild pointer in list"],
        ),
    ];
    for (what, wreck, class, rules) in cases {
        let mut view = sound();
        wreck(&mut view);
        let found = check(None, &view, &BTreeSet::new());
        assert_eq!(found.iter().map(|f| f.rule.as_str()).collect::<Vec<_>>(), *rules, "{what}");
        assert!(found.iter().all(|f| f.class == *class && f.source == Source::GuestMemory), "{what}");
    }
}

#[test]
fn a_chip_that_is_allocated_and_a_block_of_msis_are_sound() {
    let mut view = sound();
    let d = msi_of(&mut view);
    d.levels[0].chip = 0xffff_0000_0000_9000;
    d.msi = Some(Msi { irq: 17, nvec_used: 4, device: None });
    assert_eq!(check(None, &view, &BTreeSet::new()), vec![]);
}

#[test]
fn a_broken_list_says_nothing_about_counts() {
    let mut view = sound();
    view.domains[1].mapcount = 9;
    view.corruptions.push(Corruption::TooLong { container: "list", budget: 1 });
    let rules: Vec<_> = check(None, &view, &BTreeSet::new()).into_iter().map(|f| f.rule).collect();
    assert_eq!(rules, ["S4 memory: endless list"]);
}

#[test]
fn what_comes_to_a_descriptor_of_before_is_a_leak_unless_the_ledger_tells_it() {
    let (before, mut after) = (sound(), sound());
    msi_of(&mut after).actions.push(action("late", IMAGE + 0x500));
    let found = check(Some(&before), &after, &BTreeSet::new());
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(
        (found[0].class, found[0].rule.as_str()),
        (Class::IrqLeak, "S4 action left late PCI-MSI:0x80000")
    );
    assert_eq!(check(Some(&before), &after, &BTreeSet::from([20])), vec![]);

    let mut idle = sound();
    let d = msi_of(&mut idle);
    d.actions.clear();
    (d.affinity_hint, d.threads_active) = (1, 2);
    let rules: Vec<_> = check(Some(&before), &idle, &BTreeSet::new()).into_iter().map(|f| f.rule).collect();
    assert_eq!(rules, ["S4 affinity hint left PCI-MSI:0x80000", "S4 handler thread left PCI-MSI:0x80000"]);
}

#[test]
fn a_pointer_to_a_domain_that_is_gone_is_not_followed_for_its_name() {
    let mut view = sound();
    view.domains.retain(|d| d.va != MSI);
    assert_eq!(adrift(&view), BTreeSet::from([20]));
    let d = &snapshot(&view).irqs[&20];
    assert_eq!((d.domain.as_str(), d.hwirq), ("", Some(0x8_0000)), "the kernel's own files show this hwirq");
    assert_eq!((d.chip.as_str(), d.owner.as_str()), ("", ""), "nor are its chip and its device looked up");
    // Once it is cleared the kernel shows no hwirq.
    msi_of(&mut view).levels[0].domain = 0;
    assert_eq!(snapshot(&view).irqs[&20].hwirq, None);
}

#[test]
fn views_disagree_about_descriptors_names_and_counts_but_not_about_what_was_not_asked() {
    let read = snapshot(&sound());
    let mut told = read.clone();
    // After a teardown the agent looks at no chip and no domain.
    for d in told.irqs.values_mut() {
        (d.chip, d.domain) = (String::new(), String::new());
    }
    told.domains.clear();
    assert_eq!(disagreements(&told, &read), vec![]);
    told.irqs.remove(&20);
    told.domains = read.domains.clone();
    told.domains.insert("gone".into(), IrqDomain::default());
    let found = disagreements(&told, &read);
    let says: Vec<_> = found.iter().map(|f| f.summary.as_str()).collect();
    assert_eq!(
        says,
        [
            "virq 20: the guest's files say nothing; its memory says hwirq 0x80000, chip PCI-MSI, domain pci-msi, handlers nvme0q0",
            "irq_domain gone: the guest's files say 0 mappings; its memory says nothing"
        ]
    );
    assert!(found.iter().all(|f| f.class == Class::ViewDisagreement));
}

#[test]
fn domains_of_one_name_are_counted_apart() {
    let mut view = sound();
    view.domains.push(domain(0xffff_0000_0000_3000, "gic", &[]));
    let s = snapshot(&view);
    assert_eq!(s.domains.keys().collect::<Vec<_>>(), ["gic", "gic (2)", "pci-msi"]);
}

#[test]
fn one_mapping_that_both_saw_is_one_finding_in_the_kernels_terms() {
    let of = |source, rule: &str| {
        Finding::new(Class::IrqLeak, source, rule, "virq 20 left").fact("virq", 20).fact("owner", "x")
    };
    let told = vec![
        of(Source::GuestKernel, "S4 irq leak unknown:0x80000"),
        Finding::new(Class::IrqLeak, Source::GuestKernel, "S4 domain leak x", "x"),
    ];
    let mut found = merge(told, vec![of(Source::GuestMemory, "S4 irq leak pci-msi:0x80000")]);
    explain(&mut found, &sound());
    assert_eq!(found.len(), 2);
    assert_eq!(
        (found[0].source, found[0].also.as_slice()),
        (Source::GuestMemory, &[Source::GuestKernel][..])
    );
    assert_eq!(found[0].evidence["hierarchy"], "PCI-MSI hwirq 0x80000 in pci-msi → GICv3 hwirq 0x48 in gic");
    assert_eq!(found[0].evidence["handlers"], format!("nvme0q0: {:#x} [nvme]", MODULE + 8));
    assert_eq!(found[0].evidence["flow handler"], "handle_edge_irq");
    assert_eq!(found[1].source, Source::GuestKernel);
}
