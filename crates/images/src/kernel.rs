//! Builds kernels from the distribution's source packages.
//!
//! One build serves as outer and guest kernel and carries every driver variant of its series: the tree is built with
//! one recipe for each driver, then each other variant replaces the one of its driver and only that module is built
//! again.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use crate::cache;
use crate::cache::Cache;
use crate::profile;
use crate::profile::Profile;
use crate::recipe;
use crate::series;
use crate::series::Series;
use crate::source;
use crate::source::Source;
use crate::Error;
use crate::Progress;

/// Space that unpacking and building take, MiB (measured: 2.5 GiB, and the source is packed beside it).
const NEED_MIB: u64 = 3500;
/// Lines of make's output of a whole build; for the percentage only (measured: 6.12.117).
const MAKE_LINES: u64 = 1500;
/// Lines between two progress messages.
const LINES_PER_MESSAGE: u64 = 300;

/// A built kernel.
#[derive(Clone, Debug)]
pub struct Built {
    /// Kernel image.
    pub image: PathBuf,
    /// `uname -r`.
    pub release: String,
    /// Cache key.
    pub key: String,
    dir: PathBuf,
}

impl Built {
    /// What `recipe` made of `module`, a path in the tree.
    pub fn driver(&self, recipe: &str, module: &str) -> PathBuf {
        self.dir.join("drivers").join(recipe).join(Path::new(module).file_name().unwrap_or_default())
    }

    /// The modules that every image of this kernel carries.
    pub fn modules(&self) -> Result<Vec<PathBuf>, Error> {
        files_in(&self.dir.join("modules"))
    }

    /// Programs of the kernel tree for the guest: its tests.
    pub fn tools(&self) -> Result<Vec<PathBuf>, Error> {
        files_in(&self.dir.join("tools"))
    }

    /// What modules outside the tree are built against.
    pub(crate) fn devel(&self) -> PathBuf {
        self.dir.join("devel")
    }
}

/// Files of `dir`, by name.
pub(crate) fn files_in(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io(format!("read {}", dir.display()), e))?;
    let mut files: Vec<_> = entries.flatten().map(|e| e.path()).filter(|p| p.is_file()).collect();
    files.sort_unstable();
    Ok(files)
}

/// Modules of the kernel tree that every image carries, by their paths there (`guest-images/kernel/modules`).
fn shared_modules(tree: &Path) -> Result<Vec<String>, Error> {
    let file = tree.join("guest-images/kernel/modules");
    let text =
        std::fs::read_to_string(&file).map_err(|e| Error::io(format!("read {}", file.display()), e))?;
    Ok(text.lines().filter(|l| !l.starts_with('#') && !l.is_empty()).map(str::to_owned).collect())
}

/// What a module outside the tree needs of the built one, from its top: everything else is compiled into what is there.
const DEVEL: &[&str] = &[
    "Makefile",
    ".config",
    "Module.symvers",
    "include",
    "scripts",
    "arch/arm64/Makefile",
    "arch/arm64/include",
];

/// A test program in the kernel tree.
struct Tool {
    dir: &'static str,
    source: &'static str,
    files: &'static [&'static str],
}

const TOOLS: [Tool; 2] = [
    Tool {
        dir: "tools/testing/selftests/pci_endpoint",
        source: "pci_endpoint_test.c",
        files: &["pci_endpoint_test"],
    },
    Tool { dir: "tools/pci", source: "pcitest.c", files: &["pcitest", "pcitest.sh"] },
];

/// What a build is made of.
pub(crate) struct Plan {
    series: Series,
    config: String,
    drivers: Vec<Driver>,
    modules: Vec<String>,
    key: String,
}

/// A driver variant.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Driver {
    /// Name of its recipe.
    recipe: String,
    /// Module that the recipe makes, from the top of the tree.
    module: String,
}

/// What the tree holds while it is built, one step after the other: one variant of every driver. The first step has the
/// first of each, every further one exchanges one.
fn steps(drivers: &[Driver]) -> Vec<BTreeMap<&str, &Driver>> {
    let mut first = BTreeMap::new();
    let mut further = Vec::new();
    for d in drivers {
        if first.contains_key(d.module.as_str()) {
            further.push(d);
        } else {
            first.insert(d.module.as_str(), d);
        }
    }
    let exchanged = further.into_iter().map(|d| {
        let mut step = first.clone();
        step.insert(&d.module, d);
        step
    });
    let mut steps: Vec<_> = exchanged.collect();
    steps.insert(0, first);
    steps
}

