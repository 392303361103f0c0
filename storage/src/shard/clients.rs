//! Clients: request ids, so that a write that is sent twice happens once (rules I1, I2).
//!
//! ```text
//!      forgotten, refused │ remembered or new
//!   ──────────────────────┼──────●───●─●●───────▶ sequence         too old by `first_sent`: refused, whatever the
//!                       floor    outcomes                          sequence
//! ```
//!
//! A client's floor rises to what it no longer waits for, and above what there is no room to remember. A client that is
//! not heard for longer than the window is forgotten, a few rows an entry, found through an index by age.
//!
//! **Invariant.** An id is executed at most once: below the floor it is refused, at or above the floor its outcome is
//! here, and a client is forgotten only when every id it ever used here is too old, for ever.
//!
//! **Deliberately absent.** Anything replicated: the rows are the truth, and what this keeps in memory (floors and
//! which sequences have outcomes) can be dropped at any moment and read again.

use super::{draft::Draft, state::ShardState};
use crate::{
    codec::{
        Reader, Writer,
        outcome::{outcome, put_outcome},
    },
    command::{ExpiredBecause, Outcome, Previous, RequestId},
    engine::Column,
    error::StorageError,
    keys, planted,
};
use bytes::Bytes;
use kvorum_api::{ShardId, limits::OUTCOME_VALUE_BYTES_MAX};
use std::collections::{BTreeMap, BTreeSet};

/// The format of client and outcome records this build writes.
const FORMAT: u8 = 1;

/// A client is forgotten this much later than its last id became too old: room for ids that were on their way, from
/// clients whose stamps do not grow as they should.
const MARGIN_MS: u64 = 60_000;

/// Rows that one entry removes at most to forget idle clients.
const FORGET_ROWS_MAX: u32 = 256;

/// Clients and sequences kept in memory, per generation of the cache.
const CACHED_MAX: usize = 4_096;

/// What is known of one client.
#[derive(Debug, Default)]
struct Client {
    /// Sequences below are refused.
    floor: u64,
    /// The latest of logged time and `first_sent` over its commands.
    seen_ms: u64,
    /// Where the index by age has it: at most `seen_ms`. `None` = not yet.
    noted_ms: Option<u64>,
    /// Sequences with a remembered outcome, all at or above the floor.
    sequences: BTreeSet<u64>,
}

/// The request ids of one shard.
#[derive(Debug)]
pub(super) struct Clients {
    shard: ShardId,
    /// Recently used clients; when they are many, they become the former ones, and those are dropped.
    recent: BTreeMap<u128, Client>,
    former: BTreeMap<u128, Client>,
    /// About what `recent` holds, clients and sequences.
    recent_weight: usize,
    /// Clients whose record the entry under way changed.
    changed: BTreeSet<u128>,
    /// No client is noted in the index by age before this.
    oldest_noted_ms: u64,
}

impl Clients {
    pub(super) fn new(shard: ShardId) -> Self {
        Clients {
            shard,
            recent: BTreeMap::new(),
            former: BTreeMap::new(),
            recent_weight: 0,
            changed: BTreeSet::new(),
            oldest_noted_ms: 0,
        }
    }

    /// Drops everything kept in memory: after a batch that was not written, or after the rows were replaced.
    pub(super) fn clear(&mut self) {
        *self = Clients::new(self.shard);
    }

    /// Whether a request is to be executed (`None`), or what to answer instead.
    pub(super) fn admit(
        &mut self,
        draft: &mut Draft<'_>,
        state: &ShardState,
        request: &RequestId,
    ) -> Result<Option<Outcome>, StorageError> {
        if request.first_sent.ms() < state.request_horizon_ms {
            return Ok(Some(Outcome::RequestIdExpired { why: ExpiredBecause::TooOld }));
        }
        let shard = self.shard;
        self.changed.insert(request.client);
        let client = self.client(draft, request.client)?;
        client.seen_ms = client.seen_ms.max(state.logged_time_ms).max(request.first_sent.ms());
        if request.lowest_unanswered > client.floor {
            client.floor = request.lowest_unanswered;
            let kept = client.sequences.split_off(&client.floor);
            for sequence in std::mem::replace(&mut client.sequences, kept) {
                draft.delete(Column::Meta, keys::outcome_key(shard, request.client, sequence));
            }
        }
        if request.sequence < client.floor {
            return Ok(Some(Outcome::RequestIdExpired { why: ExpiredBecause::BelowFloor }));
        }
        if !client.sequences.contains(&request.sequence) {
            return Ok(None);
        }
        let key = keys::outcome_key(shard, request.client, request.sequence);
        let stored = draft.get(Column::Meta, &key)?.expect("a remembered sequence has its outcome row");
        decode_outcome(stored).map(Some)
    }

