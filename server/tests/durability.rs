//! What was acknowledged is there, whatever dies: real processes, `kill -9`, one and all at once.
//!
//! Every writer keeps its own account: what was acknowledged must be there, what provably did not happen must not, what
//! was unknown is asked again under its id and counts once.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests panic and print as tests do")]

mod cluster;

use cluster::{Cluster, PATIENCE, calls, until};
use kvorum_api::{
    Effect,
    proto::{self, read_level::Kind},
};
use kvorum_client::{Client, ClientError, Cp, Keyspace, Options, Written, admin::KeyspaceWish};
use std::{
    collections::BTreeMap,
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinSet;

const WRITERS: usize = 64;
const KILLS: usize = 20;

/// Short elections: the test is about what survives them, not about how long they take.
const QUICK: &str = "[raft]\nheartbeat = \"100ms\"\nelection_min = \"400ms\"\nelection_max = \"800ms\"\n";

/// What one writer knows.
#[derive(Default)]
struct Account {
    number: usize,
    acknowledged: Vec<String>,
    /// Told `Effect::None`: must not be there.
    not_done: Vec<String>,
    /// Increments acknowledged.
    counted: i64,
    /// How many outcomes were unknown at first.
    unknown: u64,
}

/// Writes until told to stop; every unknown outcome is asked for again under its id until it is known.
async fn writer(number: usize, keyspace: Keyspace<Cp>, stop: Arc<AtomicBool>, progress: Arc<AtomicU64>) -> Account {
    let mut account = Account { number, ..Account::default() };
    let mut round = 0;
    while !stop.load(Ordering::Acquire) {
        round += 1;
        let key = format!("{number}/{round}");
        let put = keyspace.put(key.clone(), key.clone()).await;
        match settle(put, &mut account).await {
            Some(_) => account.acknowledged.push(key),
            None => account.not_done.push(key),
        }
        let increment = keyspace.increment(format!("count/{number}"), 1).await;
        let increment = settle(increment.map(|counted| counted.written), &mut account).await;
        if let Some(written) = increment {
            account.counted += 1;
            assert_eq!(
                written.results[0].number,
                Some(account.counted),
                "an increment of writer {number} counted twice"
            );
        }
        progress.fetch_add(1, Ordering::AcqRel);
    }
    account
}

/// A keyspace as a new client sees it.
fn keyspace_of(cluster: &Cluster, name: &str, timeout: Duration) -> Keyspace<Cp> {
    Client::new(cluster.endpoints(), Options::default()).unwrap().keyspace(name).with_timeout(timeout)
}

/// How long a writer waits before it asks again.
const WRITER_PATIENCE: Duration = Duration::from_secs(3);

/// The outcome once it is known: `None` = it provably did not happen.
async fn settle(mut result: Result<Written, ClientError>, account: &mut Account) -> Option<Written> {
    let until = tokio::time::Instant::now() + 2 * PATIENCE;
    loop {
        match result {
            Ok(written) => return Some(written),
            Err(ClientError::Unknown(unknown)) => {
                account.unknown += 1;
                assert!(tokio::time::Instant::now() < until, "still unknown: {unknown}");
                result = unknown.retry().await;
            }
            Err(error) => {
                assert_eq!(error.effect(), Effect::None, "{error}");
                return None;
            }
        }
    }
}

/// Waits until the writers got `more` rounds further.
async fn progress_of(progress: &AtomicU64, more: u64) {
    let goal = progress.load(Ordering::Acquire) + more;
    until("writes to go on", || async { (progress.load(Ordering::Acquire) >= goal).then_some(()) }).await;
}

/// Waits until every node stands at the same index, and checks that they hold the same.
async fn converged(cluster: &Cluster) {
    let hashes = until("the replicas to stand at one index", || async {
        let mut seen = BTreeMap::new();
        for node in &cluster.nodes {
            let status = node.try_status().await?;
            let replica = cluster::first(&status).unwrap();
            seen.insert(node.id, (replica.applied_index, replica.rolling_hash.clone()));
        }
        let first = seen.values().next()?.0;
        seen.values().all(|(index, _)| *index == first).then_some(seen)
    })
    .await;
    let first = &hashes[&1].1;
    assert!(hashes.values().all(|(_, hash)| hash == first), "replicas differ at one index: {hashes:?}");
}

/// The leader dies twenty times under 64 writers, then all three nodes at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_when_leaders_and_then_all_nodes_are_killed() {
    let mut cluster = Cluster::start_with(3, |_| QUICK.to_owned()).await;
    let (stop, progress) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut writers = JoinSet::new();
    for number in 0..WRITERS {
        let keyspace = keyspace_of(&cluster, "default", WRITER_PATIENCE);
        writers.spawn(writer(number, keyspace, stop.clone(), progress.clone()));
    }
    for _ in 0..KILLS {
        progress_of(&progress, WRITERS as u64 / 2).await;
        let leader = cluster.leader().await;
        cluster.node(leader).kill();
        progress_of(&progress, WRITERS as u64 / 2).await;
        cluster.node(leader).start();
        cluster.node(leader).ready().await;
    }
    progress_of(&progress, WRITERS as u64).await;
    cluster.nodes.iter_mut().for_each(cluster::Kvd::kill);
    cluster.nodes.iter_mut().for_each(cluster::Kvd::start);
    for node in &mut cluster.nodes {
        node.ready().await;
    }
    progress_of(&progress, WRITERS as u64).await;
    stop.store(true, Ordering::Release);
    let accounts = writers.join_all().await;
    converged(&cluster).await;
    check(&keyspace_of(&cluster, "default", PATIENCE), &accounts, WRITERS * KILLS / 4).await;
}

