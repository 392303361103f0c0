//! One shard in memory: conditions, increments, atomic batches, request ids.
//!
//! Entries are in the order of their placement keys, as a real shard keeps them.

use bytes::Bytes;
use kvorum_api::{KeyspaceId, LogPosition, PlacementRange, Seen, SessionToken, ShardId, Stamp, limits, proto};
use proto::{condition::Kind as Condition, operation::Kind as Operation, operation_result::Status};
use std::collections::BTreeMap;

/// Where the fake servers' clock starts, Unix milliseconds.
pub const START_MS: u64 = 1_700_000_000_000;

/// Outcomes a shard remembers of one client.
const OUTCOMES_MAX: usize = limits::REQUEST_OUTCOMES_MAX as usize;

/// A write as it was on the wire.
#[derive(Clone, Debug)]
pub struct Frame {
    pub id: Option<proto::RequestId>,
    pub operations: Vec<proto::Operation>,
}

/// The id is below what the shard remembers.
#[derive(Debug)]
pub struct Expired;

#[derive(Default)]
pub struct Shard {
    pub id: u64,
    pub range: PlacementRange,
    pub epoch: u64,
    pub entries: BTreeMap<Bytes, proto::Entry>,
    pub floors: BTreeMap<Bytes, u64>,
    pub outcomes: BTreeMap<(Bytes, u64), proto::WriteReply>,
    pub index: u64,
    /// How many writes changed something.
    pub applied: usize,
    pub now_ms: u64,
}

impl Shard {
    pub fn new(id: u64, range: PlacementRange) -> Self {
        Shard { id, range, epoch: 1, ..Shard::default() }
    }

    pub fn receipt(&self, node: usize, keyspace: u32, stamp: u64) -> proto::Receipt {
        let seen = Seen { incarnation: 0, position: LogPosition { term: 2, index: self.index } };
        let shards = BTreeMap::from([(ShardId(self.id), seen)]);
        let token = SessionToken { keyspace: KeyspaceId(keyspace), stamp: Stamp(stamp), shards };
        proto::Receipt {
            mode: "cp".to_owned(),
            shard: self.id,
            epoch: self.epoch,
            position: Some(proto::Position { term: 2, index: self.index }),
            session_token: token.encode(),
            stamp,
            node: node as u64 + 1,
            ..proto::Receipt::default()
        }
    }

    /// Applies a write once, or answers its first outcome.
    pub fn write(&mut self, frame: &Frame) -> Result<proto::WriteReply, Expired> {
        if let Some(id) = &frame.id {
            let floor = self.floors.entry(id.client.clone()).or_default();
            *floor = (*floor).max(id.lowest_unanswered);
            if id.sequence < *floor {
                return Err(Expired);
            }
            if let Some(outcome) = self.outcomes.get(&(id.client.clone(), id.sequence)) {
                return Ok(proto::WriteReply { repeated_request: true, ..outcome.clone() });
            }
        }
        let reply = self.apply(&frame.operations);
        if let Some(id) = &frame.id {
            self.outcomes.insert((id.client.clone(), id.sequence), reply.clone());
            self.forget(&id.client);
        }
        Ok(reply)
    }

    /// Outcomes below the client's floor, then the oldest of too many: the floor rises above them.
    fn forget(&mut self, client: &Bytes) {
        let floor = self.floors.entry(client.clone()).or_default();
        self.outcomes.retain(|(of, sequence), _| of != client || *sequence >= *floor);
        let of_client = self.outcomes.keys().filter(|(of, _)| of == client).map(|(_, sequence)| *sequence);
        let (count, lowest) = (of_client.clone().count(), of_client.min());
        if let Some(lowest) = lowest.filter(|_| count > OUTCOMES_MAX) {
            self.outcomes.remove(&(client.clone(), lowest));
            *floor = (*floor).max(lowest + 1);
        }
    }

    fn apply(&mut self, operations: &[proto::Operation]) -> proto::WriteReply {
        self.index += 1;
        let before = self.entries.clone();
        let mut results: Vec<proto::OperationResult> =
            operations.iter().map(|operation| self.apply_one(operation.kind.as_ref().unwrap())).collect();
        let applied = results.iter().all(|result| result.status() == Status::Applied);
        if applied {
            self.applied += 1;
        } else {
            self.entries = before;
            for result in results.iter_mut().filter(|result| result.status() == Status::Applied) {
                *result = proto::OperationResult { status: Status::Skipped.into(), ..Default::default() };
            }
        }
        proto::WriteReply { applied, results, ..Default::default() }
    }

    fn apply_one(&mut self, operation: &Operation) -> proto::OperationResult {
        let version = Some(proto::Version { stamp: self.index, node: 1, start: 1 });
        let (key, condition, wants_previous) = match operation {
            Operation::Put(put) => (&put.key, put.condition.as_ref(), put.return_previous),
            Operation::Delete(delete) => (&delete.key, delete.condition.as_ref(), delete.return_previous),
            Operation::Increment(increment) => (&increment.key, None, increment.return_previous),
        };
        let there = self.entries.get(key).cloned();
        let failed = |status: Status| proto::OperationResult {
            status: status.into(),
            previous: there.clone(),
            ..Default::default()
        };
        if !condition.is_none_or(|condition| holds(condition, there.as_ref())) {
            return failed(Status::ConditionFailed);
        }
        let mut number = None;
        let value = match operation {
            Operation::Put(put) => Some(put.value.clone()),
            Operation::Delete(_) => None,
            Operation::Increment(increment) => {
                let text = there.as_ref().map_or("0", |entry| std::str::from_utf8(&entry.value).unwrap_or("?"));
                let Ok(current) = text.parse::<i64>() else { return failed(Status::NotANumber) };
                let Some(sum) = current.checked_add(increment.delta) else { return failed(Status::Overflow) };
                number = Some(sum);
                Some(sum.to_string().into())
            }
        };
        match value {
            Some(value) => {
                let expires_ms = match operation {
                    Operation::Put(put) => put.ttl_ms.map(|ttl| self.now_ms + ttl),
                    Operation::Delete(_) | Operation::Increment(_) => None,
                };
                self.entries.insert(key.clone(), proto::Entry { key: key.clone(), value, version, expires_ms });
            }
            None => drop(self.entries.remove(key)),
        }
        let previous = there.filter(|_| wants_previous);
        proto::OperationResult { status: Status::Applied.into(), previous, number, version, ..Default::default() }
    }
}

fn holds(condition: &proto::Condition, there: Option<&proto::Entry>) -> bool {
    match condition.kind.as_ref().unwrap() {
        Condition::Absent(_) => there.is_none(),
        Condition::Present(_) => there.is_some(),
        Condition::Version(version) => there.is_some_and(|entry| entry.version.as_ref() == Some(version)),
        Condition::Value(value) => there.is_some_and(|entry| entry.value == *value),
    }
}
