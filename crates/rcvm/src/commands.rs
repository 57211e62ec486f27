//! The commands behind the command line.

mod bench;
mod defects;
mod doctor;
mod image;
mod inspect;
mod lspci;
mod matrix;
mod plan;
mod replay;
mod report;
mod run;
mod selftest;
mod tool;
mod torture;
mod trace;

use std::path::Path;
use std::path::PathBuf;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use rc_model::wrapper::Kind;

use crate::cli::Choice;
use crate::cli::Command;
use crate::cli::Gating;
use crate::cli::GuestArgs;
use crate::cli::Msi;
use crate::cli::SlotArg;
use crate::front;
use crate::front::Where;
use crate::job::Board;
use crate::topology::Card;
use crate::topology::CardKind;
use crate::topology::Misbehaviour;
use crate::topology::Topology;

/// Run `command`; the result is the exit code.
pub fn run(command: Command) -> Result<u8> {
    match command {
        Command::Doctor => doctor::run(),
        Command::Image(c) => image::run(c),
        Command::Run(args) => run::run(&args),
        Command::Lspci(args) => lspci::run(&args),
        Command::Torture(args) => torture::run(&args),
        Command::Defects(args) => defects::run(&args),
        Command::Matrix(args) => matrix::run(&args),
        Command::Selftest(args) => selftest::run(&args),
        Command::Bench(c) => bench::run(&c),
        Command::Inspect(args) => inspect::run(&args),
        Command::Plan(c) => plan::run(&c),
        Command::Trace(args) => trace::run(&args),
        Command::Replay(args) => replay::run(&args),
        Command::Report(args) => report::run(&args),
        Command::Registers => {
            print!("{}", rc_model::reference());
            Ok(0)
        }
        Command::Worker { job } => {
            let stream = crate::front::native_stream(&job)?;
            crate::worker::serve(&job, stream.try_clone().context("clone the stream")?, stream, None)?;
            Ok(0)
        }
    }
}

/// The files of a guest, ready to boot.
struct Guest {
    /// Guest kernel.
    kernel: PathBuf,
    /// Guest initramfs.
    initramfs: PathBuf,
    /// The image that the outer machine boots with: a built one, never what is under test.
    image: images::Image,
    /// Whose root complex.
    soc: &'static rc_model::Soc,
    /// The root complex as the job has it.
    board: Board,
    /// Profile name for reports.
    profile: String,
    /// Keeps a generated initramfs until the run ends.
    _dir: Option<tempfile::TempDir>,
}

/// Find or build what `args` asks for, and check it before anything boots.
fn guest(args: &GuestArgs) -> Result<Guest> {
    let stock = args.profile.as_deref().map_or(Ok(false), images::is_stock)?;
    let soc = soc(args.soc.as_deref().unwrap_or(if stock { STOCK_SOC } else { DEFAULT_SOC }))?;
    let mut profile = profile(args, soc)?;
    let stock = images::is_stock(&profile)?;
    let progress: images::Progress<'_> = &mut |line| eprintln!("{line}");
    let series = match &args.kernel_tree {
        Some(dir) => images::tree_series(dir)?,
        None if stock => images::stock_series(&args.series, false, progress)?,
        None => images::series(&args.series, false, progress)?,
    };
    if args.kernel.is_none() && series < images::Series::new(soc.since.0, soc.since.1) {
        bail!(
            "Linux {series} does not know {}: give --series {}.{} or newer, or another --soc",
            soc.compatible,
            soc.since.0,
            soc.since.1
        );
    }
    let topology = if stock { stock_topology(args)? } else { topology(args)? };
    let board = Board { topology, ..board(args, soc, series) };
    if let Some(dir) = &args.kernel_tree {
        return tree_guest(profile, dir, soc, board, progress);
    }
    let image = images::build(&profile, series, progress)?;
    let kernel = match &args.kernel {
        Some(k) => {
            profile = "custom".into();
            k.clone()
        }
        None => image.kernel.clone(),
    };
    vmm::check_kernel(&kernel)?;
    let (initramfs, dir) = match (&args.modules, &args.initramfs) {
        (Some(modules), _) => {
            profile = "custom".into();
            let (path, dir) = initramfs_with(modules, &image, soc.wrapper.module)?;
            (path, Some(dir))
        }
        (None, Some(file)) => {
            profile = "custom".into();
            check_readable(file, "--initramfs")?;
            (file.clone(), None)
        }
        (None, None) if args.kernel.is_some() => bail!(
            "--kernel needs --modules DIR with {}.ko and pci_endpoint_test.ko built for it (or --initramfs)",
            soc.wrapper.module
        ),
        (None, None) => (image.initramfs.clone(), None),
    };
    Ok(Guest { kernel, initramfs, image, soc, board, profile, _dir: dir })
}

