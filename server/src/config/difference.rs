//! What the configuration lists and the map contradicts: nothing is silently ignored.
//!
//! **Invariant.** Pure. A field that was not written is not compared.

use super::{Config, Keyspace};
use kvorum_api::{PlacementRange, Sharding};
use kvorum_consensus::metadata::{ClusterMap, KeyspaceRow};
use kvorum_storage::command::Images;

/// One sentence for each founding keyspace that is listed and is otherwise by the map.
#[must_use]
pub fn differences(config: &Config, map: &ClusterMap) -> Vec<String> {
    let listed = config.keyspaces.iter().filter(|_| config.lists_keyspaces);
    listed.filter_map(|keyspace| difference(keyspace, map)).collect()
}

fn difference(keyspace: &Keyspace, map: &ClusterMap) -> Option<String> {
    let name = &keyspace.name;
    let Some(row) = map.keyspace(name) else {
        return Some(format!(
            "keyspace {name:?} is listed and not there: it was dropped, or listed after the founding"
        ));
    };
    let fields = fields(keyspace, row, map);
    (!fields.is_empty()).then(|| format!("keyspace {name:?} is otherwise in force: {}", fields.join(", ")))
}

fn fields(keyspace: &Keyspace, row: &KeyspaceRow, map: &ClusterMap) -> Vec<String> {
    let wish = &keyspace.wish;
    let mut fields = Vec::new();
    let mut compare = |field: &str, listed: Option<String>, is: String| {
        if let Some(listed) = listed.filter(|listed| *listed != is) {
            fields.push(format!("{field} is {is}, listed {listed}"));
        }
    };
    let ranges: Vec<&PlacementRange> = map.shards_of(row.id).into_iter().map(|shard| &shard.range).collect();
    compare("shard_by", wish.sharding.map(|sharding| sharding.to_string()), row.sharding.to_string());
    compare("shards", wish.shards.map(|shards| shards.to_string()), ranges.len().to_string());
    if wish.sharding == Some(Sharding::Range) && row.sharding == Sharding::Range {
        let starts = ranges.iter().skip(1).map(|range| &range.start);
        let show = |keys: &mut dyn Iterator<Item = &bytes::Bytes>| {
            let keys: Vec<String> = keys.map(|key| format!("{:?}", String::from_utf8_lossy(key))).collect();
            format!("[{}]", keys.join(", "))
        };
        let (listed, is) = (show(&mut wish.split_at.iter()), show(&mut { starts }));
        compare("split_at", Some(listed), is);
    }
    compare("replicas", wish.replicas.map(|count| count.to_string()), row.replicas.to_string());
    compare("read_level", wish.read_level.map(|level| level.to_string()), row.read_level.to_string());
    let bytes_max = row.limits.value_bytes_max;
    compare("value_bytes_max", wish.value_bytes_max.map(|bytes| format!("{bytes}B")), format!("{bytes_max}B"));
    compare("changes", wish.images.map(changes), changes(row.images));
    compare("leases", wish.has_leases.map(|leases| leases.to_string()), row.has_leases.to_string());
    fields
}

/// As it is written in the configuration.
fn changes(images: Images) -> String {
    let word = match images {
        Images::Keys => "keys",
        Images::New => "new",
        Images::NewAndOld => "new_and_old",
    };
    word.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_api::NodeId;
    use kvorum_consensus::metadata::{Founding, NodeRow, plan::found};

    const LISTED: &str = r#"
[[keyspaces]]
name = "orders"
split_at = ["g", "p"]

[[keyspaces]]
name = "carts"
shard_by = "hash:4"
"#;

    fn config(text: &str) -> Config {
        Config::parse(Some(text), []).unwrap()
    }

    /// The map as the founding made it.
    fn founded(config: &Config) -> ClusterMap {
        let (client, peer) = ("127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned());
        let node = NodeRow::of_this_build(NodeId(1), client, peer, String::new(), 0);
        let keyspaces = config.keyspaces.iter().map(|keyspace| (keyspace.name.clone(), keyspace.wish.clone()));
        let founding = Founding { nodes: vec![node], keyspaces: keyspaces.collect() };
        let mut map = ClusterMap::default();
        found(&founding, 0).unwrap().edits.into_iter().for_each(|edit| map.apply(edit));
        map
    }

    #[test]
    fn what_was_founded_as_listed_is_no_difference() {
        let config = config(LISTED);
        assert_eq!(differences(&config, &founded(&config)), Vec::<String>::new());
    }

    #[test]
    fn every_field_that_differs_is_named_with_both_values() {
        let map = founded(&config(LISTED));
        let other = LISTED.replace("[\"g\", \"p\"]", "[\"g\", \"q\"]\nread_level = \"local\"\nchanges = \"new\"");
        let said = differences(&config(&other), &map);
        assert_eq!(said.len(), 1);
        for words in ["split_at is [\"g\", \"p\"], listed [\"g\", \"q\"]", "read_level is linearizable, listed local"] {
            assert!(said[0].contains(words), "{said:?}");
        }
        assert!(said[0].contains("changes is keys, listed new"), "{said:?}");
        let other = LISTED.replace("hash:4", "hash:8").replace("orders", "others");
        let said = differences(&config(&other), &map);
        assert!(said[0].contains("\"others\" is listed and not there"), "{said:?}");
        assert!(said[1].contains("shards is 4, listed 8"), "{said:?}");
    }

    #[test]
    fn a_configuration_that_lists_nothing_contradicts_nothing() {
        assert_eq!(differences(&config(""), &ClusterMap::default()), Vec::<String>::new());
    }
}
