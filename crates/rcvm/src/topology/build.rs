//! From a topology to the model's cards.

use std::time::Duration;

use anyhow::Context;
use anyhow::Result;
use endpoints::serial::Line;
use endpoints::virtio::Blk;
use endpoints::virtio::Console;
use endpoints::virtio::Net;
use endpoints::virtio::Rng;
use endpoints::Disk;
use endpoints::EndpointTest;
use endpoints::EndpointTestSpec;
use endpoints::MemDisk;
use endpoints::Nvme;
use endpoints::NvmeSpec;
use endpoints::SerialCard;
use endpoints::SerialSpec;
use endpoints::VirtioPci;
use pcie::misbehave::Misbehaving;
use pcie::Device;
use pcie::Function;
use pcie::Switch;
use pcie::SwitchSpec;
use rc_model::Event;
use vfio_user_endpoint::relay;
use vfio_user_endpoint::VfioUser;
use vfio_user_endpoint::VfioUserSpec;

use super::file_disk::FileDisk;
use super::Card;
use super::CardKind;
use super::SlotPath;
use super::Topology;

/// Longest time of one exchange with a server at the other end of a relay: this machine is emulated, and may be one of many.
const RELAYED_TIMEOUT: Duration = Duration::from_secs(5);

type BoxedCard = Box<dyn pcie::Card<Event>>;

impl Topology {
    /// The card in the root port's slot; `None`: it is empty. `seed` decides what cards leave to chance, `link` leads to the
    /// servers of vfio-user cards if they are on another machine.
    pub fn build(&self, seed: u64, link: Option<&relay::Link>) -> Result<Option<BoxedCard>> {
        Builder { topology: self, seed, link }.slot(&SlotPath::default())
    }
}

/// What the construction of every card has at hand.
struct Builder<'a> {
    topology: &'a Topology,
    seed: u64,
    link: Option<&'a relay::Link>,
}

impl Builder<'_> {
    fn slot(&self, slot: &SlotPath) -> Result<Option<BoxedCard>> {
        let switch = self.topology.in_slot(slot).find(|c| c.kind == CardKind::Switch);
        let card = match switch {
            Some(switch) => self.switch(switch)?,
            None => {
                let functions = self.topology.in_slot(slot).enumerate().map(|(n, c)| self.function(c, n));
                let functions = functions.collect::<Result<Vec<_>>>()?;
                if functions.is_empty() {
                    return Ok(None);
                }
                Device::new(functions).boxed()
            }
        };
        let rules = self.topology.misbehaviours.iter().filter(|m| m.slot == *slot).map(|m| m.rule());
        let rules = rules.collect::<Result<Vec<_>>>()?;
        Ok(Some(if rules.is_empty() { card } else { Box::new(Misbehaving::new(card, rules, self.seed)) }))
    }

    fn switch(&self, card: &Card) -> Result<BoxedCard> {
        let slots = (0..card.slots()).map(|n| self.slot(&card.slot.child(n)));
        let spec = SwitchSpec {
            attention_button: card.attention_button.unwrap_or(false),
            power_control: card.power_control.unwrap_or(false),
            first_slot: torture::plan::slot_number(card.slot.child(0).numbers()),
            ..SwitchSpec::new(slots.collect::<Result<_>>()?)
        };
        Ok(Switch::new(spec).boxed())
    }

    fn function(&self, card: &Card, n: usize) -> Result<Box<dyn Function<Event>>> {
        match card.kind {
            CardKind::VfioUser => Ok(Box::new(self.vfio_user(card)?)),
            _ => function(card, n, self.seed),
        }
    }

    fn vfio_user(&self, card: &Card) -> Result<VfioUser> {
        let socket = card.socket.clone().context("a vfio-user card without socket")?;
        let at = format!("vfio-user card in slot {}, socket {}", card.slot, socket.display());
        let connected = match self.link {
            None => VfioUser::connect(&VfioUserSpec::new(socket)),
            Some(link) => {
                let number = self.topology.channel(card).context("a vfio-user card without channel")?;
                VfioUser::through(link.channel(number), RELAYED_TIMEOUT)
            }
        };
        connected.context(at)
    }
}

