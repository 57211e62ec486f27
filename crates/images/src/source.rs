//! Kernel source packages of the distribution: installed ones, and ones fetched into the cache.

use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use crate::cache::Cache;
use crate::kernel::first_line;
use crate::series::Series;
use crate::Error;

/// A source package's contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The tree, packed.
    pub tarball: PathBuf,
    /// Version of the package.
    pub version: String,
}

/// The source of `series` if it is on this machine: the installed package first.
pub fn find(cache: &Cache, series: Series) -> Option<Source> {
    let name = format!("linux-source-{series}");
    let installed = PathBuf::from(format!("/usr/src/{name}.tar.xz"));
    if installed.is_file() {
        let version = first_line(Command::new("dpkg-query").args(["-W", "-f", "${Version}\n", &name]));
        if !version.is_empty() {
            return Some(Source { tarball: installed, version });
        }
    }
    let dir = cache.entry(&format!("source-{series}"))?;
    let version = std::fs::read_to_string(dir.join("version")).ok()?.trim().to_owned();
    Some(Source { tarball: dir.join(format!("{name}.tar.xz")), version })
}

/// The same, or why there is none and what to do.
pub fn need(cache: &Cache, series: Series) -> Result<Source, Error> {
    find(cache, series).ok_or_else(|| Error::Missing {
        what: format!("the source of Linux {series}"),
        remedy: format!("apt-get install linux-source-{series}, or scripts/kernel-source {series}"),
    })
}

/// The series whose source is on this machine.
pub fn here() -> Result<Vec<Series>, Error> {
    let cache = Cache::locate()?;
    let names = |dir: &Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.filter_map(|e| e.file_name().into_string().ok()).collect::<Vec<_>>()
    };
    let installed = names(Path::new("/usr/src"));
    let installed = installed.iter().filter_map(|n| n.strip_prefix("linux-source-")?.strip_suffix(".tar.xz"));
    let fetched = names(cache.dir());
    let fetched = fetched.iter().filter_map(|n| n.strip_prefix("source-"));
    let mut all: Vec<Series> = installed.chain(fetched).filter_map(|s| s.parse().ok()).collect();
    all.sort_unstable();
    all.dedup();
    Ok(all)
}
