//! Which shards a scan walks, which part of each, and which of their rows it wants. Pure.

use crate::router::{Keyspace, ShardRoute};
use bytes::{BufMut as _, Bytes, BytesMut};
use kvorum_api::{Refused, ShardId, Sharding, proto};
use kvorum_consensus::metadata::KeyspaceRow;
use kvorum_storage::shard::ScanRange;
use std::sync::Arc;

/// What a scan asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// In placement keys, over all shards.
    range: ScanRange,
    /// Bounds on keys that say nothing about placement: start, and end if there is one.
    filter: Option<(Bytes, Option<Bytes>)>,
}

/// One shard's part of a scan.
pub struct Part {
    /// Its shard.
    pub route: Arc<ShardRoute>,
    /// In placement keys.
    pub range: ScanRange,
}

impl Wanted {
    /// Reads a request.
    ///
    /// # Errors
    /// A bound is too long, the range is upside down, or bounds are no range of this keyspace.
    pub fn of(request: &proto::ScanRequest, keyspace: &KeyspaceRow) -> Result<Self, Refused> {
        let key_bytes_max = keyspace.limits.key_bytes_max;
        for (field, bound) in [("start", &request.start), ("end", &request.end), ("after", &request.after)] {
            // One byte more than a key may have: the first bound after the longest key.
            if bound.len() > key_bytes_max + 1 {
                return Err(Refused::OverLimit {
                    field,
                    actual: bound.len() as u64,
                    limit: "key_bytes_max",
                    max: key_bytes_max as u64,
                    fix: "no key is longer, so no bound needs to be",
                });
            }
        }
        let malformed = |field, problem: &str| Err(Refused::Malformed { field, problem: problem.to_owned() });
        if !request.end.is_empty() && request.start > request.end {
            return malformed("end", "is below start: swap them, and say reverse to walk downwards");
        }
        let (start, end) = (request.start.clone(), (!request.end.is_empty()).then(|| request.end.clone()));
        let whole = ScanRange { reverse: request.reverse, keys_only: request.keys_only, ..ScanRange::default() };
        let has_bounds = !start.is_empty() || end.is_some();
        let mut wanted = match keyspace.sharding {
            Sharding::Range => Wanted { range: ScanRange { start, end, ..whole }, filter: None },
            Sharding::Hash if has_bounds && !request.full_scan => {
                return malformed(
                    "full_scan",
                    "is not set, and bounds on a keyspace sharded by hash touch every shard: leave start and end out, \
                     or say full_scan",
                );
            }
            Sharding::Hash => Wanted { range: whole, filter: has_bounds.then_some((start, end)) },
        };
        if !request.after.is_empty() {
            wanted.go_on_behind(keyspace.sharding.placement_key(&request.after));
        }
        Ok(wanted)
    }

    fn go_on_behind(&mut self, placement: Bytes) {
        if self.range.reverse {
            let end = self.range.end.take();
            self.range.end = Some(end.map_or_else(|| placement.clone(), |end| end.min(placement.clone())));
            return;
        }
        let mut next = BytesMut::with_capacity(placement.len() + 1);
        next.put_slice(&placement);
        next.put_u8(0);
        self.range.start = std::mem::take(&mut self.range.start).max(next.freeze());
    }

    /// Whether every row that is walked is wanted.
    #[must_use]
    pub fn takes_all(&self) -> bool {
        self.filter.is_none()
    }

    /// Whether a row under that key is wanted.
    #[must_use]
    pub fn takes(&self, key: &Bytes) -> bool {
        let within = |(start, end): &(Bytes, Option<Bytes>)| start <= key && end.as_ref().is_none_or(|end| key < end);
        self.filter.as_ref().is_none_or(within)
    }
}

