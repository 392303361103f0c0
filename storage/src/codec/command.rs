//! Proposals and commands as bytes.
//!
//! ```text
//!   command    1 write │ request? │ count │ operation …      2 expire │ up_to_ms      3 configure │ settings
//!   request?   0                    1 │ client │ sequence │ first sent │ lowest unanswered
//!   operation  1 put │ flags │ ttl_ms? │ condition │ key │ value
//!              2 delete │ flags │ condition │ key            3 increment │ flags │ key │ delta
//!   condition  0 always   1 absent   2 present   3 version │ 24 bytes   4 value │ bytes
//! ```

use super::{
    Reader, Writer, flag,
    settings::{put_settings, settings, settings_bytes},
};
use crate::{
    command::{Command, Condition, Operation, Proposal, RequestId, WriteCommand},
    error::StorageError,
};
use bytes::Bytes;

/// The format of proposals this build writes.
const FORMAT: u8 = 1;

/// Bytes of a proposal before its commands.
const HEADER_BYTES: usize = 1 + 8 + 8 + 16 + 4;

const WRITE: u8 = 1;
const EXPIRE: u8 = 2;
const CONFIGURE: u8 = 3;

const PUT: u8 = 1;
const DELETE: u8 = 2;
const INCREMENT: u8 = 3;

const RETURN_PREVIOUS: u8 = 1;
const HAS_TTL: u8 = 2;

/// A proposal as bytes.
#[must_use]
pub fn encode_proposal(proposal: &Proposal) -> Bytes {
    let capacity = HEADER_BYTES + proposal.commands.iter().map(encoded_command_bytes).sum::<usize>();
    let mut writer = Writer::new(FORMAT, capacity);
    writer.u64(proposal.time_ms);
    writer.u64(proposal.stamp.0);
    writer.actor(proposal.actor);
    writer.count(proposal.commands.len());
    for command in &proposal.commands {
        put_command(&mut writer, command);
    }
    writer.finish()
}

/// The reverse of [`encode_proposal`]. Keys and values share the memory of `bytes`.
///
/// # Errors
/// A format this build does not know, or bytes that are none.
pub fn decode_proposal(bytes: Bytes) -> Result<Proposal, StorageError> {
    let mut reader = Reader::open("proposal", bytes, FORMAT)?;
    let (time_ms, stamp, actor) = (reader.u64()?, reader.stamp()?, reader.actor()?);
    let count = reader.count(6)?;
    let commands = (0..count).map(|_| command(&mut reader)).collect::<Result<_, _>>()?;
    reader.end()?;
    Ok(Proposal { time_ms, stamp, actor, commands })
}

/// How many bytes a command adds to a proposal.
#[must_use]
pub fn encoded_command_bytes(command: &Command) -> usize {
    match command {
        Command::Write(write) => {
            let request = if write.request.is_some() { 1 + 16 + 3 * 8 } else { 1 };
            1 + request + 4 + write.operations.iter().map(operation_bytes).sum::<usize>()
        }
        Command::Expire { .. } => 1 + 8,
        Command::Configure(settings) => 1 + settings_bytes(settings),
    }
}

fn operation_bytes(operation: &Operation) -> usize {
    match operation {
        Operation::Put { key, value, ttl_ms, condition, .. } => {
            2 + 8 * usize::from(ttl_ms.is_some()) + condition_bytes(condition) + 4 + key.len() + 4 + value.len()
        }
        Operation::Delete { key, condition, .. } => 2 + condition_bytes(condition) + 4 + key.len(),
        Operation::Increment { key, .. } => 2 + 4 + key.len() + 8,
    }
}

fn condition_bytes(condition: &Condition) -> usize {
    match condition {
        Condition::Always | Condition::Absent | Condition::Present => 1,
        Condition::Version(_) => 1 + 24,
        Condition::Value(value) => 1 + 4 + value.len(),
    }
}

