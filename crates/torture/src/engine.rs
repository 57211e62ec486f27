//! Runs the cycles of a plan on a machine and says what happened.

mod scripted;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use guest_agent::Exercised;
use guest_agent::FoundCard;
use guest_agent::Hello;
use guest_agent::IrqKind;
use guest_agent::IrqSnapshot;
use guest_agent::Op;
use guest_agent::SystemState;
use guest_agent::Value;
use guest_agent::PROTO_VERSION;
use guest_view::IrqView;
use pcie::SlotEvent;
use rc_model::Sample;
use rc_model::SamplePoint;
use serde::Deserialize;
use serde::Serialize;

use crate::check;
use crate::check::allow::AllowList;
use crate::check::allow::Allowed;
use crate::check::irqs::Lines;
use crate::check::irqs::Mapping;
use crate::consumer::Consumer;
use crate::consumer::Work;
use crate::defect;
use crate::finding::Class;
use crate::finding::Finding;
use crate::finding::Source;
use crate::machine::CallError;
use crate::machine::LookError;
use crate::machine::Machine;
use crate::plan::slot_number;
use crate::plan::CyclePlan;
use crate::plan::Disturbance;
use crate::plan::Fault as SlotFault;
use crate::plan::IrqViews;
use crate::plan::Load;
use crate::plan::Plan;
use crate::plan::Teardown;
use crate::plan::ROOT_PORT;
use crate::sources::Counts;
use crate::sources::Seen;
use crate::sources::Sources;

/// Driver of the endpoint, loaded once before the baseline.
const ENDPOINT_MODULE: &str = "pci_endpoint_test";
pub(crate) const ENDPOINT_DRIVER: &str = "pci-endpoint-test";
/// The endpoint-test function (spec §5.2).
const ENDPOINT_ID: (u16, u16) = (0x104c, 0xb500);

/// errno of an attribute that is not there, and of a wait that was in vain.
const ENOENT: i32 = 2;
const ETIMEDOUT: i32 = 110;
/// Devices whose probe waits for something, with the reason (drivers/base/dd.c: `deferred_devs_show`).
const DEFERRED: &str = "/sys/kernel/debug/devices_deferred";
/// LNKCTL: link disable, retrain link (PCIe §7.5.3.7).
pub(crate) const LNKCTL_LD: u16 = 1 << 4;
pub(crate) const LNKCTL_RL: u16 = 1 << 5;
/// How long the link stays disabled, ms.
pub(crate) const LINK_DISABLE_MS: u64 = 10;
/// How long the link has to be quiet after a disturbance (a driver waits up to 100 ms between two steps of its own, spec §3), and
/// how long to wait for that.
const QUIET: Duration = Duration::from_millis(700);
const SETTLE: Duration = Duration::from_secs(15);
/// From the start of a suspend to its alarm: the devices of a nested guest need a second to fall asleep.
const SUSPEND_S: u32 = 2;

/// What the engine tells its observer, in order.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
pub enum Event {
    /// The guest's agent is ready.
    Booted {
        /// What the agent said.
        hello: Hello,
        /// From the start of the vCPUs to the agent's first message, ms.
        boot_ms: u64,
        /// Allow-list in force for this kernel.
        allow_list: Vec<Allowed>,
    },
    /// A phase of a cycle begins.
    Phase {
        /// Cycle, from 1; 0: before the first.
        cycle: u32,
        /// e.g. `insmod`, `msi`, `rmmod`, `check`.
        phase: String,
    },
    /// Something that the checks cannot do on this guest; what they say holds without it.
    Note {
        /// In one line.
        text: String,
    },
    /// Something was wrong.
    Finding(Finding),
    /// A cycle ended.
    Cycle(CycleRecord),
    /// The run ended; nothing follows.
    Ended {
        /// Whether every requested cycle ran.
        complete: bool,
    },
}

/// What one cycle did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CycleRecord {
    /// Cycle, from 1.
    pub cycle: u32,
    /// `insmod` or `bind`.
    pub load: String,
    /// `rmmod` or `unbind`.
    pub teardown: String,
    /// Interrupt kind that the endpoint-test driver held at teardown; empty without one.
    pub held: String,
    /// Interrupts that the endpoint-test function raised, all kinds.
    pub raised: u64,
    /// Things that the other cards' drivers were made to do.
    #[serde(default)]
    pub worked: u64,
    /// Mappings created in this cycle.
    pub created: u64,
    /// Mappings released in this cycle.
    pub released: u64,
    /// How often cards misbehaved, as they were asked to.
    #[serde(default)]
    pub misbehaved: u64,
    /// Mappings that are left after it, in total.
    pub leaked: Vec<Mapping>,
    /// IRQ descriptors of the whole guest after it.
    #[serde(default)]
    pub irq_descs: u64,
    /// What guest memory had after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Counts>,
    /// Milliseconds per phase, in order of execution.
    pub phases_ms: Vec<(String, u64)>,
    /// What the steps of a plan file did, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// Runs `plan` on `machine`. `hello` is the agent's first message, `boot_ms` the time it took.
