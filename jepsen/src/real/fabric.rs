//! What connects real nodes and clients, and may be broken.
//!
//! ```text
//!   Clients ──▶ Node 1 ◀──▶ Node 2          a link has a direction: End ─▶ End
//!      └──────▶ Node 3 ◀──────┘             each is open, cut, or has weather
//! ```
//!
//! **Invariant.** Whatever a fabric did to a link is undone by [`Fabric::heal`], and what it counts really happened.
//!
//! **Deliberately absent.** Processes: who starts and stops nodes is [`super::cluster`].

use super::{
    loopback::LoopbackProxies,
    namespace::{Host, Namespaces},
};
use anyhow::{Result, bail};
use clap::ValueEnum;
use std::{collections::BTreeMap, fmt, net::SocketAddr, path::Path, process::Command, sync::Arc, time::Duration};

/// Who sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// All clients, and whoever looks at the nodes from outside.
    Clients,
    /// A node, by its number.
    Node(u64),
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Clients => f.write_str("clients"),
            End::Node(node) => write!(f, "n{node}"),
        }
    }
}

/// One direction between two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    /// Who sends.
    pub from: End,
    /// Who receives.
    pub to: End,
}

impl Link {
    /// From one node to another.
    #[must_use]
    pub fn between(from: u64, to: u64) -> Self {
        Link { from: End::Node(from), to: End::Node(to) }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}→{}", self.from, self.to)
    }
}

/// What a link does to what it carries.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Weather {
    /// Added to every message.
    pub delay: Duration,
    /// Added on top, between nothing and this.
    pub jitter: Duration,
    /// Of a hundred messages so many are lost.
    pub loss_percent: f64,
    /// Of a hundred messages so many arrive twice.
    pub duplicate_percent: f64,
    /// Of a hundred messages so many are held back, so that later ones overtake them.
    pub reorder_percent: f64,
}

/// Where a node listens, and where others find it.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Where its client door listens.
    pub listen_client: SocketAddr,
    /// Where its peer door listens.
    pub listen_peer: SocketAddr,
    /// Where its admin door listens. Its readiness is asked here, past every fault.
    pub listen_admin: SocketAddr,
    /// Where clients dial it.
    pub client: SocketAddr,
    /// Where nodes dial it.
    pub peer: SocketAddr,
    /// Its client door for whoever looks at it from outside, past every fault.
    pub watch: SocketAddr,
}

/// What a link has carried and what was done to it, since the fabric was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes that arrived.
    pub passed_bytes: u64,
    /// Bytes that were held back by a cut; they may have gone on later.
    pub held_bytes: u64,
    /// Bytes that never arrived.
    pub dropped_bytes: u64,
    /// Messages delayed or lost by weather.
    pub disturbed: u64,
    /// Connections that were broken: by the fabric, or by a reset that it carried.
    pub resets: u64,
    /// Messages that were made two.
    pub duplicated: u64,
    /// Messages that arrived after one that was sent later.
    pub overtaken: u64,
}

impl Carried {
    /// What was added since an earlier look.
    #[must_use]
    pub fn since(&self, earlier: &Carried) -> Carried {
        Carried {
            passed_bytes: self.passed_bytes - earlier.passed_bytes,
            held_bytes: self.held_bytes - earlier.held_bytes,
            dropped_bytes: self.dropped_bytes - earlier.dropped_bytes,
            disturbed: self.disturbed - earlier.disturbed,
            resets: self.resets - earlier.resets,
            duplicated: self.duplicated - earlier.duplicated,
            overtaken: self.overtaken - earlier.overtaken,
        }
    }

    /// Adds another link's.
    pub fn add(&mut self, other: &Carried) {
        self.passed_bytes += other.passed_bytes;
        self.held_bytes += other.held_bytes;
        self.dropped_bytes += other.dropped_bytes;
        self.disturbed += other.disturbed;
        self.resets += other.resets;
        self.duplicated += other.duplicated;
        self.overtaken += other.overtaken;
    }
}

/// What is known of every link, by link.
pub type Observed = BTreeMap<Link, Carried>;

