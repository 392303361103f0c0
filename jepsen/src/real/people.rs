//! People: what an operator asks of a cluster through its admin door, and waits for.
//!
//! **Invariant.** Asks any node that runs, past every fault, until one answers or the patience ends; a refusal is an
//! answer.

use super::{
    cluster::Cluster,
    node::{Standing, status},
};
use kvorum_api::proto::{
    ChangeNodeRequest, ListNodesRequest, ListOperatorsRequest, MoveReplicaRequest, NodeDescription, NodeStatusReply,
    OperatorDescription, TransferLeaderRequest, admin_client::AdminClient,
};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Response, Status, transport::Channel};

/// How long one node may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What each gets at least, also when the patience has ended: longer than the metadata takes to say that it cannot
/// decide.
const ANSWER_MIN: Duration = Duration::from_secs(1);

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// So many nodes vote on the metadata where there are as many.
const METADATA_VOTERS: usize = 3;

/// For how long nothing must be under way before it counts as over.
const CALM: Duration = Duration::from_secs(3);

/// Asks nodes in turn until one answers.
///
/// # Errors
/// The refusal, or what the last of them said when the patience ended.
pub async fn ask<T, F>(
    cluster: &Cluster,
    patience: Duration,
    question: impl Fn(AdminClient<Channel>) -> F,
) -> Result<T, String>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    let until = Instant::now() + patience;
    let mut last = "no node runs".to_owned();
    loop {
        for node in cluster.nodes.iter().filter(|node| node.is_running() && !node.is_paused()) {
            // A pass over nodes that keep silent must not outlast the patience many times over.
            let left = until.saturating_duration_since(Instant::now());
            match timeout(left.clamp(ANSWER_MIN, ANSWER_MAX), question(node.asking())).await {
                Ok(Ok(answer)) => return Ok(answer.into_inner()),
                Ok(Err(status)) if is_final(status.code()) => return Err(status.message().to_owned()),
                Ok(Err(status)) => last = format!("n{}: {}", node.number, status.message()),
                Err(_) => last = format!("n{} does not answer", node.number),
            }
        }
        if Instant::now() >= until {
            return Err(last);
        }
        sleep(PAUSE).await;
    }
}

fn is_final(code: Code) -> bool {
    matches!(code, Code::InvalidArgument | Code::FailedPrecondition | Code::NotFound | Code::Unimplemented)
}

/// Drains a node, takes it back, or forgets it.
///
/// # Errors
/// The refusal, or why nobody could say.
pub async fn change_node(cluster: &Cluster, node: u64, state: &str, patience: Duration) -> Result<(), String> {
    let request = ChangeNodeRequest { node, state: state.to_owned(), dry_run: false };
    let changed = ask(cluster, patience, |mut admin| {
        let request = request.clone();
        async move { admin.change_node(request).await }
    });
    match changed.await {
        // Asked before, and nobody had heard the answer.
        Err(why) if state == "forgotten" && why.contains("it was forgotten") => Ok(()),
        answered => answered.map(drop),
    }
}

/// The same, again and again until it is done: who is alive a moment ago may not be forgotten yet.
///
/// # Errors
/// The last refusal.
pub async fn insist(cluster: &Cluster, node: u64, state: &str, patience: Duration) -> Result<(), String> {
    let until = Instant::now() + patience;
    loop {
        match change_node(cluster, node, state, ANSWER_MAX).await {
            Err(_) if Instant::now() < until => sleep(5 * PAUSE).await,
            answered => return answered,
        }
    }
}

/// Moves a replica; the operator that does it.
///
/// # Errors
/// As [`change_node`].
pub async fn move_replica(cluster: &Cluster, shard: u64, (from, to): (u64, u64)) -> Result<u64, String> {
    let request = MoveReplicaRequest { shard, from_node: from, to_node: to, dry_run: false };
    let reply = ask(cluster, ANSWER_MAX, |mut admin| async move { admin.move_replica(request).await }).await?;
    Ok(reply.operator.map_or(0, |operator| operator.id))
}

