//! DBI: the root port's configuration space and the core's port logic.
//!
//! *Modelled*: a type 1 header with PCI Express, PM, MSI, AER, Secondary PCI Express and L1SS capabilities;
//! DBI_RO_WR_EN; link status, retrain, disable and secondary bus reset; slot status; the port's own INTx.
//! *Not modelled*: DBI2, error detection (AER and PME state only change by what the guest writes), the
//! per-rate banks behind GEN3_RELATED_OFF, power states of the port.
//! *Sources*: spec/dwc-qcom-registers.md §2.4, §2.8.
//!
//! The port's own MSI never reaches the iMSI-RX (spec §6.a): with its MSI enabled the port is silent.

pub mod regs;

use block::RegFile;
use block::ResetKind;
use block::Width;
use pcie::config::regs as pci;
use pcie::config::regs::exp;
use pcie::config::regs::hdr;
use pcie::config::regs::id;
use pcie::config::ConfigSpace;
use pcie::config::Ids;

use crate::soc::Soc;

const LNKCAP: u32 = regs::EXP + exp::LNKCAP;
const LNKCTL: u32 = regs::EXP + exp::LNKCTL;
const LNKSTA: u32 = regs::EXP + exp::LNKSTA;
const SLTCAP: u32 = regs::EXP + exp::SLTCAP;
const SLTCTL: u32 = regs::EXP + exp::SLTCTL;
const SLTSTA: u32 = regs::EXP + 0x1a;
const RTCTL: u32 = regs::EXP + exp::RTCTL;
const RTSTA: u32 = regs::EXP + 0x20;
const LNKCTL2: u32 = regs::EXP + exp::LNKCTL2;
const AER_ROOT_COMMAND: u32 = regs::AER + 0x2c;
const AER_ROOT_STATUS: u32 = regs::AER + 0x30;
const MSI_FLAGS: u32 = regs::MSI + 2;

/// LNKSTA: current link speed and negotiated link width.
const LNKSTA_SPEED_WIDTH: u16 = 0x03ff;
const LNKCTL_LBMIE: u16 = 1 << 10;
const LNKCTL_LABIE: u16 = 1 << 11;
const SLTCTL_CCIE: u16 = 1 << 4;
const SLTCTL_HPIE: u16 = 1 << 5;
const SLTCTL_DLLSCE: u16 = 1 << 12;
const SLTSTA_CC: u16 = 1 << 4;
const SLTSTA_PDS: u16 = 1 << 6;
const SLTSTA_DLLSC: u16 = 1 << 8;
const SLTCAP_NCCS: u32 = 1 << 18;

/// What the registers show of the link.
#[derive(Clone, Copy, Debug)]
pub struct LinkView {
    /// LTSSM state number.
    pub ltssm: u8,
    /// Data link layer active.
    pub up: bool,
    /// In training.
    pub training: bool,
}

/// Speed (1 = 2.5 GT/s …) and width of a port or link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Link speed, as LNKCAP.SLS.
    pub speed: u8,
    /// Lanes.
    pub width: u8,
}

/// The block.
#[derive(Clone, Debug)]
pub struct Dbi {
    config: ConfigSpace,
    port: RegFile,
}

impl Dbi {
    /// The port of `soc` after power-on, with or without a card in the slot.
    pub fn new(soc: &Soc, card_present: bool) -> Self {
        let ids = Ids {
            vendor: regs::VENDOR,
            device: regs::DEVICE,
            class: regs::RESET_CLASS,
            pin: 1,
            ..Ids::default()
        };
        let mut config = ConfigSpace::type1(&ids);
        config.add_cap(regs::EXP, id::EXP, &[pci::EXP, pci::EXP_ROOT, regs::EXP_OWN]);
        config.add_pm(regs::PM, 0xc803);
        config.add_msi(regs::MSI);
        config.add_aer(regs::AER, true);
        config.add_ext_cap(regs::SECPCI, regs::EXT_SECPCI, 1, &[regs::SECPCI_ROWS]);
        config.add_ext_cap(regs::L1SS, id::EXT_L1SS, 1, &[pci::L1SS]);
        let mut port = RegFile::with_scratch(regs::LEN_BYTES, regs::PORT_LOGIC_REGS);
        port.set_reset(regs::VERSION_NUMBER, soc.version);
        if soc.version == 0 {
            port.set_reset(regs::VERSION_TYPE, 0);
        }
        port.reset(ResetKind::PowerOn);
        let mut dbi = Dbi { config, port };
        dbi.show_card(card_present);
        dbi
    }

