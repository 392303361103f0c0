//! Writes that are never given up: increments with a short deadline, repeated under the same request id until answered.
//!
//! **Invariant.** Repeating is at most once: a number that counts a step twice, or that two increments are told, is a
//! broken promise. A repetition that is refused as too old stays of unknown outcome.

use super::{Call, Caller, Workload, caller::Told, increment::told_number, keys::KeyRing};
use crate::{history::Value, real::cluster::ORDERED};
use anyhow::Result;
use futures::future::BoxFuture;
use kvorum_client::{ClientError, Increment, Write};
use rand::Rng as _;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Short enough that a busy leader misses it now and then.
const DEADLINE: Duration = Duration::from_millis(150);

/// How long a write is repeated.
const PATIENCE: Duration = Duration::from_secs(20);

/// Between two repetitions.
const PAUSE: Duration = Duration::from_millis(50);

/// Counters whose increments are repeated.
pub struct Retries {
    keys: KeyRing,
}

impl Default for Retries {
    fn default() -> Self {
        Retries { keys: KeyRing::new("retry/", 4, 150) }
    }
}

async fn until_answered(increment: Write<Increment>) -> Told {
    let until = Instant::now() + PATIENCE;
    let mut unknown = match increment.await {
        Ok(told) => return Ok((Value::Int(told.number), Some(told.written.receipt))),
        Err(ClientError::Unknown(unknown)) => unknown,
        Err(error) => return Err(error),
    };
    loop {
        sleep(PAUSE).await;
        match unknown.retry_within(DEADLINE).await {
            Ok(written) => {
                let number = written.results.first().and_then(|result| result.number);
                return Ok((number.map(Value::Int).unwrap_or_default(), Some(written.receipt)));
            }
            Err(ClientError::Unknown(again)) if Instant::now() < until => unknown = again,
            Err(error) => return Err(error),
        }
    }
}

impl Workload for Retries {
    fn step<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let key = self.keys.pick(&mut caller.chance);
            let keyspace = caller.keyspace(ORDERED);
            if caller.chance.random_bool(0.2) {
                caller.record(Call::read(key.as_str()), told_number(keyspace.get(key.as_str()))).await;
                return;
            }
            let increment = keyspace.increment(key.as_str(), 1).timeout(DEADLINE);
            let call = Call::write("increment", key.as_str(), 1);
            let told = caller.record(call, until_answered(increment)).await;
            self.keys.note(&key, told.as_ref());
        })
    }

    fn last<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for key in self.keys.names() {
                let read = |caller: &Caller| told_number(caller.keyspace(ORDERED).get(key.as_str()));
                caller.insist(Call::read(key.as_str()), read).await?;
            }
            Ok(())
        })
    }
}
