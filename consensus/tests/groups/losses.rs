//! Nodes are lost while groups are closed, or while they are being closed (rules G1-G3).

use crate::{
    groups::town::{SHARD, Town, context, is_written},
    support::{put, wait_until},
};
use kvorum_api::{Effect, NodeId, ReadLevel};
use kvorum_consensus::{Replicator as _, peers::MessageKind, replicator::Role};
use kvorum_storage::{
    Journal as _,
    journal::{Completion, JournalOptions, Mark, MemJournal},
};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Rule G3.
#[tokio::test(start_paused = true)]
async fn when_the_leader_dies_while_closed_others_serve() {
    let mut town = Town::founded(1).await;
    town.put_anywhere(SHARD, "k", "before").await;
    let leader = town.wait_closed(SHARD).await;
    town.crash(leader).await;
    let survivor = *town.nodes.keys().next().unwrap();
    wait_until("the loss is seen", || town.nodes.values().all(|node| node.liveness().is_lost(NodeId(leader)))).await;
    let began = Instant::now();
    town.put(survivor, SHARD, "k", "after").await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(500), "it stands at once: {:?}", began.elapsed());
    assert_eq!(town.leader(SHARD), Some(survivor));
    town.wait_closed(SHARD).await;
    // The lost one comes back, closed as everything after a start, and is brought up to date.
    town.start(leader).await;
    wait_until("it has caught up", || town.is_converged(SHARD)).await;
    assert_eq!(town.get(leader, SHARD, "k", ReadLevel::Local).await.unwrap().as_deref(), Some("after"));
}

/// Rule G2: the leader dies between the answers and its own end.
#[tokio::test(start_paused = true)]
async fn a_leader_that_dies_between_the_answers_and_its_own_end_loses_nothing() {
    let mut town = Town::founded(1).await;
    town.put_anywhere(SHARD, "k", "v").await;
    let leader = town.wait_for_leader(SHARD).await;
    town.wire.lose_replies(MessageKind::Close, u32::MAX);
    let followers: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    wait_until("the followers have closed", || followers.iter().all(|id| town.status(*id, SHARD).role == Role::Closed))
        .await;
    assert_eq!(town.leader(SHARD), Some(leader), "it has not heard their answers");
    town.crash(leader).await;
    town.wire.lose_replies(MessageKind::Close, 0);
    town.put_anywhere(SHARD, "k", "w").await;
    town.start(leader).await;
    wait_until("it has caught up", || town.is_converged(SHARD)).await;
}

/// Rule T3: the last leader's node is lost, and the next founder sees to what is due.
#[tokio::test(start_paused = true)]
async fn what_is_due_expires_though_the_leaders_node_is_lost() {
    let mut town = Town::founded(1).await;
    let leader = town.wait_for_leader(SHARD).await;
    let (ttl, born) = (Duration::from_secs(30), Instant::now());
    town.replica(leader, SHARD).write(put("k", "v", Some(30_000)), context()).await.unwrap();
    let leader = town.wait_closed(SHARD).await;
    town.crash(leader).await;
    sleep(ttl + Duration::from_secs(3) - born.elapsed()).await;
    for id in town.nodes.keys() {
        assert_eq!(town.status(*id, SHARD).state.next_expiry_ms, None, "node {id}");
    }
}

