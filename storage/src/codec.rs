//! # Codec: commands and outcomes as bytes
//!
//! ```text
//!   Proposal  │ 1 │ time_ms │ stamp │ node │ start │ count │ command … │      in the journal, and between replicas
//!   Outcomes  │ 1 │ count │ outcome … │                                     under a remembered request id
//! ```
//!
//! Integers are big-endian, byte strings carry their length in front, every record opens with the number of its format.
//! [`command`] and [`outcome`] hold the two records; the [`Writer`] and the [`Reader`] here are the alphabet of every
//! stored value of this crate.
//!
//! **Invariant.** Decoding takes any bytes without a panic and without allocating more than they could hold, and what
//! decodes encodes to the same bytes again. Numbers are append-only.
//!
//! **Deliberately absent.** Checksums: the journal, the engine and the snapshot chunks each have their own.

pub mod command;
pub mod outcome;
pub(crate) mod settings;

pub use command::{decode_proposal, encode_proposal, encoded_command_bytes};
pub use outcome::{decode_outcomes, encode_outcomes};

use crate::error::StorageError;
use bytes::Bytes;
use kvorum_api::{Actor, LogPosition, NodeId, PlacementRange, Stamp, StartCount, Version};

const HAS_RANGE: u8 = 1;
const HAS_END: u8 = 2;

/// A bit, if it is set.
pub(crate) fn flag(bit: u8, is_set: bool) -> u8 {
    if is_set { bit } else { 0 }
}

/// Builds one record.
#[derive(Debug, Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    /// A record of format `format`, expected to take about `capacity` bytes.
    #[must_use]
    pub fn new(format: u8, capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity + 1);
        bytes.push(format);
        Writer(bytes)
    }

    /// One byte.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Four bytes.
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Eight bytes.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Sixteen bytes.
    pub fn u128(&mut self, value: u128) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Eight bytes, two's complement.
    pub fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// A number of things that follow.
    pub fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("limits at the door keep counts far below four billion"));
    }

    /// Bytes with their length in front.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    /// Bytes that reach to the end of the record, without a length.
    pub fn rest(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    /// A version.
    pub fn version(&mut self, version: Version) {
        self.0.extend_from_slice(&version.to_bytes());
    }

    /// An actor.
    pub fn actor(&mut self, actor: Actor) {
        self.u64(actor.node.0);
        self.u64(actor.start.0);
    }

    /// A place in a log.
    pub fn position(&mut self, position: LogPosition) {
        self.u64(position.term);
        self.u64(position.index);
    }

    /// A range of placement keys, or none.
    pub fn range(&mut self, range: Option<&PlacementRange>) {
        let Some(range) = range else { return self.u8(0) };
        self.u8(HAS_RANGE | flag(HAS_END, range.end.is_some()));
        self.bytes(&range.start);
        if let Some(end) = &range.end {
            self.bytes(end);
        }
    }

    /// What was written so far.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// The record.
    #[must_use]
    pub fn finish(self) -> Bytes {
        Bytes::from(self.0)
    }
}

/// Takes one record apart. Byte strings share the record's memory.
#[derive(Clone, Debug)]
pub struct Reader {
    what: &'static str,
    bytes: Bytes,
    at: usize,
}

impl Reader {
    /// Opens a record that must be of format `format`.
    ///
    /// # Errors
    /// Another format, or no bytes at all.
    pub fn open(what: &'static str, bytes: Bytes, format: u8) -> Result<Self, StorageError> {
        let mut reader = Reader { what, bytes, at: 0 };
        match reader.u8()? {
            found if found == format => Ok(reader),
            found => Err(reader.unknown(format!("format {found}"))),
        }
    }

    /// Opens a record of any format up to `newest`, and says which.
    ///
    /// # Errors
    /// A newer format, or no bytes at all.
    pub fn open_up_to(what: &'static str, bytes: Bytes, newest: u8) -> Result<(Self, u8), StorageError> {
        let mut reader = Reader { what, bytes, at: 0 };
        match reader.u8()? {
            found if (1..=newest).contains(&found) => Ok((reader, found)),
            found => Err(reader.unknown(format!("format {found}"))),
        }
    }

    /// An error about this record.
    #[must_use]
    pub fn unknown(&self, found: impl Into<String>) -> StorageError {
        StorageError::UnknownFormat { what: self.what, found: found.into() }
    }

    fn take<const LENGTH: usize>(&mut self) -> Result<[u8; LENGTH], StorageError> {
        let Some(bytes) = self.bytes[self.at..].first_chunk::<LENGTH>().copied() else {
            return Err(self.unknown(format!("an end at byte {} of {}", self.at, self.bytes.len())));
        };
        self.at += LENGTH;
        Ok(bytes)
    }

