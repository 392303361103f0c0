//! Every refusal says what works; ids only grow; shards cover every key; plans are made once.

use super::{
    super::{map::Behaviour, nodes::too_old_for},
    *,
};
use bytes::Bytes;
use kvorum_api::{ReadLevel, Sharding};
use proptest::prelude::*;
use std::time::Duration;

const NOW_MS: u64 = 1_700_000_000_000;

fn node(id: u64) -> NodeRow {
    let (client, peer) = (format!("10.0.0.{id}:7101"), format!("10.0.0.{id}:7201"));
    NodeRow::of_this_build(NodeId(id), client, peer, String::new(), 0)
}

fn founded(nodes: u64) -> ClusterMap {
    let founding = Founding { nodes: (1..=nodes).map(node).collect(), keyspaces: Vec::new() };
    let mut map = ClusterMap::default();
    carry_out(&mut map, found(&founding, NOW_MS).unwrap());
    map
}

fn carry_out(map: &mut ClusterMap, plan: Plan) {
    map.revision += plan.edits.len() as u64;
    plan.edits.into_iter().for_each(|edit| map.apply(edit));
}

fn ask(map: &ClusterMap, command: &MetadataCommand) -> Result<Plan, AdminError> {
    plan(map, command, NOW_MS, &BTreeSet::new())
}

fn create(name: &str, wish: KeyspaceWish) -> MetadataCommand {
    MetadataCommand::CreateKeyspace { name: name.to_owned(), wish }
}

fn done(map: &mut ClusterMap, command: &MetadataCommand) -> Plan {
    let plan = ask(map, command).unwrap();
    carry_out(map, plan.clone());
    plan
}

fn hash(shards: u32) -> KeyspaceWish {
    KeyspaceWish { sharding: Some(Sharding::Hash), shards: Some(shards), ..KeyspaceWish::default() }
}

fn split(points: &[&str]) -> KeyspaceWish {
    let split_at = points.iter().map(|point| Bytes::copy_from_slice(point.as_bytes())).collect();
    KeyspaceWish { split_at, ..KeyspaceWish::default() }
}

fn replicas(replicas: u32) -> KeyspaceWish {
    KeyspaceWish { replicas: Some(replicas), ..KeyspaceWish::default() }
}

/// The refusal of a creation on three nodes.
fn refusal(name: &str, wish: KeyspaceWish) -> String {
    let error = ask(&founded(3), &create(name, wish)).unwrap_err();
    assert!(matches!(error, AdminError::Invalid { .. }), "{error:?}");
    error.to_string()
}

#[test]
fn a_keyspace_by_default_is_one_range_on_three_nodes_or_one() {
    for (nodes, expected) in [(1, 1), (2, 1), (3, 3), (5, 3)] {
        let mut map = founded(nodes);
        let plan = done(&mut map, &create("orders", KeyspaceWish::default()));
        let row = map.keyspace("orders").unwrap();
        assert_eq!((Some(row.id), row.replicas, row.sharding), (plan.keyspace, expected, Sharding::Range));
        assert_eq!((row.read_level, row.created_ms, row.images), (ReadLevel::Linearizable, NOW_MS, Images::Keys));
        let shards = map.shards_of(row.id);
        assert_eq!((shards.len(), shards[0].founders.len()), (1, expected as usize));
        assert_eq!((shards[0].stage, shards[0].epoch), (ShardStage::Creating, 1));
        assert_eq!(shards[0].founders[0].1, shards[0].leader_wish, "who should lead founds the group");
    }
}

#[test]
fn names_outside_the_alphabet_are_refused_with_one_that_works() {
    assert!(refusal("Orders 2024", KeyspaceWish::default()).contains("for instance \"orders-2024\""));
    assert!(refusal("", KeyspaceWish::default()).contains("1 to 64"));
    assert!(refusal("ключ", KeyspaceWish::default()).starts_with("name: "));
    assert!(refusal(&"x".repeat(65), KeyspaceWish::default()).ends_with(&format!("{:?}", "x".repeat(64))));
    assert!(ask(&founded(3), &create(&"x".repeat(64), KeyspaceWish::default())).is_ok());
}

