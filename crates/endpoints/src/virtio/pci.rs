//! The PCI transport: a function with capabilities that say where the virtio structures are, and MSI-X.
//!
//! *Modelled*: BAR 0 with common configuration, ISR status, device configuration and notifications, a page each; BAR 1 with
//! the MSI-X table; access to both through configuration space; MSI-X vectors for the configuration and each queue, or
//! INTx with ISR status; a latency from notification to work.
//! *Not modelled*: MSI (virtio has none; two capabilities are in its place); descriptors that are fetched ahead: with a
//! latency, every memory request of a notification is made at its deadline.
//! *Sources*: virtio 1.2 §4.1; Linux v6.12 drivers/virtio/virtio_pci_modern_dev.c, virtio_pci_common.c.
//!
//! Whatever goes wrong with rings or buffers puts the device into DEVICE_NEEDS_RESET: it stops until the driver resets it.
//! That includes a refused request, as when bus mastering is off or a buffer is not in RAM.

use block::Cx;
use block::MemPort;
use block::Reg;
use block::ResetKind;
use block::SimTime;
use block::StateError;
use block::Width;
use pcie::config::Bar;
use pcie::config::Ids;
use pcie::frame;
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

use super::common::Change;
use super::common::Common;
use super::common::Offer;
use super::regs;
use super::regs::cap;
use super::regs::feature;
use super::regs::status;
use super::Io;
use super::RingError;
use super::VirtioDevice;
use super::MAX_QUEUES;

/// BAR of the structures.
pub const BAR: u8 = 0;
/// BAR of the MSI-X table.
pub const MSIX_BAR: u8 = 1;
/// Bytes of BAR 0.
pub const BAR_BYTES: u32 = 0x4000;
/// Bytes of BAR 1.
pub const MSIX_BAR_BYTES: u32 = 0x1000;
/// Common configuration in BAR 0.
pub const COMMON_AT: u32 = 0x0000;
/// ISR status in BAR 0.
pub const ISR_AT: u32 = 0x1000;
/// Device configuration in BAR 0.
pub const DEVICE_AT: u32 = 0x2000;
/// Notifications in BAR 0.
pub const NOTIFY_AT: u32 = 0x3000;
/// Bytes from one queue's notification address to the next.
pub const NOTIFY_MULTIPLIER: u32 = 4;
/// From the end of a turn that did not finish to the next.
pub const NEXT_TURN_NS: u64 = 1000;

/// Capability of the ISR status, where functions with MSI have that: 0xc0 up is too small for all five.
const ISR_CAP_AT: u32 = frame::MSI_AT;
/// Capability of the device configuration.
const DEVICE_CAP_AT: u32 = ISR_CAP_AT + CAP_BYTES;
/// Capability of the common configuration.
const COMMON_CAP_AT: u32 = frame::FREE_AT;
/// Capability of the notifications.
const NOTIFY_CAP_AT: u32 = COMMON_CAP_AT + CAP_BYTES;
/// Capability for access through configuration space.
const PCI_CFG_AT: u32 = NOTIFY_CAP_AT + CAP_BYTES + 4;
const CAP_BYTES: u32 = 16;
const _: () =
    assert!(DEVICE_CAP_AT + CAP_BYTES <= frame::EXP_AT && PCI_CFG_AT + CAP_BYTES + 4 <= frame::AER_AT);
/// `pci_cfg_data`.
const PCI_CFG_DATA_AT: u32 = PCI_CFG_AT + CAP_BYTES;

/// A virtio device as a PCI function.
#[derive(Debug)]
pub struct VirtioPci<D> {
    frame: Frame,
    device: D,
    offer: Offer,
    config: Vec<u8>,
    latency_ns: u64,
    common: Common,
    isr: u8,
    /// Queues with a notification that was not served yet, one bit each.
    notified: u16,
    /// When they are served.
    due: Option<SimTime>,
    error: Option<RingError>,
}

/// What the function saves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct State<S> {
    frame: FrameState,
    device: S,
    common: Common,
    isr: u8,
    notified: u16,
    due: Option<SimTime>,
    error: Option<RingError>,
}

