//! An Ethernet interface against a peer that sends every frame back with its addresses swapped.

use std::fs::File;
use std::io;
use std::io::Read;
use std::io::Write;
use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::time::Duration;
use std::time::Instant;

use guest_agent::EchoResult;
use guest_agent::OpError;
use guest_agent::Value;
use rustix::event::PollFlags;
use rustix::net::AddressFamily;
use rustix::net::Protocol;
use rustix::net::SocketFlags;
use rustix::net::SocketType;

use super::failed;
use super::invalid;
use super::pattern;
use super::pattern::Mismatches;
use super::serial::ready;
use super::timed_out;
use super::Root;

/// Local Experimental EtherType 1 (IEEE 802).
const ETHERTYPE: u16 = 0x88b5;
const HEADER_BYTES: usize = 14;
/// Where the frame's number is, and how long it is.
const NUMBER: std::ops::Range<usize> = HEADER_BYTES..HEADER_BYTES + 4;
const MIN_FRAME_BYTES: u32 = 60;
const MAX_FRAME_BYTES: u32 = 9014;
const MAX_FRAMES: u32 = 1 << 20;
/// Frames under way: more than one interrupt's worth, fewer than any ring has.
const WINDOW: u64 = 16;
/// Address of the peer: locally administered.
const PEER: [u8; 6] = [0x02, 0x72, 0x63, 0x76, 0x6d, 0xfe];
const POLL: Duration = Duration::from_millis(2);

/// Send `count` frames and collect what comes back.
pub fn echo(root: &Root, interface: &str, count: u32, bytes: u32, timeout_ms: u64) -> Result<Value, OpError> {
    let what = || format!("send frames over {interface}");
    if interface.is_empty() || interface.contains(['/', '.']) {
        return Err(invalid(what(), "this is no name of an interface"));
    }
    if !(MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&bytes) || count > MAX_FRAMES {
        return Err(invalid(what(), format!("{count} frames of {bytes} bytes cannot be sent")));
    }
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    let attribute = |name: &str| root.text(&format!("sys/class/net/{interface}/{name}"));
    let index: i32 = attribute("ifindex").parse().map_err(|_| OpError {
        what: what(),
        errno: libc::ENODEV,
        why: "there is no such interface".into(),
    })?;
    let own =
        parse_mac(&attribute("address")).ok_or_else(|| invalid(what(), "it has no Ethernet address"))?;
    bring_up(index).map_err(|e| failed(format!("bring {interface} up"), &e))?;
    while attribute("carrier") != "1" {
        if Instant::now() > deadline {
            return Err(timed_out(format!("wait for the carrier of {interface}"), timeout_ms));
        }
        std::thread::sleep(POLL);
    }
    let socket = packet_socket(index).map_err(|e| failed(what(), &e))?;
    let mut echo = Echo::new(own, count, bytes as usize);
    echo.run(&mut File::from(socket), deadline).map_err(|e| failed(what(), &e))?;
    Ok(Value::Echo(echo.result()))
}

/// e.g. `52:54:00:12:34:56`.
fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|b| u8::from_str_radix(b, 16).ok()).collect();
    bytes?.try_into().ok()
}

/// RTM_NEWLINK with IFF_UP (Linux include/uapi/linux/rtnetlink.h, netlink.h).
fn up_message(index: i32) -> [u8; 32] {
    const LEN: u32 = 32;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let up = libc::IFF_UP as u32;
    let mut m = [0; LEN as usize];
    m[0..4].copy_from_slice(&LEN.to_ne_bytes());
    m[4..6].copy_from_slice(&libc::RTM_NEWLINK.to_ne_bytes());
    m[6..8].copy_from_slice(&flags.to_ne_bytes());
    m[20..24].copy_from_slice(&index.to_ne_bytes());
    m[24..28].copy_from_slice(&up.to_ne_bytes());
    m[28..32].copy_from_slice(&up.to_ne_bytes());
    m
}

