//! Crew: people who move replicas and leaders, drain nodes and take them back, and change their minds.
//!
//! **Invariant.** No two operators have one id. What is refused is no violation: much of what they ask for cannot be.

use super::{chance::Chance, network::Life, workload::Desk};
use kvorum_api::{AdminError, NodeId, OperatorId, ShardId};
use kvorum_consensus::{
    Node,
    metadata::{ClusterMap, METADATA_SHARD, MetadataCommand, MetadataReply, NodeState, OperatorWish, Origin},
};
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep};

/// How long one wish may take to be taken down.
const PATIENCE: Duration = Duration::from_secs(3);

/// Of a thousand wishes about replicas, those about the metadata's own.
const METADATA_PER_MILLE: u32 = 200;

/// People who move things.
pub struct Crew {
    desk: Desk,
    chance: Chance,
    given: BTreeSet<OperatorId>,
}

impl Crew {
    /// They have asked for nothing yet.
    pub fn new(seed: u64, desk: Desk) -> Self {
        Crew { desk, chance: Chance::new(seed, "crew"), given: BTreeSet::new() }
    }

    /// Asks until the desk closes, in worlds whose members change.
    pub async fn run(mut self) {
        let Some(pace_ms) = self.desk.drawn.moving.as_ref().map(|moving| moving.wishes_ms) else { return };
        while Instant::now() < self.desk.until {
            sleep(self.chance.millis(pace_ms / 4..pace_ms)).await;
            let nodes = self.desk.nodes();
            let Some((node, life)) = self.desk.network.node(*self.chance.pick(&nodes)) else { continue };
            let Some(command) = self.wish(&nodes, &node.map()) else { continue };
            self.ask(&node, &life, command).await;
        }
    }

    fn wish(&mut self, nodes: &[NodeId], map: &ClusterMap) -> Option<MetadataCommand> {
        let anybody = *self.chance.pick(nodes);
        let (draw, turn) = (self.chance.any() >> 32, self.chance.within(0..16));
        let nth = |count: usize| (draw as usize).checked_rem(count);
        let wish = match turn {
            0..=9 => {
                let shard = self.shard(map)?;
                let replicas = map.replicas_of(shard);
                let holder = replicas.get(nth(replicas.len())?)?.node;
                let wish = match turn {
                    0..=5 => OperatorWish::Move { from: holder, to: self.elsewhere(map, shard).unwrap_or(anybody) },
                    6 => OperatorWish::Add(self.elsewhere(map, shard).unwrap_or(anybody)),
                    7 => OperatorWish::Remove(holder),
                    _ => OperatorWish::Lead(holder),
                };
                let cause = "somebody wants it".to_owned();
                MetadataCommand::Operate { shard, wish, origin: Origin::User, cause }
            }
            10..=12 => {
                let open: Vec<OperatorId> =
                    map.operators.values().filter(|row| row.is_open()).map(|row| row.id).collect();
                MetadataCommand::CancelOperator { operator: *open.get(nth(open.len())?)? }
            }
            13 => MetadataCommand::SetNodeState { node: anybody, state: NodeState::Draining },
            _ => {
                let drained = map.nodes.values().filter(|row| row.state == NodeState::Draining);
                let drained: Vec<NodeId> = drained.map(|row| row.node).collect();
                let node = *drained.get(nth(drained.len())?)?;
                MetadataCommand::SetNodeState { node, state: NodeState::Active }
            }
        };
        Some(wish)
    }

    fn shard(&mut self, map: &ClusterMap) -> Option<ShardId> {
        if self.chance.hits(METADATA_PER_MILLE) {
            return Some(METADATA_SHARD);
        }
        let shards: Vec<ShardId> = map.shards.keys().copied().collect();
        (!shards.is_empty()).then(|| *self.chance.pick(&shards))
    }

    /// A node that could hold another replica of a shard.
    fn elsewhere(&mut self, map: &ClusterMap, shard: ShardId) -> Option<NodeId> {
        let is_free = |node: &NodeId| map.replica_on(shard, *node).is_none();
        let active = map.nodes.values().filter(|row| row.state == NodeState::Active).map(|row| row.node);
        let free: Vec<NodeId> = active.filter(is_free).collect();
        (!free.is_empty()).then(|| *self.chance.pick(&free))
    }

    async fn ask(&mut self, node: &Arc<Node>, life: &Life, command: MetadataCommand) {
        let is_new = matches!(command, MetadataCommand::Operate { .. });
        self.desk.audit.event(format_args!("the crew asks for {command:?}"));
        let told: Option<Result<MetadataReply, AdminError>> = tokio::select! {
            biased;
            () = life.ended() => None,
            told = node.metadata(command, PATIENCE) => Some(told),
        };
        self.desk.audit.event(format_args!("the crew is told {told:?}"));
        let Some(Ok(MetadataReply { operator, .. })) = told else { return };
        match operator {
            Some(operator) if is_new && !self.given.insert(operator) => {
                self.desk.complain(format!("operator {operator} was given twice"));
            }
            None if is_new => self.desk.complain("an operator was made, and nobody says which".to_owned()),
            _ => {}
        }
    }
}
