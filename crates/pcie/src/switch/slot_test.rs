//! Slots and links, in the order in which Linux' pciehp drives them (drivers/pci/hotplug/pciehp_{core,ctrl,hpc}.c, v6.12).

use std::collections::BTreeMap;

use block::Width::B1;
use block::Width::B2;
use block::Width::B4;
use proptest::prelude::*;

use super::bench::*;
use super::*;

const UP: Bdf = Bdf::new(1, 0, 0);
const S: u64 = 1000 * MS;
const MSI_ADDR: u64 = 0x1_fee0_0000;

const LNKCTL: u16 = 0x80;
const LNKSTA: u16 = 0x82;
const SLTCTL: u16 = 0x88;
const SLTSTA: u16 = 0x8a;
const ABP: u16 = 1 << 0;
const PDC: u16 = 1 << 3;
const CC: u16 = 1 << 4;
const HPIE: u16 = 1 << 5;
const PDS: u16 = 1 << 6;
const PIC_ON: u16 = 1 << 8;
const PIC_BLINK: u16 = 2 << 8;
const PIC_OFF: u16 = 3 << 8;
const PCC: u16 = 1 << 10;
/// The same bit enables it in SLTCTL.
const DLLSC: u16 = 1 << 8;
const DLLSCE: u16 = 1 << 12;
const DLLLA: u16 = 1 << 13;

fn port(n: u8) -> Bdf {
    Bdf::new(2, n, 0)
}

/// What a slot's driver sees.
impl Bench {
    /// As portdrv and pcie_init_notification do: MSI, old events gone, events on.
    fn listen(&mut self, bdf: Bdf, enables: u16) {
        self.config_write(bdf, 0x54, B4, MSI_ADDR & 0xffff_ffff);
        self.config_write(bdf, 0x58, B4, MSI_ADDR >> 32);
        self.put(bdf, 0x5c, 0x40 + bdf.dev() as u16);
        self.put(bdf, 0x52, 1);
        self.put(bdf, SLTSTA, 0x11f);
        self.command(bdf, HPIE | DLLSCE | CC | enables, 0x103f);
        self.isr(bdf);
    }

    /// pcie_write_cmd.
    fn command(&mut self, bdf: Bdf, v: u16, mask: u16) {
        let was = self.get(bdf, SLTCTL);
        self.put(bdf, SLTCTL, was & !mask | v & mask);
    }

    /// pciehp_isr in MSI mode: messages of the port since the last time, and its events, which are cleared.
    fn isr(&mut self, bdf: Bdf) -> (usize, u16) {
        let messages = self.sent().iter().filter(|r| r.rid == bdf && r.addr == MSI_ADDR).count();
        let mut events = 0;
        loop {
            let status = self.get(bdf, SLTSTA);
            if status == 0xffff || status & 0x11f == 0 {
                return (messages, events);
            }
            self.put(bdf, SLTSTA, status & 0x11f);
            events |= status & 0x11f;
        }
    }

    fn active(&mut self, bdf: Bdf) -> bool {
        self.get(bdf, LNKSTA) & DLLLA != 0
    }

    fn present(&mut self, bdf: Bdf) -> bool {
        self.get(bdf, SLTSTA) & PDS != 0
    }
}

fn taken(resets: &Resets) -> Vec<ResetKind> {
    std::mem::take(&mut resets.lock().expect("not poisoned"))
}

fn two(spec: impl FnOnce(&mut SwitchSpec<()>)) -> (Bench, Resets) {
    let (card, resets) = watched(0xa0, 1);
    let mut s = SwitchSpec::new(vec![Some(card), None]);
    spec(&mut s);
    (Bench::up(s), resets)
}

