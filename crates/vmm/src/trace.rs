//! The access trace: a ring in memory, a binary form, and its decoder.
//!
//! A `trace.bin` is a sequence of chunks: a 24-byte header (`RCVMTRC2`, u32 record size, u32 size of the notes, u64 count of
//! accesses that were lost before this chunk) and a u32 number of records, then the records, all little-endian; then the notes,
//! lines of text: `symbol PC NAME` for the PCs that occur, `phase TIME NAME` for what the guest was asked to do, numbers in hex.

use std::collections::BTreeMap;
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
    /// Program counter of the access in the guest; 0 if it is not known.
    pub pc: u64,
    /// Whether nobody answered: the block has no clock or is in reset.
    pub gated: bool,
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
            "{} {:<6} +{:#06x} {:>2} {register}{}{:#0width$x}{}{}",
            if self.write { "W" } else { "R" },
            self.window_name(),
            self.off,
            self.width.bytes() * 8,
            if register.is_empty() { "= " } else { " = " },
            self.value,
            if fields.is_empty() { String::new() } else { format!(" {{{fields}}}") },
            if self.gated { " GATED" } else { "" },
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
    /// What the PCs are, as far as it is known: `dw_pcie_read+0x5c`, `qcom_pcie_init_2_7_0+0x10 [pcie_qcom]`.
    pub symbols: BTreeMap<u64, String>,
    /// When the guest was asked to do what, oldest first.
    pub phases: Vec<(u64, String)>,
}

impl Taken {
    /// Program counters that have no symbol yet.
    pub fn unnamed(&self) -> Vec<u64> {
        let mut pcs: Vec<u64> = self.entries.iter().map(|e| e.pc).filter(|pc| *pc != 0).collect();
        pcs.sort_unstable();
        pcs.dedup();
        pcs.retain(|pc| !self.symbols.contains_key(pc));
        pcs
    }

    /// Where in the guest `e` came from: a symbol, or the address, or nothing.
    pub fn place(&self, e: &Entry) -> String {
        match self.symbols.get(&e.pc) {
            Some(name) => name.clone(),
            None if e.pc == 0 => String::new(),
            None => format!("{:#x}", e.pc),
        }
    }

    /// What the guest was asked to do when `e` happened; empty before the first phase.
    pub fn phase(&self, e: &Entry) -> &str {
        let begun = self.phases.partition_point(|p| p.0 <= e.time_ns);
        begun.checked_sub(1).map_or("", |i| &self.phases[i].1)
    }
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
        Taken {
            entries: self.entries.drain(..).collect(),
            lost: std::mem::take(&mut self.lost),
            ..Taken::default()
        }
    }
}

const MAGIC: &[u8; 8] = b"RCVMTRC2";
const RECORD_BYTES: usize = 40;
const HEAD_BYTES: usize = 28;

/// The binary form of one chunk.
pub fn encode(t: &Taken) -> Vec<u8> {
    let notes = notes(t);
    let mut out = Vec::with_capacity(HEAD_BYTES + t.entries.len() * RECORD_BYTES + notes.len());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&(RECORD_BYTES as u32).to_le_bytes());
    out.extend_from_slice(&(notes.len() as u32).to_le_bytes());
    out.extend_from_slice(&t.lost.to_le_bytes());
    out.extend_from_slice(&(t.entries.len() as u32).to_le_bytes());
    for e in &t.entries {
        for word in [e.time_ns, e.off, e.value, e.pc] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        let (window, width) = (window_code(e.window), e.width.bytes() as u8);
        out.extend_from_slice(&[window, e.vcpu, width, u8::from(e.write), u8::from(e.gated), 0, 0, 0]);
    }
    out.extend_from_slice(notes.as_bytes());
    out
}

/// Symbols and phases, one a line.
fn notes(t: &Taken) -> String {
    let symbols = t.symbols.iter().map(|(pc, name)| format!("symbol {pc:x} {name}\n"));
    let phases = t.phases.iter().map(|(ns, name)| format!("phase {ns:x} {name}\n"));
    symbols.chain(phases).collect()
}

