//! One real node: its place on disk, its process if it runs, what it says of itself.
//!
//! **Invariant.** No process outlives this. One that ended although nobody ended it, or that promised nothing more, is
//! noted as a [`Downfall`], whoever starts it again.

use super::{
    directory::ProcessName,
    fabric::{Addresses, Fabric},
    seats::{Seat, Seats},
    shim::{Preload, Shim},
};
use anyhow::{Context, Result};
use kvorum_api::proto::{NodeStatusReply, NodeStatusRequest, admin_client::AdminClient};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    collections::BTreeSet,
    fs::{self, File},
    net::SocketAddr,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
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

/// What it writes into its log when it promises nothing more.
const POISONED: &str = "the journal is poisoned";

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

/// A process that ended although nobody ended it, or promised nothing more until it was started again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downfall {
    /// Whose.
    pub node: u64,
    /// How it ended, and its last words.
    pub how: String,
    /// What was done to it since its last start that lets it; `None` = nothing does.
    pub excuse: Option<String>,
}

impl Downfall {
    /// For people.
    #[must_use]
    pub fn sentence(&self) -> String {
        let excuse = self.excuse.as_ref().map(|excuse| format!("; as it may: {excuse}")).unwrap_or_default();
        format!("n{} {}{excuse}", self.node, self.how)
    }
}

/// Whether a node takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Its machine waits to be let in.
    Waiting,
    /// It takes part.
    Member,
    /// It is gone for good.
    Gone,
}

