//! The engine against a fake guest: what it asks for, in which order, and what it makes of the answers.

use rc_model::soc::SpiState;
use std::collections::VecDeque;

use guest_agent::Endpoint;
use guest_agent::FileText;
use guest_agent::IrqDesc;
use guest_agent::OpError;
use guest_agent::RaisedVector;
use guest_view::irq::Action;
use guest_view::Desc;
use guest_view::Domain;
use guest_view::Level;

use super::*;
use crate::stall::StallRule;
use crate::stall::Stalled;
use crate::verdict::Verdict;

/// How the fake guest misbehaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Fault {
    None,
    /// The driver has no remove: its mappings stay.
    NoRemove,
    /// Unbind never answers.
    HangInTeardown,
    /// The guest dies in the second cycle's load.
    DieInSecondLoad,
    /// Vector 3 of MSI never reaches its handler.
    LostVector,
    /// The driver gets half of the MSI-X vectors that it asks for.
    HalfTheVectors,
    /// The second bind fails.
    BindFails,
    /// A class device of the endpoint stays.
    ClassDeviceStays,
    /// The defect driver is bound and holds nothing.
    NoHandlers,
    /// The driver hides its bind attributes.
    NoUnbind,
    /// The built-in driver waits for something at boot.
    Deferred,
    /// The kernel has no fault injection.
    NoInjection,
    /// The kernel has no types: its memory says nothing.
    Unreadable,
    /// Somebody always holds a lock after the baseline.
    Unsteady,
    /// The guest's files lack a mapping that stays.
    AgentIsBlind,
    /// What is left after the teardown has lost its domain.
    Dangling,
}

pub(super) struct Fake {
    fault: Fault,
    ops: Vec<Op>,
    held: Option<IrqKind>,
    events: VecDeque<rc_model::Event>,
    loads: u32,
    torn_down: bool,
    clock_ms: u64,
    pub(super) asked_for_tasks: bool,
    /// Faults, and how many operations came before each.
    faults: Vec<(usize, SlotFault)>,
    announced: Vec<String>,
    stalls: Vec<StallRule>,
    /// Whether the driver under test is bound.
    bound: bool,
    /// What lanes come back with.
    pub(super) lanes: Vec<guest_agent::LaneResult>,
}

pub(super) fn fake(fault: Fault) -> Fake {
    Fake {
        fault,
        ops: Vec::new(),
        held: None,
        events: VecDeque::new(),
        loads: 0,
        torn_down: false,
        clock_ms: 0,
        asked_for_tasks: false,
        faults: Vec::new(),
        announced: Vec::new(),
        stalls: Vec::new(),
        bound: false,
        lanes: Vec::new(),
    }
}

impl Fake {
    fn snapshot(&self) -> IrqSnapshot {
        let mut irqs = self.memory();
        if self.fault == Fault::AgentIsBlind && self.torn_down {
            irqs.retain(|virq, _| *virq == 1);
        }
        IrqSnapshot { irqs, domains: BTreeMap::new() }
    }

    fn memory(&self) -> BTreeMap<u32, IrqDesc> {
        let mut irqs = BTreeMap::new();
        irqs.insert(1, IrqDesc { chip: "GICv3".into(), hwirq: Some(27), ..IrqDesc::default() });
        let (n, chip) = match self.held {
            None => (0, ""),
            Some(IrqKind::Intx) => (1, "GICv3"),
            Some(IrqKind::Msi | IrqKind::MsiX) => (32, "PCI-MSI"),
        };
        let actions = if self.fault == Fault::NoHandlers { "" } else { defect::MODULE };
        for i in 0..n {
            let d = IrqDesc {
                chip: chip.into(),
                hwirq: Some(0x8_0000 + u64::from(i)),
                actions: actions.into(),
                ..IrqDesc::default()
            };
            irqs.insert(20 + i, d);
        }
        irqs
    }

