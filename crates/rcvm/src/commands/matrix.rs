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

/// Ways to use the default SoC, with their options: wiring, gating, and what happens to the link in each cycle.
const WAYS: [(&str, &[&str]); 19] = [
    ("strict gating", &["--gating", "strict"]),
    ("MSIs by an ITS", &["--msi", "its"]),
    ("PHY at the port", &["--phy-at-port", "auto", "--soc", "x1e80100"]),
    ("suspend", &["--during", "suspend"]),
    ("suspend to L2", &["--during", "suspend-l2"]),
    ("reset", &["--during", "reset"]),
    ("retrain", &["--during", "retrain"]),
    ("link disabled", &["--during", "link-disable"]),
    ("link lost", &["--during", "link-loss"]),
    ("card pulled", &["--during", "surprise-removal"]),
    ("empty slot", &["--slot", "empty"]),
    ("mute card", &["--slot", "mute"]),
    ("retries", &["--rrs", "3"]),
    ("NVMe", &["--endpoint", "nvme,size=16M", "--filesystem"]),
    (
        "virtio",
        &[
            "--endpoint",
            "virtio-blk,size=16M",
            "--endpoint",
            "virtio-net",
            "--endpoint",
            "virtio-rng",
            "--endpoint",
            "virtio-console",
        ],
    ),
    ("INTx shared", &["--endpoint", "endpoint-test", "--endpoint", "serial", "--during", "neighbour"]),
    (
        "switches",
        &[
            "--endpoint",
            "switch",
            "--endpoint",
            "switch,port=0.1",
            "--endpoint",
            "nvme,port=0.1.0,size=16M",
            "--endpoint",
            "virtio-net,port=0.0",
        ],
    ),
    (
        "hot-plug",
        &[
            "--endpoint",
            "switch",
            "--endpoint",
            "nvme,port=0.0,size=16M",
            "--endpoint",
            "serial,port=0.1",
            "--during",
            "hot-plug",
        ],
    ),
    (
        "hot-swap",
        &[
            "--endpoint",
            "switch",
            "--endpoint",
            "nvme,port=0.0,size=16M",
            "--endpoint",
            "serial,port=0.1",
            "--during",
            "hot-swap",
        ],
    ),
];

/// What a kernel does not survive, as we have seen it: way, first series, reason. See docs/hazards.md.
const HAZARDS: [(&str, images::Series, &str); 2] = [
    ("link disabled", images::Series::new(7, 0), "pciehp and the link-down recovery wait for each other"),
    ("card pulled", images::Series::new(7, 0), "pciehp and the link-down recovery wait for each other"),
];

/// Whether the driver of `series` knows `soc`.
fn knows(series: images::Series, soc: &Soc) -> bool {
    series >= images::Series::new(soc.since.0, soc.since.1)
}

/// Whether the driver of `series` knows the SoC that `options` name, if they name one.
fn is_known(options: &[&str], series: images::Series) -> bool {
    let named = options.windows(2).find(|o| o[0] == "--soc").and_then(|o| soc::find(o[1]));
    named.is_none_or(|soc| knows(series, soc))
}

fn hazard(row: &str, series: images::Series) -> Option<&'static str> {
    HAZARDS.iter().find(|h| h.0 == row && h.1 <= series).map(|h| h.2)
}

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
    /// The kernel's hazard that this is, if it is one.
    known: String,
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
    // Who names SoCs wants those.
    let ways: &[_] = if args.soc.is_empty() || !args.only.is_empty() { &WAYS } else { &[] };
    let rows = || {
        soc::SOCS.iter().map(|s| s.name).chain(CONTROLS.iter().map(|c| c.0)).chain(WAYS.iter().map(|w| w.0))
    };
    if let Some(unknown) = args.only.iter().find(|o| !rows().any(|r| r == o.as_str())) {
        bail!("--only {unknown}: there is {}", rows().collect::<Vec<_>>().join(", "));
    }
    let wanted = |row: &str| args.only.is_empty() || args.only.iter().any(|o| o == row);
    let mut cells = Vec::new();
    for s in &series {
        for soc in &socs {
            if knows(*s, soc) && wanted(soc.name) {
                cells.push(cell(args, soc.name, &["--soc", soc.name], *s)?);
            }
        }
        for (control, soc) in CONTROLS.iter().filter(|c| wanted(c.0)) {
            cells.push(cell(args, control, &["--soc", soc, "--profile", control], *s)?);
        }
        for (way, options) in ways.iter().filter(|w| is_known(w.1, *s) && wanted(w.0)) {
            cells.push(cell(args, way, options, *s)?);
        }
    }
    let columns: Vec<String> = series.iter().map(ToString::to_string).collect();
    let table = table(&socs, ways, &columns, &cells);
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
    let out = args.out.join(format!("{series}-{}", row.replace(' ', "-")));
    let mut cmd = Command::new(std::env::current_exe().context("cannot find my own program file")?);
    cmd.args([
        "torture",
        "--no-trace",
        "--core",
        "never",
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
    let c = judge(row, series, report, &said);
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

fn judge(row: &str, series: images::Series, report: Option<Report>, said: &str) -> Cell {
    let control = CONTROLS.iter().any(|c| c.0 == row);
    let hazard = hazard(row, series);
    // Whether a verdict is as it should be, and the hazard that it is.
    let good = |v: Verdict| match v {
        Verdict::Clean | Verdict::Residue => (!control, None),
        Verdict::Leak | Verdict::Crash => (control || hazard.is_some(), hazard),
        Verdict::Inconclusive => (false, None),
    };
    let series = series.to_string();
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
            known: String::new(),
        },
        Some(r) => {
            let (ok, known) = good(r.verdict);
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
                known: known.unwrap_or_default().to_owned(),
            }
        }
    }
}

