//! Network device, looped back: each frame comes back with its addresses swapped (virtio 1.2 §5.1; Linux v6.12
//! drivers/net/virtio_net.c).
//!
//! *Modelled*: one queue pair, MAC address, link status (up).
//! *Not modelled*: offloads, mergeable buffers, control queue, more queue pairs.

use std::collections::VecDeque;

use block::StateError;

use super::Io;
use super::RingError;
use super::VirtioDevice;

/// Receive queue.
pub const RX: usize = 0;
/// Transmit queue.
pub const TX: usize = 1;
/// Bytes of `struct virtio_net_hdr`; `num_buffers` is in it for every device of version 1.
pub const HEADER_BYTES: usize = 12;
/// Longest frame: 1500 bytes behind an Ethernet header with a VLAN tag. A longer one is lost.
pub const MAX_FRAME_BYTES: usize = 1518;
/// Shortest frame: the Ethernet header. A shorter one is lost.
pub const MIN_FRAME_BYTES: usize = 14;
/// Frames that wait for receive buffers; more are lost.
pub const MAX_FRAMES: usize = 256;

/// Feature bits (virtio 1.2 §5.1.3).
pub mod feature {
    /// `mac` is there.
    pub const MAC: u64 = 1 << 5;
    /// `status` is there.
    pub const STATUS: u64 = 1 << 16;
}

const STATUS_LINK_UP: u16 = 1;

/// The device.
#[derive(Clone, Debug)]
pub struct Net {
    mac: [u8; 6],
    frames: VecDeque<Vec<u8>>,
}

impl Net {
    /// A device with this address.
    pub fn new(mac: [u8; 6]) -> Net {
        Net { mac, frames: VecDeque::new() }
    }

    fn transmit(&mut self, io: &mut Io<'_>) -> Result<(), RingError> {
        while let Some(chain) = io.pop(TX)? {
            let len = chain.readable.len_bytes();
            let bytes = len.checked_sub(HEADER_BYTES as u64).ok_or(RingError::BufferTooShort)? as usize;
            if fits(bytes) && self.frames.len() < MAX_FRAMES {
                let mut frame = vec![0; bytes];
                io.read(&chain, HEADER_BYTES as u64, &mut frame)?;
                let (destination, rest) = frame.split_at_mut(6);
                destination.swap_with_slice(&mut rest[..6]);
                self.frames.push_back(frame);
            }
            io.push(TX, &chain, 0)?;
            self.receive(io)?;
        }
        Ok(())
    }

    fn receive(&mut self, io: &mut Io<'_>) -> Result<(), RingError> {
        while !self.frames.is_empty() {
            let Some(chain) = io.pop(RX)? else { break };
            let Some(frame) = self.frames.pop_front() else { break };
            let mut packet = vec![0; HEADER_BYTES];
            // num_buffers (virtio 1.2 §5.1.6.4.1).
            packet[10] = 1;
            packet.extend(frame);
            io.write(&chain, 0, &packet)?;
            io.push(RX, &chain, packet.len())?;
        }
        Ok(())
    }
}

fn fits(frame_bytes: usize) -> bool {
    (MIN_FRAME_BYTES..=MAX_FRAME_BYTES).contains(&frame_bytes)
}

impl VirtioDevice for Net {
    type State = Vec<Vec<u8>>;
    const NAME: &'static str = "virtio-net";
    const ID: u16 = 1;
    /// Ethernet controller.
    const CLASS: u32 = 0x02_0000;

    fn features(&self) -> u64 {
        feature::MAC | feature::STATUS
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![256, 256]
    }

    /// `mac` and `status` of `struct virtio_net_config` (virtio 1.2 §5.1.4).
    fn config(&self) -> Vec<u8> {
        [&self.mac[..], &STATUS_LINK_UP.to_le_bytes()].concat()
    }

    fn serve(&mut self, q: usize, io: &mut Io<'_>) -> Result<(), RingError> {
        self.receive(io)?;
        if q == TX {
            self.transmit(io)?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        self.frames.clear();
    }

    fn save(&self) -> Vec<Vec<u8>> {
        let Net { mac: _, frames } = self;
        frames.iter().cloned().collect()
    }

    fn restore(&mut self, saved: Vec<Vec<u8>>) -> Result<(), StateError> {
        if saved.len() > MAX_FRAMES || !saved.iter().all(|f| fits(f.len())) {
            return Err(StateError::Impossible { what: "virtio-net frames" });
        }
        self.frames = saved.into();
        Ok(())
    }
}