/// Which shards a scan touches, in the order in which they are walked; at least one.
///
/// # Errors
/// It names a shard that is not the keyspace's.
pub fn plan(keyspace: &Keyspace, wanted: &Wanted, only: ShardId) -> Result<Vec<Part>, Refused> {
    let range = &wanted.range;
    let mut parts = Vec::new();
    for (place, route) in keyspace.shards().iter().enumerate() {
        if only != ShardId(0) && route.row.shard != only {
            continue;
        }
        let own = &route.row.range;
        let ends_before = range.end.as_ref().is_some_and(|end| *end <= own.start) && place > 0;
        let starts_after = own.end.as_ref().is_some_and(|end| *end <= range.start);
        if only == ShardId(0) && (ends_before || starts_after) {
            continue;
        }
        let start = range.start.clone().max(own.start.clone());
        let end = match (&range.end, &own.end) {
            (Some(end), Some(next)) => Some(end.clone().min(next.clone())),
            (end, next) => end.clone().or_else(|| next.clone()),
        };
        // A shard that is named and lies outside the bounds has nothing to say: its part is empty, not upside down.
        let is_empty = end.as_ref().is_some_and(|end| *end <= start);
        let (start, end) = if is_empty { (own.start.clone(), Some(own.start.clone())) } else { (start, end) };
        parts.push(Part { route: route.clone(), range: ScanRange { start, end, ..range.clone() } });
    }
    if parts.is_empty() {
        return Err(Refused::Malformed {
            field: "shard",
            problem: format!(
                "{only} is none of keyspace {}: a handshake names its shards, 0 stands for all of them",
                keyspace.row.name
            ),
        });
    }
    if range.reverse {
        parts.reverse();
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::router::tests::{hashed, keyspace};

    fn request(start: &'static str, end: &'static str) -> proto::ScanRequest {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        proto::ScanRequest { start: bytes(start), end: bytes(end), ..proto::ScanRequest::default() }
    }

    fn parts(request: &proto::ScanRequest) -> Vec<(u64, String, Option<String>)> {
        let keyspace = keyspace();
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let wanted = Wanted::of(request, &keyspace.row).unwrap();
        let parts = plan(&keyspace, &wanted, ShardId(request.shard)).unwrap();
        let say = |part: Part| (part.route.row.shard.0, text(part.range.start), part.range.end.map(text));
        parts.into_iter().map(say).collect()
    }

    fn part(shard: u64, start: &str, end: Option<&str>) -> (u64, String, Option<String>) {
        (shard, start.to_owned(), end.map(str::to_owned))
    }

    #[test]
    fn a_scan_visits_the_shards_it_touches_in_walking_order() {
        assert_eq!(parts(&request("", "")), [part(1, "", Some("g")), part(2, "g", Some("p")), part(3, "p", None)]);
        assert_eq!(parts(&request("h", "i")), [part(2, "h", Some("i"))]);
        assert_eq!(parts(&request("a", "g")), [part(1, "a", Some("g"))]);
        let reverse = proto::ScanRequest { reverse: true, ..request("h", "") };
        assert_eq!(parts(&reverse), [part(3, "p", None), part(2, "h", Some("p"))]);
    }

    #[test]
    fn a_named_shard_is_walked_alone_and_another_keyspaces_is_refused() {
        let second = proto::ScanRequest { shard: 2, ..request("h", "z") };
        assert_eq!(parts(&second), [part(2, "h", Some("p"))]);
        let outside = proto::ScanRequest { shard: 1, ..request("h", "z") };
        assert_eq!(parts(&outside), [part(1, "", Some(""))], "nothing, within its own range");
        let keyspace = keyspace();
        let wanted = Wanted::of(&request("", ""), &keyspace.row).unwrap();
        let refused = plan(&keyspace, &wanted, ShardId(99)).err().unwrap();
        assert!(matches!(refused, Refused::Malformed { field: "shard", .. }));
    }

    #[test]
    fn a_scan_goes_on_behind_the_last_key_in_its_own_direction() {
        let onwards = proto::ScanRequest { after: "h".into(), ..request("", "") };
        assert_eq!(parts(&onwards), [part(2, "h\0", Some("p")), part(3, "p", None)]);
        let back = proto::ScanRequest { after: "h".into(), reverse: true, ..request("", "") };
        assert_eq!(parts(&back), [part(2, "g", Some("h")), part(1, "", Some("g"))]);
    }

    #[test]
    fn bounds_on_hashes_need_a_full_scan_and_pick_rows_then() {
        let row = hashed(4).row.clone();
        let refused = Wanted::of(&request("a", "b"), &row).unwrap_err();
        assert!(matches!(refused, Refused::Malformed { field: "full_scan", .. }), "{refused}");
        assert!(Wanted::of(&request("", ""), &row).is_ok());
        let full = proto::ScanRequest { full_scan: true, ..request("a", "b") };
        let wanted = Wanted::of(&full, &row).unwrap();
        let takes = |key: &'static str| wanted.takes(&Bytes::from_static(key.as_bytes()));
        assert!(takes("a") && takes("az") && !takes("b") && !takes("A"));
        assert_eq!(plan(&hashed(4), &wanted, ShardId(0)).unwrap().len(), 4);
    }

    #[test]
    fn a_scan_upside_down_is_refused_and_an_open_one_is_open() {
        let row = keyspace().row.clone();
        assert_eq!(Wanted::of(&request("a", ""), &row).unwrap().range.end, None);
        let refused = Wanted::of(&request("b", "a"), &row).unwrap_err();
        assert!(matches!(refused, Refused::Malformed { field: "end", .. }));
        let bound = |bytes: usize| proto::ScanRequest { start: vec![b'k'; bytes].into(), ..request("", "") };
        let longest = row.limits.key_bytes_max;
        assert!(Wanted::of(&bound(longest + 1), &row).is_ok(), "the bound after the longest key");
        assert!(Wanted::of(&bound(longest + 2), &row).is_err());
    }
}
