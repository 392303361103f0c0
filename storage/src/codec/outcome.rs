//! Outcomes as bytes.
//!
//! ```text
//!   outcome    1 written │ flags │ count │ result …     2 request id expired │ why
//!              3 expired │ removed │ more               4 configured
//!              5 out of range │ epoch                   6 configure refused │ epoch
//!   result     status │ flags │ number? │ version? │ previous
//!   previous   0 not asked   1 absent   2 found │ entry   3 forgotten │ version
//! ```

use super::{Reader, Writer};
use crate::{
    command::{ExpiredBecause, OperationResult, OperationStatus, Outcome, Previous},
    entry::Entry,
    error::StorageError,
};
use bytes::Bytes;

/// The format of outcomes this build writes.
const FORMAT: u8 = 1;

const WRITTEN: u8 = 1;
const REQUEST_ID_EXPIRED: u8 = 2;
const EXPIRED: u8 = 3;
const CONFIGURED: u8 = 4;
const OUT_OF_RANGE: u8 = 5;
const CONFIGURE_REFUSED: u8 = 6;

const APPLIED: u8 = 1;
const REPEATED: u8 = 2;

const HAS_NUMBER: u8 = 1;
const HAS_VERSION: u8 = 2;

/// Outcomes as bytes.
#[must_use]
pub fn encode_outcomes(outcomes: &[Outcome]) -> Bytes {
    let mut writer = Writer::new(FORMAT, 4 + 64 * outcomes.len());
    writer.count(outcomes.len());
    for outcome in outcomes {
        put_outcome(&mut writer, outcome);
    }
    writer.finish()
}

/// The reverse of [`encode_outcomes`].
///
/// # Errors
/// A format this build does not know, or bytes that are none.
pub fn decode_outcomes(bytes: Bytes) -> Result<Vec<Outcome>, StorageError> {
    let mut reader = Reader::open("outcomes", bytes, FORMAT)?;
    let count = reader.count(1)?;
    let outcomes = (0..count).map(|_| outcome(&mut reader)).collect::<Result<_, _>>()?;
    reader.end()?;
    Ok(outcomes)
}

pub(crate) fn put_outcome(writer: &mut Writer, outcome: &Outcome) {
    match outcome {
        Outcome::Written { applied, repeated, results } => {
            writer.u8(WRITTEN);
            writer.u8(if *applied { APPLIED } else { 0 } | if *repeated { REPEATED } else { 0 });
            writer.count(results.len());
            for result in results {
                put_result(writer, result);
            }
        }
        Outcome::RequestIdExpired { why } => {
            writer.u8(REQUEST_ID_EXPIRED);
            writer.u8(match why {
                ExpiredBecause::TooOld => 1,
                ExpiredBecause::BelowFloor => 2,
            });
        }
        Outcome::Expired { removed, more } => {
            writer.u8(EXPIRED);
            writer.u32(*removed);
            writer.u8(u8::from(*more));
        }
        Outcome::Configured => writer.u8(CONFIGURED),
        Outcome::OutOfRange { epoch } => {
            writer.u8(OUT_OF_RANGE);
            writer.u64(*epoch);
        }
        Outcome::ConfigureRefused { epoch } => {
            writer.u8(CONFIGURE_REFUSED);
            writer.u64(*epoch);
        }
    }
}

pub(crate) fn outcome(reader: &mut Reader) -> Result<Outcome, StorageError> {
    Ok(match reader.u8()? {
        WRITTEN => {
            let flags = reader.flags(APPLIED | REPEATED)?;
            let count = reader.count(3)?;
            let results = (0..count).map(|_| result(reader)).collect::<Result<_, _>>()?;
            Outcome::Written { applied: flags & APPLIED != 0, repeated: flags & REPEATED != 0, results }
        }
        REQUEST_ID_EXPIRED => Outcome::RequestIdExpired {
            why: match reader.u8()? {
                1 => ExpiredBecause::TooOld,
                2 => ExpiredBecause::BelowFloor,
                other => return Err(reader.unknown(format!("reason {other}"))),
            },
        },
        EXPIRED => Outcome::Expired { removed: reader.u32()?, more: reader.flags(1)? != 0 },
        CONFIGURED => Outcome::Configured,
        OUT_OF_RANGE => Outcome::OutOfRange { epoch: reader.u64()? },
        CONFIGURE_REFUSED => Outcome::ConfigureRefused { epoch: reader.u64()? },
        other => return Err(reader.unknown(format!("outcome {other}"))),
    })
}

