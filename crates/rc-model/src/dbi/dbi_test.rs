use super::*;
use crate::soc::SM8250;

const DOWN: LinkView = LinkView { ltssm: 0, up: false, training: false };
const UP: LinkView = LinkView { ltssm: 0x11, up: true, training: false };
const EP: Rate = Rate { speed: 4, width: 4 };

fn get(d: &Dbi, off: u32, w: Width) -> u64 {
    d.read(DOWN, u64::from(off), w)
}

fn put(d: &mut Dbi, off: u32, w: Width, v: u64) -> bool {
    d.write(u64::from(off), w, v)
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
    assert_eq!(ids, [0x0001, 0x0019, 0x001e]);
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
    let training = LinkView { ltssm: 0x0d, up: true, training: true };
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
    put(&mut d, LNKCTL, Width::B2, u64::from(LNKCTL_LBMIE));
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
        d.config.set_word(RTSTA, 1 << 16);
        put(d, RTCTL, Width::B2, 1 << 3);
    };
    let aer = |d: &mut Dbi| {
        d.config.set_word(AER_ROOT_STATUS, 1 << 6);
        put(d, AER_ROOT_COMMAND, Width::B4, 1 << 2);
    };
    let slot = |d: &mut Dbi| {
        d.show_link(UP, EP);
        put(d, SLTCTL, Width::B2, u64::from(SLTCTL_HPIE | SLTCTL_DLLSCE));
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
    assert_ne!(get(&d, SLTSTA, Width::B2) as u16 & SLTSTA_CC, 0);
    put(&mut d, SLTSTA, Width::B2, u64::from(SLTSTA_CC));
    unlocked(&mut d, |d| {
        let v = get(d, SLTCAP, Width::B4) | u64::from(SLTCAP_NCCS);
        put(d, SLTCAP, Width::B4, v);
    });
    put(&mut d, SLTCTL, Width::B2, 0);
    assert_eq!(get(&d, SLTSTA, Width::B2) as u16 & SLTSTA_CC, 0);
}

#[test]
fn presence_follows_the_card_through_a_reset() {
    let mut d = Dbi::new(&SM8250, false);
    assert_eq!(get(&d, SLTSTA, Width::B2) as u16 & SLTSTA_PDS, 0);
    d.reset(ResetKind::Core, false);
    assert_eq!(get(&d, SLTSTA, Width::B2) as u16 & SLTSTA_PDS, 0);
    assert_ne!(get(&Dbi::new(&SM8250, true), SLTSTA, Width::B2) as u16 & SLTSTA_PDS, 0);
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
