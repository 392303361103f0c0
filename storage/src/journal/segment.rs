//! # Segment: a file of the journal
//!
//! ```text
//!   0                64              112                        (8-byte boundaries)
//!   ┌────────────────┬───────────────┬────────┬────────┬───┬───────────────┬────────┬───┬──────────┐
//!   │ segment header │ batch header  │ record │ record │ … │ batch header  │ record │ … │ old bytes│
//!   └────────────────┴───────────────┴────────┴────────┴───┴───────────────┴────────┴───┴──────────┘
//! ```
//!
//! Segment header, 64 bytes: magic `KVJS`, version u8, 3 zeros, CRC-32, key id u32 (0 = plain), epoch u64, epoch of the
//! segment it replaces u64 (0 = none), length of the file u64, number of the last batch before it u64, 16 zeros.
//!
//! Batch header, 48 bytes: magic `KVJB`, CRC-32, number u64, number of the batch before u64, number of the last batch
//! known synced u64, its own offset u32, count of records u32, bytes of records u32, 4 zeros.
//!
//! Both checksums are seeded with the epoch and cover everything but themselves. A name carries the epoch:
//! `segment-<16 hex digits>` is part of the log, `spare-…` is prewritten and waits, `rewrite-…` and `preparing-…` are
//! unfinished. Epochs grow for ever, whatever the kind of name.
//!
//! **Invariant.** Bytes written under one epoch never pass under another.

use super::BatchNumber;
use super::medium::SegmentFile;
use super::record::{be_u32, be_u64};
use crate::error::StorageError;
use bytes::{BufMut, Bytes};
use std::sync::Arc;

/// The version written into new segments.
pub(super) const VERSION: u8 = 1;
/// Bytes of a segment header.
pub(super) const SEGMENT_HEADER_BYTES: usize = 64;
/// Bytes of a batch header.
pub(super) const BATCH_HEADER_BYTES: usize = 48;

const SEGMENT_MAGIC: &[u8; 4] = b"KVJS";
const BATCH_MAGIC: &[u8; 4] = b"KVJB";

/// The number of a segment's life: another one each time its file is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Epoch(pub(super) u64);

impl Epoch {
    /// What checksums of this life begin with.
    pub(super) fn seed(self) -> u32 {
        self.0 as u32
    }

    pub(super) fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

/// What the name of a file says it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Segment,
    Spare,
    Rewrite,
    Preparing,
}

impl Role {
    const ALL: [Role; 4] = [Role::Segment, Role::Spare, Role::Rewrite, Role::Preparing];

    fn word(self) -> &'static str {
        match self {
            Role::Segment => "segment",
            Role::Spare => "spare",
            Role::Rewrite => "rewrite",
            Role::Preparing => "preparing",
        }
    }

    /// The name of a file in this role.
    pub(super) fn name(self, epoch: Epoch) -> String {
        format!("{}-{:016x}", self.word(), epoch.0)
    }

    /// What a name says; `None` for a file that is not the journal's.
    pub(super) fn parse(name: &str) -> Option<(Role, Epoch)> {
        let (word, digits) = name.split_once('-')?;
        let role = Role::ALL.into_iter().find(|role| role.word() == word)?;
        if digits.len() != 16 {
            return None;
        }
        let epoch = Epoch(u64::from_str_radix(digits, 16).ok()?);
        // Capitals and signs are digits to the parser: another name of a file that is there, perhaps.
        Some((role, epoch)).filter(|_| role.name(epoch) == name)
    }
}

/// A file and the life it is in. Clones are what readers hold while they read.
#[derive(Clone)]
pub(super) struct Segment {
    pub(super) epoch: Epoch,
    pub(super) length: u64,
    pub(super) file: Arc<dyn SegmentFile>,
}