/// Rules G1, G3: a leader that was deposed while it was closed resumes, and serves nothing stale.
#[tokio::test(start_paused = true)]
async fn a_restored_leader_that_was_deposed_serves_nothing_stale_and_loses_nothing() {
    let town = Town::founded(1).await;
    town.put_anywhere(SHARD, "k", "old").await;
    let deposed = town.wait_closed(SHARD).await;
    town.wire.cut(&[deposed]);
    sleep(Duration::from_secs(3)).await;
    let other = (1..=3).find(|id| *id != deposed).unwrap();
    town.put(other, SHARD, "k", "new").await.unwrap();
    // Alone it can prove nothing and decide nothing.
    assert!(town.get(deposed, SHARD, "k", ReadLevel::Linearizable).await.is_err());
    let error = town.put(deposed, SHARD, "k", "lost").await.unwrap_err();
    assert_eq!(error.effect(), Effect::None, "nothing was appended without a majority's word: {error:?}");
    town.wire.cut(&[]);
    for _ in 0..100 {
        if let Ok(found) = town.get(deposed, SHARD, "k", ReadLevel::Linearizable).await {
            assert_eq!(found.as_deref(), Some("new"));
        }
        sleep(Duration::from_millis(20)).await;
    }
    wait_until("all agree", || town.is_converged(SHARD)).await;
    let leader = town.wait_for_leader(SHARD).await;
    assert_eq!(town.get(leader, SHARD, "k", ReadLevel::Linearizable).await.unwrap().as_deref(), Some("new"));
}

/// Rule G3: it asks for the vote of a closed replica whose leader lives, and is refused.
#[tokio::test(start_paused = true)]
async fn a_follower_that_was_cut_off_deposes_nobody_who_sleeps() {
    let town = Town::founded(1).await;
    let leader = town.wait_for_leader(SHARD).await;
    let term = town.status(leader, SHARD).term;
    let cut = (1..=3).find(|id| *id != leader).unwrap();
    town.wire.cut(&[cut]);
    wait_until("the others have closed", || {
        (1..=3).filter(|id| *id != cut).all(|id| town.status(id, SHARD).role == Role::Closed)
    })
    .await;
    town.wire.cut(&[]);
    sleep(Duration::from_secs(20)).await;
    town.wait_closed(SHARD).await;
    assert_eq!((town.last_leader(SHARD), town.status(leader, SHARD).term), (leader, term));
}

/// Rule G3: whoever names a leader that does not lead sends callers away only for as long as a leader takes to speak.
#[tokio::test(start_paused = true)]
async fn replicas_that_name_each_other_as_leader_serve_all_the_same() {
    let mut town = Town::founded(1).await;
    town.put_anywhere(SHARD, "k", "v").await;
    let first = town.wait_closed(SHARD).await;
    let (term, others) = (town.status(first, SHARD).term, (1..=3).filter(|id| *id != first));
    let second = others.min().unwrap();
    let named = town.replica(second, SHARD).id();
    for id in 1..=3 {
        town.stop(id).await;
    }
    // The first has heard of an election of the second that the second itself does not remember.
    let disk = town.machines[&first].journal.clone();
    let journal = MemJournal::open(disk.clone(), JournalOptions::small()).unwrap();
    let vote = [&[1][..], &(term + 1).to_be_bytes(), &named.0.to_be_bytes(), &[1]].concat();
    journal.mark(SHARD.into(), Mark::Vote(vote.into()), Completion::None).unwrap();
    journal.stop();
    disk.kill();
    for id in [first, second] {
        town.start(id).await;
    }
    assert_eq!(town.status(first, SHARD).leader, Some(NodeId(second)));
    assert_eq!(town.status(second, SHARD).leader, Some(NodeId(first)));
    wait_until("the nodes have met", || town.nodes[&first].liveness().is_alive(NodeId(second))).await;
    wait_until("and the reverse", || town.nodes[&second].liveness().is_alive(NodeId(first))).await;
    let began = Instant::now();
    town.put_anywhere(SHARD, "k", "w").await;
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

/// A node that can promise nothing more answers hellos all the same. To its groups it is lost: another leads, and sees
/// to what is due (rule T3).
#[tokio::test(start_paused = true)]
async fn a_closed_group_whose_leader_is_poisoned_is_led_by_another() {
    let town = Town::founded(1).await;
    let first = town.wait_for_leader(SHARD).await;
    let (ttl, born) = (Duration::from_secs(40), Instant::now());
    town.replica(first, SHARD).write(put("k", "v", Some(40_000)), context()).await.unwrap();
    let poisoned = town.wait_closed(SHARD).await;
    poison(&town, poisoned).await;
    sleep(ttl + Duration::from_secs(5) - born.elapsed()).await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != poisoned).collect();
    for id in &others {
        assert_eq!(town.status(*id, SHARD).state.next_expiry_ms, None, "node {id}");
    }
    wait_until("another leads", || town.leader(SHARD).is_some_and(|leader| leader != poisoned)).await;
    let leader = town.leader(SHARD).unwrap();
    town.put(leader, SHARD, "k", "w").await.unwrap();
}

