//! The map of one keyspace: which shard a key lies in, who holds it, who leads. Pure.
//!
//! ```text
//!   key ── sharding ──▶ placement key ── binary search over range starts ──▶ shard ──▶ leader, replicas, epoch
//! ```
//!
//! **Invariant.** Finding a shard costs a binary search, however many there are. A map of an older revision never
//! replaces a newer one; where an answer names no leader, the last one heard stays the best guess.

use bytes::Bytes;
use kvorum_api::{KeyspaceId, PlacementRange, ReadLevel, ShardId, Sharding, proto};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// An address, `host:port`.
pub(crate) type Address = Arc<str>;

/// What is known of one keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyspaceMap {
    pub(crate) id: KeyspaceId,
    pub(crate) value_bytes_max: u64,
    pub(crate) sharding: Sharding,
    /// Of a read that names none.
    pub(crate) read_level: Option<ReadLevel>,
    revision: u64,
    /// In placement order.
    shards: Vec<ShardEntry>,
}

/// What is known of one shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ShardEntry {
    pub(crate) id: ShardId,
    pub(crate) range: PlacementRange,
    pub(crate) epoch: u64,
    pub(crate) incarnation: u32,
    pub(crate) replicas: Arc<[Address]>,
    pub(crate) leader: Option<Address>,
}

impl KeyspaceMap {
    /// The map a handshake gave. `known` is what was known before.
    pub(crate) fn learn(keyspace: &proto::Keyspace, revision: u64, known: Option<&KeyspaceMap>) -> Self {
        let id = KeyspaceId(keyspace.id);
        let known = known.filter(|known| known.id == id);
        // A greeting about another keyspace names this one without its shards.
        let keeps = known.is_some_and(|known| keyspace.shards.is_empty() || revision < known.revision);
        let shards = match known {
            Some(known) if keeps => known.shards.clone(),
            _ => {
                let leaders: BTreeMap<ShardId, &Address> =
                    known.iter().flat_map(|known| &known.shards).filter_map(ShardEntry::named_leader).collect();
                let last_leader = |shard: &proto::Shard| leaders.get(&ShardId(shard.id)).copied().cloned();
                let entries = keyspace.shards.iter().map(|shard| ShardEntry::read(shard, last_leader(shard)));
                let mut shards: Vec<ShardEntry> = entries.collect();
                shards.sort_by(|left, right| left.range.start.cmp(&right.range.start));
                shards
            }
        };
        KeyspaceMap {
            id,
            value_bytes_max: keyspace.value_bytes_max,
            sharding: Sharding::parse(&keyspace.shard_by).unwrap_or(Sharding::Range),
            read_level: level_of(&keyspace.read_level),
            revision: known.map_or(revision, |known| known.revision.max(revision)),
            shards,
        }
    }

    /// Whether `other` sends every key to the same shard.
    pub(crate) fn routes_as(&self, other: &KeyspaceMap) -> bool {
        let same = |(left, right): (&ShardEntry, &ShardEntry)| left.id == right.id && left.range == right.range;
        self.id == other.id
            && self.sharding == other.sharding
            && self.shards.len() == other.shards.len()
            && self.shards.iter().zip(&other.shards).all(same)
    }

    /// The shard a placement key lies in.
    pub(crate) fn shard_of(&self, placement: &[u8]) -> Option<&ShardEntry> {
        self.place_of(placement).map(|place| &self.shards[place])
    }

    /// As [`KeyspaceMap::shard_of`], to note who leads it.
    pub(crate) fn shard_of_mut(&mut self, placement: &[u8]) -> Option<&mut ShardEntry> {
        self.place_of(placement).map(|place| &mut self.shards[place])
    }

    /// The shard that holds the last placement keys below `end`; `None` = below the end of all.
    pub(crate) fn shard_below(&self, end: Option<&[u8]>) -> Option<&ShardEntry> {
        match end {
            Some(end) => self.shards.iter().rev().find(|entry| entry.range.start.as_ref() < end),
            None => self.shards.last(),
        }
    }

    /// Takes over what a server said of one shard. `false`: it does not fit into this map, which is out of date as a
    /// whole.
    pub(crate) fn replace(&mut self, shard: &proto::Shard) -> bool {
        let Some(place) = self.shards.iter().position(|entry| entry.id == ShardId(shard.id)) else { return false };
        let entry = ShardEntry::read(shard, self.shards[place].leader.clone());
        if entry.range != self.shards[place].range {
            return false;
        }
        self.shards[place] = entry;
        true
    }

    /// Every address that holds a shard.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.shards.iter().flat_map(|entry| entry.replicas.iter())
    }

    pub(crate) fn has_shards(&self) -> bool {
        !self.shards.is_empty()
    }

    fn place_of(&self, placement: &[u8]) -> Option<usize> {
        let after = self.shards.partition_point(|entry| entry.range.start.as_ref() <= placement);
        after.checked_sub(1).filter(|place| self.shards[*place].range.contains(placement))
    }
}

impl ShardEntry {
    fn named_leader(&self) -> Option<(ShardId, &Address)> {
        self.leader.as_ref().map(|leader| (self.id, leader))
    }

