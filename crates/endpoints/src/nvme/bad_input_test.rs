//! What a driver should not do: each has a defined end, and the controller lives on.

use super::bench::*;
use super::command::admin;
use super::command::nvm;
use super::*;

const NOWHERE: u64 = 0xffff_ffff_ffff_f000;

/// A controller reset brings back a controller that has failed.
fn assert_recovers(b: &mut Bench) {
    b.port.refused = None;
    b.enumerate();
    b.enable();
    b.create_io_queues(1, true);
    assert_eq!(b.sync(1, Sqe::io(nvm::READ, 0, 1).prp(DATA, 0)).status, 0);
}

#[test]
fn admin_queues_that_cannot_be_are_fatal() {
    // (AQA, ASQ, ACQ, CC, CSTS after enable, CSTS after a doorbell).
    let failed = csts::RDY | csts::CFS;
    let cases = [
        (0x0000_001f, sq_at(0), cq_at(0), CC, csts::CFS, csts::CFS),
        (0x001f_0000, sq_at(0), cq_at(0), CC, csts::CFS, csts::CFS),
        (0x001f_001f, sq_at(0), cq_at(0), CC | 1 << 7, csts::CFS, csts::CFS),
        (0x001f_001f, sq_at(0), cq_at(0), CC | 6 << 4, csts::CFS, csts::CFS),
        (0x001f_001f, NOWHERE, cq_at(0), CC, csts::RDY, failed),
        (0x001f_001f, 0, cq_at(0), CC, csts::RDY, failed),
        (0x001f_001f, sq_at(0), NOWHERE, CC, csts::RDY, failed),
        (0x0fff_0fff, RAM, 0x1000, CC, csts::RDY, failed),
    ];
    for (i, (aqa, asq, acq, cc, enabled, after)) in cases.into_iter().enumerate() {
        let mut b = Bench::of(spec());
        b.enumerate();
        b.writel(off::AQA, aqa);
        b.lo_hi_writeq(off::ASQ, asq);
        b.lo_hi_writeq(off::ACQ, acq);
        b.writel(off::CC, cc | cc::EN);
        assert_eq!(b.csts(), enabled, "case {i}");
        b.writel(off::DOORBELLS, 1);
        b.writel(off::DOORBELLS, 2);
        assert_eq!(b.csts(), after, "case {i}");
        assert!(b.port.reads.len() <= 1 && b.port.writes.len() <= 1, "case {i}: nothing more goes out");
        assert_recovers(&mut b);
    }
}

#[test]
fn io_queues_outside_of_memory_are_fatal_when_they_are_used() {
    for (sq, cq) in [(NOWHERE, cq_at(1)), (sq_at(1), NOWHERE), (0, 0)] {
        let mut b = Bench::probed(spec(), 0);
        assert_eq!(b.sync(0, Sqe::create_cq(1, 32, cq, 1)).status, 0);
        assert_eq!(b.sync(0, Sqe::create_sq(1, 32, sq, 1)).status, 0);
        b.writel(off::DOORBELLS + 8, 1);
        assert_eq!(b.csts(), csts::RDY | csts::CFS, "{sq:#x} {cq:#x}");
        assert_recovers(&mut b);
    }
}

