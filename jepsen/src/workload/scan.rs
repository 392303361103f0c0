//! Full scans over several shards, against a set of which every element is known.
//!
//! The set is there before anything bad happens, and grows slowly. Each shard's part of a scan is of one moment after
//! the scan began, so whatever was acknowledged before must be in it.

use super::{Call, Caller, Workload, caller::told_write, set::told_scan};
use crate::real::cluster::SPREAD;
use anyhow::{Result, bail};
use futures::future::BoxFuture;
use rand::Rng as _;

/// Elements there are from the beginning.
const KNOWN: i64 = 200;

/// The name of the set in the history, and the beginning of its keys.
const SET: &str = "known";

/// Of a hundred operations so many add.
const ADDS_PERCENT: u32 = 30;

/// Scans of the whole keyspace.
pub struct Scans;

impl Scans {
    fn scan(caller: &Caller, is_reverse: bool) -> kvorum_client::Scan {
        let scan = caller.keyspace(SPREAD).scan().prefix(format!("{SET}/")).full_scan();
        if is_reverse { scan.reverse() } else { scan }
    }
}

impl Workload for Scans {
    fn prepare<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for _ in 0..KNOWN {
                let element = caller.unique();
                let put = caller.keyspace(SPREAD).put(format!("{SET}/{element}"), element.to_string());
                if caller.record(Call::write("add", SET, element), told_write(put)).await.is_none() {
                    bail!("element {element} of the known set cannot be written");
                }
            }
            Ok(())
        })
    }

    fn step<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            if caller.chance.random_ratio(ADDS_PERCENT, 100) {
                let element = caller.unique();
                let put = caller.keyspace(SPREAD).put(format!("{SET}/{element}"), element.to_string());
                caller.record(Call::write("add", SET, element), told_write(put)).await;
                return;
            }
            let is_reverse = caller.chance.random();
            let scan = Scans::scan(caller, is_reverse);
            caller.record(Call::read(SET), told_scan(scan)).await;
        })
    }

    fn last<'a>(&'a self, caller: &'a mut Caller) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            for is_reverse in [false, true] {
                caller.insist(Call::read(SET), |caller| told_scan(Scans::scan(caller, is_reverse))).await?;
            }
            Ok(())
        })
    }
}
