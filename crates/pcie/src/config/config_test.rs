use proptest::prelude::*;

use super::*;

fn endpoint() -> ConfigSpace {
    let ids = Ids { vendor: 0x104c, device: 0xb500, class: 0xff0000, pin: 1, ..Ids::default() };
    let bars = [Bar { index: 0, size_bytes: 0x1000 }, Bar { index: 2, size_bytes: 0x10000 }];
    let mut c = ConfigSpace::type0(&ids, &bars);
    c.add_exp(0x70, 0, 0x0000_0013);
    c.add_pm(0x40, 0x0003);
    c.add_msi(0x50);
    c.add_msix(0xb0, 32, 0, 0x80, 0x280);
    c.add_aer(0x100, false);
    c.add_ext_cap(0x150, id::EXT_LTR, 1, &[regs::LTR]);
    c
}

fn bridge() -> ConfigSpace {
    let mut c = ConfigSpace::type1(&Ids { vendor: 0x17cb, device: 0x010b, ..Ids::default() });
    c.add_exp(0x70, 4, 0x13);
    c
}

#[test]
fn capability_lists_are_walkable_in_the_order_they_were_added() {
    let c = endpoint();
    let mut at = c.read(0x34, Width::B1) as u16;
    let mut seen = Vec::new();
    while at != 0 {
        seen.push((at, c.read(at, Width::B1)));
        at = c.read(at + 1, Width::B1) as u16;
    }
    assert_eq!(seen, [(0x70, 0x10), (0x40, 1), (0x50, 5), (0xb0, 0x11)]);
    assert_eq!(c.word(0x100), 0x1502_0001);
    assert_eq!(c.word(0x150), 0x0001_0018);
}

#[test]
fn bars_size_and_decode() {
    let mut c = endpoint();
    c.write(0x10, Width::B4, 0xffff_ffff, false);
    assert_eq!(c.read(0x10, Width::B4), 0xffff_f000);
    c.write(0x14, Width::B4, 0xffff_ffff, false);
    assert_eq!(c.read(0x14, Width::B4), 0, "an absent BAR reads 0");
    c.write(0x10, Width::B4, 0x6030_0000, false);
    assert_eq!(c.bar_hit(0x6030_0004, 4), None, "memory decoding is off");
    c.write(0x04, Width::B2, 2, false);
    assert_eq!(c.bar_hit(0x6030_0004, 4), Some((0, 4)));
    assert_eq!(c.bar_hit(0x6030_0ffe, 4), None, "across the end");
    assert_eq!(c.bar_hit(u64::MAX, 8), None);
}

#[test]
fn a_slot_is_said_in_flags_and_has_its_registers() {
    let mut c = ConfigSpace::type1(&Ids::default());
    c.add_exp(0x70, 6, 0x0010_0013);
    c.add_slot(0x70, 0x0008_0060);
    assert_eq!((c.half(0x72), c.word(0x7c), c.word(0x84)), (0x162, 0x0010_0013, 0x0008_0060));
    let last = regs::EXP_SLOT.last().map(|r| r.name);
    assert_eq!(last, Some("EXP_SLTSTA"), "no register of a root");
    c.write(0x8c, Width::B4, 0xffff, false);
    assert_eq!(c.word(0x8c), 0);
}

#[test]
fn ids_and_pointers_change_only_under_ro_wr_en() {
    let mut c = bridge();
    c.write(0x34, Width::B1, 0x40, false);
    c.write(0x0a, Width::B2, 0x0604, false);
    assert_eq!((c.read(0x34, Width::B1), c.read(0x0a, Width::B2)), (0x70, 0));
    c.write(0x34, Width::B1, 0x40, true);
    c.write(0x0a, Width::B2, 0x0604, true);
    assert_eq!((c.read(0x34, Width::B1), c.read(0x0a, Width::B2)), (0x40, 0x0604));
}