fn put_result(writer: &mut Writer, result: &OperationResult) {
    writer.u8(result.status as u8);
    let number = if result.number.is_some() { HAS_NUMBER } else { 0 };
    writer.u8(number | if result.version.is_some() { HAS_VERSION } else { 0 });
    if let Some(number) = result.number {
        writer.i64(number);
    }
    if let Some(version) = result.version {
        writer.version(version);
    }
    match &result.previous {
        Previous::NotAsked => writer.u8(0),
        Previous::Absent => writer.u8(1),
        Previous::Found(entry) => {
            writer.u8(2);
            writer.bytes(&entry.encode());
        }
        Previous::Forgotten(version) => {
            writer.u8(3);
            writer.version(*version);
        }
    }
}

fn result(reader: &mut Reader) -> Result<OperationResult, StorageError> {
    let status = match reader.u8()? {
        0 => OperationStatus::Applied,
        1 => OperationStatus::ConditionFailed,
        2 => OperationStatus::NotANumber,
        3 => OperationStatus::Overflow,
        4 => OperationStatus::Skipped,
        other => return Err(reader.unknown(format!("status {other}"))),
    };
    let flags = reader.flags(HAS_NUMBER | HAS_VERSION)?;
    let number = if flags & HAS_NUMBER != 0 { Some(reader.i64()?) } else { None };
    let version = if flags & HAS_VERSION != 0 { Some(reader.version()?) } else { None };
    let previous = match reader.u8()? {
        0 => Previous::NotAsked,
        1 => Previous::Absent,
        2 => Previous::Found(Entry::decode(reader.bytes()?)?),
        3 => Previous::Forgotten(reader.version()?),
        other => return Err(reader.unknown(format!("previous {other}"))),
    };
    Ok(OperationResult { status, previous, number, version })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::tests::any_entry;
    use crate::spoil::raw_and_spoiled;
    use kvorum_api::{Actor, NodeId, Stamp, StartCount, Version};
    use proptest::prelude::*;

    fn any_result() -> impl Strategy<Value = OperationResult> {
        let status = prop_oneof![
            Just(OperationStatus::Applied),
            Just(OperationStatus::ConditionFailed),
            Just(OperationStatus::NotANumber),
            Just(OperationStatus::Overflow),
            Just(OperationStatus::Skipped),
        ];
        let previous = prop_oneof![
            Just(Previous::NotAsked),
            Just(Previous::Absent),
            any_entry().prop_map(Previous::Found),
            any_entry().prop_map(|entry| Previous::Forgotten(entry.version)),
        ];
        (status, previous, any::<Option<i64>>(), proptest::option::of(any_entry())).prop_map(
            |(status, previous, number, entry)| OperationResult {
                status,
                previous,
                number,
                version: entry.map(|entry| entry.version),
            },
        )
    }

    fn any_outcome() -> impl Strategy<Value = Outcome> {
        prop_oneof![
            (any::<bool>(), any::<bool>(), proptest::collection::vec(any_result(), 0..4))
                .prop_map(|(applied, repeated, results)| Outcome::Written { applied, repeated, results }),
            Just(Outcome::RequestIdExpired { why: ExpiredBecause::TooOld }),
            Just(Outcome::RequestIdExpired { why: ExpiredBecause::BelowFloor }),
            (any::<u32>(), any::<bool>()).prop_map(|(removed, more)| Outcome::Expired { removed, more }),
            Just(Outcome::Configured),
            any::<u64>().prop_map(|epoch| Outcome::OutOfRange { epoch }),
            any::<u64>().prop_map(|epoch| Outcome::ConfigureRefused { epoch }),
        ]
    }

    proptest! {
        #[test]
        fn outcomes_read_back(outcomes in proptest::collection::vec(any_outcome(), 0..5)) {
            prop_assert_eq!(decode_outcomes(encode_outcomes(&outcomes)).unwrap(), outcomes);
        }

        #[test]
        fn damaged_outcomes_never_panic(
            outcomes in proptest::collection::vec(any_outcome(), 0..5),
            at in any::<prop::sample::Index>(),
            bit in 0..8u32,
        ) {
            let mut bytes = encode_outcomes(&outcomes).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            let bytes = Bytes::from(bytes);
            if let Ok(read) = decode_outcomes(bytes.clone()) {
                prop_assert_eq!(encode_outcomes(&read), bytes);
            }
        }
    }

    #[test]
    fn fuzz_any_bytes_are_refused_or_read_as_exactly_what_they_say() {
        let entry =
            |value: &'static str| Entry { version: Version::default(), value: Some(value.into()), expires_ms: None };
        let result = |previous| OperationResult {
            status: OperationStatus::Applied,
            previous,
            number: Some(-1),
            version: Some(Version::default()),
        };
        let results = vec![
            result(Previous::Found(entry("v"))),
            result(Previous::Forgotten(Version::default())),
            result(Previous::Absent),
        ];
        let sound = encode_outcomes(&[
            Outcome::Written { applied: true, repeated: false, results },
            Outcome::RequestIdExpired { why: ExpiredBecause::TooOld },
            Outcome::Expired { removed: 5, more: true },
            Outcome::OutOfRange { epoch: 6 },
        ]);
        bolero::check!().with_iterations(2_000).with_max_len(160).for_each(|input: &[u8]| {
            for bytes in raw_and_spoiled(&sound, input) {
                if let Ok(outcomes) = decode_outcomes(bytes.clone()) {
                    assert_eq!(encode_outcomes(&outcomes), bytes);
                }
            }
        });
    }

    #[test]
    fn format_1_is_what_it_was() {
        let version = Version { stamp: Stamp(1), actor: Actor { node: NodeId(2), start: StartCount(3) } };
        let found = Entry { version, value: Some("v".into()), expires_ms: None };
        let outcomes = vec![
            Outcome::Written {
                applied: true,
                repeated: false,
                results: vec![
                    OperationResult {
                        status: OperationStatus::Applied,
                        previous: Previous::Found(found),
                        number: Some(4),
                        version: Some(version),
                    },
                    OperationResult {
                        status: OperationStatus::Skipped,
                        previous: Previous::NotAsked,
                        number: None,
                        version: None,
                    },
                ],
            },
            Outcome::RequestIdExpired { why: ExpiredBecause::BelowFloor },
            Outcome::Expired { removed: 5, more: true },
            Outcome::Configured,
            Outcome::OutOfRange { epoch: 6 },
            Outcome::ConfigureRefused { epoch: 7 },
        ];
        #[rustfmt::skip]
        let fixture: &[u8] = &[
            1,  0, 0, 0, 6,
            1, 1,  0, 0, 0, 2,
            0, 3,  0, 0, 0, 0, 0, 0, 0, 4,
            0, 0, 0, 0, 0, 0, 0, 1,  0, 0, 0, 0, 0, 0, 0, 2,  0, 0, 0, 0, 0, 0, 0, 3,
            2, 0, 0, 0, 27,  1, 1,
            0, 0, 0, 0, 0, 0, 0, 1,  0, 0, 0, 0, 0, 0, 0, 2,  0, 0, 0, 0, 0, 0, 0, 3,  b'v',
            4, 0,  0,
            2, 2,
            3,  0, 0, 0, 5,  1,
            4,
            5,  0, 0, 0, 0, 0, 0, 0, 6,
            6,  0, 0, 0, 0, 0, 0, 0, 7,
        ];
        assert_eq!(encode_outcomes(&outcomes), fixture);
        assert_eq!(decode_outcomes(Bytes::from_static(fixture)).unwrap(), outcomes);
    }
}
