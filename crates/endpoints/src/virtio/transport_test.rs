//! Capabilities, registers, interrupts, resets, latency, and what becomes of malformed rings.

use super::Rng;
use super::*;

fn identity<D: VirtioDevice>(f: VirtioPci<D>, id: u64, class: u64, config_bytes: Option<u64>) {
    let mut b = Bench::new(f);
    assert_eq!(b.cfg_read(0, Width::B4), (0x1040 + id) << 16 | 0x1af4);
    assert_eq!(b.cfg_read(8, Width::B4), class << 8 | 1);
    b.enumerate(Irq::Intx);
    assert_eq!(Function::<()>::claims(&b.f), [(BAR0, 0x4000), (BAR1, 0x1000)]);
    let queues = u64::from(b.read16(off::NUM_QUEUES));
    assert_eq!(b.structure(cap::COMMON), Some((0, 0, 0x38)));
    assert_eq!(b.structure(cap::NOTIFY), Some((0, 0x3000, 4 * queues)));
    assert_eq!(b.structure(cap::ISR), Some((0, 0x1000, 1)));
    assert_eq!(b.structure(cap::DEVICE), config_bytes.map(|n| (0, 0x2000, n)));
    let notify = b.find_capability(cap::NOTIFY).unwrap();
    assert_eq!((b.cfg_read(notify + 16, Width::B4), b.cfg_read(notify + 2, Width::B1)), (4, 20));
    assert_eq!(b.cfg_read(0xb2, Width::B2), queues, "a vector more than queues");
}

#[test]
fn identity_and_structures_are_where_drivers_look() {
    identity(net(), 1, 0x02_0000, Some(8));
    identity(small_blk(), 2, 0x01_8000, Some(36));
    identity(console(), 3, 0x07_8000, Some(12));
    identity(rng(), 4, 0x00_ff00, None);
}

#[test]
fn each_device_takes_the_probe_of_linux_with_either_interrupt() {
    fn probe<D: VirtioDevice>(f: fn() -> VirtioPci<D>) {
        for irq in [Irq::Intx, Irq::MsiX] {
            for without in [0, feature::EVENT_IDX, feature::INDIRECT_DESC] {
                let mut b = Bench::new(f());
                b.probe_without(irq, without);
                assert_eq!(b.f.error(), None);
                assert_eq!(b.sample("virtio.status"), u64::from(RUNNING));
                assert_eq!(b.sample("virtio.queues_enabled"), b.queues.len() as u64);
            }
        }
    }
    probe(net);
    probe(small_blk);
    probe(console);
    probe(rng);
}

#[test]
fn features_that_are_not_offered_or_lack_version_1_are_not_agreed() {
    let mut b = Bench::new(rng());
    b.enumerate(Irq::Intx);
    b.negotiate(feature::VERSION_1);
    assert_eq!(b.status(), 3, "no version 1");
    b.negotiate(0);
    assert_eq!(b.status(), 0xb);
    b.write32(off::DRIVER_FEATURE_SELECT, 0);
    let agreed = b.read(off::DRIVER_FEATURE, Width::B4);
    b.write32(off::DRIVER_FEATURE, 0);
    assert_eq!(b.read(off::DRIVER_FEATURE, Width::B4), agreed, "fixed");
    b.negotiate(!feature::VERSION_1);
    assert_eq!(b.status(), 0xb, "version 1 is enough");
    b.write8(off::STATUS, 0);
    b.write32(off::DRIVER_FEATURE_SELECT, 0);
    b.write32(off::DRIVER_FEATURE, 1 << 30);
    b.write32(off::DRIVER_FEATURE_SELECT, 1);
    b.write32(off::DRIVER_FEATURE, 1);
    b.write8(off::STATUS, 0xb);
    assert_eq!(b.status(), 3, "a feature that was not offered");
    for select in [2, 3, u32::MAX] {
        b.write32(off::DEVICE_FEATURE_SELECT, select);
        b.write32(off::DRIVER_FEATURE_SELECT, select);
        b.write32(off::DRIVER_FEATURE, u32::MAX);
        assert_eq!((b.read(off::DEVICE_FEATURE, Width::B4), b.read(off::DRIVER_FEATURE, Width::B4)), (0, 0));
    }
}

