//! Any bytes are changes to a guest kernel's memory; see `rc_fuzz::guest_memory` for what is checked.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(e) = rc_fuzz::guest_memory::run_bytes(bytes) {
        panic!("{e}");
    }
});