    fn read(shard: &proto::Shard, last_leader: Option<Address>) -> Self {
        let named = shard.replicas.iter().filter(|replica| !replica.address.is_empty());
        let leader = named.clone().find(|replica| shard.leader == Some(replica.node));
        ShardEntry {
            id: ShardId(shard.id),
            range: PlacementRange { start: shard.start.clone(), end: shard.end.clone() },
            epoch: shard.epoch,
            incarnation: shard.incarnation,
            replicas: named.map(|replica| Address::from(replica.address.as_str())).collect(),
            leader: leader.map(|replica| Address::from(replica.address.as_str())).or(last_leader),
        }
    }
}

/// What a call is about, and so which shard answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// The shard of this key.
    Key(Bytes),
    /// The shard of this placement key.
    Placement(Bytes),
}

impl Target {
    pub(crate) fn placement(&self, sharding: Sharding) -> Bytes {
        match self {
            Target::Key(key) => sharding.placement_key(key),
            Target::Placement(placement) => placement.clone(),
        }
    }
}

/// The level as it is written in configuration and receipts: the word, for `bounded` also with its bound.
pub(crate) fn level_of(word: &str) -> Option<ReadLevel> {
    let plain = [ReadLevel::Linearizable, ReadLevel::Session, ReadLevel::Local, ReadLevel::One, ReadLevel::Quorum];
    if let Some(level) = plain.into_iter().chain([ReadLevel::All]).find(|level| level.as_str() == word) {
        return Some(level);
    }
    let bound = word.strip_prefix("bounded")?;
    let ms = bound.strip_prefix('(').and_then(|rest| rest.strip_suffix("ms)")).unwrap_or("0");
    Some(ReadLevel::Bounded(Duration::from_millis(ms.parse().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn replica(node: u64) -> proto::Replica {
        proto::Replica { id: node, node, address: format!("n{node}:1") }
    }

    fn keyspace(ranges: &[PlacementRange], leader: Option<u64>) -> proto::Keyspace {
        let shards = ranges.iter().zip(1..).map(|(range, id)| proto::Shard {
            id,
            epoch: 1,
            leader,
            replicas: vec![replica(1), replica(2)],
            start: range.start.clone(),
            end: range.end.clone(),
            incarnation: 0,
        });
        let shards = shards.collect();
        proto::Keyspace { name: "k".into(), id: 7, shard_by: "hash".into(), shards, ..Default::default() }
    }

    fn leader_at<'a>(map: &'a KeyspaceMap, placement: &[u8]) -> Option<&'a str> {
        map.shard_of(placement).and_then(|entry| entry.leader.as_deref())
    }

    #[test]
    fn a_handshake_that_names_no_leader_keeps_the_last_guess() {
        let all = [PlacementRange::all()];
        let map = KeyspaceMap::learn(&keyspace(&all, Some(2)), 4, None);
        assert_eq!(leader_at(&map, b"x"), Some("n2:1"));
        let map = KeyspaceMap::learn(&keyspace(&all, None), 4, Some(&map));
        assert_eq!(leader_at(&map, b"x"), Some("n2:1"));
        let again = proto::Keyspace { id: 8, ..keyspace(&all, None) };
        let map = KeyspaceMap::learn(&again, 5, Some(&map));
        assert_eq!(leader_at(&map, b"x"), None, "another keyspace of the same name");
    }

    #[test]
    fn an_older_map_and_one_without_shards_replace_nothing() {
        let halves = PlacementRange::of_hashes(2);
        let map = KeyspaceMap::learn(&keyspace(&halves, Some(1)), 9, None);
        let older = KeyspaceMap::learn(&keyspace(&[PlacementRange::all()], Some(1)), 8, Some(&map));
        assert!(older.routes_as(&map) && older.revision == 9);
        let empty = KeyspaceMap::learn(&keyspace(&[], None), 10, Some(&map));
        assert!(empty.routes_as(&map) && empty.has_shards());
    }

    #[test]
    fn one_shard_is_replaced_and_the_others_stand() {
        let mut map = KeyspaceMap::learn(&keyspace(&PlacementRange::of_hashes(4), Some(1)), 9, None);
        let before = map.clone();
        let end = map.shards[2].range.end.clone();
        let mut said =
            proto::Shard { id: 3, epoch: 2, start: map.shards[2].range.start.clone(), end, ..Default::default() };
        said.replicas = vec![replica(5)];
        assert!(map.replace(&said));
        assert_eq!((map.shards[2].epoch, map.shards[2].leader.as_deref()), (2, Some("n1:1")));
        assert_eq!((&map.shards[..2], &map.shards[3]), (&before.shards[..2], &before.shards[3]));
        assert!(!map.replace(&proto::Shard { id: 3, ..Default::default() }), "its range changed: so did a neighbour's");
        assert!(!map.replace(&proto::Shard { id: 99, ..Default::default() }));
    }

    #[test]
    fn the_default_level_is_read_with_its_bound() {
        let wish = proto::Keyspace { read_level: "bounded(200ms)".into(), ..keyspace(&[], None) };
        let level = KeyspaceMap::learn(&wish, 1, None).read_level;
        assert_eq!(level, Some(ReadLevel::Bounded(Duration::from_millis(200))));
    }

    proptest! {
        #[test]
        fn every_key_lies_in_the_shard_whose_range_holds_it(
            key in prop::collection::vec(any::<u8>(), 1..20), shards in 1..1_200_u32,
        ) {
            let map = KeyspaceMap::learn(&keyspace(&PlacementRange::of_hashes(shards), Some(1)), 1, None);
            let placement = Target::Key(key.into()).placement(map.sharding);
            let entry = map.shard_of(&placement).expect("the ranges cover everything");
            prop_assert!(entry.range.contains(&placement));
        }
    }
}