pub fn run(machine: &mut dyn Machine, plan: &Plan, hello: Hello, boot_ms: u64, out: &mut dyn FnMut(Event)) {
    let mut engine = Engine {
        lines: machine
            .spi_state()
            .iter()
            .map(|s| (u64::from(s.spi) + 32, format!("{} {}", plan.target.device, s.name)))
            .collect(),
        machine,
        plan,
        out,
        cycle: 0,
        phase: "boot".into(),
        phases_ms: Vec::new(),
        worked: 0,
        looks: plan.irq_views != IrqViews::Agent,
        optional_stalls: Vec::new(),
        builtin: hello.builtin.contains(&plan.target.module),
    };
    let complete = engine.run(hello, boot_ms).is_some();
    // However it ended: a device that was lost explains what else was found.
    let last = engine.machine.sample(SamplePoint::S4);
    engine.report(check::device::check_servers(&last));
    (engine.out)(Event::Ended { complete });
}

struct Engine<'a> {
    machine: &'a mut dyn Machine,
    plan: &'a Plan,
    out: &'a mut dyn FnMut(Event),
    lines: Lines,
    cycle: u32,
    phase: String,
    phases_ms: Vec<(String, u64)>,
    /// Things that cards were made to do in this cycle.
    worked: u64,
    /// Guest memory is read.
    looks: bool,
    /// Stalls that were begun: whether each may miss its access.
    optional_stalls: Vec<bool>,
    /// The driver under test is built into the kernel: it has probed at boot, and all it can do is unbind and bind.
    builtin: bool,
}

/// What there is to see of the driver before the first cycle.
enum Before {
    /// Its device is not bound.
    Unbound,
    /// It is bound since boot, and the kernel offers no way to unbind it.
    Stuck,
}

/// Where the books stood when a cycle began.
struct Begun {
    /// Mappings created and released.
    mappings: (u64, u64),
    misbehaved: u64,
}

/// What the engine carries from cycle to cycle.
struct Books {
    irqs: Sources,
    allow: AllowList,
    /// Before the first probe.
    system: SystemState,
    cold: Option<Sample>,
    /// Misbehaviours up to now.
    misbehaved: u64,
}

