use block::VecMem;
use block::Width::B2;
use block::Width::B4;

use super::*;
use crate::config::Bar;
use crate::config::Ids;
use crate::frame::MSIX_AT;
use crate::ErrorMessage;
use crate::Frame;
use crate::FrameSpec;
use crate::Framed;
use crate::FramedFunction;
use crate::MsixSpec;

/// A function that is nothing but its frame.
struct Bare(Frame);

fn bare(device: u16, pin: u8) -> Box<dyn Function<()>> {
    let ids = Ids { vendor: 0x1234, device, pin, ..Ids::default() };
    let bars = [Bar { index: 0, size_bytes: 0x1000 }];
    let msix = Some(MsixSpec { vectors: 4, bar: 0, table_off: 0x800 });
    Box::new(Bare(Frame::new(&FrameSpec { ids, bars: &bars, msi: false, msix })))
}

impl Framed for Bare {
    fn frame(&self) -> &Frame {
        &self.0
    }
    fn frame_mut(&mut self) -> &mut Frame {
        &mut self.0
    }
}

impl FramedFunction<()> for Bare {
    fn bar_read(&mut self, _: &mut Cx<'_, ()>, _: &mut dyn Upstream<()>, _: (u8, u32), _: Width) -> u64 {
        u64::from(self.0.config().word(0) >> 16)
    }
    fn bar_write(&mut self, cx: &mut Cx<'_, ()>, up: &mut dyn Upstream<()>, at: (u8, u32), w: Width, v: u64) {
        self.0.msix_write(cx, up, at, w, v);
        self.0.raise_msix(cx, up, 1);
    }
    fn reset(&mut self, _: &mut Cx<'_, ()>, _: ResetKind) {}
    fn save(&self) -> FunctionState {
        FunctionState::new("bare", &self.0.save())
    }
    fn restore(&mut self, saved: &FunctionState) -> Result<(), StateError> {
        self.0.restore("bare", &saved.data("bare")?)
    }
}

/// Records what goes up.
#[derive(Default)]
struct Up(Vec<(Bdf, u64)>, u32);

impl Upstream<()> for Up {
    fn mem_write(&mut self, _: &mut Cx<'_, ()>, rid: Bdf, _: bool, addr: u64, _: &[u8]) -> Completion {
        self.0.push((rid, addr));
        Completion::Success
    }
    fn mem_read(&mut self, _: &mut Cx<'_, ()>, _: Bdf, _: bool, _: u64, _: &mut [u8]) -> Completion {
        Completion::Success
    }
    fn error(&mut self, _: &mut Cx<'_, ()>, _: Bdf, _: ErrorMessage) {
        self.1 += 1;
    }
}

struct Bench {
    card: Device<()>,
    up: Up,
    mem: VecMem,
    events: Vec<()>,
}

impl Bench {
    fn new(functions: Vec<Box<dyn Function<()>>>) -> Bench {
        Bench { card: Device::new(functions), up: Up::default(), mem: VecMem::new(0, 0), events: Vec::new() }
    }
    fn with<R>(&mut self, f: impl FnOnce(&mut Device<()>, &mut Cx<'_, ()>, &mut Up) -> R) -> R {
        let mut cx = Cx { now: SimTime::ZERO, mem: &mut self.mem, events: &mut self.events };
        f(&mut self.card, &mut cx, &mut self.up)
    }
    fn config(&mut self, bdf: Bdf, off: u16, type1: bool) -> Outcome {
        self.with(|c, cx, up| c.config_read(cx, up, ConfigRequest { bdf, type1, off, w: B4 }))
    }
    fn set(&mut self, func: u8, off: u16, w: Width, v: u64) -> Completion {
        let r = ConfigRequest { bdf: Bdf::new(1, 0, func), type1: false, off, w };
        self.with(|c, cx, up| c.config_write(cx, up, r, v))
    }
    fn read(&mut self, addr: u64) -> Outcome {
        self.with(|c, cx, up| c.mem_read(cx, up, addr, B4))
    }
    /// Two functions with INTA and INTB, BARs at 0x1000_0000 and 0x1000_1000.
    fn two() -> Bench {
        let mut b = Bench::new(vec![bare(1, 1), bare(2, 2)]);
        for f in 0..2 {
            b.set(f, 0x10, B4, 0x1000_0000 + u64::from(f) * 0x1000);
            b.set(f, 0x04, B2, 6);
        }
        b
    }
}

#[test]
fn only_type_0_to_device_0_and_a_function_that_is_there_is_answered() {
    let mut b = Bench::two();
    for (bdf, type1, device) in [
        (Bdf::new(1, 0, 0), false, Some(1)),
        (Bdf::new(1, 0, 1), false, Some(2)),
        (Bdf::new(1, 0, 2), false, None),
        (Bdf::new(1, 1, 0), false, None),
        (Bdf::new(1, 0, 0), true, None),
    ] {
        let got = b.config(bdf, 0, type1);
        assert_eq!(got.status == Completion::Success, device.is_some(), "{bdf} {type1}");
        assert_eq!(got.data >> 16, device.unwrap_or(0xffff), "{bdf} {type1}");
    }
}

#[test]
fn more_than_one_function_says_so_in_every_header() {
    let mut b = Bench::two();
    assert!((0..2).all(|f| b.config(Bdf::new(1, 0, f), 0x0c, false).data & 1 << 23 != 0));
    let mut alone = Bench::new(vec![bare(1, 1)]);
    assert_eq!(alone.config(Bdf::new(1, 0, 0), 0x0c, false).data & 1 << 23, 0);
    let many = (0..12).map(|n| bare(n, 1)).collect();
    assert_eq!(Bench::new(many).card.functions.len(), FUNCTIONS, "no ninth function");
}

#[test]
fn memory_goes_to_the_function_whose_bar_claims_it_and_function_0_reports_the_rest() {
    let mut b = Bench::two();
    assert_eq!(b.read(0x1000_0ffc), Outcome::ok(1));
    assert_eq!(b.read(0x1000_1000), Outcome::ok(2));
    assert_eq!(b.read(0x1000_2000).status, Completion::UnsupportedRequest);
    assert_eq!(b.read(0x1000_0ffe).status, Completion::UnsupportedRequest, "across two BARs");
    b.set(0, 0x78, B2, 0xa);
    b.with(|c, cx, up| c.mem_write(cx, up, 0x1000_2000, B4, 0));
    assert_eq!(b.up.1, 1, "ERR_NONFATAL of a posted write, once DEVCTL lets it");
    let mut claims = Vec::new();
    b.card.claims(&mut claims);
    assert_eq!(claims, [(0x1000_0000, 0x1000), (0x1000_1000, 0x1000)]);
}

#[test]
fn pins_are_joined_and_msix_carries_the_functions_own_id() {
    let mut b = Bench::two();
    b.set(1, MSIX_AT as u16 + 2, B2, 0x8000);
    b.with(|c, cx, up| {
        c.mem_write(cx, up, 0x1000_1810, Width::B8, 0xfee0_0000);
        c.mem_write(cx, up, 0x1000_181c, B4, 0)
    });
    assert_eq!(b.up.0.last(), Some(&(Bdf::new(1, 0, 1), 0xfee0_0000)));
    assert_eq!(b.card.intx(), 0);
    let text = serde_json::to_string(&b.card.save()).unwrap();
    for (f, pin) in [(0, 1), (1, 2)] {
        let mut again = Bench::two();
        let edited = text.replace("\"intx\":false", "\"intx\":true");
        again.card.restore(&serde_json::from_str(&edited).unwrap()).unwrap();
        // Function 1 has MSI-X on, which silences its pin.
        assert_eq!(again.card.intx(), 1);
        again.set(1, MSIX_AT as u16 + 2, B2, 0);
        assert_eq!(again.card.intx(), 3);
        again.set(f, 0x04, B2, 0x406);
        assert_eq!(again.card.intx(), 3 & !pin, "INTX_DISABLE of function {f}");
    }
}

#[test]
fn a_state_of_another_device_is_refused() {
    let one = Bench::new(vec![bare(1, 1)]).card.save();
    let mut two = Bench::two();
    assert!(two.card.restore(&one).is_err());
    let saved = two.card.save();
    assert!(two.card.restore(&CardState { cards: vec![one], ..saved.clone() }).is_err());
    two.card.restore(&saved).unwrap();
}

#[test]
fn items_name_the_function() {
    let mut names = Vec::new();
    Bench::two().card.sample("/1", &mut |item, _| names.push(item.to_owned()));
    assert!(
        names.contains(&"ep/1.command".into()) && names.contains(&"ep/1:1.msix.enable".into()),
        "{names:?}"
    );
}
