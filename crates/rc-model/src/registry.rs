//! Names of registers by window and offset, and the register reference, from the same tables that drive them.

use block::Field;
use block::Reg;
use block::ResetKind;
use block::Width;
use pcie::config::regs as pci;

use crate::dbi;
use crate::elbi;
use crate::gpio;
use crate::iatu;
use crate::mhi;
use crate::parf;
use crate::phy;
use crate::reset;
use crate::soc::Soc;
use crate::soc::Window;
use crate::soc::GPIO_CLK0;
use crate::soc::GPIO_PERST;
use crate::soc::GPIO_REG0;
use crate::soc::RESET_CORE;
use crate::soc::RESET_PHY;
use crate::soc::RESET_PIPE;
use crate::wrapper::rockchip;

/// One register table and where it is.
#[derive(Clone, Debug)]
pub struct Table {
    /// What it describes.
    pub title: &'static str,
    /// Window that it is in.
    pub window: Window,
    /// Offsets that its rows are relative to: one, or one a region.
    pub bases: Vec<u32>,
    /// Its rows.
    pub rows: &'static [Reg],
}

/// Every register table of the model.
pub fn tables() -> Vec<Table> {
    let regions = (0..iatu::regs::REGIONS).flat_map(|n| [iatu::regs::outbound(n), iatu::regs::inbound(n)]);
    let one = |title, window, base, rows| Table { title, window, bases: vec![base], rows };
    vec![
        one("PARF: Qualcomm's wrapper", Window::Parf, 0, parf::regs::REGS),
        one("ELBI", Window::Elbi, 0, elbi::regs::REGS),
        one("MHI counters", Window::Mhi, 0, mhi::regs::REGS),
        one("Rockchip client registers", Window::Apb, 0, rockchip::regs::REGS),
        one("Port logic", Window::Dbi, 0, dbi::regs::PORT_LOGIC_REGS),
        one("iMSI-RX", Window::Dbi, 0, msi_ctrl::regs::REGS),
        Table {
            title: "iATU: one region",
            window: Window::Atu,
            bases: regions.collect(),
            rows: iatu::regs::REGION,
        },
        one("Root port: type 1 header", Window::Dbi, 0, pci::TYPE1),
        one("Root port: power management", Window::Dbi, dbi::regs::PM, pci::PM),
        one("Root port: MSI", Window::Dbi, dbi::regs::MSI, pci::MSI),
        one("Root port: PCI Express, rows of its own", Window::Dbi, dbi::regs::EXP, dbi::regs::EXP_OWN),
        one("Root port: AER", Window::Dbi, dbi::regs::AER, pci::AER),
        one("Root port: AER, of root ports", Window::Dbi, dbi::regs::AER, pci::AER_ROOT),
        one("Root port: Secondary PCI Express", Window::Dbi, dbi::regs::SECPCI, dbi::regs::SECPCI_ROWS),
        one("Root port: L1 PM substates", Window::Dbi, dbi::regs::L1SS, pci::L1SS),
        one("Root port: 16 GT/s (cores from 5.40a)", Window::Dbi, dbi::regs::PL_16GT, pci::PL_16GT),
        one(
            "Root port: PCI Express, of 16 GT/s ports (cores from 5.60a)",
            Window::Dbi,
            dbi::regs::EXP,
            dbi::regs::EXP_16GT,
        ),
        one("Root port: LTR (cores from 5.00a)", Window::Dbi, dbi::regs::LTR, pci::LTR),
        one("Root port: DPC (cores from 5.00a)", Window::Dbi, dbi::regs::DPC, pci::DPC),
        one("Root port: PTM (cores from 5.00a)", Window::Dbi, dbi::regs::PTM, pci::PTM),
        one(
            "Root port: RAS-DES, VSEC 2 (cores from 5.00a)",
            Window::Dbi,
            dbi::regs::RAS_DES,
            dbi::ras_des::regs::ROWS,
        ),
        one(
            "Root port: PTM, VSEC 4 (cores from 5.00a)",
            Window::Dbi,
            dbi::regs::PTM_VSEC,
            dbi::regs::PTM_VSEC_ROWS,
        ),
        one("GPIO bank", Window::Gpio, 0, gpio::regs::REGS),
        one("Reset controller", Window::Reset, 0, reset::regs::REGS),
        one("PHY (qcom,pcie2-phy)", Window::Phy, 0, phy::regs::REGS),
    ]
}

