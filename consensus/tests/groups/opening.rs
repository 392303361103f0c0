//! Opening: by whom, how quickly, and what opens nothing (rules G1, G3, G4, T3).

use crate::{
    groups::town::{SHARD, Town, context, keyspace_of},
    support::{BEGIN_MS, put, wait_until},
};
use bytes::Bytes;
use futures::future::join_all;
use kvorum_api::{
    Effect, ReadError, ReadLevel, ShardId, WriteError,
    token::{Seen, SessionToken},
};
use kvorum_consensus::{Replicator as _, RequestContext, replicator::Role};
use std::{collections::BTreeMap, time::Duration};
use tokio::time::{Instant, sleep};

/// Rule G1: this process closed the group in order, so its leader goes on in its term.
#[tokio::test(start_paused = true)]
async fn the_first_write_opens_the_group_without_an_election() {
    let town = Town::founded(1).await;
    let leader = town.wait_closed(SHARD).await;
    let term = town.status(leader, SHARD).term;
    let began = Instant::now();
    town.put(leader, SHARD, "k", "v").await.unwrap();
    assert!(began.elapsed() <= Duration::from_millis(10), "{:?} in simulated time", began.elapsed());
    assert_eq!((town.leader(SHARD), town.status(leader, SHARD).term), (Some(leader), term));
    town.wait_closed(SHARD).await;
    let began = Instant::now();
    assert_eq!(town.get(leader, SHARD, "k", ReadLevel::Linearizable).await.unwrap().as_deref(), Some("v"));
    assert!(began.elapsed() <= Duration::from_millis(10), "{:?} in simulated time", began.elapsed());
    assert_eq!(town.status(leader, SHARD).term, term);
}

/// Rule G3: a node that did not lead the group says who did, and opens nothing.
#[tokio::test(start_paused = true)]
async fn who_asks_another_node_is_told_who_leads() {
    let town = Town::founded(1).await;
    let leader = town.wait_closed(SHARD).await;
    let other = (1..=3).find(|id| *id != leader).unwrap();
    let error = town.put(other, SHARD, "k", "v").await.unwrap_err();
    assert_eq!(error.effect(), Effect::None);
    let WriteError::NotLeader { leader: Some(hint), .. } = error else { panic!("{error:?}") };
    assert_eq!((hint.node.0, hint.address), (leader, format!("node-{leader}:1")));
    let error = town.get(other, SHARD, "k", ReadLevel::Linearizable).await.unwrap_err();
    assert!(matches!(error, ReadError::NotLeader { leader: Some(_), .. }), "{error:?}");
    assert!(town.is_closed(SHARD));
}

/// Rule G4.
#[tokio::test(start_paused = true)]
async fn covered_reads_open_nothing() {
    let town = Town::founded(1).await;
    let written = town.put_anywhere(SHARD, "k", "v").await;
    town.wait_closed(SHARD).await;
    let seen = Seen { incarnation: 0, position: written.receipt.position };
    let token = SessionToken { shards: BTreeMap::from([(SHARD, seen)]), ..SessionToken::new(keyspace_of(SHARD)) };
    for id in 1..=3 {
        let replica = town.replica(id, SHARD);
        let found = replica.get(Bytes::from_static(b"k"), ReadLevel::Local, context()).await.unwrap();
        assert_eq!(found.receipt.staleness, None, "nobody knows how stale it is");
        let session = RequestContext { session: Some(token.clone()), ..context() };
        let found = replica.get(Bytes::from_static(b"k"), ReadLevel::Session, session).await.unwrap();
        assert_eq!(found.entry.and_then(|entry| entry.value).as_deref(), Some(&b"v"[..]));
        assert!(found.receipt.position >= seen.position);
        let mut rows = replica.scan(everything(), ReadLevel::Local, context()).await.unwrap();
        assert_eq!(rows.next(1 << 20, 10).await.unwrap().len(), 1);
    }
    assert!(town.is_closed(SHARD));
    // One that is not covered opens the group, whatever comes of it.
    let mut unseen = token;
    unseen.shards.values_mut().for_each(|seen| seen.position.index += 1_000);
    let leader = town.last_leader(SHARD);
    let other = (1..=3).find(|id| *id != leader).unwrap();
    let session = RequestContext { session: Some(unseen), ..context() };
    let _ = town.replica(other, SHARD).get(Bytes::from_static(b"k"), ReadLevel::Session, session).await;
    assert_eq!(town.leader(SHARD), Some(leader), "the leader was asked to open it first");
}

