//! Freshness: what reads below linearizable promise, judged against everything that is known to have happened.
//!
//! ```text
//!   write v7 acknowledged ──┤        bound        ├── read asked      the read must show v7 or newer
//!   session has seen v7 of the key, anywhere ───────── read asked      likewise, whatever the time between
//! ```
//!
//! **Invariant.** Pure, and knows more than any node: the true time, and what everybody was told.

use super::history::{Asked, Record, Told};
use kvorum_api::{ReadLevel, Version};

/// Judges the reads of one key.
pub fn check(records: &[&Record], found: &mut Vec<String>) {
    sessions_never_go_back(records, found);
    bounds_are_kept(records, found);
}

fn sessions_never_go_back(records: &[&Record], found: &mut Vec<String>) {
    for record in records {
        if matches!(record.told, Told::Found(_)) && record.proves() < record.floor {
            found.push(format!("a session went back: it had seen {:?}, and then: {record}", record.floor));
        }
    }
}

/// Whatever says how old it may be at most must hold everything that was acknowledged before (rule R2). What a session
/// or a local read has shown need not be acknowledged yet: a follower may apply a write before the leader does.
fn bounds_are_kept(records: &[&Record], found: &mut Vec<String>) {
    let is_acknowledged = |record: &&&Record| match record.asked {
        Asked::Read(level) => level == ReadLevel::Linearizable,
        _ => true,
    };
    let acknowledged = records.iter().filter(is_acknowledged);
    let mut proofs: Vec<(&Record, Version)> =
        acknowledged.filter_map(|record| Some((*record, record.proves()?))).collect();
    proofs.sort_by_key(|(record, _)| record.at.1);
    // The newest version that anybody knew of at each moment.
    let mut newest: Vec<(&Record, Version)> = Vec::new();
    for (record, version) in proofs {
        if newest.last().is_none_or(|(_, known)| version > *known) {
            newest.push((record, version));
        }
    }
    for record in records {
        if !matches!(record.told, Told::Found(_)) {
            continue;
        }
        if let Asked::Read(ReadLevel::Bounded(bound)) = record.asked
            && record.within.is_none_or(|within| within > bound)
        {
            found.push(format!("weaker than asked, within {:?}: {record}", record.within));
        }
        let Some(within) = record.within else { continue };
        let known = newest.partition_point(|(proof, _)| proof.at.1 + within < record.at.0);
        let Some((proof, version)) = known.checked_sub(1).map(|at| newest[at]) else { continue };
        if record.proves() < Some(version) {
            found.push(format!("older than said, within {within:?}: {record} misses {proof}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::history::Key;
    use bytes::Bytes;
    use kvorum_api::{Actor, KeyspaceId, Stamp};
    use std::time::Duration;

    fn version(stamp: u64) -> Version {
        Version { stamp: Stamp(stamp), actor: Actor::default() }
    }

    fn record(at_ms: (u64, u64), asked: Asked, told: Told) -> Record {
        let key = Key { keyspace: KeyspaceId(1), name: Bytes::from_static(b"k") };
        let at = (Duration::from_millis(at_ms.0), Duration::from_millis(at_ms.1));
        Record::new((1, key, asked), at_ms, at, (told, None))
    }

    fn put(at_ms: (u64, u64), stamp: u64) -> Record {
        record(at_ms, Asked::Put(Bytes::from_static(b"v")), Told::Applied(version(stamp), None))
    }

    fn bounded(at_ms: (u64, u64), bound_ms: u64, stamp: Option<u64>) -> Record {
        let bound = Duration::from_millis(bound_ms);
        let told = Told::Found(stamp.map(|stamp| (version(stamp), Bytes::from_static(b"v"))));
        Record { within: Some(bound), ..record(at_ms, Asked::Read(ReadLevel::Bounded(bound)), told) }
    }

    fn judge(records: &[&Record]) -> String {
        let mut found = Vec::new();
        check(records, &mut found);
        found.join("\n")
    }

    #[test]
    fn an_answer_older_than_its_bound_is_found() {
        let (first, second) = (put((1, 10), 5), put((20, 30), 6));
        assert_eq!(judge(&[&first, &second, &bounded((100, 105), 70, Some(5))]), "", "30 was not before 100 - 70");
        assert!(judge(&[&first, &second, &bounded((101, 105), 70, Some(5))]).contains("older than said"));
        assert!(judge(&[&first, &bounded((101, 105), 70, None)]).contains("older than said"));
    }

    #[test]
    fn an_answer_that_does_not_claim_its_bound_is_found() {
        let claims_more = Record { within: Some(Duration::from_millis(71)), ..bounded((1, 2), 70, None) };
        assert!(judge(&[&claims_more]).contains("weaker than asked"));
        let claims_nothing = Record { within: None, ..bounded((1, 2), 70, None) };
        assert!(judge(&[&claims_nothing]).contains("weaker than asked"));
    }

    #[test]
    fn a_session_that_goes_back_is_found() {
        let told = Told::Found(Some((version(5), Bytes::from_static(b"v"))));
        let read = record((1, 2), Asked::Read(ReadLevel::Session), told);
        let seen = |stamp| Record { floor: Some(version(stamp)), ..read.clone() };
        assert_eq!(judge(&[&seen(5)]), "");
        assert!(judge(&[&seen(6)]).contains("went back"));
    }
}