#[test]
fn queue_registers_are_those_of_the_selected_queue() {
    let mut b = Bench::new(console());
    b.enumerate(Irq::Intx);
    for (size, taken) in [(32, 32), (0, 32), (24, 32), (128, 32), (64, 64), (1, 1)] {
        b.write16(off::QUEUE_SIZE, size);
        assert_eq!(b.read16(off::QUEUE_SIZE), taken, "{size}");
    }
    b.write(off::QUEUE_DESC, Width::B8, 0x1_8000_0010);
    assert_eq!(b.read(off::QUEUE_DESC, Width::B8), 0x1_8000_0010);
    b.write8(off::QUEUE_DESC + 1, 0x55);
    assert_eq!(b.read(off::QUEUE_DESC, Width::B4), 0x8000_5510, "one byte");
    b.write32(off::STATUS, 1 << 16 | 1);
    assert_eq!((b.status(), b.read16(off::QUEUE_SELECT)), (1, 1), "two registers by one write");
    assert_eq!((b.read16(off::QUEUE_SIZE), b.read(off::QUEUE_DESC, Width::B8)), (64, 0));
    b.write16(off::QUEUE_ENABLE, 1);
    b.write16(off::QUEUE_ENABLE, 0);
    b.write16(off::QUEUE_SIZE, 16);
    b.write32(off::QUEUE_USED, 0x40);
    let fixed = [off::QUEUE_ENABLE, off::QUEUE_SIZE, off::QUEUE_USED].map(|at| b.read16(at));
    assert_eq!(fixed, [1, 64, 0]);
    b.write16(off::QUEUE_SELECT, 2);
    b.write16(off::QUEUE_SIZE, 16);
    b.write16(off::QUEUE_ENABLE, 1);
    b.write16(off::QUEUE_VECTOR, 0);
    let absent = [off::QUEUE_SIZE, off::QUEUE_ENABLE, off::QUEUE_NOTIFY_OFF, off::QUEUE_VECTOR];
    assert_eq!(absent.map(|at| b.read16(at)), [0, 0, 0, NO_VECTOR]);
}

#[test]
fn vectors_out_of_range_read_back_as_none() {
    let mut b = Bench::new(console());
    b.enumerate(Irq::MsiX);
    for at in [off::CONFIG_VECTOR, off::QUEUE_VECTOR] {
        for (v, taken) in [(2, 2), (3, NO_VECTOR), (0, 0), (NO_VECTOR, NO_VECTOR)] {
            b.write16(at, v);
            assert_eq!(b.read16(at), taken, "{at:#x} {v}");
        }
    }
}

#[test]
fn a_read_only_register_and_what_is_no_register_take_no_write() {
    let mut b = Bench::new(rng());
    b.enumerate(Irq::Intx);
    for r in regs::COMMON.iter().filter(|r| r.rw == 0) {
        let before = b.read(r.off, r.width);
        b.write(r.off, r.width, r.width.ones());
        assert_eq!(b.read(r.off, r.width), before, "{}", r.name);
    }
    for at in [0x38, 0x3c, 0xffc, 0x1004, 0x2000, 0x2ffc, 0x3100, 0x3ffc] {
        b.write32(at, u32::MAX);
        assert_eq!(b.read(at, Width::B4), 0, "{at:#x}");
    }
    assert_eq!(b.f.error(), None);
}

