//! The 16550A itself: registers, FIFOs and the interrupt level, without a bus.

use std::collections::VecDeque;

use block::SimTime;
use serde::Deserialize;
use serde::Serialize;

use super::regs::fcr;
use super::regs::ier;
use super::regs::iir;
use super::regs::lcr;
use super::regs::lsr;
use super::regs::mcr;
use super::regs::msr;
use super::regs::off;

/// Characters in a FIFO.
pub const FIFO: usize = 16;
/// Most bytes that wait on either side for the host or for the receiver; more are lost.
pub const WAITING_BYTES: usize = 64 << 10;
/// Bits a second with divisor 1.
const BASE_BAUD: u64 = 115_200;
/// What the other end asserts: it is there and takes everything.
const LINES: u8 = msr::CTS | msr::DSR | msr::DCD;
const CHARACTER_ERRORS: u8 = lsr::PE | lsr::FE | lsr::BI;

/// A received character with its LSR error bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Received {
    data: u8,
    errors: u8,
}

/// A 16550A with its line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Uart {
    ier: u8,
    fcr: u8,
    lcr: u8,
    mcr: u8,
    scr: u8,
    divisor: u16,
    overrun: bool,
    /// Low half of MSR.
    changes: u8,
    /// The transmitter's interrupt: latched when it empties, dropped when IIR reports it.
    thre: bool,
    rx: VecDeque<Received>,
    /// The receiver has been left alone for four character times.
    idle: bool,
    idle_at: Option<SimTime>,
    tx: VecDeque<u8>,
    /// The character that is on the line.
    shift: Option<u8>,
    shift_until: Option<SimTime>,
    /// Comes from the other end.
    line: VecDeque<Received>,
    line_at: Option<SimTime>,
    output: VecDeque<u8>,
}

/// How a line behaves: host side, no state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Line {
    /// What is sent comes back.
    pub echo: bool,
    /// Characters take the time that divisor and LCR say. Otherwise they move at once, and what finds the receiver full waits.
    pub paced: bool,
}

impl Uart {
    /// Out of reset. What the host has not taken yet stays.
    pub fn reset(&mut self) {
        let output = std::mem::take(&mut self.output);
        *self = Uart { output, ..Uart::default() };
    }

    /// Whether this is a state that a UART gets into.
    pub fn is_possible(&self) -> bool {
        let errors = |q: &VecDeque<Received>| q.iter().all(|r| r.errors & !CHARACTER_ERRORS == 0);
        let fits = self.rx.len() <= self.room() && self.tx.len() <= self.room();
        let waits = self.line.len() <= WAITING_BYTES && self.output.len() <= WAITING_BYTES;
        let moves = self.shift.is_some() == self.shift_until.is_some();
        let control = self.fcr == 0 || self.fifos() && self.fcr & !0xc9 == 0;
        let masks = self.ier & 0xf0 == 0 && self.mcr & !mcr::ALL == 0 && self.changes & 0xf0 == 0;
        fits && waits && moves && control && masks && errors(&self.rx) && errors(&self.line)
    }

    /// The interrupt output. OUT2 does not gate it: that is the wiring of a PC's board, not of a PCI card.
    pub fn interrupt(&self) -> bool {
        self.cause() != iir::NONE
    }

    /// When [`Uart::advance`] has something to do next.
    pub fn next_deadline(&self) -> Option<SimTime> {
        [self.idle_at, self.shift_until, self.line_at].into_iter().flatten().min()
    }

