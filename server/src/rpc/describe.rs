//! The map, for the wire: nodes, keyspaces, shards; for clients that look for the way and for operators.

use super::neighbours;
use crate::router::{Hall, Keyspace, ShardRoute};
use kvorum_api::{Mode, NodeId, ReadLevel, proto};
use kvorum_consensus::{
    Node,
    metadata::{KeyspaceRow, NodeState, ReplicaRow, ShardRow, ShardStage, Standing},
};
use kvorum_storage::command::Images;
use std::sync::Arc;

/// Shards that are named when something is wrong with many.
const SHORT_MAX: usize = 20;

/// Every node, for clients.
#[must_use]
pub fn nodes(hall: &Hall) -> Vec<proto::Node> {
    let node = |row: &kvorum_consensus::metadata::NodeRow| proto::Node {
        id: row.node.0,
        address: row.client.clone(),
        zone: row.zone.clone(),
    };
    hall.map.nodes.values().map(node).collect()
}

/// The keyspaces of these names, or all of them, for clients.
#[must_use]
pub fn keyspaces(hall: &Hall, names: &[String]) -> Vec<proto::Keyspace> {
    wanted(hall, names).map(|keyspace| self::keyspace(hall, keyspace)).collect()
}

fn wanted<'a>(hall: &'a Hall, names: &'a [String]) -> impl Iterator<Item = &'a Arc<Keyspace>> {
    hall.keyspaces().filter(move |keyspace| names.is_empty() || names.contains(&keyspace.row.name))
}

fn keyspace(hall: &Hall, keyspace: &Keyspace) -> proto::Keyspace {
    let row = &keyspace.row;
    proto::Keyspace {
        name: row.name.clone(),
        id: row.id.0,
        mode: row.mode.to_string(),
        value_bytes_max: row.limits.value_bytes_max as u64,
        shards: keyspace.shards().iter().map(|route| shard(hall, route)).collect(),
        shard_by: row.sharding.to_string(),
        read_level: row.read_level.to_string(),
    }
}

/// A shard, for clients.
#[must_use]
pub fn shard(hall: &Hall, route: &ShardRoute) -> proto::Shard {
    let row = &route.row;
    let replica = |replica: &ReplicaRow| proto::Replica {
        id: replica.replica.0,
        node: replica.node.0,
        address: hall.map.nodes.get(&replica.node).map_or_else(String::new, |node| node.client.clone()),
    };
    proto::Shard {
        id: row.shard.0,
        epoch: row.epoch,
        leader: leader(route).map(|node| node.0),
        // Who is still to come answers nobody.
        replicas: row.replicas.iter().filter(|replica| replica.is_in()).map(replica).collect(),
        start: row.range.start.clone(),
        end: row.range.end.clone(),
        incarnation: row.incarnation,
    }
}

/// Who leads: what the replica here knows, else whom the map wants.
fn leader(route: &ShardRoute) -> Option<NodeId> {
    match route.is_here() {
        true => route.leader(),
        false => Some(route.row.leader_wish),
    }
}

/// The keyspaces of these names, or all of them, for operators.
#[must_use]
pub fn descriptions(hall: &Hall, names: &[String]) -> Vec<proto::KeyspaceDescription> {
    wanted(hall, names).map(|keyspace| description(hall, keyspace)).collect()
}

/// A keyspace, for operators.
#[must_use]
pub fn description(hall: &Hall, keyspace: &Keyspace) -> proto::KeyspaceDescription {
    proto::KeyspaceDescription {
        name: keyspace.row.name.clone(),
        id: keyspace.row.id.0,
        wish: Some(wish(keyspace)),
        created_ms: keyspace.row.created_ms,
        shards: keyspace.shards().iter().map(|route| shard_description(route)).collect(),
        map_revision: hall.map.revision,
    }
}

fn wish(keyspace: &Keyspace) -> proto::KeyspaceWish {
    let KeyspaceRow { mode, sharding, replicas, read_level, limits, images, has_leases, .. } = &keyspace.row;
    let cuts = keyspace.shards().iter().skip(1).map(|route| route.row.range.start.clone());
    proto::KeyspaceWish {
        mode: mode.to_string(),
        shard_by: sharding.to_string(),
        shards: keyspace.shards().len() as u32,
        split_at: match sharding {
            kvorum_api::Sharding::Range => cuts.collect(),
            kvorum_api::Sharding::Hash => Vec::new(),
        },
        replicas: *replicas,
        read_level: read_level.as_str().to_owned(),
        staleness_ms_max: match read_level {
            ReadLevel::Bounded(bound) => bound.as_millis() as u32,
            _ => 0,
        },
        value_bytes_max: limits.value_bytes_max as u64,
        changes: images_word(*images).to_owned(),
        leases: (*mode == Mode::Cp).then_some(*has_leases),
    }
}

