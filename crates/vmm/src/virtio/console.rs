//! virtio-console with two ports: port 0 is the guest's console (hvc0), port 1 the result channel.
//!
//! *Modelled*: VIRTIO_CONSOLE_F_MULTIPORT with its control messages, names, open and close (virtio 1.2 §5.3).
//! *Not modelled*: console resize, emergency write, port hot-unplug.

use std::collections::VecDeque;
use std::io::Read;
use std::io::Write;

use virtio_queue::Queue;
use virtio_queue::QueueT;
use vm_memory::GuestMemoryMmap;

use super::Device;

/// Port of the console.
pub const CONSOLE: usize = 0;
/// Port of the result channel.
pub const CHANNEL: usize = 1;
const PORTS: usize = 2;
/// VIRTIO_CONSOLE_F_MULTIPORT.
const F_MULTIPORT: u64 = 1 << 1;
const CONTROL_RX: usize = 2;
const CONTROL_TX: usize = 3;
/// Queues: receive and transmit of port 0, control, receive and transmit of port 1.
const QUEUES: usize = 6;
/// Longest buffer taken from the guest in one piece; the rest of it follows in the next.
const MAX_CHUNK_BYTES: usize = 64 << 10;
/// Buffers handled by one kick; a driver has at most a queue full.
const MAX_CHAINS: usize = 256;
/// Bytes that wait for the guest, a port.
const MAX_PENDING_BYTES: usize = 1 << 20;

/// Control events (virtio 1.2 §5.3.6.2).
mod event {
    pub const DEVICE_READY: u16 = 0;
    pub const PORT_ADD: u16 = 1;
    pub const PORT_READY: u16 = 3;
    pub const CONSOLE_PORT: u16 = 4;
    pub const PORT_OPEN: u16 = 6;
    pub const PORT_NAME: u16 = 7;
}

/// What the guest did.
#[derive(Debug, PartialEq, Eq)]
pub enum Output {
    /// Bytes written to a port.
    Bytes(usize, Vec<u8>),
    /// A port was opened or closed.
    Open(usize, bool),
}

/// The device.
pub struct Console {
    config: [u8; 12],
    to_guest: [VecDeque<u8>; PORTS],
    control: VecDeque<Vec<u8>>,
    out: Box<dyn Fn(Output) + Send>,
}

const fn receive_queue(port: usize) -> usize {
    if port == 0 {
        0
    } else {
        2 + port * 2
    }
}

impl Console {
    /// A device whose output goes to `out`.
    pub fn new(out: Box<dyn Fn(Output) + Send>) -> Console {
        let mut config = [0; 12];
        config[4..8].copy_from_slice(&(PORTS as u32).to_le_bytes());
        Console { config, to_guest: Default::default(), control: VecDeque::new(), out }
    }

    /// Queue bytes for the guest; what is beyond the bound is dropped (a guest that does not read loses input).
    pub fn send(&mut self, port: usize, bytes: &[u8]) {
        let room = MAX_PENDING_BYTES - self.to_guest[port].len();
        self.to_guest[port].extend(bytes.iter().take(room));
    }

    /// The queue that must be run for `port` to receive.
    pub const fn queue_of(port: usize) -> usize {
        receive_queue(port)
    }

    fn post(&mut self, port: usize, what: u16, value: u16, tail: &[u8]) {
        let mut m = (port as u32).to_le_bytes().to_vec();
        m.extend(what.to_le_bytes());
        m.extend(value.to_le_bytes());
        m.extend(tail);
        if self.control.len() < MAX_CHAINS {
            self.control.push_back(m);
        }
    }

