//! Progress: a bar with ETA on a terminal, plain lines otherwise.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::ProgressBar;
use indicatif::ProgressDrawTarget;
use indicatif::ProgressStyle;

/// Where progress goes.
pub struct Progress {
    bar: Option<ProgressBar>,
    cycles: u32,
    leaked: usize,
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
    pub fn cycle(&mut self, c: &torture::engine::CycleRecord) {
        let ms: u64 = c.phases_ms.iter().map(|p| p.1).sum();
        match &self.bar {
            Some(bar) => bar.set_position(u64::from(c.cycle)),
            None => eprintln!(
                "cycle {}/{}: {} → {} holding {}: {} interrupts, {} mappings created, {} released, {} left{}, {:.1} s",
                c.cycle,
                self.cycles,
                c.load,
                c.teardown,
                c.held,
                c.raised,
                c.created,
                c.released,
                c.leaked.len(),
                match c.misbehaved {
                    0 => String::new(),
                    n => format!(", cards misbehaved {n}×"),
                },
                ms as f64 / 1000.0
            ),
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
