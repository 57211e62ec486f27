//! `rcvm`: boot real arm64 Linux guests on an emulated Qualcomm PCIe root complex, unbind and rebind the real
//! driver, and say what was left behind.

mod artifacts;
mod cli;
mod commands;
mod control;
mod front;
mod job;
mod outer;
mod progress;
#[cfg(target_arch = "aarch64")]
mod sight;
#[cfg(any(test, target_arch = "aarch64"))]
mod stalls;
mod symbols;
mod topology;
mod view;
mod worker;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // In the outer machine of the nested mode this program is PID 1: there is no command line to parse.
    if rustix::process::getpid().is_init() && std::path::Path::new(outer::JOB_FILE).exists() {
        return outer::init();
    }
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("warn"))
        .format_timestamp(None)
        .init();
    let cli = cli::Cli::parse();
    match commands::run(cli.command) {
        Ok(code) => ExitCode::from(code),
        Err(e) => {
            eprintln!("rcvm: error: {e:#}");
            ExitCode::from(2)
        }
    }
}
