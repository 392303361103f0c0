//! Replies: what came back, with the receipt that says what it guarantees.

use crate::{error::ClientError, failure::Failure, map::level_of, request_id::RequestId};
use bytes::Bytes;
use kvorum_api::{
    Actor, Effect, KeyspaceId, LogPosition, Mode, NodeId, ReadLevel, Receipt, SessionToken, ShardId, Stamp, StartCount,
    Version, frame, proto,
};
use std::time::Duration;

/// What is stored under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Its version.
    pub version: Version,
    /// When it goes, in Unix milliseconds of the shard's logged time; a minimum.
    pub expires_ms: Option<u64>,
}

/// Answer to a get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GetReply {
    /// `None`: the key is absent, as of the receipt.
    pub entry: Option<Entry>,
    /// What the answer guarantees.
    pub receipt: Receipt,
}

/// Answer to a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// What the acknowledgement guarantees.
    pub receipt: Receipt,
    /// The id it was sent under; `None` only if the caller asked for none.
    pub request_id: Option<RequestId>,
    /// This id had been applied before; this is its first outcome.
    pub repeated: bool,
    /// One result per operation, in order.
    pub results: Vec<OperationResult>,
}

impl Written {
    /// The version written by the first operation.
    #[must_use]
    pub fn version(&self) -> Option<Version> {
        self.results.first().and_then(|result| result.version)
    }

    /// What the first operation replaced, if that was asked for and there was something.
    #[must_use]
    pub fn previous(&self) -> Option<&Entry> {
        self.results.first().and_then(|result| result.previous.as_ref())
    }
}

/// Answer to an increment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incremented {
    /// The new value.
    pub number: i64,
    /// The rest of the answer.
    pub written: Written,
}

/// What one operation of a write did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationResult {
    /// Whether it happened, and if not, why.
    pub status: OperationStatus,
    /// What was there before: on request, and when a condition failed.
    pub previous: Option<Entry>,
    /// Increments: the new value.
    pub number: Option<i64>,
    /// The version of what was written.
    pub version: Option<Version>,
    /// A repeated request whose previous value was too large to remember.
    pub previous_forgotten: bool,
}

/// Whether an operation happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OperationStatus {
    /// It did.
    Applied,
    /// Its condition did not hold.
    ConditionFailed,
    /// An increment of something that is not a decimal 64-bit signed integer.
    NotANumber,
    /// An increment beyond 64 bits.
    Overflow,
    /// Another operation of the same batch stood in the way.
    Skipped,
}

pub(crate) fn entry_from(entry: proto::Entry) -> Entry {
    Entry { key: entry.key, value: entry.value, version: version_from(entry.version), expires_ms: entry.expires_ms }
}

fn version_from(version: Option<proto::Version>) -> Version {
    let version = version.unwrap_or_default();
    Version {
        stamp: Stamp(version.stamp),
        actor: Actor { node: NodeId(version.node), start: StartCount(version.start) },
    }
}

/// What any answer guarantees, and the number of its keyspace, where it says one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Delivered {
    pub(crate) receipt: Receipt,
    pub(crate) keyspace: Option<KeyspaceId>,
}

impl From<frame::Delivered> for Delivered {
    fn from(delivered: frame::Delivered) -> Self {
        Delivered { receipt: delivered.receipt, keyspace: Some(delivered.keyspace) }
    }
}

/// An answer to something else than what was asked. Whether a write happened, it does not say.
pub(crate) fn mismatched(node: &str) -> Failure {
    let text = "the reply answers something else: client and server do not match".to_owned();
    Failure { effect: Effect::Unknown, ..Failure::not_sent("REPLY_UNREADABLE", text, Some(node)) }
}

/// As [`receipt_from`], with the keyspace its token names.
pub(crate) fn delivered_from(receipt: Option<proto::Receipt>, node: &str) -> Result<Delivered, Failure> {
    let token = receipt.as_ref().and_then(|receipt| SessionToken::decode(&receipt.session_token).ok());
    Ok(Delivered { receipt: receipt_from(receipt, node)?, keyspace: token.map(|token| token.keyspace) })
}

