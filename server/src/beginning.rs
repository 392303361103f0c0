//! Beginning: who this process is to be, found out before it opens anything.
//!
//! ```text
//!   empty directory ─┬─ --join ─▶ directory number durable ─▶ asks those that are in ─▶ cluster, node, map
//!                    └─ else ───▶ a founder: of the nodes listed, or by itself
//!   a member ────────▶ the map from its own disk; if that is lost, from the others by asking again
//!        │
//!        ▼
//!   identity with one more start counted · cluster key · map
//! ```
//!
//! **Invariant.** Nothing is made durable that a corrected second attempt could not go on from.

use crate::{
    cluster_key::{self, ClusterKey, KeyError},
    config::{Config, FIRST_NODE},
    identity::{Claim, DataDirectory, Identity, Role, Standing},
    join::{self, Admission, Applicant},
    routing_copy::RoutingCopy,
};
use kvorum_api::{ClusterId, NodeId};
use kvorum_consensus::{Clock, metadata::ClusterMap};
use rand::{TryRngCore as _, rngs::OsRng};
use std::{collections::BTreeSet, path::PathBuf, time::Duration};

/// How long a joining node asks to be let in.
const JOIN_PATIENCE: Duration = Duration::from_secs(60);

/// Why the process ends with a failure: one sentence.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Fatal(String);

impl Fatal {
    /// Of whatever went wrong.
    pub fn of(why: impl ToString) -> Self {
        Fatal(why.to_string().replace('\n', ", "))
    }
}

/// What the command line says besides the configuration.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Peer addresses of nodes to ask; empty = this node does not join.
    pub join: Vec<String>,
    /// The file with the cluster's key.
    pub cluster_key: Option<PathBuf>,
}

/// Who this process is.
#[derive(Debug)]
pub struct Beginning {
    /// Of the data directory, this start counted.
    pub identity: Identity,
    /// The cluster's key.
    pub key: ClusterKey,
    /// Where clients reach it.
    pub client: String,
    /// Where nodes reach it.
    pub peer: String,
    /// The newest map it has; `None` = the cluster is being founded.
    pub map: Option<ClusterMap>,
}

/// Finds it out.
///
/// # Errors
/// One sentence that says what to correct.
pub async fn begin(
    config: &Config,
    options: &Options,
    directory: &DataDirectory,
    clock: &Clock,
) -> Result<Beginning, Fatal> {
    let standing = directory.standing().map_err(Fatal::of)?;
    let key = key(config, options, directory, &standing)?;
    let (client, peer) = addresses(config);
    let (role, map) = match standing {
        Standing::Empty if options.join.is_empty() => (founder(config)?, None),
        Standing::Member { cluster, node, founders } => {
            let found = Member { cluster, node, is_founder: founders > 0, founders_count: founders };
            member(config, options, directory, found, &key, clock).await?
        }
        Standing::Asking if options.join.is_empty() => (founder(config)?, None),
        Standing::Empty | Standing::Asking => joiner(config, options, directory, &key, clock).await?,
    };
    let is_new = matches!(standing, Standing::Empty | Standing::Asking);
    let claim = Claim {
        cluster: config.cluster,
        node: config.node.id,
        role,
        directory_if_new: random_number()?,
        now_ms: clock.now_ms(),
    };
    let identity = directory.begin_life(&claim).map_err(Fatal::of)?;
    if is_new && !options.join.is_empty() {
        // Later starts need neither flag: the directory has all it takes.
        key.keep(directory.path()).map_err(Fatal::of)?;
    }
    Ok(Beginning { identity, key, client, peer, map })
}

/// What a directory says of itself.
struct Member {
    cluster: ClusterId,
    node: NodeId,
    is_founder: bool,
    founders_count: usize,
}

fn founder(config: &Config) -> Result<Role, Fatal> {
    Ok(Role::Founder {
        cluster_if_new: ClusterId(random_number()?.to_be_bytes()),
        node: config.node.id.unwrap_or(FIRST_NODE),
        members: listed(config),
    })
}

fn listed(config: &Config) -> BTreeSet<NodeId> {
    config.founders.iter().map(|founder| founder.id).collect()
}

