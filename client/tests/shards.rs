//! The library against a scripted cluster of many shards: who is asked, what travels together, what a session sees.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod fake;

use bytes::Bytes;
use fake::{Fake, Fault, Seen, Told};
use kvorum_api::{PlacementRange, Sharding};
use kvorum_client::{Client, ClientError, Cp, Effect, FailureKind, Keyspace, Options, ReadLevel, Session, Transport};
use std::{collections::BTreeSet, future::IntoFuture as _, time::Duration};
use tokio::{task::JoinSet, time::Instant};
use tonic::Code;

/// Long enough for any machine; tests that wait for a deadline choose their own.
const PATIENCE: Duration = Duration::from_secs(30);

fn patient() -> Options {
    Options { timeout: PATIENCE, attempt_timeout: PATIENCE, ..Options::default() }
}

async fn orders_of(fake: &Fake, options: Options) -> Keyspace<Cp> {
    Client::connect(fake.endpoints(), options).await.unwrap().keyspace("orders")
}

/// Three nodes, eight shards by hash; shard n is led by node (n - 1) % 3.
fn eight_shards() -> Fake {
    let fake = Fake::sharded(3, Sharding::Hash, PlacementRange::of_hashes(8));
    fake.world.lock().leaders = (1..=8).map(|shard| (shard, (shard as usize - 1) % 3)).collect();
    fake
}

/// Two shards by range, cut at "m".
fn two_ranges(nodes: usize) -> Fake {
    Fake::sharded(nodes, Sharding::Range, PlacementRange::cut(&[Bytes::from_static(b"m")]))
}

fn keys(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("key-{number}")).collect()
}

fn shard_of(fake: &Fake, key: &str) -> u64 {
    fake.world.lock().shard_of(&Bytes::copy_from_slice(key.as_bytes())).id
}

fn stale(reason: &'static str, metadata: &[(&'static str, &'static str)]) -> Fault {
    Fault::Refuse(Told::new(Code::FailedPrecondition, reason, metadata))
}

#[tokio::test]
async fn every_key_goes_to_the_leader_of_its_shard_at_once() {
    let fake = eight_shards();
    let orders = orders_of(&fake, patient()).await;
    for key in keys(60) {
        orders.put(&key, "v").await.unwrap();
        let reply = orders.get(&key).await.unwrap();
        assert_eq!(reply.entry.unwrap().key, key);
        assert_eq!(reply.receipt.shard.0, shard_of(&fake, &key));
    }
    let world = fake.world.lock();
    assert_eq!(world.seen.len(), 120, "nobody was asked in vain");
    assert!(world.seen.iter().all(|seen| world.leader_of(seen.shard) == Some(seen.node)));
    assert_eq!(world.seen.iter().map(|seen| seen.shard).collect::<BTreeSet<_>>().len(), 8);
    assert!(world.handshakes <= 4, "the map is learnt once, not per request: {}", world.handshakes);
}

#[tokio::test]
async fn a_change_of_leaders_costs_one_hop_in_its_shard_alone() {
    let fake = eight_shards();
    let orders = orders_of(&fake, patient()).await;
    let keys = keys(40);
    for key in &keys {
        orders.put(key, "1").await.unwrap();
    }
    fake.world.lock().leaders.insert(4, 2);
    fake.world.lock().seen.clear();
    for key in &keys {
        orders.put(key, "2").await.unwrap();
    }
    let wrong: Vec<Seen> = {
        let world = fake.world.lock();
        world.seen.iter().filter(|seen| world.leader_of(seen.shard) != Some(seen.node)).cloned().collect()
    };
    assert_eq!(wrong.iter().map(|seen| (seen.shard, seen.node)).collect::<Vec<_>>(), [(4, 0)]);
}

