//! Sessions: what a caller has seen, it sees again, whoever answers.
//!
//! ```text
//!   write ─▶ token of its shard ┐
//!   read  ─▶ token of its shard ┴─▶ merged ─▶ the part of the shard asked travels with the next read
//! ```
//!
//! **Invariant.** A token covers every reply the session got, of any shard of its keyspace, from any node; handed to
//! another client or process it goes on there. If the map is missing or of another keyspace than the token, the whole
//! token travels: the server picks out its part, or refuses it, and never ignores it.

use crate::{error::ClientError, keyspace::Keyspace, maps::Aim};
use bytes::Bytes;
use kvorum_api::{KeyspaceId, ReadLevel, Receipt, Refused, SessionToken};
use parking_lot::Mutex;
use std::{fmt, ops::Deref, sync::Arc};

/// What one session has seen.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    token: Mutex<Option<SessionToken>>,
}

impl Memory {
    /// Takes in a reply. A reply of another keyspace (the name was given anew) begins a new memory: the old one means
    /// nothing any more. One of a lower number is of a node that lags behind.
    pub(crate) fn saw(&self, keyspace: KeyspaceId, receipt: &Receipt) {
        let news = SessionToken::of(keyspace, receipt);
        let mut token = self.token.lock();
        match token.as_mut() {
            Some(token) if token.keyspace == keyspace => drop(token.merge(&news)),
            Some(token) if token.keyspace > keyspace => {}
            Some(_) | None => *token = Some(news),
        }
    }

    /// What a read of the shard that `aim` names must have seen.
    pub(crate) fn for_read(&self, aim: Option<&Aim>) -> Bytes {
        let token = self.token.lock();
        let Some(token) = token.as_ref() else {
            return aim.map_or_else(Bytes::new, |aim| SessionToken::new(aim.keyspace).encode());
        };
        let Some(aim) = aim.filter(|aim| aim.keyspace == token.keyspace) else { return token.encode() };
        let shards = token.shards.get_key_value(&aim.shard).map(|(shard, seen)| (*shard, *seen)).into_iter().collect();
        SessionToken { shards, ..*token }.encode()
    }

    /// As [`Memory::for_read`], of a handle that nobody asked to be a session: where its keyspace was made anew, it
    /// begins anew.
    pub(crate) fn for_read_anew(&self, aim: Option<&Aim>) -> Bytes {
        match aim {
            Some(aim) if self.keyspace().is_some_and(|seen| seen < aim.keyspace) => {
                SessionToken::new(aim.keyspace).encode()
            }
            aim => self.for_read(aim),
        }
    }

    /// The keyspace it has seen, if it has seen one.
    pub(crate) fn keyspace(&self) -> Option<KeyspaceId> {
        self.token.lock().as_ref().map(|token| token.keyspace)
    }
}

/// A keyspace, seen by one session: reads never go back behind what the session has read or written. All operations of
/// [`Keyspace`] are there; reads are of level [`ReadLevel::Session`] unless a call says otherwise.
///
/// ```no_run
/// # async fn example(client: kvorum_client::Client) -> Result<(), kvorum_client::ClientError> {
/// let session = client.keyspace("orders").session();
/// session.put("1001", "paid").await?;
/// assert!(session.get("1001").await?.entry.is_some(), "any replica that answers has it");
/// let token = session.token(); // bytes, to go on elsewhere
///
/// let elsewhere = kvorum_client::Session::from_token(&client.keyspace("orders"), &token)?;
/// assert!(elsewhere.get("1001").await?.entry.is_some());
/// # Ok(())
/// # }
/// ```
pub struct Session<M> {
    keyspace: Keyspace<M>,
    memory: Arc<Memory>,
}

impl<M> Session<M> {
    pub(crate) fn begin(keyspace: &Keyspace<M>, memory: Memory) -> Self {
        let memory = Arc::new(memory);
        let keyspace = keyspace.clone().with_level(ReadLevel::Session).in_session(memory.clone());
        Session { keyspace, memory }
    }