    /// Remembers what came of a request that [`Clients::admit`] let pass in the same entry. `key` is the placement key
    /// it is filed under.
    pub(super) fn remember(
        &mut self,
        draft: &mut Draft<'_>,
        state: &ShardState,
        request: &RequestId,
        (key, outcome): (&[u8], &Outcome),
    ) {
        let outcomes_max = state.settings.as_ref().map_or(0, |settings| settings.request_outcomes_max as usize);
        let row = keys::outcome_key(self.shard, request.client, request.sequence);
        draft.put(Column::Meta, row, encode_outcome(key, outcome));
        self.recent_weight += 1;
        let client = self.recent.get_mut(&request.client).expect("admit has loaded the client");
        client.sequences.insert(request.sequence);
        while client.sequences.len() > outcomes_max {
            let Some(lowest) = client.sequences.pop_first() else { break };
            client.floor = client.floor.max(lowest.saturating_add(1));
            draft.delete(Column::Meta, keys::outcome_key(self.shard, request.client, lowest));
        }
    }

    /// Writes the records of the clients that the entry changed.
    pub(super) fn end_entry(&mut self, draft: &mut Draft<'_>) {
        for id in std::mem::take(&mut self.changed) {
            let client = self.recent.get_mut(&id).expect("a changed client is a recent one");
            let noted_ms = *client.noted_ms.get_or_insert_with(|| {
                draft.put(
                    Column::Meta,
                    keys::client_age_key(self.shard, client.seen_ms, id),
                    Bytes::from_static(keys::MARKER),
                );
                self.oldest_noted_ms = self.oldest_noted_ms.min(client.seen_ms);
                client.seen_ms
            });
            draft.put(Column::Meta, keys::client_key(self.shard, id), encode_client(client, noted_ms));
        }
        if self.recent_weight > CACHED_MAX {
            self.former = std::mem::take(&mut self.recent);
            self.recent_weight = 0;
        }
    }

    /// Forgets clients that have not been heard for longer than the window, a bounded number of rows.
    pub(super) fn forget_idle(&mut self, draft: &mut Draft<'_>, state: &ShardState) -> Result<(), StorageError> {
        let before_ms = state.request_horizon_ms.saturating_sub(MARGIN_MS);
        if self.oldest_noted_ms >= before_ms {
            return Ok(());
        }
        let shard = self.shard;
        // Looks one beyond: whatever is noted first says until when there is nothing to look for.
        let mut walk = draft.walk(Column::Meta, keys::client_age_range(shard, u64::MAX));
        let mut rows_left = FORGET_ROWS_MAX;
        while let Some((row, _)) = walk.next(draft)? {
            let (noted_ms, id) = keys::parse_client_age_key(&row);
            if rows_left == 0 || noted_ms >= before_ms {
                self.oldest_noted_ms = noted_ms;
                return Ok(());
            }
            rows_left -= 1;
            let client = self.client(draft, id)?;
            if client.seen_ms >= before_ms {
                // It was heard since it was noted: noted anew, once per window and not with every command.
                client.noted_ms = None;
                draft.delete(Column::Meta, row);
                self.changed.insert(id);
                continue;
            }
            while rows_left > 0 {
                let Some(sequence) = client.sequences.pop_first() else { break };
                draft.delete(Column::Meta, keys::outcome_key(shard, id, sequence));
                rows_left -= 1;
            }
            if !client.sequences.is_empty() {
                self.oldest_noted_ms = noted_ms;
                return Ok(());
            }
            self.recent.remove(&id);
            draft.delete(Column::Meta, keys::client_key(shard, id));
            draft.delete(Column::Meta, row);
        }
        // Nobody is noted; whoever will be lowers it.
        self.oldest_noted_ms = u64::MAX;
        Ok(())
    }

