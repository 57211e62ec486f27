//! Any bytes are a driver of the function's queues; see `rc_fuzz::queues::nvme` for what is checked.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Err(e) = rc_fuzz::queues::nvme::run_bytes(bytes) {
        panic!("{e}");
    }
});
