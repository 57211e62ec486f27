//! The command line.

use std::path::PathBuf;

use clap::builder::PossibleValue;
use clap::Args;
use clap::Parser;
use clap::Subcommand;
use clap::ValueEnum;
use serde::Deserialize;
use serde::Serialize;
use torture::defect::DEFECTS;
use torture::plan::IrqViews;
use torture::Defect;

use crate::job::Core;

/// Boot real arm64 Linux guests on an emulated Qualcomm/DesignWare PCIe root complex, unbind and rebind the real
/// pcie-qcom driver, and check from the host that every IRQ mapping was released.
#[derive(Debug, Parser)]
// The last of equal options counts, so that scripts can be given options of their own.
#[command(name = "rcvm", version, max_term_width = 110, args_override_self = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Look at this machine and say what is missing
    Doctor,
    /// Guest images
    #[command(subcommand)]
    Image(ImageCommand),
    /// Boot a guest, load the driver once and show what it found (or give a shell)
    Run(RunArgs),
    /// Boot a guest, load the drivers once and print what lspci says there
    #[command(
        after_help = "Exit code: 0 lspci ran, 1 lspci failed, 2 bad usage or a missing prerequisite, 3 crash or hang."
    )]
    Lspci(LspciArgs),
    /// Load, use and tear down the driver, cycle after cycle, and check what is left behind
    #[command(
        after_help = "Exit code: 0 clean (or residue), 1 leak (or residue with --strict), 2 bad usage or a missing \
        prerequisite, 3 crash or hang, 4 inconclusive.\n\nArtifacts in --out: report.json, console.log, boot.log (the kernel log up to the agent), trace.bin; at the end report.html, junit.xml, ktap.txt."
    )]
    Torture(TortureArgs),
    /// Torture with each defect of `torture --defect` in turn: the checks have to catch it, and find nothing without one
    Defects(DefectsArgs),
    /// Torture every SoC on every kernel series, and the control that must fail on each
    Matrix(MatrixArgs),
    /// Run the kernel's own test programs for pci_endpoint_test, unchanged, and say test by test what came of it
    #[command(
        after_help = "Exit code: 0 nothing failed, 1 a test failed, 2 bad usage or a missing prerequisite, 3 crash or \
        hang, 4 a program did not come to its end.\n\nArtifacts in --out: selftest.md; for each series output.txt, results.json, \
        console.log."
    )]
    Selftest(SelftestArgs),
    /// Measure, and compare with QEMU under the same KVM. A benchmark reports; it fails only if it cannot be run
    #[command(subcommand)]
    Bench(BenchCommand),
    /// List plans, print one, or check a file of your own (docs/plans.md)
    #[command(subcommand)]
    Plan(PlanCommand),
    /// Decode a trace.bin: one register access a line
    Trace(TraceArgs),
    /// Show a guest kernel's own structures, read from a core with no help from the guest
    #[command(
        after_help = "Needs a kernel with BTF and CONFIG_KALLSYMS_ALL. Exit code: 0 shown (what could not be read is said on \
        standard error), 2 the core cannot be read."
    )]
    Inspect(InspectArgs),
    /// Run again what a report came from, and say how often it ends the same way
    #[command(
        after_help = "The same: the same verdict, and a finding in common if there was any. Exit code: 0 reproduced at least once, 1 \
        never, 2 it could not be run. Each run is kept as replay-N in DIR."
    )]
    Replay(ReplayArgs),
    /// Show what a run found, or make its page anew
    #[command(
        args_conflicts_with_subcommands = true,
        subcommand_negates_reqs = true,
        after_help = "Exit code of `report DIR`: that of the run, as of torture."
    )]
    Report(ReportArgs),
    /// Print the register reference of the model (docs/registers.md)
    Registers,
    /// Execute a job on this machine's KVM (started by rcvm itself)
    #[command(hide = true)]
    Worker {
        /// Job description.
        job: PathBuf,
    },
}

