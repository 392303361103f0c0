//! # Spoil: what rot and bad luck make of sound bytes
//!
//! ```text
//!   script, four bytes a deed:   place u16 │ deed u8 │ value u8
//! ```
//!
//! Random bytes hardly ever get past the first field of a record. Fuzz targets therefore read their input twice: as the
//! bytes to decode, and as a script that spoils sound ones.
//!
//! **Invariant.** The script alone decides: one input is one spoiled record, for ever, so that an input that once broke
//! a decoder can be kept.
//!
//! **Deliberately absent.** Chance.

use bytes::Bytes;

/// What the script makes of sound bytes.
#[must_use]
pub fn spoiled(sound: &[u8], script: &[u8]) -> Vec<u8> {
    let mut bytes = sound.to_vec();
    for deed in script.chunks_exact(4) {
        let (place, value) = (usize::from(u16::from_be_bytes([deed[0], deed[1]])), deed[3]);
        if deed[2] % 8 == 7 {
            bytes.insert(place % (bytes.len() + 1), value);
            continue;
        }
        if bytes.is_empty() {
            break;
        }
        let at = place % bytes.len();
        match deed[2] % 8 {
            0..=2 => bytes[at] ^= 1 << (value % 8),
            3 => bytes[at] = value,
            // Counts and lengths just above and below what is there.
            4 => bytes[at] = bytes[at].wrapping_add(value % 5).wrapping_sub(2),
            5 => drop(bytes.remove(at)),
            _ => bytes.truncate(at),
        }
    }
    bytes
}

/// The input as it is, and what it makes of sound bytes.
#[must_use]
pub fn raw_and_spoiled(sound: &[u8], input: &[u8]) -> [Bytes; 2] {
    [Bytes::copy_from_slice(input), spoiled(sound, input).into()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_says_what_happens_to_which_byte() {
        assert_eq!(spoiled(b"abcd", &[]), b"abcd");
        assert_eq!(spoiled(b"abcd", &[0, 1, 0, 0]), b"accd", "a bit");
        assert_eq!(spoiled(b"abcd", &[0, 5, 3, b'x']), b"axcd", "places wrap");
        assert_eq!(spoiled(b"abcd", &[0, 0, 4, 3]), b"bbcd", "one more");
        assert_eq!(spoiled(b"abcd", &[0, 0, 5, 0, 0, 2, 6, 0]), b"bc", "one after the other");
        assert_eq!(spoiled(b"", &[0, 9, 7, b'x', 0, 0, 5, 0, 0, 0, 5, 0]), b"", "nothing is left to spoil");
        assert_eq!(spoiled(b"abcd", &[0, 4, 7, b'x', 1]), b"abcdx", "half a deed is none");
    }
}
