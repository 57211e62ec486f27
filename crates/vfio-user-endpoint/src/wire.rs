//! Messages as they are on the socket. Integers are in the byte order of the host (vfio-user §Protocol Specification).

/// Bytes of a header.
pub const HEADER_BYTES: usize = 16;
/// Most data of one transfer, in both directions: what the protocol has as its default.
pub const MOST_DATA_BYTES: usize = 1 << 20;
/// Longest message that is accepted: the most data behind the largest fixed part.
pub const MOST_MESSAGE_BYTES: usize = MOST_DATA_BYTES + 64;

/// Commands (vfio-user §Commands).
pub mod command {
    /// Version and capabilities.
    pub const VERSION: u16 = 1;
    /// Memory that the server may access.
    pub const DMA_MAP: u16 = 2;
    /// What device it is.
    pub const GET_INFO: u16 = 4;
    /// What a region is.
    pub const GET_REGION_INFO: u16 = 5;
    /// What interrupts of a type there are.
    pub const GET_IRQ_INFO: u16 = 7;
    /// What interrupts do.
    pub const SET_IRQS: u16 = 8;
    /// Read a region.
    pub const REGION_READ: u16 = 9;
    /// Write a region.
    pub const REGION_WRITE: u16 = 10;
    /// The server reads guest memory.
    pub const DMA_READ: u16 = 11;
    /// The server writes guest memory.
    pub const DMA_WRITE: u16 = 12;
    /// Reset the device.
    pub const RESET: u16 = 13;
}

/// The message is a reply.
pub const REPLY: u32 = 1;
/// Bits of the message's type.
pub const TYPE: u32 = 0xf;
/// The command wants no reply.
pub const NO_REPLY: u32 = 1 << 4;
/// The reply says that the command failed.
pub const ERROR: u32 = 1 << 5;

/// Device flag: it can be reset (vfio.h, `VFIO_DEVICE_FLAGS_RESET`).
pub const DEVICE_RESET: u32 = 1 << 0;
/// Device flag: it is a PCI device (vfio.h, `VFIO_DEVICE_FLAGS_PCI`).
pub const DEVICE_PCI: u32 = 1 << 1;
/// Index of the configuration space's region (vfio.h, `VFIO_PCI_CONFIG_REGION_INDEX`).
pub const CONFIG_REGION: u32 = 7;

/// Interrupt types by index (vfio.h, `VFIO_PCI_INTX_IRQ_INDEX` and the next two).
pub mod irq {
    /// INTx.
    pub const INTX: u32 = 0;
    /// MSI.
    pub const MSI: u32 = 1;
    /// MSI-X.
    pub const MSIX: u32 = 2;
    /// Information: can be masked.
    pub const MASKABLE: u32 = 1 << 1;
    /// Data of SET_IRQS: none.
    pub const DATA_NONE: u32 = 1 << 0;
    /// Data of SET_IRQS: eventfds.
    pub const DATA_EVENTFD: u32 = 1 << 2;
    /// Action of SET_IRQS: unmask.
    pub const ACTION_UNMASK: u32 = 1 << 4;
    /// Action of SET_IRQS: trigger.
    pub const ACTION_TRIGGER: u32 = 1 << 5;
}

/// A header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Chosen by who sends the command.
    pub id: u16,
    /// Command.
    pub command: u16,
    /// Bytes of the whole message.
    pub bytes: u32,
    /// [`REPLY`], [`NO_REPLY`], [`ERROR`].
    pub flags: u32,
    /// errno of a failed command.
    pub error: u32,
}

impl Header {
    /// From the first bytes of a message, if they are all there.
    pub fn parse(message: &[u8]) -> Option<Header> {
        let mut f = Fields(message);
        Some(Header {
            id: f.half()?,
            command: f.half()?,
            bytes: f.word()?,
            flags: f.word()?,
            error: f.word()?,
        })
    }

    /// The message of this header with `parts` behind it; its size is set.
    pub fn message(self, parts: &[&[u8]]) -> Vec<u8> {
        let bytes = HEADER_BYTES + parts.iter().map(|p| p.len()).sum::<usize>();
        let mut m = Vec::with_capacity(bytes);
        m.extend(self.id.to_ne_bytes());
        m.extend(self.command.to_ne_bytes());
        m.extend((bytes as u32).to_ne_bytes());
        m.extend(self.flags.to_ne_bytes());
        m.extend(self.error.to_ne_bytes());
        parts.iter().for_each(|p| m.extend(*p));
        m
    }

    /// Header of the reply to this command.
    #[must_use]
    pub fn reply(self) -> Header {
        Header { flags: REPLY, error: 0, ..self }
    }

    /// Header of the reply that says that this command failed.
    #[must_use]
    pub fn refusal(self, errno: u32) -> Header {
        Header { flags: REPLY | ERROR, error: errno, ..self }
    }
}

/// 32-bit fields in a row.
pub fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_ne_bytes()).collect()
}

/// 64-bit fields in a row.
pub fn longs(longs: &[u64]) -> Vec<u8> {
    longs.iter().flat_map(|l| l.to_ne_bytes()).collect()
}

/// Fields of a payload, read one after the other; `None` once they are used up.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    /// The next 16 bits.
    pub fn half(&mut self) -> Option<u16> {
        self.take().map(u16::from_ne_bytes)
    }

    /// The next 32 bits.
    pub fn word(&mut self) -> Option<u32> {
        self.take().map(u32::from_ne_bytes)
    }

    /// The next 64 bits.
    pub fn long(&mut self) -> Option<u64> {
        self.take().map(u64::from_ne_bytes)
    }

    /// What follows.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_sixteen_bytes_and_comes_back() {
        let h = Header { id: 0x1234, command: command::REGION_READ, bytes: 19, flags: NO_REPLY, error: 5 };
        let m = h.message(&[&[1], &[2, 3]]);
        assert_eq!((m.len(), Header::parse(&m)), (19, Some(h)));
        assert_eq!(Header::parse(&m[..15]), None);
        assert_eq!(h.refusal(5).flags, REPLY | ERROR);
    }

    #[test]
    fn fields_end_with_the_payload() {
        let data = [words(&[7]), longs(&[8]), vec![9]].concat();
        let mut f = Fields(&data);
        assert_eq!((f.word(), f.long(), f.half(), f.rest()), (Some(7), Some(8), None, &[9][..]));
    }
}
