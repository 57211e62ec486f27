//! Plan files, the choices of cycles, and the operations that come of them.

use proptest::prelude::*;

use super::*;

fn target() -> Target {
    crate::Plan::default().target
}

fn plan(steps: &str) -> String {
    format!("schema = 1\nname = \"t\"\n{steps}")
}

fn wrong(steps: &str) -> String {
    parse(&plan(steps)).unwrap_err().to_string()
}

#[test]
fn each_built_in_plan_can_be_used_and_has_the_name_that_it_is_found_by() {
    for b in builtin::ALL {
        let p = parse(b.text).unwrap_or_else(|e| panic!("{}: {e}", b.name));
        assert_eq!(p.name, b.name);
        assert!(!p.about.is_empty() && p.cycles.is_some(), "{}", b.name);
        assert!(!p.cycle(1, 1, &target()).is_empty(), "{}", b.name);
    }
}

#[test]
fn a_mistake_is_told_with_its_line_and_its_key() {
    for (steps, told) in [
        ("[[step]]\nop = \"unbnd\"", "line 3: there is no op \"unbnd\"; there are up, down"),
        ("[[step]]\nop = \"unbind\"\npath = \"/proc/stat\"", "line 3: unbind takes no path"),
        ("[[step]]\nop = \"read\"", "line 3: read needs path"),
        ("[[step]]\nop = \"read\"\npath = \"/etc/passwd\"", "is not below /proc"),
        ("[[step]]\nop = \"read\"\npath = \"/proc/../etc/passwd\"", "is not below /proc"),
        ("[[step]]\nop = \"up\"\n\n[[step]]\nop = \"raise\"\nkind = \"mis\"", "line 8: unknown variant `mis`"),
        ("[[step]]\nop = \"raise\"\nkind = \"msi\"\nvectors = 33", "vectors is 1 to 32"),
        ("[[step]]\nop = \"raise\"\nkind = \"msi\"\nvectors = \"3\"", "line 6: invalid type: string"),
        ("[[step]]\nopp = \"up\"", "line 4: unknown field `opp`"),
        ("[[step]]\nmay-fail = true", "line 3: a step has one of op, one-of and lanes"),
        ("[[step]]\none-of = []", "one-of is empty"),
        ("[[step]]\none-of = [{ weight = 0, steps = [] }]", "weight is 1 to"),
        ("[[step]]\nms = 3\none-of = [{ steps = [] }]", "ms belongs beside an op"),
        ("[[step]]\nlanes = [{ name = \"a\", times = 0, steps = [{ op = \"rescan\" }] }]", "none ever ends"),
        ("[[step]]\nlanes = [{ name = \"a\", steps = [{ op = \"use\" }] }]", "use is nothing that the guest does"),
        ("[[step]]\nlanes = [{ name = \"a\", steps = [] }]", "lane a has no steps"),
        (
            "[[step]]\nlanes = [{ name = \"a\", steps = [{ op = \"lspci\" }] }, { name = \"a\", steps = [{ op = \"lspci\" }] }]",
            "there are two lanes a",
        ),
        ("[[step]]\nop = \"bind\"\nfail-nth = 0", "fail-nth is a number from 1"),
        ("[[step]]\nop = \"bind\"\nfail-nth = [5, 2]", "fail-nth is a number from 1"),
        ("[[step]]\nop = \"use\"\nfail-nth = 1", "nothing that an allocation of the guest can fail in"),
        ("[[step]]\nop = \"stall\"\nread = \"MSI_INTR0_STATUS\"", "stall needs until"),
        ("[[step]]\nop = \"stall\"\nread = \"NOPE\"\nuntil = { delay-ms = [1, 2] }", "no register \"NOPE\""),
        ("[[step]]\nop = \"stall\"\nread = \"COMMAND\"\nuntil = { }", "until has one of"),
        (
            "[[step]]\nop = \"stall\"\nread = \"COMMAND\"\nuntil = { delay-ms = [9, 1] }",
            "delay-ms is [FIRST, LAST]",
        ),
        (
            "[[step]]\nop = \"stall\"\nread = \"COMMAND\"\ntimeout-ms = 60000\nuntil = { delay-ms = [1, 2] }",
            "timeout-ms is at most 15000",
        ),
        ("", "there is no [[step]]"),
    ] {
        let got = wrong(steps);
        assert!(got.contains(told), "{steps:?}: {got}");
        assert!(!got.contains('\n'), "one line: {got:?}");
    }
    for (text, told) in [
        ("schema = 2\nname = \"t\"", "line 1: schema is 1"),
        ("schema = 1\nname = \"../x\"", "line 2: name has letters"),
        ("schema = 1\nname = \"t\"\ncycles = 0", "line 3: cycles is 1 or more"),
        ("name = \"t\"", "missing field `schema`"),
        ("schema = ", "line 1: "),
    ] {
        let got = parse(text).unwrap_err().to_string();
        assert!(got.contains(told), "{text:?}: {got}");
    }
}

#[test]
fn a_seed_means_the_same_everywhere_and_seeds_differ() {
    let p = parse(builtin::find("soak").unwrap().text).unwrap();
    let all = |seed| (1..40).map(|n| p.cycle(seed, n, &target())).collect::<Vec<_>>();
    assert_eq!(all(7), all(7));
    assert_ne!(all(7), all(8));
    // Of all choices none is for nothing.
    let seen = all(7).concat();
    for name in ["pause", "retrain", "unbind-endpoint", "remove"] {
        let has = |a: &Action| matches!(a, Action::Act(act, _) if act.what.name() == name);
        assert!(seen.iter().any(has), "{name}");
    }
}

#[test]
fn a_failing_allocation_is_drawn_from_its_range() {
    let p = parse(&plan("[[step]]\nop = \"bind\"\nfail-nth = [3, 5]")).unwrap();
    let mut drawn: Vec<u32> = (1..60)
        .map(|n| match p.cycle(1, n, &target()).as_slice() {
            [Action::Act(act, draw)] => match act.op(&target(), *draw) {
                Some(Op::FailNth { nth, op }) if matches!(*op, Op::Bind { .. }) => nth,
                op => panic!("{op:?}"),
            },
            a => panic!("{a:?}"),
        })
        .collect();
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn, [3, 4, 5]);
}

#[test]
fn lanes_become_operations_of_the_guest() {
    let p = parse(builtin::find("rescan").unwrap().text).unwrap();
    let cycle = p.cycle(1, 1, &target());
    let Some(Action::Lanes(lanes)) = cycle.last() else { panic!("{cycle:?}") };
    let shape = |n: usize| (lanes[n].0.name.as_str(), lanes[n].0.times, lanes[n].0.ops.len(), lanes[n].1);
    assert_eq!((shape(0), shape(1)), (("teardown", 1, 2, false), ("rescan", 0, 1, false)));
}

proptest! {
    #[test]
    fn no_text_is_more_than_a_mistake(text in ".{0,200}") {
        let _ = parse(&text);
    }
}
