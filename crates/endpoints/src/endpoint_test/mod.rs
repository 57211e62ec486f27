//! The PCI endpoint-test function, 104c:b500.
//!
//! *Modelled*: configuration space with PM, MSI (32, maskable), MSI-X (up to 2048 with PBA), PCI Express and AER; BAR 0 with
//! the test registers and the MSI-X table, the other BARs as scratch memory; all commands: RAISE_*, READ, WRITE and COPY with
//! DMA through the port, doorbells, BAR subranges. Which BARs, vectors and abilities it has is an [`EndpointTestSpec`].
//! *Not modelled*: the time that a transfer takes; NO_RESOURCE (there are always enough inbound windows).
//! *Sources*: spec/dwc-qcom-registers.md §5; Linux v6.12 and v7.3 drivers/misc/pci_endpoint_test.c and
//! drivers/pci/endpoint/functions/pci-epf-test.c.
//!
//! COMMAND is polled, as pci-epf-test does: the driver of 6.1 relies on that. Its handler writes STATUS back after it has
//! woken the thread that raises the next interrupt; a function that acts at once would lose that one's IRQ_RAISED.

pub mod regs;

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
use pcie::MsixSpec;
use pcie::Upstream;
use serde::Deserialize;
use serde::Serialize;

use regs::caps;
use regs::command;
use regs::off;
use regs::status;

/// MSI-X vectors, unless a spec says otherwise.
pub const MSIX_VECTORS: u16 = 32;
/// Most MSI-X vectors (PCIe §7.7.2.2).
pub const MSIX_VECTORS_MOST: u16 = 2048;
/// Least bytes of BAR 0 (registers, MSI-X table, PBA).
pub const BAR0_BYTES: u32 = 0x1000;
/// Bytes of a scratch BAR: small, because the BAR tests access every dword of it.
pub const SCRATCH_BYTES: u32 = 0x1000;
/// From a write of COMMAND to the poll that sees it. The function asks for 1 ms (spec §5.2), which is one jiffy: 4 ms on an
/// endpoint with HZ=250, and the host's handler, slow under emulation, gets time to finish with STATUS.
pub const POLL_NS: u64 = 4_000_000;
/// How long INTx stays asserted if the host does not read STATUS.
///
/// DEVIATION: real endpoints pulse for about 1 ms (spec §5.2), and a host that is slower loses the interrupt. A vCPU of
/// a busy machine is slower; so the line waits as long as pci_endpoint_test does (1 s) before it gives up.
pub const INTX_PULSE_NS: u64 = 1_000_000_000;
/// Most bytes that one READ, WRITE or COPY moves; more is refused, so that a guest cannot hold the model for long.
pub const MAX_TRANSFER_BYTES: u32 = 4 << 20;

/// Where in its BAR the doorbell is.
///
/// INFERRED: on endpoints whose doorbell is a GICv3 ITS, that is where GITS_TRANSLATER lies in its page.
const DOORBELL_OFF: u32 = 0x40;
/// What rings it: the event ID of an MSI.
const DOORBELL_DATA: u32 = 1;
/// DB_BAR while there is no doorbell (Linux v7.3 include/linux/pci-epf.h, NO_BAR).
const NO_BAR: u32 = u32::MAX;
const CHUNK_BYTES: usize = 4096;

/// What the function has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointTestSpec {
    /// Decides the "random" data of WRITE.
    pub seed: u64,
    /// MSI-X vectors, 1–2048; BAR 0 grows with them.
    pub msix_vectors: u16,
    /// Scratch BARs: bit n for BAR n, 1–5.
    pub scratch_bars: u8,
    /// Whether it has a DMA engine of its own, so that FLAG_USE_DMA is served.
    pub dma: bool,
    /// Whether it can change what its BARs map to: doorbells and subranges.
    pub inbound_mapping: bool,
}

