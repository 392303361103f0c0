//! What every node can apply and what the cluster applies, for the wire.
//!
//! **Invariant.** What is in the way is told here as this node sees it; what is decided is decided where the metadata
//! is led, by its own view.

use super::{describe, door::Door};
use crate::router::Hall;
use kvorum_api::{NodeId, StartCount, proto};
use kvorum_consensus::metadata::{common_behaviour, upgrade_obstacles};
use std::collections::BTreeSet;

/// By a copy of the map.
#[must_use]
pub fn reply(door: &Door, hall: &Hall, start: StartCount) -> proto::UpgradeReply {
    let map = &hall.map;
    let lost: BTreeSet<NodeId> = map.nodes.keys().copied().filter(|node| door.node.liveness().is_lost(*node)).collect();
    proto::UpgradeReply {
        behaviour: map.behaviour.0,
        newest: common_behaviour(map).0,
        nodes: describe::node_descriptions(hall, &door.node, (door.id, start.0)),
        in_the_way: upgrade_obstacles(map, &lost),
        map_revision: map.revision,
    }
}
