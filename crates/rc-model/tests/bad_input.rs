//! What no correct driver does: defined, seen, and harmless to the machine.

use block::Width;
use proptest::prelude::*;
use rc_fuzz::machine::MS;
use rc_fuzz::machine::MSI_TARGET;
use rc_fuzz::machine::RAM;
use rc_fuzz::Machine;
use rc_model::soc;
use rc_model::Event;
use rc_model::Window;

const ALL: u32 = 0xffff_ffff;

fn up() -> Machine {
    let mut m = Machine::new();
    m.link_up();
    m.open_downstream();
    m.events.clear();
    m
}

fn seen(m: &mut Machine) -> Vec<String> {
    m.events
        .drain(..)
        .filter_map(|e| if let Event::BadInput { what, .. } = e { Some(what) } else { None })
        .collect()
}

#[test]
fn what_a_correct_driver_does_is_not_bad() {
    let mut m = Machine::new();
    m.link_up();
    m.open_downstream();
    m.arm_msi();
    m.raise_msi(1);
    m.open_downstream();
    assert_eq!(seen(&mut m), Vec::<String>::new());
    assert_eq!(m.item("count.bad_input"), 0);
}

#[test]
fn an_unaligned_access_is_its_bytes() {
    let mut m = up();
    m.writel(Window::Parf, 0x350, 0x4433_2211);
    m.writel(Window::Parf, 0x354, 0x8877_6655);
    assert_eq!(m.read(Window::Parf, 0x351, Width::B4), 0x5544_3322);
    assert_eq!(m.read(Window::Parf, 0x353, Width::B2), 0x5544);
    assert_eq!(seen(&mut m), ["unaligned", "unaligned"]);
    m.write(Window::Parf, 0x352, Width::B4, 0xddcc_bbaa);
    assert_eq!(m.read(Window::Parf, 0x350, Width::B8), 0x8877_ddcc_bbaa_2211);
    m.readl(Window::Config, 0x2);
    assert_eq!(m.read(Window::Config, 0x1, Width::B2), 0x0010, "downstream too");
}

#[test]
fn an_access_that_leaves_its_window_reads_ones_there_and_writes_nothing() {
    let mut m = up();
    let end = soc::window(Window::Elbi).1;
    assert_eq!(m.read(Window::Elbi, end - 2, Width::B4) >> 16, 0xffff);
    m.write(Window::Elbi, end - 2, Width::B4, 0x1122_3344);
    assert_eq!(m.read(Window::Elbi, end - 2, Width::B2), 0x3344, "what is inside is written");
    m.events.clear();
    for win in rc_model::soc::MAP.iter().map(|w| w.0) {
        assert_eq!(m.readl(win, soc::window(win).1), ALL, "{win:?}");
        assert_eq!(m.read(win, u64::MAX, Width::B8), u64::MAX, "{win:?}");
        m.write(win, u64::MAX - 1, Width::B8, 0);
    }
    assert!(seen(&mut m).iter().any(|w| w == "past-the-end"));
}

#[test]
fn a_strict_machine_aborts_an_unaligned_access_of_a_block_that_stands_still() {
    let mut config = rc_model::Config::new(&soc::SM8250, None);
    config.strict = true;
    let mut m = Machine::with(config);
    m.readl(Window::Dbi, 1);
    assert!(m.rc.aborted());
    m.writel(Window::Dbi, 1, 0);
    assert!(m.rc.aborted());
    m.readl(Window::Gpio, 1);
    assert!(!m.rc.aborted());
}

#[test]
fn flawed_outbound_regions_are_named_and_have_an_outcome() {
    let (mem, len) = soc::window(Window::Mem);
    let mut m = up();
    m.outbound(1, mem + 0x10000, mem, mem, 0);
    assert_eq!(m.readl(Window::Mem, 0), ALL);
    assert!(matches!(&m.events[..], [Event::BadInput { what, .. }, Event::Unrouted { why, .. }]
        if what == "iatu-inverted" && why == "no-window"));
    m.events.clear();
    m.outbound(1, mem, mem + len - 1, mem, 0);
    m.outbound(0, mem, mem + 0xffff, 0x0100_0000, 4);
    assert_eq!(seen(&mut m), ["iatu-overlap"]);
    assert_eq!(m.readl(Window::Mem, 0), 0xb500_104c, "region 0 makes it a configuration read");
    m.outbound(0, mem, mem + 0xffff, !0xffff, 0);
    m.outbound(0, mem, mem + 0x1_ffff, !0xffff, 0);
    assert_eq!(seen(&mut m), ["iatu-overlap", "iatu-wraps"]);
    assert_eq!(m.readl(Window::Mem, 0x10000), ALL, "it goes on at 0, which the bridge does not forward");
}

