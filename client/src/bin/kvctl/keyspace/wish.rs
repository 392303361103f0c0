//! From the flags to a wish. Pure.
//!
//! **Invariant.** What this build cannot be is refused before anything is sent, with the nearest thing that works.
//! Whether the cluster can be it, the cluster says.

use crate::args::{Create, Wish};
use kvorum_api::{placement::SHARDS_MAX, proto::KeyspaceWish};
use kvorum_client::ReadLevel;
use std::os::unix::ffi::OsStringExt;

pub fn of_create(create: Create) -> Result<KeyspaceWish, String> {
    check_mode(&create.mode)?;
    check_ack(create.ack.as_deref())?;
    let (shard_by, counted) = sharding(create.shard_by.as_deref())?;
    let split_at: Vec<Vec<u8>> = create.split_at.into_iter().map(OsStringExt::into_vec).collect();
    if let (Some(counted), Some(shards)) = (counted, create.shards)
        && counted != shards
    {
        return Err(format!(
            "--shard-by hash:{counted} says {counted} shards, --shards says {shards}: say one of them"
        ));
    }
    let shards = counted.or(create.shards);
    if shard_by == "hash" {
        if !split_at.is_empty() {
            return Err("--split-at is for --shard-by range: hash:N cuts N equal parts by itself".to_owned());
        }
        if shards.is_none_or(|shards| shards > SHARDS_MAX) {
            return Err(format!("--shard-by hash needs its number of shards, 1 to {SHARDS_MAX}: --shard-by hash:8"));
        }
    } else {
        check_splits(&split_at, shards)?;
    }
    let mut wish = common(create.wish)?;
    wish.replicas = create.replicas.unwrap_or(0);
    wish.mode = create.mode;
    wish.shard_by = shard_by.to_owned();
    wish.shards = shards.unwrap_or(0);
    wish.split_at = split_at.into_iter().map(Into::into).collect();
    Ok(wish)
}

pub fn of_alter(wish: Wish) -> Result<KeyspaceWish, String> {
    let wish = common(wish)?;
    if wish == KeyspaceWish::default() {
        let flags = "--read-level, --value-bytes-max, --changes or --leases";
        return Err(format!("nothing to alter: say {flags}. Mode, sharding and replicas are for good"));
    }
    Ok(wish)
}

fn common(wish: Wish) -> Result<KeyspaceWish, String> {
    let (read_level, staleness_ms_max) = match wish.read_level {
        None => ("", 0),
        Some(ReadLevel::Bounded(bound)) => {
            let bound_ms = u32::try_from(bound.as_millis()).map_err(|_too_long| {
                "--read-level bounded: at most 49 days; --read-level local has no bound at all".to_owned()
            })?;
            ("bounded", bound_ms)
        }
        Some(level @ (ReadLevel::Linearizable | ReadLevel::Session | ReadLevel::Local)) => (level.as_str(), 0),
        Some(level @ (ReadLevel::One | ReadLevel::Quorum | ReadLevel::All)) => {
            let nearest = if level == ReadLevel::One { "local" } else { "linearizable" };
            return Err(format!(
                "--read-level {level} is of mode ap: a cp keyspace reads linearizable, session, bounded:200ms or local; \
                 the nearest is {nearest}"
            ));
        }
    };
    let changes = wish.changes.unwrap_or_default();
    if !["", "keys", "new", "new_and_old"].contains(&changes.as_str()) {
        return Err(format!("--changes {changes:?} is none: use keys, new or new_and_old"));
    }
    Ok(KeyspaceWish {
        read_level: read_level.to_owned(),
        staleness_ms_max,
        value_bytes_max: wish.value_bytes_max.unwrap_or(0),
        changes,
        leases: wish.leases,
        ..KeyspaceWish::default()
    })
}

fn check_mode(mode: &str) -> Result<(), String> {
    match mode {
        "cp" => Ok(()),
        "ap" | "eventual" => Err(format!(
            "--mode {mode} is not in this build: --mode cp works; --read-level local or bounded:200ms lets its replicas \
             answer reads without their leader"
        )),
        other => Err(format!("--mode {other:?} is none: use cp")),
    }
}