/// Function `n` of a device.
fn function(card: &Card, n: usize, seed: u64) -> Result<Box<dyn Function<Event>>> {
    let latency_ns = card.latency_us.unwrap_or(0).saturating_mul(1000);
    // Two of a kind are told apart by what they are called.
    let serial = format!("rcvm-{}-{n}", card.slot);
    Ok(match card.kind {
        // A switch is no function, and a vfio-user card is not built here.
        CardKind::EndpointTest | CardKind::Switch | CardKind::VfioUser => {
            Box::new(EndpointTest::with(endpoint_test(card, seed)))
        }
        CardKind::Serial => Box::new(SerialCard::new(SerialSpec {
            pin: card.pin.map_or(1, |p| p as u8 + 1),
            line: Line { echo: true, paced: card.paced.unwrap_or(false) },
        })),
        CardKind::Nvme => Box::new(Nvme::new(NvmeSpec {
            io_queues: card.queues.unwrap_or(8),
            block_bytes: card.block.unwrap_or(512),
            latency_ns,
            ..NvmeSpec::new(disk(card)?, &serial)
        })),
        CardKind::VirtioRng => Box::new(VirtioPci::new(Rng::new(seed)).with_latency_ns(latency_ns)),
        CardKind::VirtioBlk => {
            let blk = Blk::new(disk(card)?, card.queues.unwrap_or(1), &serial);
            Box::new(VirtioPci::new(blk).with_latency_ns(latency_ns))
        }
        CardKind::VirtioConsole => Box::new(VirtioPci::new(Console::new()).with_latency_ns(latency_ns)),
        CardKind::VirtioNet => Box::new(VirtioPci::new(Net::new(mac(card, n))).with_latency_ns(latency_ns)),
    })
}

fn disk(card: &Card) -> Result<Box<dyn Disk>> {
    let Some(path) = &card.file else { return Ok(Box::new(MemDisk::new(card.disk_bytes() as usize))) };
    let opened = FileDisk::open(path, card.is_read_only());
    Ok(Box::new(opened.with_context(|| format!("disk in slot {}: file {}", card.slot, path.display()))?))
}

fn endpoint_test(card: &Card, seed: u64) -> EndpointTestSpec {
    let spec = if card.full == Some(true) { EndpointTestSpec::full() } else { EndpointTestSpec::default() };
    EndpointTestSpec { seed, msix_vectors: card.vectors.unwrap_or(spec.msix_vectors), ..spec }
}

/// A locally administered address of its own for each slot and function.
fn mac(card: &Card, n: usize) -> [u8; 6] {
    let slot = card.slot.numbers().iter().fold(0u16, |v, n| (v << 4) | (u16::from(*n) + 1));
    let [hi, lo] = slot.to_be_bytes();
    [0x02, 0x72, 0x63, hi, lo, n as u8]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Misbehaviour;

    #[test]
    fn nothing_in_the_slot_and_functions_in_it() {
        assert!(Topology::default().build(1, None).unwrap().is_none());
        let mut t = Topology::endpoint_test();
        t.cards.extend(t.cards.clone());
        let card = t.build(1, None).unwrap().unwrap();
        let mut functions = Vec::new();
        card.sample("", &mut |item, _| functions.extend(item.strip_suffix(".command").map(str::to_owned)));
        assert_eq!(functions, ["ep", "ep:1"]);
    }

    #[test]
    fn every_kind_is_built_where_it_is_said_to_be() {
        let cards = [
            "switch,slots=4",
            "nvme,port=0.0",
            "virtio-blk,port=0.1",
            "virtio-net,port=0.1",
            "virtio-rng,port=0.3",
        ];
        let cards = cards.iter().map(|c| Card::parse(c).unwrap()).collect();
        let card = Topology { cards, ..Topology::default() }.build(1, None).unwrap().unwrap();
        let mut items = Vec::new();
        card.sample("", &mut |item, _| items.push(item.to_owned()));
        for has in [
            "sw.port[3].dllla",
            "ep/0.nvme.enabled",
            "ep/1.virtio.status",
            "ep/1:1.virtio.status",
            "ep/3.virtio.status",
        ] {
            assert!(items.iter().any(|i| i == has), "{has}");
        }
        assert!(!items.iter().any(|i| i.starts_with("ep/2")), "an empty slot");
    }

    #[test]
    fn a_server_that_is_not_there_is_named() {
        let card = Card::parse("vfio-user,socket=/nonexistent/socket").unwrap();
        let e = Topology { cards: vec![card], ..Topology::default() }.build(1, None).err().unwrap();
        let says = format!("{e:#}");
        assert!(says.contains("slot 0") && says.contains("/nonexistent/socket"), "{says}");
    }

    #[test]
    fn misbehaviour_is_a_layer_in_front_of_its_slots_card() {
        let mut t = Topology::endpoint_test();
        t.misbehaviours.push(Misbehaviour::parse("late-msi").unwrap());
        let card = t.build(1, None).unwrap().unwrap();
        let mut counted = false;
        card.sample("", &mut |item, _| counted |= item == "misbehaved");
        assert!(counted);
    }
}