#[test]
fn links_train_from_power_on_and_an_empty_slot_stays_down() {
    let mut b = Bench::new(SwitchSpec::new(vec![ep(0xa0, 1), None]));
    assert_eq!(b.card.next_deadline(), Some(SimTime(20 * MS)));
    b.config_write(UP, 0x18, B4, 0x0005_0201);
    // Nothing to retrain yet, or ever.
    b.put(port(0), LNKCTL, 1 << 5);
    b.put(port(1), LNKCTL, 1 << 5);
    b.sleep(20 * MS - 1);
    assert_eq!((b.active(port(0)), b.present(port(0))), (false, true));
    b.sleep(1);
    assert!(b.active(port(0)) && !b.active(port(1)) && !b.present(port(1)));
    assert_eq!(b.get(port(0), LNKSTA), DLLLA | 0x13);
    assert_eq!(b.card.next_deadline(), None, "nothing wakes the host for a slot at rest");
}

#[test]
fn a_card_that_is_pulled_by_surprise_comes_back_without_its_state() {
    let (mut b, resets) = two(|_| {});
    b.listen(port(0), PDC);
    b.mem_write(0x6000_0000 + INTX, 1);
    assert!(b.event(&[0], SlotEvent::Pull));
    assert_eq!(b.isr(port(0)), (1, PDC | DLLSC), "one message for both");
    assert_eq!((b.present(port(0)), b.active(port(0)), b.card.intx()), (false, false, 0));
    assert_eq!(b.config_read(Bdf::new(3, 0, 0), 0, B4).data, 0xffff_ffff);
    assert_eq!(b.mem_read(0x6000_0000).status, Completion::UnsupportedRequest);
    assert!(b.event(&[0], SlotEvent::Pull));
    assert_eq!(b.isr(port(0)), (0, 0), "it is not there any more");
    b.sleep(S);
    assert!(b.event(&[0], SlotEvent::Insert));
    assert_eq!(b.isr(port(0)), (1, PDC));
    b.sleep(20 * MS);
    assert_eq!(b.isr(port(0)), (1, DLLSC));
    assert_eq!((b.present(port(0)), b.active(port(0))), (true, true));
    assert_eq!(taken(&resets), [ResetKind::PowerOn; 2], "power goes and comes");
    let card = Bdf::new(3, 0, 0);
    assert_eq!((b.get(card, 0), b.get(card, 4), b.get(card, 0x12)), (EP_VENDOR, 0, 0));
    assert_eq!(b.card.intx(), 0);
}

#[test]
fn a_card_with_a_timer_does_nothing_while_it_is_out() {
    let (mut b, _) = two(|_| {});
    b.put(Bdf::new(3, 0, 0), 0x52, 1);
    b.mem_write(0x6000_0000 + TIMER, MS);
    b.event(&[0], SlotEvent::Pull);
    assert_eq!(b.card.next_deadline(), None);
    b.sleep(S);
    assert_eq!(b.sent(), []);
}

#[test]
fn the_button_takes_a_card_out_of_service_and_back() {
    let (mut b, resets) = two(|s| {
        s.attention_button = true;
        s.power_control = true;
    });
    let p = port(0);
    b.listen(p, ABP);
    b.command(p, PIC_ON, PIC_OFF);
    assert_eq!(b.isr(p), (1, CC));
    // Press: blink for 5 s, unconfigure, power off, 1 s, indicator off.
    b.event(&[0], SlotEvent::Press);
    assert_eq!(b.isr(p), (1, ABP));
    b.command(p, PIC_BLINK, PIC_OFF);
    assert_eq!(b.isr(p), (1, CC));
    b.sleep(5 * S);
    assert!(b.active(p), "nothing happens by itself");
    b.put(Bdf::new(3, 0, 0), 4, 0);
    b.command(p, PCC, PCC);
    assert_eq!(b.isr(p), (1, CC | DLLSC), "the link goes with the power");
    assert_eq!((taken(&resets), b.active(p), b.present(p)), (vec![ResetKind::PowerOn], false, true));
    b.sleep(S);
    b.command(p, PIC_OFF, PIC_OFF);
    assert_eq!(b.get(p, SLTCTL) & (PCC | PIC_OFF), PCC | PIC_OFF);
    b.isr(p);
    // The card is changed: with the button, PDC interrupts nobody.
    b.event(&[0], SlotEvent::Pull);
    b.event(&[0], SlotEvent::Insert);
    assert_eq!(b.isr(p), (0, PDC));
    b.sleep(S);
    assert!(!b.active(p), "without power");
    assert_eq!(taken(&resets), [], "nothing happens to a card without power");
    // Press: blink for 5 s, power on, wait for the link, configure.
    b.event(&[0], SlotEvent::Press);
    assert_eq!(b.isr(p), (1, ABP));
    b.sleep(5 * S);
    b.command(p, 0, PCC);
    assert_eq!(b.isr(p), (1, CC));
    b.sleep(20 * MS);
    assert_eq!((b.isr(p), taken(&resets)), ((1, DLLSC), vec![ResetKind::PowerOn]));
    b.enumerate();
    assert_eq!(b.mem_read(0x6000_0000), Outcome::ok(0xa0));
}

