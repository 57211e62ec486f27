//! Registers of the root port's configuration space that differ from a plain port's, and port logic. No behaviour.

use block::regs::Survives;
use block::Field;
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
/// Class of a PCI bridge, which the driver writes.
pub const BRIDGE_CLASS: u32 = 0x06_0400;

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
/// Physical layer 16 GT/s extended capability. INFERRED, as are all offsets from here on.
pub const PL_16GT: u32 = 0x178;
/// Latency tolerance reporting extended capability.
pub const LTR: u32 = 0x1a0;
/// Downstream port containment extended capability. Not the first of the list, so that Linux 7.3 can unlink it (spec §2.8).
pub const DPC: u32 = 0x1a8;
/// Precision time measurement extended capability.
pub const PTM: u32 = 0x1b8;
/// RAS data path protection, error injection and statistics: a vendor-specific extended capability.
pub const RAS_DES: u32 = 0x1c8;
/// PTM responder's registers: a vendor-specific extended capability.
pub const PTM_VSEC: u32 = 0x2c8;

/// Cores from this version on have [`LTR`], [`DPC`], [`PTM`] and the vendor-specific capabilities. INFERRED: RAS-DES came
/// with the 5.x cores; the older ones of our SoCs do not even tell their version.
pub const VERSION_5_00A: u32 = 0x3530_302a;
/// Cores from this version on have [`PL_16GT`] (INFERRED).
pub const VERSION_5_40A: u32 = 0x3534_302a;
/// Ports of cores from this version on do 16 GT/s (INFERRED: sc8280xp and x1e80100 do).
pub const VERSION_5_60A: u32 = 0x3536_302a;

const LNKCAP_SRC: &str =
    "spec §2.8; PCIe §7.5.3.6: 8 GT/s (per SoC 16), x1, L0s and L1, DLLLARC, LBNC, ASPM \
     optionality; INFERRED surprise down reporting, latencies";

/// PCI Express capability, rows whose values are this port's own. Offsets in the capability.
pub const EXP_OWN: &[Reg] = &[
    Reg::ro("EXP_FLAGS", 0x02, 0x0142, "spec §2.8: root port, slot, version 2")
        .fields(pcie::config::fields::EXP_FLAGS)
        .width(B2)
        .ro_wr(0xffff),
    Reg::ro("EXP_LNKCAP", 0x0c, 0x0079_2c13, LNKCAP_SRC).fields(pcie::config::fields::LNKCAP).ro_wr(u32::MAX),
    Reg::ro("EXP_SLTCAP", 0x14, 0x0000_0061, "spec §2.8: ABP, HPS, HPC as synthesised (INFERRED)")
        .fields(pcie::config::fields::SLTCAP)
        .ro_wr(u32::MAX),
];

/// PCI Express capability of a 16 GT/s port: what differs from [`EXP_OWN`] and its neighbours.
pub const EXP_16GT: &[Reg] = &[
    Reg::ro("EXP_LNKCAP", 0x0c, 0x0079_2c14, "PCIe §7.5.3.6: 16 GT/s; the rest as at 8 GT/s")
        .fields(pcie::config::fields::LNKCAP)
        .ro_wr(u32::MAX),
    Reg::ro("EXP_LNKCAP2", 0x2c, 0x0000_001e, "PCIe §7.5.3.18; 2.5, 5, 8 and 16 GT/s").ro_wr(u32::MAX),
    Reg::rw("EXP_LNKCTL2", 0x30, 0x0004, 0xffff, "PCIe §7.5.3.19")
        .fields(pcie::config::fields::LNKCTL2)
        .width(B2)
        .survives(Survives::STICKY),
];

/// Secondary PCI Express, from +4.
pub const SECPCI_ROWS: &[Reg] = &[
    Reg::rw("SECPCI_LNKCTL3", 0x04, 0, 0x3, "PCIe §7.7.3.2"),
    Reg::ro("SECPCI_LANE_ERROR", 0x08, 0, "PCIe §7.7.3.3").w1c(0x1),
    Reg::ro("SECPCI_LANE_EQ", 0x0c, 0x7f7f, "PCIe §7.7.3.4; spec §2.8: presets from the device tree")
        .ro_wr(0x7f7f),
];

const PTM_SRC: &str = "spec §2.8; Linux 7.3 pcie-designware.h PTM_*";

