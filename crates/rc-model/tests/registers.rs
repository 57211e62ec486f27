//! Every row of every register table: sound in itself, and true of the machine.

use block::Reg;
use block::RegFile;
use block::ResetKind;
use block::Width;
use rc_fuzz::machine::Machine;
use rc_model::register_name;
use rc_model::soc;
use rc_model::Config;
use rc_model::Soc;
use rc_model::Window;

/// Tables with the window they are in and the offsets they are at.
fn tables() -> Vec<(Window, Vec<u32>, &'static [Reg])> {
    tables_where(|_| true)
}

/// Those whose title `wanted` accepts.
fn tables_where(wanted: fn(&str) -> bool) -> Vec<(Window, Vec<u32>, &'static [Reg])> {
    rc_model::tables()
        .into_iter()
        .filter(|t| wanted(t.title))
        // PM_PMC is the port's own: it says from where PME# comes.
        .map(|t| (t.window, t.bases, if t.title == PM { &t.rows[1..] } else { t.rows }))
        .collect()
}

const PM: &str = "Root port: power management";

#[test]
fn the_reference_in_docs_is_the_tables() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/registers.md");
    let text = std::fs::read_to_string(file).unwrap_or_default();
    assert!(text == rc_model::reference(), "out of date: cargo run -p rcvm -- registers > docs/registers.md");
}

const KINDS: [ResetKind; 6] = [
    ResetKind::PowerOn,
    ResetKind::Core,
    ResetKind::Perst,
    ResetKind::HotReset,
    ResetKind::LinkDown,
    ResetKind::D3HotToD0,
];

/// The SoC that stands for all that have `win`.
fn owner(win: Window) -> &'static Soc {
    soc::SOCS.iter().find(|s| s.wrapper.has(win)).expect("a SoC has it")
}

#[test]
fn rows_are_sound() {
    for (win, bases, rows) in tables() {
        let mut end = 0;
        let mut sorted: Vec<&Reg> = rows.iter().collect();
        sorted.sort_by_key(|r| r.off);
        for r in sorted {
            assert!(!r.name.is_empty() && !r.src.is_empty(), "{win:?} {:#x}", r.off);
            assert_eq!(u64::from(r.off) % r.width.bytes(), 0, "{}: aligned", r.name);
            assert!(r.off >= end, "{}: overlaps its predecessor", r.name);
            end = r.off + r.width.bytes() as u32;
            assert_eq!(r.rw & r.w1c, 0, "{}: a bit is RW or W1C", r.name);
            assert_eq!(u64::from(r.reset | r.rw | r.w1c | r.ro_wr) & !r.width.ones(), 0, "{}: fits", r.name);
            for base in &bases {
                let off = u64::from(base + r.off);
                assert!(off + r.width.bytes() <= owner(win).window(win).1, "{}: inside its window", r.name);
                let name = register_name(win, off).unwrap_or_default();
                assert!(name.ends_with(r.name), "{} is named {name}", r.name);
            }
        }
    }
}

#[test]
fn every_row_keeps_its_masks_and_survives_what_it_says() {
    for (_, _, rows) in tables() {
        for r in rows {
            let off = u64::from(r.off);
            let ones = r.width.ones();
            let file = || RegFile::new(r.off + 4, std::slice::from_ref(r));
            assert_eq!(file().read(off, r.width), u64::from(r.reset), "{}: reset value", r.name);
            let mut f = file();
            f.set_word(r.off, u32::MAX);
            f.write(off, r.width, ones, false);
            assert_eq!(f.read(off, r.width), ones & !u64::from(r.w1c), "{}: ones clear W1C only", r.name);
            let mut f = file();
            f.set_word(r.off, u32::MAX);
            f.write(off, r.width, 0, false);
            assert_eq!(f.read(off, r.width), ones & !u64::from(r.rw), "{}: zeros reach RW only", r.name);
            let mut f = file();
            f.write(off, r.width, ones, true);
            let want = u64::from(r.reset | r.rw | r.ro_wr) & !u64::from(r.w1c);
            assert_eq!(f.read(off, r.width) & !u64::from(r.w1c), want, "{}: DBI_RO_WR_EN", r.name);
            for kind in KINDS {
                f.set_word(r.off, u32::MAX);
                f.reset(kind);
                let want = u64::from(r.kept(kind) | r.reset & !r.kept(kind));
                assert_eq!(f.read(off, r.width), want, "{}: {kind:?}", r.name);
            }
        }
    }
}

/// Registers whose reads follow something other than what was written, each tested where it lives.
const LIVE: &[(Window, u64)] = &[
    (Window::Gpio, 0x0), // DAT reads the lines that `wake` drives
    (Window::Gpio, 0x4),
    (Window::Gpio, 0x8),
    (Window::Reset, 0x0), // `wake` deasserts
];

#[test]
fn the_machine_answers_as_its_rows_say_and_the_core_reset_undoes_writes() {
    let newest = soc::find("sc8280xp").expect("a SoC with a core of 5.60a");
    let old = tables_where(|title| !title.contains("5.60a")).into_iter().map(|t| (owner(t.0), t));
    let new = tables_where(|title| title.contains("5.60a")).into_iter().map(|t| (newest, t));
    for (soc, (win, bases, rows)) in old.chain(new) {
        for (base, r) in bases.iter().flat_map(|b| rows.iter().map(move |r| (b, r))) {
            let off = u64::from(base + r.off);
            if LIVE.contains(&(win, off)) {
                continue;
            }
            let mut m = Machine::with(Config::new(soc, None));
            m.wake();
            let cold = m.read(win, off, r.width);
            let live = if win == Window::Phy && off == 0x3c { 1 } else { 0 };
            assert_eq!(cold, u64::from(r.reset | live), "{win:?} {}: reset value", r.name);
            m.write(win, off, r.width, r.width.ones());
            let want = (cold | u64::from(r.rw)) & !u64::from(r.w1c);
            assert_eq!(m.read(win, off, r.width), want, "{win:?} {}: after writing ones", r.name);
            m.reset_line(soc::RESET_CORE, true);
            m.reset_line(soc::RESET_CORE, false);
            let after = m.read(win, off, r.width);
            let provider = win == Window::Phy;
            assert_eq!(after, if provider { want } else { cold }, "{win:?} {}: core reset", r.name);
        }
    }
}

#[test]
fn a_byte_access_reads_and_writes_one_lane_everywhere() {
    for (win, off) in [
        (Window::Parf, 0x350),
        (Window::Dbi, 0x708),
        (Window::Dbi, 0x828),
        (Window::Dbi, 0x28),
        (Window::Atu, 0x0c),
        (Window::Elbi, 0xa4),
        (Window::Phy, 0x74),
        (Window::Gpio, 0x4),
    ] {
        let mut m = Machine::new();
        m.wake();
        m.writel(win, off, 0);
        m.write(win, off + 2, Width::B1, 0xa5);
        assert_eq!(m.readl(win, off), 0x00a5_0000, "{win:?}");
        assert_eq!(m.read(win, off + 2, Width::B2), 0xa5, "{win:?}");
    }
}
