//! The page: one file, no script, nothing fetched. Markup is `&'static str` alone; all else goes through `Page::text`.

use std::fmt::Display;
use std::path::Path;

use super::visible;
use crate::report::Report;
use crate::report::Seen;
use crate::summary::ORDER;

/// Files a run may leave, and what they are.
const ARTIFACTS: [(&str, &str); 9] = [
    ("report.json", "this report as data (docs/report.md)"),
    ("junit.xml", "JUnit XML"),
    ("ktap.txt", "KTAP"),
    ("console.log", "the guest's console"),
    ("console.log.old", "what came before it"),
    ("boot.log", "the kernel log up to the agent"),
    ("trace.bin", "every register access: rcvm trace FILE decodes it"),
    ("trace.bin.old", "what came before it"),
    ("core.elf", "guest memory and registers: drgn with the kernel's vmlinux (docs/cores.md)"),
];

const HEAD: &str = r#"<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>rcvm report</title><style>
:root{color-scheme:light dark;--fg:#1b1f24;--bg:#fff;--dim:#59636e;--line:#d1d9e0;--box:#f6f8fa;--bad:#b3261e;--good:#1a7f37;--doubt:#8a5a00;--one:#0a58ca}
@media(prefers-color-scheme:dark){:root{--fg:#dde3ea;--bg:#12161b;--dim:#96a0ab;--line:#343c45;--box:#1a2027;--bad:#ff8078;--good:#5cc873;--doubt:#dfae4a;--one:#79b0ff}}
body{font:14px/1.45 system-ui,sans-serif;color:var(--fg);background:var(--bg);max-width:72rem;margin:0 auto;padding:1rem}
h1{font-size:1.25rem;margin:0}h2{font-size:1rem;margin:1.6rem 0 .4rem;border-bottom:1px solid var(--line)}
code,pre,td,dd,svg,summary{font-family:ui-monospace,monospace;font-size:12.5px}
pre{overflow-x:auto;background:var(--box);padding:.5rem;margin:.2rem 0}
.clean{color:var(--good)}.leak,.crash{color:var(--bad)}.residue,.inconclusive{color:var(--doubt)}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:0}dt,.dim{color:var(--dim)}dd{margin:0;overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse}td,th{padding:.1rem .7rem .1rem 0;text-align:left;vertical-align:top;border-bottom:1px solid var(--line)}
th{font-weight:500;color:var(--dim)}.n{text-align:right}details{border-bottom:1px solid var(--line);padding:.2rem 0}summary{cursor:pointer;overflow-wrap:anywhere}
svg{width:100%;height:auto;display:block}polyline{fill:none;stroke-width:1.5;vector-effect:non-scaling-stroke}
.l0{stroke:var(--one)}.l1{stroke:var(--good)}.l2{stroke:var(--bad)}.l3{stroke:var(--doubt)}.k0{color:var(--one)}.k1{color:var(--good)}.k2{color:var(--bad)}.k3{color:var(--doubt)}
svg line{stroke:var(--line)}a{color:var(--one)}@media(max-width:40rem){dl{grid-template-columns:1fr}dd{margin-bottom:.3rem}}
</style></head><body>
"#;

struct Page(String);

impl Page {
    fn raw(&mut self, markup: &'static str) -> &mut Page {
        self.0.push_str(markup);
        self
    }

    /// Text, in an element or in a quoted attribute.
    fn text(&mut self, t: impl Display) -> &mut Page {
        for c in visible(&t.to_string()).chars() {
            match c {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                c => self.0.push(c),
            }
        }
        self
    }

    fn fact(&mut self, name: impl Display, value: impl Display) {
        self.raw("<dt>").text(name).raw("</dt><dd>").text(value).raw("</dd>");
    }

    /// A row of a table: its first cell is text, the others are numbers.
    fn numbers(&mut self, first: impl Display, rest: &[u64]) {
        self.raw("<tr><td>").text(first).raw("</td>");
        for n in rest {
            self.raw("<td class=\"n\">").text(n).raw("</td>");
        }
        self.raw("</tr>");
    }
}

/// The page of `r`; links lead to what is in `dir`.
pub fn render(r: &Report, dir: &Path) -> String {
    let mut p = Page(String::new());
    p.raw(HEAD).raw("<h1>verdict: <strong id=\"verdict\" class=\"").text(r.verdict.name()).raw("\">");
    p.text(r.verdict.name()).raw("</strong></h1><p id=\"line\">").text(r.last_line()).raw("</p>");
    run(&mut p, r);
    findings(&mut p, r);
    chart(&mut p, r);
    timing(&mut p, r);
    cycles(&mut p, r);
    allowed(&mut p, r);
    artifacts(&mut p, dir);
    p.raw("</body></html>\n");
    p.0
}

fn run(p: &mut Page, r: &Report) {
    let s = &r.setting;
    p.raw("<h2>Run</h2><dl>");
    p.fact("command", &s.command);
    p.fact("kernel", format!("{} {}", r.kernel.release, r.kernel.version));
    p.fact("image", &s.kernel_image);
    p.fact("machine", format!("{}, {} vCPUs, {} MiB, {} gating", s.soc, s.vcpus, s.memory_mib, s.gating));
    p.fact("mode, profile", format!("{}, {}", s.mode, s.profile));
    p.fact("seed", s.seed);
    p.fact("state", format!("{}, exit code {}", r.state, r.exit_code));
    p.fact("rcvm", &s.rcvm);
    for (name, value) in &r.measured {
        p.fact(name, value);
    }
    p.raw("</dl>");
}

fn findings(p: &mut Page, r: &Report) {
    p.raw("<h2>Findings</h2>");
    if r.findings.is_empty() {
        p.raw("<p class=\"dim\">None.</p>");
    }
    let residue = |s: &&Seen| s.finding.allowed.is_some();
    for class in ORDER {
        for s in r.findings.iter().filter(|s| s.finding.class == class && !residue(s)) {
            finding(p, s);
        }
    }
    for s in r.findings.iter().filter(residue) {
        finding(p, s);
    }
    if r.findings_dropped > 0 {
        p.raw("<p class=\"dim\">").text(r.findings_dropped).raw(" more were seen and not kept.</p>");
    }
}

fn finding(p: &mut Page, s: &Seen) {
    let f = &s.finding;
    p.raw("<details class=\"finding\"><summary><b class=\"");
    p.raw(if f.allowed.is_some() { "residue" } else { "leak" }).raw("\">").text(f.class.name());
    p.raw("</b> cycle ")
        .text(f.cycle)
        .raw(" ")
        .text(&f.operation)
        .raw(": ")
        .text(&f.summary)
        .raw("</summary><dl>");
    p.fact("check", &f.rule);
    let sources: Vec<&str> = std::iter::once(&f.source).chain(&f.also).map(|s| s.name()).collect();
    p.fact("seen by", sources.join(", "));
    let ranges: Vec<String> =
        s.cycles.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}–{b}") }).collect();
    p.fact("seen", format!("{} times, in cycles {}", s.count, ranges.join(", ")));
    if let Some(reason) = &f.allowed {
        p.fact("known residue", reason);
    }
    for (name, value) in &f.evidence {
        if value.contains('\n') {
            p.raw("<dt>").text(name).raw("</dt><dd><pre>").text(value).raw("</pre></dd>");
        } else {
            p.fact(name, value);
        }
    }
    p.raw("</dl></details>");
}

fn chart(p: &mut Page, r: &Report) {
    const WIDTH: f64 = 1000.0;
    const HEIGHT: f64 = 180.0;
    let series: [(&str, &'static str, Vec<u64>); 4] = [
        ("created", "0", r.cycles.iter().map(|c| c.created).collect()),
        ("released", "1", r.cycles.iter().map(|c| c.released).collect()),
        ("left", "2", r.cycles.iter().map(|c| c.leaked.len() as u64).collect()),
        ("descriptors of the guest", "3", r.cycles.iter().map(|c| c.irq_descs).collect()),
    ];
    p.raw("<h2>IRQ mappings per cycle</h2>");
    if r.cycles.is_empty() {
        p.raw("<p class=\"dim\">No cycle ended.</p>");
        return;
    }
    let most = series.iter().flat_map(|s| &s.2).copied().max().unwrap_or(0).max(1);
    p.raw("<p class=\"dim\">0 to ").text(most).raw(":");
    for (name, n, values) in &series {
        p.raw(" <span class=\"k").raw(n).raw("\">— ").text(name).raw("</span> (last ");
        p.text(values.last().copied().unwrap_or(0)).raw(")");
    }
    p.raw("</p><svg viewBox=\"0 0 1000 190\" role=\"img\" aria-label=\"IRQ mappings per cycle\">");
    p.raw("<line x1=\"0\" y1=\"185\" x2=\"1000\" y2=\"185\"/>");
    let step = WIDTH / (r.cycles.len().max(2) - 1) as f64;
    for (name, n, values) in &series {
        p.raw("<polyline class=\"l").raw(n).raw("\" points=\"");
        for (i, v) in values.iter().enumerate() {
            let y = 185.0 - HEIGHT * *v as f64 / most as f64;
            p.text(format_args!("{:.1},{y:.1} ", step * i as f64));
        }
        // A single point draws nothing.
        if let [only] = values.as_slice() {
            p.text(format_args!("1000,{:.1}", 185.0 - HEIGHT * *only as f64 / most as f64));
        }
        p.raw("\"><title>").text(name).raw("</title></polyline>");
    }
    p.raw("</svg>");
}

fn timing(p: &mut Page, r: &Report) {
    p.raw("<h2>Time per phase, ms</h2><div class=\"wide\"><table><tr><th>phase</th><th>cycles</th><th>median</th>");
    p.raw("<th>p95</th><th>max</th><th>total</th></tr>");
    for (name, t) in &r.phases {
        p.numbers(name, &[t.count.into(), t.median_ms, t.p95_ms, t.max_ms, t.total_ms]);
    }
    p.raw("</table></div>");
}

fn cycles(p: &mut Page, r: &Report) {
    p.raw("<h2>Cycles</h2><details><summary>")
        .text(r.cycles_completed)
        .raw(" of ")
        .text(r.setting.cycles_requested);
    p.raw("</summary><div class=\"wide\"><table><tr><th>cycle</th><th>interrupts</th><th>created</th><th>released</th>");
    p.raw("<th>left</th><th>descriptors</th><th>ms</th></tr>");
    for c in &r.cycles {
        let ms = c.phases_ms.iter().map(|p| p.1).sum();
        let what = format!("{} {} → {} {}", c.cycle, c.load, c.teardown, c.held);
        p.numbers(what, &[c.raised, c.created, c.released, c.leaked.len() as u64, c.irq_descs, ms]);
    }
    p.raw("</table></div></details>");
}

fn allowed(p: &mut Page, r: &Report) {
    p.raw("<h2>Allow-list in force</h2><div class=\"wide\"><table>");
    for a in &r.allow_list {
        p.raw("<tr><td>").text(&a.rule).raw("</td><td>").text(&a.reason).raw("</td></tr>");
    }
    p.raw("</table></div>");
}

fn artifacts(p: &mut Page, dir: &Path) {
    p.raw("<h2>Artifacts</h2><ul>");
    for (name, what) in ARTIFACTS {
        if dir.join(name).exists() {
            p.raw("<li><a href=\"").text(name).raw("\">").text(name).raw("</a> ").text(what).raw("</li>");
        }
    }
    p.raw("</ul>");
}