/// Rule G2: a follower on a poisoned node is skipped like one on a dead node.
#[tokio::test(start_paused = true)]
async fn a_group_closes_although_a_follower_is_poisoned() {
    let town = Town::founded(1).await;
    let leader = town.wait_for_leader(SHARD).await;
    let poisoned = (1..=3).find(|id| *id != leader).unwrap();
    poison(&town, poisoned).await;
    town.put_anywhere(SHARD, "k", "v").await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != poisoned).collect();
    wait_until("the others have closed", || others.iter().all(|id| town.status(*id, SHARD).role == Role::Closed)).await;
    let offers = town.wire.arrived(MessageKind::Close);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(town.wire.arrived(MessageKind::Close), offers, "it stays closed");
}

/// Its next sync fails; it makes one soon, for its note.
async fn poison(town: &Town, id: u64) {
    town.machines[&id].journal.fail_next_sync();
    let why = || town.nodes[&id].status().degraded;
    wait_until("the poison", || why().iter().any(|why| why.starts_with("poisoned"))).await;
}

/// Rule G3: whoever refuses its vote because the leader lives does so only for as long as a leader takes to speak.
#[tokio::test(start_paused = true)]
async fn a_closed_group_is_led_by_who_cannot_hear_its_leader_if_nobody_else_opens_it() {
    let town = Town::founded(1).await;
    town.put_anywhere(SHARD, "k", "v").await;
    let leader = town.wait_closed(SHARD).await;
    let deaf = (1..=3).find(|id| *id != leader).unwrap();
    town.wire.cut_pair(leader, deaf);
    wait_until("the loss", || town.nodes[&deaf].liveness().is_lost(NodeId(leader))).await;
    let began = Instant::now();
    while town.put(deaf, SHARD, "k", "w").await.is_err() {
        assert!(began.elapsed() < Duration::from_secs(10), "it is refused for ever");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Rule G5: who has promised nothing for longer than a lease is not held up by leases.
#[tokio::test(start_paused = true)]
async fn a_closed_group_with_leases_fails_over_at_once() {
    let mut town = Town::empty(1).await;
    town.map.lock().keyspaces.values_mut().for_each(|row| row.has_leases = true);
    town.found().await;
    town.put_anywhere(SHARD, "k", "v").await;
    let leader = town.wait_closed(SHARD).await;
    let heir = (1..=3).find(|id| *id != leader).unwrap();
    sleep(Duration::from_secs(2)).await;
    town.crash(leader).await;
    wait_until("the loss", || town.nodes.values().all(|node| node.liveness().is_lost(NodeId(leader)))).await;
    let began = Instant::now();
    town.put(heir, SHARD, "k", "w").await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
}

/// Rule G3: the leader that the records name has no replica any more. Its node lives, and has nothing to open.
#[tokio::test(start_paused = true)]
async fn a_closed_group_whose_leader_has_moved_away_is_led_by_who_is_asked() {
    let town = Town::founded(1).await;
    town.put_anywhere(SHARD, "k", "v").await;
    let former = town.wait_closed(SHARD).await;
    town.change(|map| {
        let row = map.shards.get_mut(&SHARD).expect("a shard of the map");
        row.replicas.retain(|replica| replica.node.0 != former);
        map.counters.serial += 1;
    })
    .await;
    let asked = (1..=3).find(|id| *id != former).expect("two are left");
    let written = town.put(asked, SHARD, "k", "w").await.expect("it does not send anybody to a node that has nothing");
    assert!(is_written(&written));
}
