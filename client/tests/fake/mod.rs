//! A cluster that does what a script says: a few doors, the shards of one keyspace in memory behind them.
//!
//! It keeps the rules of request ids (I1, I2) as the real shard does, and can be told to refuse, lose, apply and lose,
//! hold back or swallow the next request of a node.

#![allow(dead_code, reason = "each test binary uses its part")]

mod door;
mod operator;
pub mod shard;
mod wire;

use bytes::Bytes;
use kvorum_api::{
    PlacementRange, Sharding,
    proto::{admin_server::AdminServer, kv_server::KvServer, kv_stream_server::KvStreamServer},
};
use parking_lot::Mutex;
use shard::{Frame, START_MS, Shard};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{net::TcpListener, runtime::Runtime, time::Instant};
use tonic::{Code, transport::server::TcpIncoming};

/// What happens to the next request of a node.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Not applied, and the server says so.
    Refuse(Told),
    /// Not applied, and the connection says nothing of use.
    Lose,
    /// Applied, and the connection says nothing of use.
    ApplyThenLose,
    /// Kept back for [`Fake::deliver_held`]; the connection says nothing of use.
    Hold,
    /// Never answered. Not applied.
    Hang,
    /// Never answered. Applied.
    ApplyThenHang,
    /// A scan breaks after its first message.
    BreakScan,
    /// So many messages without anything in them come first in a scan, one each time span.
    IdleScan(usize, Duration),
    /// As [`Fault::Refuse`], after a while.
    RefuseLate(Duration, Told),
}

/// An error with our details.
#[derive(Clone, Debug)]
pub struct Told {
    pub code: Code,
    pub reason: &'static str,
    pub message: &'static str,
    pub metadata: Vec<(&'static str, &'static str)>,
}

impl Told {
    pub fn new(code: Code, reason: &'static str, metadata: &[(&'static str, &'static str)]) -> Self {
        Told { code, reason, message: "told by the script", metadata: metadata.to_vec() }
    }
}

/// One write or read as a node saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub node: usize,
    pub what: &'static str,
    pub stamp: u64,
    pub traceparent: String,
    pub sequence: u64,
    pub lowest: u64,
    pub deadline_sent: bool,
    /// As it was in a frame.
    pub deadline_ms: u64,
    pub shard: u64,
    pub level: String,
    pub token: Bytes,
}

pub struct World {
    started: Instant,
    pub sharding: Sharding,
    pub shards: Vec<Shard>,
    /// Who leads the shards that are not in `leaders`.
    pub leader: Option<usize>,
    /// By the id of the shard.
    pub leaders: BTreeMap<u64, usize>,
    pub hints: bool,
    pub revision: u64,
    /// Number of the keyspaces.
    pub keyspace: u32,
    /// Whether there is a stream to be had.
    pub offers_stream: bool,
    /// Calls of each frame that came, by node.
    pub frames: Vec<(usize, usize)>,
    /// How far these nodes' clocks are ahead, milliseconds.
    pub ahead_ms: BTreeMap<usize, u64>,
    /// These replicas have not applied anything yet.
    pub behind: BTreeSet<usize>,
    pub addresses: Vec<String>,
    /// Of reads that name none.
    pub read_level: &'static str,
    pub faults: BTreeMap<usize, VecDeque<Fault>>,
    pub seen: Vec<Seen>,
    pub held: Vec<(u64, Frame)>,
    pub handshakes: usize,
    /// Keyspaces somebody asked to create.
    pub changes: usize,
    pub keyspaces: Vec<(&'static str, &'static str)>,
    /// What was asked to be done to shards.
    pub operators: Vec<kvorum_api::proto::OperatorDescription>,
    pub entries_a_message: usize,
    /// As many more batches are taken, then each is refused for good.
    pub refuses_batches_after: Option<usize>,
    /// These take connections and answer nothing.
    pub frozen: BTreeSet<usize>,
    /// Who was asked while it was frozen.
    pub asked_frozen: Vec<usize>,
}

impl World {
    pub fn now_ms(&self) -> u64 {
        START_MS + u64::try_from(self.started.elapsed().as_millis()).unwrap()
    }

    /// The clock of a node, as a stamp.
    pub fn stamp_of(&self, node: usize) -> u64 {
        (self.now_ms() + self.ahead_ms.get(&node).copied().unwrap_or(0)) << 16
    }

    pub fn leader_of(&self, shard: u64) -> Option<usize> {
        self.leaders.get(&shard).copied().or(self.leader)
    }

    pub fn shard_of(&mut self, key: &Bytes) -> &mut Shard {
        let placement = self.sharding.placement_key(key);
        let now_ms = self.now_ms();
        let shard = self.shards.iter_mut().find(|shard| shard.range.contains(&placement)).unwrap();
        shard.now_ms = now_ms;
        shard
    }
}

