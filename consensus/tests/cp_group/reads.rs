//! Reads: what each level costs and what it says.

use crate::cp_group::world::{World, context, put};
use futures::future::join_all;
use kvorum_api::{NodeId, ReadError, ReadLevel, Refused};
use kvorum_consensus::Replicator;
use kvorum_storage::shard::ScanRange;
use std::time::Duration;

/// Design section 7: read-index, single-flight per group.
#[tokio::test(start_paused = true)]
async fn reads_that_arrive_together_share_a_round() {
    let world = World::founded().await;
    let leader = world.leader().await;
    world.put(leader, "k", "v").await.unwrap();
    let before = world.group(leader).read_rounds();
    let reads = (0..200).map(|_| world.get(leader, "k", ReadLevel::Linearizable));
    assert!(join_all(reads).await.into_iter().all(|found| found.is_ok()));
    let rounds = world.group(leader).read_rounds() - before;
    assert!(rounds <= 2, "200 reads took {rounds} rounds");
}

/// Design section 7: arrivals join the next round, never one already under way.
#[tokio::test(start_paused = true)]
async fn a_read_never_joins_a_round_that_has_started() {
    let world = World::founded().await;
    let leader = world.leader().await;
    world.put(leader, "k", "v").await.unwrap();
    let before = world.group(leader).read_rounds();
    let late = async {
        // The first round takes two milliseconds on its way.
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(world.group(leader).read_rounds() - before, 1, "the first round is under way");
        join_all((0..50).map(|_| world.get(leader, "k", ReadLevel::Linearizable))).await
    };
    let (first, late) = tokio::join!(world.get(leader, "k", ReadLevel::Linearizable), late);
    assert!(first.is_ok() && late.into_iter().all(|found| found.is_ok()));
    assert_eq!(world.group(leader).read_rounds() - before, 2);
}

#[tokio::test(start_paused = true)]
async fn a_follower_refuses_linearizable_reads_and_names_the_leader() {
    let world = World::founded().await;
    let leader = world.leader().await;
    let refused = world.get(world.follower_of(leader), "k", ReadLevel::Linearizable).await.unwrap_err();
    let ReadError::NotLeader { leader: Some(hint), .. } = refused else { panic!("{refused:?}") };
    assert_eq!(hint.node, NodeId(leader));
}

/// A deposed leader that has not heard of it must not answer from what it has.
#[tokio::test(start_paused = true)]
async fn a_leader_that_was_cut_off_answers_no_linearizable_read() {
    let world = World::founded().await;
    let old = world.leader().await;
    world.put(old, "k", "old").await.unwrap();
    world.net.isolate(old);
    world.eventually("another one leads", || world.leader_now().is_some_and(|leader| leader != old)).await;
    let new = world.leader_now().unwrap();
    world.eventually("it serves", || world.group(new).status().state.applied.position.is_some()).await;
    while world.put(new, "k", "new").await.is_err() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let refused = world.get(old, "k", ReadLevel::Linearizable).await.unwrap_err();
    assert!(
        matches!(
            refused,
            ReadError::NoQuorum { .. } | ReadError::NotLeader { .. } | ReadError::DeadlineExceeded { .. }
        ),
        "{refused:?}"
    );
    let local = world.get(old, "k", ReadLevel::Local).await.unwrap();
    assert_eq!(local.entry.unwrap().value.unwrap(), "old", "local reads what is there");
    world.net.heal();
    assert_eq!(world.value("k").await.as_deref(), Some("new"));
}

/// Rule R2: unknown after a start, then bounded, growing while cut off, and never below the truth.
#[tokio::test(start_paused = true)]
async fn local_says_how_stale_it_may_be() {
    let mut world = World::founded().await;
    let leader = world.leader().await;
    world.put(leader, "k", "v").await.unwrap();
    world.converged().await;
    let follower = world.follower_of(leader);
    world.crash(follower).await;
    world.start(follower).await;
    let group = world.group(follower);
    assert_eq!(group.status().staleness, None, "unknown after a start");
    world.eventually("the follower knows", || group.status().staleness.is_some()).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let fresh = world.get(follower, "k", ReadLevel::Local).await.unwrap().receipt.staleness.unwrap();
    assert!(fresh > Duration::ZERO && fresh <= Duration::from_millis(1_000), "{fresh:?}");
    world.net.isolate(follower);
    tokio::time::sleep(Duration::from_secs(20)).await;
    let stale = world.get(follower, "k", ReadLevel::Local).await.unwrap().receipt.staleness.unwrap();
    assert!(stale >= Duration::from_secs(20) && stale <= Duration::from_secs(21), "{stale:?}");
}

/// Rule R3: an append that was long on its way makes no follower look fresh.
#[tokio::test(start_paused = true)]
async fn a_slow_network_is_part_of_the_staleness() {
    let world = World::founded().await;
    let leader = world.leader().await;
    let follower = world.follower_of(leader);
    world.net.delay(leader, follower, Duration::from_millis(200));
    tokio::time::sleep(Duration::from_secs(10)).await;
    // A heartbeat leaves when the acknowledgement it speaks of is a heartbeat old, and then is on its way: at its
    // lowest the bound holds both.
    for _ in 0..200 {
        let staleness = world.group(follower).status().staleness.unwrap();
        assert!(staleness >= Duration::from_millis(400), "{staleness:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn levels_that_are_not_offered_are_refused_by_name() {
    let world = World::founded().await;
    let leader = world.leader().await;
    for level in [ReadLevel::One, ReadLevel::Quorum, ReadLevel::All] {
        let refused = world.get(leader, "k", level).await.unwrap_err();
        let ReadError::Refused(Refused::LevelNotOffered { level: named, offered, .. }) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(named, level);
        assert_eq!(offered, "linearizable, session, bounded or local");
    }
}

#[tokio::test(start_paused = true)]
async fn a_scan_streams_one_unmoving_view_in_bounded_portions() {
    let world = World::founded().await;
    let leader = world.leader().await;
    let group = world.group(leader);
    join_all((0..100).map(|n| {
        let (group, command) = (group.clone(), put(&format!("k{n:03}"), "v"));
        async move { group.write(command, context(5_000)).await.unwrap() }
    }))
    .await;
    let mut rows = group.scan(ScanRange::default(), ReadLevel::Linearizable, context(5_000)).await.unwrap();
    assert_eq!(rows.receipt().level, Some(ReadLevel::Linearizable));
    world.put(leader, "k000x", "later").await.unwrap();
    let mut keys = Vec::new();
    loop {
        let portion = rows.next(1 << 20, 7).await.unwrap();
        if portion.is_empty() {
            break;
        }
        assert!(portion.len() <= 7);
        keys.extend(portion.into_iter().map(|row| row.key));
    }
    assert_eq!(keys.len(), 100);
    assert!(keys.is_sorted());
}
