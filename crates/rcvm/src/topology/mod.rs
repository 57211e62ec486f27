//! What hangs below the root port: cards in slots, and how they misbehave. From a file (docs/topology.md) or from options.

// Only the worker builds, and it is an arm64 program.
#[cfg(any(test, target_arch = "aarch64"))]
mod build;
#[cfg(any(test, target_arch = "aarch64"))]
mod file_disk;
mod files;
mod misbehaviour;
mod slot;
mod sockets;

use std::path::PathBuf;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use serde::Deserialize;
use serde::Serialize;
use torture::consumer;
use torture::Consumer;

pub use misbehaviour::ActName;
pub use misbehaviour::Misbehaviour;
pub use slot::SlotPath;

/// Default size of a disk, bytes.
const DISK_BYTES: u64 = 64 << 20;
/// Largest disk in memory, bytes: the outer machine of the nested mode has not much more.
const MOST_DISK_BYTES: u64 = 512 << 20;
/// Slots of a switch, unless it says otherwise.
const SWITCH_SLOTS: u8 = 2;
/// Switches on the way to a card: each takes bus numbers and memory of the windows above it.
const MOST_DEPTH: usize = 3;
/// Settings that are true if an option has their name alone.
const FLAGS: [&str; 2] = ["readonly", "scratch"];
/// Settings that are text, whatever they look like.
const TEXTS: [&str; 3] = ["slot", "socket", "file"];

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
    /// A switch.
    Switch,
    /// An NVMe controller with one namespace.
    Nvme,
    /// virtio entropy.
    VirtioRng,
    /// A virtio disk.
    VirtioBlk,
    /// A virtio console that echoes.
    VirtioConsole,
    /// A virtio network interface that sends every frame back.
    VirtioNet,
    /// A 16550 serial card that echoes.
    Serial,
    /// A device that a process of the user's own serves over vfio-user.
    VfioUser,
}

