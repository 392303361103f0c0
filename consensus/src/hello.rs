//! # Hello: what two nodes tell each other before they trust each other
//!
//! ```text
//!   node                      peer
//!    │──── hello ─────────────▶│   judges who is asking; remembers a new life durably before it answers
//!    │◀─── hello ──────────────│   or refuses: an emptied directory finds out before it votes
//!    │   a majority answered (itself included): replicas may vote, append, stand for election
//! ```
//!
//! Payload, version 2, integers big-endian: `format = 2 (1) │ flags (1): 1 disk full, 2 poisoned │ groups (2) │ per
//! group: group (8), replica (8), flags (1): 1 pristine │ per past life of the directory, oldest first, to the end:
//! start count, boot nonce, batch found after it (8 each)`. Request and answer are the same. The lives prove who the
//! sender is (rule J7).
//!
//! **Invariant.** A hello is always answered, also by a node that may not vote yet: otherwise nodes that start together
//! would wait for each other.

use crate::identity::PastLife;
use bytes::{BufMut, Bytes, BytesMut};
use kvorum_api::{GroupId, NodeId, ReplicaId, StartCount};
use kvorum_storage::journal::BatchNumber;
use std::collections::BTreeMap;

/// The format this build writes.
const FORMAT: u8 = 2;

/// Bytes of one group.
const GROUP_BYTES: usize = 17;

/// Bytes of one past life.
const LIFE_BYTES: usize = 24;

/// What a node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hello {
    /// Whether it refuses writes for want of space.
    pub is_disk_full: bool,
    /// Whether it promises nothing more: it answers, and is lost to its groups all the same.
    pub is_poisoned: bool,
    /// The replicas it holds, by group.
    pub groups: BTreeMap<GroupId, HeldReplica>,
    /// The lives that its directory has lived before this one, oldest first.
    pub past: Vec<PastLife>,
}

/// One replica, as its node describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldReplica {
    /// Its id.
    pub replica: ReplicaId,
    /// Whether it has never voted, logged or applied anything.
    pub is_pristine: bool,
}

impl Hello {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let count = u16::try_from(self.groups.len()).expect("a node holds fewer than 65,536 replicas");
        let mut bytes = BytesMut::with_capacity(4 + self.groups.len() * GROUP_BYTES + self.past.len() * LIFE_BYTES);
        bytes.put_u8(FORMAT);
        bytes.put_u8(u8::from(self.is_disk_full) | u8::from(self.is_poisoned) << 1);
        bytes.put_u16(count);
        for (group, held) in &self.groups {
            bytes.put_u64(group.0);
            bytes.put_u64(held.replica.0);
            bytes.put_u8(u8::from(held.is_pristine));
        }
        for life in &self.past {
            bytes.put_u64(life.start.0);
            bytes.put_u64(life.boot_nonce);
            bytes.put_u64(life.found.0);
        }
        bytes.freeze()
    }

    /// The reverse.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let [format, flags, high, low, rows @ ..] = bytes else {
            return Err(format!("a hello of {} bytes is too short", bytes.len()));
        };
        if *format != FORMAT {
            return Err(format!("hello of format {format}: this build knows format {FORMAT}"));
        }
        let count = usize::from(u16::from_be_bytes([*high, *low]));
        let split =
            rows.split_at_checked(count * GROUP_BYTES).filter(|(_, lives)| lives.len().is_multiple_of(LIFE_BYTES));
        let Some((rows, lives)) = split else {
            return Err(format!("a hello of {count} groups with {} bytes of groups and lives", rows.len()));
        };
        let word = |row: &[u8], at: usize| u64::from_be_bytes(row[at..at + 8].try_into().expect("eight bytes"));
        let groups = rows.chunks_exact(GROUP_BYTES).map(|row| {
            (GroupId(word(row, 0)), HeldReplica { replica: ReplicaId(word(row, 8)), is_pristine: row[16] & 1 == 1 })
        });
        let past = lives.chunks_exact(LIFE_BYTES).map(|row| PastLife {
            start: StartCount(word(row, 0)),
            boot_nonce: word(row, 8),
            found: BatchNumber(word(row, 16)),
        });
        let (is_disk_full, is_poisoned) = (flags & 1 != 0, flags & 2 != 0);
        Ok(Hello { is_disk_full, is_poisoned, groups: groups.collect(), past: past.collect() })
    }
}

