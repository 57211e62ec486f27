//! Register tables of configuration headers and capabilities.
//!
//! Sources: PCI Express Base Specification 5.0 §7.5–§7.8 ("PCIe §…"); spec/dwc-qcom-registers.md §2.8 for what the
//! DesignWare core lets software change under DBI_RO_WR_EN (`ro_wr`).

use block::regs::Survives;
use block::Field;
use block::Reg;
use block::Width::B1;
use block::Width::B2;

use super::fields;

/// COMMAND: I/O space enable.
pub const COMMAND_IO: u16 = 1 << 0;
/// COMMAND: memory space enable.
pub const COMMAND_MEM: u16 = 1 << 1;
/// COMMAND: bus master enable (BME).
pub const COMMAND_BME: u16 = 1 << 2;
/// COMMAND: INTx disable.
pub const COMMAND_INTX_DISABLE: u16 = 1 << 10;
/// COMMAND: errors are reported (SERR#).
pub const COMMAND_SERR: u16 = 1 << 8;
/// STATUS: interrupt status (mirrors the function's INTx state).
pub const STATUS_INTERRUPT: u16 = 1 << 3;
/// BRIDGE_CONTROL: error messages from below are forwarded.
pub const BRIDGE_SERR: u16 = 1 << 1;
/// BRIDGE_CONTROL: secondary bus reset.
pub const BRIDGE_SBR: u16 = 1 << 6;

/// Offsets in the common header.
pub mod hdr {
    /// COMMAND.
    pub const COMMAND: u32 = 0x04;
    /// STATUS.
    pub const STATUS: u32 = 0x06;
    /// Class code and revision.
    pub const CLASS_REVISION: u32 = 0x08;
    /// First BAR.
    pub const BAR0: u32 = 0x10;
    /// Type 1: primary, secondary, subordinate bus.
    pub const PRIMARY_BUS: u32 = 0x18;
    /// Type 1: SECONDARY_STATUS.
    pub const SECONDARY_STATUS: u32 = 0x1e;
    /// Type 1: memory base and limit.
    pub const MEMORY_BASE: u32 = 0x20;
    /// Type 1: prefetchable base and limit.
    pub const PREF_BASE: u32 = 0x24;
    /// Type 1: prefetchable base, upper half.
    pub const PREF_BASE_UPPER: u32 = 0x28;
    /// Type 1: prefetchable limit, upper half.
    pub const PREF_LIMIT_UPPER: u32 = 0x2c;
    /// Capability pointer.
    pub const CAP_PTR: u32 = 0x34;
    /// Type 1: BRIDGE_CONTROL.
    pub const BRIDGE_CONTROL: u32 = 0x3e;
}

/// Rows that both header types share. IDs, class and pin are set by the builder.
pub const HEADER: &[Reg] = &[
    Reg::ro("VENDOR_ID", 0x00, 0, "PCIe §7.5.1.1.1").width(B2).ro_wr(0xffff),
    Reg::ro("DEVICE_ID", 0x02, 0, "PCIe §7.5.1.1.2").width(B2).ro_wr(0xffff),
    Reg::rw("COMMAND", 0x04, 0, 0x0547, "PCIe §7.5.1.1.3")
        .fields(&[
            Field::bit("INTX_DISABLE", 10),
            Field::bit("SERR", 8),
            Field::bit("PARITY", 6),
            Field::bit("MASTER", 2),
            Field::bit("MEMORY", 1),
            Field::bit("IO", 0),
        ])
        .width(B2),
    Reg::ro("STATUS", 0x06, 0x0010, "PCIe §7.5.1.1.4")
        .fields(fields::STATUS)
        .width(B2)
        .w1c(0xf900)
        .effect("bit 3 mirrors the INTx state"),
    Reg::ro("CLASS_REVISION", 0x08, 0, "PCIe §7.5.1.1.5")
        .fields(&[Field::bits("CLASS", 31, 8), Field::bits("REVISION", 7, 0)])
        .ro_wr(0xffff_ffff),
    Reg::rw("CACHE_LINE_SIZE", 0x0c, 0, 0xff, "PCIe §7.5.1.1.7").width(B1),
    Reg::ro("LATENCY_TIMER", 0x0d, 0, "PCIe §7.5.1.1.8").width(B1),
    Reg::ro("HEADER_TYPE", 0x0e, 0, "PCIe §7.5.1.1.9")
        .fields(&[Field::bit("MULTIFUNCTION", 7), Field::bits("LAYOUT", 6, 0)])
        .width(B1)
        .ro_wr(0xff),
    Reg::ro("CAP_PTR", 0x34, 0, "PCIe §7.5.1.1.11").width(B1).ro_wr(0xff),
    Reg::rw("INTERRUPT_LINE", 0x3c, 0, 0xff, "PCIe §7.5.1.1.12").width(B1),
    Reg::ro("INTERRUPT_PIN", 0x3d, 0, "PCIe §7.5.1.1.13; spec §2.8: the driver writes it")
        .width(B1)
        .ro_wr(0xff),
];

