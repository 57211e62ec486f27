//! Vendor wrappers: what surrounds the DesignWare core, as data. Each has a folder or file here with its table; those with
//! registers of their own have the block beside it ([`rockchip`]; of Qualcomm's: [`crate::parf`], [`crate::elbi`],
//! [`crate::mhi`]).

pub mod qcom;
pub mod rockchip;
pub mod snps;

use crate::soc;
use crate::soc::Window;

/// Whose registers enable the link, show its state and combine its interrupts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Qualcomm: PARF and ELBI.
    Qcom,
    /// Rockchip: client registers.
    Rockchip,
    /// Qualcomm, but firmware's: it powers the controller, trains the link and programs the iATU; the OS sees ECAM (spec §1.5).
    QcomFirmware,
    /// None: the core alone, as Synopsys' platform driver expects it.
    Snps,
    /// None, and firmware's: it trains the link and programs the iATU to ECAM; the OS' driver knows ECAM alone.
    SnpsEcam,
}

/// PERST# in the device tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Perst {
    /// Property that names its GPIO.
    pub property: &'static str,
    /// Whether the driver's 1 is the low level.
    pub active_low: bool,
}

/// A wrapper: its driver, its place in the machine, its device tree binding.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrapper {
    /// Which.
    pub kind: Kind,
    /// Name of Linux' platform driver.
    pub driver: &'static str,
    /// Its module's file, without suffix.
    pub module: &'static str,
    /// Base address and length in bytes of each window, in ascending order.
    pub map: &'static [(Window, u64, u64)],
    /// `reg` by `reg-names`, in order: from the first window to the end of the last. The first entry names the device. An empty
    /// name: the binding has none.
    pub reg: &'static [(&'static str, Window, Window)],
    /// Interrupt outputs by name; those but INTA–INTD are the node's `interrupts`, in this order.
    pub lines: &'static [(u32, &'static str)],
    /// Vectors that the driver asks of each line of iMSI-RX.
    pub vectors_per_line: u32,
    /// PERST#, if software has it.
    pub perst: Option<Perst>,
    /// `phy-names`, if it has a PHY.
    pub phy: Option<&'static str>,
    /// Name of the child node that is the interrupt controller of INTx; none: INTA–INTD are lines of their own.
    pub intx_node: Option<&'static str>,
}

impl Wrapper {
    /// Whether firmware has set the core up, and the OS sees nothing of it but configuration space.
    pub fn is_firmware(&self) -> bool {
        matches!(self.kind, Kind::QcomFirmware | Kind::SnpsEcam)
    }

    /// Whether iMSI-RX has an interrupt line. Without one MSIs need an ITS.
    pub fn takes_msis(&self) -> bool {
        self.lines.iter().any(|l| l.0 < soc::IRQ_INTA)
    }

    /// Where a window lies: (base, length in bytes); (0, 0) if it is not there.
    pub fn window(&self, w: Window) -> (u64, u64) {
        self.map.iter().find(|m| m.0 == w).map_or((0, 0), |m| (m.1, m.2))
    }

    /// Whether a window is there.
    pub fn has(&self, w: Window) -> bool {
        self.map.iter().any(|m| m.0 == w)
    }

    /// Where the windows from `first` to `last` lie: (base, length in bytes).
    pub fn span(&self, first: Window, last: Window) -> (u64, u64) {
        let (base, end) = (self.window(first).0, self.window(last));
        (base, end.0 + end.1 - base)
    }

    /// Buses that the configuration windows have room for, 1 MiB each; a window for one function at a time serves all.
    pub fn buses(&self) -> u32 {
        let len = self.window(Window::Config).1.max(self.window(Window::Ecam).1);
        match (len >> 20) as u32 {
            0 | 1 => 256,
            n => n,
        }
    }

    /// The name that Linux gives the platform device.
    pub fn device(&self) -> String {
        let base = self.reg.first().map_or(0, |r| self.window(r.1).0);
        format!("{base:x}.pcie")
    }
}
