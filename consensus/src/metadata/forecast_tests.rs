//! What is foreseen is what happens.

use super::*;
use crate::metadata::{
    NodeState,
    balance::tests::{LONG, add_node, ask, cluster, loads, lost, settle},
    operator::Origin,
};
use std::collections::BTreeMap;

fn drain(node: u64) -> MetadataCommand {
    MetadataCommand::SetNodeState { node: NodeId(node), state: NodeState::Draining }
}

fn weighed(map: &ClusterMap, lost: Facts) -> Facts {
    Facts { bytes: map.shards.keys().map(|shard| (*shard, 100 + shard.0)).collect(), ..lost }
}

#[test]
fn a_drain_is_foreseen_as_it_happens() {
    let mut map = cluster(&[0, 0, 0, 0], &[(8, 3)]);
    let facts = weighed(&map, Facts::default());
    let before = map.clone();
    let foreseen = forecast(&map, &drain(2), &facts).unwrap();
    assert_eq!(map, before, "nothing is changed");
    ask(&mut map, &drain(2), &BTreeSet::new());
    settle(&mut map, &facts, Rules::default());
    assert_eq!(loads(&map)[&NodeId(2)], 0);
    let moved: BTreeMap<ShardId, Vec<NodeId>> = before
        .shards
        .values()
        .filter(|row| map.shards[&row.shard].replicas != row.replicas)
        .map(|row| (row.shard, map.shards[&row.shard].replicas.iter().map(|replica| replica.node).collect()))
        .collect();
    let of_data: Vec<_> = foreseen.moves.iter().filter(|foreseen| foreseen.shard != METADATA_SHARD).collect();
    assert_eq!(of_data.len(), moved.len());
    for foreseen in of_data {
        let OperatorWish::Move { from, to } = foreseen.wish else { panic!("{foreseen:?}") };
        assert_eq!(from, NodeId(2));
        assert!(moved[&foreseen.shard].contains(&to));
        assert_eq!(foreseen.bytes, Some(100 + foreseen.shard.0));
        assert_eq!((foreseen.spare_before, foreseen.spare_meanwhile), (1, 1));
    }
    assert_eq!(foreseen.moves.iter().filter(|foreseen| foreseen.shard == METADATA_SHARD).count(), 1);
    assert_eq!(foreseen.held_up, Vec::<String>::new());
}

#[test]
fn what_would_be_refused_is_refused_with_the_same_words() {
    let map = cluster(&[0, 0, 0], &[(2, 3)]);
    let facts = Facts::default();
    let refused = forecast(&map, &drain(2), &facts).unwrap_err();
    assert_eq!(refused, plan(&map, &drain(2), 0, &BTreeSet::new()).unwrap_err());
    assert!(refused.to_string().contains("\"k0\""), "{refused}");
}

#[test]
fn risk_is_what_both_majorities_can_spare() {
    let mut map = cluster(&[0, 0, 0], &[(1, 3)]);
    add_node(&mut map, 4, 0);
    let shard = *map.shards.keys().next().unwrap();
    let wish = OperatorWish::Move { from: NodeId(3), to: NodeId(4) };
    let command = MetadataCommand::Operate { shard, wish, origin: Origin::User, cause: String::new() };
    let dead = lost(&[3], LONG);
    let foreseen = forecast(&map, &command, &dead).unwrap().moves[0];
    assert_eq!((foreseen.spare_before, foreseen.spare_meanwhile, foreseen.bytes), (0, 0, None));
    let foreseen = forecast(&map, &command, &Facts::default()).unwrap().moves[0];
    assert_eq!((foreseen.spare_before, foreseen.spare_meanwhile), (1, 1));
    let lead = MetadataCommand::Operate {
        shard,
        wish: OperatorWish::Lead(NodeId(2)),
        origin: Origin::User,
        cause: String::new(),
    };
    assert_eq!(forecast(&map, &lead, &Facts::default()).unwrap().moves[0].bytes, Some(0));
}

#[test]
fn a_dead_node_that_is_forgotten_is_emptied_and_one_taken_back_moves_nothing() {
    let mut map = cluster(&[0, 0, 0, 0], &[(4, 3)]);
    let dead = weighed(&map, lost(&[3], LONG));
    let forget = MetadataCommand::SetNodeState { node: NodeId(3), state: NodeState::Forgetting };
    let held = loads(&map)[&NodeId(3)];
    let foreseen = forecast(&map, &forget, &dead).unwrap();
    assert_eq!(foreseen.moves.iter().filter(|foreseen| foreseen.shard != METADATA_SHARD).count(), held);
    ask(&mut map, &drain(2), &BTreeSet::new());
    let back = MetadataCommand::SetNodeState { node: NodeId(2), state: NodeState::Active };
    assert_eq!(forecast(&map, &back, &Facts::default()).unwrap(), Forecast::default());
}
