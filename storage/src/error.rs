//! What can go wrong between this node and its disk.

use thiserror::Error;

/// A failure of the disk or of what was found on it. Cloned to everybody who waits.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StorageError {
    /// The operating system said no.
    #[error("{operation} of {path}: {why}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        path: String,
        /// What the system said.
        why: String,
    },
    /// Bytes that were once synced are not what was written.
    #[error("corruption in {file} at byte {offset}: {why}")]
    Corrupt {
        /// Which file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What was found, and what to do.
        why: String,
    },
    /// An earlier write or sync failed: this node promises nothing any more until it is restarted.
    #[error("poisoned: {0}")]
    Poisoned(String),
    /// Not enough free space for this kind of write.
    #[error("disk_full: {0}")]
    DiskFull(String),
    /// The engine refused.
    #[error("engine: {0}")]
    Engine(String),
    /// Bytes whose format this build does not know.
    #[error("unknown format of {what}: {found}")]
    UnknownFormat {
        /// What was read.
        what: &'static str,
        /// What was found.
        found: String,
    },
    /// What another node sent is not what it should be: nothing of this node is in doubt.
    #[error("refused: {0}")]
    Refused(String),
    /// The shard is being rebuilt from a snapshot.
    #[error("installing a snapshot")]
    Installing,
    /// The key is not this shard's (rule C3).
    #[error("the key is not this shard's in its epoch {epoch}")]
    OutOfRange {
        /// The shard's epoch.
        epoch: u64,
    },
    /// The writer has stopped.
    #[error("stopped")]
    Stopped,
}

impl StorageError {
    /// An I/O error with its context.
    #[must_use]
    pub fn io(operation: &'static str, path: impl Into<String>, why: &std::io::Error) -> Self {
        if why.kind() == std::io::ErrorKind::StorageFull {
            return StorageError::DiskFull(format!("{operation} of {}: {why}", path.into()));
        }
        StorageError::Io { operation, path: path.into(), why: why.to_string() }
    }
}
