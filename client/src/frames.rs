//! Which requests travel together. Pure: a queue and floors in, one frame's calls out.
//!
//! ```text
//!   queue   a1 b1 A2 a3 c1 …      one keyspace and one session a frame; at most so many calls and bytes
//!   floor   the lowest of the shards written in the frame
//! ```
//!
//! **Invariant (I2).** The floor of a frame is above no write that may still be sent to a shard of it. And where a
//! write was given up, the next frame to its shard tells a floor above it: if the other shards of the frame would hold
//! the floor below, the writes to that shard travel in a frame of their own.

use crate::{failure::Failure, unanswered::Floor};
use bytes::Bytes;
use kvorum_api::{
    ShardId,
    frame::{BYTES_MAX, Body, CALLS_MAX, Call, Outcome},
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};
use tokio::{sync::oneshot, time::Instant};

/// Bytes of a frame left for what is not a call.
const HEAD_BYTES_MAX: usize = 256 << 10;

/// One request on its way into a frame.
#[derive(Debug)]
pub(crate) struct Ask {
    pub(crate) keyspace: Arc<str>,
    /// Where it goes, as far as that is known.
    pub(crate) shard: Option<ShardId>,
    pub(crate) epoch: u64,
    pub(crate) session_token: Bytes,
    pub(crate) body: Body,
    /// How long its caller waits.
    pub(crate) deadline: Instant,
    pub(crate) reply: oneshot::Sender<Result<Outcome, Failure>>,
}

impl Ask {
    fn is_write(&self) -> bool {
        !matches!(self.body, Body::Get { .. })
    }
}

/// The requests that wait for a frame.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    queue: VecDeque<Ask>,
}

/// What one frame carries.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) keyspace: Arc<str>,
    pub(crate) session_token: Bytes,
    pub(crate) lowest_unanswered: u64,
    pub(crate) calls: Vec<Call>,
    /// One per call.
    pub(crate) replies: Vec<oneshot::Sender<Result<Outcome, Failure>>>,
}

type Shards = BTreeSet<Option<ShardId>>;

impl Frames {
    pub(crate) fn push(&mut self, ask: Ask) {
        self.queue.push_back(ask);
    }

    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    pub(crate) fn drain(&mut self) -> impl Iterator<Item = Ask> {
        self.queue.drain(..)
    }

    /// Takes the next frame out of the queue; `None` if nobody waits any more. Ids count up from `first_id`.
    pub(crate) fn cut(
        &mut self,
        now: Instant,
        first_id: u64,
        floors: impl FnOnce(&Shards) -> BTreeMap<Option<ShardId>, Floor>,
    ) -> Option<Cut> {
        self.queue.retain(|ask| !ask.reply.is_closed());
        let first = self.queue.front()?;
        let (keyspace, session_token) = (first.keyspace.clone(), first.session_token.clone());
        let belongs = |ask: &Ask| *ask.keyspace == *keyspace && ask.session_token == session_token;
        let written: Shards =
            self.queue.iter().filter(|ask| belongs(ask) && ask.is_write()).map(|ask| ask.shard).collect();
        let first_written = first.is_write().then_some(first.shard);
        let (shards, lowest_unanswered) = together(first_written, &floors(&written));
        let mut cut =
            Cut { keyspace: keyspace.clone(), session_token, lowest_unanswered, calls: vec![], replies: vec![] };
        let mut bytes = HEAD_BYTES_MAX;
        let mut left = VecDeque::new();
        for ask in std::mem::take(&mut self.queue) {
            let rides = ask.keyspace == keyspace
                && ask.session_token == cut.session_token
                && (!ask.is_write() || shards.contains(&ask.shard));
            if !rides || cut.calls.len() >= CALLS_MAX {
                left.push_back(ask);
                continue;
            }
            let wait = ask.deadline.saturating_duration_since(now).as_millis();
            let call = Call {
                id: first_id + cut.calls.len() as u64,
                // 0 would mean the server's own default.
                deadline_ms: u32::try_from(wait).unwrap_or(u32::MAX).max(1),
                epoch: ask.epoch,
                body: ask.body,
            };
            let size = call.size();
            if bytes + size > BYTES_MAX && !cut.calls.is_empty() {
                left.push_back(Ask { body: call.body, ..ask });
                continue;
            }
            bytes += size;
            cut.calls.push(call);
            cut.replies.push(ask.reply);
        }
        self.queue = left;
        Some(cut)
    }
}

