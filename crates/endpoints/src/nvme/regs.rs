//! Registers of the NVMe controller in BAR 0 (NVMe 1.4 §3.1; names as in Linux v6.12 include/linux/nvme.h `NVME_REG_*`).

use block::Field;
use block::Reg;

const SRC: &str = "NVMe 1.4 §3.1; Linux v6.12 include/linux/nvme.h NVME_REG_*";

/// Register offsets in BAR 0.
pub mod off {
    /// Controller capabilities (64 bits).
    pub const CAP: u32 = 0x00;
    /// Version.
    pub const VS: u32 = 0x08;
    /// Interrupt mask set.
    pub const INTMS: u32 = 0x0c;
    /// Interrupt mask clear.
    pub const INTMC: u32 = 0x10;
    /// Controller configuration.
    pub const CC: u32 = 0x14;
    /// Controller status.
    pub const CSTS: u32 = 0x1c;
    /// Admin queue attributes.
    pub const AQA: u32 = 0x24;
    /// Admin submission queue base address (64 bits).
    pub const ASQ: u32 = 0x28;
    /// Admin completion queue base address (64 bits).
    pub const ACQ: u32 = 0x30;
    /// First doorbell.
    pub const DOORBELLS: u32 = 0x1000;
    /// MSI-X table, a page of its own; the PBA is behind it.
    pub const MSIX_TABLE: u32 = 0x2000;
}

/// Bytes that the rows cover; what is between them and the doorbells reads 0 (no CMB, no boot partition, no NSSR).
pub const REGS_BYTES: u32 = 0x38;

/// CC bits.
pub mod cc {
    /// Enable.
    pub const EN: u32 = 1 << 0;
    /// I/O command set selected, memory page size, arbitration: only 0 is supported.
    pub const CSS_MPS_AMS: u32 = 0x3ff0;
    /// Shutdown notification.
    pub const SHN: u32 = 3 << 14;
    /// Shutdown notification: reserved value.
    pub const SHN_RESERVED: u32 = 3 << 14;
    /// I/O submission queue entry size, log2: shift.
    pub const IOSQES_SHIFT: u32 = 16;
    /// I/O completion queue entry size, log2: shift.
    pub const IOCQES_SHIFT: u32 = 20;
}

/// CSTS bits.
pub mod csts {
    /// Ready.
    pub const RDY: u32 = 1 << 0;
    /// Controller fatal status.
    pub const CFS: u32 = 1 << 1;
    /// Shutdown is under way.
    pub const SHST_OCCURRING: u32 = 1 << 2;
    /// Shutdown is complete.
    pub const SHST_COMPLETE: u32 = 2 << 2;
}

/// Entries that an I/O queue may have. A doorbell makes the controller work through one queue at most.
pub const MAX_ENTRIES: u16 = 256;
/// CAP.MQES (0's based) and CAP.CQR: queues are contiguous. CAP.TO: 7.5 s.
const CAP_LO: u32 = (MAX_ENTRIES as u32 - 1) | (1 << 16) | (15 << 24);
/// CAP.CSS: the NVM command set. Doorbell stride 4 bytes, pages of 4 KiB only.
const CAP_HI: u32 = 1 << 5;
/// 1.4.0.
pub const VERSION: u32 = 0x0001_0400;

const SHST: Field = Field::bits("SHST", 3, 2).values(&[(1, "occurring"), (2, "complete")]);

/// Rows of BAR 0.
pub const ROWS: &[Reg] = &[
    Reg::ro("CAP_LO", off::CAP, CAP_LO, SRC).fields(&[
        Field::bits("TO", 31, 24),
        Field::bits("AMS", 18, 17),
        Field::bit("CQR", 16),
        Field::bits("MQES", 15, 0),
    ]),
    Reg::ro("CAP_HI", off::CAP + 4, CAP_HI, SRC).fields(&[
        Field::bits("MPSMAX", 23, 20),
        Field::bits("MPSMIN", 19, 16),
        Field::bits("CSS", 12, 5),
        Field::bit("NSSRS", 4),
        Field::bits("DSTRD", 3, 0),
    ]),
    Reg::ro("VS", off::VS, VERSION, SRC),
    Reg::ro("INTMS", off::INTMS, 0, SRC).effect("ones mask vectors; reads the mask"),
    Reg::ro("INTMC", off::INTMC, 0, SRC).effect("ones unmask vectors; reads the mask"),
    Reg::rw("CC", off::CC, 0, 0x00ff_fff1, SRC)
        .fields(&[
            Field::bits("IOCQES", 23, 20),
            Field::bits("IOSQES", 19, 16),
            Field::bits("SHN", 15, 14).values(&[(1, "normal"), (2, "abrupt")]),
            Field::bits("AMS", 13, 11),
            Field::bits("MPS", 10, 7),
            Field::bits("CSS", 6, 4),
            Field::bit("EN", 0),
        ])
        .effect("EN enables and resets the controller, SHN shuts it down"),
    Reg::ro("CSTS", off::CSTS, 0, SRC).fields(&[SHST, Field::bit("CFS", 1), Field::bit("RDY", 0)]),
    Reg::rw("AQA", off::AQA, 0, 0x0fff_0fff, SRC)
        .fields(&[Field::bits("ACQS", 27, 16), Field::bits("ASQS", 11, 0)])
        .effect("counts when CC.EN is set next"),
    Reg::rw("ASQ_LO", off::ASQ, 0, 0xffff_f000, SRC).effect("counts when CC.EN is set next"),
    Reg::rw("ASQ_HI", off::ASQ + 4, 0, u32::MAX, SRC).effect("counts when CC.EN is set next"),
    Reg::rw("ACQ_LO", off::ACQ, 0, 0xffff_f000, SRC).effect("counts when CC.EN is set next"),
    Reg::rw("ACQ_HI", off::ACQ + 4, 0, u32::MAX, SRC).effect("counts when CC.EN is set next"),
];
