//! # Workload: clients that write, count, swap and read, and retry as the client library does
//!
//! A client does one thing at a time. A write that may have happened is asked again under the same request id, until it is
//! decided or the client loses patience; then its outcome is unknown for ever, and the next request raises the floor
//! above it (rule I2).
//!
//! **Invariant.** What a client records is what a user would know, no more: an answer of a life that had already ended is
//! never heard.

use super::{
    audit::Audit,
    chance::Chance,
    history::{Asked, Record, Told},
    network::{Life, Network},
};
use bytes::Bytes;
use kvorum_api::{Effect, NodeId, ReadError, ReadLevel, ShardId, Stamp, Version, WriteError};
use kvorum_consensus::{Node, RequestContext, Written};
use kvorum_storage::{Condition, Operation, Outcome, RequestId, WriteCommand};
use parking_lot::Mutex;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// The one shard of a simulated cluster.
pub const SHARD: ShardId = ShardId(1);

/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_millis(1_500);

/// How long a client waits for the end of what it began, once the world is whole again. Longer is a violation.
const SETTLE: Duration = Duration::from_secs(60);

/// What all clients share.
#[derive(Clone)]
pub struct Desk {
    /// The nodes.
    pub network: Arc<Network>,
    /// Which nodes there are.
    pub nodes: Arc<Vec<NodeId>>,
    /// Every event.
    pub audit: Audit,
    /// What was asked and told.
    pub history: Arc<Mutex<Vec<Record>>>,
    /// What must not be.
    pub violations: Arc<Mutex<Vec<String>>>,
    /// Counts moments.
    pub moments: Arc<AtomicU64>,
    /// When clients begin nothing new.
    pub until: Instant,
}

impl Desk {
    fn moment(&self) -> u64 {
        self.moments.fetch_add(1, Ordering::SeqCst)
    }
}

/// How one attempt ended.
enum Attempt {
    Decided(Told),
    /// With proof that nothing happened.
    Nothing,
    /// It may have happened.
    Perhaps,
    /// It may have happened, and asking again will not tell.
    Forgotten,
}

/// One client.
pub struct Client {
    id: u64,
    desk: Desk,
    chance: Chance,
    sequence: u64,
    /// The client's stamp when the request under way was first sent.
    first_sent: Stamp,
    /// The highest stamp a server gave, and when (rule T1). `None` = shake hands first.
    stamp: Option<(Stamp, Instant)>,
    favourite: NodeId,
    /// Versions it saw, for swaps.
    seen: Option<(Bytes, Option<Version>)>,
}

impl Client {
    /// A client that has met nobody yet.
    pub fn new(id: u64, seed: u64, desk: Desk) -> Self {
        let favourite = desk.nodes[id as usize % desk.nodes.len()];
        let chance = Chance::new(seed, &format!("client {id}"));
        Client { id, desk, chance, sequence: 0, first_sent: Stamp::default(), stamp: None, favourite, seen: None }
    }

    /// Works until the desk closes, and finishes what it began.
    pub async fn run(mut self) {
        while Instant::now() < self.desk.until {
            let (key, asked) = self.wish();
            self.perform(key, asked).await;
            sleep(self.chance.millis(0..60)).await;
        }
    }

    /// Reads a key, however long it takes within the patience of the end. `Err` = nobody answers any more.
    pub async fn read_finally(&mut self, key: &Bytes) -> Result<Option<(Version, Bytes)>, String> {
        let deadline = Instant::now() + SETTLE;
        while Instant::now() < deadline {
            if let Attempt::Decided(Told::Found(found)) = self.read(key).await {
                return Ok(found);
            }
            sleep(Duration::from_millis(100)).await;
        }
        Err(format!("no linearizable read of {} within {SETTLE:?} of the end", String::from_utf8_lossy(key)))
    }

    fn wish(&mut self) -> (Bytes, Asked) {
        let value = Bytes::from(format!("c{}-{}", self.id, self.sequence));
        let register = Bytes::from(format!("r{}", self.chance.within(0..4)));
        let counter = Bytes::from(format!("n{}", self.chance.within(0..2)));
        match (self.chance.within(0..10), self.seen.take()) {
            (0..=2, _) => (register, Asked::Put(value)),
            (3..=5, _) => (counter, Asked::Increment),
            (6..=7, Some((key, version))) => (key, Asked::Swap(version, value)),
            (6, None) => (counter, Asked::Read),
            _ => (register, Asked::Read),
        }
    }

    async fn perform(&mut self, key: Bytes, asked: Asked) {
        let invoked = self.desk.moment();
        let mut patience = self.chance.millis(1_000..20_000);
        let began = Instant::now();
        self.sequence += 1;
        self.first_sent = Stamp::default();
        self.desk.audit.event(format_args!("client {} asks {asked:?} of {key:?}", self.id));
        let mut perhaps = false;
        let told = loop {
            let attempt = match &asked {
                Asked::Read => self.read(&key).await,
                write => self.write(&key, write).await,
            };
            match attempt {
                Attempt::Decided(told) => break told,
                Attempt::Forgotten => break Told::Unknown,
                Attempt::Nothing => {}
                Attempt::Perhaps => perhaps = true,
            }
            if Instant::now() >= self.desk.until {
                // From here on giving up is a violation, not impatience.
                patience = self.desk.until.duration_since(began) + SETTLE;
            }
            if began.elapsed() >= patience {
                self.complain_if_over(&key, &asked);
                break if perhaps { Told::Unknown } else { Told::NotDone };
            }
            sleep(self.chance.millis(10..120)).await;
        };
        if let (Asked::Read, Told::Found(found)) = (&asked, &told)
            && key.starts_with(b"r")
        {
            self.seen = Some((key.clone(), found.as_ref().map(|(version, _)| *version)));
        }
        self.desk.audit.event(format_args!("client {} is told {told:?}", self.id));
        let completed = self.desk.moment();
        self.desk.history.lock().push(Record { client: self.id, key, asked, invoked, completed, told });
    }

