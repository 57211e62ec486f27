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

/// Load `/lib/modules/rcvm/<module>.ko`.
pub fn insmod(root: &Root, module: &str, params: &str) -> Result<Value, OpError> {
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
