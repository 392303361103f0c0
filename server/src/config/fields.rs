//! Every field of the configuration: name, kind, default, meaning. The one list that defaults, environment overrides,
//! unknown-field messages and the reference in `docs/operations.md` come from.
//!
//! **Invariant.** A field that is not in this list does not exist; a field in this list has exactly one default.

use super::units;

/// What a field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// `true` or `false`.
    Flag,
    /// A whole number from the first to the second, both included.
    Number(u64, u64),
    /// A whole number with a unit of time.
    Duration,
    /// The same, negative if wanted.
    SignedDuration,
    /// A whole number with a unit of size.
    Size,
    /// A list of texts.
    Texts,
    /// One of these words.
    Word(&'static [&'static str]),
}

/// One field.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// Its section; `cluster.nodes` and `keyspaces` are lists of tables.
    pub section: &'static str,
    /// Its name within the section.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// What it is unless written, as written; `None` = it may be absent.
    pub default: Option<&'static str>,
    /// What it means, for the reference.
    pub meaning: &'static str,
}

/// Sections that are lists of tables: their fields cannot be set from the environment.
pub const LISTS: &[&str] = &["cluster.nodes", "keyspaces"];

const fn field(
    section: &'static str,
    name: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    meaning: &'static str,
) -> Field {
    Field { section, name, kind, default, meaning }
}

/// The largest number a founding node may be given; those that join get numbers above the founders'.
pub const NODE_ID_MAX: u64 = 999;

/// Copies of a shard.
const REPLICAS_MAX: u64 = 7;

