//! Put if absent, as a source of ids: whoever creates the key has the number, and nobody else ever.

use super::{Call, Caller, Workload, caller::Told};
use crate::{history::Value, real::cluster::SPREAD};
use anyhow::Result;
use futures::future::BoxFuture;
use kvorum_client::{ClientError, Cp, Keyspace};
use std::sync::atomic::{AtomicI64, Ordering};

/// Numbers tried by one operation.
const TRIES_MAX: i64 = 100;

/// The name of the source in the history.
const SOURCE: &str = "ids";

/// A source of ids. `lowest_free` is a hint: clients race for the numbers above it.
#[derive(Default)]
pub struct ConditionalPut {
    lowest_free: AtomicI64,
}

impl ConditionalPut {
    async fn generate(&self, keyspace: Keyspace<Cp>) -> Told {
        let first = self.lowest_free.load(Ordering::Relaxed);
        let mut taken = None;
        for id in first..first + TRIES_MAX {
            match keyspace.put(format!("{SOURCE}/{id}"), id.to_string()).if_absent().await {
                Ok(written) => {
                    self.lowest_free.fetch_max(id + 1, Ordering::Relaxed);
                    return Ok((Value::Int(id), Some(written.receipt)));
                }
                Err(error @ ClientError::NotApplied(_)) => {
                    self.lowest_free.fetch_max(id + 1, Ordering::Relaxed);
                    taken = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        Err(taken.expect("a number was tried"))
    }
}

impl Workload for ConditionalPut {
    fn step<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let keyspace = caller.keyspace(SPREAD);
            let call = Call { is_write: true, operation: "generate", key: Some(SOURCE.to_owned()), ..Call::default() };
            caller.record(call, self.generate(keyspace)).await;
        })
    }

    /// What was given out is what was told: there is nothing to read.
    fn last<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            self.step(caller).await;
            Ok(())
        })
    }
}
