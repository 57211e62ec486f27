//! What each device does with its queues.

use super::super::blk::feature as blk_feature;
use super::super::blk::request;
use super::super::blk::status as blk_status;
use super::*;

#[test]
fn rng_fills_what_is_asked_for_and_never_repeats() {
    let mut b = Bench::probed(rng(), Irq::Intx);
    b.add(0, &[(DATA, 13, true), (DATA + 0x100, 3, true)]);
    b.add(0, &[(DATA + 0x200, 16, true)]);
    b.kick(0);
    assert_eq!(b.used(0), [16, 16]);
    let first: [u8; 13] = b.get(DATA);
    let tail: [u8; 3] = b.get(DATA + 0x100);
    let second: [u8; 16] = b.get(DATA + 0x200);
    assert_eq!(first[..8], 0x63cb_e1e4_5932_0dd7_u64.to_le_bytes(), "splitmix64 of 7");
    assert_ne!([&first[..], &tail].concat(), second);
    assert_eq!(b.get::<3>(DATA + 13), [0; 3], "not beyond the buffer");
    b.add(0, &[(DATA, 0x8000, true)]);
    b.add(0, &[(DATA, 16, false)]);
    b.kick(0);
    assert_eq!(b.used(0), [4096, 0], "a cap, and a request without room");
}

fn request(b: &mut Bench<Blk>, q: usize, kind: u32, sector: u64, data: &[Part]) -> (u32, u8) {
    let mut header = [0; 16];
    header[..4].copy_from_slice(&kind.to_le_bytes());
    header[8..].copy_from_slice(&sector.to_le_bytes());
    b.put(DATA, &header);
    b.put(DATA + 16, &[0xee]);
    let parts = [&[(DATA, 16, false)], data, &[(DATA + 16, 1, true)]].concat();
    b.add(q, &parts);
    b.kick(q);
    let [status] = b.get(DATA + 16);
    (b.used(q)[0], status)
}

#[test]
fn blk_reads_what_was_written() {
    let disk = SharedDisk::new(0x4000);
    let mut b = Bench::probed(blk(&disk, 1), Irq::MsiX);
    b.put(DATA + 0x1000, &[7; 1024]);
    assert_eq!(request(&mut b, 0, request::OUT, 3, &[(DATA + 0x1000, 1024, false)]), (1, blk_status::OK));
    assert_eq!(disk.0.lock().unwrap().0[0x600..0xa00], [7; 1024]);
    let parts = [(DATA + 0x2000, 100, true), (DATA + 0x3000, 412, true)];
    assert_eq!(request(&mut b, 0, request::IN, 4, &parts), (513, blk_status::OK));
    assert_eq!((b.get(DATA + 0x2000), b.get(DATA + 0x3000)), ([7; 100], [7; 412]));
    assert_eq!(b.messages(), [1, 1]);
    assert_eq!(disk.0.lock().unwrap().1, 0, "with FLUSH negotiated the driver says when");
    assert_eq!(request(&mut b, 0, request::FLUSH, 0, &[]), (1, blk_status::OK));
    assert_eq!(disk.0.lock().unwrap().1, 1);
    assert_eq!(request(&mut b, 0, request::GET_ID, 0, &[(DATA + 0x1000, 20, true)]), (21, blk_status::OK));
    assert_eq!(&b.get::<21>(DATA + 0x1000), b"serial-0123456789-to\x07");
}

#[test]
fn blk_says_what_it_cannot_do() {
    let mut b = Bench::probed(small_blk(), Irq::Intx);
    let (out, inn) = ((DATA + 0x1000, 512, false), (DATA + 0x1000, 512, true));
    let io = blk_status::IOERR;
    assert_eq!(request(&mut b, 0, request::IN, 31, &[inn]), (513, blk_status::OK), "the last sector");
    assert_eq!(request(&mut b, 0, request::IN, 32, &[inn]), (0, io), "beyond the end");
    assert_eq!(request(&mut b, 0, request::OUT, 31, &[out, out]), (1, io), "across the end");
    assert_eq!(request(&mut b, 0, request::IN, u64::MAX, &[inn]), (0, io));
    assert_eq!(request(&mut b, 0, request::OUT, u64::MAX / 512, &[out]), (1, io));
    assert_eq!(request(&mut b, 0, request::IN, 0, &[(DATA + 0x1000, 511, true)]), (0, io), "no whole sector");
    assert_eq!(request(&mut b, 0, 11, 0, &[out]), (1, blk_status::UNSUPP));
    assert_eq!(b.f.error(), None);
}

#[test]
fn blk_without_header_or_status_byte_needs_a_reset() {
    for parts in [&[(DATA, 15, false), (DATA, 1, true)][..], &[(DATA, 16, false)]] {
        let mut b = Bench::probed(small_blk(), Irq::Intx);
        b.add(0, parts);
        b.kick(0);
        assert_eq!((b.f.error(), b.isr()), (Some(RingError::BufferTooShort), 2));
    }
}

