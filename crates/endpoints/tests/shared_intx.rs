//! Two functions of one device share a pin: the wire is the OR of what both assert.

use block::Cx;
use block::SimTime;
use block::VecMem;
use block::Width;
use endpoints::SerialCard;
use endpoints::SerialSpec;
use pcie::Bdf;
use pcie::Card;
use pcie::Completion;
use pcie::ConfigRequest;
use pcie::Device;
use pcie::Upstream;

const BAR: [u64; 2] = [0x6030_0000, 0x6030_1000];

struct NoPort;

impl Upstream<()> for NoPort {
    fn mem_write(&mut self, _: &mut Cx<'_, ()>, _: Bdf, _: bool, _: u64, _: &[u8]) -> Completion {
        Completion::UnsupportedRequest
    }

    fn mem_read(&mut self, _: &mut Cx<'_, ()>, _: Bdf, _: bool, _: u64, _: &mut [u8]) -> Completion {
        Completion::UnsupportedRequest
    }
}

fn with<R>(f: impl FnOnce(&mut Cx<'_, ()>) -> R) -> R {
    let mut mem = VecMem::new(0x8000_0000, 0x1000);
    f(&mut Cx { now: SimTime(1), mem: &mut mem, events: &mut Vec::new() })
}

/// A device of two serial functions with these pins, memory decoding on.
fn device(pins: [u8; 2]) -> Device<()> {
    let card = |pin| SerialCard::new(SerialSpec { pin, ..SerialSpec::default() });
    let mut d = Device::new(pins.map(|pin| Box::new(card(pin)) as _).into());
    for (n, base) in BAR.into_iter().enumerate() {
        for (off, v) in [(0x10, base), (0x04, 2)] {
            config_write(&mut d, n, off, v);
        }
    }
    d
}

fn config_write(d: &mut Device<()>, n: usize, off: u16, v: u64) {
    let r = ConfigRequest { bdf: Bdf::new(1, 0, n as u8), type1: false, off, w: Width::B4 };
    with(|cx| d.config_write(cx, &mut NoPort, r, v));
}

/// IER of function `n`: with THRI an empty transmitter asserts the pin.
fn interrupt(d: &mut Device<()>, n: usize, on: bool) {
    with(|cx| d.mem_write(cx, &mut NoPort, BAR[n] + 1, Width::B1, u64::from(on) * 2));
}

#[test]
fn a_shared_pin_stays_asserted_until_the_last_function_lets_go() {
    for (first, second) in [(0, 1), (1, 0)] {
        let mut d = device([1, 1]);
        assert_eq!(d.intx(), 0);
        interrupt(&mut d, 0, true);
        interrupt(&mut d, 1, true);
        assert_eq!(d.intx(), 1);
        interrupt(&mut d, first, false);
        assert_eq!(d.intx(), 1, "function {second} still asserts it");
        interrupt(&mut d, second, false);
        assert_eq!(d.intx(), 0);
    }
}

#[test]
fn intx_disable_of_one_function_does_not_silence_the_other() {
    let mut d = device([1, 1]);
    interrupt(&mut d, 0, true);
    interrupt(&mut d, 1, true);
    config_write(&mut d, 0, 0x04, 0x402);
    assert_eq!(d.intx(), 1);
    config_write(&mut d, 1, 0x04, 0x402);
    assert_eq!(d.intx(), 0);
    config_write(&mut d, 0, 0x04, 2);
    assert_eq!(d.intx(), 1);
}

#[test]
fn different_pins_are_different_wires() {
    let mut d = device([1, 2]);
    interrupt(&mut d, 1, true);
    assert_eq!(d.intx(), 2);
    interrupt(&mut d, 0, true);
    assert_eq!(d.intx(), 3);
}
