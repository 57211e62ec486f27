//! DBI: the root port's configuration space and the core's port logic.
//!
//! *Modelled*: a type 1 header with its capabilities, among them AER, DPC, RAS-DES and PTM where the core is new enough;
//! DBI_RO_WR_EN; link status, retrain, disable and secondary bus reset; slot status; error and PME messages; the port's
//! own INTx; the equalisation registers of each rate.
//! *Not modelled*: DBI2, MSI-X of the port, header logs, power states of the port.
//! *Sources*: spec/dwc-qcom-registers.md §2.4, §2.8.
//!
//! The port's own MSI never reaches the iMSI-RX (spec §6.a): with its MSI enabled the port is silent.

pub mod ras_des;
pub mod regs;

use block::Reg;
use block::RegFile;
use block::ResetKind;
use block::SimTime;
use block::StateError;
use block::Width;
use block::Words;
use pcie::config::regs as pci;
use pcie::config::regs::aer;
use pcie::config::regs::dpc;
use pcie::config::regs::exp;
use pcie::config::regs::hdr;
use pcie::config::regs::id;
use pcie::config::ConfigSpace;
use pcie::config::Ids;
use pcie::Bdf;
use pcie::ErrorMessage;
use pcie::Rate;
use serde::Deserialize;
use serde::Serialize;

use crate::soc::Soc;
use ras_des::Count;
use ras_des::RasDes;

const LNKCAP: u32 = regs::EXP + exp::LNKCAP;
const LNKCTL: u32 = regs::EXP + exp::LNKCTL;
const LNKSTA: u32 = regs::EXP + exp::LNKSTA;
const SLTCAP: u32 = regs::EXP + exp::SLTCAP;
const SLTCTL: u32 = regs::EXP + exp::SLTCTL;
const SLTSTA: u32 = regs::EXP + exp::SLTSTA;
const RTCTL: u32 = regs::EXP + exp::RTCTL;
const RTSTA: u32 = regs::EXP + exp::RTSTA;
const LNKCTL2: u32 = regs::EXP + exp::LNKCTL2;
const DEVCTL: u32 = regs::EXP + exp::DEVCTL;
const DEVSTA: u32 = regs::EXP + exp::DEVSTA;
const AER_ROOT_COMMAND: u32 = regs::AER + aer::ROOT_COMMAND;
const AER_ROOT_STATUS: u32 = regs::AER + aer::ROOT_STATUS;
const DPC_CTL: u32 = regs::DPC + dpc::CTL;
const DPC_STATUS: u32 = regs::DPC + dpc::STATUS;
const COUNTER_CTRL: u32 = regs::RAS_DES + ras_des::regs::COUNTER_CTRL;
const TIME_CTRL: u32 = regs::RAS_DES + ras_des::regs::TIME_CTRL;
const MSI_FLAGS: u32 = regs::MSI + 2;

const RTSTA_PME: u32 = 1 << 16;
const RTSTA_PENDING: u32 = 1 << 17;
/// LNKCAP: surprise down errors are reported.
const LNKCAP_SDERC: u32 = 1 << 19;
const DPC_CTL_WORD: u32 = DPC_CTL & !3;
/// DPC_STATUS: why it triggered (PCIe §7.9.15.4).
const DPC_REASON_OWN: u16 = 0;
const DPC_REASON_NON_FATAL: u16 = 1 << 1;
const DPC_REASON_FATAL: u16 = 2 << 1;
const DPC_REASON_SOFTWARE: u16 = 3 << 1 | 1 << 5;

/// What the registers show of the link.
#[derive(Clone, Copy, Debug)]
pub struct LinkView {
    /// The time of the access.
    pub now: SimTime,
    /// LTSSM state number.
    pub ltssm: u8,
    /// Data link layer active.
    pub up: bool,
    /// In training.
    pub training: bool,
}

/// The block's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    config: Words,
    port: Words,
    eq_banks: [[u32; 2]; 4],
    ras_des: Option<RasDes>,
    waiting_pme: Option<Bdf>,
}

/// The block.
#[derive(Clone, Debug)]
pub struct Dbi {
    config: ConfigSpace,
    port: RegFile,
    /// EQ_CONTROL and FB_MODE_DIR_CHANGE of the rates that are not selected; the selected rate's are in `port`.
    eq_banks: [[u32; 2]; 4],
    /// State behind the RAS-DES capability, where the core has one.
    ras_des: Option<RasDes>,
    /// Who sent a PME that waits until software has cleared the one before it (PCIe §7.5.3.14).
    waiting_pme: Option<Bdf>,
}

