//! The socket to the server: commands, each with its reply within a bound, and the server's own commands in between.

use std::collections::VecDeque;
use std::io;
use std::io::IoSlice;
use std::io::Read;
use std::mem::MaybeUninit;
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
use thiserror::Error;

use crate::wire;
use crate::wire::command;
use crate::wire::Fields;
use crate::wire::Header;

/// Most file descriptors sent with one message, whatever the server takes.
pub const MOST_FDS: usize = 16;
/// Commands of the server that are served in one go.
const MOST_COMMANDS: usize = 64;
/// Commands of the server that wait until they can be served.
const MOST_POSTPONED: usize = 64;
/// Bytes read from the socket at once.
const CHUNK_BYTES: usize = 16 << 10;

/// Why nothing comes from the server any more.
#[derive(Debug, Error)]
pub enum Failure {
    /// It closed the connection, or is gone.
    #[error("the server closed the connection")]
    Closed,
    /// It did not answer in time.
    #[error("the server did not answer within {0:?}")]
    Stalled(Duration),
    /// What it sent is not the protocol.
    #[error("the server broke the protocol: {0}")]
    Protocol(String),
    /// The socket failed.
    #[error("the socket failed: {0}")]
    Socket(#[source] io::Error),
}

/// How the server took a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done; what came with the reply.
    Done(Vec<u8>),
    /// It refused, with this errno (0: it does not say why).
    Refused(u32),
}

/// What the server asks of guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dma<'a> {
    /// To read.
    Read {
        /// From where.
        addr: u64,
        /// How much, at most [`wire::MOST_DATA_BYTES`].
        bytes: usize,
    },
    /// To write.
    Write {
        /// To where.
        addr: u64,
        /// What, at most [`wire::MOST_DATA_BYTES`].
        data: &'a [u8],
    },
}

/// How guest memory took it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DmaAnswer {
    /// What was read; nothing of a write.
    Done(Vec<u8>),
    /// A gate refused it.
    Refused,
    /// There is no way up just now: ask again later.
    Later,
}

/// Who has guest memory.
pub type Host<'a> = dyn FnMut(Dma<'_>) -> DmaAnswer + 'a;

/// The socket.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    timeout: Duration,
    /// When what runs now began: all of it has `timeout`.
    begun: Instant,
    next_id: u16,
    /// Received, not yet a whole message.
    received: Vec<u8>,
    postponed: VecDeque<Vec<u8>>,
}

impl Connection {
    /// Connect to the server at `socket`, which has `timeout` for what lies between two calls of [`Connection::begin`].
    pub fn open(socket: &Path, timeout: Duration) -> io::Result<Connection> {
        let stream = UnixStream::connect(socket)?;
        stream.set_nonblocking(true)?;
        Ok(Connection {
            stream,
            timeout,
            begun: Instant::now(),
            next_id: 0,
            received: Vec::new(),
            postponed: VecDeque::new(),
        })
    }

    /// Something begins for which the server has its time.
    pub fn begin(&mut self) {
        self.begun = Instant::now();
    }

