//! Invented histories pass, mutated ones do not, and whatever slips through is proven to be fine.

use crate::plain::is_linearizable;
use kvorum_jepsen::{
    check::{Method, Options, Report, Verdict, register},
    history::{History, Kind, Record, Shape, Value, invent},
};
use rand::{Rng, SeedableRng, rngs::SmallRng, seq::IndexedRandom};
use std::collections::BTreeMap;

fn judge(records: &[Record], method: Method, explaining_tries_max: u64) -> Report {
    let history = History::from_records(records.iter().cloned()).unwrap();
    let options = Options { threads: 1, explaining_tries_max, ..Options::default() };
    register("register", &history, method, &options).unwrap()
}

fn is_convicted(records: &[Record], method: Method) -> bool {
    match judge(records, method, 0).verdict {
        Verdict::Violation => true,
        Verdict::Ok | Verdict::Vacuous => false,
        Verdict::Unknown => panic!("a small history was not decided"),
    }
}

const UNIQUE: Shape =
    Shape { operations: 60, keys: 1, clients: 4, swaps_percent: 0, unknown_percent: 5, values_max: None };

const SWAPPING: Shape = Shape { swaps_percent: 30, values_max: Some(4), ..UNIQUE };

#[test]
fn histories_of_perfect_registers_are_ok() {
    for seed in 0..300 {
        for shape in [UNIQUE, SWAPPING, Shape { keys: 5, clients: 8, operations: 300, ..SWAPPING }] {
            let records = invent(seed, shape);
            for method in [Method::Fastest, Method::Search] {
                assert!(!is_convicted(&records, method), "seed {seed}, {shape:?}, {method:?}");
            }
        }
    }
}

#[test]
fn a_busy_register_with_many_open_writes_is_decided() {
    let shape = Shape { operations: 2_000, clients: 10, unknown_percent: 2, ..SWAPPING };
    for seed in 0..5 {
        assert!(!is_convicted(&invent(seed, shape), Method::Search), "seed {seed}");
    }
}

/// Both methods and the plain search agree on histories that are as often wrong as right.
#[test]
fn every_way_to_decide_agrees_on_small_histories() {
    let mut verdicts = BTreeMap::new();
    for seed in 0..4_000 {
        let mut chance = SmallRng::seed_from_u64(seed);
        let unique = Shape { operations: 8, clients: 3, unknown_percent: 15, ..UNIQUE };
        let shape = if seed % 2 == 0 { unique } else { Shape { swaps_percent: 40, values_max: Some(3), ..unique } };
        let mut records = invent(seed, shape);
        disturb(&mut records, &mut chance);
        let is_fine = is_linearizable(&History::from_records(records.iter().cloned()).unwrap());
        for method in [Method::Fastest, Method::Search] {
            assert_eq!(is_convicted(&records, method), !is_fine, "seed {seed}, {method:?}: {records:#?}");
        }
        *verdicts.entry(is_fine).or_insert(0) += 1;
    }
    assert!(verdicts.values().all(|count| *count > 800), "one-sided: {verdicts:?}");
}

/// Gives one read another answer that somebody might have got.
fn disturb(records: &mut [Record], chance: &mut SmallRng) {
    let values: Vec<Value> = records
        .iter()
        .filter(|record| record.kind == Kind::Invoke && record.operation == "write")
        .map(|record| record.value.clone())
        .chain([Value::Nil])
        .collect();
    let reads: Vec<usize> = completed(records, "read").collect();
    if let (Some(read), Some(value)) = (reads.choose(chance), values.choose(chance)) {
        records[*read].value = value.clone();
    }
}

fn completed<'a>(records: &'a [Record], name: &'a str) -> impl Iterator<Item = usize> + 'a {
    (0..records.len()).filter(move |at| records[*at].kind == Kind::Ok && records[*at].operation == name)
}

/// The invocation of a completion.
fn invocation(records: &[Record], completion: usize) -> usize {
    let is_it = |at: &usize| records[*at].process == records[completion].process && records[*at].kind == Kind::Invoke;
    (0..completion).rev().find(is_it).unwrap()
}

type Mutation = fn(&mut Vec<Record>, &mut SmallRng) -> Option<()>;

/// Two reads of different values, one of which had ended before the other began, are told each other's answer.
#[expect(clippy::ptr_arg, reason = "mutations share one type")]
fn swap_two_reads(records: &mut Vec<Record>, chance: &mut SmallRng) -> Option<()> {
    let reads: Vec<usize> = completed(records, "read").collect();
    let one = *reads.choose(chance)?;
    let differs =
        |other: &&usize| records[**other].value != records[one].value && invocation(records, **other) > one + 8;
    let other = **reads.iter().filter(differs).collect::<Vec<_>>().choose(chance)?;
    let value = std::mem::take(&mut records[one].value);
    records[one].value = std::mem::replace(&mut records[other].value, value);
    Some(())
}

/// An acknowledged write that was read is forgotten.
fn drop_a_write(records: &mut Vec<Record>, chance: &mut SmallRng) -> Option<()> {
    let is_read = |value: &Value| completed(records, "read").any(|read| records[read].value == *value);
    let writes: Vec<usize> =
        completed(records, "write").filter(|write| is_read(&records[invocation(records, *write)].value)).collect();
    let write = *writes.choose(chance)?;
    let begin = invocation(records, write);
    records.remove(write);
    records.remove(begin);
    Some(())
}

