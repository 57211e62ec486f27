//! The iMSI-RX.
#![forbid(unsafe_code)]
