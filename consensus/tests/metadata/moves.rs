//! Replicas that change (operators): fresh ids, caught up, promoted, and what goes is erased only then.

use crate::{
    metadata::house::{House, change, create, hash, join, small},
    support::{context, put, wait_until},
};
use kvorum_api::{NodeId, OperatorId, ReadLevel, ReplicaId, ShardId};
use kvorum_consensus::{
    Replicator as _,
    metadata::{
        ClusterMap, Founding, KeyspaceWish, METADATA_SHARD, MetadataCommand, OperatorState, OperatorWish, Origin,
        Standing,
    },
    node::Budget,
    replicator::Role,
};
use kvorum_storage::Journal as _;
use std::time::Duration;
use tokio::time::{Instant, sleep};

impl House {
    /// Another node joins; its number.
    async fn add(&mut self, directory: u128) -> u64 {
        let asked = self.nodes.values().next().expect("a node runs");
        let id = change(asked, join(directory)).await.expect("it may join").node.expect("it joined");
        let map = ClusterMap::clone(&asked.map());
        let own = map.nodes[&id].clone();
        self.kept.insert(id.0, map);
        self.start_as(id.0, Founding { nodes: vec![own], keyspaces: Vec::new() }).await;
        let knows = |node: &kvorum_consensus::Node| node.liveness().is_alive(id);
        wait_until("an acquaintance", || self.nodes.iter().all(|(known, node)| *known == id.0 || knows(node))).await;
        id.0
    }

    async fn with_shard(founders: u64, wish: KeyspaceWish) -> (House, ShardId) {
        House::with_shard_and(founders, wish, Budget::default()).await
    }

    async fn with_shard_and(founders: u64, wish: KeyspaceWish, budget: Budget) -> (House, ShardId) {
        let house = House::founded_with(founders, budget).await;
        let made = MetadataCommand::CreateKeyspace { name: "orders".to_owned(), wish };
        let made = change(&house.nodes[&1], made).await.expect("it can be made");
        house.wait_for_revision(made.revision).await;
        let shard = house.nodes[&1].map().shards_of(made.keyspace.expect("it was made"))[0].shard;
        wait_until("it is ready", || {
            let map = house.nodes[&1].map();
            map.shards[&shard].stage == kvorum_consensus::metadata::ShardStage::Ready
        })
        .await;
        (house, shard)
    }

    fn leader_of(&self, shard: ShardId) -> Option<u64> {
        let leads = |node: &kvorum_consensus::Node| {
            node.replica(shard).is_some_and(|replica| replica.status().role == Role::Leader)
        };
        self.nodes.iter().find(|(_, node)| leads(node)).map(|(id, _)| *id)
    }

