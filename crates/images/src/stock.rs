//! The distribution's own arm64 kernel, unmodified, out of its package (`scripts/stock-kernel`).
//!
//! Its modules are packed and have dependencies: those that guests of ours use are unpacked once, with whatever they need,
//! beside three lists for the agent: `modules.dep` (what has to be loaded before each, in order), `modules.builtin` and
//! `modules.boot` (what to load before anything else: in such a kernel the result channel is a module).

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use object::elf::FileHeader64;
use object::read::elf::ElfFile;
use object::LittleEndian;
use object::Object;
use object::ObjectSection;

use crate::cache;
use crate::cache::Cache;
use crate::cross;
use crate::kernel::first_line;
use crate::series::Series;
use crate::Error;
use crate::Progress;

/// Loaded at boot as far as the kernel has them as modules: the result channel, then what our machine's device tree needs beside
/// the host bridge, then drivers that an image of ours has built in.
const BOOT: &[&str] =
    &["virtio_mmio", "virtio_console", "phy-qcom-pcie2", "fixed", "virtio_pci", "virtio_net"];

/// Loaded when the host asks: host bridges and drivers of our cards.
const ON_DEMAND: &[&str] = &[
    "pci-host-generic",
    "pcie-qcom",
    "pcie-dw-rockchip",
    "pcie-designware-plat",
    "pci_endpoint_test",
    "nvme-core",
    "nvme",
    "virtio_blk",
    "virtio-rng",
    "8250_pci",
    "ext2",
];

/// Host bridge drivers that cannot be modules: `modules.builtin` does not list them, the configuration does.
const BOOL_DRIVERS: &[(&str, &str)] = &[
    ("CONFIG_PCIE_QCOM=y", "pcie-qcom"),
    ("CONFIG_PCIE_ROCKCHIP_DW_HOST=y", "pcie-dw-rockchip"),
    ("CONFIG_PCIE_DW_PLAT_HOST=y", "pcie-designware-plat"),
];

/// A kernel package's contents, in the cache.
#[derive(Clone, Debug)]
pub(crate) struct Package {
    /// `uname -r`.
    pub release: String,
    /// Version of the package.
    pub version: String,
    dir: PathBuf,
}

impl Package {
    /// The kernel.
    pub fn image(&self) -> PathBuf {
        self.dir.join("vmlinuz")
    }
}

fn line_of(file: &Path) -> Result<String, Error> {
    let text = std::fs::read_to_string(file).map_err(|e| Error::io(format!("read {}", file.display()), e))?;
    Ok(text.trim().to_owned())
}

fn open(dir: PathBuf) -> Result<Package, Error> {
    Ok(Package { release: line_of(&dir.join("release"))?, version: line_of(&dir.join("version"))?, dir })
}

/// The package of `series` if it is in the cache.
pub(crate) fn find(cache: &Cache, series: Series) -> Result<Option<Package>, Error> {
    cache.entry(&format!("stock-{series}")).map(open).transpose()
}

/// The same, fetched if it is not there.
pub(crate) fn fetch(
    cache: &Cache,
    tree: &Path,
    series: Series,
    progress: Progress<'_>,
) -> Result<Package, Error> {
    if let Some(package) = find(cache, series)? {
        return Ok(package);
    }
    open(cross::stock_kernel(cache, tree, &series.to_string(), progress)?)
}

/// The newest series that the distribution has a kernel package of; it stays what it was until `refresh`.
pub(crate) fn newest(
    cache: &Cache,
    tree: &Path,
    refresh: bool,
    progress: Progress<'_>,
) -> Result<Series, Error> {
    let file = cache.dir().join("newest-stock");
    let known = std::fs::read_to_string(&file).ok().and_then(|s| s.trim().parse().ok());
    if let Some(series) = known.filter(|_| !refresh) {
        return Ok(series);
    }
    let dir = cross::stock_kernel(cache, tree, "newest", progress)?;
    let series = dir.file_name().and_then(|n| n.to_str()).and_then(|n| n.strip_prefix("stock-"));
    let series: Series =
        series.unwrap_or_default().parse().map_err(|why| Error::Data { file: dir.clone(), why })?;
    std::fs::write(&file, format!("{series}\n"))
        .map_err(|e| Error::io(format!("write {}", file.display()), e))?;
    Ok(series)
}

fn entry(package: &Package) -> String {
    let lists = [BOOT, ON_DEMAND].concat().join(" ");
    let parts = [FORMAT, &package.release, &package.version, &lists];
    format!("stock-modules-{}", cache::key(parts.map(str::as_bytes)))
}

/// Changes with the format of the lists.
const FORMAT: &str = "1";

