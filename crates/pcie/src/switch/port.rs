//! Ports of a switch: what both kinds have, and a downstream port's link and slot.
//!
//! A port changes its registers and says what follows from it: a reset for the card, a message for the root. Whoever
//! holds the port passes them on.

use block::ResetKind;
use block::SimTime;
use block::StateError;
use block::Width;
use block::Words;
use serde::Deserialize;
use serde::Serialize;

use crate::config::regs as cfg;
use crate::config::regs::exp;
use crate::config::regs::hdr;
use crate::config::Ids;
use crate::errors;
use crate::Bdf;
use crate::ConfigSpace;
use crate::ErrorMessage;
use crate::FunctionState;
use crate::LinkFailure;
use crate::Message;
use crate::Msi;
use crate::Rate;

/// Vendor ID: Texas Instruments.
pub const VENDOR: u16 = 0x104c;
/// Device ID of the upstream port: XIO3130. No quirk of Linux 6.1, 6.12 or 7.3 knows it or its vendor as a whole
/// (drivers/pci/quirks.c: of TI's bridges only the XIO2000A, 8231, is named).
pub const UPSTREAM_DEVICE: u16 = 0x8232;
/// Device ID of a downstream port: XIO3130; as above.
pub const DOWNSTREAM_DEVICE: u16 = 0x8233;
/// Class: PCI bridge.
const CLASS: u32 = 0x06_0400;

/// Power management capability. The offsets are those of [`crate::frame`].
const PM_AT: u32 = 0x40;
/// MSI capability of a downstream port.
const MSI_AT: u32 = 0x50;
/// PCI Express capability.
const EXP_AT: u32 = 0x70;
/// AER extended capability.
const AER_AT: u32 = 0x100;
const MSI: Msi = Msi { at: MSI_AT };
const MSI_MASK: u32 = MSI_AT + 0x10;
const MSI_PENDING: u32 = MSI_AT + 0x14;
const LNKCTL: u32 = EXP_AT + exp::LNKCTL;
const LNKSTA: u32 = EXP_AT + exp::LNKSTA;
const SLTCTL: u32 = EXP_AT + exp::SLTCTL;
const SLTSTA: u32 = EXP_AT + exp::SLTSTA;
const PMCSR: u32 = PM_AT + 4;
const PMCSR_PME_EN: u16 = 1 << 8;
const PMCSR_PME_STATUS: u16 = 1 << 15;
/// PMC: version 3, PME from D0, D3hot and D3cold.
const PMC_WAKES: u16 = 0xc803;

/// LNKCAP: 8 GT/s, x1, ASPM L1, ASPM optionality.
const UPSTREAM_LNKCAP: u32 = 0x0040_0813;
/// The same with DLLLARC and LBNC; the port number is its own. SDERC is clear: where cards may go without notice, a link that goes
/// down is no error (PCIe §3.2.1).
const DOWNSTREAM_LNKCAP: u32 = 0x0070_0813;
/// The most that a link below can do: 8 GT/s, x1.
const RATE: Rate = Rate { speed: 3, width: 1 };
/// STATUS and SECONDARY_STATUS: an error message that is not ERR_COR was sent, or came.
const SYSTEM_ERROR: u16 = 1 << 14;
/// Time in Recovery for a retrain. INFERRED, as for the root port's link: short enough for Linux, long enough to be seen.
const RECOVERY_NS: u64 = 100_000;

const UPSTREAM: &str = "switch-upstream-port";
const DOWNSTREAM: &str = "switch-downstream-port";

/// What both kinds of port have: a bridge between the bus above and the bus below.
#[derive(Clone, Debug)]
pub struct Bridge {
    config: ConfigSpace,
    /// Captured from configuration writes (PCIe §2.2.6.2).
    bdf: Bdf,
}

/// What a bridge saves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BridgeState {
    config: Words,
    bdf: Bdf,
}