impl Default for EndpointTestSpec {
    /// BAR 0 and 2, 32 MSI-X vectors, DMA.
    fn default() -> Self {
        EndpointTestSpec {
            seed: 1,
            msix_vectors: MSIX_VECTORS,
            scratch_bars: 1 << 2,
            dma: true,
            inbound_mapping: false,
        }
    }
}

impl EndpointTestSpec {
    /// All that the kernel's own test programs try: every BAR, 2048 MSI-X vectors, DMA, doorbells and subranges.
    pub fn full() -> EndpointTestSpec {
        EndpointTestSpec {
            msix_vectors: MSIX_VECTORS_MOST,
            scratch_bars: 0x3e,
            inbound_mapping: true,
            ..EndpointTestSpec::default()
        }
    }

    fn msix(&self) -> MsixSpec {
        let vectors = self.msix_vectors.clamp(1, MSIX_VECTORS_MOST);
        MsixSpec { vectors, bar: 0, table_off: off::MSIX_TABLE }
    }

    fn bars(&self) -> Vec<Bar> {
        let msix = self.msix();
        let end = msix.pba_off() + msix.pba_bytes();
        let mut bars = vec![Bar { index: 0, size_bytes: end.next_power_of_two().max(BAR0_BYTES) }];
        let scratch = (1..6).filter(|n| self.scratch_bars >> n & 1 != 0);
        bars.extend(scratch.map(|index| Bar { index, size_bytes: SCRATCH_BYTES }));
        bars
    }
}

/// A scratch BAR and what it maps to at the moment.
#[derive(Clone, Debug)]
struct Scratch {
    index: u8,
    memory: RegFile,
    /// The two halves of the memory change places.
    swapped: bool,
    /// The BAR maps to the doorbell instead.
    doorbell: bool,
}

impl Scratch {
    fn new(index: u8) -> Scratch {
        let memory = RegFile::with_scratch(SCRATCH_BYTES, &[]);
        Scratch { index, memory, swapped: false, doorbell: false }
    }

    fn memory_off(&self, off: u32) -> u64 {
        u64::from(if self.swapped { off ^ (SCRATCH_BYTES / 2) } else { off })
    }

    /// INFERRED: the page of a doorbell reads 0.
    fn read(&self, off: u32, w: Width) -> u64 {
        if self.doorbell {
            return 0;
        }
        self.memory.read(self.memory_off(off), w)
    }

    fn write(&mut self, off: u32, w: Width, v: u64) {
        if !self.doorbell {
            self.memory.write(self.memory_off(off), w, v, false);
        }
    }

    /// Swap the halves and sign what the guest then sees of each, as pci-epf-test does.
    fn set_subranges(&mut self) {
        (self.swapped, self.doorbell) = (true, false);
        let half = SCRATCH_BYTES / 2;
        for at in (0..SCRATCH_BYTES).step_by(4) {
            let sign = 0x50 + u32::from(self.index) * 8 + at / half;
            self.memory.set_word(at ^ half, sign * 0x0101_0101);
        }
    }

    fn clear_subranges(&mut self) {
        (self.swapped, self.doorbell) = (false, false);
    }

    fn reset(&mut self, kind: ResetKind) {
        self.memory.reset(kind);
        self.clear_subranges();
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct ScratchState {
    memory: Words,
    swapped: bool,
    doorbell: bool,
}

/// The function.
#[derive(Clone, Debug)]
pub struct EndpointTest {
    frame: Frame,
    spec: EndpointTestSpec,
    bar0: RegFile,
    scratch: Vec<Scratch>,
    /// The BAR of the doorbell while it is enabled.
    doorbell: Option<u8>,
    /// When COMMAND is looked at next.
    poll_at: Option<SimTime>,
    /// INTx is asserted until then, or until STATUS is read.
    intx_until: Option<SimTime>,
    random: u64,
}

/// What the function saves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct State {
    frame: FrameState,
    bar0: Words,
    scratch: Vec<ScratchState>,
    doorbell: Option<u8>,
    poll_at: Option<SimTime>,
    intx_until: Option<SimTime>,
    random: u64,
}

/// Name in a [`FunctionState`].
const NAME: &str = "endpoint-test";

impl Default for EndpointTest {
    fn default() -> Self {
        EndpointTest::with(EndpointTestSpec::default())
    }
}

impl EndpointTest {
    /// A function out of power-on reset; `seed` decides the "random" data of WRITE.
    pub fn new(seed: u64) -> EndpointTest {
        EndpointTest::with(EndpointTestSpec { seed, ..EndpointTestSpec::default() })
    }

