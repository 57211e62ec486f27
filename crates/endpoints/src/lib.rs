//! PCIe functions behind a root port.
#![forbid(unsafe_code)]
