//! What a server answers, as answers become ready.
//!
//! ```text
//!   answer     id (8) │ kind (1) │ …
//!   found      1 … receipt │ 0 or 1 entry
//!   written    2 … receipt │ flags (1) │ count (4) │ results
//!   failed     3 … gRPC code (1) │ reason │ message │ count (4) │ name value …
//!   receipt    flags (1) │ keyspace (4) │ mode (1) │ level (1 or 5) │ shard (8) │ epoch (8) │ incarnation (4)
//!              │ term (8) │ index (8) │ durable replicas (4) │ version (24)? │ staleness ms (8)?
//!   entry      flags (1) │ version (24) │ value │ expires ms (8)?
//!   result     status (1) │ flags (1) │ previous entry? │ previous version (24)? │ number (8)? │ version (24)?
//! ```
//!
//! Keys do not travel back: the call that is answered names them. Node and stamp of every receipt are the frame's.

use super::{
    FrameUnreadable,
    read::{Read, Reader},
    unreadable,
    write::{Writer, flags},
};
use crate::{
    ids::{KeyspaceId, NodeId, ShardId},
    level::Mode,
    receipt::Receipt,
    token::SessionToken,
    version::{LogPosition, Stamp, Version},
};
use bytes::Bytes;
use std::{collections::BTreeMap, time::Duration};

const ANSWER_BYTES_MIN: usize = 8 + 1 + 1 + 4 + 4 + 4;
const RESULT_BYTES_MIN: usize = 1 + 1;
const PAIR_BYTES_MIN: usize = 4 + 4;

/// One frame of answers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// Who answers.
    pub node: NodeId,
    /// Its clock, to be handed on with the next request.
    pub stamp: Stamp,
    /// In any order.
    pub answers: Vec<Answer>,
}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of the call it answers.
    pub id: u64,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Of a get.
    Found {
        /// What is guaranteed.
        delivered: Delivered,
        /// The entry, if there is one.
        entry: Option<Entry>,
    },
    /// Of a write.
    Written {
        /// What is guaranteed.
        delivered: Delivered,
        /// False: a condition did not hold or a value was not a number; nothing happened.
        applied: bool,
        /// This request id had been applied before; this is its first outcome.
        repeated: bool,
        /// One per operation, in order.
        results: Vec<OperationResult>,
    },
    /// Not answered.
    Failed(Failure),
}

/// What an answer guarantees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivered {
    /// The keyspace, by number: a token says it.
    pub keyspace: KeyspaceId,
    /// Everything else. Its node and stamp travel once, as those of the frame.
    pub receipt: Receipt,
}

/// What is stored under a key the asker named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its value.
    pub value: Bytes,
    /// Who won.
    pub version: Version,
    /// Unix milliseconds of the shard's logged time; a minimum.
    pub expires_ms: Option<u64>,
}

/// What came of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationResult {
    /// Whether it happened.
    pub status: OperationStatus,
    /// What was there before.
    pub previous: Previous,
    /// Increments: the new value.
    pub number: Option<i64>,
    /// Of what was written.
    pub version: Option<Version>,
}

/// Whether an operation happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationStatus {
    /// It did.
    Applied,
    /// Its condition did not hold; `previous` is what is there.
    ConditionFailed,
    /// The value is no decimal 64-bit number.
    NotANumber,
    /// The number would leave 64 bits.
    Overflow,
    /// Another operation of the batch failed.
    Skipped,
}

/// What was there before an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Previous {
    /// Nothing, or nobody asked.
    None,
    /// This.
    Found(Entry),
    /// Something of this version; its value was too large to remember for a repeated request.
    Forgotten(Version),
}

/// What a `google.rpc.ErrorInfo` of a unary call says, in the same words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The gRPC code.
    pub code: u8,
    /// Which error.
    pub reason: String,
    /// One sentence for people.
    pub message: String,
    /// `effect`, `retry` and whatever else applies.
    pub metadata: BTreeMap<String, String>,
}

impl Delivered {
    /// What a session has seen with this answer.
    #[must_use]
    pub fn session_token(&self) -> SessionToken {
        SessionToken::of(self.keyspace, &self.receipt)
    }