/// The port as the memory that a device sees.
struct Dma<'a, 'c, E> {
    frame: &'a Frame,
    cx: &'a mut Cx<'c, E>,
    up: &'a mut dyn Upstream<E>,
}

impl<E> MemPort for Dma<'_, '_, E> {
    fn read(&mut self, addr: u64, buf: &mut [u8]) -> bool {
        self.frame.fetch(self.cx, self.up, addr, buf) == Completion::Success
    }

    fn write(&mut self, addr: u64, data: &[u8]) -> bool {
        self.frame.store(self.cx, self.up, addr, data) == Completion::Success
    }
}

/// Rows of a capability (virtio 1.2 §4.1.4): `rw` if the driver chooses what it names.
fn cap_rows(kind: u8, bytes: u32, at: u32, len: u32, rw: bool) -> [Reg; 4] {
    const SRC: &str = "virtio 1.2 §4.1.4; Linux v6.12 include/uapi/linux/virtio_pci.h struct virtio_pci_cap";
    let mask = |m: u32| if rw { m } else { 0 };
    [
        Reg::ro("VIRTIO_CAP_LEN_TYPE", 2, bytes | u32::from(kind) << 8, SRC).width(Width::B2),
        Reg::rw("VIRTIO_CAP_BAR", 4, BAR.into(), mask(0xff), SRC),
        Reg::rw("VIRTIO_CAP_OFFSET", 8, at, mask(u32::MAX), SRC),
        Reg::rw("VIRTIO_CAP_LENGTH", 12, len, mask(u32::MAX), SRC),
    ]
}

impl<D: VirtioDevice> VirtioPci<D> {
    /// A function out of power-on reset that serves notifications at once.
    pub fn new(device: D) -> VirtioPci<D> {
        let sizes = device.queue_sizes();
        debug_assert!(sizes.len() <= usize::from(MAX_QUEUES));
        let features = device.features()
            | feature::INDIRECT_DESC
            | feature::EVENT_IDX
            | feature::VERSION_1
            // Its addresses are those of the bus: they go through the inbound windows of the bridge.
            | feature::ACCESS_PLATFORM;
        let offer = Offer { features, sizes };
        let config = device.config();
        let frame = new_frame::<D>(&offer, config.len() as u32);
        VirtioPci {
            frame,
            common: Common::new(&offer),
            device,
            offer,
            config,
            latency_ns: 0,
            isr: 0,
            notified: 0,
            due: None,
            error: None,
        }
    }

    /// The same function, `latency_ns` from notification to work; 0: the work is done within the register write.
    #[must_use]
    pub fn with_latency_ns(mut self, latency_ns: u64) -> VirtioPci<D> {
        self.latency_ns = latency_ns;
        self
    }

    /// The device behind the transport.
    pub fn device(&self) -> &D {
        &self.device
    }

    /// The same, to change.
    pub fn device_mut(&mut self) -> &mut D {
        &mut self.device
    }

    /// Why the device needs a reset.
    pub fn error(&self) -> Option<RingError> {
        self.error
    }

    fn read_bar(&mut self, bar: u8, off: u32, w: Width) -> u64 {
        if let Some(v) = self.frame.msix_read(bar, off, w) {
            return v;
        }
        if bar != BAR {
            return 0;
        }
        if w == Width::B8 {
            // A driver reads 64 bits as two halves (virtio 1.2 §4.1.3.1).
            let low = self.read_bar(bar, off, Width::B4);
            return low | self.read_bar(bar, off.wrapping_add(4), Width::B4) << 32;
        }
        match off {
            COMMON_AT..ISR_AT => self.common.read(&self.offer, off - COMMON_AT, w),
            ISR_AT => self.take_isr(),
            DEVICE_AT..NOTIFY_AT => self.config_bytes(off - DEVICE_AT, w),
            _ => 0,
        }
    }