/// Every field, in the order of the reference. A table: two lines a field.
#[rustfmt::skip]
pub const FIELDS: &[Field] = &[
    field("cluster", "id", Kind::Text, None,
        "32 hexadecimal digits that name the cluster; required with `[[cluster.nodes]]`, otherwise made at the \
         first start and kept in the data directory"),
    field("cluster", "key_file", Kind::Text, Some(""),
        "file with the cluster's key, 64 hexadecimal digits; required with more than one of `[[cluster.nodes]]`, the \
         same for all; a node by itself makes one, `cluster.key` in its data directory"),
    field("cluster.nodes", "id", Kind::Number(1, NODE_ID_MAX), None,
        "the node's number, never given to another node"),
    field("cluster.nodes", "client", Kind::Text, None,
        "`host:port` under which clients reach the node"),
    field("cluster.nodes", "peer", Kind::Text, None,
        "`host:port` under which the other nodes reach it"),
    field("cluster.nodes", "zone", Kind::Text, None,
        "where the node stands, if zones count for the first keyspaces; the same as its `node.zone`"),
    field("keyspaces", "name", Kind::Text, None,
        "1 to 64 of `a-z 0-9 -`"),
    field("keyspaces", "mode", Kind::Word(&["cp", "ap"]), Some("cp"),
        "`cp`; `ap` is not offered by this build and refused"),
    field("keyspaces", "shard_by", Kind::Text, Some("range"),
        "`range`: keys in their order, cut at `split_at`; `hash:8`: spread over that many shards, at most 4096"),
    field("keyspaces", "split_at", Kind::Texts, Some("[]"),
        "keys at which a `range` keyspace is cut, in ascending order: one shard more than there are keys"),
    field("keyspaces", "replicas", Kind::Number(1, REPLICAS_MAX), None,
        "copies of each shard, an odd number; 3 unless given, 1 on a cluster of fewer than three nodes"),
    field("keyspaces", "read_level", Kind::Text, Some("linearizable"),
        "level of a read that names none: `linearizable`, `session`, `local`, or `bounded:200ms`"),
    field("keyspaces", "value_bytes_max", Kind::Size, Some("1MiB"),
        "largest value, at most 16MiB"),
    field("keyspaces", "changes", Kind::Word(&["keys", "new", "new_and_old"]), Some("keys"),
        "images a change record carries"),
    field("keyspaces", "leases", Kind::Flag, Some("false"),
        "whether linearizable reads may be answered by the leader's lease: no round of messages, and it trusts that \
         clocks run at the same pace"),
    field("node", "id", Kind::Number(1, NODE_ID_MAX), None,
        "this founding node's number: one of `[[cluster.nodes]]`, 1 if there are none; a node that joins is given its \
         number and writes none"),
    field("node", "data", Kind::Text, Some("./kvorum-data"),
        "data directory, made if missing"),
    field("node", "listen_client", Kind::Text, Some("127.0.0.1:7101"),
        "`ip:port` the client door listens on"),
    field("node", "listen_peer", Kind::Text, Some("127.0.0.1:7201"),
        "`ip:port` the peer door listens on; gossip uses the same port over UDP"),
    field("node", "listen_admin", Kind::Text, Some("127.0.0.1:7301"),
        "`ip:port` of `/metrics`, `/healthz`, `/readyz`"),
    field("node", "insecure", Kind::Flag, Some("false"),
        "allows addresses other than loopback without encryption; warned about at each start"),
    field("node", "advertise_client", Kind::Text, Some(""),
        "`host:port` under which clients reach this node; its entry of `[[cluster.nodes]]`, or `listen_client`, unless \
         given"),
    field("node", "advertise_peer", Kind::Text, Some(""),
        "`host:port` under which the other nodes reach it; its entry of `[[cluster.nodes]]`, or `listen_peer`, unless \
         given"),
    field("node", "zone", Kind::Text, Some(""),
        "where the node stands, at most 64 bytes: replicas of a shard are spread over zones"),
    field("limits", "request_bytes_in_flight_max", Kind::Size, Some("128MiB"),
        "bytes of requests being worked on at once; beyond it they are refused"),
    field("limits", "requests_in_flight_max", Kind::Number(1, 1_000_000), Some("16384"),
        "requests being worked on at once"),
    field("limits", "scans_max", Kind::Number(1, 100_000), Some("64"),
        "scans running at once"),
    field("limits", "streams_per_connection_max", Kind::Number(1, 1_000_000), Some("1024"),
        "requests in flight on one connection"),
    field("limits", "request_timeout_default", Kind::Duration, Some("5s"),
        "deadline of a request without `grpc-timeout`"),
    field("limits", "request_timeout_max", Kind::Duration, Some("60s"),
        "longest deadline a unary request is given"),
    field("limits", "scan_timeout_max", Kind::Duration, Some("30m"),
        "longest time a scan may hold its view"),
    field("limits", "drain_timeout", Kind::Duration, Some("10s"),
        "how long requests in flight may take at an orderly stop"),
    field("storage", "low_water", Kind::Size, Some("256MiB"),
        "free disk space below which new data is refused (`disk_full`)"),
    field("storage", "ballast", Kind::Size, Some("64MiB"),
        "file given up when the disk is nearly full, so that deletes and votes go on; 0B = none"),
    field("storage", "engine_memory", Kind::Size, Some("64MiB"),
        "the engine's cache and write buffers together; taken as it is used"),
    field("storage", "journal_cache", Kind::Size, Some("16MiB"),
        "journal entries kept in memory for followers, besides those not yet synced"),
    field("storage", "journal_segment", Kind::Size, Some("64MiB"),
        "size of one journal segment"),
    field("storage", "journal_bytes_max", Kind::Size, Some("512MiB"),
        "journal size beyond which the engine is flushed and logs are purged"),
    field("storage", "change_bytes_max", Kind::Size, Some("1GiB"),
        "bytes of change records kept per shard"),
    field("storage", "change_age_max", Kind::Duration, Some("24h"),
        "age of change records kept"),
    field("storage", "blocking_threads", Kind::Number(1, 256), Some("4"),
        "threads for reads and applies that may wait for the disk"),
    field("raft", "heartbeat", Kind::Duration, Some("250ms"),
        "between two heartbeats of a leader"),
    field("raft", "election_min", Kind::Duration, Some("1000ms"),
        "shortest election timeout"),
    field("raft", "election_max", Kind::Duration, Some("1500ms"),
        "longest election timeout, also the leader's lease"),
    field("raft", "idle_close_after", Kind::Duration, Some("10s"),
        "a shard without requests for this long is closed until somebody needs it; 0s = never"),
    field("raft", "follower_log_bytes_max", Kind::Size, Some("64MiB"),
        "log kept for a follower that is behind; beyond it, it gets a snapshot"),
    field("raft", "snapshot_chunk", Kind::Size, Some("512KiB"),
        "size of one piece of a snapshot"),
    field("raft", "clock_offset_max", Kind::Duration, Some("500ms"),
        "a node whose clock is further off neither leads nor takes writes (`clock_suspect`)"),
    field("balance", "enabled", Kind::Flag, Some("true"),
        "whether replicas of lost nodes are made again elsewhere and load is evened out by itself; nodes that are drained \
         are emptied in any case"),
    field("balance", "replace_after", Kind::Duration, Some("10m"),
        "a node that has not answered for longer is replaced: its replicas are made again elsewhere"),
    field("balance", "moves_per_node", Kind::Number(1, 64), Some("2"),
        "replicas that one node takes in at a time"),
    field("balance", "move_bytes_per_second", Kind::Size, Some("64MiB"),
        "bytes of snapshots that this node sends in a second, all shards together; 0B = as fast as it can"),
    field("log", "filter", Kind::Text, Some("info,openraft=warn"),
        "levels by module, e.g. `info,kvorum_consensus=debug`"),
    field("log", "format", Kind::Word(&["auto", "text", "json"]), Some("auto"),
        "`auto`: text on a terminal, JSON otherwise"),
    field("fault", "clock_offset", Kind::SignedDuration, Some("0ms"),
        "for tests: added to this node's wall clock"),
    field("fault", "disk_free_from", Kind::Text, Some(""),
        "for tests: a file that holds the number of free bytes, asked instead of the file system"),
];

