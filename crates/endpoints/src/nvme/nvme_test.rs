//! What the driver does, step by step, and what it must find.

use pcie::Function;

use super::bench::*;
use super::command::admin;
use super::command::nvm;
use super::features::fid;
use super::*;
use crate::MemDisk;

fn pattern(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|i| (i as u8).wrapping_mul(31) ^ (i >> 8) as u8 ^ seed).collect()
}

#[test]
fn identity_and_layout_are_what_the_driver_looks_for() {
    let mut b = Bench::of(spec());
    assert_eq!(b.cfg_read(0x08, Width::B4) >> 8, 0x01_0802, "NVMe by class");
    assert_eq!(b.cfg_read(0x3d, Width::B1), 1, "INTA");
    assert_eq!(b.cfg_read(0xb2, Width::B2), 8, "9 MSI-X vectors");
    b.cfg_write(0x10, Width::B4, 0xffff_ffff);
    assert_eq!(b.cfg_read(0x10, Width::B4), 0xffff_c000, "16 KiB, 32-bit, not prefetchable");
    b.enumerate();
    let cap = b.read(off::CAP, Width::B8);
    assert_eq!(cap, u64::from(b.readl(off::CAP)) | u64::from(b.readl(off::CAP + 4)) << 32);
    assert_eq!((cap & 0xffff, cap >> 32 & 0xf, cap >> 37 & 1), (255, 0, 1), "MQES, DSTRD, NVM command set");
    assert_eq!(b.readl(off::VS), 0x1_0400);
    assert_eq!((b.readl(0x38), b.readl(0x3c)), (0, 0), "no controller memory buffer");
}

#[test]
fn every_register_keeps_its_masks_and_is_reset_by_every_reset() {
    for row in regs::ROWS.iter().filter(|r| ![off::INTMS, off::INTMC, off::CC].contains(&r.off)) {
        let mut b = Bench::of(spec());
        b.enumerate();
        assert_eq!(b.readl(row.off), row.reset, "{}", row.name);
        b.writel(row.off, u32::MAX);
        assert_eq!(b.readl(row.off), row.reset & !row.rw | row.rw, "{}", row.name);
        for kind in [ResetKind::Perst, ResetKind::HotReset, ResetKind::LinkDown] {
            b.writel(row.off, u32::MAX);
            b.with(|f, cx, _| Function::<()>::reset(f, cx, kind));
            b.enumerate();
            assert_eq!(b.readl(row.off), row.reset, "{} {kind:?}", row.name);
        }
    }
}

