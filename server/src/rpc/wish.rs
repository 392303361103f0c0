//! Wishes, from their words: what a keyspace is asked to be.
//!
//! **Deliberately absent.** Whether it can be so: the plan decides that, against the map.

use kvorum_api::{AdminError, Mode, ReadLevel, Sharding, proto};
use kvorum_consensus::metadata::KeyspaceWish;
use kvorum_storage::command::Images;
use std::time::Duration;

fn invalid(field: &'static str, problem: String) -> AdminError {
    AdminError::Invalid { field, problem }
}

/// `None` = nothing was said.
fn word<T>(
    field: &'static str,
    said: &str,
    read: impl Fn(&str) -> Option<T>,
    works: &str,
) -> Result<Option<T>, AdminError> {
    match said {
        "" => Ok(None),
        said => read(said).map(Some).ok_or_else(|| {
            let shown: String = said.chars().take(64).collect();
            invalid(field, format!("{shown:?} is none: use {works}"))
        }),
    }
}

/// Reads a wish; empty fields are left to the default, or as they are.
///
/// # Errors
/// A word that means nothing, or a bound without a bounded level.
pub fn read(wish: proto::KeyspaceWish) -> Result<KeyspaceWish, AdminError> {
    let number = |number: u32| (number > 0).then_some(number);
    Ok(KeyspaceWish {
        mode: word("mode", &wish.mode, mode, "cp")?,
        sharding: word("shard_by", &wish.shard_by, Sharding::parse, "range or hash")?,
        shards: number(wish.shards),
        replicas: number(wish.replicas),
        read_level: read_level(&wish.read_level, wish.staleness_ms_max)?,
        value_bytes_max: (wish.value_bytes_max > 0).then_some(wish.value_bytes_max),
        images: word("changes", &wish.changes, images, "keys, new or new_and_old")?,
        has_leases: wish.leases,
        split_at: wish.split_at,
    })
}

fn mode(word: &str) -> Option<Mode> {
    [Mode::Cp, Mode::Ap].into_iter().find(|mode| mode.as_str() == word)
}

fn images(word: &str) -> Option<Images> {
    let all = [Images::Keys, Images::New, Images::NewAndOld];
    all.into_iter().find(|images| super::describe::images_word(*images) == word)
}

fn read_level(said: &str, staleness_ms_max: u32) -> Result<Option<ReadLevel>, AdminError> {
    let levels = kvorum_api::capabilities::LEVELS;
    let named = |said: &str| levels.iter().copied().find(|level| level.as_str() == said);
    let level = word("read_level", said, named, "linearizable, session, bounded or local")?;
    match level {
        Some(ReadLevel::Bounded(_)) if staleness_ms_max == 0 => {
            let problem = "is missing: read_level bounded says how old an answer may be, in milliseconds";
            Err(invalid("staleness_ms_max", problem.to_owned()))
        }
        Some(ReadLevel::Bounded(_)) => Ok(Some(ReadLevel::Bounded(Duration::from_millis(staleness_ms_max.into())))),
        _ if staleness_ms_max > 0 => {
            Err(invalid("staleness_ms_max", "goes with read_level bounded: say that, or leave it out".to_owned()))
        }
        level => Ok(level),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(wish: proto::KeyspaceWish) -> (&'static str, String) {
        match read(wish).unwrap_err() {
            AdminError::Invalid { field, problem } => (field, problem),
            other => panic!("expected a field, got {other}"),
        }
    }

    #[test]
    fn what_is_not_said_is_left_to_the_default() {
        assert_eq!(read(proto::KeyspaceWish::default()).unwrap(), KeyspaceWish::default());
    }

    #[test]
    fn words_mean_what_they_say() {
        let wish = proto::KeyspaceWish {
            mode: "cp".into(),
            shard_by: "hash".into(),
            shards: 8,
            replicas: 3,
            read_level: "bounded".into(),
            staleness_ms_max: 200,
            changes: "new_and_old".into(),
            leases: Some(true),
            ..proto::KeyspaceWish::default()
        };
        let read = read(wish).unwrap();
        assert_eq!((read.mode, read.sharding, read.shards), (Some(Mode::Cp), Some(Sharding::Hash), Some(8)));
        assert_eq!(read.read_level, Some(ReadLevel::Bounded(Duration::from_millis(200))));
        assert_eq!((read.images, read.has_leases), (Some(Images::NewAndOld), Some(true)));
    }

    #[test]
    fn a_word_that_means_nothing_is_refused_with_what_works() {
        let (field_name, problem) = field(proto::KeyspaceWish { mode: "eventual".into(), ..Default::default() });
        assert_eq!((field_name, problem.as_str()), ("mode", "\"eventual\" is none: use cp"));
        let level = field(proto::KeyspaceWish { read_level: "fresh".into(), ..Default::default() });
        assert_eq!(level.0, "read_level");
        let boundless = field(proto::KeyspaceWish { read_level: "bounded".into(), ..Default::default() });
        assert_eq!(boundless.0, "staleness_ms_max");
        let bound = field(proto::KeyspaceWish { staleness_ms_max: 5, ..Default::default() });
        assert_eq!(bound.0, "staleness_ms_max");
    }
}
