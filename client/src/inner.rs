//! What all handles of one client share.

use crate::{nodes::Nodes, options::Options, request_id::CLIENT_BYTES, unanswered::Unanswered};
use bytes::Bytes;
use kvorum_api::{Refused, proto};
use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::sync::Arc;

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) options: Options,
    pub(crate) nodes: Nodes,
    /// Names this client instance in every request id. From the operating system, because nothing else keeps two
    /// clients apart.
    pub(crate) client: [u8; CLIENT_BYTES],
    pub(crate) unanswered: Arc<Unanswered>,
    /// For jitter only.
    pub(crate) chance: Mutex<SmallRng>,
}

impl Inner {
    pub(crate) fn new(endpoints: &[String], options: Options) -> Result<Self, Refused> {
        let mut seed = SmallRng::from_os_rng();
        let client: [u8; CLIENT_BYTES] = seed.random();
        let unanswered = Unanswered::new();
        Ok(Inner {
            nodes: Nodes::new(endpoints, &options, u128::from_be_bytes(client), unanswered.clone())?,
            options,
            client,
            unanswered,
            chance: Mutex::new(seed),
        })
    }

    /// The header of a request sent now.
    pub(crate) fn header(&self, keyspace: &str, epoch: u64, session_token: Bytes) -> proto::RequestHeader {
        proto::RequestHeader {
            keyspace: keyspace.to_owned(),
            stamp: self.nodes.stamp().0,
            traceparent: self.options.traceparent.clone().unwrap_or_default(),
            epoch,
            session_token,
        }
    }
}
