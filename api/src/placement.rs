//! Placement: which shard a key lies in.
//!
//! ```text
//!   range   placement key = the key
//!   hash    placement key = 2 bytes of hash, then the key
//! ```
//!
//! Every shard is a contiguous range of placement keys, whatever the sharding, so that a split or a merge rewrites no
//! data.
//!
//! **Invariant.** The mapping is on disk and in every client: it never changes for a sharding that exists.

use bytes::{BufMut, Bytes, BytesMut};
use std::fmt;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of hash in front of the key.
pub const HASH_BYTES: usize = 2;

/// Shards of one keyspace, at most.
pub const SHARDS_MAX: u32 = 4_096;

/// How keys become placement keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sharding {
    /// The key itself: neighbours stay together, and range scans are cheap.
    Range,
    /// A hash in front: load spreads, and a range of keys lies everywhere.
    Hash,
}

impl Sharding {
    /// The word used on the wire, in configuration and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Sharding::Range => "range",
            Sharding::Hash => "hash",
        }
    }

    /// The reverse of [`Sharding::as_str`].
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Sharding::Range, Sharding::Hash].into_iter().find(|sharding| sharding.as_str() == word)
    }

    /// The placement key of a key.
    #[must_use]
    pub fn placement_key(self, key: &Bytes) -> Bytes {
        match self {
            Sharding::Range => key.clone(),
            Sharding::Hash => {
                let mut placement = BytesMut::with_capacity(HASH_BYTES + key.len());
                placement.put_u16((xxh3_64(key) >> 48) as u16);
                placement.put_slice(key);
                placement.freeze()
            }
        }
    }

    /// The key of a placement key. Shares its memory.
    ///
    /// # Panics
    /// If `placement` is shorter than what [`Sharding::placement_key`] gives.
    #[must_use]
    pub fn key(self, placement: &Bytes) -> Bytes {
        match self {
            Sharding::Range => placement.clone(),
            Sharding::Hash => placement.slice(HASH_BYTES..),
        }
    }
}

impl fmt::Display for Sharding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A contiguous range of placement keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlacementRange {
    /// Inclusive; empty = from the first key.
    pub start: Bytes,
    /// Exclusive; `None` = to the last key.
    pub end: Option<Bytes>,
}

impl PlacementRange {
    /// Every placement key there is.
    #[must_use]
    pub fn all() -> Self {
        PlacementRange::default()
    }

    /// Whether a placement key lies in it.
    #[must_use]
    pub fn contains(&self, placement: &[u8]) -> bool {
        placement >= self.start.as_ref() && self.end.as_ref().is_none_or(|end| placement < end.as_ref())
    }

    /// What lies in both; a range in which no key lies if nothing does.
    #[must_use]
    pub fn intersection(&self, other: &PlacementRange) -> Self {
        let end = match (&self.end, &other.end) {
            (Some(left), Some(right)) => Some(left.min(right).clone()),
            (end, None) | (None, end) => end.clone(),
        };
        PlacementRange { start: self.start.clone().max(other.start.clone()), end }
    }

    /// The ranges of a keyspace that is cut at `points`: one more than there are points.
    ///
    /// # Panics
    /// If the points are empty keys, or not in ascending order.
    #[must_use]
    pub fn cut(points: &[Bytes]) -> Vec<Self> {
        assert!(points.iter().all(|point| !point.is_empty()), "a split point is a key");
        assert!(points.is_sorted_by(|left, right| left < right), "split points ascend");
        let starts = std::iter::once(Bytes::new()).chain(points.iter().cloned());
        let ends = points.iter().cloned().map(Some).chain(std::iter::once(None));
        starts.zip(ends).map(|(start, end)| PlacementRange { start, end }).collect()
    }

    /// The ranges of `shards` equal parts of all hashes.
    ///
    /// # Panics
    /// If `shards` is 0 or above [`SHARDS_MAX`].
    #[must_use]
    pub fn of_hashes(shards: u32) -> Vec<Self> {
        assert!((1..=SHARDS_MAX).contains(&shards), "1 to {SHARDS_MAX} shards");
        let points = (1..shards).map(|part| {
            let first = u64::from(part) * (1 << 16) / u64::from(shards);
            Bytes::copy_from_slice(&(first as u16).to_be_bytes())
        });
        PlacementRange::cut(&points.collect::<Vec<_>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// These bytes are in front of stored keys: they never change.
    #[test]
    fn the_hash_is_what_it_was() {
        let key = Bytes::from_static(b"order-1001");
        let expected = ((xxh3_64(b"order-1001") >> 48) as u16).to_be_bytes();
        assert_eq!(Sharding::Hash.placement_key(&key)[..2], expected);
        assert_eq!(xxh3_64(b""), 0x2d06_8005_38d3_94c2, "xxh3 as published");
    }

    fn any_range() -> impl Strategy<Value = PlacementRange> {
        let key = || proptest::collection::vec(0..3u8, 0..3).prop_map(Bytes::from);
        (key(), proptest::option::of(key())).prop_map(|(start, end)| PlacementRange { start, end })
    }

    proptest! {
        #[test]
        fn an_intersection_holds_what_both_hold(
            left in any_range(), right in any_range(), key in proptest::collection::vec(0..3u8, 0..4)
        ) {
            let both = left.contains(&key) && right.contains(&key);
            prop_assert_eq!(left.intersection(&right).contains(&key), both);
        }

        #[test]
        fn a_key_comes_back_from_its_placement(key in proptest::collection::vec(any::<u8>(), 1..40)) {
            let key = Bytes::from(key);
            for sharding in [Sharding::Range, Sharding::Hash] {
                prop_assert_eq!(sharding.key(&sharding.placement_key(&key)), key.clone());
            }
        }

        #[test]
        fn every_placement_lies_in_exactly_one_shard(
            key in proptest::collection::vec(any::<u8>(), 1..40),
            shards in 1..300_u32,
        ) {
            let placement = Sharding::Hash.placement_key(&Bytes::from(key));
            let ranges = PlacementRange::of_hashes(shards);
            prop_assert_eq!(ranges.len(), shards as usize);
            prop_assert_eq!(ranges.iter().filter(|range| range.contains(&placement)).count(), 1);
        }
    }
}
