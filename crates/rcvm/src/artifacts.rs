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
use torture::report::Core;
use torture::report::Report;

/// A file that reached this many bytes becomes `….old`, and a new one begins: a run of any length, and a guest that
/// prints for ever, take a bounded place, and the end is always there.
const MAX_FILE_BYTES: u64 = 64 << 20;
/// The guest as an ELF core.
pub const CORE: &str = "core.elf";
/// The plan file of the run.
pub const PLAN: &str = "plan.toml";
/// The core while it is written.
const CORE_PART: &str = ".core.elf.tmp";
/// Least time between two writes of the report in the middle of a run: it grows with the cycles, and native cycles are
/// short.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// Open artifacts of a run.
pub struct Artifacts {
    dir: PathBuf,
    console: Log,
    trace: Option<Log>,
    reported: Option<Instant>,
    /// The core that is being written, or why that failed.
    core: Option<Result<Part, String>>,
}

/// A file that is not whole yet.
struct Part {
    file: File,
    written_bytes: u64,
}

impl Artifacts {
    /// Create the directory and empty artifacts, and prove that the report can be written.
    pub fn create(dir: &Path, trace: bool, report: &Report) -> Result<Artifacts> {
        std::fs::create_dir_all(dir).with_context(|| {
            format!("cannot create the output directory {}: choose another with --out", dir.display())
        })?;
        // What an earlier run left here must not pass for this one's.
        let own = ["boot.log", "console.log.old", "trace.bin.old", "trace.bin", CORE, CORE_PART];
        for name in own.into_iter().chain(FILES) {
            // A file that cannot be removed shows when it is written.
            if dir.join(name).symlink_metadata().is_ok_and(|m| m.is_file()) {
                let _ = std::fs::remove_file(dir.join(name));
            }
        }
        let console = Log::create(dir.join("console.log"), MAX_FILE_BYTES)?;
        let trace = trace.then(|| Log::create(dir.join("trace.bin"), MAX_FILE_BYTES)).transpose()?;
        let mut a = Artifacts { dir: dir.to_owned(), console, trace, reported: None, core: None };
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

    /// Keep the plan file of the run.
    pub fn plan(&self, text: &str) -> Result<()> {
        let path = self.dir.join(PLAN);
        std::fs::write(&path, text).with_context(|| full(&path))
    }

    /// Append trace records: whole segments, so that a file begins with one.
    pub fn trace(&mut self, segment: &[u8]) -> Result<()> {
        self.trace.as_mut().map_or(Ok(()), |t| t.append(segment))
    }

    /// Append a piece of the core. What goes wrong shows when it is finished: a core is not worth the run.
    pub fn core(&mut self, piece: &[u8]) {
        let path = self.dir.join(CORE_PART);
        let core = self.core.take().unwrap_or_else(|| {
            let file = File::create(&path).map_err(|e| format!("create {}: {e}", path.display()))?;
            Ok(Part { file, written_bytes: 0 })
        });
        let written = core.and_then(|mut p| {
            p.file.write_all(piece).map_err(|e| format!("write {}: {e}", path.display()))?;
            p.written_bytes += piece.len() as u64;
            Ok(p)
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&path);
        }
        self.core = Some(written);
    }

    /// All pieces have come: make them `core.elf` if they are what the worker says. Why there is none.
    pub fn finish_core(&mut self, core: &Core) -> Result<(), String> {
        let from = self.dir.join(CORE_PART);
        let finished = match self.core.take() {
            _ if !core.trouble.is_empty() => Err(core.trouble.clone()),
            None => Err("nothing came of it".into()),
            Some(Err(why)) => Err(why),
            Some(Ok(p)) if p.written_bytes != core.bytes => Err("a part of it was lost".into()),
            Some(Ok(_)) => std::fs::rename(&from, self.dir.join(CORE))
                .map_err(|e| format!("rename {}: {e}", from.display())),
        };
        if finished.is_err() {
            let _ = std::fs::remove_file(&from);
        }
        finished
    }

    /// Nothing more will come. Whether a core had begun.
    pub fn drop_core(&mut self) -> bool {
        let begun = self.core.take().is_some();
        if begun {
            let _ = std::fs::remove_file(self.dir.join(CORE_PART));
        }
        begun
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
    fn a_core_is_there_whole_or_not_at_all() {
        let core = |bytes: u64, trouble: &str| Core { bytes, trouble: trouble.into(), ..Core::default() };
        for (pieces, told, kept) in [
            (2, core(8, ""), true),
            (1, core(8, ""), false),
            (2, core(8, "too large"), false),
            (0, core(0, ""), false),
        ] {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(CORE), "of an earlier run").unwrap();
            let mut a = Artifacts::create(dir.path(), false, &Report::new(Setting::default())).unwrap();
            for _ in 0..pieces {
                a.core(b"abcd");
            }
            assert_eq!(a.finish_core(&told).is_ok(), kept, "{told:?}");
            assert_eq!(dir.path().join(CORE).exists(), kept, "{told:?}");
            assert!(!dir.path().join(CORE_PART).exists());
            assert!(!a.drop_core(), "nothing is left to drop");
        }
    }

    #[test]
    fn a_core_that_cannot_be_written_is_a_line_in_the_report() {
        let dir = tempfile::tempdir().unwrap();
        let mut a = Artifacts::create(dir.path(), false, &Report::new(Setting::default())).unwrap();
        std::fs::create_dir(dir.path().join(CORE_PART)).unwrap();
        a.core(b"abcd");
        a.core(b"abcd");
        let why = a.finish_core(&Core { bytes: 8, ..Core::default() }).unwrap_err();
        assert!(why.starts_with("create "), "{why}");
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