    fn write(&self, writer: &mut Writer) {
        let receipt = &self.receipt;
        writer.u8(flags([receipt.version.is_some(), receipt.staleness.is_some()]));
        writer.u32(self.keyspace.0);
        writer.u8(match receipt.mode {
            Mode::Cp => 1,
            Mode::Ap => 2,
        });
        writer.level(receipt.level);
        writer.u64(receipt.shard.0);
        writer.u64(receipt.epoch);
        writer.u32(receipt.incarnation);
        writer.u64(receipt.position.term);
        writer.u64(receipt.position.index);
        writer.u32(receipt.durable_replicas);
        receipt.version.iter().for_each(|version| writer.version(*version));
        receipt.staleness.iter().for_each(|staleness| writer.u64(whole_ms(*staleness)));
    }

    fn read(reader: &mut Reader, node: NodeId, stamp: Stamp) -> Read<Self> {
        let flags = reader.flags(3)?;
        let keyspace = KeyspaceId(reader.u32()?);
        let mode = match reader.u8()? {
            1 => Mode::Cp,
            2 => Mode::Ap,
            other => return unreadable(format!("unknown mode {other}")),
        };
        let receipt = Receipt {
            mode,
            level: reader.level()?,
            shard: ShardId(reader.u64()?),
            epoch: reader.u64()?,
            incarnation: reader.u32()?,
            position: LogPosition { term: reader.u64()?, index: reader.u64()? },
            durable_replicas: reader.u32()?,
            version: if flags & 1 != 0 { Some(reader.version()?) } else { None },
            staleness: if flags & 2 != 0 { Some(Duration::from_millis(reader.u64()?)) } else { None },
            node,
            stamp,
        };
        Ok(Delivered { keyspace, receipt })
    }
}