#[test]
fn a_notification_of_any_width_is_one_and_beside_a_queue_or_beyond_all_is_none() {
    // (where, width, whether the queue is served): notifications are their place, not their value (virtio 1.2 §4.1.5.2).
    let cases = [
        (NOTIFY_AT, Width::B1, true),
        (NOTIFY_AT, Width::B4, true),
        (NOTIFY_AT, Width::B8, true),
        (NOTIFY_AT + 1, Width::B1, false),
        (NOTIFY_AT + 2, Width::B2, false),
        (NOTIFY_AT + 4, Width::B2, false),
        (NOTIFY_AT + 4 * u32::from(MAX_QUEUES), Width::B2, false),
        (super::super::pci::BAR_BYTES - 4, Width::B4, false),
    ];
    for (at, w, served) in cases {
        let mut b = Bench::probed(rng(), Irq::Intx);
        ask(&mut b);
        b.write(at, w, 0);
        assert_eq!((b.used(0).len(), b.f.error()), (usize::from(served), None), "{at:#x} {w:?}");
    }
}

#[test]
fn with_msix_each_queue_has_its_vector_and_isr_stays_clear() {
    let mut b = Bench::probed(console(), Irq::MsiX);
    b.add(1, &[(DATA, 4, false)]);
    b.kick(1);
    assert_eq!(b.messages(), [2]);
    b.add(0, &[(DATA + 0x100, 4, true)]);
    b.kick(0);
    assert_eq!(b.port.writes.last().unwrap().0, MSI, "behind the data");
    assert_eq!(b.messages(), [1]);
    assert_eq!((b.isr(), b.intx()), (0, 0));
    b.write16(off::QUEUE_SELECT, 1);
    b.write16(off::QUEUE_VECTOR, NO_VECTOR);
    b.add(1, &[(DATA, 4, false)]);
    b.kick(1);
    assert_eq!((b.used(1).len(), b.messages()), (2, vec![]), "polled");
}

#[test]
fn a_masked_vector_waits_in_the_pba() {
    let mut b = Bench::probed(rng(), Irq::MsiX);
    let mask = |b: &mut Bench<Rng>, v| b.with(|f, cx, p| f.mem_write(cx, p, BAR1 + 28, Width::B4, v));
    mask(&mut b, 1);
    ask(&mut b);
    b.kick(0);
    assert_eq!(b.messages(), NONE);
    assert_eq!(b.with(|f, cx, p| f.mem_read(cx, p, BAR1 + 32, Width::B4).data), 2);
    mask(&mut b, 0);
    assert_eq!(b.messages(), [1]);
}

#[test]
fn intx_is_high_until_isr_is_read() {
    let mut b = Bench::probed(rng(), Irq::Intx);
    ask(&mut b);
    b.kick(0);
    assert_eq!((b.intx(), b.cfg_read(6, Width::B2) & 8), (1, 8));
    b.cfg_write(4, Width::B2, 0x406);
    assert_eq!(b.intx(), 0, "INTX_DISABLE");
    b.cfg_write(4, Width::B2, 0x6);
    assert_eq!(b.intx(), 1);
    assert_eq!((b.isr(), b.intx(), b.isr()), (1, 0, 0));
    assert_eq!(b.messages(), NONE);
}

#[test]
fn a_driver_that_polls_gets_no_interrupt() {
    let mut b = Bench::probed(rng(), Irq::Intx);
    b.put(avail_at(0), &[1, 0]);
    ask(&mut b);
    b.kick(0);
    assert_eq!((b.used(0), b.intx()), (vec![16], 0));
    let mut b = Bench::new(rng());
    b.probe_without(Irq::Intx, 0);
    b.put(avail_at(0) + 4 + 2 * 8, &[1, 0]);
    for raised in [0, 1] {
        ask(&mut b);
        b.kick(0);
        assert_eq!((b.used(0), b.isr()), (vec![16], raised), "used_event 1");
    }
    assert_eq!(b.get(used_at(0) + 4 + 8 * 8), [2, 0], "avail_event");
}

#[test]
fn nothing_is_served_before_driver_ok_then_all_that_waits() {
    let mut b = Bench::new(rng());
    b.enumerate(Irq::Intx);
    b.negotiate(0);
    b.find_vqs(Irq::Intx);
    ask(&mut b);
    b.kick(0);
    assert_eq!((b.port.requests, b.used(0)), (0, vec![]));
    b.write8(off::STATUS, RUNNING);
    assert_eq!(b.used(0), [16]);
}

