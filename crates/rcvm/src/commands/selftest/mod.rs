//! `rcvm selftest`: the kernel's own test programs for pci_endpoint_test against the model's endpoint-test function.

mod parse;

use std::time::Duration;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use clap::Parser;
use clap::ValueEnum;
use guest_agent::ToolOutput;
use guest_agent::ToolStatus;
use torture::Plan;
use torture::Target;

use super::guest;
use super::tool::Lost;
use super::tool::Session;
use crate::cli::Cli;
use crate::cli::Command;
use crate::cli::GuestArgs;
use crate::cli::Msi;
use crate::cli::SelftestArgs;
use crate::front;
use crate::job::Tool;
use parse::Outcome;
use parse::Row;

/// What the programs are called: kselftest from Linux 6.15 on, a script around `pcitest` before.
const PROGRAMS: [&str; 2] = ["pci_endpoint_test", "pcitest.sh"];
/// MSI-X vectors with iMSI-RX: it has 256 for all functions, and MSI-X is given all that are asked for or none.
const IMSI_VECTORS: u16 = 128;
/// Failed tests named in a table.
const MOST_NAMED: usize = 8;

/// One program in one guest.
struct Done {
    series: String,
    release: String,
    program: String,
    rows: Vec<Row>,
    /// Why the rows are not all there is.
    cut: Option<Cut>,
}

/// Why a program did not come to its end.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Cut {
    /// The guest ended or hung.
    Crash(String),
    /// Something else.
    Other(String),
}

/// Run the programs of each series; the result is the exit code.
pub fn run(args: &SelftestArgs) -> Result<u8> {
    let vectors = args.vectors.unwrap_or(if args.msi == Msi::Its { 2048 } else { IMSI_VECTORS });
    let mut all = Vec::new();
    for name in &args.series {
        // `newest` becomes the series that it is: what is kept of a run says what ran.
        let series = images::series(name, false, &mut |line| eprintln!("{line}"))?;
        let done = one(args, &series.to_string(), vectors)?;
        eprintln!("{}", line(&done));
        all.push(done);
    }
    let text = table(&all, args.msi, vectors);
    let file = args.out.join("selftest.md");
    std::fs::write(&file, &text).with_context(|| format!("cannot write {}", file.display()))?;
    print!("{text}");
    Ok(exit_code(&all))
}

fn one(args: &SelftestArgs, series: &str, vectors: u16) -> Result<Done> {
    let g = guest_args(args, series, vectors)?;
    let mut files = guest(&g)?;
    let Some(program) = PROGRAMS.iter().find(|p| files.image.tools.iter().any(|t| t.ends_with(p))) else {
        bail!("the image of Linux {series} has no test program: build it again (rcvm image build --series {series})");
    };
    files.initramfs =
        images::initramfs_with(&files.image, &[images::Extra::Selftest], &mut |line| eprintln!("{line}"))?;
    let dir = args.out.join(series);
    std::fs::create_dir_all(&dir).with_context(|| {
        format!("cannot create the output directory {}: give another --out", dir.display())
    })?;
    let plan = Plan {
        target: Target::of(files.soc),
        boot_timeout_ms: g.boot_timeout * 1000,
        op_timeout_ms: g.op_timeout * 1000,
        ..Plan::default()
    };
    let timeout_ms = args.timeout * 1000;
    let tool = Tool { plan, program: format!("/bin/{program}"), args: Vec::new(), timeout_ms };
    let place = front::decide(g.mode)?;
    eprintln!("{} guest: {program} on {}", place.name(), files.kernel.display());
    let silence = Duration::from_secs(g.boot_timeout + 4 * g.op_timeout + args.timeout);
    let session = Session { place, guest: &g, files: &files, dir: &dir, silence };
    let (release, told) = session.run(tool, &mut |_| {})?;
    let mut done =
        Done { series: series.into(), release, program: (*program).into(), rows: Vec::new(), cut: None };
    match told {
        Ok(output) => {
            done.rows = parse::rows(&output.output, vectors);
            done.cut = incomplete(&output, done.rows.len());
            let rows = serde_json::to_string_pretty(&done.rows)? + "\n";
            for (name, text) in [("output.txt", &output.output), ("results.json", &rows)] {
                let file = dir.join(name);
                std::fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
            }
        }
        Err(Lost::Crash(why)) => done.cut = Some(Cut::Crash(why)),
        Err(Lost::Failed(why)) => done.cut = Some(Cut::Other(why)),
        Err(Lost::Silent) => done.cut = Some(Cut::Other("the worker said nothing of it".into())),
    }
    Ok(done)
}

/// The guest is that of `rcvm run` with these options.
fn guest_args(args: &SelftestArgs, series: &str, vectors: u16) -> Result<GuestArgs> {
    let card = format!("endpoint-test,full=true,vectors={vectors}");
    let name = |v: Option<clap::builder::PossibleValue>| v.map_or(String::new(), |v| v.get_name().to_owned());
    let (msi, mode) = (name(args.msi.to_possible_value()), name(args.mode.to_possible_value()));
    let mut words =
        vec!["rcvm", "run", "--series", series, "--msi", &msi, "--mode", &mode, "--endpoint", &card];
    if let Some(soc) = &args.soc {
        words.extend(["--soc", soc]);
    }
    match Cli::try_parse_from(words)?.command {
        Command::Run(run) => Ok(run.guest),
        other => bail!("{other:?} is not a guest"),
    }
}

