//! The only place that retries.
//!
//! ```text
//!   round: leader, replicas, endpoints ─▶ greet ─▶ send ─▶ answer ─▶ done
//!      ▲                                    │        │
//!      │ pause (doubling, jitter)           └────────┴─▶ failure ─▶ next_step ─▶ give up
//!      └── nobody left in the round                                    ├─ the leader it names, at once
//!                                                                      ├─ where the newer map it sent says, at once
//!                                                                      ├─ the next in the round, at once
//!                                                                      └─ later: pause, new round
//! ```
//!
//! **Invariant.** A request whose effect is unknown is sent again only if repeating it is harmless: a read, or a write
//! under the same request id (I3). The deadline is total, over all attempts.

use crate::{
    failure::{CLIENT_OVERLOADED, Failure, STALE_EPOCH, STAMP_AHEAD, UNKNOWN_KEYSPACE},
    frames::Ask,
    inner::Inner,
    map::{Address, Target},
    maps::Aim,
    node::Node,
    progress::{Lost, Progress},
    reply::mismatched,
    routing::{Health, Route},
};
use bytes::Bytes;
use kvorum_api::{
    Effect, ReadLevel, Retry,
    frame::{Body, Outcome},
};
use std::{sync::Arc, time::Duration};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout},
};

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

/// What one attempt knows.
#[derive(Debug)]
pub(crate) struct Sending {
    pub(crate) node: Arc<Node>,
    pub(crate) aim: Option<Aim>,
    /// Since the call was first sent.
    pub(crate) elapsed: Duration,
    /// How long this attempt may take. Travels along, so that a server that can answer nothing else answers in time
    /// what became of it.
    pub(crate) budget: Duration,
}

impl Sending {
    pub(crate) fn epoch(&self) -> u64 {
        self.aim.as_ref().map_or(0, |aim| aim.epoch)
    }
}

/// One request that can be sent to one node after another.
pub(crate) trait Call: Sync {
    /// What an answer is.
    type Reply: Send;

    fn keyspace(&self) -> &Arc<str>;
    fn target(&self) -> &Target;
    /// `default` is the level of a read that names none.
    fn route(&self, default: Option<ReadLevel>) -> Route;
    fn repeat(&self) -> Repeat;
    /// Bytes it holds while it is under way.
    fn bytes(&self) -> usize;

    /// Where it goes now; a write takes note.
    fn aim(&self, inner: &Inner) -> Option<Aim> {
        inner.nodes.maps.aim(self.keyspace(), self.target())
    }

    /// Waits until it may go to where it is aimed at.
    fn admitted(
        &self,
        _inner: &Inner,
        _node: &str,
        _deadline: Instant,
    ) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Ok(()) }
    }

    /// The stamp it was made with is not to be used: nothing was done under it.
    fn restamp(&self) {}

    /// What this session has seen of where it goes.
    fn session_token(&self, _sending: &Sending) -> Bytes {
        Bytes::new()
    }

    /// Whether it can ride in a frame.
    fn is_framed(&self) -> bool;

    /// As a call of a frame; `None` if it cannot ride in one.
    fn framed(&self, sending: &Sending) -> Option<Body>;

    /// What a frame's answer says.
    fn unframed(&self, outcome: Outcome, node: &str) -> Result<Self::Reply, Failure>;

    /// Sends it by itself.
    fn send(&self, inner: &Inner, sending: &Sending) -> impl Future<Output = Result<Self::Reply, Failure>> + Send;
}

/// An answer, and the address it came from.
pub(crate) struct Answered<T> {
    pub(crate) reply: T,
    pub(crate) node: Address,
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
    // The limit is there so that the caller hears of it.
    if failure.is(CLIENT_OVERLOADED) {
        return Step::GiveUp;
    }
    match (failure.retry, &failure.leader) {
        (Retry::Never, _) => Step::GiveUp,
        // The next replica may do; who leads is asked after it.
        (Retry::Elsewhere, Some(_)) if failure.is_level_not_met() => Step::Next,
        (Retry::Elsewhere, Some(leader)) => Step::Leader(leader.address.clone()),
        (Retry::Elsewhere, None) | (Retry::SameRequestId, _) => Step::Next,
        (Retry::Later(pause), _) => Step::Pause(pause),
    }
}

