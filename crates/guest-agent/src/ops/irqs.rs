//! IRQ descriptors, domains and handler counts, as sysfs, debugfs and procfs tell them.

use std::collections::BTreeMap;
use std::path::Path;

use guest_agent::IrqDesc;
use guest_agent::IrqDomain;
use guest_agent::IrqSnapshot;
use guest_agent::OpError;
use guest_agent::Value;
use guest_agent::CHAINED;

use super::failed;
use super::invalid;
use super::names;
use super::text;
use super::Root;

/// Everything at this moment. What `look` forbids is not read.
pub fn snapshot(root: &Root, look: &Look<'_>) -> IrqSnapshot {
    let owners = owners(root);
    let dir = root.path("sys/kernel/irq");
    let irqs = names(&dir)
        .into_iter()
        .filter_map(|n| n.parse::<u32>().ok())
        .map(|virq| {
            let mut d = describe(&dir.join(virq.to_string()));
            d.owner = owners.get(&virq).cloned().unwrap_or_default();
            if look.into(virq) {
                d.chip = text(&dir.join(format!("{virq}/chip_name")));
                d.domain = domain_of(&root.text(&format!("sys/kernel/debug/irq/irqs/{virq}")));
            }
            (virq, d)
        })
        .collect();
    IrqSnapshot { irqs, domains: domains(&root.path("sys/kernel/debug/irq/domains")) }
}

/// [`Op::Affinity`](guest_agent::Op::Affinity): an interrupt that nobody requested, or whose chip has no such thing, refuses.
pub fn move_all(root: &Root, cpus: &str) -> Result<Value, OpError> {
    let dir = root.path("proc/irq");
    let mut last = None;
    for virq in names(&dir).into_iter().filter(|n| n.parse::<u32>().is_ok()) {
        match std::fs::write(dir.join(&virq).join("smp_affinity_list"), cpus) {
            Ok(()) => last = Some(Ok(Value::Done)),
            Err(e) => {
                last = last
                    .or(Some(Err(failed(format!("write {cpus} to /proc/irq/{virq}/smp_affinity_list"), &e))))
            }
        }
    }
    last.unwrap_or_else(|| Err(invalid("move interrupts", "there are none below /proc/irq")))
}

/// Which descriptors may be looked into: files that show a chip or a domain follow pointers that a removed driver may have
/// left behind (kernel/irq/irqdesc.c: `chip_name_show`; kernel/irq/debugfs.c).
#[derive(Clone, Copy, Debug)]
pub struct Look<'a> {
    /// Any at all.
    pub details: bool,
    /// virqs to leave alone.
    pub shun: &'a [u32],
}

impl Look<'_> {
    fn into(&self, virq: u32) -> bool {
        self.details && !self.shun.contains(&virq)
    }
}

fn describe(dir: &Path) -> IrqDesc {
    let attr = |name: &str| text(&dir.join(name));
    IrqDesc {
        hwirq: attr("hwirq").parse().ok(),
        kind: attr("type"),
        // The action of a chained handler has no name, and the kernel prints that as it is (kernel/irq/chip.c:
        // `chained_action`; kernel/irq/irqdesc.c: `actions_show`).
        actions: attr("actions").replace("(null)", CHAINED),
        ..IrqDesc::default()
    }
}

/// The outermost domain in a file of /sys/kernel/debug/irq/irqs (kernel/irq/debugfs.c).
fn domain_of(text: &str) -> String {
    text.lines()
        .find_map(|l| l.trim().strip_prefix("domain:"))
        .map(|d| d.trim().to_owned())
        .unwrap_or_default()
}

fn domains(dir: &Path) -> BTreeMap<String, IrqDomain> {
    // `default` shows one of the others once more.
    let all = names(dir).into_iter().filter(|n| n != "default");
    all.map(|name| {
        let d = parse_domain(&text(&dir.join(&name)));
        (name, d)
    })
    .collect()
}

/// A file of /sys/kernel/debug/irq/domains (irq_domain_debug_show_one in kernel/irq/irqdomain.c). A parent domain
/// follows indented; the first value of each name is the domain's own.
fn parse_domain(text: &str) -> IrqDomain {
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.trim().strip_prefix(name));
        line.and_then(|v| v.trim().parse().ok()).unwrap_or(0)
    };
    IrqDomain { size: field("size:"), mapped: field("mapped:") }
}

/// Owning PCI device by virq: its MSI vectors, and its INTx.
fn owners(root: &Root) -> BTreeMap<u32, String> {
    let devices = root.path("sys/bus/pci/devices");
    let mut owners = BTreeMap::new();
    for address in names(&devices) {
        let dev = devices.join(&address);
        for virq in vectors(&dev) {
            owners.insert(virq, address.clone());
        }
        if let Some(virq) = text(&dev.join("irq")).parse().ok().filter(|v| *v != 0) {
            owners
                .entry(virq)
                .and_modify(|o: &mut String| share(o, &address))
                .or_insert_with(|| address.clone());
        }
    }
    owners
}

/// INTx lines are shared: all their users are owners, in a fixed order.
fn share(owners: &mut String, one_more: &str) {
    let mut all: Vec<&str> = owners.split(' ').chain([one_more]).collect();
    all.sort_unstable();
    all.dedup();
    *owners = all.join(" ");
}

