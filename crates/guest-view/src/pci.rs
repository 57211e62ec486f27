//! PCI buses and devices.
//!
//! *Modelled*: buses from the root buses down, devices with IDs, driver, resources, MSI descriptors.
//!
//! *Not modelled*: configuration space (the device's, not the kernel's), slots, links, host bridges' own structure.
//!
//! *Sources*: Linux include/linux/pci.h, include/linux/msi.h and kernel/irq/msi.c of 6.1, 6.12 and 7.3.

use std::collections::HashSet;

use serde::Serialize;

use crate::devices;
use crate::devices::Driver;
use crate::kernel::Kernel;
use crate::kernel::Object;
use crate::kernel::ReadError;
use crate::memory::Memory;
use crate::walk;
use crate::walk::Corruption;

/// Bounds: far above any guest's.
const BUSES_MAX: usize = 4096;
const DEVICES_MAX: usize = 4096;
const RESOURCES_MAX: u64 = 32;
const MSI_DOMAINS_MAX: u64 = 4;
/// Nodes of one device's store: 2048 vectors need 33.
const MSI_NODES_MAX: usize = 64;
/// Descriptors of all devices, which may claim one another's.
const MSI_TOTAL_MAX: usize = 1 << 17;

/// All buses and devices at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PciView {
    /// Each root bus, and what is below it, before the next.
    pub buses: Vec<Bus>,
    /// What is wrong with the structures; the view is then incomplete.
    pub corruptions: Vec<Corruption>,
}

/// A `struct pci_bus`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Bus {
    /// Address.
    pub va: u64,
    /// `domain:bus`, if it can be read.
    pub name: Option<String>,
    /// Bus number.
    pub number: u8,
    /// Address of the parent bus, or 0 for a root bus.
    pub parent: u64,
    /// The bridge above: a PCI device, or for a root bus the host bridge.
    pub bridge: Option<String>,
    /// Address of the configuration accessors.
    pub ops: u64,
    /// Their symbol; `None` if they are neither in the kernel nor in a module on the list.
    pub ops_symbol: Option<String>,
    /// Devices, in the order of the bus' list.
    pub devices: Vec<PciDevice>,
}

/// A `struct pci_dev`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PciDevice {
    /// Address.
    pub va: u64,
    /// `domain:bus:device.function`, if it can be read.
    pub name: Option<String>,
    /// Device and function number.
    pub devfn: u8,
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem_device: u16,
    /// Class code, programming interface lowest.
    pub class: u32,
    /// Revision.
    pub revision: u8,
    /// The driver bound to it.
    pub driver: Option<Driver>,
    /// `irq`: the INTx interrupt, or the first MSI vector while MSI is on.
    pub irq: u32,
    /// Times enabled.
    pub enable_count: i32,
    /// Bus mastering, as the kernel remembers it.
    pub is_busmaster: bool,
    /// MSI is on, as the kernel remembers it.
    pub msi_enabled: bool,
    /// MSI-X is on, as the kernel remembers it.
    pub msix_enabled: bool,
    /// Resources that are set.
    pub resources: Vec<PciResource>,
    /// MSI and MSI-X descriptors.
    pub msi_descs: Vec<MsiDesc>,
}

/// One of a device's resources: BARs from 0, then the ROM, then a bridge's windows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PciResource {
    /// Which one.
    pub index: u64,
    /// First address.
    pub start: u64,
    /// Last address.
    pub end: u64,
    /// `flags`.
    pub flags: u64,
}

/// A `struct msi_desc`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MsiDesc {
    /// Address.
    pub va: u64,
    /// Which of the device's interrupt domains, from 0.
    pub domain: u64,
    /// `msi_index`: the entry of the MSI-X table, 0 for MSI.
    pub index: u16,
    /// First Linux interrupt; 0 if none is allocated.
    pub irq: u32,
    /// Vectors: more than one only for MSI.
    pub vectors: u32,
    /// MSI-X rather than MSI, if the kernel says.
    pub is_msix: Option<bool>,
    /// Address that the device writes.
    pub message_address: u64,
    /// Data that it writes.
    pub message_data: u32,
}

impl PciView {
    /// Read buses and devices as they are now.
    pub fn read<M: Memory>(k: &Kernel<M>) -> Result<Self, ReadError> {
        let mut reading = Reading {
            k,
            view: Self::default(),
            buses_left: BUSES_MAX,
            devices_left: DEVICES_MAX,
            descs_left: MSI_TOTAL_MAX,
        };
        let mut open = reading.buses_on(k.root("pci_root_buses")?)?;
        let mut seen = HashSet::new();
        while let Some(va) = open.pop() {
            if !seen.insert(va) {
                reading.view.corruptions.push(Corruption::Cycle { container: "PCI bus tree", node: va });
                continue;
            }
            let o = k.object(va, "pci_bus");
            match reading.bus(&o) {
                Ok(bus) => reading.view.buses.push(bus),
                Err(e @ ReadError::NoMember(_)) => return Err(e),
                Err(e) => {
                    reading.view.corruptions.push(Corruption::wild("pci_bus", va, &e));
                    continue;
                }
            }
            open.extend(reading.buses_on(o.address("children")?)?);
        }
        Ok(reading.view)
    }
}

struct Reading<'k, M> {
    k: &'k Kernel<M>,
    view: PciView,
    buses_left: usize,
    devices_left: usize,
    descs_left: usize,
}