/// A directory that is of a cluster already.
async fn member(
    config: &Config,
    options: &Options,
    directory: &DataDirectory,
    member: Member,
    key: &ClusterKey,
    clock: &Clock,
) -> Result<(Role, Option<ClusterMap>), Fatal> {
    let copy = RoutingCopy::new(directory.path(), member.cluster);
    let map = copy.load();
    if member.is_founder {
        refuse_other_cluster(config, options, directory, &member, map.as_ref())?;
        if map.is_none() && config.founders.is_empty() && member.founders_count > 1 {
            return Err(Fatal::of(format!(
                "data directory {}: no copy of the cluster's map can be read, and the configuration lists no nodes: \
                 write [[cluster.nodes]] as at the first start",
                directory.path().display()
            )));
        }
        let role = Role::Founder { cluster_if_new: member.cluster, node: member.node, members: listed(config) };
        return Ok((role, map));
    }
    if !config.founders.is_empty() {
        return Err(Fatal::of(format!(
            "node {} joined its cluster and is none of its founders: remove [[cluster.nodes]], the node knows the others \
             from its map",
            member.node
        )));
    }
    let role = Role::Joined { cluster: member.cluster, node: member.node };
    match (map, options.join.is_empty()) {
        (Some(map), _) => Ok((role, Some(map))),
        (None, true) => Err(Fatal::of(format!(
            "data directory {}: no copy of the cluster's map can be read: start once with --join and the peer address of \
             any other node",
            directory.path().display()
        ))),
        (None, false) => {
            // The same directory is given the same id: asking again only brings the map.
            let admission = ask(config, options, directory, key, clock).await?;
            if (admission.cluster, admission.node) != (member.cluster, member.node) {
                return Err(Fatal::of(format!(
                    "data directory {} is node {} of cluster {}, and the nodes of --join are of cluster {}",
                    directory.path().display(),
                    member.node,
                    member.cluster,
                    admission.cluster
                )));
            }
            Ok((role, Some(map_of(&admission)?)))
        }
    }
}

/// A founder that is told to join must be told of its own cluster: it would found or serve that one, and the flag would
/// be ignored.
fn refuse_other_cluster(
    config: &Config,
    options: &Options,
    directory: &DataDirectory,
    member: &Member,
    map: Option<&ClusterMap>,
) -> Result<(), Fatal> {
    let of_map = map.into_iter().flat_map(|map| map.nodes.values().map(|row| &row.peer));
    let mut known = of_map.chain(config.founders.iter().map(|founder| &founder.peer));
    if options.join.is_empty() || known.any(|peer| options.join.contains(peer)) {
        return Ok(());
    }
    Err(Fatal::of(format!(
        "data directory {}: node {} founded cluster {} here, and the nodes of --join are none of it: leave --join out, or          join with an empty data directory",
        directory.path().display(),
        member.node,
        member.cluster
    )))
}

/// A directory that is nobody yet, and joins.
async fn joiner(
    config: &Config,
    options: &Options,
    directory: &DataDirectory,
    key: &ClusterKey,
    clock: &Clock,
) -> Result<(Role, Option<ClusterMap>), Fatal> {
    if !config.founders.is_empty() {
        return Err(Fatal::of(
            "--join and [[cluster.nodes]] exclude each other: a founder is listed and does not join, a node that joins \
             is given its number",
        ));
    }
    if config.node.id.is_some() {
        return Err(Fatal::of("--join and node.id exclude each other: a node that joins is given its number"));
    }
    let admission = ask(config, options, directory, key, clock).await?;
    if let Some(wanted) = config.cluster.filter(|wanted| *wanted != admission.cluster) {
        return Err(Fatal::of(format!(
            "the nodes of --join are of cluster {}, and cluster.id says {wanted}: correct one of them",
            admission.cluster
        )));
    }
    let role = Role::Joined { cluster: admission.cluster, node: admission.node };
    // On disk before the identity: a member without a map would have to ask again.
    let map = map_of(&admission)?;
    let copy = RoutingCopy::new(directory.path(), admission.cluster);
    copy.save(&map).map_err(|why| Fatal::of(format!("the map cannot be written: {why}")))?;
    Ok((role, Some(map)))
}

