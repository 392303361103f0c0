//! # Keys: every key layout, in one table
//!
//! | column | key | value |
//! |---|---|---|
//! | `data` | keyspace u32 · placement key | [`Entry`](crate::Entry) |
//! | `changes` | shard u64 · seq u64 | [`Change`](crate::changelog::Change) |
//! | `meta` | 1 · shard u64 | where the replica stands: [`Applied`](crate::shard::Applied) |
//! | `meta` | 2 · shard u64 | replicated scalars: last version, next seq, logged time, settings, rolling hash |
//! | `meta` | 3 · shard u64 · expires_ms u64 · placement key | the expiry index (the value is its format alone) |
//! | `meta` | 4 · shard u64 · client u128 | a client's floor and when it was last seen |
//! | `meta` | 5 · shard u64 · client u128 · sequence u64 | the outcome remembered under a request id |
//! | `meta` | 6 · shard u64 · seen_ms u64 · client u128 | clients by age (the value is its format alone) |
//! | `meta` | 7 · shard u64 | the ends of this replica's diary |
//!
//! Integers are big-endian: byte order is number order, so a range of keys is a range of numbers.
//!
//! **Invariant.** The numbers are on disk: append only, never reuse. Everything of one shard lies in the ranges that
//! [`shard_ranges`] names, and nothing of another does: shards of one keyspace have ranges that do not meet.
//!
//! **Deliberately absent.** Any idea of which range a shard has: it is replicated state, and who asks here says it. A
//! shard that has none yet (no founding `Configure` was applied) has no rows.

use crate::{
    engine::{Column, KeyRange},
    shard::ShardSpec,
};
use bytes::Bytes;
use kvorum_api::{KeyspaceId, PlacementRange, ShardId};

/// What a key of the `meta` column is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum MetaKind {
    /// Where the replica stands.
    Position = 1,
    /// Replicated scalars.
    State = 2,
    /// The expiry index.
    Expiry = 3,
    /// Clients and their floors.
    Client = 4,
    /// Remembered outcomes.
    Outcome = 5,
    /// Clients by age.
    ClientAge = 6,
    /// The ends of the diary.
    Diary = 7,
}

impl MetaKind {
    /// Every kind, in number order.
    pub const ALL: [MetaKind; 7] = [
        MetaKind::Position,
        MetaKind::State,
        MetaKind::Expiry,
        MetaKind::Client,
        MetaKind::Outcome,
        MetaKind::ClientAge,
        MetaKind::Diary,
    ];

    /// The kinds that a snapshot carries (rule S3), in number order: the replicated ones. Position and diary are each
    /// replica's own.
    pub const REPLICATED: [MetaKind; 5] =
        [MetaKind::State, MetaKind::Expiry, MetaKind::Client, MetaKind::Outcome, MetaKind::ClientAge];
}

/// Bytes of `kind · shard`.
const META_PREFIX_BYTES: usize = 1 + 8;

/// The format of values that say nothing but that their key is there.
pub const MARKER: &[u8] = &[1];

/// Where the entry of a key lies.
#[must_use]
pub fn data_key(keyspace: KeyspaceId, key: &[u8]) -> Bytes {
    let mut bytes = Vec::with_capacity(4 + key.len());
    bytes.extend_from_slice(&keyspace.0.to_be_bytes());
    bytes.extend_from_slice(key);
    Bytes::from(bytes)
}

/// The placement key inside a key of the `data` column.
#[must_use]
pub fn placement_key(data_key: &Bytes) -> Bytes {
    data_key.slice(4..)
}

/// The keyspace inside a key of the `data` column.
///
/// # Panics
/// If the key is none of that column.
#[must_use]
pub fn keyspace_of(data_key: &[u8]) -> KeyspaceId {
    KeyspaceId(u32::from_be_bytes(data_key[..4].try_into().expect("four bytes")))
}

/// Every entry of a keyspace.
#[must_use]
pub fn keyspace_range(keyspace: KeyspaceId) -> KeyRange {
    KeyRange::prefix(keyspace.0.to_be_bytes())
}

/// The entries of a range of a keyspace.
#[must_use]
pub fn data_range(keyspace: KeyspaceId, range: &PlacementRange) -> KeyRange {
    let end = match &range.end {
        Some(end) => Some(data_key(keyspace, end).to_vec()),
        None => keyspace_range(keyspace).end,
    };
    KeyRange { start: data_key(keyspace, &range.start).to_vec(), end }
}

