//! What the loss of power leaves of names.
//!
//! ```text
//!   one directory:   sync ── create ── rename ── remove ── now       the changes before some point survive, those
//!                      └─────────── may be lost ──────────┘          after it do not
//! ```
//!
//! Names change in order, directory by directory, as on file systems with a journal; a sync of one directory says
//! nothing about another, and the sync of a file nothing about its name. That is less than today's file systems
//! promise, and all that POSIX does.
//!
//! Directories are known by their numbers, and a file system gives the number of one that is gone to the next one that
//! is made. [`told_apart`] gives each life of a number a number of its own, before anything is judged.
//!
//! **Invariant.** What a directory's sync covered is left alone; a change of two directories is lost in both or in
//! none. What happened in a directory that is gone is no concern of the one that has its number now.

use super::super::shim::record::{Inode, Record};
use rand::{Rng as _, rngs::SmallRng};
use std::collections::{BTreeMap, BTreeSet};

/// No file system gives numbers from here on.
const FORMER: Inode = 1 << 63;

/// The same records, in which a directory that is gone does not share its number with a later one: the last to have a
/// number keeps it, those before it get numbers that no file system gives. Only what is said of directories changes.
#[must_use]
pub fn told_apart(records: &[Record]) -> Vec<Record> {
    let mut lives_left: BTreeMap<Inode, u64> = BTreeMap::new();
    for record in records {
        if let Record::Born { file } = record {
            *lives_left.entry(*file).or_default() += 1;
        }
    }
    let mut former: BTreeMap<(Inode, u64), Inode> = BTreeMap::new();
    let mut syncs: BTreeMap<u64, Inode> = BTreeMap::new();
    let mut told = records.to_vec();
    for record in &mut told {
        let mut name = |number: &mut Inode| {
            if let Some(left) = lives_left.get(number).copied().filter(|left| *left > 0) {
                let next = FORMER + former.len() as u64;
                *number = *former.entry((*number, left)).or_insert(next);
            }
        };
        match record {
            Record::Created { directory, .. } | Record::Linked { directory, .. } => name(directory),
            Record::Removed { directory, file, is_directory, .. } => {
                name(directory);
                if *is_directory {
                    name(file);
                }
            }
            Record::Renamed { from, to, .. } => {
                name(&mut from.0);
                name(&mut to.0);
            }
            Record::SyncBegun { file, number } => {
                name(file);
                syncs.insert(*number, *file);
            }
            // Of what it was begun for, whatever has that number by now.
            Record::SyncEnded { file, number, .. } => *file = syncs.remove(number).unwrap_or(*file),
            Record::Born { file } => {
                lives_left.entry(*file).and_modify(|left| *left -= 1);
            }
            Record::Write { .. } | Record::Length { .. } => {}
        }
    }
    told
}

/// The directories a change of names is about.
fn directories(record: &Record) -> Vec<Inode> {
    match record {
        Record::Created { directory, .. } | Record::Removed { directory, .. } | Record::Linked { directory, .. } => {
            vec![*directory]
        }
        Record::Renamed { from, to, .. } if from.0 == to.0 => vec![from.0],
        Record::Renamed { from, to, .. } => vec![from.0, to.0],
        Record::Write { .. }
        | Record::Length { .. }
        | Record::SyncBegun { .. }
        | Record::SyncEnded { .. }
        | Record::Born { .. } => Vec::new(),
    }
}

/// Changes of names that no sync covered, by directory, as places in the log.
fn unsynced(records: &[Record]) -> BTreeMap<Inode, Vec<usize>> {
    let mut open: BTreeMap<Inode, Vec<usize>> = BTreeMap::new();
    let mut begun = BTreeMap::new();
    for (at, record) in records.iter().enumerate() {
        for directory in directories(record) {
            open.entry(directory).or_default().push(at);
        }
        match record {
            Record::SyncBegun { number, .. } => {
                begun.insert(*number, at);
            }
            Record::SyncEnded { file, number, is_ok: true } => {
                if let Some(before) = begun.remove(number) {
                    settle(records, &mut open, *file, before);
                }
            }
            _ => {}
        }
    }
    open
}

