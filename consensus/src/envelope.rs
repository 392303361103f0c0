//! # Envelope: what every message between two nodes is wrapped in
//!
//! Version 1, integers big-endian:
//!
//! ```text
//!   at   bytes
//!    0     1    format = 1
//!    1     1    form: 1 request, 2 reply, 3 refusal
//!    2    16    cluster
//!   18     8    from node          26   8   to node
//!   34     8    start count        42   8   boot nonce         50   8   last synced batch (rule J7)
//!   58     8    stamp (rule T1)    66   8   physical clock, Unix ms (rule T4)
//!   74     8    group              82   8   from replica       90   8   to replica
//!   98     1    kind (of a refusal: why)
//!   99     2    bytes of trace context, then the trace context
//!         4    bytes of payload, then the payload (of a refusal: a sentence)
//! ```
//!
//! **Invariant.** Decoding never panics and takes exactly what encoding gives. Numbers are append-only; a format this
//! build does not know is refused by number.
//!
//! A life is known only once a hello has proven it; until then everything else is refused with 6, "not now".
//!
//! **Deliberately absent.** What a payload means: `cp` and `hello` have codecs of their own.

use crate::identity::Life;
use bytes::{BufMut, Bytes, BytesMut};
use kvorum_api::{ClusterId, GroupId, NodeId, ReplicaId, Stamp, StartCount};
use kvorum_storage::journal::BatchNumber;
use thiserror::Error;

/// The format this build writes.
pub const FORMAT: u8 = 1;

/// Bytes of trace context that travel; a longer one is left behind.
pub const TRACE_BYTES_MAX: usize = 512;

/// Bytes before the trace context.
const HEAD_BYTES: usize = 101;

/// What an envelope is. Numbers are on the wire: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Form {
    /// Asks for an answer.
    Request = 1,
    /// The answer.
    Reply = 2,
    /// No answer: the payload is a sentence, `kind` is a [`Refusal`].
    Refusal = 3,
}

/// Why a message was not answered. Numbers are on the wire: append only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Refusal {
    /// No envelope, or a kind this build does not know.
    Malformed = 1,
    /// Another cluster.
    WrongCluster = 2,
    /// The cluster does not know the sender.
    UnknownNode = 3,
    /// Sent to another node.
    WrongAddressee = 4,
    /// The sender is not who it says it is: an emptied, restored, cloned or older directory, or a second process.
    Identity = 5,
    /// The node cannot answer now: it is starting, stopping, poisoned, or has not met enough peers.
    NotNow = 6,
    /// The node does not hold the replica addressed, or the sender not the one it speaks for.
    UnknownReplica = 7,
    /// The replica refused the message itself.
    Replica = 8,
    /// The sender's id was given once, and the cluster has forgotten its node since: it is never let in again.
    Forgotten = 9,
}

impl Refusal {
    /// The refusal of a number on the wire; one that a newer build invented is a refusal all the same.
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        match number {
            2 => Refusal::WrongCluster,
            3 => Refusal::UnknownNode,
            4 => Refusal::WrongAddressee,
            5 => Refusal::Identity,
            6 => Refusal::NotNow,
            7 => Refusal::UnknownReplica,
            8 => Refusal::Replica,
            9 => Refusal::Forgotten,
            _ => Refusal::Malformed,
        }
    }
}

/// One message between two nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// What it is.
    pub form: Form,
    /// The sender's cluster.
    pub cluster: ClusterId,
    /// Who sends it.
    pub from: NodeId,
    /// Who is to read it.
    pub to: NodeId,
    /// Which life of the sender.
    pub life: Life,
    /// The highest stamp of the sender's hybrid logical clock.
    pub stamp: Stamp,
    /// The sender's physical clock, Unix milliseconds.
    pub physical_ms: u64,
    /// The group, for messages between replicas.
    pub group: GroupId,
    /// The sending replica.
    pub from_replica: ReplicaId,
    /// The replica addressed.
    pub to_replica: ReplicaId,
    /// A `MessageKind`, or of a refusal a [`Refusal`], by number.
    pub kind: u8,
    /// W3C trace context, empty = none.
    pub trace: Bytes,
    /// The content.
    pub payload: Bytes,
}