    fn take_control(&mut self, m: &[u8]) {
        let Some(m) = m.get(..8) else { return };
        let port = u32::from_le_bytes([m[0], m[1], m[2], m[3]]) as usize;
        let (what, value) = (u16::from_le_bytes([m[4], m[5]]), u16::from_le_bytes([m[6], m[7]]));
        match what {
            event::DEVICE_READY if value == 1 => {
                (0..PORTS).for_each(|p| self.post(p, event::PORT_ADD, 1, &[]))
            }
            event::PORT_READY if value == 1 && port == CONSOLE => {
                self.post(port, event::CONSOLE_PORT, 1, &[]);
                self.post(port, event::PORT_OPEN, 1, &[]);
            }
            event::PORT_READY if value == 1 && port == CHANNEL => {
                self.post(port, event::PORT_NAME, 1, guest_agent::PORT_NAME.as_bytes());
                self.post(port, event::PORT_OPEN, 1, &[]);
            }
            event::PORT_OPEN if port < PORTS => (self.out)(Output::Open(port, value == 1)),
            _ => {}
        }
    }

    /// Take what the guest wrote to the transmit queue of `port` (`None`: the control queue).
    fn drain(&mut self, mem: &GuestMemoryMmap, q: &mut Queue, port: Option<usize>) -> bool {
        let mut used = false;
        for _ in 0..MAX_CHAINS {
            let Some(chain) = q.pop_descriptor_chain(mem) else { break };
            let head = chain.head_index();
            if let Ok(mut reader) = chain.reader(mem) {
                let mut buf = Vec::new();
                while reader.available_bytes() > 0 {
                    buf.resize(reader.available_bytes().min(MAX_CHUNK_BYTES), 0);
                    if reader.read_exact(&mut buf).is_err() {
                        break;
                    }
                    match port {
                        Some(p) => (self.out)(Output::Bytes(p, buf.clone())),
                        None => self.take_control(&buf),
                    }
                }
            }
            used |= q.add_used(mem, head, 0).is_ok();
        }
        used
    }

    fn fill_control(&mut self, mem: &GuestMemoryMmap, q: &mut Queue) -> bool {
        let mut used = false;
        while !self.control.is_empty() {
            let Some(chain) = q.pop_descriptor_chain(mem) else { break };
            let head = chain.head_index();
            let Some(m) = self.control.pop_front() else { break };
            let n = chain.writer(mem).ok().and_then(|mut w| w.write(&m).ok()).unwrap_or(0);
            used |= q.add_used(mem, head, n as u32).is_ok();
        }
        used
    }

    fn fill(&mut self, mem: &GuestMemoryMmap, q: &mut Queue, port: usize) -> bool {
        let mut used = false;
        while !self.to_guest[port].is_empty() {
            let Some(chain) = q.pop_descriptor_chain(mem) else { break };
            let head = chain.head_index();
            let (bytes, _) = self.to_guest[port].as_slices();
            let n = chain.writer(mem).ok().and_then(|mut w| w.write(bytes).ok()).unwrap_or(0);
            self.to_guest[port].drain(..n);
            used |= q.add_used(mem, head, n as u32).is_ok();
            if n == 0 {
                break;
            }
        }
        used
    }
}

impl Device for Console {
    fn id(&self) -> u32 {
        3
    }

    fn features(&self) -> u64 {
        F_MULTIPORT
    }

    fn queues(&self) -> usize {
        QUEUES
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn kick(&mut self, mem: &GuestMemoryMmap, queues: &mut [Queue], index: usize) -> bool {
        match index {
            CONTROL_TX => {
                let used = self.drain(mem, &mut queues[CONTROL_TX], None);
                self.fill_control(mem, &mut queues[CONTROL_RX]) || used
            }
            CONTROL_RX => self.fill_control(mem, &mut queues[CONTROL_RX]),
            _ => match (0..PORTS).find(|p| receive_queue(*p) == index || receive_queue(*p) + 1 == index) {
                Some(p) if receive_queue(p) == index => self.fill(mem, &mut queues[index], p),
                Some(p) => self.drain(mem, &mut queues[index], Some(p)),
                None => false,
            },
        }
    }

    fn reset(&mut self) {
        self.control.clear();
    }
}

#[cfg(test)]
#[path = "console_test.rs"]
mod tests;
