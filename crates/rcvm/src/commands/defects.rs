//! `rcvm defects`: the checks on drivers that are known to be wrong, and on one that is right.

use std::path::Path;
use std::process::Command;
use std::process::Stdio;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use torture::defect::Row;
use torture::defect::DEFECTS;
use torture::report::Report;
use torture::Defect;
use torture::Verdict;

use crate::cli::DefectsArgs;

/// Profile whose host driver is correct: what is found is the endpoint driver's.
const PROFILE: &str = "modular";

/// One run.
struct Cell {
    row: &'static Row,
    series: String,
    verdict: Option<Verdict>,
    /// Whether the defect was caught as it should be, or nothing was found without one.
    ok: bool,
    /// The finding that caught it, or what is wrong.
    says: String,
}

/// Run every defect; 1 if one is not caught, or something is found without one.
pub fn run(args: &DefectsArgs) -> Result<u8> {
    std::fs::create_dir_all(&args.out).with_context(|| {
        format!("cannot create the output directory {}: give another --out", args.out.display())
    })?;
    let mut series = Vec::new();
    for name in &args.series {
        let s = images::series(name, false, &mut |line| eprintln!("{line}"))?;
        images::build(PROFILE, s, &mut |line| eprintln!("{line}"))?;
        series.push(s);
    }
    let asked = |d: Defect| args.defect.is_empty() || args.defect.iter().any(|a| a.0 == d);
    let mut cells = Vec::new();
    for s in &series {
        for row in DEFECTS.iter().filter(|r| asked(r.defect)) {
            let c = cell(args, row, *s)?;
            eprintln!("{} {:20} {:5} {}", if c.ok { "ok    " } else { "WRONG " }, row.name, c.series, c.says);
            cells.push(c);
        }
    }
    let table = table(&cells);
    let file = args.out.join("defects.md");
    std::fs::write(&file, &table)
        .with_context(|| format!("cannot write {}: free some space or give another --out", file.display()))?;
    print!("{table}");
    let wrong = cells.iter().filter(|c| !c.ok).count();
    println!("defects: {} runs, {wrong} not as they should be: {}", cells.len(), file.display());
    Ok(u8::from(wrong > 0))
}

/// Run one torture as a user would, and judge it.
fn cell(args: &DefectsArgs, row: &'static Row, series: images::Series) -> Result<Cell> {
    let out = args.out.join(format!("{series}-{}", row.name));
    let mut cmd = Command::new(std::env::current_exe().context("cannot find my own program file")?);
    cmd.args([
        "torture",
        "--no-trace",
        "--core",
        "never",
        "--irq-views",
        args.irq_views.name(),
        "--profile",
        PROFILE,
        "--defect",
        row.name,
    ])
    .args(["--series", &series.to_string(), "--cycles", &args.cycles.to_string()])
    .arg("--out")
    .arg(&out)
    .stdin(Stdio::null());
    let ran = cmd.output().context("cannot start rcvm")?;
    if ran.status.code().is_none() {
        bail!("interrupted");
    }
    let said = String::from_utf8_lossy(&ran.stderr);
    let last = said.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("");
    Ok(judge(row, series, report(&out), last))
}

fn report(out: &Path) -> Option<Report> {
    serde_json::from_slice(&std::fs::read(out.join("report.json")).ok()?).ok()
}

fn judge(row: &'static Row, series: images::Series, report: Option<Report>, said: &str) -> Cell {
    let cell =
        |verdict, ok, says: &str| Cell { row, series: series.to_string(), verdict, ok, says: says.into() };
    let Some(r) = report else { return cell(None, false, said.trim()) };
    let first = r.findings.iter().map(|s| &s.finding).find(|f| f.allowed.is_none());
    let first = first.map_or("nothing was found", |f| &f.summary);
    let caught = r.findings.iter().map(|s| &s.finding).find(|f| row.is_caught_by(f));
    match caught {
        _ if row.defect == Defect::None => {
            cell(Some(r.verdict), matches!(r.verdict, Verdict::Clean | Verdict::Residue), first)
        }
        Some(f) => cell(Some(r.verdict), true, &format!("{}: {}", f.class.name(), f.summary)),
        None => cell(Some(r.verdict), false, first),
    }
}

/// The runs as a Markdown table.
fn table(cells: &[Cell]) -> String {
    let mut out = String::from("| defect | series | verdict | caught | finding |\n|---|---|---|---|---|\n");
    for c in cells {
        let verdict = c.verdict.map_or("no run", Verdict::name);
        let caught = match (c.ok, c.row.defect) {
            (false, _) => "**wrong**",
            (true, Defect::None) => "–",
            (true, _) => "yes",
        };
        let says = c.says.replace('|', "\\|");
        out += &format!("| {} | {} | {verdict} | {caught} | {says} |\n", c.row.name, c.series);
    }
    out
}

#[cfg(test)]
mod tests {
    use torture::report::Setting;
    use torture::Class;
    use torture::Finding;
    use torture::Source;

    use super::*;

    fn report(found: Option<(Class, &str)>) -> Report {
        let mut r = Report::new(Setting::default());
        r.verdict = if found.is_some() { Verdict::Leak } else { Verdict::Clean };
        if let Some((class, text)) = found {
            r.add(Finding::new(class, Source::GuestKernel, "r", text));
        }
        r
    }

    #[test]
    fn a_defect_has_to_be_caught_as_what_it_is_and_a_correct_driver_not_at_all() {
        let by_class = |text| Some((Class::DeviceLeak, text));
        for (defect, found, ok) in [
            (Defect::None, None, true),
            (Defect::None, by_class("a class device of 0000:01:00.0"), false),
            (Defect::ClassDeviceLeft, by_class("a class device of 0000:01:00.0"), true),
            (Defect::ClassDeviceLeft, by_class("a class device of nobody"), false),
            (Defect::ClassDeviceLeft, Some((Class::KernelSplat, "0000:01:00.0")), false),
            (Defect::ClassDeviceLeft, None, false),
        ] {
            let c = judge(defect.row(), images::series::DEFAULT, Some(report(found)), "");
            assert_eq!(c.ok, ok, "{defect:?} {found:?}");
        }
        let none = judge(Defect::None.row(), images::series::DEFAULT, None, "rcvm: error: no space\n");
        assert_eq!((none.ok, none.says.as_str()), (false, "rcvm: error: no space"));
        assert!(table(&[none]).contains("| none | 6.12 | no run | **wrong** | rcvm: error: no space |"));
    }
}
