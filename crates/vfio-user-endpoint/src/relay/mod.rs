//! A relay between servers on this host and functions in another machine, which shares nothing with it but one stream of bytes.
//!
//! [`serve`] runs where the servers' sockets are; [`Link`] is its other end, with a [`Channel`] for each server. Frames carry whole
//! messages to a server and bytes of its answers. File descriptors do not travel: where a message of ours would carry the triggers
//! of interrupts, [`serve`] makes eventfds of its own, and tells over the link which were triggered.
//!
//! *Order*: what a server wrote to its socket before it triggered an interrupt was in the socket when the trigger is seen. So the
//! link carries a vector with the number of bytes that are before it, and the function sends the interrupt only when it has
//! received and served these: a DMA write is in memory before an interrupt that tells of it. And a vector goes onto the link
//! before bytes that were written after it: who has a reply knows of the interrupts before it.
//!
//! *Bounds*: each side sends at most [`WINDOW_BYTES`] per channel beyond what the other side says that it has passed on. A
//! message or frame is at most [`wire::MOST_MESSAGE_BYTES`] long, and only what the protocol needs gets to a server.

mod far;
mod frame;
mod near;

pub use far::Channel;
pub use far::Link;
pub use near::serve;

use crate::wire;

/// Most bytes on their way over one channel in one direction: a longest message, and as much again that is not yet passed on.
pub const WINDOW_BYTES: usize = 2 * wire::MOST_MESSAGE_BYTES;
/// So many are passed on before the other side is told: what is left of the window holds a longest message.
const TELL_BYTES: usize = WINDOW_BYTES / 4;
/// Most servers.
pub const MOST_CHANNELS: usize = 64;
