//! Views of a guest kernel's memory in which anything may have been overwritten (docs/fuzzing.md).

use proptest::prelude::*;
use rc_fuzz::guest_memory::run_bytes;
use rc_fuzz::guest_memory::OP_BYTES;
use rc_fuzz::guest_memory::SETUP_BYTES;

proptest! {
    #[test]
    fn every_view_of_any_memory_ends_within_its_bounds(
        setup in any::<[u8; SETUP_BYTES]>(),
        changes in prop::collection::vec(any::<[u8; OP_BYTES]>(), 0..200),
    ) {
        let bytes = [&setup[..], changes.as_flattened()].concat();
        prop_assert_eq!(run_bytes(&bytes).err(), None);
    }
}
