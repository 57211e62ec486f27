//! What several of the whole-system tests need.

/// Kernel series to test: RCVM_TEST_SERIES, separated by commas, or the default one. Another one is built first, which takes minutes.
pub fn series() -> Vec<String> {
    let list = std::env::var("RCVM_TEST_SERIES").unwrap_or_else(|_| "6.12".into());
    list.split(',').map(str::to_owned).collect()
}
