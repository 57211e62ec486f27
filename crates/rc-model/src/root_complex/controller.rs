//! Everything on the host's side of the link: the core, its wrapper and the providers, with their gating.

use block::Cx;
use block::IrqLevels;
use block::ResetKind;
use block::SimTime;
use block::Width;
use msi_ctrl::MsiCtrl;
use pcie::LinkFailure;
use pcie::Rate;

use super::observer::Kind;
use super::observer::Observer;
use super::Config;
use super::Slot;
use crate::dbi::ras_des::Count;
use crate::dbi::Dbi;
use crate::dbi::LinkView;
use crate::elbi::Elbi;
use crate::event::Effect;
use crate::event::Event;
use crate::gpio::Gpio;
use crate::iatu::Iatu;
use crate::link::ltssm;
use crate::link::Conditions;
use crate::link::Edge;
use crate::link::Link;
use crate::mhi::Mhi;
use crate::parf::Parf;
use crate::phy::Phy;
use crate::reset::Resets;
use crate::soc;
use crate::soc::Soc;
use crate::soc::Window;
use crate::wrapper::rockchip;
use crate::wrapper::rockchip::Client;
use crate::wrapper::snps;
use crate::wrapper::Kind as Vendor;

/// Code of PME_Turn_Off (PCIe §2.2.8.2).
const MSG_PME_TURN_OFF: u8 = 0x19;

/// The blocks. Reads and writes here have passed gating and are at most 64 bits wide.
#[derive(Debug)]
pub(super) struct Controller {
    pub gpio: Gpio,
    pub resets: Resets,
    pub phy: Phy,
    pub parf: Parf,
    pub elbi: Elbi,
    pub mhi: Mhi,
    pub client: Client,
    pub dbi: Dbi,
    pub iatu: Iatu,
    pub msi: MsiCtrl,
    pub link: Link,
    pub observer: Observer,
    pub(super) soc: &'static Soc,
    pub(super) card: Option<Rate>,
    pub slot: Slot,
    /// The running retrain is the link's own, not software's.
    pub(super) autonomous: bool,
    pub(super) msi_gating: bool,
    pub(super) its_translater: Option<u64>,
    /// Taken by the owner after each call.
    pub effects: Vec<Effect>,
    /// State of the last [`Event::Ltssm`].
    pub(super) reported_ltssm: u8,
    /// What the card has done to the link in this call; taken when it settles.
    pub(super) failure: Option<LinkFailure>,
}

impl Controller {
    pub fn new(config: &Config) -> Controller {
        let card = config.card.as_ref().map(|_| config.endpoint_rate);
        let present = card.is_some() && config.slot != Slot::Absent;
        let mut c = Controller {
            gpio: Gpio::new(config.soc),
            resets: Resets::new(config.soc),
            phy: Phy::default(),
            parf: Parf::new(config.soc),
            elbi: Elbi::default(),
            mhi: Mhi::default(),
            client: Client::default(),
            dbi: Dbi::new(config.soc, present),
            iatu: Iatu::new(config.soc.unroll),
            msi: MsiCtrl::new(),
            link: Link::new(config.train_ns),
            observer: Observer::default(),
            soc: config.soc,
            card,
            slot: config.slot,
            autonomous: false,
            msi_gating: config.msi_gating,
            its_translater: config.its_translater,
            effects: Vec::new(),
            reported_ltssm: 0,
            failure: None,
        };
        c.run_firmware();
        // Where nothing holds the link it trains from power-on; nothing is to be told yet.
        let _ = c.link.apply(SimTime::ZERO, c.conditions());
        c
    }

