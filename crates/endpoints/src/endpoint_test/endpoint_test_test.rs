//! The function against a recording port, driven in the order of Linux v6.12 drivers/misc/pci_endpoint_test.c.

use block::VecMem;
use pcie::Bdf;
use pcie::Function;
use proptest::prelude::*;

use super::*;

const BAR0: u64 = 0x6030_0000;
const BDF: Bdf = Bdf::new(1, 0, 0);

/// A port that records writes and passes reads to memory.
#[derive(Default)]
struct Port {
    writes: Vec<(Bdf, bool, u64, Vec<u8>)>,
    refuse: bool,
}

impl Upstream<()> for Port {
    fn mem_write(&mut self, cx: &mut Cx<'_, ()>, rid: Bdf, bme: bool, addr: u64, data: &[u8]) -> Completion {
        self.writes.push((rid, bme, addr, data.to_vec()));
        let ok = bme && !self.refuse && cx.mem.write(addr, data);
        if ok {
            Completion::Success
        } else {
            Completion::UnsupportedRequest
        }
    }

    fn mem_read(&mut self, cx: &mut Cx<'_, ()>, _: Bdf, bme: bool, addr: u64, buf: &mut [u8]) -> Completion {
        let ok = bme && !self.refuse && cx.mem.read(addr, buf);
        if ok {
            Completion::Success
        } else {
            Completion::UnsupportedRequest
        }
    }
}

struct Bench {
    f: EndpointTest,
    port: Port,
    mem: VecMem,
    now: SimTime,
}

impl Bench {
    fn new() -> Bench {
        Bench::with_spec(EndpointTestSpec::default())
    }

    fn with_spec(spec: EndpointTestSpec) -> Bench {
        Bench {
            f: EndpointTest::with(spec),
            port: Port::default(),
            mem: VecMem::new(0x8000_0000, 0x10000),
            now: SimTime(5),
        }
    }

