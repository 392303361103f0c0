//! Many writes handed over in one call: one reply handle, an answer for each.

use crate::cp_group::world::{World, context, increment, put};
use kvorum_api::{Effect, ReadLevel, WriteError};
use kvorum_consensus::{Replicator, RequestContext};
use kvorum_storage::{Outcome, WriteCommand};
use std::time::Duration;
use tokio::task::JoinSet;

fn increments(count: usize) -> Vec<WriteCommand> {
    (0..count).map(|_| increment("n", None)).collect()
}

/// The counter the new leader finds.
async fn counted(world: &World) -> usize {
    world.value("n").await.map_or(0, |value| value.parse().unwrap())
}

/// Design section 7: a frame's writes to one shard are few entries, answered in their order.
#[tokio::test(start_paused = true)]
async fn a_thousand_writes_of_one_call_are_few_entries_in_their_order() {
    let world = World::founded().await;
    let leader = world.leader().await;
    let group = world.group(leader);
    let before = group.status().last_log_index;
    let commands = (0..1_000).map(|n| put(&format!("k{:03}", n % 500), &n.to_string())).collect();
    let written = group.write_many(commands, context(5_000)).await;
    assert_eq!(written.len(), 1_000);
    let versions: Vec<_> = written.into_iter().map(|written| written.unwrap().receipt.version.unwrap()).collect();
    assert!(versions.is_sorted_by(|left, right| left < right), "decided in the order of the call");
    let entries = group.status().last_log_index - before;
    assert!(entries <= 4, "1,000 commands took {entries} entries");
    let found = world.get(leader, "k007", ReadLevel::Linearizable).await.unwrap();
    assert_eq!(found.entry.unwrap().value.unwrap(), "507", "the later write of the call is the later one");
}

/// While an entry is on its way the next one leaves only if it carries as much: callers who wait for each other's
/// answers would stay split for ever.
#[tokio::test(start_paused = true)]
async fn a_smaller_entry_waits_for_company_while_one_is_under_way() {
    let world = World::founded().await;
    let leader = world.leader().await;
    let group = world.group(leader);
    let before = group.status().last_log_index;
    world.net.isolate(leader);
    let mut callers = JoinSet::new();
    for (writes, entries, why) in [(4, 1, "the first"), (1, 1, "one waits behind four"), (3, 2, "four do not")] {
        let group = group.clone();
        callers.spawn(async move { group.write_many(increments(writes), context(5_000)).await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!(world.group(leader).status().last_log_index - before, entries, "{why}");
    }
}

/// What is stuck holds nobody up: who comes after it is refused as if it were not there.
#[tokio::test(start_paused = true)]
async fn behind_an_entry_that_does_not_end_a_write_is_refused_in_time() {
    let world = World::founded().await;
    let leader = world.leader().await;
    let group = world.group(leader);
    world.net.isolate(leader);
    let mut stuck = JoinSet::new();
    let entry = group.clone();
    stuck.spawn(async move { entry.write_many(increments(4), context(60_000)).await });
    tokio::time::sleep(Duration::from_secs(5)).await;
    let refused = group.write(increment("n", None), context(20_000)).await.unwrap_err();
    assert!(matches!(refused, WriteError::NoQuorum { .. } | WriteError::NotLeader { .. }), "{refused:?}");
    assert_eq!(refused.effect(), Effect::None);
    assert!(stuck.try_join_next().is_none(), "it may still be decided");
}

#[tokio::test(start_paused = true)]
async fn no_writes_are_answered_with_nothing() {
    let world = World::founded().await;
    let leader = world.leader().await;
    assert!(world.group(leader).write_many(Vec::new(), context(100)).await.is_empty());
}

/// Invariant 6: at the deadline each command of the call is told for itself: what nobody had taken never happens.
#[tokio::test(start_paused = true)]
async fn giving_up_tells_command_by_command_what_was_withdrawn() {
    let mut world = World::new();
    world.budget.proposals_in_flight_max = 1;
    world.budget.proposal_commands_max = 3;
    world.start_all().await;
    world.found().await;
    let leader = world.leader().await;
    world.net.isolate(leader);
    let ended = world.group(leader).write_many(increments(10), context(500)).await;
    let effects: Vec<_> = ended.iter().map(|ended| ended.as_ref().unwrap_err().effect()).collect();
    assert_eq!(effects[..3], [Effect::Unknown; 3], "the first entry was proposed");
    assert_eq!(effects[3..], [Effect::None; 7], "the others waited behind it");
    assert!(ended.iter().all(|ended| matches!(ended, Err(WriteError::DeadlineExceeded { .. }))));
    world.net.heal();
    let count = counted(&world).await;
    assert!(count == 0 || count == 3, "{count} happened, and the last seven never may");
}

/// Effects stay true when the leader changes in the middle of a call.
#[tokio::test(start_paused = true)]
async fn a_leader_change_in_the_middle_gives_true_effects() {
    let mut world = World::new();
    world.budget.proposals_in_flight_max = 1;
    world.budget.proposal_commands_max = 2;
    world.start_all().await;
    world.found().await;
    let (mut acknowledged, mut unknown, mut refused) = (0, 0, 0);
    for round in 0..10 {
        let leader = world.leader().await;
        let group = world.group(leader);
        let interrupts = async {
            tokio::time::sleep(Duration::from_millis(4 + round)).await;
            group.hand_over(Duration::from_secs(3)).await
        };
        let (ended, _) = tokio::join!(group.write_many(increments(40), context(3_000)), interrupts);
        for ended in ended {
            match ended.map_err(|error| error.effect()) {
                Ok(_) => acknowledged += 1,
                Err(Effect::Unknown) => unknown += 1,
                Err(Effect::None) => refused += 1,
            }
        }
    }
    let count = counted(&world).await;
    assert!(count >= acknowledged && count <= acknowledged + unknown, "{count}: {acknowledged} to {unknown} more");
    assert!(acknowledged > 0 && refused > 0, "{acknowledged} acknowledged, {refused} refused");
}

/// Rule C3: whoever believes in an older epoch is refused before anything is proposed; a newer one is answered.
#[tokio::test(start_paused = true)]
async fn an_older_epoch_is_refused_without_effect_and_a_newer_one_is_served() {
    let mut world = World::new();
    world.settings.epoch = 4;
    world.start_all().await;
    world.found().await;
    let leader = world.leader().await;
    let group = world.group(leader);
    let believing = |epoch| RequestContext { epoch: Some(epoch), ..context(1_000) };
    let before = group.status().last_log_index;
    for ended in group.write_many(increments(2), believing(3)).await {
        let error = ended.unwrap_err();
        assert!(matches!(error, WriteError::StaleEpoch { epoch: 4, .. }), "{error:?}");
        assert_eq!(error.effect(), Effect::None);
    }
    assert_eq!(group.status().last_log_index, before);
    let old = group.get("n".into(), ReadLevel::Local, believing(3)).await.unwrap_err();
    assert!(matches!(old, kvorum_api::ReadError::StaleEpoch { epoch: 4, .. }), "{old:?}");
    let written = group.write(increment("n", None), believing(5)).await.unwrap();
    assert!(matches!(written.outcome, Outcome::Written { applied: true, .. }));
    assert_eq!(written.receipt.epoch, 4);
}
