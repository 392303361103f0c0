//! # Note: what a node must remember about its clock and its peers
//!
//! Kept as the newest [`Mark::Note`](kvorum_storage::journal::Mark) of
//! [`NODE_GROUP`](kvorum_storage::journal::NODE_GROUP). Version 3, integers big-endian:
//!
//! ```text
//!   version 3 (1) │ bound of the clock (8) │ peers (2) │ per peer: node, start count, boot nonce, last synced (8 each)
//!   │ lives (2) │ per life of this directory, oldest first: start count, boot nonce, batch found after it (8 each)
//!   │ serial of the newest map by which something was erased here (8)
//! ```
//!
//! The newest life is the one under way, and its batch is 0. Version 2 ends before the serial. Version 1 ends
//! before the lives; a directory that has one has lived, but nobody knows which lives.
//!
//! **Invariant.** Decoding never panics; a note this build cannot read stops the start, for forgetting it would let an
//! amnesiac peer in.

use crate::identity::{Life, Lives, PastLife, UNNOTED};
use bytes::{BufMut, Bytes, BytesMut};
use kvorum_api::{NodeId, Stamp, StartCount};
use kvorum_storage::{StorageError, journal::BatchNumber};
use std::collections::BTreeMap;

/// The format this build writes.
const FORMAT: u8 = 3;

/// The format without what was erased, which is still read.
const FORMAT_WITHOUT_ERASED: u8 = 2;

/// The format without lives, which is still read.
const FORMAT_WITHOUT_LIVES: u8 = 1;

/// Bytes of one peer.
const PEER_BYTES: usize = 32;

/// Bytes of one life.
const LIFE_BYTES: usize = 24;

/// What a node remembers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeNote {
    /// A later life starts its clock above this.
    pub bound: Stamp,
    /// The highest life seen of every peer.
    pub peers: BTreeMap<NodeId, Life>,
    /// The lives of this directory.
    pub lives: Lives,
    /// The serial of the newest map by which something was erased here: an older copy may name what is gone.
    pub erased_serial: u64,
}

impl NodeNote {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let count = u16::try_from(self.peers.len()).expect("a cluster has fewer than 65,536 nodes");
        let mut bytes = BytesMut::with_capacity(11 + self.peers.len() * PEER_BYTES);
        bytes.put_u8(FORMAT);
        bytes.put_u64(self.bound.0);
        bytes.put_u16(count);
        for (node, life) in &self.peers {
            bytes.put_u64(node.0);
            bytes.put_u64(life.start.0);
            bytes.put_u64(life.boot_nonce);
            bytes.put_u64(life.last_synced.0);
        }
        let current = self.lives.current.map(|(start, boot_nonce)| (start, boot_nonce, BatchNumber(0)));
        let past = self.lives.past.iter().map(|life| (life.start, life.boot_nonce, life.found));
        bytes.put_u16((self.lives.past.len() + usize::from(current.is_some())) as u16);
        for (start, boot_nonce, found) in past.chain(current) {
            bytes.put_u64(start.0);
            bytes.put_u64(boot_nonce);
            bytes.put_u64(found.0);
        }
        bytes.put_u64(self.erased_serial);
        bytes.freeze()
    }

    /// The reverse.
    ///
    /// # Errors
    /// A format this build does not know, or bytes that are no note.
    pub fn decode(bytes: &[u8]) -> Result<Self, StorageError> {
        let unknown = |found: String| StorageError::UnknownFormat { what: "note of the node", found };
        if bytes.len() < 11 || ![FORMAT, FORMAT_WITHOUT_ERASED, FORMAT_WITHOUT_LIVES].contains(&bytes[0]) {
            return Err(unknown(format!("{} bytes, format {:?}", bytes.len(), bytes.first())));
        }
        let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let count = usize::from(u16::from_be_bytes([bytes[9], bytes[10]]));
        let peers_end = 11 + count * PEER_BYTES;
        let lives = match (bytes[0], bytes.get(peers_end..)) {
            (FORMAT_WITHOUT_LIVES, Some([])) => {
                Some((Lives { current: Some((StartCount(0), UNNOTED)), past: Vec::new() }, 0))
            }
            (FORMAT_WITHOUT_ERASED, Some(rest)) => decode_lives(rest).map(|lives| (lives, 0)),
            (FORMAT, Some(rest)) => rest
                .split_last_chunk()
                .and_then(|(rest, erased)| Some((decode_lives(rest)?, u64::from_be_bytes(*erased)))),
            _ => None,
        };
        let (lives, erased_serial) =
            lives.ok_or_else(|| unknown(format!("{} bytes for {count} peers", bytes.len())))?;
        let peers = (0..count).map(|row| {
            let at = 11 + row * PEER_BYTES;
            let life = Life {
                start: StartCount(word(at + 8)),
                boot_nonce: word(at + 16),
                last_synced: BatchNumber(word(at + 24)),
            };
            (NodeId(word(at)), life)
        });
        Ok(NodeNote { bound: Stamp(word(1)), peers: peers.collect(), lives, erased_serial })
    }
}

