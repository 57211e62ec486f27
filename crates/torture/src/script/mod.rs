//! What each cycle does, as a plan file says it: steps, choices between steps, and lanes that run at the same time.
//!
//! A cycle begins with the driver under test unbound and ends so: what is still bound after the last step is unbound. Then the
//! same checks follow as after any teardown. Choices are functions of seed, cycle and place in the plan, so a seed means the same
//! everywhere.

pub mod builtin;
mod parse;

use block::splitmix64;
use guest_agent::IrqKind;
use guest_agent::Lane as GuestLane;
use guest_agent::Op;
use serde::Deserialize;
use serde::Serialize;

pub use parse::parse;
pub use parse::ParseError;

use crate::engine::ENDPOINT_DRIVER;
use crate::plan::Load;
use crate::plan::Target;
use crate::plan::Teardown;
use crate::stall::StallRule;

/// Where the endpoint-test function is if it is in the root port's slot.
pub(crate) const ENDPOINT: &str = "0000:01:00.0";

/// A plan file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Script {
    /// What it is called in reports.
    pub name: String,
    /// One line for a list of plans.
    pub about: String,
    /// Cycles, if the command line does not say.
    pub cycles: Option<u32>,
    /// What each cycle does.
    pub steps: Vec<Step>,
}

/// One step of a cycle.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// One operation.
    Do(Act),
    /// One of these, by weight and seed.
    OneOf(Vec<Choice>),
    /// All of these at the same time.
    Lanes(Vec<Lane>),
}

/// One of several ways.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    /// How likely beside the others, at least 1.
    pub weight: u32,
    /// What it is.
    pub steps: Vec<Step>,
}

/// Operations that run in order beside those of other lanes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lane {
    /// Name in reports.
    pub name: String,
    /// How often; 0: as long as a lane that has a number runs.
    pub times: u32,
    /// The guest's CPU that it runs on; `None`: any.
    pub cpu: Option<u32>,
    /// What it does.
    pub acts: Vec<Act>,
}

/// An operation and how it is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Act {
    /// Which.
    pub what: What,
    /// Its failure is a result, not a finding.
    pub may_fail: bool,
    /// Let the n-th place that can have a fault injected fail on the way; of a range, which is the seed's choice.
    pub fail_nth: Option<(u32, u32)>,
}

/// The operations of plans.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// Insert the module if it is not there, else bind.
    Up,
    /// Unbind or remove the module, by seed, if it is bound.
    Down,
    /// Insert the module under test.
    Insmod,
    /// Remove it.
    Rmmod,
    /// Bind the driver under test.
    Bind,
    /// Unbind it.
    Unbind,
    /// What a cycle without a plan does between load and teardown: find the endpoint and the cards, and make them work.
    Use,
    /// Have the endpoint raise vectors of one kind.
    Raise {
        /// Kind.
        kind: IrqKind,
        /// How many, 1 to 32.
        vectors: u32,
    },
    /// Have the endpoint raise one vector of the kind that it holds.
    Fire {
        /// Kind.
        kind: IrqKind,
        /// Which, 1 to 32.
        vector: u32,
    },
    /// Read a file of /proc or /sys.
    Read {
        /// Path.
        path: String,
    },
    /// Write to one.
    Write {
        /// Path.
        path: String,
        /// Text.
        text: String,
    },
    /// Read the configuration space of every function, as lspci does.
    Lspci,
    /// Rescan the PCI buses.
    Rescan,
    /// Remove a PCI device.
    Remove {
        /// Its address.
        device: String,
    },
    /// Reset a function.
    Reset {
        /// Its address.
        device: String,
    },
    /// Bind the endpoint-test driver.
    BindEndpoint {
        /// Address of the function.
        device: String,
    },
    /// Unbind it.
    UnbindEndpoint {
        /// Address of the function.
        device: String,
    },
    /// Retrain the root port's link.
    Retrain,
    /// Disable the root port's link for 10 ms.
    LinkDisable,
    /// The link is lost, and trains again.
    LinkLoss,
    /// The card is pulled.
    Pull,
    /// The card is put back.
    Insert,
    /// Suspend to idle.
    Suspend {
        /// From now to the alarm.
        seconds: u32,
    },
    /// Take a CPU off line or back.
    Cpu {
        /// Which.
        cpu: u32,
        /// Whether it is to be there.
        online: bool,
    },
    /// Ask for all interrupts to go to these CPUs.
    Affinity {
        /// As in `smp_affinity_list`.
        cpus: String,
    },
    /// Let guest time pass.
    Pause {
        /// How much, ms.
        ms: u64,
    },
    /// Hold an access of the guest to a register; see [`StallRule`].
    Stall(StallRule),
    /// Check now, as after a teardown: the driver must not be bound.
    Check,
}

