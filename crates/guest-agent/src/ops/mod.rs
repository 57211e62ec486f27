//! The operations of the protocol, one module per kind. All paths go through [`Root`], so that tests can give them a
//! directory tree of their own.

mod card;
mod endpoint;
mod irqs;
mod link;
mod modules;
mod power;
mod symbols;
pub mod system;

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use guest_agent::Op;
use guest_agent::OpError;
use guest_agent::Value;

/// Where the file system begins.
pub struct Root(PathBuf);

impl Root {
    /// The running system.
    pub fn system() -> Root {
        Root("/".into())
    }

    /// A path below it; `path` is relative.
    pub fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    /// A file's text without its trailing newline; empty if it cannot be read.
    pub fn text(&self, path: &str) -> String {
        text(&self.path(path))
    }
}

fn text(path: &Path) -> String {
    // One read into a page: sysfs attributes are not larger, and each system call counts under double emulation.
    let mut s = std::fs::read_to_string(path).unwrap_or_default();
    s.truncate(s.trim_end().len());
    s
}

/// Names in a directory; empty if it cannot be read.
fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}

fn failed(what: impl Display, e: &io::Error) -> OpError {
    OpError { what: what.to_string(), errno: e.raw_os_error().unwrap_or(0), why: e.to_string() }
}

/// Do `op`.
pub fn perform(root: &Root, op: &Op) -> Result<Value, OpError> {
    match op {
        Op::Insmod { module, params } => modules::insmod(root, module, params),
        Op::Rmmod { module } => modules::rmmod(module),
        Op::Bind { bus, driver, device } => modules::write_driver(root, bus, driver, "bind", device),
        Op::Unbind { bus, driver, device } => modules::write_driver(root, bus, driver, "unbind", device),
        Op::WaitEndpoint { vendor, device, driver, timeout_ms } => {
            endpoint::wait(root, (*vendor, *device), driver, *timeout_ms)
        }
        Op::WaitDevice { address, driver, timeout_ms } => {
            endpoint::wait_device(root, address, driver, *timeout_ms)
        }
        Op::WaitCards { cards, timeout_ms } => card::wait(root, cards, *timeout_ms),
        Op::ExerciseIrqs { kind, vectors, shun } => endpoint::exercise(root, *kind, *vectors, shun),
        Op::SnapshotIrqs { details } => {
            Ok(Value::Irqs(irqs::snapshot(root, &irqs::Look { details: *details, shun: &[] })))
        }
        Op::Suspend { seconds } => power::suspend(root, *seconds),
        Op::ResetFunction { address } => link::reset(root, address),
        Op::LinkControl { address, bits, hold_ms } => link::control(root, address, *bits, *hold_ms),
        Op::SystemState => Ok(Value::System(system::state(root))),
        Op::PowerOff => {
            crate::boot::power_off();
            Ok(Value::Done)
        }
        Op::Crash => system::crash(root),
        Op::Hang => loop {
            std::thread::park();
        },
    }
}
