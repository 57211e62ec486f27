//! Operands and answers of the operations that make drivers of a guest work: tools, disks, file systems, networks,
//! serial lines, random numbers, configuration space.

use serde::Deserialize;
use serde::Serialize;

/// Mixed random I/O on a block device, as fio does it, with every byte that is read back checked.
///
/// The device is divided into one region a job. Everything of a sector is a function of `seed`, its number and how often it
/// was written (its generation); a read must give what the job wrote last. Reads of blocks that the run did not write yet
/// are done but not checked. Data of an earlier run with the same seed cannot be told from this run's: give each its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BlockIo {
    /// e.g. `/dev/nvme0n1`.
    pub device: String,
    /// How much of the device, from its start, is used.
    pub bytes: u64,
    /// Size of a read or write; a multiple of 512, at most 1 MiB.
    pub block_bytes: u32,
    /// How many of 100 operations are reads.
    pub read_percent: u8,
    /// Threads, 1 to 16; each has one operation in flight and its own region.
    pub jobs: u32,
    /// Decides addresses, order and data.
    pub seed: u64,
    /// When it ends.
    pub limit: IoLimit,
    /// O_DIRECT. Without it most reads come from the page cache and check little of the device.
    pub direct: bool,
    /// Name under which the agent keeps what was written, for [`Op::BlockVerify`](crate::Op::BlockVerify), until a later run
    /// takes the name; empty: not kept.
    #[serde(default)]
    pub keep: String,
}

/// When I/O ends, if no error ends it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoLimit {
    /// Guest time.
    DurationMs(u64),
    /// Reads and writes of all jobs together, rounded up to a multiple of the jobs; with it and one seed, each run does the same.
    Ops(u64),
}

/// What came of [`BlockIo`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockIoResult {
    /// Reads that succeeded.
    pub reads: u64,
    /// Reads among them of blocks whose content was known.
    pub reads_verified: u64,
    /// Writes that succeeded.
    pub writes: u64,
    /// fdatasync calls that succeeded. A job that ends without an error ends with one.
    pub flushes: u64,
    /// Read and written.
    pub bytes: u64,
    /// System calls that failed, each the end of a job, e.g. `job 0: write block 17: I/O error`.
    pub errors: Vec<String>,
    /// Sectors that did not hold what was written.
    pub mismatches: u64,
    /// The first of them.
    pub mismatch_examples: Vec<String>,
    /// Guest time.
    pub elapsed_ms: u64,
}

/// What [`Op::BlockVerify`](crate::Op::BlockVerify) found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockVerifyResult {
    /// Blocks that were compared: those that had been flushed at least once.
    pub blocks: u64,
    /// The read that failed, if one did; it ends the comparison.
    pub errors: Vec<String>,
    /// Sectors that are damaged, or older than what was flushed.
    pub mismatches: u64,
    /// The first of them.
    pub mismatch_examples: Vec<String>,
}

/// What came of [`Op::FileIo`](crate::Op::FileIo). A failed system call is an error of the operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileIoResult {
    /// Files that were written, synced and read back.
    pub files: u32,
    /// Files among them that were deleted again.
    pub deleted: u32,
    /// Bytes that were read back.
    pub bytes: u64,
    /// Sectors of 512 bytes that did not hold what was written.
    pub mismatches: u64,
    /// The first of them.
    pub mismatch_examples: Vec<String>,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToolStatus {
    /// By itself, with this code.
    Exited(i32),
    /// By this signal; 9 at the timeout.
    Signal(i32),
    /// Not at all: it was killed and is still there, most likely asleep in the kernel.
    Stuck,
}

/// What came of [`Op::RunTool`](crate::Op::RunTool).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolOutput {
    /// How it ended.
    pub status: ToolStatus,
    /// Standard output and error through one pipe. Longer than 256 KiB: its beginning, a note, and its end. What is not
    /// UTF-8, and control characters, are replaced.
    pub output: String,
    /// Whether it was killed because its time was over.
    pub timed_out: bool,
}

/// What [`Op::ReadFile`](crate::Op::ReadFile) read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileText {
    /// As it is, with its trailing newline. What is not UTF-8, and control characters, are replaced.
    pub text: String,
    /// Whether the file goes on.
    pub truncated: bool,
}

/// What came back of what was sent, in frames or bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EchoResult {
    /// Sent.
    pub sent: u64,
    /// Came back as it should.
    pub received: u64,
    /// Came back otherwise.
    pub mismatches: u64,
    /// The first of them.
    pub mismatch_examples: Vec<String>,
}

/// What [`Op::ReadRng`](crate::Op::ReadRng) read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RngSample {
    /// Bytes that came.
    pub bytes: u64,
    /// Whether all have the same value: a stuck source.
    pub all_equal: bool,
}

/// A PCI function as sysfs shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciFunction {
    /// e.g. `0000:01:00.0`.
    pub address: String,
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Subsystem vendor ID.
    pub subsystem_vendor: u16,
    /// Subsystem ID.
    pub subsystem_device: u16,
    /// Class, subclass, programming interface.
    pub class: u32,
    /// Revision ID.
    pub revision: u8,
    /// Bound driver or empty.
    pub driver: String,
    /// Legacy `irq` attribute.
    pub irq: u32,
    /// virq and `msi` or `msix` of every vector, ascending.
    pub msi_irqs: Vec<(u32, String)>,
    /// Lines of `resource`: start, end, flags; BARs, expansion ROM, then what else the kernel counts.
    pub resources: Vec<String>,
    /// `current_link_speed`, e.g. `8.0 GT/s PCIe`; empty if the function has none.
    pub link_speed: String,
    /// `current_link_width`; 0 if the function has none.
    pub link_width: u32,
    /// How much of the configuration space the kernel lets read: 4096, or 256 if it cannot reach the rest.
    pub config_bytes: u32,
    /// The configuration space, two hexadecimal digits a byte; zero bytes at its end are left out.
    pub config: String,
}
