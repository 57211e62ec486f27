//! Plans against the fake guest of the engine's tests.

use guest_agent::LaneResult;
use guest_agent::OpError;

use super::super::tests::fake;
use super::super::tests::hello;
use super::super::tests::Fake;
use super::super::tests::Fault;
use super::*;
use crate::script;

fn script(steps: &str) -> Script {
    script::parse(&format!("schema = 1\nname = \"t\"\n{steps}")).unwrap()
}

/// Findings (class and rule), notes of the cycles, and whether it came to its end.
fn run_plan(m: &mut Fake, cycles: u32, steps: &str) -> (Vec<(Class, String)>, Vec<String>, bool) {
    let plan = Plan { cycles, script: Some(script(steps)), ..Plan::default() };
    let (mut found, mut notes, mut complete) = (Vec::new(), Vec::new(), false);
    super::super::run(m, &plan, hello(), 1, &mut |e| match e {
        Event::Finding(f) => found.push((f.class, f.rule)),
        Event::Cycle(c) => notes.extend(c.notes),
        Event::Ended { complete: c } => complete = c,
        _ => {}
    });
    (found, notes, complete)
}

fn lane(name: &str, done: u64, failed: u64) -> LaneResult {
    let error = OpError { what: "read".into(), errno: 5, why: "I/O error".into() };
    LaneResult { name: name.into(), done, failed, errors: vec![error; (failed > 0).into()], busy: None }
}

const UP: &str = "[[step]]\nop = \"up\"\n";
const RACE: &str =
    "[[step]]\nlanes = [{ name = \"a\", steps = [{ op = \"unbind\" }] }, { name = \"b\", times = 0, \
                    steps = [{ op = \"lspci\" }] }]\n";

#[test]
fn what_is_bound_after_the_last_step_is_unbound_and_judged() {
    let mut m = fake(Fault::None);
    let (found, notes, complete) = run_plan(&mut m, 2, &format!("{UP}[[step]]\nop = \"use\"\n"));
    assert_eq!((found, complete), (vec![], true));
    assert_eq!(notes, ["up: insmod", "down: unbind", "up: insmod", "down: unbind"]);
    let (found, ..) = run_plan(&mut fake(Fault::NoRemove), 1, &format!("{UP}[[step]]\nop = \"use\"\n"));
    assert!(found.iter().any(|f| f.0 == Class::IrqLeak), "{found:?}");
}

#[test]
fn lanes_are_told_and_one_that_did_nothing_is_a_finding() {
    let mut m = fake(Fault::None);
    m.lanes = vec![lane("a", 1, 0), lane("b", 7, 2)];
    let (found, notes, _) = run_plan(&mut m, 1, &format!("{UP}{RACE}"));
    assert_eq!(found, []);
    assert_eq!(notes[1..], ["lane a: 1 done", "lane b: 7 done, 2 failed (I/O error)"]);
    m.lanes = vec![lane("a", 1, 0), lane("b", 0, 2)];
    let (found, ..) = run_plan(&mut m, 1, &format!("{UP}{RACE}"));
    assert_eq!(found, [(Class::OperationFailed, "lane b did nothing".to_owned())]);
    let may = RACE.replace("\"lspci\" }", "\"lspci\", may-fail = true }");
    assert_eq!(run_plan(&mut m, 1, &format!("{UP}{may}")).0, []);
}

#[test]
fn a_lane_that_does_not_come_back_is_a_hang_and_ends_the_run() {
    let mut m = fake(Fault::None);
    m.lanes = vec![LaneResult { busy: Some(Op::SystemState), ..lane("a", 0, 0) }, lane("b", 1, 0)];
    let (found, _, complete) = run_plan(&mut m, 3, &format!("{UP}{RACE}"));
    assert_eq!((found, complete), (vec![(Class::Hang, "lane a hangs".to_owned())], false));
    assert!(m.asked_for_tasks);
}

#[test]
fn a_failing_allocation_is_a_note_and_a_failing_operation_a_finding_unless_it_may() {
    let write = "[[step]]\nop = \"write\"\npath = \"/sys/x\"\ntext = \"1\"\n";
    let (found, _, complete) = run_plan(&mut fake(Fault::None), 1, write);
    assert_eq!((found.len(), found[0].0, complete), (1, Class::OperationFailed, false));
    let steps = format!("{write}may-fail = true\n[[step]]\nop = \"bind\"\nfail-nth = 3\n");
    let (found, notes, complete) = run_plan(&mut fake(Fault::None), 1, &steps);
    assert_eq!((found, complete), (vec![], true));
    assert_eq!(notes[1], "bind: allocation 3 failed, and so did it: Cannot allocate memory");
}

#[test]
fn a_kernel_that_cannot_inject_faults_is_a_finding_though_the_operation_may_fail() {
    let mut m = fake(Fault::NoInjection);
    let (found, _, complete) = run_plan(&mut m, 1, "[[step]]\nop = \"bind\"\nfail-nth = 3\n");
    assert_eq!((found.len(), found[0].0, complete), (1, Class::OperationFailed, false));
}

#[test]
fn a_race_that_was_not_run_is_a_finding_unless_it_may_be_missed() {
    let stall = "[[step]]\nop = \"stall\"\nread = \"MSI_INTR0_STATUS\"\nuntil = { write = \"SET\" }\n";
    let mut m = fake(Fault::None);
    m.lanes = vec![lane("a", 1, 0), lane("b", 1, 0)];
    let (found, notes, complete) = run_plan(&mut m, 1, &format!("{UP}{stall}{RACE}"));
    let rule = "stall of read of MSI_INTR0_STATUS missed".to_owned();
    assert_eq!((found, complete), (vec![(Class::OperationFailed, rule)], true));
    assert!(notes.contains(&"stall: read of MSI_INTR0_STATUS never came".to_owned()), "{notes:?}");
    let (found, ..) = run_plan(&mut m, 1, &format!("{UP}{stall}may-fail = true\n{RACE}"));
    assert_eq!(found, []);
}

#[test]
fn a_check_needs_a_driver_that_is_not_bound() {
    let check = "[[step]]\nop = \"check\"\n";
    let (found, _, complete) = run_plan(&mut fake(Fault::None), 1, &format!("{UP}{check}"));
    assert_eq!((found, complete), (vec![(Class::OperationFailed, "check while bound".to_owned())], false));
    let steps = format!("{UP}[[step]]\nop = \"unbind\"\n{check}");
    assert_eq!(run_plan(&mut fake(Fault::None), 1, &steps).0, []);
}
