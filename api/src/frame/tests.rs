//! What was written is read back, and no bytes do harm.

use super::*;
use crate::{
    ids::{Actor, KeyspaceId, NodeId, ShardId, StartCount},
    level::{Mode, ReadLevel},
    receipt::Receipt,
    version::{LogPosition, Stamp, Version},
};
use bytes::Bytes;
use proptest::{collection::vec, option, prelude::*};
use std::time::Duration;

fn bytes(max: usize) -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..max).prop_map(Bytes::from)
}

fn version() -> impl Strategy<Value = Version> {
    (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(stamp, node, start)| Version {
        stamp: Stamp(stamp),
        actor: Actor { node: NodeId(node), start: StartCount(start) },
    })
}

fn level() -> impl Strategy<Value = ReadLevel> {
    prop_oneof![
        Just(ReadLevel::Linearizable),
        Just(ReadLevel::Session),
        any::<u32>().prop_map(|ms| ReadLevel::Bounded(Duration::from_millis(ms.into()))),
        Just(ReadLevel::Local),
        Just(ReadLevel::One),
        Just(ReadLevel::Quorum),
        Just(ReadLevel::All),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    prop_oneof![
        Just(Condition::None),
        Just(Condition::Absent),
        version().prop_map(Condition::Version),
        bytes(9).prop_map(Condition::Value),
        Just(Condition::Present),
    ]
}

fn operation() -> impl Strategy<Value = Operation> {
    prop_oneof![
        (bytes(9), bytes(30), option::of(any::<u64>()), condition(), any::<bool>()).prop_map(
            |(key, value, ttl_ms, condition, return_previous)| Operation::Put {
                key,
                value,
                ttl_ms,
                condition,
                return_previous
            }
        ),
        (bytes(9), condition(), any::<bool>()).prop_map(|(key, condition, return_previous)| Operation::Delete {
            key,
            condition,
            return_previous
        }),
        (bytes(9), any::<i64>(), any::<bool>()).prop_map(|(key, delta, return_previous)| Operation::Increment {
            key,
            delta,
            return_previous
        }),
    ]
}

fn call() -> impl Strategy<Value = Call> {
    let parts = || {
        let parts =
            any::<(u64, u64)>().prop_map(|(sequence, first)| RequestParts { sequence, first_sent: Stamp(first) });
        option::of(parts)
    };
    let body = prop_oneof![
        (bytes(9), option::of(level())).prop_map(|(key, level)| Body::Get { key, level }),
        (parts(), operation()).prop_map(|(request, operation)| Body::Single { request, operation }),
        (parts(), vec(operation(), 0..4)).prop_map(|(request, operations)| Body::Batch { request, operations }),
    ];
    (any::<u64>(), any::<u32>(), any::<u64>(), body).prop_map(|(id, deadline_ms, epoch, body)| Call {
        id,
        deadline_ms,
        epoch,
        body,
    })
}

fn request() -> impl Strategy<Value = Request> {
    (".{0,9}", any::<u64>(), any::<u128>(), any::<u64>(), ".{0,9}", bytes(20), vec(call(), 0..6)).prop_map(
        |(keyspace, stamp, client, lowest_unanswered, traceparent, session_token, calls)| Request {
            keyspace,
            stamp: Stamp(stamp),
            client,
            lowest_unanswered,
            traceparent,
            session_token,
            calls,
        },
    )
}

fn entry() -> impl Strategy<Value = Entry> {
    (bytes(30), version(), option::of(any::<u64>())).prop_map(|(value, version, expires_ms)| Entry {
        value,
        version,
        expires_ms,
    })
}

/// Of a frame of node 7 at stamp 8.
fn delivered() -> impl Strategy<Value = Delivered> {
    let receipt = (
        prop_oneof![Just(Mode::Cp), Just(Mode::Ap)],
        option::of(level()),
        any::<(u64, u64, u32)>(),
        option::of(version()),
        any::<(u64, u64)>(),
        option::of(any::<u32>()),
        any::<u32>(),
    );
    (any::<u32>(), receipt).prop_map(|(keyspace, (mode, level, place, version, (term, index), staleness, durable))| {
        let receipt = Receipt {
            mode,
            level,
            shard: ShardId(place.0),
            epoch: place.1,
            incarnation: place.2,
            node: NodeId(7),
            version,
            position: LogPosition { term, index },
            staleness: staleness.map(|ms| Duration::from_millis(ms.into())),
            durable_replicas: durable,
            stamp: Stamp(8),
        };
        Delivered { keyspace: KeyspaceId(keyspace), receipt }
    })
}

fn result() -> impl Strategy<Value = OperationResult> {
    let status = prop_oneof![
        Just(OperationStatus::Applied),
        Just(OperationStatus::ConditionFailed),
        Just(OperationStatus::NotANumber),
        Just(OperationStatus::Overflow),
        Just(OperationStatus::Skipped),
    ];
    let previous =
        prop_oneof![Just(Previous::None), entry().prop_map(Previous::Found), version().prop_map(Previous::Forgotten),];
    (status, previous, option::of(any::<i64>()), option::of(version()))
        .prop_map(|(status, previous, number, version)| OperationResult { status, previous, number, version })
}

fn answer() -> impl Strategy<Value = Answer> {
    let failure = (any::<u8>(), ".{0,9}", ".{0,30}", proptest::collection::btree_map(".{0,5}", ".{0,9}", 0..4))
        .prop_map(|(code, reason, message, metadata)| Failure { code, reason, message, metadata });
    let outcome = prop_oneof![
        (delivered(), option::of(entry())).prop_map(|(delivered, entry)| Outcome::Found { delivered, entry }),
        (delivered(), any::<bool>(), any::<bool>(), vec(result(), 0..4)).prop_map(
            |(delivered, applied, repeated, results)| Outcome::Written { delivered, applied, repeated, results }
        ),
        failure.prop_map(Outcome::Failed),
    ];
    (any::<u64>(), outcome).prop_map(|(id, outcome)| Answer { id, outcome })
}

proptest! {
    #[test]
    fn a_request_round_trips_in_as_many_bytes_as_it_says(request in request()) {
        let frame = request.encode();
        prop_assert_eq!(frame.len(), request.size());
        prop_assert_eq!(Request::decode(frame), Ok(request));
    }

    #[test]
    fn a_reply_round_trips(answers in vec(answer(), 0..6)) {
        let reply = Reply { node: NodeId(7), stamp: Stamp(8), answers };
        let sizes: usize = reply.answers.iter().map(Answer::size).sum();
        let frame = reply.encode();
        prop_assert!(frame.len() <= 21 + sizes, "an answer says at least its bytes");
        prop_assert_eq!(Reply::decode(frame), Ok(reply));
    }

    /// Bytes that are nearly a frame go deeper than random ones.
    #[test]
    fn no_damage_makes_decoding_panic(
        request in request(), answers in vec(answer(), 0..4), at: usize, to: u8, cut: usize
    ) {
        let reply = Reply { node: NodeId(7), stamp: Stamp(8), answers };
        for frame in [request.encode(), reply.encode()] {
            let mut damaged = frame.to_vec();
            let place = at % damaged.len();
            damaged[place] = to;
            let _ = (Request::decode(damaged.clone().into()), Reply::decode(damaged.into()));
            let part = frame.slice(..cut % frame.len());
            prop_assert!(Request::decode(part.clone()).is_err() && Reply::decode(part).is_err());
        }
    }
}

/// A frame of the format this build speaks, with anything behind; one that is read says what it holds.
#[test]
fn fuzz_no_bytes_make_decoding_panic() {
    bolero::check!().with_iterations(2_000).with_max_len(400).for_each(|input: &[u8]| {
        let Some((choice, rest)) = input.split_first() else { return };
        let format = if *choice == 0 { rest.first().copied().unwrap_or_default() } else { FORMAT };
        let frame = Bytes::from([&[format], rest].concat());
        if let Ok(request) = Request::decode(frame.clone()) {
            assert_eq!(Request::decode(request.encode()), Ok(request));
        }
        if let Ok(reply) = Reply::decode(frame) {
            assert_eq!(Reply::decode(reply.encode()), Ok(reply));
        }
    });
}

fn one_of_each() -> Request {
    let version = Version { stamp: Stamp(5), actor: Actor { node: NodeId(1), start: StartCount(2) } };
    let request = Some(RequestParts { sequence: 3, first_sent: Stamp(4) });
    let key = Bytes::from_static(b"k");
    let put = Operation::Put {
        key: key.clone(),
        value: Bytes::from_static(b"v"),
        ttl_ms: Some(6),
        condition: Condition::Version(version),
        return_previous: true,
    };
    let increment = Operation::Increment { key: key.clone(), delta: -1, return_previous: false };
    let delete = Operation::Delete {
        key: key.clone(),
        condition: Condition::Value(Bytes::from_static(b"w")),
        return_previous: false,
    };
    let bodies = [
        Body::Get { key, level: Some(ReadLevel::Bounded(Duration::from_millis(200))) },
        Body::Single { request, operation: put },
        Body::Batch { request: None, operations: vec![delete, increment] },
    ];
    let calls = bodies.into_iter().zip(1..).map(|(body, id)| Call { id, deadline_ms: 9, epoch: 1, body });
    Request {
        keyspace: "orders".into(),
        stamp: Stamp(1),
        client: 2,
        lowest_unanswered: 3,
        traceparent: String::new(),
        session_token: Bytes::from_static(b"t"),
        calls: calls.collect(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Hexadecimal digits with the names of their parts filled in and the space between them taken out.
fn digits(text: &str, parts: &[(&str, &str)]) -> String {
    let filled = parts.iter().rev().fold(text.to_owned(), |text, (name, digits)| text.replace(name, digits));
    filled.split_whitespace().collect()
}

#[test]
fn version_1_of_a_request_is_what_it_was() {
    let expected = "
        01 0000000000000001 00000000000000000000000000000002 0000000000000003
        00000006 6f7264657273 00000000 00000001 74 00000003
        01 0000000000000001 00000009 0000000000000001 03 000000c8 KEY
        02 0000000000000002 00000009 0000000000000001 01 0000000000000003 0000000000000004
           03 02 0000000000000005 0000000000000001 0000000000000002 KEY 00000001 76 0000000000000006
        05 0000000000000003 00000009 0000000000000001 00 00000002
           02 00 03 00000001 77 KEY
           03 00 ffffffffffffffff KEY";
    assert_eq!(hex(&one_of_each().encode()), digits(expected, &[("KEY", "00000001 6b")]));
}

fn reply_of_each() -> Reply {
    let version = Version { stamp: Stamp(5), actor: Actor { node: NodeId(1), start: StartCount(2) } };
    let receipt = Receipt {
        mode: Mode::Cp,
        level: Some(ReadLevel::Session),
        shard: ShardId(3),
        epoch: 4,
        incarnation: 5,
        node: NodeId(7),
        version: Some(version),
        position: LogPosition { term: 6, index: 9 },
        // Rounded up to a whole millisecond.
        staleness: Some(Duration::from_micros(1_001)),
        durable_replicas: 2,
        stamp: Stamp(8),
    };
    let delivered = Delivered { keyspace: KeyspaceId(10), receipt };
    let entry = Entry { value: Bytes::from_static(b"v"), version, expires_ms: Some(11) };
    let result = OperationResult {
        status: OperationStatus::ConditionFailed,
        previous: Previous::Found(entry.clone()),
        number: Some(-1),
        version: Some(version),
    };
    let failure = Failure {
        code: 9,
        reason: "R".into(),
        message: "m".into(),
        metadata: [("effect".to_owned(), "none".to_owned())].into(),
    };
    let written =
        Outcome::Written { delivered: delivered.clone(), applied: true, repeated: false, results: vec![result] };
    let outcomes = [Outcome::Found { delivered, entry: Some(entry) }, written, Outcome::Failed(failure)];
    let answers = outcomes.into_iter().zip(1..).map(|(outcome, id)| Answer { id, outcome });
    Reply { node: NodeId(7), stamp: Stamp(8), answers: answers.collect() }
}

#[test]
fn version_1_of_a_reply_is_what_it_was() {
    let expected = "
        01 0000000000000007 0000000000000008 00000003
        0000000000000001 01 DELIVERED 01 ENTRY
        0000000000000002 02 DELIVERED 01 00000001
           01 0d ENTRY ffffffffffffffff VERSION
        0000000000000003 03 09 00000001 52 00000001 6d
           00000001 00000006 656666656374 00000004 6e6f6e65";
    let parts = [
        ("VERSION", "0000000000000005 0000000000000001 0000000000000002"),
        ("ENTRY", "01 VERSION 00000001 76 000000000000000b"),
        (
            "DELIVERED",
            "03 0000000a 01 02 0000000000000003 0000000000000004 00000005
             0000000000000006 0000000000000009 00000002 VERSION 0000000000000002",
        ),
    ];
    assert_eq!(hex(&reply_of_each().encode()), digits(expected, &parts));
}

/// An announced count costs nothing until its items are there.
#[test]
fn nothing_is_allocated_for_what_cannot_be_there() {
    let mut frame = Request::default().encode().to_vec();
    let count = frame.len() - 4;
    frame[count..].copy_from_slice(&u32::MAX.to_be_bytes());
    let refused = Request::decode(frame.into()).unwrap_err().to_string();
    assert_eq!(refused, format!("frame: cut off: {} bytes are announced, 0 are left", u64::from(u32::MAX) * 21));
}

#[test]
fn decoding_copies_no_value() {
    let frame = one_of_each().encode();
    let within = frame.as_ptr_range();
    let decoded = Request::decode(frame.clone()).unwrap();
    let Body::Single { operation: Operation::Put { value, .. }, .. } = &decoded.calls[1].body else { unreachable!() };
    assert!(within.contains(&value.as_ptr()));
}

#[test]
fn too_many_calls_and_too_many_bytes_are_refused_by_the_name_of_the_limit() {
    let get = |key: Bytes| Call { id: 1, deadline_ms: 0, epoch: 0, body: Body::Get { key, level: None } };
    let many = Request { calls: vec![get(Bytes::new()); CALLS_MAX + 1], ..Request::default() };
    assert!(Request::decode(many.encode()).unwrap_err().to_string().contains("frame_calls_max"));
    let large = get(Bytes::from(vec![0; BYTES_MAX]));
    let two = Request { calls: vec![large.clone(), get(Bytes::new())], ..Request::default() };
    assert!(Request::decode(two.encode()).unwrap_err().to_string().contains("frame_bytes_max"));
    let delete = Operation::Delete { key: Bytes::new(), condition: Condition::None, return_previous: false };
    let operations = vec![delete; OPERATIONS_MAX + 1];
    let batch = Call { id: 1, deadline_ms: 0, epoch: 0, body: Body::Batch { request: None, operations } };
    let wide = Request { calls: vec![batch], ..Request::default() };
    assert!(Request::decode(wide.encode()).unwrap_err().to_string().contains("frame_operations_max"));
    let alone = Request { calls: vec![large], ..Request::default() };
    assert!(Request::decode(alone.encode()).is_ok(), "one larger call travels alone");
}

#[test]
fn another_version_and_unknown_numbers_are_refused_with_a_sentence() {
    let newer = Request::decode(Bytes::from_static(&[2, 0])).unwrap_err().to_string();
    assert_eq!(newer, "frame: version 2 is not known to this build, which speaks version 1");
    assert!(Request::decode(Bytes::new()).is_err() && Reply::decode(Bytes::new()).is_err());
    let get = Body::Get { key: Bytes::new(), level: None };
    let call = Call { id: 1, deadline_ms: 0, epoch: 0, body: get };
    let frame = Request { calls: vec![call], ..Request::default() }.encode();
    let kind = Request::default().encode().len();
    let mut unknown = frame.to_vec();
    unknown[kind] = 99;
    assert_eq!(Request::decode(unknown.into()).unwrap_err().to_string(), "frame: unknown kind of call 99");
}

#[test]
fn a_token_is_derived_from_what_was_delivered() {
    let receipt = Receipt {
        mode: Mode::Cp,
        level: None,
        shard: ShardId(3),
        epoch: 1,
        incarnation: 2,
        node: NodeId(1),
        version: None,
        position: LogPosition { term: 4, index: 5 },
        staleness: None,
        durable_replicas: 2,
        stamp: Stamp(9),
    };
    let token = Delivered { keyspace: KeyspaceId(6), receipt }.session_token();
    assert_eq!((token.keyspace, token.stamp), (KeyspaceId(6), Stamp(9)));
    assert_eq!(token.shards[&ShardId(3)].position, LogPosition { term: 4, index: 5 });
    assert_eq!(token.shards[&ShardId(3)].incarnation, 2);
}
