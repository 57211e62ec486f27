//! A serial line, or another device of characters, against a peer that sends everything back.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;
use std::time::Instant;

use guest_agent::EchoResult;
use guest_agent::OpError;
use guest_agent::Value;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::termios::OptionalActions;
use rustix::termios::QueueSelector;
use rustix::termios::Termios;

use super::failed;
use super::files;
use super::pattern;
use super::pattern::Mismatches;
use super::Root;

/// Bytes under way: what the receiver FIFO of a 16550A holds, so that a slow guest does not overrun it.
const WINDOW: u64 = 16;

/// Send `bytes` bytes and collect what comes back.
pub fn echo(root: &Root, device: &str, bytes: u32, timeout_ms: u64) -> Result<Value, OpError> {
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    let path = files::guarded(root, device)?;
    let act = || -> io::Result<EchoResult> {
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY;
        let mut file = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?;
        let before = make_raw(&file)?;
        let result = exchange(&mut file, bytes.into(), deadline);
        if let Some(before) = before {
            rustix::termios::tcsetattr(&file, OptionalActions::Now, &before)?;
        }
        result
    };
    Ok(Value::Echo(act().map_err(|e| failed(format!("send over {device}"), &e))?))
}

/// No echo, no lines, no signals; gives what was set before, or nothing for a device that is no terminal (a virtio port).
fn make_raw(file: &File) -> io::Result<Option<Termios>> {
    let before = match rustix::termios::tcgetattr(file) {
        Ok(t) => t,
        Err(Errno::NOTTY | Errno::INVAL) => return Ok(None),
        Err(e) => return Err(e.into()),
    };
    let mut raw = before.clone();
    raw.make_raw();
    rustix::termios::tcsetattr(file, OptionalActions::Now, &raw)?;
    rustix::termios::tcflush(file, QueueSelector::IOFlush)?;
    Ok(Some(before))
}

/// What is ready on `file`; nothing if `deadline` comes first.
pub fn ready(file: &File, flags: PollFlags, deadline: Instant) -> io::Result<PollFlags> {
    let left = deadline.saturating_duration_since(Instant::now()).min(Duration::from_secs(1));
    let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
    let mut fds = [PollFd::new(file, flags)];
    match rustix::event::poll(&mut fds, Some(&timeout)) {
        Ok(_) => Ok(fds[0].revents()),
        Err(Errno::INTR) => Ok(PollFlags::empty()),
        Err(e) => Err(e.into()),
    }
}

/// Byte `at` of what is sent: all values occur.
fn byte(at: u64) -> u8 {
    pattern::mix(at) as u8
}

fn exchange(file: &mut File, bytes: u64, deadline: Instant) -> io::Result<EchoResult> {
    let (mut sent, mut back) = (0, 0);
    let mut mismatches = Mismatches::default();
    while back < bytes && Instant::now() < deadline {
        let end = bytes.min(back + WINDOW);
        let flags = if sent < end { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let events = ready(file, flags, deadline)?;
        if events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            let mut got = [0; WINDOW as usize];
            let n = match file.read(&mut got) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => 0,
                other => other?,
            };
            for got in &got[..n] {
                let want = (back < sent).then(|| byte(back));
                if want != Some(*got) {
                    mismatches.add(|| format!("byte {back}: {got:#04x} instead of {want:02x?}"));
                }
                back += 1;
            }
        }
        if events.contains(PollFlags::OUT) && sent < end {
            let data: Vec<u8> = (sent..end).map(byte).collect();
            match file.write(&data) {
                Ok(n) => sent += n as u64,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(e),
            }
        }
    }
    Ok(EchoResult {
        sent,
        received: back - mismatches.count,
        mismatches: mismatches.count,
        mismatch_examples: mismatches.examples,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;

    /// Exchange with a peer that sends back what `change` makes of each byte, by its number.
    fn with_peer(bytes: u64, ms: u64, change: fn(u64, u8) -> Option<u8>) -> io::Result<EchoResult> {
        let (near, mut far) = UnixStream::pair()?;
        near.set_nonblocking(true)?;
        let peer = std::thread::spawn(move || {
            let mut b = [0];
            let mut at = 0;
            while far.read(&mut b).is_ok_and(|n| n > 0) {
                if let Some(b) = change(at, b[0]) {
                    let _ = far.write(&[b]);
                }
                at += 1;
            }
        });
        let mut file = File::from(OwnedFd::from(near));
        let r = exchange(&mut file, bytes, Instant::now() + Duration::from_millis(ms));
        drop(file);
        peer.join().unwrap();
        r
    }

    #[test]
    fn all_bytes_come_back() {
        let r = with_peer(5000, 60_000, |_, b| Some(b)).unwrap();
        assert_eq!(r, EchoResult { sent: 5000, received: 5000, ..EchoResult::default() });
    }

    #[test]
    fn a_changed_byte_is_told() {
        let r = with_peer(100, 60_000, |at, b| Some(b ^ u8::from(at == 40))).unwrap();
        assert_eq!((r.sent, r.received, r.mismatches), (100, 99, 1));
        assert!(r.mismatch_examples[0].contains("byte 40"), "{r:?}");
    }

    #[test]
    fn a_silent_peer_ends_with_the_time() {
        let r = with_peer(100, 50, |_, _| None).unwrap();
        assert!(r.sent <= WINDOW && r.received == 0 && r.mismatches == 0, "{r:?}");
    }

    #[test]
    fn a_terminal_is_made_raw_and_left_as_it_was() {
        use rustix::pty;
        let far = pty::openpt(pty::OpenptFlags::RDWR | pty::OpenptFlags::NOCTTY).unwrap();
        pty::unlockpt(&far).unwrap();
        let name = pty::ptsname(&far, Vec::new()).unwrap().into_string().unwrap();
        let near = File::open(&name).unwrap();
        let modes = || rustix::termios::tcgetattr(&near).unwrap().local_modes;
        let before = modes();
        let mut far = File::from(far);
        let peer = std::thread::spawn(move || {
            let mut b = [0];
            for _ in 0..1000 {
                far.read_exact(&mut b).unwrap();
                far.write_all(&b).unwrap();
            }
            far
        });
        let r = echo(&Root("/".into()), &name, 1000, 60_000).unwrap();
        let _far = peer.join().unwrap();
        let all = EchoResult { sent: 1000, received: 1000, ..EchoResult::default() };
        assert_eq!(r, Value::Echo(all), "newlines and control characters pass as they are");
        assert_eq!(modes(), before);
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root(dir.path().into());
        assert_eq!(echo(&root, "/dev/ttyS1", 1, 0).unwrap_err().errno, libc::ENOENT);
        assert_eq!(echo(&root, "/etc/passwd", 1, 0).unwrap_err().errno, libc::EPERM);
    }
}
