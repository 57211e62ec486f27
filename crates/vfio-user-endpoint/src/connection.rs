//! The connection to the server: commands, each with its reply within a bound, and the server's own commands in between.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::time::Duration;
use std::time::Instant;

use rustix::io::Errno;
use thiserror::Error;

use crate::transport::Transport;
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

/// The connection.
#[derive(Debug)]
pub struct Connection {
    way: Box<dyn Transport>,
    timeout: Duration,
    /// When what runs now began: all of it has `timeout`.
    begun: Instant,
    next_id: u16,
    /// Received, not yet a whole message.
    received: Vec<u8>,
    postponed: VecDeque<Vec<u8>>,
}

impl Connection {
    /// With the server at the other end of `way`, which has `timeout` for what lies between two calls of
    /// [`Connection::begin`].
    pub fn new(way: Box<dyn Transport>, timeout: Duration) -> Connection {
        Connection {
            way,
            timeout,
            begun: Instant::now(),
            next_id: 0,
            received: Vec::new(),
            postponed: VecDeque::new(),
        }
    }

    /// Something begins for which the server has its time.
    pub fn begin(&mut self) {
        self.begun = Instant::now();
    }

    /// From now on the server can trigger these vectors of interrupt type `index`, once it has been sent their triggers.
    pub fn set_triggers(&mut self, index: u32, vectors: u32) -> Result<(), Failure> {
        self.way.set_triggers(index, vectors)
    }

    /// Vectors that the server has triggered since the last look.
    pub fn take_triggered(&mut self) -> Result<Vec<u32>, Failure> {
        self.way.take_triggered()
    }

    /// Send a command, with the triggers of `vectors`, and wait for its reply; commands of the server that arrive before it are
    /// served by `host`.
    pub fn call(
        &mut self,
        command: u16,
        parts: &[&[u8]],
        vectors: Range<u32>,
        host: &mut Host<'_>,
    ) -> Result<Answer, Failure> {
        let id = self.next_id;
        self.next_id = id.wrapping_add(1);
        self.send(&Header { id, command, ..Header::default() }.message(parts), vectors)?;
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

    /// Serve the commands of the server that are there, without waiting for any. `false`: there may be more.
    pub fn serve_pending(&mut self, host: &mut Host<'_>) -> Result<bool, Failure> {
        for _ in 0..self.postponed.len() {
            if let Some(m) = self.postponed.pop_front() {
                self.serve(m, host)?;
            }
        }
        for _ in 0..MOST_COMMANDS {
            let m = match self.next_message()? {
                Some(m) => m,
                None if self.receive(Duration::ZERO)? => continue,
                None => return Ok(true),
            };
            let (h, _) = split(&m)?;
            if h.flags & wire::TYPE == wire::REPLY {
                return Err(Failure::Protocol(format!("a reply to command {} that nobody sent", h.command)));
            }
            self.serve(m, host)?;
        }
        Ok(false)
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
                self.send(&reply, 0..0)
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
        self.send(&h.refusal(why.raw_os_error() as u32).message(&[]), 0..0)
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

    fn receive(&mut self, wait: Duration) -> Result<bool, Failure> {
        self.way.receive(&mut self.received, wait)
    }

    /// Wait for something while there is time.
    fn receive_until(&mut self) -> Result<(), Failure> {
        // The server may be waiting for what was postponed; half of the time is left for the reply.
        let patience = if self.postponed.is_empty() { self.timeout } else { self.timeout / 2 };
        let left = patience.saturating_sub(self.begun.elapsed());
        if self.receive(left)? || !left.is_zero() {
            return Ok(());
        }
        self.check_time()?;
        self.refuse_postponed()
    }

    fn check_time(&self) -> Result<(), Failure> {
        if self.begun.elapsed() < self.timeout {
            Ok(())
        } else {
            Err(Failure::Stalled(self.timeout))
        }
    }

    fn send(&mut self, message: &[u8], vectors: Range<u32>) -> Result<(), Failure> {
        if self.way.send(message, vectors, self.begun + self.timeout)? {
            Ok(())
        } else {
            Err(Failure::Stalled(self.timeout))
        }
    }
}

fn split(message: &[u8]) -> Result<(Header, &[u8]), Failure> {
    let h = Header::parse(message).ok_or_else(|| Failure::Protocol("a message without header".into()))?;
    Ok((h, message.get(wire::HEADER_BYTES..).unwrap_or_default()))
}
