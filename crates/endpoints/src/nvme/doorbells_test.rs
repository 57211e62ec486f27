use block::SimTime;
use block::Width;

use super::super::bench::*;
use super::super::command::admin;
use super::super::command::nvm;
use super::*;
use pcie::Function;

const SHADOW: u64 = DATA + 0x4_0000;
const EVENT: u64 = DATA + 0x4_1000;

fn config(shadow: u64, event: u64) -> Sqe {
    Sqe::new(admin::DOORBELL_BUFFER).prp(shadow, event)
}

fn word(b: &Bench, at: u64) -> u32 {
    u32::from_le_bytes(b.bytes(at, 4).try_into().unwrap())
}

/// Linux v6.12 drivers/nvme/host/pci.c, nvme_dbbuf_need_event: whether the register is to be written.
fn needs_event(index: u16, new: u16, old: u16) -> bool {
    new.wrapping_sub(index).wrapping_sub(1) < new.wrapping_sub(old)
}

/// A driver's side of one doorbell: the shadow, and the register if the controller asks for it. Register writes so far.
#[derive(Default)]
struct Host {
    rung: [u32; 2],
    last: [u16; 2],
}

impl Host {
    fn ring(&mut self, b: &mut Bench, side: usize, value: u16) {
        let at = 8 + side as u64 * 4;
        b.put(SHADOW + at, &u32::from(value).to_le_bytes());
        let old = std::mem::replace(&mut self.last[side], value);
        if needs_event(word(b, EVENT + at) as u16, value, old) {
            self.rung[side] += 1;
            // The value does not count.
            b.writel(off::DOORBELLS + at as u32, 0xdead_beef);
        }
    }

    fn io(&mut self, b: &mut Bench) -> Vec<Cqe> {
        b.queue(1, Sqe::io(nvm::READ, 0, 1).prp(DATA, 0));
        let tail = (self.last[0] + 1) % DEPTH;
        self.ring(b, 0, tail);
        let found = b.take(1);
        let head = (self.last[1] + found.len() as u16) % DEPTH;
        self.ring(b, 1, head);
        found
    }
}

fn probed() -> Bench {
    let mut b = Bench::probed(spec(), 2);
    assert_eq!(b.sync(0, config(SHADOW, EVENT)).status, 0);
    b
}

#[test]
fn buffers_are_pages_that_can_be_reached() {
    let far = RAM + RAM_BYTES as u64;
    for (shadow, event, status) in [
        (SHADOW, EVENT, 0),
        (0, EVENT, Status::INVALID_FIELD.0),
        (SHADOW, 0, Status::INVALID_FIELD.0),
        (SHADOW + 4, EVENT, Status::INVALID_FIELD.0),
        (SHADOW, EVENT + 0x800, Status::INVALID_FIELD.0),
        (far, EVENT, Status::DATA_TRANSFER.0),
        (SHADOW, far, Status::DATA_TRANSFER.0),
        (!0xfff, EVENT, Status::DATA_TRANSFER.0),
    ] {
        let mut b = Bench::probed(spec(), 1);
        let got = b.sync(0, config(shadow, event)).status;
        assert_eq!(got & 0x7ff, status & 0x7ff, "{shadow:#x} {event:#x}");
        assert_eq!(doorbells(&b).is_empty(), status != 0);
    }
}

fn doorbells(b: &Bench) -> Vec<u64> {
    let mut out = Vec::new();
    Function::<()>::valueless_doorbells(&b.f, &mut out);
    out
}

#[test]
fn each_submission_rings_and_completions_do_once_a_lap() {
    let mut b = probed();
    let mut host = Host::default();
    let ios = 4 * u32::from(DEPTH);
    for n in 0..ios {
        let found = host.io(&mut b);
        assert_eq!(found.len(), 1, "command {n}: lost around the wrap");
    }
    assert_eq!(host.rung[0], ios, "the controller rests after each");
    assert!(host.rung[1] <= ios / u32::from(DEPTH) + 1, "{} heads in {ios} I/Os", host.rung[1]);
}

