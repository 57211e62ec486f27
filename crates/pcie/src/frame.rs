//! What every endpoint function has: configuration space with the usual capabilities, BAR decoding, interrupts of three
//! kinds, gated DMA, and the errors that it reports by itself. A function is a frame and what is behind its BARs.
//!
//! *Modelled*: PM (D0, D3hot), MSI (32, maskable), MSI-X with PBA, INTx, PCI Express with the rate of the link above, AER with
//! unsupported requests.
//! *Not modelled*: D1 and D2, FLR, 64-bit and I/O BARs, the Secondary PCI Express capability, equalization.
//! *Sources*: PCI Express Base Specification §6.1.4, §6.2, §7.5.

use block::Cx;
use block::ResetKind;
use block::StateError;
use block::Width;
use block::Words;
use serde::Deserialize;
use serde::Serialize;

use crate::config::regs as cfg;
use crate::config::Bar;
use crate::config::Ids;
use crate::errors;
use crate::Bdf;
use crate::Completion;
use crate::ConfigSpace;
use crate::Message;
use crate::Msi;
use crate::MsixTable;
use crate::Rate;
use crate::Sender;
use crate::Upstream;

/// Power management capability.
pub const PM_AT: u32 = 0x40;
/// MSI capability.
pub const MSI_AT: u32 = 0x50;
/// PCI Express capability.
pub const EXP_AT: u32 = 0x70;
/// MSI-X capability.
pub const MSIX_AT: u32 = 0xb0;
/// First byte that is free for capabilities of the function's own.
pub const FREE_AT: u32 = 0xc0;
/// AER extended capability.
pub const AER_AT: u32 = 0x100;
/// LNKCAP: 8 GT/s, x1, ASPM L1.
const LNKCAP: u32 = 0x0000_0813;
const MSI: Msi = Msi { at: MSI_AT };
const MSIX_ENABLE: u16 = 0x8000;

/// Where a function's MSI-X table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MsixSpec {
    /// Vectors, 1–2048.
    pub vectors: u16,
    /// BAR of table and PBA.
    pub bar: u8,
    /// Offset of the table; the PBA is right behind it.
    pub table_off: u32,
}

impl MsixSpec {
    /// Offset of the pending bit array.
    pub const fn pba_off(&self) -> u32 {
        self.table_off + self.vectors as u32 * 16
    }

    /// Bytes of the pending bit array.
    pub const fn pba_bytes(&self) -> u32 {
        self.vectors.div_ceil(64) as u32 * 8
    }
}

/// How a function looks to configuration software.
#[derive(Clone, Copy, Debug)]
pub struct FrameSpec<'a> {
    /// Identity.
    pub ids: Ids,
    /// BARs.
    pub bars: &'a [Bar],
    /// Whether it has MSI.
    pub msi: bool,
    /// MSI-X, if it has any.
    pub msix: Option<MsixSpec>,
}

/// The kind of interrupt that software has switched on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IrqMode {
    /// Neither MSI nor MSI-X: the pin.
    Intx,
    /// MSI.
    Msi,
    /// MSI-X.
    MsiX,
}

/// The frame of a function.
#[derive(Clone, Debug)]
pub struct Frame {
    config: ConfigSpace,
    pin: u8,
    msix: Option<(MsixSpec, MsixTable)>,
    /// Captured from configuration writes (PCIe §2.2.6.2).
    bdf: Bdf,
    /// The function's interrupt condition, whatever masks it.
    intx: bool,
}

/// What a frame saves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FrameState {
    config: Words,
    msix: Option<MsixTable>,
    bdf: Bdf,
    intx: bool,
}

impl Frame {
    /// Out of power-on reset.
    pub fn new(spec: &FrameSpec<'_>) -> Frame {
        let mut config = ConfigSpace::type0(&spec.ids, spec.bars);
        // PCI Express first: Linux walks to it most often (spec §2.5, cost note).
        config.add_exp(EXP_AT, 0, LNKCAP);
        config.add_pm(PM_AT, 0x0003);
        if spec.msi {
            config.add_msi(MSI_AT);
        }
        if let Some(m) = spec.msix {
            config.add_msix(MSIX_AT, m.vectors, m.bar, m.table_off, m.pba_off());
        }
        config.add_aer(AER_AT, false);
        let msix = spec.msix.map(|m| (m, MsixTable::new(usize::from(m.vectors))));
        Frame { config, pin: spec.ids.pin, msix, bdf: Bdf::default(), intx: false }
    }

    /// Its configuration space, for what a function adds or looks up.
    pub fn config(&self) -> &ConfigSpace {
        &self.config
    }

    /// The same, to change.
    pub fn config_mut(&mut self) -> &mut ConfigSpace {
        &mut self.config
    }