    fn complain_if_over(&self, key: &Bytes, asked: &Asked) {
        if Instant::now() >= self.desk.until + SETTLE {
            let sentence = format!("client {} got no outcome of {asked:?} of {key:?} within {SETTLE:?}", self.id);
            self.desk.violations.lock().push(sentence);
        }
    }

    async fn write(&mut self, key: &Bytes, asked: &Asked) -> Attempt {
        let put = |value: &Bytes, condition| Operation::Put {
            key: key.clone(),
            value: value.clone(),
            ttl_ms: None,
            condition,
            return_previous: false,
        };
        let operation = match asked {
            Asked::Put(value) => put(value, Condition::Always),
            Asked::Swap(None, value) => put(value, Condition::Absent),
            Asked::Swap(Some(version), value) => put(value, Condition::Version(*version)),
            Asked::Increment => Operation::Increment { key: key.clone(), delta: 1, return_previous: false },
            Asked::Read => unreachable!("reads are not written"),
        };
        let Some((node, life, stamp)) = self.reach().await else { return Attempt::Nothing };
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
        let context = RequestContext { timeout: ATTEMPT, stamp, ..RequestContext::default() };
        if self.chance.hits(10) {
            // Lost on the way there; the client cannot know.
            return Attempt::Perhaps;
        }
        let replicator = node.replicator(SHARD).expect("every node holds the shard");
        let outcome = tokio::select! {
            biased;
            () = life.ended() => return Attempt::Perhaps,
            outcome = replicator.write(command, context) => outcome,
        };
        if self.chance.hits(10) {
            // Lost on the way back.
            return Attempt::Perhaps;
        }
        match outcome {
            Ok(written) => self.told(written),
            Err(error) => {
                self.note_write_error(&error);
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

    fn told(&mut self, written: Written) -> Attempt {
        self.adopt(written.receipt.stamp);
        match written.outcome {
            Outcome::Written { applied: false, .. } => Attempt::Decided(Told::Failed),
            Outcome::Written { results, .. } => {
                let result = results.into_iter().next().expect("one operation, one result");
                let version = result.version.expect("an applied write has a version");
                Attempt::Decided(Told::Applied(version, result.number))
            }
            Outcome::RequestIdExpired { .. } => Attempt::Forgotten,
            other => {
                self.desk.violations.lock().push(format!("a write was answered with {other:?}"));
                Attempt::Forgotten
            }
        }
    }

    async fn read(&mut self, key: &Bytes) -> Attempt {
        let Some((node, life, stamp)) = self.reach().await else { return Attempt::Nothing };
        let context = RequestContext { timeout: ATTEMPT, stamp, ..RequestContext::default() };
        let replicator = node.replicator(SHARD).expect("every node holds the shard");
        let outcome = tokio::select! {
            biased;
            () = life.ended() => return Attempt::Nothing,
            outcome = replicator.get(key.clone(), ReadLevel::Linearizable, context) => outcome,
        };
        match outcome {
            Ok(found) => {
                self.adopt(found.receipt.stamp);
                let entry = found.entry.and_then(|entry| Some((entry.version, entry.value?)));
                Attempt::Decided(Told::Found(entry))
            }
            Err(error) => {
                self.desk.audit.event(format_args!("client {} read error: {error}", self.id));
                match error {
                    ReadError::NotLeader { leader: Some(hint), .. } => self.favourite = hint.node,
                    _ => self.wander(),
                }
                Attempt::Nothing
            }
        }
    }

    /// The favourite node, if it is up and takes the client's stamp, as its door would. A stamp that is refused came
    /// from a node with a wrong clock: the client shakes hands again.
    async fn reach(&mut self) -> Option<(Arc<Node>, Life, Stamp)> {
        sleep(self.chance.millis(0..3)).await;
        let reached = self.desk.network.node(self.favourite).filter(|(node, _)| node.replicator(SHARD).is_some());
        let Some((node, life)) = reached else {
            self.wander();
            return None;
        };
        let (given, at) = *self.stamp.get_or_insert_with(|| (node.stamp(), Instant::now()));
        let stamp = Stamp(given.0 + Stamp::from_ms(at.elapsed().as_millis() as u64).0);
        if node.observe(stamp).is_err() {
            self.desk.audit.event(format_args!("client {} is refused for its stamp {stamp}", self.id));
            self.stamp = None;
            return None;
        }
        Some((node, life, stamp))
    }

    fn note_write_error(&mut self, error: &WriteError) {
        self.desk.audit.event(format_args!("client {} write error: {error}", self.id));
        match error {
            WriteError::NotLeader { leader: Some(hint), .. } => self.favourite = hint.node,
            _ => self.wander(),
        }
    }

    fn wander(&mut self) {
        self.favourite = *self.chance.pick(&self.desk.nodes);
    }

    fn adopt(&mut self, stamp: Stamp) {
        let is_newer = self
            .stamp
            .is_none_or(|(given, at)| stamp > Stamp(given.0 + Stamp::from_ms(at.elapsed().as_millis() as u64).0));
        if is_newer {
            self.stamp = Some((stamp, Instant::now()));
        }
    }
}