#[test]
fn driver_ok_without_agreed_features_starts_nothing() {
    let mut b = Bench::new(rng());
    b.enumerate(Irq::Intx);
    b.find_vqs(Irq::Intx);
    ask(&mut b);
    b.write8(off::STATUS, RUNNING);
    b.kick(0);
    assert_eq!((b.status(), b.port.requests), (RUNNING & !status::FEATURES_OK, 0));
}

#[test]
fn status_0_resets_the_device_and_it_can_be_probed_again() {
    let mut b = Bench::probed(console(), Irq::Intx);
    b.add(1, &[(DATA, 4, false)]);
    b.kick(1);
    assert_eq!(b.intx(), 1);
    b.write8(off::STATUS, 0);
    assert_eq!((b.status(), b.intx(), b.isr()), (0, 0, 0));
    assert_eq!(b.sample("virtio.queues_enabled"), 0);
    assert_eq!((b.read16(off::QUEUE_VECTOR), b.read(off::QUEUE_DESC, Width::B8)), (NO_VECTOR, 0));
    b.probe_without(Irq::Intx, 0);
    b.add(0, &[(DATA, 4, true)]);
    b.kick(0);
    assert_eq!(b.used(0), NONE, "the echo of the life before is gone");
}

#[test]
fn every_reset_ends_in_the_state_after_power_on() {
    for kind in [
        ResetKind::PowerOn,
        ResetKind::Core,
        ResetKind::Perst,
        ResetKind::HotReset,
        ResetKind::LinkDown,
        ResetKind::D3HotToD0,
    ] {
        let mut b = Bench::new(rng().with_latency_ns(1000));
        b.probe_without(Irq::Intx, 0);
        ask(&mut b);
        b.kick(0);
        assert!(b.deadline().is_some());
        b.with(|f, cx, _| f.reset(cx, kind));
        assert_eq!((b.deadline(), b.sample("virtio.status"), b.intx()), (None, 0, 0), "{kind:?}");
        b.advance(1000);
        assert_eq!(b.port.requests, 0, "{kind:?}");
    }
}

#[test]
fn the_window_in_configuration_space_reaches_the_bars_without_memory_decoding() {
    let mut b = Bench::new(console());
    let at = b.find_capability(cap::PCI_CFG).unwrap();
    let aim = |b: &mut Bench<Console>, bar: u64, off: u32, len: u64| {
        b.cfg_write(at + 4, Width::B1, bar);
        b.cfg_write(at + 8, Width::B4, off.into());
        b.cfg_write(at + 12, Width::B4, len);
    };
    aim(&mut b, 0, off::NUM_QUEUES, 2);
    assert_eq!(b.cfg_read(at + 16, Width::B4), 2);
    aim(&mut b, 0, off::STATUS, 1);
    b.cfg_write(at + 16, Width::B4, 0xffff_ff03);
    assert_eq!(b.cfg_read(at + 16, Width::B1), 3);
    aim(&mut b, 0, off::QUEUE_SELECT, 2);
    assert_eq!(b.cfg_read(at + 16, Width::B2), 0, "a write of one byte writes one byte");
    aim(&mut b, 1, 8, 4);
    b.cfg_write(at + 16, Width::B4, 0x1234);
    assert_eq!(b.cfg_read(at + 16, Width::B4), 0x1234, "MSI-X data 0");
    for (bar, off, len) in
        [(0, 0x4000, 4), (1, 0x1000, 4), (2, 0, 4), (0, 0, 8), (0, 0, 3), (0, 0, 0), (0, 2, 4)]
    {
        aim(&mut b, bar, off, len);
        b.cfg_write(at + 16, Width::B4, 0x5555);
        assert_eq!(b.cfg_read(at + 16, Width::B4), 0x5555, "{bar} {off:#x} {len}: nothing is there");
    }
    b.probe_without(Irq::Intx, 0);
    b.add(1, &[(DATA, 4, false)]);
    aim(&mut b, 0, NOTIFY_AT + 4, 2);
    b.cfg_write(at + 16, Width::B2, 1);
    assert_eq!(b.used(1), [0], "a notification");
    aim(&mut b, 0, super::super::pci::ISR_AT, 1);
    assert_eq!((b.cfg_read(at + 16, Width::B1), b.intx()), (1, 0));
    b.cfg_write(0x44, Width::B2, 3);
    aim(&mut b, 0, off::STATUS, 1);
    b.cfg_write(at + 16, Width::B1, 0);
    b.cfg_write(0x44, Width::B2, 0);
    assert_eq!(b.status(), RUNNING, "not in D3hot");
}

