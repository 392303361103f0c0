//! # Frames of a stream: many requests in one message, answers in any order
//!
//! ```text
//!   request │ 1 │ stamp (8) │ client (16) │ lowest unanswered (8) │ keyspace │ traceparent │ token │ count (4) │ calls
//!   reply   │ 1 │ node (8)  │ stamp (8)   │ count (4) │ answers
//! ```
//!
//! Integers are big-endian; bytes and text are a length (4) and that many bytes; an option is a bit of the flags in
//! front of it. What is decoded shares the memory of the frame.
//!
//! **Invariant.** The leading byte is the version; numbers are append-only. No bytes make decoding panic, and nothing
//! is allocated for items that the bytes at hand could not hold.
//!
//! **Deliberately absent.** Judgement: whether a key is too long or a level is offered is decided at the door, which
//! answers that one call; only bytes that are no frame end the stream.

mod read;
mod reply;
mod request;
#[cfg(test)]
mod tests;
mod write;

pub use reply::{Answer, Delivered, Entry, Failure, OperationResult, OperationStatus, Outcome, Previous, Reply};
pub use request::{Body, Call, Condition, Operation, Request, RequestParts};

use thiserror::Error;

/// The format written by this build.
pub const FORMAT: u8 = 1;

/// Calls in one frame.
pub const CALLS_MAX: usize = 1_024;

/// Operations in all batches of one frame: above what any batch may have, so that a batch that has too many is answered
/// by itself.
pub const OPERATIONS_MAX: usize = 16 * crate::limits::BATCH_OPERATIONS_MAX;

/// Bytes of one frame; one larger call travels alone.
pub const BYTES_MAX: usize = 4 << 20;

/// Bytes that are no frame.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("frame: {0}")]
pub struct FrameUnreadable(pub String);

fn unreadable<T>(why: impl Into<String>) -> Result<T, FrameUnreadable> {
    Err(FrameUnreadable(why.into()))
}
