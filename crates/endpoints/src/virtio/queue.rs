//! A split virtqueue as the device walks it.
//!
//! *Modelled*: descriptor chains, one indirect table a chain, available and used ring, event suppression by flags and by
//! `used_event`/`avail_event`.
//! *Not modelled*: packed rings, in-order use, queue reset.
//! *Sources*: virtio 1.2 §2.7; Linux v6.12 drivers/virtio/virtio_ring.c, include/uapi/linux/virtio_ring.h.
//!
//! The crate `virtio-queue` reads guest memory by itself; here every access is a request that passes the gates of the port
//! (function and bridge BME, link, inbound iATU), and each refusal is seen by the oracle.
//!
//! The driver writes its rings while the device reads them. Fences stand where the specification has barriers (§2.7.13,
//! §2.7.14); the memory behind [`MemPort`] is ordinary shared memory of the host.

use std::sync::atomic::fence;
use std::sync::atomic::Ordering;

use block::MemPort;
use serde::Deserialize;
use serde::Serialize;

use super::regs::feature;

/// Descriptor flags (virtio 1.2 §2.7.5).
pub mod flag {
    /// Another descriptor follows.
    pub const NEXT: u16 = 1;
    /// The device writes the buffer.
    pub const WRITE: u16 = 2;
    /// The buffer is a table of descriptors.
    pub const INDIRECT: u16 = 4;
}

/// `avail.flags`: the driver polls (virtio 1.2 §2.7.6).
pub const NO_INTERRUPT: u16 = 1;
/// Bytes of a descriptor.
pub const DESCRIPTOR_BYTES: u32 = 16;
/// Most bytes of one chain; a longer one is an error, so that a guest cannot hold the model for long.
pub const MAX_CHAIN_BYTES: u64 = 4 << 20;
/// No request for the bytes of a buffer crosses such a boundary (PCIe §2.2.7).
const BOUNDARY_BYTES: u64 = 4096;

/// Why a device cannot go on with its rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RingError {
    /// A ring or a buffer could not be accessed: a gate on the way is shut, or there is no RAM.
    Refused,
    /// A ring is not aligned as §2.7 asks.
    UnalignedRing,
    /// A ring or a buffer goes past the end of the address space.
    AddressWraps,
    /// The driver has made more available than the queue holds.
    AvailJump,
    /// A head or a `next` is not in its table.
    DescriptorOutOfRange,
    /// A chain has more descriptors than the queue: a loop, or too much.
    ChainTooLong,
    /// More than [`MAX_CHAIN_BYTES`].
    ChainTooLarge,
    /// A buffer for the device to read follows one for it to write.
    ReadAfterWrite,
    /// Indirect descriptors were not negotiated.
    IndirectNotNegotiated,
    /// An indirect descriptor in an indirect table.
    IndirectInIndirect,
    /// An indirect descriptor that has a next one.
    IndirectWithNext,
    /// An indirect table that is empty or ends within a descriptor.
    IndirectLength,
    /// A chain has no room for what the device type puts there.
    BufferTooShort,
}

#[derive(Clone, Copy, Debug)]
struct Descriptor {
    addr: u64,
    len: u32,
    flags: u16,
    next: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Buffer {
    addr: u64,
    len: u32,
}

/// Buffers of a chain, as one run of bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Buffers {
    list: Vec<Buffer>,
    bytes: u64,
}

impl Buffers {
    /// Bytes in all.
    pub fn len_bytes(&self) -> u64 {
        self.bytes
    }

    fn add(&mut self, addr: u64, len: u32) {
        self.list.push(Buffer { addr, len });
        self.bytes += u64::from(len);
    }

    /// Fill `buf` from byte `off` on.
    pub fn read(&self, mem: &mut dyn MemPort, off: u64, buf: &mut [u8]) -> Result<(), RingError> {
        self.pieces(off, buf.len(), |addr, part| mem.read(addr, &mut buf[part]))
    }

    /// Store `data` from byte `off` on.
    pub fn write(&self, mem: &mut dyn MemPort, off: u64, data: &[u8]) -> Result<(), RingError> {
        self.pieces(off, data.len(), |addr, part| mem.write(addr, &data[part]))
    }

    /// Call `access(address, part of len)` for `len` bytes from `off` on, one memory request each.
    fn pieces(
        &self,
        mut off: u64,
        len: usize,
        mut access: impl FnMut(u64, std::ops::Range<usize>) -> bool,
    ) -> Result<(), RingError> {
        let mut done = 0;
        for b in &self.list {
            let mut left = u64::from(b.len);
            let skip = off.min(left);
            off -= skip;
            left -= skip;
            let mut addr = b.addr + skip;
            while left > 0 && done < len {
                let n = left.min((len - done) as u64).min(BOUNDARY_BYTES - addr % BOUNDARY_BYTES);
                if !access(addr, done..done + n as usize) {
                    return Err(RingError::Refused);
                }
                done += n as usize;
                addr += n;
                left -= n;
            }
        }
        if done < len {
            return Err(RingError::BufferTooShort);
        }
        Ok(())
    }
}