/// The matrix as Markdown tables: a row a SoC or a way, a column a series.
fn table(socs: &[&Soc], ways: &[(&str, &[&str])], columns: &[String], cells: &[Cell]) -> String {
    let by_place: BTreeMap<(&str, &str), &Cell> =
        cells.iter().map(|c| ((c.row.as_str(), c.series.as_str()), c)).collect();
    let mut out = String::new();
    let head = |what: &[&str]| {
        let names: Vec<&str> = what.iter().copied().chain(columns.iter().map(String::as_str)).collect();
        format!("| {} |\n|{}\n", names.join(" | "), "---|".repeat(names.len()))
    };
    let row = |name: &str, what: &str| {
        let place = |c: &String| by_place.get(&(name, c.as_str())).map_or("–".to_owned(), |c| text(c));
        let cells: Vec<String> = columns.iter().map(place).collect();
        format!("| {name} | {what} | {} |\n", cells.join(" | "))
    };
    out += &head(&["SoC", "driver ops", "iATU", "msi lines"]);
    for s in socs {
        let iatu = if s.unroll { "unrolled" } else { "viewport" };
        let msi = if s.wrapper.takes_msis() { s.msi_lines.to_string() } else { "ITS".into() };
        out += &row(s.name, &format!("{} | {iatu} | {msi}", s.ops));
    }
    for (control, soc) in CONTROLS {
        out += &row(control, &format!("control on {soc}: must fail | | "));
    }
    if !ways.is_empty() {
        out.push('\n');
        out += &head(&["way", "options"]);
    }
    for (way, options) in ways {
        out += &row(way, &format!("`{}`", options.join(" ")));
    }
    out
}

fn text(c: &Cell) -> String {
    let verdict = c.verdict.map_or("no run", Verdict::name);
    let mark = if c.ok { "" } else { "**wrong**: " };
    let known = if c.known.is_empty() { String::new() } else { format!(" (known: {})", c.known) };
    format!("{mark}{verdict}, {} created, {} left{known}", c.created, c.left)
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
            assert_eq!(
                judge(row, images::series::DEFAULT, Some(report(verdict)), "").ok,
                ok,
                "{row} {verdict:?}"
            );
        }
        let none = judge("sm8250", images::series::DEFAULT, None, "rcvm: error: no space\n\n");
        assert_eq!((none.ok, none.why.as_str()), (false, "rcvm: error: no space"));
    }

    #[test]
    fn a_hazard_that_is_known_of_a_series_is_told_and_no_other_passes() {
        let cell =
            |series: &str| judge("card pulled", series.parse().unwrap(), Some(report(Verdict::Crash)), "");
        let (old, new) = (cell("6.12"), cell("7.3"));
        assert_eq!((old.ok, new.ok), (false, true));
        assert!(text(&new).contains("known: pciehp"), "{}", text(&new));
        let clean = judge("card pulled", images::Series::new(7, 3), Some(report(Verdict::Clean)), "");
        assert!(clean.ok && clean.known.is_empty());
    }

    #[test]
    fn a_way_whose_soc_the_series_does_not_know_is_not_run() {
        let phy = WAYS.iter().find(|w| w.0 == "PHY at the port").unwrap();
        assert!(!is_known(phy.1, images::Series::new(6, 1)));
        assert!(is_known(phy.1, images::Series::new(6, 12)));
        assert!(is_known(&["--during", "suspend"], images::Series::new(6, 1)));
    }

    #[test]
    fn the_table_has_a_place_for_what_was_not_run() {
        let socs = [&soc::SM8250];
        let cells = [judge("sm8250", images::series::DEFAULT, Some(report(Verdict::Clean)), "")];
        let t = table(&socs, &WAYS, &["6.1".into(), "6.12".into()], &cells);
        assert!(t.contains("| suspend | `--during suspend` | – | – |"), "{t}");
        assert!(t.contains("| sm8250 | 1_9_0 | unrolled | 8 | – | clean, 0 created, 0 left |"), "{t}");
    }
}
