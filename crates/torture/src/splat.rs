//! Finds kernel warnings and crashes in console output. Results are never parsed from it (design §5).

use crate::finding::Class;
use crate::finding::Finding;
use crate::finding::Source;

/// (text, class, name). Texts are the kernel's own; sources: lib/bug.c, mm/kasan/report.c, kernel/panic.c,
/// kernel/irq/{manage,spurious}.c, fs/proc/generic.c, kernel/hung_task.c, lib/list_debug.c, lib/refcount.c (6.12).
const PATTERNS: &[(&str, Class, &str)] = &[
    ("Kernel panic - not syncing", Class::Crash, "panic"),
    ("Internal error:", Class::Crash, "oops"),
    ("Unable to handle kernel", Class::Crash, "oops"),
    ("kernel BUG at", Class::Crash, "bug"),
    ("BUG: KASAN", Class::Crash, "kasan"),
    ("BUG: KFENCE", Class::Crash, "kfence"),
    ("Bad mode in", Class::Crash, "bad-mode"),
    ("SError Interrupt", Class::Crash, "serror"),
    ("soft lockup", Class::Hang, "soft-lockup"),
    ("blocked for more than", Class::Hang, "hung-task"),
    (BLOCKED, Class::Hang, "blocked-task"),
    ("detected stalls on CPUs", Class::Hang, "rcu-stall"),
    ("BUG: ", Class::KernelSplat, "bug"),
    ("WARNING: possible", Class::KernelSplat, "lockdep"),
    // "WARNING: CPU: 0 PID: 1 at file:line function" in 6.12, "WARNING: file:line at function, CPU#0: comm/1" or without the file
    // in 7.3 (kernel/panic.c: __warn()).
    ("WARNING: ", Class::KernelSplat, "warn"),
    ("removing non-empty directory", Class::KernelSplat, "proc-leak"),
    ("Trying to free already-free IRQ", Class::KernelSplat, "double-free-irq"),
    ("nobody cared", Class::KernelSplat, "nobody-cared"),
    ("list_del corruption", Class::KernelSplat, "list-corruption"),
    ("list_add corruption", Class::KernelSplat, "list-corruption"),
    ("refcount_t:", Class::KernelSplat, "refcount"),
    ("already present!", Class::KernelSplat, "debugfs-duplicate"),
];

/// A task that sleeps uninterruptibly, as sysrq-w lists it (kernel/sched/core.c: sched_show_task()); the engine asks for the list
/// when an operation hangs.
const BLOCKED: &str = " state:D ";
/// Name of the evidence that holds a call trace, one function a line.
pub const CALL_TRACE: &str = "call trace";
const MAX_LINE_BYTES: usize = 1024;
const MAX_TRACE_LINES: usize = 60;

/// Reads console bytes and gives back findings. Memory is bounded whatever the guest prints.
#[derive(Debug, Default)]
pub struct Scanner {
    line: Vec<u8>,
    open: Option<(Finding, Vec<String>)>,
    /// The last splat was an oops: the panic that follows from it is no event of its own.
    oopsed: bool,
}

