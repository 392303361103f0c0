//! Round trips, fixtures of format 1, and bytes of all kinds.

use super::{message::*, raft::*, transfer::*};
use crate::cp::types::{Entry, LogId, Member, Membership, Payload, SnapshotMeta, StoredMembership, Types, Vote};
use bytes::Bytes;
use kvorum_api::{Actor, NodeId, Stamp, StartCount};
use kvorum_storage::{
    command::{Command, Proposal},
    journal::LogRecord,
    spoil::raw_and_spoiled,
};
use openraft::{
    EntryPayload,
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest, VoteRequest,
        VoteResponse,
    },
};
use proptest::{option, prelude::*};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

fn log_id(term: u64, index: u64) -> LogId {
    LogId::new_term_index(term, index)
}

fn membership() -> Membership {
    let members: BTreeMap<u64, Member> = (1..=3).map(|id| (id * 10, Member { node: NodeId(id) })).collect();
    Membership::new(vec![BTreeSet::from([10, 20]), BTreeSet::from([20, 30])], members).unwrap()
}

fn proposal() -> Proposal {
    Proposal {
        time_ms: 1,
        stamp: Stamp(2),
        actor: Actor { node: NodeId(3), start: StartCount(4) },
        commands: vec![Command::Expire { up_to_ms: 5 }],
    }
}

fn entries() -> Vec<Entry> {
    vec![
        Entry { log_id: log_id(2, 7), payload: EntryPayload::Blank },
        Entry { log_id: log_id(2, 8), payload: EntryPayload::Membership(membership()) },
        Entry { log_id: log_id(3, 9), payload: EntryPayload::Normal(encode_proposal(&proposal())) },
    ]
}

fn append() -> AppendEntriesRequest<Types> {
    AppendEntriesRequest {
        vote: Vote::new_committed(3, 20),
        prev_log_id: Some(log_id(1, 6)),
        entries: entries(),
        leader_commit: Some(log_id(2, 7)),
    }
}

fn notes() -> AppendNotes {
    AppendNotes {
        quorum_age: Some(Duration::from_micros(1_500)),
        echo: Some(Moment { life: 9, at_us: 8 }),
        keep_from: 4,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn marks_of_format_1_are_what_they_were() {
    assert_eq!(hex(&encode_log_id(&log_id(2, 7))), "0100000000000000020000000000000007");
    assert_eq!(hex(&encode_vote(&Vote::new(2, 20))), "010000000000000002000000000000001400");
    assert_eq!(hex(&encode_vote(&Vote::new_committed(2, 20))), "010000000000000002000000000000001401");
    let stored = StoredMembership::new(Some(log_id(0, 0)), membership());
    assert_eq!(
        hex(&encode_stored_membership(&stored)),
        "01\
         0100000000000000000000000000000000\
         00000002\
         00000002000000000000000a0000000000000014\
         000000020000000000000014000000000000001e\
         00000003\
         000000000000000a0000000000000001\
         00000000000000140000000000000002\
         000000000000001e0000000000000003"
    );
}

#[test]
fn entries_of_format_1_are_what_they_were() {
    let records: Vec<LogRecord> = entries().iter().map(encode_entry).collect();
    assert_eq!(hex(&records[0].payload), "81");
    assert!(hex(&records[1].payload).starts_with("820000000200000002000000000000000a"));
    assert_eq!(records[2].payload, kvorum_storage::codec::encode_proposal(&proposal()), "a proposal is its own record");
    for (record, entry) in records.into_iter().zip(entries()) {
        assert_eq!((record.term, record.index), (entry.log_id.leader_id.term, entry.log_id.index));
        assert_eq!(decode_entry(record).unwrap(), entry);
    }
}

#[test]
fn a_membership_that_is_not_there_yet_is_no_bytes() {
    assert_eq!(decode_stored_membership(Bytes::new()).unwrap(), StoredMembership::default());
    let empty = encode_stored_membership(&StoredMembership::default());
    assert_eq!(decode_stored_membership(empty).unwrap(), StoredMembership::default());
}

#[test]
fn messages_come_back_as_they_went() {
    let (request, with) = decode_append(encode_append(&append(), &notes())).unwrap();
    assert_eq!(format!("{request:?}"), format!("{:?}", append()));
    assert_eq!(with, notes());
    let said = ReplyNotes { now: Moment { life: 1, at_us: 2 }, is_electable: true };
    for reply in [
        AppendEntriesResponse::Success,
        AppendEntriesResponse::PartialSuccess(Some(log_id(2, 7))),
        AppendEntriesResponse::PartialSuccess(None),
        AppendEntriesResponse::Conflict,
        AppendEntriesResponse::HigherVote(Vote::new(4, 30)),
    ] {
        assert_eq!(decode_append_reply(encode_append_reply(&reply, &said)).unwrap(), (reply, said));
    }
    let request = VoteRequest { vote: Vote::new(4, 30), last_log_id: Some(log_id(3, 9)), leadership_transfer: true };
    assert_eq!(decode_vote_request(encode_vote_request(&request)).unwrap(), request);
    let reply = VoteResponse { vote: Vote::new(4, 30), vote_granted: true, last_log_id: None };
    assert_eq!(decode_vote_reply(encode_vote_reply(&reply)).unwrap(), reply);
    for reply in [
        Ok(()),
        Err(TransferLeaderError::VoteChanged { expected: Vote::new(1, 10), actual: Vote::new(2, 20) }),
        Err(TransferLeaderError::LogNotFlushed { expected: Some(log_id(1, 2)), actual: None }),
    ] {
        assert_eq!(decode_transfer_reply(encode_transfer_reply(&reply)).unwrap(), reply);
    }
}

#[test]
fn snapshots_come_back_as_they_went() {
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(3, 9)),
        last_membership: StoredMembership::new(Some(log_id(2, 8)), membership()),
    };
    let begin = SnapshotBegin { session: 5, vote: Vote::new_committed(3, 20), meta };
    assert_eq!(SnapshotBegin::decode(begin.encode()).unwrap(), begin);
    let chunk = SnapshotChunk { session: 5, number: 2, bytes: Bytes::from_static(b"rows") };
    assert_eq!(SnapshotChunk::decode(chunk.encode()).unwrap(), chunk);
    let finish = SnapshotFinish { session: 5, chunks: 3 };
    assert_eq!(SnapshotFinish::decode(finish.encode()).unwrap(), finish);
    let progress = SnapshotProgress { vote: Vote::new(4, 30), next: 3 };
    assert_eq!(SnapshotProgress::decode(progress.encode()).unwrap(), progress);
}

