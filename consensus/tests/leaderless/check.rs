//! What must hold in every state of the model.

use super::{
    rules::Rules,
    state::{Mode, NODES, Replica, Set, World, has},
};

impl World {
    /// What does not hold.
    pub fn wrong(&self, rules: &Rules) -> Option<String> {
        (0..NODES)
            .filter(|node| self.replicas[*node].mode == Mode::Whole)
            .find_map(|node| self.untrue(node).or_else(|| self.resurrected(node)))
            .or_else(|| (0..=2).find_map(|epoch| self.missed(epoch, rules)))
            .or_else(|| self.vanished())
            .or_else(|| self.apart())
    }

    /// Whether a write is as new as another one, or is that one.
    fn supersedes(&self, one: usize, other: usize) -> bool {
        one == other || self.is_newer(one, other, &Rules::ALL)
    }

    /// A vector that claims what the replica neither holds nor has held.
    fn untrue(&self, node: usize) -> Option<String> {
        let replica = &self.replicas[node];
        let is_held = |dot: usize| match replica.held {
            Some(held) => self.supersedes(held, dot),
            None => self.collected.is_some_and(|collected| {
                self.supersedes(collected, dot) && self.writes[collected].stamp <= replica.floor
            }),
        };
        let claimed = (0..self.writes.len()).filter(|dot| has(replica.covered, *dot));
        claimed.into_iter().find(|dot| !is_held(*dot)).map(|dot| format!("node {node} claims {dot} and has not got it"))
    }

    /// What was deleted, and thrown away, is there again.
    fn resurrected(&self, node: usize) -> Option<String> {
        let (collected, held) = self.collected.zip(self.replicas[node].held)?;
        let is_back = self.is_newer(collected, held, &Rules::ALL);
        is_back.then(|| format!("node {node} holds {held}, which {collected} deleted"))
    }

    /// Replicas that cover the same and do not hold the same.
    fn apart(&self) -> Option<String> {
        let is_gone = |held: &usize, floor: u8| self.writes[*held].is_tombstone && self.writes[*held].stamp <= floor;
        let whole = (0..NODES).filter(|node| self.replicas[*node].mode == Mode::Whole);
        let seen: Vec<(usize, &Replica)> = whole.map(|node| (node, &self.replicas[node])).collect();
        let pairs = seen.iter().flat_map(|one| seen.iter().map(move |other| (one, other)));
        let differ = |(one, other): &(&(usize, &Replica), &(usize, &Replica))| {
            let floor = one.1.floor.max(other.1.floor);
            let held = |replica: &Replica| replica.held.filter(|held| !is_gone(held, floor));
            one.1.covered == other.1.covered && held(one.1) != held(other.1)
        };
        let (one, other) = pairs.into_iter().find(differ)?;
        Some(format!("nodes {} and {} cover the same and hold different things", one.0, other.0))
    }

    /// What somebody had and nobody has any more, although no disk was lost.
    fn vanished(&self) -> Option<String> {
        let is_there = |write: usize| {
            let held = self.replicas.iter().filter(|replica| replica.mode != Mode::Absent).filter_map(|it| it.held);
            held.chain(self.collected).any(|held| self.supersedes(held, write))
        };
        let is_complete = self.wipes + self.power_cuts == 0;
        let gone = (0..self.writes.len()).find(|write| is_complete && !is_there(*write));
        gone.map(|write| format!("nobody has {write} any more"))
    }

    /// A quorum that does not know what a client was told a quorum has.
    fn missed(&self, epoch: u8, rules: &Rules) -> Option<String> {
        let counts = |replica: &Replica| {
            let is_of_epoch = replica.epoch == epoch || !rules.epochs_are_compared;
            let is_whole = replica.mode == Mode::Whole || !rules.rebuilding_counts_not;
            replica.mode != Mode::Absent && is_whole && is_of_epoch
        };
        let counting: Set =
            World::members(epoch).filter(|node| counts(&self.replicas[*node])).fold(0, |set, node| set | 1 << node);
        let acknowledged = (0..self.writes.len()).filter(|write| self.writes[*write].is_acknowledged);
        for write in acknowledged {
            if self.collected.is_some_and(|collected| self.supersedes(collected, write)) {
                continue;
            }
            let knows = |node: &usize| self.replicas[*node].held.is_some_and(|held| self.supersedes(held, write));
            let ignorant = (0..NODES).filter(|node| has(counting, *node) && !knows(node));
            let ignorant: Set = ignorant.fold(0, |set, node| set | 1 << node);
            if World::is_quorum(ignorant, epoch) {
                return Some(format!("a quorum of epoch {epoch}, {ignorant:04b}, does not know {write}"));
            }
        }
        None
    }
}
