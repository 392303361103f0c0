//! What the loss of power leaves of one file's content.
//!
//! ```text
//!   last sync ── write ── write ── cut ── write ── now        each sector: as it is now, or as it was before one of
//!       │                                          │          these, back to what the sync promised; so the length
//!       └────────────── may be lost ───────────────┘
//! ```
//!
//! After a sync that failed, the system takes for clean what it wrote back in vain: no later sync covers that, unless
//! the same sector is written again. Where syncs of one file overlap, and one of them fails, see [`Syncs`].
//!
//! **Invariant.** What a successful sync covered is left alone, unless a failed one may have taken it away from it; and
//! every sector is one that once was.

use super::super::shim::record::{Inode, Record};
use rand::{Rng as _, rngs::SmallRng};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes that survive or fall back together.
pub const SECTOR_BYTES: u64 = 512;

/// How much survives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    /// Nothing that was not synced.
    Nothing,
    /// Any subset.
    Anything,
    /// What came first; of one write, any of its sectors.
    First,
}

impl Survives {
    /// Any of them.
    pub fn draw(chance: &mut SmallRng) -> Self {
        match chance.random_range(0..3) {
            0 => Survives::Nothing,
            1 => Survives::Anything,
            _ => Survives::First,
        }
    }
}

/// One change that may be lost.
#[derive(Clone, Debug)]
struct Change {
    /// Its place in the log.
    at: usize,
    offset: u64,
    bytes: u64,
    old_length: u64,
    new_length: u64,
    before: Vec<u8>,
    /// A sync of it failed: these sectors, and no others any more, may still be lost.
    abandoned: Option<BTreeSet<u64>>,
    /// Whether its length may be lost too.
    has_length: bool,
}

/// Which changes versions are from before; the first version is from after all of them.
fn numbers<V>(versions: &[(usize, V)]) -> Vec<usize> {
    versions.iter().skip(1).map(|(number, _)| *number).collect()
}

impl Change {
    fn sectors(&self) -> BTreeSet<u64> {
        match &self.abandoned {
            Some(sectors) => sectors.clone(),
            None if self.bytes == 0 => BTreeSet::new(),
            None => (self.offset / SECTOR_BYTES..(self.offset + self.bytes).div_ceil(SECTOR_BYTES)).collect(),
        }
    }
}

/// When syncs were under way, as places in the log.
///
/// A sync writes dirty sectors back, takes them for clean whether that succeeds or not, and leaves the failure where
/// one caller finds it, once. So where a failed sync F and a successful one S of the same file overlap,
///
/// - F may have written back any sector that was dirty at any moment until it *ended*, also what was written after it
///   had begun. All of that may be lost, although a later sync succeeds: that one finds it clean.
/// - S, ending while F is under way, may have found sectors clean that F took in vain, and F's caller the failure.
///   S then promised what nobody kept. In which order the two ended says nothing: the failure goes to whoever looks
///   first, which is not who returns first.
/// - S, having ended before F began, has what it covers on disk: it was clean when F came.
/// - What was written after F ended is dirty, F knows nothing of it, and any S that began later covers it.
///
/// A sync that has not ended when the power fails is taken for sound: it failed before nobody.
///
/// This is the worst a system may do that reports a failure once, to one of two callers with the same open file. One
/// with an open file of its own hears of it too, and does not succeed.
struct Syncs(BTreeMap<(Inode, u64), Flight>);

/// One sync that ended.
struct Flight {
    begun: usize,
    ended: usize,
    is_ok: bool,
}

/// What a sync that ended has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Everything before this place is on disk.
    Covered(usize),
    /// So are lengths before this place, which no failed sync takes away; of content nobody knows.
    Doubted(usize),
    /// What was dirty passes for clean.
    Failed,
}