    /// The same as a kernel has it: everything in one domain.
    fn view(&self) -> IrqView {
        const GIC: u64 = 0x1000;
        let mut view = IrqView::default();
        let gone = self.fault == Fault::Dangling && self.torn_down;
        let mut revmap = Vec::new();
        for (virq, d) in self.memory() {
            let (va, hwirq) = (0x2000 + u64::from(virq), d.hwirq.unwrap_or(0));
            let domain = if gone && virq != 1 { 0x9000 } else { GIC };
            if domain == GIC {
                revmap.push((hwirq, va));
            }
            let chip_name = Some(d.chip);
            let named = |name: &str| Action {
                name: Some(name.into()),
                handler: 0,
                handler_symbol: None,
                dev_id: 0,
                thread: 0,
            };
            view.descs.push(Desc {
                virq: virq.into(),
                va,
                levels: vec![Level { va, hwirq, domain, chip: 0, chip_name }],
                handler: 0,
                handler_symbol: None,
                actions: Some(d.actions.as_str()).filter(|a| !a.is_empty()).map(named).into_iter().collect(),
                status: 0,
                depth: 0,
                threads_active: 0,
                affinity_hint: 0,
                msi_desc: 0,
                msi: None,
                owner: 0,
            });
        }
        view.domains.push(Domain {
            va: GIC,
            name: "gic".into(),
            flags: 0,
            mapcount: revmap.len() as u32,
            bus_token: 0,
            parent: 0,
            ops: 0,
            device: None,
            revmap,
        });
        view
    }

    fn system(&self) -> SystemState {
        let mut s = SystemState::default();
        if self.fault == Fault::ClassDeviceStays && self.loads > 0 {
            s.class_devices.insert("x/x1".into(), "pci0000:00/0000:01:00.0/x/x1".into());
        }
        s
    }

    fn exercise(&mut self, kind: IrqKind, vectors: u32) -> Value {
        self.held = Some(kind);
        let n = match kind {
            IrqKind::Intx => 1,
            IrqKind::MsiX if self.fault == Fault::HalfTheVectors => vectors / 2,
            _ => vectors,
        };
        let vectors = (1..=n)
            .map(|number| {
                let lost = self.fault == Fault::LostVector && kind == IrqKind::Msi && number == 3;
                RaisedVector { number, ok: !lost, virq: 19 + number, before: 5, after: 6 - u64::from(lost) }
            })
            .collect();
        Value::Exercised(Exercised { kind, snapshot: self.snapshot(), allocated: n, vectors })
    }

    fn teardown(&mut self) {
        self.torn_down = true;
        if self.fault == Fault::NoRemove {
            return;
        }
        if !matches!(self.fault, Fault::AgentIsBlind | Fault::Dangling) {
            self.held = None;
        }
        for point in [SamplePoint::S1, SamplePoint::S2, SamplePoint::S3] {
            self.events.push_back(rc_model::Event::Sampled(sample(point)));
        }
    }
}

fn sample(point: SamplePoint) -> Sample {
    let items = BTreeMap::from([("gpio.perst".into(), 1), ("clk.on".into(), 0)]);
    Sample { point, time_ns: 1, life: 1, items }
}