/// Sends the call until it is answered, must not be repeated, or the time is over.
pub(crate) async fn run<C: Call>(inner: &Inner, call: &C, within: Duration) -> Result<Answered<C::Reply>, Lost> {
    let deadline = Instant::now() + within;
    let mut progress = Progress::default();
    loop {
        let address = match progress.round.pop_front() {
            Some(address) => address,
            None if progress.rounds == 0 || progress.may_go_on(inner, deadline).await => {
                let is_blind = !inner.nodes.maps.knows(call.keyspace());
                progress.begin_round(round(inner, call), is_blind);
                continue;
            }
            None => return Err(progress.lost(within, true)),
        };
        let asked = Instant::now();
        let failure = match attempt(inner, call, &address, deadline, &mut progress).await {
            Ok(Some(reply)) => return Ok(Answered { reply, node: address }),
            Ok(None) => {
                progress.reroute(round(inner, call));
                continue;
            }
            Err(failure) => failure,
        };
        tracing::debug!(node = &*address, reason = failure.reason, "attempt failed");
        progress.note(&failure, call.repeat());
        inner.nodes.failed(&address, &failure, asked);
        if !learn(inner, call, &address, &failure, &mut progress) {
            match next_step(&failure, call.repeat()) {
                Step::GiveUp => return Err(progress.lost(within, false)),
                Step::Next => {}
                Step::Leader(leader) => follow(inner, call, leader, &mut progress),
                Step::Pause(pause) => progress.pause(pause),
            }
        }
        if Instant::now() >= deadline {
            return Err(progress.lost(within, true));
        }
    }
}

fn round<C: Call>(inner: &Inner, call: &C) -> std::collections::VecDeque<Address> {
    let route = call.route(inner.nodes.maps.default_level(call.keyspace()));
    inner.nodes.round(call.keyspace(), call.target(), route)
}

/// One attempt at one node. `None`: greeting it gave the map that the round was made without, so it was not sent.
async fn attempt<C: Call>(
    inner: &Inner,
    call: &C,
    address: &Address,
    deadline: Instant,
    progress: &mut Progress,
) -> Result<Option<C::Reply>, Failure> {
    let left = || deadline.saturating_duration_since(Instant::now());
    let node = inner.nodes.greeted(address, Some(call.keyspace()), left()).await?;
    if progress.is_blind && inner.nodes.maps.knows(call.keyspace()) {
        return Ok(None);
    }
    if let Some(unknown) = progress.unknown.as_ref().filter(|_| !inner.nodes.maps.knows(call.keyspace())) {
        return Err(unknown.clone());
    }
    call.admitted(inner, address, deadline).await?;
    let stream = if call.is_framed() { inner.nodes.stream(&node, left()).await? } else { None };
    let budget = left().min(inner.options.attempt_timeout);
    if budget.is_zero() {
        let text = "the deadline passed before the request was sent".to_owned();
        return Err(Failure::not_sent("DEADLINE_EXCEEDED", text, Some(address)));
    }
    let _pass = node.gate.admit(call.bytes(), address).await?;
    let now = Instant::now();
    let elapsed = now.saturating_duration_since(*progress.first_sent.get_or_insert(now));
    progress.sent += 1;
    let sending = Sending { aim: call.aim(inner), elapsed, budget, node };
    let reply = match stream {
        Some(stream) => send_framed(call, &sending, &stream).await,
        None => match timeout(budget, call.send(inner, &sending)).await {
            Ok(answer) => answer,
            Err(_elapsed) => Err(Failure::no_answer(address, budget)),
        },
    }?;
    sending.node.answered(now.elapsed());
    Ok(Some(reply))
}

