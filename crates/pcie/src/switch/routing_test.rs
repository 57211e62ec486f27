//! Enumeration, routing down, gates up, INTx wires.

use block::Width::B2;
use block::Width::B4;

use super::bench::*;
use super::*;

/// The upstream port.
const UP: Bdf = Bdf::new(1, 0, 0);

fn port(n: u8) -> Bdf {
    Bdf::new(2, n, 0)
}

/// Cards 0xa0, none, 0xa2: buses 3, 4, 5; memory at 0x6000_0000, 0x6010_0000, 0x6020_0000.
fn three() -> Bench {
    Bench::up(SwitchSpec::new(vec![ep(0xa0, 1), None, ep(0xa2, 2)]))
}

fn nested() -> Bench {
    let inner = Switch::new(SwitchSpec::new(vec![ep(0xb0, 1), ep(0xb1, 1)]));
    let deeper = Switch::new(SwitchSpec::new(vec![ep(0xc0, 1), Some(inner.boxed())]));
    Bench::new(SwitchSpec::new(vec![ep(0xa0, 1), Some(deeper.boxed()), None]))
}

#[test]
fn linux_finds_ports_and_cards_and_reaches_their_memory() {
    let mut b = Bench::new(SwitchSpec::new(vec![ep(0xa0, 1), None, ep(0xa2, 2)]));
    b.sleep(100 * MS);
    let found: Vec<_> = b.enumerate().iter().map(|f| (f.bdf.to_string(), f.device, f.below)).collect();
    let at = |s: &str, device, below| (s.to_owned(), device, below);
    assert_eq!(
        found,
        [
            at("01:00.0", UPSTREAM_DEVICE, Some((2, 5))),
            at("02:00.0", DOWNSTREAM_DEVICE, Some((3, 3))),
            at("03:00.0", 0xa0, None),
            at("02:01.0", DOWNSTREAM_DEVICE, Some((4, 4))),
            at("02:02.0", DOWNSTREAM_DEVICE, Some((5, 5))),
            at("05:00.0", 0xa2, None),
        ]
    );
    assert_eq!(b.mem_read(0x6000_0000), Outcome::ok(0xa0));
    assert_eq!(b.mem_read(0x6020_0ffc), Outcome::ok(0xa2));
    let mut claims = Vec::new();
    b.card.claims(&mut claims);
    assert_eq!(claims, [(0x6000_0000, 0x1000), (0x6020_0000, 0x1000)]);
}

#[test]
fn switches_in_slots_of_switches_are_found_too() {
    let mut b = nested();
    // A switch has to be up before its slots can be seen; all train at once.
    b.sleep(20 * MS);
    let found = b.enumerate();
    let bdfs: Vec<_> = found.iter().filter(|f| f.below.is_none()).map(|f| (f.bdf.bus(), f.device)).collect();
    assert_eq!(bdfs, [(3, 0xa0), (6, 0xc0), (9, 0xb0), (10, 0xb1)]);
    let bridges = found.iter().filter(|f| f.below.is_some()).count();
    assert_eq!((bridges, found.last().map(|f| f.below)), (10, Some(Some((11, 11)))));
    for (addr, device) in [(0x6000_0000, 0xa0), (0x6010_0000, 0xc0), (0x6020_0000, 0xb0), (0x6030_0000, 0xb1)]
    {
        assert_eq!(b.mem_read(addr), Outcome::ok(device), "{addr:#x}");
    }
    b.put(Bdf::new(10, 0, 0), 0x04, 6);
    b.mem_write(0x6030_0000 + DMA_WRITE, 0x4000_0000);
    let rids: Vec<_> = b.sent().iter().map(|r| (r.rid, r.bme, r.addr)).collect();
    assert_eq!(rids, [(Bdf::new(10, 0, 0), true, 0x4000_0000)]);
}