/// Where a change lies.
#[must_use]
pub fn change_key(shard: ShardId, seq: u64) -> Bytes {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&shard.0.to_be_bytes());
    bytes[8..].copy_from_slice(&seq.to_be_bytes());
    Bytes::copy_from_slice(&bytes)
}

/// The seq of a change, from its key.
///
/// # Panics
/// If the key is none of the `changes` column.
#[must_use]
pub fn change_seq(key: &[u8]) -> u64 {
    u64::from_be_bytes(key[8..].try_into().expect("a change key is sixteen bytes"))
}

/// The changes of a shard from `from` on.
#[must_use]
pub fn changes_from(shard: ShardId, from: u64) -> KeyRange {
    KeyRange { start: change_key(shard, from).to_vec(), ..KeyRange::prefix(shard.0.to_be_bytes()) }
}

/// `kind · shard`: the key of a shard's position, state and diary.
#[must_use]
pub fn meta_key(kind: MetaKind, shard: ShardId) -> Bytes {
    Bytes::from(meta_prefix(kind, shard, 0))
}

/// Where an expiry is noted.
#[must_use]
pub fn expiry_key(shard: ShardId, expires_ms: u64, key: &[u8]) -> Bytes {
    let mut bytes = meta_prefix(MetaKind::Expiry, shard, 8 + key.len());
    bytes.extend_from_slice(&expires_ms.to_be_bytes());
    bytes.extend_from_slice(key);
    Bytes::from(bytes)
}

/// The expiry and the placement key of a key of the expiry index.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn parse_expiry_key(key: &Bytes) -> (u64, Bytes) {
    (word(key, META_PREFIX_BYTES), key.slice(META_PREFIX_BYTES + 8..))
}

/// The expiry index from `from_ms` (inclusive) to `up_to_ms` (inclusive).
#[must_use]
pub fn expiry_range(shard: ShardId, from_ms: u64, up_to_ms: u64) -> KeyRange {
    let start = expiry_key(shard, from_ms, &[]).to_vec();
    match up_to_ms.checked_add(1) {
        Some(next) => KeyRange { start, end: Some(expiry_key(shard, next, &[]).to_vec()) },
        None => KeyRange { start, end: meta_range(MetaKind::Expiry, shard).end },
    }
}

/// Where a client's record lies.
#[must_use]
pub fn client_key(shard: ShardId, client: u128) -> Bytes {
    let mut bytes = meta_prefix(MetaKind::Client, shard, 16);
    bytes.extend_from_slice(&client.to_be_bytes());
    Bytes::from(bytes)
}

/// Where an outcome lies.
#[must_use]
pub fn outcome_key(shard: ShardId, client: u128, sequence: u64) -> Bytes {
    let mut bytes = meta_prefix(MetaKind::Outcome, shard, 24);
    bytes.extend_from_slice(&client.to_be_bytes());
    bytes.extend_from_slice(&sequence.to_be_bytes());
    Bytes::from(bytes)
}

/// The sequence inside the key of an outcome.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn outcome_sequence(key: &[u8]) -> u64 {
    word(key, META_PREFIX_BYTES + 16)
}

/// The outcomes of a client.
#[must_use]
pub fn outcome_range(shard: ShardId, client: u128) -> KeyRange {
    let mut prefix = meta_prefix(MetaKind::Outcome, shard, 16);
    prefix.extend_from_slice(&client.to_be_bytes());
    KeyRange::prefix(prefix)
}

/// Where a client's age is noted.
#[must_use]
pub fn client_age_key(shard: ShardId, seen_ms: u64, client: u128) -> Bytes {
    let mut bytes = meta_prefix(MetaKind::ClientAge, shard, 24);
    bytes.extend_from_slice(&seen_ms.to_be_bytes());
    bytes.extend_from_slice(&client.to_be_bytes());
    Bytes::from(bytes)
}

/// When a client was noted as seen, and who, from a key of the index by age.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn parse_client_age_key(key: &[u8]) -> (u64, u128) {
    let client = key[META_PREFIX_BYTES + 8..].try_into().expect("an age key ends with sixteen bytes of client");
    (word(key, META_PREFIX_BYTES), u128::from_be_bytes(client))
}

/// The clients noted as seen before `before_ms`.
#[must_use]
pub fn client_age_range(shard: ShardId, before_ms: u64) -> KeyRange {
    KeyRange { start: client_age_key(shard, 0, 0).to_vec(), end: Some(client_age_key(shard, before_ms, 0).to_vec()) }
}

