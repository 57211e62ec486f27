//! What can happen to a machine, decoded from bytes: any bytes are a machine and a sequence of operations.
//!
//! Property tests, the fuzz target and the long run share this: a fuzzer mutates bytes, proptest shrinks them towards
//! zero, and what one of them finds the others replay.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use block::Width;
use endpoints::virtio::Blk;
use endpoints::virtio::Console;
use endpoints::virtio::Net;
use endpoints::virtio::Rng;
use endpoints::EndpointTest;
use endpoints::EndpointTestSpec;
use endpoints::MemDisk;
use endpoints::Nvme;
use endpoints::NvmeSpec;
use endpoints::SerialCard;
use endpoints::SerialSpec;
use endpoints::VirtioPci;
use pcie::config::regs as pci;
use pcie::misbehave::Act;
use pcie::misbehave::Misbehaving;
use pcie::misbehave::On;
use pcie::misbehave::Rule;
use pcie::Card;
use pcie::Device;
use pcie::ErrorMessage;
use pcie::LinkFailure;
use pcie::Switch;
use pcie::SwitchSpec;
use rc_model::soc;
use rc_model::wrapper::Kind;
use rc_model::Config;
use rc_model::Event;
use rc_model::Rate;
use rc_model::Slot;
use rc_model::Soc;
use rc_model::Window;

use crate::machine::MS;
use crate::machine::MSI_TARGET;
use crate::machine::RAM;

/// Bytes of a [`Setup`].
pub const SETUP_BYTES: usize = 8;
/// Bytes of an [`Op`].
pub const OP_BYTES: usize = 16;
/// Where the stand-in's ITS takes messages.
const ITS_TRANSLATER: u64 = 0x0809_0040;
/// One access in so many goes to a window that switches others off.
const PROVIDER_SHARE: u8 = 64;
/// Size of disks: a machine is built for each case.
const DISK_BYTES: usize = 64 << 10;

/// Which machine is built.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Its SoC.
    pub soc: &'static Soc,
    /// [`Config::strict`].
    pub strict: bool,
    /// [`Config::msi_gating`].
    pub msi_gating: bool,
    /// Whether an ITS takes MSIs.
    pub its: bool,
    /// What is in the slot, if anything is there at all.
    pub card: Option<CardKind>,
    /// [`Config::slot`].
    pub slot: Slot,
    /// [`Config::rrs_count`].
    pub rrs_count: u32,
    /// [`Config::endpoint_rate`].
    pub endpoint_rate: Rate,
    /// What decides how the card misbehaves, if it does.
    pub misbehaviour: Option<u8>,
}

impl Setup {
    /// The machine that these bytes mean.
    pub fn from_bytes(b: [u8; SETUP_BYTES]) -> Setup {
        let soc = &soc::SOCS[usize::from(b[0]) % soc::SOCS.len()];
        Setup {
            soc,
            strict: b[1] & 1 != 0,
            // PARF is what gates.
            msi_gating: b[1] & 2 != 0 && soc.wrapper.kind == Kind::Qcom,
            its: b[1] & 4 != 0,
            card: CARDS[usize::from(b[2]) % CARDS.len()],
            slot: slot(b[3]),
            rrs_count: if b[4] & 1 == 0 { 0 } else { u32::from(b[4] >> 1) },
            endpoint_rate: if b[5] & 1 == 0 { Rate { speed: 3, width: 1 } } else { rate(b[6]) },
            misbehaviour: (b[7] & 3 == 3).then_some(b[7] >> 2),
        }
    }

    /// The same, to be built.
    pub fn config(&self) -> Config {
        Config {
            slot: self.slot,
            rrs_count: self.rrs_count,
            endpoint_rate: self.endpoint_rate,
            strict: self.strict,
            msi_gating: self.msi_gating,
            its_translater: self.its.then_some(ITS_TRANSLATER),
            ..Config::new(self.soc, self.card.map(|kind| self.card(kind)))
        }
    }