    /// A function out of power-on reset, with what `spec` says.
    pub fn with(spec: EndpointTestSpec) -> EndpointTest {
        let ids = Ids {
            vendor: 0x104c,
            device: 0xb500,
            // pci-epf-test leaves PCI_CLASS_OTHERS.
            class: 0xff_0000,
            pin: 1,
            ..Ids::default()
        };
        let bars = spec.bars();
        let mut bar0 = RegFile::new(BAR0_BYTES, regs::ROWS);
        if spec.inbound_mapping {
            bar0.set_reset(off::CAPS, regs::CAPS_VALUE | caps::SUBRANGE | caps::DYNAMIC_INBOUND);
        }
        EndpointTest {
            frame: Frame::new(&FrameSpec { ids, bars: &bars, msi: true, msix: Some(spec.msix()) }),
            spec,
            bar0,
            scratch: bars.iter().skip(1).map(|b| Scratch::new(b.index)).collect(),
            doorbell: None,
            poll_at: None,
            intx_until: None,
            random: spec.seed | 1,
        }
    }

    fn scratch(&mut self, bar: u32) -> Option<&mut Scratch> {
        self.scratch.iter_mut().find(|s| u32::from(s.index) == bar)
    }

    fn write_scratch<E>(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        (bar, off): (u8, u32),
        w: Width,
        v: u64,
    ) {
        let Some(s) = self.scratch(bar.into()) else { return };
        if s.doorbell && (off, w, v) == (DOORBELL_OFF, Width::B4, DOORBELL_DATA.into()) {
            self.bar0.update(off::STATUS, status::DOORBELL_OK, status::DOORBELL_OK);
            self.raise(cx, up, self.bar0.word(off::IRQ_TYPE));
        } else {
            s.write(off, w, v);
        }
    }

    fn read_bar0(&mut self, off: u32, w: Width) -> u64 {
        if let Some(v) = self.frame.msix_read(0, off, w) {
            return v;
        }
        if off & !3 == off::STATUS {
            // INFERRED (spec §5.2): there is no deassert register; the handler's STATUS read ends the pulse.
            self.end_intx();
        }
        self.bar0.read(u64::from(off), w)
    }

    fn write_bar0<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, off: u32, w: Width, v: u64) {
        if self.frame.msix_write(cx, up, (0, off), w, v) {
            return;
        }
        self.bar0.write(u64::from(off), w, v, false);
        if off & !3 == off::COMMAND && self.poll_at.is_none() {
            self.poll_at = Some(cx.now.after_ns(POLL_NS));
        }
    }

    fn end_intx(&mut self) {
        self.intx_until = None;
        self.frame.set_intx(false);
    }

