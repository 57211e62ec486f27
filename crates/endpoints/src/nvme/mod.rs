//! An NVMe 1.4 controller with one namespace.
//!
//! *Modelled*: the registers of a PCIe controller, enabling, resets and shutdown, fatal status; contiguous queues with phase
//! tags and a full completion queue; INTx, MSI and MSI-X; the mandatory admin commands, asynchronous events for bad
//! doorbells, Flush, Read, Write, Write Zeroes and Dataset Management through PRP lists; I/O in flight for a set time; shadow
//! doorbells.
//! *Not modelled*: SGLs, metadata, namespace management, firmware update, power states, interrupt coalescing, events for
//! temperature, controller memory buffer, NVM subsystem reset, FLR.
//! *Sources*: NVM Express 1.4; Linux v6.1, v6.12 and v7.3 drivers/nvme/host/{pci,core}.c, include/linux/nvme.h.
//!
//! DEVIATION: a PCIe write is posted, and its sender does not learn whether anybody took it. Here the port says so at once:
//! a refused write of data is a Data Transfer Error, a refused completion is fatal, as refused reads are.

mod admin;
pub mod command;
mod doorbells;
pub mod features;
pub mod identify;
mod io;
pub mod log;
mod prp;
mod queues;
pub mod regs;

use std::collections::VecDeque;

use block::Cx;
use block::RegFile;
use block::ResetKind;
use block::SimTime;
use block::StateError;
use block::Width;
use block::Words;
use pcie::config::Bar;
use pcie::config::Ids;
use pcie::Completion;
use pcie::Frame;
use pcie::FrameSpec;
use pcie::FrameState;
use pcie::Framed;
use pcie::FramedFunction;
use pcie::FunctionState;
use pcie::IrqMode;
use pcie::MsixSpec;
use pcie::Upstream;
use serde::Deserialize;
use serde::Serialize;

use crate::Disk;
use command::Command;
use command::Entry;
use command::Reply;
use command::Status;
use doorbells::Buffers;
use doorbells::Side;
use features::Features;
use identify::Identity;
use log::Log;
use prp::Transfer;
use queues::CompletionQueue;
use queues::Queues;
use queues::SubmissionQueue;
use regs::cc;
use regs::csts;
use regs::off;

/// Vendor ID.
pub const VENDOR: u16 = 0x1b36;
/// Device ID.
///
/// DEVIATION: a number that no known device has. Linux finds the controller by its class; 1b36:0010, QEMU's, would get
/// NVME_QUIRK_BOGUS_NID (Linux v6.12 drivers/nvme/host/pci.c, nvme_id_table), and its namespace identifiers would be ignored.
pub const DEVICE: u16 = 0x00f0;
/// Mass storage, NVM, NVM Express I/O controller.
const CLASS: u32 = 0x01_0802;
/// Bytes of BAR 0 (registers, doorbells, MSI-X table, PBA).
pub const BAR0_BYTES: u32 = 0x4000;
/// Most I/O queues of a controller: what table and PBA have room for.
pub const MAX_IO_QUEUES: u16 = 255;
/// Largest transfer of a command (MDTS).
pub const MAX_TRANSFER_BYTES: usize = 512 << 10;
/// Asynchronous Event Requests that are held (AERL is one less).
const AERS: usize = 4;
/// Asynchronous event: log page to read, in dword 0.
const EVENT_LOG: u32 = (log::lid::ERROR as u32) << 16;

/// What a controller is made of.
pub struct NvmeSpec {
    /// What the namespace keeps its blocks in.
    pub disk: Box<dyn Disk>,
    /// Serial number, at most 20 characters of printable ASCII. The namespace's UUID follows from it.
    pub serial: String,
    /// I/O queues of each kind, 1–[`MAX_IO_QUEUES`].
    pub io_queues: u16,
    /// Bytes of a logical block: 512, or 4096.
    pub block_bytes: u32,
    /// How long an I/O command is in flight. 0: it completes within the doorbell write. Admin commands take no time.
    pub latency_ns: u64,
}