const EQ_REGS: [u32; 2] = [regs::GEN3_EQ_CONTROL, regs::GEN3_EQ_FB_MODE_DIR_CHANGE];

impl Dbi {
    /// The port of `soc` after power-on, with or without a card in the slot.
    pub fn new(soc: &Soc, card_present: bool) -> Self {
        // What firmware runs it has set up: the OS never writes the class (spec §1.5).
        let firmware = soc.wrapper.is_firmware();
        let ids = Ids {
            vendor: regs::VENDOR,
            device: regs::DEVICE,
            class: if firmware { regs::BRIDGE_CLASS } else { regs::RESET_CLASS },
            pin: 1,
            ..Ids::default()
        };
        let mut config = ConfigSpace::type1(&ids);
        let own: &[&[Reg]] = if soc.version >= regs::VERSION_5_60A {
            &[pci::EXP, pci::EXP_ROOT, regs::EXP_OWN, regs::EXP_16GT]
        } else {
            &[pci::EXP, pci::EXP_ROOT, regs::EXP_OWN]
        };
        config.add_cap(regs::EXP, id::EXP, own);
        config.add_pm(regs::PM, 0xc803);
        config.add_msi(regs::MSI);
        config.add_aer(regs::AER, true);
        config.add_ext_cap(regs::SECPCI, id::EXT_SECPCI, 1, &[regs::SECPCI_ROWS]);
        config.add_ext_cap(regs::L1SS, id::EXT_L1SS, 1, &[pci::L1SS]);
        if soc.version >= regs::VERSION_5_40A {
            config.add_ext_cap(regs::PL_16GT, id::EXT_PL_16GT, 1, &[pci::PL_16GT]);
        }
        let newer = soc.version >= regs::VERSION_5_00A;
        if newer {
            config.add_ext_cap(regs::LTR, id::EXT_LTR, 1, &[pci::LTR]);
            config.add_ext_cap(regs::DPC, id::EXT_DPC, 1, &[pci::DPC]);
            config.add_ext_cap(regs::PTM, id::EXT_PTM, 1, &[pci::PTM]);
            config.add_ext_cap(regs::RAS_DES, id::EXT_VSEC, 1, &[ras_des::regs::ROWS]);
            config.add_ext_cap(regs::PTM_VSEC, id::EXT_VSEC, 1, &[regs::PTM_VSEC_ROWS]);
        }
        let mut port = RegFile::with_scratch(regs::LEN_BYTES, regs::PORT_LOGIC_REGS);
        port.set_reset(regs::VERSION_NUMBER, soc.version);
        if soc.version == 0 {
            port.set_reset(regs::VERSION_TYPE, 0);
        }
        port.reset(ResetKind::PowerOn);
        let ras_des = newer.then(RasDes::default);
        let mut dbi = Dbi { config, port, eq_banks: [[0; 2]; 4], ras_des, waiting_pme: None };
        dbi.show_card(card_present);
        dbi
    }

    fn show_card(&mut self, present: bool) {
        self.config.update_half(SLTSTA, exp::SLTSTA_PDS, if present { exp::SLTSTA_PDS } else { 0 });
    }

    /// A card came or went: latch that presence changed (PCIe §7.5.3.11).
    pub fn card_changed(&mut self, present: bool) {
        self.show_card(present);
        self.config.update_half(SLTSTA, exp::SLTSTA_PDC, exp::SLTSTA_PDC);
        self.refresh();
    }

    /// The attention button is pressed, if the slot has one (PCIe §7.5.3.11).
    pub fn button_pressed(&mut self) {
        if self.config.word(SLTCAP) & exp::SLTCAP_ABP != 0 {
            self.config.update_half(SLTSTA, exp::SLTSTA_ABP, exp::SLTSTA_ABP);
            self.refresh();
        }
    }

