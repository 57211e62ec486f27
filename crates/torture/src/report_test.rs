use super::*;
use crate::finding::Source;

fn setting(cycles: u32) -> Setting {
    Setting { mode: "nested".into(), cycles_requested: cycles, ..Setting::default() }
}

fn booted(mut r: Report) -> Report {
    r.kernel.release = "6.12.1".into();
    r
}

fn cycle(n: u32, leaked: usize) -> Event {
    Event::Cycle(CycleRecord {
        cycle: n,
        created: 66,
        released: 66 - leaked as u64,
        leaked: vec![Mapping::default(); leaked],
        phases_ms: vec![("msi".into(), u64::from(n) * 10)],
        notes: Vec::new(),
        ..CycleRecord::default()
    })
}

fn finding(rule: &str, cycle: u32) -> Finding {
    Finding::new(Class::IrqLeak, Source::GuestKernel, rule, "left").at(cycle, "rmmod")
}

#[test]
fn nothing_done_is_inconclusive_and_all_done_is_clean() {
    let mut r = Report::new(setting(2));
    assert_eq!((r.verdict, r.exit_code), (Verdict::Inconclusive, 4));
    r.event(cycle(1, 0));
    assert_eq!(r.verdict, Verdict::Inconclusive);
    r.event(cycle(2, 0));
    assert_eq!((r.verdict, r.exit_code), (Verdict::Clean, 0));
    assert_eq!(
        r.last_line(),
        "verdict: clean — 2/2 cycles, 132 IRQ mappings created, 132 released, 0 leaked (nested)"
    );
}

#[test]
fn equal_rules_are_one_finding_with_a_count() {
    let mut r = Report::new(setting(2));
    r.event(Event::Finding(finding("a", 1)));
    r.event(Event::Finding(finding("a", 2)));
    r.event(Event::Finding(finding("b", 2)));
    let counts: Vec<_> = r.findings.iter().map(|s| (s.finding.cycle, s.last_cycle, s.count)).collect();
    assert_eq!(counts, [(1, 2, 2), (2, 2, 1)]);
    assert_eq!(r.verdict, Verdict::Leak);
}

#[test]
fn findings_are_bounded() {
    let mut r = Report::new(setting(1));
    for i in 0..MAX_FINDINGS + 7 {
        r.add(finding(&i.to_string(), 1));
    }
    assert_eq!((r.findings.len(), r.findings_dropped), (MAX_FINDINGS, 7));
}

#[test]
fn a_splat_belongs_to_the_phase_in_which_it_was_printed() {
    let mut r = booted(Report::new(setting(1)));
    r.event(Event::Phase { cycle: 3, phase: "unbind".into() });
    r.console(b"Unable to handle kernel NULL pointer dereference\n");
    r.finish(true);
    let f = &r.findings[0].finding;
    assert_eq!((f.cycle, f.operation.as_str(), r.verdict), (3, "unbind", Verdict::Crash));
    assert_eq!(r.state, "interrupted");
}

#[test]
fn a_guest_that_dies_before_its_agent_reports_says_nothing_about_teardown() {
    let mut r = Report::new(setting(1));
    r.console(b"Kernel panic - not syncing: VFS: Unable to mount root fs\n");
    r.finish(false);
    assert_eq!((r.findings[0].finding.class, r.verdict), (Class::BootFailed, Verdict::Inconclusive));
}

#[test]
fn medians_and_maxima_are_per_phase() {
    let mut r = Report::new(setting(3));
    for n in [1, 2, 3] {
        r.event(cycle(n, 0));
    }
    assert_eq!(r.phases["msi"], PhaseTimes { count: 3, median_ms: 20, p95_ms: 30, max_ms: 30, total_ms: 60 });
}

#[test]
fn a_report_is_replaced_whole_and_reads_back() {
    let dir = std::env::temp_dir().join(format!("rcvm-report-test-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let mut r = Report::new(setting(1));
    r.write(&dir).unwrap();
    r.event(cycle(1, 1));
    r.add(finding("a", 1));
    r.write(&dir).unwrap();
    let back: Report = serde_json::from_slice(&std::fs::read(dir.join("report.json")).unwrap()).unwrap();
    assert_eq!(back.irq_mappings, r.irq_mappings);
    assert_eq!(back.findings, r.findings);
    assert!(!dir.join(".report.json.tmp").exists());
    std::fs::remove_dir_all(&dir).unwrap();
}
