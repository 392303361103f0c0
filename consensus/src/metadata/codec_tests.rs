//! Rows and maps read back, whatever is in them, and nothing makes reading panic.

use super::{
    super::{
        map::{ReplicaRow, ShardRow, ShardStage, Standing},
        operator::{OperatorRow, OperatorState, Origin, Task},
    },
    *,
};
use kvorum_api::PlacementRange;
use kvorum_storage::spoil::raw_and_spoiled;
use proptest::{collection::vec, option, prelude::*};

fn any_bytes() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 0..9).prop_map(Bytes::from)
}

fn any_seat() -> impl Strategy<Value = (ReplicaId, NodeId)> {
    (any::<u64>(), any::<u64>()).prop_map(|(replica, node)| (ReplicaId(replica), NodeId(node)))
}

fn any_replicas() -> impl Strategy<Value = Vec<ReplicaRow>> {
    let standing = prop_oneof![Just(Standing::Member), Just(Standing::Joining), Just(Standing::Leaving)];
    vec((any_seat(), standing).prop_map(|((replica, node), standing)| ReplicaRow { replica, node, standing }), 0..4)
}

pub(crate) fn any_origin() -> impl Strategy<Value = Origin> {
    prop_oneof![Just(Origin::User), Just(Origin::Drain), Just(Origin::Repair), Just(Origin::Balance)]
}

fn any_operator() -> impl Strategy<Value = OperatorRow> {
    let change =
        (option::of(any_seat()), option::of(any_seat())).prop_map(|(add, remove)| Task::Change { add, remove });
    let task = prop_oneof![change, any::<u64>().prop_map(|node| Task::Lead(NodeId(node)))];
    let state = prop_oneof![
        Just(OperatorState::Running),
        Just(OperatorState::Cancelling),
        Just(OperatorState::Done),
        Just(OperatorState::Cancelled),
        ".{0,9}".prop_map(OperatorState::Failed),
    ];
    let times = (any::<u64>(), any::<u64>());
    (any::<u64>(), any::<u64>(), task, any_origin(), ".{0,9}", state, times).prop_map(
        |(id, shard, task, origin, cause, state, (created_ms, ended_ms))| OperatorRow {
            id: OperatorId(id),
            shard: ShardId(shard),
            task,
            origin,
            cause,
            state,
            created_ms,
            ended_ms,
        },
    )
}

pub(crate) fn any_node_state() -> impl Strategy<Value = NodeState> {
    prop_oneof![Just(NodeState::Active), Just(NodeState::Draining), Just(NodeState::Forgetting)]
}