/// The shards whose writes ride with the first request, and their common floor.
fn together(first: Option<Option<ShardId>>, floors: &BTreeMap<Option<ShardId>, Floor>) -> (Shards, u64) {
    // A frame without writes raises no floor.
    let lowest = |floors: &mut dyn Iterator<Item = &Floor>| floors.map(|floor| floor.lowest).min().unwrap_or(1);
    let merged = lowest(&mut floors.values());
    // It must hear a floor above what was given up there, and by itself it would.
    let travels_alone = |floor: &Floor| merged <= floor.abandoned && floor.abandoned < floor.lowest;
    if let Some(first) = first
        && let Some(floor) = floors.get(&first)
        && travels_alone(floor)
    {
        return (BTreeSet::from([first]), floor.lowest);
    }
    let others = || floors.iter().filter(|(_, floor)| !travels_alone(floor));
    (others().map(|(shard, _)| *shard).collect(), lowest(&mut others().map(|(_, floor)| floor)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::frame::{Condition, Operation};
    use proptest::prelude::*;
    use std::time::Duration;

    type Waiting = oneshot::Receiver<Result<Outcome, Failure>>;

    fn ask(keyspace: &str, shard: u64, value_bytes: Option<usize>) -> (Ask, Waiting) {
        let (reply, waiting) = oneshot::channel();
        let key = Bytes::from_static(b"k");
        let body = match value_bytes {
            None => Body::Get { key, level: None },
            Some(bytes) => {
                let value = vec![0; bytes].into();
                let condition = Condition::None;
                let operation = Operation::Put { key, value, ttl_ms: None, condition, return_previous: false };
                Body::Single { request: None, operation }
            }
        };
        let deadline = Instant::now() + Duration::from_secs(1);
        let (keyspace, shard) = (keyspace.into(), Some(ShardId(shard)));
        (Ask { keyspace, shard, epoch: 1, session_token: Bytes::new(), body, deadline, reply }, waiting)
    }

    fn queue(asks: Vec<(Ask, Waiting)>) -> (Frames, Vec<Waiting>) {
        let mut frames = Frames::default();
        let waiting = asks.into_iter().map(|(ask, waiting)| {
            frames.push(ask);
            waiting
        });
        let waiting = waiting.collect();
        (frames, waiting)
    }

    fn flat(lowest: u64) -> impl Fn(&Shards) -> BTreeMap<Option<ShardId>, Floor> {
        move |shards| shards.iter().map(|shard| (*shard, Floor { lowest, abandoned: 0 })).collect()
    }

    #[test]
    fn one_keyspace_and_one_session_ride_together() {
        let (mut frames, _waiting) =
            queue(vec![ask("a", 1, Some(1)), ask("b", 2, Some(1)), ask("a", 3, None), ask("a", 1, Some(1))]);
        let cut = frames.cut(Instant::now(), 7, flat(5)).unwrap();
        let ids: Vec<u64> = cut.calls.iter().map(|call| call.id).collect();
        assert_eq!((&*cut.keyspace, cut.lowest_unanswered, ids), ("a", 5, vec![7, 8, 9]));
        assert_eq!(&*frames.cut(Instant::now(), 10, flat(5)).unwrap().keyspace, "b");
        assert!(frames.cut(Instant::now(), 11, flat(5)).is_none());
    }

    #[test]
    fn who_gave_up_waiting_is_not_sent() {
        let (mut frames, mut waiting) = queue(vec![ask("a", 1, Some(1)), ask("a", 2, None)]);
        drop(waiting.remove(0));
        let cut = frames.cut(Instant::now(), 1, flat(5)).unwrap();
        assert!(cut.calls.len() == 1 && matches!(cut.calls[0].body, Body::Get { .. }));
    }

    #[test]
    fn a_frame_is_bounded_in_calls_and_bytes_and_a_larger_call_travels_alone() {
        let (mut frames, _waiting) = queue((0..CALLS_MAX + 1).map(|_| ask("a", 1, Some(1))).collect());
        assert_eq!(frames.cut(Instant::now(), 1, flat(1)).unwrap().calls.len(), CALLS_MAX);
        assert_eq!(frames.len(), 1);
        let (mut frames, _waiting) =
            queue([BYTES_MAX + 1, 1, BYTES_MAX / 2, BYTES_MAX / 2].into_iter().map(|b| ask("a", 1, Some(b))).collect());
        let sizes: Vec<usize> =
            std::iter::from_fn(|| frames.cut(Instant::now(), 1, flat(1))).map(|cut| cut.calls.len()).collect();
        assert_eq!(sizes, [1, 2, 1]);
    }

    /// I2: a shard in which a write was given up hears a floor above it, even if another shard's is lower.
    #[test]
    fn a_shard_with_a_write_given_up_travels_alone_when_others_would_hold_its_floor_back() {
        let floors = |shards: &Shards| {
            let all = [(1, Floor { lowest: 9, abandoned: 6 }), (2, Floor { lowest: 4, abandoned: 0 })];
            let all = all.into_iter().map(|(shard, floor)| (Some(ShardId(shard)), floor));
            all.filter(|(shard, _)| shards.contains(shard)).collect()
        };
        let (mut frames, _waiting) = queue(vec![ask("a", 2, Some(1)), ask("a", 1, Some(1)), ask("a", 1, None)]);
        let cut = frames.cut(Instant::now(), 1, floors).unwrap();
        assert_eq!((cut.lowest_unanswered, cut.calls.len()), (4, 2), "the other shard and the read");
        let cut = frames.cut(Instant::now(), 1, floors).unwrap();
        assert_eq!((cut.lowest_unanswered, cut.calls.len()), (9, 1));
    }

    proptest! {
        /// I2: whatever the floors, a frame's floor passes none of its shards', and passes what was given up in each
        /// wherever that shard's own floor does.
        #[test]
        fn the_floor_of_a_frame_fits_every_shard_in_it(
            floors in prop::collection::btree_map(0..6_u64, (1..20_u64, 0..20_u64), 1..6),
        ) {
            let floors: BTreeMap<Option<ShardId>, Floor> = floors.into_iter()
                .map(|(shard, (lowest, abandoned))| (Some(ShardId(shard)), Floor { lowest, abandoned })).collect();
            for first in floors.keys() {
                let (shards, lowest) = together(Some(*first), &floors);
                prop_assert!(shards.contains(first));
                for shard in &shards {
                    let floor = floors[shard];
                    prop_assert!(lowest <= floor.lowest);
                    prop_assert!(floor.abandoned >= floor.lowest || lowest > floor.abandoned);
                }
            }
        }
    }
}
