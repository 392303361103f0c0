//! # Medium: the directory under a journal
//!
//! The few things a journal asks of a file system. `file` answers with real files, `disk` with simulated sectors, so
//! that everything above is one code.
//!
//! **Invariant.** What was written to a file before a successful `sync` of it survives the loss of power; a rename
//! survives once `sync_directory` has returned.
//!
//! **Deliberately absent.** Appending and truncating: a segment has its full size before its first record.

use std::io::{self, IoSlice};
use std::sync::Arc;

/// A directory of files that this journal alone may touch.
pub(super) trait Medium: Send {
    /// Names of all files, in any order.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Opens an existing file.
    fn open(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>>;

    /// Makes an empty file.
    fn create(&self, name: &str) -> io::Result<Arc<dyn SegmentFile>>;

    /// Renames a file that is closed or open. The target must not exist.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Makes renames, creations and removals so far survive.
    fn sync_directory(&self) -> io::Result<()>;

    /// How an operator would name a file of this directory.
    fn path(&self, name: &str) -> String;
}

/// One file. Read by anybody, written by the journal's writer alone.
pub(super) trait SegmentFile: Send + Sync {
    /// Its length in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Reads from `offset` until `into` is full or the file ends, and says how many bytes it was.
    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<usize>;

    /// Writes all `parts` one after the other, with one system call where possible.
    fn write_at(&self, offset: u64, parts: &mut [IoSlice<'_>]) -> io::Result<()>;

    /// Gives the bytes from `from` to `to` real blocks full of zeros.
    fn prewrite(&self, from: u64, to: u64) -> io::Result<()>;

    /// Makes everything written so far survive.
    fn sync(&self) -> io::Result<()>;
}
