//! Shards come and go with the map (rule G8), and what goes leaves nothing behind.

use crate::{
    groups::town::{SHARD, Town, context, first_replica_of, keyspace_of, map_of},
    support::{put, wait_until},
};
use kvorum_api::{Effect, NodeId, ReadLevel, ShardId, WriteError};
use kvorum_consensus::Replicator as _;
use kvorum_storage::{Engine as _, Journal as _};
use std::time::Duration;
use tokio::time::sleep;

/// Stays while [`SHARD`] is dropped.
const OTHER: ShardId = ShardId(2);

/// A dropped shard leaves nothing, and whoever still asks gets the truth.
#[tokio::test(start_paused = true)]
async fn a_shard_that_is_dropped_leaves_nothing() {
    let town = Town::founded(3).await;
    let (open, closed) = (ShardId(2), SHARD);
    town.put_anywhere(closed, "k", "v").await;
    town.wait_closed(closed).await;
    town.put_anywhere(open, "k", "v").await;
    let held: Vec<_> = [open, closed].iter().map(|shard| town.replica(1, *shard)).collect();
    assert!(town.remains(1, closed).len() > 5, "rows, diary, state, log");
    town.drop_shards(&[open, closed]);
    town.spread().await;
    for (id, node) in &town.nodes {
        for shard in [open, closed] {
            assert!(node.replica(shard).is_none());
            assert_eq!(town.remains(*id, shard), Vec::<String>::new(), "node {id}, shard {shard}");
        }
        assert!(node.status().replicas.iter().all(|replica| replica.shard == ShardId(3)));
    }
    for replica in held {
        let error = replica.write(put("k", "w", None), context()).await.unwrap_err();
        assert!(matches!(error, WriteError::Stopped { .. }), "{error:?}");
        assert_eq!(error.effect(), Effect::None);
        assert!(replica.get("k".into(), ReadLevel::Local, context()).await.is_err());
    }
    town.put_anywhere(ShardId(3), "k", "v").await;
}

/// Rule G8: a shard that is made while the nodes run is founded by its first founder.
#[tokio::test(start_paused = true)]
async fn a_shard_that_is_made_while_the_nodes_run_is_founded() {
    let town = Town::founded(1).await;
    town.wait_closed(SHARD).await;
    let new = ShardId(2);
    town.change(|map| {
        let mut both = map_of(2);
        map.shards.extend(both.shards.remove_entry(&new));
        map.keyspaces.extend(both.keyspaces.remove_entry(&keyspace_of(new)));
    })
    .await;
    wait_until("it is founded", || (1..=3).all(|id| town.status(id, new).state.settings.is_some())).await;
    town.put_anywhere(new, "k", "v").await;
    assert!(town.is_closed(SHARD));
}

/// The map only grows: an older one changes nothing.
#[tokio::test(start_paused = true)]
async fn an_older_map_changes_nothing() {
    let town = Town::founded(1).await;
    let mut older = map_of(1);
    older.shards.clear();
    older.revision = 0;
    town.nodes[&1].reconcile(&older).await.unwrap();
    assert!(town.nodes[&1].replica(SHARD).is_some());
    sleep(Duration::from_secs(1)).await;
    town.put_anywhere(SHARD, "k", "v").await;
}

/// Two shards with something in them, everywhere; the groups are closed and flushed.
async fn filled() -> Town {
    let town = Town::founded(2).await;
    for shard in [SHARD, OTHER] {
        town.put_anywhere(shard, "k", "v").await;
        town.wait_closed(shard).await;
    }
    town
}

/// Nothing is left of the dropped shard on node 3, and everything of the other one.
async fn is_clean(town: &Town) {
    assert!(town.nodes[&3].replica(SHARD).is_none());
    assert_eq!(town.remains(3, SHARD), Vec::<String>::new());
    wait_until("the nodes have met", || town.nodes[&3].liveness().is_alive(NodeId(1))).await;
    let found = town.get(3, OTHER, "k", ReadLevel::Local).await.expect("it holds the other one");
    assert_eq!(found.as_deref(), Some("v"));
}

/// A shard dropped while the node was down is erased when it learns of it: from a map that names the shard no more, as
/// after a crash between keeping the map and erasing, or from a newer one than the one it began with.
#[tokio::test(start_paused = true)]
async fn what_was_dropped_while_the_node_was_down_is_erased() {
    for is_copy_old in [false, true] {
        for is_crash in [false, true] {
            let mut town = filled().await;
            if is_crash {
                town.crash(3).await;
            } else {
                town.stop(3).await;
            }
            let old = town.map.lock().clone();
            town.drop_shards(&[SHARD]);
            town.spread().await;
            if is_copy_old {
                town.start_from(3, &old).await;
                assert!(town.nodes[&3].replica(SHARD).is_some());
                assert!(!town.remains(3, SHARD).is_empty());
                town.spread().await;
            } else {
                town.start(3).await;
            }
            is_clean(&town).await;
        }
    }
}

