//! # Heartbeats: appends without entries, of all groups to one node, in one envelope
//!
//! ```text
//!   group 7 ─┐                                             ┌─▶ replica 7 ─┐
//!   group 8 ─┼─▶ one envelope: group, replicas, payload ──▶┼─▶ replica 8 ─┼─▶ one answer, an outcome per heartbeat
//!   group 9 ─┘                                             └─▶ replica 9 ─┘
//!
//!   heartbeats   format = 1 (1) │ count (4) │ per heartbeat: group, from replica, to replica (8 each), payload (4 + n)
//!   outcomes     format = 1 (1) │ count (4)
//!                per heartbeat: 1 answered, 2 refused, 3 unreachable, 4 late (1), bytes (4 + n)
//! ```
//!
//! The receiving node asks every replica as if its heartbeat had come alone, all at once. The answer leaves when all
//! are done, or [`SLOW_AFTER`] after the first was asked: what is still open then is called late, and its sender
//! repeats it in an envelope of its own. So a replica that waits for its disk costs the others 20 ms at most, not its
//! own wait, and is not cut short itself: giving a whole half heartbeat to everybody would have put that much into
//! every linearizable read of every other group, whose probes ride along.
//!
//! **Invariant.** Repeating a heartbeat, or giving up on one, changes nothing: it carries no entries.
//!
//! **Deliberately absent.** Who gathers them (`peers/merger`), and what they say (`cp`).

use crate::cp::codec::{DecodeError, Reader, begin, put_bytes};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{StreamExt as _, stream::FuturesUnordered};
use kvorum_api::{GroupId, ReplicaId};
use std::{future::Future, time::Duration};
use tokio::time::{Instant, timeout_at};

/// How long the answers of quick replicas wait for slow ones: longer than a usual sync, far below a heartbeat.
pub const SLOW_AFTER: Duration = Duration::from_millis(20);

/// Bytes of a heartbeat with an empty payload, and of an outcome without words.
const HEARTBEAT_BYTES: usize = 28;
const OUTCOME_BYTES: usize = 5;

/// One group's part of a merged envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// The group.
    pub group: GroupId,
    /// The sending replica.
    pub from_replica: ReplicaId,
    /// The replica addressed.
    pub to_replica: ReplicaId,
    /// The append, in the codec of `cp`.
    pub payload: Bytes,
}

/// What became of one heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The reply, in the codec of `cp`.
    Answered(Bytes),
    /// The replica, or its absence, refused it: a sentence.
    Refused(String),
    /// The node does not answer for it now: a sentence.
    Unreachable(String),
    /// Not answered within [`SLOW_AFTER`]: it may be repeated alone.
    Late,
}

/// Heartbeats as they travel.
#[must_use]
pub fn encode_heartbeats(heartbeats: &[Heartbeat]) -> Bytes {
    let bytes: usize = heartbeats.iter().map(|heartbeat| HEARTBEAT_BYTES + heartbeat.payload.len()).sum();
    let mut out = begin(4 + bytes);
    out.put_u32(heartbeats.len() as u32);
    for heartbeat in heartbeats {
        out.put_u64(heartbeat.group.0);
        out.put_u64(heartbeat.from_replica.0);
        out.put_u64(heartbeat.to_replica.0);
        put_bytes(&mut out, &heartbeat.payload);
    }
    out.freeze()
}

/// The reverse of [`encode_heartbeats`].
///
/// # Errors
/// Other bytes.
pub fn decode_heartbeats(bytes: Bytes) -> Result<Vec<Heartbeat>, DecodeError> {
    let mut reader = Reader::open(bytes, "heartbeats")?;
    let count = reader.count(HEARTBEAT_BYTES)?;
    let mut heartbeats = Vec::with_capacity(count);
    for _ in 0..count {
        heartbeats.push(Heartbeat {
            group: GroupId(reader.u64()?),
            from_replica: ReplicaId(reader.u64()?),
            to_replica: ReplicaId(reader.u64()?),
            payload: reader.bytes()?,
        });
    }
    reader.end()?;
    Ok(heartbeats)
}

