//! Network namespaces: every node has a network of its own, and every packet goes through this process.
//!
//! ```text
//!   namespace of node 1 ─ TUN ─┐
//!   namespace of node 2 ─ TUN ─┤ switch (switch.rs), fed by carrier.rs ├─ TUN ─ clients, in the harness' own namespace
//!   namespace of node 3 ─ TUN ─┘
//! ```
//!
//! Clients stay where the harness is: they are this process, which can be in one namespace only, and whoever watches
//! nodes needs the way to them as well. A device with an address of the subnet is all they need.
//!
//! Each device has two addresses ([`subnets`]). Nodes and clients talk on the attacked subnet. Readiness and status are
//! asked on the watched one, whose packets the switch passes whatever happens: a fault never hides what a node is like.
//!
//! **Invariant.** Nothing of this outlives the fabric: namespaces are deleted by name, devices go with whoever holds
//! them open. What a killed harness leaves is found by its mark ([`leftovers`]).
//!
//! **Deliberately absent.** Bandwidth: a link takes what two cores can carry. Name resolution: addresses only.

mod carrier;
mod host;
mod leftovers;
mod packet;
mod subnets;
mod switch;

use super::{
    directory::ProcessName,
    fabric::{Addresses, End, Fabric, Link, Observed, Weather},
};
use anyhow::{Context, Result, bail};
pub use host::Host;
use host::Ip;
pub use leftovers::{Cleaned, clean};
use parking_lot::Mutex;
use std::{collections::BTreeMap, net::SocketAddr, path::Path, process::Command, sync::Arc};
use subnets::{Plane, Subnets};
use switch::Switch;
use tokio::task::JoinSet;
use tun_rs::{AsyncDevice, DeviceBuilder};

/// Bytes of the largest packet on a link: a node's usual message in one, a snapshot in many.
const MTU_BYTES: u16 = 9_000;

/// Packets a device holds for us.
const QUEUE_PACKETS: u32 = 2_000;

/// Ports in a namespace of one's own are free.
const CLIENT_PORT: u16 = 7_101;
const PEER_PORT: u16 = 7_201;
const ADMIN_PORT: u16 = 7_301;

/// Nodes in namespaces of their own.
pub struct Namespaces {
    subnets: Subnets,
    switch: Arc<Mutex<Switch>>,
    // Before the ground: devices are closed before their namespaces go.
    _carrier: JoinSet<()>,
    ground: Ground,
}

/// What was made on this machine, and is removed with this.
struct Ground {
    ip: Ip,
    /// Of nodes, from 1.
    namespaces: Vec<String>,
    /// The clients' device.
    device: String,
}

impl Drop for Ground {
    fn drop(&mut self) {
        // What cannot be removed now is found by `jepsen clean`.
        for namespace in &self.namespaces {
            let _ = self.ip.run(&["netns", "delete", namespace]);
        }
        let _ = self.ip.run(&["link", "delete", "dev", &self.device]);
    }
}

impl Namespaces {
    /// Makes namespaces for nodes 1 to `nodes`, and joins them. Needs a runtime to carry packets on.
    ///
    /// # Errors
    /// The machine does not let us: what is missing, or what `ip` said.
    pub fn start(host: &Host, nodes: u64, seed: u64) -> Result<Self> {
        let ip = host.ip()?;
        let harness = ProcessName::of(std::process::id()).context("/proc does not show this process")?;
        let (subnets, clients) = claim(&ip)?;
        let mut ground = Ground { ip, namespaces: Vec::new(), device: device_name(subnets, End::Clients) };
        ground.ip.batch(None, &settings(subnets, End::Clients))?;
        let mut devices = BTreeMap::from([(End::Clients, clients)]);
        for node in 1..=nodes {
            let (name, end) = (leftovers::name(harness, subnets.0, node), End::Node(node));
            ground.ip.run(&["netns", "add", &name])?;
            ground.namespaces.push(name.clone());
            let device = open(&device_name(subnets, end))?;
            ground.ip.run(&["link", "set", "dev", &device_name(subnets, end), "netns", &name])?;
            ground.ip.batch(Some(&name), &settings(subnets, end))?;
            devices.insert(end, device);
        }
        let switch = Arc::new(Mutex::new(Switch::new(subnets, nodes, seed)));
        Ok(Namespaces { subnets, _carrier: carrier::carry(devices, switch.clone()), switch, ground })
    }
}