impl Machine for Fake {
    fn call(&mut self, op: Op, timeout: Duration) -> Result<Value, CallError> {
        self.clock_ms += 7;
        self.ops.push(op.clone());
        match op {
            Op::Insmod { ref module, .. } if module == ENDPOINT_MODULE || module == defect::MODULE => {
                Ok(Value::Done)
            }
            Op::Insmod { .. } | Op::Bind { .. } => {
                self.loads += 1;
                self.bound = true;
                match self.fault {
                    Fault::DieInSecondLoad if self.loads == 2 => {
                        Err(CallError::Ended { reason: "the guest reset itself".into() })
                    }
                    Fault::BindFails if matches!(op, Op::Bind { .. }) => Err(CallError::Failed(OpError {
                        what: "write bind".into(),
                        errno: 17,
                        why: "File exists".into(),
                    })),
                    _ => Ok(Value::Done),
                }
            }
            Op::WaitEndpoint { .. } => {
                self.held = Some(IrqKind::Msi);
                Ok(Value::Endpoint(Endpoint { address: "0000:01:00.0".into(), irq: 30, devices: vec![] }))
            }
            Op::ExerciseIrqs { kind, vectors, .. } => Ok(self.exercise(kind, vectors)),
            Op::SnapshotIrqs { .. } => Ok(Value::Irqs(self.snapshot())),
            Op::WaitDevice { .. } if self.fault == Fault::Deferred => Err(CallError::Failed(OpError {
                what: "wait for PCI device".into(),
                errno: ETIMEDOUT,
                why: "after 20000 ms".into(),
            })),
            Op::ReadFile { ref path, .. } if path == DEFERRED => Ok(Value::File(FileText {
                text: "1c00000.pcie\tplatform: wait for supplier /phy@1c06000\n".into(),
                truncated: false,
            })),
            Op::Unbind { .. } if self.fault == Fault::NoUnbind => Err(CallError::Failed(OpError {
                what: "write unbind".into(),
                errno: ENOENT,
                why: "No such file or directory".into(),
            })),
            Op::Rmmod { .. } | Op::Unbind { .. } if self.fault == Fault::HangInTeardown => {
                Err(CallError::Hang { waited_ms: timeout.as_millis() as u64 })
            }
            Op::Rmmod { .. } | Op::Unbind { .. } => {
                self.bound = false;
                self.teardown();
                Ok(Value::Done)
            }
            Op::SystemState => Ok(Value::System(self.system())),
            Op::WaitDevice { ref driver, .. } if driver == defect::MODULE => {
                self.held = Some(IrqKind::Msi);
                Ok(Value::Done)
            }
            Op::WaitPath { .. } if self.bound => Ok(Value::Done),
            Op::WaitPath { .. } => {
                Err(CallError::Failed(OpError { what: "wait".into(), errno: ETIMEDOUT, why: "no".into() }))
            }
            Op::FailNth { .. } if self.fault == Fault::NoInjection => Err(CallError::Failed(OpError {
                what: "open /proc/thread-self/fail-nth".into(),
                errno: ENOENT,
                why: "No such file or directory".into(),
            })),
            Op::FailNth { .. } => {
                let why =
                    OpError { what: "write bind".into(), errno: 12, why: "Cannot allocate memory".into() };
                Ok(Value::Injected(guest_agent::Injected { injected: true, error: Some(why) }))
            }
            Op::Together { ref lanes, .. } => {
                if lanes.iter().flat_map(|l| &l.ops).any(|o| matches!(o, Op::Unbind { .. })) {
                    self.bound = false;
                    self.teardown();
                }
                Ok(Value::Lanes(self.lanes.clone()))
            }
            Op::WriteFile { .. } => Err(CallError::Failed(OpError {
                what: "write".into(),
                errno: ENOENT,
                why: "No such file or directory".into(),
            })),
            Op::Suspend { .. } | Op::LinkControl { .. } | Op::WaitDevice { .. } => Ok(Value::Done),
            op => panic!("the engine does not use {op:?}"),
        }
    }

    fn look(&mut self) -> Result<IrqView, LookError> {
        match self.fault {
            Fault::Unreadable => Err(LookError::Unreadable("no BTF".into())),
            Fault::Unsteady if self.loads > 0 => Err(LookError::Unsteady("irq_domain_mutex".into())),
            _ => Ok(self.view()),
        }
    }

    fn sample(&mut self, point: SamplePoint) -> Sample {
        sample(point)
    }

    fn spi_state(&mut self) -> Vec<SpiState> {
        vec![SpiState { name: "msi0".into(), spi: 32, ..SpiState::default() }]
    }

    fn take_events(&mut self) -> Vec<rc_model::Event> {
        self.events.drain(..).collect()
    }

