//! What sysfs shows of PCI functions, configuration space included.

use std::fmt::Write;
use std::path::Path;

use guest_agent::OpError;
use guest_agent::PciFunction;
use guest_agent::Value;
use guest_agent::MAX_LINE_BYTES;

use super::failed;
use super::irqs;
use super::names;
use super::text;
use super::Root;

const DEVICES: &str = "sys/bus/pci/devices";

/// Every function, or the one at `address`.
pub fn functions(root: &Root, address: &str) -> Result<Value, OpError> {
    let dir = root.path(DEVICES);
    let mut addresses = names(&dir);
    addresses.sort_unstable();
    if !address.is_empty() {
        addresses.retain(|a| a == address);
        if addresses.is_empty() {
            return Err(OpError {
                what: format!("read /{DEVICES}/{address}"),
                errno: libc::ENODEV,
                why: "there is no such function".into(),
            });
        }
    }
    let all: Vec<_> = addresses.into_iter().map(|a| function(&dir.join(&a), a)).collect::<Result<_, _>>()?;
    // Half a message is left for the rest of each function.
    let text: usize = all.iter().map(|f| f.config.len()).sum();
    if text > MAX_LINE_BYTES / 2 {
        return Err(OpError {
            what: format!("tell {} functions", all.len()),
            errno: libc::E2BIG,
            why: "too much for a message: ask for one at a time".into(),
        });
    }
    Ok(Value::Pci(all))
}

fn function(dir: &Path, address: String) -> Result<PciFunction, OpError> {
    let path = dir.join("config");
    let config = std::fs::read(&path).map_err(|e| failed(format!("read {}", path.display()), &e))?;
    let driver = std::fs::read_link(dir.join("driver")).ok();
    let driver = driver.and_then(|d| Some(d.file_name()?.to_str()?.to_owned())).unwrap_or_default();
    Ok(PciFunction {
        vendor: number(dir, "vendor") as u16,
        device: number(dir, "device") as u16,
        subsystem_vendor: number(dir, "subsystem_vendor") as u16,
        subsystem_device: number(dir, "subsystem_device") as u16,
        class: number(dir, "class"),
        revision: number(dir, "revision") as u8,
        driver,
        irq: text(&dir.join("irq")).parse().unwrap_or(0),
        msi_irqs: irqs::vectors(dir)
            .into_iter()
            .map(|virq| (virq, text(&dir.join(format!("msi_irqs/{virq}")))))
            .collect(),
        resources: text(&dir.join("resource")).lines().map(str::to_owned).collect(),
        link_speed: text(&dir.join("current_link_speed")),
        link_width: text(&dir.join("current_link_width")).parse().unwrap_or(0),
        config_bytes: config.len() as u32,
        config: hex(&config),
        address,
    })
}

/// An attribute like `0x17cb`; 0 if there is none.
fn number(dir: &Path, name: &str) -> u32 {
    u32::from_str_radix(text(&dir.join(name)).trim_start_matches("0x"), 16).unwrap_or(0)
}

fn hex(bytes: &[u8]) -> String {
    let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    bytes.iter().take(used).fold(String::new(), |mut text, b| {
        let _ = write!(text, "{b:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root(dir.path().into());
        let put = |path: &str, content: &[u8]| {
            let p = root.path(DEVICES).join(path);
            std::fs::create_dir_all(p.parent().unwrap()).unwrap();
            std::fs::write(p, content).unwrap();
        };
        let mut config = vec![0; 4096];
        config[..4].copy_from_slice(&[0xcb, 0x17, 0x0b, 0x01]);
        config[0x100] = 0x01;
        put("0000:00:00.0/config", &config);
        put("0000:00:00.0/vendor", b"0x17cb\n");
        put("0000:00:00.0/device", b"0x010b\n");
        put("0000:00:00.0/class", b"0x060400\n");
        put("0000:00:00.0/current_link_speed", b"8.0 GT/s PCIe\n");
        put("0000:00:00.0/current_link_width", b"2\n");
        put("0000:01:00.0/config", &[0xff; 64]);
        put("0000:01:00.0/resource", b"0x1 0x2 0x3\n0x0 0x0 0x0\n");
        put("0000:01:00.0/revision", b"0x0a\n");
        put("0000:01:00.0/irq", b"48\n");
        put("0000:01:00.0/msi_irqs/101", b"msix\n");
        put("0000:01:00.0/msi_irqs/99", b"msix\n");
        std::os::unix::fs::symlink("../../drivers/nvme", root.path(DEVICES).join("0000:01:00.0/driver"))
            .unwrap();
        (dir, root)
    }

    fn read(root: &Root, address: &str) -> Vec<PciFunction> {
        match functions(root, address).unwrap() {
            Value::Pci(all) => all,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn functions_are_told_in_order_with_all_that_sysfs_shows() {
        let (_dir, root) = tree();
        let all = read(&root, "");
        let (port, nvme) = (&all[0], &all[1]);
        assert_eq!((port.vendor, port.device, port.class), (0x17cb, 0x010b, 0x06_0400));
        assert_eq!((port.link_speed.as_str(), port.link_width), ("8.0 GT/s PCIe", 2));
        assert_eq!(
            (port.config_bytes, port.config.len()),
            (4096, 2 * 0x101),
            "zeros at the end are left out"
        );
        assert!(port.config.starts_with("cb170b01") && port.config.ends_with("01"));
        assert_eq!((port.driver.as_str(), nvme.driver.as_str()), ("", "nvme"));
        assert_eq!((nvme.revision, nvme.irq), (0x0a, 48));
        assert_eq!(nvme.msi_irqs, [(99, "msix".to_owned()), (101, "msix".to_owned())]);
        assert_eq!(nvme.resources, ["0x1 0x2 0x3", "0x0 0x0 0x0"]);
        assert_eq!(nvme.config, "ff".repeat(64));
    }

    #[test]
    fn one_function_can_be_asked_for() {
        let (_dir, root) = tree();
        assert_eq!(read(&root, "0000:01:00.0").len(), 1);
        assert_eq!(functions(&root, "0000:02:00.0").unwrap_err().errno, libc::ENODEV);
        assert_eq!(functions(&root, "..").unwrap_err().errno, libc::ENODEV);
    }

    #[test]
    fn what_does_not_fit_a_message_is_refused() {
        let (_dir, root) = tree();
        for n in 0..65 {
            let dev = root.path(DEVICES).join(format!("0000:02:{n:02x}.0"));
            std::fs::create_dir(&dev).unwrap();
            std::fs::write(dev.join("config"), [0xff; 4096]).unwrap();
        }
        assert_eq!(functions(&root, "").unwrap_err().errno, libc::E2BIG);
    }
}
