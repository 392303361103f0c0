//! # Disk: what one machine keeps, and how it fails
//!
//! ```text
//!   node ──▶ journal ──▶ sectors          power lost ──▶ every unsynced sector keeps its new bytes or falls back
//!        └─▶ engine  ──▶ what is flushed              ──▶ everything else is gone
//!
//!   also: power that fails at the n-th durable step, a failing sync, write or flush, no room, rot
//! ```
//!
//! Rot is told from what was there before: a journal that opens all the same must say what the sound one says, one
//! that refuses is repaired by hand, as an operator would from a copy.
//!
//! **Invariant.** What a life was told is durable survives every crash; what it was not told may, or may not.
//!
//! **Deliberately absent.** Rot in the engine: its files carry the checksums of RocksDB, which stands elsewhere.

use super::{chance::Chance, journal::SlowJournal, network::Life};
use kvorum_api::{GroupId, ReplicaId, ShardId, StartCount};
use kvorum_storage::{
    Engine, Journal as _, Shard, StorageError, engine,
    journal::{self, BatchNumber, GroupState, JournalOptions, LogRecord, MemJournal},
    shard::{Applied, ShardSpec},
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

/// Where a failure is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// A write of the journal.
    JournalWrite,
    /// A sync of the journal.
    JournalSync,
    /// A flush or an ingestion of the engine.
    EngineFlush,
}

/// Whose durable steps are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// The journal's writing operations.
    Journal,
    /// Flushes, ingestions and stages of the engine.
    Engine,
    /// The same, from the beginning of the next installation of a snapshot.
    Installation,
}

/// The disk of one machine.
pub struct SimDisk {
    engine: engine::mem::MemDisk,
    journal: journal::MemDisk,
    options: JournalOptions,
    /// How often a node was started on it; synced before the node serves.
    starts: u64,
    sync_ms: Arc<AtomicU64>,
    /// The last batch that an earlier life was told is durable.
    told: BatchNumber,
    /// Whether something of it was made to fail in this life: a node on it may say so.
    has_failed: Arc<AtomicBool>,
    /// Whether there is room for nothing more.
    is_full: Arc<AtomicBool>,
    /// The journal as it was before it rotted.
    sound: Option<journal::MemDisk>,
    /// After how many operations of the journal the power fails in the next start, and of the engine from then on.
    fails_in_start: Option<u64>,
    fails_from_start: Option<u64>,
}

/// What a new life finds.
pub struct Opened {
    /// The engine as it was flushed.
    pub engine: Arc<dyn Engine>,
    /// The journal as it was synced, at least.
    pub journal: Arc<SlowJournal>,
    /// Which life this is.
    pub start: StartCount,
    /// What is worth telling.
    pub events: Vec<String>,
    /// What should never be found on a disk.
    pub violations: Vec<String>,
}

impl SimDisk {
    /// An empty disk that syncs in a millisecond.
    pub fn new(options: JournalOptions) -> Self {
        SimDisk {
            engine: engine::mem::MemDisk::new(),
            journal: journal::MemDisk::new(),
            options,
            starts: 0,
            sync_ms: Arc::new(AtomicU64::new(1)),
            told: BatchNumber(0),
            has_failed: Arc::default(),
            is_full: Arc::default(),
            sound: None,
            fails_in_start: None,
            fails_from_start: None,
        }
    }

    /// A copy of what is on it now, as somebody makes one while the machine runs.
    pub fn image(&self) -> SimDisk {
        SimDisk {
            engine: self.engine.duplicate(),
            journal: roomy(&self.journal),
            starts: self.starts,
            told: self.told,
            sound: self.sound.as_ref().map(journal::MemDisk::image),
            ..SimDisk::new(self.options.clone())
        }
    }

    /// Everything on it is gone.
    pub fn empty(&mut self) {
        *self = SimDisk::new(self.options.clone());
    }

    /// From now on a sync takes this long.
    pub fn set_sync_ms(&self, sync_ms: u64) {
        self.sync_ms.store(sync_ms, Ordering::SeqCst);
    }

