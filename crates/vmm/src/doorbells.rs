//! Doorbells as eventfds: a write of one does not bring its vCPU out of KVM; a thread finds it here.
//!
//! Which registers are doorbells is a function of the model's state. The bus compares it with what is armed, as it does with
//! interrupt levels. A write whose eventfd has not been looked at when the next access comes is delivered before that access:
//! posted writes are not passed (PCIe §2.4.1).

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;

use vmm_sys_util::epoll::ControlOperation;
use vmm_sys_util::epoll::Epoll;
use vmm_sys_util::epoll::EpollEvent;
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::eventfd::EFD_NONBLOCK;

/// Makes writes at guest addresses ring eventfds: KVM in a machine, a recorder in tests.
pub trait Switchboard: Send {
    /// From now on a write of four bytes at `addr` signals `fd`. `false`: it cannot be done, and the write goes its usual way.
    fn connect(&mut self, addr: u64, fd: &EventFd) -> bool;
    /// No more.
    fn disconnect(&mut self, addr: u64, fd: &EventFd);
}

/// The doorbells of a machine that are eventfds now.
pub struct Doorbells {
    board: Box<dyn Switchboard>,
    armed: BTreeMap<u64, EventFd>,
    epoll: Epoll,
}

impl Doorbells {
    /// None yet; `epoll` tells of all of them.
    pub fn new(board: Box<dyn Switchboard>, epoll: Epoll) -> Doorbells {
        Doorbells { board, armed: BTreeMap::new(), epoll }
    }

    /// Whether there are any.
    pub fn is_empty(&self) -> bool {
        self.armed.is_empty()
    }

    /// Have `wanted`, and no others.
    pub fn arm(&mut self, wanted: &[u64]) {
        if self.armed.len() == wanted.len() && wanted.iter().all(|a| self.armed.contains_key(a)) {
            return;
        }
        for addr in self.armed.keys().copied().filter(|a| !wanted.contains(a)).collect::<Vec<_>>() {
            if let Some(fd) = self.armed.remove(&addr) {
                self.board.disconnect(addr, &fd);
                // Closing it would do too, but it may be open in a child.
                let _ = self.epoll.ctl(ControlOperation::Delete, fd.as_raw_fd(), EpollEvent::default());
            }
        }
        for &addr in wanted {
            if !self.armed.contains_key(&addr) {
                self.add(addr);
            }
        }
    }

    fn add(&mut self, addr: u64) {
        let Ok(fd) = EventFd::new(EFD_NONBLOCK) else { return };
        let event = EpollEvent::new(EventSet::IN, addr);
        if self.epoll.ctl(ControlOperation::Add, fd.as_raw_fd(), event).is_ok()
            && self.board.connect(addr, &fd)
        {
            self.armed.insert(addr, fd);
        }
    }

    /// Take those that rang, by address.
    pub fn take_rung(&mut self) -> Vec<u64> {
        let mut events = [EpollEvent::default(); 16];
        let n = self.epoll.wait(0, &mut events).unwrap_or(0);
        let rang = events.iter().take(n).map(EpollEvent::data);
        rang.filter(|a| self.armed.get(a).is_some_and(|fd| fd.read().is_ok())).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::Mutex;

    use super::*;

    /// What is connected, to be rung.
    #[derive(Clone, Default)]
    struct Board(Arc<Mutex<BTreeMap<u64, EventFd>>>);

    impl Switchboard for Board {
        fn connect(&mut self, addr: u64, fd: &EventFd) -> bool {
            self.0.lock().unwrap().insert(addr, fd.try_clone().unwrap());
            addr != 0xbad
        }

        fn disconnect(&mut self, addr: u64, _: &EventFd) {
            assert!(self.0.lock().unwrap().remove(&addr).is_some());
        }
    }

    #[test]
    fn only_what_is_armed_rings_and_each_ring_is_taken_once() {
        let board = Board::default();
        let mut d = Doorbells::new(Box::new(board.clone()), Epoll::new().unwrap());
        let connected = || board.0.lock().unwrap().keys().copied().collect::<Vec<_>>();
        d.arm(&[0x1000, 0x1008]);
        assert_eq!(connected(), [0x1000, 0x1008]);
        board.0.lock().unwrap()[&0x1008].write(1).unwrap();
        board.0.lock().unwrap()[&0x1008].write(1).unwrap();
        assert_eq!(d.take_rung(), [0x1008], "two writes, one ring");
        assert_eq!(d.take_rung(), [0; 0]);
        board.0.lock().unwrap()[&0x1000].write(1).unwrap();
        d.arm(&[0x1008, 0x1010]);
        assert_eq!(connected(), [0x1008, 0x1010]);
        assert_eq!(d.take_rung(), [0; 0], "what is gone does not ring");
        d.arm(&[0xbad]);
        assert!(d.is_empty(), "it goes its usual way");
        d.arm(&[]);
    }
}
