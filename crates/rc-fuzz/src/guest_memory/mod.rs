//! Views of a guest kernel's memory in which anything may have been overwritten.
//!
//! Any bytes are changes to a small kernel laid out by hand ([`layout`]): lists that lead back into themselves, pointers that lead
//! nowhere, tables of pointers that overlap, page table entries. Checked: no panic; what a view asks of memory and what it
//! hands back are bounded; without a change every view is complete.

pub mod layout;

use std::cell::Cell;
use std::ops::Range;

use guest_view::memory::MemoryError;
use guest_view::DeviceView;
use guest_view::IrqReader;
use guest_view::IrqView;
use guest_view::Kernel;
use guest_view::Memory;
use guest_view::ModuleView;
use guest_view::PciView;
use guest_view::RamImage;
use guest_view::ResourceView;
use guest_view::SupplyView;
use layout::at;
use layout::kernel_on;
use layout::subsystem;
use layout::with_module;
use layout::Ram;
use layout::NEW;
use layout::OLD;
use layout::RAM;

/// Bytes of a change.
pub const OP_BYTES: usize = 8;
/// Bytes before the first change.
pub const SETUP_BYTES: usize = 1;
/// More changes than this are not looked at.
const OPS_MAX: usize = 512;
/// Most reads of memory for all views together: those of the largest bound (2^18 levels and actions), each with strings.
const READS_MAX: u64 = 1 << 24;
/// Heads of lists and roots of trees.
const HEADS: [usize; 11] =
    [0x1000, 0x1138, 0x1200, 0x1300, 0x1308, 0x1310, 0x1400, 0x1408, 0x1500, 0x1600, 0x1668];

/// Memory that counts what is asked of it.
struct Counted {
    ram: RamImage,
    reads: Cell<u64>,
}

impl Memory for Counted {
    fn read(&self, pa: u64, buf: &mut [u8]) -> Result<(), MemoryError> {
        self.reads.set(self.reads.get() + 1);
        self.ram.read(pa, buf)
    }

    fn ranges(&self) -> Vec<Range<u64>> {
        self.ram.ranges()
    }
}

/// What the views found, in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Modules.
    pub modules: usize,
    /// Memory resources.
    pub resources: usize,
    /// PCI buses.
    pub buses: usize,
    /// PCI devices.
    pub pci_devices: usize,
    /// Devices of the platform bus, and deferred ones.
    pub devices: usize,
    /// Clocks.
    pub clocks: usize,
    /// Regulators, resets and PHYs.
    pub supplies: usize,
    /// IRQ domains.
    pub domains: usize,
    /// Mappings of all domains.
    pub mappings: usize,
    /// IRQ descriptors.
    pub descs: usize,
    /// Levels and actions of all descriptors.
    pub parts: usize,
    /// What was wrong.
    pub corruptions: usize,
}

/// A kernel with something in each view; `old` has the shapes of Linux 6.1.
pub fn whole(old: bool) -> Ram {
    let mut ram = with_module();
    resources(&mut ram);
    devices(&mut ram);
    pci(&mut ram);
    supplies(&mut ram);
    irqs(&mut ram, old);
    ram
}

fn resources(ram: &mut Ram) {
    ram.word(0x1100 + 56, at(0x3000)).word(0x3008, 0x1ff).text(0x3010, 0x3800, "bridge");
    ram.word(0x3000 + 56, at(0x3100)).word(0x3000 + 48, at(0x3200));
    ram.word(0x3108, 0x10f).word(0x3200, 0x200).word(0x3208, 0x2ff).text(0x3210, 0x3810, "RAM");
}

fn devices(ram: &mut Ram) {
    subsystem(ram, 0x1380, "platform", 0x4000, 8, 0x4100, 0x4200);
    ram.text(0x4200, 0x4810, "1c00000.pcie").word(0x4200 + 32, at(0x8040)).text(0x8040, 0x4830, "qcom-pcie");
    ram.list(0x1310, &[0x4100 + 48]).text(0x4100 + 72, 0x4850, "waits for a PHY\n");
}

fn pci(ram: &mut Ram) {
    ram.list(0x1200, &[0x5000]).list(0x5000 + 24, &[0x5100]).list(0x5000 + 40, &[0x5200]);
    ram.list(0x5100 + 24, &[]).list(0x5100 + 40, &[0x5300]).word(0x5110, at(0x5000));
    ram.text(0x5000 + 80, 0x5800, "0000:00").text(0x5100 + 80, 0x5810, "0000:01");
    ram.text(0x5200 + 176, 0x5820, "0000:00:00.0").text(0x5300 + 176, 0x5840, "0000:01:00.0");
    // MSI descriptors in a node of the store.
    ram.word(0x5300 + 176 + 48, at(0x5400)).word(0x5408, at(0x7000) + 2);
    ram.word(0x7000 + 40, at(0x5500)).word(0x7000 + 48, at(0x5540));
    ram.half(0x5500, 26).half(0x5504, 1).half(0x5540, 27).half(0x5544, 1);
}