    fn now_ms(&mut self) -> u64 {
        self.clock_ms
    }

    fn fault(&mut self, fault: SlotFault) {
        self.faults.push((self.ops.len(), fault));
    }

    fn stall(&mut self, rule: &StallRule, _draw: u64) {
        self.stalls.push(rule.clone());
    }

    fn stalled(&mut self) -> Vec<(StallRule, Stalled)> {
        self.stalls.drain(..).map(|r| (r, Stalled::NeverHeld)).collect()
    }

    fn announce(&mut self, phase: &str) {
        self.announced.push(phase.to_owned());
    }

    fn settle(&mut self, _: Duration, _: Duration) -> bool {
        true
    }

    fn show_blocked_tasks(&mut self) {
        self.asked_for_tasks = true;
    }

    fn end_cycle(&mut self) {}
}

pub(super) fn hello() -> Hello {
    Hello {
        proto: PROTO_VERSION,
        release: "6.12.117".into(),
        version: "#1".into(),
        modules: vec![Plan::default().target.module, ENDPOINT_MODULE.into(), defect::MODULE.into()],
        builtin: Vec::new(),
        image: "modular".into(),
        irq_debugfs: true,
        boot_log: String::new(),
    }
}

fn run_fake(m: &mut Fake, cycles: u32, hello: Hello) -> (Vec<Event>, Verdict) {
    run_plan(m, &Plan { cycles, ..Plan::default() }, hello)
}

fn run_plan(m: &mut Fake, plan: &Plan, hello: Hello) -> (Vec<Event>, Verdict) {
    let mut events = Vec::new();
    run(m, plan, hello, 900, &mut |e| events.push(e));
    let findings: Vec<Finding> = events
        .iter()
        .filter_map(|e| if let Event::Finding(f) = e { Some(f.clone()) } else { None })
        .collect();
    let complete = events.contains(&Event::Ended { complete: true });
    let verdict = Verdict::judge(&findings, complete);
    (events, verdict)
}

fn records(events: &[Event]) -> Vec<&CycleRecord> {
    events.iter().filter_map(|e| if let Event::Cycle(c) = e { Some(c) } else { None }).collect()
}

#[test]
fn a_good_guest_is_clean_and_all_three_kinds_are_counted() {
    let (events, verdict) = run_fake(&mut fake(Fault::None), 4, hello());
    assert_eq!(verdict, Verdict::Clean, "{events:#?}");
    for c in records(&events) {
        // 32 MSI + 1 INTx + 32 MSI-X, and what the held kind adds.
        let extra = match c.held.as_str() {
            "intx" => 1,
            "msi" => 33,
            _ => 0,
        };
        assert_eq!((c.created, c.released), (65 + extra, 65 + extra), "{c:?}");
        assert_eq!(c.leaked, vec![]);
    }
    assert_eq!(records(&events).len(), 4);
}

#[test]
fn no_remove_is_a_leak_with_the_mapping_named() {
    let (events, verdict) = run_fake(&mut fake(Fault::NoRemove), 1, hello());
    assert_eq!(verdict, Verdict::Leak);
    assert!(!records(&events)[0].leaked.is_empty());
    let named = events.iter().any(
        |e| matches!(e, Event::Finding(f) if f.class == Class::IrqLeak && f.evidence.contains_key("virq")),
    );
    assert!(named);
    let missed = events.iter().any(|e| matches!(e, Event::Finding(f) if f.rule == "S2 missed"));
    assert!(missed, "PERST# never fell");
}

#[test]
fn a_hang_is_a_crash_verdict_and_names_the_operation() {
    let mut m = fake(Fault::HangInTeardown);
    let (events, verdict) = run_fake(&mut m, 3, hello());
    assert!(m.asked_for_tasks, "who waits for what is evidence");
    assert_eq!(verdict, Verdict::Crash);
    assert!(events
        .iter()
        .any(|e| matches!(e, Event::Finding(f) if f.class == Class::Hang && f.operation == "rmmod")));
    assert_eq!(events.last(), Some(&Event::Ended { complete: false }));
}

