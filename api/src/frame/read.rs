//! Reads what [`super::write`] writes, without trusting a byte of it.
//!
//! **Invariant.** Never reads past the end and never allocates for what is announced but cannot be there.

use super::{FORMAT, FrameUnreadable, unreadable};
use crate::{level::ReadLevel, version::Version};
use bytes::{Buf as _, Bytes};
use std::time::Duration;

pub(super) type Read<T> = Result<T, FrameUnreadable>;

/// What is left of a frame.
pub(super) struct Reader(Bytes);

impl Reader {
    /// After the version byte.
    pub fn new(frame: Bytes) -> Read<Self> {
        let mut reader = Reader(frame);
        match reader.u8()? {
            FORMAT => Ok(reader),
            other => unreadable(format!("version {other} is not known to this build, which speaks version {FORMAT}")),
        }
    }

    fn need(&self, bytes: usize) -> Read<()> {
        match self.0.len() >= bytes {
            true => Ok(()),
            false => unreadable(format!("cut off: {bytes} bytes are announced, {} are left", self.0.len())),
        }
    }

    pub fn u8(&mut self) -> Read<u8> {
        self.need(1)?;
        Ok(self.0.get_u8())
    }

    pub fn u32(&mut self) -> Read<u32> {
        self.need(4)?;
        Ok(self.0.get_u32())
    }

    pub fn u64(&mut self) -> Read<u64> {
        self.need(8)?;
        Ok(self.0.get_u64())
    }

    pub fn i64(&mut self) -> Read<i64> {
        self.need(8)?;
        Ok(self.0.get_i64())
    }

    pub fn u128(&mut self) -> Read<u128> {
        self.need(16)?;
        Ok(self.0.get_u128())
    }

    pub fn version(&mut self) -> Read<Version> {
        self.need(Version::BYTES)?;
        let mut bytes = [0; Version::BYTES];
        self.0.copy_to_slice(&mut bytes);
        Ok(Version::from_bytes(bytes))
    }

    pub fn bytes(&mut self) -> Read<Bytes> {
        let length = self.u32()? as usize;
        self.need(length)?;
        Ok(self.0.split_to(length))
    }

    pub fn text(&mut self) -> Read<String> {
        let bytes = self.bytes()?;
        match std::str::from_utf8(&bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => unreadable("a text is not UTF-8"),
        }
    }

    /// Flags none of which lies outside `known`.
    pub fn flags(&mut self, known: u8) -> Read<u8> {
        let flags = self.u8()?;
        match flags & !known {
            0 => Ok(flags),
            unknown => unreadable(format!("unknown flags {unknown:#04x}")),
        }
    }

    /// `None` = the level of the keyspace (request), or no read (receipt).
    pub fn level(&mut self) -> Read<Option<ReadLevel>> {
        Ok(Some(match self.u8()? {
            0 => return Ok(None),
            1 => ReadLevel::Linearizable,
            2 => ReadLevel::Session,
            3 => ReadLevel::Bounded(Duration::from_millis(self.u32()?.into())),
            4 => ReadLevel::Local,
            5 => ReadLevel::One,
            6 => ReadLevel::Quorum,
            7 => ReadLevel::All,
            other => return unreadable(format!("unknown level {other}")),
        }))
    }

    /// How many items follow, each of at least `bytes_min` bytes.
    pub fn count(&mut self, bytes_min: usize) -> Read<usize> {
        let count = self.u32()? as usize;
        self.need(count.saturating_mul(bytes_min))?;
        Ok(count)
    }

    /// As many items as are announced, each of at least `bytes_min` bytes.
    pub fn items<T>(&mut self, bytes_min: usize, mut item: impl FnMut(&mut Self) -> Read<T>) -> Read<Vec<T>> {
        let count = self.count(bytes_min)?;
        (0..count).map(|_| item(self)).collect()
    }

    pub fn finish(self) -> Read<()> {
        match self.0.len() {
            0 => Ok(()),
            left => unreadable(format!("{left} bytes are left over")),
        }
    }
}
