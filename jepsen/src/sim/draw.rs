//! Draw: what kind of world a seed gets, before anything happens in it.
//!
//! **Invariant.** A function of the seed, told with every run.

use super::{chance::Chance, machine::timing_at, moving::Moving};
use bytes::Bytes;
use kvorum_api::{NodeId, Sharding};
use kvorum_consensus::{
    metadata::KeyspaceWish,
    node::{Budget, Timing},
};
use kvorum_storage::{command::Images, journal::JournalOptions};
use std::{fmt, time::Duration};

/// First letters of keys: a range keyspace is cut between them.
pub const LETTERS: [char; 3] = ['b', 'm', 't'];

/// Where a range keyspace may be cut.
const POINTS: [&str; 2] = ["h", "p"];

/// Of a thousand worlds, those with more than three nodes.
const LARGE_PER_MILLE: u32 = 250;

/// What was drawn.
#[derive(Clone, Debug)]
pub struct Drawn {
    /// How many nodes found the cluster.
    pub nodes: u64,
    /// Who comes and goes, if anybody does.
    pub moving: Option<Moving>,
    /// Readers of diaries.
    pub diary_readers: u64,
    /// Changes that replicas keep in their diaries when they trim them; `None` = they never do.
    pub diary_bytes: Option<u64>,
    /// Bytes of log kept: little, so that logs are purged and snapshots travel, or much.
    pub log_bytes: u64,
    /// After how much silence a group closes; 0 = never.
    pub idle_close_after: Duration,
    /// The first keyspaces.
    pub keyspaces: Vec<(String, KeyspaceWish)>,
    /// How long a client thinks between two requests, milliseconds, at most.
    pub thinks_ms: u64,
    /// For how long all clients keep to one keyspace, milliseconds.
    pub phase_ms: u64,
    /// Clients that read, and hardly write.
    pub readers: u64,
    /// How the journals of the nodes are laid out: small segments are recycled, small caches ask the disk.
    pub journal: JournalOptions,
    /// How fast the monotonic clock of each node runs, of a thousand: what it waits for takes longer or shorter.
    pub rates_per_mille: Vec<u32>,
}

impl Drawn {
    /// What `seed` draws.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let moving = Moving::new(seed);
        let (nodes, replicas) = size(seed, moving.as_ref());
        let mut diaries = Chance::new(seed, "diaries");
        let mut chance = Chance::new(seed, "drawn");
        let cuts = chance.within(0..1 + POINTS.len() as u64) as usize;
        let flights = KeyspaceWish {
            split_at: POINTS[..cuts].iter().map(|point| Bytes::from_static(point.as_bytes())).collect(),
            replicas: replicas[0],
            ..details(&mut chance)
        };
        let orders = KeyspaceWish { replicas: replicas[1], ..hashed(&mut chance) };
        Drawn {
            nodes,
            moving,
            diary_readers: diaries.within(1..4),
            diary_bytes: *diaries.pick(&[None, Some(0), Some(1 << 10)]),
            log_bytes: *chance.pick(&[16 << 10, 64 << 10, 1 << 20]),
            idle_close_after: Duration::from_millis(*chance.pick(&[600, 1_000, 2_000, 4_000, 0])),
            keyspaces: vec![("flights".to_owned(), flights), ("orders".to_owned(), orders)],
            thinks_ms: *chance.pick(&[20, 60, 300, 1_500]),
            phase_ms: *chance.pick(&[2_000, 4_000, 8_000]),
            readers: *chance.pick(&[0, 0, 2, 3]),
            journal: journal(&mut chance),
            rates_per_mille: if chance.hits(300) {
                (0..nodes).map(|_| 900 + chance.within(0..200) as u32).collect()
            } else {
                vec![1_000; nodes as usize]
            },
        }
    }
}

/// How many nodes there are, and how many replicas the first keyspaces ask for.
fn size(seed: u64, moving: Option<&Moving>) -> (u64, [Option<u32>; 2]) {
    let mut chance = Chance::new(seed, "size");
    if let Some(moving) = moving {
        let most = if moving.founders >= 3 { 3 } else { 1 };
        let one = |chance: &mut Chance| if chance.hits(200) && moving.loss.is_none() { Some(1) } else { Some(most) };
        return (moving.founders, [(); 2].map(|()| one(&mut chance)));
    }
    if !chance.hits(LARGE_PER_MILLE) {
        return (3, [None; 2]);
    }
    (5, [(); 2].map(|()| Some(*chance.pick(&[3, 5]))))
}

