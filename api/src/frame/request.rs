//! What a client asks, many calls at once.
//!
//! ```text
//!   call       kind (1) │ id (8) │ deadline ms (4) │ epoch (8) │ …
//!   get        1 … level (1 or 5) │ key
//!   put        2 … request │ operation         delete 3, increment 4 likewise
//!   batch      5 … request │ count (4) │ kind (1) operation …
//!   request    0 │ or 1, sequence (8), first sent (8)
//!   operation  put        flags (1) │ condition │ key │ value │ ttl ms (8)?
//!              delete     flags (1) │ condition │ key
//!              increment  flags (1) │ delta (8) │ key
//!   condition  0 none │ 1 absent │ 2 version (24) │ 3 value │ 4 present
//! ```
//!
//! What operations say here resembles what the log says of them (`storage/src/command.rs`), and is kept apart on
//! purpose: keys are the client's here and placement keys there; a frame changes with its clients, and what is in a log
//! must be read for ever.

use super::{
    BYTES_MAX, CALLS_MAX, FrameUnreadable, OPERATIONS_MAX,
    read::{Read, Reader},
    unreadable,
    write::{Writer, flags, size},
};
use crate::{
    level::ReadLevel,
    version::{Stamp, Version},
};
use bytes::Bytes;

const RETURNS_PREVIOUS: u8 = 1;
const HAS_TTL: u8 = 2;

const CALL_BYTES_MIN: usize = 1 + 8 + 4 + 8;
const OPERATION_BYTES_MIN: usize = 1 + 1 + 1 + 4;

/// One frame of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// The keyspace of every call in it, by name.
    pub keyspace: String,
    /// The highest stamp this client got, plus the monotonic time since; 0 = none yet.
    pub stamp: Stamp,
    /// Who asks, in the ids of its writes; chosen once per client instance.
    pub client: u128,
    /// Shards forget every outcome of this client below it.
    pub lowest_unanswered: u64,
    /// W3C trace context, empty = none.
    pub traceparent: String,
    /// What this session has seen, empty = nothing. Needed by level session.
    pub session_token: Bytes,
    /// At most [`CALLS_MAX`].
    pub calls: Vec<Call>,
}

/// One request within a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// Repeated by the answer; unique among the calls of this stream that are not answered.
    pub id: u64,
    /// How long the caller waits from now on, milliseconds; 0 = the server's default.
    pub deadline_ms: u32,
    /// The epoch of the shard, as the client knows it; 0 = whatever the server knows.
    pub epoch: u64,
    /// What is asked.
    pub body: Body,
}

/// What a call asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// One key.
    Get {
        /// Which.
        key: Bytes,
        /// `None` = the keyspace's own.
        level: Option<ReadLevel>,
    },
    /// One change.
    Single {
        /// What makes it safe to repeat.
        request: Option<RequestParts>,
        /// The change.
        operation: Operation,
    },
    /// Several changes, atomic within one shard.
    Batch {
        /// What makes it safe to repeat.
        request: Option<RequestParts>,
        /// The changes.
        operations: Vec<Operation>,
    },
}

/// The parts of a request id that its frame does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestParts {
    /// Grows by one per request, starts at 1.
    pub sequence: u64,
    /// The client's stamp when the request was first sent.
    pub first_sent: Stamp,
}

/// What must hold for a change to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    None,
    /// There is no entry.
    Absent,
    /// The entry has this version.
    Version(Version),
    /// The entry has this value.
    Value(Bytes),
    /// There is an entry.
    Present,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sets a value.
    Put {
        /// Of this key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// How long it lives at least, milliseconds; `None` = it stays.
        ttl_ms: Option<u64>,
        /// If this holds.
        condition: Condition,
        /// Whether to answer with the entry there was.
        return_previous: bool,
    },
    /// Removes an entry.
    Delete {
        /// Of this key.
        key: Bytes,
        /// If this holds.
        condition: Condition,
        /// Whether to answer with the entry there was.
        return_previous: bool,
    },
    /// Adds to a number.
    Increment {
        /// Of this key.
        key: Bytes,
        /// How much.
        delta: i64,
        /// Whether to answer with the entry there was.
        return_previous: bool,
    },
}

