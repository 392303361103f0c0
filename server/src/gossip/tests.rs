//! Real sockets on loopback: who hears whom.

use super::*;
use parking_lot::Mutex;
use std::net::Ipv4Addr;

const ROUND_IN_TESTS: Duration = Duration::from_millis(50);

/// What only a broken gossip needs longer for.
const PATIENCE: Duration = Duration::from_secs(60);

type Addresses = Arc<Mutex<BTreeMap<NodeId, String>>>;

/// A cluster's nodes, each told of all.
#[derive(Default)]
struct Town {
    addresses: Addresses,
    nodes: BTreeMap<u64, Gossip>,
}

fn key(byte: u8) -> ClusterKey {
    ClusterKey::new([byte; 32])
}

impl Town {
    /// Starts a node; `knows` = whether the others have it in their map.
    async fn start(&mut self, node: u64, start: u64, key: &ClusterKey, knows: bool) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let advertised = socket.local_addr().unwrap();
        if knows {
            self.addresses.lock().insert(NodeId(node), advertised.to_string());
        }
        let config = GossipConfig {
            cluster: ClusterId([7; 16]),
            node: NodeId(node),
            start: StartCount(start),
            advertised,
            round: Some(ROUND_IN_TESTS),
        };
        let addresses = self.addresses.clone();
        let nodes = Box::new(move || addresses.lock().clone());
        let summary = Box::new(move || Summary { zone: format!("zone-{node}"), ..Summary::default() });
        self.nodes.insert(node, Gossip::start(config, key, socket, nodes, summary));
    }

    fn sees(&self, node: u64, other: u64) -> Option<GossipPeer> {
        self.nodes[&node].board().view().peers.get(&NodeId(other)).cloned()
    }

    fn hears(&self, node: u64, other: u64) -> bool {
        self.sees(node, other).is_some_and(|peer| peer.is_alive && peer.summary.zone == format!("zone-{other}"))
    }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

async fn three() -> Town {
    let mut town = Town::default();
    for node in 1..=3 {
        town.start(node, 1, &key(1), true).await;
    }
    until("all hear all", || (1..=3).all(|node| (1..=3).all(|other| town.hears(node, other)))).await;
    town
}

#[tokio::test]
async fn three_nodes_hear_each_other() {
    three().await;
}

#[tokio::test]
async fn a_death_is_noticed_and_the_next_life_is_heard() {
    let mut town = three().await;
    town.nodes.remove(&3);
    until("the death", || [1, 2].iter().all(|node| town.sees(*node, 3).is_some_and(|peer| !peer.is_alive))).await;
    town.start(3, 2, &key(1), true).await;
    until("the next life", || {
        [1, 2].iter().all(|node| town.hears(*node, 3) && town.sees(*node, 3).unwrap().start == StartCount(2))
    })
    .await;
}

/// A node that knows the cluster's id and its addresses but not its key learns nothing and is not seen.
#[tokio::test]
async fn a_node_with_another_key_learns_nothing_and_is_not_seen() {
    let mut town = three().await;
    town.start(4, 1, &key(2), true).await;
    // Everybody called on everybody meanwhile: a node that started later, with the key, is heard by all.
    town.start(5, 1, &key(1), true).await;
    until("the fifth", || [1, 2, 3].iter().all(|node| town.hears(*node, 5) && town.hears(5, *node))).await;
    assert!([1, 2, 3, 5].iter().all(|node| town.sees(*node, 4).is_none()));
    assert!([1, 2, 3, 5].iter().all(|node| town.sees(4, *node).is_none()));
}

/// The same with chitchat as it comes: in the clear, with the right cluster id.
#[tokio::test]
async fn a_node_without_a_key_learns_nothing_and_is_not_seen() {
    let mut town = three().await;
    let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    town.addresses.lock().insert(NodeId(4), port.to_string());
    let config = GossipConfig {
        cluster: ClusterId([7; 16]),
        node: NodeId(4),
        start: StartCount(1),
        advertised: port,
        round: Some(ROUND_IN_TESTS),
    };
    let socket = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
    let transport = SealedTransport::new(socket, seal::Seal::new(&key(1), config.cluster));
    let nodes: Nodes = Box::new(BTreeMap::new);
    let keeper =
        Keeper { config, transport, nodes, summary: Box::new(Summary::default), board: GossipBoard::default() };
    let mut settings = keeper.settings(0);
    settings.seed_nodes = town.addresses.lock().values().cloned().collect();
    let handle = chitchat::spawn_chitchat(settings, Vec::new(), &chitchat::transport::UdpTransport).await.unwrap();
    let stranger = Running(handle);
    town.start(5, 1, &key(1), true).await;
    until("the fifth", || [1, 2, 3].iter().all(|node| town.hears(*node, 5))).await;
    assert!([1, 2, 3, 5].iter().all(|node| town.sees(*node, 4).is_none()));
    let known = stranger.0.with_chitchat(|chitchat| chitchat.node_states().len()).await;
    assert_eq!(known, 1, "it knows itself alone");
}

/// A node that joined later is found through the map.
#[tokio::test]
async fn a_node_that_comes_into_the_map_is_heard() {
    let mut town = three().await;
    town.start(4, 1, &key(1), false).await;
    assert_eq!(town.sees(1, 4), None);
    let address = town.nodes[&1].board();
    assert!(!address.view().peers.contains_key(&NodeId(4)), "a node that is not of the map is not shown");
    let port = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    // Under whatever address the map has it: the fourth calls on the others, and gossip carries its own address.
    town.addresses.lock().insert(NodeId(4), port.to_string());
    until("the fourth", || [1, 2, 3].iter().all(|node| town.hears(*node, 4))).await;
}

/// Chitchat's own task may end: it is noticed, and the node is heard again.
#[tokio::test]
async fn a_chitchat_that_ended_is_started_again() {
    let town = three().await;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let advertised = socket.local_addr().unwrap();
    town.addresses.lock().insert(NodeId(4), advertised.to_string());
    let config = GossipConfig {
        cluster: ClusterId([7; 16]),
        node: NodeId(4),
        start: StartCount(1),
        advertised,
        round: Some(ROUND_IN_TESTS),
    };
    let addresses = town.addresses.clone();
    let keeper = Keeper {
        transport: SealedTransport::new(Arc::new(socket), seal::Seal::new(&key(1), config.cluster)),
        config,
        nodes: Box::new(move || addresses.lock().clone()),
        summary: Box::new(|| Summary { zone: "zone-4".into(), ..Summary::default() }),
        board: GossipBoard::default(),
    };
    let spawn = |restart| chitchat::spawn_chitchat(keeper.settings(restart), Vec::new(), &keeper.transport);
    let first = Running(spawn(0).await.unwrap());
    // Aborting its task is the harshest end: nothing says goodbye.
    first.0.abort();
    let why = keeper.look_after(first).await;
    assert!(!why.is_empty());
    let second = Running(spawn(1).await.unwrap());
    let after = async { keeper.look_after(second).await };
    let heard = until("the fourth again", || [1, 2, 3].iter().all(|node| town.hears(*node, 4)));
    tokio::select! {
        why = after => panic!("ended again: {why}"),
        () = heard => {}
    }
}