    /// What keeps a window from answering now (spec §2.1): "clock", "reset" or nothing.
    pub fn gate(&self, win: Window) -> Option<&'static str> {
        match win {
            Window::Gpio | Window::Reset | Window::Phy => None,
            Window::Parf | Window::Mhi | Window::Apb => (!self.gpio.ahb_clock_on()).then_some("clock"),
            Window::Dbi | Window::Elbi | Window::Atu | Window::Config | Window::Mem | Window::Ecam => {
                if !self.gpio.clocks_on() {
                    Some("clock")
                } else {
                    self.held()
                }
            }
        }
    }

    /// What keeps the core from working whatever its clocks do. A core without a reset line starts anew when its supplies
    /// come back (INFERRED: its power domain is not modelled).
    pub fn held(&self) -> Option<&'static str> {
        if self.soc.resets.is_empty() {
            (!self.gpio.supplies_on()).then_some("supply")
        } else {
            self.resets.core().then_some("reset")
        }
    }

    /// Whether an access to `win` needs a running clock.
    pub fn clocked(&self, win: Window) -> bool {
        match win {
            Window::Gpio | Window::Reset | Window::Phy => false,
            Window::Parf | Window::Apb => self.soc.ahb_clock.is_some(),
            _ => true,
        }
    }

    /// Whether `addr` is the register of the machine's ITS that takes MSIs.
    pub fn is_its(&self, addr: u64) -> bool {
        self.its_translater == Some(addr)
    }

    /// Whether an ITS takes the MSIs, and iMSI-RX is idle.
    pub fn has_its(&self) -> bool {
        self.its_translater.is_some()
    }

    /// Which SoC this is.
    pub fn soc(&self) -> &'static Soc {
        self.soc
    }

    fn view(&self, now: SimTime) -> LinkView {
        LinkView { now, ltssm: self.link.ltssm(now), up: self.link.up(), training: self.link.training() }
    }

    /// A read of Rockchip's client registers; `ep_intx` are the pins that the endpoint asserts.
    pub fn read_client(&self, now: SimTime, ep_intx: u8, off: u64, w: Width) -> u64 {
        let intx = self.intx(ep_intx);
        let view = rockchip::View { ltssm: self.link.ltssm(now), up: self.link.up(), intx };
        if w == Width::B8 {
            let half = |off| self.client.read(view, off, Width::B4);
            return half(off) | half(off + 4) << 32;
        }
        self.client.read(view, off, w)
    }

    /// A read of a register window other than [`Window::Apb`].
    pub fn read(&self, now: SimTime, win: Window, off: u64, w: Width) -> u64 {
        if w == Width::B8 {
            let half = |off| self.read(now, win, off, Width::B4);
            return half(off) | half(off + 4) << 32;
        }
        match win {
            Window::Parf => self.parf.read(self.link.ltssm(now), off, w),
            Window::Mhi => self.mhi.read(off, w),
            Window::Elbi => self.elbi.read(self.link.ltssm(now), off, w),
            Window::Atu if self.soc.unroll => self.iatu.read(off, w),
            Window::Dbi if MsiCtrl::claims(off) => self.msi.read(off, w),
            Window::Dbi if self.iatu.claims(off) => self.iatu.viewport_read(off, w),
            Window::Dbi => self.dbi.read(self.view(now), off, w),
            Window::Gpio => self.gpio.read(off, w),
            Window::Reset => self.resets.read(off, w),
            Window::Phy => self.phy.read(&self.resets, off, w),
            Window::Atu | Window::Apb | Window::Config | Window::Mem | Window::Ecam => w.ones(),
        }
    }

    /// A write of a register window other than [`Window::Gpio`]; the caller settles the link afterwards.
    pub fn write(&mut self, now: SimTime, win: Window, off: u64, w: Width, v: u64) {
        if w == Width::B8 {
            self.write(now, win, off, Width::B4, v & 0xffff_ffff);
            self.write(now, win, off + 4, Width::B4, v >> 32);
            return;
        }
        match win {
            Window::Parf => self.parf.write(off, w, v),
            Window::Apb => self.client.write(off, w, v),
            Window::Elbi => {
                if self.elbi.write(off, w, v) {
                    self.send_message(now, MSG_PME_TURN_OFF);
                }
            }
            Window::Atu if self.soc.unroll => self.iatu.write(off, w, v),
            Window::Dbi if MsiCtrl::claims(off) => {
                self.msi.write(off, w, v);
                if self.msi.addr() != 0 {
                    self.observer.last_msi_addr = Some(self.msi.addr());
                }
            }
            Window::Dbi if self.iatu.claims(off) => self.iatu.viewport_write(off, w, v),
            Window::Dbi => {
                let link = self.view(now);
                if self.dbi.write(link, off, w, v) {
                    self.link.retrain(now);
                }
            }
            Window::Reset => self.resets.write(off, w, v),
            Window::Phy => self.phy.write(off, w, v),
            Window::Atu | Window::Mhi | Window::Gpio | Window::Config | Window::Mem | Window::Ecam => {}
        }
    }

    /// A message to the link. Of the messages that software sends by an outbound region, PME_Turn_Off acts here.
    pub fn send_message(&mut self, now: SimTime, code: u8) {
        self.dbi.count(Count::TxMessage);
        if code == MSG_PME_TURN_OFF {
            self.link.turn_off(now);
        }
    }

    /// What is wrong with what a write of `w` at `off` of `win` has just left in the registers.
    pub fn flaw(&self, win: Window, off: u64, w: Width) -> Option<&'static str> {
        match win {
            Window::Atu if self.soc.unroll => self.iatu.flaw(off, w),
            Window::Dbi if self.iatu.claims(off) => self.iatu.flaw(off, w),
            // The address is the first register of the block.
            Window::Dbi if MsiCtrl::claims(off) && off < u64::from(msi_ctrl::regs::INTR0_ENABLE) => {
                let (base, len) = self.soc.window(Window::Mem);
                (base..base + len).contains(&self.msi.addr()).then_some("msi-in-mem-window")
            }
            _ => None,
        }
    }

    fn phy_up(&self) -> bool {
        match self.soc.wrapper.kind {
            Vendor::Qcom => !self.parf.phy_powered_down() && self.phy.up(&self.resets),
            Vendor::Rockchip => self.phy.up(&self.resets),
            Vendor::Snps | Vendor::SnpsEcam | Vendor::QcomFirmware => true,
        }
    }

    fn training_enabled(&self) -> bool {
        match self.soc.wrapper.kind {
            Vendor::Qcom => self.parf.ltssm_en() || self.elbi.lt_enable(),
            Vendor::Rockchip => self.client.ltssm_en(),
            Vendor::Snps | Vendor::SnpsEcam | Vendor::QcomFirmware => true,
        }
    }

    /// Whether something is in the slot.
    pub fn card_present(&self) -> bool {
        self.card.is_some() && self.slot != Slot::Absent
    }

    /// What the link sees of the rest of the machine (spec §3).
    fn conditions(&self) -> Conditions {
        Conditions {
            enabled: self.gpio.clocks_on()
                && self.held().is_none()
                && self.phy_up()
                && self.training_enabled(),
            partner: self.card_present() && !self.gpio.perst(),
            mute: self.slot == Slot::Mute,
            disabled: self.dbi.link_disabled(),
            hot_reset: self.dbi.secondary_bus_reset(),
        }
    }

    /// Re-evaluate the link after a change of anything that [`Controller::conditions`] reads. Returns whether the
    /// link went down, which the endpoint has to learn.
    #[must_use]
    pub fn settle(&mut self, cx: &mut Cx<'_, Event>) -> bool {
        let edge = self.link.apply(cx.now, self.conditions());
        self.follow(cx, edge)
    }

    /// The link loses its signal. Returns whether it was up.
    #[must_use]
    pub fn lose_link(&mut self, cx: &mut Cx<'_, Event>) -> bool {
        let edge = self.link.lose();
        if edge.is_some() {
            self.dbi.surprise_down();
        }
        self.follow(cx, edge)
    }

    /// The endpoint's side can do `rate` from now on. A link that is up goes there by itself.
    pub fn change_rate(&mut self, cx: &mut Cx<'_, Event>, rate: Rate) {
        self.card = self.card.map(|_| rate);
        if self.link.ltssm(cx.now) == ltssm::L0 {
            self.autonomous = true;
            self.link.retrain(cx.now);
            let _ = self.follow(cx, None);
        }
    }

    /// Take the link's steps that are due. Returns whether the link went down.
    #[must_use]
    pub fn advance(&mut self, cx: &mut Cx<'_, Event>) -> bool {
        let mut down = false;
        while self.link.next_deadline().is_some_and(|d| d <= cx.now) {
            let edge = self.link.tick(cx.now);
            down |= self.follow(cx, edge);
        }
        down
    }

    fn follow(&mut self, cx: &mut Cx<'_, Event>, edge: Option<Edge>) -> bool {
        let state = self.link.entered();
        if edge.is_some() || state != self.reported_ltssm {
            let view = self.view(cx.now);
            self.dbi.show_link(view, self.card.unwrap_or(Rate { speed: 1, width: 1 }));
        }
        if state != self.reported_ltssm {
            self.reported_ltssm = state;
            if state == ltssm::RECOVERY {
                self.dbi.count(Count::L0ToRecovery);
            }
            self.observer.emit(cx, Kind::Edge, || Event::Ltssm { state });
        }
        match edge {
            Some(Edge::Up) => {
                self.autonomous = false;
                self.parf.link_up();
                self.client.link_up();
            }
            Some(Edge::Down) => {
                self.parf.link_down();
                self.client.link_down();
            }
            Some(Edge::Retrained) if std::mem::take(&mut self.autonomous) => self.dbi.rate_changed(),
            Some(Edge::Retrained) => self.dbi.retrained(),
            // INFERRED: an orderly L2 entry is no link-down event.
            Some(Edge::L2) => {
                self.mhi.entered_l2();
                self.dbi.count(Count::L2Entry);
            }
            None => {}
        }
        edge == Some(Edge::Down)
    }

    /// A reset of the core (spec §2.1). The link has been settled before, so that the link-down which the reset
    /// causes does not stay latched.
    pub fn reset_core(&mut self, kind: ResetKind) {
        self.parf.reset(kind);
        self.elbi.reset(kind);
        self.mhi.reset(kind);
        self.client.reset(kind);
        let present = self.card_present();
        self.dbi.reset(kind, present);
        self.iatu.reset(kind);
        self.msi.reset(kind);
        self.run_firmware();
    }

    /// What firmware does after a reset, before the OS starts.
    fn run_firmware(&mut self) {
        if self.soc.wrapper.kind == Vendor::SnpsEcam {
            for (n, region) in (0..).zip(snps::firmware_regions()) {
                self.iatu.program_outbound(n, &region);
            }
        }
    }

    /// Power applied to everything.
    pub fn power_on(&mut self, cx: &mut Cx<'_, Event>) {
        self.gpio.power_on();
        self.resets.power_on();
        self.phy.power_on();
        self.reset_core(ResetKind::PowerOn);
        // Where nothing holds the link, nothing has taken it down either.
        self.link.power_on();
        self.reported_ltssm = self.link.entered();
        self.autonomous = false;
        let _ = self.settle(cx);
        self.observer.power_on();
    }

    /// Output levels; `ep_intx` are the pins that the endpoint asserts.
    pub fn levels(&self, ep_intx: u8) -> IrqLevels {
        let gate = if self.msi_gating { self.parf.msi_gate() } else { u8::MAX };
        let groups = IrqLevels::from(self.msi.levels() & gate);
        let msi = if self.soc.msi_lines == 1 { u64::from(groups != 0) } else { groups };
        let intx = self.intx(ep_intx);
        let vendor = match self.soc.wrapper.kind {
            Vendor::Qcom => {
                IrqLevels::from(intx) << soc::IRQ_INTA
                    | IrqLevels::from(self.parf.global()) << soc::IRQ_GLOBAL
            }
            Vendor::Rockchip => {
                IrqLevels::from(self.client.legacy(intx)) << soc::IRQ_LEGACY
                    | IrqLevels::from(self.client.sys()) << soc::IRQ_SYS
            }
            Vendor::Snps | Vendor::SnpsEcam | Vendor::QcomFirmware => IrqLevels::from(intx) << soc::IRQ_INTA,
        };
        msi << soc::IRQ_MSI0 | vendor
    }

    /// INTx wires: the port's own and, over the link, the card's. It is device 0, so the bridge's swizzle leaves its pins as
    /// they are. No link, no assertion.
    fn intx(&self, ep_intx: u8) -> u8 {
        let downstream = if self.link.up() { ep_intx } else { 0 };
        (self.dbi.intx() | downstream) & 0xf
    }

    /// An access that nobody answered because its block stands still.
    pub fn gated(&mut self, cx: &mut Cx<'_, Event>, window: Window, off: u64, write: bool, why: &str) {
        self.observer.counts.gated += 1;
        self.observer.emit(cx, Kind::Gated, || Event::GatedAccess {
            window,
            off,
            write,
            why: why.to_owned(),
        });
    }

    /// The guest did what no correct driver does.
    pub fn bad_input(&mut self, cx: &mut Cx<'_, Event>, what: &str, window: Window, off: u64, write: bool) {
        self.observer.counts.bad_input += 1;
        self.observer.emit(cx, Kind::BadInput, || Event::BadInput {
            what: what.to_owned(),
            window,
            off,
            write,
        });
    }

    /// A downstream request that ended nowhere.
    pub fn unrouted(&mut self, cx: &mut Cx<'_, Event>, window: Window, off: u64, write: bool, why: &str) {
        self.observer.counts.unrouted += 1;
        self.observer.emit(cx, Kind::Unrouted, || Event::Unrouted {
            window,
            off,
            write,
            why: why.to_owned(),
        });
    }
}