impl Syncs {
    fn of(records: &[Record]) -> Self {
        let (mut begun, mut flights) = (BTreeMap::new(), BTreeMap::new());
        for (at, record) in records.iter().enumerate() {
            match record {
                Record::SyncBegun { file, number } => {
                    begun.insert((*file, *number), at);
                }
                Record::SyncEnded { file, number, is_ok } => {
                    if let Some(begun) = begun.remove(&(*file, *number)) {
                        flights.insert((*file, *number), Flight { begun, ended: at, is_ok: *is_ok });
                    }
                }
                _ => {}
            }
        }
        Syncs(flights)
    }

    fn outcome(&self, file: Inode, number: u64) -> Option<Outcome> {
        let flight = self.0.get(&(file, number))?;
        let mut of_file = self.0.range((file, 0)..=(file, u64::MAX)).map(|(_, other)| other);
        let is_doubted = of_file.any(|other| !other.is_ok && (other.begun..other.ended).contains(&flight.ended));
        Some(match (flight.is_ok, is_doubted) {
            (false, _) => Outcome::Failed,
            (true, true) => Outcome::Doubted(flight.begun),
            (true, false) => Outcome::Covered(flight.begun),
        })
    }
}

/// What of one file may be lost.
#[derive(Clone, Debug, Default)]
pub struct Story {
    changes: Vec<Change>,
}

/// What was done, by file.
pub fn stories(records: &[Record]) -> BTreeMap<Inode, Story> {
    let mut stories: BTreeMap<Inode, Story> = BTreeMap::new();
    let syncs = Syncs::of(records);
    for (at, record) in records.iter().enumerate() {
        match record {
            Record::Write { file, offset, bytes, old_length, before } => {
                let new_length = (*old_length).max(offset + bytes);
                let range = (*offset, *bytes);
                stories.entry(*file).or_default().push(at, range, (*old_length, new_length), before);
            }
            Record::Length { file, old_length, new_length, before } => {
                let (least, most) = ((*old_length).min(*new_length), (*old_length).max(*new_length));
                stories.entry(*file).or_default().push(at, (least, most - least), (*old_length, *new_length), before);
            }
            Record::SyncEnded { file, number, .. } => {
                if let (Some(outcome), Some(story)) = (syncs.outcome(*file, *number), stories.get_mut(file)) {
                    story.synced(outcome);
                }
            }
            Record::Born { file } => {
                stories.remove(file);
            }
            Record::SyncBegun { .. }
            | Record::Created { .. }
            | Record::Removed { .. }
            | Record::Renamed { .. }
            | Record::Linked { .. } => {}
        }
    }
    stories.retain(|_, story| !story.changes.is_empty());
    stories
}

/// What is left of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Its length.
    pub length: u64,
    /// Sectors that are not as they were, by number.
    pub sectors: BTreeMap<u64, Vec<u8>>,
    /// How many sectors could have been lost.
    pub unsynced_sectors: u64,
}

impl Story {
    fn push(&mut self, at: usize, (offset, bytes): (u64, u64), (old_length, new_length): (u64, u64), before: &[u8]) {
        let before = before.to_vec();
        self.changes.push(Change {
            at,
            offset,
            bytes,
            old_length,
            new_length,
            before,
            abandoned: None,
            has_length: true,
        });
    }

    /// A sync ended.
    fn synced(&mut self, outcome: Outcome) {
        let (from, is_doubted) = match outcome {
            Outcome::Failed => {
                // Whatever is known by now was written before this end.
                self.changes.iter_mut().for_each(|change| change.abandoned = Some(change.sectors()));
                return;
            }
            Outcome::Doubted(from) => (from, true),
            Outcome::Covered(from) => (from, false),
        };
        self.changes.iter_mut().filter(|change| change.at < from).for_each(|change| change.has_length = false);
        if is_doubted {
            return;
        }
        let covered: Vec<(usize, BTreeSet<u64>)> = self
            .changes
            .iter()
            .filter(|change| change.at < from && change.abandoned.is_none())
            .map(|change| (change.at, change.sectors()))
            .collect();
        for change in self.changes.iter_mut().filter(|change| change.at < from) {
            let at = change.at;
            if let Some(sectors) = &mut change.abandoned {
                let later = covered.iter().filter(|(covering, _)| *covering > at);
                later.for_each(|(_, covered)| sectors.retain(|sector| !covered.contains(sector)));
            }
        }
        self.changes
            .retain(|change| change.at >= from || change.abandoned.as_ref().is_some_and(|left| !left.is_empty()));
    }

