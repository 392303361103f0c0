//! Bytes: nodes that hold equally many replicas, and not about equally many bytes.
//!
//! ```text
//!   heaviest ──▶ a replica ──▶ lightest        if it has one replica more
//!   heaviest ◀── exchanged ──▶ lightest        if they have equally many: a large one for a small one
//! ```
//!
//! **Invariant.** Nothing is done that makes the counts less even, so that the rule of counts never undoes what this
//! one does. Whatever is done brings two nodes closer together by a quarter of what they differ by at least: weights
//! are squared and summed strictly less each time, and so it ends.

use super::{Desk, METADATA_SHARD, MetadataCommand, Origin, shards};
use crate::metadata::{OperatorWish, plan::plan};
use kvorum_api::{NodeId, ShardId};
use std::collections::BTreeMap;

/// Nodes that differ by less are even.
const GAP_MIN: u64 = 64 << 20;

/// So are nodes that differ by less than this part of the heavier one.
const GAP_PART: u64 = 5;

/// Between two nodes: what goes from the heavier to the lighter, and what comes back for it.
struct Exchange {
    there: ShardId,
    back: Option<ShardId>,
    /// By how much the two differ afterwards.
    gap: u64,
}

impl Desk<'_> {
    /// One exchange, between the heaviest or the lightest node and any other.
    pub(super) fn spread_bytes(&mut self) {
        let Some(weights) = self.weights().filter(|_| self.busy.is_empty()) else { return };
        let mut nodes: Vec<NodeId> = weights.keys().copied().collect();
        nodes.sort_by_key(|node| (std::cmp::Reverse(weights[node]), *node));
        let (Some(heaviest), Some(lightest)) = (nodes.first().copied(), nodes.last().copied()) else { return };
        let from_heaviest = nodes.iter().rev().map(|to| (heaviest, *to));
        let to_lightest = nodes.iter().map(|from| (*from, lightest));
        let found = from_heaviest.chain(to_lightest).find_map(|(from, to)| {
            let gap = weights[&from].saturating_sub(weights[&to]);
            let is_uneven = gap > GAP_MIN && gap.saturating_mul(GAP_PART) > weights[&from];
            let exchange = if is_uneven { self.best_exchange(from, to, gap) } else { None };
            exchange.map(|exchange| (from, to, exchange))
        });
        let Some((from, to, exchange)) = found else { return };
        let mib = |node: NodeId| weights[&node] >> 20;
        let cause = format!("node {from} holds {} MiB and node {to} {} MiB", mib(from), mib(to));
        self.advise(exchange.there, OperatorWish::Move { from, to }, Origin::Balance, cause.clone());
        if let Some(back) = exchange.back {
            self.advise(back, OperatorWish::Move { from: to, to: from }, Origin::Balance, cause);
        }
    }

    /// Bytes of the replicas on every node; nothing as long as a shard is not weighed.
    fn weights(&self) -> Option<BTreeMap<NodeId, u64>> {
        let mut weights: BTreeMap<NodeId, u64> = self.map.nodes.keys().map(|node| (*node, 0)).collect();
        for row in self.map.shards.values() {
            let bytes = self.facts.bytes.get(&row.shard)?;
            row.replicas.iter().for_each(|replica| *weights.entry(replica.node).or_default() += bytes);
        }
        Some(weights)
    }

    fn best_exchange(&self, from: NodeId, to: NodeId, gap: u64) -> Option<Exchange> {
        let there = self.movable(from, to);
        let mut back = self.movable(to, from);
        back.sort_unstable();
        let gap_after = |moved: u64| gap.abs_diff(moved.saturating_mul(2));
        let mut exchanges = Vec::new();
        for (bytes, shard) in there {
            if self.loads[&from] > self.loads[&to] {
                exchanges.push(Exchange { there: shard, back: None, gap: gap_after(bytes) });
            }
            // What should come back: as much less than what goes as half the gap.
            let ideal = bytes.saturating_sub(gap / 2);
            let at = back.partition_point(|(bytes, _)| *bytes < ideal);
            for (returned, other) in back.iter().skip(at.saturating_sub(1)).take(2) {
                if let Some(moved) = bytes.checked_sub(*returned) {
                    exchanges.push(Exchange { there: shard, back: Some(*other), gap: gap_after(moved) });
                }
            }
        }
        let best = exchanges.into_iter().min_by_key(|exchange| (exchange.gap, exchange.back.is_some(), exchange.there));
        best.filter(|exchange| exchange.gap <= gap / 4 * 3)
    }

    /// Replicas on one node that may go to the other, with their bytes: its zone is no worse, and the plan agrees.
    fn movable(&self, from: NodeId, to: NodeId) -> Vec<(u64, ShardId)> {
        let held = shards(self.map).filter(|(shard, replicas)| {
            let is_on = |node| replicas.iter().any(|row| row.node == node);
            let is_as_spread = self.zone(to) == self.zone(from) || !self.is_zone_used(replicas, from, to);
            *shard != METADATA_SHARD && is_on(from) && !is_on(to) && is_as_spread && !self.is_creating(*shard)
        });
        let is_planned = |shard| {
            let wish = OperatorWish::Move { from, to };
            let command = MetadataCommand::Operate { shard, wish, origin: Origin::Balance, cause: String::new() };
            plan(self.map, &command, 0, &self.lost).is_ok()
        };
        let weighed = held.filter(|(shard, _)| is_planned(*shard));
        weighed.filter_map(|(shard, _)| Some((*self.facts.bytes.get(&shard)?, shard))).collect()
    }
}
