//! Configuration space of one function: header, BARs, capabilities.
//!
//! *Modelled*: type 0 and type 1 headers, BAR sizing, capability lists with editable pointers (DBI_RO_WR_EN), sticky
//! bits per reset kind, the forwarding decisions of a type 1 bridge.
//! *Not modelled*: expansion ROM, I/O BARs, power budgeting.
//! *Sources*: PCI Express Base Specification §7; spec/dwc-qcom-registers.md §2.8.

pub mod fields;
pub mod regs;

use block::Reg;
use block::RegFile;
use block::ResetKind;
use block::StateError;
use block::Width;
use block::Words;

use regs::hdr;
use regs::id;

use crate::Rate;

/// Bytes of extended configuration space.
pub const CONFIG_BYTES: u32 = 0x1000;

/// Identity of a function.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ids {
    /// Vendor ID.
    pub vendor: u16,
    /// Device ID.
    pub device: u16,
    /// Class code, 24 bits.
    pub class: u32,
    /// Revision.
    pub revision: u8,
    /// Subsystem vendor ID (type 0).
    pub subsystem_vendor: u16,
    /// Subsystem ID (type 0).
    pub subsystem: u16,
    /// Interrupt pin: 0 none, 1 INTA … 4 INTD.
    pub pin: u8,
}

/// A 32-bit non-prefetchable memory BAR.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// BAR number, 0–5.
    pub index: u8,
    /// Size in bytes: a power of two, at least 16.
    pub size_bytes: u32,
}

/// One function's configuration space.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    regs: RegFile,
    bars: Vec<Bar>,
    last_cap: u32,
    last_ext: u32,
}

impl ConfigSpace {
    /// A type 0 header with `bars`.
    pub fn type0(ids: &Ids, bars: &[Bar]) -> ConfigSpace {
        let mut c = ConfigSpace::header(ids, regs::TYPE0, 0);
        c.set_reset16(0x2c, ids.subsystem_vendor);
        c.set_reset16(0x2e, ids.subsystem);
        for bar in bars {
            debug_assert!(bar.index < 6 && bar.size_bytes.is_power_of_two() && bar.size_bytes >= 16);
            c.regs.add(
                hdr::BAR0 + u32::from(bar.index) * 4,
                &[Reg::rw("BAR", 0, 0, !(bar.size_bytes - 1), "PCIe §7.5.1.2.1")],
            );
        }
        c.bars = bars.to_vec();
        c
    }

    /// A type 1 header.
    pub fn type1(ids: &Ids) -> ConfigSpace {
        ConfigSpace::header(ids, regs::TYPE1, 1)
    }

    fn header(ids: &Ids, rows: &[Reg], header_type: u8) -> ConfigSpace {
        let mut regs = RegFile::new(CONFIG_BYTES, regs::HEADER);
        regs.add(0, rows);
        let mut c = ConfigSpace { regs, bars: Vec::new(), last_cap: 0, last_ext: 0 };
        c.regs.set_reset(0, u32::from(ids.device) << 16 | u32::from(ids.vendor));
        c.regs.set_reset(hdr::CLASS_REVISION, ids.class << 8 | u32::from(ids.revision));
        c.regs.set_reset(0x0c, u32::from(header_type) << 16);
        c.regs.set_reset(0x3c, u32::from(ids.pin) << 8);
        c
    }

    /// Say in the header that the device has more than one function (PCIe §7.5.1.1.9).
    pub fn make_multifunction(&mut self) {
        let word = self.regs.reset_value(0x0c);
        self.regs.set_reset(0x0c, word | 1 << 23);
    }

    fn set_reset16(&mut self, off: u32, v: u16) {
        let shift = (off & 2) * 8;
        let word = self.regs.reset_value(off) & !(0xffff << shift);
        self.regs.set_reset(off, word | u32::from(v) << shift);
    }

    /// Append a capability at `at` with the rows of `tables`, chained behind the one added before.
    pub fn add_cap(&mut self, at: u32, cap_id: u8, tables: &[&[Reg]]) {
        let head = [
            Reg::ro("CAP_ID", 0, u32::from(cap_id), "PCIe §7.5.3.1").width(Width::B1).ro_wr(0xff),
            Reg::ro("CAP_NEXT", 1, 0, "PCIe §7.5.3.1; spec §2.8: editable").width(Width::B1).ro_wr(0xff),
        ];
        self.regs.add(at, &head);
        for rows in tables {
            self.regs.add(at, rows);
        }
        let pointer = if self.last_cap == 0 { hdr::CAP_PTR } else { self.last_cap + 1 };
        let shift = (pointer & 3) * 8;
        let word = self.regs.reset_value(pointer) & !(0xff << shift);
        self.regs.set_reset(pointer, word | at << shift);
        self.last_cap = at;
    }

