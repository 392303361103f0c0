//! A cluster of real nodes, from the first start to the last word.
//!
//! ```text
//!   Cluster ── Node 1 ─ n1/ ─ node.toml ─ data ─ kvd.log ─ process ┐
//!           ├─ Node 2 …                                            ├─ all links through the fabric
//!           └─ Node 3 …                                            ┘
//! ```
//!
//! **Invariant.** What a node is told of the others is what the fabric says, so that every byte between them can be
//! stopped.

use super::{
    affairs::{Affairs, endings},
    directory::RunDirectory,
    fabric::Fabric,
    node::{Node, Readiness, Standing},
    observer::Observer,
    people,
    seats::Seat,
    shim::Preload,
};
use anyhow::{Context, Result, bail};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// What only a broken node needs longer for.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long what people asked for may still take once everything is whole.
const REST_PATIENCE: Duration = Duration::from_secs(120);

/// A keyspace of one shard, keys in order.
pub const ORDERED: &str = "ordered";

/// A keyspace of several shards.
pub const SPREAD: &str = "spread";

/// How many.
pub const SPREAD_SHARDS: u32 = 4;

/// Nodes that know each other.
pub struct Cluster {
    /// By number, from 1.
    pub nodes: Vec<Node>,
    /// What connects them.
    pub fabric: Arc<dyn Fabric>,
    /// Who leads.
    pub observer: Observer,
    /// What people asked of it.
    pub affairs: Affairs,
    kvd: PathBuf,
    directory: RunDirectory,
}

impl Cluster {
    /// Starts the founders, and waits until all are ready and every shard is led; those who join wait until they are
    /// started. The fabric was made for both.
    pub async fn start(
        directory: RunDirectory,
        fabric: Arc<dyn Fabric>,
        program: (&Path, &Preload),
        (founders, joiners): (u64, u64),
        has_leases: bool,
    ) -> Result<Self> {
        let (kvd, preload) = program;
        let kvd = kvd.canonicalize().with_context(|| kvd.display().to_string())?;
        let key = directory.path().join("cluster.key");
        let made = Command::new(&kvd).arg("--new-cluster-key").arg(&key).output();
        let made = made.with_context(|| format!("{} cannot be started", kvd.display()))?;
        if !made.status.success() {
            bail!("{} makes no cluster key: {}", kvd.display(), String::from_utf8_lossy(&made.stderr).trim());
        }
        let place = |number: u64| directory.path().join(format!("n{number}"));
        let nodes = (1..=founders + joiners).map(|number| Node::new(number, place(number), fabric.addresses(number)));
        let mut nodes = nodes.collect::<Result<Vec<_>>>()?;
        nodes.iter_mut().try_for_each(|node| node.preload(preload))?;
        let (founding, joining) = configurations(&nodes[..founders as usize], &key, has_leases);
        let asks: Vec<SocketAddr> = nodes[..founders as usize].iter().map(|node| node.addresses.peer).collect();
        nodes[founders as usize..].iter_mut().for_each(|node| node.wait_for(asks.clone()));
        for node in &nodes {
            node.configure(if node.standing() == Standing::Waiting { &joining } else { &founding })?;
        }
        let observer = Observer::start(nodes.iter().map(Node::asking).collect());
        let mut cluster = Cluster { nodes, fabric, observer, affairs: Affairs::default(), kvd, directory };
        for number in 1..=founders {
            cluster.launch(number)?;
        }
        for number in 1..=founders {
            match cluster.node(number).readiness(PATIENCE).await {
                Readiness::Ready => {}
                Readiness::NotReady(why) => bail!("n{number} does not get ready: {why}"),
                Readiness::Ended(words) => bail!("n{number} ended instead of getting ready: {words}"),
            }
        }
        cluster.until_led().await?;
        Ok(cluster)
    }

    /// The node of that number.
    pub fn node(&mut self, number: u64) -> &mut Node {
        &mut self.nodes[number as usize - 1]
    }

