//! A card with one 16550A serial port, 1d0f:8250.
//!
//! *Modelled*: configuration space without MSI and MSI-X; BAR 0, 32-bit memory, with the eight registers; FIFOs with trigger
//! levels and timeout, loopback, break and overrun; the pin as a level. Characters move at once, or at the programmed rate.
//! *Not modelled*: parity, framing and stop-bit errors; a break sent by the guest; flow control.
//! *Sources*: PC16550D data sheet §8; Linux v7.3 drivers/tty/serial/8250/8250_port.c (autoconfig, THRE test, size_fifo)
//! and 8250_pci.c: 1d0f:8250 is pbn_b0_1_115200. 1b36:0002 has no entry there, and what is matched by its class must have an
//! I/O BAR (serial_pci_guess_board).

pub mod regs;
mod uart;

pub use uart::Line;
pub use uart::Uart;
pub use uart::FIFO;
pub use uart::WAITING_BYTES;

use block::Cx;
use block::ResetKind;
use block::SimTime;
use block::StateError;
use block::Width;
use pcie::config::Bar;
use pcie::config::Ids;
use pcie::Frame;
use pcie::FrameSpec;
use pcie::FrameState;
use pcie::Framed;
use pcie::FramedFunction;
use pcie::FunctionState;
use pcie::Upstream;
use serde::Deserialize;
use serde::Serialize;

/// Bytes of BAR 0; behind the registers it reads 0.
pub const BAR0_BYTES: u32 = 0x100;
/// Name in a [`FunctionState`].
const NAME: &str = "serial";

/// What the card is built with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SerialSpec {
    /// Interrupt pin: 1 INTA … 4 INTD.
    pub pin: u8,
    /// The line.
    pub line: Line,
}

impl Default for SerialSpec {
    /// INTA, no echo, at once.
    fn default() -> Self {
        SerialSpec { pin: 1, line: Line::default() }
    }
}

/// The function.
#[derive(Clone, Debug)]
pub struct SerialCard {
    frame: Frame,
    line: Line,
    uart: Uart,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct State {
    frame: FrameState,
    uart: Uart,
}

impl Default for SerialCard {
    fn default() -> Self {
        SerialCard::new(SerialSpec::default())
    }
}

impl SerialCard {
    /// A card out of power-on reset.
    pub fn new(spec: SerialSpec) -> SerialCard {
        let ids = Ids {
            vendor: 0x1d0f,
            device: 0x8250,
            // 16550-compatible serial controller.
            class: 0x07_0002,
            pin: spec.pin.clamp(1, 4),
            ..Ids::default()
        };
        let bars = [Bar { index: 0, size_bytes: BAR0_BYTES }];
        let frame = Frame::new(&FrameSpec { ids, bars: &bars, msi: false, msix: None });
        SerialCard { frame, line: spec.line, uart: Uart::default() }
    }

    /// What the guest has sent since the last time; at most [`WAITING_BYTES`] wait.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.uart.take_output()
    }

    /// Send to the guest; how many characters there was room for.
    pub fn input(&mut self, now: SimTime, data: &[u8]) -> usize {
        let n = self.uart.input(now, self.line, data);
        self.update_pin();
        n
    }

    /// Send a break to the guest.
    pub fn input_break(&mut self, now: SimTime) {
        self.uart.input_break(now, self.line);
        self.update_pin();
    }

    fn update_pin(&mut self) {
        self.frame.set_intx(self.uart.interrupt());
    }
}

impl Framed for SerialCard {
    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn frame_mut(&mut self) -> &mut Frame {
        &mut self.frame
    }
}

impl<E> FramedFunction<E> for SerialCard {
    fn bar_read(
        &mut self,
        cx: &mut Cx<'_, E>,
        _up: &mut dyn Upstream<E>,
        (_, off): (u8, u32),
        w: Width,
    ) -> u64 {
        let mut data = 0;
        for lane in 0..w.bytes() as u32 {
            data |= u64::from(self.uart.read(cx.now, self.line, off + lane)) << (lane * 8);
        }
        self.update_pin();
        data
    }

    fn bar_write(
        &mut self,
        cx: &mut Cx<'_, E>,
        _up: &mut dyn Upstream<E>,
        (_, off): (u8, u32),
        w: Width,
        v: u64,
    ) {
        for lane in 0..w.bytes() as u32 {
            self.uart.write(cx.now, self.line, off + lane, (v >> (lane * 8)) as u8);
        }
        self.update_pin();
    }

    fn next_deadline(&self) -> Option<SimTime> {
        self.uart.next_deadline()
    }

    fn tick(&mut self, cx: &mut Cx<'_, E>, _up: &mut dyn Upstream<E>) {
        self.uart.advance(cx.now, self.line);
        self.update_pin();
    }

    fn reset(&mut self, _cx: &mut Cx<'_, E>, kind: ResetKind) {
        if kind != ResetKind::D3HotToD0 {
            self.uart.reset();
        }
        self.update_pin();
    }

    fn save(&self) -> FunctionState {
        FunctionState::new(NAME, &State { frame: self.frame.save(), uart: self.uart.clone() })
    }

    fn restore(&mut self, saved: &FunctionState) -> Result<(), StateError> {
        let State { frame, uart } = saved.data(NAME)?;
        if !uart.is_possible() {
            return Err(StateError::Impossible { what: NAME });
        }
        self.frame.restore(NAME, &frame)?;
        self.uart = uart;
        self.update_pin();
        Ok(())
    }
}

#[cfg(test)]
#[path = "serial_test.rs"]
mod tests;
