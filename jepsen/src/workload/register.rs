//! A register per key: linearizable reads, and writes of values that are written once.

use super::{
    Call, Caller, Workload,
    caller::{told_get, told_write},
    keys::KeyRing,
};
use crate::real::cluster::ORDERED;
use anyhow::Result;
use futures::future::BoxFuture;
use rand::Rng as _;

/// Registers.
pub struct Register {
    keys: KeyRing,
}

impl Default for Register {
    fn default() -> Self {
        Register { keys: KeyRing::new("register/", 8, 300) }
    }
}

impl Workload for Register {
    fn step<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let key = self.keys.pick(&mut caller.chance);
            let keyspace = caller.keyspace(ORDERED);
            if caller.chance.random_bool(0.5) {
                caller.record(Call::read(key.as_str()), told_get(keyspace.get(key.as_str()))).await;
                return;
            }
            let value = caller.unique();
            let put = keyspace.put(key.as_str(), value.to_string());
            let told = caller.record(Call::write("write", key.as_str(), value), told_write(put)).await;
            self.keys.note(&key, told.as_ref());
        })
    }

    fn last<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for key in self.keys.names() {
                let read = |caller: &Caller| told_get(caller.keyspace(ORDERED).get(key.as_str()));
                caller.insist(Call::read(key.as_str()), read).await?;
            }
            Ok(())
        })
    }
}
