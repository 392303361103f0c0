//! Gets: one key, at a level.

use crate::{
    error::ClientError,
    inner::Inner,
    operation::check_key,
    reply::{GetReply, entry_from, level_to_proto, receipt_from},
    retry::{Call, Repeat, run},
    routing::Route,
    write::timed,
};
use bytes::Bytes;
use kvorum_api::{Effect, ReadLevel, proto};
use proto::kv_client::KvClient;
use std::{future::IntoFuture, pin::Pin, sync::Arc, time::Duration};
use tonic::{Status, transport::Channel};

/// A get that has not been sent: set its options, then `.await` it.
#[must_use = "a get is sent when it is awaited"]
#[derive(Debug)]
pub struct Get {
    pub(crate) inner: Arc<Inner>,
    pub(crate) keyspace: Arc<str>,
    pub(crate) timeout: Duration,
    pub(crate) level: Option<ReadLevel>,
    pub(crate) key: Bytes,
}

impl Get {
    /// How fresh the answer must be.
    pub fn level(mut self, level: ReadLevel) -> Self {
        self.level = Some(level);
        self
    }

    /// Total time over all attempts.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// Only `local` may be answered by any replica of a CP keyspace; everything else is proven by the leader.
pub(crate) fn route_of(level: Option<ReadLevel>) -> Route {
    match level {
        Some(ReadLevel::Local | ReadLevel::One) => Route::Any,
        None
        | Some(
            ReadLevel::Linearizable | ReadLevel::Session | ReadLevel::Bounded(_) | ReadLevel::Quorum | ReadLevel::All,
        ) => Route::Leader,
    }
}

impl Call for Get {
    type Reply = proto::GetReply;

    fn keyspace(&self) -> &str {
        &self.keyspace
    }

    fn route(&self) -> Route {
        route_of(self.level)
    }

    fn repeat(&self) -> Repeat {
        Repeat::Freely
    }

    async fn send(
        &self,
        mut client: KvClient<Channel>,
        header: proto::RequestHeader,
        budget: Duration,
    ) -> Result<Self::Reply, Status> {
        let level = Some(level_to_proto(self.level));
        let request = proto::GetRequest { header: Some(header), key: self.key.clone(), level };
        Ok(client.get(timed(request, budget)).await?.into_inner())
    }
}

impl IntoFuture for Get {
    type Output = Result<GetReply, ClientError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            check_key(&self.key)?;
            let answered = run(&self.inner, &self, self.timeout).await.map_err(|lost| lost.failure)?;
            let receipt = receipt_from(answered.reply.receipt, &answered.node)
                .map_err(|failure| crate::Failure { effect: Effect::None, ..failure })?;
            self.inner.nodes.observe(receipt.stamp);
            if self.route() == Route::Leader {
                self.inner.nodes.learn_leader(&self.keyspace, &answered.node);
            }
            Ok(GetReply { entry: answered.reply.entry.map(entry_from), receipt })
        })
    }
}