impl NvmeSpec {
    /// Eight I/O queues, blocks of 512 bytes, no latency.
    pub fn new(disk: Box<dyn Disk>, serial: &str) -> NvmeSpec {
        NvmeSpec { disk, serial: serial.to_owned(), io_queues: 8, block_bytes: 512, latency_ns: 0 }
    }
}

/// The controller.
pub struct Nvme {
    frame: Frame,
    regs: RegFile,
    core: Core,
    log: Log,
    disk: Box<dyn Disk>,
    identity: Identity,
    io_queues: u16,
    /// log2 of the bytes of a block.
    block_shift: u32,
    latency_ns: u64,
    transfer: Transfer,
}

impl std::fmt::Debug for Nvme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nvme").field("regs", &self.regs).field("core", &self.core).finish_non_exhaustive()
    }
}

/// What a controller reset clears.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Core {
    queues: Queues,
    /// I/O commands that have been fetched, by deadline.
    inflight: VecDeque<InFlight>,
    /// Identifiers of the Asynchronous Event Requests that are held.
    aers: Vec<u16>,
    doorbell_error: DoorbellError,
    features: Features,
    /// Shadow doorbells and event indices, if the host has given any.
    buffers: Option<Buffers>,
    /// The host was faster than one call: the next tick goes on.
    again: bool,
}

impl Core {
    fn new(io_queues: u16) -> Core {
        Core {
            queues: Queues::new(io_queues),
            inflight: VecDeque::new(),
            aers: Vec::new(),
            doorbell_error: DoorbellError::None,
            features: Features::default(),
            buffers: None,
            again: false,
        }
    }
}

/// An I/O command between its fetch and its completion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct InFlight {
    due: SimTime,
    sq: u16,
    command: Command,
}

/// The one asynchronous event that is told: an error of a doorbell (NVMe 1.4 §5.2, error status).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum DoorbellError {
    None,
    /// Waiting for a request to complete with it: 0 no such doorbell, 1 no such value.
    Waiting(u8),
    /// Told; the host has not read the error log since, and further ones are not told.
    Told,
}

/// What the controller saves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct State {
    frame: FrameState,
    regs: Words,
    core: Core,
    log: Log,
}

/// Name in a [`FunctionState`].
const NAME: &str = "nvme";

impl Nvme {
    /// A controller out of power-on reset.
    pub fn new(spec: NvmeSpec) -> Nvme {
        let NvmeSpec { disk, serial, io_queues, block_bytes, latency_ns } = spec;
        let io_queues = io_queues.clamp(1, MAX_IO_QUEUES);
        let ids = Ids {
            vendor: VENDOR,
            device: DEVICE,
            class: CLASS,
            subsystem_vendor: VENDOR,
            subsystem: DEVICE,
            pin: 1,
            ..Ids::default()
        };
        let bars = [Bar { index: 0, size_bytes: BAR0_BYTES }];
        let msix = MsixSpec { vectors: io_queues + 1, bar: 0, table_off: off::MSIX_TABLE };
        Nvme {
            frame: Frame::new(&FrameSpec { ids, bars: &bars, msi: true, msix: Some(msix) }),
            regs: RegFile::new(regs::REGS_BYTES, regs::ROWS),
            core: Core::new(io_queues),
            log: Log::default(),
            disk,
            identity: Identity::new(&serial),
            io_queues,
            block_shift: if block_bytes == 4096 { 12 } else { 9 },
            latency_ns,
            transfer: Transfer::default(),
        }
    }

    /// Vectors: one for each completion queue.
    fn vectors(&self) -> u16 {
        self.io_queues + 1
    }

    /// Blocks of the namespace.
    fn blocks(&self) -> u64 {
        self.disk.len_bytes() >> self.block_shift
    }

    /// Whether commands are processed: ready, not shut down, not failed.
    fn is_running(&self) -> bool {
        self.regs.word(off::CSTS) == csts::RDY
    }

    fn read_bar0(&self, off: u32, w: Width) -> u64 {
        // Doorbells read 0 (NVMe 1.4 §3.1.24: what a read returns is vendor specific).
        self.frame.msix_read(0, off, w).unwrap_or_else(|| self.regs.read(off.into(), w))
    }

