//! Requests as tests write them, and what an error says.

use kvorum_api::proto::{self, kv_client::KvClient};
use std::collections::BTreeMap;
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt as _;

/// The header of a request to the keyspace `default`.
pub fn header() -> Option<proto::RequestHeader> {
    header_of("default")
}

pub fn header_of(keyspace: &str) -> Option<proto::RequestHeader> {
    Some(proto::RequestHeader { keyspace: keyspace.to_owned(), ..proto::RequestHeader::default() })
}

/// A put.
pub fn put(key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> proto::PutRequest {
    let put = proto::Put {
        key: key.as_ref().to_vec().into(),
        value: value.as_ref().to_vec().into(),
        ..proto::Put::default()
    };
    proto::PutRequest { header: header(), request_id: None, put: Some(put) }
}

/// A delete.
pub fn delete(key: impl AsRef<[u8]>) -> proto::DeleteRequest {
    let delete = proto::Delete { key: key.as_ref().to_vec().into(), ..proto::Delete::default() };
    proto::DeleteRequest { header: header(), request_id: None, delete: Some(delete) }
}

/// An increment.
pub fn increment(key: impl AsRef<[u8]>, delta: i64) -> proto::IncrementRequest {
    let increment = proto::Increment { key: key.as_ref().to_vec().into(), delta, ..proto::Increment::default() };
    proto::IncrementRequest { header: header(), request_id: None, increment: Some(increment) }
}

/// A get at the keyspace's own level.
pub fn get(key: impl AsRef<[u8]>) -> proto::GetRequest {
    get_at(key, proto::read_level::Kind::Default)
}

pub fn get_at(key: impl AsRef<[u8]>, kind: proto::read_level::Kind) -> proto::GetRequest {
    let level = proto::ReadLevel { kind: kind.into(), staleness_ms_max: 0 };
    proto::GetRequest { header: header(), key: key.as_ref().to_vec().into(), level: Some(level) }
}

/// A scan of everything.
pub fn scan() -> proto::ScanRequest {
    proto::ScanRequest { header: header(), ..proto::ScanRequest::default() }
}

/// The value of a key, linearizable.
pub async fn value(kv: &mut KvClient<Channel>, key: impl AsRef<[u8]>) -> Result<Option<Vec<u8>>, Status> {
    let reply = kv.get(get(key)).await?.into_inner();
    Ok(reply.entry.map(|entry| entry.value.to_vec()))
}

/// A put into a keyspace.
pub fn put_in(keyspace: &str, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> proto::PutRequest {
    proto::PutRequest { header: header_of(keyspace), ..put(key, value) }
}

/// A linearizable get from a keyspace.
pub fn get_from(keyspace: &str, key: impl AsRef<[u8]>) -> proto::GetRequest {
    proto::GetRequest { header: header_of(keyspace), ..get_at(key, proto::read_level::Kind::Linearizable) }
}

/// A wish for a keyspace spread by hash.
pub fn hash(shards: u32) -> Option<proto::KeyspaceWish> {
    Some(proto::KeyspaceWish { shard_by: "hash".to_owned(), shards, ..proto::KeyspaceWish::default() })
}

/// What an error says besides its sentence.
#[derive(Debug)]
pub struct Said {
    pub code: tonic::Code,
    pub reason: String,
    pub metadata: BTreeMap<String, String>,
    pub message: String,
}

impl Said {
    pub fn of(status: &Status) -> Said {
        let info = status.get_details_error_info();
        let info = info.unwrap_or_else(|| panic!("an error without details: {status:?}"));
        assert_eq!(info.domain, "kvorum");
        Said {
            code: status.code(),
            reason: info.reason,
            metadata: info.metadata.into_iter().collect(),
            message: status.message().to_owned(),
        }
    }

    pub fn effect(&self) -> &str {
        &self.metadata["effect"]
    }
}

/// What a refused call said.
pub fn refusal<T: std::fmt::Debug>(result: Result<T, Status>) -> Said {
    Said::of(&result.expect_err("must be refused"))
}
