//! Commands: what a client wants, and what came of it.
//!
//! **Invariant.** A command is evaluated from itself and the shard's replicated state alone: no clock, no chance, no
//! settings from elsewhere. Two replicas that apply the same commands are equal to the byte.
//!
//! The operations of a client's frame (`api/src/frame/request.rs`) resemble these and are kept apart on purpose: keys
//! are placement keys here, and what is in a log must be read for ever, while a frame changes with its clients.

use bytes::Bytes;
use kvorum_api::{Actor, PlacementRange, Stamp, Version};

/// Makes a write safe to repeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestId {
    /// Chosen once per client instance.
    pub client: u128,
    /// Grows by one per request.
    pub sequence: u64,
    /// The client's stamp when the request was first sent.
    pub first_sent: Stamp,
    /// The shard forgets this client's outcomes below it.
    pub lowest_unanswered: u64,
}

/// What must hold for an operation to happen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing.
    Always,
    /// The key is not there.
    Absent,
    /// The key is there, whatever its value.
    Present,
    /// The key is there in exactly this version.
    Version(Version),
    /// The key is there with exactly this value.
    Value(Bytes),
}

/// One change to one key. Keys are placement keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Sets a value.
    Put {
        /// The key.
        key: Bytes,
        /// The value.
        value: Bytes,
        /// Lives at least this long, measured on the shard's logged time.
        ttl_ms: Option<u64>,
        /// What must hold.
        condition: Condition,
        /// Whether the outcome carries what was there.
        return_previous: bool,
    },
    /// Removes a key.
    Delete {
        /// The key.
        key: Bytes,
        /// What must hold.
        condition: Condition,
        /// Whether the outcome carries what was there.
        return_previous: bool,
    },
    /// Adds to a decimal 64-bit signed integer; absent counts as 0; the expiry is kept.
    Increment {
        /// The key.
        key: Bytes,
        /// How much.
        delta: i64,
        /// Whether the outcome carries what was there.
        return_previous: bool,
    },
}

/// One client's write: all of it happens, or nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WriteCommand {
    /// Its name, if it may be repeated.
    pub request: Option<RequestId>,
    /// What it does, in order; later operations see earlier ones.
    pub operations: Vec<Operation>,
}

/// What the log carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A client's write.
    Write(WriteCommand),
    /// Entries due at or before `up_to_ms` are gone: raises the shard's logged time and removes some of them.
    Expire {
        /// Unix milliseconds by the leader's clock.
        up_to_ms: u64,
    },
    /// Sets the shard's replicated settings. The founding one is a group's first command.
    Configure(Settings),
}

/// Settings that change what `apply` does: replicated state, changed only by a logged `Configure`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Version of the behaviour of `apply`. A replica that does not know it stops applying and says so.
    pub behaviour: u32,
    /// Which images a change record carries.
    pub images: Images,
    /// How long request ids are remembered, milliseconds of logged time.
    pub request_window_ms: u64,
    /// Outcomes remembered per client.
    pub request_outcomes_max: u32,
    /// The placement keys that are the shard's own: nothing outside is written (rule C3).
    pub range: PlacementRange,
    /// Grows with every change of the range.
    pub epoch: u64,
    /// Whether the leader may answer linearizable reads by its lease (rule G5).
    pub has_leases: bool,
}

/// Which images a change record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Images {
    /// The key and the version.
    Keys = 1,
    /// And the new value.
    New = 2,
    /// And the old one.
    NewAndOld = 3,
}

/// Several commands that travel as one entry of the log, with what their evaluation needs from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The leader's physical clock, Unix milliseconds: the shard's logged time is the highest seen.
    pub time_ms: u64,
    /// The leader's stamp: a hint, `apply` assigns versions that grow.
    pub stamp: Stamp,
    /// Who proposed.
    pub actor: Actor,
    /// In order.
    pub commands: Vec<Command>,
}

/// What came of one command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A write was evaluated: see its results. `applied` is false if a condition failed, and then nothing happened.
    Written {
        /// Whether it happened.
        applied: bool,
        /// Whether this is the remembered outcome of an earlier attempt.
        repeated: bool,
        /// One per operation, in order.
        results: Vec<OperationResult>,
    },
    /// The request id is older than the window or below the floor; nothing was done now, something may have been then.
    RequestIdExpired {
        /// Which rule.
        why: ExpiredBecause,
    },
    /// `Expire`: how many entries it removed, and whether more are due.
    Expired {
        /// Removed by this command.
        removed: u32,
        /// Whether another one is needed.
        more: bool,
    },
    /// `Configure` is in force.
    Configured,
    /// A write names a placement key outside the shard's range (rule C3): nothing of it happened, and nothing is
    /// remembered under its id, so that it may happen once the key is here.
    OutOfRange {
        /// The shard's epoch.
        epoch: u64,
    },
    /// `Configure` came with an older epoch, or with another range in the same epoch: nothing changed.
    ConfigureRefused {
        /// The shard's epoch.
        epoch: u64,
    },
}

/// Why a request id was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExpiredBecause {
    /// First sent longer ago than the window, by the shard's logged time.
    TooOld,
    /// Below what the client said it still waits for, or below what the shard had room to remember.
    BelowFloor,
}

/// What came of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OperationResult {
    /// How it went.
    pub status: OperationStatus,
    /// What was there before: on request, and when a condition failed.
    pub previous: Previous,
    /// Increments: the new value.
    pub number: Option<i64>,
    /// Version of what was written.
    pub version: Option<Version>,
}

/// How one operation went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OperationStatus {
    /// It happened.
    Applied = 0,
    /// Its condition did not hold.
    ConditionFailed = 1,
    /// An increment of something that is not a decimal 64-bit integer.
    NotANumber = 2,
    /// An increment beyond 64 bits.
    Overflow = 3,
    /// Another operation of the same command failed.
    Skipped = 4,
}

/// What was there before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Previous {
    /// Not asked for.
    NotAsked,
    /// Nothing was there.
    Absent,
    /// This was there.
    Found(crate::Entry),
    /// A repeated request whose previous value was too large to remember: only its version is known.
    Forgotten(Version),
}

impl Operation {
    /// The key it is about.
    #[must_use]
    pub fn key(&self) -> &Bytes {
        match self {
            Operation::Put { key, .. } | Operation::Delete { key, .. } | Operation::Increment { key, .. } => key,
        }
    }
}