#[tokio::test]
async fn an_old_epoch_takes_the_shard_from_the_error_without_a_greeting() {
    let fake = eight_shards();
    let orders = orders_of(&fake, patient()).await;
    orders.put("key-1", "1").await.unwrap();
    let shard = shard_of(&fake, "key-1");
    let greetings = fake.world.lock().handshakes;
    fake.world.lock().shards[shard as usize - 1].epoch = 7;
    fake.world.lock().seen.clear();
    assert_eq!(orders.put("key-1", "2").await.unwrap().receipt.epoch, 7);
    orders.put("key-1", "3").await.unwrap();
    assert_eq!(fake.seen("put").len(), 3, "refused once, then the new epoch is known");
    assert_eq!(fake.world.lock().handshakes, greetings);
}

/// I2: a map that changes under a write costs a greeting, and the write happens once.
#[tokio::test]
async fn a_map_of_other_shards_is_learnt_anew_and_the_write_happens_once() {
    let fake = two_ranges(2);
    let orders = orders_of(&fake, patient()).await;
    orders.increment("a", 1).await.unwrap();
    {
        // The keyspace was dropped and made anew under its name, with one shard of another number.
        let mut world = fake.world.lock();
        let mut shard = fake::shard::Shard::new(9, PlacementRange::all());
        shard.epoch = 3;
        world.shards = vec![shard];
        (world.revision, world.keyspace) = (2, 2);
    }
    let answer = orders.increment("a", 1).await.unwrap();
    assert_eq!((answer.number, answer.written.receipt.shard.0), (1, 9));
    assert_eq!(orders.increment("z", 1).await.unwrap().number, 1);
    assert_eq!(fake.applied(), 2);
}

#[tokio::test]
async fn a_keyspace_a_node_has_not_heard_of_yet_is_asked_for_once_more() {
    let fake = Fake::start(1);
    let client = Client::connect(fake.endpoints(), patient()).await.unwrap();
    client.keyspace("orders").put("a", "1").await.unwrap();
    let unknown = Told::new(Code::NotFound, "UNKNOWN_KEYSPACE", &[("effect", "none"), ("retry", "never")]);
    fake.fault(0, Fault::Refuse(unknown));
    client.keyspace("orders").put("a", "2").await.unwrap();
    assert_eq!(fake.value("a").as_deref(), Some("2"));
}

#[tokio::test]
async fn what_is_asked_at_once_rides_in_few_frames() {
    let fake = Fake::start(1);
    let orders = orders_of(&fake, patient()).await;
    let written = orders.put_many(keys(256).iter().map(|key| (key, "v"))).await;
    assert!(written.iter().all(Result::is_ok));
    let frames = fake.world.lock().frames.clone();
    assert_eq!(frames.iter().map(|(_, calls)| calls).sum::<usize>(), 256);
    assert!(frames.len() <= 16, "256 puts in {} frames", frames.len());
    assert!(fake.seen("put").iter().all(|seen| seen.deadline_sent));
}