    /// All numbers.
    #[must_use]
    pub fn numbers(&self) -> Vec<u64> {
        self.nodes.iter().map(|node| node.number).collect()
    }

    /// Those that take part.
    #[must_use]
    pub fn members(&self) -> Vec<u64> {
        let members = self.nodes.iter().filter(|node| node.standing() == Standing::Member);
        members.map(|node| node.number).collect()
    }

    /// Where clients dial each node.
    #[must_use]
    pub fn endpoints(&self) -> Vec<String> {
        let there = self.nodes.iter().filter(|node| node.standing() != Standing::Waiting);
        there.map(|node| node.addresses.client.to_string()).collect()
    }

    /// Starts a node's process, unless it runs (another fault that ended meanwhile may have started it), or a fault
    /// holds it down.
    pub fn launch(&mut self, number: u64) -> Result<()> {
        let (fabric, kvd) = (self.fabric.clone(), self.kvd.clone());
        let node = self.node(number);
        if node.is_running() || node.is_held_down() || node.standing() != Standing::Member {
            return Ok(());
        }
        node.look()?;
        match node.start(fabric.as_ref(), &kvd)? {
            Some(process) => self.directory.note(process),
            None => Ok(()),
        }
    }

    /// Kills these as the failure of one machine's power would: all, before any of them is waited for, so that none
    /// hears of another's end. They stay down until brought back. Gives those that ran.
    pub fn bring_down(&mut self, numbers: &[u64]) -> Result<Vec<u64>> {
        let mut struck = Vec::new();
        for number in numbers {
            if self.node(*number).strike()? {
                struck.push(*number);
            }
        }
        for number in &struck {
            let node = self.node(*number);
            node.bury()?;
            node.hold_down(true);
        }
        Ok(struck)
    }

    /// Starts those that were brought down.
    pub fn bring_back(&mut self, numbers: &[u64]) -> Result<()> {
        for number in numbers {
            self.node(*number).hold_down(false);
            self.launch(*number)?;
        }
        Ok(())
    }

    /// Takes the same of all these nodes, or of none: then why.
    ///
    /// # Errors
    /// `n2's clock is already wrong`.
    pub fn take(&mut self, numbers: &[u64], seat: Seat) -> Result<(), String> {
        for number in numbers {
            self.node(*number).is_free(seat)?;
        }
        numbers.iter().for_each(|number| self.node(*number).take(seat));
        Ok(())
    }

