//! Device-side state at the sampling points S1–S5 (spec §4.5): one row, one requirement.

use std::collections::BTreeMap;

use rc_model::Event;
use rc_model::Sample;
use rc_model::SamplePoint;
use rc_model::Window;

use crate::finding::Class;
use crate::finding::Finding;
use crate::finding::Source;

/// What a clean value looks like.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Clean {
    /// Exactly this.
    Is(u64),
    /// These bits are 0.
    Clear(u64),
}

impl Clean {
    fn holds(self, v: u64) -> bool {
        match self {
            Clean::Is(want) => v == want,
            Clean::Clear(mask) => v & mask == 0,
        }
    }

    fn text(self) -> String {
        match self {
            Clean::Is(v) => format!("{v:#x}"),
            Clean::Clear(m) => format!("0 in bits {m:#x}"),
        }
    }
}

/// One row of spec §4.5. An item that ends in `[]` stands for every index.
struct Rule {
    point: SamplePoint,
    item: &'static str,
    clean: Clean,
    /// The row does not apply while this item has this value.
    unless: Option<(&'static str, u64)>,
    /// The row applies only to a machine that has this item.
    needs: Option<&'static str>,
    betrays: &'static str,
}

const fn rule(point: SamplePoint, item: &'static str, clean: Clean, betrays: &'static str) -> Rule {
    Rule { point, item, clean, unless: None, needs: None, betrays }
}

const fn unless(mut r: Rule, item: &'static str, v: u64) -> Rule {
    r.unless = Some((item, v));
    r
}

const fn needs(mut r: Rule, item: &'static str) -> Rule {
    r.needs = Some(item);
    r
}

const BME: u64 = 1 << 2;
const INTX_DISABLE: u64 = 1 << 10;
/// DRIVER_OK (virtio 1.2 §2.1).
const VIRTIO_DRIVER_OK: u64 = 1 << 2;
/// RTCTL: System Error enables (2:0), PME interrupt enable (3) (PCIe, Root Control register).
const RTCTL_SERVICES: u64 = 0xf;
/// LNKCTL: link bandwidth management (10) and autonomous bandwidth (11) interrupt enables.
const LNKCTL_LBMIE_LABIE: u64 = 0xc00;
/// SLTCTL: all notification enables (4:0), hot-plug interrupt enable (5), DLL state changed enable (12).
const SLTCTL_SERVICES: u64 = 0x103f;
/// INT_ALL_MASK out of reset: bits 30:23 (spec §2.2.2).
const INT_ALL_MASK_RESET: u64 = 0x7f80_0000;

use Clean::Clear;
use Clean::Is;
use SamplePoint::S2;
use SamplePoint::S3;
use SamplePoint::S4;

const RULES: &[Rule] = &[
    rule(
        S2,
        "ep.command",
        Clear(BME),
        "endpoint BME is set: its driver or remove skipped pci_disable_device; DMA is still possible",
    ),
    rule(S2, "ep.msi.enable", Is(0), "MSI vectors were not freed"),
    rule(S2, "ep.msi.addr", Is(0), "MSI message kept: an irq was freed without deactivating its domain"),
    rule(S2, "ep.msi.data", Is(0), "MSI message kept: an irq was freed without deactivating its domain"),
    rule(S2, "ep.msix.enable", Is(0), "MSI-X vectors were not freed"),
    rule(S2, "ep.msix.fmask", Is(0), "MSI-X set-up was aborted half-way"),
    rule(S2, "ep.msix.unmasked", Is(0), "MSI-X entries are left unmasked"),
    rule(S2, "ep.msix.programmed", Is(0), "MSI-X entries keep their message"),
    rule(S2, "ep.command", Clear(INTX_DISABLE), "MSI was torn down half-way: INTX_DISABLE is still 1"),
    rule(S2, "ep.intx", Is(0), "the endpoint still asserts INTx"),
    rule(
        S2,
        "ep.nvme.enabled",
        Is(0),
        "the controller still takes commands: its driver did not shut it down",
    ),
    rule(
        S2,
        "ep.virtio.status",
        Clear(VIRTIO_DRIVER_OK),
        "the device still believes in its driver: it was not reset",
    ),
    // A block held in reset reads reset values, MASK = 0 among them: the position of each 0 bit names a leaked hwirq only
    // while the group is enabled.
    unless(
        rule(
            S2,
            "msi.mask[]",
            Is(0xffff_ffff),
            "some vector was never shut down: each 0 bit is a leaked hwirq",
        ),
        "msi.enable[]",
        0,
    ),
    rule(S3, "msi.enable[]", Is(0), "the controller is left armed"),
    rule(S3, "msi.status[]", Is(0), "an undelivered MSI will be spurious in the next life"),
    rule(S3, "msi.addr", Is(0), "the controller keeps a stale message address"),
    rule(S3, "msi.line[]", Is(0), "an msi line is still asserted"),
    rule(S4, "msi.line[]", Is(0), "an msi line is still asserted"),
    rule(S3, "iatu.ob.enabled", Is(0), "outbound windows are live into a dead link"),
    rule(S3, "iatu.ib.enabled", Is(0), "inbound windows are live"),
    rule(S3, "parf.ltssm_en", Is(0), "link training is left enabled"),
    rule(S3, "elbi.lt_enable", Is(0), "link training is left enabled"),
    rule(S3, "apb.ltssm_en", Is(0), "link training is left enabled"),
    needs(rule(S4, "rp.dllla", Is(0), "the link is still up: PERST# or PHY was not handled"), "gpio.perst"),
    rule(S4, "parf.ltssm_state", Is(0), "the link state machine is not idle"),
    rule(S4, "apb.ltssm_state", Is(0), "the link state machine is not idle"),
    rule(
        S3,
        "apb.intx_mask",
        Is(0xf),
        "an INTx is left unmasked: each 0 bit is a hwirq that was never shut down",
    ),
    rule(S3, "apb.misc_mask", Is(0xffff), "the link event interrupt is left armed"),
    rule(S3, "parf.int_all_mask", Is(INT_ALL_MASK_RESET), "the global event interrupt is left armed"),
    rule(S3, "dbi.ro_wr_en", Is(0), "read-only registers are left writable: RC set-up was aborted"),
    rule(S3, "rp.command", Clear(BME), "root port BME is set: portdrv was not removed"),
    rule(S3, "rp.rtctl", Clear(RTCTL_SERVICES), "a root port service (PME) is left enabled"),
    rule(S3, "rp.aer_root_command", Is(0), "the AER service is left enabled"),
    rule(S3, "rp.sltctl", Clear(SLTCTL_SERVICES), "a slot service is left enabled"),
    rule(S3, "rp.lnkctl", Clear(LNKCTL_LBMIE_LABIE), "the bandwidth service is left enabled"),
    rule(S3, "rp.msi.enable", Is(0), "root port MSI is left enabled"),
    rule(S4, "gpio.perst", Is(1), "PERST# is high: the endpoint runs after teardown"),
    rule(S4, "gpio.perst_out", Is(1), "PERST# is no longer driven"),
    rule(S4, "clk.on", Is(0), "a clock gate is left on"),
    rule(S4, "reset.core", Is(1), "the core reset is left deasserted"),
    rule(S4, "reg.on", Is(0), "a supply is left on"),
    unless(
        rule(S4, "parf.phy_ctrl.pwr_down", Is(1), "PHY_CTRL.TEST_PWR_DOWN is 0: the PHY is left powered"),
        "reset.core",
        1,
    ),
    rule(S4, "phy.reset_ctrl", Is(1), "phy_power_off was not called"),
    rule(S4, "phy.reset", Is(3), "PHY resets are not asserted (pipe only: phy_exit is missing)"),
    rule(S4, "count.after_s3", Is(0), "the core was accessed after its clocks stopped"),
];

/// The samples of one life, by point.
pub type Samples = BTreeMap<SamplePoint, Sample>;

/// Check the samples of one teardown.
///
/// A teardown that never asserted PERST# or never stopped the clocks passed no S2 or S3; its rows are then judged by
/// S4, and that the point was missed is a finding of its own where there is a PERST#, or a clock.
pub fn check(samples: &Samples) -> Vec<Finding> {
    let mut found = Vec::new();
    let has = |item| samples.get(&S4).is_some_and(|s| s.get(item).is_some());
    for (point, item, what) in [
        (S2, "gpio.perst", "PERST# was never asserted"),
        (S3, "clk.on", "the core clocks were never stopped"),
    ] {
        if !samples.contains_key(&point) && has(item) {
            found.push(Finding::new(
                Class::RegisterResidue,
                Source::DeviceModel,
                format!("{point:?} missed"),
                format!("{what} during teardown"),
            ));
        }
    }
    for r in RULES {
        if let Some(s) = samples.get(&r.point).or_else(|| samples.get(&S4)) {
            check_rule(r, s, &mut found);
        }
    }
    found.extend(samples.get(&S4).map(clock_balance).unwrap_or_default());
    found
}

/// Check a driver that is not bound and was not torn down either, because it never came up: what holds at S4.
pub fn check_unbound(now: &Sample) -> Vec<Finding> {
    let mut found = Vec::new();
    for r in RULES.iter().filter(|r| r.point == S4) {
        check_rule(r, now, &mut found);
    }
    found.extend(clock_balance(now));
    found
}

fn check_rule(r: &Rule, s: &Sample, found: &mut Vec<Finding>) {
    if r.needs.is_some_and(|item| s.get(item).is_none()) {
        return;
    }
    if let Some(of_function) = r.item.strip_prefix("ep.") {
        for item in s.items.keys().filter(|i| is_function_item(i, of_function)) {
            check_item(r, item, None, s, found);
        }
        return;
    }
    match r.item.strip_suffix("[]") {
        None => check_item(r, r.item, r.unless.map(|u| (u.0.to_owned(), u.1)), s, found),
        Some(base) => {
            for i in 0..8 {
                let unless = r.unless.map(|u| (u.0.replace("[]", &format!("[{i}]")), u.1));
                check_item(r, &format!("{base}[{i}]"), unless, s, found);
            }
        }
    }
}

/// Whether `item` is `what` of some function: `ep.what`, `ep:1.what`, `ep/0/1:2.what`.
fn is_function_item(item: &str, what: &str) -> bool {
    let path = item.strip_prefix("ep").and_then(|i| i.strip_suffix(what)).and_then(|i| i.strip_suffix('.'));
    path.is_some_and(|p| !p.contains('.'))
}

fn check_item(r: &Rule, item: &str, unless: Option<(String, u64)>, s: &Sample, found: &mut Vec<Finding>) {
    let Some(v) = s.get(item) else { return };
    let excused = unless.is_some_and(|(name, value)| s.get(&name) == Some(value));
    if excused || r.clean.holds(v) {
        return;
    }
    let mut f = Finding::new(
        Class::RegisterResidue,
        Source::DeviceModel,
        format!(
            "{:?} {item}{}",
            r.point,
            if let Clear(m) = r.clean { format!("&{m:#x}") } else { String::new() }
        ),
        format!("{item} = {v:#x} at {:?}, clean is {}: {}", s.point, r.clean.text(), r.betrays),
    )
    .fact("item", item)
    .fact("value", format!("{v:#x}"))
    .fact("clean", r.clean.text())
    .fact("sampled at", format!("{:?}", s.point))
    .fact("time_ns", s.time_ns);
    f.magnitude = u64::from(v.count_ones());
    found.push(f);
}

/// Every clock gate is switched off as often as on (spec §4.5: "put without disable; >1 = double enable").
fn clock_balance(s: &Sample) -> Vec<Finding> {
    let mut found = Vec::new();
    for (item, on) in s.items.range("clk.edges[".to_owned()..) {
        let Some(clock) = item.strip_prefix("clk.edges[").and_then(|i| i.strip_suffix("].on")) else {
            continue;
        };
        let off = s.get(&format!("clk.edges[{clock}].off")).unwrap_or(0);
        let on = *on;
        if on != off {
            found.push(
                Finding::new(
                    Class::RegisterResidue,
                    Source::DeviceModel,
                    format!("S4 clk.edges[{clock}]"),
                    format!("clock {clock} was switched on {on} times and off {off} times"),
                )
                .fact("on", on)
                .fact("off", off),
            );
        }
    }
    found
}

/// Functions whose vfio-user server has failed (item `ep.vfio.alive`): what follows in the guest is not its driver's fault.
pub fn check_servers(s: &Sample) -> Vec<Finding> {
    let dead = s.items.iter().filter(|(item, v)| is_function_item(item, "vfio.alive") && **v == 0);
    let found = dead.map(|(item, _)| {
        let function = item.trim_end_matches(".vfio.alive");
        Finding::new(
            Class::OperationFailed,
            Source::DeviceModel,
            format!("{function} lost its vfio-user server"),
            format!(
                "the server of the vfio-user device {function} has ended, did not answer in time or broke the protocol; its \
                 function is gone"
            ),
        )
        .fact("item", item)
    });
    found.collect()
}

/// Registers that must look to a new probe as they do after power-on (spec §4.5, S5: "PARF/MSI/iATU").
const FRESH_PREFIXES: [&str; 7] = ["parf.", "elbi.", "apb.", "msi.", "iatu.", "dbi.", "rp."];

/// Compare what the first access of a probe finds (S5) with what the first access after power-on found.
pub fn check_fresh(cold: &Sample, now: &Sample) -> Vec<Finding> {
    let differing: Vec<String> = now
        .items
        .iter()
        .filter(|(item, _)| FRESH_PREFIXES.iter().any(|p| item.starts_with(p)))
        .filter(|(item, v)| cold.items.get(*item) != Some(v))
        .map(|(item, v)| format!("{item} = {v:#x} (cold boot {:#x})", cold.get(item).unwrap_or(0)))
        .collect();
    if differing.is_empty() {
        return Vec::new();
    }
    vec![Finding::new(
        Class::RegisterResidue,
        Source::DeviceModel,
        "S5 not as after power-on",
        format!("the next probe finds {} registers that differ from power-on", differing.len()),
    )
    .fact("registers", differing.join(", "))]
}

/// Findings from what the model observed between the start of a teardown and its end.
pub fn check_events(events: &[Event]) -> Vec<Finding> {
    events.iter().filter_map(check_event).collect()
}

fn check_event(e: &Event) -> Option<Finding> {
    let verb = |write: bool| if write { "write" } else { "read" };
    Some(match e {
        Event::GatedAccess { window, off, write, why } => {
            let name = rc_model::register_name(*window, *off).unwrap_or_default();
            Finding::new(
                Class::GatedAccess,
                Source::DeviceModel,
                format!("gated {window:?}+{off:#x}"),
                format!("{} of {window:?}+{off:#x} {name} while its {why} gated it", verb(*write)),
            )
            .fact("window", format!("{window:?}"))
            .fact("offset", format!("{off:#x}"))
            .fact("register", name)
            .fact("gated by", why)
        }
        Event::DmaRefused { rid, addr, write, status, gate } => Finding::new(
            Class::DmaAfterStop,
            Source::DeviceModel,
            format!("dma refused by {gate}"),
            format!("{rid} tried a DMA {} of {addr:#x}, refused by {gate} ({status:?})", verb(*write)),
        )
        .fact("requester", rid)
        .fact("address", format!("{addr:#x}"))
        .fact("gate", gate),
        Event::RogueMsi { rid, addr, data } => Finding::new(
            Class::RogueMsi,
            Source::DeviceModel,
            "rogue msi",
            format!("{rid} wrote {data:#x} to {addr:#x}: an MSI that no controller owns"),
        )
        .fact("requester", rid)
        .fact("address", format!("{addr:#x}"))
        .fact("data", format!("{data:#x}")),
        Event::BadInput { what, window, off, write } => {
            bad_input(what, *window, *off, *write, bad_input_text(what))
        }
        // Where the link is down, no function is there or the bridge is closed, all ones are an answer that Linux relies on: the
        // endpoint's handler of a shared INTx reads its STATUS while 7.3 recovers a lost link. A window without a region is not.
        Event::Unrouted { window, off, write, why } if why == "no-window" => {
            bad_input(why, *window, *off, *write, "no outbound region translates this address")
        }
        _ => return None,
    })
}

fn bad_input(what: &str, window: Window, off: u64, write: bool, text: &str) -> Finding {
    let name = rc_model::register_name(window, off).unwrap_or_default();
    let verb = if write { "write" } else { "read" };
    Finding::new(
        Class::BadInput,
        Source::DeviceModel,
        format!("bad input: {what}"),
        format!("{verb} of {window:?} {off:#x} {name}: {text}"),
    )
    .fact("window", format!("{window:?}"))
    .fact("offset", format!("{off:#x}"))
    .fact("register", name)
}

fn bad_input_text(what: &str) -> &'static str {
    match what {
        "unaligned" => "not aligned to its width; it was taken apart into bytes",
        "past-the-end" => "it reaches past the end of the window; reads ones, writes nothing",
        "iatu-inverted" => "an iATU region was enabled that ends before it begins; it holds nothing",
        "iatu-wraps" => "an iATU region was enabled whose target wraps around the end of the address space",
        "iatu-overlap" => "an iATU region was enabled that overlaps another; the lower-numbered one wins",
        "msi-in-mem-window" => "the MSI controller's address lies where endpoints have their BARs",
        "bars-overlap" => "two BARs of the endpoint claim the same memory; the lower-numbered one wins",
        "msi-elsewhere" => {
            "the endpoint's MSI is enabled and does not go to the controller; each one will overwrite memory"
        }
        _ => "no correct driver does this",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(point: SamplePoint, items: &[(&str, u64)]) -> Sample {
        Sample {
            point,
            time_ns: 0,
            life: 1,
            items: items.iter().map(|(k, v)| ((*k).to_owned(), *v)).collect(),
        }
    }

    fn rules(samples: &[Sample]) -> Vec<String> {
        check(&samples.iter().map(|s| (s.point, s.clone())).collect()).into_iter().map(|f| f.rule).collect()
    }

    #[test]
    fn missing_points_are_findings_and_their_rows_fall_back_to_s4() {
        let there = [("gpio.perst", 1), ("clk.on", 0), ("ep.msi.enable", 1), ("parf.ltssm_en", 1)];
        let got = rules(&[sample(S4, &there)]);
        assert_eq!(got, ["S2 missed", "S3 missed", "S2 ep.msi.enable", "S3 parf.ltssm_en"]);
    }

    #[test]
    fn a_function_without_its_server_is_named() {
        let items = [("ep/0.vfio.alive", 0), ("ep/1.vfio.alive", 1), ("ep.command", 0)];
        let found = check_servers(&sample(S4, &items));
        assert_eq!(found.len(), 1, "{found:?}");
        assert_eq!(
            (found[0].class, found[0].rule.as_str()),
            (Class::OperationFailed, "ep/0 lost its vfio-user server")
        );
    }

    #[test]
    fn a_driver_that_never_came_up_has_passed_no_point_but_its_clocks_are_off() {
        let rules = |items| check_unbound(&sample(S4, items)).into_iter().map(|f| f.rule).collect::<Vec<_>>();
        assert_eq!(rules(&[("gpio.perst", 1), ("clk.on", 0), ("ep.msi.enable", 1)]), Vec::<String>::new());
        assert_eq!(rules(&[("phy.reset", 0)]), ["S4 phy.reset"]);
    }

    #[test]
    fn a_machine_without_perst_and_clocks_is_not_judged_by_them() {
        assert_eq!(rules(&[sample(S4, &[("ep.msi.enable", 0), ("rp.dllla", 1)])]), Vec::<String>::new());
    }

    #[test]
    fn every_group_of_the_msi_controller_is_looked_at() {
        let s3 = sample(S3, &[("msi.enable[7]", 0xffff_ffff), ("msi.enable[0]", 0)]);
        assert_eq!(rules(&[sample(S2, &[]), s3, sample(S4, &[])]), ["S3 msi.enable[7]"]);
    }

    #[test]
    fn a_zero_mask_is_a_leak_only_while_the_group_is_enabled() {
        let clean = sample(S2, &[("msi.enable[0]", 0), ("msi.mask[0]", 0)]);
        assert_eq!(rules(&[clean, sample(S3, &[]), sample(S4, &[])]), Vec::<String>::new());
        let armed = sample(S2, &[("msi.enable[0]", 0xffff_ffff), ("msi.mask[0]", 0xffff_fffe)]);
        assert_eq!(rules(&[armed, sample(S3, &[]), sample(S4, &[])]), ["S2 msi.mask[0]"]);
    }

    #[test]
    fn an_unbalanced_clock_is_found() {
        let s4 = sample(
            S4,
            &[
                ("clk.edges[aux].on", 2),
                ("clk.edges[aux].off", 2),
                ("clk.edges[cfg].on", 2),
                ("clk.edges[cfg].off", 1),
            ],
        );
        assert_eq!(rules(&[sample(S2, &[]), sample(S3, &[]), s4]), ["S4 clk.edges[cfg]"]);
    }

    #[test]
    fn a_second_probe_must_find_what_the_first_found() {
        let cold = sample(SamplePoint::S5, &[("msi.enable[0]", 0), ("clk.edges[aux].on", 0)]);
        let same = sample(SamplePoint::S5, &[("msi.enable[0]", 0), ("clk.edges[aux].on", 7)]);
        assert_eq!(check_fresh(&cold, &same), vec![]);
        let dirty = sample(SamplePoint::S5, &[("msi.enable[0]", 1)]);
        assert!(check_fresh(&cold, &dirty)[0].evidence["registers"].contains("msi.enable[0] = 0x1"));
    }

    #[test]
    fn bad_input_is_a_finding_of_its_kind_and_a_dead_link_is_none() {
        let event =
            |what: &str| Event::BadInput { what: what.into(), window: Window::Atu, off: 0x204, write: true };
        let found = check_events(&[event("iatu-overlap"), event("unaligned"), event("iatu-overlap")]);
        let rules: Vec<&str> = found.iter().map(|f| f.rule.as_str()).collect();
        assert_eq!(rules, ["bad input: iatu-overlap", "bad input: unaligned", "bad input: iatu-overlap"]);
        assert!(found.iter().all(|f| f.class == Class::BadInput));
        assert_eq!(found[0].evidence["register"], "OB1.REGION_CTRL2");
        let lost = |why: &str| Event::Unrouted { window: Window::Mem, off: 0, write: false, why: why.into() };
        let found = check_events(&["link-down", "no-function", "timeout", "no-window", "bridge"].map(lost));
        let rules: Vec<&str> = found.iter().map(|f| f.rule.as_str()).collect();
        assert_eq!(rules, ["bad input: no-window"]);
    }

    #[test]
    fn every_kind_of_bad_input_that_the_model_documents_has_a_text() {
        let doc = include_str!("../../../rc-model/src/event.rs");
        let kinds = doc.split("BadInput {").nth(1).and_then(|d| d.split("what:").next()).unwrap_or_default();
        let kinds: Vec<&str> = kinds.split('"').skip(1).step_by(2).collect();
        assert!(kinds.len() >= 8, "{kinds:?}");
        assert!(kinds.iter().all(|k| !bad_input_text(k).starts_with("no correct")), "{kinds:?}");
    }

    #[test]
    fn every_row_of_the_spec_table_fires_on_a_dirty_value() {
        // Each rule alone: a sample with a value it must refuse.
        for r in RULES {
            let item = r.item.replace("[]", "[3]");
            let bad = match r.clean {
                Is(v) => v ^ 1,
                Clear(m) => m,
            };
            let mut s = sample(r.point, &[]);
            s.items.extend(r.needs.map(|n| (n.to_owned(), 1)));
            s.items.insert(item, bad);
            let mut found = Vec::new();
            check_rule(r, &s, &mut found);
            assert_eq!(found.len(), 1, "{:?} {}", r.point, r.item);
        }
    }
}
