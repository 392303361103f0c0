//! Whether a whole cluster is well enough for one of its nodes to be taken away for a moment.
//!
//! **Invariant.** Well is what every node has said in its own words within one look: a node that is silent is a reason
//! not to touch another one.

use kvorum_api::proto::{NodeStatusReply, ReplicaStatus};
use kvorum_client::admin::{Admin, NodeDescription};
use std::collections::BTreeMap;

/// Entries that a replica may be behind its leader and still have caught up: writes go on while one looks.
const BEHIND_MAX: u64 = 1_024;

/// How every node was at one moment.
pub struct Picture {
    /// By the map of whoever answered; `None` = nobody did.
    nodes: Option<Vec<NodeDescription>>,
    statuses: BTreeMap<u64, NodeStatusReply>,
}

impl Picture {
    /// Asks all of them.
    pub async fn taken(admin: &Admin) -> Picture {
        let (nodes, reports) = tokio::join!(admin.nodes(), admin.node_status());
        let statuses = reports.into_iter().filter_map(|report| report.status.ok());
        Picture { nodes: nodes.ok(), statuses: statuses.map(|status| (status.node, status)).collect() }
    }

    /// In which of its lives a node is.
    pub fn start_of(&self, node: u64) -> Option<u64> {
        self.statuses.get(&node).map(|status| status.start_count)
    }

    /// The first thing that is not as it should be.
    pub fn trouble(&self) -> Option<String> {
        let Some(nodes) = &self.nodes else { return Some("no node answers".to_owned()) };
        if let Some(silent) = nodes.iter().find(|node| !self.statuses.contains_key(&node.id)) {
            return Some(format!("node {} does not answer", silent.id));
        }
        for (node, status) in &self.statuses {
            if let Some(why) = status.degraded.first() {
                return Some(format!("node {node} is degraded: {why}"));
            }
            if !status.ready {
                return Some(format!("node {node} is not ready"));
            }
            if let Some(short) = status.short.first() {
                return Some(format!("as node {node} sees it, {short}"));
            }
        }
        self.missing().or_else(|| self.laggard())
    }

    /// A replica that has not caught up, or a shard that nobody is seen to lead.
    fn laggard(&self) -> Option<String> {
        let mut shards: BTreeMap<u64, Vec<(u64, &ReplicaStatus)>> = BTreeMap::new();
        for (node, status) in &self.statuses {
            for replica in &status.replicas {
                shards.entry(replica.shard).or_default().push((*node, replica));
            }
        }
        shards.into_iter().find_map(|(shard, replicas)| {
            if let Some((node, _)) = replicas.iter().find(|(_, replica)| replica.installing) {
                return Some(format!("shard {shard}: node {node} is installing a snapshot"));
            }
            let leaders = replicas.iter().map(|(_, replica)| *replica).filter(|replica| replica.role == "leader");
            // One that was deposed may not have heard of it yet.
            let leader = leaders.max_by_key(|leader| leader.term);
            let (level, tolerance) = match leader {
                Some(leader) => (leader.committed_index, BEHIND_MAX),
                // A shard that all have closed in agreement is level; one that was lost then may have come back since.
                None if replicas.iter().all(|(_, replica)| replica.role == "closed") => {
                    (replicas.iter().map(|(_, replica)| replica.last_log_index).max().unwrap_or(0), 0)
                }
                None => return Some(format!("shard {shard}: nobody leads it")),
            };
            let has = |replica: &ReplicaStatus| match leader {
                Some(_) => replica.applied_index,
                None => replica.last_log_index,
            };
            // Closed ones as well: a node that was just restarted begins with all of its replicas closed.
            let behind = replicas.iter().find(|(_, replica)| has(replica) + tolerance < level);
            behind.map(|(node, replica)| format!("shard {shard}: node {node} has {} of {level} entries", has(replica)))
        })
    }

