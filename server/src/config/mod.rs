//! # Configuration: one TOML file, checked once
//!
//! ```text
//!   defaults ◀── file ◀── environment ──▶ one table ──▶ Config (typed, consistent) ──▶ everything else
//!    fields.rs   layers.rs                               mod.rs, cluster.rs
//! ```
//!
//! **Invariant.** A `Config` is consistent: whoever holds one checks nothing again.
//!
//! **Deliberately absent.** Reloading. A changed file is read at the next start.

mod cluster;
mod difference;
pub mod fields;
mod layers;
pub mod units;

pub use cluster::{FIRST_NODE, KEYSPACE_NAME_BYTES_MAX, Keyspace, Member};
pub use difference::differences;
pub use layers::{ConfigError, ENVIRONMENT_PREFIX};

use kvorum_api::{
    ClusterId, NodeId,
    limits::{BATCH_BYTES_MAX, VALUE_BYTES_CEILING},
};
use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use toml::Table;

/// Bytes of a zone's name: it travels in every summary a node gossips.
pub const ZONE_BYTES_MAX: usize = 64;

/// Shortest time after which a silent node may be replaced.
const REPLACE_AFTER_MIN: Duration = Duration::from_secs(2);

/// What a process was told.
#[derive(Clone, Debug)]
pub struct Config {
    /// The cluster's id; `None` = a node by itself, whose id is made at its first start.
    pub cluster: Option<ClusterId>,
    /// The file with its key; `None` = where the data directory keeps it.
    pub key_file: Option<PathBuf>,
    /// The nodes that found the cluster, by id; empty = none listed.
    pub founders: Vec<Member>,
    /// Whether keyspaces are listed.
    pub lists_keyspaces: bool,
    /// The keyspaces it is founded with; none listed = one called `default`.
    pub keyspaces: Vec<Keyspace>,
    /// This node.
    pub node: Node,
    /// Numbers on everything the doors admit.
    pub limits: Limits,
    /// Disk.
    pub storage: Storage,
    /// Agreement.
    pub raft: Raft,
    /// Moves of replicas.
    pub balance: Balance,
    /// Logs.
    pub log: Log,
    /// Faults, for tests.
    pub fault: Fault,
    effective: Table,
}

/// `[node]`
#[derive(Clone, Debug)]
pub struct Node {
    /// Its number, if it was told one.
    pub id: Option<NodeId>,
    /// Data directory.
    pub data: PathBuf,
    /// Client door.
    pub listen_client: SocketAddr,
    /// Peer door.
    pub listen_peer: SocketAddr,
    /// Admin door.
    pub listen_admin: SocketAddr,
    /// Whether addresses other than loopback are allowed without encryption.
    pub insecure: bool,
    /// Where clients reach it, if that is not where it listens.
    pub advertise_client: Option<String>,
    /// Where nodes reach it, if that is not where it listens.
    pub advertise_peer: Option<String>,
    /// Where it stands.
    pub zone: String,
}

/// `[limits]`
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of requests being worked on at once.
    pub request_bytes_in_flight_max: u64,
    /// Requests being worked on at once.
    pub requests_in_flight_max: u64,
    /// Scans running at once.
    pub scans_max: u64,
    /// Requests in flight on one connection.
    pub streams_per_connection_max: u32,
    /// Deadline of a request that names none.
    pub request_timeout_default: Duration,
    /// Longest deadline of a unary request.
    pub request_timeout_max: Duration,
    /// Longest life of a scan.
    pub scan_timeout_max: Duration,
    /// Patience of an orderly stop.
    pub drain_timeout: Duration,
}

/// `[storage]`
#[derive(Clone, Copy, Debug)]
pub struct Storage {
    /// Free space below which new data is refused.
    pub low_water: u64,
    /// Size of the file given up when the disk is nearly full.
    pub ballast: u64,
    /// The engine's cache and write buffers together.
    pub engine_memory: u64,
    /// Journal entries kept in memory.
    pub journal_cache: u64,
    /// Size of a journal segment.
    pub journal_segment: u64,
    /// Size of the journal beyond which it is emptied.
    pub journal_bytes_max: u64,
    /// Bytes of change records kept.
    pub change_bytes_max: u64,
    /// Age of change records kept.
    pub change_age_max: Duration,
    /// Threads for work that waits for the disk.
    pub blocking_threads: usize,
}