    fn card(&self, kind: CardKind) -> Box<dyn Card<Event>> {
        let card = kind.build();
        match self.misbehaviour {
            Some(seed) => Box::new(Misbehaving::new(card, rules(seed), u64::from(seed))),
            None => card,
        }
    }
}

/// Cards that a machine is tried with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CardKind {
    /// The endpoint-test function.
    EndpointTest,
    /// The same with all that it can have.
    Full,
    /// An NVMe controller.
    Nvme,
    /// A virtio disk.
    Blk,
    /// A virtio network interface.
    Net,
    /// A virtio console.
    Console,
    /// virtio entropy.
    Rng,
    /// A serial card.
    Serial,
    /// A switch with an endpoint-test function in one of two slots.
    Switch,
}

/// How often each is drawn: most registers are behind the first.
const CARDS: [Option<CardKind>; 16] = [
    Some(CardKind::EndpointTest),
    Some(CardKind::Nvme),
    Some(CardKind::Blk),
    Some(CardKind::Net),
    Some(CardKind::Console),
    Some(CardKind::Rng),
    Some(CardKind::Serial),
    Some(CardKind::Switch),
    Some(CardKind::Full),
    Some(CardKind::EndpointTest),
    Some(CardKind::Nvme),
    Some(CardKind::Blk),
    Some(CardKind::EndpointTest),
    Some(CardKind::EndpointTest),
    Some(CardKind::EndpointTest),
    None,
];

impl CardKind {
    fn build(self) -> Box<dyn Card<Event>> {
        let disk = || Box::new(MemDisk::new(DISK_BYTES));
        let test = || Device::single(EndpointTest::default()).boxed();
        match self {
            CardKind::EndpointTest => test(),
            CardKind::Full => Device::single(EndpointTest::with(EndpointTestSpec::full())).boxed(),
            CardKind::Nvme => Device::single(Nvme::new(NvmeSpec::new(disk(), "fuzz"))).boxed(),
            CardKind::Blk => Device::single(VirtioPci::new(Blk::new(disk(), 1, "fuzz"))).boxed(),
            CardKind::Net => Device::single(VirtioPci::new(Net::new([2, 0, 0, 0, 0, 1]))).boxed(),
            CardKind::Console => Device::single(VirtioPci::new(Console::new())).boxed(),
            CardKind::Rng => Device::single(VirtioPci::new(Rng::new(1))).boxed(),
            CardKind::Serial => Device::single(SerialCard::new(SerialSpec::default())).boxed(),
            CardKind::Switch => Switch::new(SwitchSpec::new(vec![Some(test()), None])).boxed(),
        }
    }

    /// Whether it is one function whose pin a sample shows as `ep.intx`.
    pub fn is_one_function(self) -> bool {
        self != CardKind::Switch
    }
}

/// Two rules: how they meet in one card matters more than which they are.
fn rules(seed: u8) -> Vec<Rule> {
    let rule = |n: u8| {
        let act = match n % 11 {
            0 => Act::LateMsi { delay_ns: MS },
            1 => Act::LateDma { delay_ns: MS },
            2 => Act::MsiStorm { count: 3000, every_ns: 10_000 },
            3 => Act::StuckIntx,
            4 => Act::LoseVector(0),
            5 => Act::Retry { for_ns: 20 * MS },
            6 => Act::Timeout,
            7 => Act::Unsupported,
            8 => Act::AllOnes,
            9 => Act::BarSize { bar: 0, bytes: 0x10_0000 },
            _ => Act::Link(if n & 16 == 0 { LinkFailure::Flap } else { LinkFailure::Vanish }),
        };
        let on = match n % 7 {
            0 => On::Config,
            1 => On::ConfigWrite(4),
            2 => On::MemRead,
            3 => On::MemWrite,
            4 => On::Msi,
            5 => On::BmeClear,
            _ => On::Time(u64::from(n) * 10 * MS),
        };
        Rule { nth: u64::from(n % 3) + 1, times: u64::from(n % 4), permille: 700, ..Rule::once(on, act) }
    };
    vec![rule(seed), rule(seed.rotate_left(3))]
}