/// A network between nodes and clients that can be broken link by link.
pub trait Fabric: Send + Sync {
    /// What it is called in reports.
    fn name(&self) -> &'static str;

    /// What a real network does that this one cannot, for the report; `None` = nothing that matters.
    fn is_weaker_because(&self) -> Option<String>;

    /// Why there can be no such weather here; `None` = there can.
    fn cannot(&self, weather: &Weather) -> Option<String>;

    /// Where a node listens and is found. Only asked for nodes the fabric was made for.
    fn addresses(&self, node: u64) -> Addresses;

    /// How to start a program in a node's place.
    fn command(&self, node: u64, program: &Path) -> Command;

    /// A node's process runs now under this id.
    fn started(&self, node: u64, process_id: u32);

    /// Nothing gets through from one end to the other, until mended as often as it was cut: faults may overlap. The
    /// other direction is left as it is.
    fn cut(&self, link: Link);

    /// Undoes one cut.
    fn mend(&self, link: Link);

    /// What gets through does so with this weather from now on.
    fn degrade(&self, link: Link, weather: Weather);

    /// Every link is as it was at the beginning.
    fn heal(&self);

    /// What every link has carried so far.
    fn observed(&self) -> Observed;
}

/// Which network an experiment asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// Namespaces if this machine lets us, proxies otherwise, and the report says why.
    #[default]
    Auto,
    /// Network namespaces, or no run at all.
    Namespaces,
    /// Proxies on loopback.
    Proxies,
}

/// A fabric, and why it is not the stronger one.
pub struct Made {
    /// The fabric.
    pub fabric: Arc<dyn Fabric>,
    /// Why it is proxies although namespaces would have been taken.
    pub instead_because: Option<String>,
}

/// Makes a fabric for nodes numbered from 1.
///
/// # Errors
/// What was asked for cannot be had here: what is missing, and what to do.
pub async fn make(choice: Choice, nodes: u64, seed: u64) -> Result<Made> {
    make_on(&Host::here(), choice, nodes, seed).await
}

async fn make_on(host: &Host, choice: Choice, nodes: u64, seed: u64) -> Result<Made> {
    let refused = match choice {
        Choice::Proxies => None,
        Choice::Auto | Choice::Namespaces => match Namespaces::start(host, nodes, seed) {
            Ok(namespaces) => return Ok(Made { fabric: Arc::new(namespaces), instead_because: None }),
            Err(refused) => Some(refused),
        },
    };
    if let (Choice::Namespaces, Some(refused)) = (choice, &refused) {
        bail!("no network of namespaces: {refused:#}; or take `--network proxies`, a weaker network");
    }
    let fabric = Arc::new(LoopbackProxies::start(nodes, seed).await?);
    Ok(Made { fabric, instead_because: refused.map(|refused| format!("{refused:#}")) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_carried_meanwhile_is_a_difference() {
        let earlier = Carried { passed_bytes: 5, held_bytes: 1, ..Carried::default() };
        let now = Carried { passed_bytes: 9, held_bytes: 1, resets: 2, ..Carried::default() };
        assert_eq!(now.since(&earlier), Carried { passed_bytes: 4, resets: 2, ..Carried::default() });
        assert_eq!(Link::between(1, 2).to_string(), "n1→n2");
    }

    #[tokio::test]
    async fn without_the_right_to_namespaces_proxies_step_in_and_say_why_unless_that_was_ruled_out() {
        let host = Host { is_root: false, ..Host::here() };
        let made = make_on(&host, Choice::Auto, 3, 1).await.unwrap();
        assert_eq!(made.fabric.name(), "loopback proxies");
        assert!(made.instead_because.unwrap().contains("need root"));
        let refused = make_on(&host, Choice::Namespaces, 3, 1).await.err().unwrap().to_string();
        assert!(refused.contains("need root") && refused.contains("--network proxies"), "{refused}");
        let made = make_on(&host, Choice::Proxies, 3, 1).await.unwrap();
        assert_eq!(made.instead_because, None, "that is what was asked for");
    }
}
