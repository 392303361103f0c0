//! # Faults: what goes wrong, and when
//!
//! **Invariant.** A plan is a function of its seed: it is drawn before the run begins and printed with it. At its end
//! the world is as it should be again, so that the cluster must come back.
//!
//! Which kinds of faults a seed uses at all is drawn too: a run with few kinds reaches states that a run with all of
//! them hides.

use super::{chance::Chance, network::Weather};
use kvorum_api::NodeId;
use std::{collections::BTreeSet, fmt, time::Duration};

/// One change of the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The node's machine loses power: what was not synced survives by chance, sector by sector.
    Crash(NodeId),
    /// Power is back: the node starts from what its disk holds.
    Restart(NodeId),
    /// These directed links are cut, and no others.
    Cut(BTreeSet<(NodeId, NodeId)>),
    /// How the network treats messages from now on.
    Weather(Weather),
    /// The machine's clock is this far ahead of the truth from now on.
    Clock(NodeId, i64),
    /// A sync of the machine's disk takes this long from now on, milliseconds.
    SlowDisk(NodeId, u64),
    /// An operator moves the leader of some shard to this node; the number says of which.
    Move(u64, NodeId),
    /// Somebody asks for a change of the metadata right now.
    Hurry,
    /// Whoever leads the metadata loses power.
    CrashMetadataLeader,
    /// Power is back wherever it was lost.
    RestartAll,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Crash(node) => write!(f, "node {node} loses power"),
            Fault::Restart(node) => write!(f, "node {node} starts again"),
            Fault::Cut(links) if links.is_empty() => write!(f, "all links are whole"),
            Fault::Cut(links) => {
                let links: Vec<String> = links.iter().map(|(from, to)| format!("{from}▶{to}")).collect();
                write!(f, "links cut: {}", links.join(" "))
            }
            Fault::Weather(weather) => write!(
                f,
                "weather: {} ‰ lost, {} ‰ doubled, {} ‰ late, {} ms",
                weather.lost_per_mille, weather.doubled_per_mille, weather.late_per_mille, weather.delay_ms_max
            ),
            Fault::Clock(node, ahead_ms) => write!(f, "clock of node {node} is {ahead_ms} ms ahead"),
            Fault::SlowDisk(node, sync_ms) => write!(f, "a sync on node {node} takes {sync_ms} ms"),
            Fault::Move(draw, node) => write!(f, "an operator moves leader {draw} to node {node}"),
            Fault::Hurry => write!(f, "the metadata is changed"),
            Fault::CrashMetadataLeader => write!(f, "who leads the metadata loses power"),
            Fault::RestartAll => write!(f, "every node that is down starts again"),
        }
    }
}

/// When each fault happens, in order.
pub type Plan = Vec<(Duration, Fault)>;

/// Kinds of faults a seed may leave out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    CrashOne,
    CrashAll,
    Partition,
    OneWay,
    Pair,
    Weather,
    Clock,
    SlowDisk,
    Move,
    CrashMetadataLeader,
}

const KINDS: [Kind; 10] = [
    Kind::CrashOne,
    Kind::CrashAll,
    Kind::Partition,
    Kind::OneWay,
    Kind::Pair,
    Kind::Weather,
    Kind::Clock,
    Kind::SlowDisk,
    Kind::Move,
    Kind::CrashMetadataLeader,
];

/// Draws the plan of `seed` for `nodes` over `length`.
#[must_use]
pub fn plan(seed: u64, nodes: &[NodeId], length: Duration) -> Plan {
    let mut chance = Chance::new(seed, "faults");
    let mut kinds: Vec<Kind> = KINDS.into_iter().filter(|_| chance.hits(600)).collect();
    if kinds.is_empty() {
        kinds.push(Kind::CrashOne);
    }
    let mut plan = Plan::new();
    let mut at = chance.millis(1_000..3_000);
    while at < length {
        let lasts = chance.millis(200..5_000);
        let end = (at + lasts).min(length);
        add(&mut plan, *chance.pick(&kinds), (at, end), nodes, &mut chance);
        // The next one may begin before this one ends.
        at += chance.millis(200..3_000);
    }
    plan.push((length, Fault::Cut(BTreeSet::new())));
    plan.push((length, Fault::Weather(Weather::FAIR)));
    for node in nodes {
        plan.push((length, Fault::Clock(*node, 0)));
        plan.push((length, Fault::SlowDisk(*node, 1)));
        plan.push((length, Fault::Restart(*node)));
    }
    // Nothing goes wrong any more once the world is whole.
    plan.retain(|(at, fault)| *at < length || !matches!(fault, Fault::CrashMetadataLeader));
    plan.sort_by_key(|(at, _)| *at);
    plan
}

