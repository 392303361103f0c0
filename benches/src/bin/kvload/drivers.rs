//! Who sends: one caller per client, whatever the target.
//!
//! **Invariant.** Every caller asks for the same promise: a put is durable on a majority, a get is linearizable. Each
//! kind goes where it is answered without a detour: to the leader.

use crate::{Transport, cell::Work};
use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use kvorum_api::{PlacementRange, Sharding, proto};
use kvorum_benches::payload;
use kvorum_client::{Client, Cp, Keyspace, Options};
use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tonic::transport::{Channel, Endpoint};

/// etcd's interface, generated.
#[allow(missing_docs, clippy::all, clippy::pedantic, reason = "generated code")]
mod etcd {
    tonic::include_proto!("etcdserverpb");
}

use etcd::{kv_client::KvClient as EtcdKv, maintenance_client::MaintenanceClient};
use proto::kv_client::KvClient;

/// Connections that the clients of one cell share.
const CONNECTIONS_MAX: usize = 8;

/// A request that takes longer counts as an error.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A cluster under load.
#[derive(Clone, Debug)]
pub struct Target {
    /// How requests travel.
    pub transport: Transport,
    /// Client addresses.
    pub endpoints: Vec<String>,
    /// Keyspace, for Kvorum.
    pub keyspace: String,
    /// Whose CPU is charged.
    pub server_pids: Vec<u32>,
}

/// One client.
pub enum Caller {
    /// gRPC, one call per operation.
    Unary(Unary),
    /// The client library.
    Stream { keyspace: Keyspace<Cp>, value: Bytes },
    /// etcd.
    Etcd { kv: EtcdKv<Channel>, value: Bytes },
}

/// A caller of the unary interface with a routing table of its own.
pub struct Unary {
    map: Arc<Map>,
    client: Bytes,
    sequence: u64,
    value: Bytes,
}

/// Where each shard's leader is.
struct Map {
    keyspace: String,
    sharding: Sharding,
    shards: Vec<(PlacementRange, KvClient<Channel>)>,
    /// The highest stamp of any answer.
    stamp: AtomicU64,
}

fn key(number: u64) -> Bytes {
    Bytes::from(format!("key-{number:012}"))
}

async fn channel(address: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .with_context(|| format!("{address:?} is no host:port"))?
        .tcp_nodelay(true)
        .timeout(REQUEST_TIMEOUT)
        .connect_timeout(Duration::from_secs(5));
    endpoint.connect().await.with_context(|| format!("{address} does not answer"))
}