fn put_command(writer: &mut Writer, command: &Command) {
    match command {
        Command::Write(write) => {
            writer.u8(WRITE);
            put_request(writer, write.request.as_ref());
            writer.count(write.operations.len());
            for operation in &write.operations {
                put_operation(writer, operation);
            }
        }
        Command::Expire { up_to_ms } => {
            writer.u8(EXPIRE);
            writer.u64(*up_to_ms);
        }
        Command::Configure(settings) => {
            writer.u8(CONFIGURE);
            put_settings(writer, settings);
        }
    }
}

fn command(reader: &mut Reader) -> Result<Command, StorageError> {
    Ok(match reader.u8()? {
        WRITE => {
            let request = request(reader)?;
            let count = reader.count(6)?;
            let operations = (0..count).map(|_| operation(reader)).collect::<Result<_, _>>()?;
            Command::Write(WriteCommand { request, operations })
        }
        EXPIRE => Command::Expire { up_to_ms: reader.u64()? },
        CONFIGURE => Command::Configure(settings(reader)?),
        other => return Err(reader.unknown(format!("command {other}"))),
    })
}

fn put_request(writer: &mut Writer, request: Option<&RequestId>) {
    let Some(request) = request else { return writer.u8(0) };
    writer.u8(1);
    writer.u128(request.client);
    writer.u64(request.sequence);
    writer.u64(request.first_sent.0);
    writer.u64(request.lowest_unanswered);
}

fn request(reader: &mut Reader) -> Result<Option<RequestId>, StorageError> {
    if reader.flags(1)? == 0 {
        return Ok(None);
    }
    Ok(Some(RequestId {
        client: reader.u128()?,
        sequence: reader.u64()?,
        first_sent: reader.stamp()?,
        lowest_unanswered: reader.u64()?,
    }))
}

fn put_operation(writer: &mut Writer, operation: &Operation) {
    match operation {
        Operation::Put { key, value, ttl_ms, condition, return_previous } => {
            writer.u8(PUT);
            writer.u8(flag(RETURN_PREVIOUS, *return_previous) | flag(HAS_TTL, ttl_ms.is_some()));
            if let Some(ttl_ms) = ttl_ms {
                writer.u64(*ttl_ms);
            }
            put_condition(writer, condition);
            writer.bytes(key);
            writer.bytes(value);
        }
        Operation::Delete { key, condition, return_previous } => {
            writer.u8(DELETE);
            writer.u8(flag(RETURN_PREVIOUS, *return_previous));
            put_condition(writer, condition);
            writer.bytes(key);
        }
        Operation::Increment { key, delta, return_previous } => {
            writer.u8(INCREMENT);
            writer.u8(flag(RETURN_PREVIOUS, *return_previous));
            writer.bytes(key);
            writer.i64(*delta);
        }
    }
}

fn operation(reader: &mut Reader) -> Result<Operation, StorageError> {
    Ok(match reader.u8()? {
        PUT => {
            let flags = reader.flags(RETURN_PREVIOUS | HAS_TTL)?;
            let ttl_ms = if flags & HAS_TTL != 0 { Some(reader.u64()?) } else { None };
            let condition = condition(reader)?;
            let (key, value) = (reader.bytes()?, reader.bytes()?);
            Operation::Put { key, value, ttl_ms, condition, return_previous: flags & RETURN_PREVIOUS != 0 }
        }
        DELETE => {
            let flags = reader.flags(RETURN_PREVIOUS)?;
            let condition = condition(reader)?;
            Operation::Delete { key: reader.bytes()?, condition, return_previous: flags != 0 }
        }
        INCREMENT => {
            let flags = reader.flags(RETURN_PREVIOUS)?;
            Operation::Increment { key: reader.bytes()?, delta: reader.i64()?, return_previous: flags != 0 }
        }
        other => return Err(reader.unknown(format!("operation {other}"))),
    })
}

