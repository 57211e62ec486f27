//! Registers of the endpoint-test function in BAR 0 (spec §5.2; Linux v6.12 and, for what is newer, v7.3
//! drivers/misc/pci_endpoint_test.c, drivers/pci/endpoint/functions/pci-epf-test.c).

use block::Reg;

const SRC: &str = "spec §5.2; Linux v6.12 pci-epf-test.c struct pci_epf_test_reg";
const SRC_DB: &str = "spec §5.2; Linux v7.3 pci-epf-test.c struct pci_epf_test_reg";

/// Register offsets in BAR 0.
pub mod off {
    /// Scratch, written by the BAR test.
    pub const MAGIC: u32 = 0x00;
    /// Command; the endpoint clears it.
    pub const COMMAND: u32 = 0x04;
    /// Status.
    pub const STATUS: u32 = 0x08;
    /// Source address (64 bits, packed).
    pub const SRC_ADDR: u32 = 0x0c;
    /// Destination address (64 bits, packed).
    pub const DST_ADDR: u32 = 0x14;
    /// Size in bytes.
    pub const SIZE: u32 = 0x1c;
    /// CRC-32.
    pub const CHECKSUM: u32 = 0x20;
    /// 0 INTx, 1 MSI, 2 MSI-X.
    pub const IRQ_TYPE: u32 = 0x24;
    /// 1-based vector.
    pub const IRQ_NUMBER: u32 = 0x28;
    /// Flags.
    pub const FLAGS: u32 = 0x2c;
    /// Capabilities.
    pub const CAPS: u32 = 0x30;
    /// The doorbell's BAR.
    pub const DB_BAR: u32 = 0x34;
    /// The doorbell's offset in it.
    pub const DB_OFFSET: u32 = 0x38;
    /// What rings the doorbell.
    pub const DB_DATA: u32 = 0x3c;
    /// MSI-X table.
    pub const MSIX_TABLE: u32 = 0x80;
}

/// COMMAND bits.
pub mod command {
    /// Pulse INTx.
    pub const RAISE_INTX: u32 = 1 << 0;
    /// Send an MSI.
    pub const RAISE_MSI: u32 = 1 << 1;
    /// Send an MSI-X.
    pub const RAISE_MSIX: u32 = 1 << 2;
    /// Read host memory and compare its CRC.
    pub const READ: u32 = 1 << 3;
    /// Write random data to host memory.
    pub const WRITE: u32 = 1 << 4;
    /// Copy host memory.
    pub const COPY: u32 = 1 << 5;
    /// Map a BAR to a doorbell.
    pub const ENABLE_DOORBELL: u32 = 1 << 6;
    /// Map it to its memory again.
    pub const DISABLE_DOORBELL: u32 = 1 << 7;
    /// Swap the halves of BAR SIZE and sign them.
    pub const BAR_SUBRANGE_SETUP: u32 = 1 << 8;
    /// Swap them back.
    pub const BAR_SUBRANGE_CLEAR: u32 = 1 << 9;
}