/// PTM vendor-specific capability of a root complex (VSEC ID 4, revision 1), from +4.
pub const PTM_VSEC_ROWS: &[Reg] = &[
    Reg::ro("PTM_VSEC_HEADER", 0x04, 0x0401_0004, "spec §2.8: ID 4, revision 1; INFERRED length 0x40"),
    Reg::rw("PTM_RES_REQ_CTRL", 0x08, 0, 0x1, PTM_SRC)
        .fields(&[Field::bit("START", 1), Field::bit("CONTEXT_VALID", 0)])
        .effect("bit 0: context valid; 1 starts an update and reads 0"),
    Reg::ro("PTM_LOCAL_LSB", PTM_LOCAL_LSB, 0, PTM_SRC).effect("the local clock, ns; it always runs"),
    Reg::ro("PTM_LOCAL_MSB", PTM_LOCAL_MSB, 0, PTM_SRC).effect("the local clock, ns; it always runs"),
    Reg::ro("PTM_T1_T2_LSB", 0x18, 0, PTM_SRC),
    Reg::ro("PTM_T1_T2_MSB", 0x1c, 0, PTM_SRC),
    Reg::ro("PTM_T3_T4_LSB", 0x28, 0, PTM_SRC),
    Reg::ro("PTM_T3_T4_MSB", 0x2c, 0, PTM_SRC),
    Reg::ro("PTM_MASTER_LSB", 0x38, 0, PTM_SRC),
    Reg::ro("PTM_MASTER_MSB", 0x3c, 0, PTM_SRC),
];
/// Local clock, low half, in the PTM capability.
pub const PTM_LOCAL_LSB: u32 = 0x10;
/// Local clock, high half.
pub const PTM_LOCAL_MSB: u32 = 0x14;

/// Link control: lane mode, DLL enable.
pub const PORT_LINK_CONTROL: u32 = 0x710;
/// LTSSM state.
pub const DEBUG0: u32 = 0x728;
/// Link up, in training.
pub const DEBUG1: u32 = 0x72c;
/// Width, speed change.
pub const LINK_WIDTH_SPEED_CONTROL: u32 = 0x80c;
/// Selects the rate whose equalisation registers are visible.
pub const GEN3_RELATED: u32 = 0x890;
/// Equalisation control, one a rate.
pub const GEN3_EQ_CONTROL: u32 = 0x8a8;
/// Equalisation feedback, one a rate.
pub const GEN3_EQ_FB_MODE_DIR_CHANGE: u32 = 0x8ac;
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
/// GEN3_RELATED: where the rate selector begins, two bits.
pub const RATE_SHADOW_SEL_SHIFT: u32 = 24;
/// AMBA_ERROR_RESPONSE_DEFAULT: what a read that was answered with RRS returns, in bits 4:3.
pub const AMBA_ERROR_RESPONSE: u32 = 0x8d0;
/// MISC_CONTROL_1: read-only registers may be written.
pub const DBI_RO_WR_EN: u32 = 1 << 0;

const SRC: &str = "spec §2.4; Linux v6.12 pcie-designware.h";

