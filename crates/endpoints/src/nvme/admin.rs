//! Admin commands (NVMe 1.4 §5).

use block::Cx;
use pcie::IrqMode;
use pcie::Upstream;

use super::command::admin;
use super::command::Command;
use super::command::Reply;
use super::command::Status;
use super::command::NSID;
use super::identify;
use super::identify::cns;
use super::identify::Page;
use super::log::lid;
use super::log::TEMPERATURE_K;
use super::prp::PAGE_BYTES;
use super::queues::CompletionQueue;
use super::queues::SubmissionQueue;
use super::regs::cc;
use super::regs::off;
use super::regs::MAX_ENTRIES;
use super::DoorbellError;
use super::Nvme;
use super::AERS;
use super::MAX_TRANSFER_BYTES;

/// MSI vectors that the frame can send.
const MSI_VECTORS: u16 = 32;
/// Create queue: physically contiguous.
const CONTIGUOUS: u32 = 1;
/// Create completion queue: interrupts enabled.
const INTERRUPTS: u32 = 2;
/// Get Log Page: retain asynchronous event.
const RETAIN: u32 = 1 << 15;

impl Nvme {
    /// Carry out an admin command; `None`: it is held and completes when there is something to tell.
    pub(super) fn admin<E>(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        c: &Command,
    ) -> Option<Reply> {
        if c.is_fused_or_sgl() {
            return Some(Err(Status::INVALID_FIELD));
        }
        Some(match c.opcode {
            admin::DELETE_SQ => self.delete_sq(cx, up, c),
            admin::CREATE_SQ => self.create_sq(c),
            admin::GET_LOG_PAGE => self.get_log_page(cx, up, c),
            admin::DELETE_CQ => self.delete_cq(c),
            admin::CREATE_CQ => self.create_cq(c),
            admin::IDENTIFY => self.identify(cx, up, c),
            admin::ABORT => self.abort(cx, up, c),
            admin::SET_FEATURES => self.core.features.set(c, self.io_queues),
            admin::GET_FEATURES => self.core.features.get(c, self.io_queues),
            admin::ASYNC_EVENT if self.core.aers.len() >= AERS => Err(Status::ASYNC_LIMIT),
            admin::ASYNC_EVENT => {
                self.core.aers.push(c.cid);
                return None;
            }
            admin::DOORBELL_BUFFER => self.configure_doorbells(cx, up, c),
            _ => Err(Status::INVALID_OPCODE),
        })
    }

    /// Queue identifier, size and address of a create command, as far as both kinds of queue agree on them. `entry_log2`: what
    /// CC must have as the size of an entry.
    fn new_queue(
        &self,
        c: &Command,
        exists: Option<bool>,
        cc_field: u32,
        entry_log2: u32,
    ) -> Result<u16, Status> {
        if exists != Some(false) {
            return Err(Status::QUEUE_ID);
        }
        let size = (c.cdw10 >> 16) + 1;
        if !(2..=u32::from(MAX_ENTRIES)).contains(&size) {
            return Err(Status::QUEUE_SIZE);
        }
        // INFERRED: NVMe 1.4 §3.1.5 wants the sizes set before queues are created and names no error.
        if c.cdw11 & CONTIGUOUS == 0 || self.regs.word(off::CC) >> cc_field & 0xf != entry_log2 {
            return Err(Status::INVALID_FIELD);
        }
        if !c.prp1.is_multiple_of(PAGE_BYTES as u64) {
            return Err(Status::PRP_OFFSET);
        }
        Ok(size as u16)
    }

    fn create_cq(&mut self, c: &Command) -> Reply {
        let (id, vector) = (c.cdw10 as u16, (c.cdw11 >> 16) as u16);
        let exists = self.core.queues.io_cq_slot(id).map(|q| q.is_some());
        let size = self.new_queue(c, exists, cc::IOCQES_SHIFT, 4)?;
        let vectors = match self.frame.irq_mode() {
            IrqMode::MsiX => self.vectors(),
            IrqMode::Msi => MSI_VECTORS,
            IrqMode::Intx => 1,
        };
        if vector >= vectors {
            return Err(Status::VECTOR);
        }
        let q = CompletionQueue::new(c.prp1, size, vector, c.cdw11 & INTERRUPTS != 0);
        if let Some(slot) = self.core.queues.io_cq_slot(id) {
            *slot = Some(q);
        }
        Ok(0)
    }

    fn create_sq(&mut self, c: &Command) -> Reply {
        let (id, cq) = (c.cdw10 as u16, (c.cdw11 >> 16) as u16);
        let exists = self.core.queues.io_sq_slot(id).map(|q| q.is_some());
        let size = self.new_queue(c, exists, cc::IOSQES_SHIFT, 6)?;
        if self.core.queues.io_cq_slot(cq).is_none_or(|q| q.is_none()) {
            return Err(Status::CQ_INVALID);
        }
        if let Some(slot) = self.core.queues.io_sq_slot(id) {
            *slot = Some(SubmissionQueue::new(c.prp1, size, cq));
        }
        Ok(0)
    }

