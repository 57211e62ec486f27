//! The allow-list: what kernels are known to leave behind, with a reason for each line.
//!
//! An allowed finding is *residue*, reported apart from leaks. It must not grow: what was allowed with magnitude n
//! in one cycle is a leak with more than n in a later one.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::Serialize;

use crate::finding::Class;
use crate::finding::Finding;

/// One line of the allow-list.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Allowed {
    /// Start of the rule names it covers.
    pub rule: String,
    /// Newest series it was seen in, as (major, minor); older ones are covered.
    pub up_to: (u32, u32),
    /// Why the kernel leaves this.
    pub reason: String,
}

/// (rule prefix, newest series, reason). Sources: spec/dwc-qcom-registers.md §4.2, §4.5, §6.a; teardown-research §0.2.
const LIST: &[(&str, (u32, u32), &str)] = &[
    (
        "S3 parf.ltssm_en",
        (7, 3),
        "no version of pcie-qcom has a stop_link op: LTSSM_EN is never cleared (spec §4.2 R4)",
    ),
    (
        "S3 elbi.lt_enable",
        (7, 3),
        "no version of pcie-qcom clears ELBI LT_ENABLE, and 2_1_0 stops its clocks before it asserts its resets (spec §4.2 R4)",
    ),
    ("S3 msi.enable", (7, 3), "dw_pcie_free_msi leaves ENABLE at ~0 (spec §4.2 R6)"),
    ("S3 msi.addr", (7, 3), "dw_pcie_free_msi leaves the message address (spec §4.2 R6)"),
    ("S3 iatu.ob.enabled", (7, 3), "iATU windows are never disabled at deinit (spec §4.2)"),
    ("S3 iatu.ib.enabled", (7, 3), "iATU windows are never disabled at deinit (spec §4.2)"),
    ("S4 reset.core", (7, 3), "deinit of the 2_7_0 family does not assert the core reset (spec §4.2 R7)"),
    ("S4 parf.phy_ctrl.pwr_down", (6, 12), "6.x never sets PHY_CTRL.TEST_PWR_DOWN back (spec §6.a)"),
    (
        "S5 not as after power-on",
        (7, 3),
        "registers that deinit leaves are found by the next probe, which resets the core or programs them anew (spec §4.2)",
    ),
];

/// Why a mapping of one of our SPIs in the GIC's own domain may stay.
const GIC_MAPPING: &str =
    "INTx and msiN SPIs are mapped in the GIC domain by the PCI core and platform_get_irq; no driver of this series disposes them; they are reused on rebind (teardown-research §0.2)";

/// The allow-list as it applies to one kernel and one machine.
#[derive(Clone, Debug)]
pub struct AllowList {
    rows: Vec<Allowed>,
    /// INTIDs of our SPIs.
    intids: Vec<u64>,
    /// Magnitude each allowed rule was first seen with.
    seen: BTreeMap<String, u64>,
    /// Mappings allowed so far in the GIC domain.
    gic_mappings: u64,
}

impl AllowList {
    /// The list for kernel `release` (as in `uname -r`), with `intids` as the GIC interrupts of the root complex.
    pub fn new(release: &str, intids: Vec<u64>) -> AllowList {
        let series = series(release);
        let rows = LIST
            .iter()
            .filter(|(_, up_to, _)| series <= *up_to)
            .map(|&(rule, up_to, reason)| Allowed { rule: rule.into(), up_to, reason: reason.into() })
            .collect();
        AllowList { rows, intids, seen: BTreeMap::new(), gic_mappings: 0 }
    }

    /// Lines in force, for reports.
    pub fn rows(&self) -> Vec<Allowed> {
        let mut rows = self.rows.clone();
        rows.push(Allowed {
            rule: "S4 irq leak <GIC domain>".into(),
            up_to: (7, 3),
            reason: GIC_MAPPING.into(),
        });
        rows
    }

