//! Eventfds by which the server triggers interrupts.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use rustix::event::EventfdFlags;
use rustix::event::PollFd;
use rustix::event::PollFlags;
use rustix::event::Timespec;
use rustix::io::Errno;

/// The triggers of one interrupt type, one a vector.
#[derive(Debug)]
pub struct Triggers {
    fds: Vec<OwnedFd>,
}

/// One trigger.
pub fn trigger() -> io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}

/// Whether it was triggered since the last look. A server that resets the counter behind our back has triggered nothing.
pub fn take(trigger: impl AsFd) -> bool {
    rustix::io::read(trigger, &mut [0; 8]).is_ok()
}

impl Triggers {
    /// `vectors` triggers.
    pub fn new(vectors: u32) -> io::Result<Triggers> {
        Ok(Triggers { fds: (0..vectors).map(|_| trigger()).collect::<Result<_, _>>()? })
    }

    /// The server's ends.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        self.fds.iter().map(|f| f.as_fd()).collect()
    }

    /// Vectors that were triggered since the last look.
    pub fn take(&self) -> io::Result<Vec<u32>> {
        let mut polled: Vec<_> = self.fds.iter().map(|f| PollFd::new(f, PollFlags::IN)).collect();
        match rustix::event::poll(&mut polled, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(0) | Err(Errno::INTR) => return Ok(Vec::new()),
            Ok(_) => {}
            Err(e) => return Err(e.into()),
        }
        let ready =
            (0u32..).zip(&polled).filter(|(_, p)| p.revents().contains(PollFlags::IN)).map(|(n, _)| n);
        let mut taken: Vec<u32> = ready.collect();
        taken.retain(|n| self.fds.get(*n as usize).is_some_and(take));
        Ok(taken)
    }
}
