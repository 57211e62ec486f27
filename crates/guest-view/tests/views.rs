//! Views of structures laid out by hand, and of memory that is anything at all.

use std::cell::RefCell;
use std::ops::Range;

use guest_view::kallsyms::Symbol;
use guest_view::memory::MemoryError;
use guest_view::translate::Tables;
use guest_view::Corruption;
use guest_view::DeviceView;
use guest_view::Kernel;
use guest_view::Memory;
use guest_view::ModuleView;
use guest_view::PciView;
use guest_view::RamImage;
use guest_view::ResourceView;
use guest_view::SupplyView;
use guest_view::Symbols;
use guest_view::Types;
use proptest::prelude::*;

const RAM: u64 = 0x4000_0000;
const RAM_BYTES: usize = 64 << 10;
/// The 39-bit address at which one block entry maps 1 GiB from `RAM`.
const VA: u64 = 0xffff_ff80_0000_0000;

/// Where each symbol is; the structures behind them lie further up.
const SYMBOLS: [(&str, i64); 11] = [
    ("_text", 0),
    ("modules", 0x1000),
    ("iomem_resource", 0x1100),
    ("pci_root_buses", 0x1200),
    ("bus_kset", 0x1300),
    ("class_kset", 0x1308),
    ("deferred_probe_pending_list", 0x1310),
    ("clk_root_list", 0x1400),
    ("clk_orphan_list", 0x1408),
    ("reset_controller_list", 0x1500),
    ("_end", 0x1800),
];

/// Name, offset, bytes, structure embedded there, elements.
type Field = (&'static str, u64, u64, &'static str, u64);

