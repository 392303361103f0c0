//! # consensus: many nodes, one answer
//!
//! ```text
//!   Node        what a process is, without its doors: replicas, peers, clock, identity
//!    ├─ groups  the replicas held here, most of them closed
//!    ├─ cp      agree first, then act: one Raft group per shard
//!    ├─ peers   who talks to us, and whether it is who it says
//!    └─ hlc     the hybrid logical clock, and whether our clock is to be trusted
//! ```
//!
//! **Invariant.** Nothing here opens a file or a socket, reads a wall clock or rolls a die: the world enters through
//! [`Env`].

mod answers;
mod chores;
pub mod config;
pub mod cp;
pub mod env;
pub mod envelope;
pub mod gather;
pub mod groups;
pub mod health;
pub mod heartbeats;
pub mod hello;
pub mod hlc;
pub mod identity;
pub mod keeper;
pub mod message;
pub mod metadata;
pub mod node;
pub mod note;
pub mod peers;
pub mod replicator;
pub mod status;
pub mod steady;
pub mod suspect;
pub mod transport;
pub mod worker;

pub use env::{Clock, Env};
pub use node::{Node, NodeConfig};
pub use replicator::{Replicator, RequestContext, Written};
pub use transport::{Lane, Transport, TransportError};
