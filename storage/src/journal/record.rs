//! # Record: what a batch is made of
//!
//! ```text
//!   0        4        8                16     17
//!   ┌────────┬────────┬────────────────┬──────┬──────────┬───────────┬─────────┐
//!   │ length │ CRC-32 │ group          │ kind │ fixed    │ payload   │ padding │  to the next 8-byte boundary
//!   └────────┴────────┴────────────────┴──────┴──────────┴───────────┴─────────┘
//!    of fixed + payload                         by kind
//! ```
//!
//! | kind | what | fixed part | payload |
//! |---|---|---|---|
//! | 1 | entry | index u64, term u64 | the entry |
//! | 2 | entry, copied forward | index u64, term u64 | the entry |
//! | 3 | vote | | the owner's bytes |
//! | 4 | committed | | the owner's bytes |
//! | 5 | purged | index u64 | its log id |
//! | 6 | truncated after | 1 and index u64, or 0 and zeros | |
//! | 7 | install begin | | the owner's bytes |
//! | 8 | install done | | |
//! | 9 | replica removed | | |
//! | 10 | note | | the owner's bytes |
//! | 11 | replica | id (8) | |
//!
//! Integers are big-endian; numbers of kinds are for ever. The checksum covers length, group, kind, fixed part and
//! payload and is seeded with the segment's epoch: two different seeds never give the same checksum for the same bytes,
//! so a recycled record never passes.
//!
//! **Invariant.** Decoding any bytes gives a record that was written, or says why not; it never panics.

use super::{LogRecord, Mark};
use bytes::{BufMut, Bytes};
use kvorum_api::GroupId;
use std::io::IoSlice;

/// Bytes before the fixed part.
pub(super) const HEADER_BYTES: usize = 17;
/// Records begin on multiples of this.
pub(super) const ALIGNMENT: usize = 8;
/// A payload of at least this many bytes is written from where it lies instead of being copied into the batch.
const LARGE_BYTES: usize = 16 << 10;

const ENTRY: u8 = 1;
const ENTRY_COPY: u8 = 2;
const VOTE: u8 = 3;
const COMMITTED: u8 = 4;
const PURGED: u8 = 5;
const TRUNCATED_AFTER: u8 = 6;
const INSTALL_BEGIN: u8 = 7;
const INSTALL_DONE: u8 = 8;
const REPLICA_REMOVED: u8 = 9;
const NOTE: u8 = 10;
const REPLICA: u8 = 11;

/// What one record says about its group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// An entry that follows the group's last one.
    Entry(LogRecord),
    /// An entry that an older segment held and that stands here again; younger entries may come before it.
    EntryCopy(LogRecord),
    /// Anything of which only the newest counts.
    Mark(Mark),
}

/// A record as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    pub(super) group: GroupId,
    pub(super) content: Content,
    /// Bytes it takes, padding included.
    pub(super) total: usize,
}

/// Why bytes are not a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadRecord {
    /// It claims more bytes than there are.
    Short,
    /// Header or payload are not what was written.
    Checksum,
    /// The checksum is right, but the kind is of a later format.
    Kind(u8),
    /// The checksum is right, but the fixed part is not complete.
    Shape,
}

impl BadRecord {
    pub(super) fn why(self) -> &'static str {
        match self {
            BadRecord::Short => "a record is cut short",
            BadRecord::Checksum => "the checksum of a record does not match",
            BadRecord::Kind(_) => "a record is of an unknown kind",
            BadRecord::Shape => "a record is incomplete",
        }
    }
}

/// Bytes a record takes in a segment, padding included.
pub(super) fn total_bytes(content: &Content) -> usize {
    let shape = Shape::of(content);
    padded(HEADER_BYTES + shape.fixed_bytes + shape.payload.len())
}

fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(ALIGNMENT)
}

/// What is written for a content: kind, fixed part, payload.
struct Shape<'a> {
    kind: u8,
    fixed: [u8; 16],
    fixed_bytes: usize,
    payload: &'a Bytes,
}

static NOTHING: Bytes = Bytes::new();

