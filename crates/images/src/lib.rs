//! Guest images: kernels, driver recipes, initramfs, and what a host needs to build them.
//!
//! What a profile is stands in `guest-images/` of the source tree; what was built from it lies in the cache, keyed by
//! everything that went into it. Nothing here runs as another user or touches the system: packages are installed by
//! `scripts/setup`, and said there.
#![forbid(unsafe_code)]

pub mod cache;
pub mod cpio;
pub mod cross;
pub mod doctor;
mod error;
mod extra;
pub mod kernel;
pub mod kernel_tree;
pub mod profile;
pub mod recipe;
pub mod series;
pub mod source;
mod stock;

use std::path::Path;
use std::path::PathBuf;

pub use error::Error;
pub use series::Series;

/// Called with one line of progress.
pub type Progress<'a> = &'a mut dyn FnMut(&str);

/// A built guest image.
#[derive(Clone, Debug)]
pub struct Image {
    /// Profile name.
    pub profile: String,
    /// Kernel release, as `uname -r` will say.
    pub release: String,
    /// Kernel image.
    pub kernel: PathBuf,
    /// Kernel that boots the outer machine of the nested mode: one of our own builds.
    pub outer_kernel: PathBuf,
    /// Modules of that kernel.
    pub outer_modules: Vec<PathBuf>,
    /// Initramfs: agent and modules.
    pub initramfs: PathBuf,
    /// The agent, static arm64.
    pub agent: PathBuf,
    /// This program's worker, static arm64.
    pub worker: PathBuf,
    /// Modules in the initramfs, and lists of them if they have dependencies.
    pub modules: Vec<PathBuf>,
    /// The kernel's own test programs for the guest.
    pub tools: Vec<PathBuf>,
    /// Key of the kernel build.
    pub key: String,
}

/// The source tree that this program was built from.
pub fn source_tree() -> Result<PathBuf, Error> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if root.join("guest-images").is_dir() {
        return root.canonicalize().map_err(|e| Error::io("find the source tree", e));
    }
    Err(Error::Missing {
        what: format!("the source tree that rcvm was built from ({})", root.display()),
        remedy: "build rcvm again where its source is now (cargo build -p rcvm)".into(),
    })
}

/// Names of all profiles that are built from a packaged series.
pub fn profiles() -> Result<Vec<String>, Error> {
    let tree = source_tree()?;
    let mut names = profile::names(&tree)?;
    names.retain(|n| profile::read(&tree, n).is_ok_and(|p| !p.tree_only));
    Ok(names)
}

/// Profiles about the driver module `module`, e.g. `pcie-qcom`; the one that is taken if none is named comes first.
pub fn profiles_of(module: &str) -> Result<Vec<String>, Error> {
    profile::of_module(&source_tree()?, module)
}

/// The driver module that `profile` is about.
pub fn driver_module(profile: &str) -> Result<String, Error> {
    profile::driver_module(&source_tree()?, profile)
}

/// Whether `profile` is the distribution's own kernel.
pub fn is_stock(profile: &str) -> Result<bool, Error> {
    Ok(profile::read(&source_tree()?, profile)?.stock)
}

/// The series that `name` stands for, of the distribution's own kernels; see [`series()`].
pub fn stock_series(name: &str, refresh: bool, progress: Progress<'_>) -> Result<Series, Error> {
    match name {
        "newest" => stock::newest(&cache::Cache::locate()?, &source_tree()?, refresh, progress),
        _ => name.parse().map_err(|why| Error::Series { why }),
    }
}

/// The series that `name` stands for: two numbers, or `newest`; its source is fetched if it is not on this machine.
/// `newest` stays what it was until `refresh` asks for it again.
pub fn series(name: &str, refresh: bool, progress: Progress<'_>) -> Result<Series, Error> {
    let cache = cache::Cache::locate()?;
    let wrong = |why: String| Error::Series { why };
    let newest = cache.dir().join("newest");
    let known = match name {
        "newest" if refresh => None,
        "newest" => std::fs::read_to_string(&newest).ok().and_then(|s| s.trim().parse().ok()),
        _ => Some(name.parse().map_err(wrong)?),
    };
    if let Some(series) = known.filter(|s| source::find(&cache, *s).is_some()) {
        return Ok(series);
    }
    let series = cross::kernel_source(&cache, &source_tree()?, name, progress)?.parse().map_err(wrong)?;
    if name == "newest" {
        std::fs::write(&newest, format!("{series}\n"))
            .map_err(|e| Error::io(format!("write {}", newest.display()), e))?;
    }
    Ok(series)
}