    /// Whether the function is in D0: in D3hot it has no memory and sends nothing but PME.
    pub fn in_d0(&self) -> bool {
        self.config.half(PM_AT + 4) & 3 == 0
    }

    /// Requester ID.
    pub fn bdf(&self) -> Bdf {
        self.bdf
    }

    /// A configuration read, over a link that runs at the rate `link`.
    pub fn config_read(&self, link: Option<Rate>, off: u16, w: Width) -> u64 {
        let v = self.config.read_over(EXP_AT, link, off, w);
        // STATUS.3 mirrors the INTx state, whatever INTX_DISABLE says (PCIe §7.5.1.1.4).
        let pending = u64::from(self.intx);
        match off {
            0x06 => v | pending << 3,
            0x04 if w >= Width::B4 => v | pending << 19,
            _ => v,
        }
    }

    /// A configuration write; what it unmasks is sent.
    pub fn config_write<E>(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        bdf: Bdf,
        off: u16,
        w: Width,
        v: u64,
    ) {
        self.bdf = bdf;
        self.config.write(off, w, v, false);
        self.send_unmasked(cx, up);
    }

    /// The BAR that claims an access, with the offset in it; `None` while memory decoding is off or the function sleeps.
    pub fn hit(&self, addr: u64, w: Width) -> Option<(u8, u32)> {
        self.config.bar_hit(addr, w.bytes()).filter(|_| self.in_d0())
    }

    /// A read of MSI-X table or PBA, if that is what is there.
    pub fn msix_read(&self, bar: u8, off: u32, w: Width) -> Option<u64> {
        let (spec, table) = self.msix.as_ref().filter(|m| m.0.bar == bar)?;
        match off {
            o if (spec.table_off..spec.pba_off()).contains(&o) => {
                Some(table.read_table(o - spec.table_off, w))
            }
            o if (spec.pba_off()..spec.pba_off() + spec.pba_bytes()).contains(&o) => {
                Some(table.read_pba(o - spec.pba_off(), w))
            }
            _ => None,
        }
    }

    /// A write to MSI-X table or PBA, if that is what is there; what it unmasks is sent.
    pub fn msix_write<E>(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        (bar, off): (u8, u32),
        w: Width,
        v: u64,
    ) -> bool {
        let Some((spec, table)) = self.msix.as_mut().filter(|m| m.0.bar == bar) else { return false };
        if (spec.table_off..spec.pba_off()).contains(&off) {
            table.write_table(off - spec.table_off, w, v);
            self.send_unmasked(cx, up);
            return true;
        }
        (spec.pba_off()..spec.pba_off() + spec.pba_bytes()).contains(&off)
    }

    fn msix_flags(&self) -> u16 {
        if self.msix.is_some() {
            self.config.half(MSIX_AT + 2)
        } else {
            0
        }
    }

    fn has_msi(&self) -> bool {
        // The first byte of a capability is its ID.
        self.config.word(MSI_AT) as u8 == cfg::id::MSI
    }

    /// Which kind of interrupt is on.
    pub fn irq_mode(&self) -> IrqMode {
        if self.msix_flags() & MSIX_ENABLE != 0 {
            IrqMode::MsiX
        } else if self.has_msi() && MSI.enabled(&self.config) {
            IrqMode::Msi
        } else {
            IrqMode::Intx
        }
    }

    /// MSI messages granted, 1 unless MSI is enabled.
    pub fn msi_granted(&self) -> u32 {
        if self.irq_mode() == IrqMode::Msi {
            MSI.granted(&self.config)
        } else {
            1
        }
    }