fn supplies(ram: &mut Ram) {
    ram.word(0x1400, at(0x6008)).text(0x6000, 0x6800, "oscillator").half(0x6000 + 32, 1);
    ram.word(0x6000 + 24, at(0x6108)).text(0x6100, 0x6810, "aux").word(0x6100 + 40, at(0x6200));
    ram.text(0x6210, 0x6820, "1c00000.pcie").text(0x6218, 0x6830, "aux");
    subsystem(ram, 0x13c0, "phy", 0xa000, 32, 0x6300, 0x6400);
    subsystem(ram, 0x13c0, "regulator", 0xb000, 32, 0x6f00, 0x6c00);
    ram.list(0x13c0, &[0xa000 + 32, 0xb000 + 32]);
    ram.text(0x6400, 0x6840, "phy-0");
    ram.word(0x6c00 + 72, at(0x6d00)).text(0x6d00, 0x6860, "vdda").list(0x6c00 + 88, &[0x6e00]);
    ram.word(0x6e10, at(0x4200)).text(0x6e20, 0x6870, "vdda-supply");
    ram.list(0x1500, &[0x6500]).list(0x6510, &[0x6600]).word(0x6528, at(0x6550));
    ram.text(0x6550, 0x6850, "reset@0").half(0x6610, 4).half(0x6614, 1);
}

/// Domain `gic` with one linear mapping, and `msi` above it with one in its tree; a descriptor of each.
fn irqs(ram: &mut Ram, old: bool) {
    ram.list(0x1600, &[0x9000, 0x9100]).text(0x9010, 0x9800, "gic").text(0x9110, 0x9810, "msi");
    ram.half(0x9000 + 76, 2).word(0x9088, at(0x9208)).half(0x9024, 1).half(0x9124, 1);
    ram.word(0x9100 + 88, at(0x9000)).word(0x9100 + 104, at(0x9408)).word(0x9100 + 80, at(0x5300 + 176));
    ram.word(0x9208, 1).word(0x9210, at(0x9300)).word(0x9218, at(0x9000)).text(0x9300, 0x9820, "GICv3");
    ram.word(0x9410, at(0x9300)).word(0x9418, at(0x9100)).word(0x9420, at(0x9500));
    ram.word(0x9500, 2).word(0x9508, at(0x9300)).word(0x9510, at(0x9000));
    ram.word(0x9400, at(0x5500)).word(0x9430, at(0x8050)).word(0x9438, at(0x9580));
    ram.word(0x9580, at(0x8040)).text(0x95a0, 0x9830, "pci-endpoint-test").word(0x5520, at(0x5300 + 176));
    if old {
        ram.word(0x1668, at(0xc000) + 2).word(0xc000 + 48, at(0x9200)).word(0xc000 + 56, at(0x9400));
    } else {
        ram.word(0x1668, at(0xc000) | 1 << 3 | 2).word(0xc008, 1).word(0xc010, 2);
        ram.word(0xc000 + 136, at(0x9200)).word(0xc000 + 144, at(0x9400));
    }
}

/// Change the memory as `bytes` say, and read every view of it.
pub fn run_bytes(bytes: &[u8]) -> Result<Found, String> {
    let (setup, ops) = bytes.split_at(SETUP_BYTES.min(bytes.len()));
    let old = setup.first().is_some_and(|b| b & 1 != 0);
    let mut ram = whole(old);
    for op in ops.chunks_exact(OP_BYTES).take(OPS_MAX) {
        change(&mut ram, op);
    }
    let memory = Counted { ram: RamImage::new(RAM, ram.0), reads: Cell::new(0) };
    let k = kernel_on(memory, if old { OLD } else { NEW });
    let found = views(&k);
    let reads = k.memory().reads.get();
    if reads > READS_MAX {
        return Err(format!("{reads} reads of memory for {found:?}"));
    }
    bounded(&found)?;
    Ok(found)
}

