//! Placement: which nodes hold the replicas of new shards, and which of them should lead.
//!
//! ```text
//!   shard by shard: the zones used least, in each the node that holds least  then: move single replicas while it helps
//!   leaders:        the replica's node that leads least                      then: move wishes along chains of shards
//! ```
//!
//! **Invariant.** A pure function: the same nodes in any order give the same placement. Two replicas of one shard are
//! never on one node; they stand in as many zones as there are, up to their number; nodes that are lost hold new
//! replicas, and lead, only where too few others live.

use kvorum_api::NodeId;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A node that may hold replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub node: NodeId,
    /// Where it stands.
    pub zone: String,
    /// Replicas it holds already.
    pub replicas: usize,
    /// Shards it should lead already.
    pub leads: usize,
    /// Whether it is lost, as far as the planner knows.
    pub is_lost: bool,
}

/// Where one shard goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The nodes of its replicas, the one that should lead first.
    pub nodes: Vec<NodeId>,
}

impl Placed {
    /// The node that should lead.
    #[must_use]
    pub fn leader_wish(&self) -> NodeId {
        self.nodes[0]
    }
}

/// Places `shards` shards of `replicas` replicas each.
///
/// # Panics
/// If there are fewer nodes than replicas, or none are wanted.
#[must_use]
pub fn place(nodes: &[Candidate], shards: usize, replicas: usize) -> Vec<Placed> {
    assert!(replicas >= 1 && nodes.len() >= replicas, "the plan has compared replicas and nodes");
    let mut nodes = nodes.to_vec();
    nodes.sort_by_key(|candidate| candidate.node);
    let living = nodes.iter().filter(|candidate| !candidate.is_lost).count();
    if living >= replicas {
        nodes.retain(|candidate| !candidate.is_lost);
    }
    let mut desk = Desk::new(&nodes);
    let mut placed: Vec<Vec<usize>> = (0..shards).map(|_| desk.spread(replicas)).collect();
    while desk.improve(&mut placed) {}
    let leaders = lead(&nodes, &placed);
    let with_leader = placed.into_iter().zip(leaders).map(|(mut members, leader)| {
        members.sort_by_key(|member| (*member != leader, *member));
        Placed { nodes: members.into_iter().map(|member| nodes[member].node).collect() }
    });
    with_leader.collect()
}

/// The nodes by number, while replicas are dealt out.
struct Desk {
    /// Zone of every node, by number.
    zones: Vec<usize>,
    /// Replicas of every node, new ones included.
    loads: Vec<usize>,
    lost: Vec<bool>,
}

impl Desk {
    fn new(nodes: &[Candidate]) -> Self {
        let names: BTreeSet<&str> = nodes.iter().map(|candidate| candidate.zone.as_str()).collect();
        let number: BTreeMap<&str, usize> =
            names.into_iter().enumerate().map(|(number, name)| (name, number)).collect();
        Desk {
            zones: nodes.iter().map(|candidate| number[candidate.zone.as_str()]).collect(),
            loads: nodes.iter().map(|candidate| candidate.replicas).collect(),
            lost: nodes.iter().map(|candidate| candidate.is_lost).collect(),
        }
    }

    /// The replicas of one shard: every living node before a lost one, zones used least before others, then whoever
    /// holds least.
    fn spread(&mut self, replicas: usize) -> Vec<usize> {
        let mut members: Vec<usize> = Vec::with_capacity(replicas);
        while members.len() < replicas {
            let free = (0..self.loads.len()).filter(|node| !members.contains(node));
            let next =
                free.min_by_key(|node| (self.lost[*node], self.used(&members, self.zones[*node]), self.loads[*node]));
            let next = next.expect("there are at least as many nodes as replicas");
            self.loads[next] += 1;
            members.push(next);
        }
        members
    }

    fn used(&self, members: &[usize], zone: usize) -> usize {
        members.iter().filter(|member| self.zones[**member] == zone).count()
    }

