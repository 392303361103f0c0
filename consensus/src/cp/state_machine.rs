//! openraft's state machine over the shard.
//!
//! Committed entries arrive as a stream. What is ready is applied in one go, after the journal has it durably here;
//! answers go back entry by entry. Snapshots are promises (rules S1, S2): a pinned view that costs nothing until a
//! follower needs its bytes.
//!
//! **Invariant.** The shard never applies what this node could lose (rule J2), nor anything of a former opening of the
//! replica (rule G3).

use super::{
    codec::raft::{decode_proposal, decode_stored_membership, encode_stored_membership},
    door::{Door, Pass},
    figures,
    store::{ReplicaStore, to_io},
    types::{Answer, Entry, Membership, SnapshotMeta, StoredMembership, Types, log_id, position},
};
use futures::{FutureExt, Stream, StreamExt};
use kvorum_storage::{
    StorageError,
    journal::BatchNumber,
    planted,
    shard::{Applied, LoggedEntry, ShardSnapshot, StagedSnapshot, Step},
};
use openraft::{
    EntryPayload, OptionalSend, RaftSnapshotBuilder, Snapshot,
    storage::{ApplyResponder, EntryResponder, RaftStateMachine},
};
use std::{
    io,
    sync::{Arc, atomic::Ordering},
};

/// Entries applied as one batch.
const RUN_ENTRIES_MAX: usize = 256;

/// Bytes applied as one batch (one larger entry is applied alone).
const RUN_BYTES_MAX: usize = 4 << 20;

/// Chunks of a snapshot that is copied inside one process.
const LOCAL_CHUNK_BYTES: usize = 512 << 10;

type LogId = super::types::LogId;
type RaftSnapshot = openraft::alias::SnapshotOf<Types, SnapshotBytes>;

/// The bytes of a snapshot, or the promise of them.
pub enum SnapshotBytes {
    /// None: the Raft instance is being made and only asks where the snapshot stands.
    Promised,
    /// A pinned view of this replica.
    Pinned(Box<ShardSnapshot>),
    /// Another replica's, verified and synced in this node's stage.
    Staged(StagedSnapshot),
}

/// One replica's state machine.
pub struct StateMachine {
    store: Arc<ReplicaStore>,
    pass: Pass,
}

/// Makes snapshots of one replica.
pub struct SnapshotBuilder {
    store: Arc<ReplicaStore>,
}

/// What is applied next: entries and whoever waits for their answers.
#[derive(Default)]
struct Run {
    entries: Vec<Entry>,
    responders: Vec<Option<ApplyResponder<Types>>>,
    bytes: usize,
}

impl Run {
    fn push(&mut self, (entry, responder): EntryResponder<Types>) {
        if let EntryPayload::Normal(encoded) = &entry.payload {
            self.bytes += encoded.bytes.len();
        }
        self.entries.push(entry);
        self.responders.push(responder);
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= RUN_ENTRIES_MAX || self.bytes >= RUN_BYTES_MAX
    }
}

impl StateMachine {
    /// The state machine of a replica that is opened once.
    #[must_use]
    pub fn new(store: Arc<ReplicaStore>) -> Self {
        Self::through(store, Arc::new(Door::default()).open())
    }

    /// The state machine of one opening of a replica.
    #[must_use]
    pub fn through(store: Arc<ReplicaStore>, pass: Pass) -> Self {
        StateMachine { store, pass }
    }

    async fn apply_run(&mut self, run: Run) -> io::Result<()> {
        let Some(last) = run.entries.last() else { return Ok(()) };
        // What openraft hands over was read from the log, so it is never beyond its end.
        let index = self.store.with_bounds(|bounds| bounds.last.map(|end| end.index.min(last.log_id.index)));
        let batch = match index {
            Some(_) if planted!("bug-engine-ahead") => self.store.journal.last_synced(),
            Some(index) => self.store.wait_durable(index).await.map_err(to_io)?,
            None => BatchNumber::default(),
        };
        let (shard, pass) = (self.store.shard.clone(), self.pass.clone());
        let outcomes = self.store.blocking.run(move || {
            let Some(_inside) = pass.enter() else { return Err(StorageError::Stopped) };
            let entries: Vec<LoggedEntry> =
                run.entries.into_iter().map(|entry| logged(entry, batch)).collect::<Result<_, _>>()?;
            shard.apply(&entries)
        });
        let outcomes = outcomes.await.inspect_err(|error| self.store.poison_if_fatal(error)).map_err(to_io)?;
        figures::applied(outcomes.len());
        assert_eq!(outcomes.len(), run.responders.len(), "a shard answers every entry it applies");
        for (responder, outcomes) in run.responders.into_iter().zip(outcomes) {
            if let Some(responder) = responder {
                responder.send(Answer { outcomes });
            }
        }
        Ok(())
    }

