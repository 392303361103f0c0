//! # sim: the same node in a world made of one seed
//!
//! ```text
//!   command ─▶ replay ─▶ world
//!   world ─┬─ draw       what kind of world the seed gets
//!                    ├─ plan       which faults happen, and when (printed before they do)
//!                    ├─ machine    what of a node outlives its processes
//!                    ├─ network    messages lost, late, doubled, cut off
//!                    ├─ disk       power lost at any step, failures, rot ─▶ journal: slow syncs
//!                    ├─ clock      wall clocks that disagree
//!                    ├─ workload   clients ─▶ attempt ─▶ history ─▶ freshness, verdict: what they were told
//!                    ├─ diary_reader  follows the diary of a shard ─▶ diary: what it was handed; trimmer
//!                    ├─ steward    makes keyspaces and drops them ─▶ ledger: what was answered, and what is
//!                    ├─ moving     who comes and who is lost ─▶ members: how; crew: people who move replicas
//!                    ├─ settle     what must be true once the world is whole again ─▶ rest: of members
//!                    ├─ observe    what must be true at every step ─▶ offices, logs
//!                    ├─ panics     broken invariants, also where a runtime swallows them
//!                    └─ audit      every event, hashed
//! ```
//!
//! **Invariant.** The same seed gives the same trace, to the last event.

#![allow(unexpected_cfgs, reason = "tokio's own switch, set for the whole workspace in .cargo/config.toml")]

#[cfg(not(tokio_unstable))]
compile_error!("the simulation seeds tokio's chance: build with --cfg tokio_unstable, as .cargo/config.toml says");

pub mod attempt;
pub mod audit;
pub mod chance;
pub mod clock;
pub mod command;
pub mod crew;
pub mod diary;
pub mod diary_reader;
pub mod disk;
pub mod draw;
pub mod faults;
pub mod freshness;
pub mod history;
pub mod journal;
mod leaders;
pub mod logs;
pub mod machine;
mod members;
pub mod moving;
pub mod network;
pub mod observe;
pub mod offices;
pub mod panics;
pub mod plan;
pub mod remains;
pub mod replay;
pub mod report;
mod rest;
pub mod settle;
pub mod steward;
pub mod trimmer;
pub mod verdict;
pub mod workload;
pub mod world;
