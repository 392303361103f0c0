//! Many keys at once, wherever they lie: each is a request of its own, and what goes to one node rides in its frames.
//!
//! **Invariant.** One result per key, in the order asked: that one failed says nothing of the others. At most
//! [`AT_ONCE_MAX`] are under way.

use crate::{
    error::ClientError,
    into_bytes::IntoBytes,
    keyspace::{Cp, Keyspace},
    operation::Operation,
    read::Get,
    reply::{GetReply, Written},
    write::{Body, start},
};
use futures::{StreamExt as _, stream};
use kvorum_api::{Refused, proto};
use proto::operation::Kind;
use std::future::IntoFuture as _;

/// Requests of one call under way at once: less than a node's bulkhead, so that it never meets it by itself.
const AT_ONCE_MAX: usize = 512;

impl<M> Keyspace<M> {
    /// Reads many keys. One result per key, in their order; each is read by itself, at the keyspace's level.
    ///
    /// ```no_run
    /// # async fn example(client: kvorum_client::Client) -> Result<(), kvorum_client::ClientError> {
    /// for reply in client.keyspace("orders").get_many(["1001", "1002"]).await {
    ///     println!("{:?}", reply?.entry);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_many<K: IntoBytes>(
        &self,
        keys: impl IntoIterator<Item = K>,
    ) -> Vec<Result<GetReply, ClientError>> {
        let gets: Vec<Get> = keys.into_iter().map(|key| self.get(key)).collect();
        stream::iter(gets).map(|get| get.into_future()).buffered(AT_ONCE_MAX).collect().await
    }

    /// Stores many values. One result per pair, in their order; they do not happen together.
    ///
    /// ```no_run
    /// # async fn example(client: kvorum_client::Client) -> Result<(), kvorum_client::ClientError> {
    /// for written in client.keyspace("orders").put_many([("1001", "paid"), ("1002", "open")]).await {
    ///     println!("{:?}", written?.version());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn put_many<K: IntoBytes, V: IntoBytes>(
        &self,
        pairs: impl IntoIterator<Item = (K, V)>,
    ) -> Vec<Result<Written, ClientError>> {
        let puts: Vec<_> = pairs.into_iter().map(|(key, value)| self.put(key, value)).collect();
        stream::iter(puts).map(|put| put.into_future()).buffered(AT_ONCE_MAX).collect().await
    }
}

impl Keyspace<Cp> {
    /// Does many operations, each under an id of its own and with its own conditions. One result per operation, in
    /// their order; they do not happen together: [`Keyspace::batch`] does that, within one shard.
    pub async fn write_many(
        &self,
        operations: impl IntoIterator<Item = Operation>,
    ) -> Vec<Result<Written, ClientError>> {
        let bodies: Vec<Result<Body, Refused>> = operations.into_iter().map(body_of).collect();
        let send = |body: Result<Body, Refused>| {
            let writing = self.writing();
            async move { start(writing, body?).await }
        };
        stream::iter(bodies).map(send).buffered(AT_ONCE_MAX).collect().await
    }
}

fn body_of(operation: Operation) -> Result<Body, Refused> {
    match operation.0.kind {
        Some(Kind::Put(put)) => Ok(Body::Put(put)),
        Some(Kind::Delete(delete)) => Ok(Body::Delete(delete)),
        Some(Kind::Increment(increment)) => Ok(Body::Increment(increment)),
        None => Err(Refused::Malformed { field: "operation", problem: "says nothing: put, delete or add".to_owned() }),
    }
}
