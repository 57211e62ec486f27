//! `rcvm trace`: decode, filter, compare and export access traces.

use std::io::BufWriter;
use std::io::Write;
use std::path::Path;
use std::time::Duration;
use std::time::Instant;

use anyhow::bail;
use anyhow::Context;
use anyhow::Result;
use rc_model::Soc;
use serde_json::json;
use similar::capture_diff_slices_deadline;
use similar::Algorithm;
use similar::DiffTag;
use vmm::trace::Entry;
use vmm::trace::Taken;

use crate::cli::TraceArgs;
use crate::cli::TraceFilter;

/// Lines of context around a difference.
const CONTEXT_LINES: usize = 3;
/// After this time two traces that have little in common are compared coarsely.
const DIFF_TIME: Duration = Duration::from_secs(10);

/// Windows that a filter may name.
const WINDOWS: [&str; 11] =
    ["parf", "dbi", "elbi", "atu", "mhi", "config", "mem", "gpio", "reset", "phy", "apb"];

/// Print one access a line: time, vCPU, direction, window, register, value, fields, where in the guest; or the difference of
/// two traces (1 if there is one), or a file for a trace viewer or for tests.
pub fn run(args: &TraceArgs) -> Result<u8> {
    if let Some(w) = args.only.window.iter().find(|w| !WINDOWS.contains(&w.as_str())) {
        bail!("--window {w}: there is {}", WINDOWS.join(", "));
    }
    let chunks = read(&args.file, args.cycle)?;
    let run = Origin::of(&args.file);
    let rows = rows(&chunks, &args.only);
    if let Some(other) = &args.diff {
        let other = read(other, args.with_cycle.or(args.cycle))?;
        return Ok(diff(&rows, &self::rows(&other, &args.only), run.soc));
    }
    if let Some(file) = &args.chrome {
        return write(file, &serde_json::to_vec(&chrome(&chunks, &rows, run.soc))?);
    }
    if let Some(file) = &args.record {
        return write(file, record(&chunks, args, &run)?.as_bytes());
    }
    print(rows.iter().map(|r| {
        let place = if r.place.is_empty() { String::new() } else { format!("  {}", r.place) };
        r.entry.line(run.soc) + &place
    }));
    Ok(0)
}

fn write(file: &Path, bytes: &[u8]) -> Result<u8> {
    std::fs::write(file, bytes).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(0)
}

/// What the report beside a trace says of the run.
#[derive(Default)]
struct Origin {
    /// It names GPIO lines and resets.
    soc: Option<&'static Soc>,
    kernel: String,
}

impl Origin {
    fn of(file: &Path) -> Origin {
        let dir = if file.is_dir() { Some(file) } else { file.parent() };
        let report = dir.and_then(|d| std::fs::read(d.join("report.json")).ok()).unwrap_or_default();
        let report: serde_json::Value = serde_json::from_slice(&report).unwrap_or_default();
        Origin {
            soc: report["soc"].as_str().and_then(rc_model::soc::find),
            kernel: report["kernel"]["release"].as_str().unwrap_or_default().to_owned(),
        }
    }
}

/// The chunks of `file`, or the one of `cycle`.
fn read(file: &Path, cycle: Option<usize>) -> Result<Vec<Taken>> {
    let file = if file.is_dir() { file.join("trace.bin") } else { file.to_owned() };
    let bytes = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let mut chunks = vmm::trace::decode(&bytes)
        .with_context(|| format!("{} is not a trace of this version of rcvm", file.display()))?;
    if let Some(n) = cycle {
        let there = chunks.len();
        let Some(i) = n.checked_sub(1).filter(|i| *i < there) else {
            bail!("--cycle {n}: {} has cycles 1 to {there}", file.display())
        };
        chunks = vec![chunks.swap_remove(i)];
    }
    let lost: u64 = chunks.iter().map(|t| t.lost).sum();
    if lost > 0 {
        eprintln!("{lost} accesses are missing: there were more in a cycle than the ring holds");
    }
    Ok(chunks)
}

/// An access and where in the guest it came from.
#[derive(Clone, Debug)]
struct Row {
    entry: Entry,
    place: String,
}

fn rows(chunks: &[Taken], only: &TraceFilter) -> Vec<Row> {
    let of = |t: &Taken, e: &Entry| Row { entry: *e, place: t.place(e) };
    let kept = |t: &Taken, row: &Row| keep(only, row, t.phase(&row.entry));
    chunks
        .iter()
        .flat_map(|t| t.entries.iter().map(|e| of(t, e)).filter(|r| kept(t, r)).collect::<Vec<_>>())
        .collect()
}

