//! The doors of the scripted cluster: tonic services that consult the script first.

use super::{Fault, Seen, Told, World, shard::Frame};
use futures::{Stream, StreamExt as _, stream};
use kvorum_api::proto;
use parking_lot::Mutex;
use proto::{admin_server::Admin, kv_server::Kv, operation::Kind};
use std::{pin::Pin, sync::Arc};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorInfo, StatusExt as _};

#[derive(Clone)]
pub struct Door {
    pub node: usize,
    pub world: Arc<Mutex<World>>,
    /// Held by every task of this node.
    pub alive: Arc<()>,
}

impl Told {
    pub fn status(&self) -> Status {
        let nothing: [(String, String); 0] = [];
        let mut info = ErrorInfo::new(self.reason, "kvorum", nothing);
        info.metadata.extend(self.metadata.iter().map(|(name, word)| ((*name).to_owned(), (*word).to_owned())));
        Status::with_error_details_vec(self.code, self.message, [info.into()])
    }
}

fn lost() -> Status {
    Status::unavailable("connection lost by the script")
}

impl Door {
    fn note(
        &self,
        what: &'static str,
        header: Option<&proto::RequestHeader>,
        id: Option<&proto::RequestId>,
        timed: bool,
    ) {
        let header = header.cloned().unwrap_or_default();
        self.world.lock().seen.push(Seen {
            node: self.node,
            what,
            stamp: header.stamp,
            traceparent: header.traceparent,
            sequence: id.map_or(0, |id| id.sequence),
            lowest: id.map_or(0, |id| id.lowest_unanswered),
            deadline_sent: timed,
        });
    }

    /// A frozen node takes the connection and answers nothing.
    async fn thaw(&self) {
        let is_frozen = {
            let mut world = self.world.lock();
            let is_frozen = world.frozen.contains(&self.node);
            if is_frozen {
                world.asked_frozen.push(self.node);
            }
            is_frozen
        };
        if is_frozen {
            std::future::pending().await
        }
    }

    /// The refusals every door makes before the script is asked.
    fn check(&self, header: Option<&proto::RequestHeader>) -> Result<(), Status> {
        let world = self.world.lock();
        let header = header.cloned().unwrap_or_default();
        if !world.keyspaces.iter().any(|(name, _)| *name == header.keyspace) {
            let told = Told::new(Code::NotFound, "UNKNOWN_KEYSPACE", &[("effect", "none"), ("retry", "never")]);
            return Err(Told { message: "unknown keyspace: this cluster has default, orders", ..told }.status());
        }
        if (header.stamp >> 16) > world.shard.now_ms() + 500 {
            let told = Told::new(Code::InvalidArgument, "STAMP_AHEAD", &[("effect", "none"), ("retry", "never")]);
            return Err(told.status());
        }
        Ok(())
    }

