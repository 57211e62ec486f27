//! Registers of the root port's configuration space that differ from a plain port's, and port logic. No behaviour.

use block::Reg;
use block::Width::B2;

/// Bytes of the window; ELBI follows in the same page (spec §1.2).
pub const LEN_BYTES: u32 = 0xf20;
/// Where port logic begins.
pub const PORT_LOGIC: u32 = 0x700;

/// Vendor ID: Qualcomm.
pub const VENDOR: u16 = 0x17cb;
/// Device ID. INFERRED: sm8250's root ports report 0x010b; what matters is that no quirk of Linux knows it
/// (spec §2.8), so the class must really become 0x0604 by the driver's DBI write.
pub const DEVICE: u16 = 0x010b;
/// Class code out of reset. INFERRED: not a bridge, or the driver would not have to correct it.
pub const RESET_CLASS: u32 = 0xff_0000;

/// PCI Express capability: the first, so that Linux' walk before each config access is short (spec §2.5).
pub const EXP: u32 = 0x70;
/// Power management capability.
pub const PM: u32 = 0x40;
/// MSI capability.
pub const MSI: u32 = 0x50;
/// AER extended capability.
pub const AER: u32 = 0x100;
/// Secondary PCI Express extended capability.
pub const SECPCI: u32 = 0x148;
/// L1 PM substates extended capability.
pub const L1SS: u32 = 0x168;

/// Extended capability ID of Secondary PCI Express.
pub const EXT_SECPCI: u16 = 0x0019;

/// PCI Express capability, rows whose values are this port's own. Offsets in the capability.
pub const EXP_OWN: &[Reg] = &[
    Reg::ro("EXP_FLAGS", 0x02, 0x0142, "spec §2.8: root port, slot, version 2").width(B2).ro_wr(0xffff),
    Reg::ro(
        "EXP_LNKCAP",
        0x0c,
        0x0071_2c13,
        "spec §2.8; PCIe §7.5.3.6: 8 GT/s, x1, L0s and L1, DLLLARC, LBNC, ASPM optionality; INFERRED latencies",
    )
    .ro_wr(u32::MAX),
    Reg::ro("EXP_SLTCAP", 0x14, 0x0000_0061, "spec §2.8: ABP, HPS, HPC as synthesised (INFERRED)")
        .ro_wr(u32::MAX),
];

/// Secondary PCI Express, from +4.
pub const SECPCI_ROWS: &[Reg] = &[
    Reg::rw("SECPCI_LNKCTL3", 0x04, 0, 0x3, "PCIe §7.7.3.2"),
    Reg::ro("SECPCI_LANE_ERROR", 0x08, 0, "PCIe §7.7.3.3").w1c(0x1),
    Reg::ro("SECPCI_LANE_EQ", 0x0c, 0x7f7f, "PCIe §7.7.3.4; spec §2.8: presets from the device tree")
        .ro_wr(0x7f7f),
];

/// Link control: lane mode, DLL enable.
pub const PORT_LINK_CONTROL: u32 = 0x710;
/// LTSSM state.
pub const DEBUG0: u32 = 0x728;
/// Link up, in training.
pub const DEBUG1: u32 = 0x72c;
/// Width, speed change.
pub const LINK_WIDTH_SPEED_CONTROL: u32 = 0x80c;
/// DBI_RO_WR_EN.
pub const MISC_CONTROL_1: u32 = 0x8bc;

/// IP version, ASCII; 0 before 4.70a.
pub const VERSION_NUMBER: u32 = 0x8f8;
/// IP type, ASCII.
pub const VERSION_TYPE: u32 = 0x8fc;
/// iATU: all ones where it is unrolled, else the selector of a region.
pub const ATU_VIEWPORT: u32 = 0x900;

/// DEBUG1: link up.
pub const DEBUG1_LINK_UP: u32 = 1 << 4;
/// DEBUG1: in training.
pub const DEBUG1_IN_TRAINING: u32 = 1 << 29;
/// LINK_WIDTH_SPEED_CONTROL: directed speed change.
pub const SPEED_CHANGE: u32 = 1 << 17;
/// MISC_CONTROL_1: read-only registers may be written.
pub const DBI_RO_WR_EN: u32 = 1 << 0;

const SRC: &str = "spec §2.4; Linux v6.12 pcie-designware.h";

/// Port logic with a name; the rest is storage (spec §6.c). The MSI controller's registers lie between, in
/// crate `msi-ctrl`. Reset values are INFERRED.
pub const PORT_LOGIC_REGS: &[Reg] = &[
    Reg::rw("PORT_FORCE", 0x708, 0, !0, SRC),
    Reg::rw("PORT_AFR", 0x70c, 0, !0, SRC),
    Reg::rw("PORT_LINK_CONTROL", PORT_LINK_CONTROL, 0x0001_0120, !0, SRC),
    Reg::rw("PORT_LANE_SKEW", 0x714, 0, !0, SRC),
    Reg::rw("PORT_TIMER", 0x718, 0, !0, SRC),
    Reg::ro("PORT_DEBUG0", DEBUG0, 0, SRC).effect("5:0 mirror the LTSSM state"),
    Reg::ro("PORT_DEBUG1", DEBUG1, 0, SRC).effect("4 link up, 29 in training"),
    Reg::rw("LINK_WIDTH_SPEED_CONTROL", LINK_WIDTH_SPEED_CONTROL, 0x0000_0100, !0, SRC)
        .effect("17 asks for a speed change and clears itself once the link has done it"),
    Reg::rw("AXI_MSTR_RESP_COMP_CTRL0", 0x818, 0, !0, SRC),
    Reg::rw("AXI_MSTR_RESP_COMP_CTRL1", 0x81c, 0, !0, SRC),
    Reg::rw("GEN3_RELATED_OFF", 0x890, 0x1, !0, SRC),
    Reg::rw("GEN3_EQ_CONTROL_OFF", 0x8a8, 0, !0, SRC),
    Reg::rw("GEN3_EQ_FB_MODE_DIR_CHANGE_OFF", 0x8ac, 0, !0, SRC),
    Reg::rw("MISC_CONTROL_1_OFF", MISC_CONTROL_1, 0, !0, SRC)
        .effect("0 (DBI_RO_WR_EN) opens read-only registers"),
    Reg::rw("PORT_MULTI_LANE_CTRL", 0x8c0, 0, !0, SRC),
    Reg::rw("AMBA_ERROR_RESPONSE_DEFAULT", 0x8d0, 0, !0, SRC),
    Reg::ro(
        "PCIE_VERSION_NUMBER",
        VERSION_NUMBER,
        0x3534_302a,
        "spec §2.4; per SoC. INFERRED 5.40a: UPPER_LIMIT exists, no TD override, no legacy eDMA probe",
    ),
    Reg::ro("PCIE_VERSION_TYPE", VERSION_TYPE, 0x6761_2a2a, "spec §2.4; INFERRED \"ga**\""),
    Reg::ro(
        "PCIE_ATU_VIEWPORT",
        ATU_VIEWPORT,
        u32::MAX,
        "spec §2.5: all ones tells Linux that the iATU is unrolled",
    ),
    Reg::ro("PCIE_DMA_CTRL", 0x978, u32::MAX, "spec §2.4: no legacy eDMA"),
    Reg::rw("PCIE_PL_CHK_REG_CONTROL_STATUS", 0xb20, 0, !0, SRC),
    Reg::rw("GEN4_LANE_MARGINING_1_OFF", 0xb80, 0, !0, SRC),
    Reg::rw("GEN4_LANE_MARGINING_2_OFF", 0xb84, 0, !0, SRC),
];
