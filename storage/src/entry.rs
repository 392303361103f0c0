//! Entry: what is stored under a key.
//!
//! ```text
//!   │ 1 │ flags │ version (24) │ expires_ms (8)? │ value … │  flags: 1 has a value, 2 expires, 4 to 7 codec (0 plain)
//! ```
//!
//! **Invariant.** [`Entry::merge`] is the one place that decides who wins.

use crate::{
    codec::{Reader, Writer},
    error::StorageError,
};
use bytes::Bytes;
use kvorum_api::Version;

/// The format of entries this build writes.
const FORMAT: u8 = 1;

const HAS_VALUE: u8 = 1;
const EXPIRES: u8 = 2;

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

    /// Whether it is gone at `time_ms`, by a shard's logged time.
    #[must_use]
    pub fn is_gone(&self, time_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires_ms| expires_ms <= time_ms)
    }

    /// As stored.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(FORMAT, 1 + Version::BYTES + 8 + self.value.as_ref().map_or(0, Bytes::len));
        let has_value = if self.value.is_some() { HAS_VALUE } else { 0 };
        writer.u8(has_value | if self.expires_ms.is_some() { EXPIRES } else { 0 });
        writer.version(self.version);
        if let Some(expires_ms) = self.expires_ms {
            writer.u64(expires_ms);
        }
        if let Some(value) = &self.value {
            writer.rest(value);
        }
        writer.finish()
    }

    /// The reverse of [`Entry::encode`]. The value shares the memory of `bytes`.
    ///
    /// # Errors
    /// A format this build does not know, or bytes that are none.
    pub fn decode(bytes: Bytes) -> Result<Self, StorageError> {
        let mut reader = Reader::open("entry", bytes, FORMAT)?;
        let flags = reader.flags(HAS_VALUE | EXPIRES)?;
        let version = reader.version()?;
        let expires_ms = if flags & EXPIRES != 0 { Some(reader.u64()?) } else { None };
        let value = if flags & HAS_VALUE != 0 { Some(reader.rest()) } else { None };
        reader.end()?;
        Ok(Entry { version, value, expires_ms })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::spoil::raw_and_spoiled;
    use kvorum_api::{Actor, NodeId, Stamp, StartCount};
    use proptest::prelude::*;

    pub(crate) fn any_entry() -> impl Strategy<Value = Entry> {
        let version = (any::<u64>(), any::<u64>(), any::<u64>()).prop_map(|(stamp, node, start)| Version {
            stamp: Stamp(stamp),
            actor: Actor { node: NodeId(node), start: StartCount(start) },
        });
        let value = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from));
        (version, value, any::<Option<u64>>()).prop_map(|(version, value, expires_ms)| Entry {
            version,
            value,
            expires_ms,
        })
    }

    proptest! {
        /// Invariant 2: merge is a join.
        #[test]
        fn merge_is_a_join(a in any_entry(), b in any_entry(), c in any_entry()) {
            // A version is issued once, so equal versions are equal entries.
            prop_assume!(a.version != b.version && b.version != c.version && a.version != c.version);
            prop_assert_eq!(a.clone().merge(a.clone()), a.clone());
            prop_assert_eq!(a.clone().merge(b.clone()), b.clone().merge(a.clone()));
            prop_assert_eq!(a.clone().merge(b.clone()).merge(c.clone()), a.merge(b.merge(c)));
        }

        #[test]
        fn an_entry_reads_back(entry in any_entry()) {
            prop_assert_eq!(Entry::decode(entry.encode()).unwrap(), entry);
        }
    }

    #[test]
    fn fuzz_any_bytes_are_refused_or_read_as_exactly_what_they_say() {
        let sound = Entry { version: Version::default(), value: Some("value".into()), expires_ms: Some(4) }.encode();
        bolero::check!().with_iterations(2_000).with_max_len(60).for_each(|input: &[u8]| {
            for bytes in raw_and_spoiled(&sound, input) {
                if let Ok(entry) = Entry::decode(bytes.clone()) {
                    assert_eq!(entry.encode(), bytes);
                }
            }
        });
    }

    #[test]
    fn format_1_is_what_it_was() {
        let entry = Entry {
            version: Version { stamp: Stamp(1), actor: Actor { node: NodeId(2), start: StartCount(3) } },
            value: Some("v".into()),
            expires_ms: Some(4),
        };
        #[rustfmt::skip]
        let fixture: &[u8] = &[
            1, 3,  0, 0, 0, 0, 0, 0, 0, 1,  0, 0, 0, 0, 0, 0, 0, 2,  0, 0, 0, 0, 0, 0, 0, 3,
            0, 0, 0, 0, 0, 0, 0, 4,  b'v',
        ];
        assert_eq!(entry.encode(), fixture);
        assert_eq!(Entry::decode(Bytes::from_static(fixture)).unwrap(), entry);
    }

    #[test]
    fn an_entry_is_gone_when_the_time_reaches_its_expiry() {
        let entry = Entry { version: Version::default(), value: None, expires_ms: Some(10) };
        assert!(!entry.is_gone(9));
        assert!(entry.is_gone(10));
        assert!(!Entry { expires_ms: None, ..entry }.is_gone(u64::MAX));
    }
}
