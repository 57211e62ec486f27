//! The access trace: a ring in memory, a binary form, and its decoder.
//!
//! A `trace.bin` is a sequence of chunks: a 24-byte header (`RCVMTRC1`, u32 record size, u32 reserved, u64 count of
//! accesses that were lost before this chunk) and a u32 number of records, then the records, all little-endian.

use std::collections::VecDeque;

use block::Width;
use rc_model::Soc;
use rc_model::Window;

/// One access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Time since power-on, ns.
    pub time_ns: u64,
    /// Offset in the window.
    pub off: u64,
    /// Value read or written.
    pub value: u64,
    /// Which window.
    pub window: Window,
    /// Which vCPU.
    pub vcpu: u8,
    /// Width.
    pub width: Width,
    /// Direction.
    pub write: bool,
}

impl Entry {
    /// Name of the window, as in the decoded form.
    pub fn window_name(&self) -> String {
        format!("{:?}", self.window).to_lowercase()
    }

    /// Names of the registers that it reached, or empty.
    pub fn register(&self) -> String {
        let parts = rc_model::decode(None, self.window, self.off, self.width, self.value);
        parts.into_iter().map(|p| p.name).collect::<Vec<_>>().join("+")
    }

    /// What the fields of those registers say, or empty; `soc` names GPIO lines and resets.
    pub fn fields(&self, soc: Option<&Soc>) -> String {
        let parts = rc_model::decode(soc, self.window, self.off, self.width, self.value);
        let one = parts.len() == 1;
        let said = parts.into_iter().filter(|p| !p.fields.is_empty());
        said.map(|p| if one { p.fields } else { format!("{}: {}", p.name, p.fields) })
            .collect::<Vec<_>>()
            .join(" | ")
    }

    /// What was accessed and how, without when and by whom: what two runs can be compared by.
    pub fn what(&self, soc: Option<&Soc>) -> String {
        let register = self.register();
        let fields = self.fields(soc);
        format!(
            "{} {:<6} +{:#06x} {:>2} {register}{}{:#0width$x}{}",
            if self.write { "W" } else { "R" },
            self.window_name(),
            self.off,
            self.width.bytes() * 8,
            if register.is_empty() { "= " } else { " = " },
            self.value,
            if fields.is_empty() { String::new() } else { format!(" {{{fields}}}") },
            width = 2 + 2 * self.width.bytes() as usize,
        )
    }

    /// The whole line: when, by which vCPU, what.
    pub fn line(&self, soc: Option<&Soc>) -> String {
        format!("{:>14.6} ms cpu{} {}", self.time_ns as f64 / 1e6, self.vcpu, self.what(soc))
    }
}

/// A ring of the newest accesses.
#[derive(Debug, Default)]
pub struct Ring {
    entries: VecDeque<Entry>,
    capacity: usize,
    lost: u64,
}

/// What a ring held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// Accesses, oldest first.
    pub entries: Vec<Entry>,
    /// Accesses that were overwritten before them.
    pub lost: u64,
}

impl Ring {
    /// A ring of `capacity` accesses; 0 records nothing.
    pub fn new(capacity: usize) -> Ring {
        Ring { entries: VecDeque::with_capacity(capacity.min(4096)), capacity, lost: 0 }
    }

    /// Record an access, forgetting the oldest if the ring is full.
    pub fn push(&mut self, e: Entry) {
        if self.capacity == 0 {
            return;
        }
        if self.entries.len() == self.capacity {
            self.entries.pop_front();
            self.lost += 1;
        }
        self.entries.push_back(e);
    }

    /// Empty the ring.
    pub fn take(&mut self) -> Taken {
        Taken { entries: self.entries.drain(..).collect(), lost: std::mem::take(&mut self.lost) }
    }
}

const MAGIC: &[u8; 8] = b"RCVMTRC1";
const RECORD_BYTES: usize = 32;
const HEAD_BYTES: usize = 28;

/// The binary form of one chunk.
pub fn encode(t: &Taken) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_BYTES + t.entries.len() * RECORD_BYTES);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&(RECORD_BYTES as u32).to_le_bytes());
    out.extend_from_slice(&0_u32.to_le_bytes());
    out.extend_from_slice(&t.lost.to_le_bytes());
    out.extend_from_slice(&(t.entries.len() as u32).to_le_bytes());
    for e in &t.entries {
        out.extend_from_slice(&e.time_ns.to_le_bytes());
        out.extend_from_slice(&e.off.to_le_bytes());
        out.extend_from_slice(&e.value.to_le_bytes());
        out.extend_from_slice(&[
            window_code(e.window),
            e.vcpu,
            e.width.bytes() as u8,
            u8::from(e.write),
            0,
            0,
            0,
            0,
        ]);
    }
    out
}