/// virqs of a PCI device's MSI or MSI-X vectors, ascending.
pub fn vectors(dev: &Path) -> Vec<u32> {
    let mut v: Vec<u32> = names(&dev.join("msi_irqs")).iter().filter_map(|n| n.parse().ok()).collect();
    v.sort_unstable();
    v
}

/// How often the handler of `virq` ran, summed over CPUs. Not from /proc/interrupts: that prints every chip.
pub fn count(root: &Root, virq: u32) -> u64 {
    let counts = root.text(&format!("sys/kernel/irq/{virq}/per_cpu_count"));
    counts.split(',').filter_map(|n| n.trim().parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_summed_over_cpus() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("sys/kernel/irq/47")).unwrap();
        std::fs::write(dir.path().join("sys/kernel/irq/47/per_cpu_count"), "5033,4620\n").unwrap();
        let root = Root(dir.path().into());
        assert_eq!((count(&root, 47), count(&root, 48)), (9653, 0));
    }

    #[test]
    fn a_domain_file_gives_its_own_numbers_not_its_parents() {
        let text = "name:   :pcie@1c00000-3\n size:   0\n mapped: 32\n flags:  0x00000013\n parent: :pcie@1c00000-2\n    name:   :pcie@1c00000-2\n     size:   256\n     mapped: 33\n";
        assert_eq!(parse_domain(text), IrqDomain { size: 0, mapped: 32 });
    }

    #[test]
    fn the_outermost_domain_of_an_irq_is_the_first() {
        let text = "handler:  handle_edge_irq\ndevice:   0000:01:00.0\nstatus:   0x00000000\ndomain:  :pcie@1c00000-3\n hwirq:   0x80000\n chip:    PCI-MSI\n parent:\n    domain:  :pcie@1c00000-2\n";
        assert_eq!(domain_of(text), ":pcie@1c00000-3");
    }

    #[test]
    fn a_snapshot_joins_descriptors_owners_and_domains() {
        let dir = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let p = dir.path().join(path);
            std::fs::create_dir_all(p.parent().unwrap()).unwrap();
            std::fs::write(p, text).unwrap();
        };
        for (name, value) in [
            ("chip_name", "PCI-MSI\n"),
            ("hwirq", "524288\n"),
            ("type", "edge\n"),
            ("actions", "pci-endpoint-test.0\n"),
        ] {
            put(&format!("sys/kernel/irq/47/{name}"), value);
        }
        for name in ["chip_name", "hwirq", "type", "actions"] {
            put(&format!("sys/kernel/irq/48/{name}"), "\n");
        }
        put("sys/bus/pci/devices/0000:01:00.0/msi_irqs/47", "msi\n");
        put("sys/bus/pci/devices/0000:01:00.0/irq", "48\n");
        put("sys/bus/pci/devices/0000:00:00.0/irq", "48\n");
        put("sys/kernel/debug/irq/irqs/47", "domain:  dom\n");
        put("sys/kernel/debug/irq/domains/dom", "name:   dom\n size:   0\n mapped: 1\n");
        put("sys/kernel/debug/irq/domains/default", "name:   gic\n");
        let root = Root(dir.path().into());
        let s = snapshot(&root, &Look { details: true, shun: &[] });
        let d = &s.irqs[&47];
        assert_eq!(
            (d.chip.as_str(), d.hwirq, d.domain.as_str(), d.owner.as_str()),
            ("PCI-MSI", Some(524_288), "dom", "0000:01:00.0")
        );
        assert_eq!((s.irqs[&48].hwirq, s.irqs[&48].owner.as_str()), (None, "0000:00:00.0 0000:01:00.0"));
        assert_eq!(
            s.domains.into_iter().collect::<Vec<_>>(),
            [("dom".to_owned(), IrqDomain { size: 0, mapped: 1 })]
        );
        for look in [Look { details: false, shun: &[] }, Look { details: true, shun: &[47] }] {
            let d = &snapshot(&root, &look).irqs[&47];
            assert_eq!((d.chip.as_str(), d.hwirq, d.domain.as_str()), ("", Some(524_288), ""), "{look:?}");
        }
    }

    #[test]
    fn every_interrupt_that_can_is_moved() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root(dir.path().into());
        assert_eq!(move_all(&root, "1").unwrap_err().errno, libc::EINVAL, "nothing to move");
        for virq in ["7", "9"] {
            std::fs::create_dir_all(dir.path().join("proc/irq").join(virq)).unwrap();
        }
        std::fs::create_dir_all(dir.path().join("proc/irq/9/smp_affinity_list")).unwrap();
        assert_eq!(move_all(&root, "0-1"), Ok(Value::Done));
        let told = std::fs::read_to_string(dir.path().join("proc/irq/7/smp_affinity_list")).unwrap();
        assert_eq!(told, "0-1");
        std::fs::remove_dir_all(dir.path().join("proc/irq/7")).unwrap();
        assert!(move_all(&root, "1").unwrap_err().what.contains("/proc/irq/9/"), "none took it");
    }
}