impl Plan {
    /// A build of a developer's tree: one driver, as `profile` has it.
    pub(crate) fn of_tree(tree: &Path, series: Series, profile: &Profile) -> Result<Plan, Error> {
        let recipe = profile.driver.clone();
        let module = recipe::read(tree, &recipe)?.module;
        Ok(Plan {
            series,
            config: config(tree, series)?,
            drivers: vec![Driver { recipe, module }],
            modules: shared_modules(tree)?,
            key: String::new(),
        })
    }
}

fn config(tree: &Path, series: Series) -> Result<String, Error> {
    let file = tree.join("guest-images/kernel/base.config");
    let text =
        std::fs::read_to_string(&file).map_err(|e| Error::io(format!("read {}", file.display()), e))?;
    series::lines_for(&text, series).map_err(|why| Error::Data { file, why })
}

fn plan(tree: &Path, source: &Source, series: Series) -> Result<Plan, Error> {
    let config = config(tree, series)?;
    let (mut recipes, modules) = (Vec::new(), shared_modules(tree)?);
    for name in profile::names(tree)? {
        let p = profile::read(tree, &name)?;
        if p.tree_only || p.stock {
            continue;
        }
        recipes.push(p.driver);
    }
    recipes.sort_unstable();
    recipes.dedup();
    let effects: Vec<Vec<u8>> =
        recipes.iter().map(|r| recipe::effect(tree, r, series)).collect::<Result<_, _>>()?;
    let names = [recipes.join(" "), modules.join(" ")];
    let compiler = first_line(Command::new(format!("{}gcc", cross_compile())).arg("--version"));
    let version = format!("{series} {}", source.version);
    let mut parts: Vec<&[u8]> = vec![version.as_bytes(), config.as_bytes(), compiler.as_bytes()];
    parts.extend(names.iter().map(String::as_bytes));
    parts.extend(effects.iter().map(Vec::as_slice));
    let key = cache::key(parts);
    let drivers = recipes.into_iter().map(|recipe| {
        let module = recipe::read(tree, &recipe)?.module;
        Ok(Driver { recipe, module })
    });
    let drivers = drivers.collect::<Result<_, Error>>()?;
    Ok(Plan { series, config, drivers, modules, key })
}

/// Prefix of the arm64 compiler.
pub fn cross_compile() -> &'static str {
    if cfg!(target_arch = "aarch64") {
        ""
    } else {
        "aarch64-linux-gnu-"
    }
}

/// The first line that a command prints; empty if it cannot run.
pub fn first_line(cmd: &mut Command) -> String {
    let out = cmd.stdin(Stdio::null()).stderr(Stdio::null()).output();
    let text = out.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().next().unwrap_or("").to_owned()
}

fn entry(key: &str) -> String {
    format!("kernel-{key}")
}

/// The build of `series` if it is in the cache.
pub fn find(cache: &Cache, tree: &Path, series: Series) -> Result<Option<Built>, Error> {
    let Some(source) = source::find(cache, series) else { return Ok(None) };
    let key = plan(tree, &source, series)?.key;
    cache.entry(&entry(&key)).map(|dir| open(dir, key)).transpose()
}

pub(crate) fn open(dir: PathBuf, key: String) -> Result<Built, Error> {
    let file = dir.join("release");
    let release =
        std::fs::read_to_string(&file).map_err(|e| Error::io(format!("read {}", file.display()), e))?;
    Ok(Built { image: dir.join("Image"), release: release.trim().into(), key, dir })
}

/// Build `series`, or take it from the cache.
pub fn build(cache: &Cache, tree: &Path, series: Series, progress: Progress<'_>) -> Result<Built, Error> {
    let source = source::need(cache, series)?;
    let plan = plan(tree, &source, series)?;
    if let Some(dir) = cache.entry(&entry(&plan.key)) {
        return open(dir, plan.key);
    }
    let _lock = cache.lock("kernel")?;
    if let Some(dir) = cache.entry(&entry(&plan.key)) {
        return open(dir, plan.key);
    }
    check_space(cache.dir())?;
    let scratch = cache.scratch("kernel")?;
    let out = scratch.join("out");
    let job = Job {
        tree,
        plan: &plan,
        scratch: &scratch,
        pristine: &scratch,
        log: cache.dir().join("kernel-build.log"),
        lenient: false,
    };
    File::create(&job.log).map_err(|e| Error::io(format!("write {}", job.log.display()), e))?;
    job.unpack(&source.tarball, progress)?;
    let originals = job.originals(&BTreeSet::new())?;
    job.make_into(&out, &originals, progress)?;
    let dir = cache.publish(&out, &entry(&plan.key))?;
    std::fs::remove_dir_all(&scratch).map_err(|e| Error::io(format!("remove {}", scratch.display()), e))?;
    open(dir, plan.key)
}