/// The field of that section and name.
#[must_use]
pub fn find(section: &str, name: &str) -> Option<&'static Field> {
    FIELDS.iter().find(|field| field.section == section && field.name == name)
}

/// Every section, each once.
#[must_use]
pub fn sections() -> Vec<&'static str> {
    let mut sections: Vec<&'static str> = Vec::new();
    for field in FIELDS {
        if !sections.contains(&field.section) {
            sections.push(field.section);
        }
    }
    sections
}

/// The known name nearest to an unknown one: fewest edits, ties to the earlier.
#[must_use]
pub fn nearest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known.into_iter().min_by_key(|name| edits(unknown, name))
}

/// Levenshtein's distance, ignoring case.
fn edits(left: &str, right: &str) -> usize {
    let left: Vec<char> = left.to_lowercase().chars().collect();
    let right: Vec<char> = right.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

impl Field {
    /// `section.name`, as messages call it.
    #[must_use]
    pub fn path(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// Reads a value written in TOML and says what is wrong with it.
    ///
    /// # Errors
    /// What is wrong and how to fix it.
    pub fn check(&self, value: &toml::Value) -> Result<(), String> {
        let text = || value.as_str().ok_or_else(|| format!("is {value}, which is no text in quotes"));
        match self.kind {
            Kind::Text => text().map(drop),
            Kind::Flag => value.as_bool().map(drop).ok_or_else(|| format!("is {value}: write true or false")),
            Kind::Number(min, max) => match value.as_integer().and_then(|number| u64::try_from(number).ok()) {
                Some(number) if (min..=max).contains(&number) => Ok(()),
                _ => Err(format!("is {value}: write a whole number from {min} to {max}")),
            },
            Kind::Duration => quoted(value, units::duration),
            Kind::SignedDuration => quoted(value, units::signed_duration_ms),
            Kind::Size => quoted(value, units::size),
            Kind::Texts => match value.as_array().is_some_and(|list| list.iter().all(toml::Value::is_str)) {
                true => Ok(()),
                false => Err(format!("is {value}: write a list of texts, e.g. [\"g\", \"p\"]")),
            },
            Kind::Word(words) => match words.contains(&text()?) {
                true => Ok(()),
                false => Err(format!("is {value}: use one of {}", words.join(", "))),
            },
        }
    }

    /// Reads a value from bare text (an environment variable, a default).
    ///
    /// # Errors
    /// What is wrong and how to fix it.
    pub fn read(&self, text: &str) -> Result<toml::Value, String> {
        let value = match self.kind {
            Kind::Flag => text.parse().map(toml::Value::Boolean).unwrap_or(toml::Value::String(text.into())),
            Kind::Number(..) => text.parse().map(toml::Value::Integer).unwrap_or(toml::Value::String(text.into())),
            // The list of tables is the only place where lists are fields, and its one default is the empty list.
            Kind::Texts => toml::Value::Array(Vec::new()),
            Kind::Text | Kind::Duration | Kind::SignedDuration | Kind::Size | Kind::Word(_) => {
                toml::Value::String(text.into())
            }
        };
        self.check(&value)?;
        Ok(value)
    }
}

/// A quantity must be in quotes: a bare number has no unit.
fn quoted<T>(value: &toml::Value, read: impl Fn(&str) -> Result<T, String>) -> Result<(), String> {
    let text = match value {
        toml::Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    read(&text).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_valid() {
        for field in FIELDS {
            if let Some(default) = field.default {
                field.read(default).unwrap_or_else(|problem| panic!("{}: {problem}", field.path()));
            }
        }
    }

    #[test]
    fn the_nearest_name_has_the_fewest_edits() {
        let names = ["listen_client", "listen_peer", "insecure"];
        assert_eq!(nearest("listen_clinet", names), Some("listen_client"));
        assert_eq!(nearest("inscure", names), Some("insecure"));
    }

    #[test]
    fn the_reference_lists_every_field_with_its_default() {
        let reference = include_str!("../../../docs/operations.md");
        for field in FIELDS {
            let default = match field.default {
                None => "-".to_owned(),
                Some("") => "empty".to_owned(),
                Some(text) => format!("`{text}`"),
            };
            let row = format!("| `{}` | {default} | {} |", field.name, field.meaning);
            assert!(reference.contains(&row), "docs/operations.md lacks this row of [{}]:\n{row}", field.section);
        }
    }
}
