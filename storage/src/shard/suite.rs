//! The promises of the shard, as cases that run over any engine.
//!
//! ```text
//!   writes     conditions, atomicity, versions          diary       kinds, images, following, trimming
//!   expiry     logged time, the index, `expire`         snapshots   chunks, installing, power lost at every step
//!   requests   once and never twice                     crashes     what a flush keeps, what a replay gives
//!   ranges     neighbours in one keyspace                orphans     what dropped shards have left
//! ```
//!
//! **Invariant.** A case knows nothing of the engine but how to begin a new life on its disk.
//!
//! **Deliberately absent.** Speed, and the engine's own promises: it has a suite of its own.

#![expect(clippy::unwrap_used, reason = "a suite is test code that other crates compile")]

mod crashes;
mod diary;
mod expiry;
mod fuse;
mod orphans;
mod ranges;
mod requests;
mod snapshots;
mod world;
mod writes;

pub use fuse::Fuse;
pub use world::{BEGIN_MS, SPEC, World, apply_next, contents_of, delete, increment, put, put_if, put_ttl, settings};

use crate::engine::Engine;
use std::sync::Arc;

/// One disk.
pub trait Lab {
    /// Loses power, if there was a life before: what was not flushed is gone. A new life begins.
    fn begin_life(&mut self) -> Arc<dyn Engine>;
}

/// A named promise.
pub type Case = (&'static str, fn(&mut dyn Lab));

/// Every promise.
#[must_use]
pub fn cases() -> Vec<Case> {
    let data = [writes::CASES, expiry::CASES, requests::CASES, diary::CASES].concat();
    let places = [snapshots::CASES, crashes::CASES, ranges::CASES, orphans::CASES].concat();
    [data, places].concat()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::engine::mem::MemDisk;

    /// A disk in memory.
    #[derive(Default)]
    pub(crate) struct MemLab(pub(crate) MemDisk);

    impl Lab for MemLab {
        fn begin_life(&mut self) -> Arc<dyn Engine> {
            self.0.lose_power();
            self.0.open()
        }
    }

    #[test]
    fn a_shard_over_the_engine_in_memory_keeps_every_promise() {
        for (name, case) in cases() {
            println!("case: {name}");
            case(&mut MemLab::default());
        }
    }
}