    fn write_bar<E>(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        (bar, off): (u8, u32),
        w: Width,
        v: u64,
    ) {
        if self.frame.msix_write(cx, up, (bar, off), w, v) || bar != BAR {
            return;
        }
        if w == Width::B8 {
            self.write_bar(cx, up, (bar, off), Width::B4, v & 0xffff_ffff);
            self.write_bar(cx, up, (bar, off.wrapping_add(4)), Width::B4, v >> 32);
            return;
        }
        match off {
            COMMON_AT..ISR_AT => self.write_common(cx, up, off - COMMON_AT, w, v),
            NOTIFY_AT.. => self.notify(cx, up, off - NOTIFY_AT),
            // ISR status is read-only; no device type here has configuration to write.
            _ => {}
        }
    }

    /// ISR status: a read clears it, and with it the INTx level (virtio 1.2 §4.1.4.5.1).
    fn take_isr(&mut self) -> u64 {
        let isr = self.isr;
        self.set_isr(0);
        isr.into()
    }

    fn set_isr(&mut self, isr: u8) {
        self.isr = isr;
        self.frame.set_intx(isr != 0);
    }

    fn config_bytes(&self, off: u32, w: Width) -> u64 {
        let bytes = self.config.iter().skip(off as usize).take(w.bytes() as usize);
        bytes.rev().fold(0, |v, b| v << 8 | u64::from(*b))
    }

    fn write_common<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, at: u32, w: Width, v: u64) {
        match self.common.write(&self.offer, at, w, v) {
            Change::None => {}
            Change::Started => {
                // INFERRED: what the driver made available before counts as notified; drivers fill queues in probe.
                let enabled = self.common.enabled();
                self.request(cx, up, enabled);
            }
            Change::Reset => self.reset_device(),
        }
    }

    /// The place that was written says which queue it is, as the data does (virtio 1.2 §4.1.5.2).
    fn notify<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, off: u32) {
        let q = off / NOTIFY_MULTIPLIER;
        if off.is_multiple_of(NOTIFY_MULTIPLIER) && q < u32::from(MAX_QUEUES) {
            self.request(cx, up, 1 << q & self.common.enabled());
        }
    }

    /// Work on these queues, now or when the latency has passed.
    fn request<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, queues: u16) {
        if queues == 0 || !self.common.running() {
            return;
        }
        self.notified |= queues;
        if self.due.is_some() {
            return;
        }
        if self.latency_ns == 0 {
            self.work(cx, up);
        } else {
            self.due = Some(cx.now.after_ns(self.latency_ns));
        }
    }

    /// One turn: serve notified queues, then tell the driver.
    fn work<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>) {
        let notified = std::mem::take(&mut self.notified);
        let features = self.common.features;
        let old: Vec<u16> = self.common.queues.iter().map(|q| q.next_used()).collect();
        let mut dma = Dma { frame: &self.frame, cx, up };
        let mut io = Io::new(&mut self.common.queues, &mut dma, features);
        let turn =
            serve(&mut self.device, notified, &mut io).and_then(|left| Ok((left, io.interrupts(&old)?)));
        match turn {
            Ok((left, interrupts)) => {
                self.notified = left;
                self.due = (left != 0).then(|| cx.now.after_ns(NEXT_TURN_NS));
                for q in (0..MAX_QUEUES).filter(|q| interrupts & 1 << q != 0) {
                    let vector = self.common.vectors.get(usize::from(q)).copied();
                    self.interrupt(cx, up, vector.unwrap_or(regs::NO_VECTOR), regs::ISR_QUEUE);
                }
            }
            Err(e) => self.fail(cx, up, e),
        }
    }

    /// Stop until the driver resets the device, and say so (virtio 1.2 §2.1.2).
    fn fail<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, e: RingError) {
        self.error = Some(e);
        self.notified = 0;
        self.due = None;
        self.common.status |= status::NEEDS_RESET;
        let vector = self.common.config_vector;
        self.interrupt(cx, up, vector, regs::ISR_CONFIG);
    }

    /// A message or the pin (virtio 1.2 §4.1.5.3, §4.1.5.4).
    fn interrupt<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, vector: u16, isr: u8) {
        match self.frame.irq_mode() {
            IrqMode::MsiX if vector == regs::NO_VECTOR => {}
            IrqMode::MsiX => self.frame.raise_msix(cx, up, vector.into()),
            _ => self.set_isr(self.isr | isr),
        }
    }

    fn reset_device(&mut self) {
        self.common = Common::new(&self.offer);
        self.set_isr(0);
        self.notified = 0;
        self.due = None;
        self.error = None;
        self.device.reset();
    }

    /// What `pci_cfg_data` stands for: bar, offset, width (virtio 1.2 §4.1.4.9.1). It does not need the BARs to be mapped.
    fn window(&self) -> Option<(u8, u32, Width)> {
        let word = |off| self.frame.config().word(PCI_CFG_AT + off);
        let (bar, at, len) = (word(4), word(8), word(12));
        let w = Width::from_bytes(len as usize).filter(|w| *w != Width::B8)?;
        let bar_bytes = match u8::try_from(bar).ok()? {
            BAR => BAR_BYTES,
            MSIX_BAR => MSIX_BAR_BYTES,
            _ => return None,
        };
        let inside = at % len == 0 && at.checked_add(len)? <= bar_bytes;
        (inside && self.frame.in_d0()).then_some((bar as u8, at, w))
    }

    /// The BAR access that a read of `pci_cfg_data` performs.
    fn fill_window(&mut self) {
        let Some((bar, at, w)) = self.window() else { return };
        let v = self.read_bar(bar, at, w) as u32;
        let ones = w.ones() as u32;
        let old = self.frame.config().word(PCI_CFG_DATA_AT);
        self.frame.config_mut().set_word(PCI_CFG_DATA_AT, old & !ones | v & ones);
    }
}