/// STATUS bits.
pub mod status {
    /// READ succeeded.
    pub const READ_OK: u32 = 1 << 0;
    /// READ failed.
    pub const READ_FAIL: u32 = 1 << 1;
    /// WRITE succeeded.
    pub const WRITE_OK: u32 = 1 << 2;
    /// WRITE failed.
    pub const WRITE_FAIL: u32 = 1 << 3;
    /// COPY succeeded.
    pub const COPY_OK: u32 = 1 << 4;
    /// COPY failed.
    pub const COPY_FAIL: u32 = 1 << 5;
    /// An interrupt was raised.
    pub const IRQ_RAISED: u32 = 1 << 6;
    /// The source address was refused.
    pub const SRC_ADDR_INVALID: u32 = 1 << 7;
    /// The destination address was refused.
    pub const DST_ADDR_INVALID: u32 = 1 << 8;
    /// The doorbell was rung.
    pub const DOORBELL_OK: u32 = 1 << 9;
    /// ENABLE_DOORBELL succeeded.
    pub const DB_ENABLE_OK: u32 = 1 << 10;
    /// ENABLE_DOORBELL failed.
    pub const DB_ENABLE_FAIL: u32 = 1 << 11;
    /// DISABLE_DOORBELL succeeded.
    pub const DB_DISABLE_OK: u32 = 1 << 12;
    /// DISABLE_DOORBELL failed.
    pub const DB_DISABLE_FAIL: u32 = 1 << 13;
    /// BAR_SUBRANGE_SETUP succeeded.
    pub const SUBRANGE_SETUP_OK: u32 = 1 << 14;
    /// BAR_SUBRANGE_SETUP failed.
    pub const SUBRANGE_SETUP_FAIL: u32 = 1 << 15;
    /// BAR_SUBRANGE_CLEAR succeeded.
    pub const SUBRANGE_CLEAR_OK: u32 = 1 << 16;
    /// BAR_SUBRANGE_CLEAR failed.
    pub const SUBRANGE_CLEAR_FAIL: u32 = 1 << 17;
}

/// CAPS bits (Linux v7.3 pci-epf-test.c, CAP_*).
pub mod caps {
    /// BAR subranges.
    pub const SUBRANGE: u32 = 1 << 4;
    /// BARs can be mapped while the host uses them: doorbells.
    pub const DYNAMIC_INBOUND: u32 = 1 << 5;
}

/// FLAGS bit: use the endpoint's DMA engine.
pub const FLAG_USE_DMA: u32 = 1;

/// CAPS of every function: unaligned access, MSI, MSI-X, INTx.
pub const CAPS_VALUE: u32 = 0xf;

/// Rows of BAR 0.
pub const ROWS: &[Reg] = &[
    Reg::rw("MAGIC", off::MAGIC, 0, u32::MAX, SRC),
    Reg::rw("COMMAND", off::COMMAND, 0, u32::MAX, SRC).effect("starts the command; reads 0 once it is taken"),
    Reg::rw("STATUS", off::STATUS, 0, u32::MAX, SRC).effect("a read ends an INTx pulse"),
    Reg::rw("SRC_ADDR_LO", off::SRC_ADDR, 0, u32::MAX, SRC),
    Reg::rw("SRC_ADDR_HI", off::SRC_ADDR + 4, 0, u32::MAX, SRC),
    Reg::rw("DST_ADDR_LO", off::DST_ADDR, 0, u32::MAX, SRC),
    Reg::rw("DST_ADDR_HI", off::DST_ADDR + 4, 0, u32::MAX, SRC),
    Reg::rw("SIZE", off::SIZE, 0, u32::MAX, SRC),
    Reg::rw("CHECKSUM", off::CHECKSUM, 0, u32::MAX, SRC),
    Reg::rw("IRQ_TYPE", off::IRQ_TYPE, 0, u32::MAX, SRC),
    Reg::rw("IRQ_NUMBER", off::IRQ_NUMBER, 0, u32::MAX, SRC),
    Reg::rw("FLAGS", off::FLAGS, 0, u32::MAX, SRC),
    Reg::ro("CAPS", off::CAPS, CAPS_VALUE, SRC_DB),
    // DEVIATION: the real ones are memory that the host may write, too; the endpoint would then disable another doorbell.
    Reg::ro("DB_BAR", off::DB_BAR, 0, SRC_DB)
        .effect("ENABLE_DOORBELL fills it; all ones after DISABLE_DOORBELL"),
    Reg::ro("DB_OFFSET", off::DB_OFFSET, 0, SRC_DB).effect("ENABLE_DOORBELL fills it"),
    Reg::ro("DB_DATA", off::DB_DATA, 0, SRC_DB).effect("ENABLE_DOORBELL fills it"),
];
