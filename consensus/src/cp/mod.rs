//! # The council room: agree first, then act. One Raft group per shard.
//!
//! ```text
//!   write ─▶ queue ─▶ proposer ─▶ openraft ─▶ log_store ─▶ journal
//!                                    │  ▲
//!                         network ◀──┘  └── answers      (other replicas, through the node's peers)
//!                                    ▼
//!                              state_machine ─▶ shard
//!   read  ─▶ levels ─▶ lease, read_index, staleness ─▶ shard
//! ```
//!
//! [`group`] puts the parts together; [`serve`] is what the router sees; [`duties`] is what a replica does unasked.
//! Only this folder names openraft.
//!
//! **Invariant.** An acknowledged write is durable on a majority and applied here; a linearizable read has heard from a
//! majority after it arrived.
//!
//! **Deliberately absent.** Which groups there are, which of them are open, and which step of a change of their members
//! comes next: that is `groups`.

mod answered;
mod answers;
pub(crate) mod close;
pub mod codec;
mod core;
pub mod door;
pub mod duties;
mod figures;
pub mod group;
mod install;
mod lease;
mod levels;
mod log_bytes;
pub mod log_store;
mod members;
pub(crate) mod membership;
mod network;
mod pace;
mod pipeline;
mod proposer;
mod queue;
mod read_index;
pub(crate) mod removal;
pub(crate) mod rows;
pub mod serve;
mod snapshot_receive;
mod snapshot_send;
mod staleness;
pub mod state_machine;
pub mod store;
#[cfg(any(test, feature = "suite"))]
pub mod suite;
mod ticket;
mod traces;
pub mod types;

pub use group::{Addresses, Group, GroupContext};
pub use members::Members;
pub use pace::Pace;