/// Rows of a type 0 header.
pub const TYPE0: &[Reg] = &[
    Reg::ro("SUBSYSTEM_VENDOR_ID", 0x2c, 0, "PCIe §7.5.1.2.3").width(B2),
    Reg::ro("SUBSYSTEM_ID", 0x2e, 0, "PCIe §7.5.1.2.3").width(B2),
];

/// Rows of a type 1 header. The port has no BAR: 0x10 and 0x14 read 0 whatever the driver writes (spec §2.8).
pub const TYPE1: &[Reg] = &[
    Reg::rw("BUS_NUMBERS", 0x18, 0, 0x00ff_ffff, "PCIe §7.5.1.3.2")
        .fields(&[
            Field::bits("SUBORDINATE", 23, 16),
            Field::bits("SECONDARY", 15, 8),
            Field::bits("PRIMARY", 7, 0),
        ])
        .effect("bits 7:0 primary, 15:8 secondary, 23:16 subordinate"),
    Reg::rw("IO_BASE_LIMIT", 0x1c, 0, 0xf0f0, "PCIe §7.5.1.3.6").width(B2),
    Reg::ro("SECONDARY_STATUS", 0x1e, 0, "PCIe §7.5.1.3.7").fields(fields::STATUS).width(B2).w1c(0xf900),
    Reg::rw(
        "MEMORY_BASE_LIMIT",
        0x20,
        0x0000_fff0,
        0xfff0_fff0,
        "PCIe §7.5.1.3.8; INFERRED: closed out of reset",
    )
    .fields(&[Field::bits("LIMIT", 31, 20), Field::bits("BASE", 15, 4)]),
    Reg::rw(
        "PREF_BASE_LIMIT",
        0x24,
        0x0001_fff1,
        0xfff0_fff0,
        "PCIe §7.5.1.3.9; INFERRED: closed out of reset",
    )
    .fields(&[Field::bits("LIMIT", 31, 20), Field::bits("BASE", 15, 4)]),
    Reg::rw("PREF_BASE_UPPER", 0x28, 0, u32::MAX, "PCIe §7.5.1.3.10"),
    Reg::rw("PREF_LIMIT_UPPER", 0x2c, 0, u32::MAX, "PCIe §7.5.1.3.10"),
    Reg::rw("BRIDGE_CONTROL", 0x3e, 0, 0x005f, "PCIe §7.5.1.3.13")
        .fields(&[
            Field::bit("SBR", 6),
            Field::bit("VGA", 3),
            Field::bit("ISA", 2),
            Field::bit("SERR", 1),
            Field::bit("PARITY", 0),
        ])
        .width(B2)
        .effect("bit 6 (SBR): hot reset below the port"),
];

/// Capability IDs.
pub mod id {
    /// Power management.
    pub const PM: u8 = 0x01;
    /// MSI.
    pub const MSI: u8 = 0x05;
    /// PCI Express.
    pub const EXP: u8 = 0x10;
    /// MSI-X.
    pub const MSIX: u8 = 0x11;
    /// Extended: advanced error reporting.
    pub const EXT_AER: u16 = 0x0001;
    /// Extended: vendor-specific.
    pub const EXT_VSEC: u16 = 0x000b;
    /// Extended: latency tolerance reporting.
    pub const EXT_LTR: u16 = 0x0018;
    /// Extended: secondary PCI Express.
    pub const EXT_SECPCI: u16 = 0x0019;
    /// Extended: downstream port containment.
    pub const EXT_DPC: u16 = 0x001d;
    /// Extended: L1 PM substates.
    pub const EXT_L1SS: u16 = 0x001e;
    /// Extended: precision time measurement.
    pub const EXT_PTM: u16 = 0x001f;
    /// Extended: physical layer 16 GT/s.
    pub const EXT_PL_16GT: u16 = 0x0026;
}

