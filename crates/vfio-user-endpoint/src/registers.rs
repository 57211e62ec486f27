//! The registers of configuration space that the model decides by: COMMAND, BARs, MSI and MSI-X. It owns them; all others are
//! the server's.

use block::Width;
use pcie::config::regs::hdr;
use pcie::config::regs::id;
use pcie::config::regs::COMMAND_INTX_DISABLE;
use pcie::config::regs::COMMAND_MEM;
use pcie::Message;
use pcie::MsixTable;

/// Bytes of configuration space with capabilities.
pub const BYTES: usize = 256;
const BARS: usize = 6;
/// Largest BAR: what is above has no place in the port's window anyway.
const MOST_BAR_BYTES: u64 = 1 << 30;
/// COMMAND bits that software changes (as `pcie::config::regs::HEADER`).
const COMMAND_BITS: u16 = 0x0547;
/// Capabilities that are looked at: as many as there is room for.
const MOST_CAPS: usize = 48;
const HEADER_TYPE: usize = 0x0e;
const PIN: usize = 0x3d;
/// Expansion ROM.
const ROM: usize = 0x30;

/// A memory BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bar {
    index: usize,
    /// What it claims: a power of two.
    claimed_bytes: u64,
    /// What the server has behind it.
    region_bytes: u64,
}

/// Where MSI registers are; the layout depends on the capability's flags (PCIe §7.7.1).
#[derive(Clone, Copy, Debug)]
struct MsiAt {
    flags: usize,
    addr: usize,
    wide: bool,
    data: usize,
    /// Mask bits, with the pending bits behind them.
    mask: Option<usize>,
    vectors: u32,
}

#[derive(Clone, Debug)]
struct Msix {
    flags: usize,
    table_bar: usize,
    table_off: u64,
    pba_bar: usize,
    pba_off: u64,
    vectors: u16,
    table: MsixTable,
}

/// Which kind of interrupt is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The pin.
    Intx,
    /// MSI.
    Msi,
    /// MSI-X.
    Msix,
}

/// A place in a BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The server's.
    Region(u32, u64),
    /// The MSI-X table.
    Table(u32),
    /// The pending bits of MSI-X.
    Pba(u32),
    /// In the BAR but behind the server's region.
    Nothing,
}

/// The registers.
#[derive(Clone, Debug)]
pub struct Registers {
    reset: [u8; BYTES],
    now: [u8; BYTES],
    /// Bits that a write changes.
    writable: [u8; BYTES],
    /// Bits that are the model's.
    owned: [u8; BYTES],
    bars: Vec<Bar>,
    msi: Option<MsiAt>,
    msix: Option<Msix>,
}

impl Registers {
    /// Of a function whose server has `config` and, behind its BARs, regions of these sizes. An error says what is not possible.
    pub fn new(config: [u8; BYTES], regions: &[u64; BARS]) -> Result<Registers, String> {
        let mut r = Registers {
            reset: config,
            now: config,
            writable: [0; BYTES],
            owned: [0; BYTES],
            bars: Vec::new(),
            msi: None,
            msix: None,
        };
        if config[HEADER_TYPE] & 0x7f != 0 {
            return Err(format!("its header is of type {}, not 0", config[HEADER_TYPE] & 0x7f));
        }
        r.own(hdr::COMMAND as usize, &COMMAND_BITS.to_le_bytes());
        r.own(ROM, &[0; 4]);
        r.add_bars(regions)?;
        r.add_caps()?;
        r.now = r.reset;
        Ok(r)
    }

    /// From `at` on the bits `writable` are the model's to change, all others read zero or as they were set.
    fn own(&mut self, at: usize, writable: &[u8]) {
        for (i, w) in writable.iter().enumerate() {
            if let (Some(o), Some(d)) = (self.owned.get_mut(at + i), self.writable.get_mut(at + i)) {
                (*o, *d) = (0xff, *w);
                self.reset[at + i] = 0;
            }
        }
    }

