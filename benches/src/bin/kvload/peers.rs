//! Clusters that a comparison starts by itself: three processes each, on loopback, on one core.
//!
//! **Invariant.** What was started is stopped when its owner goes, whatever happened; its data lies in one temporary
//! directory, on the same file system for everybody.

use crate::{
    Transport, beside,
    drivers::{Target, etcd_is_ready, kvorum_is_ready},
};
use anyhow::{Context as _, Result, bail};
use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::Write as _,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

/// How long a cluster may take to elect its leaders.
const READY_MAX: Duration = Duration::from_secs(60);

/// Members of every cluster.
const MEMBERS: usize = 3;

/// A running cluster.
pub struct Cluster {
    members: Vec<Child>,
    /// Client addresses.
    pub endpoints: Vec<String>,
    /// Addresses of `/metrics`, in the order of the members.
    pub metrics: Vec<String>,
    /// Its data and logs; removed with it.
    directory: TempDir,
}

/// How a `kvd` is started that is to be one of a cluster.
pub struct Newcomer<'cluster> {
    pub program: Option<PathBuf>,
    pub core: Option<usize>,
    /// What its configuration says besides its addresses.
    pub more: &'cluster str,
}

impl Cluster {
    /// Three `kvd` with one keyspace `load` of `shards` shards.
    pub async fn kvorum(program: Option<PathBuf>, core: Option<usize>, root: &Path, shards: u32) -> Result<Self> {
        Self::kvorum_with(Newcomer { program, core, more: "" }, root, shards).await
    }