    /// Send a command and wait for its reply; commands of the server that arrive before it are served by `host`.
    pub fn call(
        &mut self,
        command: u16,
        parts: &[&[u8]],
        fds: &[BorrowedFd<'_>],
        host: &mut Host<'_>,
    ) -> Result<Answer, Failure> {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        self.send(&Header { id, command, ..Header::default() }.message(parts), fds)?;
        loop {
            let Some(m) = self.next_message()? else {
                self.receive_until()?;
                continue;
            };
            // A server that sends commands of its own without end is as bad as one that sends nothing.
            self.check_time()?;
            let (h, payload) = split(&m)?;
            if h.flags & wire::TYPE != wire::REPLY {
                self.serve(m, host)?;
                continue;
            }
            if (h.id, h.command) != (id, command) {
                return Err(Failure::Protocol(format!(
                    "reply {:#x} to command {}, not {id:#x} to {command}",
                    h.id, h.command
                )));
            }
            let refused = h.flags & wire::ERROR != 0;
            return Ok(if refused { Answer::Refused(h.error) } else { Answer::Done(payload.to_vec()) });
        }
    }

    /// Serve the commands of the server that are there, without waiting for any.
    pub fn serve_pending(&mut self, host: &mut Host<'_>) -> Result<(), Failure> {
        for _ in 0..self.postponed.len() {
            if let Some(m) = self.postponed.pop_front() {
                self.serve(m, host)?;
            }
        }
        for _ in 0..MOST_COMMANDS {
            let m = match self.next_message()? {
                Some(m) => m,
                None if self.receive()? => continue,
                None => return Ok(()),
            };
            let (h, _) = split(&m)?;
            if h.flags & wire::TYPE == wire::REPLY {
                return Err(Failure::Protocol(format!("a reply to command {} that nobody sent", h.command)));
            }
            self.serve(m, host)?;
        }
        Ok(())
    }

    fn serve(&mut self, message: Vec<u8>, host: &mut Host<'_>) -> Result<(), Failure> {
        let (h, payload) = split(&message)?;
        let mut f = Fields(payload);
        let (Some(addr), Some(bytes)) = (f.long(), f.long()) else { return self.refuse(h, Errno::INVAL) };
        let data = f.rest();
        let dma = match h.command {
            command::DMA_READ if bytes <= wire::MOST_DATA_BYTES as u64 => {
                Dma::Read { addr, bytes: bytes as usize }
            }
            command::DMA_WRITE if bytes == data.len() as u64 => Dma::Write { addr, data },
            command::DMA_READ | command::DMA_WRITE => return self.refuse(h, Errno::INVAL),
            _ => return self.refuse(h, Errno::NOTSUP),
        };
        match host(dma) {
            DmaAnswer::Done(_) if h.flags & wire::NO_REPLY != 0 => Ok(()),
            DmaAnswer::Done(read) => {
                let reply = h.reply().message(&[&wire::longs(&[addr, bytes]), &read]);
                self.send(&reply, &[])
            }
            DmaAnswer::Later if self.postponed.len() < MOST_POSTPONED => {
                self.postponed.push_back(message);
                Ok(())
            }
            DmaAnswer::Refused | DmaAnswer::Later => self.refuse(h, Errno::FAULT),
        }
    }

    /// Refuse what has been postponed: a server that waits for it would not answer anything else.
    fn refuse_postponed(&mut self) -> Result<(), Failure> {
        while let Some(m) = self.postponed.pop_front() {
            self.refuse(split(&m)?.0, Errno::FAULT)?;
        }
        Ok(())
    }

    fn refuse(&mut self, h: Header, why: Errno) -> Result<(), Failure> {
        if h.flags & wire::NO_REPLY != 0 {
            return Ok(());
        }
        self.send(&h.refusal(why.raw_os_error() as u32).message(&[]), &[])
    }

    /// The next whole message that has been received.
    fn next_message(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let Some(h) = Header::parse(&self.received) else { return Ok(None) };
        let bytes = h.bytes as usize;
        if !(wire::HEADER_BYTES..=wire::MOST_MESSAGE_BYTES).contains(&bytes) {
            return Err(Failure::Protocol(format!("a message of {bytes} bytes")));
        }
        if h.flags & wire::TYPE > wire::REPLY {
            return Err(Failure::Protocol(format!("a message of type {}", h.flags & wire::TYPE)));
        }
        if self.received.len() < bytes {
            return Ok(None);
        }
        let rest = self.received.split_off(bytes);
        Ok(Some(std::mem::replace(&mut self.received, rest)))
    }

    /// Take what the socket has. `false`: nothing.
    fn receive(&mut self) -> Result<bool, Failure> {
        let mut chunk = [0; CHUNK_BYTES];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(Failure::Closed),
                Ok(n) => {
                    self.received.extend_from_slice(&chunk[..n]);
                    return Ok(true);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::ConnectionReset => return Err(Failure::Closed),
                Err(e) => return Err(Failure::Socket(e)),
            }
        }
    }

    /// The same, but wait for it while there is time.
    fn receive_until(&mut self) -> Result<(), Failure> {
        if self.receive()? {
            return Ok(());
        }
        // The server may be waiting for what was postponed; half of the time is left for the reply.
        let patience = if self.postponed.is_empty() { self.timeout } else { self.timeout / 2 };
        if self.begun.elapsed() >= patience {
            self.check_time()?;
            return self.refuse_postponed();
        }
        self.wait(PollFlags::IN, patience.saturating_sub(self.begun.elapsed()))
    }

    fn check_time(&self) -> Result<(), Failure> {
        if self.begun.elapsed() < self.timeout {
            Ok(())
        } else {
            Err(Failure::Stalled(self.timeout))
        }
    }

    fn wait(&self, what: PollFlags, most: Duration) -> Result<(), Failure> {
        let most = Timespec::try_from(most).map_err(|_| Failure::Stalled(self.timeout))?;
        match rustix::event::poll(&mut [PollFd::new(&self.stream, what)], Some(&most)) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(Failure::Socket(e.into())),
        }
    }

    fn send(&mut self, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Failure> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_FDS))];
        let mut sent = 0;
        while sent < message.len() {
            // Descriptors go with the first byte.
            let mut control = SendAncillaryBuffer::new(&mut space);
            if sent == 0 && !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
                return Err(Failure::Socket(io::Error::from(io::ErrorKind::InvalidInput)));
            }
            let rest = [IoSlice::new(&message[sent..])];
            match rustix::net::sendmsg(&self.stream, &rest, &mut control, SendFlags::NOSIGNAL) {
                Ok(n) => sent += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.check_time()?;
                    self.wait(PollFlags::OUT, self.timeout.saturating_sub(self.begun.elapsed()))?;
                }
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Failure::Closed),
                Err(e) => return Err(Failure::Socket(e.into())),
            }
        }
        Ok(())
    }
}

fn split(message: &[u8]) -> Result<(Header, &[u8]), Failure> {
    let h = Header::parse(message).ok_or_else(|| Failure::Protocol("a message without header".into()))?;
    Ok((h, message.get(wire::HEADER_BYTES..).unwrap_or_default()))
}