    fn add_bars(&mut self, regions: &[u64; BARS]) -> Result<(), String> {
        for (index, &region_bytes) in regions.iter().enumerate() {
            let at = hdr::BAR0 as usize + index * 4;
            let io = self.reset[at] & 1 != 0;
            let claimed_bytes = if region_bytes == 0 || io { 0 } else { region_bytes.max(16) };
            if claimed_bytes > MOST_BAR_BYTES {
                return Err(format!(
                    "BAR {index} has {region_bytes:#x} bytes, more than {MOST_BAR_BYTES:#x}"
                ));
            }
            let claimed_bytes = if claimed_bytes == 0 { 0 } else { claimed_bytes.next_power_of_two() };
            let mask = if claimed_bytes == 0 { 0 } else { !(claimed_bytes as u32 - 1) };
            self.own(at, &mask.to_le_bytes());
            if claimed_bytes != 0 {
                self.bars.push(Bar { index, claimed_bytes, region_bytes });
            }
        }
        Ok(())
    }

    fn add_caps(&mut self) -> Result<(), String> {
        let mut at = usize::from(self.reset[hdr::CAP_PTR as usize] & 0xfc);
        for _ in 0..MOST_CAPS {
            if at < 0x40 {
                return Ok(());
            }
            let next = usize::from(self.reset[at + 1] & 0xfc);
            match self.reset[at] {
                id::MSI if self.msi.is_none() => self.add_msi(at)?,
                id::MSIX if self.msix.is_none() => self.add_msix(at)?,
                _ => {}
            }
            at = next;
        }
        Err("its list of capabilities does not end".into())
    }

    fn add_msi(&mut self, at: usize) -> Result<(), String> {
        let flags = self.half(at + 2);
        let wide = flags & 1 << 7 != 0;
        let data = at + if wide { 0xc } else { 8 };
        let mask = (flags & 1 << 8 != 0).then_some(data + 4);
        if mask.map_or(data + 2, |m| m + 8) > BYTES {
            return Err("its MSI capability does not fit".into());
        }
        let vectors = 1 << (flags >> 1 & 7).min(5);
        // Enable and MME are the model's; what the function can do stays readable.
        self.own(at + 2, &[0x71, 0]);
        self.reset[at + 2..at + 4].copy_from_slice(&(flags & 0x018e).to_le_bytes());
        self.own(at + 4, &[0xfc, 0xff, 0xff, 0xff]);
        if wide {
            self.own(at + 8, &[0xff; 4]);
        }
        self.own(data, &[0xff; 2]);
        if let Some(m) = mask {
            self.own(m, &(u32::MAX >> (32 - vectors)).to_le_bytes());
            self.own(m + 4, &[0; 4]);
        }
        self.msi = Some(MsiAt { flags: at + 2, addr: at + 4, wide, data, mask, vectors });
        Ok(())
    }

    fn add_msix(&mut self, at: usize) -> Result<(), String> {
        if at + 12 > BYTES {
            return Err("its MSI-X capability does not fit".into());
        }
        let (flags, table, pba) = (self.half(at + 2), self.word(at + 4), self.word(at + 8));
        let vectors = (flags & 0x7ff) + 1;
        let m = Msix {
            flags: at + 2,
            table_bar: (table & 7) as usize,
            table_off: u64::from(table & !7),
            pba_bar: (pba & 7) as usize,
            pba_off: u64::from(pba & !7),
            vectors,
            table: MsixTable::new(usize::from(vectors)),
        };
        for (bar, end) in
            [(m.table_bar, m.table_off + m.table_bytes()), (m.pba_bar, m.pba_off + m.pba_bytes())]
        {
            if !self.bars.iter().any(|b| b.index == bar && end <= b.claimed_bytes) {
                return Err(format!("its MSI-X table or PBA is not in BAR {bar}"));
            }
        }
        self.own(at + 2, &[0, 0xc0]);
        self.reset[at + 2..at + 4].copy_from_slice(&(flags & 0x7ff).to_le_bytes());
        self.msix = Some(m);
        Ok(())
    }