impl Scanner {
    /// Take in console output; findings whose trace is complete come back.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Finding> {
        let mut done = Vec::new();
        for &b in bytes {
            if b == b'\n' {
                let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).trim_end().to_owned();
                done.extend(self.take_line(&line));
            } else if self.line.len() < MAX_LINE_BYTES {
                self.line.push(b);
            }
        }
        done
    }

    /// The console has ended: give back what was still being collected.
    pub fn finish(&mut self) -> Option<Finding> {
        let line = String::from_utf8_lossy(&std::mem::take(&mut self.line)).into_owned();
        let done = self.take_line(&line);
        done.or_else(|| self.close())
    }

    fn take_line(&mut self, line: &str) -> Option<Finding> {
        // The list of blocked tasks has no other separator than its next entry.
        if line.contains(BLOCKED) && self.open.as_ref().is_some_and(|(_, lines)| lines[0].contains(BLOCKED)) {
            let done = self.close();
            self.begin(line);
            return done;
        }
        if let Some((f, lines)) = &mut self.open {
            if lines.len() < MAX_TRACE_LINES {
                lines.push(line.to_owned());
            }
            // A panic inside an oops is the same event, and worse.
            if let Some((class, _)) = classify(line) {
                f.class = f.class.max_severity(class);
            }
            let ended = line.contains("---[ end") || lines.len() >= MAX_TRACE_LINES;
            return if ended { self.close() } else { None };
        }
        self.begin(line)?;
        // One-line messages have no trace of their own.
        let (_, name) = classify(line)?;
        if matches!(name, "proc-leak" | "nobody-cared" | "debugfs-duplicate") {
            return self.close();
        }
        None
    }

    /// Begin to collect if `line` begins something.
    fn begin(&mut self, line: &str) -> Option<()> {
        let (class, name) = classify(line)?;
        let text = strip_stamp(line);
        if std::mem::replace(&mut self.oopsed, name == "oops") && text.contains("Fatal exception") {
            return None;
        }
        let f = Finding::new(class, Source::Console, format!("console {name}: {}", site(text)), text);
        self.open = Some((f, vec![line.to_owned()]));
        Some(())
    }

    fn close(&mut self) -> Option<Finding> {
        let (mut f, lines) = self.open.take()?;
        let trace = call_trace(&lines);
        if let Some(pc) = lines.iter().find_map(|l| strip_stamp(l).strip_prefix("pc : ")) {
            // What faulted where is the same event each time; the address in the message is not.
            if f.class == Class::Crash {
                f.rule = format!("console crash at {pc}");
                f.summary = format!("{} at {pc}", f.summary);
            }
            f = f.fact("pc", pc);
        }
        if !trace.is_empty() {
            f = f.fact(CALL_TRACE, trace.join("\n"));
        }
        Some(f.fact("console", lines.join("\n")))
    }
}

/// The functions below "Call trace:", innermost first.
fn call_trace(lines: &[String]) -> Vec<&str> {
    let mut below =
        lines.iter().map(|l| strip_stamp(l)).skip_while(|l| !l.trim_start().starts_with("Call trace"));
    below.next();
    below.map_while(|l| l.strip_prefix(' ')).map(str::trim).filter(|l| l.contains("+0x")).collect()
}

fn classify(line: &str) -> Option<(Class, &'static str)> {
    PATTERNS.iter().find(|(text, ..)| line.contains(text)).map(|&(_, class, name)| (class, name))
}

impl Class {
    fn max_severity(self, other: Class) -> Class {
        let rank = |c: Class| match c {
            Class::Crash => 2,
            Class::Hang => 1,
            _ => 0,
        };
        if rank(other) > rank(self) {
            other
        } else {
            self
        }
    }
}

/// `[    1.234567] text` without the time stamp.
fn strip_stamp(line: &str) -> &str {
    match line.strip_prefix('[').and_then(|l| l.split_once("] ")) {
        Some((stamp, text)) if stamp.trim().parse::<f64>().is_ok() => text,
        _ => line,
    }
}