impl<'a> Shape<'a> {
    fn of(content: &'a Content) -> Self {
        match content {
            Content::Entry(record) => Shape::entry(ENTRY, record),
            Content::EntryCopy(record) => Shape::entry(ENTRY_COPY, record),
            Content::Mark(mark) => Shape::mark(mark),
        }
    }

    fn entry(kind: u8, record: &'a LogRecord) -> Self {
        let mut fixed = [0; 16];
        fixed[..8].copy_from_slice(&record.index.to_be_bytes());
        fixed[8..].copy_from_slice(&record.term.to_be_bytes());
        Shape { kind, fixed, fixed_bytes: 16, payload: &record.payload }
    }

    fn mark(mark: &'a Mark) -> Self {
        let bare = |kind, payload| Shape { kind, fixed: [0; 16], fixed_bytes: 0, payload };
        match mark {
            Mark::Vote(bytes) => bare(VOTE, bytes),
            Mark::Committed(bytes) => bare(COMMITTED, bytes),
            Mark::Purged { index, log_id } => {
                let mut fixed = [0; 16];
                fixed[..8].copy_from_slice(&index.to_be_bytes());
                Shape { kind: PURGED, fixed, fixed_bytes: 8, payload: log_id }
            }
            Mark::TruncatedAfter(last) => {
                let mut fixed = [0; 16];
                fixed[0] = u8::from(last.is_some());
                fixed[1..9].copy_from_slice(&last.unwrap_or(0).to_be_bytes());
                Shape { kind: TRUNCATED_AFTER, fixed, fixed_bytes: 9, payload: &NOTHING }
            }
            Mark::InstallBegin(bytes) => bare(INSTALL_BEGIN, bytes),
            Mark::InstallDone => bare(INSTALL_DONE, &NOTHING),
            Mark::ReplicaRemoved => bare(REPLICA_REMOVED, &NOTHING),
            Mark::Note(bytes) => bare(NOTE, bytes),
            Mark::Replica(id) => {
                let mut fixed = [0; 16];
                fixed[..8].copy_from_slice(&id.to_be_bytes());
                Shape { kind: REPLICA, fixed, fixed_bytes: 8, payload: &NOTHING }
            }
        }
    }
}

/// The bytes of one batch on their way to the disk: small parts copied together, large payloads where they lie.
#[derive(Debug, Default)]
pub(super) struct Parts {
    small: Vec<u8>,
    /// Large payloads and the position in `small` before which each belongs.
    large: Vec<(usize, Bytes)>,
    large_bytes: usize,
}

impl Parts {
    pub(super) fn clear(&mut self) {
        self.small.clear();
        self.large.clear();
        self.large_bytes = 0;
    }

    /// Bytes collected so far.
    pub(super) fn len(&self) -> usize {
        self.small.len() + self.large_bytes
    }

    /// Appends bytes as they are.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.small.extend_from_slice(bytes);
    }

    /// Overwrites bytes put before any large payload.
    pub(super) fn patch(&mut self, position: usize, bytes: &[u8]) {
        assert!(self.large.first().is_none_or(|(at, _)| position + bytes.len() <= *at), "patches come before payloads");
        self.small[position..position + bytes.len()].copy_from_slice(bytes);
    }

    /// Appends a record and its padding.
    pub(super) fn put_record(&mut self, group: GroupId, content: &Content, seed: u32) {
        let shape = Shape::of(content);
        let length = shape.fixed_bytes + shape.payload.len();
        let start = self.small.len();
        self.small.put_u32(u32::try_from(length).expect("a record fits into a segment"));
        self.small.put_u32(0);
        self.small.put_u64(group.0);
        self.small.put_u8(shape.kind);
        self.small.put_slice(&shape.fixed[..shape.fixed_bytes]);
        let checksum = checksum(seed, &self.small[start..], shape.payload);
        self.small[start + 4..start + 8].copy_from_slice(&checksum.to_be_bytes());
        if shape.payload.len() >= LARGE_BYTES {
            self.large.push((self.small.len(), shape.payload.clone()));
            self.large_bytes += shape.payload.len();
        } else {
            self.small.put_slice(shape.payload);
        }
        let padding = padded(HEADER_BYTES + length) - HEADER_BYTES - length;
        self.small.put_bytes(0, padding);
    }

    /// What to write, in order.
    pub(super) fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut slices = Vec::with_capacity(self.large.len() * 2 + 1);
        let mut from = 0;
        for (at, payload) in &self.large {
            slices.push(IoSlice::new(&self.small[from..*at]));
            slices.push(IoSlice::new(payload));
            from = *at;
        }
        slices.push(IoSlice::new(&self.small[from..]));
        slices
    }
}