    /// What the guest has sent since the last time.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.output.drain(..).collect()
    }

    /// The other end sends; how many characters there was room for.
    pub fn input(&mut self, now: SimTime, line: Line, data: &[u8]) -> usize {
        let n = data.len().min(WAITING_BYTES.saturating_sub(self.line.len()));
        self.line.extend(data.iter().take(n).map(|&data| Received { data, errors: 0 }));
        self.settle(now, line);
        n
    }

    /// The other end sends a break.
    pub fn input_break(&mut self, now: SimTime, line: Line) {
        if self.line.len() < WAITING_BYTES {
            self.line.push_back(Received { data: 0, errors: lsr::BI });
        }
        self.settle(now, line);
    }

    /// A read of register `off`.
    pub fn read(&mut self, now: SimTime, line: Line, off: u32) -> u8 {
        let [low, high] = self.divisor.to_le_bytes();
        match off {
            off::DATA if self.dlab() => low,
            off::IER if self.dlab() => high,
            off::DATA => {
                let data = self.rx.pop_front().map_or(0, |r| r.data);
                self.restart_idle(now, line);
                self.settle(now, line);
                data
            }
            off::IER => self.ier,
            off::IIR_FCR => {
                let cause = self.cause();
                if cause == iir::THRI {
                    self.thre = false;
                }
                cause | if self.fifos() { iir::FIFOS } else { 0 }
            }
            off::LCR => self.lcr,
            off::MCR => self.mcr,
            off::LSR => self.read_lsr(),
            off::MSR => self.lines() | std::mem::take(&mut self.changes),
            off::SCR => self.scr,
            _ => 0,
        }
    }

    /// A write of register `off`.
    pub fn write(&mut self, now: SimTime, line: Line, off: u32, v: u8) {
        let [low, high] = self.divisor.to_le_bytes();
        match off {
            off::DATA if self.dlab() => self.divisor = u16::from_le_bytes([v, high]),
            off::IER if self.dlab() => self.divisor = u16::from_le_bytes([low, v]),
            off::DATA => self.send(v),
            off::IER => {
                // Enabling it while the transmitter is empty raises it: Linux starts to send that way.
                if v & !self.ier & ier::THRI != 0 && self.tx.is_empty() {
                    self.thre = true;
                }
                self.ier = v & 0xf;
            }
            off::IIR_FCR => self.write_fcr(v),
            off::LCR => self.lcr = v,
            off::MCR => self.write_mcr(v),
            off::SCR => self.scr = v,
            _ => {}
        }
        self.settle(now, line);
    }

    /// Time has reached `now`.
    pub fn advance(&mut self, now: SimTime, line: Line) {
        if self.idle_at.is_some_and(|t| t <= now) {
            (self.idle, self.idle_at) = (!self.rx.is_empty(), None);
        }
        if self.shift_until.is_some_and(|t| t <= now) {
            self.shift_until = None;
            if let Some(c) = self.shift.take() {
                self.sent(now, line, c);
            }
        }
        if self.line_at.is_some_and(|t| t <= now) {
            self.line_at = None;
            if let Some(c) = self.line.pop_front() {
                self.receive(now, line, c);
            }
        }
        self.settle(now, line);
    }

    fn dlab(&self) -> bool {
        self.lcr & lcr::DLAB != 0
    }

    fn fifos(&self) -> bool {
        self.fcr & fcr::ENABLE != 0
    }

    fn room(&self) -> usize {
        if self.fifos() {
            FIFO
        } else {
            1
        }
    }

    fn loopback(&self) -> bool {
        self.mcr & mcr::LOOP != 0
    }

    fn trigger(&self) -> usize {
        match (self.fifos(), self.fcr >> 6) {
            (false, _) | (_, 0) => 1,
            (_, 1) => 4,
            (_, 2) => 8,
            _ => 14,
        }
    }

    /// The highest cause that is enabled.
    fn cause(&self) -> u8 {
        let on = |bit| self.ier & bit != 0;
        let head = self.rx.front().is_some_and(|r| r.errors != 0);
        match () {
            () if on(ier::RLSI) && (self.overrun || head) => iir::RLSI,
            () if on(ier::RDI) && self.rx.len() >= self.trigger() => iir::RDI,
            () if on(ier::RDI) && self.idle && !self.rx.is_empty() => iir::TIMEOUT,
            () if on(ier::THRI) && self.thre => iir::THRI,
            () if on(ier::MSI) && self.changes != 0 => iir::MSI,
            () => iir::NONE,
        }
    }

    /// Reading LSR ends what it reports of errors.
    fn read_lsr(&mut self) -> u8 {
        let mut v = 0;
        if self.fifos() && self.rx.iter().any(|r| r.errors != 0) {
            v |= lsr::FIFO_ERROR;
        }
        if let Some(head) = self.rx.front_mut() {
            v |= lsr::DR | std::mem::take(&mut head.errors);
        }
        if std::mem::take(&mut self.overrun) {
            v |= lsr::OE;
        }
        if self.tx.is_empty() {
            v |= lsr::THRE;
            if self.shift.is_none() {
                v |= lsr::TEMT;
            }
        }
        v
    }

    fn write_fcr(&mut self, v: u8) {
        // Switching the FIFOs empties them; without them the other bits cannot be written.
        let switched = (v ^ self.fcr) & fcr::ENABLE != 0;
        let empty = |bit| switched || v & fcr::ENABLE != 0 && v & bit != 0;
        if empty(fcr::CLEAR_RX) {
            self.rx.clear();
            (self.idle, self.idle_at) = (false, None);
        }
        if empty(fcr::CLEAR_TX) && !self.tx.is_empty() {
            self.tx.clear();
            self.thre = true;
        }
        self.fcr = if v & fcr::ENABLE != 0 { v & 0xc9 } else { 0 };
    }

    fn write_mcr(&mut self, v: u8) {
        let before = self.lines();
        self.mcr = v & mcr::ALL;
        let changed = (before ^ self.lines()) >> 4;
        // Of the ring indicator only its end counts.
        let ended = self.lines() & msr::RI == 0;
        self.changes |= if ended { changed } else { changed & !msr::TERI };
    }

    /// High half of MSR: the other end's lines, or our own outputs in loopback.
    fn lines(&self) -> u8 {
        if !self.loopback() {
            return LINES;
        }
        let wired = [(mcr::RTS, msr::CTS), (mcr::DTR, msr::DSR), (mcr::OUT1, msr::RI), (mcr::OUT2, msr::DCD)];
        wired.iter().filter(|(out, _)| self.mcr & out != 0).fold(0, |v, (_, input)| v | input)
    }

    fn send(&mut self, c: u8) {
        self.thre = false;
        if self.tx.len() < self.room() {
            self.tx.push_back(c);
        }
    }

    /// A character has left.
    fn sent(&mut self, now: SimTime, line: Line, c: u8) {
        let c = c & 0xff >> (3 - (self.lcr & lcr::WLEN));
        if self.loopback() {
            self.receive(now, line, Received { data: c, errors: 0 });
            return;
        }
        if self.output.len() < WAITING_BYTES {
            self.output.push_back(c);
        }
        if line.echo && self.line.len() < WAITING_BYTES {
            self.line.push_back(Received { data: c, errors: 0 });
        }
    }

    fn receive(&mut self, now: SimTime, line: Line, c: Received) {
        if self.rx.len() >= self.room() {
            self.overrun = true;
            // A buffer is overwritten, a full FIFO keeps what it has.
            if !self.fifos() {
                self.rx.clear();
                self.rx.push_back(c);
            }
        } else {
            self.rx.push_back(c);
        }
        self.restart_idle(now, line);
    }

    fn restart_idle(&mut self, now: SimTime, line: Line) {
        let waits = self.fifos() && !self.rx.is_empty();
        self.idle = waits && !line.paced;
        self.idle_at = (waits && line.paced).then(|| now.after_ns(4 * self.character_ns()));
    }

    /// Start what can move, or move it where nothing takes time.
    fn settle(&mut self, now: SimTime, line: Line) {
        while self.shift.is_none() {
            let Some(c) = self.tx.pop_front() else { break };
            self.thre |= self.tx.is_empty();
            if line.paced {
                self.shift = Some(c);
                self.shift_until = Some(now.after_ns(self.character_ns()));
            } else {
                self.sent(now, line, c);
            }
        }
        // DEVIATION: what arrives during loopback is lost on a real line; here it waits.
        if self.loopback() || self.line.is_empty() {
            return;
        }
        if line.paced {
            self.line_at = self.line_at.or_else(|| Some(now.after_ns(self.character_ns())));
            return;
        }
        while self.rx.len() < self.room() {
            let Some(c) = self.line.pop_front() else { break };
            self.receive(now, line, c);
        }
    }

    /// Start bit, data, parity and stop bits. INFERRED: divisor 0 counts as 65536.
    fn character_ns(&self) -> u64 {
        let has = |bit| u64::from(self.lcr & bit != 0);
        let bits = 1 + 5 + u64::from(self.lcr & lcr::WLEN) + has(lcr::PARITY) + 1 + has(lcr::STOP);
        let divisor = if self.divisor == 0 { 0x1_0000 } else { u64::from(self.divisor) };
        bits * divisor * 1_000_000_000 / BASE_BAUD
    }
}
