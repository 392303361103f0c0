//! The stream of the scripted cluster: frames in, the doors behind, answers as they become ready.

use super::{door::Door, shard::Frame};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use kvorum_api::{
    Actor, KeyspaceId, LogPosition, Mode, NodeId, ReadLevel, Receipt, SessionToken, ShardId, Stamp, StartCount,
    Version, frame, proto,
};
use proto::{StreamFrame, condition::Kind as Condition, kv_stream_server::KvStream, operation::Kind, read_level};
use std::{pin::Pin, time::Duration};
use tokio::{sync::mpsc, task::JoinSet};
use tonic::{Request, Response, Status, Streaming};
use tonic_types::StatusExt as _;

type Frames = Pin<Box<dyn Stream<Item = Result<StreamFrame, Status>> + Send>>;

#[tonic::async_trait]
impl KvStream for Door {
    type ExchangeStream = Frames;

    async fn exchange(&self, request: Request<Streaming<StreamFrame>>) -> Result<Response<Frames>, Status> {
        if !self.world.lock().offers_stream {
            return Err(Status::unimplemented("no stream by the script"));
        }
        let (answers, outgoing) = mpsc::channel(1_024);
        let door = self.clone();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { door.take_frames(request.into_inner(), answers).await });
        // The tasks end with the stream that holds them.
        let frames = futures::stream::unfold((outgoing, tasks), |(mut outgoing, tasks)| async move {
            let answer: Result<StreamFrame, Status> = outgoing.recv().await?;
            Some((answer, (outgoing, tasks)))
        });
        // Nothing follows an error.
        let frames = frames.scan(false, |is_over, answer| {
            let ended = std::mem::replace(is_over, answer.is_err());
            futures::future::ready((!ended).then_some(answer))
        });
        Ok(Response::new(frames.boxed()))
    }
}

type Answers = mpsc::Sender<Result<StreamFrame, Status>>;

impl Door {
    async fn take_frames(&self, mut frames: Streaming<StreamFrame>, answers: Answers) {
        let mut calls = JoinSet::new();
        while let Ok(Some(frame)) = frames.message().await {
            let request = frame::Request::decode(frame.body).unwrap();
            self.world.lock().frames.push((self.node, request.calls.len()));
            for call in &request.calls {
                let (door, answers, call) = (self.clone(), answers.clone(), call.clone());
                let head = frame::Request { calls: Vec::new(), ..request.clone() };
                calls.spawn(async move { door.answer(head, call, answers).await });
            }
        }
        // Who hangs, hangs.
        calls.join_all().await;
    }

    async fn answer(&self, head: frame::Request, call: frame::Call, answers: Answers) {
        let id = call.id;
        let outcome = match self.call(&head, call).await {
            Ok(outcome) => outcome,
            // A connection that is lost takes the whole stream with it.
            Err(status) => match status.get_details_error_info() {
                None => return drop(answers.send(Err(status)).await),
                Some(info) => frame::Outcome::Failed(frame::Failure {
                    code: u8::try_from(i32::from(status.code())).unwrap(),
                    reason: info.reason,
                    message: status.message().to_owned(),
                    metadata: info.metadata.into_iter().collect(),
                }),
            },
        };
        let stamp = Stamp(self.world.lock().stamp_of(self.node));
        let answers_of = vec![frame::Answer { id, outcome }];
        let reply = frame::Reply { node: NodeId(self.node as u64 + 1), stamp, answers: answers_of };
        drop(answers.send(Ok(StreamFrame { body: reply.encode() })).await);
    }

    async fn call(&self, head: &frame::Request, call: frame::Call) -> Result<frame::Outcome, Status> {
        let header = proto::RequestHeader {
            keyspace: head.keyspace.clone(),
            stamp: head.stamp.0,
            traceparent: head.traceparent.clone(),
            epoch: call.epoch,
            session_token: head.session_token.clone(),
        };
        let timed = u64::from(call.deadline_ms);
        let (what, request, operations) = match call.body {
            frame::Body::Get { key, level } => {
                let reply = self.read_key(header, &key, Some(&level_of(level)), timed).await?;
                let entry = reply.entry.map(entry_of);
                return Ok(frame::Outcome::Found { delivered: delivered_of(&reply.receipt.unwrap()), entry });
            }
            frame::Body::Single { request, operation } => {
                let what = match operation {
                    frame::Operation::Put { .. } => "put",
                    frame::Operation::Delete { .. } => "delete",
                    frame::Operation::Increment { .. } => "increment",
                };
                (what, request, vec![operation_of(operation)])
            }
            frame::Body::Batch { request, operations } => {
                ("batch", request, operations.into_iter().map(operation_of).collect())
            }
        };
        let id = request.map(|parts| proto::RequestId {
            client: Bytes::copy_from_slice(&head.client.to_be_bytes()),
            sequence: parts.sequence,
            first_sent: parts.first_sent.0,
            lowest_unanswered: head.lowest_unanswered,
        });
        let reply = self.write(what, header, Frame { id, operations }, timed).await?;
        Ok(frame::Outcome::Written {
            delivered: delivered_of(&reply.receipt.unwrap()),
            applied: reply.applied,
            repeated: reply.repeated_request,
            results: reply.results.into_iter().map(result_of).collect(),
        })
    }
}

