//! Console device with one port, looped back: what the guest writes, it reads again (virtio 1.2 §5.3; Linux v6.12
//! drivers/char/virtio_console.c).
//!
//! *Modelled*: port 0; output for the host to take. Bytes that nobody takes are lost, oldest first.
//! *Not modelled*: more ports, size, emergency write.

use std::collections::VecDeque;

use block::StateError;

use super::for_chunks;
use super::Io;
use super::RingError;
use super::VirtioDevice;
use super::CHUNK_BYTES;

/// Most bytes that wait for the guest, and for the host.
pub const WAITING_BYTES: usize = 0x1_0000;
/// Receive queue of port 0.
pub const RX: usize = 0;
/// Transmit queue of port 0.
pub const TX: usize = 1;

/// The device.
#[derive(Clone, Debug, Default)]
pub struct Console {
    /// On the way back to the guest.
    echo: VecDeque<u8>,
    /// For the host.
    output: VecDeque<u8>,
}

fn append(to: &mut VecDeque<u8>, bytes: &[u8]) {
    to.extend(bytes);
    let over = to.len().saturating_sub(WAITING_BYTES);
    to.drain(..over);
}

impl Console {
    /// A device with nothing on the way.
    pub fn new() -> Console {
        Console::default()
    }

    /// What the guest has written since the last call.
    pub fn take_output(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output).into()
    }

    fn transmit(&mut self, io: &mut Io<'_>) -> Result<(), RingError> {
        let mut buf = [0; CHUNK_BYTES];
        while let Some(chain) = io.pop(TX)? {
            for_chunks(chain.readable.len_bytes(), |at, n| {
                io.read(&chain, at, &mut buf[..n])?;
                append(&mut self.output, &buf[..n]);
                append(&mut self.echo, &buf[..n]);
                Ok(())
            })?;
            io.push(TX, &chain, 0)?;
        }
        Ok(())
    }

    fn receive(&mut self, io: &mut Io<'_>) -> Result<(), RingError> {
        while !self.echo.is_empty() {
            let Some(chain) = io.pop(RX)? else { break };
            let n = chain.writable.len_bytes().min(self.echo.len() as u64) as usize;
            io.write(&chain, 0, &self.echo.make_contiguous()[..n])?;
            self.echo.drain(..n);
            io.push(RX, &chain, n)?;
        }
        Ok(())
    }
}

impl VirtioDevice for Console {
    type State = Vec<u8>;
    const NAME: &'static str = "virtio-console";
    const ID: u16 = 3;
    /// Communication controller, other.
    const CLASS: u32 = 0x07_8000;

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![64, 64]
    }

    /// `struct virtio_console_config`: nothing in it without features (virtio 1.2 §5.3.4).
    fn config(&self) -> Vec<u8> {
        vec![0; 12]
    }

    fn serve(&mut self, q: usize, io: &mut Io<'_>) -> Result<(), RingError> {
        if q == TX {
            self.transmit(io)?;
        }
        self.receive(io)
    }

    fn reset(&mut self) {
        self.echo.clear();
    }

    fn save(&self) -> Vec<u8> {
        // What the host has not taken is the host's.
        let Console { echo, output: _ } = self;
        echo.iter().copied().collect()
    }

    fn restore(&mut self, saved: Vec<u8>) -> Result<(), StateError> {
        if saved.len() > WAITING_BYTES {
            return Err(StateError::Impossible { what: "virtio-console echo" });
        }
        self.echo = saved.into();
        Ok(())
    }
}
