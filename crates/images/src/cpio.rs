//! A writer of "newc" cpio archives (Linux Documentation/driver-api/early-userspace/buffer-format.rst).
//!
//! Deterministic: no times, no owners, inode numbers in order.

const DIR: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const SYMLINK: u32 = 0o120_000;
const CHAR: u32 = 0o020_000;

/// An archive under construction.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Archive {
        Archive::default()
    }

    /// A directory; parents first.
    pub fn dir(&mut self, path: &str) {
        self.entry(path, DIR | 0o755, (0, 0), &[]);
    }

    /// A regular file.
    pub fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.entry(path, FILE | mode, (0, 0), contents);
    }

    /// A symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) {
        self.entry(path, SYMLINK | 0o777, (0, 0), target.as_bytes());
    }

    /// A character device node.
    pub fn char_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.entry(path, CHAR | mode, (major, minor), &[]);
    }

    /// The bytes, with the trailer.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, rdev: (u32, u32), contents: &[u8]) {
        self.entries += 1;
        let nlink = if mode & DIR != 0 { 2 } else { 1 };
        let fields = [
            self.entries,
            mode,
            0,
            0,
            nlink,
            0,
            contents.len() as u32,
            0,
            0,
            rdev.0,
            rdev.1,
            path.len() as u32 + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for f in fields {
            self.bytes.extend_from_slice(format!("{f:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(contents);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::Command;
    use std::process::Stdio;

    use super::*;

    fn sample() -> Vec<u8> {
        let mut a = Archive::new();
        a.dir("dev");
        a.char_device("dev/console", 0o600, 5, 1);
        a.file("init", 0o755, b"hello");
        a.symlink("sh", "init");
        a.finish()
    }

    #[test]
    fn the_same_contents_are_the_same_bytes_in_whole_words() {
        assert_eq!(sample(), sample());
        assert_eq!(sample().len() % 4, 0);
        assert!(sample().starts_with(b"07070100000001"));
    }

    #[test]
    fn cpio_lists_what_was_put_in() {
        let mut cpio = Command::new("cpio")
            .args(["-tv", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("cpio is one of the packages of scripts/setup");
        cpio.stdin.take().unwrap().write_all(&sample()).unwrap();
        let out = String::from_utf8(cpio.wait_with_output().unwrap().stdout).unwrap();
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(lines.len(), 4, "{out}");
        assert!(lines[0].starts_with("drwxr-xr-x") && lines[0].ends_with(" dev"));
        assert!(lines[1].starts_with("crw-------") && lines[1].contains("5,   1"));
        assert!(lines[2].starts_with("-rwxr-xr-x") && lines[2].contains(" 5 "));
        assert!(lines[3].ends_with("sh -> init"));
    }
}