/// One node.
pub struct Node {
    /// Its number.
    pub number: u64,
    /// Where it listens and is found.
    pub addresses: Addresses,
    directory: PathBuf,
    standing: Standing,
    /// Whom it asks to be let in; nobody = it is a founder.
    asks: Vec<SocketAddr>,
    child: Option<Child>,
    is_paused: bool,
    is_held_down: bool,
    seats: Seats,
    /// What was done to it since its last start that lets it end by itself.
    excuses: BTreeSet<&'static str>,
    /// What was done to its disk since it went down.
    spoiled: Option<&'static str>,
    downfalls: Vec<Downfall>,
    /// Whether one of them is of its present process.
    is_fallen: bool,
    /// How long its log was when it was last started.
    log_bytes: usize,
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
        Ok(Node {
            number,
            addresses,
            directory,
            standing: Standing::Member,
            asks: Vec::new(),
            child: None,
            is_paused: false,
            is_held_down: false,
            seats: Seats::default(),
            excuses: BTreeSet::new(),
            spoiled: None,
            downfalls: Vec::new(),
            is_fallen: false,
            log_bytes: 0,
            shim,
            admin,
        })
    }

    /// It waits until it is started, and then asks these nodes to be let in.
    pub fn wait_for(&mut self, asks: Vec<SocketAddr>) {
        (self.standing, self.asks) = (Standing::Waiting, asks);
    }

    /// Whether it takes part.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// From now on it takes part, or never again.
    pub fn set_standing(&mut self, standing: Standing) {
        self.standing = standing;
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

    /// Whether no fault uses that of it; otherwise `n2's clock is already wrong`.
    ///
    /// # Errors
    /// That sentence.
    pub fn is_free(&self, seat: Seat) -> Result<(), String> {
        self.seats.is_free(seat).map_err(|taken| format!("n{}'s {taken}", self.number))
    }

    /// Takes what is free.
    pub fn take(&mut self, seat: Seat) {
        self.seats.take(seat);
        self.excuses.extend(seat.excuse());
    }

    /// Gives it back.
    pub fn release(&mut self, seat: Seat) {
        self.seats.release(seat);
    }

    /// Something was done to what it has on disk while it was down: once started, it may end for that.
    pub fn excuse(&mut self, reason: &'static str) {
        self.spoiled = Some(reason);
    }

    /// Ends whatever its shim does wrong, whoever wanted it.
    pub fn heal_shim(&mut self) -> Result<()> {
        self.seats.clear();
        self.shim.as_ref().map_or(Ok(()), Shim::heal)
    }

    /// Its data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    /// Writes its configuration: `[node]`, then `rest`.
    pub fn configure(&self, rest: &str) -> Result<()> {
        let Addresses { listen_client, listen_peer, listen_admin, client, peer, .. } = self.addresses;
        let is_loopback = [listen_client, listen_peer, listen_admin].iter().all(|listens| listens.ip().is_loopback());
        let text = format!(
            "[node]\n{}data = \"{}\"\nlisten_client = \"{listen_client}\"\nlisten_peer = \"{listen_peer}\"\n\
             listen_admin = \"{listen_admin}\"\ninsecure = {}\n\n{rest}",
            // Who is let in is given its number, and must say itself where it is found.
            match self.asks.is_empty() {
                true => format!("id = {}\n", self.number),
                false => format!("advertise_client = \"{client}\"\nadvertise_peer = \"{peer}\"\n"),
            },
            self.data().display(),
            !is_loopback,
        );
        Ok(fs::write(self.directory.join("node.toml"), text)?)
    }

    /// Starts its process and gives its name; `None` = it ended at once, which is noted.
    pub fn start(&mut self, fabric: &dyn Fabric, kvd: &Path) -> Result<Option<ProcessName>> {
        assert!(self.child.is_none(), "a node has one process");
        let log = File::options().create(true).append(true).open(self.log())?;
        self.log_bytes = usize::try_from(log.metadata()?.len())?;
        let mut command = fabric.command(self.number, kvd);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("KV__")) {
            command.env_remove(name);
        }
        command.arg("--config").arg(self.directory.join("node.toml"));
        command.args(self.asks.iter().flat_map(|asks| ["--join".to_owned(), asks.to_string()]));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        if let Ok(shim) = &self.shim {
            shim.dress(&mut command)?;
        }
        let child = command.spawn().with_context(|| format!("{} cannot be started", kvd.display()))?;
        fabric.started(self.number, child.id());
        let name = ProcessName::of(child.id());
        self.child = Some(child);
        self.is_paused = false;
        self.is_fallen = false;
        self.excuses = self.seats.excuses().chain(self.spoiled.take()).collect();
        self.look()?;
        Ok(name)
    }

    /// Ends its process as a crash would, and sees that it is gone. `false` = it did not run.
    pub fn kill(&mut self) -> Result<bool> {
        let is_struck = self.strike()?;
        self.bury()?;
        Ok(is_struck)
    }

    /// Ends its process as a crash would, without waiting until it is gone. `false` = it did not run.
    pub fn strike(&mut self) -> Result<bool> {
        self.look()?;
        let Some(child) = &mut self.child else { return Ok(false) };
        child.kill()?;
        Ok(true)
    }

    /// Waits until the process that was struck is gone.
    pub fn bury(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        self.is_paused = false;
        let status = child.wait()?;
        if status.signal() != Some(Signal::KILL.as_raw()) {
            self.ended(status);
        } else if let Some(line) = self.said(POISONED).filter(|_| !self.is_fallen) {
            // Nobody had asked it yet.
            self.fell(format!("promised nothing more when it was killed: {line}"));
        }
        Ok(())
    }

    /// Ends its process as an operator would, who has only so much patience. `false` = that ended first: it was killed.
    pub async fn stop_in_order(&mut self, patience: Duration) -> Result<bool> {
        self.look()?;
        let Some(child) = self.child.as_mut() else { return Ok(true) };
        kill_process(Pid::from_child(child), Signal::TERM)?;
        let until = Instant::now() + patience;
        while Instant::now() < until {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                if !status.success() {
                    self.ended(status);
                }
                return Ok(true);
            }
            sleep(LOOK_EVERY).await;
        }
        self.kill().map(|_| false)
    }

    /// Notes its process if it ended and nobody ended it.
    pub fn look(&mut self) -> Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        if let Some(status) = child.try_wait()? {
            self.child = None;
            self.is_paused = false;
            self.ended(status);
        }
        Ok(())
    }

    fn ended(&mut self, status: ExitStatus) {
        let how = format!("ended by itself ({status}): {}", self.last_words());
        // Whatever was done to it lets it end with a sentence, not crash.
        match status.signal() {
            Some(_) => self.accuse(how),
            None => self.fell(how),
        }
    }

    /// Notes something that nothing lets it do.
    pub fn accuse(&mut self, how: String) {
        self.is_fallen = true;
        self.downfalls.push(Downfall { node: self.number, how, excuse: None });
    }

    fn fell(&mut self, how: String) {
        let excuses: Vec<&str> = self.excuses.iter().copied().collect();
        let excuse = (!excuses.is_empty()).then(|| excuses.join(", "));
        self.is_fallen = true;
        self.downfalls.push(Downfall { node: self.number, how, excuse });
    }

    /// How its processes fell, so far.
    #[must_use]
    pub fn downfalls(&self) -> &[Downfall] {
        &self.downfalls
    }

    /// A fault wants it to stay down, or no longer.
    pub fn hold_down(&mut self, is_held_down: bool) {
        self.is_held_down = is_held_down;
    }

    /// Whether a fault wants it to stay down.
    #[must_use]
    pub fn is_held_down(&self) -> bool {
        self.is_held_down
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

    /// Whether it says that it promises nothing more until it is started again; that is noted.
    pub async fn is_poisoned(&mut self) -> bool {
        match self.readiness(Duration::ZERO).await {
            Readiness::NotReady(why) if why.contains("poisoned") => {
                self.fell(format!("promises nothing more: {}", why.trim()));
                true
            }
            Readiness::NotReady(_) | Readiness::Ready | Readiness::Ended(_) => false,
        }
    }

    /// Asks it how it is, without waiting for this borrow.
    #[must_use]
    pub fn asking(&self) -> AdminClient<Channel> {
        self.admin.clone()
    }

    fn log(&self) -> PathBuf {
        self.directory.join("kvd.log")
    }

    /// The sentence it ended with, or its last line, since it was last started.
    #[must_use]
    pub fn last_words(&self) -> String {
        let log = self.log_since_start();
        let words = log.lines().rev().find(|line| line.starts_with("kvd: "));
        words.or_else(|| log.lines().last()).unwrap_or("it said nothing").to_owned()
    }

    fn log_since_start(&self) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        String::from_utf8_lossy(log.get(self.log_bytes..).unwrap_or_default()).into_owned()
    }

    /// The first line with these words since it was last started.
    #[must_use]
    pub fn said(&self, words: &str) -> Option<String> {
        self.log_since_start().lines().find(|line| line.contains(words)).map(str::to_owned)
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

#[cfg(test)]
#[path = "node_tests.rs"]
mod tests;