    /// A guest read of at most 32 bits.
    pub fn read(&self, link: LinkView, off: u64, w: Width) -> u64 {
        let off = off as u32;
        if off < regs::PORT_LOGIC {
            let live = u64::from(self.live(link, off & !3)) >> ((off & 3) * 8);
            return self.config.read(off as u16, w) | live & w.ones();
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

    /// What the word at `off` of the configuration space shows beyond what is stored.
    fn live(&self, link: LinkView, off: u32) -> u32 {
        use ras_des::regs as ras;
        let Some(counters) = &self.ras_des else { return 0 };
        let report = || counters.report(link.now, self.config.word(TIME_CTRL));
        match off.wrapping_sub(regs::RAS_DES) {
            ras::COUNTER_CTRL => counters.status(self.config.word(COUNTER_CTRL)),
            ras::COUNTER_DATA => counters.data(self.config.word(COUNTER_CTRL)),
            ras::TIME_DATA_LOW => report() as u32,
            ras::TIME_DATA_HIGH => (report() >> 32) as u32,
            // One lane; a link that is up has valid symbols on it.
            ras::SD_STATUS_L1LANE if link.up && self.config.word(off) & 0xf == 0 => {
                ras::DETECT_LANE | ras::RXVALID
            }
            _ => match off.wrapping_sub(regs::PTM_VSEC) {
                regs::PTM_LOCAL_LSB => link.now.0 as u32,
                regs::PTM_LOCAL_MSB => (link.now.0 >> 32) as u32,
                _ => 0,
            },
        }
    }

    /// Port logic beyond storage: the equalisation registers follow the rate that is selected.
    fn write_port_logic(&mut self, off: u64, w: Width, v: u64) {
        let bank =
            |port: &RegFile| (port.word(regs::GEN3_RELATED) >> regs::RATE_SHADOW_SEL_SHIFT & 3) as usize;
        let was = bank(&self.port);
        self.port.write(off, w, v, false);
        let is = bank(&self.port);
        if was != is {
            self.eq_banks[was] = EQ_REGS.map(|r| self.port.word(r));
            for (r, v) in EQ_REGS.into_iter().zip(self.eq_banks[is]) {
                self.port.set_word(r, v);
            }
        }
    }

    /// A guest write of at most 32 bits. Returns whether it asked for a retrain or a speed change.
    #[must_use]
    pub fn write(&mut self, link: LinkView, off: u64, w: Width, v: u64) -> bool {
        let at = off as u32;
        if at >= regs::PORT_LOGIC {
            self.write_port_logic(off, w, v);
            return at & !3 == regs::LINK_WIDTH_SPEED_CONTROL && self.speed_change();
        }
        let old = self.config.word(at);
        self.config.write(at as u16, w, v, self.ro_wr_en());
        self.act(link, at, old, ((v & w.ones()) << ((at & 3) * 8)) as u32);
        if at & !1 == SLTCTL && self.config.word(SLTCAP) & exp::SLTCAP_NCCS == 0 {
            self.config.update_half(SLTSTA, exp::SLTSTA_CC, exp::SLTSTA_CC);
        }
        self.refresh();
        // RL is in the low byte of LNKCTL, so any write that carries it starts at LNKCTL.
        at == LNKCTL && v as u16 & exp::LNKCTL_RL != 0
    }

    /// What a write does beyond its masks. The word at `at` was `old`; `bits` is what was written, in its lanes.
    fn act(&mut self, link: LinkView, at: u32, old: u32, bits: u32) {
        let word = self.config.word(at);
        match (at & !3, &mut self.ras_des) {
            (COUNTER_CTRL, Some(counters)) => counters.command(word, bits),
            (TIME_CTRL, Some(counters)) => {
                counters.time_control(link.now, old, word, link.up && !link.training);
            }
            // DPC_CTL is the upper half of its word.
            (DPC_CTL_WORD, Some(_)) if (bits >> 16) as u16 & pci::DPC_SW_TRIGGER != 0 => {
                self.contain(DPC_REASON_SOFTWARE, Bdf::default());
            }
            (RTSTA, _) if word & RTSTA_PME == 0 => {
                self.config.set_word(RTSTA, 0);
                if let Some(rid) = self.waiting_pme.take() {
                    self.pme_message(rid);
                }
            }
            _ => {}
        }
    }

    /// One more of an event that RAS-DES may count.
    pub fn count(&mut self, what: Count) {
        if let Some(counters) = &mut self.ras_des {
            counters.count(what);
        }
    }

    fn rid(&self) -> Bdf {
        Bdf::new(self.config.word(hdr::PRIMARY_BUS) as u8, 0, 0)
    }

    /// A PM_PME message came from `rid` (PCIe §6.1.6, §7.5.3.14). One more can wait; others are merged into it.
    pub fn pme_message(&mut self, rid: Bdf) {
        let status = self.config.word(RTSTA);
        if status & RTSTA_PME == 0 {
            self.config.set_word(RTSTA, RTSTA_PME | u32::from(rid.0));
        } else {
            self.waiting_pme.get_or_insert(rid);
            self.config.set_word(RTSTA, status | RTSTA_PENDING);
        }
        self.refresh();
    }

    /// An error message came from below (PCIe §6.2.6): it is forwarded if BRIDGE_CONTROL says so.
    pub fn error_message(&mut self, rid: Bdf, error: ErrorMessage) {
        self.count(Count::RxMessage);
        if self.config.half(hdr::BRIDGE_CONTROL) & pci::BRIDGE_SERR != 0 {
            let reason = if error == ErrorMessage::Fatal { DPC_REASON_FATAL } else { DPC_REASON_NON_FATAL };
            if self.dpc_takes(error) {
                self.contain(reason, rid);
            } else {
                self.root_error(rid, error);
            }
        }
        self.refresh();
    }

    /// The port itself saw an uncorrectable error, a bit of UNCOR_STATUS (PCIe §6.2.5). A masked one is only latched.
    pub fn uncorrectable(&mut self, bit: u32) {
        let word = |off| self.config.word(regs::AER + off);
        let (status, masked) = (word(aer::UNCOR_STATUS), word(aer::UNCOR_MASK) & bit != 0);
        let fatal = word(aer::UNCOR_SEVERITY) & bit != 0;
        let (error, detected, reporting) = if fatal {
            (ErrorMessage::Fatal, exp::DEVSTA_FED, exp::DEVCTL_FERE)
        } else {
            (ErrorMessage::NonFatal, exp::DEVSTA_NFED, exp::DEVCTL_NFERE)
        };
        if status & !word(aer::UNCOR_MASK) == 0 && !masked {
            let cap = word(aer::CAP) & !0x1f | bit.trailing_zeros();
            self.config.set_word(regs::AER + aer::CAP, cap);
        }
        self.config.set_word(regs::AER + aer::UNCOR_STATUS, status | bit);
        self.config.update_half(DEVSTA, detected, detected);
        if !masked {
            let reports =
                self.config.half(DEVCTL) & reporting != 0 || self.command() & pci::COMMAND_SERR != 0;
            if self.dpc_takes(error) {
                self.contain(DPC_REASON_OWN, Bdf::default());
            } else if reports {
                self.root_error(self.rid(), error);
            }
        }
        self.refresh();
    }

    /// The port itself saw a correctable error, a bit of COR_STATUS.
    fn correctable(&mut self, bit: u32) {
        let status = self.config.word(regs::AER + aer::COR_STATUS);
        self.config.set_word(regs::AER + aer::COR_STATUS, status | bit);
        self.config.update_half(DEVSTA, exp::DEVSTA_CED, exp::DEVSTA_CED);
        let masked = self.config.word(regs::AER + aer::COR_MASK) & bit != 0;
        if !masked && self.config.half(DEVCTL) & exp::DEVCTL_CERE != 0 {
            self.root_error(self.rid(), ErrorMessage::Correctable);
        }
        self.refresh();
    }

    /// An error message reached the root: latch it and its source (PCIe §7.8.4.10, §7.8.4.11).
    fn root_error(&mut self, rid: Bdf, error: ErrorMessage) {
        let status = self.config.word(AER_ROOT_STATUS);
        let (first, again, shift) =
            if error == ErrorMessage::Correctable { (1, 1 << 1, 0) } else { (1 << 2, 1 << 3, 16) };
        let mut latched = if status & first == 0 { first } else { again };
        if status & first == 0 {
            let source = self.config.word(regs::AER + aer::ERROR_SOURCE) & !(0xffff << shift);
            self.config.set_word(regs::AER + aer::ERROR_SOURCE, source | u32::from(rid.0) << shift);
            if error == ErrorMessage::Fatal {
                latched |= 1 << 4;
            }
        }
        latched |= match error {
            ErrorMessage::Correctable => 0,
            ErrorMessage::NonFatal => 1 << 5,
            ErrorMessage::Fatal => 1 << 6,
        };
        self.config.set_word(AER_ROOT_STATUS, status | latched);
    }

    /// Whether DPC takes an error before AER reports it (PCIe §6.2.10).
    fn dpc_takes(&self, error: ErrorMessage) -> bool {
        let enabled = self.config.half(DPC_CTL) & pci::DPC_TRIGGER_ENABLE;
        match error {
            ErrorMessage::Correctable => false,
            ErrorMessage::NonFatal => enabled == 2,
            ErrorMessage::Fatal => matches!(enabled, 1 | 2),
        }
    }

    /// DPC triggers: the link is held disabled until software clears the status. A second trigger changes nothing.
    fn contain(&mut self, reason: u16, source: Bdf) {
        if self.contained() {
            return;
        }
        self.config.update_half(DPC_STATUS, 0x7f, pci::DPC_TRIGGERED | pci::DPC_INTERRUPT | reason);
        self.config.update_half(regs::DPC + dpc::SOURCE_ID, 0xffff, source.0);
    }

    fn contained(&self) -> bool {
        self.config.half(DPC_STATUS) & pci::DPC_TRIGGERED != 0
    }

    /// The link went down although nobody asked for it (PCIe §3.2.1).
    pub fn surprise_down(&mut self) {
        if self.config.word(LNKCAP) & LNKCAP_SDERC != 0 {
            self.uncorrectable(aer::SURPRISE_DOWN);
        }
    }

    /// A request got no completion in time, if timeouts are not disabled.
    pub fn completion_timeout(&mut self) {
        self.count(Count::CompletionTimeout);
        if self.config.half(regs::EXP + exp::DEVCTL2) & exp::DEVCTL2_TIMEOUT_DISABLE == 0 {
            self.uncorrectable(aer::COMPLETION_TIMEOUT);
        }
    }

    /// A completion said unsupported request: received master abort (PCIe §7.5.1.3.7).
    pub fn received_unsupported(&mut self) {
        self.count(Count::UnsupportedRequest);
        self.config.update_half(hdr::SECONDARY_STATUS, 1 << 13, 1 << 13);
    }

    /// A TLP arrived. Returns nothing: a bad one is sent again by its sender, and arrives.
    pub fn received_tlp(&mut self) {
        use ras_des::regs as ras;
        let at = |off| regs::RAS_DES + off;
        let (enable, injection) =
            (self.config.word(at(ras::ERR_INJ_ENABLE)), self.config.word(at(ras::ERR_INJ0)));
        let left = injection & ras::ERR_INJ_COUNT;
        if enable & 1 == 0 || injection & ras::ERR_INJ0_TYPE != ras::ERR_INJ0_RX_LCRC || left == 0 {
            return;
        }
        self.config.set_word(at(ras::ERR_INJ0), injection - 1);
        if left == 1 {
            self.config.set_word(at(ras::ERR_INJ_ENABLE), enable & !1);
        }
        self.count(Count::BadTlp);
        self.correctable(aer::BAD_TLP);
    }

    /// What a read of `w` at `reg` that was answered with RRS returns (PCIe §2.3.2; spec §2.4: 0x8d0).
    pub fn rrs_data(&self, reg: u16, w: Width) -> u64 {
        let visible = self.rtctl() & exp::RTCTL_RRS_SVE != 0;
        let all_ones = self.port.word(regs::AMBA_ERROR_RESPONSE) >> 3 & 3 == 1;
        if reg == 0 && w >= Width::B2 && visible && !all_ones {
            0xffff_0001 & w.ones()
        } else {
            w.ones()
        }
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
            v |= exp::LNKSTA_DLLLA | rate.lnksta();
        }
        let mask = Rate::LNKSTA | exp::LNKSTA_LT | exp::LNKSTA_DLLLA;
        let rate_was = self.config.half(LNKSTA) & Rate::LNKSTA;
        self.config.update_half(LNKSTA, mask, v);
        if was_up && link.up {
            let changed = rate_was ^ v;
            if changed & 0xf != 0 {
                self.count(Count::SpeedChange);
            }
            if changed & 0x3f0 != 0 {
                self.count(Count::WidthChange);
            }
        }
        if let Some(counters) = &mut self.ras_des {
            counters.link_changed(link.now, link.up && !link.training);
        }
        if was_up != link.up {
            self.config.update_half(SLTSTA, exp::SLTSTA_DLLSC, exp::SLTSTA_DLLSC);
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

    /// The link changed its speed or width by itself: latch LABS (PCIe §7.5.3.8).
    pub fn rate_changed(&mut self) {
        self.config.update_half(LNKSTA, exp::LNKSTA_LABS, exp::LNKSTA_LABS);
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

    /// Whether the link is held disabled: by LNKCTL.LD or by DPC.
    pub fn link_disabled(&self) -> bool {
        self.lnkctl() & exp::LNKCTL_LD != 0 || self.contained()
    }

    /// The rate that LNKSTA shows.
    pub fn rate(&self) -> Rate {
        Rate::of_lnksta(self.config.half(LNKSTA))
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

    /// Whether a configuration request for `bus` goes out and arrives: type 0 on the bus below the port, type 1 for one further
    /// down (PCIe §7.3.3). INFERRED: the port does not turn one into the other, an outbound region says which it is.
    pub fn forwards_config(&self, bus: u8, type1: bool) -> bool {
        let (secondary, subordinate) = (self.config.secondary_bus(), self.config.subordinate_bus());
        if type1 {
            secondary < bus && bus <= subordinate
        } else {
            bus == secondary
        }
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
        let pme = self.rtctl() & 1 << 3 != 0 && self.config.word(RTSTA) & RTSTA_PME != 0;
        let root_status = self.config.word(AER_ROOT_STATUS);
        // Bits 0, 5 and 6 of ROOT_STATUS report what bits 0, 1 and 2 of ROOT_COMMAND enable (PCIe §7.8.4.9).
        let errors = (root_status & 1) | (root_status >> 4 & 0b110);
        let aer = errors & self.aer_root_command() != 0;
        let (ctl, sta) = (self.lnkctl(), self.config.half(LNKSTA));
        let bandwidth = (ctl & exp::LNKCTL_LBMIE != 0 && sta & exp::LNKSTA_LBMS != 0)
            || (ctl & exp::LNKCTL_LABIE != 0 && sta & exp::LNKSTA_LABS != 0);
        let (ctl, sta) = (self.sltctl(), self.config.half(SLTSTA));
        // The low events have their enables at the same bits.
        let events = exp::SLTSTA_ABP | exp::SLTSTA_PDC | exp::SLTSTA_CC;
        let slot = ctl & exp::SLTCTL_HPIE != 0
            && (ctl & sta & events != 0 || (ctl & exp::SLTCTL_DLLSCE != 0 && sta & exp::SLTSTA_DLLSC != 0));
        let (ctl, sta) = (self.config.half(DPC_CTL), self.config.half(DPC_STATUS));
        let contained = ctl & pci::DPC_INT_ENABLE != 0 && sta & pci::DPC_INTERRUPT != 0;
        pme || aer || bandwidth || slot || contained
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

    /// The block's state.
    pub fn save(&self) -> State {
        let Dbi { config, port, eq_banks, ras_des, waiting_pme } = self;
        State {
            config: config.save(),
            port: port.save(),
            eq_banks: *eq_banks,
            ras_des: ras_des.clone(),
            waiting_pme: *waiting_pme,
        }
    }

    /// Take a saved state. What it says after an error is unspecified.
    pub fn restore(&mut self, saved: &State) -> Result<(), StateError> {
        let State { config, port, eq_banks, ras_des, waiting_pme } = saved;
        self.config.restore("root port", config)?;
        self.port.restore("port logic", port)?;
        match (&mut self.ras_des, ras_des) {
            (Some(own), Some(saved)) => own.restore(saved)?,
            (None, None) => {}
            _ => return Err(StateError::Impossible { what: "ras-des" }),
        }
        self.eq_banks = *eq_banks;
        self.waiting_pme = *waiting_pme;
        Ok(())
    }

    /// A reset of the core.
    pub fn reset(&mut self, kind: ResetKind, card_present: bool) {
        self.config.reset(kind);
        self.port.reset(kind);
        self.eq_banks = [[0; 2]; 4];
        self.ras_des = self.ras_des.as_ref().map(|_| RasDes::default());
        self.waiting_pme = None;
        self.show_card(card_present);
    }
}

#[cfg(test)]
#[path = "dbi_test.rs"]
mod tests;
