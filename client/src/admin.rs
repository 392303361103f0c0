//! What an operator asks of the cluster: its keyspaces, its nodes. Where shards are is asked for in `operators`.
//!
//! ```text
//!   lookups   any node answers, by its copy of the map                 asked of one after the other until one answers
//!   changes   decided by the metadata, through any node                repeated only where nothing was done
//! ```
//!
//! **Invariant.** A change that may have been made is not asked for again behind the caller's back: the error says
//! [`kvorum_api::Effect::Unknown`], and since every change is made at most once by name, a person may look and ask
//! again.

use crate::{
    client::Client,
    cluster::{NodeReport, cluster_status},
    error::ClientError,
    failure::Failure,
    inner::Inner,
    progress::Progress,
    retry::{Repeat, Step, next_step},
    routing::Health,
    write::timed,
};
use kvorum_api::{Effect, proto};
use proto::admin_client::AdminClient;
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, timeout};
use tonic::{Status, transport::Channel};

pub use kvorum_api::proto::{
    Capability, KeyspaceDescription, KeyspaceWish, NodeDescription, ShardDescription, ShardReplica,
};

/// The operator's handle; cheap to clone. From [`Client::admin`].
///
/// ```no_run
/// # async fn example(client: kvorum_client::Client) -> Result<(), kvorum_client::ClientError> {
/// use kvorum_client::admin::KeyspaceWish;
///
/// let admin = client.admin();
/// let wish = KeyspaceWish { shard_by: "hash".to_owned(), shards: 8, replicas: 3, ..KeyspaceWish::default() };
/// let orders = admin.create_keyspace("orders", wish).await?;
/// println!("{} shards, map revision {}", orders.shards.len(), orders.map_revision);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Admin {
    inner: Arc<Inner>,
    timeout: Duration,
}

/// One request, as the generated client sends it.
pub(crate) trait Request<T>:
    AsyncFn(AdminClient<Channel>, Duration) -> Result<tonic::Response<T>, Status>
{
}

impl<T, F: AsyncFn(AdminClient<Channel>, Duration) -> Result<tonic::Response<T>, Status>> Request<T> for F {}

impl Admin {
    pub(crate) fn new(inner: Arc<Inner>) -> Self {
        let timeout = inner.options.timeout;
        Admin { inner, timeout }
    }

    /// The same handle, with another total time for each call.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Creates a keyspace. What the wish leaves out gets its default.
    ///
    /// # Errors
    /// Of kind [`crate::FailureKind::Conflict`] if there is one of that name, [`crate::FailureKind::Request`] if the
    /// wish cannot be, [`crate::FailureKind::Unavailable`] if the metadata cannot decide now; the effect says whether
    /// it may have been created.
    pub async fn create_keyspace(&self, name: &str, wish: KeyspaceWish) -> Result<KeyspaceDescription, ClientError> {
        let request = proto::CreateKeyspaceRequest { name: name.to_owned(), wish: Some(wish) };
        self.change(async |mut admin, budget| admin.create_keyspace(timed(request.clone(), budget)).await).await
    }

    /// Alters a keyspace. What the wish leaves out stays as it is.
    ///
    /// # Errors
    /// As [`Admin::create_keyspace`]; of kind [`crate::FailureKind::Request`] also if there is none of that name.
    pub async fn alter_keyspace(&self, name: &str, wish: KeyspaceWish) -> Result<KeyspaceDescription, ClientError> {
        let request = proto::AlterKeyspaceRequest { name: name.to_owned(), wish: Some(wish) };
        self.change(async |mut admin, budget| admin.alter_keyspace(timed(request.clone(), budget)).await).await
    }

    /// Drops a keyspace and everything in it. Answers its number, which never comes back.
    ///
    /// # Errors
    /// As [`Admin::alter_keyspace`].
    pub async fn drop_keyspace(&self, name: &str) -> Result<u32, ClientError> {
        let request = proto::DropKeyspaceRequest { name: name.to_owned() };
        let reply: proto::DropKeyspaceReply =
            self.change(async |mut admin, budget| admin.drop_keyspace(timed(request.clone(), budget)).await).await?;
        self.inner.nodes.maps.forget(name);
        Ok(reply.id)
    }