/// Image commands.
#[derive(Debug, Subcommand)]
pub enum ImageCommand {
    /// Build a profile's kernel, driver and initramfs (cached by content)
    Build {
        /// Profile; see `rcvm image list`
        #[arg(default_value = "modular")]
        profile: String,
        /// Kernel series: two numbers (6.1, 6.12, …), or newest; sources that are not installed are fetched
        #[arg(long, default_value = "6.12", value_name = "SERIES")]
        series: String,
        /// Your own kernel tree instead of a packaged series; it is copied, never written to
        #[arg(long, value_name = "DIR", conflicts_with = "series")]
        kernel_tree: Option<PathBuf>,
    },
    /// List profiles and what is built
    List,
}

/// Plan commands.
#[derive(Debug, Subcommand)]
pub enum PlanCommand {
    /// The plans that come with rcvm
    List,
    /// Print the file of one of them: a start for your own
    Show {
        /// Its name
        name: String,
    },
    /// Check plan files; errors name line and key
    Check {
        /// Plan files, or names
        #[arg(required = true)]
        plans: Vec<String>,
    },
}

/// Which machine runs the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// Native where it works, else nested
    Auto,
    /// This machine's own arm64 KVM
    Native,
    /// An emulated arm64 machine (QEMU TCG) with KVM in it
    Nested,
}

/// What an access to a block without clock or in reset does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Gating {
    /// It reads all ones, and is a finding
    Lenient,
    /// It aborts in the guest, as on silicon, and is a finding
    Strict,
}

/// Yes, no, or as the kernel series has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// As device trees of this kernel series have it
    Auto,
    /// Yes
    Yes,
    /// No
    No,
}

/// What is in the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum SlotArg {
    /// The endpoint
    Endpoint,
    /// Nothing
    Empty,
    /// A card that never answers: the link stays in Polling
    Mute,
}

/// What takes MSIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Msi {
    /// The root complex' own controller, iMSI-RX
    Imsi,
    /// The GIC's ITS, by a msi-map in the device tree; iMSI-RX is not used then
    Its,
}

/// Who is asked about IRQ mappings and domains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum IrqViewsArg {
    /// The guest's memory, which the host reads; what the guest itself says has to agree
    Both,
    /// The guest's memory only
    Memory,
    /// What the guest says of itself only, in sysfs and debugfs
    Agent,
}

impl IrqViewsArg {
    /// Name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            IrqViewsArg::Both => "both",
            IrqViewsArg::Memory => "memory",
            IrqViewsArg::Agent => "agent",
        }
    }
}

impl From<IrqViewsArg> for IrqViews {
    fn from(a: IrqViewsArg) -> IrqViews {
        match a {
            IrqViewsArg::Both => IrqViews::Both,
            IrqViewsArg::Memory => IrqViews::Memory,
            IrqViewsArg::Agent => IrqViews::Agent,
        }
    }
}

/// Something that happens to the link or the machine while the driver is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum During {
    /// The guest suspends to idle, and a clock wakes it
    Suspend,
    /// The same while the endpoint has no driver, so that Linux 7 turns the link off
    SuspendL2,
    /// The endpoint is reset through sysfs
    Reset,
    /// The root port retrains the link
    Retrain,
    /// The root port disables the link for 10 ms
    LinkDisable,
    /// The link is lost by itself and trains again
    LinkLoss,
    /// The card is pulled, and comes back for the next cycle
    SurpriseRemoval,
    /// The cards in slots of switches are pulled by surprise, put back, and have to work again
    HotSwap,
    /// The same after the guest has taken them out of service
    HotPlug,
    /// Drivers of the other functions of the endpoint's device are unbound while it interrupts, and it is while they work
    Neighbour,
}

/// A defect of the endpoint's driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DefectArg(pub Defect);

impl ValueEnum for DefectArg {
    fn value_variants<'a>() -> &'a [Self] {
        const ALL: [DefectArg; DEFECTS.len()] = {
            let mut all = [DefectArg(Defect::None); DEFECTS.len()];
            let mut i = 0;
            while i < all.len() {
                all[i] = DefectArg(DEFECTS[i].defect);
                i += 1;
            }
            all
        };
        &ALL
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let row = self.0.row();
        Some(PossibleValue::new(row.name).help(row.about))
    }
}

