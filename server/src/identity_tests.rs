//! Who a data directory is, and who it cannot be.

use super::*;
use kvorum_storage::spoil::spoiled;

const CLUSTER: ClusterId = ClusterId(*b"0123456789abcdef");
const DIRECTORY: u128 = 0x0011_2233_4455_6677_8899_aabb_ccdd_eeff;

/// Format 3, byte for byte.
const FIXTURE: &str = "kvorum identity 3\ndirectory 00112233445566778899aabbccddeeff\n\
                       cluster 30313233343536373839616263646566\nnode 2\nstart 7\ncreated 1700000000000\n\
                       member 1\nmember 2\nmember 3\ncrc 6ac6cbb1\n";

/// Format 3 of a node that nobody let in yet.
const FIXTURE_ASKING: &str = "kvorum identity 3\ndirectory 00112233445566778899aabbccddeeff\nstart 0\n\
                       created 1700000000000\ncrc c754d558\n";

/// Format 2, byte for byte: what a directory of an earlier build holds.
const FIXTURE_2: &str = "kvorum identity 2\ncluster 30313233343536373839616263646566\nnode 2\nstart 7\n\
                       created 1700000000000\nmember 1\nmember 2\nmember 3\nkeyspace 1 default\ncrc 1da02f5a\n";

/// Format 1, which had no members either.
const FIXTURE_1: &str = "kvorum identity 1\ncluster 30313233343536373839616263646566\nnode 2\nstart 7\n\
                       created 1700000000000\nkeyspace 1 default\ncrc 1608646b\n";

fn members() -> BTreeSet<NodeId> {
    BTreeSet::from([NodeId(1), NodeId(2), NodeId(3)])
}

fn claim() -> Claim {
    Claim {
        cluster: Some(CLUSTER),
        node: Some(NodeId(2)),
        role: Role::Founder { cluster_if_new: ClusterId([9; 16]), node: NodeId(2), members: members() },
        directory_if_new: DIRECTORY,
        now_ms: 1_700_000_000_000,
    }
}

fn joined(node: u64) -> Claim {
    Claim { cluster: None, node: None, role: Role::Joined { cluster: CLUSTER, node: NodeId(node) }, ..claim() }
}

fn written() -> Written {
    Written {
        directory: Some(DIRECTORY),
        member: Some((CLUSTER, NodeId(2))),
        start: StartCount(7),
        created_ms: 1_700_000_000_000,
        members: members(),
    }
}

fn taken_over(fixture: &str) -> Identity {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join(FILE), fixture).unwrap();
    DataDirectory::open(root.path()).unwrap().begin_life(&claim()).unwrap()
}

#[test]
fn format_3_is_what_it_was() {
    assert_eq!(encode(&written()), FIXTURE);
    assert_eq!(decode(FIXTURE.as_bytes()), Ok(written()));
    let asking = Written { member: None, start: StartCount(0), members: BTreeSet::new(), ..written() };
    assert_eq!(encode(&asking), FIXTURE_ASKING);
    assert_eq!(decode(FIXTURE_ASKING.as_bytes()), Ok(asking));
}

