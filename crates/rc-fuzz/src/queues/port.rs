//! A port that passes every request to memory and records it.

use block::Cx;
use block::MemPort;
use block::VecMem;
use pcie::Bdf;
use pcie::Completion;
use pcie::Message;
use pcie::Sender;
use pcie::Upstream;

/// One memory request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Access {
    /// Where it begins.
    pub addr: u64,
    /// What was written, or read; of a read that was refused, as many zeroes.
    pub data: Vec<u8>,
    /// Whether the function wrote.
    pub write: bool,
    /// Whether memory took it.
    pub done: bool,
}

impl Access {
    /// Whether it begins and ends in different pages (PCIe §2.2.7: no request crosses a 4 KiB boundary).
    pub fn crosses_page(&self) -> bool {
        (self.addr & 0xfff) as usize + self.data.len() > 0x1000
    }

    /// The access of which `self` is the part before a page's end and `next` the one behind it.
    pub fn joined(&self, next: &Access) -> Option<Access> {
        let adjoins = self.addr.wrapping_add(self.data.len() as u64) == next.addr && next.addr & 0xfff == 0;
        let data = [&self.data[..], &next.data].concat();
        (adjoins && self.write == next.write).then_some(Access {
            data,
            done: self.done && next.done,
            ..*self
        })
    }
}

/// Guest memory and the record of one call.
#[derive(Clone)]
pub struct Port {
    /// Guest memory.
    pub mem: VecMem,
    accesses: Vec<Access>,
    messages: Vec<(u32, Message)>,
}

impl Port {
    /// A port in front of `mem`.
    pub fn new(mem: VecMem) -> Port {
        Port { mem, accesses: Vec::new(), messages: Vec::new() }
    }

    /// The record since the last call: requests in order, messages with their vectors.
    pub fn take(&mut self) -> (Vec<Access>, Vec<(u32, Message)>) {
        (std::mem::take(&mut self.accesses), std::mem::take(&mut self.messages))
    }
}

fn completion(done: bool) -> Completion {
    if done {
        Completion::Success
    } else {
        Completion::UnsupportedRequest
    }
}

impl Upstream<()> for Port {
    fn mem_write(&mut self, _: &mut Cx<'_, ()>, _: Bdf, bme: bool, addr: u64, data: &[u8]) -> Completion {
        let done = bme && self.mem.write(addr, data);
        self.accesses.push(Access { addr, data: data.to_vec(), write: true, done });
        completion(done)
    }

    fn mem_read(&mut self, _: &mut Cx<'_, ()>, _: Bdf, bme: bool, addr: u64, buf: &mut [u8]) -> Completion {
        buf.fill(0);
        let done = bme && self.mem.read(addr, buf);
        self.accesses.push(Access { addr, data: buf.to_vec(), write: false, done });
        completion(done)
    }

    fn message(&mut self, _: &mut Cx<'_, ()>, from: Sender, vector: u32, m: Message) -> Completion {
        if from.bme {
            self.messages.push((vector, m));
        }
        completion(from.bme)
    }
}
