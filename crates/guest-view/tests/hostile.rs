//! Structures that lie: every walk ends, and says what stopped it.

use guest_view::btf::Btf;
use guest_view::translate::Tables;
use guest_view::walk;
use guest_view::Core;
use guest_view::Corruption;
use guest_view::Kernel;
use guest_view::RamImage;
use guest_view::Symbols;
use guest_view::Types;
use proptest::prelude::*;

const RAM: u64 = 0x4000_0000;
const RAM_BYTES: usize = 64 << 10;
/// The 39-bit address at which one block entry maps 1 GiB from `RAM`.
const VA: u64 = 0xffff_ff80_0000_0000;
const TYPES: &str = r#"{
  "maple_tree": {"size": 16, "fields": {"ma_root": {"offset": 8, "size": 8}}},
  "maple_range_64": {"size": 256, "fields": {
    "pivot": {"offset": 8, "size": 120, "count": 15}, "slot": {"offset": 128, "size": 128, "count": 16}}},
  "maple_arange_64": {"size": 248, "fields": {
    "pivot": {"offset": 8, "size": 72, "count": 9}, "slot": {"offset": 80, "size": 80, "count": 10}}},
  "xarray": {"size": 16, "fields": {"xa_head": {"offset": 8, "size": 8}}},
  "xa_node": {"size": 576, "fields": {
    "shift": {"offset": 0, "size": 1}, "slots": {"offset": 40, "size": 512, "count": 64}}}
}"#;

