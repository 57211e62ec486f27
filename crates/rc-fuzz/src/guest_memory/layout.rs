//! A kernel's structures laid out by hand in a little memory.
//!
//! Offsets are ours, not any kernel's: what reads them has to take them from the types.

use guest_view::kallsyms::Symbol;
use guest_view::translate::Tables;
use guest_view::Kernel;
use guest_view::Memory;
use guest_view::RamImage;
use guest_view::Symbols;
use guest_view::Types;

/// Where memory begins.
pub const RAM: u64 = 0x4000_0000;
/// Bytes of memory.
pub const RAM_BYTES: usize = 64 << 10;
/// The 39-bit address at which one block entry maps 1 GiB from `RAM`.
pub const VA: u64 = 0xffff_ff80_0000_0000;

/// Where each symbol is; the structures behind them lie further up.
pub const SYMBOLS: &[(&str, i64)] = &[
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
    ("irq_domain_list", 0x1600),
    ("irq_domain_mutex", 0x1620),
    ("sparse_irq_lock", 0x1640),
    ("_end", 0x1800),
];

/// Name, offset, bytes, structure embedded there, elements.
pub type Field = (&'static str, u64, u64, &'static str, u64);

/// Bytes of a `list_head`.
const LIST: u64 = 16;
/// Name, bytes, members.
pub type Struct = (&'static str, u64, &'static [Field]);

