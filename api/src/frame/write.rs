//! Writes what every part of a frame is made of.

use super::FORMAT;
use crate::{level::ReadLevel, version::Version};
use bytes::{BufMut as _, Bytes, BytesMut};

/// A frame that is being written.
pub(super) struct Writer(BytesMut);

impl Writer {
    /// After the version byte, with room for `bytes` bytes in all.
    pub fn new(bytes: usize) -> Self {
        let mut writer = Writer(BytesMut::with_capacity(bytes));
        writer.u8(FORMAT);
        writer
    }

    pub fn u8(&mut self, number: u8) {
        self.0.put_u8(number);
    }

    pub fn u32(&mut self, number: u32) {
        self.0.put_u32(number);
    }

    pub fn u64(&mut self, number: u64) {
        self.0.put_u64(number);
    }

    pub fn i64(&mut self, number: i64) {
        self.0.put_i64(number);
    }

    pub fn u128(&mut self, number: u128) {
        self.0.put_u128(number);
    }

    pub fn version(&mut self, version: Version) {
        self.0.put_slice(&version.to_bytes());
    }

    pub fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("a frame holds less than 4 GiB"));
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.0.put_slice(bytes);
    }

    pub fn level(&mut self, level: Option<ReadLevel>) {
        match level {
            None => self.u8(0),
            Some(ReadLevel::Linearizable) => self.u8(1),
            Some(ReadLevel::Session) => self.u8(2),
            Some(ReadLevel::Bounded(bound)) => {
                self.u8(3);
                // A bound beyond 49 days asks for nothing.
                self.u32(u32::try_from(bound.as_millis()).unwrap_or(u32::MAX));
            }
            Some(ReadLevel::Local) => self.u8(4),
            Some(ReadLevel::One) => self.u8(5),
            Some(ReadLevel::Quorum) => self.u8(6),
            Some(ReadLevel::All) => self.u8(7),
        }
    }

    pub fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

/// The bits of those that are true, the first one lowest.
pub(super) fn flags<const N: usize>(bits: [bool; N]) -> u8 {
    bits.into_iter().enumerate().fold(0, |flags, (place, bit)| flags | u8::from(bit) << place)
}

/// Bytes of a text or of bytes on the wire.
pub(super) const fn size(bytes: usize) -> usize {
    4 + bytes
}
