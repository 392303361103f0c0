//! # api: the shared nouns
//!
//! What every room of the house calls the same: ids, stamps, versions, levels, receipts, errors, limits, and the
//! `.proto` files with their generated code ([`proto`]).
//!
//! **Invariant.** A noun here has one meaning in the whole project, and every error answers one question first: may the
//! write have happened ([`Effect`])?
//!
//! **Deliberately absent.** No behaviour that waits, no bytes on disk, no runtime: this crate could be read aloud.

pub mod capabilities;
pub mod error;
pub mod frame;
pub mod ids;
pub mod level;
pub mod limits;
pub mod placement;
pub mod receipt;
pub mod token;
pub mod version;

pub use error::{AdminError, Effect, ReadError, Refused, Retry, WriteError};
pub use ids::{Actor, ClusterId, GroupId, KeyspaceId, NodeId, OperatorId, ReplicaId, ShardId, StartCount};
pub use level::{Mode, ReadLevel};
pub use limits::Limits;
pub use placement::{PlacementRange, Sharding};
pub use receipt::Receipt;
pub use token::{Seen, SessionToken};
pub use version::{LogPosition, Stamp, Version};

/// Generated from `api/proto`. Stops at the doors: `server/rpc` and `client`.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
pub mod proto {
    tonic::include_proto!("kv.v1");

    /// The compiled descriptors, for gRPC reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
}
