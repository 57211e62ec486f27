//! The controller against a recording port, and a driver that does to it what Linux does (v6.12 drivers/nvme/host/pci.c).

use block::VecMem;
use pcie::Bdf;
use pcie::Completion;
use pcie::Function;

use super::*;
use crate::MemDisk;

pub const BAR0: u64 = 0x6030_0000;
pub const BDF: Bdf = Bdf::new(1, 0, 0);
pub const RAM: u64 = 0x8000_0000;
pub const RAM_BYTES: usize = 2 << 20;
/// Data buffers of the driver.
pub const DATA: u64 = RAM + 0x10_0000;
/// Where MSIs go: outside RAM.
pub const MSI_ADDR: u64 = 0xfee0_0000;
pub const BLOCKS: u64 = 4096;
pub const DEPTH: u16 = 32;
/// CC: entry sizes of 64 and 16 bytes.
pub const CC: u32 = 0x0046_0000;

/// A port that records writes and MSIs and passes requests to memory.
#[derive(Default)]
pub struct Port {
    /// Data of messages.
    pub messages: Vec<u32>,
    /// Writes to memory: where and how much.
    pub writes: Vec<(u64, usize)>,
    /// Reads of memory.
    pub reads: Vec<(u64, usize)>,
    /// Requests that begin in here are refused.
    pub refused: Option<std::ops::Range<u64>>,
}

impl Port {
    fn gate(&self, bme: bool, addr: u64, access: impl FnOnce() -> bool) -> Completion {
        let refused = self.refused.as_ref().is_some_and(|r| r.contains(&addr));
        if bme && !refused && access() {
            Completion::Success
        } else {
            Completion::UnsupportedRequest
        }
    }
}

impl Upstream<()> for Port {
    fn mem_write(&mut self, cx: &mut Cx<'_, ()>, rid: Bdf, bme: bool, addr: u64, data: &[u8]) -> Completion {
        assert_eq!(rid, BDF);
        if addr == MSI_ADDR && bme {
            self.messages.push(u32::from_le_bytes(data.try_into().expect("a message is a dword")));
            return Completion::Success;
        }
        self.writes.push((addr, data.len()));
        self.gate(bme, addr, || cx.mem.write(addr, data))
    }

    fn mem_read(
        &mut self,
        cx: &mut Cx<'_, ()>,
        rid: Bdf,
        bme: bool,
        addr: u64,
        buf: &mut [u8],
    ) -> Completion {
        assert_eq!(rid, BDF);
        self.reads.push((addr, buf.len()));
        self.gate(bme, addr, || cx.mem.read(addr, buf))
    }
}

/// A command as a driver writes it.
#[derive(Clone, Copy)]
pub struct Sqe(pub [u32; 16]);

impl Sqe {
    pub fn new(opcode: u8) -> Sqe {
        let mut s = Sqe([0; 16]);
        s.0[0] = opcode.into();
        s
    }

    pub fn dw(mut self, n: usize, v: u32) -> Sqe {
        self.0[n] = v;
        self
    }

    pub fn nsid(self, nsid: u32) -> Sqe {
        self.dw(1, nsid)
    }

    pub fn prp(self, prp1: u64, prp2: u64) -> Sqe {
        self.dw(6, prp1 as u32).dw(7, (prp1 >> 32) as u32).dw(8, prp2 as u32).dw(9, (prp2 >> 32) as u32)
    }

    /// A command of the namespace for `blocks` blocks from `slba` on.
    pub fn io(opcode: u8, slba: u64, blocks: u32) -> Sqe {
        Sqe::new(opcode).nsid(1).dw(10, slba as u32).dw(11, (slba >> 32) as u32).dw(12, blocks - 1)
    }

    pub fn create_cq(id: u16, size: u32, at: u64, vector: u32) -> Sqe {
        let s = Sqe::new(command::admin::CREATE_CQ).prp(at, 0);
        s.dw(10, u32::from(id) | (size - 1) << 16).dw(11, 3 | vector << 16)
    }

    pub fn create_sq(id: u16, size: u32, at: u64, cq: u16) -> Sqe {
        let s = Sqe::new(command::admin::CREATE_SQ).prp(at, 0);
        s.dw(10, u32::from(id) | (size - 1) << 16).dw(11, 1 | u32::from(cq) << 16)
    }

    pub fn identify(cns: u8, nsid: u32) -> Sqe {
        Sqe::new(command::admin::IDENTIFY).nsid(nsid).prp(DATA, 0).dw(10, cns.into())
    }
}

/// A completion as a driver reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cqe {
    pub result: u32,
    pub sq_head: u16,
    pub sq: u16,
    pub cid: u16,
    pub status: u16,
}

/// The driver's side of a pair of queues.
#[derive(Clone)]
pub struct Pair {
    pub depth: u16,
    tail: u16,
    head: u16,
    phase: u16,
    next_cid: u16,
}

impl Pair {
    pub fn new(depth: u16) -> Pair {
        Pair { depth, tail: 0, head: 0, phase: 1, next_cid: 0 }
    }
}

