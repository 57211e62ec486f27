//! Views of structures laid out by hand, and of memory that is anything at all.

use std::cell::RefCell;
use std::ops::Range;

use guest_view::memory::MemoryError;
use guest_view::Corruption;
use guest_view::DeviceView;
use guest_view::Memory;
use guest_view::ModuleView;
use guest_view::PciView;
use guest_view::RamImage;
use guest_view::ResourceView;
use guest_view::SupplyView;
use proptest::prelude::*;
use rc_fuzz::guest_memory::layout::at;
use rc_fuzz::guest_memory::layout::kernel_on;
use rc_fuzz::guest_memory::layout::subsystem;
use rc_fuzz::guest_memory::layout::with_module;
use rc_fuzz::guest_memory::layout::Ram;
use rc_fuzz::guest_memory::layout::NEW;
use rc_fuzz::guest_memory::layout::OLD;
use rc_fuzz::guest_memory::layout::RAM;
use rc_fuzz::guest_memory::layout::VA;

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
    live.0.replace(RamImage::new(RAM, Ram::empty().0));
    k.guest_has_run();
    assert_eq!(k.symbolize(at(0x8040)), None);
}

#[test]
fn the_resource_tree_is_read_depth_first_and_a_loop_in_it_is_named() {
    let mut ram = Ram::empty();
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

#[test]
fn a_bus_has_its_devices_with_drivers_and_a_driver_of_no_module_has_no_symbol() {
    let mut ram = with_module();
    subsystem(&mut ram, 0x1380, "platform", 0x4000, 8, 0x4100, 0x4200);
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
    let mut ram = Ram::empty();
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
    let mut ram = Ram::empty();
    ram.list(0x1200, &[0x5000]).list(0x5000 + 24, &[]).list(0x5000 + 40, &[0x5200, 0x5300]);
    // The first one's MSI data is freed memory.
    ram.word(0x5200 + 176 + 48, 0xdead_beef_0000_0000).half(0x5300 + 16, 8);
    let view = PciView::read(&ram.kernel(NEW)).expect("view");
    assert_eq!(view.buses[0].devices.iter().map(|d| d.devfn).collect::<Vec<_>>(), [0, 8]);
    assert!(!view.corruptions.is_empty());
}

#[test]
fn clocks_have_their_consumers_and_phys_and_resets_their_counts() {
    let mut ram = Ram::empty();
    ram.word(0x1400, at(0x6008)).text(0x6000, 0x6800, "oscillator").half(0x6000 + 32, 1);
    ram.word(0x6000 + 24, at(0x6108)).text(0x6100, 0x6810, "aux").half(0x6100 + 32, 2).half(0x6100 + 36, 3);
    ram.word(0x6100 + 40, at(0x6200)).text(0x6210, 0x6820, "1c00000.pcie").text(0x6218, 0x6830, "aux");
    subsystem(&mut ram, 0x13c0, "phy", 0x4000, 32, 0x6300, 0x6400);
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
        let mut ram = Ram::empty();
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