/// Which guest.
#[derive(Clone, Debug, Args)]
pub struct GuestArgs {
    /// Guest image profile: default is the correct driver of the SoC
    #[arg(long, value_name = "NAME")]
    pub profile: Option<String>,
    /// Kernel series of the image: two numbers (6.1, 6.12, …), or newest (as of the last `image build --series newest`);
    /// sources that are not installed are fetched
    #[arg(long, default_value = "6.12", value_name = "SERIES")]
    pub series: String,
    /// SoC whose root complex the guest gets: sm8250, or with --profile stock dw-ecam, which its kernel can unbind
    #[arg(long, value_name = "NAME")]
    pub soc: Option<String>,
    /// What an access to a block without clock or in reset does
    #[arg(long, value_enum, default_value_t = Gating::Lenient)]
    pub gating: Gating,
    /// What takes the endpoint's MSIs
    #[arg(long, value_enum, default_value_t = Msi::Imsi)]
    pub msi: Msi,
    /// Whether the device tree has the `global` interrupt (link events): auto is yes from Linux 7.0
    #[arg(long, value_enum, default_value_t = Choice::Auto, value_name = "CHOICE")]
    pub global_irq: Choice,
    /// Whether PHY and PERST# hang on the root port's node: auto is yes for newer SoCs from Linux 7.0
    #[arg(long, value_enum, default_value_t = Choice::Auto, value_name = "CHOICE")]
    pub phy_at_port: Choice,
    /// What is in the slot
    #[arg(long, value_enum, default_value_t = SlotArg::Endpoint)]
    pub slot: SlotArg,
    /// A card below the root port: KIND,KEY=VALUE,… with port=0 for the root port's slot, port=0.1 for slot 1 of the switch in
    /// it; more than once for more. nvme and virtio-blk take file=PATH (torture only reads it, unless
    /// it is file=PATH,scratch) and file=PATH,readonly. Kinds and settings: docs/topology.md. Default: endpoint-test
    #[arg(long, value_name = "CARD", action = clap::ArgAction::Append)]
    pub endpoint: Vec<String>,
    /// The same from a file (TOML, docs/topology.md)
    #[arg(long, value_name = "FILE", conflicts_with = "endpoint")]
    pub topology: Option<PathBuf>,
    /// A card misbehaves: ACT,KEY=VALUE,…, e.g. late-msi, vanish,on=phase:rmmod or all-ones,on=mem-read,nth=9 (docs/topology.md);
    /// more than once for more
    #[arg(long, value_name = "RULE", action = clap::ArgAction::Append)]
    pub misbehave: Vec<String>,
    /// Configuration requests that the endpoint answers with "retry" (RRS) after each reset
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub rrs: u32,
    /// Your own arm64 kernel Image or Image.gz instead of the profile's
    #[arg(long, value_name = "IMAGE")]
    pub kernel: Option<PathBuf>,
    /// Your own kernel tree: it is built as the image of --profile is (in a copy: the tree is not written to). Profile `own`
    /// takes its pcie-qcom as it is
    #[arg(long, value_name = "DIR", conflicts_with_all = ["kernel", "modules", "initramfs"])]
    pub kernel_tree: Option<PathBuf>,
    /// Directory with your own driver (pcie-qcom.ko, or that of --soc) and pci_endpoint_test.ko (found below it), built for
    /// --kernel
    #[arg(long, value_name = "DIR")]
    pub modules: Option<PathBuf>,
    /// Your own initramfs, complete with the rcvm agent, instead of the profile's
    #[arg(long, value_name = "CPIO", conflicts_with = "modules")]
    pub initramfs: Option<PathBuf>,
    /// Words added to the guest's kernel command line
    #[arg(long, default_value = "", value_name = "WORDS")]
    pub append: String,
    /// vCPUs of the guest
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(1..=4))]
    pub vcpus: u8,
    /// Guest memory in MiB
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u64).range(128..=4096), value_name = "MIB")]
    pub memory: u64,
    /// Where the guest runs
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    pub mode: Mode,
    /// Longest wait for the guest's agent after boot, seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600), value_name = "SECONDS")]
    pub boot_timeout: u64,
    /// Longest wait for one operation in the guest, seconds
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600), value_name = "SECONDS")]
    pub op_timeout: u64,
}

