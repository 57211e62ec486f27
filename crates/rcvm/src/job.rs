//! What the front-end asks a worker to do, and what the worker tells it.

use std::path::PathBuf;

use clap::ValueEnum;
use guest_agent::ToolOutput;
use serde::Deserialize;
use serde::Serialize;
use torture::Plan;

use crate::topology::Topology;

/// A job: one guest, one task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Kernel image.
    pub kernel: PathBuf,
    /// Initramfs.
    pub initramfs: PathBuf,
    /// Words added to the guest's command line.
    pub append: String,
    /// vCPUs.
    pub vcpus: u8,
    /// Guest memory, MiB.
    pub memory_mib: u64,
    /// The root complex and how it is wired.
    pub board: Board,
    /// Whether to send the access trace.
    pub trace: bool,
    /// When to send the guest as an ELF core.
    pub core: Core,
    /// What to do with the guest.
    pub task: Task,
}

/// When the guest is kept as an ELF core: once in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Core {
    /// Never
    Never,
    /// At the first finding that the guest's memory says more about, if there is one
    OnFinding,
    /// At the first such finding, else at the end of the run
    Always,
}

/// The root complex of the machine and how it is wired.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Board {
    /// Name of the SoC whose root complex it is; checked by who made the job.
    pub soc: String,
    /// Whether an access to a block that stands still aborts in the guest.
    pub strict_gating: bool,
    /// Whether MSIs go to an ITS.
    pub its: bool,
    /// Whether the device tree has the `global` interrupt.
    pub global_irq: bool,
    /// Whether PARF's INT_ALL_MASK gates the msi lines.
    pub msi_gating: bool,
    /// Whether PHY and PERST# hang on the root port's node instead of the controller's.
    pub phy_at_port: bool,
    /// What is in the slot.
    pub slot: rc_model::Slot,
    /// Configuration requests that the endpoint answers with RRS after each reset.
    pub rrs: u32,
    /// What hangs below the root port.
    pub topology: Topology,
    /// What decides whatever cards leave to chance.
    pub seed: u64,
}

/// What to do with the guest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Run a plan.
    Torture(Plan),
    /// Load the driver once and say what there is, within the plan's timeouts.
    Show(Plan),
    /// Load the driver and those of the cards once, and run a program of the image.
    Tool(Tool),
    /// Measure I/O of a disk, in this machine and in QEMU's.
    Bench(Bench),
    /// Connect the console until the guest powers off.
    Shell,
}

/// A program of the image and what it needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tool {
    /// Target and timeouts.
    pub plan: Plan,
    /// Path in the guest.
    pub program: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// Longest that it may take, ms of guest time.
    pub timeout_ms: u64,
}

/// A comparison with QEMU's own NVMe controller on its generic host bridge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Bench {
    /// Target and timeouts.
    pub plan: Plan,
    /// Directory of an arm64 QEMU with its loader and libraries.
    pub qemu: PathBuf,
    /// How often each system is measured.
    pub rounds: u32,
    /// Reads of a measurement.
    pub reads: u64,
    /// Bytes of the disk.
    pub disk_bytes: u64,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum System {
    /// This machine, its endpoint's MSIs taken by an ITS.
    RcvmIts,
    /// QEMU as it comes.
    Qemu,
    /// QEMU with `ioeventfd=on` for its NVMe controller.
    QemuIoeventfd,
    /// This machine, its endpoint's MSIs taken by iMSI-RX.
    RcvmImsi,
}

/// All of them, in the order of the tables.
pub const SYSTEMS: [System; 4] = [System::RcvmIts, System::Qemu, System::QemuIoeventfd, System::RcvmImsi];

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// Of what.
    pub system: System,
    /// Reads in flight at a time.
    pub depth: u32,
    /// Reads done.
    pub reads: u64,
    /// In this time of the guest, ms.
    pub elapsed_ms: u64,
    /// Interrupts of the controller that its driver handled.
    pub interrupts: u64,
    /// What KVM counted meanwhile.
    pub exits: Exits,
    /// Doorbells that were eventfds, as far as this is known.
    pub doorbell_events: Option<u64>,
}

/// Counters of a machine in KVM's debugfs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exits {
    /// All exits of the vCPUs from the guest.
    pub all: u64,
    /// MMIO accesses that the VMM had to handle.
    pub mmio_user: u64,
    /// MMIO accesses that KVM handled, eventfds among them.
    pub mmio_kernel: u64,
    /// WFI.
    pub wfi: u64,
}

/// What a worker says, beside console output and trace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Message {
    /// The worker runs; in nested mode the outer machine has booted.
    Ready,
    /// The torture engine.
    Engine(torture::Event),
    /// A measurement for the report.
    Measured {
        /// Name, with its unit.
        name: String,
        /// Value.
        value: u64,
    },
    /// The release of the kernel that runs.
    Release(String),
    /// What the program of the task said.
    Tool(ToolOutput),
    /// A measurement of a comparison.
    Bench(Measurement),
    /// The guest ended or hung in the middle of the task: why.
    Crashed(String),
    /// The pieces of the core that were sent are all of it, or there is trouble.
    Core(torture::report::Core),
    /// A line for the user.
    Say(String),
    /// The guest ended or kept silent before its agent reported: why.
    NoAgent(String),
    /// The job could not be done; nothing follows.
    Failed(String),
    /// The guest ended or was stopped; nothing follows.
    Done,
}