#[test]
fn an_access_across_the_end_of_a_region_is_not_that_regions() {
    let (mem, _) = soc::window(Window::Mem);
    let mut m = up();
    m.outbound(1, mem, mem + 0xffff, mem, 0);
    m.read(Window::Mem, 0xfffc, Width::B8);
    assert!(
        m.events.iter().any(|e| matches!(e, Event::Unrouted { why, .. } if why == "no-window")),
        "its upper half"
    );
}

#[test]
fn bars_on_top_of_each_other_are_told_once_and_the_lower_one_wins() {
    let mut m = up();
    m.writel(Window::Mem, 0x1c, 0x77);
    let bar0 = m.readl(Window::Config, 0x10);
    m.writel(Window::Config, 0x18, bar0);
    m.writel(Window::Config, 0x3c, 0);
    assert_eq!(seen(&mut m), ["bars-overlap"]);
    assert_eq!(m.readl(Window::Mem, 0x1c), 0x77);
    m.writew(Window::Config, 0x04, 0x4);
    m.writew(Window::Config, 0x04, 0x6);
    assert_eq!(seen(&mut m), ["bars-overlap"], "enabled anew, told anew");
}

#[test]
fn an_msi_that_does_not_go_to_the_controller_is_told_when_it_is_enabled() {
    let mem = soc::window(Window::Mem).0;
    for target in [RAM + 0x2000, mem] {
        let mut m = up();
        m.writel(Window::Dbi, 0x820, MSI_TARGET as u32);
        m.writel(Window::Config, 0x54, target as u32);
        m.writew(Window::Config, 0x5c, 0x5a);
        assert_eq!(seen(&mut m), Vec::<String>::new(), "not enabled");
        m.writew(Window::Config, 0x52, 1);
        assert_eq!(seen(&mut m), ["msi-elsewhere"]);
        m.writel(Window::Config, 0x58, 1);
        m.writel(Window::Config, 0x58, 0);
        assert_eq!(seen(&mut m), Vec::<String>::new(), "Linux changes a message while MSI is enabled");
        m.raise_msi(1);
        let landed = m.mem.bytes[0x2000] == 0x5a;
        assert_eq!((landed, m.item("count.dma_refused")), (target != mem, u64::from(target == mem)));
        assert_eq!(m.rc.irq_levels(), 0);
    }
}

#[test]
fn a_controller_address_in_bar_space_is_told_and_still_takes_msis() {
    let mem = soc::window(Window::Mem).0;
    let mut m = up();
    m.writel(Window::Dbi, 0x828, ALL);
    m.writel(Window::Dbi, 0x820, mem as u32);
    assert_eq!(seen(&mut m), ["msi-in-mem-window"]);
    m.writel(Window::Config, 0x54, mem as u32);
    m.writew(Window::Config, 0x52, 1);
    m.raise_msi(1);
    assert!(m.line(soc::IRQ_MSI0));
}

#[test]
fn what_a_guest_repeats_is_bounded_and_counted() {
    let mut m = up();
    for _ in 0..10_000 {
        m.readl(Window::Dbi, 1);
    }
    assert_eq!(seen(&mut m).len(), 64);
    assert_eq!(m.item("count.bad_input"), 10_000);
}

proptest! {
    #[test]
    fn any_iatu_contents_and_any_access_have_an_outcome(
        regions in proptest::collection::vec(any::<[u32; 8]>(), 16),
        accesses in proptest::collection::vec((any::<u64>(), 0..4u32, any::<bool>()), 0..40),
    ) {
        let mut m = up();
        for (n, r) in (0u64..).zip(&regions) {
            let at = n << 8;
            for (reg, v) in [0x08, 0x0c, 0x10, 0x14, 0x18, 0x20, 0x00, 0x04].into_iter().zip(r) {
                m.writel(Window::Atu, at + reg, *v);
            }
        }
        for (off, w, write) in accesses {
            let w = [Width::B1, Width::B2, Width::B4, Width::B8][w as usize];
            for win in [Window::Config, Window::Mem, Window::Dbi] {
                let off = off % (soc::window(win).1 + 16);
                if write {
                    m.write(win, off, w, u64::MAX);
                } else {
                    m.read(win, off, w);
                }
            }
            m.sleep(MS);
        }
    }
}
