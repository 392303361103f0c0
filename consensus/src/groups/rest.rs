//! Reads of a replica whose group is closed: the shard answers alone (rule G4).
//!
//! **Invariant.** Nothing is known about how stale the answer is, and nothing is claimed (rule R2).

use super::replica::Replica;
use crate::{
    cp::rows::{ShardRows, unreadable},
    replicator::{Found, RequestContext, Rows},
};
use bytes::Bytes;
use kvorum_api::{LogPosition, Mode, ReadError, ReadLevel, Receipt, Version};
use kvorum_storage::{
    Shard,
    shard::{Answer, Lookup, ScanRange},
};

/// Whether the shard alone can answer: any replica may answer `local`, and `session` if it holds what the session saw.
/// One that holds nothing yet, not even the founding settings, cannot: what it does not find may well be there.
pub(super) fn is_covered(shard: &Shard, incarnation: u32, level: ReadLevel, context: &RequestContext) -> bool {
    let holds_something = shard.state().settings.is_some();
    holds_something
        && match level {
            ReadLevel::Local => true,
            ReadLevel::Session => {
                let seen = context.session.as_ref().and_then(|token| token.shards.get(&shard.spec().shard).copied());
                let applied = *shard.watch_applied().borrow();
                seen.is_none_or(|seen| seen.incarnation == incarnation && applied >= Some(seen.position))
            }
            ReadLevel::Linearizable | ReadLevel::Bounded(_) | ReadLevel::One | ReadLevel::Quorum | ReadLevel::All => {
                false
            }
        }
}

impl Replica {
    pub(super) async fn get_at_rest(
        &self,
        key: Bytes,
        level: ReadLevel,
        context: &RequestContext,
    ) -> Result<Found, ReadError> {
        self.refuse_older_epoch(context)?;
        let _ = self.shared.hlc.observe(context.stamp);
        let shard_id = self.shard_id();
        let Answer { entry, position } =
            match self.shard.get_cached(&key).map_err(|error| unreadable(shard_id, error))? {
                Lookup::Known(answer) => answer,
                Lookup::WouldBlock => {
                    let shard = self.shard.clone();
                    let found = self.shared.env.blocking.run(move || shard.get(&key)).await;
                    found.map_err(|error| unreadable(shard_id, error))?
                }
            };
        let version = entry.as_ref().map(|entry| entry.version);
        Ok(Found { entry, receipt: self.receipt_at_rest(level, position.unwrap_or_default(), version) })
    }

    pub(super) async fn scan_at_rest(
        &self,
        range: ScanRange,
        level: ReadLevel,
        context: &RequestContext,
    ) -> Result<Box<dyn Rows>, ReadError> {
        self.refuse_older_epoch(context)?;
        let _ = self.shared.hlc.observe(context.stamp);
        let (shard, blocking) = (self.shard.clone(), self.shared.env.blocking.clone());
        let scan = blocking.run(move || shard.scan(range)).await;
        let scan = scan.map_err(|error| unreadable(self.shard_id(), error))?;
        let receipt = self.receipt_at_rest(level, scan.position().unwrap_or_default(), None);
        Ok(Box::new(ShardRows::new(scan, self.shard_id(), blocking, receipt)))
    }

    fn refuse_older_epoch(&self, context: &RequestContext) -> Result<(), ReadError> {
        let epoch = self.epoch();
        match context.epoch {
            Some(believed) if believed < epoch => {
                let why = format!("the asker believes in epoch {believed}");
                Err(ReadError::StaleEpoch { shard: self.shard_id(), epoch, why })
            }
            Some(_) | None => Ok(()),
        }
    }

    fn epoch(&self) -> u64 {
        let place = self.place();
        self.shard.state().settings.map_or(place.config.settings.epoch, |settings| settings.epoch)
    }

    fn receipt_at_rest(&self, level: ReadLevel, position: LogPosition, version: Option<Version>) -> Receipt {
        Receipt {
            mode: Mode::Cp,
            level: Some(level),
            shard: self.shard_id(),
            epoch: self.epoch(),
            incarnation: self.place().config.incarnation,
            node: self.shared.me(),
            version,
            position,
            staleness: None,
            durable_replicas: 0,
            stamp: self.shared.hlc.now_told(),
        }
    }
}
