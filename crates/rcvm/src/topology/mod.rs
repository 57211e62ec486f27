//! What hangs below the root port: cards in slots, and how they misbehave. From a file (docs/topology.md) or from options.

// Only the worker builds, and it is an arm64 program.
#[cfg(any(test, target_arch = "aarch64"))]
mod build;
mod misbehaviour;
mod slot;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use serde::Deserialize;
use serde::Serialize;

pub use misbehaviour::ActName;
pub use misbehaviour::Misbehaviour;
pub use slot::SlotPath;

/// Everything below the root port.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Topology {
    /// Functions and switches, each with its slot. Of several in one slot each is a function of the same device.
    #[serde(default, rename = "card")]
    pub cards: Vec<Card>,
    /// Misbehaviours of the cards.
    #[serde(default, rename = "misbehave")]
    pub misbehaviours: Vec<Misbehaviour>,
}

/// What a card, or one function of it, is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CardKind {
    /// The PCI endpoint-test function, 104c:b500.
    EndpointTest,
}

impl CardKind {
    /// Name in files and options.
    pub const fn name(self) -> &'static str {
        match self {
            CardKind::EndpointTest => "endpoint-test",
        }
    }

    /// Settings that it has.
    const fn settings(self) -> &'static [&'static str] {
        match self {
            CardKind::EndpointTest => &["vectors"],
        }
    }
}

/// One line of a topology: a function, or a switch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Card {
    /// Where it is: "0" is the root port's slot, "0.1" slot 1 of the switch in it.
    #[serde(default)]
    pub slot: SlotPath,
    /// What it is.
    pub kind: CardKind,
    /// MSI-X vectors.
    pub vectors: Option<u16>,
}

impl Card {
    /// A card of this kind in the root port's slot, with nothing set.
    pub fn new(kind: CardKind) -> Card {
        Card { slot: SlotPath::default(), kind, vectors: None }
    }

    /// `KIND,KEY=VALUE,…`, as options have it; `port` is another name of `slot` there.
    pub fn parse(text: &str) -> Result<Card> {
        parse_option("kind", text)
    }

    /// The settings that are there, by name.
    fn given(&self) -> Vec<&'static str> {
        [("vectors", self.vectors.is_some())].into_iter().filter(|s| s.1).map(|s| s.0).collect()
    }

    fn check(&self) -> Result<()> {
        if let Some(key) = self.given().into_iter().find(|k| !self.kind.settings().contains(k)) {
            let has = match self.kind.settings() {
                [] => "none".to_owned(),
                s => s.join(", "),
            };
            bail!("a {} has no setting {key}: it has {has}", self.kind.name());
        }
        if self.vectors.is_some_and(|v| !(1..=2048).contains(&v)) {
            bail!("vectors are 1 to 2048");
        }
        Ok(())
    }
}

/// A comma-separated option as the table that a file would have; `first` is the key of its first word.
fn parse_option<T: serde::de::DeserializeOwned>(first: &str, text: &str) -> Result<T> {
    let mut words = text.split(',');
    let mut table = toml::Table::new();
    table.insert(first.into(), words.next().unwrap_or_default().into());
    for word in words {
        let (key, value) =
            word.split_once('=').with_context(|| format!("{text:?}: {word:?} is not KEY=VALUE"))?;
        let key = if key == "port" { "slot" } else { key };
        if table.insert(key.into(), value_of(key, value)).is_some() {
            bail!("{text:?}: {key} is given twice");
        }
    }
    table.try_into().map_err(|e: toml::de::Error| anyhow::anyhow!("{text:?}: {}", e.message()))
}

/// A slot is text though it may look like a number.
fn value_of(key: &str, value: &str) -> toml::Value {
    let number = || value.parse::<i64>().ok().filter(|_| key != "slot").map(toml::Value::Integer);
    let fraction = || value.parse::<f64>().ok().filter(|_| key == "chance").map(toml::Value::Float);
    let flag = || value.parse::<bool>().ok().map(toml::Value::Boolean);
    number().or_else(fraction).or_else(flag).unwrap_or_else(|| value.into())
}

