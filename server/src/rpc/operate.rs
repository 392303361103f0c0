//! Operators and what is foreseen, for the wire; and what an operator's requests ask of the metadata.
//!
//! **Invariant.** What an operator is, is the map's to say; what it waits for, only whoever leads its shard knows.

use super::door::Door;
use crate::router::Hall;
use kvorum_api::{AdminError, NodeId, OperatorId, ShardId, proto};
use kvorum_consensus::metadata::{
    Forecast, Foreseen, METADATA_SHARD, MetadataCommand, NodeState, OperatorRow, OperatorState, OperatorWish, Origin,
    Standing, Task,
};
use std::collections::BTreeMap;

/// Why a person's change is made, where a sentence is kept.
const ASKED: &str = "asked for";

/// What the metadata is called where keyspaces are named; no keyspace can have this name.
pub const METADATA_NAME: &str = "(metadata)";

/// Words of the states of an operator, as requests name them.
const STATES: [&str; 5] = ["running", "cancelling", "done", "cancelled", "failed"];

/// Which operators are asked for.
///
/// # Errors
/// A state that is none, or an operator that there is not.
pub fn operators(
    door: &Door,
    hall: &Hall,
    request: &proto::ListOperatorsRequest,
) -> Result<Vec<proto::OperatorDescription>, AdminError> {
    if !request.state.is_empty() && !STATES.contains(&request.state.as_str()) {
        let problem = format!("{:?}: use one of {}", request.state, STATES.join(", "));
        return Err(AdminError::Invalid { field: "state", problem });
    }
    if let Some(shard) = request.shard.map(ShardId).filter(|shard| !is_there(hall, *shard)) {
        return Err(unknown_shard(hall, shard));
    }
    for id in &request.ids {
        if !hall.map.operators.contains_key(&OperatorId(*id)) {
            return Err(unknown_operator(hall, *id));
        }
    }
    let is_named = |row: &&OperatorRow| request.ids.is_empty() || request.ids.contains(&row.id.0);
    // Who names an operator or a state wants it, be it over or not.
    let is_wide = request.all || !request.ids.is_empty() || !request.state.is_empty();
    let is_meant = |row: &&OperatorRow| {
        let is_of_shard = request.shard.is_none_or(|shard| shard == row.shard.0);
        let is_of_state = request.state.is_empty() || request.state == state_word(&row.state);
        is_of_shard && is_of_state && (is_wide || row.is_open())
    };
    let rows = hall.map.operators.values().filter(is_named).filter(is_meant);
    Ok(rows.map(|row| operator(door, hall, row)).collect())
}

/// One operator.
#[must_use]
pub fn operator(door: &Door, hall: &Hall, row: &OperatorRow) -> proto::OperatorDescription {
    let (task, from, to) = task_words(row.task);
    let is_over = !row.is_open();
    let now_ms = door.node.stamp().ms();
    let until_ms = if is_over { row.ended_ms } else { now_ms };
    let waits_for = door.node.replica(row.shard).filter(|_| !is_over).and_then(|replica| replica.waits_for());
    proto::OperatorDescription {
        id: row.id.0,
        shard: row.shard.0,
        keyspace: keyspace_of(hall, row.shard),
        task: task.to_owned(),
        from_node: from.map(|node| node.0),
        to_node: to.map(|node| node.0),
        origin: row.origin.to_string(),
        cause: row.cause.clone(),
        state: state_word(&row.state).to_owned(),
        failure: match &row.state {
            OperatorState::Failed(why) => why.clone(),
            OperatorState::Running | OperatorState::Cancelling | OperatorState::Done | OperatorState::Cancelled => {
                String::new()
            }
        },
        created_ms: row.created_ms,
        ended_ms: is_over.then_some(row.ended_ms),
        age_ms: until_ms.saturating_sub(row.created_ms),
        waits_for: waits_for.unwrap_or_default(),
    }
}

/// What is foreseen.
#[must_use]
pub fn foreseen(hall: &Hall, forecast: Forecast) -> proto::ChangeReply {
    let one = |foreseen: &Foreseen| {
        let (task, from, to) = match foreseen.wish {
            OperatorWish::Move { from, to } => ("move", Some(from), Some(to)),
            OperatorWish::Add(to) => ("add", None, Some(to)),
            OperatorWish::Remove(from) => ("remove", Some(from), None),
            OperatorWish::Lead(to) => ("lead", None, Some(to)),
        };
        proto::ForeseenMove {
            shard: foreseen.shard.0,
            keyspace: keyspace_of(hall, foreseen.shard),
            task: task.to_owned(),
            from_node: from.map(|node| node.0),
            to_node: to.map(|node| node.0),
            bytes: foreseen.bytes,
            spare_before: foreseen.spare_before,
            spare_meanwhile: foreseen.spare_meanwhile,
        }
    };
    proto::ChangeReply {
        moves: forecast.moves.iter().map(one).collect(),
        held_up: forecast.held_up,
        map_revision: hall.map.revision,
        ..proto::ChangeReply::default()
    }
}