/// The first bytes of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub(super) epoch: Epoch,
    /// The segment whose batches this one repeats: both together are one too many.
    pub(super) replaces: Option<Epoch>,
    pub(super) length: u64,
    /// The last batch of the segment before.
    pub(super) previous: BatchNumber,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(SEGMENT_HEADER_BYTES);
        bytes.put_slice(SEGMENT_MAGIC);
        bytes.put_u8(VERSION);
        bytes.put_bytes(0, 3);
        bytes.put_u32(0);
        bytes.put_u32(0);
        bytes.put_u64(self.epoch.0);
        bytes.put_u64(self.replaces.unwrap_or_default().0);
        bytes.put_u64(self.length);
        bytes.put_u64(self.previous.0);
        bytes.put_bytes(0, 16);
        sealed(bytes, 8, self.epoch.seed())
    }

    /// `None`: these bytes are no header of this epoch.
    pub(super) fn decode(bytes: &[u8], epoch: Epoch, path: &str) -> Result<Option<SegmentHeader>, StorageError> {
        if !is_sealed::<SEGMENT_HEADER_BYTES>(bytes, SEGMENT_MAGIC, 8, epoch.seed()) || be_u64(&bytes[16..]) != epoch.0
        {
            return Ok(None);
        }
        if bytes[4] != VERSION {
            let found = format!("version {} in {path}, this build knows {VERSION}", bytes[4]);
            return Err(StorageError::UnknownFormat { what: "journal segment", found });
        }
        if be_u32(&bytes[12..]) != 0 {
            let found = format!("key {} in {path}, this build reads plain segments", be_u32(&bytes[12..]));
            return Err(StorageError::UnknownFormat { what: "journal segment", found });
        }
        Ok(Some(SegmentHeader {
            epoch,
            replaces: Some(Epoch(be_u64(&bytes[24..]))).filter(|replaced| replaced.0 != 0),
            length: be_u64(&bytes[32..]),
            previous: BatchNumber(be_u64(&bytes[40..])),
        }))
    }
}

/// The first bytes of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct BatchHeader {
    pub(super) number: BatchNumber,
    /// The batch before it. Numbers may jump: a start resumes above all it found.
    pub(super) previous: BatchNumber,
    /// The last batch known synced when this one was written (J1).
    pub(super) synced: BatchNumber,
    /// Where this header stands in its segment.
    pub(super) offset: u64,
    pub(super) records: u32,
    /// Bytes of the records that follow, padding included.
    pub(super) bytes: u32,
}

impl BatchHeader {
    pub(super) fn encode(&self, epoch: Epoch) -> [u8; BATCH_HEADER_BYTES] {
        let mut bytes = Vec::with_capacity(BATCH_HEADER_BYTES);
        bytes.put_slice(BATCH_MAGIC);
        bytes.put_u32(0);
        bytes.put_u64(self.number.0);
        bytes.put_u64(self.previous.0);
        bytes.put_u64(self.synced.0);
        bytes.put_u32(u32::try_from(self.offset).expect("segments are smaller than 4 GiB"));
        bytes.put_u32(self.records);
        bytes.put_u32(self.bytes);
        bytes.put_u32(0);
        sealed(bytes, 4, epoch.seed())
    }

    /// `None`: these bytes are no header of this epoch at this offset.
    pub(super) fn decode(bytes: &[u8], epoch: Epoch, offset: u64) -> Option<BatchHeader> {
        if !is_sealed::<BATCH_HEADER_BYTES>(bytes, BATCH_MAGIC, 4, epoch.seed()) {
            return None;
        }
        let header = BatchHeader {
            number: BatchNumber(be_u64(&bytes[8..])),
            previous: BatchNumber(be_u64(&bytes[16..])),
            synced: BatchNumber(be_u64(&bytes[24..])),
            offset: u64::from(be_u32(&bytes[32..])),
            records: be_u32(&bytes[36..]),
            bytes: be_u32(&bytes[40..]),
        };
        (header.offset == offset).then_some(header)
    }

    /// Whether a batch header could begin here: cheap enough to ask at every boundary of a segment.
    pub(super) fn may_begin(bytes: &[u8]) -> bool {
        bytes.starts_with(BATCH_MAGIC)
    }
}