    fn half(&self, at: usize) -> u16 {
        u16::from_le_bytes([self.now[at], self.now[at + 1]])
    }

    fn word(&self, at: usize) -> u32 {
        u32::from(self.half(at)) | u32::from(self.half(at + 2)) << 16
    }

    fn set_word(&mut self, at: usize, v: u32) {
        self.now[at..at + 4].copy_from_slice(&v.to_le_bytes());
    }

    /// What the guest reads where the server has `theirs`.
    pub fn overlay(&self, off: u16, w: Width, theirs: u64) -> u64 {
        (0..w.bytes()).fold(0, |v, i| {
            let at = usize::from(off) + i as usize;
            let byte = (theirs >> (i * 8)) as u8;
            let owned = self.owned.get(at).copied().unwrap_or(0);
            let mine = self.now.get(at).copied().unwrap_or(0);
            v | u64::from(byte & !owned | mine & owned) << (i * 8)
        })
    }

    /// A guest's write.
    pub fn write(&mut self, off: u16, w: Width, v: u64) {
        for i in 0..w.bytes() {
            let at = usize::from(off) + i as usize;
            let byte = (v >> (i * 8)) as u8;
            if let (Some(now), Some(mask)) = (self.now.get_mut(at), self.writable.get(at)) {
                *now = *now & !mask | byte & mask;
            }
        }
    }

    /// Say that the device has more functions.
    pub fn make_multifunction(&mut self) {
        for bytes in [&mut self.reset, &mut self.now, &mut self.owned] {
            bytes[HEADER_TYPE] |= 0x80;
        }
    }

    /// A reset.
    pub fn reset(&mut self) {
        self.now = self.reset;
        if let Some(m) = &mut self.msix {
            m.table.reset();
        }
    }

    /// COMMAND.
    pub fn command(&self) -> u16 {
        self.half(hdr::COMMAND as usize)
    }

    fn base(&self, b: &Bar) -> u64 {
        u64::from(self.word(hdr::BAR0 as usize + b.index * 4))
    }

    fn enabled_bars(&self) -> &[Bar] {
        if self.command() & COMMAND_MEM != 0 {
            &self.bars
        } else {
            &[]
        }
    }

    /// Memory that enabled BARs claim.
    pub fn claims(&self) -> Vec<(u64, u64)> {
        self.enabled_bars().iter().map(|b| (self.base(b), b.claimed_bytes)).collect()
    }

    /// What is at `addr`, if an enabled BAR claims the access.
    pub fn hit(&self, addr: u64, w: Width) -> Option<Place> {
        let (bar, off) = self.enabled_bars().iter().find_map(|b| {
            let off = addr.checked_sub(self.base(b))?;
            (off.checked_add(w.bytes())? <= b.claimed_bytes).then_some((b, off))
        })?;
        if let Some(m) = &self.msix {
            if bar.index == m.table_bar && (m.table_off..m.table_off + m.table_bytes()).contains(&off) {
                return Some(Place::Table((off - m.table_off) as u32));
            }
            if bar.index == m.pba_bar && (m.pba_off..m.pba_off + m.pba_bytes()).contains(&off) {
                return Some(Place::Pba((off - m.pba_off) as u32));
            }
        }
        let there = off + w.bytes() <= bar.region_bytes;
        Some(if there { Place::Region(bar.index as u32, off) } else { Place::Nothing })
    }

    /// A read of the MSI-X table or its pending bits.
    pub fn read_msix(&self, at: Place, w: Width) -> u64 {
        match (&self.msix, at) {
            (Some(m), Place::Table(off)) => m.table.read_table(off, w),
            (Some(m), Place::Pba(off)) => m.table.read_pba(off, w),
            _ => w.ones(),
        }
    }

