//! Diary reader: follows the diary of a shard at a replica, and goes on with the seq it has reached at another one.
//!
//! ```text
//!   node 1  ── read ── read ── wait ── read ─┐ crash, pause, or a whim
//!   node 3                                   └─ Truncated ─▶ the pinned map, in portions ── read ── wait …
//!   at the end: what it has folded is what the shard holds
//! ```
//!
//! Now and then the reader itself crashes, and goes on from what it had kept: it is handed changes again.
//!
//! **Invariant.** What a reader takes in is what a user would have heard: nothing of a life that has ended, nothing of
//! a machine that gets no turns.
//!
//! **Deliberately absent.** Whether what was handed out is right: `diary`. This complains only of what it cannot fold.

use super::{
    chance::Chance,
    diary::{Handed, What},
    network::Life,
    workload::{Desk, SETTLE},
};
use bytes::Bytes;
use kvorum_api::{NodeId, ShardId, Version};
use kvorum_consensus::{groups::Replica, metadata::METADATA_SHARD};
use kvorum_storage::{
    StorageError,
    changelog::{Change, ChangeKind, ChangeReader, ChangesError, Resync},
};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout, timeout_at};

/// How long a reader waits for a machine that gets no turns.
const PATIENCE: Duration = Duration::from_millis(1_500);

/// Rows of one portion of a map: few, so that the map changes between two portions.
const PORTION_ROWS: usize = 3;

/// Bytes of one portion of a map.
const PORTION_BYTES: usize = 1 << 20;

/// Of a thousand reads, those that take the whole map though nothing is amiss.
const WHIMS_PER_MILLE: u32 = 20;

/// Of a thousand stays, those after which the reader has lost what it did not keep.
const CRASHES_PER_MILLE: u32 = 150;

/// Rows by placement key: the version, and the value where the diary tells it.
type Content = BTreeMap<Bytes, (Version, Option<Bytes>)>;

/// How far a reader has come, and what it knows.
#[derive(Clone, Default)]
struct Place {
    next_seq: u64,
    content: Content,
}

/// Where a reader reads.
struct Stay {
    node: NodeId,
    life: Life,
    replica: Arc<Replica>,
}

/// What one read came to.
enum Step {
    /// It was handed something.
    Onward,
    /// There is nothing more at this replica.
    AtEnd,
    /// This replica answers no more.
    Away,
}

/// One reader of one diary.
pub struct DiaryReader {
    id: u64,
    desk: Desk,
    chance: Chance,
    /// Which shard, among those that are there from the beginning.
    subject: u64,
    shard: Option<ShardId>,
    place: Place,
    /// What it goes on from after it has crashed.
    kept: Place,
}

impl DiaryReader {
    /// One that has read nothing. The readers of a world share two diaries.
    pub fn new(id: u64, seed: u64, desk: Desk) -> Self {
        let mut shared = Chance::new(seed, "diaries that are read");
        let subjects = [shared.any(), shared.any()];
        let mut chance = Chance::new(seed, &format!("reader {id}"));
        let subject = *chance.pick(&subjects);
        DiaryReader { id, desk, chance, subject, shard: None, place: Place::default(), kept: Place::default() }
    }

    /// Reads until the desk closes; `settle` finds it there.
    pub async fn run(mut self) {
        while Instant::now() < self.desk.until {
            if let Some(stay) = self.arrive() {
                self.follow(&stay).await;
            }
            if self.chance.hits(CRASHES_PER_MILLE) {
                self.event(format_args!("goes back from seq {} to {}", self.place.next_seq, self.kept.next_seq));
                self.place = self.kept.clone();
            } else if self.chance.hits(500) {
                self.kept = self.place.clone();
            }
            sleep(self.chance.millis(0..500)).await;
        }
        let readers = Arc::clone(&self.desk.readers);
        readers.lock().push(self);
    }

