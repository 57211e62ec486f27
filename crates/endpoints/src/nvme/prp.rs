//! Data between the host's pages and the controller's buffer (NVMe 1.4 §4.3: physical region pages).

use block::Cx;
use pcie::Completion;
use pcie::Frame;
use pcie::Upstream;

use super::command::Command;
use super::command::Status;

/// The host's page size: CAP allows no other.
pub const PAGE_BYTES: usize = 4096;

/// The transfer buffer. It grows to the largest transfer and is used again for each command.
#[derive(Debug, Default)]
pub struct Transfer {
    data: Vec<u8>,
    /// Where each part of the transfer begins; parts end at page boundaries.
    pages: Vec<u64>,
}

impl Transfer {
    /// The first `len` bytes of the buffer, with whatever they hold.
    pub fn bytes(&mut self, len: usize) -> &mut [u8] {
        if self.data.len() < len {
            self.data.resize(len, 0);
        }
        &mut self.data[..len]
    }

    /// Write the first `len` bytes of the buffer to the pages of `c`.
    pub fn store<E>(
        &mut self,
        frame: &Frame,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        c: &Command,
        len: usize,
    ) -> Result<(), Status> {
        self.each_part(frame, cx, up, (c, len), |cx, up, addr, part| frame.store(cx, up, addr, part))
    }

    /// Fill the first `len` bytes of the buffer from the pages of `c`.
    pub fn fetch<E>(
        &mut self,
        frame: &Frame,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        c: &Command,
        len: usize,
    ) -> Result<(), Status> {
        self.each_part(frame, cx, up, (c, len), |cx, up, addr, part| frame.fetch(cx, up, addr, part))
    }

    /// Walk the pages of `c` with the first `len` bytes of the buffer. No request crosses a page: neighbours in bus addresses
    /// may be strangers in memory.
    fn each_part<'c, E>(
        &mut self,
        frame: &Frame,
        cx: &mut Cx<'c, E>,
        up: &mut dyn Upstream<E>,
        (c, len): (&Command, usize),
        mut access: impl FnMut(&mut Cx<'c, E>, &mut dyn Upstream<E>, u64, &mut [u8]) -> Completion,
    ) -> Result<(), Status> {
        self.resolve(frame, cx, up, c, len)?;
        self.bytes(len);
        let mut rest = self.data.get_mut(..len).unwrap_or_default();
        for &addr in &self.pages {
            let n = to_page_end(addr).min(rest.len());
            let (part, tail) = rest.split_at_mut(n);
            if access(cx, up, addr, part) != Completion::Success {
                return Err(Status::DATA_TRANSFER);
            }
            rest = tail;
        }
        Ok(())
    }

    /// Find the pages of a transfer of `len` bytes.
    fn resolve<E>(
        &mut self,
        frame: &Frame,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        c: &Command,
        len: usize,
    ) -> Result<(), Status> {
        self.pages.clear();
        if c.prp1 & 3 != 0 {
            return Err(Status::PRP_OFFSET);
        }
        self.pages.push(c.prp1);
        let left = len.saturating_sub(to_page_end(c.prp1)).div_ceil(PAGE_BYTES);
        match left {
            0 => Ok(()),
            1 => self.push_page(c.prp2),
            _ => self.walk(frame, cx, up, c.prp2, left),
        }
    }

    fn push_page(&mut self, addr: u64) -> Result<(), Status> {
        // All but the first entry of a command are page aligned (§4.3).
        if to_page_end(addr) != PAGE_BYTES {
            return Err(Status::PRP_OFFSET);
        }
        self.pages.push(addr);
        Ok(())
    }

    /// Read `left` entries of the list at `list`, which may begin anywhere in its page; the last entry of a full page points
    /// to the next one, which begins at 0. So each further page brings the end nearer.
    fn walk<E>(
        &mut self,
        frame: &Frame,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        mut list: u64,
        mut left: usize,
    ) -> Result<(), Status> {
        let mut page = [0; PAGE_BYTES];
        if list & 7 != 0 {
            return Err(Status::PRP_OFFSET);
        }
        loop {
            let here = (to_page_end(list) / 8).min(left);
            let entries = page.get_mut(..here * 8).unwrap_or_default();
            if frame.fetch(cx, up, list, entries) != Completion::Success {
                return Err(Status::DATA_TRANSFER);
            }
            let (entries, _) = entries.as_chunks::<8>();
            let more = left > here;
            let (pages, next) = entries.split_at(if more { here - 1 } else { here });
            for e in pages {
                self.push_page(u64::from_le_bytes(*e))?;
            }
            let [next] = next else { return Ok(()) };
            left -= pages.len();
            list = u64::from_le_bytes(*next);
            if to_page_end(list) != PAGE_BYTES {
                return Err(Status::PRP_OFFSET);
            }
        }
    }
}

/// Bytes from `addr` to the end of its page.
fn to_page_end(addr: u64) -> usize {
    PAGE_BYTES - (addr as usize & (PAGE_BYTES - 1))
}
