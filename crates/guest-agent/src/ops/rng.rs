//! The hardware random number generator.

use std::fs::File;
use std::io;
use std::io::Read;

use guest_agent::OpError;
use guest_agent::RngSample;
use guest_agent::Value;

use super::failed;
use super::Root;

const NODE: &str = "dev/hwrng";
const MAX_BYTES: u32 = 1 << 20;

/// Read `bytes` bytes.
pub fn sample(root: &Root, bytes: u32) -> Result<Value, OpError> {
    let mut data = Vec::new();
    let mut read = || -> io::Result<usize> {
        File::open(root.path(NODE))?.take(bytes.min(MAX_BYTES).into()).read_to_end(&mut data)
    };
    let n = read().map_err(|e| failed(format!("read /{NODE}"), &e))?;
    let all_equal = data.windows(2).all(|w| w[0] == w[1]);
    Ok(Value::Rng(RngSample { bytes: n as u64, all_equal }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stuck_source_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let root = Root(dir.path().into());
        assert_eq!(sample(&root, 4).unwrap_err().errno, libc::ENOENT);
        std::fs::create_dir(root.path("dev")).unwrap();
        std::fs::write(root.path(NODE), [9, 9, 9, 8]).unwrap();
        assert_eq!(sample(&root, 3), Ok(Value::Rng(RngSample { bytes: 3, all_equal: true })));
        assert_eq!(sample(&root, 9), Ok(Value::Rng(RngSample { bytes: 4, all_equal: false })));
    }
}