    /// A pinned view and what it is of; the metadata comes from inside the view (rule S1).
    fn pin(store: &ReplicaStore) -> Result<Option<RaftSnapshot>, StorageError> {
        let view = store.shard.snapshot()?;
        let Some(meta) = meta_of(view.applied())? else { return Ok(None) };
        Ok(Some(Snapshot { meta, snapshot: SnapshotBytes::Pinned(Box::new(view)) }))
    }

    /// Copies a pinned view of another replica of this process into a stage of this one.
    async fn stage(&self, mut view: Box<ShardSnapshot>) -> Result<StagedSnapshot, StorageError> {
        let (shard, stage) = (self.store.shard.clone(), self.store.next_stage());
        let staged = self.store.blocking.run(move || {
            let mut receiver = shard.receive_snapshot(stage)?;
            while let Some(chunk) = view.next_chunk(LOCAL_CHUNK_BYTES)? {
                receiver.put_chunk(&chunk)?;
            }
            receiver.finish()
        });
        staged.await
    }
}

/// An entry as the shard applies it.
fn logged(entry: Entry, batch: BatchNumber) -> Result<LoggedEntry, StorageError> {
    let step = match &entry.payload {
        EntryPayload::Blank => Step::Blank,
        EntryPayload::Normal(encoded) => Step::Commands(decode_proposal(encoded)?),
        EntryPayload::Membership(membership) => {
            Step::Membership(encode_stored_membership(&stored(entry.log_id, membership)))
        }
    };
    Ok(LoggedEntry { position: position(&entry.log_id), batch, step })
}

fn stored(log_id: LogId, membership: &Membership) -> StoredMembership {
    StoredMembership::new(Some(log_id), membership.clone())
}

/// What a snapshot at `applied` is of; `None` when nothing was applied yet.
fn meta_of(applied: &Applied) -> Result<Option<SnapshotMeta>, StorageError> {
    let Some(position) = applied.position else { return Ok(None) };
    let last_membership = decode_stored_membership(applied.membership.clone()).map_err(super::store::unknown_format)?;
    Ok(Some(SnapshotMeta { last_log_id: Some(log_id(position)), last_membership }))
}

impl RaftSnapshotBuilder<Types> for SnapshotBuilder {
    type SnapshotData = SnapshotBytes;

    /// Answers at once with the applied position: purging is what waits for the flush (rule S2).
    async fn build_snapshot(&mut self) -> Result<RaftSnapshot, io::Error> {
        let snapshot = StateMachine::pin(&self.store).map_err(to_io)?;
        Ok(snapshot.unwrap_or_else(|| Snapshot { meta: SnapshotMeta::default(), snapshot: SnapshotBytes::Promised }))
    }
}

impl RaftStateMachine<Types> for StateMachine {
    type SnapshotData = SnapshotBytes;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let applied = self.store.shard.state().applied;
        Ok((applied.position.map(log_id), decode_stored_membership(applied.membership)?))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(first) = entries.next().await {
            let mut run = Run::default();
            run.push(first?);
            // What is ready rides along; nobody waits for more.
            while !run.is_full() {
                let Some(Some(item)) = entries.next().now_or_never() else { break };
                run.push(item?);
            }
            self.apply_run(run).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        SnapshotBuilder { store: self.store.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotBytes) -> Result<(), io::Error> {
        let staged = match snapshot {
            SnapshotBytes::Staged(staged) => staged,
            SnapshotBytes::Pinned(view) => self.stage(view).await.map_err(to_io)?,
            SnapshotBytes::Promised => return Err(io::Error::other("a promised snapshot has no bytes to install")),
        };
        if meta_of(&staged.applied).map_err(to_io)?.as_ref() != Some(meta) {
            return Err(io::Error::other("a staged snapshot is not the one that was announced"));
        }
        self.store.install(staged, &self.pass).await.map_err(to_io)?;
        figures::snapshot_installed();
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<RaftSnapshot>, io::Error> {
        if !self.store.is_starting.load(Ordering::Acquire) {
            return Self::pin(&self.store).map_err(to_io);
        }
        let shard = self.store.shard.clone();
        let flushed = self.store.blocking.run(move || shard.flushed()).await.map_err(to_io)?;
        let meta = meta_of(&flushed).map_err(to_io)?;
        Ok(meta.map(|meta| Snapshot { meta, snapshot: SnapshotBytes::Promised }))
    }
}
