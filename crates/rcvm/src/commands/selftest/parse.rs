//! What the kernel's test programs say, as rows.
//!
//! *Sources*: Linux v6.12 tools/pci/pcitest.c (a line a test), v7.3 tools/testing/selftests/kselftest_harness.h (TAP).

use serde::Serialize;

/// One test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// As the program calls it.
    pub name: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It passed.
    Passed,
    /// It failed.
    Failed,
    /// It does not apply.
    Skipped,
    /// It failed, and had to: it asks for a vector that the endpoint does not have.
    Absent,
}

/// A row for each line that tells a result, of an endpoint with `vectors` MSI-X vectors.
pub fn rows(output: &str, vectors: u16) -> Vec<Row> {
    output.lines().filter_map(|l| tap(l).or_else(|| pcitest(l, vectors))).collect()
}

/// How many results TAP output announces.
pub fn planned(output: &str) -> Option<usize> {
    output.lines().find_map(|l| l.strip_prefix("1..")?.trim().parse().ok())
}

/// `ok 1 name`, `not ok 2 name`, `ok 3 name # SKIP why`.
fn tap(line: &str) -> Option<Row> {
    let (passed, rest) = match line.strip_prefix("not ok ") {
        Some(rest) => (false, rest),
        None => (true, line.strip_prefix("ok ")?),
    };
    let (number, rest) = rest.split_once(' ')?;
    number.parse::<u32>().ok()?;
    let (name, directive) = rest.split_once('#').unwrap_or((rest, ""));
    let outcome = match (directive.trim_start().starts_with("SKIP"), passed) {
        (true, _) => Outcome::Skipped,
        (false, true) => Outcome::Passed,
        (false, false) => Outcome::Failed,
    };
    Some(Row { name: name.trim().into(), outcome })
}

/// `BAR0:\t\tOKAY`, `READ (   1024 bytes):\t\tNOT OKAY`, `LEGACY IRQ:\tTEST FAILED`. pcitest.sh tries MSI-X 1 to 2048 whatever the
/// endpoint has: a vector beyond `vectors` that is NOT OKAY is right, and one that is OKAY is not.
fn pcitest(line: &str, vectors: u16) -> Option<Row> {
    let (name, result) = line.split_once(":\t")?;
    let vector = name.strip_prefix("MSI-X").and_then(|n| n.trim().parse::<u16>().ok());
    let absent = vector.is_some_and(|v| v > vectors);
    let outcome = match result.trim() {
        "NOT OKAY" if absent => Outcome::Absent,
        "OKAY" if absent => Outcome::Failed,
        "OKAY" => Outcome::Passed,
        "NOT OKAY" | "FAILED" | "TEST FAILED" => Outcome::Failed,
        _ => return None,
    };
    Some(Row { name: name.split_whitespace().collect::<Vec<_>>().join(" "), outcome })
}

#[cfg(test)]
mod tests {
    use super::*;
    use Outcome::*;

    #[test]
    fn lines_with_a_result_are_rows_and_others_are_not() {
        for (line, row) in [
            ("ok 1 pci_ep_bar.BAR0.BAR_TEST", Some(("pci_ep_bar.BAR0.BAR_TEST", Passed))),
            ("not ok 2 pci_ep_basic.MSI_TEST", Some(("pci_ep_basic.MSI_TEST", Failed))),
            ("ok 3 a.b # SKIP BAR is disabled", Some(("a.b", Skipped))),
            ("BAR0:\t\tOKAY", Some(("BAR0", Passed))),
            ("BAR5:\t\tNOT OKAY", Some(("BAR5", Failed))),
            ("SET IRQ TYPE TO MSI-X:\t\tFAILED", Some(("SET IRQ TYPE TO MSI-X", Failed))),
            ("LEGACY IRQ:\tTEST FAILED", Some(("LEGACY IRQ", Failed))),
            ("READ (   1024 bytes):\t\tOKAY", Some(("READ ( 1024 bytes)", Passed))),
            ("# ok 1 no", None),
            ("ok then", None),
            ("TAP version 13", None),
            ("1..19", None),
            ("BAR tests", None),
            ("can't open PCI Endpoint Test device: No such file or directory", None),
            ("GET IRQ TYPE:\t\tMSI", None),
        ] {
            let expected = row.map(|(name, outcome)| Row { name: name.into(), outcome });
            assert_eq!(rows(line, 2048).pop(), expected, "{line:?}");
        }
    }

    #[test]
    fn a_vector_that_the_endpoint_does_not_have_is_absent_and_must_not_work() {
        for (line, outcome) in [
            ("MSI-X128:\t\tOKAY", Passed),
            ("MSI-X128:\t\tNOT OKAY", Failed),
            ("MSI-X129:\t\tNOT OKAY", Absent),
            ("MSI-X129:\t\tOKAY", Failed),
            ("MSI-X129:\t\tTEST FAILED", Failed),
            ("MSI129:\t\tNOT OKAY", Failed),
        ] {
            assert_eq!(rows(line, 128).pop().unwrap().outcome, outcome, "{line:?}");
        }
    }

    fn counts(output: &str) -> [usize; 3] {
        let rows = rows(output, 2048);
        [Passed, Failed, Skipped].map(|o| rows.iter().filter(|r| r.outcome == o).count())
    }

    /// Outputs are those of real runs.
    #[test]
    fn every_result_of_a_real_output_is_a_row() {
        let (old, new) =
            (include_str!("testdata/pcitest-6.12.txt"), include_str!("testdata/kselftest-7.3.txt"));
        assert_eq!(counts(old), [2106, 0, 0]);
        assert_eq!(counts(new), [22, 0, 1]);
        assert_eq!(planned(new), Some(23));
        assert_eq!(counts(&old.replace("MSI-X7:\t\tOKAY", "MSI-X7:\t\tNOT OKAY")), [2105, 1, 0]);
    }

    #[test]
    fn a_plan_is_found() {
        assert_eq!(planned("TAP version 13\n1..19\n"), Some(19));
        assert_eq!(planned("BAR0:\t\tOKAY\n"), None);
    }
}
