//! `rcvm inspect`: a guest kernel's own structures, from a core.

use std::collections::HashMap;
use std::fs::File;
use std::io::BufReader;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;

use anyhow::Context;
use anyhow::Result;
use guest_view::devices::Driver;
use guest_view::Core;
use guest_view::Corruption;
use guest_view::DeviceView;
use guest_view::IrqReader;
use guest_view::IrqView;
use guest_view::Kernel;
use guest_view::ModuleView;
use guest_view::PciView;
use guest_view::ResourceView;
use guest_view::Source;
use guest_view::SupplyView;
use guest_view::VmcoreInfo;
use serde::Serialize;
use torture::render::visible;

use crate::cli::InspectArgs;
use crate::cli::View;

type Guest = Kernel<Core<BufReader<File>>>;

/// Show a view of a core.
pub fn run(args: &InspectArgs) -> Result<u8> {
    let core = if args.core.is_dir() { args.core.join("core.elf") } else { args.core.clone() };
    let k = open(&core, args.kernel.as_deref()).with_context(|| core.display().to_string())?;
    let json = args.json;
    match args.view {
        View::Irqs => show(&irqs(&k)?, json, irq_tables, |v| &v.corruptions),
        View::Domains => show(&irqs(&k)?, json, domain_tables, |v| &v.corruptions),
        View::Pci => show(&PciView::read(&k)?, json, pci_tables, |v| &v.corruptions),
        View::Modules => show(&ModuleView::read(&k)?, json, module_tables, |v| &v.corruptions),
        View::Devices => show(&DeviceView::of_bus(&k, "platform")?, json, device_tables, |v| &v.corruptions),
        View::Iomem => show(&ResourceView::iomem(&k)?, json, resource_tables, |v| &v.corruptions),
        View::Clocks => show(&SupplyView::read(&k)?, json, supply_tables, |v| &v.corruptions),
    }
}

fn irqs(k: &Guest) -> Result<IrqView> {
    Ok(IrqReader::new(k)?.read(k))
}

fn open(core: &Path, kernel: Option<&Path>) -> Result<Guest> {
    let file = kernel.map(Path::to_owned).or_else(|| reported_image(core));
    let image = file.as_ref().map(|file| vmm::loader::read_kernel(file)).transpose()?;
    let core = Core::open(BufReader::new(File::open(core)?))?;
    let vmcoreinfo = match &core.vmcoreinfo {
        Some(text) => Some(VmcoreInfo::parse(text)),
        None => VmcoreInfo::scan(&core),
    };
    let image = image.as_ref().map(|i| i.bytes.as_slice());
    let source = Source { image, vmcoreinfo, ..Source::default() };
    Kernel::open(core, source).with_context(|| match &file {
        Some(file) => file.display().to_string(),
        None => "without --kernel".to_owned(),
    })
}

/// The Image that the report beside the core names, if it is still there.
fn reported_image(core: &Path) -> Option<PathBuf> {
    let text = std::fs::read(core.with_file_name("report.json")).ok()?;
    let report: serde_json::Value = serde_json::from_slice(&text).ok()?;
    Some(PathBuf::from(report.get("kernel_image")?.as_str()?)).filter(|file| file.is_file())
}

fn show<V: Serialize>(
    view: &V,
    json: bool,
    tables: fn(&V) -> Vec<Table>,
    corruptions: fn(&V) -> &Vec<Corruption>,
) -> Result<u8> {
    let text = if json {
        serde_json::to_string_pretty(view)? + "\n"
    } else {
        tables(view).iter().map(Table::text).collect::<Vec<_>>().join("\n")
    };
    if std::io::stdout().write_all(text.as_bytes()).is_err() {
        // The reader, `head` for instance, has seen enough.
        return Ok(0);
    }
    for c in corruptions(view) {
        eprintln!("rcvm: incomplete: {}", visible(&c.to_string()));
    }
    Ok(0)
}

/// Rows under a heading. What is in them comes from the guest, so it can do nothing to a terminal.
struct Table {
    heading: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    fn new(heading: &[&str]) -> Table {
        Table { heading: heading.iter().map(|&h| h.to_owned()).collect(), rows: Vec::new() }
    }

    fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.iter().map(|c| visible(c).replace('\n', " ")).collect());
    }

    fn text(&self) -> String {
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
