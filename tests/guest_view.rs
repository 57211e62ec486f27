//! The reader of guest memory against the kernels that the image builder made.
//!
//! Needs at least one built kernel in the cache, as the other whole-system tests do.

use std::collections::BTreeSet;
use std::path::PathBuf;

use guest_view::btf::Btf;
use guest_view::Symbols;

fn kernels() -> Vec<PathBuf> {
    let cache = std::env::var_os("RCVM_CACHE").map(PathBuf::from).unwrap_or_else(|| {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        base.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME")).join(".cache"))
            .join("rcvm")
    });
    let entries = std::fs::read_dir(&cache).unwrap_or_else(|e| panic!("{}: {e}", cache.display()));
    let dirs = entries.map(|e| e.expect("entry").path());
    let kernels: Vec<_> =
        dirs.filter(|d| d.join("Image").exists() && d.join("System.map").exists()).collect();
    assert!(!kernels.is_empty(), "no kernel in {}: run rcvm image build", cache.display());
    kernels
}

/// Both ways: nothing that System.map does not have, and nothing missing but what the kernel's build leaves out.
#[test]
fn symbols_of_an_image_are_those_of_its_system_map() {
    for dir in kernels() {
        let map = std::fs::read_to_string(dir.join("System.map")).expect("System.map");
        let lines: Vec<(u64, &str, &str)> = map
            .lines()
            .filter_map(|l| {
                let mut words = l.splitn(3, ' ');
                Some((u64::from_str_radix(words.next()?, 16).ok()?, words.next()?, words.next()?))
            })
            .collect();
        let text = lines.iter().find(|(_, _, n)| *n == "_text").expect("_text").0;
        let symbols =
            Symbols::from_image(&std::fs::read(dir.join("Image")).expect("Image")).expect("symbols");
        let found: BTreeSet<(i64, &str)> =
            symbols.all().iter().map(|s| (s.offset, s.name.as_str())).collect();
        let release = std::fs::read_to_string(dir.join("release")).expect("release");
        let place = |at: u64| at.wrapping_sub(text) as i64;
        let expected: BTreeSet<_> = lines.iter().map(|&(at, _, n)| (place(at), n)).collect();
        let extra: Vec<_> = found.difference(&expected).take(5).collect();
        assert!(extra.is_empty(), "{release}: not in System.map: {extra:x?}");
        let kept = lines.iter().filter(|(_, kind, n)| !left_out(kind, n));
        let missing: Vec<_> = kept.filter(|(at, _, n)| !found.contains(&(place(*at), n))).take(5).collect();
        assert!(missing.is_empty(), "{release}: not in kallsyms: {missing:x?}");
    }
}

/// What the table does not have: absolute symbols (scripts/kallsyms.c, is_ignored_symbol), and in 6.1 the tables' own
/// names and the mapping symbols of the hypervisor's code.
fn left_out(kind: &str, name: &str) -> bool {
    kind == "A" || name.starts_with("kallsyms_") || name.starts_with("__kvm_nvhe_$")
}

#[test]
fn the_types_of_an_image_have_the_irq_structures() {
    for dir in kernels() {
        let btf = Btf::from_image(&std::fs::read(dir.join("Image")).expect("Image")).expect("BTF");
        let types = guest_view::Types::Btf(Box::new(btf));
        let json = types.to_json(&["irq_desc", "irq_domain"]).expect("JSON");
        let again = guest_view::Types::from_json(&json).expect("table");
        for (name, path) in [("irq_desc", "irq_data.hwirq"), ("irq_domain", "revmap"), ("irq_desc", "kobj")] {
            let member = types.offset(name, path);
            assert!(member.is_some(), "{name}.{path}");
            assert_eq!(member, again.offset(name, path), "{name}.{path}");
        }
    }
}

