//! Who we are, what is loaded, and ending it all.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use guest_agent::Hello;
use guest_agent::OpError;
use guest_agent::SystemState;
use guest_agent::Value;
use guest_agent::MAX_LINE_BYTES;
use guest_agent::PROTO_VERSION;

use super::failed;
use super::names;
use super::Root;

/// Most of the boot log that is sent: well within a message, with room for escapes.
const MAX_BOOT_LOG_BYTES: usize = MAX_LINE_BYTES / 4;

/// The agent's first words.
pub fn hello(root: &Root) -> Hello {
    let u = rustix::system::uname();
    let modules = names(&root.path("lib/modules/rcvm"));
    let mut modules: Vec<String> =
        modules.iter().filter_map(|m| m.strip_suffix(".ko").map(str::to_owned)).collect();
    modules.sort_unstable();
    Hello {
        proto: PROTO_VERSION,
        release: u.release().to_string_lossy().into_owned(),
        version: u.version().to_string_lossy().into_owned(),
        modules,
        builtin: super::modules::builtin(root),
        image: root.text("rcvm-image"),
        irq_debugfs: root.path("sys/kernel/debug/irq/domains").is_dir(),
        boot_log: boot_log(root).unwrap_or_default(),
    }
}

/// What /dev/kmsg holds now. One read is one record: `priority,sequence,microseconds,flags;text` and lines that begin
/// with a blank (Documentation/ABI/testing/dev-kmsg).
fn boot_log(root: &Root) -> io::Result<String> {
    let mut kmsg =
        OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(root.path("dev/kmsg"))?;
    let mut log = String::new();
    let mut record = [0; 8192];
    while log.len() < MAX_BOOT_LOG_BYTES {
        match kmsg.read(&mut record) {
            Ok(0) => break,
            Ok(n) => log.push_str(&kmsg_line(&String::from_utf8_lossy(&record[..n]))),
            // Records were overwritten while we read: go on with the oldest that is left.
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => {}
            Err(_) => break,
        }
    }
    Ok(log)
}

/// A record as the console would show it.
fn kmsg_line(record: &str) -> String {
    let (head, text) = record.split_once(';').unwrap_or(("", record));
    let text = text.lines().next().unwrap_or("");
    let us: u64 = head.split(',').nth(2).and_then(|t| t.parse().ok()).unwrap_or(0);
    format!("[{:5}.{:06}] {text}\n", us / 1_000_000, us % 1_000_000)
}

/// Modules, PCI and class devices, taint, bound controllers.
pub fn state(root: &Root) -> SystemState {
    let modules = root
        .text("proc/modules")
        .lines()
        .filter_map(|l| {
            let mut f = l.split_whitespace();
            let name = f.next()?.to_owned();
            Some((name, f.nth(1)?.parse().ok()?))
        })
        .collect();
    let mut pci_devices = names(&root.path("sys/bus/pci/devices"));
    pci_devices.sort_unstable();
    let mut bound = names(&root.path("sys/bus/platform/drivers/qcom-pcie"));
    bound.retain(|n| n.contains('.'));
    SystemState {
        modules,
        pci_devices,
        taint: root.text("proc/sys/kernel/tainted").parse().unwrap_or(0),
        bound,
        class_devices: class_devices(root),
    }
}

/// Class devices by `class/name`. An entry of a class is a link that outlives the directory it points to, if the device's parent
/// went first (drivers/base/core.c: device_add_class_symlinks()): the link is read, not followed.
fn class_devices(root: &Root) -> BTreeMap<String, String> {
    let dir = root.path("sys/class");
    let mut all = BTreeMap::new();
    for class in names(&dir) {
        for name in names(&dir.join(&class)) {
            // Attributes of a class are files.
            let Ok(link) = std::fs::read_link(dir.join(&class).join(&name)) else { continue };
            let path = link.to_string_lossy();
            let below = path.split_once("devices/").map_or(&*path, |(_, below)| below);
            all.insert(format!("{class}/{name}"), below.to_owned());
        }
    }
    all
}

/// Panic on purpose.
pub fn crash(root: &Root) -> Result<Value, OpError> {
    let path = root.path("proc/sysrq-trigger");
    std::fs::write(&path, "c").map_err(|e| failed(format!("write {}", path.display()), &e))?;
    Ok(Value::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kmsg_record_reads_like_a_console_line() {
        let record = "6,339,5140900,-;NET: Registered PF_INET6\n SUBSYSTEM=net\n";
        assert_eq!(kmsg_line(record), "[    5.140900] NET: Registered PF_INET6\n");
        assert_eq!(kmsg_line("no record"), "[    0.000000] no record\n");
    }

    #[test]
    fn state_reads_modules_devices_and_bound_controllers() {
        let dir = tempfile::tempdir().unwrap();
        for d in [
            "proc/sys/kernel",
            "sys/bus/pci/devices/0000:00:00.0",
            "sys/bus/platform/drivers/qcom-pcie/1c00000.pcie",
        ] {
            std::fs::create_dir_all(dir.path().join(d)).unwrap();
        }
        std::fs::write(dir.path().join("sys/bus/platform/drivers/qcom-pcie/bind"), "").unwrap();
        std::fs::write(dir.path().join("proc/modules"), "pcie_qcom 28672 0 - Live 0x0000000000000000\n")
            .unwrap();
        std::fs::write(dir.path().join("proc/sys/kernel/tainted"), "512\n").unwrap();
        let s = state(&Root(dir.path().into()));
        assert_eq!(s.modules["pcie_qcom"], 0);
        assert_eq!(
            (s.taint, s.bound, s.pci_devices),
            (512, vec!["1c00000.pcie".to_owned()], vec!["0000:00:00.0".to_owned()])
        );
    }

    #[test]
    fn a_class_device_whose_directory_is_gone_is_still_told() {
        let dir = tempfile::tempdir().unwrap();
        let class = dir.path().join("sys/class/tty");
        std::fs::create_dir_all(&class).unwrap();
        std::fs::write(class.join("version"), "1").unwrap();
        std::os::unix::fs::symlink("../../devices/pci0000:00/0000:00:00.0/tty/ttyX0", class.join("ttyX0"))
            .unwrap();
        let got = state(&Root(dir.path().into())).class_devices;
        let want = ("tty/ttyX0".to_owned(), "pci0000:00/0000:00:00.0/tty/ttyX0".to_owned());
        assert_eq!(got, BTreeMap::from([want]));
    }
}
