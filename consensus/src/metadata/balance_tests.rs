//! What is advised ends, and ends well, whatever the cluster looks like.

use super::*;
use crate::metadata::{
    ClusterMap, Ending, Founding, KeyspaceWish, NodeRow, Row, RowEdit, ShardRow,
    plan::{Plan, found},
};
use kvorum_api::{ReplicaId, Sharding};
use proptest::prelude::*;

/// A balancer that acts by itself.
const ON: Rules = Rules { is_on: true, replace_after: Duration::from_secs(600), moves_max: 2 };

pub(in crate::metadata) const LONG: Duration = Duration::from_secs(3_600);

fn node(id: u64, zone: u64) -> NodeRow {
    let (client, peer) = (format!("10.0.0.{id}:7101"), format!("10.0.0.{id}:7201"));
    NodeRow::of_this_build(NodeId(id), client, peer, format!("z{zone}"), 0)
}

fn carry_out(map: &mut ClusterMap, plan: Plan) {
    map.revision += plan.edits.len() as u64;
    plan.edits.into_iter().for_each(|edit| map.apply(edit));
}

pub(in crate::metadata) fn ask(map: &mut ClusterMap, command: &MetadataCommand, lost: &BTreeSet<NodeId>) {
    let planned = plan(map, command, 1, lost).unwrap_or_else(|error| panic!("{command:?}: {error}"));
    carry_out(map, planned);
}

/// A cluster whose shards are ready; `zones[n]` is the zone of node n + 1.
pub(in crate::metadata) fn cluster(zones: &[u64], keyspaces: &[(u32, u32)]) -> ClusterMap {
    let nodes = zones.iter().zip(1..).map(|(zone, id)| node(id, *zone)).collect();
    let mut map = ClusterMap::default();
    carry_out(&mut map, found(&Founding { nodes, keyspaces: Vec::new() }, 1).unwrap());
    for (at, (shards, replicas)) in keyspaces.iter().enumerate() {
        let wish = KeyspaceWish {
            sharding: Some(Sharding::Hash),
            shards: Some(*shards),
            replicas: Some(*replicas),
            ..KeyspaceWish::default()
        };
        ask(&mut map, &MetadataCommand::CreateKeyspace { name: format!("k{at}"), wish }, &BTreeSet::new());
    }
    let shards = map.shards.keys().copied().collect();
    ask(&mut map, &MetadataCommand::ShardsReady { shards }, &BTreeSet::new());
    map
}

pub(in crate::metadata) fn add_node(map: &mut ClusterMap, id: u64, zone: u64) {
    map.apply(RowEdit::Put(Row::Node(node(id, zone))));
    map.counters.next_node = map.counters.next_node.max(NodeId(id + 1));
}

/// Does what is advised until nothing is; how many replicas that moved.
pub(in crate::metadata) fn settle(map: &mut ClusterMap, facts: &Facts, rules: Rules) -> usize {
    let lost: BTreeSet<NodeId> = facts.lost.keys().copied().collect();
    let mut moved = 0;
    for _ in 0..500 {
        let advice = balance(map, facts, rules);
        if advice.commands.is_empty() {
            return moved;
        }
        for command in advice.commands {
            moved += usize::from(matches!(command, MetadataCommand::Operate { wish: OperatorWish::Move { .. }, .. }));
            ask(map, &command, &lost);
        }
        let open: Vec<_> = map.operators.values().filter(|row| row.is_open()).map(|row| row.id).collect();
        for operator in open {
            ask(map, &MetadataCommand::OperatorEnded { operator, ending: Ending::Done }, &lost);
        }
    }
    panic!("it does not end");
}

pub(in crate::metadata) fn loads(map: &ClusterMap) -> BTreeMap<NodeId, usize> {
    let mut loads: BTreeMap<NodeId, usize> = map.nodes.keys().map(|node| (*node, 0)).collect();
    let replicas = map.shards.values().flat_map(|row| &row.replicas);
    replicas.for_each(|replica| *loads.entry(replica.node).or_default() += 1);
    loads
}