/// SoC if none is named, and the one of the distribution's own kernel.
const DEFAULT_SOC: &str = "sm8250";
const STOCK_SOC: &str = "dw-ecam";

/// The distribution's own kernel has no driver of the endpoint-test function: without other cards there is a disk.
fn stock_topology(args: &GuestArgs) -> Result<Topology> {
    let t = topology(args)?;
    if args.kernel.is_some() || !t.has(CardKind::EndpointTest) {
        return Ok(t);
    }
    if args.topology.is_none() && args.endpoint.is_empty() {
        let cards = vec![Card::parse("nvme")?];
        return Ok(Topology { cards, ..t });
    }
    bail!("the distribution's kernel has no pci_endpoint_test: give --profile stock other cards (docs/topology.md), e.g. --endpoint nvme")
}

/// The profile that was asked for, or the SoC's own.
fn profile(args: &GuestArgs, soc: &rc_model::Soc) -> Result<String> {
    let needed = soc.wrapper.module;
    let fitting = images::profiles_of(needed)?;
    let Some(asked) = &args.profile else {
        return fitting.into_iter().next().with_context(|| format!("no profile for {needed}"));
    };
    // It has the drivers that it has: the engine says which one is not there.
    if images::is_stock(asked)? {
        return Ok(asked.clone());
    }
    let module = images::driver_module(asked)?;
    if module != needed {
        bail!(
            "profile {asked} is about {module}, and --soc {} needs {needed}: give --profile {} or another --soc",
            soc.name,
            fitting.join(" or ")
        );
    }
    Ok(asked.clone())
}

/// A guest of a developer's kernel tree. The outer machine boots with the default image: it must not be what is under test.
fn tree_guest(
    profile: String,
    dir: &Path,
    soc: &'static rc_model::Soc,
    board: Board,
    progress: images::Progress<'_>,
) -> Result<Guest> {
    let image = images::build("modular", images::series::DEFAULT, progress)?;
    let built = images::build_tree(&profile, dir, progress)?;
    Ok(Guest { kernel: built.kernel, initramfs: built.initramfs, image, soc, board, profile, _dir: None })
}

/// First series whose driver recovers a lost link through `global`, and finds PHY and PERST# at the root port (spec §1.3, §6.a).
const RECOVERS: images::Series = images::Series::new(7, 0);

fn board(args: &GuestArgs, soc: &rc_model::Soc, series: images::Series) -> Board {
    let has_global = soc.lines().any(|l| l == rc_model::soc::IRQ_GLOBAL);
    let global_irq = has_global
        && match args.global_irq {
            Choice::Auto => series >= RECOVERS,
            choice => choice == Choice::Yes,
        };
    Board {
        soc: soc.name.into(),
        strict_gating: args.gating == Gating::Strict,
        its: args.msi == Msi::Its || !soc.wrapper.takes_msis(),
        global_irq,
        // Older drivers switch the MSI bits off and get MSIs all the same: there the bits must not count (spec §2.2.2).
        msi_gating: global_irq && series >= RECOVERS,
        phy_at_port: match args.phy_at_port {
            Choice::Auto => series >= RECOVERS && soc.phy_at_port,
            choice => choice == Choice::Yes && soc.wrapper.kind == Kind::Qcom,
        },
        slot: match args.slot {
            SlotArg::Endpoint => rc_model::Slot::Present,
            SlotArg::Empty => rc_model::Slot::Absent,
            SlotArg::Mute => rc_model::Slot::Mute,
        },
        rrs: args.rrs,
        topology: Topology::default(),
        seed: 1,
    }
}

