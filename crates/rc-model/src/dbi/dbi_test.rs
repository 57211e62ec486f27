use super::*;
use crate::soc::SM8250;

const DOWN: LinkView = LinkView { now: SimTime::ZERO, ltssm: 0, up: false, training: false };
const UP: LinkView = LinkView { now: SimTime::ZERO, ltssm: 0x11, up: true, training: false };
const EP: Rate = Rate { speed: 4, width: 4 };

fn get(d: &Dbi, off: u32, w: Width) -> u64 {
    d.read(DOWN, u64::from(off), w)
}

fn put(d: &mut Dbi, off: u32, w: Width, v: u64) -> bool {
    d.write(DOWN, u64::from(off), w, v)
}

fn unlocked(d: &mut Dbi, f: impl FnOnce(&mut Dbi)) {
    put(d, regs::MISC_CONTROL_1, Width::B4, 1);
    f(d);
    put(d, regs::MISC_CONTROL_1, Width::B4, 0);
}

/// The walk of `__dw_pcie_find_next_cap()` of Linux v6.12.
fn capabilities(d: &Dbi) -> Vec<(u32, u8)> {
    let mut at = get(d, 0x34, Width::B2) as u32 & 0xff;
    let mut seen = Vec::new();
    while at != 0 {
        let reg = get(d, at, Width::B2) as u32;
        seen.push((at, reg as u8));
        at = reg >> 8;
    }
    seen
}

#[test]
fn the_capability_list_starts_with_pci_express_and_ends() {
    let d = Dbi::new(&SM8250, true);
    assert_eq!(capabilities(&d), [(0x70, 0x10), (0x40, 0x01), (0x50, 0x05)]);
    let mut at = 0x100;
    let mut ids = Vec::new();
    while at != 0 {
        assert!(at < 0xf00, "a read past DBI would land in ELBI (spec §2.8)");
        let head = get(&d, at, Width::B4) as u32;
        ids.push(head & 0xffff);
        at = head >> 20;
    }
    assert_eq!(ids, [0x0001, 0x0019, 0x001e, 0x0026, 0x0018, 0x001d, 0x001f, 0x000b, 0x000b]);
}

#[test]
fn header_type_is_single_function_bridge_with_no_quirky_id() {
    let d = Dbi::new(&SM8250, true);
    assert_eq!(get(&d, 0x0e, Width::B1), 1, "type 1, multifunction 0 (spec §8 trap 9)");
    assert_eq!(get(&d, 0, Width::B4), 0x010b_17cb);
    let fixups =
        [0x0101, 0x0104, 0x0106, 0x0107, 0x0302, 0x1000, 0x1001, 0x0111, 0x0115, 0x0120, 0x0400, 0x0401];
    assert!(!fixups.contains(&u32::from(regs::DEVICE)));
}

#[test]
fn the_class_changes_only_under_dbi_ro_wr_en() {
    let mut d = Dbi::new(&SM8250, true);
    assert_ne!(get(&d, 0x0a, Width::B2), 0x0604);
    put(&mut d, 0x0a, Width::B2, 0x0604);
    assert_ne!(get(&d, 0x0a, Width::B2), 0x0604);
    unlocked(&mut d, |d| {
        put(d, 0x0a, Width::B2, 0x0604);
    });
    assert_eq!(get(&d, 0x0a, Width::B2), 0x0604);
    assert!(!d.ro_wr_en());
}

#[test]
fn capabilities_can_be_unlinked_and_slot_and_link_capabilities_edited() {
    let mut d = Dbi::new(&SM8250, true);
    unlocked(&mut d, |d| {
        put(d, 0x41, Width::B1, 0);
        let sltcap = get(d, SLTCAP, Width::B4) & !(1 << 6);
        put(d, SLTCAP, Width::B4, sltcap);
        let lnkcap = get(d, LNKCAP, Width::B4) & !0xf | 2;
        put(d, LNKCAP, Width::B4, lnkcap);
    });
    assert_eq!(capabilities(&d), [(0x70, 0x10), (0x40, 0x01)]);
    assert_eq!(get(&d, SLTCAP, Width::B4) & 1 << 6, 0, "HPC cleared");
    assert_eq!(get(&d, LNKCAP, Width::B4) & 0xf, 2);
}

