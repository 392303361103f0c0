//! Append, vote, pre-vote and transfer of leadership, with what Kvorum sends along.
//!
//! An append carries, besides openraft's request, what a follower needs to say how stale it may be (rule R2) and how
//! much of its log the leader still counts on; its reply carries what the leader sends back next time.

use super::{
    DecodeError, Reader, begin, put_bytes, put_option,
    raft::{decode_entry, encode_entry, put_log_id, put_vote, read_log_id, read_vote},
};
use crate::cp::types::{LogId, Types, Vote};
use bytes::{BufMut, Bytes, BytesMut};
use kvorum_storage::journal::LogRecord;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use openraft::raft::{TransferLeaderError, TransferLeaderRequest};
use std::time::Duration;

/// A moment on one replica's own monotonic clock, which only that replica can read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moment {
    /// Which life of the replica: moments of another one mean nothing.
    pub life: u64,
    /// Microseconds since that life began.
    pub at_us: u64,
}

/// What a leader sends along with an append.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppendNotes {
    /// How long ago a majority last acknowledged this leader; `None` until an entry of its own term is committed.
    pub quorum_age: Option<Duration>,
    /// The newest moment this follower sent: the append was sent after it.
    pub echo: Option<Moment>,
    /// Entries from this index on are still wanted by somebody; 0 = all of them.
    pub keep_from: u64,
}

/// What a follower sends along with its reply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplyNotes {
    /// Its clock when it replied.
    pub now: Moment,
    /// Whether it would stand for election.
    pub is_electable: bool,
}

fn put_moment(out: &mut BytesMut, moment: &Moment) {
    out.put_u64(moment.life);
    out.put_u64(moment.at_us);
}

fn read_moment(reader: &mut Reader) -> Result<Moment, DecodeError> {
    Ok(Moment { life: reader.u64()?, at_us: reader.u64()? })
}

/// An append and its notes.
#[must_use]
pub fn encode_append(request: &AppendEntriesRequest<Types>, notes: &AppendNotes) -> Bytes {
    let records: Vec<LogRecord> = request.entries.iter().map(encode_entry).collect();
    let bytes: usize = records.iter().map(|record| 20 + record.payload.len()).sum();
    let mut out = begin(128 + bytes);
    put_vote(&mut out, &request.vote);
    put_option(&mut out, request.prev_log_id.as_ref(), put_log_id);
    put_option(&mut out, request.leader_commit.as_ref(), put_log_id);
    put_option(&mut out, notes.quorum_age.as_ref(), |out, age| out.put_u64(age.as_micros() as u64));
    put_option(&mut out, notes.echo.as_ref(), put_moment);
    out.put_u64(notes.keep_from);
    out.put_u32(records.len() as u32);
    for record in &records {
        out.put_u64(record.index);
        out.put_u64(record.term);
        put_bytes(&mut out, &record.payload);
    }
    out.freeze()
}

/// The reverse of [`encode_append`]. Entries must follow each other, because openraft trusts that they do.
///
/// # Errors
/// Other bytes.
pub fn decode_append(bytes: Bytes) -> Result<(AppendEntriesRequest<Types>, AppendNotes), DecodeError> {
    let mut reader = Reader::open(bytes, "append")?;
    let vote = read_vote(&mut reader)?;
    let prev_log_id = reader.option(read_log_id)?;
    let leader_commit = reader.option(read_log_id)?;
    let quorum_age = reader.option(Reader::u64)?.map(Duration::from_micros);
    let echo = reader.option(read_moment)?;
    let keep_from = reader.u64()?;
    let mut next = prev_log_id.as_ref().map_or(Some(0), |log_id: &LogId| log_id.index.checked_add(1));
    let mut term_min = prev_log_id.as_ref().map_or(0, |log_id| log_id.leader_id.term);
    let count = reader.count(20)?;
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let index = reader.u64()?;
        let term = reader.u64()?;
        if Some(index) != next || term < term_min || term > vote.leader_id.term {
            return Err(reader.invalid(format!("entry {term}.{index} does not follow")));
        }
        next = index.checked_add(1);
        term_min = term;
        entries.push(decode_entry(LogRecord { index, term, payload: reader.bytes()? })?);
    }
    reader.end()?;
    let request = AppendEntriesRequest { vote, prev_log_id, entries, leader_commit };
    Ok((request, AppendNotes { quorum_age, echo, keep_from }))
}

const APPEND_SUCCESS: u8 = 1;
const APPEND_PARTIAL: u8 = 2;
const APPEND_CONFLICT: u8 = 3;
const APPEND_HIGHER_VOTE: u8 = 4;

/// The reply to an append and its notes.
#[must_use]
pub fn encode_append_reply(reply: &AppendEntriesResponse<Types>, notes: &ReplyNotes) -> Bytes {
    let mut out = begin(64);
    put_moment(&mut out, &notes.now);
    out.put_u8(u8::from(notes.is_electable));
    match reply {
        AppendEntriesResponse::Success => out.put_u8(APPEND_SUCCESS),
        AppendEntriesResponse::PartialSuccess(log_id) => {
            out.put_u8(APPEND_PARTIAL);
            put_option(&mut out, log_id.as_ref(), put_log_id);
        }
        AppendEntriesResponse::Conflict => out.put_u8(APPEND_CONFLICT),
        AppendEntriesResponse::HigherVote(vote) => {
            out.put_u8(APPEND_HIGHER_VOTE);
            put_vote(&mut out, vote);
        }
    }
    out.freeze()
}