/// The register reference: docs/registers.md.
pub fn reference() -> String {
    let mut out = String::from(
        "# Registers\n\nGenerated from the tables that the model runs on; a test keeps this file true. *RW*: bits that a \
         guest may write. *W1C*: cleared by writing one. *RO-WR*: writable while DBI_RO_WR_EN is set. *Kept*: what a \
         register survives.\n",
    );
    for t in tables() {
        let at = match t.bases.as_slice() {
            [base] => format!("at {base:#x} of `{:?}`", t.window),
            all => format!("at each of {} offsets of `{:?}`, from {:#x}", all.len(), t.window, all[0]),
        };
        out += &format!("\n## {}\n\n{at}\n\n", t.title);
        out += "| offset | bits | name | reset | RW | W1C | RO-WR | kept | fields | effect | source |\n";
        out += "|---|---|---|---|---|---|---|---|---|---|---|\n";
        for r in t.rows {
            out += &row(r);
        }
    }
    out
}

fn row(r: &Reg) -> String {
    let mask = |m: u32| if m == 0 { "–".to_owned() } else { format!("{m:#x}") };
    let kinds = [
        (ResetKind::Core, "core"),
        (ResetKind::Perst, "PERST#"),
        (ResetKind::HotReset, "hot reset"),
        (ResetKind::LinkDown, "link down"),
        (ResetKind::D3HotToD0, "D3hot"),
    ];
    let kept: Vec<&str> = kinds.iter().filter(|k| r.survives.keeps(k.0)).map(|k| k.1).collect();
    let all = r.sticky & r.width.ones() as u32 == r.width.ones() as u32;
    let kept = match kept.join(", ") {
        none if none.is_empty() => "–".to_owned(),
        kinds if all => kinds,
        kinds => format!("{kinds}: bits {:#x}", r.sticky),
    };
    format!(
        "| {:#x} | {} | {} | {:#x} | {} | {} | {} | {kept} | {} | {} | {} |\n",
        r.off,
        r.width.bytes() * 8,
        r.name,
        r.reset,
        mask(r.rw),
        mask(r.w1c),
        mask(r.ro_wr),
        fields(r),
        r.side_effect.replace('|', "\\|"),
        r.src.replace('|', "\\|")
    )
}

