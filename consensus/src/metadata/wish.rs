//! Wishes: what a keyspace may be asked to be, and what to ask for instead.
//!
//! **Invariant.** Every refusal names the field, the limit and the nearest thing that works.

use super::{KeyspaceWish, map::ClusterMap, map::KeyspaceRow};
use bytes::Bytes;
use kvorum_api::{
    AdminError, Limits, Mode, PlacementRange, ReadLevel, Sharding,
    limits::{KEY_BYTES_MAX, VALUE_BYTES_CEILING},
    placement::SHARDS_MAX,
};

/// Shards of all keyspaces together.
pub const CLUSTER_SHARDS_MAX: usize = 20_000;

/// Bytes of a name.
pub const NAME_BYTES_MAX: usize = 64;

/// Bytes of all split points of one keyspace: they travel in one batch, each as an end and as a start.
pub const SPLIT_BYTES_MAX: usize = 1 << 20;

/// Replicas of a shard unless the wish says otherwise and there are nodes enough.
const REPLICAS_DEFAULT: u32 = 3;

/// Names of keyspaces that an error lists.
const NAMES_SHOWN: usize = 10;

/// How a keyspace is cut into shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) sharding: Sharding,
    pub(super) ranges: Vec<PlacementRange>,
}

pub(super) fn invalid(field: &'static str, problem: impl Into<String>) -> AdminError {
    AdminError::Invalid { field, problem: problem.into() }
}

/// Names are part of file names, addresses and metrics elsewhere.
pub(super) fn check_name(name: &str) -> Result<(), AdminError> {
    let is_allowed = |letter: char| matches!(letter, 'a'..='z' | '0'..='9' | '-');
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && name.chars().all(is_allowed) {
        return Ok(());
    }
    let near: String =
        name.to_lowercase().chars().map(|letter| if is_allowed(letter) { letter } else { '-' }).collect();
    let near: String = near.trim_matches('-').chars().take(NAME_BYTES_MAX).collect();
    let near = if near.is_empty() { "orders" } else { &near };
    Err(invalid(
        "name",
        format!("{name:?} is no name: use 1 to {NAME_BYTES_MAX} of a-z, 0-9 and -, for instance {near:?}"),
    ))
}

/// What holds for a new keyspace and for an existing one.
pub(super) fn check_values(wish: &KeyspaceWish) -> Result<(), AdminError> {
    if wish.mode == Some(Mode::Ap) {
        return Err(invalid("mode", "this build offers cp, not ap: ask for cp"));
    }
    match wish.read_level {
        None | Some(ReadLevel::Linearizable | ReadLevel::Session | ReadLevel::Local) => {}
        Some(ReadLevel::Bounded(bound)) if bound.as_millis() == 0 => {
            return Err(invalid("read_level", "bounded(0ms) is as fresh as linearizable: ask for linearizable"));
        }
        Some(ReadLevel::Bounded(bound)) if bound.as_millis() > u128::from(u32::MAX) => {
            return Err(invalid("read_level", format!("a bound is at most {} ms: ask for local", u32::MAX)));
        }
        Some(ReadLevel::Bounded(_)) => {}
        Some(level @ (ReadLevel::One | ReadLevel::Quorum | ReadLevel::All)) => {
            let problem = format!("{level} is a level of ap keyspaces: use linearizable, session, bounded or local");
            return Err(invalid("read_level", problem));
        }
    }
    match wish.value_bytes_max {
        Some(bytes) if bytes == 0 || bytes > VALUE_BYTES_CEILING as u64 => {
            let near = bytes.clamp(1, VALUE_BYTES_CEILING as u64);
            let problem = format!("{bytes} bytes: the limit is 1 to {VALUE_BYTES_CEILING}, ask for {near}");
            Err(invalid("value_bytes_max", problem))
        }
        Some(_) | None => Ok(()),
    }
}

/// The ranges of a new keyspace.
pub(super) fn cut(wish: &KeyspaceWish) -> Result<Cut, AdminError> {
    let sharding = wish.sharding.unwrap_or(Sharding::Range);
    let ranges = match sharding {
        Sharding::Hash => {
            if !wish.split_at.is_empty() {
                return Err(invalid(
                    "split_at",
                    "hashes are cut evenly: give the number of shards alone, or shard by range",
                ));
            }
            match wish.shards {
                Some(shards @ 1..=SHARDS_MAX) => PlacementRange::of_hashes(shards),
                Some(shards) => {
                    let near = shards.clamp(1, SHARDS_MAX);
                    let problem = format!("hash:{shards}: the limit is 1 to {SHARDS_MAX} shards, ask for hash:{near}");
                    return Err(invalid("shards", problem));
                }
                None => {
                    let problem =
                        format!("hash needs a number of shards, 1 to {SHARDS_MAX}: ask for instance for hash:8");
                    return Err(invalid("shards", problem));
                }
            }
        }
        Sharding::Range => {
            check_split_points(&wish.split_at)?;
            let are = wish.split_at.len() as u64 + 1;
            if let Some(shards) = wish.shards.filter(|shards| u64::from(*shards) != are) {
                let points = wish.split_at.len();
                let near = if points == 0 && (2..=SHARDS_MAX).contains(&shards) {
                    format!("give {} split points, or shard by hash:{shards}", shards - 1)
                } else {
                    format!("leave the number out, or say {are}")
                };
                let problem = format!("{points} split points make {are} shards, not {shards}: {near}");
                return Err(invalid("shards", problem));
            }
            PlacementRange::cut(&wish.split_at)
        }
    };
    Ok(Cut { sharding, ranges })
}