    /// A client, from memory or from its rows; a new one if there are none.
    fn client(&mut self, draft: &mut Draft<'_>, id: u128) -> Result<&mut Client, StorageError> {
        if !self.recent.contains_key(&id) {
            let client = match self.former.remove(&id) {
                Some(client) => client,
                None => load(draft, self.shard, id)?,
            };
            self.recent_weight += 1 + client.sequences.len();
            self.recent.insert(id, client);
        }
        Ok(self.recent.get_mut(&id).expect("it was just put there"))
    }
}

fn load(draft: &mut Draft<'_>, shard: ShardId, id: u128) -> Result<Client, StorageError> {
    let Some(bytes) = draft.get(Column::Meta, &keys::client_key(shard, id))? else { return Ok(Client::default()) };
    let mut reader = Reader::open("client", bytes, FORMAT)?;
    let (floor, seen_ms, noted_ms) = (reader.u64()?, reader.u64()?, reader.u64()?);
    reader.end()?;
    let mut sequences = BTreeSet::new();
    let mut walk = draft.walk(Column::Meta, keys::outcome_range(shard, id));
    while let Some((key, _)) = walk.next(draft)?.filter(|_| !planted!("bug-retry-applied-twice")) {
        sequences.insert(keys::outcome_sequence(&key));
    }
    Ok(Client { floor, seen_ms, noted_ms: Some(noted_ms), sequences })
}

fn encode_client(client: &Client, noted_ms: u64) -> Bytes {
    let mut writer = Writer::new(FORMAT, 24);
    writer.u64(client.floor);
    writer.u64(client.seen_ms);
    writer.u64(noted_ms);
    writer.finish()
}

/// An outcome as remembered: with the placement key it is filed under, so that a split can copy it, and without
/// previous values that are too large to keep.
fn encode_outcome(key: &[u8], outcome: &Outcome) -> Bytes {
    let mut writer = Writer::new(FORMAT, 64 + key.len());
    writer.bytes(key);
    match outcome {
        Outcome::Written { applied, results, .. } => {
            let mut results = results.clone();
            for result in &mut results {
                let Previous::Found(entry) = &result.previous else { continue };
                if entry.value.as_ref().is_some_and(|value| value.len() > OUTCOME_VALUE_BYTES_MAX) {
                    result.previous = Previous::Forgotten(entry.version);
                }
            }
            put_outcome(&mut writer, &Outcome::Written { applied: *applied, repeated: true, results });
        }
        other => put_outcome(&mut writer, other),
    }
    writer.finish()
}

fn decode_outcome(bytes: Bytes) -> Result<Outcome, StorageError> {
    let mut reader = Reader::open("remembered outcome", bytes, FORMAT)?;
    reader.bytes()?;
    let outcome = outcome(&mut reader)?;
    reader.end()?;
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spoil::raw_and_spoiled;

    #[test]
    fn fuzz_any_remembered_outcome_is_refused_or_read() {
        let outcome = Outcome::Written { applied: true, repeated: true, results: Vec::new() };
        let sound = encode_outcome(b"key", &outcome);
        bolero::check!().with_iterations(2_000).with_max_len(80).for_each(|input: &[u8]| {
            for bytes in raw_and_spoiled(&sound, input) {
                if let Ok(outcome) = decode_outcome(bytes) {
                    let again = encode_outcome(b"key", &outcome);
                    assert_eq!(encode_outcome(b"key", &decode_outcome(again.clone()).unwrap()), again);
                }
            }
        });
    }

    #[test]
    fn format_1_is_what_it_was() {
        let client = Client { floor: 1, seen_ms: 2, ..Client::default() };
        #[rustfmt::skip]
        let fixture: &[u8] = &[1,  0, 0, 0, 0, 0, 0, 0, 1,  0, 0, 0, 0, 0, 0, 0, 2,  0, 0, 0, 0, 0, 0, 0, 3];
        assert_eq!(encode_client(&client, 3), fixture);
        let outcome = Outcome::Written { applied: true, repeated: false, results: Vec::new() };
        let fixture: &[u8] = &[1, 0, 0, 0, 1, b'k', 1, 3, 0, 0, 0, 0];
        assert_eq!(encode_outcome(b"k", &outcome), fixture);
        let repeated = Outcome::Written { applied: true, repeated: true, results: Vec::new() };
        assert_eq!(decode_outcome(Bytes::from_static(fixture)).unwrap(), repeated);
    }
}
