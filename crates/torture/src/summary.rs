//! What a person reads at the end of a run: the findings, worst first, each kind within a few lines.

use std::collections::BTreeMap;

use crate::finding::Class;
use crate::render::visible;
use crate::report::Core;
use crate::report::Report;
use crate::report::Seen;
use crate::splat::CALL_TRACE;

/// Findings of one class that are shown; all of them are in the report.
const SHOWN_PER_CLASS: usize = 10;
/// Functions of a call trace that are shown.
const TRACE_SHOWN: usize = 6;

/// Order of classes, worst first; known residue comes after all of them.
pub(crate) const ORDER: [Class; 18] = [
    Class::Crash,
    Class::Hang,
    Class::BootFailed,
    Class::OperationFailed,
    Class::DataLoss,
    Class::IrqDangling,
    Class::IrqLeak,
    Class::IrqLost,
    Class::IrqCorrupt,
    Class::ViewDisagreement,
    Class::DeviceLeak,
    Class::KernelSplat,
    Class::DmaAfterStop,
    Class::RogueMsi,
    Class::GatedAccess,
    Class::BadInput,
    Class::RegisterResidue,
    Class::IrqUndelivered,
];

/// The lines between the last cycle and the verdict. What the guest said is in them, so they can do nothing to a terminal.
pub fn lines(r: &Report) -> Vec<String> {
    let mut out = Vec::new();
    for class in ORDER {
        let of_class: Vec<&Seen> =
            r.findings.iter().filter(|s| s.finding.class == class && s.finding.allowed.is_none()).collect();
        if !of_class.is_empty() {
            decisive(class, &of_class, &mut out);
        }
    }
    residue(r, &mut out);
    out.extend(r.core.as_ref().map(core));
    out.iter().map(|line| visible(line)).collect()
}

fn core(c: &Core) -> String {
    if !c.trouble.is_empty() {
        return format!("no core: {}", c.trouble);
    }
    let size = format!("core: {} ({}, {} MiB", c.file, c.at, c.bytes >> 20);
    match (c.vmcoreinfo, c.open_with.as_str()) {
        (false, _) => format!("{size}; without VMCOREINFO, which drgn needs)"),
        (true, "") => format!("{size}; this kernel has no vmlinux beside it, which drgn needs)"),
        (true, open) => format!("{size}): {open}"),
    }
}

fn decisive(class: Class, found: &[&Seen], out: &mut Vec<String>) {
    out.push(match found.len() {
        1 => format!("{}:", class.name()),
        n => format!("{} ({n}):", class.name()),
    });
    for s in found.iter().take(SHOWN_PER_CLASS) {
        let f = &s.finding;
        let times = if s.count > 1 { format!(" ({} times)", s.count) } else { String::new() };
        let when =
            if f.cycle == 0 { f.operation.clone() } else { format!("cycle {} {}", f.cycle, f.operation) };
        out.push(format!("  {when}: {}{times}", f.summary));
        if let Some(trace) = f.evidence.get(CALL_TRACE) {
            let functions: Vec<&str> = trace.lines().take(TRACE_SHOWN).collect();
            out.push(format!("    {}", functions.join(" < ")));
        }
    }
    if found.len() > SHOWN_PER_CLASS {
        out.push(format!("  and {} more in the report", found.len() - SHOWN_PER_CLASS));
    }
}

/// One line a reason: the rows of the allow-list that were needed.
fn residue(r: &Report, out: &mut Vec<String>) {
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for f in r.findings.iter().map(|s| &s.finding) {
        if let Some(reason) = &f.allowed {
            by_reason.entry(reason).or_default().push(&f.rule);
        }
    }
    if !by_reason.is_empty() {
        out.push("known residue, allowed:".into());
    }
    for (reason, rules) in by_reason {
        let more = if rules.len() > 1 { format!(" and {} more", rules.len() - 1) } else { String::new() };
        out.push(format!("  {}{more}: {reason}", rules[0]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Finding;
    use crate::finding::Source;
    use crate::report::Setting;

    fn add(r: &mut Report, class: Class, rule: &str, allowed: bool) {
        let mut f = Finding::new(class, Source::Harness, rule, format!("{rule} left")).at(2, "rmmod");
        f.allowed = allowed.then(|| "the kernel does".into());
        r.add(f);
    }

    #[test]
    fn the_worst_comes_first_and_residue_last() {
        let mut r = Report::new(Setting::default());
        add(&mut r, Class::RegisterResidue, "S3 a", true);
        add(&mut r, Class::RegisterResidue, "S3 b", true);
        add(&mut r, Class::IrqLeak, "x", false);
        add(&mut r, Class::Crash, "y", false);
        assert_eq!(
            lines(&r),
            [
                "crash:",
                "  cycle 2 rmmod: y left",
                "irq-leak:",
                "  cycle 2 rmmod: x left",
                "known residue, allowed:",
                "  S3 a and 1 more: the kernel does"
            ]
        );
    }

    #[test]
    fn many_findings_of_a_class_are_counted_and_a_trace_is_shown_in_one_line() {
        let mut r = Report::new(Setting::default());
        for i in 0..SHOWN_PER_CLASS + 3 {
            add(&mut r, Class::IrqLeak, &i.to_string(), false);
        }
        let trace = Finding::new(Class::Crash, Source::Console, "t", "oops").fact(CALL_TRACE, "a+0x1\nb+0x2");
        r.add(trace);
        let l = lines(&r);
        assert_eq!(l[2], "    a+0x1 < b+0x2");
        assert_eq!(l[3], "irq-leak (13):");
        assert_eq!(l.last().map(String::as_str), Some("  and 3 more in the report"));
    }

    #[test]
    fn what_a_guest_says_does_nothing_to_the_terminal() {
        let mut r = Report::new(Setting::default());
        add(&mut r, Class::IrqLeak, "\u{1b}[2J", false);
        assert_eq!(lines(&r)[1], "  cycle 2 rmmod: \\u{1b}[2J left");
    }

    #[test]
    fn a_core_is_named_with_what_opens_it_or_what_is_missing() {
        let whole = Core {
            file: "core.elf".into(),
            at: "crash".into(),
            bytes: 5 << 20,
            vmcoreinfo: true,
            open_with: "drgn -c core.elf -s vmlinux".into(),
            ..Core::default()
        };
        for (core, want) in [
            (whole.clone(), "core: core.elf (crash, 5 MiB): drgn -c core.elf -s vmlinux"),
            (
                Core { open_with: String::new(), ..whole.clone() },
                "core: core.elf (crash, 5 MiB; this kernel has no vmlinux beside it, which drgn needs)",
            ),
            (
                Core { vmcoreinfo: false, ..whole.clone() },
                "core: core.elf (crash, 5 MiB; without VMCOREINFO, which drgn needs)",
            ),
            (Core { trouble: "no space".into(), ..whole }, "no core: no space"),
        ] {
            let mut r = Report::new(Setting::default());
            r.core = Some(core);
            assert_eq!(lines(&r), [want]);
        }
    }

    #[test]
    fn every_class_has_its_place() {
        let mut names: Vec<_> = ORDER.iter().map(|c| c.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ORDER.len());
    }

    #[test]
    fn a_clean_run_says_nothing() {
        assert_eq!(lines(&Report::new(Setting::default())), Vec::<String>::new());
    }
}