/// A directory is synced: a rename takes what came before it in its other directory along.
fn settle(records: &[Record], open: &mut BTreeMap<Inode, Vec<usize>>, directory: Inode, before: usize) {
    let mut to_settle = vec![(directory, before)];
    while let Some((directory, before)) = to_settle.pop() {
        let Some(changes) = open.get_mut(&directory) else { continue };
        let settled: Vec<usize> = changes.iter().copied().filter(|at| *at < before).collect();
        changes.retain(|at| *at >= before);
        for at in settled {
            let others = directories(&records[at]).into_iter().filter(|other| *other != directory);
            to_settle.extend(others.map(|other| (other, at + 1)));
        }
    }
}

/// Places in the log of the changes that are lost, the newest first, and how many could have been.
pub fn lose(records: &[Record], loses_all: bool, chance: &mut SmallRng) -> (Vec<usize>, usize) {
    let open = unsynced(records);
    let all: BTreeSet<usize> = open.values().flatten().copied().collect();
    let mut lost = BTreeSet::new();
    let mut to_lose: Vec<(Inode, usize)> = Vec::new();
    for (directory, changes) in &open {
        let kept = if loses_all { 0 } else { chance.random_range(0..=changes.len()) };
        to_lose.extend(changes.get(kept).map(|first| (*directory, *first)));
    }
    while let Some((directory, first)) = to_lose.pop() {
        for at in open[&directory].iter().copied().filter(|at| *at >= first) {
            if lost.insert(at) {
                let others = directories(&records[at]).into_iter().filter(|other| *other != directory);
                to_lose.extend(others.map(|other| (other, at)));
            }
        }
    }
    (lost.into_iter().rev().collect(), all.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    fn created(directory: Inode, name: &str) -> Record {
        Record::Created { directory, name: name.into(), is_directory: false }
    }

    fn moved(from: Inode, to: Inode) -> Record {
        Record::Renamed { from: (from, "a".into()), to: (to, "b".into()), file: 9, replaced: 0 }
    }

    fn synced(file: Inode, number: u64) -> [Record; 2] {
        [Record::SyncBegun { file, number }, Record::SyncEnded { file, number, is_ok: true }]
    }

    fn lose_all(records: &[Record]) -> Vec<usize> {
        lose(records, true, &mut SmallRng::seed_from_u64(0)).0
    }

    #[test]
    fn a_sync_of_a_directory_covers_nothing_of_a_former_one_with_its_number() {
        let born = Record::Born { file: 7 };
        let [begun, ended] = synced(7, 5);
        let gone = Record::Removed { directory: 1, name: "old".into(), file: 7, is_directory: true };
        let records = [created(7, "a"), gone, created(1, "new"), born, created(7, "b"), begun, ended];
        assert_eq!(lose_all(&told_apart(&records)), [2, 1, 0], "in the new one, b is there for good");
        assert_eq!(lose_all(&records), [2, 1], "taken for one directory, a would be too");
    }

    #[test]
    fn the_last_to_have_a_number_keeps_it() {
        let born = || Record::Born { file: 7 };
        let told = told_apart(&[created(7, "a"), born(), created(7, "b"), born(), created(7, "c"), created(8, "d")]);
        let numbers: Vec<Inode> = told.iter().flat_map(directories).collect();
        assert_eq!(numbers, [FORMER, FORMER + 1, 7, 8]);
        // A sync that outlives its directory is its own.
        let [begun, ended] = synced(7, 5);
        let told = told_apart(&[begun, born(), ended]);
        assert!(matches!(told[2], Record::SyncEnded { file: FORMER, .. }), "{told:?}");
    }

    #[test]
    fn a_sync_covers_one_directory_up_to_its_beginning() {
        let [begun, ended] = synced(1, 5);
        let records = [created(1, "a"), created(2, "b"), begun, created(1, "c"), ended];
        assert_eq!(lose_all(&records), [3, 1]);
    }

    #[test]
    fn a_move_between_directories_is_synced_by_either_and_lost_in_both() {
        let [begun, ended] = synced(2, 5);
        let records = [created(1, "x"), moved(1, 2), created(1, "y"), begun, ended];
        assert_eq!(lose_all(&records), [2], "what came before the move in the other directory is settled with it");
        let records = [created(1, "x"), moved(1, 2), created(2, "y")];
        for seed in 0..50 {
            let (lost, all) = lose(&records, false, &mut SmallRng::seed_from_u64(seed));
            assert!([&[2, 1, 0][..], &[2, 1], &[2], &[]].contains(&lost.as_slice()), "{lost:?}");
            assert_eq!(all, 3);
        }
    }
}
