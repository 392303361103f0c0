//! Follow: how the newest map gets to every node.
//!
//! ```text
//!   a replica of group 0 is here:   its diary ──▶ fold ──▶ publish            fell off: every row, then the diary
//!   none is, or it hears nothing:
//!              revision, serial ──▶ a metadata replica ──▶ edits since │ the whole map in pages │ nothing for 5 s
//!                               └─▶ in vain? any node  ──▶ the whole map, if its copy is newer
//! ```
//!
//! Who slept through moves of the metadata knows only nodes that held it once. So after every round of those one other
//! node is asked: whoever has heard more hands it on.
//!
//! **Invariant.** A map is published only at the end of a change, never in its middle. Edits are taken only by whoever
//! has the same history: the change before the asker's revision must be of the asker's serial.

use super::{
    map::{ClusterMap, Row, RowEdit},
    study::{Seat, Study},
    wire::{Follow, News},
};
use crate::{message::MessageKind, worker::Step};
use bytes::{Bytes, BytesMut};
use futures::future::{Either, select};
use kvorum_api::NodeId;
use kvorum_storage::{
    Shard, StorageError,
    changelog::{Change, ChangeReader, ChangesError},
};
use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// Who asks for changes when there are none is answered after this.
const LONG_POLL: Duration = Duration::from_secs(5);

/// What the answer may need on its way besides.
const WAY: Duration = Duration::from_secs(1);

/// How long one step of the follower waits for news of its own diary.
const NEWS_PATIENCE: Duration = Duration::from_secs(1);

/// After a failure.
const PAUSE: Duration = Duration::from_millis(250);

/// Changes that are answered as edits; who is further behind takes the whole map.
const EDITS_MAX: u64 = 1_000;

/// Bytes of one page of a whole map.
const PAGE_BYTES: usize = 512 << 10;

/// A replica of group 0 that has not heard of a leader for longer may not hear of anything any more.
const SILENCE_MAX: Duration = Duration::from_secs(3);

/// Bytes and rows read at a time.
const PORTION: (usize, usize) = (1 << 20, 4_096);

/// Where this node's replica of group 0 was read up to.
pub(super) struct Reading {
    reader: ChangeReader,
    map: ClusterMap,
    /// Of a change that was not read to its end.
    pending: Vec<RowEdit>,
}

/// A whole map as it is handed out: one that is a little old is as good, since edits lead on from it.
#[derive(Clone)]
pub(super) struct Whole {
    revision: u64,
    bytes: Bytes,
}

impl Study {
    /// One step of the follower: takes what is new, or waits a moment for it.
    pub(crate) async fn follow(&self) -> Step {
        let followed = match self.seat.load_full() {
            Some(seat) if seat.is_current() => self.follow_own(&seat).await,
            // Its replica may have been taken out of the group, and hears nothing any more, least of all that.
            Some(seat) => self.follow_both(&seat).await,
            None => self.follow_another().await,
        };
        if followed.is_err() {
            sleep(PAUSE).await;
        }
        followed
    }

    /// Follows another node, and its own diary meanwhile: where nobody had a majority for a while, that goes on before
    /// anybody else has news. Its silence is no answer for the other one: who does not answer is given up in its own
    /// time.
    async fn follow_both(&self, seat: &Seat) -> Step {
        let mut another = pin!(self.follow_another());
        loop {
            let known = self.map().revision;
            match select(pin!(self.follow_own(seat)), another.as_mut()).await {
                Either::Left(_) if self.map().revision > known => return Ok(()),
                Either::Left((Ok(()), _)) => {}
                Either::Left((Err(_), _)) => sleep(PAUSE).await,
                Either::Right((another, own)) => return own.await.and(another),
            }
        }
    }

