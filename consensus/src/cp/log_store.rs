//! openraft's log store over the node's journal.
//!
//! Everything of one group goes through the journal in order: votes, entries, marks. `append` returns as soon as the
//! entries are readable and reports later that they are durable; a vote is durable when `save_vote` returns.
//!
//! **Invariant.** After a start `get_log_state` reports the durable purge mark; before, what openraft asked for.

use super::{
    codec::raft::{decode_entry, encode_entry, encode_log_id, encode_vote},
    store::{ReplicaStore, to_io},
    types::{Entry, LogId, Types, Vote},
};
use futures::{Stream, stream};
use kvorum_storage::{
    StorageError,
    journal::{Completion, LogRecord, Mark},
    planted,
};
use openraft::{
    EntryPayload, LogState, OptionalSend, RaftLogReader,
    storage::{IOFlushed, RaftLogStorage},
};
use parking_lot::Mutex;
use std::{
    fmt::Debug,
    io,
    ops::{Bound, Range, RangeBounds},
    sync::Arc,
};

/// Entries this close to the end are in the journal's memory: reading them waits for no disk.
const HOT_ENTRIES: u64 = 16;

/// Bytes read at once on the way to the shard.
const APPLY_READ_BYTES: usize = 4 << 20;

/// One group's log. Cheap to clone: readers are clones.
#[derive(Clone)]
pub struct LogStore {
    store: Arc<ReplicaStore>,
}

impl LogStore {
    /// The log of a replica.
    #[must_use]
    pub fn new(store: Arc<ReplicaStore>) -> Self {
        LogStore { store }
    }

    /// An entry as the journal takes it.
    fn encode(&self, entry: &Entry) -> LogRecord {
        if let EntryPayload::Normal(encoded) = &entry.payload {
            self.store.traces.note(entry.log_id.index, &encoded.trace);
        }
        encode_entry(entry)
    }

    /// What of `range` is there, as openraft sees it.
    fn clip(&self, range: &impl RangeBounds<u64>) -> Range<u64> {
        let start = match range.start_bound() {
            Bound::Included(start) => *start,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last.saturating_add(1),
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let (first, beyond) = self.store.with_bounds(|bounds| {
            (bounds.purged.map_or(0, |purged| purged.index + 1), bounds.last.map_or(0, |last| last.index + 1))
        });
        let start = start.max(first);
        start..end.min(beyond).max(start)
    }

    async fn read(&self, range: Range<u64>, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if range.is_empty() {
            return Ok(Vec::new());
        }
        let is_hot = self
            .store
            .with_bounds(|bounds| bounds.last.is_none_or(|last| range.start.saturating_add(HOT_ENTRIES) > last.index));
        let store = self.store.clone();
        let records = if is_hot {
            store.journal.entries(store.group, range, bytes_max)
        } else {
            self.store.blocking.run(move || store.journal.entries(store.group, range, bytes_max)).await
        };
        let records = records.inspect_err(|error| self.store.poison_if_fatal(error)).map_err(to_io)?;
        records.into_iter().map(|record| decode_entry(record).map_err(io::Error::from)).collect()
    }

    /// Queues records; a full disk is waited out, because openraft would take the error as the end of the replica.
    async fn append_records(&self, records: Vec<LogRecord>, flushed: IOFlushed<Types>) -> Result<(), StorageError> {
        let is_signal = matches!(flushed, IOFlushed::Signal(_));
        let flushed = Arc::new(Mutex::new(Some(flushed)));
        loop {
            let (store, untold) = (self.store.clone(), flushed.clone());
            let tell = Box::new(move |result: Result<(), StorageError>| {
                if let Err(error) = &result {
                    store.poison_if_fatal(error);
                }
                if let Some(flushed) = untold.lock().take() {
                    flushed.io_completed(result.map_err(to_io));
                }
            });
            let done = if is_signal { Completion::Signal(tell) } else { Completion::Watermark(tell) };
            match self.store.journal.append(self.store.group, records.clone(), done) {
                Err(StorageError::DiskFull(why)) => {
                    self.store.wait_for_room(&why).await?;
                }
                result => {
                    if planted!("bug-ack-before-durable")
                        && let Some(flushed) = flushed.lock().take()
                    {
                        flushed.io_completed(Ok(()));
                    }
                    return result;
                }
            }
        }
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        self.read(self.clip(&range), usize::MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.store.with_bounds(|bounds| bounds.vote))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(self.clip(&(start..end)), self.store.read_bytes_max).await
    }

    /// Committed entries on their way to the shard, a few MiB at a time.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let log = self.clone();
        let range = self.clip(&range);
        let state = (log, range, Vec::new().into_iter());
        Box::pin(stream::try_unfold(state, |(log, range, mut ready): (LogStore, Range<u64>, _)| async move {
            if let Some(entry) = ready.next() {
                return Ok(Some((entry, (log, range, ready))));
            }
            let mut read = log.read(range.clone(), APPLY_READ_BYTES).await?.into_iter();
            Ok(read.next().map(|entry: Entry| {
                let start = read.as_slice().last().map_or(entry.log_id.index, |last| last.log_id.index) + 1;
                (entry, (log, start..range.end.max(start), read))
            }))
        }))
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        Ok(self.store.with_bounds(|bounds| LogState { last_purged_log_id: bounds.purged, last_log_id: bounds.last }))
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        if !planted!("bug-vote-not-kept") {
            self.store.mark_durably(Mark::Vote(encode_vote(vote)), None).await.map_err(to_io)?;
        }
        self.store.with_bounds(|bounds| bounds.vote = Some(*vote));
        Ok(())
    }