/// Build what `profile` of `series` needs; quick if it is all there.
pub fn build(profile: &str, series: Series, progress: Progress<'_>) -> Result<Image, Error> {
    let tree = source_tree()?;
    let p = profile::read(&tree, profile)?;
    if p.tree_only {
        return Err(Error::Missing {
            what: format!("a kernel tree for profile {profile}"),
            remedy: "give one with --kernel-tree DIR, or another --profile".into(),
        });
    }
    let cache = cache::Cache::locate()?;
    if p.stock {
        let outer = kernel::build(&cache, &tree, series::DEFAULT, progress)?;
        let package = stock::fetch(&cache, &tree, series, progress)?;
        let modules = stock::modules(&cache, &package, progress)?;
        let bins = cross::build(&cache, &tree, progress)?;
        return finish_stock(&cache, profile, &outer, &package, modules, &bins);
    }
    let built = kernel::build(&cache, &tree, series, progress)?;
    let own = extra::build(&cache, &tree, &built, progress)?;
    let bins = cross::build(&cache, &tree, progress)?;
    finish(&tree, &cache, profile, &p, &built, own, &bins)
}

/// Build what `profile` needs from the kernel tree in `dir`.
pub fn build_tree(profile: &str, dir: &Path, progress: Progress<'_>) -> Result<Image, Error> {
    let tree = source_tree()?;
    let p = profile::read(&tree, profile)?;
    if p.stock {
        return Err(Error::Missing {
            what: format!("a driver in profile {profile}, which is the distribution's own kernel,"),
            remedy: "give another --profile with --kernel-tree".into(),
        });
    }
    let cache = cache::Cache::locate()?;
    let built = kernel_tree::build(&cache, &tree, dir, &p, progress)?;
    let own = extra::build(&cache, &tree, &built, progress)?;
    let bins = cross::build(&cache, &tree, progress)?;
    finish(&tree, &cache, profile, &p, &built, own, &bins)
}

/// The series of the kernel tree in `dir`.
pub fn tree_series(dir: &Path) -> Result<Series, Error> {
    kernel_tree::series(dir)
}

/// The image of `profile` of `series` if its kernel is built and its programs are too.
pub fn find(profile: &str, series: Series) -> Result<Option<Image>, Error> {
    let tree = source_tree()?;
    let p = profile::read(&tree, profile)?;
    if p.tree_only {
        return Ok(None);
    }
    let cache = cache::Cache::locate()?;
    if p.stock {
        return find_stock(&tree, &cache, profile, series);
    }
    let (Some(built), Some(bins)) = (kernel::find(&cache, &tree, series)?, cross::find(&cache, &tree)) else {
        return Ok(None);
    };
    let Some(own) = extra::find(&cache, &tree, &built)? else { return Ok(None) };
    finish(&tree, &cache, profile, &p, &built, own, &bins).map(Some)
}

fn find_stock(tree: &Path, cache: &cache::Cache, name: &str, series: Series) -> Result<Option<Image>, Error> {
    let outer = kernel::find(cache, tree, series::DEFAULT)?;
    let (Some(outer), Some(package), Some(bins)) =
        (outer, stock::find(cache, series)?, cross::find(cache, tree))
    else {
        return Ok(None);
    };
    let Some(modules) = stock::find_modules(cache, &package)? else { return Ok(None) };
    finish_stock(cache, name, &outer, &package, modules, &bins).map(Some)
}

fn finish_stock(
    cache: &cache::Cache,
    name: &str,
    outer: &kernel::Built,
    package: &stock::Package,
    modules: Vec<PathBuf>,
    bins: &cross::Binaries,
) -> Result<Image, Error> {
    let bytes = initramfs(&bins.agent, &modules, name)?;
    Ok(Image {
        profile: name.into(),
        release: package.release.clone(),
        kernel: package.image(),
        outer_kernel: outer.image.clone(),
        outer_modules: outer.modules()?,
        initramfs: cache.put(&format!("initramfs-{name}"), "cpio", &bytes)?,
        agent: bins.agent.clone(),
        worker: bins.worker.clone(),
        modules,
        tools: Vec::new(),
        key: package.version.clone(),
    })
}

fn finish(
    tree: &Path,
    cache: &cache::Cache,
    name: &str,
    p: &profile::Profile,
    built: &kernel::Built,
    own: Vec<PathBuf>,
    bins: &cross::Binaries,
) -> Result<Image, Error> {
    let driver = recipe::read(tree, &p.driver)?;
    let mut modules = vec![built.driver(&p.driver, &driver.module)];
    modules.extend(built.modules()?);
    modules.extend(own);
    let bytes = initramfs(&bins.agent, &modules, name)?;
    let file = cache.put(&format!("initramfs-{name}"), "cpio", &bytes)?;
    Ok(Image {
        profile: name.into(),
        release: built.release.clone(),
        kernel: built.image.clone(),
        outer_kernel: built.image.clone(),
        outer_modules: built.modules()?,
        initramfs: file,
        agent: bins.agent.clone(),
        worker: bins.worker.clone(),
        modules,
        tools: built.tools()?,
        key: built.key.clone(),
    })
}

/// An initramfs with `agent` as /init and `modules` in /lib/modules/rcvm; `name` goes to /rcvm-image.
pub fn initramfs(agent: &Path, modules: &[PathBuf], name: &str) -> Result<Vec<u8>, Error> {
    Ok(base(agent, modules, name)?.finish())
}