impl<M: Memory> Reading<'_, M> {
    /// Buses on a list, the last one first.
    fn buses_on(&mut self, head: u64) -> Result<Vec<u64>, ReadError> {
        let list = walk::list(self.k, head, self.buses_left);
        self.view.corruptions.extend(list.corruption);
        self.buses_left -= list.items.len().min(self.buses_left);
        let buses = list.items.into_iter().rev();
        buses.map(|link| Ok(self.k.container(link, "pci_bus", "node")?.va)).collect()
    }

    fn bus(&mut self, o: &Object<'_, M>) -> Result<Bus, ReadError> {
        let k = self.k;
        let ops = o.field("ops")?;
        let bridge = o.field("bridge")?;
        let mut bus = Bus {
            va: o.va,
            name: devices::name(k, o.address("dev")?),
            number: o.field("number")? as u8,
            parent: o.field("parent")?,
            bridge: (bridge != 0).then(|| devices::name(k, bridge)).flatten(),
            ops,
            ops_symbol: k.symbolize(ops),
            devices: Vec::new(),
        };
        let list = walk::list(k, o.address("devices")?, self.devices_left);
        self.view.corruptions.extend(list.corruption);
        self.devices_left -= list.items.len().min(self.devices_left);
        for link in list.items {
            let dev = k.container(link, "pci_dev", "bus_list")?;
            match self.device(&dev) {
                Ok(d) => bus.devices.push(d),
                Err(e @ ReadError::NoMember(_)) => return Err(e),
                Err(e) => self.view.corruptions.push(Corruption::wild("pci_dev", dev.va, &e)),
            }
        }
        Ok(bus)
    }

    fn device(&mut self, o: &Object<'_, M>) -> Result<PciDevice, ReadError> {
        let dev = devices::device(self.k, o.address("dev")?)?;
        Ok(PciDevice {
            va: o.va,
            name: dev.name,
            devfn: o.field("devfn")? as u8,
            vendor: o.field("vendor")? as u16,
            device: o.field("device")? as u16,
            subsystem_vendor: o.field("subsystem_vendor")? as u16,
            subsystem_device: o.field("subsystem_device")? as u16,
            class: o.field("class")? as u32,
            revision: o.field("revision")? as u8,
            driver: dev.driver,
            irq: o.field("irq")? as u32,
            enable_count: o.field("enable_cnt.counter")? as i32,
            is_busmaster: o.field("is_busmaster")? != 0,
            // Without CONFIG_PCI_MSI it has neither.
            msi_enabled: o.field_if_any("msi_enabled")?.unwrap_or(0) != 0,
            msix_enabled: o.field_if_any("msix_enabled")?.unwrap_or(0) != 0,
            resources: self.resources(o)?,
            msi_descs: self.msi_descs(o)?,
        })
    }

    fn resources(&self, o: &Object<'_, M>) -> Result<Vec<PciResource>, ReadError> {
        let array = o.member("resource")?;
        let mut found = Vec::new();
        for index in 0..array.count.unwrap_or(0).min(RESOURCES_MAX) {
            let at = array.offset.wrapping_add(index.wrapping_mul(array.stride.unwrap_or(0)));
            let r = self.k.object(o.va.wrapping_add(at), "resource");
            let (start, end, flags) = (r.field("start")?, r.field("end")?, r.field("flags")?);
            if flags != 0 {
                found.push(PciResource { index, start, end, flags });
            }
        }
        Ok(found)
    }

    /// From the store of the device: one in 6.1, one for each interrupt domain of the device since.
    fn msi_descs(&mut self, o: &Object<'_, M>) -> Result<Vec<MsiDesc>, ReadError> {
        let Some(data) = o.field_if_any("dev.msi.data")?.filter(|&data| data != 0) else {
            return Ok(Vec::new());
        };
        let data = self.k.object(data, "msi_device_data");
        let mut stores = Vec::new();
        match self.k.member("msi_device_data", "__domains") {
            Some(domains) => {
                let store = self.k.object(0, "msi_dev_domain").member("store")?.offset;
                for i in 0..domains.count.unwrap_or(0).min(MSI_DOMAINS_MAX) {
                    let at = i.wrapping_mul(domains.stride.unwrap_or(0)).wrapping_add(store);
                    stores.push(data.va.wrapping_add(domains.offset).wrapping_add(at));
                }
            }
            None => stores.push(data.address("__store")?),
        }
        let mut found = Vec::new();
        for (domain, store) in stores.into_iter().enumerate() {
            let entries = walk::xarray(self.k, store, MSI_NODES_MAX);
            self.view.corruptions.extend(entries.corruption);
            for (_, va) in entries.items {
                if self.descs_left == 0 {
                    break;
                }
                self.descs_left -= 1;
                match msi_desc(&self.k.object(va, "msi_desc"), domain as u64) {
                    Ok(d) => found.push(d),
                    Err(e @ ReadError::NoMember(_)) => return Err(e),
                    Err(e) => self.view.corruptions.push(Corruption::wild("msi_desc", va, &e)),
                }
            }
        }
        Ok(found)
    }
}

fn msi_desc<M: Memory>(o: &Object<'_, M>, domain: u64) -> Result<MsiDesc, ReadError> {
    Ok(MsiDesc {
        va: o.va,
        domain,
        index: o.field("msi_index")? as u16,
        irq: o.field("irq")? as u32,
        vectors: o.field("nvec_used")? as u32,
        is_msix: o.field_if_any("pci.msi_attrib.is_msix")?.map(|b| b != 0),
        message_address: o.field("msg.address_hi")? << 32 | o.field("msg.address_lo")?,
        message_data: o.field("msg.data")? as u32,
    })
}