#[test]
fn without_button_and_power_controller_neither_does_anything() {
    let (mut b, resets) = two(|_| {});
    b.event(&[0], SlotEvent::Press);
    b.put(port(0), SLTCTL, PCC);
    assert_eq!((b.get(port(0), SLTSTA) & ABP, b.active(port(0)), taken(&resets)), (0, true, vec![]));
    assert!(b.event(&[1], SlotEvent::Insert) && !b.present(port(1)), "no card belongs to the slot");
}

#[test]
fn completed_commands_are_told_unless_the_slot_says_that_they_are_not() {
    for told in [true, false] {
        let (mut b, _) = two(|s| s.command_completed = told);
        let completed = |b: &mut Bench| b.isr(port(0)).1 & CC != 0;
        b.isr(port(0));
        for (off, w, command) in [(SLTCTL, B2, true), (SLTCTL + 1, Width::B1, true), (SLTCTL, B4, true)] {
            b.config_write(port(0), off, w, 0);
            assert_eq!(completed(&mut b), told && command, "{off:#x} {w:?}");
        }
        b.put(port(0), SLTSTA, 0);
        assert!(!completed(&mut b), "a write of the status is no command");
    }
}

#[test]
fn a_link_that_is_disabled_flaps() {
    let (mut b, resets) = two(|_| {});
    b.listen(port(0), PDC);
    b.put(port(0), LNKCTL, 1 << 4);
    assert_eq!((b.isr(port(0)), b.active(port(0)), b.present(port(0))), ((1, DLLSC), false, true));
    assert_eq!(taken(&resets), [ResetKind::LinkDown]);
    b.sleep(S);
    b.put(port(0), LNKCTL, 0);
    assert_eq!(b.isr(port(0)), (0, 0));
    b.sleep(20 * MS);
    assert_eq!((b.isr(port(0)), b.active(port(0))), ((1, DLLSC), true));
    assert_eq!(taken(&resets), []);
    // Disabled before it has trained: it was never active.
    b.put(port(0), LNKCTL, 1 << 4);
    b.isr(port(0));
    b.put(port(0), LNKCTL, 0);
    b.sleep(MS);
    b.put(port(0), LNKCTL, 1 << 4);
    assert_eq!((b.isr(port(0)), b.card.next_deadline()), ((0, 0), None));
}

#[test]
fn a_slot_reset_is_not_seen_as_a_removal() {
    // pciehp_reset_slot.
    let (mut b, resets) = two(|_| {});
    let p = port(0);
    b.listen(p, PDC);
    b.command(p, 0, PDC | DLLSCE);
    b.isr(p);
    b.put(p, 0x3e, 1 << 6);
    assert!(!b.active(p));
    b.sleep(2 * MS);
    b.put(p, 0x3e, 0);
    b.sleep(S);
    assert!(b.active(p));
    b.put(p, SLTSTA, PDC | DLLSC);
    assert_eq!(b.sent(), [], "no message");
    b.command(p, PDC | DLLSCE, PDC | DLLSCE);
    assert_eq!((b.isr(p), taken(&resets)), ((1, CC), vec![ResetKind::HotReset]));
}

