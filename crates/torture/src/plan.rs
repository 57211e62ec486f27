//! What to do: the plan of a run.

use block::splitmix64;
use guest_agent::IrqKind;
use guest_agent::Op;
use pcie::SlotEvent;
use serde::Deserialize;
use serde::Serialize;

use crate::consumer::Consumer;
use crate::defect::Defect;
use crate::script::Script;

/// The plan of a torture run, as it travels to the machine that executes it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Driver under test.
    pub target: Target,
    /// Cycles to run, at least 1.
    pub cycles: u32,
    /// Seed of every choice that the plan leaves open.
    pub seed: u64,
    /// MSI vectors to raise per cycle, 1–32.
    pub msi_vectors: u32,
    /// MSI-X vectors to raise per cycle, 1–32.
    pub msix_vectors: u32,
    /// Whether an endpoint is there to be found and used.
    pub endpoint: bool,
    /// Cards beside it whose drivers are made to work.
    pub consumers: Vec<Consumer>,
    /// Whether a file system is made, used and unmounted on each disk (the image has a busybox and ext2 then).
    pub filesystem: bool,
    /// The endpoint's driver is rcvm_defect with this defect, instead of pci_endpoint_test.
    pub defect: Option<Defect>,
    /// What happens to the link in each cycle, between use and teardown, in this order.
    pub disturbances: Vec<Disturbance>,
    /// What each cycle does instead.
    #[serde(default)]
    pub script: Option<Script>,
    /// Rules by which cards misbehave: how many there are.
    pub misbehaviours: u32,
    /// Whether one of them takes the card away.
    pub vanishes: bool,
    /// Who is asked about IRQ mappings.
    pub irq_views: IrqViews,
    /// Hardware vectors that iMSI-RX has for all functions together.
    pub hwirqs: u32,
    /// Longest wait for the agent's first message, ms.
    pub boot_timeout_ms: u64,
    /// Longest wait for one operation, ms.
    pub op_timeout_ms: u64,
    /// Longest wait in the guest for the endpoint to be enumerated and bound, ms.
    pub enumerate_timeout_ms: u64,
}

/// Who is asked about IRQ mappings and domains.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IrqViews {
    /// Guest memory, as the host reads it, and the guest's own files as a cross-check.
    #[default]
    Both,
    /// Guest memory only.
    Memory,
    /// The guest's own files only.
    Agent,
}

/// The driver under test and its device, as Linux names them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Platform driver, e.g. `qcom-pcie`.
    pub driver: String,
    /// Platform device, e.g. `1c00000.pcie`.
    pub device: String,
    /// Module file without suffix, e.g. `pcie-qcom`.
    pub module: String,
}

impl Target {
    /// Of the root complex of `soc`.
    pub fn of(soc: &rc_model::Soc) -> Target {
        let w = soc.wrapper;
        Target { driver: w.driver.into(), device: w.device(), module: w.module.into() }
    }

    /// The module's name in the kernel.
    pub fn module_name(&self) -> String {
        self.module.replace('-', "_")
    }
}

/// Bus of the drivers under test.
pub(crate) const PLATFORM: &str = "platform";

/// The root port.
pub(crate) const ROOT_PORT: &str = "0000:00:00.0";

/// MSI and MSI-X vectors of the endpoint-test function.
const FUNCTION_VECTORS: u32 = 32;

impl Default for Plan {
    fn default() -> Plan {
        Plan {
            target: Target::of(&rc_model::soc::SM8250),
            cycles: 20,
            seed: 1,
            msi_vectors: 32,
            msix_vectors: 32,
            endpoint: true,
            consumers: Vec::new(),
            filesystem: false,
            defect: None,
            disturbances: Vec::new(),
            script: None,
            misbehaviours: 0,
            vanishes: false,
            irq_views: IrqViews::Both,
            hwirqs: 256,
            boot_timeout_ms: 60_000,
            op_timeout_ms: 60_000,
            enumerate_timeout_ms: 20_000,
        }
    }
}

impl Plan {
    /// Wait for the root port and its driver.
    pub fn wait_port(&self) -> Op {
        Op::WaitDevice {
            address: ROOT_PORT.into(),
            driver: "pcieport".into(),
            timeout_ms: self.enumerate_timeout_ms,
        }
    }