const LIST: u64 = 16;
const STRUCTS: &[(&str, u64, &[Field])] = &[
    ("atomic_t", 4, &[("counter", 0, 4, "", 0)]),
    ("refcount_t", 4, &[("refs", 0, 4, "atomic_t", 0)]),
    ("kref", 4, &[("refcount", 0, 4, "refcount_t", 0)]),
    ("xarray", 16, &[("xa_head", 8, 8, "", 0)]),
    ("xa_node", 576, &[("shift", 0, 1, "", 0), ("slots", 40, 512, "", 64)]),
    ("module_memory", 16, &[("base", 0, 8, "", 0), ("size", 8, 4, "", 0)]),
    ("mod_kallsyms", 24, &[("symtab", 0, 8, "", 0), ("num_symtab", 8, 4, "", 0), ("strtab", 16, 8, "", 0)]),
    (
        "resource",
        64,
        &[
            ("start", 0, 8, "", 0),
            ("end", 8, 8, "", 0),
            ("name", 16, 8, "", 0),
            ("flags", 24, 8, "", 0),
            ("sibling", 48, 8, "", 0),
            ("child", 56, 8, "", 0),
        ],
    ),
    ("kobject", 24, &[("name", 0, 8, "", 0), ("entry", 8, LIST, "", 0)]),
    ("kset", 48, &[("list", 0, LIST, "", 0), ("kobj", 24, 24, "kobject", 0)]),
    ("klist", 24, &[("k_list", 8, LIST, "", 0)]),
    ("klist_node", 24, &[("n_node", 8, LIST, "", 0)]),
    ("subsys_private", 72, &[("subsys", 0, 48, "kset", 0), ("klist_devices", 48, 24, "klist", 0)]),
    (
        "device_private",
        80,
        &[
            ("knode_bus", 0, 24, "klist_node", 0),
            ("knode_class", 24, 24, "klist_node", 0),
            ("deferred_probe", 48, LIST, "", 0),
            ("device", 64, 8, "", 0),
            ("deferred_probe_reason", 72, 8, "", 0),
        ],
    ),
    ("dev_msi_info", 16, &[("data", 8, 8, "", 0)]),
    (
        "device",
        64,
        &[("kobj", 0, 24, "kobject", 0), ("driver", 32, 8, "", 0), ("msi", 40, 16, "dev_msi_info", 0)],
    ),
    ("device_driver", 8, &[("name", 0, 8, "", 0)]),
    (
        "pci_bus",
        144,
        &[
            ("node", 0, LIST, "", 0),
            ("parent", 16, 8, "", 0),
            ("children", 24, LIST, "", 0),
            ("devices", 40, LIST, "", 0),
            ("ops", 56, 8, "", 0),
            ("number", 64, 1, "", 0),
            ("bridge", 72, 8, "", 0),
            ("dev", 80, 64, "device", 0),
        ],
    ),
    (
        "pci_dev",
        240,
        &[
            ("bus_list", 0, LIST, "", 0),
            ("devfn", 16, 4, "", 0),
            ("vendor", 20, 2, "", 0),
            ("device", 22, 2, "", 0),
            ("subsystem_vendor", 24, 2, "", 0),
            ("subsystem_device", 26, 2, "", 0),
            ("class", 28, 4, "", 0),
            ("revision", 32, 1, "", 0),
            ("irq", 36, 4, "", 0),
            ("enable_cnt", 40, 4, "atomic_t", 0),
            ("is_busmaster", 44, 1, "", 0),
            ("msix_enabled", 45, 1, "", 0),
            ("resource", 48, 128, "resource", 2),
            ("dev", 176, 64, "device", 0),
        ],
    ),
    ("msi_msg", 12, &[("address_lo", 0, 4, "", 0), ("address_hi", 4, 4, "", 0), ("data", 8, 4, "", 0)]),
    (
        "msi_desc",
        32,
        &[
            ("irq", 0, 4, "", 0),
            ("nvec_used", 4, 4, "", 0),
            ("msi_index", 8, 2, "", 0),
            ("msg", 16, 12, "msi_msg", 0),
        ],
    ),
    (
        "clk_core",
        48,
        &[
            ("name", 0, 8, "", 0),
            ("child_node", 8, 16, "", 0),
            ("children", 24, 8, "", 0),
            ("enable_count", 32, 4, "", 0),
            ("prepare_count", 36, 4, "", 0),
            ("clks", 40, 8, "", 0),
        ],
    ),
    ("clk", 32, &[("clks_node", 0, 16, "", 0), ("dev_id", 16, 8, "", 0), ("con_id", 24, 8, "", 0)]),
    ("phy", 72, &[("dev", 0, 64, "device", 0), ("init_count", 64, 4, "", 0), ("power_count", 68, 4, "", 0)]),
    (
        "reset_controller_dev",
        48,
        &[
            ("list", 0, LIST, "", 0),
            ("reset_control_head", 16, LIST, "", 0),
            ("dev", 32, 8, "", 0),
            ("of_node", 40, 8, "", 0),
        ],
    ),
    ("device_node", 8, &[("full_name", 0, 8, "", 0)]),
    (
        "reset_control",
        40,
        &[
            ("list", 0, LIST, "", 0),
            ("id", 16, 4, "", 0),
            ("refcnt", 20, 4, "kref", 0),
            ("shared", 24, 1, "", 0),
            ("deassert_count", 28, 4, "atomic_t", 0),
        ],
    ),
    (
        "regulator_dev",
        112,
        &[
            ("dev", 0, 64, "device", 0),
            ("desc", 64, 8, "", 0),
            ("constraints", 72, 8, "", 0),
            ("use_count", 80, 4, "", 0),
            ("open_count", 84, 4, "", 0),
            ("consumer_list", 88, LIST, "", 0),
        ],
    ),
    ("regulation_constraints", 8, &[("name", 0, 8, "", 0)]),
    ("regulator_desc", 8, &[("name", 0, 8, "", 0)]),
    (
        "regulator",
        40,
        &[
            ("list", 0, LIST, "", 0),
            ("dev", 16, 8, "", 0),
            ("enable_count", 24, 4, "", 0),
            ("supply_name", 32, 8, "", 0),
        ],
    ),
];

/// What kernels differ in.
const NEW: &[(&str, u64, &[Field])] = &[
    (
        "module",
        160,
        &[
            ("state", 0, 4, "", 0),
            ("list", 8, LIST, "", 0),
            ("name", 24, 56, "", 56),
            ("refcnt", 80, 4, "atomic_t", 0),
            ("taints", 88, 8, "", 0),
            ("kallsyms", 96, 8, "", 0),
            ("mem", 104, 32, "module_memory", 2),
        ],
    ),
    ("msi_dev_domain", 24, &[("store", 0, 16, "xarray", 0)]),
    ("msi_device_data", 48, &[("__domains", 0, 48, "msi_dev_domain", 2)]),
];
const OLD: &[(&str, u64, &[Field])] = &[
    (
        "module",
        160,
        &[
            ("state", 0, 4, "", 0),
            ("list", 8, LIST, "", 0),
            ("name", 24, 56, "", 56),
            ("refcnt", 80, 4, "atomic_t", 0),
            ("taints", 88, 8, "", 0),
            ("kallsyms", 96, 8, "", 0),
            ("core_layout", 104, 16, "module_memory", 0),
            ("init_layout", 120, 16, "module_memory", 0),
        ],
    ),
    ("msi_device_data", 48, &[("__store", 0, 16, "xarray", 0)]),
];

