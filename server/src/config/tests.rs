//! What a configuration must and must not be.

use super::*;
use kvorum_api::{KeyspaceId, ReadLevel, Sharding};
use kvorum_storage::command::Images;

const CLUSTER: &str = r#"
[cluster]
id = "000102030405060708090a0b0c0d0e0f"

[[cluster.nodes]]
id = 2
client = "127.0.0.1:7102"
peer = "127.0.0.1:7202"

[[cluster.nodes]]
id = 1
client = "127.0.0.1:7101"
peer = "127.0.0.1:7201"

[[keyspaces]]
name = "orders"
value_bytes_max = "4MiB"
read_level = "local"
changes = "new"

[[keyspaces]]
name = "carts"
"#;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(Some(text), [])
}

fn refusal(text: &str) -> String {
    parse(text).expect_err("must be refused").to_string()
}

#[test]
fn without_a_file_it_is_one_node_on_loopback_with_one_keyspace() {
    let config = Config::parse(None, []).unwrap();
    assert_eq!(config.cluster, None);
    assert!(config.founders.is_empty() && config.node.id.is_none() && config.key_file.is_none());
    assert_eq!(config.raft.idle_close_after, Some(std::time::Duration::from_secs(10)));
    assert_eq!(config.node.data, Path::new("./kvorum-data"));
    assert!(config.open_addresses().is_empty());
    assert_eq!(config.keyspaces.len(), 1);
    assert_eq!((config.keyspaces[0].name.as_str(), config.keyspaces[0].id), ("default", KeyspaceId(1)));
}

#[test]
fn a_static_cluster_is_read_whole() {
    let config = parse(CLUSTER).unwrap();
    assert_eq!(config.cluster.unwrap().to_string(), "000102030405060708090a0b0c0d0e0f");
    assert_eq!(config.founders.iter().map(|member| member.id.0).collect::<Vec<_>>(), [1, 2]);
    let orders = &config.keyspaces[0];
    assert_eq!((orders.id, orders.limits.value_bytes_max), (KeyspaceId(1), 4 << 20));
    assert_eq!((orders.read_level, orders.images), (ReadLevel::Local, Images::New));
    assert_eq!((config.keyspaces[1].id, config.keyspaces[1].images), (KeyspaceId(2), Images::Keys));
}

#[test]
fn a_keyspace_says_everything_it_wants() {
    let more = "shard_by = \"hash:8\"\nreplicas = 5\nread_level = \"bounded:200ms\"\nleases = true\n";
    let config = parse(&format!("{CLUSTER}{more}")).unwrap();
    let wish = &config.keyspaces[1].wish;
    assert_eq!((wish.sharding, wish.shards, wish.replicas), (Some(Sharding::Hash), Some(8), Some(5)));
    assert_eq!(wish.read_level, Some(ReadLevel::Bounded(std::time::Duration::from_millis(200))));
    assert_eq!(wish.has_leases, Some(true));
    let cut = parse(&format!("{CLUSTER}split_at = [\"g\", \"p\"]\n")).unwrap();
    let wish = &cut.keyspaces[1].wish;
    assert_eq!((wish.sharding, wish.split_at.len(), wish.replicas), (Some(Sharding::Range), 2, None));
}

#[test]
fn addresses_that_others_cannot_use_are_refused() {
    assert!(refusal("[node]\nadvertise_client = \"here\"\n").contains("is no host:port"));
    assert!(refusal("[node]\nadvertise_peer = \"here:0\"\n").contains("is no host:port"));
    let config = parse("[node]\nadvertise_peer = \"node-1.example:7201\"\n").unwrap();
    assert_eq!(config.node.advertise_peer.as_deref(), Some("node-1.example:7201"));
}

#[test]
fn the_effective_configuration_reads_back_as_itself() {
    let config = parse(CLUSTER).unwrap();
    let again = parse(&config.to_toml()).unwrap();
    assert_eq!(config.to_toml(), again.to_toml());
    assert_eq!(config.keyspaces, again.keyspaces);
}

#[test]
fn a_network_address_needs_insecure_and_the_sentence_says_so() {
    let refused = refusal("[node]\nlisten_client = \"0.0.0.0:7101\"\n");
    assert!(refused.starts_with("node.listen_client 0.0.0.0:7101 is not a loopback address"), "{refused}");
    assert!(refused.contains("node.insecure = true"), "{refused}");
    let config = parse("[node]\nlisten_client = \"0.0.0.0:7101\"\ninsecure = true\n").unwrap();
    assert_eq!(config.open_addresses().len(), 1);
}

#[test]
fn mode_ap_is_refused_plainly() {
    let refused = refusal("[[keyspaces]]\nname = \"carts\"\nmode = \"ap\"\n");
    assert_eq!(refused, "keyspaces.mode of \"carts\" is \"ap\", which this build does not offer: use \"cp\"");
}

