//! The arm64 programs: agent and worker, cross-compiled with whatever this machine has.

use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use crate::cache;
use crate::cache::Cache;
use crate::Error;
use crate::Progress;

/// Rust's name of the target.
pub const TARGET: &str = "aarch64-unknown-linux-gnu";

/// How long cargo may take before the user is told what is going on.
const QUIET: Duration = Duration::from_secs(2);

/// Built programs.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// PID 1 of guests.
    pub agent: PathBuf,
    /// `rcvm` for arm64.
    pub worker: PathBuf,
}

/// Where cargo builds for `tree`. Each source tree has its own: cargo takes the same crate of two trees for one, and what the
/// other tree built last for up to date.
fn target_dir(cache: &Cache, tree: &Path) -> PathBuf {
    let key = cache::key([tree.as_os_str().as_encoded_bytes()]);
    cache.dir().join(format!("target-arm64-{key}"))
}

fn binaries(cache: &Cache, tree: &Path) -> Binaries {
    let dir = target_dir(cache, tree).join(TARGET).join("release");
    Binaries { agent: dir.join("guest-agent"), worker: dir.join("rcvm") }
}

/// The programs if they were built before; they may be older than their source.
pub fn find(cache: &Cache, tree: &Path) -> Option<Binaries> {
    let b = binaries(cache, tree);
    (b.agent.exists() && b.worker.exists()).then_some(b)
}

/// Build the programs; cargo decides what is to be done.
pub fn build(cache: &Cache, tree: &Path, progress: Progress<'_>) -> Result<Binaries, Error> {
    let rustc = rustc(cache, tree, progress)?;
    let linker = format!("{}gcc", super::kernel::cross_compile());
    let log = cache.dir().join("arm64-build.log");
    let log_err = |e| Error::io(format!("write {}", log.display()), e);
    let mut child = Command::new(cargo())
        .current_dir(tree)
        .args([
            "build",
            "--release",
            "--locked",
            "--quiet",
            "--target",
            TARGET,
            "-p",
            "guest-agent",
            "--bin",
            "guest-agent",
            "-p",
            "rcvm",
            "--bin",
            "rcvm",
        ])
        .arg("--target-dir")
        .arg(target_dir(cache, tree))
        .envs(rustc.map(|r| ("RUSTC", r)))
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", linker)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS", "-C target-feature=+crt-static")
        // What a surrounding `cargo run` has set is for its own target.
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_TARGET_DIR")
        .env_remove("RUSTUP_TOOLCHAIN")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&log).map_err(log_err)?)
        .spawn()
        .map_err(|e| Error::io("run cargo (install Rust: scripts/setup)", e))?;
    let begun = Instant::now();
    let mut told = false;
    let status = loop {
        if let Some(status) = child.try_wait().map_err(|e| Error::io("wait for cargo", e))? {
            break status;
        }
        // Usually there is nothing to do, and nothing to say.
        if !told && begun.elapsed() > QUIET {
            progress("building agent and worker for arm64");
            told = true;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if !status.success() {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        let tail: Vec<&str> = text.lines().filter(|l| l.starts_with("error")).take(3).collect();
        return Err(Error::Build {
            what: "the arm64 build of agent and worker".into(),
            log,
            tail: tail.join(" | "),
        });
    }
    Ok(binaries(cache, tree))
}

fn cargo() -> std::ffi::OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// A compiler with an arm64 standard library: `None`, the active one has it; else a private one of the distribution.
fn rustc(cache: &Cache, tree: &Path, progress: Progress<'_>) -> Result<Option<PathBuf>, Error> {
    let libdir = super::kernel::first_line(Command::new("rustc").args([
        "--print",
        "target-libdir",
        "--target",
        TARGET,
    ]));
    if Path::new(&libdir).is_dir() {
        return Ok(None);
    }
    let _lock = cache.lock("rust")?;
    if !cache.dir().join("rust").exists() {
        progress("fetching a Rust compiler with an arm64 standard library");
    }
    let out = script(tree, "cross-rust", &[cache.dir().as_os_str()])?;
    Ok(Some(out.into()))
}

/// Debian's static busybox for arm64.
pub fn busybox(cache: &Cache, tree: &Path, progress: Progress<'_>) -> Result<PathBuf, Error> {
    if !cache.dir().join("busybox-arm64").exists() {
        progress("fetching busybox for arm64");
    }
    script(tree, "arm64-busybox", &[cache.dir().as_os_str()]).map(PathBuf::from)
}

/// The directory with Debian's lspci for arm64 and what it needs, each file at its path in the guest.
pub fn lspci(cache: &Cache, tree: &Path, progress: Progress<'_>) -> Result<PathBuf, Error> {
    let _lock = cache.lock("lspci")?;
    if cache.entry("lspci-arm64").is_none() {
        progress("fetching lspci for arm64");
    }
    script(tree, "arm64-lspci", &[cache.dir().as_os_str()]).map(PathBuf::from)
}

/// The directory with Debian's qemu-system-aarch64 for arm64 and the libraries that it loads.
pub fn qemu(cache: &Cache, tree: &Path, progress: Progress<'_>) -> Result<PathBuf, Error> {
    let _lock = cache.lock("qemu")?;
    if cache.entry("qemu-arm64").is_none() {
        progress("fetching QEMU for arm64");
    }
    script(tree, "arm64-qemu", &[cache.dir().as_os_str()]).map(PathBuf::from)
}

/// Fetch the source of `series` (or of the `newest`) into the cache; the result is the series.
pub(crate) fn kernel_source(
    cache: &Cache,
    tree: &Path,
    series: &str,
    progress: Progress<'_>,
) -> Result<String, Error> {
    progress(&format!("looking for the source of Linux {series}"));
    let _lock = cache.lock("source")?;
    script(tree, "kernel-source", &[series.as_ref(), cache.dir().as_os_str()])
}

/// Fetch the distribution's own kernel of `series` (or of the `newest`) into the cache; the result is its directory there.
pub(crate) fn stock_kernel(
    cache: &Cache,
    tree: &Path,
    series: &str,
    progress: Progress<'_>,
) -> Result<PathBuf, Error> {
    progress(&format!("looking for the distribution's own kernel of Linux {series}"));
    let _lock = cache.lock("stock")?;
    script(tree, "stock-kernel", &[series.as_ref(), cache.dir().as_os_str()]).map(PathBuf::from)
}

/// Run a script that puts something into the cache and prints what it is.
fn script(tree: &Path, name: &str, args: &[&std::ffi::OsStr]) -> Result<String, Error> {
    let script = tree.join("scripts").join(name);
    let mut cmd = Command::new(&script);
    cmd.args(args).stdin(Stdio::null());
    let out = cmd.output().map_err(|e| Error::io(format!("run {}", script.display()), e))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&out.stderr).lines().last().unwrap_or("it said nothing").to_owned();
    Err(Error::Script { script, why: said })
}