#[test]
fn dllla_reads_zero_out_of_reset_and_the_viewport_all_ones() {
    let d = Dbi::new(&SM8250, true);
    assert_eq!(get(&d, LNKSTA, Width::B2) as u16 & exp::LNKSTA_DLLLA, 0, "or Linux skips start_link");
    assert_eq!(get(&d, 0x900, Width::B4), 0xffff_ffff);
    assert_eq!(get(&d, 0x8f8, Width::B4), 0x3534_302a);
}

#[test]
fn the_link_shows_the_lesser_of_both_ends_and_of_the_target_speed() {
    let mut d = Dbi::new(&SM8250, true);
    d.show_link(UP, EP);
    let sta = get(&d, LNKSTA, Width::B2) as u16;
    assert_eq!(sta & 0x3ff, 0x13, "8 GT/s x1 of the port");
    put(&mut d, LNKCTL2, Width::B2, 1);
    d.show_link(UP, EP);
    assert_eq!(get(&d, LNKSTA, Width::B2) as u16 & 0xf, 1);
    d.show_link(DOWN, EP);
    assert_eq!(get(&d, LNKSTA, Width::B2) as u16 & exp::LNKSTA_DLLLA, 0);
}

#[test]
fn speed_change_stays_set_until_the_link_is_up() {
    let mut d = Dbi::new(&SM8250, true);
    let v = get(&d, regs::LINK_WIDTH_SPEED_CONTROL, Width::B4) | u64::from(regs::SPEED_CHANGE);
    assert!(put(&mut d, regs::LINK_WIDTH_SPEED_CONTROL, Width::B4, v));
    assert_eq!(get(&d, regs::LINK_WIDTH_SPEED_CONTROL, Width::B4), v);
    d.show_link(UP, EP);
    assert_eq!(get(&d, regs::LINK_WIDTH_SPEED_CONTROL, Width::B4), v & !u64::from(regs::SPEED_CHANGE));
}

#[test]
fn debug_registers_mirror_the_link() {
    let d = Dbi::new(&SM8250, true);
    let training = LinkView { now: SimTime::ZERO, ltssm: 0x0d, up: true, training: true };
    assert_eq!(d.read(training, 0x728, Width::B4), 0x0d);
    assert_eq!(d.read(training, 0x72c, Width::B4), 1 << 29 | 1 << 4);
    assert_eq!(d.read(DOWN, 0x72c, Width::B4), 0);
}

#[test]
fn retrain_is_reported_and_its_bit_reads_zero() {
    let mut d = Dbi::new(&SM8250, true);
    assert!(put(&mut d, LNKCTL, Width::B2, u64::from(exp::LNKCTL_RL)));
    assert_eq!(get(&d, LNKCTL, Width::B2) as u16 & exp::LNKCTL_RL, 0);
    assert!(!put(&mut d, LNKCTL, Width::B2, 0x40));
}

#[test]
fn bandwidth_notification_asserts_inta_until_cleared_masked_or_moved_to_msi() {
    let mut d = Dbi::new(&SM8250, true);
    d.retrained();
    assert_eq!(d.intx(), 0, "not enabled");
    put(&mut d, LNKCTL, Width::B2, u64::from(exp::LNKCTL_LBMIE));
    assert_eq!(d.intx(), 1, "enabling with a latched status raises it");
    assert_ne!(get(&d, 0x06, Width::B2) as u16 & pci::STATUS_INTERRUPT, 0);
    put(&mut d, 0x04, Width::B2, u64::from(pci::COMMAND_INTX_DISABLE));
    assert_eq!(d.intx(), 0);
    put(&mut d, 0x04, Width::B2, 0);
    put(&mut d, MSI_FLAGS, Width::B2, 1);
    assert_eq!(d.intx(), 0, "the port's own MSI goes nowhere");
    put(&mut d, MSI_FLAGS, Width::B2, 0);
    put(&mut d, LNKSTA, Width::B2, u64::from(exp::LNKSTA_LBMS));
    assert_eq!(d.intx(), 0, "W1C");
    assert_eq!(get(&d, 0x06, Width::B2) as u16 & pci::STATUS_INTERRUPT, 0);
}