#[test]
fn a_full_completion_queue_asks_for_the_head_and_goes_on() {
    let mut b = probed();
    let mut host = Host::default();
    let room = DEPTH - 1;
    for n in 1..=room {
        b.queue(1, Sqe::io(nvm::READ, 0, 1).prp(DATA, 0));
        host.ring(&mut b, 0, n);
    }
    assert_eq!(b.take(1).len(), usize::from(room));
    b.queue(1, Sqe::io(nvm::READ, 0, 1).prp(DATA, 0));
    host.ring(&mut b, 0, 0);
    assert_eq!(b.take(1), [], "no room");
    assert_eq!(word(&b, EVENT + 12), 0, "from the head on that the host had told");
    host.ring(&mut b, 1, room);
    assert_eq!(b.take(1).len(), 1);
}

#[test]
fn the_pin_follows_heads_in_memory() {
    let mut b = Bench::of(spec());
    b.enumerate();
    b.enable();
    b.create_io_queues(1, true);
    assert_eq!(b.sync(0, config(SHADOW, EVENT)).status, 0);
    let mut host = Host::default();
    for _ in 0..2 * DEPTH {
        assert_eq!(host.io(&mut b).len(), 1);
        assert_eq!(b.intx(), 0, "the host has taken everything");
    }
    assert_eq!(host.rung[1], 2 * u32::from(DEPTH));
}

#[test]
fn doorbells_are_offered_only_while_a_write_reaches_queues_that_run() {
    let on = [BAR0 + 0x1008, BAR0 + 0x1010];
    type Change = (&'static str, fn(&mut Bench), &'static [u64]);
    let changes: &[Change] = &[
        ("nothing", |_| {}, &[BAR0 + 0x1008, BAR0 + 0x1010]),
        ("memory decoding off", |b| b.cfg_write(0x04, Width::B2, 0x4), &[]),
        (
            "BAR moved",
            |b| b.cfg_write(0x10, Width::B4, BAR0 + 0x10_0000),
            &[BAR0 + 0x10_1008, BAR0 + 0x10_1010],
        ),
        ("D3hot", |b| b.cfg_write(0x44, Width::B2, 3), &[]),
        ("disabled", |b| b.writel(off::CC, CC), &[]),
        ("shut down", |b| b.writel(off::CC, CC | 1 | 1 << 14), &[]),
        ("reset", |b| b.with(|f, cx, _| Function::<()>::reset(f, cx, block::ResetKind::LinkDown)), &[]),
        (
            "queue deleted",
            |b| assert_eq!(b.sync(0, Sqe::new(admin::DELETE_SQ).dw(10, 1)).status, 0),
            &[BAR0 + 0x1010],
        ),
    ];
    for (what, change, left) in changes {
        let mut b = probed();
        assert_eq!(doorbells(&b), on, "{what}");
        change(&mut b);
        assert_eq!(doorbells(&b), *left, "{what}");
    }
    assert!(doorbells(&Bench::probed(spec(), 2)).is_empty(), "no buffers");
}

#[test]
fn a_shadow_that_cannot_be_reached_is_fatal_and_a_bad_one_a_bad_doorbell() {
    let mut b = probed();
    b.port.refused = Some(SHADOW..SHADOW + 4096);
    b.writel(off::DOORBELLS + 8, 1);
    assert_eq!(b.csts() & super::super::csts::CFS, super::super::csts::CFS);
    let mut b = probed();
    b.put(SHADOW + 8, &u32::from(DEPTH).to_le_bytes());
    b.writel(off::DOORBELLS + 8, 1);
    assert_eq!(b.csts(), super::super::csts::RDY);
    assert_eq!(b.take(1), [], "no index of the queue");
}

#[test]
fn after_a_shutdown_no_memory_is_touched() {
    let mut b = probed();
    b.writel(off::CC, CC | 1 | 1 << 14);
    b.port = Port::default();
    b.writel(off::DOORBELLS + 12, 0);
    b.tick(SimTime(1000));
    assert!(b.port.reads.is_empty() && b.port.writes.is_empty());
}

#[test]
fn buffers_that_change_under_the_controller_do_not_keep_it() {
    // The event index lies where the shadow is: each look finds what was just written, and what completions leave there.
    let mut b = Bench::probed(spec(), 1);
    assert_eq!(b.sync(0, config(cq_at(1), cq_at(1))).status, 0);
    b.port = Port::default();
    for n in 0..u32::from(DEPTH) {
        b.put(cq_at(1) + 8, &n.to_le_bytes());
        b.writel(off::DOORBELLS + 8, n);
    }
    assert!(b.port.reads.len() + b.port.writes.len() < 100_000);
}
