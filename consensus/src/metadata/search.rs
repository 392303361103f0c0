//! Search: who leads the metadata, and what is newest there.
//!
//! ```text
//!   a few others ─▶ those that hold the metadata, the living first ─▶ whom they name ─▶ "I lead": it alone is believed
//! ```
//!
//! **Invariant.** A search changes nothing: a command goes only to who says that it leads.

use super::{
    MetadataCommand,
    map::ClusterMap,
    study::Study,
    wire::{Answer, Ask, Verdict},
};
use crate::{
    message::{MessageKind, Outgoing},
    transport::Lane,
};
use bytes::Bytes;
use kvorum_api::{NodeId, ReplicaId};
use kvorum_storage::journal::NODE_GROUP;
use std::{collections::BTreeSet, sync::Arc, time::Duration};
use tokio::time::Instant;

/// How long one node may take to say who leads.
const PROBE_PATIENCE: Duration = Duration::from_secs(1);

/// Nodes that are asked who leads although they should not know.
const OTHERS_ASKED_MAX: usize = 8;

impl Study {
    /// This node's copy of the map, once it shows everything that was agreed before this was asked.
    ///
    /// # Errors
    /// Why that is not certain.
    pub(crate) async fn fresh_map(&self, patience: Duration) -> Result<Arc<ClusterMap>, String> {
        // It changes nothing; whoever leads the metadata reads its counters linearizably to say so.
        let nothing = MetadataCommand::ShardsReady { shards: Vec::new() };
        let asked = self.command(nothing, patience).await.map_err(|error| error.to_string())?;
        let map = self.map();
        if map.revision < asked.revision {
            return Err(format!(
                "this node's copy of the map is of {}, the newest of {}",
                map.revision, asked.revision
            ));
        }
        Ok(map)
    }

    /// Another node that holds the metadata as far as this one knows: somebody to ask for who knows none at all.
    pub(super) fn holder(&self) -> Option<NodeId> {
        let map = self.map();
        map.metadata.iter().map(|row| row.node).find(|node| *node != self.me && self.liveness.is_alive(*node))
    }

    /// Asks the metadata nodes in turn who leads, and a few others after them: they may have held it long ago. Whom
    /// they name first is believed only when it says so itself.
    pub(super) async fn find_leader(&self, deadline: Instant) -> Result<NodeId, String> {
        let map = self.map();
        let holds = |node: &NodeId| map.metadata.iter().any(|row| row.node == *node);
        let others = map.nodes.keys().copied().filter(|node| !holds(node) && self.liveness.is_alive(*node));
        let mut ahead: Vec<NodeId> = others.take(OTHERS_ASKED_MAX).collect();
        let mut holders: Vec<NodeId> = map.metadata.iter().rev().map(|row| row.node).collect();
        // Who does not answer costs the most time, and is asked last.
        holders.sort_by_key(|node| self.liveness.is_alive(*node));
        ahead.extend(holders);
        ahead.extend(self.leader());
        let mut asked = BTreeSet::from([self.me]);
        let mut answers = Vec::new();
        while let Some(node) = ahead.pop() {
            let patience = PROBE_PATIENCE.min(deadline.saturating_duration_since(Instant::now()));
            if patience.is_zero() || !asked.insert(node) {
                continue;
            }
            match self.ask(node, &Ask::WhoLeads, patience).await {
                Ok(Answer::Leads) => return Ok(node),
                Ok(Answer::Follows(Some(leader))) => ahead.push(leader),
                Ok(answer) => answers.push(format!("node {node} knows no leader ({answer:?})")),
                Err(why) => answers.push(format!("node {node}: {why}")),
            }
        }
        if map.metadata.is_empty() {
            answers.push("this node knows no node that holds the metadata".to_owned());
        }
        answers.push(format!("node {} does not lead it", self.me));
        Err(answers.join("; "))
    }

    pub(super) async fn hand_on(&self, node: NodeId, command: &MetadataCommand, deadline: Instant) -> Verdict {
        let patience = deadline.saturating_duration_since(Instant::now());
        // The leader gives up a little earlier, so that its honest answer arrives.
        let theirs = patience.saturating_sub((patience / 8).min(Duration::from_millis(250)));
        match self.ask(node, &Ask::Do(command.clone(), theirs), patience).await {
            Ok(Answer::Verdict(verdict)) => verdict,
            Ok(other) => Verdict::Unknown(format!("node {node} answered {other:?}")),
            Err(why) => Verdict::Unknown(format!("no answer of node {node}, which led the metadata: {why}")),
        }
    }

    pub(super) async fn ask(&self, node: NodeId, ask: &Ask, patience: Duration) -> Result<Answer, String> {
        let answer = self.call(node, MessageKind::MetadataCommand, ask.encode(), patience).await?;
        Answer::decode(answer).map_err(|error| error.to_string())
    }

    /// Node to node, like a hello.
    pub(super) async fn call(
        &self,
        to: NodeId,
        kind: MessageKind,
        payload: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, String> {
        let (from_replica, to_replica) = (ReplicaId(0), ReplicaId(0));
        let message =
            Outgoing { to, lane: Lane::Data, group: NODE_GROUP, from_replica, to_replica, kind, payload, timeout };
        self.peers.call(message).await.map_err(|error| error.to_string())
    }
}