/// openraft trusts that entries follow each other and come from terms that have been.
#[test]
fn an_append_with_a_hole_is_refused() {
    let mut hole = append();
    hole.entries.remove(1);
    assert!(decode_append(encode_append(&hole, &notes())).is_err());
    let mut future = append();
    future.vote = Vote::new_committed(2, 20);
    assert!(decode_append(encode_append(&future, &notes())).is_err());
    let mut backwards = append();
    backwards.entries[2].log_id = log_id(1, 9);
    assert!(decode_append(encode_append(&backwards, &notes())).is_err());
}

/// Every prefix of a well-formed message is refused, and so is anything behind one.
#[test]
fn cut_off_and_trailing_bytes_are_refused() {
    let whole = encode_append(&append(), &notes());
    for length in 0..whole.len() {
        assert!(decode_append(whole.slice(..length)).is_err(), "{length}");
    }
    let mut longer = whole.to_vec();
    longer.push(0);
    assert!(decode_append(longer.into()).is_err());
}

/// One message of every kind.
fn messages() -> Vec<Bytes> {
    let meta = SnapshotMeta {
        last_log_id: Some(log_id(3, 9)),
        last_membership: StoredMembership::new(Some(log_id(2, 8)), membership()),
    };
    let said = ReplyNotes { now: Moment { life: 1, at_us: 2 }, is_electable: true };
    let vote_request =
        VoteRequest { vote: Vote::new(4, 30), last_log_id: Some(log_id(3, 9)), leadership_transfer: true };
    let vote_reply = VoteResponse { vote: Vote::new(4, 30), vote_granted: true, last_log_id: Some(log_id(1, 2)) };
    let not_flushed = Err(TransferLeaderError::LogNotFlushed { expected: Some(log_id(1, 2)), actual: None });
    vec![
        encode_log_id(&log_id(2, 7)),
        encode_vote(&Vote::new(2, 20)),
        encode_stored_membership(&meta.last_membership),
        encode_append(&append(), &notes()),
        encode_append_reply(&AppendEntriesResponse::PartialSuccess(Some(log_id(2, 7))), &said),
        encode_vote_request(&vote_request),
        encode_vote_reply(&vote_reply),
        encode_transfer(&TransferLeaderRequest::new(Vote::new_committed(3, 20), 30, Some(log_id(3, 9)))),
        encode_transfer_reply(&not_flushed),
        SnapshotBegin { session: 5, vote: Vote::new_committed(3, 20), meta }.encode(),
        SnapshotChunk { session: 5, number: 2, bytes: Bytes::from_static(b"rows") }.encode(),
        SnapshotFinish { session: 5, chunks: 3 }.encode(),
        SnapshotProgress { vote: Vote::new(4, 30), next: 3 }.encode(),
        encode_entry(&entries()[1]).payload,
        encode_entry(&entries()[2]).payload,
    ]
}

