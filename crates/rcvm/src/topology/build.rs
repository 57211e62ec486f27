//! From a topology to the model's cards.

use anyhow::Result;
use endpoints::EndpointTest;
use pcie::misbehave::Misbehaving;
use pcie::Device;
use pcie::Function;
use rc_model::Event;

use super::Card;
use super::CardKind;
use super::SlotPath;
use super::Topology;

type BoxedCard = Box<dyn pcie::Card<Event>>;

impl Topology {
    /// The card in the root port's slot; `None`: it is empty. `seed` decides what cards leave to chance.
    pub fn build(&self, seed: u64) -> Result<Option<BoxedCard>> {
        self.slot(&SlotPath::default(), seed)
    }

    fn slot(&self, slot: &SlotPath, seed: u64) -> Result<Option<BoxedCard>> {
        let functions = self.in_slot(slot).map(function).collect::<Result<Vec<_>>>()?;
        if functions.is_empty() {
            return Ok(None);
        }
        let card = Device::new(functions).boxed();
        let rules = self.misbehaviours.iter().filter(|m| m.slot == *slot).map(|m| m.rule());
        let rules = rules.collect::<Result<Vec<_>>>()?;
        Ok(Some(if rules.is_empty() { card } else { Box::new(Misbehaving::new(card, rules, seed)) }))
    }
}

fn function(card: &Card) -> Result<Box<dyn Function<Event>>> {
    Ok(match card.kind {
        CardKind::EndpointTest => Box::new(EndpointTest::default()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Misbehaviour;

    #[test]
    fn nothing_in_the_slot_and_functions_in_it() {
        assert!(Topology::default().build(1).unwrap().is_none());
        let mut t = Topology::endpoint_test();
        t.cards.extend(t.cards.clone());
        let card = t.build(1).unwrap().unwrap();
        let mut functions = Vec::new();
        card.sample("", &mut |item, _| functions.extend(item.strip_suffix(".command").map(str::to_owned)));
        assert_eq!(functions, ["ep", "ep:1"]);
    }

    #[test]
    fn misbehaviour_is_a_layer_in_front_of_its_slots_card() {
        let mut t = Topology::endpoint_test();
        t.misbehaviours.push(Misbehaviour::parse("late-msi").unwrap());
        let card = t.build(1).unwrap().unwrap();
        let mut counted = false;
        card.sample("", &mut |item, _| counted |= item == "misbehaved");
        assert!(counted);
    }
}
