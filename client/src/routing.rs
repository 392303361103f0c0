//! Whom to ask, in which order. Pure: knowledge in, addresses out.
//!
//! ```text
//!   needs the leader     the shard's leader, its other replicas, endpoints          ┐ slow, then failed just now: last
//!   any replica will do  its replicas: those named as endpoints, then the others;   │ kept silent: not in this round
//!                        the near ones in turn, then by latency; leader; endpoints  ┘
//! ```
//!
//! **Invariant.** No address is in a round twice, and none that could answer is left out: a wrong guess costs a hop or
//! a while, never the answer. Silence is what costs time, so a silent node is asked again only after a while, or when
//! all are silent.

use crate::map::Address;
use kvorum_api::ReadLevel;
use std::{collections::VecDeque, time::Duration};

/// Who can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Only the leader, whoever that is.
    Leader,
    /// Any replica. Those the caller named come first, because who names one node wants that node.
    Any,
}

impl Route {
    /// Linearizable reads are proven by the leader; the other levels of a CP keyspace by whoever can.
    pub(crate) fn of(level: Option<ReadLevel>) -> Self {
        match level {
            Some(ReadLevel::Local | ReadLevel::Session | ReadLevel::Bounded(_) | ReadLevel::One) => Route::Any,
            None | Some(ReadLevel::Linearizable | ReadLevel::Quorum | ReadLevel::All) => Route::Leader,
        }
    }
}

/// How a node behaved when it was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Health {
    /// It answered, or was not asked.
    #[default]
    Good,
    /// It answers, but takes its time.
    Slow,
    /// It refused the connection or broke it, which costs nothing to find out again.
    Failed,
    /// It let us wait.
    Silent,
}

/// How one node looks from here.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Look {
    pub(crate) health: Health,
    /// Mean time to an answer; `None` = never measured.
    pub(crate) latency: Option<Duration>,
}

/// What is known when an order is made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Knowledge<'a> {
    /// Address of the shard's leader, as last heard.
    pub(crate) leader: Option<&'a Address>,
    /// Addresses of the shard's replicas.
    pub(crate) replicas: &'a [Address],
    /// Addresses the caller gave.
    pub(crate) endpoints: &'a [Address],
    /// Whose turn it is.
    pub(crate) turn: usize,
}

/// The order of one round.
pub(crate) fn order(route: Route, known: &Knowledge<'_>, look: impl Fn(&str) -> Look) -> VecDeque<Address> {
    let start = known.turn % known.endpoints.len().max(1);
    let endpoints = known.endpoints[start..].iter().chain(&known.endpoints[..start]);
    let mut all: Vec<&Address> = Vec::with_capacity(1 + known.replicas.len() + known.endpoints.len());
    match route {
        Route::Leader => {
            all.extend(known.leader);
            all.extend(known.replicas);
        }
        Route::Any => {
            let (named, others) = known.replicas.iter().partition(|replica| known.endpoints.contains(replica));
            all.extend(near_first(named, known.turn, &look));
            all.extend(near_first(others, known.turn, &look));
            all.extend(known.leader);
        }
    }
    all.extend(endpoints);
    let mut sides: [VecDeque<Address>; 4] = Default::default();
    for (place, address) in all.iter().enumerate() {
        if !all[..place].contains(address) {
            // Nobody else answers for a leader, so a slow one keeps its place.
            let is_leader = route == Route::Leader && known.leader == Some(*address);
            let side = match look(address).health {
                Health::Slow if is_leader => Health::Good,
                health => health,
            };
            sides[side as usize].push_back((*address).clone());
        }
    }
    let [mut round, mut slow, mut failed, silent] = sides;
    round.append(&mut slow);
    round.append(&mut failed);
    if round.is_empty() { silent } else { round }
}

/// The near ones in turn, then the others by latency. Who was never measured counts as near: else it never would be.
fn near_first(replicas: Vec<&Address>, turn: usize, look: impl Fn(&str) -> Look) -> Vec<&Address> {
    let latency = |address: &Address| look(address).latency.unwrap_or_default();
    let measured = replicas.iter().filter_map(|address| look(address).latency);
    let near_max = measured.min().map_or(Duration::MAX, |best| best * 2 + Duration::from_micros(500));
    let (mut near, mut far): (Vec<_>, Vec<_>) = replicas.into_iter().partition(|address| latency(address) <= near_max);
    let start = turn % near.len().max(1);
    near.rotate_left(start);
    far.sort_by_key(|address| latency(address));
    near.extend(far);
    near
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(words: &[&str]) -> Vec<Address> {
        words.iter().map(|word| Address::from(*word)).collect()
    }

    fn good(_: &str) -> Look {
        Look::default()
    }

    #[test]
    fn the_leader_is_asked_first_and_nobody_twice() {
        let (replicas, endpoints) = (owned(&["a", "b", "c"]), owned(&["c", "x"]));
        let known = Knowledge { leader: Some(&replicas[1]), replicas: &replicas, endpoints: &endpoints, turn: 1 };
        assert_eq!(order(Route::Leader, &known, good), owned(&["b", "a", "c", "x"]));
    }

    #[test]
    fn who_failed_is_asked_last_and_who_kept_silent_only_when_all_do() {
        let replicas = owned(&["a", "b", "c"]);
        let known = Knowledge { leader: Some(&replicas[1]), replicas: &replicas, ..Knowledge::default() };
        let one = |health| move |address: &str| if address == "b" { Look { health, latency: None } } else { good("") };
        assert_eq!(order(Route::Leader, &known, one(Health::Failed)), owned(&["a", "c", "b"]));
        assert_eq!(order(Route::Leader, &known, one(Health::Silent)), owned(&["a", "c"]));
        assert_eq!(order(Route::Leader, &known, one(Health::Slow)), owned(&["b", "a", "c"]), "only it can answer");
        assert_eq!(order(Route::Any, &known, one(Health::Slow)), owned(&["a", "c", "b"]));
        let silent = |_: &str| Look { health: Health::Silent, latency: None };
        assert_eq!(order(Route::Leader, &known, silent), owned(&["b", "a", "c"]));
    }

    #[test]
    fn a_read_that_any_replica_may_answer_goes_to_the_named_and_the_near_in_turn() {
        let (replicas, endpoints) = (owned(&["a", "b", "c", "d"]), owned(&["x", "d"]));
        let latency = |address: &str| {
            let ms = match address {
                "a" => 1,
                "b" => 30,
                _ => 2,
            };
            Look { health: Health::Good, latency: Some(Duration::from_millis(ms)) }
        };
        let known = Knowledge { leader: Some(&replicas[0]), replicas: &replicas, endpoints: &endpoints, turn: 0 };
        assert_eq!(order(Route::Any, &known, latency), owned(&["d", "a", "c", "b", "x"]));
        assert_eq!(order(Route::Any, &Knowledge { turn: 1, ..known }, latency), owned(&["d", "c", "a", "b", "x"]));
    }

    #[test]
    fn knowing_nobody_is_an_empty_round() {
        assert!(order(Route::Leader, &Knowledge::default(), good).is_empty());
    }

    #[test]
    fn session_and_bounded_reads_may_be_answered_by_any_replica() {
        for level in [ReadLevel::Session, ReadLevel::Bounded(Duration::ZERO), ReadLevel::Local, ReadLevel::One] {
            assert_eq!(Route::of(Some(level)), Route::Any);
        }
        for level in [None, Some(ReadLevel::Linearizable), Some(ReadLevel::Quorum), Some(ReadLevel::All)] {
            assert_eq!(Route::of(level), Route::Leader);
        }
    }
}
