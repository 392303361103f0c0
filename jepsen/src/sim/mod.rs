//! # sim: the same node in a world made of one seed
//!
//! ```text
//!   replay ─▶ world ─┬─ faults     what goes wrong, and when (printed before it does)
//!                    ├─ network    messages lost, late, doubled, cut off
//!                    ├─ disk       power lost between two sectors
//!                    ├─ clock      wall clocks that disagree
//!                    ├─ workload   clients ─▶ history: what they asked, what they were told
//!                    ├─ observe    what must be true at every step
//!                    ├─ panics     broken invariants, also where a runtime swallows them
//!                    └─ audit      every event, hashed
//! ```
//!
//! **Invariant.** The same seed gives the same trace, to the last event.

#![allow(unexpected_cfgs, reason = "tokio's own switch, set for the whole workspace in .cargo/config.toml")]

#[cfg(not(tokio_unstable))]
compile_error!("the simulation seeds tokio's chance: build with --cfg tokio_unstable, as .cargo/config.toml says");

pub mod audit;
pub mod chance;
pub mod clock;
pub mod disk;
pub mod faults;
pub mod history;
pub mod network;
pub mod observe;
pub mod panics;
pub mod replay;
pub mod workload;
pub mod world;