/// Lets another replica lead; the operator that does it.
///
/// # Errors
/// As [`change_node`].
pub async fn transfer_leader(cluster: &Cluster, shard: u64, to: u64) -> Result<u64, String> {
    let request = TransferLeaderRequest { shard, to_node: to, dry_run: false };
    let reply = ask(cluster, ANSWER_MAX, |mut admin| async move { admin.transfer_leader(request).await }).await?;
    Ok(reply.operator.map_or(0, |operator| operator.id))
}

/// Operators that have not ended, or those of these ids.
///
/// # Errors
/// As [`change_node`].
pub async fn operators(
    cluster: &Cluster,
    ids: Vec<u64>,
    patience: Duration,
) -> Result<Vec<OperatorDescription>, String> {
    let request = ListOperatorsRequest { ids, ..ListOperatorsRequest::default() };
    let reply = ask(cluster, patience, |mut admin| {
        let request = request.clone();
        async move { admin.list_operators(request).await }
    });
    Ok(reply.await?.operators)
}

/// Every operator the cluster still knows of.
///
/// # Errors
/// As [`change_node`].
pub async fn all_operators(cluster: &Cluster, patience: Duration) -> Result<Vec<OperatorDescription>, String> {
    let request = ListOperatorsRequest { all: true, ..ListOperatorsRequest::default() };
    let reply = ask(cluster, patience, |mut admin| {
        let request = request.clone();
        async move { admin.list_operators(request).await }
    });
    Ok(reply.await?.operators)
}

/// What a node says of itself.
pub async fn status_of(cluster: &Cluster, node: u64) -> Option<NodeStatusReply> {
    let asking = cluster.nodes.iter().find(|known| known.number == node)?.asking();
    status(asking, ANSWER_MAX).await
}

/// Refuses while a node is listed that is gone for good: another one must not go yet.
///
/// # Errors
/// `the cluster has not got over n2 yet`.
pub async fn has_got_over_its_lost(cluster: &Cluster, patience: Duration) -> Result<(), String> {
    let listed = listed(cluster, patience).await?;
    match listed.iter().find(|node| is_gone(cluster, node.id)) {
        Some(node) => Err(format!("the cluster has not got over n{} yet", node.id)),
        None => Ok(()),
    }
}

/// Refuses while a machine that asks is not let in.
///
/// # Errors
/// `n4 is not let in yet`.
pub async fn has_let_in_all(cluster: &Cluster, patience: Duration) -> Result<(), String> {
    let listed = listed(cluster, patience).await?;
    match cluster.members().into_iter().find(|member| listed.iter().all(|node| node.id != *member)) {
        Some(node) => Err(format!("n{node} is not let in yet")),
        None => Ok(()),
    }
}

async fn listed(cluster: &Cluster, patience: Duration) -> Result<Vec<NodeDescription>, String> {
    let reply = ask(cluster, patience, |mut admin| async move { admin.list_nodes(ListNodesRequest {}).await });
    Ok(reply.await?.nodes)
}

fn is_gone(cluster: &Cluster, node: u64) -> bool {
    cluster.nodes.iter().any(|known| known.number == node && known.standing() == Standing::Gone)
}

/// Waits until every node that takes part is active and well, none that is gone is listed, every shard has its
/// replicas, and nothing has been under way for a while.
///
/// # Errors
/// What still is when the patience ends.
pub async fn until_settled(cluster: &Cluster, patience: Duration) -> Result<(), String> {
    let until = Instant::now() + patience;
    let mut calm_since = None;
    loop {
        let open = unsettled(cluster).await;
        match &open {
            None => {
                let since = *calm_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= CALM {
                    return Ok(());
                }
            }
            Some(_) => calm_since = None,
        }
        if let Some(open) = open.filter(|_| Instant::now() >= until) {
            return Err(format!("not settled after {} s: {open}", patience.as_secs()));
        }
        sleep(PAUSE).await;
    }
}