pub(in crate::metadata) fn lost(nodes: &[u64], lost_for: Duration) -> Facts {
    Facts { lost: nodes.iter().map(|node| (NodeId(*node), lost_for)).collect(), ..Facts::default() }
}

#[test]
fn a_new_node_fills_up_and_nothing_is_moved_twice() {
    let mut map = cluster(&[0, 0, 0], &[(64, 3)]);
    assert_eq!(settle(&mut map, &Facts::default(), ON), 0, "what was just placed is balanced");
    add_node(&mut map, 4, 0);
    let moved = settle(&mut map, &Facts::default(), ON);
    let loads = loads(&map);
    assert!(loads.values().all(|load| (47..=49).contains(load)), "{loads:?}");
    let led: Vec<usize> =
        map.nodes.keys().map(|n| map.shards.values().filter(|s| s.leader_wish == *n).count()).collect();
    assert!(led.iter().max().unwrap() - led.iter().min().unwrap() <= 1, "{led:?}");
    assert_eq!(moved, 48, "not one more than the new node gets");
}

#[test]
fn a_drained_node_empties_and_a_forgotten_one_goes() {
    let mut map = cluster(&[0, 0, 0, 0], &[(8, 3)]);
    let state = NodeState::Draining;
    ask(&mut map, &MetadataCommand::SetNodeState { node: NodeId(2), state }, &BTreeSet::new());
    settle(&mut map, &Facts::default(), Rules::default());
    assert_eq!(loads(&map)[&NodeId(2)], 0);
    assert!(map.metadata.iter().all(|row| row.node != NodeId(2)) && map.metadata.len() == 3);
    assert!(map.shards.values().all(|row| row.leader_wish != NodeId(2)));
    let dead = lost(&[2], LONG);
    let state = NodeState::Forgetting;
    ask(&mut map, &MetadataCommand::SetNodeState { node: NodeId(2), state }, &BTreeSet::from([NodeId(2)]));
    settle(&mut map, &dead, ON);
    assert!(!map.nodes.contains_key(&NodeId(2)) && map.has_forgotten(NodeId(2)));
}

#[test]
fn a_node_that_is_lost_is_replaced_once_it_has_been_long_enough() {
    let mut map = cluster(&[0, 0, 0, 0], &[(8, 3)]);
    let rules = ON;
    let before = map.clone();
    settle(&mut map, &lost(&[3], rules.replace_after / 2), rules);
    assert_eq!(map, before, "it may come back");
    settle(&mut map, &lost(&[3], rules.replace_after), Rules { is_on: false, ..rules });
    assert_eq!(map, before, "not by itself");
    settle(&mut map, &lost(&[3], rules.replace_after), rules);
    assert_eq!(loads(&map)[&NodeId(3)], 0);
    assert!(map.shards.values().all(|row| row.replicas.len() == 3));
    let fresh =
        map.shards.values().flat_map(|row| &row.replicas).filter(|row| row.replica >= before.counters.next_replica);
    assert_eq!(fresh.count(), loads(&before)[&NodeId(3)], "as many as were lost, and under ids of their own");
}

#[test]
fn what_cannot_be_done_is_said() {
    let map = cluster(&[0, 0, 0], &[(2, 3)]);
    let advice = balance(&map, &lost(&[3], LONG), ON);
    assert_eq!(advice.commands, []);
    assert!(advice.held_up[0].contains("no other node is up that could take it"), "{:?}", advice.held_up);
    let advice = balance(&map, &lost(&[2, 3], LONG), ON);
    assert_eq!(advice.commands, [], "no majority could agree on anything");
}

#[test]
fn an_operator_whose_new_node_died_is_cancelled() {
    let mut map = cluster(&[0, 0, 0, 0], &[(1, 3)]);
    let row = map.shards.values().next().unwrap().clone();
    let to = map.nodes.keys().copied().find(|node| row.replicas.iter().all(|replica| replica.node != *node)).unwrap();
    let wish = OperatorWish::Move { from: row.replicas[0].node, to };
    let command = MetadataCommand::Operate { shard: row.shard, wish, origin: Origin::User, cause: String::new() };
    ask(&mut map, &command, &BTreeSet::new());
    let operator = map.operator_of(row.shard).unwrap().id;
    assert_eq!(balance(&map, &lost(&[to.0], NEWCOMER_PATIENCE), ON).commands, []);
    let advice = balance(&map, &lost(&[to.0], LONG), ON);
    assert_eq!(advice.commands, [MetadataCommand::CancelOperator { operator }]);
}

