//! `rcvm bench`: measurements beside QEMU's, under the same KVM, in the same run.

use std::time::Duration;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use clap::Parser;
use clap::ValueEnum;
use serde::Serialize;
use torture::stream::Kind;
use torture::Plan;
use torture::Target;

use super::guest;
use super::Guest;
use crate::cli::BenchArgs;
use crate::cli::BenchCommand;
use crate::cli::Cli;
use crate::cli::Command;
use crate::front;
use crate::front::Got;
use crate::front::Worker;
use crate::job::Bench;
use crate::job::Core;
use crate::job::Job;
use crate::job::Measurement;
use crate::job::Message;
use crate::job::System;
use crate::job::Task;
use crate::job::SYSTEMS;

/// Bytes of the disk, and how `--endpoint` has it.
const DISK_BYTES: u64 = 64 << 20;
const CARD: &str = "nvme,size=64M";
/// Longest silence: a boot and two measurements of a slow machine.
const SILENCE: Duration = Duration::from_secs(600);

/// Measure and print; the result is the exit code.
pub fn run(command: &BenchCommand) -> Result<u8> {
    let BenchCommand::Nvme(args) = command;
    let files = image(args)?;
    let qemu = images::qemu(&mut |line| eprintln!("{line}"))?;
    let plan = Plan { target: Target::of(files.soc), op_timeout_ms: 300_000, ..Plan::default() };
    let bench = Bench { plan, qemu, rounds: args.rounds, reads: args.reads, disk_bytes: DISK_BYTES };
    let job = Job {
        kernel: files.kernel.clone(),
        initramfs: files.initramfs.clone(),
        append: String::new(),
        vcpus: 2,
        memory_mib: 256,
        board: files.board.clone(),
        trace: false,
        core: Core::Never,
        task: Task::Bench(bench),
    };
    let mut worker = front::start(front::decide(args.mode)?, &job, &files.image)?;
    let measured = follow(&mut worker);
    worker.stop();
    let rows = medians(&measured?);
    print!("{}", table(&rows, args));
    if let Some(file) = &args.json {
        let text = serde_json::to_string_pretty(&rows)? + "\n";
        std::fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(0)
}

/// The guest of `rcvm run` with these options.
fn image(args: &BenchArgs) -> Result<Guest> {
    let mode = args.mode.to_possible_value().map_or(String::new(), |v| v.get_name().to_owned());
    let words = ["rcvm", "run", "--series", &args.series, "--mode", &mode, "--endpoint", CARD];
    match Cli::try_parse_from(words)?.command {
        Command::Run(run) => guest(&run.guest),
        _ => bail!("`rcvm run` is another command"),
    }
}

fn follow(worker: &mut Worker) -> Result<Vec<Measurement>> {
    let mut all = Vec::new();
    loop {
        match worker.next(SILENCE) {
            Got::Frame(Kind::Message, m) => {
                match serde_json::from_slice(&m).context("message of the worker")? {
                    Message::Bench(m) => {
                        eprintln!(
                            "{:?} at depth {}: {} reads in {} ms",
                            m.system, m.depth, m.reads, m.elapsed_ms
                        );
                        all.push(m);
                    }
                    Message::Failed(why) | Message::NoAgent(why) => bail!(why),
                    Message::Done => return Ok(all),
                    _ => {}
                }
            }
            Got::Frame(..) => {}
            Got::Eof => bail!("the machine that ran the guests ended unexpectedly; {}", worker.last_words()),
            Got::Silence => {
                bail!("nothing was heard for {} s; {}", SILENCE.as_secs(), worker.last_words())
            }
        }
    }
}

/// Medians of one system at one depth.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    system: System,
    depth: u32,
    reads_per_second: f64,
    exits_per_read: f64,
    mmio_user_per_read: f64,
    mmio_kernel_per_read: f64,
    interrupts_per_read: f64,
    /// Exits that are neither WFI nor MMIO, by interrupts.
    other_exits_per_interrupt: f64,
    /// Exits of the vCPUs to the VMM beyond eventfds, by interrupts.
    mmio_user_per_interrupt: f64,
    doorbell_events_per_read: Option<f64>,
}

