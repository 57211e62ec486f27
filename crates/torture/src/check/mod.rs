//! What a clean teardown looks like, and what is known to be left behind.
//!
//! Each check compares facts with a rule and returns findings; none of them talks to a guest.

pub mod allow;
pub mod device;
pub mod gic;
pub mod irqs;
pub mod memory;
pub mod system;