fn keep(only: &TraceFilter, row: &Row, phase: &str) -> bool {
    let e = &row.entry;
    let ms = e.time_ns as f64 / 1e6;
    let contains = |name: &str, part: &String| name.to_lowercase().contains(&part.to_lowercase());
    (!only.writes || e.write)
        && (only.window.is_empty() || only.window.contains(&e.window_name()))
        && (only.phase.is_empty() || only.phase.iter().any(|p| p == phase))
        && only.vcpu.is_none_or(|n| e.vcpu == n)
        && only.from_ms.is_none_or(|from| ms >= from)
        && only.to_ms.is_none_or(|to| ms <= to)
        && only.symbol.as_ref().is_none_or(|s| contains(&row.place, s))
        && only.register.as_ref().is_none_or(|r| contains(&e.register(), r))
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

/// Print what differs, with some context; 1 if anything does.
fn diff(a: &[Row], b: &[Row], soc: Option<&Soc>) -> u8 {
    let lines = compare(a, b, soc);
    let changed = |sign| lines.iter().filter(|l| l.0 == sign).count();
    let (gone, new) = (changed('-'), changed('+'));
    if gone + new == 0 {
        eprintln!("no difference in {} accesses", a.len());
        return 0;
    }
    print(in_context(&lines));
    eprintln!("{gone} of {} accesses have no equal, nor have {new} of {}", a.len(), b.len());
    1
}

/// Both traces in one list of lines, each with a sign: `-` only in `a`, `+` only in `b`.
///
/// They are aligned by what is accessed, so that a value that differs stands beside its counterpart.
fn compare(a: &[Row], b: &[Row], soc: Option<&Soc>) -> Vec<(char, String)> {
    let key = |r: &Row| (r.entry.write, r.entry.window, r.entry.off, r.entry.width);
    let keys = |rows: &[Row]| rows.iter().map(key).collect::<Vec<_>>();
    let deadline = Some(Instant::now() + DIFF_TIME);
    let ops = capture_diff_slices_deadline(Algorithm::Myers, &keys(a), &keys(b), deadline);
    let line = |sign, r: &Row| (sign, r.entry.what(soc));
    let mut lines = Vec::new();
    for op in ops {
        let (old, new) = (&a[op.old_range()], &b[op.new_range()]);
        if op.tag() != DiffTag::Equal {
            lines.extend(old.iter().map(|r| line('-', r)));
            lines.extend(new.iter().map(|r| line('+', r)));
            continue;
        }
        for (old, new) in old.iter().zip(new) {
            if (old.entry.value, old.entry.gated) == (new.entry.value, new.entry.gated) {
                lines.push(line(' ', old));
            } else {
                lines.extend([line('-', old), line('+', new)]);
            }
        }
    }
    lines
}

/// The lines that differ and those around them; `…` where some are left out.
fn in_context(lines: &[(char, String)]) -> impl Iterator<Item = String> + '_ {
    let mut near = vec![false; lines.len()];
    for (i, _) in lines.iter().enumerate().filter(|(_, l)| l.0 != ' ') {
        let end = (i + CONTEXT_LINES + 1).min(lines.len());
        near[i.saturating_sub(CONTEXT_LINES)..end].fill(true);
    }
    let mut left_out = false;
    lines.iter().zip(near).flat_map(move |((sign, text), near)| {
        let gap = (near && left_out).then(|| "…".to_owned());
        left_out = !near;
        gap.into_iter().chain(near.then(|| format!("{sign}{text}")))
    })
}

/// The process of the viewer's vCPU tracks and that of its phase track.
const PID_GUEST: u32 = 1;
const PID_RUN: u32 = 2;

