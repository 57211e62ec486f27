//! Devices of the driver core: those of a bus or a class, their drivers, and who waits for a driver.
//!
//! *Modelled*: names, drivers bound, the list of deferred probes with reasons.
//!
//! *Not modelled*: device links, runtime power management, drivers without devices.
//!
//! *Sources*: Linux drivers/base/base.h, bus.c, class.c and dd.c, include/linux/klist.h of 6.1, 6.12 and 7.3. A bus or class is
//! found by its name in `bus_kset` or `class_kset`, as all of these have them: `bus_type.p` is gone since 6.4.

use serde::Serialize;

use crate::kernel::Kernel;
use crate::kernel::ReadError;
use crate::memory::Memory;
use crate::walk;
use crate::walk::Corruption;
use crate::walk::Walk;

/// Bounds: far above any guest's.
const SUBSYSTEMS_MAX: usize = 1024;
const DEVICES_MAX: usize = 16384;

/// The devices of a bus at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct DeviceView {
    /// In the order of the bus' list, which is that of registration.
    pub devices: Vec<Device>,
    /// Devices of any bus whose probe waits for another device.
    pub deferred: Vec<Deferred>,
    /// What is wrong with the structures; the view is then incomplete.
    pub corruptions: Vec<Corruption>,
}

/// A `struct device`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Device {
    /// Address.
    pub va: u64,
    /// Name; `None` if it cannot be read.
    pub name: Option<String>,
    /// The driver bound to it.
    pub driver: Option<Driver>,
}

/// The driver that a device is bound to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Driver {
    /// Address of the `struct device_driver`.
    pub va: u64,
    /// Name; `None` if it cannot be read, as when the module that had it is gone.
    pub name: Option<String>,
    /// Symbol of the structure; `None` if it is neither in the kernel nor in a module on the list.
    pub symbol: Option<String>,
}

/// A device whose probe was deferred.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Deferred {
    /// Name of the device.
    pub name: Option<String>,
    /// Why, if the driver said.
    pub reason: Option<String>,
}

impl DeviceView {
    /// Read the devices of a bus (`platform`, `amba`, …) as they are now.
    pub fn of_bus<M: Memory>(k: &Kernel<M>, bus: &str) -> Result<Self, ReadError> {
        let mut view = Self::default();
        let found = on_bus(k, bus)?;
        view.corruptions.extend(found.corruption);
        for va in found.items {
            match device(k, va) {
                Ok(d) => view.devices.push(d),
                Err(e) => view.corruptions.push(Corruption::wild("device", va, &e)),
            }
        }
        view.read_deferred(k)?;
        Ok(view)
    }

    fn read_deferred<M: Memory>(&mut self, k: &Kernel<M>) -> Result<(), ReadError> {
        let list = walk::list(k, k.root("deferred_probe_pending_list")?, DEVICES_MAX);
        self.corruptions.extend(list.corruption);
        for link in list.items {
            let private = k.container(link, "device_private", "deferred_probe")?;
            match private.field("device") {
                Ok(va) => {
                    let reason = private.text("deferred_probe_reason").map(|r| r.trim_end().to_owned());
                    self.deferred.push(Deferred { name: name(k, va), reason });
                }
                Err(e) => self.corruptions.push(Corruption::wild("device_private", private.va, &e)),
            }
        }
        Ok(())
    }
}

/// Name of a `struct device`.
pub(crate) fn name<M: Memory>(k: &Kernel<M>, va: u64) -> Option<String> {
    k.object(va, "device").text("kobj.name")
}

/// The `struct device` at an address.
pub(crate) fn device<M: Memory>(k: &Kernel<M>, va: u64) -> Result<Device, ReadError> {
    let driver = match k.object(va, "device").field("driver")? {
        0 => None,
        driver => Some(Driver {
            va: driver,
            name: k.object(driver, "device_driver").text("name"),
            symbol: k.symbolize(driver),
        }),
    };
    Ok(Device { va, name: name(k, va), driver })
}

/// Addresses of the devices on a bus.
fn on_bus<M: Memory>(k: &Kernel<M>, bus: &str) -> Result<Walk<u64>, ReadError> {
    devices_of(k, "bus_kset", bus, "knode_bus.n_node")
}

/// Addresses of the devices of a class.
pub(crate) fn of_class<M: Memory>(k: &Kernel<M>, class: &str) -> Result<Walk<u64>, ReadError> {
    devices_of(k, "class_kset", class, "knode_class.n_node")
}

fn devices_of<M: Memory>(
    k: &Kernel<M>,
    kset: &'static str,
    subsystem: &str,
    node: &'static str,
) -> Result<Walk<u64>, ReadError> {
    // static struct kset *.
    let kset = k.object(k.u64(k.root(kset)?)?, "kset");
    let subsystems = walk::list(k, kset.address("list")?, SUBSYSTEMS_MAX);
    let mut corruption = subsystems.corruption;
    for entry in subsystems.items {
        let private = k.container(entry, "subsys_private", "subsys.kobj.entry")?;
        if private.text("subsys.kobj.name").as_deref() != Some(subsystem) {
            continue;
        }
        let nodes = walk::list(k, private.address("klist_devices.k_list")?, DEVICES_MAX);
        corruption = nodes.corruption.or(corruption);
        let mut items = Vec::new();
        for at in nodes.items {
            let private = k.container(at, "device_private", node)?;
            match private.field("device") {
                Ok(va) => items.push(va),
                Err(e) => corruption = Some(Corruption::wild("device_private", private.va, &e)),
            }
        }
        return Ok(Walk { items, corruption });
    }
    Ok(Walk { items: Vec::new(), corruption })
}
