//! `rcvm torture`: the main job.

use std::path::PathBuf;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use torture::plan::Disturbance;
use torture::report::Core;
use torture::report::Report;
use torture::report::Setting;
use torture::stream::Kind;
use torture::Class;
use torture::Event;
use torture::Finding;
use torture::Plan;
use torture::Source;
use torture::Target;

use super::guest;
use super::no_agent;
use super::place;
use super::plan::DEFAULT_CYCLES;
use super::topology;
use super::Guest;
use crate::artifacts::Artifacts;
use crate::artifacts::CORE;
use crate::cli::During;
use crate::cli::Gating;
use crate::cli::SlotArg;
use crate::cli::TortureArgs;
use crate::control::Control;
use crate::front;
use crate::front::Got;
use crate::front::Where;
use crate::front::Worker;
use crate::job::Board;
use crate::job::Job;
use crate::job::Message;
use crate::job::Task;
use crate::progress::Progress;
use crate::symbols;
use crate::topology::CardKind;

/// Interrupts that an ITS has for one device, at least.
const ITS_EVENTS: u32 = 1 << 10;

/// Run the plan, keep the artifacts, print the verdict.
pub fn run(args: &TortureArgs) -> Result<u8> {
    let script = args.plan.as_deref().map(super::plan::load).transpose()?;
    let cycles = args.cycles.or(script.as_ref().and_then(|s| s.0.cycles)).unwrap_or(DEFAULT_CYCLES);
    let (script, script_text) = script.unzip();
    let place = place(&args.guest)?;
    if args.filesystem {
        topology(&args.guest)?.check_filesystem()?;
    }
    let mut files = guest(&args.guest)?;
    if args.filesystem {
        files.initramfs =
            images::initramfs_with(&files.image, &[images::Extra::Shell], &mut |line| eprintln!("{line}"))?;
    }
    let plan = Plan { cycles, script, ..plan(args, &files) };
    let report = Report::new(setting(args, &plan, place, &files));
    let artifacts = Artifacts::create(&args.out, !args.no_trace, &report)?;
    if let Some(text) = script_text {
        artifacts.plan(&text)?;
    }
    let mut run = Run {
        artifacts,
        symbols: symbols::Kernel::of(&files.kernel),
        report,
        progress: Progress::new(cycles),
        files,
        out: args.out.clone(),
        console_log: args.out.join("console.log"),
        silence: Duration::from_millis(plan.boot_timeout_ms + plan.op_timeout_ms) + Duration::from_secs(30),
    };
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    ctrlc::set_handler(move || flag.store(true, Ordering::Relaxed)).context("cannot handle signals")?;
    run.progress.line(&format!(
        "{} {} guest, {}{} cycles, seed {}: {}",
        place.name(),
        run.files.profile,
        args.plan.as_ref().map_or(String::new(), |p| format!("plan {p}, ")),
        cycles,
        args.seed,
        run.files.kernel.display()
    ));
    let job = job(args, &run.files, plan);
    let mut worker = front::start(place, &job, &run.files.image)?;
    if place == Where::Nested {
        run.report.measured.insert("outer_boot_ms".into(), worker.start_ms);
    }
    let control = Control::open(&args.out, &mut worker);
    let followed = run.follow(&mut worker, &interrupted);
    drop(control);
    worker.stop();
    run.progress.finish();
    run.core_lost();
    run.report.finish(true);
    let written = run.artifacts.report(&run.report).and_then(|()| run.artifacts.pages(&run.report));
    followed?;
    written?;
    run.summary(args);
    Ok(run.report.exit_code)
}

