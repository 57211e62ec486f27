#!/usr/bin/env drgn
# Prints modules, PCI and platform devices, memory resources, clocks, regulators, resets and PHYs in a core: a second reader, with which
# `rcvm inspect` is compared. Usage: drgn -c core.elf -s vmlinux tests/drgn/devices.py
#
# Sources: Linux include/linux/module.h, pci.h, msi.h, ioport.h, drivers/clk/clk.c, drivers/reset/core.c, include/linux/regulator/driver.h, phy/phy.h (6.12).
# Fields between are tabs, so that a test can read them; an empty field is "-".

from drgn import cast, container_of
from drgn.helpers.linux.device import bus_for_each_dev, class_for_each_device, dev_name
from drgn.helpers.linux.list import hlist_for_each_entry, list_for_each_entry
from drgn.helpers.linux.module import for_each_module, module_address_regions
from drgn.helpers.linux.pci import for_each_pci_dev, pci_name
from drgn.helpers.linux.xarray import xa_for_each


def text(pointer):
    return pointer.string_().decode(errors="replace") if pointer else "-"


def row(*fields):
    print(*fields, sep="\t")


def driver(dev):
    return text(dev.driver.name) if dev.driver else "-"


def resources(resource):
    while resource:
        row("iomem", hex(resource.start), hex(resource.end), text(resource.name))
        resources(resource.child)
        resource = resource.sibling


def clocks(head):
    for clock in hlist_for_each_entry("struct clk_core", head, "child_node"):
        row("clock", text(clock.name), clock.enable_count.value_(), clock.prepare_count.value_())
        clocks(clock.children.address_of_())


for module in for_each_module(prog):
    size = sum(size for start, size in module_address_regions(module))
    row("module", module.name.string_().decode(), module.refcnt.counter.value_() - 1, size)

for dev in for_each_pci_dev(prog):
    ids = f"{dev.vendor.value_():04x}:{dev.device.value_():04x}"
    enabled = f"{dev.msi_enabled.value_()}{dev.msix_enabled.value_()}{dev.is_busmaster.value_()}"
    row("pci", pci_name(dev), ids, dev.irq.value_(), driver(dev.dev), enabled)
    for resource in dev.resource:
        if resource.flags:
            row("bar", pci_name(dev), hex(resource.start), hex(resource.end), hex(resource.flags))
    if dev.dev.msi.data:
        for domain in getattr(dev.dev.msi.data, "__domains"):
            for _, entry in xa_for_each(domain.store.address_of_()):
                desc = cast("struct msi_desc *", entry)
                row("msi", pci_name(dev), desc.msi_index.value_(), desc.irq.value_(), desc.nvec_used.value_())

for dev in bus_for_each_dev(prog["platform_bus_type"].address_of_()):
    row("platform", dev_name(dev).decode(), driver(dev))

resources(prog["iomem_resource"].child)

for head in ("clk_root_list", "clk_orphan_list"):
    clocks(prog[head].address_of_())

for dev in class_for_each_device(prog["regulator_class"].address_of_()):
    rdev = container_of(dev, "struct regulator_dev", "dev")
    row("regulator", dev_name(dev).decode(), rdev.use_count.value_(), rdev.open_count.value_())

for controller in list_for_each_entry(
    "struct reset_controller_dev", prog["reset_controller_list"].address_of_(), "list"
):
    for reset in list_for_each_entry("struct reset_control", controller.reset_control_head.address_of_(), "list"):
        row("reset", reset.id.value_(), reset.refcnt.refcount.refs.counter.value_(), int(reset.shared.value_()))

for dev in class_for_each_device(prog["phy_class"].address_of_()):
    phy = container_of(dev, "struct phy", "dev")
    row("phy", dev_name(dev).decode(), phy.init_count.value_(), phy.power_count.value_())