impl What {
    /// Name in plan files and reports.
    pub const fn name(&self) -> &'static str {
        match self {
            What::Up => "up",
            What::Down => "down",
            What::Insmod => "insmod",
            What::Rmmod => "rmmod",
            What::Bind => "bind",
            What::Unbind => "unbind",
            What::Use => "use",
            What::Raise { .. } => "raise",
            What::Fire { .. } => "fire",
            What::Read { .. } => "read",
            What::Write { .. } => "write",
            What::Lspci => "lspci",
            What::Rescan => "rescan",
            What::Remove { .. } => "remove",
            What::Reset { .. } => "reset",
            What::BindEndpoint { .. } => "bind-endpoint",
            What::UnbindEndpoint { .. } => "unbind-endpoint",
            What::Retrain => "retrain",
            What::LinkDisable => "link-disable",
            What::LinkLoss => "link-loss",
            What::Pull => "pull",
            What::Insert => "insert",
            What::Suspend { .. } => "suspend",
            What::Cpu { .. } => "cpu",
            What::Affinity { .. } => "affinity",
            What::Pause { .. } => "pause",
            What::Stall(_) => "stall",
            What::Check => "check",
        }
    }

    /// What the agent has to do for it; `None`: the harness does it, or the driver's state decides.
    pub fn op(&self, target: &Target) -> Option<Op> {
        let endpoint = |device: &String| (String::from("pci"), ENDPOINT_DRIVER.to_owned(), device.clone());
        let write = |path: String, text: &str| Op::WriteFile { path, text: text.into() };
        let port = |bits, hold_ms| Op::LinkControl { address: crate::plan::ROOT_PORT.into(), bits, hold_ms };
        Some(match self {
            What::Insmod => Load::Insmod.op(target),
            What::Bind => Load::Bind.op(target),
            What::Rmmod => Teardown::Rmmod.op(target),
            What::Unbind => Teardown::Unbind.op(target),
            What::Raise { kind, vectors } => {
                Op::ExerciseIrqs { kind: *kind, vectors: *vectors, shun: Vec::new() }
            }
            What::Fire { kind, vector } => Op::Fire { kind: *kind, vector: *vector },
            What::Read { path } => Op::ReadFile { path: path.clone(), max_bytes: READ_BYTES },
            What::Write { path, text } => write(path.clone(), text),
            What::Lspci => Op::PciConfig { address: String::new() },
            What::Rescan => write("/sys/bus/pci/rescan".into(), "1"),
            What::Remove { device } => write(format!("/sys/bus/pci/devices/{device}/remove"), "1"),
            What::Reset { device } => Op::ResetFunction { address: device.clone() },
            What::BindEndpoint { device } => {
                let (bus, driver, device) = endpoint(device);
                Op::Bind { bus, driver, device }
            }
            What::UnbindEndpoint { device } => {
                let (bus, driver, device) = endpoint(device);
                Op::Unbind { bus, driver, device }
            }
            What::Retrain => port(crate::engine::LNKCTL_RL, 0),
            What::LinkDisable => port(crate::engine::LNKCTL_LD, crate::engine::LINK_DISABLE_MS),
            What::Suspend { seconds } => Op::Suspend { seconds: *seconds },
            What::Cpu { cpu, online } => {
                write(format!("/sys/devices/system/cpu/cpu{cpu}/online"), if *online { "1" } else { "0" })
            }
            What::Affinity { cpus } => Op::Affinity { cpus: cpus.clone() },
            What::Pause { ms } => Op::Pause { ms: *ms },
            What::Up
            | What::Down
            | What::Use
            | What::LinkLoss
            | What::Pull
            | What::Insert
            | What::Stall(_)
            | What::Check => return None,
        })
    }
}

/// Enough of /proc/interrupts for the kernel to walk all of it.
const READ_BYTES: u32 = 256 << 10;

impl Act {
    /// Once, and it must succeed.
    pub fn new(what: What) -> Act {
        Act { what, may_fail: false, fail_nth: None }
    }

    /// What the agent has to do, with the fault that `draw` chooses.
    pub fn op(&self, target: &Target, draw: u64) -> Option<Op> {
        let op = self.what.op(target)?;
        Some(match self.fail_nth {
            None => op,
            Some(range) => Op::FailNth { nth: within(range, draw), op: Box::new(op) },
        })
    }
}

fn within((first, last): (u32, u32), draw: u64) -> u32 {
    let n = u64::from(last.saturating_sub(first)) + 1;
    first.saturating_add((draw % n) as u32)
}

/// An action of a cycle after its choices are made.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// One operation, with the number that its own choices come from.
    Act(Act, u64),
    /// Lanes at the same time, each with whether it may achieve nothing.
    Lanes(Vec<(GuestLane, bool)>),
}

impl Script {
    /// What cycle `number` (from 1) does with `seed`.
    pub fn cycle(&self, seed: u64, number: u32, target: &Target) -> Vec<Action> {
        let mut draws = Draws { seed: splitmix64(seed ^ (u64::from(number) << 32)), taken: 0 };
        let mut actions = Vec::new();
        unfold(&self.steps, target, &mut draws, &mut actions);
        actions
    }
}

/// Numbers of one cycle, in the order in which its plan asks for them.
struct Draws {
    seed: u64,
    taken: u64,
}

impl Draws {
    fn next(&mut self) -> u64 {
        self.taken += 1;
        splitmix64(self.seed ^ self.taken)
    }
}

fn unfold(steps: &[Step], target: &Target, draws: &mut Draws, actions: &mut Vec<Action>) {
    for step in steps {
        match step {
            Step::Do(act) => actions.push(Action::Act(act.clone(), draws.next())),
            Step::OneOf(choices) => {
                let total = choices.iter().map(|c| u64::from(c.weight)).sum::<u64>().max(1);
                let mut left = draws.next() % total;
                for c in choices {
                    if left < u64::from(c.weight) {
                        unfold(&c.steps, target, draws, actions);
                        break;
                    }
                    left -= u64::from(c.weight);
                }
            }
            Step::Lanes(lanes) => {
                let mut guest = |l: &Lane| {
                    let ops = l.acts.iter().filter_map(|a| a.op(target, draws.next())).collect();
                    let lane = GuestLane { name: l.name.clone(), times: l.times, cpu: l.cpu, ops };
                    (lane, l.acts.iter().all(|a| a.may_fail))
                };
                actions.push(Action::Lanes(lanes.iter().map(&mut guest).collect()));
            }
        }
    }
}

#[cfg(test)]
#[path = "script_test.rs"]
mod tests;