/// `head` is a record up to its payload; its own checksum field is left out.
fn checksum(seed: u32, head: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(&head[..4]);
    hasher.update(&head[8..]);
    hasher.update(payload);
    hasher.finalize()
}

/// Reads the record at the start of `bytes`; its payload shares their memory.
pub(super) fn decode(bytes: &Bytes, seed: u32) -> Result<Decoded, BadRecord> {
    let total = peek_total(bytes)?;
    if bytes.len() < total {
        return Err(BadRecord::Short);
    }
    let length = be_u32(&bytes[..4]) as usize;
    let body = bytes.slice(HEADER_BYTES..HEADER_BYTES + length);
    if checksum(seed, &bytes[..HEADER_BYTES], &body) != be_u32(&bytes[4..8]) {
        return Err(BadRecord::Checksum);
    }
    let content = content(bytes[16], &body)?;
    Ok(Decoded { group: GroupId(be_u64(&bytes[8..16])), content, total })
}

/// Bytes the record at the start of `bytes` claims to take, padding included.
pub(super) fn peek_total(bytes: &[u8]) -> Result<usize, BadRecord> {
    if bytes.len() < HEADER_BYTES {
        return Err(BadRecord::Short);
    }
    Ok(padded(HEADER_BYTES + be_u32(&bytes[..4]) as usize))
}

fn content(kind: u8, body: &Bytes) -> Result<Content, BadRecord> {
    let bare = |length: usize, content| if length == 0 { Ok(content) } else { Err(BadRecord::Shape) };
    Ok(match kind {
        ENTRY => Content::Entry(entry(body)?),
        ENTRY_COPY => Content::EntryCopy(entry(body)?),
        VOTE => Content::Mark(Mark::Vote(body.clone())),
        COMMITTED => Content::Mark(Mark::Committed(body.clone())),
        PURGED if body.len() >= 8 => Content::Mark(Mark::Purged { index: be_u64(&body[..8]), log_id: body.slice(8..) }),
        TRUNCATED_AFTER if body.len() == 9 => {
            Content::Mark(Mark::TruncatedAfter((body[0] == 1).then(|| be_u64(&body[1..9]))))
        }
        REPLICA if body.len() == 8 => Content::Mark(Mark::Replica(be_u64(body))),
        PURGED | TRUNCATED_AFTER | REPLICA => return Err(BadRecord::Shape),
        INSTALL_BEGIN => Content::Mark(Mark::InstallBegin(body.clone())),
        INSTALL_DONE => bare(body.len(), Content::Mark(Mark::InstallDone))?,
        REPLICA_REMOVED => bare(body.len(), Content::Mark(Mark::ReplicaRemoved))?,
        NOTE => Content::Mark(Mark::Note(body.clone())),
        unknown => return Err(BadRecord::Kind(unknown)),
    })
}

fn entry(body: &Bytes) -> Result<LogRecord, BadRecord> {
    if body.len() < 16 {
        return Err(BadRecord::Shape);
    }
    Ok(LogRecord { index: be_u64(&body[..8]), term: be_u64(&body[8..16]), payload: body.slice(16..) })
}

/// Eight bytes.
pub(super) fn word(word: u64) -> Bytes {
    Bytes::copy_from_slice(&word.to_be_bytes())
}

/// Reads four bytes.
pub(super) fn be_u32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes[..4].try_into().expect("four bytes"))
}

