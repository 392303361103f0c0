//! # Changelog: the diary
//!
//! ```text
//!      oldest                      next
//!        ▼                           ▼
//!   ░░░░ 41 42 43 44 45 46 47 48 49 (50)        one record per change, in the batch of what it tells
//!   ▲          ▲                     ▲
//!   Truncated  a reader catches up   and follows
//! ```
//!
//! `apply` writes it and nobody else. A reader holds a seq and nothing more: a slow one costs nothing, and one that
//! fell off is told where the diary begins now ([`ChangesError::Truncated`]) and takes the whole map at a seq
//! ([`ChangeReader::resync`]).
//!
//! **Invariant.** In CP the record with seq *n* is the same on every replica, so a reader may go on elsewhere. How far
//! back the diary reaches is each replica's own affair and never replicated.
//!
//! **Deliberately absent.** Queues: what a reader has not asked for lies in the engine, not in memory.

pub mod reader;

pub use reader::{ChangeReader, ChangesError, Resync};

use crate::{
    codec::{Reader, Writer},
    command::Images,
    entry::Entry,
    error::StorageError,
};
use bytes::Bytes;
use kvorum_api::Version;

/// The format of changes this build writes.
const FORMAT: u8 = 1;

const IS_LAST_OF_BATCH: u8 = 1;
const HAS_REQUEST: u8 = 2;
const HAS_NEW: u8 = 4;
const HAS_OLD: u8 = 8;

/// What happened to a key. Numbers are on disk: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ChangeKind {
    /// It was not there and is now.
    Insert = 1,
    /// It was there and is something else now.
    Modify = 2,
    /// It was removed.
    Remove = 3,
    /// Its time had come.
    Expire = 4,
    /// Reserved for AP: an entry of another replica was merged in.
    Merge = 5,
}

/// One change to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Its place in the diary.
    pub seq: u64,
    /// Whether what happened together ends here: the changes of one command share no other mark.
    pub is_last_of_batch: bool,
    /// What happened.
    pub kind: ChangeKind,
    /// The placement key.
    pub key: Bytes,
    /// Version of what was written; of what was there, when its time had come.
    pub version: Version,
    /// The client and its sequence, if the command had a request id.
    pub request: Option<(u128, u64)>,
    /// Reserved: on whose behalf. Empty.
    pub principal: Bytes,
    /// The shard's logged time.
    pub time_ms: u64,
    /// What is there now, if the shard keeps new images.
    pub new: Option<Entry>,
    /// What was there before, if the shard keeps old images.
    pub old: Option<Entry>,
}

impl Change {
    /// Leaves out the images that the shard does not keep.
    #[must_use]
    pub(crate) fn with_images(mut self, images: Images) -> Self {
        match images {
            Images::Keys => (self.new, self.old) = (None, None),
            Images::New => self.old = None,
            Images::NewAndOld => {}
        }
        self
    }