/// The part of a message that is the same each time it happens: ` at file:line` or the text without numbers.
fn site(text: &str) -> String {
    if let Some((_, at)) = text.split_once(" at ") {
        return at.split_whitespace().next().unwrap_or("").trim_end_matches(',').to_owned();
    }
    text.chars().filter(|c| !c.is_ascii_digit()).take(60).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_is_one_in_every_form_that_kernels_give_it() {
        for (text, site) in [
            (
                "WARNING: CPU: 0 PID: 1 at kernel/irq/manage.c:1939 free_irq+0x2cc/0x2f0",
                "kernel/irq/manage.c:1939",
            ),
            ("WARNING: at free_irq+0x27c/0x2a0, CPU#0: init/1", "free_irq+0x27c/0x2a0"),
            (
                "WARNING: kernel/irq/manage.c:1920 at free_irq+0x27c/0x2a0, CPU#0: init/1",
                "free_irq+0x27c/0x2a0",
            ),
        ] {
            let mut s = Scanner::default();
            s.feed(format!("[    1.487786] {text}\n").as_bytes());
            let f = s.finish().unwrap();
            assert_eq!((f.class, f.rule), (Class::KernelSplat, format!("console warn: {site}")));
        }
    }

    #[test]
    fn each_blocked_task_is_a_hang_with_its_own_trace() {
        let text = "[    9.1] sysrq: Show Blocked State\n\
            [    9.1] task:irq/34-qcom     state:D stack:0     pid:60\n[    9.1] Call trace:\n[    9.1]  __switch_to+0xe4/0x150 (T)\n\
            [    9.1]  down_write+0x30/0x40\n\
            [    9.2] task:rmmod           state:D stack:0     pid:61\n[    9.2] Call trace:\n[    9.2]  synchronize_irq+0x10/0x20\n";
        let mut s = Scanner::default();
        let mut found = s.feed(text.as_bytes());
        found.extend(s.finish());
        let got: Vec<_> = found.iter().map(|f| (f.class, f.evidence[CALL_TRACE].as_str())).collect();
        assert_eq!(
            got,
            [
                (Class::Hang, "__switch_to+0xe4/0x150 (T)\ndown_write+0x30/0x40"),
                (Class::Hang, "synchronize_irq+0x10/0x20"),
            ]
        );
        assert!(found[0].summary.contains("irq/34-qcom"), "{}", found[0].summary);
    }

    const WARN: &str = "[   12.000001] ------------[ cut here ]------------\r\n\
        [   12.000002] WARNING: CPU: 0 PID: 1 at kernel/irq/msi.c:276 msi_device_data_release+0x80/0x90\r\n\
        [   12.000003] Call trace:\r\n\
        [   12.000004]  msi_device_data_release+0x80/0x90\r\n\
        [   12.000005] ---[ end trace 0000000000000000 ]---\r\n";

    #[test]
    fn a_warning_is_one_finding_with_its_trace() {
        let mut s = Scanner::default();
        let found = s.feed(WARN.as_bytes());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].class, Class::KernelSplat);
        assert_eq!(found[0].rule, "console warn: kernel/irq/msi.c:276");
        assert!(found[0].evidence["console"].contains("msi_device_data_release+0x80/0x90"));
        assert_eq!(s.finish(), None);
    }

    #[test]
    fn bytes_may_come_in_any_pieces() {
        let mut s = Scanner::default();
        let found: Vec<_> = WARN.as_bytes().chunks(3).flat_map(|c| s.feed(c)).collect();
        assert_eq!(found.len(), 1);
    }

    #[test]
    fn an_oops_that_ends_in_a_panic_is_a_crash_even_without_an_end_mark() {
        let mut s = Scanner::default();
        let text = "[    3.1] Unable to handle kernel paging request at virtual address dead000000000108\n[    3.2] Kernel panic - not syncing: Oops: Fatal exception\n";
        assert_eq!(s.feed(text.as_bytes()), vec![]);
        assert_eq!(s.finish().map(|f| f.class), Some(Class::Crash));
    }

    #[test]
    fn an_oops_is_named_by_where_it_happened_and_its_panic_is_the_same_event() {
        let mut s = Scanner::default();
        let text = "Unable to handle kernel paging request at virtual address ffff800080901034\n\
            pc : dw_pcie_read+0x5c/0xa0\nCall trace:\n dw_pcie_read+0x5c/0xa0\n \
            qcom_pcie_link_up+0x18/0x50 [pcie_qcom]\nCode: 52800001\n---[ end trace 0000000000000000 ]---\n\
            Kernel panic - not syncing: Oops: Fatal exception\n";
        let found = s.feed(text.as_bytes());
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].rule, "console crash at dw_pcie_read+0x5c/0xa0");
        assert_eq!(
            found[0].evidence[CALL_TRACE],
            "dw_pcie_read+0x5c/0xa0\nqcom_pcie_link_up+0x18/0x50 [pcie_qcom]"
        );
        assert_eq!(s.finish(), None);
    }

    #[test]
    fn a_panic_that_no_oops_came_before_is_an_event() {
        let mut s = Scanner::default();
        assert_eq!(s.feed(b"Kernel panic - not syncing: VFS: Unable to mount root fs\n"), vec![]);
        assert_eq!(s.finish().map(|f| f.class), Some(Class::Crash));
    }

    #[test]
    fn ordinary_output_is_no_finding() {
        let mut s = Scanner::default();
        assert_eq!(
            s.feed(b"[    0.1] pci 0000:00:00.0: [17cb:010b] type 01 class 0x060400\nhello\n"),
            vec![]
        );
        assert_eq!(s.finish(), None);
    }

    #[test]
    fn endless_lines_and_traces_are_bounded() {
        let mut s = Scanner::default();
        assert_eq!(s.feed(&[b'x'; 100_000]), vec![]);
        assert_eq!(s.line.len(), MAX_LINE_BYTES);
        s.feed(b"\nWARNING: CPU: 0 PID: 1 at a.c:1 f\n");
        let found = s.feed(&b"trace\n".repeat(1000));
        assert_eq!(found.len(), 1);
    }
}