    /// One byte.
    ///
    /// # Errors
    /// The record ends before; so with every reading below.
    pub fn u8(&mut self) -> Result<u8, StorageError> {
        self.take::<1>().map(|[byte]| byte)
    }

    /// A byte of which only the bits of `known` may be set.
    ///
    /// # Errors
    /// A flag this build does not know.
    pub fn flags(&mut self, known: u8) -> Result<u8, StorageError> {
        let flags = self.u8()?;
        if flags & !known != 0 {
            return Err(self.unknown(format!("flags {flags:#010b}")));
        }
        Ok(flags)
    }

    /// Four bytes.
    ///
    /// # Errors
    /// As [`Reader::u8`].
    pub fn u32(&mut self) -> Result<u32, StorageError> {
        self.take().map(u32::from_be_bytes)
    }

    /// Eight bytes.
    ///
    /// # Errors
    /// As [`Reader::u8`].
    pub fn u64(&mut self) -> Result<u64, StorageError> {
        self.take().map(u64::from_be_bytes)
    }

    /// Sixteen bytes.
    ///
    /// # Errors
    /// As [`Reader::u8`].
    pub fn u128(&mut self) -> Result<u128, StorageError> {
        self.take().map(u128::from_be_bytes)
    }

    /// Eight bytes, two's complement.
    ///
    /// # Errors
    /// As [`Reader::u8`].
    pub fn i64(&mut self) -> Result<i64, StorageError> {
        self.take().map(i64::from_be_bytes)
    }

    /// A number of things that follow, each of at least `bytes_min` bytes: a count the record cannot hold is refused,
    /// so that nobody allocates for it.
    ///
    /// # Errors
    /// As [`Reader::u8`], or a count beyond the record.
    pub fn count(&mut self, bytes_min: usize) -> Result<usize, StorageError> {
        let count = self.u32()? as usize;
        if count.saturating_mul(bytes_min) > self.bytes.len() - self.at {
            return Err(self.unknown(format!("a count of {count} with {} bytes left", self.bytes.len() - self.at)));
        }
        Ok(count)
    }

    /// Bytes with their length in front.
    ///
    /// # Errors
    /// As [`Reader::count`].
    pub fn bytes(&mut self) -> Result<Bytes, StorageError> {
        let length = self.count(1)?;
        let bytes = self.bytes.slice(self.at..self.at + length);
        self.at += length;
        Ok(bytes)
    }

    /// Everything up to the end of the record.
    pub fn rest(&mut self) -> Bytes {
        let bytes = self.bytes.slice(self.at..);
        self.at = self.bytes.len();
        bytes
    }

    /// A version.
    ///
    /// # Errors
    /// As [`Reader::u8`].
    pub fn version(&mut self) -> Result<Version, StorageError> {
        self.take().map(Version::from_bytes)
    }

    /// A stamp.
    ///
    /// # Errors
    /// As [`Reader::u8`].
    pub fn stamp(&mut self) -> Result<Stamp, StorageError> {
        self.u64().map(Stamp)
    }

    /// An actor.
    ///
    /// # Errors
    /// As [`Reader::u8`].
    pub fn actor(&mut self) -> Result<Actor, StorageError> {
        Ok(Actor { node: NodeId(self.u64()?), start: StartCount(self.u64()?) })
    }

    /// A place in a log.
    ///
    /// # Errors
    /// As [`Reader::u8`].
    pub fn position(&mut self) -> Result<LogPosition, StorageError> {
        Ok(LogPosition { term: self.u64()?, index: self.u64()? })
    }

    /// A range of placement keys, or none.
    ///
    /// # Errors
    /// As [`Reader::flags`] and [`Reader::bytes`].
    pub fn range(&mut self) -> Result<Option<PlacementRange>, StorageError> {
        match self.flags(HAS_RANGE | HAS_END)? {
            0 => Ok(None),
            HAS_END => Err(self.unknown("an end of no range")),
            flags => {
                let start = self.bytes()?;
                let end = if flags & HAS_END != 0 { Some(self.bytes()?) } else { None };
                Ok(Some(PlacementRange { start, end }))
            }
        }
    }

    /// Whether everything was read.
    #[must_use]
    pub fn is_at_end(&self) -> bool {
        self.at == self.bytes.len()
    }

    /// Nothing may follow.
    ///
    /// # Errors
    /// Something does.
    pub fn end(self) -> Result<(), StorageError> {
        if !self.is_at_end() {
            return Err(self.unknown(format!("{} bytes after the end", self.bytes.len() - self.at)));
        }
        Ok(())
    }
}