    /// Whether the card may be gone after a cycle, and has to be put back.
    pub fn card_goes(&self) -> bool {
        self.vanishes || self.disturbances.contains(&Disturbance::SurpriseRemoval)
    }

    /// Slots of switches that have cards, outermost first, each once.
    pub fn switch_slots(&self) -> Vec<Vec<u8>> {
        let mut slots: Vec<_> =
            self.consumers.iter().map(|c| c.slot.clone()).filter(|s| !s.is_empty()).collect();
        slots.sort_unstable();
        slots.dedup();
        slots
    }

    /// Fewest vectors of `kind` that the driver has to get, up to `wanted`.
    ///
    /// pci_endpoint_test asks for all that its function has, whatever we raise. The root port's services hold one. MSI takes an
    /// aligned block of a power of two: with one vector gone, half of what there is is the largest, and a driver that does
    /// not get all gets one.
    pub fn least_vectors(&self, kind: IrqKind, wanted: u32) -> u32 {
        let enough = match kind {
            IrqKind::Intx => true,
            IrqKind::Msi => 2 * FUNCTION_VECTORS <= self.hwirqs,
            IrqKind::MsiX => FUNCTION_VECTORS < self.hwirqs,
        };
        if enough {
            wanted
        } else {
            1
        }
    }
}

/// Physical slot number of a slot of a switch: its own for each way of at most three numbers of one octal digit.
pub fn slot_number(slot: &[u8]) -> u16 {
    slot.iter().fold(0, |v: u16, n| v.wrapping_mul(8).wrapping_add(u16::from(*n)).wrapping_add(1))
}

/// Something that happens to the link or the machine while the driver is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Disturbance {
    /// The guest suspends to idle and the clock wakes it.
    Suspend,
    /// The same while the endpoint has no driver: a kernel that can then turns the link off (L2) and the controller too.
    SuspendL2,
    /// The endpoint's `reset` attribute: a secondary bus reset, or what the kernel has instead.
    Reset,
    /// LNKCTL.RL of the root port.
    Retrain,
    /// LNKCTL.LD of the root port for 10 ms: the endpoint comes back unconfigured.
    LinkDisable,
    /// The link is lost by itself, and trains again.
    LinkLoss,
    /// The card is pulled, and stays away until the next cycle.
    SurpriseRemoval,
    /// The cards in slots of switches are pulled at once, put back, and have to work again.
    HotSwap,
    /// The same, but the guest takes them out of service first.
    HotPlug,
    /// Drivers of the other functions of the endpoint's device are unbound while it interrupts, and it is while they work.
    Neighbour,
}

/// Something that the world does to a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This happens to a slot of a switch: the way there is slot numbers from the switch in the root port's slot down.
    Slot(Vec<u8>, SlotEvent),
    /// The link is lost; the card stays.
    LoseLink,
    /// The card is pulled.
    Pull,
    /// The card is put back.
    Insert,
}

impl Disturbance {
    /// Name in reports and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Disturbance::Suspend => "suspend",
            Disturbance::SuspendL2 => "suspend-l2",
            Disturbance::Reset => "reset",
            Disturbance::Retrain => "retrain",
            Disturbance::LinkDisable => "link-disable",
            Disturbance::LinkLoss => "link-loss",
            Disturbance::SurpriseRemoval => "surprise-removal",
            Disturbance::HotSwap => "hot-swap",
            Disturbance::HotPlug => "hot-plug",
            Disturbance::Neighbour => "neighbour",
        }
    }

    /// Whether the endpoint has to work afterwards as before: the kernel restores it, or it never lost anything.
    pub const fn spares_endpoint(self) -> bool {
        matches!(
            self,
            Self::Suspend | Self::SuspendL2 | Self::Reset | Self::Retrain | Self::HotSwap | Self::HotPlug
        )
    }
}

/// How a cycle brings the driver up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Load {
    /// insmod: the platform bus probes the device by itself.
    Insmod,
    /// The module is loaded; write to the driver's `bind`.
    Bind,
}

/// How a cycle tears the driver down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Teardown {
    /// rmmod with the device bound.
    Rmmod,
    /// Write to the driver's `unbind`; the module stays.
    Unbind,
}

impl Load {
    /// What the guest has to do.
    pub fn op(self, t: &Target) -> Op {
        match self {
            Load::Insmod => Op::Insmod { module: t.module.clone(), params: String::new() },
            Load::Bind => {
                Op::Bind { bus: PLATFORM.into(), driver: t.driver.clone(), device: t.device.clone() }
            }
        }
    }

    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Load::Insmod => "insmod",
            Load::Bind => "bind",
        }
    }
}

