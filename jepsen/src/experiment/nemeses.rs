//! Carries out a schedule, and writes down what became of each fault.
//!
//! **Invariant.** Everything that was begun is ended, also when a later fault cannot be tried. No fault lasts shorter
//! than drawn because another one took long to begin: the rest of the schedule waits with it.

use super::run::Clockwork;
use crate::{
    history::Value,
    real::{
        cluster::Cluster,
        nemesis::{Nemesis, Outcome, Seen},
        schedule::{Event, Recurring},
    },
};
use anyhow::{Context, Result};
use rand::{SeedableRng as _, rngs::SmallRng};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::{Instant, sleep_until};

/// One fault that was tried.
#[derive(Clone, Debug)]
pub struct Tried {
    /// Its place among the faults of the experiment.
    pub fault: usize,
    /// `kill leader`.
    pub name: String,
    /// When it began.
    pub from_ns: u64,
    /// When it struck: of a fault in several steps, when the one began that ended nodes for good.
    pub struck_ns: u64,
    /// When it had been undone.
    pub until_ns: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// What was seen while it held.
    pub seen: Value,
    /// Shards that were led by those it hit.
    pub shards: Vec<u64>,
}

impl Tried {
    /// Whether it took hold.
    #[must_use]
    pub fn is_installed(&self) -> bool {
        matches!(self.outcome, Outcome::Installed(_))
    }

    /// What was seen until the end decides what became of it.
    fn end(&mut self, seen: Seen) {
        self.seen = seen.value;
        if let (Some(doubt), Outcome::Installed(_)) = (seen.doubt, &self.outcome) {
            self.outcome = Outcome::Indeterminate(doubt);
            // What nobody can say took hold has nothing to recover from.
            self.shards.clear();
        }
    }
}

/// Begins or ends.
struct Move {
    at: Duration,
    event: usize,
    begins: bool,
}

/// What a fault may take to begin or to end without the rest of the schedule being put off.
const LATE_MAX: Duration = Duration::from_secs(1);

/// Carries the whole schedule out, counting from `begun`.
pub async fn carry_out(
    cluster: &mut Cluster,
    faults: &[Recurring],
    events: &[Event],
    begun: Instant,
    clockwork: &Clockwork,
) -> Result<Vec<Tried>> {
    let mut moves: Vec<Move> = Vec::new();
    for (place, event) in events.iter().enumerate() {
        moves.push(Move { at: event.begin, event: place, begins: true });
        moves.push(Move { at: event.begin + event.hold, event: place, begins: false });
    }
    moves.sort_by_key(|step| (step.at, step.begins));
    let mut open: BTreeMap<usize, (Box<dyn Nemesis>, Tried)> = BTreeMap::new();
    let mut tried = Vec::new();
    let mut put_off = Duration::ZERO;
    for Move { at, event, begins } in moves {
        let due = begun + at + put_off;
        let waited_from = Instant::now();
        sleep_until(due).await;
        let fault = &faults[events[event].fault];
        let name = fault.plan.name();
        if begins {
            let chance = SmallRng::seed_from_u64(events[event].seed);
            let mut nemesis = (fault.plan.kind.draw)(&fault.plan.wish, &fault.plan.target, chance)?;
            let leaders = cluster.observer.leaders();
            let from_ns = clockwork.note(&name, phase("start", []));
            let outcome = nemesis.start(cluster).await.with_context(|| format!("{name} cannot begin"))?;
            let shards = leaders.iter().filter(|(_, leader)| is_hit(&outcome, **leader)).map(|(shard, _)| *shard);
            // Whoever was lost for good is hit, and then: people ask and wait before.
            let (struck_ns, shards) = match std::mem::take(&mut cluster.affairs.losses).pop() {
                Some(loss) => (clockwork.at_ns(loss.at), loss.shards),
                None => (from_ns, shards.collect()),
            };
            clockwork.say(&told(&name, &outcome));
            let (fault, until_ns, seen) = (events[event].fault, from_ns, Value::Nil);
            open.insert(event, (nemesis, Tried { fault, name, from_ns, struck_ns, until_ns, outcome, seen, shards }));
        } else if let Some((mut nemesis, mut fault)) = open.remove(&event) {
            let seen = nemesis.stop(cluster).await.with_context(|| format!("{name} cannot be ended"))?;
            fault.end(seen);
            let word = Value::from(word(&fault.outcome));
            fault.until_ns = clockwork.note(&name, phase("stop", [("outcome", word), ("seen", fault.seen.clone())]));
            clockwork.say(&format!("{name} over: {}", fault.seen));
            if let Outcome::Indeterminate(_) = &fault.outcome {
                clockwork.say(&told(&name, &fault.outcome));
            }
            tried.push(fault);
        }
        let took = Instant::now() - due.max(waited_from);
        if took > LATE_MAX {
            put_off += took;
        }
    }
    Ok(tried)
}

fn phase<const N: usize>(word: &str, more: [(&str, Value); N]) -> Value {
    let fields = more.into_iter().map(|(name, value)| (name.to_owned(), value));
    Value::Map(fields.chain([("phase".to_owned(), Value::from(word))]).collect())
}

/// Installed, skipped, indeterminate.
#[must_use]
pub fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Installed(_) => "installed",
        Outcome::Skipped(_) => "skipped",
        Outcome::Indeterminate(_) => "indeterminate",
    }
}

fn told(name: &str, outcome: &Outcome) -> String {
    match outcome {
        Outcome::Installed(seen) => format!("{name}: {seen}"),
        Outcome::Skipped(reason) => format!("{name} skipped: {reason}"),
        Outcome::Indeterminate(reason) => format!("{name} indeterminate: {reason}"),
    }
}

fn is_hit(outcome: &Outcome, node: u64) -> bool {
    let Outcome::Installed(seen) = outcome else { return false };
    let nodes = seen.field("nodes").and_then(Value::as_list).unwrap_or_default();
    nodes.contains(&Value::Text(format!("n{node}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_doubt_at_its_end_did_not_take_hold() {
        let installed = Outcome::Installed(Value::Nil);
        let end = |outcome: &Outcome, doubt: Option<&str>| {
            let (name, outcome) = ("partition one".to_owned(), outcome.clone());
            let mut tried = Tried {
                fault: 0,
                name,
                from_ns: 0,
                struck_ns: 0,
                until_ns: 0,
                outcome,
                seen: Value::Nil,
                shards: Vec::new(),
            };
            tried.end(Seen { value: Value::Bool(true), doubt: doubt.map(str::to_owned) });
            assert_eq!(tried.seen, Value::Bool(true));
            tried.outcome
        };
        assert_eq!(end(&installed, None), installed);
        assert_eq!(end(&installed, Some("bytes passed")), Outcome::Indeterminate("bytes passed".to_owned()));
        let skipped = Outcome::Skipped("no node is up".to_owned());
        assert_eq!(end(&skipped, Some("nobody met it")), skipped);
    }

    #[test]
    fn who_is_named_was_hit_and_a_skipped_fault_hits_nobody() {
        let nodes = Value::Map([("nodes".to_owned(), Value::List(vec!["n2".into()]))].into());
        assert!(is_hit(&Outcome::Installed(nodes.clone()), 2));
        assert!(!is_hit(&Outcome::Installed(nodes), 1));
        assert!(!is_hit(&Outcome::Skipped("nobody leads".to_owned()), 2));
    }
}
