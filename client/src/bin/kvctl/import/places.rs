//! Which rows can share a request: those whose keys lie in one shard.
//!
//! **Invariant.** A hint: a server decides, and refuses what does not lie together; then the rows travel in smaller
//! parts.

use bytes::Bytes;
use kvorum_api::{Sharding, proto::KeyspaceDescription};

/// Where the shards of a keyspace begin, as the cluster told at the start.
#[derive(Clone, Debug)]
pub struct Places {
    sharding: Sharding,
    /// In placement order.
    starts: Vec<Bytes>,
}

impl Places {
    /// Without a description everything is taken to lie together.
    pub fn of(keyspace: Option<&KeyspaceDescription>) -> Self {
        let sharding = keyspace.and_then(|keyspace| Sharding::parse(&keyspace.wish.as_ref()?.shard_by));
        let mut starts: Vec<Bytes> = keyspace
            .map(|keyspace| keyspace.shards.iter().map(|shard| shard.start.clone()).collect())
            .unwrap_or_default();
        starts.sort();
        Places { sharding: sharding.unwrap_or(Sharding::Range), starts }
    }

    /// A number that keys of one shard have in common.
    pub fn place_of(&self, key: &Bytes) -> usize {
        let placement = self.sharding.placement_key(key);
        self.starts.partition_point(|start| *start <= placement)
    }

    /// How many shards there are, at least one.
    pub fn count(&self) -> usize {
        self.starts.len().max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::{
        PlacementRange,
        proto::{KeyspaceWish, ShardDescription},
    };

    #[test]
    fn keys_of_one_shard_have_one_place() {
        let shards = PlacementRange::of_hashes(8).into_iter();
        let shards = shards.map(|range| ShardDescription { start: range.start, ..ShardDescription::default() });
        let keyspace = KeyspaceDescription {
            wish: Some(KeyspaceWish { shard_by: "hash".to_owned(), ..KeyspaceWish::default() }),
            shards: shards.collect(),
            ..KeyspaceDescription::default()
        };
        let places = Places::of(Some(&keyspace));
        assert_eq!(places.count(), 8);
        let ranges = PlacementRange::of_hashes(8);
        for number in 0..1_000 {
            let key = Bytes::from(format!("key-{number}"));
            let place = places.place_of(&key) - 1;
            assert!(ranges[place].contains(&Sharding::Hash.placement_key(&key)));
        }
        let unknown = Places::of(None);
        assert_eq!((unknown.count(), unknown.place_of(&Bytes::from("a"))), (1, unknown.place_of(&Bytes::from("z"))));
    }
}
