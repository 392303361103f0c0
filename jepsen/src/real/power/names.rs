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
//! **Invariant.** What a directory's sync covered is left alone; a change of two directories is lost in both or in
//! none.

use super::super::shim::record::{Inode, Record};
use rand::{Rng as _, rngs::SmallRng};
use std::collections::{BTreeMap, BTreeSet};

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