    /// Notes who ended by itself or promises nothing more.
    pub async fn look(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            node.look()?;
            // What it says is noted; nobody starts it again.
            let _ = node.is_poisoned().await;
        }
        Ok(())
    }

    /// The node that leads the one shard of [`ORDERED`], as last heard.
    #[must_use]
    pub fn leader(&self) -> Option<u64> {
        self.observer.leaders().get(&1).copied()
    }

    /// Where the run lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    async fn until_led(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        let shards = 1 + SPREAD_SHARDS as usize;
        while self.observer.leaders().len() < shards {
            if Instant::now() > until {
                let led: Vec<u64> = self.observer.leaders().into_keys().collect();
                bail!("after {} s only the shards {led:?} of {shards} have a leader", PATIENCE.as_secs());
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Starts a node anew if it ended or promises nothing more, as its operator would once the disk is well again,
    /// unless a fault holds it down. Says whether it had to.
    pub async fn revive(&mut self, number: u64) -> Result<bool> {
        let node = self.node(number);
        let is_out = node.is_held_down() || node.standing() != Standing::Member;
        if is_out || node.is_running() && !node.is_poisoned().await {
            return Ok(false);
        }
        self.node(number).kill()?;
        self.launch(number)?;
        Ok(true)
    }

    /// Undoes everything: links whole, disks and clocks well, time running, processes up. Says which nodes do not come
    /// back, and why.
    pub async fn heal(&mut self) -> Result<Vec<String>> {
        self.fabric.heal();
        let mut gone = Vec::new();
        for number in self.numbers() {
            let node = self.node(number);
            if node.is_paused() {
                node.pause(false)?;
            }
            self.node(number).heal_shim()?;
            self.bring_back(&[number])?;
        }
        for number in self.numbers() {
            self.revive(number).await?;
        }
        for number in self.members() {
            match self.node(number).readiness(PATIENCE).await {
                Readiness::Ready => {}
                Readiness::NotReady(why) => gone.push(format!("n{number} does not get ready again: {why}")),
                Readiness::Ended(words) => gone.push(format!("n{number} ended: {words}")),
            }
        }
        gone.append(&mut self.affairs.complaints);
        if self.affairs.is_changed {
            if gone.is_empty() {
                gone.extend(self.settle().await.err());
            }
            match people::all_operators(self, REST_PATIENCE).await {
                Ok(listed) => self.affairs.endings = endings(&self.affairs.asked, &listed),
                Err(why) => gone.push(format!("nobody says how the operators ended: {why}")),
            }
        }
        Ok(gone)
    }

    /// People get what they wanted, and all that was asked for comes to its end.
    async fn settle(&mut self) -> Result<(), String> {
        // Who is taken back makes room for what a lost one held.
        self.affairs.wanted.sort_by_key(|(node, state)| (*state, *node));
        for (node, state) in std::mem::take(&mut self.affairs.wanted) {
            let given = people::insist(self, node, state, REST_PATIENCE).await;
            given.map_err(|why| format!("n{node} should be {state}: {why}"))?;
        }
        people::until_settled(self, REST_PATIENCE).await
    }
}

/// Everything but `[node]`, of founders and of those who join: small files, shards that stay open so that they have a
/// leader to attack, and a lost node is replaced while the experiment lasts.
fn configurations(nodes: &[Node], key: &Path, has_leases: bool) -> (String, String) {
    // Any number that other runs do not have at the same time.
    let cluster = u128::from(std::process::id()) << 64 | u128::from(nodes[0].addresses.peer.port());
    let mut text = format!(
        "[storage]\njournal_segment = \"34MiB\"\nballast = \"0B\"\nlow_water = \"1MiB\"\n\n[raft]\n\
         idle_close_after = \"0s\"\n\n[balance]\nreplace_after = \"20s\"\n\n[log]\nformat = \"text\"\n\n[cluster]\nid = \"{cluster:032x}\"\nkey_file = \"{}\"\n",
        key.display()
    );
    let joining = text.clone();
    for node in nodes {
        let (client, peer) = (node.addresses.client, node.addresses.peer);
        text.push_str(&format!(
            "\n[[cluster.nodes]]\nid = {}\nclient = \"{client}\"\npeer = \"{peer}\"\n",
            node.number
        ));
    }
    text.push_str(&format!("\n[[keyspaces]]\nname = \"{ORDERED}\"\nleases = {has_leases}\n"));
    text.push_str(&format!(
        "\n[[keyspaces]]\nname = \"{SPREAD}\"\nshard_by = \"hash:{SPREAD_SHARDS}\"\nleases = {has_leases}\n"
    ));
    (text, joining)
}

/// The program `kvd`: as told, or beside this one.
pub fn find_kvd(told: Option<&Path>) -> Result<PathBuf> {
    let (path, how) = match told {
        Some(path) => (path.to_owned(), "name the program with --kvd"),
        None => {
            let here = std::env::current_exe().context("this program cannot tell where it lies")?;
            let here = here.canonicalize().unwrap_or(here);
            (
                here.with_file_name("kvd"),
                "build it with `cargo build -p kvorum-server --bin kvd`, or name one with --kvd",
            )
        }
    };
    match path.is_file() {
        true => Ok(path),
        false => bail!("there is no kvd at {}: {how}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_not_there_is_told_where_it_should_be() {
        let refused = find_kvd(Some(Path::new("/nowhere/kvd"))).unwrap_err().to_string();
        assert_eq!(refused, "there is no kvd at /nowhere/kvd: name the program with --kvd");
    }
}