    fn check_leader(&self) -> Result<(), Status> {
        let world = self.world.lock();
        if world.leader == Some(self.node) {
            return Ok(());
        }
        let mut status =
            Told::new(Code::FailedPrecondition, "NOT_LEADER", &[("effect", "none"), ("retry", "elsewhere")]);
        if let (Some(leader), true) = (world.leader, world.hints) {
            let address: &'static str = world.addresses[leader].clone().leak();
            status
                .metadata
                .extend([("leader", (leader + 1).to_string().leak() as &'static str), ("leader_address", address)]);
        }
        Err(status.status())
    }

    fn next_fault(&self) -> Option<Fault> {
        self.world.lock().faults.get_mut(&self.node)?.pop_front()
    }

    async fn write(
        &self,
        what: &'static str,
        header: Option<proto::RequestHeader>,
        frame: Frame,
        timed: bool,
    ) -> Result<Response<proto::WriteReply>, Status> {
        self.thaw().await;
        self.note(what, header.as_ref(), frame.id.as_ref(), timed);
        let apply = || {
            let mut world = self.world.lock();
            let reply = world.shard.write(&frame).map_err(|_expired| {
                let metadata = [("effect", "unknown"), ("retry", "never")];
                Told::new(Code::FailedPrecondition, "REQUEST_ID_EXPIRED", &metadata).status()
            })?;
            let receipt =
                proto::Receipt { ack: "majority".to_owned(), durable_replicas: 2, ..world.shard.receipt(self.node) };
            Ok(Response::new(proto::WriteReply { receipt: Some(receipt), ..reply }))
        };
        match self.next_fault() {
            None | Some(Fault::BreakScan) => {}
            Some(Fault::Refuse(told)) => return Err(told.status()),
            Some(Fault::Lose) => return Err(lost()),
            Some(Fault::ApplyThenLose) => return apply().and(Err(lost())),
            Some(Fault::Hold) => {
                self.world.lock().held.push(frame.clone());
                return Err(lost());
            }
            Some(Fault::Hang) => return std::future::pending().await,
            Some(Fault::ApplyThenHang) => {
                apply()?;
                return std::future::pending().await;
            }
        }
        self.check(header.as_ref())?;
        self.check_leader()?;
        apply()
    }

    async fn read(
        &self,
        header: Option<&proto::RequestHeader>,
        level: Option<&proto::ReadLevel>,
    ) -> Result<proto::Receipt, Status> {
        match self.next_fault() {
            Some(Fault::Refuse(told)) => return Err(told.status()),
            Some(Fault::Hang | Fault::ApplyThenHang) => return std::future::pending().await,
            Some(Fault::Lose | Fault::ApplyThenLose | Fault::Hold) => return Err(lost()),
            None | Some(Fault::BreakScan) => {}
        }
        self.check(header)?;
        let local = level.is_some_and(|level| level.kind() == proto::read_level::Kind::Local);
        if !local {
            self.check_leader()?;
        }
        let level = if local { "local" } else { "linearizable" };
        let staleness_ms = local.then_some(40);
        let receipt = self.world.lock().shard.receipt(self.node);
        Ok(proto::Receipt { level: level.to_owned(), staleness_ms, ..receipt })
    }
}

fn timed<T>(request: &Request<T>) -> bool {
    request.metadata().contains_key("grpc-timeout")
}

#[tonic::async_trait]
impl Kv for Door {
    async fn handshake(
        &self,
        _request: Request<proto::HandshakeRequest>,
    ) -> Result<Response<proto::HandshakeReply>, Status> {
        self.thaw().await;
        let mut world = self.world.lock();
        world.handshakes += 1;
        let replica = |(node, address): (usize, &String)| {
            let id = node as u64 + 1;
            proto::Replica { id, node: id, address: address.clone() }
        };
        let shard = proto::Shard {
            id: 1,
            epoch: 1,
            leader: world.leader.filter(|_| world.hints).map(|leader| leader as u64 + 1),
            replicas: world.addresses.iter().enumerate().map(replica).collect(),
            ..proto::Shard::default()
        };
        let keyspaces = world.keyspaces.iter().map(|(name, mode)| proto::Keyspace {
            name: (*name).to_owned(),
            id: 1,
            mode: (*mode).to_owned(),
            value_bytes_max: 1 << 20,
            shards: vec![shard.clone()],
            ..proto::Keyspace::default()
        });
        Ok(Response::new(proto::HandshakeReply {
            cluster: "00112233445566778899aabbccddeeff".to_owned(),
            node: self.node as u64 + 1,
            stamp: world.shard.now_ms() << 16,
            keyspaces: keyspaces.collect(),
            build: "fake".to_owned(),
            ..proto::HandshakeReply::default()
        }))
    }

    async fn get(&self, request: Request<proto::GetRequest>) -> Result<Response<proto::GetReply>, Status> {
        let timed = timed(&request);
        let get = request.into_inner();
        self.note("get", get.header.as_ref(), None, timed);
        let receipt = self.read(get.header.as_ref(), get.level.as_ref()).await?;
        let entry = self.world.lock().shard.entries.get(&get.key).cloned();
        Ok(Response::new(proto::GetReply { receipt: Some(receipt), entry }))
    }

    async fn put(&self, request: Request<proto::PutRequest>) -> Result<Response<proto::WriteReply>, Status> {
        let timed = timed(&request);
        let put = request.into_inner();
        let operations = vec![proto::Operation { kind: put.put.map(Kind::Put) }];
        self.write("put", put.header, Frame { id: put.request_id, operations }, timed).await
    }

    async fn delete(&self, request: Request<proto::DeleteRequest>) -> Result<Response<proto::WriteReply>, Status> {
        let timed = timed(&request);
        let delete = request.into_inner();
        let operations = vec![proto::Operation { kind: delete.delete.map(Kind::Delete) }];
        self.write("delete", delete.header, Frame { id: delete.request_id, operations }, timed).await
    }

    async fn increment(
        &self,
        request: Request<proto::IncrementRequest>,
    ) -> Result<Response<proto::WriteReply>, Status> {
        let timed = timed(&request);
        let increment = request.into_inner();
        let operations = vec![proto::Operation { kind: increment.increment.map(Kind::Increment) }];
        self.write("increment", increment.header, Frame { id: increment.request_id, operations }, timed).await
    }

    async fn batch(&self, request: Request<proto::BatchRequest>) -> Result<Response<proto::WriteReply>, Status> {
        let timed = timed(&request);
        let batch = request.into_inner();
        self.write("batch", batch.header, Frame { id: batch.request_id, operations: batch.operations }, timed).await
    }

    type ScanStream = Pin<Box<dyn Stream<Item = Result<proto::ScanReply, Status>> + Send>>;

    async fn scan(&self, request: Request<proto::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let timed = timed(&request);
        let scan = request.into_inner();
        self.note("scan", scan.header.as_ref(), None, timed);
        let breaks = matches!(
            self.world.lock().faults.get(&self.node).and_then(|faults| faults.front()),
            Some(Fault::BreakScan)
        );
        let receipt = self.read(scan.header.as_ref(), scan.level.as_ref()).await?;
        let world = self.world.lock();
        let inside = |key: &[u8]| key >= &scan.start[..] && (scan.end.is_empty() || key < &scan.end[..]);
        let mut entries: Vec<proto::Entry> =
            world.shard.entries.values().filter(|entry| inside(&entry.key)).cloned().collect();
        if scan.reverse {
            entries.reverse();
        }
        if scan.limit > 0 {
            entries.truncate(usize::try_from(scan.limit).unwrap());
        }
        if scan.keys_only {
            entries.iter_mut().for_each(|entry| entry.value.clear());
        }
        let parts = entries.chunks(world.entries_a_message.max(1)).map(<[_]>::to_vec);
        let mut messages: Vec<Result<proto::ScanReply, Status>> =
            parts.map(|entries| Ok(proto::ScanReply { receipt: None, entries })).collect();
        if messages.is_empty() {
            messages.push(Ok(proto::ScanReply::default()));
        }
        if let Some(Ok(first)) = messages.first_mut() {
            first.receipt = Some(receipt);
        }
        if breaks {
            messages.truncate(1);
            messages.push(Err(lost()));
        }
        Ok(Response::new(stream::iter(messages).boxed()))
    }
}

#[tonic::async_trait]
impl Admin for Door {
    async fn node_status(
        &self,
        _request: Request<proto::NodeStatusRequest>,
    ) -> Result<Response<proto::NodeStatusReply>, Status> {
        let world = self.world.lock();
        let is_leader = world.leader == Some(self.node);
        let replica = proto::ReplicaStatus {
            keyspace: "default".to_owned(),
            shard: 1,
            replica: self.node as u64 + 1,
            role: if is_leader { "leader" } else { "follower" }.to_owned(),
            term: 2,
            applied_index: world.shard.index,
            rolling_hash: "abcdef0123456789".to_owned(),
            staleness_ms: is_leader.then_some(0),
            ..Default::default()
        };
        Ok(Response::new(proto::NodeStatusReply {
            cluster: "00112233445566778899aabbccddeeff".to_owned(),
            node: self.node as u64 + 1,
            start_count: 1,
            build: "fake".to_owned(),
            ready: true,
            replicas: vec![replica],
            journal: Some(proto::JournalStatus {
                segments: 2,
                bytes: 128 << 20,
                last_synced_batch: 9,
                ..Default::default()
            }),
            ..Default::default()
        }))
    }
}
