//! The front door: get, put, delete, increment, batch, scan.
//!
//! **Invariant.** Every answer carries a receipt or a status that says its effect; a write whose deadline passes is
//! answered with what is known of it, never by silence.

use super::{
    calls::{Changes, Patience},
    convert::{asked, proto_out},
    deadline, describe,
    door::{Asked, Door, Entered},
    scan, status,
};
use crate::metrics::{self, Op};
use bytes::Bytes;
use kvorum_api::{
    ReadError, Stamp, WriteError,
    frame::{Operation, Outcome},
    proto,
};
use prost::Message as _;
use std::sync::Arc;
use tokio::time::Instant;
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

    fn patience(&self, metadata: &MetadataMap) -> Result<Patience, kvorum_api::Refused> {
        let budget = deadline::unary(metadata, &self.door.limits)?;
        Ok(Patience { shard: budget.shard, until: Instant::now() + budget.door })
    }

    async fn write(&self, write: Write) -> Result<Response<proto::WriteReply>, Status> {
        let started = Instant::now();
        let op = write.op;
        let mut seen = None;
        let result = self.try_write(write, &mut seen).await;
        let hall = seen.as_ref().map(|entered: &Entered| entered.hall.as_ref());
        let result = result.map_err(|error| status::of(status::write_failure(&error, hall)));
        metrics::request(op, started, &result);
        result.map(Response::new)
    }

    async fn try_write(&self, write: Write, seen: &mut Option<Entered>) -> Result<proto::WriteReply, WriteError> {
        let (mut header, epoch) = Asked::of(write.header)?;
        let id = write.request_id.as_ref().map(asked::request_id).transpose()?;
        // The first attempt's stamp is a stamp like any other: one from the future would outlive the window of its id.
        header.stamp = header.stamp.max(id.map_or(Stamp::default(), |id| id.parts.first_sent));
        let entered = &*seen.insert(self.door.enter(header)?);
        let patience = self.patience(&write.metadata)?;
        let permit = self.door.admit(write.bytes)?;
        let operations: Vec<Operation> =
            write.operations.into_iter().map(asked::operation).collect::<Result<_, _>>()?;
        let keys: Vec<Bytes> = operations.iter().map(|operation| operation.key().clone()).collect();
        let call = self.door.prepare_write(entered, id, Changes::Batch(operations), epoch)?;
        let span = tracing::debug_span!(
            "write", op = write.op.as_str(), keyspace = %entered.keyspace.row.name, shard = %call.route.row.shard,
            trace = %entered.trace
        );
        let outcome = call.run(entered, patience).instrument(span).await?;
        drop(permit);
        let Outcome::Written { delivered, applied, repeated, results } = outcome else {
            unreachable!("a write is answered as one")
        };
        Ok(proto::WriteReply {
            receipt: Some(proto_out::receipt(&delivered)),
            applied,
            results: keys.into_iter().zip(results).map(|(key, result)| proto_out::result(key, result)).collect(),
            repeated_request: repeated,
        })
    }

    async fn try_get(
        &self,
        request: Request<proto::GetRequest>,
        seen: &mut Option<Entered>,
    ) -> Result<proto::GetReply, ReadError> {
        let (metadata, _, request) = request.into_parts();
        let bytes = request.encoded_len();
        let (header, epoch) = Asked::of(request.header)?;
        let entered = &*seen.insert(self.door.enter(header)?);
        let patience = self.patience(&metadata)?;
        let permit = self.door.admit(bytes)?;
        let level = asked::read_level(request.level)?;
        let call = self.door.prepare_get(entered, &request.key, level, epoch)?;
        let span = tracing::debug_span!(
            "get", keyspace = %entered.keyspace.row.name, shard = %call.route.row.shard, level = %call.level,
            trace = %entered.trace
        );
        let outcome = call.run(entered, patience).instrument(span).await?;
        drop(permit);
        let Outcome::Found { delivered, entry } = outcome else { unreachable!("a read is answered as one") };
        Ok(proto::GetReply {
            receipt: Some(proto_out::receipt(&delivered)),
            entry: entry.map(|entry| proto_out::entry(request.key, entry)),
        })
    }

    fn try_handshake(&self, request: &proto::HandshakeRequest) -> Result<proto::HandshakeReply, ReadError> {
        self.door.observe(Stamp(request.stamp))?;
        let hall = self.door.router.hall();
        Ok(proto::HandshakeReply {
            cluster: self.door.cluster.to_string(),
            node: self.door.id.0,
            stamp: self.door.node.stamp().0,
            keyspaces: describe::keyspaces(&hall, &request.keyspaces),
            build: crate::BUILD.to_owned(),
            nodes: describe::nodes(&hall),
            map_revision: hall.map.revision,
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
        let result = self.try_handshake(request.get_ref()).map_err(|error| status::read_error(&error));
        metrics::request(Op::Handshake, started, &result);
        result.map(Response::new)
    }

    async fn get(&self, request: Request<proto::GetRequest>) -> Result<Response<proto::GetReply>, Status> {
        let started = Instant::now();
        let mut seen = None;
        let result = self.try_get(request, &mut seen).await;
        let hall = seen.as_ref().map(|entered: &Entered| entered.hall.as_ref());
        let result = result.map_err(|error| status::of(status::read_failure(&error, hall)));
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
        let result = scan::open(&self.door, request).await;
        metrics::request(Op::Scan, started, &result);
        result.map(Response::new)
    }
}
