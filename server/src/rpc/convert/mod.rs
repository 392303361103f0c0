//! What the doors are asked and what they answer, in three languages: protobuf, the words of a frame, the shard's own.
//!
//! ```text
//!   unary   proto ──asked──▶ frame::Operation ──command──▶ storage::WriteCommand (checked, placement keys)
//!   stream  bytes ─────────▶
//!   unary   proto ◀──proto_out── frame::Outcome ◀──answer── storage::Outcome + receipt
//!   stream  bytes ◀─────────────
//! ```
//!
//! Pure. A unary call and a call within a frame are checked by the same lines and answered by the same lines.
//!
//! **Invariant.** What leaves here towards the hall is within its limits and means exactly one thing; what does not is
//! refused with the name of the field.

pub mod answer;
pub mod asked;
pub mod command;
pub mod proto_out;
#[cfg(test)]
mod tests;

use kvorum_api::Refused;

fn malformed(field: &'static str, problem: impl Into<String>) -> Refused {
    Refused::Malformed { field, problem: problem.into() }
}