#[test]
fn replicas_that_cannot_be_are_refused_with_those_that_can() {
    assert_eq!(
        refusal("k", replicas(5)),
        "replicas: 5 replicas need as many nodes, the cluster has 3 nodes: ask for 1 or 3"
    );
    assert!(refusal("k", replicas(2)).ends_with("ask for 1 or 3"));
    assert!(refusal("k", replicas(0)).contains("0 replicas hold nothing: ask for 1 or 3"));
    let error = ask(&founded(1), &create("k", replicas(3))).unwrap_err();
    assert!(error.to_string().contains("the cluster has 1 node: ask for 1"), "{error}");
    let error = ask(&founded(6), &create("k", replicas(6))).unwrap_err();
    assert!(error.to_string().ends_with("ask for 1, 3 or 5"), "{error}");
    assert!(ask(&founded(5), &create("k", replicas(5))).is_ok());
}

#[test]
fn ap_and_its_levels_are_refused() {
    assert_eq!(
        refusal("k", KeyspaceWish { mode: Some(Mode::Ap), ..KeyspaceWish::default() }),
        "mode: this build offers cp, not ap: ask for cp"
    );
    for level in [ReadLevel::One, ReadLevel::Quorum, ReadLevel::All] {
        let said = refusal("k", KeyspaceWish { read_level: Some(level), ..KeyspaceWish::default() });
        assert!(said.ends_with("use linearizable, session, bounded or local"), "{said}");
    }
    let bounded =
        |ms| KeyspaceWish { read_level: Some(ReadLevel::Bounded(Duration::from_millis(ms))), ..Default::default() };
    assert!(refusal("k", bounded(0)).contains("linearizable"));
    assert!(ask(&founded(3), &create("k", bounded(200))).is_ok());
}

#[test]
fn shards_beyond_their_limits_are_refused() {
    assert!(refusal("k", hash(0)).ends_with("ask for hash:1"));
    assert!(refusal("k", hash(4_097)).ends_with("ask for hash:4096"));
    assert!(refusal("k", KeyspaceWish { shards: None, ..hash(1) }).contains("hash:8"));
    assert!(refusal("k", KeyspaceWish { split_at: vec!["a".into()], ..hash(2) }).starts_with("split_at: "));
    let mut map = founded(3);
    for name in ["a", "b", "c", "d"] {
        done(&mut map, &create(name, hash(4_096)));
    }
    let error = ask(&map, &create("e", hash(4_096))).unwrap_err();
    assert!(error.to_string().ends_with("the limit is 20000: ask for at most 3616"), "{error}");
    done(&mut map, &create("e", hash(3_616)));
    assert!(ask(&map, &create("f", KeyspaceWish::default())).is_err());
}

#[test]
fn split_points_that_make_no_ranges_are_refused() {
    assert!(refusal("k", split(&["m", "c"])).contains("point 2, \"c\", is below the one before it, \"m\": sort them"));
    assert!(refusal("k", split(&["c", "c"])).contains("is there twice"));
    assert!(refusal("k", split(&["c", ""])).contains("point 2 is empty"));
    assert!(refusal("k", split(&[&"x".repeat(4_097)])).contains("4097 bytes, the limit of a key is 4096"));
    let many = KeyspaceWish {
        split_at: (0..4_096_u32).map(|point| Bytes::copy_from_slice(&point.to_be_bytes())).collect(),
        ..KeyspaceWish::default()
    };
    assert!(refusal("k", many).contains("the limit is 4095"));
    let long = KeyspaceWish {
        split_at: (0..300_u32).map(|point| Bytes::from(format!("{point:04096}"))).collect(),
        ..KeyspaceWish::default()
    };
    assert!(refusal("k", long).contains("the limit is 1048576"));
}

