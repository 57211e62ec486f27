//! Loading, unloading, binding, unbinding.

use std::ffi::CString;
use std::fs::File;
use std::io;

use guest_agent::OpError;
use guest_agent::Value;

use super::failed;
use super::symbols;
use super::Root;

/// O_NONBLOCK: fail at once if the module is in use.
const NONBLOCK: i32 = libc::O_NONBLOCK;

fn c_string(what: &str, s: &str) -> Result<CString, OpError> {
    CString::new(s).map_err(|_| OpError {
        what: what.into(),
        errno: libc::EINVAL,
        why: "NUL in a name".into(),
    })
}

/// Where the image's modules are, and lists of them: `modules.dep` has a line a module with what to load before it,
/// `modules.builtin` what this kernel has built in, `modules.boot` what to load first. An image of ours may have none of these.
const DIR: &str = "lib/modules/rcvm";

/// Modules that the kernel has built in.
pub fn builtin(root: &Root) -> Vec<String> {
    root.text(&format!("{DIR}/modules.builtin")).lines().map(str::to_owned).collect()
}

/// Load what the result channel and the machine need, where that is not built in. What fails is returned.
pub fn boot(root: &Root) -> Vec<OpError> {
    let list = root.text(&format!("{DIR}/modules.boot"));
    list.lines().filter_map(|module| load_once(root, module).err()).collect()
}

/// Load `module` and what it needs, unless it is there.
fn load_once(root: &Root, module: &str) -> Result<(), OpError> {
    match insmod(root, module, "") {
        Err(e) if e.errno != libc::EEXIST => Err(e),
        _ => Ok(()),
    }
}

/// What has to be loaded before `module`, in order.
fn needs(root: &Root, module: &str) -> Vec<String> {
    let list = root.text(&format!("{DIR}/modules.dep"));
    let of_module = list.lines().find_map(|l| l.strip_prefix(module)?.strip_prefix(':'));
    of_module.unwrap_or("").split_whitespace().map(str::to_owned).collect()
}

/// Load `/lib/modules/rcvm/<module>.ko` and what it needs. One that is built in is there already.
pub fn insmod(root: &Root, module: &str, params: &str) -> Result<Value, OpError> {
    if builtin(root).iter().any(|b| b == module) {
        return Ok(Value::Loaded(Vec::new()));
    }
    for needed in needs(root, module) {
        match load(root, &needed, "") {
            Err(e) if e.errno != libc::EEXIST => return Err(e),
            _ => {}
        }
    }
    load(root, module, params)
}

/// Load `/lib/modules/rcvm/<module>.ko`.
fn load(root: &Root, module: &str, params: &str) -> Result<Value, OpError> {
    let path = root.path(&format!("lib/modules/rcvm/{module}.ko"));
    let file = File::open(&path).map_err(|e| failed(format!("open {}", path.display()), &e))?;
    let params = c_string("insmod", params)?;
    rustix::system::finit_module(&file, &params, 0)
        .map_err(|e| failed(format!("load {}", path.display()), &io::Error::from(e)))?;
    let elf = std::fs::read(&path).unwrap_or_default();
    // The kernel writes names of modules with underscores.
    Ok(Value::Loaded(symbols::of_module(root, &module.replace('-', "_"), &elf)))
}

/// Unload `module`.
pub fn rmmod(module: &str) -> Result<Value, OpError> {
    let name = c_string("rmmod", module)?;
    rustix::system::delete_module(&name, NONBLOCK)
        .map_err(|e| failed(format!("unload {module}"), &io::Error::from(e)))?;
    Ok(Value::Done)
}

/// Write `device` to an attribute of a driver of `bus`.
pub fn write_driver(
    root: &Root,
    bus: &str,
    driver: &str,
    attribute: &str,
    device: &str,
) -> Result<Value, OpError> {
    let path = root.path(&format!("sys/bus/{bus}/drivers/{driver}/{attribute}"));
    // Not created if absent: a driver that hides its attributes (suppress_bind_attrs) must be told from a success.
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|mut f| io::Write::write_all(&mut f, device.as_bytes()))
        .map_err(|e| failed(format!("write {device} to {}", path.display()), &e))?;
    Ok(Value::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_module_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let e = insmod(&Root(dir.path().into()), "nope", "").unwrap_err();
        assert_eq!(e.errno, libc::ENOENT);
        assert!(e.what.contains("nope.ko"), "{e:?}");
    }

    #[test]
    fn lists_say_what_is_built_in_and_what_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let modules = dir.path().join("lib/modules/rcvm");
        std::fs::create_dir_all(&modules).unwrap();
        for (name, text) in [
            ("modules.builtin", "pci-host-generic\npcie-qcom\n"),
            ("modules.dep", "nvme-core: t10-pi\nnvme: t10-pi nvme-core\nt10-pi: \n"),
            ("modules.boot", "pcie-qcom\nabsent\n"),
        ] {
            std::fs::write(modules.join(name), text).unwrap();
        }
        let root = Root(dir.path().into());
        assert_eq!(insmod(&root, "pcie-qcom", ""), Ok(Value::Loaded(Vec::new())));
        assert_eq!(needs(&root, "nvme"), ["t10-pi", "nvme-core"]);
        assert!(needs(&root, "t10-pi").is_empty() && needs(&root, "nv").is_empty());
        let e = insmod(&root, "nvme", "").unwrap_err();
        assert!(e.what.contains("t10-pi.ko"), "the first that is needed is the first that lacks: {e:?}");
        let failed = boot(&root);
        assert!(failed.len() == 1 && failed[0].what.contains("absent.ko"), "{failed:?}");
    }

    #[test]
    fn bind_writes_the_device_and_a_hidden_attribute_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let driver = dir.path().join("sys/bus/platform/drivers/qcom-pcie");
        std::fs::create_dir_all(&driver).unwrap();
        let root = Root(dir.path().into());
        assert_eq!(
            write_driver(&root, "platform", "qcom-pcie", "bind", "x").unwrap_err().errno,
            libc::ENOENT
        );
        std::fs::write(driver.join("bind"), "").unwrap();
        write_driver(&root, "platform", "qcom-pcie", "bind", "1c00000.pcie").unwrap();
        assert_eq!(std::fs::read_to_string(driver.join("bind")).unwrap(), "1c00000.pcie");
    }
}
