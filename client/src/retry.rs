//! The only place that retries.
//!
//! ```text
//!   round: leader, replicas, endpoints ─▶ greet ─▶ send ─▶ answer ─▶ done
//!      ▲                                    │        │
//!      │ pause (doubling, jitter)           └────────┴─▶ failure ─▶ next_step ─▶ give up
//!      └── nobody left in the round                                    ├─ the leader it names, at once
//!                                                                      ├─ the next in the round, at once
//!                                                                      └─ later: pause, new round
//! ```
//!
//! **Invariant.** A request whose effect is unknown is sent again only if repeating it is harmless: a read, or a write
//! under the same request id (I3). Once one attempt is unknown the whole call is, whatever later attempts are refused
//! with: only an answer ends the doubt. The deadline is total, over all attempts.

use crate::{
    failure::Failure,
    inner::Inner,
    routing::{Health, Route},
};
use kvorum_api::{Effect, Retry, proto};
use proto::kv_client::KvClient;
use rand::Rng as _;
use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};
use tokio::time::{Instant, sleep, timeout};
use tonic::{Status, transport::Channel};

/// Times in one round that a node's word for who leads is followed at once; a circle of hints is left by a pause.
const HINTS_A_ROUND_MAX: u32 = 3;

/// What makes a request safe to send again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeat {
    /// It changes nothing.
    Freely,
    /// The shard remembers its outcome under its id.
    UnderItsId,
    /// Nothing does (I3).
    Never,
}

/// One request that can be sent to one node after another.
pub(crate) trait Call: Sync {
    /// What an answer is.
    type Reply: Send;

    fn keyspace(&self) -> &str;
    fn route(&self) -> Route;
    fn repeat(&self) -> Repeat;

    /// Sends it once. `budget` is how long this attempt may take, and travels as `grpc-timeout`, so that a server that
    /// can answer nothing else answers in time what became of it.
    fn send(
        &self,
        client: KvClient<Channel>,
        header: proto::RequestHeader,
        budget: Duration,
    ) -> impl Future<Output = Result<Self::Reply, Status>> + Send;
}

/// An answer, and the address it came from.
pub(crate) struct Answered<T> {
    pub(crate) reply: T,
    pub(crate) node: String,
}

/// No answer. The failure carries the effect of all attempts together.
#[derive(Debug)]
pub(crate) struct Lost {
    pub(crate) failure: Failure,
    /// How many times the request was handed to a connection.
    pub(crate) sent: u32,
}

/// What to do after a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    GiveUp,
    Next,
    Leader(String),
    Pause(Duration),
}

/// Decides. Pure.
pub(crate) fn next_step(failure: &Failure, repeat: Repeat) -> Step {
    if failure.effect == Effect::Unknown && repeat == Repeat::Never {
        return Step::GiveUp;
    }
    match (failure.retry, &failure.leader) {
        (Retry::Never, _) => Step::GiveUp,
        (Retry::Elsewhere, Some(leader)) => Step::Leader(leader.address.clone()),
        (Retry::Elsewhere, None) | (Retry::SameRequestId, _) => Step::Next,
        (Retry::Later(pause), _) => Step::Pause(pause),
    }
}

/// The pause before round `round` (from 1), of which a random half is taken off, so that clients do not march in step.
pub(crate) fn backoff(round: u32, min: Duration, max: Duration, chance: f64) -> Duration {
    let doubled = min.saturating_mul(1_u32.checked_shl(round.saturating_sub(1)).unwrap_or(u32::MAX)).min(max);
    doubled.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0)
}

/// Sends the call until it is answered, must not be repeated, or the time is over.
pub(crate) async fn run<C: Call>(inner: &Inner, call: &C, within: Duration) -> Result<Answered<C::Reply>, Lost> {
    let deadline = Instant::now() + within;
    let mut progress = Progress::default();
    loop {
        let address = match progress.round.pop_front() {
            Some(address) => address,
            None if progress.rounds == 0 || progress.may_go_on(inner, deadline).await => {
                progress.begin_round(inner.nodes.round(call.keyspace(), call.route()));
                continue;
            }
            None => return Err(progress.lost(within, true)),
        };
        let failure = match attempt(inner, call, &address, deadline, &mut progress.sent).await {
            Ok(reply) => return Ok(Answered { reply, node: address }),
            Err(failure) => failure,
        };
        tracing::debug!(node = address, reason = failure.reason, "attempt failed");
        progress.note(&failure, call.repeat());
        inner.nodes.failed(&address, failure.health());
        match next_step(&failure, call.repeat()) {
            Step::GiveUp => return Err(progress.lost(within, false)),
            Step::Next => {}
            Step::Leader(leader) => progress.follow(inner, call.keyspace(), leader),
            Step::Pause(pause) => progress.pause(pause),
        }
        if Instant::now() >= deadline {
            return Err(progress.lost(within, true));
        }
    }
}

async fn attempt<C: Call>(
    inner: &Inner,
    call: &C,
    address: &str,
    deadline: Instant,
    sent: &mut u32,
) -> Result<C::Reply, Failure> {
    let left = || deadline.saturating_duration_since(Instant::now());
    let client = inner.nodes.greeted(address, left()).await?;
    let budget = left();
    if budget.is_zero() {
        let text = "the deadline passed before the request was sent".to_owned();
        return Err(Failure::not_sent("DEADLINE_EXCEEDED", text, Some(address)));
    }
    *sent += 1;
    let budget = budget.min(inner.options.attempt_timeout);
    match timeout(budget, call.send(client, inner.header(call.keyspace()), budget)).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(status)) => Err(Failure::from_status(&status, address)),
        Err(_elapsed) => Err(Failure::no_answer(address, budget)),
    }
}

