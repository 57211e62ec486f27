//! Drivers of NVMe and virtio queues that know how to begin and then do anything (docs/fuzzing.md).

use proptest::prelude::*;
use rc_fuzz::queues::nvme;
use rc_fuzz::queues::virtio;
use rc_fuzz::queues::OP_BYTES;
use rc_fuzz::queues::SETUP_BYTES;

fn driver() -> impl Strategy<Value = Vec<u8>> {
    let ops = proptest::collection::vec(any::<[u8; OP_BYTES]>(), 0..200);
    (any::<[u8; SETUP_BYTES]>(), ops).prop_map(|(setup, ops)| [&setup[..], ops.as_flattened()].concat())
}

proptest! {
    #[test]
    fn nvme_keeps_to_what_its_queues_say(bytes in driver()) {
        prop_assert_eq!(nvme::run_bytes(&bytes).err(), None);
    }

    #[test]
    fn virtio_keeps_to_what_its_rings_say(bytes in driver()) {
        prop_assert_eq!(virtio::run_bytes(&bytes).err(), None);
    }
}