/// What an NLMSG_ERROR message says: 0 is the acknowledgement.
fn acknowledged(answer: &[u8]) -> io::Result<()> {
    let word = |at: usize| Some(i32::from_ne_bytes(*answer.get(at..)?.first_chunk()?));
    match word(16) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno.wrapping_neg())),
        None => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "short netlink answer")),
    }
}

fn bring_up(index: i32) -> io::Result<()> {
    // No protocol is NETLINK_ROUTE; without an address, messages go to the kernel.
    let socket =
        rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, None)?;
    let mut socket = File::from(socket);
    socket.write_all(&up_message(index))?;
    let mut answer = [0; 256];
    let n = socket.read(&mut answer)?;
    acknowledged(&answer[..n])
}

/// A socket that sends and receives whole frames of our type on one interface.
fn packet_socket(index: i32) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let protocol = NonZeroU32::new(ETHERTYPE.to_be().into()).map(Protocol::from_raw);
    let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, protocol)?;
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: ETHERTYPE.to_be(),
        sll_ifindex: index,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let len = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the pointer and the length are those of `address`, which lives until the call returns and is only read.
    let r = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) };
    if r < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}

/// Frames that were sent and what came of them.
struct Echo {
    own: [u8; 6],
    bytes: usize,
    sent: u64,
    /// By number: whether it came back.
    back: Vec<bool>,
    received: u64,
    mismatches: Mismatches,
}

impl Echo {
    fn new(own: [u8; 6], count: u32, bytes: usize) -> Echo {
        let back = vec![false; count as usize];
        Echo { own, bytes, sent: 0, back, received: 0, mismatches: Mismatches::default() }
    }

    /// Until all came back or the time is over.
    fn run(&mut self, socket: &mut File, deadline: Instant) -> io::Result<()> {
        let all = self.back.len() as u64;
        while self.received + self.mismatches.count < all && Instant::now() < deadline {
            let under_way = self.sent.saturating_sub(self.received + self.mismatches.count);
            let may_send = self.sent < all && under_way < WINDOW;
            let flags = if may_send { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            let events = ready(socket, flags, deadline)?;
            if events.intersects(PollFlags::ERR) {
                // e.g. ENETDOWN.
                rustix::net::sockopt::socket_error(&*socket)??;
            }
            if events.contains(PollFlags::IN) {
                let mut frame = [0; MAX_FRAME_BYTES as usize];
                let n = socket.read(&mut frame)?;
                self.take(&frame[..n]);
            }
            if events.contains(PollFlags::OUT) {
                self.send(socket)?;
            }
        }
        Ok(())
    }

    fn send(&mut self, socket: &mut File) -> io::Result<()> {
        match socket.write(&frame(self.own, PEER, self.sent as u32, self.bytes)) {
            Ok(_) => self.sent += 1,
            // The interface's queue is full.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOBUFS | libc::EAGAIN)) => {
                std::thread::sleep(POLL);
            }
            Err(e) => return Err(e),
        }
        Ok(())
    }

    fn take(&mut self, got: &[u8]) {
        let number =
            got.get(NUMBER).and_then(|n| n.first_chunk()).map_or(u32::MAX, |n| u32::from_be_bytes(*n));
        let known = u64::from(number) < self.sent;
        if !known || got != frame(PEER, self.own, number, self.bytes) {
            let head = &got[..got.len().min(32)];
            self.mismatches
                .add(|| format!("{} bytes, not as frame {number} was sent: {head:02x?}", got.len()));
        } else if std::mem::replace(&mut self.back[number as usize], true) {
            self.mismatches.add(|| format!("frame {number} came twice"));
        } else {
            self.received += 1;
        }
    }

    fn result(self) -> EchoResult {
        EchoResult {
            sent: self.sent,
            received: self.received,
            mismatches: self.mismatches.count,
            mismatch_examples: self.mismatches.examples,
        }
    }
}

