//! # Check: does a history keep the promise?
//!
//! ```text
//!   registry ── which check, by name
//!      linearizable   one order per key explains every answer: search (any model), zones (registers with unique
//! values)
//!      set, counter, unique_ids, monotonic, sessions, diary, hashes, versions, receipts     one pass each
//!   report   verdict, reasons, coverage, findings ──▶ window (text), timeline (HTML)
//! ```
//!
//! Verdicts: **ok** (every answer is explained), **violation** (proven), **unknown** (a limit was reached first),
//! **vacuous** (nothing was asked that could have been answered wrongly). Only ok passes.
//!
//! **Invariant.** A violation is proven from the history alone: operations of unknown outcome get every benefit of the
//! doubt. What is reported of it is itself still a violation.
//!
//! **Deliberately absent.** Transactions over several keys.

pub mod command;
mod counter;
mod coverage;
mod diary;
mod hashes;
mod linearizable;
mod meter;
mod monotonic;
mod receipts;
mod registry;
mod report;
mod search;
mod sessions;
mod set;
mod shrink;
#[cfg(test)]
pub(crate) mod testing;
mod timeline;
mod unique_ids;
mod versions;
mod window;
mod zones;

pub use coverage::Coverage;
pub use linearizable::{Method, linearizable, register};
pub use registry::{Check, REGISTRY, UnknownModel, find, fitting};
pub use report::{Finding, Options, Report, Role, Row, Unfit, Verdict};
pub use timeline::timeline;
pub use window::window;