/// The unpacked modules and their lists, for an initramfs, if they are there.
pub(crate) fn find_modules(cache: &Cache, package: &Package) -> Result<Option<Vec<PathBuf>>, Error> {
    cache.entry(&entry(package)).map(|dir| crate::kernel::files_in(&dir)).transpose()
}

/// The same, unpacked if they are not.
pub(crate) fn modules(
    cache: &Cache,
    package: &Package,
    progress: Progress<'_>,
) -> Result<Vec<PathBuf>, Error> {
    if let Some(files) = find_modules(cache, package)? {
        return Ok(files);
    }
    let _lock = cache.lock("stock-modules")?;
    progress(&format!("unpacking modules of Linux {}", package.release));
    let out = cache.scratch("stock-modules")?;
    let put = |name: &str, bytes: &[u8]| {
        let file = out.join(name);
        std::fs::write(&file, bytes).map_err(|e| Error::io(format!("write {}", file.display()), e))
    };
    let packed = packed(&package.dir.join("modules"))?;
    let mut unpacked = BTreeMap::new();
    for name in BOOT.iter().chain(ON_DEMAND) {
        unpack(&kernel_name(name), &packed, &mut unpacked)?;
    }
    for module in unpacked.values() {
        put(&format!("{}.ko", module.file), &module.bytes)?;
    }
    let builtin = builtin(&package.dir)?;
    let wanted = |name: &&&str| unpacked.contains_key(&kernel_name(name));
    let boot: Vec<&str> = BOOT.iter().filter(wanted).copied().collect();
    put("modules.dep", dep_list(&unpacked).as_bytes())?;
    put("modules.boot", lines(&boot).as_bytes())?;
    put("modules.builtin", lines(&builtin).as_bytes())?;
    let name = entry(package);
    let dir = match cache.entry(&name) {
        Some(dir) => dir,
        None => cache.publish(&out, &name)?,
    };
    crate::kernel::files_in(&dir)
}

fn lines(names: &[impl AsRef<str>]) -> String {
    names.iter().map(|n| format!("{}\n", n.as_ref())).collect()
}

/// The kernel writes names of modules with underscores.
fn kernel_name(file: &str) -> String {
    file.replace('-', "_")
}

/// A module that was unpacked.
struct Module {
    /// Its file's name without suffix.
    file: String,
    bytes: Vec<u8>,
    /// Modules that it needs, by their names in the kernel.
    needs: Vec<String>,
}

/// Packed modules below `dir`, by their names in the kernel.
fn packed(dir: &Path) -> Result<BTreeMap<String, PathBuf>, Error> {
    let mut all = BTreeMap::new();
    let entries = std::fs::read_dir(dir).map_err(|e| Error::io(format!("read {}", dir.display()), e))?;
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(packed(&path)?);
        } else if let Some(stem) = stem(&path) {
            all.insert(kernel_name(stem), path);
        }
    }
    Ok(all)
}

/// `virtio_mmio` of `…/virtio_mmio.ko.xz` and of `…/virtio_mmio.ko`.
fn stem(path: &Path) -> Option<&str> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".xz").unwrap_or(name).strip_suffix(".ko")
}

/// Unpack the module `name` and whatever it needs into `to`; one that is not there is not.
fn unpack(
    name: &str,
    packed: &BTreeMap<String, PathBuf>,
    to: &mut BTreeMap<String, Module>,
) -> Result<(), Error> {
    let mut wanted = vec![name.to_owned()];
    while let Some(name) = wanted.pop() {
        let Some(path) = packed.get(&name).filter(|_| !to.contains_key(&name)) else { continue };
        let bytes = read(path)?;
        let needs = needs(&bytes)
            .ok_or_else(|| Error::Data { file: path.clone(), why: "not an arm64 kernel module".into() })?;
        wanted.extend(needs.iter().cloned());
        let file = stem(path).unwrap_or(&name).to_owned();
        to.insert(name, Module { file, bytes, needs });
    }
    Ok(())
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    if path.extension().is_none_or(|e| e != "xz") {
        return super::read(path);
    }
    if first_line(Command::new("xz").arg("--version")).is_empty() {
        return Err(Error::Missing {
            what: "xz".into(),
            remedy: "apt-get install xz-utils, or scripts/setup".into(),
        });
    }
    let out = Command::new("xz").arg("-dc").arg(path).output();
    let out = out.map_err(|e| Error::io(format!("unpack {}", path.display()), e))?;
    if out.status.success() {
        return Ok(out.stdout);
    }
    let why = String::from_utf8_lossy(&out.stderr).trim().to_owned();
    Err(Error::Data { file: path.into(), why })
}