impl Engine<'_> {
    /// `None`: stopped early, with a finding that says why.
    fn run(&mut self, hello: Hello, boot_ms: u64) -> Option<()> {
        let allow = AllowList::new(&hello.release, self.lines.keys().copied().collect());
        (self.out)(Event::Booted { boot_ms, allow_list: allow.rows(), hello: hello.clone() });
        if hello.proto != PROTO_VERSION {
            self.find(Finding::new(
                Class::OperationFailed,
                Source::Harness,
                "agent protocol",
                format!(
                    "the agent speaks protocol {}, this rcvm {PROTO_VERSION}: rebuild the image",
                    hello.proto
                ),
            ));
            return None;
        }
        let before = self.phase("baseline", |e| e.prepare(&hello))?;
        let baseline = self.phase("baseline", Engine::baseline)?;
        let system = self.phase("baseline", Engine::system)?;
        self.machine.take_events();
        // Asking for S4 arms S5: the first access of the first probe shows the state after power-on.
        self.machine.sample(SamplePoint::S4);
        let mut books =
            Books { irqs: Sources::new(baseline, &self.lines), allow, system, cold: None, misbehaved: 0 };
        if matches!(before, Before::Stuck) {
            return self.smoke(&mut books);
        }
        for n in 1..=self.plan.cycles {
            self.cycle = n;
            self.phases_ms.clear();
            books.irqs.begin_cycle(n);
            if let Some(script) = &self.plan.script {
                self.run_script(script, &mut books)?;
                continue;
            }
            let mut c = self.plan.cycle(n);
            if self.builtin {
                (c.load, c.teardown) = (Load::Bind, Teardown::Unbind);
            }
            self.run_cycle(c, &mut books)?;
        }
        if self.plan.misbehaviours > 0 && books.misbehaved == 0 {
            self.find(Finding::new(
                Class::OperationFailed,
                Source::Harness,
                "misbehaviour never met",
                "no card has misbehaved: what --misbehave waits for has never happened",
            ));
        }
        Some(())
    }

    /// A driver that cannot be unbound is used once, and that is all: no statement about teardown follows.
    fn smoke(&mut self, books: &mut Books) -> Option<()> {
        self.cycle = 1;
        let c = self.plan.cycle(1);
        if self.plan.endpoint {
            self.use_endpoint(c, &mut books.irqs)?;
        }
        let io = self.use_consumers(c, &mut books.irqs)?;
        self.end_io(&io)?;
        let (live, _) = split_samples(self.machine.take_events());
        self.report(check::device::check_events(&live));
        let devices = self.system()?.pci_devices;
        let driver = &self.plan.target.driver;
        let text = format!(
            "boot smoke only: {driver} is built into this kernel and cannot be unbound; it found {} PCI devices, their \
             drivers did what they were asked ({}×), and nothing was torn down",
            devices.len(),
            self.worked
        );
        let f = Finding::new(Class::OperationFailed, Source::Harness, "no way to unbind", text);
        "unbind".clone_into(&mut self.phase);
        self.find(f.fact("devices", devices.join(" ")));
        None
    }

    /// Undo what a built-in driver did at boot, so that the first cycle finds what a later one finds.
    fn unbind_boot_probe(&mut self) -> Option<Before> {
        let timeout = Duration::from_millis(self.plan.op_timeout_ms);
        let wait = self.plan.wait_port();
        match self.machine.call(wait.clone(), timeout) {
            Ok(_) => {}
            Err(CallError::Failed(e)) if e.errno == ETIMEDOUT => return self.never_probed(),
            Err(e) => {
                self.failed(&wait, &e);
                return None;
            }
        }
        let op = Teardown::Unbind.op(&self.plan.target);
        match self.machine.call(op.clone(), timeout) {
            Ok(_) => Some(Before::Unbound),
            Err(CallError::Failed(e)) if e.errno == ENOENT => Some(Before::Stuck),
            Err(e) => {
                self.failed(&op, &e);
                None
            }
        }
    }

    /// A built-in driver has not got as far as a root port: say what it waits for, as far as the kernel tells.
    fn never_probed<T>(&mut self) -> Option<T> {
        let read = Op::ReadFile { path: DEFERRED.into(), max_bytes: 4096 };
        let Value::File(file) = self.call(read)? else { return None };
        let (driver, device) = (&self.plan.target.driver, &self.plan.target.device);
        let waits = file.text.lines().find_map(|l| l.strip_prefix(device.as_str()));
        let why = match waits.map(str::trim) {
            None => "the kernel log says more".to_owned(),
            Some("") => "it is deferred: a driver of its PHY or of a supply may be missing".to_owned(),
            Some(reason) => format!("it is deferred: {reason}"),
        };
        self.find(Finding::new(
            Class::OperationFailed,
            Source::GuestKernel,
            "built-in driver did not probe",
            format!("{driver} is built into this kernel and has not probed {device} at boot; {why}"),
        ));
        None
    }

    /// Load everything but the driver under test, which has to be there.
    fn prepare(&mut self, hello: &Hello) -> Option<Before> {
        let mut others: Vec<&str> =
            self.plan.consumers.iter().flat_map(|c| c.kind.modules()).copied().collect();
        if self.plan.filesystem {
            others.push("ext2");
        }
        let mut seen = BTreeSet::new();
        others.retain(|m| seen.insert(*m));
        let (endpoint, params) = match self.plan.defect {
            Some(d) => (defect::MODULE, d.row().params()),
            None => (ENDPOINT_MODULE, String::new()),
        };
        let has = |module: &str| hello.modules.iter().chain(&hello.builtin).any(|m| m == module);
        // Where nothing uses it, a kernel may lack it.
        let unused = self.plan.defect.is_none() && !self.plan.endpoint && !has(endpoint);
        let endpoint = (!unused).then_some(endpoint);
        let needed = endpoint.iter().chain(&others).copied();
        for module in std::iter::once(self.plan.target.module.as_str()).chain(needed) {
            if !has(module) {
                self.find(Finding::new(
                    Class::OperationFailed,
                    Source::Harness,
                    format!("missing module {module}"),
                    format!(
                        "the image has no {module}.ko: build it into the initramfs under /lib/modules/rcvm"
                    ),
                ));
                return None;
            }
        }
        // Before anything else is there to be probed.
        let before = if self.builtin { self.unbind_boot_probe()? } else { Before::Unbound };
        if let Some(endpoint) = endpoint {
            self.call(Op::Insmod { module: endpoint.into(), params })?;
        }
        for module in others {
            self.call(Op::Insmod { module: module.into(), params: String::new() })?;
        }
        Some(before)
    }

    fn run_cycle(&mut self, mut c: CyclePlan, books: &mut Books) -> Option<()> {
        let begun = self.begin_cycle(books);
        self.phase(c.load.name(), |e| e.call(c.load.op(&e.plan.target)))?;
        let raised = if let Some(d) = self.plan.defect {
            c.held = d.row().irq;
            self.use_defect(d.row(), &mut books.irqs)?
        } else if self.plan.endpoint {
            self.use_endpoint(c, &mut books.irqs)?
        } else {
            self.find_port(&mut books.irqs)?;
            0
        };
        let io = self.use_consumers(c, &mut books.irqs)?;
        // What the device side saw while the driver was bound is judged too, but apart from its teardown.
        let (live, fresh) = split_samples(self.machine.take_events());
        self.report(check::device::check_events(&live));
        self.judge_fresh(&fresh, books);
        self.phase(c.teardown.name(), |e| e.call(c.teardown.op(&e.plan.target)))?;
        self.end_io(&io)?;
        let after = self.phase("check", Engine::after_teardown)?;
        let system = self.phase("check", Engine::system)?;
        self.judge(&after, &system, Some(c.teardown), books);
        self.end_cycle(
            &begun,
            &after,
            books,
            CycleRecord {
                load: c.load.name().into(),
                teardown: c.teardown.name().into(),
                held: if self.plan.endpoint { kind_name(c.held) } else { "" }.into(),
                raised,
                ..CycleRecord::default()
            },
        );
        Some(())
    }

    /// Put the card back that an earlier cycle may have taken, and note where the books stand.
    fn begin_cycle(&mut self, books: &Books) -> Begun {
        if self.cycle > 1 && self.plan.card_goes() {
            self.machine.fault(SlotFault::Insert);
        }
        Begun { mappings: books.irqs.created_released(), misbehaved: books.misbehaved }
    }

    /// Tell what a cycle did: `record` has how it went, the rest stands in the books.
    fn end_cycle(&mut self, begun: &Begun, after: &Seen, books: &Books, record: CycleRecord) {
        let (created, released) = books.irqs.created_released();
        let record = CycleRecord {
            cycle: self.cycle,
            worked: std::mem::take(&mut self.worked),
            created: created - begun.mappings.0,
            released: released - begun.mappings.1,
            misbehaved: books.misbehaved - begun.misbehaved,
            leaked: books.irqs.leaked(),
            irq_descs: after.descs(),
            memory: after.counts(),
            phases_ms: std::mem::take(&mut self.phases_ms),
            ..record
        };
        (self.out)(Event::Cycle(record));
        self.machine.end_cycle();
    }

    /// Wait for the port, where there is no endpoint to wait for.
    fn find_port(&mut self, irqs: &mut Sources) -> Option<()> {
        self.phase("enumerate", |e| e.call(e.plan.wait_port()))?;
        self.observe(true, irqs).map(drop)
    }

    /// Find the endpoint, raise its interrupts, and disturb it; how many interrupts were raised.
    fn use_endpoint(&mut self, c: CyclePlan, irqs: &mut Sources) -> Option<u64> {
        let endpoint = self.phase("enumerate", |e| e.endpoint())?;
        let mut raised = self.exercise(c.held, irqs)?;
        let of_link = |d: &Disturbance| {
            !matches!(d, Disturbance::HotSwap | Disturbance::HotPlug | Disturbance::Neighbour)
        };
        for d in self.plan.disturbances.iter().copied().filter(of_link) {
            self.phase(d.name(), |e| e.disturb(d, &endpoint))?;
            if d.spares_endpoint() {
                raised += self.raise(c.held, 1, irqs)?;
            }
        }
        Some(raised)
    }

    /// Make the other cards' drivers work, disturb their slots, and start I/O that the teardown has to end: who does it, and its id.
    fn use_consumers(&mut self, c: CyclePlan, irqs: &mut Sources) -> Option<Vec<(Consumer, u64)>> {
        let plan = self.plan;
        if plan.consumers.is_empty() {
            return Some(Vec::new());
        }
        let seed = plan.seed ^ u64::from(c.number) << 32;
        let mut found = self.phase("cards", |e| e.find_cards())?;
        let work = Work { again: c.number > 1, filesystem: plan.filesystem, seed };
        self.work(&found, &work)?;
        for d in [Disturbance::HotSwap, Disturbance::HotPlug] {
            if plan.disturbances.contains(&d) {
                self.phase(d.name(), |e| e.swap(d))?;
                found = self.phase("cards", |e| e.find_cards())?;
                self.work(&found, &Work { again: true, seed: seed ^ 1 << d as u32, ..work })?;
            }
        }
        if plan.disturbances.contains(&Disturbance::Neighbour) {
            let work = Work { again: true, filesystem: false, seed: seed ^ 1 << 9 };
            self.phase("neighbour", |e| e.unbind_neighbours(&found, &work, irqs))?;
            found = self.phase("cards", |e| e.find_cards())?;
            if plan.endpoint {
                self.raise(c.held, 1, irqs)?;
            }
        }
        self.observe(true, irqs)?;
        let mut io = Vec::new();
        for (consumer, card) in plan.consumers.iter().zip(&found) {
            if let Some(op) = consumer.in_flight(card, seed ^ 1 << 8) {
                match self.call(op)? {
                    Value::Started(id) => io.push((consumer.clone(), id)),
                    v => return self.unexpected(&v),
                }
            }
        }
        Some(io)
    }

    fn find_cards(&mut self) -> Option<Vec<FoundCard>> {
        let cards = self.plan.consumers.iter().map(Consumer::at).collect();
        match self.call(Op::WaitCards { cards, timeout_ms: self.plan.enumerate_timeout_ms }) {
            Some(Value::Cards(found)) => Some(found),
            Some(v) => self.unexpected(&v),
            None => {
                // A driver that never comes is often one that waits for ever.
                self.machine.show_blocked_tasks();
                None
            }
        }
    }

    /// Functions of one device share a pin or not: each works while the drivers of the others come and go.
    fn unbind_neighbours(&mut self, found: &[FoundCard], work: &Work, irqs: &mut Sources) -> Option<()> {
        for (consumer, card) in self.plan.consumers.iter().zip(found) {
            let (driver, device) = (consumer.at().driver, card.address.clone());
            let bus = || String::from("pci");
            self.call(Op::Unbind { bus: bus(), driver: driver.clone(), device: device.clone() })?;
            if self.plan.endpoint {
                self.raise(IrqKind::Intx, 1, irqs)?;
            }
            self.call(Op::Bind { bus: bus(), driver, device })?;
        }
        if !self.plan.endpoint {
            return Some(());
        }
        let (bus, driver) = (String::from("pci"), String::from(ENDPOINT_DRIVER));
        let device = self.endpoint()?;
        self.call(Op::Unbind { bus: bus.clone(), driver: driver.clone(), device: device.clone() })?;
        let found = self.find_cards()?;
        self.work(&found, work)?;
        self.call(Op::Bind { bus, driver, device })?;
        self.endpoint().map(drop)
    }

    fn work(&mut self, found: &[FoundCard], work: &Work) -> Option<()> {
        for (consumer, card) in self.plan.consumers.iter().zip(found) {
            for op in consumer.work(card, work) {
                let value = self.phase(consumer.kind.name(), |e| e.call(op))?;
                self.worked += 1;
                self.report(consumer.judge(&value, false));
            }
        }
        Some(())
    }

    /// Pull the cards in slots of switches and put them back.
    fn swap(&mut self, d: Disturbance) -> Option<()> {
        let slots = self.plan.switch_slots();
        if d == Disturbance::HotPlug {
            for slot in &slots {
                self.call(Op::WriteFile { path: slot_power(slot), text: "0".into() })?;
            }
        }
        for event in [SlotEvent::Pull, SlotEvent::Insert] {
            for slot in &slots {
                self.machine.fault(SlotFault::Slot(slot.clone(), event));
            }
            // A kernel that still unconfigures the old card must not find the new one.
            self.machine.settle(QUIET, SETTLE);
        }
        Some(())
    }

    /// I/O that the teardown has met ends, with errors, but with nothing lost that was flushed.
    fn end_io(&mut self, io: &[(Consumer, u64)]) -> Option<()> {
        for (consumer, id) in io {
            let join = Op::BlockIoJoin { id: *id, timeout_ms: self.plan.op_timeout_ms };
            let value = self.phase("in-flight", |e| e.call(join))?;
            self.report(consumer.judge(&value, true));
        }
        Some(())
    }

    /// Wait until rcvm_defect is bound, which it is only if all its interrupts arrived; how many it holds.
    fn use_defect(&mut self, row: &defect::Row, irqs: &mut Sources) -> Option<u64> {
        let wait = Op::WaitDevice {
            address: defect::ENDPOINT.into(),
            driver: defect::MODULE.into(),
            timeout_ms: self.plan.enumerate_timeout_ms,
        };
        self.phase("enumerate", |e| e.call(wait))?;
        // What an earlier cycle left may not be looked into.
        let seen = self.observe(irqs.shunned().is_empty(), irqs)?;
        let named = |actions: &str| actions.split(',').any(|a| a.trim() == defect::MODULE);
        let held = seen.snapshot().irqs.values().filter(|d| named(&d.actions)).count() as u64;
        if held < u64::from(row.vectors()) {
            self.find(
                Finding::new(
                    Class::OperationFailed,
                    Source::GuestKernel,
                    "defect driver without handlers",
                    format!("{} holds {held} handlers, not {}", defect::MODULE, row.vectors()),
                )
                .fact("held", held),
            );
        }
        Some(held)
    }

    /// Let `d` happen, and wait until the link is quiet again: a driver may recover by itself what a reset did to the link.
    fn disturb(&mut self, d: Disturbance, endpoint: &str) -> Option<()> {
        match d {
            Disturbance::LinkLoss => self.machine.fault(SlotFault::LoseLink),
            Disturbance::SurpriseRemoval => self.machine.fault(SlotFault::Pull),
            _ => {}
        }
        for op in disturb_ops(d, endpoint) {
            self.call(op)?;
        }
        if !self.machine.settle(QUIET, SETTLE) {
            self.find(Finding::new(
                Class::Hang,
                Source::DeviceModel,
                format!("{} never ends", d.name()),
                format!("the link goes up and down for {} s after {}", SETTLE.as_secs(), d.name()),
            ));
        }
        Some(())
    }

    /// Wait until the endpoint is bound; its address.
    fn endpoint(&mut self) -> Option<String> {
        match self.call(self.wait_op())? {
            Value::Endpoint(e) => Some(e.address),
            v => self.unexpected(&v),
        }
    }

    fn wait_op(&self) -> Op {
        Op::WaitEndpoint {
            vendor: ENDPOINT_ID.0,
            device: ENDPOINT_ID.1,
            driver: ENDPOINT_DRIVER.into(),
            timeout_ms: self.plan.enumerate_timeout_ms,
        }
    }

    /// Raise interrupts of all three kinds and end up holding `held`.
    ///
    /// INTx stands between MSI and MSI-X: the two reuse each other's virq and hwirq numbers, and only a snapshot without
    /// either tells that the first set was released before the second was created.
    fn exercise(&mut self, held: IrqKind, irqs: &mut Sources) -> Option<u64> {
        let p = self.plan;
        let mut steps =
            vec![(IrqKind::Msi, p.msi_vectors), (IrqKind::Intx, 1), (IrqKind::MsiX, p.msix_vectors)];
        match held {
            IrqKind::MsiX => {}
            IrqKind::Intx => steps.push((IrqKind::Intx, 1)),
            IrqKind::Msi => steps.extend([(IrqKind::Intx, 1), (IrqKind::Msi, 1)]),
        }
        let mut raised = 0;
        for (kind, vectors) in steps {
            raised += self.raise(kind, vectors, irqs)?;
        }
        Some(raised)
    }

    /// Raise `vectors` interrupts of one kind; how many were raised.
    fn raise(&mut self, kind: IrqKind, vectors: u32, irqs: &mut Sources) -> Option<u64> {
        let shun = irqs.shunned();
        let value = self.phase(kind_name(kind), |e| e.call(Op::ExerciseIrqs { kind, vectors, shun }))?;
        let Value::Exercised(x) = value else { return self.unexpected(&value) };
        let told = (self.plan.irq_views != IrqViews::Memory).then(|| x.snapshot.clone());
        let view = self.look();
        irqs.observe(&Seen { told, view });
        self.report(too_few(&x, self.plan.least_vectors(kind, vectors)));
        self.report(undelivered(&x));
        Some(x.vectors.len() as u64)
    }

    /// The state at the first access of a probe is that after power-on, whatever came before.
    fn judge_fresh(&mut self, fresh: &BTreeMap<SamplePoint, Sample>, books: &mut Books) {
        if let Some(now) = fresh.get(&SamplePoint::S5) {
            let cold = books.cold.get_or_insert_with(|| now.clone());
            let mut found = check::device::check_fresh(cold, now);
            books.allow.apply(&mut found);
            self.report(found);
        }
    }

    /// `teardown`: how the driver went down since the last time, if it did.
    fn judge(&mut self, after: &Seen, system: &SystemState, teardown: Option<Teardown>, books: &mut Books) {
        let (events, mut samples) = split_samples(self.machine.take_events());
        // Only a plan file's cycle has it here: its probe and its teardown are not told apart.
        self.judge_fresh(&samples, books);
        samples.remove(&SamplePoint::S5);
        let s4 = self.machine.sample(SamplePoint::S4);
        books.misbehaved = s4.items.iter().filter(|i| i.0.starts_with("misbehaved")).map(|i| i.1).sum();
        samples.insert(SamplePoint::S4, s4);
        let mut found = books.irqs.after_teardown(after);
        found.extend(after.disagreements());
        found.extend(check::system::check(&books.system, system));
        found.extend(check::gic::check(&self.machine.spi_state()));
        found.extend(match (teardown, samples.get(&SamplePoint::S4)) {
            (None, Some(now)) => check::device::check_unbound(now),
            _ => check::device::check(&samples),
        });
        found.extend(check::device::check_events(&events));
        books.allow.apply(&mut found);
        teardown.map_or("check", Teardown::name).clone_into(&mut self.phase);
        self.report(found);
    }

    /// The state before the first probe, which has to be sound by itself.
    fn baseline(&mut self) -> Option<Seen> {
        if let Some(LookError::Unreadable(why)) = self.looks.then(|| self.machine.look().err()).flatten() {
            self.looks = false;
            if self.plan.irq_views == IrqViews::Memory {
                self.unseen(&why);
                return None;
            }
            let text = format!("mappings are seen through the guest's files only: {why}");
            (self.out)(Event::Note { text });
        }
        let seen = self.seen(true)?;
        if self.plan.irq_views == IrqViews::Memory && seen.view.is_none() {
            return None;
        }
        if let Some(view) = &seen.view {
            self.report(check::memory::check(None, view, &BTreeSet::new()));
        }
        let seen = self.agreed(seen, true)?;
        self.report(seen.disagreements());
        Some(seen)
    }

    fn after_teardown(&mut self) -> Option<Seen> {
        let seen = self.seen(false)?;
        self.agreed(seen, false)
    }

    /// The two views are of two moments: only what they disagree about twice is a disagreement.
    fn agreed(&mut self, seen: Seen, details: bool) -> Option<Seen> {
        if seen.disagreements().is_empty() {
            return Some(seen);
        }
        self.seen(details)
    }

    /// Take in what there is while the driver is bound.
    fn observe(&mut self, details: bool, irqs: &mut Sources) -> Option<Seen> {
        let seen = self.seen(details)?;
        irqs.observe(&seen);
        Some(seen)
    }

    fn seen(&mut self, details: bool) -> Option<Seen> {
        let told = match self.plan.irq_views {
            IrqViews::Memory => None,
            IrqViews::Both | IrqViews::Agent => Some(self.snapshot(details)?),
        };
        Some(Seen { told, view: self.look() })
    }

    fn look(&mut self) -> Option<IrqView> {
        if !self.looks {
            return None;
        }
        match self.machine.look() {
            Ok(view) => Some(view),
            Err(e) => {
                self.unseen(&e.to_string());
                None
            }
        }
    }

    fn unseen(&mut self, why: &str) {
        self.find(Finding::new(Class::OperationFailed, Source::GuestMemory, "memory not seen", why));
    }

    fn snapshot(&mut self, details: bool) -> Option<IrqSnapshot> {
        match self.call(Op::SnapshotIrqs { details })? {
            Value::Irqs(s) => Some(s),
            v => self.unexpected(&v),
        }
    }

    fn system(&mut self) -> Option<SystemState> {
        match self.call(Op::SystemState)? {
            Value::System(s) => Some(s),
            v => self.unexpected(&v),
        }
    }

    fn phase<T>(&mut self, name: &str, f: impl FnOnce(&mut Self) -> Option<T>) -> Option<T> {
        name.clone_into(&mut self.phase);
        (self.out)(Event::Phase { cycle: self.cycle, phase: name.into() });
        self.machine.announce(name);
        let start = self.machine.now_ms();
        let r = f(self);
        let ms = self.machine.now_ms().saturating_sub(start);
        match self.phases_ms.iter_mut().find(|p| p.0 == name) {
            Some(p) => p.1 += ms,
            None => self.phases_ms.push((name.into(), ms)),
        }
        r
    }

    fn call(&mut self, op: Op) -> Option<Value> {
        let timeout = Duration::from_millis(self.plan.op_timeout_ms);
        match self.machine.call(op.clone(), timeout) {
            Ok(v) => Some(v),
            Err(e) => {
                self.failed(&op, &e);
                None
            }
        }
    }

    fn failed(&mut self, op: &Op, e: &CallError) {
        let class = match e {
            CallError::Failed(_) | CallError::Protocol { .. } => Class::OperationFailed,
            CallError::Hang { .. } => Class::Hang,
            CallError::Ended { .. } => Class::Crash,
        };
        let mut f = Finding::new(
            class,
            Source::Harness,
            format!("{} in {}", class.name(), self.phase),
            e.to_string(),
        )
        .fact("operation", serde_json::to_string(op).unwrap_or_default());
        self.machine.preserve(class);
        if class == Class::Hang {
            let busy: Vec<_> =
                self.machine.spi_state().into_iter().filter(|s| s.pending || s.active || s.level).collect();
            f = f.fact("busy SPIs", serde_json::to_string(&busy).unwrap_or_default());
            self.machine.show_blocked_tasks();
        }
        self.find(f);
    }

    fn unexpected<T>(&mut self, v: &Value) -> Option<T> {
        self.find(Finding::new(
            Class::OperationFailed,
            Source::Harness,
            "agent answer",
            format!("unexpected answer of the agent: {v:?}"),
        ));
        None
    }

    fn find(&mut self, f: Finding) {
        if f.allowed.is_none() {
            self.machine.preserve(f.class);
        }
        let f = f.at(self.cycle, &self.phase);
        (self.out)(Event::Finding(f));
    }

    fn report(&mut self, found: Vec<Finding>) {
        for f in found {
            self.find(f);
        }
    }
}