#[tokio::test]
async fn tasks_that_run_at_once_share_frames_too() {
    let fake = Fake::start(1);
    let orders = orders_of(&fake, patient()).await;
    let mut tasks = JoinSet::new();
    for key in keys(256) {
        let orders = orders.clone();
        tasks.spawn(async move {
            for round in 0..4 {
                orders.put(&key, round.to_string()).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    let frames = fake.world.lock().frames.len();
    assert!(frames <= 512, "1,024 puts in {frames} frames");
}

/// I1, I3: a stream that breaks in the middle loses no acknowledged write and doubles none.
#[tokio::test]
async fn a_stream_that_breaks_in_the_middle_loses_and_doubles_nothing() {
    let fake = eight_shards();
    let orders = orders_of(&fake, patient()).await;
    for _ in 0..4 {
        for node in 0..3 {
            fake.fault(node, Fault::ApplyThenLose);
            fake.fault(node, Fault::Lose);
        }
    }
    let mut tasks = JoinSet::new();
    for task in 0..64 {
        let orders = orders.clone();
        tasks.spawn(async move {
            for _ in 0..5 {
                orders.increment(format!("n-{}", task % 8), 1).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    for key in 0..8 {
        assert_eq!(fake.value(&format!("n-{key}")).as_deref(), Some("40"), "n-{key}");
    }
}

/// I3: what a broken stream leaves in doubt is said so.
#[tokio::test]
async fn a_broken_stream_says_the_truth_about_each_write() {
    let fake = Fake::start(1);
    let orders = orders_of(&fake, patient()).await;
    fake.fault(0, Fault::ApplyThenLose);
    let error = orders.increment("n", 1).without_request_id().await.unwrap_err();
    assert_eq!(error.effect(), Effect::Unknown, "{error}");
    assert!(error.to_string().contains("the stream broke"), "{error}");
    assert_eq!(fake.value("n").as_deref(), Some("1"));
    orders.increment("n", 1).await.unwrap();
}

#[tokio::test]
async fn a_node_without_a_stream_is_asked_one_by_one() {
    let fake = eight_shards();
    fake.world.lock().offers_stream = false;
    let orders = orders_of(&fake, patient()).await;
    assert!(orders.put_many(keys(30).iter().map(|key| (key, "v"))).await.iter().all(Result::is_ok));
    assert!(orders.get_many(keys(30)).await.into_iter().all(|reply| reply.unwrap().entry.is_some()));
    assert!(fake.world.lock().frames.is_empty());
}

#[tokio::test]
async fn unary_is_there_for_who_wants_it() {
    let fake = eight_shards();
    let orders = orders_of(&fake, patient().transport(Transport::Unary)).await;
    orders.put("a", "1").await.unwrap();
    assert_eq!(orders.increment("n", 2).await.unwrap().number, 2);
    assert!(fake.world.lock().frames.is_empty());
}

#[tokio::test]
async fn one_silence_opens_the_breaker_and_nobody_waits_for_the_node_again() {
    let fake = Fake::start(3);
    let options = Options { attempt_timeout: Duration::from_millis(300), avoid: PATIENCE, ..patient() };
    let orders = orders_of(&fake, options).await;
    orders.put("a", "1").await.unwrap();
    fake.fault(0, Fault::Hang);
    fake.world.lock().leader = Some(1);
    orders.put("a", "2").await.unwrap();
    fake.world.lock().frozen.insert(0);
    for round in 0..20 {
        orders.put("a", round.to_string()).await.unwrap();
        orders.get("a").level(ReadLevel::Local).await.unwrap();
    }
    assert!(fake.world.lock().asked_frozen.is_empty());
}

#[tokio::test]
async fn a_node_that_is_back_is_found_by_a_probe() {
    let fake = Fake::start(2);
    let options = Options {
        attempt_timeout: Duration::from_millis(200),
        connect_timeout: Duration::from_millis(200),
        avoid: Duration::from_millis(100),
        ..patient()
    };
    let orders = orders_of(&fake, options).await;
    fake.world.lock().leader = Some(1);
    fake.world.lock().frozen.insert(0);
    let read = async || orders.get("a").level(ReadLevel::Local).await.unwrap().receipt.node.0;
    while !fake.world.lock().asked_frozen.contains(&0) {
        assert_eq!(read().await, 2);
    }
    fake.world.lock().frozen.clear();
    while read().await != 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn more_than_a_node_may_hold_is_refused_with_the_limit_by_name() {
    let fake = Fake::start(1);
    let orders = orders_of(&fake, Options { in_flight_operations_max: 2, ..patient() }).await;
    for _ in 0..2 {
        fake.fault(0, Fault::Hang);
    }
    let mut held = JoinSet::new();
    for _ in 0..2 {
        held.spawn(orders.put("a", "1").into_future());
    }
    while fake.seen("put").len() < 2 {
        tokio::task::yield_now().await;
    }
    let error = orders.put("a", "2").await.unwrap_err();
    let failure = error.failure().unwrap();
    assert_eq!((failure.kind, failure.limit.as_deref()), (FailureKind::Throttled, Some("in_flight_operations_max")));
    assert_eq!(error.effect(), Effect::None);
    held.abort_all();
    while held.join_next().await.is_some() {}
    orders.put("a", "3").await.unwrap();
}

#[tokio::test]
async fn a_session_goes_on_in_another_client() {
    let fake = eight_shards();
    let session = orders_of(&fake, patient()).await.session();
    assert!(session.token().is_empty(), "nothing seen yet");
    session.put("key-1", "1").await.unwrap();
    session.put("key-2", "2").await.unwrap();
    let token = session.token();

    // Replicas that are behind refuse what the token covers, and another one answers.
    fake.world.lock().behind = BTreeSet::from([0, 1]);
    let elsewhere = Session::from_token(&orders_of(&fake, patient()).await, &token).unwrap();
    for (key, value) in [("key-1", "1"), ("key-2", "2")] {
        fake.world.lock().behind.clear();
        let leader = {
            let shard = shard_of(&fake, key);
            let mut world = fake.world.lock();
            let leader = world.leader_of(shard).unwrap();
            world.behind = (0..3).filter(|node| *node != leader).collect();
            leader
        };
        for _ in 0..3 {
            let reply = elsewhere.get(key).await.unwrap();
            assert_eq!((&reply.entry.unwrap().value[..], reply.receipt.node.0), (value.as_bytes(), leader as u64 + 1));
        }
    }
    let reads = fake.seen("get");
    assert!(reads.iter().all(|seen| seen.level == "Session(0)"));
    let tokens = reads.iter().map(|seen| kvorum_api::SessionToken::decode(&seen.token).unwrap());
    assert!(tokens.zip(&reads).all(|(token, seen)| token.shards.keys().all(|shard| shard.0 == seen.shard)));
    let refused = Session::from_token(&orders_of(&fake, patient()).await, b"rubbish").unwrap_err();
    assert!(matches!(refused, ClientError::Refused(_)), "{refused}");
}

#[tokio::test]
async fn a_session_remembers_what_it_read() {
    let fake = two_ranges(2);
    let orders = orders_of(&fake, patient()).await;
    orders.put("a", "1").await.unwrap();
    let session = orders.session();
    session.get("a").level(ReadLevel::Local).await.unwrap();
    let seen = kvorum_api::SessionToken::decode(&session.token()).unwrap();
    assert_eq!(seen.shards.values().map(|seen| seen.position.index).collect::<Vec<_>>(), [1]);
}

/// R1: what cannot be proven by one replica is asked of the next, then of the leader, for the same moment.
#[tokio::test]
async fn a_bounded_read_goes_to_the_next_replica_and_then_to_the_leader() {
    let fake = Fake::start(3);
    let orders = orders_of(&fake, patient()).await;
    orders.put("a", "1").await.unwrap();
    fake.world.lock().behind = BTreeSet::from([1, 2]);
    for _ in 0..6 {
        let reply = orders.get("a").level(ReadLevel::Bounded(Duration::from_millis(200))).await.unwrap();
        assert_eq!(reply.receipt.level, Some(ReadLevel::Bounded(Duration::from_millis(200))));
        assert_eq!(reply.receipt.node.0, 1);
    }
    let reads = fake.seen("get");
    let asked: BTreeSet<usize> = reads.iter().map(|seen| seen.node).collect();
    assert_eq!(asked, BTreeSet::from([0, 1, 2]), "replicas are asked in turn");
    let bounds = reads.iter().map(|seen| {
        let ms = seen.level.strip_prefix("Bounded(").unwrap().trim_end_matches(')');
        ms.parse::<u128>().unwrap()
    });
    assert!(bounds.into_iter().all(|ms| (200..200 + PATIENCE.as_millis()).contains(&ms)));
}

#[tokio::test]
async fn a_bounded_read_nobody_can_prove_fails_within_its_deadline() {
    let fake = Fake::start(2);
    let orders = orders_of(&fake, patient()).await;
    fake.world.lock().behind = BTreeSet::from([0, 1]);
    let level = ReadLevel::Bounded(Duration::from_millis(10));
    let error = orders.get("a").level(level).timeout(Duration::from_millis(200)).await.unwrap_err();
    assert_eq!(error.failure().unwrap().reason, "TOO_STALE");
}

/// T1: a stamp another server refuses as ahead of its clock is forgotten, and the next greeting gives another.
#[tokio::test]
async fn a_stamp_ahead_is_forgotten_and_the_write_goes_through() {
    for transport in [Transport::Stream, Transport::Unary] {
        let fake = Fake::start(2);
        fake.world.lock().ahead_ms.insert(1, 3_600_000);
        let orders = orders_of(&fake, patient().transport(transport)).await;
        // The clock that is ahead hands its stamp out.
        while orders.get("a").level(ReadLevel::Local).await.unwrap().receipt.node.0 != 2 {}
        assert_eq!(orders.increment("n", 1).await.unwrap().number, 1);
        let seen = fake.seen("increment");
        assert_eq!(seen.len(), 2, "refused once");
        assert!(seen[1].stamp < seen[0].stamp && seen[1].stamp > 0);
        assert_eq!(seen[0].sequence, seen[1].sequence);
    }
}

/// I2: an unknown write in one shard holds back no other shard, and in its own shard a late copy is refused.
#[tokio::test]
async fn a_write_in_doubt_holds_back_its_own_shard_alone() {
    let fake = two_ranges(1);
    let orders = orders_of(&fake, patient()).await;
    fake.fault(0, Fault::Hang);
    let error = orders.put("a", "doubt").timeout(Duration::from_millis(200)).await.unwrap_err();
    let ClientError::Unknown(unknown) = error else { panic!("{error}") };
    fake.fault(0, Fault::Hold);
    fake.fault(0, Fault::Hang);
    drop(orders.put("z", "earlier").timeout(Duration::from_millis(200)).await.unwrap_err());
    // Both shards are written at once: the floor of "a" must stay, that of "z" must pass what was given up.
    let both = orders.put_many([("a", "1"), ("z", "later")]).await;
    assert!(both.iter().all(Result::is_ok), "{both:?}");
    assert_eq!(fake.deliver_held(), 0, "the late copy must be refused");
    assert_eq!(fake.value("z").as_deref(), Some("later"));
    assert!(unknown.retry_within(PATIENCE).await.is_ok(), "and what is in doubt can still be settled");
}

#[tokio::test]
async fn a_scan_reads_shard_after_shard_in_placement_order_and_goes_on_behind_a_key() {
    for fake in [eight_shards(), two_ranges(3)] {
        let orders = orders_of(&fake, patient()).await;
        let all: Vec<String> =
            (0..60).map(|number| format!("{}{number}", if number % 2 == 0 { "a" } else { "z" })).collect();
        assert!(orders.put_many(all.iter().map(|key| (key, "v"))).await.iter().all(Result::is_ok));
        let sharding = fake.world.lock().sharding;
        let mut expected: Vec<Bytes> = all.iter().map(|key| Bytes::copy_from_slice(key.as_bytes())).collect();
        expected.sort_by_key(|key| sharding.placement_key(key));
        for is_reverse in [false, true] {
            let scan = || if is_reverse { orders.scan().reverse() } else { orders.scan() };
            let mut found = Vec::new();
            let mut stream = scan().await.unwrap();
            while let Some(entry) = stream.next().await.unwrap() {
                found.push(entry.key);
            }
            assert_eq!(found, expected, "{sharding} {is_reverse}");
            assert_eq!(stream.receipts().len(), fake.world.lock().shards.len());
            for stop in [1, 17, 30, 31, 59, 60] {
                let mut head = scan().limit(stop).await.unwrap();
                while head.next().await.unwrap().is_some() {}
                let position = head.position().cloned().unwrap();
                assert_eq!(position, expected[stop as usize - 1]);
                let mut tail = scan().after(position).limit(7).await.unwrap();
                let mut rest = Vec::new();
                while let Some(entry) = tail.next().await.unwrap() {
                    rest.push(entry.key);
                }
                let until = expected.len().min(stop as usize + 7);
                assert_eq!(rest, expected[stop as usize..until], "{sharding} {is_reverse} {stop}");
            }
            expected.reverse();
        }
    }
}

#[tokio::test]
async fn bounds_on_a_keyspace_by_hash_need_a_full_scan() {
    let fake = eight_shards();
    let orders = orders_of(&fake, patient()).await;
    orders.put_many(keys(30).iter().map(|key| (key, "v"))).await;
    let error = orders.scan().prefix("key-1").await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused(refused) if refused.to_string().contains("full_scan")), "{error}");
    let mut scan = orders.scan().prefix("key-1").full_scan().await.unwrap();
    let mut found = BTreeSet::new();
    while let Some(entry) = scan.next().await.unwrap() {
        found.insert(entry.key);
    }
    assert_eq!(found.len(), 11);
}

#[tokio::test]
async fn a_scan_of_a_range_leaves_the_other_shards_alone() {
    let fake = two_ranges(1);
    let orders = orders_of(&fake, patient()).await;
    orders.put_many([("a", "1"), ("b", "2"), ("n", "3")]).await;
    let mut scan = orders.scan().prefix("a").await.unwrap();
    assert_eq!(scan.next().await.unwrap().unwrap().key, "a");
    assert!(scan.next().await.unwrap().is_none());
    assert_eq!(fake.seen("scan").iter().map(|seen| seen.shard).collect::<Vec<_>>(), [1]);
}

#[tokio::test]
async fn many_keys_answer_each_for_itself() {
    let fake = eight_shards();
    let orders = orders_of(&fake, patient()).await;
    let operations = vec![
        kvorum_client::Put::new("a", "1").into(),
        kvorum_client::Increment::new("a", 1).into(),
        kvorum_client::Put::new("", "no key").into(),
        kvorum_client::Delete::new("gone").into(),
    ];
    let results = orders.write_many(operations).await;
    assert_eq!(results.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, true, false, true]);
    let replies = orders.get_many(["a", "gone"]).await;
    let values: Vec<_> = replies.into_iter().map(|reply| reply.unwrap().entry.map(|entry| entry.value)).collect();
    assert_eq!(values, [Some(Bytes::from_static(b"2")), None]);
}

/// A circle of newer maps is left by a pause and ends at the deadline, without effect.
#[tokio::test]
async fn a_node_that_always_knows_better_is_given_up_in_time() {
    let fake = Fake::start(1);
    let orders = orders_of(&fake, patient()).await;
    for _ in 0..1_000 {
        fake.fault(0, stale("STALE_EPOCH", &[("effect", "none"), ("retry", "elsewhere")]));
    }
    let began = Instant::now();
    let error = orders.put("a", "1").timeout(Duration::from_secs(2)).await.unwrap_err();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let reason = error.failure().unwrap().reason.clone();
    // On a busy machine the deadline may meet an attempt under way.
    assert!((reason == "STALE_EPOCH" && error.effect() == Effect::None) || reason == "DEADLINE_EXCEEDED", "{error:?}");
    assert!(fake.seen("put").len() > 1, "it tried more than once");
}

/// The keyspace is dropped and made anew under its name by somebody else: other numbers, no epoch that is too old.
fn make_anew(fake: &Fake) {
    let mut world = fake.world.lock();
    let (sharding, keyspace) = (world.sharding, world.keyspace);
    let ranges: Vec<PlacementRange> = world.shards.iter().map(|shard| shard.range.clone()).collect();
    world.shards = ranges.into_iter().zip(50..).map(|(range, id)| fake::shard::Shard::new(id, range)).collect();
    (world.sharding, world.keyspace) = (sharding, keyspace + 1);
    world.revision += 1;
}

fn token_of(seen: &Seen) -> kvorum_api::SessionToken {
    kvorum_api::SessionToken::decode(&seen.token).unwrap()
}

/// What a session wrote after its keyspace was made anew by somebody else, it asks for in the new one's shard.
#[tokio::test]
async fn a_session_reads_its_writes_also_in_a_keyspace_made_anew_by_somebody_else() {
    for transport in [Transport::Stream, Transport::Unary] {
        let fake = two_ranges(2);
        let orders = orders_of(&fake, patient().transport(transport)).await;
        orders.put("a", "old").await.unwrap();
        make_anew(&fake);
        let session = orders.session();
        session.put("a", "new").await.unwrap();
        assert_eq!(session.get("a").await.unwrap().entry.unwrap().value, "new");
        let token = token_of(fake.seen("get").last().unwrap());
        let shards: Vec<u64> = token.shards.keys().map(|shard| shard.0).collect();
        assert_eq!((token.keyspace.0, shards), (2, vec![50]), "{transport:?}");
        assert_eq!(fake.value("a").as_deref(), Some("new"));
    }
}

/// A token made by an old map is made once more; one that really saw another keyspace is refused, by writes too.
#[tokio::test]
async fn a_new_session_by_an_old_map_is_begun_anew_and_a_foreign_one_is_refused() {
    let fake = two_ranges(2);
    let orders = orders_of(&fake, patient()).await;
    let old = orders.session();
    old.put("a", "old").await.unwrap();
    make_anew(&fake);
    assert_eq!(orders.session().get("a").await.unwrap().entry, None);
    let applied = fake.applied();
    let fresh = orders_of(&fake, patient()).await;
    let foreign = Session::from_token(&fresh, &old.token()).unwrap();
    for error in [foreign.get("a").await.unwrap_err(), foreign.put("a", "1").await.unwrap_err()] {
        let failure = error.failure().unwrap();
        assert_eq!((failure.reason.as_str(), failure.kind), ("MALFORMED", FailureKind::Request), "{error}");
        assert_eq!(error.effect(), Effect::None);
    }
    assert_eq!(fake.applied(), applied, "nothing was written");
    fresh.put("a", "1").await.unwrap();
}

#[tokio::test]
async fn a_scan_by_an_old_map_is_begun_anew() {
    let fake = two_ranges(2);
    let orders = orders_of(&fake, patient()).await;
    orders.put("a", "old").await.unwrap();
    make_anew(&fake);
    let elsewhere = orders_of(&fake, patient()).await;
    elsewhere.put_many([("b", "1"), ("z", "2")]).await;
    for scan in [orders.scan(), orders.session().scan()] {
        let mut scan = scan.await.unwrap();
        let mut found = Vec::new();
        while let Some(entry) = scan.next().await.unwrap() {
            found.push(entry.key);
        }
        assert_eq!(found, ["b", "z"]);
    }
}

#[tokio::test]
async fn a_scan_is_of_one_keyspace_or_ends_with_an_error() {
    let fake = two_ranges(1);
    let orders = orders_of(&fake, patient()).await;
    orders.put_many([("a", "1"), ("z", "2")]).await;
    let mut scan = orders.scan().await.unwrap();
    assert_eq!(scan.next().await.unwrap().unwrap().key, "a");
    make_anew(&fake);
    // Another call of the client finds out.
    orders.put("z", "new").await.unwrap();
    orders.get("z").await.unwrap();
    let error = scan.next().await.unwrap_err();
    assert!(error.to_string().contains("made anew"), "{error}");
}

/// I1: what a held write did is still known when it is asked for again, however much its client writes meanwhile.
#[tokio::test]
async fn a_write_in_doubt_is_settled_although_its_client_goes_on_writing() {
    let fake = Fake::start(1);
    let orders = orders_of(&fake, patient()).await;
    fake.fault(0, Fault::ApplyThenHang);
    let error = orders.increment("n", 1).timeout(Duration::from_millis(300)).await.unwrap_err();
    let ClientError::Unknown(unknown) = error else { panic!("{error}") };
    let mut written = 0;
    let refused = loop {
        match orders.put(format!("k{}", written % 10), "v").timeout(Duration::from_secs(2)).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written <= 1_024, "more than the shard remembers");
    };
    let failure = refused.failure().unwrap();
    assert_eq!((refused.effect(), failure.limit.as_deref()), (Effect::None, Some("outcomes_ahead_max")), "{refused}");
    assert_eq!((failure.kind, written), (FailureKind::Throttled, 767));
    let puts = fake.seen("put").len();
    assert_eq!(puts, written, "what was refused was not sent");
    // One that still waits goes on when the doubt ends.
    let mut waiting = JoinSet::new();
    waiting.spawn(orders.put("later", "v").into_future());
    assert!(unknown.retry_within(PATIENCE).await.unwrap().repeated, "its outcome is remembered");
    waiting.join_next().await.unwrap().unwrap().unwrap();
    assert_eq!(fake.value("n").as_deref(), Some("1"));
    for key in keys(1_100) {
        orders.put(&key, "v").await.unwrap();
    }
}

/// More writes at once than may lie in a shard behind its oldest unanswered one: they wait for each other.
#[tokio::test]
async fn many_writers_of_one_client_take_turns() {
    let fake = Fake::start(1);
    let orders = orders_of(&fake, patient()).await;
    let mut tasks = JoinSet::new();
    for key in keys(1_000) {
        let orders = orders.clone();
        tasks.spawn(async move {
            for _ in 0..2 {
                orders.increment(&key, 1).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    assert!(keys(1_000).iter().all(|key| fake.value(key).as_deref() == Some("2")));
}

/// What readers of scans leave lying fills no window that others need.
#[tokio::test]
async fn scans_that_nobody_reads_on_stop_neither_writes_nor_other_scans() {
    let fake = Fake::start(1);
    let orders = orders_of(&fake, patient()).await;
    for key in keys(8) {
        orders.put(&key, vec![b'v'; 1 << 20]).await.unwrap();
    }
    let mut scans = Vec::new();
    for _ in 0..6 {
        scans.push(orders.scan().await.unwrap());
        orders.put("small", "v").timeout(Duration::from_secs(10)).await.unwrap();
        orders.get("small").timeout(Duration::from_secs(10)).await.unwrap();
    }
    let mut last = scans.pop().unwrap();
    let mut entries = 0;
    while last.next().await.unwrap().is_some() {
        entries += 1;
    }
    assert_eq!(entries, 9);
}

/// A server that has found nothing yet says so by a message without anything in it.
#[tokio::test]
async fn a_scan_that_finds_little_is_no_silent_node() {
    let fake = Fake::start(1);
    let orders = orders_of(&fake, patient()).await;
    orders.put("a", "1").await.unwrap();
    fake.fault(0, Fault::IdleScan(8, Duration::from_millis(250)));
    let mut scan = orders.scan().timeout(Duration::from_millis(1_500)).await.unwrap();
    assert_eq!(scan.next().await.unwrap().unwrap().key, "a");
    assert!(scan.next().await.unwrap().is_none());
    assert_eq!(scan.receipts().len(), 1);
}

#[tokio::test]
async fn level_session_is_refused_outside_of_a_session() {
    let fake = Fake::start(1);
    let orders = orders_of(&fake, patient()).await;
    let level = ReadLevel::Session;
    let refused = [
        orders.get("a").level(level).await.unwrap_err(),
        orders.scan().level(level).await.unwrap_err(),
        orders.clone().with_level(level).get("a").await.unwrap_err(),
    ];
    for error in refused {
        assert!(matches!(&error, ClientError::Refused(why) if why.to_string().contains("session()")), "{error}");
    }
    assert!(fake.seen("get").is_empty());
}

/// Where the keyspace reads at level `session`, a handle is a session of its own.
#[tokio::test]
async fn a_handle_of_a_keyspace_read_by_session_reads_its_own_writes() {
    let fake = Fake::start(1);
    fake.world.lock().read_level = "session";
    let orders = orders_of(&fake, patient()).await;
    orders.put("a", "1").await.unwrap();
    orders.clone().get("a").await.unwrap();
    let token = token_of(fake.seen("get").last().unwrap());
    assert_eq!(token.shards.keys().map(|shard| shard.0).collect::<Vec<_>>(), [1]);
    // Nobody asked for the session: a keyspace made anew is no reason to stop.
    make_anew(&fake);
    assert_eq!(orders.get("a").await.unwrap().entry, None);
    orders.put("a", "2").await.unwrap();
    assert_eq!(orders.get("a").await.unwrap().entry.unwrap().value, "2");
}
