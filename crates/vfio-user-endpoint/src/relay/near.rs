//! The end of a relay where the servers are: one loop, no lock.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::io::Errno;

use super::frame::Body;
use super::frame::Frame;
use super::frame::Frames;
use super::MOST_CHANNELS;
use super::TELL_BYTES;
use super::WINDOW_BYTES;
use crate::connection::Failure;
use crate::connection::MOST_FDS;
use crate::endpoint::MOST_VECTORS;
use crate::interrupts;
use crate::transport::read_some;
use crate::transport::send_some;
use crate::transport::CHUNK_BYTES;
use crate::wire;
use crate::wire::command;
use crate::wire::irq;
use crate::wire::Fields;
use crate::wire::Header;

/// Nothing more is taken from servers while so much waits for the link.
const MOST_WAITING_BYTES: usize = 256 << 10;

/// Relay between `link` and `servers`, whose place in the list is the number of their channel, until the link is over.
///
/// An error says that the other end of the link does not keep to the rules.
pub fn serve(link: UnixStream, servers: Vec<UnixStream>) -> io::Result<()> {
    if servers.len() > MOST_CHANNELS {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many servers"));
    }
    link.set_nonblocking(true)?;
    for s in &servers {
        s.set_nonblocking(true)?;
    }
    let servers = servers.into_iter().map(Server::new).collect();
    Relay { link, frames: Frames::default(), outgoing: Vec::new(), servers }.run()
}

struct Relay {
    link: UnixStream,
    frames: Frames,
    /// For the link.
    outgoing: Vec<u8>,
    servers: Vec<Server>,
}

struct Server {
    /// `None`: the connection is over.
    socket: Option<UnixStream>,
    queue: VecDeque<Outgoing>,
    /// Bytes in the queue, and passed on but not told: what the other end has of its window.
    owed: usize,
    /// Passed on and not told.
    passed: usize,
    /// What the other end still takes.
    window: usize,
    /// Interrupt type that can be triggered.
    index: u32,
    triggers: BTreeMap<u32, Arc<OwnedFd>>,
    /// Bytes of the server that went onto the link.
    forwarded: u64,
}

/// A message for a server.
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<Arc<OwnedFd>>,
}

