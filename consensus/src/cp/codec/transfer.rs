//! A snapshot on its way: begin, chunks, finish.
//!
//! ```text
//!   begin  { session, vote, last log id, membership } ─▶ progress
//!   chunk  { session, number, bytes }                 ─▶ progress { number wanted next }
//!   finish { session, chunks }                        ─▶ progress { vote, after installing }
//! ```

use super::{
    DecodeError, Reader, begin, put_option,
    raft::{put_log_id, put_stored_membership, put_vote, read_log_id, read_stored_membership, read_vote},
};
use crate::cp::types::{SnapshotMeta, Vote};
use bytes::{BufMut, Bytes};

/// A snapshot begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotBegin {
    /// Names this attempt among those of its sender.
    pub session: u64,
    /// The sender's vote: a leader's.
    pub vote: Vote,
    /// What it is of.
    pub meta: SnapshotMeta,
}

/// One chunk of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotChunk {
    /// Which attempt.
    pub session: u64,
    /// Which chunk, from 0.
    pub number: u64,
    /// Self-describing and checksummed by the shard.
    pub bytes: Bytes,
}

/// It is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotFinish {
    /// Which attempt.
    pub session: u64,
    /// How many chunks there were.
    pub chunks: u64,
}

/// The answer to each of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotProgress {
    /// The receiver's vote: a higher one ends the attempt.
    pub vote: Vote,
    /// The chunk it wants next.
    pub next: u64,
}

impl SnapshotBegin {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = begin(128);
        out.put_u64(self.session);
        put_vote(&mut out, &self.vote);
        put_option(&mut out, self.meta.last_log_id.as_ref(), put_log_id);
        put_stored_membership(&mut out, &self.meta.last_membership);
        out.freeze()
    }

    /// The reverse.
    ///
    /// # Errors
    /// Other bytes.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::open(bytes, "snapshot begin")?;
        let session = reader.u64()?;
        let vote = read_vote(&mut reader)?;
        let last_log_id = reader.option(read_log_id)?;
        let last_membership = read_stored_membership(&mut reader)?;
        reader.end()?;
        Ok(SnapshotBegin { session, vote, meta: SnapshotMeta { last_log_id, last_membership } })
    }
}

impl SnapshotChunk {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = begin(16 + self.bytes.len());
        out.put_u64(self.session);
        out.put_u64(self.number);
        out.put_slice(&self.bytes);
        out.freeze()
    }

    /// The reverse.
    ///
    /// # Errors
    /// Other bytes.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::open(bytes, "snapshot chunk")?;
        let session = reader.u64()?;
        let number = reader.u64()?;
        Ok(SnapshotChunk { session, number, bytes: reader.rest() })
    }
}

impl SnapshotFinish {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = begin(16);
        out.put_u64(self.session);
        out.put_u64(self.chunks);
        out.freeze()
    }

    /// The reverse.
    ///
    /// # Errors
    /// Other bytes.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::open(bytes, "snapshot finish")?;
        let session = reader.u64()?;
        let chunks = reader.u64()?;
        reader.end()?;
        Ok(SnapshotFinish { session, chunks })
    }
}

impl SnapshotProgress {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = begin(32);
        put_vote(&mut out, &self.vote);
        out.put_u64(self.next);
        out.freeze()
    }

    /// The reverse.
    ///
    /// # Errors
    /// Other bytes.
    pub fn decode(bytes: Bytes) -> Result<Self, DecodeError> {
        let mut reader = Reader::open(bytes, "snapshot progress")?;
        let vote = read_vote(&mut reader)?;
        let next = reader.u64()?;
        reader.end()?;
        Ok(SnapshotProgress { vote, next })
    }
}