    /// What pci-epf-test's command handler does: clear COMMAND and STATUS, then act on the first bit it knows.
    fn take_command<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>) {
        let cmd = self.bar0.word(off::COMMAND);
        if cmd == 0 {
            return;
        }
        self.bar0.set_word(off::COMMAND, 0);
        self.bar0.set_word(off::STATUS, 0);
        if self.bar0.word(off::FLAGS) & regs::FLAG_USE_DMA != 0 && !self.spec.dma {
            // The real function logs, and raises nothing (spec §5.2, FLAGS).
            return;
        }
        let kind = self.bar0.word(off::IRQ_TYPE);
        if kind > 2 {
            return;
        }
        if cmd & (command::RAISE_INTX | command::RAISE_MSI | command::RAISE_MSIX) != 0 {
            self.raise(
                cx,
                up,
                if cmd & command::RAISE_INTX != 0 { 0 } else { 1 + u32::from(cmd & command::RAISE_MSI == 0) },
            );
            return;
        }
        let result = match cmd {
            c if c & command::READ != 0 => self.dma_read(cx, up),
            c if c & command::WRITE != 0 => self.dma_write(cx, up),
            c if c & command::COPY != 0 => self.dma_copy(cx, up),
            c if c & command::ENABLE_DOORBELL != 0 => self.enable_doorbell(),
            c if c & command::DISABLE_DOORBELL != 0 => self.disable_doorbell(),
            c if c & command::BAR_SUBRANGE_SETUP != 0 => self.set_subranges(),
            c if c & command::BAR_SUBRANGE_CLEAR != 0 => self.clear_subranges(),
            _ => return,
        };
        self.bar0.set_word(off::STATUS, result);
        self.raise(cx, up, kind);
    }

    /// Map the first scratch BAR to the doorbell. One that is enabled stays so, and the second attempt fails: the endpoint's
    /// doorbells are taken (Linux v7.3 drivers/pci/endpoint/pci-ep-msi.c).
    fn enable_doorbell(&mut self) -> u32 {
        let free = self.spec.inbound_mapping && self.doorbell.is_none();
        let Some(s) = self.scratch.first_mut().filter(|_| free) else { return status::DB_ENABLE_FAIL };
        s.doorbell = true;
        self.doorbell = Some(s.index);
        self.bar0.set_word(off::DB_BAR, s.index.into());
        self.bar0.set_word(off::DB_OFFSET, DOORBELL_OFF);
        self.bar0.set_word(off::DB_DATA, DOORBELL_DATA);
        status::DB_ENABLE_OK
    }

    /// Give the BAR back to its memory.
    fn disable_doorbell(&mut self) -> u32 {
        let Some(bar) = self.doorbell.take() else { return status::DB_DISABLE_FAIL };
        if let Some(s) = self.scratch(bar.into()) {
            s.doorbell = false;
        }
        self.bar0.set_word(off::DB_BAR, NO_BAR);
        status::DB_DISABLE_OK
    }

    /// SIZE names the BAR. A doorbell in it is no longer reached: the last mapping counts.
    fn set_subranges(&mut self) -> u32 {
        let able = self.spec.inbound_mapping;
        match self.scratch(self.bar0.word(off::SIZE)).filter(|_| able) {
            Some(s) => {
                s.set_subranges();
                status::SUBRANGE_SETUP_OK
            }
            None => status::SUBRANGE_SETUP_FAIL,
        }
    }

    fn clear_subranges(&mut self) -> u32 {
        match self.scratch(self.bar0.word(off::SIZE)).filter(|s| s.swapped) {
            Some(s) => {
                s.clear_subranges();
                status::SUBRANGE_CLEAR_OK
            }
            None => status::SUBRANGE_CLEAR_FAIL,
        }
    }

    /// Set IRQ_RAISED, then raise: 0 INTx, 1 MSI, 2 MSI-X with vector IRQ_NUMBER.
    fn raise<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, kind: u32) {
        let s = self.bar0.word(off::STATUS) | status::IRQ_RAISED;
        self.bar0.set_word(off::STATUS, s);
        let number = self.bar0.word(off::IRQ_NUMBER);
        match (kind, number.checked_sub(1)) {
            (0, _) => {
                self.intx_until = Some(cx.now.after_ns(INTX_PULSE_NS));
                self.frame.set_intx(true);
            }
            (1, Some(v)) => self.frame.raise_msi(cx, up, v),
            (2, Some(v)) => self.frame.raise_msix(cx, up, v),
            _ => {}
        }
    }

    fn addr(&self, at: u32) -> u64 {
        u64::from(self.bar0.word(at)) | u64::from(self.bar0.word(at + 4)) << 32
    }

    fn dma_read<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>) -> u32 {
        let (src, size) = (self.addr(off::SRC_ADDR), self.bar0.word(off::SIZE));
        let mut crc = Crc32::default();
        let got = self.for_chunks(size, |f, at, buf| {
            let ok = f.fetch(cx, up, src, at, buf);
            crc.update(buf);
            ok
        });
        match got {
            Ok(()) if crc.0 == self.bar0.word(off::CHECKSUM) => status::READ_OK,
            Ok(()) => status::READ_FAIL,
            Err(()) => status::READ_FAIL | status::SRC_ADDR_INVALID,
        }
    }

    fn dma_write<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>) -> u32 {
        let (dst, size) = (self.addr(off::DST_ADDR), self.bar0.word(off::SIZE));
        let mut crc = Crc32::default();
        let put = self.for_chunks(size, |f, at, buf| {
            buf.fill_with(|| f.next_random());
            crc.update(buf);
            f.store(cx, up, dst, at, buf)
        });
        match put {
            Ok(()) => {
                self.bar0.set_word(off::CHECKSUM, crc.0);
                status::WRITE_OK
            }
            Err(()) => status::WRITE_FAIL | status::DST_ADDR_INVALID,
        }
    }

    fn dma_copy<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>) -> u32 {
        let (src, dst) = (self.addr(off::SRC_ADDR), self.addr(off::DST_ADDR));
        let mut refused = 0;
        let copied = self.for_chunks(self.bar0.word(off::SIZE), |f, at, buf| {
            if !f.fetch(cx, up, src, at, buf) {
                refused = status::SRC_ADDR_INVALID;
            } else if !f.store(cx, up, dst, at, buf) {
                refused = status::DST_ADDR_INVALID;
            }
            refused == 0
        });
        if copied.is_ok() {
            status::COPY_OK
        } else {
            status::COPY_FAIL | refused
        }
    }

    /// Call `step(self, offset, chunk)` over `size` bytes until it says `false`.
    fn for_chunks(
        &mut self,
        size: u32,
        mut step: impl FnMut(&mut Self, u64, &mut [u8]) -> bool,
    ) -> Result<(), ()> {
        if size > MAX_TRANSFER_BYTES {
            return Err(());
        }
        let mut buf = [0; CHUNK_BYTES];
        let mut at = 0;
        while at < size as usize {
            let n = CHUNK_BYTES.min(size as usize - at);
            if !step(self, at as u64, &mut buf[..n]) {
                return Err(());
            }
            at += n;
        }
        Ok(())
    }

    fn fetch<E>(
        &self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        base: u64,
        at: u64,
        buf: &mut [u8],
    ) -> bool {
        let Some(addr) = base.checked_add(at) else { return false };
        self.frame.fetch(cx, up, addr, buf) == Completion::Success
    }

    fn store<E>(&self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, base: u64, at: u64, buf: &[u8]) -> bool {
        let Some(addr) = base.checked_add(at) else { return false };
        self.frame.store(cx, up, addr, buf) == Completion::Success
    }

    fn next_random(&mut self) -> u8 {
        // xorshift64
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random as u8
    }
}

