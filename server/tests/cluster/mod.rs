//! Real `kvd` processes on loopback: started, killed, paused, restarted, looked at.
//!
//! ```text
//!   Cluster ── Kvd 1 ─ directory ─ node.toml ─ kvd.log ─ child process
//!           ├─ Kvd 2 ...
//!           └─ Kvd 3 ...
//! ```
//!
//! Ports are chosen free, below the range the system gives to outgoing connections, so that a restarted node finds its
//! own again; a node that meets a taken one is given others. Waiting is asking until the answer comes, with a deadline
//! that only a broken node meets.
//!
//! **Invariant.** No child outlives its test.
#![allow(dead_code, reason = "every test program uses its own part of the harness")]
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a harness of tests: it panics and prints as they do")]

pub mod calls;
pub mod program;

use kvorum_api::proto::{self, admin_client::AdminClient, kv_client::KvClient};
use std::{
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

/// What only a broken node needs longer for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The cluster every test's nodes belong to.
pub const CLUSTER: &str = "00112233445566778899aabbccddeeff";

const LOOK_EVERY: Duration = Duration::from_millis(20);
const STARTS_MAX: usize = 5;

/// Ports of one node.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    pub client: u16,
    pub peer: u16,
    pub admin: u16,
}

impl Ports {
    /// Three ports that are free now.
    pub fn free() -> Ports {
        Ports { client: free_port(), peer: free_port(), admin: free_port() }
    }
}

fn free_port() -> u16 {
    const FIRST: u16 = 10_000;
    const COUNT: u16 = 22_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        // Test programs run side by side: each begins elsewhere.
        let begin = (std::process::id().wrapping_mul(7_919) % u32::from(COUNT)) as u16;
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % COUNT;
        let port = FIRST + (begin + step) % COUNT;
        // Gossip takes the peer port over UDP.
        let loopback = (Ipv4Addr::LOCALHOST, port);
        if TcpListener::bind(loopback).is_ok() && UdpSocket::bind(loopback).is_ok() {
            return port;
        }
    }
}

/// One node: its place on disk, its ports, its process if it runs.
pub struct Kvd {
    pub id: u64,
    pub ports: Ports,
    pub directory: PathBuf,
    /// More flags for its process.
    pub flags: Vec<String>,
    /// After which idle shards are closed: never, so that a test that looks for a leader finds one.
    pub idle_close_after: &'static str,
    child: Option<Child>,
}

impl Kvd {
    /// A node that lives under `directory` and does not run yet.
    pub fn new(id: u64, directory: &Path) -> Kvd {
        fs::create_dir_all(directory).unwrap();
        Kvd {
            id,
            ports: Ports::free(),
            directory: directory.to_owned(),
            flags: Vec::new(),
            idle_close_after: "0s",
            child: None,
        }
    }

    /// Its data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Writes its configuration: `[node]`, then `rest`.
    pub fn configure(&self, rest: &str) {
        let Ports { client, peer, admin } = self.ports;
        // A node that joins is given its number.
        let joins = self.flags.iter().any(|flag| flag == "--join");
        let id = if joins { String::new() } else { format!("id = {}", self.id) };
        let node = format!(
            "[node]\n{id}\ndata = \"{}\"\nlisten_client = \"127.0.0.1:{client}\"\n\
             listen_peer = \"127.0.0.1:{peer}\"\nlisten_admin = \"127.0.0.1:{admin}\"\n\n{rest}",
            self.data().display()
        );
        fs::write(self.directory.join("node.toml"), node).unwrap();
    }

    /// Starts its process.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "node {} runs already", self.id);
        let log = File::options().create(true).append(true).open(self.directory.join("kvd.log")).unwrap();
        let mut command = kvd();
        command.arg("--config").arg(self.directory.join("node.toml")).args(&self.flags);
        command.env("KV__RAFT__IDLE_CLOSE_AFTER", self.idle_close_after);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        self.child = Some(command.spawn().unwrap());
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let child = self.child.as_ref().expect("runs");
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Stops it in order and gives its exit.
    pub async fn stop(&mut self) -> ExitStatus {
        self.signal(rustix::process::Signal::TERM);
        self.exit().await
    }

