//! # Plan: when each fault happens
//!
//! ```text
//!   seed ─▶ which kinds this world knows at all ─▶ one after the other, overlapping ─▶ at the end all is whole
//! ```
//!
//! Which kinds of faults a seed uses is drawn first: a run with few kinds reaches states that a run with all of them
//! hides.
//!
//! **Invariant.** A plan is a function of its seed: it is drawn before the run begins and printed with it. At its end
//! the world is as it should be again, so that the cluster must come back.

use super::{
    chance::Chance,
    disk::{Part, Store},
    faults::{CutId, Fault, Links, around, between},
    moving::Moving,
    network::Weather,
};
use kvorum_api::NodeId;
use std::{fmt, time::Duration};

/// When each fault happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The kinds this world knows.
    kinds: Vec<Kind>,
    /// How long it takes from one to the next, milliseconds, at most.
    pace_ms: u64,
    /// In order.
    pub steps: Vec<(Duration, Fault)>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds: Vec<String> = self.kinds.iter().map(|kind| format!("{kind:?}")).collect();
        write!(f, "a fault every {} ms at most: {}", self.pace_ms, kinds.join(" "))
    }
}

/// Kinds of faults a seed may leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    CrashOne,
    CrashAll,
    Isolate,
    IsolateLeader,
    OneWay,
    Pair,
    Ring,
    Weather,
    Clock,
    ClockDrift,
    SlowDisk,
    FailingPower,
    FailingDisk,
    FullDisk,
    Rot,
    Pause,
    Move,
    CrashMetadataLeader,
}

const KINDS: [Kind; 18] = [
    Kind::CrashOne,
    Kind::CrashAll,
    Kind::Isolate,
    Kind::IsolateLeader,
    Kind::OneWay,
    Kind::Pair,
    Kind::Ring,
    Kind::Weather,
    Kind::Clock,
    Kind::ClockDrift,
    Kind::SlowDisk,
    Kind::FailingPower,
    Kind::FailingDisk,
    Kind::FullDisk,
    Kind::Rot,
    Kind::Pause,
    Kind::Move,
    Kind::CrashMetadataLeader,
];

/// Of a thousand faults, those that last for several elections.
const LONG_PER_MILLE: u32 = 300;

/// Of a thousand worlds, those in which installations lose power.
const FAILING_INSTALLATIONS_PER_MILLE: u32 = 300;

/// The first cut that looks for what is being changed: the others are counted from 1.
const STEERED_CUTS: CutId = 1_000_000;

/// Draws the plan of `seed` for `nodes` over `length`.
#[must_use]
pub fn plan(seed: u64, moving: Option<&Moving>, nodes: &[NodeId], length: Duration) -> Plan {
    let mut chance = Chance::new(seed, "faults");
    let share = *chance.pick(&[150, 300, 500]);
    let mut kinds: Vec<Kind> = KINDS.into_iter().filter(|_| chance.hits(share)).collect();
    if kinds.is_empty() {
        kinds.push(Kind::CrashOne);
    }
    let pace_ms = *chance.pick(&[1_500, 3_000, 3_000, 8_000]);
    let mut draft = Draft { steps: Vec::new(), nodes, chance, cuts: 0 };
    let mut at = draft.chance.millis(1_000..3_000);
    while at < length {
        let is_long = draft.chance.hits(LONG_PER_MILLE);
        let lasts = draft.chance.millis(if is_long { 3_000..10_000 } else { 200..5_000 });
        let end = (at + lasts).min(length);
        let kind = *draft.chance.pick(&kinds);
        draft.add(kind, at, end);
        // The next one may begin before this one ends.
        at += draft.chance.millis(200..pace_ms);
    }
    draft.steps.extend(failing_installations(seed, nodes, length));
    draft.steps.extend(moving.into_iter().flat_map(|moving| moving.steps(seed, length, STEERED_CUTS)));
    Plan { kinds, pace_ms, steps: draft.end(length) }
}