/// How far a call has come.
#[derive(Debug, Default)]
struct Progress {
    round: VecDeque<String>,
    rounds: u32,
    hints: u32,
    asked_pause: Duration,
    sent: u32,
    /// The newest failure, and the first that left the effect in doubt.
    last: Option<Failure>,
    in_doubt: Option<Failure>,
    /// Why each node could not even be greeted, as long as nothing was sent to anybody.
    silent: BTreeMap<String, String>,
}

impl Progress {
    fn begin_round(&mut self, round: VecDeque<String>) {
        self.round = round;
        self.rounds += 1;
        self.hints = 0;
        self.asked_pause = Duration::ZERO;
    }

    fn note(&mut self, failure: &Failure, repeat: Repeat) {
        if failure.effect == Effect::Unknown && repeat != Repeat::Freely {
            // The first doubt is the one to explain; later attempts under the same id have less time to say more.
            self.in_doubt.get_or_insert_with(|| failure.clone());
        }
        if let Some(node) = &failure.node {
            self.silent.insert(node.clone(), failure.message.clone());
        }
        self.last = Some(failure.clone());
    }

    fn follow(&mut self, inner: &Inner, keyspace: &str, leader: String) {
        inner.nodes.learn_leader(keyspace, &leader);
        // Followers name a leader that hangs until they have elected another.
        if self.hints < HINTS_A_ROUND_MAX && inner.nodes.health(&leader) != Health::Silent {
            self.hints += 1;
            self.round.retain(|address| *address != leader);
            self.round.push_front(leader);
        }
    }

    fn pause(&mut self, pause: Duration) {
        self.asked_pause = self.asked_pause.max(pause);
        self.round.clear();
    }

    /// Waits before the next round; `false` if the deadline would pass meanwhile.
    async fn may_go_on(&self, inner: &Inner, deadline: Instant) -> bool {
        let options = &inner.options;
        let own = backoff(self.rounds, options.backoff_min, options.backoff_max, inner.chance.lock().random());
        let pause = own.max(self.asked_pause);
        if Instant::now() + pause >= deadline {
            return false;
        }
        sleep(pause).await;
        true
    }

    /// The failure of the whole call; `is_over` if it was time that ended it.
    fn lost(self, within: Duration, is_over: bool) -> Lost {
        let nobody = || Failure::not_sent("NO_ANSWER", "no node is known".to_owned(), None);
        let last = self.last.unwrap_or_else(nobody);
        let mut failure = match self.in_doubt {
            Some(doubt) if doubt != last => {
                let message = format!("{doubt}; then {}", last.message);
                Failure { message, node: last.node, ..doubt }
            }
            Some(doubt) => doubt,
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

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::{NodeId, error::LeaderHint};
    use proptest::prelude::*;

    fn failure(effect: Effect, retry: Retry) -> Failure {
        Failure { effect, retry, ..Failure::not_sent("R", "text".to_owned(), Some("n1")) }
    }

    /// I3, and the table of what is safe to repeat.
    #[test]
    fn only_what_is_harmless_is_sent_again() {
        use Effect::{None as Nothing, Unknown};
        let pause = Duration::from_millis(7);
        let table = [
            // effect, retry, repeat, expected
            (Nothing, Retry::Never, Repeat::Freely, Step::GiveUp),
            (Nothing, Retry::Never, Repeat::UnderItsId, Step::GiveUp),
            (Nothing, Retry::Elsewhere, Repeat::Freely, Step::Next),
            (Nothing, Retry::Elsewhere, Repeat::UnderItsId, Step::Next),
            (Nothing, Retry::Elsewhere, Repeat::Never, Step::Next),
            (Nothing, Retry::Later(pause), Repeat::UnderItsId, Step::Pause(pause)),
            (Nothing, Retry::Later(pause), Repeat::Never, Step::Pause(pause)),
            (Unknown, Retry::SameRequestId, Repeat::Freely, Step::Next),
            (Unknown, Retry::SameRequestId, Repeat::UnderItsId, Step::Next),
            (Unknown, Retry::SameRequestId, Repeat::Never, Step::GiveUp),
            (Unknown, Retry::Later(pause), Repeat::Never, Step::GiveUp),
            (Unknown, Retry::Elsewhere, Repeat::Never, Step::GiveUp),
            (Unknown, Retry::Never, Repeat::UnderItsId, Step::GiveUp),
            (Unknown, Retry::Later(pause), Repeat::UnderItsId, Step::Pause(pause)),
        ];
        for (effect, retry, repeat, expected) in table {
            assert_eq!(next_step(&failure(effect, retry), repeat), expected, "{effect:?} {retry:?} {repeat:?}");
        }
    }

    #[test]
    fn a_named_leader_is_asked_at_once() {
        let leader = Some(Box::new(LeaderHint { node: NodeId(2), address: "n2".to_owned() }));
        let told = Failure { leader, ..failure(Effect::None, Retry::Elsewhere) };
        assert_eq!(next_step(&told, Repeat::UnderItsId), Step::Leader("n2".to_owned()));
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