pub(crate) fn any_level() -> impl Strategy<Value = ReadLevel> {
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

pub(crate) fn any_images() -> impl Strategy<Value = Images> {
    prop_oneof![Just(Images::Keys), Just(Images::New), Just(Images::NewAndOld)]
}

fn any_node() -> impl Strategy<Value = NodeRow> {
    let rest = (any_node_state(), any::<u32>(), ".{0,9}");
    (any::<u64>(), ".{0,9}", ".{0,9}", ".{0,9}", any::<u128>(), rest).prop_map(
        |(node, client, peer, zone, directory, (state, behaviour, build))| NodeRow {
            node: NodeId(node),
            client,
            peer,
            zone,
            directory,
            state,
            behaviour: Behaviour(behaviour),
            build,
        },
    )
}

fn any_keyspace() -> impl Strategy<Value = KeyspaceRow> {
    let what = (any::<bool>(), any::<bool>(), any_level(), any_images(), any::<bool>());
    let limits = (any::<u32>(), any::<u32>(), any::<u32>(), any::<u32>());
    (any::<u32>(), ".{0,9}", any::<u32>(), what, limits, any::<u64>()).prop_map(
        |(id, name, replicas, (is_cp, is_hash, read_level, images, has_leases), limits, created_ms)| KeyspaceRow {
            id: KeyspaceId(id),
            name,
            mode: if is_cp { Mode::Cp } else { Mode::Ap },
            sharding: if is_hash { Sharding::Hash } else { Sharding::Range },
            replicas,
            read_level,
            limits: Limits {
                key_bytes_max: limits.0 as usize,
                value_bytes_max: limits.1 as usize,
                batch_operations_max: limits.2 as usize,
                batch_bytes_max: limits.3 as usize,
            },
            images,
            has_leases,
            created_ms,
        },
    )
}

fn any_shard() -> impl Strategy<Value = ShardRow> {
    let ids = (any::<u64>(), any::<u32>(), any::<u64>(), any::<u32>(), any::<u64>());
    let who = (vec(any_seat(), 0..4), any_replicas());
    (ids, any_bytes(), option::of(any_bytes()), who, any::<bool>()).prop_map(
        |((shard, keyspace, epoch, incarnation, wish), start, end, (founders, replicas), is_ready)| ShardRow {
            shard: ShardId(shard),
            keyspace: KeyspaceId(keyspace),
            range: PlacementRange { start, end },
            epoch,
            incarnation,
            founders,
            replicas,
            leader_wish: NodeId(wish),
            stage: if is_ready { ShardStage::Ready } else { ShardStage::Creating },
        },
    )
}

fn any_counters() -> impl Strategy<Value = Counters> {
    (any::<u64>(), any::<u64>(), any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>()).prop_map(
        |(serial, node, keyspace, shard, replica, operator)| Counters {
            serial,
            next_node: NodeId(node),
            next_keyspace: KeyspaceId(keyspace),
            next_shard: ShardId(shard),
            next_replica: ReplicaId(replica),
            next_operator: OperatorId(operator),
        },
    )
}

pub(crate) fn any_row() -> impl Strategy<Value = Row> {
    prop_oneof![
        any_node().prop_map(Row::Node),
        any_keyspace().prop_map(Row::Keyspace),
        any_shard().prop_map(Row::Shard),
        any_replicas().prop_map(Row::Metadata),
        any_counters().prop_map(Row::Counters),
        any_operator().prop_map(Row::Operator),
        any::<u32>().prop_map(|behaviour| Row::Behaviour(Behaviour(behaviour))),
    ]
}

fn any_map() -> impl Strategy<Value = ClusterMap> {
    (any::<u64>(), vec(any_row(), 0..20)).prop_map(|(revision, rows)| {
        let mut map = ClusterMap { revision, ..ClusterMap::default() };
        rows.into_iter().for_each(|row| map.apply(RowEdit::Put(row)));
        map
    })
}

proptest! {
    #[test]
    fn a_row_reads_back(row in any_row()) {
        let key = RowKey::decode(&row.key().encode());
        prop_assert_eq!(key, Some(row.key()));
        prop_assert_eq!(Row::decode(row.key(), row.encode()).unwrap(), row);
    }

    #[test]
    fn a_map_reads_back(map in any_map()) {
        prop_assert_eq!(ClusterMap::decode(map.encode()).unwrap(), map);
    }

    #[test]
    fn a_map_is_the_fold_of_its_rows(map in any_map()) {
        let mut folded = ClusterMap { revision: map.revision, ..ClusterMap::default() };
        map.rows().for_each(|row| folded.apply(RowEdit::Put(row)));
        prop_assert_eq!(&folded, &map);
        map.rows().for_each(|row| folded.apply(RowEdit::Remove(row.key())));
        prop_assert_eq!(folded, ClusterMap { revision: map.revision, ..ClusterMap::default() });
    }

    #[test]
    fn a_damaged_map_never_panics(map in any_map(), at in any::<prop::sample::Index>(), bit in 0..8_u32) {
        let mut bytes = map.encode().to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let _ = ClusterMap::decode(Bytes::from(bytes));
    }
}

#[test]
fn fuzz_any_bytes_are_refused_or_read_as_what_they_say() {
    let rows = [
        shard_7(),
        Row::Node(node_9()),
        orders(),
        Row::Metadata(vec![ReplicaRow::member((ReplicaId(5), NodeId(6)))]),
        Row::Counters(Counters::default()),
        Row::Operator(operator_3()),
        Row::Behaviour(Behaviour(1)),
    ];
    let mut map = ClusterMap { revision: 8, ..ClusterMap::default() };
    rows.iter().for_each(|row| map.apply(RowEdit::Put(row.clone())));
    let (rows, map) = (rows.map(|row| (row.key(), row.encode())), map.encode());
    bolero::check!().with_iterations(1_000).with_max_len(200).for_each(|input: &[u8]| {
        let of_format = Bytes::from([&[1 + input.len() as u8 % 2], input].concat());
        for (key, row) in &rows {
            for bytes in raw_and_spoiled(&key.encode(), input) {
                if let Some(key) = RowKey::decode(&bytes) {
                    assert_eq!(key.encode(), bytes);
                }
            }
            for bytes in raw_and_spoiled(row, input).into_iter().chain([of_format.clone()]) {
                if let Ok(row) = Row::decode(*key, bytes) {
                    assert_eq!(Row::decode(*key, row.encode()).unwrap(), row);
                }
            }
        }
        for bytes in raw_and_spoiled(&map, input).into_iter().chain([of_format]) {
            if let Ok(map) = ClusterMap::decode(bytes) {
                assert_eq!(ClusterMap::decode(map.encode()).unwrap(), map);
            }
        }
    });
}

/// The bytes of format 1, for ever.
#[test]
fn format_1_is_what_it_was() {
    let Row::Shard(shard) = shard_7() else { panic!() };
    assert_eq!(RowKey::Shard(ShardId(7)).encode(), &[b's', 0, 0, 0, 0, 0, 0, 0, 7][..]);
    #[rustfmt::skip]
    let expected: &[u8] = &[
        1,  0, 0, 0, 2,  1,  0, 0, 0, 1, b'a',  0, 0, 0, 2, b'm', b'm',
        0, 0, 0, 0, 0, 0, 0, 3,  0, 0, 0, 4,
        0, 0, 0, 1,  0, 0, 0, 0, 0, 0, 0, 5,  0, 0, 0, 0, 0, 0, 0, 6,
        0, 0, 0, 0, 0, 0, 0, 6,  2,
    ];
    let founders_hold_it = ShardRow { replicas: vec![ReplicaRow::member((ReplicaId(5), NodeId(6)))], ..shard };
    let read = Row::decode(RowKey::Shard(ShardId(7)), Bytes::from_static(expected)).unwrap();
    assert_eq!(read, Row::Shard(founders_hold_it));

    assert_eq!(RowKey::Node(NodeId(9)).encode(), &[b'n', 0, 0, 0, 0, 0, 0, 0, 9][..]);
    #[rustfmt::skip]
    let expected: &[u8] = &[
        1,  0, 0, 0, 1, b'c',  0, 0, 0, 1, b'p',  0, 0, 0, 1, b'z',
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3,
    ];
    let read = Row::decode(RowKey::Node(NodeId(9)), Bytes::from_static(expected)).unwrap();
    let plain = NodeRow { state: NodeState::Active, behaviour: Behaviour(1), build: String::new(), ..node_9() };
    assert_eq!(read, Row::Node(plain));

    let keyspace = orders();
    assert_eq!(keyspace.key().encode(), &[b'k', 0, 0, 0, 2][..]);
    #[rustfmt::skip]
    let expected: &[u8] = &[
        1,  0, 0, 0, 6, b'o', b'r', b'd', b'e', b'r', b's',  1,  2,  0, 0, 0, 3,  3, 0, 0, 0, 0, 0, 0, 0, 200,
        0, 0, 0, 0, 0, 0, 0, 1,  0, 0, 0, 0, 0, 0, 0, 2,  0, 0, 0, 0, 0, 0, 0, 3,  0, 0, 0, 0, 0, 0, 0, 4,
        3,  1,  0, 0, 0, 0, 0, 0, 0, 5,
    ];
    assert_eq!(keyspace.encode(), expected);

    let metadata = vec![ReplicaRow::member((ReplicaId(1), NodeId(9)))];
    let map = ClusterMap { revision: 8, metadata, ..ClusterMap::default() };
    #[rustfmt::skip]
    let expected: &[u8] = &[
        1,  0, 0, 0, 0, 0, 0, 0, 8,  0, 0, 0, 2,
        0, 0, 0, 1, b'm',  0, 0, 0, 21,  1, 0, 0, 0, 1,  0, 0, 0, 0, 0, 0, 0, 1,  0, 0, 0, 0, 0, 0, 0, 9,
        0, 0, 0, 1, b'i',  0, 0, 0, 37,  1, 0, 0, 0, 0, 0, 0, 0, 0,  0, 0, 0, 0, 0, 0, 0, 1,  0, 0, 0, 1,
        0, 0, 0, 0, 0, 0, 0, 1,  0, 0, 0, 0, 0, 0, 0, 1,
    ];
    assert_eq!(ClusterMap::decode(Bytes::from_static(expected)).unwrap(), map);
}

/// The bytes of format 2 and of the rows that came with it, for ever.
#[test]
fn format_2_is_what_it_was() {
    #[rustfmt::skip]
    let expected: &[u8] = &[
        2,  0, 0, 0, 2,  1,  0, 0, 0, 1, b'a',  0, 0, 0, 2, b'm', b'm',
        0, 0, 0, 0, 0, 0, 0, 3,  0, 0, 0, 4,
        0, 0, 0, 1,  0, 0, 0, 0, 0, 0, 0, 5,  0, 0, 0, 0, 0, 0, 0, 6,
        0, 0, 0, 0, 0, 0, 0, 6,  2,
        0, 0, 0, 2,  0, 0, 0, 0, 0, 0, 0, 5,  0, 0, 0, 0, 0, 0, 0, 6,  3,
        0, 0, 0, 0, 0, 0, 0, 8,  0, 0, 0, 0, 0, 0, 0, 9,  2,
    ];
    assert_eq!(shard_7().encode(), expected);
    #[rustfmt::skip]
    let expected: &[u8] = &[
        2,  0, 0, 0, 1, b'c',  0, 0, 0, 1, b'p',  0, 0, 0, 1, b'z',
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3,  2,  0, 0, 0, 4,  0, 0, 0, 1, b'b',
    ];
    assert_eq!(Row::Node(node_9()).encode(), expected);
    #[rustfmt::skip]
    let expected: &[u8] = &[
        1,  0, 0, 0, 0, 0, 0, 0, 7,  1, 3,  0, 0, 0, 0, 0, 0, 0, 8,  0, 0, 0, 0, 0, 0, 0, 9,
        0, 0, 0, 0, 0, 0, 0, 5,  0, 0, 0, 0, 0, 0, 0, 6,  2,  0, 0, 0, 3, b'w', b'h', b'y',
        5,  0, 0, 0, 2, b'n', b'o',  0, 0, 0, 0, 0, 0, 0, 1,  0, 0, 0, 0, 0, 0, 0, 2,
    ];
    let operator = Row::Operator(operator_3());
    assert_eq!(operator.key().encode(), &[b'o', 0, 0, 0, 0, 0, 0, 0, 3][..]);
    assert_eq!(operator.encode(), expected);
    assert_eq!(RowKey::Behaviour.encode(), &b"b"[..]);
    assert_eq!(Row::Behaviour(Behaviour(4)).encode(), &[1, 0, 0, 0, 4][..]);
}

/// A newer build may keep rows of other kinds beside these.
#[test]
fn a_row_of_an_unknown_kind_is_passed_over_and_one_of_an_unknown_format_refused() {
    assert_eq!(RowEdit::of_change(b"z1", Some(Bytes::from_static(b"?"))).unwrap(), None);
    assert_eq!(RowEdit::of_change(b"n", None).unwrap(), None);
    let error = Row::decode(RowKey::Counters, Bytes::from_static(&[9])).unwrap_err();
    assert!(error.to_string().contains("format 9"), "{error}");
}

/// A keyspace with something in every field.
fn orders() -> Row {
    Row::Keyspace(KeyspaceRow {
        id: KeyspaceId(2),
        name: "orders".into(),
        mode: Mode::Cp,
        sharding: Sharding::Hash,
        replicas: 3,
        read_level: ReadLevel::Bounded(Duration::from_millis(200)),
        limits: Limits { key_bytes_max: 1, value_bytes_max: 2, batch_operations_max: 3, batch_bytes_max: 4 },
        images: Images::NewAndOld,
        has_leases: true,
        created_ms: 5,
    })
}

/// A shard with something in every field.
fn shard_7() -> Row {
    let (staying, coming) = ((ReplicaId(5), NodeId(6)), (ReplicaId(8), NodeId(9)));
    Row::Shard(ShardRow {
        shard: ShardId(7),
        keyspace: KeyspaceId(2),
        range: PlacementRange { start: Bytes::from_static(b"a"), end: Some(Bytes::from_static(b"mm")) },
        epoch: 3,
        incarnation: 4,
        founders: vec![staying],
        replicas: vec![
            ReplicaRow { standing: Standing::Leaving, ..ReplicaRow::member(staying) },
            ReplicaRow { standing: Standing::Joining, ..ReplicaRow::member(coming) },
        ],
        leader_wish: NodeId(6),
        stage: ShardStage::Ready,
    })
}

/// A node with something in every field.
fn node_9() -> NodeRow {
    NodeRow {
        node: NodeId(9),
        client: "c".into(),
        peer: "p".into(),
        zone: "z".into(),
        directory: 3,
        state: NodeState::Draining,
        behaviour: Behaviour(4),
        build: "b".into(),
    }
}

/// An operator with something in every field.
fn operator_3() -> OperatorRow {
    OperatorRow {
        id: OperatorId(3),
        shard: ShardId(7),
        task: Task::Change { add: Some((ReplicaId(8), NodeId(9))), remove: Some((ReplicaId(5), NodeId(6))) },
        origin: Origin::Drain,
        cause: "why".into(),
        state: OperatorState::Failed("no".into()),
        created_ms: 1,
        ended_ms: 2,
    }
}
