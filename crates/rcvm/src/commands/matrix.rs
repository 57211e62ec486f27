//! `rcvm matrix`: every SoC on every kernel series, and the controls that must fail on each.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use rc_model::soc;
use rc_model::Soc;
use serde::Serialize;
use torture::report::Report;
use torture::Verdict;

use crate::cli::MatrixArgs;

/// Profiles of the last rows, and the SoC that each runs on.
const CONTROLS: [(&str, &str); 3] = [("naive", "sm8250"), ("late", "sm8250"), ("rk-intx-leak", "rk3568")];

/// One run.
#[derive(Clone, Debug, Serialize)]
struct Cell {
    /// Row: a SoC, or a control.
    row: String,
    /// Column: a kernel series.
    series: String,
    /// Kernel release; empty if it did not boot.
    release: String,
    /// Verdict; none: the run could not be done.
    verdict: Option<Verdict>,
    /// Whether that is what it should be.
    ok: bool,
    /// IRQ mappings created and left.
    created: u64,
    left: u64,
    /// What is wrong, if something is.
    why: String,
}

/// Run the matrix; 1 if a cell is not as it should be.
pub fn run(args: &MatrixArgs) -> Result<u8> {
    let socs = socs(&args.soc)?;
    let mut series = Vec::new();
    for name in &args.series {
        series.push(images::series(name, false, &mut |line| eprintln!("{line}"))?);
    }
    std::fs::create_dir_all(&args.out).with_context(|| {
        format!("cannot create the output directory {}: give another --out", args.out.display())
    })?;
    // Building first keeps the cells' times and output their own.
    for s in &series {
        // One build of a series has every driver.
        images::build(CONTROLS[0].0, *s, &mut |line| eprintln!("{line}"))?;
    }
    let mut cells = Vec::new();
    for s in &series {
        for soc in &socs {
            if *s < images::Series::new(soc.since.0, soc.since.1) {
                continue;
            }
            cells.push(cell(args, soc.name, &["--soc", soc.name], *s)?);
        }
        for (control, soc) in CONTROLS {
            cells.push(cell(args, control, &["--soc", soc, "--profile", control], *s)?);
        }
    }
    let columns: Vec<String> = series.iter().map(ToString::to_string).collect();
    let table = table(&socs, &columns, &cells);
    write(&args.out.join("matrix.md"), &table)?;
    write(&args.out.join("matrix.json"), &(serde_json::to_string_pretty(&cells)? + "\n"))?;
    print!("{table}");
    let wrong = cells.iter().filter(|c| !c.ok).count();
    println!(
        "matrix: {} runs, {wrong} not as they should be: {}",
        cells.len(),
        args.out.join("matrix.md").display()
    );
    Ok(u8::from(wrong > 0))
}

fn socs(names: &[String]) -> Result<Vec<&'static Soc>> {
    if names.is_empty() {
        return Ok(soc::SOCS.iter().collect());
    }
    names.iter().map(|n| super::soc(n)).collect()
}

fn write(file: &Path, text: &str) -> Result<()> {
    std::fs::write(file, text)
        .with_context(|| format!("cannot write {}: free some space or give another --out", file.display()))
}

/// Run one torture as a user would, and judge it.
fn cell(args: &MatrixArgs, row: &str, options: &[&str], series: images::Series) -> Result<Cell> {
    let out = args.out.join(format!("{series}-{row}"));
    let mut cmd = Command::new(std::env::current_exe().context("cannot find my own program file")?);
    cmd.args([
        "torture",
        "--no-trace",
        "--series",
        &series.to_string(),
        "--cycles",
        &args.cycles.to_string(),
    ])
    .args(options)
    .arg("--out")
    .arg(&out)
    .stdin(Stdio::null());
    let ran = cmd.output().context("cannot start rcvm")?;
    if ran.status.code().is_none() {
        bail!("interrupted");
    }
    let report: Option<Report> =
        std::fs::read(out.join("report.json")).ok().and_then(|t| serde_json::from_slice(&t).ok());
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    let c = judge(row, series.to_string(), report, &said);
    eprintln!(
        "{} {:12} {:5} {}{}",
        if c.ok { "ok    " } else { "WRONG " },
        c.row,
        c.series,
        c.verdict.map_or("no run", Verdict::name),
        if c.why.is_empty() { String::new() } else { format!(": {}", c.why) }
    );
    Ok(c)
}