#[test]
fn a_bridge_forwards_its_windows_only() {
    let mut c = bridge();
    c.write(0x20, Width::B4, 0x6040_6030, false);
    assert!(!c.forwards_mem(0x6030_0000), "memory decoding is off");
    c.write(0x04, Width::B2, 2, false);
    for (addr, yes) in [(0x602f_ffff, false), (0x6030_0000, true), (0x604f_ffff, true), (0x6050_0000, false)]
    {
        assert_eq!(c.forwards_mem(addr), yes, "{addr:#x}");
    }
    c.write(0x20, Width::B4, 0x0000_fff0, false);
    assert!(!c.forwards_mem(0x6030_0000), "base above limit is closed");
}

#[test]
fn bus_numbers_are_bytes_of_one_word() {
    let mut c = bridge();
    c.write(0x18, Width::B4, 0x12ff_0100, false);
    assert_eq!((c.secondary_bus(), c.subordinate_bus()), (1, 0xff));
    assert_eq!(c.read(0x18, Width::B4), 0x00ff_0100);
}

/// Every row of every table: reset value, write mask, W1C, DBI_RO_WR_EN.
#[test]
fn all_registers_keep_their_masks() {
    let tables: &[&[Reg]] = &[
        regs::HEADER,
        regs::TYPE0,
        regs::TYPE1,
        regs::PM,
        regs::MSI,
        regs::MSIX,
        regs::EXP,
        regs::EXP_ROOT,
        regs::EXP_SLOT,
        regs::AER,
        regs::AER_ROOT,
        regs::LTR,
        regs::L1SS,
        regs::DPC,
        regs::PTM,
        regs::PL_16GT,
    ];
    for r in tables.iter().flat_map(|t| t.iter()) {
        let file = |rows: &[Reg]| RegFile::new(CONFIG_BYTES, rows);
        let ones = r.width.ones() as u32;
        let off = u64::from(r.off);
        let mut f = file(std::slice::from_ref(r));
        assert_eq!(f.read(off, r.width) as u32, r.reset, "{}: reset", r.name);
        assert_eq!(r.rw & r.w1c, 0, "{}: a bit is both RW and W1C", r.name);
        f.write(off, r.width, 0, false);
        assert_eq!(f.read(off, r.width) as u32, r.reset & !r.rw, "{}: zeros", r.name);
        f.set_word(r.off, u32::MAX);
        f.write(off, r.width, u64::from(ones), false);
        assert_eq!(f.read(off, r.width) as u32, ones & !r.w1c, "{}: W1C", r.name);
        let mut f = file(std::slice::from_ref(r));
        f.write(off, r.width, u64::from(ones), true);
        let want = (r.reset | r.rw | r.ro_wr) & ones;
        assert_eq!(f.read(off, r.width) as u32 & !r.w1c, want & !r.w1c, "{}: RO_WR_EN", r.name);
        for kind in
            [ResetKind::HotReset, ResetKind::LinkDown, ResetKind::Perst, ResetKind::Core, ResetKind::PowerOn]
        {
            f.set_word(r.off, u32::MAX);
            f.reset(kind);
            let want = r.kept(kind) | r.reset & !r.kept(kind);
            assert_eq!(f.read(off, r.width) as u32, want, "{}: {kind:?}", r.name);
        }
    }
}

#[test]
fn a_hot_reset_leaves_pme_enabled_and_the_power_state_d0() {
    let mut c = endpoint();
    let pm =
        (0x40..0x100).step_by(4).find(|at| c.word(*at) & 0xff == 1).expect("a power management capability");
    c.write(pm as u16 + 4, Width::B2, 0x0103, false);
    c.reset(ResetKind::HotReset);
    assert_eq!(c.half(pm + 4), 0x0108);
    c.reset(ResetKind::Perst);
    assert_eq!(c.half(pm + 4), 0x0008);
}

proptest! {
    #[test]
    fn no_write_changes_what_is_read_only(writes in proptest::collection::vec((0u16..0x400, any::<u32>()), 0..64)) {
        let mut c = endpoint();
        let before = (c.word(0), c.word(8), c.word(0x34), c.half(0x50), c.word(0x100), c.word(0xb4));
        for (off, v) in writes {
            c.write(off * 4, Width::B4, u64::from(v), false);
        }
        prop_assert_eq!(before, (c.word(0), c.word(8), c.word(0x34), c.half(0x50), c.word(0x100), c.word(0xb4)));
        prop_assert_eq!(c.word(0x10) & 0xfff, 0);
    }
}
