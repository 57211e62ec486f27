//! A file system on a device: mount, use, unmount.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use guest_agent::FileIoResult;
use guest_agent::OpError;
use guest_agent::Value;
use rustix::mount::MountFlags;
use rustix::mount::UnmountFlags;

use super::block::Buffer;
use super::failed;
use super::files;
use super::invalid;
use super::pattern;
use super::pattern::Mismatches;
use super::pattern::SECTOR_BYTES;
use super::Root;

const MAX_FILES: u32 = 65536;
const MAX_FILE_BYTES: u32 = 64 << 20;
const READ_BYTES: usize = 64 << 10;

/// Mount `device` at `dir`.
pub fn mount(root: &Root, device: &str, dir: &str, fstype: &str) -> Result<Value, OpError> {
    let what = || format!("mount {device} at {dir} as {fstype}");
    let (source, target) = (files::guarded(root, device)?, files::guarded(root, dir)?);
    std::fs::create_dir_all(&target).map_err(|e| failed(what(), &e))?;
    rustix::mount::mount(&source, &target, fstype, MountFlags::empty(), None)
        .map_err(|e| failed(what(), &io::Error::from(e)))?;
    Ok(Value::Done)
}

/// Unmount what is at `dir`.
pub fn umount(root: &Root, dir: &str) -> Result<Value, OpError> {
    let target = files::guarded(root, dir)?;
    rustix::mount::unmount(&target, UnmountFlags::empty())
        .map_err(|e| failed(format!("unmount {dir}"), &io::Error::from(e)))?;
    Ok(Value::Done)
}

/// Write files, read them back, delete every second.
pub fn io(root: &Root, dir: &str, count: u32, bytes: u32, seed: u64) -> Result<Value, OpError> {
    let what = |what: &str| format!("{what} files in {dir}");
    if count > MAX_FILES || bytes > MAX_FILE_BYTES {
        return Err(invalid(what("write"), format!("{count} files of {bytes} bytes are too much")));
    }
    let at = files::guarded(root, dir)?;
    let name = |number: u32| at.join(format!("rcvm-{number}"));
    let mut data = vec![0; (bytes as usize).next_multiple_of(SECTOR_BYTES)];
    let mut result = FileIoResult::default();
    let mut mismatches = Mismatches::default();
    for number in 0..count {
        pattern::fill(&mut data, seed, 0, number.into());
        write(&name(number), &data[..bytes as usize]).map_err(|e| failed(what("write"), &e))?;
    }
    sync_dir(&at).map_err(|e| failed(what("sync"), &e))?;
    for number in 0..count {
        pattern::fill(&mut data, seed, 0, number.into());
        let have = read(&name(number)).map_err(|e| failed(what("read"), &e))?;
        compare(&mut mismatches, number, &have, &data[..bytes as usize]);
        result.bytes += have.len() as u64;
        result.files += 1;
    }
    for number in (0..count).step_by(2) {
        std::fs::remove_file(name(number)).map_err(|e| failed(what("delete"), &e))?;
        result.deleted += 1;
    }
    sync_dir(&at).map_err(|e| failed(what("sync"), &e))?;
    (result.mismatches, result.mismatch_examples) = (mismatches.count, mismatches.examples);
    Ok(Value::FileIo(result))
}

fn write(path: &Path, data: &[u8]) -> io::Result<()> {
    let mut file = File::create(path)?;
    io::Write::write_all(&mut file, data)?;
    file.sync_all()
}

/// Past the page cache, so that it is the device that answers. Not every kernel has fadvise, and not every file system O_DIRECT.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let direct = File::options().read(true).custom_flags(libc::O_DIRECT).open(path);
    let file = match direct {
        Err(e) if e.raw_os_error() == Some(libc::EINVAL) => File::open(path)?,
        f => f?,
    };
    let (mut data, mut buffer) = (Vec::new(), Buffer::new(READ_BYTES));
    // No file that we wrote is longer, and no other one takes our memory.
    while data.len() <= MAX_FILE_BYTES as usize {
        let n = file.read_at(buffer.bytes(), data.len() as u64)?;
        data.extend_from_slice(&buffer.bytes()[..n]);
        if n < READ_BYTES {
            break;
        }
    }
    Ok(data)
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

fn compare(mismatches: &mut Mismatches, file: u32, have: &[u8], want: &[u8]) {
    if have.len() != want.len() {
        mismatches.add(|| format!("file {file}: has {} bytes instead of {}", have.len(), want.len()));
    }
    for (sector, (have, want)) in have.chunks(SECTOR_BYTES).zip(want.chunks(SECTOR_BYTES)).enumerate() {
        if let Some(at) = have.iter().zip(want).position(|(h, w)| h != w) {
            mismatches.add(|| format!("file {file}: differs from byte {} on", sector * SECTOR_BYTES + at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_second_file_stays() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root(dir.path().into());
        std::fs::create_dir_all(root.path("mnt/a")).unwrap();
        let done = FileIoResult { files: 5, deleted: 3, bytes: 5000, ..FileIoResult::default() };
        assert_eq!(io(&root, "/mnt/a", 5, 1000, 9), Ok(Value::FileIo(done)));
        let mut left = super::super::names(&root.path("mnt/a"));
        left.sort_unstable();
        assert_eq!(left, ["rcvm-1", "rcvm-3"]);
    }

    #[test]
    fn a_difference_is_told_by_file_and_byte() {
        let want = vec![7; 1500];
        let mut have = want.clone();
        have[600] = 8;
        let mut m = Mismatches::default();
        compare(&mut m, 4, &have, &want);
        compare(&mut m, 5, &have[..100], &want);
        assert_eq!(m.examples, ["file 4: differs from byte 600 on", "file 5: has 100 bytes instead of 1500"]);
    }

    #[test]
    fn errors_keep_their_cause() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root(dir.path().into());
        assert_eq!(io(&root, "/mnt/a", 1, 1, 0).unwrap_err().errno, libc::ENOENT);
        assert_eq!(io(&root, "/mnt/a", 1, u32::MAX, 0).unwrap_err().errno, libc::EINVAL);
        assert_eq!(io(&root, "/etc", 1, 1, 0).unwrap_err().errno, libc::EPERM);
        assert!(mount(&root, "/dev/vda", "/mnt/a", "none-such").unwrap_err().errno != 0);
        assert!(umount(&root, "/mnt/a").unwrap_err().errno != 0);
    }
}