pub struct Fake {
    pub world: Arc<Mutex<World>>,
    processes: Vec<Process>,
}

/// One node's tasks, in a runtime of their own: its end ends the connections too.
struct Process {
    runtime: Option<Runtime>,
    door: Weak<()>,
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Fake {
    /// `nodes` doors on ports the system chose; the first leads and followers name it.
    pub fn start(nodes: usize) -> Self {
        Self::sharded(nodes, Sharding::Range, vec![PlacementRange::all()])
    }

    /// Shards are numbered from 1 in placement order; the first node leads them all.
    pub fn sharded(nodes: usize, sharding: Sharding, ranges: Vec<PlacementRange>) -> Self {
        let mut listeners = Vec::new();
        for _ in 0..nodes {
            listeners.push(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        }
        let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
        let world = World {
            started: Instant::now(),
            sharding,
            shards: ranges.into_iter().zip(1..).map(|(range, id)| Shard::new(id, range)).collect(),
            leader: Some(0),
            leaders: BTreeMap::new(),
            hints: true,
            revision: 1,
            keyspace: 1,
            offers_stream: true,
            frames: Vec::new(),
            ahead_ms: BTreeMap::new(),
            behind: BTreeSet::new(),
            addresses,
            read_level: "linearizable",
            faults: BTreeMap::new(),
            seen: Vec::new(),
            held: Vec::new(),
            handshakes: 0,
            changes: 0,
            keyspaces: vec![("default", "cp"), ("orders", "cp")],
            operators: Vec::new(),
            entries_a_message: 2,
            refuses_batches_after: None,
            frozen: BTreeSet::new(),
            asked_frozen: Vec::new(),
        };
        let mut fake = Fake { world: Arc::new(Mutex::new(world)), processes: Vec::new() };
        for (node, listener) in listeners.into_iter().enumerate() {
            fake.serve(node, listener);
        }
        fake
    }

    fn serve(&mut self, node: usize, listener: std::net::TcpListener) {
        let alive = Arc::new(());
        let gone = Arc::downgrade(&alive);
        let door = door::Door { node, world: self.world.clone(), alive };
        let server = tonic::transport::Server::builder()
            .add_service(KvServer::new(door.clone()).max_decoding_message_size(64 << 20))
            .add_service(KvStreamServer::new(door.clone()).max_decoding_message_size(64 << 20))
            .add_service(AdminServer::new(door));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        listener.set_nonblocking(true).unwrap();
        let inside = runtime.enter();
        let listener = TcpListener::from_std(listener).unwrap();
        runtime.spawn(async move { server.serve_with_incoming(TcpIncoming::from(listener)).await.unwrap() });
        drop(inside);
        self.processes.push(Process { runtime: Some(runtime), door: gone });
    }

    pub fn address(&self, node: usize) -> String {
        self.world.lock().addresses[node].clone()
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.world.lock().addresses.clone()
    }

    /// The next request of `node` meets this fault.
    pub fn fault(&self, node: usize, fault: Fault) {
        self.world.lock().faults.entry(node).or_default().push_back(fault);
    }

    /// Nobody listens there any more, and its connections are gone.
    pub fn stop(&mut self, node: usize) {
        if let Some(runtime) = self.processes[node].runtime.take() {
            runtime.shutdown_background();
        }
        while self.processes[node].door.upgrade().is_some() {
            std::thread::yield_now();
        }
    }

    pub fn stop_all(&mut self) {
        for node in 0..self.processes.len() {
            self.stop(node);
        }
    }

    /// The copies kept back arrive now; how many of them were applied.
    pub fn deliver_held(&self) -> usize {
        let mut world = self.world.lock();
        let held = std::mem::take(&mut world.held);
        let mut arrive = |(shard, frame): &(u64, Frame)| {
            let shard = world.shards.iter_mut().find(|known| known.id == *shard).unwrap();
            shard.write(frame).is_ok_and(|reply| reply.applied)
        };
        held.iter().filter(|copy| arrive(copy)).count()
    }

    pub fn value(&self, key: &str) -> Option<String> {
        let key = Bytes::copy_from_slice(key.as_bytes());
        let mut world = self.world.lock();
        world.shard_of(&key).entries.get(&key).map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
    }

    /// Writes that changed something.
    pub fn applied(&self) -> usize {
        self.world.lock().shards.iter().map(|shard| shard.applied).sum()
    }

    pub fn seen(&self, what: &str) -> Vec<Seen> {
        self.world.lock().seen.iter().filter(|seen| seen.what == what).cloned().collect()
    }
}
