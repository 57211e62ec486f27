//! Names of registers by window and offset, and the register reference, from the same tables that drive them.

use block::Reg;
use block::ResetKind;
use pcie::config::regs as pci;

use crate::dbi;
use crate::elbi;
use crate::gpio;
use crate::iatu;
use crate::mhi;
use crate::parf;
use crate::phy;
use crate::reset;
use crate::soc::Window;
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
        out += "| offset | bits | name | reset | RW | W1C | RO-WR | kept | effect | source |\n";
        out += "|---|---|---|---|---|---|---|---|---|---|\n";
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
    let kept = if kept.is_empty() { "–".to_owned() } else { kept.join(", ") };
    format!(
        "| {:#x} | {} | {} | {:#x} | {} | {} | {} | {kept} | {} | {} |\n",
        r.off,
        r.width.bytes() * 8,
        r.name,
        r.reset,
        mask(r.rw),
        mask(r.w1c),
        mask(r.ro_wr),
        r.side_effect.replace('|', "\\|"),
        r.src.replace('|', "\\|")
    )
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

fn find(rows: &[Reg], off: u64) -> Option<String> {
    let hit = |r: &&Reg| u64::from(r.off) <= off && off < u64::from(r.off) + r.width.bytes();
    rows.iter().find(hit).map(|r| r.name.to_owned())
}

fn region(off: u64) -> Option<String> {
    let (n, within) = (off >> 9, off & 0xff);
    let direction = if off & 0x100 == 0 { "OB" } else { "IB" };
    find(iatu::regs::REGION, within).map(|name| format!("{direction}{n}.{name}"))
}

fn parf_name(off: u64) -> Option<String> {
    let table = u64::from(parf::regs::BDF_TO_SID_TABLE)..u64::from(parf::regs::BDF_TO_SID_TABLE_END);
    if table.contains(&off) {
        return Some(format!("PARF_BDF_TO_SID_TABLE[{}]", (off - table.start) / 4));
    }
    find(parf::regs::REGS, off)
}

/// The name of the register at `off` of `win`, if a table has one. In [`Window::Config`] the target depends on the
/// iATU at the time; the name is that of a function's header.
pub fn register_name(win: Window, off: u64) -> Option<String> {
    match win {
        Window::Parf => parf_name(off),
        Window::Dbi => {
            ROOT_PORT.iter().find_map(|(base, rows)| find(rows, off.checked_sub(u64::from(*base))?))
        }
        Window::Elbi => find(elbi::regs::REGS, off),
        Window::Atu => region(off),
        Window::Mhi => find(mhi::regs::REGS, off),
        Window::Config => find(pci::HEADER, off & 0xfff).or_else(|| find(pci::TYPE0, off & 0xfff)),
        Window::Mem => None,
        Window::Gpio => find(gpio::regs::REGS, off),
        Window::Reset => find(reset::regs::REGS, off),
        Window::Phy => find(phy::regs::REGS, off),
        Window::Apb => find(rockchip::regs::REGS, off),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_every_window() {
        let name = |w, off| register_name(w, off).unwrap_or_default();
        assert_eq!(name(Window::Parf, 0x1b0), "PARF_LTSSM");
        assert_eq!(name(Window::Parf, 0x2004), "PARF_BDF_TO_SID_TABLE[1]");
        assert_eq!(name(Window::Dbi, 0x04), "COMMAND");
        assert_eq!(name(Window::Dbi, 0x82), "EXP_LNKSTA");
        assert_eq!(name(Window::Dbi, 0x838), "MSI_INTR1_MASK");
        assert_eq!(name(Window::Dbi, 0x8bd), "MISC_CONTROL_1_OFF", "any byte of it");
        assert_eq!(name(Window::Atu, 0x304), "IB1.REGION_CTRL2");
        assert_eq!(name(Window::Config, 0x5006), "STATUS");
        assert_eq!(name(Window::Phy, 0x44), "RESET_CTRL");
        assert_eq!(register_name(Window::Mem, 0), None);
        assert_eq!(register_name(Window::Atu, 0x1c), None);
    }
}
