//! PID 1 of rcvm's guest images.
fn main() {}