#[test]
fn no_node_takes_in_more_than_its_share_at_a_time() {
    let mut map = cluster(&[0, 0, 0], &[(64, 3)]);
    add_node(&mut map, 4, 0);
    let advice = balance(&map, &Facts::default(), Rules { moves_max: 3, ..ON });
    assert_eq!(advice.commands.len(), 3);
}

const MIB: u64 = 1 << 20;

/// Bytes on every node, if the shards have these.
fn bytes_on(map: &ClusterMap, bytes: &BTreeMap<ShardId, u64>) -> BTreeMap<NodeId, u64> {
    let mut all: BTreeMap<NodeId, u64> = map.nodes.keys().map(|node| (*node, 0)).collect();
    for row in map.shards.values() {
        row.replicas.iter().for_each(|replica| *all.entry(replica.node).or_default() += bytes[&row.shard]);
    }
    all
}

/// Equally many replicas, and one node holds all the large ones: large ones are exchanged for small ones.
#[test]
fn bytes_are_evened_out_without_unevening_counts() {
    let mut map = cluster(&[0, 0, 0], &[(12, 1)]);
    let weight = |row: &ShardRow| if row.replicas[0].node == NodeId(1) { 100 * MIB } else { MIB };
    let bytes: BTreeMap<ShardId, u64> = map.shards.values().map(|row| (row.shard, weight(row))).collect();
    let facts = Facts { bytes: bytes.clone(), ..Facts::default() };
    let before = loads(&map);
    settle(&mut map, &facts, ON);
    assert_eq!(loads(&map), before);
    let on = bytes_on(&map, &bytes);
    assert_eq!(on.values().max().unwrap() / MIB, 202, "four large ones on three nodes: {on:?}");
}

#[test]
fn a_node_that_holds_one_replica_more_gives_one_away() {
    let mut map = cluster(&[0, 0, 0], &[(4, 1)]);
    let most = *loads(&map).iter().max_by_key(|(_, load)| **load).unwrap().0;
    let held = map.shards.values().filter(|row| row.replicas[0].node == most).map(|row| row.shard);
    let held: Vec<ShardId> = held.collect();
    let weight = |shard: ShardId| match held.iter().position(|held| *held == shard) {
        Some(0) => 300 * MIB,
        Some(_) => 100 * MIB,
        None => 50 * MIB,
    };
    let bytes: BTreeMap<ShardId, u64> = map.shards.keys().map(|shard| (*shard, weight(*shard))).collect();
    let moved = settle(&mut map, &Facts { bytes: bytes.clone(), ..Facts::default() }, ON);
    assert!(moved > 0);
    assert_eq!(bytes_on(&map, &bytes)[&most], 300 * MIB, "the large one stays, the other goes");
    assert!(loads(&map).values().all(|load| *load == 1 || *load == 2));
}

#[test]
fn small_differences_and_unweighed_shards_are_left_alone() {
    let map = cluster(&[0, 0, 0], &[(12, 1)]);
    let weigh = |large: u64, small: u64| -> BTreeMap<ShardId, u64> {
        let weight = |row: &ShardRow| if row.replicas[0].node == NodeId(1) { large } else { small };
        map.shards.values().map(|row| (row.shard, weight(row))).collect()
    };
    let advised = |bytes| balance(&map, &Facts { bytes, ..Facts::default() }, ON).commands.len();
    assert_eq!(advised(weigh(16 * MIB, 0)), 0, "64 MiB are not worth it");
    assert_eq!(advised(weigh(17 * MIB, 0)), 2, "one goes, one comes");
    assert_eq!(advised(weigh(1_000 * MIB, 900 * MIB)), 0, "nor is a tenth");
    let mut bytes = weigh(1_000 * MIB, 0);
    bytes.pop_first();
    assert_eq!(advised(bytes), 0, "who is not weighed may be the heaviest of all");
}