    /// Waits until it ends by itself.
    pub async fn exit(&mut self) -> ExitStatus {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.has_ended() {
                self.child = None;
                return status;
            }
            assert!(Instant::now() < until, "node {} does not end:\n{}", self.id, self.log_tail());
            sleep(LOOK_EVERY).await;
        }
    }

    fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut().expect("was started").try_wait().unwrap()
    }

    /// Whether its process runs.
    pub fn is_running(&mut self) -> bool {
        self.child.is_some() && self.has_ended().is_none()
    }

    /// How many lines of its log, over all its lives, contain a text.
    pub fn log_count(&self, text: &str) -> usize {
        let log = fs::read(self.directory.join("kvd.log")).unwrap_or_default();
        String::from_utf8_lossy(&log).lines().filter(|line| line.contains(text)).count()
    }

    /// The last words of its log.
    pub fn log_tail(&self) -> String {
        let log = fs::read(self.directory.join("kvd.log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// The one sentence it ended with.
    pub fn last_words(&self) -> String {
        let log = fs::read_to_string(self.directory.join("kvd.log")).unwrap_or_default();
        let words = log.lines().rev().find(|line| line.starts_with("kvd: "));
        words.unwrap_or_else(|| panic!("node {} said nothing:\n{}", self.id, self.log_tail())).to_owned()
    }

    /// Waits until it says that it is ready; `false` = it ended instead.
    pub async fn is_ready(&mut self) -> bool {
        let until = Instant::now() + PATIENCE;
        loop {
            if self.has_ended().is_some() {
                return false;
            }
            let answer = http(self.ports.admin, "/readyz");
            if matches!(answer, Some((200, _))) {
                return true;
            }
            let why = answer.map_or_else(|| "it does not answer".to_owned(), |(_, why)| why);
            assert!(Instant::now() < until, "node {} is not ready: {why}\n{}", self.id, self.log_tail());
            sleep(LOOK_EVERY).await;
        }
    }

    /// Waits until it is ready.
    pub async fn ready(&mut self) {
        assert!(self.is_ready().await, "node {} ended instead of getting ready:\n{}", self.id, self.log_tail());
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.client)
    }

    /// Its admin door for programs.
    pub fn admin(&self) -> AdminClient<Channel> {
        AdminClient::new(self.channel())
    }

    /// A channel to its client door.
    pub fn channel(&self) -> Channel {
        channel(self.ports.client)
    }

    /// Its client door.
    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel()).max_encoding_message_size(64 << 20).max_decoding_message_size(64 << 20)
    }

    /// What it says of itself; `None` = it does not answer.
    pub async fn try_status(&self) -> Option<proto::NodeStatusReply> {
        let mut admin = AdminClient::new(self.channel());
        let mut request = tonic::Request::new(proto::NodeStatusRequest {});
        request.set_timeout(Duration::from_secs(2));
        admin.node_status(request).await.ok().map(tonic::Response::into_inner)
    }

    /// What it says of itself.
    pub async fn status(&self) -> proto::NodeStatusReply {
        until("its status", || self.try_status()).await
    }
}

impl Drop for Kvd {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            println!("--- node {}, last words:\n{}", self.id, self.log_tail());
        }
    }
}

/// Nodes that know each other.
pub struct Cluster {
    pub nodes: Vec<Kvd>,
    root: TempDir,
}

impl Cluster {
    /// Starts `count` nodes and waits until each is ready.
    pub async fn start(count: u64) -> Cluster {
        Cluster::start_with(count, |_| String::new()).await
    }

