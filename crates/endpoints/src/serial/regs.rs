//! Registers of a 16550A (PC16550D data sheet §8; Linux v7.3 include/uapi/linux/serial_reg.h). Two of the eight addresses
//! change with LCR.DLAB and others with the direction, which rows of masks cannot say: the [`super::Uart`] dispatches.

/// Register offsets in BAR 0.
pub mod off {
    /// Receive and transmit buffer; divisor low with DLAB.
    pub const DATA: u32 = 0;
    /// Interrupt enable; divisor high with DLAB.
    pub const IER: u32 = 1;
    /// Interrupt identification (read), FIFO control (write).
    pub const IIR_FCR: u32 = 2;
    /// Line control.
    pub const LCR: u32 = 3;
    /// Modem control.
    pub const MCR: u32 = 4;
    /// Line status.
    pub const LSR: u32 = 5;
    /// Modem status.
    pub const MSR: u32 = 6;
    /// Scratch.
    pub const SCR: u32 = 7;
}

/// IER bits.
pub mod ier {
    /// Received data.
    pub const RDI: u8 = 1 << 0;
    /// Transmitter empty.
    pub const THRI: u8 = 1 << 1;
    /// Line status.
    pub const RLSI: u8 = 1 << 2;
    /// Modem status.
    pub const MSI: u8 = 1 << 3;
}

/// IIR values.
pub mod iir {
    /// Modem status.
    pub const MSI: u8 = 0x0;
    /// Nothing.
    pub const NONE: u8 = 0x1;
    /// Transmitter empty.
    pub const THRI: u8 = 0x2;
    /// Received data.
    pub const RDI: u8 = 0x4;
    /// Line status.
    pub const RLSI: u8 = 0x6;
    /// Received data that nobody fetched for four character times.
    pub const TIMEOUT: u8 = 0xc;
    /// FIFOs on.
    pub const FIFOS: u8 = 0xc0;
}

/// FCR bits.
pub mod fcr {
    /// FIFOs on.
    pub const ENABLE: u8 = 1 << 0;
    /// Empty the receiver's.
    pub const CLEAR_RX: u8 = 1 << 1;
    /// Empty the transmitter's.
    pub const CLEAR_TX: u8 = 1 << 2;
}

/// LCR bits.
pub mod lcr {
    /// Word length: 5 to 8 bits.
    pub const WLEN: u8 = 3;
    /// Two stop bits.
    pub const STOP: u8 = 1 << 2;
    /// Parity.
    pub const PARITY: u8 = 1 << 3;
    /// The divisor is at offsets 0 and 1.
    pub const DLAB: u8 = 1 << 7;
}

/// MCR bits.
pub mod mcr {
    /// Data terminal ready.
    pub const DTR: u8 = 1 << 0;
    /// Request to send.
    pub const RTS: u8 = 1 << 1;
    /// Output 1.
    pub const OUT1: u8 = 1 << 2;
    /// Output 2.
    pub const OUT2: u8 = 1 << 3;
    /// Loopback.
    pub const LOOP: u8 = 1 << 4;
    /// Those that exist.
    pub const ALL: u8 = 0x1f;
}

/// LSR bits.
pub mod lsr {
    /// Data ready.
    pub const DR: u8 = 1 << 0;
    /// Overrun.
    pub const OE: u8 = 1 << 1;
    /// Parity error.
    pub const PE: u8 = 1 << 2;
    /// Framing error.
    pub const FE: u8 = 1 << 3;
    /// Break.
    pub const BI: u8 = 1 << 4;
    /// Transmit buffer empty.
    pub const THRE: u8 = 1 << 5;
    /// Transmitter empty.
    pub const TEMT: u8 = 1 << 6;
    /// An error in the receive FIFO.
    pub const FIFO_ERROR: u8 = 1 << 7;
}

/// MSR bits; the changes of the lines are the low four.
pub mod msr {
    /// Ring indicator ended.
    pub const TERI: u8 = 1 << 2;
    /// Clear to send.
    pub const CTS: u8 = 1 << 4;
    /// Data set ready.
    pub const DSR: u8 = 1 << 5;
    /// Ring indicator.
    pub const RI: u8 = 1 << 6;
    /// Carrier detect.
    pub const DCD: u8 = 1 << 7;
}