/// Mostly a card: without one little happens.
fn slot(b: u8) -> Slot {
    match b % 8 {
        0 => Slot::Absent,
        1 => Slot::Mute,
        _ => Slot::Present,
    }
}

fn rate(b: u8) -> Rate {
    Rate { speed: b % 6, width: [1, 2, 4, 8, 16, 0][usize::from(b >> 4) % 6] }
}

/// How long the machine is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// So long.
    Ns(u64),
    /// To the next deadline, or one nanosecond less far.
    ToDeadline {
        /// One less.
        short: bool,
    },
}

/// One thing that happens: to registers, to time, or to the slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// A guest read.
    Read {
        /// Window of the SoC.
        win: Window,
        /// Offset; it need not lie in the window.
        off: u64,
        /// Width.
        w: Width,
    },
    /// A guest write.
    Write {
        /// Window of the SoC.
        win: Window,
        /// Offset; it need not lie in the window.
        off: u64,
        /// Width.
        w: Width,
        /// Value, with bits beyond the width.
        v: u64,
    },
    /// The guest writes to its memory, where rings and queues may be.
    Poke {
        /// From the start of memory.
        off: u16,
        /// Eight bytes.
        v: u64,
    },
    /// Time passes.
    Sleep(Pause),
    /// Link up, windows and bridge open, MSI armed: so that what follows meets a machine in use.
    BringUp,
    /// The endpoint's RAISE_* command: IRQ type and vector.
    Raise(u32, u32),
    /// Any command of the endpoint.
    Command(u32),
    /// Power applied.
    PowerOn,
    /// The core resets asserted and released.
    CoreReset,
    /// PERST# driven.
    Perst {
        /// Asserted: low.
        asserted: bool,
    },
    /// Something else in the slot.
    SetSlot(Slot),
    /// The link is lost, the card stays.
    SurpriseDown,
    /// The card's side changes its rate.
    ChangeRate(Rate),
    /// RRS after the next resets.
    SetRrs(u32),
    /// Completions get lost.
    LoseCompletions(u32),
    /// PM_PME.
    SendPme,
    /// An error message.
    SendError(ErrorMessage),
    /// The harness ends a life: sample S4.
    EndLife,
    /// Save, restore, and let both go on.
    Fork,
}

impl Op {
    /// The operation on a machine of `soc` that these bytes mean: kind, window, width and kind of value, place, offset,
    /// value.
    pub fn from_bytes(soc: &'static Soc, b: [u8; OP_BYTES]) -> Op {
        let [kind, window_choice, flags, place, ..] = b;
        let off = u32::from_le_bytes([b[4], b[5], b[6], b[7]]);
        let value = u64::from_le_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]);
        let small = value as u32 & 0xff;
        let win = window(soc, window_choice);
        let w = [Width::B4, Width::B1, Width::B2, Width::B8][usize::from(flags & 3)];
        match kind % 128 {
            0..=39 => Op::Read { win, off: offset(soc, win, place, off), w },
            40..=92 => {
                Op::Write { win, off: offset(soc, win, place, off), w, v: written(soc, flags >> 2, value) }
            }
            93..=96 => Op::Sleep(pause(place, value)),
            97..=99 => Op::Poke { off: off as u16, v: written(soc, flags >> 2, value) },
            100..=107 => Op::BringUp,
            108..=113 => Op::Raise(small % 4, if place & 1 == 0 { 1 } else { off % 40 }),
            114 => Op::Command(1 << (small % 32)),
            115 => Op::Command(value as u32),
            116 => Op::PowerOn,
            117 => Op::CoreReset,
            118 => Op::Perst { asserted: place & 1 == 0 },
            119 => Op::SetSlot(slot(place)),
            120 => Op::SurpriseDown,
            121 => Op::ChangeRate(rate(place)),
            122 => Op::SetRrs(small >> 4),
            123 => Op::LoseCompletions(small >> 4),
            124 => Op::SendPme,
            125 => Op::SendError(
                [ErrorMessage::Correctable, ErrorMessage::NonFatal, ErrorMessage::Fatal]
                    [usize::from(place) % 3],
            ),
            126 => Op::EndLife,
            _ => Op::Fork,
        }
    }
}