fn base(agent: &Path, modules: &[PathBuf], name: &str) -> Result<cpio::Archive, Error> {
    let mut a = cpio::Archive::new();
    for dir in ["dev", "mnt", "proc", "sys", "tmp", "lib", "lib/modules", "lib/modules/rcvm"] {
        a.dir(dir);
    }
    a.char_device("dev/console", 0o600, 5, 1);
    // A console may come late; without /dev/null a Rust program that has no standard output aborts at its start.
    a.char_device("dev/null", 0o666, 1, 3);
    a.file("init", 0o755, &read(agent)?);
    a.file("rcvm-image", 0o644, name.as_bytes());
    for m in modules {
        let file = m.file_name().and_then(|n| n.to_str()).unwrap_or("module.ko");
        a.file(&format!("lib/modules/rcvm/{file}"), 0o644, &read(m)?);
    }
    Ok(a)
}

/// What an initramfs can hold beside the agent and its modules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extra {
    /// The distribution's busybox with what a shell's user expects of it.
    Shell,
    /// The kernel's own test programs, and what the script among them calls.
    Selftest,
    /// The distribution's lspci, which takes the place of busybox' own.
    Lspci,
}

/// The initramfs of `image` with `extras` in it; without any it is the image's own contents. About 9 MB more are loaded with
/// [`Extra::Lspci`], so only what runs it should ask for it.
pub fn initramfs_with(image: &Image, extras: &[Extra], progress: Progress<'_>) -> Result<PathBuf, Error> {
    let (cache, tree) = (cache::Cache::locate()?, source_tree()?);
    let mut a = base(&image.agent, &image.modules, &image.profile)?;
    a.dir("bin");
    let mut applets: Vec<&str> = Vec::new();
    let mut name = format!("initramfs-{}", image.profile);
    for extra in extras {
        match extra {
            Extra::Shell => {
                applets.extend(SHELL_APPLETS);
                name += "-shell";
            }
            Extra::Selftest => {
                applets.extend(SELFTEST_APPLETS);
                files(&mut a, "bin", &image.tools)?;
                name += "-selftest";
            }
            Extra::Lspci => {
                lspci(&mut a, &cross::lspci(&cache, &tree, progress)?)?;
                module_index(&mut a, &image.release);
                name += "-lspci";
            }
        }
    }
    if extras.contains(&Extra::Lspci) {
        applets.retain(|n| *n != "lspci");
    }
    applets.sort_unstable();
    applets.dedup();
    if !applets.is_empty() {
        a.file("bin/busybox", 0o755, &read(&cross::busybox(&cache, &tree, progress)?)?);
    }
    for applet in applets {
        a.symlink(&format!("bin/{applet}"), "busybox");
    }
    cache.put(&name, "cpio", &a.finish())
}

/// The directory of an arm64 QEMU that runs anywhere on arm64, by its own loader.
pub fn qemu(progress: Progress<'_>) -> Result<PathBuf, Error> {
    cross::qemu(&cache::Cache::locate()?, &source_tree()?, progress)
}

/// lspci, its libraries and the names of devices, from where `scripts/arm64-lspci` put them.
fn lspci(a: &mut cpio::Archive, dir: &Path) -> Result<(), Error> {
    for parent in ["usr", "usr/share", "usr/share/misc"] {
        a.dir(parent);
    }
    for place in ["bin", "lib", "usr/share/misc"] {
        files(a, place, &kernel::files_in(&dir.join(place))?)?;
    }
    Ok(())
}

/// An index of no modules: magic, version 2.1, no root (kmod, libkmod/libkmod-index.c).
const NO_MODULES: [u8; 12] = [0xb0, 0x07, 0xf4, 0x57, 0, 2, 0, 1, 0, 0, 0, 0];

/// What lspci asks libkmod for the modules that would fit a device. The guest's modules are loaded by their names, so there is no
/// index of them; without any file lspci complains in the middle of its output.
fn module_index(a: &mut cpio::Archive, release: &str) {
    let dir = format!("lib/modules/{release}");
    a.dir(&dir);
    for index in ["dep", "alias", "symbols", "builtin"] {
        a.file(&format!("{dir}/modules.{index}.bin"), 0o644, &NO_MODULES);
    }
}

fn files(a: &mut cpio::Archive, place: &str, from: &[PathBuf]) -> Result<(), Error> {
    for path in from {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or("file");
        a.file(&format!("{place}/{name}"), 0o755, &read(path)?);
    }
    Ok(())
}

const SELFTEST_APPLETS: [&str; 4] = ["sh", "echo", "expr", "["];

const SHELL_APPLETS: [&str; 29] = [
    "ash", "cat", "cp", "cut", "dd", "dmesg", "echo", "find", "free", "grep", "head", "hexdump", "insmod",
    "kill", "ls", "lsmod", "lspci", "mkdir", "mke2fs", "more", "mount", "ps", "rm", "rmmod", "sed", "sh",
    "sleep", "tail", "top",
];

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(file).map_err(|e| Error::io(format!("read {}", file.display()), e))
}
