//! Counters by their bounds: no order needed, however busy they are.
//!
//! ```text
//!   lowest possible  = all acknowledged before the read began ≤ told ≤ highest possible = all that may have
//!                                                                      begun before it ended
//! ```
//!
//! Steps below zero change sides: what may have happened lowers the lower bound.
//!
//! **Invariant.** A number outside the bounds is a violation in every order; numbers told by increments are held to
//! them as well, and none is told twice.
//!
//! **Deliberately absent.** What lies between the bounds: `linearizable-counter` searches for an order.

use super::{
    coverage::Coverage,
    report::{Finding, Options, Report, Unfit},
};
use crate::{
    history::{History, Operation},
    model::{number_of, step_of},
};
use std::collections::BTreeMap;

/// Sums of steps by the moment from which they count.
#[derive(Default)]
struct Sums {
    steps: Vec<(u64, i64)>,
}

impl Sums {
    fn add(&mut self, time_ns: u64, step: i64) {
        self.steps.push((time_ns, step));
    }

    fn accumulate(&mut self) {
        self.steps.sort_unstable();
        let mut sum = 0i64;
        for (_, step) in &mut self.steps {
            sum = sum.saturating_add(*step);
            *step = sum;
        }
    }

    /// Of everything before this moment.
    fn before(&self, time_ns: u64) -> i64 {
        let at = self.steps.partition_point(|(other_ns, _)| *other_ns < time_ns);
        at.checked_sub(1).map_or(0, |at| self.steps[at].1)
    }
}

#[derive(Default)]
struct Counter<'a> {
    certain_up: Sums,
    certain_down: Sums,
    possible_up: Sums,
    possible_down: Sums,
    /// Whoever was told a number, and which.
    told: Vec<(&'a Operation, i64)>,
}

/// Judges every counter of a history.
pub fn check(history: &History, _options: &Options) -> Result<Report, Unfit> {
    let mut counters: BTreeMap<Option<&str>, Counter<'_>> = BTreeMap::new();
    for operation in &history.operations {
        take(counters.entry(operation.key.as_deref()).or_default(), operation)?;
    }
    let mut findings = Vec::new();
    let mut told = 0;
    for (key, mut counter) in counters {
        told += counter.told.len();
        let Counter { certain_up, certain_down, possible_up, possible_down, .. } = &mut counter;
        [certain_up, certain_down, possible_up, possible_down].into_iter().for_each(Sums::accumulate);
        out_of_bounds(key, &counter, &mut findings);
        told_twice(key, &counter, &mut findings);
    }
    Ok(Report::weigh("counter", Coverage::of(history, told, "read that was answered"), findings, Vec::new()))
}

fn take<'a>(counter: &mut Counter<'a>, operation: &'a Operation) -> Result<(), Unfit> {
    match operation.name.as_str() {
        "read" | "get" => {
            if operation.is_ok() {
                counter.told.push((operation, number_of(operation)?.unwrap_or(0)));
            }
        }
        "increment" | "add" => {
            let step = step_of(operation)?;
            if operation.may_have_happened() {
                let sums = if step < 0 { &mut counter.possible_down } else { &mut counter.possible_up };
                sums.add(operation.invoked_ns, step);
            }
            if let Some(completed_ns) = operation.completed_ns() {
                let sums = if step < 0 { &mut counter.certain_down } else { &mut counter.certain_up };
                sums.add(completed_ns, step);
                if operation.name == "increment"
                    && let Some(number) = number_of(operation)?
                {
                    counter.told.push((operation, number));
                }
            }
        }
        other => {
            let reason = format!("line {}: operation: {other:?} is none of increment, add, read, get", operation.line);
            return Err(Unfit(reason));
        }
    }
    Ok(())
}

fn out_of_bounds(key: Option<&str>, counter: &Counter<'_>, findings: &mut Vec<Finding>) {
    for (operation, number) in &counter.told {
        let begun_ns = operation.invoked_ns;
        let ended_ns = operation.ended_ns.unwrap_or(u64::MAX).saturating_add(1);
        let lowest = counter.certain_up.before(begun_ns).saturating_add(counter.possible_down.before(ended_ns));
        let highest = counter.possible_up.before(ended_ns).saturating_add(counter.certain_down.before(begun_ns));
        if *number < lowest {
            let what = format!("increments are missing: {operation}, and at least {lowest} was acknowledged before");
            findings.push(Finding::new(key, what, &[operation.id]));
        } else if *number > highest {
            let what = format!("counted twice: {operation}, and at most {highest} was asked for by then");
            findings.push(Finding::new(key, what, &[operation.id]));
        }
    }
}

/// As long as a counter only grows, every increment makes a number of its own.
fn told_twice(key: Option<&str>, counter: &Counter<'_>, findings: &mut Vec<Finding>) {
    if !counter.possible_down.steps.is_empty() {
        return;
    }
    let mut told: BTreeMap<i64, &Operation> = BTreeMap::new();
    let grows = |operation: &Operation| operation.name == "increment" && step_of(operation).is_ok_and(|step| step > 0);
    for (operation, number) in counter.told.iter().filter(|(operation, _)| grows(operation)) {
        if let Some(other) = told.insert(*number, operation) {
            let what = format!("two increments made {number}: {other} and {operation}");
            findings.push(Finding::new(key, what, &[other.id, operation.id]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{history, reasons};
    use super::*;

    fn judge(lines: &str) -> Vec<String> {
        reasons(check(&history(lines), &Options::default()).unwrap())
    }

    #[test]
    fn numbers_within_their_bounds_are_fine() {
        assert!(judge("1-2 c1 increment 5 ok\n3-4 c1 increment 2 ?\n5-6 c2 read - 5\n7-8 c2 read - 7").is_empty());
        assert!(judge("1-9 c1 increment 5 ok\n3-4 c2 read - 0\n5-6 c2 read - 5").is_empty());
        assert!(judge("1-2 c1 increment 5 ok\n3-4 c1 increment -2 ?\n5-6 c2 read - 3\n7-8 c2 read - 5").is_empty());
    }

    #[test]
    fn a_missing_and_a_doubled_increment_are_found() {
        assert!(judge("1-2 c1 increment 5 ok\n3-4 c2 read - 4")[0].contains("at least 5"));
        assert!(judge("1-2 c1 increment 5 ok\n3-4 c2 read - 10")[0].contains("at most 5"));
        assert!(judge("1-2 c1 increment 5 fail\n3-4 c2 read - 5")[0].contains("at most 0"));
        assert!(
            judge("1-2 c1 increment - 1\n1-3 c2 increment - 1")
                .iter()
                .any(|what| what.contains("two increments made 1"))
        );
        assert!(judge("1-2 c1 increment -5 ok\n3-4 c2 read - -4")[0].contains("at most -5"));
    }
}
