//! A host above a switch, for tests: what a root port sends and records, software that enumerates, and cards to find.

use std::sync::Arc;
use std::sync::Mutex;

use block::Cx;
use block::ResetKind;
use block::SimTime;
use block::StateError;
use block::VecMem;
use block::Width;
use block::Width::B1;
use block::Width::B2;
use block::Width::B4;
use serde::Deserialize;
use serde::Serialize;

use super::*;
use crate::config::Bar;
use crate::config::Ids;
use crate::Device;
use crate::Frame;
use crate::FrameSpec;
use crate::FrameState;
use crate::Framed;
use crate::FramedFunction;
use crate::FunctionState;

pub const MS: u64 = 1_000_000;
pub const EP_VENDOR: u16 = 0x1234;
/// Registers of the endpoint's BAR: a write of an address has it written or read by DMA.
pub const DMA_WRITE: u64 = 0x0;
pub const DMA_READ: u64 = 0x8;
/// Asserts the pin, or not.
pub const INTX: u64 = 0x10;
/// A message after that many nanoseconds.
pub const TIMER: u64 = 0x18;

/// An endpoint with DMA, a pin and a timer. Reads of its BAR return its device ID.
pub struct Ep {
    frame: Frame,
    device: u16,
    deadline: Option<SimTime>,
    last: Option<Completion>,
    resets: Resets,
}

/// What reached an endpoint.
pub type Resets = Arc<Mutex<Vec<ResetKind>>>;

#[derive(Serialize, Deserialize)]
struct EpState {
    frame: FrameState,
    deadline: Option<SimTime>,
    last: Option<Completion>,
}

/// A card that is one endpoint, with the list of its resets.
pub fn watched(device: u16, pin: u8) -> (Box<dyn Card<()>>, Resets) {
    let ids = Ids { vendor: EP_VENDOR, device, pin, ..Ids::default() };
    let bars = [Bar { index: 0, size_bytes: 0x1000 }];
    let frame = Frame::new(&FrameSpec { ids, bars: &bars, msi: true, msix: None });
    let resets = Resets::default();
    let ep = Ep { frame, device, deadline: None, last: None, resets: resets.clone() };
    (Device::single(ep).boxed(), resets)
}

/// A card that is one endpoint.
pub fn ep(device: u16, pin: u8) -> Option<Box<dyn Card<()>>> {
    Some(watched(device, pin).0)
}

impl Framed for Ep {
    fn frame(&self) -> &Frame {
        &self.frame
    }
    fn frame_mut(&mut self) -> &mut Frame {
        &mut self.frame
    }
}

impl FramedFunction<()> for Ep {
    fn bar_read(&mut self, _: &mut Cx<'_, ()>, _: &mut dyn Upstream<()>, _: (u8, u32), _: Width) -> u64 {
        self.device.into()
    }
    fn bar_write(
        &mut self,
        cx: &mut Cx<'_, ()>,
        up: &mut dyn Upstream<()>,
        (_, off): (u8, u32),
        _: Width,
        v: u64,
    ) {
        match u64::from(off) {
            DMA_WRITE => self.last = Some(self.frame.store(cx, up, v, &[1, 2, 3, 4])),
            DMA_READ => self.last = Some(self.frame.fetch(cx, up, v, &mut [0; 4])),
            INTX => self.frame.set_intx(v & 1 != 0),
            TIMER => self.deadline = Some(cx.now.after_ns(v)),
            _ => {}
        }
    }
    fn next_deadline(&self) -> Option<SimTime> {
        self.deadline
    }
    fn tick(&mut self, cx: &mut Cx<'_, ()>, up: &mut dyn Upstream<()>) {
        self.deadline = None;
        self.frame.raise(cx, up, 0);
    }
    fn reset(&mut self, _: &mut Cx<'_, ()>, kind: ResetKind) {
        (self.deadline, self.last) = (None, None);
        self.resets.lock().expect("not poisoned").push(kind);
    }
    fn save(&self) -> FunctionState {
        let state = EpState { frame: self.frame.save(), deadline: self.deadline, last: self.last };
        FunctionState::new("ep", &state)
    }
    fn restore(&mut self, saved: &FunctionState) -> Result<(), StateError> {
        let EpState { frame, deadline, last } = saved.data("ep")?;
        (self.deadline, self.last) = (deadline, last);
        self.frame.restore("ep", &frame)
    }
}