/// Bytes that are no envelope.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// Too short, or too long.
    #[error("not an envelope: {found} bytes where {expected} were expected")]
    Length {
        /// How many there are.
        found: usize,
        /// How many there should be, at least.
        expected: usize,
    },
    /// Written by a build that this one does not understand.
    #[error("envelope of format {0}: this build knows format {FORMAT}")]
    Format(u8),
    /// Neither request, nor reply, nor refusal.
    #[error("envelope of form {0}: this build knows 1, 2 and 3")]
    Form(u8),
}

impl Envelope {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let trace = if self.trace.len() <= TRACE_BYTES_MAX { &self.trace[..] } else { &[] };
        let length = u32::try_from(self.payload.len()).expect("a payload is bounded far below 4 GiB");
        let mut bytes = BytesMut::with_capacity(HEAD_BYTES + trace.len() + 4 + self.payload.len());
        bytes.put_u8(FORMAT);
        bytes.put_u8(self.form as u8);
        bytes.put_slice(&self.cluster.0);
        bytes.put_u64(self.from.0);
        bytes.put_u64(self.to.0);
        bytes.put_u64(self.life.start.0);
        bytes.put_u64(self.life.boot_nonce);
        bytes.put_u64(self.life.last_synced.0);
        bytes.put_u64(self.stamp.0);
        bytes.put_u64(self.physical_ms);
        bytes.put_u64(self.group.0);
        bytes.put_u64(self.from_replica.0);
        bytes.put_u64(self.to_replica.0);
        bytes.put_u8(self.kind);
        bytes.put_u16(trace.len() as u16);
        bytes.put_slice(trace);
        bytes.put_u32(length);
        bytes.put_slice(&self.payload);
        bytes.freeze()
    }

    /// The reverse; payload and trace share the buffer.
    ///
    /// # Errors
    /// See [`DecodeError`].
    pub fn decode(bytes: &Bytes) -> Result<Self, DecodeError> {
        let require = |expected: usize| {
            (bytes.len() >= expected).then_some(()).ok_or(DecodeError::Length { found: bytes.len(), expected })
        };
        require(1)?;
        if bytes[0] != FORMAT {
            return Err(DecodeError::Format(bytes[0]));
        }
        require(HEAD_BYTES + 4)?;
        let word = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        let form = match bytes[1] {
            1 => Form::Request,
            2 => Form::Reply,
            3 => Form::Refusal,
            other => return Err(DecodeError::Form(other)),
        };
        let trace_end = HEAD_BYTES + usize::from(u16::from_be_bytes([bytes[99], bytes[100]]));
        require(trace_end + 4)?;
        let length = u32::from_be_bytes(bytes[trace_end..trace_end + 4].try_into().expect("four bytes"));
        let end = (trace_end + 4).saturating_add(length as usize);
        if bytes.len() != end {
            return Err(DecodeError::Length { found: bytes.len(), expected: end });
        }
        Ok(Envelope {
            form,
            cluster: ClusterId(bytes[2..18].try_into().expect("sixteen bytes")),
            from: NodeId(word(18)),
            to: NodeId(word(26)),
            life: Life { start: StartCount(word(34)), boot_nonce: word(42), last_synced: BatchNumber(word(50)) },
            stamp: Stamp(word(58)),
            physical_ms: word(66),
            group: GroupId(word(74)),
            from_replica: ReplicaId(word(82)),
            to_replica: ReplicaId(word(90)),
            kind: bytes[98],
            trace: bytes.slice(HEAD_BYTES..trace_end),
            payload: bytes.slice(trace_end + 4..end),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_storage::spoil::raw_and_spoiled;
    use proptest::prelude::*;

    fn sample() -> Envelope {
        Envelope {
            form: Form::Request,
            cluster: ClusterId(*b"0123456789abcdef"),
            from: NodeId(1),
            to: NodeId(2),
            life: Life { start: StartCount(3), boot_nonce: 4, last_synced: BatchNumber(5) },
            stamp: Stamp(6),
            physical_ms: 7,
            group: GroupId(8),
            from_replica: ReplicaId(9),
            to_replica: ReplicaId(10),
            kind: 11,
            trace: Bytes::from_static(b"00-t"),
            payload: Bytes::from_static(b"hi"),
        }
    }

    /// The bytes of version 1, for ever.
    #[test]
    fn version_1_is_what_it_was() {
        let mut expected = vec![1, 1];
        expected.extend_from_slice(b"0123456789abcdef");
        for word in [1_u64, 2, 3, 4, 5, 6, 7, 8, 9, 10] {
            expected.extend_from_slice(&word.to_be_bytes());
        }
        expected.extend_from_slice(&[11, 0, 4, b'0', b'0', b'-', b't', 0, 0, 0, 2, b'h', b'i']);
        assert_eq!(sample().encode(), expected);
        assert_eq!(Envelope::decode(&Bytes::from(expected)), Ok(sample()));
    }

    #[test]
    fn an_unknown_format_is_named() {
        let mut bytes = sample().encode().to_vec();
        bytes[0] = 9;
        assert_eq!(Envelope::decode(&Bytes::from(bytes)), Err(DecodeError::Format(9)));
    }

    #[test]
    fn a_trace_that_is_too_long_stays_behind() {
        let mut envelope = sample();
        envelope.trace = Bytes::from(vec![b'x'; TRACE_BYTES_MAX + 1]);
        let decoded = Envelope::decode(&envelope.encode()).unwrap();
        assert!(decoded.trace.is_empty());
        assert_eq!(decoded.payload, envelope.payload);
    }

    proptest! {
        #[test]
        fn any_envelope_round_trips(
            form in prop_oneof![Just(Form::Request), Just(Form::Reply), Just(Form::Refusal)],
            cluster in any::<[u8; 16]>(),
            words in any::<[u64; 10]>(),
            kind in any::<u8>(),
            trace in proptest::collection::vec(any::<u8>(), 0..TRACE_BYTES_MAX),
            payload in proptest::collection::vec(any::<u8>(), 0..2_000),
        ) {
            let envelope = Envelope {
                form,
                cluster: ClusterId(cluster),
                from: NodeId(words[0]),
                to: NodeId(words[1]),
                life: Life {
                    start: StartCount(words[2]),
                    boot_nonce: words[3],
                    last_synced: BatchNumber(words[4]),
                },
                stamp: Stamp(words[5]),
                physical_ms: words[6],
                group: GroupId(words[7]),
                from_replica: ReplicaId(words[8]),
                to_replica: ReplicaId(words[9]),
                kind,
                trace: Bytes::from(trace),
                payload: Bytes::from(payload),
            };
            prop_assert_eq!(Envelope::decode(&envelope.encode()), Ok(envelope));
        }

        #[test]
        fn a_cut_envelope_is_refused(cut in 0_usize..118) {
            let bytes = sample().encode();
            prop_assume!(cut < bytes.len());
            prop_assert!(Envelope::decode(&bytes.slice(..cut)).is_err());
        }
    }
    /// Also a sound head with anything behind.
    #[test]
    fn fuzz_any_bytes_are_refused_or_read_as_what_they_say() {
        let sound = sample().encode();
        bolero::check!().with_iterations(3_000).with_max_len(400).for_each(|input: &[u8]| {
            let headed = Bytes::from([&sound[..HEAD_BYTES - 2], input].concat());
            for bytes in raw_and_spoiled(&sound, input).into_iter().chain([headed]) {
                let Ok(envelope) = Envelope::decode(&bytes) else { continue };
                // A trace that is too long stays behind.
                if envelope.trace.len() <= TRACE_BYTES_MAX {
                    assert_eq!(envelope.encode(), bytes);
                }
            }
        });
    }
}