fn plan(args: &TortureArgs, files: &Guest) -> Plan {
    let soc = files.soc;
    Plan {
        target: Target::of(soc),
        seed: args.seed,
        msi_vectors: args.msi_vectors,
        msix_vectors: args.msix_vectors,
        endpoint: args.guest.slot == SlotArg::Endpoint && files.board.topology.has(CardKind::EndpointTest),
        consumers: files.board.topology.consumers(),
        filesystem: args.filesystem,
        defect: args.defect.map(|d| d.0),
        disturbances: args.during.iter().map(|d| disturbance(*d)).collect(),
        misbehaviours: files.board.topology.misbehaviours.len() as u32,
        vanishes: files.board.topology.vanishes(),
        irq_views: args.irq_views.into(),
        hwirqs: if files.board.its { ITS_EVENTS } else { soc.msi_vectors() },
        boot_timeout_ms: args.guest.boot_timeout * 1000,
        op_timeout_ms: args.guest.op_timeout * 1000,
        ..Plan::default()
    }
}

const fn disturbance(d: During) -> Disturbance {
    match d {
        During::Suspend => Disturbance::Suspend,
        During::SuspendL2 => Disturbance::SuspendL2,
        During::Reset => Disturbance::Reset,
        During::Retrain => Disturbance::Retrain,
        During::LinkDisable => Disturbance::LinkDisable,
        During::LinkLoss => Disturbance::LinkLoss,
        During::SurpriseRemoval => Disturbance::SurpriseRemoval,
        During::HotSwap => Disturbance::HotSwap,
        During::HotPlug => Disturbance::HotPlug,
        During::Neighbour => Disturbance::Neighbour,
    }
}

fn job(args: &TortureArgs, files: &Guest, plan: Plan) -> Job {
    Job {
        kernel: files.kernel.clone(),
        initramfs: files.initramfs.clone(),
        append: args.guest.append.clone(),
        vcpus: args.guest.vcpus,
        memory_mib: args.guest.memory,
        board: Board { seed: args.seed, ..files.board.clone() },
        trace: !args.no_trace,
        core: args.core,
        task: Task::Torture(plan),
    }
}

fn setting(args: &TortureArgs, plan: &Plan, place: Where, files: &Guest) -> Setting {
    let words: Vec<String> = std::env::args().skip(1).collect();
    Setting {
        rcvm: env!("CARGO_PKG_VERSION").into(),
        mode: place.name().into(),
        profile: files.profile.clone(),
        kernel_image: files.kernel.display().to_string(),
        soc: files.soc.name.into(),
        gating: if args.guest.gating == Gating::Strict { "strict" } else { "lenient" }.into(),
        vcpus: args.guest.vcpus,
        memory_mib: args.guest.memory,
        seed: args.seed,
        cycles_requested: plan.cycles,
        plan: plan.script.as_ref().map_or(String::new(), |s| s.name.clone()),
        strict: args.strict,
        command: format!("rcvm {}", words.join(" ")),
        args: words,
        directory: std::env::current_dir().map(|d| d.display().to_string()).unwrap_or_default(),
    }
}

/// One run, as the front-end follows it.
struct Run {
    report: Report,
    progress: Progress,
    artifacts: Artifacts,
    symbols: symbols::Kernel,
    files: Guest,
    out: PathBuf,
    console_log: PathBuf,
    /// Longest silence of a worker that is alive.
    silence: Duration,
}

impl Run {
    fn follow(&mut self, worker: &mut Worker, interrupted: &AtomicBool) -> Result<()> {
        let mut heard = Instant::now();
        loop {
            if interrupted.load(Ordering::Relaxed) {
                self.progress.line("interrupted: the report keeps the cycles done");
                return Ok(());
            }
            match worker.next(Duration::from_millis(200)) {
                Got::Frame(Kind::Console, bytes) => {
                    self.report.console(&bytes);
                    self.artifacts.console(&bytes)?;
                }
                Got::Frame(Kind::Trace, bytes) => self.artifacts.trace(&self.symbols.complete(&bytes))?,
                Got::Frame(Kind::Message, m) => {
                    let m = serde_json::from_slice(&m).context("the worker is of another version of rcvm")?;
                    if self.message(m)? {
                        return Ok(());
                    }
                }
                Got::Frame(Kind::Core, bytes) => self.artifacts.core(&bytes),
                Got::Frame(Kind::Input | Kind::Ask | Kind::View, _) => {}
                Got::Eof => {
                    self.gone(&format!(
                        "the machine that ran the guest ended unexpectedly; {}",
                        worker.last_words()
                    ));
                    return Ok(());
                }
                Got::Silence => {
                    if heard.elapsed() > self.silence {
                        self.gone(&format!(
                            "nothing was heard of the guest's machine for {} s",
                            heard.elapsed().as_secs()
                        ));
                        return Ok(());
                    }
                    continue;
                }
            }
            heard = Instant::now();
        }
    }