    /// The keyspaces of these names, none = all, as the answering node's map has them.
    ///
    /// # Errors
    /// Nobody answered, or there is none of a name.
    pub async fn keyspaces(&self, names: &[&str]) -> Result<Vec<KeyspaceDescription>, ClientError> {
        let request = proto::ListKeyspacesRequest { names: names.iter().map(|name| (*name).to_owned()).collect() };
        let reply: proto::ListKeyspacesReply =
            self.look_up(async |mut admin, budget| admin.list_keyspaces(timed(request.clone(), budget)).await).await?;
        Ok(reply.keyspaces)
    }

    /// The cluster's nodes, as the answering node's map has them and as it sees them.
    ///
    /// # Errors
    /// Nobody answered.
    pub async fn nodes(&self) -> Result<Vec<NodeDescription>, ClientError> {
        let request = proto::ListNodesRequest {};
        let reply: proto::ListNodesReply =
            self.look_up(async |mut admin, budget| admin.list_nodes(timed(request, budget)).await).await?;
        Ok(reply.nodes)
    }

    /// Which mode offers which feature: one row per feature.
    ///
    /// # Errors
    /// Nobody answered.
    pub async fn capabilities(&self) -> Result<Vec<Capability>, ClientError> {
        let request = proto::CapabilitiesRequest {};
        let reply: proto::CapabilitiesReply =
            self.look_up(async |mut admin, budget| admin.capabilities(timed(request, budget)).await).await?;
        Ok(reply.rows)
    }

    /// How every node is, asked all at once. Unreachable ones are in the list, with the reason.
    pub async fn node_status(&self) -> Vec<NodeReport> {
        cluster_status(&self.inner, self.timeout).await
    }

    pub(crate) async fn look_up<T>(&self, send: impl Request<T>) -> Result<T, ClientError> {
        let lost = |failure| Failure { effect: Effect::None, ..failure };
        self.ask_anyone(Repeat::Freely, send).await.map_err(|failure| lost(failure).into())
    }

    pub(crate) async fn change<T>(&self, send: impl Request<T>) -> Result<T, ClientError> {
        Ok(self.ask_anyone(Repeat::Never, send).await?)
    }

    /// Asks one node after the other, as [`next_step`] says.
    async fn ask_anyone<T>(&self, repeat: Repeat, send: impl Request<T>) -> Result<T, Failure> {
        let (nodes, deadline) = (&self.inner.nodes, Instant::now() + self.timeout);
        let mut progress = Progress::default();
        loop {
            let address = match progress.round.pop_front() {
                Some(address) => address,
                None if progress.rounds == 0 || progress.may_go_on(&self.inner, deadline).await => {
                    let mut all = nodes.addresses();
                    all.sort_by_key(|address| nodes.health(address) == Health::Silent);
                    progress.begin_round(all.into(), false);
                    continue;
                }
                None => return Err(progress.lost(self.timeout, true).failure),
            };
            let asked = Instant::now();
            let failure = match self.ask(&address, deadline, repeat, &send, &mut progress).await {
                Ok(reply) => return Ok(reply),
                Err(failure) => failure,
            };
            progress.note(&failure, repeat);
            nodes.failed(&address, &failure, asked);
            match next_step(&failure, repeat) {
                Step::GiveUp => return Err(progress.lost(self.timeout, false).failure),
                Step::Next => {}
                Step::Leader(leader) if progress.may_follow() => progress.ask_next(leader.into()),
                Step::Leader(_) => {}
                Step::Pause(pause) => progress.pause(pause),
            }
            if Instant::now() >= deadline {
                return Err(progress.lost(self.timeout, true).failure);
            }
        }
    }

    async fn ask<T>(
        &self,
        address: &str,
        deadline: Instant,
        repeat: Repeat,
        send: &impl Request<T>,
        progress: &mut Progress,
    ) -> Result<T, Failure> {
        let left = || deadline.saturating_duration_since(Instant::now());
        let node = self.inner.nodes.greeted(address, None, left()).await?;
        // A change waits for the metadata's leader and for the map to come back, so it has all the time there is.
        let budget = if repeat == Repeat::Freely { left().min(self.inner.options.attempt_timeout) } else { left() };
        progress.sent += 1;
        match timeout(budget, send(AdminClient::new(node.channel.clone()), budget)).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) => Err(Failure::from_status(&status, address)),
            Err(_elapsed) => Err(Failure::no_answer(address, budget)),
        }
    }
}

impl Client {
    /// What an operator asks of the cluster.
    #[must_use]
    pub fn admin(&self) -> Admin {
        Admin::new(self.inner.clone())
    }
}