    /// Append an extended capability at `at`; the first one must be at 0x100.
    pub fn add_ext_cap(&mut self, at: u32, cap_id: u16, version: u8, tables: &[&[Reg]]) {
        let head = u32::from(cap_id) | u32::from(version & 0xf) << 16;
        self.regs.add(
            at,
            &[Reg::ro("EXT_CAP_HEADER", 0, head, "PCIe §7.6.3; spec §2.8: editable").ro_wr(u32::MAX)],
        );
        for rows in tables {
            self.regs.add(at, rows);
        }
        if self.last_ext != 0 {
            let word = self.regs.reset_value(self.last_ext) & 0x000f_ffff;
            self.regs.set_reset(self.last_ext, word | at << 20);
        }
        self.last_ext = at;
    }

    /// Power management capability; `pmc` as in the register.
    pub fn add_pm(&mut self, at: u32, pmc: u16) {
        self.add_cap(at, id::PM, &[regs::PM]);
        self.set_reset16(at + 2, pmc);
    }

    /// MSI capability: 64-bit, 32 messages, maskable.
    pub fn add_msi(&mut self, at: u32) {
        self.add_cap(at, id::MSI, &[regs::MSI]);
    }

    /// MSI capability: 64-bit, one message, maskable.
    pub fn add_msi_single(&mut self, at: u32) {
        self.add_msi(at);
        self.set_reset16(at + 2, 0x0180);
    }

    /// MSI-X capability: `entries` vectors, table and PBA at these offsets of BAR `bar`.
    pub fn add_msix(&mut self, at: u32, entries: u16, bar: u8, table_off: u32, pba_off: u32) {
        self.add_cap(at, id::MSIX, &[regs::MSIX]);
        self.set_reset16(at + 2, entries - 1);
        self.regs.set_reset(at + 4, table_off | u32::from(bar));
        self.regs.set_reset(at + 8, pba_off | u32::from(bar));
    }

    /// PCI Express capability of a port or endpoint: `port_type` as in FLAGS, `lnkcap` as in the register.
    pub fn add_exp(&mut self, at: u32, port_type: u8, lnkcap: u32) {
        let root = port_type == 4;
        self.add_cap(at, id::EXP, if root { &[regs::EXP, regs::EXP_ROOT] } else { &[regs::EXP] });
        self.set_reset16(at + regs::exp::FLAGS, 2 | u16::from(port_type) << 4);
        self.regs.set_reset(at + regs::exp::LNKCAP, lnkcap);
    }

    /// A slot below the port whose PCI Express capability is at `at`; `sltcap` as in the register.
    pub fn add_slot(&mut self, at: u32, sltcap: u32) {
        let flags = self.half(at + regs::exp::FLAGS);
        self.regs.add(at, regs::EXP_SLOT);
        self.set_reset16(at + regs::exp::FLAGS, flags | 1 << 8);
        self.regs.set_reset(at + regs::exp::SLTCAP, sltcap);
    }

    /// AER extended capability.
    pub fn add_aer(&mut self, at: u32, root: bool) {
        self.add_ext_cap(at, id::EXT_AER, 2, if root { &[regs::AER, regs::AER_ROOT] } else { &[regs::AER] });
    }

    /// A guest read.
    pub fn read(&self, off: u16, w: Width) -> u64 {
        self.regs.read(u64::from(off), w)
    }

    /// A guest write; `ro_wr_en` is DBI_RO_WR_EN (root port only).
    pub fn write(&mut self, off: u16, w: Width, v: u64, ro_wr_en: bool) {
        self.regs.write(u64::from(off), w, v, ro_wr_en);
    }

    /// The 32-bit word that contains byte `off`.
    pub fn word(&self, off: u32) -> u32 {
        self.regs.word(off)
    }