/// Errors by their bit in the AER registers (PCIe §7.8.4).
pub mod aer {
    /// Uncorrectable: surprise down.
    pub const SURPRISE_DOWN: u32 = 1 << 5;
    /// Uncorrectable: completion timeout.
    pub const COMPLETION_TIMEOUT: u32 = 1 << 14;
    /// Uncorrectable: unsupported request.
    pub const UNSUPPORTED_REQUEST: u32 = 1 << 20;
    /// Correctable: a TLP came damaged.
    pub const BAD_TLP: u32 = 1 << 6;
    /// Correctable: advisory non-fatal error.
    pub const ADVISORY_NON_FATAL: u32 = 1 << 13;
    /// UNCOR_STATUS.
    pub const UNCOR_STATUS: u32 = 0x04;
    /// UNCOR_MASK.
    pub const UNCOR_MASK: u32 = 0x08;
    /// UNCOR_SEVERITY.
    pub const UNCOR_SEVERITY: u32 = 0x0c;
    /// COR_STATUS.
    pub const COR_STATUS: u32 = 0x10;
    /// COR_MASK.
    pub const COR_MASK: u32 = 0x14;
    /// AER_CAP, with the first error pointer.
    pub const CAP: u32 = 0x18;
    /// ROOT_COMMAND.
    pub const ROOT_COMMAND: u32 = 0x2c;
    /// ROOT_STATUS.
    pub const ROOT_STATUS: u32 = 0x30;
    /// ERROR_SOURCE.
    pub const ERROR_SOURCE: u32 = 0x34;
}

/// Power management, from +2.
pub const PM: &[Reg] = &[
    Reg::ro("PM_PMC", 0x2, 0x0003, "PCIe §7.5.2.1").width(B2).ro_wr(0xffff),
    // PME status and enable are sticky; the power state is D0 after any reset.
    Reg::rw("PM_PMCSR", 0x4, 0x0008, 0x0103, "PCIe §7.5.2.2; bit 3: No_Soft_Reset")
        .fields(&[
            Field::bit("PME_STATUS", 15),
            Field::bit("PME_EN", 8),
            Field::bit("NO_SOFT_RESET", 3),
            Field::bits("STATE", 1, 0).values(&[(0, "D0"), (1, "D1"), (2, "D2"), (3, "D3hot")]),
        ])
        .width(B2)
        .w1c(0x8000)
        .bits_survive(0x8100, Survives::STICKY),
    Reg::ro("PM_BSE_DATA", 0x6, 0, "PCIe §7.5.2").width(B2),
];

/// MSI with 64-bit address, 32 messages and per-vector masking, from +2.
pub const MSI: &[Reg] = &[
    Reg::rw("MSI_FLAGS", 0x2, 0x018a, 0x0071, "PCIe §7.7.1.2; 32 messages, 64-bit, maskable")
        .fields(&[
            Field::bit("MASKABLE", 8),
            Field::bit("64BIT", 7),
            Field::bits("ENABLED_LOG2", 6, 4),
            Field::bits("CAPABLE_LOG2", 3, 1),
            Field::bit("ENABLE", 0),
        ])
        .width(B2),
    Reg::rw("MSI_ADDRESS_LO", 0x4, 0, 0xffff_fffc, "PCIe §7.7.1.3"),
    Reg::rw("MSI_ADDRESS_HI", 0x8, 0, u32::MAX, "PCIe §7.7.1.4"),
    Reg::rw("MSI_DATA", 0xc, 0, 0xffff, "PCIe §7.7.1.5").width(B2),
    Reg::ro("MSI_DATA_EXT", 0xe, 0, "PCIe §7.7.1.6").width(B2),
    Reg::rw("MSI_MASK", 0x10, 0, u32::MAX, "PCIe §7.7.1.7").effect("unmasking a pending vector sends it"),
    Reg::ro("MSI_PENDING", 0x14, 0, "PCIe §7.7.1.8"),
];

/// MSI-X, from +2; size and locations are set by the builder.
pub const MSIX: &[Reg] = &[
    Reg::rw("MSIX_FLAGS", 0x2, 0, 0xc000, "PCIe §7.7.2.2")
        .fields(&[Field::bit("ENABLE", 15), Field::bit("MASK_ALL", 14), Field::bits("SIZE_LESS_1", 10, 0)])
        .width(B2)
        .effect("unmasking or enabling sends what is pending"),
    Reg::ro("MSIX_TABLE", 0x4, 0, "PCIe §7.7.2.3"),
    Reg::ro("MSIX_PBA", 0x8, 0, "PCIe §7.7.2.4"),
];