/// What takes the card of a slot out of service (Linux pciehp).
fn slot_power(slot: &[u8]) -> String {
    format!("/sys/bus/pci/slots/{}/power", slot_number(slot))
}

fn disturb_ops(d: Disturbance, endpoint: &str) -> Vec<Op> {
    let suspend = Op::Suspend { seconds: SUSPEND_S };
    let port = |bits, hold_ms| Op::LinkControl { address: ROOT_PORT.into(), bits, hold_ms };
    let (bus, driver, device) = (String::from("pci"), String::from(ENDPOINT_DRIVER), String::from(endpoint));
    match d {
        Disturbance::Suspend => vec![suspend],
        Disturbance::SuspendL2 => vec![
            Op::Unbind { bus: bus.clone(), driver: driver.clone(), device: device.clone() },
            suspend,
            Op::Bind { bus, driver, device },
        ],
        Disturbance::Reset => vec![Op::ResetFunction { address: device }],
        Disturbance::Retrain => vec![port(LNKCTL_RL, 0)],
        Disturbance::LinkDisable => vec![port(LNKCTL_LD, LINK_DISABLE_MS)],
        Disturbance::LinkLoss
        | Disturbance::SurpriseRemoval
        | Disturbance::HotSwap
        | Disturbance::HotPlug
        | Disturbance::Neighbour => Vec::new(),
    }
}