impl Request {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut writer = Writer::new(self.size());
        writer.u64(self.stamp.0);
        writer.u128(self.client);
        writer.u64(self.lowest_unanswered);
        writer.bytes(self.keyspace.as_bytes());
        writer.bytes(self.traceparent.as_bytes());
        writer.bytes(&self.session_token);
        writer.count(self.calls.len());
        self.calls.iter().for_each(|call| call.write(&mut writer));
        writer.finish()
    }

    /// Bytes of its encoding, exactly.
    #[must_use]
    pub fn size(&self) -> usize {
        let header = 1 + 8 + 16 + 8 + 4;
        let texts = size(self.keyspace.len()) + size(self.traceparent.len()) + size(self.session_token.len());
        header + texts + self.calls.iter().map(Call::size).sum::<usize>()
    }

    /// The reverse of [`Request::encode`].
    ///
    /// # Errors
    /// Other bytes, or more calls, operations or bytes than one frame may have.
    pub fn decode(frame: Bytes) -> Result<Self, FrameUnreadable> {
        let bytes = frame.len();
        let mut reader = Reader::new(frame)?;
        let mut request = Request {
            stamp: Stamp(reader.u64()?),
            client: reader.u128()?,
            lowest_unanswered: reader.u64()?,
            keyspace: reader.text()?,
            traceparent: reader.text()?,
            session_token: reader.bytes()?,
            calls: Vec::new(),
        };
        // Judged before they are read: small calls are larger here than on the wire.
        let calls = reader.count(CALL_BYTES_MIN)?;
        if calls > CALLS_MAX {
            return unreadable(format!("has {calls} calls, the limit frame_calls_max is {CALLS_MAX}: send several"));
        }
        if bytes > BYTES_MAX && calls > 1 {
            return unreadable(format!(
                "has {bytes} bytes in {calls} calls, the limit frame_bytes_max is {BYTES_MAX}: send several, a larger \
                 call alone"
            ));
        }
        let mut operations_left = OPERATIONS_MAX;
        for _ in 0..calls {
            request.calls.push(Call::read(&mut reader, &mut operations_left)?);
        }
        reader.finish()?;
        Ok(request)
    }
}

impl Call {
    /// Bytes of its encoding, exactly: frames are cut by it.
    #[must_use]
    pub fn size(&self) -> usize {
        CALL_BYTES_MIN
            + match &self.body {
                Body::Get { key, level } => level_size(*level) + size(key.len()),
                Body::Single { request, operation } => parts_size(*request) + operation.size(),
                Body::Batch { request, operations } => {
                    let each = operations.iter().map(|operation| 1 + operation.size());
                    parts_size(*request) + 4 + each.sum::<usize>()
                }
            }
    }

    fn kind(&self) -> u8 {
        match &self.body {
            Body::Get { .. } => 1,
            Body::Single { operation, .. } => 1 + operation.kind(),
            Body::Batch { .. } => 5,
        }
    }

    fn write(&self, writer: &mut Writer) {
        writer.u8(self.kind());
        writer.u64(self.id);
        writer.u32(self.deadline_ms);
        writer.u64(self.epoch);
        match &self.body {
            Body::Get { key, level } => {
                writer.level(*level);
                writer.bytes(key);
            }
            Body::Single { request, operation } => {
                write_parts(writer, *request);
                operation.write(writer);
            }
            Body::Batch { request, operations } => {
                write_parts(writer, *request);
                writer.count(operations.len());
                for operation in operations {
                    writer.u8(operation.kind());
                    operation.write(writer);
                }
            }
        }
    }

    fn read(reader: &mut Reader, operations_left: &mut usize) -> Read<Self> {
        let kind = reader.u8()?;
        let (id, deadline_ms, epoch) = (reader.u64()?, reader.u32()?, reader.u64()?);
        let body = match kind {
            1 => {
                let level = reader.level()?;
                Body::Get { key: reader.bytes()?, level }
            }
            2..=4 => Body::Single { request: read_parts(reader)?, operation: Operation::read(kind - 1, reader)? },
            5 => Body::Batch { request: read_parts(reader)?, operations: read_batch(reader, operations_left)? },
            other => return unreadable(format!("unknown kind of call {other}")),
        };
        Ok(Call { id, deadline_ms, epoch, body })
    }
}