    /// The power fails after this many durable operations; of a machine that is down, in its next start.
    pub fn fail_power_after(&mut self, store: Store, operations: u64, runs: bool) {
        match store {
            Store::Installation => self.engine.fail_in_installation(operations),
            Store::Journal if !runs => self.fails_in_start = Some(operations),
            Store::Engine if !runs => self.fails_from_start = Some(operations),
            Store::Journal => self.journal.fail_after_operations(operations),
            Store::Engine => self.engine.fail_after_operations(operations),
        }
    }

    /// The power lasts.
    pub fn keep_power(&mut self) {
        (self.fails_in_start, self.fails_from_start) = (None, None);
        self.journal.keep_power();
        self.engine.keep_power();
    }

    /// Whether the power has failed by itself.
    pub fn is_out_of_power(&self) -> bool {
        self.journal.is_out_of_power() || self.engine.is_out_of_power()
    }

    /// The next operation of this kind fails.
    pub fn fail_next(&mut self, part: Part) {
        self.has_failed.store(true, Ordering::SeqCst);
        match part {
            Part::JournalWrite => self.journal.fail_next_write(),
            Part::JournalSync => self.journal.fail_next_sync(),
            Part::EngineFlush => self.engine.fail_next_flush(StorageError::Engine("a simulated failure".to_owned())),
        }
    }

    /// Whether something was made to fail in this life.
    pub fn has_failed(&self) -> bool {
        self.failures()()
    }

