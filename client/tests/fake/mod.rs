//! A cluster that does what a script says: three doors, one shard in memory behind them.
//!
//! It keeps the rules of request ids (I1, I2) as the real shard does, and can be told to refuse, lose, apply and lose,
//! hold back or swallow the next request of a node.

#![allow(dead_code, reason = "each test binary uses its part")]

mod door;
pub mod shard;

use kvorum_api::proto::{admin_server::AdminServer, kv_server::KvServer};
use parking_lot::Mutex;
use shard::{Frame, Shard};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Weak},
};
use tokio::{net::TcpListener, runtime::Runtime};
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
}

#[derive(Default)]
pub struct World {
    pub shard: Shard,
    pub leader: Option<usize>,
    pub hints: bool,
    pub addresses: Vec<String>,
    pub faults: BTreeMap<usize, VecDeque<Fault>>,
    pub seen: Vec<Seen>,
    pub held: Vec<Frame>,
    pub handshakes: usize,
    pub keyspaces: Vec<(&'static str, &'static str)>,
    pub entries_a_message: usize,
    /// These take connections and answer nothing.
    pub frozen: BTreeSet<usize>,
    /// Who was asked while it was frozen.
    pub asked_frozen: Vec<usize>,
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
        let mut listeners = Vec::new();
        for _ in 0..nodes {
            listeners.push(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
        }
        let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect();
        let world = World {
            leader: Some(0),
            hints: true,
            addresses,
            keyspaces: vec![("default", "cp"), ("orders", "cp")],
            entries_a_message: 2,
            ..World::default()
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
        held.into_iter().filter(|frame| world.shard.write(frame).is_ok_and(|reply| reply.applied)).count()
    }

    pub fn value(&self, key: &str) -> Option<String> {
        let world = self.world.lock();
        world.shard.entries.get(key.as_bytes()).map(|entry| String::from_utf8(entry.value.to_vec()).unwrap())
    }

    pub fn seen(&self, what: &str) -> Vec<Seen> {
        self.world.lock().seen.iter().filter(|seen| seen.what == what).cloned().collect()
    }
}