#[test]
fn a_dead_guest_keeps_the_cycles_done() {
    let (events, verdict) = run_fake(&mut fake(Fault::DieInSecondLoad), 3, hello());
    assert_eq!(verdict, Verdict::Crash);
    assert_eq!(records(&events).len(), 1);
}

#[test]
fn vectors_that_the_driver_did_not_get_make_the_run_inconclusive() {
    let (events, verdict) = run_fake(&mut fake(Fault::HalfTheVectors), 1, hello());
    assert_eq!(verdict, Verdict::Inconclusive);
    assert!(events.iter().any(|e| matches!(e, Event::Finding(f) if f.rule == "msi-x vectors missing")));
}

#[test]
fn a_lost_interrupt_makes_the_run_inconclusive() {
    let (events, verdict) = run_fake(&mut fake(Fault::LostVector), 1, hello());
    assert_eq!(verdict, Verdict::Inconclusive);
    assert!(events.iter().any(|e| matches!(e, Event::Finding(f) if f.rule == "msi vector 3 undelivered")));
}

#[test]
fn a_failed_bind_stops_the_run() {
    let (events, verdict) = run_fake(&mut fake(Fault::BindFails), 4, hello());
    assert_eq!(verdict, Verdict::Inconclusive);
    assert_eq!(records(&events).len(), 2, "insmod–rmmod and insmod–unbind went well");
}

#[test]
fn an_image_without_the_driver_is_told_before_the_first_cycle() {
    let mut m = fake(Fault::None);
    let (events, verdict) = run_fake(&mut m, 1, Hello { modules: vec![ENDPOINT_MODULE.into()], ..hello() });
    assert_eq!(verdict, Verdict::Inconclusive);
    assert!(m.ops.is_empty());
    assert!(events.iter().any(|e| matches!(e, Event::Finding(f) if f.summary.contains("pcie-qcom.ko"))));
}

#[test]
fn an_agent_of_another_protocol_is_refused() {
    let (events, _) = run_fake(&mut fake(Fault::None), 1, Hello { proto: PROTO_VERSION + 1, ..hello() });
    assert!(events.iter().any(|e| matches!(e, Event::Finding(f) if f.summary.contains("rebuild the image"))));
}

#[test]
fn disturbances_come_between_use_and_teardown_and_the_endpoint_has_to_work_after_them() {
    let mut m = fake(Fault::None);
    let plan = Plan {
        cycles: 1,
        disturbances: vec![Disturbance::Suspend, Disturbance::LinkDisable],
        ..Plan::default()
    };
    run(&mut m, &plan, hello(), 1, &mut |_| {});
    let at = |what: fn(&Op) -> bool| m.ops.iter().position(what).unwrap();
    let suspend = at(|o| matches!(o, Op::Suspend { seconds: 2 }));
    let disable = at(|o| matches!(o, Op::LinkControl { bits: 0x10, .. }));
    assert!(matches!(m.ops[suspend + 1], Op::ExerciseIrqs { vectors: 1, .. }), "{:?}", m.ops[suspend + 1]);
    assert_eq!(disable, suspend + 2);
    assert!(
        matches!(m.ops[disable + 1], Op::Rmmod { .. }),
        "the endpoint lost its configuration: no more use"
    );
}

#[test]
fn a_pulled_card_is_put_back_before_the_next_cycle() {
    let mut m = fake(Fault::None);
    let plan = Plan { cycles: 2, disturbances: vec![Disturbance::SurpriseRemoval], ..Plan::default() };
    run(&mut m, &plan, hello(), 1, &mut |_| {});
    let got: Vec<_> = m.faults.iter().map(|(n, f)| (f.clone(), m.ops.get(*n).cloned())).collect();
    let [(pull, torn), (insert, load), _] = got.as_slice() else { panic!("{got:?}") };
    assert_eq!((pull, insert), (&SlotFault::Pull, &SlotFault::Insert));
    assert!(matches!(torn, Some(Op::Rmmod { .. })) && matches!(load, Some(Op::Insmod { .. })), "{got:?}");
}