#[test]
fn with_a_latency_work_waits_for_its_deadline() {
    let mut b = Bench::probed(rng().with_latency_ns(1000), Irq::MsiX);
    // DRIVER_OK looks at the queues too.
    b.advance(1000);
    b.port = Port::default();
    ask(&mut b);
    b.kick(0);
    let due = b.now.after_ns(1000);
    b.advance(400);
    ask(&mut b);
    b.kick(0);
    assert_eq!((b.port.requests, b.deadline()), (0, Some(due)), "the first notification counts");
    b.advance(599);
    assert_eq!(b.port.requests, 0);
    b.advance(1);
    assert_eq!((b.used(0), b.messages(), b.deadline()), (vec![16, 16], vec![1], None));
}

#[test]
fn work_in_flight_when_bus_mastering_ends_is_refused_and_seen() {
    let mut b = Bench::probed(rng().with_latency_ns(1000), Irq::Intx);
    b.advance(1000);
    ask(&mut b);
    b.kick(0);
    b.cfg_write(4, Width::B2, 2);
    b.advance(1000);
    assert_eq!((b.port.refused, b.f.error()), (1, Some(RingError::Refused)));
    assert_eq!((b.status(), b.deadline(), b.isr()), (RUNNING | status::NEEDS_RESET, None, 2));
}

#[test]
fn a_reset_drops_work_in_flight() {
    let mut b = Bench::probed(rng().with_latency_ns(1000), Irq::Intx);
    b.advance(1000);
    b.port = Port::default();
    ask(&mut b);
    b.kick(0);
    b.write8(off::STATUS, 0);
    b.advance(5000);
    assert_eq!((b.deadline(), b.port.requests), (None, 0));
}

#[test]
fn in_d3hot_the_function_is_silent_and_goes_on_in_d0() {
    let mut b = Bench::probed(rng().with_latency_ns(1000), Irq::MsiX);
    b.advance(1000);
    b.port = Port::default();
    ask(&mut b);
    b.kick(0);
    b.cfg_write(0x44, Width::B2, 3);
    b.advance(5000);
    assert_eq!((b.deadline(), b.port.requests), (None, 0));
    let c = b.with(|f, cx, p| f.mem_write(cx, p, BAR0, Width::B4, 0));
    assert_eq!(c, Completion::UnsupportedRequest);
    b.cfg_write(0x44, Width::B2, 0);
    b.advance(0);
    assert_eq!((b.used(0), b.messages()), (vec![16], vec![1]));
}

