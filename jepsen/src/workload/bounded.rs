//! Reads that may be old, but only so old, and say how old: from the node each client is bound to.

use super::{
    Call, Caller, Workload,
    caller::{told_get, told_write},
};
use crate::real::cluster::ORDERED;
use anyhow::Result;
use futures::future::BoxFuture;
use kvorum_client::ReadLevel;
use rand::Rng as _;
use std::time::Duration;

/// Keys all clients share.
const KEYS: u32 = 6;

/// Bounds asked for, milliseconds.
const BOUNDS_MS: [u64; 3] = [50, 200, 1_000];

/// Reads with a bound.
pub struct Bounded;

impl Workload for Bounded {
    fn step<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let key = format!("bounded/{}", caller.chance.random_range(0..KEYS));
            let keyspace = caller.keyspace(ORDERED);
            let level = match caller.chance.random_range(0..10) {
                0..4 => {
                    let value = caller.unique();
                    let put = keyspace.put(key.as_str(), value.to_string());
                    caller.record(Call::write("write", key.as_str(), value), told_write(put)).await;
                    return;
                }
                4..8 => ReadLevel::Bounded(Duration::from_millis(BOUNDS_MS[caller.chance.random_range(0..3)])),
                _ => ReadLevel::Local,
            };
            let call = Call { level: Some(level), ..Call::read(key.as_str()) };
            caller.record(call, told_get(keyspace.get(key.as_str()).level(level))).await;
        })
    }

    fn last<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for key in (0..KEYS).map(|key| format!("bounded/{key}")) {
                let read = |caller: &Caller| told_get(caller.keyspace(ORDERED).get(key.as_str()));
                caller.insist(Call::read(key.as_str()), read).await?;
            }
            Ok(())
        })
    }
}