fn medians(all: &[Measurement]) -> Vec<Row> {
    let mut rows = Vec::new();
    for depth in [1, 4] {
        for system in SYSTEMS {
            let of: Vec<_> = all.iter().filter(|m| m.system == system && m.depth == depth).collect();
            let by = |f: &dyn Fn(&Measurement) -> (u64, u64)| {
                median(of.iter().map(|m| f(m)).map(|(a, b)| a as f64 / b.max(1) as f64).collect())
            };
            let rest = |m: &Measurement| {
                m.exits.all.saturating_sub(m.exits.wfi + m.exits.mmio_user + m.exits.mmio_kernel)
            };
            rows.push(Row {
                system,
                depth,
                reads_per_second: by(&|m| (m.reads * 1000, m.elapsed_ms)),
                exits_per_read: by(&|m| (m.exits.all, m.reads)),
                mmio_user_per_read: by(&|m| (m.exits.mmio_user, m.reads)),
                mmio_kernel_per_read: by(&|m| (m.exits.mmio_kernel, m.reads)),
                interrupts_per_read: by(&|m| (m.interrupts, m.reads)),
                other_exits_per_interrupt: by(&|m| (rest(m), m.interrupts)),
                mmio_user_per_interrupt: by(&|m| (m.exits.mmio_user, m.interrupts)),
                doorbell_events_per_read: of
                    .iter()
                    .all(|m| m.doorbell_events.is_some())
                    .then(|| by(&|m| (m.doorbell_events.unwrap_or(0), m.reads))),
            });
        }
    }
    rows
}

/// 0 of nothing.
fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of.get(of.len() / 2).copied().unwrap_or(0.0)
}

fn table(rows: &[Row], args: &BenchArgs) -> String {
    let mut text = format!(
        "NVMe, 4 KiB random reads, Linux {}: medians of {} rounds of {} reads\n\n\
         | system | depth | reads/s | to QEMU | exits/read | MMIO to VMM/read | MMIO in KVM/read | MSIs/read | MMIO to VMM/MSI | doorbell events/read |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
        args.series, args.rounds, args.reads
    );
    for r in rows {
        let qemu = rows
            .iter()
            .filter(|q| q.depth == r.depth && matches!(q.system, System::Qemu | System::QemuIoeventfd));
        let best = qemu.map(|q| q.reads_per_second).fold(0.0, f64::max);
        let doorbells = r.doorbell_events_per_read.map_or("—".into(), |d| format!("{d:.2}"));
        text += &format!(
            "| {:?} | {} | {:.0} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {:.2} | {doorbells} |\n",
            r.system,
            r.depth,
            r.reads_per_second,
            r.reads_per_second / best,
            r.exits_per_read,
            r.mmio_user_per_read,
            r.mmio_kernel_per_read,
            r.interrupts_per_read,
            r.mmio_user_per_interrupt,
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::job::Exits;

    #[test]
    fn a_row_has_the_median_of_its_own_measurements() {
        let of = |system, elapsed_ms| Measurement {
            system,
            depth: 1,
            reads: 1000,
            elapsed_ms,
            interrupts: 500,
            exits: Exits { all: 4000, mmio_user: 250, mmio_kernel: 1000, wfi: 1000 },
            doorbell_events: (system == System::RcvmIts).then_some(900),
        };
        let all = [
            of(System::RcvmIts, 100),
            of(System::Qemu, 1000),
            of(System::RcvmIts, 500),
            of(System::RcvmIts, 200),
        ];
        let rows = medians(&all);
        let ours = rows.iter().find(|r| r.system == System::RcvmIts && r.depth == 1).unwrap();
        assert_eq!((ours.reads_per_second, ours.exits_per_read), (5000.0, 4.0));
        assert_eq!((ours.mmio_user_per_interrupt, ours.other_exits_per_interrupt), (0.5, 3.5));
        assert_eq!(ours.doorbell_events_per_read, Some(0.9));
        let qemu = rows.iter().find(|r| r.system == System::Qemu && r.depth == 1).unwrap();
        assert_eq!((qemu.reads_per_second, qemu.doorbell_events_per_read), (1000.0, None));
    }
}
