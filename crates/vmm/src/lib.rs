//! The KVM microVM: memory, GIC, vCPUs, FDT, loader, bus, consoles, lifecycle.
//!
//! *Modelled*: an arm64 machine with GICv3 (and ITS), PSCI, architected timer, a 16550 for early output, a PL031 clock, one virtio-mmio device
//! (console and result channel) and the root complex of [`rc_model`].
//! *Not modelled*: PCI beyond the root complex, hot-plug of memory or CPUs.
//! *Sources*: Linux Documentation/virt/kvm/api.rst and devices/arm-vgic-v3.rst; virtio 1.2; spec §1 for the device tree.
//!
//! Everything but KVM itself builds and is tested on any host.
//!
//! Lock order: model → irq lines → doorbells. The serial port, the virtio device and the trace are leaves.

pub mod bus;
pub mod core_dump;
pub mod doorbells;
mod error;
pub mod fdt;
pub mod interposer;
pub mod layout;
pub mod loader;
pub mod memory;
pub mod rtc;
pub mod serial;
pub mod timer;
pub mod trace;
pub mod virtio;
#[cfg(target_arch = "aarch64")]
mod vm;

pub use error::Error;
pub use loader::check_kernel;
pub use loader::read_kernel;
#[cfg(target_arch = "aarch64")]
pub use vm::CoreContents;
#[cfg(target_arch = "aarch64")]
pub use vm::Vm;

use std::path::PathBuf;

use block::SimTime;

/// What to boot.
pub struct VmSpec {
    /// Kernel `Image` or `Image.gz`.
    pub kernel: PathBuf,
    /// Initramfs.
    pub initramfs: PathBuf,
    /// Kernel command line.
    pub cmdline: String,
    /// vCPUs, 1–8.
    pub vcpus: u8,
    /// Guest memory, bytes; a multiple of 2 MiB.
    pub mem_bytes: u64,
    /// Accesses that the trace ring holds; 0: no trace.
    pub trace_entries: usize,
    /// The root complex.
    pub rc: rc_model::Config,
    /// Whether the device tree has the root complex' `global` interrupt.
    pub global_irq: bool,
    /// Whether PHY and PERST# hang on the root port's node instead of the controller's (spec §1.3).
    pub phy_at_port: bool,
}

/// What the machine lets its owner know.
#[derive(Debug)]
pub enum VmEvent {
    /// Bytes of the guest's console.
    Console(Vec<u8>),
    /// Bytes that the guest wrote to the result channel.
    Channel(Vec<u8>),
    /// The guest opened or closed the result channel.
    ChannelOpen(bool),
    /// The model observed something.
    Model(rc_model::Event, SimTime),
    /// The machine has stopped; nothing follows.
    Exited(ExitReason),
}

/// Why the machine stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExitReason {
    /// PSCI SYSTEM_OFF.
    PowerOff,
    /// PSCI SYSTEM_RESET: a reboot, or a panic with `panic=-1`.
    Reset,
    /// KVM_SYSTEM_EVENT_CRASH.
    Crash,
    /// Stopped by its owner.
    Stopped,
    /// KVM could not go on: what it said, with registers where they can be had.
    Internal(String),
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// MMIO exits of all vCPUs.
    pub mmio_exits: u64,
    /// Doorbells that came as eventfds: writes that were no MMIO exit. Writes that nobody looked at in between count once.
    pub doorbell_events: u64,
    /// MMIO exits at addresses where nothing is.
    pub unmapped: u64,
}