async fn ask(
    config: &Config,
    options: &Options,
    directory: &DataDirectory,
    key: &ClusterKey,
    clock: &Clock,
) -> Result<Admission, Fatal> {
    let (client, peer) = addresses(config);
    for (field, address, listens) in [
        ("node.advertise_client", &client, config.node.listen_client),
        ("node.advertise_peer", &peer, config.node.listen_peer),
    ] {
        if listens.ip().is_unspecified() && *address == listens.to_string() {
            return Err(Fatal::of(format!("{field} is missing: nobody can reach {address}, write host:port")));
        }
    }
    let number = directory.directory_number(random_number()?, clock.now_ms()).map_err(Fatal::of)?;
    let applicant = Applicant { directory: number, client, peer, zone: config.node.zone.clone() };
    tracing::info!(addresses = options.join.join(","), "asking to be let in");
    join::ask(&options.join, &applicant, key, JOIN_PATIENCE).await.map_err(Fatal::of)
}

fn map_of(admission: &Admission) -> Result<ClusterMap, Fatal> {
    let map = ClusterMap::decode(admission.map.clone());
    map.map_err(|error| {
        Fatal::of(format!("the map of the cluster cannot be understood, is it of another build? {error}"))
    })
}

/// Where clients and nodes reach this one.
fn addresses(config: &Config) -> (String, String) {
    let node = &config.node;
    let id = node.id.unwrap_or(FIRST_NODE);
    let entry = config.founders.iter().find(|founder| founder.id == id);
    let or_listed = |given: &Option<String>, listed: Option<&String>, listens: String| {
        given.clone().or_else(|| listed.cloned()).unwrap_or(listens)
    };
    (
        or_listed(&node.advertise_client, entry.map(|entry| &entry.client), node.listen_client.to_string()),
        or_listed(&node.advertise_peer, entry.map(|entry| &entry.peer), node.listen_peer.to_string()),
    )
}

/// The cluster's key: as given, or as the directory keeps it, or made by a founder that is alone.
fn key(
    config: &Config,
    options: &Options,
    directory: &DataDirectory,
    standing: &Standing,
) -> Result<ClusterKey, Fatal> {
    let kept = ClusterKey::kept(directory.path()).map_err(Fatal::of)?;
    if let Some(file) = options.cluster_key.as_ref().or(config.key_file.as_ref()) {
        let given = ClusterKey::read(file).map_err(Fatal::of)?;
        if kept.is_some_and(|kept| kept != given) {
            return Err(Fatal::of(KeyError::Other {
                given: file.clone(),
                kept: directory.path().join(cluster_key::FILE),
            }));
        }
        return Ok(given);
    }
    if let Some(kept) = kept {
        return Ok(kept);
    }
    match standing {
        Standing::Empty | Standing::Asking if !options.join.is_empty() => Err(Fatal::of(KeyError::MissingToJoin)),
        Standing::Member { founders: 0, .. } => {
            Err(Fatal::of(KeyError::Gone(directory.path().join(cluster_key::FILE))))
        }
        _ if config.founders.len() > 1 => Err(Fatal::of(KeyError::MissingForFounders)),
        Standing::Empty | Standing::Asking | Standing::Member { .. } => {
            let key = new_key()?;
            key.keep(directory.path()).map_err(Fatal::of)?;
            Ok(key)
        }
    }
}

/// A new key, at random.
///
/// # Errors
/// The system gives no random numbers.
pub fn new_key() -> Result<ClusterKey, Fatal> {
    let mut bytes = [0; cluster_key::KEY_BYTES];
    OsRng.try_fill_bytes(&mut bytes).map_err(no_chance)?;
    Ok(ClusterKey::new(bytes))
}

/// A number at random.
///
/// # Errors
/// The system gives none.
pub fn random_number() -> Result<u128, Fatal> {
    let mut bytes = [0; 16];
    OsRng.try_fill_bytes(&mut bytes).map_err(no_chance)?;
    Ok(u128::from_be_bytes(bytes))
}

fn no_chance(error: impl ToString) -> Fatal {
    Fatal::of(format!("the system gives no random numbers: {}", error.to_string()))
}