pub(crate) fn check_space(dir: &Path) -> Result<(), Error> {
    let s =
        rustix::fs::statvfs(dir).map_err(|e| Error::io(format!("look at {}", dir.display()), e.into()))?;
    let have_mib = (s.f_bavail.saturating_mul(s.f_frsize)) >> 20;
    if have_mib < NEED_MIB {
        return Err(Error::Disk { dir: dir.into(), have_mib, need_mib: NEED_MIB });
    }
    Ok(())
}

pub(crate) struct Job<'a> {
    /// Our own source tree.
    pub tree: &'a Path,
    pub plan: &'a Plan,
    /// Where the kernel is built.
    pub scratch: &'a Path,
    /// Where its files are as they were before recipes edited them.
    pub pristine: &'a Path,
    /// What the tools say.
    pub log: PathBuf,
    /// Whether the kernel may lack options that we ask for: a developer's own may.
    pub lenient: bool,
}

impl Job<'_> {
    fn unpack(&self, tarball: &Path, progress: Progress<'_>) -> Result<(), Error> {
        progress(&format!("unpacking {}", tarball.display()));
        let mut tar = Command::new("tar");
        tar.arg("xf").arg(tarball).arg("-C").arg(self.scratch).arg("--strip-components=1");
        self.run("tar", &mut tar, &mut |_| {})
    }

    /// Build everything of the plan into `out`. `originals`: see [`Job::originals`].
    pub fn make_into(
        &self,
        out: &Path,
        originals: &BTreeMap<String, String>,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        for dir in ["drivers", "modules", "devel", "tools"] {
            let d = out.join(dir);
            std::fs::create_dir_all(&d).map_err(|e| Error::io(format!("create {}", d.display()), e))?;
        }
        let mut done = BTreeSet::new();
        for (i, step) in steps(&self.plan.drivers).into_iter().enumerate() {
            self.apply(&step, originals)?;
            if i == 0 {
                self.configure(progress)?;
                progress("building the kernel: 5 to 10 minutes on 2 cores, once");
                self.make_all(progress)?;
            }
            for Driver { recipe, module } in step.into_values() {
                if !done.insert(recipe) {
                    continue;
                }
                if i > 0 {
                    self.make(&[module], &mut |_| {})?;
                }
                let to = out.join("drivers").join(recipe);
                std::fs::create_dir_all(&to).map_err(|e| Error::io(format!("create {}", to.display()), e))?;
                self.take_module(module, &to)?;
                progress(&format!("built {recipe}"));
            }
        }
        for module in &self.plan.modules {
            // A developer's own kernel may lack a driver; the cycle that needs it says so.
            if self.lenient && !self.scratch.join(module).is_file() {
                continue;
            }
            self.take_module(module, &out.join("modules"))?;
        }
        self.take_devel(&out.join("devel"))?;
        self.make_tools(&out.join("tools"), progress)?;
        let copies = [
            ("arch/arm64/boot/Image", "Image"),
            ("System.map", "System.map"),
            (".config", "config"),
            ("include/config/kernel.release", "release"),
        ];
        for (from, to) in copies {
            let from = self.scratch.join(from);
            std::fs::copy(&from, out.join(to))
                .map_err(|e| Error::io(format!("copy {}", from.display()), e))?;
        }
        self.take_vmlinux(out)
    }

    /// The kernel with its DWARF, for drgn, crash and gdb on a core. Compressed sections are a third of the size, and all three
    /// read them.
    fn take_vmlinux(&self, out: &Path) -> Result<(), Error> {
        let mut objcopy = Command::new(format!("{}objcopy", cross_compile()));
        objcopy
            .arg("--compress-debug-sections=zlib")
            .arg(self.scratch.join("vmlinux"))
            .arg(out.join("vmlinux"));
        self.run("objcopy of vmlinux", &mut objcopy, &mut |_| {})
    }

    /// Pristine text of every file that a recipe of this build edits, and of those `edited` by an earlier one.
    pub fn originals(&self, edited: &BTreeSet<String>) -> Result<BTreeMap<String, String>, Error> {
        let read = |file: &str| {
            let path = self.pristine.join(file);
            std::fs::read_to_string(&path).map_err(|e| Error::io(format!("read {}", path.display()), e))
        };
        let still_there = edited.iter().filter(|f| self.pristine.join(f).is_file());
        let mut originals: BTreeMap<_, _> =
            still_there.map(|f| Ok((f.clone(), read(f)?))).collect::<Result<_, Error>>()?;
        for driver in &self.plan.drivers {
            for file in recipe::apply(self.tree, &driver.recipe, self.plan.series, &read)?.into_keys() {
                let text = read(&file)?;
                originals.insert(file, text);
            }
        }
        Ok(originals)
    }

    /// Lay the recipes of `step` one on the other: those of two drivers may edit the same file.
    fn apply(
        &self,
        step: &BTreeMap<&str, &Driver>,
        originals: &BTreeMap<String, String>,
    ) -> Result<(), Error> {
        let mut files = originals.clone();
        for driver in step.values() {
            let so_far = |file: &str| Ok(files.get(file).cloned().unwrap_or_default());
            let edited = recipe::apply(self.tree, &driver.recipe, self.plan.series, &so_far)?;
            files.extend(edited);
        }
        for (file, text) in files {
            let path = self.scratch.join(&file);
            // An unchanged file keeps its time, and make does not look at it again.
            if std::fs::read_to_string(&path).is_ok_and(|now| now == text) {
                continue;
            }
            std::fs::write(&path, text).map_err(|e| Error::io(format!("write {}", path.display()), e))?;
        }
        Ok(())
    }

    fn configure(&self, progress: Progress<'_>) -> Result<(), Error> {
        let fragment = self.scratch.join("rcvm.config");
        std::fs::write(&fragment, &self.plan.config)
            .map_err(|e| Error::io(format!("write {}", fragment.display()), e))?;
        self.make(&["allnoconfig", "KCONFIG_ALLCONFIG=rcvm.config"], &mut |_| {})?;
        let got = self.scratch.join(".config");
        let got =
            std::fs::read_to_string(&got).map_err(|e| Error::io(format!("read {}", got.display()), e))?;
        let missing = options_not_taken(&self.plan.config, &got);
        if missing.is_empty() {
            return Ok(());
        }
        let why = format!("this kernel does not take {}", missing.join(", "));
        if self.lenient {
            progress(&why);
            return Ok(());
        }
        Err(Error::Data { file: self.tree.join("guest-images/kernel/base.config"), why })
    }

    fn make_all(&self, progress: Progress<'_>) -> Result<(), Error> {
        let mut lines = 0;
        self.make(&["Image", "modules"], &mut |_| {
            lines += 1;
            if lines % LINES_PER_MESSAGE == 0 {
                progress(&format!("building the kernel: {}%", (lines * 100 / MAKE_LINES).min(99)));
            }
        })
    }

    fn make(&self, targets: &[&str], line: &mut dyn FnMut(&str)) -> Result<(), Error> {
        let jobs = std::thread::available_parallelism().map_or(2, usize::from);
        let mut make = Command::new("make");
        make.current_dir(self.scratch)
            .arg(format!("-j{jobs}"))
            .args([
                "ARCH=arm64",
                "KBUILD_BUILD_USER=rcvm",
                "KBUILD_BUILD_HOST=rcvm",
                "KBUILD_BUILD_TIMESTAMP=@0",
            ])
            .arg(format!("CROSS_COMPILE={}", cross_compile()))
            .args(targets);
        self.run(&format!("make {}", targets.join(" ")), &mut make, line)
    }

    fn take_module(&self, module: &str, dir: &Path) -> Result<(), Error> {
        let from = self.scratch.join(module);
        if !from.is_file() {
            return Err(Error::Missing {
                what: format!("{module} in the built kernel"),
                remedy: "its driver has to be a module: a Kconfig option of type tristate".into(),
            });
        }
        strip(&from, dir, &self.log)
    }

    fn take_devel(&self, dir: &Path) -> Result<(), Error> {
        let mut cp = Command::new("cp");
        cp.current_dir(self.scratch).args(["-a", "--parents"]).args(DEVEL).arg(dir);
        self.run("copy of what modules are built against", &mut cp, &mut |_| {})
    }

    /// The tree's own test programs of pci_endpoint_test, as they are: selftests from 6.15 on, tools/pci before.
    fn make_tools(&self, dir: &Path, progress: Progress<'_>) -> Result<(), Error> {
        let Some(tool) = TOOLS.iter().find(|t| self.scratch.join(t.dir).join(t.source).is_file()) else {
            return Ok(());
        };
        progress(&format!("building {}", tool.dir));
        self.make(&["headers"], &mut |_| {})?;
        let mut make = Command::new("make");
        make.current_dir(self.scratch)
            .args(["-C", tool.dir, "ARCH=arm64", "LDFLAGS=-static"])
            .arg(format!("CROSS_COMPILE={}", cross_compile()));
        self.run(&format!("make -C {}", tool.dir), &mut make, &mut |_| {})?;
        for file in tool.files {
            let from = self.scratch.join(tool.dir).join(file);
            std::fs::copy(&from, dir.join(file))
                .map_err(|e| Error::io(format!("copy {}", from.display()), e))?;
        }
        Ok(())
    }

    fn run(&self, what: &str, cmd: &mut Command, line: &mut dyn FnMut(&str)) -> Result<(), Error> {
        run_logged(what, cmd, &self.log, line)
    }
}