impl Topology {
    /// The endpoint-test function in the root port's slot: what there is if nobody asks for anything else.
    pub fn endpoint_test() -> Topology {
        Topology { cards: vec![Card::new(CardKind::EndpointTest)], misbehaviours: Vec::new() }
    }

    /// From a file's text; errors name line and key.
    pub fn parse(text: &str) -> Result<Topology> {
        toml::from_str(text).map_err(|e| anyhow::anyhow!("{}", e.to_string().trim_end()))
    }

    /// Whether it can be built, and a guest can use it.
    pub fn check(&self) -> Result<()> {
        for (n, card) in self.cards.iter().enumerate() {
            let who = || format!("card {} (slot {}, {})", n + 1, card.slot, card.kind.name());
            card.check().with_context(who)?;
            self.check_place(card).with_context(who)?;
        }
        for (n, m) in self.misbehaviours.iter().enumerate() {
            let who = || format!("misbehaviour {} (slot {}, {})", n + 1, m.slot, m.act.name());
            m.rule().with_context(who)?;
            if !self.cards.iter().any(|c| c.slot == m.slot) {
                return Err(anyhow::anyhow!("there is no card in that slot")).with_context(who);
            }
        }
        Ok(())
    }

    fn check_place(&self, card: &Card) -> Result<()> {
        if self.in_slot(&card.slot).count() > pcie::FUNCTIONS {
            bail!("a device has at most {} functions", pcie::FUNCTIONS);
        }
        if card.slot.parent().is_some() {
            bail!("there is no switch above it");
        }
        Ok(())
    }

    /// Whether a card may vanish by itself.
    pub fn vanishes(&self) -> bool {
        self.misbehaviours.iter().any(|m| m.act == ActName::Vanish)
    }

    /// Whether there is a card of this kind.
    pub fn has(&self, kind: CardKind) -> bool {
        self.cards.iter().any(|c| c.kind == kind)
    }

    /// The functions in a slot, or its switch.
    pub fn in_slot<'a>(&'a self, slot: &'a SlotPath) -> impl Iterator<Item = &'a Card> + 'a {
        self.cards.iter().filter(move |c| c.slot == *slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_and_files_say_the_same() {
        let file = "[[card]]\nkind = \"endpoint-test\"\nvectors = 64\n\n[[misbehave]]\nact = \"late-msi\"\nnth = 2\n";
        let t = Topology::parse(file).unwrap();
        assert_eq!(t.cards, [Card::parse("endpoint-test,vectors=64,port=0").unwrap()]);
        assert_eq!(t.misbehaviours, [Misbehaviour::parse("late-msi,nth=2").unwrap()]);
        t.check().unwrap();
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, says) in [
            ("[[card]]\nkind = \"toaster\"\n", "line 2"),
            ("[[card]]\nkind = \"endpoint-test\"\ncolour = 1\n", "colour"),
            ("[[card]]\nkind = \"endpoint-test\"\nslot = \"1\"\n", "is no slot"),
            ("[[card]]\nkind = \"endpoint-test\"\nvectors = 0\n", "card 1 (slot 0, endpoint-test)"),
            ("[[card]]\nkind = \"endpoint-test\"\nslot = \"0.1\"\n", "no switch above it"),
            ("[[misbehave]]\nact = \"late-msi\"\n", "no card in that slot"),
            ("[[cards]]\n", "cards"),
        ] {
            let e = Topology::parse(text).and_then(|t| t.check()).unwrap_err();
            assert!(format!("{e:#}").contains(says), "{text}: {e:#}");
        }
        let many = "[[card]]\nkind = \"endpoint-test\"\n".repeat(9);
        assert!(Topology::parse(&many).unwrap().check().is_err());
    }
}
