//! The output directory: report, console, boot log, trace. Created and proven writable before anything boots.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;
use torture::render;
use torture::render::FILES;
use torture::report::Report;

/// A file that reached this many bytes becomes `….old`, and a new one begins: a run of any length, and a guest that
/// prints for ever, take a bounded place, and the end is always there.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// Least time between two writes of the report in the middle of a run: it grows with the cycles, and native cycles are
/// short.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// Open artifacts of a run.
pub struct Artifacts {
    dir: PathBuf,
    console: Log,
    trace: Option<Log>,
    reported: Option<Instant>,
}

impl Artifacts {
    /// Create the directory and empty artifacts, and prove that the report can be written.
    pub fn create(dir: &Path, trace: bool, report: &Report) -> Result<Artifacts> {
        std::fs::create_dir_all(dir).with_context(|| {
            format!("cannot create the output directory {}: choose another with --out", dir.display())
        })?;
        // What an earlier run left here must not pass for this one's.
        for name in ["boot.log", "console.log.old", "trace.bin.old", "trace.bin"].into_iter().chain(FILES) {
            // A file that cannot be removed shows when it is written.
            if dir.join(name).symlink_metadata().is_ok_and(|m| m.is_file()) {
                let _ = std::fs::remove_file(dir.join(name));
            }
        }
        let console = Log::create(dir.join("console.log"), MAX_FILE_BYTES)?;
        let trace = trace.then(|| Log::create(dir.join("trace.bin"), MAX_FILE_BYTES)).transpose()?;
        let mut a = Artifacts { dir: dir.to_owned(), console, trace, reported: None };
        a.report(report)?;
        Ok(a)
    }

    /// Append console output.
    pub fn console(&mut self, bytes: &[u8]) -> Result<()> {
        self.console.append(bytes)
    }

    /// Keep the kernel log of the boot.
    pub fn boot_log(&self, text: &str) -> Result<()> {
        let path = self.dir.join("boot.log");
        std::fs::write(&path, text).with_context(|| full(&path))
    }

    /// Append trace records: whole segments, so that a file begins with one.
    pub fn trace(&mut self, segment: &[u8]) -> Result<()> {
        self.trace.as_mut().map_or(Ok(()), |t| t.append(segment))
    }

    /// Replace the report.
    pub fn report(&mut self, report: &Report) -> Result<()> {
        report.write(&self.dir).with_context(|| full(&self.dir.join("report.json")))?;
        self.reported = Some(Instant::now());
        Ok(())
    }

    /// Write what is made of the report at its end: the page, JUnit XML, KTAP.
    pub fn pages(&self, report: &Report) -> Result<()> {
        pages(report, &self.dir)
    }

    /// Replace the report unless it was just written.
    pub fn report_soon(&mut self, report: &Report) -> Result<()> {
        match self.reported {
            Some(at) if at.elapsed() < REPORT_INTERVAL => Ok(()),
            _ => self.report(report),
        }
    }
}

/// Write the page, JUnit XML and KTAP of `report` into `dir`.
pub fn pages(report: &Report, dir: &Path) -> Result<()> {
    render::write(report, dir).map_err(|(name, e)| anyhow::Error::new(e).context(full(&dir.join(name))))
}

/// A file that is appended to, within a bound.
pub struct Log {
    path: PathBuf,
    file: File,
    written_bytes: u64,
    max_bytes: u64,
}

impl Log {
    /// An empty console log in `dir`.
    pub fn console(dir: &Path) -> Result<Log> {
        Log::create(dir.join("console.log"), MAX_FILE_BYTES)
    }

    fn create(path: PathBuf, max_bytes: u64) -> Result<Log> {
        let file = File::create(&path).with_context(|| {
            format!("cannot write {}: choose another directory with --out", path.display())
        })?;
        Ok(Log { path, file, written_bytes: 0, max_bytes })
    }

    /// Append `bytes`.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        if self.written_bytes >= self.max_bytes {
            let mut old = self.path.clone().into_os_string();
            old.push(".old");
            std::fs::rename(&self.path, old).with_context(|| full(&self.path))?;
            *self = Log::create(self.path.clone(), self.max_bytes)?;
        }
        self.written_bytes += bytes.len() as u64;
        self.file.write_all(bytes).with_context(|| full(&self.path))
    }
}

fn full(path: &Path) -> String {
    format!(
        "cannot write {}: free some space or choose another directory with --out; what was written before is kept",
        path.display()
    )
}

#[cfg(test)]
mod tests {
    use torture::report::Setting;

    use super::*;

    #[test]
    fn a_log_is_bounded_and_keeps_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = Log::create(dir.path().join("console.log"), 8).unwrap();
        for piece in ["aaaa", "bbbb", "cccc", "dddd", "eeee"] {
            log.append(piece.as_bytes()).unwrap();
        }
        let text = |name: &str| std::fs::read_to_string(dir.path().join(name)).unwrap();
        assert_eq!((text("console.log.old"), text("console.log")), ("ccccdddd".into(), "eeee".into()));
    }

    #[test]
    fn what_an_earlier_run_left_is_gone() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["boot.log", "trace.bin", "console.log", "mine.txt", "report.html", "junit.xml"] {
            std::fs::write(dir.path().join(name), "old").unwrap();
        }
        Artifacts::create(dir.path(), false, &Report::new(Setting::default())).unwrap();
        let mut names: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["console.log", "mine.txt", "report.json"]);
    }
}
