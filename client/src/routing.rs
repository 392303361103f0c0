//! Whom to ask, in which order. Pure: knowledge in, addresses out.
//!
//! ```text
//!   needs the leader     known leader, other replicas, endpoints      ┐ those that did not answer
//!   any replica will do  endpoints from a rotating start, replicas    ┘ just now: last
//! ```
//!
//! **Invariant.** Every address the client knows is in the order exactly once: a wrong guess costs a hop, never an answer.

use std::collections::VecDeque;

/// Who can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Only the leader, whoever that is.
    Leader,
    /// Any replica. The endpoints come first, because who names one node wants that node.
    Any,
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
pub(crate) fn order(route: Route, known: &Knowledge<'_>, is_avoided: impl Fn(&str) -> bool) -> VecDeque<String> {
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
    let (mut round, mut last) = (VecDeque::new(), VecDeque::new());
    for (place, address) in all.iter().enumerate() {
        if all[..place].contains(address) {
            continue;
        }
        let side = if is_avoided(address) { &mut last } else { &mut round };
        side.push_back((*address).to_owned());
    }
    round.append(&mut last);
    round
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
        assert_eq!(order(Route::Leader, &known, |_| false), owned(&["b", "a", "c", "x"]));
    }

    #[test]
    fn who_did_not_answer_is_asked_last_but_is_asked() {
        let replicas = owned(&["a", "b", "c"]);
        let known = Knowledge { leader: Some("b"), replicas: &replicas, ..Knowledge::default() };
        assert_eq!(order(Route::Leader, &known, |address| address == "b"), owned(&["a", "c", "b"]));
    }

    #[test]
    fn a_read_that_any_replica_may_answer_begins_at_the_endpoints_in_turn() {
        let (replicas, endpoints) = (owned(&["a", "b"]), owned(&["x", "y"]));
        let known = Knowledge { leader: Some("a"), replicas: &replicas, endpoints: &endpoints, start: 3 };
        assert_eq!(order(Route::Any, &known, |_| false), owned(&["y", "x", "a", "b"]));
    }

    #[test]
    fn knowing_nobody_is_an_empty_round() {
        assert!(order(Route::Leader, &Knowledge::default(), |_| false).is_empty());
    }
}