    /// Decides what is left of a file that now holds `now`.
    pub fn lose(&self, now: &[u8], survives: Survives, chance: &mut SmallRng) -> Left {
        let torn = chance.random_range(0..=self.changes.len());
        // How many of the newest fall back: those after the torn one, and it too, or not.
        let mut first_lost = |numbers: &[usize]| {
            let keeps_torn: bool = chance.random();
            match survives {
                Survives::Nothing => numbers.len(),
                Survives::Anything => chance.random_range(0..=numbers.len()),
                Survives::First => {
                    numbers.iter().filter(|number| **number > torn || (**number == torn && !keeps_torn)).count()
                }
            }
        };
        let lengths = self.lengths(now.len() as u64);
        let (lost_from, length) = lengths[first_lost(&numbers(&lengths))];
        let versions = self.versions(now);
        let mut sectors = BTreeMap::new();
        for (sector, versions) in &versions {
            let numbers = numbers(versions);
            // What was cut off has its old blocks as long as the cut is not on disk, and new ones afterwards.
            let cuts = numbers.iter().enumerate().filter(|(_, number)| self.changes[**number].is_cut());
            let (lost, kept): (Vec<_>, Vec<_>) = cuts.partition(|(_, number)| **number >= lost_from);
            let least = lost.last().map_or(0, |(place, _)| place + 1);
            let most = kept.first().map_or(numbers.len(), |(place, _)| *place);
            let chosen = first_lost(&numbers).clamp(least, most.max(least));
            if chosen > 0 {
                sectors.insert(*sector, versions[chosen].1.clone());
            }
        }
        Left { length, sectors, unsynced_sectors: versions.len() as u64 }
    }

    /// The length now, then before each change, the newest first.
    fn lengths(&self, now: u64) -> Vec<(usize, u64)> {
        let earlier = self.changes.iter().enumerate().rev();
        let earlier = earlier.filter(|(_, change)| change.has_length && change.old_length != change.new_length);
        std::iter::once((usize::MAX, now)).chain(earlier.map(|(n, change)| (n, change.old_length))).collect()
    }

    /// Each sector that may be lost: as it is now, then as it was before each change that changed it, the newest
    /// first.
    fn versions(&self, now: &[u8]) -> BTreeMap<u64, Vec<(usize, Vec<u8>)>> {
        let most = self.changes.iter().map(|change| (change.offset + change.bytes).max(change.old_length)).max();
        let whole = most.unwrap_or(0).max(now.len() as u64).next_multiple_of(SECTOR_BYTES);
        let mut content = now.to_vec();
        content.resize(whole as usize, 0);
        let mut versions: BTreeMap<u64, Vec<(usize, Vec<u8>)>> = BTreeMap::new();
        for (number, change) in self.changes.iter().enumerate().rev() {
            for sector in change.sectors() {
                let range = (sector * SECTOR_BYTES) as usize..((sector + 1) * SECTOR_BYTES) as usize;
                let after = content[range.clone()].to_vec();
                change.undo(sector, &mut content[range.clone()]);
                if content[range.clone()] != after[..] {
                    let known = versions.entry(sector).or_insert_with(|| vec![(usize::MAX, after)]);
                    known.push((number, content[range].to_vec()));
                }
            }
        }
        versions
    }
}

impl Change {
    fn is_cut(&self) -> bool {
        self.new_length < self.old_length
    }