    /// As stored under its seq.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let image_bytes =
            |image: &Option<Entry>| image.as_ref().map_or(0, |entry| 40 + entry.value.as_ref().map_or(0, Bytes::len));
        let capacity = 80 + self.key.len() + image_bytes(&self.new) + image_bytes(&self.old);
        let mut writer = Writer::new(FORMAT, capacity);
        let flag = |bit, is_set| if is_set { bit } else { 0 };
        writer.u8(flag(IS_LAST_OF_BATCH, self.is_last_of_batch)
            | flag(HAS_REQUEST, self.request.is_some())
            | flag(HAS_NEW, self.new.is_some())
            | flag(HAS_OLD, self.old.is_some()));
        writer.u8(self.kind as u8);
        writer.version(self.version);
        writer.u64(self.time_ms);
        if let Some((client, sequence)) = self.request {
            writer.u128(client);
            writer.u64(sequence);
        }
        writer.bytes(&self.principal);
        writer.bytes(&self.key);
        for entry in [&self.new, &self.old].into_iter().flatten() {
            writer.bytes(&entry.encode());
        }
        writer.finish()
    }

    /// The reverse of [`Change::encode`].
    ///
    /// # Errors
    /// A format this build does not know, or bytes that are none.
    pub fn decode(seq: u64, bytes: Bytes) -> Result<Self, StorageError> {
        let mut reader = Reader::open("change", bytes, FORMAT)?;
        let flags = reader.flags(IS_LAST_OF_BATCH | HAS_REQUEST | HAS_NEW | HAS_OLD)?;
        let kind = match reader.u8()? {
            1 => ChangeKind::Insert,
            2 => ChangeKind::Modify,
            3 => ChangeKind::Remove,
            4 => ChangeKind::Expire,
            5 => ChangeKind::Merge,
            other => return Err(reader.unknown(format!("kind {other}"))),
        };
        let (version, time_ms) = (reader.version()?, reader.u64()?);
        let request = if flags & HAS_REQUEST != 0 { Some((reader.u128()?, reader.u64()?)) } else { None };
        let (principal, key) = (reader.bytes()?, reader.bytes()?);
        let new = if flags & HAS_NEW != 0 { Some(Entry::decode(reader.bytes()?)?) } else { None };
        let old = if flags & HAS_OLD != 0 { Some(Entry::decode(reader.bytes()?)?) } else { None };
        reader.end()?;
        let is_last_of_batch = flags & IS_LAST_OF_BATCH != 0;
        Ok(Change { seq, is_last_of_batch, kind, key, version, request, principal, time_ms, new, old })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::any_entry;
    use crate::spoil::raw_and_spoiled;
    use kvorum_api::{Actor, NodeId, Stamp, StartCount};
    use proptest::prelude::*;

    fn any_change() -> impl Strategy<Value = Change> {
        let kind = prop_oneof![
            Just(ChangeKind::Insert),
            Just(ChangeKind::Modify),
            Just(ChangeKind::Remove),
            Just(ChangeKind::Expire),
            Just(ChangeKind::Merge),
        ];
        let bytes = || proptest::collection::vec(any::<u8>(), 0..9).prop_map(Bytes::from);
        let head = (any::<u64>(), any::<bool>(), kind, bytes(), any_entry());
        let tail = (any::<Option<(u128, u64)>>(), bytes(), any::<u64>());
        let images = (proptest::option::of(any_entry()), proptest::option::of(any_entry()));
        (head, tail, images).prop_map(
            |((seq, is_last_of_batch, kind, key, entry), (request, principal, time_ms), (new, old))| Change {
                seq,
                is_last_of_batch,
                kind,
                key,
                version: entry.version,
                request,
                principal,
                time_ms,
                new,
                old,
            },
        )
    }

    proptest! {
        #[test]
        fn a_change_reads_back(change in any_change()) {
            prop_assert_eq!(Change::decode(change.seq, change.encode()).unwrap(), change);
        }

        #[test]
        fn a_damaged_change_never_panics(change in any_change(), at in any::<prop::sample::Index>(), bit in 0..8u32) {
            let mut bytes = change.encode().to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let bytes = Bytes::from(bytes);
            if let Ok(read) = Change::decode(1, bytes.clone()) {
                prop_assert_eq!(read.encode(), bytes);
            }
        }
    }

    #[test]
    fn fuzz_any_bytes_are_refused_or_read_as_exactly_what_they_say() {
        let version = Version::default();
        let entry = |value: &'static str| Some(Entry { version, value: Some(value.into()), expires_ms: Some(3) });
        let sound = Change {
            seq: 9,
            is_last_of_batch: true,
            kind: ChangeKind::Modify,
            key: "key".into(),
            version,
            request: Some((4, 5)),
            principal: "principal".into(),
            time_ms: 6,
            new: entry("new"),
            old: entry("old"),
        };
        let sound = sound.encode();
        bolero::check!().with_iterations(2_000).with_max_len(160).for_each(|input: &[u8]| {
            for bytes in raw_and_spoiled(&sound, input) {
                if let Ok(change) = Change::decode(9, bytes.clone()) {
                    assert_eq!(change.encode(), bytes);
                }
            }
        });
    }

    #[test]
    fn format_1_is_what_it_was() {
        let version = Version { stamp: Stamp(1), actor: Actor { node: NodeId(2), start: StartCount(3) } };
        let change = Change {
            seq: 9,
            is_last_of_batch: true,
            kind: ChangeKind::Insert,
            key: "k".into(),
            version,
            request: Some((4, 5)),
            principal: Bytes::new(),
            time_ms: 6,
            new: Some(Entry { version, value: Some("v".into()), expires_ms: None }),
            old: None,
        };
        #[rustfmt::skip]
        let fixture: &[u8] = &[
            1, 7, 1,
            0, 0, 0, 0, 0, 0, 0, 1,  0, 0, 0, 0, 0, 0, 0, 2,  0, 0, 0, 0, 0, 0, 0, 3,
            0, 0, 0, 0, 0, 0, 0, 6,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4,  0, 0, 0, 0, 0, 0, 0, 5,
            0, 0, 0, 0,  0, 0, 0, 1, b'k',
            0, 0, 0, 27,  1, 1,
            0, 0, 0, 0, 0, 0, 0, 1,  0, 0, 0, 0, 0, 0, 0, 2,  0, 0, 0, 0, 0, 0, 0, 3,  b'v',
        ];
        assert_eq!(change.encode(), fixture);
        assert_eq!(Change::decode(9, Bytes::from_static(fixture)).unwrap(), change);
    }
}
