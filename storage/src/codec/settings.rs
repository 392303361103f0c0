//! Settings as bytes, inside a `Configure` and inside the shard's state.
//!
//! ```text
//!   behaviour │ images │ request window │ outcomes per client                                          whole
//!   behaviour │ images + 128 │ request window │ outcomes per client │ epoch │ flags │ start │ end?     with a range
//! ```
//!
//! **Invariant.** Settings have one layout each: whole ones (every key, the first epoch, no leases) are written without
//! a range, so that a log from before ranges were known still gives the same bytes and the same rolling hash.

use super::{Reader, Writer, flag};
use crate::{
    command::{Images, Settings},
    error::StorageError,
};
use kvorum_api::PlacementRange;

/// Bytes of whole settings.
const SETTINGS_BYTES: usize = 4 + 1 + 8 + 4;

/// Added to the number of the images when epoch, flags and range follow.
const WITH_RANGE: u8 = 0x80;

const HAS_LEASES: u8 = 1;
const HAS_END: u8 = 2;

/// Whether settings say nothing that the layout without a range cannot say.
fn is_whole(settings: &Settings) -> bool {
    settings.range == PlacementRange::all() && settings.epoch == 1 && !settings.has_leases
}

/// How many bytes settings take.
pub(super) fn settings_bytes(settings: &Settings) -> usize {
    if is_whole(settings) {
        return SETTINGS_BYTES;
    }
    let end = settings.range.end.as_ref().map_or(0, |end| 4 + end.len());
    SETTINGS_BYTES + 8 + 1 + 4 + settings.range.start.len() + end
}

/// Adds settings to a record.
pub(crate) fn put_settings(writer: &mut Writer, settings: &Settings) {
    let with_range = flag(WITH_RANGE, !is_whole(settings));
    writer.u32(settings.behaviour);
    writer.u8(settings.images as u8 | with_range);
    writer.u64(settings.request_window_ms);
    writer.u32(settings.request_outcomes_max);
    if with_range != 0 {
        writer.u64(settings.epoch);
        writer.u8(flag(HAS_LEASES, settings.has_leases) | flag(HAS_END, settings.range.end.is_some()));
        writer.bytes(&settings.range.start);
        if let Some(end) = &settings.range.end {
            writer.bytes(end);
        }
    }
}