/// One change: kind, a number, an offset, and two numbers of 16 bits.
fn change(ram: &mut Ram, op: &[u8]) {
    let byte = |i: usize| op.get(i).copied().unwrap_or(0);
    let half = |i: usize| usize::from(u16::from_le_bytes([byte(i), byte(i + 1)]));
    let (n, place, a, b) = (usize::from(byte(1)), half(2), half(4), half(6));
    let word = place & !7;
    let inside = |offset: usize| offset & 0xfff8;
    match byte(0) % 12 {
        0 | 1 => ram.word(word, at(a)),
        // As trees mark their nodes.
        2 => ram.word(word, at(a) + 2),
        3 => ram.word(word, at(a & !0xff) | (n as u64 & 3) << 3 | 2),
        4 => ram.word(word, (a | b << 16) as u64),
        // What leads nowhere: poison of a deleted node, user space, behind the end of memory, the last byte.
        5 => ram.word(word, [0xdead_0000_0000_0100, a as u64, at(a << 8), u64::MAX - a as u64][n & 3]),
        // Many pointers in a row: lists that overlap, wide trees.
        6 => {
            for i in 0..n {
                ram.word(inside(word + 8 * i), at((a + i * b) & 0xffff) + u64::from(byte(1) & 2));
            }
            ram
        }
        // A long list that is one; its nodes may overlap others.
        7 => {
            let nodes: Vec<_> = (0..n).map(|i| inside(a + i * (b & 0xff) * 8).min(0xfff0)).collect();
            ram.list(word.min(0xfff0), &nodes)
        }
        8 => {
            let len = (16 * n).min(layout::RAM_BYTES - place.max(a));
            let part = ram.0[a..a + len].to_vec();
            ram.bytes(place, &part)
        }
        9 => ram.bytes(place, &[n as u8]),
        10 => ram.word(HEADS[n % HEADS.len()], at(a)),
        _ => ram.word(HEADS[n % HEADS.len()], at(a & !0xff) | (b as u64 & 3) << 3 | 2),
    };
}

fn views(k: &Kernel<Counted>) -> Found {
    let mut found = Found::default();
    if let Ok(v) = ModuleView::read(k) {
        found.modules = v.modules.len();
        found.corruptions += v.corruptions.len();
    }
    if let Ok(v) = ResourceView::iomem(k) {
        found.resources = v.resources.len();
        found.corruptions += v.corruptions.len();
    }
    if let Ok(v) = PciView::read(k) {
        found.buses = v.buses.len();
        found.pci_devices = v.buses.iter().map(|b| b.devices.len()).sum();
        found.corruptions += v.corruptions.len();
    }
    if let Ok(v) = DeviceView::of_bus(k, "platform") {
        found.devices = v.devices.len() + v.deferred.len();
        found.corruptions += v.corruptions.len();
    }
    if let Ok(v) = SupplyView::read(k) {
        found.clocks = v.clocks.len();
        found.supplies = v.regulators.len() + v.resets.len() + v.phys.len();
        found.corruptions += v.corruptions.len();
    }
    if let Ok(reader) = IrqReader::new(k) {
        let v: IrqView = reader.read(k);
        found.domains = v.domains.len();
        found.mappings = v.domains.iter().map(|d| d.revmap.len()).sum();
        found.descs = v.descs.len();
        found.parts = v.descs.iter().map(|d| d.levels.len() + d.actions.len()).sum();
        found.corruptions += v.corruptions.len();
    }
    found
}

/// Within the bounds of the views. The walk that goes over a total is handed back whole: 65,536 nodes of 64 entries, or one
/// descriptor.
fn bounded(f: &Found) -> Result<(), String> {
    let bounds = [
        ("modules", f.modules, 1024),
        ("resources", f.resources, 16384),
        ("buses", f.buses, 4096),
        ("PCI devices", f.pci_devices, 4096),
        ("devices", f.devices, 2 * 16384),
        ("clocks", f.clocks, 2 * 16384),
        ("supplies", f.supplies, 2 * 16384 + 4096),
        ("domains", f.domains, 4096),
        ("mappings", f.mappings, (1 << 18) + 65536 * 65),
        ("descriptors", f.descs, 65536),
        ("levels and actions", f.parts, (1 << 18) + 16 + 256),
    ];
    match bounds.iter().find(|(_, n, max)| n > max) {
        Some((what, n, max)) => Err(format!("{n} {what}, more than {max}: {f:?}")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_change_every_view_is_complete() {
        for old in [0, 1] {
            let found = run_bytes(&[old]).expect("views");
            let expected = Found {
                modules: 1,
                resources: 3,
                buses: 2,
                pci_devices: 2,
                devices: 2,
                clocks: 2,
                supplies: 3,
                domains: 2,
                mappings: 2,
                descs: 2,
                parts: 4,
                corruptions: 0,
            };
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_list_that_leads_back_into_itself_is_a_corruption() {
        // The first domain's next is itself.
        let found = run_bytes(&[0, 0, 0, 0, 0x90, 0, 0x90, 0, 0]).expect("views");
        assert_eq!((found.domains, found.corruptions), (1, 1));
    }
}
