//! How a cluster begins: its first nodes, its first keyspaces, the file with its key.
//!
//! **Invariant.** Ids and names are unique, and a founding node is one of the founding nodes. What the cluster became
//! since is in its map, not here.

use super::{ConfigError, Node, units};
use bytes::Bytes;
use kvorum_api::{ClusterId, KeyspaceId, Mode, NodeId, ReadLevel, Sharding, limits, placement::SHARDS_MAX};
use kvorum_consensus::metadata::KeyspaceWish;
use kvorum_storage::command::Images;
use std::{collections::BTreeSet, time::Duration};
use toml::{Table, Value};

/// Bytes of a keyspace's name.
pub const KEYSPACE_NAME_BYTES_MAX: usize = 64;

/// The keyspace of a node that was told none.
const DEFAULT_KEYSPACE: &str = "default";

/// The number of a founding node that was told none.
pub const FIRST_NODE: NodeId = NodeId(1);

/// One founding node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: NodeId,
    /// Where clients reach it.
    pub client: String,
    /// Where nodes reach it.
    pub peer: String,
    /// Where it stands.
    pub zone: String,
}

/// One founding keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyspace {
    /// Its number, if it is founded with the cluster: its place in the list.
    pub id: KeyspaceId,
    /// Its name.
    pub name: String,
    /// Its promise.
    pub mode: Mode,
    /// What its requests are checked against.
    pub limits: limits::Limits,
    /// Level of a read that names none.
    pub read_level: ReadLevel,
    /// Images of a change record.
    pub images: Images,
    /// All of it, as the metadata is asked for it.
    pub wish: KeyspaceWish,
}

/// The cluster's id and its founding nodes; none listed = none.
pub(super) fn founders(table: &Table, node: &Node) -> Result<(Option<ClusterId>, Vec<Member>), ConfigError> {
    let cluster = table.get("cluster").and_then(Value::as_table);
    let id = match cluster.and_then(|cluster| cluster.get("id")).and_then(Value::as_str) {
        None => None,
        Some(text) => Some(ClusterId::parse(text).ok_or_else(|| {
            ConfigError::invalid("cluster.id", format!("{text:?} is no cluster id: write 32 hexadecimal digits"))
        })?),
    };
    let nodes = cluster.and_then(|cluster| cluster.get("nodes")).and_then(Value::as_array);
    let Some(nodes) = nodes.filter(|nodes| !nodes.is_empty()) else { return Ok((id, Vec::new())) };
    if id.is_none() {
        let problem = "is missing: every founding node is given the same 32 hexadecimal digits";
        return Err(ConfigError::invalid("cluster.id", problem));
    }
    let mut members = nodes.iter().map(member).collect::<Result<Vec<_>, _>>()?;
    members.sort_by_key(|member| member.id);
    for pair in members.windows(2) {
        if pair[0].id == pair[1].id {
            return Err(ConfigError::invalid("cluster.nodes.id", format!("{} is given twice", pair[0].id)));
        }
    }
    let mut addresses = BTreeSet::new();
    for address in members.iter().flat_map(|member| [&member.client, &member.peer]) {
        if !addresses.insert(address) {
            return Err(ConfigError::invalid("cluster.nodes", format!("uses the address {address} twice")));
        }
    }
    if let Some(here) = members.iter().find(|member| Some(member.id) == node.id)
        && !here.zone.is_empty()
        && here.zone != node.zone
    {
        let problem = format!("is {:?}, and {:?} in [[cluster.nodes]]: write the same", node.zone, here.zone);
        return Err(ConfigError::invalid("node.zone", problem));
    }
    let id_here = node.id.unwrap_or(FIRST_NODE);
    if !members.iter().any(|member| member.id == id_here) {
        let problem = format!("is {id_here}, which is not among [[cluster.nodes]]");
        return Err(ConfigError::invalid("node.id", problem));
    }
    Ok((id, members))
}

fn member(entry: &Value) -> Result<Member, ConfigError> {
    let text = |name: &'static str| {
        let path = format!("cluster.nodes.{name}");
        let text = entry.get(name).and_then(Value::as_str);
        let text = text.ok_or_else(|| ConfigError::invalid(&path, "is missing: every entry needs it"))?;
        match super::is_host_and_port(text) {
            true => Ok(text.to_owned()),
            false => Err(ConfigError::invalid(path, format!("{text:?} is no host:port"))),
        }
    };
    let id = entry.get("id").and_then(Value::as_integer).and_then(|id| u64::try_from(id).ok());
    let id = id.ok_or_else(|| ConfigError::invalid("cluster.nodes.id", "is missing: every entry needs it"))?;
    let zone = entry.get("zone").and_then(Value::as_str).unwrap_or_default().to_owned();
    if zone.len() > super::ZONE_BYTES_MAX {
        let problem = format!("has {} bytes: write at most {}", zone.len(), super::ZONE_BYTES_MAX);
        return Err(ConfigError::invalid("cluster.nodes.zone", problem));
    }
    Ok(Member { id: NodeId(id), client: text("client")?, peer: text("peer")?, zone })
}