/// The reverse of [`put_settings`]. An unknown behaviour decodes: `apply` is what refuses it, by name.
pub(crate) fn settings(reader: &mut Reader) -> Result<Settings, StorageError> {
    let behaviour = reader.u32()?;
    let number = reader.u8()?;
    let images = match number & !WITH_RANGE {
        1 => Images::Keys,
        2 => Images::New,
        3 => Images::NewAndOld,
        _ => return Err(reader.unknown(format!("images {number}"))),
    };
    let mut settings = Settings {
        behaviour,
        images,
        request_window_ms: reader.u64()?,
        request_outcomes_max: reader.u32()?,
        range: PlacementRange::all(),
        epoch: 1,
        has_leases: false,
    };
    if number & WITH_RANGE != 0 {
        settings.epoch = reader.u64()?;
        let flags = reader.flags(HAS_LEASES | HAS_END)?;
        settings.has_leases = flags & HAS_LEASES != 0;
        settings.range.start = reader.bytes()?;
        settings.range.end = if flags & HAS_END != 0 { Some(reader.bytes()?) } else { None };
        if is_whole(&settings) {
            return Err(reader.unknown("whole settings in the layout with a range"));
        }
    }
    Ok(settings)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;

    /// Whole settings, and settings with a range of their own.
    pub(crate) fn any_settings() -> impl Strategy<Value = Settings> {
        let images = prop_oneof![Just(Images::Keys), Just(Images::New), Just(Images::NewAndOld)];
        let key = || proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from);
        let ends = (prop_oneof![Just(Bytes::new()), key()], proptest::option::of(key()));
        let range = ends.prop_map(|(start, end)| PlacementRange { start, end });
        let reach =
            (prop_oneof![Just(PlacementRange::all()), range], prop_oneof![Just(1), any::<u64>()], any::<bool>());
        (any::<u32>(), images, any::<u64>(), any::<u32>(), reach).prop_map(
            |(behaviour, images, request_window_ms, request_outcomes_max, (range, epoch, has_leases))| Settings {
                behaviour,
                images,
                request_window_ms,
                request_outcomes_max,
                range,
                epoch,
                has_leases,
            },
        )
    }

    fn record(settings: &Settings) -> Bytes {
        let mut writer = Writer::new(1, settings_bytes(settings));
        put_settings(&mut writer, settings);
        writer.finish()
    }

    fn read(bytes: &[u8]) -> Result<Settings, StorageError> {
        let mut reader = Reader::open("settings", Bytes::copy_from_slice(bytes), 1)?;
        let read = settings(&mut reader)?;
        reader.end()?;
        Ok(read)
    }

    proptest! {
        #[test]
        fn settings_read_back_and_their_size_is_known_before(settings in any_settings()) {
            let bytes = record(&settings);
            prop_assert_eq!(bytes.len(), 1 + settings_bytes(&settings));
            prop_assert_eq!(read(&bytes).unwrap(), settings);
        }
    }

    #[test]
    fn fuzz_any_bytes_are_refused_or_read_as_exactly_what_they_say() {
        bolero::check!().with_iterations(2_000).with_max_len(60).for_each(|input: &[u8]| {
            // Most bytes are no settings within their first two fields; these get further.
            let images = input.first().copied().unwrap_or_default() & WITH_RANGE | 2;
            for bytes in [input, &[&[1, 0, 0, 0, 1, images], input].concat()] {
                if let Ok(settings) = read(bytes) {
                    assert_eq!(record(&settings), bytes);
                }
            }
        });
    }

    #[test]
    fn whole_settings_are_what_they_were() {
        let (range, epoch) = (PlacementRange::all(), 1);
        let (images, request_window_ms, request_outcomes_max) = (Images::New, 13, 14);
        let whole =
            Settings { behaviour: 1, images, request_window_ms, request_outcomes_max, range, epoch, has_leases: false };
        let fixture: &[u8] = &[1, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0, 0, 13, 0, 0, 0, 14];
        assert_eq!(record(&whole), fixture);
        assert_eq!(read(fixture).unwrap(), whole);
    }

    #[test]
    fn settings_with_a_range_are_what_they_were() {
        let settings = |start: &'static str, end: Option<&'static str>, epoch| {
            let range = PlacementRange { start: start.into(), end: end.map(Bytes::from) };
            let (images, request_window_ms, request_outcomes_max) = (Images::NewAndOld, 2, 3);
            Settings { behaviour: 1, images, request_window_ms, request_outcomes_max, range, epoch, has_leases: true }
        };
        #[rustfmt::skip]
        let fixtures: [(Settings, &[u8]); 2] = [
            (settings("b", Some("d"), 9), &[
                1,  0, 0, 0, 1,  131,  0, 0, 0, 0, 0, 0, 0, 2,  0, 0, 0, 3,
                0, 0, 0, 0, 0, 0, 0, 9,  3,  0, 0, 0, 1, b'b',  0, 0, 0, 1, b'd',
            ]),
            (settings("", None, 1), &[
                1,  0, 0, 0, 1,  131,  0, 0, 0, 0, 0, 0, 0, 2,  0, 0, 0, 3,
                0, 0, 0, 0, 0, 0, 0, 1,  1,  0, 0, 0, 0,
            ]),
        ];
        for (settings, fixture) in fixtures {
            assert_eq!(record(&settings), fixture);
            assert_eq!(read(fixture).unwrap(), settings);
        }
    }

    #[test]
    fn whole_settings_in_the_layout_with_a_range_are_refused() {
        #[rustfmt::skip]
        let bytes: &[u8] = &[
            1,  0, 0, 0, 1,  129,  0, 0, 0, 0, 0, 0, 0, 2,  0, 0, 0, 3,
            0, 0, 0, 0, 0, 0, 0, 1,  0,  0, 0, 0, 0,
        ];
        assert!(read(bytes).is_err());
    }
}
