//! The scan of one shard, until its first message.

use crate::{
    failure::Failure,
    inner::Inner,
    map::Target,
    read::Reading,
    reply::{level_to_proto, mismatched},
    retry::{Call, Repeat, Sending},
    routing::Route,
};
use bytes::Bytes;
use kvorum_api::{
    ReadLevel,
    frame::{Body, Outcome},
    proto,
};
use std::sync::Arc;
use tonic::Streaming;

/// One shard of a scan.
#[derive(Debug)]
pub(crate) struct ShardScan {
    pub(crate) reading: Reading,
    pub(crate) target: Target,
    pub(crate) request: proto::ScanRequest,
}

impl Call for ShardScan {
    type Reply = (Option<proto::ScanReply>, Streaming<proto::ScanReply>);

    fn keyspace(&self) -> &Arc<str> {
        &self.reading.keyspace
    }

    fn target(&self) -> &Target {
        &self.target
    }

    fn route(&self, default: Option<ReadLevel>) -> Route {
        Route::of(self.reading.level.or(default))
    }

    fn repeat(&self) -> Repeat {
        Repeat::Freely
    }

    fn bytes(&self) -> usize {
        self.request.start.len() + self.request.end.len()
    }

    fn session_token(&self, sending: &Sending) -> Bytes {
        self.reading.session_token(sending)
    }

    /// Its answer is a stream of its own.
    fn is_framed(&self) -> bool {
        false
    }

    fn framed(&self, _sending: &Sending) -> Option<Body> {
        None
    }

    fn unframed(&self, _outcome: Outcome, node: &str) -> Result<Self::Reply, Failure> {
        Err(mismatched(node))
    }

    async fn send(&self, inner: &Inner, sending: &Sending) -> Result<Self::Reply, Failure> {
        let header = Some(inner.header(&self.reading.keyspace, sending.epoch(), self.session_token(sending)));
        let level = Some(level_to_proto(self.reading.level_sent(sending.elapsed)));
        let request = proto::ScanRequest { header, level, ..self.request.clone() };
        // The budget is for the first message, and `grpc-timeout` would end the whole stream: the caller waits, not the
        // server, and a stream that is dropped ends there too.
        let failed = |status| Failure::from_status(&status, &sending.node.address);
        let mut messages = sending.node.scans().scan(request).await.map_err(failed)?.into_inner();
        let first = messages.message().await.map_err(failed)?;
        Ok((first, messages))
    }
}
