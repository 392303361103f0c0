//! A register per key with compare-and-set, on few values: whoever swaps must have seen what is there.

use super::{
    Call, Caller, Workload,
    caller::{Told, told_get, told_write},
    keys::KeyRing,
};
use crate::{history::Value, real::cluster::SPREAD};
use anyhow::Result;
use futures::future::BoxFuture;
use kvorum_client::{ClientError, Put, Write};
use rand::Rng as _;

/// Values there are.
const VALUES: i64 = 5;

/// Registers with compare-and-set.
pub struct CasRegister {
    keys: KeyRing,
}

impl Default for CasRegister {
    fn default() -> Self {
        CasRegister { keys: KeyRing::new("cas/", 8, 120) }
    }
}

/// A comparison that fails is an answer: the key does not hold what was expected.
async fn told_swap(swap: Write<Put>) -> Told {
    match swap.await {
        Ok(written) => Ok((Value::Bool(true), Some(written.receipt))),
        Err(ClientError::NotApplied(told)) => Ok((Value::Bool(false), Some(told.answer.receipt))),
        Err(error) => Err(error),
    }
}

impl Workload for CasRegister {
    fn step<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let key = self.keys.pick(&mut caller.chance);
            let keyspace = caller.keyspace(SPREAD);
            let (from, to) = (caller.chance.random_range(0..VALUES), caller.chance.random_range(0..VALUES));
            let told = match caller.chance.random_range(0..3) {
                0 => {
                    caller.record(Call::read(key.as_str()), told_get(keyspace.get(key.as_str()))).await;
                    return;
                }
                1 => {
                    let put = keyspace.put(key.as_str(), to.to_string());
                    caller.record(Call::write("write", key.as_str(), to), told_write(put)).await
                }
                _ => {
                    let swap = keyspace.compare_and_set(key.as_str(), from.to_string(), to.to_string());
                    let call = Call::write("cas", key.as_str(), Value::List(vec![from.into(), to.into()]));
                    caller.record(call, told_swap(swap)).await
                }
            };
            self.keys.note(&key, told.as_ref());
        })
    }

    fn last<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for key in self.keys.names() {
                let read = |caller: &Caller| told_get(caller.keyspace(SPREAD).get(key.as_str()));
                caller.insist(Call::read(key.as_str()), read).await?;
            }
            Ok(())
        })
    }
}
