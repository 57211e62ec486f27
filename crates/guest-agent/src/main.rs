//! PID 1 of rcvm's guest images: performs the host's operations and reports over the result channel.
//!
//! It never returns: whatever goes wrong is told on the console, and the machine powers off.

mod boot;
mod channel;
mod ops;

use std::process::ExitCode;

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|what| {
        println!("rcvm-agent: {what}");
        boot::power_off();
    }));
    if let Err(e) = boot::mount_all() {
        println!("rcvm-agent: {e}");
        return boot::power_off();
    }
    let root = ops::Root::system();
    for e in ops::modules::boot(&root) {
        println!("rcvm-agent: {} failed: {}", e.what, e.why);
    }
    if boot::wants_shell() {
        boot::shell();
        return boot::power_off();
    }
    match channel::open() {
        Ok(port) => channel::serve(port, &mut ops::Agent::new(root)),
        Err(e) => println!("rcvm-agent: {e}: is virtio-console in the kernel?"),
    }
    boot::power_off()
}