    /// Mark what is allowed among the findings of one cycle.
    pub fn apply(&mut self, found: &mut [Finding]) {
        for f in found.iter_mut() {
            if self.is_gic_mapping(f) {
                f.allowed = Some(GIC_MAPPING.to_owned());
                self.gic_mappings += 1;
            }
        }
        for f in found.iter_mut().filter(|f| f.allowed.is_none()) {
            let reason = if f.rule.starts_with("S4 domain count ") && f.class == Class::IrqLeak {
                // The GIC domain's count differs by exactly the mappings allowed above.
                (f.magnitude <= self.gic_mappings).then(|| GIC_MAPPING.to_owned())
            } else {
                self.rows.iter().find(|a| f.rule.starts_with(&a.rule)).map(|a| a.reason.clone())
            };
            let Some(reason) = reason else { continue };
            let first = *self.seen.entry(f.rule.clone()).or_insert(f.magnitude);
            if f.magnitude > first {
                f.evidence.insert("grew".into(), format!("from {first} to {}", f.magnitude));
                f.summary.push_str(" — and it grows");
            } else {
                f.allowed = Some(reason);
            }
        }
    }

    fn is_gic_mapping(&self, f: &Finding) -> bool {
        let fact = |name: &str| f.evidence.get(name).map_or("", String::as_str);
        let hwirq = u64::from_str_radix(fact("hwirq").trim_start_matches("0x"), 16);
        f.class == Class::IrqLeak
            && f.rule.starts_with("S4 irq leak ")
            && fact("chip").starts_with("GIC")
            && fact("actions").is_empty()
            && hwirq.is_ok_and(|h| self.intids.contains(&h))
    }
}

/// `6.12.117-rcvm` is series (6, 12); what cannot be read is series (0, 0), the oldest.
fn series(release: &str) -> (u32, u32) {
    let mut parts = release.split(['.', '-']).map(|p| p.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Source;

    fn residue(rule: &str, magnitude: u64) -> Finding {
        Finding { magnitude, ..Finding::new(Class::RegisterResidue, Source::DeviceModel, rule, "x") }
    }

    fn gic_leak(hwirq: u64, actions: &str) -> Finding {
        Finding::new(Class::IrqLeak, Source::GuestKernel, "S4 irq leak gic:1", "x")
            .fact("chip", "GICv3")
            .fact("hwirq", format!("{hwirq:#x}"))
            .fact("actions", actions)
    }

    #[test]
    fn known_residue_is_allowed_with_its_reason_until_it_grows() {
        let mut a = AllowList::new("6.12.117", vec![]);
        let mut first = [residue("S3 iatu.ob.enabled", 2), residue("S3 rp.command&0x4", 1)];
        a.apply(&mut first);
        assert!(first[0].allowed.as_ref().is_some_and(|r| r.contains("iATU")));
        assert_eq!(first[1].allowed, None);
        let mut grown = [residue("S3 iatu.ob.enabled", 3)];
        a.apply(&mut grown);
        assert_eq!(grown[0].allowed, None);
        assert_eq!(grown[0].evidence["grew"], "from 2 to 3");
    }

    #[test]
    fn a_line_does_not_cover_newer_kernels() {
        let mut newer = [residue("S4 parf.phy_ctrl.pwr_down", 1)];
        AllowList::new("7.3.4", vec![]).apply(&mut newer);
        assert_eq!(newer[0].allowed, None);
    }

    #[test]
    fn only_unrequested_gic_mappings_of_our_spis_may_stay() {
        let mut found = [gic_leak(64, ""), gic_leak(64, "pciehp"), gic_leak(99, "")];
        AllowList::new("6.12.1", vec![64]).apply(&mut found);
        assert_eq!(found.iter().map(|f| f.allowed.is_some()).collect::<Vec<_>>(), [true, false, false]);
    }

    #[test]
    fn a_gic_count_is_excused_only_up_to_the_mappings_that_are() {
        let count = |n| Finding {
            magnitude: n,
            ..Finding::new(Class::IrqLeak, Source::GuestKernel, "S4 domain count gic", "x")
        };
        let mut a = AllowList::new("6.12.1", vec![64]);
        let mut ok = [gic_leak(64, ""), count(1)];
        a.apply(&mut ok);
        assert!(ok[1].allowed.is_some());
        let mut more = [count(2)];
        a.apply(&mut more);
        assert_eq!(more[0].allowed, None);
    }

    #[test]
    fn series_are_read_from_releases() {
        assert_eq!(series("6.12.117-rcvm"), (6, 12));
        assert_eq!(series("7.3-rc1"), (7, 3));
        assert_eq!(series("junk"), (0, 0));
    }
}