/// The founding keyspaces, one called `default` when none are listed.
pub(super) fn keyspaces(table: &Table) -> Result<Vec<Keyspace>, ConfigError> {
    let entries = table.get("keyspaces").and_then(Value::as_array).filter(|entries| !entries.is_empty());
    let Some(entries) = entries else {
        return Ok(vec![Keyspace {
            id: KeyspaceId(1),
            name: DEFAULT_KEYSPACE.to_owned(),
            mode: Mode::Cp,
            limits: limits::Limits::default(),
            read_level: ReadLevel::Linearizable,
            images: Images::Keys,
            wish: KeyspaceWish::default(),
        }]);
    };
    let keyspaces =
        entries.iter().enumerate().map(|(place, entry)| keyspace(place, entry)).collect::<Result<Vec<_>, _>>()?;
    let mut names = BTreeSet::new();
    if let Some(twice) = keyspaces.iter().find(|keyspace| !names.insert(keyspace.name.clone())) {
        return Err(ConfigError::invalid("keyspaces.name", format!("{:?} is given twice", twice.name)));
    }
    Ok(keyspaces)
}

fn keyspace(place: usize, entry: &Value) -> Result<Keyspace, ConfigError> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str);
    let name =
        text("name").ok_or_else(|| ConfigError::invalid("keyspaces.name", "is missing: every entry needs it"))?;
    let invalid = |field: &str, problem: String| ConfigError::invalid(format!("keyspaces.{field}"), problem);
    if !is_keyspace_name(name) {
        let problem = format!("{name:?} is no name: write 1 to {KEYSPACE_NAME_BYTES_MAX} of a-z 0-9 -");
        return Err(invalid("name", problem));
    }
    if text("mode") == Some("ap") {
        let problem = format!("of {name:?} is \"ap\", which this build does not offer: use \"cp\"");
        return Err(invalid("mode", problem));
    }
    let value_bytes_max = units::size(text("value_bytes_max").expect("has a default")).expect("checked: size");
    if value_bytes_max == 0 || value_bytes_max > limits::VALUE_BYTES_CEILING as u64 {
        let problem = format!("of {name:?} is {value_bytes_max} bytes: write a size from 1B to 16MiB");
        return Err(invalid("value_bytes_max", problem));
    }
    let replicas = entry.get("replicas").and_then(Value::as_integer).map(|count| count as u32);
    if let Some(even) = replicas.filter(|count| count % 2 == 0) {
        let problem = format!("of {name:?} is {even}: write an odd number, an even one survives no more failures");
        return Err(invalid("replicas", problem));
    }
    let (sharding, shards) = shard_by(text("shard_by").expect("has a default"))
        .map_err(|problem| invalid("shard_by", format!("of {name:?} {problem}")))?;
    let split_at = split_at(entry);
    if sharding == Sharding::Hash && !split_at.is_empty() {
        let problem = format!("of {name:?} cuts keys, and its shard_by is a hash: give one of the two");
        return Err(invalid("split_at", problem));
    }
    if split_at.iter().any(Bytes::is_empty) || !split_at.is_sorted_by(|left, right| left < right) {
        let problem = format!("of {name:?} must be keys in ascending order, each once");
        return Err(invalid("split_at", problem));
    }
    let read_level = read_level(text("read_level").expect("has a default"))
        .map_err(|problem| invalid("read_level", format!("of {name:?} {problem}")))?;
    let images = match text("changes") {
        Some("new") => Images::New,
        Some("new_and_old") => Images::NewAndOld,
        _ => Images::Keys,
    };
    Ok(Keyspace {
        id: KeyspaceId(place as u32 + 1),
        name: name.to_owned(),
        mode: Mode::Cp,
        limits: limits::Limits { value_bytes_max: value_bytes_max as usize, ..limits::Limits::default() },
        read_level,
        images,
        wish: KeyspaceWish {
            mode: Some(Mode::Cp),
            sharding: Some(sharding),
            shards,
            split_at,
            replicas,
            read_level: Some(read_level),
            value_bytes_max: Some(value_bytes_max),
            images: Some(images),
            has_leases: entry.get("leases").and_then(Value::as_bool),
        },
    })
}

/// Whether a keyspace may be called so.
fn is_keyspace_name(name: &str) -> bool {
    let is_letter = |letter: u8| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == b'-';
    (1..=KEYSPACE_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_letter)
}

/// `range`, or `hash:8`: how keys are placed, and in how many shards.
fn shard_by(text: &str) -> Result<(Sharding, Option<u32>), String> {
    let how = "write \"range\" or \"hash:8\"";
    match text.split_once(':') {
        None if text == Sharding::Range.as_str() => Ok((Sharding::Range, None)),
        Some((word, count)) if word == Sharding::Hash.as_str() => match count.parse::<u32>() {
            Ok(count) if (1..=SHARDS_MAX).contains(&count) => Ok((Sharding::Hash, Some(count))),
            _ => Err(format!("is {text:?}: write hash:N with N from 1 to {SHARDS_MAX}")),
        },
        _ => Err(format!("is {text:?}: {how}")),
    }
}

fn split_at(entry: &Value) -> Vec<Bytes> {
    let keys = entry.get("split_at").and_then(Value::as_array).into_iter().flatten();
    keys.filter_map(Value::as_str).map(|key| Bytes::copy_from_slice(key.as_bytes())).collect()
}

fn read_level(text: &str) -> Result<ReadLevel, String> {
    let offered = "linearizable, session, local or bounded:200ms";
    match (text, text.split_once(':')) {
        ("linearizable", _) => Ok(ReadLevel::Linearizable),
        ("session", _) => Ok(ReadLevel::Session),
        ("local", _) => Ok(ReadLevel::Local),
        (_, Some(("bounded", bound))) => match units::duration(bound)? {
            Duration::ZERO => Err("is bounded:0ms, which is linearizable: write that".to_owned()),
            bound => Ok(ReadLevel::Bounded(bound)),
        },
        ("one" | "quorum" | "all", _) => Err(format!("is {text:?}, a level of AP keyspaces: use {offered}")),
        _ => Err(format!("is {text:?}: use {offered}")),
    }
}
