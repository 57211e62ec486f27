//! The report of a run: what was done, what was found, what follows from it.
//!
//! Written to a temporary file and renamed, so that a reader (or a `kill -9` at any moment) finds either the old or
//! the new report, never half of one.

use std::collections::BTreeMap;
use std::io;
use std::io::Write;
use std::path::Path;

use serde::Deserialize;
use serde::Serialize;

use crate::check::allow::Allowed;
use crate::check::irqs::Mapping;
use crate::engine::CycleRecord;
use crate::engine::Event;
use crate::finding::Class;
use crate::finding::Finding;
use crate::splat;
use crate::verdict::Verdict;

/// Version of the report's format.
pub const SCHEMA: u32 = 1;
/// Most distinct findings that a report keeps; the rest is counted.
const MAX_FINDINGS: usize = 500;

/// What is known before the run starts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Setting {
    /// Version of rcvm.
    pub rcvm: String,
    /// `native` or `nested`.
    pub mode: String,
    /// Guest image profile, or `custom`.
    pub profile: String,
    /// Kernel image file.
    pub kernel_image: String,
    /// SoC whose root complex the guest had.
    pub soc: String,
    /// What an access to a block that stands still did: `lenient`, all ones and a finding; `strict`, an external abort too.
    pub gating: String,
    /// vCPUs of the guest.
    pub vcpus: u8,
    /// Guest memory, MiB.
    pub memory_mib: u64,
    /// Seed of the run.
    pub seed: u64,
    /// Cycles asked for.
    pub cycles_requested: u32,
    /// Name of the plan file; empty: none.
    #[serde(default)]
    pub plan: String,
    /// Whether residue is a failure.
    pub strict: bool,
    /// Command line that repeats the run, for a human.
    pub command: String,
    /// Its words.
    #[serde(default)]
    pub args: Vec<String>,
    /// Where it was started.
    #[serde(default)]
    pub directory: String,
}

/// Numbers of IRQ mappings over the whole run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Mappings {
    /// Created.
    pub created: u64,
    /// Released.
    pub released: u64,
    /// Left at the end of the last completed cycle.
    pub leaked: u64,
    /// Those left.
    pub left: Vec<Mapping>,
}

/// A finding with how often it was seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Seen {
    /// As first seen.
    #[serde(flatten)]
    pub finding: Finding,
    /// How often.
    pub count: u64,
    /// Cycle it was last seen in.
    pub last_cycle: u32,
    /// Cycles it was seen in, as ranges from–to, both included.
    #[serde(default)]
    pub cycles: Vec<(u32, u32)>,
}

impl Seen {
    /// Whether it was seen in `cycle`. A report of an earlier rcvm knows the first and the last one only.
    pub fn was_in(&self, cycle: u32) -> bool {
        if self.cycles.is_empty() {
            return cycle == self.finding.cycle || cycle == self.last_cycle;
        }
        self.cycles.iter().any(|&(from, to)| (from..=to).contains(&cycle))
    }
}

/// Times of one phase over all cycles, ms.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseTimes {
    /// How many cycles had the phase.
    pub count: u32,
    /// Median.
    pub median_ms: u64,
    /// 95 of 100 were not longer.
    #[serde(default)]
    pub p95_ms: u64,
    /// Longest.
    pub max_ms: u64,
    /// Sum.
    pub total_ms: u64,
}

/// The kernel under test, as it named itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// `uname -v`.
    pub version: String,
}

/// The ELF core of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Core {
    /// Its file; empty if there is none.
    pub file: String,
    /// Class of the finding at which it was taken, or `end of run`.
    pub at: String,
    /// Bytes.
    pub bytes: u64,
    /// How long the guest stood still for it, ms.
    pub took_ms: u64,
    /// Whether it has the guest's VMCOREINFO, which drgn and crash need.
    pub vmcoreinfo: bool,
    /// Command that opens it; empty without a vmlinux beside the kernel.
    pub open_with: String,
    /// Program counter and some system registers of each vCPU.
    pub vcpus: Vec<BTreeMap<String, String>>,
    /// Why there is none, or less than there should be.
    pub trouble: String,
}

