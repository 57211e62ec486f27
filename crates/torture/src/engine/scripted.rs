//! Cycles that a plan file describes.

use guest_agent::Injected;
use guest_agent::Lane;
use guest_agent::LaneResult;

use super::*;
use crate::plan::PLATFORM;
use crate::script::Act;
use crate::script::Action;
use crate::script::Script;
use crate::script::What;
use crate::stall::Stalled;

/// What a call to the agent may take beyond the time of the lanes in it.
const LANES_SLACK: Duration = Duration::from_secs(10);

/// What a cycle of a plan carries from step to step.
#[derive(Default)]
struct Course {
    /// What each step did, one line each.
    notes: Vec<String>,
    /// How the driver came up last, and went down.
    load: Option<Load>,
    teardown: Option<Teardown>,
    /// The teardown that no check has followed yet.
    unjudged: Option<Teardown>,
    held: Option<IrqKind>,
    raised: u64,
    /// I/O that is under way.
    io: Vec<(Consumer, u64)>,
}

impl Course {
    fn went_down(&mut self, how: Teardown) {
        (self.teardown, self.unjudged) = (Some(how), Some(how));
    }
}

impl Engine<'_> {
    /// Run cycle `self.cycle` of `script`.
    pub(super) fn run_script(&mut self, script: &Script, books: &mut Books) -> Option<()> {
        let begun = self.begin_cycle(books);
        let mut course = Course::default();
        for action in script.cycle(self.plan.seed, self.cycle, &self.plan.target) {
            match action {
                Action::Act(act, draw) => self.act(&act, draw, &mut course, books)?,
                Action::Lanes(lanes) => self.lanes(lanes, &mut course)?,
            }
        }
        if self.is_bound()? {
            self.go_down(Teardown::Unbind, &mut course)?;
        }
        let after = self.check_now(&mut course, books)?;
        self.end_cycle(
            &begun,
            &after,
            books,
            CycleRecord {
                load: course.load.map_or("", Load::name).into(),
                teardown: course.teardown.map_or("", Teardown::name).into(),
                held: course.held.map_or("", kind_name).into(),
                raised: course.raised,
                notes: course.notes,
                ..CycleRecord::default()
            },
        );
        Some(())
    }

    fn act(&mut self, act: &Act, draw: u64, course: &mut Course, books: &mut Books) -> Option<()> {
        let name = act.what.name();
        match &act.what {
            What::Up => {
                let load = match (self.is_loaded()?, self.is_bound()?) {
                    (_, true) => return Some(()),
                    (true, false) => Load::Bind,
                    (false, false) => Load::Insmod,
                };
                course.load = Some(load);
                course.notes.push(format!("up: {}", load.name()));
                self.phase(load.name(), |e| e.call(load.op(&e.plan.target))).map(drop)
            }
            What::Down if !self.is_bound()? => Some(()),
            What::Down => {
                let rmmod = draw.is_multiple_of(2) && !self.builtin;
                self.go_down(if rmmod { Teardown::Rmmod } else { Teardown::Unbind }, course)
            }
            What::Use => {
                let c = self.plan.cycle(self.cycle);
                if self.plan.endpoint {
                    course.raised += self.use_endpoint(c, &mut books.irqs)?;
                    course.held = Some(c.held);
                } else {
                    self.find_port(&mut books.irqs)?;
                }
                course.io.extend(self.use_consumers(c, &mut books.irqs)?);
                Some(())
            }
            What::Raise { kind, vectors } if act.fail_nth.is_none() && !act.may_fail => {
                course.held = Some(*kind);
                course.raised += self.raise(*kind, *vectors, &mut books.irqs)?;
                Some(())
            }
            What::LinkLoss => self.slot_fault(name, SlotFault::LoseLink),
            What::Pull => self.slot_fault(name, SlotFault::Pull),
            What::Insert => self.slot_fault(name, SlotFault::Insert),
            What::Stall(rule) => {
                self.machine.stall(rule, draw);
                self.optional_stalls.push(act.may_fail);
                Some(())
            }
            What::Check => {
                if self.is_bound()? {
                    self.find(Finding::new(
                        Class::OperationFailed,
                        Source::Harness,
                        "check while bound",
                        "the plan asks for a check while the driver is bound: it needs down or unbind before",
                    ));
                    return None;
                }
                self.check_now(course, books).map(drop)
            }
            _ => self.guest_act(act, draw, course),
        }
    }

    /// An operation of the agent, with what may go wrong in it.
    fn guest_act(&mut self, act: &Act, draw: u64, course: &mut Course) -> Option<()> {
        let name = act.what.name();
        let Some(op) = act.op(&self.plan.target, draw) else { return Some(()) };
        match &act.what {
            What::Insmod => course.load = Some(Load::Insmod),
            What::Bind => course.load = Some(Load::Bind),
            _ => {}
        }
        let timeout = Duration::from_millis(self.plan.op_timeout_ms);
        let result = self.phase(name, |e| Some(e.machine.call(op.clone(), timeout)))?;
        let note = match &result {
            Ok(Value::Injected(i)) => {
                let nth = if let Op::FailNth { nth, .. } = &op { *nth } else { 0 };
                injected(name, nth, i)
            }
            Ok(_) => name.to_owned(),
            Err(e) => format!("{name}: {e}"),
        };
        course.notes.push(note);
        if result.is_ok() {
            match &act.what {
                What::Rmmod => course.went_down(Teardown::Rmmod),
                What::Unbind => course.went_down(Teardown::Unbind),
                _ => {}
            }
        }
        match result {
            Ok(Value::Injected(Injected { error: Some(e), .. })) if !act.may_fail => {
                self.failed(&op, &CallError::Failed(e));
                None
            }
            // With a fault to inject, this is the injection: what it was made in comes back as a value.
            Err(CallError::Failed(_)) if act.may_fail && act.fail_nth.is_none() => Some(()),
            Err(e) => {
                self.failed(&op, &e);
                None
            }
            Ok(_) => Some(()),
        }
    }

    fn slot_fault(&mut self, name: &str, fault: SlotFault) -> Option<()> {
        self.phase(name, |e| {
            e.machine.fault(fault);
            e.machine.settle(QUIET, SETTLE);
            Some(())
        })
    }

    fn lanes(&mut self, lanes: Vec<(Lane, bool)>, course: &mut Course) -> Option<()> {
        let timeout_ms = self.plan.op_timeout_ms;
        let (lanes, idle): (Vec<Lane>, Vec<bool>) = lanes.into_iter().unzip();
        let whole = Duration::from_millis(timeout_ms) + LANES_SLACK;
        let op = Op::Together { lanes: lanes.clone(), timeout_ms };
        let names: Vec<&str> = lanes.iter().map(|l| l.name.as_str()).collect();
        let result = self.phase(&names.join("+"), |e| Some(e.machine.call(op.clone(), whole)))?;
        self.end_stalls(course);
        let told = match result {
            Ok(Value::Lanes(told)) => told,
            Ok(v) => return self.unexpected(&v),
            Err(e) => {
                self.failed(&op, &e);
                return None;
            }
        };
        for ((lane, idle), r) in lanes.iter().zip(idle).zip(&told) {
            course.notes.push(lane_note(r));
            self.judge_lane(lane, r, idle, course)?;
        }
        Some(())
    }

    fn judge_lane(&mut self, lane: &Lane, r: &LaneResult, idle: bool, course: &mut Course) -> Option<()> {
        for op in &lane.ops {
            match op {
                Op::Unbind { bus, .. } if bus == PLATFORM && r.done > 0 => course.went_down(Teardown::Unbind),
                Op::Rmmod { .. } if r.done > 0 => course.went_down(Teardown::Rmmod),
                _ => {}
            }
        }
        if let Some(busy) = &r.busy {
            let text = format!("lane {}: {} has not come back in time", r.name, op_name(busy));
            let f = Finding::new(Class::Hang, Source::Harness, format!("lane {} hangs", r.name), text);
            self.machine.preserve(Class::Hang);
            self.machine.show_blocked_tasks();
            self.find(f.fact("operation", op_name(busy)));
            return None;
        }
        if r.done == 0 && r.failed > 0 && !idle {
            let first = r.errors.first().map_or(String::new(), |e| format!("{}: {}", e.what, e.why));
            self.find(Finding::new(
                Class::OperationFailed,
                Source::GuestKernel,
                format!("lane {} did nothing", r.name),
                format!("lane {}: all {} operations failed, the first with {first}", r.name, r.failed),
            ));
        }
        Some(())
    }

    /// What became of the stalls; one that was not reached makes a plan say something that it did not do.
    fn end_stalls(&mut self, course: &mut Course) {
        let optional = std::mem::take(&mut self.optional_stalls);
        for ((rule, stalled), optional) in self.machine.stalled().into_iter().zip(optional) {
            course.notes.push(format!("stall: {} {stalled}", rule.access));
            let missed = match stalled {
                Stalled::NeverHeld => "never came",
                Stalled::TimedOut => "was held, and what was waited for did not happen in time",
                Stalled::Released(_) => continue,
            };
            if !optional {
                self.find(Finding::new(
                    Class::OperationFailed,
                    Source::Harness,
                    format!("stall of {} missed", rule.access),
                    format!("{} {missed}: the race that the plan is about was not run", rule.access),
                ));
            }
        }
    }

    fn go_down(&mut self, teardown: Teardown, course: &mut Course) -> Option<()> {
        course.went_down(teardown);
        course.notes.push(format!("down: {}", teardown.name()));
        self.phase(teardown.name(), |e| e.call(teardown.op(&e.plan.target))).map(drop)
    }

    /// Judge what a teardown left.
    fn check_now(&mut self, course: &mut Course, books: &mut Books) -> Option<Seen> {
        self.end_stalls(course);
        let io = std::mem::take(&mut course.io);
        self.end_io(&io)?;
        let after = self.phase("check", Engine::after_teardown)?;
        let system = self.phase("check", Engine::system)?;
        self.judge(&after, &system, course.unjudged.take(), books);
        Some(after)
    }

    fn is_loaded(&mut self) -> Option<bool> {
        let module = format!("/sys/module/{}", self.plan.target.module_name());
        Some(self.builtin || self.exists(module)?)
    }

    fn is_bound(&mut self) -> Option<bool> {
        let t = &self.plan.target;
        self.exists(format!("/sys/bus/{PLATFORM}/drivers/{}/{}", t.driver, t.device))
    }

    fn exists(&mut self, path: String) -> Option<bool> {
        let timeout = Duration::from_millis(self.plan.op_timeout_ms);
        let op = Op::WaitPath { path, timeout_ms: 0 };
        match self.machine.call(op.clone(), timeout) {
            Ok(_) => Some(true),
            Err(CallError::Failed(e)) if e.errno == ETIMEDOUT => Some(false),
            Err(e) => {
                self.failed(&op, &e);
                None
            }
        }
    }
}

fn injected(name: &str, nth: u32, i: &Injected) -> String {
    let how = match (i.injected, &i.error) {
        (false, None) => "was never reached".to_owned(),
        (false, Some(e)) => format!("was never reached, and it failed: {}", e.why),
        (true, None) => "failed, and it went on".to_owned(),
        (true, Some(e)) => format!("failed, and so did it: {}", e.why),
    };
    format!("{name}: allocation {nth} {how}")
}

fn lane_note(r: &LaneResult) -> String {
    let mut note = format!("lane {}: {} done", r.name, r.done);
    if r.failed > 0 {
        let why: Vec<&str> = r.errors.iter().map(|e| e.why.as_str()).collect();
        note += &format!(", {} failed ({})", r.failed, why.join("; "));
    }
    note
}

/// The operation as the protocol has it, without its operands.
fn op_name(op: &Op) -> String {
    let json = serde_json::to_value(op).unwrap_or_default();
    json["do"].as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
#[path = "scripted_test.rs"]
mod tests;
