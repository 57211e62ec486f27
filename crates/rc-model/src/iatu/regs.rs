//! Registers of one iATU region. No behaviour.

use block::Field;
use block::Reg;

/// Regions per direction: what a 4 KiB `atu` window has room for (spec §1.2).
pub const REGIONS: u32 = 8;
/// Bytes of the window.
pub const LEN_BYTES: u32 = REGIONS << 9;

/// Offset of outbound region `n`.
pub const fn outbound(n: u32) -> u32 {
    n << 9
}

/// Offset of inbound region `n`.
pub const fn inbound(n: u32) -> u32 {
    (n << 9) + 0x100
}

/// The viewport in DBI: selector, then the registers of the selected region (spec §2.5).
pub const VIEWPORT: u64 = 0x900;
/// Where the selected region's CTRL1 is.
pub const VIEWPORT_REGION: u64 = 0x904;
/// Behind the viewport.
pub const VIEWPORT_END: u64 = 0x92c;
/// Selector: an inbound region.
pub const SELECT_INBOUND: u32 = 1 << 31;

/// Type and attributes.
pub const CTRL1: u32 = 0x00;
/// Enable and modes.
pub const CTRL2: u32 = 0x04;
/// Base, low half.
pub const LOWER_BASE: u32 = 0x08;
/// Base, high half.
pub const UPPER_BASE: u32 = 0x0c;
/// Last address, low half.
pub const LIMIT: u32 = 0x10;
/// Target, low half.
pub const LOWER_TARGET: u32 = 0x14;
/// Target, high half.
pub const UPPER_TARGET: u32 = 0x18;
/// Last address, high half.
pub const UPPER_LIMIT: u32 = 0x20;

/// CTRL1: TLP type.
pub const TYPE: u32 = 0x1f;
/// Memory request.
pub const TYPE_MEM: u32 = 0x0;
/// I/O request.
pub const TYPE_IO: u32 = 0x2;
/// Message, with its routing in the low bits.
pub const TYPE_MSG: u32 = 0x10;
/// The bits that make it a message.
pub const TYPE_MSG_MASK: u32 = 0x18;
/// Type 0 configuration request.
pub const TYPE_CFG0: u32 = 0x4;
/// Type 1 configuration request.
pub const TYPE_CFG1: u32 = 0x5;
/// CTRL1: the region may cross 4 GiB.
pub const INCREASE_REGION_SIZE: u32 = 1 << 13;
/// CTRL2: region enabled.
pub const EN: u32 = 1 << 31;
/// CTRL2 (inbound): match by BAR instead of by address.
pub const BAR_MODE: u32 = 1 << 30;
/// CTRL2 (outbound): take the BDF from the address.
pub const CFG_SHIFT: u32 = 1 << 28;

/// Regions are multiples of 64 KiB.
pub const GRANULE: u32 = 0xffff;

const SRC: &str = "spec §2.5; Linux v6.12 pcie-designware.h PCIE_ATU_*";

/// The registers of a region.
pub const REGION: &[Reg] = &[
    Reg::rw("REGION_CTRL1", CTRL1, 0, 0x01ff_3fff, SRC).fields(&[
        Field::bits("FUNC", 24, 20),
        Field::bit("INCREASE_REGION_SIZE", 13),
        Field::bit("TD", 8),
        Field::bits("TYPE", 4, 0).values(&[(0, "MEM"), (2, "IO"), (4, "CFG0"), (5, "CFG1"), (0x10, "MSG")]),
    ]),
    Reg::rw("REGION_CTRL2", CTRL2, 0, !0, SRC)
        .fields(&[
            Field::bit("EN", 31),
            Field::bit("BAR_MODE", 30),
            Field::bit("CFG_SHIFT", 28),
            Field::bit("INHIBIT_PAYLOAD", 22),
            Field::bit("FUNC_MATCH", 19),
            Field::bits("MSG_CODE", 7, 0),
        ])
        .effect("bit 31 enables the region at once"),
    Reg::rw("LOWER_BASE", LOWER_BASE, 0, !GRANULE, SRC),
    Reg::rw("UPPER_BASE", UPPER_BASE, 0, !0, SRC),
    Reg::rw("LIMIT", LIMIT, GRANULE, !GRANULE, SRC).effect("bits below the granule read as ones"),
    Reg::rw("LOWER_TARGET", LOWER_TARGET, 0, !GRANULE, SRC),
    Reg::rw("UPPER_TARGET", UPPER_TARGET, 0, !0, SRC),
    Reg::rw("UPPER_LIMIT", UPPER_LIMIT, 0, 0xff, "spec §2.5; INFERRED width: regions within 1 TiB"),
];