impl CardKind {
    /// Name in files and options.
    pub const fn name(self) -> &'static str {
        match self {
            CardKind::EndpointTest => "endpoint-test",
            CardKind::Switch => "switch",
            CardKind::Nvme => "nvme",
            CardKind::VirtioRng => "virtio-rng",
            CardKind::VirtioBlk => "virtio-blk",
            CardKind::VirtioConsole => "virtio-console",
            CardKind::VirtioNet => "virtio-net",
            CardKind::Serial => "serial",
            CardKind::VfioUser => "vfio-user",
        }
    }

    /// What torture makes its driver do; `None`: nothing, or (endpoint-test) something else than of all other cards.
    const fn consumer(self) -> Option<consumer::Kind> {
        Some(match self {
            CardKind::EndpointTest | CardKind::Switch | CardKind::VfioUser => return None,
            CardKind::Nvme => consumer::Kind::Nvme,
            CardKind::VirtioRng => consumer::Kind::VirtioRng,
            CardKind::VirtioBlk => consumer::Kind::VirtioBlk,
            CardKind::VirtioConsole => consumer::Kind::VirtioConsole,
            CardKind::VirtioNet => consumer::Kind::VirtioNet,
            CardKind::Serial => consumer::Kind::Serial,
        })
    }

    /// Settings that it has.
    const fn settings(self) -> &'static [&'static str] {
        match self {
            CardKind::EndpointTest => &["vectors", "full"],
            CardKind::Serial => &["pin", "paced"],
            CardKind::VfioUser => &["socket", "like", "scratch"],
            CardKind::Switch => &["slots", "attention-button", "power-control"],
            CardKind::Nvme => &["size", "file", "readonly", "scratch", "queues", "block", "latency-us"],
            CardKind::VirtioBlk => &["size", "file", "readonly", "scratch", "queues", "latency-us"],
            CardKind::VirtioRng | CardKind::VirtioConsole | CardKind::VirtioNet => &["latency-us"],
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
    /// MSI-X vectors of an endpoint-test function.
    pub vectors: Option<u16>,
    /// Whether an endpoint-test function has every BAR, doorbells and subranges, and 2048 vectors unless it says otherwise.
    pub full: Option<bool>,
    /// INTx pin of a serial card.
    pub pin: Option<Pin>,
    /// Whether a serial card takes the time that its baud rate says.
    pub paced: Option<bool>,
    /// Slots of a switch.
    pub slots: Option<u8>,
    /// Whether a switch's slots have attention buttons and indicators.
    pub attention_button: Option<bool>,
    /// Whether a switch's slots have power controllers.
    pub power_control: Option<bool>,
    /// Size of a disk.
    pub size: Option<Bytes>,
    /// File of the user's that a disk keeps its blocks in; without one they are in memory.
    pub file: Option<PathBuf>,
    /// Whether nobody can write to a disk's file.
    pub readonly: Option<bool>,
    /// Whether torture may overwrite a disk's file.
    pub scratch: Option<bool>,
    /// I/O queues of a disk.
    pub queues: Option<u16>,
    /// Bytes of a block of a disk.
    pub block: Option<u32>,
    /// How long what a driver asks for takes, µs.
    pub latency_us: Option<u64>,
    /// UNIX socket of a vfio-user server.
    pub socket: Option<PathBuf>,
    /// What torture takes a vfio-user device for; without it, nothing is done with its driver.
    pub like: Option<CardKind>,
}

impl Card {
    /// A card of this kind in the root port's slot, with nothing set.
    pub fn new(kind: CardKind) -> Card {
        Card {
            slot: SlotPath::default(),
            kind,
            vectors: None,
            full: None,
            pin: None,
            paced: None,
            slots: None,
            attention_button: None,
            power_control: None,
            size: None,
            file: None,
            readonly: None,
            scratch: None,
            queues: None,
            block: None,
            latency_us: None,
            socket: None,
            like: None,
        }
    }

    /// `KIND,KEY=VALUE,…`, as options have it; `port` is another name of `slot` there.
    pub fn parse(text: &str) -> Result<Card> {
        parse_option("kind", text)
    }

    /// The settings that are there, by name.
    fn given(&self) -> Vec<&'static str> {
        [
            ("vectors", self.vectors.is_some()),
            ("full", self.full.is_some()),
            ("pin", self.pin.is_some()),
            ("paced", self.paced.is_some()),
            ("slots", self.slots.is_some()),
            ("attention-button", self.attention_button.is_some()),
            ("power-control", self.power_control.is_some()),
            ("size", self.size.is_some()),
            ("file", self.file.is_some()),
            ("readonly", self.readonly.is_some()),
            ("scratch", self.scratch.is_some()),
            ("queues", self.queues.is_some()),
            ("block", self.block.is_some()),
            ("latency-us", self.latency_us.is_some()),
            ("socket", self.socket.is_some()),
            ("like", self.like.is_some()),
        ]
        .into_iter()
        .filter(|s| s.1)
        .map(|s| s.0)
        .collect()
    }

    fn check(&self) -> Result<()> {
        if let Some(key) = self.given().into_iter().find(|k| !self.kind.settings().contains(k)) {
            let has = match self.kind.settings() {
                [] => "none".to_owned(),
                s => s.join(", "),
            };
            bail!("a {} has no setting {key}: it has {has}", self.kind.name());
        }
        if self.kind == CardKind::VfioUser && self.socket.is_none() {
            bail!("it needs socket=PATH: where its server listens");
        }
        if let Some(kind) = self.like.filter(|k| k.consumer().is_none()) {
            bail!(
                "like={} is nothing that torture makes work beside the endpoint-test function",
                kind.name()
            );
        }
        if self.vectors.is_some_and(|v| !(1..=2048).contains(&v)) {
            bail!("vectors are 1 to 2048");
        }
        if self.slots.is_some_and(|n| !(1..=8).contains(&n)) {
            bail!("a switch has 1 to 8 slots");
        }
        if self.queues.is_some_and(|n| !(1..=16).contains(&n)) {
            bail!("a disk has 1 to 16 queues");
        }
        if self.block.is_some_and(|b| ![512, 4096].contains(&b)) {
            bail!("a block has 512 or 4096 bytes");
        }
        self.check_file_settings()?;
        if !(1 << 20..=MOST_DISK_BYTES).contains(&self.disk_bytes())
            || !self.disk_bytes().is_multiple_of(4096)
        {
            bail!("a disk has 1M to {}M, in units of 4096 bytes", MOST_DISK_BYTES >> 20);
        }
        Ok(())
    }

    /// Size of a disk, bytes.
    fn disk_bytes(&self) -> u64 {
        self.size.map_or(DISK_BYTES, |s| s.0)
    }

    /// Slots of a switch.
    fn slots(&self) -> u8 {
        self.slots.unwrap_or(SWITCH_SLOTS)
    }
}

