//! What the nodes say of the shards they hold, put together.
//!
//! ```text
//!   node 1: shard 5 leader  ┐
//!   node 2: shard 5 follower┼─▶ shard 5: led by 1, three replicas at one position ─▶ beside what the map wishes
//!   node 3: shard 5 closed  ┘
//! ```
//!
//! **Invariant.** A node that does not answer says nothing: what only it could know is unknown, never wrong.

use kvorum_api::proto::{KeyspaceDescription, ReplicaStatus, ShardDescription};
use kvorum_client::NodeReport;
use std::collections::{BTreeMap, BTreeSet};

/// One replica, in its node's own words.
#[derive(Clone, Copy, Debug)]
pub struct Fact<'a> {
    pub node: u64,
    pub replica: &'a ReplicaStatus,
}

/// All replicas of all shards, by shard.
#[derive(Debug, Default)]
pub struct Facts<'a> {
    shards: BTreeMap<u64, Vec<Fact<'a>>>,
    /// Nodes that answered.
    heard: BTreeSet<u64>,
}

impl<'a> Facts<'a> {
    pub fn of(reports: &'a [NodeReport]) -> Self {
        let mut facts = Facts::default();
        for status in reports.iter().filter_map(|report| report.status.as_ref().ok()) {
            facts.heard.insert(status.node);
            for replica in &status.replicas {
                facts.shards.entry(replica.shard).or_default().push(Fact { node: status.node, replica });
            }
        }
        facts
    }

    /// Whether the node answered.
    pub fn has_heard(&self, node: u64) -> bool {
        self.heard.contains(&node)
    }

    /// The replicas of a shard that are known.
    pub fn of_shard(&self, shard: u64) -> &[Fact<'a>] {
        self.shards.get(&shard).map_or(&[], Vec::as_slice)
    }

    /// Who leads: who says so itself in the newest term; of a group that is closed, whom its replicas remember.
    pub fn leader(&self, shard: u64) -> Option<u64> {
        let facts = self.of_shard(shard);
        let leaders = facts.iter().filter(|fact| fact.replica.role == "leader");
        let leads = leaders.max_by_key(|fact| fact.replica.term).map(|fact| fact.node);
        leads.or_else(|| {
            let remembering = facts.iter().filter(|fact| fact.replica.role == "closed");
            remembering.max_by_key(|fact| fact.replica.term).and_then(|fact| fact.replica.leader_node)
        })
    }

    /// About how many bytes a shard has: the most that one of its replicas names.
    pub fn bytes(&self, shard: u64) -> Option<u64> {
        self.of_shard(shard).iter().filter_map(|fact| fact.replica.bytes).max()
    }

    /// Shards of which two replicas stand at one position and do not hold the same. There must be none.
    pub fn diverged(&self) -> Vec<u64> {
        let differs = |facts: &[Fact<'_>]| {
            let mut hashes: BTreeMap<u64, &str> = BTreeMap::new();
            facts.iter().any(|fact| {
                let hash = fact.replica.rolling_hash.as_str();
                !hash.is_empty() && *hashes.entry(fact.replica.applied_index).or_insert(hash) != hash
            })
        };
        self.shards.iter().filter(|(_, facts)| differs(facts)).map(|(shard, _)| *shard).collect()
    }

    /// Which facts of a shard are not as wished, in words; none = all that is known is as wished.
    pub fn differences(&self, keyspace: &KeyspaceDescription, shard: &ShardDescription) -> Vec<String> {
        let mut differences = Vec::new();
        if shard.state != "ready" {
            differences.push(format!("is {}", shard.state));
        }
        match self.leader(shard.id).or(shard.leader) {
            Some(leader) if leader == shard.leader_wish => {}
            Some(leader) => differences.push(format!("led by {leader}, wished {}", shard.leader_wish)),
            None => differences.push(format!("led by nobody known, wished {}", shard.leader_wish)),
        }
        let wish = keyspace.wish.clone().unwrap_or_default();
        for wished in &shard.replicas {
            let fact = self.of_shard(shard.id).iter().find(|fact| fact.node == wished.node);
            match fact {
                Some(fact) => differences.extend(differences_of(fact, shard, &wish.changes, wish.leases)),
                None if self.has_heard(wished.node) => {
                    differences.push(format!("node {} does not hold it", wished.node));
                }
                None => differences.push(format!("node {} does not answer", wished.node)),
            }
        }
        differences
    }
}