    /// A read, over a link that runs at the rate `link`, of a function whose PCI Express capability is at `exp_at`: LNKSTA of the
    /// lower end of a link shows what its upper end does (PCIe §7.5.3.8).
    pub fn read_over(&self, exp_at: u32, link: Option<Rate>, off: u16, w: Width) -> u64 {
        let v = self.read(off, w);
        let Some(rate) = link.filter(|_| u32::from(off & !3) == exp_at + regs::exp::LNKCTL) else { return v };
        let shown = u64::from(rate.lnksta()) << 16 >> (u32::from(off & 3) * 8);
        v | shown & w.ones()
    }

    /// The 16-bit register at even `off`.
    pub fn half(&self, off: u32) -> u16 {
        (self.regs.word(off) >> ((off & 2) * 8)) as u16
    }

    /// Set bits of the 16-bit register at even `off` from the hardware side.
    pub fn update_half(&mut self, off: u32, mask: u16, v: u16) {
        let shift = (off & 2) * 8;
        self.regs.update(off, u32::from(mask) << shift, u32::from(v) << shift);
    }

    /// Set the word at `off` from the hardware side.
    pub fn set_word(&mut self, off: u32, v: u32) {
        self.regs.set_word(off, v);
    }

    /// COMMAND.
    pub fn command(&self) -> u16 {
        self.half(hdr::COMMAND)
    }

    /// Whether BME is set.
    pub fn bme(&self) -> bool {
        self.command() & regs::COMMAND_BME != 0
    }

    /// Apply a reset.
    pub fn reset(&mut self, kind: ResetKind) {
        self.regs.reset(kind);
    }

    /// The saved form: the registers. Capabilities and BARs are the function's.
    pub fn save(&self) -> Words {
        let ConfigSpace { regs, bars: _, last_cap: _, last_ext: _ } = self;
        regs.save()
    }

    /// Take a saved form; `what` names the function in errors.
    pub fn restore(&mut self, what: &'static str, saved: &Words) -> Result<(), StateError> {
        self.regs.restore(what, saved)
    }

    /// The BAR that claims `len` bytes at `addr`, with the offset in it; `None` while memory decoding is off.
    pub fn bar_hit(&self, addr: u64, len: u64) -> Option<(u8, u32)> {
        if self.command() & regs::COMMAND_MEM == 0 {
            return None;
        }
        self.bars.iter().find_map(|b| {
            let base = u64::from(self.word(hdr::BAR0 + u32::from(b.index) * 4) & !0xf);
            let off = addr.checked_sub(base)?;
            (off.checked_add(len)? <= u64::from(b.size_bytes)).then_some((b.index, off as u32))
        })
    }

    /// Memory that the BARs claim, as (base, bytes): none while memory decoding is off.
    pub fn claims(&self) -> Vec<(u64, u64)> {
        if self.command() & regs::COMMAND_MEM == 0 {
            return Vec::new();
        }
        let base = |b: &Bar| u64::from(self.word(hdr::BAR0 + u32::from(b.index) * 4) & !0xf);
        self.bars.iter().map(|b| (base(b), u64::from(b.size_bytes))).collect()
    }

    /// Type 1: secondary bus number.
    pub fn secondary_bus(&self) -> u8 {
        (self.word(hdr::PRIMARY_BUS) >> 8) as u8
    }

    /// Type 1: subordinate bus number.
    pub fn subordinate_bus(&self) -> u8 {
        (self.word(hdr::PRIMARY_BUS) >> 16) as u8
    }

    /// Type 1: whether the bridge forwards a memory request at `addr` downstream.
    pub fn forwards_mem(&self, addr: u64) -> bool {
        if self.command() & regs::COMMAND_MEM == 0 {
            return false;
        }
        let window = |reg: u32, base_hi: u64, limit_hi: u64| {
            let base = u64::from(reg & 0xfff0) << 16 | base_hi << 32;
            let limit = u64::from(reg >> 16 & 0xfff0) << 16 | limit_hi << 32 | 0xf_ffff;
            base <= addr && addr <= limit
        };
        let hi = |off| u64::from(self.word(off));
        window(self.word(hdr::MEMORY_BASE), 0, 0)
            || window(self.word(hdr::PREF_BASE), hi(hdr::PREF_BASE_UPPER), hi(hdr::PREF_LIMIT_UPPER))
    }
}

#[cfg(test)]
#[path = "config_test.rs"]
mod tests;
