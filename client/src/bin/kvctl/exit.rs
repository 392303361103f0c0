//! Exit codes: what a script needs to know.
//!
//! | code | means |
//! |---|---|
//! | 0 | ok |
//! | 1 | trouble on this side (a file, a row that was rejected) |
//! | 2 | usage, or a request that is wrong in itself |
//! | 3 | not found |
//! | 4 | a condition did not hold, or a value was not a number; nothing happened |
//! | 5 | conflict |
//! | 6 | unavailable, and provably not applied |
//! | 7 | outcome unknown |
//! | 8 | denied |
//! | 9 | throttled |
//! | 130 | interrupted by Ctrl-C, in an export or import that can be resumed |

use crate::output::OutputClosed;
use kvorum_client::{ClientError, Effect, FailureKind};
use std::{io::Write as _, process::ExitCode};
use thiserror::Error;

pub const LOCAL: u8 = 1;
pub const USAGE: u8 = 2;
pub const NOT_FOUND: u8 = 3;
pub const CONDITION_FAILED: u8 = 4;
pub const CONFLICT: u8 = 5;
pub const UNAVAILABLE: u8 = 6;
pub const UNKNOWN: u8 = 7;
pub const DENIED: u8 = 8;
pub const THROTTLED: u8 = 9;
pub const INTERRUPTED: u8 = 130;

/// The command line was understood and makes no sense.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// What was named is not there.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct NotFound(pub String);

/// What was asked was done, and what it was to lead to has not come yet.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct NotYet(pub String);

/// What was asked was taken back or given up: everything is as it was.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct Undone(pub String);

/// Prints the error, if there is one, and names the exit code.
pub fn code_of(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    let error = match outcome {
        Ok(code) => return code,
        Err(error) => error,
    };
    // Whoever read our output has seen enough: `kvctl scan | head` is not an error.
    if error.chain().any(|cause| cause.is::<OutputClosed>()) {
        return ExitCode::SUCCESS;
    }
    let client = error.chain().find_map(|cause| cause.downcast_ref::<ClientError>());
    complain(&format!("error: {error:#}"));
    if let Some(id) = client.and_then(ClientError::request_id) {
        complain(&format!(
            "hint: it may have happened, or may still. The same command with --request-id {id} settles it: it is applied \
             at most once, and a first outcome is answered again (within ten minutes)"
        ));
    }
    if client.and_then(ClientError::failure).is_some_and(|failure| failure.reason == "UNKNOWN_KEYSPACE") {
        complain("hint: choose one with -k NAME, or for good with KVCTL_KEYSPACE");
    }
    let code = match client {
        Some(client) => code_of_client(client),
        None if error.chain().any(|cause| cause.is::<Usage>()) => USAGE,
        None if error.chain().any(|cause| cause.is::<NotFound>()) => NOT_FOUND,
        None if error.chain().any(|cause| cause.is::<NotYet>()) => UNKNOWN,
        None if error.chain().any(|cause| cause.is::<Undone>()) => UNAVAILABLE,
        None => LOCAL,
    };
    ExitCode::from(code)
}

/// A line on stderr. If nobody reads it there is nobody to tell.
pub fn complain(line: &str) {
    let _nobody_listens = writeln!(std::io::stderr().lock(), "{line}");
}

pub fn code_of_client(error: &ClientError) -> u8 {
    match error {
        ClientError::Refused(_) => USAGE,
        ClientError::NotApplied(_) => CONDITION_FAILED,
        ClientError::Unknown(_) => UNKNOWN,
        ClientError::Failed(failure) if failure.effect == Effect::Unknown => UNKNOWN,
        ClientError::Failed(failure) if failure.reason == "NOT_FOUND" => NOT_FOUND,
        ClientError::Failed(failure) => match failure.kind {
            FailureKind::Request => USAGE,
            FailureKind::Denied => DENIED,
            FailureKind::Throttled => THROTTLED,
            FailureKind::Conflict => CONFLICT,
            FailureKind::Unavailable => UNAVAILABLE,
        },
    }
}