    /// The same question, for who cannot hold the disk.
    pub fn failures(&self) -> impl Fn() -> bool + Send + 'static {
        let (has_failed, journal, engine) = (Arc::clone(&self.has_failed), self.journal.clone(), self.engine.clone());
        move || has_failed.load(Ordering::SeqCst) || journal.is_out_of_power() || engine.is_out_of_power()
    }

    /// Whether there is room for nothing more.
    pub fn is_full(&self) -> bool {
        self.fullness()()
    }

    /// The same question, for who cannot hold the disk.
    pub fn fullness(&self) -> impl Fn() -> bool + Send + 'static {
        let is_full = Arc::clone(&self.is_full);
        move || is_full.load(Ordering::SeqCst)
    }

    /// There is room for nothing more, or for everything.
    pub fn set_full(&mut self, is_full: bool) {
        self.is_full.store(is_full, Ordering::SeqCst);
        self.journal.set_capacity_bytes(is_full.then(|| self.journal.used_bytes()));
    }

    /// Flips bits of the journal of a machine that is down. Says where.
    pub fn rot(&mut self, chance: &mut Chance) -> Option<String> {
        let files = self.journal.files();
        let name = files.get(chance.within(0..files.len().max(1) as u64) as usize)?;
        let bytes = self.journal.read(name)?;
        // Bytes that nobody has written yet say nothing.
        let written: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
        let at = *written.get(chance.within(0..written.len().max(1) as u64) as usize)?;
        let flipped = 1u8 << chance.within(0..8);
        if self.sound.is_none() {
            self.sound = Some(self.journal.image());
        }
        self.journal.damage(name, |bytes| bytes[at] ^= flipped);
        Some(format!("{name} rots at byte {at}"))
    }

    /// Begins a new life on what survived. `shards`: every shard that ever was. `is_named`: whether the newest map
    /// knows this replica of it, or without one, any here.
    ///
    /// # Errors
    /// What is found on the disk cannot be read. An honest node never sees this.
    pub fn open(
        &mut self,
        shards: &[ShardSpec],
        is_named: &dyn Fn(ShardId, Option<ReplicaId>) -> bool,
        life: Life,
        fate: u64,
    ) -> Result<Opened, StorageError> {
        self.starts += 1;
        self.has_failed.store(false, Ordering::SeqCst);
        let (mut events, mut violations) = (Vec::new(), Vec::new());
        let engine = self.engine.open();
        if let Some(operations) = self.fails_from_start.take() {
            self.engine.fail_after_operations(operations);
        }
        let mut stands = Vec::new();
        for spec in shards {
            stands.push((spec.shard, Shard::open(engine.clone(), *spec)?.state().applied));
        }
        let resume_above = stands.iter().map(|(_, applied)| applied.batch).max().unwrap_or_default();
        let options = JournalOptions { resume_above, ..self.options.clone() };
        if let Some(sound) = self.sound.take() {
            match self.judge_rot(&sound, &options)? {
                Rot::Harmless => events.push("the rot is harmless".to_owned()),
                Rot::Repaired(why) => events.push(format!("the journal is put back: {why}")),
                Rot::Unseen(what) => violations.push(format!("rot was not seen: {what}")),
            }
        }
        let journal = self.open_journal(&options, fate, &mut events)?;
        let synced = journal.status().last_synced;
        if synced < self.told {
            violations
                .push(format!("batch {} was told to be durable, and the journal ends at {}", self.told.0, synced.0));
        }
        for (shard, applied) in stands {
            let group = journal.group(GroupId::from(shard));
            // What went is erased before its log is forgotten, and power may be lost in between.
            let found = match is_named(shard, group.replica.map(ReplicaId)) {
                true => contradictions(&group, &applied),
                false => leftovers(&group, &applied),
            };
            violations.extend(found.map(|what| format!("shard {shard}: {what}")));
        }
        let journal = Arc::new(SlowJournal::new(journal, life, Arc::clone(&self.sync_ms)));
        Ok(Opened { engine, journal, start: StartCount(self.starts), events, violations })
    }

    /// Power may be lost while a journal recovers; then it recovers once more.
    fn open_journal(
        &mut self,
        options: &JournalOptions,
        fate: u64,
        events: &mut Vec<String>,
    ) -> Result<Arc<MemJournal>, StorageError> {
        if let Some(operations) = self.fails_in_start.take() {
            self.journal.fail_after_operations(operations);
            let opened = MemJournal::open_stepped(self.journal.clone(), options.clone());
            events.push(format!("power fails while the journal recovers: {:?}", opened.err()));
            self.tear(&mut Chance::new(fate, "sectors of a start"));
        }
        MemJournal::open_stepped(self.journal.clone(), options.clone())
    }

    /// Compares what a journal that has rotted says with what the sound one says.
    fn judge_rot(&mut self, sound: &journal::MemDisk, options: &JournalOptions) -> Result<Rot, StorageError> {
        // What a journal says has nothing to do with whether there is room for more.
        let expected = MemJournal::open_stepped(roomy(sound), options.clone())?;
        let rotten = MemJournal::open_stepped(roomy(&self.journal), options.clone());
        let judged = match rotten {
            Err(error @ StorageError::Corrupt { .. }) => Rot::Repaired(error.to_string()),
            Err(other) => return Ok(Rot::Unseen(format!("it is answered with {other}"))),
            Ok(rotten) if told_by(&rotten)? == told_by(&expected)? => match rotten.last_synced() {
                // Peers would take it for an older copy (rule J7): the number that a start counts on from is gone.
                synced if synced < self.told => Rot::Repaired(format!("it counts its batches from {}", synced.0)),
                _ => Rot::Harmless,
            },
            Ok(rotten) => {
                // Entries and marks alike: what counts is the batch that held them.
                let kept = journal::contents(&rotten.disk().image())?;
                let held = journal::contents(&expected.disk().image())?;
                let mut lost = held.into_iter().filter(|(batch, records)| kept.get(batch) != Some(records));
                match lost.next() {
                    // Rule J1: rot inside the very last batch that was synced looks like a torn tail.
                    Some((batch, groups)) if batch < self.told => Rot::Unseen(format!(
                        "batch {} is gone with what it held of groups {groups:?}, of {} that were told to be durable",
                        batch.0, self.told.0
                    )),
                    Some((batch, _)) => Rot::Repaired(format!("it was cut in batch {}", batch.0)),
                    None => Rot::Unseen("no batch is gone, and it says something else".to_owned()),
                }
            }
        };
        if !matches!(judged, Rot::Harmless) {
            self.journal = roomy(sound);
            self.set_full(self.is_full());
        }
        Ok(judged)
    }

    /// The machine crashes. Sometimes only the process does, sometimes nothing that was not synced survives, mostly
    /// some sectors do and some do not. `told`: the last batch that the life was told is durable.
    pub fn lose_power(&mut self, fate: u64, told: BatchNumber) {
        self.told = self.told.max(told);
        self.engine.lose_power();
        self.tear(&mut Chance::new(fate, "sectors"));
    }

    fn tear(&self, chance: &mut Chance) {
        match chance.within(0..4) {
            0 => self.journal.kill(),
            1 => self.journal.lose_power(|_| false),
            _ => self.journal.lose_power(|_| chance.hits(500)),
        }
    }
}