/// Power is lost at every step of erasing; the next life, with either map, finishes what is left. Rule G18: with the
/// older map the replica does not begin again with what erasing has left of it.
#[tokio::test(start_paused = true)]
async fn a_dropped_shard_is_erased_whatever_crashes_when() {
    for is_copy_old in [false, true] {
        for steps in 0.. {
            let mut town = filled().await;
            let old = town.map.lock().clone();
            town.drop_shards(&[SHARD]);
            let new = town.map.lock().clone();
            town.engines[&3].burn_after(steps);
            let is_done = town.nodes[&3].reconcile(&new).await.is_ok();
            town.crash(3).await;
            if is_copy_old {
                let begun = town.try_start_from(3, &old).await;
                assert!(begun.is_err() && town.nodes[&3].replica(SHARD).is_none(), "after {steps} steps");
                town.spread().await;
            } else {
                town.start(3).await;
            }
            is_clean(&town).await;
            if is_done {
                assert!(steps >= 3, "write, flush, and flush for all: {steps}");
                break;
            }
        }
    }
}

/// The same for what an earlier life has left: it is found again, however often erasing it is interrupted.
#[tokio::test(start_paused = true)]
async fn erasing_what_an_earlier_life_left_is_finished_after_any_crash() {
    let mut town = filled().await;
    town.crash(3).await;
    let mut unknowing = town.map.lock().clone();
    (unknowing.counters.next_shard, unknowing.counters.next_keyspace) = (SHARD, keyspace_of(SHARD));
    unknowing.counters.next_replica = first_replica_of(SHARD);
    unknowing.shards.remove(&SHARD);
    unknowing.keyspaces.remove(&keyspace_of(SHARD));
    town.drop_shards(&[SHARD]);
    let new = town.map.lock().clone();
    for steps in 0.. {
        town.start_from(3, &unknowing).await;
        assert!(!town.remains(3, SHARD).is_empty(), "the journal is the last to forget");
        town.engines[&3].burn_after(steps);
        let is_done = town.nodes[&3].reconcile(&new).await.is_ok();
        town.crash(3).await;
        if is_done {
            assert!(steps >= 2, "write and flush at least: {steps}");
            break;
        }
    }
    town.start(3).await;
    is_clean(&town).await;
}

/// An engine that fails for a while: the shard serves nobody meanwhile, and is erased by a later round.
#[tokio::test(start_paused = true)]
async fn what_could_not_be_erased_is_tried_again() {
    for steps in 0..3 {
        let town = filled().await;
        let held = town.replica(3, SHARD);
        town.drop_shards(&[SHARD]);
        let new = town.map.lock().clone();
        town.engines[&3].burn_after(steps);
        for _ in 0..2 {
            let error = town.nodes[&3].reconcile(&new).await.unwrap_err().to_string();
            assert!(error.contains("shard 1") && error.contains("not all of it is erased"), "{error}");
            assert!(town.nodes[&3].replica(SHARD).is_none());
            assert!(held.get("k".into(), ReadLevel::Local, context()).await.is_err());
            assert!(town.journals[&3].groups().contains(&SHARD.into()), "found again, whatever happens now");
        }
        town.engines[&3].burn_after(u64::MAX);
        town.nodes[&3].reconcile(&new).await.unwrap();
        is_clean(&town).await;
        town.engines[&3].flush().unwrap();
    }
}

/// Ids only grow: a map that has not counted a shard yet cannot have dropped it.
#[tokio::test(start_paused = true)]
async fn what_an_older_map_has_not_counted_is_left_alone() {
    let mut town = filled().await;
    town.stop(3).await;
    let newest = town.map.lock().clone();
    let mut older = newest.clone();
    older.shards.remove(&OTHER);
    older.keyspaces.remove(&keyspace_of(OTHER));
    (older.counters.next_shard, older.counters.next_keyspace) = (OTHER, keyspace_of(OTHER));
    older.counters.next_replica = first_replica_of(OTHER);
    older.revision -= 1;
    town.start_from(3, &older).await;
    assert!(town.nodes[&3].replica(OTHER).is_none());
    town.spread().await;
    assert_eq!(town.get(3, OTHER, "k", ReadLevel::Local).await.unwrap().as_deref(), Some("v"));
}
