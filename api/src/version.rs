//! Stamps and versions: who wins.
//!
//! ```text
//!   Stamp (u64)    │ 48 bits: Unix milliseconds │ 16 bits: counter │
//!   Version        │ Stamp │ node │ start count │   compared in this order
//! ```
//!
//! **Invariant.** A version is issued at most once: the actor names the node *and* which of its lives it was.

use crate::ids::{Actor, NodeId, StartCount};
use std::fmt;

/// A reading of the hybrid logical clock: 48 bits of Unix milliseconds, 16 bits of counter.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Stamp(pub u64);

impl Stamp {
    /// Bits of the counter.
    const COUNTER_BITS: u32 = 16;

    /// The first stamp of a millisecond. Milliseconds beyond 48 bits (the year 10889) are cut off.
    #[must_use]
    pub const fn from_ms(unix_ms: u64) -> Self {
        Stamp(unix_ms << Self::COUNTER_BITS)
    }

    /// The physical part, Unix milliseconds.
    #[must_use]
    pub const fn ms(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }

    /// The smallest stamp above this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Stamp(self.0 + 1)
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}ms+{}", self.ms(), self.0 & 0xffff)
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Who wins: the larger one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Version {
    /// When.
    pub stamp: Stamp,
    /// Who, among equals.
    pub actor: Actor,
}

impl Version {
    /// Bytes of [`Version::to_bytes`].
    pub const BYTES: usize = 24;

    /// Stamp, node, start count, each big-endian: byte order is version order.
    #[must_use]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.stamp.0.to_be_bytes());
        bytes[8..16].copy_from_slice(&self.actor.node.0.to_be_bytes());
        bytes[16..].copy_from_slice(&self.actor.start.0.to_be_bytes());
        bytes
    }

    /// The reverse of [`Version::to_bytes`].
    #[must_use]
    pub fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        Version { stamp: Stamp(word(0)), actor: Actor { node: NodeId(word(8)), start: StartCount(word(16)) } }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}", self.stamp.0, self.actor.node, self.actor.start)
    }
}

/// Where a CP replica stands: the Raft log id of the last entry it applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogPosition {
    /// Raft term.
    pub term: u64,
    /// Raft index.
    pub index: u64,
}

impl fmt::Display for LogPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn version() -> impl Strategy<Value = Version> {
        (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(stamp, node, start)| Version {
            stamp: Stamp(stamp),
            actor: Actor { node: NodeId(node), start: StartCount(start) },
        })
    }

    proptest! {
        #[test]
        fn bytes_round_trip_and_keep_the_order(left in version(), right in version()) {
            prop_assert_eq!(Version::from_bytes(left.to_bytes()), left);
            prop_assert_eq!(left.to_bytes().cmp(&right.to_bytes()), left.cmp(&right));
        }
    }
}
