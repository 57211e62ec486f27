//! The walker over rings in memory: what it takes, what it gives back, and what it refuses.

use block::VecMem;

use super::flag::INDIRECT;
use super::flag::NEXT;
use super::flag::WRITE;
use super::*;

const RAM: u64 = 0x8000_0000;
const RAM_BYTES: usize = 0x10_0000;
const DESC: u64 = RAM;
const AVAIL: u64 = RAM + 0x1000;
const USED: u64 = RAM + 0x2000;
const TABLE: u64 = RAM + 0x3000;
const DATA: u64 = RAM + 0x4000;
const SIZE: u16 = 8;
const PLAIN: u64 = feature::VERSION_1;
const ALL: u64 = PLAIN | feature::INDIRECT_DESC | feature::EVENT_IDX;

type Desc = (u64, u32, u16, u16);

struct Ring {
    q: Queue,
    mem: VecMem,
    added: u16,
}

impl Ring {
    fn new() -> Ring {
        let q = Queue { enabled: true, desc: DESC, avail: AVAIL, used: USED, ..Queue::new(SIZE) };
        Ring { q, mem: VecMem::new(RAM, RAM_BYTES), added: 0 }
    }

    fn put(&mut self, addr: u64, bytes: &[u8]) {
        assert!(self.mem.write(addr, bytes), "{addr:#x}");
    }

    fn get16(&mut self, addr: u64) -> u16 {
        let mut b = [0; 2];
        assert!(self.mem.read(addr, &mut b));
        u16::from_le_bytes(b)
    }

    fn descriptors(&mut self, table: u64, list: &[Desc]) {
        for (i, (addr, len, flags, next)) in list.iter().enumerate() {
            let v = u128::from(*addr)
                | u128::from(*len) << 64
                | u128::from(*flags) << 96
                | u128::from(*next) << 112;
            self.put(table + i as u64 * 16, &v.to_le_bytes());
        }
    }

    fn add(&mut self, head: u16) {
        self.put(AVAIL + 4 + 2 * u64::from(self.added % SIZE), &head.to_le_bytes());
        self.added = self.added.wrapping_add(1);
        self.put(AVAIL + 2, &self.added.to_le_bytes());
    }

    fn pop(&mut self, features: u64) -> Result<Option<Chain>, RingError> {
        self.q.pop(&mut self.mem, features)
    }
}