/// Port logic with a name; the rest is storage (spec §6.c). The MSI controller's registers lie between, in
/// crate `msi-ctrl`. Reset values are INFERRED.
pub const PORT_LOGIC_REGS: &[Reg] = &[
    Reg::rw("PORT_FORCE", 0x708, 0, !0, SRC),
    Reg::rw("PORT_AFR", 0x70c, 0, !0, SRC).fields(&[Field::bits("N_FTS", 15, 8)]),
    Reg::rw("PORT_LINK_CONTROL", PORT_LINK_CONTROL, 0x0001_0120, !0, SRC).fields(&[
        Field::bits("LANES", 21, 16).values(&[
            (0x1, "x1"),
            (0x3, "x2"),
            (0x7, "x4"),
            (0xf, "x8"),
            (0x1f, "x16"),
        ]),
        Field::bit("FAST_LINK_MODE", 7),
        Field::bit("DLL_LINK_EN", 5),
    ]),
    Reg::rw("PORT_LANE_SKEW", 0x714, 0, !0, SRC),
    Reg::rw("PORT_TIMER", 0x718, 0, !0, SRC),
    Reg::ro("PORT_DEBUG0", DEBUG0, 0, SRC)
        .fields(&[Field::bits("STATE", 5, 0).values(crate::link::ltssm::NAMES)])
        .effect("5:0 mirror the LTSSM state"),
    Reg::ro("PORT_DEBUG1", DEBUG1, 0, SRC)
        .fields(&[Field::bit("IN_TRAINING", 29), Field::bit("LINK_UP", 4)])
        .effect("4 link up, 29 in training"),
    Reg::rw("LINK_WIDTH_SPEED_CONTROL", LINK_WIDTH_SPEED_CONTROL, 0x0000_0100, !0, SRC)
        .fields(&[
            Field::bit("SPEED_CHANGE", 17),
            Field::bits("NUM_LANES", 12, 8),
            Field::bits("N_FTS", 7, 0),
        ])
        .effect("17 asks for a speed change and clears itself once the link has done it"),
    Reg::rw("AXI_MSTR_RESP_COMP_CTRL0", 0x818, 0, !0, SRC),
    Reg::rw("AXI_MSTR_RESP_COMP_CTRL1", 0x81c, 0, !0, SRC),
    Reg::rw("GEN3_RELATED_OFF", GEN3_RELATED, 0x1, !0, SRC)
        .fields(&[
            Field::bits("RATE_SHADOW_SEL", 25, 24),
            Field::bit("EQUALIZATION_DISABLE", 16),
            Field::bit("RXEQ_RGRDLESS_RXTS", 13),
            Field::bit("ZRXDC_NONCOMPL", 0),
        ])
        .effect("25:24 select the rate whose EQ_CONTROL and FB_MODE_DIR_CHANGE are visible"),
    Reg::rw("GEN3_EQ_CONTROL_OFF", GEN3_EQ_CONTROL, 0, !0, SRC)
        .fields(&[
            Field::bit("FOM_INC_INITIAL_EVAL", 24),
            Field::bits("PRESET_REQ_VEC", 23, 8),
            Field::bit("PHASE23_EXIT_MODE", 4),
            Field::bits("FB_MODE", 3, 0),
        ])
        .effect("one register a rate"),
    Reg::rw("GEN3_EQ_FB_MODE_DIR_CHANGE_OFF", GEN3_EQ_FB_MODE_DIR_CHANGE, 0, !0, SRC)
        .fields(&[
            Field::bits("MAX_POST_CUSROR_DELTA", 17, 14),
            Field::bits("MAX_PRE_CUSROR_DELTA", 13, 10),
            Field::bits("N_EVALS", 9, 5),
            Field::bits("T_MIN_PHASE23", 4, 0),
        ])
        .effect("one register a rate"),
    Reg::rw("MISC_CONTROL_1_OFF", MISC_CONTROL_1, 0, !0, SRC)
        .fields(&[Field::bit("DBI_RO_WR_EN", 0)])
        .effect("0 (DBI_RO_WR_EN) opens read-only registers"),
    Reg::rw("PORT_MULTI_LANE_CTRL", 0x8c0, 0, !0, SRC),
    Reg::rw("AMBA_ERROR_RESPONSE_DEFAULT", AMBA_ERROR_RESPONSE, 0, !0, SRC)
        .fields(&[Field::bits("RRS_RESPONSE", 4, 3).values(&[(0, "OKAY"), (1, "ONES"), (2, "RRS_VALUE")])])
        .effect("4:3 = 1: a read answered with RRS returns all ones, whatever RTCTL says"),
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
    Reg::rw("GEN4_LANE_MARGINING_1_OFF", 0xb80, 0, !0, SRC).fields(&[
        Field::bits("MAX_VOLTAGE_OFFSET", 29, 24),
        Field::bits("NUM_VOLTAGE_STEPS", 22, 16),
        Field::bits("MAX_TIMING_OFFSET", 13, 8),
        Field::bits("NUM_TIMING_STEPS", 5, 0),
    ]),
    Reg::rw("GEN4_LANE_MARGINING_2_OFF", 0xb84, 0, !0, SRC).fields(&[
        Field::bit("IND_ERROR_SAMPLER", 28),
        Field::bit("SAMPLE_REPORTING_METHOD", 27),
        Field::bit("IND_LEFT_RIGHT_TIMING", 26),
        Field::bit("VOLTAGE_SUPPORTED", 25),
        Field::bit("IND_UP_DOWN_VOLTAGE", 24),
        Field::bits("MAXLANES", 20, 16),
        Field::bits("SAMPLE_RATE_TIMING", 13, 8),
        Field::bits("SAMPLE_RATE_VOLTAGE", 5, 0),
    ]),
];