/// `[raft]`
#[derive(Clone, Copy, Debug)]
pub struct Raft {
    /// Between heartbeats.
    pub heartbeat: Duration,
    /// Shortest election timeout.
    pub election_min: Duration,
    /// Longest election timeout.
    pub election_max: Duration,
    /// A group without requests for this long is closed; `None` = never.
    pub idle_close_after: Option<Duration>,
    /// Log kept for a follower that is behind.
    pub follower_log_bytes_max: u64,
    /// One piece of a snapshot.
    pub snapshot_chunk: u64,
    /// A clock further off is not trusted.
    pub clock_offset_max: Duration,
}

/// `[balance]`
#[derive(Clone, Copy, Debug)]
pub struct Balance {
    /// Whether anything is moved without being asked for.
    pub enabled: bool,
    /// How long a node may be lost before it is replaced.
    pub replace_after: Duration,
    /// Replicas that one node takes in at a time.
    pub moves_per_node: usize,
    /// Bytes of snapshots sent in a second; 0 = as fast as it goes.
    pub move_bytes_per_second: u64,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// `[log]`
#[derive(Clone, Debug)]
pub struct Log {
    /// Levels by module.
    pub filter: String,
    /// How lines look.
    pub format: LogFormat,
}

/// `[fault]`: for tests.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Added to the wall clock, milliseconds.
    pub clock_offset_ms: i64,
    /// File to ask for the free space instead of the file system.
    pub disk_free_from: Option<PathBuf>,
}

