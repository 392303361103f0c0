//! # Disk: what one machine keeps, and how it loses power
//!
//! ```text
//!   node ──▶ SlowJournal ──wakes──▶ pump: write a batch, let its sync take time, tell everybody
//!   power lost ──▶ every unsynced sector keeps its new bytes or falls back, by chance
//! ```
//!
//! **Invariant.** What a life was told is durable survives every crash; what it was not told may, or may not.

use super::{chance::Chance, network::Life};
use kvorum_api::{GroupId, StartCount};
use kvorum_storage::{
    Engine, Journal, Shard, StorageError, engine,
    journal::{
        self, BatchNumber, Completion, GroupState, JournalOptions, JournalStatus, LogRecord, Mark, MemJournal, Step,
    },
    shard::{Applied, ShardSpec},
};
use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{sync::Notify, time::sleep};

/// The disk of one machine.
pub struct SimDisk {
    engine: engine::mem::MemDisk,
    journal: journal::MemDisk,
    /// How often a node was started on it; synced before the node serves.
    starts: u64,
    sync_ms: Arc<AtomicU64>,
}

/// What a new life finds.
pub struct Opened {
    /// The engine as it was flushed.
    pub engine: Arc<dyn Engine>,
    /// The journal as it was synced, at least.
    pub journal: Arc<SlowJournal>,
    /// Which life this is.
    pub start: StartCount,
    /// What should never be found on a disk.
    pub violations: Vec<String>,
}

impl SimDisk {
    /// An empty disk that syncs in a millisecond.
    pub fn new() -> Self {
        SimDisk {
            engine: engine::mem::MemDisk::new(),
            journal: journal::MemDisk::new(),
            starts: 0,
            sync_ms: Arc::new(AtomicU64::new(1)),
        }
    }

    /// From now on a sync takes this long.
    pub fn set_sync_ms(&self, sync_ms: u64) {
        self.sync_ms.store(sync_ms, Ordering::SeqCst);
    }

    /// Begins a new life on what survived. `shards`: every shard that ever was, and whether it was dropped since.
    ///
    /// # Errors
    /// What is found on the disk cannot be read. An honest node never sees this.
    pub fn open(&mut self, shards: &[(ShardSpec, bool)]) -> Result<Opened, StorageError> {
        self.starts += 1;
        let engine = self.engine.open();
        let mut stands = Vec::new();
        for (spec, is_dropped) in shards {
            stands.push((spec.shard, Shard::open(engine.clone(), *spec)?.state().applied, *is_dropped));
        }
        let resume_above = stands.iter().map(|(_, applied, _)| applied.batch).max().unwrap_or_default();
        let options = JournalOptions { resume_above, ..JournalOptions::small() };
        let journal = Arc::new(SlowJournal {
            journal: MemJournal::open_stepped(self.journal.clone(), options)?,
            wake: Arc::new(Notify::new()),
            sync_ms: Arc::clone(&self.sync_ms),
        });
        let mut violations = Vec::new();
        for (shard, applied, is_dropped) in stands {
            let group = journal.group(GroupId::from(shard));
            // What was dropped is erased before its log is forgotten, and power may be lost in between.
            let found = if is_dropped { leftovers(&group, &applied) } else { contradictions(&group, &applied) };
            violations.extend(found.map(|what| format!("shard {shard}: {what}")));
        }
        Ok(Opened { engine, journal, start: StartCount(self.starts), violations })
    }

    /// The machine crashes. Sometimes only the process does, sometimes nothing that was not synced survives, mostly
    /// some sectors do and some do not.
    pub fn lose_power(&self, fate: u64) {
        let mut chance = Chance::new(fate, "sectors");
        self.engine.lose_power();
        match chance.within(0..4) {
            0 => self.journal.kill(),
            1 => self.journal.lose_power(|_| false),
            _ => self.journal.lose_power(|_| chance.hits(500)),
        }
    }
}

/// What journal and engine must agree on after any crash (rules J2, S2), unless an installation is to be repeated.
fn contradictions(journal: &GroupState, applied: &Applied) -> Option<String> {
    if journal.installing.is_some() {
        return None;
    }
    let applied = applied.position.map_or(0, |position| position.index);
    let purged = journal.purged.as_ref().map_or(0, |(index, _)| *index);
    let last = journal.entries.map_or(purged, |(_, last)| last);
    if purged > applied {
        return Some(format!("the log is forgotten up to {purged}, and only {applied} is flushed"));
    }
    (applied > last).then(|| format!("the engine is at {applied}, ahead of the journal, which ends at {last}"))
}

/// What must not be of a shard that was dropped: without its log nobody would ever find the rest.
fn leftovers(journal: &GroupState, applied: &Applied) -> Option<String> {
    let is_left = *journal == GroupState::default() && applied.position.is_some();
    is_left.then(|| format!("its log is forgotten, and the engine still holds it at {:?}", applied.position))
}

impl Default for SimDisk {
    fn default() -> Self {
        SimDisk::new()
    }
}

/// A journal whose syncs take time.
pub struct SlowJournal {
    journal: Arc<MemJournal>,
    wake: Arc<Notify>,
    sync_ms: Arc<AtomicU64>,
}

impl SlowJournal {
    /// Writes and syncs what is queued, batch by batch, until the life ends.
    pub async fn pump(self: Arc<Self>, life: Life) {
        tokio::select! {
            biased;
            () = life.ended() => {}
            () = self.work() => {}
        }
    }

    async fn work(&self) {
        loop {
            match self.journal.step() {
                Step::Written => sleep(Duration::from_millis(self.sync_ms.load(Ordering::SeqCst))).await,
                Step::Synced => {}
                Step::Idle => self.wake.notified().await,
            }
        }
    }
}

impl Journal for SlowJournal {
    fn append(&self, group: GroupId, entries: Vec<LogRecord>, done: Completion) -> Result<(), StorageError> {
        self.journal.append(group, entries, done)?;
        self.wake.notify_one();
        Ok(())
    }

    fn mark(&self, group: GroupId, mark: Mark, done: Completion) -> Result<(), StorageError> {
        self.journal.mark(group, mark, done)?;
        self.wake.notify_one();
        Ok(())
    }

    fn entries(&self, group: GroupId, range: Range<u64>, bytes_max: usize) -> Result<Vec<LogRecord>, StorageError> {
        self.journal.entries(group, range, bytes_max)
    }

    fn group(&self, group: GroupId) -> GroupState {
        self.journal.group(group)
    }

    fn groups(&self) -> Vec<GroupId> {
        self.journal.groups()
    }

    fn when_durable(
        &self,
        group: GroupId,
        index: u64,
        done: Box<dyn FnOnce(Result<BatchNumber, StorageError>) + Send>,
    ) {
        self.journal.when_durable(group, index, done);
    }

    fn last_synced(&self) -> BatchNumber {
        self.journal.last_synced()
    }

    fn oldest_held_by(&self) -> Option<(GroupId, u64)> {
        self.journal.oldest_held_by()
    }

    fn status(&self) -> JournalStatus {
        self.journal.status()
    }

    fn stop(&self) {
        self.journal.stop();
    }
}