    fn write_bar0<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, off: u32, w: Width, v: u64) {
        if w == Width::B8 && off < off::MSIX_TABLE {
            self.write_bar0(cx, up, off, Width::B4, v & 0xffff_ffff);
            self.write_bar0(cx, up, off + 4, Width::B4, v >> 32);
        } else if (off::DOORBELLS..off::MSIX_TABLE).contains(&off) {
            self.write_doorbell(cx, up, off - off::DOORBELLS, w, v as u32);
        } else if !self.frame.msix_write(cx, up, (0, off), w, v) {
            self.write_register(cx, up, off, w, v);
        }
    }

    fn write_register<E>(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        off: u32,
        w: Width,
        v: u64,
    ) {
        let lanes = ((v & w.ones()) << ((off & 3) * 8)) as u32;
        match off & !3 {
            off::INTMS => self.set_mask(self.mask() | lanes),
            off::INTMC => {
                let unmasked = self.mask() & lanes;
                self.set_mask(self.mask() & !lanes);
                self.send_unmasked(cx, up, unmasked);
            }
            off::CC => {
                let old = self.regs.word(off::CC);
                self.regs.write(off.into(), w, v, false);
                self.configure(old, self.regs.word(off::CC));
            }
            _ => self.regs.write(off.into(), w, v, false),
        }
    }

    fn configure(&mut self, old: u32, new: u32) {
        match (old & cc::EN, new & cc::EN) {
            (0, cc::EN) => self.enable(new),
            (cc::EN, 0) => self.disable(),
            _ => {}
        }
        let shn = new & cc::SHN;
        if old & cc::SHN == 0 && shn != 0 && shn != cc::SHN_RESERVED {
            self.shut_down();
        }
    }

    /// CC.EN is set: the admin queues begin (NVMe 1.4 §7.6.1).
    fn enable(&mut self, cc: u32) {
        let aqa = self.regs.word(off::AQA);
        let (sq_size, cq_size) = ((aqa & 0xfff) as u16 + 1, (aqa >> 16 & 0xfff) as u16 + 1);
        let base = |lo: u32| u64::from(self.regs.word(lo)) | u64::from(self.regs.word(lo + 4)) << 32;
        // INFERRED: the specification leaves undefined what an unsupported configuration does.
        if cc & cc::CSS_MPS_AMS != 0 || sq_size < 2 || cq_size < 2 {
            self.regs.set_word(off::CSTS, csts::CFS);
            return;
        }
        let sq = SubmissionQueue::new(base(off::ASQ), sq_size, 0);
        let cq = CompletionQueue::new(base(off::ACQ), cq_size, 0, true);
        self.core = Core::new(self.io_queues);
        self.core.queues.sqs[0] = Some(sq);
        self.core.queues.cqs[0] = Some(cq);
        self.regs.set_word(off::CSTS, csts::RDY);
    }

    /// A controller reset: AQA, ASQ and ACQ stay (NVMe 1.4 §7.3.2).
    fn disable(&mut self) {
        self.core = Core::new(self.io_queues);
        self.set_mask(0);
        self.regs.set_word(off::CSTS, 0);
    }

    /// Everything that was completed is safe, everything else is dropped (NVMe 1.4 §7.6.2). An abrupt shutdown takes no longer, so
    /// it is the same. A medium that cannot be flushed is a failed controller.
    fn shut_down(&mut self) {
        self.drop_outstanding();
        let done = if self.disk.flush() { csts::SHST_COMPLETE } else { csts::SHST_OCCURRING | csts::CFS };
        let shst = csts::SHST_OCCURRING | csts::SHST_COMPLETE;
        self.regs.update(off::CSTS, shst | done & csts::CFS, done);
    }

    /// Queue memory cannot be reached: the host must reset (CSTS.CFS).
    fn fail(&mut self) {
        self.regs.update(off::CSTS, csts::CFS, csts::CFS);
        self.drop_outstanding();
    }

    fn drop_outstanding(&mut self) {
        for f in std::mem::take(&mut self.core.inflight) {
            self.release(f.sq);
        }
        self.core.aers.clear();
    }

    /// A command of submission queue `sq` no longer needs its completion queue entry.
    fn release(&mut self, sq: u16) {
        if let Some(cq) = self.cq_of(sq) {
            cq.release();
        }
    }

    fn cq_of(&mut self, sq: u16) -> Option<&mut CompletionQueue> {
        let id = self.core.queues.sq(sq)?.cq;
        self.core.queues.cq(id)
    }

    fn mask(&self) -> u32 {
        self.regs.word(off::INTMS)
    }

    fn set_mask(&mut self, mask: u32) {
        self.regs.set_word(off::INTMS, mask);
        self.regs.set_word(off::INTMC, mask);
    }

    /// Doorbells are dwords, submission and completion queues by turns; other accesses are undefined and do nothing.
    fn write_doorbell<E>(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        off: u32,
        w: Width,
        v: u32,
    ) {
        if w != Width::B4 {
            return;
        }
        let id = (off / 8) as u16;
        if off & 4 == 0 {
            self.ring_submission(cx, up, id, v);
        } else {
            self.ring_completion(cx, up, id, v);
        }
    }

    fn ring_submission<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, id: u16, tail: u32) {
        if !self.is_running() {
            return;
        }
        let Some(tail) = self.value(cx, up, (Side::Submission, id), tail) else { return };
        match self.core.queues.sq(id).map(|q| q.set_tail(tail)) {
            Some(true) => self.process(cx, up, id),
            Some(false) => self.bad_doorbell(cx, up, 1),
            None => self.bad_doorbell(cx, up, 0),
        }
    }

    /// The host takes completions off after a shutdown too, and INTx follows.
    fn ring_completion<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, id: u16, head: u32) {
        let Some(was_full) = self.core.queues.cq(id).map(|q| !q.has_room()) else {
            return self.bad_doorbell(cx, up, 0);
        };
        let Some(head) = self.value(cx, up, (Side::Completion, id), head) else { return };
        if !self.core.queues.cq(id).is_some_and(|q| q.set_head(head)) {
            return self.bad_doorbell(cx, up, 1);
        }
        self.follow_head(cx, up, id);
        if !was_full {
            return;
        }
        if id == 0 {
            self.tell_doorbell_error(cx, up);
        }
        for sq in 0..=self.io_queues {
            if self.core.queues.sq(sq).is_some_and(|q| q.cq == id) {
                self.process(cx, up, sq);
            }
        }
    }

    fn bad_doorbell<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, what: u8) {
        if !self.is_running() {
            return;
        }
        self.log.bad_doorbell();
        if self.core.doorbell_error == DoorbellError::None {
            self.core.doorbell_error = DoorbellError::Waiting(what);
            self.tell_doorbell_error(cx, up);
        }
    }

    /// Complete a held Asynchronous Event Request with what waits for one.
    fn tell_doorbell_error<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>) {
        let DoorbellError::Waiting(what) = self.core.doorbell_error else { return };
        if self.core.aers.is_empty() || !self.core.queues.cq(0).is_some_and(|q| q.has_room()) {
            return;
        }
        let cid = self.core.aers.remove(0);
        self.core.doorbell_error = DoorbellError::Told;
        self.post(cx, up, 0, cid, Ok(EVENT_LOG | u32::from(what) << 8));
    }

    /// Take commands off submission queue `id` until it is empty or its completion queue has no room left.
    fn take_commands<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, id: u16) {
        while let Some(c) = self.next_command(cx, up, id) {
            if id == 0 {
                if let Some(reply) = self.admin(cx, up, &c) {
                    self.note(id, &c, reply);
                    self.post(cx, up, id, c.cid, reply);
                }
                self.tell_doorbell_error(cx, up);
            } else if self.latency_ns == 0 {
                let reply = self.io(cx, up, &c).map(|()| 0);
                self.note(id, &c, reply);
                self.post(cx, up, id, c.cid, reply);
            } else {
                if let Some(cq) = self.cq_of(id) {
                    cq.reserve();
                }
                let due = cx.now.after_ns(self.latency_ns);
                self.core.inflight.push_back(InFlight { due, sq: id, command: c });
            }
        }
    }

    /// Fetch the next command of submission queue `id`, if there is one and room to complete it.
    fn next_command<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, id: u16) -> Option<Command> {
        let addr = self.core.queues.sq(id)?.pending()?;
        if self.is_running() && !self.cq_of(id)?.has_room() {
            let cq = self.core.queues.sq(id)?.cq;
            self.await_head(cx, up, cq);
        }
        if !self.is_running() || !self.cq_of(id)?.has_room() {
            return None;
        }
        let mut sqe = [0; command::SQE_BYTES];
        if self.frame.fetch(cx, up, addr, &mut sqe) != Completion::Success {
            self.fail();
            return None;
        }
        self.core.queues.sq(id)?.fetched();
        Some(Command::decode(&sqe))
    }

    /// End a command that was in flight.
    fn finish<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, f: &InFlight, reply: Reply) {
        self.release(f.sq);
        self.note(f.sq, &f.command, reply);
        self.post(cx, up, f.sq, f.command.cid, reply);
    }

    /// Keep an error for the log.
    fn note(&mut self, sq: u16, c: &Command, reply: Reply) {
        if let Err(status) = reply {
            self.log.failed(sq, c, sq != 0, status);
        }
    }

    /// Write a completion; its queue has room. Nothing more goes out of a controller that has failed.
    fn post<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, sq: u16, cid: u16, reply: Reply) {
        if !self.is_running() {
            return;
        }
        let Some(sq_head) = self.core.queues.sq(sq).map(|q| q.head()) else { return };
        let (result, status) = reply.map_or_else(|status| (0, status), |result| (result, Status::SUCCESS));
        let entry = Entry { result, sq_head, sq, cid, status };
        let Some(cq) = self.cq_of(sq) else { return };
        let (slot, bytes) = (cq.slot(), entry.encode(cq.phase()));
        cq.posted();
        let vector = cq.interrupts.then_some(cq.vector);
        if self.frame.store(cx, up, slot, &bytes) != Completion::Success {
            return self.fail();
        }
        if let Some(vector) = vector {
            if let Some(id) = self.core.queues.sq(sq).map(|q| q.cq) {
                self.follow_head(cx, up, id);
            }
            self.interrupt(cx, up, vector);
        }
    }

    /// A completion has arrived. INTx follows from the queues: [`Nvme::settle`].
    fn interrupt<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, vector: u16) {
        let vector = u32::from(vector);
        match self.frame.irq_mode() {
            IrqMode::MsiX => self.frame.raise_msix(cx, up, vector),
            IrqMode::Msi if self.is_masked(vector) => {}
            _ => self.frame.raise(cx, up, vector),
        }
    }

    /// INTMS masks the vectors of the pin and of MSI, not those of MSI-X (NVMe 1.4 §3.1.3).
    fn is_masked(&self, vector: u32) -> bool {
        self.mask() >> (vector % self.frame.msi_granted()) & 1 != 0
    }

    /// INTMC has cleared `unmasked`: an MSI goes out for each vector of a queue that still has completions (NVMe 1.4 §7.5.1).
    fn send_unmasked<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, unmasked: u32) {
        if self.frame.irq_mode() != IrqMode::Msi {
            return;
        }
        let granted = self.frame.msi_granted();
        let unread = self.core.queues.cqs.iter().flatten().filter(|q| q.interrupts && q.is_unread());
        let vectors = unread.fold(0, |all, q| all | 1u32 << (u32::from(q.vector) % granted));
        for vector in (0..granted).filter(|v| vectors & unmasked & 1 << v != 0) {
            self.frame.raise_msi(cx, up, vector);
        }
    }

    /// The pin is asserted while a queue that interrupts has completions that the host has not taken and vector 0 is not masked.
    fn settle(&mut self) {
        let asserted = self.frame.irq_mode() == IrqMode::Intx
            && self.mask() & 1 == 0
            && self.core.queues.cqs.iter().flatten().any(|q| q.interrupts && q.is_unread());
        self.frame.set_intx(asserted);
    }

    /// What a saved core must be for the registers beside it.
    fn check(&self, core: &mut Core, csts: u32) -> bool {
        for f in &core.inflight {
            let Some(cq) = core.queues.sq(f.sq).map(|q| q.cq) else { return false };
            if let Some(q) = core.queues.cq(cq) {
                q.reserve();
            }
        }
        let ready = csts & csts::RDY != 0;
        let none = Queues::new(self.io_queues);
        core.queues.is_possible(self.io_queues)
            && (ready && core.queues.sq(0).is_some() || !ready && core.queues == none)
            && (ready || core.buffers.is_none() && !core.again)
            && core.buffers.is_none_or(|b| b.is_possible())
            && (csts == csts::RDY || core.inflight.is_empty() && core.aers.is_empty())
            && core.inflight.iter().all(|f| f.sq != 0)
            && core.inflight.iter().is_sorted_by_key(|f| f.due)
            && core.aers.len() <= AERS
    }
}

