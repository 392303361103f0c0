//! Registers whose written values are all different: linearizability without a search.
//!
//! Each read names its write. All that touches one value (its cluster) must happen without another value in between, so
//! only the earliest end and the latest beginning in a cluster matter:
//!
//! ```text
//!   write 1 ├──┤        read 1 ├──┤        forward zone: from the earliest end to the latest beginning the register
//!              ▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓           holds 1: two such zones may not overlap
//!   write 2 ├───────────┤
//!       read 2 ├──────┤                    backward zone: everything overlaps, there is a moment in common; it may
//!              ▒▒▒▒▒▒▒▒                    not lie within a forward zone of another value
//! ```
//!
//! **Invariant.** The same answer as `search`, on every history it takes on; it takes on only what it can decide.
//!
//! **Deliberately absent.** Swaps, and values written twice.
//!
//! Gibbons and Korach, "Testing shared memories", 1997.

use super::search::Timed;
use crate::{history::Value, model::RegisterCall};
use std::collections::BTreeMap;

/// Why there is no order.
#[derive(Clone, Debug)]
pub struct Conflict {
    /// The calls that show it, by their place.
    pub calls: Vec<usize>,
    /// In a sentence.
    pub because: String,
}

/// All that touches one value. Moments are ranks among the events of the history; 0 is before them all.
struct Cluster<'a> {
    value: &'a Value,
    write: Option<usize>,
    writes_from: u64,
    earliest_end: (u64, Option<usize>),
    latest_begin: (u64, Option<usize>),
    has_read: bool,
}

impl Cluster<'_> {
    fn is_forward(&self) -> bool {
        self.earliest_end.0 < self.latest_begin.0
    }

    fn witnesses(&self) -> impl Iterator<Item = usize> {
        [self.write, self.earliest_end.1, self.latest_begin.1].into_iter().flatten()
    }
}

/// Decides; `None` if this history is not for zones.
pub fn decide(initial: &Value, calls: &[Timed<RegisterCall>]) -> Option<Result<(), Conflict>> {
    let mut clusters: BTreeMap<&Value, Cluster<'_>> = BTreeMap::new();
    clusters.insert(initial, beginning(initial));
    let moments = ranks(calls);
    for (at, timed) in calls.iter().enumerate() {
        match &timed.call {
            RegisterCall::Write(value) => {
                if clusters.insert(value, written(value, at, moments[at])).is_some() {
                    return None;
                }
            }
            RegisterCall::Read(_) => {}
            RegisterCall::Swap(..) | RegisterCall::Differs(_) | RegisterCall::MaybeSwap(..) => return None,
        }
    }
    for (at, timed) in calls.iter().enumerate() {
        if let RegisterCall::Read(value) = &timed.call
            && let Err(conflict) = add_read(&mut clusters, value, at, moments[at])
        {
            return Some(Err(conflict));
        }
    }
    // A write nobody read fits right before the next one, and one of unknown outcome need not have happened.
    let is_seen = |cluster: &Cluster<'_>| cluster.has_read || cluster.earliest_end.0 != u64::MAX;
    Some(compare(clusters.into_values().filter(is_seen).collect()))
}

/// Begin and end of each call, no two the same: at the same instant calls come before returns.
fn ranks<C>(calls: &[Timed<C>]) -> Vec<(u64, u64)> {
    let mut events: Vec<(u64, bool, usize)> = Vec::with_capacity(calls.len() * 2);
    for (at, timed) in calls.iter().enumerate() {
        events.push((timed.from_ns, false, at));
        events.extend(timed.until_ns.map(|until_ns| (until_ns, true, at)));
    }
    events.sort_unstable();
    let mut moments = vec![(0, u64::MAX); calls.len()];
    for (rank, (_, is_end, at)) in (1..).zip(events) {
        if is_end {
            moments[at].1 = rank;
        } else {
            moments[at].0 = rank;
        }
    }
    moments
}

/// What the register holds at first, as if it had been written before everything.
fn beginning(value: &Value) -> Cluster<'_> {
    Cluster { value, write: None, writes_from: 0, earliest_end: (0, None), latest_begin: (0, None), has_read: false }
}

fn written(value: &Value, at: usize, (begin, end): (u64, u64)) -> Cluster<'_> {
    Cluster {
        value,
        write: Some(at),
        writes_from: begin,
        earliest_end: (end, Some(at)),
        latest_begin: (begin, Some(at)),
        has_read: false,
    }
}