/// Words at offsets in RAM; the table that maps it lies in its first page.
fn kernel(words: &[(usize, u64)]) -> Kernel<RamImage> {
    let mut bytes = vec![0; RAM_BYTES];
    for &(at, value) in std::iter::once(&(0, RAM | 1)).chain(words) {
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
    let types = Types::from_json(TYPES).expect("table");
    let tables = Tables { root_pa: RAM, granule_bits: 12, va_bits: 39 };
    Kernel::from_parts(RamImage::new(RAM, bytes), Symbols::default(), types, tables, VA, RAM)
}

fn at(offset: usize) -> u64 {
    VA + offset as u64
}

#[test]
fn a_list_is_walked_to_its_head() {
    let (h, a, b) = (0x1000, 0x2000, 0x3000);
    let k = kernel(&[(h, at(a)), (h + 8, at(b)), (a, at(b)), (a + 8, at(h)), (b, at(h)), (b + 8, at(a))]);
    let found = walk::list(&k, at(h), 10);
    assert_eq!(found.items, [at(a), at(b)]);
    assert_eq!(found.corruption, None);
    assert!(matches!(walk::list(&k, at(h), 1).corruption, Some(Corruption::TooLong { .. })));
}

#[test]
fn a_tag_on_a_pointer_does_not_matter() {
    let k = kernel(&[(0x1000, 7)]);
    assert_eq!(k.u64(at(0x1000) & !(0xff << 56) | 0xa5 << 56), Ok(7));
    assert!(k.u64(0x1000).is_err(), "a user address");
}

#[test]
fn broken_lists_give_what_came_before() {
    let (h, a) = (0x1000, 0x2000);
    let cycle = kernel(&[(h, at(a)), (a, at(a)), (a + 8, at(h))]);
    let found = walk::list(&cycle, at(h), 10);
    assert_eq!(found.items, [at(a)]);
    assert!(matches!(found.corruption, Some(Corruption::Cycle { .. })));

    // LIST_POISON1 of a node that was deleted.
    let wild = kernel(&[(h, at(a)), (a, 0xdead_0000_0000_0100), (a + 8, at(h))]);
    let found = walk::list(&wild, at(h), 10);
    assert_eq!(found.items, [at(a)]);
    assert!(matches!(found.corruption, Some(Corruption::WildPointer { .. })));
}

/// A core of two segments that touch, of which the first is half as long in the file.
#[test]
fn memory_that_a_core_leaves_out_is_zero_and_a_read_may_cross_segments() {
    let mut core = b"\x7fELF\x02\x01\x01".to_vec();
    core.resize(64 + 2 * 56, 0);
    core[16] = 4;
    core[18] = 183;
    core[32] = 64;
    core[54] = 56;
    core[56] = 2;
    for (i, (offset, pa, in_file, memory)) in
        [(176_u64, RAM, 4_u64, 8_u64), (180, RAM + 8, 4, 4)].into_iter().enumerate()
    {
        let at = 64 + 56 * i;
        core[at] = 1;
        for (field, value) in [(8, offset), (24, pa), (32, in_file), (40, memory)] {
            core[at + field..at + field + 8].copy_from_slice(&value.to_le_bytes());
        }
    }
    core.extend([1, 2, 3, 4, 5, 6, 7, 8]);
    let core = Core::open(std::io::Cursor::new(core)).expect("core");
    let mut seen = [9; 10];
    guest_view::Memory::read(&core, RAM + 2, &mut seen).expect("read");
    assert_eq!(seen, [3, 4, 0, 0, 0, 0, 5, 6, 7, 8]);
    assert!(guest_view::Memory::read(&core, RAM + 3, &mut seen).is_err(), "one byte too many");
}

#[test]
fn a_maple_leaf_gives_its_entries() {
    let leaf = 0x2000;
    let enode = at(leaf) | 1 << 3 | 2;
    let k = kernel(&[
        (0x1008, enode),
        (leaf + 8, 0),
        (leaf + 16, 3),
        (leaf + 128, at(0x100)),
        (leaf + 136, 0),
        (leaf + 144, at(0x200)),
    ]);
    let found = walk::maple(&k, at(0x1000), 10);
    assert_eq!(found.corruption, None);
    assert_eq!(found.items, [(0, at(0x100)), (4, at(0x200))]);
}

#[test]
fn an_xarray_node_gives_its_entries() {
    let k = kernel(&[(0x1008, at(0x2000) + 2), (0x2000 + 40 + 8 * 5, at(0x100))]);
    let found = walk::xarray(&k, at(0x1000), 10);
    assert_eq!((found.items, found.corruption), (vec![(5, at(0x100))], None));
    // A child that is its own parent.
    let k = kernel(&[(0x1008, at(0x2000) + 2), (0x2000 + 40, at(0x2000) + 2)]);
    assert!(matches!(walk::xarray(&k, at(0x1000), 10).corruption, Some(Corruption::Cycle { .. })));
}

proptest! {
    #[test]
    fn walks_of_any_memory_end_within_their_budget(
        words in prop::collection::vec((0x200_usize..0x800, prop_oneof![
            any::<u64>(),
            (0x1000_u64..0x4000).prop_map(|o| VA + o),
            (0x10_u64..0x40, 1_u64..4).prop_map(|(o, kind)| (VA + (o << 8)) | (kind << 3) | 2),
            0_u64..64,
        ]), 0..400),
    ) {
        let words: Vec<_> = words.into_iter().map(|(i, v)| (8 * i, v)).collect();
        let k = kernel(&words);
        for head in (0x1000..0x4000).step_by(0x100).map(at) {
            prop_assert!(walk::list(&k, head, 50).items.len() <= 50);
            prop_assert!(walk::chain(&k, head, 8, 50).items.len() <= 50);
            prop_assert!(walk::maple(&k, head, 50).items.len() <= 50 * 16 + 1);
            prop_assert!(walk::xarray(&k, head, 50).items.len() <= 50 * 64 + 1);
        }
    }

    #[test]
    fn bytes_of_any_kind_are_no_image_core_or_btf(
        mut bytes in prop::collection::vec(any::<u8>(), 64..2000),
        magic in 0..4,
    ) {
        let (at, what): (usize, &[u8]) = match magic {
            0 => (56, b"ARMd"),
            1 => (0, b"\x7fELF\x02\x01"),
            2 => (0, b"\x9f\xeb\x01\x00\x18\x00\x00\x00\x00\x00\x00\x00"),
            _ => (0, b""),
        };
        bytes[at..at + what.len()].copy_from_slice(what);
        prop_assert!(Symbols::from_image(&bytes).is_err());
        let _ = Btf::parse(&bytes);
        prop_assert!(guest_view::dwarf::types(&bytes).is_err());
        let _ = Core::open(std::io::Cursor::new(&bytes));
    }
}