/// Subnets nobody uses, and the clients' device in them. Its name says which they are: two runs side by side cannot
/// make the same.
fn claim(ip: &Ip) -> Result<(Subnets, AsyncDevice)> {
    let routes = ip.run(&["-4", "-oneline", "route", "show", "table", "all"])?;
    // Runs side by side begin elsewhere.
    let begin = std::process::id() % u32::from(subnets::COUNT);
    let mut refused = None;
    for step in 0..subnets::COUNT {
        let subnets = Subnets((begin as u16 + step) % subnets::COUNT);
        if !subnets.is_free(&routes) {
            continue;
        }
        match open(&device_name(subnets, End::Clients)) {
            Ok(device) => return Ok((subnets, device)),
            Err(error) => refused = Some(error),
        }
    }
    match refused {
        Some(error) => Err(error),
        None => bail!("every subnet of 198.18.0.0/15 is in use: see `ip route show table all`"),
    }
}

fn open(name: &str) -> Result<AsyncDevice> {
    let device = DeviceBuilder::new().name(name).enable(false).build_async();
    device.with_context(|| format!("no TUN device {name} (a container needs the capability NET_ADMIN)"))
}

/// At most 15 bytes.
fn device_name(subnets: Subnets, end: End) -> String {
    match end {
        End::Clients => format!("kvorum{}-c", subnets.0),
        End::Node(node) => format!("kvorum{}-n{node}", subnets.0),
    }
}

/// Commands of `ip` that bring a device up.
fn settings(subnets: Subnets, end: End) -> Vec<String> {
    let name = device_name(subnets, end);
    let mut lines: Vec<String> = [Plane::Attacked, Plane::Watched]
        .into_iter()
        .map(|plane| format!("address add {}/{} dev {name}", subnets.address(plane, end), subnets::PREFIX))
        .collect();
    lines.push(format!("link set dev {name} mtu {MTU_BYTES} txqueuelen {QUEUE_PACKETS} up"));
    if end != End::Clients {
        lines.push("link set dev lo up".to_owned());
    }
    lines
}

impl Fabric for Namespaces {
    fn name(&self) -> &'static str {
        "network namespaces"
    }

    fn is_weaker_because(&self) -> Option<String> {
        None
    }

    fn cannot(&self, _weather: &Weather) -> Option<String> {
        None
    }

    fn addresses(&self, node: u64) -> Addresses {
        let at = |plane, port| SocketAddr::from((self.subnets.address(plane, End::Node(node)), port));
        let (client, peer) = (at(Plane::Attacked, CLIENT_PORT), at(Plane::Attacked, PEER_PORT));
        Addresses {
            // On both subnets: clients come on one, who watches on the other.
            listen_client: SocketAddr::from(([0, 0, 0, 0], CLIENT_PORT)),
            listen_peer: peer,
            listen_admin: at(Plane::Watched, ADMIN_PORT),
            client,
            peer,
            watch: at(Plane::Watched, CLIENT_PORT),
        }
    }

    fn command(&self, node: u64, program: &Path) -> Command {
        self.ground.ip.inside(&self.ground.namespaces[node as usize - 1], program)
    }

    fn started(&self, _node: u64, _process_id: u32) {}

    fn cut(&self, link: Link) {
        self.switch.lock().cut(link, true);
    }

    fn mend(&self, link: Link) {
        self.switch.lock().cut(link, false);
    }

    fn degrade(&self, link: Link, weather: Weather) {
        self.switch.lock().degrade(link, weather);
    }

    fn heal(&self) {
        self.switch.lock().heal();
    }

    fn observed(&self) -> Observed {
        self.switch.lock().observed()
    }
}
