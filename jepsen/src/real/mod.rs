//! # Real: real nodes, as processes, attacked
//!
//! ```text
//!   fabric   links between nodes and clients, each direction by itself ◀── loopback: proxies in this process
//! ```
//!
//! **Invariant.** Whatever was started is stopped, also after a run that was killed.

pub mod fabric;
pub mod loopback;