#[test]
fn create_and_delete_are_checked() {
    let mut b = Bench::probed(spec(), 2);
    let (cq, sq) = (Sqe::create_cq, Sqe::create_sq);
    let (mem_cq, mem_sq) = (cq_at(3), sq_at(3));
    let delete = |op: u8, id: u32| Sqe::new(op).dw(10, id);
    let cases = [
        ("cq 0", cq(0, 32, mem_cq, 0), Status::QUEUE_ID),
        ("cq beyond", cq(9, 32, mem_cq, 0), Status::QUEUE_ID),
        ("cq far beyond", cq(0xffff, 32, mem_cq, 0), Status::QUEUE_ID),
        ("cq exists", cq(1, 32, mem_cq, 0), Status::QUEUE_ID),
        ("cq of one entry", cq(3, 1, mem_cq, 0), Status::QUEUE_SIZE),
        ("cq beyond MQES", cq(3, 257, mem_cq, 0), Status::QUEUE_SIZE),
        ("cq of 65536", cq(3, 65536, mem_cq, 0), Status::QUEUE_SIZE),
        ("cq vector", cq(3, 32, mem_cq, 9), Status::VECTOR),
        ("cq vector", cq(3, 32, mem_cq, 0xffff), Status::VECTOR),
        ("cq offset", cq(3, 32, mem_cq + 8, 0), Status::PRP_OFFSET),
        ("cq scattered", cq(3, 32, mem_cq, 0).dw(11, 2), Status::INVALID_FIELD),
        ("sq 0", sq(0, 32, mem_sq, 1), Status::QUEUE_ID),
        ("sq beyond", sq(9, 32, mem_sq, 1), Status::QUEUE_ID),
        ("sq exists", sq(2, 32, mem_sq, 1), Status::QUEUE_ID),
        ("sq of one entry", sq(3, 1, mem_sq, 1), Status::QUEUE_SIZE),
        ("sq beyond MQES", sq(3, 257, mem_sq, 1), Status::QUEUE_SIZE),
        ("sq without cq", sq(3, 32, mem_sq, 3), Status::CQ_INVALID),
        ("sq to the admin cq", sq(3, 32, mem_sq, 0), Status::CQ_INVALID),
        ("sq to a cq beyond", sq(3, 32, mem_sq, 9), Status::CQ_INVALID),
        ("sq offset", sq(3, 32, mem_sq + 4, 1), Status::PRP_OFFSET),
        ("sq scattered", sq(3, 32, mem_sq, 1).dw(11, 1 << 16), Status::INVALID_FIELD),
        ("delete sq 0", delete(admin::DELETE_SQ, 0), Status::QUEUE_ID),
        ("delete sq none", delete(admin::DELETE_SQ, 3), Status::QUEUE_ID),
        ("delete sq beyond", delete(admin::DELETE_SQ, 0xffff), Status::QUEUE_ID),
        ("delete cq 0", delete(admin::DELETE_CQ, 0), Status::QUEUE_ID),
        ("delete cq none", delete(admin::DELETE_CQ, 3), Status::QUEUE_ID),
        ("delete cq beyond", delete(admin::DELETE_CQ, 0xffff), Status::QUEUE_ID),
        ("delete cq in use", delete(admin::DELETE_CQ, 1), Status::QUEUE_DELETION),
    ];
    for (what, s, status) in cases {
        assert_eq!(b.sync(0, s).status, status.0, "{what}");
    }
    assert_eq!(b.sample()["nvme.queues"], 4);
    // Entry sizes that are not those of the command set.
    b.writel(off::CC, cc::EN);
    assert_eq!(b.sync(0, cq(3, 32, mem_cq, 0)).status, Status::INVALID_FIELD.0);
    // The pin is one vector.
    b.writel(off::CC, CC | cc::EN);
    b.cfg_write(0xb2, Width::B2, 0);
    assert_eq!(b.sync(0, cq(3, 32, mem_cq, 1)).status, Status::VECTOR.0);
    assert_eq!(b.sync(0, cq(3, 32, mem_cq, 0)).status, 0);
}

