//! Partitions: links between nodes are cut.
//!
//! ```text
//!   one, leader   1 │ 2 3            halves   1 2 │ 3 4 5          one-way   1 ──✕─▶ 2 3, 1 ◀── 2 3
//!   deaf, deaf-leader   1 ──▶ 2 3, 1 ◀─✕── 2 3: it is heard, and hears nobody
//!   unreachable   the leader, for nodes and clients alike: as if its machine had lost its cable
//!   ring          each node keeps its neighbours: everybody sees a majority, no two the same (five nodes and more)
//! ```
//!
//! **Invariant.** Clients reach every node but an unreachable one: who is on the wrong side must say so by itself.

use super::{Cluster, Nemesis, Outcome, Seen, aim, count, told};
use crate::{
    history::Value,
    real::fabric::{Carried, End, Link, Observed},
};
use anyhow::Result;
use futures::future::BoxFuture;
use rand::{rngs::SmallRng, seq::SliceRandom as _};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Nodes of which a ring can be made: with fewer, keeping both neighbours is keeping everybody.
const RING_NODES_MIN: usize = 5;

/// How long what was under way when a link was cut may still arrive.
const UNDER_WAY: Duration = Duration::from_millis(50);

/// Cut links.
pub struct Partition {
    target: String,
    chance: SmallRng,
    /// Who is on the smaller side, if there is one.
    off: Vec<u64>,
    cut: Vec<Link>,
    before: Observed,
    /// A moment after the cut.
    after: Observed,
    since: Instant,
    leader: Option<u64>,
}

impl Partition {
    /// Cuts nothing yet.
    pub fn new(target: &str, chance: SmallRng) -> Self {
        Partition {
            target: target.to_owned(),
            chance,
            off: Vec::new(),
            cut: Vec::new(),
            before: Observed::default(),
            after: Observed::default(),
            since: Instant::now(),
            leader: None,
        }
    }

    fn links(&mut self, cluster: &Cluster) -> Result<Vec<Link>, String> {
        let mut numbers = cluster.numbers();
        numbers.shuffle(&mut self.chance);
        match self.target.as_str() {
            "halves" => {
                let (few, many) = numbers.split_at((numbers.len() - 1) / 2);
                self.off = few.to_vec();
                Ok(both_ways(few, many))
            }
            "ring" if numbers.len() < RING_NODES_MIN => Err(format!("a ring needs {RING_NODES_MIN} nodes")),
            "ring" => Ok(ring(&numbers)),
            "one-way" => {
                let (one, others) = numbers.split_at(1);
                self.off = one.to_vec();
                Ok(others.iter().map(|other| Link::between(one[0], *other)).collect())
            }
            "deaf" | "deaf-leader" => {
                let target = if self.target == "deaf" { "one" } else { "leader" };
                let off = aim(target, cluster, &mut self.chance)?;
                numbers.retain(|number| !off.contains(number));
                let links =
                    both_ways(&off, &numbers).into_iter().filter(|link| off.iter().any(|node| is_to(link, *node)));
                let links = links.collect();
                self.off = off;
                Ok(links)
            }
            target => {
                let is_unreachable = target == "unreachable";
                let off = aim(if is_unreachable { "leader" } else { target }, cluster, &mut self.chance)?;
                numbers.retain(|number| !off.contains(number));
                let mut links = both_ways(&off, &numbers);
                if is_unreachable {
                    links.extend(off.iter().flat_map(|node| with_clients(*node)));
                }
                self.off = off;
                Ok(links)
            }
        }
    }
}

fn both_ways(some: &[u64], others: &[u64]) -> Vec<Link> {
    let pairs = some.iter().flat_map(|one| others.iter().map(|other| (*one, *other)));
    pairs.flat_map(|(one, other)| [Link::between(one, other), Link::between(other, one)]).collect()
}

fn is_to(link: &Link, node: u64) -> bool {
    link.to == End::Node(node)
}

fn with_clients(node: u64) -> [Link; 2] {
    let (node, clients) = (End::Node(node), End::Clients);
    [Link { from: node, to: clients }, Link { from: clients, to: node }]
}

/// Each node keeps as many neighbours as make a majority with it, half of them on either side.
fn ring(numbers: &[u64]) -> Vec<Link> {
    let reach = numbers.len() / 2 / 2;
    let mut links = Vec::new();
    for (place, one) in numbers.iter().enumerate() {
        for (other_place, other) in numbers.iter().enumerate() {
            let apart = place.abs_diff(other_place);
            let apart = apart.min(numbers.len() - apart);
            if apart > reach.max(1) {
                links.push(Link::between(*one, *other));
            }
        }
    }
    links
}

/// What the cut links did meanwhile, together.
pub(super) fn meanwhile(links: &[Link], before: &Observed, now: &Observed) -> Carried {
    let mut sum = Carried::default();
    for link in links {
        let (now, before) = (now.get(link).copied().unwrap_or_default(), before.get(link).copied().unwrap_or_default());
        sum.add(&now.since(&before));
    }
    sum
}