/// Reads eight bytes.
pub(super) fn be_u64(bytes: &[u8]) -> u64 {
    u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn contents() -> impl Strategy<Value = Content> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..200).prop_map(Bytes::from);
        let record = || {
            (any::<u64>(), any::<u64>(), bytes()).prop_map(|(index, term, payload)| LogRecord { index, term, payload })
        };
        prop_oneof![
            record().prop_map(Content::Entry),
            record().prop_map(Content::EntryCopy),
            bytes().prop_map(|b| Content::Mark(Mark::Vote(b))),
            bytes().prop_map(|b| Content::Mark(Mark::Committed(b))),
            (any::<u64>(), bytes()).prop_map(|(index, log_id)| Content::Mark(Mark::Purged { index, log_id })),
            any::<Option<u64>>().prop_map(|last| Content::Mark(Mark::TruncatedAfter(last))),
            bytes().prop_map(|b| Content::Mark(Mark::InstallBegin(b))),
            Just(Content::Mark(Mark::InstallDone)),
            Just(Content::Mark(Mark::ReplicaRemoved)),
            bytes().prop_map(|b| Content::Mark(Mark::Note(b))),
            any::<u64>().prop_map(|id| Content::Mark(Mark::Replica(id))),
        ]
    }

    fn written(parts: &Parts) -> Bytes {
        parts.slices().iter().flat_map(|slice| slice.to_vec()).collect::<Vec<u8>>().into()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(group: u64, content in contents(), seed: u32) {
            let mut parts = Parts::default();
            parts.put_record(GroupId(group), &content, seed);
            let bytes = written(&parts);
            prop_assert_eq!(bytes.len(), total_bytes(&content));
            prop_assert_eq!(bytes.len() % ALIGNMENT, 0);
            let decoded = decode(&bytes, seed).unwrap();
            prop_assert_eq!(decoded, Decoded { group: GroupId(group), content, total: bytes.len() });
        }

        #[test]
        fn another_epoch_never_passes(content in contents(), seed: u32, other: u32) {
            prop_assume!(seed != other);
            let mut parts = Parts::default();
            parts.put_record(GroupId(1), &content, seed);
            prop_assert_eq!(decode(&written(&parts), other), Err(BadRecord::Checksum));
        }
    }

    /// Also records whose length and checksum fit what they say.
    #[test]
    fn fuzz_any_bytes_are_refused_or_read_as_what_they_say() {
        bolero::check!().with_iterations(4_000).with_max_len(100).for_each(|input: &[u8]| {
            assert!(decode(&Bytes::copy_from_slice(input), 5).is_err(), "a checksum does not fit by chance");
            let Some((kind, body)) = input.split_first() else { return };
            let mut bytes =
                [&(body.len() as u32).to_be_bytes()[..], &[0; 4], &7_u64.to_be_bytes(), &[kind % 12]].concat();
            let checksum = checksum(5, &bytes, body);
            bytes[4..8].copy_from_slice(&checksum.to_be_bytes());
            bytes.extend_from_slice(body);
            bytes.resize(padded(bytes.len()), 0);
            if let Ok(decoded) = decode(&bytes.into(), 5) {
                let mut parts = Parts::default();
                parts.put_record(GroupId(7), &decoded.content, 5);
                assert_eq!(decode(&written(&parts), 5), Ok(decoded));
            }
        });
    }

    #[test]
    fn a_large_payload_is_written_from_where_it_lies() {
        let payload = Bytes::from(vec![7; LARGE_BYTES]);
        let content = Content::Entry(LogRecord { index: 1, term: 1, payload: payload.clone() });
        let mut parts = Parts::default();
        parts.put_record(GroupId(1), &content, 5);
        assert!(parts.slices().iter().any(|slice| slice.as_ptr() == payload.as_ptr()));
        assert_eq!(decode(&written(&parts), 5).unwrap().content, content);
        assert_eq!(parts.len(), total_bytes(&content));
    }

    /// The bytes of version 1. A change here is a new version of the segment format.
    #[test]
    fn fixture_of_version_1() {
        let mut parts = Parts::default();
        let payload = Bytes::from_static(b"kvorum");
        parts.put_record(GroupId(7), &Content::Entry(LogRecord { index: 3, term: 2, payload }), 9);
        parts.put_record(GroupId(7), &Content::Mark(Mark::TruncatedAfter(Some(2))), 9);
        let hex: String = written(&parts).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, FIXTURE);
    }

    const FIXTURE: &str = concat!(
        "0000001635661f14000000000000000701000000000000000300000000000000026b766f72756d00",
        "0000000905517e56000000000000000706010000000000000002000000000000"
    );
}