#[test]
fn a_number_of_shards_that_does_not_fit_the_split_points_is_refused() {
    let said = refusal("k", KeyspaceWish { shards: Some(8), ..KeyspaceWish::default() });
    assert!(said.contains("give 7 split points, or shard by hash:8"), "{said}");
    let said = refusal("k", KeyspaceWish { shards: Some(4), ..split(&["c", "m"]) });
    assert!(said.contains("2 split points make 3 shards, not 4"), "{said}");
    assert!(ask(&founded(3), &create("k", KeyspaceWish { shards: Some(3), ..split(&["c", "m"]) })).is_ok());
}

#[test]
fn values_beyond_the_ceiling_are_refused_with_the_ceiling() {
    let bytes = |bytes| KeyspaceWish { value_bytes_max: Some(bytes), ..KeyspaceWish::default() };
    assert!(refusal("k", bytes(0)).ends_with("ask for 1"));
    assert!(refusal("k", bytes((16 << 20) + 1)).ends_with("ask for 16777216"));
    let mut map = founded(3);
    done(&mut map, &create("k", bytes(16 << 20)));
    assert_eq!(map.keyspace("k").unwrap().limits.value_bytes_max, 16 << 20);
}

#[test]
fn an_existing_name_is_refused_and_an_unknown_one_named() {
    let mut map = founded(3);
    let nobody = MetadataCommand::DropKeyspace { name: "orders".to_owned() };
    assert_eq!(
        ask(&map, &nobody).unwrap_err().to_string(),
        "there is no keyspace \"orders\": this cluster has no keyspace yet"
    );
    done(&mut map, &create("carts", KeyspaceWish::default()));
    let error = ask(&map, &create("carts", KeyspaceWish::default())).unwrap_err();
    assert_eq!(error.to_string(), "keyspace \"carts\" already exists");
    let error = ask(&map, &MetadataCommand::AlterKeyspace { name: "cart".to_owned(), wish: hash(1) }).unwrap_err();
    assert_eq!(error.to_string(), "there is no keyspace \"cart\": this cluster has carts");
    assert_eq!(error.effect(), kvorum_api::Effect::None);
}

#[test]
fn what_cannot_be_altered_is_said() {
    let mut map = founded(3);
    done(&mut map, &create("k", hash(4)));
    let alter = |wish| MetadataCommand::AlterKeyspace { name: "k".to_owned(), wish };
    for (field, wish) in [
        ("shard_by", KeyspaceWish { sharding: Some(Sharding::Range), ..KeyspaceWish::default() }),
        ("shards", hash(5)),
        ("split_at", split(&["a"])),
        ("replicas", replicas(1)),
    ] {
        let said = ask(&map, &alter(wish)).unwrap_err().to_string();
        assert!(said.starts_with(field) && said.contains("cannot be altered: create another keyspace"), "{said}");
    }
    assert!(ask(&map, &alter(KeyspaceWish::default())).unwrap_err().to_string().contains("nothing is asked for"));
    assert_eq!(ask(&map, &alter(hash(4))).unwrap().edits, [], "what is so already needs no change");
    let before = map.keyspace("k").unwrap().clone();
    let wish = KeyspaceWish {
        read_level: Some(ReadLevel::Session),
        value_bytes_max: Some(99),
        images: Some(Images::NewAndOld),
        has_leases: Some(true),
        ..KeyspaceWish::default()
    };
    done(&mut map, &alter(wish));
    let after = map.keyspace("k").unwrap();
    assert_eq!((after.id, &after.name, after.created_ms), (before.id, &before.name, before.created_ms));
    assert_eq!((after.read_level, after.limits.value_bytes_max), (ReadLevel::Session, 99));
    assert_eq!((after.images, after.has_leases), (Images::NewAndOld, true));
}