#[test]
fn pme_aer_and_slot_events_share_the_pin() {
    let pme = |d: &mut Dbi| {
        d.pme_message(Bdf::new(1, 0, 0));
        put(d, RTCTL, Width::B2, 1 << 3);
    };
    let aer = |d: &mut Dbi| {
        d.config.set_word(AER_ROOT_STATUS, 1 << 6);
        put(d, AER_ROOT_COMMAND, Width::B4, 1 << 2);
    };
    let slot = |d: &mut Dbi| {
        d.show_link(UP, EP);
        put(d, SLTCTL, Width::B2, u64::from(exp::SLTCTL_HPIE | exp::SLTCTL_DLLSCE));
    };
    let events: [fn(&mut Dbi); 3] = [pme, aer, slot];
    for event in events {
        let mut d = Dbi::new(&SM8250, true);
        event(&mut d);
        assert_eq!(d.intx(), 1);
    }
}

#[test]
fn command_completed_follows_a_slot_command_unless_nccs() {
    let mut d = Dbi::new(&SM8250, true);
    put(&mut d, SLTCTL, Width::B2, 0);
    assert_ne!(get(&d, SLTSTA, Width::B2) as u16 & exp::SLTSTA_CC, 0);
    put(&mut d, SLTSTA, Width::B2, u64::from(exp::SLTSTA_CC));
    unlocked(&mut d, |d| {
        let v = get(d, SLTCAP, Width::B4) | u64::from(exp::SLTCAP_NCCS);
        put(d, SLTCAP, Width::B4, v);
    });
    put(&mut d, SLTCTL, Width::B2, 0);
    assert_eq!(get(&d, SLTSTA, Width::B2) as u16 & exp::SLTSTA_CC, 0);
}

#[test]
fn presence_follows_the_card_through_a_reset() {
    let mut d = Dbi::new(&SM8250, false);
    assert_eq!(get(&d, SLTSTA, Width::B2) as u16 & exp::SLTSTA_PDS, 0);
    d.reset(ResetKind::Core, false);
    assert_eq!(get(&d, SLTSTA, Width::B2) as u16 & exp::SLTSTA_PDS, 0);
    assert_ne!(get(&Dbi::new(&SM8250, true), SLTSTA, Width::B2) as u16 & exp::SLTSTA_PDS, 0);
}

#[test]
fn a_core_reset_brings_back_every_value_the_driver_changed() {
    let mut d = Dbi::new(&SM8250, true);
    let cold: Vec<u64> = (0..regs::LEN_BYTES / 4).map(|i| get(&d, i * 4, Width::B4)).collect();
    put(&mut d, regs::MISC_CONTROL_1, Width::B4, 1);
    for i in 0..regs::LEN_BYTES / 4 {
        if i * 4 != regs::MISC_CONTROL_1 {
            put(&mut d, i * 4, Width::B4, 0x5aa5_5aa5);
        }
    }
    d.reset(ResetKind::Core, true);
    for (i, want) in cold.iter().enumerate() {
        let off = i as u32 * 4;
        // PCIe sticky bits survive a hot reset, but the core reset is a fundamental one.
        assert_eq!(get(&d, off, Width::B4), *want, "{off:#x}");
    }
}

const VSEC: u32 = regs::RAS_DES;

