//! What PID 1 does before and after its work.

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::process::ExitCode;

use rustix::mount::MountFlags;

/// Mount what the operations read.
pub fn mount_all() -> io::Result<()> {
    for (kind, at) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("debugfs", "/sys/kernel/debug"),
        ("tmpfs", "/tmp"),
    ] {
        let _ = std::fs::create_dir(at);
        match rustix::mount::mount(kind, at, kind, MountFlags::empty(), None) {
            // devtmpfs may have been mounted by the kernel; debugfs and tmpfs may be left out of it.
            Ok(()) | Err(rustix::io::Errno::BUSY) => {}
            Err(_) if kind == "debugfs" || kind == "tmpfs" => {}
            Err(e) => return Err(io::Error::other(format!("mount {kind} at {at}: {e}"))),
        }
    }
    Ok(())
}

/// Whether the kernel command line asks for a shell instead of the agent.
pub fn wants_shell() -> bool {
    std::fs::read_to_string("/proc/cmdline").is_ok_and(|c| c.split_whitespace().any(|w| w == "rcvm.shell"))
}

/// A shell on the console until it ends.
pub fn shell() {
    let shell = "/bin/sh";
    if !std::path::Path::new(shell).exists() {
        println!("rcvm-agent: this image has no {shell}");
        return;
    }
    println!("rcvm: modules are in /lib/modules/rcvm; leave with 'exit'");
    let mut cmd = Command::new(shell);
    cmd.arg0("-sh").env("PATH", "/bin:/sbin").env("HOME", "/");
    match terminal() {
        Ok([a, b, c]) => cmd.stdin(a).stdout(b).stderr(c),
        // The console as it is: everything works but Ctrl-C.
        Err(_) => &mut cmd,
    };
    let _ = cmd.status();
}

/// The virtio console as controlling terminal of a new session, which /dev/console cannot be.
fn terminal() -> io::Result<[File; 3]> {
    let tty = File::options().read(true).write(true).open("/dev/hvc0")?;
    let _ = rustix::process::setsid();
    rustix::process::ioctl_tiocsctty(&tty)?;
    Ok([tty.try_clone()?, tty.try_clone()?, tty])
}

/// End the machine by PSCI SYSTEM_OFF.
pub fn power_off() -> ExitCode {
    rustix::fs::sync();
    let _ = rustix::system::reboot(rustix::system::RebootCommand::PowerOff);
    ExitCode::FAILURE
}
