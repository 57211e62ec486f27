//! Devices and module references: which exist that did not before the first probe.

use guest_agent::SystemState;

use crate::finding::Class;
use crate::finding::Finding;
use crate::finding::Source;

/// A class whose devices are the kernel's own notes about suppliers and consumers; they come and go with probes elsewhere.
const DEVLINK: &str = "devlink/";

/// Findings for what `after`, taken after a teardown, has and `before` had not.
pub fn check(before: &SystemState, after: &SystemState) -> Vec<Finding> {
    let mut found: Vec<Finding> = Vec::new();
    for (name, path) in &after.class_devices {
        if !before.class_devices.contains_key(name) && !name.starts_with(DEVLINK) {
            found.push(class_device(name, path, after));
        }
    }
    for address in after.pci_devices.iter().filter(|a| !before.pci_devices.contains(a)) {
        found.push(
            leak(
                format!("S4 pci device left {address}"),
                format!("PCI device {address} did not exist before the first probe and is left"),
            )
            .fact("owner", address),
        );
    }
    // A module that came later has no number to compare with.
    for (module, &refs) in &after.modules {
        if let Some(&had) = before.modules.get(module).filter(|had| **had < refs) {
            found.push(
                leak(
                    format!("S4 module refs {module}"),
                    format!("module {module} has {refs} users, {had} before the first probe"),
                )
                .fact("module", module)
                .fact("refs", refs),
            );
        }
    }
    found
}

fn class_device(name: &str, path: &str, after: &SystemState) -> Finding {
    let owner = path.split('/').rfind(|p| is_pci_address(p)).unwrap_or("unknown");
    let gone = owner != "unknown" && !after.pci_devices.iter().any(|a| a == owner);
    let state = if gone { " (gone)" } else { "" };
    leak(
        // Drivers number their devices: which number it is does not make it another leak.
        format!("S4 class device left {}", name.trim_end_matches(|c: char| c.is_ascii_digit())),
        format!("class device {name} left at {path}: its parent device is {owner}{state}"),
    )
    .fact("class device", name)
    .fact("path", path)
    .fact("owner", owner)
    .fact("owner exists", !gone)
}

fn leak(rule: String, summary: String) -> Finding {
    Finding::new(Class::DeviceLeak, Source::GuestKernel, rule, summary)
}

/// `0000:01:00.0`
fn is_pci_address(s: &str) -> bool {
    let b = s.as_bytes();
    b.len() == 12 && b[4] == b':' && b[7] == b':' && b[10] == b'.'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(class_devices: &[(&str, &str)], pci: &[&str], refs: i64) -> SystemState {
        SystemState {
            class_devices: class_devices.iter().map(|&(n, p)| (n.into(), p.into())).collect(),
            pci_devices: pci.iter().map(|&a| a.into()).collect(),
            modules: [("m".to_owned(), refs)].into(),
            ..SystemState::default()
        }
    }

    #[test]
    fn a_class_device_that_outlives_its_parent_names_it() {
        let before = state(&[("tty/tty0", "virtual/tty/tty0")], &[], 0);
        assert_eq!(check(&before, &before), vec![]);
        let mut after = before.clone();
        let path = "platform/x.pcie/pci0000:00/0000:00:00.0/0000:01:00.0/tty/ttyX7";
        after.class_devices.insert("tty/ttyX7".into(), path.into());
        after.class_devices.insert("devlink/a--b".into(), "virtual/devlink/a--b".into());
        let found = check(&before, &after);
        assert_eq!(found.len(), 1, "{found:?}");
        let f = &found[0];
        assert_eq!((f.class, f.rule.as_str()), (Class::DeviceLeak, "S4 class device left tty/ttyX"));
        assert_eq!(
            (f.evidence["owner"].as_str(), f.evidence["owner exists"].as_str()),
            ("0000:01:00.0", "false")
        );
    }

    #[test]
    fn a_pci_device_and_a_reference_to_a_module_are_leaks_and_less_is_none() {
        let (before, after) = (state(&[], &[], 1), state(&[], &["0000:00:00.0"], 2));
        let rules: Vec<String> = check(&before, &after).into_iter().map(|f| f.rule).collect();
        assert_eq!(rules, ["S4 pci device left 0000:00:00.0", "S4 module refs m"]);
        assert_eq!(check(&after, &before), vec![]);
    }
}
