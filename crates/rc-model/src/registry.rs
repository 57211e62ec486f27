//! Names of registers by window and offset, from the same tables that drive them.

use block::Reg;
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
