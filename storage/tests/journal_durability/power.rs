//! Power fails at any operation and any subset of unsynced sectors survives.

use crate::model::{Model, Op, ops, picture, tiny};
use bytes::Bytes;
use kvorum_api::GroupId;
use kvorum_storage::StorageError;
use kvorum_storage::journal::{BatchNumber, Completion, Journal, LogRecord, Mark, MemDisk, MemJournal, Step, Unsynced};
use proptest::prelude::*;

/// What the world does to one life of a journal.
#[derive(Clone, Debug)]
struct Life {
    actions: Vec<Action>,
    /// Writing operations until the power fails in the middle of one.
    operations: Option<u64>,
    /// The same for starts that do not come to their end.
    starts: Vec<u64>,
    survivors: Survivors,
}

#[derive(Clone, Debug)]
enum Action {
    Ask(Op),
    Step,
}

#[derive(Clone, Debug)]
enum Survivors {
    All,
    Nothing,
    Some(u64),
}

impl Survivors {
    fn lose_power(&self, disk: &MemDisk) {
        match self {
            Survivors::All => disk.lose_power(|_| true),
            Survivors::Nothing => disk.lose_power(|_| false),
            Survivors::Some(seed) => {
                let mut state = *seed | 1;
                disk.lose_power(|_| {
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    state & 1 == 0
                });
            }
        }
    }
}

fn survivors() -> impl Strategy<Value = Survivors> {
    prop_oneof![
        1 => Just(Survivors::All),
        1 => Just(Survivors::Nothing),
        4 => any::<u64>().prop_map(Survivors::Some),
    ]
}

fn life() -> impl Strategy<Value = Life> {
    let action = prop_oneof![2 => ops().prop_map(Action::Ask), 3 => Just(Action::Step)];
    let actions = proptest::collection::vec(action, 1..120);
    let starts = proptest::collection::vec(0..40u64, 0..3);
    (actions, proptest::option::of(0..200u64), starts, survivors())
        .prop_map(|(actions, operations, starts, survivors)| Life { actions, operations, starts, survivors })
}

/// Lets the power fail during starts; each leaves a directory that the next one must accept.
fn interrupted_starts(disk: &MemDisk, life: &Life) {
    for operations in &life.starts {
        disk.fail_after_operations(*operations);
        if let Err(error) = MemJournal::open_stepped(disk.clone(), tiny()) {
            assert!(!matches!(error, StorageError::Corrupt { .. }), "an honest node is stopped: {error}");
        }
        life.survivors.lose_power(disk);
    }
}

fn live(lives: &[Life]) {
    let disk = MemDisk::new();
    let mut model = Model::new();
    let mut synced = BatchNumber(0);
    for life in lives {
        interrupted_starts(&disk, life);
        let journal = MemJournal::open_stepped(disk.clone(), tiny()).expect("an honest node is never stopped");
        let found = picture(&*journal);
        assert!(model.matching(&found).is_some(), "something reported is lost, or something else is there: {found:?}");
        model.resume(found);
        assert!(journal.status().last_synced >= synced, "batch numbers never go back");
        if let Some(operations) = life.operations {
            disk.fail_after_operations(operations);
        }
        for action in &life.actions {
            match action {
                Action::Step => drop(journal.step()),
                Action::Ask(op) => match model.ask(&*journal, op) {
                    Ok(()) => {}
                    Err(StorageError::Poisoned(_) | StorageError::DiskFull(_)) if life.operations.is_some() => break,
                    Err(error) => panic!("refused without a reason: {error}"),
                },
            }
        }
        synced = journal.status().last_synced;
        life.survivors.lose_power(&disk);
        assert_eq!(journal.step(), Step::Idle, "a dead journal does nothing");
    }
    let journal = MemJournal::open(disk, tiny()).expect("an honest node is never stopped");
    assert!(model.matching(&picture(&*journal)).is_some());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// J1, J4: what recovery cuts was never reported, copies and recycled segments never bring anything back, and no
    /// honest node is ever stopped.
    #[test]
    fn power_loss_loses_nothing_reported_and_stops_nobody(lives in proptest::collection::vec(life(), 1..5)) {
        live(&lives);
    }
}

/// Every moment of one fixed life, so that no run depends on luck to cut a start or a recycling in half.
#[test]
fn power_may_fail_at_every_single_operation() {
    let append = |group| Action::Ask(Op::Append { group, count: 2, bytes: 100 });
    let purge = |group, ahead| Action::Ask(Op::Purge { group, ahead });
    let round = [append(1), Action::Ask(Op::Vote { group: 2 }), Action::Step, Action::Step, append(3), Action::Step];
    let mut actions = vec![append(2)];
    for _ in 0..12 {
        actions.extend(round.clone());
        actions.extend([purge(1, 2), Action::Step, purge(3, 2), Action::Step, Action::Step]);
    }
    for operations in 0..160 {
        for survivors in [Survivors::All, Survivors::Nothing, Survivors::Some(operations * 7919)] {
            let quiet = |operations, starts: &[u64]| Life {
                actions: actions.clone(),
                operations,
                starts: starts.to_vec(),
                survivors: survivors.clone(),
            };
            live(&[quiet(Some(operations), &[]), quiet(None, &[operations % 30])]);
        }
    }
}

/// A batch whose header survives and whose records fall back to what the recycled file held there before: records of
/// the same shape at the same place, told apart by the epoch in their checksums alone.
#[test]
fn a_torn_batch_in_a_recycled_segment_never_shows_the_old_record() {
    const GROUP: GroupId = GroupId(1);
    // Fills the first sector behind the headers, so that the entry begins with the second.
    let vote = || Mark::Vote(Bytes::from(vec![7; 383]));
    let entry = |index| LogRecord { index, term: 1, payload: Bytes::from(vec![index as u8; 1000]) };
    for kept in 0..16u64 {
        let disk = MemDisk::new();
        let journal = MemJournal::open_stepped(disk.clone(), tiny()).unwrap();
        for index in 1..=12 {
            journal.mark(GROUP, vote(), Completion::None).unwrap();
            journal.append(GROUP, vec![entry(index)], Completion::None).unwrap();
            journal.mark(GROUP, Mark::Purged { index: index - 1, log_id: Bytes::new() }, Completion::None).unwrap();
            if index < 12 {
                journal.run();
            }
        }
        assert_eq!(journal.step(), Step::Written);
        disk.lose_power(|unsynced| match unsynced {
            Unsynced::Sector { sector, .. } => kept >> sector & 1 == 1,
            Unsynced::Name { .. } => true,
        });
        let journal = MemJournal::open(disk, tiny()).unwrap();
        let found = journal.entries(GROUP, 0..99, usize::MAX).unwrap();
        assert!(found == [entry(11)] || found == [entry(11), entry(12)] || found == [entry(12)], "kept {kept:04b}");
    }
}
