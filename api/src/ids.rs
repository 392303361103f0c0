//! Ids: newtypes, so that a replica id is never taken for a node id.
//!
//! **Invariant.** Node ids and replica ids are never reused: a node that lost its directory is a new node, a replica
//! that was removed never comes back under its old number.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

id!(
    /// A process with a data directory. Given once, never reused.
    NodeId(u64)
);
id!(
    /// One copy of one shard. openraft's node id is this, not [`NodeId`]. Given once, never reused.
    ReplicaId(u64)
);
id!(
    /// A keyspace, by number; its name may change, its number never.
    KeyspaceId(u32)
);
id!(
    /// A range of one keyspace. Unique in the cluster.
    ShardId(u64)
);
id!(
    /// The Raft group of a CP shard, as the journal and the peers know it. Its number is its shard's.
    GroupId(u64)
);
id!(
    /// One change of the replicas of a shard, as it is listed and cancelled. Given once, never reused.
    OperatorId(u64)
);
id!(
    /// How often a data directory was started; synced before the node serves.
    StartCount(u64)
);

impl From<ShardId> for GroupId {
    fn from(shard: ShardId) -> Self {
        GroupId(shard.0)
    }
}

impl From<GroupId> for ShardId {
    fn from(group: GroupId) -> Self {
        ShardId(group.0)
    }
}

/// Who stamps: a node in one of its lives. Two lives of one node never issue the same version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Actor {
    /// The node.
    pub node: NodeId,
    /// Which of its lives.
    pub start: StartCount,
}

/// Which cluster: 16 random bytes, shown as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ClusterId(pub [u8; 16]);

impl ClusterId {
    /// Reads 32 hexadecimal digits; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 32 || !text.is_ascii() {
            return None;
        }
        let mut bytes = [0; 16];
        for (index, byte) in bytes.iter_mut().enumerate() {
            let pair = &text[2 * index..2 * index + 2];
            // `from_str_radix` would take a sign.
            if !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        Some(ClusterId(bytes))
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClusterId({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_id_reads_what_it_prints() {
        let id = ClusterId(*b"0123456789abcdef");
        assert_eq!(ClusterId::parse(&id.to_string()), Some(id));
        assert_eq!(ClusterId::parse("12"), None);
        assert_eq!(ClusterId::parse(&"+1".repeat(16)), None);
        assert_eq!(ClusterId::parse(&"é".repeat(16)), None);
    }
}