#[test]
fn capabilities_say_what_kind_of_port_it_is() {
    let mut b = Bench::up(SwitchSpec {
        attention_button: true,
        power_control: true,
        command_completed: false,
        first_slot: 7,
        ..SwitchSpec::new(vec![ep(0xa0, 1), None])
    });
    assert_eq!(b.config_read(UP, 0, B4).data, 0x8232_104c);
    assert_eq!(b.config_read(port(0), 0, B4).data, 0x8233_104c);
    assert_eq!(b.config_read(port(1), 0x08, B4).data >> 8, 0x06_0400);
    let caps = |b: &mut Bench, bdf| {
        let (mut at, mut ids) = (b.config_read(bdf, 0x34, Width::B1).data as u16, Vec::new());
        while at != 0 {
            ids.push(b.get(bdf, at) as u8);
            at = b.get(bdf, at) >> 8;
        }
        ids.push(b.config_read(bdf, 0x100, B2).data as u8);
        ids
    };
    assert_eq!(caps(&mut b, UP), [0x10, 0x01, 0x01]);
    assert_eq!(caps(&mut b, port(0)), [0x10, 0x01, 0x05, 0x01]);
    assert_eq!((b.get(UP, 0x72), b.get(port(0), 0x72)), (0x52, 0x162), "types 5 and 6, slot");
    assert_eq!((b.get(UP, 0x82), b.get(port(0), 0x82)), (0x0013, 0x2013));
    assert_eq!(b.config_read(port(1), 0x7c, B4).data, 0x0270_0813, "port 2, DLLLARC, LBNC");
    assert_eq!(b.config_read(port(1), 0x84, B4).data, 8 << 19 | 1 << 18 | 0x7b);
    assert_eq!((b.get(UP, 0x3c) >> 8, b.get(port(0), 0x3c) >> 8), (0, 1));
    // Controls that a slot does not have are not there.
    let mut plain = three();
    plain.put(port(0), 0x88, 0xffff);
    b.put(port(0), 0x88, 0xffff);
    assert_eq!((plain.get(port(0), 0x88), b.get(port(0), 0x88)), (0x103f, 0x17ff));
}

#[test]
fn a_configuration_request_that_misses_is_unsupported() {
    let mut b = three();
    for (bdf, type1, answer) in [
        (UP, false, Some(UPSTREAM_DEVICE)),
        (Bdf::new(1, 1, 0), false, None),
        (Bdf::new(1, 0, 1), false, None),
        (UP, true, None),
        (port(2), true, Some(DOWNSTREAM_DEVICE)),
        (port(3), true, None),
        (Bdf::new(2, 0, 1), true, None),
        (port(0), false, Some(UPSTREAM_DEVICE)),
        (Bdf::new(3, 0, 0), true, Some(0xa0)),
        (Bdf::new(3, 1, 0), true, None),
        (Bdf::new(3, 0, 1), true, None),
        (Bdf::new(4, 0, 0), true, None),
        (Bdf::new(6, 0, 0), true, None),
        (Bdf::new(0, 0, 0), true, None),
    ] {
        let r = ConfigRequest { bdf, type1, off: 0, w: B4 };
        let got = b.with(|c, cx, up| c.config_read(cx, up, r));
        assert_eq!(got.data >> 16, u64::from(answer.unwrap_or(0xffff)), "{bdf} {type1}");
        assert_eq!(got.status == Completion::Success, answer.is_some(), "{bdf} {type1}");
        let put = b.with(|c, cx, up| c.config_write(cx, up, ConfigRequest { off: 0x3c, ..r }, 0));
        assert_eq!(put == Completion::Success, answer.is_some(), "{bdf} {type1}: write");
    }
}

#[test]
fn memory_outside_the_windows_is_unsupported_and_the_upstream_port_reports_it() {
    let mut b = three();
    b.put(UP, 0x78, 0xa);
    for addr in [0x5ff0_0000, 0x6010_0000, 0x6000_1000, 0x6030_0000, u64::MAX - 7] {
        assert_eq!(b.mem_read(addr).status, Completion::UnsupportedRequest, "{addr:#x}");
    }
    assert_eq!(b.root.errors, [], "an advisory error is masked");
    b.mem_write(0x6030_0000, 0);
    assert_eq!(b.root.errors, [(UP, ErrorMessage::NonFatal)], "nobody's window");
    b.mem_write(0x6010_0000, 0);
    assert_eq!(b.root.errors.len(), 1, "an empty slot's window: the write is dropped");
    // Memory decoding of each port on the way.
    for bdf in [UP, port(0)] {
        b.put(bdf, 0x04, 4);
        assert_eq!(b.mem_read(0x6000_0000).status, Completion::UnsupportedRequest, "{bdf}");
        b.put(bdf, 0x04, 6);
        assert_eq!(b.mem_read(0x6000_0000), Outcome::ok(0xa0));
    }
}

#[test]
fn every_gate_on_the_way_up_refuses() {
    // Bus mastering of the endpoint, the downstream and the upstream port.
    for gates in 0..8u8 {
        let mut b = three();
        for (n, bdf) in [Bdf::new(3, 0, 0), port(0), UP].into_iter().enumerate() {
            b.put(bdf, 0x04, if gates & 1 << n != 0 { 6 } else { 2 });
        }
        for off in [DMA_WRITE, DMA_READ] {
            b.mem_write(0x6000_0000 + off, 0x4000_0000);
            let got: Vec<_> = b.sent().iter().map(|r| (r.rid, r.bme)).collect();
            assert_eq!(got, [(Bdf::new(3, 0, 0), gates == 7)], "{gates:#b} {off:#x}");
        }
    }
}