fn check_split_points(points: &[Bytes]) -> Result<(), AdminError> {
    if points.len() >= SHARDS_MAX as usize {
        let problem =
            format!("{} points: the limit is {}, which makes {SHARDS_MAX} shards", points.len(), SHARDS_MAX - 1);
        return Err(invalid("split_at", problem));
    }
    let bytes: usize = points.iter().map(Bytes::len).sum();
    if bytes > SPLIT_BYTES_MAX {
        let problem =
            format!("{bytes} bytes of points: the limit is {SPLIT_BYTES_MAX}, shorten them to what tells them apart");
        return Err(invalid("split_at", problem));
    }
    for (at, point) in points.iter().enumerate() {
        let (number, shown) = (at + 1, point.escape_ascii());
        if point.is_empty() {
            return Err(invalid("split_at", format!("point {number} is empty: a point is the first key of a shard")));
        }
        if point.len() > KEY_BYTES_MAX {
            let problem = format!("point {number} has {} bytes, the limit of a key is {KEY_BYTES_MAX}", point.len());
            return Err(invalid("split_at", problem));
        }
        match at.checked_sub(1).map(|before| points[before].cmp(point)) {
            None | Some(std::cmp::Ordering::Less) => {}
            Some(std::cmp::Ordering::Equal) => {
                return Err(invalid("split_at", format!("point {number}, \"{shown}\", is there twice: leave one out")));
            }
            Some(std::cmp::Ordering::Greater) => {
                let before = points[at - 1].escape_ascii();
                let problem =
                    format!("point {number}, \"{shown}\", is below the one before it, \"{before}\": sort them");
                return Err(invalid("split_at", problem));
            }
        }
    }
    Ok(())
}

/// Replicas of each shard, on a cluster of `nodes` nodes.
pub(super) fn replicas(wish: &KeyspaceWish, nodes: usize) -> Result<u32, AdminError> {
    let Some(replicas) = wish.replicas else {
        return Ok(if nodes < REPLICAS_DEFAULT as usize { 1 } else { REPLICAS_DEFAULT });
    };
    if replicas >= 1 && replicas % 2 == 1 && replicas as usize <= nodes {
        return Ok(replicas);
    }
    let most = if nodes.is_multiple_of(2) { nodes.saturating_sub(1) } else { nodes };
    let near = if most <= 1 {
        "ask for 1".to_owned()
    } else {
        let odd: Vec<String> = (1..=most.min(7)).step_by(2).map(|odd| odd.to_string()).collect();
        let (last, rest) = odd.split_last().expect("1 is odd");
        format!("ask for {} or {last}", rest.join(", "))
    };
    let cluster =
        if nodes == 1 { "the cluster has 1 node".to_owned() } else { format!("the cluster has {nodes} nodes") };
    let problem = match replicas {
        0 => format!("0 replicas hold nothing: {near}"),
        even if even % 2 == 0 => format!("{even} replicas survive no more than {} do, {cluster}: {near}", even - 1),
        odd => format!("{odd} replicas need as many nodes, {cluster}: {near}"),
    };
    Err(invalid("replicas", problem))
}

pub(super) fn limits(wish: &KeyspaceWish, before: Limits) -> Limits {
    match wish.value_bytes_max {
        Some(bytes) => Limits { value_bytes_max: bytes as usize, ..before },
        None => before,
    }
}

/// A wish that repeats what is, alters nothing; anything else about the shape of a keyspace cannot be altered.
pub(super) fn check_unalterable(wish: &KeyspaceWish, row: &KeyspaceRow, shards: usize) -> Result<(), AdminError> {
    let refuse = |field, is: String| {
        let problem = format!(
            "keyspace {:?} has {is}, which cannot be altered: create another keyspace, export this one and import it there",
            row.name
        );
        Err(invalid(field, problem))
    };
    if wish.mode.is_some_and(|mode| mode != row.mode) {
        return refuse("mode", format!("mode {}", row.mode));
    }
    if wish.sharding.is_some_and(|sharding| sharding != row.sharding) {
        return refuse("shard_by", format!("sharding {}", row.sharding));
    }
    if wish.shards.is_some_and(|wanted| wanted as usize != shards) {
        return refuse("shards", format!("{shards} shards"));
    }
    if !wish.split_at.is_empty() {
        return refuse("split_at", format!("{shards} shards"));
    }
    if wish.replicas.is_some_and(|replicas| replicas != row.replicas) {
        return refuse("replicas", format!("{} replicas", row.replicas));
    }
    let asks_nothing = wish.read_level.is_none()
        && wish.value_bytes_max.is_none()
        && wish.images.is_none()
        && wish.has_leases.is_none();
    if asks_nothing && *wish == KeyspaceWish::default() {
        return Err(invalid("wish", "nothing is asked for: give read_level, value_bytes_max, changes or leases"));
    }
    Ok(())
}

/// A name that is none, and those that are.
pub(super) fn unknown_keyspace(map: &ClusterMap, name: &str) -> String {
    let mut names: Vec<&str> = map.keyspaces.values().map(|row| row.name.as_str()).collect();
    names.sort_unstable();
    let shown = names.iter().take(NAMES_SHOWN).copied().collect::<Vec<_>>().join(", ");
    let known = match names.len() {
        0 => "this cluster has no keyspace yet".to_owned(),
        count if count > NAMES_SHOWN => format!("this cluster has {shown} and {} more", count - NAMES_SHOWN),
        _ => format!("this cluster has {shown}"),
    };
    format!("keyspace {name:?}: {known}")
}
