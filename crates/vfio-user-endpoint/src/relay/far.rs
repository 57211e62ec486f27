//! The end of a relay where the functions are.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::Condvar;
use std::sync::Mutex;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::time::Duration;
use std::time::Instant;

use rustix::event::PollFlags;
use rustix::io::Errno;

use super::frame::Body;
use super::frame::Frame;
use super::frame::Frames;
use super::TELL_BYTES;
use super::WINDOW_BYTES;
use crate::connection::Failure;
use crate::endpoint::MOST_VECTORS;
use crate::transport::wait;
use crate::transport::Transport;
use crate::transport::CHUNK_BYTES;
use crate::wire::irq;

/// How long a frame that nobody waits for may take to get onto the link.
const ASIDE: Duration = Duration::from_secs(2);
/// The reader looks up at least so often.
const READ_WAIT: Duration = Duration::from_secs(60);

/// The link to [`super::serve`].
#[derive(Clone, Debug)]
pub struct Link {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    port: OwnedFd,
    /// Whether a frame was torn: nothing can be written any more.
    torn: Mutex<bool>,
    inboxes: Mutex<Inboxes>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Inboxes {
    /// The link is over.
    ended: bool,
    channels: BTreeMap<u8, Inbox>,
}

/// What has come of one channel.
#[derive(Debug)]
struct Inbox {
    bytes: Vec<u8>,
    /// Passed on and not told.
    passed: usize,
    /// What may still be sent.
    window: usize,
    /// Bytes handed on, from the first.
    received: u64,
    /// Triggered interrupts, by type and vector.
    triggered: BTreeMap<(u32, u32), Triggered>,
    closed: bool,
}

/// After how many bytes of the server a vector was triggered: the first and the last time that it still has to be taken.
#[derive(Clone, Copy, Debug)]
struct Triggered {
    first: u64,
    last: u64,
}

/// One server at the other end of the link.
#[derive(Debug)]
pub struct Channel {
    number: u8,
    /// Interrupt type that is on.
    index: u32,
    shared: Arc<Shared>,
}

impl Link {
    /// Over `port`, which from now on is not used by anybody else.
    pub fn new(port: OwnedFd) -> io::Result<Link> {
        rustix::io::ioctl_fionbio(&port, true)?;
        let shared = Arc::new(Shared {
            port,
            torn: Mutex::new(false),
            inboxes: Mutex::default(),
            changed: Condvar::new(),
        });
        let reader = Arc::clone(&shared);
        std::thread::Builder::new().name("vfio-user link".into()).spawn(move || reader.read())?;
        Ok(Link { shared })
    }

    /// The way to server `number`. A channel is opened once.
    pub fn channel(&self, number: u8) -> Channel {
        let inbox = Inbox {
            bytes: Vec::new(),
            passed: 0,
            window: WINDOW_BYTES,
            received: 0,
            triggered: BTreeMap::new(),
            closed: false,
        };
        self.shared.inboxes().channels.insert(number, inbox);
        Channel { number, index: irq::INTX, shared: Arc::clone(&self.shared) }
    }
}

impl Shared {
    fn inboxes(&self) -> MutexGuard<'_, Inboxes> {
        self.inboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) {
        let mut frames = Frames::default();
        let mut chunk = [0; CHUNK_BYTES];
        loop {
            match rustix::io::read(&self.port, &mut chunk) {
                Ok(0) => break,
                Ok(n) => frames.buffer().extend_from_slice(&chunk[..n]),
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) if wait(&self.port, PollFlags::IN, READ_WAIT).is_ok() => continue,
                Err(_) => break,
            }
            if self.take_all(&mut frames).is_err() {
                break;
            }
        }
        self.inboxes().ended = true;
        self.changed.notify_all();
    }

    fn take_all(&self, frames: &mut Frames) -> io::Result<()> {
        let mut inboxes = self.inboxes();
        while let Some(f) = frames.next()? {
            // Of a channel that nobody has: what was on its way.
            let Some(inbox) = inboxes.channels.get_mut(&f.channel) else { continue };
            inbox.take(f.body);
        }
        self.changed.notify_all();
        Ok(())
    }

    /// Put a whole frame onto the link. `false`: not possible until `until`, and nothing of it is there.
    fn write(&self, frame: &Frame, until: Instant) -> Result<bool, Failure> {
        let mut torn = self.torn.lock().unwrap_or_else(PoisonError::into_inner);
        if *torn {
            return Err(Failure::Closed);
        }
        let bytes = frame.encode();
        let mut sent = 0;
        while sent < bytes.len() {
            match rustix::io::write(&self.port, &bytes[sent..]) {
                Ok(n) => sent += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) if Instant::now() < until => {
                    wait(&self.port, PollFlags::OUT, until.saturating_duration_since(Instant::now()))?;
                }
                Err(Errno::AGAIN) if sent == 0 => return Ok(false),
                Err(e) => {
                    *torn = true;
                    return Err(if e == Errno::PIPE { Failure::Closed } else { Failure::Socket(e.into()) });
                }
            }
        }
        Ok(true)
    }
}

