//! The endpoint-test function, through the guest's own pci_endpoint_test driver.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use guest_agent::Endpoint;
use guest_agent::Exercised;
use guest_agent::IrqKind;
use guest_agent::OpError;
use guest_agent::RaisedVector;
use guest_agent::Value;

use super::failed;
use super::irqs;
use super::names;
use super::text;
use super::Root;

const NODE: &str = "dev/pci-endpoint-test.0";
const POLL: Duration = Duration::from_millis(2);

/// Requests of include/uapi/linux/pcitest.h.
mod request {
    const fn iow_int(nr: u32) -> u32 {
        1 << 30 | 4 << 16 | (b'P' as u32) << 8 | nr
    }
    pub const LEGACY_IRQ: u32 = (b'P' as u32) << 8 | 2;
    pub const MSI: u32 = iow_int(3);
    pub const MSIX: u32 = iow_int(7);
    pub const SET_IRQTYPE: u32 = iow_int(8);
}

/// Wait until the device is there, bound, and has its node.
pub fn wait(root: &Root, id: (u16, u16), driver: &str, timeout_ms: u64) -> Result<Value, OpError> {
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    loop {
        let all = devices(root);
        let want = format!("{:04x}:{:04x}", id.0, id.1);
        let found = all.iter().find(|d| d.1 == want && d.2 == driver).map(|d| d.0.clone());
        if let Some(address) = found.filter(|_| root.path(NODE).exists()) {
            let irq = root.text(&format!("sys/bus/pci/devices/{address}/irq")).parse().unwrap_or(0);
            return Ok(Value::Endpoint(Endpoint { address, irq, devices: all }));
        }
        if Instant::now() > deadline {
            return Err(OpError {
                what: format!("wait for PCI device {want} bound to {driver}"),
                errno: libc::ETIMEDOUT,
                why: format!("after {timeout_ms} ms there are: {all:?}"),
            });
        }
        std::thread::sleep(POLL);
    }
}

/// Wait until the device at `address` is bound to `driver`.
pub fn wait_device(root: &Root, address: &str, driver: &str, timeout_ms: u64) -> Result<Value, OpError> {
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    loop {
        let all = devices(root);
        if all.iter().any(|d| d.0 == address && d.2 == driver) {
            return Ok(Value::Done);
        }
        if Instant::now() > deadline {
            return Err(OpError {
                what: format!("wait for PCI device {address} bound to {driver}"),
                errno: libc::ETIMEDOUT,
                why: format!("after {timeout_ms} ms there are: {all:?}"),
            });
        }
        std::thread::sleep(POLL);
    }
}

/// Address, `vendor:device` and driver of every PCI device, in order.
fn devices(root: &Root) -> Vec<(String, String, String)> {
    let dir = root.path("sys/bus/pci/devices");
    let mut all: Vec<_> = names(&dir)
        .into_iter()
        .map(|address| {
            let dev = dir.join(&address);
            let id = |name: &str| text(&dev.join(name)).trim_start_matches("0x").to_owned();
            let driver = std::fs::read_link(dev.join("driver")).ok();
            let driver = driver.and_then(|d| Some(d.file_name()?.to_str()?.to_owned())).unwrap_or_default();
            (address, format!("{}:{}", id("vendor"), id("device")), driver)
        })
        .collect();
    all.sort_unstable();
    all
}

/// [`Op::Fire`](guest_agent::Op::Fire).
pub fn fire(root: &Root, kind: IrqKind, vector: u32) -> Result<Value, OpError> {
    let path = root.path(NODE);
    let node = File::open(&path).map_err(|e| failed(format!("open {}", path.display()), &e))?;
    let test = Test { node, zero_is_success: zero_is_success(&kernel_release()) };
    if test.raise(kind, vector) {
        return Ok(Value::Done);
    }
    let why = "the driver says that it was not delivered".into();
    Err(OpError { what: format!("fire {kind:?} vector {vector}"), errno: 0, why })
}

