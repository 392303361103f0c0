//! Identity: which cluster and node a data directory belongs to, and which of its lives this is.
//!
//! ```text
//!   kvorum identity 3        format; 1 and 2 had no directory and are taken over
//!   directory <32 hex>       made once, at random; a node that joins is known by it
//!   cluster <32 hex>         never changes; absent until the node was let in
//!   node <id>                never changes; absent until the node was let in
//!   start <count>            grows by one per start, synced before anything is served
//!   created <unix ms>
//!   member <id>              one line each: the nodes that founded the cluster, if this is one of them
//!   crc <8 hex>              CRC-32 of every byte before this line
//! ```
//!
//! **Invariant.** A start count is durable before it is used, and never used twice: the file is written beside, synced,
//! renamed over the old one, and the directory synced. A directory is durable before anybody is asked to let it in:
//! asked twice, the same directory gets the same node id.
//!
//! **Deliberately absent.** Recognising copies of a directory: that needs the peers (`consensus::peers`). What the
//! cluster became since it was founded: that is in its map.

use crate::durable;
use kvorum_api::{ClusterId, NodeId, StartCount};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};
use thiserror::Error;

const FILE: &str = "identity";
const LOCK: &str = "lock";
const HEADER: &str = "kvorum identity 3";
const HEADER_WITHOUT_DIRECTORY: &str = "kvorum identity 2";
const HEADER_WITHOUT_MEMBERS: &str = "kvorum identity 1";

/// Why a data directory cannot be used. Each is one sentence.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The system refused.
    #[error("data directory {}: cannot {operation}: {why}", .directory.display())]
    Io {
        /// Which.
        directory: PathBuf,
        /// What was tried.
        operation: &'static str,
        /// What the system said.
        why: io::Error,
    },
    /// Another process has it.
    #[error("data directory {} is in use by another process: stop that one first, or give this node its own", .0.display())]
    Locked(PathBuf),
    /// The file is damaged or from another build.
    #[error("{} cannot be understood ({why}): the other nodes, if there are any, still have their replicas", .file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The configuration names another cluster.
    #[error("data directory {} belongs to cluster {found}, and the configuration says {wanted}: correct cluster.id or node.data", .directory.display())]
    OtherCluster {
        /// Which.
        directory: PathBuf,
        /// Whose it is.
        found: ClusterId,
        /// What the configuration says.
        wanted: ClusterId,
    },
    /// The configuration names another node.
    #[error("data directory {} belongs to node {found}, and the configuration says {wanted}: correct node.id or node.data", .directory.display())]
    OtherNode {
        /// Which.
        directory: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// What the configuration says.
        wanted: NodeId,
    },
    /// The configuration lists other nodes than those that founded the cluster.
    #[error(
        "data directory {} was founded with the nodes {}, and the configuration lists {}: the list of \
         founding nodes never changes, correct cluster.nodes (addresses may change, ids may not); further nodes start \
         with --join",
        .directory.display(), list(.found), list(.wanted)
    )]
    OtherMembers {
        /// Which.
        directory: PathBuf,
        /// Who founded it.
        found: BTreeSet<NodeId>,
        /// What the configuration says.
        wanted: BTreeSet<NodeId>,
    },
    /// A directory that began to join was started without being told where.
    #[error(
        "data directory {} began to join a cluster and was not let in yet: start it with --join and the peer address of \
         any node that is in",
        .0.display()
    )]
    NotYetIn(PathBuf),
}

fn list(nodes: &BTreeSet<NodeId>) -> String {
    let nodes: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    nodes.join(", ")
}

/// What a data directory says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Made once, at random.
    pub directory: u128,
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Which of its lives this is.
    pub start: StartCount,
    /// When it was first started, Unix milliseconds.
    pub created_ms: u64,
    /// The nodes that founded the cluster, if this is one of them.
    pub members: BTreeSet<NodeId>,
}

/// What the file says, before anybody let the directory in or after.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    directory: Option<u128>,
    member: Option<(ClusterId, NodeId)>,
    start: StartCount,
    created_ms: u64,
    members: BTreeSet<NodeId>,
}

/// How far a directory has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nobody started it yet.
    Empty,
    /// It asked to be let in, and nobody did yet.
    Asking,
    /// It is a node of a cluster.
    Member {
        /// Which.
        cluster: ClusterId,
        /// Which node.
        node: NodeId,
        /// How many founded the cluster, if this is one of them, else 0.
        founders: usize,
    },
}