#[test]
fn both_ends_of_each_link_show_the_same_rate() {
    let (mut b, _) = two(|_| {});
    let (p, card) = (port(0), Bdf::new(3, 0, 0));
    for above in [None, Some(Rate { speed: 2, width: 1 }), Some(Rate { speed: 4, width: 16 })] {
        b.root.rate = above;
        assert_eq!(b.get(UP, LNKSTA), above.map_or(0, Rate::lnksta), "what the port above says");
        assert_eq!((b.get(p, LNKSTA), b.get(card, LNKSTA)), (DLLLA | 0x13, 0x13), "another link");
    }
    // In every width, and beside LNKCTL.
    b.put(card, LNKCTL, 0x0040);
    assert_eq!(b.config_read(card, LNKCTL, B4).data, 0x0013_0040);
    assert_eq!((b.config_read(card, LNKSTA, B1).data, b.config_read(card, LNKSTA + 1, B1).data), (0x13, 0));
    b.put(p, 0xa0, 1);
    b.put(p, LNKCTL, 1 << 5);
    b.sleep(MS);
    assert_eq!((b.get(p, LNKSTA) & 0x3ff, b.get(card, LNKSTA)), (0x11, 0x11), "after a retrain");
    b.put(p, 0xa0, 2);
    b.event(&[0], SlotEvent::Pull);
    assert_eq!(b.get(p, LNKSTA) & 0x3ff, 0);
    b.event(&[0], SlotEvent::Insert);
    b.sleep(S);
    b.put(card, LNKCTL, 0);
    assert_eq!((b.get(p, LNKSTA) & 0x3ff, b.get(card, LNKSTA)), (0x12, 0x12), "a card that came back");
}

#[test]
fn a_retrain_keeps_the_link_and_its_end_is_bandwidth_management() {
    let (mut b, resets) = two(|_| {});
    let p = port(0);
    b.listen(p, PDC);
    b.put(p, 0xa0, 2);
    b.put(p, LNKCTL, 1 << 5 | 1 << 10);
    assert_eq!((b.get(p, LNKCTL), b.get(p, LNKSTA) & (DLLLA | 1 << 11)), (1 << 10, DLLLA | 1 << 11));
    assert_eq!(b.sent(), []);
    b.sleep(MS);
    assert_eq!(b.get(p, LNKSTA), DLLLA | 1 << 14 | 0x12, "5 GT/s, as LNKCTL2 says");
    assert_eq!((b.isr(p), taken(&resets)), ((1, 0), vec![]));
    b.put(p, 0x3c, 1);
    assert_eq!(b.sent(), [], "told once");
    b.put(p, LNKSTA, 1 << 14);
    assert_eq!(b.get(p, LNKSTA) & 1 << 14, 0);
}

#[test]
fn a_message_goes_out_when_the_condition_becomes_true_and_not_before_it_was_false() {
    let (mut b, _) = two(|_| {});
    let p = port(0);
    b.listen(p, PDC);
    let sent = |b: &mut Bench| b.sent().len();
    b.event(&[0], SlotEvent::Pull);
    b.event(&[0], SlotEvent::Insert);
    assert_eq!(sent(&mut b), 1, "an event more is no edge");
    b.put(p, SLTSTA, PDC);
    b.put(p, SLTSTA, PDC);
    assert_eq!(sent(&mut b), 0, "DLLSC is still there");
    b.put(p, SLTSTA, DLLSC);
    b.sleep(20 * MS);
    assert_eq!(sent(&mut b), 1);
    // HPIE, MSI enable and the mask are part of the condition (PCIe §6.7.3.4).
    b.command(p, 0, HPIE | CC);
    b.command(p, HPIE, HPIE);
    assert_eq!(sent(&mut b), 1);
    b.put(p, 0x52, 0);
    assert_eq!(b.card.intx(), 1, "the pin instead");
    b.put(p, 0x52, 1);
    assert_eq!((sent(&mut b), b.card.intx()), (1, 0));
    b.config_write(p, 0x60, B4, 1);
    b.isr(p);
    b.event(&[0], SlotEvent::Pull);
    assert_eq!((sent(&mut b), b.config_read(p, 0x64, B4).data), (0, 1), "masked and pending");
    b.config_write(p, 0x60, B4, 0);
    assert_eq!((sent(&mut b), b.config_read(p, 0x64, B4).data), (1, 0));
    b.config_write(p, 0x60, B4, 1);
    b.isr(p);
    b.config_write(p, 0x60, B4, 0);
    assert_eq!(sent(&mut b), 0, "the events were cleared while it was masked");
}