fn frame(from: [u8; 6], to: [u8; 6], number: u32, bytes: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(bytes);
    frame.extend(to);
    frame.extend(from);
    frame.extend(ETHERTYPE.to_be_bytes());
    frame.extend(number.to_be_bytes());
    let words = (0..).flat_map(|i: u64| pattern::mix(u64::from(number) << 32 | i).to_be_bytes());
    frame.extend(words.take(bytes.saturating_sub(NUMBER.end)));
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: [u8; 6] = [0x52, 0x54, 0, 0x12, 0x34, 0x56];

    #[test]
    fn addresses_are_read_as_sysfs_writes_them() {
        assert_eq!(parse_mac("52:54:00:12:34:56"), Some(OWN));
        for bad in ["", "52:54:00:12:34", "52:54:00:12:34:56:78", "52:54:00:12:34:xx"] {
            assert_eq!(parse_mac(bad), None, "{bad}");
        }
    }

    #[test]
    fn answers_of_the_kernel_are_understood() {
        let mut answer = [0; 36];
        assert!(acknowledged(&answer).is_ok());
        answer[16..20].copy_from_slice(&(-libc::EPERM).to_ne_bytes());
        assert_eq!(acknowledged(&answer).unwrap_err().raw_os_error(), Some(libc::EPERM));
        assert!(acknowledged(&answer[..18]).is_err());
    }

    #[test]
    fn a_message_has_the_kernels_layout() {
        let m = up_message(0x0102);
        assert_eq!((u32::from_ne_bytes(*m.first_chunk().unwrap()), m.len()), (32, 32));
        assert_eq!(m[4..8], [16u16.to_ne_bytes(), 5u16.to_ne_bytes()].concat());
        assert_eq!(m[20..24], 0x0102i32.to_ne_bytes());
    }

    #[test]
    fn only_a_frame_that_was_sent_counts_and_only_once() {
        let mut e = Echo::new(OWN, 4, 60);
        e.sent = 2;
        let good = frame(PEER, OWN, 1, 60);
        e.take(&good);
        assert_eq!((e.received, e.mismatches.count), (1, 0));
        let mut damaged = frame(PEER, OWN, 0, 60);
        damaged[59] ^= 1;
        for bad in [good, damaged, frame(OWN, PEER, 0, 60), frame(PEER, OWN, 3, 60), vec![0; 5]] {
            let before = e.mismatches.count;
            e.take(&bad);
            assert_eq!((e.received, e.mismatches.count), (1, before + 1), "{bad:02x?}");
        }
    }

    #[test]
    fn frames_come_back_from_a_peer_that_swaps_addresses() {
        use std::os::unix::net::UnixDatagram;
        let (near, far) = UnixDatagram::pair().unwrap();
        let peer = std::thread::spawn(move || {
            let mut b = [0; 2000];
            for number in 0..100 {
                let n = far.recv(&mut b).unwrap();
                let (to, from) = (b[0..6].to_vec(), b[6..12].to_vec());
                b[0..6].copy_from_slice(&from);
                b[6..12].copy_from_slice(&to);
                b[n - 1] ^= u8::from(number == 50);
                far.send(&b[..n]).unwrap();
            }
        });
        let mut e = Echo::new(OWN, 100, 1514);
        let deadline = Instant::now() + Duration::from_secs(60);
        e.run(&mut File::from(OwnedFd::from(near)), deadline).unwrap();
        peer.join().unwrap();
        let r = e.result();
        assert_eq!((r.sent, r.received, r.mismatches), (100, 99, 1));
    }

    #[test]
    fn a_silent_peer_gets_no_more_than_the_window() {
        let (near, _far) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let mut e = Echo::new(OWN, 100, 60);
        let deadline = Instant::now() + Duration::from_millis(50);
        e.run(&mut File::from(OwnedFd::from(near)), deadline).unwrap();
        assert!(e.sent <= WINDOW && e.received == 0 && e.mismatches.count == 0);
    }

    #[test]
    fn an_interface_that_is_not_there_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root(dir.path().into());
        for (name, bytes, errno) in [
            ("eth9", 60, libc::ENODEV),
            ("../eth9", 60, libc::EINVAL),
            ("eth9", 59, libc::EINVAL),
            ("eth9", 9015, libc::EINVAL),
        ] {
            assert_eq!(echo(&root, name, 1, bytes, 0).unwrap_err().errno, errno, "{name} {bytes}");
        }
    }
}
