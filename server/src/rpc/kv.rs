//! The front door: get, put, delete, increment, batch, scan.
//!
//! **Invariant.** Every answer carries a receipt or a status that says its effect; a write whose deadline passes is answered
//! with what is known of it, never by silence.

use super::{convert, door::Door, scan, status};
use crate::metrics::{self, Op};
use bytes::Bytes;
use kvorum_api::{Effect, ReadError, Stamp, WriteError, proto};
use prost::Message as _;
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};
use tonic::{Request, Response, Status, metadata::MetadataMap};
use tracing::Instrument as _;

/// Serves `kv.v1.Kv`.
pub struct KvService {
    door: Arc<Door>,
}

/// A write of any shape.
struct Write {
    op: Op,
    metadata: MetadataMap,
    bytes: usize,
    header: Option<proto::RequestHeader>,
    request_id: Option<proto::RequestId>,
    operations: Vec<proto::Operation>,
}

impl KvService {
    /// Behind this door.
    #[must_use]
    pub fn new(door: Arc<Door>) -> Self {
        KvService { door }
    }

    async fn write(&self, write: Write) -> Result<Response<proto::WriteReply>, Status> {
        let started = Instant::now();
        let op = write.op;
        let result = self.try_write(write).await.map_err(|error| status::write_error(&error));
        metrics::request(op, started, &result);
        result.map(Response::new)
    }

    async fn try_write(&self, write: Write) -> Result<proto::WriteReply, WriteError> {
        // The first attempt's stamp is a stamp like any other: one from the future would outlive the window of its id.
        let newest = Stamp(write.request_id.as_ref().map_or(0, |id| id.first_sent));
        let entered = self.door.enter(&write.metadata, write.header, newest, write.bytes)?;
        let command = convert::write_command(write.request_id, write.operations, &entered.keyspace.limits)?;
        let keys: Vec<Bytes> = command.operations.iter().map(|one| convert::operation_key(one).clone()).collect();
        let route = entered.keyspace.shard_of_all(&keys)?;
        let (shard, budget) = (route.shard, entered.context.timeout);
        let span = tracing::debug_span!(
            "write", op = write.op.as_str(), keyspace = %entered.keyspace.name, %shard, trace = %entered.context.trace
        );
        let writing = route.replicator.write(command, entered.context).instrument(span);
        // The shard keeps its own deadline and knows the true effect; this is for one that does not answer at all.
        let written = timeout_at(entered.deadline, writing).await.unwrap_or(Err(WriteError::DeadlineExceeded {
            shard,
            deadline: budget,
            effect: Effect::Unknown,
        }))?;
        drop(entered.permit);
        convert::write_reply(written.outcome, &written.receipt, keys)
    }

    async fn try_get(&self, request: Request<proto::GetRequest>) -> Result<proto::GetReply, ReadError> {
        let (metadata, _, request) = request.into_parts();
        let bytes = request.encoded_len();
        let entered = self.door.enter(&metadata, request.header, Stamp::default(), bytes)?;
        let key = convert::key(request.key, &entered.keyspace.limits)?;
        let level = convert::read_level(request.level, &entered.keyspace)?;
        let route = entered.keyspace.shard_of(&key);
        let (shard, budget) = (route.shard, entered.context.timeout);
        let span = tracing::debug_span!(
            "get", keyspace = %entered.keyspace.name, %shard, %level, trace = %entered.context.trace
        );
        let reading = route.replicator.get(key.clone(), level, entered.context).instrument(span);
        let found = timeout_at(entered.deadline, reading)
            .await
            .unwrap_or(Err(ReadError::DeadlineExceeded { shard, deadline: budget }))?;
        drop(entered.permit);
        Ok(proto::GetReply {
            receipt: Some(convert::receipt_out(&found.receipt)),
            entry: found.entry.map(|entry| convert::entry_out(key, entry)),
        })
    }

    fn try_handshake(&self, stamp: Stamp) -> Result<proto::HandshakeReply, ReadError> {
        self.door.observe(stamp)?;
        Ok(proto::HandshakeReply {
            cluster: self.door.cluster.to_string(),
            node: self.door.id.0,
            stamp: self.door.node.stamp().0,
            keyspaces: self.door.router.keyspaces().map(|keyspace| super::status_out::keyspace(keyspace)).collect(),
            build: crate::BUILD.to_owned(),
            ..proto::HandshakeReply::default()
        })
    }
}

fn one(kind: proto::operation::Kind) -> Vec<proto::Operation> {
    vec![proto::Operation { kind: Some(kind) }]
}

#[tonic::async_trait]
impl proto::kv_server::Kv for KvService {
    async fn handshake(
        &self,
        request: Request<proto::HandshakeRequest>,
    ) -> Result<Response<proto::HandshakeReply>, Status> {
        let started = Instant::now();
        let result = self.try_handshake(Stamp(request.into_inner().stamp));
        let result = result.map_err(|error| status::read_error(&error));
        metrics::request(Op::Handshake, started, &result);
        result.map(Response::new)
    }

    async fn get(&self, request: Request<proto::GetRequest>) -> Result<Response<proto::GetReply>, Status> {
        let started = Instant::now();
        let result = self.try_get(request).await.map_err(|error| status::read_error(&error));
        metrics::request(Op::Get, started, &result);
        result.map(Response::new)
    }

    async fn put(&self, request: Request<proto::PutRequest>) -> Result<Response<proto::WriteReply>, Status> {
        let (metadata, _, request) = request.into_parts();
        let bytes = request.encoded_len();
        let operations = one(proto::operation::Kind::Put(request.put.unwrap_or_default()));
        let (header, request_id) = (request.header, request.request_id);
        self.write(Write { op: Op::Put, metadata, bytes, header, request_id, operations }).await
    }

    async fn delete(&self, request: Request<proto::DeleteRequest>) -> Result<Response<proto::WriteReply>, Status> {
        let (metadata, _, request) = request.into_parts();
        let bytes = request.encoded_len();
        let operations = one(proto::operation::Kind::Delete(request.delete.unwrap_or_default()));
        let (header, request_id) = (request.header, request.request_id);
        self.write(Write { op: Op::Delete, metadata, bytes, header, request_id, operations }).await
    }

    async fn increment(
        &self,
        request: Request<proto::IncrementRequest>,
    ) -> Result<Response<proto::WriteReply>, Status> {
        let (metadata, _, request) = request.into_parts();
        let bytes = request.encoded_len();
        let operations = one(proto::operation::Kind::Increment(request.increment.unwrap_or_default()));
        let (header, request_id) = (request.header, request.request_id);
        self.write(Write { op: Op::Increment, metadata, bytes, header, request_id, operations }).await
    }

    async fn batch(&self, request: Request<proto::BatchRequest>) -> Result<Response<proto::WriteReply>, Status> {
        let (metadata, _, request) = request.into_parts();
        let bytes = request.encoded_len();
        let (header, request_id, operations) = (request.header, request.request_id, request.operations);
        self.write(Write { op: Op::Batch, metadata, bytes, header, request_id, operations }).await
    }

    type ScanStream = scan::ScanStream;

    async fn scan(&self, request: Request<proto::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let started = Instant::now();
        let result = scan::open(&self.door, request).await.map_err(|error| status::read_error(&error));
        metrics::request(Op::Scan, started, &result);
        result.map(Response::new)
    }
}
