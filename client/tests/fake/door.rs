//! The doors of the scripted cluster: services that consult the script first.

use super::{Fault, Seen, Told, World, shard::Frame};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use kvorum_api::{SessionToken, Sharding, proto};
use parking_lot::Mutex;
use prost::Message as _;
use proto::{kv_server::Kv, operation::Kind, read_level};
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

fn malformed(field: &'static str) -> Status {
    let metadata = [("effect", "none"), ("retry", "never"), ("field", field)];
    Told::new(Code::InvalidArgument, "MALFORMED", &metadata).status()
}

fn lost() -> Status {
    Status::unavailable("connection lost by the script")
}

impl Door {
    fn note(&self, seen: Seen) {
        self.world.lock().seen.push(Seen { node: self.node, ..seen });
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
    fn check(&self, header: &proto::RequestHeader, key: &Bytes) -> Result<(), Status> {
        let mut world = self.world.lock();
        if !world.keyspaces.iter().any(|(name, _)| *name == header.keyspace) {
            let told = Told::new(Code::NotFound, "UNKNOWN_KEYSPACE", &[("effect", "none"), ("retry", "never")]);
            return Err(Told { message: "unknown keyspace: this cluster has default, orders", ..told }.status());
        }
        if !header.session_token.is_empty() {
            let token = SessionToken::decode(&header.session_token).unwrap();
            if token.keyspace.0 != world.keyspace {
                return Err(malformed("session_token"));
            }
        }
        if (header.stamp >> 16) > (world.stamp_of(self.node) >> 16) + 500 {
            let told = Told::new(Code::InvalidArgument, "STAMP_AHEAD", &[("effect", "none"), ("retry", "never")]);
            return Err(told.status());
        }
        let id = world.shard_of(key).id;
        let shard = world.shards.iter().find(|shard| shard.id == id).unwrap();
        if header.epoch != 0 && header.epoch < shard.epoch {
            let entry = STANDARD.encode(self.shard(&world, id).encode_to_vec()).leak() as &str;
            let metadata = [("effect", "none"), ("retry", "elsewhere"), ("shard_entry", entry)];
            return Err(Told::new(Code::FailedPrecondition, "STALE_EPOCH", &metadata).status());
        }
        Ok(())
    }

    fn shard(&self, world: &World, id: u64) -> proto::Shard {
        let shard = world.shards.iter().find(|shard| shard.id == id).unwrap();
        let replica = |(node, address): (usize, &String)| {
            let id = node as u64 + 1;
            proto::Replica { id, node: id, address: address.clone() }
        };
        proto::Shard {
            id,
            epoch: shard.epoch,
            leader: world.leader_of(id).filter(|_| world.hints).map(|leader| leader as u64 + 1),
            replicas: world.addresses.iter().enumerate().map(replica).collect(),
            start: shard.range.start.clone(),
            end: shard.range.end.clone(),
            incarnation: 0,
        }
    }

    fn not_led(&self, code: Code, reason: &'static str, shard: u64) -> Status {
        let world = self.world.lock();
        let mut status = Told::new(code, reason, &[("effect", "none"), ("retry", "elsewhere")]);
        if let (Some(leader), true) = (world.leader_of(shard), world.hints) {
            let address: &'static str = world.addresses[leader].clone().leak();
            status
                .metadata
                .extend([("leader", (leader + 1).to_string().leak() as &'static str), ("leader_address", address)]);
        }
        status.status()
    }

    pub fn check_leader(&self, shard: u64) -> Result<(), Status> {
        if self.world.lock().leader_of(shard) == Some(self.node) {
            return Ok(());
        }
        Err(self.not_led(Code::FailedPrecondition, "NOT_LEADER", shard))
    }

    pub fn next_fault(&self) -> Option<Fault> {
        self.world.lock().faults.get_mut(&self.node)?.pop_front()
    }

    pub async fn write(
        &self,
        what: &'static str,
        header: proto::RequestHeader,
        frame: Frame,
        deadline_ms: u64,
    ) -> Result<proto::WriteReply, Status> {
        self.thaw().await;
        let key = operation_key(&frame.operations[0]).clone();
        let shard = self.world.lock().shard_of(&key).id;
        self.note(Seen {
            what,
            shard,
            sequence: frame.id.as_ref().map_or(0, |id| id.sequence),
            lowest: frame.id.as_ref().map_or(0, |id| id.lowest_unanswered),
            deadline_sent: deadline_ms > 0,
            deadline_ms,
            ..Seen::of(&header)
        });
        let apply = || {
            let mut world = self.world.lock();
            let (stamp, keyspace) = (world.stamp_of(self.node), world.keyspace);
            let shard = world.shard_of(&key);
            let reply = shard.write(&frame).map_err(|_expired| {
                let metadata = [("effect", "unknown"), ("retry", "never")];
                Told::new(Code::FailedPrecondition, "REQUEST_ID_EXPIRED", &metadata).status()
            })?;
            let receipt = shard.receipt(self.node, keyspace, stamp);
            let receipt = proto::Receipt { ack: "majority".to_owned(), durable_replicas: 2, ..receipt };
            Ok(proto::WriteReply { receipt: Some(receipt), ..reply })
        };
        if let Some(left) = self.world.lock().refuses_batches_after.as_mut().filter(|_| what == "batch") {
            if *left == 0 {
                let told = Told::new(Code::PermissionDenied, "SCRIPTED", &[("effect", "none"), ("retry", "never")]);
                return Err(told.status());
            }
            *left -= 1;
        }
        match self.next_fault() {
            None | Some(Fault::BreakScan | Fault::IdleScan(..)) => {}
            Some(Fault::Refuse(told)) => return Err(told.status()),
            Some(Fault::RefuseLate(after, told)) => {
                tokio::time::sleep(after).await;
                return Err(told.status());
            }
            Some(Fault::Lose) => return Err(lost()),
            Some(Fault::ApplyThenLose) => return apply().and(Err(lost())),
            Some(Fault::Hold) => {
                self.world.lock().held.push((shard, frame.clone()));
                return Err(lost());
            }
            Some(Fault::Hang) => return std::future::pending().await,
            Some(Fault::ApplyThenHang) => {
                apply()?;
                return std::future::pending().await;
            }
        }
        self.check(&header, &key)?;
        self.check_leader(shard)?;
        apply()
    }

    /// The receipt of a read of the shard of `key`.
    async fn read(
        &self,
        header: &proto::RequestHeader,
        key: &Bytes,
        level: Option<&proto::ReadLevel>,
    ) -> Result<proto::Receipt, Status> {
        match self.next_fault() {
            Some(Fault::Refuse(told) | Fault::RefuseLate(_, told)) => return Err(told.status()),
            Some(Fault::Hang | Fault::ApplyThenHang) => return std::future::pending().await,
            Some(Fault::Lose | Fault::ApplyThenLose | Fault::Hold) => return Err(lost()),
            None | Some(Fault::BreakScan | Fault::IdleScan(..)) => {}
        }
        self.check(header, key)?;
        let shard = self.world.lock().shard_of(key).id;
        let is_behind = self.world.lock().behind.contains(&self.node);
        let (level, staleness_ms) = match level.map_or(read_level::Kind::Default, |level| level.kind()) {
            read_level::Kind::Local => ("local".to_owned(), Some(40)),
            read_level::Kind::Session => {
                let token = SessionToken::decode(&header.session_token).unwrap();
                if is_behind && token.shards.keys().any(|seen| seen.0 == shard) {
                    return Err(self.not_led(Code::FailedPrecondition, "SESSION_NOT_MET", shard));
                }
                ("session".to_owned(), None)
            }
            read_level::Kind::Default if self.world.lock().read_level == "session" => ("session".to_owned(), None),
            read_level::Kind::Bounded => {
                if is_behind {
                    return Err(self.not_led(Code::FailedPrecondition, "TOO_STALE", shard));
                }
                let bound_ms = level.map_or(0, |level| level.staleness_ms_max);
                (format!("bounded({bound_ms}ms)"), Some(u64::from(bound_ms)))
            }
            _ => {
                self.check_leader(shard)?;
                ("linearizable".to_owned(), None)
            }
        };
        let mut world = self.world.lock();
        let (stamp, keyspace) = (world.stamp_of(self.node), world.keyspace);
        let receipt = world.shard_of(key).receipt(self.node, keyspace, stamp);
        Ok(proto::Receipt { level, staleness_ms, ..receipt })
    }

    pub async fn read_key(
        &self,
        header: proto::RequestHeader,
        key: &Bytes,
        level: Option<&proto::ReadLevel>,
        deadline_ms: u64,
    ) -> Result<proto::GetReply, Status> {
        self.thaw().await;
        let shard = self.world.lock().shard_of(key).id;
        let asked = level.map_or_else(String::new, |level| format!("{:?}({})", level.kind(), level.staleness_ms_max));
        self.note(Seen {
            what: "get",
            shard,
            deadline_sent: deadline_ms > 0,
            deadline_ms,
            level: asked,
            ..Seen::of(&header)
        });
        let receipt = self.read(&header, key, level).await?;
        let entry = self.world.lock().shard_of(key).entries.get(key).cloned();
        Ok(proto::GetReply { receipt: Some(receipt), entry })
    }
}

impl Seen {
    fn of(header: &proto::RequestHeader) -> Self {
        Seen {
            node: 0,
            what: "",
            stamp: header.stamp,
            traceparent: header.traceparent.clone(),
            sequence: 0,
            lowest: 0,
            deadline_sent: false,
            deadline_ms: 0,
            shard: 0,
            level: String::new(),
            token: header.session_token.clone(),
        }
    }
}

fn operation_key(operation: &proto::Operation) -> &Bytes {
    match operation.kind.as_ref().unwrap() {
        Kind::Put(put) => &put.key,
        Kind::Delete(delete) => &delete.key,
        Kind::Increment(increment) => &increment.key,
    }
}

/// 0: none was sent.
fn timed<T>(request: &Request<T>) -> u64 {
    u64::from(request.metadata().contains_key("grpc-timeout"))
}

#[tonic::async_trait]
impl Kv for Door {
    async fn handshake(
        &self,
        request: Request<proto::HandshakeRequest>,
    ) -> Result<Response<proto::HandshakeReply>, Status> {
        self.thaw().await;
        let request = request.into_inner();
        let mut world = self.world.lock();
        world.handshakes += 1;
        let ids: Vec<u64> = world.shards.iter().map(|shard| shard.id).collect();
        let keyspaces = world.keyspaces.iter().map(|(name, mode)| {
            let is_asked = request.keyspaces.is_empty() || request.keyspaces.iter().any(|asked| asked == name);
            let ids = ids.iter().filter(|_| is_asked);
            proto::Keyspace {
                name: (*name).to_owned(),
                id: world.keyspace,
                mode: (*mode).to_owned(),
                value_bytes_max: 1 << 20,
                shards: ids.map(|id| self.shard(&world, *id)).collect(),
                shard_by: world.sharding.as_str().to_owned(),
                read_level: world.read_level.to_owned(),
            }
        });
        let node = |(node, address): (usize, &String)| proto::Node {
            id: node as u64 + 1,
            address: address.clone(),
            zone: String::new(),
        };
        Ok(Response::new(proto::HandshakeReply {
            cluster: "00112233445566778899aabbccddeeff".to_owned(),
            node: self.node as u64 + 1,
            stamp: world.stamp_of(self.node),
            keyspaces: keyspaces.collect(),
            build: "fake".to_owned(),
            nodes: world.addresses.iter().enumerate().map(node).collect(),
            map_revision: world.revision,
        }))
    }

    async fn get(&self, request: Request<proto::GetRequest>) -> Result<Response<proto::GetReply>, Status> {
        let timed = timed(&request);
        let get = request.into_inner();
        let header = get.header.unwrap_or_default();
        Ok(Response::new(self.read_key(header, &get.key, get.level.as_ref(), timed).await?))
    }

    async fn put(&self, request: Request<proto::PutRequest>) -> Result<Response<proto::WriteReply>, Status> {
        let timed = timed(&request);
        let put = request.into_inner();
        let operations = vec![proto::Operation { kind: put.put.map(Kind::Put) }];
        let frame = Frame { id: put.request_id, operations };
        Ok(Response::new(self.write("put", put.header.unwrap_or_default(), frame, timed).await?))
    }

    async fn delete(&self, request: Request<proto::DeleteRequest>) -> Result<Response<proto::WriteReply>, Status> {
        let timed = timed(&request);
        let delete = request.into_inner();
        let operations = vec![proto::Operation { kind: delete.delete.map(Kind::Delete) }];
        let frame = Frame { id: delete.request_id, operations };
        Ok(Response::new(self.write("delete", delete.header.unwrap_or_default(), frame, timed).await?))
    }

    async fn increment(
        &self,
        request: Request<proto::IncrementRequest>,
    ) -> Result<Response<proto::WriteReply>, Status> {
        let timed = timed(&request);
        let increment = request.into_inner();
        let operations = vec![proto::Operation { kind: increment.increment.map(Kind::Increment) }];
        let frame = Frame { id: increment.request_id, operations };
        Ok(Response::new(self.write("increment", increment.header.unwrap_or_default(), frame, timed).await?))
    }

    async fn batch(&self, request: Request<proto::BatchRequest>) -> Result<Response<proto::WriteReply>, Status> {
        let timed = timed(&request);
        let batch = request.into_inner();
        let frame = Frame { id: batch.request_id, operations: batch.operations };
        Ok(Response::new(self.write("batch", batch.header.unwrap_or_default(), frame, timed).await?))
    }

    type ScanStream = Pin<Box<dyn Stream<Item = Result<proto::ScanReply, Status>> + Send>>;

    async fn scan(&self, request: Request<proto::ScanRequest>) -> Result<Response<Self::ScanStream>, Status> {
        let timed = timed(&request);
        let scan = request.into_inner();
        let header = scan.header.unwrap_or_default();
        self.thaw().await;
        self.note(Seen { what: "scan", shard: scan.shard, deadline_sent: timed > 0, ..Seen::of(&header) });
        let fault = self.world.lock().faults.get(&self.node).and_then(|faults| faults.front().cloned());
        let (sharding, start) = {
            let world = self.world.lock();
            let shard = world.shards.iter().find(|shard| shard.id == scan.shard);
            let Some(shard) = shard else { return Err(malformed("shard")) };
            (world.sharding, shard.range.start.clone())
        };
        // Any key of the shard will do: its first placement is not one of a key if it is shorter than a hash.
        let key = match sharding {
            Sharding::Range => start,
            Sharding::Hash => (0_u32..)
                .map(|n| Bytes::from(n.to_string()))
                .find(|key| self.world.lock().shard_of(key).id == scan.shard)
                .unwrap(),
        };
        let receipt = self.read(&header, &key, scan.level.as_ref()).await?;
        let world = self.world.lock();
        let shard = world.shards.iter().find(|shard| shard.id == scan.shard).unwrap();
        let inside = |key: &[u8]| key >= &scan.start[..] && (scan.end.is_empty() || key < &scan.end[..]);
        let mut entries: Vec<proto::Entry> =
            shard.entries.values().filter(|entry| inside(&entry.key)).cloned().collect();
        entries.sort_by_key(|entry| sharding.placement_key(&entry.key));
        if !scan.after.is_empty() {
            let after = sharding.placement_key(&scan.after);
            let is_behind = |placement: Bytes| if scan.reverse { placement < after } else { placement > after };
            entries.retain(|entry| is_behind(sharding.placement_key(&entry.key)));
        }
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
        if let Some(Fault::BreakScan) = fault {
            messages.truncate(1);
            messages.push(Err(lost()));
        }
        let messages = stream::iter(messages);
        if let Some(Fault::IdleScan(count, every)) = fault {
            let idle = stream::iter(0..count).then(move |_| async move {
                tokio::time::sleep(every).await;
                Ok(proto::ScanReply::default())
            });
            return Ok(Response::new(idle.chain(messages).boxed()));
        }
        Ok(Response::new(messages.boxed()))
    }
}