/// The word for the images of a change record.
#[must_use]
pub const fn images_word(images: Images) -> &'static str {
    match images {
        Images::Keys => "keys",
        Images::New => "new",
        Images::NewAndOld => "new_and_old",
    }
}

fn shard_description(route: &ShardRoute) -> proto::ShardDescription {
    let row = &route.row;
    proto::ShardDescription {
        id: row.shard.0,
        start: row.range.start.clone(),
        end: row.range.end.clone(),
        epoch: row.epoch,
        incarnation: row.incarnation,
        state: match row.stage {
            ShardStage::Creating => "creating",
            ShardStage::Ready => "ready",
        }
        .to_owned(),
        replicas: row.replicas.iter().map(shard_replica).collect(),
        leader_wish: row.leader_wish.0,
        leader: route.leader().map(|node| node.0),
    }
}

fn shard_replica(row: &ReplicaRow) -> proto::ShardReplica {
    let standing = match row.standing {
        Standing::Member => "member",
        Standing::Joining => "joining",
        Standing::Leaving => "leaving",
    };
    proto::ShardReplica { id: row.replica.0, node: row.node.0, standing: standing.to_owned() }
}

/// Every node, for operators; `start` says which one this is, and in which of its lives.
#[must_use]
pub fn node_descriptions(hall: &Hall, here: &Node, start: (NodeId, u64)) -> Vec<proto::NodeDescription> {
    let status = here.status();
    let describe = |row: &kvorum_consensus::metadata::NodeRow| {
        let peer = status.peers.iter().find(|peer| peer.node == row.node);
        proto::NodeDescription {
            id: row.node.0,
            client: row.client.clone(),
            peer: row.peer.clone(),
            zone: row.zone.clone(),
            metadata_voter: hall.map.metadata.iter().any(|replica| replica.node == row.node && replica.is_in()),
            liveness: neighbours::liveness(here, row.node).to_owned(),
            heard_ms_ago: peer.and_then(|peer| peer.heard_ago).map(|ago| ago.as_millis() as u64),
            replicas: replicas_on(hall, row.node),
            start_count: match row.node == start.0 {
                true => Some(start.1),
                false => peer.and_then(|peer| peer.start).map(|start| start.0),
            },
            state: node_state_word(row.state).to_owned(),
            behaviour: row.behaviour.0,
            build: row.build.clone(),
        }
    };
    hall.map.nodes.values().map(describe).collect()
}

/// What is to become of a node.
pub fn node_state_word(state: NodeState) -> &'static str {
    match state {
        NodeState::Active => "active",
        NodeState::Draining => "draining",
        NodeState::Forgetting => "forgetting",
    }
}

fn replicas_on(hall: &Hall, node: NodeId) -> u64 {
    let holds = |row: &&kvorum_consensus::metadata::ShardRow| row.replicas.iter().any(|replica| replica.node == node);
    hall.map.shards.values().filter(holds).count() as u64
}

/// How many shards have fewer living replicas than they should, as this node sees it.
#[must_use]
pub fn short_count(hall: &Hall, here: &Node) -> usize {
    let shards = hall.keyspaces().flat_map(|keyspace| keyspace.shards().iter().map(move |route| (keyspace, route)));
    shards.filter(|(keyspace, route)| living(&route.row, here) < keyspace.row.replicas as usize).count()
}

/// The same in words: one sentence each, and at most [`SHORT_MAX`] of them.
#[must_use]
pub fn short(hall: &Hall, here: &Node) -> Vec<String> {
    let shards = hall.keyspaces().flat_map(|keyspace| keyspace.shards().iter().map(move |route| (keyspace, route)));
    let is_short = |(keyspace, route): &(&Arc<Keyspace>, &Arc<ShardRoute>)| {
        living(&route.row, here) < keyspace.row.replicas as usize
    };
    let sentence = |(keyspace, route): (&Arc<Keyspace>, &Arc<ShardRoute>)| {
        let (row, wished) = (&route.row, keyspace.row.replicas);
        let lost = row.replicas.iter().filter(|replica| here.liveness().is_lost(replica.node));
        let lost: Vec<String> = lost.map(|replica| replica.node.to_string()).collect();
        let why = if lost.is_empty() { String::new() } else { format!(" (lost: node {})", lost.join(", ")) };
        let (shard, name, living) = (row.shard, &keyspace.row.name, living(row, here));
        format!("shard {shard} of {name} has {living} of {wished} replicas{why}")
    };
    let mut sentences: Vec<String> = shards.filter(is_short).take(SHORT_MAX).map(sentence).collect();
    let more = short_count(hall, here) - sentences.len();
    if more > 0 {
        sentences.push(format!("and {more} shards more"));
    }
    sentences
}

/// Replicas of a shard that are in, on nodes that are not lost.
fn living(row: &ShardRow, here: &Node) -> usize {
    row.replicas.iter().filter(|replica| replica.is_in() && !here.liveness().is_lost(replica.node)).count()
}