    /// A write to the MSI-X table.
    pub fn write_table(&mut self, off: u32, w: Width, v: u64) {
        if let Some(m) = &mut self.msix {
            m.table.write_table(off, w, v);
        }
    }

    /// INTx pin: 0 none, 1 INTA … 4 INTD.
    pub fn pin(&self) -> u8 {
        self.reset[PIN]
    }

    /// Which kind of interrupt is on.
    pub fn mode(&self) -> Mode {
        if self.msix_flags() & 0x8000 != 0 {
            Mode::Msix
        } else if self.msi.is_some_and(|m| self.half(m.flags) & 1 != 0) {
            Mode::Msi
        } else {
            Mode::Intx
        }
    }

    /// Whether the pin may be asserted.
    pub fn intx_enabled(&self) -> bool {
        self.mode() == Mode::Intx && self.command() & COMMAND_INTX_DISABLE == 0
    }

    fn msix_flags(&self) -> u16 {
        self.msix.as_ref().map_or(0, |m| self.half(m.flags))
    }

    /// The function raises `vector` of the kind that is on: the message to send unless it is masked.
    pub fn raise(&mut self, vector: u32) -> Option<Message> {
        match self.mode() {
            Mode::Intx => None,
            Mode::Msix => {
                let flags = self.msix_flags();
                self.msix.as_mut()?.table.raise(flags, vector)
            }
            Mode::Msi => {
                let m = self.msi?;
                if vector >= self.granted(m) {
                    return None;
                }
                match m.mask {
                    Some(mask) if self.word(mask) & 1 << vector != 0 => {
                        self.set_word(mask + 4, self.word(mask + 4) | 1 << vector);
                        None
                    }
                    _ => Some(self.message(m, vector)),
                }
            }
        }
    }

    /// Messages that are pending and no longer masked, with their vectors.
    pub fn take_unmasked(&mut self) -> Vec<(u32, Message)> {
        let flags = self.msix_flags();
        let mut ready = self.msix.as_mut().map_or_else(Vec::new, |m| m.table.take_unmasked(flags));
        if let (Mode::Msi, Some(m @ MsiAt { mask: Some(mask), .. })) = (self.mode(), self.msi) {
            let free = self.word(mask + 4) & !self.word(mask);
            self.set_word(mask + 4, self.word(mask + 4) & !free);
            let free = (0..self.granted(m)).filter(|v| free & 1 << v != 0);
            ready.extend(free.map(|v| (v, self.message(m, v))));
        }
        ready
    }

    fn granted(&self, m: MsiAt) -> u32 {
        (1 << (self.half(m.flags) >> 4 & 7).min(5)).min(m.vectors)
    }

    fn message(&self, m: MsiAt, vector: u32) -> Message {
        let low = self.granted(m) - 1;
        Message { addr: self.msi_addr(m), data: u32::from(self.half(m.data)) & !low | vector & low }
    }

    fn msi_addr(&self, m: MsiAt) -> u64 {
        let high = if m.wide { self.word(m.addr + 4) } else { 0 };
        u64::from(self.word(m.addr)) | u64::from(high) << 32
    }

    /// Where MSIs go while MSI is enabled.
    pub fn msi_target(&self) -> Option<u64> {
        self.msi.filter(|m| self.half(m.flags) & 1 != 0).map(|m| self.msi_addr(m))
    }

    /// The oracle's items.
    pub fn sample(&self, out: &mut dyn FnMut(&str, u64)) {
        out("command", self.command().into());
        if let Some(m) = self.msi {
            out("msi.enable", (self.half(m.flags) & 1).into());
            out("msi.addr", self.msi_addr(m));
            out("msi.data", self.half(m.data).into());
            if let Some(mask) = m.mask {
                out("msi.mask", self.word(mask).into());
                out("msi.pending", self.word(mask + 4).into());
            }
        }
        if let Some(m) = &self.msix {
            let flags = self.msix_flags();
            out("msix.enable", (flags >> 15).into());
            out("msix.fmask", (flags >> 14 & 1).into());
            out("msix.unmasked", m.table.unmasked() as u64);
            out("msix.programmed", m.table.programmed() as u64);
            out("msix.pending", m.table.pending());
        }
    }
}

