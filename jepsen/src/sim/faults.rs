//! # Faults: what goes wrong in a simulated world
//!
//! **Invariant.** A fault is a value, and says itself in one line: it is printed before it happens, and when it does.
//!
//! **Deliberately absent.** When each happens: that is the `plan`.

use super::{
    disk::{Part, Store},
    moving::Loss,
    network::Weather,
};
use kvorum_api::NodeId;
use std::{collections::BTreeSet, fmt};

/// Links from a node to another one.
pub type Links = BTreeSet<(NodeId, NodeId)>;

/// Which of several cuts that are in force at the same time.
pub type CutId = u32;

/// One change of the world.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The node's machine loses power: what was not synced survives by chance, sector by sector.
    Crash(NodeId),
    /// Power is back: the node starts from what its disk holds.
    Restart(NodeId),
    /// These directed links are cut until they are mended, besides those that others have cut.
    Cut(CutId, Links),
    /// Whoever leads some shard is cut off from its peers, not from clients; the number says which shard.
    CutLeader(CutId, u64),
    /// What was cut under this number is whole again.
    Mend(CutId),
    /// All links are whole.
    MendAll,
    /// How the network treats messages from now on.
    Weather(Weather),
    /// The machine's clock is this far ahead of the truth from now on.
    Clock(NodeId, i64),
    /// The machine's clock gains this much in a thousand from now on.
    ClockGains(NodeId, i64),
    /// The machine's power fails after so many durable operations; if it is down, in the middle of its next start.
    FailPowerAfter(NodeId, Store, u64),
    /// The power of the machine lasts.
    KeepPower(NodeId),
    /// The next operation of this kind on the machine's disk fails.
    FailDisk(NodeId, Part),
    /// If something of the machine's disk was made to fail, it loses power: the next life finds it sound.
    ReplaceDisk(NodeId),
    /// The machine's disk has no room for another segment, or has room again.
    Full(NodeId, bool),
    /// The machine loses power, and bits of its journal flip; the number says which.
    Rot(NodeId, u64),
    /// The machine gets no turns, or its turns again.
    Pause(NodeId, bool),
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
    /// A new machine asks to be let in.
    Join,
    /// Somebody copies the disk of a machine as it is now.
    KeepImage(NodeId),
    /// A machine loses what it had.
    Lose(NodeId, Loss),
    /// Whoever leads a shard that is being changed loses power; the number says which shard.
    CrashMover(u64),
    /// Whoever is to hold a new replica loses power; the number says of which shard.
    CrashNewcomer(u64),
    /// Whoever leads a shard that is being changed is cut off from its peers, alone or with the newcomer.
    CutMover(CutId, u64),
}

