//! Counters: increments that are told the new number, and linearizable reads.

use super::{
    Call, Caller, Workload,
    caller::{Told, told_get},
    keys::KeyRing,
};
use crate::{history::Value, real::cluster::SPREAD};
use anyhow::Result;
use futures::future::BoxFuture;
use kvorum_client::{Increment, Write};
use rand::Rng as _;

/// Counters.
pub struct Increments {
    keys: KeyRing,
}

impl Default for Increments {
    fn default() -> Self {
        Increments { keys: KeyRing::new("counter/", 6, 150) }
    }
}

async fn told_increment(increment: Write<Increment>) -> Told {
    let told = increment.await?;
    Ok((Value::Int(told.number), Some(told.written.receipt)))
}

/// A counter nobody has touched is zero.
pub(super) async fn told_number(get: kvorum_client::Get) -> Told {
    let (value, receipt) = told_get(get).await?;
    Ok((if value.is_nil() { Value::Int(0) } else { value }, receipt))
}

impl Workload for Increments {
    fn step<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let key = self.keys.pick(&mut caller.chance);
            let keyspace = caller.keyspace(SPREAD);
            if caller.chance.random_bool(0.3) {
                caller.record(Call::read(key.as_str()), told_number(keyspace.get(key.as_str()))).await;
                return;
            }
            let step = caller.chance.random_range(1..=5);
            let increment = keyspace.increment(key.as_str(), step);
            let told = caller.record(Call::write("increment", key.as_str(), step), told_increment(increment)).await;
            self.keys.note(&key, told.as_ref());
        })
    }

    fn last<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for key in self.keys.names() {
                let read = |caller: &Caller| told_number(caller.keyspace(SPREAD).get(key.as_str()));
                caller.insist(Call::read(key.as_str()), read).await?;
            }
            Ok(())
        })
    }
}
