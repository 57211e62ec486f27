//! Executes a job on this machine's KVM and streams what happens to the front-end.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::Context;
use anyhow::Result;
use torture::stream;

use crate::job::Job;
use crate::job::Message;

/// Opens the way to the servers of vfio-user cards.
pub type OpenServers = dyn Fn() -> Result<File>;

/// Run the job in `job_file`; `from` and `to` are the two directions of the stream to the front-end. `servers`: how to reach the
/// servers of vfio-user cards, if not by their sockets.
pub fn serve(job_file: &Path, from: File, to: File, servers: Option<&OpenServers>) -> Result<()> {
    let mut out = Out(to);
    out.message(&Message::Ready)?;
    let done = read_job(job_file).and_then(|job| execute(&job, from, &mut out, servers));
    match done {
        Ok(()) => out.message(&Message::Done),
        Err(e) => out.message(&Message::Failed(format!("{e:#}"))),
    }
}

fn read_job(file: &Path) -> Result<Job> {
    let text = std::fs::read(file).with_context(|| format!("read {}", file.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("{} is not a job of this rcvm", file.display()))
}

/// The stream to the front-end.
struct Out(File);

impl Out {
    fn message(&mut self, m: &Message) -> Result<()> {
        let json = serde_json::to_vec(m).context("encode a message")?;
        self.frame(stream::Kind::Message, &json)
    }

    fn frame(&mut self, kind: stream::Kind, payload: &[u8]) -> Result<()> {
        stream::write_frame(&mut self.0 as &mut dyn Write, kind, payload).context("the front-end is gone")
    }
}

#[cfg(not(target_arch = "aarch64"))]
fn execute(_: &Job, _: File, _: &mut Out, _: Option<&OpenServers>) -> Result<()> {
    anyhow::bail!("this machine is not arm64: guests run in the nested mode (--mode nested)")
}

#[cfg(target_arch = "aarch64")]
use guest::execute;

#[cfg(target_arch = "aarch64")]
mod guest {
    mod bench;

    use std::cell::RefCell;
    use std::collections::BTreeMap;
    use std::collections::BTreeSet;
    use std::collections::VecDeque;
    use std::path::PathBuf;
    use std::rc::Rc;
    use std::sync::mpsc::channel;
    use std::sync::mpsc::Receiver;
    use std::sync::mpsc::RecvTimeoutError;
    use std::sync::Arc;
    use std::time::Duration;
    use std::time::Instant;

    use guest_agent::Hello;
    use guest_agent::Op;
    use guest_agent::Reply;
    use guest_agent::Request;
    use guest_agent::Symbol;
    use guest_agent::Value;
    use guest_agent::MAX_LINE_BYTES;
    use guest_view::IrqView;
    use rc_model::soc::SpiState;
    use rc_model::Event;
    use rc_model::Sample;
    use rc_model::SamplePoint;
    use rc_model::Slot;
    use torture::plan::Fault;
    use torture::report;
    use torture::splat;
    use torture::stall::StallRule;
    use torture::stall::Stalled;
    use torture::CallError;
    use torture::Class;
    use torture::LookError;
    use torture::Machine;
    use torture::Plan;
    use vfio_user_endpoint::relay;
    use vmm::core_dump::Registers;
    use vmm::ExitReason;
    use vmm::Vm;
    use vmm::VmEvent;
    use vmm::VmSpec;

    use super::*;
    use crate::job::Core;
    use crate::job::Task;
    use crate::job::Tool;
    use crate::sight::Sight;
    use crate::stalls::Stalls;
    use crate::topology::CardKind;
    use crate::view::Answer;
    use crate::view::Ask;
    use crate::view::Question;
    use crate::view::Shown;

    /// Kernel command line of every guest. A WARN is shown on the console; an oops ends the guest: its state after that
    /// proves nothing.
    const CMDLINE: &str = "console=hvc0 loglevel=7 oops=panic panic=-1";
    /// Break and `w` on a virtio console: the kernel lists its blocked tasks (Linux drivers/tty/hvc/hvc_console.c).
    const SYSRQ_W: &[u8] = b"\x0fw";
    /// Time for the list to arrive, and how long nothing more of it comes when it is complete.
    const SYSRQ_TIME: Duration = Duration::from_secs(10);
    const SYSRQ_QUIET: Duration = Duration::from_secs(1);
    /// Most model events kept between two looks of the engine.
    const MAX_EVENTS: usize = 4096;
    /// Largest core: guest memory beyond this is for other tools.
    const MAX_CORE_BYTES: u64 = 2 << 30;
    /// Longest wait for the vCPUs to stand still: one whose access is held does not.
    const CORE_PAUSE: Duration = Duration::from_secs(2);
    /// Longest that a guest which goes on afterwards stands still: its clock does not, and after 20 s of it the soft lockup
    /// detector would speak (Linux kernel/watchdog.c).
    const CORE_TIME: Duration = Duration::from_secs(15);
    /// Longest time for the core of a guest that does nothing any more.
    const LAST_CORE_TIME: Duration = Duration::from_secs(120);
    /// How often the front-end is listened to while the guest is waited for.
    const TOLD_EVERY: Duration = Duration::from_millis(20);
    /// Trace records kept between two cycles.
    const TRACE_ENTRIES: usize = 65_536;

    pub fn execute(job: &Job, from: File, out: &mut Out, servers: Option<&OpenServers>) -> Result<()> {
        match &job.task {
            Task::Torture(plan) => boot(job, out, servers)?.told_by(from).torture(plan),
            Task::Show(plan) => boot(job, out, servers)?.told_by(from).show(plan),
            Task::Tool(tool) => boot(job, out, servers)?.told_by(from).tool(tool),
            Task::Bench(b) => bench::run(job, b, out),
            Task::Shell => boot(job, out, servers)?.told_by(from).shell(),
        }
    }

    fn boot<'a>(job: &Job, out: &'a mut Out, servers: Option<&OpenServers>) -> Result<Link<'a>> {
        let started = Instant::now();
        let (tx, rx) = channel();
        let vm = Vm::start(spec(job, servers)?, tx).map_err(anyhow::Error::new)?;
        Ok(Link::new(vm, rx, out, started, job))
    }

    fn spec(job: &Job, servers: Option<&OpenServers>) -> Result<VmSpec> {
        let board = &job.board;
        let link = match servers.filter(|_| board.topology.has(CardKind::VfioUser)) {
            Some(open) => Some(relay::Link::new(open()?.into()).context("link to vfio-user servers")?),
            None => None,
        };
        let soc = rc_model::soc::find(&board.soc).with_context(|| format!("no SoC {}", board.soc))?;
        let shell = if job.task == Task::Shell { " rcvm.shell" } else { "" };
        let mut rc = rc_model::Config::new(soc, board.topology.build(board.seed, link.as_ref())?);
        rc.strict = board.strict_gating;
        rc.msi_gating = board.msi_gating;
        rc.slot = board.slot;
        rc.rrs_count = board.rrs;
        rc.its_translater = board.its.then_some(vmm::layout::ITS_TRANSLATER);
        Ok(VmSpec {
            kernel: job.kernel.clone(),
            initramfs: job.initramfs.clone(),
            cmdline: format!("{CMDLINE}{shell} {}", job.append),
            vcpus: job.vcpus,
            mem_bytes: job.memory_mib << 20,
            trace_entries: if job.trace { TRACE_ENTRIES } else { 0 },
            rc,
            global_irq: board.global_irq,
            phy_at_port: board.phy_at_port,
        })
    }

    /// A running guest, as the engine sees it.
    struct Link<'a> {
        vm: Vm,
        rx: Receiver<VmEvent>,
        /// What the front-end sends; nothing to a guest of a comparison.
        told: Option<Receiver<(stream::Kind, Vec<u8>)>>,
        out: &'a mut Out,
        started: Instant,
        next_id: u64,
        line: Vec<u8>,
        replies: VecDeque<String>,
        events: VecDeque<Event>,
        ended: Option<String>,
        /// When the link, its reset or its clocks last changed.
        link_changed: Instant,
        /// When the console last said something.
        console_at: Option<Instant>,
        trace: bool,
        /// When a core is still to be sent.
        core: Core,
        splats: splat::Scanner,
        /// The first splat on the console that wants a core.
        splat: Option<Class>,
        /// Functions of loaded modules, by module as its insmod named it.
        modules: BTreeMap<String, Vec<Symbol>>,
        /// When the engine's phases began, since the last trace was handed over.
        phases: Phases,
        /// The guest's kernel file, and what is seen of it in memory, from the first look on.
        image: PathBuf,
        sight: Option<Result<Sight, LookError>>,
        /// Accesses of the guest that a plan holds.
        stalls: Stalls,
        /// The stream to the front-end broke: nobody listens, stop.
        deaf: bool,
    }

    impl<'a> Link<'a> {
        fn new(vm: Vm, rx: Receiver<VmEvent>, out: &'a mut Out, started: Instant, job: &Job) -> Link<'a> {
            let stalls = Stalls::new(Arc::clone(vm.interposer()));
            Link {
                vm,
                rx,
                told: None,
                out,
                started,
                next_id: 1,
                line: Vec::new(),
                replies: VecDeque::new(),
                events: VecDeque::new(),
                ended: None,
                link_changed: started,
                console_at: None,
                trace: job.trace,
                core: job.core,
                splats: splat::Scanner::default(),
                splat: None,
                modules: BTreeMap::new(),
                phases: Phases::default(),
                image: job.kernel.clone(),
                sight: None,
                stalls,
                deaf: false,
            }
        }

        /// The same, which does what the front-end sends meanwhile.
        fn told_by(mut self, mut from: File) -> Self {
            let (tx, told) = channel();
            std::thread::spawn(move || {
                while let Ok(Some(frame)) = stream::read_frame(&mut from) {
                    if tx.send(frame).is_err() {
                        return;
                    }
                }
            });
            self.told = Some(told);
            self
        }

        fn torture(mut self, plan: &Plan) -> Result<()> {
            match self.hello(plan) {
                Ok(hello) => {
                    let boot_ms = self.now_ms();
                    self.measured("vmm_rss_beyond_guest_ram_bytes", rss_beyond_guest_ram());
                    // The engine's observer cannot borrow the machine, so events are queued in between.
                    let mut events = EventPipe(self.out.0.try_clone().context("clone the stream")?);
                    let phases = Rc::clone(&self.phases);
                    // The trace counts from power-on of the machine.
                    let (now, then) = (self.vm.now().0, Instant::now());
                    torture::engine::run(&mut self, plan, hello, boot_ms, &mut |e| {
                        if let torture::Event::Phase { phase, .. } = &e {
                            let at = now + then.elapsed().as_nanos() as u64;
                            phases.borrow_mut().push((at, phase.clone()));
                        }
                        events.send(e);
                    });
                    self.last_core();
                    // A cycle that did not end is the one to look at.
                    self.end_cycle();
                    self.measured("vmm_rss_beyond_guest_ram_bytes", rss_beyond_guest_ram());
                    let stats = self.vm.stats();
                    self.measured("mmio_exits", stats.mmio_exits);
                    self.measured("doorbell_events", stats.doorbell_events);
                    if let Some(Ok(sight)) = &self.sight {
                        self.measured("memory_look_us", sight.longest_us);
                    }
                    self.power_off();
                    Ok(())
                }
                Err(e) => self.never_reported(plan, &e),
            }
        }

        fn show(mut self, plan: &Plan) -> Result<()> {
            let hello = match self.hello(plan) {
                Ok(h) => h,
                Err(e) => return self.never_reported(plan, &e),
            };
            let boot_ms = self.now_ms();
            self.say(format!("agent ready after {boot_ms} ms: Linux {} ({})", hello.release, hello.version));
            let timeout = Duration::from_millis(plan.op_timeout_ms);
            self.load(plan)?;
            if let Value::Irqs(s) = self.call(Op::SnapshotIrqs { details: true }, timeout)? {
                for (virq, d) in &s.irqs {
                    let hwirq = d.hwirq.map_or(String::new(), |h| format!("{h:#x}"));
                    self.say(format!(
                        "virq {virq:4} hwirq {hwirq:>10} {:10} {:24} {} {}",
                        d.chip, d.domain, d.owner, d.actions
                    ));
                }
            }
            self.power_off();
            Ok(())
        }

        fn tool(mut self, tool: &Tool) -> Result<()> {
            let hello = match self.hello(&tool.plan) {
                Ok(h) => h,
                Err(e) => return self.never_reported(&tool.plan, &e),
            };
            self.deaf |= self.out.message(&Message::Release(hello.release)).is_err();
            let run = Op::RunTool {
                program: tool.program.clone(),
                args: tool.args.clone(),
                env: Vec::new(),
                timeout_ms: tool.timeout_ms,
            };
            // The agent ends the program when its time is over; silence after that is the guest's.
            let wait = Duration::from_millis(tool.timeout_ms.saturating_add(tool.plan.op_timeout_ms));
            let told = match self.load(&tool.plan).and_then(|_| self.call(run, wait)) {
                Ok(Value::Tool(output)) => Message::Tool(output),
                Ok(other) => Message::Failed(format!("the agent answered {other:?}")),
                Err(e @ (CallError::Hang { .. } | CallError::Ended { .. })) => {
                    Message::Crashed(e.to_string())
                }
                Err(e) => Message::Failed(e.to_string()),
            };
            self.deaf |= self.out.message(&told).is_err();
            self.power_off();
            Ok(())
        }

        /// Load the drivers of all cards and that of the host bridge; wait for the port, and for each card to be bound.
        fn load(&mut self, plan: &Plan) -> Result<(), CallError> {
            let timeout = Duration::from_millis(plan.op_timeout_ms);
            let mut modules: Vec<&str> =
                plan.consumers.iter().flat_map(|c| c.kind.modules()).copied().collect();
            modules.extend(plan.endpoint.then_some("pci_endpoint_test"));
            modules.push(&plan.target.module);
            let mut loaded = BTreeSet::new();
            for module in modules.into_iter().filter(|m| loaded.insert(*m)) {
                self.call(Op::Insmod { module: module.into(), params: String::new() }, timeout)?;
                self.say(format!("insmod {module}"));
            }
            self.call(plan.wait_port(), timeout)?;
            if plan.endpoint {
                let wait = Op::WaitEndpoint {
                    vendor: 0x104c,
                    device: 0xb500,
                    driver: "pci-endpoint-test".into(),
                    timeout_ms: plan.enumerate_timeout_ms,
                };
                if let Value::Endpoint(ep) = self.call(wait, timeout)? {
                    for (address, id, driver) in ep.devices {
                        let driver = if driver.is_empty() { "no driver" } else { &driver };
                        self.say(format!("{address} [{id}] {driver}"));
                    }
                }
            }
            let cards = plan.consumers.iter().map(torture::Consumer::at).collect();
            let wait = Op::WaitCards { cards, timeout_ms: plan.enumerate_timeout_ms };
            if let Value::Cards(found) = self.call(wait, timeout)? {
                for (consumer, card) in plan.consumers.iter().zip(found) {
                    self.say(format!("{} {}", card.address, consumer.at().driver));
                }
            }
            Ok(())
        }

        fn shell(mut self) -> Result<()> {
            while self.ended.is_none() && !self.deaf {
                self.pump(Instant::now() + TOLD_EVERY);
            }
            Ok(())
        }

        /// Do what the front-end has sent: terminal input for the guest, and questions about its memory.
        fn listen(&mut self) {
            let Some(told) = self.told.take() else { return };
            for (kind, bytes) in told.try_iter() {
                match kind {
                    stream::Kind::Input => self.vm.console_write(&bytes),
                    stream::Kind::Ask => {
                        // The front-end sends none that does not parse.
                        let Ok(q) = serde_json::from_slice::<Question>(&bytes) else { continue };
                        let answer = Answer { id: q.id, shown: self.view(q.ask) }.encode();
                        self.deaf |= self.out.frame(stream::Kind::View, &answer).is_err();
                    }
                    _ => {}
                }
            }
            self.told = Some(told);
        }

        /// What somebody asks to see of the guest's memory. A kernel that is not up yet is looked for again at the next time.
        fn view(&mut self, ask: Ask) -> Result<Shown, String> {
            if self.sight.is_none() {
                let sight = Sight::of(&self.vm, &self.image).map_err(|e| e.to_string())?;
                self.sight = Some(Ok(sight));
            }
            match &self.sight {
                Some(Ok(sight)) => sight.show(&self.vm, ask),
                Some(Err(e)) => Err(e.to_string()),
                None => Err("no kernel is known".into()),
            }
        }

        fn hello(&mut self, plan: &Plan) -> Result<Hello, CallError> {
            let wait = Duration::from_millis(plan.boot_timeout_ms);
            match self.reply(0, wait)? {
                Value::Hello(h) => Ok(h),
                v => Err(CallError::Protocol { why: format!("first message is {v:?}") }),
            }
        }

        fn never_reported(mut self, plan: &Plan, e: &CallError) -> Result<()> {
            let why = match e {
                CallError::Hang { .. } => {
                    format!("no agent reported within {} s (--boot-timeout)", plan.boot_timeout_ms / 1000)
                }
                e => e.to_string(),
            };
            self.deaf |= self.out.message(&Message::NoAgent(why)).is_err();
            self.vm.stop();
            Ok(())
        }

        fn power_off(mut self) {
            if self.ended.is_none() {
                self.send(Op::PowerOff);
                let deadline = Instant::now() + Duration::from_secs(5);
                while self.ended.is_none() && Instant::now() < deadline && !self.deaf {
                    self.pump(deadline);
                }
            }
            self.vm.stop();
        }

        /// The run is over, and no finding of the engine had a core sent: a splat, which only the console has, still may.
        fn last_core(&mut self) {
            let open = self.splats.finish().map(|f| f.class).filter(|c| c.wants_core());
            if let Some(class) = self.splat.or(open) {
                self.preserve(class);
            }
            if self.core == Core::Always {
                self.send_core("end of run", LAST_CORE_TIME);
            }
        }

        /// Send the guest as a core. Once: the first finding is the one whose causes are still in memory.
        fn send_core(&mut self, at: &str, limit: Duration) {
            self.core = Core::Never;
            let begun = Instant::now();
            let (mut sent, mut trouble) = (0, String::new());
            let taken = self.vm.core(CORE_PAUSE, &mut |piece| {
                sent += piece.len() as u64;
                if sent > MAX_CORE_BYTES {
                    trouble = format!("it would be larger than {} MiB", MAX_CORE_BYTES >> 20);
                } else if begun.elapsed() > limit {
                    trouble = format!("it was not written within {} s", limit.as_secs());
                } else if self.out.frame(stream::Kind::Core, piece).is_err() {
                    self.deaf = true;
                }
                trouble.is_empty() && !self.deaf
            });
            let mut core = report::Core {
                at: at.into(),
                took_ms: begun.elapsed().as_millis() as u64,
                ..Default::default()
            };
            match taken {
                Some(taken) => {
                    core.bytes = taken.bytes;
                    core.vmcoreinfo = taken.vmcoreinfo;
                    core.vcpus = taken.registers.iter().map(told_of).collect();
                    if trouble.is_empty() && !taken.complete {
                        trouble = "guest memory could not be read".into();
                    }
                }
                None => trouble = "a vCPU did not stand still".into(),
            }
            core.trouble = trouble;
            self.deaf |= self.out.message(&Message::Core(core)).is_err();
        }

        fn say(&mut self, text: String) {
            self.deaf |= self.out.message(&Message::Say(text)).is_err();
        }

        fn measured(&mut self, name: &str, value: u64) {
            self.deaf |= self.out.message(&Message::Measured { name: name.into(), value }).is_err();
        }

        fn send(&mut self, op: Op) -> u64 {
            let id = self.next_id;
            self.next_id += 1;
            let mut line = serde_json::to_vec(&Request { id, op }).unwrap_or_default();
            line.push(b'\n');
            self.vm.channel_write(&line);
            id
        }

        fn reply(&mut self, id: u64, timeout: Duration) -> Result<Value, CallError> {
            let deadline = Instant::now() + timeout;
            loop {
                while let Some(line) = self.replies.pop_front() {
                    let reply: Reply = serde_json::from_str(&line)
                        .map_err(|e| CallError::Protocol { why: e.to_string() })?;
                    if reply.id == id {
                        return reply.result.map_err(CallError::Failed);
                    }
                }
                if let Some(reason) = &self.ended {
                    return Err(CallError::Ended { reason: reason.clone() });
                }
                if Instant::now() >= deadline {
                    return Err(CallError::Hang { waited_ms: timeout.as_millis() as u64 });
                }
                if self.deaf {
                    return Err(CallError::Ended { reason: "the front-end is gone".into() });
                }
                self.pump(deadline);
            }
        }

        /// The function of a module that `pc` is in.
        fn symbol(&self, pc: u64) -> Option<String> {
            self.modules.iter().find_map(|(module, symbols)| {
                let s = symbols.iter().find(|s| pc.wrapping_sub(s.address) < s.len_bytes)?;
                Some(format!("{}+{:#x} [{}]", s.name, pc - s.address, module.replace('-', "_")))
            })
        }

        /// Take in events until one has come, `deadline`, or it is time to listen to the front-end again.
        fn pump(&mut self, deadline: Instant) {
            self.listen();
            let wait = deadline.saturating_duration_since(Instant::now()).min(TOLD_EVERY);
            match self.rx.recv_timeout(wait) {
                Ok(e) => self.event(e),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => self.ended = Some("the VMM stopped".into()),
            }
            while let Ok(e) = self.rx.try_recv() {
                self.event(e);
            }
        }

        fn event(&mut self, e: VmEvent) {
            match e {
                VmEvent::Console(bytes) => {
                    self.console_at = Some(Instant::now());
                    let found = self.splats.feed(&bytes);
                    self.splat = self.splat.or(found.iter().map(|f| f.class).find(|c| c.wants_core()));
                    self.deaf |= self.out.frame(stream::Kind::Console, &bytes).is_err()
                }
                VmEvent::Channel(bytes) => self.channel(&bytes),
                VmEvent::ChannelOpen(_) => {}
                VmEvent::Model(e, _) => {
                    if matches!(e, Event::Ltssm { .. } | Event::Perst { .. } | Event::Clocks { .. }) {
                        self.link_changed = Instant::now();
                    }
                    if self.events.len() == MAX_EVENTS {
                        self.events.pop_front();
                    }
                    self.events.push_back(e);
                }
                VmEvent::Exited(reason) => self.ended = Some(exit_text(&reason)),
            }
        }

        fn channel(&mut self, bytes: &[u8]) {
            for &b in bytes {
                if b == b'\n' {
                    let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
                    self.replies.push_back(line);
                } else if self.line.len() < MAX_LINE_BYTES {
                    self.line.push(b);
                }
            }
        }
    }

    /// What the report has of a vCPU.
    fn told_of(r: &Registers) -> BTreeMap<String, String> {
        let general = [("PC", r.pc), ("SP", r.sp), ("PSTATE", r.pstate)];
        let system = r.system.iter().map(|(name, value)| (name.as_str(), *value));
        general.into_iter().chain(system).map(|(name, value)| (name.into(), format!("{value:#x}"))).collect()
    }

    fn exit_text(reason: &ExitReason) -> String {
        match reason {
            ExitReason::PowerOff => "it powered itself off".into(),
            ExitReason::Reset => "it reset itself, as after a panic".into(),
            ExitReason::Stopped => "it was stopped".into(),
            other => format!("{other:?}"),
        }
    }

    impl Machine for Link<'_> {
        fn call(&mut self, op: Op, timeout: Duration) -> Result<Value, CallError> {
            let module = if let Op::Insmod { module, .. } = &op { Some(module.clone()) } else { None };
            let id = self.send(op);
            let value = self.reply(id, timeout)?;
            if let (Some(module), Value::Loaded(symbols)) = (module, &value) {
                self.modules.insert(module, symbols.clone());
            }
            Ok(value)
        }

        fn look(&mut self) -> Result<IrqView, LookError> {
            let sight = self.sight.get_or_insert_with(|| Sight::of(&self.vm, &self.image));
            sight.as_mut().map_err(|e| e.clone())?.look(&self.vm)
        }

        fn sample(&mut self, point: SamplePoint) -> Sample {
            self.vm.sample(point)
        }

        fn spi_state(&mut self) -> Vec<SpiState> {
            self.vm.spi_state()
        }

        fn take_events(&mut self) -> Vec<Event> {
            // What the vCPUs have sent by now belongs to the operation that just ended.
            while let Ok(e) = self.rx.try_recv() {
                self.event(e);
            }
            self.events.drain(..).collect()
        }

        fn fault(&mut self, fault: Fault) {
            self.vm.act(|rc, cx| match fault {
                Fault::LoseLink => rc.surprise_down(cx),
                Fault::Pull => rc.set_slot(cx, Slot::Absent),
                Fault::Insert => rc.set_slot(cx, Slot::Present),
                Fault::Slot(path, event) => {
                    rc.slot_event(cx, &path, event);
                }
            });
        }

        fn stall(&mut self, rule: &StallRule, draw: u64) {
            self.stalls.begin(rule, draw);
        }

        fn stalled(&mut self) -> Vec<(StallRule, Stalled)> {
            self.stalls.end()
        }

        fn announce(&mut self, phase: &str) {
            self.vm.act(|rc, cx| rc.announce(cx, phase));
        }

        fn settle(&mut self, quiet: Duration, limit: Duration) -> bool {
            let begun = Instant::now();
            // What made the guest answer may still be on its way to the link.
            self.link_changed = begun;
            while self.link_changed.elapsed() < quiet && self.ended.is_none() && !self.deaf {
                if begun.elapsed() > limit {
                    return false;
                }
                self.pump(self.link_changed + quiet);
            }
            true
        }

        fn show_blocked_tasks(&mut self) {
            self.console_at = None;
            self.vm.console_write(SYSRQ_W);
            let deadline = Instant::now() + SYSRQ_TIME;
            // Until the list has come, and no more of it comes.
            let complete = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() >= SYSRQ_QUIET);
            while Instant::now() < deadline && self.ended.is_none() && !self.deaf {
                if complete(self.console_at) {
                    return;
                }
                self.pump(deadline.min(self.console_at.unwrap_or(deadline) + SYSRQ_QUIET));
            }
        }

        fn preserve(&mut self, class: Class) {
            if self.core != Core::Never && class.wants_core() {
                let ended = matches!(class, Class::Hang | Class::Crash);
                self.send_core(class.name(), if ended { LAST_CORE_TIME } else { CORE_TIME });
            }
        }

        fn now_ms(&mut self) -> u64 {
            self.started.elapsed().as_millis() as u64
        }

        fn end_cycle(&mut self) {
            if !self.trace {
                return;
            }
            let mut taken = self.vm.take_trace();
            taken.phases = self.phases.take();
            if taken.entries.is_empty() {
                return;
            }
            let named = taken.unnamed().into_iter().filter_map(|pc| Some((pc, self.symbol(pc)?)));
            taken.symbols = named.collect();
            let bytes = vmm::trace::encode(&taken);
            self.deaf |= self.out.frame(stream::Kind::Trace, &bytes).is_err();
        }
    }

    /// Begin and name of phases.
    type Phases = Rc<RefCell<Vec<(u64, String)>>>;

    /// The engine's events, on their way to the front-end. A broken stream shows at the next frame of the link.
    struct EventPipe(File);

    impl EventPipe {
        fn send(&mut self, e: torture::Event) {
            if let Ok(json) = serde_json::to_vec(&Message::Engine(e)) {
                let _ = stream::write_frame(&mut self.0, stream::Kind::Message, &json);
            }
        }
    }

    /// Anonymous and file-backed resident memory of this process; guest RAM is a memfd, which counts as shmem.
    fn rss_beyond_guest_ram() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let kib = |name: &str| -> u64 {
            let line = status.lines().find(|l| l.starts_with(name));
            line.and_then(|l| l.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
        };
        (kib("RssAnon:") + kib("RssFile:")) * 1024
    }
}