/// How many of `nodes` are more than half.
#[must_use]
pub const fn majority(nodes: usize) -> usize {
    nodes / 2 + 1
}

/// Whether the replicas of a node may speak: it and those who answered its hello in this life are a majority.
#[must_use]
pub fn has_met_majority(nodes: usize, answered: usize) -> bool {
    answered + 1 >= majority(nodes)
}

/// Whether a replica may answer votes and appends, beyond what holds for its whole node.
///
/// An empty replica of a group that others have founded may be one that was emptied. Any other founder may be the one
/// who knows its earlier life, so *all* of them must have answered before it takes part.
///
/// # Errors
/// Whom it waits for.
pub fn may_take_part(
    group: GroupId,
    is_pristine: bool,
    founders: &[(ReplicaId, NodeId)],
    me: NodeId,
    answers: &BTreeMap<NodeId, Hello>,
) -> Result<(), String> {
    let is_founded_elsewhere =
        answers.values().filter_map(|hello| hello.groups.get(&group)).any(|held| !held.is_pristine);
    if !is_pristine || !is_founded_elsewhere {
        return Ok(());
    }
    let missing = founders.iter().find(|(_, node)| *node != me && !answers.contains_key(node));
    match missing {
        None => Ok(()),
        Some((_, node)) => Err(format!(
            "replica is empty while its group is founded, and node {node} has not said that it never knew it"
        )),
    }
}

/// What the founding chore does next (rule G8).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Founding {
    /// This replica makes the founding membership, now.
    Initialize,
    /// Somebody has not answered yet.
    Wait(String),
    /// Nothing to do here: founded already, or another replica's office.
    Over,
}