fn fields(r: &Reg) -> String {
    let one = |f: &Field| match (f.high, f.low) {
        (high, low) if high == low => format!("{high} {}", f.name),
        (high, low) => format!("{high}:{low} {}", f.name),
    };
    r.fields.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// Tables of the root port's configuration space with the base they are at; earlier ones win.
const ROOT_PORT: &[(u32, &[Reg])] = &[
    (0, pci::HEADER),
    (0, pci::TYPE1),
    (dbi::regs::EXP, dbi::regs::EXP_OWN),
    (dbi::regs::EXP, pci::EXP_ROOT),
    (dbi::regs::EXP, pci::EXP),
    (dbi::regs::PM, pci::PM),
    (dbi::regs::MSI, pci::MSI),
    (dbi::regs::AER, pci::AER),
    (dbi::regs::AER, pci::AER_ROOT),
    (dbi::regs::SECPCI, dbi::regs::SECPCI_ROWS),
    (dbi::regs::L1SS, pci::L1SS),
    (dbi::regs::PL_16GT, pci::PL_16GT),
    (dbi::regs::LTR, pci::LTR),
    (dbi::regs::DPC, pci::DPC),
    (dbi::regs::PTM, pci::PTM),
    (dbi::regs::RAS_DES, dbi::ras_des::regs::ROWS),
    (dbi::regs::PTM_VSEC, dbi::regs::PTM_VSEC_ROWS),
    (0, msi_ctrl::regs::REGS),
    (0, dbi::regs::PORT_LOGIC_REGS),
];

/// A register where an access found it.
struct Place {
    /// Its name, with that of its region.
    name: String,
    /// Offset of its first byte in the window.
    base: u64,
    reg: Reg,
}

/// The register at `off`, of rows that are relative to `base`.
fn find(rows: &[Reg], base: u64, off: u64) -> Option<Place> {
    let within = off.checked_sub(base)?;
    let hit = |r: &&Reg| u64::from(r.off) <= within && within < u64::from(r.off) + r.width.bytes();
    let reg = *rows.iter().find(hit)?;
    Some(Place { name: reg.name.to_owned(), base: base + u64::from(reg.off), reg })
}

fn region(off: u64) -> Option<Place> {
    let n = off >> 9;
    let direction = if off & 0x100 == 0 { "OB" } else { "IB" };
    let place = find(iatu::regs::REGION, off & !0xff, off)?;
    Some(Place { name: format!("{direction}{n}.{}", place.name), ..place })
}

fn parf_place(off: u64) -> Option<Place> {
    let table = u64::from(parf::regs::BDF_TO_SID_TABLE)..u64::from(parf::regs::BDF_TO_SID_TABLE_END);
    if table.contains(&off) {
        let n = (off - table.start) / 4;
        return Some(Place {
            name: format!("PARF_BDF_TO_SID_TABLE[{n}]"),
            base: table.start + n * 4,
            reg: Reg::ro("PARF_BDF_TO_SID_TABLE", 0, 0, "spec §2.2.1").fields(BDF_TO_SID),
        });
    }
    find(parf::regs::REGS, 0, off)
}

/// An entry of PARF_BDF_TO_SID_TABLE (spec §2.2.1).
const BDF_TO_SID: &[Field] =
    &[Field::bits("BDF", 31, 16), Field::bits("SID", 15, 8), Field::bits("NEXT", 7, 0)];

/// Headers of the root port's capabilities; from 0x100 on they are extended ones.
const CAPABILITIES: &[(u32, &str)] = &[
    (dbi::regs::EXP, "EXP_HEADER"),
    (dbi::regs::PM, "PM_HEADER"),
    (dbi::regs::MSI, "MSI_HEADER"),
    (dbi::regs::AER, "AER_HEADER"),
    (dbi::regs::SECPCI, "SECPCI_HEADER"),
    (dbi::regs::L1SS, "L1SS_HEADER"),
    (dbi::regs::PL_16GT, "PL_16GT_HEADER"),
    (dbi::regs::LTR, "LTR_HEADER"),
    (dbi::regs::DPC, "DPC_HEADER"),
    (dbi::regs::PTM, "PTM_HEADER"),
    (dbi::regs::RAS_DES, "RAS_DES_EXT_HEADER"),
    (dbi::regs::PTM_VSEC, "PTM_VSEC_EXT_HEADER"),
];

const CAP_HEADER: &[Field] = &[Field::bits("NEXT", 15, 8), Field::bits("ID", 7, 0)];
const EXT_CAP_HEADER: &[Field] =
    &[Field::bits("NEXT", 31, 20), Field::bits("VERSION", 19, 16), Field::bits("ID", 15, 0)];

fn capability(off: u64) -> Option<Place> {
    let len = |base: u32| if base < 0x100 { 2 } else { 4 };
    let hit = |c: &&(u32, &str)| (u64::from(c.0)..u64::from(c.0 + len(c.0))).contains(&off);
    let &(base, name) = CAPABILITIES.iter().find(hit)?;
    let reg = if base < 0x100 {
        Reg::ro(name, base, 0, "PCIe §7.5.3.1").width(Width::B2).fields(CAP_HEADER)
    } else {
        Reg::ro(name, base, 0, "PCIe §7.6.3").fields(EXT_CAP_HEADER)
    };
    Some(Place { name: name.to_owned(), base: base.into(), reg })
}

/// A BAR of a function that has `count` of them.
fn bar(function: u64, off: u64, count: u64) -> Option<Place> {
    let n = off.checked_sub(function + 0x10)? / 4;
    let name = ["BAR0", "BAR1", "BAR2", "BAR3", "BAR4", "BAR5"][..count as usize].get(n as usize)?;
    let reg = Reg::ro(name, 0, 0, "PCIe §7.5.1.2.1");
    Some(Place { name: (*name).to_owned(), base: function + 0x10 + n * 4, reg })
}

fn dbi_place(off: u64) -> Option<Place> {
    if (iatu::regs::VIEWPORT_REGION..iatu::regs::VIEWPORT_END).contains(&off) {
        let place = find(iatu::regs::REGION, iatu::regs::VIEWPORT_REGION, off)?;
        return Some(Place { name: format!("VIEWPORT.{}", place.name), ..place });
    }
    let row = ROOT_PORT.iter().find_map(|(base, rows)| find(rows, u64::from(*base), off));
    row.or_else(|| capability(off)).or_else(|| bar(0, off, 2))
}

fn place(win: Window, off: u64) -> Option<Place> {
    match win {
        Window::Parf => parf_place(off),
        Window::Dbi => dbi_place(off),
        Window::Elbi => find(elbi::regs::REGS, 0, off),
        Window::Atu => region(off),
        Window::Mhi => find(mhi::regs::REGS, 0, off),
        Window::Config => {
            let function = off & !0xfff;
            find(pci::HEADER, function, off)
                .or_else(|| find(pci::TYPE0, function, off))
                .or_else(|| bar(function, off, 6))
        }
        Window::Mem => None,
        Window::Gpio => find(gpio::regs::REGS, 0, off),
        Window::Reset => find(reset::regs::REGS, 0, off),
        Window::Phy => find(phy::regs::REGS, 0, off),
        Window::Apb => find(rockchip::regs::REGS, 0, off),
        Window::Ecam if off < 0x1000 => dbi_place(off),
        Window::Ecam => place(Window::Config, off),
    }
}

/// The name of the register at `off` of `win`, if a table has one. In [`Window::Config`] the target depends on the
/// iATU at the time; the name is that of a function's header.
pub fn register_name(win: Window, off: u64) -> Option<String> {
    place(win, off).map(|p| p.name)
}

/// Windows whose registers have one name each, wherever the iATU points.
const NAMED: [Window; 9] = [
    Window::Parf,
    Window::Dbi,
    Window::Elbi,
    Window::Atu,
    Window::Mhi,
    Window::Apb,
    Window::Gpio,
    Window::Reset,
    Window::Phy,
];
/// Length of the longest of them, bytes (PARF: spec §2.1).
const LONGEST_WINDOW: u64 = 0x3000;

/// Where the register of this name is: window, offset and length in bytes. What several tables call alike is the first of them.
pub fn register_named(name: &str) -> Option<(Window, u64, u64)> {
    let has = |w, off: &u64| register_name(w, *off).as_deref() == Some(name);
    let find = |w| {
        let off = (0..LONGEST_WINDOW).find(|off| has(w, off))?;
        let len = (off..LONGEST_WINDOW).take_while(|off| has(w, off)).count() as u64;
        Some((w, off, len))
    };
    NAMED.into_iter().find_map(find)
}

/// A register, or a part of it, that an access reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Name of the register.
    pub name: String,
    /// What its fields say, as far as the access reached them; may be empty.
    pub fields: String,
}

