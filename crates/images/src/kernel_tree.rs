//! Builds a developer's own kernel tree: in a copy in the cache, which follows the tree, so that a second build compiles
//! what has changed. The tree itself is never written to.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use serde::Deserialize;
use serde::Serialize;

use crate::cache;
use crate::cache::Cache;
use crate::kernel;
use crate::kernel::Built;
use crate::kernel::Job;
use crate::kernel::Plan;
use crate::profile::Profile;
use crate::series::Series;
use crate::Error;
use crate::Progress;

/// What the copy holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct State {
    /// Files taken over, by their path, with size and time of change (ns) of the tree's.
    files: BTreeMap<String, (u64, i64)>,
    /// Files that recipes have edited in the copy.
    edited: BTreeSet<String>,
}

/// The series of the kernel tree in `dir`: VERSION and PATCHLEVEL of its Makefile.
pub fn series(dir: &Path) -> Result<Series, Error> {
    let file = dir.join("Makefile");
    let text = std::fs::read_to_string(&file).map_err(|_| Error::Missing {
        what: format!("a kernel's Makefile in {}", dir.display()),
        remedy: "give --kernel-tree the top of a kernel source tree".into(),
    })?;
    let number = |name: &str| -> Option<u32> {
        text.lines().find_map(|l| l.strip_prefix(name)?.trim().strip_prefix('=')?.trim().parse().ok())
    };
    match (number("VERSION"), number("PATCHLEVEL")) {
        (Some(major), Some(minor)) if dir.join("Kbuild").is_file() => Ok(Series::new(major, minor)),
        _ => Err(Error::Data { file, why: "not the Makefile of a kernel".into() }),
    }
}

/// Build the kernel in `dir` with the driver variant of `profile`.
pub fn build(
    cache: &Cache,
    tree: &Path,
    dir: &Path,
    profile: &Profile,
    progress: Progress<'_>,
) -> Result<Built, Error> {
    let dir = dir.canonicalize().map_err(|e| Error::io(format!("find {}", dir.display()), e))?;
    let series = series(&dir)?;
    let key = format!("tree-{}", cache::key([dir.as_os_str().as_encoded_bytes()]));
    let _lock = cache.lock("kernel")?;
    let home = cache.dir().join(&key);
    let copy = home.join("source");
    if !copy.is_dir() {
        kernel::check_space(cache.dir())?;
        std::fs::create_dir_all(&copy).map_err(|e| Error::io(format!("create {}", copy.display()), e))?;
    }
    let mut state = load(&home);
    progress(&format!("taking over what changed in {}", dir.display()));
    let changed =
        follow(&dir, &copy, &mut state).map_err(|e| Error::io(format!("copy {}", dir.display()), e))?;
    progress(&format!("{changed} files changed"));
    save(&home, &state)?;
    let plan = Plan::of_tree(tree, series, profile)?;
    let job = Job {
        tree,
        plan: &plan,
        scratch: &copy,
        pristine: &dir,
        log: cache.dir().join("kernel-build.log"),
        lenient: true,
    };
    File::create(&job.log).map_err(|e| Error::io(format!("write {}", job.log.display()), e))?;
    let originals = job.originals(&state.edited)?;
    state.edited = originals.keys().cloned().collect();
    save(&home, &state)?;
    let out = home.join("out");
    let _ = std::fs::remove_dir_all(&out);
    job.make_into(&out, &originals, progress)?;
    kernel::open(out, key)
}

fn state_file(home: &Path) -> PathBuf {
    home.join("state.json")
}

/// What is known of the copy; nothing if that cannot be read: then all files are taken over again.
fn load(home: &Path) -> State {
    let text = std::fs::read(state_file(home)).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

fn save(home: &Path, state: &State) -> Result<(), Error> {
    let file = state_file(home);
    let text = serde_json::to_vec(state).unwrap_or_default();
    std::fs::write(&file, text).map_err(|e| Error::io(format!("write {}", file.display()), e))
}

/// Make `copy` what `dir` is; how many files changed. What a build has made in `copy` stays.
fn follow(dir: &Path, copy: &Path, state: &mut State) -> io::Result<usize> {
    let mut now = BTreeMap::new();
    let mut changed = 0;
    for name in files(dir)? {
        let from = dir.join(&name);
        // In git's list, but deleted from the work tree.
        let Ok(meta) = from.symlink_metadata() else { continue };
        let stamp =
            (meta.len(), meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec()));
        if meta.is_dir() {
            continue;
        }
        if state.files.get(&name) != Some(&stamp) {
            take(&from, &copy.join(&name), meta.is_symlink())?;
            changed += 1;
        }
        now.insert(name, stamp);
    }
    for gone in state.files.keys().filter(|name| !now.contains_key(*name)) {
        let _ = std::fs::remove_file(copy.join(gone));
        changed += 1;
    }
    state.files = now;
    Ok(changed)
}

