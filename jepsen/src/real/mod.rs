//! # Real: real nodes, as processes, attacked
//!
//! ```text
//!   cluster  nodes as processes: started, killed, paused, looked at
//!     fabric   links between nodes and clients, each direction by itself ◀── namespace: packets through a switch
//!     │        (or, weaker, loopback: connections through proxies)
//!     shim     a disk and a clock that misbehave, per process        power: what is left when it fails
//!     observer who leads which shard, since when
//!   nemesis  faults, each in its file        schedule  when they happen, drawn from a seed
//!   seats      what of a node only one fault at a time can use
//!   people     what they ask through the admin door       affairs  what they are still owed, and how it ended
//!   directory  where a run lies, and what a killed run left behind
//! ```
//!
//! **Invariant.** Whatever was started is stopped, also after a run that was killed.
//!
//! **Deliberately absent.** What clients do ([`crate::workload`]), and what must be true of it ([`crate::check`]).

pub mod affairs;
pub mod cluster;
pub mod directory;
pub mod fabric;
pub mod loopback;
pub mod names;
pub mod namespace;
pub mod nemesis;
pub mod node;
pub mod observer;
pub mod people;
pub mod power;
pub mod schedule;
pub mod seats;
pub mod shim;
pub mod units;