/// Decodes as everything; what is read, reads back.
fn decode_as_everything(bytes: Bytes) {
    if let Ok(log_id) = decode_log_id(bytes.clone()) {
        assert_eq!(encode_log_id(&log_id), bytes);
    }
    if let Ok(vote) = decode_vote(bytes.clone()) {
        assert_eq!(encode_vote(&vote), bytes);
    }
    if let Ok(stored) = decode_stored_membership(bytes.clone()) {
        assert_eq!(decode_stored_membership(encode_stored_membership(&stored)).unwrap(), stored);
    }
    if let Ok((request, with)) = decode_append(bytes.clone()) {
        let (again, notes) = decode_append(encode_append(&request, &with)).unwrap();
        assert_eq!((format!("{again:?}"), notes), (format!("{request:?}"), with));
    }
    if let Ok((reply, said)) = decode_append_reply(bytes.clone()) {
        assert_eq!(decode_append_reply(encode_append_reply(&reply, &said)).unwrap(), (reply, said));
    }
    if let Ok(request) = decode_vote_request(bytes.clone()) {
        assert_eq!(decode_vote_request(encode_vote_request(&request)).unwrap(), request);
    }
    if let Ok(reply) = decode_vote_reply(bytes.clone()) {
        assert_eq!(decode_vote_reply(encode_vote_reply(&reply)).unwrap(), reply);
    }
    if let Ok(request) = decode_transfer(bytes.clone()) {
        assert_eq!(encode_transfer(&request), bytes);
    }
    if let Ok(reply) = decode_transfer_reply(bytes.clone()) {
        assert_eq!(decode_transfer_reply(encode_transfer_reply(&reply)).unwrap(), reply);
    }
    if let Ok(begin) = SnapshotBegin::decode(bytes.clone()) {
        assert_eq!(SnapshotBegin::decode(begin.encode()).unwrap(), begin);
    }
    if let Ok(chunk) = SnapshotChunk::decode(bytes.clone()) {
        assert_eq!(chunk.encode(), bytes);
    }
    if let Ok(finish) = SnapshotFinish::decode(bytes.clone()) {
        assert_eq!(finish.encode(), bytes);
    }
    if let Ok(progress) = SnapshotProgress::decode(bytes.clone()) {
        assert_eq!(progress.encode(), bytes);
    }
    if let Ok(entry) = decode_entry(LogRecord { index: 7, term: 2, payload: bytes }) {
        assert_eq!(decode_entry(encode_entry(&entry)).unwrap(), entry);
        if let Payload::Normal(encoded) = entry.payload
            && let Ok(proposal) = decode_proposal(&encoded)
        {
            assert_eq!(encode_proposal(&proposal), encoded);
        }
    }
}

#[test]
fn fuzz_any_bytes_are_refused_or_read_as_what_they_say() {
    let sound = messages();
    sound.iter().cloned().for_each(decode_as_everything);
    bolero::check!().with_iterations(1_000).with_max_len(300).for_each(|input: &[u8]| {
        decode_as_everything(Bytes::from([&[1], input].concat()));
        sound.iter().flat_map(|sound| raw_and_spoiled(sound, input)).for_each(decode_as_everything);
    });
}

proptest! {
    #[test]
    fn any_vote_and_log_id_come_back(term: u64, node: u64, index: u64, committed: bool) {
        let vote = if committed { Vote::new_committed(term, node) } else { Vote::new(term, node) };
        prop_assert_eq!(decode_vote(encode_vote(&vote)).unwrap(), vote);
        prop_assert_eq!(decode_log_id(encode_log_id(&log_id(term, index))).unwrap(), log_id(term, index));
    }

    #[test]
    fn any_notes_come_back(
        age in option::of(0..u64::MAX / 2),
        echo in option::of((any::<u64>(), any::<u64>())),
        keep_from: u64,
    ) {
        let notes = AppendNotes {
            quorum_age: age.map(Duration::from_micros),
            echo: echo.map(|(life, at_us)| Moment { life, at_us }),
            keep_from,
        };
        prop_assert_eq!(decode_append(encode_append(&append(), &notes)).unwrap().1, notes);
    }
}