/// The report, as it stands in `report.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Format version: [`SCHEMA`].
    pub schema: u32,
    /// Verdict on what was done so far.
    pub verdict: Verdict,
    /// Exit code that goes with it.
    pub exit_code: u8,
    /// `running`, `complete`, `stopped` (the run ended before its last cycle) or `interrupted`.
    pub state: String,
    /// Setting of the run.
    #[serde(flatten)]
    pub setting: Setting,
    /// Kernel under test; empty until it has booted.
    pub kernel: Kernel,
    /// Cycles done.
    pub cycles_completed: u32,
    /// Interrupts raised by the endpoint and seen by handlers, all cycles.
    pub interrupts_raised: u64,
    /// IRQ mappings.
    pub irq_mappings: Mappings,
    /// Findings, merged by rule.
    pub findings: Vec<Seen>,
    /// Findings beyond the most that are kept.
    pub findings_dropped: u64,
    /// What the checks could not do, and do not need to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// Allow-list in force.
    pub allow_list: Vec<Allowed>,
    /// Times of phases.
    pub phases: BTreeMap<String, PhaseTimes>,
    /// Other measurements: `boot_ms`, `outer_boot_ms`, `vmm_rss_bytes`, `mmio_exits`, …
    pub measured: BTreeMap<String, u64>,
    /// What each cycle did.
    pub cycles: Vec<CycleRecord>,
    /// The guest's memory and registers, if they were to be kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub core: Option<Core>,
    #[serde(skip)]
    phase_ms: BTreeMap<String, Vec<u64>>,
    #[serde(skip)]
    console: ConsoleScan,
    #[serde(skip)]
    now: (u32, String),
}

/// The scanner's place in a report; comparing reports ignores it.
#[derive(Debug, Default)]
struct ConsoleScan(splat::Scanner);

impl Clone for ConsoleScan {
    fn clone(&self) -> Self {
        ConsoleScan::default()
    }
}

impl PartialEq for ConsoleScan {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Report {
    /// An empty report: nothing done, so the verdict is inconclusive.
    pub fn new(setting: Setting) -> Report {
        Report {
            schema: SCHEMA,
            verdict: Verdict::Inconclusive,
            exit_code: Verdict::Inconclusive.exit_code(false),
            state: "running".into(),
            setting,
            kernel: Kernel::default(),
            cycles_completed: 0,
            interrupts_raised: 0,
            irq_mappings: Mappings::default(),
            findings: Vec::new(),
            findings_dropped: 0,
            notes: Vec::new(),
            allow_list: Vec::new(),
            phases: BTreeMap::new(),
            measured: BTreeMap::new(),
            cycles: Vec::new(),
            core: None,
            phase_ms: BTreeMap::new(),
            console: ConsoleScan::default(),
            now: (0, "boot".into()),
        }
    }

    /// Take in an event of the engine.
    pub fn event(&mut self, e: Event) {
        match e {
            Event::Booted { hello, boot_ms, allow_list } => {
                self.kernel = Kernel { release: hello.release, version: hello.version };
                self.measured.insert("boot_ms".into(), boot_ms);
                self.allow_list = allow_list;
            }
            Event::Phase { cycle, phase } => self.now = (cycle, phase),
            Event::Note { text } => self.notes.push(text),
            Event::Finding(f) => self.add(f),
            Event::Cycle(c) => self.cycle(c),
            Event::Ended { complete } => {
                self.state = if complete { "complete" } else { "stopped" }.into();
            }
        }
        self.judge();
    }

    /// Take in console output, for splats.
    pub fn console(&mut self, bytes: &[u8]) {
        let found = self.console.0.feed(bytes);
        self.splats(found);
    }