    /// `true`: nothing follows.
    fn message(&mut self, m: Message) -> Result<bool> {
        match m {
            Message::Engine(e) => self.engine(e)?,
            Message::Measured { name, value } => {
                self.report.measured.insert(name, value);
            }
            Message::Core(core) => self.core(core)?,
            Message::Say(line) => self.progress.line(&line),
            Message::NoAgent(why) => {
                let heard = self.console_log.metadata().is_ok_and(|m| m.len() > 0);
                let says = no_agent(&why, &self.files, heard.then_some(self.console_log.as_path()));
                self.report
                    .add(Finding::new(Class::BootFailed, Source::Harness, "no agent", says).at(0, "boot"));
            }
            Message::Failed(why) => {
                // What was found up to here is worth keeping; that the job could not be done is the user's news.
                self.artifacts.report(&self.report)?;
                bail!(why);
            }
            Message::Done => return Ok(true),
            Message::Ready
            | Message::Release(_)
            | Message::Tool(_)
            | Message::Bench(_)
            | Message::Crashed(_) => {}
        }
        Ok(false)
    }

    fn engine(&mut self, e: Event) -> Result<()> {
        match &e {
            Event::Booted { hello, boot_ms, .. } => {
                self.progress.line(&format!(
                    "guest ready in {:.1} s: Linux {}",
                    *boot_ms as f64 / 1000.0,
                    hello.release
                ));
                self.artifacts.boot_log(&hello.boot_log)?;
            }
            Event::Phase { cycle, phase } => self.progress.phase(*cycle, phase),
            Event::Cycle(c) => self.progress.cycle(c),
            Event::Note { text } => self.progress.line(&format!("note: {text}")),
            Event::Finding(_) | Event::Ended { .. } => {}
        }
        let cycle = matches!(e, Event::Cycle(_));
        let milestone = matches!(e, Event::Booted { .. } | Event::Ended { .. });
        self.report.event(e);
        if milestone {
            self.artifacts.report(&self.report)?;
        } else if cycle {
            self.artifacts.report_soon(&self.report)?;
        }
        Ok(())
    }

    fn core(&mut self, mut core: Core) -> Result<()> {
        core.trouble = self.artifacts.finish_core(&core).err().unwrap_or_default();
        if core.trouble.is_empty() {
            core.file = CORE.into();
            let file = self.out.join(CORE);
            // Where images keep it; a kernel of the user's own may have it there too.
            let vmlinux = self.files.kernel.with_file_name("vmlinux");
            if vmlinux.is_file() {
                core.open_with = format!("drgn -c {} -s {}", file.display(), vmlinux.display());
            }
        }
        self.report.core = Some(core);
        self.artifacts.report(&self.report)
    }

    /// A core that was begun and of which nothing more will come.
    fn core_lost(&mut self) {
        if self.artifacts.drop_core() {
            let trouble = "the stream ended in the middle of it".into();
            self.report.core = Some(Core { trouble, ..Core::default() });
        }
    }

    fn gone(&mut self, why: &str) {
        let cycle = self.report.cycles_completed + 1;
        let f = Finding::new(Class::OperationFailed, Source::Harness, "worker gone", why);
        self.report.add(f.at(cycle, "worker"));
    }

    fn summary(&self, args: &TortureArgs) {
        for line in torture::summary::lines(&self.report) {
            eprintln!("{line}");
        }
        eprintln!("report: {}", args.out.join("report.html").display());
        println!("{}", self.report.last_line());
    }
}