/// Leaders of different shards die under writers that share one client.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_of_a_shared_client_is_lost_when_leaders_of_its_shards_are_killed() {
    const SHARED_WRITERS: usize = 24;
    let mut cluster = Cluster::start_with(3, |_| QUICK.to_owned()).await;
    let keyspace = keyspace_of(&cluster, "spread", WRITER_PATIENCE);
    let admin = Client::new(cluster.endpoints(), Options::default()).unwrap().admin();
    let wish = KeyspaceWish { shard_by: "hash".to_owned(), shards: 8, replicas: 3, ..KeyspaceWish::default() };
    until("the keyspace to be made", || async {
        let made = admin.create_keyspace("spread", wish.clone()).await;
        // Asked again after a doubtful answer it may be there already.
        (made.is_ok() || admin.keyspaces(&["spread"]).await.is_ok_and(|found| !found.is_empty())).then_some(())
    })
    .await;
    let (stop, progress) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut writers = JoinSet::new();
    for number in 0..SHARED_WRITERS {
        writers.spawn(writer(number, keyspace.clone(), stop.clone(), progress.clone()));
    }
    for shard in [0, 3, 6] {
        progress_of(&progress, SHARED_WRITERS as u64).await;
        let leader = until("the shard to be led", || async {
            admin.keyspaces(&["spread"]).await.ok()?.first()?.shards.get(shard)?.leader
        })
        .await;
        cluster.node(leader).kill();
        progress_of(&progress, SHARED_WRITERS as u64).await;
        cluster.node(leader).start();
        cluster.node(leader).ready().await;
    }
    progress_of(&progress, SHARED_WRITERS as u64).await;
    stop.store(true, Ordering::Release);
    let accounts = writers.join_all().await;
    check(&keyspace_of(&cluster, "spread", PATIENCE), &accounts, SHARED_WRITERS * 4).await;
}

