//! Frames on the link: 1 byte kind, 1 byte channel, 4 bytes little-endian length, payload.

use std::io;

use crate::wire;

/// Bytes before the payload.
const HEAD_BYTES: usize = 6;

/// A frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Which server.
    pub channel: u8,
    /// What it says.
    pub body: Body,
}

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// To a server a whole message, from it any bytes.
    Bytes(Vec<u8>),
    /// So many bytes more have been passed on.
    Passed(u32),
    /// A vector of an interrupt type was triggered.
    Triggered {
        /// Interrupt type.
        index: u32,
        /// Vector.
        vector: u32,
        /// How many bytes of the server, from its first on, come before it.
        after: u64,
    },
    /// The connection to the server is over.
    Closed,
}

impl Frame {
    /// As it is on the link.
    pub fn encode(&self) -> Vec<u8> {
        let (kind, payload) = match &self.body {
            Body::Bytes(b) => (1, b.clone()),
            Body::Passed(n) => (2, n.to_le_bytes().to_vec()),
            Body::Triggered { index, vector, after } => {
                (3, [&index.to_le_bytes()[..], &vector.to_le_bytes(), &after.to_le_bytes()].concat())
            }
            Body::Closed => (4, Vec::new()),
        };
        [&[kind, self.channel], &(payload.len() as u32).to_le_bytes()[..], &payload].concat()
    }

    fn decode(kind: u8, channel: u8, payload: Vec<u8>) -> Option<Frame> {
        let word = |at: usize| Some(u32::from_le_bytes(payload.get(at..at + 4)?.try_into().ok()?));
        let body = match (kind, payload.len()) {
            (1, 1..) => Body::Bytes(payload),
            (2, 4) => Body::Passed(word(0)?),
            (3, 16) => Body::Triggered {
                index: word(0)?,
                vector: word(4)?,
                after: u64::from(word(8)?) | u64::from(word(12)?) << 32,
            },
            (4, 0) => Body::Closed,
            _ => return None,
        };
        Some(Frame { channel, body })
    }
}

/// Bytes as they come, and the frames in them.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
}

impl Frames {
    /// Where more is appended.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The next whole frame.
    pub fn next(&mut self) -> io::Result<Option<Frame>> {
        let Some((&[kind, channel, a, b, c, d], rest)) = self.bytes.split_first_chunk::<HEAD_BYTES>() else {
            return Ok(None);
        };
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        let bad = || io::Error::new(io::ErrorKind::InvalidData, "what is on the relay's link is no frame");
        if len > wire::MOST_MESSAGE_BYTES {
            return Err(bad());
        }
        let Some(payload) = rest.get(..len) else { return Ok(None) };
        let frame = Frame::decode(kind, channel, payload.to_vec()).ok_or_else(bad)?;
        self.bytes.drain(..HEAD_BYTES + len);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        let body = prop_oneof![
            prop::collection::vec(any::<u8>(), 1..200).prop_map(Body::Bytes),
            any::<u32>().prop_map(Body::Passed),
            any::<(u32, u32, u64)>().prop_map(|(index, vector, after)| Body::Triggered {
                index,
                vector,
                after
            }),
            Just(Body::Closed),
        ];
        (any::<u8>(), body).prop_map(|(channel, body)| Frame { channel, body })
    }

    proptest! {
        #[test]
        fn frames_come_back_however_they_are_cut(
            sent in prop::collection::vec(any_frame(), 0..8), cut in 1usize..40,
        ) {
            let bytes: Vec<u8> = sent.iter().flat_map(Frame::encode).collect();
            let (mut frames, mut got) = (Frames::default(), Vec::new());
            for piece in bytes.chunks(cut) {
                frames.buffer().extend_from_slice(piece);
                while let Some(f) = frames.next().unwrap() {
                    got.push(f);
                }
            }
            prop_assert_eq!(got, sent);
        }

        #[test]
        fn garbage_is_an_error_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut frames = Frames::default();
            frames.buffer().extend_from_slice(&bytes);
            while let Ok(Some(_)) = frames.next() {}
        }
    }

    #[test]
    fn a_frame_longer_than_any_message_is_refused_before_it_has_come() {
        for head in [[1, 0, 0, 0, 0, 0x7f], [9, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0], [2, 0, 3, 0, 0, 0]] {
            let mut frames = Frames::default();
            frames.buffer().extend_from_slice(&head);
            frames.buffer().extend_from_slice(&[0; 3]);
            assert!(frames.next().is_err(), "{head:?}");
        }
    }
}