#[test]
fn older_cores_have_fewer_extended_capabilities_and_no_registers_in_their_place() {
    let msm8996 = crate::soc::find("msm8996").expect("in the table");
    let mut d = Dbi::new(msm8996, true);
    let mut at = 0x100;
    let mut ids = Vec::new();
    while at != 0 {
        let head = get(&d, at, Width::B4) as u32;
        ids.push(head & 0xffff);
        at = head >> 20;
    }
    assert_eq!(ids, [0x0001, 0x0019, 0x001e]);
    put(&mut d, VSEC + 8, Width::B4, 0x0700_001c);
    assert_eq!(get(&d, VSEC + 8, Width::B4), 0);
}

#[test]
fn linux_finds_the_vendor_capabilities_by_id_and_revision() {
    let d = Dbi::new(&SM8250, true);
    let header = |at: u32| get(&d, at + 4, Width::B4) as u32;
    assert_eq!((get(&d, 0, Width::B2), header(VSEC) & 0xf_ffff), (0x17cb, 0x4_0002));
    assert_eq!(header(regs::PTM_VSEC) & 0xf_ffff, 0x1_0004);
    let at = LinkView { now: SimTime(0x1_0000_0002), ..DOWN };
    let local = |off| d.read(at, u64::from(regs::PTM_VSEC + off), Width::B4);
    assert_eq!((local(regs::PTM_LOCAL_MSB), local(regs::PTM_LOCAL_LSB)), (1, 2));
}

#[test]
fn dpc_can_be_unlinked_from_the_middle_of_the_list() {
    let mut d = Dbi::new(&SM8250, true);
    unlocked(&mut d, |d| {
        let before = get(d, regs::LTR, Width::B4) & 0xf_ffff | u64::from(regs::PTM) << 20;
        put(d, regs::LTR, Width::B4, before);
    });
    assert_eq!(get(&d, regs::LTR, Width::B4) as u32 >> 20, regs::PTM);
}

#[test]
fn the_newest_ports_do_16_gts() {
    let d = Dbi::new(crate::soc::find("x1e80100").expect("in the table"), true);
    assert_eq!((get(&d, LNKCAP, Width::B4) & 0xf, get(&d, LNKCTL2, Width::B2)), (4, 4));
}

#[test]
fn equalisation_registers_are_one_set_a_rate() {
    let mut d = Dbi::new(&SM8250, true);
    let select = |d: &mut Dbi, rate: u64| put(d, 0x890, Width::B4, rate << 24);
    for rate in 0..3 {
        select(&mut d, rate);
        put(&mut d, 0x8a8, Width::B4, 0x10 + rate);
        put(&mut d, 0x8ac, Width::B4, 0x20 + rate);
    }
    for rate in 0..3 {
        select(&mut d, rate);
        assert_eq!((get(&d, 0x8a8, Width::B4), get(&d, 0x8ac, Width::B4)), (0x10 + rate, 0x20 + rate));
    }
    select(&mut d, 3);
    assert_eq!(get(&d, 0x8a8, Width::B4), 0);
    d.reset(ResetKind::Core, true);
    select(&mut d, 1);
    assert_eq!(get(&d, 0x8a8, Width::B4), 0);
}

#[test]
fn event_counters_are_started_read_and_cleared_through_the_registers() {
    let mut d = Dbi::new(&SM8250, true);
    let ctrl = 7 << 24 | 3 << 16;
    put(&mut d, VSEC + 8, Width::B4, ctrl | 3 << 2);
    assert_eq!(get(&d, VSEC + 8, Width::B4), ctrl | 1 << 7, "commands read 0, the status shows");
    d.count(Count::TxConfigRead);
    assert_eq!(get(&d, VSEC + 0xc, Width::B4), 1);
    put(&mut d, VSEC + 8, Width::B4, ctrl | 1);
    assert_eq!(get(&d, VSEC + 0xc, Width::B4), 0);
    assert_eq!(get(&d, VSEC + 8, Width::B4), ctrl | 1 << 7);
}

