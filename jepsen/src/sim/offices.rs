//! Offices: who leads, who trusts a lease, and how far each replica has come.
//!
//! ```text
//!   one leader per term │ a leader of the newest term has all that is decided │ no lease beside a later leader
//!   terms and positions never go back in one life; who led in a term never forgets it
//! ```
//!
//! **Invariant.** All replicas of a look are seen at one moment, so what is said of several of them is true at once.

use kvorum_api::{NodeId, ReplicaId, ShardId};
use kvorum_consensus::replicator::{ReplicaStatus, Role};
use std::collections::BTreeMap;

/// One replica, as it was seen.
pub struct Seen {
    /// Its node.
    pub node: NodeId,
    /// What it says of itself.
    pub status: ReplicaStatus,
    /// The term whose lease it trusts.
    pub trusted_term: Option<u64>,
}

/// What was ever seen of offices.
#[derive(Default)]
pub struct Offices {
    /// Who led a shard in each term.
    leaders: BTreeMap<(ShardId, u64), NodeId>,
    /// The newest term of a shard that anybody was in.
    terms: BTreeMap<ShardId, u64>,
    /// The last index that any replica has applied: it is decided.
    decided: BTreeMap<ShardId, u64>,
    /// The newest term in which a replica led, over all its lives.
    led: BTreeMap<(NodeId, ShardId, ReplicaId), u64>,
    /// Term and applied index of a replica when it was seen last in this life.
    stands: BTreeMap<(NodeId, ShardId, ReplicaId), (u64, u64)>,
}

impl Offices {
    /// Takes in what all replicas say at one moment; every sentence is a violation.
    pub fn look(&mut self, all: &[Seen]) -> Vec<String> {
        let mut found = Vec::new();
        for seen in all {
            self.look_at(seen, &mut found);
        }
        for seen in all.iter().filter(|seen| seen.status.role == Role::Leader) {
            let ReplicaStatus { shard, term, last_log_index, .. } = seen.status;
            let (newest, decided) = (self.terms.get(&shard).copied(), self.decided(shard));
            if newest == Some(term) && last_log_index < decided {
                found.push(format!(
                    "node {} leads shard {shard} in term {term} and its log ends at {last_log_index}, before \
                     {decided}, which is decided",
                    seen.node
                ));
            }
        }
        for trusting in all {
            let Some(term) = trusting.trusted_term else { continue };
            let shard = trusting.status.shard;
            let later = all.iter().find(|other| {
                other.status.shard == shard && other.status.role == Role::Leader && other.status.term > term
            });
            if let Some(later) = later {
                let (node, other, elected) = (trusting.node, later.node, later.status.term);
                found.push(format!(
                    "node {node} trusts its lease on shard {shard} of term {term}, and node {other} leads in term \
                     {elected}"
                ));
            }
        }
        found
    }

    /// A life has ended: what comes next on that machine begins anew.
    pub fn forget_life(&mut self, id: NodeId) {
        self.stands.retain(|(node, ..), _| *node != id);
    }

    /// A machine has lost what it had: what it says next is somebody else's word.
    pub fn forget_machine(&mut self, id: NodeId) {
        self.led.retain(|(node, ..), _| *node != id);
    }

    /// The last index of a shard that is known to be decided.
    pub fn decided(&self, shard: ShardId) -> u64 {
        self.decided.get(&shard).copied().unwrap_or(0)
    }

    fn look_at(&mut self, seen: &Seen, found: &mut Vec<String>) {
        let Seen { node, status, .. } = seen;
        let (node, shard, term) = (*node, status.shard, status.term);
        let seat = (node, shard, status.replica);
        let newest = self.terms.entry(shard).or_default();
        *newest = (*newest).max(term);
        if status.role == Role::Leader {
            let leader = *self.leaders.entry((shard, term)).or_insert(node);
            if leader != node {
                found.push(format!("term {term} of shard {shard} has two leaders: nodes {leader} and {node}"));
            }
        }
        let takes_part = matches!(status.role, Role::Leader | Role::Candidate | Role::Follower);
        let led = self.led.entry(seat).or_default();
        if takes_part && term < *led {
            found.push(format!("node {node} is in term {term} of shard {shard}, and has led in term {led}"));
        }
        if status.role == Role::Leader {
            *led = (*led).max(term);
        }
        if status.state.is_installing {
            return;
        }
        let applied = status.state.applied.position.map_or(0, |position| position.index);
        let (term_before, applied_before) = self.stands.get(&seat).copied().unwrap_or_default();
        if takes_part && term < term_before {
            found.push(format!("the term of shard {shard} on node {node} went back from {term_before} to {term}"));
        }
        if applied < applied_before {
            found.push(format!("shard {shard} on node {node} went back from {applied_before} to {applied}"));
        }
        let term = if takes_part { term } else { term_before };
        self.stands.insert(seat, (term, applied));
        let decided = self.decided.entry(shard).or_default();
        *decided = (*decided).max(applied);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::{LogPosition, ReplicaId};
    use kvorum_storage::shard::ShardState;

    fn seen(node: u64, role: Role, (term, last, applied): (u64, u64, u64), trusted_term: Option<u64>) -> Seen {
        let mut state = ShardState::default();
        state.applied.position = Some(LogPosition { term, index: applied });
        let status = ReplicaStatus {
            shard: ShardId(1),
            replica: ReplicaId(node),
            role,
            term,
            leader: None,
            held_up: None,
            last_log_index: last,
            committed_index: applied,
            flushed_index: 0,
            purged_index: 0,
            staleness: None,
            state,
        };
        Seen { node: NodeId(node), status, trusted_term }
    }

    #[test]
    fn honest_offices_pass() {
        let mut offices = Offices::default();
        let first = [seen(1, Role::Leader, (1, 5, 5), Some(1)), seen(2, Role::Follower, (1, 5, 4), None)];
        assert_eq!(offices.look(&first), Vec::<String>::new());
        let deposed = [seen(1, Role::Leader, (1, 5, 5), None), seen(2, Role::Leader, (2, 6, 6), Some(2))];
        assert_eq!(offices.look(&deposed), Vec::<String>::new());
    }

    #[test]
    fn what_must_not_be_is_found() {
        let judge = |looks: &[&[Seen]]| {
            let mut offices = Offices::default();
            looks.iter().flat_map(|look| offices.look(look)).collect::<Vec<_>>().join("\n")
        };
        let leads = |node, stand, trusted| seen(node, Role::Leader, stand, trusted);
        let follows = |node, stand| seen(node, Role::Follower, stand, None);
        assert!(judge(&[&[leads(1, (1, 5, 5), None), leads(2, (1, 5, 5), None)]]).contains("two leaders"));
        assert!(judge(&[&[leads(1, (2, 5, 4), None), follows(2, (2, 6, 6))]]).contains("which is decided"));
        assert!(judge(&[&[leads(1, (1, 5, 5), Some(1)), leads(2, (2, 5, 5), None)]]).contains("trusts its lease"));
        assert!(judge(&[&[follows(1, (2, 5, 5))], &[follows(1, (1, 5, 5))]]).contains("went back from 2 to 1"));
        assert!(judge(&[&[follows(1, (2, 5, 5))], &[follows(1, (2, 5, 4))]]).contains("went back from 5 to 4"));
        let mut offices = Offices::default();
        assert!(offices.look(&[leads(1, (3, 5, 5), None)]).is_empty());
        offices.forget_life(NodeId(1));
        assert!(offices.look(&[follows(1, (2, 5, 3))]).join("").contains("has led in term 3"));
    }
}
