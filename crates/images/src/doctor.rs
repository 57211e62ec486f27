//! What a machine needs, and whether it has it.

use std::path::Path;
use std::process::Command;

use crate::cache::Cache;
use crate::kernel::cross_compile;
use crate::kernel::first_line;
use crate::series;

/// One thing looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What it is.
    pub name: String,
    /// Whether it is there.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
    /// What to do if it is not there.
    pub remedy: String,
}

/// Look at everything.
pub fn checks() -> Vec<Check> {
    let mut all = vec![how_guests_run(), qemu_or_kvm()];
    let gcc = format!("{}gcc", cross_compile());
    for (tool, package) in [
        (gcc.as_str(), "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"),
        ("make", "make"),
        ("flex", "flex"),
        ("bison", "bison"),
        ("bc", "bc"),
        ("pahole", "dwarves"),
        ("python3", "python3"),
        ("xz", "xz-utils"),
        ("cargo", "cargo (rustup, or rustc-web cargo-web)"),
    ] {
        all.push(tool_check(tool, package));
    }
    for (file, package) in [
        ("/usr/src/linux-source-6.12.tar.xz", "linux-source-6.12"),
        ("/usr/include/libelf.h", "libelf-dev"),
        ("/usr/include/openssl/ssl.h", "libssl-dev"),
    ] {
        all.push(Check {
            name: package.into(),
            ok: Path::new(file).exists(),
            detail: file.into(),
            remedy: format!("apt-get install {package}, or scripts/setup"),
        });
    }
    all.extend([disk(), cached()]);
    all
}

fn how_guests_run() -> Check {
    let native = cfg!(target_arch = "aarch64") && Path::new("/dev/kvm").exists();
    let mode = if native { "native: this machine's KVM" } else { "nested: KVM in an emulated arm64 machine" };
    Check { name: "guests run".into(), ok: true, detail: mode.into(), remedy: String::new() }
}

fn qemu_or_kvm() -> Check {
    if cfg!(target_arch = "aarch64") {
        let kvm = std::fs::File::options().read(true).write(true).open("/dev/kvm");
        if kvm.is_ok() {
            return Check {
                name: "/dev/kvm".into(),
                ok: true,
                detail: "usable".into(),
                remedy: String::new(),
            };
        }
    }
    tool_check("qemu-system-aarch64", "qemu-system-arm")
}

fn tool_check(tool: &str, package: &str) -> Check {
    let version = first_line(Command::new(tool).arg("--version"));
    Check {
        name: tool.into(),
        ok: !version.is_empty(),
        detail: if version.is_empty() { "not found".into() } else { version },
        remedy: format!("apt-get install {package}, or scripts/setup"),
    }
}

fn disk() -> Check {
    let checked = Cache::locate().map(|c| (c.dir().to_owned(), rustix::fs::statvfs(c.dir())));
    let (ok, detail) = match checked {
        Ok((dir, Ok(s))) => {
            let mib = s.f_bavail.saturating_mul(s.f_frsize) >> 20;
            (mib > 3500, format!("{mib} MiB free for {}", dir.display()))
        }
        Ok((dir, Err(e))) => (false, format!("{}: {e}", dir.display())),
        Err(e) => {
            let why = std::error::Error::source(&e).map_or_else(String::new, |s| format!(": {s}"));
            (false, format!("{e}{why}"))
        }
    };
    Check {
        name: "disk space".into(),
        ok,
        detail,
        remedy: "a kernel build needs 3500 MiB; set RCVM_CACHE".into(),
    }
}

/// Not having an image yet is no fault: a run builds it.
fn cached() -> Check {
    let built: Vec<String> = crate::profiles()
        .unwrap_or_default()
        .into_iter()
        .filter(|p| matches!(crate::find(p, series::DEFAULT), Ok(Some(_))))
        .collect();
    let detail =
        if built.is_empty() { "none yet (a run builds what it needs)".into() } else { built.join(", ") };
    Check { name: "guest images".into(), ok: true, detail, remedy: String::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_tool_names_its_package() {
        let c = tool_check("rcvm-no-such-tool", "some-package");
        assert!(!c.ok && c.remedy.contains("apt-get install some-package"), "{c:?}");
    }
}
