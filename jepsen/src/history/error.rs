//! Why a history is refused: always a line and a field, so that whoever wrote the file can mend it.

use std::io;

/// One line that cannot be believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {field}: {reason}")]
pub struct Malformed {
    /// Counted from 1.
    pub line: usize,
    /// Which field of the record; `record` where it is the whole of it.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Malformed {
    /// A complaint about one field.
    #[must_use]
    pub fn new(line: usize, field: &str, reason: impl Into<String>) -> Self {
        Malformed { line, field: field.to_owned(), reason: reason.into() }
    }
}

/// Why there is no history.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// The file can be read, and is not a history.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The format cannot be told from the first line.
    #[error("line {line}: this is neither JSON Lines, EDN nor a log of Porcupine's: name the format with --format")]
    UnknownFormat {
        /// The first line that is not empty.
        line: usize,
    },
}