    /// Reads to the end of the diary, and compares what it has folded with what the shard holds. For a whole world.
    ///
    /// # Errors
    /// A sentence.
    pub async fn finish(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + SETTLE;
        let mut differs = "nobody holds it".to_owned();
        while Instant::now() < deadline {
            if let Some(stay) = self.arrive() {
                match self.compare(&stay).await {
                    Ok(()) => return Ok(()),
                    Err(why) => differs = format!("at node {}: {why}", stay.node),
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
        let shard = self.shard.map(|shard| shard.to_string()).unwrap_or_default();
        Err(format!("reader {} of shard {shard} does not know within {SETTLE:?} what is there, {differs}", self.id))
    }

    /// A replica of its shard, if the node that it tries has one.
    fn arrive(&mut self) -> Option<Stay> {
        let id = *self.chance.pick(&self.desk.nodes());
        let (node, life) = self.desk.network.node(id)?;
        let shard = match self.shard {
            Some(shard) => shard,
            None => {
                let map = node.map();
                let names = self.desk.drawn.keyspaces.iter().map(|(name, _)| name);
                let first: Option<Vec<_>> = names.map(|name| map.keyspace(name).map(|row| row.id)).collect();
                let shards = first?.into_iter().flat_map(|keyspace| map.shards_of(keyspace)).map(|row| row.shard);
                let shards: Vec<ShardId> = shards.chain([METADATA_SHARD]).collect();
                *self.shard.insert(shards[self.subject as usize % shards.len()])
            }
        };
        let replica = node.replica(shard)?;
        Some(Stay { node: id, life, replica })
    }

    async fn follow(&mut self, stay: &Stay) {
        let until = (Instant::now() + self.chance.millis(300..6_000)).min(self.desk.until);
        let mut reader = stay.replica.shard().changes(self.place.next_seq);
        while Instant::now() < until {
            let is_whim = self.chance.hits(WHIMS_PER_MILLE);
            match self.read(stay, &mut reader, is_whim).await {
                Step::Away => return,
                Step::Onward => sleep(self.chance.millis(0..200)).await,
                Step::AtEnd => tokio::select! {
                    biased;
                    () = stay.life.ended() => return,
                    _ = timeout_at(until, reader.wait()) => {}
                },
            }
        }
    }

    /// One read. `wants_all`: of the whole map.
    async fn read(&mut self, stay: &Stay, reader: &mut ChangeReader, wants_all: bool) -> Step {
        if !self.hears(stay).await {
            return Step::Away;
        }
        let began = (self.desk.moment(), self.desk.began.elapsed());
        let (bytes_max, changes_max) = (self.chance.within(1..4_096) as usize, self.chance.within(1..20) as usize);
        let read = if wants_all { Ok(None) } else { reader.read(bytes_max, changes_max).map(Some) };
        match read {
            Ok(Some(changes)) => {
                if !self.hears(stay).await {
                    return Step::Away;
                }
                if changes.is_empty() {
                    return Step::AtEnd;
                }
                self.take(&changes);
                self.note(began, What::Changes(changes));
                Step::Onward
            }
            Ok(None) => self.resync(stay, reader, began).await,
            Err(ChangesError::Truncated { oldest }) => {
                self.event(format_args!("fell off at seq {}: the oldest is {oldest}", self.place.next_seq));
                self.resync(stay, reader, began).await
            }
            Err(ChangesError::Storage(error)) => self.gives_up(&error),
        }
    }

    /// Takes the map as it is pinned, while it changes.
    async fn resync(&mut self, stay: &Stay, reader: &mut ChangeReader, began: (u64, Duration)) -> Step {
        let Resync { mut scan, next_seq, .. } = match reader.resync() {
            Ok(resync) => resync,
            Err(error) => return self.gives_up(&error),
        };
        let mut content = Content::new();
        loop {
            let rows = match scan.next(PORTION_BYTES, PORTION_ROWS) {
                Ok(rows) => rows,
                Err(error) => return self.gives_up(&error),
            };
            if rows.is_empty() {
                break;
            }
            content.extend(rows.into_iter().map(|row| (row.key, (row.entry.version, row.entry.value))));
            sleep(self.chance.millis(0..30)).await;
            if !self.hears(stay).await {
                return Step::Away;
            }
        }
        self.place = Place { next_seq, content };
        self.note(began, What::Resync(next_seq));
        Step::Onward
    }

    /// Folds changes into what it knows.
    fn take(&mut self, changes: &[Change]) {
        for Change { seq, kind, key, version, new, .. } in changes {
            let is_there = self.place.content.contains_key(key);
            let is_explained = match kind {
                ChangeKind::Insert => !is_there,
                ChangeKind::Modify | ChangeKind::Remove => is_there,
                // A map leaves out what is gone by the shard's time, and the diary may tell so later.
                ChangeKind::Expire => true,
                ChangeKind::Merge => false,
            };
            if !is_explained {
                let (id, shard) = (self.id, self.shard.expect("it has read there"));
                let key = key.escape_ascii();
                self.desk.complain(format!(
                    "reader {id} of shard {shard} is told {kind:?} of {key} at seq {seq}, and {key} is there: {is_there}"
                ));
            }
            match kind {
                ChangeKind::Insert | ChangeKind::Modify | ChangeKind::Merge => {
                    let value = new.as_ref().and_then(|entry| entry.value.clone());
                    self.place.content.insert(key.clone(), (*version, value));
                }
                ChangeKind::Remove | ChangeKind::Expire => drop(self.place.content.remove(key)),
            }
            self.place.next_seq = seq + 1;
        }
    }

    async fn compare(&mut self, stay: &Stay) -> Result<(), String> {
        let mut reader = stay.replica.shard().changes(self.place.next_seq);
        loop {
            match self.read(stay, &mut reader, false).await {
                Step::Onward => {}
                Step::AtEnd => break,
                Step::Away => return Err("it answers no more".to_owned()),
            }
        }
        let resync = reader.resync().map_err(|error| error.to_string())?;
        let Resync { mut scan, next_seq, .. } = resync;
        let mut held = Content::new();
        loop {
            let rows = scan.next(PORTION_BYTES, usize::MAX).map_err(|error| error.to_string())?;
            if rows.is_empty() {
                break;
            }
            held.extend(rows.into_iter().map(|row| (row.key, (row.entry.version, row.entry.value))));
        }
        if next_seq != self.place.next_seq {
            return Err(format!("the reader is at seq {}, the shard at {next_seq}", self.place.next_seq));
        }
        differences(&self.place.content, &held).map_or(Ok(()), Err)
    }

    /// Whether an answer of the machine arrives.
    async fn hears(&self, stay: &Stay) -> bool {
        timeout(PATIENCE, self.desk.network.awake(stay.node)).await.is_ok() && stay.life.goes_on()
    }

    fn gives_up(&self, error: &StorageError) -> Step {
        self.event(format_args!("is refused: {error}"));
        Step::Away
    }

    fn note(&self, (moment, at): (u64, Duration), what: What) {
        let shard = self.shard.expect("it has read there");
        match &what {
            What::Changes(changes) => {
                let told = changes.iter().map(|change| (change.seq, change.version.stamp));
                self.event(format_args!("of shard {shard} is handed {:?}", told.collect::<Vec<_>>()));
            }
            What::Resync(next_seq) => self.event(format_args!("of shard {shard} goes on from seq {next_seq}")),
        }
        let (moments, at) = ((moment, self.desk.moment()), (at, self.desk.began.elapsed()));
        self.desk.handed.lock().push(Handed { reader: self.id, shard, moments, at, what });
    }

    fn event(&self, what: std::fmt::Arguments<'_>) {
        self.desk.audit.event(format_args!("reader {} {what}", self.id));
    }
}

/// The first row that a reader knows otherwise than it is held.
fn differences(known: &Content, held: &Content) -> Option<String> {
    let keys = known.keys().chain(held.keys());
    let mut differing = keys.filter(|key| match (known.get(*key), held.get(*key)) {
        (Some((version, value)), Some((newest, there))) => version != newest || value.is_some() && value != there,
        (None, None) => false,
        _ => true,
    });
    let key = differing.next()?;
    Some(format!("{} is {:?} to the reader and {:?} there", key.escape_ascii(), known.get(key), held.get(key)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::{Actor, Stamp};

    #[test]
    fn what_a_reader_knows_otherwise_is_told() {
        let row = |stamp, value: Option<&'static str>| {
            let version = Version { stamp: Stamp(stamp), actor: Actor::default() };
            Content::from([(Bytes::from_static(b"k"), (version, value.map(Bytes::from)))])
        };
        let held = row(5, Some("v"));
        assert_eq!(differences(&row(5, Some("v")), &held), None);
        assert_eq!(differences(&row(5, None), &held), None, "a diary without images tells no values");
        for other in [row(4, Some("v")), row(5, Some("w")), Content::new()] {
            assert!(differences(&other, &held).is_some_and(|what| what.starts_with("k is")), "{other:?}");
        }
        assert!(differences(&held, &Content::new()).is_some());
    }
}