/// The Trace Event Format: accesses as instants on vCPU tracks, phases as durations on a track of their own.
fn chrome(chunks: &[Taken], rows: &[Row], soc: Option<&Soc>) -> serde_json::Value {
    let us = |ns: u64| ns as f64 / 1000.0;
    let access = |r: &Row| {
        let e = &r.entry;
        let register = e.register();
        let name = if register.is_empty() { format!("{}+{:#x}", e.window_name(), e.off) } else { register };
        json!({
            "name": format!("{} {name}", if e.write { "W" } else { "R" }), "cat": e.window_name(),
            "ph": "i", "s": "t", "pid": PID_GUEST, "tid": e.vcpu, "ts": us(e.time_ns),
            "args": {
                "offset": format!("{:#x}", e.off), "width": e.width.bytes() * 8,
                "value": format!("{:#x}", e.value), "fields": e.fields(soc),
                "at": r.place, "gated": e.gated,
            },
        })
    };
    let name = |what: &str, pid: u32, tid: u32, name: String| json!({ "name": what, "ph": "M", "pid": pid, "tid": tid, "args": { "name": name } });
    let mut events = vec![
        name("process_name", PID_GUEST, 0, "guest".into()),
        name("process_name", PID_RUN, 0, "run".into()),
        name("thread_name", PID_RUN, 0, "phases".into()),
    ];
    let mut vcpus: Vec<u8> = rows.iter().map(|r| r.entry.vcpu).collect();
    vcpus.sort_unstable();
    vcpus.dedup();
    events.extend(vcpus.iter().map(|n| name("thread_name", PID_GUEST, (*n).into(), format!("vCPU {n}"))));
    for t in chunks {
        // A phase lasts until the next; the last one until the last access.
        let last = t.entries.last().map_or(0, |e| e.time_ns);
        let ends = t.phases.iter().skip(1).map(|p| p.0).chain([last]);
        events.extend(t.phases.iter().zip(ends).map(|((from, phase), to)| {
            json!({
                "name": phase, "cat": "phase", "ph": "X", "pid": PID_RUN, "tid": 0,
                "ts": us(*from), "dur": us(to.saturating_sub(*from)),
            })
        }));
    }
    events.extend(rows.iter().map(access));
    json!({ "displayTimeUnit": "ns", "traceEvents": events })
}