#[test]
fn blk_makes_each_write_durable_for_a_driver_that_knows_no_flush() {
    let disk = SharedDisk::new(0x4000);
    let mut b = Bench::new(blk(&disk, 1));
    b.probe_without(Irq::Intx, blk_feature::FLUSH);
    request(&mut b, 0, request::OUT, 0, &[(DATA + 0x1000, 512, false)]);
    assert_eq!(disk.0.lock().unwrap().1, 1);
}

struct ReadOnly;

impl Disk for ReadOnly {
    fn len_bytes(&self) -> u64 {
        0x4000
    }

    fn read(&mut self, _off: u64, buf: &mut [u8]) -> bool {
        buf.fill(9);
        true
    }

    fn write(&mut self, _off: u64, _data: &[u8]) -> bool {
        panic!("the device knows that it must not write")
    }

    fn flush(&mut self) -> bool {
        true
    }

    fn is_read_only(&self) -> bool {
        true
    }
}

#[test]
fn blk_that_is_read_only_says_so_and_fails_writes() {
    let mut b = Bench::probed(VirtioPci::new(Blk::new(Box::new(ReadOnly), 1, "")), Irq::Intx);
    let (out, inn) = ((DATA + 0x1000, 512, false), (DATA + 0x1000, 512, true));
    assert_eq!(request(&mut b, 0, request::OUT, 0, &[out]), (1, blk_status::IOERR));
    assert_eq!(request(&mut b, 0, request::IN, 0, &[inn]), (513, blk_status::OK));
    assert_eq!(b.get(DATA + 0x1000), [9; 512]);
    let writable = Blk::new(Box::new(SharedDisk::new(0x4000)), 1, "");
    let features =
        [Blk::new(Box::new(ReadOnly), 1, ""), writable].map(|d| d.features() & blk_feature::RO != 0);
    assert_eq!(features, [true, false]);
}

/// A medium that takes nothing more, as a host's file system without space (ENOSPC).
struct Full;

impl Disk for Full {
    fn len_bytes(&self) -> u64 {
        0x4000
    }

    fn read(&mut self, _off: u64, buf: &mut [u8]) -> bool {
        buf.fill(0);
        true
    }

    fn write(&mut self, _off: u64, _data: &[u8]) -> bool {
        false
    }

    fn flush(&mut self) -> bool {
        false
    }
}

#[test]
fn blk_whose_medium_takes_nothing_fails_the_request_and_goes_on() {
    let mut b = Bench::probed(VirtioPci::new(Blk::new(Box::new(Full), 1, "")), Irq::Intx);
    let (out, inn) = ((DATA + 0x1000, 512, false), (DATA + 0x1000, 512, true));
    assert_eq!(request(&mut b, 0, request::OUT, 0, &[out]), (1, blk_status::IOERR));
    assert_eq!(request(&mut b, 0, request::FLUSH, 0, &[]), (1, blk_status::IOERR));
    assert_eq!(request(&mut b, 0, request::IN, 0, &[inn]), (513, blk_status::OK));
    assert_eq!((b.f.error(), b.status()), (None, RUNNING));
}

#[test]
fn blk_flushes_a_few_times_a_turn() {
    let disk = SharedDisk::new(0x4000);
    let mut b = Bench::probed(blk(&disk, 1), Irq::Intx);
    b.put(DATA, &request::FLUSH.to_le_bytes());
    (0..40).for_each(|_| b.add(0, &[(DATA, 16, false), (DATA + 16, 1, true)]));
    b.kick(0);
    assert!((1..10).contains(&disk.0.lock().unwrap().1));
    while b.deadline().is_some() {
        b.advance(NEXT_TURN_NS);
    }
    assert_eq!((disk.0.lock().unwrap().1, b.used(0).len()), (40, 40));
}

#[test]
fn blk_configuration_tells_size_limits_and_queues() {
    let disk = SharedDisk::new(0x4000);
    let mut b = Bench::probed(blk(&disk, 4), Irq::MsiX);
    let at = super::super::pci::DEVICE_AT;
    assert_eq!(b.read(at, Width::B8), 32, "sectors");
    assert_eq!((b.read(at + 8, Width::B4), b.read(at + 12, Width::B4)), (0x1_0000, 62));
    assert_eq!((b.read(at + 20, Width::B4), b.read16(at + 34), b.read8(at + 34)), (512, 4, 4));
    assert_eq!(b.read(at + 36, Width::B4), 0, "beyond the end");
    let largest = u64::from(super::super::blk::SEGMENT_BYTES) * u64::from(super::super::blk::SEGMENTS);
    assert!(largest + 17 <= super::super::queue::MAX_CHAIN_BYTES);
    for q in 0..4 {
        let parts = [(DATA + 0x1000, 512, true)];
        assert_eq!(request(&mut b, q, request::IN, 0, &parts), (513, blk_status::OK));
        assert_eq!(b.messages(), [q as u32 + 1]);
    }
}