    /// A replica that the answering node's map places somewhere, and that the node there does not have.
    fn missing(&self) -> Option<String> {
        let held =
            |status: &NodeStatusReply| status.replicas.iter().filter(|replica| replica.shard != 0).count() as u64;
        self.nodes.iter().flatten().find_map(|node| {
            let held = held(self.statuses.get(&node.id)?);
            let why =
                || format!("node {} has {held} of the {} replicas that the map places there", node.id, node.replicas);
            (held < node.replicas).then(why)
        })
    }
}

/// Whether a node leads the metadata.
pub fn leads_metadata(status: &NodeStatusReply) -> bool {
    status.replicas.iter().any(|replica| replica.shard == 0 && replica.role == "leader")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(shard: u64, role: &str, applied: u64, committed: u64) -> ReplicaStatus {
        ReplicaStatus {
            shard,
            role: role.to_owned(),
            applied_index: applied,
            committed_index: committed,
            ..ReplicaStatus::default()
        }
    }

    fn logged(last: u64) -> ReplicaStatus {
        ReplicaStatus { last_log_index: last, ..replica(1, "closed", last, last) }
    }

    fn picture(replicas: Vec<Vec<ReplicaStatus>>) -> Picture {
        let nodes = (1..=replicas.len() as u64).map(|id| NodeDescription { id, ..NodeDescription::default() });
        let status = |(node, replicas)| NodeStatusReply { node, ready: true, replicas, ..NodeStatusReply::default() };
        Picture {
            nodes: Some(nodes.collect()),
            statuses: (1..).zip(replicas).map(|(node, replicas)| (node, status((node, replicas)))).collect(),
        }
    }

    #[test]
    fn all_that_keeps_a_node_from_being_touched() {
        let well =
            || picture(vec![vec![replica(1, "leader", 9_000, 9_000)], vec![replica(1, "follower", 8_990, 8_990)]]);
        assert_eq!(well().trouble(), None);
        let mut silent = well();
        silent.statuses.remove(&2);
        let mut unready = well();
        unready.statuses.get_mut(&1).unwrap().ready = false;
        let mut short = well();
        short.statuses.get_mut(&1).unwrap().short = vec!["shard 1 of k has 2 of 3 replicas".to_owned()];
        let mut degraded = well();
        degraded.statuses.get_mut(&2).unwrap().degraded = vec!["disk_full: no room".to_owned()];
        let mut installing = well();
        installing.statuses.get_mut(&2).unwrap().replicas[0].installing = true;
        let nobody = Picture { nodes: None, statuses: BTreeMap::new() };
        let behind = picture(vec![vec![replica(1, "leader", 9_000, 9_000)], vec![replica(1, "follower", 10, 10)]]);
        let headless = picture(vec![vec![replica(1, "follower", 10, 10)], vec![replica(1, "closed", 10, 10)]]);
        let closed = |last| picture(vec![vec![logged(10)], vec![logged(last)]]);
        assert_eq!(closed(10).trouble(), None, "closed in agreement");
        let restarted = picture(vec![vec![replica(1, "leader", 9_000, 9_000)], vec![replica(1, "closed", 10, 10)]]);
        let mut deposed = picture(vec![vec![replica(1, "leader", 10, 10)], vec![replica(1, "leader", 9_000, 9_000)]]);
        deposed.statuses.get_mut(&2).unwrap().replicas[0].term = 2;
        let mut lacking = well();
        lacking.nodes.as_mut().unwrap()[1].replicas = 2;
        for (picture, part) in [
            (silent, "node 2 does not answer"),
            (unready, "node 1 is not ready"),
            (short, "2 of 3 replicas"),
            (degraded, "disk_full"),
            (installing, "installing"),
            (nobody, "no node answers"),
            (behind, "node 2 has 10 of 9000"),
            (restarted, "node 2 has 10 of 9000"),
            (deposed, "node 1 has 10 of 9000"),
            (closed(9), "node 2 has 9 of 10"),
            (lacking, "node 2 has 1 of the 2 replicas"),
            (headless, "nobody leads it"),
        ] {
            let trouble = picture.trouble().unwrap_or_default();
            assert!(trouble.contains(part), "{part}: {trouble}");
        }
    }
}