#[test]
fn an_injected_bad_tlp_is_a_correctable_error_as_often_as_asked() {
    let mut d = Dbi::new(&SM8250, true);
    put(&mut d, VSEC + 0x34, Width::B4, 8 << 8 | 2);
    d.received_tlp();
    assert_eq!(get(&d, regs::AER + aer::COR_STATUS, Width::B4), 0, "not enabled yet");
    put(&mut d, VSEC + 0x30, Width::B4, 1);
    d.received_tlp();
    assert_eq!(get(&d, regs::AER + aer::COR_STATUS, Width::B4), 1 << 6);
    assert_eq!(get(&d, VSEC + 0x30, Width::B4), 1);
    d.received_tlp();
    assert_eq!((get(&d, VSEC + 0x30, Width::B4), get(&d, VSEC + 0x34, Width::B4)), (0, 8 << 8));
}

#[test]
fn silicon_debug_shows_the_receiver_of_the_only_lane_while_the_link_is_up() {
    let mut d = Dbi::new(&SM8250, true);
    let at = u64::from(VSEC + 0xb0);
    assert_eq!(d.read(UP, at, Width::B4), 3 << 17);
    assert_eq!(d.read(DOWN, at, Width::B4), 0);
    put(&mut d, VSEC + 0xb0, Width::B4, 1);
    assert_eq!(d.read(UP, at, Width::B4), 1, "no lane 1");
}

#[test]
fn a_surprise_down_is_reported_by_aer_as_a_function_of_its_registers() {
    let mut d = Dbi::new(&SM8250, true);
    d.surprise_down();
    assert_eq!(get(&d, regs::AER + aer::UNCOR_STATUS, Width::B4), 1 << 5);
    assert_eq!(get(&d, AER_ROOT_STATUS, Width::B4), 0, "nobody asked for reports");
    assert_eq!(get(&d, DEVSTA, Width::B2) as u16 & 0xf, exp::DEVSTA_FED);
    put(&mut d, DEVCTL, Width::B2, u64::from(exp::DEVCTL_FERE));
    d.surprise_down();
    assert_eq!(get(&d, AER_ROOT_STATUS, Width::B4), 1 << 2 | 1 << 4 | 1 << 6);
    assert_eq!(d.intx(), 0);
    put(&mut d, AER_ROOT_COMMAND, Width::B4, 1 << 2);
    assert_eq!(d.intx(), 1, "enabling with a latched error raises it");
    put(&mut d, AER_ROOT_STATUS, Width::B4, 1 << 2 | 1 << 4 | 1 << 6);
    assert_eq!(d.intx(), 0);
}

#[test]
fn a_masked_error_is_latched_and_not_reported() {
    let mut d = Dbi::new(&SM8250, true);
    put(&mut d, DEVCTL, Width::B2, u64::from(exp::DEVCTL_FERE));
    put(&mut d, regs::AER + aer::UNCOR_MASK, Width::B4, 1 << 5);
    d.surprise_down();
    assert_eq!(get(&d, regs::AER + aer::UNCOR_STATUS, Width::B4), 1 << 5);
    assert_eq!(get(&d, AER_ROOT_STATUS, Width::B4), 0);
}

#[test]
fn error_messages_pass_only_with_bridge_serr_and_leave_their_first_source() {
    let mut d = Dbi::new(&SM8250, true);
    let (a, b) = (Bdf::new(1, 0, 0), Bdf::new(1, 0, 1));
    d.error_message(a, ErrorMessage::NonFatal);
    assert_eq!(get(&d, AER_ROOT_STATUS, Width::B4), 0);
    put(&mut d, 0x3e, Width::B2, u64::from(pci::BRIDGE_SERR));
    d.error_message(a, ErrorMessage::NonFatal);
    d.error_message(b, ErrorMessage::Fatal);
    d.error_message(b, ErrorMessage::Correctable);
    assert_eq!(get(&d, AER_ROOT_STATUS, Width::B4), 0b110_1101, "the first uncorrectable one was not fatal");
    assert_eq!(get(&d, regs::AER + aer::ERROR_SOURCE, Width::B4), 0x0100_0101);
}