#[test]
fn a_chain_is_taken_in_order_and_given_back_with_its_head() {
    let mut r = Ring::new();
    r.descriptors(
        DESC,
        &[
            (DATA, 3, NEXT, 2),
            (DATA + 0x200, 4, WRITE, 0),
            (DATA + 0x100, 5, NEXT, 3),
            (DATA + 0x300, 7, WRITE, 0),
        ],
    );
    r.put(DATA, b"abc");
    r.put(DATA + 0x100, b"defgh");
    r.add(1);
    r.add(0);
    let first = r.pop(PLAIN).unwrap().unwrap();
    let second = r.pop(PLAIN).unwrap().unwrap();
    assert_eq!(r.pop(PLAIN), Ok(None));
    assert_eq!((first.head, first.readable.len_bytes(), first.writable.len_bytes()), (1, 0, 4));
    let mut text = [0; 6];
    second.readable.read(&mut r.mem, 2, &mut text).unwrap();
    assert_eq!(&text, b"cdefgh");
    second.writable.write(&mut r.mem, 1, b"xyz").unwrap();
    assert_eq!(&r.mem.bytes[0x4300..0x4305], b"\0xyz\0");
    r.q.push(&mut r.mem, &second, 4).unwrap();
    r.q.push(&mut r.mem, &first, 0).unwrap();
    assert_eq!(r.get16(USED + 2), 2);
    assert_eq!(&r.mem.bytes[0x2004..0x2014], &[0, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn indices_go_on_past_the_end_of_their_sixteen_bits() {
    let mut r = Ring::new();
    r.descriptors(DESC, &[(DATA, 1, WRITE, 0)]);
    for n in 0..=u32::from(u16::MAX) + 3 {
        r.add(0);
        let chain = r.pop(ALL).unwrap().unwrap();
        r.q.push(&mut r.mem, &chain, 1).unwrap();
        assert_eq!(u32::from(r.get16(USED + 2)), (n + 1) & 0xffff);
    }
    assert_eq!(r.pop(ALL), Ok(None));
}

#[test]
fn an_indirect_table_stands_for_its_descriptors_also_behind_direct_ones() {
    let mut r = Ring::new();
    r.descriptors(TABLE, &[(DATA + 8, 8, NEXT, 2), (0, 0, 0, 0), (DATA + 16, 16, WRITE, 0)]);
    r.descriptors(DESC, &[(DATA, 8, NEXT, 1), (TABLE, 48, INDIRECT | WRITE, 0)]);
    r.add(0);
    let c = r.pop(ALL).unwrap().unwrap();
    assert_eq!((c.readable.len_bytes(), c.writable.len_bytes(), c.descriptors()), (16, 16, 3));
}

#[test]
fn a_full_queue_is_taken_in_order_and_so_is_a_chain_of_all_descriptors() {
    let mut r = Ring::new();
    let mut list: Vec<Desc> = (1..=SIZE).map(|i| (DATA, 1, NEXT, i)).collect();
    list[7].2 = 0;
    r.descriptors(DESC, &list);
    // Three in advance: the ring wraps while it is full.
    for _ in 0..3 {
        r.add(0);
        r.pop(PLAIN).unwrap().unwrap();
    }
    (0..SIZE).for_each(|head| r.add(head));
    for head in 0..SIZE {
        let chain = r.pop(PLAIN).unwrap().unwrap();
        assert_eq!((chain.head, chain.descriptors()), (head, usize::from(SIZE - head)));
        r.q.push(&mut r.mem, &chain, 0).unwrap();
        assert_eq!(r.get16(USED + 4 + 8 * u64::from(head)), head);
    }
    assert_eq!(r.pop(PLAIN), Ok(None));
}

/// (name, descriptors, indirect table, what becomes of it)
type Malformed = (&'static str, &'static [Desc], &'static [Desc], RingError);

const MALFORMED: &[Malformed] = &[
    ("loop", &[(DATA, 1, NEXT, 1), (DATA, 1, NEXT, 0)], &[], RingError::ChainTooLong),
    ("loop to itself", &[(DATA, 1, NEXT, 0)], &[], RingError::ChainTooLong),
    (
        "chain longer than the queue",
        &[(TABLE, 16 * 9, INDIRECT, 0)],
        &[
            (DATA, 1, NEXT, 1),
            (DATA, 1, NEXT, 2),
            (DATA, 1, NEXT, 3),
            (DATA, 1, NEXT, 4),
            (DATA, 1, NEXT, 5),
            (DATA, 1, NEXT, 6),
            (DATA, 1, NEXT, 7),
            (DATA, 1, NEXT, 8),
            (DATA, 1, 0, 0),
        ],
        RingError::ChainTooLong,
    ),
    ("loop in a table", &[(TABLE, 16, INDIRECT, 0)], &[(DATA, 1, NEXT, 0)], RingError::ChainTooLong),
    ("next out of the table", &[(DATA, 1, NEXT, 8)], &[], RingError::DescriptorOutOfRange),
    (
        "next out of an indirect table",
        &[(TABLE, 16, INDIRECT, 0)],
        &[(DATA, 1, NEXT, 1)],
        RingError::DescriptorOutOfRange,
    ),
    (
        "indirect in indirect",
        &[(TABLE, 32, INDIRECT, 0)],
        &[(DATA, 1, NEXT, 1), (TABLE, 16, INDIRECT, 0)],
        RingError::IndirectInIndirect,
    ),
    ("indirect with next", &[(TABLE, 16, INDIRECT | NEXT, 1)], &[], RingError::IndirectWithNext),
    ("empty indirect table", &[(TABLE, 0, INDIRECT, 0)], &[], RingError::IndirectLength),
    ("indirect table that ends in a descriptor", &[(TABLE, 24, INDIRECT, 0)], &[], RingError::IndirectLength),
    ("indirect table outside RAM", &[(0x1000, 16, INDIRECT, 0)], &[], RingError::Refused),
    ("indirect table that wraps", &[(u64::MAX - 15, 32, INDIRECT, 0)], &[], RingError::AddressWraps),
    ("huge length", &[(DATA, u32::MAX, WRITE, 0)], &[], RingError::ChainTooLarge),
    ("huge in sum", &[(DATA, 4 << 20, NEXT, 1), (DATA, 1, WRITE, 0)], &[], RingError::ChainTooLarge),
    ("buffer that wraps", &[(u64::MAX, 2, WRITE, 0)], &[], RingError::AddressWraps),
    (
        "readable after writable",
        &[(DATA, 1, WRITE | NEXT, 1), (DATA, 1, 0, 0)],
        &[],
        RingError::ReadAfterWrite,
    ),
];

#[test]
fn malformed_chains_are_refused_by_name_and_stay_in_the_ring() {
    for (name, list, table, error) in MALFORMED {
        let mut r = Ring::new();
        r.descriptors(DESC, list);
        r.descriptors(TABLE, table);
        r.add(0);
        let before = r.q;
        assert_eq!(r.pop(ALL), Err(*error), "{name}");
        assert_eq!(r.q, before, "{name}");
    }
}

#[test]
fn indirect_descriptors_need_to_be_negotiated() {
    let mut r = Ring::new();
    r.descriptors(DESC, &[(TABLE, 16, INDIRECT, 0)]);
    r.add(0);
    assert_eq!(r.pop(PLAIN), Err(RingError::IndirectNotNegotiated));
}

#[test]
fn a_head_out_of_range_and_an_index_that_jumps_are_refused() {
    let mut r = Ring::new();
    r.add(SIZE);
    assert_eq!(r.pop(PLAIN), Err(RingError::DescriptorOutOfRange));
    for idx in [SIZE + 1, 0x8000, u16::MAX] {
        let mut r = Ring::new();
        r.put(AVAIL + 2, &idx.to_le_bytes());
        assert_eq!(r.pop(PLAIN), Err(RingError::AvailJump), "{idx}");
    }
}

#[test]
fn rings_that_are_unaligned_outside_ram_or_past_the_end_are_refused() {
    let cases = [
        (DESC + 8, AVAIL, USED, RingError::UnalignedRing),
        (DESC, AVAIL + 1, USED, RingError::UnalignedRing),
        (DESC, AVAIL, USED + 2, RingError::UnalignedRing),
        (u64::MAX - 15, AVAIL, USED, RingError::AddressWraps),
        (DESC, u64::MAX - 1, USED, RingError::AddressWraps),
        (DESC, AVAIL, u64::MAX - 3, RingError::AddressWraps),
        (DESC, 0x1000, USED, RingError::Refused),
        (0x1000, AVAIL, USED, RingError::Refused),
        (DESC, AVAIL, 0x1000, RingError::Refused),
    ];
    for (desc, avail, used, error) in cases {
        let mut r = Ring::new();
        r.descriptors(DESC, &[(DATA, 1, WRITE, 0)]);
        r.add(0);
        r.q = Queue { desc, avail, used, ..r.q };
        let seen = match r.pop(PLAIN) {
            Ok(c) => r.q.push(&mut r.mem, &c.unwrap(), 1).unwrap_err(),
            Err(e) => e,
        };
        assert_eq!(seen, error, "{desc:#x} {avail:#x} {used:#x}");
    }
}

#[test]
fn a_buffer_is_accessed_page_by_page_and_a_refusal_is_seen() {
    struct Pages(Vec<(u64, usize)>);
    impl MemPort for Pages {
        fn read(&mut self, addr: u64, buf: &mut [u8]) -> bool {
            self.0.push((addr, buf.len()));
            addr < 0x3000
        }
        fn write(&mut self, _: u64, _: &[u8]) -> bool {
            false
        }
    }
    let mut b = Buffers::default();
    b.add(0xfff, 0x1002);
    b.add(0x10, 4);
    let mut mem = Pages(Vec::new());
    let mut buf = [0; 0x1005];
    assert_eq!(b.read(&mut mem, 1, &mut buf), Ok(()));
    assert_eq!(mem.0, [(0x1000, 0x1000), (0x2000, 1), (0x10, 4)]);
    assert_eq!(b.read(&mut mem, 2, &mut buf), Err(RingError::BufferTooShort));
    b.add(0x3000, 1);
    assert_eq!(b.read(&mut mem, 2, &mut buf), Err(RingError::Refused));
    assert_eq!(b.write(&mut mem, 0, &[0]), Err(RingError::Refused));
    assert_eq!(b.write(&mut mem, u64::MAX, &[0]), Err(RingError::BufferTooShort));
}

#[test]
fn no_request_for_a_descriptor_or_a_used_element_crosses_a_page() {
    struct Whole(VecMem);
    impl Whole {
        fn check(addr: u64, len: usize) {
            assert!(addr % BOUNDARY_BYTES + len as u64 <= BOUNDARY_BYTES, "{addr:#x}, {len} bytes");
        }
    }
    impl MemPort for Whole {
        fn read(&mut self, addr: u64, buf: &mut [u8]) -> bool {
            Whole::check(addr, buf.len());
            self.0.read(addr, buf)
        }
        fn write(&mut self, addr: u64, data: &[u8]) -> bool {
            Whole::check(addr, data.len());
            self.0.write(addr, data)
        }
    }
    let mut r = Ring::new();
    let (table, used) = ((TABLE | 0xfff) - 7, (DATA | 0xfff) - 7);
    r.descriptors(DESC, &[(table, 16, INDIRECT, 0)]);
    r.descriptors(table, &[(DATA, 9, WRITE, 0)]);
    r.add(0);
    r.q.used = used;
    let mut mem = Whole(r.mem);
    let chain = r.q.pop(&mut mem, ALL & !feature::EVENT_IDX).unwrap().unwrap();
    assert_eq!(chain.writable.len_bytes(), 9);
    r.q.push(&mut mem, &chain, 9).unwrap();
    let mut element = [0; 8];
    assert!(mem.0.read(used + 4, &mut element));
    assert_eq!(element, [0, 0, 0, 0, 9, 0, 0, 0]);
}

#[test]
fn the_driver_hears_of_used_buffers_as_its_flags_or_used_event_say() {
    let mut r = Ring::new();
    r.q.next_used = 3;
    let used_event = AVAIL + 4 + 2 * u64::from(SIZE);
    for (flags, wanted) in [(0, true), (NO_INTERRUPT, false)] {
        r.put(AVAIL, &flags.to_le_bytes());
        assert_eq!(r.q.wants_interrupt(&mut r.mem, PLAIN, 2), Ok(wanted));
    }
    // "When the entry with this number was used": 0 and 1 were before, 3 is to come.
    for (event, wanted) in [(0_u16, false), (1, true), (2, true), (3, false), (u16::MAX, false)] {
        r.put(used_event, &event.to_le_bytes());
        assert_eq!(r.q.wants_interrupt(&mut r.mem, ALL, 1), Ok(wanted), "{event}");
    }
}

#[test]
fn an_empty_ring_asks_for_the_next_notification_and_looks_again() {
    let mut r = Ring::new();
    r.descriptors(DESC, &[(DATA, 1, WRITE, 0)]);
    r.add(0);
    r.pop(ALL).unwrap().unwrap();
    assert_eq!(r.get16(USED + 4 + 8 * u64::from(SIZE)), 0, "nobody asked yet");
    assert_eq!(r.pop(ALL), Ok(None));
    assert_eq!(r.get16(USED + 4 + 8 * u64::from(SIZE)), 1);

    /// A driver that adds a buffer just before the device asks to be notified.
    struct Racing(VecMem);
    impl MemPort for Racing {
        fn read(&mut self, addr: u64, buf: &mut [u8]) -> bool {
            self.0.read(addr, buf)
        }
        fn write(&mut self, addr: u64, data: &[u8]) -> bool {
            self.0.write(AVAIL + 2, &[2, 0]) && self.0.write(addr, data)
        }
    }
    assert!(r.q.pop(&mut Racing(r.mem), ALL).unwrap().is_some());
}