#[test]
fn a_dropped_number_never_comes_back() {
    let mut map = founded(3);
    let mut seen = BTreeSet::new();
    for _ in 0..5 {
        done(&mut map, &create("k", hash(3)));
        let row = map.keyspace("k").unwrap();
        assert!(seen.insert(u64::from(row.id.0) << 32), "keyspace {}", row.id);
        for shard in map.shards_of(row.id) {
            assert!(seen.insert(shard.shard.0), "shard {}", shard.shard);
            shard.founders.iter().for_each(|(replica, _)| assert!(seen.insert(1 << 63 | replica.0)));
        }
        done(&mut map, &MetadataCommand::DropKeyspace { name: "k".to_owned() });
        assert!(map.keyspaces.is_empty() && map.shards.is_empty());
    }
}

#[test]
fn a_directory_that_asks_twice_gets_one_id() {
    let mut map = founded(3);
    let join = |directory, port| MetadataCommand::Join {
        directory,
        client: format!("h:{port}"),
        peer: format!("h:{}", 100 + directory),
        zone: "z".to_owned(),
    };
    let first = done(&mut map, &join(7, 1));
    assert_eq!(first.node, Some(NodeId(4)), "above those of the founders");
    let again = ask(&map, &join(7, 1)).unwrap();
    assert_eq!((again.node, again.edits.len()), (first.node, 0));
    let moved = done(&mut map, &join(7, 3));
    assert_eq!((moved.node, map.nodes[&NodeId(4)].client.as_str()), (first.node, "h:3"));
    assert_eq!(done(&mut map, &join(8, 1)).node, Some(NodeId(5)));
    assert!(ask(&map, &join(0, 1)).unwrap_err().to_string().starts_with("directory: "));
    let nowhere = MetadataCommand::Join { directory: 9, client: "h".into(), peer: "h:2".into(), zone: "".into() };
    assert!(ask(&map, &nowhere).unwrap_err().to_string().contains("write HOST:PORT"));
}

/// A member's address is refused as long as the member is not missed: then whoever comes takes its place.
#[test]
fn a_join_at_the_address_of_a_member_is_refused() {
    let mut map = founded(3);
    let join = |client: &str, peer: &str| MetadataCommand::Join {
        directory: 7,
        client: client.to_owned(),
        peer: peer.to_owned(),
        zone: String::new(),
    };
    let (client, peer) = (node(2).client, node(2).peer);
    for (field, command) in [("peer", join("h:1", &peer)), ("client", join(&client, "h:2"))] {
        let refused = ask(&map, &command).unwrap_err().to_string();
        assert!(
            refused.starts_with(field) && refused.contains("is the address of node 2, which is a member"),
            "{refused}"
        );
    }
    let command = join(&client, &peer);
    let planned = plan(&map, &command, 0, &BTreeSet::from([NodeId(2)])).unwrap();
    planned.edits.into_iter().for_each(|edit| map.apply(edit));
    assert_eq!(map.nodes[&NodeId(4)].peer, peer);
    assert_eq!(ask(&map, &command).unwrap().edits, [], "it is one itself now");
}

#[test]
fn a_node_announces_where_it_is() {
    let mut map = founded(3);
    let announce = |node, client: &str| MetadataCommand::Announce {
        node: NodeId(node),
        client: client.to_owned(),
        peer: node_peer(node),
        zone: String::new(),
        behaviour: Behaviour(1),
        build: node_build(),
    };
    assert_eq!(ask(&map, &announce(2, &node(2).client)).unwrap().edits, []);
    done(&mut map, &announce(2, "elsewhere:1"));
    assert_eq!(map.nodes[&NodeId(2)].client, "elsewhere:1");
    assert!(matches!(ask(&map, &announce(9, "h:1")), Err(AdminError::NotFound { .. })));
}

fn node_build() -> String {
    node(1).build
}

fn node_peer(id: u64) -> String {
    node(id).peer
}

