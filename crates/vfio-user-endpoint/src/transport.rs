//! The way of messages to a server and back: a socket of this host, or a channel of a relay.

use std::fmt::Debug;
use std::io;
use std::io::IoSlice;
use std::io::Read;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::io::Errno;
use rustix::net::SendAncillaryBuffer;
use rustix::net::SendAncillaryMessage;
use rustix::net::SendFlags;

use crate::connection::Failure;
use crate::connection::MOST_FDS;
use crate::interrupts::Triggers;

/// Bytes read at once.
pub const CHUNK_BYTES: usize = 16 << 10;

/// What carries messages, and the triggers of interrupts.
///
/// What the server wrote before it triggered an interrupt can be received once the trigger has been taken.
pub trait Transport: Debug + Send {
    /// Send a whole message. `vectors`: those whose triggers go with it. `false`: not possible until `until`.
    fn send(&mut self, message: &[u8], vectors: Range<u32>, until: Instant) -> Result<bool, Failure>;
    /// Append what has come to `to`, waiting for something at most this long. `false`: nothing came.
    fn receive(&mut self, to: &mut Vec<u8>, wait: Duration) -> Result<bool, Failure>;
    /// From now on there are these triggers, of interrupt type `index`, and no others.
    fn set_triggers(&mut self, index: u32, vectors: u32) -> Result<(), Failure>;
    /// Vectors that were triggered since the last look.
    fn take_triggered(&mut self) -> Result<Vec<u32>, Failure>;
}

/// A UNIX socket.
#[derive(Debug)]
pub struct Socket {
    stream: UnixStream,
    triggers: Option<Triggers>,
}

impl Socket {
    /// Connect to the server at `path`.
    pub fn open(path: &Path) -> io::Result<Socket> {
        let stream = UnixStream::connect(path)?;
        stream.set_nonblocking(true)?;
        Ok(Socket { stream, triggers: None })
    }
}

/// Take what a non-blocking socket has. `false`: nothing.
pub fn read_some(stream: &UnixStream, to: &mut Vec<u8>, most: usize) -> Result<bool, Failure> {
    let mut chunk = [0; CHUNK_BYTES];
    let chunk = &mut chunk[..most.min(CHUNK_BYTES)];
    loop {
        match (&mut &*stream).read(chunk) {
            Ok(0) => return Err(Failure::Closed),
            Ok(n) => {
                to.extend_from_slice(&chunk[..n]);
                return Ok(true);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(Failure::Closed),
            Err(e) => return Err(Failure::Socket(e)),
        }
    }
}

/// Write what a non-blocking socket takes, `fds` with the first byte of it. 0: nothing.
pub fn send_some(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<usize, Failure> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
    loop {
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(Failure::Socket(io::Error::from(io::ErrorKind::InvalidInput)));
        }
        match rustix::net::sendmsg(stream, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Ok(n) => return Ok(n),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(0),
            Err(Errno::PIPE | Errno::CONNRESET) => return Err(Failure::Closed),
            Err(e) => return Err(Failure::Socket(e.into())),
        }
    }
}

/// Wait for `what`, at most this long.
pub fn wait(fd: impl AsFd, what: PollFlags, most: Duration) -> Result<(), Failure> {
    let most = Timespec::try_from(most).map_err(|_| Failure::Socket(Errno::INVAL.into()))?;
    match rustix::event::poll(&mut [PollFd::new(&fd, what)], Some(&most)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(e) => Err(Failure::Socket(e.into())),
    }
}

impl Transport for Socket {
    fn send(&mut self, message: &[u8], vectors: Range<u32>, until: Instant) -> Result<bool, Failure> {
        let all = self.triggers.as_ref().map(Triggers::fds).unwrap_or_default();
        let fds = all.get(vectors.start as usize..vectors.end as usize).unwrap_or_default();
        let mut sent = 0;
        while sent < message.len() {
            let with = if sent == 0 { fds } else { &[] };
            match send_some(&self.stream, &message[sent..], with)? {
                0 if Instant::now() >= until => return Ok(false),
                0 => wait(&self.stream, PollFlags::OUT, until.saturating_duration_since(Instant::now()))?,
                n => sent += n,
            }
        }
        Ok(true)
    }

    fn receive(&mut self, to: &mut Vec<u8>, most: Duration) -> Result<bool, Failure> {
        if read_some(&self.stream, to, CHUNK_BYTES)? {
            return Ok(true);
        }
        if most.is_zero() {
            return Ok(false);
        }
        wait(&self.stream, PollFlags::IN, most)?;
        read_some(&self.stream, to, CHUNK_BYTES)
    }

    fn set_triggers(&mut self, _index: u32, vectors: u32) -> Result<(), Failure> {
        self.triggers = Some(Triggers::new(vectors).map_err(Failure::Socket)?);
        Ok(())
    }

    fn take_triggered(&mut self) -> Result<Vec<u32>, Failure> {
        let Some(triggers) = &self.triggers else { return Ok(Vec::new()) };
        triggers.take().map_err(Failure::Socket)
    }
}
