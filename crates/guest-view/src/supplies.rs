//! What devices need to run, and how often it is asked for: clocks, regulators, resets, PHYs.
//!
//! *Modelled*: the kernel's own counts, and who holds a clock or a regulator.
//!
//! *Not modelled*: rates, voltages, who holds a reset or a PHY (the kernel does not say), interconnects.
//!
//! *Sources*: Linux drivers/clk/clk.c, drivers/regulator/internal.h, include/linux/regulator/driver.h, drivers/reset/core.c,
//! include/linux/phy/phy.h of 6.1, 6.12 and 7.3.

use std::collections::HashSet;

use serde::Serialize;

use crate::devices;
use crate::kernel::Kernel;
use crate::kernel::Object;
use crate::kernel::ReadError;
use crate::memory::Memory;
use crate::walk;
use crate::walk::Corruption;
use crate::walk::Walk;

/// Bounds: far above any guest's.
const CLOCKS_MAX: usize = 16384;
const CONTROLLERS_MAX: usize = 1024;
const CONTROLS_MAX: usize = 4096;
/// Consumers of all clocks and regulators.
const CONSUMERS_MAX: usize = 65536;

/// Clocks, regulators, resets and PHYs at one moment; each is empty where the kernel has no such subsystem.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct SupplyView {
    /// A parent before its children.
    pub clocks: Vec<Clock>,
    /// In the order of their class.
    pub regulators: Vec<Regulator>,
    /// Those that somebody has got hold of.
    pub resets: Vec<Reset>,
    /// In the order of their class.
    pub phys: Vec<Phy>,
    /// What is wrong with the structures; the view is then incomplete.
    pub corruptions: Vec<Corruption>,
}

/// A `struct clk_core`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Clock {
    /// Address.
    pub va: u64,
    /// Name, if it can be read.
    pub name: Option<String>,
    /// How deep in the tree, from 0.
    pub depth: usize,
    /// Has a parent that is not registered.
    pub is_orphan: bool,
    /// `enable_count`.
    pub enable_count: u32,
    /// `prepare_count`.
    pub prepare_count: u32,
    /// Who holds it: device and the name that it has for it.
    pub consumers: Vec<String>,
}

/// A `struct regulator_dev`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Regulator {
    /// Address.
    pub va: u64,
    /// Name of the device: `regulator.N`.
    pub device: Option<String>,
    /// Name of the supply.
    pub name: Option<String>,
    /// `use_count`.
    pub use_count: u32,
    /// `open_count`.
    pub open_count: u32,
    /// Who holds it.
    pub consumers: Vec<RegulatorConsumer>,
}

/// A `struct regulator`: what a driver holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RegulatorConsumer {
    /// Name of the device, if it is for one.
    pub device: Option<String>,
    /// Name that the consumer has for it.
    pub supply: Option<String>,
    /// How often it has enabled it.
    pub enable_count: u32,
}

/// A `struct reset_control`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reset {
    /// Address.
    pub va: u64,
    /// Name of the controller's device.
    pub controller: Option<String>,
    /// Number of the line.
    pub id: u32,
    /// References.
    pub references: u32,
    /// Shared, so that `deassert_count` counts.
    pub is_shared: bool,
    /// `deassert_count`.
    pub deassert_count: i32,
}

/// A `struct phy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Phy {
    /// Address.
    pub va: u64,
    /// Name of the device.
    pub name: Option<String>,
    /// `init_count`.
    pub init_count: i32,
    /// `power_count`.
    pub power_count: i32,
}

impl SupplyView {
    /// Read all counts as they are now.
    pub fn read<M: Memory>(k: &Kernel<M>) -> Result<Self, ReadError> {
        let mut reading = Reading { k, view: Self::default(), consumers_left: CONSUMERS_MAX };
        if k.symbol("clk_root_list").is_some() {
            reading.clocks("clk_root_list", false)?;
            reading.clocks("clk_orphan_list", true)?;
        }
        reading.regulators()?;
        if k.symbol("reset_controller_list").is_some() {
            reading.resets()?;
        }
        reading.phys()?;
        Ok(reading.view)
    }
}

struct Reading<'k, M> {
    k: &'k Kernel<M>,
    view: SupplyView,
    consumers_left: usize,
}