#[test]
fn a_port_that_sleeps_tells_when_it_is_awake_again() {
    let (mut b, _) = two(|_| {});
    let p = port(0);
    b.listen(p, PDC);
    b.put(p, 0x44, 3);
    b.event(&[0], SlotEvent::Pull);
    assert_eq!(b.sent(), []);
    b.put(p, 0x52, 0);
    assert_eq!(b.card.intx(), 0);
    b.put(p, 0x52, 1);
    b.put(p, 0x44, 0);
    assert_eq!(b.isr(p), (1, PDC | DLLSC));
    // A reset wakes it, too.
    b.put(p, 0x44, 3);
    b.reset(ResetKind::HotReset);
    b.enumerate();
    assert_eq!(b.get(p, 0x44) & 3, 0);
}

#[test]
fn what_was_told_is_part_of_the_state() {
    let (mut b, _) = two(|_| {});
    b.listen(port(0), PDC);
    b.event(&[0], SlotEvent::Pull);
    b.sent();
    let saved = b.card.save();
    let (mut again, _) = two(|_| {});
    again.card.restore(&saved).expect("its own");
    again.sent();
    again.put(port(0), 0x3c, 1);
    assert_eq!(again.sent(), []);
}

#[test]
fn the_pin_is_a_function_of_status_and_enables() {
    for (enable, status) in [(ABP, ABP), (PDC, PDC), (CC, CC), (DLLSCE, DLLSC)] {
        for enabled in [true, false] {
            for hpie in [true, false] {
                let (mut b, _) = two(|s| s.attention_button = true);
                let p = port(0);
                b.event(&[0], SlotEvent::Press);
                b.event(&[0], SlotEvent::Pull);
                let ctl = if enabled { enable } else { 0 } | if hpie { HPIE } else { 0 };
                b.put(p, SLTCTL, ctl);
                let want = u8::from(enabled && hpie);
                assert_eq!(b.card.intx(), want, "{enable:#x} {enabled} {hpie}");
                assert_eq!(b.get(p, 6) >> 3 & 1, u16::from(want), "STATUS");
                b.put(p, 4, 0x406);
                assert_eq!(b.card.intx(), 0, "INTX_DISABLE");
                b.put(p, 4, 6);
                b.put(p, SLTSTA, !status);
                assert_eq!(b.card.intx(), want, "{status:#x} is left");
                b.put(p, SLTSTA, status);
                assert_eq!((b.card.intx(), b.get(p, 6) >> 3 & 1), (0, 0), "{status:#x} is cleared");
            }
        }
    }
}

#[test]
fn a_ports_own_message_needs_both_ports_to_master() {
    for (off, bdf) in [(6, UP), (2, UP), (2, port(0))] {
        let (mut b, _) = two(|_| {});
        b.listen(port(0), PDC);
        b.put(bdf, 4, off);
        b.event(&[0], SlotEvent::Pull);
        let bme: Vec<_> = b.sent().iter().map(|r| r.bme).collect();
        assert_eq!(bme, [off == 6], "{bdf} {off}");
    }
}

