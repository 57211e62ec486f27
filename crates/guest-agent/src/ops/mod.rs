//! The operations of the protocol, one module per kind. All paths go through [`Root`], so that tests can give them a
//! directory tree of their own.

mod block;
mod card;
mod endpoint;
mod files;
mod fs;
mod inject;
mod irqs;
mod lanes;
mod link;
pub mod modules;
mod net;
mod pattern;
mod pci;
mod power;
mod rng;
mod serial;
mod symbols;
pub mod system;
mod tool;

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::path::PathBuf;

use guest_agent::Op;
use guest_agent::OpError;
use guest_agent::Value;

/// Where the file system begins.
#[derive(Clone)]
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

fn invalid(what: impl Display, why: impl Display) -> OpError {
    OpError { what: what.to_string(), errno: libc::EINVAL, why: why.to_string() }
}

fn timed_out(what: impl Display, timeout_ms: u64) -> OpError {
    OpError { what: what.to_string(), errno: libc::ETIMEDOUT, why: format!("not within {timeout_ms} ms") }
}

/// What operations work on: the system, and what an operation leaves to a later one.
pub struct Agent {
    /// The system.
    pub root: Root,
    block: block::Runs,
}

impl Agent {
    /// One that has done nothing yet.
    pub fn new(root: Root) -> Agent {
        Agent { root, block: block::Runs::default() }
    }
}

/// Do `op`.
pub fn perform(agent: &mut Agent, op: &Op) -> Result<Value, OpError> {
    let root = &agent.root;
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
        Op::Fire { kind, vector } => endpoint::fire(root, *kind, *vector),
        Op::SnapshotIrqs { details } => {
            Ok(Value::Irqs(irqs::snapshot(root, &irqs::Look { details: *details, shun: &[] })))
        }
        Op::Suspend { seconds } => power::suspend(root, *seconds),
        Op::ResetFunction { address } => link::reset(root, address),
        Op::LinkControl { address, bits, hold_ms } => link::control(root, address, *bits, *hold_ms),
        Op::SystemState => Ok(Value::System(system::state(root))),
        Op::RunTool { program, args, env, timeout_ms } => tool::run(program, args, env, *timeout_ms),
        Op::WaitPath { path, timeout_ms } => files::wait(root, path, *timeout_ms),
        Op::ReadFile { path, max_bytes } => files::read(root, path, *max_bytes),
        Op::WriteFile { path, text } => files::write(root, path, text),
        Op::BlockIo { io } => {
            let id = agent.block.start(root, io)?;
            agent.block.join(id, None)
        }
        Op::BlockIoStart { io } => Ok(Value::Started(agent.block.start(root, io)?)),
        Op::BlockIoJoin { id, timeout_ms } => agent.block.join(*id, Some(*timeout_ms)),
        Op::BlockVerify { name, device } => agent.block.verify(root, name, device),
        Op::MountFs { device, dir, fstype } => fs::mount(root, device, dir, fstype),
        Op::Umount { dir } => fs::umount(root, dir),
        Op::FileIo { dir, files, bytes, seed } => fs::io(root, dir, *files, *bytes, *seed),
        Op::NetEcho { interface, frames, bytes, timeout_ms } => {
            net::echo(root, interface, *frames, *bytes, *timeout_ms)
        }
        Op::ReadRng { bytes } => rng::sample(root, *bytes),
        Op::SerialEcho { device, bytes, timeout_ms } => serial::echo(root, device, *bytes, *timeout_ms),
        Op::PciConfig { address } => pci::functions(root, address),
        Op::Together { lanes, timeout_ms } => lanes::together(root, lanes, *timeout_ms),
        Op::FailNth { nth, op } => inject::fail_nth(agent, *nth, op),
        Op::Affinity { cpus } => irqs::move_all(root, cpus),
        Op::Pause { ms } => {
            std::thread::sleep(std::time::Duration::from_millis(*ms));
            Ok(Value::Done)
        }
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
