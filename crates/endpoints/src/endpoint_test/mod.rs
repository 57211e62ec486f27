//! The PCI endpoint-test function, 104c:b500.
//!
//! *Modelled*: configuration space with PM, MSI (32, maskable), MSI-X (32 with PBA), PCI Express and AER; BAR 0 with the
//! test registers and the MSI-X table, BAR 2 as scratch memory; RAISE_*, READ, WRITE and COPY with DMA through the port.
//! *Not modelled*: the endpoint's own DMA engine, doorbells and subranges (commands 6–9: dropped like any unknown one).
//! *Sources*: spec/dwc-qcom-registers.md §5; Linux v6.12 drivers/misc/pci_endpoint_test.c and
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
use pcie::Bdf;
use pcie::Completion;
use pcie::Frame;
use pcie::FrameSpec;
use pcie::FrameState;
use pcie::Function;
use pcie::FunctionState;
use pcie::MsixSpec;
use pcie::Outcome;
use pcie::Upstream;
use serde::Deserialize;
use serde::Serialize;

use regs::command;
use regs::off;
use regs::status;

/// MSI-X vectors.
pub const MSIX_VECTORS: u16 = 32;
/// Bytes of BAR 0 (registers, MSI-X table, PBA).
pub const BAR0_BYTES: u32 = 0x1000;
/// Bytes of BAR 2 (scratch).
pub const BAR2_BYTES: u32 = 0x1000;
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

const MSIX: MsixSpec = MsixSpec { vectors: MSIX_VECTORS, bar: 0, table_off: off::MSIX_TABLE };
const CHUNK_BYTES: usize = 4096;

/// The function.
#[derive(Clone, Debug)]
pub struct EndpointTest {
    frame: Frame,
    bar0: RegFile,
    bar2: RegFile,
    /// When COMMAND is looked at next.
    poll_at: Option<SimTime>,
    /// INTx is asserted until then, or until STATUS is read.
    intx_until: Option<SimTime>,
    seed: u64,
    random: u64,
}

/// What the function saves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct State {
    frame: FrameState,
    bar0: Words,
    bar2: Words,
    poll_at: Option<SimTime>,
    intx_until: Option<SimTime>,
    random: u64,
}

/// Name in a [`FunctionState`].
const NAME: &str = "endpoint-test";

impl Default for EndpointTest {
    fn default() -> Self {
        EndpointTest::new(1)
    }
}

impl EndpointTest {
    /// A function out of power-on reset; `seed` decides the "random" data of WRITE.
    pub fn new(seed: u64) -> EndpointTest {
        let ids = Ids {
            vendor: 0x104c,
            device: 0xb500,
            // pci-epf-test leaves PCI_CLASS_OTHERS.
            class: 0xff_0000,
            pin: 1,
            ..Ids::default()
        };
        let bars = [Bar { index: 0, size_bytes: BAR0_BYTES }, Bar { index: 2, size_bytes: BAR2_BYTES }];
        EndpointTest {
            frame: Frame::new(&FrameSpec { ids, bars: &bars, msi: true, msix: Some(MSIX) }),
            bar0: RegFile::new(BAR0_BYTES, regs::ROWS),
            bar2: RegFile::with_scratch(BAR2_BYTES, &[]),
            poll_at: None,
            intx_until: None,
            seed: seed | 1,
            random: seed | 1,
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
            _ => return,
        };
        self.bar0.set_word(off::STATUS, result);
        // Without a DMA engine the real function logs and raises nothing (spec §5.2, FLAGS).
        if self.bar0.word(off::FLAGS) & FLAG_DMA == 0 {
            self.raise(cx, up, kind);
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

const FLAG_DMA: u32 = regs::FLAG_USE_DMA;

impl<E> Function<E> for EndpointTest {
    fn config_read(&mut self, _cx: &mut Cx<'_, E>, off: u16, w: Width) -> u64 {
        self.frame.config_read(off, w)
    }

    fn config_write(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        bdf: Bdf,
        off: u16,
        w: Width,
        v: u64,
    ) {
        self.frame.config_write(cx, up, bdf, off, w, v);
    }

    fn mem_read(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, addr: u64, w: Width) -> Outcome {
        match self.frame.hit(addr, w) {
            Some((0, o)) => Outcome::ok(self.read_bar0(o, w)),
            Some((_, o)) => Outcome::ok(self.bar2.read(u64::from(o), w)),
            None => Outcome::refused(self.frame.unsupported(cx, up, false), w),
        }
    }

    fn mem_write(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        addr: u64,
        w: Width,
        v: u64,
    ) -> Completion {
        match self.frame.hit(addr, w) {
            Some((0, o)) => self.write_bar0(cx, up, o, w, v),
            Some((_, o)) => self.bar2.write(u64::from(o), w, v, false),
            None => return self.frame.unsupported(cx, up, true),
        }
        Completion::Success
    }

    fn decodes(&self, addr: u64, w: Width) -> bool {
        self.frame.hit(addr, w).is_some()
    }

    fn make_multifunction(&mut self) {
        self.frame.config_mut().make_multifunction();
    }

    fn intx(&self) -> u8 {
        self.frame.intx()
    }

    fn claims(&self) -> Vec<(u64, u64)> {
        self.frame.claims()
    }

    fn msi_target(&self) -> Option<u64> {
        self.frame.msi_target()
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
        self.frame.reset(kind);
        self.intx_until = None;
        self.poll_at = None;
        if kind != ResetKind::D3HotToD0 {
            self.bar0.reset(kind);
            self.bar2.reset(kind);
            self.random = self.seed;
        }
    }

    fn sample(&self, out: &mut dyn FnMut(&str, u64)) {
        self.frame.sample(out);
    }

    fn save(&self) -> FunctionState {
        let EndpointTest { frame, bar0, bar2, poll_at, intx_until, seed: _, random } = self;
        let state = State {
            frame: frame.save(),
            bar0: bar0.save(),
            bar2: bar2.save(),
            poll_at: *poll_at,
            intx_until: *intx_until,
            random: *random,
        };
        FunctionState::new(NAME, &state)
    }

    fn restore(&mut self, saved: &FunctionState) -> Result<(), StateError> {
        let State { frame, bar0, bar2, poll_at, intx_until, random } = saved.data(NAME)?;
        let mut f = self.clone();
        f.frame.restore("endpoint-test", &frame)?;
        f.bar0.restore("endpoint-test bar 0", &bar0)?;
        f.bar2.restore("endpoint-test bar 2", &bar2)?;
        if random == 0 {
            // A xorshift generator never leaves 0, nor gets there.
            return Err(StateError::Impossible { what: "endpoint-test random" });
        }
        *self = EndpointTest { poll_at, intx_until, random, ..f };
        Ok(())
    }
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
            self.0 ^= u32::from(b);
            for _ in 0..8 {
                self.0 = self.0 >> 1 ^ if self.0 & 1 != 0 { 0xedb8_8320 } else { 0 };
            }
        }
    }
}

#[cfg(test)]
#[path = "endpoint_test_test.rs"]
mod tests;