impl Bridge {
    /// An upstream port out of power-on reset. It has no interrupts: nothing in it raises one.
    pub fn upstream() -> Bridge {
        Bridge::new(UPSTREAM_DEVICE, 5, UPSTREAM_LNKCAP, 0)
    }

    fn new(device: u16, port_type: u8, lnkcap: u32, pin: u8) -> Bridge {
        let ids = Ids { vendor: VENDOR, device, class: CLASS, revision: 1, pin, ..Ids::default() };
        let mut config = ConfigSpace::type1(&ids);
        config.add_exp(EXP_AT, port_type, lnkcap);
        // A port with a slot can wake the system from D3hot (PCIe §6.7.3.4).
        config.add_pm(PM_AT, if port_type == 6 { PMC_WAKES } else { 0x0003 });
        config.add_aer(AER_AT, false);
        Bridge { config, bdf: Bdf::default() }
    }

    /// A configuration read; an upstream port is read over a link that runs at the rate `above`. LNKSTA of a downstream port is
    /// that of the link below it, and in its registers.
    pub fn read(&self, above: Option<Rate>, off: u16, w: Width) -> u64 {
        self.config.read_over(EXP_AT, above, off, w)
    }

    /// A configuration write, addressed to `bdf`.
    pub fn write(&mut self, bdf: Bdf, off: u16, w: Width, v: u64) {
        self.bdf = bdf;
        self.config.write(off, w, v, false);
    }

    /// Requester ID.
    pub fn bdf(&self) -> Bdf {
        self.bdf
    }

    /// COMMAND.
    pub fn command(&self) -> u16 {
        self.config.command()
    }

    /// Whether the port is in D0. In D3hot it forwards nothing and sends nothing (PCIe §5.3.1.4).
    pub fn in_d0(&self) -> bool {
        self.config.half(PMCSR) & 3 == 0
    }

    /// Whether it sends memory requests to the bus above: its own, and those from below (PCIe §7.5.1.1.3).
    pub fn masters(&self) -> bool {
        self.config.bme() && self.in_d0()
    }

    /// Whether it forwards a memory request to the bus below.
    pub fn forwards_mem(&self, addr: u64) -> bool {
        self.in_d0() && self.config.forwards_mem(addr)
    }

    /// Whether `bus` is below the port.
    pub fn has_below(&self, bus: u8) -> bool {
        self.in_d0() && self.config.secondary_bus() <= bus && bus <= self.config.subordinate_bus()
    }

    /// Number of the bus right below.
    pub fn secondary_bus(&self) -> u8 {
        self.config.secondary_bus()
    }

    /// BRIDGE_CONTROL.SBR.
    pub fn secondary_bus_reset(&self) -> bool {
        self.config.half(hdr::BRIDGE_CONTROL) & cfg::BRIDGE_SBR != 0
    }

    /// An error message comes from below. Whether it is forwarded: BRIDGE_CONTROL lets it in; COMMAND.SERR, for what is not
    /// ERR_COR, or the message's bit of DEVCTL lets it out (PCIe §7.5.1.1.3, §7.5.1.3.13; INFERRED for DEVCTL, §6.2.6).
    pub fn forwards_error(&mut self, error: ErrorMessage) -> bool {
        let (enable, serious) = match error {
            ErrorMessage::Correctable => (exp::DEVCTL_CERE, false),
            ErrorMessage::NonFatal => (exp::DEVCTL_NFERE, true),
            ErrorMessage::Fatal => (exp::DEVCTL_FERE, true),
        };
        if serious {
            self.config.update_half(hdr::SECONDARY_STATUS, SYSTEM_ERROR, SYSTEM_ERROR);
        }
        if self.config.half(hdr::BRIDGE_CONTROL) & cfg::BRIDGE_SERR == 0 {
            return false;
        }
        let serr = serious && self.command() & cfg::COMMAND_SERR != 0;
        if serr {
            self.config.update_half(hdr::STATUS, SYSTEM_ERROR, SYSTEM_ERROR);
        }
        serr || self.config.half(EXP_AT + exp::DEVCTL) & enable != 0
    }