/// `depends=` of a module's .modinfo (Linux Documentation/kbuild/modules.rst: depmod reads symbols, which say the same).
fn needs(elf: &[u8]) -> Option<Vec<String>> {
    let file = ElfFile::<FileHeader64<LittleEndian>>::parse(elf).ok()?;
    let info = file.section_by_name(".modinfo")?.data().ok()?;
    let text = String::from_utf8_lossy(info).into_owned();
    let needs = text.split('\0').find_map(|l| l.strip_prefix("depends=")).unwrap_or("");
    Some(needs.split(',').filter(|n| !n.is_empty()).map(kernel_name).collect())
}

/// What a kernel has built in, by the names that files of modules would have, without suffix.
fn builtin(package: &Path) -> Result<Vec<String>, Error> {
    let text = |name: &str| {
        let file = package.join(name);
        std::fs::read_to_string(&file).map_err(|e| Error::io(format!("read {}", file.display()), e))
    };
    let list = text("modules/modules.builtin")?;
    let config = text("config")?;
    let drivers = BOOL_DRIVERS.iter().filter(|(option, _)| config.lines().any(|l| l == *option));
    let names = list.lines().filter_map(|l| stem(Path::new(l))).chain(drivers.map(|d| d.1));
    Ok(names.map(str::to_owned).collect())
}

/// A line a module: its file, then the files to load before it, in order.
fn dep_list(modules: &BTreeMap<String, Module>) -> String {
    let mut text = String::new();
    for (name, module) in modules {
        let mut before = Vec::new();
        order(name, modules, &mut before);
        before.pop();
        let files: Vec<&str> = before.iter().filter_map(|n| Some(modules.get(*n)?.file.as_str())).collect();
        text.push_str(&format!("{}: {}\n", module.file, files.join(" ")));
    }
    text
}

/// `name` behind all that it needs. The kernel's modules have no cycles; a package that has one ends here all the same.
fn order<'a>(name: &'a str, modules: &'a BTreeMap<String, Module>, out: &mut Vec<&'a str>) {
    fn visit<'a>(
        name: &'a str,
        modules: &'a BTreeMap<String, Module>,
        seen: &mut Vec<&'a str>,
        out: &mut Vec<&'a str>,
    ) {
        let Some(module) = modules.get(name).filter(|_| !seen.contains(&name)) else { return };
        seen.push(name);
        for n in &module.needs {
            visit(n, modules, seen, out);
        }
        out.push(name);
    }
    visit(name, modules, &mut Vec::new(), out);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(all: &[(&str, &[&str])]) -> BTreeMap<String, Module> {
        let module = |file: &str, needs: &[&str]| Module {
            file: file.into(),
            bytes: Vec::new(),
            needs: needs.iter().map(|n| (*n).to_owned()).collect(),
        };
        all.iter().map(|(file, needs)| (kernel_name(file), module(file, needs))).collect()
    }

    #[test]
    fn what_a_module_needs_comes_before_it_each_once() {
        let all = modules(&[
            ("nvme", &["nvme_core"]),
            ("nvme-core", &["nvme_auth", "t10_pi"]),
            ("nvme-auth", &["t10_pi"]),
            ("t10-pi", &[]),
            ("loop-a", &["loop_b", "built_in"]),
            ("loop-b", &["loop_a"]),
        ]);
        let list = dep_list(&all);
        for line in ["nvme: t10-pi nvme-auth nvme-core", "nvme-core: t10-pi nvme-auth", "t10-pi: "] {
            assert!(list.lines().any(|l| l == line), "{line}\n{list}");
        }
        assert!(list.contains("loop-a: loop-b\n"), "{list}");
    }

    #[test]
    fn names_are_found_packed_or_not() {
        assert_eq!(stem(Path::new("kernel/a/virtio-rng.ko.xz")), Some("virtio-rng"));
        assert_eq!(stem(Path::new("kernel/a/virtio-rng.ko")), Some("virtio-rng"));
        assert_eq!(stem(Path::new("kernel/a/modules.order")), None);
    }

    #[test]
    fn what_is_built_in_is_in_a_list_or_in_the_configuration() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("modules")).unwrap();
        std::fs::write(dir.path().join("modules/modules.builtin"), "kernel/a/pci-host-generic.ko\n").unwrap();
        std::fs::write(
            dir.path().join("config"),
            "CONFIG_PCIE_QCOM=y\n# CONFIG_PCIE_DW_PLAT_HOST is not set\n",
        )
        .unwrap();
        assert_eq!(builtin(dir.path()).unwrap(), ["pci-host-generic", "pcie-qcom"]);
    }

    #[test]
    fn a_file_that_is_no_module_is_named() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x.ko"), "no ELF").unwrap();
        let e = unpack("x", &packed(dir.path()).unwrap(), &mut BTreeMap::new()).unwrap_err().to_string();
        assert!(e.contains("x.ko: not an arm64 kernel module"), "{e}");
        unpack("absent", &BTreeMap::new(), &mut BTreeMap::new()).unwrap();
    }
}