/// The registers that an access of `width` at `off` of `win` reached, and what `value` says in their fields. Lines of the GPIO
/// bank and resets have names only if the SoC is known.
pub fn decode(soc: Option<&Soc>, win: Window, off: u64, width: Width, value: u64) -> Vec<Part> {
    let end = off.saturating_add(width.bytes());
    let mut parts = Vec::new();
    let mut at = off;
    while at < end {
        let Some(p) = place(win, at) else {
            at += 1;
            continue;
        };
        // Bytes of the value before the register, or of the register before the value: at most seven.
        let lane = (value >> (8 * (at - off))) << (8 * (at - p.base));
        let reached = (width.ones() >> (8 * (at - off))) << (8 * (at - p.base)) & p.reg.width.ones();
        let bits = (lane & reached) as u32;
        let fields = match (win, soc) {
            (Window::Gpio, Some(soc)) => gpio_lines(soc, p.reg.off, bits),
            (Window::Reset, Some(soc)) => resets(soc, bits),
            _ => p.reg.show_in(bits, reached as u32),
        };
        at = p.base + p.reg.width.bytes();
        parts.push(Part { name: p.name, fields });
    }
    parts
}

fn set_names(names: impl Iterator<Item = (u32, String)>, value: u32) -> String {
    names.filter(|n| value >> n.0 & 1 != 0).map(|n| n.1).collect::<Vec<_>>().join(" ")
}

fn gpio_lines(soc: &Soc, reg: u32, value: u32) -> String {
    let clocks = (GPIO_CLK0..).zip(soc.clocks.iter().map(|c| format!("clk:{c}")));
    let supplies = (GPIO_REG0..).zip(soc.supplies.iter().map(|s| format!("supply:{s}")));
    let lines = set_names(clocks.chain(supplies), value);
    let perst = value >> GPIO_PERST & 1;
    match reg {
        // A direction has no level.
        gpio::regs::DIROUT if perst == 0 => lines,
        gpio::regs::DIROUT => format!("PERST# {lines}").trim_end().to_owned(),
        _ => format!("PERST#={} {lines}", ["low", "high"][perst as usize]).trim_end().to_owned(),
    }
}

