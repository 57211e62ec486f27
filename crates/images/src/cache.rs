//! The cache: what was built, by the key of what went into it.
//!
//! An entry appears by renaming a finished directory: a build that is killed leaves a temporary directory, which the
//! next one removes, and never half an entry.

use std::fs::File;
use std::path::Path;
use std::path::PathBuf;

use sha2::Digest;
use sha2::Sha256;

use crate::Error;

/// The cache directory.
#[derive(Clone, Debug)]
pub struct Cache {
    dir: PathBuf,
}

/// Held while something is built; released when dropped, also by the end of the process.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "its lock is what is held")] File);

impl Cache {
    /// `$RCVM_CACHE`, else `$XDG_CACHE_HOME/rcvm`, else `~/.cache/rcvm`; made if it is not there.
    pub fn locate() -> Result<Cache, Error> {
        let var = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
        let dir = var("RCVM_CACHE")
            .or_else(|| var("XDG_CACHE_HOME").map(|d| d.join("rcvm")))
            .or_else(|| var("HOME").map(|d| d.join(".cache/rcvm")))
            .ok_or_else(|| Error::Missing {
                what: "a home directory".into(),
                remedy: "set RCVM_CACHE".into(),
            })?;
        Cache::at(&dir)
    }

    /// A cache in `dir`.
    pub fn at(dir: &Path) -> Result<Cache, Error> {
        std::fs::create_dir_all(dir)
            .map_err(|e| Error::io(format!("create the cache {} (set RCVM_CACHE)", dir.display()), e))?;
        Ok(Cache { dir: dir.into() })
    }

    /// Its directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The entry of this name, if it is complete.
    pub fn entry(&self, name: &str) -> Option<PathBuf> {
        let dir = self.dir.join(name);
        dir.is_dir().then_some(dir)
    }

    /// Wait until nobody else builds `what`.
    pub fn lock(&self, what: &str) -> Result<Lock, Error> {
        let path = self.dir.join(format!(".lock-{what}"));
        let file = File::create(&path).map_err(|e| Error::io(format!("create {}", path.display()), e))?;
        file.lock().map_err(|e| Error::io(format!("lock {}", path.display()), e))?;
        Ok(Lock(file))
    }

    /// An empty directory to build `what` in; what an earlier, killed build left is removed. Hold the lock.
    pub fn scratch(&self, what: &str) -> Result<PathBuf, Error> {
        let dir = self.dir.join(format!(".building-{what}"));
        if dir.exists() {
            std::fs::remove_dir_all(&dir).map_err(|e| Error::io(format!("remove {}", dir.display()), e))?;
        }
        std::fs::create_dir(&dir).map_err(|e| Error::io(format!("create {}", dir.display()), e))?;
        Ok(dir)
    }

    /// Make `finished` the entry `name`.
    pub fn publish(&self, finished: &Path, name: &str) -> Result<PathBuf, Error> {
        let to = self.dir.join(name);
        std::fs::rename(finished, &to).map_err(|e| Error::io(format!("publish {}", to.display()), e))?;
        Ok(to)
    }

    /// A file `name-<key of its contents>.<suffix>`, written if it is not there.
    pub fn put(&self, name: &str, suffix: &str, bytes: &[u8]) -> Result<PathBuf, Error> {
        let file = self.dir.join(format!("{name}-{}.{suffix}", key([bytes])));
        if file.exists() {
            return Ok(file);
        }
        let tmp = self.dir.join(format!(".{name}-{}.tmp", std::process::id()));
        std::fs::write(&tmp, bytes).and_then(|()| std::fs::rename(&tmp, &file)).map_err(|e| {
            let _ = std::fs::remove_file(&tmp);
            Error::io(format!("write {}", file.display()), e)
        })?;
        Ok(file)
    }
}

/// A key over `parts`: 16 hexadecimal digits.
pub fn key<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> String {
    let mut h = Sha256::new();
    for p in parts {
        h.update((p.len() as u64).to_le_bytes());
        h.update(p);
    }
    h.finalize().iter().take(8).map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_depend_on_every_part_and_on_where_parts_end() {
        let k = |parts: &[&[u8]]| key(parts.iter().copied());
        assert_eq!(k(&[b"a", b"b"]), k(&[b"a", b"b"]));
        assert_ne!(k(&[b"a", b"b"]), k(&[b"ab", b""]));
        assert_eq!(k(&[b""]).len(), 16);
    }

    #[test]
    fn an_entry_appears_only_when_published_and_leftovers_go() {
        let dir = tempfile::tempdir().unwrap();
        let c = Cache::at(dir.path()).unwrap();
        let _lock = c.lock("kernel").unwrap();
        std::fs::write(c.scratch("kernel").unwrap().join("half"), "x").unwrap();
        let fresh = c.scratch("kernel").unwrap();
        assert!(!fresh.join("half").exists());
        assert_eq!(c.entry("kernel-1"), None);
        c.publish(&fresh, "kernel-1").unwrap();
        assert!(c.entry("kernel-1").is_some());
    }

    #[test]
    fn files_are_named_by_their_contents() {
        let dir = tempfile::tempdir().unwrap();
        let c = Cache::at(dir.path()).unwrap();
        let (a, b) = (c.put("x", "cpio", b"1").unwrap(), c.put("x", "cpio", b"2").unwrap());
        assert_ne!(a, b);
        assert_eq!(c.put("x", "cpio", b"1").unwrap(), a);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "no temporary file is left");
    }
}
