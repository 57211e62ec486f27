//! The long run: random operations by seed, for as many as asked, with what they reached. See docs/fuzzing.md.
#![forbid(unsafe_code)]

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::bail;
use anyhow::Result;
use clap::Parser;
use rc_fuzz::ops::OP_BYTES;
use rc_fuzz::ops::SETUP_BYTES;
use rc_fuzz::trial;
use rc_fuzz::trial::Tally;

/// Random operations on random machines, each checked (docs/fuzzing.md)
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Operations in all
    #[arg(long, default_value_t = 10_000_000, value_name = "N")]
    ops: u64,
    /// Operations of one case
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    case_ops: u32,
    /// What decides every case
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Run this one case and nothing else
    #[arg(long, value_name = "N")]
    case: Option<u64>,
}

/// The case that runs, for the message of a panic.
static CASE: AtomicU64 = AtomicU64::new(0);

fn main() -> Result<()> {
    let args = Args::parse();
    let say_first = std::panic::take_hook();
    let (seed, case_ops) = (args.seed, args.case_ops);
    std::panic::set_hook(Box::new(move |info| {
        eprintln!("{}", again(seed, case_ops, CASE.load(Ordering::Relaxed)));
        say_first(info);
    }));
    let cases = match args.case {
        Some(n) => n..n + 1,
        None => 0..args.ops.div_ceil(u64::from(case_ops)),
    };
    let begun = Instant::now();
    let (first, last) = (cases.start, cases.end);
    let mut all = Tally::default();
    for case in cases {
        CASE.store(case, Ordering::Relaxed);
        match trial::run_bytes(&bytes(seed, case, case_ops)) {
            Ok(t) => all.add(&t),
            Err(e) => bail!("{}\n{e}", again(seed, case_ops, case)),
        }
        if (case + 1 - first) % 4096 == 0 {
            eprintln!("{} operations, {} s", all.ops, begun.elapsed().as_secs());
        }
    }
    println!("{} operations in {} cases of seed {seed}: no panic, every check held", all.ops, last - first);
    print(&all);
    Ok(())
}

/// How to see it again.
fn again(seed: u64, case_ops: u32, case: u64) -> String {
    format!("failed; again: rc-fuzz --seed {seed} --case-ops {case_ops} --case {case}")
}

/// A case is its own, whatever ran before it.
fn bytes(seed: u64, case: u64, case_ops: u32) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed.rotate_left(32) ^ case);
    let mut bytes = vec![0; SETUP_BYTES + case_ops as usize * OP_BYTES];
    random.fill(&mut bytes);
    bytes
}

fn print(t: &Tally) {
    for (n, what) in [
        (t.ops_link_up, "began with the link up"),
        (t.accesses, "were one access of the guest"),
        (t.ops_with_twin, "were done by a restored twin too, with the same result"),
        (t.forks, "saves and restores"),
        (t.resets_compared, "resets compared with a new machine"),
        (t.link_ups, "times the link came up"),
        (t.msis, "MSIs taken"),
        (t.gated, "accesses to what stood still"),
        (t.unrouted, "requests downstream that ended nowhere"),
        (t.dma_refused, "requests upstream refused"),
        (t.bad_inputs, "findings of bad input"),
    ] {
        println!("{n:>12}  {what}");
    }
}