    fn delete_cq(&mut self, c: &Command) -> Reply {
        let id = c.cdw10 as u16;
        let in_use = self.core.queues.is_used(id);
        match self.core.queues.io_cq_slot(id) {
            Some(Some(_)) if in_use => Err(Status::QUEUE_DELETION),
            Some(slot @ Some(_)) => {
                *slot = None;
                Ok(0)
            }
            _ => Err(Status::QUEUE_ID),
        }
    }

    /// Commands in flight complete as aborted before the queue is gone (§5.6).
    fn delete_sq<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, c: &Command) -> Reply {
        let id = c.cdw10 as u16;
        if !self.core.queues.io_sq_slot(id).is_some_and(|q| q.is_some()) {
            return Err(Status::QUEUE_ID);
        }
        let (gone, kept) = std::mem::take(&mut self.core.inflight).into_iter().partition(|f| f.sq == id);
        self.core.inflight = kept;
        for f in gone {
            self.finish(cx, up, &f, Err(Status::SQ_DELETED));
        }
        if let Some(slot) = self.core.queues.io_sq_slot(id) {
            *slot = None;
        }
        Ok(0)
    }

    /// Bit 0 of the result: the command was not aborted (§5.1).
    fn abort<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, c: &Command) -> Reply {
        let (sq, cid) = (c.cdw10 as u16, (c.cdw10 >> 16) as u16);
        let found = self.core.inflight.iter().position(|f| f.sq == sq && f.command.cid == cid);
        let Some(f) = found.and_then(|i| self.core.inflight.remove(i)) else { return Ok(1) };
        self.finish(cx, up, &f, Err(Status::ABORT_REQUESTED));
        Ok(0)
    }

    fn identify<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, c: &Command) -> Reply {
        let one_namespace = if c.nsid == NSID { Ok(()) } else { Err(Status::INVALID_NAMESPACE) };
        let page = match c.cdw10 as u8 {
            cns::NAMESPACE => {
                one_namespace?;
                self.identity.namespace(self.blocks(), self.block_shift, self.disk.is_read_only())
            }
            cns::CONTROLLER => self.identity.controller(),
            cns::ACTIVE_NAMESPACES if c.nsid >= 0xffff_fffe => return Err(Status::INVALID_NAMESPACE),
            cns::ACTIVE_NAMESPACES => identify::active_above(c.nsid),
            cns::DESCRIPTORS => {
                one_namespace?;
                self.identity.descriptors()
            }
            // Command set 0 (CDW11 bits 31:24) is the only one.
            cns::CONTROLLER_NVM if c.cdw11 >> 24 == 0 => identify::controller_nvm(),
            _ => return Err(Status::INVALID_FIELD),
        };
        self.reply_page(cx, up, c, &page, 0, PAGE_BYTES)
    }

    fn get_log_page<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, c: &Command) -> Reply {
        let page = match c.cdw10 as u8 {
            lid::ERROR => self.log.errors(),
            lid::SMART => self.log.smart(self.core.features.is_out_of_range(TEMPERATURE_K)),
            lid::FIRMWARE => self.log.firmware(),
            lid::CHANGED_NAMESPACES => [0; PAGE_BYTES],
            _ => return Err(Status::LOG_PAGE),
        };
        let dwords = u64::from(c.cdw10 >> 16) | u64::from(c.cdw11 & 0xffff) << 16;
        let from = u64::from(c.cdw12) | u64::from(c.cdw13) << 32;
        let len = usize::try_from((dwords + 1) * 4).unwrap_or(usize::MAX);
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        if len > MAX_TRANSFER_BYTES || from > PAGE_BYTES || from % 4 != 0 {
            return Err(Status::INVALID_FIELD);
        }
        let reply = self.reply_page(cx, up, c, &page, from, len)?;
        if c.cdw10 as u8 == lid::ERROR && c.cdw10 & RETAIN == 0 {
            self.core.doorbell_error.taken();
        }
        Ok(reply)
    }

    /// Send `len` bytes of `page` from `from` on; behind its end are zeroes.
    fn reply_page<E>(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        c: &Command,
        page: &Page,
        from: usize,
        len: usize,
    ) -> Reply {
        let buf = self.transfer.bytes(len);
        buf.fill(0);
        for (to, b) in buf.iter_mut().zip(page.iter().skip(from)) {
            *to = *b;
        }
        self.transfer.store(&self.frame, cx, up, c, len)?;
        Ok(0)
    }
}

impl DoorbellError {
    /// The host has read the log: the next error is told again (§5.2).
    fn taken(&mut self) {
        if *self == DoorbellError::Told {
            *self = DoorbellError::None;
        }
    }
}