#[test]
fn a_slot_of_a_switch_in_a_slot_is_named_by_its_path() {
    let (card, resets) = watched(0xb0, 1);
    let inner = Switch::new(SwitchSpec::new(vec![None, Some(card)]));
    let mut b = Bench::up(SwitchSpec::new(vec![None, Some(inner.boxed()), ep(0xa2, 1)]));
    // Buses: 3 below port 0, 4 below port 1, with the inner switch's ports on 5.
    let p = Bdf::new(5, 1, 0);
    assert_eq!(b.config_read(Bdf::new(7, 0, 0), 2, B2).data, 0xb0);
    b.listen(p, PDC);
    for path in [&[][..], &[3], &[1, 2], &[0, 0], &[2, 0], &[1, 1, 0]] {
        for e in [SlotEvent::Pull, SlotEvent::Insert, SlotEvent::Press] {
            assert!(!b.event(path, e), "{path:?}");
        }
    }
    assert!(b.event(&[1, 1], SlotEvent::Pull));
    assert_eq!(b.isr(p), (1, PDC | DLLSC));
    assert!(b.event(&[1, 1], SlotEvent::Insert));
    b.sleep(20 * MS);
    assert_eq!((b.isr(p), taken(&resets)), ((1, PDC | DLLSC), vec![ResetKind::PowerOn; 2]));
    // The inner switch goes with what is in it, and all of it comes back; its slots train once it has power.
    b.event(&[1], SlotEvent::Pull);
    assert_eq!(b.card.next_deadline(), None);
    b.sleep(S);
    b.event(&[1], SlotEvent::Insert);
    b.sleep(20 * MS);
    assert_eq!(taken(&resets), [ResetKind::PowerOn; 2]);
    b.enumerate();
    assert_eq!((b.present(p), b.config_read(Bdf::new(7, 0, 0), 2, B2).data), (true, 0xb0));
}

#[test]
fn a_state_that_cannot_be_is_refused_and_changes_nothing() {
    let (b, _) = two(|_| {});
    let saved = b.card.save();
    let fresh = || two(|_| {}).0.card;
    let text = serde_json::to_string(&saved).expect("plain data");
    for (from, to) in [
        ("\"present\":true", "\"present\":false"),
        ("\"powered\":true", "\"powered\":false"),
        ("\"link\":\"Up\"", "\"link\":\"Down\""),
        ("\"link\":\"Down\"", "\"link\":\"Up\""),
        ("\"link\":\"Down\"", "\"link\":{\"Training\":{\"until\":5}}"),
        ("\"powered\":false", "\"powered\":true"),
        ("switch-upstream-port", "switch-downstream-port"),
        ("\"told\"", "\"tolt\""),
    ] {
        let edited = text.replacen(from, to, 1);
        assert_ne!(edited, text, "{from}");
        let mut card = fresh();
        let before = card.save();
        assert!(card.restore(&serde_json::from_str(&edited).expect("still a state")).is_err(), "{from}");
        assert_eq!(card.save(), before, "{from}");
    }
    // A card in a slot that none belongs to, however well it is told.
    let mut edited = serde_json::to_value(&saved).expect("plain data");
    let port = &mut edited["functions"][2]["data"];
    (port["present"], port["powered"]) = (true.into(), true.into());
    let word = &mut port["bridge"]["config"][usize::from(SLTCTL / 4)];
    *word = (word.as_u64().expect("a word") | u64::from(PDS) << 16).into();
    assert!(fresh().restore(&serde_json::from_value(edited).expect("still a state")).is_err());
    let mut longer = Switch::<()>::new(SwitchSpec::new(vec![None, None, None]));
    assert!(longer.restore(&saved).is_err());
    let mut full = Switch::<()>::new(SwitchSpec::new(vec![ep(1, 1), ep(2, 1)]));
    assert!(full.restore(&saved).is_err());
    let mut same = fresh();
    same.restore(&saved).expect("its own");
    assert_eq!(same.save(), saved);
}

/// Something that happens to the switch.
#[derive(Clone, Debug)]
enum Op {
    Read(Bdf, u16, Width),
    Write(Bdf, u16, Width, u64),
    MemRead(u64),
    MemWrite(u64, u64),
    Event(Vec<u8>, SlotEvent),
    Sleep(u64),
    Reset(ResetKind),
    Enumerate,
    /// A slot's driver begins.
    Listen(Bdf),
}