    async fn follow_own(&self, seat: &Seat) -> Step {
        let mut place = self.reading.lock().await;
        if let Some(reading) = place.as_mut() {
            // No news is no failure: the step ends so that it is seen to live.
            let _ = timeout(NEWS_PATIENCE, reading.reader.wait()).await;
        }
        let (reading, shard) = (place.take(), Arc::clone(&seat.shard));
        let read = self.env.blocking.run(move || match reading {
            Some(reading) => reading.catch_up(),
            None => Reading::begin(&shard),
        });
        match read.await {
            Ok(reading) => {
                if reading.map.revision > self.map().revision {
                    self.publish(reading.map.clone());
                }
                *place = Some(reading);
                Ok(())
            }
            // A snapshot brings it all anew.
            Err(StorageError::Installing) => {
                sleep(PAUSE).await;
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    async fn follow_another(&self) -> Step {
        let map = self.map();
        let turn = self.followed.load(Ordering::Relaxed);
        let Some((node, is_holder)) = whom_to_follow(&map, self.me, turn) else {
            sleep(PAUSE).await;
            return Ok(());
        };
        // Also if nobody waits for the answer any more, somebody else is asked next, ...
        self.followed.fetch_add(1, Ordering::Relaxed);
        let followed = self.follow_node(node, &map, if is_holder { LONG_POLL + WAY } else { WAY }).await;
        // ... unless it should know and has answered. Whoever holds nothing has said all it knows.
        if followed.is_ok() && is_holder {
            self.followed.fetch_sub(1, Ordering::Relaxed);
        }
        match followed {
            Err(why) if is_holder => Err(format!("node {node}: {why}")),
            // It need not know anything.
            Err(_) => {
                sleep(PAUSE).await;
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    async fn follow_node(&self, node: NodeId, map: &Arc<ClusterMap>, patience: Duration) -> Step {
        let asked = Follow { revision: map.revision, serial: map.counters.serial, page: None };
        let news = self.ask_news(node, asked, patience).await?;
        let is_news = !matches!(news, News::Nothing);
        match news {
            News::Nothing => {}
            News::Edits(revision, edits) => {
                let mut newer = ClusterMap::clone(map);
                edits.into_iter().for_each(|edit| newer.apply(edit));
                newer.revision = revision;
                self.publish(newer);
            }
            News::Page { revision, total, bytes } => {
                let mut whole = BytesMut::from(&bytes[..]);
                while (whole.len() as u64) < total {
                    let asked = Follow { page: Some((revision, whole.len() as u64)), ..asked };
                    match self.ask_news(node, asked, patience).await? {
                        News::Page { revision: same, bytes, .. } if same == revision && !bytes.is_empty() => {
                            whole.extend_from_slice(&bytes);
                        }
                        _ => return Err(format!("its map of revision {revision} went while it was fetched")),
                    }
                }
                self.publish(ClusterMap::decode(whole.freeze()).map_err(|error| error.to_string())?);
            }
        }
        // Nothing is answered after a wait; what leads nowhere is a failure, and is paused after.
        let known = self.map().revision;
        if is_news && known <= asked.revision {
            return Err(format!("what it answered leads from revision {} to {known}", asked.revision));
        }
        Ok(())
    }

    async fn ask_news(&self, node: NodeId, asked: Follow, patience: Duration) -> Result<News, String> {
        let answer = self.call(node, MessageKind::MetadataFollow, asked.encode(), patience).await?;
        News::decode(answer).map_err(|error| error.to_string())
    }

    pub(super) async fn answer_follow(&self, asked: Bytes) -> Result<Bytes, String> {
        let asked = Follow::decode(asked).map_err(|error| error.to_string())?;
        if let Some((revision, from)) = asked.page {
            let whole = self.whole.lock().clone().filter(|whole| whole.revision == revision);
            return Ok(whole.map_or(News::Nothing, |whole| whole.page(from)).encode());
        }
        let Some(seat) = self.seat.load_full().filter(|seat| seat.is_current()) else {
            // Nobody is made to wait for what may never come here.
            let map = self.map();
            if map.is_founded() && map.revision > asked.revision {
                return Ok(self.whole(&map, asked.revision).page(0).encode());
            }
            return Err(format!("node {} has no newer map, and hears of none itself", self.me));
        };
        let mut map = self.watch();
        let newer = timeout(LONG_POLL, map.wait_for(|map| map.revision > asked.revision)).await;
        let Ok(Ok(newer)) = newer.map(|newer| newer.map(|map| Arc::clone(&map))) else {
            return Ok(News::Nothing.encode());
        };
        if asked.revision > 1 && newer.revision - asked.revision <= EDITS_MAX {
            let (shard, upto) = (Arc::clone(&seat.shard), newer.revision);
            let edits = self.env.blocking.run(move || edits_since(&shard, asked, upto)).await;
            if let Some(edits) = edits.map_err(|error| error.to_string())? {
                return Ok(News::Edits(newer.revision, edits).encode());
            }
        }
        Ok(self.whole(&newer, asked.revision).page(0).encode())
    }

    /// The map as it was handed out last, unless that is too old to go on from with edits, or brings an asker at
    /// `asked` nothing: the diary may not lead on from there any more.
    fn whole(&self, map: &ClusterMap, asked: u64) -> Whole {
        let mut kept = self.whole.lock();
        let recent = kept
            .as_ref()
            .filter(|whole| whole.revision > asked && map.revision.saturating_sub(whole.revision) < EDITS_MAX);
        let whole = recent.cloned().unwrap_or_else(|| Whole { revision: map.revision, bytes: map.encode() });
        *kept = Some(whole.clone());
        whole
    }
}

impl Seat {
    /// Whether its replica hears from a majority.
    fn is_current(&self) -> bool {
        self.replicator.status().staleness.is_some_and(|staleness| staleness <= SILENCE_MAX)
    }
}

impl Whole {
    fn page(&self, from: u64) -> News {
        let from = usize::try_from(from).map_or(self.bytes.len(), |from| from.min(self.bytes.len()));
        let end = self.bytes.len().min(from + PAGE_BYTES);
        News::Page { revision: self.revision, total: self.bytes.len() as u64, bytes: self.bytes.slice(from..end) }
    }
}

impl Reading {
    /// From every row of the shard.
    fn begin(shard: &Arc<Shard>) -> Result<Self, StorageError> {
        let mut reader = shard.changes(0);
        let map = whole_map(&mut reader)?;
        Ok(Reading { reader, map, pending: Vec::new() })
    }

    /// Up to the end of the diary.
    fn catch_up(mut self) -> Result<Self, StorageError> {
        loop {
            match self.reader.read(PORTION.0, PORTION.1) {
                Ok(changes) if changes.is_empty() => return Ok(self),
                Ok(changes) => changes.into_iter().try_for_each(|change| self.take(change))?,
                Err(ChangesError::Truncated { .. }) => {
                    self.map = whole_map(&mut self.reader)?;
                    self.pending.clear();
                }
                Err(ChangesError::Storage(error)) => return Err(error),
            }
        }
    }

    fn take(&mut self, change: Change) -> Result<(), StorageError> {
        let (end, is_last) = (change.seq + 1, change.is_last_of_batch);
        self.pending.extend(edit_of(change)?);
        if is_last {
            self.pending.drain(..).for_each(|edit| self.map.apply(edit));
            self.map.revision = end;
        }
        Ok(())
    }
}

/// The fold of every row, at the moment from which the reader goes on.
fn whole_map(reader: &mut ChangeReader) -> Result<ClusterMap, StorageError> {
    let mut resync = reader.resync()?;
    let mut map = ClusterMap { revision: resync.next_seq, ..ClusterMap::default() };
    loop {
        let rows = resync.scan.next(PORTION.0, PORTION.1)?;
        if rows.is_empty() {
            return Ok(map);
        }
        for row in rows {
            if let Some(edit) = RowEdit::of_change(&row.key, row.entry.value)? {
                map.apply(edit);
            }
        }
    }
}

/// Whom to ask for news in that turn, and whether it holds the metadata, as far as this map knows: those that do one
/// after the other, then one of all other nodes, and so on.
fn whom_to_follow(map: &ClusterMap, me: NodeId, turn: usize) -> Option<(NodeId, bool)> {
    let holders: Vec<NodeId> = map.metadata.iter().map(|row| row.node).filter(|node| *node != me).collect();
    let others = map.nodes.keys().copied().filter(|node| *node != me && !holders.contains(node));
    let others: Vec<NodeId> = others.collect();
    let round = holders.len() + usize::from(!others.is_empty());
    // Nodes begin in different places, so that not all follow the same one.
    let (place, spread) = (turn.checked_rem(round)?, me.0 as usize);
    Some(match place < holders.len() {
        true => (holders[(spread + place) % holders.len()], true),
        false => (others[(spread + turn / round) % others.len()], false),
    })
}

fn edit_of(change: Change) -> Result<Option<RowEdit>, StorageError> {
    RowEdit::of_change(&change.key, change.new.and_then(|entry| entry.value))
}

/// What leads from the asker's map to the revision `upto`; `None` if the diary does not reach back, does not reach that
/// far yet, or is of another history.
fn edits_since(shard: &Arc<Shard>, asked: Follow, upto: u64) -> Result<Option<Vec<RowEdit>>, StorageError> {
    let mut reader = shard.changes(asked.revision - 1);
    let mut edits = Vec::new();
    while reader.next_seq() < upto {
        let changes = match reader.read(PORTION.0, (upto - reader.next_seq()) as usize) {
            Ok(changes) if changes.is_empty() => return Ok(None),
            Ok(changes) => changes,
            Err(ChangesError::Truncated { .. }) => return Ok(None),
            Err(ChangesError::Storage(error)) => return Err(error),
        };
        for change in changes {
            let is_before = change.seq < asked.revision;
            let edit = edit_of(change)?;
            if !is_before {
                edits.extend(edit);
            } else if !is_change_of(edit.as_ref(), asked.serial) {
                return Ok(None);
            }
        }
    }
    Ok(Some(edits))
}

/// Whether this is the last edit of the change of that serial.
fn is_change_of(edit: Option<&RowEdit>, serial: u64) -> bool {
    matches!(edit, Some(RowEdit::Put(Row::Counters(counters))) if counters.serial == serial)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{METADATA_KEYSPACE, METADATA_SHARD, NodeRow},
        *,
    };
    use kvorum_storage::{
        Condition, Operation, WriteCommand,
        command::{Command, Images},
        engine::mem::MemDisk,
        shard::{
            ShardSpec,
            suite::{BEGIN_MS, apply_next, settings},
        },
    };

    /// A metadata shard without rows.
    fn shard() -> Arc<Shard> {
        let spec = ShardSpec { shard: METADATA_SHARD, keyspace: METADATA_KEYSPACE };
        let shard = Shard::open(MemDisk::new().open(), spec).unwrap();
        let settings = kvorum_storage::command::Settings { images: Images::New, ..settings() };
        apply_next(&shard, BEGIN_MS, vec![Command::Configure(settings)]);
        shard
    }

    fn put(shard: &Shard, row: Row) {
        let operation = Operation::Put {
            key: row.key().encode(),
            value: row.encode(),
            ttl_ms: None,
            condition: Condition::Always,
            return_previous: false,
        };
        let write = WriteCommand { request: None, operations: vec![operation] };
        apply_next(shard, BEGIN_MS, vec![Command::Write(write)]);
    }

    fn node(id: u64) -> Row {
        let (client, peer) = (format!("node-{id}:1"), format!("node-{id}:2"));
        Row::Node(NodeRow::of_this_build(NodeId(id), client, peer, String::new(), 0))
    }

    /// Rule G17: sooner or later everybody is asked, and first of all, again and again, those who should know.
    #[test]
    fn everybody_is_asked_for_a_newer_map_in_the_end() {
        let mut map = ClusterMap::default();
        for id in 1..=6 {
            if let Row::Node(row) = node(id) {
                map.nodes.insert(row.node, row);
            }
        }
        assert_eq!(whom_to_follow(&ClusterMap::default(), NodeId(1), 5), None);
        map.metadata = super::super::ReplicaRow::members(&[1, 2, 3].map(|id| (kvorum_api::ReplicaId(id), NodeId(id))));
        for me in [3, 6].map(NodeId) {
            let asked: Vec<(NodeId, bool)> = (0..16).filter_map(|turn| whom_to_follow(&map, me, turn)).collect();
            assert_eq!(asked.len(), 16);
            assert!(asked[0].1, "a holder first");
            let all: std::collections::BTreeSet<NodeId> = asked.iter().map(|(node, _)| *node).collect();
            assert_eq!(all.len(), 5, "everybody else: {all:?}");
            assert!(asked.iter().filter(|(_, is_holder)| *is_holder).count() > 8, "{asked:?}");
        }
    }

    #[test]
    fn a_reader_that_fell_off_its_diary_reads_every_row_anew() {
        let shard = shard();
        put(&shard, node(1));
        let reading = Reading::begin(&shard).unwrap();
        assert_eq!(reading.map.nodes.len(), 1);
        put(&shard, node(2));
        put(&shard, node(3));
        assert!(shard.collect_changes(u64::MAX, 0).unwrap().changes > 0);
        put(&shard, node(4));
        let reading = reading.catch_up().unwrap();
        assert_eq!(reading.map.nodes.keys().map(|node| node.0).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(reading.map.revision, shard.state().change_next_seq);
    }

    #[test]
    fn what_the_diary_has_forgotten_is_not_told_as_edits() {
        let shard = shard();
        let counters = |serial| Row::Counters(super::super::Counters { serial, ..Default::default() });
        put(&shard, counters(1));
        let asked = Follow { revision: shard.state().change_next_seq, serial: 1, page: None };
        put(&shard, counters(2));
        let upto = shard.state().change_next_seq;
        let told = edits_since(&shard, asked, upto).unwrap();
        assert_eq!(told.map(|edits| edits.len()), Some(1));
        let of_another_history = Follow { serial: 7, ..asked };
        assert_eq!(edits_since(&shard, of_another_history, upto).unwrap(), None);
        shard.collect_changes(u64::MAX, 0).unwrap();
        assert_eq!(edits_since(&shard, asked, upto).unwrap(), None);
    }
}
