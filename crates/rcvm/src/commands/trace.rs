//! `rcvm trace`: decode, filter, compare and export access traces.

use std::io::BufWriter;
use std::io::Write;
use std::path::Path;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use rc_model::Soc;
use similar::ChangeTag;
use similar::TextDiff;
use vmm::trace::Entry;
use vmm::trace::Taken;

use crate::cli::TraceArgs;

/// Lines of context around a difference.
const CONTEXT_LINES: usize = 3;

/// Print one access a line: time, vCPU, direction, window, register, value; or the difference of two traces (1 if there
/// is one), or a file for a trace viewer.
pub fn run(args: &TraceArgs) -> Result<u8> {
    let entries = read(&args.file, args.cycle, args)?;
    let soc = soc(&args.file);
    if let Some(other) = &args.diff {
        let other = read(other, args.with_cycle.or(args.cycle), args)?;
        return diff(&entries, &other, soc);
    }
    if let Some(file) = &args.chrome {
        let json = serde_json::to_vec(&chrome(&entries))?;
        std::fs::write(file, json).with_context(|| format!("cannot write {}", file.display()))?;
        return Ok(0);
    }
    print(entries.iter().map(|e| e.line(soc)));
    Ok(0)
}

/// The SoC of the run that left `file`, as far as its report says: it names GPIO lines and resets.
fn soc(file: &Path) -> Option<&'static Soc> {
    let dir = if file.is_dir() { file } else { file.parent()? };
    let report = std::fs::read(dir.join("report.json")).ok()?;
    let report: serde_json::Value = serde_json::from_slice(&report).ok()?;
    rc_model::soc::find(report["soc"].as_str()?)
}

fn read(file: &Path, cycle: Option<usize>, args: &TraceArgs) -> Result<Vec<Entry>> {
    let file = if file.is_dir() { file.join("trace.bin") } else { file.to_owned() };
    let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let chunks = vmm::trace::decode(&bytes)
        .with_context(|| format!("{} is not a trace of this version of rcvm", file.display()))?;
    let known = ["parf", "dbi", "elbi", "atu", "mhi", "config", "mem", "gpio", "reset", "phy"];
    if let Some(w) = args.window.iter().find(|w| !known.contains(&w.as_str())) {
        bail!("--window {w}: there is {}", known.join(", "));
    }
    let wanted: &[Taken] = match cycle {
        None => &chunks,
        Some(n) => match n.checked_sub(1).and_then(|i| chunks.get(i..=i)) {
            Some(chunk) => chunk,
            None => bail!("--cycle {n}: {} has cycles 1 to {}", file.display(), chunks.len()),
        },
    };
    let lost: u64 = wanted.iter().map(|t| t.lost).sum();
    if lost > 0 {
        eprintln!("{lost} accesses are missing: there were more in a cycle than the ring holds");
    }
    let keep = |e: &&Entry| {
        (!args.writes || e.write) && (args.window.is_empty() || args.window.contains(&e.window_name()))
    };
    Ok(wanted.iter().flat_map(|t| &t.entries).filter(keep).copied().collect())
}

fn print(lines: impl Iterator<Item = String>) {
    let mut out = BufWriter::new(std::io::stdout().lock());
    for line in lines {
        if writeln!(out, "{line}").is_err() {
            // The reader (head, less) has gone: not an error.
            return;
        }
    }
    let _ = out.flush();
}

/// What differs, with some context; 1 if anything does.
fn diff(a: &[Entry], b: &[Entry], soc: Option<&Soc>) -> Result<u8> {
    let text = |entries: &[Entry]| entries.iter().map(|e| e.what(soc) + "\n").collect::<String>();
    let (a, b) = (text(a), text(b));
    let diff = TextDiff::from_lines(&a, &b);
    let groups = diff.grouped_ops(CONTEXT_LINES);
    let lines = groups.iter().enumerate().flat_map(|(i, group)| {
        let gap = (i > 0).then(|| "…".to_owned());
        let changes = group.iter().flat_map(|op| diff.iter_changes(op)).map(|c| {
            let sign = match c.tag() {
                ChangeTag::Delete => '-',
                ChangeTag::Insert => '+',
                ChangeTag::Equal => ' ',
            };
            format!("{sign}{}", c.value().trim_end())
        });
        gap.into_iter().chain(changes).collect::<Vec<_>>()
    });
    print(lines);
    Ok(u8::from(!groups.is_empty()))
}

/// Instant events of the Trace Event Format, one thread a vCPU.
fn chrome(entries: &[Entry]) -> serde_json::Value {
    let event = |e: &Entry| {
        let register = e.register();
        let fields = e.fields(None);
        let name = if register.is_empty() { format!("{}+{:#x}", e.window_name(), e.off) } else { register };
        serde_json::json!({
            "name": name, "cat": e.window_name(), "ph": "i", "s": "t", "pid": 1, "tid": e.vcpu,
            "ts": e.time_ns as f64 / 1000.0,
            "args": { "write": e.write, "offset": format!("{:#x}", e.off), "value": format!("{:#x}", e.value), "fields": fields },
        })
    };
    serde_json::json!({ "displayTimeUnit": "ns", "traceEvents": entries.iter().map(event).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use block::Width;
    use rc_model::Window;

    use super::*;

    fn entry(time_ns: u64, value: u64) -> Entry {
        Entry { time_ns, off: 0x1b0, value, window: Window::Parf, vcpu: 1, width: Width::B4, write: true }
    }

    #[test]
    fn a_difference_is_one_of_values_not_of_times() {
        assert_eq!(diff(&[entry(1, 5), entry(2, 6)], &[entry(7, 5), entry(9, 6)], None).unwrap(), 0);
        assert_eq!(diff(&[entry(1, 5)], &[entry(1, 6)], None).unwrap(), 1);
    }

    #[test]
    fn a_trace_viewer_gets_named_events_in_microseconds() {
        let v = chrome(&[entry(1500, 0x100)]);
        let e = &v["traceEvents"][0];
        assert_eq!((e["name"].as_str(), e["ts"].as_f64()), (Some("PARF_LTSSM"), Some(1.5)));
        assert_eq!((e["ph"].as_str(), e["args"]["value"].as_str()), (Some("i"), Some("0x100")));
    }
}