impl Msix {
    fn table_bytes(&self) -> u64 {
        u64::from(self.vectors) * 16
    }

    fn pba_bytes(&self) -> u64 {
        u64::from(self.vectors).div_ceil(64) * 8
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const REGIONS: [u64; BARS] = [0x1000, 0, 0x800, 0, 0, 5];

    /// A header with two memory BARs, whose capabilities begin at 0x40 with these bytes.
    fn with_caps(caps: &[u8]) -> [u8; BYTES] {
        let mut c = [0; BYTES];
        c[0x34] = 0x40;
        c[0x40..0x40 + caps.len()].copy_from_slice(caps);
        c
    }

    #[test]
    fn msi_registers_are_where_the_flags_say() {
        for (flags, data, mask) in
            [(0x00, 8, None), (0x80, 0xc, None), (0x100, 8, Some(0xc)), (0x180, 0xc, Some(0x10))]
        {
            let caps = [5, 0, flags as u8, (flags >> 8) as u8];
            let mut r = Registers::new(with_caps(&caps), &REGIONS).unwrap();
            r.write(0x44, Width::B4, 0x1234_5000);
            r.write(0x40 + data, Width::B2, 0x77);
            r.write(0x42, Width::B2, 0xffff);
            assert_eq!(r.overlay(0x42, Width::B2, 0), flags | 0x71, "{flags:#x}");
            assert_eq!(r.raise(0), Some(Message { addr: 0x1234_5000, data: 0x77 }));
            assert_eq!(r.raise(1), None, "there is one");
            if let Some(mask) = mask {
                r.write(0x40 + mask, Width::B4, 1);
                assert_eq!((r.raise(0), r.take_unmasked()), (None, vec![]));
                r.write(0x40 + mask, Width::B4, 0);
                assert_eq!(r.take_unmasked().len(), 1);
            }
        }
    }

    #[test]
    fn a_device_that_does_not_fit_is_refused() {
        let bridge = |c: &mut [u8; BYTES]| c[0x0e] = 1;
        let endless = |c: &mut [u8; BYTES]| c[0x41] = 0x40;
        let far =
            |c: &mut [u8; BYTES]| c[0x40..0x4c].copy_from_slice(&[0x11, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0]);
        type Change = fn(&mut [u8; BYTES]);
        let changes: [(Change, &str); 3] =
            [(bridge, "of type 1"), (endless, "does not end"), (far, "not in BAR 0")];
        for (change, says) in changes {
            let mut c = with_caps(&[]);
            change(&mut c);
            let e = Registers::new(c, &REGIONS).unwrap_err();
            assert!(e.contains(says), "{e}");
        }
        let e = Registers::new(with_caps(&[]), &[1 << 40, 0, 0, 0, 0, 0]).unwrap_err();
        assert!(e.contains("BAR 0"), "{e}");
    }

    proptest! {
        #[test]
        fn whatever_a_server_says_and_a_guest_writes_is_survived(
            bytes in prop::collection::vec(any::<u8>(), BYTES - 0x34),
            writes in prop::collection::vec((0u16..0x1000, any::<u32>()), 0..40),
            vector in any::<u32>(),
        ) {
            let mut c = [0; BYTES];
            c[0x34..].copy_from_slice(&bytes);
            if let Ok(mut r) = Registers::new(c, &REGIONS) {
                for (off, v) in writes {
                    r.write(off & !3, Width::B4, v.into());
                    r.overlay(off & !3, Width::B4, 0);
                    r.raise(vector % 64);
                    r.raise(vector);
                    r.hit(v.into(), Width::B8);
                    r.take_unmasked();
                }
                r.reset();
                prop_assert_eq!((r.command(), r.claims()), (0, vec![]));
            }
        }
    }
}