/// Strip `file` of its debug sections (BTF stays) into `dir`.
pub(crate) fn strip(file: &Path, dir: &Path, log: &Path) -> Result<(), Error> {
    let mut strip = Command::new(format!("{}strip", cross_compile()));
    strip.arg("--strip-debug").arg("-o").arg(dir.join(file.file_name().unwrap_or_default())).arg(file);
    run_logged(&format!("strip {}", file.display()), &mut strip, log, &mut |_| {})
}

/// Run a step of a build; what it says is appended to `log` and, line by line, handed to `line`.
pub(crate) fn run_logged(
    what: &str,
    cmd: &mut Command,
    log: &Path,
    line: &mut dyn FnMut(&str),
) -> Result<(), Error> {
    let open = || File::options().create(true).append(true).open(log);
    let log_err = |e| Error::io(format!("write {}", log.display()), e);
    let mut out = open().map_err(log_err)?;
    let errors = open().map_err(log_err)?;
    let mut child = cmd
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(errors)
        .spawn()
        .map_err(|e| Error::io(format!("run {:?}", cmd.get_program()), e))?;
    if let Some(text) = child.stdout.take() {
        for l in BufReader::new(text).lines().map_while(Result::ok) {
            writeln!(out, "{l}").map_err(log_err)?;
            line(&l);
        }
    }
    let status = child.wait().map_err(|e| Error::io(format!("wait for {what}"), e))?;
    if status.success() {
        return Ok(());
    }
    let text = std::fs::read(log).unwrap_or_default();
    let tail = cause(&String::from_utf8_lossy(&text));
    Err(Error::Build { what: what.into(), log: log.into(), tail })
}