/// Outcomes as they travel, in the order of the heartbeats.
#[must_use]
pub fn encode_outcomes(outcomes: &[Outcome]) -> Bytes {
    let mut out = begin(4 + outcomes.len() * 64);
    out.put_u32(outcomes.len() as u32);
    for outcome in outcomes {
        let put = |number: u8, bytes: &[u8], out: &mut BytesMut| {
            out.put_u8(number);
            put_bytes(out, bytes);
        };
        match outcome {
            Outcome::Answered(payload) => put(1, payload, &mut out),
            Outcome::Refused(why) => put(2, why.as_bytes(), &mut out),
            Outcome::Unreachable(why) => put(3, why.as_bytes(), &mut out),
            Outcome::Late => put(4, &[], &mut out),
        }
    }
    out.freeze()
}

/// The reverse of [`encode_outcomes`].
///
/// # Errors
/// Other bytes.
pub fn decode_outcomes(bytes: Bytes) -> Result<Vec<Outcome>, DecodeError> {
    let mut reader = Reader::open(bytes, "outcomes of heartbeats")?;
    let count = reader.count(OUTCOME_BYTES)?;
    let mut outcomes = Vec::with_capacity(count);
    for _ in 0..count {
        let number = reader.u8()?;
        let bytes = reader.bytes()?;
        let words = || String::from_utf8_lossy(&bytes).into_owned();
        outcomes.push(match number {
            1 => Outcome::Answered(bytes),
            2 => Outcome::Refused(words()),
            3 => Outcome::Unreachable(words()),
            4 => Outcome::Late,
            found => return Err(reader.unknown(found)),
        });
    }
    reader.end()?;
    Ok(outcomes)
}

