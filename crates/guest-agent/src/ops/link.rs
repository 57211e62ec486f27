//! What a user can do to a PCIe link from sysfs: reset a function, and set bits of LNKCTL.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::FileExt;
use std::time::Duration;
use std::time::Instant;

use guest_agent::OpError;
use guest_agent::Value;

use super::failed;
use super::Root;

/// Offset of the capability pointer, ID of the PCI Express capability, LNKCTL and LNKSTA in it (PCIe §7.5.1.1.11, §7.5.3).
const CAP_PTR: u64 = 0x34;
const PCI_EXPRESS: u8 = 0x10;
const LNKCTL: u64 = 0x10;
const LNKSTA: u64 = 0x12;
const DLLLA: u16 = 1 << 13;
/// More capabilities than fit into 256 bytes.
const MAX_CAPS: usize = 48;
/// How long a link may take to come back.
const LINK_TIMEOUT: Duration = Duration::from_secs(2);

/// Reset the function at `address` in whichever way the kernel has for it.
pub fn reset(root: &Root, address: &str) -> Result<Value, OpError> {
    let file = format!("sys/bus/pci/devices/{address}/reset");
    std::fs::write(root.path(&file), "1").map_err(|e| failed(format!("write 1 to /{file}"), &e))?;
    Ok(Value::Done)
}

/// Set `bits` of LNKCTL of the port at `address`, take them back after `hold_ms`, and wait for the link.
pub fn control(root: &Root, address: &str, bits: u16, hold_ms: u64) -> Result<Value, OpError> {
    let file = format!("sys/bus/pci/devices/{address}/config");
    let act = || -> io::Result<()> {
        let config = OpenOptions::new().read(true).write(true).open(root.path(&file))?;
        let cap = find_cap(&config)?;
        let before = half(&config, cap + LNKCTL)?;
        config.write_all_at(&(before | bits).to_le_bytes(), cap + LNKCTL)?;
        std::thread::sleep(Duration::from_millis(hold_ms));
        config.write_all_at(&(before & !bits).to_le_bytes(), cap + LNKCTL)?;
        let deadline = Instant::now() + LINK_TIMEOUT;
        while half(&config, cap + LNKSTA)? & DLLLA == 0 {
            if Instant::now() > deadline {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "the link did not come back"));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    };
    act().map_err(|e| failed(format!("set LNKCTL bits {bits:#x} in /{file}"), &e))?;
    Ok(Value::Done)
}

fn half(config: &File, at: u64) -> io::Result<u16> {
    let mut b = [0; 2];
    config.read_exact_at(&mut b, at)?;
    Ok(u16::from_le_bytes(b))
}

fn find_cap(config: &File) -> io::Result<u64> {
    let mut at = CAP_PTR;
    for _ in 0..MAX_CAPS {
        let mut next = [0];
        config.read_exact_at(&mut next, at)?;
        let cap = u64::from(next[0] & !3);
        let mut id = [0];
        config.read_exact_at(&mut id, cap)?;
        if cap == 0 {
            break;
        }
        if id[0] == PCI_EXPRESS {
            return Ok(cap);
        }
        at = cap + 1;
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "no PCI Express capability"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(dllla: bool) -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root(dir.path().into());
        let mut config = vec![0; 256];
        config[0x34] = 0x40;
        config[0x40..0x42].copy_from_slice(&[0x01, 0x70]);
        config[0x70..0x72].copy_from_slice(&[0x10, 0x00]);
        config[0x80] = 0x40;
        config[0x83] = if dllla { 0x20 } else { 0 };
        std::fs::create_dir_all(root.path("sys/bus/pci/devices/0000:00:00.0")).unwrap();
        std::fs::write(root.path("sys/bus/pci/devices/0000:00:00.0/config"), config).unwrap();
        (dir, root)
    }

    #[test]
    fn bits_are_set_and_taken_back() {
        let (_dir, root) = port(true);
        assert_eq!(control(&root, "0000:00:00.0", 0x30, 0), Ok(Value::Done));
        let config = std::fs::read(root.path("sys/bus/pci/devices/0000:00:00.0/config")).unwrap();
        assert_eq!(config[0x80], 0x40, "what else is in LNKCTL stays");
    }

    #[test]
    fn a_link_that_stays_down_is_told() {
        let (_dir, root) = port(false);
        let e = control(&root, "0000:00:00.0", 0x10, 0).unwrap_err();
        assert!(e.why.contains("did not come back"), "{e:?}");
    }

    #[test]
    fn a_device_that_is_gone_is_an_error() {
        let (_dir, root) = port(true);
        assert_eq!(control(&root, "0000:01:00.0", 0x10, 0).unwrap_err().errno, libc::ENOENT);
        assert_eq!(reset(&root, "0000:01:00.0").unwrap_err().errno, libc::ENOENT);
    }
}