    /// Raise MSI `vector`; nothing happens unless it is enabled and granted, masks hold it back.
    pub fn raise_msi<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, vector: u32) {
        if let Some(m) = self.has_msi().then(|| MSI.raise(&mut self.config, vector)).flatten() {
            self.send(cx, up, (vector, m));
        }
    }

    /// Raise MSI-X `vector`; nothing happens unless MSI-X is enabled, masks hold it back.
    pub fn raise_msix<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, vector: u32) {
        let flags = self.msix_flags();
        if flags & MSIX_ENABLE == 0 {
            return;
        }
        if let Some(m) = self.msix.as_mut().and_then(|(_, t)| t.raise(flags, vector)) {
            self.send(cx, up, (vector, m));
        }
    }

    /// Raise `vector` of whichever of MSI and MSI-X is on. The pin is a level: [`Frame::set_intx`].
    pub fn raise<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, vector: u32) {
        match self.irq_mode() {
            IrqMode::MsiX => self.raise_msix(cx, up, vector),
            IrqMode::Msi => self.raise_msi(cx, up, vector % self.msi_granted()),
            IrqMode::Intx => {}
        }
    }

    /// The function's interrupt condition.
    pub fn set_intx(&mut self, asserted: bool) {
        self.intx = asserted;
    }

    /// INTx pins asserted: bit 0 INTA … bit 3 INTD. MSI and MSI-X silence the pin (PCIe §6.1.4).
    pub fn intx(&self) -> u8 {
        let on = self.intx
            && self.pin != 0
            && self.config.command() & cfg::COMMAND_INTX_DISABLE == 0
            && self.irq_mode() == IrqMode::Intx
            && self.in_d0();
        if on {
            1 << ((self.pin - 1) & 3)
        } else {
            0
        }
    }

    /// Memory that enabled BARs claim.
    pub fn claims(&self) -> Vec<(u64, u64)> {
        self.config.claims()
    }

    /// Where MSIs go while MSI is enabled.
    pub fn msi_target(&self) -> Option<u64> {
        self.has_msi().then(|| MSI.target(&self.config)).flatten()
    }

    /// Read host memory.
    pub fn fetch<E>(
        &self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        addr: u64,
        buf: &mut [u8],
    ) -> Completion {
        up.mem_read(cx, self.bdf, self.config.bme(), addr, buf)
    }

    /// Write host memory.
    pub fn store<E>(
        &self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        addr: u64,
        data: &[u8],
    ) -> Completion {
        up.mem_write(cx, self.bdf, self.config.bme(), addr, data)
    }

    fn send<E>(&self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>, (vector, m): (u32, Message)) {
        up.message(cx, Sender { rid: self.bdf, bme: self.config.bme() }, vector, m);
    }

    /// Send what a write to masks or enables has set free.
    fn send_unmasked<E>(&mut self, cx: &mut Cx<'_, E>, up: &mut dyn Upstream<E>) {
        let flags = self.msix_flags();
        let mut ready = if self.has_msi() { MSI.take_unmasked(&mut self.config) } else { Vec::new() };
        if let Some((_, table)) = &mut self.msix {
            ready.extend(table.take_unmasked(flags));
        }
        for m in ready {
            self.send(cx, up, m);
        }
    }

    /// A memory request that no BAR claims: latch the error and report it where that is enabled (PCIe §6.2.3.2.4, §6.2.5).
    pub fn unsupported<E>(
        &mut self,
        cx: &mut Cx<'_, E>,
        up: &mut dyn Upstream<E>,
        posted: bool,
    ) -> Completion {
        if let Some(message) = errors::unsupported(&mut self.config, EXP_AT, AER_AT, posted) {
            up.error(cx, self.bdf, message);
        }
        Completion::UnsupportedRequest
    }

    /// A reset.
    pub fn reset(&mut self, kind: ResetKind) {
        self.config.reset(kind);
        self.intx = false;
        if kind != ResetKind::D3HotToD0 {
            if let Some((_, table)) = &mut self.msix {
                table.reset();
            }
            self.bdf = Bdf::default();
        }
    }

    /// The oracle's items (the names are in `rc_model::Sample`).
    pub fn sample(&self, out: &mut dyn FnMut(&str, u64)) {
        let c = &self.config;
        out("command", c.command().into());
        if self.has_msi() {
            out("msi.enable", MSI.enabled(c).into());
            out("msi.addr", u64::from(c.word(MSI_AT + 4)) | u64::from(c.word(MSI_AT + 8)) << 32);
            out("msi.data", c.half(MSI_AT + 0xc).into());
            out("msi.mask", c.word(MSI_AT + 0x10).into());
            out("msi.pending", c.word(MSI_AT + 0x14).into());
        }
        if let Some((_, table)) = &self.msix {
            out("msix.enable", (self.msix_flags() >> 15).into());
            out("msix.fmask", (self.msix_flags() >> 14 & 1).into());
            out("msix.unmasked", table.unmasked() as u64);
            out("msix.programmed", table.programmed() as u64);
            out("msix.pending", table.pending());
        }
        out("intx", self.intx().into());
    }

    /// The saved form.
    pub fn save(&self) -> FrameState {
        let Frame { config, pin: _, msix, bdf, intx } = self;
        FrameState {
            config: config.save(),
            msix: msix.as_ref().map(|(_, t)| t.clone()),
            bdf: *bdf,
            intx: *intx,
        }
    }

    /// Take a saved form; `what` names the function in errors. Nothing changes if it does not fit.
    pub fn restore(&mut self, what: &'static str, saved: &FrameState) -> Result<(), StateError> {
        let mut f = self.clone();
        f.config.restore(what, &saved.config)?;
        match (&mut f.msix, &saved.msix) {
            (Some((_, table)), Some(state)) => table.restore(state)?,
            (None, None) => {}
            _ => return Err(StateError::Impossible { what }),
        }
        *self = Frame { bdf: saved.bdf, intx: saved.intx, ..f };
        Ok(())
    }
}