impl Inbox {
    fn take(&mut self, body: Body) {
        match body {
            // Whoever sends more than the window keeps to no rule at all.
            Body::Bytes(b) if self.bytes.len() + b.len() > WINDOW_BYTES => self.closed = true,
            Body::Bytes(b) => self.bytes.extend_from_slice(&b),
            Body::Passed(n) => self.window = self.window.saturating_add(n as usize).min(WINDOW_BYTES),
            Body::Triggered { index, vector, after } if index <= irq::MSIX && vector < MOST_VECTORS => {
                let t =
                    self.triggered.entry((index, vector)).or_insert(Triggered { first: after, last: after });
                t.last = after;
            }
            Body::Triggered { .. } => {}
            Body::Closed => self.closed = true,
        }
    }

    /// Vectors of type `index` whose bytes before them have been handed on.
    fn take_triggered(&mut self, index: u32) -> Vec<u32> {
        let received = self.received;
        let due = self.triggered.iter().filter(|((i, _), t)| *i == index && t.first <= received);
        let due: Vec<u32> = due.map(|((_, vector), _)| *vector).collect();
        self.triggered.retain(|(i, _), t| *i != index || t.last > received);
        self.triggered.values_mut().filter(|t| t.first <= received).for_each(|t| t.first = t.last);
        due
    }
}

impl Channel {
    /// Do something with the inbox once `ready`; `None`: it is not until then.
    fn when<R>(
        &self,
        until: Instant,
        ready: impl Fn(&Inbox) -> bool,
        f: impl FnOnce(&mut Inbox) -> R,
    ) -> Result<Option<R>, Failure> {
        let mut inboxes = self.shared.inboxes();
        loop {
            let ended = inboxes.ended;
            let inbox = inboxes.channels.get_mut(&self.number).ok_or(Failure::Closed)?;
            if ready(inbox) {
                return Ok(Some(f(inbox)));
            }
            if inbox.closed || ended {
                return Err(Failure::Closed);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(None);
            }
            let waited = self.shared.changed.wait_timeout(inboxes, left);
            inboxes = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn frame(&self, body: Body) -> Frame {
        Frame { channel: self.number, body }
    }
}

impl Transport for Channel {
    /// The other end sees for itself which triggers a message asks for.
    fn send(&mut self, message: &[u8], _vectors: Range<u32>, until: Instant) -> Result<bool, Failure> {
        let bytes = message.len();
        let room = |i: &Inbox| !i.closed && i.window >= bytes;
        if self.when(until, room, |i| i.window -= bytes)?.is_none() {
            return Ok(false);
        }
        self.shared.write(&self.frame(Body::Bytes(message.to_vec())), until)
    }

    fn receive(&mut self, to: &mut Vec<u8>, wait: Duration) -> Result<bool, Failure> {
        let taken = self.when(
            Instant::now() + wait,
            |i| !i.bytes.is_empty(),
            |i| {
                i.passed += i.bytes.len();
                i.received += i.bytes.len() as u64;
                to.append(&mut i.bytes);
                let tell = i.passed >= TELL_BYTES;
                if tell {
                    std::mem::take(&mut i.passed)
                } else {
                    0
                }
            },
        )?;
        if let Some(passed @ 1..) = taken {
            if !self.shared.write(&self.frame(Body::Passed(passed as u32)), Instant::now() + ASIDE)? {
                return Err(Failure::Closed);
            }
        }
        Ok(taken.is_some())
    }

    fn set_triggers(&mut self, index: u32, _vectors: u32) -> Result<(), Failure> {
        self.index = index;
        // The reply to what disarmed the last ones came after all of theirs.
        self.when(Instant::now(), |_| true, |i| i.triggered.clear()).map(drop)
    }

    fn take_triggered(&mut self) -> Result<Vec<u32>, Failure> {
        let taken = self.when(Instant::now(), |_| true, |i| i.take_triggered(self.index))?;
        Ok(taken.unwrap_or_default())
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.shared.inboxes().channels.remove(&self.number);
        // If the link is over, the other end knows.
        let _ = self.shared.write(&self.frame(Body::Closed), Instant::now() + ASIDE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_waits_for_the_bytes_before_it_and_none_is_lost() {
        let (_near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let mut c = Link::new(far.into()).unwrap().channel(0);
        c.set_triggers(irq::MSIX, 4).unwrap();
        let take = |c: &Channel, body| c.shared.inboxes().channels.get_mut(&0).unwrap().take(body);
        let triggered = |vector, after| Body::Triggered { index: irq::MSIX, vector, after };
        take(&c, triggered(2, 0));
        take(&c, triggered(1, 3));
        take(&c, triggered(1, 5));
        take(&c, triggered(MOST_VECTORS, 0));
        take(&c, Body::Triggered { index: irq::MSI, vector: 3, after: 0 });
        for (bytes, vectors) in [(0, vec![2]), (3, vec![1]), (1, vec![]), (1, vec![1]), (9, vec![])] {
            if bytes > 0 {
                take(&c, Body::Bytes(vec![0; bytes]));
                assert!(c.receive(&mut Vec::new(), Duration::ZERO).unwrap());
            }
            assert_eq!(c.take_triggered().unwrap(), vectors, "after {bytes} more");
        }
    }
}