    /// Not waited for: it only spares a restarted replica from serving less than it served before.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let Some(committed) = committed else { return Ok(()) };
        self.store.with_bounds(|bounds| bounds.committed = Some(committed));
        match self.store.journal.mark(self.store.group, Mark::Committed(encode_log_id(&committed)), Completion::None) {
            Ok(()) | Err(StorageError::DiskFull(_)) => Ok(()),
            Err(error) => {
                self.store.poison_if_fatal(&error);
                Err(to_io(error))
            }
        }
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.store.with_bounds(|bounds| bounds.committed))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let records: Vec<LogRecord> = entries.into_iter().map(|entry| self.encode(&entry)).collect();
        let (Some(first), Some(last)) = (records.first(), records.last()) else {
            callback.io_completed(Ok(()));
            return Ok(());
        };
        let last = LogId::new_term_index(last.term, last.index);
        let bytes = records.iter().map(|record| record.payload.len() as u64).sum();
        self.store.wait_for_end(first.index).await.map_err(to_io)?;
        let appended = self.append_records(records, callback).await;
        appended.inspect_err(|error| self.store.poison_if_fatal(error)).map_err(to_io)?;
        self.store.appended(last, bytes);
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        loop {
            match self.store.truncate(last) {
                Err(StorageError::DiskFull(why)) => self.store.wait_for_room(&why).await.map_err(to_io)?,
                result => return result.map_err(to_io),
            }
        }
    }

    async fn purge(&mut self, upto: LogId) -> Result<(), io::Error> {
        self.store.purge(upto).await.map_err(to_io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cp::state_machine::StateMachine, cp::types::Payload, health::Health};
    use futures::stream;
    use kvorum_api::{GroupId, KeyspaceId, ShardId};
    use kvorum_storage::{
        Blocking, Engine, Journal, Shard,
        engine::mem::{MemDisk as EngineDisk, MemEngine},
        journal::{JournalOptions, MemDisk, MemJournal},
        shard::ShardSpec,
    };
    use openraft::{storage::RaftStateMachine, type_config::TypeConfigExt as _};
    use std::time::Duration;

    const SPEC: ShardSpec = ShardSpec { shard: ShardId(1), keyspace: KeyspaceId(1) };

    struct Place {
        engine: Arc<MemEngine>,
        journal: Arc<MemJournal>,
        store: Arc<ReplicaStore>,
        log: LogStore,
    }

    fn open(engine: &EngineDisk, journal: &MemDisk) -> Place {
        let engine = engine.open();
        let journal = MemJournal::open(journal.clone(), JournalOptions::small()).unwrap();
        let shard = Shard::open(engine.clone(), SPEC).unwrap();
        let parts = (journal.clone() as Arc<dyn Journal>, engine.clone() as Arc<dyn Engine>, Blocking::inline());
        let store = ReplicaStore::open(parts, shard, Arc::new(Health::default()), 1 << 20).unwrap();
        Place { engine, journal, log: LogStore::new(store.clone()), store }
    }

    fn blank(index: u64) -> Entry {
        Entry { log_id: LogId::new_term_index(1, index), payload: Payload::Blank }
    }

    async fn append(log: &mut LogStore, indexes: Range<u64>) {
        let (done, told) = Types::oneshot();
        log.append(indexes.map(blank), IOFlushed::signal(done)).await.unwrap();
        told.await.unwrap().unwrap();
    }

    /// Rule S2: openraft sees the purge at once, the journal forgets only what is flushed, the rest after the next
    /// flush.
    #[tokio::test]
    async fn purging_never_passes_what_is_flushed() {
        let (engine, journal) = (EngineDisk::new(), MemDisk::new());
        let mut place = open(&engine, &journal);
        append(&mut place.log, 0..10).await;
        let mut machine = StateMachine::new(place.store.clone());
        machine.apply(stream::iter((0..6).map(|index| Ok((blank(index), None))))).await.unwrap();
        place.log.purge(LogId::new_term_index(1, 5)).await.unwrap();
        assert_eq!(place.log.get_log_state().await.unwrap().last_purged_log_id.unwrap().index, 5);
        assert!(place.log.try_get_log_entries(0..6).await.unwrap().is_empty());
        assert_eq!(place.journal.group(GroupId(1)).purged, None, "nothing is flushed");

        // A crash now: the log is whole again, and what was applied is applied again.
        engine.lose_power();
        journal.lose_power(|_| false);
        let mut place = open(&engine, &journal);
        assert_eq!(place.log.get_log_state().await.unwrap().last_purged_log_id, None);
        assert_eq!(place.log.try_get_log_entries(0..10).await.unwrap().len(), 10);

        let mut machine = StateMachine::new(place.store.clone());
        machine.apply(stream::iter((0..4).map(|index| Ok((blank(index), None))))).await.unwrap();
        place.engine.flush().unwrap();
        machine.apply(stream::iter((4..6).map(|index| Ok((blank(index), None))))).await.unwrap();
        place.log.purge(LogId::new_term_index(1, 5)).await.unwrap();
        assert_eq!(place.journal.group(GroupId(1)).purged.unwrap().0, 3, "as far as it is flushed");
        place.engine.flush().unwrap();
        let flushed = place.store.flushed().await.unwrap();
        place.store.forget(flushed).unwrap();
        assert_eq!(place.journal.group(GroupId(1)).purged.unwrap().0, 5, "the rest after the next flush");
    }

    /// Rule J2: what the disk has not synced is not applied.
    #[tokio::test(start_paused = true)]
    async fn the_shard_never_gets_ahead_of_the_journal() {
        let (engine, disk) = (EngineDisk::new(), MemDisk::new());
        let mut place = open(&engine, &disk);
        disk.stall(true);
        let (done, _told) = Types::oneshot();
        place.log.append((0..3).map(blank), IOFlushed::signal(done)).await.unwrap();
        assert_eq!(place.log.try_get_log_entries(0..3).await.unwrap().len(), 3, "readable at once");
        let mut machine = StateMachine::new(place.store.clone());
        let shard = place.store.shard.clone();
        let mut applying = Box::pin(machine.apply(stream::iter((0..3).map(|index| Ok((blank(index), None))))));
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut applying).await.is_err());
        assert_eq!(shard.state().applied.position, None);
        disk.stall(false);
        place.journal.run();
        applying.await.unwrap();
        assert_eq!(shard.state().applied.position.unwrap().index, 2);
    }

    /// Rule J2: stall the sync, flush the engine, lose power, start. What the engine kept, the journal has.
    #[tokio::test(start_paused = true)]
    async fn an_engine_flushed_during_a_stalled_sync_is_not_ahead_after_the_loss_of_power() {
        let (engine, disk) = (EngineDisk::new(), MemDisk::new());
        let mut place = open(&engine, &disk);
        place.log.append([blank(0)], IOFlushed::noop()).await.unwrap();
        let mut machine = StateMachine::new(place.store.clone());
        machine.apply(stream::iter([Ok((blank(0), None))])).await.unwrap();
        disk.stall(true);
        place.log.append((1..3).map(blank), IOFlushed::noop()).await.unwrap();
        {
            let mut applying = Box::pin(machine.apply(stream::iter((1..3).map(|index| Ok((blank(index), None))))));
            assert!(tokio::time::timeout(Duration::from_secs(1), &mut applying).await.is_err());
            place.engine.flush().unwrap();
        }
        engine.lose_power();
        disk.lose_power(|_| false);
        let place = open(&engine, &disk);
        assert_eq!(place.store.shard.state().applied.position.unwrap().index, 0);
        assert_eq!(place.journal.group(GroupId(1)).entries, Some((0, 0)));
    }

    #[tokio::test]
    async fn a_vote_is_durable_when_it_is_given() {
        let (engine, disk) = (EngineDisk::new(), MemDisk::new());
        let mut place = open(&engine, &disk);
        let vote = Vote::new(7, 20);
        place.log.save_vote(&vote).await.unwrap();
        engine.lose_power();
        disk.lose_power(|_| false);
        let mut place = open(&engine, &disk);
        assert_eq!(place.log.read_vote().await.unwrap(), Some(vote));
    }

    /// Rule S5: openraft would take a refusal as the end of the replica.
    #[tokio::test(start_paused = true)]
    async fn votes_truncations_and_installations_wait_for_room() {
        let (engine, disk) = (EngineDisk::new(), MemDisk::new());
        let mut place = open(&engine, &disk);
        append(&mut place.log, 0..3).await;
        fill(&place, &disk);
        let (mut voter, mut cutter, store) = (place.log.clone(), place.log.clone(), place.store.clone());
        let vote = Vote::new(7, 20);
        let work = async {
            tokio::join!(
                voter.save_vote(&vote),
                cutter.truncate_after(Some(LogId::new_term_index(1, 1))),
                store.mark_durably(Mark::InstallBegin(vec![1].into()), None),
            )
        };
        let mut work = Box::pin(work);
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut work).await.is_err(), "there is no room");
        assert_eq!(place.journal.group(GroupId(1)).entries, Some((0, 2)));
        assert!(!place.store.health.is_poisoned());
        disk.set_capacity_bytes(None);
        let (voted, cut, begun) = work.await;
        voted.unwrap();
        cut.unwrap();
        begun.unwrap();
        let state = place.journal.group(GroupId(1));
        assert_eq!((state.entries, state.vote), (Some((0, 1)), Some(encode_vote(&vote))));
        assert!(state.installing.is_some());
    }

    /// Rule S5: what is purged is said later; what cannot be said at all does not keep the replica from its end.
    #[tokio::test(start_paused = true)]
    async fn a_full_disk_ends_no_replica_and_keeps_none_from_its_end() {
        let (engine, disk) = (EngineDisk::new(), MemDisk::new());
        let mut place = open(&engine, &disk);
        append(&mut place.log, 0..6).await;
        let mut machine = StateMachine::new(place.store.clone());
        machine.apply(stream::iter((0..6).map(|index| Ok((blank(index), None))))).await.unwrap();
        place.engine.flush().unwrap();
        fill(&place, &disk);
        place.log.purge(LogId::new_term_index(1, 3)).await.expect("it is only put off");
        assert_eq!(place.journal.group(GroupId(1)).purged, None);
        let mut log = place.log.clone();
        let (done, _told) = Types::oneshot();
        let mut appending = Box::pin(log.append([blank(6)], IOFlushed::signal(done)));
        assert!(tokio::time::timeout(Duration::from_secs(1), &mut appending).await.is_err(), "there is no room");
        place.store.end();
        let ended = tokio::time::timeout(Duration::from_secs(1), &mut appending).await.expect("it is not waited for");
        assert!(ended.is_err());
        drop(appending);
        assert!(!place.store.health.is_poisoned());
        disk.set_capacity_bytes(None);
        place.store.forget(place.store.flushed().await.unwrap()).unwrap();
        assert_eq!(place.journal.group(GroupId(1)).purged.unwrap().0, 3, "the next retention says it");
    }

    fn fill(place: &Place, disk: &MemDisk) {
        disk.set_capacity_bytes(Some(disk.used_bytes()));
        for bytes in [4_096, 64, 1] {
            let filler = || Mark::Vote(vec![0; bytes].into());
            while place.journal.mark(GroupId(9), filler(), Completion::None).is_ok() {}
        }
    }

    /// Rule J6: a leader must notice that it cannot sync also when the writer has not come to its record yet.
    #[tokio::test(start_paused = true)]
    async fn the_clock_of_an_overdue_sync_runs_from_the_queueing() {
        let journal = MemJournal::open_stepped(MemDisk::new(), JournalOptions::small()).unwrap();
        let pending = || Duration::from_micros(journal.status().sync_pending_us);
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(pending(), Duration::ZERO, "nobody waits");
        let wanted = || Completion::Signal(Box::new(|_| {}));
        journal.mark(GroupId(1), Mark::Vote(encode_vote(&Vote::new(1, 1))), wanted()).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        journal.mark(GroupId(1), Mark::Vote(encode_vote(&Vote::new(2, 1))), wanted()).unwrap();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(pending() >= Duration::from_secs(2), "{:?}", pending());
        journal.run();
        assert_eq!(pending(), Duration::ZERO);
    }
}
