//! Cores: what is not in the file is zero, and a file that ends early is said to.

use std::io::Cursor;

use guest_view::memory::CoreError;
use guest_view::Core;
use guest_view::Memory;

/// Segments of physical address, bytes in the file, and bytes of memory; the file has `0xaa` in all of them.
fn core(segments: &[(u64, u64, u64)]) -> Vec<u8> {
    let mut file = vec![0; 64 + 56 * segments.len()];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    for (at, value) in [(16, 4_u16), (18, 183), (54, 56), (56, segments.len() as u16)] {
        file[at..at + 2].copy_from_slice(&value.to_le_bytes());
    }
    file[32..40].copy_from_slice(&64_u64.to_le_bytes());
    for (i, &(pa, in_file, in_memory)) in segments.iter().enumerate() {
        let (ph, offset) = (64 + 56 * i, file.len() as u64);
        file[ph] = 1;
        for (at, value) in [(8, offset), (24, pa), (32, in_file), (40, in_memory)] {
            file[ph + at..ph + at + 8].copy_from_slice(&value.to_le_bytes());
        }
        file.resize(file.len() + in_file as usize, 0xaa);
    }
    file
}

#[test]
fn memory_that_is_not_in_the_file_is_zero_and_a_read_crosses_segments() {
    let core = Core::open(Cursor::new(core(&[(0x1000, 0x10, 0x20), (0x1020, 0x10, 0x10)]))).expect("a core");
    let mut buf = [1; 0x30];
    core.read(0x1000, &mut buf).expect("all of it");
    let expected: Vec<u8> = [[0xaa; 0x10], [0; 0x10], [0xaa; 0x10]].concat();
    assert_eq!(buf.as_slice(), expected);
    assert!(core.read(0x1008, &mut buf).is_err(), "beyond the last segment");
    assert_eq!(core.ranges(), [0x1000..0x1010, 0x1020..0x1030]);
}

#[test]
fn a_core_that_ends_before_its_segments_do_is_truncated() {
    let mut file = core(&[(0x1000, 0x100, 0x100)]);
    file.truncate(file.len() - 1);
    assert!(matches!(Core::open(Cursor::new(file)), Err(CoreError::Truncated { .. })));
    let mut file = core(&[(0x1000, 0x100, 0x100)]);
    file[64 + 32..64 + 40].copy_from_slice(&u64::MAX.to_le_bytes());
    assert!(matches!(Core::open(Cursor::new(file)), Err(CoreError::Truncated { .. })));
}