    /// Moves one replica to a node that holds at least two fewer, if no shard stands in fewer zones for it. Loads of
    /// earlier keyspaces and zones of different sizes make dealing out alone uneven.
    fn improve(&mut self, placed: &mut [Vec<usize>]) -> bool {
        let lowest = self.loads.iter().min().copied().unwrap_or(0);
        for members in placed {
            for at in 0..members.len() {
                let from = members[at];
                if self.loads[from] < lowest + 2 {
                    continue;
                }
                let stays = self.used(members, self.zones[from]);
                let better = (0..self.loads.len()).filter(|to| {
                    let is_as_spread =
                        self.zones[*to] == self.zones[from] || self.used(members, self.zones[*to]) < stays;
                    !members.contains(to)
                        && self.loads[*to] + 2 <= self.loads[from]
                        && is_as_spread
                        && (!self.lost[*to] || self.lost[from])
                });
                if let Some(to) = better.min_by_key(|to| self.loads[*to]) {
                    self.loads[from] -= 1;
                    self.loads[to] += 1;
                    members[at] = to;
                    return true;
                }
            }
        }
        false
    }
}

/// Which member of every shard should lead: first whoever leads least, then wishes are moved along chains of shards
/// from who leads most to who leads at least two fewer, until there is no such chain.
fn lead(nodes: &[Candidate], placed: &[Vec<usize>]) -> Vec<usize> {
    let mut leads: Vec<usize> = nodes.iter().map(|candidate| candidate.leads).collect();
    let fit: Vec<Vec<usize>> = placed.iter().map(|members| fit_to_lead(nodes, members)).collect();
    let mut leaders = Vec::with_capacity(placed.len());
    for members in &fit {
        let leader = members.iter().copied().min_by_key(|member| (leads[*member], *member));
        let leader = leader.expect("every shard has a replica");
        leads[leader] += 1;
        leaders.push(leader);
    }
    // Every round takes one from somebody who has at least two more than who gets it, so this ends.
    while let Some(chain) = (0..nodes.len()).find_map(|from| chain(from, &leads, &fit, &leaders)) {
        for (shard, to) in chain {
            leads[leaders[shard]] -= 1;
            leads[to] += 1;
            leaders[shard] = to;
        }
    }
    leaders
}

/// Lost nodes lead only where everybody is lost.
fn fit_to_lead(nodes: &[Candidate], members: &[usize]) -> Vec<usize> {
    let living: Vec<usize> = members.iter().copied().filter(|member| !nodes[*member].is_lost).collect();
    if living.is_empty() { members.to_vec() } else { living }
}