/// Rounded up: what is answered is no older than this.
fn whole_ms(staleness: Duration) -> u64 {
    u64::try_from(staleness.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

impl Reply {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(1 + 8 + 8 + 4 + self.answers.iter().map(Answer::size).sum::<usize>());
        writer.u64(self.node.0);
        writer.u64(self.stamp.0);
        writer.count(self.answers.len());
        self.answers.iter().for_each(|answer| answer.write(&mut writer));
        writer.finish()
    }

    /// The reverse of [`Reply::encode`].
    ///
    /// # Errors
    /// Other bytes.
    pub fn decode(frame: Bytes) -> Result<Self, FrameUnreadable> {
        let mut reader = Reader::new(frame)?;
        let (node, stamp) = (NodeId(reader.u64()?), Stamp(reader.u64()?));
        let answers = reader.items(ANSWER_BYTES_MIN, |reader| Answer::read(reader, node, stamp))?;
        reader.finish()?;
        Ok(Reply { node, stamp, answers })
    }
}

impl Answer {
    /// Bytes of its encoding, at most.
    #[must_use]
    pub fn size(&self) -> usize {
        const RECEIPT_BYTES_MAX: usize = 1 + 4 + 1 + 5 + 8 + 8 + 4 + 16 + 4 + 24 + 8;
        9 + match &self.outcome {
            Outcome::Found { entry, .. } => RECEIPT_BYTES_MAX + 1 + entry.as_ref().map_or(0, Entry::size),
            Outcome::Written { results, .. } => {
                RECEIPT_BYTES_MAX + 5 + results.iter().map(OperationResult::size).sum::<usize>()
            }
            Outcome::Failed(failure) => {
                let pairs = failure.metadata.iter().map(|(name, value)| PAIR_BYTES_MIN + name.len() + value.len());
                13 + failure.reason.len() + failure.message.len() + pairs.sum::<usize>()
            }
        }
    }

    fn write(&self, writer: &mut Writer) {
        writer.u64(self.id);
        match &self.outcome {
            Outcome::Found { delivered, entry } => {
                writer.u8(1);
                delivered.write(writer);
                writer.u8(flags([entry.is_some()]));
                entry.iter().for_each(|entry| entry.write(writer));
            }
            Outcome::Written { delivered, applied, repeated, results } => {
                writer.u8(2);
                delivered.write(writer);
                writer.u8(flags([*applied, *repeated]));
                writer.count(results.len());
                results.iter().for_each(|result| result.write(writer));
            }
            Outcome::Failed(failure) => {
                writer.u8(3);
                failure.write(writer);
            }
        }
    }

    fn read(reader: &mut Reader, node: NodeId, stamp: Stamp) -> Read<Self> {
        let id = reader.u64()?;
        let outcome = match reader.u8()? {
            1 => {
                let delivered = Delivered::read(reader, node, stamp)?;
                let entry = if reader.flags(1)? != 0 { Some(Entry::read(reader)?) } else { None };
                Outcome::Found { delivered, entry }
            }
            2 => {
                let delivered = Delivered::read(reader, node, stamp)?;
                let flags = reader.flags(3)?;
                let results = reader.items(RESULT_BYTES_MIN, OperationResult::read)?;
                Outcome::Written { delivered, applied: flags & 1 != 0, repeated: flags & 2 != 0, results }
            }
            3 => Outcome::Failed(Failure::read(reader)?),
            other => return unreadable(format!("unknown kind of answer {other}")),
        };
        Ok(Answer { id, outcome })
    }
}

impl Failure {
    fn write(&self, writer: &mut Writer) {
        writer.u8(self.code);
        writer.bytes(self.reason.as_bytes());
        writer.bytes(self.message.as_bytes());
        writer.count(self.metadata.len());
        for (name, value) in &self.metadata {
            writer.bytes(name.as_bytes());
            writer.bytes(value.as_bytes());
        }
    }

    fn read(reader: &mut Reader) -> Read<Self> {
        Ok(Failure {
            code: reader.u8()?,
            reason: reader.text()?,
            message: reader.text()?,
            metadata: reader
                .items(PAIR_BYTES_MIN, |reader| Ok((reader.text()?, reader.text()?)))?
                .into_iter()
                .collect(),
        })
    }
}

impl Entry {
    fn size(&self) -> usize {
        1 + Version::BYTES + 4 + self.value.len() + 8
    }

    fn write(&self, writer: &mut Writer) {
        writer.u8(flags([self.expires_ms.is_some()]));
        writer.version(self.version);
        writer.bytes(&self.value);
        self.expires_ms.iter().for_each(|expires_ms| writer.u64(*expires_ms));
    }

    fn read(reader: &mut Reader) -> Read<Self> {
        let flags = reader.flags(1)?;
        let (version, value) = (reader.version()?, reader.bytes()?);
        Ok(Entry { value, version, expires_ms: if flags != 0 { Some(reader.u64()?) } else { None } })
    }
}

impl OperationResult {
    fn size(&self) -> usize {
        let previous = match &self.previous {
            Previous::None => 0,
            Previous::Found(entry) => entry.size(),
            Previous::Forgotten(_) => Version::BYTES,
        };
        RESULT_BYTES_MIN + previous + 8 + Version::BYTES
    }

    fn write(&self, writer: &mut Writer) {
        writer.u8(match self.status {
            OperationStatus::Applied => 0,
            OperationStatus::ConditionFailed => 1,
            OperationStatus::NotANumber => 2,
            OperationStatus::Overflow => 3,
            OperationStatus::Skipped => 4,
        });
        let is_found = matches!(self.previous, Previous::Found(_));
        let is_forgotten = matches!(self.previous, Previous::Forgotten(_));
        writer.u8(flags([is_found, is_forgotten, self.number.is_some(), self.version.is_some()]));
        match &self.previous {
            Previous::None => {}
            Previous::Found(entry) => entry.write(writer),
            Previous::Forgotten(version) => writer.version(*version),
        }
        self.number.iter().for_each(|number| writer.i64(*number));
        self.version.iter().for_each(|version| writer.version(*version));
    }

    fn read(reader: &mut Reader) -> Read<Self> {
        let status = match reader.u8()? {
            0 => OperationStatus::Applied,
            1 => OperationStatus::ConditionFailed,
            2 => OperationStatus::NotANumber,
            3 => OperationStatus::Overflow,
            4 => OperationStatus::Skipped,
            other => return unreadable(format!("unknown status {other}")),
        };
        let flags = reader.flags(15)?;
        Ok(OperationResult {
            status,
            previous: match flags & 3 {
                0 => Previous::None,
                1 => Previous::Found(Entry::read(reader)?),
                2 => Previous::Forgotten(reader.version()?),
                _ => return unreadable("a previous entry is both found and forgotten"),
            },
            number: if flags & 4 != 0 { Some(reader.i64()?) } else { None },
            version: if flags & 8 != 0 { Some(reader.version()?) } else { None },
        })
    }
}
