//! Whole-system tests: the program as a user runs it, booting real guests.
//!
//! On a machine without an arm64 KVM each test that boots a guest starts an emulated outer machine. Nothing here is
//! skipped: where a guest cannot run, `rcvm` says what is missing and the test fails with that line.

mod common;

use std::collections::BTreeSet;
use std::io::BufRead;
use std::io::BufReader;
use std::io::Read;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;
use tempfile::TempDir;

/// Longest that one run of these tests may take before the test fails; a guest's own timeouts are far shorter.
const RUN_LIMIT: Duration = Duration::from_secs(400);

/// One run of `rcvm` with an output directory of its own.
struct Run {
    out: TempDir,
    code: i32,
    stdout: String,
    stderr: String,
}

fn rcvm(args: &[&str]) -> Command {
    let mut c = Command::new(env!("CARGO_BIN_EXE_rcvm"));
    c.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    c
}

fn plain(args: &[&str]) -> Output {
    rcvm(args).output().expect("start rcvm")
}

fn torture(args: &[&str]) -> Run {
    torture_in(tempfile::tempdir().unwrap(), args)
}

fn torture_in(out: TempDir, args: &[&str]) -> Run {
    let mut cmd = rcvm(&["torture"]);
    cmd.args(args).arg("--out").arg(out.path());
    finish(cmd.spawn().expect("start rcvm"), out)
}

/// Wait for the end of a run, within bounds.
fn finish(mut child: Child, out: TempDir) -> Run {
    let begun = Instant::now();
    let (mut so, mut se) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let stderr = std::thread::spawn(move || {
        let mut s = String::new();
        se.read_to_string(&mut s).map(|_| s)
    });
    let stdout = std::thread::spawn(move || {
        let mut s = String::new();
        so.read_to_string(&mut s).map(|_| s)
    });
    let status = wait_until("the run ends", RUN_LIMIT, || child.try_wait().unwrap());
    assert!(begun.elapsed() < RUN_LIMIT);
    Run {
        out,
        code: status.code().unwrap_or(-1),
        stdout: stdout.join().unwrap().unwrap(),
        stderr: stderr.join().unwrap().unwrap(),
    }
}

/// Poll `seen` until it has something.
fn wait_until<T>(what: &str, limit: Duration, mut seen: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(t) = seen() {
            return t;
        }
        assert!(begun.elapsed() < limit, "not within {} s: {what}", limit.as_secs());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn report_in(dir: &Path) -> Option<Value> {
    serde_json::from_str(&std::fs::read_to_string(dir.join("report.json")).ok()?).ok()
}

impl Run {
    fn report(&self) -> Value {
        report_in(self.out.path()).unwrap_or_else(|| panic!("no readable report\n{}", self.stderr))
    }

    fn verdict_line(&self) -> &str {
        self.stdout.lines().last().unwrap_or("")
    }

    /// Everything that was said, for a failed assertion.
    fn all(&self) -> String {
        let console = std::fs::read(self.out.path().join("console.log")).unwrap_or_default();
        let console = String::from_utf8_lossy(&console).into_owned();
        format!(
            "exit {}\n--- stdout\n{}\n--- stderr\n{}\n--- console\n{console}",
            self.code, self.stdout, self.stderr
        )
    }

    /// The register accesses, decoded by the program.
    fn trace(&self) -> String {
        let out = rcvm(&["trace"]).arg(self.out.path().join("trace.bin")).output().expect("start rcvm");
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).expect("text")
    }

    fn assert_verdict(&self, verdict: &str, code: i32) {
        let line = self.verdict_line();
        assert!(line.starts_with(&format!("verdict: {verdict} ")) && self.code == code, "{}", self.all());
    }

    fn classes(&self) -> Vec<String> {
        let r = self.report();
        let all = r["findings"].as_array().cloned().unwrap_or_default();
        all.iter().filter_map(|f| f["class"].as_str().map(str::to_owned)).collect()
    }
}