    /// A request that nobody here takes: latch the error. What is to be sent up, where that is enabled.
    pub fn unsupported(&mut self, posted: bool) -> Option<ErrorMessage> {
        errors::unsupported(&mut self.config, EXP_AT, AER_AT, posted)
    }

    /// A reset of the port.
    pub fn reset(&mut self, kind: ResetKind) {
        self.config.reset(kind);
        self.bdf = Bdf::default();
    }

    fn state(&self) -> BridgeState {
        let Bridge { config, bdf } = self;
        BridgeState { config: config.save(), bdf: *bdf }
    }

    fn take(&mut self, what: &'static str, saved: &BridgeState) -> Result<(), StateError> {
        let BridgeState { config, bdf } = saved;
        self.config.restore(what, config)?;
        self.bdf = *bdf;
        Ok(())
    }

    /// The saved form of an upstream port.
    pub fn save(&self) -> FunctionState {
        FunctionState::new(UPSTREAM, &self.state())
    }

    /// Take the saved form of an upstream port.
    pub fn restore(&mut self, saved: &FunctionState) -> Result<(), StateError> {
        self.take(UPSTREAM, &saved.data(UPSTREAM)?)
    }
}

/// The link below a downstream port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Link {
    /// Nobody is there, or something holds it.
    Down,
    /// On the way to L0.
    Training { until: SimTime },
    /// L0.
    Up,
    /// Retraining, and active all the while.
    Recovery { until: SimTime },
}

/// What a slot is equipped with.
#[derive(Clone, Copy, Debug)]
pub struct SlotKind {
    /// Attention button, with attention and power indicators.
    pub attention_button: bool,
    /// Power controller.
    pub power_control: bool,
    /// Whether completed commands are told.
    pub command_completed: bool,
    /// Physical slot number.
    pub number: u16,
}

impl SlotKind {
    fn sltcap(self) -> u32 {
        let only = |yes, bits| if yes { bits } else { 0 };
        exp::SLTCAP_HPC
            | exp::SLTCAP_HPS
            | only(self.attention_button, exp::SLTCAP_ABP | exp::SLTCAP_AIP | exp::SLTCAP_PIP)
            | only(self.power_control, exp::SLTCAP_PCP)
            | only(!self.command_completed, exp::SLTCAP_NCCS)
            | u32::from(self.number & 0x1fff) << exp::SLTCAP_PSN_SHIFT
    }

    /// Bits of SLTCTL that the slot has: the enables, and controls of what is there. The interlock is not.
    fn sltctl(self) -> u16 {
        let only = |yes, bits| if yes { bits } else { 0 };
        0x103f
            | only(self.attention_button, exp::SLTCTL_AIC | exp::SLTCTL_PIC)
            | only(self.power_control, exp::SLTCTL_PCC)
    }
}

/// A downstream port with its slot.
#[derive(Clone, Debug)]
pub struct Downstream {
    bridge: Bridge,
    kind: SlotKind,
    train_ns: u64,
    /// A card is in the slot.
    present: bool,
    /// The card has power.
    powered: bool,
    link: Link,
    /// The card has made its link fail, or is gone: the port has to be settled.
    failed: Option<LinkFailure>,
    /// PM_PME is to be sent.
    waking: bool,
    /// Conditions that were true the last time: a message goes out when one becomes true.
    told: Told,
}

/// What a port sends its message for, as far as MSI is on and not masked: hot-plug events (PCIe §6.7.3.4) and link bandwidth
/// (§7.5.3.8) each for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Told {
    hot_plug: bool,
    bandwidth: bool,
    /// By PM_PME, while the port sleeps.
    wake: bool,
}

/// What a downstream port saves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct DownstreamState {
    bridge: BridgeState,
    present: bool,
    powered: bool,
    link: Link,
    told: Told,
}