/// Arguments of `rcvm run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Interactive shell on the guest's console (uses the distribution's busybox)
    #[arg(long)]
    pub shell: bool,
    /// Directory for the socket that `rcvm inspect --run` asks
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Arguments of `rcvm lspci`.
#[derive(Clone, Debug, Args)]
pub struct LspciArgs {
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Arguments of lspci, after `--`: -vvv if there are none
    #[arg(last = true, value_name = "ARGS")]
    pub lspci: Vec<String>,
}

/// Arguments of `rcvm torture`.
#[derive(Clone, Debug, Args)]
pub struct TortureArgs {
    #[command(flatten)]
    pub guest: GuestArgs,
    /// Cycles to run: 20, or what the plan says
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub cycles: Option<u32>,
    /// What each cycle does: a plan of `rcvm plan list`, or a file (docs/plans.md)
    #[arg(long, value_name = "NAME|FILE", conflicts_with_all = ["during", "defect"])]
    pub plan: Option<String>,
    /// Seed of every choice that is left open
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub seed: u64,
    /// MSI vectors to raise in each cycle
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=32), value_name = "N")]
    pub msi_vectors: u32,
    /// MSI-X vectors to raise in each cycle
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=32), value_name = "N")]
    pub msix_vectors: u32,
    /// What happens to the link in each cycle before the teardown, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    pub during: Vec<During>,
    /// Make, use and unmount a file system on each disk in each cycle (uses the distribution's busybox)
    #[arg(long)]
    pub filesystem: bool,
    /// The endpoint's driver is one of rcvm's own whose remove has this defect
    #[arg(long, value_enum, value_name = "NAME", conflicts_with_all = ["during", "slot"])]
    pub defect: Option<DefectArg>,
    /// Who is asked which IRQ mappings and domains there are
    #[arg(long, value_enum, default_value = "both", value_name = "WHO")]
    pub irq_views: IrqViewsArg,
    /// Directory for report.json, report.html, junit.xml, ktap.txt, console.log, boot.log, trace.bin and core.elf
    #[arg(long, default_value = "rcvm-out", value_name = "DIR")]
    pub out: PathBuf,
    /// Do not keep the access trace
    #[arg(long)]
    pub no_trace: bool,
    /// When to keep the guest's memory and registers as core.elf, which drgn opens; once in a run
    #[arg(long, value_enum, default_value = "on-finding", value_name = "WHEN")]
    pub core: Core,
    /// Known residue is a failure too
    #[arg(long)]
    pub strict: bool,
}

/// Arguments of `rcvm replay`.
#[derive(Clone, Debug, Args)]
pub struct ReplayArgs {
    /// Directory of a run of torture
    pub dir: PathBuf,
    /// How often
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000), value_name = "N")]
    pub times: u32,
}

/// Arguments of `rcvm report`.
#[derive(Clone, Debug, Args)]
pub struct ReportArgs {
    /// Directory of a run
    #[arg(required = true)]
    pub dir: Option<PathBuf>,
    #[command(subcommand)]
    pub command: Option<ReportCommand>,
}

/// What to do with a report.
#[derive(Clone, Debug, Subcommand)]
pub enum ReportCommand {
    /// Write report.html, junit.xml and ktap.txt anew, from report.json: a run that was killed has none
    Html {
        /// Directory of a run
        dir: PathBuf,
    },
}

/// Arguments of `rcvm matrix`.
#[derive(Clone, Debug, Args)]
pub struct MatrixArgs {
    /// Kernel series, separated by commas: two numbers each, or newest
    #[arg(long, default_value = "6.1,6.12,newest", value_delimiter = ',', value_name = "LIST")]
    pub series: Vec<String>,
    /// SoCs, separated by commas; all of them if none is given
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub soc: Vec<String>,
    /// Only these rows, by their names in the table, separated by commas
    #[arg(long, value_delimiter = ',', value_name = "LIST", conflicts_with = "soc")]
    pub only: Vec<String>,
    /// Cycles of each run: 4 have every way of loading and of tearing down
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub cycles: u32,
    /// Directory for matrix.md, matrix.json and the artifacts of each run
    #[arg(long, default_value = "rcvm-matrix", value_name = "DIR")]
    pub out: PathBuf,
}