/// The recording of `crates/rc-model/tests/recorded.rs`: one access a line, numbers in hex.
fn record(chunks: &[Taken], args: &TraceArgs, run: &Origin) -> Result<String> {
    let Some(first) = chunks.first().filter(|t| args.cycle.is_none_or(|n| n == 1) && t.lost == 0) else {
        bail!("--record needs a trace that begins at power-on: cycle 1, with nothing lost")
    };
    let soc = run.soc.context("--record needs the report.json of the run beside the trace")?;
    let mut out = format!(
        "# Linux {} on {}: every access from power-on to the end of cycle 1\n\
         # ns since the last one, R or W, window, offset, bytes, value\nsoc {}\n",
        run.kernel, soc.name, soc.name
    );
    let mut phases = first.phases.iter().peekable();
    let mut before = 0;
    for e in &first.entries {
        while let Some((_, phase)) = phases.next_if(|p| p.0 <= e.time_ns) {
            out += &format!("phase {phase}\n");
        }
        // Two vCPUs may look at the clock in one order and come to the model in the other.
        let ns = e.time_ns.max(before);
        let how = if e.write { "W" } else { "R" };
        let window = e.window_name();
        out += &format!("{:x} {how} {window} {:x} {} {:x}\n", ns - before, e.off, e.width.bytes(), e.value);
        before = ns;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use block::Width;
    use rc_model::Window;

    use super::*;

    fn row(time_ns: u64, off: u64, value: u64) -> Row {
        let entry = Entry {
            time_ns,
            off,
            value,
            window: Window::Parf,
            vcpu: 1,
            width: Width::B4,
            write: true,
            pc: time_ns,
            gated: false,
        };
        Row { entry, place: "qcom_pcie_start_link+0x2c [pcie_qcom]".into() }
    }

    const LTSSM: u64 = 0x1b0;
    const PM_CTRL: u64 = 0x20;

    fn signs(a: &[Row], b: &[Row]) -> String {
        compare(a, b, None).iter().map(|l| l.0).collect()
    }

    #[test]
    fn a_difference_is_one_of_registers_and_values_not_of_times_and_code() {
        let (one, same) = ([row(1, LTSSM, 5), row(2, LTSSM, 6)], [row(7, LTSSM, 5), row(9, LTSSM, 6)]);
        assert_eq!((diff(&one, &same, None), signs(&one, &same).as_str()), (0, "  "));
        assert_eq!(diff(&one[..1], &one[1..], None), 1);
        let mut gated = one[0].clone();
        gated.entry.gated = true;
        assert_eq!(signs(&one[..1], &[gated]), "-+");
    }

    #[test]
    fn a_value_stands_beside_its_counterpart_and_the_rest_stays_aligned() {
        let a = [row(1, LTSSM, 5), row(2, PM_CTRL, 1), row(3, LTSSM, 7)];
        let b = [row(1, LTSSM, 6), row(2, 0, 0), row(3, PM_CTRL, 1), row(4, LTSSM, 7)];
        assert_eq!(signs(&a, &b), "-++  ");
    }

    #[test]
    fn context_is_a_few_lines_and_a_gap_is_marked() {
        let lines: Vec<_> =
            (0..20).map(|i| (if i == 3 || i == 16 { '+' } else { ' ' }, i.to_string())).collect();
        let shown: Vec<_> = in_context(&lines).collect();
        assert_eq!(shown.join(","), " 0, 1, 2,+3, 4, 5, 6,…, 13, 14, 15,+16, 17, 18, 19");
    }

    #[test]
    fn filters_work_on_names_times_and_phases() {
        let r = row(2_000_000, LTSSM, 5);
        let kept = |f: TraceFilter| keep(&f, &r, "insmod");
        assert!(kept(TraceFilter::default()));
        let none = TraceFilter::default;
        assert!(kept(TraceFilter { symbol: Some("start_LINK".into()), ..none() }));
        assert!(!kept(TraceFilter { symbol: Some("dw_pcie".into()), ..none() }));
        assert!(kept(TraceFilter { register: Some("ltssm".into()), ..none() }));
        assert!(!kept(TraceFilter { register: Some("COMMAND".into()), ..none() }));
        assert!(!kept(TraceFilter { vcpu: Some(0), ..none() }));
        assert!(kept(TraceFilter { from_ms: Some(2.0), to_ms: Some(2.0), ..none() }));
        assert!(!kept(TraceFilter { from_ms: Some(2.1), ..none() }));
        assert!(!kept(TraceFilter { phase: vec!["rmmod".into()], ..none() }));
        assert!(!kept(TraceFilter { window: vec!["dbi".into()], ..none() }));
    }

    #[test]
    fn a_trace_viewer_gets_tracks_events_and_phases() {
        let rows = [row(1500, LTSSM, 0x100), row(3500, PM_CTRL, 0)];
        let entries = rows.iter().map(|r| r.entry).collect();
        let phases = vec![(1000, "insmod".into()), (3000, "rmmod".into())];
        let v = chrome(&[Taken { entries, phases, ..Taken::default() }], &rows, None);
        let events = v["traceEvents"].as_array().unwrap();
        for e in events {
            assert!(e["name"].is_string() && e["pid"].is_u64() && e["tid"].is_u64(), "{e}");
            match e["ph"].as_str().unwrap() {
                "M" => assert!(e["args"]["name"].is_string(), "{e}"),
                "X" => assert!(e["ts"].is_f64() && e["dur"].as_f64().unwrap() >= 0.0, "{e}"),
                "i" => assert!(e["ts"].is_f64() && e["s"] == "t", "{e}"),
                other => panic!("an event of kind {other}"),
            }
        }
        let find = |name: &str| events.iter().find(|e| e["name"] == name).unwrap();
        let e = find("W PARF_LTSSM");
        assert_eq!((e["ts"].as_f64(), e["tid"].as_u64()), (Some(1.5), Some(1)));
        assert_eq!(
            (e["args"]["value"].as_str(), e["args"]["fields"].as_str()),
            (Some("0x100"), Some("LTSSM_EN STATE=DETECT_QUIET"))
        );
        assert_eq!(e["args"]["at"], "qcom_pcie_start_link+0x2c [pcie_qcom]");
        let phase = |name| (find(name)["ts"].as_f64(), find(name)["dur"].as_f64());
        assert_eq!((phase("insmod"), phase("rmmod")), ((Some(1.0), Some(2.0)), (Some(3.0), Some(0.5))));
    }

    #[test]
    fn a_recording_has_relative_times_and_phases_and_starts_at_power_on() {
        let mut t = Taken { phases: vec![(2, "insmod".into())], ..Taken::default() };
        t.entries = [row(1, LTSSM, 0x100), row(18, PM_CTRL, 0)].iter().map(|r| r.entry).collect();
        let args = TraceArgs {
            file: ".".into(),
            cycle: None,
            only: TraceFilter::default(),
            diff: None,
            with_cycle: None,
            chrome: None,
            record: None,
        };
        let run = Origin { soc: rc_model::soc::find("sm8250"), kernel: "6.12".into() };
        let text = record(&[t.clone()], &args, &run).unwrap();
        assert!(text.ends_with("soc sm8250\n1 W parf 1b0 4 100\nphase insmod\n11 W parf 20 4 0\n"), "{text}");
        t.lost = 1;
        assert!(record(&[t], &args, &run).is_err());
    }
}