/// In some worlds power fails between the steps of whatever installation of a snapshot comes next on a node. The steps
/// of a start or of the flushes before it would hit that by luck alone. Drawn apart, so that worlds without it are what
/// they are.
fn failing_installations(seed: u64, nodes: &[NodeId], length: Duration) -> Vec<(Duration, Fault)> {
    let mut chance = Chance::new(seed, "installations");
    let mut steps = Vec::new();
    if !chance.hits(FAILING_INSTALLATIONS_PER_MILLE) {
        return steps;
    }
    for node in nodes {
        let mut at = chance.millis(500..3_000);
        while at < length {
            steps.push((at, Fault::FailPowerAfter(*node, Store::Installation, chance.within(1..4))));
            at += chance.millis(3_000..8_000);
            // Where it has failed, power is back; the next installation is another one.
            steps.push((at, Fault::Restart(*node)));
        }
    }
    steps
}

/// A plan in the making.
struct Draft<'a> {
    steps: Vec<(Duration, Fault)>,
    nodes: &'a [NodeId],
    chance: Chance,
    cuts: CutId,
}

impl Draft<'_> {
    fn add(&mut self, kind: Kind, at: Duration, end: Duration) {
        let node = *self.chance.pick(self.nodes);
        let (fault, remedy) = match kind {
            Kind::CrashOne => (Fault::Crash(node), Fault::Restart(node)),
            Kind::CrashAll => return self.crash_all(at, end),
            Kind::Isolate | Kind::OneWay | Kind::Pair | Kind::Ring => {
                let links = self.links(kind, node);
                let cut = self.cut();
                (Fault::Cut(cut, links), Fault::Mend(cut))
            }
            Kind::IsolateLeader => {
                let cut = self.cut();
                (Fault::CutLeader(cut, self.chance.any() >> 32), Fault::Mend(cut))
            }
            Kind::Move => {
                let heir = *self.chance.pick(self.nodes);
                (Fault::Move(self.chance.any() >> 32, node), Fault::Move(self.chance.any() >> 32, heir))
            }
            Kind::CrashMetadataLeader => {
                // In the middle of a change.
                self.steps.push((at, Fault::Hurry));
                self.steps.push((at + self.chance.millis(0..30), Fault::CrashMetadataLeader));
                (Fault::Hurry, Fault::RestartAll)
            }
            Kind::Weather => (Fault::Weather(self.weather()), Fault::Weather(Weather::FAIR)),
            Kind::Clock => {
                let far = self.chance.hits(300);
                let ahead_ms = if far { 10_000 } else { self.chance.within(0..200) as i64 };
                let ahead_ms = if self.chance.hits(500) { -ahead_ms } else { ahead_ms };
                (Fault::Clock(node, ahead_ms), Fault::Clock(node, 0))
            }
            Kind::ClockDrift => {
                let gains = self.chance.within(0..200) as i64 - 100;
                (Fault::ClockGains(node, gains), Fault::Clock(node, 0))
            }
            Kind::FailingPower => return self.fail_power(node, at, end),
            Kind::FailingDisk => {
                let part = *self.chance.pick(&[Part::JournalWrite, Part::JournalSync, Part::EngineFlush]);
                self.steps.push((end, Fault::ReplaceDisk(node)));
                (Fault::FailDisk(node, part), Fault::Restart(node))
            }
            Kind::FullDisk => (Fault::Full(node, true), Fault::Full(node, false)),
            Kind::Rot => (Fault::Rot(node, self.chance.any() >> 32), Fault::Restart(node)),
            Kind::Pause => (Fault::Pause(node, true), Fault::Pause(node, false)),
            Kind::SlowDisk => {
                if self.chance.hits(400) {
                    // It dies in the middle of what it does so slowly.
                    let lasts = (end - at).as_millis().max(1) as u64;
                    self.steps.push((at + self.chance.millis(0..lasts), Fault::Crash(node)));
                    self.steps.push((end, Fault::Restart(node)));
                }
                (Fault::SlowDisk(node, self.chance.within(5..2_500)), Fault::SlowDisk(node, 1))
            }
        };
        self.steps.push((at, fault));
        self.steps.push((end, remedy));
    }

    /// Power fails at any durable step, also of the start that follows.
    fn fail_power(&mut self, node: NodeId, at: Duration, end: Duration) {
        if self.chance.hits(400) {
            // It was away for a while: what it installs when it comes back may end at any step.
            self.steps.push((at, Fault::Crash(node)));
            self.steps.push((end, Fault::FailPowerAfter(node, Store::Engine, self.chance.within(1..10))));
            self.steps.push((end, Fault::Restart(node)));
            return self.steps.push((end + self.chance.millis(500..4_000), Fault::Restart(node)));
        }
        let store = *self.chance.pick(&[Store::Journal, Store::Journal, Store::Engine]);
        let operations = match store {
            Store::Journal => self.chance.within(1..60),
            Store::Engine | Store::Installation => self.chance.within(1..8),
        };
        self.steps.push((at, Fault::FailPowerAfter(node, store, operations)));
        let middle = at + (end - at) / 2;
        if self.chance.hits(300) {
            self.steps.push((middle, Fault::FailPowerAfter(node, Store::Journal, self.chance.within(1..12))));
        }
        self.steps.push((end, Fault::Restart(node)));
    }

    fn crash_all(&mut self, at: Duration, end: Duration) {
        for node in self.nodes {
            self.steps.push((at, Fault::Crash(*node)));
            self.steps.push((end + self.chance.millis(0..500), Fault::Restart(*node)));
        }
    }

    fn cut(&mut self) -> CutId {
        self.cuts += 1;
        self.cuts
    }

    fn links(&mut self, kind: Kind, node: NodeId) -> Links {
        let others: Vec<NodeId> = self.nodes.iter().copied().filter(|other| *other != node).collect();
        let other = *self.chance.pick(&others);
        // Cuts that are something else than those among three.
        if self.nodes.len() > 3 && kind != Kind::OneWay && self.chance.hits(500) {
            return self.links_of_many(kind, node, &others);
        }
        match kind {
            Kind::Pair => [(node, other), (other, node)].into(),
            // One link, or the node hears nobody, or nobody hears it.
            Kind::OneWay => match self.chance.within(0..3) {
                0 => [(node, other)].into(),
                1 => others.iter().map(|other| (*other, node)).collect(),
                _ => others.iter().map(|other| (node, *other)).collect(),
            },
            // Everybody is heard by the next one alone.
            Kind::Ring => {
                let next = |at: usize| self.nodes[(at + 1) % self.nodes.len()];
                let heard = |(at, from): (usize, &NodeId)| {
                    let from = *from;
                    let deaf = self.nodes.iter().filter(move |to| **to != from && **to != next(at));
                    deaf.map(move |to| (from, *to)).collect::<Vec<_>>()
                };
                self.nodes.iter().enumerate().flat_map(heard).collect()
            }
            _ => around(node, self.nodes),
        }
    }

    /// Two sides that share one node, a ring in which everybody talks to both neighbours, or a minority of two.
    fn links_of_many(&mut self, kind: Kind, node: NodeId, others: &[NodeId]) -> Links {
        let at = self.chance.within(0..others.len() as u64) as usize;
        let (companion, bridge) = (others[at], others[(at + 1) % others.len()]);
        let side = [node, companion];
        match kind {
            Kind::Pair => {
                let is_cut = |(from, to): &(NodeId, NodeId)| *from != bridge && *to != bridge;
                between(&side, self.nodes).into_iter().filter(is_cut).collect()
            }
            Kind::Ring => {
                let count = self.nodes.len();
                let is_far = |left: usize, right: usize| (2..=count - 2).contains(&left.abs_diff(right));
                let far = |left| (0..count).filter(move |right| is_far(left, *right)).map(move |right| (left, right));
                (0..count).flat_map(far).map(|(left, right)| (self.nodes[left], self.nodes[right])).collect()
            }
            _ => between(&side, self.nodes),
        }
    }

    fn weather(&mut self) -> Weather {
        Weather {
            lost_per_mille: self.chance.within(0..200) as u32,
            doubled_per_mille: self.chance.within(0..100) as u32,
            late_per_mille: self.chance.within(0..100) as u32,
            delay_ms_max: self.chance.within(1..60),
        }
    }

    /// The world is made whole.
    fn end(self, length: Duration) -> Vec<(Duration, Fault)> {
        let Draft { mut steps, nodes, .. } = self;
        // Nothing goes wrong any more once the world is whole.
        steps.retain(|(at, _)| *at < length);
        let mut mended = vec![Fault::MendAll, Fault::Weather(Weather::FAIR)];
        for node in nodes.iter().copied() {
            mended.extend([Fault::Clock(node, 0), Fault::SlowDisk(node, 1), Fault::Full(node, false)]);
            mended.extend([Fault::Pause(node, false), Fault::KeepPower(node)]);
            mended.extend([Fault::ReplaceDisk(node), Fault::Restart(node)]);
        }
        steps.extend(mended.into_iter().map(|fault| (length, fault)));
        steps.sort_by_key(|(at, _)| *at);
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::super::faults::around_leader;
    use super::*;

    const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    #[test]
    fn a_plan_repeats_and_ends_with_a_whole_world() {
        for seed in 0..50 {
            let length = Duration::from_secs(20);
            let first = plan(seed, None, &NODES, length);
            assert_eq!(first, plan(seed, None, &NODES, length));
            for node in NODES {
                let newest = first.steps.iter().rev().find_map(|(_, fault)| match fault {
                    Fault::Crash(crashed) if *crashed == node => Some(false),
                    Fault::CrashMetadataLeader => Some(false),
                    Fault::Restart(started) if *started == node => Some(true),
                    _ => None,
                });
                assert_eq!(newest, Some(true), "seed {seed}: node {node} stays down");
            }
            let link = first
                .steps
                .iter()
                .rev()
                .find(|(_, fault)| matches!(fault, Fault::Cut(..) | Fault::CutLeader(..) | Fault::MendAll));
            assert_eq!(link.map(|(_, fault)| fault), Some(&Fault::MendAll), "seed {seed}");
        }
    }

    #[test]
    fn every_kind_of_cut_is_drawn() {
        let plans: Vec<Plan> = (0..50).map(|seed| plan(seed, None, &NODES, Duration::from_secs(20))).collect();
        let faults = || plans.iter().flat_map(|plan| &plan.steps).map(|(_, fault)| fault);
        let cuts: Vec<&Links> =
            faults().filter_map(|fault| if let Fault::Cut(_, links) = fault { Some(links) } else { None }).collect();
        for (links, what) in [(1, "one link"), (2, "a pair, or one way"), (3, "a ring"), (4, "a node alone")] {
            assert!(cuts.iter().any(|cut| cut.len() == links), "{what}");
        }
        assert!(faults().any(|fault| matches!(fault, Fault::CutLeader(..))));
    }

    /// The ring of five has everybody in a majority, and no two see the same one.
    #[test]
    fn five_nodes_are_cut_in_every_shape() {
        let nodes: Vec<NodeId> = (1..=5).map(NodeId).collect();
        let plans: Vec<Plan> = (0..100).map(|seed| plan(seed, None, &nodes, Duration::from_secs(20))).collect();
        let cuts = plans.iter().flat_map(|plan| &plan.steps).filter_map(|(_, fault)| match fault {
            Fault::Cut(_, links) => Some(links),
            _ => None,
        });
        let cuts: Vec<&Links> = cuts.collect();
        for (links, what) in [(2, "a pair"), (4, "one way"), (8, "a node alone, or two sides and a bridge")] {
            assert!(cuts.iter().any(|cut| cut.len() == links), "{what}");
        }
        assert!(cuts.iter().any(|cut| cut.len() == 12), "a minority of two");
        assert!(cuts.iter().any(|cut| cut.len() == 15), "a ring that hears one other");
        let heard = |cut: &Links, to: &NodeId| nodes.iter().filter(|from| !cut.contains(&(**from, *to))).count();
        let is_ring = |cut: &&&Links| cut.len() == 10 && nodes.iter().all(|to| heard(cut, to) == 3);
        assert!(cuts.iter().any(|cut| is_ring(&cut)), "a ring of majorities");
        let bridge = |cut: &&&Links| cut.len() == 8 && nodes.iter().any(|to| heard(cut, to) == 5);
        assert!(cuts.iter().any(|cut| bridge(&cut)), "two sides and a bridge");
    }

    #[test]
    fn a_leader_is_cut_off_with_a_minority() {
        let nodes: Vec<NodeId> = (1..=5).map(NodeId).collect();
        let sizes: Vec<usize> = (0..8).map(|draw| around_leader(NodeId(2), &nodes, draw).len()).collect();
        assert_eq!(sizes, [8, 12, 8, 12, 8, 12, 8, 12]);
        assert!((0..8).all(|draw| around_leader(NodeId(2), &NODES, draw) == around(NodeId(2), &NODES)));
    }
}
