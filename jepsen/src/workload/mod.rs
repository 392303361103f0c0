//! # Workloads: what clients do, and what must be true of it
//!
//! ```text
//!   Caller (one client, one operation under way) ── step ─▶ client library ─▶ cluster
//!        └─ begin · end ─▶ Recorder ─▶ history ─▶ the checks the workload names
//! ```
//!
//! A new workload is a file with a type that implements [`Workload`] and a row in [`KINDS`].
//!
//! **Invariant.** Every operation is recorded before it is sent, and as it ended: the effect of the error decides
//! between "did not happen" and "nobody knows". Values written are unique wherever a check can use it.
//!
//! **Deliberately absent.** Readers of the diary: the product does not offer it to clients.

mod bounded;
mod caller;
mod cas_register;
mod conditional_put;
mod increment;
mod keys;
mod recorder;
mod register;
mod retry;
mod scan;
mod sessions;
mod set;

pub use caller::{Call, Caller, Setting, receipt_of, value_of};
pub use recorder::{Recorder, Sample};

use anyhow::Result;
use futures::future::BoxFuture;

/// What the clients of one workload do.
pub trait Workload: Send + Sync {
    /// Before anything bad happens, once, by one client.
    fn prepare<'a>(&'a self, _caller: &'a mut Caller) -> BoxFuture<'a, Result<()>> {
        Box::pin(async { Ok(()) })
    }

    /// One operation of one client.
    fn step<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, ()>;

    /// When everything is whole again, once, by one client: the reads that show what was kept.
    fn last<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, Result<()>>;
}

/// A kind of workload.
pub struct Kind {
    /// Its name in experiments.
    pub name: &'static str,
    /// What it does, for people.
    pub about: &'static str,
    /// The checks that judge it.
    pub checks: &'static [&'static str],
    /// Its clients, unless the experiment says otherwise.
    pub clients: u64,
    /// Begins one.
    pub make: fn() -> Box<dyn Workload>,
}

/// Every workload there is.
pub const KINDS: &[Kind] = &[
    Kind {
        name: "register",
        about: "linearizable reads and writes of unique values",
        checks: &["register", "versions", "receipts"],
        clients: 6,
        make: || Box::new(register::Register::default()),
    },
    Kind {
        name: "cas-register",
        about: "reads, writes and compare-and-set on few values",
        checks: &["cas-register"],
        clients: 5,
        make: || Box::new(cas_register::CasRegister::default()),
    },
    Kind {
        name: "set",
        about: "adds of unique elements, and linearizable scans of one shard that show them all",
        checks: &["set"],
        clients: 5,
        make: || Box::new(set::Set::default()),
    },
    Kind {
        name: "scan",
        about: "full scans over several shards, upwards and downwards, against a known set that grows",
        checks: &["set"],
        clients: 4,
        make: || Box::new(scan::Scans),
    },
    Kind {
        name: "increment",
        about: "increments that are told the new number, and reads",
        checks: &["counter", "linearizable-counter"],
        clients: 5,
        make: || Box::new(increment::Increments::default()),
    },
    Kind {
        name: "conditional-put",
        about: "put if absent as a source of ids: nobody else ever got the same",
        checks: &["unique-ids"],
        clients: 5,
        make: || Box::new(conditional_put::ConditionalPut::default()),
    },
    Kind {
        name: "retry",
        about: "increments with short deadlines, repeated under their request id until answered: at most once",
        checks: &["counter", "linearizable-counter"],
        clients: 5,
        make: || Box::new(retry::Retries::default()),
    },
    Kind {
        name: "sessions",
        about: "sessions that go from node to node with their token, at level session",
        checks: &["sessions", "versions", "receipts"],
        clients: 5,
        make: || Box::new(sessions::Sessions::default()),
    },
    Kind {
        name: "bounded",
        about: "writes, and reads at bounded staleness and at level local from one node each",
        checks: &["receipts", "versions"],
        clients: 6,
        make: || Box::new(bounded::Bounded),
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_workload_is_judged_and_named_once() {
        let mut names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), KINDS.len());
        assert!(KINDS.iter().all(|kind| !kind.checks.is_empty() && kind.clients > 0));
    }
}
