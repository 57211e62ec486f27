//! `rcvm replay`: run again what a report came from, and say how often it ends the same way.

use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use torture::report::Report;
use torture::Class;

use super::report::read;
use crate::artifacts::PLAN;
use crate::cli::ReplayArgs;

/// Run it again; the result is the exit code.
pub fn run(args: &ReplayArgs) -> Result<u8> {
    let first = read(&args.dir)?;
    let s = &first.setting;
    if s.args.is_empty() {
        bail!(
            "{}: this report does not say how its run was started; its command was {}",
            args.dir.display(),
            s.command
        );
    }
    let dir = std::path::absolute(&args.dir).context("where is the report?")?;
    let words = words(&s.args, &dir);
    println!("{} — {}", first.last_line(), signature_text(&first));
    let mut same = 0;
    for n in 1..=args.times {
        let out = dir.join(format!("replay-{n}"));
        let again = once(&words, &out, Path::new(&s.directory))?;
        let reproduced = is_same(&first, &again);
        same += u32::from(reproduced);
        println!("run {n}: {} — {}", if reproduced { "reproduced" } else { "differs" }, again.last_line());
    }
    println!("reproduced {same} of {}: {}", args.times, dir.display());
    Ok(u8::from(same == 0))
}

/// The words of the first run without where it wrote, and with the plan that it had then.
fn words(args: &[String], dir: &Path) -> Vec<String> {
    let mut kept = Vec::new();
    let mut rest = args.iter();
    let plan = dir.join(PLAN);
    while let Some(word) = rest.next() {
        let (name, value) = word.split_once('=').map_or((word.as_str(), None), |(n, v)| (n, Some(v)));
        if name != "--out" && (name != "--plan" || !plan.is_file()) {
            kept.push(word.clone());
            continue;
        }
        if value.is_none() {
            rest.next();
        }
        if name == "--plan" {
            kept.extend(["--plan".into(), plan.display().to_string()]);
        }
    }
    kept
}

/// Run rcvm with `words` where the first run was started, if that is still there.
fn once(words: &[String], out: &PathBuf, directory: &Path) -> Result<Report> {
    let mut cmd = Command::new(std::env::current_exe().context("cannot find my own program file")?);
    cmd.args(words).arg("--out").arg(out).stdin(Stdio::null()).stdout(Stdio::null());
    if directory.is_dir() {
        cmd.current_dir(directory);
    }
    let status = cmd.status().context("cannot start rcvm")?;
    if !matches!(status.code(), Some(0 | 1 | 3 | 4)) {
        bail!("rcvm {} could not be run: see above", words.join(" "));
    }
    read(out)
}

/// What a run found, by class and rule; what its kernel is known to leave does not count.
fn signature(r: &Report) -> BTreeSet<(Class, &str)> {
    let found = r.findings.iter().map(|s| &s.finding).filter(|f| f.allowed.is_none());
    found.map(|f| (f.class, f.rule.as_str())).collect()
}

fn signature_text(r: &Report) -> String {
    match signature(r).first() {
        None => "nothing was found".into(),
        Some((class, rule)) => format!("{}: {rule}", class.name()),
    }
}

/// The same verdict, and a finding in common if there was any.
fn is_same(first: &Report, again: &Report) -> bool {
    let (a, b) = (signature(first), signature(again));
    first.verdict == again.verdict && (a.is_empty() || !a.is_disjoint(&b))
}

#[cfg(test)]
mod tests {
    use torture::report::Setting;
    use torture::Finding;
    use torture::Source;

    use super::*;

    fn strings(words: &[&str]) -> Vec<String> {
        words.iter().map(|w| (*w).to_owned()).collect()
    }

    #[test]
    fn a_replay_has_the_same_words_but_writes_elsewhere_and_keeps_the_plan() {
        let dir = tempfile::tempdir().unwrap();
        let args = strings(&[
            "torture",
            "--out",
            "x",
            "--seed",
            "3",
            "--plan=mine.toml",
            "--out=y",
            "--append",
            "a b",
        ]);
        let without = strings(&["torture", "--seed", "3", "--plan=mine.toml", "--append", "a b"]);
        assert_eq!(words(&args, dir.path()), without, "a plan that is not kept stays as it was");
        let plan = dir.path().join(PLAN);
        std::fs::write(&plan, "").unwrap();
        let plan = plan.display().to_string();
        assert_eq!(
            words(&args, dir.path()),
            strings(&["torture", "--seed", "3", "--plan", &plan, "--append", "a b"])
        );
    }

    fn report(found: &[(Class, &str)]) -> Report {
        let mut r = Report::new(Setting { cycles_requested: 1, ..Setting::default() });
        for (class, rule) in found {
            r.add(Finding::new(*class, Source::Harness, *rule, "").at(1, "unbind"));
        }
        r.finish(true);
        r
    }

    #[test]
    fn a_run_is_reproduced_by_the_same_verdict_with_a_finding_in_common() {
        let leak = (Class::IrqLeak, "virq 5");
        let crash = (Class::Crash, "ended");
        for (first, again, same) in [
            (vec![leak], vec![leak, (Class::IrqLeak, "virq 6")], true),
            (vec![leak], vec![(Class::IrqLeak, "virq 7")], false),
            (vec![leak], vec![leak, crash], false),
            (vec![leak], vec![], false),
            (vec![], vec![], true),
        ] {
            assert_eq!(is_same(&report(&first), &report(&again)), same, "{first:?} {again:?}");
        }
    }
}