/// What a card in slot 0 meets on its way up: a write, a read, whether an error message arrives.
fn tries(b: &mut Bench) -> (Completion, Completion, usize) {
    let rid = Bdf::new(3, 0, 0);
    let mut buf = [0; 4];
    let (put, got) = b.with(|c, cx, up| {
        let (slot, mut bus) = c.slot(up, 0).expect("a slot");
        let mut up = Below { port: &mut slot.port, bus: &mut bus };
        up.error(cx, rid, ErrorMessage::Fatal);
        (up.mem_write(cx, rid, true, 0, &[0]), up.mem_read(cx, rid, true, 0, &mut buf))
    });
    assert!(got != Completion::Timeout || buf == [0xff; 4]);
    (put, got, std::mem::take(&mut b.root.errors).len())
}

#[test]
fn nothing_gets_over_a_link_that_is_down_or_through_a_port_that_sleeps() {
    use Completion::*;
    let open = || {
        let mut b = three();
        for bdf in [UP, port(0)] {
            b.put(bdf, 0x3e, 1 << 1);
            b.put(bdf, 0x78, 0xf);
        }
        b
    };
    assert_eq!(tries(&mut open()), (Success, Success, 1));
    let mut b = open();
    b.put(port(0), 0x80, 1 << 4);
    assert_eq!((tries(&mut b), b.sent()), ((Timeout, Timeout, 0), vec![]));
    for bdf in [UP, port(0)] {
        let mut b = open();
        b.put(bdf, 0x44, 3);
        assert_eq!(tries(&mut b), (UnsupportedRequest, UnsupportedRequest, 0), "{bdf}");
    }
}

#[test]
fn a_port_in_d3hot_passes_nothing_but_answers_itself() {
    for bdf in [UP, port(0)] {
        let mut b = three();
        let card = Bdf::new(3, 0, 0);
        b.mem_write(0x6000_0000 + INTX, 1);
        assert_eq!(b.card.intx(), 1);
        b.put(bdf, 0x44, 3);
        assert_eq!(b.config_read(bdf, 0, B4).status, Completion::Success, "{bdf}");
        assert_eq!(b.config_read(card, 0, B4).status, Completion::UnsupportedRequest, "{bdf}");
        assert_eq!(b.mem_read(0x6000_0000).status, Completion::UnsupportedRequest, "{bdf}");
        assert_eq!(b.card.intx(), 0, "{bdf}");
        b.put(bdf, 0x44, 0);
        assert_eq!(
            (b.mem_read(0x6000_0000), b.card.intx()),
            (Outcome::ok(0xa0), 1),
            "nothing is lost: {bdf}"
        );
        // What the card sends by itself meanwhile.
        b.put(card, 0x52, 1);
        b.mem_write(0x6000_0000 + TIMER, MS);
        b.put(bdf, 0x44, 3);
        b.sleep(MS);
        assert_eq!(b.sent().iter().map(|r| r.bme).collect::<Vec<_>>(), [false], "{bdf}");
    }
}

#[test]
fn error_messages_pass_ports_that_let_them() {
    let card = Bdf::new(3, 0, 0);
    let (serr, bridge) = (1 << 8, 1 << 1);
    // BRIDGE_CONTROL, COMMAND and DEVCTL of both ports; whether ERR_COR and ERR_NONFATAL reach the root.
    for (control, command, devctl, cor, nonfatal) in [
        (bridge, 6, 0xf, true, true),
        (0, 6 | serr, 0xf, false, false),
        (bridge, 6, 0, false, false),
        (bridge, 6 | serr, 0, false, true),
        (bridge, 6, 1, true, false),
        (bridge, 6, 2, false, true),
    ] {
        for bdf in [UP, port(0)] {
            let mut b = three();
            for p in [UP, port(0)] {
                b.put(p, 0x3e, bridge);
                b.put(p, 0x78, 0xf);
            }
            b.put(bdf, 0x3e, control);
            b.put(bdf, 0x04, command);
            b.put(bdf, 0x78, devctl);
            // The endpoint reports; its advisory errors are not masked.
            b.put(card, 0x78, 0xf);
            b.config_write(card, 0x114, B4, 0);
            b.mem_read(0x6000_1000);
            b.mem_write(0x6000_1000, 0);
            let want: Vec<_> = [(cor, ErrorMessage::Correctable), (nonfatal, ErrorMessage::NonFatal)]
                .into_iter()
                .filter_map(|(passes, e)| passes.then_some((card, e)))
                .collect();
            assert_eq!(b.root.errors, want, "{bdf} {control:#x} {command:#x} {devctl:#x}");
            assert_ne!(b.get(port(0), 0x1e) & 1 << 14, 0, "received system error");
        }
    }
}