/// The reverse of [`encode_append_reply`].
///
/// # Errors
/// Other bytes.
pub fn decode_append_reply(bytes: Bytes) -> Result<(AppendEntriesResponse<Types>, ReplyNotes), DecodeError> {
    let mut reader = Reader::open(bytes, "append reply")?;
    let notes = ReplyNotes { now: read_moment(&mut reader)?, is_electable: reader.bool()? };
    let reply = match reader.u8()? {
        APPEND_SUCCESS => AppendEntriesResponse::Success,
        APPEND_PARTIAL => AppendEntriesResponse::PartialSuccess(reader.option(read_log_id)?),
        APPEND_CONFLICT => AppendEntriesResponse::Conflict,
        APPEND_HIGHER_VOTE => AppendEntriesResponse::HigherVote(read_vote(&mut reader)?),
        found => return Err(reader.unknown(found)),
    };
    reader.end()?;
    Ok((reply, notes))
}

/// A request for a vote, or for a pre-vote: the kind of the message tells them apart.
#[must_use]
pub fn encode_vote_request(request: &VoteRequest<Types>) -> Bytes {
    let mut out = begin(40);
    put_vote(&mut out, &request.vote);
    put_option(&mut out, request.last_log_id.as_ref(), put_log_id);
    out.put_u8(u8::from(request.leadership_transfer));
    out.freeze()
}

/// The reverse of [`encode_vote_request`].
///
/// # Errors
/// Other bytes.
pub fn decode_vote_request(bytes: Bytes) -> Result<VoteRequest<Types>, DecodeError> {
    let mut reader = Reader::open(bytes, "vote request")?;
    let vote = read_vote(&mut reader)?;
    let last_log_id = reader.option(read_log_id)?;
    let leadership_transfer = reader.bool()?;
    reader.end()?;
    Ok(VoteRequest { vote, last_log_id, leadership_transfer })
}

/// The reply to a request for a vote or a pre-vote.
#[must_use]
pub fn encode_vote_reply(reply: &VoteResponse<Types>) -> Bytes {
    let mut out = begin(40);
    put_vote(&mut out, &reply.vote);
    out.put_u8(u8::from(reply.vote_granted));
    put_option(&mut out, reply.last_log_id.as_ref(), put_log_id);
    out.freeze()
}

/// The reverse of [`encode_vote_reply`].
///
/// # Errors
/// Other bytes.
pub fn decode_vote_reply(bytes: Bytes) -> Result<VoteResponse<Types>, DecodeError> {
    let mut reader = Reader::open(bytes, "vote reply")?;
    let vote = read_vote(&mut reader)?;
    let vote_granted = reader.bool()?;
    let last_log_id = reader.option(read_log_id)?;
    reader.end()?;
    Ok(VoteResponse { vote, vote_granted, last_log_id })
}

/// A leader asks this replica to take over.
#[must_use]
pub fn encode_transfer(request: &TransferLeaderRequest<Types>) -> Bytes {
    let mut out = begin(48);
    put_vote(&mut out, request.from_leader());
    out.put_u64(*request.to_node_id());
    put_option(&mut out, request.last_log_id(), put_log_id);
    out.freeze()
}

/// The reverse of [`encode_transfer`].
///
/// # Errors
/// Other bytes.
pub fn decode_transfer(bytes: Bytes) -> Result<TransferLeaderRequest<Types>, DecodeError> {
    let mut reader = Reader::open(bytes, "transfer of leadership")?;
    let from = read_vote(&mut reader)?;
    let to = reader.u64()?;
    let last_log_id = reader.option(read_log_id)?;
    reader.end()?;
    Ok(TransferLeaderRequest::new(from, to, last_log_id))
}

/// What became of a transfer.
#[must_use]
pub fn encode_transfer_reply(reply: &Result<(), TransferLeaderError<Types>>) -> Bytes {
    let mut out = begin(64);
    match reply {
        Ok(()) => out.put_u8(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            out.put_u8(1);
            put_vote(&mut out, expected);
            put_vote(&mut out, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            out.put_u8(2);
            put_option(&mut out, expected.as_ref(), put_log_id);
            put_option(&mut out, actual.as_ref(), put_log_id);
        }
    }
    out.freeze()
}

/// The reverse of [`encode_transfer_reply`].
///
/// # Errors
/// Other bytes.
pub fn decode_transfer_reply(bytes: Bytes) -> Result<Result<(), TransferLeaderError<Types>>, DecodeError> {
    let mut reader = Reader::open(bytes, "reply to a transfer of leadership")?;
    let reply = match reader.u8()? {
        0 => Ok(()),
        1 => {
            let expected: Vote = read_vote(&mut reader)?;
            Err(TransferLeaderError::VoteChanged { expected, actual: read_vote(&mut reader)? })
        }
        2 => {
            let expected = reader.option(read_log_id)?;
            Err(TransferLeaderError::LogNotFlushed { expected, actual: reader.option(read_log_id)? })
        }
        found => return Err(reader.unknown(found)),
    };
    reader.end()?;
    Ok(reply)
}
