//! `rcvm lspci`: what lspci in the guest says of the topology, on standard output.

use std::io::Write;
use std::time::Duration;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use guest_agent::ToolOutput;
use guest_agent::ToolStatus;
use images::Extra;
use torture::Plan;
use torture::Target;

use super::guest;
use super::place;
use super::tool::Lost;
use super::tool::Session;
use crate::cli::GuestArgs;
use crate::cli::LspciArgs;
use crate::job::Tool;
use crate::topology::CardKind;

/// What lspci is asked for unless the user says otherwise.
const DEFAULT_ARGS: &[&str] = &["-vvv"];

/// Boot, load the drivers, run lspci; the result is the exit code.
pub fn run(args: &LspciArgs) -> Result<u8> {
    let g = &args.guest;
    check(g)?;
    let place = place(g)?;
    let mut files = guest(g)?;
    files.initramfs = images::initramfs_with(&files.image, &[Extra::Lspci], &mut |line| eprintln!("{line}"))?;
    let there = files.board.slot == rc_model::Slot::Present;
    let plan = Plan {
        target: Target::of(files.soc),
        endpoint: there && files.board.topology.has(CardKind::EndpointTest),
        consumers: if there { files.board.topology.consumers() } else { Vec::new() },
        boot_timeout_ms: g.boot_timeout * 1000,
        op_timeout_ms: g.op_timeout * 1000,
        ..Plan::default()
    };
    let tool = Tool {
        plan,
        program: "/bin/lspci".into(),
        args: words(&args.lspci),
        timeout_ms: g.op_timeout * 1000,
    };
    eprintln!("{} guest: lspci on {}", place.name(), files.kernel.display());
    let dir =
        tempfile::Builder::new().prefix("rcvm-").tempdir().context("cannot create a temporary directory")?;
    let silence = Duration::from_secs(g.boot_timeout + 4 * g.op_timeout + 30);
    let session = Session { place, guest: g, files: &files, dir: dir.path(), silence };
    let told = session.run(tool, &mut |line| eprintln!("{line}")).and_then(|(_, told)| match told {
        Err(Lost::Failed(why)) => bail!(why),
        Err(Lost::Silent) => bail!("the worker said nothing of lspci"),
        Err(Lost::Crash(why)) => Ok(Err(why)),
        Ok(output) => Ok(Ok(output)),
    });
    match told {
        Ok(Ok(output)) => show(&output),
        Ok(Err(why)) => {
            eprintln!("rcvm: error: the guest did not survive it: {why}; {}", keep(dir));
            Ok(3)
        }
        Err(e) => Err(e.context(keep(dir))),
    }
}

/// lspci and its libraries go into the initramfs of the profile, beside the modules of its kernel.
fn check(g: &GuestArgs) -> Result<()> {
    let own = [
        ("--kernel", g.kernel.is_some()),
        ("--kernel-tree", g.kernel_tree.is_some()),
        ("--modules", g.modules.is_some()),
        ("--initramfs", g.initramfs.is_some()),
    ];
    match own.iter().find(|o| o.1) {
        Some((option, _)) => bail!("{option}: lspci runs with the image of a profile only: leave {option} out and give --series or --profile"),
        None => Ok(()),
    }
}

fn words(asked: &[String]) -> Vec<String> {
    if asked.is_empty() {
        DEFAULT_ARGS.iter().map(|a| (*a).to_owned()).collect()
    } else {
        asked.to_vec()
    }
}

/// Keep the console of a guest that failed, and say where it is.
fn keep(dir: tempfile::TempDir) -> String {
    format!("its console is in {}", dir.keep().join("console.log").display())
}

/// Print what lspci said; the exit code.
fn show(output: &ToolOutput) -> Result<u8> {
    let mut out = std::io::stdout().lock();
    out.write_all(output.output.as_bytes()).and_then(|()| out.flush()).context("standard output")?;
    match output.status {
        _ if output.timed_out => {
            eprintln!("rcvm: error: lspci did not end in time: give a longer --op-timeout")
        }
        ToolStatus::Exited(0) => return Ok(0),
        status => eprintln!("rcvm: error: lspci ended with {status:?}: what it said is above"),
    }
    Ok(1)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::Cli;
    use crate::cli::Command;

    fn parsed(words: &[&str]) -> LspciArgs {
        match Cli::try_parse_from([&["rcvm", "lspci"], words].concat()).map(|c| c.command) {
            Ok(Command::Lspci(args)) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_follows_the_dashes_is_for_lspci_and_replaces_the_default() {
        let given = |asked: &[&str]| words(&parsed(asked).lspci);
        assert_eq!(given(&[]), ["-vvv"]);
        assert_eq!(given(&["--endpoint", "nvme"]), ["-vvv"]);
        assert_eq!(given(&["--endpoint", "nvme", "--", "-tnn", "-s", "01:00.0"]), ["-tnn", "-s", "01:00.0"]);
    }

    #[test]
    fn an_image_that_lspci_cannot_be_put_into_is_refused_by_the_option_that_gave_it() {
        for option in ["--kernel", "--kernel-tree", "--modules", "--initramfs"] {
            let why = check(&parsed(&[option, "x"]).guest).unwrap_err().to_string();
            assert!(why.starts_with(option) && why.contains("leave"), "{why}");
        }
    }
}