/// Arguments of `rcvm defects`.
#[derive(Clone, Debug, Args)]
pub struct DefectsArgs {
    /// Kernel series, separated by commas: two numbers each, or newest
    #[arg(long, default_value = "6.12", value_delimiter = ',', value_name = "LIST")]
    pub series: Vec<String>,
    /// Defects, separated by commas; all of them if none is given
    #[arg(long, value_enum, value_delimiter = ',', value_name = "LIST")]
    pub defect: Vec<DefectArg>,
    /// Cycles of each run
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub cycles: u32,
    /// Who is asked which IRQ mappings and domains there are
    #[arg(long, value_enum, default_value = "both", value_name = "WHO")]
    pub irq_views: IrqViewsArg,
    /// Directory for defects.md and the artifacts of each run
    #[arg(long, default_value = "rcvm-defects", value_name = "DIR")]
    pub out: PathBuf,
}

/// Arguments of `rcvm selftest`.
#[derive(Clone, Debug, Args)]
pub struct SelftestArgs {
    /// Kernel series, separated by commas: two numbers each, or newest
    #[arg(long, default_value = "6.12", value_delimiter = ',', value_name = "LIST")]
    pub series: Vec<String>,
    /// What takes the endpoint's MSIs. iMSI-RX has 256 vectors and pcitest.sh tries 2048: each absent one takes it 1 s
    #[arg(long, value_enum, default_value_t = Msi::Its)]
    pub msi: Msi,
    /// MSI-X vectors of the endpoint: 2048, or 128 with --msi imsi
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=2048), value_name = "N")]
    pub vectors: Option<u16>,
    /// SoC whose root complex is emulated: sm8250 if it is not given; `rcvm run --help` names them
    #[arg(long, value_name = "NAME")]
    pub soc: Option<String>,
    /// Longest that a program may take, seconds of guest time
    #[arg(long, default_value_t = 3000, value_parser = clap::value_parser!(u64).range(1..=86_400), value_name = "SECONDS")]
    pub timeout: u64,
    /// Where guests run
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    pub mode: Mode,
    /// Directory for selftest.md and the artifacts of each series
    #[arg(long, default_value = "rcvm-selftest", value_name = "DIR")]
    pub out: PathBuf,
}

/// What to measure.
#[derive(Clone, Debug, Subcommand)]
pub enum BenchCommand {
    /// Random reads of 4 KiB from an NVMe disk in memory, through this root complex and through QEMU's generic host bridge, in turn
    Nvme(BenchArgs),
}

/// Arguments of `rcvm bench nvme`.
#[derive(Clone, Debug, Args)]
pub struct BenchArgs {
    /// Kernel series: two numbers, or newest
    #[arg(long, default_value = "6.12", value_name = "SERIES")]
    pub series: String,
    /// How often each system is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100), value_name = "N")]
    pub rounds: u32,
    /// Reads of a measurement
    #[arg(long, default_value_t = 4000, value_parser = clap::value_parser!(u64).range(100..=10_000_000), value_name = "N")]
    pub reads: u64,
    /// Where guests run
    #[arg(long, value_enum, default_value_t = Mode::Auto)]
    pub mode: Mode,
    /// Write the medians there, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Arguments of `rcvm trace`.
#[derive(Clone, Debug, Args)]
pub struct TraceArgs {
    /// A trace.bin of `rcvm torture`, or the directory that has it
    pub file: PathBuf,
    /// Only this cycle of the file, counted from 1
    #[arg(long, value_name = "N")]
    pub cycle: Option<usize>,
    #[command(flatten)]
    pub only: TraceFilter,
    /// Compare with another trace (or with --with-cycle of the same): the same registers in the same order, with the same values?
    /// Times, vCPUs and addresses of code do not count. Exit code 1 if they differ
    #[arg(long, value_name = "FILE")]
    pub diff: Option<PathBuf>,
    /// Cycle of the other trace; the same as --cycle if it is not given
    #[arg(long, value_name = "N", requires = "diff")]
    pub with_cycle: Option<usize>,
    /// Write a JSON file that trace viewers (chrome://tracing, Perfetto) open
    #[arg(long, value_name = "FILE", conflicts_with = "diff")]
    pub chrome: Option<PathBuf>,
    /// Write a recording that tests replay against the model: everything from power-on to the end of cycle 1
    #[arg(long, value_name = "FILE", conflicts_with_all = ["diff", "chrome"])]
    pub record: Option<PathBuf>,
}

/// What to show of a guest kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum View {
    /// Interrupt descriptors, their domains and handlers
    Irqs,
    /// Interrupt domains
    Domains,
    /// PCI buses and devices, drivers, MSI descriptors
    Pci,
    /// Loaded modules
    Modules,
    /// Platform devices, their drivers, and deferred probes
    Devices,
    /// The tree of memory resources
    Iomem,
    /// Use counts of clocks, regulators, resets and PHYs
    Clocks,
}