impl Target {
    /// What it is called in a report.
    pub fn name(&self) -> &'static str {
        match self.transport {
            Transport::Unary => "unary",
            Transport::Stream => "stream",
            Transport::Etcd => "etcd",
        }
    }

    /// One caller per client.
    pub async fn callers(&self, work: &Work) -> Result<Vec<Caller>> {
        let value = payload(work.value_bytes, 1);
        match self.transport {
            Transport::Unary => {
                let mut maps = Vec::new();
                for _ in 0..work.clients.min(CONNECTIONS_MAX) {
                    maps.push(Arc::new(self.map().await?));
                }
                let started = std::process::id() as u128;
                let callers = (0..work.clients).map(|number| {
                    let client = (started << 96) | (u128::from(fresh()) << 32) | number as u128;
                    Caller::Unary(Unary {
                        map: maps[number % maps.len()].clone(),
                        client: Bytes::copy_from_slice(&client.to_be_bytes()),
                        sequence: 0,
                        value: value.clone(),
                    })
                });
                Ok(callers.collect())
            }
            Transport::Stream => {
                // One process stands for many: their puts together may be more than one client has under way by
                // default.
                let at_once = work.clients * work.batch;
                let mut options = Options::default();
                options.in_flight_operations_max = options.in_flight_operations_max.max(at_once);
                let client = Client::connect(self.endpoints.clone(), options).await?;
                let keyspace = client.keyspace(&self.keyspace).with_timeout(REQUEST_TIMEOUT);
                let callers =
                    (0..work.clients).map(|_| Caller::Stream { keyspace: keyspace.clone(), value: value.clone() });
                Ok(callers.collect())
            }
            Transport::Etcd => {
                let leader = self.etcd_leader().await?;
                let mut channels = Vec::new();
                for _ in 0..work.clients.min(CONNECTIONS_MAX) {
                    channels.push(channel(&leader).await?);
                }
                let callers = (0..work.clients).map(|number| {
                    let kv = EtcdKv::new(channels[number % channels.len()].clone());
                    Caller::Etcd { kv, value: value.clone() }
                });
                Ok(callers.collect())
            }
        }
    }

    /// The map of the keyspace, with a connection of its own to every leader.
    async fn map(&self) -> Result<Map> {
        let mut last = None;
        for address in &self.endpoints {
            let reply = match channel(address).await {
                Ok(channel) => {
                    let request = proto::HandshakeRequest { stamp: 0, keyspaces: vec![self.keyspace.clone()] };
                    KvClient::new(channel).handshake(request).await.map_err(anyhow::Error::from)
                }
                Err(error) => Err(error),
            };
            match reply {
                Ok(reply) => return self.map_of(reply.into_inner()).await,
                Err(error) => last = Some(error),
            }
        }
        Err(last.context("no endpoint was given")?)
    }

    async fn map_of(&self, reply: proto::HandshakeReply) -> Result<Map> {
        let found = reply.keyspaces.iter().find(|found| found.name == self.keyspace);
        let found = found.with_context(|| format!("there is no keyspace {:?}: create it first", self.keyspace))?;
        let mut connections: BTreeMap<String, KvClient<Channel>> = BTreeMap::new();
        let mut shards = Vec::new();
        for shard in &found.shards {
            let leader = shard.replicas.iter().find(|replica| Some(replica.node) == shard.leader);
            let leader = leader.or(shard.replicas.first()).context("a shard has no replica")?;
            if !connections.contains_key(&leader.address) {
                connections.insert(leader.address.clone(), KvClient::new(channel(&leader.address).await?));
            }
            let range = PlacementRange { start: shard.start.clone(), end: shard.end.clone() };
            shards.push((range, connections[&leader.address].clone()));
        }
        Ok(Map {
            keyspace: self.keyspace.clone(),
            sharding: Sharding::parse(&found.shard_by).unwrap_or(Sharding::Range),
            shards,
            stamp: AtomicU64::new(reply.stamp),
        })
    }

    async fn etcd_leader(&self) -> Result<String> {
        for address in &self.endpoints {
            let mut maintenance = MaintenanceClient::new(channel(address).await?);
            let status = maintenance.status(etcd::StatusRequest {}).await?.into_inner();
            if status.header.is_some_and(|header| header.member_id == status.leader) {
                return Ok(address.clone());
            }
        }
        bail!("none of {} leads: is every member named?", self.endpoints.join(", "))
    }
}

/// A number that this process has not given out yet.
fn fresh() -> u64 {
    static GIVEN: AtomicU64 = AtomicU64::new(1);
    GIVEN.fetch_add(1, Ordering::Relaxed)
}

impl Caller {
    /// Stores a value under every key, in one request; the error is its reason.
    pub async fn put(&mut self, keys: &[u64]) -> Result<(), String> {
        match self {
            Caller::Unary(unary) => unary.put(keys).await,
            Caller::Stream { keyspace, value } => {
                let puts = keys.iter().map(|number| {
                    let put = keyspace.put(key(*number), value.clone());
                    async move { put.await.map(drop) }
                });
                futures::future::try_join_all(puts).await.map(drop).map_err(|error| word(&error.to_string()))
            }
            Caller::Etcd { kv, value } => {
                let put = |number: &u64| etcd::PutRequest { key: key(*number), value: value.clone() };
                let answer = match keys {
                    [one] => kv.put(put(one)).await.map(drop),
                    many => {
                        // A transaction may name a key once.
                        let mut many = many.to_vec();
                        many.sort_unstable();
                        many.dedup();
                        let request = |number| etcd::RequestOp {
                            request: Some(etcd::request_op::Request::RequestPut(put(number))),
                        };
                        let success = many.iter().map(request).collect();
                        kv.txn(etcd::TxnRequest { success }).await.map(drop)
                    }
                };
                answer.map_err(|status| format!("{:?}", status.code()))
            }
        }
    }