impl Downstream {
    /// Port `number` out of power-on reset at time 0, with or without a card in the slot.
    pub fn new(number: u8, kind: SlotKind, train_ns: u64, present: bool) -> Downstream {
        let lnkcap = DOWNSTREAM_LNKCAP | u32::from(number) << 24;
        let mut bridge = Bridge::new(DOWNSTREAM_DEVICE, 6, lnkcap, 1);
        bridge.config.add_slot(EXP_AT, kind.sltcap());
        bridge.config.add_msi_single(MSI_AT);
        let mut port = Downstream {
            bridge,
            kind,
            train_ns,
            present,
            powered: present,
            link: Link::Down,
            failed: None,
            waking: false,
            told: Told::default(),
        };
        port.show_presence();
        let _ = port.settle(SimTime::ZERO, false);
        port
    }

    /// What it has in common with the upstream port.
    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// The same, to change.
    pub fn bridge_mut(&mut self) -> &mut Bridge {
        &mut self.bridge
    }

    fn half(&self, off: u32) -> u16 {
        self.bridge.config.half(off)
    }

    fn latch(&mut self, off: u32, bits: u16) {
        self.bridge.config.update_half(off, bits, bits);
    }

    /// Whether the data link layer is active.
    pub fn link_up(&self) -> bool {
        matches!(self.link, Link::Up | Link::Recovery { .. })
    }

    /// At which rate the link runs, while it is up.
    pub fn link_rate(&self) -> Option<Rate> {
        self.link_up().then(|| Rate::of_lnksta(self.half(LNKSTA)))
    }

    /// Whether the card has power.
    pub fn powered(&self) -> bool {
        self.powered
    }

    /// Whether requests and messages pass from and to the card.
    pub fn passes(&self) -> bool {
        self.link_up() && self.bridge.in_d0()
    }

    /// When [`Downstream::tick`] wants to run.
    pub fn next_deadline(&self) -> Option<SimTime> {
        match self.link {
            Link::Training { until } | Link::Recovery { until } => Some(until),
            Link::Down | Link::Up => None,
        }
    }

    /// A configuration write, as far as the registers go; the caller settles the port.
    pub fn write(&mut self, now: SimTime, bdf: Bdf, off: u16, w: Width, v: u64) {
        self.bridge.write(bdf, off, w, v);
        let at = u32::from(off);
        if at & !1 == SLTCTL {
            self.bridge.config.update_half(SLTCTL, !self.kind.sltctl(), 0);
            if self.kind.command_completed {
                // INFERRED: every write is a command, and is done at once.
                self.latch(SLTSTA, exp::SLTSTA_CC);
            }
        }
        // RL is in the low byte of LNKCTL, so any write that carries it starts there.
        if at == LNKCTL && v as u16 & exp::LNKCTL_RL != 0 && self.link == Link::Up {
            self.enter(Link::Recovery { until: now.after_ns(RECOVERY_NS) });
        }
    }

    /// The card is pulled; the caller settles the port.
    pub fn pull(&mut self) {
        self.set_present(false);
    }

    /// The link fails by itself; [`Downstream::failed`] until the port is settled.
    pub fn fail(&mut self, how: LinkFailure) {
        self.failed = Some(how);
    }

    /// Whether the link has failed and nobody has settled the port since.
    pub fn failed(&self) -> bool {
        self.failed.is_some()
    }

    /// The card is put back; the caller settles the port.
    pub fn insert(&mut self) {
        self.set_present(true);
    }

    fn set_present(&mut self, present: bool) {
        if self.present != present {
            self.present = present;
            self.show_presence();
            self.latch(SLTSTA, exp::SLTSTA_PDC);
        }
    }

    fn show_presence(&mut self) {
        let pds = if self.present { exp::SLTSTA_PDS } else { 0 };
        self.bridge.config.update_half(SLTSTA, exp::SLTSTA_PDS, pds);
    }

    /// The attention button is pressed, if there is one.
    pub fn press(&mut self) {
        if self.kind.attention_button {
            self.latch(SLTSTA, exp::SLTSTA_ABP);
        }
    }

    fn power_is_on(&self) -> bool {
        self.present && self.half(SLTCTL) & exp::SLTCTL_PCC == 0
    }

