//! A stand-in for the bus around a root complex, for tests and the fuzzer: no product code uses it.
#![forbid(unsafe_code)]

pub mod guest_memory;
pub mod machine;
pub mod ops;
pub mod queues;
pub mod recorder;
pub mod trial;

pub use machine::Machine;