    /// Writes through whoever leads, however often that takes.
    async fn write(&self, shard: ShardId, key: &str, value: &str) {
        for _ in 0..600 {
            for node in self.nodes.values() {
                let Some(replica) = node.replica(shard) else { continue };
                if replica.write(put(key, value, None), context(500)).await.is_ok() {
                    return;
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("nobody took {key}");
    }

    async fn read_on(&self, id: u64, shard: ShardId, key: &str) -> Option<String> {
        let replica = self.nodes[&id].replica(shard)?;
        let found = replica.get(key.to_owned().into(), ReadLevel::Local, context(1_000)).await.ok()?;
        Some(String::from_utf8(found.entry?.value?.to_vec()).expect("text"))
    }

    async fn operate(&self, shard: ShardId, wish: OperatorWish) -> OperatorId {
        let asked = *self.nodes.keys().next().expect("a node runs");
        self.operate_from(asked, shard, wish).await
    }

    async fn operate_from(&self, asked: u64, shard: ShardId, wish: OperatorWish) -> OperatorId {
        let asked = &self.nodes[&asked];
        let cause = "a test asks for it".to_owned();
        let command = MetadataCommand::Operate { shard, wish, origin: Origin::User, cause };
        change(asked, command).await.expect("it can be done").operator.expect("it is about one")
    }

    fn state_of(&self, operator: OperatorId) -> OperatorState {
        let newest = self.nodes.values().map(|node| node.map()).max_by_key(|map| map.revision).expect("a node runs");
        newest.operators[&operator].state.clone()
    }

    async fn until(&self, operator: OperatorId, state: OperatorState) {
        wait_until("the operator's end", || self.state_of(operator) == state).await;
    }

    /// Whether the group is closed on every node that holds a replica of it.
    fn is_closed(&self, shard: ShardId) -> bool {
        let mut held = self.nodes.values().filter_map(|node| node.replica(shard));
        held.all(|replica| replica.status().role == Role::Closed)
    }

    async fn until_closed(&self, shard: ShardId) {
        wait_until("the group is closed", || self.is_closed(shard)).await;
    }

    fn is_forgotten(&self, id: u64, shard: ShardId) -> bool {
        !self.journals[&id].groups().contains(&shard.into())
    }

    async fn until_purged(&self, shard: ShardId) {
        let is_purged =
            |id: &u64| self.nodes[id].replica(shard).is_some_and(|replica| replica.status().purged_index > 0);
        wait_until("the log is purged", || [1, 2, 3].iter().all(is_purged)).await;
    }

    async fn until_forgotten(&self, id: u64, shard: ShardId) {
        wait_until("nothing is left", || self.nodes[&id].replica(shard).is_none() && self.is_forgotten(id, shard))
            .await;
    }
}

fn one_shard() -> KeyspaceWish {
    hash(1)
}

/// Little log is kept, and little for who is behind.
fn purging() -> Budget {
    Budget { journal_bytes_max: 64 << 10, follower_log_bytes_max: 64 << 10, ..Budget::default() }
}

const MOVE: OperatorWish = OperatorWish::Move { from: NodeId(2), to: NodeId(4) };

#[tokio::test(start_paused = true)]
async fn a_replica_moves_to_a_node_that_joined_and_leaves_nothing_behind() {
    let (mut house, shard) = House::with_shard(3, one_shard()).await;
    house.write(shard, "k", "v").await;
    assert_eq!(house.add(7).await, 4);
    let former = house.nodes[&1].map().replica_on(shard, NodeId(2)).unwrap();
    let operator = house.operate(shard, MOVE).await;
    house.until(operator, OperatorState::Done).await;
    house.until_forgotten(2, shard).await;
    house.write(shard, "later", "w").await;
    wait_until("it is led", || house.leader_of(shard).is_some()).await;
    let map = house.nodes[&1].map();
    let replicas = map.replicas_of(shard);
    assert_eq!(replicas.len(), 3);
    assert!(replicas.iter().all(|row| row.standing == Standing::Member && row.node != NodeId(2)), "{replicas:?}");
    let fresh = map.replica_on(shard, NodeId(4)).unwrap();
    assert!(fresh > former, "ids are never reused");
    for key in ["k", "later"] {
        for _ in 0..100 {
            if house.read_on(4, shard, key).await.is_some() {
                break;
            }
            sleep(Duration::from_millis(50)).await;
        }
        assert!(house.read_on(4, shard, key).await.is_some(), "{key} is on node 4");
    }
    assert_eq!(map.shards[&shard].founders.len(), 3, "the founding list is for ever");
}

/// Whoever leads finishes what another began: in every step of a move its leader loses power.
#[tokio::test(start_paused = true)]
async fn a_move_is_finished_whenever_its_leader_dies() {
    for after_ms in [0, 60, 150, 260, 320, 400, 520, 700, 900, 1_300] {
        let (mut house, shard) = House::with_shard(3, one_shard()).await;
        house.write(shard, "k", "v").await;
        house.add(7).await;
        house.write(shard, "k2", "v").await;
        let operator = house.operate(shard, MOVE).await;
        sleep(Duration::from_millis(after_ms)).await;
        if let Some(leader) = house.leader_of(shard) {
            house.crash(leader).await;
            sleep(Duration::from_secs(4)).await;
            house.start(leader).await;
        }
        house.until(operator, OperatorState::Done).await;
        house.until_forgotten(2, shard).await;
        house.write(shard, "k3", "v").await;
        wait_until("equal hashes", || {
            let states = [1, 3, 4].map(|id| house.nodes[&id].replica(shard).map(|replica| replica.shard().state()));
            let hash = |state: &kvorum_storage::shard::ShardState| (state.applied.position, state.rolling_hash);
            let hashes: Option<Vec<_>> = states.iter().map(|state| state.as_ref().map(hash)).collect();
            hashes.is_some_and(|hashes| hashes.iter().all(|hash| *hash == hashes[0]))
        })
        .await;
    }
}

/// What the log does not hold any more comes as a snapshot, at the pace that is asked for.
#[tokio::test(start_paused = true)]
async fn a_newcomer_gets_what_the_log_has_forgotten_at_the_pace_asked_for() {
    let budget = Budget { snapshot_chunk_bytes: 16 << 10, move_bytes_per_second: 32 << 10, ..purging() };
    let (mut house, shard) = House::with_shard_and(3, one_shard(), budget).await;
    let value = "x".repeat(2 << 10);
    for key in 0..100 {
        house.write(shard, &format!("key-{key}"), &value).await;
    }
    house.until_purged(shard).await;
    house.add(7).await;
    let began = Instant::now();
    let operator = house.operate(shard, MOVE).await;
    let mut sent_away = 0;
    while house.state_of(operator) != OperatorState::Done {
        // Until it has something, what it does not find may well be there.
        if let Some(newcomer) = house.nodes[&4].replica(shard) {
            match newcomer.get("key-0".into(), ReadLevel::Local, context(1_000)).await {
                Ok(found) => assert!(found.entry.is_some(), "a newcomer answers from nothing"),
                Err(_) => sent_away += 1,
            }
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert!(sent_away > 0, "it was never asked in time");
    let took = began.elapsed();
    assert!(took >= Duration::from_secs(5), "200 KiB at 32 KiB a second in {took:?}");
    assert_eq!(house.read_on(4, shard, "key-0").await.as_deref(), Some(value.as_str()));
}

/// Rule G19: a slow pace is no want of progress, however long it takes altogether.
#[tokio::test(start_paused = true)]
async fn a_snapshot_may_take_longer_than_any_of_its_steps() {
    let budget = Budget { snapshot_chunk_bytes: 8 << 10, move_bytes_per_second: 56, ..purging() };
    let (mut house, shard) = House::with_shard_and(3, one_shard(), budget).await;
    let value = "x".repeat(2 << 10);
    for key in 0..100 {
        house.write(shard, &format!("key-{}", key % 30), &value).await;
    }
    house.until_purged(shard).await;
    house.add(7).await;
    let began = Instant::now();
    let operator = house.operate(shard, MOVE).await;
    while house.state_of(operator) != OperatorState::Done {
        assert!(began.elapsed() < Duration::from_secs(40 * 60), "it is begun again and again");
        sleep(Duration::from_secs(10)).await;
    }
    assert!(began.elapsed() > Duration::from_secs(15 * 60), "{:?}", began.elapsed());
}

/// Rule G19: what is written while a snapshot is on its way is still in the log when it has arrived.
#[tokio::test(start_paused = true)]
async fn a_newcomer_catches_up_although_writes_go_on_while_it_gets_a_snapshot() {
    let budget = Budget { snapshot_chunk_bytes: 16 << 10, move_bytes_per_second: 32 << 10, ..purging() };
    let (mut house, shard) = House::with_shard_and(3, one_shard(), budget).await;
    let value = "x".repeat(2 << 10);
    for key in 0..200 {
        house.write(shard, &format!("key-{key}"), &value).await;
    }
    house.until_purged(shard).await;
    house.add(7).await;
    let began = Instant::now();
    let operator = house.operate(shard, MOVE).await;
    while house.state_of(operator) != OperatorState::Done {
        assert!(began.elapsed() < Duration::from_secs(60), "it never catches up");
        house.write(shard, "again", &value).await;
        sleep(Duration::from_millis(400)).await;
    }
}

/// The leader itself goes: it hands over first, so that nobody waits for an election.
#[tokio::test(start_paused = true)]
async fn a_leader_that_is_to_go_hands_over_first() {
    let (mut house, shard) = House::with_shard(3, one_shard()).await;
    house.write(shard, "k", "v").await;
    house.add(7).await;
    house.write(shard, "k", "w").await;
    let leader = house.leader_of(shard).expect("it was just written");
    let operator = house.operate(shard, OperatorWish::Move { from: NodeId(leader), to: NodeId(4) }).await;
    let (mut led, mut longest) = (Instant::now(), Duration::ZERO);
    while house.state_of(operator) != OperatorState::Done {
        match house.leader_of(shard) {
            Some(_) => led = Instant::now(),
            None => longest = longest.max(led.elapsed()),
        }
        assert!(led.elapsed() < Duration::from_secs(60), "nobody leads any more");
        sleep(Duration::from_millis(2)).await;
    }
    assert!(longest < Duration::from_millis(500), "nobody led for {longest:?}: that was an election");
    house.until_forgotten(leader, shard).await;
    house.write(shard, "k", "x").await;
}

/// Nobody has to ask a group for anything: it is opened for its operator, by another holder if who led it last is gone.
#[tokio::test(start_paused = true)]
async fn a_closed_group_is_opened_for_its_operator() {
    for is_leader_lost in [false, true] {
        let (mut house, shard) = House::with_shard(3, one_shard()).await;
        house.add(7).await;
        house.write(shard, "k", "v").await;
        let led = house.leader_of(shard).expect("it was just written");
        house.until_closed(shard).await;
        if is_leader_lost {
            house.crash(led).await;
        }
        let operator = house.operate(shard, OperatorWish::Move { from: NodeId(led), to: NodeId(4) }).await;
        house.until(operator, OperatorState::Done).await;
        house.write(shard, "k2", "w").await;
        wait_until("it has closed again", || house.is_closed(shard)).await;
    }
}

/// A full disk is a reason to move away, and no reason not to: who is not fit to lead takes steps all the same.
#[tokio::test(start_paused = true)]
async fn a_replica_moves_away_from_a_node_that_is_not_fit_to_lead() {
    let (mut house, shard) = House::with_shard(3, one_shard()).await;
    house.add(7).await;
    house.write(shard, "k", "v").await;
    let led = house.leader_of(shard).expect("it was just written");
    house.until_closed(shard).await;
    house.nodes[&led].set_disk_full(Some("no room".to_owned()));
    let operator = house.operate(shard, OperatorWish::Move { from: NodeId(led), to: NodeId(4) }).await;
    house.until(operator, OperatorState::Done).await;
    house.until_forgotten(led, shard).await;
    house.write(shard, "k2", "w").await;
}

#[tokio::test(start_paused = true)]
async fn the_only_replica_of_a_shard_moves_as_well() {
    let (mut house, shard) = House::with_shard(3, KeyspaceWish { replicas: Some(1), ..one_shard() }).await;
    house.write(shard, "k", "v").await;
    house.add(7).await;
    let from = house.nodes[&1].map().replicas_of(shard)[0].node;
    let operator = house.operate(shard, OperatorWish::Move { from, to: NodeId(4) }).await;
    house.until(operator, OperatorState::Done).await;
    house.until_forgotten(from.0, shard).await;
    house.write(shard, "k2", "w").await;
    assert_eq!(house.read_on(4, shard, "k").await.as_deref(), Some("v"));
}

/// Before the voters change it can be undone, and then it is as if nothing had been asked for.
#[tokio::test(start_paused = true)]
async fn a_move_that_is_cancelled_leaves_everything_as_it_was() {
    let (mut house, shard) = House::with_shard(3, one_shard()).await;
    house.write(shard, "k", "v").await;
    house.add(7).await;
    let before = house.nodes[&1].map().replicas_of(shard).to_vec();
    // It cannot catch up.
    house.cut(&[1, 2, 3]);
    let operator = house.operate(shard, MOVE).await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(house.state_of(operator), OperatorState::Running);
    change(&house.nodes[&1], MetadataCommand::CancelOperator { operator }).await.unwrap();
    house.until(operator, OperatorState::Cancelled).await;
    assert_eq!(house.nodes[&1].map().replicas_of(shard), before);
    house.wire.heal();
    wait_until("node 4 knows", || house.nodes[&4].map().operators.contains_key(&operator)).await;
    house.until_forgotten(4, shard).await;
    house.write(shard, "k2", "v").await;
    let again = change(&house.nodes[&1], MetadataCommand::CancelOperator { operator }).await;
    assert!(again.unwrap_err().to_string().contains("has ended"));
}

/// The same of leadership: who is wished for is again who was.
#[tokio::test(start_paused = true)]
async fn a_transfer_that_is_cancelled_moves_nobody_later() {
    let (house, shard) = House::with_shard(3, one_shard()).await;
    house.write(shard, "k", "v").await;
    let before = house.nodes[&1].map().shards[&shard].leader_wish;
    let may_go =
        |node: &u64| NodeId(*node) != before && ![house.leader_of(shard), house.leader()].contains(&Some(*node));
    let to = [1, 2, 3].into_iter().find(may_go).expect("three nodes, two in office at most");
    house.cut(&[to]);
    let operator = house.operate_from(before.0, shard, OperatorWish::Lead(NodeId(to))).await;
    sleep(Duration::from_millis(500)).await;
    change(&house.nodes[&before.0], MetadataCommand::CancelOperator { operator }).await.unwrap();
    house.until(operator, OperatorState::Cancelled).await;
    house.wire.heal();
    assert_eq!(house.nodes[&before.0].map().shards[&shard].leader_wish, before);
}

/// The metadata's own replicas are moved like any other's.
#[tokio::test(start_paused = true)]
async fn the_metadata_moves_and_is_led_on() {
    let mut house = House::founded(3).await;
    house.add(7).await;
    for from in [1, 2] {
        let to = if from == 1 { 4 } else { house.add(8).await };
        let operator = house.operate(METADATA_SHARD, OperatorWish::Move { from: NodeId(from), to: NodeId(to) }).await;
        house.until(operator, OperatorState::Done).await;
        house.until_forgotten(from, METADATA_SHARD).await;
    }
    let made = change(&house.nodes[&1], create("orders", 1)).await.unwrap();
    house.wait_for_revision(made.revision).await;
    // Those who held it are not needed any more.
    house.crash(1).await;
    house.crash(2).await;
    let made = change(&house.nodes[&5], create("carts", 1)).await;
    assert!(made.is_ok() || made.as_ref().unwrap_err().to_string().contains("replicas"), "{made:?}");
    house.start(1).await;
    wait_until("node 1 follows", || house.nodes[&1].map().revision >= house.nodes[&4].map().revision).await;
    assert!(house.nodes[&1].replica(METADATA_SHARD).is_none(), "it holds none, whatever its founding list says");
}

/// Rule G16: a newcomer may lead before anybody has been told that it is in, and then it is the only one who can tell.
#[tokio::test(start_paused = true)]
async fn the_only_replica_of_the_metadata_moves_as_well() {
    let mut house = House::founded(1).await;
    assert_eq!(house.add(7).await, 2);
    let operator = house.operate(METADATA_SHARD, OperatorWish::Move { from: NodeId(1), to: NodeId(2) }).await;
    house.until(operator, OperatorState::Done).await;
    house.until_forgotten(1, METADATA_SHARD).await;
    for id in [1, 2] {
        let made = change(&house.nodes[&id], small(&format!("keys-{id}"))).await.unwrap();
        house.wait_for_revision(made.revision).await;
    }
}

/// Rule G14: who was deposed and does not know it could say that nobody has come, when under another leader somebody
/// has.
#[tokio::test(start_paused = true)]
async fn a_leader_that_was_deposed_ends_no_operator() {
    let (house, shard) = House::with_shard(5, KeyspaceWish { replicas: Some(3), ..one_shard() }).await;
    house.write(shard, "k", "v").await;
    let before = house.nodes[&1].map().replicas_of(shard).to_vec();
    let former = house.leader_of(shard).expect("it was just written");
    let others: Vec<u64> = before.iter().map(|row| row.node.0).filter(|node| *node != former).collect();
    let free: Vec<u64> = (1..=5).filter(|node| before.iter().all(|row| row.node.0 != *node)).collect();
    let lead = house.operate(METADATA_SHARD, OperatorWish::Lead(NodeId(free[0]))).await;
    house.until(lead, OperatorState::Done).await;
    others.iter().for_each(|other| house.wire.cut_pair(former, *other));
    let leads = |node: &u64| house.nodes[node].replica(shard).is_some_and(|held| held.status().role == Role::Leader);
    wait_until("another leads", || others.iter().any(leads)).await;
    assert!(leads(&former), "it does not know");
    // Whoever leads the metadata has not missed them yet.
    others.iter().for_each(|other| house.wire.cut_pair(free[0], *other));
    let asked = &house.nodes[&free[0]];
    let wish = OperatorWish::Move { from: NodeId(others[0]), to: NodeId(free[1]) };
    let cause = "a test asks for it".to_owned();
    let command = MetadataCommand::Operate { shard, wish, origin: Origin::User, cause };
    let operator = change(asked, command).await.unwrap().operator.unwrap();
    sleep(Duration::from_secs(5)).await;
    change(asked, MetadataCommand::CancelOperator { operator }).await.unwrap();
    sleep(Duration::from_secs(5)).await;
    assert_eq!(house.state_of(operator), OperatorState::Cancelling, "nobody can know how it stands");
    house.wire.heal();
    house.until(operator, OperatorState::Cancelled).await;
    assert_eq!(house.nodes[&free[0]].map().replicas_of(shard), before);
    house.until_forgotten(free[1], shard).await;
    house.write(shard, "k2", "w").await;
}

/// Rule G17: whoever slept while the metadata moved knows only nodes that held it once, and they may all be gone.
#[tokio::test(start_paused = true)]
async fn who_knows_only_former_holders_learns_the_map_from_anybody() {
    let mut house = House::founded(3).await;
    for directory in 7..=10 {
        house.add(directory).await;
    }
    house.crash(7).await;
    for (from, to) in [(1, 4), (2, 5), (3, 6)] {
        let operator = house.operate(METADATA_SHARD, OperatorWish::Move { from: NodeId(from), to: NodeId(to) }).await;
        house.until(operator, OperatorState::Done).await;
        house.until_forgotten(from, METADATA_SHARD).await;
    }
    for id in [1, 2, 3] {
        house.crash(id).await;
    }
    assert!(house.kept[&7].metadata.iter().all(|row| row.node < NodeId(4)));
    let own = house.kept[&7].nodes[&NodeId(7)].clone();
    house.start_as(7, Founding { nodes: vec![own], keyspaces: Vec::new() }).await;
    let made = change(&house.nodes[&7], small("orders")).await.unwrap();
    house.wait_for_revision(made.revision).await;
}

/// Rule G17: the journal says that a replica of the metadata is here although the copy of the map is older than it: it
/// may be needed for there ever to be a newer one.
#[tokio::test(start_paused = true)]
async fn a_replica_of_the_metadata_that_the_map_does_not_know_yet_takes_part() {
    let mut house = House::founded(3).await;
    house.add(7).await;
    let own = house.nodes[&4].map().nodes[&NodeId(4)].clone();
    let old_copy = ClusterMap::clone(&house.nodes[&4].map());
    let operator = house.operate(METADATA_SHARD, OperatorWish::Move { from: NodeId(1), to: NodeId(4) }).await;
    house.until(operator, OperatorState::Done).await;
    house.until_forgotten(1, METADATA_SHARD).await;
    for id in 1..=4 {
        house.crash(id).await;
        house.kept.insert(id, old_copy.clone());
    }
    // Node 2, the third replica, is lost for good.
    house.start(1).await;
    house.start(3).await;
    house.start_as(4, Founding { nodes: vec![own], keyspaces: Vec::new() }).await;
    assert!(house.nodes[&1].replica(METADATA_SHARD).is_none());
    let made = change(&house.nodes[&3], small("orders")).await.unwrap();
    house.wait_for_revision(made.revision).await;
}

/// A node that slept through it all loses its former replica, and what comes back is another one.
#[tokio::test(start_paused = true)]
async fn who_returns_after_a_move_gives_up_what_it_had_and_may_get_another() {
    let (mut house, shard) = House::with_shard(3, one_shard()).await;
    house.write(shard, "k", "v").await;
    house.add(7).await;
    let former = house.nodes[&1].map().replica_on(shard, NodeId(2)).unwrap();
    house.crash(2).await;
    let old_copy = house.kept[&2].clone();
    let operator = house.operate(shard, MOVE).await;
    house.until(operator, OperatorState::Done).await;
    house.start(2).await;
    house.until_forgotten(2, shard).await;
    house.write(shard, "k2", "w").await;
    wait_until("node 2 is seen to live", || house.nodes.values().all(|node| node.liveness().is_alive(NodeId(2)))).await;
    let back = house.operate(shard, OperatorWish::Move { from: NodeId(4), to: NodeId(2) }).await;
    house.until(back, OperatorState::Done).await;
    let fresh = house.nodes[&1].map().replica_on(shard, NodeId(2)).unwrap();
    assert!(fresh > former, "{fresh} after {former}");
    wait_until("it holds the fresh one", || {
        house.nodes[&2].replica(shard).is_some_and(|replica| replica.id() == fresh)
    })
    .await;
    house.write(shard, "k3", "x").await;
    // An old copy of the map names the former replica, and the journal a fresh one: neither is mistaken for the other.
    house.crash(2).await;
    house.kept.insert(2, old_copy);
    house.start(2).await;
    wait_until("the fresh one again", || house.nodes[&2].replica(shard).is_some_and(|replica| replica.id() == fresh))
        .await;
    house.write(shard, "k4", "y").await;
}

/// A replica that was erased must not come back empty under its old id, with a vote: others may still count it.
#[tokio::test(start_paused = true)]
async fn an_old_copy_of_the_map_does_not_bring_an_erased_replica_back() {
    let (mut house, shard) = House::with_shard(3, one_shard()).await;
    house.write(shard, "k", "v").await;
    house.add(7).await;
    let old_copy = ClusterMap::clone(&house.nodes[&2].map());
    let operator = house.operate(shard, MOVE).await;
    house.until(operator, OperatorState::Done).await;
    house.until_forgotten(2, shard).await;
    house.crash(2).await;
    house.kept.insert(2, old_copy);
    // Nobody tells it anything newer.
    house.cut(&[1, 3, 4]);
    house.start(2).await;
    sleep(Duration::from_secs(5)).await;
    assert!(house.nodes[&2].replica(shard).is_none(), "it would be an empty voter");
    house.wire.heal();
    house.write(shard, "k2", "w").await;
}

/// An older copy of the map than the one that placed a replica here erases nothing.
#[tokio::test(start_paused = true)]
async fn an_older_copy_of_the_map_erases_no_replica_that_it_does_not_know_yet() {
    let (mut house, shard) = House::with_shard(3, one_shard()).await;
    house.write(shard, "k", "v").await;
    house.add(7).await;
    let old_copy = ClusterMap::clone(&house.nodes[&4].map());
    let operator = house.operate(shard, MOVE).await;
    house.until(operator, OperatorState::Done).await;
    house.write(shard, "k2", "w").await;
    house.crash(4).await;
    house.kept.insert(4, old_copy);
    house.cut(&[1, 2, 3]);
    house.start(4).await;
    sleep(Duration::from_secs(5)).await;
    assert!(!house.is_forgotten(4, shard), "its log and its vote are still there");
    house.wire.heal();
    wait_until("it takes part again", || house.nodes[&4].replica(shard).is_some()).await;
    house.write(shard, "k3", "x").await;
}

/// Rule: the new leader is whom the operator names, and it stays there.
#[tokio::test(start_paused = true)]
async fn leadership_goes_where_an_operator_wants_it_and_stays() {
    let (house, shard) = House::with_shard(3, one_shard()).await;
    house.write(shard, "k", "v").await;
    for to in [2, 3, 1] {
        let operator = house.operate(shard, OperatorWish::Lead(NodeId(to))).await;
        house.until(operator, OperatorState::Done).await;
        wait_until("it leads", || house.leader_of(shard) == Some(to)).await;
        sleep(Duration::from_secs(8)).await;
        house.write(shard, "k", "w").await;
        assert_eq!(house.leader_of(shard), Some(to));
    }
    let none = ReplicaId(0);
    assert!(house.nodes[&1].map().replicas_of(shard).iter().all(|row| row.replica != none));
}

/// Nobody had a majority for a while: once there is one again, a change is known everywhere at once.
#[tokio::test(start_paused = true)]
async fn a_change_after_a_long_silence_of_all_is_known_at_once() {
    let house = House::founded(3).await;
    for node in [1, 2, 3] {
        house.cut(&[node]);
    }
    sleep(Duration::from_secs(6)).await;
    house.wire.heal();
    let made = change(&house.nodes[&1], create("orders", 1)).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let behind = house.nodes.iter().filter(|(_, node)| node.map().revision < made.revision);
    assert_eq!(behind.map(|(id, _)| *id).collect::<Vec<_>>(), Vec::<u64>::new());
}

/// Who believes to hold the metadata and does not finds out, though whom it asks first is gone.
#[tokio::test(start_paused = true)]
async fn who_holds_the_metadata_no_more_is_told_by_whoever_lives() {
    let mut house = House::founded(3).await;
    house.add(7).await;
    house.crash(3).await;
    let operator = house.operate(METADATA_SHARD, OperatorWish::Move { from: NodeId(3), to: NodeId(4) }).await;
    house.until(operator, OperatorState::Done).await;
    house.crash(2).await;
    house.start(3).await;
    house.until_forgotten(3, METADATA_SHARD).await;
    house.crash(3).await;
    house.crash(1).await;
    house.start(2).await;
    house.start(3).await;
    wait_until("node 3 knows as much", || house.nodes[&3].map().revision >= house.nodes[&4].map().revision).await;
}
