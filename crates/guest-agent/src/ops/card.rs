//! Cards by the slot they are in: the way there is the way of directories in sysfs, whatever bus numbers the guest has given.

use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use guest_agent::CardAt;
use guest_agent::FoundCard;
use guest_agent::OpError;
use guest_agent::Value;

use super::names;
use super::Root;

const POLL: Duration = Duration::from_millis(5);
/// Directories below a function in which its class devices are.
const DEPTH: u32 = 6;

/// Wait until every card is there, its driver bound, and the class device that it is used by.
pub fn wait(root: &Root, cards: &[CardAt], timeout_ms: u64) -> Result<Value, OpError> {
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    loop {
        let found: Vec<Result<FoundCard, String>> = cards.iter().map(|c| look(root, c)).collect();
        let missing: Vec<&String> = found.iter().filter_map(|f| f.as_ref().err()).collect();
        if missing.is_empty() {
            return Ok(Value::Cards(found.into_iter().flatten().collect()));
        }
        if Instant::now() > deadline {
            return Err(OpError {
                what: "wait for cards".into(),
                errno: libc::ETIMEDOUT,
                why: format!("after {timeout_ms} ms: {missing:?}"),
            });
        }
        std::thread::sleep(POLL);
    }
}

/// The card, or what of it is missing.
fn look(root: &Root, card: &CardAt) -> Result<FoundCard, String> {
    let who = || format!("slot {:?} function {}", card.slot, card.function);
    let dir = function_dir(root, card).ok_or_else(|| format!("{}: not enumerated", who()))?;
    let address = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
    let driver = std::fs::read_link(dir.join("driver")).ok();
    let driver = driver.as_deref().and_then(Path::file_name).and_then(|n| n.to_str()).unwrap_or_default();
    if driver != card.driver {
        return Err(format!("{} ({address}): driver {driver:?}, not {:?}", who(), card.driver));
    }
    let mut nodes = Vec::new();
    class_devices(&dir, DEPTH, &mut nodes);
    nodes.sort_unstable();
    if !card.class.is_empty() && !nodes.iter().any(|n| n.0 == card.class) {
        return Err(format!("{} ({address}): no {} device yet", who(), card.class));
    }
    Ok(FoundCard { address, nodes })
}

/// From the root port down: a switch is an upstream port with downstream ports below it, whose device number is the slot.
fn function_dir(root: &Root, card: &CardAt) -> Option<PathBuf> {
    let mut at = std::fs::canonicalize(root.path("sys/bus/pci/devices/0000:00:00.0")).ok()?;
    for slot in &card.slot {
        at = step(&step(&at, 0, 0)?, *slot, 0)?;
    }
    step(&at, 0, card.function)
}

fn step(bridge: &Path, device: u8, function: u8) -> Option<PathBuf> {
    let tail = format!(":{device:02x}.{function}");
    let name = names(bridge).into_iter().find(|n| n.len() == 12 && n.ends_with(&tail))?;
    Some(bridge.join(name))
}

/// Class devices of the function and of the devices of its drivers: (class, name).
fn class_devices(dir: &Path, depth: u32, out: &mut Vec<(String, String)>) {
    for name in names(dir) {
        let below = dir.join(&name);
        let is_dir = below.symlink_metadata().is_ok_and(|m| m.is_dir());
        if !is_dir || depth == 0 || name == "power" {
            continue;
        }
        if let Ok(class) = std::fs::read_link(below.join("subsystem")) {
            let class = class.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
            // What hangs below a bridge belongs to other functions.
            if class == "pci" {
                continue;
            }
            out.push((class, name));
        }
        class_devices(&below, depth - 1, out);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const ROOT_PORT: &str = "sys/devices/pci0000:00/0000:00:00.0";

    /// A root port with a switch; an NVMe controller in its slot 1, which the guest has on bus 5.
    fn tree() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        let nvme = format!("{ROOT_PORT}/0000:01:00.0/0000:02:01.0/0000:05:00.0");
        let disk = format!("{nvme}/nvme/nvme0/nvme0n1");
        std::fs::create_dir_all(at(&disk)).unwrap();
        std::fs::create_dir_all(at(&format!("{ROOT_PORT}/0000:01:00.0/0000:02:00.0"))).unwrap();
        std::fs::create_dir_all(at("sys/bus/pci/devices")).unwrap();
        symlink(at(ROOT_PORT), at("sys/bus/pci/devices/0000:00:00.0")).unwrap();
        symlink("/sys/bus/pci/drivers/nvme", at(&format!("{nvme}/driver"))).unwrap();
        symlink("/sys/class/nvme", at(&format!("{nvme}/nvme/nvme0/subsystem"))).unwrap();
        symlink("/sys/class/block", at(&format!("{disk}/subsystem"))).unwrap();
        let root = Root(dir.path().into());
        (dir, root)
    }

    fn card(slot: &[u8], class: &str) -> CardAt {
        CardAt { slot: slot.to_vec(), function: 0, driver: "nvme".into(), class: class.into() }
    }

    #[test]
    fn a_card_is_found_by_its_slot_with_its_class_devices() {
        let (_dir, root) = tree();
        let Ok(Value::Cards(found)) = wait(&root, &[card(&[1], "block")], 0) else { panic!() };
        assert_eq!(found[0].address, "0000:05:00.0");
        let node = |class: &str, name: &str| (class.to_owned(), name.to_owned());
        assert_eq!(found[0].nodes, [node("block", "nvme0n1"), node("nvme", "nvme0")]);
    }

    #[test]
    fn what_is_missing_is_told() {
        let (_dir, root) = tree();
        for (c, says) in [
            (card(&[0], ""), "not enumerated"),
            (card(&[], ""), "driver \\\"\\\", not"),
            (card(&[1], "net"), "no net device yet"),
            (CardAt { driver: "vfio-pci".into(), ..card(&[1], "") }, "not \\\"vfio-pci\\\""),
            (CardAt { function: 1, ..card(&[1], "") }, "not enumerated"),
        ] {
            let why = wait(&root, &[card(&[1], "block"), c], 0).unwrap_err().why;
            assert!(why.contains(says), "{why}");
        }
    }
}