impl Framed for EndpointTest {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn frame_mut(&mut self) -> &mut Frame {
        &mut self.frame
    }
}

impl<E> FramedFunction<E> for EndpointTest {
    fn bar_read(
        &mut self,
        _cx: &mut Cx<'_, E>,
        _up: &mut dyn Upstream<E>,
        (bar, off): (u8, u32),
        w: Width,
    ) -> u64 {
        if bar == 0 {
            self.read_bar0(off, w)
        } else {
            self.scratch(bar.into()).map_or(0, |s| s.read(off, w))
        }
    }

    fn bar_write(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, at: (u8, u32), w: Width, v: u64) {
        match at {
            (0, off) => self.write_bar0(cx, up, off, w, v),
            at => self.write_scratch(cx, up, at, w, v),
        }
    }

    fn next_deadline(&self) -> Option<SimTime> {
        [self.poll_at, self.intx_until].into_iter().flatten().min()
    }

    fn tick(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>) {
        if self.poll_at.is_some_and(|t| t <= cx.now) {
            self.poll_at = None;
            self.take_command(cx, up);
        }
        if self.intx_until.is_some_and(|t| t <= cx.now) {
            self.end_intx();
        }
    }

    fn reset(&mut self, _cx: &mut Cx<'_, E>, kind: ResetKind) {
        self.intx_until = None;
        self.poll_at = None;
        if kind != ResetKind::D3HotToD0 {
            self.bar0.reset(kind);
            self.scratch.iter_mut().for_each(|s| s.reset(kind));
            self.doorbell = None;
            self.random = self.spec.seed | 1;
        }
    }

