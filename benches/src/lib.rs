//! # benches: the stopwatch
//!
//! Criterion micro-benchmarks of the parts. `docs/benchmarks.md` says what is expected and how to run them; a figure is
//! quoted with its commit, machine and command. What several benches share is here: the rows they write.
//!
//! **Deliberately absent.** Asserts on time: a busy machine is not a bug. Load on whole clusters: that needs a
//! generator which keeps its own clock and does not wait for answers.

use bytes::Bytes;
use kvorum_api::{Actor, NodeId, Stamp, StartCount};
use kvorum_storage::command::{Command, Condition, Operation, Proposal, WriteCommand};

/// Bytes of a value in every bench: an ordinary small record.
pub const VALUE_BYTES: usize = 256;

/// Bytes of a log record in the journal benches: such a value with its key and command around it.
pub const RECORD_BYTES: usize = 300;

/// Unix milliseconds at which every bench takes place.
pub const TIME_MS: u64 = 1_700_000_000_000;

/// `bytes` bytes that do not compress away: each bench writes what a disk would really have to hold.
#[must_use]
pub fn payload(bytes: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut filled = Vec::with_capacity(bytes + 8);
    while filled.len() < bytes {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        filled.extend_from_slice(&state.wrapping_mul(0x2545_F491_4F6C_DD1D).to_be_bytes());
    }
    filled.truncate(bytes);
    filled.into()
}

/// A plain put of the `number`th row, without a request id.
#[must_use]
pub fn put(number: u64) -> Command {
    let operation = Operation::Put {
        key: format!("row/{number:012}").into(),
        value: payload(VALUE_BYTES, number),
        ttl_ms: None,
        condition: Condition::Always,
        return_previous: false,
    };
    Command::Write(WriteCommand { request: None, operations: vec![operation] })
}

/// Commands as a leader proposes them.
#[must_use]
pub fn proposal(commands: Vec<Command>) -> Proposal {
    Proposal {
        time_ms: TIME_MS,
        stamp: Stamp::default(),
        actor: Actor { node: NodeId(1), start: StartCount(1) },
        commands,
    }
}
