//! Attempt: one request of a client to one node, routed by that node's own map.
//!
//! **Invariant.** Nothing is heard of a life that has ended, and nothing that was lost on the way.

use super::{
    history::{Asked, Key, Told},
    network::Life,
    workload::{Client, Session},
};
use bytes::Bytes;
use kvorum_api::{Effect, NodeId, ReadError, ReadLevel, Receipt, SessionToken, Stamp, WriteError};
use kvorum_consensus::{Replicator, RequestContext, Written};
use kvorum_storage::{Condition, Operation, Outcome, RequestId, WriteCommand};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout};

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_millis(1_500);

/// How long what is lent is there.
const LENT_MS: u64 = 1_500;

/// How one attempt ended.
pub enum Attempt {
    /// With an outcome, and what the reply said about itself.
    Decided(Told, Receipt),
    /// With proof that nothing happened.
    Nothing,
    /// It may have happened.
    Perhaps,
    /// It may have happened, and asking again will not tell.
    Forgotten,
}

/// Whom an attempt has reached.
struct Reached {
    node: NodeId,
    life: Life,
    replicator: Arc<dyn Replicator>,
    /// The key as the shard knows it.
    placement: Bytes,
    context: RequestContext,
}

impl Client {
    /// One attempt at a write.
    pub(super) async fn write(&mut self, key: &Key, asked: &Asked) -> Attempt {
        let Some(Reached { node, life, replicator, placement, context }) = self.reach(key, true).await else {
            return Attempt::Nothing;
        };
        let stamp = context.stamp;
        let operation = operation(placement, asked);
        if self.first_sent == Stamp::default() {
            self.first_sent = stamp;
        }
        let request = RequestId {
            client: u128::from(self.id),
            sequence: self.sequence,
            first_sent: self.first_sent,
            lowest_unanswered: self.sequence,
        };
        let command = WriteCommand { request: Some(request), operations: vec![operation] };
        if self.chance.hits(10) {
            // Lost on the way there; the client cannot know.
            return Attempt::Perhaps;
        }
        let outcome = tokio::select! {
            biased;
            () = life.ended() => return Attempt::Perhaps,
            outcome = replicator.write(command, context) => outcome,
        };
        if self.chance.hits(10) || !self.hears(node, &life).await {
            // Lost on the way back.
            return Attempt::Perhaps;
        }
        match outcome {
            Ok(written) => self.told(key, written),
            Err(error) => {
                self.note_write_error(key, &error);
                if matches!(error, WriteError::RequestIdExpired { .. }) {
                    return Attempt::Forgotten;
                }
                match error.effect() {
                    Effect::None => Attempt::Nothing,
                    Effect::Unknown => Attempt::Perhaps,
                }
            }
        }
    }

    fn told(&mut self, key: &Key, written: Written) -> Attempt {
        self.take_receipt(key, &written.receipt);
        match written.outcome {
            Outcome::Written { applied: false, .. } => Attempt::Decided(Told::Failed, written.receipt),
            Outcome::Written { results, .. } => {
                let result = results.into_iter().next().expect("one operation, one result");
                let version = result.version.expect("an applied write has a version");
                Attempt::Decided(Told::Applied(version, result.number), written.receipt)
            }
            Outcome::RequestIdExpired { .. } => Attempt::Forgotten,
            other => {
                self.desk.complain(format!("a write was answered with {other:?}"));
                Attempt::Forgotten
            }
        }
    }

    /// One attempt at a read, and how old the answer may be at most, if that was said.
    pub(super) async fn read(&mut self, key: &Key, level: ReadLevel) -> (Attempt, Option<Duration>) {
        let needs_leader = level == ReadLevel::Linearizable;
        let Some(Reached { node, life, replicator, placement, context }) = self.reach(key, needs_leader).await else {
            return (Attempt::Nothing, None);
        };
        let outcome = tokio::select! {
            biased;
            () = life.ended() => return (Attempt::Nothing, None),
            outcome = replicator.get(placement, level, context) => outcome,
        };
        if !self.hears(node, &life).await {
            return (Attempt::Nothing, None);
        }
        match outcome {
            Ok(found) => {
                self.take_receipt(key, &found.receipt);
                if found.receipt.level != Some(level) {
                    self.desk.complain(format!("a read at {level} was answered at {:?}", found.receipt.level));
                }
                let within = found.receipt.staleness.filter(|_| !needs_leader);
                let entry = found.entry.and_then(|entry| Some((entry.version, entry.value?)));
                (Attempt::Decided(Told::Found(entry), found.receipt), within)
            }
            Err(error) => {
                self.desk.audit.event(format_args!("client {} read error: {error}", self.id));
                match error {
                    ReadError::NotLeader { leader: Some(hint), .. } => self.follow(key, hint.node),
                    _ => self.lose(key),
                }
                (Attempt::Nothing, None)
            }
        }
    }

