//! # Workload: clients that write, count, swap and read, and retry as the client library does
//!
//! A client does one thing at a time. A write that may have happened is asked again under the same request id, until it
//! is decided or the client loses patience; then its outcome is unknown for ever, and the next request raises the floor
//! above it (rule I2). For a phase all clients keep to one keyspace, so that the groups of the others fall asleep.
//!
//! **Invariant.** What a client records is what a user would know, no more: an answer of a life that had already ended
//! is never heard.
//!
//! **Deliberately absent.** How one attempt is made (`attempt`).

use super::{
    attempt::Attempt,
    audit::Audit,
    chance::Chance,
    diary::Handed,
    diary_reader::DiaryReader,
    draw::{Drawn, LETTERS},
    history::{Asked, Key, Record, Told},
    network::Network,
    steward::Ledger,
};
use bytes::Bytes;
use kvorum_api::{KeyspaceId, NodeId, ReadLevel, SessionToken, Stamp, Version};
use kvorum_consensus::metadata::ClusterMap;
use parking_lot::Mutex;
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};

/// How long a client waits for the end of what it began, once the world is whole again. Longer is a violation.
pub const SETTLE: Duration = Duration::from_secs(60);

/// What a client asks that reads, of a thousand.
const READS_PER_MILLE: u32 = 900;

/// What all clients share.
#[derive(Clone)]
pub struct Desk {
    /// The nodes.
    pub network: Arc<Network>,
    /// Which nodes there are.
    pub members: Arc<Mutex<Vec<NodeId>>>,
    /// What kind of world it is.
    pub drawn: Arc<Drawn>,
    /// Every event.
    pub audit: Audit,
    /// What was asked and told.
    pub history: Arc<Mutex<Vec<Record>>>,
    /// What readers of diaries were handed.
    pub handed: Arc<Mutex<Vec<Handed>>>,
    /// Readers of diaries that have come to the end of the run.
    pub readers: Arc<Mutex<Vec<DiaryReader>>>,
    /// What was told about keyspaces.
    pub ledger: Arc<Mutex<Ledger>>,
    /// A session that clients hand to each other.
    pub handed_on: Arc<Mutex<Option<(KeyspaceId, Session)>>>,
    /// What must not be.
    pub violations: Arc<Mutex<Vec<String>>>,
    /// Counts moments.
    pub moments: Arc<AtomicU64>,
    /// Tells the steward to do something at once.
    pub hurry: Arc<Notify>,
    /// When the clients began.
    pub began: Instant,
    /// When clients begin nothing new.
    pub until: Instant,
}

impl Desk {
    /// Now, as a number of its own.
    pub fn moment(&self) -> u64 {
        self.moments.fetch_add(1, Ordering::SeqCst)
    }

    /// Which nodes there are now.
    pub fn nodes(&self) -> Vec<NodeId> {
        self.members.lock().clone()
    }

    /// Something that must not be.
    pub fn complain(&self, violation: String) {
        self.audit.event(format_args!("VIOLATION: {violation}"));
        self.violations.lock().push(violation);
    }

    /// Whether a keyspace is dropped, or may be.
    pub fn is_leaving(&self, keyspace: KeyspaceId) -> bool {
        self.ledger.lock().leaving.contains(&keyspace)
    }
}

/// What a session has seen of one keyspace: what the cluster makes of it, and what it truly was.
#[derive(Clone, Debug)]
pub struct Session {
    /// Its name: no two clients share one.
    pub name: String,
    /// What the replies carried.
    pub token: SessionToken,
    /// The newest version of each key.
    pub seen: BTreeMap<Bytes, Version>,
}

impl Session {
    /// One that has seen nothing.
    pub fn new(keyspace: KeyspaceId, name: String) -> Self {
        Session { name, token: SessionToken::new(keyspace), seen: BTreeMap::new() }
    }
}

/// One client.
pub struct Client {
    pub(super) id: u64,
    pub(super) desk: Desk,
    pub(super) chance: Chance,
    pub(super) sequence: u64,
    /// The client's stamp when the request under way was first sent.
    pub(super) first_sent: Stamp,
    /// The highest stamp a server gave, and when (rule T1). `None` = shake hands first.
    pub(super) stamp: Option<(Stamp, Instant)>,
    /// Whom it asks unless it knows better.
    pub(super) favourite: NodeId,
    /// Who led the shard of a key when it was asked last.
    pub(super) leaders: BTreeMap<Key, NodeId>,
    pub(super) sessions: BTreeMap<KeyspaceId, Session>,
    /// What it saw, for swaps.
    seen: Option<(Key, Option<(Version, Bytes)>)>,
}

