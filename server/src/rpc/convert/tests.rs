//! What a message means, and which messages mean nothing.

use super::{answer, asked, command, proto_out};
use crate::router::tests::keyspace;
use bytes::Bytes;
use kvorum_api::{
    KeyspaceId, Limits, LogPosition, NodeId, ReadLevel, Receipt, Refused, SessionToken, ShardId, Stamp, Version,
    WriteError,
    frame::{self, Delivered},
    limits,
    proto::{self, operation, read_level::Kind},
};
use kvorum_consensus::{Written, metadata::KeyspaceRow};
use kvorum_storage::{
    Condition, Operation, OperationResult, Outcome, WriteCommand,
    command::{ExpiredBecause, OperationStatus, Previous},
};
use proptest::prelude::*;
use std::time::Duration;

const LIMITS: Limits = Limits { key_bytes_max: 16, value_bytes_max: 32, batch_operations_max: 3, batch_bytes_max: 64 };

fn row() -> KeyspaceRow {
    KeyspaceRow { limits: LIMITS, ..keyspace().row.clone() }
}

fn put(key: usize, value: usize) -> proto::Operation {
    let put = proto::Put { key: vec![b'k'; key].into(), value: vec![b'v'; value].into(), ..proto::Put::default() };
    proto::Operation { kind: Some(operation::Kind::Put(put)) }
}

fn id() -> proto::RequestId {
    proto::RequestId { client: vec![1; 16].into(), sequence: 5, first_sent: 77, lowest_unanswered: 4 }
}

fn batch(id: Option<proto::RequestId>, operations: Vec<proto::Operation>) -> Result<WriteCommand, Refused> {
    let id = id.as_ref().map(asked::request_id).transpose()?;
    let operations = operations.into_iter().map(asked::operation).collect::<Result<_, _>>()?;
    command::batch(id, operations, &row())
}

fn refusal(id: Option<proto::RequestId>, operations: Vec<proto::Operation>) -> Refused {
    batch(id, operations).expect_err("must be refused")
}

fn limit(refused: &Refused) -> &'static str {
    match refused {
        Refused::OverLimit { limit, .. } => limit,
        other => panic!("expected a limit, got {other}"),
    }
}

fn field(refused: &Refused) -> &'static str {
    match refused {
        Refused::Malformed { field, .. } => field,
        other => panic!("expected a field, got {other}"),
    }
}

#[test]
fn a_write_within_its_limits_is_taken_as_it_is() {
    let command = batch(Some(id()), vec![put(16, 32)]).unwrap();
    assert_eq!(command.request.unwrap().client, u128::from_be_bytes([1; 16]));
    assert!(matches!(&command.operations[0], Operation::Put { condition: Condition::Always, ttl_ms: None, .. }));
}

#[test]
fn every_limit_is_refused_by_its_name() {
    assert_eq!(refusal(None, vec![put(0, 1)]), Refused::KeyEmpty);
    assert_eq!(limit(&refusal(None, vec![put(17, 1)])), "key_bytes_max");
    assert_eq!(limit(&refusal(None, vec![put(1, 33)])), "value_bytes_max");
    assert_eq!(limit(&refusal(None, vec![put(1, 1); 4])), "batch_operations_max");
    assert_eq!(limit(&refusal(None, vec![put(1, 31), put(2, 31)])), "batch_bytes_max");
    let mut long_lived = put(1, 1);
    if let Some(operation::Kind::Put(put)) = &mut long_lived.kind {
        put.ttl_ms = Some(limits::TTL_MS_MAX + 1);
    }
    assert_eq!(limit(&refusal(None, vec![long_lived])), "ttl_ms_max");
    let sentence = refusal(None, vec![put(1, 33)]).to_string();
    assert!(
        sentence.contains("value has 33") && sentence.contains("is 32") && sentence.contains("raise"),
        "{sentence}"
    );
}

/// What a batch answers is bounded before it is known.
#[test]
fn previous_values_of_a_batch_are_bounded_by_their_largest() {
    let limits = Limits { value_bytes_max: 16 << 20, ..LIMITS };
    let wide = KeyspaceRow { limits, ..row() };
    let delete = |key: u8| frame::Operation::Delete {
        key: Bytes::from(vec![key]),
        condition: frame::Condition::None,
        return_previous: true,
    };
    assert!(command::batch(None, (1..=3).map(delete).collect(), &wide).is_ok(), "three times 16 MiB fit");
    let limits = Limits { batch_operations_max: 4, ..limits };
    let wide = KeyspaceRow { limits, ..row() };
    let refused = command::batch(None, (1..=4).map(delete).collect(), &wide).unwrap_err();
    assert_eq!(limit(&refused), "batch_previous_bytes_max");
}

#[test]
fn the_value_of_a_condition_is_bounded_too() {
    let mut guarded = put(1, 1);
    if let Some(operation::Kind::Put(put)) = &mut guarded.kind {
        let kind = Some(proto::condition::Kind::Value(vec![0; 33].into()));
        put.condition = Some(proto::Condition { kind });
    }
    assert!(matches!(refusal(None, vec![guarded]), Refused::OverLimit { field: "condition.value", .. }));
}