/// Asks every replica at once and gives what they answered, late ones excepted.
///
/// # Errors
/// Bytes that are no heartbeats.
pub async fn answer<F>(payload: Bytes, ask: impl Fn(Heartbeat) -> F) -> Result<Bytes, DecodeError>
where
    F: Future<Output = Outcome>,
{
    let heartbeats = decode_heartbeats(payload)?;
    let mut outcomes = vec![Outcome::Late; heartbeats.len()];
    let asked = heartbeats.into_iter().enumerate().map(|(place, heartbeat)| {
        let asked = ask(heartbeat);
        async move { (place, asked.await) }
    });
    let mut open: FuturesUnordered<_> = asked.collect();
    let deadline = Instant::now() + SLOW_AFTER;
    while let Ok(Some((place, outcome))) = timeout_at(deadline, open.next()).await {
        outcomes[place] = outcome;
    }
    Ok(encode_outcomes(&outcomes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_storage::spoil::raw_and_spoiled;
    use proptest::prelude::*;

    fn heartbeat(group: u64) -> Heartbeat {
        Heartbeat {
            group: GroupId(group),
            from_replica: ReplicaId(1),
            to_replica: ReplicaId(2),
            payload: Bytes::from_static(b"hb"),
        }
    }

    fn some_outcomes() -> Vec<Outcome> {
        vec![
            Outcome::Answered(Bytes::from_static(b"ok")),
            Outcome::Refused("no".to_owned()),
            Outcome::Unreachable("?".to_owned()),
            Outcome::Late,
        ]
    }

    /// The bytes of version 1, for ever.
    #[test]
    fn version_1_is_what_it_was() {
        let mut expected = vec![1, 0, 0, 0, 1];
        for word in [7_u64, 1, 2] {
            expected.extend_from_slice(&word.to_be_bytes());
        }
        expected.extend_from_slice(&[0, 0, 0, 2, b'h', b'b']);
        assert_eq!(encode_heartbeats(&[heartbeat(7)]), expected);
        assert_eq!(decode_heartbeats(expected.into()), Ok(vec![heartbeat(7)]));

        let expected = [
            &[1, 0, 0, 0, 4][..],
            &[1, 0, 0, 0, 2, b'o', b'k'],
            &[2, 0, 0, 0, 2, b'n', b'o'],
            &[3, 0, 0, 0, 1, b'?'],
            &[4, 0, 0, 0, 0],
        ]
        .concat();
        assert_eq!(encode_outcomes(&some_outcomes()), expected);
        assert_eq!(decode_outcomes(expected.into()), Ok(some_outcomes()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_replica_is_late_and_holds_nobody_up() {
        let began = Instant::now();
        let request = encode_heartbeats(&[heartbeat(1), heartbeat(2), heartbeat(3)]);
        let answer = answer(request, |heartbeat| async move {
            let wait_ms = if heartbeat.group == GroupId(2) { 60_000 } else { 5 };
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            Outcome::Answered(heartbeat.payload)
        });
        let outcomes = decode_outcomes(answer.await.unwrap()).unwrap();
        let answered = Outcome::Answered(Bytes::from_static(b"hb"));
        assert_eq!(outcomes, [answered.clone(), Outcome::Late, answered]);
        assert!(began.elapsed() <= SLOW_AFTER + Duration::from_millis(1), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn quick_replicas_are_answered_at_once() {
        let began = Instant::now();
        let request = encode_heartbeats(&[heartbeat(1), heartbeat(2)]);
        let answer = answer(request, |_| async { Outcome::Refused("no".to_owned()) }).await.unwrap();
        assert_eq!(decode_outcomes(answer), Ok(vec![Outcome::Refused("no".to_owned()); 2]));
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn any_heartbeats_round_trip(
            heartbeats in proptest::collection::vec(
                (any::<[u64; 3]>(), proptest::collection::vec(any::<u8>(), 0..40)),
                0..20,
            ),
        ) {
            let heartbeats: Vec<_> = heartbeats
                .into_iter()
                .map(|([group, from, to], payload)| Heartbeat {
                    group: GroupId(group),
                    from_replica: ReplicaId(from),
                    to_replica: ReplicaId(to),
                    payload: payload.into(),
                })
                .collect();
            prop_assert_eq!(decode_heartbeats(encode_heartbeats(&heartbeats)), Ok(heartbeats));
        }

        #[test]
        fn any_outcomes_round_trip(outcomes in proptest::collection::vec((0..4_usize, ".{0,20}"), 0..20)) {
            let outcomes: Vec<_> = outcomes
                .into_iter()
                .map(|(which, words)| match which {
                    0 => Outcome::Answered(words.into()),
                    1 => Outcome::Refused(words),
                    2 => Outcome::Unreachable(words),
                    _ => Outcome::Late,
                })
                .collect();
            prop_assert_eq!(decode_outcomes(encode_outcomes(&outcomes)), Ok(outcomes));
        }
    }

    /// Also two of anything.
    #[test]
    fn fuzz_any_bytes_are_refused_or_read_as_what_they_say() {
        let sound = [
            encode_heartbeats(&[heartbeat(1), heartbeat(2)]),
            encode_outcomes(&[
                Outcome::Answered(Bytes::from_static(b"a")),
                Outcome::Refused("b".into()),
                Outcome::Late,
            ]),
        ];
        bolero::check!().with_iterations(2_000).with_max_len(200).for_each(|input: &[u8]| {
            let two = Bytes::from([&[1, 0, 0, 0, 2], input].concat());
            for bytes in sound.iter().flat_map(|sound| raw_and_spoiled(sound, input)).chain([two]) {
                if let Ok(heartbeats) = decode_heartbeats(bytes.clone()) {
                    assert_eq!(encode_heartbeats(&heartbeats), bytes);
                }
                if let Ok(outcomes) = decode_outcomes(bytes) {
                    assert_eq!(decode_outcomes(encode_outcomes(&outcomes)), Ok(outcomes));
                }
            }
        });
    }
}