    fn save(&self) -> FunctionState {
        let EndpointTest { frame, spec: _, bar0, scratch, doorbell, poll_at, intx_until, random } = self;
        let scratch = scratch.iter().map(|s| ScratchState {
            memory: s.memory.save(),
            swapped: s.swapped,
            doorbell: s.doorbell,
        });
        let state = State {
            frame: frame.save(),
            bar0: bar0.save(),
            scratch: scratch.collect(),
            doorbell: *doorbell,
            poll_at: *poll_at,
            intx_until: *intx_until,
            random: *random,
        };
        FunctionState::new(NAME, &state)
    }

    fn restore(&mut self, saved: &FunctionState) -> Result<(), StateError> {
        let State { frame, bar0, scratch, doorbell, poll_at, intx_until, random } = saved.data(NAME)?;
        let mut f = self.clone();
        f.frame.restore("endpoint-test", &frame)?;
        f.bar0.restore("endpoint-test bar 0", &bar0)?;
        StateError::unless_length("endpoint-test scratch bars", f.scratch.len(), scratch.len())?;
        for (s, saved) in f.scratch.iter_mut().zip(&scratch) {
            s.memory.restore("endpoint-test scratch bar", &saved.memory)?;
            (s.swapped, s.doorbell) = (saved.swapped, saved.doorbell);
        }
        let able = f.spec.inbound_mapping;
        let first = f.scratch.first().map(|s| s.index);
        let mapped = f.scratch.iter().any(|s| s.swapped) || doorbell.is_some();
        let foreign = f.scratch.iter().any(|s| s.doorbell && doorbell != Some(s.index));
        if mapped && !able || foreign || doorbell.is_some() && doorbell != first {
            return Err(StateError::Impossible { what: "endpoint-test bar mapping" });
        }
        if random == 0 {
            // A xorshift generator never leaves 0, nor gets there.
            return Err(StateError::Impossible { what: "endpoint-test random" });
        }
        *self = EndpointTest { doorbell, poll_at, intx_until, random, ..f };
        Ok(())
    }
}

/// The CRC of each byte: transfers are long, and the machine waits for them.
const CRC_TABLE: [u32; 256] = crc_table();

const fn crc_table() -> [u32; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = crc >> 1 ^ if crc & 1 != 0 { 0xedb8_8320 } else { 0 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

/// CRC-32 as the test uses it: reflected 0xEDB88320, start ~0, no final inversion (spec §5.2).
#[derive(Clone, Copy, Debug)]
struct Crc32(u32);

impl Default for Crc32 {
    fn default() -> Self {
        Crc32(!0)
    }
}

impl Crc32 {
    fn update(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.0 = self.0 >> 8 ^ CRC_TABLE[usize::from(self.0 as u8 ^ b)];
        }
    }
}

#[cfg(test)]
#[path = "endpoint_test_test.rs"]
mod tests;