impl Fault {
    /// The machine it happens to, if it is one that it names.
    #[must_use]
    pub fn subject(&self) -> Option<NodeId> {
        match self {
            Fault::Crash(node)
            | Fault::Restart(node)
            | Fault::Clock(node, _)
            | Fault::ClockGains(node, _)
            | Fault::FailPowerAfter(node, ..)
            | Fault::KeepPower(node)
            | Fault::FailDisk(node, _)
            | Fault::ReplaceDisk(node)
            | Fault::Full(node, _)
            | Fault::Rot(node, _)
            | Fault::Pause(node, _)
            | Fault::SlowDisk(node, _)
            | Fault::KeepImage(node)
            | Fault::Lose(node, _) => Some(*node),
            Fault::Cut(..)
            | Fault::CutLeader(..)
            | Fault::Mend(_)
            | Fault::MendAll
            | Fault::Weather(_)
            | Fault::Move(..)
            | Fault::Hurry
            | Fault::CrashMetadataLeader
            | Fault::RestartAll
            | Fault::Join
            | Fault::CrashMover(_)
            | Fault::CrashNewcomer(_)
            | Fault::CutMover(..) => None,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Crash(node) => write!(f, "node {node} loses power"),
            Fault::Restart(node) => write!(f, "node {node} starts again"),
            Fault::Cut(cut, links) => {
                let links: Vec<String> = links.iter().map(|(from, to)| format!("{from}▶{to}")).collect();
                write!(f, "cut {cut}: {}", links.join(" "))
            }
            Fault::CutLeader(cut, draw) => write!(f, "cut {cut}: leader {draw} from its peers"),
            Fault::Mend(cut) => write!(f, "cut {cut} is mended"),
            Fault::MendAll => write!(f, "all links are whole"),
            Fault::Weather(weather) => write!(
                f,
                "weather: {} ‰ lost, {} ‰ doubled, {} ‰ late, {} ms",
                weather.lost_per_mille, weather.doubled_per_mille, weather.late_per_mille, weather.delay_ms_max
            ),
            Fault::Clock(node, ahead_ms) => write!(f, "clock of node {node} is {ahead_ms} ms ahead"),
            Fault::ClockGains(node, gains) => write!(f, "clock of node {node} gains {gains} ‰"),
            Fault::FailPowerAfter(node, store, operations) => {
                write!(f, "the power of node {node} fails after {operations} operations of its {store:?}")
            }
            Fault::KeepPower(node) => write!(f, "the power of node {node} lasts"),
            Fault::FailDisk(node, part) => write!(f, "the next {part:?} of node {node} fails"),
            Fault::ReplaceDisk(node) => write!(f, "the disk of node {node} is sound"),
            Fault::Full(node, true) => write!(f, "the disk of node {node} is full"),
            Fault::Full(node, false) => write!(f, "the disk of node {node} has room"),
            Fault::Rot(node, draw) => write!(f, "node {node} loses power, and its journal rots {draw}"),
            Fault::Pause(node, true) => write!(f, "node {node} is paused"),
            Fault::Pause(node, false) => write!(f, "node {node} goes on"),
            Fault::SlowDisk(node, sync_ms) => write!(f, "a sync on node {node} takes {sync_ms} ms"),
            Fault::Move(draw, node) => write!(f, "an operator moves leader {draw} to node {node}"),
            Fault::Hurry => write!(f, "the metadata is changed"),
            Fault::CrashMetadataLeader => write!(f, "who leads the metadata loses power"),
            Fault::RestartAll => write!(f, "every node that is down starts again"),
            Fault::Join => write!(f, "a new machine asks to be let in"),
            Fault::KeepImage(node) => write!(f, "the disk of node {node} is copied"),
            Fault::Lose(node, Loss::Wiped) => write!(f, "the directory of node {node} is emptied"),
            Fault::Lose(node, Loss::Restored) => write!(f, "the copy of node {node}'s disk is put back"),
            Fault::Lose(node, Loss::Left) => write!(f, "node {node} is gone for good"),
            Fault::CrashMover(draw) => write!(f, "who leads changed shard {draw} loses power"),
            Fault::CrashNewcomer(draw) => write!(f, "the newcomer of changed shard {draw} loses power"),
            Fault::CutMover(cut, draw) => write!(f, "cut {cut}: who leads changed shard {draw} from its peers"),
        }
    }
}

/// Both directions between a node and all others.
pub fn around(node: NodeId, nodes: &[NodeId]) -> Links {
    between(&[node], nodes)
}

/// Both directions between one side and all others.
pub fn between(side: &[NodeId], nodes: &[NodeId]) -> Links {
    let others = || nodes.iter().filter(|other| !side.contains(other));
    side.iter().flat_map(|node| others().flat_map(|other| [(*node, *other), (*other, *node)])).collect()
}

/// A leader and, where there are more than three nodes, every other time a companion: still a minority.
pub fn around_leader(leader: NodeId, nodes: &[NodeId], draw: u64) -> Links {
    let others: Vec<NodeId> = nodes.iter().copied().filter(|other| *other != leader).collect();
    if nodes.len() > 3 && draw % 2 == 1 {
        return between(&[leader, others[(draw / 2) as usize % others.len()]], nodes);
    }
    around(leader, nodes)
}