fn judge(row: &str, series: String, report: Option<Report>, said: &str) -> Cell {
    let control = CONTROLS.iter().any(|c| c.0 == row);
    let good = |v: Verdict| match v {
        Verdict::Clean | Verdict::Residue => !control,
        Verdict::Leak | Verdict::Crash => control,
        Verdict::Inconclusive => false,
    };
    let last = |text: &str| text.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("").trim().to_owned();
    match report {
        None => Cell {
            row: row.into(),
            series,
            release: String::new(),
            verdict: None,
            ok: false,
            created: 0,
            left: 0,
            why: last(said),
        },
        Some(r) => {
            let ok = good(r.verdict);
            let first = r.findings.iter().find(|s| s.finding.allowed.is_none());
            let why = first.map_or_else(|| last(said), |s| s.finding.summary.clone());
            Cell {
                row: row.into(),
                series,
                release: r.kernel.release,
                verdict: Some(r.verdict),
                ok,
                created: r.irq_mappings.created,
                left: r.irq_mappings.leaked,
                why: if ok { String::new() } else { why },
            }
        }
    }
}

/// The matrix as a Markdown table: a row a SoC, a column a series.
fn table(socs: &[&Soc], columns: &[String], cells: &[Cell]) -> String {
    let by_place: BTreeMap<(&str, &str), &Cell> =
        cells.iter().map(|c| ((c.row.as_str(), c.series.as_str()), c)).collect();
    let mut out = String::from("| SoC | driver ops | iATU | msi lines |");
    for c in columns {
        out += &format!(" {c} |");
    }
    out += &format!("\n|{}\n", "---|".repeat(4 + columns.len()));
    let mut row = |name: &str, what: String| {
        out += &format!("| {name} | {what} |");
        for c in columns {
            let text = by_place.get(&(name, c.as_str())).map_or("–".to_owned(), |c| text(c));
            out += &format!(" {text} |");
        }
        out.push('\n');
    };
    for s in socs {
        let iatu = if s.unroll { "unrolled" } else { "viewport" };
        row(s.name, format!("{} | {iatu} | {}", s.ops, s.msi_lines));
    }
    for (control, soc) in CONTROLS {
        row(control, format!("control on {soc}: must fail | | "));
    }
    out
}

fn text(c: &Cell) -> String {
    let verdict = c.verdict.map_or("no run", Verdict::name);
    let mark = if c.ok { "" } else { "**wrong**: " };
    format!("{mark}{verdict}, {} created, {} left", c.created, c.left)
}

#[cfg(test)]
mod tests {
    use torture::report::Setting;

    use super::*;

    fn report(verdict: Verdict) -> Report {
        let mut r = Report::new(Setting::default());
        r.verdict = verdict;
        r
    }

    #[test]
    fn the_control_has_to_fail_and_the_others_must_not() {
        for (row, verdict, ok) in [
            ("sm8250", Verdict::Clean, true),
            ("sm8250", Verdict::Residue, true),
            ("sm8250", Verdict::Leak, false),
            ("sm8250", Verdict::Inconclusive, false),
            ("naive", Verdict::Leak, true),
            ("rk-intx-leak", Verdict::Leak, true),
            ("rk-intx-leak", Verdict::Clean, false),
            ("naive", Verdict::Crash, true),
            ("naive", Verdict::Clean, false),
            ("naive", Verdict::Inconclusive, false),
        ] {
            assert_eq!(judge(row, "6.12".into(), Some(report(verdict)), "").ok, ok, "{row} {verdict:?}");
        }
        let none = judge("sm8250", "6.12".into(), None, "rcvm: error: no space\n\n");
        assert_eq!((none.ok, none.why.as_str()), (false, "rcvm: error: no space"));
    }

    #[test]
    fn the_table_has_a_place_for_what_was_not_run() {
        let socs = [&soc::SM8250];
        let cells = [judge("sm8250", "6.12".into(), Some(report(Verdict::Clean)), "")];
        let t = table(&socs, &["6.1".into(), "6.12".into()], &cells);
        assert!(t.contains("| sm8250 | 1_9_0 | unrolled | 8 | – | clean, 0 created, 0 left |"), "{t}");
    }
}