/// The function's frame: identity, BARs, capabilities.
fn new_frame<D: VirtioDevice>(offer: &Offer, config_bytes: u32) -> Frame {
    let ids = Ids {
        vendor: regs::VENDOR,
        device: regs::DEVICE_BASE + D::ID,
        class: D::CLASS,
        revision: 1,
        subsystem_vendor: regs::VENDOR,
        subsystem: regs::DEVICE_BASE + D::ID,
        pin: 1,
    };
    let bars =
        [Bar { index: BAR, size_bytes: BAR_BYTES }, Bar { index: MSIX_BAR, size_bytes: MSIX_BAR_BYTES }];
    let msix = MsixSpec { vectors: offer.vectors(), bar: MSIX_BAR, table_off: 0 };
    let mut frame = Frame::new(&FrameSpec { ids, bars: &bars, msi: false, msix: Some(msix) });
    let notify_bytes = offer.sizes.len() as u32 * NOTIFY_MULTIPLIER;
    let config = frame.config_mut();
    let mut add = |at, rows: &[&[Reg]]| config.add_cap(at, regs::CAP_VNDR, rows);
    add(COMMON_CAP_AT, &[&cap_rows(cap::COMMON, CAP_BYTES, COMMON_AT, regs::COMMON_BYTES, false)]);
    let multiplier = Reg::ro("VIRTIO_NOTIFY_OFF_MULTIPLIER", 16, NOTIFY_MULTIPLIER, "virtio 1.2 §4.1.4.4");
    add(
        NOTIFY_CAP_AT,
        &[&cap_rows(cap::NOTIFY, CAP_BYTES + 4, NOTIFY_AT, notify_bytes, false), &[multiplier]],
    );
    add(ISR_CAP_AT, &[&cap_rows(cap::ISR, CAP_BYTES, ISR_AT, 1, false)]);
    if config_bytes != 0 {
        add(DEVICE_CAP_AT, &[&cap_rows(cap::DEVICE, CAP_BYTES, DEVICE_AT, config_bytes, false)]);
    }
    let data = Reg::rw("VIRTIO_PCI_CFG_DATA", 16, 0, u32::MAX, "virtio 1.2 §4.1.4.9")
        .effect("an access is one of the BAR, offset and length that the capability names");
    add(PCI_CFG_AT, &[&cap_rows(cap::PCI_CFG, CAP_BYTES + 4, 0, 0, true), &[data]]);
    frame
}

