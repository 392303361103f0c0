//! Limits: a number on everything, refused at the door with an error that names it.

/// Bytes of a key, at least one.
pub const KEY_BYTES_MAX: usize = 4_096;

/// Bytes of a value no keyspace may exceed.
pub const VALUE_BYTES_CEILING: usize = 16 << 20;

/// Bytes of a value unless the keyspace says otherwise.
pub const VALUE_BYTES_DEFAULT: usize = 1 << 20;

/// Age of a request id beyond which it is refused, milliseconds.
pub const REQUEST_ID_AGE_MS_MAX: u64 = 10 * 60 * 1_000;

/// Outcomes a shard remembers per client: more than a client has unanswered.
pub const REQUEST_OUTCOMES_MAX: u32 = 1_024;

/// Bytes of a previous value the shard remembers with an outcome.
pub const OUTCOME_VALUE_BYTES_MAX: usize = 4_096;

/// Operations in one atomic batch.
pub const BATCH_OPERATIONS_MAX: usize = 1_024;

/// Bytes of keys and values in one atomic batch.
pub const BATCH_BYTES_MAX: usize = 16 << 20;

/// Bytes that the previous values of one batch may take in its answer: the operations that ask for them times the
/// largest value of the keyspace.
pub const BATCH_PREVIOUS_BYTES_MAX: usize = 48 << 20;

/// Bytes of entries in one scan message (one larger entry travels alone).
pub const SCAN_MESSAGE_BYTES_MAX: usize = 256 << 10;

/// Time to live of an entry, milliseconds: a hundred years.
pub const TTL_MS_MAX: u64 = 100 * 365 * 24 * 3_600 * 1_000;

/// Bytes of the client part of a request id, exactly.
pub const REQUEST_CLIENT_BYTES: usize = 16;

/// Bytes of a W3C trace context.
pub const TRACEPARENT_BYTES_MAX: usize = 128;

/// A clock that is further off than this neither leads nor coordinates, milliseconds.
pub const CLOCK_OFFSET_MS_MAX: u64 = 500;

/// The limits of one keyspace that a request is checked against at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a key.
    pub key_bytes_max: usize,
    /// Bytes of a value.
    pub value_bytes_max: usize,
    /// Operations in one atomic batch.
    pub batch_operations_max: usize,
    /// Bytes of keys and values in one atomic batch.
    pub batch_bytes_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            key_bytes_max: KEY_BYTES_MAX,
            value_bytes_max: VALUE_BYTES_DEFAULT,
            batch_operations_max: BATCH_OPERATIONS_MAX,
            batch_bytes_max: BATCH_BYTES_MAX,
        }
    }
}