async fn send_framed<C: Call>(
    call: &C,
    sending: &Sending,
    stream: &crate::stream::Stream,
) -> Result<C::Reply, Failure> {
    let address = &*sending.node.address;
    let (reply, answer) = oneshot::channel();
    let asked = Instant::now();
    let Some(body) = call.framed(sending) else { return Err(mismatched(address)) };
    let ask = Ask {
        keyspace: call.keyspace().clone(),
        shard: sending.aim.as_ref().map(|aim| aim.shard),
        epoch: sending.epoch(),
        session_token: call.session_token(sending),
        body,
        deadline: asked + sending.budget,
        reply,
    };
    if !stream.send(ask) {
        return Err(Failure::not_sent("UNAVAILABLE", "the stream had ended".to_owned(), Some(address)));
    }
    match timeout(sending.budget, answer).await {
        Ok(Ok(outcome)) => call.unframed(outcome?, address),
        Ok(Err(_gone)) => Err(Failure::broken(address, "the client is closing")),
        Err(_elapsed) if stream.heard() > asked => Err(Failure::unanswered(address, sending.budget)),
        Err(_elapsed) => Err(Failure::no_answer(address, sending.budget)),
    }
}

/// Takes in what a failure teaches. `true`: it said what to do next.
fn learn<C: Call>(inner: &Inner, call: &C, address: &Address, failure: &Failure, progress: &mut Progress) -> bool {
    let keyspace = call.keyspace();
    if failure.is(STAMP_AHEAD) && progress.takes_new_stamp() {
        inner.nodes.forget_stamp();
        if failure.effect == Effect::None && progress.sent == 1 {
            call.restamp();
        }
        progress.ask_next(address.clone());
        return true;
    }
    if failure.is(UNKNOWN_KEYSPACE) && progress.unknown.is_none() {
        progress.unknown = Some(failure.clone());
        // The node may not have heard of it yet, or we know a dropped one of that name: the next greeting tells.
        inner.nodes.maps.forget(keyspace);
        inner.nodes.forget_greeting(address);
        progress.is_blind = true;
        return true;
    }
    if failure.is_foreign_token() && progress.takes_new_map() {
        // The map may be of a dropped keyspace of that name, or the node's is: others are asked before it.
        inner.nodes.maps.forget(keyspace);
        inner.nodes.forget_greeting(address);
        progress.reroute(round(inner, call));
        progress.ask_last(address);
        progress.is_blind = true;
        return true;
    }
    if failure.is(STALE_EPOCH) && progress.may_follow() {
        let fits = failure.shard_entry.as_ref().is_some_and(|shard| inner.nodes.maps.replace(keyspace, shard));
        progress.reroute(round(inner, call));
        if !fits {
            // Its map is better than ours: ask it for the whole, then for the way.
            inner.nodes.forget_greeting(address);
            progress.ask_next(address.clone());
            progress.is_blind = true;
        }
        return true;
    }
    if failure.is_level_not_met() && progress.level_not_met() {
        let known = inner.nodes.maps.aim(keyspace, call.target()).and_then(|aim| aim.leader);
        let told = failure.leader.as_ref().map(|leader| Address::from(leader.address.as_str()));
        if let Some(leader) = told.or(known).filter(|leader| leader != address)
            && progress.may_follow()
        {
            progress.ask_next(leader);
        }
        return true;
    }
    false
}

fn follow<C: Call>(inner: &Inner, call: &C, leader: String, progress: &mut Progress) {
    inner.nodes.maps.learn_leader(call.keyspace(), call.target(), &leader);
    // Followers name a leader that hangs until they have elected another.
    if inner.nodes.health(&leader) == Health::Silent {
        inner.nodes.vouch(&leader);
    } else if progress.may_follow() {
        progress.ask_next(leader.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::{NodeId, error::LeaderHint};

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
    fn a_level_not_met_asks_the_next_replica_before_the_leader() {
        let leader = Some(Box::new(LeaderHint { node: NodeId(2), address: "n2".to_owned() }));
        let told = Failure { leader, reason: "TOO_STALE".to_owned(), ..failure(Effect::None, Retry::Elsewhere) };
        assert_eq!(next_step(&told, Repeat::Freely), Step::Next);
    }

    #[test]
    fn the_own_limit_of_a_client_is_told_at_once() {
        let overloaded = Failure::overloaded("in_flight_bytes_max", 7, "n1");
        assert_eq!(next_step(&overloaded, Repeat::UnderItsId), Step::GiveUp);
    }
}
