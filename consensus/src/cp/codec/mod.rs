//! # The bytes of the council room
//!
//! Everything `cp` puts into the journal or sends to another replica. Hand-written, big-endian, one format or kind byte
//! in front of every record and message; numbers are append-only.
//!
//! ```text
//!   entry payload   │ kind 1 │ body           kinds: 0x81 blank, 0x82 membership, below 0x80 a proposal of that format
//!   vote mark       │ format 1 │ term 8 │ voted for 8 │ committed 1
//!   log id mark     │ format 1 │ term 8 │ index 8
//!   membership      │ format 1 │ log id? │ configs │ members      as kept with a shard's position
//!   message         │ format 1 │ fields of its kind, see `message` and `transfer`
//! ```
//!
//! **Invariant.** Decoding never panics and never allocates more than the input announces with bytes of its own.

pub mod mark;
pub mod message;
pub mod raft;
pub mod transfer;

#[cfg(test)]
mod tests;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

/// The format of everything in this module.
pub const FORMAT: u8 = 1;

/// Bytes that are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// They end too early.
    #[error("{what} is cut off")]
    Short {
        /// What was being read.
        what: &'static str,
    },
    /// A format or kind this build does not know.
    #[error("{what} has unknown number {found}")]
    Unknown {
        /// What was being read.
        what: &'static str,
        /// What was found.
        found: u64,
    },
    /// Something is left over.
    #[error("{what} is followed by {bytes} bytes too many")]
    Trailing {
        /// What was being read.
        what: &'static str,
        /// How many.
        bytes: usize,
    },
    /// Well-formed bytes of something that cannot be.
    #[error("{what}: {why}")]
    Invalid {
        /// What was being read.
        what: &'static str,
        /// What is wrong.
        why: String,
    },
}

impl From<DecodeError> for std::io::Error {
    fn from(error: DecodeError) -> Self {
        std::io::Error::new(std::io::ErrorKind::InvalidData, error)
    }
}

/// Takes fields off the front of some bytes without copying them.
pub(crate) struct Reader {
    bytes: Bytes,
    what: &'static str,
}

impl Reader {
    /// Checks the format byte.
    pub(crate) fn open(bytes: Bytes, what: &'static str) -> Result<Self, DecodeError> {
        let mut reader = Reader { bytes, what };
        match reader.u8()? {
            FORMAT => Ok(reader),
            found => Err(DecodeError::Unknown { what, found: u64::from(found) }),
        }
    }

    /// Skips the first byte, which the caller has seen.
    pub(crate) fn after_kind(bytes: Bytes, what: &'static str) -> Self {
        Reader { bytes: bytes.slice(1..), what }
    }

    fn need(&self, bytes: usize) -> Result<(), DecodeError> {
        if self.bytes.len() < bytes { Err(DecodeError::Short { what: self.what }) } else { Ok(()) }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.need(1)?;
        Ok(self.bytes.get_u8())
    }

    pub(crate) fn bool(&mut self) -> Result<bool, DecodeError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            found => Err(DecodeError::Unknown { what: self.what, found: u64::from(found) }),
        }
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.need(4)?;
        Ok(self.bytes.get_u32())
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.need(8)?;
        Ok(self.bytes.get_u64())
    }

    pub(crate) fn option<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        if self.bool()? { read(self).map(Some) } else { Ok(None) }
    }

    /// A length and as many bytes, shared with the input.
    pub(crate) fn bytes(&mut self) -> Result<Bytes, DecodeError> {
        let length = self.u32()? as usize;
        self.need(length)?;
        Ok(self.bytes.split_to(length))
    }

    /// How many elements of at least `bytes_min` follow: a count the rest cannot hold is refused before anything is
    /// allocated for it.
    pub(crate) fn count(&mut self, bytes_min: usize) -> Result<usize, DecodeError> {
        let count = self.u32()? as usize;
        self.need(count.saturating_mul(bytes_min))?;
        Ok(count)
    }

    /// What is left.
    pub(crate) fn rest(self) -> Bytes {
        self.bytes
    }

    /// Refuses what is left over.
    pub(crate) fn end(self) -> Result<(), DecodeError> {
        match self.bytes.len() {
            0 => Ok(()),
            bytes => Err(DecodeError::Trailing { what: self.what, bytes }),
        }
    }

    pub(crate) fn unknown(&self, found: u8) -> DecodeError {
        DecodeError::Unknown { what: self.what, found: u64::from(found) }
    }

    pub(crate) fn invalid(&self, why: impl ToString) -> DecodeError {
        DecodeError::Invalid { what: self.what, why: why.to_string() }
    }
}

/// Begins a record or message.
pub(crate) fn begin(capacity: usize) -> BytesMut {
    let mut out = BytesMut::with_capacity(1 + capacity);
    out.put_u8(FORMAT);
    out
}

pub(crate) fn put_bytes(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u32(u32::try_from(bytes.len()).expect("a field is below 4 GiB: commands and chunks are limited"));
    out.put_slice(bytes);
}

pub(crate) fn put_option<T>(out: &mut BytesMut, value: Option<&T>, put: impl FnOnce(&mut BytesMut, &T)) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}
