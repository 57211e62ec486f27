//! Any bytes are a machine and operations on it; see `rc_fuzz::trial` for what is checked.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(e) = rc_fuzz::trial::run_bytes(bytes) {
        panic!("{e}");
    }
});
