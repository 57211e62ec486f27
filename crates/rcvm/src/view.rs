//! What a view of a guest's kernel shows: tables for people, or JSON. The source may be a core or a guest that runs.

use std::collections::BTreeMap;
use std::collections::HashMap;

use anyhow::Context;
use anyhow::Result;
use guest_view::devices::Driver;
use guest_view::Corruption;
use guest_view::DeviceView;
use guest_view::IrqReader;
use guest_view::IrqView;
use guest_view::Kernel;
use guest_view::Memory;
use guest_view::ModuleView;
use guest_view::PciView;
use guest_view::ResourceView;
use guest_view::SupplyView;
use serde::Deserialize;
use serde::Serialize;
use torture::render::visible;

use crate::cli::View;

/// A view as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    /// Which view.
    pub view: View,
    /// As JSON rather than as tables.
    pub json: bool,
}

/// Largest answer to a question, bytes.
pub const MAX_ANSWER_BYTES: usize = 8 << 20;

/// What the front-end asks the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// That of its answer, too.
    pub id: u64,
    /// What is asked.
    pub ask: Ask,
}

/// What the worker answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Of the question.
    pub id: u64,
    /// The view, or why there is none.
    pub shown: Result<Shown, String>,
}

#[cfg(any(test, target_arch = "aarch64"))]
impl Answer {
    /// As JSON, for the worker; one that would be too large says only that.
    pub fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        if json.len() <= MAX_ANSWER_BYTES && !json.is_empty() {
            return json;
        }
        let why = format!("the view has more than {} MiB", MAX_ANSWER_BYTES >> 20);
        serde_json::to_vec(&Answer { id: self.id, shown: Err(why) }).unwrap_or_default()
    }
}

/// A view, ready to be printed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Empty if JSON was asked for.
    pub tables: Vec<Table>,
    /// The view as JSON, if that was asked for.
    pub json: Option<String>,
    /// What is missing, and why.
    pub incomplete: Vec<String>,
    /// Locks that somebody held, of views that look at them: what they protect was being changed.
    pub held: Vec<String>,
}

impl Shown {
    /// Read a view of a kernel.
    pub fn read<M: Memory>(k: &Kernel<M>, ask: Ask) -> Result<Shown> {
        match ask.view {
            View::Irqs => shown(&irqs(k)?, ask.json, irq_tables, |v| &v.corruptions, |v| &v.held),
            View::Domains => shown(&irqs(k)?, ask.json, domain_tables, |v| &v.corruptions, |v| &v.held),
            View::Pci => shown(&PciView::read(k)?, ask.json, pci_tables, |v| &v.corruptions, |_| &[]),
            View::Modules => {
                shown(&ModuleView::read(k)?, ask.json, module_tables, |v| &v.corruptions, |_| &[])
            }
            View::Devices => {
                let view = DeviceView::of_bus(k, "platform")?;
                shown(&view, ask.json, device_tables, |v| &v.corruptions, |_| &[])
            }
            View::Iomem => {
                shown(&ResourceView::iomem(k)?, ask.json, resource_tables, |v| &v.corruptions, |_| &[])
            }
            View::Clocks => {
                shown(&SupplyView::read(k)?, ask.json, supply_tables, |v| &v.corruptions, |_| &[])
            }
        }
    }

    /// Its tables, or its JSON.
    pub fn text(&self) -> String {
        match &self.json {
            Some(json) => format!("{json}\n"),
            None => self.tables.iter().map(Table::text).collect::<Vec<_>>().join("\n"),
        }
    }
}

/// What a view shows that it did not show before.
pub struct Changes(Shown);

/// A row that appeared or disappeared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// `appeared` or `disappeared`.
    pub change: &'static str,
    /// Its cells, by their columns.
    pub row: BTreeMap<String, String>,
    #[serde(skip)]
    cells: Vec<String>,
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sign = if self.change == APPEARED { '+' } else { '-' };
        write!(f, "{sign} {}", self.cells.join("  "))
    }
}

const APPEARED: &str = "appeared";
const DISAPPEARED: &str = "disappeared";

impl Changes {
    /// From what was shown first.
    pub fn new(first: Shown) -> Self {
        Self(first)
    }

    /// What was shown last.
    pub fn shown(&self) -> &Shown {
        &self.0
    }

