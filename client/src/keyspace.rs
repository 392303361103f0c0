//! A keyspace, as its mode allows it to be used.
//!
//! **Invariant.** The type says the mode: what only an agreeing keyspace can do (conditions, increments, atomic batches)
//! exists on [`Keyspace<Cp>`] alone.

use crate::{
    inner::Inner,
    into_bytes::IntoBytes,
    operation::{Condition, Delete, Increment, Put},
    read::Get,
    scan::Scan,
    write::{Batch, Identity, Write},
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
    mode: PhantomData<M>,
}

impl<M> Clone for Keyspace<M> {
    fn clone(&self) -> Self {
        Keyspace { inner: self.inner.clone(), name: self.name.clone(), ..*self }
    }
}

impl<M> Keyspace<M> {
    pub(crate) fn new(inner: Arc<Inner>, name: &str) -> Self {
        let timeout = inner.options.timeout;
        Keyspace { inner, name: name.into(), timeout, level: None, mode: PhantomData }
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

    /// The same keyspace, read at `level` unless a call says otherwise. Without it the keyspace's own level holds.
    #[must_use]
    pub fn with_level(mut self, level: ReadLevel) -> Self {
        self.level = Some(level);
        self
    }

    /// Bytes of a value this keyspace takes, if a handshake has told.
    #[must_use]
    pub fn value_bytes_max(&self) -> Option<u64> {
        self.inner.nodes.keyspace(&self.name).map(|known| known.value_bytes_max).filter(|max| *max > 0)
    }

    /// Reads one key.
    pub fn get(&self, key: impl IntoBytes) -> Get {
        let key = key.into_bytes();
        Get { inner: self.inner.clone(), keyspace: self.name.clone(), timeout: self.timeout, level: self.level, key }
    }

    /// Reads many keys, in placement order.
    pub fn scan(&self) -> Scan {
        Scan {
            inner: self.inner.clone(),
            keyspace: self.name.clone(),
            timeout: self.timeout,
            level: self.level,
            request: proto::ScanRequest::default(),
        }
    }

    /// Stores a value.
    pub fn put(&self, key: impl IntoBytes, value: impl IntoBytes) -> Write<Put> {
        self.write(Put::new(key, value))
    }

    /// Removes a key; removing what is not there succeeds.
    pub fn delete(&self, key: impl IntoBytes) -> Write<Delete> {
        self.write(Delete::new(key))
    }

    fn write<O>(&self, operation: O) -> Write<O> {
        Write {
            inner: self.inner.clone(),
            keyspace: self.name.clone(),
            timeout: self.timeout,
            identity: Identity::Fresh,
            operation,
        }
    }
}

impl Keyspace<Cp> {
    /// Stores `new` only if the key holds exactly `expected`; else [`crate::ClientError::NotApplied`] tells what it
    /// holds.
    pub fn compare_and_set(&self, key: impl IntoBytes, expected: impl IntoBytes, new: impl IntoBytes) -> Write<Put> {
        self.put(key, new).condition(Condition::Value(expected.into_bytes()))
    }

    /// Adds to a decimal 64-bit signed integer; an absent key counts from 0.
    pub fn increment(&self, key: impl IntoBytes, delta: i64) -> Write<Increment> {
        self.write(Increment::new(key, delta))
    }

    /// Several operations of which all happen or none. They must lie in one shard.
    pub fn batch(&self) -> Write<Batch> {
        self.write(Batch::default())
    }
}