#[test]
fn wires_turn_by_the_device_number_of_the_port() {
    for slot in 0..6u8 {
        for pin in 1..=4u8 {
            let slots = (0..6).map(|n| if n == slot { ep(0xa0, pin) } else { None }).collect();
            let mut b = Bench::up(SwitchSpec::new(slots));
            let base = 0x6000_0000 + u64::from(slot) * MIB;
            assert_eq!(b.card.intx(), 0);
            b.mem_write(base + INTX, 1);
            assert_eq!(b.card.intx(), 1 << ((pin - 1 + slot) % 4), "slot {slot} pin {pin}");
            b.put(port(slot), 0x80, 1 << 4);
            assert_eq!(b.card.intx(), 0, "a link that is down asserts nothing");
        }
    }
}

#[test]
fn wires_of_a_nested_switch_turn_at_each_switch() {
    let inner = Switch::new(SwitchSpec::new(vec![None, None, None, ep(0xb0, 2)]));
    let mut b = Bench::up(SwitchSpec::new(vec![None, None, Some(inner.boxed())]));
    assert_eq!(b.mem_read(0x6050_0000), Outcome::ok(0xb0));
    b.mem_write(0x6050_0000 + INTX, 1);
    // INTB, slot 3, then slot 2: (1 + 3 + 2) mod 4.
    assert_eq!(b.card.intx(), 1 << 2);
}

#[test]
fn a_secondary_bus_reset_of_the_upstream_port_resets_all_that_is_below() {
    let (card, resets) = watched(0xa0, 1);
    let mut b = Bench::up(SwitchSpec::new(vec![Some(card), None]));
    b.put(UP, 0x3e, 1 << 6);
    b.put(UP, 0x3e, 1 << 6 | 1);
    assert_eq!(*resets.lock().expect("not poisoned"), [ResetKind::HotReset]);
    assert_eq!(b.config_read(port(0), 0, B4).status, Completion::UnsupportedRequest, "held in reset");
    b.sleep(100 * MS);
    b.put(UP, 0x3e, 0);
    assert_eq!((b.get(port(0), 0x18), b.get(port(0), 0x82) & 1 << 13), (0, 0), "it begins anew");
    b.sleep(20 * MS);
    assert_ne!(b.get(port(0), 0x82) & 1 << 13, 0);
    b.enumerate();
    assert_eq!(b.mem_read(0x6000_0000), Outcome::ok(0xa0));
}

#[test]
fn a_reset_of_the_switch_reaches_the_cards() {
    for (kind, below) in [
        (ResetKind::PowerOn, ResetKind::PowerOn),
        (ResetKind::Perst, ResetKind::Perst),
        (ResetKind::HotReset, ResetKind::HotReset),
        (ResetKind::LinkDown, ResetKind::HotReset),
    ] {
        let (card, resets) = watched(0xb0, 1);
        let inner = Switch::new(SwitchSpec::new(vec![Some(card)]));
        let mut b = Bench::up(SwitchSpec::new(vec![Some(inner.boxed())]));
        let before = b.card.save();
        b.reset(kind);
        assert_eq!(*resets.lock().expect("not poisoned"), [below], "{kind:?}");
        assert_eq!(b.config_read(UP, 0x18, B4).data, 0);
        assert_eq!(b.mem_read(0x6000_0000).status, Completion::UnsupportedRequest);
        b.sleep(20 * MS);
        b.enumerate();
        assert_eq!(b.mem_read(0x6000_0000), Outcome::ok(0xb0), "{kind:?}");
        assert_eq!(before.functions.len(), b.card.save().functions.len());
    }
}

#[test]
fn items_name_switch_port_and_card() {
    let mut b = nested();
    b.sleep(100 * MS);
    b.enumerate();
    let mut items = std::collections::BTreeMap::new();
    b.card.sample("", &mut |item, v| {
        assert!(items.insert(item.to_owned(), v).is_none(), "{item} twice");
    });
    for (item, v) in [
        ("sw.command", 6),
        ("sw.port[0].dllla", 1),
        ("sw.port[2].dllla", 0),
        ("sw.port[0].slot_status", 0x140),
        ("sw.port[2].slot_status", 0),
        ("sw.port[1].sltctl", 0),
        ("sw.port[1].msi.enable", 0),
        ("sw/1.port[1].command", 6),
        ("sw/1/1.port[0].dllla", 1),
        ("ep/0.command", 6),
        ("ep/1/1/1.command", 6),
    ] {
        assert_eq!(items.get(item), Some(&v), "{item}");
    }
}

#[test]
fn a_switch_has_one_to_eight_slots() {
    let count = |n: usize| Switch::<()>::new(SwitchSpec::new((0..n).map(|_| None).collect())).slots.len();
    assert_eq!([0, 1, 2, 8, 12].map(count), [1, 1, 2, 8, 8]);
}