/// Why nobody can say that these links were cut: something passed although they were, or nothing was to be stopped.
fn doubt(links: &[Link], before: &Observed, after: &Observed, now: &Observed) -> Option<String> {
    let passed = |link: &Link| (*link, meanwhile(&[*link], after, now).passed_bytes);
    if let Some((link, bytes)) = links.iter().map(passed).find(|(_, bytes)| *bytes > 0) {
        return Some(format!("{bytes} bytes passed {link} although it was cut"));
    }
    let Carried { held_bytes, dropped_bytes, disturbed, resets, .. } = meanwhile(links, before, now);
    let is_unmet = held_bytes + dropped_bytes + disturbed + resets == 0;
    is_unmet.then(|| "nobody said anything over the links that were cut".to_owned())
}

impl Nemesis for Partition {
    fn start<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            self.leader = cluster.leader();
            self.cut = match self.links(cluster) {
                Ok(links) => links,
                Err(reason) => return Ok(Outcome::Skipped(reason)),
            };
            self.since = Instant::now();
            self.before = cluster.fabric.observed();
            self.cut.iter().for_each(|link| cluster.fabric.cut(*link));
            sleep(UNDER_WAY).await;
            self.after = cluster.fabric.observed();
            let links = self.cut.iter().map(|link| Value::Text(link.to_string())).collect();
            let leader = self.leader.map(|leader| Value::Text(format!("n{leader}"))).unwrap_or_default();
            Ok(Outcome::Installed(told(&self.off, [("cut", Value::List(links)), ("leader_before", leader)])))
        })
    }

    fn stop<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Seen>> {
        Box::pin(async move {
            let now = cluster.fabric.observed();
            let carried = meanwhile(&self.cut, &self.before, &now);
            let doubt = doubt(&self.cut, &self.before, &self.after, &now);
            self.cut.iter().for_each(|link| cluster.fabric.mend(*link));
            let changes = cluster.observer.changes_since(self.since);
            let led_anew = changes.iter().find(|change| change.shard == 1 && Some(change.node) != self.leader);
            let new_leader = led_anew
                .map(|change| count(u64::try_from((change.at - self.since).as_millis()).unwrap_or(u64::MAX)))
                .unwrap_or_default();
            let seen = [
                ("passed_bytes", count(carried.passed_bytes)),
                ("held_bytes", count(carried.held_bytes)),
                ("dropped_bytes", count(carried.dropped_bytes)),
                ("new_leader_after_ms", new_leader),
            ];
            Ok(Seen { value: told(&self.off, seen), doubt })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_a_ring_everybody_keeps_a_majority_and_no_two_the_same() {
        let numbers = [1, 2, 3, 4, 5];
        let cut = ring(&numbers);
        for one in numbers {
            let lost =
                cut.iter().filter(|link| **link == Link::between(one, 0) || link.from == Link::between(one, 0).from);
            assert_eq!(lost.count(), 2, "keeps two neighbours and itself");
        }
        assert!(cut.iter().all(|link| cut.contains(&Link { from: link.to, to: link.from })));
    }

    #[test]
    fn a_cut_that_lets_bytes_pass_or_that_nobody_met_is_in_doubt() {
        let link = Link::between(1, 2);
        let seen = |passed_bytes, held_bytes| {
            let carried = Carried { passed_bytes, held_bytes, ..Carried::default() };
            Observed::from([
                (link, carried),
                (Link::between(2, 1), Carried { passed_bytes: 999, ..Carried::default() }),
            ])
        };
        let doubt = |before, after, now| doubt(&[link], &before, &after, &now);
        assert_eq!(doubt(seen(5, 0), seen(9, 0), seen(9, 20)), None, "what was under way may arrive");
        let passed = doubt(seen(5, 0), seen(9, 0), seen(12, 20));
        assert_eq!(passed.as_deref(), Some("3 bytes passed n1→n2 although it was cut"));
        let unmet = doubt(seen(5, 7), seen(9, 7), seen(9, 7));
        assert_eq!(unmet.as_deref(), Some("nobody said anything over the links that were cut"));
    }

    #[test]
    fn halves_are_cut_both_ways() {
        let cut = both_ways(&[1], &[2, 3]);
        assert_eq!(cut.len(), 4);
        assert!(!cut.contains(&Link::between(2, 3)));
    }

    #[test]
    fn who_is_deaf_is_heard() {
        let links: Vec<Link> = both_ways(&[2], &[1, 3]).into_iter().filter(|link| is_to(link, 2)).collect();
        assert_eq!(links, [Link::between(1, 2), Link::between(3, 2)]);
    }

    #[test]
    fn an_unreachable_node_and_clients_lose_each_other() {
        assert_eq!(with_clients(2).map(|link| link.to_string()), ["n2→clients", "clients→n2"]);
    }
}