impl Config {
    /// Reads the file (none = a node by itself, on loopback) and the process's environment.
    ///
    /// # Errors
    /// One sentence that names the field and the fix.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let text = match path {
            None => None,
            Some(path) => Some(fs::read_to_string(path).map_err(|error| ConfigError::Unreadable {
                path: path.display().to_string(),
                why: error.to_string(),
            })?),
        };
        let environment = std::env::vars_os().filter_map(|(name, text)| {
            // A variable of ours that is no UTF-8 must not be skipped: its lossy form is refused by name or value.
            let name = name.to_string_lossy().into_owned();
            name.starts_with(ENVIRONMENT_PREFIX).then(|| (name, text.to_string_lossy().into_owned()))
        });
        Config::parse(text.as_deref(), environment)
    }

    /// The same from text.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn parse(
        text: Option<&str>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let effective = layers::effective(text, environment)?;
        let read = Reader(&effective);
        let node = node(&read)?;
        let (cluster, founders) = cluster::founders(&effective, &node)?;
        let path = |section, name| Some(read.text(section, name)).filter(|text| !text.is_empty()).map(PathBuf::from);
        let config = Config {
            cluster,
            key_file: path("cluster", "key_file"),
            founders,
            lists_keyspaces: effective.contains_key("keyspaces"),
            keyspaces: cluster::keyspaces(&effective)?,
            node,
            limits: limits(&read),
            storage: storage(&read),
            raft: raft(&read),
            balance: balance(&read),
            log: Log {
                filter: read.text("log", "filter").to_owned(),
                format: match read.text("log", "format") {
                    "text" => LogFormat::Text,
                    "json" => LogFormat::Json,
                    _ => LogFormat::Auto,
                },
            },
            fault: Fault {
                clock_offset_ms: units::signed_duration_ms(read.text("fault", "clock_offset")).expect("checked"),
                disk_free_from: path("fault", "disk_free_from"),
            },
            effective,
        };
        config.check()?;
        Ok(config)
    }

    /// The effective configuration as TOML, every default written out.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(&self.effective).expect("a table that was read can be written")
    }

    /// Addresses that anybody on the network can reach without encryption.
    #[must_use]
    pub fn open_addresses(&self) -> Vec<(&'static str, SocketAddr)> {
        let node = &self.node;
        let all = [
            ("node.listen_client", node.listen_client),
            ("node.listen_peer", node.listen_peer),
            ("node.listen_admin", node.listen_admin),
        ];
        all.into_iter().filter(|(_, address)| !address.ip().is_loopback()).collect()
    }

    /// What no field can say by itself.
    fn check(&self) -> Result<(), ConfigError> {
        let invalid = |field: &str, problem: String| Err(ConfigError::invalid(field, problem));
        if let (false, Some((field, address))) = (self.node.insecure, self.open_addresses().first()) {
            return invalid(
                field,
                format!(
                    "{address} is not a loopback address and this build has no encryption: use 127.0.0.1, or set \
                     node.insecure = true if everybody on that network may read and write everything"
                ),
            );
        }
        let raft = &self.raft;
        if raft.heartbeat.is_zero() || raft.heartbeat * 2 > raft.election_min {
            return invalid("raft.heartbeat", "must be above 0 and at most half of raft.election_min".into());
        }
        if raft.election_min >= raft.election_max {
            return invalid("raft.election_max", "must be longer than raft.election_min".into());
        }
        // A record lies within one segment: the largest command any keyspace may ever allow, with what wraps it.
        let segment_min = (2 * VALUE_BYTES_CEILING).max(BATCH_BYTES_MAX) + (2 << 20);
        if !(segment_min as u64..=1 << 30).contains(&self.storage.journal_segment) {
            let problem =
                format!("must be between {}MiB (the largest command fits into one) and 1GiB", segment_min >> 20);
            return invalid("storage.journal_segment", problem);
        }
        if self.node.zone.len() > ZONE_BYTES_MAX {
            return invalid("node.zone", format!("has {} bytes: write at most {ZONE_BYTES_MAX}", self.node.zone.len()));
        }
        if self.storage.journal_bytes_max < 2 * self.storage.journal_segment {
            return invalid("storage.journal_bytes_max", "must be at least two of storage.journal_segment".into());
        }
        if !(4 << 10..=8 << 20).contains(&self.raft.snapshot_chunk) {
            return invalid("raft.snapshot_chunk", "must be between 4KiB and 8MiB".into());
        }
        // A node is lost after two seconds of silence: whoever only restarts must not be replaced.
        if self.balance.replace_after < REPLACE_AFTER_MIN {
            return invalid("balance.replace_after", "must be at least 2s: a node that restarts is not lost".into());
        }
        let pace = self.balance.move_bytes_per_second;
        if pace > 0 && pace < self.raft.snapshot_chunk {
            let problem = "must be at least raft.snapshot_chunk, or 0B for no limit".to_owned();
            return invalid("balance.move_bytes_per_second", problem);
        }
        if self.limits.request_timeout_default > self.limits.request_timeout_max {
            return invalid("limits.request_timeout_default", "must be at most limits.request_timeout_max".into());
        }
        if self.limits.request_timeout_default.is_zero() {
            return invalid("limits.request_timeout_default", "must be above 0".into());
        }
        // One request of the largest kind must fit, or it could never be served.
        if self.limits.request_bytes_in_flight_max < crate::rpc::REQUEST_BYTES_MAX as u64 {
            return invalid(
                "limits.request_bytes_in_flight_max",
                format!("must be at least {}MiB, the largest request", crate::rpc::REQUEST_BYTES_MAX >> 20),
            );
        }
        Ok(())
    }
}

fn node(read: &Reader<'_>) -> Result<Node, ConfigError> {
    Ok(Node {
        id: read.given("node", "id").and_then(|id| id.as_integer()).map(|id| NodeId(id as u64)),
        data: PathBuf::from(read.text("node", "data")),
        listen_client: read.address("node", "listen_client")?,
        listen_peer: read.address("node", "listen_peer")?,
        listen_admin: read.address("node", "listen_admin")?,
        insecure: read.flag("node", "insecure"),
        advertise_client: read.host("node", "advertise_client")?,
        advertise_peer: read.host("node", "advertise_peer")?,
        zone: read.text("node", "zone").to_owned(),
    })
}

fn limits(read: &Reader<'_>) -> Limits {
    Limits {
        request_bytes_in_flight_max: read.size("limits", "request_bytes_in_flight_max"),
        requests_in_flight_max: read.number("limits", "requests_in_flight_max"),
        scans_max: read.number("limits", "scans_max"),
        streams_per_connection_max: read.number("limits", "streams_per_connection_max") as u32,
        request_timeout_default: read.duration("limits", "request_timeout_default"),
        request_timeout_max: read.duration("limits", "request_timeout_max"),
        scan_timeout_max: read.duration("limits", "scan_timeout_max"),
        drain_timeout: read.duration("limits", "drain_timeout"),
    }
}

