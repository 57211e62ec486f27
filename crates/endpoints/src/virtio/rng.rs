//! Entropy device (virtio 1.2 §5.4; Linux v6.12 drivers/char/hw_random/virtio-rng.c).
//!
//! DEVIATION: the bytes follow from a seed, so that a run can be repeated. They are no entropy.

use block::StateError;

use super::Io;
use super::RingError;
use super::VirtioDevice;

/// Most bytes that one request gets; the driver asks again.
pub const MAX_BYTES: usize = 4096;

/// The device.
#[derive(Clone, Debug)]
pub struct Rng {
    counter: u64,
}

impl Rng {
    /// A device whose bytes follow from `seed`.
    pub fn new(seed: u64) -> Rng {
        Rng { counter: seed }
    }

    /// splitmix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, OOPSLA 2014).
    fn next(&mut self) -> u64 {
        self.counter = self.counter.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.counter ^ self.counter >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
}

impl VirtioDevice for Rng {
    type State = u64;
    const NAME: &'static str = "virtio-rng";
    const ID: u16 = 4;
    /// Unclassified.
    const CLASS: u32 = 0x00_ff00;

    fn features(&self) -> u64 {
        0
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![8]
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn serve(&mut self, q: usize, io: &mut Io<'_>) -> Result<(), RingError> {
        while let Some(chain) = io.pop(q)? {
            let n = chain.writable.len_bytes().min(MAX_BYTES as u64) as usize;
            let mut bytes = [0; MAX_BYTES];
            for word in bytes[..n].chunks_mut(8) {
                word.copy_from_slice(&self.next().to_le_bytes()[..word.len()]);
            }
            io.write(&chain, 0, &bytes[..n])?;
            io.push(q, &chain, n)?;
        }
        Ok(())
    }

    /// A source of noise goes on.
    fn reset(&mut self) {}

    fn save(&self) -> u64 {
        self.counter
    }

    fn restore(&mut self, saved: u64) -> Result<(), StateError> {
        self.counter = saved;
        Ok(())
    }
}
