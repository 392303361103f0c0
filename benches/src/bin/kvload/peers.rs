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
    /// Its data and logs; removed with it.
    directory: TempDir,
}

impl Cluster {
    /// Three `kvd` with one keyspace `load` of `shards` shards.
    pub async fn kvorum(program: Option<PathBuf>, core: Option<usize>, root: &Path, shards: u32) -> Result<Self> {
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
        let mut cluster = Cluster { members: Vec::new(), endpoints: Vec::new(), directory };
        for member in 0..MEMBERS {
            let folder = cluster.directory.path();
            let config = format!(
                "[node]\nid = {}\ndata = \"{}\"\nlisten_client = \"{}\"\nlisten_peer = \"{}\"\nlisten_admin = \"{}\"\n\n\
                 {nodes}[[keyspaces]]\nname = \"load\"\nmode = \"cp\"\nshard_by = \"hash:{shards}\"\n",
                member + 1,
                folder.join(format!("node{}", member + 1)).display(),
                address(0, member),
                address(1, member),
                address(2, member),
            );
            let file = folder.join(format!("node{}.toml", member + 1));
            fs::write(&file, config)?;
            let log = folder.join(format!("node{}.log", member + 1));
            let file = file.to_string_lossy().into_owned();
            cluster.members.push(start(&program, &["--config", &file], core, &log)?);
            cluster.endpoints.push(address(0, member));
        }
        let target = cluster.target(Transport::Unary);
        cluster.wait("kvd", async || kvorum_is_ready(&target).await).await?;
        Ok(cluster)
    }

    /// Three members of etcd, with its defaults.
    pub async fn etcd(program: Option<PathBuf>, core: Option<usize>, root: &Path) -> Result<Self> {
        let program = program.unwrap_or_else(|| PathBuf::from("etcd"));
        let directory = TempDir::with_prefix_in("kvload-etcd-", root)?;
        let ports = free_ports(2 * MEMBERS)?;
        let client = |member: usize| format!("http://127.0.0.1:{}", ports[member]);
        let peer = |member: usize| format!("http://127.0.0.1:{}", ports[MEMBERS + member]);
        let all: Vec<String> = (0..MEMBERS).map(|member| format!("m{member}={}", peer(member))).collect();
        let mut cluster = Cluster { members: Vec::new(), endpoints: Vec::new(), directory };
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
