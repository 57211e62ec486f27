//! Errors of starting a machine, each one line that names the thing and the remedy.

use std::path::PathBuf;

/// Why a machine could not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read.
    #[error("cannot read {}", .file.display())]
    Read {
        /// Which file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The kernel is not an arm64 Image.
    #[error("{} is {what}, not an arm64 kernel: give arch/arm64/boot/Image or Image.gz", .file.display())]
    NotArm64 {
        /// Which file.
        file: PathBuf,
        /// What it is instead.
        what: &'static str,
    },
    /// The kernel file is shorter than its header says.
    #[error("{} is truncated: {have} bytes of at least {need}; copy or build it again", .file.display())]
    Truncated {
        /// Which file.
        file: PathBuf,
        /// Bytes there are.
        have: u64,
        /// Bytes there must be.
        need: u64,
    },
    /// Kernel and initramfs do not fit.
    #[error("{} needs {need_mib} MiB of guest memory, there are {have_mib}: raise --memory", .file.display())]
    TooLarge {
        /// Which file.
        file: PathBuf,
        /// MiB needed.
        need_mib: u64,
        /// MiB there are.
        have_mib: u64,
    },
    /// The initramfs is empty.
    #[error("{} is empty: not an initramfs", .file.display())]
    Empty {
        /// Which file.
        file: PathBuf,
    },
    /// Guest memory could not be mapped.
    #[error("cannot map {mib} MiB of guest memory: {why}; lower --memory")]
    Memory {
        /// MiB asked for.
        mib: u64,
        /// Why.
        why: String,
    },
    /// KVM refused something.
    #[error("KVM: {what}: {why}")]
    Kvm {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        why: String,
    },
    /// The device tree could not be built.
    #[error("device tree: {0}")]
    Fdt(#[from] vm_fdt::Error),
}