    /// Reads one key linearizably; it must be there.
    pub async fn get(&mut self, number: u64) -> Result<(), String> {
        let is_found = match self {
            Caller::Unary(unary) => unary.get(number).await?,
            Caller::Stream { keyspace, .. } => {
                keyspace.get(key(number)).await.map_err(|error| word(&error.to_string()))?.entry.is_some()
            }
            Caller::Etcd { kv, .. } => {
                let request = etcd::RangeRequest { key: key(number), ..etcd::RangeRequest::default() };
                let reply = kv.range(request).await.map_err(|status| format!("{:?}", status.code()))?;
                !reply.into_inner().kvs.is_empty()
            }
        };
        if is_found { Ok(()) } else { Err("not found".to_owned()) }
    }
}

/// The first words of an error: reasons are counted, sentences are not.
pub fn word(sentence: &str) -> String {
    sentence.split([':', ',']).next().unwrap_or(sentence).chars().take(60).collect()
}

impl Unary {
    fn header(&self) -> proto::RequestHeader {
        proto::RequestHeader {
            keyspace: self.map.keyspace.clone(),
            stamp: self.map.stamp.load(Ordering::Relaxed),
            ..proto::RequestHeader::default()
        }
    }

    fn leader_of(&self, key: &Bytes) -> KvClient<Channel> {
        let placement = self.map.sharding.placement_key(key);
        let shard = self.map.shards.iter().find(|(range, _)| range.contains(&placement));
        shard.expect("the shards of a keyspace cover every key").1.clone()
    }

    async fn put(&mut self, keys: &[u64]) -> Result<(), String> {
        self.sequence += 1;
        let stamp = self.map.stamp.load(Ordering::Relaxed);
        let request_id = Some(proto::RequestId {
            client: self.client.clone(),
            sequence: self.sequence,
            first_sent: stamp,
            lowest_unanswered: self.sequence,
        });
        let put = |number: &u64| proto::Put { key: key(*number), value: self.value.clone(), ..proto::Put::default() };
        let mut leader = self.leader_of(&key(keys[0]));
        let header = Some(self.header());
        let reply = match keys {
            [one] => leader.put(proto::PutRequest { header, request_id, put: Some(put(one)) }).await,
            many => {
                let operation = |number| proto::Operation { kind: Some(proto::operation::Kind::Put(put(number))) };
                let operations = many.iter().map(operation).collect();
                leader.batch(proto::BatchRequest { header, request_id, operations }).await
            }
        };
        let reply = reply.map_err(|status| reason(&status))?.into_inner();
        self.observe(reply.receipt.as_ref());
        if reply.applied { Ok(()) } else { Err("not applied".to_owned()) }
    }

    async fn get(&mut self, number: u64) -> Result<bool, String> {
        let key = key(number);
        let mut leader = self.leader_of(&key);
        let level = Some(proto::ReadLevel { kind: proto::read_level::Kind::Linearizable as i32, staleness_ms_max: 0 });
        let reply = leader.get(proto::GetRequest { header: Some(self.header()), key, level }).await;
        let reply = reply.map_err(|status| reason(&status))?.into_inner();
        self.observe(reply.receipt.as_ref());
        Ok(reply.entry.is_some())
    }

    fn observe(&self, receipt: Option<&proto::Receipt>) {
        let stamp = receipt.map_or(0, |receipt| receipt.stamp);
        self.map.stamp.fetch_max(stamp, Ordering::Relaxed);
    }
}

fn reason(status: &tonic::Status) -> String {
    format!("{:?}: {}", status.code(), word(status.message()))
}

/// Whether every shard of the keyspace has a leader that takes a write.
pub async fn kvorum_is_ready(target: &Target) -> Result<()> {
    let mut map = target.map().await?;
    for (_, client) in &mut map.shards {
        client.handshake(proto::HandshakeRequest::default()).await?;
    }
    let mut unary = Unary {
        map: Arc::new(map),
        client: Bytes::from(vec![0; 16]),
        sequence: 0,
        value: Bytes::from_static(b"ready"),
    };
    for number in 0..64 {
        unary.put(&[number]).await.map_err(anyhow::Error::msg)?;
    }
    Ok(())
}

/// Whether etcd has a leader that takes a write.
pub async fn etcd_is_ready(target: &Target) -> Result<()> {
    let mut kv = EtcdKv::new(channel(&target.etcd_leader().await?).await?);
    kv.put(etcd::PutRequest { key: key(0), value: Bytes::from_static(b"ready") }).await?;
    Ok(())
}