/// PCI Express capability registers, offsets in the capability.
pub mod exp {
    /// FLAGS.
    pub const FLAGS: u32 = 0x02;
    /// DEVCTL.
    pub const DEVCTL: u32 = 0x08;
    /// LNKCAP.
    pub const LNKCAP: u32 = 0x0c;
    /// LNKCTL.
    pub const LNKCTL: u32 = 0x10;
    /// LNKSTA.
    pub const LNKSTA: u32 = 0x12;
    /// SLTCAP.
    pub const SLTCAP: u32 = 0x14;
    /// SLTCTL.
    pub const SLTCTL: u32 = 0x18;
    /// RTCTL.
    pub const RTCTL: u32 = 0x1c;
    /// DEVCTL2.
    pub const DEVCTL2: u32 = 0x28;
    /// DEVCTL2: completion timeout disabled.
    pub const DEVCTL2_TIMEOUT_DISABLE: u16 = 1 << 4;
    /// LNKCTL2.
    pub const LNKCTL2: u32 = 0x30;
    /// DEVSTA.
    pub const DEVSTA: u32 = 0x0a;
    /// SLTSTA.
    pub const SLTSTA: u32 = 0x1a;
    /// RTSTA.
    pub const RTSTA: u32 = 0x20;
    /// LNKCAP2.
    pub const LNKCAP2: u32 = 0x2c;
    /// DEVCTL: reports correctable errors.
    pub const DEVCTL_CERE: u16 = 1 << 0;
    /// DEVCTL: reports non-fatal errors.
    pub const DEVCTL_NFERE: u16 = 1 << 1;
    /// DEVCTL: reports fatal errors.
    pub const DEVCTL_FERE: u16 = 1 << 2;
    /// DEVCTL: reports unsupported requests.
    pub const DEVCTL_URRE: u16 = 1 << 3;
    /// DEVSTA: correctable error detected.
    pub const DEVSTA_CED: u16 = 1 << 0;
    /// DEVSTA: non-fatal error detected.
    pub const DEVSTA_NFED: u16 = 1 << 1;
    /// DEVSTA: fatal error detected.
    pub const DEVSTA_FED: u16 = 1 << 2;
    /// DEVSTA: unsupported request detected.
    pub const DEVSTA_URD: u16 = 1 << 3;
    /// RTCTL: configuration request retry status is visible to software.
    pub const RTCTL_RRS_SVE: u16 = 1 << 4;
    /// SLTCAP: attention button.
    pub const SLTCAP_ABP: u32 = 1 << 0;
    /// SLTCAP: power controller.
    pub const SLTCAP_PCP: u32 = 1 << 1;
    /// SLTCAP: attention indicator.
    pub const SLTCAP_AIP: u32 = 1 << 3;
    /// SLTCAP: power indicator.
    pub const SLTCAP_PIP: u32 = 1 << 4;
    /// SLTCAP: cards may go without notice.
    pub const SLTCAP_HPS: u32 = 1 << 5;
    /// SLTCAP: hot-plug.
    pub const SLTCAP_HPC: u32 = 1 << 6;
    /// SLTCAP: no notice of completed commands.
    pub const SLTCAP_NCCS: u32 = 1 << 18;
    /// SLTCAP: where the physical slot number begins.
    pub const SLTCAP_PSN_SHIFT: u32 = 19;
    /// SLTCTL: attention button enable. Enables of the low five events are at the bits of their status.
    pub const SLTCTL_ABPE: u16 = 1 << 0;
    /// SLTCTL: presence changed enable.
    pub const SLTCTL_PDCE: u16 = 1 << 3;
    /// SLTCTL: command completed enable.
    pub const SLTCTL_CCIE: u16 = 1 << 4;
    /// SLTCTL: hot-plug interrupt enable.
    pub const SLTCTL_HPIE: u16 = 1 << 5;
    /// SLTCTL: attention indicator.
    pub const SLTCTL_AIC: u16 = 3 << 6;
    /// SLTCTL: power indicator.
    pub const SLTCTL_PIC: u16 = 3 << 8;
    /// SLTCTL: power controller; 1 is off.
    pub const SLTCTL_PCC: u16 = 1 << 10;
    /// SLTCTL: data link layer state changed enable.
    pub const SLTCTL_DLLSCE: u16 = 1 << 12;
    /// SLTSTA: attention button pressed.
    pub const SLTSTA_ABP: u16 = 1 << 0;
    /// SLTSTA: presence changed.
    pub const SLTSTA_PDC: u16 = 1 << 3;
    /// SLTSTA: command completed.
    pub const SLTSTA_CC: u16 = 1 << 4;
    /// SLTSTA: presence.
    pub const SLTSTA_PDS: u16 = 1 << 6;
    /// SLTSTA: data link layer state changed.
    pub const SLTSTA_DLLSC: u16 = 1 << 8;
    /// LNKCTL: bandwidth management interrupt enable.
    pub const LNKCTL_LBMIE: u16 = 1 << 10;
    /// LNKCTL: autonomous bandwidth interrupt enable.
    pub const LNKCTL_LABIE: u16 = 1 << 11;
    /// LNKCTL: link disable.
    pub const LNKCTL_LD: u16 = 1 << 4;
    /// LNKCTL: retrain link (reads 0).
    pub const LNKCTL_RL: u16 = 1 << 5;
    /// LNKSTA: link training.
    pub const LNKSTA_LT: u16 = 1 << 11;
    /// LNKSTA: data link layer link active.
    pub const LNKSTA_DLLLA: u16 = 1 << 13;
    /// LNKSTA: link bandwidth management status.
    pub const LNKSTA_LBMS: u16 = 1 << 14;
    /// LNKSTA: link autonomous bandwidth status.
    pub const LNKSTA_LABS: u16 = 1 << 15;
}

