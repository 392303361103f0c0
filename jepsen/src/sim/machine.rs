//! Machine: what of a node outlives its processes, and one process on it.
//!
//! **Invariant.** A machine hands a new process only what an earlier one was told is kept; the copy of the map may be
//! older, or gone.

use super::{chance::Chance, clock::SimClock, disk::SimDisk, journal::SlowJournal, network::Life};
use kvorum_api::{ClusterId, NodeId, StartCount};
use kvorum_consensus::{
    Node, NodeConfig,
    metadata::{ClusterMap, Founding, NodeRow},
    node::{Budget, Timing},
};
use kvorum_storage::{Engine, journal::JournalOptions};
use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicBool},
};
use tokio::time::Instant;

/// Copies of the map that a machine remembers.
const MAPS_KEPT: usize = 20;

/// One machine: it outlives its node's processes.
pub struct Machine {
    /// Its clock.
    pub clock: SimClock,
    /// Its disk.
    pub disk: SimDisk,
    /// The node on it, while it lives.
    pub running: Option<Running>,
    /// What its node is told that it founds, or in whose company it joined.
    pub founding: Founding,
    /// Copies of the map, the oldest first.
    maps: Vec<Arc<ClusterMap>>,
    /// Copies of the map that are never gone: who joined asks for another one before it starts.
    maps_min: usize,
}

/// What was copied of a machine.
pub struct Image {
    disk: SimDisk,
    maps: Vec<Arc<ClusterMap>>,
}

/// One life of a node.
pub struct Running {
    /// The node.
    pub node: Arc<Node>,
    /// Whether it goes on.
    pub life: Life,
    /// Its engine.
    pub engine: Arc<dyn Engine>,
    /// Its journal.
    pub journal: Arc<SlowJournal>,
    /// Whether its process has ended by itself.
    pub has_ended: Arc<AtomicBool>,
}

impl Machine {
    /// A founder's, nobody has run on it.
    pub fn new(began: Instant, journal: JournalOptions, founding: Founding) -> Self {
        let (clock, disk) = (SimClock::new(began), SimDisk::new(journal));
        Machine { clock, disk, running: None, founding, maps: Vec::new(), maps_min: 0 }
    }

    /// One that was let in and handed a map.
    pub fn joined(began: Instant, journal: JournalOptions, founding: Founding, map: Arc<ClusterMap>) -> Self {
        Machine { maps: vec![map], maps_min: 1, ..Machine::new(began, journal, founding) }
    }

    /// Its disk as it is now.
    pub fn image(&self) -> Image {
        Image { disk: self.disk.image(), maps: self.maps.clone() }
    }

    /// Of a machine that is down: what it had is gone.
    pub fn empty(&mut self) {
        self.disk.empty();
        self.maps.clear();
    }

    /// Of a machine that is down: an older image of its disk is put back.
    pub fn restore(&mut self, image: Image) {
        (self.disk, self.maps) = (image.disk, image.maps);
    }

    /// Keeps a copy of the map if it is another one than the last.
    pub fn keep_map(&mut self, map: &Arc<ClusterMap>) {
        let is_other = self.maps.last().is_none_or(|last| last.revision != map.revision);
        if map.is_founded() && is_other {
            self.maps.push(Arc::clone(map));
            let surplus = self.maps.len().saturating_sub(MAPS_KEPT);
            self.maps.drain(..surplus);
        }
    }

    /// The copy that a new life finds: mostly the last one, sometimes an older one, sometimes none.
    pub fn kept_map(&mut self, chance: &mut Chance) -> Option<ClusterMap> {
        let (fate, draw) = (chance.within(0..10), chance.any() as usize);
        let survived = match fate {
            0 => 0,
            1..=3 => draw % (self.maps.len() + 1),
            _ => self.maps.len(),
        };
        self.maps.truncate(survived.max(self.maps_min));
        self.maps.last().map(|map| ClusterMap::clone(map))
    }
}

/// What a node waits for, by a clock that runs at this rate.
pub fn timing_at(rate_per_mille: u32, timing: Timing) -> Timing {
    let scaled = |time: std::time::Duration| time * 1_000 / rate_per_mille;
    Timing {
        heartbeat: scaled(timing.heartbeat),
        election_min: scaled(timing.election_min),
        election_max: scaled(timing.election_max),
        ..timing
    }
}

/// What a new life of a node is told.
pub fn node_config(node: NodeId, start: StartCount, boot_nonce: u64, founding: Founding) -> NodeConfig {
    NodeConfig {
        cluster: ClusterId(*b"simulated world."),
        node,
        start,
        boot_nonce,
        founding,
        map: None,
        nodes: BTreeMap::new(),
        shards: Vec::new(),
        timing: Timing::default(),
        budget: Budget::default(),
    }
}

/// Where the founders are.
pub fn node_row(node: NodeId) -> NodeRow {
    let (client, peer) = (format!("node-{node}:1"), format!("node-{node}:2"));
    NodeRow::of_this_build(node, client, peer, String::new(), 0)
}