impl Teardown {
    /// What the guest has to do.
    pub fn op(self, t: &Target) -> Op {
        match self {
            Teardown::Rmmod => Op::Rmmod { module: t.module_name() },
            Teardown::Unbind => {
                Op::Unbind { bus: PLATFORM.into(), driver: t.driver.clone(), device: t.device.clone() }
            }
        }
    }

    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Teardown::Rmmod => "rmmod",
            Teardown::Unbind => "unbind",
        }
    }
}

/// The choices of one cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CyclePlan {
    /// Cycle, from 1.
    pub number: u32,
    /// How it comes up.
    pub load: Load,
    /// How it goes down.
    pub teardown: Teardown,
    /// Which kind of interrupt the endpoint driver holds when it is torn down.
    pub held: IrqKind,
}

impl Plan {
    /// The choices of cycle `number` (from 1).
    ///
    /// Load and teardown run through all four combinations: insmod–rmmod, insmod–unbind, bind–unbind, bind–rmmod. A
    /// teardown by unbind leaves the module loaded, so the next cycle binds; rmmod makes the next one insmod.
    pub fn cycle(&self, number: u32) -> CyclePlan {
        let (load, teardown) = match number % 4 {
            1 => (Load::Insmod, Teardown::Rmmod),
            2 => (Load::Insmod, Teardown::Unbind),
            3 => (Load::Bind, Teardown::Unbind),
            _ => (Load::Bind, Teardown::Rmmod),
        };
        let held = match splitmix64(self.seed ^ (u64::from(number) << 32)) % 3 {
            0 => IrqKind::MsiX,
            1 => IrqKind::Intx,
            _ => IrqKind::Msi,
        };
        CyclePlan { number, load, teardown, held }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_have_numbers_of_their_own() {
        let mut all: Vec<u16> = Vec::new();
        for a in 0..8 {
            all.push(slot_number(&[a]));
            for b in 0..8 {
                all.push(slot_number(&[a, b]));
                all.extend((0..8).map(|c| slot_number(&[a, b, c])));
            }
        }
        all.sort_unstable();
        let n = all.len();
        all.dedup();
        assert_eq!((all.len(), all.first(), all.last()), (n, Some(&1), Some(&584)));
    }

    #[test]
    fn a_single_msi_line_has_too_few_vectors_for_a_block_of_32() {
        let plan = |hwirqs| Plan { hwirqs, ..Plan::default() };
        for (hwirqs, kind, least) in [
            (256, IrqKind::Msi, 32),
            (256, IrqKind::MsiX, 32),
            (32, IrqKind::Msi, 1),
            (32, IrqKind::MsiX, 1),
            (32, IrqKind::Intx, 32),
        ] {
            assert_eq!(plan(hwirqs).least_vectors(kind, 32), least, "{hwirqs} {kind:?}");
        }
        assert_eq!(plan(32).least_vectors(IrqKind::Msi, 2), 1, "it is the driver that asks, and for all");
        assert_eq!(plan(256).least_vectors(IrqKind::Msi, 2), 2);
    }

    #[test]
    fn a_bind_always_follows_an_unbind_and_an_insmod_a_rmmod() {
        let plan = Plan::default();
        let mut loaded = false;
        for n in 1..100 {
            let c = plan.cycle(n);
            assert_eq!(c.load == Load::Bind, loaded, "cycle {n}");
            loaded = c.teardown == Teardown::Unbind;
        }
    }

    #[test]
    fn four_cycles_cover_all_combinations() {
        let plan = Plan::default();
        let mut seen: Vec<_> =
            (1..5).map(|n| (plan.cycle(n).load.name(), plan.cycle(n).teardown.name())).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 4);
    }

    #[test]
    fn the_seed_decides_what_is_held_and_20_cycles_hold_each_kind() {
        let held = |seed| (1..21).map(|n| Plan { seed, ..Plan::default() }.cycle(n).held).collect::<Vec<_>>();
        assert_eq!(held(1), held(1));
        assert_ne!(held(1), held(2));
        for kind in [IrqKind::Intx, IrqKind::Msi, IrqKind::MsiX] {
            assert!(held(1).contains(&kind), "{kind:?}");
        }
    }
}
