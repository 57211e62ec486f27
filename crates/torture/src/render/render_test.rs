use super::*;
use crate::engine::CycleRecord;
use crate::engine::Event;
use crate::finding::Class;
use crate::finding::Finding;
use crate::finding::Source;
use crate::report::Setting;

const HOSTILE: &str = "<script>alert(1)</script>\nok 1 forged\u{1b}[2J\u{202e} \"'&]]>";

/// Three cycles asked for: the first leaks, the second dies, the third never runs.
fn crashed() -> Report {
    let mut r = Report::new(Setting {
        cycles_requested: 3,
        soc: "sm8250".into(),
        profile: "naive".into(),
        ..Setting::default()
    });
    r.kernel.release = "6.12.1".into();
    let leak = Finding::new(Class::IrqLeak, Source::GuestKernel, "S4 irq leak gic:0x40", "virq 16 left");
    r.event(Event::Finding(leak.fact("owner", HOSTILE).at(1, "rmmod")));
    r.event(Event::Cycle(CycleRecord {
        cycle: 1,
        created: 74,
        released: 64,
        irq_descs: 30,
        ..CycleRecord::default()
    }));
    r.add(
        Finding::new(Class::Crash, Source::Console, "oops", HOSTILE)
            .fact(CALL_TRACE, "a+0x1\nb+0x2")
            .at(2, "msi"),
    );
    r
}

#[test]
fn a_finding_belongs_to_each_cycle_that_it_was_seen_in() {
    let mut r = Report::new(Setting::default());
    for cycle in [1, 2, 2, 3, 7] {
        r.add(Finding::new(Class::IrqLeak, Source::Harness, "x", "x").at(cycle, "rmmod"));
    }
    assert_eq!(r.findings[0].cycles, [(1, 3), (7, 7)]);
    assert_eq!([0, 1, 2, 3, 6, 7].map(|c| r.findings[0].was_in(c)), [false, true, true, true, false, true]);
}

#[test]
fn junit_reads_back_with_a_failure_an_error_and_a_skipped_test() {
    let text = junit::render(&crashed()).unwrap();
    let back = quick_junit::Report::deserialize_from_str(&text).unwrap();
    let suite = &back.test_suites[0];
    assert_eq!((suite.tests, suite.failures, suite.errors, suite.disabled), (5, 1, 2, None), "{text}");
    assert_eq!(text.matches("<skipped").count(), 1, "{text}");
    assert!(suite.test_cases.iter().all(|c| c.classname.is_some() && c.time.is_some()), "GitLab shows both");
    assert!(!text.contains("<script") && !text.contains('\u{1b}'), "{text}");
}

#[test]
fn ktap_keeps_its_grammar_whatever_a_guest_says() {
    let text = ktap::render(&crashed());
    let mut lines = text.lines();
    assert_eq!((lines.next(), lines.next()), (Some("KTAP version 1"), Some("1..1")));
    let nested: Vec<&str> = lines.clone().filter_map(|l| l.strip_prefix("  ")).collect();
    assert_eq!(nested[..3], ["KTAP version 1", "# Subtest: rcvm torture", "1..5"]);
    let results: Vec<&str> = nested[3..].iter().filter(|l| !l.starts_with("# ")).copied().collect();
    assert_eq!(
        results,
        [
            "ok 1 setup",
            "not ok 2 cycle 1:  then ",
            "not ok 3 cycle 2",
            "ok 4 cycle 3 # SKIP the run ended before",
            "not ok 5 verdict: crash"
        ]
    );
    assert!(text.ends_with("not ok 1 rcvm torture\n"), "{text}");
}

#[test]
fn the_page_has_a_point_a_cycle_and_no_markup_of_the_guest() {
    let dir = tempfile::tempdir().unwrap();
    let mut r = crashed();
    for n in 2..=1000 {
        r.event(Event::Cycle(CycleRecord { cycle: n, ..CycleRecord::default() }));
    }
    let page = html::render(&r, dir.path());
    assert!(!page.contains("<script") && !page.contains('\u{202e}') && !page.contains('\u{1b}'));
    assert!(page.contains("&lt;script&gt;") && !page.contains("http:") && !page.contains("https:"));
    assert_eq!(page.matches("<details class=\"finding\"").count(), 2);
    for line in page.split("points=\"").skip(1) {
        assert_eq!(line.split('"').next().unwrap().split_whitespace().count(), 1000);
    }
    let empty = html::render(&Report::new(Setting::default()), dir.path());
    assert!(empty.contains("No cycle ended.") && empty.contains(">inconclusive</strong>"));
}

#[test]
fn the_files_replace_older_ones_and_leave_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        write(&crashed(), dir.path()).unwrap();
    }
    let mut names: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, FILES);
}

#[test]
fn a_report_without_ranges_of_cycles_still_fails_where_it_has_to() {
    let mut r = crashed();
    for s in &mut r.findings {
        s.cycles.clear();
    }
    assert!(ktap::render(&r).contains("not ok 2 cycle 1"));
    r.findings.clear();
    let (ktap, junit) = (ktap::render(&r), junit::render(&r).unwrap());
    assert!(ktap.ends_with("not ok 1 rcvm torture\n") && junit.contains("errors=\"1\""), "{ktap}{junit}");
}
