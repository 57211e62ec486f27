//! The protocol between the host and PID 1 of the guest.
//!
//! One JSON object a line, both ways, over a virtio-console port named [`PORT_NAME`] (never the console). The host
//! sends [`Request`]s, one at a time; the agent answers each with a [`Reply`] of the same `id`. The agent
//! speaks first, with [`Hello`] as reply 0. Neither side trusts the other: lines longer than [`MAX_LINE_BYTES`]
//! end the session.

pub mod lanes;
pub mod proto;
pub mod work;

pub use lanes::*;
pub use proto::*;
pub use work::*;
