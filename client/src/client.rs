//! The client itself: endpoints in, keyspaces out.

use crate::{
    cluster::{NodeReport, cluster_status},
    error::ClientError,
    failure::Failure,
    inner::Inner,
    keyspace::{Cp, Keyspace},
    options::Options,
};
use std::sync::Arc;
use tokio::time::Instant;

/// One client of one cluster; cheap to clone, all clones share connections and request sequences.
#[derive(Clone, Debug)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

impl Client {
    /// Reads the endpoints (`host:port`) and connects when something is asked. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// An endpoint that is not `host:port`.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>, options: Options) -> Result<Self, ClientError> {
        let endpoints: Vec<String> = endpoints.into_iter().map(Into::into).collect();
        Ok(Client { inner: Arc::new(Inner::new(&endpoints, options)?) })
    }

    /// As [`Client::new`], and waits until one endpoint has answered.
    ///
    /// # Errors
    /// Also when no endpoint answered within [`Options::timeout`]; the text says why for each.
    pub async fn connect<E: Into<String>>(
        endpoints: impl IntoIterator<Item = E>,
        options: Options,
    ) -> Result<Self, ClientError> {
        let client = Self::new(endpoints, options)?;
        client.greet_anyone().await?;
        Ok(client)
    }

    /// A keyspace of mode `cp`.
    #[must_use]
    pub fn keyspace(&self, name: &str) -> Keyspace<Cp> {
        Keyspace::new(self.inner.clone(), name)
    }

    /// Asks every node this client knows how it is. Unreachable ones are in the list, with the reason.
    pub async fn cluster_status(&self) -> Vec<NodeReport> {
        cluster_status(&self.inner, self.inner.options.timeout).await
    }

    async fn greet_anyone(&self) -> Result<(), ClientError> {
        let within = self.inner.options.timeout;
        let deadline = Instant::now() + within;
        let mut reasons = Vec::new();
        for address in self.inner.nodes.addresses() {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.inner.nodes.greeted(&address, None, left).await {
                Ok(_node) => return Ok(()),
                Err(failure) => reasons.push(format!("{address}: {}", failure.message)),
            }
        }
        let message = format!("no endpoint answered within {within:?}: {}", reasons.join("; "));
        Err(Failure::not_sent("UNAVAILABLE", message, None).into())
    }
}
