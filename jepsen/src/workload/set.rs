//! A set per prefix: each element is a key, and a linearizable scan of their one shard shows them all.

use super::{
    Call, Caller, Workload,
    caller::{Told, told_write, value_of},
};
use crate::{history::Value, real::cluster::ORDERED};
use anyhow::Result;
use futures::future::BoxFuture;
use kvorum_client::Scan;
use rand::Rng as _;
use std::sync::atomic::{AtomicU64, Ordering};

/// Elements of a set, about: then the next one begins.
const ELEMENTS_MAX: u64 = 200;

/// Of a hundred operations so many read.
const READS_PERCENT: u32 = 25;

/// Sets that grow.
#[derive(Default)]
pub struct Set {
    adds: AtomicU64,
}

impl Set {
    fn name(adds: u64) -> String {
        format!("set{}", adds / ELEMENTS_MAX)
    }
}

/// The elements that a scan shows, and the receipt of its first shard.
pub(super) async fn told_scan(scan: Scan) -> Told {
    let mut stream = scan.await?;
    let mut elements = Vec::new();
    while let Some(entry) = stream.next().await? {
        elements.push(value_of(&entry.value));
    }
    // Receipts of several shards are no receipt of the whole.
    let receipt = Some(stream.receipts()).filter(|receipts| receipts.len() == 1).and_then(|one| one.first().cloned());
    Ok((Value::List(elements), receipt))
}

impl Workload for Set {
    fn step<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            let keyspace = caller.keyspace(ORDERED);
            if caller.chance.random_ratio(READS_PERCENT, 100) {
                let set = Set::name(self.adds.load(Ordering::Relaxed));
                let scan = keyspace.scan().prefix(format!("{set}/"));
                caller.record(Call::read(set), told_scan(scan)).await;
                return;
            }
            let set = Set::name(self.adds.fetch_add(1, Ordering::Relaxed));
            let element = caller.unique();
            let put = keyspace.put(format!("{set}/{element}"), element.to_string());
            caller.record(Call::write("add", set, element), told_write(put)).await;
        })
    }

    fn last<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            let sets = self.adds.load(Ordering::Relaxed) / ELEMENTS_MAX;
            for set in (0..=sets).map(|set| format!("set{set}")) {
                let scan = |caller: &Caller| told_scan(caller.keyspace(ORDERED).scan().prefix(format!("{set}/")));
                caller.insist(Call::read(set.as_str()), scan).await?;
            }
            Ok(())
        })
    }
}
