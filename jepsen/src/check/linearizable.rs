//! Linearizability: every key by itself, several at once, the first conviction ends the rest.
//!
//! ```text
//!   operations ──by key──▶ calls ──▶ zones   (a register whose values are all different: n log n)
//!                                └─▶ search  (everything else, and whatever wants to compare the two)
//! ```
//!
//! Reads that asked for less than linearizable are not held to it; `receipts` and `sessions` judge them.
//!
//! **Invariant.** A key nobody could decide makes the verdict unknown, unless another key is convicted.

use super::{
    coverage::Coverage,
    meter::{Limit, Meter},
    report::{Finding, Options, Report, Unfit},
    search::{Found, Timed, search},
    shrink::{Suspect, shrink},
    zones,
};
use crate::{
    history::{History, Operation, Outcome},
    model::{Model, RegisterModel},
};
use kvorum_api::ReadLevel;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// How registers are decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// By zones where all values differ, else by search.
    #[default]
    Fastest,
    /// By search only.
    Search,
}

/// The calls of one key, by invocation.
pub struct Part<C> {
    /// The key; operations without one share a part.
    pub key: Option<String>,
    /// What happened to it.
    pub calls: Vec<Timed<C>>,
}

/// What one key says.
enum Decision {
    Explained,
    Convicted(Finding),
    Open(Limit),
}

/// Judges a history of registers.
pub fn register(name: &str, history: &History, method: Method, options: &Options) -> Result<Report, Unfit> {
    let model = RegisterModel::default();
    let parts = split(&model, history)?;
    let decide = |part: &Part<_>, meter: &Meter| {
        if method == Method::Search {
            return decide_by_search(&model, history, part, meter, options);
        }
        match zones::decide(&model.initial, &part.calls) {
            None => decide_by_search(&model, history, part, meter, options),
            Some(Ok(())) => Decision::Explained,
            Some(Err(conflict)) => {
                meter.stop();
                let calls = conflict.calls.iter().map(|at| part.calls[*at].clone()).collect();
                let suspect = Suspect {
                    key: part.key.as_deref(),
                    starts: [model.initial()].into(),
                    calls,
                    of: part.calls.len(),
                    history,
                };
                let mut finding = shrink(&model, suspect, options);
                finding.because.push(conflict.because);
                Decision::Convicted(finding)
            }
        }
    };
    Ok(judge(name, &model, history, &parts, options, decide))
}

/// Judges a history of any objects, one per key.
pub fn linearizable<M: Model>(name: &str, model: &M, history: &History, options: &Options) -> Result<Report, Unfit> {
    let parts = split(model, history)?;
    let decide = |part: &Part<M::Call>, meter: &Meter| decide_by_search(model, history, part, meter, options);
    Ok(judge(name, model, history, &parts, options, decide))
}

/// The calls of every key, longest first, so that no thread ends long after the others.
pub fn split<M: Model>(model: &M, history: &History) -> Result<Vec<Part<M::Call>>, Unfit> {
    let mut parts: BTreeMap<Option<&str>, Vec<Timed<M::Call>>> = BTreeMap::new();
    for operation in &history.operations {
        if !is_held_to_it(operation) {
            continue;
        }
        if let Some(call) = model.call(operation)? {
            let until_ns = if operation.outcome == Outcome::Ok { operation.ended_ns } else { None };
            let timed = Timed { operation: operation.id, call, from_ns: operation.invoked_ns, until_ns };
            parts.entry(operation.key.as_deref()).or_default().push(timed);
        }
    }
    let part = |(key, calls): (Option<&str>, Vec<_>)| Part { key: key.map(str::to_owned), calls };
    let mut parts: Vec<Part<M::Call>> = parts.into_iter().map(part).collect();
    parts.sort_by_key(|part| std::cmp::Reverse(part.calls.len()));
    Ok(parts)
}

fn is_held_to_it(operation: &Operation) -> bool {
    matches!(operation.level, None | Some(ReadLevel::Linearizable))
}

fn decide_by_search<M: Model>(
    model: &M,
    history: &History,
    part: &Part<M::Call>,
    meter: &Meter,
    options: &Options,
) -> Decision {
    match search(model, [model.initial()].into(), &part.calls, meter, u64::MAX) {
        Found::Order => Decision::Explained,
        Found::GaveUp(limit) => Decision::Open(limit),
        Found::NoOrder(stuck) => {
            meter.stop();
            // Whatever began after the last moment any order reaches has nothing to do with it.
            let end_ns = part.calls[stuck.call].until_ns.unwrap_or(history.end_ns);
            let reached = part.calls[stuck.first..].iter().filter(|call| call.from_ns <= end_ns);
            let calls = reached
                .map(|call| Timed { until_ns: call.until_ns.filter(|until_ns| *until_ns <= end_ns), ..call.clone() })
                .collect();
            let suspect =
                Suspect { key: part.key.as_deref(), starts: stuck.before, calls, of: part.calls.len(), history };
            Decision::Convicted(shrink(model, suspect, options))
        }
    }
}

/// Decides the parts with a few threads, until one is convicted.
fn judge<M: Model>(
    name: &str,
    model: &M,
    history: &History,
    parts: &[Part<M::Call>],
    options: &Options,
    decide: impl Fn(&Part<M::Call>, &Meter) -> Decision + Sync,
) -> Report {
    let meter = Meter::new(options.memory_bytes_max, options.time_max);
    let next = AtomicUsize::new(0);
    let decisions: Mutex<(Vec<Finding>, Vec<String>)> = Mutex::default();
    let work = || {
        while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
            match decide(part, &meter) {
                Decision::Explained | Decision::Open(Limit::Unwanted) => {}
                Decision::Convicted(finding) => {
                    decisions.lock().0.push(finding);
                    next.store(parts.len(), Ordering::Relaxed);
                    meter.stop();
                }
                Decision::Open(limit) => decisions.lock().1.push(undecided(part.key.as_deref(), limit, options)),
            }
        }
    };
    let threads = options.threads.clamp(1, parts.len().max(1));
    if threads == 1 {
        work();
    } else {
        thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
    }
    let answers = |part: &Part<M::Call>| {
        part.calls.iter().filter(|timed| timed.until_ns.is_some() && model.is_read(&timed.call)).count()
    };
    let told = parts.iter().map(answers).sum::<usize>() + told_by_writes(history);
    let (findings, limits) = decisions.into_inner();
    Report::weigh(name, Coverage::of(history, told, "read that was answered"), findings, limits)
}

/// Writes whose answer says what was there: a swap, an increment that names the new number.
fn told_by_writes(history: &History) -> usize {
    let tells = |operation: &&Operation| {
        operation.is_ok() && (operation.name == "cas" || (operation.name == "increment" && !operation.result.is_nil()))
    };
    history.operations.iter().filter(tells).count()
}

fn undecided(key: Option<&str>, limit: Limit, options: &Options) -> String {
    let key = key.map_or("the history".to_owned(), |key| format!("key {key:?}"));
    match limit {
        Limit::Memory => format!("{key} needs more memory than the {} bytes allowed", options.memory_bytes_max),
        Limit::Time => format!("{key} needs more time than allowed"),
        Limit::Tries | Limit::Unwanted => format!("{key} was not decided"),
    }
}