impl Framed for Nvme {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn frame_mut(&mut self) -> &mut Frame {
        &mut self.frame
    }
}

impl<E> FramedFunction<E> for Nvme {
    fn bar_read(
        &mut self,
        _cx: &mut Cx<'_, E>,
        _up: &mut dyn Upstream<E>,
        (_, off): (u8, u32),
        w: Width,
    ) -> u64 {
        self.read_bar0(off, w)
    }

    fn bar_write(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        (_, off): (u8, u32),
        w: Width,
        v: u64,
    ) {
        self.write_bar0(cx, up, off, w, v);
        self.settle();
    }

    fn config_written(&mut self, _cx: &mut Cx<'_, E>, _up: &mut dyn Upstream<E>, _off: u16) {
        self.settle();
    }

    fn valueless_doorbells(&self, out: &mut Vec<u64>) {
        self.valueless_doorbells(out);
    }

    /// In D3hot commands wait: the function sends nothing (No_Soft_Reset keeps what it knows).
    fn next_deadline(&self) -> Option<SimTime> {
        let again = self.core.again.then_some(SimTime::ZERO);
        again.or(self.core.inflight.front().map(|f| f.due)).filter(|_| self.frame.in_d0())
    }

    fn tick(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>) {
        if !self.frame.in_d0() {
            return;
        }
        while self.core.inflight.front().is_some_and(|f| f.due <= cx.now) {
            let Some(f) = self.core.inflight.pop_front() else { break };
            let reply = self.io(cx, up, &f.command).map(|()| 0);
            self.finish(cx, up, &f, reply);
        }
        self.go_on(cx, up);
        self.settle();
    }