/// Arguments of `rcvm inspect`.
#[derive(Clone, Debug, Args)]
pub struct InspectArgs {
    /// What to show
    #[arg(value_enum)]
    pub view: View,
    /// An arm64 core (vmcore): core.elf of `rcvm torture`, or the directory that has it
    #[arg(long, value_name = "FILE", conflicts_with = "run", required_unless_present = "run")]
    pub core: Option<PathBuf>,
    /// A guest that runs: the directory that its `rcvm torture` or `rcvm run` has as --out
    #[arg(long, value_name = "DIR")]
    pub run: Option<PathBuf>,
    /// Image or Image.gz of the core's kernel; if it is not given, that of the report beside the core, else the one in the core
    #[arg(long, value_name = "IMAGE", conflicts_with = "run")]
    pub kernel: Option<PathBuf>,
    /// The kernel's vmlinux with debug information, to take types from: for an Image without BTF
    #[arg(long, value_name = "FILE", conflicts_with = "run")]
    pub vmlinux: Option<PathBuf>,
    /// As JSON, with addresses; with --watch, a line of JSON for each change
    #[arg(long)]
    pub json: bool,
    /// Then each row that appears or disappears, until the run ends or Ctrl-C
    #[arg(long, requires = "run", conflicts_with = "core")]
    pub watch: bool,
}

/// Which accesses of a trace.
#[derive(Clone, Debug, Default, Args)]
pub struct TraceFilter {
    /// Only these windows, separated by commas: parf, dbi, elbi, atu, mhi, config, mem, gpio, reset, phy, apb
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub window: Vec<String>,
    /// Only registers whose name contains this, e.g. LTSSM
    #[arg(long, value_name = "NAME")]
    pub register: Option<String>,
    /// Only accesses from functions whose name contains this, e.g. qcom_pcie
    #[arg(long, value_name = "SUBSTRING")]
    pub symbol: Option<String>,
    /// Only what happened in these phases, separated by commas, e.g. insmod,rmmod
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub phase: Vec<String>,
    /// Only accesses of this vCPU
    #[arg(long, value_name = "N")]
    pub vcpu: Option<u8>,
    /// Only from this time since power-on, ms
    #[arg(long, value_name = "MS")]
    pub from_ms: Option<f64>,
    /// Only up to this time since power-on, ms
    #[arg(long, value_name = "MS")]
    pub to_ms: Option<f64>,
    /// Only writes
    #[arg(long)]
    pub writes: bool,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_last_of_equal_options_counts() {
        let cli = Cli::try_parse_from(["rcvm", "torture", "--cycles", "20", "--cycles", "3"]).unwrap();
        assert!(matches!(cli.command, Command::Torture(a) if a.cycles == Some(3)));
    }

    #[test]
    fn endpoints_and_misbehaviours_add_up() {
        let words =
            ["rcvm", "torture", "--endpoint", "a", "--misbehave", "b", "--endpoint", "c", "--misbehave", "d"];
        let cli = Cli::try_parse_from(words).unwrap();
        let Command::Torture(a) = cli.command else { panic!() };
        assert_eq!(
            (a.guest.endpoint, a.guest.misbehave),
            (vec!["a".into(), "c".into()], vec!["b".into(), "d".into()])
        );
    }

    #[test]
    fn zero_cycles_and_five_vcpus_are_refused() {
        assert!(Cli::try_parse_from(["rcvm", "torture", "--cycles", "0"]).is_err());
        assert!(Cli::try_parse_from(["rcvm", "torture", "--vcpus", "5"]).is_err());
        assert!(Cli::try_parse_from(["rcvm", "torture", "--cycles", "1", "--vcpus", "4"]).is_ok());
    }
}