    /// Let power and link follow the registers and the slot; `held`: the switch holds its downstream ports in reset. What reaches
    /// the card: power that comes or goes, or the end of its link.
    #[must_use]
    pub fn settle(&mut self, now: SimTime, held: bool) -> Option<ResetKind> {
        let (was_powered, was_up) = (self.powered, self.link_up());
        match self.failed.take() {
            Some(LinkFailure::Vanish) => self.pull(),
            Some(LinkFailure::Flap) if was_up => self.enter(Link::Down),
            Some(LinkFailure::Flap) | None => {}
        }
        self.powered = self.power_is_on();
        let reset = held || self.bridge.secondary_bus_reset();
        let disabled = self.half(LNKCTL) & exp::LNKCTL_LD != 0;
        match (self.powered && !reset && !disabled, self.link) {
            (true, Link::Down) => self.enter(Link::Training { until: now.after_ns(self.train_ns) }),
            (false, Link::Training { .. } | Link::Up | Link::Recovery { .. }) => self.enter(Link::Down),
            _ => {}
        }
        if was_powered != self.powered {
            Some(ResetKind::PowerOn)
        } else if was_up && !self.link_up() {
            Some(if reset { ResetKind::HotReset } else { ResetKind::LinkDown })
        } else {
            None
        }
    }

    /// Take the link's step that is due at `now`.
    pub fn tick(&mut self, now: SimTime) {
        if self.next_deadline().is_none_or(|d| d > now) {
            return;
        }
        let retrained = self.link_up();
        self.enter(Link::Up);
        if retrained {
            self.latch(LNKSTA, exp::LNKSTA_LBMS);
        }
    }

    /// The link changes: show it, and latch that it became active or ceased to be.
    fn enter(&mut self, link: Link) {
        let was_up = self.link_up();
        self.link = link;
        let mut shown = 0;
        if self.link_up() {
            let target = (self.half(EXP_AT + exp::LNKCTL2) & 0xf) as u8;
            let rate = Rate { speed: RATE.speed.min(target.max(1)), ..RATE };
            shown |= exp::LNKSTA_DLLLA | rate.lnksta();
        }
        if self.next_deadline().is_some() {
            shown |= exp::LNKSTA_LT;
        }
        let mask = Rate::LNKSTA | exp::LNKSTA_DLLLA | exp::LNKSTA_LT;
        self.bridge.config.update_half(LNKSTA, mask, shown);
        if was_up != self.link_up() {
            self.latch(SLTSTA, exp::SLTSTA_DLLSC);
        }
    }

    /// Whether an event that is enabled has happened.
    fn has_event(&self) -> bool {
        let (ctl, sta) = (self.half(SLTCTL), self.half(SLTSTA));
        let link = ctl & exp::SLTCTL_DLLSCE != 0 && sta & exp::SLTSTA_DLLSC != 0;
        ctl & sta & 0x1f != 0 || link
    }

    /// Whether hot-plug events want an interrupt, whatever signals it.
    fn hot_plug(&self) -> bool {
        self.half(SLTCTL) & exp::SLTCTL_HPIE != 0 && self.has_event()
    }

    /// Whether the link's bandwidth wants one.
    fn bandwidth(&self) -> bool {
        self.half(LNKCTL) & exp::LNKCTL_LBMIE != 0 && self.half(LNKSTA) & exp::LNKSTA_LBMS != 0
    }

    /// INTx pins that the port itself asserts.
    pub fn intx(&self) -> u8 {
        let silent = MSI.enabled(&self.bridge.config)
            || self.bridge.command() & cfg::COMMAND_INTX_DISABLE != 0
            || !self.bridge.in_d0();
        u8::from(!silent && (self.hot_plug() || self.bandwidth()))
    }