proptest! {
    /// Bytes are one more reason to move something: it ends all the same, and counts stay even.
    #[test]
    fn it_ends_whatever_the_shards_weigh(
        zones in proptest::collection::vec(0..3_u64, 2..7),
        shards in 1..24_u32,
        replicas in prop_oneof![Just(1_u32), Just(3)],
        weights in proptest::collection::vec(0..2_000_u64, 24),
        newcomer in proptest::option::of(0..3_u64),
    ) {
        prop_assume!(replicas as usize <= zones.len());
        let mut map = cluster(&zones, &[(shards, replicas)]);
        if let Some(zone) = newcomer {
            add_node(&mut map, zones.len() as u64 + 1, zone);
        }
        let bytes: BTreeMap<ShardId, u64> =
            map.shards.keys().zip(&weights).map(|(shard, weight)| (*shard, weight * MIB)).collect();
        let by_counts = { let mut map = map.clone(); settle(&mut map, &Facts::default(), ON); map };
        let spread = |map: &ClusterMap| {
            let on = loads(map);
            on.values().max().unwrap() - on.values().min().unwrap()
        };
        let squares = |map: &ClusterMap| -> u128 {
            bytes_on(map, &bytes).values().map(|bytes| u128::from(*bytes) * u128::from(*bytes)).sum()
        };
        // From where counts alone would leave it, bytes make it better or leave it.
        let mut weighed = by_counts.clone();
        let facts = Facts { bytes: bytes.clone(), ..Facts::default() };
        settle(&mut weighed, &facts, ON);
        prop_assert!(squares(&weighed) <= squares(&by_counts));
        prop_assert!(spread(&weighed) <= spread(&by_counts).max(1) + 1);
        let mut at_once = map.clone();
        settle(&mut at_once, &facts, ON);
        prop_assert_eq!(balance(&at_once, &facts, ON).commands, []);
    }

    #[test]
    fn it_ends_and_everything_stands_where_it_should(
        zones in proptest::collection::vec(0..3_u64, 3..8),
        keyspaces in proptest::collection::vec((1..12_u32, prop_oneof![Just(1_u32), Just(3)]), 1..3),
        newcomers in proptest::collection::vec(0..4_u64, 0..3),
        drained in proptest::option::of(0..8_usize),
    ) {
        let mut map = cluster(&zones, &keyspaces);
        for (zone, id) in newcomers.iter().zip(zones.len() as u64 + 1..) {
            add_node(&mut map, id, *zone);
        }
        let drained = drained.map(|at| NodeId(at as u64 % map.nodes.len() as u64 + 1));
        if let Some(node) = drained {
            let command = MetadataCommand::SetNodeState { node, state: NodeState::Draining };
            match plan(&map, &command, 1, &BTreeSet::new()) {
                Ok(planned) => carry_out(&mut map, planned),
                Err(_) => return Ok(()),
            }
        }
        let highest = map.counters.next_replica;
        settle(&mut map, &Facts::default(), ON);
        let mut seen = BTreeSet::new();
        for (shard, replicas) in shards(&map) {
            let nodes: BTreeSet<NodeId> = replicas.iter().map(|row| row.node).collect();
            prop_assert_eq!(nodes.len(), replicas.len(), "one replica of a shard on a node");
            prop_assert!(drained.is_none_or(|drained| !nodes.contains(&drained)), "shard {}", shard);
            prop_assert!(replicas.iter().all(|row| row.is_in()));
            prop_assert!(replicas.iter().all(|row| seen.insert(row.replica)), "an id is used once");
            if let Some(row) = map.shards.get(&shard) {
                prop_assert!(nodes.contains(&row.leader_wish));
                prop_assert_eq!(replicas.len() as u32, map.keyspaces[&row.keyspace].replicas);
            }
        }
        prop_assert!(map.counters.next_replica >= highest);
        prop_assert!(map.counters.next_replica > seen.into_iter().max().unwrap_or(ReplicaId(0)));
    }
}