fn level_of(level: Option<ReadLevel>) -> proto::ReadLevel {
    let (kind, bound_ms) = match level {
        None => (read_level::Kind::Default, 0),
        Some(ReadLevel::Linearizable) => (read_level::Kind::Linearizable, 0),
        Some(ReadLevel::Session) => (read_level::Kind::Session, 0),
        Some(ReadLevel::Bounded(bound)) => (read_level::Kind::Bounded, u32::try_from(bound.as_millis()).unwrap()),
        Some(ReadLevel::Local) => (read_level::Kind::Local, 0),
        Some(ReadLevel::One | ReadLevel::Quorum | ReadLevel::All) => (read_level::Kind::One, 0),
    };
    proto::ReadLevel { kind: kind.into(), staleness_ms_max: bound_ms }
}

fn operation_of(operation: frame::Operation) -> proto::Operation {
    let kind = match operation {
        frame::Operation::Put { key, value, ttl_ms, condition, return_previous } => {
            Kind::Put(proto::Put { key, value, ttl_ms, condition: condition_of(condition), return_previous })
        }
        frame::Operation::Delete { key, condition, return_previous } => {
            Kind::Delete(proto::Delete { key, condition: condition_of(condition), return_previous })
        }
        frame::Operation::Increment { key, delta, return_previous } => {
            Kind::Increment(proto::Increment { key, delta, return_previous })
        }
    };
    proto::Operation { kind: Some(kind) }
}

fn condition_of(condition: frame::Condition) -> Option<proto::Condition> {
    let kind = match condition {
        frame::Condition::None => return None,
        frame::Condition::Absent => Condition::Absent(Default::default()),
        frame::Condition::Present => Condition::Present(Default::default()),
        frame::Condition::Value(value) => Condition::Value(value),
        frame::Condition::Version(version) => Condition::Version(proto::Version {
            stamp: version.stamp.0,
            node: version.actor.node.0,
            start: version.actor.start.0,
        }),
    };
    Some(proto::Condition { kind: Some(kind) })
}

fn version_of(version: proto::Version) -> Version {
    let actor = Actor { node: NodeId(version.node), start: StartCount(version.start) };
    Version { stamp: Stamp(version.stamp), actor }
}

fn entry_of(entry: proto::Entry) -> frame::Entry {
    let version = version_of(entry.version.unwrap_or_default());
    frame::Entry { value: entry.value, version, expires_ms: entry.expires_ms }
}

fn result_of(result: proto::OperationResult) -> frame::OperationResult {
    use proto::operation_result::Status;
    let status = match result.status() {
        Status::Applied => frame::OperationStatus::Applied,
        Status::ConditionFailed => frame::OperationStatus::ConditionFailed,
        Status::NotANumber => frame::OperationStatus::NotANumber,
        Status::Overflow => frame::OperationStatus::Overflow,
        Status::Skipped => frame::OperationStatus::Skipped,
    };
    let previous = result.previous.map_or(frame::Previous::None, |entry| frame::Previous::Found(entry_of(entry)));
    frame::OperationResult { status, previous, number: result.number, version: result.version.map(version_of) }
}

fn delivered_of(receipt: &proto::Receipt) -> frame::Delivered {
    let token = SessionToken::decode(&receipt.session_token).unwrap();
    let level = match receipt.level.as_str() {
        "" => None,
        "linearizable" => Some(ReadLevel::Linearizable),
        "session" => Some(ReadLevel::Session),
        "local" => Some(ReadLevel::Local),
        bounded => {
            let ms = bounded.strip_prefix("bounded(").and_then(|rest| rest.strip_suffix("ms)")).unwrap();
            Some(ReadLevel::Bounded(Duration::from_millis(ms.parse().unwrap())))
        }
    };
    let position = receipt.position.unwrap_or_default();
    let receipt = Receipt {
        mode: Mode::Cp,
        level,
        shard: ShardId(receipt.shard),
        epoch: receipt.epoch,
        incarnation: receipt.incarnation,
        node: NodeId(receipt.node),
        version: receipt.version.map(version_of),
        position: LogPosition { term: position.term, index: position.index },
        staleness: receipt.staleness_ms.map(Duration::from_millis),
        durable_replicas: receipt.durable_replicas,
        stamp: Stamp(receipt.stamp),
    };
    frame::Delivered { keyspace: KeyspaceId(token.keyspace.0), receipt }
}