#[test]
fn without_an_endpoint_the_driver_is_loaded_and_torn_down_and_nothing_is_raised() {
    let mut m = fake(Fault::None);
    run(&mut m, &Plan { cycles: 1, endpoint: false, ..Plan::default() }, hello(), 1, &mut |_| {});
    assert!(m.ops.iter().any(|o| matches!(o, Op::WaitDevice { .. })));
    assert!(!m.ops.iter().any(|o| matches!(o, Op::WaitEndpoint { .. } | Op::ExerciseIrqs { .. })));
}

#[test]
fn cards_are_told_of_every_phase_before_it_begins() {
    let mut m = fake(Fault::None);
    run(&mut m, &Plan { cycles: 1, ..Plan::default() }, hello(), 1, &mut |_| {});
    let at = |name: &str| m.announced.iter().position(|p| p == name).unwrap();
    assert!(at("insmod") < at("msi") && at("msi") < at("rmmod") && at("rmmod") < at("check"));
}

#[test]
fn a_card_that_never_misbehaves_though_asked_to_is_told() {
    let told = |misbehaviours| {
        let mut found = Vec::new();
        run(
            &mut fake(Fault::None),
            &Plan { cycles: 1, misbehaviours, ..Plan::default() },
            hello(),
            1,
            &mut |e| {
                if let Event::Finding(f) = e {
                    found.push(f.summary);
                }
            },
        );
        found.iter().any(|f| f.contains("no card has misbehaved"))
    };
    assert!(told(1) && !told(0));
}

#[test]
fn a_card_that_vanishes_is_put_back_for_the_next_cycle() {
    let mut m = fake(Fault::None);
    run(&mut m, &Plan { cycles: 2, vanishes: true, ..Plan::default() }, hello(), 1, &mut |_| {});
    assert_eq!(m.faults.iter().map(|f| f.1.clone()).collect::<Vec<_>>(), [SlotFault::Insert]);
}

#[test]
fn a_defect_loads_its_driver_with_parameters_and_raises_nothing_through_the_other() {
    let mut m = fake(Fault::None);
    let plan = Plan { cycles: 2, defect: Some(defect::Defect::MappingLeft), ..Plan::default() };
    let mut events = Vec::new();
    run(&mut m, &plan, hello(), 1, &mut |e| events.push(e));
    let params = "irq=msi vectors=4 defect=mapping-left".to_owned();
    assert_eq!(m.ops[0], Op::Insmod { module: defect::MODULE.into(), params });
    assert!(!m.ops.iter().any(|o| matches!(o, Op::WaitEndpoint { .. } | Op::ExerciseIrqs { .. })));
    let done: Vec<_> = records(&events).iter().map(|c| (c.held.clone(), c.raised, c.created)).collect();
    assert_eq!(done, vec![("msi".to_owned(), 32, 32); 2]);
    assert!(events.contains(&Event::Ended { complete: true }));
}

#[test]
fn a_defect_driver_without_handlers_proves_nothing() {
    let mut m = fake(Fault::NoHandlers);
    let plan = Plan { cycles: 1, defect: Some(defect::Defect::None), ..Plan::default() };
    let mut rules = Vec::new();
    run(&mut m, &plan, hello(), 1, &mut |e| {
        if let Event::Finding(f) = e {
            rules.push((f.class, f.rule));
        }
    });
    assert_eq!(rules, [(Class::OperationFailed, "defect driver without handlers".to_owned())]);
}