/// Where the guest runs; what hangs below its root port can be reached from there.
fn place(args: &GuestArgs) -> Result<Where> {
    let place = front::decide(args.mode)?;
    topology(args)?.check_reach()?;
    Ok(place)
}

/// What hangs below the root port, checked.
fn topology(args: &GuestArgs) -> Result<Topology> {
    let mut t = match &args.topology {
        Some(file) => {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("--topology {}: cannot read it", file.display()))?;
            Topology::parse(&text).with_context(|| format!("--topology {}", file.display()))?
        }
        None if args.endpoint.is_empty() => Topology::endpoint_test(),
        None => {
            let cards = args.endpoint.iter().map(|e| Card::parse(e).context("--endpoint"));
            Topology { cards: cards.collect::<Result<_>>()?, misbehaviours: Vec::new() }
        }
    };
    for m in &args.misbehave {
        t.misbehaviours.push(Misbehaviour::parse(m).context("--misbehave")?);
    }
    t.check().with_context(|| match &args.topology {
        Some(file) => format!("--topology {}", file.display()),
        None => "--endpoint, --misbehave".into(),
    })?;
    Ok(t)
}

fn soc(name: &str) -> Result<&'static rc_model::Soc> {
    rc_model::soc::find(name).with_context(|| {
        let names: Vec<_> = rc_model::soc::SOCS.iter().map(|s| s.name).collect();
        format!("--soc {name}: there is {}", names.join(", "))
    })
}

/// What to say, and what to do, about a guest that did not get as far as its agent. `console`: where its words are.
fn no_agent(why: &str, files: &Guest, console: Option<&Path>) -> String {
    let console = match console {
        Some(file) => format!("its console is in {}", file.display()),
        None => "its console stayed empty: repeat with --append earlycon to see the boot from its first line"
            .into(),
    };
    format!(
        "{why}; is {} an initramfs with the rcvm agent as /init, and {} a kernel with VIRTIO_MMIO and VIRTIO_CONSOLE? \
         {console}",
        files.initramfs.display(),
        files.kernel.display()
    )
}

fn check_readable(file: &Path, option: &str) -> Result<()> {
    let meta =
        std::fs::metadata(file).with_context(|| format!("{option} {}: cannot read it", file.display()))?;
    if !meta.is_file() || meta.len() == 0 {
        bail!("{option} {}: not a file with contents", file.display());
    }
    Ok(())
}

fn initramfs_with(
    modules: &Path,
    image: &images::Image,
    driver: &str,
) -> Result<(PathBuf, tempfile::TempDir)> {
    let mut files = Vec::new();
    for name in [&format!("{driver}.ko"), "pci_endpoint_test.ko"] {
        let found = find_below(modules, name, 12).with_context(|| {
            format!("--modules {}: no {name} in it; build it as a module (=m)", modules.display())
        })?;
        files.push(found);
    }
    let dir =
        tempfile::Builder::new().prefix("rcvm-").tempdir().context("cannot create a temporary directory")?;
    let path = dir.path().join("initramfs.cpio");
    let cpio = images::initramfs(&image.agent, &files, "custom")?;
    std::fs::write(&path, cpio).with_context(|| format!("cannot write {}", path.display()))?;
    Ok((path, dir))
}

fn find_below(dir: &Path, name: &str, depth: u32) -> Option<PathBuf> {
    let direct = dir.join(name);
    if direct.is_file() {
        return Some(direct);
    }
    if depth == 0 {
        return None;
    }
    let entries = std::fs::read_dir(dir).ok()?;
    let subdirs = entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
    subdirs.map(|e| e.path()).find_map(|d| find_below(&d, name, depth - 1))
}