    /// Goes on with the session that gave the token, perhaps one of another process.
    ///
    /// # Errors
    /// Bytes that are no token. A token of another keyspace, or of one that was dropped, is refused when it is used, by
    /// reads and by writes.
    pub fn from_token(keyspace: &Keyspace<M>, token: &[u8]) -> Result<Self, ClientError> {
        let token = SessionToken::decode(token)
            .map_err(|unreadable| Refused::Malformed { field: "session_token", problem: unreadable.to_string() })?;
        Ok(Self::begin(keyspace, Memory { token: Mutex::new(Some(token)) }))
    }

    /// What the session has seen so far; empty: nothing.
    #[must_use]
    pub fn token(&self) -> Bytes {
        self.memory.token.lock().as_ref().map(SessionToken::encode).unwrap_or_default()
    }
}

impl<M> Clone for Session<M> {
    fn clone(&self) -> Self {
        Session { keyspace: self.keyspace.clone(), memory: self.memory.clone() }
    }
}

impl<M> fmt::Debug for Session<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("keyspace", &self.keyspace.name()).finish_non_exhaustive()
    }
}

impl<M> Deref for Session<M> {
    type Target = Keyspace<M>;

    fn deref(&self) -> &Keyspace<M> {
        &self.keyspace
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::{LogPosition, Mode, NodeId, ShardId, Stamp};

    fn receipt(shard: u64, index: u64) -> Receipt {
        Receipt {
            mode: Mode::Cp,
            level: None,
            shard: ShardId(shard),
            epoch: 1,
            incarnation: 0,
            node: NodeId(1),
            version: None,
            position: LogPosition { term: 1, index },
            staleness: None,
            durable_replicas: 0,
            stamp: Stamp(index),
        }
    }

    fn aim(shard: u64) -> Aim {
        Aim { keyspace: KeyspaceId(7), shard: ShardId(shard), epoch: 1, leader: None, replicas: [].into() }
    }

    #[test]
    fn only_the_shard_asked_travels() {
        let memory = Memory::default();
        for (shard, index) in [(1, 5), (2, 9), (1, 4)] {
            memory.saw(KeyspaceId(7), &receipt(shard, index));
        }
        let token = SessionToken::decode(&memory.for_read(Some(&aim(1)))).unwrap();
        assert_eq!((token.keyspace, token.shards.len(), token.stamp), (KeyspaceId(7), 1, Stamp(9)));
        assert_eq!(token.shards[&ShardId(1)].position.index, 5);
        let unseen = SessionToken::decode(&memory.for_read(Some(&aim(3)))).unwrap();
        assert!(unseen.shards.is_empty());
    }

    #[test]
    fn a_keyspace_made_anew_begins_a_new_memory() {
        let memory = Memory::default();
        memory.saw(KeyspaceId(7), &receipt(1, 5));
        memory.saw(KeyspaceId(8), &receipt(4, 1));
        let token = memory.token.lock().clone().unwrap();
        assert_eq!((token.keyspace, token.shards.len()), (KeyspaceId(8), 1));
        memory.saw(KeyspaceId(7), &receipt(1, 9));
        assert_eq!(memory.token.lock().clone(), Some(token), "a node that lags behind answers of the dropped one");
    }

    #[test]
    fn without_a_map_of_its_keyspace_the_whole_token_travels() {
        let memory = Memory::default();
        assert!(memory.for_read(None).is_empty(), "nothing seen");
        memory.saw(KeyspaceId(8), &receipt(4, 2));
        memory.saw(KeyspaceId(8), &receipt(5, 2));
        for aim in [None, Some(&aim(1))] {
            let token = SessionToken::decode(&memory.for_read(aim)).unwrap();
            assert_eq!((token.keyspace, token.shards.len()), (KeyspaceId(8), 2));
        }
    }
}
