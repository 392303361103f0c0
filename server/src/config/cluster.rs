//! The static cluster: which nodes there are, which keyspaces they hold.
//!
//! **Invariant.** Ids and names are unique, this node is one of the nodes, and every keyspace keeps its number: the number
//! is what the stored keys begin with.

use super::{ConfigError, Node, units};
use kvorum_api::{ClusterId, KeyspaceId, Mode, NodeId, ReadLevel, limits};
use kvorum_storage::command::Images;
use std::collections::BTreeSet;
use toml::{Table, Value};

/// Bytes of a keyspace's name.
pub const KEYSPACE_NAME_BYTES_MAX: usize = 64;

/// The keyspace of a node that was told none.
const DEFAULT_KEYSPACE: &str = "default";

/// One node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: NodeId,
    /// Where clients reach it.
    pub client: String,
    /// Where nodes reach it.
    pub peer: String,
}

/// One keyspace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keyspace {
    /// Its number.
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
}

/// The cluster's id and its nodes; a node by itself when none are listed.
pub(super) fn members(table: &Table, node: &Node) -> Result<(Option<ClusterId>, Vec<Member>), ConfigError> {
    let cluster = table.get("cluster").and_then(Value::as_table);
    let id = match cluster.and_then(|cluster| cluster.get("id")).and_then(Value::as_str) {
        None => None,
        Some(text) => Some(ClusterId::parse(text).ok_or_else(|| {
            ConfigError::invalid("cluster.id", format!("{text:?} is no cluster id: write 32 hexadecimal digits"))
        })?),
    };
    let nodes = cluster.and_then(|cluster| cluster.get("nodes")).and_then(Value::as_array);
    let Some(nodes) = nodes.filter(|nodes| !nodes.is_empty()) else {
        let alone = Member { id: node.id, client: node.listen_client.to_string(), peer: node.listen_peer.to_string() };
        return Ok((id, vec![alone]));
    };
    if id.is_none() {
        let problem = "is missing: every node of a cluster is given the same 32 hexadecimal digits";
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
    if !members.iter().any(|member| member.id == node.id) {
        let problem = format!("is {}, which is not among [[cluster.nodes]]", node.id);
        return Err(ConfigError::invalid("node.id", problem));
    }
    Ok((id, members))
}

fn member(entry: &Value) -> Result<Member, ConfigError> {
    let text = |name: &'static str| {
        let path = format!("cluster.nodes.{name}");
        let text = entry.get(name).and_then(Value::as_str);
        let text = text.ok_or_else(|| ConfigError::invalid(&path, "is missing: every entry needs it"))?;
        let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
        match port.and_then(|(_, port)| port.parse::<u16>().ok()).filter(|port| *port > 0) {
            Some(_) => Ok(text.to_owned()),
            None => Err(ConfigError::invalid(path, format!("{text:?} is no host:port"))),
        }
    };
    let id = entry.get("id").and_then(Value::as_integer).and_then(|id| u64::try_from(id).ok());
    let id = id.ok_or_else(|| ConfigError::invalid("cluster.nodes.id", "is missing: every entry needs it"))?;
    Ok(Member { id: NodeId(id), client: text("client")?, peer: text("peer")? })
}

/// The keyspaces, one called `default` when none are listed.
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
        }]);
    };
    let mut keyspaces =
        entries.iter().enumerate().map(|(place, entry)| keyspace(place, entry)).collect::<Result<Vec<_>, _>>()?;
    keyspaces.sort_by_key(|keyspace| keyspace.id);
    for pair in keyspaces.windows(2) {
        if pair[0].id == pair[1].id {
            let problem = format!("{} is given to {:?} and {:?}", pair[0].id, pair[0].name, pair[1].name);
            return Err(ConfigError::invalid("keyspaces.id", problem));
        }
    }
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
    let is_name = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.len() <= KEYSPACE_NAME_BYTES_MAX
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
    if !is_name {
        let problem = format!(
            "{name:?} is no name: write a letter, then at most {} of a-z A-Z 0-9 _ - .",
            KEYSPACE_NAME_BYTES_MAX - 1
        );
        return Err(ConfigError::invalid("keyspaces.name", problem));
    }
    if text("mode") == Some("ap") {
        let problem = format!("of {name:?} is \"ap\", which this build does not offer: use \"cp\"");
        return Err(ConfigError::invalid("keyspaces.mode", problem));
    }
    let value_bytes_max = units::size(text("value_bytes_max").expect("has a default")).expect("checked: size");
    if value_bytes_max == 0 || value_bytes_max > limits::VALUE_BYTES_CEILING as u64 {
        let problem = format!("of {name:?} is {value_bytes_max} bytes: write a size from 1B to 16MiB");
        return Err(ConfigError::invalid("keyspaces.value_bytes_max", problem));
    }
    let id = entry.get("id").and_then(Value::as_integer).and_then(|id| u32::try_from(id).ok());
    Ok(Keyspace {
        id: KeyspaceId(id.unwrap_or(place as u32 + 1)),
        name: name.to_owned(),
        mode: Mode::Cp,
        limits: limits::Limits { value_bytes_max: value_bytes_max as usize, ..limits::Limits::default() },
        read_level: match text("read_level") {
            Some("local") => ReadLevel::Local,
            _ => ReadLevel::Linearizable,
        },
        images: match text("changes") {
            Some("new") => Images::New,
            Some("new_and_old") => Images::NewAndOld,
            _ => Images::Keys,
        },
    })
}
