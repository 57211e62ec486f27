//! What the world does to the slot: faults of the device's side, as data in [`Config`](super::Config) and as methods.
//!
//! *Modelled*: no card, a card that never answers, surprise removal and return, loss of the link with the card in place,
//! configuration retry after each reset, requests that nobody completes, a link that changes its rate, PME and error
//! messages from the card, the attention button, events of slots further down.
//! *Not modelled*: power faults.
//! *Sources*: spec/dwc-qcom-registers.md §3; PCI Express Base Specification §2.3.1, §2.8, §3.2.1, §6.1.6, §6.2.

use block::Cx;
use block::ResetKind;
use pcie::Bdf;
use pcie::ErrorMessage;
use pcie::Rate;
use pcie::SlotEvent;
use serde::Deserialize;
use serde::Serialize;

use super::RootComplex;
use crate::event::Event;

/// What is in the slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Slot {
    /// The endpoint, and it works.
    #[default]
    Present,
    /// Nothing: the LTSSM toggles between the Detect states.
    Absent,
    /// A card that has receivers but never sends: the LTSSM stays in Polling.
    Mute,
}

impl RootComplex {
    /// What is in the slot.
    pub fn slot(&self) -> Slot {
        self.port.slot
    }

    /// Pull the card, put it back, or make it mute, whatever runs at the moment. A link that is up is lost by surprise: AER
    /// and, with Qualcomm's wrapper, the `global` interrupt and flush mode tell. A card that comes back has lost its state.
    pub fn set_slot(&mut self, cx: &mut Cx<'_, Event>, slot: Slot) {
        self.advance(cx);
        self.change_slot(cx, slot);
        self.settle(cx);
    }

    /// The same; the caller settles the link.
    pub(super) fn change_slot(&mut self, cx: &mut Cx<'_, Event>, slot: Slot) {
        let was_there = self.port.card_present();
        self.port.slot = slot;
        let is_there = self.port.card_present();
        if slot != Slot::Present {
            self.lose_link(cx);
        }
        if was_there != is_there {
            self.reset_card(cx, ResetKind::PowerOn);
            self.port.dbi.card_changed(is_there);
        }
    }

    /// The harness begins a phase of its own: a card that misbehaves may have waited for it.
    pub fn announce(&mut self, cx: &mut Cx<'_, Event>, phase: &str) {
        self.advance(cx);
        if let Some(card) = self.card.as_mut() {
            card.announce(cx, &mut self.port, phase);
        }
        self.settle(cx);
    }

    /// Something happens to a slot: the port's own if `path` is empty, else the one that `path` names by slot numbers, from the
    /// switch in the port's slot down. `false`: there is no such slot.
    pub fn slot_event(&mut self, cx: &mut Cx<'_, Event>, path: &[u8], e: SlotEvent) -> bool {
        if !path.is_empty() {
            self.advance(cx);
            let there = self.card.as_mut().is_some_and(|c| c.slot_event(cx, &mut self.port, path, e));
            self.settle(cx);
            return there;
        }
        match e {
            SlotEvent::Pull => self.set_slot(cx, Slot::Absent),
            SlotEvent::Insert => self.set_slot(cx, Slot::Present),
            SlotEvent::Press => {
                self.advance(cx);
                self.port.dbi.button_pressed();
            }
        }
        true
    }

    /// The link is lost although the card stays; it trains again by itself as long as the conditions of training hold.
    pub fn surprise_down(&mut self, cx: &mut Cx<'_, Event>) {
        self.advance(cx);
        self.lose_link(cx);
        self.settle(cx);
    }

    pub(super) fn lose_link(&mut self, cx: &mut Cx<'_, Event>) {
        if self.port.lose_link(cx) {
            self.reset_card(cx, ResetKind::LinkDown);
        }
    }

    /// The card's side of the link can do `rate` from now on; a link that is up changes by itself (LNKSTA.LABS).
    pub fn change_rate(&mut self, cx: &mut Cx<'_, Event>, rate: Rate) {
        self.advance(cx);
        self.port.change_rate(cx, rate);
    }

    /// From the next reset of the card on, its first `count` configuration requests are answered with RRS.
    pub fn set_rrs_count(&mut self, count: u32) {
        self.rrs_count = count;
    }

    /// The next `count` requests downstream that want a completion get none: all ones, and a completion timeout for AER.
    /// DEVIATION: the CPU does not wait for the timeout.
    pub fn lose_completions(&mut self, count: u32) {
        self.lost_completions = count;
    }

    /// The card sends PM_PME. Nothing arrives over a link that is down.
    pub fn send_pme(&mut self, cx: &mut Cx<'_, Event>) {
        self.advance(cx);
        if self.port.link.up() {
            let rid = self.card_rid();
            self.port.dbi.pme_message(rid);
        }
    }

    /// The card sends an error message. Nothing arrives over a link that is down.
    pub fn send_error(&mut self, cx: &mut Cx<'_, Event>, error: ErrorMessage) {
        self.advance(cx);
        if self.port.link.up() {
            let rid = self.card_rid();
            self.port.dbi.error_message(rid, error);
            // DPC may have taken it.
            self.settle(cx);
        }
    }

    /// The endpoint is device 0 of the bus below the port.
    fn card_rid(&self) -> Bdf {
        Bdf::new(self.port.dbi.secondary_bus(), 0, 0)
    }
}