/// Windows that hold clocks, resets and the PHY: written at random, nothing else would ever answer.
fn is_provider(win: Window) -> bool {
    matches!(win, Window::Gpio | Window::Reset | Window::Phy)
}

fn window(soc: &Soc, choice: u8) -> Window {
    let provider = choice % PROVIDER_SHARE == PROVIDER_SHARE - 1;
    let of_kind = |provider| soc.wrapper.map.iter().map(|m| m.0).filter(move |w| is_provider(*w) == provider);
    let wanted = of_kind(provider && of_kind(true).next().is_some());
    let n = wanted.clone().count();
    wanted.into_iter().nth(usize::from(choice) % n).unwrap_or(Window::Dbi)
}

/// Offsets where registers are, by window.
static REGISTERS: LazyLock<BTreeMap<Window, Vec<u64>>> = LazyLock::new(|| {
    let mut all: BTreeMap<Window, Vec<u64>> = BTreeMap::new();
    for t in rc_model::tables() {
        let rows = t.bases.iter().flat_map(|b| t.rows.iter().map(move |r| u64::from(b + r.off)));
        all.entry(t.window).or_default().extend(rows);
    }
    let dbi = all[&Window::Dbi].clone();
    // BARs, then the headers and capabilities of the endpoint, each dword.
    let function = (0..0x40).chain(0x40..0x130).step_by(4).collect::<Vec<u64>>();
    let behind = function.iter().map(|o| (1 << 20) + o);
    all.insert(Window::Ecam, dbi.into_iter().chain(behind).collect());
    let header = pci::HEADER.iter().chain(pci::TYPE0).map(|r| u64::from(r.off));
    all.insert(Window::Config, header.chain(function).collect());
    // Test registers, first MSI-X entries, PBA and the start of the next BAR.
    all.insert(Window::Mem, (0..0x40).chain(0x80..0xc0).chain(0x1000..0x1010).step_by(4).collect());
    all
});

/// Mostly a register's offset, sometimes beside it, anywhere, or at the ends.
fn offset(soc: &Soc, win: Window, place: u8, off: u32) -> u64 {
    let (_, len) = soc.window(win);
    let known = REGISTERS.get(&win).map_or(&[][..], Vec::as_slice);
    let register = known.get(off as usize % known.len().max(1)).copied().unwrap_or(0);
    match place {
        0..=199 => register,
        200..=215 => register + u64::from(place & 7),
        216..=247 => u64::from(off) % (len + 16),
        248..=251 => len.saturating_sub(u64::from(off & 0xf)),
        252..=255 => u64::MAX - u64::from(off & 0xf),
    }
}

fn written(soc: &Soc, kind: u8, v: u64) -> u64 {
    let (mem, len) = soc.window(Window::Mem);
    match kind % 8 {
        0 => v,
        1 => 0,
        2 => u64::MAX,
        3 => 1 << (v & 63),
        4 => v & 0xff,
        5 => RAM + (v & 0xffff),
        6 => MSI_TARGET | (v & 3),
        _ => mem + v % len.max(1),
    }
}

fn pause(place: u8, v: u64) -> Pause {
    match place % 8 {
        0 => Pause::ToDeadline { short: false },
        1 => Pause::ToDeadline { short: true },
        2 => Pause::Ns(v % 1000),
        _ => Pause::Ns(v % (40 * MS)),
    }
}