#[test]
fn a_class_device_that_stays_is_a_leak_of_any_driver() {
    let (events, verdict) = run_fake(&mut fake(Fault::ClassDeviceStays), 1, hello());
    assert_eq!(verdict, Verdict::Leak);
    assert!(events.iter().any(|e| matches!(e, Event::Finding(f) if f.class == Class::DeviceLeak
        && f.evidence["owner"] == "0000:01:00.0")));
}

/// The driver under test is built in.
fn stock_hello() -> Hello {
    Hello {
        modules: vec![ENDPOINT_MODULE.into()],
        builtin: vec![Plan::default().target.module],
        release: "6.12.117+deb12-arm64".into(),
        ..hello()
    }
}

#[test]
fn a_built_in_driver_is_unbound_before_the_baseline_and_then_only_bound_and_unbound() {
    let mut m = fake(Fault::None);
    let (events, verdict) = run_fake(&mut m, 3, stock_hello());
    assert_eq!(verdict, Verdict::Clean);
    let first = |wanted: fn(&Op) -> bool| m.ops.iter().position(wanted).unwrap();
    let unbound = first(|o| matches!(o, Op::Unbind { .. }));
    assert!(first(|o| matches!(o, Op::WaitDevice { .. })) < unbound, "it may not have probed yet");
    assert!(unbound < first(|o| matches!(o, Op::Insmod { .. })), "before a card's driver holds anything");
    assert!(unbound < first(|o| matches!(o, Op::SnapshotIrqs { .. })));
    let cycles: Vec<_> = events
        .iter()
        .filter_map(|e| match e {
            Event::Cycle(c) => Some((c.load.as_str(), c.teardown.as_str())),
            _ => None,
        })
        .collect();
    assert_eq!(cycles, [("bind", "unbind"); 3]);
    assert!(!m.ops.iter().any(|o| matches!(o, Op::Rmmod { .. })));
}

#[test]
fn a_built_in_driver_without_unbind_is_used_once_and_nothing_is_said_of_its_teardown() {
    let mut m = fake(Fault::NoUnbind);
    let (events, verdict) = run_fake(&mut m, 3, stock_hello());
    assert_eq!(verdict, Verdict::Inconclusive);
    let found: Vec<_> =
        events.iter().filter_map(|e| if let Event::Finding(f) = e { Some(f) } else { None }).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].summary.contains("boot smoke only") && found[0].rule == "no way to unbind");
    assert!(m.ops.iter().any(|o| matches!(o, Op::ExerciseIrqs { .. })), "the endpoint was used");
    assert!(!m.ops.iter().any(|o| matches!(o, Op::Bind { .. })));
    assert_eq!(events.last(), Some(&Event::Ended { complete: false }));
}

#[test]
fn a_driver_of_an_endpoint_that_is_not_there_may_be_missing() {
    let plan = Plan { cycles: 1, endpoint: false, ..Plan::default() };
    let mut events = Vec::new();
    let hello = Hello { modules: vec![plan.target.module.clone()], ..hello() };
    run(&mut fake(Fault::None), &plan, hello, 900, &mut |e| events.push(e));
    assert_eq!(events.last(), Some(&Event::Ended { complete: true }), "{events:?}");
}

#[test]
fn a_built_in_driver_that_never_probed_is_told_with_what_it_waits_for() {
    let (events, verdict) = run_fake(&mut fake(Fault::Deferred), 1, stock_hello());
    assert_eq!(verdict, Verdict::Inconclusive);
    let said = events
        .iter()
        .any(|e| matches!(e, Event::Finding(f) if f.summary.contains("wait for supplier /phy@1c06000")));
    assert!(said, "{events:?}");
}

fn findings(events: &[Event]) -> Vec<&Finding> {
    events.iter().filter_map(|e| if let Event::Finding(f) = e { Some(f) } else { None }).collect()
}