fn add(plan: &mut Plan, kind: Kind, (at, end): (Duration, Duration), nodes: &[NodeId], chance: &mut Chance) {
    let node = *chance.pick(nodes);
    let (fault, remedy) = match kind {
        Kind::CrashOne => (Fault::Crash(node), Fault::Restart(node)),
        Kind::CrashAll => {
            for node in nodes {
                plan.push((at, Fault::Crash(*node)));
                plan.push((end + chance.millis(0..500), Fault::Restart(*node)));
            }
            return;
        }
        Kind::Partition => {
            let cut = nodes.iter().filter(|other| **other != node).flat_map(|other| [(node, *other), (*other, node)]);
            (Fault::Cut(cut.collect()), Fault::Cut(BTreeSet::new()))
        }
        Kind::OneWay | Kind::Pair => {
            let others: Vec<NodeId> = nodes.iter().copied().filter(|other| *other != node).collect();
            let other = *chance.pick(&others);
            let mut cut = BTreeSet::from([(node, other)]);
            if kind == Kind::Pair {
                cut.insert((other, node));
            }
            (Fault::Cut(cut), Fault::Cut(BTreeSet::new()))
        }
        Kind::Move => (Fault::Move(chance.any() >> 32, node), Fault::Move(chance.any() >> 32, *chance.pick(nodes))),
        Kind::CrashMetadataLeader => {
            // In the middle of a change.
            plan.push((at, Fault::Hurry));
            plan.push((at + chance.millis(0..30), Fault::CrashMetadataLeader));
            (Fault::Hurry, Fault::RestartAll)
        }
        Kind::Weather => {
            let weather = Weather {
                lost_per_mille: chance.within(0..200) as u32,
                doubled_per_mille: chance.within(0..100) as u32,
                late_per_mille: chance.within(0..100) as u32,
                delay_ms_max: chance.within(1..60),
            };
            (Fault::Weather(weather), Fault::Weather(Weather::FAIR))
        }
        Kind::Clock => {
            let far = chance.hits(300);
            let ahead_ms = if far { 10_000 } else { chance.within(0..200) as i64 };
            let ahead_ms = if chance.hits(500) { -ahead_ms } else { ahead_ms };
            (Fault::Clock(node, ahead_ms), Fault::Clock(node, 0))
        }
        Kind::SlowDisk => (Fault::SlowDisk(node, chance.within(5..2_500)), Fault::SlowDisk(node, 1)),
    };
    plan.push((at, fault));
    plan.push((end, remedy));
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    #[test]
    fn a_plan_repeats_and_ends_with_a_whole_world() {
        for seed in 0..50 {
            let length = Duration::from_secs(20);
            let first = plan(seed, &NODES, length);
            assert_eq!(first, plan(seed, &NODES, length));
            for node in NODES {
                let newest = first.iter().rev().find_map(|(_, fault)| match fault {
                    Fault::Crash(crashed) if *crashed == node => Some(false),
                    Fault::CrashMetadataLeader => Some(false),
                    Fault::Restart(started) if *started == node => Some(true),
                    _ => None,
                });
                assert_eq!(newest, Some(true), "seed {seed}: node {node} stays down");
            }
            let cut = first.iter().rev().find_map(|(_, fault)| match fault {
                Fault::Cut(links) => Some(links.clone()),
                _ => None,
            });
            assert_eq!(cut, Some(BTreeSet::new()), "seed {seed}");
        }
    }
}