async fn check(keyspace: &Keyspace<Cp>, accounts: &[Account], acknowledged_min: usize) {
    let mut there: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut scan = keyspace.scan().await.unwrap();
    while let Some(entry) = scan.next().await.unwrap() {
        there.insert(entry.key.to_vec(), entry.value.to_vec());
    }
    let (mut acknowledged, mut unknown) = (0, 0);
    for account in accounts {
        for key in &account.acknowledged {
            assert_eq!(there.get(key.as_bytes()).map(Vec::as_slice), Some(key.as_bytes()), "{key} was acknowledged");
        }
        for key in &account.not_done {
            assert!(!there.contains_key(key.as_bytes()), "{key} was reported as not done, and is there");
        }
        acknowledged += account.acknowledged.len();
        unknown += account.unknown;
    }
    for account in accounts {
        let number = account.number;
        let counted = there.get(format!("count/{number}").as_bytes()).cloned().unwrap_or(b"0".to_vec());
        assert_eq!(String::from_utf8(counted).unwrap(), account.counted.to_string(), "increments of writer {number}");
    }
    println!("{acknowledged} acknowledged writes are there; {unknown} outcomes were unknown at first");
    assert!(acknowledged > acknowledged_min, "too little was written to mean anything: {acknowledged}");
}

/// Two of three nodes are down: what needs a majority is refused truthfully, `local` answers, and it recovers by
/// itself.
#[tokio::test]
async fn without_a_majority_nothing_is_promised_and_local_reads_answer() {
    let mut cluster = Cluster::start_with(3, |_| QUICK.to_owned()).await;
    let leader = cluster.leader().await;
    cluster.node(leader).kv().put(calls::put("k", "v")).await.unwrap();
    converged(&cluster).await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    for other in &others {
        cluster.node(*other).kill();
    }
    let node = cluster.node(leader);
    let within = |message| {
        let mut request = tonic::Request::new(message);
        request.set_timeout(Duration::from_secs(2));
        request
    };
    let said = calls::refusal(node.kv().put(within(calls::put("lonely", "v"))).await);
    let truthful = match said.effect() {
        "none" => ["NO_QUORUM", "NOT_LEADER", "DEADLINE_EXCEEDED"].contains(&said.reason.as_str()),
        _ => ["DEADLINE_EXCEEDED", "LEADERSHIP_LOST"].contains(&said.reason.as_str()),
    };
    assert!(truthful, "{said:?}");
    let mut request = tonic::Request::new(calls::get("k"));
    request.set_timeout(Duration::from_secs(2));
    let said = calls::refusal(node.kv().get(request).await);
    assert!(["NO_QUORUM", "NOT_LEADER", "DEADLINE_EXCEEDED"].contains(&said.reason.as_str()), "{said:?}");
    let local = node.kv().get(calls::get_at("k", Kind::Local)).await.unwrap().into_inner();
    assert_eq!(local.entry.unwrap().value, "v");
    let first = local.receipt.unwrap().staleness_ms;
    // Rule R2: it grows while nobody confirms anything, or is unknown; it never says fresh.
    until("the staleness to grow", || async {
        let reply = node.kv().get(calls::get_at("k", Kind::Local)).await.unwrap().into_inner();
        let now = reply.receipt.unwrap().staleness_ms;
        (now.is_none() || now > first).then_some(())
    })
    .await;
    for other in &others {
        cluster.node(*other).start();
    }
    until("the recovery", || async {
        for node in &cluster.nodes {
            if node.kv().put(calls::put("together", "v")).await.is_ok() {
                return Some(());
            }
        }
        None
    })
    .await;
    converged(&cluster).await;
}

/// Rule T3: a key with a time to live goes by the log, on every node, without any other traffic, though its leader
/// died.
#[tokio::test]
async fn a_key_expires_everywhere_though_its_leader_died_in_silence() {
    let mut cluster = Cluster::start_with(3, |_| QUICK.to_owned()).await;
    let leader = cluster.leader().await;
    let mut request = calls::put("fleeting", "v");
    request.put.as_mut().unwrap().ttl_ms = Some(2_000);
    cluster.node(leader).kv().put(request).await.unwrap();
    converged(&cluster).await;
    cluster.node(leader).kill();
    for node in cluster.nodes.iter().filter(|node| node.id != leader) {
        until("the key to be gone", || async {
            let reply = node.kv().get(calls::get_at("fleeting", Kind::Local)).await.ok()?.into_inner();
            reply.entry.is_none().then_some(())
        })
        .await;
    }
    cluster.node(leader).start();
    cluster.node(leader).ready().await;
    converged(&cluster).await;
    let local = cluster.node(leader).kv().get(calls::get_at("fleeting", Kind::Local)).await.unwrap().into_inner();
    assert!(local.entry.is_none());
}