    fn show_card(&mut self, present: bool) {
        self.config.update_half(SLTSTA, SLTSTA_PDS, if present { SLTSTA_PDS } else { 0 });
    }

    /// A guest read of at most 32 bits.
    pub fn read(&self, link: LinkView, off: u64, w: Width) -> u64 {
        let off = off as u32;
        if off < regs::PORT_LOGIC {
            return self.config.read(off as u16, w);
        }
        let word = match off & !3 {
            regs::DEBUG0 => u32::from(link.ltssm),
            regs::DEBUG1 => {
                let up = if link.up { regs::DEBUG1_LINK_UP } else { 0 };
                up | if link.training { regs::DEBUG1_IN_TRAINING } else { 0 }
            }
            word_off => self.port.word(word_off),
        };
        (u64::from(word) >> ((off & 3) * 8)) & w.ones()
    }

    /// A guest write of at most 32 bits. Returns whether it asked for a retrain or a speed change.
    #[must_use]
    pub fn write(&mut self, off: u64, w: Width, v: u64) -> bool {
        let at = off as u32;
        if at >= regs::PORT_LOGIC {
            self.port.write(off, w, v, false);
            return at & !3 == regs::LINK_WIDTH_SPEED_CONTROL && self.speed_change();
        }
        self.config.write(at as u16, w, v, self.ro_wr_en());
        if at == SLTCTL && self.config.word(SLTCAP) & SLTCAP_NCCS == 0 {
            self.config.update_half(SLTSTA, SLTSTA_CC, SLTSTA_CC);
        }
        self.refresh();
        // RL is in the low byte of LNKCTL, so any write that carries it starts at LNKCTL.
        at == LNKCTL && v as u16 & exp::LNKCTL_RL != 0
    }

    fn refresh(&mut self) {
        let status = if self.intx_pending() { pci::STATUS_INTERRUPT } else { 0 };
        self.config.update_half(hdr::STATUS, pci::STATUS_INTERRUPT, status);
    }

    fn speed_change(&self) -> bool {
        self.port.word(regs::LINK_WIDTH_SPEED_CONTROL) & regs::SPEED_CHANGE != 0
    }

    /// Show the link's state in LNKSTA, with the rate that `partner` and this port agree on.
    pub fn show_link(&mut self, link: LinkView, partner: Rate) {
        let was_up = self.dllla();
        let mut v = if link.training { exp::LNKSTA_LT } else { 0 };
        if link.up {
            let rate = self.negotiate(partner);
            v |= exp::LNKSTA_DLLLA | u16::from(rate.speed) | u16::from(rate.width) << 4;
        }
        let mask = LNKSTA_SPEED_WIDTH | exp::LNKSTA_LT | exp::LNKSTA_DLLLA;
        self.config.update_half(LNKSTA, mask, v);
        if was_up != link.up {
            self.config.update_half(SLTSTA, SLTSTA_DLLSC, SLTSTA_DLLSC);
        }
        if link.up && !link.training {
            self.port.update(regs::LINK_WIDTH_SPEED_CONTROL, regs::SPEED_CHANGE, 0);
        }
        self.refresh();
    }

    /// A retrain that software asked for has ended: latch LBMS (PCIe §7.5.3.8).
    pub fn retrained(&mut self) {
        self.config.update_half(LNKSTA, exp::LNKSTA_LBMS, exp::LNKSTA_LBMS);
        self.refresh();
    }

    fn negotiate(&self, partner: Rate) -> Rate {
        let cap = self.config.word(LNKCAP);
        let target = (self.config.word(LNKCTL2) & 0xf) as u8;
        let speed = partner.speed.min((cap & 0xf) as u8).min(target).max(1);
        Rate { speed, width: partner.width.min((cap >> 4 & 0x3f) as u8).max(1) }
    }

