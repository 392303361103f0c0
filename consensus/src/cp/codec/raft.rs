//! Log ids, votes, memberships and entries.

use super::{DecodeError, Reader, begin, put_option};
use crate::cp::types::{Encoded, Entry, LogId, Member, Membership, Payload, StoredMembership, Vote};
use bytes::{BufMut, Bytes, BytesMut};
use kvorum_api::NodeId;
use kvorum_storage::{StorageError, codec, command::Proposal, journal::LogRecord};
use openraft::EntryPayload;
use std::collections::{BTreeMap, BTreeSet};

/// Entries that are no proposal open with a number from here on; a proposal opens with its own format, below.
const OWN_KINDS: u8 = 0x80;
const BLANK: u8 = 0x81;
const MEMBERSHIP: u8 = 0x82;

pub(super) fn put_log_id(out: &mut BytesMut, log_id: &LogId) {
    out.put_u64(log_id.leader_id.term);
    out.put_u64(log_id.index);
}

pub(super) fn read_log_id(reader: &mut Reader) -> Result<LogId, DecodeError> {
    let term = reader.u64()?;
    Ok(LogId::new_term_index(term, reader.u64()?))
}

pub(super) fn put_vote(out: &mut BytesMut, vote: &Vote) {
    out.put_u64(vote.leader_id.term);
    out.put_u64(vote.leader_id.voted_for);
    out.put_u8(u8::from(vote.committed));
}

pub(super) fn read_vote(reader: &mut Reader) -> Result<Vote, DecodeError> {
    let term = reader.u64()?;
    let voted_for = reader.u64()?;
    Ok(if reader.bool()? { Vote::new_committed(term, voted_for) } else { Vote::new(term, voted_for) })
}

/// A log id on its own, for a mark in the journal.
#[must_use]
pub fn encode_log_id(log_id: &LogId) -> Bytes {
    let mut out = begin(16);
    put_log_id(&mut out, log_id);
    out.freeze()
}

/// The reverse of [`encode_log_id`].
///
/// # Errors
/// Other bytes.
pub fn decode_log_id(bytes: Bytes) -> Result<LogId, DecodeError> {
    let mut reader = Reader::open(bytes, "log id")?;
    let log_id = read_log_id(&mut reader)?;
    reader.end()?;
    Ok(log_id)
}

/// A vote on its own, for a mark in the journal.
#[must_use]
pub fn encode_vote(vote: &Vote) -> Bytes {
    let mut out = begin(17);
    put_vote(&mut out, vote);
    out.freeze()
}

/// The reverse of [`encode_vote`].
///
/// # Errors
/// Other bytes.
pub fn decode_vote(bytes: Bytes) -> Result<Vote, DecodeError> {
    let mut reader = Reader::open(bytes, "vote")?;
    let vote = read_vote(&mut reader)?;
    reader.end()?;
    Ok(vote)
}

fn put_membership(out: &mut BytesMut, membership: &Membership) {
    let configs = membership.get_joint_config();
    out.put_u32(configs.len() as u32);
    for voters in configs {
        out.put_u32(voters.len() as u32);
        voters.iter().for_each(|voter| out.put_u64(*voter));
    }
    let members: Vec<_> = membership.nodes().collect();
    out.put_u32(members.len() as u32);
    for (replica, member) in members {
        out.put_u64(*replica);
        out.put_u64(member.node.0);
    }
}

fn read_membership(reader: &mut Reader) -> Result<Membership, DecodeError> {
    let mut configs = Vec::new();
    for _ in 0..reader.count(4)? {
        let mut voters = BTreeSet::new();
        for _ in 0..reader.count(8)? {
            voters.insert(reader.u64()?);
        }
        configs.push(voters);
    }
    let mut members = BTreeMap::new();
    for _ in 0..reader.count(16)? {
        let replica = reader.u64()?;
        members.insert(replica, Member { node: NodeId(reader.u64()?) });
    }
    // Only the membership of a group that has none yet is empty, and openraft refuses to build that one.
    if configs.is_empty() && members.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configs, members).map_err(|why| reader.invalid(why))
}

