//! The card against no port at all (it sends nothing), in the order of Linux v7.3 8250_port.c.

use block::VecMem;
use pcie::Bdf;
use pcie::Completion;
use pcie::Function;
use proptest::prelude::*;

use super::regs::fcr;
use super::regs::ier;
use super::regs::iir;
use super::regs::lcr;
use super::regs::lsr;
use super::regs::mcr;
use super::regs::msr;
use super::regs::off;
use super::*;

const BAR0: u64 = 0x6030_0000;
const BDF: Bdf = Bdf::new(1, 0, 0);
const IDLE: u8 = lsr::THRE | lsr::TEMT;

struct NoPort;

impl Upstream<()> for NoPort {
    fn mem_write(&mut self, _: &mut Cx<'_, ()>, _: Bdf, _: bool, _: u64, _: &[u8]) -> Completion {
        panic!("a serial card does not write to memory");
    }

    fn mem_read(&mut self, _: &mut Cx<'_, ()>, _: Bdf, _: bool, _: u64, _: &mut [u8]) -> Completion {
        panic!("a serial card does not read memory");
    }
}

struct Bench {
    f: SerialCard,
    mem: VecMem,
    now: SimTime,
}

impl Bench {
    fn new(spec: SerialSpec) -> Bench {
        let mut b =
            Bench { f: SerialCard::new(spec), mem: VecMem::new(0x8000_0000, 0x1000), now: SimTime(5) };
        b.cfg_write(0x10, Width::B4, BAR0);
        b.cfg_write(0x04, Width::B2, 0x2);
        b
    }

    /// With FIFOs and the smallest divisor, 8N1.
    fn open(line: Line) -> Bench {
        let mut b = Bench::new(SerialSpec { line, ..SerialSpec::default() });
        b.outb(off::LCR, lcr::DLAB);
        b.outb(off::DATA, 1);
        b.outb(off::LCR, 3);
        b.outb(off::IIR_FCR, fcr::ENABLE);
        b
    }

