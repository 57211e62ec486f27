//! The 16550 for early output (`earlycon`), by vm-superio.

use std::convert::Infallible;
use std::io;
use std::io::Write;

use vm_superio::serial::NoEvents;
use vm_superio::Serial;
use vm_superio::Trigger;

/// Longest piece of output that is held back for its end of line, bytes.
const LINE_BYTES: usize = 256;

/// Called to pulse the UART's interrupt.
pub struct Pulse(pub Box<dyn Fn() + Send>);

impl Trigger for Pulse {
    type E = Infallible;

    fn trigger(&self) -> Result<(), Infallible> {
        (self.0)();
        Ok(())
    }
}

/// Collects bytes to lines before handing them over: one event a byte would cost more than the output.
pub struct Lines {
    buf: Vec<u8>,
    out: Box<dyn Fn(Vec<u8>) + Send>,
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for &b in bytes {
            self.buf.push(b);
            if b == b'\n' || self.buf.len() >= LINE_BYTES {
                (self.out)(std::mem::take(&mut self.buf));
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The UART.
pub struct Uart(Serial<Pulse, NoEvents, Lines>);

impl Uart {
    /// A UART whose output goes to `out`.
    pub fn new(pulse: Pulse, out: Box<dyn Fn(Vec<u8>) + Send>) -> Uart {
        Uart(Serial::new(pulse, Lines { buf: Vec::new(), out }))
    }

    /// A byte read.
    pub fn read(&mut self, off: u64) -> u8 {
        u8::try_from(off).map_or(0, |off| self.0.read(off))
    }

    /// A byte write. What the device refuses (a full loop-back queue) is lost, as on hardware.
    pub fn write(&mut self, off: u64, v: u8) {
        if let Ok(off) = u8::try_from(off) {
            let _ = self.0.write(off, v);
        }
    }

    /// Hand over what has no end of line yet.
    pub fn flush(&mut self) {
        let lines = self.0.writer_mut();
        if !lines.buf.is_empty() {
            (lines.out)(std::mem::take(&mut lines.buf));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn output_comes_in_lines_and_the_rest_on_flush() {
        let (tx, rx) = channel();
        let mut u = Uart::new(Pulse(Box::new(|| {})), Box::new(move |b| tx.send(b).unwrap()));
        for b in b"one\ntw" {
            u.write(0, *b);
        }
        assert_eq!(rx.try_iter().collect::<Vec<_>>(), [b"one\n".to_vec()]);
        u.flush();
        assert_eq!(rx.recv().unwrap(), b"tw");
    }
}