/// PCI Express version 2, rows common to endpoint and root port. LNKCAP and FLAGS are set by the builder.
pub const EXP: &[Reg] = &[
    Reg::ro("EXP_FLAGS", 0x02, 0x0002, "PCIe §7.5.3.2").fields(fields::EXP_FLAGS).width(B2).ro_wr(0xffff),
    Reg::ro("EXP_DEVCAP", 0x04, 0x0000_8001, "PCIe §7.5.3.3; 256-byte payload, role-based errors")
        .fields(&[
            Field::bit("FLR", 28),
            Field::bit("ROLE_BASED_ERRORS", 15),
            Field::bits("PAYLOAD", 2, 0).values(fields::PAYLOAD),
        ])
        .ro_wr(u32::MAX),
    Reg::rw("EXP_DEVCTL", 0x08, 0x2810, 0x7fff, "PCIe §7.5.3.4")
        .fields(&[
            Field::bits("READRQ", 14, 12).values(fields::PAYLOAD),
            Field::bit("NO_SNOOP", 11),
            Field::bit("EXT_TAG", 8),
            Field::bits("PAYLOAD", 7, 5).values(fields::PAYLOAD),
            Field::bit("RELAX", 4),
            Field::bit("URRE", 3),
            Field::bit("FERE", 2),
            Field::bit("NFERE", 1),
            Field::bit("CERE", 0),
        ])
        .width(B2),
    Reg::ro("EXP_DEVSTA", 0x0a, 0, "PCIe §7.5.3.5")
        .fields(&[
            Field::bit("TRPND", 5),
            Field::bit("URD", 3),
            Field::bit("FED", 2),
            Field::bit("NFED", 1),
            Field::bit("CED", 0),
        ])
        .width(B2)
        .w1c(0x000f),
    Reg::ro(
        "EXP_LNKCAP",
        0x0c,
        0,
        "PCIe §7.5.3.6; spec §2.8: speed, width and ASPM are rewritten by the driver",
    )
    .fields(fields::LNKCAP)
    .ro_wr(u32::MAX),
    Reg::rw("EXP_LNKCTL", 0x10, 0, 0x0fdb, "PCIe §7.5.3.7")
        .fields(&[
            Field::bit("LABIE", 11),
            Field::bit("LBMIE", 10),
            Field::bit("ES", 7),
            Field::bit("CCC", 6),
            Field::bit("RL", 5),
            Field::bit("LD", 4),
            Field::bit("RCB", 3),
            Field::bits("ASPM", 1, 0).values(fields::ASPM),
        ])
        .width(B2),
    Reg::ro("EXP_LNKSTA", 0x12, 0, "PCIe §7.5.3.8")
        .fields(&[
            Field::bit("LABS", 15),
            Field::bit("LBMS", 14),
            Field::bit("DLLLA", 13),
            Field::bit("SLC", 12),
            Field::bit("LT", 11),
            Field::bits("NLW", 9, 4),
            Field::bits("CLS", 3, 0).values(fields::SPEED),
        ])
        .width(B2),
    Reg::ro("EXP_DEVCAP2", 0x24, 0x0000_0810, "PCIe §7.5.3.15; timeout disable, LTR")
        .fields(&[Field::bit("LTR", 11), Field::bit("COMP_TMOUT_DIS", 4)])
        .ro_wr(u32::MAX),
    Reg::rw("EXP_DEVCTL2", 0x28, 0, 0x7fff, "PCIe §7.5.3.16")
        .fields(&[
            Field::bit("LTR_EN", 10),
            Field::bit("COMP_TMOUT_DIS", 4),
            Field::bits("COMP_TIMEOUT", 3, 0),
        ])
        .width(B2),
    Reg::ro("EXP_LNKCAP2", 0x2c, 0x0000_000e, "PCIe §7.5.3.18; 2.5, 5 and 8 GT/s")
        .fields(&[Field::bits("SPEEDS", 7, 1)])
        .ro_wr(u32::MAX),
    Reg::rw("EXP_LNKCTL2", 0x30, 0x0003, 0xffff, "PCIe §7.5.3.19")
        .fields(fields::LNKCTL2)
        .width(B2)
        .survives(Survives::STICKY),
    Reg::ro("EXP_LNKSTA2", 0x32, 0, "PCIe §7.5.3.20").width(B2).w1c(0x0020),
];

