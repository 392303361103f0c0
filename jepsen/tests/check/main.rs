//! # The checks, checked
//!
//! ```text
//!   cases       small histories with known verdicts, in every format, that lie in `jepsen/tests/histories`
//!   recorded    histories that others recorded, with their verdicts, where the folder is
//!   invented    histories of perfect registers must pass; mutated ones must not; a plain search agrees with both
//! methods
//!   command     `jepsen check` as a user runs it: exit codes, windows, pages, refusals
//! ```
//!
//! **Invariant.** No verdict is taken from the code under test: each is written down, or found by a search of its own.

#![expect(clippy::unwrap_used, reason = "what a test cannot read or build, fails it")]
#![expect(clippy::print_stdout, reason = "a test that checks nothing must say so")]

mod cases;
mod command;
mod invented;
mod plain;
mod recorded;

use std::path::{Path, PathBuf};

/// Histories that lie in the repository.
fn histories() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/histories")
}