impl Operation {
    /// The key it is about.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Operation::Put { key, .. } | Operation::Delete { key, .. } | Operation::Increment { key, .. } => key,
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Operation::Put { .. } => 1,
            Operation::Delete { .. } => 2,
            Operation::Increment { .. } => 3,
        }
    }

    fn size(&self) -> usize {
        1 + match self {
            Operation::Put { key, value, ttl_ms, condition, .. } => {
                condition.size() + size(key.len()) + size(value.len()) + ttl_ms.map_or(0, |_| 8)
            }
            Operation::Delete { key, condition, .. } => condition.size() + size(key.len()),
            Operation::Increment { key, .. } => 8 + size(key.len()),
        }
    }

    fn write(&self, writer: &mut Writer) {
        match self {
            Operation::Put { key, value, ttl_ms, condition, return_previous } => {
                writer.u8(flags([*return_previous, ttl_ms.is_some()]));
                condition.write(writer);
                writer.bytes(key);
                writer.bytes(value);
                ttl_ms.iter().for_each(|ttl_ms| writer.u64(*ttl_ms));
            }
            Operation::Delete { key, condition, return_previous } => {
                writer.u8(flags([*return_previous]));
                condition.write(writer);
                writer.bytes(key);
            }
            Operation::Increment { key, delta, return_previous } => {
                writer.u8(flags([*return_previous]));
                writer.i64(*delta);
                writer.bytes(key);
            }
        }
    }

    fn read(kind: u8, reader: &mut Reader) -> Read<Self> {
        let flags = match kind {
            1 => reader.flags(RETURNS_PREVIOUS | HAS_TTL)?,
            2 | 3 => reader.flags(RETURNS_PREVIOUS)?,
            other => return unreadable(format!("unknown kind of operation {other}")),
        };
        let return_previous = flags & RETURNS_PREVIOUS != 0;
        if kind == 3 {
            let delta = reader.i64()?;
            return Ok(Operation::Increment { key: reader.bytes()?, delta, return_previous });
        }
        let condition = Condition::read(reader)?;
        let key = reader.bytes()?;
        if kind == 2 {
            return Ok(Operation::Delete { key, condition, return_previous });
        }
        let value = reader.bytes()?;
        let ttl_ms = if flags & HAS_TTL != 0 { Some(reader.u64()?) } else { None };
        Ok(Operation::Put { key, value, ttl_ms, condition, return_previous })
    }
}

impl Condition {
    fn size(&self) -> usize {
        1 + match self {
            Condition::None | Condition::Absent | Condition::Present => 0,
            Condition::Version(_) => Version::BYTES,
            Condition::Value(value) => size(value.len()),
        }
    }

    fn write(&self, writer: &mut Writer) {
        match self {
            Condition::None => writer.u8(0),
            Condition::Absent => writer.u8(1),
            Condition::Version(version) => {
                writer.u8(2);
                writer.version(*version);
            }
            Condition::Value(value) => {
                writer.u8(3);
                writer.bytes(value);
            }
            Condition::Present => writer.u8(4),
        }
    }

    fn read(reader: &mut Reader) -> Read<Self> {
        Ok(match reader.u8()? {
            0 => Condition::None,
            1 => Condition::Absent,
            2 => Condition::Version(reader.version()?),
            3 => Condition::Value(reader.bytes()?),
            4 => Condition::Present,
            other => return unreadable(format!("unknown condition {other}")),
        })
    }
}

fn level_size(level: Option<ReadLevel>) -> usize {
    if matches!(level, Some(ReadLevel::Bounded(_))) { 5 } else { 1 }
}

fn parts_size(parts: Option<RequestParts>) -> usize {
    if parts.is_some() { 17 } else { 1 }
}

fn read_batch(reader: &mut Reader, operations_left: &mut usize) -> Read<Vec<Operation>> {
    let count = reader.count(OPERATION_BYTES_MIN)?;
    let Some(left) = operations_left.checked_sub(count) else {
        return unreadable(format!("has more operations than the limit frame_operations_max of {OPERATIONS_MAX}"));
    };
    *operations_left = left;
    let mut operations = Vec::with_capacity(count);
    for _ in 0..count {
        let kind = reader.u8()?;
        operations.push(Operation::read(kind, reader)?);
    }
    Ok(operations)
}

fn write_parts(writer: &mut Writer, parts: Option<RequestParts>) {
    writer.u8(flags([parts.is_some()]));
    if let Some(parts) = parts {
        writer.u64(parts.sequence);
        writer.u64(parts.first_sent.0);
    }
}

fn read_parts(reader: &mut Reader) -> Read<Option<RequestParts>> {
    match reader.flags(1)? {
        0 => Ok(None),
        _ => Ok(Some(RequestParts { sequence: reader.u64()?, first_sent: Stamp(reader.u64()?) })),
    }
}