#[test]
fn shards_become_ready_once() {
    let mut map = founded(3);
    done(&mut map, &create("k", hash(2)));
    let ready = MetadataCommand::ShardsReady { shards: vec![ShardId(1), ShardId(2), ShardId(1), ShardId(99)] };
    assert_eq!(done(&mut map, &ready).edits.len(), 3, "two shards and the counters");
    assert!(map.shards.values().all(|row| row.stage == ShardStage::Ready));
    assert_eq!(ask(&map, &ready).unwrap().edits, []);
}

#[test]
fn the_metadata_is_on_an_odd_number_of_the_first_founders() {
    for (nodes, expected) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (9, 5)] {
        let founding = Founding { nodes: (11..=10 + nodes).rev().map(node).collect(), keyspaces: Vec::new() };
        let replicas: Vec<_> = (1..=expected).map(|place| (ReplicaId(place), NodeId(10 + place))).collect();
        assert_eq!(founding.metadata(), replicas);
    }
}

#[test]
fn the_first_keyspaces_are_planned_like_any_other() {
    let keyspaces = vec![("orders".to_owned(), hash(8)), ("flights".to_owned(), KeyspaceWish::default())];
    let founding = Founding { nodes: (1..=3).map(node).collect(), keyspaces };
    founding.check().unwrap();
    let mut map = ClusterMap::default();
    carry_out(&mut map, found(&founding, NOW_MS).unwrap());
    assert_eq!((map.keyspaces.len(), map.shards.len(), map.counters.serial), (2, 9, 1));
    assert!(map.shards.values().flat_map(|row| &row.founders).all(|(replica, _)| replica.0 > 5));
    let twice = Founding { keyspaces: vec![founding.keyspaces[0].clone(); 2], ..founding.clone() };
    assert_eq!(twice.check().unwrap_err().to_string(), "keyspace \"orders\" already exists");
    let doubled = Founding { nodes: vec![node(1), node(1)], keyspaces: Vec::new() };
    assert!(doubled.check().unwrap_err().to_string().contains("node 1 is listed twice"));
    assert!(Founding::default().check().is_err());
}

proptest! {
    #[test]
    fn shards_of_a_keyspace_cover_every_key_once(
        points in proptest::collection::btree_set("[a-e]{1,3}", 0..6),
        key in "[a-f]{1,4}",
        shards in proptest::option::of(1..40_u32),
    ) {
        let points: Vec<&str> = points.iter().map(String::as_str).collect();
        let wish = shards.map_or_else(|| split(&points), hash);
        let mut map = founded(3);
        let id = done(&mut map, &create("k", wish)).keyspace.unwrap();
        let sharding = map.keyspaces[&id].sharding;
        let placement = sharding.placement_key(&Bytes::from(key));
        let holding = map.shards.values().filter(|row| row.range.contains(&placement)).count();
        prop_assert_eq!(holding, 1);
        prop_assert_eq!(map.shards.len(), shards.map_or(points.len() + 1, |shards| shards as usize));
    }

    #[test]
    fn every_plan_that_changes_anything_makes_the_serial_grow(names in proptest::collection::vec("[ab]", 1..20)) {
        let mut map = founded(3);
        for (at, name) in names.iter().enumerate() {
            let command = match at % 3 {
                0 | 1 => create(name, hash(2)),
                _ => MetadataCommand::DropKeyspace { name: name.clone() },
            };
            let before = map.clone();
            if let Ok(plan) = ask(&map, &command) {
                prop_assert!(matches!(plan.edits.last(), Some(RowEdit::Put(Row::Counters(_)))));
                carry_out(&mut map, plan);
                prop_assert_eq!(map.counters.serial, before.counters.serial + 1);
            }
        }
    }
}

/// Three nodes of which the second can apply more, and the third less, than this build.
fn mixed(seconds: u32, thirds: u32) -> ClusterMap {
    let mut map = founded(3);
    map.nodes.get_mut(&NodeId(1)).unwrap().behaviour = Behaviour(9);
    map.nodes.get_mut(&NodeId(2)).unwrap().behaviour = Behaviour(seconds);
    map.nodes.get_mut(&NodeId(3)).unwrap().behaviour = Behaviour(thirds);
    map
}