impl Client {
    /// A client that has met nobody yet.
    pub fn new(id: u64, seed: u64, desk: Desk) -> Self {
        let nodes = desk.nodes();
        let favourite = nodes[id as usize % nodes.len()];
        let chance = Chance::new(seed, &format!("client {id}"));
        Client {
            id,
            desk,
            chance,
            sequence: 0,
            first_sent: Stamp::default(),
            stamp: None,
            favourite,
            leaders: BTreeMap::new(),
            sessions: BTreeMap::new(),
            seen: None,
        }
    }

    /// Works until the desk closes, and finishes what it began.
    pub async fn run(mut self) {
        while Instant::now() < self.desk.until {
            if let Some(keyspace) = self.keyspace() {
                self.change_sessions(keyspace);
                let (key, asked) = self.wish(keyspace);
                self.perform(key, asked).await;
            }
            sleep(self.chance.millis(0..self.desk.drawn.thinks_ms)).await;
        }
    }

    /// Writes a key of every shard on the map: whoever cannot is said to be stuck.
    pub async fn touch_every_shard(&mut self, map: &ClusterMap) {
        for row in map.shards.values() {
            let Some(keyspace) = map.keyspaces.get(&row.keyspace) else { continue };
            let mut names = (0..1_000).flat_map(|number| LETTERS.map(|letter| format!("{letter}-z{number}")));
            let name = names.find_map(|name| {
                let name = Bytes::from(name);
                row.range.contains(&keyspace.sharding.placement_key(&name)).then_some(name)
            });
            let Some(name) = name else {
                self.desk.complain(format!("no key lies in shard {}", row.shard));
                continue;
            };
            let value = Bytes::from(format!("c{}-{}", self.id, self.sequence));
            self.perform(Key { keyspace: row.keyspace, name }, Asked::Put(value)).await;
        }
    }

    /// Reads a key, however long it takes within the patience of the end. `Err` = nobody answers any more.
    ///
    /// # Errors
    /// A sentence.
    pub async fn read_finally(&mut self, key: &Key) -> Result<Record, String> {
        let deadline = Instant::now() + SETTLE;
        while Instant::now() < deadline {
            let asked = Asked::Read(ReadLevel::Linearizable);
            let (invoked, began_at) = (self.desk.moment(), self.desk.began.elapsed());
            if let (Attempt::Decided(told, receipt), _) = self.read(key, ReadLevel::Linearizable).await {
                let (completed, at) = (self.desk.moment(), (began_at, self.desk.began.elapsed()));
                let (client, key, receipt) = (self.id, key.clone(), Some(receipt));
                let told = (told, receipt);
                return Ok(Record::new((client, key, asked), (invoked, completed), at, told));
            }
            sleep(Duration::from_millis(100)).await;
        }
        Err(format!("no linearizable read of {key} within {SETTLE:?} of the end"))
    }

    /// The keyspace of this phase, mostly; one that is being dropped is left alone.
    fn keyspace(&mut self) -> Option<KeyspaceId> {
        let (node, _) = self.desk.network.node(self.favourite).or_else(|| {
            self.wander();
            self.desk.network.node(self.favourite)
        })?;
        let map = node.map();
        let there: Vec<KeyspaceId> =
            map.keyspaces.keys().copied().filter(|keyspace| !self.desk.is_leaving(*keyspace)).collect();
        if there.is_empty() {
            return None;
        }
        let phase = self.desk.began.elapsed().as_millis() as u64 / self.desk.drawn.phase_ms;
        let at = if self.chance.hits(950) { phase * 7 } else { self.chance.any() >> 8 };
        Some(there[at as usize % there.len()])
    }

    /// Now and then a session is handed to somebody else, or begins anew.
    fn change_sessions(&mut self, keyspace: KeyspaceId) {
        match self.chance.within(0..40) {
            0 => {
                self.sessions.remove(&keyspace);
            }
            1 => {
                let mine = self.sessions.get(&keyspace).cloned();
                *self.desk.handed_on.lock() = mine.map(|session| (keyspace, session));
            }
            2 => {
                if let Some((keyspace, session)) = self.desk.handed_on.lock().take() {
                    // Two branches of one session are two: neither knows what the other one saw since.
                    let session = Session { name: format!("c{}-{}-handed", self.id, self.sequence), ..session };
                    self.sessions.insert(keyspace, session);
                }
            }
            _ => {}
        }
    }

