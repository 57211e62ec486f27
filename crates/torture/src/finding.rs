//! Findings: what was wrong, where it was seen, and the evidence.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

/// What kind of trouble a finding is (design §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// An IRQ mapping or domain that did not exist before the first probe is still there after teardown.
    IrqLeak,
    /// An IRQ mapping is left whose domain is gone: the kernel keeps a pointer to freed memory.
    IrqDangling,
    /// An IRQ mapping or domain that existed before the first probe is gone.
    IrqLost,
    /// The kernel's IRQ structures contradict one another, or lead nowhere.
    IrqCorrupt,
    /// The guest's files and its memory say different things of the same moment: one of the two checks is wrong.
    ViewDisagreement,
    /// A device, or a reference to a module, that did not exist before the first probe is still there after teardown.
    DeviceLeak,
    /// A raised interrupt did not reach its handler.
    IrqUndelivered,
    /// A function tried DMA after it should have been quiet.
    DmaAfterStop,
    /// An MSI went somewhere else than the controller.
    RogueMsi,
    /// An access to a block whose clock was off or that was in reset.
    GatedAccess,
    /// The guest programmed or accessed the device side as no correct driver does.
    BadInput,
    /// A register or line of the device side is not in the state that a clean teardown leaves.
    RegisterResidue,
    /// What was written to a disk and flushed is not there.
    DataLoss,
    /// The guest kernel printed a warning or an oops.
    KernelSplat,
    /// The guest did not answer in time.
    Hang,
    /// The guest crashed, reset itself or the VMM had to stop it.
    Crash,
    /// An operation of the cycle failed.
    OperationFailed,
    /// The guest ended, crashed or kept silent before its agent reported: nothing was tested.
    BootFailed,
}

impl Class {
    /// Whether the guest's memory at the moment of the finding says more than the finding.
    pub const fn wants_core(self) -> bool {
        matches!(
            self,
            Class::IrqLeak
                | Class::IrqDangling
                | Class::IrqLost
                | Class::IrqCorrupt
                | Class::ViewDisagreement
                | Class::DeviceLeak
                | Class::KernelSplat
                | Class::Hang
                | Class::Crash
        )
    }

    /// The name used in reports, e.g. `irq-leak`.
    pub const fn name(self) -> &'static str {
        match self {
            Class::IrqLeak => "irq-leak",
            Class::IrqDangling => "irq-dangling",
            Class::IrqLost => "irq-lost",
            Class::IrqCorrupt => "irq-corrupt",
            Class::ViewDisagreement => "view-disagreement",
            Class::DeviceLeak => "device-leak",
            Class::IrqUndelivered => "irq-undelivered",
            Class::DmaAfterStop => "dma-after-stop",
            Class::RogueMsi => "rogue-msi",
            Class::GatedAccess => "gated-access",
            Class::BadInput => "bad-input",
            Class::RegisterResidue => "register-residue",
            Class::DataLoss => "data-loss",
            Class::KernelSplat => "kernel-splat",
            Class::Hang => "hang",
            Class::Crash => "crash",
            Class::OperationFailed => "operation-failed",
            Class::BootFailed => "boot-failed",
        }
    }
}

/// Who saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Source {
    /// Our root complex, MSI controller or endpoint.
    DeviceModel,
    /// The GIC, read through KVM.
    Gic,
    /// The guest's sysfs and debugfs, through the agent.
    GuestKernel,
    /// The guest's memory, read by the host with the vCPUs paused.
    GuestMemory,
    /// The guest's console.
    Console,
    /// The harness itself.
    Harness,
}

impl Source {
    /// The name used in reports, e.g. `guest-memory`.
    pub const fn name(self) -> &'static str {
        match self {
            Source::DeviceModel => "device-model",
            Source::Gic => "gic",
            Source::GuestKernel => "guest-kernel",
            Source::GuestMemory => "guest-memory",
            Source::Console => "console",
            Source::Harness => "harness",
        }
    }
}

/// One finding. Equal `rule`s of later cycles are merged into the first one by the report.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// Kind of trouble.
    pub class: Class,
    /// Stable name of the check that failed, e.g. `S3 msi.enable[0]`: equal rules are the same finding.
    pub rule: String,
    /// Cycle, from 1; 0 before the first.
    pub cycle: u32,
    /// Operation during or after which it was seen, e.g. `unbind`.
    pub operation: String,
    /// One line for a human.
    pub summary: String,
    /// Who saw it.
    pub source: Source,
    /// Who else saw the same.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Source>,
    /// Facts: register, virq, domain, owner, call trace …
    pub evidence: BTreeMap<String, String>,
    /// Magnitude, for findings that must not grow over cycles.
    pub magnitude: u64,
    /// Why this kernel is known to leave it behind, if it is on the allow-list.
    pub allowed: Option<String>,
}

impl Finding {
    /// A finding with no evidence yet, of magnitude 1.
    pub fn new(class: Class, source: Source, rule: impl Into<String>, summary: impl Into<String>) -> Finding {
        Finding {
            class,
            rule: rule.into(),
            cycle: 0,
            operation: String::new(),
            summary: summary.into(),
            source,
            also: Vec::new(),
            evidence: BTreeMap::new(),
            magnitude: 1,
            allowed: None,
        }
    }

    /// The same finding with one more fact.
    #[must_use]
    pub fn fact(mut self, name: &str, value: impl ToString) -> Finding {
        self.evidence.insert(name.to_owned(), value.to_string());
        self
    }

    /// The same finding, seen in `cycle` after `operation`.
    #[must_use]
    pub fn at(mut self, cycle: u32, operation: &str) -> Finding {
        self.cycle = cycle;
        operation.clone_into(&mut self.operation);
        self
    }
}
