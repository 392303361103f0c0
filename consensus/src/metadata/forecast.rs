//! What a change would lead to, without making it: what is moved, how much that is, and how many more losses each shard
//! survives meanwhile. Pure.
//!
//! ```text
//!   map, command ──▶ plan: refused, with its reason
//!                └─▶ an operator: that one            a node drained or forgotten: all that the balancer would ask for
//! ```
//!
//! **Invariant.** What is foreseen is what the plan and the balancer decide, asked with a copy of the map: there is no
//! second opinion to differ from theirs. Nothing is changed.

use super::{
    METADATA_SHARD, MetadataCommand, OperatorWish,
    balance::{Facts, Rules, balance},
    map::{ClusterMap, NodeState},
    operator::Ending,
    plan::{Plan, plan},
};
use crate::hello::majority;
use kvorum_api::{AdminError, NodeId, ShardId};
use std::collections::BTreeSet;

/// What a change would lead to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Forecast {
    /// What would be done to shards, in order.
    pub moves: Vec<Foreseen>,
    /// What it would come to without being done, and why.
    pub held_up: Vec<String>,
}

/// What would be done to one shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Foreseen {
    /// Which; 0 = the metadata.
    pub shard: ShardId,
    /// What.
    pub wish: OperatorWish,
    /// Bytes that travel, about; `None` = nobody knows.
    pub bytes: Option<u64>,
    /// How many more of its nodes it can lose now.
    pub spare_before: u32,
    /// How many more it can lose while this is done.
    pub spare_meanwhile: u32,
}

/// What a change would lead to.
///
/// # Errors
/// As the plan of it.
pub fn forecast(map: &ClusterMap, command: &MetadataCommand, facts: &Facts) -> Result<Forecast, AdminError> {
    let lost: BTreeSet<NodeId> = facts.lost.keys().copied().collect();
    let planned = plan(map, command, 0, &lost)?;
    match command {
        MetadataCommand::Operate { shard, wish, .. } => {
            Ok(Forecast { moves: vec![foreseen(map, facts, *shard, *wish)], held_up: Vec::new() })
        }
        MetadataCommand::SetNodeState { state: NodeState::Draining | NodeState::Forgetting, .. } => {
            let mut map = map.clone();
            carry_out(&mut map, planned);
            Ok(emptied(map, facts, &lost))
        }
        // Nothing moves by these.
        MetadataCommand::SetNodeState { state: NodeState::Active, .. }
        | MetadataCommand::CreateKeyspace { .. }
        | MetadataCommand::AlterKeyspace { .. }
        | MetadataCommand::DropKeyspace { .. }
        | MetadataCommand::Join { .. }
        | MetadataCommand::Announce { .. }
        | MetadataCommand::CancelOperator { .. }
        | MetadataCommand::OperatorEnded { .. }
        | MetadataCommand::RaiseBehaviour { .. }
        | MetadataCommand::ShardsReady { .. } => Ok(Forecast::default()),
    }
}

/// What the balancer asks for until nodes that are to go are empty. What is under way counts as done.
fn emptied(mut map: ClusterMap, facts: &Facts, lost: &BTreeSet<NodeId>) -> Forecast {
    let rules = Rules { is_on: false, moves_max: usize::MAX, ..Rules::default() };
    let mut forecast = Forecast::default();
    // Each round settles every shard that can be settled; one more finds that nothing is left.
    for _ in 0..=map.nodes.len() + 1 {
        end_all(&mut map, lost);
        let advice = balance(&map, facts, rules);
        forecast.held_up = advice.held_up;
        let before = forecast.moves.len();
        for command in advice.commands {
            let MetadataCommand::Operate { shard, wish, .. } = &command else { continue };
            let next = foreseen(&map, facts, *shard, *wish);
            if let Ok(planned) = plan(&map, &command, 0, lost) {
                carry_out(&mut map, planned);
                forecast.moves.push(next);
            }
        }
        if forecast.moves.len() == before {
            break;
        }
    }
    forecast
}

fn end_all(map: &mut ClusterMap, lost: &BTreeSet<NodeId>) {
    let open: Vec<_> = map.operators.values().filter(|row| row.is_open()).map(|row| row.id).collect();
    for operator in open {
        let ended = MetadataCommand::OperatorEnded { operator, ending: Ending::Done };
        if let Ok(planned) = plan(map, &ended, 0, lost) {
            carry_out(map, planned);
        }
    }
}

fn carry_out(map: &mut ClusterMap, planned: Plan) {
    planned.edits.into_iter().for_each(|edit| map.apply(edit));
}

fn foreseen(map: &ClusterMap, facts: &Facts, shard: ShardId, wish: OperatorWish) -> Foreseen {
    let (from, to) = match wish {
        OperatorWish::Move { from, to } => (Some(from), Some(to)),
        OperatorWish::Add(to) => (None, Some(to)),
        OperatorWish::Remove(from) => (Some(from), None),
        OperatorWish::Lead(_) => (None, None),
    };
    let before: Vec<NodeId> = map.replicas_of(shard).iter().map(|row| row.node).collect();
    let after: Vec<NodeId> = before.iter().copied().filter(|node| Some(*node) != from).chain(to).collect();
    let spare = |nodes: &[NodeId]| {
        let living = nodes.iter().filter(|node| !facts.lost.contains_key(node)).count();
        living.saturating_sub(majority(nodes.len())) as u32
    };
    let bytes = match to {
        None => Some(0),
        // The metadata is no shard of a keyspace, and small.
        Some(_) if shard == METADATA_SHARD => None,
        Some(_) => facts.bytes.get(&shard).copied(),
    };
    // While a change is under way both majorities are needed: the set before and the set after.
    Foreseen { shard, wish, bytes, spare_before: spare(&before), spare_meanwhile: spare(&before).min(spare(&after)) }
}

#[cfg(test)]
#[path = "forecast_tests.rs"]
mod tests;