/// A read shows a value that another acknowledged write had replaced before the read began.
#[expect(clippy::ptr_arg, reason = "mutations share one type")]
fn stale_read(records: &mut Vec<Record>, chance: &mut SmallRng) -> Option<()> {
    let writes: Vec<usize> = completed(records, "write").collect();
    let reads: Vec<usize> = completed(records, "read").collect();
    let read = *reads.choose(chance)?;
    let before: Vec<usize> = writes.into_iter().filter(|write| *write < invocation(records, read)).collect();
    let newest_begin = before.iter().map(|write| invocation(records, *write)).max()?;
    let old = *before.iter().filter(|write| **write < newest_begin).collect::<Vec<_>>().choose(chance)?;
    let value = records[invocation(records, *old)].value.clone();
    records[read].value = value;
    Some(())
}

/// A swap that happened is acknowledged to somebody else as well.
fn duplicate_a_swap(records: &mut Vec<Record>, chance: &mut SmallRng) -> Option<()> {
    let swaps: Vec<usize> =
        completed(records, "cas").filter(|swap| records[*swap].value == Value::Bool(true)).collect();
    let swap = *swaps.choose(chance)?;
    let mut copy = [records[invocation(records, swap)].clone(), records[swap].clone()];
    let process = kvorum_jepsen::history::Process::Client(1_000_000 + chance.random_range(0..9));
    let time_ns = records.last()?.time_ns;
    for (at, record) in copy.iter_mut().enumerate() {
        record.process = process;
        record.time_ns = time_ns + 1 + at as u64;
    }
    records.extend(copy);
    Some(())
}

#[test]
fn mutated_histories_are_convicted_and_survivors_are_proven_fine() {
    let unique_swaps = Shape { swaps_percent: 40, ..UNIQUE };
    let mutations: [(&str, Shape, Mutation); 4] = [
        ("swap two reads", UNIQUE, swap_two_reads),
        ("drop a write", UNIQUE, drop_a_write),
        ("stale read", UNIQUE, stale_read),
        ("duplicate a swap", unique_swaps, duplicate_a_swap),
    ];
    for (name, shape, mutate) in mutations {
        let (mut mutants, mut caught) = (0, 0);
        for seed in 0..1_000 {
            let mut chance = SmallRng::seed_from_u64(seed);
            let mut records = invent(seed, shape);
            if mutate(&mut records, &mut chance).is_none() {
                continue;
            }
            mutants += 1;
            let is_caught = is_convicted(&records, Method::Fastest);
            assert_eq!(is_convicted(&records, Method::Search), is_caught, "{name}, seed {seed}");
            caught += usize::from(is_caught);
            if !is_caught {
                let history = History::from_records(records).unwrap();
                assert!(is_linearizable(&history), "{name}, seed {seed}: survived, and has no order");
            }
        }
        println!("{name}: {caught} of {mutants} caught, the others are linearizable");
        assert!(mutants > 500, "{name}: only {mutants} mutants");
        assert!(caught * 100 >= mutants * 99, "{name}: {caught} of {mutants}");
    }
}

/// The rows of a finding are a violation by themselves, by the plain search.
#[test]
fn what_is_shown_of_a_violation_is_itself_one() {
    let (mut shown, mut facts_shown) = (0, 0);
    for seed in 0..300 {
        let mut chance = SmallRng::seed_from_u64(seed);
        let mut records = invent(seed, if seed % 2 == 0 { UNIQUE } else { SWAPPING });
        disturb(&mut records, &mut chance);
        let history = History::from_records(records.iter().cloned()).unwrap();
        for method in [Method::Fastest, Method::Search] {
            let report = judge(&records, method, Options::default().explaining_tries_max);
            let Some(finding) = report.findings.first() else { continue };
            let mut window = History::default();
            for row in &finding.rows {
                let mut operation = history.operations[row.operation].clone();
                if row.role == kvorum_jepsen::check::Role::Source {
                    operation.outcome = kvorum_jepsen::history::Outcome::Unknown;
                }
                window.operations.push(operation);
            }
            shown += 1;
            let is_from_start = finding.before == ["nil"];
            assert!(!is_from_start || !is_linearizable(&window), "seed {seed}, {method:?}: {finding:#?}");
            let facts = finding.rows.iter().filter(|row| row.role == kvorum_jepsen::check::Role::Fact).count();
            facts_shown += facts;
            assert!(seed % 2 == 1 || facts <= 12, "seed {seed}, {method:?}: {facts} facts");
        }
    }
    assert!(shown > 100, "only {shown} violations");
    assert!(facts_shown < shown * 10, "{shown} windows have {facts_shown} facts: too long to read");
}

#[test]
fn a_search_that_may_not_remember_enough_says_unknown() {
    let records = invent(1, Shape { operations: 3_000, ..SWAPPING });
    let history = History::from_records(records).unwrap();
    let options = Options { memory_bytes_max: 4_096, ..Options::default() };
    let report = register("register", &history, Method::Search, &options).unwrap();
    assert_eq!(report.verdict, Verdict::Unknown);
    assert!(report.reasons[0].contains("needs more memory than the 4096 bytes allowed"), "{:?}", report.reasons);
}
