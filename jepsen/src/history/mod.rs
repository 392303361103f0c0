//! # History: what clients asked, when, and what they were told
//!
//! ```text
//!   file ──▶ records ──▶ validator ──▶ pairing ──▶ History { operations, faults } ──▶ check
//!            jsonl        one operation under way per process,
//!            jepsen (EDN) completions match invocations,
//!            porcupine    the clock does not go back
//! ```
//!
//! A [`Record`] is one event: a process invokes an operation, or learns how it ended. An [`Operation`] is the pair. An
//! operation of unknown outcome never ends: it may take effect at any time after it was invoked, or never.
//!
//! **Invariant.** Nothing is guessed: what is malformed is refused with its line and its field, and only a proof that
//! nothing happened makes a failure out of an error.
//!
//! **Deliberately absent.** Opinions: what must be true of a history is for [`crate::check`] to say.

mod edn;
mod error;
mod invent;
mod jepsen;
mod jsonl;
mod load;
mod operation;
mod porcupine;
mod record;
mod validate;
mod value;

pub use error::{HistoryError, Malformed};
pub use invent::{Shape, invent};
pub use jepsen::{read_edn, write_edn};
pub use jsonl::{JsonLines, to_json, write_jsonl};
pub use load::{Format, load, parse};
pub use operation::{Fault, History, Operation, Outcome, Pairing};
pub use porcupine::read_etcd_log;
pub use record::{Kind, Process, Rank, Receipt, Record, parse_level};
pub use validate::Validator;
pub use value::Value;
