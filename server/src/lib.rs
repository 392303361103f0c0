//! # server: the process `kvd`
//!
//! ```text
//!   main ──▶ config ──▶ node ──▶ beginning · house (composition root) ─┬─ cellar · transport ──▶ consensus::Node
//!                                                 ├─ rpc     front door, back door
//!                                                 ├─ router  the hall
//!                                                 ├─ admin   /metrics /healthz /readyz
//!                                                 └─ disk    low water, ballast
//! ```
//!
//! Start reading at [`node`].
//!
//! **Invariant.** Every error that leaves a door says whether the write may have happened.
//!
//! **Deliberately absent.** Decisions. This crate wires, converts and serves; what a write or a level means is decided
//! in `consensus` and `storage`.

pub mod admin;
pub mod admission;
pub mod beginning;
mod cellar;
pub mod cluster_key;
pub mod config;
pub mod disk;
mod durable;
mod founding;
pub mod gossip;
mod house;
pub mod identity;
pub mod join;
mod listen;
pub mod metrics;
pub mod node;
pub mod router;
pub mod routing_copy;
pub mod rpc;
pub mod telemetry;
pub mod transport;

/// What this build is called, in status and handshakes.
pub const BUILD: &str = concat!("kvd ", env!("CARGO_PKG_VERSION"));