fn types(more: &[(&str, u64, &[Field])]) -> Types {
    let field = |&(name, offset, size, of, count): &Field| {
        let mut member = serde_json::json!({"offset": offset, "size": size});
        if !of.is_empty() {
            member["of"] = of.into();
        }
        if count > 0 {
            member["count"] = count.into();
            member["stride"] = (size / count).into();
        }
        (name.to_owned(), member)
    };
    let all = STRUCTS.iter().chain(more).map(|(name, size, fields)| {
        let fields: serde_json::Map<_, _> = fields.iter().map(field).collect();
        ((*name).to_owned(), serde_json::json!({"size": size, "fields": fields}))
    });
    let all: serde_json::Map<_, _> = all.collect();
    Types::from_json(&serde_json::Value::Object(all).to_string()).expect("table")
}

fn at(offset: usize) -> u64 {
    VA + offset as u64
}

/// Memory that is written before it is read.
struct Ram(Vec<u8>);

impl Ram {
    /// Empty lists behind all symbols, and the page table.
    fn new() -> Self {
        let mut ram = Self(vec![0; RAM_BYTES]);
        ram.word(0, RAM | 1);
        for head in [0x1000, 0x1200, 0x1310, 0x1500, 0x1380, 0x13c0] {
            ram.list(head, &[]);
        }
        ram.word(0x1300, at(0x1380)).word(0x1308, at(0x13c0));
        ram
    }

    fn word(&mut self, offset: usize, value: u64) -> &mut Self {
        self.bytes(offset, &value.to_le_bytes())
    }

    fn half(&mut self, offset: usize, value: u32) -> &mut Self {
        self.bytes(offset, &value.to_le_bytes())
    }

