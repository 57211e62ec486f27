//! The stream between the machine that runs a guest and the front-end that keeps the artifacts.
//!
//! Frames: 1 byte kind, 4 bytes little-endian length, payload. The front-end survives any end of the stream:
//! a torn frame is the end.

use std::io;
use std::io::Read;
use std::io::Write;

/// Longest payload, bytes.
pub const MAX_PAYLOAD_BYTES: u32 = 16 << 20;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// JSON of a worker message.
    Message = 1,
    /// Console output.
    Console = 2,
    /// Trace records, to be appended to trace.bin.
    Trace = 3,
    /// Terminal input, front-end to worker.
    Input = 4,
    /// A piece of an ELF core, to be appended to core.elf; a message tells when it is whole.
    Core = 5,
    /// What is asked of the guest's memory, front-end to worker.
    Ask = 6,
    /// The answer to that.
    View = 7,
}

impl Kind {
    fn from_byte(b: u8) -> Option<Kind> {
        [Kind::Message, Kind::Console, Kind::Trace, Kind::Input, Kind::Core, Kind::Ask, Kind::View]
            .into_iter()
            .find(|k| *k as u8 == b)
    }
}

/// Write one frame; payloads above [`MAX_PAYLOAD_BYTES`] are split.
pub fn write_frame(w: &mut dyn Write, kind: Kind, payload: &[u8]) -> io::Result<()> {
    for chunk in payload.chunks(MAX_PAYLOAD_BYTES as usize) {
        let len = chunk.len() as u32;
        let mut head = [kind as u8, 0, 0, 0, 0];
        head[1..].copy_from_slice(&len.to_le_bytes());
        w.write_all(&head)?;
        w.write_all(chunk)?;
    }
    w.flush()
}

/// Read one frame; `None` at the end of the stream, torn or not.
pub fn read_frame(r: &mut dyn Read) -> io::Result<Option<(Kind, Vec<u8>)>> {
    let mut head = [0; 5];
    if let Err(e) = r.read_exact(&mut head) {
        return if e.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(e) };
    }
    let len = u32::from_le_bytes([head[1], head[2], head[3], head[4]]);
    let kind = Kind::from_byte(head[0]).filter(|_| len <= MAX_PAYLOAD_BYTES);
    let Some(kind) = kind else {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a frame of this version of rcvm"));
    };
    let mut payload = vec![0; len as usize];
    match r.read_exact(&mut payload) {
        Ok(()) => Ok(Some((kind, payload))),
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(e) => Err(e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_back_and_a_torn_one_is_the_end() {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, Kind::Message, b"{}").unwrap();
        write_frame(&mut bytes, Kind::Trace, &[7; 100]).unwrap();
        let whole = bytes.len();
        write_frame(&mut bytes, Kind::Console, b"lost").unwrap();
        for cut in whole..bytes.len() {
            let mut r = &bytes[..cut];
            assert_eq!(read_frame(&mut r).unwrap(), Some((Kind::Message, b"{}".to_vec())));
            assert_eq!(read_frame(&mut r).unwrap().map(|f| f.1.len()), Some(100));
            assert_eq!(read_frame(&mut r).unwrap(), None);
        }
    }

    #[test]
    fn garbage_is_an_error_not_an_allocation() {
        assert!(read_frame(&mut &[9, 0, 0, 0, 0][..]).is_err());
        assert!(read_frame(&mut &[1, 0xff, 0xff, 0xff, 0xff][..]).is_err());
    }
}
