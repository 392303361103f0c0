//! A keyspace, as its mode allows it to be used.
//!
//! **Invariant.** The type says the mode: what only an agreeing keyspace can do (conditions, increments, atomic
//! batches) exists on [`Keyspace<Cp>`] alone.

use crate::{
    inner::Inner,
    into_bytes::IntoBytes,
    operation::{Condition, Delete, Increment, Put},
    read::{Get, Reading},
    scan::Scan,
    session::{Memory, Session},
    write::{Batch, Identity, Write, Writing},
};
use kvorum_api::{ReadLevel, proto};
use std::{marker::PhantomData, sync::Arc, time::Duration};

/// Marks a keyspace that agrees first and then acts: linearizable.
#[derive(Clone, Copy, Debug)]
pub enum Cp {}

/// A handle on one keyspace; cheap to clone. Nothing is asked until an operation is awaited.
#[derive(Debug)]
pub struct Keyspace<M> {
    inner: Arc<Inner>,
    name: Arc<str>,
    timeout: Duration,
    level: Option<ReadLevel>,
    session: Option<Arc<Memory>>,
    own: Arc<Memory>,
    mode: PhantomData<M>,
}

impl<M> Clone for Keyspace<M> {
    fn clone(&self) -> Self {
        let (inner, name) = (self.inner.clone(), self.name.clone());
        Keyspace { inner, name, session: self.session.clone(), own: self.own.clone(), ..*self }
    }
}

impl<M> Keyspace<M> {
    pub(crate) fn new(inner: Arc<Inner>, name: &str) -> Self {
        let timeout = inner.options.timeout;
        Keyspace {
            inner,
            name: name.into(),
            timeout,
            level: None,
            session: None,
            own: Arc::default(),
            mode: PhantomData,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The same keyspace, with another total time for each call.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The same keyspace, read at `level` unless a call says otherwise. Without it the keyspace's own level holds; if
    /// that is [`ReadLevel::Session`], this handle and its clones are a session of their own. Asked for by name, that
    /// level is refused outside of a [`Session`].
    #[must_use]
    pub fn with_level(mut self, level: ReadLevel) -> Self {
        self.level = Some(level);
        self
    }

    /// The same keyspace, seen by a new session: what it has read or written, it reads again, from whatever replica.
    #[must_use]
    pub fn session(&self) -> Session<M> {
        Session::begin(self, Memory::default())
    }

    pub(crate) fn in_session(mut self, memory: Arc<Memory>) -> Self {
        self.session = Some(memory);
        self
    }

    /// Bytes of a value this keyspace takes, if a handshake has told.
    #[must_use]
    pub fn value_bytes_max(&self) -> Option<u64> {
        self.inner.nodes.maps.value_bytes_max(&self.name)
    }

    /// Reads one key.
    ///
    /// ```no_run
    /// # async fn example(client: kvorum_client::Client) -> Result<(), kvorum_client::ClientError> {
    /// use kvorum_client::ReadLevel;
    /// use std::time::Duration;
    ///
    /// let orders = client.keyspace("orders");
    /// let reply = orders.get("1001").level(ReadLevel::Bounded(Duration::from_millis(200))).await?;
    /// println!("{:?}, no older than {:?}", reply.entry, reply.receipt.staleness);
    /// # Ok(())
    /// # }
    /// ```
    pub fn get(&self, key: impl IntoBytes) -> Get {
        Get::new(self.reading(), key.into_bytes())
    }

    /// Reads many keys, in placement order.
    ///
    /// ```no_run
    /// # async fn example(client: kvorum_client::Client) -> Result<(), kvorum_client::ClientError> {
    /// let mut scan = client.keyspace("orders").scan().prefix("2024-").limit(100).await?;
    /// while let Some(entry) = scan.next().await? {
    ///     println!("{:?}", entry.key);
    /// }
    /// if let Some(last) = scan.position().cloned() {
    ///     let rest = client.keyspace("orders").scan().prefix("2024-").after(last).await?;
    ///     drop(rest);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn scan(&self) -> Scan {
        Scan { reading: self.reading(), request: proto::ScanRequest::default() }
    }

    /// Stores a value.
    ///
    /// ```no_run
    /// # async fn example(client: kvorum_client::Client) -> Result<(), kvorum_client::ClientError> {
    /// use std::time::Duration;
    ///
    /// let sessions = client.keyspace("sessions");
    /// let written = sessions.put("7f3a", "alice").ttl(Duration::from_secs(3_600)).if_absent().await?;
    /// println!("version {:?}", written.version());
    /// # Ok(())
    /// # }
    /// ```
    pub fn put(&self, key: impl IntoBytes, value: impl IntoBytes) -> Write<Put> {
        self.write(Put::new(key, value))
    }

    /// Removes a key; removing what is not there succeeds.
    pub fn delete(&self, key: impl IntoBytes) -> Write<Delete> {
        self.write(Delete::new(key))
    }

    pub(crate) fn reading(&self) -> Reading {
        Reading {
            inner: self.inner.clone(),
            keyspace: self.name.clone(),
            timeout: self.timeout,
            level: self.level,
            session: self.session.clone(),
            own: self.own.clone(),
        }
    }

    pub(crate) fn writing(&self) -> Writing {
        Writing {
            inner: self.inner.clone(),
            keyspace: self.name.clone(),
            timeout: self.timeout,
            identity: Identity::Fresh,
            session: self.session.clone(),
            own: self.own.clone(),
        }
    }

    fn write<O>(&self, operation: O) -> Write<O> {
        Write { writing: self.writing(), operation }
    }
}

impl Keyspace<Cp> {
    /// Stores `new` only if the key holds exactly `expected`; else [`crate::ClientError::NotApplied`] tells what it
    /// holds.
    ///
    /// ```no_run
    /// # async fn example(client: kvorum_client::Client) -> Result<(), kvorum_client::ClientError> {
    /// use kvorum_client::ClientError;
    ///
    /// match client.keyspace("orders").compare_and_set("1001", "paid", "shipped").await {
    ///     Ok(_) => println!("shipped"),
    ///     Err(ClientError::NotApplied(answer)) => println!("somebody was faster: {answer}"),
    ///     Err(error) => return Err(error),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn compare_and_set(&self, key: impl IntoBytes, expected: impl IntoBytes, new: impl IntoBytes) -> Write<Put> {
        self.put(key, new).condition(Condition::Value(expected.into_bytes()))
    }

    /// Adds to a decimal 64-bit signed integer; an absent key counts from 0.
    pub fn increment(&self, key: impl IntoBytes, delta: i64) -> Write<Increment> {
        self.write(Increment::new(key, delta))
    }

    /// Several operations of which all happen or none. They must lie in one shard; [`Keyspace::write_many`] is for many
    /// keys anywhere, each for itself.
    ///
    /// ```no_run
    /// # async fn example(client: kvorum_client::Client) -> Result<(), kvorum_client::ClientError> {
    /// use kvorum_client::{Condition, Put};
    ///
    /// let accounts = client.keyspace("accounts");
    /// let first = Put::new("log/1", "-5").condition(Condition::Absent);
    /// let both = accounts.batch().increment("alice", -5).operation(first);
    /// assert_eq!(both.await?.results.len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn batch(&self) -> Write<Batch> {
        self.write(Batch::default())
    }
}