/// INTx pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pin {
    /// INTA.
    A,
    /// INTB.
    B,
    /// INTC.
    C,
    /// INTD.
    D,
}

/// A number of bytes, in files and options with a unit if it has one: `"64M"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Size", into = "u64")]
pub struct Bytes(u64);

#[derive(Deserialize)]
#[serde(untagged)]
enum Size {
    Number(u64),
    Text(String),
}

impl TryFrom<Size> for Bytes {
    type Error = String;

    fn try_from(s: Size) -> Result<Bytes, String> {
        let text = match s {
            Size::Number(n) => return Ok(Bytes(n)),
            Size::Text(text) => text,
        };
        let (digits, shift) = match text.as_bytes().last() {
            Some(b'K') => (&text[..text.len() - 1], 10),
            Some(b'M') => (&text[..text.len() - 1], 20),
            Some(b'G') => (&text[..text.len() - 1], 30),
            _ => (text.as_str(), 0),
        };
        let bytes = digits.parse::<u64>().ok().and_then(|n| n.checked_mul(1 << shift));
        bytes.map(Bytes).ok_or_else(|| format!("\"{text}\" is no size: a number with K, M or G"))
    }
}

impl From<Bytes> for u64 {
    fn from(b: Bytes) -> u64 {
        b.0
    }
}

/// A comma-separated option as the table that a file would have; `first` is the key of its first word.
fn parse_option<T: serde::de::DeserializeOwned>(first: &str, text: &str) -> Result<T> {
    let mut words = text.split(',');
    let mut table = toml::Table::new();
    table.insert(first.into(), words.next().unwrap_or_default().into());
    for word in words {
        let flag = FLAGS.contains(&word).then_some((word, "true"));
        let pair = flag.or_else(|| word.split_once('='));
        let (key, value) = pair.with_context(|| format!("{text:?}: {word:?} is not KEY=VALUE"))?;
        let key = if key == "port" { "slot" } else { key };
        if table.insert(key.into(), value_of(key, value)).is_some() {
            bail!("{text:?}: {key} is given twice");
        }
    }
    table.try_into().map_err(|e: toml::de::Error| anyhow::anyhow!("{text:?}: {}", e.message()))
}

