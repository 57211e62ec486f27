//! Named parts that several registers of configuration space share. Sources: as the rows that use them.

use block::Field;

/// STATUS and SECONDARY_STATUS (PCIe §7.5.1.1.4).
pub const STATUS: &[Field] = &[
    Field::bit("DETECTED_PARITY", 15),
    Field::bit("SIG_SYSTEM_ERROR", 14),
    Field::bit("REC_MASTER_ABORT", 13),
    Field::bit("REC_TARGET_ABORT", 12),
    Field::bit("SIG_TARGET_ABORT", 11),
    Field::bit("PARITY", 8),
    Field::bit("CAP_LIST", 4),
    Field::bit("INTERRUPT", 3),
];

/// Payload and read request sizes (PCIe §7.5.3.4).
pub const PAYLOAD: &[(u32, &str)] =
    &[(0, "128B"), (1, "256B"), (2, "512B"), (3, "1024B"), (4, "2048B"), (5, "4096B")];

/// Link speeds (PCIe §7.5.3.6).
pub const SPEED: &[(u32, &str)] =
    &[(1, "2.5GT/s"), (2, "5GT/s"), (3, "8GT/s"), (4, "16GT/s"), (5, "32GT/s"), (6, "64GT/s")];

/// ASPM control and support (PCIe §7.5.3.7).
pub const ASPM: &[(u32, &str)] = &[(1, "L0s"), (2, "L1"), (3, "L0s+L1")];

/// PCIe §7.5.3.2.
pub const EXP_FLAGS: &[Field] = &[
    Field::bits("IRQ", 13, 9),
    Field::bit("SLOT", 8),
    Field::bits("TYPE", 7, 4).values(&[(0, "ENDPOINT"), (4, "ROOT_PORT")]),
    Field::bits("VERSION", 3, 0),
];

/// PCIe §7.5.3.6.
pub const LNKCAP: &[Field] = &[
    Field::bits("PORT", 31, 24),
    Field::bit("ASPM_OPTIONALITY", 22),
    Field::bit("LBNC", 21),
    Field::bit("DLLLARC", 20),
    Field::bit("SDERC", 19),
    Field::bit("CLKPM", 18),
    Field::bits("L1EL", 17, 15),
    Field::bits("L0SEL", 14, 12),
    Field::bits("ASPM", 11, 10).values(ASPM),
    Field::bits("MLW", 9, 4),
    Field::bits("SLS", 3, 0).values(SPEED),
];

/// PCIe §7.5.3.19.
pub const LNKCTL2: &[Field] =
    &[Field::bit("HASD", 5), Field::bit("ENTER_COMPLIANCE", 4), Field::bits("TLS", 3, 0).values(SPEED)];

/// PCIe §7.5.3.9.
pub const SLTCAP: &[Field] = &[
    Field::bits("PSN", 31, 19),
    Field::bit("NCCS", 18),
    Field::bit("EIP", 17),
    Field::bits("SPLS", 16, 15),
    Field::bits("SPLV", 14, 7),
    Field::bit("HPC", 6),
    Field::bit("HPS", 5),
    Field::bit("PIP", 4),
    Field::bit("AIP", 3),
    Field::bit("MRLSP", 2),
    Field::bit("PCP", 1),
    Field::bit("ABP", 0),
];

/// Uncorrectable errors (PCIe §7.8.4.2).
pub const AER_UNCOR: &[Field] = &[
    Field::bit("INTERNAL", 22),
    Field::bit("ACS_VIOLATION", 21),
    Field::bit("UNSUP_REQUEST", 20),
    Field::bit("ECRC", 19),
    Field::bit("MALFORMED_TLP", 18),
    Field::bit("RX_OVERFLOW", 17),
    Field::bit("UNEXPECTED_COMPLETION", 16),
    Field::bit("COMPLETER_ABORT", 15),
    Field::bit("COMPLETION_TIMEOUT", 14),
    Field::bit("FLOW_CONTROL", 13),
    Field::bit("POISONED_TLP", 12),
    Field::bit("SURPRISE_DOWN", 5),
    Field::bit("DLP", 4),
];

/// Correctable errors (PCIe §7.8.4.5).
pub const AER_COR: &[Field] = &[
    Field::bit("LOG_OVERFLOW", 15),
    Field::bit("INTERNAL", 14),
    Field::bit("ADV_NONFATAL", 13),
    Field::bit("REPLAY_TIMER", 12),
    Field::bit("REPLAY_ROLLOVER", 8),
    Field::bit("BAD_DLLP", 7),
    Field::bit("BAD_TLP", 6),
    Field::bit("RECEIVER", 0),
];