/// A memory request that reached the root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub rid: Bdf,
    pub bme: bool,
    pub addr: u64,
    /// Empty for a read.
    pub data: Vec<u8>,
}

/// The root: it refuses what its function may not send, and records.
#[derive(Default)]
pub struct Root {
    pub requests: Vec<Request>,
    pub errors: Vec<(Bdf, ErrorMessage)>,
    pub pmes: Vec<Bdf>,
    /// The link between root and switch.
    pub rate: Option<Rate>,
}

impl Root {
    fn take(&mut self, request: Request) -> Completion {
        let ok = request.bme;
        self.requests.push(request);
        if ok {
            Completion::Success
        } else {
            Completion::UnsupportedRequest
        }
    }
}

impl Upstream<()> for Root {
    fn mem_write(&mut self, _: &mut Cx<'_, ()>, rid: Bdf, bme: bool, addr: u64, data: &[u8]) -> Completion {
        self.take(Request { rid, bme, addr, data: data.to_vec() })
    }
    fn mem_read(&mut self, _: &mut Cx<'_, ()>, rid: Bdf, bme: bool, addr: u64, _: &mut [u8]) -> Completion {
        self.take(Request { rid, bme, addr, data: Vec::new() })
    }
    fn pme(&mut self, _: &mut Cx<'_, ()>, rid: Bdf) {
        self.pmes.push(rid);
    }
    fn link_rate(&self) -> Option<Rate> {
        self.rate
    }
    fn error(&mut self, _: &mut Cx<'_, ()>, rid: Bdf, error: ErrorMessage) {
        self.errors.push((rid, error));
    }
}

/// The host. Bus 1 is the one below its root port.
pub struct Bench {
    pub card: Switch<()>,
    pub root: Root,
    pub now: SimTime,
    mem: VecMem,
    events: Vec<()>,
}

/// A function that enumeration found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub bdf: Bdf,
    pub device: u16,
    /// Secondary and subordinate bus of a bridge.
    pub below: Option<(u8, u8)>,
}

impl Bench {
    pub fn new(spec: SwitchSpec<()>) -> Bench {
        Bench {
            card: Switch::new(spec),
            root: Root { rate: Some(Rate { speed: 3, width: 1 }), ..Root::default() },
            now: SimTime::ZERO,
            mem: VecMem::new(0, 0),
            events: Vec::new(),
        }
    }

    /// Trained, enumerated and enabled.
    pub fn up(spec: SwitchSpec<()>) -> Bench {
        let mut b = Bench::new(spec);
        b.sleep(100 * MS);
        b.enumerate();
        b
    }

