//! A report in the forms that others read: a page, JUnit XML, KTAP. Each is made from `report.json` alone.
//!
//! What a guest says is hostile text: no character of it may end up as markup, as a line of its own or as a control code.

pub mod html;
pub mod junit;
pub mod ktap;

use std::fmt::Write;
use std::io;
use std::io::Write as _;
use std::path::Path;

use crate::report::Report;
use crate::report::Seen;
use crate::splat::CALL_TRACE;

/// Files that are made of a report.
pub const FILES: [&str; 3] = ["junit.xml", "ktap.txt", "report.html"];

/// Write all of [`FILES`] into `dir`, each whole or not at all; an error comes with the name of its file.
pub fn write(r: &Report, dir: &Path) -> Result<(), (&'static str, io::Error)> {
    let junit = junit::render(r).map_err(|e| (FILES[0], io::Error::other(e)))?;
    for (name, text) in FILES.into_iter().zip([junit, ktap::render(r), html::render(r, dir)]) {
        replace(&dir.join(name), text.as_bytes()).map_err(|e| (name, e))?;
    }
    Ok(())
}

/// Replace a file by renaming a new one over it.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let tmp = path.with_extension("tmp");
    let written = (|| {
        let mut f = std::fs::File::create(&tmp)?;
        f.write_all(bytes)?;
        f.sync_data()?;
        std::fs::rename(&tmp, path)
    })();
    if written.is_err() {
        let _ = std::fs::remove_file(&tmp);
    }
    written
}

/// One test as CI knows it: a cycle, or what came before the first.
struct Case<'a> {
    name: String,
    ms: u64,
    /// What makes it fail.
    failures: Vec<&'a Seen>,
    /// Known residue of it; a failure too if the run is strict.
    residue: Vec<&'a Seen>,
    state: Ran,
}

#[derive(Clone, Copy, PartialEq)]
enum Ran {
    /// To its end.
    Done,
    /// Begun only.
    Cut,
    /// Not at all.
    Never,
}

fn cases(r: &Report) -> Vec<Case<'_>> {
    let of = |cycle: u32| -> (Vec<&Seen>, Vec<&Seen>) {
        let here = r.findings.iter().filter(move |s| s.was_in(cycle));
        here.partition(|s| s.finding.allowed.is_none() || r.setting.strict)
    };
    let (failures, residue) = of(0);
    let booted = !r.kernel.release.is_empty();
    let setup = if booted { Ran::Done } else { Ran::Cut };
    let boot_ms = r.measured.get("boot_ms").copied().unwrap_or(0);
    let mut all = vec![Case { name: "setup".into(), ms: boot_ms, failures, residue, state: setup }];
    for c in &r.cycles {
        let held = if c.held.is_empty() { String::new() } else { format!(" holding {}", c.held) };
        let name = format!("cycle {}: {} then {}{held}", c.cycle, c.load, c.teardown);
        let (failures, residue) = of(c.cycle);
        let ms = c.phases_ms.iter().map(|p| p.1).sum();
        all.push(Case { name, ms, failures, residue, state: Ran::Done });
    }
    for n in r.cycles_completed.saturating_add(1)..=r.setting.cycles_requested {
        let (failures, residue) = of(n);
        let state = if failures.is_empty() { Ran::Never } else { Ran::Cut };
        all.push(Case { name: format!("cycle {n}"), ms: 0, failures, residue, state });
    }
    // Whatever becomes of the findings above: these files never pass where the run's exit code is not 0.
    let state = if r.exit_code == 0 { Ran::Done } else { Ran::Cut };
    let name = format!("verdict: {}", r.verdict.name());
    all.push(Case { name, ms: 0, failures: Vec::new(), residue: Vec::new(), state });
    all
}

/// Text with its control codes, and what turns the direction of text, made visible; line feeds stay.
pub fn visible(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let hidden = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}');
        if c != '\n' && (c.is_control() || hidden) {
            let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
        } else {
            out.push(c);
        }
    }
    out
}

/// The same in one line.
fn one_line(text: &str) -> String {
    visible(text).replace('\n', " ")
}

/// A finding with its evidence, for a reader of plain text.
fn told(s: &Seen) -> String {
    let f = &s.finding;
    let mut out = format!("{}: {}", f.class.name(), one_line(&f.summary));
    let _ = write!(
        out,
        "\ncheck: {}, during {}, seen {} times",
        one_line(&f.rule),
        one_line(&f.operation),
        s.count
    );
    if let Some(reason) = &f.allowed {
        let _ = write!(out, "\nknown residue: {}", one_line(reason));
    }
    for (name, value) in f.evidence.iter().filter(|e| e.0 != CALL_TRACE) {
        let _ = write!(out, "\n{}: {}", one_line(name), one_line(value));
    }
    if let Some(trace) = f.evidence.get(CALL_TRACE) {
        let _ = write!(out, "\n{CALL_TRACE}:\n{}", visible(trace));
    }
    out
}

#[cfg(test)]
#[path = "render_test.rs"]
mod tests;