/// A replica goes from one node to another because a person wants it.
///
/// # Errors
/// A shard that there is not.
pub fn move_replica(hall: &Hall, request: &proto::MoveReplicaRequest) -> Result<MetadataCommand, AdminError> {
    let shard = known_shard(hall, request.shard)?;
    let wish = OperatorWish::Move { from: NodeId(request.from_node), to: NodeId(request.to_node) };
    Ok(asked_for(shard, wish))
}

/// Another replica leads because a person wants it: the named one, or whichever is best.
///
/// # Errors
/// A shard that there is not, or nobody who could lead instead.
pub fn transfer_leader(
    door: &Door,
    hall: &Hall,
    request: &proto::TransferLeaderRequest,
) -> Result<MetadataCommand, AdminError> {
    let shard = known_shard(hall, request.shard)?;
    let to = match request.to_node {
        0 => best_heir(door, hall, shard)?,
        node => NodeId(node),
    };
    Ok(asked_for(shard, OperatorWish::Lead(to)))
}

/// A node is drained, taken back or forgotten because a person wants it.
///
/// # Errors
/// A state that is none.
pub fn change_node(request: &proto::ChangeNodeRequest) -> Result<MetadataCommand, AdminError> {
    let state = match request.state.as_str() {
        "active" => NodeState::Active,
        "draining" => NodeState::Draining,
        "forgotten" => NodeState::Forgetting,
        other => {
            let problem = format!("state {other:?}: use active, draining or forgotten");
            return Err(AdminError::Invalid { field: "node", problem });
        }
    };
    Ok(MetadataCommand::SetNodeState { node: NodeId(request.node), state })
}

fn asked_for(shard: ShardId, wish: OperatorWish) -> MetadataCommand {
    MetadataCommand::Operate { shard, wish, origin: Origin::User, cause: ASKED.to_owned() }
}

/// Whoever leads fewest of those that could lead instead of whoever leads now.
fn best_heir(door: &Door, hall: &Hall, shard: ShardId) -> Result<NodeId, AdminError> {
    let wish = hall.map.shards.get(&shard).map(|row| row.leader_wish);
    let leader = door.node.replicator(shard).and_then(|replica| replica.status().leader).or(wish);
    let mut leads: BTreeMap<NodeId, usize> = BTreeMap::new();
    hall.map.shards.values().for_each(|row| *leads.entry(row.leader_wish).or_default() += 1);
    let members = hall.map.replicas_of(shard).iter().filter(|replica| replica.standing == Standing::Member);
    let others = members.map(|replica| replica.node).filter(|node| Some(*node) != leader);
    let heirs = others.filter(|node| *node == door.id || door.node.liveness().is_alive(*node));
    heirs.min_by_key(|node| (leads.get(node).copied().unwrap_or(0), *node)).ok_or_else(|| {
        let holders: Vec<String> = hall.map.replicas_of(shard).iter().map(|row| row.node.to_string()).collect();
        let problem = format!(
            "no other replica of shard {shard} is alive that could lead it (it is on nodes {}): start one, or move a \
             replica to another node",
            holders.join(", ")
        );
        AdminError::Invalid { field: "to", problem }
    })
}

fn known_shard(hall: &Hall, shard: u64) -> Result<ShardId, AdminError> {
    let shard = ShardId(shard);
    if is_there(hall, shard) { Ok(shard) } else { Err(unknown_shard(hall, shard)) }
}

fn is_there(hall: &Hall, shard: ShardId) -> bool {
    shard == METADATA_SHARD || hall.map.shards.contains_key(&shard)
}

fn unknown_shard(hall: &Hall, shard: ShardId) -> AdminError {
    let nearest = hall.map.shards.keys().min_by_key(|known| known.0.abs_diff(shard.0));
    let near = nearest.map_or_else(String::new, |nearest| format!(", the nearest is {nearest}"));
    AdminError::NotFound { what: format!("shard {shard}{near}: kvctl shard list shows them") }
}

fn unknown_operator(hall: &Hall, id: u64) -> AdminError {
    let what = match hall.map.operators.keys().min_by_key(|known| known.0.abs_diff(id)) {
        None => format!("operator {id}: there is none at all"),
        Some(nearest) => format!("operator {id}, the nearest is {nearest}: kvctl operator list --all shows them"),
    };
    AdminError::NotFound { what }
}

/// The name of a shard's keyspace.
#[must_use]
pub fn keyspace_of(hall: &Hall, shard: ShardId) -> String {
    match shard {
        METADATA_SHARD => METADATA_NAME.to_owned(),
        shard => hall.keyspace_of(shard).map_or_else(String::new, |row| row.name.clone()),
    }
}

fn task_words(task: Task) -> (&'static str, Option<NodeId>, Option<NodeId>) {
    match task {
        Task::Change { add, remove } => {
            let (from, to) = (remove.map(|(_, node)| node), add.map(|(_, node)| node));
            let word = match (from, to) {
                (Some(_), None) => "remove",
                (None, _) => "add",
                (Some(_), Some(_)) => "move",
            };
            (word, from, to)
        }
        Task::Lead(to) => ("lead", None, Some(to)),
    }
}

fn state_word(state: &OperatorState) -> &'static str {
    match state {
        OperatorState::Running => "running",
        OperatorState::Cancelling => "cancelling",
        OperatorState::Done => "done",
        OperatorState::Cancelled => "cancelled",
        OperatorState::Failed(_) => "failed",
    }
}