    fn with<R>(&mut self, f: impl FnOnce(&mut EndpointTest, &mut Cx<'_, ()>, &mut Port) -> R) -> R {
        let mut events = Vec::new();
        let mut cx = Cx { now: self.now, mem: &mut self.mem, events: &mut events };
        f(&mut self.f, &mut cx, &mut self.port)
    }

    fn cfg_write(&mut self, off: u16, w: Width, v: u64) {
        self.with(|f, cx, p| f.config_write(cx, p, BDF, off, w, v));
    }

    fn cfg_read(&mut self, off: u16, w: Width) -> u64 {
        self.with(|f, cx, _| f.config_read(cx, None, off, w))
    }

    fn writel(&mut self, off: u32, v: u32) -> Completion {
        self.with(|f, cx, p| f.mem_write(cx, p, BAR0 + u64::from(off), Width::B4, v.into()))
    }

    fn readl(&mut self, off: u32) -> u64 {
        self.with(|f, cx, p| f.mem_read(cx, p, BAR0 + u64::from(off), Width::B4).data)
    }

    fn tick(&mut self, now: SimTime) {
        self.now = now;
        self.with(|f, cx, p| Function::tick(f, cx, p));
    }

    /// Enumerated and probed: BARs, memory and bus mastering on.
    fn probed() -> Bench {
        let mut b = Bench::new();
        b.cfg_write(0x10, Width::B4, BAR0);
        b.cfg_write(0x18, Width::B4, BAR0 + 0x1000);
        b.cfg_write(0x04, Width::B2, 0x6);
        b
    }

    /// Everything, with BAR n at [`bar`].
    fn full() -> Bench {
        let mut b = Bench::with_spec(EndpointTestSpec::full());
        for n in 0..6 {
            b.cfg_write(0x10 + n as u16 * 4, Width::B4, bar(n));
        }
        b.cfg_write(0x04, Width::B2, 0x6);
        b
    }

    fn command(&mut self, cmd: u32, size: u32) -> u32 {
        self.writel(off::SIZE, size);
        self.raise(cmd, 1, 1);
        self.readl(off::STATUS) as u32
    }

    fn bar_read(&mut self, n: u32, off: u32) -> u32 {
        self.with(|f, cx, p| f.mem_read(cx, p, bar(n) + u64::from(off), Width::B4).data as u32)
    }

    fn bar_write(&mut self, n: u32, off: u32, v: u32) {
        self.with(|f, cx, p| f.mem_write(cx, p, bar(n) + u64::from(off), Width::B4, v.into()));
    }

    /// pci_alloc_irq_vectors(MSI): message, 32 vectors, enable, INTx off (Linux v6.12 drivers/pci/msi/msi.c).
    fn msi_on(&mut self) {
        self.cfg_write(0x54, Width::B4, 0x8000_0100);
        self.cfg_write(0x58, Width::B4, 0);
        self.cfg_write(0x5c, Width::B2, 0x40);
        self.cfg_write(0x52, Width::B2, 0x51);
        self.cfg_write(0x04, Width::B2, 0x406);
    }

    fn raise(&mut self, cmd: u32, kind: u32, number: u32) {
        self.writel(off::IRQ_TYPE, kind);
        self.writel(off::IRQ_NUMBER, number);
        self.writel(off::COMMAND, cmd);
        self.tick(self.now.after_ns(POLL_NS));
    }

    fn sample(&self) -> std::collections::BTreeMap<String, u64> {
        let mut m = std::collections::BTreeMap::new();
        Function::<()>::sample(&self.f, &mut |k, v| {
            m.insert(k.to_owned(), v);
        });
        m
    }
}

const fn bar(n: u32) -> u64 {
    BAR0 + n as u64 * 0x10_0000
}

#[test]
fn the_full_function_has_six_bars_2048_vectors_and_says_what_it_can() {
    let mut b = Bench::full();
    assert_eq!((b.cfg_read(0xb2, Width::B2), b.readl(off::CAPS)), (2047, 0x3f));
    for (n, bytes) in [0x1_0000, 0x1000, 0x1000, 0x1000, 0x1000, 0x1000].into_iter().enumerate() {
        let at = 0x10 + n as u16 * 4;
        b.cfg_write(at, Width::B4, 0xffff_ffff);
        assert_eq!(b.cfg_read(at, Width::B4), 0x1_0000_0000 - bytes, "BAR {n}");
    }
    assert_eq!(Bench::probed().readl(off::CAPS), 0xf, "the default has neither doorbells nor subranges");
}

/// PCITEST_BARS of Linux v7.3: write all, then read all.
#[test]
fn the_bars_do_not_alias() {
    let mut b = Bench::full();
    let last = |n: u32| if n == 0 { 0 } else { SCRATCH_BYTES - 4 };
    for n in 0..6 {
        b.bar_write(n, last(n), 0xa0a0_a0a0 + n);
    }
    for n in 0..6 {
        assert_eq!(b.bar_read(n, last(n)), 0xa0a0_a0a0 + n);
    }
}

#[test]
fn each_of_2048_msix_vectors_sends_its_message() {
    let mut b = Bench::full();
    b.cfg_write(0xb2, Width::B2, 0x8000);
    for v in 0..2048 {
        let e = off::MSIX_TABLE + v * 16;
        b.writel(e, 0x8000_0200);
        b.writel(e + 8, v);
        b.writel(e + 12, 0);
    }
    for v in 0..2048_u32 {
        b.raise(command::RAISE_MSIX, 2, v + 1);
        assert_eq!(b.port.writes.pop().map(|w| w.3), Some(v.to_le_bytes().to_vec()));
    }
    let pba = off::MSIX_TABLE + 2048 * 16;
    b.writel(pba - 4, 1);
    b.raise(command::RAISE_MSIX, 2, 2048);
    assert_eq!((b.port.writes.len(), b.readl(pba + 0xfc)), (0, 1 << 31));
    b.raise(command::RAISE_MSIX, 2, 2049);
    assert_eq!(b.port.writes.len(), 0);
}

#[test]
fn without_a_dma_engine_the_dma_flag_drops_the_command() {
    for (dma, want) in [(true, (status::WRITE_OK | status::IRQ_RAISED, 2)), (false, (0, 0))] {
        let mut b = Bench::with_spec(EndpointTestSpec { dma, ..EndpointTestSpec::default() });
        b.cfg_write(0x10, Width::B4, BAR0);
        b.cfg_write(0x04, Width::B2, 0x6);
        b.msi_on();
        b.writel(off::DST_ADDR, 0x8000_1000);
        b.writel(off::FLAGS, regs::FLAG_USE_DMA);
        assert_eq!((b.command(command::WRITE, 9), b.port.writes.len()), want, "dma {dma}");
    }
}

/// The sequence of pci_endpoint_test_doorbell() in Linux v7.3.
#[test]
fn a_doorbell_rings_while_it_is_enabled() {
    let mut b = Bench::full();
    b.msi_on();
    b.bar_write(1, 0x40, 0x1234_5678);
    assert_eq!(b.command(command::DISABLE_DOORBELL, 0), status::DB_DISABLE_FAIL | status::IRQ_RAISED);
    assert_eq!(b.command(command::ENABLE_DOORBELL, 0), status::DB_ENABLE_OK | status::IRQ_RAISED);
    assert_eq!(b.command(command::ENABLE_DOORBELL, 0), status::DB_ENABLE_FAIL | status::IRQ_RAISED, "twice");
    let (n, at, data) = (b.readl(off::DB_BAR), b.readl(off::DB_OFFSET), b.readl(off::DB_DATA));
    b.writel(off::STATUS, 0);
    b.port.writes.clear();
    b.bar_write(n as u32, at as u32, data as u32 + 1);
    b.bar_write(n as u32, at as u32 + 4, data as u32);
    assert_eq!((b.readl(off::STATUS), b.port.writes.len()), (0, 0), "neither other data nor another place");
    b.bar_write(n as u32, at as u32, data as u32);
    assert_eq!(b.readl(off::STATUS) as u32, status::DOORBELL_OK | status::IRQ_RAISED);
    assert_eq!(b.port.writes.len(), 1);
    assert_eq!(b.command(command::DISABLE_DOORBELL, 0), status::DB_DISABLE_OK | status::IRQ_RAISED);
    assert_eq!(b.readl(off::DB_BAR) as u32, NO_BAR);
    assert_eq!(b.bar_read(1, 0x40), 0x1234_5678, "the memory is back");
    b.bar_write(1, at as u32, data as u32);
    assert_eq!(b.readl(off::STATUS) as u32 & status::DOORBELL_OK, 0);
}

/// The sequence of pci_endpoint_test_bar_subrange() in Linux v7.3.
#[test]
fn subranges_swap_the_halves_of_each_scratch_bar() {
    let mut b = Bench::full();
    b.msi_on();
    let half = SCRATCH_BYTES / 2;
    for n in 1..6 {
        assert_eq!(
            b.command(command::BAR_SUBRANGE_CLEAR, n),
            status::SUBRANGE_CLEAR_FAIL | status::IRQ_RAISED
        );
        assert_eq!(b.command(command::BAR_SUBRANGE_SETUP, n), status::SUBRANGE_SETUP_OK | status::IRQ_RAISED);
        for i in 0..2 {
            let sign = (0x50 + n * 8 + i) * 0x0101_0101;
            assert_eq!(
                (b.bar_read(n, i * half), b.bar_read(n, i * half + half - 4)),
                (sign, sign),
                "BAR {n}"
            );
            b.bar_write(n, i * half, 0xa0 + i);
        }
        assert_eq!((b.bar_read(n, 0), b.bar_read(n, half)), (0xa0, 0xa1));
        assert_eq!(b.command(command::BAR_SUBRANGE_CLEAR, n), status::SUBRANGE_CLEAR_OK | status::IRQ_RAISED);
        assert_eq!((b.bar_read(n, 0), b.bar_read(n, half)), (0xa1, 0xa0), "swapped back");
    }
}

#[test]
fn mappings_that_the_function_cannot_have_are_refused_with_an_interrupt() {
    for n in [0, 6, u32::MAX] {
        let mut b = Bench::full();
        assert_eq!(
            b.command(command::BAR_SUBRANGE_SETUP, n),
            status::SUBRANGE_SETUP_FAIL | status::IRQ_RAISED
        );
        assert_eq!(
            b.command(command::BAR_SUBRANGE_CLEAR, n),
            status::SUBRANGE_CLEAR_FAIL | status::IRQ_RAISED
        );
    }
    let mut b = Bench::probed();
    assert_eq!(b.command(command::BAR_SUBRANGE_SETUP, 2), status::SUBRANGE_SETUP_FAIL | status::IRQ_RAISED);
    assert_eq!(b.command(command::ENABLE_DOORBELL, 0), status::DB_ENABLE_FAIL | status::IRQ_RAISED);
}

#[test]
fn doorbell_and_subranges_are_saved_and_a_reset_ends_them() {
    let mut b = Bench::full();
    b.command(command::BAR_SUBRANGE_SETUP, 2);
    b.command(command::ENABLE_DOORBELL, 0);
    let saved = Function::<()>::save(&b.f);
    let mut other = Bench::full();
    Function::<()>::restore(&mut other.f, &saved).unwrap();
    assert_eq!(Function::<()>::save(&other.f), saved);
    assert_eq!(other.bar_read(2, 0), 0x6060_6060);
    other.bar_write(1, DOORBELL_OFF, DOORBELL_DATA);
    assert_ne!(other.readl(off::STATUS) as u32 & status::DOORBELL_OK, 0);
    for i in 0..2 {
        let mut wrong = saved.clone();
        // A doorbell in a BAR that is not the doorbell's; a doorbell's BAR that is not the first.
        match i {
            0 => wrong.data["scratch"][3]["doorbell"] = true.into(),
            _ => wrong.data["doorbell"] = 3.into(),
        }
        assert!(Function::<()>::restore(&mut other.f, &wrong).is_err(), "{i}");
    }
    let plain = EndpointTestSpec { inbound_mapping: false, ..EndpointTestSpec::full() };
    assert!(Function::<()>::restore(&mut EndpointTest::with(plain), &saved).is_err());
    assert!(Function::<()>::restore(&mut EndpointTest::default(), &saved).is_err());
    b.with(|f, cx, _| Function::reset(f, cx, ResetKind::Perst));
    assert_eq!(
        Function::<()>::save(&b.f).data,
        Function::<()>::save(&Bench::with_spec(EndpointTestSpec::full()).f).data
    );
}

#[test]
fn the_crc_is_the_kernels() {
    let mut crc = Crc32::default();
    crc.update(b"123456789");
    assert_eq!(crc.0, 0x340b_c6d9);
}

#[test]
fn identity_is_the_one_the_driver_knows() {
    let mut b = Bench::new();
    assert_eq!(b.cfg_read(0, Width::B4), 0xb500_104c);
    assert_eq!(b.cfg_read(0x3d, Width::B1), 1, "INTA");
    assert_eq!(b.cfg_read(0xb2, Width::B2), 31, "32 MSI-X vectors");
}

#[test]
fn all_32_msi_vectors_carry_their_number_and_the_requester_id() {
    let mut b = Bench::probed();
    b.msi_on();
    for n in 1..=32 {
        b.raise(command::RAISE_MSI, 1, n);
        assert_eq!(b.readl(off::STATUS) as u32, status::IRQ_RAISED);
        assert_eq!(
            b.port.writes.pop(),
            Some((BDF, true, 0x8000_0100, (0x40 + n - 1).to_le_bytes().to_vec()))
        );
    }
    b.raise(command::RAISE_MSI, 1, 33);
    assert_eq!(
        (b.readl(off::STATUS) as u32, b.port.writes.len()),
        (status::IRQ_RAISED, 0),
        "out of range: flagged, not sent"
    );
}

#[test]
fn msix_messages_come_from_the_table_and_masked_ones_wait_in_the_pba() {
    let mut b = Bench::probed();
    for v in 0..32 {
        let e = off::MSIX_TABLE + v * 16;
        b.writel(e, 0x8000_0200);
        b.writel(e + 8, 0x60 + v);
        b.writel(e + 12, 0);
    }
    b.cfg_write(0xb2, Width::B2, 0x8000);
    b.raise(command::RAISE_MSIX, 2, 32);
    assert_eq!(b.port.writes.pop().map(|w| (w.2, w.3)), Some((0x8000_0200, 0x7f_u32.to_le_bytes().to_vec())));
    b.writel(off::MSIX_TABLE + 12, 1);
    b.raise(command::RAISE_MSIX, 2, 1);
    assert_eq!((b.port.writes.len(), b.readl(0x280)), (0, 1));
    b.writel(off::MSIX_TABLE + 12, 0);
    assert_eq!((b.port.writes.len(), b.readl(0x280)), (1, 0));
}

#[test]
fn a_late_status_write_of_the_last_handler_does_not_lose_the_next_interrupt() {
    let mut b = Bench::probed();
    b.msi_on();
    b.raise(command::RAISE_MSI, 1, 1);
    let seen = b.readl(off::STATUS) as u32;
    assert_eq!(seen & status::IRQ_RAISED, status::IRQ_RAISED);
    // The handler of Linux 6.1 has woken the next raiser before it writes STATUS back.
    b.writel(off::IRQ_NUMBER, 2);
    b.writel(off::COMMAND, command::RAISE_MSI);
    b.writel(off::STATUS, seen & !status::IRQ_RAISED);
    b.tick(b.now.after_ns(POLL_NS));
    assert_eq!(b.readl(off::STATUS) as u32 & status::IRQ_RAISED, status::IRQ_RAISED);
    assert_eq!(b.port.writes.len(), 2);
}

#[test]
fn an_intx_pulse_ends_with_the_status_read_or_when_the_driver_has_given_up() {
    let mut b = Bench::probed();
    b.raise(command::RAISE_INTX, 0, 0);
    assert_eq!(Function::<()>::intx(&b.f), 1);
    assert_eq!(b.cfg_read(0x06, Width::B2) & 8, 8);
    b.readl(off::STATUS);
    assert_eq!(Function::<()>::intx(&b.f), 0);
    b.raise(command::RAISE_INTX, 0, 0);
    b.cfg_write(0x04, Width::B2, 0x406);
    assert_eq!(Function::<()>::intx(&b.f), 0, "INTX_DISABLE forces deassert");
    b.cfg_write(0x04, Width::B2, 0x006);
    assert_eq!(Function::<()>::intx(&b.f), 1);
    b.tick(b.now.after_ns(INTX_PULSE_NS));
    assert_eq!(Function::<()>::intx(&b.f), 0);
    assert_eq!(b.port.writes.len(), 0);
}

#[test]
fn dma_commands_move_data_and_agree_on_the_crc() {
    let mut b = Bench::probed();
    b.mem.bytes[..9].copy_from_slice(b"123456789");
    b.writel(off::SRC_ADDR, 0x8000_0000);
    b.writel(off::DST_ADDR, 0x8000_1000);
    b.writel(off::SIZE, 9);
    b.writel(off::CHECKSUM, 0x340b_c6d9);
    b.raise(command::READ, 0, 0);
    assert_eq!(b.readl(off::STATUS) as u32, status::READ_OK | status::IRQ_RAISED);
    b.raise(command::COPY, 0, 0);
    assert_eq!(&b.mem.bytes[0x1000..0x1009], b"123456789");
    b.writel(off::SIZE, 5000);
    b.raise(command::WRITE, 0, 0);
    assert_eq!(b.readl(off::STATUS) as u32, status::WRITE_OK | status::IRQ_RAISED);
    let mut crc = Crc32::default();
    crc.update(&b.mem.bytes[0x1000..0x1000 + 5000]);
    assert_eq!(b.readl(off::CHECKSUM) as u32, crc.0);
    b.writel(off::SRC_ADDR, 0xffff_0000);
    b.writel(off::SRC_ADDR + 4, 0xffff_ffff);
    b.raise(command::READ, 0, 0);
    assert_ne!(b.readl(off::STATUS) as u32 & status::SRC_ADDR_INVALID, 0);
    b.writel(off::SIZE, u32::MAX);
    b.raise(command::WRITE, 0, 0);
    assert_ne!(b.readl(off::STATUS) as u32 & status::WRITE_FAIL, 0, "bounded work");
}

#[test]
fn a_reset_or_d3_silences_the_function() {
    let mut b = Bench::probed();
    b.msi_on();
    b.cfg_write(0x44, Width::B2, 3);
    assert_eq!(b.writel(off::COMMAND, command::RAISE_MSI), Completion::UnsupportedRequest);
    b.cfg_write(0x44, Width::B2, 0);
    for kind in [ResetKind::Perst, ResetKind::HotReset, ResetKind::LinkDown] {
        let mut b = Bench::probed();
        b.msi_on();
        b.raise(command::RAISE_INTX, 0, 0);
        b.with(|f, cx, _| Function::reset(f, cx, kind));
        let s = b.sample();
        assert_eq!((s["command"], s["msi.enable"], s["msi.addr"], s["intx"]), (0, 0, 0, 0), "{kind:?}");
        assert_eq!(b.cfg_read(0x10, Width::B4), 0);
    }
}

/// The writes of pci_endpoint_test's remove and the PCI core (spec §4.4) leave the clean state of spec §4.5.
#[test]
fn a_well_behaved_remove_leaves_a_clean_function() {
    let mut b = Bench::probed();
    b.msi_on();
    b.raise(command::RAISE_MSI, 1, 1);
    // free_irq: mask bits; pci_free_irq_vectors: disable, INTx back, mask 0, message 0; pci_disable_device.
    b.cfg_write(0x60, Width::B4, 0xffff_ffff);
    b.cfg_write(0x52, Width::B2, 0x50);
    b.cfg_write(0x04, Width::B2, 0x006);
    b.cfg_write(0x60, Width::B4, 0);
    b.cfg_write(0x54, Width::B4, 0);
    b.cfg_write(0x58, Width::B4, 0);
    b.cfg_write(0x5c, Width::B2, 0);
    b.cfg_write(0x04, Width::B2, 0x002);
    let dirty: Vec<_> = b.sample().into_iter().filter(|(k, v)| *v != 0 && k != "command").collect();
    assert_eq!(dirty, vec![]);
    assert_eq!(b.sample()["command"], 2);
}

proptest! {
    #[test]
    fn no_guest_access_panics_or_sends_without_bme(ops in proptest::collection::vec((any::<bool>(), 0u32..0x400, any::<u32>()), 0..60)) {
        let mut b = Bench::probed();
        b.cfg_write(0x04, Width::B2, 0x2);
        for (cfg, at, v) in ops {
            if cfg {
                // Anything but COMMAND, which would set BME.
                if at * 4 != 4 { b.cfg_write((at * 4) as u16, Width::B4, v.into()); }
            } else {
                b.writel((at * 4) & 0xffc, v & 0xffff);
            }
        }
        prop_assert!(b.port.writes.iter().all(|w| !w.1));
    }

    #[test]
    fn whatever_a_guest_maps_can_be_saved_and_restored(ops in proptest::collection::vec((0u32..12, 0u32..8, any::<u32>()), 0..12)) {
        let mut b = Bench::full();
        b.msi_on();
        for (cmd, n, v) in ops {
            match cmd {
                0..10 => { b.command(1 << cmd, n); }
                _ => b.bar_write(n % 5 + 1, v & 0xffc, v % 3),
            }
            let saved = Function::<()>::save(&b.f);
            let mut f = EndpointTest::with(EndpointTestSpec::full());
            prop_assert_eq!(Function::<()>::restore(&mut f, &saved), Ok(()));
            prop_assert_eq!(Function::<()>::save(&f), saved);
        }
    }
}
