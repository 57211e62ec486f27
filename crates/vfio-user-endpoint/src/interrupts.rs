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
    /// Interrupt type, as in [`crate::wire::irq`].
    pub index: u32,
    fds: Vec<OwnedFd>,
}

impl Triggers {
    /// `vectors` triggers.
    pub fn new(index: u32, vectors: u32) -> io::Result<Triggers> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let fds = (0..vectors).map(|_| rustix::event::eventfd(0, flags)).collect::<Result<_, _>>()?;
        Ok(Triggers { index, fds })
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
        // A server that resets the counter behind our back has triggered nothing.
        taken.retain(|n| rustix::io::read(&self.fds[*n as usize], &mut [0; 8]).is_ok());
        Ok(taken)
    }
}