fn broken(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl Relay {
    fn run(mut self) -> io::Result<()> {
        loop {
            if !self.receive()? {
                return Ok(());
            }
            for (channel, server) in (0u8..).zip(&mut self.servers) {
                let room = self.outgoing.len() < MOST_WAITING_BYTES;
                server.go_on(room, &mut |body| self.outgoing.extend(Frame { channel, body }.encode()));
            }
            if !self.send()? {
                return Ok(());
            }
            self.wait()?;
        }
    }

    /// Wait until something can go on. What is of no interest now is not in the set: its end would wake us again and again.
    fn wait(&self) -> io::Result<()> {
        let room = self.outgoing.len() < MOST_WAITING_BYTES;
        let mut set = Vec::new();
        let out = if self.outgoing.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        set.push(PollFd::new(&self.link, PollFlags::IN | out));
        for s in &self.servers {
            s.interest(room, &mut set);
        }
        match rustix::event::poll(&mut set, None) {
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Take what the link has. `false`: it is over.
    fn receive(&mut self) -> io::Result<bool> {
        match read_some(&self.link, self.frames.buffer(), CHUNK_BYTES) {
            Ok(_) => {}
            Err(Failure::Closed) => return Ok(false),
            Err(e) => return Err(io::Error::other(e)),
        }
        while let Some(f) = self.frames.next()? {
            // A channel that was never opened is not to be spoken on.
            let server = self.servers.get_mut(usize::from(f.channel));
            server.ok_or_else(|| broken("a frame for a server that there is not"))?.take(f.body)?;
        }
        Ok(true)
    }

    fn send(&mut self) -> io::Result<bool> {
        while !self.outgoing.is_empty() {
            match send_some(&self.link, &self.outgoing, &[]) {
                Ok(0) => break,
                Ok(n) => drop(self.outgoing.drain(..n)),
                Err(Failure::Closed) => return Ok(false),
                Err(e) => return Err(io::Error::other(e)),
            }
        }
        Ok(true)
    }
}

impl Server {
    fn new(socket: UnixStream) -> Server {
        Server {
            socket: Some(socket),
            queue: VecDeque::new(),
            owed: 0,
            passed: 0,
            window: WINDOW_BYTES,
            index: irq::INTX,
            triggers: BTreeMap::new(),
            forwarded: 0,
        }
    }

    fn interest<'a>(&'a self, room: bool, set: &mut Vec<PollFd<'a>>) {
        let Some(socket) = &self.socket else { return };
        let mut what = PollFlags::empty();
        what.set(PollFlags::IN, room && self.window > 0);
        what.set(PollFlags::OUT, !self.queue.is_empty());
        if !what.is_empty() {
            set.push(PollFd::new(socket, what));
        }
        if room {
            set.extend(self.triggers.values().map(|t| PollFd::new(&**t, PollFlags::IN)));
        }
    }

    /// A frame from the other end.
    fn take(&mut self, body: Body) -> io::Result<()> {
        match body {
            Body::Bytes(message) => self.take_message(message),
            Body::Passed(n) => {
                self.window = self.window.saturating_add(n as usize).min(WINDOW_BYTES);
                Ok(())
            }
            Body::Closed => {
                self.close();
                Ok(())
            }
            Body::Triggered { .. } => Err(broken("an interrupt for a server")),
        }
    }

    fn take_message(&mut self, message: Vec<u8>) -> io::Result<()> {
        let h = Header::parse(&message).filter(|h| h.bytes as usize == message.len());
        let h = h.ok_or_else(|| broken("no whole message"))?;
        if !may_pass(&h) {
            return Err(broken("a message that no function sends"));
        }
        self.owed += message.len();
        if self.owed > WINDOW_BYTES {
            return Err(broken("more than the window"));
        }
        if self.socket.is_none() {
            // It was sent before the other end could know.
            self.owed -= message.len();
            return Ok(());
        }
        let payload = message.get(wire::HEADER_BYTES..).unwrap_or_default();
        let fds = if h.command == command::SET_IRQS { self.set_irqs(payload)? } else { Vec::new() };
        self.queue.push_back(Outgoing { bytes: message, sent: 0, fds });
        Ok(())
    }

    /// Make the triggers that a SET_IRQS message is to carry.
    fn set_irqs(&mut self, payload: &[u8]) -> io::Result<Vec<Arc<OwnedFd>>> {
        let mut f = Fields(payload);
        let (Some(_), Some(flags), Some(index)) = (f.word(), f.word(), f.word()) else {
            return Err(broken("a SET_IRQS that is too short"));
        };
        let (Some(start), Some(count)) = (f.word(), f.word()) else {
            return Err(broken("a SET_IRQS that is too short"));
        };
        if flags & irq::ACTION_TRIGGER == 0 {
            return Ok(Vec::new());
        }
        if self.index != index || flags & irq::DATA_EVENTFD == 0 {
            self.index = index;
            self.triggers.clear();
        }
        if flags & irq::DATA_EVENTFD == 0 {
            return Ok(Vec::new());
        }
        let end = start.checked_add(count).filter(|end| *end <= MOST_VECTORS && count as usize <= MOST_FDS);
        let end = end.ok_or_else(|| broken("a SET_IRQS of too many vectors"))?;
        let mut made = Vec::new();
        for vector in start..end {
            let trigger = Arc::new(interrupts::trigger()?);
            self.triggers.insert(vector, Arc::clone(&trigger));
            made.push(trigger);
        }
        Ok(made)
    }

    /// Do what can be done now. `room`: the link takes more.
    fn go_on(&mut self, room: bool, out: &mut dyn FnMut(Body)) {
        let Some(socket) = self.socket.take() else { return };
        let gone = self.write(&socket, out).and_then(|()| {
            if room {
                self.read(&socket, out)?;
            }
            Ok(())
        });
        match gone {
            Ok(()) => self.socket = Some(socket),
            Err(why) => {
                log::warn!("vfio-user device lost: {why}");
                self.close();
                out(Body::Closed);
            }
        }
    }

    fn write(&mut self, socket: &UnixStream, out: &mut dyn FnMut(Body)) -> Result<(), Failure> {
        while let Some(next) = self.queue.front_mut() {
            let fds: Vec<_> = next.fds.iter().map(|f| f.as_fd()).collect();
            let with = if next.sent == 0 { &fds[..] } else { &[] };
            let sent = match send_some(socket, &next.bytes[next.sent..], with) {
                Ok(sent) => sent,
                // What it said before it went is still to be read.
                Err(Failure::Closed) => {
                    self.queue.clear();
                    break;
                }
                Err(e) => return Err(e),
            };
            next.sent += sent;
            self.passed += sent;
            if sent == 0 {
                break;
            }
            if next.sent == next.bytes.len() {
                self.queue.pop_front();
            }
        }
        if self.passed >= TELL_BYTES {
            out(Body::Passed(self.passed as u32));
            self.owed -= self.passed;
            self.passed = 0;
        }
        Ok(())
    }

    /// Take what the server has written, then look at its triggers, and pass these on first: whoever has received a reply knows
    /// of what was triggered before it.
    fn read(&mut self, socket: &UnixStream, out: &mut dyn FnMut(Body)) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        if self.window > 0 {
            read_some(socket, &mut bytes, self.window)?;
        }
        self.window -= bytes.len();
        self.forwarded += bytes.len() as u64;
        let triggered: Vec<u32> =
            self.triggers.iter().filter(|t| interrupts::take(t.1)).map(|t| *t.0).collect();
        if !triggered.is_empty() {
            // All that the server wrote before it triggered is in its socket by now, or was.
            let waiting = rustix::io::ioctl_fionread(socket).map_err(|e| Failure::Socket(e.into()))?;
            let (index, after) = (self.index, self.forwarded.saturating_add(waiting));
            triggered.into_iter().for_each(|vector| out(Body::Triggered { index, vector, after }));
        }
        if !bytes.is_empty() {
            out(Body::Bytes(bytes));
        }
        Ok(())
    }

    fn close(&mut self) {
        self.socket = None;
        self.queue.clear();
        self.triggers.clear();
    }
}

/// What a function says to a server: replies, and these commands.
fn may_pass(h: &Header) -> bool {
    h.flags & wire::TYPE == wire::REPLY
        || h.flags & wire::TYPE == 0
            && matches!(
                h.command,
                command::VERSION
                    | command::DMA_MAP
                    | command::GET_INFO
                    | command::GET_REGION_INFO
                    | command::GET_IRQ_INFO
                    | command::SET_IRQS
                    | command::REGION_READ
                    | command::REGION_WRITE
                    | command::RESET
            )
}