fn add_read<'a>(
    clusters: &mut BTreeMap<&'a Value, Cluster<'a>>,
    value: &Value,
    at: usize,
    (begin, end): (u64, u64),
) -> Result<(), Conflict> {
    let Some(cluster) = clusters.get_mut(value) else {
        return Err(Conflict { calls: vec![at], because: format!("nobody wrote {value}") });
    };
    if end < cluster.writes_from {
        let calls = cluster.write.into_iter().chain([at]).collect();
        return Err(Conflict { calls, because: format!("{value} was read before its write began") });
    }
    cluster.has_read = true;
    cluster.earliest_end = cluster.earliest_end.min((end, Some(at)));
    cluster.latest_begin = cluster.latest_begin.max((begin, Some(at)));
    Ok(())
}

fn compare(clusters: Vec<Cluster<'_>>) -> Result<(), Conflict> {
    let (mut forward, backward): (Vec<Cluster<'_>>, Vec<Cluster<'_>>) =
        clusters.into_iter().partition(Cluster::is_forward);
    forward.sort_by_key(|cluster| cluster.earliest_end.0);
    for pair in forward.windows(2) {
        let [first, second] = pair else { continue };
        if second.earliest_end.0 < first.latest_begin.0 {
            let because = format!("{} and {} were both there for a while, at the same time", first.value, second.value);
            return Err(Conflict { calls: witnesses(first, second), because });
        }
    }
    for cluster in backward {
        // Forward zones do not overlap any more: only the last that begins before can hold this one.
        let after = forward.partition_point(|zone| zone.earliest_end.0 < cluster.latest_begin.0);
        let Some(zone) = after.checked_sub(1).map(|at| &forward[at]) else { continue };
        if cluster.earliest_end.0 < zone.latest_begin.0 {
            let because = format!("{} fits only where {} was there all the time", cluster.value, zone.value);
            return Err(Conflict { calls: witnesses(zone, &cluster), because });
        }
    }
    Ok(())
}

fn witnesses(one: &Cluster<'_>, other: &Cluster<'_>) -> Vec<usize> {
    let mut calls: Vec<usize> = one.witnesses().chain(other.witnesses()).collect();
    calls.sort_unstable();
    calls.dedup();
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(value: i64, from_ns: u64, until_ns: Option<u64>) -> Timed<RegisterCall> {
        Timed { operation: 0, call: RegisterCall::Write(value.into()), from_ns, until_ns }
    }

    fn read(value: impl Into<Value>, from_ns: u64, until_ns: u64) -> Timed<RegisterCall> {
        Timed { operation: 0, call: RegisterCall::Read(value.into()), from_ns, until_ns: Some(until_ns) }
    }

    fn because(calls: &[Timed<RegisterCall>]) -> String {
        match decide(&Value::Nil, calls).expect("unique values") {
            Ok(()) => String::new(),
            Err(conflict) => conflict.because,
        }
    }

    #[test]
    fn zones_that_fit_are_fine() {
        assert_eq!(because(&[read(Value::Nil, 1, 2), write(1, 3, Some(8)), read(1, 4, 5), read(1, 9, 10)]), "");
        assert_eq!(because(&[write(1, 1, None), read(Value::Nil, 5, 6), read(1, 7, 8)]), "");
        assert_eq!(because(&[write(1, 1, Some(9)), write(2, 2, Some(8)), read(2, 3, 4), read(1, 5, 6)]), "");
    }

    #[test]
    fn zones_that_do_not_fit_are_found() {
        let stale = [write(1, 1, Some(2)), write(2, 3, Some(4)), read(1, 5, 6)];
        assert!(because(&stale).contains("2 fits only where 1 was there all the time"));
        let torn =
            [write(1, 1, Some(9)), write(2, 1, Some(9)), read(1, 2, 3), read(2, 4, 5), read(1, 6, 7), read(2, 8, 9)];
        assert!(because(&torn).contains("at the same time"));
        assert_eq!(because(&[read(7, 1, 2)]), "nobody wrote 7");
        assert_eq!(because(&[read(7, 1, 2), write(7, 3, Some(4))]), "7 was read before its write began");
        let lost = [write(1, 1, Some(2)), read(Value::Nil, 3, 4)];
        assert!(because(&lost).contains("1 fits only where nil was there all the time"));
    }

    #[test]
    fn what_zones_cannot_decide_they_do_not_take_on() {
        assert!(decide(&Value::Nil, &[write(1, 1, Some(2)), write(1, 3, Some(4))]).is_none());
        let swap = RegisterCall::Swap(1.into(), 2.into());
        assert!(decide(&Value::Nil, &[Timed { operation: 0, call: swap, from_ns: 1, until_ns: Some(2) }]).is_none());
        let delete = Timed { operation: 0, call: RegisterCall::Write(Value::Nil), from_ns: 1, until_ns: Some(2) };
        assert!(decide(&Value::Nil, &[delete]).is_none(), "nothing there at first, and again");
    }
}