/// The journal's newest segment, and where in it a text was written last.
fn place_in_journal(node: &cluster::Kvd, text: &str) -> (std::path::PathBuf, usize) {
    let files = fs::read_dir(node.data().join("journal")).unwrap().map(|entry| entry.unwrap().path());
    for file in files.filter(|path| path.is_file()) {
        let bytes = fs::read(&file).unwrap();
        let last = bytes.windows(text.len()).rposition(|window| window == text.as_bytes());
        if let Some(at) = last {
            return (file, at);
        }
    }
    panic!("{text} is nowhere in the journal");
}

/// One byte flipped in the middle of what was synced: the node refuses to start and names the place.
#[tokio::test]
async fn a_flipped_byte_in_the_middle_of_the_journal_is_refused_with_its_place() {
    let mut cluster = Cluster::start(1).await;
    let mut kv = cluster.node(1).kv();
    kv.put(calls::put("early", "the needle in the journal")).await.unwrap();
    for number in 0..50 {
        kv.put(calls::put(format!("k{number}"), "v")).await.unwrap();
    }
    let node = cluster.node(1);
    node.kill();
    let (file, at) = place_in_journal(node, "the needle in the journal");
    let mut bytes = fs::read(&file).unwrap();
    bytes[at] ^= 1;
    fs::write(&file, bytes).unwrap();
    node.start();
    assert_eq!(node.exit().await.code(), Some(1));
    let words = node.last_words();
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(words.contains("corruption in") && words.contains(name) && words.contains("at byte"), "{words}");
}

/// A torn tail was never acknowledged: it is cut, and the node starts with everything that was.
#[tokio::test]
async fn a_torn_tail_of_the_journal_is_cut_and_the_node_starts() {
    let mut cluster = Cluster::start(1).await;
    let mut kv = cluster.node(1).kv();
    for number in 0..50 {
        kv.put(calls::put(format!("k{number}"), "some value")).await.unwrap();
    }
    let node = cluster.node(1);
    node.kill();
    let (file, _) = place_in_journal(node, "some value");
    let mut bytes = fs::read(&file).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    // The next record begins on an 8-byte boundary: half of one, as a loss of power leaves it.
    let next = (end + 8) & !7;
    bytes[next..next + 40].fill(0x5a);
    fs::write(&file, bytes).unwrap();
    node.start();
    node.ready().await;
    for number in 0..50 {
        let found = calls::value(&mut node.kv(), format!("k{number}")).await.unwrap();
        assert_eq!(found.as_deref(), Some(&b"some value"[..]), "k{number}");
    }
}