/// What all kernels have.
const STRUCTS: &[Struct] = &[
    ("mutex", 32, &[("owner", 0, 8, "", 0)]),
    ("maple_tree", 16, &[("ma_root", 8, 8, "", 0)]),
    ("maple_range_64", 256, &[("pivot", 0, 120, "", 15), ("slot", 128, 128, "", 16)]),
    ("maple_arange_64", 248, &[("pivot", 0, 72, "", 9), ("slot", 80, 80, "", 10)]),
    (
        "irq_domain",
        128,
        &[
            ("link", 0, LIST, "", 0),
            ("name", 16, 8, "", 0),
            ("ops", 24, 8, "", 0),
            ("flags", 32, 4, "", 0),
            ("mapcount", 36, 4, "", 0),
            ("mutex", 40, 32, "mutex", 0),
            ("bus_token", 72, 4, "", 0),
            ("revmap_size", 76, 4, "", 0),
            ("dev", 80, 8, "", 0),
            ("parent", 88, 8, "", 0),
            ("revmap_tree", 96, 16, "xarray", 0),
            ("revmap", 128, 0, "", 0),
        ],
    ),
    (
        "irq_data",
        40,
        &[
            ("hwirq", 0, 8, "", 0),
            ("chip", 8, 8, "", 0),
            ("domain", 16, 8, "", 0),
            ("parent_data", 24, 8, "", 0),
        ],
    ),
    ("irq_chip", 8, &[("name", 0, 8, "", 0)]),
    ("irq_common_data", 8, &[("msi_desc", 0, 8, "", 0)]),
    (
        "irq_desc",
        104,
        &[
            ("irq_common_data", 0, 8, "irq_common_data", 0),
            ("irq_data", 8, 40, "irq_data", 0),
            ("handle_irq", 48, 8, "", 0),
            ("action", 56, 8, "", 0),
            ("status_use_accessors", 64, 4, "", 0),
            ("depth", 68, 4, "", 0),
            ("threads_active", 72, 4, "", 0),
            ("lock", 76, 4, "", 0),
            ("affinity_hint", 80, 8, "", 0),
            ("owner", 88, 8, "", 0),
        ],
    ),
    (
        "irqaction",
        48,
        &[
            ("handler", 0, 8, "", 0),
            ("dev_id", 8, 8, "", 0),
            ("next", 16, 8, "", 0),
            ("thread", 24, 8, "", 0),
            ("name", 32, 8, "", 0),
        ],
    ),
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
        40,
        &[
            ("irq", 0, 4, "", 0),
            ("nvec_used", 4, 4, "", 0),
            ("msi_index", 8, 2, "", 0),
            ("msg", 16, 12, "msi_msg", 0),
            ("dev", 32, 8, "", 0),
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

/// What kernels have since 6.4 (modules) and 6.5 (stores of MSI descriptors).
pub const NEW: &[Struct] = &[
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
/// What they had before.
pub const OLD: &[Struct] = &[
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

fn types(more: &[Struct]) -> Types {
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

/// Virtual address of an offset in memory.
pub fn at(offset: usize) -> u64 {
    VA + offset as u64
}

/// Memory that is written before it is read.
pub struct Ram(pub Vec<u8>);

impl Ram {
    /// Empty lists behind all symbols, and the page table.
    pub fn empty() -> Self {
        let mut ram = Self(vec![0; RAM_BYTES]);
        ram.word(0, RAM | 1);
        for head in [0x1000, 0x1200, 0x1310, 0x1500, 0x1600, 0x1380, 0x13c0] {
            ram.list(head, &[]);
        }
        ram.word(0x1300, at(0x1380)).word(0x1308, at(0x13c0));
        ram
    }

    /// A number of eight bytes.
    pub fn word(&mut self, offset: usize, value: u64) -> &mut Self {
        self.bytes(offset, &value.to_le_bytes())
    }

    /// A number of four bytes.
    pub fn half(&mut self, offset: usize, value: u32) -> &mut Self {
        self.bytes(offset, &value.to_le_bytes())
    }

    /// Any bytes.
    pub fn bytes(&mut self, offset: usize, bytes: &[u8]) -> &mut Self {
        self.0[offset..offset + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// A pointer at `offset` to `text`, which is put at `place`.
    pub fn text(&mut self, offset: usize, place: usize, text: &str) -> &mut Self {
        self.bytes(place, text.as_bytes()).word(offset, at(place))
    }

    /// A list of the nodes at these offsets.
    pub fn list(&mut self, head: usize, nodes: &[usize]) -> &mut Self {
        let ring: Vec<_> = std::iter::once(head).chain(nodes.iter().copied()).collect();
        for (i, &node) in ring.iter().enumerate() {
            let (next, prev) = (ring[(i + 1) % ring.len()], ring[(i + ring.len() - 1) % ring.len()]);
            self.word(node, at(next)).word(node + 8, at(prev));
        }
        self
    }

    /// A kernel of `more` types on a copy of it.
    pub fn kernel(&self, more: &[Struct]) -> Kernel<RamImage> {
        kernel_on(RamImage::new(RAM, self.0.clone()), more)
    }
}

/// A kernel of `more` types on any memory.
pub fn kernel_on<M: Memory>(memory: M, more: &[Struct]) -> Kernel<M> {
    let symbol = |&(name, offset): &(&str, i64)| Symbol { name: name.to_owned(), kind: 'd', offset };
    // The tree of descriptors is a maple tree since 6.5.
    let descs = if more == OLD { "irq_desc_tree" } else { "sparse_irqs" };
    let symbols = Symbols::new(SYMBOLS.iter().chain([&(descs, 0x1660)]).map(symbol).collect());
    let tables = Tables { root_pa: RAM, granule_bits: 12, va_bits: 39 };
    Kernel::from_parts(memory, symbols, types(more), tables, VA, RAM)
}

/// One module with a function at its base + 0x40, and memory of 0x1000 from 0x8000.
pub fn with_module() -> Ram {
    let mut ram = Ram::empty();
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

/// A bus or class `name` with one device, whose `device_private` is at `private`; its own structure is at `place`, and its name
/// 0x800 behind that.
pub fn subsystem(
    ram: &mut Ram,
    kset: usize,
    name: &str,
    place: usize,
    node: usize,
    private: usize,
    device: usize,
) {
    ram.list(kset, &[place + 32]).text(place + 24, place + 0x800, name);
    ram.list(place + 56, &[private + node]).word(private + 64, at(device));
}
