//! How far a call has come: whom it may still ask, what it has been told, and what that makes of it in the end.
//!
//! **Invariant.** Once one attempt of a write is unknown the whole call is, whatever later attempts are refused with:
//! only an answer ends the doubt.

use crate::{
    failure::{CLIENT_OVERLOADED, Failure},
    inner::Inner,
    map::Address,
    options::Options,
    retry::Repeat,
};
use kvorum_api::Effect;
use rand::Rng as _;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// Times in one round that a node's word for who leads is followed at once, or its newer map taken over; a circle of
/// hints is left by a pause.
const HINTS_A_ROUND_MAX: u32 = 3;

/// No answer. The failure carries the effect of all attempts together.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) failure: Failure,
    /// How many times the request was handed to a connection.
    pub(crate) sent: u32,
}

/// How far a call has come.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) round: VecDeque<Address>,
    pub(crate) rounds: u32,
    /// Whether the round was made without a map, so that a better one can be made once there is one.
    pub(crate) is_blind: bool,
    pub(crate) sent: u32,
    /// When it was first handed to a connection.
    pub(crate) first_sent: Option<Instant>,
    hints: u32,
    not_met: u32,
    asked_pause: Duration,
    has_new_stamp: bool,
    has_new_map: bool,
    /// The keyspace was unknown to a node: a new map was asked for, once.
    pub(crate) unknown: Option<Failure>,
    /// The newest failure, and the first that left the effect in doubt.
    last: Option<Failure>,
    in_doubt: Option<Failure>,
    /// Why each node could not even be greeted, as long as nothing was sent to anybody.
    silent: BTreeMap<Box<str>, String>,
}

impl Progress {
    pub(crate) fn begin_round(&mut self, round: VecDeque<Address>, is_blind: bool) {
        self.round = round;
        self.is_blind = is_blind;
        self.rounds += 1;
        self.hints = 0;
        self.not_met = 0;
        self.asked_pause = Duration::ZERO;
    }

    /// The same round with what has been learnt since: it costs no pause.
    pub(crate) fn reroute(&mut self, round: VecDeque<Address>) {
        self.round = round;
        self.is_blind = false;
    }

    pub(crate) fn note(&mut self, failure: &Failure, repeat: Repeat) {
        if failure.effect == Effect::Unknown && repeat != Repeat::Freely {
            // The first doubt is the one to explain; later attempts under the same id have less time to say more.
            self.in_doubt.get_or_insert_with(|| failure.clone());
        }
        if let Some(node) = &failure.node {
            self.silent.insert(node.clone(), failure.message.clone());
        }
        self.last = Some(failure.clone());
    }

    /// Whether one more hint of this round may be followed at once.
    pub(crate) fn may_follow(&mut self) -> bool {
        self.hints += 1;
        self.hints <= HINTS_A_ROUND_MAX
    }

    /// Asks `address` next.
    pub(crate) fn ask_next(&mut self, address: Address) {
        self.round.retain(|other| *other != address);
        self.round.push_front(address);
    }

    /// Asks `address` after the others of the round, if it is one of them.
    pub(crate) fn ask_last(&mut self, address: &Address) {
        let (mut same, others): (VecDeque<_>, _) = self.round.drain(..).partition(|other| other == address);
        self.round = others;
        self.round.append(&mut same);
    }

    /// A replica could not honour the level. `true` from the second on: the leader surely can.
    pub(crate) fn level_not_met(&mut self) -> bool {
        self.not_met += 1;
        self.not_met > 1
    }

    /// Whether the call may go on under a new stamp: once.
    pub(crate) fn takes_new_stamp(&mut self) -> bool {
        !std::mem::replace(&mut self.has_new_stamp, true)
    }

    /// Whether the call may go on with a new map, because the one it had may be of a dropped keyspace: once.
    pub(crate) fn takes_new_map(&mut self) -> bool {
        !std::mem::replace(&mut self.has_new_map, true)
    }

    pub(crate) fn pause(&mut self, pause: Duration) {
        self.asked_pause = self.asked_pause.max(pause);
        self.round.clear();
    }