fn take_notes(t: &mut Taken, text: &str) {
    for line in text.lines() {
        let mut words = line.splitn(3, ' ');
        let (Some(kind), Some(number), Some(name)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let Ok(number) = u64::from_str_radix(number, 16) else { continue };
        match kind {
            "symbol" => drop(t.symbols.insert(number, name.to_owned())),
            "phase" => t.phases.push((number, name.to_owned())),
            _ => {}
        }
    }
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
        let notes_bytes = u32::from_le_bytes(head[12..16].try_into().map_err(|_| bad)?) as usize;
        let lost = u64::from_le_bytes(head[16..24].try_into().map_err(|_| bad)?);
        let n = u32::from_le_bytes(head[24..28].try_into().map_err(|_| bad)?) as usize;
        at += HEAD_BYTES;
        let mut chunk = Taken { lost, ..Taken::default() };
        for record in bytes[at..].chunks_exact(RECORD_BYTES).take(n) {
            chunk.entries.push(decode_record(record).ok_or(NotATrace { at })?);
            at += RECORD_BYTES;
        }
        let whole = chunk.entries.len() == n && bytes.len() - at >= notes_bytes;
        if whole {
            take_notes(&mut chunk, &String::from_utf8_lossy(&bytes[at..at + notes_bytes]));
            at += notes_bytes;
        }
        chunks.push(chunk);
        if !whole {
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
        pc: u64_at(24)?,
        window: WINDOWS.get(usize::from(r[32])).copied()?,
        vcpu: r[33],
        width: Width::from_bytes(usize::from(r[34]))?,
        write: r[35] != 0,
        gated: r[36] != 0,
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
            pc: 0xffff_8000_8090_1034,
            gated: false,
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
        let mut t = Taken { entries: (0..3).map(entry).collect(), lost: 9, ..Taken::default() };
        t.entries[1].gated = true;
        t.symbols.insert(t.entries[0].pc, "dw_pcie_read+0x5c [a b]".into());
        t.phases = vec![(0, "insmod".into()), (2, "rmmod".into())];
        let mut bytes = encode(&t);
        bytes.extend(encode(&t));
        assert_eq!(decode(&bytes).unwrap(), [t.clone(), t.clone()]);
        bytes.pop();
        let torn = &decode(&bytes).unwrap()[1];
        assert_eq!((&torn.entries, torn.symbols.len()), (&t.entries, 0), "without its notes");
        bytes.truncate(bytes.len() - notes(&t).len());
        assert_eq!(decode(&bytes).unwrap()[1].entries, t.entries[..2]);
        assert!(decode(b"garbage that is long enough to be a header").is_err());
    }

    #[test]
    fn an_access_has_a_place_and_a_phase() {
        let mut t = Taken { entries: (0..5).map(entry).collect(), ..Taken::default() };
        let e = t.entries[3];
        assert_eq!(t.unnamed(), [e.pc]);
        assert_eq!((t.place(&e).as_str(), t.phase(&e)), ("0xffff800080901034", ""));
        t.symbols.insert(e.pc, "f+0x4".into());
        t.phases = vec![(1, "insmod".into()), (3, "msi".into()), (4, "rmmod".into())];
        assert_eq!((t.place(&e).as_str(), t.phase(&e), t.unnamed()), ("f+0x4", "msi", vec![]));
        assert_eq!(t.phase(&t.entries[0]), "");
        assert_eq!(t.place(&Entry { pc: 0, ..e }), "");
    }

    #[test]
    fn every_window_has_its_code() {
        for (w, ..) in rc_model::soc::SOCS.iter().flat_map(|s| s.wrapper.map) {
            let e = Entry { window: *w, ..entry(1) };
            let t = Taken { entries: vec![e], ..Taken::default() };
            assert_eq!(decode(&encode(&t)).unwrap(), [t]);
        }
    }
}