    /// The same, each node with a piece of configuration of the caller's.
    pub async fn kvorum_with(member: Newcomer<'_>, root: &Path, shards: u32) -> Result<Self> {
        let Newcomer { program, core, more } = member;
        let program = program.unwrap_or_else(|| beside("kvd"));
        let directory = TempDir::with_prefix_in("kvload-kvorum-", root)?;
        let ports = free_ports(3 * MEMBERS)?;
        let address = |kind: usize, member: usize| format!("127.0.0.1:{}", ports[kind * MEMBERS + member]);
        let key_file = directory.path().join("cluster.key");
        // A key that others may read is refused.
        let mut key = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&key_file)?;
        key.write_all(format!("{}\n", "5a".repeat(32)).as_bytes())?;
        let mut nodes = format!("[cluster]\nid = \"{}\"\nkey_file = \"{}\"\n\n", "c0".repeat(16), key_file.display());
        for member in 0..MEMBERS {
            let (client, peer) = (address(0, member), address(1, member));
            writeln!(nodes, "[[cluster.nodes]]\nid = {}\nclient = \"{client}\"\npeer = \"{peer}\"\n", member + 1)?;
        }
        let mut cluster = Cluster { members: Vec::new(), endpoints: Vec::new(), metrics: Vec::new(), directory };
        for member in 0..MEMBERS {
            let addresses = [0, 1, 2].map(|kind| address(kind, member));
            let id = member + 1;
            let rest =
                format!("{nodes}[[keyspaces]]\nname = \"load\"\nmode = \"cp\"\nshard_by = \"hash:{shards}\"\n\n{more}");
            cluster.start_kvd(&program, core, addresses, (&format!("id = {id}\n"), &rest), &[])?;
        }
        let target = cluster.target(Transport::Unary);
        cluster.wait("kvd", async || kvorum_is_ready(&target).await).await?;
        Ok(cluster)
    }

    /// Starts one more `kvd`, that joins; returns before it is in.
    pub fn join(&mut self, newcomer: Newcomer<'_>) -> Result<()> {
        let Newcomer { program, core, more } = newcomer;
        let ports = free_ports(3)?;
        let addresses = [0, 1, 2].map(|kind: usize| format!("127.0.0.1:{}", ports[kind]));
        let key_file = self.directory.path().join("cluster.key").to_string_lossy().into_owned();
        let peers = fs::read_to_string(self.directory.path().join("node1.toml"))?;
        let peers: Vec<&str> =
            peers.lines().filter_map(|line| line.strip_prefix("peer = ")).map(|peer| peer.trim_matches('"')).collect();
        let join = ["--join", &peers.join(","), "--cluster-key", &key_file];
        self.start_kvd(&program.unwrap_or_else(|| beside("kvd")), core, addresses, ("", more), &join)
    }

    /// Kills a member, which does not come back: it loses its number in the lists.
    pub fn kill(&mut self, member: usize) -> Result<()> {
        let mut gone = self.members.remove(member);
        self.endpoints.remove(member);
        self.metrics.remove(member);
        let killed = gone.kill();
        gone.wait()?;
        killed.context("the member ended before it was killed")
    }

    /// Starts the next member, at its addresses for clients, peers and people.
    fn start_kvd(
        &mut self,
        program: &Path,
        core: Option<usize>,
        [client, peer, admin]: [String; 3],
        (id, rest): (&str, &str),
        arguments: &[&str],
    ) -> Result<()> {
        let folder = self.directory.path();
        let name = format!("node{}", self.members.len() + 1);
        let config = format!(
            "[node]\n{id}data = \"{}\"\nlisten_client = \"{client}\"\nlisten_peer = \"{peer}\"\nlisten_admin = \
             \"{admin}\"\n\n{rest}",
            folder.join(&name).display(),
        );
        let file = folder.join(format!("{name}.toml"));
        fs::write(&file, config)?;
        let log = folder.join(format!("{name}.log"));
        let file = file.to_string_lossy().into_owned();
        let arguments: Vec<&str> = ["--config", &file].into_iter().chain(arguments.iter().copied()).collect();
        self.members.push(start(program, &arguments, core, &log)?);
        self.endpoints.push(client);
        self.metrics.push(admin);
        Ok(())
    }

    /// Three members of etcd, with its defaults.
    pub async fn etcd(program: Option<PathBuf>, core: Option<usize>, root: &Path) -> Result<Self> {
        let program = program.unwrap_or_else(|| PathBuf::from("etcd"));
        let directory = TempDir::with_prefix_in("kvload-etcd-", root)?;
        let ports = free_ports(2 * MEMBERS)?;
        let client = |member: usize| format!("http://127.0.0.1:{}", ports[member]);
        let peer = |member: usize| format!("http://127.0.0.1:{}", ports[MEMBERS + member]);
        let all: Vec<String> = (0..MEMBERS).map(|member| format!("m{member}={}", peer(member))).collect();
        let mut cluster = Cluster { members: Vec::new(), endpoints: Vec::new(), metrics: Vec::new(), directory };
        for member in 0..MEMBERS {
            let folder = cluster.directory.path();
            let data = folder.join(format!("m{member}")).to_string_lossy().into_owned();
            let name = format!("m{member}");
            let arguments = [
                ("--name", name),
                ("--data-dir", data),
                ("--listen-client-urls", client(member)),
                ("--advertise-client-urls", client(member)),
                ("--listen-peer-urls", peer(member)),
                ("--initial-advertise-peer-urls", peer(member)),
                ("--initial-cluster", all.join(",")),
                ("--initial-cluster-state", "new".to_owned()),
                ("--quota-backend-bytes", (8_u64 << 30).to_string()),
                ("--log-level", "error".to_owned()),
            ];
            let arguments: Vec<&str> = arguments.iter().flat_map(|(name, value)| [*name, value.as_str()]).collect();
            let log = folder.join(format!("m{member}.log"));
            cluster.members.push(start(&program, &arguments, core, &log)?);
            cluster.endpoints.push(client(member).trim_start_matches("http://").to_owned());
        }
        let target = cluster.target(Transport::Etcd);
        cluster.wait("etcd", async || etcd_is_ready(&target).await).await?;
        Ok(cluster)
    }

    /// It as a target.
    pub fn target(&self, transport: Transport) -> Target {
        Target {
            transport,
            endpoints: self.endpoints.clone(),
            keyspace: "load".to_owned(),
            server_pids: self.members.iter().map(Child::id).collect(),
        }
    }

    async fn wait(&mut self, name: &str, is_ready: impl AsyncFn() -> Result<()>) -> Result<()> {
        let until = Instant::now() + READY_MAX;
        loop {
            let why = match is_ready().await {
                Ok(()) => return Ok(()),
                Err(why) => why,
            };
            for (number, member) in self.members.iter_mut().enumerate() {
                if let Some(status) = member.try_wait()? {
                    bail!("{name} {number} ended ({status}); its last words: {}", last_words(self.directory.path()));
                }
            }
            if Instant::now() >= until {
                bail!("{name} was not ready within {READY_MAX:?}: {why:#}");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for member in &mut self.members {
            // One that has ended already is as good.
            let _ = member.kill();
            let _ = member.wait();
        }
    }
}

fn start(program: &Path, arguments: &[&str], core: Option<usize>, log: &Path) -> Result<Child> {
    let output = fs::File::create(log)?;
    let mut command = match core {
        Some(core) => {
            let mut command = Command::new("taskset");
            command.args(["-c", &core.to_string()]).arg(program);
            command
        }
        None => Command::new(program),
    };
    command.args(arguments).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    command.spawn().with_context(|| format!("{} cannot be started: is it installed?", program.display()))
}

fn last_words(directory: &Path) -> String {
    let logs = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let logs = logs.filter(|path| path.extension().is_some_and(|kind| kind == "log"));
    let last = logs.filter_map(|path| fs::read_to_string(path).ok()?.lines().last().map(str::to_owned));
    last.collect::<Vec<_>>().join(" | ")
}

/// Ports that nobody listens on now.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let held = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).collect::<Result<Vec<_>, _>>()?;
    held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
}
