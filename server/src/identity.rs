//! Identity: which cluster and node a data directory belongs to, and which of its lives this is.
//!
//! ```text
//!   kvorum identity 2        format; 1 had no members and is taken over with those of the configuration
//!   cluster <32 hex>         never changes
//!   node <id>                never changes
//!   start <count>            grows by one per start, synced before anything is served
//!   created <unix ms>
//!   member <id>              one line each: the nodes that founded the cluster, never changes
//!   keyspace <id> <name>     one line each: a keyspace keeps its number
//!   crc <8 hex>              CRC-32 of every byte before this line
//! ```
//!
//! **Invariant.** A start count is durable before it is used, and never used twice: the file is written beside, synced,
//! renamed over the old one, and the directory synced.
//!
//! **Deliberately absent.** Recognising copies of a directory: that needs the peers (`consensus::peers`).

use kvorum_api::{ClusterId, KeyspaceId, NodeId, StartCount};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
};
use thiserror::Error;

const FILE: &str = "identity";
const FILE_NEW: &str = "identity.new";
const LOCK: &str = "lock";
const HEADER: &str = "kvorum identity 2";
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
    #[error("{} cannot be understood ({why}): this build cannot replace a node; other nodes, if there are any, still have their replicas", .file.display())]
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
        "data directory {} was founded with the nodes {}, and the configuration lists {}: this build cannot change the \
         list of nodes, correct cluster.nodes (addresses may change, ids may not)",
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
    /// A keyspace would get another one's data.
    #[error("keyspace number {id} is {found:?} in the data directory {} and {wanted:?} in the configuration: a keyspace keeps its number, write it as keyspaces.id", .directory.display())]
    OtherKeyspace {
        /// Which.
        directory: PathBuf,
        /// The number.
        id: KeyspaceId,
        /// Whose it is.
        found: String,
        /// What the configuration says.
        wanted: String,
    },
}

fn list(nodes: &BTreeSet<NodeId>) -> String {
    let nodes: Vec<String> = nodes.iter().map(NodeId::to_string).collect();
    nodes.join(", ")
}

/// What a data directory says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// Which of its lives this is.
    pub start: StartCount,
    /// When it was first started, Unix milliseconds.
    pub created_ms: u64,
    /// The nodes that founded the cluster.
    pub members: BTreeSet<NodeId>,
    /// Names of the keyspaces it ever held.
    pub keyspaces: BTreeMap<KeyspaceId, String>,
}

/// What the configuration and chance say, for a directory that is new or to be checked.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The cluster, if the configuration names one.
    pub cluster: Option<ClusterId>,
    /// The cluster's id if there is none yet: random.
    pub cluster_if_new: ClusterId,
    /// The node.
    pub node: NodeId,
    /// All nodes of the cluster.
    pub members: BTreeSet<NodeId>,
    /// The keyspaces.
    pub keyspaces: BTreeMap<KeyspaceId, String>,
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

    /// Begins a life: checks the claim against what the directory says, counts the start, and makes that durable.
    ///
    /// # Errors
    /// The directory belongs to somebody else, is damaged, or cannot be written.
    pub fn begin_life(&self, claim: &Claim) -> Result<Identity, IdentityError> {
        let failed = |operation| move |why| IdentityError::Io { directory: self.path.clone(), operation, why };
        let file = self.path.join(FILE);
        let mut identity = match fs::read(&file) {
            Ok(bytes) => decode(&bytes).map_err(|why| IdentityError::Damaged { file: file.clone(), why })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Identity {
                cluster: claim.cluster.unwrap_or(claim.cluster_if_new),
                node: claim.node,
                start: StartCount(0),
                created_ms: claim.now_ms,
                members: claim.members.clone(),
                keyspaces: BTreeMap::new(),
            },
            Err(why) => return Err(failed("read its identity")(why)),
        };
        if identity.members.is_empty() {
            identity.members.clone_from(&claim.members);
        }
        self.check(&identity, claim)?;
        identity.start = StartCount(identity.start.0 + 1);
        identity.keyspaces.extend(claim.keyspaces.clone());
        let write = || {
            let mut new = File::create(self.path.join(FILE_NEW))?;
            new.write_all(encode(&identity).as_bytes())?;
            new.sync_all()?;
            fs::rename(self.path.join(FILE_NEW), &file)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(failed("write its identity"))?;
        Ok(identity)
    }

    fn check(&self, identity: &Identity, claim: &Claim) -> Result<(), IdentityError> {
        let directory = self.path.clone();
        if let Some(wanted) = claim.cluster.filter(|wanted| *wanted != identity.cluster) {
            return Err(IdentityError::OtherCluster { directory, found: identity.cluster, wanted });
        }
        if claim.node != identity.node {
            return Err(IdentityError::OtherNode { directory, found: identity.node, wanted: claim.node });
        }
        if claim.members != identity.members {
            let (found, wanted) = (identity.members.clone(), claim.members.clone());
            return Err(IdentityError::OtherMembers { directory, found, wanted });
        }
        for (id, wanted) in &claim.keyspaces {
            if let Some(found) = identity.keyspaces.get(id).filter(|found| *found != wanted) {
                let (found, wanted) = (found.clone(), wanted.clone());
                return Err(IdentityError::OtherKeyspace { directory, id: *id, found, wanted });
            }
        }
        Ok(())
    }
}