#[test]
fn a_leak_that_both_views_have_is_one_finding_of_two_sources() {
    let (events, verdict) = run_fake(&mut fake(Fault::NoRemove), 1, hello());
    assert_eq!(verdict, Verdict::Leak);
    let leaks: Vec<_> = findings(&events).into_iter().filter(|f| f.rule.starts_with("S4 irq ")).collect();
    let virqs: BTreeSet<_> = leaks.iter().map(|f| &f.evidence["virq"]).collect();
    assert_eq!(leaks.len(), virqs.len(), "each mapping once");
    for f in leaks {
        assert_eq!((f.source, f.also.as_slice()), (Source::GuestMemory, &[Source::GuestKernel][..]));
        assert_eq!(
            (f.evidence["created in cycle"].as_str(), f.evidence["disposed by"].as_str()),
            ("1", "nobody")
        );
        assert!(f.evidence["hierarchy"].ends_with("in gic"), "{f:?}");
    }
    let memory = records(&events)[0].memory.expect("counts");
    assert_eq!(memory.descs, memory.mappings);
    assert!(memory.descs > 1);
}

#[test]
fn memory_alone_finds_what_is_left_and_asks_the_agent_for_nothing() {
    let plan = Plan { cycles: 1, irq_views: IrqViews::Memory, ..Plan::default() };
    for (fault, class) in [(Fault::NoRemove, Class::IrqLeak), (Fault::Dangling, Class::IrqDangling)] {
        let mut m = fake(fault);
        let (events, verdict) = run_plan(&mut m, &plan, hello());
        assert_eq!(verdict, Verdict::Leak, "{fault:?}");
        assert!(!m.ops.iter().any(|op| matches!(op, Op::SnapshotIrqs { .. })));
        let found = findings(&events);
        assert!(found.iter().any(|f| f.class == class && f.evidence.contains_key("virq")), "{fault:?}");
        assert!(found.iter().all(|f| f.source != Source::GuestKernel && f.also.is_empty()));
    }
    let (events, verdict) = run_plan(&mut fake(Fault::None), &Plan { cycles: 4, ..plan }, hello());
    assert_eq!(verdict, Verdict::Clean, "{events:#?}");
    assert!(records(&events).iter().all(|c| c.created >= 65 && c.created == c.released));
}

#[test]
fn a_kernel_whose_memory_cannot_be_read_is_judged_by_the_agent_with_one_note() {
    let (events, verdict) = run_fake(&mut fake(Fault::Unreadable), 2, hello());
    assert_eq!(verdict, Verdict::Clean);
    let notes: Vec<_> = events.iter().filter(|e| matches!(e, Event::Note { .. })).collect();
    let text = "mappings are seen through the guest's files only: no BTF";
    assert_eq!(notes, [&Event::Note { text: text.into() }]);
    assert!(records(&events).iter().all(|c| c.memory.is_none()));

    let plan = Plan { cycles: 1, irq_views: IrqViews::Memory, ..Plan::default() };
    let (_, verdict) = run_plan(&mut fake(Fault::Unreadable), &plan, hello());
    assert_eq!(verdict, Verdict::Inconclusive, "there is nobody else to ask");
}

#[test]
fn memory_that_never_stands_still_proves_nothing() {
    let (events, verdict) = run_fake(&mut fake(Fault::Unsteady), 1, hello());
    assert_eq!(verdict, Verdict::Inconclusive);
    assert!(findings(&events).iter().all(|f| f.summary.contains("irq_domain_mutex")), "{events:#?}");
}

#[test]
fn a_mapping_that_the_guests_files_hide_is_found_and_the_views_disagree() {
    let (events, verdict) = run_fake(&mut fake(Fault::AgentIsBlind), 1, hello());
    assert_eq!(verdict, Verdict::Leak);
    let classes: BTreeSet<_> = findings(&events).iter().map(|f| f.class).collect();
    assert_eq!(classes, [Class::IrqLeak, Class::ViewDisagreement].into());
    let plan = Plan { cycles: 1, irq_views: IrqViews::Agent, ..Plan::default() };
    assert_eq!(run_plan(&mut fake(Fault::AgentIsBlind), &plan, hello()).1, Verdict::Clean);
}
