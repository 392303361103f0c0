//! Whom to ask, in which order. Pure: knowledge in, addresses out.
//!
//! ```text
//!   needs the leader     known leader, other replicas, endpoints      ┐ those that failed just now: last
//!   any replica will do  endpoints from a rotating start, replicas    ┘ those that kept silent: not in this round
//! ```
//!
//! **Invariant.** No address is in a round twice, and none that could answer is left out: a wrong guess costs a hop or a
//! while, never the answer. Silence is what costs time, so a silent node is asked again only after a while, or when all
//! are silent.

use std::collections::VecDeque;

/// Who can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Only the leader, whoever that is.
    Leader,
    /// Any replica. The endpoints come first, because who names one node wants that node.
    Any,
}

/// How a node behaved when it was asked last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Health {
    /// It answered, or was not asked.
    #[default]
    Good,
    /// It refused the connection or broke it, which costs nothing to find out again.
    Failed,
    /// It let us wait.
    Silent,
}

/// What is known when an order is made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Knowledge<'a> {
    /// Address of the leader, as last heard.
    pub(crate) leader: Option<&'a str>,
    /// Addresses of the shard's replicas.
    pub(crate) replicas: &'a [String],
    /// Addresses the caller gave.
    pub(crate) endpoints: &'a [String],
    /// Where in the endpoints to begin.
    pub(crate) start: usize,
}

/// The order of one round.
pub(crate) fn order(route: Route, known: &Knowledge<'_>, health: impl Fn(&str) -> Health) -> VecDeque<String> {
    let start = known.start % known.endpoints.len().max(1);
    let endpoints = known.endpoints[start..].iter().chain(&known.endpoints[..start]);
    let mut all: Vec<&str> = Vec::new();
    match route {
        Route::Leader => {
            all.extend(known.leader);
            all.extend(known.replicas.iter().map(String::as_str));
            all.extend(endpoints.map(String::as_str));
        }
        Route::Any => {
            all.extend(endpoints.map(String::as_str));
            all.extend(known.replicas.iter().map(String::as_str));
            all.extend(known.leader);
        }
    }
    let (mut round, mut failed, mut silent) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
    for (place, address) in all.iter().enumerate() {
        if all[..place].contains(address) {
            continue;
        }
        let side = match health(address) {
            Health::Good => &mut round,
            Health::Failed => &mut failed,
            Health::Silent => &mut silent,
        };
        side.push_back((*address).to_owned());
    }
    round.append(&mut failed);
    if round.is_empty() { silent } else { round }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn the_leader_is_asked_first_and_nobody_twice() {
        let (replicas, endpoints) = (owned(&["a", "b", "c"]), owned(&["c", "x"]));
        let known = Knowledge { leader: Some("b"), replicas: &replicas, endpoints: &endpoints, start: 1 };
        assert_eq!(order(Route::Leader, &known, |_| Health::Good), owned(&["b", "a", "c", "x"]));
    }

    #[test]
    fn who_failed_is_asked_last_and_who_kept_silent_only_when_all_do() {
        let replicas = owned(&["a", "b", "c"]);
        let known = Knowledge { leader: Some("b"), replicas: &replicas, ..Knowledge::default() };
        let one = |health| move |address: &str| if address == "b" { health } else { Health::Good };
        assert_eq!(order(Route::Leader, &known, one(Health::Failed)), owned(&["a", "c", "b"]));
        assert_eq!(order(Route::Leader, &known, one(Health::Silent)), owned(&["a", "c"]));
        assert_eq!(order(Route::Leader, &known, |_| Health::Silent), owned(&["b", "a", "c"]));
    }

    #[test]
    fn a_read_that_any_replica_may_answer_begins_at_the_endpoints_in_turn() {
        let (replicas, endpoints) = (owned(&["a", "b"]), owned(&["x", "y"]));
        let known = Knowledge { leader: Some("a"), replicas: &replicas, endpoints: &endpoints, start: 3 };
        assert_eq!(order(Route::Any, &known, |_| Health::Good), owned(&["y", "x", "a", "b"]));
    }

    #[test]
    fn knowing_nobody_is_an_empty_round() {
        assert!(order(Route::Leader, &Knowledge::default(), |_| Health::Good).is_empty());
    }
}