/// Why bytes are not a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an access trace at byte {at}")]
pub struct NotATrace {
    /// Where.
    pub at: usize,
}

/// The chunks of a whole `trace.bin`: one a cycle. A torn last chunk gives the records that are whole.
pub fn decode(bytes: &[u8]) -> Result<Vec<Taken>, NotATrace> {
    let mut chunks = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let bad = NotATrace { at };
        let head = bytes.get(at..at + HEAD_BYTES).ok_or(bad)?;
        if &head[..8] != MAGIC || head[8..12] != (RECORD_BYTES as u32).to_le_bytes() {
            return Err(bad);
        }
        let lost = u64::from_le_bytes(head[16..24].try_into().map_err(|_| bad)?);
        let n = u32::from_le_bytes(head[24..28].try_into().map_err(|_| bad)?) as usize;
        at += HEAD_BYTES;
        let mut out = Vec::new();
        let mut left = n;
        for record in bytes[at..].chunks_exact(RECORD_BYTES).take(n) {
            out.push(decode_record(record).ok_or(NotATrace { at })?);
            at += RECORD_BYTES;
            left -= 1;
        }
        chunks.push(Taken { entries: out, lost });
        if left > 0 {
            // The writer was killed in the middle of this chunk.
            break;
        }
    }
    Ok(chunks)
}

fn decode_record(r: &[u8]) -> Option<Entry> {
    let u64_at = |at: usize| Some(u64::from_le_bytes(r.get(at..at + 8)?.try_into().ok()?));
    Some(Entry {
        time_ns: u64_at(0)?,
        off: u64_at(8)?,
        value: u64_at(16)?,
        window: WINDOWS.get(usize::from(r[24])).copied()?,
        vcpu: r[25],
        width: Width::from_bytes(usize::from(r[26]))?,
        write: r[27] != 0,
    })
}

/// Order of windows in the file format: only ever append.
const WINDOWS: [Window; 12] = [
    Window::Parf,
    Window::Dbi,
    Window::Elbi,
    Window::Atu,
    Window::Mhi,
    Window::Config,
    Window::Mem,
    Window::Gpio,
    Window::Reset,
    Window::Phy,
    Window::Apb,
    Window::Ecam,
];

fn window_code(w: Window) -> u8 {
    WINDOWS.iter().position(|x| *x == w).unwrap_or(0) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(i: u64) -> Entry {
        Entry {
            time_ns: i,
            off: 0x1b0,
            value: 0x100,
            window: Window::Parf,
            vcpu: 1,
            width: Width::B4,
            write: true,
        }
    }

    #[test]
    fn a_line_has_registers_value_and_fields() {
        let e = Entry { time_ns: 1_500_000, value: 0x111, write: false, ..entry(0) };
        let line = "      1.500000 ms cpu1 R parf   +0x01b0 32 PARF_LTSSM = 0x00000111 {LTSSM_EN STATE=L0}";
        assert_eq!(e.line(None), line);
        let two = Entry { window: Window::Dbi, off: 0x04, value: 0x0010_0007, ..e };
        let line =
            "R dbi    +0x0004 32 COMMAND+STATUS = 0x00100007 {COMMAND: MASTER MEMORY IO | STATUS: CAP_LIST}";
        assert_eq!(two.what(None), line);
        let none = Entry { window: Window::Mem, off: 0x20, value: 7, width: Width::B8, ..e };
        assert_eq!(none.what(None), "R mem    +0x0020 64 = 0x0000000000000007");
    }

    #[test]
    fn a_full_ring_keeps_the_newest_and_counts_the_rest() {
        let mut r = Ring::new(3);
        for i in 0..5 {
            r.push(entry(i));
        }
        let t = r.take();
        assert_eq!((t.entries.iter().map(|e| e.time_ns).collect::<Vec<_>>(), t.lost), (vec![2, 3, 4], 2));
        assert_eq!(r.take(), Taken::default());
    }

    #[test]
    fn chunks_come_back_and_a_torn_record_is_dropped() {
        let t = Taken { entries: (0..3).map(entry).collect(), lost: 9 };
        let mut bytes = encode(&t);
        bytes.extend(encode(&t));
        assert_eq!(decode(&bytes).unwrap(), [t.clone(), t.clone()]);
        bytes.pop();
        assert_eq!(decode(&bytes).unwrap()[1].entries, t.entries[..2]);
        assert!(decode(b"garbage that is long enough to be a header").is_err());
    }

    #[test]
    fn every_window_has_its_code() {
        for (w, ..) in rc_model::soc::SOCS.iter().flat_map(|s| s.wrapper.map) {
            let e = Entry { window: *w, ..entry(1) };
            let t = Taken { entries: vec![e], lost: 0 };
            assert_eq!(decode(&encode(&t)).unwrap(), [t]);
        }
    }
}