#[test]
fn what_means_nothing_is_refused_with_the_name_of_the_field() {
    assert_eq!(field(&refusal(None, vec![])), "operations");
    assert_eq!(field(&refusal(None, vec![proto::Operation { kind: None }])), "operations");
    let with = |change: fn(&mut proto::RequestId)| {
        let mut id = id();
        change(&mut id);
        field(&refusal(Some(id), vec![put(1, 1)]))
    };
    assert_eq!(with(|id| id.client = vec![1; 15].into()), "request_id.client");
    assert_eq!(with(|id| id.sequence = 0), "request_id.sequence");
    assert_eq!(with(|id| id.lowest_unanswered = 6), "request_id.lowest_unanswered");
    assert_eq!(with(|id| id.first_sent = 0), "request_id.first_sent");
}

#[test]
fn levels_that_cannot_be_honoured_are_refused() {
    let ask = |kind: Kind, staleness_ms_max: u32| {
        let level = asked::read_level(Some(proto::ReadLevel { kind: kind.into(), staleness_ms_max }))?;
        command::read_level(level, &row())
    };
    assert_eq!(ask(Kind::Default, 0), Ok(ReadLevel::Linearizable));
    assert_eq!(ask(Kind::Local, 0), Ok(ReadLevel::Local));
    assert_eq!(ask(Kind::Session, 0), Ok(ReadLevel::Session));
    assert_eq!(ask(Kind::Bounded, 5), Ok(ReadLevel::Bounded(Duration::from_millis(5))));
    assert_eq!(field(&ask(Kind::Bounded, 0).unwrap_err()), "level.staleness_ms_max");
    for kind in [Kind::One, Kind::Quorum, Kind::All] {
        let refused = ask(kind, 0).unwrap_err();
        let Refused::LevelNotOffered { offered, .. } = refused else { panic!("{refused}") };
        assert_eq!(offered, "linearizable, session, bounded or local");
    }
    let unknown = proto::ReadLevel { kind: 99, staleness_ms_max: 0 };
    assert_eq!(field(&asked::read_level(Some(unknown)).unwrap_err()), "level.kind");
}

fn receipt() -> Receipt {
    Receipt {
        mode: kvorum_api::Mode::Cp,
        level: None,
        shard: ShardId(1),
        incarnation: 5,
        epoch: 1,
        node: NodeId(2),
        version: None,
        position: LogPosition { term: 3, index: 4 },
        staleness: None,
        durable_replicas: 2,
        stamp: Stamp(9),
    }
}

fn delivered(receipt: Receipt) -> Delivered {
    Delivered { keyspace: KeyspaceId(6), receipt }
}

#[test]
fn a_write_receipt_names_its_acknowledgement_and_a_read_receipt_its_level() {
    let written = proto_out::receipt(&delivered(receipt()));
    assert_eq!((written.ack.as_str(), written.level.as_str(), written.durable_replicas), ("majority", "", 2));
    let staleness = Some(Duration::from_micros(1_001));
    let read = Receipt { level: Some(ReadLevel::Local), durable_replicas: 0, staleness, ..receipt() };
    let read = proto_out::receipt(&delivered(read));
    assert_eq!((read.ack.as_str(), read.level.as_str()), ("", "local"));
    assert_eq!(read.staleness_ms, Some(2), "a staleness is rounded up");
}

#[test]
fn every_receipt_carries_the_token_of_what_was_seen() {
    let token = SessionToken::decode(&proto_out::receipt(&delivered(receipt())).session_token).unwrap();
    assert_eq!((token.keyspace, token.stamp), (KeyspaceId(6), Stamp(9)));
    let seen = token.shards[&ShardId(1)];
    assert_eq!((seen.incarnation, seen.position), (5, LogPosition { term: 3, index: 4 }));
}

fn outcome(outcome: Outcome) -> Result<frame::Outcome, WriteError> {
    answer::written(Written { outcome, receipt: receipt() }, KeyspaceId(6))
}

#[test]
fn an_expired_request_id_is_an_error_with_unknown_effect_and_a_foreign_key_one_with_none() {
    let expired = outcome(Outcome::RequestIdExpired { why: ExpiredBecause::TooOld }).unwrap_err();
    assert_eq!(expired.effect(), kvorum_api::Effect::Unknown);
    let foreign = outcome(Outcome::OutOfRange { epoch: 3 }).unwrap_err();
    assert!(matches!(foreign, WriteError::StaleEpoch { epoch: 3, .. }));
    assert_eq!(foreign.effect(), kvorum_api::Effect::None);
}

#[test]
fn a_forgotten_previous_value_says_that_it_is_forgotten() {
    let result = OperationResult {
        status: OperationStatus::Applied,
        previous: Previous::Forgotten(Version::default()),
        number: None,
        version: None,
    };
    let written = outcome(Outcome::Written { applied: true, repeated: true, results: vec![result] }).unwrap();
    let frame::Outcome::Written { repeated, results, .. } = written else { panic!("a write") };
    let result = proto_out::result(Bytes::from_static(b"k"), results[0].clone());
    assert!(repeated && result.previous_forgotten);
    assert_eq!(result.previous.as_ref().unwrap().key, "k");
}

proptest! {
    #[test]
    fn versions_round_trip(stamp in any::<u64>(), node in any::<u64>(), start in any::<u64>()) {
        let wire = proto::Version { stamp, node, start };
        prop_assert_eq!(proto_out::version(asked::version(&wire)), wire);
    }
}
