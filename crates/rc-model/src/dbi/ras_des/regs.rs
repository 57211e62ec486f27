//! Registers of the RAS-DES capability, from +4, and the events that it counts. No behaviour.

use block::Field;
use block::Reg;

/// Selects a counter, enables and clears it.
pub const COUNTER_CTRL: u32 = 0x08;
/// The selected counter.
pub const COUNTER_DATA: u32 = 0x0c;
/// Starts and stops a measurement and selects its report.
pub const TIME_CTRL: u32 = 0x10;
/// The selected report, low half.
pub const TIME_DATA_LOW: u32 = 0x14;
/// The selected report, high half.
pub const TIME_DATA_HIGH: u32 = 0x18;
/// One bit an error group: inject.
pub const ERR_INJ_ENABLE: u32 = 0x30;
/// What group 0 injects, and how often; the other groups follow.
pub const ERR_INJ0: u32 = 0x34;
/// Lane selector and the lane's receiver.
pub const SD_STATUS_L1LANE: u32 = 0xb0;

/// COUNTER_CTRL: group 27:24 and event 23:16.
pub const EVENT_SELECT: u32 = 0x0fff_0000;
/// COUNTER_CTRL: the group.
pub const GROUP_SHIFT: u32 = 24;
/// COUNTER_CTRL: the event.
pub const EVENT_SHIFT: u32 = 16;
/// COUNTER_CTRL: lane 11:8.
pub const LANE_SELECT: u32 = 0x0f00;
/// COUNTER_CTRL: the selected counter counts.
pub const COUNTER_ENABLED: u32 = 1 << 7;
/// COUNTER_CTRL: where the enable command begins, three bits.
pub const ENABLE_SHIFT: u32 = 2;
/// TIME_CTRL: measure.
pub const TIMER_START: u32 = 1 << 0;
/// TIME_CTRL: where the duration begins, eight bits; 0: until software stops it.
pub const DURATION_SHIFT: u32 = 8;
/// TIME_CTRL: where the report begins, eight bits.
pub const REPORT_SHIFT: u32 = 24;
/// SD_STATUS_L1LANE: a receiver is detected.
pub const DETECT_LANE: u32 = 1 << 17;
/// SD_STATUS_L1LANE: the receiver gets something valid.
pub const RXVALID: u32 = 1 << 18;
/// Error groups.
pub const ERR_GROUPS: u32 = 6;
/// ERR_INJn: times to inject, 7:0.
pub const ERR_INJ_COUNT: u32 = 0xff;
/// ERR_INJ0: type 11:8.
pub const ERR_INJ0_TYPE: u32 = 0x0f00;
/// ERR_INJ0: damage the LCRC of received TLPs.
pub const ERR_INJ0_RX_LCRC: u32 = 0x0800;

const SRC: &str = "spec §2.8; Linux 7.3 pcie-designware-debugfs.c";
const PMU: &str = "spec §2.8; Linux v6.12 dwc_pcie_pmu.c";

/// What writes to EVENT_COUNTER_CONTROL do.
const COUNTER_COMMANDS: &str =
    "4:2 = 1 stops and 3 starts the selected counter, 5 and 7 all (INFERRED); 1:0 = 1 \
     clears it, 3 all (INFERRED); both read 0; 7 tells whether it counts";

/// All registers.
pub const ROWS: &[Reg] = &[
    Reg::ro("RAS_DES_HEADER", 0x04, 0x1004_0002, "spec §2.8: VSEC ID 2, revision 4; INFERRED length 0x100"),
    Reg::rw("EVENT_COUNTER_CONTROL", COUNTER_CTRL, 0, EVENT_SELECT | LANE_SELECT, PMU)
        .fields(&[
            Field::bits("GROUP", 27, 24),
            Field::bits("EVENT", 23, 16),
            Field::bits("LANE", 11, 8),
            Field::bit("COUNTING", 7),
            Field::bits("ENABLE", 4, 2).values(&[(1, "OFF"), (3, "ON"), (5, "ALL_OFF"), (7, "ALL_ON")]),
            Field::bits("CLEAR", 1, 0).values(&[(1, "ONE"), (3, "ALL")]),
        ])
        .effect(COUNTER_COMMANDS),
    Reg::ro("EVENT_COUNTER_DATA", COUNTER_DATA, 0, PMU).effect("the selected counter"),
    Reg::rw("TIME_BASED_ANALYSIS_CONTROL", TIME_CTRL, 0, 0xff00_ff01, PMU)
        .fields(&[Field::bits("REPORT", 31, 24), Field::bits("DURATION", 15, 8), Field::bit("START", 0)])
        .effect("0 measures, from zero, for the duration 15:8; 31:24 select the report"),
    Reg::ro("TIME_BASED_ANALYSIS_DATA", TIME_DATA_LOW, 0, PMU).effect("the selected report"),
    Reg::ro("TIME_BASED_ANALYSIS_DATA_HIGH", TIME_DATA_HIGH, 0, PMU).effect("the selected report"),
    Reg::rw("ERR_INJ_ENABLE", ERR_INJ_ENABLE, 0, (1 << ERR_GROUPS) - 1, SRC)
        .effect("a group's bit clears itself after its last injection (INFERRED)"),
    Reg::rw("ERR_INJ0", 0x34, 0, 0x0fff, SRC)
        .fields(&[Field::bits("TYPE", 11, 8), Field::bits("COUNT", 7, 0)])
        .effect("type 8: received TLPs are bad, COUNT times"),
    Reg::rw("ERR_INJ1", 0x38, 0, 0x1fff_01ff, SRC).fields(&[
        Field::bits("DIFF", 28, 16),
        Field::bit("TYPE", 8),
        Field::bits("COUNT", 7, 0),
    ]),
    Reg::rw("ERR_INJ2", 0x3c, 0, 0x03ff, SRC)
        .fields(&[Field::bits("TYPE", 9, 8), Field::bits("COUNT", 7, 0)]),
    Reg::rw("ERR_INJ3", 0x40, 0, 0x07ff, SRC)
        .fields(&[Field::bits("TYPE", 10, 8), Field::bits("COUNT", 7, 0)]),
    Reg::rw("ERR_INJ4", 0x44, 0, 0x1fff_77ff, SRC).fields(&[
        Field::bits("DIFF", 28, 16),
        Field::bits("VC", 14, 12),
        Field::bits("TYPE", 10, 8),
        Field::bits("COUNT", 7, 0),
    ]),
    Reg::rw("ERR_INJ5", 0x48, 0, 0x01ff, SRC).fields(&[Field::bit("TYPE", 8), Field::bits("COUNT", 7, 0)]),
    Reg::rw("SD_STATUS_L1LANE", SD_STATUS_L1LANE, 0, 0xf, SRC)
        .fields(&[Field::bit("RXVALID", 18), Field::bit("DETECT_LANE", 17), Field::bits("LANE", 3, 0)])
        .effect("17 a receiver is detected, 18 it gets something valid: of the lane in 3:0"),
];

/// How many events each group has: numbers first to last (Linux 7.3 pcie-designware-debugfs.c event_list).
pub const EVENTS: [std::ops::RangeInclusive<u8>; 8] =
    [0..=0xa, 0x5..=0xd, 0..=7, 0..=5, 0..=1, 0..=0xd, 0..=6, 0..=0x19];
/// Groups that count a lane each; the others count the link.
pub const LANE_GROUPS: [u8; 2] = [0, 4];