    /// Whether read-only registers are open.
    pub fn ro_wr_en(&self) -> bool {
        self.port.word(regs::MISC_CONTROL_1) & regs::DBI_RO_WR_EN != 0
    }

    /// Whether LNKSTA shows the data link layer as active.
    pub fn dllla(&self) -> bool {
        self.config.half(LNKSTA) & exp::LNKSTA_DLLLA != 0
    }

    /// LNKCTL.LD.
    pub fn link_disabled(&self) -> bool {
        self.lnkctl() & exp::LNKCTL_LD != 0
    }

    /// BRIDGE_CONTROL.SBR.
    pub fn secondary_bus_reset(&self) -> bool {
        self.config.half(hdr::BRIDGE_CONTROL) & pci::BRIDGE_SBR != 0
    }

    /// Whether the bridge forwards requests upstream.
    pub fn bme(&self) -> bool {
        self.config.bme()
    }

    /// Whether the bridge forwards a memory request downstream.
    pub fn forwards_mem(&self, addr: u64) -> bool {
        self.config.forwards_mem(addr)
    }

    /// Secondary bus number.
    pub fn secondary_bus(&self) -> u8 {
        self.config.secondary_bus()
    }

    /// COMMAND.
    pub fn command(&self) -> u16 {
        self.config.command()
    }

    /// RTCTL.
    pub fn rtctl(&self) -> u16 {
        self.config.half(RTCTL)
    }

    /// AER root error command.
    pub fn aer_root_command(&self) -> u32 {
        self.config.word(AER_ROOT_COMMAND)
    }

    /// SLTCTL.
    pub fn sltctl(&self) -> u16 {
        self.config.half(SLTCTL)
    }

    /// LNKCTL.
    pub fn lnkctl(&self) -> u16 {
        self.config.half(LNKCTL)
    }

    /// Whether the port's own MSI is enabled.
    pub fn msi_enable(&self) -> bool {
        self.config.half(MSI_FLAGS) & 1 != 0
    }

    /// Whether some service of the port wants an interrupt, whatever signals it.
    fn intx_pending(&self) -> bool {
        let pme = self.rtctl() & 1 << 3 != 0 && self.config.word(RTSTA) & 1 << 16 != 0;
        let root_status = self.config.word(AER_ROOT_STATUS);
        // Bits 0, 5 and 6 of ROOT_STATUS report what bits 0, 1 and 2 of ROOT_COMMAND enable (PCIe §7.8.4.9).
        let errors = (root_status & 1) | (root_status >> 4 & 0b110);
        let aer = errors & self.aer_root_command() != 0;
        let (ctl, sta) = (self.lnkctl(), self.config.half(LNKSTA));
        let bandwidth = (ctl & LNKCTL_LBMIE != 0 && sta & exp::LNKSTA_LBMS != 0)
            || (ctl & LNKCTL_LABIE != 0 && sta & exp::LNKSTA_LABS != 0);
        let (ctl, sta) = (self.sltctl(), self.config.half(SLTSTA));
        let slot = ctl & SLTCTL_HPIE != 0
            && ((ctl & SLTCTL_CCIE != 0 && sta & SLTSTA_CC != 0)
                || (ctl & SLTCTL_DLLSCE != 0 && sta & SLTSTA_DLLSC != 0));
        pme || aer || bandwidth || slot
    }

    /// INTx pins that the port itself asserts: bit 0 INTA … bit 3 INTD.
    pub fn intx(&self) -> u8 {
        let silent = self.msi_enable() || self.command() & pci::COMMAND_INTX_DISABLE != 0;
        if silent || !self.intx_pending() {
            return 0;
        }
        match self.config.read(0x3d, Width::B1) {
            pin @ 1..=4 => 1 << (pin - 1),
            _ => 0,
        }
    }

    /// A reset of the core.
    pub fn reset(&mut self, kind: ResetKind, card_present: bool) {
        self.config.reset(kind);
        self.port.reset(kind);
        self.show_card(card_present);
    }
}

#[cfg(test)]
#[path = "dbi_test.rs"]
mod tests;