pub(super) fn put_stored_membership(out: &mut BytesMut, stored: &StoredMembership) {
    put_option(out, stored.log_id().as_ref(), put_log_id);
    put_membership(out, stored.membership());
}

pub(super) fn read_stored_membership(reader: &mut Reader) -> Result<StoredMembership, DecodeError> {
    let log_id = reader.option(read_log_id)?;
    Ok(StoredMembership::new(log_id, read_membership(reader)?))
}

/// A membership and the entry that said so, as a shard keeps it with its position.
#[must_use]
pub fn encode_stored_membership(stored: &StoredMembership) -> Bytes {
    let mut out = begin(64);
    put_stored_membership(&mut out, stored);
    out.freeze()
}

/// The reverse of [`encode_stored_membership`]; no bytes at all are a group that has no membership yet.
///
/// # Errors
/// Other bytes.
pub fn decode_stored_membership(bytes: Bytes) -> Result<StoredMembership, DecodeError> {
    if bytes.is_empty() {
        return Ok(StoredMembership::default());
    }
    let mut reader = Reader::open(bytes, "membership")?;
    let stored = read_stored_membership(&mut reader)?;
    reader.end()?;
    Ok(stored)
}

/// A proposal, encoded once: its bytes are the whole payload of its log record.
#[must_use]
pub fn encode_proposal(proposal: &Proposal) -> Encoded {
    let bytes = codec::encode_proposal(proposal);
    assert!(
        bytes.first().is_some_and(|format| *format < OWN_KINDS),
        "proposal formats stay below the kinds of entries"
    );
    Encoded { bytes, trace: Bytes::new() }
}

/// The reverse of [`encode_proposal`], sharing the keys and values with the log record.
///
/// # Errors
/// Bytes that are no proposal, or one of a format this build does not know.
pub fn decode_proposal(encoded: &Encoded) -> Result<Proposal, StorageError> {
    codec::decode_proposal(encoded.bytes.clone())
}

/// The log record of an entry.
#[must_use]
pub fn encode_entry(entry: &Entry) -> LogRecord {
    let payload = match &entry.payload {
        EntryPayload::Blank => Bytes::from_static(&[BLANK]),
        EntryPayload::Normal(encoded) => encoded.bytes.clone(),
        EntryPayload::Membership(membership) => {
            let mut out = BytesMut::with_capacity(64);
            out.put_u8(MEMBERSHIP);
            put_membership(&mut out, membership);
            out.freeze()
        }
    };
    LogRecord { index: entry.log_id.index, term: entry.log_id.leader_id.term, payload }
}

/// The reverse of [`encode_entry`]. What is inside a proposal is looked at when it is applied.
///
/// # Errors
/// Bytes that are no entry.
pub fn decode_entry(record: LogRecord) -> Result<Entry, DecodeError> {
    let log_id = LogId::new_term_index(record.term, record.index);
    let payload: Payload = match record.payload.first() {
        None => return Err(DecodeError::Short { what: "log entry" }),
        Some(format) if *format < OWN_KINDS => {
            EntryPayload::Normal(Encoded { bytes: record.payload, trace: Bytes::new() })
        }
        Some(&BLANK) => {
            Reader::after_kind(record.payload, "blank entry").end()?;
            EntryPayload::Blank
        }
        Some(&MEMBERSHIP) => {
            let mut reader = Reader::after_kind(record.payload, "membership entry");
            let membership = read_membership(&mut reader)?;
            reader.end()?;
            EntryPayload::Membership(membership)
        }
        Some(found) => return Err(DecodeError::Unknown { what: "log entry", found: u64::from(*found) }),
    };
    Ok(Entry { log_id, payload })
}