fn put_condition(writer: &mut Writer, condition: &Condition) {
    match condition {
        Condition::Always => writer.u8(0),
        Condition::Absent => writer.u8(1),
        Condition::Present => writer.u8(2),
        Condition::Version(version) => {
            writer.u8(3);
            writer.version(*version);
        }
        Condition::Value(value) => {
            writer.u8(4);
            writer.bytes(value);
        }
    }
}

fn condition(reader: &mut Reader) -> Result<Condition, StorageError> {
    Ok(match reader.u8()? {
        0 => Condition::Always,
        1 => Condition::Absent,
        2 => Condition::Present,
        3 => Condition::Version(reader.version()?),
        4 => Condition::Value(reader.bytes()?),
        other => return Err(reader.unknown(format!("condition {other}"))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spoil::raw_and_spoiled;
    use crate::{
        codec::settings::tests::any_settings,
        command::{Images, Settings},
    };
    use kvorum_api::{Actor, NodeId, PlacementRange, Stamp, StartCount, Version};
    use proptest::prelude::*;

    fn small_bytes() -> impl Strategy<Value = Bytes> {
        proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from)
    }

    fn actor() -> impl Strategy<Value = Actor> {
        (any::<u64>(), any::<u64>()).prop_map(|(node, start)| Actor { node: NodeId(node), start: StartCount(start) })
    }

    fn any_condition() -> impl Strategy<Value = Condition> {
        prop_oneof![
            Just(Condition::Always),
            Just(Condition::Absent),
            Just(Condition::Present),
            (any::<u64>(), actor())
                .prop_map(|(stamp, actor)| Condition::Version(Version { stamp: Stamp(stamp), actor })),
            small_bytes().prop_map(Condition::Value),
        ]
    }

    fn any_operation() -> impl Strategy<Value = Operation> {
        prop_oneof![
            (small_bytes(), small_bytes(), any::<Option<u64>>(), any_condition(), any::<bool>()).prop_map(
                |(key, value, ttl_ms, condition, return_previous)| Operation::Put {
                    key,
                    value,
                    ttl_ms,
                    condition,
                    return_previous
                }
            ),
            (small_bytes(), any_condition(), any::<bool>())
                .prop_map(|(key, condition, return_previous)| Operation::Delete { key, condition, return_previous }),
            (small_bytes(), any::<i64>(), any::<bool>())
                .prop_map(|(key, delta, return_previous)| Operation::Increment { key, delta, return_previous }),
        ]
    }

    fn any_command() -> impl Strategy<Value = Command> {
        let request = proptest::option::of((any::<u128>(), any::<u64>(), any::<u64>(), any::<u64>()).prop_map(
            |(client, sequence, first_sent, lowest_unanswered)| RequestId {
                client,
                sequence,
                first_sent: Stamp(first_sent),
                lowest_unanswered,
            },
        ));
        prop_oneof![
            (request, proptest::collection::vec(any_operation(), 0..4))
                .prop_map(|(request, operations)| Command::Write(WriteCommand { request, operations })),
            any::<u64>().prop_map(|up_to_ms| Command::Expire { up_to_ms }),
            any_settings().prop_map(Command::Configure),
        ]
    }

    fn any_proposal() -> impl Strategy<Value = Proposal> {
        (any::<u64>(), any::<u64>(), actor(), proptest::collection::vec(any_command(), 0..5))
            .prop_map(|(time_ms, stamp, actor, commands)| Proposal { time_ms, stamp: Stamp(stamp), actor, commands })
    }

    proptest! {
        #[test]
        fn a_proposal_reads_back_and_its_size_is_known_before(proposal in any_proposal()) {
            let bytes = encode_proposal(&proposal);
            let commands: usize = proposal.commands.iter().map(encoded_command_bytes).sum();
            prop_assert_eq!(bytes.len(), HEADER_BYTES + commands);
            prop_assert_eq!(decode_proposal(bytes).unwrap(), proposal);
        }

        #[test]
        fn a_damaged_proposal_never_panics(
            proposal in any_proposal(),
            at in any::<prop::sample::Index>(),
            bit in 0..8u32,
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = encode_proposal(&proposal).to_vec();
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            bytes.truncate(cut.index(bytes.len() + 1));
            let bytes = Bytes::from(bytes);
            if let Ok(read) = decode_proposal(bytes.clone()) {
                prop_assert_eq!(encode_proposal(&read), bytes);
            }
        }
    }

    #[test]
    fn fuzz_any_bytes_are_refused_or_read_as_exactly_what_they_say() {
        let sound = encode_proposal(&whole_proposal());
        bolero::check!().with_iterations(2_000).with_max_len(160).for_each(|input: &[u8]| {
            for bytes in raw_and_spoiled(&sound, input) {
                if let Ok(proposal) = decode_proposal(bytes.clone()) {
                    assert_eq!(encode_proposal(&proposal), bytes);
                }
            }
        });
    }

    /// Something of everything.
    fn whole_proposal() -> Proposal {
        Proposal {
            time_ms: 0x0102,
            stamp: Stamp(0x0304),
            actor: Actor { node: NodeId(5), start: StartCount(6) },
            commands: vec![
                Command::Write(WriteCommand {
                    request: Some(RequestId { client: 7, sequence: 8, first_sent: Stamp(9), lowest_unanswered: 10 }),
                    operations: vec![
                        Operation::Put {
                            key: "k".into(),
                            value: "v".into(),
                            ttl_ms: Some(11),
                            condition: Condition::Value("w".into()),
                            return_previous: true,
                        },
                        Operation::Delete { key: "d".into(), condition: Condition::Present, return_previous: false },
                        Operation::Increment { key: "i".into(), delta: -1, return_previous: true },
                    ],
                }),
                Command::Expire { up_to_ms: 12 },
                Command::Configure(Settings {
                    behaviour: 1,
                    images: Images::New,
                    request_window_ms: 13,
                    request_outcomes_max: 14,
                    range: PlacementRange::all(),
                    epoch: 1,
                    has_leases: false,
                }),
            ],
        }
    }

    #[test]
    fn format_1_is_what_it_was() {
        let proposal = whole_proposal();
        #[rustfmt::skip]
        let fixture: &[u8] = &[
            1,  0, 0, 0, 0, 0, 0, 1, 2,  0, 0, 0, 0, 0, 0, 3, 4,
            0, 0, 0, 0, 0, 0, 0, 5,  0, 0, 0, 0, 0, 0, 0, 6,  0, 0, 0, 3,
            // The write, its request id, its operations.
            1,  1,  0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7,  0, 0, 0, 0, 0, 0, 0, 8,
            0, 0, 0, 0, 0, 0, 0, 9,  0, 0, 0, 0, 0, 0, 0, 10,  0, 0, 0, 3,
            1, 3,  0, 0, 0, 0, 0, 0, 0, 11,  4, 0, 0, 0, 1, b'w',  0, 0, 0, 1, b'k',  0, 0, 0, 1, b'v',
            2, 0,  2,  0, 0, 0, 1, b'd',
            3, 1,  0, 0, 0, 1, b'i',  255, 255, 255, 255, 255, 255, 255, 255,
            2,  0, 0, 0, 0, 0, 0, 0, 12,
            3,  0, 0, 0, 1,  2,  0, 0, 0, 0, 0, 0, 0, 13,  0, 0, 0, 14,
        ];
        assert_eq!(encode_proposal(&proposal), fixture);
        assert_eq!(decode_proposal(Bytes::from_static(fixture)).unwrap(), proposal);
        let unknown = decode_proposal(Bytes::from_static(&[2])).unwrap_err();
        assert_eq!(unknown.to_string(), "unknown format of proposal: format 2");
    }
}
