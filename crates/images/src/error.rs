//! Errors, each one line that names the thing and the remedy.

use std::path::PathBuf;

/// Why an image could not be built or found.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that a build needs is not on this machine.
    #[error("{what} is missing: {remedy}")]
    Missing {
        /// What.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// No such profile.
    #[error("unknown profile {name}: there are {known}")]
    Profile {
        /// The name given.
        name: String,
        /// Names there are.
        known: String,
    },
    /// No such kernel series.
    #[error("{why}")]
    Series {
        /// What is wrong with it.
        why: String,
    },
    /// A file of guest-images is wrong.
    #[error("{}: {why}", .file.display())]
    Data {
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A recipe does not fit the source.
    #[error("recipe {recipe} does not fit: \"{why}\" matches {matches} times in {file}")]
    Recipe {
        /// Recipe.
        recipe: String,
        /// The edit, by its reason.
        why: String,
        /// File to be edited.
        file: String,
        /// How often its anchor was found.
        matches: usize,
    },
    /// A script that fetches something failed.
    #[error("{}: {why}", .script.display())]
    Script {
        /// Which.
        script: PathBuf,
        /// What it said last: what is wrong, and what to do.
        why: String,
    },
    /// A build command failed.
    #[error("{what} failed: {tail} (all of it: {})", .log.display())]
    Build {
        /// What was built.
        what: String,
        /// Its log.
        log: PathBuf,
        /// The lines of it that tell most.
        tail: String,
    },
    /// Too little disk space.
    #[error("{} has {have_mib} MiB free, a kernel build needs {need_mib}: free some or set RCVM_CACHE", .dir.display())]
    Disk {
        /// Where.
        dir: PathBuf,
        /// MiB free.
        have_mib: u64,
        /// MiB needed.
        need_mib: u64,
    },
    /// The system refused something.
    #[error("cannot {what}")]
    Io {
        /// What.
        what: String,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// The system refused to do `what`.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Error {
        Error::Io { what: what.into(), source }
    }
}