    /// Makes a sector what it was before.
    fn undo(&self, sector: u64, content: &mut [u8]) {
        let start = sector * SECTOR_BYTES;
        let from = self.offset.max(start);
        let to = (self.offset + self.bytes).min(start + SECTOR_BYTES);
        for at in from..to {
            let old = self.before.get((at - self.offset) as usize).copied().unwrap_or(0);
            content[(at - start) as usize] = old;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    fn write(offset: u64, bytes: u64, old_length: u64, before: &[u8]) -> Record {
        Record::Write { file: 1, offset, bytes, old_length, before: before.to_vec() }
    }

    fn sync(number: u64, is_ok: bool) -> [Record; 2] {
        [Record::SyncBegun { file: 1, number }, Record::SyncEnded { file: 1, number, is_ok }]
    }

    fn lost(records: &[Record], now: &[u8]) -> Left {
        let mut chance = SmallRng::seed_from_u64(1);
        stories(records)[&1].lose(now, Survives::Nothing, &mut chance)
    }

    #[test]
    fn what_was_written_after_a_sync_began_is_not_covered_by_it() {
        let first = write(0, 512, 0, &[]);
        let second = write(512, 512, 512, &[]);
        let [begun, ended] = sync(7, true);
        let left = lost(&[first.clone(), begun.clone(), second, ended.clone()], &[7; 1024]);
        assert_eq!((left.length, left.sectors), (512, BTreeMap::from([(1, vec![0; 512])])));
        assert!(stories(&[first, begun, ended]).is_empty());
    }

    #[test]
    fn what_a_failed_sync_should_have_covered_is_not_covered_by_the_next() {
        let mut records = vec![write(0, 512, 1024, &[1; 512])];
        records.extend(sync(1, false));
        records.push(write(512, 512, 1024, &[2; 512]));
        records.extend(sync(2, true));
        let left = lost(&records, &[9; 1024]);
        assert_eq!((left.length, left.sectors), (1024, BTreeMap::from([(0, vec![1; 512])])));
        // Written again, it is dirty again.
        records.push(write(0, 10, 1024, &[9; 10]));
        records.extend(sync(3, true));
        assert!(stories(&records).is_empty());
    }

    #[test]
    fn of_two_syncs_that_overlap_the_failed_one_may_have_taken_what_the_other_promised() {
        let first = || write(0, 512, 1024, &[1; 512]);
        let [begun, ended] = sync(1, true);
        let [vain_begun, vain_ended] = sync(2, false);
        let later = || write(512, 512, 1024, &[2; 512]);
        let taken = Left { length: 1024, sectors: BTreeMap::from([(0, vec![1; 512])]), unsynced_sectors: 1 };
        // Whichever begins or ends first.
        for order in [
            [&begun, &vain_begun, &vain_ended, &ended],
            [&begun, &vain_begun, &ended, &vain_ended],
            [&vain_begun, &begun, &vain_ended, &ended],
            [&vain_begun, &begun, &ended, &vain_ended],
        ] {
            let records: Vec<Record> = std::iter::once(first()).chain(order.into_iter().cloned()).collect();
            assert_eq!(lost(&records, &[9; 1024]), taken, "{order:?}");
        }
        // The good one ended before the other began.
        let [apart, vain] = [[begun.clone(), ended.clone()], [vain_begun.clone(), vain_ended.clone()]];
        let records: Vec<Record> = std::iter::once(first()).chain(apart).chain(vain).collect();
        assert!(stories(&records).is_empty());
        // Written while the failing one was under way: it may have been taken with the rest.
        let records = [vain_begun, first(), vain_ended, later(), begun, ended];
        assert_eq!(lost(&records, &[9; 1024]), taken);
    }

    #[test]
    fn a_cut_file_gets_its_end_back() {
        let cut = Record::Length { file: 1, old_length: 700, new_length: 100, before: vec![5; 600] };
        let left = lost(&[cut], &[4; 100]);
        assert_eq!(left.length, 700);
        assert_eq!((left.sectors[&0][99], left.sectors[&0][100], left.sectors[&1][187]), (4, 5, 5));
    }
}

#[cfg(test)]
#[path = "kernel_tests.rs"]
mod kernel_tests;
