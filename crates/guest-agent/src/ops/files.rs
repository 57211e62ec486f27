//! Attributes of sysfs, debugfs and procfs, device nodes, and files of file systems under test.

use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Write;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

use guest_agent::FileText;
use guest_agent::OpError;
use guest_agent::Value;

use super::failed;
use super::timed_out;
use super::Root;

/// Where a host may look and write: what the kernel shows, and what may be lost.
const ALLOWED: [&str; 5] = ["sys", "proc", "dev", "tmp", "mnt"];
/// Where a file that is not there is made. Elsewhere a missing attribute must be told from one that took the text.
const CREATE: [&str; 2] = ["tmp", "mnt"];
/// Most that fits a reply even if every byte is replaced by a character of three.
pub const MAX_TEXT_BYTES: usize = 256 << 10;
const POLL: Duration = Duration::from_millis(2);

/// The path below `root`, if it is absolute, has no `..`, and leads below one of the allowed directories.
pub fn guarded(root: &Root, path: &str) -> Result<PathBuf, OpError> {
    let mut parts = Path::new(path).components();
    let top = (parts.next(), parts.next());
    let allowed = matches!(top, (Some(Component::RootDir), Some(Component::Normal(d))) if ALLOWED.iter().any(|a| d == *a));
    let rest: Vec<_> = parts.collect();
    if !allowed || rest.is_empty() || !rest.iter().all(|c| matches!(c, Component::Normal(_))) {
        return Err(OpError {
            what: format!("use path {path}"),
            errno: libc::EPERM,
            why: format!("only paths without .. below one of {ALLOWED:?} are allowed"),
        });
    }
    Ok(root.path(path.trim_start_matches('/')))
}

/// Wait until there is something at `path`.
pub fn wait(root: &Root, path: &str, timeout_ms: u64) -> Result<Value, OpError> {
    let at = guarded(root, path)?;
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    while !at.exists() {
        if Instant::now() > deadline {
            return Err(timed_out(format!("wait for {path}"), timeout_ms));
        }
        std::thread::sleep(POLL);
    }
    Ok(Value::Done)
}

/// Read the beginning of a file.
pub fn read(root: &Root, path: &str, max_bytes: u32) -> Result<Value, OpError> {
    let at = guarded(root, path)?;
    let max = (max_bytes as usize).min(MAX_TEXT_BYTES);
    let mut bytes = Vec::new();
    OpenOptions::new()
        .read(true)
        .open(&at)
        .and_then(|f| f.take(max as u64 + 1).read_to_end(&mut bytes))
        .map_err(|e| failed(format!("read {path}"), &e))?;
    let truncated = bytes.len() > max;
    bytes.truncate(max);
    Ok(Value::File(FileText { text: printable(&bytes), truncated }))
}

/// Write `text` to a file.
pub fn write(root: &Root, path: &str, text: &str) -> Result<Value, OpError> {
    let at = guarded(root, path)?;
    let create = CREATE.iter().any(|d| path.trim_start_matches('/').starts_with(&format!("{d}/")));
    OpenOptions::new()
        .write(true)
        .create(create)
        .truncate(create)
        .open(&at)
        .and_then(|mut f| write_attribute(&mut f, text.as_bytes()))
        .map_err(|e| failed(format!("write {text:.80} to {path}"), &e))?;
    Ok(Value::Done)
}

/// An empty text is written too: some attributes act on it.
fn write_attribute(file: &mut impl Write, text: &[u8]) -> io::Result<()> {
    let n = file.write(text)?;
    file.write_all(text.get(n..).unwrap_or_default())
}

/// Text that costs at most three bytes in a message for each of `bytes`: JSON would spend six on a control character.
pub fn printable(bytes: &[u8]) -> String {
    let keep = |c: char| !c.is_control() || matches!(c, '\n' | '\t' | '\r');
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if keep(c) { c } else { char::REPLACEMENT_CHARACTER })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_below_the_allowed_directories_pass() {
        let root = Root("/r".into());
        for (path, below) in [
            ("/sys/bus/pci/rescan", Some("/r/sys/bus/pci/rescan")),
            ("//dev/nvme0n1", Some("/r/dev/nvme0n1")),
            ("/mnt/a/./b", Some("/r/mnt/a/b")),
            ("/sys", None),
            ("/", None),
            ("", None),
            ("sys/power/state", None),
            ("/etc/passwd", None),
            ("/system/x", None),
            ("/tmp/../etc/passwd", None),
            ("/dev/..", None),
        ] {
            let got = guarded(&root, path);
            assert_eq!(got.as_ref().ok().map(PathBuf::as_path), below.map(Path::new), "{path}");
            assert!(got.is_ok() || got.unwrap_err().errno == libc::EPERM);
        }
    }

    #[test]
    fn a_file_is_read_up_to_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root(dir.path().into());
        std::fs::create_dir(root.path("sys")).unwrap();
        std::fs::write(root.path("sys/a"), b"ab\n\x00\xff").unwrap();
        let file = |max| read(&root, "/sys/a", max).unwrap();
        assert_eq!(file(2), Value::File(FileText { text: "ab".into(), truncated: true }));
        let all = FileText { text: "ab\n\u{fffd}\u{fffd}".into(), truncated: false };
        assert_eq!(file(5), Value::File(all));
        assert_eq!(read(&root, "/sys/b", 1).unwrap_err().errno, libc::ENOENT);
    }

    #[test]
    fn an_attribute_that_is_not_there_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root(dir.path().into());
        for d in ["sys", "tmp"] {
            std::fs::create_dir(root.path(d)).unwrap();
        }
        assert_eq!(write(&root, "/sys/rescan", "1").unwrap_err().errno, libc::ENOENT);
        for text in ["long", "1"] {
            assert_eq!(write(&root, "/tmp/new", text), Ok(Value::Done));
            assert_eq!(root.text("tmp/new"), text);
        }
    }

    #[test]
    fn waiting_ends_with_the_path_or_the_time() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root(dir.path().into());
        assert_eq!(wait(&root, "/dev/vda", 0).unwrap_err().errno, libc::ETIMEDOUT);
        std::fs::create_dir(root.path("dev")).unwrap();
        std::fs::write(root.path("dev/vda"), "").unwrap();
        assert_eq!(wait(&root, "/dev/vda", 0), Ok(Value::Done));
    }
}