/// A mistake of the user: exit 2, and one line on standard error that has `words` in it.
fn assert_refused(code: Option<i32>, stderr: &str, words: &[&str]) {
    assert_eq!(code, Some(2), "{stderr}");
    let line =
        stderr.lines().find(|l| l.contains("error")).unwrap_or_else(|| panic!("no error line: {stderr}"));
    for w in words {
        assert!(stderr.contains(w), "{w:?} is not said: {line}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

#[test]
fn the_modular_driver_releases_every_mapping_in_all_four_kinds_of_cycle() {
    let run = torture(&["--cycles", "4"]);
    assert_eq!(run.code, 0, "{}", run.all());
    assert_both_views(&run);
    let line = run.verdict_line();
    assert!(line.starts_with("verdict: clean — 4/4 cycles, "), "{}", run.all());
    let r = run.report();
    assert_eq!((&r["schema"], &r["state"]), (&1.into(), &"complete".into()));
    let (created, released) = (&r["irq_mappings"]["created"], &r["irq_mappings"]["released"]);
    // Per cycle at least: 32 MSI, 32 MSI-X, INTx and the root port's service interrupts.
    assert!(created.as_u64().unwrap() >= 4 * 66, "{created}");
    assert_eq!(created, released);
    assert_eq!(r["irq_mappings"]["leaked"], 0);
    assert!(
        line.contains(&format!("{created} IRQ mappings created, {released} released, 0 leaked")),
        "{line}"
    );
    let kinds: Vec<(String, String)> = r["cycles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| (c["load"].as_str().unwrap().to_owned(), c["teardown"].as_str().unwrap().to_owned()))
        .collect();
    for load in ["insmod", "bind"] {
        for teardown in ["rmmod", "unbind"] {
            assert!(kinds.contains(&(load.into(), teardown.into())), "{kinds:?}");
        }
    }
    assert!(r["kernel"]["release"].as_str().unwrap().starts_with("6.12"), "{}", r["kernel"]);
    assert!(r["interrupts_raised"].as_u64().unwrap() >= 4 * 65, "{}", r["interrupts_raised"]);
    let trace = plain(&["trace", run.out.path().join("trace.bin").to_str().unwrap()]);
    let text = String::from_utf8(trace.stdout).unwrap();
    for name in ["PARF_LTSSM", "{LTSSM_EN STATE=", "MSI_INTR0_ENABLE", "[pcie_qcom]", "  dw_pcie_read"] {
        assert!(text.contains(name), "the trace names no {name}");
    }
    // A probe that finds the hardware as the first one did writes the same to PARF.
    let dir = run.out.path().to_str().unwrap();
    let diff = plain(&[
        "trace",
        dir,
        "--cycle",
        "1",
        "--diff",
        dir,
        "--with-cycle",
        "3",
        "--window",
        "parf",
        "--writes",
    ]);
    assert_eq!((diff.status.code(), String::from_utf8_lossy(&diff.stdout).as_ref()), (Some(0), ""));
}

/// What guest memory had after each cycle, and that the guest's own files had the same.
fn assert_both_views(run: &Run) {
    let report = run.report();
    assert_eq!(report.get("notes"), None, "{}", run.all());
    assert!(report["measured"]["memory_look_us"].as_u64() > Some(0), "{}", run.all());
    let cycles = report["cycles"].as_array().cloned().unwrap_or_default();
    assert!(!cycles.is_empty(), "{}", run.all());
    for c in cycles {
        assert_eq!(c["memory"]["descs"], c["irq_descs"], "{}", run.all());
        assert!(c["memory"]["domains"].as_u64() >= Some(1), "{}", run.all());
    }
    assert!(!run.classes().contains(&"view-disagreement".into()), "{}", run.all());
}

#[test]
fn memory_alone_finds_what_a_wrong_teardown_leaves() {
    let run = torture(&["--profile", "naive", "--cycles", "1", "--irq-views", "memory", "--core", "never"]);
    let report = run.report();
    let findings = report["findings"].as_array().expect("a list");
    let of_irqs = |f: &&Value| f["rule"].as_str().is_some_and(|r| r.starts_with("S4 irq leak "));
    let leaks: Vec<_> = findings.iter().filter(of_irqs).collect();
    assert!(!leaks.is_empty(), "{}", run.all());
    for f in leaks {
        assert_eq!((&f["source"], f.get("also")), (&"guest-memory".into(), None), "{f}");
        for fact in ["virq", "hwirq", "hierarchy", "flow handler", "created in cycle"] {
            assert!(f["evidence"][fact].as_str().is_some_and(|s| !s.is_empty()), "{fact}: {f}");
        }
    }

    let run =
        torture(&["--soc", "rk3568", "--profile", "rk-intx-leak", "--cycles", "2", "--irq-views", "memory"]);
    run.assert_verdict("leak", 1);
    assert!(run.classes().contains(&"irq-dangling".into()), "{}", run.all());
}

/// The verdict has both views, and what they disagree about is a finding: this is the comparison of memory with debugfs and
/// /sys/kernel/irq, while the driver is bound and after its teardown.
#[test]
fn guest_memory_has_the_domains_and_mappings_that_the_kernels_own_files_tell() {
    for series in common::series() {
        let run = torture(&[
            "--series",
            &series,
            "--cycles",
            "2",
            "--endpoint",
            "endpoint-test",
            "--irq-views",
            "both",
        ]);
        run.assert_verdict("clean", 0);
        let report = run.report();
        assert_eq!(report["notes"].as_array().map_or(0, Vec::len), 0, "each view was had: {}", run.all());
        let memory = &report["cycles"][1]["memory"];
        assert!(
            memory["domains"].as_u64() >= Some(1) && memory["descs"].as_u64() >= Some(8),
            "{series}: {memory}"
        );
        assert_eq!(memory["descs"], report["cycles"][1]["irq_descs"], "{series}: both count the same");
    }
}

#[test]
fn the_naive_driver_is_never_clean() {
    let run = torture(&["--profile", "naive", "--cycles", "4"]);
    assert!([1, 3].contains(&run.code), "{}", run.all());
    let line = run.verdict_line();
    assert!(line.starts_with("verdict: leak") || line.starts_with("verdict: crash"), "{}", run.all());
    let wanted = ["irq-leak", "crash", "kernel-splat", "hang"];
    assert!(run.classes().iter().any(|c| wanted.contains(&c.as_str())), "{}", run.all());
}

#[test]
fn a_core_taken_at_a_leak_opens_in_drgn_and_shows_the_mappings_that_the_report_has() {
    let run = torture(&["--profile", "naive", "--cycles", "1"]);
    let report = run.report();
    let core = &report["core"];
    assert_eq!(
        (&core["at"], &core["vmcoreinfo"]),
        (&"irq-leak".into(), &true.into()),
        "{core} {}",
        run.all()
    );
    let open = core["open_with"].as_str().unwrap_or("");
    assert!(
        !open.is_empty(),
        "this kernel was built by an older rcvm: remove its entry from the cache\n{}",
        run.all()
    );
    let said = drgn(open, "irq_domains.py");
    let rows: Vec<Vec<&str>> = said.lines().map(|l| l.split('\t').collect()).collect();
    let left = report["irq_mappings"]["left"].as_array().expect("a list");
    assert!(!left.is_empty(), "{}", run.all());
    for m in left {
        let (virq, domain) = (m["virq"].to_string(), m["domain"].as_str().expect("a name"));
        let hwirq = m["hwirq"].as_u64().map(|h| format!("{h:#x}")).expect("a number");
        assert!(rows.iter().any(|r| r[..2] == ["domain", domain]), "{domain} is not in\n{said}");
        let row = rows.iter().find(|r| r[..2] == ["irq", virq.as_str()]);
        let row = row.unwrap_or_else(|| panic!("virq {virq} is not in\n{said}"));
        assert_eq!(row[2..4], [hwirq.as_str(), domain], "virq {virq}");
        // The action of a chained handler has no name; the agent has it from another file.
        let actions = m["actions"].as_str().filter(|a| *a != "chained handler").unwrap_or("-");
        assert_eq!(row[4], actions, "virq {virq}");
    }
    inspected_is_what_drgn_says(run.out.path(), &(said + &drgn(open, "devices.py")));
    types_of_a_vmlinux_show_the_same(run.out.path(), report["kernel_image"].as_str().expect("a path"));
    another_kernel_is_refused(run.out.path(), report["kernel_image"].as_str().expect("a path"));
}

/// The names of modules' parts are BTF's alone, so the view of modules is left out.
fn types_of_a_vmlinux_show_the_same(dir: &Path, image: &str) {
    let vmlinux = Path::new(image).with_file_name("vmlinux");
    let (core, vmlinux) = (dir.to_str().expect("UTF-8"), vmlinux.to_str().expect("UTF-8"));
    for view in ["irqs", "domains", "pci", "devices", "iomem", "clocks"] {
        let out = plain(&["inspect", view, "--json", "--core", core, "--vmlinux", vmlinux]);
        assert!(out.status.success(), "{view}: {}", String::from_utf8_lossy(&out.stderr));
        assert_eq!(serde_json::from_slice::<Value>(&out.stdout).expect("JSON"), inspect(view, dir), "{view}");
    }
    let out = plain(&["inspect", "irqs", "--core", core, "--vmlinux", image]);
    assert_refused(
        out.status.code(),
        &String::from_utf8_lossy(&out.stderr),
        &["--vmlinux", "not an ELF file"],
    );
}

/// The Image with other build IDs is not that of the core.
fn another_kernel_is_refused(dir: &Path, image: &str) {
    const NOTE: &[u8] = b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0";
    let mut bytes = std::fs::read(image).expect("the Image");
    let notes: Vec<_> =
        bytes.windows(NOTE.len()).enumerate().filter(|(_, w)| *w == NOTE).map(|(i, _)| i).collect();
    assert!(!notes.is_empty());
    for at in notes {
        bytes[at + NOTE.len()] ^= 1;
    }
    let other = dir.join("Image");
    std::fs::write(&other, bytes).expect("write an Image");
    let core = dir.join("core.elf");
    let (other, core) = (other.to_str().expect("UTF-8"), core.to_str().expect("UTF-8"));
    let out = plain(&["inspect", "pci", "--core", core, "--kernel", other]);
    let stderr = String::from_utf8_lossy(&out.stderr);
    assert_eq!(out.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("is not the kernel in this memory"), "{stderr}");
}

/// What a script of tests/drgn prints about the core that `open` opens.
fn drgn(open: &str, script: &str) -> String {
    let drgn = std::env::var("RCVM_DRGN").unwrap_or_else(|_| "drgn".into());
    let script = format!("{}/../../tests/drgn/{script}", env!("CARGO_MANIFEST_DIR"));
    let out =
        Command::new(&drgn).args(open.split(' ').skip(1)).arg(script).output().unwrap_or_else(|e| {
            panic!("start {drgn}: {e}: scripts/test installs it; RCVM_DRGN names another")
        });
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn inspect(view: &str, dir: &Path) -> Value {
    let out = plain(&["inspect", view, "--json", "--core", dir.to_str().expect("UTF-8")]);
    assert!(out.status.success(), "{view}: {}", String::from_utf8_lossy(&out.stderr));
    let view: Value = serde_json::from_slice(&out.stdout).expect("JSON");
    assert_eq!(view["corruptions"], serde_json::json!([]));
    view
}

/// The same rows from the kernel's structures by BTF and by DWARF, each with its own walks.
fn inspected_is_what_drgn_says(dir: &Path, said: &str) {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let named = |v: &Value| if v.is_null() { "-".to_owned() } else { text(v) };
    let hex = |v: &Value| format!("{:#x}", v.as_u64().expect("a number"));
    let list = |v: &Value, key: &str| v[key].as_array().expect("a list").clone();
    let mut rows = Vec::new();
    for m in list(&inspect("modules", dir), "modules") {
        let bytes: u64 = list(&m, "ranges").iter().filter_map(|r| r["bytes"].as_u64()).sum();
        rows.push(
            ["module".to_owned(), text(&m["name"]), text(&m["references"]), bytes.to_string()].join("\t"),
        );
    }
    for bus in list(&inspect("pci", dir), "buses") {
        for d in list(&bus, "devices") {
            let name = text(&d["name"]);
            let id = |key: &str| d[key].as_u64().expect("a number");
            let ids = format!("{:04x}:{:04x}", id("vendor"), id("device"));
            let bits = ["msi_enabled", "msix_enabled", "is_busmaster"];
            let bits = bits.map(|b| if d[b] == true { "1" } else { "0" }).concat();
            rows.push(format!("pci\t{name}\t{ids}\t{}\t{}\t{bits}", d["irq"], named(&d["driver"]["name"])));
            for r in list(&d, "resources") {
                let (start, end, flags) = (hex(&r["start"]), hex(&r["end"]), hex(&r["flags"]));
                rows.push(format!("bar\t{name}\t{start}\t{end}\t{flags}"));
            }
            for m in list(&d, "msi_descs") {
                rows.push(format!("msi\t{name}\t{}\t{}\t{}", m["index"], m["irq"], m["vectors"]));
            }
        }
    }
    for d in list(&inspect("devices", dir), "devices") {
        rows.push(format!("platform\t{}\t{}", text(&d["name"]), named(&d["driver"]["name"])));
    }
    for r in list(&inspect("iomem", dir), "resources") {
        rows.push(format!("iomem\t{}\t{}\t{}", hex(&r["start"]), hex(&r["end"]), named(&r["name"])));
    }
    let supplies = inspect("clocks", dir);
    for (kind, key, name, first, second) in [
        ("clock", "clocks", "name", "enable_count", "prepare_count"),
        ("regulator", "regulators", "device", "use_count", "open_count"),
        ("phy", "phys", "name", "init_count", "power_count"),
    ] {
        for s in list(&supplies, key) {
            rows.push(format!("{kind}\t{}\t{}\t{}", text(&s[name]), s[first], s[second]));
        }
    }
    for r in list(&supplies, "resets") {
        let shared = u8::from(r["is_shared"] == true);
        rows.push(format!("reset\t{}\t{}\t{shared}", r["id"], r["references"]));
    }
    let irqs = inspect("irqs", dir);
    let domains = list(&irqs, "domains");
    let domain =
        |va: &Value| domains.iter().find(|d| d["va"] == *va).map_or("-".into(), |d| text(&d["name"]));
    for d in &domains {
        let parent = domain(&d["parent"]);
        rows.push(format!("domain\t{}\t{}\t{parent}", text(&d["name"]), d["mapcount"]));
    }
    for d in list(&irqs, "descs") {
        let (first, actions) = (&d["levels"][0], list(&d, "actions"));
        let actions = actions.iter().map(|a| named(&a["name"])).collect::<Vec<_>>().join(",");
        let actions = if actions.is_empty() { "-" } else { &actions };
        let (hwirq, domain) = (hex(&first["hwirq"]), domain(&first["domain"]));
        rows.push(format!("irq\t{}\t{hwirq}\t{domain}\t{actions}", d["virq"]));
    }
    let expected: Vec<_> = said.lines().collect();
    let kinds = ["domain", "irq", "module", "pci", "bar", "msi", "platform", "iomem", "clock", "regulator"];
    for kind in kinds.into_iter().chain(["reset", "phy"]) {
        let of = |row: &&str| row.split('\t').next() == Some(kind);
        let (ours, theirs): (Vec<_>, Vec<_>) = (
            rows.iter().map(String::as_str).filter(of).collect(),
            expected.iter().copied().filter(of).collect(),
        );
        assert_eq!(ours, theirs);
        assert!(!ours.is_empty(), "{kind}: nothing to compare");
    }
    let handlers: Vec<_> = list(&irqs, "descs").iter().flat_map(|d| list(d, "actions")).collect();
    let endpoint =
        handlers.iter().find(|a| a["name"] == "pci-endpoint-test.0").expect("it is still requested");
    assert_eq!(endpoint["handler_symbol"], "pci_endpoint_test_irqhandler [pci_endpoint_test]");
}

#[test]
fn a_core_that_cannot_be_read_is_one_line_and_exit_2() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("core");
    // The header of an ELF core: 64 bits, little-endian, ET_CORE, of this machine.
    let core = |machine: u8| {
        let mut head = vec![0; 64];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        (head[16], head[18]) = (4, machine);
        head
    };
    for (bytes, said) in [
        (b"no ELF at all, but longer than the header of one, which is of 64 bytes".to_vec(), "not a 64-bit"),
        (core(62), "ELF machine 62, not of arm64"),
        (core(183), "no memory segment"),
        (core(183)[..20].to_vec(), "cannot be read"),
    ] {
        std::fs::write(&file, bytes).unwrap();
        let out = plain(&["inspect", "irqs", "--core", file.to_str().unwrap()]);
        let stderr = String::from_utf8_lossy(&out.stderr);
        assert_eq!((out.status.code(), stderr.lines().count()), (Some(2), 1), "{stderr}");
        assert!(stderr.contains(said), "{said}: {stderr}");
    }
}

#[test]
fn a_register_read_after_the_clocks_have_stopped_is_seen_and_strict_gating_aborts_it() {
    let run = torture(&["--profile", "late", "--cycles", "1"]);
    assert_eq!(run.code, 1, "{}", run.all());
    assert!(run.classes().contains(&"gated-access".into()), "{}", run.all());

    let run = torture(&["--profile", "late", "--cycles", "1", "--gating", "strict"]);
    assert_eq!(run.code, 3, "{}", run.all());
    assert!(run.stderr.contains("external abort"), "{}", run.all());
    assert!(run.stderr.contains("qcom_pcie_remove"), "the trace names the culprit: {}", run.all());

    let run = torture(&["--cycles", "1", "--gating", "strict"]);
    assert_eq!(run.code, 0, "the right order meets no abort: {}", run.all());
}

#[test]
fn an_intx_domain_removed_with_its_mappings_dangles_and_without_them_is_clean() {
    let run = torture(&["--soc", "rk3568", "--profile", "rk-intx-leak", "--cycles", "2"]);
    assert_eq!(run.code, 1, "{}", run.all());
    assert!(run.verdict_line().starts_with("verdict: leak"), "{}", run.all());
    let dangling = "hwirq 0x0 of domain :pcie@60000000:legacy-interrupt-controller (gone), chip INTx, owner 0000:01:00.0";
    assert!(run.stderr.contains("irq-dangling"), "{}", run.all());
    assert!(run.stderr.contains(dangling), "{}", run.all());
    assert_eq!(run.report()["cycles_completed"], 2, "nothing of ours looks at what dangles: {}", run.all());

    let run = torture(&["--soc", "rk3568", "--cycles", "2"]);
    assert_eq!(run.code, 0, "{}", run.all());
    assert!(run.verdict_line().starts_with("verdict: clean"), "{}", run.all());
    assert_eq!(run.report()["profile"], "rk-modular");
}

#[test]
fn a_guest_that_sleeps_and_whose_link_is_reset_and_lost_leaves_nothing() {
    let r = torture(&["--cycles", "1", "--during", "suspend,reset,retrain,link-loss"]);
    assert_eq!((r.code, r.report()["verdict"].as_str()), (0, Some("clean")), "{}", r.all());
    let console = std::fs::read_to_string(r.out.path().join("console.log")).unwrap();
    for seen in ["PM: suspend entry (s2idle)", "PM: suspend exit"] {
        assert!(console.contains(seen), "{seen}: {}", r.all());
    }
    // The registers say what the guest did: secondary bus reset, retrain, and the last look finds no link.
    let trace = r.trace();
    let mut lines = trace.lines();
    for written in ["BRIDGE_CONTROL = 0x0042 {SBR", "EXP_LNKCTL = 0x0020 {RL}"] {
        let seen = lines.any(|l| l.contains("W dbi") && l.contains(written));
        assert!(seen, "{written}, in the order asked for: {}", r.all());
    }
    let last = trace.lines().rfind(|l| l.contains("EXP_LNKSTA")).expect("the link is looked at");
    assert!(!last.contains("DLLLA"), "{last}");
}

#[test]
fn disks_and_networks_work_behind_switches_and_are_torn_down_with_io_in_flight() {
    let r = torture(&[
        "--cycles",
        "2",
        "--filesystem",
        "--endpoint",
        "switch",
        "--endpoint",
        "switch,port=0.1",
        "--endpoint",
        "nvme,port=0.1.0,size=16M",
        "--endpoint",
        "virtio-blk,port=0.0,size=16M",
        "--endpoint",
        "virtio-net,port=0.0",
    ]);
    r.assert_verdict("clean", 0);
    for c in r.report()["cycles"].as_array().unwrap() {
        assert!(c["worked"].as_u64().unwrap() >= 11 && c["created"].as_u64().unwrap() > 10, "{c}");
    }
}

#[test]
fn doorbells_of_a_disk_are_events_without_a_trace_and_accesses_with_one() {
    let count = |args: &[&str]| {
        let disk = ["--cycles", "1", "--endpoint", "nvme,size=16M"];
        let r = torture(&[&disk[..], args].concat());
        r.assert_verdict("clean", 0);
        r.report()["measured"]["doorbell_events"].as_u64().unwrap()
    };
    // A cycle does 120 reads and writes in two jobs; two that come at once ring once, and an awake controller is not rung for.
    let events = count(&["--no-trace"]);
    assert!(events > 10, "{events}");
    assert_eq!(count(&[]), 0, "every access is recorded");
}

#[test]
fn a_disk_in_a_file_keeps_what_a_guest_wrote_and_is_only_read_unless_it_is_scratch() {
    let dir = tempfile::tempdir().unwrap();
    let named = dir.path().join("disk.img");
    std::fs::File::create(&named).unwrap().set_len(16 << 20).unwrap();
    let file = format!("nvme,file={}", named.display());
    let scratch = format!("{file},scratch");
    let r = torture(&["--cycles", "1", "--filesystem", "--endpoint", &scratch]);
    r.assert_verdict("clean", 0);
    let written = std::fs::read(&named).unwrap();
    // Sectors of random I/O begin with generation and their own number. What else is there is left of the file system, all of
    // which lies where that I/O goes.
    let number = |at: usize| u64::from_le_bytes(written[at..at + 8].try_into().unwrap());
    let used = (1..4096).filter(|s| written[s * 512..][..512].iter().any(|b| *b != 0));
    let (patterns, others): (Vec<usize>, Vec<usize>) = used.partition(|s| number(s * 512 + 8) == *s as u64);
    assert!(
        patterns.len() > 8 && others.len() > 8,
        "sectors: {} of I/O, {} others",
        patterns.len(),
        others.len()
    );

    let r = torture(&["--cycles", "1", "--endpoint", &file]);
    r.assert_verdict("clean", 0);
    assert!(std::fs::read(&named).unwrap() == written, "a file that is not scratch was written to");
    let refused = plain(&["torture", "--filesystem", "--endpoint", &file]);
    assert_refused(
        refused.status.code(),
        &String::from_utf8_lossy(&refused.stderr),
        &["scratch", "disk.img"],
    );
    let none = format!("nvme,file={}", dir.path().join("none").display());
    let refused = plain(&["torture", "--endpoint", &none]);
    assert_refused(refused.status.code(), &String::from_utf8_lossy(&refused.stderr), &["none", "card 1"]);
}

/// The NVMe model in a process of its own, behind a socket.
struct Served {
    child: Child,
    dir: TempDir,
}

impl Served {
    fn new(options: &[&str]) -> Served {
        let dir = tempfile::tempdir().unwrap();
        let mut cmd = Command::new(env!("CARGO_BIN_EXE_vfio-user-test-nvme"));
        cmd.arg(dir.path().join("s")).args(options).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = cmd.spawn().expect("start the server");
        let mut says = [0; 8];
        child.stdout.as_mut().unwrap().read_exact(&mut says).expect("it listens");
        Served { child, dir }
    }

    fn card(&self) -> String {
        format!("vfio-user,socket={},like=nvme,scratch", self.dir.path().join("s").display())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_device_of_another_process_works_and_is_torn_down() {
    let served = Served::new(&[]);
    let r = torture(&["--cycles", "2", "--endpoint", &served.card()]);
    r.assert_verdict("clean", 0);
    for c in r.report()["cycles"].as_array().unwrap() {
        // Its vectors are mapped; blocks are written, read back and compared, which takes DMA both ways and interrupts.
        assert!(c["worked"].as_u64() >= Some(1) && c["created"].as_u64() >= Some(3), "{c}");
    }
}

#[test]
fn a_device_whose_process_dies_in_the_middle_of_an_access_is_gone_and_told() {
    let served = Served::new(&["--die-at", "150"]);
    let r = torture(&["--cycles", "1", "--endpoint", &served.card()]);
    r.assert_verdict("inconclusive", 4);
    let report = r.report();
    let findings = report["findings"].as_array().unwrap();
    let lost = findings.iter().find(|f| f["rule"] == "ep lost its vfio-user server");
    assert_eq!(lost.map(|f| &f["class"]), Some(&"operation-failed".into()), "{}", r.all());
    assert!(!r.classes().contains(&"hang".into()), "{}", r.all());

    let left = served.dir.path().join("none");
    let refused = plain(&["torture", "--endpoint", &format!("vfio-user,socket={}", left.display())]);
    let words = [left.to_str().unwrap(), "start the server"];
    assert_refused(refused.status.code(), &String::from_utf8_lossy(&refused.stderr), &words);
}

#[test]
fn a_line_is_shared_and_slots_are_swapped_while_the_bridge_is_bound() {
    let r = torture(&[
        "--cycles",
        "1",
        "--during",
        "neighbour",
        "--endpoint",
        "endpoint-test",
        "--endpoint",
        "serial",
    ]);
    r.assert_verdict("clean", 0);
    let r = torture(&[
        "--cycles",
        "1",
        "--during",
        "hot-swap,hot-plug",
        "--endpoint",
        "switch",
        "--endpoint",
        "nvme,port=0.0,size=16M",
        "--endpoint",
        "serial,port=0.1",
    ]);
    r.assert_verdict("clean", 0);
}

#[test]
fn a_card_that_misbehaves_and_a_driver_with_a_defect_are_caught_and_without_one_nothing_is() {
    let r = torture(&["--cycles", "1", "--misbehave", "late-msi,on=phase:check,delay-us=10"]);
    r.assert_verdict("leak", 1);
    assert!(r.classes().contains(&"dma-after-stop".into()), "{:?}", r.classes());
    let r = torture(&["--cycles", "1", "--misbehave", "lose-vector,vector=3", "--msi-vectors", "4"]);
    assert!(r.classes().contains(&"irq-undelivered".into()), "{:?}", r.classes());
    let r = torture(&["--cycles", "2", "--defect", "msix-not-freed"]);
    r.assert_verdict("leak", 1);
    assert!(r.classes().contains(&"irq-dangling".into()), "{:?}", r.classes());
    torture(&["--cycles", "2", "--defect", "none"]).assert_verdict("clean", 0);
}

#[test]
fn msis_by_an_its_and_a_port_without_a_card_leave_nothing() {
    let r = torture(&["--cycles", "1", "--msi", "its"]);
    assert_eq!((r.code, r.report()["verdict"].as_str()), (0, Some("clean")), "{}", r.all());
    let r = torture(&["--cycles", "2", "--slot", "empty"]);
    assert_eq!((r.code, r.report()["verdict"].as_str()), (0, Some("clean")), "{}", r.all());
    assert_eq!(r.report()["irq_mappings"]["leaked"].as_u64(), Some(0));
}

#[test]
fn the_distributions_own_kernel_unbinds_its_bridge_cleanly_or_says_that_it_cannot() {
    let run = torture(&["--profile", "stock", "--cycles", "2", "--endpoint", "nvme"]);
    run.assert_verdict("clean", 0);
    let report = run.report();
    let release = report["kernel"]["release"].as_str().unwrap_or_default().to_owned();
    assert!(release.ends_with("-arm64"), "not a build of ours: {release}");
    assert_eq!(report["soc"], "dw-ecam");
    assert_both_views(&run);
    assert!(report["irq_mappings"]["created"].as_u64() >= Some(4), "{}", run.all());
    let work = report["cycles"].as_array().is_some_and(|c| c.iter().all(|c| c["worked"].as_u64() >= Some(1)));
    assert!(work, "the disk was read and written: {}", run.all());

    // pcie-qcom is built in there and hides unbind: nothing can be said of its teardown.
    let run = torture(&["--profile", "stock", "--soc", "sm8250", "--cycles", "1"]);
    run.assert_verdict("inconclusive", 4);
    assert!(run.stderr.contains("boot smoke only: qcom-pcie is built into this kernel"), "{}", run.all());
}

#[test]
fn a_plan_says_what_its_lanes_and_stalls_did() {
    let run = torture(&["--plan", "races", "--cycles", "3"]);
    run.assert_verdict("clean", 0);
    let report = run.report();
    assert_eq!(report["plan"], "races");
    let notes = report["cycles"][0]["notes"].to_string();
    for told in ["up: insmod", "lane teardown: 1 done", "lane rescan: ", "stall: "] {
        assert!(notes.contains(told), "{told}: {notes}");
    }
    assert!(run.out.path().join("plan.toml").is_file());
}

#[test]
fn an_allocation_that_a_plan_has_fail_does_fail() {
    let plan = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    let text = "schema = 1\nname = \"one\"\n[[step]]\nop = \"insmod\"\n[[step]]\nop = \"unbind\"\n[[step]]\nop = \"bind\"\nfail-nth = 2\n";
    std::fs::write(plan.path(), text).unwrap();
    let run = torture(&["--plan", plan.path().to_str().unwrap(), "--cycles", "1"]);
    let notes = run.report()["cycles"][0]["notes"].to_string();
    assert!(notes.contains("bind: allocation 2 failed"), "{notes}\n{}", run.all());
    let console = std::fs::read_to_string(run.out.path().join("console.log")).unwrap();
    assert!(console.contains("FAULT_INJECTION: forcing a failure"), "{console}");
}

#[test]
fn what_a_run_found_is_found_again_by_its_replay() {
    let run = torture(&["--profile", "naive", "--cycles", "1", "--core", "never"]);
    let out = rcvm(&["replay", "--times", "1"]).arg(run.out.path()).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert_eq!(out.status.code(), Some(0), "{text}\n{}", run.all());
    assert!(
        text.contains("\nrun 1: reproduced — verdict: ") && text.contains("\nreproduced 1 of 1: "),
        "{text}"
    );
    assert!(run.out.path().join("replay-1/report.json").is_file());
}

#[test]
fn a_mistake_in_a_plan_is_one_line_with_its_number() {
    let plan = tempfile::NamedTempFile::with_suffix(".toml").unwrap();
    std::fs::write(plan.path(), "schema = 1\nname = \"x\"\n\n[[step]]\nop = \"unbnd\"\n").unwrap();
    let path = plan.path().to_str().unwrap();
    for args in [&["plan", "check", path][..], &["torture", "--plan", path][..]] {
        let out = rcvm(args).output().unwrap();
        let text = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(2), "{text}");
        assert!(text.contains("line 4: there is no op \"unbnd\"") && text.lines().count() == 1, "{text}");
    }
}

#[test]
fn the_kernels_own_endpoint_tests_pass() {
    let out = tempfile::tempdir().unwrap();
    let mut cmd = rcvm(&["selftest"]);
    cmd.arg("--out").arg(out.path());
    let run = finish(cmd.spawn().expect("start rcvm"), out);
    assert_eq!(run.code, 0, "{}", run.all());
    // pcitest.sh: 6 BARs, 4 times an interrupt type, INTx, 32 MSI, 2048 MSI-X, 15 transfers.
    assert!(run.stdout.contains("| pcitest.sh | 2106 | 0 | 0 | 0 | – |"), "{}", run.all());
    let output = std::fs::read_to_string(run.out.path().join("6.12/output.txt")).unwrap();
    assert!(output.contains("MSI-X2048:\t\tOKAY\n"), "{output}");
}

#[test]
fn a_run_that_is_killed_leaves_a_readable_report_and_no_machine() {
    let out = tempfile::tempdir().unwrap();
    let mut child = rcvm(&["torture", "--cycles", "1000"]).arg("--out").arg(out.path()).spawn().unwrap();
    let done = |dir: &Path| report_in(dir)?["cycles_completed"].as_u64().filter(|&n| n >= 1);
    wait_until("a cycle is done", RUN_LIMIT, || done(out.path()));
    let machines = children_of(child.id());
    assert!(!machines.is_empty(), "the worker is a child of rcvm");
    child.kill().unwrap();
    child.wait().unwrap();
    let r = report_in(out.path()).expect("readable report");
    assert!(r["cycles_completed"].as_u64().unwrap() >= 1);
    assert_eq!((&r["state"], &r["verdict"]), (&"running".into(), &"inconclusive".into()));
    wait_until("the machine is gone", Duration::from_secs(20), || {
        machines.iter().all(|pid| !runs(*pid)).then_some(())
    });
}

#[test]
fn an_interrupted_run_says_so_and_keeps_its_report() {
    let out = tempfile::tempdir().unwrap();
    let mut cmd = rcvm(&["torture", "--cycles", "1000"]);
    let child = cmd.arg("--out").arg(out.path()).process_group(0).spawn().unwrap();
    let done = |dir: &Path| report_in(dir)?["cycles_completed"].as_u64().filter(|&n| n >= 1);
    wait_until("a cycle is done", RUN_LIMIT, || done(out.path()));
    // Ctrl-C at a terminal goes to the whole group.
    let group = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process_group(group, rustix::process::Signal::INT).unwrap();
    let run = finish(child, out);
    assert_eq!(run.code, 4, "{}", run.all());
    assert!(run.verdict_line().starts_with("verdict: inconclusive"), "{}", run.all());
    assert_eq!(run.report()["state"], "interrupted");
    assert_eq!(run.report()["findings"], Value::Array(vec![]), "{}", run.all());
}

#[test]
fn a_guest_that_runs_shows_its_interrupts_and_the_run_goes_on() {
    let out = tempfile::tempdir().unwrap();
    let mut cmd = rcvm(&["torture", "--cycles", "1000"]);
    let run = cmd.arg("--out").arg(out.path()).process_group(0).spawn().unwrap();
    let done = |dir: &Path| report_in(dir)?["cycles_completed"].as_u64().filter(|&n| n >= 1);
    wait_until("a cycle is done", RUN_LIMIT, || done(out.path()));
    let dir = out.path().to_str().unwrap();
    let socket = out.path().join("control.sock");
    assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);

    let shown = |args: &[&str]| {
        let asked = rcvm(&["inspect"]).args(args).args(["--run", dir]).output().expect("start rcvm");
        assert!(asked.status.success(), "{args:?}: {}", String::from_utf8_lossy(&asked.stderr));
        String::from_utf8(asked.stdout).unwrap()
    };
    let irqs: Value = serde_json::from_str(&shown(&["irqs", "--json"])).expect("JSON");
    assert!(!irqs["descs"].as_array().unwrap().is_empty(), "{irqs}");
    assert!(shown(&["domains"]).contains("interrupt-controller@8000000"), "the GIC has a domain");

    // What is no question is answered, and whoever says nothing is left.
    let mut stranger = UnixStream::connect(&socket).unwrap();
    stranger.write_all(b"{\"view\": 7}").unwrap();
    let mut answer = String::new();
    stranger.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("not a question"), "{answer}");
    let _silent = UnixStream::connect(&socket).unwrap();

    // Every cycle maps and releases the endpoint's interrupts.
    let mut watch = rcvm(&["inspect", "irqs", "--watch", "--json", "--run", dir]).spawn().unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut wanted = BTreeSet::from(["appeared", "disappeared"]);
    while !wanted.is_empty() {
        let line = lines.next().expect("more changes").unwrap();
        let change: Value = serde_json::from_str(&line).expect("a line of JSON");
        assert!(change["row"]["VIRQ"].is_string(), "{line}");
        wanted.remove(change["change"].as_str().unwrap());
    }

    let group = rustix::process::Pid::from_child(&run);
    rustix::process::kill_process_group(group, rustix::process::Signal::INT).unwrap();
    let run = finish(run, out);
    assert_eq!(run.code, 4, "{}", run.all());
    assert_eq!(run.report()["findings"], Value::Array(vec![]), "{}", run.all());
    while lines.next().is_some() {}
    assert_eq!(watch.wait().unwrap().code(), Some(0), "the watch ends with the run");
    assert!(!socket.exists());
    let late = plain(&["inspect", "irqs", "--run", run.out.path().to_str().unwrap()]);
    let stderr = String::from_utf8_lossy(&late.stderr);
    assert_refused(late.status.code(), &stderr, &["no run goes on there"]);
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

fn children_of(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let lists = tasks.flatten().filter_map(|t| std::fs::read_to_string(t.path().join("children")).ok());
    lists.flat_map(|l| l.split_whitespace().filter_map(|w| w.parse().ok()).collect::<Vec<_>>()).collect()
}

/// Whether the process exists and is no zombie.
fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|s| !s.rsplit(") ").next().unwrap_or("Z").starts_with('Z'))
}

#[test]
fn a_kernel_of_another_architecture_or_cut_short_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let bzimage = path("bzImage");
    let mut bytes = vec![0u8; 8192];
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    std::fs::write(&bzimage, &bytes).unwrap();
    let run = plain(&["torture", "--kernel", &bzimage, "--out", &path("out")]);
    assert_refused(run.status.code(), &String::from_utf8_lossy(&run.stderr), &[&bzimage, "arm64"]);

    let list = String::from_utf8(plain(&["image", "build"]).stdout).unwrap();
    let image = list.lines().find_map(|l| l.strip_prefix("kernel ")).expect("a kernel").trim();
    let cut = path("cut");
    let whole = std::fs::read(image).unwrap();
    std::fs::write(&cut, &whole[..whole.len() / 2]).unwrap();
    let run = plain(&["torture", "--kernel", &cut, "--out", &path("out")]);
    assert_refused(run.status.code(), &String::from_utf8_lossy(&run.stderr), &[&cut, "truncated"]);

    let empty = path("modules");
    std::fs::create_dir(&empty).unwrap();
    let run = plain(&["torture", "--kernel", image, "--modules", &empty, "--out", &path("out")]);
    assert_refused(run.status.code(), &String::from_utf8_lossy(&run.stderr), &[&empty, "pcie-qcom.ko"]);
}

#[test]
fn topologies_that_cannot_be_are_refused_with_their_place() {
    for (args, says) in [
        (["--endpoint", "toaster"], "toaster"),
        (["--endpoint", "nvme,port=0.1"], "no switch in slot 0"),
        (["--endpoint", "nvme,size=3"], "1M to 512M"),
        (["--misbehave", "vanish"], "needs a trigger"),
        (["--topology", "/nonexistent/cards.toml"], "cannot read it"),
    ] {
        let out = plain(&["torture", args[0], args[1]]);
        assert_refused(out.status.code(), &String::from_utf8_lossy(&out.stderr), &[args[0], says]);
    }
}

#[test]
fn options_that_make_no_sense_are_refused() {
    for (args, words) in [
        (vec!["torture", "--cycles", "0"], ["--cycles", "0"]),
        (vec!["torture", "--profile", "nosuch"], ["nosuch", "modular"]),
        (vec!["torture", "--soc", "rk3568", "--profile", "naive"], ["pcie-dw-rockchip", "rk-modular"]),
        (vec!["torture", "--profile", "rk-modular"], ["pcie-qcom", "--soc"]),
        (vec!["torture", "--profile", "stock", "--endpoint", "endpoint-test"], ["pci_endpoint_test", "nvme"]),
        (vec!["torture", "--cycles", "1", "--out", "/proc/rcvm/out"], ["/proc/rcvm/out", "--out"]),
        (vec!["torture", "--initramfs", "/nosuch.cpio"], ["/nosuch.cpio", "--initramfs"]),
        (vec!["trace", "/nosuch.bin"], ["/nosuch.bin", "read"]),
        (vec!["run", "--vcpus", "9"], ["--vcpus", "9"]),
    ] {
        let run = plain(&args);
        assert_refused(run.status.code(), &String::from_utf8_lossy(&run.stderr), &words);
    }
}

#[test]
fn a_full_disk_ends_the_run_with_one_line_and_keeps_the_report() {
    let out = tempfile::tempdir().unwrap();
    // What is written to /dev/full meets a full disk.
    std::os::unix::fs::symlink("/dev/full", out.path().join("trace.bin")).unwrap();
    let run = torture_in(out, &["--cycles", "4"]);
    assert_refused(Some(run.code), &run.stderr, &["trace.bin", "free some space"]);
    let r = run.report();
    assert_eq!(r["verdict"], "inconclusive", "{}", run.all());
}

#[test]
fn an_initramfs_that_does_not_boot_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("broken.cpio");
    std::fs::write(&file, [0x5a; 4096]).unwrap();
    let run = torture(&["--cycles", "1", "--initramfs", file.to_str().unwrap()]);
    assert_eq!(run.code, 4, "{}", run.all());
    // A kernel with block devices looks for a root file system where it finds no initramfs.
    for words in ["boot-failed", file.to_str().unwrap(), "console.log", "Unable to mount root fs"] {
        assert!(run.stderr.contains(words), "{words:?} is not said: {}", run.all());
    }
    let console = std::fs::read_to_string(run.out.path().join("console.log")).unwrap();
    assert!(console.contains("Kernel panic"), "the console says why: {console}");
    assert_eq!(run.report()["verdict"], "inconclusive");
}