/// PCI Express rows of a root port.
pub const EXP_ROOT: &[Reg] = &[
    Reg::rw("EXP_LNKCTL", 0x10, 0, 0x0fdb, "PCIe §7.5.3.7; bit 5 (RL) reads 0")
        .fields(&[
            Field::bit("LABIE", 11),
            Field::bit("LBMIE", 10),
            Field::bit("ES", 7),
            Field::bit("CCC", 6),
            Field::bit("RL", 5),
            Field::bit("LD", 4),
            Field::bit("RCB", 3),
            Field::bits("ASPM", 1, 0).values(fields::ASPM),
        ])
        .width(B2)
        .effect("LD, RL act on the link"),
    Reg::ro("EXP_LNKSTA", 0x12, 0, "PCIe §7.5.3.8")
        .fields(&[
            Field::bit("LABS", 15),
            Field::bit("LBMS", 14),
            Field::bit("DLLLA", 13),
            Field::bit("SLC", 12),
            Field::bit("LT", 11),
            Field::bits("NLW", 9, 4),
            Field::bits("CLS", 3, 0).values(fields::SPEED),
        ])
        .width(B2)
        .w1c(0xc000)
        .effect("DLLLA, LT, speed and width follow the link"),
    Reg::ro("EXP_SLTCAP", 0x14, 0, "PCIe §7.5.3.9; spec §2.8").fields(fields::SLTCAP).ro_wr(u32::MAX),
    Reg::rw("EXP_SLTCTL", 0x18, 0, 0x1fff, "PCIe §7.5.3.10")
        .fields(&[
            Field::bit("DLLSCE", 12),
            Field::bit("PCC", 10),
            Field::bit("HPIE", 5),
            Field::bit("CCIE", 4),
            Field::bit("PDCE", 3),
            Field::bit("ABPE", 0),
        ])
        .width(B2),
    Reg::ro("EXP_SLTSTA", 0x1a, 0x0040, "PCIe §7.5.3.11; presence detected")
        .fields(&[
            Field::bit("DLLSC", 8),
            Field::bit("PDS", 6),
            Field::bit("MRLSS", 5),
            Field::bit("CC", 4),
            Field::bit("PDC", 3),
            Field::bit("ABP", 0),
        ])
        .width(B2)
        .w1c(0x011f),
    Reg::rw("EXP_RTCTL", 0x1c, 0, 0x001f, "PCIe §7.5.3.12")
        .fields(&[
            Field::bit("RRS_SVE", 4),
            Field::bit("PMEIE", 3),
            Field::bit("SEFEE", 2),
            Field::bit("SENFEE", 1),
            Field::bit("SECEE", 0),
        ])
        .width(B2),
    Reg::ro("EXP_RTCAP", 0x1e, 0x0001, "PCIe §7.5.3.13; RRS software visibility")
        .fields(&[Field::bit("RRS_SV", 0)])
        .width(B2),
    Reg::ro("EXP_RTSTA", 0x20, 0, "PCIe §7.5.3.14")
        .fields(&[Field::bit("PENDING", 17), Field::bit("PME", 16), Field::bits("REQUESTER", 15, 0)])
        .w1c(0x0001_0000),
];

