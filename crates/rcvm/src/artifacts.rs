//! The output directory: report.json, console.log, trace.bin.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::Result;
use torture::report::Report;

/// Open artifacts of one run.
#[derive(Debug)]
pub struct Artifacts {
    dir: PathBuf,
    console: File,
    trace: Option<File>,
}

impl Artifacts {
    /// Create the directory and empty artifacts, and prove that the report can be written.
    pub fn create(dir: &Path, trace: bool, report: &Report) -> Result<Artifacts> {
        std::fs::create_dir_all(dir).with_context(|| {
            format!("cannot create the output directory {}: choose another with --out", dir.display())
        })?;
        let create = |name: &str| {
            let path = dir.join(name);
            File::create(&path).with_context(|| {
                format!("cannot write {}: choose another directory with --out", path.display())
            })
        };
        let console = create("console.log")?;
        let trace = if trace {
            Some(create("trace.bin")?)
        } else {
            let _ = std::fs::remove_file(dir.join("trace.bin"));
            None
        };
        let a = Artifacts { dir: dir.to_owned(), console, trace };
        a.report(report)?;
        Ok(a)
    }

    /// Append console output.
    pub fn console(&mut self, bytes: &[u8]) -> Result<()> {
        self.console.write_all(bytes).with_context(|| self.full("console.log"))
    }

    /// Append trace records.
    pub fn trace(&mut self, bytes: &[u8]) -> Result<()> {
        match &mut self.trace {
            Some(f) => f.write_all(bytes).with_context(|| full(&self.dir, "trace.bin")),
            None => Ok(()),
        }
    }

    /// Replace the report.
    pub fn report(&self, report: &Report) -> Result<()> {
        report.write(&self.dir).with_context(|| self.full("report.json"))
    }

    fn full(&self, name: &str) -> String {
        full(&self.dir, name)
    }
}

fn full(dir: &Path, name: &str) -> String {
    format!("cannot write {}: free some space or choose another directory with --out; what was written before is kept", dir.join(name).display())
}