/// The line of a build's output that says why it failed, as well as can be told; else its last lines.
fn cause(text: &str) -> String {
    let tells =
        |l: &&str| ["error:", "not found", "No such file", "No space left"].iter().any(|w| l.contains(w));
    if let Some(line) = text.lines().find(tells) {
        return line.trim().to_owned();
    }
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(3)..].join(" | ")
}

/// Options of `wanted` that `got` does not have as asked for.
fn options_not_taken(wanted: &str, got: &str) -> Vec<String> {
    let has = |line: &str| got.lines().any(|l| l == line);
    wanted
        .lines()
        .map(str::trim)
        .filter(|l| l.starts_with("CONFIG_"))
        .filter(|l| match l.strip_suffix("=n") {
            Some(option) => got.lines().any(|g| g.starts_with(&format!("{option}="))),
            None => !has(l),
        })
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_has_a_step_beside_the_first_of_the_other_drivers() {
        let driver = |recipe: &str, module: &str| Driver { recipe: recipe.into(), module: module.into() };
        let drivers =
            [driver("a1", "a.ko"), driver("a2", "a.ko"), driver("b1", "b.ko"), driver("a3", "a.ko")];
        let steps = steps(&drivers);
        let names: Vec<Vec<&str>> =
            steps.iter().map(|s| s.values().map(|d| d.recipe.as_str()).collect()).collect();
        assert_eq!(names, [["a1", "b1"], ["a2", "b1"], ["a3", "b1"]]);
    }

    #[test]
    fn options_that_did_not_take_are_listed() {
        let got = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\nCONFIG_E=y\n";
        let wanted = "# comment\nCONFIG_A=y\nCONFIG_B=y\nCONFIG_C=y\nCONFIG_D=n\nCONFIG_E=n\n";
        assert_eq!(options_not_taken(wanted, got), ["CONFIG_B=y", "CONFIG_C=y", "CONFIG_E=n"]);
    }

    #[test]
    fn the_line_that_tells_why_is_found_among_what_came_after() {
        let log =
            "  GEN x\n/usr/bin/env: 'python3': No such file or directory\nmake[4]: *** Error 127\n  CC y\n";
        assert_eq!(cause(log), "/usr/bin/env: 'python3': No such file or directory");
        assert_eq!(cause("a\nb\nc\nd"), "b | c | d");
    }

    #[test]
    fn a_missing_tool_prints_nothing() {
        assert_eq!(first_line(&mut Command::new("rcvm-no-such-program")), "");
    }
}
