//! KTAP version 1 (Linux Documentation/dev-tools/ktap.rst): one test, the run, with a subtest for each cycle.

use std::fmt::Write;

use super::cases;
use super::one_line;
use super::told;
use super::Ran;
use crate::report::Report;

/// The file's text.
pub fn render(r: &Report) -> String {
    let all = cases(r);
    let mut out = String::from("KTAP version 1\n1..1\n");
    let _ = writeln!(out, "  KTAP version 1\n  # Subtest: rcvm torture\n  1..{}", all.len());
    let mut bad = false;
    for (i, c) in all.iter().enumerate() {
        for s in c.failures.iter().chain(&c.residue) {
            for line in told(s).lines() {
                let _ = writeln!(out, "  # {line}");
            }
        }
        let ok = c.failures.is_empty() && c.state != Ran::Cut;
        bad |= !ok;
        let skip = if c.state == Ran::Never { " # SKIP the run ended before" } else { "" };
        // A # in a name would begin a directive.
        let name = one_line(&c.name).replace('#', "");
        let _ = writeln!(out, "  {} {} {name}{skip}", if ok { "ok" } else { "not ok" }, i + 1);
    }
    let _ = writeln!(out, "# {}", one_line(&r.last_line()));
    let _ = writeln!(out, "{} 1 rcvm torture", if bad { "not ok" } else { "ok" });
    out
}