/// A switch with an endpoint, an empty slot and a switch with two endpoints.
fn tree() -> SwitchSpec<()> {
    let inner = Switch::new(SwitchSpec {
        attention_button: true,
        power_control: true,
        ..SwitchSpec::new(vec![ep(0xb0, 2), ep(0xb1, 3)])
    });
    SwitchSpec { power_control: true, ..SwitchSpec::new(vec![ep(0xa0, 1), None, Some(inner.boxed())]) }
}

fn op() -> impl Strategy<Value = Op> {
    let bdf =
        (0u8..11, 0u8..4, prop_oneof![15 => Just(0u8), 1 => 0u8..8]).prop_map(|(b, d, f)| Bdf::new(b, d, f));
    let known = prop::sample::select(vec![
        0x04u16, 0x18, 0x20, 0x3c, 0x44, 0x50, 0x54, 0x60, 0x78, 0x80, 0x88, 0x88, 0x88, 0xa0, 0x104, 0x114,
    ]);
    let off = prop_oneof![8 => known, 1 => (0u16..0x400).prop_map(|n| n * 4)];
    let width = prop::sample::select(vec![Width::B1, B2, B4]);
    let at = (off, width, 0u16..4).prop_map(|(off, w, lane)| (off | lane & !(w.bytes() as u16 - 1), w));
    let value = prop_oneof![
        any::<u32>().prop_map(u64::from),
        (0u32..32).prop_map(|n| 1 << n),
        Just(0),
        Just(6),
        Just(0x0006_0006),
    ];
    let addr = (0u64..6, 0u64..8).prop_map(|(slot, reg)| 0x6000_0000 + slot * MIB + reg * 8);
    let addr = prop_oneof![8 => addr, 1 => any::<u64>()];
    let path = prop_oneof![
        (0u8..4).prop_map(|n| vec![n]),
        (0u8..3).prop_map(|n| vec![2, n]),
        prop::collection::vec(0u8..4, 0..4),
    ];
    let event =
        prop::sample::select(vec![SlotEvent::Pull, SlotEvent::Insert, SlotEvent::Insert, SlotEvent::Press]);
    let kind = prop::sample::select(vec![
        ResetKind::PowerOn,
        ResetKind::Core,
        ResetKind::Perst,
        ResetKind::HotReset,
        ResetKind::LinkDown,
        ResetKind::D3HotToD0,
    ]);
    prop_oneof![
        4 => (bdf.clone(), at.clone()).prop_map(|(b, (o, w))| Op::Read(b, o, w)),
        12 => (bdf, at, value.clone()).prop_map(|(b, (o, w), v)| Op::Write(b, o, w, v)),
        2 => addr.clone().prop_map(Op::MemRead),
        4 => (addr, value).prop_map(|(a, v)| Op::MemWrite(a, v)),
        4 => (path, event).prop_map(|(p, e)| Op::Event(p, e)),
        4 => (0u64..30 * MS).prop_map(Op::Sleep),
        1 => kind.prop_map(Op::Reset),
        1 => Just(Op::Enumerate),
        2 => prop::sample::select(vec![port(0), port(2), Bdf::new(6, 0, 0), Bdf::new(6, 1, 0)]).prop_map(Op::Listen),
    ]
}

/// What the host sees of an operation.
fn act(b: &mut Bench, op: &Op) -> String {
    let seen = match op {
        Op::Read(bdf, off, w) => format!("{:?}", b.config_read(*bdf, *off, *w)),
        Op::Write(bdf, off, w, v) => format!("{:?}", b.config_write(*bdf, *off, *w, v & w.ones())),
        Op::MemRead(addr) => format!("{:?}", b.mem_read(*addr)),
        Op::MemWrite(addr, v) => format!("{:?}", b.mem_write(*addr, *v)),
        Op::Event(path, e) => format!("{}", b.event(path, *e)),
        Op::Sleep(ns) => {
            b.sleep(*ns);
            String::new()
        }
        Op::Reset(kind) => {
            b.reset(*kind);
            String::new()
        }
        Op::Listen(bdf) => {
            b.listen(*bdf, ABP | PDC);
            String::new()
        }
        Op::Enumerate => format!("{:?}", b.enumerate()),
    };
    let errors = std::mem::take(&mut b.root.errors);
    format!("{seen} {} {:?} {:?} {errors:?}", b.card.intx(), b.card.next_deadline(), b.sent())
}