    /// After any change: show the interrupt condition in the registers. The message that goes out now, if one does.
    #[must_use]
    pub fn refresh(&mut self) -> Option<Message> {
        let (hot_plug, bandwidth) = (self.hot_plug(), self.bandwidth());
        let wanted = hot_plug || bandwidth;
        let config = &mut self.bridge.config;
        let status = if wanted { cfg::STATUS_INTERRUPT } else { 0 };
        config.update_half(hdr::STATUS, cfg::STATUS_INTERRUPT, status);
        let (enabled, masked) = (MSI.enabled(config), config.word(MSI_MASK) & 1 != 0);
        config.set_word(MSI_PENDING, u32::from(wanted && enabled && masked));
        let live = enabled && !masked && self.bridge.in_d0();
        let was = self.told;
        let pme_en = self.half(PMCSR) & PMCSR_PME_EN != 0;
        // HPIE is about interrupts only: Linux clears it when it puts the port to sleep (pciehp_runtime_suspend()).
        let wake = self.has_event() && pme_en && !self.bridge.in_d0();
        self.waking = wake && !was.wake;
        if self.waking {
            self.latch(PMCSR, PMCSR_PME_STATUS);
        }
        self.told = Told { hot_plug: live && hot_plug, bandwidth: live && bandwidth, wake };
        let rises = self.told.hot_plug && !was.hot_plug || self.told.bandwidth && !was.bandwidth;
        if rises {
            MSI.raise(&mut self.bridge.config, 0)
        } else {
            None
        }
    }

    /// Whether the last [`Downstream::refresh`] wants PM_PME sent: a hot-plug event met a port that sleeps (PCIe §6.7.3.4).
    pub fn wakes(&mut self) -> bool {
        std::mem::take(&mut self.waking)
    }

    /// Where its messages go, while MSI is enabled.
    pub fn msi_target(&self) -> Option<u64> {
        MSI.target(&self.bridge.config)
    }

    /// A reset of the switch. What reaches the card.
    pub fn reset(&mut self, now: SimTime, kind: ResetKind, held: bool) -> ResetKind {
        self.bridge.reset(kind);
        self.link = Link::Down;
        self.told = Told::default();
        self.show_presence();
        // A switch whose own link is lost resets the links below (PCIe §6.6.1).
        let below = if kind == ResetKind::LinkDown { ResetKind::HotReset } else { kind };
        self.settle(now, held).unwrap_or(below)
    }

    /// The oracle's items.
    pub fn sample(&self, out: &mut dyn FnMut(&str, u64)) {
        out("dllla", self.link_up().into());
        out("slot_status", self.half(SLTSTA).into());
        out("sltctl", self.half(SLTCTL).into());
        out("command", self.bridge.command().into());
        out("msi.enable", MSI.enabled(&self.bridge.config).into());
    }

    /// The saved form.
    pub fn save(&self) -> FunctionState {
        let Downstream { bridge, kind: _, train_ns: _, present, powered, link, failed: _, waking: _, told } =
            self;
        let state = DownstreamState {
            bridge: bridge.state(),
            present: *present,
            powered: *powered,
            link: *link,
            told: *told,
        };
        FunctionState::new(DOWNSTREAM, &state)
    }

    /// Take the saved form; `card`: the slot has one that can be in it.
    pub fn restore(&mut self, saved: &FunctionState, card: bool) -> Result<(), StateError> {
        let DownstreamState { bridge, present, powered, link, told } = saved.data(DOWNSTREAM)?;
        self.bridge.take(DOWNSTREAM, &bridge)?;
        (self.present, self.powered, self.link, self.told) = (present, powered, link, told);
        let shown = self.half(SLTSTA) & exp::SLTSTA_PDS != 0;
        let active = self.half(LNKSTA) & exp::LNKSTA_DLLLA != 0;
        let possible = shown == self.present
            && active == self.link_up()
            && self.half(SLTCTL) & !self.kind.sltctl() == 0
            && powered == self.power_is_on()
            && (powered || link == Link::Down)
            && (card || !present);
        if !possible {
            return Err(StateError::Impossible { what: DOWNSTREAM });
        }
        Ok(())
    }
}
