//! `rcvm trace`: decode a trace.bin.

use std::io::BufWriter;
use std::io::Write;

use anyhow::Context;
use anyhow::Result;

use crate::cli::TraceArgs;

/// Print one access a line: time, vCPU, direction, window, register, value.
pub fn run(args: &TraceArgs) -> Result<u8> {
    let bytes = std::fs::read(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
    let trace = vmm::trace::decode(&bytes)
        .with_context(|| format!("{} is not a trace of this version of rcvm", args.file.display()))?;
    let mut out = BufWriter::new(std::io::stdout().lock());
    for e in trace {
        let line = writeln!(out, "{e}");
        if line.is_err() {
            // The reader (head, less) has gone: not an error.
            return Ok(0);
        }
    }
    let _ = out.flush();
    Ok(0)
}