    fn bytes(&mut self, offset: usize, bytes: &[u8]) -> &mut Self {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// A pointer at `offset` to `text`, which is put at `place`.
    fn text(&mut self, offset: usize, place: usize, text: &str) -> &mut Self {
        self.bytes(place, text.as_bytes()).word(offset, at(place))
    }

    /// A list of the nodes at these offsets.
    fn list(&mut self, head: usize, nodes: &[usize]) -> &mut Self {
        let ring: Vec<_> = std::iter::once(head).chain(nodes.iter().copied()).collect();
        for (i, &node) in ring.iter().enumerate() {
            let (next, prev) = (ring[(i + 1) % ring.len()], ring[(i + ring.len() - 1) % ring.len()]);
            self.word(node, at(next)).word(node + 8, at(prev));
        }
        self
    }

    fn kernel(&self, more: &[(&str, u64, &[Field])]) -> Kernel<RamImage> {
        kernel_on(RamImage::new(RAM, self.0.clone()), more)
    }
}

fn kernel_on<M: Memory>(memory: M, more: &[(&str, u64, &[Field])]) -> Kernel<M> {
    let symbol = |&(name, offset): &(&str, i64)| Symbol { name: name.to_owned(), kind: 'd', offset };
    let symbols = Symbols::new(SYMBOLS.iter().map(symbol).collect());
    let tables = Tables { root_pa: RAM, granule_bits: 12, va_bits: 39 };
    Kernel::from_parts(memory, symbols, types(more), tables, VA, RAM)
}

/// One module with a function at its base + 0x40, and memory of 0x1000 from 0x8000.
fn with_module() -> Ram {
    let mut ram = Ram::new();
    ram.list(0x1000, &[0x2008]).bytes(0x2018, b"pcie_qcom").half(0x2000 + 80, 3);
    ram.word(0x2000 + 104, at(0x8000)).half(0x2000 + 112, 0x1000);
    ram.word(0x2000 + 96, at(0x2100));
    ram.word(0x2100, at(0x2200)).half(0x2108, 4).word(0x2110, at(0x2300));
    ram.bytes(0x2300, b"\0$x\0qcom_pcie_probe\0printk\0");
    // Elf64_Sym: name, section, value.
    for (i, (name, section, value)) in
        [(1, 1, at(0x8050)), (4, 1, at(0x8040)), (20, 0, 0), (4, 1, at(0xf000))].into_iter().enumerate()
    {
        let sym = 0x2200 + 24 * i;
        ram.half(sym, name).bytes(sym + 6, &[section, 0]).word(sym + 8, value);
    }
    ram
}

#[test]
fn modules_have_their_memory_in_both_shapes_and_name_addresses_in_it() {
    for (shape, kind) in [(NEW, "mem[0]"), (OLD, "core")] {
        let k = with_module().kernel(shape);
        let view = ModuleView::read(&k).expect("view");
        assert_eq!(view.corruptions, []);
        let m = &view.modules[0];
        assert_eq!((m.name.as_str(), m.state.as_str(), m.references), ("pcie_qcom", "live", Some(2)));
        let ranges: Vec<_> = m.ranges.iter().map(|r| (r.kind.as_str(), r.base, r.bytes)).collect();
        assert_eq!(ranges, [(kind, at(0x8000), 0x1000)]);
        for (va, name) in [
            (at(0x8040), Some("qcom_pcie_probe [pcie_qcom]".to_owned())),
            (at(0x8060), Some("qcom_pcie_probe+0x20 [pcie_qcom]".to_owned())),
            (at(0x8010), Some(format!("{kind}+0x10 [pcie_qcom]"))),
            (at(0x9000), None),
            (at(0x1000), Some("modules".to_owned())),
        ] {
            assert_eq!(k.symbolize(va), name, "{va:#x}");
        }
    }
}

/// Memory that changes while a kernel is open on it.
struct Live(RefCell<RamImage>);

impl Memory for Live {
    fn read(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.0.borrow().read(pa, buf)
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        self.0.borrow().ranges()
    }
}

#[test]
fn a_module_unloaded_since_has_no_name_once_the_guest_has_run() {
    let live = Live(RefCell::new(RamImage::new(RAM, with_module().0)));
    let k = kernel_on(&live, NEW);
    assert!(k.symbolize(at(0x8040)).is_some());
    live.0.replace(RamImage::new(RAM, Ram::new().0));
    k.guest_has_run();
    assert_eq!(k.symbolize(at(0x8040)), None);
}

#[test]
fn the_resource_tree_is_read_depth_first_and_a_loop_in_it_is_named() {
    let mut ram = Ram::new();
    ram.word(0x1100 + 56, at(0x3000));
    ram.word(0x3000, 0x100).word(0x3008, 0x1ff).text(0x3010, 0x3800, "bridge");
    ram.word(0x3000 + 56, at(0x3100)).word(0x3000 + 48, at(0x3200));
    ram.word(0x3100, 0x100).word(0x3108, 0x10f).word(0x3110, 0xdead_0000);
    ram.word(0x3200, 0x200).word(0x3208, 0x2ff).text(0x3210, 0x3810, "RAM");
    let view = ResourceView::iomem(&ram.kernel(NEW)).expect("view");
    let rows: Vec<_> = view.resources.iter().map(|r| (r.depth, r.start, r.end, r.name.as_deref())).collect();
    let expected =
        [(0, 0x100, 0x1ff, Some("bridge")), (1, 0x100, 0x10f, None), (0, 0x200, 0x2ff, Some("RAM"))];
    assert_eq!((rows.as_slice(), view.corruptions.as_slice()), (expected.as_slice(), [].as_slice()));

    ram.word(0x3200 + 48, at(0x3000));
    let view = ResourceView::iomem(&ram.kernel(NEW)).expect("view");
    assert_eq!(view.resources.len(), 3);
    assert!(matches!(view.corruptions.as_slice(), [Corruption::Cycle { .. }]), "{:?}", view.corruptions);
}

/// A bus or class `name` with one device, whose `device_private` is at `private`.
fn subsystem(ram: &mut Ram, kset: usize, name: &str, node: usize, private: usize, device: usize) {
    ram.list(kset, &[0x4000 + 32]).text(0x4000 + 24, 0x4800, name);
    ram.list(0x4000 + 56, &[private + node]).word(private + 64, at(device));
}

#[test]
fn a_bus_has_its_devices_with_drivers_and_a_driver_of_no_module_has_no_symbol() {
    let mut ram = with_module();
    subsystem(&mut ram, 0x1380, "platform", 8, 0x4100, 0x4200);
    ram.text(0x4200, 0x4810, "1c00000.pcie").word(0x4200 + 32, at(0x8040)).text(0x8040, 0x4830, "qcom-pcie");
    ram.list(0x1310, &[0x4100 + 48]).text(0x4100 + 72, 0x4850, "waits for a PHY\n");
    let view = DeviceView::of_bus(&ram.kernel(NEW), "platform").expect("view");
    let driver = view.devices[0].driver.as_ref().expect("a driver");
    assert_eq!(view.devices[0].name.as_deref(), Some("1c00000.pcie"));
    assert_eq!(driver.name.as_deref(), Some("qcom-pcie"));
    assert_eq!(driver.symbol.as_deref(), Some("qcom_pcie_probe [pcie_qcom]"));
    assert_eq!(view.deferred[0].name.as_deref(), Some("1c00000.pcie"));
    assert_eq!(view.deferred[0].reason.as_deref(), Some("waits for a PHY"));

    ram.list(0x1000, &[]);
    let view = DeviceView::of_bus(&ram.kernel(NEW), "platform").expect("view");
    assert_eq!(view.devices[0].driver.as_ref().map(|d| d.symbol.clone()), Some(None), "its module is gone");
    assert_eq!(DeviceView::of_bus(&ram.kernel(NEW), "amba").expect("view").devices, []);
}

#[test]
fn pci_devices_have_their_msi_descriptors_from_either_store() {
    let mut ram = Ram::new();
    // A root bus with a bridge below which there is a bus with an endpoint.
    ram.list(0x1200, &[0x5000]).list(0x5000 + 24, &[0x5100]).list(0x5000 + 40, &[0x5200]);
    ram.list(0x5100 + 24, &[]).list(0x5100 + 40, &[0x5300]).bytes(0x5100 + 64, &[1]).word(0x5110, at(0x5000));
    ram.text(0x5000 + 80, 0x5800, "0000:00").text(0x5100 + 80, 0x5810, "0000:01");
    ram.text(0x5200 + 176, 0x5820, "0000:00:00.0").text(0x5300 + 176, 0x5840, "0000:01:00.0");
    ram.word(0x5100 + 72, at(0x5200 + 176));
    ram.bytes(0x5300 + 20, &[0x4c, 0x10, 0x00, 0xb5]).half(0x5300 + 36, 24).bytes(0x5300 + 45, &[1]);
    ram.word(0x5300 + 48, 0x6000_0000).word(0x5300 + 56, 0x6000_0fff).word(0x5300 + 72, 0x200);
    // Entry 0 stands in the root of the store.
    ram.word(0x5300 + 176 + 48, at(0x5400)).word(0x5408, at(0x5500));
    ram.half(0x5500, 26).half(0x5504, 1).half(0x5510, 0x8000).half(0x5514, 1).half(0x5518, 7);
    for shape in [NEW, OLD] {
        let view = PciView::read(&ram.kernel(shape)).expect("view");
        assert_eq!(view.corruptions, []);
        let buses: Vec<_> =
            view.buses.iter().map(|b| (b.name.as_deref(), b.number, b.bridge.as_deref())).collect();
        assert_eq!(buses, [(Some("0000:00"), 0, None), (Some("0000:01"), 1, Some("0000:00:00.0"))]);
        let d = &view.buses[1].devices[0];
        assert_eq!(
            (d.name.as_deref(), d.vendor, d.device, d.irq),
            (Some("0000:01:00.0"), 0x104c, 0xb500, 24)
        );
        assert_eq!((d.msix_enabled, d.msi_enabled, d.is_busmaster), (true, false, false));
        assert_eq!(
            d.resources.iter().map(|r| (r.index, r.start, r.end)).collect::<Vec<_>>(),
            [(0, 0x6000_0000, 0x6000_0fff)]
        );
        let m = &d.msi_descs[0];
        assert_eq!((m.irq, m.vectors, m.message_address, m.message_data), (26, 1, 0x1_0000_8000, 7));
    }
}

#[test]
fn a_wild_pointer_among_pci_devices_leaves_the_others() {
    let mut ram = Ram::new();
    ram.list(0x1200, &[0x5000]).list(0x5000 + 24, &[]).list(0x5000 + 40, &[0x5200, 0x5300]);
    // The first one's MSI data is freed memory.
    ram.word(0x5200 + 176 + 48, 0xdead_beef_0000_0000).half(0x5300 + 16, 8);
    let view = PciView::read(&ram.kernel(NEW)).expect("view");
    assert_eq!(view.buses[0].devices.iter().map(|d| d.devfn).collect::<Vec<_>>(), [0, 8]);
    assert!(!view.corruptions.is_empty());
}

#[test]
fn clocks_have_their_consumers_and_phys_and_resets_their_counts() {
    let mut ram = Ram::new();
    ram.word(0x1400, at(0x6008)).text(0x6000, 0x6800, "oscillator").half(0x6000 + 32, 1);
    ram.word(0x6000 + 24, at(0x6108)).text(0x6100, 0x6810, "aux").half(0x6100 + 32, 2).half(0x6100 + 36, 3);
    ram.word(0x6100 + 40, at(0x6200)).text(0x6210, 0x6820, "1c00000.pcie").text(0x6218, 0x6830, "aux");
    subsystem(&mut ram, 0x13c0, "phy", 32, 0x6300, 0x6400);
    ram.text(0x6400, 0x6840, "phy-0").half(0x6400 + 64, 1).half(0x6400 + 68, 2);
    ram.list(0x1500, &[0x6500])
        .list(0x6510, &[0x6600])
        .word(0x6528, at(0x6550))
        .text(0x6550, 0x6850, "reset@0");
    ram.half(0x6610, 4).half(0x6614, 1).bytes(0x6618, &[1]).half(0x661c, 2);
    let view = SupplyView::read(&ram.kernel(NEW)).expect("view");
    assert_eq!(view.corruptions, []);
    let clocks: Vec<_> =
        view.clocks.iter().map(|c| (c.name.as_deref(), c.depth, c.enable_count, c.prepare_count)).collect();
    assert_eq!(clocks, [(Some("oscillator"), 0, 1, 0), (Some("aux"), 1, 2, 3)]);
    assert_eq!(view.clocks[1].consumers, ["1c00000.pcie aux"]);
    let phy = &view.phys[0];
    assert_eq!((phy.name.as_deref(), phy.init_count, phy.power_count), (Some("phy-0"), 1, 2));
    let r = &view.resets[0];
    assert_eq!((r.controller.as_deref(), r.id, r.is_shared, r.deassert_count), (Some("reset@0"), 4, true, 2));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the memory is, each view ends, within its bounds, and nothing panics.
    #[test]
    fn views_of_any_memory_end(
        words in prop::collection::vec((0x1000_usize / 8..0x8000 / 8, prop_oneof![
            any::<u64>(),
            (0x1000_u64..0x8000).prop_map(|o| VA + o),
            (0x200_u64..0x1000).prop_map(|o| VA + 8 * o),
            (0x200_u64..0x1000).prop_map(|o| VA + 8 * o + 2),
            0_u64..64,
        ]), 0..2000),
        heads in prop::collection::vec((0_usize..8, 0x200_u64..0x1000), 0..8),
        old in any::<bool>(),
    ) {
        let mut ram = Ram::new();
        for (i, value) in words {
            ram.word(8 * i, value);
        }
        for (symbol, to) in heads {
            ram.word([0x1000, 0x1138, 0x1200, 0x1300, 0x1308, 0x1310, 0x1400, 0x1500][symbol], VA + 8 * to);
        }
        let k = ram.kernel(if old { OLD } else { NEW });
        let _ = k.symbolize(VA + 0x8040);
        prop_assert!(ModuleView::read(&k).map_or(0, |v| v.modules.len()) <= 1024);
        prop_assert!(ResourceView::iomem(&k).map_or(0, |v| v.resources.len()) <= 16384);
        prop_assert!(PciView::read(&k).map_or(0, |v| v.buses.len()) <= 4096);
        prop_assert!(DeviceView::of_bus(&k, "platform").map_or(0, |v| v.devices.len()) <= 16384);
        prop_assert!(SupplyView::read(&k).map_or(0, |v| v.clocks.len()) <= 2 * 16384);
    }
}
