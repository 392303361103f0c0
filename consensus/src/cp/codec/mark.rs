//! What a follower asks its leader before a `bounded` read, and what it is told (rule R1).

use super::{DecodeError, Reader, begin};
use bytes::{BufMut, Bytes};

/// Up to which index must I have applied, to hold everything that was acknowledged before I asked?
#[must_use]
pub fn encode_mark_request() -> Bytes {
    begin(0).freeze()
}

/// The reverse of [`encode_mark_request`].
///
/// # Errors
/// Other bytes.
pub fn decode_mark_request(bytes: Bytes) -> Result<(), DecodeError> {
    Reader::open(bytes, "question for a mark")?.end()
}

/// Up to this index.
#[must_use]
pub fn encode_mark_reply(index: u64) -> Bytes {
    let mut out = begin(8);
    out.put_u64(index);
    out.freeze()
}

/// The reverse of [`encode_mark_reply`].
///
/// # Errors
/// Other bytes.
pub fn decode_mark_reply(bytes: Bytes) -> Result<u64, DecodeError> {
    let mut reader = Reader::open(bytes, "mark")?;
    let index = reader.u64()?;
    reader.end()?;
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_storage::spoil::raw_and_spoiled;
    use proptest::prelude::*;

    #[test]
    fn version_1_is_what_it_was() {
        assert_eq!(encode_mark_request(), [1_u8].as_slice());
        assert_eq!(encode_mark_reply(0x0102), [1_u8, 0, 0, 0, 0, 0, 0, 1, 2].as_slice());
    }

    proptest! {
        #[test]
        fn any_mark_comes_back(index: u64) {
            prop_assert_eq!(decode_mark_reply(encode_mark_reply(index)), Ok(index));
            prop_assert_eq!(decode_mark_request(encode_mark_request()), Ok(()));
        }
    }

    #[test]
    fn fuzz_any_bytes_are_refused_or_read_as_exactly_what_they_say() {
        let sound = encode_mark_reply(0x0102);
        bolero::check!().with_iterations(1_000).with_max_len(20).for_each(|input: &[u8]| {
            for bytes in raw_and_spoiled(&sound, input) {
                if decode_mark_request(bytes.clone()).is_ok() {
                    assert_eq!(encode_mark_request(), bytes);
                }
                if let Ok(index) = decode_mark_reply(bytes.clone()) {
                    assert_eq!(encode_mark_reply(index), bytes);
                }
            }
        });
    }
}
