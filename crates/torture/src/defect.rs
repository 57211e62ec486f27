//! Defects of an endpoint driver that the checks have to catch: what `rcvm_defect` (guest-images/modules) does wrong on request,
//! and what has to be found then.

use guest_agent::IrqKind;
use serde::Deserialize;
use serde::Serialize;

use crate::finding::Class;
use crate::finding::Finding;

/// Module file of the driver without suffix; its PCI driver, its handlers and its class have the same name.
pub const MODULE: &str = "rcvm_defect";
/// Vectors of MSI and MSI-X that it requests.
pub const VECTORS: u32 = 4;

/// One thing that the driver's remove does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each row of DEFECTS says what it is")]
pub enum Defect {
    None,
    MsiNotFreed,
    MsixNotFreed,
    IrqNotFreed,
    IntxNotFreed,
    FreeAfterDisable,
    DevmOrder,
    AffinityHintLeft,
    ClassDeviceLeft,
    TimerLeft,
    MappingLeft,
    ChainedHandlerLeft,
}

/// A defect, and how the checks have to catch it.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Which.
    pub defect: Defect,
    /// Name on the command line and of the module's parameter.
    pub name: &'static str,
    /// What the driver does.
    pub about: &'static str,
    /// Kind of interrupt that it holds.
    pub irq: IrqKind,
    /// Classes of which a finding has to be of one; none: nothing may be found.
    pub classes: &'static [Class],
    /// What that finding has to say, in its summary or its evidence: who or what was left.
    pub word: &'static str,
}

/// Every defect.
pub const DEFECTS: [Row; 12] = [
    Row {
        defect: Defect::None,
        name: "none",
        about: "nothing: the driver is correct",
        irq: IrqKind::Msi,
        classes: &[],
        word: "",
    },
    Row {
        defect: Defect::MsiNotFreed,
        name: "msi-not-freed",
        about: "MSI vectors are never freed (no pci_free_irq_vectors)",
        irq: IrqKind::Msi,
        classes: &[Class::IrqLeak, Class::IrqDangling],
        word: ENDPOINT,
    },
    Row {
        defect: Defect::MsixNotFreed,
        name: "msix-not-freed",
        about: "MSI-X vectors are never freed (no pci_free_irq_vectors)",
        irq: IrqKind::MsiX,
        classes: &[Class::IrqLeak, Class::IrqDangling],
        word: ENDPOINT,
    },
    Row {
        defect: Defect::IrqNotFreed,
        name: "irq-not-freed",
        about: "handlers of MSIs are never freed (no free_irq)",
        irq: IrqKind::Msi,
        classes: &[Class::KernelSplat, Class::IrqLeak],
        word: MODULE,
    },
    Row {
        defect: Defect::IntxNotFreed,
        name: "intx-not-freed",
        about: "the handler of INTx is never freed (no free_irq)",
        irq: IrqKind::Intx,
        // Our remove() disposes of the mapping all the same, and the kernel tells of the handler that was still there.
        classes: &[Class::KernelSplat],
        word: MODULE,
    },
    Row {
        defect: Defect::FreeAfterDisable,
        name: "free-after-disable",
        about: "handlers are freed after their vectors: the wrong order",
        irq: IrqKind::Msi,
        classes: &[Class::KernelSplat],
        word: MODULE,
    },
    Row {
        defect: Defect::DevmOrder,
        name: "devm-order",
        about: "managed handlers (devm_request_irq) outlive vectors that remove frees by hand",
        irq: IrqKind::Msi,
        classes: &[Class::KernelSplat],
        word: MODULE,
    },
    Row {
        defect: Defect::AffinityHintLeft,
        name: "affinity-hint-left",
        about: "an affinity hint is not cleared before free_irq",
        irq: IrqKind::Msi,
        classes: &[Class::KernelSplat],
        word: MODULE,
    },
    Row {
        defect: Defect::ClassDeviceLeft,
        name: "class-device-left",
        about: "a class device is created and never destroyed",
        irq: IrqKind::Msi,
        classes: &[Class::DeviceLeak],
        word: ENDPOINT,
    },
    Row {
        defect: Defect::TimerLeft,
        name: "timer-left",
        about: "a timer goes on and reads the BAR",
        irq: IrqKind::Msi,
        classes: &[Class::GatedAccess],
        word: "Mem",
    },
    Row {
        defect: Defect::MappingLeft,
        name: "mapping-left",
        about: "an IRQ domain of the driver's own is left, with a mapping",
        irq: IrqKind::Msi,
        classes: &[Class::IrqLeak],
        word: MODULE,
    },
    Row {
        defect: Defect::ChainedHandlerLeft,
        name: "chained-handler-left",
        about: "a chained handler on a mapping of the driver's own domain is left",
        irq: IrqKind::Msi,
        classes: &[Class::IrqLeak],
        word: "chained handler",
    },
];

/// Address of the endpoint.
pub const ENDPOINT: &str = "0000:01:00.0";

impl Defect {
    /// Its row.
    pub fn row(self) -> &'static Row {
        // A test sees to it that rows and variants are in the same order.
        &DEFECTS[self as usize]
    }
}

impl Row {
    /// Parameters of the module.
    pub fn params(&self) -> String {
        let irq = match self.irq {
            IrqKind::Intx => "intx",
            IrqKind::Msi => "msi",
            IrqKind::MsiX => "msix",
        };
        format!("irq={irq} vectors={} defect={}", self.vectors(), self.name)
    }

    /// Handlers that the driver holds while it is bound.
    pub const fn vectors(&self) -> u32 {
        match self.irq {
            IrqKind::Intx => 1,
            IrqKind::Msi | IrqKind::MsiX => VECTORS,
        }
    }

    /// Whether `f` is what has to be found.
    pub fn is_caught_by(&self, f: &Finding) -> bool {
        let says = |text: &str| text.contains(self.word);
        f.allowed.is_none()
            && self.classes.contains(&f.class)
            && (says(&f.summary) || f.evidence.values().any(|v| says(v)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Source;

    #[test]
    fn rows_are_in_the_order_of_the_variants_and_names_are_those_of_the_module() {
        let module = include_str!("../../../guest-images/modules/rcvm_defect.c");
        for (i, row) in DEFECTS.iter().enumerate() {
            assert_eq!(row.defect as usize, i, "{}", row.name);
            assert_eq!(serde_json::to_value(row.defect).unwrap(), row.name);
            assert!(module.contains(&format!("\"{}\"", row.name)), "{}", row.name);
            assert_eq!(row.classes.is_empty(), row.defect == Defect::None);
        }
    }

    #[test]
    fn a_finding_has_to_be_of_the_class_and_say_the_word() {
        let row = Defect::MsiNotFreed.row();
        let f =
            |class, owner: &str| Finding::new(class, Source::GuestKernel, "r", "left").fact("owner", owner);
        assert!(row.is_caught_by(&f(Class::IrqDangling, ENDPOINT)));
        assert!(!row.is_caught_by(&f(Class::KernelSplat, ENDPOINT)));
        assert!(!row.is_caught_by(&f(Class::IrqDangling, "unknown")));
        let allowed = Finding { allowed: Some("known".into()), ..f(Class::IrqDangling, ENDPOINT) };
        assert!(!row.is_caught_by(&allowed));
        assert!(!Defect::None.row().is_caught_by(&f(Class::IrqLeak, ENDPOINT)));
    }
}