    fn reset(&mut self, _cx: &mut Cx<'_, E>, kind: ResetKind) {
        self.regs.reset(kind);
        self.core = Core::new(self.io_queues);
        self.log = Log::default();
    }

    fn sample(&self, out: &mut dyn FnMut(&str, u64)) {
        out("nvme.enabled", self.is_running().into());
        out("nvme.queues", self.core.queues.io_queues() as u64);
        out("nvme.inflight", self.core.inflight.len() as u64);
    }

    fn save(&self) -> FunctionState {
        let Nvme {
            frame,
            regs,
            core,
            log,
            disk: _,
            identity: _,
            io_queues: _,
            block_shift: _,
            latency_ns: _,
            transfer: _,
        } = self;
        let state = State { frame: frame.save(), regs: regs.save(), core: core.clone(), log: log.clone() };
        FunctionState::new(NAME, &state)
    }

    fn restore(&mut self, saved: &FunctionState) -> Result<(), StateError> {
        let State { frame, regs, mut core, log } = saved.data(NAME)?;
        let (mut new_frame, mut new_regs) = (self.frame.clone(), self.regs.clone());
        new_frame.restore("nvme", &frame)?;
        new_regs.restore("nvme registers", &regs)?;
        if !self.check(&mut core, new_regs.word(off::CSTS)) || !log.is_possible() {
            return Err(StateError::Impossible { what: "nvme" });
        }
        self.frame = new_frame;
        self.regs = new_regs;
        self.core = core;
        self.log = log;
        Ok(())
    }
}

#[cfg(test)]
#[path = "bad_input_test.rs"]
mod bad_input;
#[cfg(test)]
mod bench;
#[cfg(test)]
#[path = "random_test.rs"]
mod random;
#[cfg(test)]
#[path = "nvme_test.rs"]
mod tests;