#[test]
fn commands_that_make_no_sense_fail_and_touch_nothing() {
    let mut b = Bench::probed(spec(), 1);
    let last = BLOCKS - 1;
    let (r, w, z) = (nvm::READ, nvm::WRITE, nvm::WRITE_ZEROES);
    let io = |op, slba, n| Sqe::io(op, slba, n).prp(DATA, 0);
    let cases = [
        ("read beyond", io(r, last, 2), Status::LBA_RANGE),
        ("read far beyond", io(r, u64::MAX, 1), Status::LBA_RANGE),
        ("read round the end", io(r, u64::MAX - 3, 8), Status::LBA_RANGE),
        ("write beyond", io(w, BLOCKS, 1), Status::LBA_RANGE),
        ("zeroes beyond", io(z, last, 2), Status::LBA_RANGE),
        ("read above MDTS", io(r, 0, 1025), Status::INVALID_FIELD),
        ("write of 65536 blocks", io(w, 0, 65536), Status::INVALID_FIELD),
        ("zeroes above WZSL", io(z, 0, 1025), Status::INVALID_FIELD),
        ("namespace 0", io(r, 0, 1).nsid(0), Status::INVALID_NAMESPACE),
        ("namespace 2", io(w, 0, 1).nsid(2), Status::INVALID_NAMESPACE),
        ("all namespaces", io(r, 0, 1).nsid(u32::MAX), Status::INVALID_NAMESPACE),
        ("fused", io(w, 0, 1).dw(0, 1 | 1 << 8), Status::INVALID_FIELD),
        ("sgl", io(w, 0, 1).dw(0, 1 | 1 << 14), Status::INVALID_FIELD),
        ("compare", io(5, 0, 1), Status::INVALID_OPCODE),
        ("vendor", io(0xff, 0, 1), Status::INVALID_OPCODE),
        ("prp1 not of a dword", io(w, 0, 1).prp(DATA + 2, 0), Status::PRP_OFFSET),
        ("prp2 with an offset", io(w, 0, 16).prp(DATA, DATA + 0x1010), Status::PRP_OFFSET),
        ("list not of a qword", io(w, 0, 32).prp(DATA, DATA + 0x1004), Status::PRP_OFFSET),
        ("page nowhere", io(w, 0, 1).prp(NOWHERE, 0), Status::DATA_TRANSFER),
        ("page at 0", io(r, 0, 1).prp(0, 0), Status::DATA_TRANSFER),
        ("list nowhere", io(w, 0, 32).prp(DATA, NOWHERE), Status::DATA_TRANSFER),
        ("list of zeroes", io(w, 0, 32).prp(DATA, DATA + 0x8000), Status::DATA_TRANSFER),
        ("ranges nowhere", io(nvm::DSM, 0, 1).prp(NOWHERE, 0), Status::DATA_TRANSFER),
    ];
    b.put(DATA, &[0xaa; 0x4000]);
    for (what, s, status) in cases {
        assert_eq!(b.sync(1, s).status, status.0, "{what}");
    }
    assert!(b.bytes(DATA, 0x4000).iter().all(|x| *x == 0xaa), "no buffer changed");
    let mut disk = vec![1; BLOCKS as usize * 512];
    assert!(b.f.disk.read(0, &mut disk) && disk.iter().all(|x| *x == 0), "no block changed");
    assert_eq!(b.sync(1, Sqe::io(r, last, 1).prp(DATA, 0)).status, 0, "the last block is one");
}

#[test]
fn admin_commands_that_make_no_sense_fail() {
    let mut b = Bench::probed(spec(), 0);
    let log = |dw10: u32| Sqe::new(admin::GET_LOG_PAGE).prp(DATA, 0).dw(10, dw10);
    let cases = [
        ("namespace management", Sqe::new(0x0d), Status::INVALID_OPCODE),
        ("doorbell buffers at 0", Sqe::new(0x7c), Status::INVALID_FIELD),
        ("format", Sqe::new(0x80), Status::INVALID_OPCODE),
        ("sgl", Sqe::identify(1, 0).dw(0, 6 | 1 << 14), Status::INVALID_FIELD),
        ("namespace 0", Sqe::identify(0, 0), Status::INVALID_NAMESPACE),
        ("all namespaces", Sqe::identify(0, u32::MAX), Status::INVALID_NAMESPACE),
        ("descriptors of 2", Sqe::identify(3, 2), Status::INVALID_NAMESPACE),
        ("list from the end", Sqe::identify(2, u32::MAX), Status::INVALID_NAMESPACE),
        ("unknown structure", Sqe::identify(0xff, 1), Status::INVALID_FIELD),
        ("other command set", Sqe::identify(6, 0).dw(11, 2 << 24), Status::INVALID_FIELD),
        ("identify nowhere", Sqe::identify(1, 0).prp(NOWHERE, 0), Status::DATA_TRANSFER),
        ("identify with an offset", Sqe::identify(1, 0).prp(DATA + 8, DATA + 8), Status::PRP_OFFSET),
        ("unknown log", log(0x7f), Status::LOG_PAGE),
        ("log above MDTS", log(2 | 0xffff << 16).dw(11, 0xffff), Status::INVALID_FIELD),
        ("log behind its end", log(2).dw(12, 4100), Status::INVALID_FIELD),
        ("log far behind its end", log(2).dw(13, u32::MAX), Status::INVALID_FIELD),
        ("log between dwords", log(2).dw(12, 2), Status::INVALID_FIELD),
    ];
    for (what, s, status) in cases {
        assert_eq!(b.sync(0, s).status, status.0, "{what}");
    }
    b.put(DATA, &[0xff; 16]);
    assert_eq!(b.sync(0, log(3 | 1 << 16).dw(12, 4)).status, 0);
    assert_eq!(b.bytes(DATA, 12), *b"\0\0\0\x001.0 \xff\xff\xff\xff", "8 bytes from the fourth on");
}

