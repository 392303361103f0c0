//! Who leads which shard, from when on: asked of every node, again and again.
//!
//! **Invariant.** Asking never waits for a node that keeps silent longer than [`ANSWER_MAX`], and never delays a fault.

use super::node::status;
use kvorum_api::proto::{NodeStatusReply, admin_client::AdminClient};
use parking_lot::Mutex;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};
use tonic::transport::Channel;

/// Between two rounds.
const ROUND: Duration = Duration::from_millis(100);

/// How long one node may take to answer.
const ANSWER_MAX: Duration = Duration::from_millis(400);

/// A shard of a keyspace of data got a leader.
#[derive(Clone, Debug)]
pub struct Change {
    /// When it was seen.
    pub at: Instant,
    /// The shard.
    pub shard: u64,
    /// The new leader.
    pub node: u64,
    /// Its term.
    pub term: u64,
}

#[derive(Default)]
struct Seen {
    leaders: BTreeMap<u64, (u64, u64)>,
    changes: Vec<Change>,
    hashes: BTreeSet<Hash>,
}

/// A replica's rolling hash at one position.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hash {
    /// The shard.
    pub shard: u64,
    /// How far the replica has applied.
    pub applied_index: u64,
    /// Whose replica.
    pub node: u64,
    /// The hash.
    pub hash: String,
}

/// Looks at nodes until dropped. Cheap to clone.
#[derive(Clone)]
pub struct Observer {
    seen: Arc<Mutex<Seen>>,
    _rounds: Arc<JoinSet<()>>,
}

impl Observer {
    /// Begins.
    #[must_use]
    pub fn start(nodes: Vec<AdminClient<Channel>>) -> Self {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut rounds = JoinSet::new();
        for node in nodes {
            rounds.spawn(look(node, seen.clone()));
        }
        Observer { seen, _rounds: Arc::new(rounds) }
    }

    /// Who leads each shard of data, as last heard.
    #[must_use]
    pub fn leaders(&self) -> BTreeMap<u64, u64> {
        self.seen.lock().leaders.iter().map(|(shard, (_, node))| (*shard, *node)).collect()
    }

    /// Changes of leadership seen since a moment.
    #[must_use]
    pub fn changes_since(&self, moment: Instant) -> Vec<Change> {
        self.seen.lock().changes.iter().filter(|change| change.at >= moment).cloned().collect()
    }

    /// Every hash seen so far.
    #[must_use]
    pub fn hashes(&self) -> Vec<Hash> {
        self.seen.lock().hashes.iter().cloned().collect()
    }
}

async fn look(node: AdminClient<Channel>, seen: Arc<Mutex<Seen>>) {
    let mut rounds = interval(ROUND);
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        if let Some(status) = status(node.clone(), ANSWER_MAX).await {
            seen.lock().take(&status, Instant::now());
        }
    }
}

impl Seen {
    /// A higher term decides who leads.
    fn take(&mut self, status: &NodeStatusReply, at: Instant) {
        for replica in status.replicas.iter().filter(|replica| replica.shard != 0) {
            if !replica.rolling_hash.is_empty() && !replica.installing {
                self.hashes.insert(Hash {
                    shard: replica.shard,
                    applied_index: replica.applied_index,
                    node: status.node,
                    hash: replica.rolling_hash.clone(),
                });
            }
            if replica.role != "leader" {
                continue;
            }
            let (term, _) = self.leaders.get(&replica.shard).copied().unwrap_or_default();
            if replica.term > term {
                self.leaders.insert(replica.shard, (replica.term, status.node));
                self.changes.push(Change { at, shard: replica.shard, node: status.node, term: replica.term });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::proto::ReplicaStatus;

    #[test]
    fn a_deposed_leader_that_does_not_know_it_counts_no_more() {
        let says = |node, term| NodeStatusReply {
            node,
            replicas: vec![ReplicaStatus { shard: 1, role: "leader".to_owned(), term, ..ReplicaStatus::default() }],
            ..NodeStatusReply::default()
        };
        let mut seen = Seen::default();
        for (node, term) in [(1, 4), (2, 5), (1, 4), (2, 5)] {
            seen.take(&says(node, term), Instant::now());
        }
        assert_eq!(seen.leaders[&1], (5, 2));
        assert_eq!(seen.changes.len(), 2);
    }
}
