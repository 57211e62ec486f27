//! `rcvm report`: what a run found, from its report.json.

use std::path::Path;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use torture::report::Report;
use torture::report::SCHEMA;

use crate::artifacts;
use crate::cli::ReportArgs;
use crate::cli::ReportCommand;

/// Show a report, or make its pages anew.
pub fn run(args: &ReportArgs) -> Result<u8> {
    if let Some(ReportCommand::Html { dir }) = &args.command {
        artifacts::pages(&read(dir)?, dir)?;
        println!("{}", dir.join("report.html").display());
        return Ok(0);
    }
    let dir = args.dir.as_deref().context("which report? give a directory")?;
    let report = read(dir)?;
    for line in torture::summary::lines(&report) {
        println!("{line}");
    }
    println!("{}", report.last_line());
    Ok(report.exit_code)
}

/// The report of the run that wrote into `dir`.
pub fn read(dir: &Path) -> Result<Report> {
    let path = dir.join("report.json");
    let text = std::fs::read(&path)
        .with_context(|| format!("cannot read {}: give the --out directory of a run", path.display()))?;
    let report: Report = serde_json::from_slice(&text)
        .with_context(|| format!("{} is no report of this version of rcvm", path.display()))?;
    if report.schema != SCHEMA {
        bail!("{} has schema {}, this rcvm reads {SCHEMA}", path.display(), report.schema);
    }
    Ok(report)
}
