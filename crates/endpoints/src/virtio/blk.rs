//! Block device (virtio 1.2 §5.2; Linux v6.12 drivers/block/virtio_blk.c).
//!
//! *Modelled*: IN, OUT, FLUSH, GET_ID; limits on segments; one or more request queues.
//! *Not modelled*: discard, write zeroes, switching the cache mode, topology, zones.

use block::StateError;

use super::for_chunks;
use super::Chain;
use super::Io;
use super::RingError;
use super::VirtioDevice;
use super::CHUNK_BYTES;
use super::MAX_QUEUES;
use super::TURN_REQUESTS;
use crate::disk::Disk;

/// Unit of addresses and lengths.
pub const SECTOR_BYTES: u64 = 512;
/// Entries of a request queue.
pub const QUEUE_SIZE: u16 = 128;
/// Most bytes of one segment. Not less than the largest page of arm64, which the driver would not take.
pub const SEGMENT_BYTES: u32 = 0x1_0000;
/// Most segments of a request: with header and status below [`super::queue::MAX_CHAIN_BYTES`].
pub const SEGMENTS: u32 = 62;
/// Bytes of the serial number that GET_ID gives.
pub const ID_BYTES: usize = 20;
const HEADER_BYTES: u64 = 16;
/// What a flush costs of a turn: the host may take milliseconds for it.
const FLUSH_REQUESTS: u32 = TURN_REQUESTS / 8;

/// Feature bits (virtio 1.2 §5.2.3).
pub mod feature {
    /// `size_max` is there.
    pub const SIZE_MAX: u64 = 1 << 1;
    /// `seg_max` is there.
    pub const SEG_MAX: u64 = 1 << 2;
    /// Writes fail.
    pub const RO: u64 = 1 << 5;
    /// `blk_size` is there.
    pub const BLK_SIZE: u64 = 1 << 6;
    /// The device has FLUSH.
    pub const FLUSH: u64 = 1 << 9;
    /// `num_queues` is there.
    pub const MQ: u64 = 1 << 12;
}

/// Request types (virtio 1.2 §5.2.6).
pub mod request {
    /// Read.
    pub const IN: u32 = 0;
    /// Write.
    pub const OUT: u32 = 1;
    /// Make durable what was written.
    pub const FLUSH: u32 = 4;
    /// Serial number.
    pub const GET_ID: u32 = 8;
}

/// Status bytes (virtio 1.2 §5.2.6).
pub mod status {
    /// Done.
    pub const OK: u8 = 0;
    /// The medium failed, or the request leaves it.
    pub const IOERR: u8 = 1;
    /// No such request.
    pub const UNSUPP: u8 = 2;
}

/// The device.
pub struct Blk {
    disk: Box<dyn Disk>,
    queues: u16,
    id: [u8; ID_BYTES],
}

impl std::fmt::Debug for Blk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Blk").field("bytes", &self.disk.len_bytes()).field("queues", &self.queues).finish()
    }
}

impl Blk {
    /// A device over `disk` with `queues` request queues (1–16); `serial` is cut after 20 bytes.
    pub fn new(disk: Box<dyn Disk>, queues: u16, serial: &str) -> Blk {
        let mut id = [0; ID_BYTES];
        for (to, from) in id.iter_mut().zip(serial.bytes()) {
            *to = from;
        }
        Blk { disk, queues: queues.clamp(1, MAX_QUEUES), id }
    }

    /// Perform a request: status, and bytes written from the start of the writable part on.
    fn perform(&mut self, io: &mut Io<'_>, chain: &Chain) -> Result<(u8, u64), RingError> {
        let mut header = [0; HEADER_BYTES as usize];
        io.read(chain, 0, &mut header)?;
        let header = u128::from_le_bytes(header);
        let (kind, sector) = (header as u32, (header >> 64) as u64);
        let room = chain.writable.len_bytes().checked_sub(1).ok_or(RingError::BufferTooShort)?;
        let data = chain.readable.len_bytes() - HEADER_BYTES;
        match kind {
            request::IN => self.read(io, chain, sector, room),
            request::OUT => Ok((self.write(io, chain, sector, data)?, 0)),
            request::FLUSH => Ok((done(self.flush(io)), 0)),
            request::GET_ID => {
                let n = room.min(ID_BYTES as u64);
                io.write(chain, 0, &self.id[..n as usize])?;
                Ok((status::OK, n))
            }
            _ => Ok((status::UNSUPP, 0)),
        }
    }