/// A descriptor chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    head: u16,
    /// What the device reads.
    pub readable: Buffers,
    /// What the device writes.
    pub writable: Buffers,
}

impl Chain {
    /// Descriptors that have a buffer.
    pub fn descriptors(&self) -> usize {
        self.readable.list.len() + self.writable.list.len()
    }

    fn add(&mut self, d: Descriptor) -> Result<(), RingError> {
        d.addr.checked_add(u64::from(d.len)).ok_or(RingError::AddressWraps)?;
        if self.readable.bytes + self.writable.bytes + u64::from(d.len) > MAX_CHAIN_BYTES {
            return Err(RingError::ChainTooLarge);
        }
        if d.flags & flag::WRITE != 0 {
            self.writable.add(d.addr, d.len);
        } else if self.writable.list.is_empty() {
            self.readable.add(d.addr, d.len);
        } else {
            return Err(RingError::ReadAfterWrite);
        }
        Ok(())
    }
}

/// A queue: what the driver has set up, and how far the device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Queue {
    /// Entries, a power of two.
    pub size: u16,
    /// Whether the driver has enabled it.
    pub enabled: bool,
    /// Descriptor table.
    pub desc: u64,
    /// Available ring.
    pub avail: u64,
    /// Used ring.
    pub used: u64,
    next_avail: u16,
    next_used: u16,
}

impl Queue {
    /// A queue of `size` that is not set up.
    pub fn new(size: u16) -> Queue {
        Queue { size, enabled: false, desc: 0, avail: 0, used: 0, next_avail: 0, next_used: 0 }
    }

    /// Index of the next used entry, counting on without end.
    pub fn next_used(&self) -> u16 {
        self.next_used
    }

    /// Alignment and extent of the three parts (virtio 1.2 §2.7).
    fn check(&self) -> Result<(), RingError> {
        let size = u64::from(self.size);
        let parts = [(self.desc, 16, 16 * size), (self.avail, 2, 6 + 2 * size), (self.used, 4, 6 + 8 * size)];
        for (at, align, bytes) in parts {
            if at % align != 0 {
                return Err(RingError::UnalignedRing);
            }
            at.checked_add(bytes).ok_or(RingError::AddressWraps)?;
        }
        Ok(())
    }

    fn slot(&self, index: u16) -> u64 {
        u64::from(index & self.size.wrapping_sub(1))
    }

    fn avail_idx(&self, mem: &mut dyn MemPort) -> Result<u16, RingError> {
        read16(mem, self.avail + 2)
    }

    /// The next chain that the driver has made available.
    pub fn pop(&mut self, mem: &mut dyn MemPort, features: u64) -> Result<Option<Chain>, RingError> {
        self.check()?;
        let mut idx = self.avail_idx(mem)?;
        if idx == self.next_avail && features & feature::EVENT_IDX != 0 {
            // Ask for the next notification, then look again: the driver may have added before it saw that.
            let avail_event = self.used + 4 + 8 * u64::from(self.size);
            write(mem, avail_event, &self.next_avail.to_le_bytes())?;
            fence(Ordering::SeqCst);
            idx = self.avail_idx(mem)?;
        }
        if idx == self.next_avail {
            return Ok(None);
        }
        if idx.wrapping_sub(self.next_avail) > self.size {
            return Err(RingError::AvailJump);
        }
        // The index says that ring entry and descriptors are there: they are read after it.
        fence(Ordering::Acquire);
        let head = read16(mem, self.avail + 4 + 2 * self.slot(self.next_avail))?;
        let chain = self.walk(mem, features, head)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(Some(chain))
    }

    /// Follow a chain: at most `size` buffers, and one indirect table at its end.
    fn walk(&self, mem: &mut dyn MemPort, features: u64, head: u16) -> Result<Chain, RingError> {
        let mut chain = Chain { head, readable: Buffers::default(), writable: Buffers::default() };
        let (mut table, mut entries) = (self.desc, u32::from(self.size));
        let mut at = head;
        let mut indirect = false;
        loop {
            if u32::from(at) >= entries {
                return Err(RingError::DescriptorOutOfRange);
            }
            let d = descriptor(mem, table, at)?;
            if d.flags & flag::INDIRECT != 0 {
                if indirect {
                    return Err(RingError::IndirectInIndirect);
                }
                (table, entries) = indirect_table(d, features)?;
                (at, indirect) = (0, true);
                continue;
            }
            if chain.descriptors() >= usize::from(self.size) {
                return Err(RingError::ChainTooLong);
            }
            chain.add(d)?;
            if d.flags & flag::NEXT == 0 {
                return Ok(chain);
            }
            at = d.next;
        }
    }

