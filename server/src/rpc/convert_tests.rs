//! What a message means, and which messages mean nothing.

use super::*;
use crate::config::Config;
use kvorum_api::ShardId;
use proptest::prelude::*;

const LIMITS: Limits = Limits { key_bytes_max: 16, value_bytes_max: 32, batch_operations_max: 3, batch_bytes_max: 64 };

fn put(key: usize, value: usize) -> proto::Operation {
    let put = proto::Put { key: vec![b'k'; key].into(), value: vec![b'v'; value].into(), ..proto::Put::default() };
    proto::Operation { kind: Some(operation::Kind::Put(put)) }
}

fn id() -> proto::RequestId {
    proto::RequestId { client: vec![1; 16].into(), sequence: 5, first_sent: 77, lowest_unanswered: 4 }
}

fn refusal(request: Option<proto::RequestId>, operations: Vec<proto::Operation>) -> Refused {
    write_command(request, operations, &LIMITS).expect_err("must be refused")
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
    let command = write_command(Some(id()), vec![put(16, 32)], &LIMITS).unwrap();
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

#[test]
fn what_means_nothing_is_refused_by_its_field() {
    assert_eq!(field(&refusal(None, vec![])), "operations");
    assert_eq!(field(&refusal(None, vec![proto::Operation { kind: None }])), "operations");
    let with = |change: fn(&mut proto::Put)| {
        let mut operation = put(1, 1);
        if let Some(operation::Kind::Put(put)) = &mut operation.kind {
            change(put);
        }
        vec![operation]
    };
    assert_eq!(field(&refusal(None, with(|put| put.ttl_ms = Some(0)))), "ttl_ms");
    assert_eq!(field(&refusal(None, with(|put| put.condition = Some(proto::Condition { kind: None })))), "condition");
}

#[test]
fn request_ids_that_could_not_be_remembered_are_refused() {
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
    let config = Config::parse(None, []).unwrap();
    let keyspace = crate::router::tests::keyspace_of(&config.keyspaces[0]);
    let ask = |kind: Kind| read_level(Some(proto::ReadLevel { kind: kind.into(), staleness_ms_max: 5 }), &keyspace);
    assert_eq!(read_level(None, &keyspace), Ok(ReadLevel::Linearizable));
    assert_eq!(ask(Kind::Local), Ok(ReadLevel::Local));
    for kind in [Kind::Session, Kind::Bounded, Kind::One, Kind::Quorum, Kind::All] {
        assert!(matches!(ask(kind), Err(Refused::LevelNotOffered { .. })), "{kind:?}");
    }
    let unknown = proto::ReadLevel { kind: 99, staleness_ms_max: 0 };
    assert!(matches!(read_level(Some(unknown), &keyspace), Err(Refused::Malformed { field: "level.kind", .. })));
}

#[test]
fn a_scan_upside_down_is_refused_and_an_open_one_is_open() {
    let request = |start: &'static str, end: &'static str| proto::ScanRequest {
        start: Bytes::from_static(start.as_bytes()),
        end: Bytes::from_static(end.as_bytes()),
        ..proto::ScanRequest::default()
    };
    assert_eq!(scan_range(&request("a", ""), &LIMITS).unwrap().end, None);
    assert!(scan_range(&request("a", "b"), &LIMITS).is_ok());
    assert!(matches!(scan_range(&request("b", "a"), &LIMITS), Err(Refused::Malformed { field: "end", .. })));
    assert!(scan_range(&request("12345678901234567", ""), &LIMITS).is_ok(), "the bound after the longest key");
    assert!(scan_range(&request("123456789012345678", ""), &LIMITS).is_err());
}

fn receipt() -> Receipt {
    Receipt {
        mode: kvorum_api::Mode::Cp,
        level: None,
        shard: ShardId(1),
        incarnation: 0,
        epoch: 1,
        node: NodeId(2),
        version: None,
        position: LogPosition { term: 3, index: 4 },
        staleness: None,
        durable_replicas: 2,
        stamp: Stamp(9),
    }
}

#[test]
fn a_write_receipt_names_its_acknowledgement_and_a_read_receipt_its_level() {
    let written = receipt_out(&receipt());
    assert_eq!((written.ack.as_str(), written.level.as_str(), written.durable_replicas), ("majority", "", 2));
    let read = receipt_out(&Receipt { level: Some(ReadLevel::Local), durable_replicas: 0, ..receipt() });
    assert_eq!((read.ack.as_str(), read.level.as_str(), read.staleness_ms), ("", "local", None));
}

#[test]
fn an_expired_request_id_is_an_error_with_unknown_effect() {
    let outcome = Outcome::RequestIdExpired { why: ExpiredBecause::TooOld };
    let error = write_reply(outcome, &receipt(), vec![]).unwrap_err();
    assert_eq!(error.effect(), kvorum_api::Effect::Unknown);
}

#[test]
fn a_forgotten_previous_value_says_that_it_is_forgotten() {
    let result = OperationResult {
        status: OperationStatus::Applied,
        previous: Previous::Forgotten(Version::default()),
        number: None,
        version: None,
    };
    let outcome = Outcome::Written { applied: true, repeated: true, results: vec![result] };
    let reply = write_reply(outcome, &receipt(), vec![Bytes::from_static(b"k")]).unwrap();
    assert!(reply.repeated_request && reply.results[0].previous_forgotten);
    assert_eq!(reply.results[0].previous.as_ref().unwrap().key, "k");
}

proptest! {
    #[test]
    fn versions_round_trip(stamp in any::<u64>(), node in any::<u64>(), start in any::<u64>()) {
        let wire = proto::Version { stamp, node, start };
        prop_assert_eq!(version_out(version(&wire)), wire);
    }
}