pub struct Bench {
    pub f: Nvme,
    pub port: Port,
    pub mem: VecMem,
    pub now: SimTime,
    pub pairs: Vec<Pair>,
}

/// Memory of submission queue `id`; that of its completion queue is behind it.
pub fn sq_at(id: u16) -> u64 {
    RAM + u64::from(id) * 0x1_0000
}

pub fn cq_at(id: u16) -> u64 {
    sq_at(id) + 0x8000
}

pub fn spec() -> NvmeSpec {
    NvmeSpec::new(Box::new(MemDisk::new(BLOCKS as usize * 512)), "RCVM0001")
}

impl Bench {
    pub fn of(spec: NvmeSpec) -> Bench {
        Bench {
            f: Nvme::new(spec),
            port: Port::default(),
            mem: VecMem::new(RAM, RAM_BYTES),
            now: SimTime(5),
            pairs: Vec::new(),
        }
    }

    pub fn with<R>(&mut self, f: impl FnOnce(&mut Nvme, &mut Cx<'_, ()>, &mut Port) -> R) -> R {
        let mut events = Vec::new();
        let mut cx = Cx { now: self.now, mem: &mut self.mem, events: &mut events };
        f(&mut self.f, &mut cx, &mut self.port)
    }

    pub fn cfg_write(&mut self, off: u16, w: Width, v: u64) {
        self.with(|f, cx, p| f.config_write(cx, p, BDF, off, w, v));
    }

    pub fn cfg_read(&mut self, off: u16, w: Width) -> u64 {
        self.with(|f, cx, _| Function::<()>::config_read(f, cx, None, off, w))
    }

    pub fn write(&mut self, off: u32, w: Width, v: u64) -> Completion {
        self.with(|f, cx, p| f.mem_write(cx, p, BAR0 + u64::from(off), w, v))
    }

    pub fn writel(&mut self, off: u32, v: u32) {
        assert_eq!(self.write(off, Width::B4, v.into()), Completion::Success);
    }

    pub fn lo_hi_writeq(&mut self, off: u32, v: u64) {
        self.writel(off, v as u32);
        self.writel(off + 4, (v >> 32) as u32);
    }

    pub fn read(&mut self, off: u32, w: Width) -> u64 {
        self.with(|f, cx, p| f.mem_read(cx, p, BAR0 + u64::from(off), w).data)
    }

    pub fn readl(&mut self, off: u32) -> u32 {
        self.read(off, Width::B4) as u32
    }

    pub fn csts(&mut self) -> u32 {
        self.readl(off::CSTS)
    }

    pub fn intx(&self) -> u8 {
        Function::<()>::intx(&self.f)
    }

    pub fn deadline(&self) -> Option<SimTime> {
        Function::<()>::next_deadline(&self.f)
    }

    pub fn tick(&mut self, now: SimTime) {
        self.now = now;
        self.with(|f, cx, p| Function::tick(f, cx, p));
    }

    pub fn sample(&self) -> std::collections::BTreeMap<String, u64> {
        let mut m = std::collections::BTreeMap::new();
        Function::<()>::sample(&self.f, &mut |k, v| {
            m.insert(k.to_owned(), v);
        });
        m
    }

    pub fn bytes(&self, addr: u64, len: usize) -> &[u8] {
        &self.mem.bytes[(addr - RAM) as usize..][..len]
    }

    pub fn put(&mut self, addr: u64, bytes: &[u8]) {
        self.mem.bytes[(addr - RAM) as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    /// A PRP list at `at`.
    pub fn put_list(&mut self, at: u64, entries: &[u64]) {
        for (i, e) in entries.iter().enumerate() {
            self.put(at + i as u64 * 8, &e.to_le_bytes());
        }
    }

    /// nvme_pci_enable: BAR, memory and bus mastering.
    pub fn enumerate(&mut self) {
        self.cfg_write(0x10, Width::B4, BAR0);
        self.cfg_write(0x04, Width::B2, 0x6);
    }

    /// pci_alloc_irq_vectors with MSI-X: vector n sends n.
    pub fn msix_on(&mut self) {
        for v in 0..u32::from(self.f.vectors()) {
            let e = off::MSIX_TABLE + v * 16;
            self.lo_hi_writeq(e, MSI_ADDR);
            self.writel(e + 8, v);
            self.writel(e + 12, 0);
        }
        self.cfg_write(0xb2, Width::B2, 0x8000);
    }

    /// One MSI.
    pub fn msi_on(&mut self) {
        self.cfg_write(0x54, Width::B4, MSI_ADDR);
        self.cfg_write(0x5c, Width::B2, 0x40);
        self.cfg_write(0x52, Width::B2, 0x1);
    }

    /// nvme_pci_configure_admin_queue: nvme_disable_ctrl, admin queue, nvme_enable_ctrl.
    pub fn enable(&mut self) {
        self.writel(off::CC, 0);
        assert_eq!(self.csts() & csts::RDY, 0);
        let depth = u32::from(DEPTH) - 1;
        self.writel(off::AQA, depth | depth << 16);
        self.lo_hi_writeq(off::ASQ, sq_at(0));
        self.lo_hi_writeq(off::ACQ, cq_at(0));
        self.writel(off::CC, CC);
        self.writel(off::CC, CC | cc::EN);
        assert_eq!(self.csts(), csts::RDY);
        let zeroes = [0; 0x8000];
        self.put(cq_at(0), &zeroes);
        self.pairs = vec![Pair::new(DEPTH)];
    }

    /// nvme_create_io_queues: as many pairs as vectors have been given; `shared`: one vector for all.
    pub fn create_io_queues(&mut self, n: u16, shared: bool) {
        for id in 1..=n {
            self.put(cq_at(id), &[0; 0x8000]);
            let vector = if shared { 0 } else { id };
            let size = u32::from(DEPTH);
            assert_eq!(self.sync(0, Sqe::create_cq(id, size, cq_at(id), vector.into())).status, 0);
            assert_eq!(self.sync(0, Sqe::create_sq(id, size, sq_at(id), id)).status, 0);
            self.pairs.push(Pair::new(DEPTH));
        }
    }

    /// Probed with MSI-X and `n` pairs of I/O queues.
    pub fn probed(spec: NvmeSpec, n: u16) -> Bench {
        let mut b = Bench::of(spec);
        b.enumerate();
        b.msix_on();
        b.enable();
        b.create_io_queues(n, false);
        b.port = Port::default();
        b
    }

    /// Put a command in queue `id`; its identifier.
    pub fn queue(&mut self, id: u16, s: Sqe) -> u16 {
        let pair = &mut self.pairs[usize::from(id)];
        let (cid, at) = (pair.next_cid, sq_at(id) + u64::from(pair.tail) * 64);
        pair.next_cid += 1;
        pair.tail = (pair.tail + 1) % pair.depth;
        let s = s.dw(0, s.0[0] | u32::from(cid) << 16);
        let bytes: Vec<u8> = s.0.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.put(at, &bytes);
        cid
    }

    pub fn tail(&self, id: u16) -> u16 {
        self.pairs[usize::from(id)].tail
    }

    pub fn ring(&mut self, id: u16) {
        let tail = self.tail(id);
        self.writel(off::DOORBELLS + u32::from(id) * 8, tail.into());
    }

    /// nvme_queue_rq.
    pub fn submit(&mut self, id: u16, s: Sqe) -> u16 {
        let cid = self.queue(id, s);
        self.ring(id);
        cid
    }

    /// nvme_poll_cq without its doorbell.
    pub fn take(&mut self, id: u16) -> Vec<Cqe> {
        let mut found = Vec::new();
        loop {
            let pair = &self.pairs[usize::from(id)];
            let e = self.bytes(cq_at(id) + u64::from(pair.head) * 16, 16);
            let half = |n: usize| u16::from_le_bytes([e[n], e[n + 1]]);
            if half(14) & 1 != pair.phase {
                return found;
            }
            let result = u32::from_le_bytes([e[0], e[1], e[2], e[3]]);
            found.push(Cqe { result, sq_head: half(8), sq: half(10), cid: half(12), status: half(14) >> 1 });
            let pair = &mut self.pairs[usize::from(id)];
            pair.head = (pair.head + 1) % pair.depth;
            pair.phase ^= u16::from(pair.head == 0);
        }
    }

    pub fn ring_cq(&mut self, id: u16) {
        let head = self.pairs[usize::from(id)].head;
        self.writel(off::DOORBELLS + u32::from(id) * 8 + 4, head.into());
    }

    /// nvme_poll_cq.
    pub fn reap(&mut self, id: u16) -> Vec<Cqe> {
        let found = self.take(id);
        if !found.is_empty() {
            self.ring_cq(id);
        }
        found
    }

    /// Submit, wait, reap: the one completion.
    pub fn sync(&mut self, id: u16, s: Sqe) -> Cqe {
        let cid = self.submit(id, s);
        while let Some(t) = self.deadline() {
            self.tick(t);
        }
        let found = self.reap(id);
        assert_eq!(found.iter().map(|c| c.cid).collect::<Vec<_>>(), [cid], "one completion of this command");
        found[0]
    }

    /// nvme_dev_disable(shutdown): delete queues, shut down; then remove.
    pub fn remove(&mut self, n: u16) {
        for op in [command::admin::DELETE_SQ, command::admin::DELETE_CQ] {
            for id in (1..=n).rev() {
                assert_eq!(self.sync(0, Sqe::new(op).dw(10, id.into())).status, 0);
            }
        }
        self.writel(off::CC, CC | cc::EN | 1 << 14);
        assert_eq!(self.csts(), csts::RDY | csts::SHST_COMPLETE);
        self.reap(0);
    }

    pub fn save(&self) -> FunctionState {
        Function::<()>::save(&self.f)
    }

    pub fn restore(&mut self, s: &FunctionState) -> Result<(), StateError> {
        Function::<()>::restore(&mut self.f, s)
    }
}