fn differences_of(fact: &Fact<'_>, shard: &ShardDescription, changes: &str, leases: Option<bool>) -> Vec<String> {
    let (node, replica) = (fact.node, fact.replica);
    let mut differences = Vec::new();
    if replica.epoch != shard.epoch {
        differences.push(format!("epoch {} on node {node}, wished {}", replica.epoch, shard.epoch));
    }
    if replica.changes != changes {
        differences.push(format!("changes {} on node {node}, wished {changes}", replica.changes));
    }
    if let Some(wished) = leases.filter(|wished| replica.leases != *wished) {
        let word = |has: bool| if has { "leases" } else { "no leases" };
        differences.push(format!("{} on node {node}, wished {}", word(replica.leases), word(wished)));
    }
    if replica.installing {
        differences.push(format!("node {node} installs a snapshot"));
    }
    if replica.role == "stopped" {
        differences.push(format!("stopped on node {node}"));
    }
    differences
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::proto::{KeyspaceWish, NodeStatusReply, ShardReplica};

    fn replica(role: &str, term: u64, leader: Option<u64>, applied: u64, hash: &str) -> ReplicaStatus {
        ReplicaStatus {
            shard: 5,
            role: role.to_owned(),
            term,
            leader_node: leader,
            applied_index: applied,
            rolling_hash: hash.to_owned(),
            epoch: 1,
            changes: "keys".to_owned(),
            ..ReplicaStatus::default()
        }
    }

    fn report(node: u64, replica: ReplicaStatus) -> NodeReport {
        let status = NodeStatusReply { node, replicas: vec![replica], ..NodeStatusReply::default() };
        NodeReport { address: format!("node{node}"), is_member: true, status: Ok(status) }
    }

    #[test]
    fn the_leader_is_who_says_so_in_the_newest_term_or_who_is_remembered() {
        let reports = [
            report(1, replica("leader", 4, Some(1), 9, "a")),
            report(2, replica("leader", 5, Some(2), 9, "a")),
            report(3, replica("follower", 5, Some(2), 8, "b")),
        ];
        let facts = Facts::of(&reports);
        assert_eq!((facts.leader(5), facts.leader(6)), (Some(2), None));
        assert!(facts.diverged().is_empty(), "replicas at different positions hold different things");
        let closed =
            [report(1, replica("closed", 4, Some(1), 9, "a")), report(2, replica("closed", 5, Some(3), 9, "a"))];
        assert_eq!(Facts::of(&closed).leader(5), Some(3));
        let split =
            [report(1, replica("leader", 4, Some(1), 9, "a")), report(2, replica("follower", 4, Some(1), 9, "b"))];
        assert_eq!(Facts::of(&split).diverged(), [5]);
    }

    #[test]
    fn what_is_not_as_wished_is_said() {
        let shard = ShardDescription {
            id: 5,
            epoch: 1,
            state: "ready".to_owned(),
            leader_wish: 1,
            replicas: vec![
                ShardReplica { id: 1, node: 1, standing: "member".to_owned() },
                ShardReplica { id: 2, node: 2, standing: "member".to_owned() },
            ],
            ..ShardDescription::default()
        };
        let wish = KeyspaceWish { changes: "keys".to_owned(), leases: Some(false), ..KeyspaceWish::default() };
        let keyspace = KeyspaceDescription { wish: Some(wish), ..KeyspaceDescription::default() };
        let fine =
            [report(1, replica("leader", 4, Some(1), 9, "a")), report(2, replica("follower", 4, Some(1), 9, "a"))];
        assert!(Facts::of(&fine).differences(&keyspace, &shard).is_empty());
        let odd = ReplicaStatus {
            epoch: 2,
            changes: "new".to_owned(),
            leases: true,
            ..replica("leader", 4, Some(2), 9, "a")
        };
        let odd = [report(2, odd)];
        let said = Facts::of(&odd).differences(&keyspace, &shard).join("; ");
        assert_eq!(
            said,
            "led by 2, wished 1; node 1 does not answer; epoch 2 on node 2, wished 1; changes new on node 2, wished \
             keys; leases on node 2, wished no leases"
        );
    }
}