    /// The rows that `shown` has no longer, then those that it has and that which was shown last has not, table by table.
    pub fn to(&mut self, shown: Shown) -> Vec<Change> {
        let mut changes = Vec::new();
        for (old, new) in self.0.tables.iter().zip(&shown.tables) {
            changes.extend(old.rows_beyond(new).map(|cells| old.change(DISAPPEARED, cells)));
            changes.extend(new.rows_beyond(old).map(|cells| new.change(APPEARED, cells)));
        }
        self.0 = shown;
        changes
    }
}

fn irqs<M: Memory>(k: &Kernel<M>) -> Result<IrqView> {
    Ok(IrqReader::new(k)?.read(k))
}

fn shown<V: Serialize>(
    view: &V,
    json: bool,
    tables: fn(&V) -> Vec<Table>,
    corruptions: fn(&V) -> &[Corruption],
    held: fn(&V) -> &[String],
) -> Result<Shown> {
    Ok(Shown {
        tables: if json { Vec::new() } else { tables(view) },
        json: json.then(|| serde_json::to_string_pretty(view)).transpose().context("encode the view")?,
        incomplete: corruptions(view).iter().map(Corruption::to_string).collect(),
        held: held(view).to_vec(),
    })
}

/// Rows under a heading. What is in them comes from the guest, so it can do nothing to a terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Table {
    /// Names of the columns.
    pub heading: Vec<String>,
    /// A cell for each column.
    pub rows: Vec<Vec<String>>,
}

impl Table {
    fn new(heading: &[&str]) -> Table {
        Table { heading: heading.iter().map(|&h| h.to_owned()).collect(), rows: Vec::new() }
    }

    fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|c| visible(c).replace('\n', " ")).collect());
    }

    /// Rows that `other` does not have, or not as often.
    fn rows_beyond<'a>(&'a self, other: &'a Table) -> impl Iterator<Item = &'a Vec<String>> {
        let mut theirs: HashMap<&Vec<String>, usize> = HashMap::new();
        for row in &other.rows {
            *theirs.entry(row).or_default() += 1;
        }
        self.rows.iter().filter(move |row| match theirs.get_mut(row) {
            Some(left @ 1..) => {
                *left -= 1;
                false
            }
            _ => true,
        })
    }

    fn change(&self, change: &'static str, cells: &[String]) -> Change {
        let row = self.heading.iter().cloned().zip(cells.iter().cloned()).collect();
        Change { change, row, cells: cells.to_vec() }
    }

    /// Columns that line up.
    pub fn text(&self) -> String {
        let all = || std::iter::once(&self.heading).chain(&self.rows);
        let width = |column: usize| {
            all().filter_map(|row| row.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<_> = (0..self.heading.len()).map(width).collect();
        let line = |row: &Vec<String>| {
            let cells = row.iter().zip(&widths).map(|(cell, &w)| format!("{cell:<w$}"));
            format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
        };
        all().map(line).collect()
    }
}

fn text(t: &Option<String>) -> String {
    t.clone().unwrap_or_else(|| "?".to_owned())
}

/// A list in one cell.
fn joined(parts: impl Iterator<Item = String>) -> String {
    let all = parts.collect::<Vec<_>>().join(", ");
    if all.is_empty() {
        "-".to_owned()
    } else {
        all
    }
}

/// A symbol, or an address and that nothing loaded has it.
fn symbol(name: &Option<String>, va: u64) -> String {
    match name {
        Some(name) => name.clone(),
        None if va == 0 => "-".to_owned(),
        None => format!("{va:#x} (in no module)"),
    }
}

fn driver(d: &Option<Driver>) -> String {
    match d {
        None => "-".to_owned(),
        Some(Driver { symbol: None, va, name }) => format!("{} {va:#x} (in no module)", text(name)),
        Some(d) => match d.symbol.as_deref().and_then(|s| s.split_once(" [")) {
            Some((_, module)) => format!("{} [{module}", text(&d.name)),
            None => text(&d.name),
        },
    }
}

fn irq_tables(v: &IrqView) -> Vec<Table> {
    let domains: HashMap<_, _> = v.domains.iter().map(|d| (d.va, d.name.as_str())).collect();
    let mut t = Table::new(&["VIRQ", "HWIRQ", "DOMAIN", "CHIP", "FLOW", "ACTIONS"]);
    for d in &v.descs {
        let first = d.levels.first();
        let domain = first.map_or("-".to_owned(), |l| match domains.get(&l.domain) {
            Some(name) => (*name).to_owned(),
            None if l.domain == 0 => "-".to_owned(),
            None => format!("{:#x} (gone)", l.domain),
        });
        let actions = d.actions.iter().map(|a| match (&a.name, symbol(&a.handler_symbol, a.handler)) {
            (Some(name), handler) => format!("{name}: {handler}"),
            // The action of a chained handler; the flow is what runs.
            (None, handler) => handler,
        });
        t.row([
            d.virq.to_string(),
            first.map_or("-".to_owned(), |l| format!("{:#x}", l.hwirq)),
            domain,
            first.map_or("-".to_owned(), |l| l.chip_name.clone().unwrap_or_else(|| "-".to_owned())),
            symbol(&d.handler_symbol, d.handler),
            joined(actions),
        ]);
    }
    vec![t]
}

fn domain_tables(v: &IrqView) -> Vec<Table> {
    let names: HashMap<_, _> = v.domains.iter().map(|d| (d.va, d.name.as_str())).collect();
    let mut t = Table::new(&["DOMAIN", "MAPPED", "FLAGS", "BUS TOKEN", "PARENT"]);
    for d in &v.domains {
        let parent = match names.get(&d.parent) {
            Some(name) => (*name).to_owned(),
            None if d.parent == 0 => "-".to_owned(),
            None => format!("{:#x} (gone)", d.parent),
        };
        let (flags, token) = (format!("{:#x}", d.flags), d.bus_token.to_string());
        t.row([d.name.clone(), d.revmap.len().to_string(), flags, token, parent]);
    }
    vec![t]
}

fn pci_tables(v: &PciView) -> Vec<Table> {
    let mut buses = Table::new(&["BUS", "BRIDGE", "CONFIGURATION ACCESS"]);
    let mut devices =
        Table::new(&["DEVICE", "ID", "CLASS", "DRIVER", "IRQ", "ENABLED", "BUS MASTER", "MSI", "VECTORS"]);
    let mut resources = Table::new(&["DEVICE", "RESOURCE", "RANGE", "FLAGS"]);
    for b in &v.buses {
        buses.row([text(&b.name), text(&b.bridge), symbol(&b.ops_symbol, b.ops)]);
        for d in &b.devices {
            let msi = match (d.msi_enabled, d.msix_enabled) {
                (_, true) => "MSI-X",
                (true, _) => "MSI",
                _ => "-",
            };
            let vectors = d.msi_descs.iter().map(|m| match m.vectors {
                0 | 1 => format!("{}={}", m.index, m.irq),
                n => format!("{}={}..{}", m.index, m.irq, m.irq.saturating_add(n - 1)),
            });
            devices.row([
                text(&d.name),
                format!("{:04x}:{:04x}", d.vendor, d.device),
                format!("{:06x}", d.class),
                driver(&d.driver),
                d.irq.to_string(),
                d.enable_count.to_string(),
                if d.is_busmaster { "yes" } else { "no" }.to_owned(),
                msi.to_owned(),
                joined(vectors),
            ]);
            for r in &d.resources {
                let range = format!("{:#x}-{:#x}", r.start, r.end);
                resources.row([text(&d.name), r.index.to_string(), range, format!("{:#x}", r.flags)]);
            }
        }
    }
    vec![buses, devices, resources]
}

fn module_tables(v: &ModuleView) -> Vec<Table> {
    let mut t = Table::new(&["MODULE", "STATE", "REFERENCES", "BYTES", "MEMORY"]);
    for m in &v.modules {
        let bytes = m.ranges.iter().map(|r| r.bytes).fold(0, u64::saturating_add);
        let ranges = m.ranges.iter().map(|r| format!("{} {:#x}", r.kind, r.base));
        let references = m.references.map_or("-".to_owned(), |n| n.to_string());
        t.row([m.name.clone(), m.state.clone(), references, bytes.to_string(), joined(ranges)]);
    }
    vec![t]
}

fn device_tables(v: &DeviceView) -> Vec<Table> {
    let mut devices = Table::new(&["PLATFORM DEVICE", "DRIVER"]);
    for d in &v.devices {
        devices.row([text(&d.name), driver(&d.driver)]);
    }
    let mut deferred = Table::new(&["DEFERRED PROBE", "REASON"]);
    for d in &v.deferred {
        deferred.row([text(&d.name), d.reason.clone().unwrap_or_else(|| "-".to_owned())]);
    }
    vec![devices, deferred]
}

fn resource_tables(v: &ResourceView) -> Vec<Table> {
    let mut t = Table::new(&["RANGE", "NAME"]);
    for r in &v.resources {
        let indent = "  ".repeat(r.depth);
        t.row([format!("{indent}{:08x}-{:08x}", r.start, r.end), text(&r.name)]);
    }
    vec![t]
}

fn supply_tables(v: &SupplyView) -> Vec<Table> {
    let mut clocks = Table::new(&["CLOCK", "ENABLED", "PREPARED", "CONSUMERS"]);
    for c in &v.clocks {
        let name = format!("{}{}", "  ".repeat(c.depth), text(&c.name));
        let consumers = joined(c.consumers.iter().cloned());
        clocks.row([name, c.enable_count.to_string(), c.prepare_count.to_string(), consumers]);
    }
    let mut regulators = Table::new(&["REGULATOR", "USE COUNT", "OPEN COUNT", "CONSUMERS"]);
    for r in &v.regulators {
        let consumers = r.consumers.iter().map(|c| match &c.device {
            Some(device) => format!("{device} {} {}", text(&c.supply), c.enable_count),
            None => format!("{} {}", text(&c.supply), c.enable_count),
        });
        let (used, open) = (r.use_count.to_string(), r.open_count.to_string());
        regulators.row([text(&r.name), used, open, joined(consumers)]);
    }
    let mut resets = Table::new(&["RESET", "REFERENCES", "SHARED", "DEASSERTED"]);
    for r in &v.resets {
        let shared = if r.is_shared { "yes" } else { "no" };
        // An exclusive control is not counted.
        let count = if r.is_shared { r.deassert_count.to_string() } else { "-".to_owned() };
        let name = format!("{} {}", text(&r.controller), r.id);
        resets.row([name, r.references.to_string(), shared.to_owned(), count]);
    }
    let mut phys = Table::new(&["PHY", "INITIALISED", "POWERED"]);
    for p in &v.phys {
        phys.row([text(&p.name), p.init_count.to_string(), p.power_count.to_string()]);
    }
    vec![clocks, regulators, resets, phys]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_what_the_guest_wrote_does_nothing_to_a_terminal() {
        let mut t = Table::new(&["MODULE", "STATE"]);
        t.row(["pcie_qcom\x1b[2J".to_owned(), "live".to_owned()]);
        t.row(["é\nx".to_owned(), "going".to_owned()]);
        assert_eq!(
            t.text(),
            "MODULE              STATE\npcie_qcom\\u{1b}[2J  live\né x                 going\n"
        );
    }

    #[test]
    fn changes_are_the_rows_that_differ_and_equal_rows_count() {
        let view = |rows: &[&str]| {
            let mut t = Table::new(&["IRQ"]);
            rows.iter().for_each(|r| t.row([(*r).to_owned()]));
            Shown { tables: vec![t], ..Shown::default() }
        };
        let mut changes = Changes::new(view(&["1", "2", "2"]));
        let lines = |found: Vec<Change>| found.iter().map(Change::to_string).collect::<Vec<_>>();
        assert_eq!(lines(changes.to(view(&["3", "2", "1"]))), ["- 2", "+ 3"]);
        assert_eq!(lines(changes.to(view(&["3", "2", "1"]))), [""; 0]);
        let json = serde_json::to_string(&changes.to(view(&["3", "2"]))).unwrap();
        assert_eq!(json, r#"[{"change":"disappeared","row":{"IRQ":"1"}}]"#);
    }

    #[test]
    fn an_answer_that_is_too_large_says_so() {
        let large = Shown { json: Some("x".repeat(MAX_ANSWER_BYTES)), ..Shown::default() };
        let bytes = Answer { id: 7, shown: Ok(large) }.encode();
        assert!(bytes.len() < 200);
        let answer: Answer = serde_json::from_slice(&bytes).unwrap();
        assert!(answer.id == 7 && answer.shown.is_err());
    }

    #[test]
    fn a_driver_of_a_module_names_it_and_one_that_is_gone_is_said_to_be() {
        let bound = |symbol: Option<&str>| {
            Some(Driver { va: 0xa0, name: Some("qcom-pcie".into()), symbol: symbol.map(str::to_owned) })
        };
        assert_eq!(driver(&bound(Some("qcom_pcie_driver+0x28 [pcie_qcom]"))), "qcom-pcie [pcie_qcom]");
        assert_eq!(driver(&bound(Some("gpio_clk_driver+0x28"))), "qcom-pcie");
        assert_eq!(driver(&bound(None)), "qcom-pcie 0xa0 (in no module)");
        assert_eq!(driver(&None), "-");
    }
}
