//! NVM commands (NVMe 1.4 §6).

use block::Cx;
use pcie::Upstream;

use super::command::nvm;
use super::command::Command;
use super::command::Status;
use super::command::NSID;
use super::command::NSID_ALL;
use super::Nvme;
use super::MAX_TRANSFER_BYTES;

const FUA: u32 = 1 << 30;
/// Bytes of a range of Dataset Management.
const RANGE_BYTES: usize = 16;

impl Nvme {
    /// Carry out a command of an I/O queue.
    pub(super) fn io<E>(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        c: &Command,
    ) -> Result<(), Status> {
        if c.is_fused_or_sgl() {
            return Err(Status::INVALID_FIELD);
        }
        if !(c.nsid == NSID || c.nsid == NSID_ALL && c.opcode == nvm::FLUSH) {
            return Err(Status::INVALID_NAMESPACE);
        }
        match c.opcode {
            nvm::FLUSH => self.flush(),
            nvm::READ => self.read(cx, up, c),
            nvm::WRITE => self.write(cx, up, c),
            nvm::WRITE_ZEROES => self.write_zeroes(c),
            nvm::DSM => self.dataset_management(cx, up, c),
            _ => Err(Status::INVALID_OPCODE),
        }
    }

    fn flush(&mut self) -> Result<(), Status> {
        ok_or(self.disk.flush(), Status::WRITE_FAULT)
    }

    fn read<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, c: &Command) -> Result<(), Status> {
        let (at, len) = self.extent(c)?;
        ok_or(self.disk.read(at, self.transfer.bytes(len)), Status::READ_ERROR)?;
        self.transfer.store(&self.frame, cx, up, c, len)?;
        self.log.read(len);
        Ok(())
    }

    fn write<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, c: &Command) -> Result<(), Status> {
        let (at, len) = self.extent(c)?;
        self.transfer.fetch(&self.frame, cx, up, c, len)?;
        self.store(c, at, len)?;
        self.log.written(len);
        Ok(())
    }

    fn write_zeroes(&mut self, c: &Command) -> Result<(), Status> {
        let (at, len) = self.extent(c)?;
        self.transfer.bytes(len).fill(0);
        self.store(c, at, len)
    }

    /// Put the first `len` bytes of the buffer on the medium.
    fn store(&mut self, c: &Command, at: u64, len: usize) -> Result<(), Status> {
        ok_or(!self.disk.is_read_only(), Status::WRITE_PROTECTED)?;
        ok_or(self.disk.write(at, self.transfer.bytes(len)), Status::WRITE_FAULT)?;
        if c.cdw12 & FUA != 0 || !self.core.features.write_cache {
            self.flush()?;
        }
        Ok(())
    }

    /// The ranges are checked and nothing is done about them: they are hints (§6.7).
    fn dataset_management<E>(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        c: &Command,
    ) -> Result<(), Status> {
        let len = ((c.cdw10 & 0xff) as usize + 1) * RANGE_BYTES;
        self.transfer.fetch(&self.frame, cx, up, c, len)?;
        let blocks = self.blocks();
        let (ranges, _) = self.transfer.bytes(len).as_chunks::<RANGE_BYTES>();
        let fits = |r: &[u8; RANGE_BYTES]| {
            let r = u128::from_le_bytes(*r);
            let (count, slba) = (u64::from((r >> 32) as u32), (r >> 64) as u64);
            slba.checked_add(count).is_some_and(|end| end <= blocks)
        };
        ok_or(ranges.iter().all(fits), Status::LBA_RANGE)
    }

    /// Where on the medium a command works, and on how many bytes.
    fn extent(&self, c: &Command) -> Result<(u64, usize), Status> {
        let len = (c.blocks() as usize) << self.block_shift;
        ok_or(len <= MAX_TRANSFER_BYTES, Status::INVALID_FIELD)?;
        let end = c.slba().checked_add(c.blocks().into());
        ok_or(end.is_some_and(|e| e <= self.blocks()), Status::LBA_RANGE)?;
        Ok((c.slba() << self.block_shift, len))
    }
}

fn ok_or(ok: bool, status: Status) -> Result<(), Status> {
    if ok {
        Ok(())
    } else {
        Err(status)
    }
}