fn storage(read: &Reader<'_>) -> Storage {
    Storage {
        low_water: read.size("storage", "low_water"),
        ballast: read.size("storage", "ballast"),
        engine_memory: read.size("storage", "engine_memory"),
        journal_cache: read.size("storage", "journal_cache"),
        journal_segment: read.size("storage", "journal_segment"),
        journal_bytes_max: read.size("storage", "journal_bytes_max"),
        change_bytes_max: read.size("storage", "change_bytes_max"),
        change_age_max: read.duration("storage", "change_age_max"),
        blocking_threads: read.number("storage", "blocking_threads") as usize,
    }
}

fn raft(read: &Reader<'_>) -> Raft {
    Raft {
        heartbeat: read.duration("raft", "heartbeat"),
        election_min: read.duration("raft", "election_min"),
        election_max: read.duration("raft", "election_max"),
        idle_close_after: Some(read.duration("raft", "idle_close_after")).filter(|after| !after.is_zero()),
        follower_log_bytes_max: read.size("raft", "follower_log_bytes_max"),
        snapshot_chunk: read.size("raft", "snapshot_chunk"),
        clock_offset_max: read.duration("raft", "clock_offset_max"),
    }
}

fn balance(read: &Reader<'_>) -> Balance {
    Balance {
        enabled: read.flag("balance", "enabled"),
        replace_after: read.duration("balance", "replace_after"),
        moves_per_node: read.number("balance", "moves_per_node") as usize,
        move_bytes_per_second: read.size("balance", "move_bytes_per_second"),
    }
}

/// Whether a text is an address somebody else could use: a host and a port above 0.
#[must_use]
pub fn is_host_and_port(text: &str) -> bool {
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    port.and_then(|(_, port)| port.parse::<u16>().ok()).is_some_and(|port| port > 0)
}

/// Takes checked fields out of a table in which every default is written.
struct Reader<'a>(&'a Table);

impl<'a> Reader<'a> {
    fn value(&self, section: &str, name: &str) -> &'a toml::Value {
        self.0.get(section).and_then(|table| table.get(name)).expect("every field with a default is there")
    }

    /// A field without a default, if it was written.
    fn given(&self, section: &str, name: &str) -> Option<&'a toml::Value> {
        self.0.get(section).and_then(|table| table.get(name))
    }

    /// An address by which others reach this node; nothing written = none.
    fn host(&self, section: &str, name: &str) -> Result<Option<String>, ConfigError> {
        match self.text(section, name) {
            "" => Ok(None),
            text if is_host_and_port(text) => Ok(Some(text.to_owned())),
            text => {
                let problem = format!("{text:?} is no host:port");
                Err(ConfigError::invalid(format!("{section}.{name}"), problem))
            }
        }
    }

    fn text(&self, section: &str, name: &str) -> &'a str {
        self.value(section, name).as_str().expect("checked: text")
    }

    fn flag(&self, section: &str, name: &str) -> bool {
        self.value(section, name).as_bool().expect("checked: flag")
    }

    fn number(&self, section: &str, name: &str) -> u64 {
        self.value(section, name).as_integer().and_then(|n| u64::try_from(n).ok()).expect("checked: number")
    }

    fn duration(&self, section: &str, name: &str) -> Duration {
        units::duration(self.text(section, name)).expect("checked: duration")
    }

    fn size(&self, section: &str, name: &str) -> u64 {
        units::size(self.text(section, name)).expect("checked: size")
    }

    fn address(&self, section: &str, name: &str) -> Result<SocketAddr, ConfigError> {
        let text = self.text(section, name);
        text.parse().map_err(|_| {
            let problem = format!("{text:?} is no address: write ip:port, e.g. \"127.0.0.1:7101\"");
            ConfigError::invalid(format!("{section}.{name}"), problem)
        })
    }
}

#[cfg(test)]
mod tests;