/// Only the first founder initializes a group, only while every founder is pristine. One that comes back with an empty
/// directory never does: the others are not pristine any more.
#[must_use]
pub fn founding(
    group: GroupId,
    is_pristine: bool,
    founders: &[(ReplicaId, NodeId)],
    me: NodeId,
    answers: &BTreeMap<NodeId, Hello>,
) -> Founding {
    if !is_pristine || founders.first().is_none_or(|(_, node)| *node != me) {
        return Founding::Over;
    }
    for (replica, node) in founders.iter().skip(1) {
        let Some(answer) = answers.get(node) else {
            return Founding::Wait(format!("node {node} has not answered"));
        };
        match answer.groups.get(&group) {
            Some(held) if held.replica != *replica => {
                return Founding::Wait(format!("node {node} holds replica {}, not {replica}", held.replica));
            }
            Some(held) if held.is_pristine => {}
            Some(_) => return Founding::Over,
            None => return Founding::Wait(format!("node {node} does not hold the group")),
        }
    }
    Founding::Initialize
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_storage::spoil::raw_and_spoiled;
    use proptest::prelude::*;

    const GROUP: GroupId = GroupId(7);
    const FOUNDERS: [(ReplicaId, NodeId); 3] =
        [(ReplicaId(11), NodeId(1)), (ReplicaId(12), NodeId(2)), (ReplicaId(13), NodeId(3))];

    fn hello(replica: u64, is_pristine: bool) -> Hello {
        let held = HeldReplica { replica: ReplicaId(replica), is_pristine };
        Hello { groups: BTreeMap::from([(GROUP, held)]), ..Hello::default() }
    }

    #[test]
    fn version_2_is_what_it_was() {
        let mut bytes = vec![2, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 0, 0, 0, 0, 12, 1];
        bytes.extend([3_u64, 4, 5].into_iter().flat_map(u64::to_be_bytes));
        let past = vec![PastLife { start: StartCount(3), boot_nonce: 4, found: BatchNumber(5) }];
        let expected = Hello { is_disk_full: true, past, ..hello(12, true) };
        assert_eq!(Hello::decode(&bytes), Ok(expected.clone()));
        assert_eq!(expected.encode(), bytes.as_slice());
        bytes[1] = 2;
        let poisoned = Hello { is_disk_full: false, is_poisoned: true, ..expected };
        assert_eq!(Hello::decode(&bytes), Ok(poisoned.clone()));
        assert_eq!(poisoned.encode(), bytes.as_slice());
    }

    /// Rule G8.
    #[test]
    fn the_first_founder_initializes_when_all_are_pristine() {
        let mut answers = BTreeMap::from([(NodeId(2), hello(12, true))]);
        assert!(matches!(founding(GROUP, true, &FOUNDERS, NodeId(1), &answers), Founding::Wait(_)));
        answers.insert(NodeId(3), hello(13, true));
        assert_eq!(founding(GROUP, true, &FOUNDERS, NodeId(1), &answers), Founding::Initialize);
        assert_eq!(founding(GROUP, false, &FOUNDERS, NodeId(1), &answers), Founding::Over);
        assert_eq!(founding(GROUP, true, &FOUNDERS, NodeId(2), &answers), Founding::Over);
    }

    /// Rule G8.
    #[test]
    fn a_first_founder_that_was_emptied_never_initializes() {
        let answers = BTreeMap::from([(NodeId(2), hello(12, false)), (NodeId(3), hello(13, true))]);
        assert_eq!(founding(GROUP, true, &FOUNDERS, NodeId(1), &answers), Founding::Over);
    }

    /// Rule G8.
    #[test]
    fn a_founder_that_holds_another_replica_is_waited_for() {
        let answers = BTreeMap::from([(NodeId(2), hello(99, true)), (NodeId(3), hello(13, true))]);
        assert!(matches!(founding(GROUP, true, &FOUNDERS, NodeId(1), &answers), Founding::Wait(_)));
    }

    #[test]
    fn an_empty_replica_of_a_founded_group_waits_for_every_founder() {
        let mut answers = BTreeMap::from([(NodeId(2), hello(12, false))]);
        assert!(may_take_part(GROUP, true, &FOUNDERS, NodeId(1), &answers).is_err());
        assert!(may_take_part(GROUP, false, &FOUNDERS, NodeId(1), &answers).is_ok());
        answers.insert(NodeId(3), hello(13, true));
        assert!(may_take_part(GROUP, true, &FOUNDERS, NodeId(1), &answers).is_ok());
    }

    #[test]
    fn a_majority_counts_the_node_itself() {
        assert!(has_met_majority(1, 0));
        assert!(!has_met_majority(2, 0));
        assert!(!has_met_majority(3, 0));
        assert!(has_met_majority(3, 1));
        assert!(!has_met_majority(5, 1));
        assert!(has_met_majority(5, 2));
    }

    proptest! {
        #[test]
        fn any_hello_round_trips(
            (is_disk_full, is_poisoned) in any::<(bool, bool)>(),
            groups in proptest::collection::btree_map(any::<u64>(), (any::<u64>(), any::<bool>()), 0..20),
            past in proptest::collection::vec(any::<[u64; 3]>(), 0..9),
        ) {
            let past = past.into_iter().map(|[start, boot_nonce, found]| {
                PastLife { start: StartCount(start), boot_nonce, found: BatchNumber(found) }
            });
            let past = past.collect();
            let groups = groups
                .into_iter()
                .map(|(group, (replica, is_pristine))| {
                    (GroupId(group), HeldReplica { replica: ReplicaId(replica), is_pristine })
                })
                .collect();
            let hello = Hello { is_disk_full, is_poisoned, groups, past };
            prop_assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
        }
    }

    #[test]
    fn fuzz_any_bytes_are_refused_or_read_as_what_they_say() {
        let past = vec![PastLife { start: StartCount(3), boot_nonce: 4, found: BatchNumber(5) }];
        let sound = Hello { past, ..hello(12, true) }.encode();
        bolero::check!().with_iterations(2_000).with_max_len(100).for_each(|input: &[u8]| {
            let of_format = Bytes::from([&[FORMAT], input].concat());
            for bytes in raw_and_spoiled(&sound, input).into_iter().chain([of_format]) {
                if let Ok(hello) = Hello::decode(&bytes) {
                    assert_eq!(Hello::decode(&hello.encode()), Ok(hello));
                }
            }
        });
    }
}