    /// The same with more configuration, by node id.
    pub async fn start_with(count: u64, more: impl Fn(u64) -> String) -> Cluster {
        'starts: for _ in 0..STARTS_MAX {
            let root = tempfile::tempdir().unwrap();
            let nodes = (1..=count).map(|id| Kvd::new(id, &root.path().join(format!("node{id}")))).collect();
            let mut cluster = Cluster { nodes, root };
            for node in &cluster.nodes {
                node.configure(&cluster.configuration(&more(node.id)));
            }
            cluster.nodes.iter_mut().for_each(Kvd::start);
            for node in &mut cluster.nodes {
                if !node.is_ready().await {
                    let words = node.last_words();
                    assert!(words.contains("the port is in use"), "node {} ended: {words}", node.id);
                    continue 'starts;
                }
            }
            return cluster;
        }
        panic!("no free ports after {STARTS_MAX} attempts");
    }

    /// A node that is to join this cluster, and is not started.
    pub fn applicant(&self) -> Kvd {
        let number = self.nodes.len() as u64 + 1;
        let mut node = Kvd::new(number, &self.root.path().join(format!("node{number}")));
        let peers: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.ports.peer)).collect();
        let key = self.key_file().display().to_string();
        node.flags = vec!["--join".to_owned(), peers.join(","), "--cluster-key".to_owned(), key];
        node.configure(small());
        node
    }

    /// Lets one more node join, waits until it is ready, and gives its id.
    pub async fn join(&mut self) -> u64 {
        let mut node = self.applicant();
        node.start();
        node.ready().await;
        let id = node.status().await.node;
        self.nodes.push(node);
        id
    }

    /// Everything but `[node]`.
    pub fn configuration(&self, more: &str) -> String {
        let key = self.key_file().display().to_string();
        let mut text = format!("{}\n{more}\n[cluster]\nid = \"{CLUSTER}\"\nkey_file = \"{key}\"\n", small());
        for node in &self.nodes {
            text.push_str(&format!(
                "\n[[cluster.nodes]]\nid = {}\nclient = \"127.0.0.1:{}\"\npeer = \"127.0.0.1:{}\"\n",
                node.id, node.ports.client, node.ports.peer
            ));
        }
        text + "\n[[keyspaces]]\nname = \"default\"\n"
    }

    /// The cluster's key.
    pub fn key_file(&self) -> PathBuf {
        key_file(self.root.path())
    }

    /// Where the nodes live.
    pub fn root(&self) -> &Path {
        self.root.path()
    }

    /// The node of that id.
    pub fn node(&mut self, id: u64) -> &mut Kvd {
        &mut self.nodes[id as usize - 1]
    }

    /// Client addresses, for the client library.
    pub fn endpoints(&self) -> Vec<String> {
        self.nodes.iter().map(Kvd::address).collect()
    }

    /// Waits until a node says that it leads the first shard of data, and gives its id.
    pub async fn leader(&self) -> u64 {
        until("a leader", || async {
            for node in &self.nodes {
                let status = node.try_status().await;
                if status.is_some_and(|status| first(&status).is_some_and(|replica| replica.role == "leader")) {
                    return Some(node.id);
                }
            }
            None
        })
        .await
    }
}

/// A node's replica of the first shard of data, if it holds one: shard 0 is the metadata.
pub fn first(status: &proto::NodeStatusReply) -> Option<&proto::ReplicaStatus> {
    status.replicas.iter().find(|replica| replica.shard == 1)
}

/// Configuration that suits a machine with many test nodes: small segments, quick elections.
pub fn small() -> &'static str {
    "[storage]\njournal_segment = \"34MiB\"\nballast = \"0B\"\nlow_water = \"1MiB\"\n[log]\nformat = \"text\"\n"
}

/// A key file under a directory, made when it is first asked for.
pub fn key_file(root: &Path) -> PathBuf {
    let file = root.join("cluster.key");
    if !file.exists() {
        assert!(kvd().arg("--new-cluster-key").arg(&file).status().unwrap().success());
    }
    file
}

/// A `kvd` without the environment of whoever runs the tests.
pub fn kvd() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kvd"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("KV__")) {
        command.env_remove(name);
    }
    command
}

/// Asks until there is an answer.
pub async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut ask: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        sleep(LOOK_EVERY).await;
    }
}

/// A channel that connects when it is used.
pub fn channel(port: u16) -> Channel {
    let endpoint = Channel::from_shared(format!("http://127.0.0.1:{port}")).unwrap();
    endpoint.connect_timeout(Duration::from_secs(2)).connect_lazy()
}

/// One HTTP request; `None` = nobody answers.
pub fn http(port: u16, page: &str) -> Option<(u16, String)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    write!(stream, "GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
}

/// Copies a directory as it is at this moment, also while somebody writes in it.
pub fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_directory(&entry.path(), &target);
        } else if let Err(error) = fs::copy(entry.path(), &target) {
            // A file may vanish between being listed and being copied.
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{}", entry.path().display());
        }
    }
}
