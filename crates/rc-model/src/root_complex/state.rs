//! The root complex as plain data: what is saved, and what is checked before it is believed.
//!
//! State is what a guest or time can change; wiring is what a [`Config`] says, and is not in it. So a state is restored
//! *into* a configuration, and one of another SoC or with another function behind the port is refused. Nothing else of
//! a block is trusted either: a state may come from a file.

use block::StateError;
use block::Words;
use pcie::CardState;
use pcie::Rate;
use serde::Deserialize;
use serde::Serialize;

use super::controller::Controller;
use super::observer::Observer;
use super::Config;
use super::RootComplex;
use super::Slot;
use crate::dbi;
use crate::gpio;
use crate::iatu;
use crate::link;

/// Changes with every change of what is saved.
const VERSION: u32 = 3;

/// A saved root complex, with the function behind it. Times are absolute: the clock has to go on where it was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    version: u32,
    soc: String,
    gpio: gpio::State,
    resets: Words,
    phy: Words,
    parf: Words,
    elbi: Words,
    mhi: Words,
    client: Words,
    dbi: dbi::State,
    iatu: iatu::State,
    msi: Words,
    link: link::State,
    observer: Observer,
    reported_ltssm: u8,
    slot: Slot,
    card: Option<Rate>,
    autonomous: bool,
    rrs_count: u32,
    rrs_left: u32,
    lost_completions: u32,
    gated: bool,
    endpoint: Option<CardState>,
}

impl RootComplex {
    /// Everything that decides what the model does next. Effects are not in it: take them first.
    pub fn save(&self) -> State {
        let RootComplex { port, card: endpoint, rrs_count, rrs_left, lost_completions, strict: _, gated } =
            self;
        let Controller {
            gpio,
            resets,
            phy,
            parf,
            elbi,
            mhi,
            client,
            dbi,
            iatu,
            msi,
            link,
            observer,
            soc,
            card,
            slot,
            autonomous,
            msi_gating: _,
            its_translater: _,
            effects: _,
            reported_ltssm,
            failure: _,
        } = port;
        State {
            version: VERSION,
            soc: soc.name.to_owned(),
            gpio: gpio.save(),
            resets: resets.save(),
            phy: phy.save(),
            parf: parf.save(),
            elbi: elbi.save(),
            mhi: mhi.save(),
            client: client.save(),
            dbi: dbi.save(),
            iatu: iatu.save(),
            msi: msi.save(),
            link: link.save(),
            observer: observer.clone(),
            reported_ltssm: *reported_ltssm,
            slot: *slot,
            card: *card,
            autonomous: *autonomous,
            rrs_count: *rrs_count,
            rrs_left: *rrs_left,
            lost_completions: *lost_completions,
            gated: *gated,
            endpoint: endpoint.as_ref().map(|e| e.save()),
        }
    }

    /// The root complex of `config` in the state `saved`.
    pub fn restore(config: Config, saved: &State) -> Result<RootComplex, StateError> {
        StateError::unless_of("state version", &VERSION.to_string(), &saved.version.to_string())?;
        StateError::unless_of("soc", config.soc.name, &saved.soc)?;
        let mut rc = RootComplex::new(config);
        let port = &mut rc.port;
        port.gpio.restore(&saved.gpio)?;
        port.resets.restore(&saved.resets)?;
        port.phy.restore(&saved.phy)?;
        port.parf.restore(&saved.parf)?;
        port.elbi.restore(&saved.elbi)?;
        port.mhi.restore(&saved.mhi)?;
        port.client.restore(&saved.client)?;
        port.dbi.restore(&saved.dbi)?;
        port.iatu.restore(&saved.iatu)?;
        port.msi.restore(&saved.msi)?;
        port.link.restore(&saved.link)?;
        port.observer.restore(&saved.observer)?;
        port.reported_ltssm = saved.reported_ltssm;
        port.slot = saved.slot;
        port.autonomous = saved.autonomous;
        rc.rrs_count = saved.rrs_count;
        rc.rrs_left = saved.rrs_left;
        rc.lost_completions = saved.lost_completions;
        rc.gated = saved.gated;
        match (rc.card.as_mut(), &saved.endpoint) {
            (Some(card), Some(state)) => card.restore(state)?,
            (None, None) => {}
            (card, state) => {
                let text = |there| if there { "a card" } else { "an empty slot" };
                StateError::unless_of("slot", text(card.is_some()), text(state.is_some()))?;
            }
        }
        if rc.port.card.is_some() != saved.card.is_some() {
            return Err(StateError::Impossible { what: "card's rate" });
        }
        rc.port.card = saved.card;
        Ok(rc)
    }
}
