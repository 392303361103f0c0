//! One real node: its place on disk, its process if it runs, what it says of itself.
//!
//! **Invariant.** No process outlives this.

use super::{
    directory::ProcessName,
    fabric::{Addresses, Fabric},
    shim::{Preload, Shim},
};
use anyhow::{Context, Result, bail};
use kvorum_api::proto::{NodeStatusReply, NodeStatusRequest, admin_client::AdminClient};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};
use tonic::transport::{Channel, Endpoint};

/// Where the shim of a node has its files, beside its data.
pub const SHIM: &str = "shim";

const LOOK_EVERY: Duration = Duration::from_millis(25);

/// What a node that is well never needs to answer its readiness.
const READY_ANSWER_MAX: Duration = Duration::from_secs(2);

/// How a node is, as its process shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It serves.
    Ready,
    /// It runs and does not serve; the reason it gives.
    NotReady(String),
    /// Its process ended; its last sentence.
    Ended(String),
}

/// One node.
pub struct Node {
    /// Its number.
    pub number: u64,
    /// Where it listens and is found.
    pub addresses: Addresses,
    directory: PathBuf,
    child: Option<Child>,
    is_paused: bool,
    shim: Result<Shim, String>,
    admin: AdminClient<Channel>,
}

impl Node {
    /// A node that lives in a directory and does not run yet.
    pub fn new(number: u64, directory: PathBuf, addresses: Addresses) -> Result<Self> {
        fs::create_dir_all(&directory).with_context(|| directory.display().to_string())?;
        // Past every fault: what it says of itself must reach us.
        let endpoint = Endpoint::from_shared(format!("http://{}", addresses.watch))?;
        let channel = endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy();
        let shim = Err("the experiment was started without the shim".to_owned());
        let admin = AdminClient::new(channel);
        Ok(Node { number, addresses, directory, child: None, is_paused: false, shim, admin })
    }

    /// Has it started with the shim from now on, if there is one.
    pub fn preload(&mut self, preload: &Preload) -> Result<()> {
        match preload {
            Preload::NotWanted => {}
            Preload::Missing(why) => self.shim = Err(why.clone()),
            Preload::Library { path, is_recording } => {
                self.shim = Ok(Shim::prepare(path, self.directory.join(SHIM), self.data(), *is_recording)?);
            }
        }
        Ok(())
    }

    /// Its shim, or why it has none.
    ///
    /// # Errors
    /// The reason.
    pub fn shim(&self) -> Result<&Shim, String> {
        let shim = self.shim.as_ref().map_err(Clone::clone)?;
        match shim.check() {
            None => Ok(shim),
            Some(why) => Err(format!("n{}: {why}", self.number)),
        }
    }

    /// Ends whatever its shim does wrong.
    pub fn heal_shim(&self) -> Result<()> {
        self.shim.as_ref().map_or(Ok(()), Shim::heal)
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Writes its configuration: `[node]`, then `rest`.
    pub fn configure(&self, rest: &str) -> Result<()> {
        let Addresses { listen_client, listen_peer, listen_admin, .. } = self.addresses;
        let is_loopback = [listen_client, listen_peer, listen_admin].iter().all(|listens| listens.ip().is_loopback());
        let text = format!(
            "[node]\nid = {}\ndata = \"{}\"\nlisten_client = \"{listen_client}\"\nlisten_peer = \"{listen_peer}\"\n\
             listen_admin = \"{listen_admin}\"\ninsecure = {}\n\n{rest}",
            self.number,
            self.data().display(),
            !is_loopback,
        );
        Ok(fs::write(self.directory.join("node.toml"), text)?)
    }

    /// Starts its process and gives its name.
    pub fn start(&mut self, fabric: &dyn Fabric, kvd: &Path) -> Result<ProcessName> {
        assert!(self.child.is_none(), "a node has one process");
        let log = File::options().create(true).append(true).open(self.log())?;
        let mut command = fabric.command(self.number, kvd);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KV__")) {
            command.env_remove(name);
        }
        command.arg("--config").arg(self.directory.join("node.toml"));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Ok(shim) = &self.shim {
            shim.dress(&mut command)?;
        }
        let mut child = command.spawn().with_context(|| format!("{} cannot be started", kvd.display()))?;
        fabric.started(self.number, child.id());
        let Some(name) = ProcessName::of(child.id()) else {
            let _ = child.wait();
            bail!("n{} ended at once: {}", self.number, self.last_words());
        };
        self.child = Some(child);
        self.is_paused = false;
        Ok(name)
    }

    /// Ends its process as a crash would, and sees that it is gone. `false` = it did not run.
    pub fn kill(&mut self) -> Result<bool> {
        let Some(mut child) = self.child.take() else { return Ok(false) };
        self.is_paused = false;
        child.kill()?;
        child.wait()?;
        Ok(true)
    }

    /// Stops its time, or lets it go on. `false` = it does not run.
    pub fn pause(&mut self, is_paused: bool) -> Result<bool> {
        let Some(child) = self.child.as_ref().filter(|_| self.is_running()) else { return Ok(false) };
        kill_process(Pid::from_child(child), if is_paused { Signal::STOP } else { Signal::CONT })?;
        self.is_paused = is_paused;
        Ok(true)
    }

    /// Whether its process is there.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.child.as_ref().is_some_and(|child| ProcessName::of(child.id()).is_some())
    }

    /// Whether its time stands still.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        self.is_paused
    }

    /// Waits until it serves or ends, at most this long.
    pub async fn readiness(&mut self, patience: Duration) -> Readiness {
        let until = Instant::now() + patience;
        loop {
            if !self.is_running() {
                return Readiness::Ended(self.last_words());
            }
            let answer = http_get(self.addresses.listen_admin, "/readyz").await;
            let why = match answer {
                Some((200, _)) => return Readiness::Ready,
                Some((_, why)) => why,
                None => "it does not answer".to_owned(),
            };
            if Instant::now() >= until {
                return Readiness::NotReady(why);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Whether it says that it promises nothing more until it is started again.
    pub async fn is_poisoned(&mut self) -> bool {
        matches!(self.readiness(Duration::ZERO).await, Readiness::NotReady(why) if why.contains("poisoned"))
    }

    /// Asks it how it is, without waiting for this borrow.
    #[must_use]
    pub fn asking(&self) -> AdminClient<Channel> {
        self.admin.clone()
    }

    fn log(&self) -> PathBuf {
        self.directory.join("kvd.log")
    }

    /// The sentence it ended with, or its last line.
    #[must_use]
    pub fn last_words(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let words = log.lines().rev().find(|line| line.starts_with("kvd: "));
        words.or_else(|| log.lines().last()).unwrap_or("it said nothing").to_owned()
    }

    /// Lines of its log that no node should ever write.
    #[must_use]
    pub fn panics(&self) -> Vec<String> {
        let log = fs::read(self.log()).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        log.lines().filter(|line| line.contains("panicked at")).map(str::to_owned).collect()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.kill();
    }
}

/// Asks a node how it is; `None` = it does not say in time.
pub async fn status(mut admin: AdminClient<Channel>, patience: Duration) -> Option<NodeStatusReply> {
    let answer = timeout(patience, admin.node_status(NodeStatusRequest {})).await.ok()?;
    answer.ok().map(tonic::Response::into_inner)
}

/// One HTTP request; `None` = nobody answers.
async fn http_get(address: SocketAddr, page: &str) -> Option<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET {page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.ok()?;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    };
    timeout(READY_ANSWER_MAX, exchange).await.ok()?
}
