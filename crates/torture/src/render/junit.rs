//! JUnit XML, as Jenkins and GitLab read it: a suite a run, a test a cycle, a failure with the text of the findings.

use std::time::Duration;

use quick_junit::NonSuccessKind;
use quick_junit::SerializeError;
use quick_junit::TestCase;
use quick_junit::TestCaseStatus;
use quick_junit::TestSuite;

use super::cases;
use super::one_line;
use super::told;
use super::Case;
use super::Ran;
use crate::report::Report;

/// The file's text.
pub fn render(r: &Report) -> Result<String, SerializeError> {
    let s = &r.setting;
    let name = format!("rcvm.{}.{}", s.soc, s.profile);
    let mut suite = TestSuite::new(name.as_str());
    let properties = [
        ("command", s.command.clone()),
        ("kernel", one_line(&r.kernel.release)),
        ("seed", s.seed.to_string()),
        ("mode", s.mode.clone()),
        ("verdict", r.verdict.name().into()),
    ];
    for (name, value) in properties {
        suite.add_property((name, value.as_str()));
    }
    let all = cases(r);
    suite.set_time(Duration::from_millis(all.iter().map(|c| c.ms).sum()));
    suite.add_test_cases(all.iter().map(|c| case(c, &name)));
    suite.set_system_out(format!(
        "{}\nartifacts beside this file: report.html report.json console.log boot.log trace.bin",
        r.last_line()
    ));
    let mut out = quick_junit::Report::new("rcvm");
    out.add_test_suite(suite);
    out.to_string()
}

fn case(c: &Case<'_>, class: &str) -> TestCase {
    let mut status = match (c.failures.first(), c.state) {
        (None, Ran::Done) => TestCaseStatus::success(),
        (None, Ran::Never) => TestCaseStatus::skipped(),
        (Some(_), Ran::Done) => TestCaseStatus::non_success(NonSuccessKind::Failure),
        (_, Ran::Cut) | (Some(_), Ran::Never) => TestCaseStatus::non_success(NonSuccessKind::Error),
    };
    match (c.failures.first(), c.state) {
        (Some(first), _) => {
            let texts: Vec<String> = c.failures.iter().map(|s| told(s)).collect();
            status
                .set_type(first.finding.class.name())
                .set_message(one_line(&first.finding.summary))
                .set_description(texts.join("\n\n"));
        }
        (None, Ran::Never) => {
            status.set_message("not run: the run ended before");
        }
        (None, Ran::Cut) => {
            status.set_message("not as it has to be: see report.html");
        }
        (None, Ran::Done) => {}
    }
    let mut case = TestCase::new(c.name.as_str(), status);
    case.set_classname(class).set_time(Duration::from_millis(c.ms));
    if !c.residue.is_empty() {
        let texts: Vec<String> = c.residue.iter().map(|s| told(s)).collect();
        case.set_system_out(texts.join("\n\n"));
    }
    case
}