#[test]
fn console_gives_back_what_was_written_and_keeps_a_copy_for_the_host() {
    let mut b = Bench::probed(console(), Irq::MsiX);
    b.put(DATA, b"hello");
    b.add(1, &[(DATA, 2, false), (DATA + 2, 3, false)]);
    b.kick(1);
    assert_eq!((b.used(1), b.used(0)), (vec![0], vec![]), "no buffer to receive it yet");
    b.add(0, &[(DATA + 0x100, 3, true)]);
    b.add(0, &[(DATA + 0x200, 64, true)]);
    b.kick(0);
    assert_eq!(b.used(0), [3, 2]);
    assert_eq!((&b.get::<3>(DATA + 0x100), &b.get::<2>(DATA + 0x200)), (b"hel", b"lo"));
    assert_eq!(b.f.device_mut().take_output(), b"hello");
    assert_eq!(b.f.device_mut().take_output(), b"");
    b.add(0, &[(DATA + 0x300, 64, true)]);
    b.add(1, &[(DATA, 5, false)]);
    b.messages();
    b.kick(1);
    assert_eq!((b.used(0), b.messages()), (vec![5], vec![1, 2]), "at once where a buffer waits");
}

#[test]
fn console_keeps_the_newest_of_what_nobody_takes() {
    let mut b = Bench::probed(console(), Irq::Intx);
    b.put(DATA, &[1; 0x1000]);
    b.put(DATA + 0x1000, &[2; 0x1_0000]);
    b.add(1, &[(DATA, 0x1_1000, false)]);
    b.kick(1);
    let output = b.f.device_mut().take_output();
    assert_eq!(output, vec![2; super::super::console::WAITING_BYTES]);
    b.add(0, &[(DATA, 0x1_1000, true)]);
    b.kick(0);
    assert_eq!(b.used(0), [0x1_0000]);
}

fn send(b: &mut Bench<Net>, frame: &[u8]) {
    b.put(DATA, &[0; 12]);
    b.put(DATA + 12, frame);
    b.add(1, &[(DATA, 12, false), (DATA + 12, frame.len() as u32, false)]);
    b.kick(1);
}

#[test]
fn net_returns_a_frame_with_its_addresses_swapped() {
    let mut b = Bench::probed(net(), Irq::MsiX);
    b.add(0, &[(DATA + 0x1000, 1530, true)]);
    b.kick(0);
    assert_eq!(b.used(0), NONE);
    send(&mut b, b"DDDDDDSSSSSS\x08\x00payload");
    assert_eq!((b.used(1), b.used(0)), (vec![0], vec![33]));
    assert_eq!(&b.get::<33>(DATA + 0x1000), b"\0\0\0\0\0\0\0\0\0\0\x01\0SSSSSSDDDDDD\x08\x00payload");
    assert_eq!(b.messages(), [1, 2]);
    let at = super::super::pci::DEVICE_AT;
    assert_eq!((b.read(at, Width::B4), b.read16(at + 4), b.read16(at + 6)), (2, 0x900, 1), "MAC, link up");
}

#[test]
fn net_frames_wait_for_buffers_in_order_and_up_to_a_limit() {
    let mut b = Bench::probed(net(), Irq::Intx);
    for n in 0..super::super::net::MAX_FRAMES + 2 {
        send(&mut b, &[n as u8; 14]);
    }
    assert_eq!(b.used(1).len(), 258);
    let receive = |b: &mut Bench<Net>| {
        b.add(0, &[(DATA + 0x1000, 1530, true)]);
        b.kick(0);
        (b.used(0), b.get::<1>(DATA + 0x1000 + 12)[0])
    };
    for n in 0..=255 {
        assert_eq!(receive(&mut b), (vec![26], n));
    }
    assert_eq!(receive(&mut b).0, NONE, "the last two were lost");
    // One buffer is left for the frame after the next, which does not survive the reset.
    send(&mut b, &[1; 14]);
    send(&mut b, &[2; 14]);
    assert_eq!(b.used(0), [26]);
    b.probe_without(Irq::Intx, 0);
    assert_eq!(receive(&mut b).0, NONE);
}

#[test]
fn net_loses_what_is_no_frame() {
    let mut b = Bench::probed(net(), Irq::Intx);
    for len in [0, 13, 1519, 0x4000] {
        b.add(1, &[(DATA, 12 + len, false)]);
        b.kick(1);
    }
    b.add(0, &[(DATA + 0x1000, 1530, true)]);
    b.kick(0);
    assert_eq!((b.used(1).len(), b.used(0), b.f.error()), (4, vec![], None));
    b.add(1, &[(DATA, 11, false)]);
    b.kick(1);
    assert_eq!(b.f.error(), Some(RingError::BufferTooShort), "no header");
}

#[test]
fn net_needs_a_receive_buffer_that_holds_the_frame() {
    let mut b = Bench::probed(net(), Irq::Intx);
    b.add(0, &[(DATA + 0x1000, 25, true)]);
    send(&mut b, &[0; 14]);
    assert_eq!(b.f.error(), Some(RingError::BufferTooShort));
}