#[test]
fn probe_io_and_remove_as_linux_does() {
    let mut b = Bench::probed(spec(), 0);
    // nvme_init_identify, nvme_init_non_mdts_limits, nvme_set_queue_count, nvme_enable_aen.
    assert_eq!(b.sync(0, Sqe::identify(1, 0)).status, 0);
    let id = b.bytes(DATA, 4096).to_vec();
    assert_eq!((&id[4..12], id[77], id[111]), (&b"RCVM0001"[..], 7, 1));
    assert_eq!((id[512], id[513], id[516], id[525] & 1), (0x66, 0x44, 1, 1));
    assert!(id[768..].starts_with(b"nqn.2014-08.org.nvmexpress:uuid:"));
    assert_eq!(b.sync(0, Sqe::identify(6, 0)).status, 0);
    assert_eq!(b.bytes(DATA, 2), [0, 7], "Write Zeroes is limited as transfers are");
    let count = Sqe::new(admin::SET_FEATURES).dw(10, fid::QUEUES.into()).dw(11, 0x0003_0003);
    assert_eq!(b.sync(0, count).result, 0x0007_0007);
    b.create_io_queues(4, false);
    let aen = Sqe::new(admin::SET_FEATURES).dw(10, fid::ASYNC_EVENT.into()).dw(11, 1 << 8);
    assert_eq!(b.sync(0, aen).status, 0);
    b.submit(0, Sqe::new(admin::ASYNC_EVENT));
    assert_eq!(b.reap(0), [], "held");
    // nvme_scan_ns_list, nvme_identify_ns_descs, nvme_identify_ns; 7.3 asks for CNS 5 and takes a refusal.
    assert_eq!(b.sync(0, Sqe::identify(2, 0)).status, 0);
    assert_eq!(b.bytes(DATA, 8), [1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(b.sync(0, Sqe::identify(3, 1)).status, 0);
    assert_eq!((b.bytes(DATA, 2), b.bytes(DATA + 20, 2)), (&[3u8, 16][..], &[0u8, 0][..]));
    assert_eq!(b.sync(0, Sqe::identify(0, 1)).status, 0);
    assert_eq!((b.bytes(DATA, 8), b.bytes(DATA + 130, 1)), (&BLOCKS.to_le_bytes()[..], &[9][..]));
    assert_eq!(b.sync(0, Sqe::identify(5, 1)).status, Status::INVALID_FIELD.0);
    // nvme_hwmon_init.
    let smart = Sqe::new(admin::GET_LOG_PAGE).nsid(u32::MAX).prp(DATA, 0).dw(10, 2 | 127 << 16);
    assert_eq!(b.sync(0, smart).status, 0);
    assert_eq!(b.bytes(DATA, 4), [0, 0x37, 0x01, 100]);
    assert_eq!(b.sample()["nvme.queues"], 8);

    b.port.messages.clear();
    let data = pattern(4096, 1);
    for q in 1..=4 {
        b.put(DATA, &data);
        assert_eq!(b.sync(q, Sqe::io(nvm::WRITE, 8 * u64::from(q), 8).prp(DATA, 0)).status, 0);
        assert_eq!(b.sync(q, Sqe::io(nvm::FLUSH, 0, 1)).status, 0);
        assert_eq!(b.sync(q, Sqe::io(nvm::READ, 8 * u64::from(q), 8).prp(DATA + 0x4000, 0)).status, 0);
        assert_eq!(b.bytes(DATA + 0x4000, 4096), data);
    }
    assert_eq!(b.port.messages, [1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4], "a vector for each queue");

    b.remove(4);
    let s = b.sample();
    assert_eq!((s["nvme.enabled"], s["nvme.queues"], s["nvme.inflight"]), (0, 0, 0));
    // The next probe begins with a disable.
    b.enable();
    b.create_io_queues(1, false);
    assert_eq!(b.sync(1, Sqe::io(nvm::READ, 8, 8).prp(DATA, 0)).status, 0);
    assert_eq!(b.bytes(DATA, 4096), data, "the disk keeps what was written");
}

#[test]
fn transfers_follow_prp_entries_and_lists() {
    let mut b = Bench::probed(spec(), 1);
    let data = pattern(512 << 10, 3);
    let lists = DATA - 0x4000;
    // (offset of the first page, bytes, offset of the list).
    let cases = [
        (0, 512, 0),
        (0x200, 512, 0),
        (0xe00, 1024, 0),
        (0, 8192, 0),
        (0x800, 8192, 0x10),
        (0, 64 << 10, 0),
        (0x1fc, 128 << 10, 0xf80),
        (0, 512 << 10, 0),
        (0xffc, 512 << 10, 0xff8),
        (4, 512 << 10, 0xc00),
    ];
    for (offset, len, list_off) in cases {
        let (blocks, first) = ((len / 512) as u32, DATA + offset);
        // Pages in falling order: neighbours are not neighbours in memory.
        let pages: Vec<u64> = (1..=128).rev().map(|n| DATA + n * 4096).collect();
        let need = (len as u64).saturating_sub(4096 - offset).div_ceil(4096) as usize;
        let prp2 = if need > 1 { lists + list_off } else { pages[0] };
        let here = (4096 - list_off as usize) / 8;
        if need > here {
            b.put_list(prp2, &pages[..here - 1]);
            b.put_list(lists + 0xff8, &[lists + 0x1000]);
            b.put_list(lists + 0x1000, &pages[here - 1..need]);
        } else if need > 1 {
            b.put_list(prp2, &pages[..need]);
        }
        let mut at = 0;
        for (i, page) in std::iter::once(first).chain(pages[..need].iter().copied()).enumerate() {
            let n = if i == 0 { (4096 - offset as usize).min(len) } else { 4096.min(len - at) };
            b.put(page, &data[at..at + n]);
            at += n;
        }
        assert_eq!(
            b.sync(1, Sqe::io(nvm::WRITE, 16, blocks).prp(first, prp2)).status,
            0,
            "{offset:#x} {len:#x}"
        );
        let mut stored = vec![0; len];
        assert!(b.f.disk.read(16 * 512, &mut stored));
        assert!(stored == data[..len], "{offset:#x} {len:#x}");
        let written: Vec<u64> = std::iter::once(first).chain(pages[..need].iter().copied()).collect();
        for page in &written {
            let n = 4096 - (page & 0xfff) as usize;
            b.put(*page, &vec![0; n]);
        }
        b.port.writes.clear();
        assert_eq!(b.sync(1, Sqe::io(nvm::READ, 16, blocks).prp(first, prp2)).status, 0);
        let parts: Vec<_> = b.port.writes.iter().map(|w| w.0).take(written.len()).collect();
        assert_eq!(parts, written);
        let mut at = 0;
        for (page, n) in b.port.writes.clone().into_iter().take(written.len()) {
            assert!(b.bytes(page, n) == &data[at..at + n], "{offset:#x} {len:#x} at {at:#x}");
            at += n;
        }
        assert_eq!(at, len);
    }
}

#[test]
fn phase_tags_turn_each_time_round_and_a_full_queue_holds_commands_back() {
    let mut b = Bench::probed(spec(), 1);
    for _ in 0..5 * DEPTH {
        assert_eq!(b.sync(1, Sqe::io(nvm::FLUSH, 0, 1)).status, 0);
    }
    // The driver does not look at its completions: 31 fit, and so 31 commands are taken off.
    for _ in 0..DEPTH - 1 {
        b.queue(1, Sqe::io(nvm::FLUSH, 0, 1));
    }
    b.ring(1);
    for _ in 0..8 {
        b.queue(1, Sqe::io(nvm::FLUSH, 0, 1));
    }
    b.port.reads.clear();
    b.ring(1);
    assert_eq!(b.port.reads, [], "nothing is fetched");
    assert_eq!(b.take(1).len(), 31);
    assert_eq!(b.take(1).len(), 0);
    b.ring_cq(1);
    let found = b.reap(1);
    assert_eq!(found.len(), 8, "they go on when there is room");
    assert!(found.iter().all(|c| c.sq == 1 && c.status == 0));
}

#[test]
fn two_submission_queues_may_share_a_completion_queue() {
    let mut b = Bench::probed(spec(), 1);
    assert_eq!(b.sync(0, Sqe::create_sq(2, 32, sq_at(2), 1)).status, 0);
    b.pairs.push(Pair::new(DEPTH));
    for _ in 0..DEPTH - 1 {
        b.queue(1, Sqe::io(nvm::FLUSH, 0, 1));
    }
    b.ring(1);
    b.submit(2, Sqe::io(nvm::FLUSH, 0, 1));
    assert_eq!(b.reap(1).len(), 31);
    assert_eq!(b.reap(1).iter().map(|c| c.sq).collect::<Vec<_>>(), [2]);
    let delete = Sqe::new(admin::DELETE_CQ).dw(10, 1);
    assert_eq!(b.sync(0, delete).status, Status::QUEUE_DELETION.0);
}

#[test]
fn intx_is_a_level_of_unread_completions_and_the_mask() {
    let mut b = Bench::of(spec());
    b.enumerate();
    b.enable();
    b.create_io_queues(1, true);
    assert_eq!(b.intx(), 0);
    b.submit(1, Sqe::io(nvm::FLUSH, 0, 1));
    assert_eq!((b.intx(), b.cfg_read(0x06, Width::B2) & 8), (1, 8));
    b.writel(off::INTMS, 1);
    assert_eq!((b.intx(), b.readl(off::INTMC)), (0, 1));
    b.writel(off::INTMC, 1);
    assert_eq!(b.intx(), 1);
    assert_eq!(b.take(1).len(), 1);
    assert_eq!(b.intx(), 1, "read is not acknowledged");
    b.ring_cq(1);
    assert_eq!(b.intx(), 0);
    assert_eq!(b.port.messages, [] as [u32; 0]);
    // A queue without interrupts, as for polling.
    let polled = Sqe::create_cq(2, 32, cq_at(2), 0).dw(11, 1);
    assert_eq!(b.sync(0, polled).status, 0);
    assert_eq!(b.sync(0, Sqe::create_sq(2, 32, sq_at(2), 2)).status, 0);
    b.pairs.push(Pair::new(DEPTH));
    b.submit(2, Sqe::io(nvm::FLUSH, 0, 1));
    assert_eq!(b.intx(), 0);
    assert_eq!(b.reap(2).len(), 1);
}

#[test]
fn one_msi_serves_all_queues_and_intms_holds_it_back() {
    let mut b = Bench::of(spec());
    b.enumerate();
    b.msi_on();
    b.enable();
    b.create_io_queues(2, true);
    b.port.messages.clear();
    b.sync(1, Sqe::io(nvm::FLUSH, 0, 1));
    b.sync(2, Sqe::io(nvm::FLUSH, 0, 1));
    assert_eq!(b.port.messages, [0x40, 0x40]);
    assert_eq!(b.intx(), 0);
    b.writel(off::INTMS, 1);
    b.submit(1, Sqe::io(nvm::FLUSH, 0, 1));
    assert_eq!(b.port.messages.len(), 2);
    b.writel(off::INTMC, 1);
    assert_eq!(b.port.messages.len(), 3, "one for what is unread");
    b.reap(1);
    b.writel(off::INTMS, 1);
    b.writel(off::INTMC, 1);
    assert_eq!(b.port.messages.len(), 3, "nothing is unread");
}

#[test]
fn masked_msix_vectors_wait_in_the_pba() {
    let mut b = Bench::probed(spec(), 2);
    b.writel(off::MSIX_TABLE + 16 + 12, 1);
    b.sync(1, Sqe::io(nvm::FLUSH, 0, 1));
    let pba = off::MSIX_TABLE + u32::from(b.f.vectors()) * 16;
    assert_eq!((b.port.messages.len(), b.readl(pba)), (0, 2));
    b.writel(off::MSIX_TABLE + 16 + 12, 0);
    assert_eq!((b.readl(pba), b.port.messages.as_slice()), (0, &[1][..]));
}

#[test]
fn a_command_is_in_flight_for_its_latency_and_commands_end_in_order() {
    let mut b = Bench::probed(NvmeSpec { latency_ns: 1000, ..spec() }, 2);
    let data = pattern(512, 9);
    b.put(DATA, &data);
    let first = b.submit(1, Sqe::io(nvm::WRITE, 0, 1).prp(DATA, 0));
    b.now = SimTime(b.now.0 + 300);
    let second = b.submit(2, Sqe::io(nvm::READ, 0, 1).prp(DATA + 0x1000, 0));
    assert_eq!((b.reap(1), b.reap(2), b.sample()["nvme.inflight"]), (vec![], vec![], 2));
    let due = b.deadline().expect("in flight");
    b.tick(due);
    assert_eq!(b.reap(1).iter().map(|c| (c.cid, c.status)).collect::<Vec<_>>(), [(first, 0)]);
    assert_eq!(b.deadline(), Some(due.after_ns(300)));
    b.tick(due.after_ns(300));
    assert_eq!(b.reap(2).iter().map(|c| (c.cid, c.status)).collect::<Vec<_>>(), [(second, 0)]);
    assert_eq!(b.bytes(DATA + 0x1000, 512), data);
    assert_eq!((b.deadline(), b.sample()["nvme.inflight"]), (None, 0));
    assert_eq!(b.port.messages, [1, 2]);
}

#[test]
fn commands_in_flight_leave_room_for_their_completions() {
    let mut b = Bench::probed(NvmeSpec { latency_ns: 1000, ..spec() }, 1);
    for _ in 0..DEPTH - 1 {
        b.queue(1, Sqe::io(nvm::FLUSH, 0, 1));
    }
    b.ring(1);
    b.submit(1, Sqe::io(nvm::FLUSH, 0, 1));
    assert_eq!(b.sample()["nvme.inflight"], 31);
    let due = b.deadline().expect("in flight");
    b.tick(due);
    assert_eq!(b.deadline(), None, "no room for the last one");
    assert_eq!(b.reap(1).len(), 31);
    assert_eq!(b.sample()["nvme.inflight"], 1);
}

#[test]
fn resets_and_shutdown_drop_what_is_in_flight() {
    let spec = || NvmeSpec { latency_ns: 1000, ..spec() };
    let flying = || {
        let mut b = Bench::probed(spec(), 1);
        b.submit(1, Sqe::io(nvm::READ, 0, 8).prp(DATA, 0));
        b.submit(0, Sqe::new(admin::ASYNC_EVENT));
        assert_eq!(b.sample()["nvme.inflight"], 1);
        b.port.writes.clear();
        b
    };
    for kind in [ResetKind::PowerOn, ResetKind::Perst, ResetKind::HotReset, ResetKind::LinkDown] {
        let mut b = flying();
        b.with(|f, cx, _| Function::<()>::reset(f, cx, kind));
        assert_eq!((b.deadline(), b.sample()["nvme.inflight"], b.sample()["nvme.queues"]), (None, 0, 0));
        b.tick(b.now.after_ns(10_000));
        assert_eq!((b.port.writes.len(), b.sample()["command"]), (0, 0), "{kind:?}");
    }
    let mut b = flying();
    b.writel(off::CC, CC);
    assert_eq!((b.deadline(), b.csts()), (None, 0));
    assert_eq!(
        (b.readl(off::ASQ), b.readl(off::AQA)),
        (sq_at(0) as u32, 0x001f_001f),
        "admin queue registers stay"
    );
    let mut b = flying();
    b.writel(off::CC, CC | cc::EN | 2 << 14);
    assert_eq!((b.deadline(), b.csts()), (None, csts::RDY | csts::SHST_COMPLETE));
    b.tick(b.now.after_ns(10_000));
    assert_eq!(b.port.writes, []);
    b.submit(1, Sqe::io(nvm::FLUSH, 0, 1));
    assert_eq!((b.deadline(), b.port.messages.len()), (None, 0), "nothing is processed after a shutdown");
}

#[test]
fn in_d3hot_commands_wait() {
    let mut b = Bench::probed(NvmeSpec { latency_ns: 1000, ..spec() }, 1);
    b.submit(1, Sqe::io(nvm::FLUSH, 0, 1));
    b.port.writes.clear();
    b.cfg_write(0x44, Width::B2, 3);
    assert_eq!(b.deadline(), None);
    b.tick(b.now.after_ns(5000));
    assert_eq!(b.port.writes, []);
    assert_eq!(b.write(off::CC, Width::B4, 0), Completion::UnsupportedRequest);
    b.cfg_write(0x44, Width::B2, 0);
    let due = b.deadline().expect("still in flight");
    b.tick(due.max(b.now));
    assert_eq!(b.reap(1).len(), 1);
}

#[test]
fn abort_and_queue_deletion_complete_what_is_in_flight() {
    let mut b = Bench::probed(NvmeSpec { latency_ns: 1000, ..spec() }, 1);
    let cids: Vec<u16> = (0..3).map(|_| b.submit(1, Sqe::io(nvm::FLUSH, 0, 1))).collect();
    let abort = |cid: u16| Sqe::new(admin::ABORT).dw(10, 1 | u32::from(cid) << 16);
    b.submit(0, abort(cids[1]));
    b.submit(0, abort(cids[1]));
    assert_eq!(b.reap(0).iter().map(|c| (c.status, c.result)).collect::<Vec<_>>(), [(0, 0), (0, 1)]);
    assert_eq!(b.reap(1).iter().map(|c| (c.cid, c.status)).collect::<Vec<_>>(), [(cids[1], 7)]);
    b.submit(0, Sqe::new(admin::DELETE_SQ).dw(10, 1));
    assert_eq!(b.reap(1).iter().map(|c| (c.cid, c.status)).collect::<Vec<_>>(), [(cids[0], 8), (cids[2], 8)]);
    assert_eq!(b.reap(0).iter().map(|c| c.status).collect::<Vec<_>>(), [0]);
    assert_eq!((b.deadline(), b.sample()["nvme.inflight"]), (None, 0));
    assert_eq!(b.sync(0, Sqe::new(admin::DELETE_CQ).dw(10, 1)).status, 0);
    assert_eq!(b.sample()["nvme.queues"], 0);
}

#[test]
fn write_zeroes_discard_and_blocks_of_4096() {
    let mut b = Bench::probed(NvmeSpec { block_bytes: 4096, ..spec() }, 1);
    b.put(DATA, &[7; 8192]);
    assert_eq!(b.sync(1, Sqe::io(nvm::WRITE, 1, 2).prp(DATA, DATA + 4096)).status, 0);
    assert_eq!(b.sync(1, Sqe::io(nvm::WRITE_ZEROES, 2, 1)).status, 0);
    assert_eq!(b.sync(1, Sqe::io(nvm::READ, 1, 2).prp(DATA, DATA + 4096)).status, 0);
    assert!(b.bytes(DATA, 4096) == [7; 4096] && b.bytes(DATA + 4096, 4096) == [0; 4096]);
    b.sync(0, Sqe::identify(0, 1));
    assert_eq!((b.bytes(DATA, 8), b.bytes(DATA + 130, 1)), (&(BLOCKS / 8).to_le_bytes()[..], &[12][..]));
    // Ranges: attributes, length, start.
    let range = |slba: u64, n: u32| u128::from(n) << 32 | u128::from(slba) << 64;
    for (last, status) in [
        (range(BLOCKS / 8 - 1, 1), 0),
        (range(BLOCKS / 8, 1), Status::LBA_RANGE.0),
        (range(u64::MAX, 1), Status::LBA_RANGE.0),
    ] {
        b.put(DATA, &range(0, 4).to_le_bytes());
        b.put(DATA + 16, &last.to_le_bytes());
        let dsm = Sqe::new(nvm::DSM).nsid(1).prp(DATA, 0).dw(10, 1).dw(11, 4);
        assert_eq!(b.sync(1, dsm).status, status);
    }
}

/// A disk that says how often it was flushed, and fails when told to.
struct Faulty {
    disk: MemDisk,
    flushes: std::sync::Arc<std::sync::atomic::AtomicU32>,
    fails: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Faulty {
    fn ok(&self) -> bool {
        !self.fails.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Disk for Faulty {
    fn len_bytes(&self) -> u64 {
        self.disk.len_bytes()
    }

    fn read(&mut self, off: u64, buf: &mut [u8]) -> bool {
        self.ok() && self.disk.read(off, buf)
    }

    fn write(&mut self, off: u64, data: &[u8]) -> bool {
        self.ok() && self.disk.write(off, data)
    }

    fn flush(&mut self) -> bool {
        self.flushes.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.ok()
    }
}

#[test]
fn the_medium_is_flushed_when_asked_and_its_failures_are_told() {
    let (flushes, fails) = <(std::sync::Arc<_>, std::sync::Arc<std::sync::atomic::AtomicBool>)>::default();
    let disk = Faulty {
        disk: MemDisk::new(1 << 16),
        flushes: std::sync::Arc::clone(&flushes),
        fails: std::sync::Arc::clone(&fails),
    };
    let mut b = Bench::probed(NvmeSpec { disk: Box::new(disk), ..spec() }, 1);
    let flushed = || std::sync::atomic::AtomicU32::load(&flushes, std::sync::atomic::Ordering::Relaxed);
    let write = Sqe::io(nvm::WRITE, 0, 1).prp(DATA, 0);
    assert_eq!((b.sync(1, write).status, flushed()), (0, 0));
    assert_eq!((b.sync(1, write.dw(12, 1 << 30)).status, flushed()), (0, 1), "FUA");
    assert_eq!((b.sync(1, Sqe::io(nvm::FLUSH, 0, 1).nsid(u32::MAX)).status, flushed()), (0, 2));
    let cache_off = Sqe::new(admin::SET_FEATURES).dw(10, fid::WRITE_CACHE.into());
    assert_eq!(b.sync(0, cache_off).status, 0);
    assert_eq!((b.sync(1, write).status, flushed()), (0, 3), "write through");
    fails.store(true, std::sync::atomic::Ordering::Relaxed);
    let read = Sqe::io(nvm::READ, 0, 1).prp(DATA, 0);
    assert_eq!(b.sync(1, write).status, Status::WRITE_FAULT.0);
    assert_eq!(b.sync(1, read).status, Status::READ_ERROR.0);
    // The error log has the newest first, SMART counts them.
    let log = |lid: u32| Sqe::new(admin::GET_LOG_PAGE).nsid(u32::MAX).prp(DATA, 0).dw(10, lid | 127 << 16);
    assert_eq!(b.sync(0, log(1)).status, 0);
    assert_eq!(
        (b.bytes(DATA, 10), b.bytes(DATA + 12, 2)),
        (&[2, 0, 0, 0, 0, 0, 0, 0, 1, 0][..], &(0x281u16 << 1).to_le_bytes()[..])
    );
    assert_eq!(b.sync(0, log(2)).status, 0);
    assert_eq!((b.bytes(DATA + 160, 1), b.bytes(DATA + 176, 1)), (&[2][..], &[2][..]));
    b.writel(off::CC, CC | cc::EN | 1 << 14);
    assert_eq!(
        b.csts(),
        csts::RDY | csts::CFS | csts::SHST_OCCURRING,
        "a shutdown that cannot flush does not complete"
    );
}

struct WriteProtected(MemDisk);

impl Disk for WriteProtected {
    fn len_bytes(&self) -> u64 {
        self.0.len_bytes()
    }

    fn read(&mut self, off: u64, buf: &mut [u8]) -> bool {
        self.0.read(off, buf)
    }

    fn write(&mut self, _off: u64, _data: &[u8]) -> bool {
        panic!("the controller knows that it must not write")
    }

    fn flush(&mut self) -> bool {
        true
    }

    fn is_read_only(&self) -> bool {
        true
    }
}

#[test]
fn a_write_protected_namespace_says_so_and_refuses_writes() {
    let disk = Box::new(WriteProtected(MemDisk::new(1 << 16)));
    let mut b = Bench::probed(NvmeSpec { disk, ..spec() }, 1);
    assert_eq!(b.sync(0, Sqe::new(admin::IDENTIFY).nsid(1).prp(DATA, 0)).status, 0);
    assert_eq!(b.bytes(DATA + 99, 1), [1], "NSATTR");
    for (opcode, status) in
        [(nvm::WRITE, 0x4020), (nvm::WRITE_ZEROES, 0x4020), (nvm::READ, 0), (nvm::FLUSH, 0)]
    {
        assert_eq!(b.sync(1, Sqe::io(opcode, 0, 1).prp(DATA, 0)).status, status, "{opcode:#x}");
    }
}

#[test]
fn a_bad_doorbell_is_an_event_once_until_the_log_is_read() {
    let mut b = Bench::probed(spec(), 1);
    let bad_value = off::DOORBELLS + 8;
    let no_queue = off::DOORBELLS + 7 * 8 + 4;
    b.writel(bad_value, 999);
    assert_eq!(b.reap(0), [], "nobody asked yet");
    let aer = b.submit(0, Sqe::new(admin::ASYNC_EVENT));
    let told = b.reap(0);
    assert_eq!((told.len(), told[0].cid, told[0].status, told[0].result), (1, aer, 0, 0x01_0100));
    b.submit(0, Sqe::new(admin::ASYNC_EVENT));
    b.writel(no_queue, 0);
    assert_eq!(b.reap(0), [], "the log of the last one has not been read");
    let log = Sqe::new(admin::GET_LOG_PAGE).prp(DATA, 0).dw(10, 1 | 15 << 16);
    assert_eq!(b.sync(0, log.dw(10, 1 | 1 << 15 | 15 << 16)).status, 0);
    b.writel(no_queue, 0);
    assert_eq!(b.reap(0), [], "retained");
    assert_eq!(b.sync(0, log).status, 0);
    assert_eq!(b.bytes(DATA, 1), [3]);
    b.writel(no_queue, 0);
    assert_eq!(b.reap(0).iter().map(|c| c.result).collect::<Vec<_>>(), [0x01_0000]);
}

#[test]
fn at_most_four_event_requests_are_held() {
    let mut b = Bench::probed(spec(), 0);
    for _ in 0..4 {
        b.submit(0, Sqe::new(admin::ASYNC_EVENT));
    }
    assert_eq!(b.reap(0), []);
    assert_eq!(b.sync(0, Sqe::new(admin::ASYNC_EVENT)).status, Status::ASYNC_LIMIT.0);
}

#[test]
fn features_are_kept_until_a_reset_and_refused_where_they_do_not_exist() {
    let mut b = Bench::probed(spec(), 0);
    let get = |id: u8, dw11: u32| Sqe::new(admin::GET_FEATURES).dw(10, id.into()).dw(11, dw11);
    let set = |id: u8, dw11: u32| Sqe::new(admin::SET_FEATURES).dw(10, id.into()).dw(11, dw11);
    let bad = Status::INVALID_FIELD.0;
    // (set, its status, get, its status and result).
    let cases = [
        (set(fid::ARBITRATION, 3), 0, get(fid::ARBITRATION, 0), 0, 3),
        (set(fid::POWER, 0), 0, get(fid::POWER, 0), 0, 0),
        (set(fid::POWER, 1), bad, get(fid::POWER, 0), 0, 0),
        (set(fid::TEMPERATURE, 300), 0, get(fid::TEMPERATURE, 0), 0, 300),
        (set(fid::TEMPERATURE, 1 << 20 | 200), 0, get(fid::TEMPERATURE, 1 << 20), 0, 200),
        (set(fid::TEMPERATURE, 1 << 16), bad, get(fid::TEMPERATURE, 1 << 16), bad, 0),
        (set(fid::ERROR_RECOVERY, 5).nsid(1), 0, get(fid::ERROR_RECOVERY, 0), 0, 5),
        (set(fid::ERROR_RECOVERY, 1 << 16), bad, get(fid::ERROR_RECOVERY, 0), 0, 5),
        (set(fid::WRITE_CACHE, 0), 0, get(fid::WRITE_CACHE, 0), 0, 0),
        (set(fid::WRITE_CACHE, 1).nsid(1), Status::NOT_PER_NAMESPACE.0, get(fid::WRITE_CACHE, 0), 0, 0),
        (
            set(fid::WRITE_CACHE, 1).dw(10, 1 << 31 | 6),
            Status::NOT_SAVEABLE.0,
            get(fid::WRITE_CACHE, 0),
            0,
            0,
        ),
        (set(fid::QUEUES, 0xffff), bad, get(fid::QUEUES, 0), 0, 0x7_0007),
        (set(fid::COALESCING, 0x0101), 0, get(fid::COALESCING, 0), 0, 0x0101),
        (set(fid::VECTOR, 8 | 1 << 16), 0, get(fid::VECTOR, 8), 0, 8 | 1 << 16),
        (set(fid::VECTOR, 8), Status::NOT_CHANGEABLE.0, get(fid::VECTOR, 9), bad, 0),
        (set(fid::ATOMICITY, 1), 0, get(fid::ATOMICITY, 0), 0, 1),
        (set(fid::ASYNC_EVENT, 0x100), 0, get(fid::ASYNC_EVENT, 0), 0, 0x100),
        (set(0x0c, 0), bad, get(0x0c, 0), bad, 0),
        (set(0xc0, 0), bad, get(0xc0, 0), bad, 0),
    ];
    for (i, (s, status, g, found, value)) in cases.into_iter().enumerate() {
        assert_eq!(b.sync(0, s).status, status, "case {i}");
        let c = b.sync(0, g);
        assert_eq!((c.status, c.result), (found, value), "case {i}");
    }
    let smart = Sqe::new(admin::GET_LOG_PAGE).prp(DATA, 0).dw(10, 2 | 127 << 16);
    b.sync(0, smart);
    assert_eq!(b.bytes(DATA, 1), [2], "hotter than the threshold");
    b.enable();
    assert_eq!(b.sync(0, get(fid::WRITE_CACHE, 0)).result, 1);
    assert_eq!(b.sync(0, get(fid::TEMPERATURE, 0)).result, 0xffff);
}

#[test]
fn no_buffer_is_allocated_anew_for_a_command() {
    let mut b = Bench::probed(spec(), 1);
    b.sync(1, Sqe::io(nvm::READ, 0, 8).prp(DATA, 0));
    let at = b.f.transfer.bytes(4096).as_ptr();
    for i in 0..100 {
        b.sync(1, Sqe::io(nvm::READ, i, 8).prp(DATA, 0));
    }
    assert_eq!(b.f.transfer.bytes(4096).as_ptr(), at);
}