fn check_ack(ack: Option<&str>) -> Result<(), String> {
    match ack {
        // Said or not, it is so.
        None | Some("majority") => Ok(()),
        Some(other) => Err(format!(
            "--ack {other}: a cp keyspace acknowledges what a majority has made durable, always: use --ack majority, or \
             leave it out"
        )),
    }
}

/// The word, and the number of shards it names.
fn sharding(text: Option<&str>) -> Result<(&'static str, Option<u32>), String> {
    match text {
        None | Some("range") => Ok(("range", None)),
        Some("hash") => Ok(("hash", None)),
        Some(text) => match text.strip_prefix("hash:").map(str::parse::<u32>) {
            Some(Ok(shards)) if (1..=SHARDS_MAX).contains(&shards) => Ok(("hash", Some(shards))),
            Some(_) => Err(format!("--shard-by {text}: hash:N takes 1 to {SHARDS_MAX} shards, as in hash:8")),
            None => Err(format!("--shard-by {text:?} is none: use range, or hash:8 for 8 shards")),
        },
    }
}

fn check_splits(split_at: &[Vec<u8>], shards: Option<u32>) -> Result<(), String> {
    if split_at.iter().any(Vec::is_empty) {
        return Err("--split-at: a split point is a key, and no key is empty".to_owned());
    }
    if !split_at.is_sorted_by(|left, right| left < right) {
        return Err(
            "--split-at: the split points must ascend, each once: give them in the order of the keys".to_owned()
        );
    }
    match shards {
        Some(shards) if shards as usize != split_at.len() + 1 => Err(format!(
            "--shards {shards} by range needs {} split points, {} are given: say --split-at for each, or --shard-by \
             hash:{shards}",
            shards - 1,
            split_at.len()
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command, Keyspace};
    use clap::Parser as _;

    fn created(line: &str) -> Result<KeyspaceWish, String> {
        let line = format!("kvctl keyspace create orders {line}");
        match Cli::try_parse_from(line.split_whitespace()).unwrap().command {
            Command::Keyspace(Keyspace::Create(create)) => of_create(create),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn flags_become_a_wish() {
        let wish = created("--shard-by hash:8 --replicas 3 --read-level bounded:200ms --changes new --leases").unwrap();
        assert_eq!((wish.mode.as_str(), wish.shard_by.as_str(), wish.shards, wish.replicas), ("cp", "hash", 8, 3));
        assert_eq!((wish.read_level.as_str(), wish.staleness_ms_max), ("bounded", 200));
        assert_eq!((wish.changes.as_str(), wish.leases), ("new", Some(true)));
        let wish = created("--split-at g --split-at p --value-bytes-max 2MiB --ack majority").unwrap();
        assert_eq!((wish.shard_by.as_str(), wish.split_at.len(), wish.shards), ("range", 2, 0));
        assert_eq!((wish.value_bytes_max, wish.leases), (2 << 20, None));
        assert_eq!(created("--shard-by hash --shards 4").unwrap().shards, 4);
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_nearest_thing_that_works() {
        let refusals = [
            ("--mode eventual", "--mode cp"),
            ("--mode ap", "--mode cp"),
            ("--mode fast", "use cp"),
            ("--ack one", "--ack majority"),
            ("--read-level one", "the nearest is local"),
            ("--read-level quorum", "the nearest is linearizable"),
            ("--shard-by hash", "--shard-by hash:8"),
            ("--shard-by hash:0", "1 to 4096"),
            ("--shard-by hash:5000", "1 to 4096"),
            ("--shard-by name", "hash:8"),
            ("--shard-by hash:8 --shards 4", "say one of them"),
            ("--shard-by hash:8 --split-at g", "--shard-by range"),
            ("--split-at p --split-at g", "must ascend"),
            ("--split-at g --split-at g", "must ascend"),
            ("--shards 3", "2 split points"),
            ("--changes old", "new_and_old"),
        ];
        for (line, nearest) in refusals {
            let problem = created(line).unwrap_err();
            assert!(problem.contains(nearest), "{line}: {problem}");
        }
    }

    #[test]
    fn an_alteration_alters_something() {
        assert!(of_alter(Wish::default()).unwrap_err().contains("nothing to alter"));
        let wish = of_alter(Wish { leases: Some(false), ..Wish::default() }).unwrap();
        assert_eq!(wish.leases, Some(false));
    }
}