/// Members that the views of devices, modules and supplies cannot do without.
const MEMBERS: &[(&str, &[&str])] = &[
    ("module", &["state", "list", "name", "refcnt.counter", "taints", "kallsyms"]),
    ("mod_kallsyms", &["symtab", "num_symtab", "strtab"]),
    ("resource", &["start", "end", "name", "flags", "sibling", "child"]),
    ("kset", &["list"]),
    ("subsys_private", &["subsys.kobj.name", "subsys.kobj.entry", "klist_devices.k_list"]),
    ("device_private", &["knode_bus.n_node", "knode_class.n_node", "deferred_probe", "device"]),
    ("device", &["kobj.name", "driver"]),
    ("device_driver", &["name"]),
    ("pci_bus", &["node", "parent", "children", "devices", "ops", "number", "bridge", "dev"]),
    (
        "pci_dev",
        &["bus_list", "enable_cnt.counter", "is_busmaster", "msix_enabled", "resource", "dev.msi.data"],
    ),
    ("msi_desc", &["irq", "nvec_used", "msi_index", "msg.address_lo", "msg.data", "pci.msi_attrib.is_msix"]),
    ("clk_core", &["name", "child_node", "children", "enable_count", "prepare_count", "clks"]),
    ("clk", &["clks_node", "dev_id", "con_id"]),
    ("regulator_dev", &["dev", "desc", "constraints", "use_count", "open_count", "consumer_list"]),
    ("regulator", &["list", "dev", "enable_count", "supply_name"]),
    ("reset_controller_dev", &["list", "reset_control_head", "dev", "of_node"]),
    ("reset_control", &["list", "id", "refcnt.refcount.refs.counter", "shared", "deassert_count.counter"]),
    ("phy", &["dev", "init_count", "power_count"]),
];

/// Members that the view of IRQs reads.
const IRQ_MEMBERS: &[(&str, &[&str])] = &[
    (
        "irq_domain",
        &[
            "link",
            "name",
            "ops",
            "flags",
            "mapcount",
            "bus_token",
            "parent",
            "dev",
            "revmap_size",
            "revmap_tree",
            "revmap",
        ],
    ),
    (
        "irq_desc",
        &[
            "irq_data",
            "handle_irq",
            "action",
            "status_use_accessors",
            "depth",
            "threads_active",
            "affinity_hint",
            "irq_common_data.msi_desc",
            "owner",
            "lock",
        ],
    ),
    ("irq_data", &["hwirq", "chip", "domain", "parent_data"]),
    ("irq_chip", &["name"]),
    ("irqaction", &["handler", "dev_id", "next", "thread", "name"]),
    ("mutex", &["owner"]),
    ("xarray", &["xa_head"]),
    ("xa_node", &["shift", "slots"]),
    ("maple_tree", &["ma_root"]),
    ("maple_range_64", &["pivot", "slot"]),
    ("maple_arange_64", &["pivot", "slot"]),
    ("module_memory", &["base", "size"]),
    ("msi_device_data", &["__domains", "__store"]),
    ("msi_dev_domain", &["store"]),
];

/// Members that the views cannot do without, on every kernel that was built.
#[test]
fn the_types_of_an_image_have_what_the_views_read() {
    for dir in kernels() {
        let btf = Btf::from_image(&std::fs::read(dir.join("Image")).expect("Image")).expect("BTF");
        let types = guest_view::Types::Btf(Box::new(btf));
        let release = std::fs::read_to_string(dir.join("release")).expect("release");
        for (of, paths) in MEMBERS {
            for path in *paths {
                assert!(types.offset(of, path).is_some(), "{release}: {of}.{path}");
            }
        }
        for either in [
            [("module", "mem"), ("module", "core_layout.base")],
            [("msi_device_data", "__domains"), ("msi_device_data", "__store")],
        ] {
            let has = either.map(|(of, path)| types.offset(of, path).is_some());
            assert!(has[0] != has[1], "{release}: {either:?}");
        }
    }
}

/// The debug information of a kernel and its BTF were made of the same types.
#[test]
fn dwarf_of_a_vmlinux_lays_the_structures_out_as_btf_does() {
    let with_vmlinux: Vec<_> = kernels().into_iter().filter(|d| d.join("vmlinux").exists()).collect();
    assert!(!with_vmlinux.is_empty(), "no vmlinux beside an Image: rcvm image build");
    for dir in with_vmlinux {
        let btf = Btf::from_image(&std::fs::read(dir.join("Image")).expect("Image")).expect("BTF");
        let btf = guest_view::Types::Btf(Box::new(btf));
        let vmlinux = std::fs::read(dir.join("vmlinux")).expect("vmlinux");
        let dwarf = guest_view::dwarf::types(&vmlinux).expect("DWARF");
        let laid_out = |types: &guest_view::Types, of: &str, path: &str| {
            types.offset(of, path).map(|m| (m.offset, m.size, m.count, m.stride, m.bits))
        };
        let mut compared = 0;
        for (of, paths) in MEMBERS.iter().chain(IRQ_MEMBERS) {
            assert_eq!(btf.size(of), dwarf.size(of), "{of}");
            for path in *paths {
                assert_eq!(laid_out(&btf, of, path), laid_out(&dwarf, of, path), "{of}.{path}");
                compared += usize::from(btf.offset(of, path).is_some());
            }
        }
        assert!(compared > 120, "{compared} members");
    }
}
