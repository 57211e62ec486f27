//! A guest Linux kernel's own structures, read from its memory with no help from the guest.
//!
//! *Modelled*: arm64 kernels with kallsyms, KASLR or not; types from BTF, from a `vmlinux`'s DWARF or from a JSON of offsets; IRQ domains and
//! descriptors, modules, PCI, devices of a bus, memory resources, use counts of clocks, regulators, resets and PHYs.
//!
//! *Not modelled*: other architectures, 32-bit guests, physical addresses of 2^48 and above.
//!
//! Everything read is hostile: each walk has a budget, detects cycles, and hands back what it found so far.
//! The caller sees to it that the guest stands still meanwhile (paused vCPUs, or a core).
//!
//! *Sources*: Linux 6.1, 6.12 and 7.3: scripts/kallsyms.c, kernel/kallsyms.c, include/linux/maple_tree.h,
//! include/linux/xarray.h, include/linux/irqdesc.h, include/linux/irqdomain.h, arch/arm64/include/asm/memory.h.
#![forbid(unsafe_code)]

pub mod btf;
pub mod devices;
pub mod dwarf;
pub mod irq;
pub mod kallsyms;
pub mod kernel;
pub mod memory;
pub mod modules;
pub mod pci;
pub mod resources;
pub mod supplies;
pub mod translate;
pub mod types;
pub mod vmcoreinfo;
pub mod walk;

pub use devices::DeviceView;
pub use irq::Code;
pub use irq::Desc;
pub use irq::Domain;
pub use irq::IrqReader;
pub use irq::IrqView;
pub use irq::Level;
pub use irq::Msi;
pub use kallsyms::Symbols;
pub use kernel::Kernel;
pub use kernel::Object;
pub use kernel::OpenError;
pub use kernel::Source;
pub use memory::Core;
pub use memory::Memory;
pub use memory::RamImage;
pub use modules::ModuleView;
pub use pci::PciView;
pub use resources::ResourceView;
pub use supplies::SupplyView;
pub use types::Member;
pub use types::Types;
pub use vmcoreinfo::VmcoreInfo;
pub use walk::Corruption;
pub use walk::Walk;

/// A little-endian number of up to eight bytes at `at`, if all of it is there.
fn le(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let part = bytes.get(at..at.checked_add(size)?)?;
    let mut wide = [0; 8];
    wide.get_mut(..size)?.copy_from_slice(part);
    Some(u64::from_le_bytes(wide))
}