/// Whether a key of the `meta` column is one of its kind. What comes from elsewhere is asked before it is stored: the
/// readers of this file take every key apart.
#[must_use]
pub fn is_meta_key(key: &[u8]) -> bool {
    let Some(kind) = MetaKind::ALL.into_iter().find(|kind| key.first() == Some(&(*kind as u8))) else { return false };
    let Some(more) = key.len().checked_sub(META_PREFIX_BYTES) else { return false };
    match kind {
        MetaKind::Position | MetaKind::State | MetaKind::Diary => more == 0,
        MetaKind::Expiry => more >= 8,
        MetaKind::Client => more == 16,
        MetaKind::Outcome | MetaKind::ClientAge => more == 24,
    }
}

/// Everything of one kind that a shard has in `meta`.
#[must_use]
pub fn meta_range(kind: MetaKind, shard: ShardId) -> KeyRange {
    KeyRange::prefix(meta_prefix(kind, shard, 0))
}

/// Everything that is named by the shard: all but its rows.
pub fn own_ranges(shard: ShardId) -> impl Iterator<Item = (Column, KeyRange)> + use<> {
    let changes = (Column::Changes, changes_from(shard, 0));
    std::iter::once(changes).chain(MetaKind::ALL.into_iter().map(move |kind| (Column::Meta, meta_range(kind, shard))))
}

/// Everything a shard with this range has anywhere, and all that installing a snapshot replaces.
pub fn shard_ranges(
    spec: ShardSpec,
    range: Option<&PlacementRange>,
) -> impl Iterator<Item = (Column, KeyRange)> + use<> {
    let data = range.map(|range| (Column::Data, data_range(spec.keyspace, range)));
    data.into_iter().chain(own_ranges(spec.shard))
}

/// What a snapshot of a shard with this range carries (rule S3), in the order in which it travels.
pub fn snapshot_ranges(
    spec: ShardSpec,
    range: Option<&PlacementRange>,
) -> impl Iterator<Item = (Column, KeyRange)> + use<> {
    let data = range.map(|range| (Column::Data, data_range(spec.keyspace, range)));
    data.into_iter()
        .chain(MetaKind::REPLICATED.into_iter().map(move |kind| (Column::Meta, meta_range(kind, spec.shard))))
}

fn meta_prefix(kind: MetaKind, shard: ShardId, more: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(META_PREFIX_BYTES + more);
    bytes.push(kind as u8);
    bytes.extend_from_slice(&shard.0.to_be_bytes());
    bytes
}