/// Writes the checksum of all other bytes at `at`.
fn sealed<const N: usize>(mut bytes: Vec<u8>, at: usize, seed: u32) -> [u8; N] {
    let checksum = checksum_around(&bytes, at, seed);
    bytes[at..at + 4].copy_from_slice(&checksum.to_be_bytes());
    bytes.try_into().expect("a header has its size")
}

fn is_sealed<const N: usize>(bytes: &[u8], magic: &[u8; 4], at: usize, seed: u32) -> bool {
    bytes.len() >= N && bytes.starts_with(magic) && be_u32(&bytes[at..]) == checksum_around(&bytes[..N], at, seed)
}

fn checksum_around(bytes: &[u8], at: usize, seed: u32) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed);
    hasher.update(&bytes[..at]);
    hasher.update(&bytes[at + 4..]);
    hasher.finalize()
}

/// Reads a file through a window, so that a segment of any size costs little memory.
pub(super) struct Window<'a> {
    segment: &'a Segment,
    start: u64,
    bytes: Bytes,
}

/// Bytes read at once.
const WINDOW_BYTES: usize = 1 << 20;

impl<'a> Window<'a> {
    pub(super) fn new(segment: &'a Segment) -> Self {
        Window { segment, start: 0, bytes: Bytes::new() }
    }