fn twin(b: &Bench) -> Bench {
    let text = serde_json::to_string(&b.card.save()).expect("plain data");
    let mut twin = Bench::new(tree());
    twin.card.restore(&serde_json::from_str(&text).expect("its own form")).expect("its own state");
    twin.now = b.now;
    twin
}

fn items(b: &Bench) -> BTreeMap<String, u64> {
    let mut items = BTreeMap::new();
    b.card.sample("", &mut |item, v| {
        items.insert(item.to_owned(), v);
    });
    items
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever a host and the world do: no panic, levels and deadlines are a function of state, a link is up only while its
    /// conditions hold, and a restored twin does the same from then on.
    #[test]
    fn a_twin_restored_at_any_moment_does_the_same(
        before in prop::collection::vec(op(), 0..80),
        after in prop::collection::vec(op(), 0..40),
    ) {
        let mut b = Bench::up(tree());
        for op in &before {
            act(&mut b, op);
            let again = twin(&b);
            prop_assert_eq!(b.card.intx(), again.card.intx(), "{:?}", op);
            prop_assert_eq!(b.card.next_deadline(), again.card.next_deadline(), "{:?}", op);
            prop_assert_eq!(b.card.save(), again.card.save(), "{:?}", op);
        }
        let mut again = twin(&b);
        for op in &after {
            let ours = act(&mut b, op);
            prop_assert_eq!(ours, act(&mut again, op), "{:?}", op);
            prop_assert_eq!(items(&b), items(&again), "{:?}", op);
            for slot in &b.card.slots {
                let ctl = slot.port.bridge().read(None, SLTCTL, B2) as u16;
                let held = b.card.upstream.secondary_bus_reset() || slot.port.bridge().secondary_bus_reset();
                let lnk = slot.port.bridge().read(None, LNKCTL, B2) as u16;
                let sta = slot.port.bridge().read(None, SLTSTA, B2) as u16;
                let may = sta & PDS != 0 && ctl & PCC == 0 && lnk & 1 << 4 == 0 && !held;
                prop_assert!(may || !slot.port.link_up(), "{:?}", op);
                prop_assert!(!may || slot.port.link_up() || slot.port.next_deadline().is_some(), "{:?}", op);
            }
        }
    }
}

#[test]
fn a_port_that_sleeps_wakes_the_system_for_a_card_once_for_each_event() {
    const PMCSR: u16 = 0x44;
    const PME_EN: u16 = 1 << 8;
    let (mut b, _) = two(|_| {});
    let p = port(0);
    b.listen(p, PDC);
    b.event(&[0], SlotEvent::Pull);
    assert_eq!((b.isr(p).1, b.root.pmes.clone()), (DLLSC | PDC, vec![]), "awake it interrupts");
    let enables = b.get(p, SLTCTL);
    b.put(p, SLTCTL, enables & !HPIE);
    b.isr(p);
    b.put(p, PMCSR, PME_EN | 3);
    b.event(&[0], SlotEvent::Insert);
    assert_eq!((b.root.pmes.clone(), b.sent()), (vec![p], vec![]), "PM_PME, no MSI");
    assert_ne!(b.get(p, PMCSR) & 1 << 15, 0, "PME_STATUS");
    b.sleep(S);
    assert_eq!(b.root.pmes.len(), 1);
    b.put(p, PMCSR, 1 << 15);
    assert_eq!(b.isr(p).1 & PDC, PDC, "the event waits for the driver");
    // Without PME_EN it sleeps on.
    b.put(p, PMCSR, 3);
    b.event(&[0], SlotEvent::Pull);
    assert_eq!(b.root.pmes.len(), 1);
}