fn everything() -> kvorum_storage::shard::ScanRange {
    kvorum_storage::shard::ScanRange { start: Bytes::new(), end: None, ..Default::default() }
}

/// measurements.md S4: groups that wake together must let the leader speak first.
#[tokio::test(start_paused = true)]
async fn sixteen_groups_that_open_together_keep_their_leaders() {
    let town = Town::founded(16).await;
    let shards: Vec<ShardId> = (1..=16).map(ShardId).collect();
    for _ in 0..3 {
        let mut before = Vec::new();
        for shard in &shards {
            let leader = town.wait_closed(*shard).await;
            before.push((leader, town.status(leader, *shard).term));
        }
        let writes = shards.iter().zip(&before).map(|(shard, (leader, _))| town.put(*leader, *shard, "k", "v"));
        for written in join_all(writes).await {
            written.unwrap();
        }
        sleep(Duration::from_secs(5)).await;
        let after: Vec<_> = shards
            .iter()
            .map(|shard| {
                let leader = town.leader(*shard).unwrap();
                (leader, town.status(leader, *shard).term)
            })
            .collect();
        assert_eq!(before, after);
    }
}

/// Rule T3: what is due in a closed group is gone within about a second, though nobody asks.
#[tokio::test(start_paused = true)]
async fn what_is_due_in_a_closed_group_expires() {
    let town = Town::founded(1).await;
    let leader = town.wait_for_leader(SHARD).await;
    let ttl_ms = 30_000;
    let born = Instant::now();
    town.replica(leader, SHARD).write(put("k", "v", Some(ttl_ms)), context()).await.unwrap();
    town.wait_closed(SHARD).await;
    assert!(born.elapsed() < Duration::from_millis(ttl_ms));
    sleep(Duration::from_millis(ttl_ms + 2_000) - born.elapsed()).await;
    for id in 1..=3 {
        assert_eq!(town.status(id, SHARD).state.next_expiry_ms, None, "node {id}");
        assert_eq!(town.get(id, SHARD, "k", ReadLevel::Local).await.unwrap(), None);
    }
    assert!(town.status(leader, SHARD).state.logged_time_ms >= BEGIN_MS + ttl_ms);
    town.wait_closed(SHARD).await;
}

/// Rule G1: after a restart nothing is resumed; the first write elects at once, not after an election timeout.
#[tokio::test(start_paused = true)]
async fn after_a_restart_of_all_the_first_write_elects_at_once() {
    let mut town = Town::founded(1).await;
    town.put_anywhere(SHARD, "k", "before").await;
    let leader = town.wait_closed(SHARD).await;
    let term = town.status(leader, SHARD).term;
    for id in 1..=3 {
        town.stop(id).await;
    }
    for id in 1..=3 {
        town.start(id).await;
    }
    assert!(town.is_closed(SHARD), "nobody needs it yet");
    wait_until("the nodes have met", || {
        town.nodes.values().all(|node| (1..=3).all(|id| node.liveness().is_alive(kvorum_api::NodeId(id))))
    })
    .await;
    let began = Instant::now();
    town.put(leader, SHARD, "k", "after").await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(200), "{:?}", began.elapsed());
    assert_eq!(town.leader(SHARD), Some(leader));
    assert!(town.status(leader, SHARD).term > term);
    assert_eq!(town.status(leader, SHARD).role, Role::Leader);
}
