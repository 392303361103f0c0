//! What RocksDB says when something fails, in our words, and the first failure, which stays.
//!
//! **Invariant.** The first failure is never replaced or forgotten in this life of the engine.
//!
//! **Deliberately absent.** Judging which failures are harmless: whoever asks for a write gets one answer, and a node
//! with a failed engine is poisoned until it starts again.

use crate::error::StorageError;
use std::{path::Path, sync::OnceLock};

/// The first failure of an engine.
#[derive(Debug, Default)]
pub(super) struct Health {
    first: OnceLock<StorageError>,
}

impl Health {
    /// Notes a failure; gives the first one, which may be an earlier one.
    pub(super) fn fail(&self, error: StorageError) -> StorageError {
        let first = self.first.get_or_init(|| {
            tracing::error!(%error, "engine failed");
            error
        });
        first.clone()
    }

    /// The first failure, if any.
    pub(super) fn check(&self) -> Result<(), StorageError> {
        self.first.get().cloned().map_or(Ok(()), Err)
    }
}

/// An error of a call.
pub(super) fn engine_error(operation: &'static str, error: &rocksdb::Error) -> StorageError {
    from_message(operation, error.as_ref())
}

/// An error at opening: the commonest one is a directory that is in use.
pub(super) fn open_error(path: &Path, error: &rocksdb::Error) -> StorageError {
    let message: &str = error.as_ref();
    let path = path.display();
    if message.contains("lock file") || message.contains("lock hold by current process") {
        return StorageError::Engine(format!("{path} is in use by another process: {message}"));
    }
    from_message("open", message)
}

/// RocksDB's errors are text: `kind: what: why`.
pub(super) fn from_message(operation: &'static str, message: &str) -> StorageError {
    if message.contains("No space left on device") || message.contains("Space limit reached") {
        return StorageError::DiskFull(format!("{operation} of the engine: {message}"));
    }
    if let Some(why) = message.strip_prefix("Corruption: ") {
        return StorageError::Corrupt { file: "engine".to_owned(), offset: 0, why: format!("{operation}: {why}") };
    }
    if let Some(why) = message.strip_prefix("IO error: ") {
        return StorageError::Io { operation, path: "engine".to_owned(), why: why.to_owned() };
    }
    StorageError::Engine(format!("{operation}: {message}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_called_so() {
        let message =
            "IO error: No space left on device: While appending to file: /x/000012.sst: No space left on device";
        assert!(matches!(from_message("flush", message), StorageError::DiskFull(_)));
    }

    #[test]
    fn corruption_and_io_keep_their_reason() {
        let corrupt = from_message("read", "Corruption: block checksum mismatch in /x/000012.sst offset 7");
        assert_eq!(
            corrupt.to_string(),
            "corruption in engine at byte 0: read: block checksum mismatch in /x/000012.sst offset 7"
        );
        let io = from_message("flush", "IO error: While open a file for appending: /x: Permission denied");
        assert_eq!(io.to_string(), "flush of engine: While open a file for appending: /x: Permission denied");
        assert_eq!(from_message("write", "Busy: "), StorageError::Engine("write: Busy: ".to_owned()));
    }

    #[test]
    fn the_first_failure_stays() {
        let health = Health::default();
        health.check().unwrap();
        let first = health.fail(StorageError::Engine("first".to_owned()));
        assert_eq!(health.fail(StorageError::Engine("second".to_owned())), first);
        assert_eq!(health.check(), Err(first));
    }
}