    pub fn with<R>(&mut self, f: impl FnOnce(&mut Switch<()>, &mut Cx<'_, ()>, &mut Root) -> R) -> R {
        let mut cx = Cx { now: self.now, mem: &mut self.mem, events: &mut self.events };
        f(&mut self.card, &mut cx, &mut self.root)
    }

    fn request(bdf: Bdf, off: u16, w: Width) -> ConfigRequest {
        ConfigRequest { bdf, type1: bdf.bus() != 1, off, w }
    }

    pub fn config_read(&mut self, bdf: Bdf, off: u16, w: Width) -> Outcome {
        self.with(|c, cx, up| c.config_read(cx, up, Bench::request(bdf, off, w)))
    }

    pub fn config_write(&mut self, bdf: Bdf, off: u16, w: Width, v: u64) -> Completion {
        self.with(|c, cx, up| c.config_write(cx, up, Bench::request(bdf, off, w), v))
    }

    pub fn get(&mut self, bdf: Bdf, off: u16) -> u16 {
        self.config_read(bdf, off, B2).data as u16
    }

    pub fn put(&mut self, bdf: Bdf, off: u16, v: u16) {
        self.config_write(bdf, off, B2, v.into());
    }

    pub fn mem_read(&mut self, addr: u64) -> Outcome {
        self.with(|c, cx, up| c.mem_read(cx, up, addr, B4))
    }

    pub fn mem_write(&mut self, addr: u64, v: u64) -> Completion {
        self.with(|c, cx, up| c.mem_write(cx, up, addr, Width::B8, v))
    }

    pub fn event(&mut self, path: &[u8], e: SlotEvent) -> bool {
        self.with(|c, cx, up| c.slot_event(cx, up, path, e))
    }

    pub fn reset(&mut self, kind: ResetKind) {
        self.with(|c, cx, _| c.reset(cx, kind));
    }

    /// Let `ns` pass, deadline by deadline.
    pub fn sleep(&mut self, ns: u64) {
        let end = self.now.after_ns(ns);
        while let Some(due) = self.card.next_deadline().filter(|d| *d <= end) {
            self.now = due.max(self.now);
            self.with(|c, cx, up| c.tick(cx, up));
            let next = self.card.next_deadline();
            assert!(next.is_none_or(|d| d > self.now), "a deadline that a tick does not take: {next:?}");
        }
        self.now = end;
    }

    /// Requests since the last call.
    pub fn sent(&mut self) -> Vec<Request> {
        std::mem::take(&mut self.root.requests)
    }

    /// Find everything, size and place BARs, open windows, enable: in the order of Linux (drivers/pci/probe.c, setup-bus.c).
    pub fn enumerate(&mut self) -> Vec<Found> {
        let mut found = Vec::new();
        self.scan(1, &mut found);
        self.place(1, 0x6000_0000, &found);
        for f in &found {
            self.put(f.bdf, 0x04, 6);
        }
        found
    }

    fn scan(&mut self, bus: u8, found: &mut Vec<Found>) -> u8 {
        let mut last = bus;
        for dev in 0..32 {
            let bdf = Bdf::new(bus, dev, 0);
            let id = self.config_read(bdf, 0, B4);
            if id.status != Completion::Success {
                assert_eq!(id.data, 0xffff_ffff);
                continue;
            }
            let at = found.len();
            found.push(Found { bdf, device: (id.data >> 16) as u16, below: None });
            if self.config_read(bdf, 0x0e, B1).data & 0x7f == 1 {
                let Some(secondary) = last.checked_add(1) else { return last };
                self.config_write(bdf, 0x18, B4, 0xff << 16 | u64::from(secondary) << 8 | u64::from(bus));
                last = self.scan(secondary, found);
                self.config_write(bdf, 0x1a, B1, last.into());
                found[at].below = Some((secondary, last));
            }
        }
        last
    }

    /// Place what is on `bus` from `at` on; where it ends.
    fn place(&mut self, bus: u8, mut at: u64, found: &[Found]) -> u64 {
        for f in found.iter().filter(|f| f.bdf.bus() == bus) {
            let Some((secondary, _)) = f.below else {
                self.config_write(f.bdf, 0x10, B4, 0xffff_ffff);
                let size = (!self.config_read(f.bdf, 0x10, B4).data & 0xffff_ffff) + 1;
                self.config_write(f.bdf, 0x10, B4, at);
                at += size;
                continue;
            };
            at = at.next_multiple_of(MIB);
            // A slot gets room even if it is empty (Linux: hpmemsize).
            let end = self.place(secondary, at, found).max(at + 1).next_multiple_of(MIB);
            let window = (end - 1) & 0xfff0_0000 | at >> 16;
            self.config_write(f.bdf, 0x20, B4, window);
            at = end;
        }
        at
    }
}

pub const MIB: u64 = 1 << 20;