    fn with<R>(&mut self, f: impl FnOnce(&mut SerialCard, &mut Cx<'_, ()>) -> R) -> R {
        let mut events = Vec::new();
        f(&mut self.f, &mut Cx { now: self.now, mem: &mut self.mem, events: &mut events })
    }

    fn cfg_write(&mut self, off: u16, w: Width, v: u64) {
        self.with(|f, cx| f.config_write(cx, &mut NoPort, BDF, off, w, v));
    }

    fn cfg_read(&mut self, off: u16, w: Width) -> u64 {
        self.with(|f, cx| f.config_read(cx, None, off, w))
    }

    fn inb(&mut self, off: u32) -> u8 {
        self.with(|f, cx| f.mem_read(cx, &mut NoPort, BAR0 + u64::from(off), Width::B1).data as u8)
    }

    fn outb(&mut self, off: u32, v: u8) {
        self.with(|f, cx| f.mem_write(cx, &mut NoPort, BAR0 + u64::from(off), Width::B1, v.into()));
    }

    fn input(&mut self, data: &[u8]) -> usize {
        let now = self.now;
        self.f.input(now, data)
    }

    /// Let time pass to the next deadline; how long that was.
    fn next(&mut self) -> Option<u64> {
        let at = Function::<()>::next_deadline(&self.f)?;
        let waited = at.0 - self.now.0;
        self.now = at;
        self.with(|f, cx| Function::tick(f, cx, &mut NoPort));
        Some(waited)
    }

    fn pin(&self) -> u8 {
        Function::<()>::intx(&self.f)
    }

    fn received(&mut self) -> Vec<u8> {
        let mut v = Vec::new();
        while self.inb(off::LSR) & lsr::DR != 0 {
            v.push(self.inb(off::DATA));
        }
        v
    }
}

#[test]
fn it_is_a_serial_controller_with_a_pin_and_no_messages() {
    let mut b = Bench::new(SerialSpec { pin: 3, ..SerialSpec::default() });
    assert_eq!((b.cfg_read(0, Width::B4), b.cfg_read(8, Width::B4)), (0x8250_1d0f, 0x0700_0200));
    assert_eq!(b.cfg_read(0x3d, Width::B1), 3);
    b.cfg_write(0x10, Width::B4, 0xffff_ffff);
    assert_eq!(b.cfg_read(0x10, Width::B4), 0xffff_ff00);
    b.cfg_write(0x10, Width::B4, BAR0);
    b.outb(off::IER, ier::THRI);
    assert_eq!(b.pin(), 1 << 2, "INTC");
}

/// autoconfig() and autoconfig_16550a().
#[test]
fn autoconfig_finds_a_16550a() {
    let mut b = Bench::new(SerialSpec::default());
    for (v, want) in [(0, 0), (0xff, 0xf), (0, 0)] {
        b.outb(off::IER, v);
        assert_eq!(b.inb(off::IER), want);
    }
    b.outb(off::MCR, mcr::LOOP | mcr::OUT2 | mcr::RTS);
    assert_eq!(b.inb(off::MSR) & 0xf0, msr::DCD | msr::CTS);
    b.outb(off::MCR, 0);
    b.outb(off::LCR, 0xbf);
    b.outb(off::IIR_FCR, 0);
    b.outb(off::LCR, 0);
    assert_eq!(b.inb(off::IIR_FCR), iir::NONE, "no FIFOs");
    b.outb(off::IIR_FCR, fcr::ENABLE);
    assert_eq!(b.inb(off::IIR_FCR), iir::FIFOS | iir::NONE);
    b.outb(off::LCR, lcr::DLAB);
    b.outb(off::IIR_FCR, 0xa9);
    assert_eq!(b.inb(off::IIR_FCR) & 0x20, 0, "no 64-byte FIFO");
    b.outb(off::LCR, 0);
    b.outb(off::SCR, 0x5a);
    assert_eq!((b.inb(off::SCR), b.inb(off::LSR)), (0x5a, IDLE));
}

/// size_fifo(), at once and at 115200 baud.
#[test]
fn loopback_shows_the_size_of_the_fifo() {
    for paced in [false, true] {
        let mut b = Bench::open(Line { paced, echo: false });
        b.outb(off::MCR, mcr::LOOP);
        for c in 0..=255 {
            b.outb(off::DATA, c);
        }
        while b.next().is_some() {}
        assert_eq!(b.received(), (0..16).collect::<Vec<u8>>(), "paced {paced}");
        assert_eq!(b.f.take_output(), Vec::<u8>::new());
    }
}

#[test]
fn divisor_and_registers_below_it_are_apart() {
    let mut b = Bench::new(SerialSpec::default());
    b.outb(off::IER, ier::RDI);
    b.outb(off::LCR, lcr::DLAB | 3);
    b.outb(off::DATA, 0x34);
    b.outb(off::IER, 0x12);
    assert_eq!((b.inb(off::DATA), b.inb(off::IER)), (0x34, 0x12));
    b.outb(off::LCR, 3);
    assert_eq!((b.inb(off::IER), b.f.take_output()), (ier::RDI, vec![]));
}

/// serial8250_THRE_test() and serial8250_iir_txen_test().
#[test]
fn the_transmitter_interrupts_when_it_is_enabled_empty_and_after_each_write() {
    let mut b = Bench::open(Line::default());
    for _ in 0..2 {
        b.outb(off::IER, ier::THRI);
        assert_eq!(b.pin(), 1);
        assert_eq!(b.inb(off::IIR_FCR) & 0xf, iir::THRI);
        assert_eq!((b.pin(), b.inb(off::IIR_FCR) & 0xf), (0, iir::NONE), "reported once");
        b.outb(off::IER, 0);
    }
    b.outb(off::IER, ier::THRI);
    b.inb(off::IIR_FCR);
    b.outb(off::DATA, b'a');
    assert_eq!((b.pin(), b.f.take_output()), (1, b"a".to_vec()));
    b.outb(off::IER, 0);
    assert_eq!(b.pin(), 0, "a level follows IER");
}

#[test]
fn a_paced_transmitter_takes_ten_bits_a_character() {
    let mut b = Bench::open(Line { paced: true, echo: false });
    b.outb(off::IER, ier::THRI);
    b.inb(off::IIR_FCR);
    b.outb(off::DATA, b'a');
    b.outb(off::DATA, b'b');
    assert_eq!((b.inb(off::LSR), b.pin()), (0, 0));
    assert_eq!(b.next(), Some(86_805));
    assert_eq!((b.inb(off::LSR), b.pin(), b.f.take_output()), (lsr::THRE, 1, b"a".to_vec()));
    assert_eq!(b.next(), Some(86_805));
    assert_eq!((b.inb(off::LSR), b.next(), b.f.take_output()), (IDLE, None, b"b".to_vec()));
}

#[test]
fn the_receiver_interrupts_at_its_trigger_level_and_after_a_timeout() {
    for (level, trigger) in [1, 4, 8, 14].into_iter().enumerate() {
        let mut b = Bench::open(Line { paced: true, echo: false });
        b.outb(off::IIR_FCR, fcr::ENABLE | (level as u8) << 6);
        b.outb(off::IER, ier::RDI);
        b.input(&vec![b'x'; trigger]);
        for n in 1..=trigger {
            assert_eq!(b.pin(), 0, "{n} of {trigger}");
            b.next();
        }
        assert_eq!((b.pin(), b.inb(off::IIR_FCR) & 0xf), (1, iir::RDI));
        b.inb(off::DATA);
        if trigger == 1 {
            assert_eq!(b.pin(), 0);
            continue;
        }
        assert_eq!(b.pin(), 0, "below the trigger");
        assert_eq!(b.next(), Some(4 * 86_805));
        assert_eq!((b.pin(), b.inb(off::IIR_FCR) & 0xf), (1, iir::TIMEOUT));
        b.inb(off::DATA);
        assert_eq!(b.pin(), 0, "a read ends the timeout");
    }
}

#[test]
fn input_at_once_waits_until_there_is_room() {
    let mut b = Bench::open(Line::default());
    b.outb(off::IER, ier::RDI);
    let sent: Vec<u8> = (0..100).collect();
    assert_eq!((b.input(&sent), b.pin()), (100, 1));
    assert_eq!(b.received(), sent);
    assert_eq!(b.pin(), 0);
    assert_eq!(b.input(&vec![0; WAITING_BYTES + 100]), WAITING_BYTES, "bounded");
}

#[test]
fn an_echo_returns_what_is_sent_in_words_of_lcr() {
    let mut b = Bench::open(Line { echo: true, paced: false });
    b.outb(off::DATA, 0xff);
    b.outb(off::LCR, 0);
    b.outb(off::DATA, 0xff);
    assert_eq!(b.received(), [0xff, 0x1f]);
    assert_eq!(b.f.take_output(), [0xff, 0x1f]);
}

#[test]
fn overrun_and_break_are_line_status_that_a_read_ends() {
    let mut b = Bench::open(Line { paced: true, echo: false });
    b.outb(off::IER, ier::RLSI);
    b.input(&[7; 17]);
    for _ in 0..16 {
        b.next();
    }
    assert_eq!(b.pin(), 0, "full");
    b.next();
    assert_eq!((b.pin(), b.inb(off::IIR_FCR) & 0xf), (1, iir::RLSI));
    assert_eq!((b.inb(off::LSR), b.pin()), (IDLE | lsr::DR | lsr::OE, 0));
    assert_eq!(b.received().len(), 16);

    let mut b = Bench::open(Line::default());
    b.outb(off::IER, ier::RLSI);
    b.input(b"a");
    let now = b.now;
    b.f.input_break(now);
    assert_eq!((b.inb(off::LSR), b.pin()), (IDLE | lsr::DR | lsr::FIFO_ERROR, 0), "behind the a");
    assert_eq!((b.inb(off::DATA), b.pin()), (b'a', 1));
    assert_eq!((b.inb(off::LSR), b.pin()), (IDLE | lsr::DR | lsr::FIFO_ERROR | lsr::BI, 0));
    assert_eq!((b.inb(off::DATA), b.inb(off::LSR)), (0, IDLE));
}

#[test]
fn modem_lines_change_in_loopback_and_interrupt() {
    let mut b = Bench::new(SerialSpec::default());
    assert_eq!(b.inb(off::MSR), msr::CTS | msr::DSR | msr::DCD, "somebody is there");
    b.outb(off::IER, ier::MSI);
    b.outb(off::MCR, mcr::LOOP | mcr::OUT1);
    assert_eq!((b.pin(), b.inb(off::IIR_FCR)), (1, iir::MSI));
    assert_eq!((b.inb(off::MSR), b.pin()), (msr::RI | 0xb, 0), "a ring that begins does not count");
    b.outb(off::MCR, mcr::LOOP);
    assert_eq!(b.inb(off::MSR), msr::TERI);
}

#[test]
fn intx_disable_and_reset_silence_the_pin() {
    let mut b = Bench::open(Line::default());
    b.outb(off::IER, ier::THRI);
    b.cfg_write(0x04, Width::B2, 0x402);
    assert_eq!((b.pin(), b.cfg_read(0x06, Width::B2) & 8), (0, 8), "pending, not asserted");
    b.cfg_write(0x04, Width::B2, 0x002);
    assert_eq!(b.pin(), 1);
    b.outb(off::DATA, b'a');
    b.with(|f, cx| Function::reset(f, cx, ResetKind::HotReset));
    assert_eq!((b.pin(), b.f.uart.interrupt()), (0, false));
    assert_eq!(b.f.take_output(), b"a", "what has left is out");
    assert_eq!(b.f.uart, Uart::default());
}

#[test]
fn a_saved_card_goes_on_where_it_was() {
    let line = Line { paced: true, echo: true };
    let mut b = Bench::open(line);
    b.outb(off::IER, 0xf);
    b.outb(off::DATA, b'a');
    b.outb(off::DATA, b'b');
    b.input(b"xyz");
    b.next();
    let saved = Function::<()>::save(&b.f);
    let mut other = Bench::new(SerialSpec { line, ..SerialSpec::default() });
    Function::<()>::restore(&mut other.f, &saved).unwrap();
    other.now = b.now;
    while b.next().is_some() {
        assert!(other.next().is_some());
        assert_eq!((other.pin(), &other.f.uart), (b.pin(), &b.f.uart));
    }
    assert_eq!(other.received(), b.received());
    let mut wrong = saved;
    wrong.data["uart"]["ier"] = 0x10.into();
    assert!(Function::<()>::restore(&mut other.f, &wrong).is_err());
}

proptest! {
    #[test]
    fn no_guest_access_panics_and_every_state_can_be_restored(
        paced: bool,
        echo: bool,
        ops in proptest::collection::vec((0u8..4, 0u32..16, any::<u8>()), 0..200),
    ) {
        let mut b = Bench::new(SerialSpec { line: Line { paced, echo }, ..SerialSpec::default() });
        for (op, at, v) in ops {
            match op {
                0 => { b.inb(at); }
                1 => b.outb(at, v),
                2 => { b.input(&[v]); }
                _ => { b.next(); }
            }
            prop_assert_eq!(b.pin() != 0, b.f.uart.interrupt());
            prop_assert!(b.f.uart.is_possible());
        }
    }
}
