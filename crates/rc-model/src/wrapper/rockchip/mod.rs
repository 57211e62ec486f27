//! Rockchip's wrapper of rk3568: client registers (`apb`), with an interrupt controller for INTx.
//!
//! *Modelled*: link training enable, state mirror, INTx status and mask with the `legacy` line, latched link events with their
//! mask and the `sys` line; everything else as storage.
//! *Not modelled*: endpoint mode, the lines `pmc`, `msg` and `err`, the history in the debug FIFO, delayed link training, DBI2
//! (writes to it are ignored: the port has no BARs).
//! *Sources*: Linux v6.1, v6.12 and v7.3 pcie-dw-rockchip.c; Documentation/devicetree/bindings/pci/rockchip-dw-pcie.yaml.

pub mod regs;

use block::RegFile;
use block::ResetKind;
use block::StateError;
use block::Width;
use block::Words;

use super::Kind;
use super::Perst;
use super::Wrapper;
use crate::soc;
use crate::soc::Soc;
use crate::soc::Window;

/// The wrapper. DBI is 4 MiB as on rk3568: DBI2 at 1 MiB, the iATU at 3 MiB (Linux DEFAULT_DBI_ATU_OFFSET).
pub const WRAPPER: Wrapper = Wrapper {
    kind: Kind::Rockchip,
    driver: "rockchip-dw-pcie",
    module: "pcie-dw-rockchip",
    map: &[
        (Window::Phy, 0x1c0_6000, 0x1000),
        (Window::Gpio, 0x1c0_8000, 0x1000),
        (Window::Reset, 0x1c0_9000, 0x1000),
        (Window::Apb, 0x1d0_0000, 0x1_0000),
        (Window::Dbi, 0x6000_0000, 0x30_0000),
        (Window::Atu, 0x6030_0000, 0x10_0000),
        (Window::Config, 0x6040_0000, 0x10_0000),
        (Window::Mem, 0x6050_0000, 0x100_0000),
    ],
    reg: &[
        ("dbi", Window::Dbi, Window::Atu),
        ("apb", Window::Apb, Window::Apb),
        ("config", Window::Config, Window::Config),
    ],
    lines: &[
        (soc::IRQ_SYS, "sys"),
        (soc::IRQ_PMC, "pmc"),
        (soc::IRQ_MSG, "msg"),
        (soc::IRQ_LEGACY, "legacy"),
        (soc::IRQ_ERR, "err"),
        (soc::IRQ_MSI0, "msi"),
    ],
    vectors_per_line: 32,
    perst: Some(Perst { property: "reset-gpios", active_low: false }),
    phy: Some("pcie-phy"),
    intx_node: Some("legacy-interrupt-controller"),
};

/// rk3568. Which clock the client registers need, and the version of the core, are INFERRED.
pub const RK3568: Soc = Soc {
    name: "rk3568",
    compatible: "rockchip,rk3568-pcie",
    ops: "–",
    since: (6, 1),
    clocks: &["aclk_mst", "aclk_slv", "aclk_dbi", "pclk", "aux"],
    ahb_clock: Some(3),
    resets: &["pipe"],
    supplies: &["vpcie3v3"],
    msi_lines: 1,
    wrapper: &WRAPPER,
    ..soc::SM8250
};

/// The client registers.
#[derive(Clone, Debug)]
pub struct Client {
    regs: RegFile,
}

impl Default for Client {
    fn default() -> Self {
        Client { regs: RegFile::new(regs::LEN_BYTES, regs::REGS) }
    }
}

/// What the client registers show of the rest.
#[derive(Clone, Copy, Debug)]
pub struct View {
    /// LTSSM state number.
    pub ltssm: u8,
    /// Data link layer active.
    pub up: bool,
    /// INTx pins, bit 0 = INTA.
    pub intx: u8,
}

impl Client {
    /// A guest read of at most 32 bits.
    pub fn read(&self, view: View, off: u64, w: Width) -> u64 {
        let live = match off & !3 {
            o if o == u64::from(regs::INTR_STATUS_LEGACY) => u32::from(view.intx),
            o if o == u64::from(regs::LTSSM_STATUS) => {
                u32::from(view.ltssm) | if view.up { regs::LINK_UP } else { 0 }
            }
            o if o == u64::from(regs::DBG_FIFO_STATUS) => u32::from(view.ltssm),
            _ => return self.regs.read(off, w),
        };
        (u64::from(live) >> ((off & 3) * 8)) & w.ones()
    }