impl Drawn {
    /// What a node keeps to when it moves replicas.
    #[must_use]
    pub fn budget(&self) -> Budget {
        let Some(Moving { rules, move_bytes_per_second, .. }) = self.moving else { return Budget::default() };
        Budget { balance: rules, move_bytes_per_second, ..Budget::default() }
    }

    /// What a node waits for, by its own clock.
    #[must_use]
    pub fn timing(&self, id: NodeId, timing: Timing) -> Timing {
        let rate = self.rates_per_mille[(id.0 - 1) as usize % self.rates_per_mille.len()];
        Timing { idle_close_after: self.idle_close_after, ..timing_at(rate, timing) }
    }
}

impl fmt::Display for Drawn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} nodes, {} bytes of log, groups close after {:?}",
            self.nodes, self.log_bytes, self.idle_close_after
        )?;
        write!(f, ", clients think {} ms and stay {} ms", self.thinks_ms, self.phase_ms)?;
        write!(f, ", {} of them read, segments of {} bytes", self.readers, self.journal.segment_bytes)?;
        write!(f, ", {} cached, clocks at {:?} ‰", self.journal.cache_bytes_max, self.rates_per_mille)?;
        write!(f, ", {} readers of diaries, which are ", self.diary_readers)?;
        match self.diary_bytes {
            None => write!(f, "not trimmed")?,
            Some(bytes) => write!(f, "trimmed to {bytes} bytes")?,
        }
        if let Some(moving) = &self.moving {
            write!(f, ", {moving}")?;
        }
        for (name, wish) in &self.keyspaces {
            let shards = wish.shards.unwrap_or(wish.split_at.len() as u32 + 1);
            let leases = if wish.has_leases == Some(true) { " with leases" } else { "" };
            let replicas = wish.replicas.map(|replicas| format!(" on {replicas} nodes")).unwrap_or_default();
            write!(f, ", {name}: {} of {shards}{replicas}{leases}", wish.sharding.unwrap_or(Sharding::Range))?;
        }
        Ok(())
    }
}

fn journal(chance: &mut Chance) -> JournalOptions {
    let segment_bytes = *chance.pick(&[16 << 10, 64 << 10, 4 << 20]);
    JournalOptions {
        segment_bytes,
        bytes_max: 4 * segment_bytes,
        cache_bytes_max: *chance.pick(&[1 << 10, 1 << 20]),
        ..JournalOptions::small()
    }
}

/// A keyspace sharded by hash.
pub fn hashed(chance: &mut Chance) -> KeyspaceWish {
    let shards = Some(chance.within(2..5) as u32);
    KeyspaceWish { sharding: Some(Sharding::Hash), shards, ..details(chance) }
}

/// A keyspace with one shard.
pub fn whole(chance: &mut Chance) -> KeyspaceWish {
    details(chance)
}

fn details(chance: &mut Chance) -> KeyspaceWish {
    KeyspaceWish {
        images: chance.hits(500).then_some(Images::NewAndOld),
        has_leases: Some(chance.hits(500)),
        ..KeyspaceWish::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_draw_different_worlds_and_always_the_same() {
        let drawn: Vec<String> = (0..40).map(|seed| Drawn::new(seed).to_string()).collect();
        let again: Vec<String> = (0..40).map(|seed| Drawn::new(seed).to_string()).collect();
        assert_eq!(drawn, again);
        for word in ["of 1", "of 2", "of 3", "of 4", "leases", "close after 0ns", "16384 bytes", "on 5 nodes"] {
            assert!(drawn.iter().any(|drawn| drawn.contains(word)), "no world with {word:?}");
        }
        for word in ["1 readers", "3 readers", "not trimmed", "trimmed to 0"] {
            assert!(drawn.iter().any(|drawn| drawn.contains(word)), "no world with {word:?}");
        }
    }

    #[test]
    fn about_one_world_in_four_has_five_nodes() {
        let large = (0..800).map(Drawn::new).filter(|drawn| drawn.nodes == 5 && drawn.moving.is_none());
        let large: Vec<Drawn> = large.collect();
        assert!((60..140).contains(&large.len()), "{} of about 400", large.len());
        assert!(large.iter().all(|drawn| drawn.rates_per_mille.len() == 5));
        let replicas = |wanted| large.iter().any(|drawn| drawn.keyspaces[0].1.replicas == Some(wanted));
        assert!(replicas(3) && replicas(5));
    }
}