#[test]
fn formats_1_and_2_are_read_and_taken_over() {
    assert_eq!(decode(FIXTURE_2.as_bytes()), Ok(Written { directory: None, ..written() }));
    let without = Written { directory: None, members: BTreeSet::new(), ..written() };
    assert_eq!(decode(FIXTURE_1.as_bytes()), Ok(without));
    for fixture in [FIXTURE_1, FIXTURE_2] {
        let identity = taken_over(fixture);
        assert_eq!((identity.directory, identity.start, identity.members), (DIRECTORY, StartCount(8), members()));
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    for fixture in [FIXTURE, FIXTURE_ASKING] {
        for index in 0..fixture.len() {
            for bit in 0..8 {
                let mut bytes = fixture.as_bytes().to_vec();
                bytes[index] ^= 1 << bit;
                assert!(decode(&bytes).is_err(), "bit {bit} of byte {index}");
            }
        }
    }
}

/// Also under a checksum that fits.
#[test]
fn fuzz_any_bytes_are_refused_or_read_as_what_they_say() {
    bolero::check!().with_iterations(2_000).with_max_len(300).for_each(|input: &[u8]| {
        assert!(decode(input).is_err(), "a checksum does not fit by chance");
        for fixture in [FIXTURE, FIXTURE_ASKING, FIXTURE_2, FIXTURE_1] {
            let (body, _) = fixture.split_at(fixture.len() - "crc 12345678\n".len());
            let mut bytes = spoiled(body.as_bytes(), input);
            bytes.extend_from_slice(format!("crc {:08x}\n", crc32fast::hash(&bytes)).as_bytes());
            if let Ok(written) = decode(&bytes)
                && written.directory.is_some()
            {
                assert_eq!(decode(encode(&written).as_bytes()), Ok(written));
            }
        }
    });
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
    let alone = |fresh| Claim {
        cluster: None,
        role: Role::Founder { cluster_if_new: ClusterId([fresh; 16]), node: NodeId(2), members: BTreeSet::new() },
        ..claim()
    };
    let identity = directory.begin_life(&alone(9)).unwrap();
    assert_eq!((identity.cluster, identity.members), (ClusterId([9; 16]), BTreeSet::from([NodeId(2)])));
    assert_eq!(directory.begin_life(&alone(1)).unwrap().cluster, ClusterId([9; 16]));
}

#[test]
fn a_directory_of_somebody_else_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let directory = DataDirectory::open(root.path()).unwrap();
    directory.begin_life(&claim()).unwrap();
    let cluster = Claim { cluster: Some(ClusterId([7; 16])), ..claim() };
    assert!(matches!(directory.begin_life(&cluster), Err(IdentityError::OtherCluster { .. })));
    let node = Claim { node: Some(NodeId(3)), ..claim() };
    assert!(matches!(directory.begin_life(&node), Err(IdentityError::OtherNode { .. })));
    let others = BTreeSet::from([NodeId(1), NodeId(2), NodeId(4)]);
    let role = Role::Founder { cluster_if_new: CLUSTER, node: NodeId(2), members: others };
    let why = directory.begin_life(&Claim { role, ..claim() }).unwrap_err().to_string();
    assert!(why.contains("founded with the nodes 1, 2, 3, and the configuration lists 1, 2, 4"), "{why}");
    assert_eq!(directory.begin_life(&claim()).unwrap().start, StartCount(2), "refusals count no start");
}

/// The directory's number is durable before anybody is asked, so that asking twice gives one node id.
#[test]
fn a_directory_that_joins_keeps_its_number_until_it_is_let_in() {
    let root = tempfile::tempdir().unwrap();
    let directory = DataDirectory::open(root.path()).unwrap();
    assert_eq!(directory.standing().unwrap(), Standing::Empty);
    assert_eq!(directory.directory_number(5, 1).unwrap(), 5);
    drop(directory);
    let directory = DataDirectory::open(root.path()).unwrap();
    assert_eq!(directory.standing().unwrap(), Standing::Asking);
    assert_eq!(directory.directory_number(6, 2).unwrap(), 5, "the number of the start that was interrupted");
    let why = directory.begin_life(&claim()).unwrap_err().to_string();
    assert!(why.contains("start it with --join"), "{why}");
    let identity = directory.begin_life(&joined(4)).unwrap();
    assert_eq!((identity.directory, identity.node, identity.start), (5, NodeId(4), StartCount(1)));
    let standing = Standing::Member { cluster: CLUSTER, node: NodeId(4), founders: 0 };
    assert_eq!(directory.standing().unwrap(), standing);
    assert!(matches!(directory.begin_life(&joined(5)), Err(IdentityError::OtherNode { .. })));
    assert_eq!(directory.begin_life(&joined(4)).unwrap().start, StartCount(2));
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