#[test]
fn clusters_that_cannot_be_meant_are_refused() {
    assert!(refusal(&CLUSTER.replace("id = 2", "id = 1")).contains("given twice"));
    assert!(refusal(&CLUSTER.replace("7202", "7201")).contains("twice"));
    assert!(refusal(&CLUSTER.replace("0e0f", "0e")).contains("32 hexadecimal digits"));
    assert!(refusal(&CLUSTER.replace("[cluster]\nid", "[cluster]\n#")).contains("cluster.id is missing"));
    assert!(refusal(&CLUSTER.replace("127.0.0.1:7102", "localhost")).contains("no host:port"));
    assert!(refusal(&format!("{CLUSTER}\n[node]\nid = 3\n")).contains("not among [[cluster.nodes]]"));
}

#[test]
fn keyspaces_that_cannot_be_meant_are_refused() {
    assert!(refusal(&CLUSTER.replace("carts", "orders")).contains("given twice"));
    for name in ["9 lives", "Carts", "c_arts", "c.arts", "", &"c".repeat(65)] {
        assert!(refusal(&CLUSTER.replace("carts", name)).contains("is no name"), "{name}");
    }
    assert_eq!(parse(&CLUSTER.replace("carts", "9-lives")).unwrap().keyspaces[1].name, "9-lives");
    assert!(refusal(&CLUSTER.replace("4MiB", "17MiB")).contains("16MiB"));
    assert!(refusal(&CLUSTER.replace("4MiB", "0B")).contains("1B to 16MiB"));
    assert!(refusal(&CLUSTER.replace("\"carts\"", "\"carts\"\nid = 1")).contains("unknown field keyspaces.id"));
    let with = |more: &str| refusal(&format!("{CLUSTER}{more}\n"));
    assert!(with("replicas = 2").contains("keyspaces.replicas of \"carts\" is 2: write an odd number"));
    assert!(with("replicas = 9").contains("from 1 to 7"));
    assert!(with("shard_by = \"hash\"").contains("write \"range\" or \"hash:8\""));
    assert!(with("shard_by = \"hash:0\"").contains("from 1 to 4096"));
    assert!(with("shard_by = \"hash:2\"\nsplit_at = [\"m\"]").contains("give one of the two"));
    assert!(with("split_at = [\"p\", \"g\"]").contains("ascending order"));
    assert!(with("split_at = [\"\"]").contains("ascending order"));
    assert!(with("split_at = \"g\"").contains("write a list of texts"));
    assert!(with("read_level = \"bounded\"").contains("bounded:200ms"));
    assert!(with("read_level = \"bounded:200\"").contains("has no unit"));
    assert!(with("read_level = \"quorum\"").contains("a level of AP keyspaces"));
    assert!(refusal("[[keyspaces]]\nmode = \"cp\"\n").contains("keyspaces.name is missing"));
}

#[test]
fn timings_that_cannot_work_are_refused() {
    assert!(refusal("[raft]\nheartbeat = \"900ms\"\n").contains("at most half of raft.election_min"));
    assert!(refusal("[raft]\nelection_max = \"1s\"\n").contains("longer than raft.election_min"));
    assert!(refusal("[limits]\nrequest_timeout_default = \"2m\"\n").contains("limits.request_timeout_max"));
    assert!(refusal("[limits]\nrequest_bytes_in_flight_max = \"1MiB\"\n").contains("the largest request"));
    assert!(refusal("[storage]\njournal_bytes_max = \"64MiB\"\n").contains("two of storage.journal_segment"));
    assert!(refusal("[storage]\njournal_segment = \"1MiB\"\n").contains("between 34MiB"));
    assert!(refusal("[node]\nlisten_peer = \"7201\"\n").contains("write ip:port"));
}

#[test]
fn moves_are_on_and_paced_unless_written_otherwise() {
    let balance = Config::parse(None, []).unwrap().balance;
    assert!(balance.enabled);
    assert_eq!((balance.replace_after.as_secs(), balance.moves_per_node), (600, 2));
    assert_eq!(balance.move_bytes_per_second, 64 << 20);
    let written =
        "[balance]\nenabled = false\nreplace_after = \"2s\"\nmoves_per_node = 1\nmove_bytes_per_second = \"0B\"\n";
    let balance = parse(written).unwrap().balance;
    assert!(!balance.enabled);
    assert_eq!((balance.moves_per_node, balance.move_bytes_per_second), (1, 0));
    for (field, text) in [
        ("balance.replace_after", "replace_after = \"1999ms\""),
        ("balance.replace_after", "replace_after = 5"),
        ("balance.moves_per_node", "moves_per_node = 0"),
        ("balance.move_bytes_per_second", "move_bytes_per_second = \"4KiB\""),
        ("replace_after", "replaceafter = \"5s\""),
    ] {
        let said = refusal(&format!("[balance]\n{text}\n"));
        assert!(said.contains(field), "{text}: {said}");
    }
}