/// A copy of a disk, with room for more.
fn roomy(disk: &journal::MemDisk) -> journal::MemDisk {
    let copy = disk.image();
    copy.set_capacity_bytes(None);
    copy
}

/// Everything that a journal says of its groups: marks, bounds, and every entry.
fn told_by(journal: &MemJournal) -> Result<Vec<(GroupId, GroupState, Vec<LogRecord>)>, StorageError> {
    let of_group = |group| {
        let state = journal.group(group);
        let range = state.entries.map_or(0..0, |(first, last)| first..last + 1);
        let entries = if range.is_empty() { Vec::new() } else { journal.entries(group, range, usize::MAX)? };
        Ok((group, state, entries))
    };
    journal.groups().into_iter().map(of_group).collect()
}

/// What became of rot.
enum Rot {
    /// Nothing that counts was there.
    Harmless,
    /// The journal refused, or cut no more than its last batch; the sound one is back.
    Repaired(String),
    /// It was believed. The sound one is back.
    Unseen(String),
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

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_storage::journal::{Completion, Mark};

    /// A disk whose journal was told that these marks are durable, one batch each, and its copy after each.
    fn marked(votes: &[&'static str]) -> (SimDisk, Vec<journal::MemDisk>) {
        let mut disk = SimDisk::new(JournalOptions::small());
        let journal = MemJournal::open(disk.journal.clone(), disk.options.clone()).unwrap();
        let mut copies = Vec::new();
        for vote in votes {
            let (done, told) = std::sync::mpsc::channel();
            let done = Completion::Signal(Box::new(move |result| done.send(result).unwrap()));
            journal.mark(GroupId(1), Mark::Vote((*vote).into()), done).unwrap();
            assert_eq!(told.recv().unwrap(), Ok(()));
            copies.push(journal.disk().image());
            disk.told = journal.last_synced();
        }
        (disk, copies)
    }

    /// What becomes of a journal that, after rot, believes to be an earlier one of itself.
    fn judged(votes: &[&'static str], believed: usize) -> Rot {
        let (mut disk, copies) = marked(votes);
        let sound = disk.journal.image();
        disk.journal = copies[believed].image();
        let options = disk.options.clone();
        disk.judge_rot(&sound, &options).unwrap()
    }

    /// Rule J1: the very last batch may be taken for a torn tail, no other.
    #[test]
    fn rot_that_loses_only_marks_is_convicted() {
        let votes = ["a", "b", "c"];
        assert!(matches!(judged(&votes, 2), Rot::Harmless));
        assert!(matches!(judged(&votes, 1), Rot::Repaired(_)), "the last batch");
        let Rot::Unseen(what) = judged(&votes, 0) else { panic!("two votes that were told to be durable are gone") };
        assert!(what.contains("is gone with what it held of groups"), "{what}");
    }

    /// A disk without room for more still has a journal to judge, and to put back.
    #[test]
    fn rot_on_a_full_disk_is_judged_like_any_other() {
        let (mut disk, copies) = marked(&["a", "b", "c"]);
        disk.set_full(true);
        disk.sound = Some(disk.journal.image());
        disk.journal = copies[0].image();
        disk.set_full(true);
        let (sound, options) = (disk.sound.take().unwrap(), disk.options.clone());
        let judged = disk.judge_rot(&sound, &options).unwrap();
        assert!(matches!(judged, Rot::Unseen(_)), "two votes are gone");
        assert!(disk.is_full() && MemJournal::open(roomy(&disk.journal), disk.options.clone()).is_ok());
    }

    #[test]
    fn a_flipped_bit_in_the_middle_of_marks_is_refused_and_put_back() {
        let (mut disk, _) = marked(&["a", "b", "c"]);
        disk.journal.kill();
        let mut rotten = 0;
        for draw in 0..40 {
            // It may fall on a file in which nothing was ever written.
            rotten += usize::from(disk.rot(&mut Chance::new(draw, "rot")).is_some());
            let opened = disk.open(&[], &|_, _| true, Life::begin(), draw).unwrap();
            assert_eq!(opened.violations, Vec::<String>::new());
            let vote = opened.journal.group(GroupId(1)).vote;
            assert_eq!(vote, Some("c".into()));
            disk.lose_power(draw, opened.journal.last_synced());
        }
        assert!(rotten > 3, "{rotten} of 40");
    }
}