const FINALIZE: MetadataCommand = MetadataCommand::RaiseBehaviour { behaviour: None };

/// Rule C4: what the cluster applies is raised to what every node can, and is never taken back.
#[test]
fn the_behaviour_is_raised_to_the_lowest_newest_of_all_nodes() {
    let mut map = mixed(5, 3);
    done(&mut map, &FINALIZE);
    assert_eq!(map.behaviour, Behaviour(3));
    assert_eq!(ask(&map, &FINALIZE).unwrap().edits, [], "it is so already");
    map.nodes.get_mut(&NodeId(3)).unwrap().behaviour = Behaviour(7);
    let wanted = |behaviour| MetadataCommand::RaiseBehaviour { behaviour: Some(Behaviour(behaviour)) };
    let refused = ask(&map, &wanted(6)).unwrap_err().to_string();
    assert!(refused.contains("node 2") && refused.contains("up to 5") && !refused.contains("node 3"), "{refused}");
    done(&mut map, &wanted(4));
    assert_eq!(map.behaviour, Behaviour(4));
    assert!(ask(&map, &wanted(3)).unwrap_err().to_string().contains("not taken back"));
    done(&mut map, &FINALIZE);
    assert_eq!(map.behaviour, Behaviour(5));
}

/// Rule C4: who does not answer, or has not said what it can, holds an upgrade up, by its name; whoever was forgotten
/// does not.
#[test]
fn nobody_is_left_behind_by_an_upgrade() {
    let mut map = mixed(5, 3);
    let lost = BTreeSet::from([NodeId(3)]);
    let refused = plan(&map, &FINALIZE, NOW_MS, &lost).unwrap_err().to_string();
    assert!(refused.contains("node 3 does not answer") && refused.contains("kvctl node forget 3"), "{refused}");
    map.nodes.get_mut(&NodeId(2)).unwrap().build.clear();
    let refused = ask(&map, &FINALIZE).unwrap_err().to_string();
    assert!(refused.contains("node 2 has not said"), "{refused}");
    map.nodes.remove(&NodeId(2));
    map.nodes.remove(&NodeId(3));
    let planned = plan(&map, &FINALIZE, NOW_MS, &lost).unwrap();
    carry_out(&mut map, planned);
    assert_eq!(map.behaviour, Behaviour(9));
}

/// Rule C4: a build that cannot apply what the cluster does is told so, when it starts and when it says what it can.
#[test]
fn an_older_build_is_refused_by_a_cluster_that_was_raised() {
    let mut map = mixed(5, 3);
    done(&mut map, &FINALIZE);
    assert_eq!(too_old_for(&map, Behaviour(3)), None);
    let why = too_old_for(&map, Behaviour(2)).unwrap();
    assert!(why.contains("up to 2") && why.contains("raised to 3") && why.contains("newer build"), "{why}");
    let NodeRow { node, client, peer, zone, build, .. } = node(2);
    let announce = MetadataCommand::Announce { node, client, peer, zone, behaviour: Behaviour(2), build };
    assert!(ask(&map, &announce).unwrap_err().to_string().contains("newer build"));
}

/// Rule C4, invariant 3: the settings that are wished for take the behaviour from the map, and so does a new shard's.
#[test]
fn settings_take_their_behaviour_from_the_map_not_from_the_build() {
    let mut map = mixed(5, 3);
    done(&mut map, &create("k", hash(1)));
    let settings = |map: &ClusterMap| {
        let (keyspace, shard) = (map.keyspaces.values().next().unwrap(), map.shards.values().next().unwrap());
        crate::groups::settings_of(keyspace, shard, map.behaviour)
    };
    assert_eq!(settings(&map).behaviour, 1);
    done(&mut map, &FINALIZE);
    assert_eq!(settings(&map).behaviour, 3);
}