/// PCI Express rows of a switch's downstream port with a slot: those of a root port that are about the link and the slot.
pub const EXP_SLOT: &[Reg] = EXP_ROOT.split_at(5).0;

/// Advanced error reporting, from +4.
pub const AER: &[Reg] = &[
    Reg::ro("AER_UNCOR_STATUS", 0x04, 0, "PCIe §7.8.4.2")
        .fields(fields::AER_UNCOR)
        .w1c(0x07ff_f030)
        .survives(Survives::STICKY),
    Reg::rw("AER_UNCOR_MASK", 0x08, 0x0040_0000, 0x07ff_f030, "PCIe §7.8.4.3")
        .fields(fields::AER_UNCOR)
        .survives(Survives::STICKY),
    Reg::rw("AER_UNCOR_SEVERITY", 0x0c, 0x0046_2030, 0x07ff_f030, "PCIe §7.8.4.4")
        .fields(fields::AER_UNCOR)
        .survives(Survives::STICKY),
    Reg::ro("AER_COR_STATUS", 0x10, 0, "PCIe §7.8.4.5")
        .fields(fields::AER_COR)
        .w1c(0xf1c1)
        .survives(Survives::STICKY),
    Reg::rw("AER_COR_MASK", 0x14, 0x0000_e000, 0xf1c1, "PCIe §7.8.4.6")
        .fields(fields::AER_COR)
        .survives(Survives::STICKY),
    Reg::rw("AER_CAP", 0x18, 0, 0x0140, "PCIe §7.8.4.7; ECRC generation and check enables")
        .fields(&[
            Field::bit("ECRC_CHKE", 8),
            Field::bit("ECRC_CHKC", 7),
            Field::bit("ECRC_GENE", 6),
            Field::bit("ECRC_GENC", 5),
            Field::bits("FIRST_ERROR", 4, 0),
        ])
        .survives(Survives::STICKY),
];

/// AER rows of a root port.
pub const AER_ROOT: &[Reg] = &[
    Reg::rw("AER_ROOT_COMMAND", 0x2c, 0, 0x7, "PCIe §7.8.4.9").fields(&[
        Field::bit("FATAL_EN", 2),
        Field::bit("NONFATAL_EN", 1),
        Field::bit("COR_EN", 0),
    ]),
    Reg::ro("AER_ROOT_STATUS", 0x30, 0, "PCIe §7.8.4.10")
        .fields(&[
            Field::bits("MESSAGE", 31, 27),
            Field::bit("FATAL_RCV", 6),
            Field::bit("NONFATAL_RCV", 5),
            Field::bit("FIRST_FATAL", 4),
            Field::bit("MULTI_UNCOR_RCV", 3),
            Field::bit("UNCOR_RCV", 2),
            Field::bit("MULTI_COR_RCV", 1),
            Field::bit("COR_RCV", 0),
        ])
        .w1c(0x7f)
        .survives(Survives::STICKY),
    Reg::ro("AER_ERROR_SOURCE", 0x34, 0, "PCIe §7.8.4.11")
        .fields(&[Field::bits("UNCOR_SOURCE", 31, 16), Field::bits("COR_SOURCE", 15, 0)])
        .survives(Survives::STICKY),
];

/// DPC control: trigger on fatal errors (1) or on fatal and non-fatal ones (2).
pub const DPC_TRIGGER_ENABLE: u16 = 0x3;
/// DPC control: interrupt enable.
pub const DPC_INT_ENABLE: u16 = 1 << 3;
/// DPC control: trigger by software; reads 0.
pub const DPC_SW_TRIGGER: u16 = 1 << 6;
/// DPC status: triggered, the link is held disabled.
pub const DPC_TRIGGERED: u16 = 1 << 0;
/// DPC status: interrupt.
pub const DPC_INTERRUPT: u16 = 1 << 3;
/// Offsets in the DPC capability.
pub mod dpc {
    /// DPC_CTL.
    pub const CTL: u32 = 0x06;
    /// DPC_STATUS.
    pub const STATUS: u32 = 0x08;
    /// DPC_SOURCE_ID.
    pub const SOURCE_ID: u32 = 0x0a;
}