const fn kind_name(k: IrqKind) -> &'static str {
    match k {
        IrqKind::Intx => "intx",
        IrqKind::Msi => "msi",
        IrqKind::MsiX => "msi-x",
    }
}

/// Samples by point (the last of each), and the other events.
fn split_samples(events: Vec<rc_model::Event>) -> (Vec<rc_model::Event>, BTreeMap<SamplePoint, Sample>) {
    let mut samples = BTreeMap::new();
    let rest = events
        .into_iter()
        .filter_map(|e| match e {
            rc_model::Event::Sampled(s) => {
                samples.insert(s.point, s);
                None
            }
            e => Some(e),
        })
        .collect();
    (rest, samples)
}

fn too_few(x: &Exercised, least: u32) -> Vec<Finding> {
    if x.allocated >= least {
        return Vec::new();
    }
    let kind = kind_name(x.kind);
    let f = Finding::new(
        Class::IrqUndelivered,
        Source::GuestKernel,
        format!("{kind} vectors missing"),
        format!("{kind}: the driver got {} vectors of {least}", x.allocated),
    );
    vec![f.fact("got", x.allocated).fact("expected", least)]
}

fn undelivered(x: &Exercised) -> Vec<Finding> {
    x.vectors
        .iter()
        .filter(|v| !v.ok || v.after <= v.before)
        .map(|v| {
            let kind = kind_name(x.kind);
            Finding::new(
                Class::IrqUndelivered,
                Source::GuestKernel,
                format!("{kind} vector {} undelivered", v.number),
                format!(
                    "{kind} vector {} (virq {}) was raised; handler count {} before, {} after, driver says {}",
                    v.number,
                    v.virq,
                    v.before,
                    v.after,
                    if v.ok { "delivered" } else { "not delivered" }
                ),
            )
            .fact("virq", v.virq)
            .fact("before", v.before)
            .fact("after", v.after)
        })
        .collect()
}

#[cfg(test)]
#[path = "engine_test.rs"]
mod tests;