    /// The run is over, `interrupted` if by a signal or by the end of the stream.
    pub fn finish(&mut self, interrupted: bool) {
        let found = self.console.0.finish().into_iter().collect();
        self.splats(found);
        if interrupted && self.state == "running" {
            self.state = "interrupted".into();
        }
        self.judge();
    }

    /// A finding of the front-end itself.
    pub fn add(&mut self, f: Finding) {
        let same =
            |s: &&mut Seen| s.finding.rule == f.rule && s.finding.allowed.is_some() == f.allowed.is_some();
        if let Some(seen) = self.findings.iter_mut().find(same) {
            seen.count += 1;
            seen.last_cycle = f.cycle;
            match seen.cycles.last_mut() {
                Some((_, to)) if f.cycle <= to.saturating_add(1) => *to = f.cycle.max(*to),
                _ => seen.cycles.push((f.cycle, f.cycle)),
            }
        } else if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Seen {
                last_cycle: f.cycle,
                cycles: vec![(f.cycle, f.cycle)],
                finding: f,
                count: 1,
            });
        } else {
            self.findings_dropped += 1;
        }
        self.judge();
    }

    fn splats(&mut self, found: Vec<Finding>) {
        let (cycle, phase) = self.now.clone();
        let booted = !self.kernel.release.is_empty();
        for mut f in found {
            if !booted && matches!(f.class, Class::Crash | Class::Hang) {
                f.class = Class::BootFailed;
            }
            self.add(f.at(cycle, &phase));
        }
    }

    fn cycle(&mut self, c: CycleRecord) {
        self.cycles_completed = c.cycle;
        self.interrupts_raised += c.raised;
        self.irq_mappings.created += c.created;
        self.irq_mappings.released += c.released;
        self.irq_mappings.leaked = c.leaked.len() as u64;
        self.irq_mappings.left.clone_from(&c.leaked);
        for (phase, ms) in &c.phases_ms {
            let all = self.phase_ms.entry(phase.clone()).or_default();
            all.push(*ms);
            self.phases.insert(phase.clone(), times(all));
        }
        self.cycles.push(c);
    }

    fn judge(&mut self) {
        let complete = self.cycles_completed >= self.setting.cycles_requested;
        self.verdict = Verdict::judge(self.findings.iter().map(|s| &s.finding), complete);
        self.exit_code = self.verdict.exit_code(self.setting.strict);
    }

    /// The last line of a run, e.g. `verdict: clean — 20/20 cycles, …`.
    pub fn last_line(&self) -> String {
        let m = &self.irq_mappings;
        let kernel = if self.kernel.release.is_empty() {
            String::new()
        } else {
            format!(", Linux {}", self.kernel.release)
        };
        format!(
            "verdict: {} — {}/{} cycles, {} IRQ mappings created, {} released, {} leaked ({}{kernel})",
            self.verdict.name(),
            self.cycles_completed,
            self.setting.cycles_requested,
            m.created,
            m.released,
            m.leaked,
            self.setting.mode,
        )
    }

    /// Write `report.json` into `dir`, whole or not at all.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let tmp = dir.join(".report.json.tmp");
        let written = (|| {
            let mut f = std::fs::File::create(&tmp)?;
            serde_json::to_writer_pretty(&mut f, self)?;
            f.write_all(b"\n")?;
            f.sync_data()?;
            std::fs::rename(&tmp, dir.join("report.json"))
        })();
        if written.is_err() {
            let _ = std::fs::remove_file(&tmp);
        }
        written
    }
}

fn times(all: &[u64]) -> PhaseTimes {
    let mut sorted = all.to_vec();
    sorted.sort_unstable();
    PhaseTimes {
        count: all.len() as u32,
        median_ms: sorted.get(sorted.len() / 2).copied().unwrap_or(0),
        p95_ms: sorted.get((sorted.len() * 95).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0),
        max_ms: sorted.last().copied().unwrap_or(0),
        total_ms: all.iter().sum(),
    }
}

#[cfg(test)]
#[path = "report_test.rs"]
mod tests;