/// What a driver has done wrong, as a change of a queue with one good request in it.
type Damage = (&'static str, fn(&mut Bench<Rng>), RingError);

const DAMAGES: &[Damage] = &[
    ("descriptor outside RAM", |b| b.descriptor(desc_at(0), (0x1000, 16, WRITE, 0)), RingError::Refused),
    ("loop", |b| b.descriptor(desc_at(0), (DATA, 1, NEXT, 0)), RingError::ChainTooLong),
    (
        "chain longer than the queue",
        |b| {
            (0..9).for_each(|i| b.descriptor(DATA + 16 * i, (DATA, 1, NEXT, i as u16 + 1)));
            b.descriptor(desc_at(0), (DATA, 16 * 9, INDIRECT, 0));
        },
        RingError::ChainTooLong,
    ),
    (
        "indirect in indirect",
        |b| {
            b.descriptor(desc_at(0), (DATA, 16, INDIRECT, 0));
            b.descriptor(DATA, (DATA, 16, INDIRECT, 0));
        },
        RingError::IndirectInIndirect,
    ),
    ("huge length", |b| b.descriptor(desc_at(0), (DATA, u32::MAX, WRITE, 0)), RingError::ChainTooLarge),
    (
        "readable behind writable",
        |b| {
            b.descriptor(desc_at(0), (DATA, 1, WRITE | NEXT, 1));
            b.descriptor(desc_at(0) + 16, (DATA, 1, 0, 0));
        },
        RingError::ReadAfterWrite,
    ),
    ("avail index jump", |b| b.put(avail_at(0) + 2, &[9, 0]), RingError::AvailJump),
    ("head out of range", |b| b.put(avail_at(0) + 4, &[8, 0]), RingError::DescriptorOutOfRange),
];

fn damaged(irq: Irq, damage: &Damage) -> Bench<Rng> {
    let mut b = Bench::probed(rng(), irq);
    ask(&mut b);
    damage.1(&mut b);
    b.kick(0);
    assert_eq!(b.f.error(), Some(damage.2), "{}", damage.0);
    assert_eq!(b.status(), RUNNING | status::NEEDS_RESET, "{}", damage.0);
    b
}

#[test]
fn a_malformed_ring_makes_the_device_need_a_reset_and_says_so() {
    for damage in DAMAGES {
        let mut b = damaged(Irq::Intx, damage);
        assert_eq!((b.intx(), b.isr()), (1, 2), "{}", damage.0);
        let mut b = damaged(Irq::MsiX, damage);
        assert_eq!(b.messages(), [0], "{}", damage.0);
        let before = b.port.requests;
        b.kick(0);
        b.write8(off::STATUS, RUNNING);
        assert_eq!(b.port.requests, before, "{}: stopped", damage.0);
        assert_eq!(b.status(), RUNNING | status::NEEDS_RESET, "{}", damage.0);
        b.probe_without(Irq::MsiX, 0);
        ask(&mut b);
        b.kick(0);
        assert_eq!((b.used(0), b.f.error()), (vec![16], None), "{}: works again", damage.0);
    }
}

#[test]
fn an_unaligned_ring_is_found_when_the_driver_starts_the_device() {
    for at in [off::QUEUE_DESC, off::QUEUE_AVAIL, off::QUEUE_USED] {
        let mut b = Bench::new(rng());
        b.enumerate(Irq::Intx);
        b.negotiate(0);
        b.write32(at, 1);
        b.write16(off::QUEUE_ENABLE, 1);
        b.write8(off::STATUS, RUNNING);
        assert_eq!((b.f.error(), b.isr()), (Some(RingError::UnalignedRing), 2));
        assert_eq!(b.status(), RUNNING | status::NEEDS_RESET);
        assert_eq!(b.port.requests, 0);
    }
}

#[test]
fn one_access_does_a_bounded_amount_of_work_and_the_rest_follows() {
    let disk = SharedDisk::new(0x40_0000);
    let mut b = Bench::probed(blk(&disk, 1), Irq::Intx);
    // Every entry of the ring is the same large read.
    b.put(DATA, &[0; 16]);
    let mut parts = vec![(DATA, 16, false)];
    parts.extend((0..62).map(|_| (DATA + 0x1000, 0x1_0000, true)));
    parts.push((DATA + 0x100, 1, true));
    b.add(0, &parts);
    (0..QUEUE_SIZE - 1).for_each(|_| b.add_head(0, 0));
    b.kick(0);
    let mut turns = 1;
    let mut used = b.used(0).len();
    assert!(used < 10, "{used}");
    while let Some(t) = b.deadline() {
        assert_eq!(t, b.now.after_ns(NEXT_TURN_NS));
        let before = b.port.requests;
        b.advance(NEXT_TURN_NS);
        assert!(b.port.requests - before < 3 * TURN_REQUESTS);
        used += b.used(0).len();
        turns += 1;
    }
    assert_eq!((used, b.f.error()), (QUEUE_SIZE.into(), None));
    assert!(turns > 20, "{turns}");
}

const QUEUE_SIZE: u16 = super::super::blk::QUEUE_SIZE;
