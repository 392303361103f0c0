//! Request ids: what makes a write safe to repeat.
//!
//! ```text
//!   9f86d081884c7d659a2feaa0c55ad015.42.116139213283328000
//!   └ client, 16 random bytes ─────┘ │  └ first sent: the client's stamp
//!                                    └ sequence, from 1
//! ```
//!
//! **Invariant.** An id names one write. It is printed so that a person can repeat an unknown write by hand, and
//! [`RequestId::from_str`] reads what is printed.

use bytes::Bytes;
use kvorum_api::{Stamp, proto};
use std::{fmt, str::FromStr};
use thiserror::Error;

/// Bytes of a client id.
pub(crate) const CLIENT_BYTES: usize = 16;

/// The name of one write, remembered by the shard together with its outcome.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId {
    /// Chosen once per client instance.
    pub client: [u8; CLIENT_BYTES],
    /// Grows by one per request, from 1.
    pub sequence: u64,
    /// The client's stamp when the write was first sent; the shard judges the id's age by it.
    pub first_sent: Stamp,
}

impl RequestId {
    /// The wire form, telling the shard what it may forget.
    pub(crate) fn to_proto(self, lowest_unanswered: u64) -> proto::RequestId {
        proto::RequestId {
            client: Bytes::copy_from_slice(&self.client),
            sequence: self.sequence,
            first_sent: self.first_sent.0,
            lowest_unanswered,
        }
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.client.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, ".{}.{}", self.sequence, self.first_sent.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

/// The text is not a request id.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("request id {0:?} is not <32 hexadecimal digits>.<sequence>.<first sent>: use the id as it was printed")]
pub struct RequestIdUnreadable(String);

impl FromStr for RequestId {
    type Err = RequestIdUnreadable;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| RequestIdUnreadable(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<RequestId> {
    let (client, rest) = text.split_once('.')?;
    let (sequence, first_sent) = rest.split_once('.')?;
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(sequence) || !digits(first_sent) {
        return None;
    }
    // A client id is written like a cluster id: 16 bytes, 32 hexadecimal digits.
    let client = kvorum_api::ClusterId::parse(client)?.0;
    let sequence = sequence.parse().ok().filter(|sequence| *sequence > 0)?;
    Some(RequestId { client, sequence, first_sent: Stamp(first_sent.parse().ok()?) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_id_reads_what_it_prints(client: [u8; 16], sequence in 1_u64.., first_sent: u64) {
            let id = RequestId { client, sequence, first_sent: Stamp(first_sent) };
            prop_assert_eq!(id.to_string().parse::<RequestId>(), Ok(id));
        }

        #[test]
        fn no_text_makes_the_parser_panic(text in ".*") {
            let _ = text.parse::<RequestId>();
        }
    }

    #[test]
    fn an_id_that_was_cut_or_altered_is_refused() {
        let good = "00112233445566778899aabbccddeeff.1.5";
        assert!(good.parse::<RequestId>().is_ok());
        for bad in ["", "1", "00112233445566778899aabbccddeeff.1", "0011.1.5", &good.replace(".1.", ".0."), "x.+1.5"] {
            assert!(bad.parse::<RequestId>().is_err(), "{bad:?} was read");
        }
    }
}