/// Downstream port containment, from +4; no root port extensions.
pub const DPC: &[Reg] = &[
    Reg::ro("DPC_CAP", 0x04, 0x0080, "PCIe §7.9.15.2; software trigger").width(B2),
    Reg::rw("DPC_CTL", 0x06, 0, 0x009f, "PCIe §7.9.15.3")
        .fields(&[Field::bit("SW_TRIGGER", 6), Field::bit("INT_EN", 3), Field::bits("TRIGGER_EN", 1, 0)])
        .width(B2)
        .effect("bit 6 triggers, and reads 0"),
    Reg::ro("DPC_STATUS", 0x08, 0, "PCIe §7.9.15.4")
        .fields(&[Field::bit("INTERRUPT", 3), Field::bits("REASON", 2, 1), Field::bit("TRIGGER", 0)])
        .width(B2)
        .w1c(0x0009)
        .survives(Survives::STICKY)
        .effect("the link is held disabled while bit 0 is set"),
    Reg::ro("DPC_SOURCE_ID", 0x0a, 0, "PCIe §7.9.15.5").width(B2).survives(Survives::STICKY),
];

/// Precision time measurement of a root port, from +4.
pub const PTM: &[Reg] = &[
    Reg::ro("PTM_CAP", 0x04, 0x0000_0406, "PCIe §7.9.16.2; responder, root; INFERRED granularity of 4 ns"),
    Reg::rw("PTM_CTRL", 0x08, 0, 0x3, "PCIe §7.9.16.3")
        .fields(&[Field::bit("ROOT", 1), Field::bit("ENABLE", 0)]),
];

/// Physical layer 16 GT/s with one lane, from +4.
pub const PL_16GT: &[Reg] = &[
    Reg::ro("PL_16GT_CAP", 0x04, 0, "PCIe §7.7.5.2"),
    Reg::ro("PL_16GT_CTRL", 0x08, 0, "PCIe §7.7.5.3"),
    Reg::ro("PL_16GT_STATUS", 0x0c, 0, "PCIe §7.7.5.4").w1c(0x10).survives(Survives::STICKY),
    Reg::ro("PL_16GT_PARITY", 0x10, 0, "PCIe §7.7.5.5").w1c(0x1).survives(Survives::STICKY),
    Reg::ro("PL_16GT_RETIMER1_PARITY", 0x14, 0, "PCIe §7.7.5.6").w1c(0x1).survives(Survives::STICKY),
    Reg::ro("PL_16GT_RETIMER2_PARITY", 0x18, 0, "PCIe §7.7.5.7").w1c(0x1).survives(Survives::STICKY),
    Reg::ro("PL_16GT_LANE_EQ", 0x20, 0xff, "PCIe §7.7.5.8; spec §2.8: presets from the device tree")
        .width(B1)
        .ro_wr(0xff),
];

/// Latency tolerance reporting, from +4.
pub const LTR: &[Reg] = &[Reg::rw("LTR_MAX_LATENCY", 0x04, 0, 0x1fff_1fff, "PCIe §7.8.2.2")];

/// L1 PM substates, from +4.
pub const L1SS: &[Reg] = &[
    Reg::ro("L1SS_CAP", 0x04, 0x0028_281f, "PCIe §7.8.3.2; all substates, INFERRED timings")
        .fields(&[
            Field::bits("T_POWER_ON_VALUE", 23, 19),
            Field::bits("T_POWER_ON_SCALE", 17, 16),
            Field::bits("CM_RESTORE_TIME", 15, 8),
            Field::bit("L1_PM_SS", 4),
            Field::bit("ASPM_L1_1", 3),
            Field::bit("ASPM_L1_2", 2),
            Field::bit("PCIPM_L1_1", 1),
            Field::bit("PCIPM_L1_2", 0),
        ])
        .ro_wr(u32::MAX),
    Reg::rw("L1SS_CTL1", 0x08, 0, 0xe3ff_ff1f, "PCIe §7.8.3.3").fields(&[
        Field::bits("LTR_L1_2_SCALE", 31, 29),
        Field::bits("LTR_L1_2_VALUE", 25, 16),
        Field::bits("CM_RESTORE_TIME", 15, 8),
        Field::bit("ASPM_L1_1", 3),
        Field::bit("ASPM_L1_2", 2),
        Field::bit("PCIPM_L1_1", 1),
        Field::bit("PCIPM_L1_2", 0),
    ]),
    Reg::rw("L1SS_CTL2", 0x0c, 0x28, 0xfb, "PCIe §7.8.3.4")
        .fields(&[Field::bits("T_POWER_ON_VALUE", 7, 3), Field::bits("T_POWER_ON_SCALE", 1, 0)]),
];
