//! Session tokens: what a session has seen, per shard.
//!
//! ```text
//!   version 1 (1) │ keyspace (4) │ highest stamp (8) │ shards (2)
//!   per shard: id (8) │ incarnation (4) │ term (8) │ index (8)
//! ```
//!
//! **Invariant.** Merging two tokens covers what either covers. A token says nothing about another keyspace, and a
//! shard's position means something only in its incarnation.

use crate::{
    ids::{KeyspaceId, ShardId},
    receipt::Receipt,
    version::{LogPosition, Stamp},
};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;
use thiserror::Error;

const FORMAT: u8 = 1;
const HEADER_BYTES: usize = 1 + 4 + 8 + 2;
const SHARD_BYTES: usize = 8 + 4 + 8 + 8;

/// Bytes that are no session token.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("session token: {0}")]
pub struct TokenUnreadable(pub String);

/// How far one shard was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    /// Which incarnation of the shard: grows when a lost majority is recovered by a new group.
    pub incarnation: u32,
    /// Up to here.
    pub position: LogPosition,
}

/// What a session has seen of one keyspace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionToken {
    /// The keyspace, by number: a dropped one's number never comes back.
    pub keyspace: KeyspaceId,
    /// The highest stamp of any reply.
    pub stamp: Stamp,
    /// Per shard.
    pub shards: BTreeMap<ShardId, Seen>,
}

impl SessionToken {
    /// A token of a keyspace nothing of which was seen.
    #[must_use]
    pub fn new(keyspace: KeyspaceId) -> Self {
        SessionToken { keyspace, ..SessionToken::default() }
    }

    /// What one reply lets a session see of `keyspace`: the shard that answered, where it stood.
    #[must_use]
    pub fn of(keyspace: KeyspaceId, receipt: &Receipt) -> Self {
        let seen = Seen { incarnation: receipt.incarnation, position: receipt.position };
        SessionToken { keyspace, stamp: receipt.stamp, shards: BTreeMap::from([(receipt.shard, seen)]) }
    }

    /// Takes in what another token of the same keyspace has seen; false = it is of another keyspace, nothing changed.
    pub fn merge(&mut self, other: &SessionToken) -> bool {
        if self.keyspace != other.keyspace {
            return false;
        }
        self.stamp = self.stamp.max(other.stamp);
        for (shard, seen) in &other.shards {
            let mine = self.shards.entry(*shard).or_insert(*seen);
            *mine = (*mine).max(*seen);
        }
        true
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut bytes = BytesMut::with_capacity(HEADER_BYTES + self.shards.len() * SHARD_BYTES);
        bytes.put_u8(FORMAT);
        bytes.put_u32(self.keyspace.0);
        bytes.put_u64(self.stamp.0);
        bytes.put_u16(u16::try_from(self.shards.len()).expect("a keyspace has at most 4,096 shards"));
        for (shard, seen) in &self.shards {
            bytes.put_u64(shard.0);
            bytes.put_u32(seen.incarnation);
            bytes.put_u64(seen.position.term);
            bytes.put_u64(seen.position.index);
        }
        bytes.freeze()
    }

    /// The reverse of [`SessionToken::encode`].
    ///
    /// # Errors
    /// Other bytes.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, TokenUnreadable> {
        let unreadable = |why: &str| Err(TokenUnreadable(why.to_owned()));
        if bytes.len() < HEADER_BYTES {
            return unreadable("too short: hand back the bytes a reply carried, unchanged");
        }
        if bytes.get_u8() != FORMAT {
            return unreadable("of a format this build does not know");
        }
        let (keyspace, stamp) = (KeyspaceId(bytes.get_u32()), Stamp(bytes.get_u64()));
        let count = usize::from(bytes.get_u16());
        if bytes.len() != count * SHARD_BYTES {
            return unreadable("cut off: hand back the bytes a reply carried, unchanged");
        }
        let shards = (0..count).map(|_| {
            let shard = ShardId(bytes.get_u64());
            let incarnation = bytes.get_u32();
            (shard, Seen { incarnation, position: LogPosition { term: bytes.get_u64(), index: bytes.get_u64() } })
        });
        Ok(SessionToken { keyspace, stamp, shards: shards.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(shards: &[(u64, u32, u64, u64)]) -> SessionToken {
        let shards = shards.iter().map(|(shard, incarnation, term, index)| {
            (ShardId(*shard), Seen { incarnation: *incarnation, position: LogPosition { term: *term, index: *index } })
        });
        SessionToken { keyspace: KeyspaceId(7), stamp: Stamp(9), shards: shards.collect() }
    }

    #[test]
    fn version_1_is_what_it_was() {
        let expected = [
            1, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 4, 0,
            0, 0, 0, 0, 0, 0, 5,
        ];
        assert_eq!(token(&[(3, 1, 4, 5)]).encode(), expected.as_slice());
        assert_eq!(SessionToken::decode(&expected), Ok(token(&[(3, 1, 4, 5)])));
    }

    #[test]
    fn merging_covers_both_and_refuses_another_keyspace() {
        let mut one = token(&[(1, 0, 2, 9), (2, 0, 1, 1)]);
        assert!(one.merge(&token(&[(1, 0, 2, 7), (3, 0, 1, 4)])));
        assert_eq!(one, token(&[(1, 0, 2, 9), (2, 0, 1, 1), (3, 0, 1, 4)]));
        assert!(!one.merge(&SessionToken::new(KeyspaceId(8))));
    }

    #[test]
    fn a_reply_shows_its_shard_at_its_position() {
        let position = LogPosition { term: 4, index: 5 };
        let receipt = Receipt {
            mode: crate::Mode::Cp,
            level: None,
            shard: ShardId(3),
            epoch: 2,
            incarnation: 1,
            node: crate::NodeId(1),
            version: None,
            position,
            staleness: None,
            durable_replicas: 2,
            stamp: Stamp(9),
        };
        assert_eq!(SessionToken::of(KeyspaceId(7), &receipt), token(&[(3, 1, 4, 5)]));
    }

    proptest! {
        #[test]
        fn any_token_round_trips(rows in proptest::collection::vec(any::<(u64, u32, u64, u64)>(), 0..9)) {
            let token = token(&rows);
            prop_assert_eq!(SessionToken::decode(&token.encode()), Ok(token));
        }
    }

    /// Also whole rows behind a sound head, which random bytes hardly ever are.
    #[test]
    fn fuzz_no_bytes_make_decoding_panic() {
        bolero::check!().with_iterations(2_000).with_max_len(160).for_each(|input: &[u8]| {
            let sound = token(&[(1, 2, 3, 4), (5, 6, 7, 8)]).encode();
            let kept = input.first().map_or(0, |at| usize::from(*at) % (sound.len() + 1));
            let spliced = [&sound[..kept], input.get(1..).unwrap_or_default()].concat();
            for bytes in [input, &spliced[..]] {
                if let Ok(token) = SessionToken::decode(bytes) {
                    assert_eq!(SessionToken::decode(&token.encode()), Ok(token));
                }
            }
        });
    }
}