impl<M: Memory> Reading<'_, M> {
    /// What was found; what stopped it goes to the view.
    fn take<T>(&mut self, walk: Walk<T>) -> Vec<T> {
        self.view.corruptions.extend(walk.corruption);
        walk.items
    }

    /// What could be read; a member that the kernel does not have fails the view.
    fn keep<T>(
        &mut self,
        what: &'static str,
        va: u64,
        read: Result<T, ReadError>,
    ) -> Result<Option<T>, ReadError> {
        match read {
            Ok(t) => Ok(Some(t)),
            Err(e @ ReadError::NoMember(_)) => Err(e),
            Err(e) => {
                self.view.corruptions.push(Corruption::wild(what, va, &e));
                Ok(None)
            }
        }
    }

    fn clocks(&mut self, list: &'static str, is_orphan: bool) -> Result<(), ReadError> {
        let roots = walk::hlist(self.k, self.k.root(list)?, CLOCKS_MAX);
        let mut open: Vec<_> = self.take(roots).into_iter().rev().map(|node| (node, 0)).collect();
        let (mut seen, mut left) = (HashSet::new(), CLOCKS_MAX - open.len().min(CLOCKS_MAX));
        while let Some((node, depth)) = open.pop() {
            let o = self.k.container(node, "clk_core", "child_node")?;
            if !seen.insert(node) {
                self.view.corruptions.push(Corruption::Cycle { container: "clock tree", node: o.va });
                continue;
            }
            let clock = self.clock(&o, depth, is_orphan);
            let Some(clock) = self.keep("clk_core", o.va, clock)? else { continue };
            self.view.clocks.push(clock);
            let children = walk::hlist(self.k, o.address("children")?, left);
            let children = self.take(children);
            left -= children.len().min(left);
            open.extend(children.into_iter().rev().map(|node| (node, depth + 1)));
        }
        Ok(())
    }

    fn clock(&mut self, o: &Object<'_, M>, depth: usize, is_orphan: bool) -> Result<Clock, ReadError> {
        let holders = walk::hlist(self.k, o.address("clks")?, self.consumers_left);
        let holders = self.take(holders);
        self.consumers_left -= holders.len().min(self.consumers_left);
        let mut consumers = Vec::new();
        for node in holders {
            let clk = self.k.container(node, "clk", "clks_node")?;
            // A clock's own handle, which clk_register makes, names no consumer.
            let of = clk.text("dev_id");
            let name = clk.text("con_id");
            if of.is_some() || name.is_some() {
                consumers.push([of, name].into_iter().flatten().collect::<Vec<_>>().join(" "));
            }
        }
        Ok(Clock {
            va: o.va,
            name: o.text("name"),
            depth,
            is_orphan,
            enable_count: o.field("enable_count")? as u32,
            prepare_count: o.field("prepare_count")? as u32,
            consumers,
        })
    }

    fn regulators(&mut self) -> Result<(), ReadError> {
        let devices = devices::of_class(self.k, "regulator")?;
        for dev in self.take(devices) {
            let o = self.k.container(dev, "regulator_dev", "dev")?;
            let regulator = self.regulator(&o, dev);
            let regulator = self.keep("regulator_dev", o.va, regulator)?;
            self.view.regulators.extend(regulator);
        }
        Ok(())
    }

    fn regulator(&mut self, o: &Object<'_, M>, dev: u64) -> Result<Regulator, ReadError> {
        let k = self.k;
        // As /sys/class/regulator/*/name: that of the constraints, else the driver's.
        let constraints = k.object(o.field("constraints")?, "regulation_constraints");
        let name = constraints.text("name");
        let name = match name {
            Some(name) => Some(name),
            None => k.object(o.field("desc")?, "regulator_desc").text("name"),
        };
        let holders = walk::list(k, o.address("consumer_list")?, self.consumers_left);
        let holders = self.take(holders);
        self.consumers_left -= holders.len().min(self.consumers_left);
        let mut consumers = Vec::new();
        for link in holders {
            let holder = k.container(link, "regulator", "list")?;
            let read = holder.field("enable_count");
            let Some(enabled) = self.keep("regulator", holder.va, read)? else { continue };
            let dev = holder.field("dev").ok().filter(|&dev| dev != 0);
            consumers.push(RegulatorConsumer {
                device: dev.and_then(|dev| devices::name(k, dev)),
                supply: holder.text("supply_name"),
                enable_count: enabled as u32,
            });
        }
        Ok(Regulator {
            va: o.va,
            device: devices::name(k, dev),
            name,
            use_count: o.field("use_count")? as u32,
            open_count: o.field("open_count")? as u32,
            consumers,
        })
    }

    fn resets(&mut self) -> Result<(), ReadError> {
        let k = self.k;
        let controllers = walk::list(k, k.root("reset_controller_list")?, CONTROLLERS_MAX);
        let mut left = CONTROLS_MAX;
        for link in self.take(controllers) {
            let controller = k.container(link, "reset_controller_dev", "list")?;
            let dev = controller.field("dev").ok().filter(|&dev| dev != 0);
            let name = match dev {
                Some(dev) => devices::name(k, dev),
                None => k.object(controller.field("of_node").unwrap_or(0), "device_node").text("full_name"),
            };
            let controls = walk::list(k, controller.address("reset_control_head")?, left);
            let controls = self.take(controls);
            left -= controls.len().min(left);
            for link in controls {
                let o = k.container(link, "reset_control", "list")?;
                let reset = self.keep("reset_control", o.va, reset(&o, name.clone()))?;
                self.view.resets.extend(reset);
            }
        }
        Ok(())
    }

    fn phys(&mut self) -> Result<(), ReadError> {
        let devices = devices::of_class(self.k, "phy")?;
        for dev in self.take(devices) {
            let o = self.k.container(dev, "phy", "dev")?;
            let read = || -> Result<_, ReadError> {
                let (init, power) = (o.field("init_count")?, o.field("power_count")?);
                let (init_count, power_count) = (init as i32, power as i32);
                Ok(Phy { va: o.va, name: devices::name(self.k, dev), init_count, power_count })
            };
            let phy = self.keep("phy", o.va, read())?;
            self.view.phys.extend(phy);
        }
        Ok(())
    }
}

fn reset<M: Memory>(o: &Object<'_, M>, controller: Option<String>) -> Result<Reset, ReadError> {
    Ok(Reset {
        va: o.va,
        controller,
        id: o.field("id")? as u32,
        references: o.field("refcnt.refcount.refs.counter")? as u32,
        is_shared: o.field("shared")? != 0,
        deassert_count: o.field("deassert_count.counter")? as i32,
    })
}