    fn wish(&mut self, keyspace: KeyspaceId) -> (Key, Asked) {
        let value = Bytes::from(format!("c{}-{}", self.id, self.sequence));
        let letter = *self.chance.pick(&LETTERS);
        let key = |name: String| Key { keyspace, name: Bytes::from(name) };
        let register = key(format!("{letter}-r{}", self.chance.within(0..2)));
        let counter = key(format!("{letter}-n0"));
        let (bound_ms, lent) = (self.chance.within(1..2_500), self.chance.within(0..3));
        let level = match self.chance.within(0..10) {
            0..=4 => ReadLevel::Linearizable,
            5..=6 => ReadLevel::Session,
            7..=8 => ReadLevel::Bounded(Duration::from_millis(bound_ms)),
            _ => ReadLevel::Local,
        };
        if self.id <= self.desk.drawn.readers && self.chance.hits(READS_PER_MILLE) {
            return (register, Asked::Read(level));
        }
        match (self.chance.within(0..20), self.seen.take()) {
            (0..=4, _) => (register, Asked::Put(value)),
            (5, _) => (key(format!("{letter}-t{lent}")), Asked::Lend(value)),
            (6..=9, _) => (counter, Asked::Increment),
            (10..=12, Some((key, found))) if key.keyspace == keyspace => (key, Asked::Swap(found, value)),
            (10, _) => (counter, Asked::Read(level)),
            _ => (register, Asked::Read(level)),
        }
    }

    async fn perform(&mut self, key: Key, asked: Asked) {
        let (mut invoked, mut began_at) = (self.desk.moment(), self.desk.began.elapsed());
        let mut patience = self.chance.millis(1_000..20_000);
        let began = Instant::now();
        self.sequence += 1;
        self.first_sent = Stamp::default();
        self.desk.audit.event(format_args!("client {} asks {asked:?} of {key}", self.id));
        let (mut perhaps, mut within, mut floor, mut receipt) = (false, None, None, None);
        let told = loop {
            let attempt = match &asked {
                Asked::Read(level) => {
                    // An attempt of a read that comes to nothing has not happened: each is an operation of its own.
                    (invoked, began_at) = (self.desk.moment(), self.desk.began.elapsed());
                    floor = self.floor(&key).filter(|_| *level == ReadLevel::Session);
                    let (attempt, age) = self.read(&key, *level).await;
                    within = age;
                    attempt
                }
                write => self.write(&key, write).await,
            };
            match attempt {
                Attempt::Decided(told, said) => {
                    receipt = Some(said);
                    break told;
                }
                Attempt::Forgotten => break Told::Unknown,
                Attempt::Nothing => {}
                Attempt::Perhaps => perhaps = true,
            }
            if Instant::now() >= self.desk.until {
                // From here on giving up is a violation, not impatience.
                patience = self.desk.until.duration_since(began) + SETTLE;
            }
            if began.elapsed() >= patience || self.desk.is_leaving(key.keyspace) {
                self.complain_if_over(&key, &asked);
                break if perhaps { Told::Unknown } else { Told::NotDone };
            }
            sleep(self.chance.millis(10..120)).await;
        };
        if let (Asked::Read(_), Told::Found(found)) = (&asked, &told)
            && key.name.get(2) == Some(&b'r')
        {
            self.seen = Some((key.clone(), found.clone()));
        }
        self.desk.audit.event(format_args!("client {} is told {told:?}", self.id));
        let (completed, at) = (self.desk.moment(), (began_at, self.desk.began.elapsed()));
        let session = self.sessions.get(&key.keyspace).map(|session| session.name.clone());
        let record = Record::new((self.id, key, asked), (invoked, completed), at, (told, receipt));
        let record = Record { within, floor, session, ..record };
        self.see(&record);
        // What is lent goes away by itself: its versions prove nothing.
        if !matches!(record.asked, Asked::Lend(_)) {
            self.desk.history.lock().push(record);
        }
    }

    /// The newest version of a key that this session has seen.
    fn floor(&self, key: &Key) -> Option<Version> {
        self.sessions.get(&key.keyspace)?.seen.get(&key.name).copied()
    }

    fn see(&mut self, record: &Record) {
        let (Some(version), Some(session)) = (record.proves(), self.sessions.get_mut(&record.key.keyspace)) else {
            return;
        };
        let newest = session.seen.entry(record.key.name.clone()).or_insert(version);
        *newest = (*newest).max(version);
    }

    fn complain_if_over(&self, key: &Key, asked: &Asked) {
        if Instant::now() >= self.desk.until + SETTLE && !self.desk.is_leaving(key.keyspace) {
            self.desk.complain(format!("client {} got no outcome of {asked:?} of {key} within {SETTLE:?}", self.id));
        }
    }

    pub(super) fn wander(&mut self) {
        self.favourite = *self.chance.pick(&self.desk.nodes());
    }
}