/// SET_IRQTYPE, snapshot, counts, raise, counts.
pub fn exercise(root: &Root, kind: IrqKind, vectors: u32, shun: &[u32]) -> Result<Value, OpError> {
    let path = root.path(NODE);
    let node = File::open(&path).map_err(|e| failed(format!("open {}", path.display()), &e))?;
    let test = Test { node, zero_is_success: zero_is_success(&kernel_release()) };
    test.call(request::SET_IRQTYPE, kind as u32, "PCITEST_SET_IRQTYPE")?;
    let snapshot = irqs::snapshot(root, &irqs::Look { details: true, shun });
    let virqs = virqs(root, kind);
    let allocated = virqs.len() as u32;
    let numbers: Vec<u32> =
        if kind == IrqKind::Intx { vec![0] } else { (1..=vectors.min(allocated)).collect() };
    let virq = |number: u32| virqs.get(number.saturating_sub(1) as usize).copied().unwrap_or(0);
    let mut vectors: Vec<RaisedVector> = numbers
        .into_iter()
        .map(|number| {
            let (virq, before) = (virq(number), irqs::count(root, virq(number)));
            RaisedVector { number, ok: false, virq, before, after: before }
        })
        .collect();
    for v in &mut vectors {
        v.ok = test.raise(kind, v.number);
    }
    for v in &mut vectors {
        v.after = irqs::count(root, v.virq);
    }
    Ok(Value::Exercised(Exercised { kind, snapshot, allocated, vectors }))
}

/// virqs of the function that has the driver, in vector order.
fn virqs(root: &Root, kind: IrqKind) -> Vec<u32> {
    let Some(dev) = bound(root) else { return Vec::new() };
    match kind {
        IrqKind::Intx => vec![text(&dev.join("irq")).parse().unwrap_or(0)],
        IrqKind::Msi | IrqKind::MsiX => irqs::vectors(&dev),
    }
}

fn bound(root: &Root) -> Option<PathBuf> {
    let dir = root.path("sys/bus/pci/drivers/pci-endpoint-test");
    let address = names(&dir).into_iter().find(|n| n.contains(':'))?;
    Some(root.path("sys/bus/pci/devices").join(address))
}

fn kernel_release() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

/// Up to 6.14 the driver's ioctls return 1 for success; from 6.15 on 0 or a negative errno (spec §5.2).
fn zero_is_success(release: &str) -> bool {
    let mut n = release.split(['.', '-']).map(|p| p.parse::<u32>().unwrap_or(0));
    (n.next().unwrap_or(0), n.next().unwrap_or(0)) >= (6, 15)
}

struct Test {
    node: File,
    zero_is_success: bool,
}

impl Test {
    fn raise(&self, kind: IrqKind, number: u32) -> bool {
        let (request, name) = match kind {
            IrqKind::Intx => (request::LEGACY_IRQ, "PCITEST_LEGACY_IRQ"),
            IrqKind::Msi => (request::MSI, "PCITEST_MSI"),
            IrqKind::MsiX => (request::MSIX, "PCITEST_MSIX"),
        };
        self.call(request, number, name).is_ok()
    }

    fn call(&self, request: u32, arg: u32, name: &str) -> Result<(), OpError> {
        // SAFETY: these requests take their argument by value and touch no memory of ours.
        let r = unsafe { libc::ioctl(self.node.as_raw_fd(), request as _, libc::c_ulong::from(arg)) };
        let what = format!("{name}({arg})");
        match r {
            r if r < 0 => Err(failed(what, &io::Error::last_os_error())),
            0 if !self.zero_is_success => {
                Err(OpError { what, errno: 0, why: "the driver says it failed".into() })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_the_header() {
        assert_eq!(
            [request::LEGACY_IRQ, request::MSI, request::MSIX, request::SET_IRQTYPE],
            [0x5002, 0x4004_5003, 0x4004_5007, 0x4004_5008]
        );
    }

    #[test]
    fn the_sense_of_the_result_follows_the_kernel() {
        for (release, zero) in
            [("6.1.176", false), ("6.12.117-rcvm", false), ("6.15.0-rc1", true), ("7.3.4", true)]
        {
            assert_eq!(zero_is_success(release), zero, "{release}");
        }
    }

    #[test]
    fn waiting_ends_with_what_there_is() {
        let dir = tempfile::tempdir().unwrap();
        let dev = dir.path().join("sys/bus/pci/devices/0000:00:00.0");
        std::fs::create_dir_all(&dev).unwrap();
        std::fs::write(dev.join("vendor"), "0x17cb\n").unwrap();
        std::fs::write(dev.join("device"), "0x010b\n").unwrap();
        let e = wait(&Root(dir.path().into()), (0x104c, 0xb500), "pci-endpoint-test", 0).unwrap_err();
        assert_eq!(e.errno, libc::ETIMEDOUT);
        assert!(e.why.contains("17cb:010b"), "{e:?}");
    }
}