/// Reads a receipt. A reply without one is not an answer: it guarantees nothing.
pub(crate) fn receipt_from(receipt: Option<proto::Receipt>, node: &str) -> Result<Receipt, Failure> {
    let unreadable = |what: &str| Failure {
        effect: Effect::Unknown,
        ..Failure::not_sent("REPLY_UNREADABLE", format!("the reply {what}: client and server do not match"), Some(node))
    };
    let receipt = receipt.ok_or_else(|| unreadable("has no receipt"))?;
    let mode = mode_from(&receipt.mode).ok_or_else(|| unreadable("names a mode this client does not know"))?;
    let position = receipt.position.unwrap_or_default();
    Ok(Receipt {
        mode,
        level: level_of(&receipt.level),
        shard: ShardId(receipt.shard),
        epoch: receipt.epoch,
        incarnation: receipt.incarnation,
        node: NodeId(receipt.node),
        version: receipt.version.map(|version| version_from(Some(version))),
        position: LogPosition { term: position.term, index: position.index },
        staleness: receipt.staleness_ms.map(Duration::from_millis),
        durable_replicas: receipt.durable_replicas,
        stamp: Stamp(receipt.stamp),
    })
}

/// A write's answer, before it is told to the caller.
#[derive(Clone, Debug)]
pub(crate) struct WriteAnswer {
    pub(crate) delivered: Delivered,
    pub(crate) applied: bool,
    pub(crate) repeated: bool,
    pub(crate) results: Vec<OperationResult>,
}

pub(crate) fn written_from(reply: proto::WriteReply, node: &str) -> Result<WriteAnswer, Failure> {
    let delivered = delivered_from(reply.receipt, node)?;
    let results = reply.results.into_iter().map(result_from).collect();
    Ok(WriteAnswer { delivered, applied: reply.applied, repeated: reply.repeated_request, results })
}

fn result_from(result: proto::OperationResult) -> OperationResult {
    use proto::operation_result::Status;
    let status = match result.status() {
        Status::Applied => OperationStatus::Applied,
        Status::ConditionFailed => OperationStatus::ConditionFailed,
        Status::NotANumber => OperationStatus::NotANumber,
        Status::Overflow => OperationStatus::Overflow,
        Status::Skipped => OperationStatus::Skipped,
    };
    OperationResult {
        status,
        previous: result.previous.map(entry_from),
        number: result.number,
        version: result.version.map(|version| version_from(Some(version))),
        previous_forgotten: result.previous_forgotten,
    }
}

/// An increment's answer is a number, or it is not an answer.
pub(crate) fn incremented_from(written: Written) -> Result<Incremented, ClientError> {
    let Some(number) = written.results.first().and_then(|result| result.number) else {
        let text = "the increment was acknowledged without its number: client and server do not match".to_owned();
        return Err(Failure { effect: Effect::Unknown, ..Failure::not_sent("REPLY_UNREADABLE", text, None) }.into());
    };
    Ok(Incremented { number, written })
}

fn mode_from(word: &str) -> Option<Mode> {
    [Mode::Cp, Mode::Ap].into_iter().find(|mode| mode.as_str() == word)
}

/// The level on the wire.
pub(crate) fn level_to_proto(level: Option<ReadLevel>) -> proto::ReadLevel {
    use proto::read_level::Kind;
    let (kind, staleness_ms_max) = match level {
        None => (Kind::Default, 0),
        Some(ReadLevel::Linearizable) => (Kind::Linearizable, 0),
        Some(ReadLevel::Session) => (Kind::Session, 0),
        Some(ReadLevel::Bounded(bound)) => (Kind::Bounded, u32::try_from(bound.as_millis()).unwrap_or(u32::MAX)),
        Some(ReadLevel::Local) => (Kind::Local, 0),
        Some(ReadLevel::One) => (Kind::One, 0),
        Some(ReadLevel::Quorum) => (Kind::Quorum, 0),
        Some(ReadLevel::All) => (Kind::All, 0),
    };
    proto::ReadLevel { kind: kind.into(), staleness_ms_max }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_read_as_it_is_written() {
        let levels = [
            ReadLevel::Linearizable,
            ReadLevel::Session,
            ReadLevel::Bounded(Duration::from_millis(250)),
            ReadLevel::Local,
            ReadLevel::One,
            ReadLevel::Quorum,
            ReadLevel::All,
        ];
        for level in levels {
            assert_eq!(level_of(&level.to_string()), Some(level));
        }
        assert_eq!(level_of(""), None);
        assert_eq!(level_of("bounded(xms)"), None);
    }

    #[test]
    fn a_reply_without_a_receipt_is_no_answer() {
        let failure = receipt_from(None, "n1").unwrap_err();
        assert_eq!(failure.effect, Effect::Unknown);
    }

    #[test]
    fn a_staleness_that_is_absent_is_unknown_and_never_fresh() {
        let receipt = proto::Receipt { mode: "cp".to_owned(), ..Default::default() };
        assert_eq!(receipt_from(Some(receipt.clone()), "n1").unwrap().staleness, None);
        let measured = proto::Receipt { staleness_ms: Some(0), ..receipt };
        assert_eq!(receipt_from(Some(measured), "n1").unwrap().staleness, Some(Duration::ZERO));
    }
}