    /// A replica of the key's shard on some node, if that is up, knows the shard, and takes the client's stamp, as its
    /// door would. A stamp that is refused came from a node with a wrong clock: the client shakes hands again.
    async fn reach(&mut self, key: &Key, needs_leader: bool) -> Option<Reached> {
        sleep(self.chance.millis(0..3)).await;
        let anybody = *self.chance.pick(&self.desk.nodes());
        let asked = match self.leaders.get(key) {
            Some(leader) if needs_leader => *leader,
            _ if needs_leader => self.favourite,
            _ => anybody,
        };
        // A machine that gets no turns answers nobody: the client tries its luck elsewhere.
        if timeout(ATTEMPT, self.desk.network.awake(asked)).await.is_err() {
            self.lose(key);
            return None;
        }
        let reached = self.desk.network.node(asked).and_then(|(node, life)| {
            let map = node.map();
            let placement = map.keyspaces.get(&key.keyspace)?.sharding.placement_key(&key.name);
            let row = map.shard_of(key.keyspace, &placement)?;
            let holders: Vec<NodeId> =
                row.replicas.iter().filter(|replica| replica.is_in()).map(|replica| replica.node).collect();
            Some((node.replicator(row.shard), (placement, row.epoch, holders), node, life))
        });
        let Some((replicator, (placement, epoch, holders), node, life)) = reached else {
            self.lose(key);
            return None;
        };
        let Some(replicator) = replicator else {
            // Every node says where the replicas are.
            let holder = *self.chance.pick(&holders);
            self.lose(key);
            self.follow(key, holder);
            return None;
        };
        let (given, at) = *self.stamp.get_or_insert_with(|| (node.stamp(), Instant::now()));
        let stamp = Stamp(given.0 + Stamp::from_ms(at.elapsed().as_millis() as u64).0);
        if node.observe(stamp).is_err() {
            self.desk.audit.event(format_args!("client {} is refused for its stamp {stamp}", self.id));
            self.stamp = None;
            return None;
        }
        let session = self.sessions.get(&key.keyspace).map(|session| session.token.clone());
        let context = RequestContext { timeout: ATTEMPT, stamp, session, epoch: Some(epoch), ..Default::default() };
        Some(Reached { node: asked, life, replicator, placement, context })
    }

    /// Whether an answer of a node arrives: a paused one is heard later, or too late.
    async fn hears(&self, node: NodeId, life: &Life) -> bool {
        timeout(ATTEMPT, self.desk.network.awake(node)).await.is_ok() && life.goes_on()
    }

    fn note_write_error(&mut self, key: &Key, error: &WriteError) {
        self.desk.audit.event(format_args!("client {} write error: {error}", self.id));
        match error {
            WriteError::NotLeader { leader: Some(hint), .. } => self.follow(key, hint.node),
            _ => self.lose(key),
        }
    }

    fn follow(&mut self, key: &Key, leader: NodeId) {
        self.leaders.insert(key.clone(), leader);
    }

    fn lose(&mut self, key: &Key) {
        self.leaders.remove(key);
        self.wander();
    }

    /// Takes in what every answer carries: the server's stamp, and how far the session has seen.
    fn take_receipt(&mut self, key: &Key, receipt: &Receipt) {
        let seen = SessionToken::of(key.keyspace, receipt);
        let session = self.sessions.entry(key.keyspace);
        let name = format!("c{}-{}", self.id, self.sequence);
        let session = session.or_insert_with(|| Session::new(key.keyspace, name));
        session.token.merge(&seen);
        let stamp = receipt.stamp;
        let is_newer = self
            .stamp
            .is_none_or(|(given, at)| stamp > Stamp(given.0 + Stamp::from_ms(at.elapsed().as_millis() as u64).0));
        if is_newer {
            self.stamp = Some((stamp, Instant::now()));
        }
    }
}

fn operation(key: Bytes, asked: &Asked) -> Operation {
    let put = |value: &Bytes, condition, ttl_ms| Operation::Put {
        key: key.clone(),
        value: value.clone(),
        ttl_ms,
        condition,
        return_previous: false,
    };
    match asked {
        Asked::Put(value) => put(value, Condition::Always, None),
        Asked::Lend(value) => put(value, Condition::Always, Some(LENT_MS)),
        Asked::Swap(None, value) => put(value, Condition::Absent, None),
        Asked::Swap(Some((version, _)), value) => put(value, Condition::Version(*version), None),
        Asked::Increment => Operation::Increment { key, delta: 1, return_previous: false },
        Asked::Read(_) => unreachable!("reads are not written"),
    }
}