/// A node that was away for longer than the log reaches comes back through a snapshot while writes go on. It is killed
/// while the snapshot arrives, and (rule S4) while it is being installed: the next start finishes that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_too_long_rejoins_through_a_snapshot_also_when_killed_in_it() {
    let mut cluster = with_little_log().await;
    cluster.node(3).kill();
    let mut purged = write_until_purged(&cluster).await;

    let stop = Arc::new(AtomicBool::new(false));
    let mut writers = JoinSet::new();
    let progress = Arc::new(AtomicU64::new(0));
    let keyspace = keyspace_of(&cluster, "default", WRITER_PATIENCE);
    writers.spawn(writer(0, keyspace, stop.clone(), progress.clone()));
    let node = cluster.node(3);
    node.start();
    until("the snapshot to arrive", || async { has_begun_to_receive(node).then_some(()) }).await;
    node.kill();
    for attempt in 1.. {
        assert!(attempt <= INSTALL_KILLS_MAX, "no kill hit an installation:\n{}", cluster.node(3).log_tail());
        kill_while_installing(cluster.node(3)).await;
        let node = cluster.node(3);
        node.start();
        node.ready().await;
        if node.log_count("finishing an interrupted installation") > 0 {
            break;
        }
        // The installation was faster than the kill: once more, from another snapshot.
        node.kill();
        purged = write_until_purged(&cluster).await;
    }
    assert!(cluster.node(3).log_count("the interrupted installation is finished") > 0);
    progress_of(&progress, 20).await;
    stop.store(true, Ordering::Release);
    let accounts = writers.join_all().await;
    converged(&cluster).await;
    let status = cluster.node(3).status().await;
    assert!(cluster::first(&status).unwrap().applied_index > purged);
    assert!(accounts[0].acknowledged.len() >= 20);
    let last = cluster.node(3).kv().get(calls::get_at(format!("row {:05}", ROWS - 1), Kind::Local)).await.unwrap();
    assert_eq!(last.into_inner().entry.map(|entry| entry.value.len()), Some(ROW_BYTES));
}

/// Rows that exceed what is kept of the log several times over.
const ROWS: usize = 1_200;
const ROW_BYTES: usize = 64 << 10;

/// How often a kill may miss the installation.
const INSTALL_KILLS_MAX: usize = 5;

/// Three nodes that keep little of the log for one that is away.
async fn with_little_log() -> Cluster {
    let keep_little = format!("{QUICK}follower_log_bytes_max = \"1MiB\"\n");
    let storage = "journal_segment = \"34MiB\"\njournal_bytes_max = \"68MiB\"";
    let mut cluster = Cluster::start_with(3, |_| keep_little.clone()).await;
    for id in 1..=3 {
        let more = cluster.configuration(&keep_little).replace("journal_segment = \"34MiB\"", storage);
        let node = cluster.node(id);
        assert!(node.stop().await.success());
        node.configure(&more);
        node.start();
    }
    cluster.leader().await;
    cluster.node(3).ready().await;
    cluster
}

/// Writes every row while node 3 is away, until a log that was kept for it is gone; gives how far it is gone.
async fn write_until_purged(cluster: &Cluster) -> u64 {
    let purged_of = |status: proto::NodeStatusReply| cluster::first(&status).unwrap().purged_index;
    let leader = cluster.leader().await;
    let last_log = cluster::first(&cluster.nodes[leader as usize - 1].status().await).unwrap().last_log_index;
    let client = Client::new(cluster.endpoints(), Options::default()).unwrap();
    let keyspace = client.keyspace("default").with_timeout(PATIENCE);
    let value = vec![b'v'; ROW_BYTES];
    for row in 0..ROWS {
        keyspace.put(format!("row {row:05}"), value.clone()).await.unwrap();
    }
    let leader = cluster.leader().await;
    until("the log to be purged", || async {
        let purged = purged_of(cluster.nodes[leader as usize - 1].try_status().await?);
        (purged > last_log).then_some(purged)
    })
    .await
}

/// Whether something of a snapshot lies on its disk.
fn has_begun_to_receive(node: &cluster::Kvd) -> bool {
    fs::read_dir(node.data().join("engine/stage")).is_ok_and(|mut entries| entries.next().is_some())
}

/// Starts a node, and kills it as soon as its log says that it installs a snapshot.
async fn kill_while_installing(node: &mut cluster::Kvd) {
    const LOOK_EVERY: Duration = Duration::from_millis(1);
    const BEGUN: &str = "installing a snapshot";
    let before = node.log_count(BEGUN);
    let deadline = tokio::time::Instant::now() + 2 * PATIENCE;
    node.start();
    // The kill before may have hit one already; then this start finishes it, and no other one comes.
    while node.log_count(BEGUN) == before && node.log_count("finishing an interrupted installation") == 0 {
        assert!(tokio::time::Instant::now() < deadline, "no snapshot is installed:\n{}", node.log_tail());
        tokio::time::sleep(LOOK_EVERY).await;
    }
    node.kill();
}
