//! Why a saved state cannot be restored.
//!
//! A saved state comes from a file: it may be cut, edited, or of another machine. Whoever restores it checks what the
//! block relies on, and builds nothing from a state that fails.

use thiserror::Error;

/// A state that does not fit what it is restored into.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StateError {
    /// It was saved by something else.
    #[error("{what}: the state is of {found}, not of {expected}")]
    Foreign {
        /// What was compared.
        what: &'static str,
        /// What is restored.
        expected: String,
        /// What was saved.
        found: String,
    },
    /// Too much or too little of something.
    #[error("{what}: {found} entries, not {expected}")]
    Length {
        /// Of what.
        what: &'static str,
        /// Entries that belong there.
        expected: usize,
        /// Entries in the state.
        found: usize,
    },
    /// A value that the block never holds.
    #[error("{what}: no state that it can be in")]
    Impossible {
        /// What holds it.
        what: &'static str,
    },
    /// Not the shape of a state at all.
    #[error("{what}: {why}")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl StateError {
    /// [`StateError::Foreign`] unless `found` is `expected`.
    pub fn unless_of(what: &'static str, expected: &str, found: &str) -> Result<(), StateError> {
        if expected == found {
            return Ok(());
        }
        Err(StateError::Foreign { what, expected: expected.to_owned(), found: found.to_owned() })
    }

    /// [`StateError::Length`] unless `found` is `expected`.
    pub fn unless_length(what: &'static str, expected: usize, found: usize) -> Result<(), StateError> {
        if expected == found {
            return Ok(());
        }
        Err(StateError::Length { what, expected, found })
    }
}
