//! # client: the way in from the garden
//!
//! One client for one cluster: it finds the shard of a key and who leads it, gives every write a request id, and says
//! of every error whether the write may have happened.
//!
//! ```text
//!   Client ── keyspace("orders") ─▶ Keyspace<Cp> ── put · get · delete · compare_and_set · increment · batch · scan
//!     │                                │ session()         │                get_many · put_many · write_many
//!     └─ cluster_status · admin()      ▼                retry.rs: the only place that retries
//!                                   Session<Cp>            │ maps.rs: key → shard → leader, replicas
//!                                                          ▼
//!                                 node.rs: breaker · bulkhead · stream.rs: frames ─▶ kv.v1.KvStream, else kv.v1.Kv
//! ```
//!
//! ```no_run
//! use kvorum_client::{Client, ClientError, Options};
//!
//! # async fn example() -> Result<(), ClientError> {
//! let client = Client::connect(["127.0.0.1:7101", "127.0.0.1:7102"], Options::default()).await?;
//! let orders = client.keyspace("orders");
//!
//! let written = orders.put("1001", "paid").await?;
//! println!("durable on {} replicas", written.receipt.durable_replicas);
//!
//! match orders.compare_and_set("1001", "paid", "shipped").await {
//!     Ok(written) => println!("now at {}", written.receipt.position),
//!     Err(ClientError::NotApplied(answer)) => println!("somebody was faster: {answer}"),
//!     // It may have happened. The handle asks again under the same request id: applied at most once.
//!     Err(ClientError::Unknown(unknown)) => drop(unknown.retry().await?),
//!     Err(error) => return Err(error),
//! }
//!
//! let mut scan = orders.scan().prefix("10").await?;
//! while let Some(entry) = scan.next().await? {
//!     println!("{:?} = {:?}", entry.key, entry.value);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! The examples of these pages are compiled and not run, because they need a cluster; `examples/tour.rs` is the same
//! code as a program, which tests run against a scripted cluster and against a real node.
//!
//! **Invariant.** Only what is safe is repeated: what provably had no effect, reads, and writes under the same request
//! id. An acknowledged write is never overtaken by a copy of an earlier one that was given up: every write tells the
//! shard the lowest sequence still unanswered, and the shard refuses what lies below it.
//!
//! **Deliberately absent.** Everything inside the server; a clock of its own (stamps come from servers).

pub mod admin;
mod breaker;
mod call;
mod client;
mod clock;
mod cluster;
mod error;
mod failure;
mod framed;
mod frames;
mod gate;
mod inner;
mod into_bytes;
mod keyspace;
mod many;
mod map;
mod maps;
mod node;
mod nodes;
mod operation;
pub mod operators;
mod options;
mod progress;
mod read;
mod reply;
mod request_id;
mod retry;
mod routing;
mod scan;
mod session;
mod shard_scan;
mod stream;
mod unanswered;
mod unknown;
pub mod upgrade;
mod write;

pub use admin::Admin;
pub use client::Client;
pub use cluster::NodeReport;
pub use error::{ClientError, NotApplied};
pub use failure::{Failure, FailureKind};
pub use into_bytes::IntoBytes;
pub use keyspace::{Cp, Keyspace};
pub use kvorum_api::{
    Effect, LogPosition, NodeId, OperatorId, ReadLevel, Receipt, Refused, Retry, ShardId, Stamp, Version,
};
pub use operation::{Condition, Delete, Increment, Operation, Put};
pub use operators::NodeFate;
pub use options::{Options, Transport};
pub use read::Get;
pub use reply::{Entry, GetReply, Incremented, OperationResult, OperationStatus, Written};
pub use request_id::{RequestId, RequestIdUnreadable};
pub use scan::{Scan, ScanStream};
pub use session::Session;
pub use unknown::UnknownWrite;
pub use write::{Batch, Write};
