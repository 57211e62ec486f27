//! Our SPIs after a teardown: nobody may listen, nothing may be pending (spec §4.5, block GIC).

use rc_model::soc::SpiState;

use crate::finding::Class;
use crate::finding::Finding;
use crate::finding::Source;

/// Findings for every SPI of ours that is not idle.
pub fn check(spis: &[SpiState]) -> Vec<Finding> {
    spis.iter().flat_map(check_one).collect()
}

fn check_one(s: &SpiState) -> Vec<Finding> {
    let finding = |what: &str, class, betrays: &str| {
        Finding::new(
            class,
            Source::Gic,
            format!("S4 gic.{}.{what}", s.name),
            format!("SPI {} ({}) is still {what}: {betrays}", s.spi, s.name),
        )
        .fact("spi", s.spi)
        .fact("intid", s.spi + 32)
        .fact("line", &s.name)
    };
    let enabled = match s.name.as_str() {
        n if n.starts_with("msi") => "the chained MSI handler was not removed",
        "global" => "the global interrupt was not freed",
        _ => "an INTx handler of an endpoint or of a port service is left",
    };
    let mut found = Vec::new();
    if s.enabled {
        found.push(finding("enabled", Class::IrqLeak, enabled));
    }
    if s.pending {
        found.push(finding("pending", Class::RegisterResidue, "an interrupt will fire at the next request"));
    }
    if s.active {
        found.push(finding("active", Class::RegisterResidue, "a handler never finished"));
    }
    if s.level {
        found.push(finding("asserted", Class::RegisterResidue, "the device side still drives the line"));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_spi_is_no_finding_and_each_bit_is_one() {
        let idle = SpiState { name: "msi3".into(), spi: 35, ..SpiState::default() };
        assert_eq!(check(std::slice::from_ref(&idle)), vec![]);
        let busy = SpiState { enabled: true, pending: true, active: true, level: true, ..idle };
        let rules: Vec<_> = check(&[busy]).into_iter().map(|f| f.rule).collect();
        assert_eq!(
            rules,
            ["S4 gic.msi3.enabled", "S4 gic.msi3.pending", "S4 gic.msi3.active", "S4 gic.msi3.asserted"]
        );
    }
}
