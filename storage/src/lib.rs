//! # storage: the bytes of one node
//!
//! ```text
//!   WORKSHOP   shard      apply(position, commands): the only door to user data
//!   CELLAR     journal    one log for all groups, one fsync for everybody
//!              engine     ordered bytes: rocks │ mem
//!   DIARY      changelog  what happened, in order; readers keep their own position
//! ```
//!
//! Start reading at [`shard`].
//!
//! **Invariant.** The engine never gets ahead of the journal; data, change record and position are one batch.
//!
//! **Deliberately absent.** Other nodes. This crate waits for disks, never for the network, and reads no clock: time
//! arrives in the commands.

pub mod blocking;
pub mod changelog;
pub mod codec;
pub mod command;
pub mod engine;
pub mod entry;
pub mod error;
pub mod journal;
pub mod keys;
pub mod planted;
pub mod shard;
#[cfg(any(test, feature = "suite"))]
pub mod spoil;

pub use blocking::Blocking;
pub use command::{Command, Condition, Operation, OperationResult, Outcome, RequestId, WriteCommand};
pub use engine::{Column, Engine};
pub use entry::Entry;
pub use error::StorageError;
pub use journal::Journal;
pub use shard::Shard;