    fn flush(&mut self, io: &mut Io<'_>) -> bool {
        io.spend(FLUSH_REQUESTS);
        self.disk.flush()
    }

    /// Byte offset of a transfer that lies on the disk, in whole sectors.
    fn offset(&self, sector: u64, len: u64) -> Option<u64> {
        let at = sector.checked_mul(SECTOR_BYTES)?;
        let inside = at.checked_add(len)? <= self.disk.len_bytes();
        (inside && len.is_multiple_of(SECTOR_BYTES)).then_some(at)
    }

    fn read(
        &mut self,
        io: &mut Io<'_>,
        chain: &Chain,
        sector: u64,
        len: u64,
    ) -> Result<(u8, u64), RingError> {
        let Some(from) = self.offset(sector, len) else { return Ok((status::IOERR, 0)) };
        let mut buf = [0; CHUNK_BYTES];
        let mut good = 0;
        for_chunks(len, |at, n| {
            if good == at && self.disk.read(from + at, &mut buf[..n]) {
                io.write(chain, at, &buf[..n])?;
                good = at + n as u64;
            }
            Ok(())
        })?;
        Ok((done(good == len), good))
    }

    fn write(&mut self, io: &mut Io<'_>, chain: &Chain, sector: u64, len: u64) -> Result<u8, RingError> {
        let to = self.offset(sector, len).filter(|_| !self.disk.is_read_only());
        let Some(to) = to else { return Ok(status::IOERR) };
        let mut buf = [0; CHUNK_BYTES];
        let mut good = true;
        for_chunks(len, |at, n| {
            io.read(chain, HEADER_BYTES + at, &mut buf[..n])?;
            good = good && self.disk.write(to + at, &buf[..n]);
            Ok(())
        })?;
        // Without FLUSH the driver takes a completed write for a durable one (virtio 1.2 §5.2.6.2).
        Ok(done(good && (io.negotiated(feature::FLUSH) || self.flush(io))))
    }
}

fn done(ok: bool) -> u8 {
    if ok {
        status::OK
    } else {
        status::IOERR
    }
}

impl VirtioDevice for Blk {
    /// Its blocks are the host's.
    type State = ();
    const NAME: &'static str = "virtio-blk";
    const ID: u16 = 2;
    /// Mass storage, other.
    const CLASS: u32 = 0x01_8000;

    fn features(&self) -> u64 {
        let mq = if self.queues > 1 { feature::MQ } else { 0 };
        let ro = if self.disk.is_read_only() { feature::RO } else { 0 };
        feature::SIZE_MAX | feature::SEG_MAX | feature::BLK_SIZE | feature::FLUSH | mq | ro
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; usize::from(self.queues)]
    }

    /// `struct virtio_blk_config` up to `num_queues` (virtio 1.2 §5.2.4).
    fn config(&self) -> Vec<u8> {
        let mut c = vec![0; 36];
        c[0..8].copy_from_slice(&(self.disk.len_bytes() / SECTOR_BYTES).to_le_bytes());
        c[8..12].copy_from_slice(&SEGMENT_BYTES.to_le_bytes());
        c[12..16].copy_from_slice(&SEGMENTS.to_le_bytes());
        c[20..24].copy_from_slice(&(SECTOR_BYTES as u32).to_le_bytes());
        c[34..36].copy_from_slice(&self.queues.to_le_bytes());
        c
    }

    fn serve(&mut self, q: usize, io: &mut Io<'_>) -> Result<(), RingError> {
        while let Some(chain) = io.pop(q)? {
            let (status, written) = self.perform(io, &chain)?;
            let last = chain.writable.len_bytes() - 1;
            io.write(&chain, last, &[status])?;
            // The used length counts from the start: the status byte is in it only if all before it was written.
            let len = if written == last { last + 1 } else { written };
            io.push(q, &chain, len as usize)?;
        }
        Ok(())
    }

    fn reset(&mut self) {}

    fn save(&self) {}

    fn restore(&mut self, (): ()) -> Result<(), StateError> {
        Ok(())
    }
}