fn encode(identity: &Identity) -> String {
    let mut text = format!(
        "{HEADER}\ncluster {}\nnode {}\nstart {}\ncreated {}\n",
        identity.cluster, identity.node, identity.start, identity.created_ms
    );
    for member in &identity.members {
        text.push_str(&format!("member {member}\n"));
    }
    for (id, name) in &identity.keyspaces {
        text.push_str(&format!("keyspace {id} {name}\n"));
    }
    let crc = crc32fast::hash(text.as_bytes());
    text.push_str(&format!("crc {crc:08x}\n"));
    text
}

fn decode(bytes: &[u8]) -> Result<Identity, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text")?;
    let first = text.lines().next().unwrap_or_default();
    if ![HEADER, HEADER_WITHOUT_MEMBERS].contains(&first) {
        return Err(format!("it begins with {first:?}, this build knows {HEADER:?}"));
    }
    let body = text.rfind("crc ").map(|at| text.split_at(at)).ok_or("its checksum is missing")?;
    if body.1 != format!("crc {:08x}\n", crc32fast::hash(body.0.as_bytes())) {
        return Err("its checksum does not fit".into());
    }
    let mut fields: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut members, mut keyspaces) = (BTreeSet::new(), BTreeMap::new());
    for line in body.0.lines().skip(1) {
        let (name, value) = line.split_once(' ').ok_or_else(|| format!("line {line:?}"))?;
        if name == "keyspace" {
            let (id, name) = value.split_once(' ').ok_or_else(|| format!("line {line:?}"))?;
            keyspaces.insert(KeyspaceId(id.parse().map_err(|_| format!("line {line:?}"))?), name.to_owned());
        } else if name == "member" {
            members.insert(NodeId(value.parse().map_err(|_| format!("line {line:?}"))?));
        } else if !["cluster", "node", "start", "created"].contains(&name) || fields.insert(name, value).is_some() {
            return Err(format!("line {line:?}"));
        }
    }
    if members.is_empty() == (first == HEADER) {
        return Err(format!("its members do not fit its format {first:?}"));
    }
    let number = |name: &'static str| {
        let text = fields.get(name).ok_or(format!("{name} is missing"))?;
        text.parse::<u64>().map_err(|_| format!("{name} is {text:?}"))
    };
    let cluster = fields.get("cluster").and_then(|text| ClusterId::parse(text)).ok_or("its cluster id")?;
    Ok(Identity {
        cluster,
        node: NodeId(number("node")?),
        start: StartCount(number("start")?),
        created_ms: number("created")?,
        members,
        keyspaces,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CLUSTER: ClusterId = ClusterId(*b"0123456789abcdef");

    /// Format 2, byte for byte.
    const FIXTURE: &str = "kvorum identity 2\ncluster 30313233343536373839616263646566\nnode 2\nstart 7\n\
                           created 1700000000000\nmember 1\nmember 2\nmember 3\nkeyspace 1 default\ncrc 1da02f5a\n";

    /// Format 1, byte for byte: what a directory of an earlier build holds.
    const FIXTURE_WITHOUT_MEMBERS: &str = "kvorum identity 1\ncluster 30313233343536373839616263646566\nnode 2\nstart 7\n\
                           created 1700000000000\nkeyspace 1 default\ncrc 1608646b\n";

    fn claim() -> Claim {
        Claim {
            cluster: Some(CLUSTER),
            cluster_if_new: ClusterId([9; 16]),
            node: NodeId(2),
            members: BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)]),
            keyspaces: BTreeMap::from([(KeyspaceId(1), "default".to_owned())]),
            now_ms: 1_700_000_000_000,
        }
    }

    fn identity() -> Identity {
        Identity {
            cluster: CLUSTER,
            node: NodeId(2),
            start: StartCount(7),
            created_ms: 1_700_000_000_000,
            members: claim().members,
            keyspaces: claim().keyspaces,
        }
    }

    #[test]
    fn format_2_is_what_it_was() {
        assert_eq!(encode(&identity()), FIXTURE);
        assert_eq!(decode(FIXTURE.as_bytes()), Ok(identity()));
    }

    #[test]
    fn format_1_is_read_and_takes_the_members_of_the_configuration() {
        let without = Identity { members: BTreeSet::new(), ..identity() };
        assert_eq!(decode(FIXTURE_WITHOUT_MEMBERS.as_bytes()), Ok(without));
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join(FILE), FIXTURE_WITHOUT_MEMBERS).unwrap();
        let directory = DataDirectory::open(root.path()).unwrap();
        assert_eq!(directory.begin_life(&claim()).unwrap(), Identity { start: StartCount(8), ..identity() });
        let fewer = Claim { members: BTreeSet::from([NodeId(1), NodeId(2)]), ..claim() };
        assert!(matches!(directory.begin_life(&fewer), Err(IdentityError::OtherMembers { .. })));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for index in 0..FIXTURE.len() {
            for bit in 0..8 {
                let mut bytes = FIXTURE.as_bytes().to_vec();
                bytes[index] ^= 1 << bit;
                assert!(decode(&bytes).is_err(), "bit {bit} of byte {index}");
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(decode(&bytes).is_err());
        }
    }

    /// Rule D1: the start count is synced before the node serves, and grows.
    #[test]
    fn every_life_has_a_higher_start_count() {
        let root = tempfile::tempdir().unwrap();
        for start in 1..4 {
            let directory = DataDirectory::open(&root.path().join("data")).unwrap();
            assert_eq!(directory.begin_life(&claim()).unwrap().start, StartCount(start));
        }
    }

    #[test]
    fn a_cluster_id_made_at_the_first_start_is_kept() {
        let root = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(root.path()).unwrap();
        let alone = Claim { cluster: None, ..claim() };
        assert_eq!(directory.begin_life(&alone).unwrap().cluster, ClusterId([9; 16]));
        let again = Claim { cluster_if_new: ClusterId([1; 16]), ..alone };
        assert_eq!(directory.begin_life(&again).unwrap().cluster, ClusterId([9; 16]));
    }

    #[test]
    fn a_directory_of_somebody_else_is_refused() {
        let root = tempfile::tempdir().unwrap();
        let directory = DataDirectory::open(root.path()).unwrap();
        directory.begin_life(&claim()).unwrap();
        let cluster = Claim { cluster: Some(ClusterId([7; 16])), ..claim() };
        assert!(matches!(directory.begin_life(&cluster), Err(IdentityError::OtherCluster { .. })));
        let node = Claim { node: NodeId(3), ..claim() };
        assert!(matches!(directory.begin_life(&node), Err(IdentityError::OtherNode { .. })));
        let members = Claim { members: BTreeSet::from([NodeId(1), NodeId(2), NodeId(4)]), ..claim() };
        let why = directory.begin_life(&members).unwrap_err().to_string();
        assert!(why.contains("founded with the nodes 1, 2, 3, and the configuration lists 1, 2, 4"), "{why}");
        let keyspace = Claim { keyspaces: BTreeMap::from([(KeyspaceId(1), "carts".into())]), ..claim() };
        assert!(matches!(directory.begin_life(&keyspace), Err(IdentityError::OtherKeyspace { .. })));
        assert_eq!(directory.begin_life(&claim()).unwrap().start, StartCount(2), "refusals count no start");
    }

    #[test]
    fn a_second_process_is_kept_out() {
        let root = tempfile::tempdir().unwrap();
        let first = DataDirectory::open(root.path()).unwrap();
        assert!(matches!(DataDirectory::open(root.path()), Err(IdentityError::Locked(_))));
        drop(first);
        assert!(DataDirectory::open(root.path()).is_ok());
    }

    #[test]
    fn a_directory_that_cannot_be_made_says_so_in_one_sentence() {
        let root = tempfile::tempdir().unwrap();
        fs::write(root.path().join("file"), b"").unwrap();
        let error = DataDirectory::open(&root.path().join("file/data")).unwrap_err().to_string();
        assert!(error.contains("cannot make it"), "{error}");
        assert!(!error.contains('\n'));
    }
}
