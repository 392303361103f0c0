//! Entry: what is stored under a key.

use bytes::Bytes;
use kvorum_api::Version;

/// What is stored under a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Who wins.
    pub version: Version,
    /// The value, or `None` for a tombstone (AP alone keeps those).
    pub value: Option<Bytes>,
    /// Gone when the shard's logged time reaches this, Unix milliseconds.
    pub expires_ms: Option<u64>,
}

impl Entry {
    /// Decides who wins: the larger version. A join: commutative, associative, idempotent.
    #[must_use]
    pub fn merge(self, other: Entry) -> Entry {
        if other.version > self.version { other } else { self }
    }
}