    /// Give a chain back, `len` bytes of its writable buffers written.
    pub fn push(&mut self, mem: &mut dyn MemPort, chain: &Chain, len: u32) -> Result<(), RingError> {
        let mut element = [0; 8];
        element[..4].copy_from_slice(&u32::from(chain.head).to_le_bytes());
        element[4..].copy_from_slice(&len.to_le_bytes());
        write(mem, self.used + 4 + 8 * self.slot(self.next_used), &element)?;
        self.next_used = self.next_used.wrapping_add(1);
        // The index publishes the element and the buffers: it is written after them.
        fence(Ordering::Release);
        write(mem, self.used + 2, &self.next_used.to_le_bytes())
    }

    /// Whether the driver wants to hear that the used index went on from `old` (virtio 1.2 §2.7.7.2, §2.7.10).
    pub fn wants_interrupt(&self, mem: &mut dyn MemPort, features: u64, old: u16) -> Result<bool, RingError> {
        // The driver asks for interrupts, then looks at the used index; the device does it the other way round.
        fence(Ordering::SeqCst);
        if features & feature::EVENT_IDX == 0 {
            return Ok(read16(mem, self.avail)? & NO_INTERRUPT == 0);
        }
        let used_event = read16(mem, self.avail + 4 + 2 * u64::from(self.size))?;
        let since_event = self.next_used.wrapping_sub(used_event).wrapping_sub(1);
        Ok(since_event < self.next_used.wrapping_sub(old))
    }
}

/// The table that an indirect descriptor names, with its entries (virtio 1.2 §2.7.5.3).
fn indirect_table(d: Descriptor, features: u64) -> Result<(u64, u32), RingError> {
    if features & feature::INDIRECT_DESC == 0 {
        return Err(RingError::IndirectNotNegotiated);
    }
    if d.flags & flag::NEXT != 0 {
        return Err(RingError::IndirectWithNext);
    }
    if d.len == 0 || !d.len.is_multiple_of(DESCRIPTOR_BYTES) {
        return Err(RingError::IndirectLength);
    }
    d.addr.checked_add(u64::from(d.len)).ok_or(RingError::AddressWraps)?;
    Ok((d.addr, d.len / DESCRIPTOR_BYTES))
}

fn descriptor(mem: &mut dyn MemPort, table: u64, at: u16) -> Result<Descriptor, RingError> {
    let mut b = [0; DESCRIPTOR_BYTES as usize];
    read(mem, table + u64::from(at) * u64::from(DESCRIPTOR_BYTES), &mut b)?;
    let v = u128::from_le_bytes(b);
    Ok(Descriptor { addr: v as u64, len: (v >> 64) as u32, flags: (v >> 96) as u16, next: (v >> 112) as u16 })
}

/// Bytes from `addr` to the next boundary that no request crosses.
fn to_boundary(addr: u64) -> usize {
    (BOUNDARY_BYTES - addr % BOUNDARY_BYTES) as usize
}

/// An indirect table need not be aligned, and a used ring is to four bytes only: what is read may lie across a boundary.
fn read(mem: &mut dyn MemPort, addr: u64, buf: &mut [u8]) -> Result<(), RingError> {
    let (low, high) = buf.split_at_mut(to_boundary(addr).min(buf.len()));
    let next = addr.wrapping_add(low.len() as u64);
    let done = mem.read(addr, low) && (high.is_empty() || mem.read(next, high));
    done.then_some(()).ok_or(RingError::Refused)
}

fn read16(mem: &mut dyn MemPort, addr: u64) -> Result<u16, RingError> {
    let mut b = [0; 2];
    read(mem, addr, &mut b)?;
    Ok(u16::from_le_bytes(b))
}

fn write(mem: &mut dyn MemPort, addr: u64, data: &[u8]) -> Result<(), RingError> {
    let (low, high) = data.split_at(to_boundary(addr).min(data.len()));
    let next = addr.wrapping_add(low.len() as u64);
    let done = mem.write(addr, low) && (high.is_empty() || mem.write(next, high));
    done.then_some(()).ok_or(RingError::Refused)
}

#[cfg(test)]
#[path = "queue_test.rs"]
mod tests;