/// Who a directory is to be.
#[derive(Clone, Debug)]
pub enum Role {
    /// One of the nodes that found the cluster.
    Founder {
        /// The cluster's id if there is none yet: random.
        cluster_if_new: ClusterId,
        /// The node.
        node: NodeId,
        /// All founding nodes; empty = the configuration lists none: itself alone, or those it was founded with.
        members: BTreeSet<NodeId>,
    },
    /// A node that was let in by those that are in.
    Joined {
        /// The cluster.
        cluster: ClusterId,
        /// The id it was given.
        node: NodeId,
    },
}

/// What the configuration and chance say, for a directory that is new or to be checked.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The cluster, if the configuration names one.
    pub cluster: Option<ClusterId>,
    /// The node, if the configuration names one.
    pub node: Option<NodeId>,
    /// Who it is to be, if it is nobody yet.
    pub role: Role,
    /// The directory's own number if it has none yet: random.
    pub directory_if_new: u128,
    /// Now, Unix milliseconds.
    pub now_ms: u64,
}

/// A data directory held by this process until dropped.
#[derive(Debug)]
pub struct DataDirectory {
    path: PathBuf,
    // Locked as long as it is open.
    _lock: File,
}

impl DataDirectory {
    /// Makes the directory if it is missing, and locks it.
    ///
    /// # Errors
    /// It cannot be made or written, or another process has it.
    pub fn open(path: &Path) -> Result<Self, IdentityError> {
        let failed = |operation| move |why| IdentityError::Io { directory: path.to_owned(), operation, why };
        fs::create_dir_all(path).map_err(failed("make it"))?;
        let lock = File::options().create(true).truncate(false).write(true).open(path.join(LOCK));
        let lock = lock.map_err(failed("write in it"))?;
        match lock.try_lock() {
            Ok(()) => Ok(DataDirectory { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(IdentityError::Locked(path.to_owned())),
            Err(TryLockError::Error(why)) => Err(failed("lock it")(why)),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How far it has come.
    ///
    /// # Errors
    /// Its identity is damaged or cannot be read.
    pub fn standing(&self) -> Result<Standing, IdentityError> {
        Ok(match self.read()? {
            None => Standing::Empty,
            Some(Written { member: None, .. }) => Standing::Asking,
            // Formats without a directory are of a time when nobody could join.
            Some(Written { member: Some((cluster, node)), directory, members, .. }) => {
                Standing::Member { cluster, node, founders: members.len().max(directory.is_none().into()) }
            }
        })
    }

    /// The number by which this directory asks to be let in, durable before it is used.
    ///
    /// # Errors
    /// Its identity is damaged, or cannot be read or written.
    pub fn directory_number(&self, if_new: u128, now_ms: u64) -> Result<u128, IdentityError> {
        let mut written = self.read()?.unwrap_or(Written {
            directory: None,
            member: None,
            start: StartCount(0),
            created_ms: now_ms,
            members: BTreeSet::new(),
        });
        if let Some(directory) = written.directory {
            return Ok(directory);
        }
        written.directory = Some(if_new);
        self.write(&written)?;
        Ok(if_new)
    }

    /// Begins a life: checks the claim against what the directory says, counts the start, and makes that durable.
    ///
    /// # Errors
    /// The directory belongs to somebody else, is damaged, or cannot be written.
    pub fn begin_life(&self, claim: &Claim) -> Result<Identity, IdentityError> {
        let found = self.read()?;
        let (cluster, node, members) = match &claim.role {
            Role::Founder { cluster_if_new, node, members } if members.is_empty() => {
                (claim.cluster.unwrap_or(*cluster_if_new), *node, BTreeSet::from([*node]))
            }
            Role::Founder { cluster_if_new, node, members } => {
                (claim.cluster.unwrap_or(*cluster_if_new), *node, members.clone())
            }
            Role::Joined { cluster, node } => (*cluster, *node, BTreeSet::new()),
        };
        let mut identity = Identity {
            directory: found.as_ref().and_then(|found| found.directory).unwrap_or(claim.directory_if_new),
            cluster,
            node,
            start: StartCount(found.as_ref().map_or(0, |found| found.start.0)),
            created_ms: found.as_ref().map_or(claim.now_ms, |found| found.created_ms),
            members,
        };
        if let Some(Written { member: Some((cluster, node)), members, .. }) = found {
            (identity.cluster, identity.node) = (cluster, node);
            if !members.is_empty() {
                identity.members = members;
            }
        } else if found.is_some() && matches!(claim.role, Role::Founder { .. }) {
            return Err(IdentityError::NotYetIn(self.path.clone()));
        }
        self.check(&identity, claim)?;
        identity.start = StartCount(identity.start.0 + 1);
        self.write(&Written {
            directory: Some(identity.directory),
            member: Some((identity.cluster, identity.node)),
            start: identity.start,
            created_ms: identity.created_ms,
            members: identity.members.clone(),
        })?;
        Ok(identity)
    }

    fn check(&self, identity: &Identity, claim: &Claim) -> Result<(), IdentityError> {
        let directory = self.path.clone();
        let wanted = match &claim.role {
            Role::Joined { cluster, .. } => Some(*cluster),
            Role::Founder { .. } => claim.cluster,
        };
        let others = claim.cluster.into_iter().chain(wanted);
        if let Some(wanted) = others.into_iter().find(|wanted| *wanted != identity.cluster) {
            return Err(IdentityError::OtherCluster { directory, found: identity.cluster, wanted });
        }
        let given = match &claim.role {
            Role::Joined { node, .. } => Some(*node),
            Role::Founder { .. } => None,
        };
        if let Some(wanted) = claim.node.or(given).filter(|wanted| *wanted != identity.node) {
            return Err(IdentityError::OtherNode { directory, found: identity.node, wanted });
        }
        if let Role::Founder { members, .. } = &claim.role
            && !members.is_empty()
            && *members != identity.members
        {
            let (found, wanted) = (identity.members.clone(), members.clone());
            return Err(IdentityError::OtherMembers { directory, found, wanted });
        }
        Ok(())
    }

    fn failed(&self, operation: &'static str) -> impl Fn(io::Error) -> IdentityError {
        let directory = self.path.clone();
        move |why| IdentityError::Io { directory: directory.clone(), operation, why }
    }

    fn read(&self) -> Result<Option<Written>, IdentityError> {
        let file = self.path.join(FILE);
        match fs::read(&file) {
            Ok(bytes) => decode(&bytes).map(Some).map_err(|why| IdentityError::Damaged { file, why }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(self.failed("read its identity")(why)),
        }
    }

    fn write(&self, written: &Written) -> Result<(), IdentityError> {
        durable::replace(&self.path, FILE, encode(written).as_bytes()).map_err(self.failed("write its identity"))
    }
}

fn encode(written: &Written) -> String {
    let mut text = format!("{HEADER}\n");
    if let Some(directory) = written.directory {
        text.push_str(&format!("directory {directory:032x}\n"));
    }
    if let Some((cluster, node)) = written.member {
        text.push_str(&format!("cluster {cluster}\nnode {node}\n"));
    }
    text.push_str(&format!("start {}\ncreated {}\n", written.start, written.created_ms));
    for member in &written.members {
        text.push_str(&format!("member {member}\n"));
    }
    let crc = crc32fast::hash(text.as_bytes());
    text.push_str(&format!("crc {crc:08x}\n"));
    text
}

fn decode(bytes: &[u8]) -> Result<Written, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text")?;
    let first = text.lines().next().unwrap_or_default();
    if ![HEADER, HEADER_WITHOUT_DIRECTORY, HEADER_WITHOUT_MEMBERS].contains(&first) {
        return Err(format!("it begins with {first:?}, this build knows {HEADER:?}"));
    }
    let body = text.rfind("crc ").map(|at| text.split_at(at)).ok_or("its checksum is missing")?;
    if body.1 != format!("crc {:08x}\n", crc32fast::hash(body.0.as_bytes())) {
        return Err("its checksum does not fit".into());
    }
    let mut fields: BTreeMap<&str, &str> = BTreeMap::new();
    let mut members = BTreeSet::new();
    for line in body.0.lines().skip(1) {
        let (name, value) = line.split_once(' ').ok_or_else(|| format!("line {line:?}"))?;
        match name {
            "member" => drop(members.insert(NodeId(value.parse().map_err(|_| format!("line {line:?}"))?))),
            // The map knows the keyspaces now.
            "keyspace" if first != HEADER => {}
            "directory" | "cluster" | "node" | "start" | "created" if fields.insert(name, value).is_none() => {}
            _ => return Err(format!("line {line:?}")),
        }
    }
    let number = |name: &'static str| {
        let text = fields.get(name).ok_or(format!("{name} is missing"))?;
        text.parse::<u64>().map_err(|_| format!("{name} is {text:?}"))
    };
    let member = match (fields.get("cluster"), fields.get("node")) {
        (None, None) if first == HEADER => None,
        (Some(cluster), Some(_)) => Some((ClusterId::parse(cluster).ok_or("its cluster id")?, NodeId(number("node")?))),
        _ => return Err("it names a cluster without a node, or a node without a cluster".into()),
    };
    let directory = match fields.get("directory") {
        Some(text) => Some(u128::from_str_radix(text, 16).map_err(|_| "its directory")?),
        None => None,
    };
    if directory.is_some() != (first == HEADER) {
        return Err(format!("its directory does not fit its format {first:?}"));
    }
    Ok(Written { directory, member, start: StartCount(number("start")?), created_ms: number("created")?, members })
}

#[cfg(test)]
#[path = "identity_tests.rs"]
mod tests;
