//! What a node is told before it starts: from configuration, identity and the copy of the map.
//!
//! **Invariant.** Every founder tells the same nodes and keyspaces; its own row says where it is now. Once there is a
//! map, only that row counts.

use crate::{
    beginning::{Beginning, Fatal, random_number},
    config::Config,
};
use kvorum_api::NodeId;
use kvorum_consensus::{
    NodeConfig,
    metadata::{Founding, NodeRow, balance::Rules},
    node::{Budget, Timing},
};
use std::collections::BTreeMap;

/// The first nodes: those listed, or this one by itself; each where it is by the configuration.
#[must_use]
pub fn founding(config: &Config, beginning: &Beginning) -> Founding {
    let me = beginning.identity.node;
    let (client, peer, zone) = (beginning.client.clone(), beginning.peer.clone(), config.node.zone.clone());
    let here = NodeRow::of_this_build(me, client, peer, zone, 0);
    let others = config.founders.iter().filter(|founder| founder.id != me).map(|founder| {
        let (client, peer, zone) = (founder.client.clone(), founder.peer.clone(), founder.zone.clone());
        NodeRow::of_this_build(founder.id, client, peer, zone, 0)
    });
    let mut nodes: Vec<NodeRow> = others.chain([here]).collect();
    nodes.sort_by_key(|row| row.node);
    let keyspaces = config.keyspaces.iter().map(|keyspace| (keyspace.name.clone(), keyspace.wish.clone()));
    Founding { nodes, keyspaces: keyspaces.collect() }
}

/// Everything a node is told.
///
/// # Errors
/// The system gives no random numbers, or the founding cannot be.
pub fn node_config(config: &Config, beginning: &Beginning) -> Result<NodeConfig, Fatal> {
    let identity = &beginning.identity;
    let founding = founding(config, beginning);
    if beginning.map.is_none() {
        founding.check().map_err(|error| Fatal::of(format!("the cluster cannot be founded: {error}")))?;
    }
    let nodes: BTreeMap<NodeId, String> = founding.nodes.iter().map(|row| (row.node, row.client.clone())).collect();
    Ok(NodeConfig {
        cluster: identity.cluster,
        node: identity.node,
        start: identity.start,
        boot_nonce: random_number()? as u64,
        founding,
        map: beginning.map.clone(),
        nodes,
        shards: Vec::new(),
        timing: Timing {
            heartbeat: config.raft.heartbeat,
            election_min: config.raft.election_min,
            election_max: config.raft.election_max,
            clock_offset_max: config.raft.clock_offset_max,
            idle_close_after: config.raft.idle_close_after.unwrap_or_default(),
        },
        budget: Budget {
            journal_bytes_max: config.storage.journal_bytes_max,
            follower_log_bytes_max: config.raft.follower_log_bytes_max,
            snapshot_chunk_bytes: config.raft.snapshot_chunk as usize,
            change_bytes_max: config.storage.change_bytes_max,
            change_age_max: config.storage.change_age_max,
            move_bytes_per_second: config.balance.move_bytes_per_second,
            balance: Rules {
                is_on: config.balance.enabled,
                replace_after: config.balance.replace_after,
                moves_max: config.balance.moves_per_node,
            },
            ..Budget::default()
        },
    })
}