#[test]
fn a_guest_that_never_reports_ends_within_the_boot_timeout() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mute.cpio");
    let mut a = images::cpio::Archive::new();
    a.dir("dev");
    a.file("init", 0o755, &endless_program());
    std::fs::write(&file, a.finish()).unwrap();
    let begun = Instant::now();
    let run = torture(&["--cycles", "1", "--boot-timeout", "15", "--initramfs", file.to_str().unwrap()]);
    assert_eq!(run.code, 4, "{}", run.all());
    for words in ["boot-failed", file.to_str().unwrap(), "agent", "15 s", "--boot-timeout"] {
        assert!(run.stderr.contains(words), "{words:?} is not said: {}", run.all());
    }
    assert!(begun.elapsed() < Duration::from_secs(120));
    assert_eq!(run.report()["verdict"], "inconclusive");
}

/// The smallest static arm64 program that neither ends nor says anything: `b .`
fn endless_program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    let mut elf = Vec::new();
    elf.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2u16, 183] {
        elf.extend_from_slice(&half.to_le_bytes());
    }
    elf.extend_from_slice(&1u32.to_le_bytes());
    for double in [BASE + 120, 64, 0] {
        elf.extend_from_slice(&u64::to_le_bytes(double));
    }
    elf.extend_from_slice(&0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        elf.extend_from_slice(&half.to_le_bytes());
    }
    for word in [1u32, 5] {
        elf.extend_from_slice(&word.to_le_bytes());
    }
    for double in [0, BASE, BASE, 124, 124, 0x1_0000] {
        elf.extend_from_slice(&u64::to_le_bytes(double));
    }
    elf.extend_from_slice(&0x1400_0000u32.to_le_bytes());
    elf
}