#[test]
fn a_list_that_points_to_itself_ends_with_the_transfer() {
    let mut b = Bench::probed(spec(), 1);
    let list = DATA - 0x2000;
    b.put_list(list, &[list; 512]);
    b.port.reads.clear();
    // 1024 blocks are 128 pages: less than a list. From the list's end on it is entered once more.
    let s = Sqe::io(nvm::READ, 0, 1024).prp(DATA, list + 0xff8);
    assert_eq!(b.sync(1, s).status, 0);
    assert_eq!(b.port.reads.iter().filter(|r| r.0 >= list).count(), 2);
    b.put_list(list + 0xff8, &[list + 0xff8]);
    assert_eq!(b.sync(1, s).status, Status::PRP_OFFSET.0, "a next list begins at its page");
}

#[test]
fn doorbells_that_do_not_fit_are_ignored() {
    let mut b = Bench::probed(spec(), 1);
    let (sq, cq) = (off::DOORBELLS + 8, off::DOORBELLS + 12);
    b.queue(1, Sqe::io(nvm::FLUSH, 0, 1));
    b.port.reads.clear();
    for v in [32, 33, 0xffff, 0x1_0001, u32::MAX] {
        b.writel(sq, v);
        b.writel(cq, v);
    }
    for id in [2, 8, 9, 500] {
        b.writel(off::DOORBELLS + id * 8, 1);
        b.writel(off::DOORBELLS + id * 8 + 4, 1);
    }
    b.writel(cq, 1);
    assert_eq!(b.write(sq, Width::B2, 1), Completion::Success);
    assert_eq!(b.write(sq, Width::B1, 1), Completion::Success);
    assert_eq!((b.port.reads.as_slice(), b.port.writes.as_slice()), (&[][..], &[][..]));
    b.ring(1);
    assert_eq!(b.reap(1).len(), 1, "nothing of it has moved the queue");
    // The queue is full at 31: the tail cannot pass the head.
    for _ in 0..31 {
        b.queue(1, Sqe::io(nvm::FLUSH, 0, 1));
    }
    b.writel(cq, 0);
    b.ring(1);
    assert_eq!(b.reap(1).len(), 31);
    assert_eq!(b.write(sq, Width::B8, 2 | 1 << 32), Completion::Success);
    assert_eq!(b.take(1).len(), 2, "a quadword is two dwords: tail, then head");
}

#[test]
fn doorbells_of_odd_width_do_nothing_and_eight_bytes_are_two_of_them() {
    // NVMe 1.4 §3.1.24: a doorbell is a dword; what else does is undefined.
    for (at, w) in [(8, Width::B1), (8, Width::B2), (9, Width::B1), (10, Width::B2)] {
        let mut b = Bench::probed(spec(), 1);
        b.queue(1, Sqe::io(nvm::READ, 0, 1).prp(DATA, 0));
        b.write(off::DOORBELLS + at, w, 1);
        assert!(b.take(1).is_empty() && b.port.reads.is_empty(), "{at} {w:?}");
        assert_eq!(b.csts(), csts::RDY, "{at} {w:?}");
        b.ring(1);
        assert_eq!(b.reap(1).len(), 1, "{at} {w:?}");
    }
    let mut b = Bench::probed(spec(), 1);
    b.queue(1, Sqe::io(nvm::READ, 0, 1).prp(DATA, 0));
    b.write(off::DOORBELLS + 8, Width::B8, 1);
    assert_eq!(b.take(1).len(), 1);
}

#[test]
fn registers_of_odd_width_take_their_bytes_alone() {
    let mut b = Bench::of(spec());
    b.enumerate();
    b.write(off::ASQ + 1, Width::B1, 0x55);
    b.write(off::ASQ + 2, Width::B2, 0x1234);
    assert_eq!(b.read(off::ASQ, Width::B4), 0x1234_5000, "the low twelve bits are reserved");
    assert_eq!((b.read(off::ASQ + 1, Width::B1), b.read(off::ASQ + 3, Width::B1)), (0x50, 0x12));
    assert_eq!(b.read(off::CAP + 1, Width::B1), b.read(off::CAP, Width::B4) >> 8 & 0xff);
}

#[test]
fn nothing_is_processed_before_enable() {
    let mut b = Bench::of(spec());
    b.enumerate();
    for id in 0..20 {
        b.writel(off::DOORBELLS + id * 4, 1);
    }
    assert_eq!((b.port.reads.len(), b.port.writes.len(), b.csts(), b.intx()), (0, 0, 0, 0));
    b.writel(off::CC, 1 << 14);
    assert_eq!(b.csts(), csts::SHST_COMPLETE, "a shutdown of what does not run");
    assert_recovers(&mut b);
}