/// Serve each queue of `notified`; returns those that have more to do.
fn serve<D: VirtioDevice>(device: &mut D, notified: u16, io: &mut Io<'_>) -> Result<u16, RingError> {
    let mut left = 0;
    for q in (0..usize::from(MAX_QUEUES)).filter(|q| notified & 1 << q != 0) {
        device.serve(q, io)?;
        if io.take_tired() {
            left |= 1 << q;
        }
    }
    Ok(left)
}

impl<D: VirtioDevice> Framed for VirtioPci<D> {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn frame_mut(&mut self) -> &mut Frame {
        &mut self.frame
    }
}

impl<E, D: VirtioDevice> FramedFunction<E> for VirtioPci<D> {
    fn bar_read(
        &mut self,
        _cx: &mut Cx<'_, E>,
        _up: &mut dyn Upstream<E>,
        (bar, off): (u8, u32),
        w: Width,
    ) -> u64 {
        self.read_bar(bar, off, w)
    }

    fn bar_write(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, at: (u8, u32), w: Width, v: u64) {
        self.write_bar(cx, up, at, w, v);
    }

    fn before_config_read(&mut self, off: u16) {
        if u32::from(off) & !3 == PCI_CFG_DATA_AT {
            self.fill_window();
        }
    }

    fn config_written(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, off: u16) {
        if u32::from(off) & !3 == PCI_CFG_DATA_AT {
            if let Some((bar, at, w)) = self.window() {
                let data = u64::from(self.frame.config().word(PCI_CFG_DATA_AT)) & w.ones();
                self.write_bar(cx, up, (bar, at), w, data);
            }
        }
    }

    fn next_deadline(&self) -> Option<SimTime> {
        // In D3hot nothing is sent; what waits goes on in D0.
        self.due.filter(|_| self.frame.in_d0())
    }

    fn tick(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>) {
        if self.frame.in_d0() && self.due.is_some_and(|t| t <= cx.now) {
            self.due = None;
            self.work(cx, up);
        }
    }

    fn reset(&mut self, _cx: &mut Cx<'_, E>, _kind: ResetKind) {
        self.reset_device();
    }

    fn sample(&self, out: &mut dyn FnMut(&str, u64)) {
        out("virtio.status", self.common.status.into());
        out("virtio.queues_enabled", self.common.enabled().count_ones().into());
    }

    fn save(&self) -> FunctionState {
        let VirtioPci {
            frame,
            device,
            offer: _,
            config: _,
            latency_ns: _,
            common,
            isr,
            notified,
            due,
            error,
        } = self;
        let state = State {
            frame: frame.save(),
            device: device.save(),
            common: common.clone(),
            isr: *isr,
            notified: *notified,
            due: *due,
            error: *error,
        };
        FunctionState::new(D::NAME, &state)
    }

    fn restore(&mut self, saved: &FunctionState) -> Result<(), StateError> {
        let State { frame, device, common, isr, notified, due, error } =
            saved.data::<State<D::State>>(D::NAME)?;
        let mut f = self.frame.clone();
        f.restore(D::NAME, &frame)?;
        common.check(&self.offer)?;
        let waits = common.running() && notified & !common.enabled() == 0 && due.is_some() == (notified != 0);
        let idle = notified == 0 && due.is_none();
        let failed = error.is_some() == (common.status & status::NEEDS_RESET != 0);
        if isr & !(regs::ISR_QUEUE | regs::ISR_CONFIG) != 0 || !(waits || idle) || !failed {
            return Err(StateError::Impossible { what: D::NAME });
        }
        self.device.restore(device)?;
        f.set_intx(isr != 0);
        self.frame = f;
        (self.common, self.isr, self.notified, self.due, self.error) = (common, isr, notified, due, error);
        Ok(())
    }
}
