//! Session and bounded reads, and what their receipts say.

use crate::cp_group::world::{SPEC, World, context};
use bytes::Bytes;
use futures::future::join_all;
use kvorum_api::{KeyspaceId, NodeId, ReadError, ReadLevel, Receipt, Refused, SessionToken};
use kvorum_consensus::{Replicator, RequestContext, replicator::Found};
use kvorum_storage::shard::ScanRange;
use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

fn having_seen(receipt: &Receipt, timeout_ms: u64) -> RequestContext {
    RequestContext { session: Some(SessionToken::of(SPEC.keyspace, receipt)), ..context(timeout_ms) }
}

async fn bounded(world: &World, node: u64, bound_ms: u64) -> Result<Found, ReadError> {
    let level = ReadLevel::Bounded(Duration::from_millis(bound_ms));
    world.group(node).get(Bytes::from_static(b"k"), level, context(1_000)).await
}

/// Design section 7: what one node's reply lets a session see, another node waits for and then answers.
#[tokio::test(start_paused = true)]
async fn a_token_of_one_node_is_honoured_by_another() {
    let world = World::founded().await;
    let leader = world.leader().await;
    let follower = world.follower_of(leader);
    for n in 0..20 {
        let written = world.put(leader, "k", &n.to_string()).await.unwrap();
        let behind = world.group(follower).status().state.applied.position.unwrap() < written.receipt.position;
        let context = having_seen(&written.receipt, 5_000);
        let found = world.group(follower).get("k".into(), ReadLevel::Session, context.clone()).await.unwrap();
        assert_eq!(found.entry.unwrap().value.unwrap(), n.to_string().as_str());
        assert!(found.receipt.position >= written.receipt.position);
        assert_eq!((found.receipt.level, found.receipt.node), (Some(ReadLevel::Session), NodeId(follower)));
        assert!(behind, "the follower hears of the decision a heartbeat later, so it had to wait");
        let rows = world.group(follower).scan(ScanRange::default(), ReadLevel::Session, context).await.unwrap();
        assert!(rows.receipt().position >= written.receipt.position);
    }
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_not_met_within_a_second_is_sent_to_the_leader() {
    let world = World::founded().await;
    let leader = world.leader().await;
    let follower = world.follower_of(leader);
    world.converged().await;
    world.net.isolate(follower);
    let written = world.put(leader, "k", "v").await.unwrap();
    let began = Instant::now();
    let refused =
        world.group(follower).get("k".into(), ReadLevel::Session, having_seen(&written.receipt, 30_000)).await;
    let ReadError::SessionNotMet { at, wanted, leader: Some(hint), .. } = refused.unwrap_err() else {
        panic!("the follower cannot have it")
    };
    assert!(began.elapsed() <= Duration::from_millis(1_010), "{:?}", began.elapsed());
    assert_eq!((wanted, hint.node), (written.receipt.position, NodeId(leader)));
    assert!(at < wanted);
    // A session that has seen less is served all the same.
    let earlier = Receipt { position: at, ..written.receipt };
    assert!(world.group(follower).get("k".into(), ReadLevel::Session, having_seen(&earlier, 100)).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_token_of_another_keyspace_or_incarnation_is_refused_by_name() {
    let world = World::founded().await;
    let leader = world.leader().await;
    let written = world.put(leader, "k", "v").await.unwrap();
    let other_keyspace = SessionToken::of(KeyspaceId(9), &written.receipt);
    let recovered = Receipt { incarnation: 1, ..written.receipt };
    for token in [other_keyspace, SessionToken::of(SPEC.keyspace, &recovered)] {
        let context = RequestContext { session: Some(token), ..context(1_000) };
        let refused = world.group(leader).get("k".into(), ReadLevel::Session, context).await.unwrap_err();
        assert!(
            matches!(refused, ReadError::Refused(Refused::Malformed { field: "session_token", .. })),
            "{refused:?}"
        );
    }
}

/// Rule R1: a proof that is young enough costs nothing; otherwise the leader is asked, once for all who wait.
#[tokio::test(start_paused = true)]
async fn a_healthy_follower_answers_bounded_reads_from_a_proof_or_a_mark() {
    let world = World::founded().await;
    let leader = world.leader().await;
    let follower = world.follower_of(leader);
    world.put(leader, "k", "v").await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let group = world.group(follower);
    let (marks, rounds) = (group.marks(), world.group(leader).read_rounds());
    for _ in 0..50 {
        let found = bounded(&world, follower, 1_000).await.unwrap();
        assert!(found.receipt.staleness.unwrap() <= Duration::from_millis(1_000));
        tokio::time::sleep(Duration::from_millis(17)).await;
    }
    assert_eq!((group.marks(), world.group(leader).read_rounds()), (marks, rounds), "nobody had to be asked");
    for _ in 0..20 {
        let written = world.put(leader, "k", "new").await.unwrap();
        // What is known here already is too old then.
        tokio::time::sleep(Duration::from_millis(21)).await;
        let found = join_all((0..10).map(|_| bounded(&world, follower, 20))).await;
        for found in found {
            let receipt = found.unwrap().receipt;
            assert!(receipt.staleness.unwrap() <= Duration::from_millis(20), "{receipt:?}");
            assert!(receipt.position >= written.receipt.position, "the mark was asked for after the write");
        }
    }
    let asked = group.marks() - marks;
    assert!((1..=40).contains(&asked), "200 reads asked for {asked} marks");
}

/// Rule R1: what cannot be proven is refused in time, and names who surely is fresh.
#[tokio::test(start_paused = true)]
async fn a_follower_that_was_cut_off_refuses_bounded_reads_in_time() {
    let world = World::founded().await;
    let leader = world.leader().await;
    let follower = world.follower_of(leader);
    world.put(leader, "k", "v").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.net.isolate(follower);
    tokio::time::sleep(Duration::from_millis(600)).await;
    let began = Instant::now();
    let refused = bounded(&world, follower, 200).await.unwrap_err();
    assert!(matches!(refused, ReadError::TooStale { leader: Some(ref hint), .. } if hint.node == NodeId(leader)));
    assert!(began.elapsed() <= Duration::from_secs(1));
    // While the last proof is young enough for a larger bound, that is honoured; a pause makes it too old.
    assert!(bounded(&world, follower, 2_000).await.is_ok());
    tokio::time::advance(Duration::from_secs(2)).await;
    let refused = bounded(&world, follower, 2_000).await.unwrap_err();
    assert!(matches!(refused, ReadError::TooStale { .. }), "{refused:?}");
}

/// Rule R1: the age counts until the answer is handed out, so a mark that was long on its way proves no small bound.
#[tokio::test(start_paused = true)]
async fn a_slow_mark_proves_only_a_larger_bound() {
    let world = World::founded().await;
    let leader = world.leader().await;
    let follower = world.follower_of(leader);
    world.net.delay(follower, leader, Duration::from_millis(300));
    tokio::time::sleep(Duration::from_secs(5)).await;
    let refused = bounded(&world, follower, 50).await.unwrap_err();
    assert!(matches!(refused, ReadError::TooStale { .. }), "{refused:?}");
    let found = bounded(&world, follower, 350).await.unwrap();
    assert!(found.receipt.staleness.unwrap() <= Duration::from_millis(350));
}

/// Rule R2: against the truth: an answer that misses an acknowledged write says so.
#[tokio::test(start_paused = true)]
async fn a_staleness_is_never_below_the_truth() {
    let world = World::founded().await;
    let leader = world.leader().await;
    let cut = world.follower_of(leader);
    world.put(leader, "k", "0").await.unwrap();
    world.converged().await;
    let mut acknowledged: VecDeque<(u64, Instant)> = VecDeque::new();
    let mut missed = 0;
    for n in 1..600_u64 {
        if n % 200 == 100 {
            world.net.isolate(cut);
        } else if n % 200 == 0 {
            world.net.heal();
        }
        if world.put(leader, "k", &n.to_string()).await.is_ok() {
            acknowledged.push_back((n, Instant::now()));
        }
        tokio::time::sleep(Duration::from_millis(n % 13)).await;
        for node in 1..=3 {
            for level in [ReadLevel::Local, ReadLevel::Bounded(Duration::from_millis(300)), ReadLevel::Session] {
                let Ok(found) = world.get(node, "k", level).await else { continue };
                let value: u64 =
                    String::from_utf8(found.entry.unwrap().value.unwrap().to_vec()).unwrap().parse().unwrap();
                let first_missed = acknowledged.iter().find(|(written, _)| *written > value);
                let Some((_, moment)) = first_missed else { continue };
                missed += 1;
                let said = found.receipt.staleness;
                assert!(said.is_none_or(|said| said >= moment.elapsed()), "node {node} {level}: {said:?}");
                let bound = Duration::from_millis(300);
                assert!(!matches!(level, ReadLevel::Bounded(_)) || said.is_some_and(|said| said <= bound));
            }
        }
    }
    assert!(missed > 100, "only {missed} answers missed a write: nothing was tested");
}