#[test]
fn without_bus_mastering_io_in_flight_fails_the_controller() {
    let mut b = Bench::probed(NvmeSpec { latency_ns: 1000, ..spec() }, 1);
    for _ in 0..3 {
        b.submit(1, Sqe::io(nvm::READ, 0, 1).prp(DATA, 0));
    }
    b.port = Port::default();
    b.cfg_write(0x04, Width::B2, 0x2);
    let due = b.deadline().expect("in flight");
    b.tick(due);
    // The data of the first, then its completion: then the controller is dead.
    assert_eq!(b.port.writes, [(DATA, 512), (cq_at(1), 16)]);
    assert_eq!((b.csts(), b.deadline(), b.port.messages.len()), (csts::RDY | csts::CFS, None, 0));
    b.cfg_write(0x04, Width::B2, 0x6);
    b.submit(1, Sqe::io(nvm::FLUSH, 0, 1));
    assert_eq!(b.deadline(), None);
    b.f.latency_ns = 0;
    assert_recovers(&mut b);
}

#[test]
fn refused_data_is_a_transfer_error_and_a_partial_write_is_none() {
    let mut b = Bench::probed(spec(), 1);
    b.put(DATA, &[5; 8192]);
    b.port.refused = Some(DATA + 0x1000..DATA + 0x2000);
    let s = Sqe::io(nvm::WRITE, 0, 16).prp(DATA, DATA + 0x1000);
    assert_eq!(b.sync(1, s).status, Status::DATA_TRANSFER.0);
    let mut block = [1; 512];
    assert!(b.f.disk.read(0, &mut block) && block == [0; 512]);
    assert_eq!(b.sync(1, Sqe::io(nvm::READ, 0, 16).prp(DATA, DATA + 0x1000)).status, Status::DATA_TRANSFER.0);
    assert_eq!(b.csts(), csts::RDY, "the controller goes on");
}

type Edit = fn(&mut FunctionState);

#[test]
fn a_state_that_cannot_be_is_refused_and_changes_nothing() {
    let mut b = Bench::probed(NvmeSpec { latency_ns: 1000, ..spec() }, 1);
    b.submit(1, Sqe::io(nvm::FLUSH, 0, 1));
    let good = b.save();
    let edits: [(&str, Edit); 14] = [
        ("of another function", |s| s.function = "endpoint-test".to_owned()),
        ("no submission queue", |s| s.data["core"]["queues"]["sqs"][1] = Default::default()),
        ("no completion queue", |s| s.data["core"]["queues"]["cqs"][1] = Default::default()),
        ("no admin queue", |s| s.data["core"]["queues"]["sqs"][0] = Default::default()),
        ("fewer queues", |s| s.data["core"]["queues"]["sqs"] = Vec::<u8>::new().into()),
        ("size 0", |s| s.data["core"]["queues"]["sqs"][1]["size"] = 0.into()),
        ("size above MQES", |s| s.data["core"]["queues"]["cqs"][1]["size"] = 4096.into()),
        ("head outside", |s| s.data["core"]["queues"]["cqs"][1]["head"] = 32.into()),
        ("tail outside", |s| s.data["core"]["queues"]["sqs"][1]["tail"] = 32.into()),
        ("base with an offset", |s| s.data["core"]["queues"]["sqs"][1]["base"] = 8.into()),
        ("to the admin queue", |s| s.data["core"]["queues"]["sqs"][1]["cq"] = 0.into()),
        ("an admin command in flight", |s| s.data["core"]["inflight"][0]["sq"] = 0.into()),
        ("five requests held", |s| s.data["core"]["aers"] = vec![1, 2, 3, 4, 5].into()),
        ("not enabled", |s| s.data["regs"][7] = 0.into()),
    ];
    for (what, edit) in edits {
        let mut s = good.clone();
        edit(&mut s);
        assert!(b.restore(&s).is_err(), "{what}");
        assert_eq!(b.save(), good, "{what}");
    }
    let mut full = good.clone();
    full.data["core"]["queues"]["cqs"][1]["tail"] = 31.into();
    assert!(b.restore(&full).is_err(), "no room for what is in flight");
    assert_eq!(b.restore(&good), Ok(()));
    let due = b.deadline().expect("in flight");
    b.tick(due);
    assert_eq!(b.reap(1).len(), 1);
}