fn word(key: &[u8], at: usize) -> u64 {
    u64::from_be_bytes(key[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(shard: u64, keyspace: u32) -> ShardSpec {
        ShardSpec { shard: ShardId(shard), keyspace: KeyspaceId(keyspace) }
    }

    /// One key of every layout.
    fn keys_of(spec: ShardSpec, key: &[u8], number: u64, client: u128) -> Vec<(Column, Bytes)> {
        let shard = spec.shard;
        let mut keys = vec![
            (Column::Data, data_key(spec.keyspace, key)),
            (Column::Changes, change_key(shard, number)),
            (Column::Meta, expiry_key(shard, number, key)),
            (Column::Meta, client_key(shard, client)),
            (Column::Meta, outcome_key(shard, client, number)),
            (Column::Meta, client_age_key(shard, number, client)),
        ];
        keys.extend(
            [MetaKind::Position, MetaKind::State, MetaKind::Diary].map(|kind| (Column::Meta, meta_key(kind, shard))),
        );
        keys
    }

    fn edge() -> impl Strategy<Value = u64> {
        prop_oneof![Just(0), Just(1), Just(u64::MAX - 1), Just(u64::MAX), any::<u64>()]
    }

    proptest! {
        #[test]
        fn what_a_key_says_reads_back(
            shard in edge(),
            number in edge(),
            client in any::<u128>(),
            key in proptest::collection::vec(any::<u8>(), 0..9),
        ) {
            let shard = ShardId(shard);
            prop_assert_eq!(placement_key(&data_key(KeyspaceId(7), &key)), key.clone());
            let keyspace = KeyspaceId(shard.0 as u32);
            prop_assert_eq!(keyspace_of(&data_key(keyspace, &key)), keyspace);
            prop_assert!(keyspace_range(keyspace).contains(&data_key(keyspace, &key)));
            prop_assert_eq!(change_seq(&change_key(shard, number)), number);
            prop_assert_eq!(parse_expiry_key(&expiry_key(shard, number, &key)), (number, Bytes::from(key)));
            prop_assert_eq!(outcome_sequence(&outcome_key(shard, client, number)), number);
            prop_assert_eq!(parse_client_age_key(&client_age_key(shard, number, client)), (number, client));
        }

        #[test]
        fn every_key_lies_in_a_range_of_its_own_shard_and_of_no_other(
            shard in edge(), other in edge(), number in edge(), client in any::<u128>(),
            key in proptest::collection::vec(any::<u8>(), 0..9)
        ) {
            prop_assume!(shard != other);
            let (own, foreign) = (spec(shard, 7), spec(other, 8));
            for (column, key) in keys_of(own, &key, number, client) {
                let holds = |spec| {
                    let mut ranges = shard_ranges(spec, Some(&PlacementRange::all()));
                    ranges.any(|(of, range)| of == column && range.contains(&key))
                };
                prop_assert!(holds(own), "{column:?} {key:?}");
                prop_assert!(!holds(foreign), "{column:?} {key:?}");
            }
        }

        #[test]
        fn a_row_lies_in_the_range_of_its_shard_alone(
            points in proptest::collection::btree_set(proptest::collection::vec(any::<u8>(), 1..3), 0..5),
            key in proptest::collection::vec(any::<u8>(), 1..4),
        ) {
            let points: Vec<Bytes> = points.into_iter().map(Bytes::from).collect();
            let row = data_key(KeyspaceId(7), &key);
            for range in PlacementRange::cut(&points) {
                let rows = data_range(KeyspaceId(7), &range);
                prop_assert_eq!(rows.contains(&row), range.contains(&key));
                prop_assert!(!data_range(KeyspaceId(8), &range).contains(&row));
                prop_assert!(rows.end.is_some(), "a range removal needs an end");
            }
        }

        #[test]
        fn ranges_of_numbers_hold_exactly_their_numbers(
            shard in edge(), from in edge(), up_to in edge(), at in edge()
        ) {
            let shard = ShardId(shard);
            let key = expiry_key(shard, at, b"k");
            prop_assert_eq!(expiry_range(shard, from, up_to).contains(&key), from <= at && at <= up_to);
            let key = client_age_key(shard, at, 5);
            prop_assert_eq!(client_age_range(shard, up_to).contains(&key), at < up_to);
            prop_assert_eq!(changes_from(shard, from).contains(&change_key(shard, at)), from <= at);
        }
    }

    #[test]
    fn a_meta_key_has_the_length_of_its_kind() {
        for (column, key) in keys_of(spec(2, 3), b"", 4, 5) {
            assert_eq!(is_meta_key(&key), column == Column::Meta, "{key:?}");
            assert!(!is_meta_key(&key[..key.len() - 1]), "{key:?}");
        }
        assert!(is_meta_key(&expiry_key(ShardId(2), 4, b"key")));
        assert!(!is_meta_key(b"") && !is_meta_key(&[0; 9]) && !is_meta_key(&[8; 9]));
        assert!(!is_meta_key(&[&meta_key(MetaKind::State, ShardId(2))[..], b"x"].concat()));
    }

    #[test]
    fn outcomes_of_the_last_client_stay_inside_their_kind() {
        let range = outcome_range(ShardId(1), u128::MAX);
        assert!(range.contains(&outcome_key(ShardId(1), u128::MAX, u64::MAX)));
        assert!(!range.contains(&outcome_key(ShardId(1), u128::MAX - 1, u64::MAX)));
        assert!(!range.contains(&outcome_key(ShardId(2), 0, 0)));
    }

    #[test]
    fn the_table_is_what_it_was() {
        let keys = keys_of(spec(2, 3), b"k", 4, 5);
        let fixtures: [&[u8]; 9] = [
            &[0, 0, 0, 3, b'k'],
            &[0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4],
            &[3, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4, b'k'],
            &[4, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5],
            &[5, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 4],
            &[6, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5],
            &[1, 0, 0, 0, 0, 0, 0, 0, 2],
            &[2, 0, 0, 0, 0, 0, 0, 0, 2],
            &[7, 0, 0, 0, 0, 0, 0, 0, 2],
        ];
        for ((_, key), fixture) in keys.iter().zip(fixtures) {
            assert_eq!(key, fixture);
        }
        assert_eq!(MARKER, [1]);
    }
}