/// Whether the output is not that of a program that came to its end.
fn incomplete(output: &ToolOutput, told: usize) -> Option<Cut> {
    let planned = parse::planned(&output.output);
    let why = match output.status {
        _ if output.timed_out => "its time was over (--timeout)".to_owned(),
        ToolStatus::Exited(_) if told == 0 => "it told no result".to_owned(),
        ToolStatus::Exited(_) => match planned {
            Some(n) if n != told => format!("it told {told} of {n} results"),
            _ => return None,
        },
        status => format!("it ended with {status:?}"),
    };
    Some(Cut::Other(why))
}

fn count(done: &Done, outcome: Outcome) -> usize {
    done.rows.iter().filter(|r| r.outcome == outcome).count()
}

/// Passed, failed, skipped, absent.
fn counts(done: &Done) -> [usize; 4] {
    [Outcome::Passed, Outcome::Failed, Outcome::Skipped, Outcome::Absent].map(|o| count(done, o))
}

fn exit_code(all: &[Done]) -> u8 {
    let cut = |f: fn(&Cut) -> bool| all.iter().any(|d| d.cut.as_ref().is_some_and(f));
    if cut(|c| matches!(c, Cut::Crash(_))) {
        3
    } else if all.iter().any(|d| count(d, Outcome::Failed) > 0) {
        1
    } else if all.is_empty() || cut(|_| true) {
        4
    } else {
        0
    }
}

fn line(d: &Done) -> String {
    let [passed, failed, skipped, absent] = counts(d);
    format!(
        "Linux {}: {}: {passed} passed, {failed} failed, {skipped} skipped, {absent} absent",
        d.release, d.program
    )
}

/// The results as a Markdown table: a row a program.
fn table(all: &[Done], msi: Msi, vectors: u16) -> String {
    let to = if msi == Msi::Its { "an ITS" } else { "iMSI-RX" };
    let mut out = format!(
        "MSIs go to {to}; the endpoint has {vectors} MSI-X vectors (absent: tests of vectors beyond these, which must fail).\n\n"
    );
    out +=
        "| series | release | program | passed | failed | skipped | absent | what failed or is missing |\n";
    out += "|---|---|---|---|---|---|---|---|\n";
    for d in all {
        let [p, f, s, a] = counts(d);
        out += &format!(
            "| {} | {} | {} | {p} | {f} | {s} | {a} | {} |\n",
            d.series,
            d.release,
            d.program,
            missing(d)
        );
    }
    out
}

/// Names of what failed, and why there may be more.
fn missing(d: &Done) -> String {
    let failed: Vec<&str> =
        d.rows.iter().filter(|r| r.outcome == Outcome::Failed).map(|r| r.name.as_str()).collect();
    let mut words: Vec<String> = failed.iter().take(MOST_NAMED).map(|n| (*n).to_owned()).collect();
    if failed.len() > MOST_NAMED {
        words.push(format!("and {} more", failed.len() - MOST_NAMED));
    }
    match &d.cut {
        Some(Cut::Crash(why)) => words.push(format!("the guest did not survive it: {why}")),
        Some(Cut::Other(why)) => words.push(format!("not complete: {why}")),
        None => {}
    }
    if words.is_empty() {
        "–".into()
    } else {
        words.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn done(outcomes: &[Outcome], cut: Option<Cut>) -> Done {
        let rows = outcomes.iter().enumerate().map(|(i, o)| Row { name: format!("t{i}"), outcome: *o });
        let text = String::new;
        Done { series: "6.12".into(), release: text(), program: text(), rows: rows.collect(), cut }
    }

    #[test]
    fn the_worst_of_all_programs_is_the_exit_code() {
        use Outcome::*;
        let crash = || Some(Cut::Crash("gone".into()));
        let other = || Some(Cut::Other("cut".into()));
        for (all, code) in [
            (vec![done(&[Passed, Skipped, Absent], None)], 0),
            (vec![done(&[Passed], None), done(&[Passed, Failed], None)], 1),
            (vec![done(&[Failed], None), done(&[], crash())], 3),
            (vec![done(&[Passed], other())], 4),
            (vec![done(&[Failed], other())], 1),
            (vec![], 4),
        ] {
            assert_eq!(exit_code(&all), code);
        }
    }

    #[test]
    fn a_program_that_was_cut_off_or_told_less_than_it_planned_is_not_complete() {
        let of = |status, output: &str, timed_out| ToolOutput { status, output: output.into(), timed_out };
        let (good, planned) = ("BAR0:\t\tOKAY\n", "1..2\nok 1 a\n");
        for (output, complete) in [
            (of(ToolStatus::Exited(0), good, false), true),
            (of(ToolStatus::Exited(1), good, false), true),
            (of(ToolStatus::Signal(9), good, true), false),
            (of(ToolStatus::Signal(11), good, false), false),
            (of(ToolStatus::Exited(0), "", false), false),
            (of(ToolStatus::Exited(0), planned, false), false),
            (of(ToolStatus::Exited(0), "1..1\nok 1 a\n", false), true),
        ] {
            let told = parse::rows(&output.output, 2048).len();
            assert_eq!(incomplete(&output, told).is_none(), complete, "{output:?}");
        }
    }

    #[test]
    fn the_table_names_what_failed_within_bounds() {
        let d = done(&[Outcome::Failed; 10], None);
        assert!(
            missing(&d).starts_with("t0, t1, ") && missing(&d).ends_with("t7, and 2 more"),
            "{}",
            missing(&d)
        );
        assert!(table(&[d], Msi::Its, 2048).contains("| 0 | 10 | 0 | 0 | t0, "));
    }
}