fn decode_lives(bytes: &[u8]) -> Option<Lives> {
    let [high, low, rows @ ..] = bytes else { return None };
    if rows.len() != usize::from(u16::from_be_bytes([*high, *low])) * LIFE_BYTES {
        return None;
    }
    let word = |row: &[u8], at: usize| u64::from_be_bytes(row[at..at + 8].try_into().expect("eight bytes"));
    let lives = rows.chunks_exact(LIFE_BYTES).map(|row| PastLife {
        start: StartCount(word(row, 0)),
        boot_nonce: word(row, 8),
        found: BatchNumber(word(row, 16)),
    });
    let mut past: Vec<PastLife> = lives.collect();
    let current = past.pop().map(|life| (life.start, life.boot_nonce));
    Some(Lives { current, past })
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_storage::spoil::raw_and_spoiled;
    use proptest::prelude::*;

    #[test]
    fn version_1_is_what_it_was() {
        let life = Life { start: StartCount(3), boot_nonce: 4, last_synced: BatchNumber(5) };
        let lives = Lives { current: Some((StartCount(0), UNNOTED)), past: Vec::new() };
        let note = NodeNote { bound: Stamp(9), peers: BTreeMap::from([(NodeId(2), life)]), lives, erased_serial: 0 };
        let mut expected = vec![1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1];
        for word in [2_u64, 3, 4, 5] {
            expected.extend_from_slice(&word.to_be_bytes());
        }
        assert_eq!(NodeNote::decode(&expected), Ok(note));
    }

    #[test]
    fn versions_2_and_3_are_what_they_were() {
        let life = Life { start: StartCount(3), boot_nonce: 4, last_synced: BatchNumber(5) };
        let past = PastLife { start: StartCount(6), boot_nonce: 7, found: BatchNumber(8) };
        let lives = Lives { current: Some((StartCount(10), 11)), past: vec![past] };
        let mut note =
            NodeNote { bound: Stamp(9), peers: BTreeMap::from([(NodeId(2), life)]), lives, erased_serial: 0 };
        let mut expected = vec![2, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1];
        expected.extend([2_u64, 3, 4, 5].into_iter().flat_map(u64::to_be_bytes));
        expected.extend([0, 2]);
        expected.extend([6_u64, 7, 8, 10, 11, 0].into_iter().flat_map(u64::to_be_bytes));
        assert_eq!(NodeNote::decode(&expected), Ok(note.clone()));
        expected[0] = 3;
        expected.extend(12_u64.to_be_bytes());
        note.erased_serial = 12;
        assert_eq!(note.encode(), expected);
        assert_eq!(NodeNote::decode(&expected), Ok(note));
    }

    proptest! {
        #[test]
        fn any_note_round_trips(
            bound in any::<u64>(),
            peers in proptest::collection::btree_map(any::<u64>(), any::<[u64; 3]>(), 0..9),
            current in any::<[u64; 2]>(),
            past in proptest::collection::vec(any::<[u64; 3]>(), 0..9),
            erased_serial in any::<u64>(),
        ) {
            let past = past.into_iter().map(|[start, boot_nonce, batch]| {
                PastLife { start: StartCount(start), boot_nonce, found: BatchNumber(batch) }
            });
            let lives = Lives { current: Some((StartCount(current[0]), current[1])), past: past.collect() };
            let peers = peers
                .into_iter()
                .map(|(node, [start, boot_nonce, batch])| {
                    (NodeId(node), Life { start: StartCount(start), boot_nonce, last_synced: BatchNumber(batch) })
                })
                .collect();
            let note = NodeNote { bound: Stamp(bound), peers, lives, erased_serial };
            prop_assert_eq!(NodeNote::decode(&note.encode()), Ok(note));
        }
    }

    #[test]
    fn fuzz_any_bytes_are_refused_or_read_as_what_they_say() {
        let life = Life { start: StartCount(3), boot_nonce: 4, last_synced: BatchNumber(5) };
        let past = vec![PastLife { start: StartCount(6), boot_nonce: 7, found: BatchNumber(8) }];
        let lives = Lives { current: Some((StartCount(10), 11)), past };
        let peers = BTreeMap::from([(NodeId(2), life)]);
        let sound = NodeNote { bound: Stamp(9), peers, lives, erased_serial: 12 }.encode();
        bolero::check!().with_iterations(2_000).with_max_len(100).for_each(|input: &[u8]| {
            let of_a_format = Bytes::from([&[input.len() as u8 % 4], input].concat());
            for bytes in raw_and_spoiled(&sound, input).into_iter().chain([of_a_format]) {
                if let Ok(note) = NodeNote::decode(&bytes) {
                    assert_eq!(NodeNote::decode(&note.encode()), Ok(note));
                }
            }
        });
    }
}
