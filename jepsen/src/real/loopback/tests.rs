//! Proxies between echoing "nodes" of this process.

use super::*;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UdpSocket,
    time::timeout,
};

/// Long enough for a message on loopback, short enough to wait for one that must not come.
const SHORT: Duration = Duration::from_millis(200);
const LONG: Duration = Duration::from_secs(20);

/// Answers whatever it is told with the same.
async fn echo(listener: TcpListener) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(async move {
            let (mut read, mut write) = stream.into_split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
        });
    }
}

async fn say(stream: &mut TcpStream, word: &[u8; 4], patience: Duration) -> Option<[u8; 4]> {
    let mut answer = [0; 4];
    stream.write_all(word).await.ok()?;
    timeout(patience, stream.read_exact(&mut answer)).await.ok()?.ok()?;
    Some(answer)
}

async fn arena() -> (LoopbackProxies, JoinSet<()>) {
    let fabric = LoopbackProxies::start(2, 1).await.unwrap();
    let mut nodes = JoinSet::new();
    for node in [1, 2] {
        let addresses = fabric.addresses(node);
        for listens in [addresses.listen_client, addresses.listen_peer] {
            nodes.spawn(echo(TcpListener::bind(listens).await.unwrap()));
        }
    }
    // This process dials for node 1.
    fabric.started(1, std::process::id());
    (fabric, nodes)
}

#[tokio::test]
async fn a_cut_stops_one_direction_and_healing_ends_it() {
    let (fabric, _nodes) = arena().await;
    let (there, back) = (Link::between(1, 2), Link::between(2, 1));
    let mut stream = TcpStream::connect(fabric.addresses(2).peer).await.unwrap();
    assert_eq!(say(&mut stream, b"open", LONG).await.as_ref(), Some(b"open"));
    fabric.cut(back);
    assert_eq!(say(&mut stream, b"late", SHORT).await, None);
    let carried = fabric.observed();
    assert_eq!((carried[&there].passed_bytes, carried[&back].passed_bytes), (8, 4), "the other direction is open");
    assert_eq!(carried[&back].held_bytes, 4);
    fabric.cut(back);
    fabric.mend(back);
    assert_eq!(say(&mut stream, b"late", SHORT).await, None, "cut twice, mended once");
    fabric.mend(back);
    let mut answer = [0; 4];
    // Either it was late or the connection broke; a new one works.
    if timeout(LONG, stream.read_exact(&mut answer)).await.unwrap().is_ok() {
        assert_eq!(&answer, b"late");
    }
    let mut again = TcpStream::connect(fabric.addresses(2).peer).await.unwrap();
    assert_eq!(say(&mut again, b"well", LONG).await.as_ref(), Some(b"well"));
}

#[tokio::test]
async fn clients_and_nodes_have_links_of_their_own() {
    let (fabric, _nodes) = arena().await;
    fabric.cut(Link { from: End::Clients, to: End::Node(2) });
    let mut client = TcpStream::connect(fabric.addresses(2).client).await.unwrap();
    assert_eq!(say(&mut client, b"cut.", SHORT).await, None);
    let mut peer = TcpStream::connect(fabric.addresses(2).peer).await.unwrap();
    assert_eq!(say(&mut peer, b"peer", LONG).await.as_ref(), Some(b"peer"));
    let mut other = TcpStream::connect(fabric.addresses(1).client).await.unwrap();
    assert_eq!(say(&mut other, b"one.", LONG).await.as_ref(), Some(b"one."));
}

#[tokio::test]
async fn delay_is_felt_and_counted() {
    let (fabric, _nodes) = arena().await;
    let delay = Duration::from_millis(60);
    fabric.degrade(Link::between(1, 2), Weather { delay, ..Weather::default() });
    let mut stream = TcpStream::connect(fabric.addresses(2).peer).await.unwrap();
    let before = tokio::time::Instant::now();
    assert_eq!(say(&mut stream, b"slow", LONG).await.as_ref(), Some(b"slow"));
    assert!(before.elapsed() >= delay);
    assert!(fabric.observed()[&Link::between(1, 2)].disturbed >= 1);
}

#[tokio::test]
async fn datagrams_come_from_the_senders_door_and_are_dropped_by_a_cut() {
    let (fabric, _nodes) = arena().await;
    let (one, two) = (fabric.addresses(1), fabric.addresses(2));
    let (first, second) =
        (UdpSocket::bind(one.listen_peer).await.unwrap(), UdpSocket::bind(two.listen_peer).await.unwrap());
    let mut buffer = [0; 16];
    first.send_to(b"hello", two.peer).await.unwrap();
    let (length, from) = timeout(LONG, second.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!((&buffer[..length], from), (&b"hello"[..], one.peer));
    second.send_to(b"back", from).await.unwrap();
    let (length, from) = timeout(LONG, first.recv_from(&mut buffer)).await.unwrap().unwrap();
    assert_eq!((&buffer[..length], from), (&b"back"[..], two.peer));
    fabric.cut(Link::between(1, 2));
    first.send_to(b"gone", two.peer).await.unwrap();
    assert!(timeout(SHORT, second.recv_from(&mut buffer)).await.is_err());
    assert_eq!(fabric.observed()[&Link::between(1, 2)].dropped_bytes, 4);
}

#[tokio::test]
async fn a_process_that_is_no_node_is_let_in_nowhere() {
    let (fabric, _nodes) = arena().await;
    fabric.started(1, u32::MAX);
    let mut stranger = TcpStream::connect(fabric.addresses(2).peer).await.unwrap();
    assert_eq!(say(&mut stranger, b"who?", LONG).await, None, "the door closes");
}
