//! The verdict of a run (design §6).

use serde::Deserialize;
use serde::Serialize;

use crate::finding::Class;
use crate::finding::Finding;

/// The one word that a run ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Every cycle ran and nothing was left behind.
    Clean,
    /// Every cycle ran; only what this kernel is known to leave behind was left, and it does not grow.
    Residue,
    /// Something was left behind, or the device side saw a wrong teardown.
    Leak,
    /// The guest crashed or hung.
    Crash,
    /// Not enough was done to say anything.
    Inconclusive,
}

impl Verdict {
    /// Judge findings; `complete`: every requested cycle ran.
    ///
    /// A crash outweighs a leak, a leak outweighs an incomplete run: what was proven stays proven.
    pub fn judge<'a>(findings: impl IntoIterator<Item = &'a Finding>, complete: bool) -> Verdict {
        let mut worst = Verdict::Clean;
        let mut doubtful = !complete;
        for f in findings {
            let v = match f.class {
                _ if f.allowed.is_some() => Verdict::Residue,
                Class::Crash | Class::Hang => Verdict::Crash,
                Class::IrqUndelivered
                | Class::OperationFailed
                | Class::BootFailed
                | Class::ViewDisagreement => {
                    // The cycle did not do what it was meant to, or a check is not to be trusted: no statement about
                    // teardown follows from it.
                    doubtful = true;
                    continue;
                }
                Class::IrqLeak
                | Class::IrqDangling
                | Class::IrqLost
                | Class::IrqCorrupt
                | Class::DeviceLeak
                | Class::DmaAfterStop
                | Class::RogueMsi
                | Class::GatedAccess
                | Class::BadInput
                | Class::RegisterResidue
                | Class::DataLoss
                | Class::KernelSplat => Verdict::Leak,
            };
            if v.rank() > worst.rank() {
                worst = v;
            }
        }
        match worst {
            Verdict::Clean | Verdict::Residue if doubtful => Verdict::Inconclusive,
            v => v,
        }
    }

    /// Process exit code; `strict` makes residue a failure.
    pub const fn exit_code(self, strict: bool) -> u8 {
        match self {
            Verdict::Clean => 0,
            Verdict::Residue => strict as u8,
            Verdict::Leak => 1,
            Verdict::Crash => 3,
            Verdict::Inconclusive => 4,
        }
    }

    /// The word.
    pub const fn name(self) -> &'static str {
        match self {
            Verdict::Clean => "clean",
            Verdict::Residue => "residue",
            Verdict::Leak => "leak",
            Verdict::Crash => "crash",
            Verdict::Inconclusive => "inconclusive",
        }
    }

    const fn rank(self) -> u8 {
        match self {
            Verdict::Clean => 0,
            Verdict::Residue => 1,
            Verdict::Inconclusive => 2,
            Verdict::Leak => 3,
            Verdict::Crash => 4,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Source;

    fn finding(class: Class, allowed: bool) -> Finding {
        let mut f = Finding::new(class, Source::Harness, "r", "s");
        f.allowed = allowed.then(|| "known".into());
        f
    }

    #[test]
    fn the_worst_finding_decides_and_doubt_only_beats_a_good_verdict() {
        use Verdict::*;
        let cases: &[(&[Finding], bool, Verdict)] = &[
            (&[], true, Clean),
            (&[], false, Inconclusive),
            (&[finding(Class::RegisterResidue, true)], true, Residue),
            (&[finding(Class::RegisterResidue, false)], true, Leak),
            (&[finding(Class::BadInput, false)], true, Leak),
            (&[finding(Class::IrqLeak, false), finding(Class::RegisterResidue, true)], false, Leak),
            (&[finding(Class::IrqLeak, false), finding(Class::Crash, false)], false, Crash),
            (&[finding(Class::Hang, false)], false, Crash),
            (&[finding(Class::IrqUndelivered, false)], true, Inconclusive),
            (&[finding(Class::BootFailed, false)], false, Inconclusive),
            (&[finding(Class::ViewDisagreement, false)], true, Inconclusive),
            (&[finding(Class::IrqCorrupt, false)], true, Leak),
            (&[finding(Class::OperationFailed, false), finding(Class::IrqLeak, false)], false, Leak),
        ];
        for (findings, complete, want) in cases {
            assert_eq!(Verdict::judge(*findings, *complete), *want, "{findings:?} {complete}");
        }
    }

    #[test]
    fn exit_codes_are_those_of_the_design() {
        use Verdict::*;
        let codes: Vec<_> = [Clean, Residue, Leak, Crash, Inconclusive].map(|v| v.exit_code(false)).to_vec();
        assert_eq!(codes, [0, 0, 1, 3, 4]);
        assert_eq!(Residue.exit_code(true), 1);
    }
}
