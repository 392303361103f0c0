//! Journal: syncs that take time, on a disk whose power may fail at any step.
//!
//! **Invariant.** The moment the power fails the life ends: whatever the node makes of the errors that follow, nobody
//! hears of it.

use super::network::{Life, Network};
use kvorum_api::{GroupId, NodeId};
use kvorum_storage::{
    Journal, StorageError,
    journal::{BatchNumber, Completion, GroupState, JournalStatus, LogRecord, Mark, MemJournal, Step},
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

/// The journal of one life of a node.
pub struct SlowJournal {
    journal: Arc<MemJournal>,
    life: Life,
    wake: Notify,
    sync_ms: Arc<AtomicU64>,
}

impl SlowJournal {
    /// Over a journal that waits for its steps.
    pub fn new(journal: Arc<MemJournal>, life: Life, sync_ms: Arc<AtomicU64>) -> Self {
        SlowJournal { journal, life, wake: Notify::new(), sync_ms }
    }

    /// Writes and syncs what is queued, batch by batch, until the life ends; not while its machine is paused.
    pub async fn pump(self: Arc<Self>, id: NodeId, network: Arc<Network>) {
        tokio::select! {
            biased;
            () = self.life.ended() => {}
            () = self.work(id, &network) => {}
        }
    }

    async fn work(&self, id: NodeId, network: &Network) {
        loop {
            network.awake(id).await;
            let step = self.journal.step();
            self.notice();
            match step {
                Step::Written => sleep(Duration::from_millis(self.sync_ms.load(Ordering::SeqCst))).await,
                Step::Synced => {}
                Step::Idle => self.wake.notified().await,
            }
        }
    }

    /// Ends the life if the power has just failed.
    fn notice(&self) {
        if self.journal.disk().is_out_of_power() {
            self.life.end();
        }
    }
}

impl Journal for SlowJournal {
    fn append(&self, group: GroupId, entries: Vec<LogRecord>, done: Completion) -> Result<(), StorageError> {
        let appended = self.journal.append(group, entries, done);
        self.notice();
        self.wake.notify_one();
        appended
    }

    fn mark(&self, group: GroupId, mark: Mark, done: Completion) -> Result<(), StorageError> {
        let marked = self.journal.mark(group, mark, done);
        self.notice();
        self.wake.notify_one();
        marked
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
