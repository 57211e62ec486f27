//! Progress: a bar with ETA on a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;
use torture::engine::CycleRecord;

/// Where progress goes.
pub struct Progress {
    bar: Option<ProgressBar>,
    cycles: u32,
    leaked: usize,
}

/// What a cycle did, for its line.
fn told(c: &CycleRecord) -> String {
    let holding = if c.held.is_empty() { String::new() } else { format!(" holding {}", c.held) };
    let mut parts = Vec::new();
    if !c.held.is_empty() {
        parts.push(format!("{} interrupts", c.raised));
    }
    if c.worked > 0 {
        parts.push(format!("cards at work {}×", c.worked));
    }
    parts.push(format!("{} mappings created, {} released, {} left", c.created, c.released, c.leaked.len()));
    if c.misbehaved > 0 {
        parts.push(format!("cards misbehaved {}×", c.misbehaved));
    }
    format!("{} → {}{holding}: {}", c.load, c.teardown, parts.join(", "))
}

impl Progress {
    /// Progress over `cycles` cycles on standard error; no bar in CI or where it is not a terminal.
    pub fn new(cycles: u32) -> Progress {
        let interactive = std::io::stderr().is_terminal() && std::env::var_os("CI").is_none();
        let bar = interactive.then(|| {
            let bar = ProgressBar::with_draw_target(Some(u64::from(cycles)), ProgressDrawTarget::stderr());
            let style = ProgressStyle::with_template(
                "{bar:30} {pos}/{len} cycles  {elapsed_precise} eta {eta}  {msg}",
            );
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
            bar.enable_steady_tick(Duration::from_millis(500));
            bar
        });
        Progress { bar, cycles, leaked: 0 }
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{text}")),
            None => eprintln!("{text}"),
        }
    }

    /// What happens now; shown on the bar only.
    pub fn phase(&self, cycle: u32, phase: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(if cycle == 0 { phase.to_owned() } else { format!("cycle {cycle}: {phase}") });
        }
    }

    /// A cycle is done.
    pub fn cycle(&mut self, c: &CycleRecord) {
        let ms: u64 = c.phases_ms.iter().map(|p| p.1).sum();
        match &self.bar {
            Some(bar) => bar.set_position(u64::from(c.cycle)),
            None => eprintln!("cycle {}/{}: {}, {:.1} s", c.cycle, self.cycles, told(c), ms as f64 / 1000.0),
        }
        self.leaked = c.leaked.len();
    }

    /// Remove the bar.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