/// The shards whose wish moves, and where to, so that `from` leads one less and somebody with at least two fewer one
/// more.
fn chain(from: usize, leads: &[usize], fit: &[Vec<usize>], leaders: &[usize]) -> Option<Vec<(usize, usize)>> {
    let lowest = leads.iter().min()?;
    if leads[from] < lowest + 2 {
        return None;
    }
    let mut came_by: BTreeMap<usize, Option<(usize, usize)>> = BTreeMap::from([(from, None)]);
    let mut ahead = VecDeque::from([from]);
    while let Some(at) = ahead.pop_front() {
        if leads[at] + 2 <= leads[from] {
            let mut chain = Vec::new();
            let mut end = at;
            while let Some((shard, before)) = came_by[&end] {
                chain.push((shard, end));
                end = before;
            }
            return Some(chain);
        }
        for (shard, _) in leaders.iter().enumerate().filter(|(_, leader)| **leader == at) {
            for to in &fit[shard] {
                if let std::collections::btree_map::Entry::Vacant(unseen) = came_by.entry(*to) {
                    unseen.insert(Some((shard, at)));
                    ahead.push_back(*to);
                }
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(node: u64, zone: impl ToString) -> Candidate {
        Candidate { node: NodeId(node), zone: zone.to_string(), replicas: 0, leads: 0, is_lost: false }
    }

    fn any_nodes() -> impl Strategy<Value = Vec<Candidate>> {
        let node = (0..4_u8, 0..6_usize, 0..4_usize, proptest::bool::weighted(0.2));
        proptest::collection::vec(node, 1..9).prop_map(|nodes| {
            let nodes = nodes.into_iter().zip(1..);
            nodes
                .map(|((zone, replicas, leads, is_lost), node)| Candidate {
                    replicas,
                    leads,
                    is_lost,
                    ..candidate(node, zone)
                })
                .collect()
        })
    }

    fn loads(nodes: &[Candidate], placed: &[Placed]) -> BTreeMap<NodeId, usize> {
        let mut loads: BTreeMap<NodeId, usize> =
            nodes.iter().map(|candidate| (candidate.node, candidate.replicas)).collect();
        for node in placed.iter().flat_map(|placed| &placed.nodes) {
            *loads.get_mut(node).unwrap() += 1;
        }
        loads
    }

    fn leads(nodes: &[Candidate], placed: &[Placed]) -> BTreeMap<NodeId, usize> {
        let mut leads: BTreeMap<NodeId, usize> =
            nodes.iter().map(|candidate| (candidate.node, candidate.leads)).collect();
        for placed in placed {
            *leads.get_mut(&placed.leader_wish()).unwrap() += 1;
        }
        leads
    }

    fn spread(counts: &BTreeMap<NodeId, usize>) -> usize {
        counts.values().max().unwrap() - counts.values().min().unwrap()
    }

    fn zone_of(nodes: &[Candidate], node: NodeId) -> &str {
        &nodes.iter().find(|candidate| candidate.node == node).unwrap().zone
    }

    fn zones<'a>(nodes: &'a [Candidate], members: &[NodeId]) -> BTreeSet<&'a str> {
        members.iter().map(|node| zone_of(nodes, *node)).collect()
    }

    /// Who may be used at all.
    fn usable(nodes: &[Candidate], replicas: usize) -> Vec<Candidate> {
        let living: Vec<Candidate> = nodes.iter().filter(|candidate| !candidate.is_lost).cloned().collect();
        if living.len() >= replicas { living } else { nodes.to_vec() }
    }

    proptest! {
        #[test]
        fn replicas_of_one_shard_are_on_different_nodes(
            nodes in any_nodes(), shards in 0..20_usize, wish in 1..6_usize
        ) {
            let replicas = wish.min(nodes.len());
            for placed in place(&nodes, shards, replicas) {
                prop_assert_eq!(placed.nodes.len(), replicas);
                prop_assert_eq!(placed.nodes.iter().collect::<BTreeSet<_>>().len(), replicas);
            }
        }

        #[test]
        fn replicas_stand_in_different_zones_while_there_are_enough(
            nodes in any_nodes(), shards in 0..20_usize, wish in 1..6_usize,
        ) {
            let nodes: Vec<_> = nodes.into_iter().map(|node| Candidate { is_lost: false, ..node }).collect();
            let replicas = wish.min(nodes.len());
            let there_are = nodes.iter().map(|candidate| &candidate.zone).collect::<BTreeSet<_>>().len();
            for placed in place(&nodes, shards, replicas) {
                prop_assert_eq!(zones(&nodes, &placed.nodes).len(), there_are.min(replicas));
            }
        }

        #[test]
        fn in_zones_of_one_size_replicas_and_leaders_differ_by_at_most_one(
            zone_count in 1..5_u64, each in 1..4_u64, shards in 0..40_usize, wish in 1..6_usize,
        ) {
            let nodes: Vec<_> = (0..zone_count * each).map(|node| candidate(node + 1, node % zone_count)).collect();
            let replicas = wish.min(nodes.len());
            let placed = place(&nodes, shards, replicas);
            let loads = loads(&nodes, &placed);
            prop_assert!(spread(&loads) <= 1, "{loads:?}");
            let leads = leads(&nodes, &placed);
            prop_assert!(spread(&leads) <= 1, "{leads:?}");
        }

        #[test]
        fn with_any_zones_and_loads_no_replica_could_be_moved_for_a_better_balance(
            nodes in any_nodes(), shards in 0..20_usize, wish in 1..6_usize,
        ) {
            let replicas = wish.min(nodes.len());
            let placed = place(&nodes, shards, replicas);
            let loads = loads(&nodes, &placed);
            let lost = |node: NodeId| nodes.iter().any(|candidate| candidate.node == node && candidate.is_lost);
            for Placed { nodes: members } in &placed {
                for from in members {
                    for to in usable(&nodes, replicas).iter().map(|candidate| candidate.node) {
                        let after: Vec<_> = members.iter().map(|node| if node == from { to } else { *node }).collect();
                        let is_allowed = !members.contains(&to)
                            && zone_of(&nodes, *from) == zone_of(&nodes, to)
                            && (!lost(to) || lost(*from));
                        prop_assert!(!is_allowed || loads[&to] + 2 > loads[from], "{after:?} would be better");
                    }
                }
            }
        }

        #[test]
        fn no_wish_could_be_moved_for_a_better_balance(
            nodes in any_nodes(), shards in 0..20_usize, wish in 1..6_usize
        ) {
            let placed = place(&nodes, shards, wish.min(nodes.len()));
            let leads = leads(&nodes, &placed);
            let lost = |node: NodeId| nodes.iter().any(|candidate| candidate.node == node && candidate.is_lost);
            for placed in &placed {
                for other in placed.nodes.iter().filter(|node| !lost(**node)) {
                    prop_assert!(leads[&placed.leader_wish()] < leads[other] + 2, "{leads:?} {placed:?}");
                }
            }
        }

        #[test]
        fn lost_nodes_get_nothing_while_enough_others_live(
            nodes in any_nodes(), shards in 1..20_usize, wish in 1..6_usize
        ) {
            let replicas = wish.min(nodes.len());
            let lost: BTreeSet<_> = nodes.iter().filter(|node| node.is_lost).map(|node| node.node).collect();
            let living = nodes.len() - lost.len();
            for placed in place(&nodes, shards, replicas) {
                let used = placed.nodes.iter().filter(|node| lost.contains(node)).count();
                prop_assert_eq!(used, replicas.saturating_sub(living));
                prop_assert!(living == 0 || !lost.contains(&placed.leader_wish()));
            }
        }

        #[test]
        fn the_order_of_the_nodes_does_not_matter(nodes in any_nodes(), shards in 0..20_usize, wish in 1..6_usize) {
            let replicas = wish.min(nodes.len());
            let mut turned = nodes.clone();
            turned.reverse();
            prop_assert_eq!(place(&nodes, shards, replicas), place(&turned, shards, replicas));
        }
    }

    #[test]
    fn a_node_that_came_later_gets_the_next_shards() {
        let full = |node| Candidate { replicas: 8, leads: 3, ..candidate(node, "a") };
        let nodes = [full(1), full(2), full(3), candidate(4, "a")];
        let placed = place(&nodes, 4, 3);
        assert!(placed.iter().all(|placed| placed.nodes.contains(&NodeId(4))), "{placed:?}");
        assert!(leads(&nodes, &placed).values().all(|leads| *leads >= 3), "{placed:?}");
    }

    #[test]
    fn eight_shards_on_three_nodes_have_leaders_everywhere() {
        let nodes = [candidate(1, ""), candidate(2, ""), candidate(3, "")];
        let placed = place(&nodes, 8, 3);
        assert_eq!(leads(&nodes, &placed).values().copied().collect::<Vec<_>>(), [3, 3, 2]);
    }
}