    /// `length` bytes from `offset`, or fewer where the file ends.
    pub(super) fn get(&mut self, offset: u64, length: usize) -> std::io::Result<Bytes> {
        let length = length.min(usize::try_from(self.segment.length.saturating_sub(offset)).unwrap_or(usize::MAX));
        let is_inside = offset >= self.start && offset + length as u64 <= self.start + self.bytes.len() as u64;
        if !is_inside {
            let mut bytes = vec![0; length.max(WINDOW_BYTES)];
            let read = self.segment.file.read_at(offset, &mut bytes)?;
            bytes.truncate(read);
            self.start = offset;
            self.bytes = Bytes::from(bytes);
        }
        let from = (offset - self.start) as usize;
        Ok(self.bytes.slice(from.min(self.bytes.len())..(from + length).min(self.bytes.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spoil::spoiled;
    use proptest::prelude::*;

    fn segment_header() -> SegmentHeader {
        SegmentHeader { epoch: Epoch(5), replaces: Some(Epoch(4)), length: 4096, previous: BatchNumber(17) }
    }

    fn batch_header() -> BatchHeader {
        let [number, previous, synced] = [19, 18, 17].map(BatchNumber);
        BatchHeader { number, previous, synced, offset: 64, records: 2, bytes: 80 }
    }

    #[test]
    fn headers_are_read_as_written() {
        let header = segment_header();
        assert_eq!(SegmentHeader::decode(&header.encode(), Epoch(5), "s"), Ok(Some(header)));
        assert_eq!(SegmentHeader::decode(&header.encode(), Epoch(6), "s"), Ok(None));
        let header = batch_header();
        assert_eq!(BatchHeader::decode(&header.encode(Epoch(5)), Epoch(5), 64), Some(header));
        assert_eq!(BatchHeader::decode(&header.encode(Epoch(5)), Epoch(6), 64), None);
        assert_eq!(BatchHeader::decode(&header.encode(Epoch(5)), Epoch(5), 72), None);
    }

    #[test]
    fn a_flipped_bit_is_seen() {
        let (segment, batch) = (segment_header().encode(), batch_header().encode(Epoch(5)));
        for bit in 0..segment.len() * 8 {
            let mut damaged = segment;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&damaged, Epoch(5), "s"), Ok(None));
        }
        for bit in 0..batch.len() * 8 {
            let mut damaged = batch;
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(BatchHeader::decode(&damaged, Epoch(5), 64), None);
        }
    }

    #[test]
    fn a_later_version_is_refused_by_name() {
        let mut bytes = segment_header().encode().to_vec();
        bytes[4] = 2;
        bytes[8..12].fill(0);
        let bytes: [u8; SEGMENT_HEADER_BYTES] = sealed(bytes, 8, Epoch(5).seed());
        let refused = SegmentHeader::decode(&bytes, Epoch(5), "journal/segment-5").unwrap_err();
        assert!(refused.to_string().contains("version 2 in journal/segment-5"), "{refused}");
    }

    /// The bytes of version 1. A change here is a new version of the segment format.
    #[test]
    fn fixture_of_version_1() {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex(&segment_header().encode()), SEGMENT_FIXTURE);
        assert_eq!(hex(&batch_header().encode(Epoch(5))), BATCH_FIXTURE);
    }

    #[test]
    fn a_name_that_only_reads_like_one_of_ours_is_of_another_file() {
        assert_eq!(Role::parse("segment-00000000000000ab"), Some((Role::Segment, Epoch(0xab))));
        for other in ["segment-00000000000000AB", "segment-+0000000000000ab", "segment-ab", "segment_00000000000000ab"]
        {
            assert_eq!(Role::parse(other), None, "{other}");
        }
    }

    const SEGMENT_FIXTURE: &str = concat!(
        "4b564a530100000012cb5ea80000000000000000000000050000000000000004",
        "0000000000001000000000000000001100000000000000000000000000000000"
    );
    const BATCH_FIXTURE: &str =
        concat!("4b564a424f2b6d85000000000000001300000000000000120000000000000011", "00000040000000020000005000000000");

    proptest! {
        #[test]
        fn names_are_read_as_written(epoch: u64) {
            for role in Role::ALL {
                prop_assert_eq!(Role::parse(&role.name(Epoch(epoch))), Some((role, Epoch(epoch))));
            }
        }
    }

    /// Also headers whose checksum fits what they say.
    #[test]
    fn fuzz_any_bytes_are_no_header_or_read_as_what_they_say() {
        let (segment, batch) = (segment_header().encode(), batch_header().encode(Epoch(5)));
        bolero::check!().with_iterations(4_000).with_max_len(100).for_each(|input: &[u8]| {
            assert_eq!(SegmentHeader::decode(input, Epoch(5), "s"), Ok(None));
            assert_eq!(BatchHeader::decode(input, Epoch(5), 64), None);

            let mut bytes = spoiled(&segment, input);
            bytes.resize(SEGMENT_HEADER_BYTES, 0);
            bytes[..4].copy_from_slice(SEGMENT_MAGIC);
            bytes[8..12].fill(0);
            let bytes: [u8; SEGMENT_HEADER_BYTES] = sealed(bytes, 8, Epoch(5).seed());
            if let Ok(Some(header)) = SegmentHeader::decode(&bytes, Epoch(5), "s") {
                assert_eq!(SegmentHeader::decode(&header.encode(), Epoch(5), "s"), Ok(Some(header)));
            }

            let mut bytes = spoiled(&batch, input);
            bytes.resize(BATCH_HEADER_BYTES, 0);
            bytes[..4].copy_from_slice(BATCH_MAGIC);
            bytes[4..8].fill(0);
            let bytes: [u8; BATCH_HEADER_BYTES] = sealed(bytes, 4, Epoch(5).seed());
            if let Some(header) = BatchHeader::decode(&bytes, Epoch(5), 64) {
                assert_eq!(BatchHeader::decode(&header.encode(Epoch(5)), Epoch(5), 64), Some(header));
            }
        });
    }

    #[test]
    fn fuzz_any_name_is_of_a_role_or_of_another_file() {
        bolero::check!().with_iterations(2_000).with_max_len(40).for_each(|input: &[u8]| {
            let spoiled = spoiled(Role::Rewrite.name(Epoch(0xa5)).as_bytes(), input);
            for name in [input, &spoiled] {
                let name = String::from_utf8_lossy(name);
                if let Some((role, epoch)) = Role::parse(&name) {
                    assert_eq!(role.name(epoch), name);
                }
            }
        });
    }
}