    /// Waits before the next round; `false` if the deadline would pass meanwhile.
    pub(crate) async fn may_go_on(&self, inner: &Inner, deadline: Instant) -> bool {
        let Options { backoff_min, backoff_max, .. } = inner.options;
        let own = backoff(self.rounds, backoff_min, backoff_max, inner.chance.lock().random());
        let pause = own.max(self.asked_pause);
        if Instant::now() + pause >= deadline {
            return false;
        }
        sleep(pause).await;
        true
    }

    /// The failure of the whole call; `is_over` if it was time that ended it.
    pub(crate) fn lost(self, within: Duration, is_over: bool) -> Lost {
        let nobody = || Failure::not_sent("NO_ANSWER", "no node is known".to_owned(), None);
        let last = self.last.unwrap_or_else(nobody);
        let mut failure = match self.in_doubt {
            Some(doubt) if doubt != last => {
                let message = format!("{doubt}; then {}", last.message);
                Failure { message, node: last.node, ..doubt }
            }
            Some(doubt) => doubt,
            // Found out here, whoever would have been asked.
            None if last.is(CLIENT_OVERLOADED) || last.is_foreign_token() => Failure { effect: Effect::None, ..last },
            None if self.sent == 0 && !self.silent.is_empty() => {
                let why: Vec<String> = self.silent.iter().map(|(node, why)| format!("{node}: {why}")).collect();
                let message = format!("no node answered: {}", why.join("; "));
                Failure { message, node: None, effect: Effect::None, ..last }
            }
            // A read changes nothing, however it was lost.
            None => Failure { effect: Effect::None, ..last },
        };
        if is_over {
            let times = match self.sent {
                0 => String::new(),
                1 => ", asked once".to_owned(),
                more => format!(", asked {more} times"),
            };
            failure.message = format!("gave up after {within:?}{times}: {}", failure.message);
        }
        Lost { failure, sent: self.sent }
    }
}

/// The pause before round `round` (from 1), of which a random half is taken off, so that clients do not march in step.
fn backoff(round: u32, min: Duration, max: Duration, chance: f64) -> Duration {
    let doubled = min.saturating_mul(1_u32.checked_shl(round.saturating_sub(1)).unwrap_or(u32::MAX)).min(max);
    doubled.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::Retry;
    use proptest::prelude::*;

    fn failure(effect: Effect, retry: Retry) -> Failure {
        Failure { effect, retry, ..Failure::not_sent("R", "text".to_owned(), Some("n1")) }
    }

    #[test]
    fn once_in_doubt_a_later_refusal_does_not_end_the_doubt() {
        let mut progress = Progress::default();
        progress.note(&failure(Effect::Unknown, Retry::SameRequestId), Repeat::UnderItsId);
        progress.note(&failure(Effect::None, Retry::Elsewhere), Repeat::UnderItsId);
        assert_eq!(progress.lost(Duration::from_secs(1), true).failure.effect, Effect::Unknown);
    }

    #[test]
    fn who_could_not_be_greeted_is_named_with_the_reason() {
        let mut progress = Progress::default();
        for node in ["n1", "n2", "n1"] {
            let failure = Failure::not_sent("UNAVAILABLE", format!("{node} is down"), Some(node));
            progress.note(&failure, Repeat::UnderItsId);
        }
        let failure = progress.lost(Duration::from_secs(5), true).failure;
        let text = "gave up after 5s: no node answered: n1: n1 is down; n2: n2 is down";
        assert_eq!(failure.to_string(), text);
        assert_eq!(failure.effect, Effect::None);
    }

    #[test]
    fn a_lost_read_has_no_effect() {
        let mut progress = Progress { sent: 1, ..Progress::default() };
        progress.note(&failure(Effect::Unknown, Retry::SameRequestId), Repeat::Freely);
        assert_eq!(progress.lost(Duration::from_secs(1), true).failure.effect, Effect::None);
    }

    proptest! {
        #[test]
        fn a_pause_is_between_half_and_all_of_the_doubled_minimum(round in 1_u32..80, chance in 0.0..1.0_f64) {
            let (min, max) = (Duration::from_millis(20), Duration::from_millis(500));
            let full = backoff(round, min, max, 1.0);
            let pause = backoff(round, min, max, chance);
            prop_assert!(pause <= full && full <= max);
            prop_assert!(pause >= full.mul_f64(0.49));
            prop_assert!(round < 6 || full == max);
        }
    }
}