    /// A guest write of at most 32 bits. A lane that is not written counts as 0, so it opens no bits.
    pub fn write(&mut self, off: u64, w: Width, v: u64) {
        let at = off & !3;
        let bits = ((v & w.ones()) << ((off & 3) * 8)) as u32;
        match regs::REGS.iter().find(|r| u64::from(r.off) == at) {
            Some(r) if r.rw != 0 => self.regs.update(r.off, bits >> 16 & r.rw, bits),
            _ => self.regs.write(off, w, v, false),
        }
    }

    /// Whether link training is enabled.
    pub fn ltssm_en(&self) -> bool {
        self.regs.word(regs::GENERAL_CON) & regs::LTSSM_EN != 0
    }

    /// INTx that are masked, bit 0 = INTA.
    pub fn intx_mask(&self) -> u8 {
        (self.regs.word(regs::INTR_MASK_LEGACY) & 0xf) as u8
    }

    /// INTR_MASK_MISC.
    pub fn misc_mask(&self) -> u32 {
        self.regs.word(regs::INTR_MASK_MISC)
    }

    /// INTR_STATUS_MISC.
    pub fn misc_status(&self) -> u32 {
        self.regs.word(regs::INTR_STATUS_MISC)
    }

    /// Level of `legacy` while the pins are `intx`.
    pub fn legacy(&self, intx: u8) -> bool {
        intx & !self.intx_mask() & 0xf != 0
    }

    /// Level of `sys`.
    pub fn sys(&self) -> bool {
        self.misc_status() & !self.misc_mask() != 0
    }

    /// The link came up.
    pub fn link_up(&mut self) {
        self.regs.update(regs::INTR_STATUS_MISC, regs::RDLH_LINK_UP_CHGED, regs::RDLH_LINK_UP_CHGED);
    }

    /// The link went down. INFERRED: the reset that LINK_REQ_RST_NOT asks for is granted at once.
    pub fn link_down(&mut self) {
        let both = regs::RDLH_LINK_UP_CHGED | regs::LINK_REQ_RST_NOT;
        self.regs.update(regs::INTR_STATUS_MISC, both, both);
    }

    /// The block's state.
    pub fn save(&self) -> Words {
        let Client { regs } = self;
        regs.save()
    }

    /// Take a saved state. Nothing changes if it does not fit.
    pub fn restore(&mut self, saved: &Words) -> Result<(), StateError> {
        self.regs.restore("client registers", saved)
    }

    /// A reset of the core. INFERRED: the core's reset clears these registers too.
    pub fn reset(&mut self, kind: ResetKind) {
        self.regs.reset(kind);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: View = View { ltssm: 0, up: false, intx: 0 };

    #[test]
    fn a_write_reaches_only_the_bits_that_its_high_half_opens() {
        let mut c = Client::default();
        c.write(0, Width::B4, 0x000c_000c);
        assert!(c.ltssm_en());
        c.write(0, Width::B4, 0x00f0_0040);
        assert_eq!(c.read(IDLE, 0, Width::B4), 0x4c);
        c.write(0, Width::B4, 0x0000_0000);
        c.write(0, Width::B2, 0x0000);
        assert!(c.ltssm_en(), "no mask, no change");
        c.write(0, Width::B4, 0x000c_0008);
        assert!(!c.ltssm_en());
    }

    #[test]
    fn the_legacy_line_is_status_without_mask() {
        let mut c = Client::default();
        assert!(!c.legacy(0xf), "all masked out of reset");
        c.write(0x1c, Width::B4, 0x0002_0000);
        assert!(c.legacy(0b0010) && !c.legacy(0b1101));
        assert_eq!(
            c.read(View { intx: 0b1101, ..IDLE }, 0x8, Width::B4),
            0b1101,
            "the status is before the mask"
        );
        c.write(0x1c, Width::B4, 0x0002_0002);
        assert!(!c.legacy(0xf));
    }

    #[test]
    fn link_events_latch_until_written_and_raise_sys_only_unmasked() {
        let mut c = Client::default();
        c.link_down();
        assert!(!c.sys());
        c.write(0x24, Width::B4, 0x0004_0000);
        assert!(c.sys());
        c.write(0x10, Width::B4, 0x4);
        assert!(!c.sys());
        assert_eq!(c.misc_status(), regs::RDLH_LINK_UP_CHGED);
        c.reset(ResetKind::Core);
        assert_eq!((c.misc_status(), c.misc_mask()), (0, 0xffff));
    }

    #[test]
    fn the_state_shows_as_linux_tests_it() {
        let c = Client::default();
        let up = View { ltssm: 0x11, up: true, intx: 0 };
        assert_eq!(c.read(up, 0x300, Width::B4), 0x3_0011);
        assert_eq!(c.read(up, 0x302, Width::B2), 0x3);
        assert_eq!(c.read(IDLE, 0x300, Width::B4), 0);
    }
}