/// A slot is text though it may look like a number, and so is a path.
fn value_of(key: &str, value: &str) -> toml::Value {
    if TEXTS.contains(&key) {
        return value.into();
    }
    let number = || value.parse::<i64>().ok().map(toml::Value::Integer);
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
        let here = || self.in_slot(&card.slot);
        if here().count() > pcie::FUNCTIONS {
            bail!("a device has at most {} functions", pcie::FUNCTIONS);
        }
        if here().count() > 1 && here().any(|c| c.kind == CardKind::Switch) {
            bail!("a switch is alone in its slot");
        }
        if card.slot.numbers().len() > MOST_DEPTH {
            bail!("there are at most {MOST_DEPTH} switches above a card");
        }
        let Some((above, n)) = card.slot.parent() else { return Ok(()) };
        let switch = self.cards.iter().find(|c| c.slot == above && c.kind == CardKind::Switch);
        match switch {
            Some(switch) if n < switch.slots() => Ok(()),
            Some(switch) => bail!("the switch in slot {above} has slots 0 to {}", switch.slots() - 1),
            None => bail!("there is no switch in slot {above}"),
        }
    }

    /// The functions that torture makes work, beside endpoint-test functions.
    pub fn consumers(&self) -> Vec<Consumer> {
        let consumer = |(n, c): (usize, &Card)| {
            let before = self.cards[..n].iter().filter(|b| b.slot == c.slot).count();
            // What drives a device of the user's own, the user knows, and may say.
            let kind = c.like.unwrap_or(c.kind).consumer()?;
            let (slot, preserved) = (c.slot.numbers().to_vec(), c.is_preserved());
            Some(Consumer { slot, function: before as u8, kind, preserved })
        };
        self.cards.iter().enumerate().filter_map(consumer).collect()
    }

    /// Whether a card may vanish by itself.
    pub fn vanishes(&self) -> bool {
        self.misbehaviours.iter().any(|m| m.act == ActName::Vanish)
    }

    /// Whether everything is there that the cards need of this host.
    pub fn check_reach(&self) -> Result<()> {
        self.check_sockets()?;
        self.check_files()
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
    fn switches_hold_cards_and_sizes_have_units() {
        let cards =
            ["switch,slots=3", "switch,port=0.2", "nvme,port=0.2.1,size=16M,queues=4", "virtio-net,port=0.0"];
        let cards = cards.iter().map(|c| Card::parse(c).unwrap()).collect();
        let t = Topology { cards, ..Topology::default() };
        t.check().unwrap();
        assert_eq!(t.cards[2].disk_bytes(), 16 << 20);
        let sent: Topology = serde_json::from_str(&serde_json::to_string(&t).unwrap()).unwrap();
        assert_eq!(sent, t, "as it travels in a job");
        assert!(!t.has(CardKind::EndpointTest));
        let places: Vec<_> = t.consumers().into_iter().map(|c| (c.slot, c.function, c.kind.name())).collect();
        assert_eq!(places, [(vec![2, 1], 0, "nvme"), (vec![0], 0, "virtio-net")]);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, says) in [
            ("[[card]]\nkind = \"toaster\"\n", "line 2"),
            ("[[card]]\nkind = \"endpoint-test\"\ncolour = 1\n", "colour"),
            ("[[card]]\nkind = \"endpoint-test\"\nslot = \"1\"\n", "is no slot"),
            ("[[card]]\nkind = \"endpoint-test\"\nvectors = 0\n", "card 1 (slot 0, endpoint-test)"),
            ("[[card]]\nkind = \"endpoint-test\"\nslot = \"0.1\"\n", "no switch in slot 0"),
            ("[[misbehave]]\nact = \"late-msi\"\n", "no card in that slot"),
            ("[[cards]]\n", "cards"),
            ("[[card]]\nkind = \"nvme\"\nsize = \"12Q\"\n", "no size"),
            ("[[card]]\nkind = \"nvme\"\nsize = 1000\n", "1M to 512M"),
            ("[[card]]\nkind = \"nvme\"\nvectors = 3\n", "no setting vectors: it has size"),
            ("[[card]]\nkind = \"switch\"\nslots = 9\n", "1 to 8"),
            ("[[card]]\nkind = \"nvme\"\nreadonly = true\n", "are about a file"),
            ("[[card]]\nkind = \"nvme\"\nfile = \"a\"\nsize = \"4M\"\n", "has the size of its file"),
            ("[[card]]\nkind = \"virtio-blk\"\nfile = \"a\"\nreadonly = true\nscratch = true\n", "not both"),
            ("[[card]]\nkind = \"serial\"\nfile = \"a\"\n", "no setting file"),
            ("[[card]]\nkind = \"vfio-user\"\n", "socket=PATH"),
            ("[[card]]\nkind = \"vfio-user\"\nsocket = \"a\"\nlike = \"switch\"\n", "like=switch"),
            ("[[card]]\nkind = \"vfio-user\"\nsocket = \"a\"\nreadonly = true\n", "no setting readonly"),
            ("[[card]]\nkind = \"nvme\"\nlike = \"nvme\"\n", "no setting like"),
            ("[[card]]\nkind = \"switch\"\n[[card]]\nkind = \"nvme\"\n", "alone"),
            ("[[card]]\nkind = \"switch\"\n[[card]]\nkind = \"nvme\"\nslot = \"0.2\"\n", "slots 0 to 1"),
        ] {
            let e = Topology::parse(text).and_then(|t| t.check()).unwrap_err();
            assert!(format!("{e:#}").contains(says), "{text}: {e:#}");
        }
        let many = "[[card]]\nkind = \"endpoint-test\"\n".repeat(9);
        assert!(Topology::parse(&many).unwrap().check().is_err());
    }
}