fn resets(soc: &Soc, value: u32) -> String {
    let phy = [(RESET_PHY, "phy.phy".to_owned()), (RESET_PIPE, "phy.pipe".to_owned())];
    let core = (RESET_CORE..).zip(soc.resets.iter().map(|&r| r.to_owned()));
    set_names(phy.into_iter().chain(core), value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::soc;

    #[test]
    fn a_register_is_found_by_its_name() {
        for (name, at) in [
            ("PARF_LTSSM", Some((Window::Parf, 0x1b0, 4))),
            ("MSI_INTR0_STATUS", Some((Window::Dbi, 0x830, 4))),
            ("COMMAND", Some((Window::Dbi, 0x04, 2))),
            ("IB1.REGION_CTRL2", Some((Window::Atu, 0x304, 4))),
            ("NO_SUCH", None),
        ] {
            assert_eq!(register_named(name), at, "{name}");
        }
    }

    #[test]
    fn names_come_from_every_window() {
        let name = |w, off| register_name(w, off).unwrap_or_default();
        assert_eq!(name(Window::Parf, 0x1b0), "PARF_LTSSM");
        assert_eq!(name(Window::Parf, 0x2004), "PARF_BDF_TO_SID_TABLE[1]");
        assert_eq!(name(Window::Dbi, 0x04), "COMMAND");
        assert_eq!(name(Window::Dbi, 0x82), "EXP_LNKSTA");
        assert_eq!(name(Window::Dbi, 0x838), "MSI_INTR1_MASK");
        assert_eq!(name(Window::Dbi, 0x8bd), "MISC_CONTROL_1_OFF", "any byte of it");
        assert_eq!(name(Window::Dbi, 0x908), "VIEWPORT.REGION_CTRL2");
        assert_eq!(name(Window::Atu, 0x304), "IB1.REGION_CTRL2");
        assert_eq!(name(Window::Config, 0x5006), "STATUS");
        assert_eq!(name(Window::Phy, 0x44), "RESET_CTRL");
        assert_eq!(register_name(Window::Mem, 0), None);
        assert_eq!(register_name(Window::Atu, 0x1c), None);
    }

    fn show(win: Window, off: u64, width: Width, value: u64) -> String {
        let parts = decode(soc::find("sm8250"), win, off, width, value);
        parts.iter().map(|p| format!("{} {{{}}}", p.name, p.fields)).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn an_access_is_decoded_by_the_registers_it_reaches() {
        assert_eq!(show(Window::Parf, 0x1b0, Width::B4, 0x111), "PARF_LTSSM {LTSSM_EN STATE=L0}");
        let status = "COMMAND {MASTER MEMORY} STATUS {CAP_LIST}";
        assert_eq!(show(Window::Dbi, 0x04, Width::B4, 0x0010_0006), status);
        assert_eq!(show(Window::Dbi, 0x06, Width::B2, 0x10), "STATUS {CAP_LIST}");
        assert_eq!(
            show(Window::Parf, 0x1b1, Width::B1, 1),
            "PARF_LTSSM {LTSSM_EN}",
            "the state was not reached"
        );
        assert_eq!(show(Window::Atu, 0x04, Width::B4, 1 << 31), "OB0.REGION_CTRL2 {EN}");
        assert_eq!(show(Window::Gpio, 0x4, Width::B4, 0x1_0002), "SET {PERST#=low clk:aux supply:vdda}");
        assert_eq!(show(Window::Dbi, 0x70, Width::B2, 0x4010), "EXP_HEADER {NEXT=0x40 ID=0x10}");
        assert_eq!(
            show(Window::Dbi, 0x148, Width::B4, 0x1681_0019),
            "SECPCI_HEADER {NEXT=0x168 VERSION=0x1 ID=0x19}"
        );
        assert_eq!(show(Window::Dbi, 0x14, Width::B8, 4), "BAR1 {} BUS_NUMBERS {}");
        assert_eq!(show(Window::Config, 0x1024, Width::B4, 4), "BAR5 {}");
        assert_eq!(show(Window::Reset, 0x0, Width::B4, 0x6), "RESETS {phy.pipe pci}");
        assert_eq!(show(Window::Mem, 0x0, Width::B8, 1), "");
        assert_eq!(show(Window::Config, u64::MAX - 3, Width::B8, 1), "", "the end of the number range");
    }

    #[test]
    fn fields_lie_in_their_register_and_do_not_overlap() {
        let listed = tables().into_iter().map(|t| t.rows);
        for r in listed.chain(ROOT_PORT.iter().map(|t| t.1)).chain([pci::TYPE0, pci::MSIX]).flatten() {
            let mut seen = 0;
            for f in r.fields {
                assert!(f.low <= f.high && f.high < 32, "{}.{}", r.name, f.name);
                let mask = f.mask();
                assert_eq!(u64::from(mask) & !r.width.ones(), 0, "{}.{}: inside", r.name, f.name);
                assert_eq!(mask & seen, 0, "{}.{}: apart", r.name, f.name);
                assert!(f.values.iter().all(|v| v.0 <= mask >> f.low), "{}.{}: values fit", r.name, f.name);
                seen |= mask;
            }
        }
    }
}