#[test]
fn dpc_takes_a_fatal_error_before_aer_and_holds_the_link_down() {
    let mut d = Dbi::new(&SM8250, true);
    put(&mut d, DEVCTL, Width::B2, 0xf);
    put(&mut d, DPC_CTL, Width::B2, u64::from(1 | pci::DPC_INT_ENABLE));
    d.surprise_down();
    assert!(d.link_disabled());
    assert_eq!((get(&d, DPC_STATUS, Width::B2), d.intx()), (0x9, 1));
    assert_eq!(get(&d, AER_ROOT_STATUS, Width::B4), 0);
    put(&mut d, DPC_STATUS, Width::B2, 0x8);
    assert_eq!((d.link_disabled(), d.intx()), (true, 0));
    put(&mut d, DPC_STATUS, Width::B2, 0x1);
    assert!(!d.link_disabled());
    put(&mut d, DPC_CTL, Width::B2, u64::from(pci::DPC_SW_TRIGGER));
    assert_eq!((get(&d, DPC_CTL, Width::B2), get(&d, DPC_STATUS, Width::B2)), (0, 0x2f), "by software");
}

#[test]
fn a_second_pme_waits_for_the_first() {
    let mut d = Dbi::new(&SM8250, true);
    put(&mut d, RTCTL, Width::B2, 1 << 3);
    d.pme_message(Bdf(0x0100));
    d.pme_message(Bdf(0x0200));
    assert_eq!(get(&d, RTSTA, Width::B4), 0x3_0100);
    put(&mut d, RTSTA, Width::B4, 1 << 16);
    assert_eq!((get(&d, RTSTA, Width::B4), d.intx()), (0x1_0200, 1));
    put(&mut d, RTSTA, Width::B4, 1 << 16);
    assert_eq!((get(&d, RTSTA, Width::B4), d.intx()), (0, 0));
}

#[test]
fn presence_changes_and_autonomous_rate_changes_assert_inta_where_enabled() {
    let mut d = Dbi::new(&SM8250, true);
    d.card_changed(false);
    assert_eq!(get(&d, SLTSTA, Width::B2) as u16 & (exp::SLTSTA_PDC | exp::SLTSTA_PDS), exp::SLTSTA_PDC);
    put(&mut d, SLTCTL, Width::B2, u64::from(exp::SLTCTL_HPIE | exp::SLTCTL_PDCE));
    assert_eq!(d.intx(), 1);
    put(&mut d, SLTSTA, Width::B2, u64::from(exp::SLTSTA_PDC));
    assert_eq!(d.intx(), 0);
    d.rate_changed();
    put(&mut d, LNKCTL, Width::B2, u64::from(exp::LNKCTL_LABIE));
    assert_eq!(d.intx(), 1);
}

#[test]
fn a_read_answered_with_rrs_shows_it_only_where_software_asked_for_it() {
    let mut d = Dbi::new(&SM8250, true);
    assert_eq!(d.rrs_data(0, Width::B4), 0xffff_ffff);
    put(&mut d, RTCTL, Width::B2, u64::from(exp::RTCTL_RRS_SVE));
    assert_eq!(d.rrs_data(0, Width::B4), 0xffff_0001);
    assert_eq!(d.rrs_data(0, Width::B2), 1);
    assert_eq!(d.rrs_data(4, Width::B4), 0xffff_ffff, "only for the vendor ID");
    put(&mut d, regs::AMBA_ERROR_RESPONSE, Width::B4, 1 << 3);
    assert_eq!(d.rrs_data(0, Width::B4), 0xffff_ffff);
}