/// What is still under way.
async fn unsettled(cluster: &Cluster) -> Option<String> {
    match operators(cluster, Vec::new(), ANSWER_MAX).await {
        Ok(open) if open.is_empty() => {}
        Ok(open) => return Some(open.iter().map(told).collect::<Vec<_>>().join("; ")),
        Err(why) => return Some(why),
    }
    let listed = match listed(cluster, ANSWER_MAX).await {
        Ok(listed) => listed,
        Err(why) => return Some(why),
    };
    let stray = listed.iter().find(|node| node.state != "active" || is_gone(cluster, node.id));
    let stray = stray.map(|node| format!("n{} is {} and holds {} replicas", node.id, node.state, node.replicas));
    if stray.is_some() {
        return stray;
    }
    let voters = listed.iter().filter(|node| node.metadata_voter).count();
    if voters < METADATA_VOTERS {
        return Some(format!("the metadata has {voters} voters"));
    }
    if let Err(why) = has_let_in_all(cluster, ANSWER_MAX).await {
        return Some(why);
    }
    let statuses = cluster.members().into_iter().map(|node| async move { (node, status_of(cluster, node).await) });
    let statuses = futures::future::join_all(statuses).await;
    statuses.into_iter().find_map(|(node, status)| unwell(node, status.as_ref()))
}

/// What keeps a node from being well, as it says itself.
fn unwell(node: u64, status: Option<&NodeStatusReply>) -> Option<String> {
    let Some(status) = status else { return Some(format!("n{node} does not answer")) };
    let installing = status.replicas.iter().find(|replica| replica.installing);
    let installing = installing.map(|replica| format!("shard {} is being installed", replica.shard));
    let not_ready = (!status.ready).then(|| "it is not ready".to_owned());
    let why = not_ready.or(installing).or_else(|| status.degraded.iter().chain(&status.short).next().cloned());
    why.map(|why| format!("n{node}: {why}"))
}

/// `operator 7 (move of shard 2) is running: why`.
#[must_use]
pub fn told(operator: &OperatorDescription) -> String {
    let OperatorDescription { id, task, shard, state, .. } = operator;
    let why = [&operator.waits_for, &operator.failure].into_iter().find(|why| !why.is_empty());
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    format!("operator {id} ({task} of shard {shard}) is {state}{why}")
}

/// Waits until a node holds nothing any more.
///
/// # Errors
/// What it still holds when the patience ends.
pub async fn until_empty(cluster: &Cluster, node: u64, patience: Duration) -> Result<(), String> {
    let until = Instant::now() + patience;
    loop {
        let held = status_of(cluster, node).await.map(|status| status.replicas.len());
        if held == Some(0) {
            return Ok(());
        }
        if Instant::now() >= until {
            let held = held.map_or("it does not answer".to_owned(), |held| format!("it holds {held} replicas"));
            return Err(format!("n{node} is not empty after {} s: {held}", patience.as_secs()));
        }
        sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::proto::ReplicaStatus;

    #[test]
    fn a_node_is_well_only_if_it_is_ready_and_nothing_is_short_or_on_its_way() {
        let well = NodeStatusReply { ready: true, ..NodeStatusReply::default() };
        assert_eq!(unwell(2, Some(&well)), None);
        let why = |status: &NodeStatusReply| unwell(2, Some(status)).unwrap();
        assert_eq!(unwell(2, None).unwrap(), "n2 does not answer");
        assert_eq!(why(&NodeStatusReply { ready: false, ..well.clone() }), "n2: it is not ready");
        let installing = ReplicaStatus { shard: 4, installing: true, ..ReplicaStatus::default() };
        assert!(why(&NodeStatusReply { replicas: vec![installing], ..well.clone() }).contains("shard 4"));
        let short = "shard 3 of ordered has 2 of 3 replicas".to_owned();
        assert!(why(&NodeStatusReply { short: vec![short], ..well.clone() }).contains("2 of 3"));
        assert!(why(&NodeStatusReply { degraded: vec!["disk_full: so".to_owned()], ..well }).contains("disk_full"));
    }
}
