//! PID 1 of the outer machine of the nested mode: find the stream to the front-end, run the job, power off.

use std::fs::File;
use std::fs::OpenOptions;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use anyhow::Context;
use anyhow::Result;

/// Where the front-end puts the job.
pub const JOB_FILE: &str = "/job.json";
/// Name of the virtio-serial port to the front-end.
pub const PORT_NAME: &str = "rcvm.worker";
/// Name of the virtio-serial port to the servers of vfio-user cards, where there are some.
pub const SERVERS_PORT_NAME: &str = "rcvm.vfio-user";
/// How long the port may take to appear.
const PORT_TIMEOUT: Duration = Duration::from_secs(20);

/// Where the QEMU of a comparison is, if there is one.
pub const QEMU_DIR: &str = "/qemu";

/// Driver of the outer machine's disks, in the root directory where there are some.
pub const DISK_DRIVER: &str = "virtio_blk.ko";
/// Where the outer machine's disks are found, by serial number.
const DISKS: &str = "/disks";

/// Serial number of the outer machine's disk `n`.
pub fn disk_serial(n: usize) -> String {
    format!("rcvm-disk-{n}")
}

/// Where the worker finds it.
pub fn disk_path(n: usize) -> PathBuf {
    Path::new(DISKS).join(disk_serial(n))
}

/// Run as PID 1: never returns to a machine that still runs.
pub fn init() -> ExitCode {
    if let Err(e) = work() {
        // Nobody but the outer console is left to tell.
        eprintln!("rcvm: outer machine: {e:#}");
    }
    rustix::fs::sync();
    let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    ExitCode::FAILURE
}

fn work() -> Result<()> {
    mount("devtmpfs", "/dev")?;
    mount("proc", "/proc")?;
    mount("sysfs", "/sys")?;
    if Path::new(QEMU_DIR).exists() {
        mount("debugfs", "/sys/kernel/debug")?;
        mount("tmpfs", "/tmp")?;
    }
    find_disks().context("disks of the outer machine")?;
    let port = open_port(PORT_NAME)?;
    let servers = || open_port(SERVERS_PORT_NAME);
    crate::worker::serve(
        Path::new(JOB_FILE),
        port.try_clone().context("clone the port")?,
        port,
        Some(&servers),
    )
}

fn mount(kind: &str, at: &str) -> Result<()> {
    let _ = std::fs::create_dir(at);
    let flags = rustix::mount::MountFlags::empty();
    match rustix::mount::mount(kind, at, kind, flags, None) {
        // The kernel may have mounted devtmpfs itself.
        Ok(()) | Err(rustix::io::Errno::BUSY) => Ok(()),
        Err(e) => Err(e).with_context(|| format!("mount {at}")),
    }
}

/// Load the driver of the disks, if there are some, and give each its name.
fn find_disks() -> Result<()> {
    let driver = match File::open(Path::new("/").join(DISK_DRIVER)) {
        Ok(f) => f,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e).context(DISK_DRIVER),
    };
    // Its devices are bound and have their nodes when this returns.
    rustix::system::finit_module(&driver, c"", 0).with_context(|| format!("load {DISK_DRIVER}"))?;
    std::fs::create_dir(DISKS).context(DISKS)?;
    for disk in std::fs::read_dir("/sys/block").context("/sys/block")?.flatten() {
        let Ok(serial) = std::fs::read_to_string(disk.path().join("serial")) else { continue };
        let node = Path::new("/dev").join(disk.file_name());
        std::os::unix::fs::symlink(node, Path::new(DISKS).join(serial.trim())).context(DISKS)?;
    }
    Ok(())
}

fn open_port(name: &str) -> Result<File> {
    let deadline = Instant::now() + PORT_TIMEOUT;
    loop {
        if let Some(dev) = find_port(name) {
            match OpenOptions::new().read(true).write(true).open(&dev) {
                Ok(f) => return Ok(f),
                Err(e) if Instant::now() > deadline => {
                    return Err(e).with_context(|| format!("open {}", dev.display()))
                }
                Err(_) => {}
            }
        }
        anyhow::ensure!(Instant::now() < deadline, "no virtio-serial port {name}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn find_port(name: &str) -> Option<PathBuf> {
    let ports = std::fs::read_dir("/sys/class/virtio-ports").ok()?;
    ports.flatten().find_map(|p| {
        let found = std::fs::read_to_string(p.path().join("name")).ok()?;
        (found.trim() == name).then(|| Path::new("/dev").join(p.file_name()))
    })
}