fn take(from: &Path, to: &Path, link: bool) -> io::Result<()> {
    if let Some(parent) = to.parent() {
        std::fs::create_dir_all(parent)?;
    }
    if !link {
        return std::fs::copy(from, to).map(drop);
    }
    let _ = std::fs::remove_file(to);
    std::os::unix::fs::symlink(std::fs::read_link(from)?, to)
}

/// The source files of the tree: git's if it is a git tree, so that build products stay out; else all but those.
fn files(dir: &Path) -> io::Result<Vec<String>> {
    if dir.join(".git").exists() {
        let mut git = Command::new("git");
        git.arg("-C").arg(dir).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        // Whoever owns the tree: its files are only read.
        git.env("GIT_CONFIG_COUNT", "1")
            .env("GIT_CONFIG_KEY_0", "safe.directory")
            .env("GIT_CONFIG_VALUE_0", "*");
        let out = git.stdin(Stdio::null()).output()?;
        if !out.status.success() {
            return Err(io::Error::other(String::from_utf8_lossy(&out.stderr).trim().to_owned()));
        }
        let names = out.stdout.split(|b| *b == 0).filter(|n| !n.is_empty());
        return Ok(names.filter_map(|n| String::from_utf8(n.to_vec()).ok()).collect());
    }
    let mut all = Vec::new();
    walk(dir, "", &mut all)?;
    Ok(all)
}

fn walk(dir: &Path, below: &str, all: &mut Vec<String>) -> io::Result<()> {
    for entry in std::fs::read_dir(dir.join(below))? {
        let entry = entry?;
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
        if entry.file_type()?.is_dir() {
            if !BUILT_DIRS.contains(&path.as_str()) {
                walk(dir, &path, all)?;
            }
        } else if !is_built(&name) {
            all.push(path);
        }
    }
    Ok(())
}

/// Directories that a build fills.
const BUILT_DIRS: [&str; 3] = ["include/config", "include/generated", "arch/arm64/include/generated"];

/// Whether a build makes files of this name.
fn is_built(name: &str) -> bool {
    let suffixes = [".o", ".ko", ".a", ".cmd", ".mod", ".mod.c", ".order", ".symvers"];
    name == ".config" || name == ".config.old" || suffixes.iter().any(|s| name.ends_with(s))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(dir: &Path, name: &str, text: &str) {
        let file = dir.join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(file, text).unwrap();
    }

    #[test]
    fn a_tree_is_known_by_its_makefile() {
        let dir = tempfile::tempdir().unwrap();
        assert!(series(dir.path()).unwrap_err().to_string().contains("--kernel-tree"));
        put(dir.path(), "Makefile", "# SPDX\nVERSION = 7\nPATCHLEVEL = 3\nSUBLEVEL = 4\n");
        assert!(series(dir.path()).is_err(), "no Kbuild: some other project");
        put(dir.path(), "Kbuild", "");
        assert_eq!(series(dir.path()).unwrap(), Series::new(7, 3));
    }

    #[test]
    fn the_copy_follows_the_tree_and_keeps_what_a_build_made() {
        let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        put(dir.path(), "a.c", "1");
        put(dir.path(), "sub/b.c", "1");
        put(dir.path(), "sub/b.o", "a build of the developer's own");
        put(dir.path(), "include/config/auto.conf", "");
        std::os::unix::fs::symlink("a.c", dir.path().join("link")).unwrap();
        let mut state = State::default();
        let follow = |state: &mut State| follow(dir.path(), copy.path(), state).unwrap();
        assert_eq!(follow(&mut state), 3);
        assert_eq!(std::fs::read_link(copy.path().join("link")).unwrap(), Path::new("a.c"));
        assert!(!copy.path().join("sub/b.o").exists() && !copy.path().join("include").exists());
        put(copy.path(), "sub/b.o", "ours");
        put(copy.path(), "a.c", "edited by a recipe");
        assert_eq!(follow(&mut state), 0);
        assert_eq!(std::fs::read_to_string(copy.path().join("a.c")).unwrap(), "edited by a recipe");
        put(dir.path(), "a.c", "22");
        std::fs::remove_file(dir.path().join("sub/b.c")).unwrap();
        assert_eq!(follow(&mut state), 2);
        assert_eq!(std::fs::read_to_string(copy.path().join("a.c")).unwrap(), "22");
        assert!(!copy.path().join("sub/b.c").exists() && copy.path().join("sub/b.o").exists());
    }

    #[test]
    fn of_a_git_tree_only_its_files_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let git = |args: &[&str]| {
            assert!(Command::new("git")
                .arg("-C")
                .arg(dir.path())
                .args(args)
                .output()
                .unwrap()
                .status
                .success());
        };
        git(&["init", "-q"]);
        put(dir.path(), ".gitignore", "*.log\n");
        put(dir.path(), "a.c", "1");
        put(dir.path(), "x.log", "1");
        git(&["add", "a.c"]);
        put(dir.path(), "new.c", "not yet in git, but part of the work");
        let mut names = files(dir.path()).unwrap();
        names.sort_unstable();
        assert_eq!(names, [".gitignore", "a.c", "new.c"]);
    }
}
