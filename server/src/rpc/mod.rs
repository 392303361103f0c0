//! # Doors: gRPC
//!
//! ```text
//!   clients ──▶ undecodable ─▶ kv · stream · admin · health · reflection ──▶ door ─▶ calls ─▶ hall
//!   nodes   ──▶ undecodable ─▶ peer ──▶ lane ──▶ Node::handle
//! ```
//!
//! `convert` is the only place where proto becomes domain and back, `status` the only one where an error becomes a
//! status. Unary calls and calls within a frame meet in `calls`: they are checked and answered by the same lines.
//!
//! **Invariant.** Whatever bytes arrive, the answer is a sentence and the node goes on.

pub mod admin;
pub mod calls;
pub mod convert;
pub mod deadline;
pub mod describe;
pub mod door;
#[cfg(test)]
pub(crate) mod fake;
pub mod join;
pub mod kv;
pub mod lane;
pub mod neighbours;
pub mod operate;
pub mod peer;
pub mod scan;
mod scan_plan;
pub mod status;
pub mod status_out;
pub mod stream;
pub mod undecodable;
pub mod upgrade;
mod wish;

use kvorum_api::limits;

/// Bytes of the largest request the client door decodes: a value and a condition's value of the largest size, or a
/// whole batch, and room for what wraps them. A value just over its limit is decoded, so that the refusal can name the
/// limit.
pub const REQUEST_BYTES_MAX: usize = 2 * limits::VALUE_BYTES_CEILING + (1 << 20);

/// Bytes of the largest envelope between nodes.
pub const ENVELOPE_BYTES_MAX: usize = 64 << 20;
