//! Diary: what readers of diaries were handed, as any history is written down and judged.
//!
//! ```text
//!   changes ─▶ read-changes  [[seq, key, version], [seq, key, version, "expire"], …]
//!   the whole map ─▶ resync  seq of the first change that is not in it               key: the shard
//! ```
//!
//! **Invariant.** What is judged here is what `jepsen check --model diary` judges in the file.

use super::verdict::{PROCESSES, convict_events, time_ns};
use crate::history::{self, Kind, Process, Value};
use kvorum_api::{ShardId, Version};
use kvorum_storage::changelog::{Change, ChangeKind};
use std::time::Duration;

/// Readers are processes above all clients.
const FIRST_READER: u64 = 1_000;

/// One thing that a reader was handed.
#[derive(Clone, Debug)]
pub struct Handed {
    /// Which reader.
    pub reader: u64,
    /// Whose diary.
    pub shard: ShardId,
    /// When it asked, and when it was answered: counted moments.
    pub moments: (u64, u64),
    /// The same two, by the clock on the wall of the world.
    pub at: (Duration, Duration),
    /// What it was.
    pub what: What,
}

/// What a reader may be handed.
#[derive(Clone, Debug)]
pub enum What {
    /// The next changes.
    Changes(Vec<Change>),
    /// The whole map, and the seq to go on from.
    Resync(u64),
}

/// How many changes were handed out, and how often a reader took the whole map.
#[must_use]
pub fn counted(handed: &[Handed]) -> (usize, usize) {
    handed.iter().fold((0, 0), |(changes, resyncs), handed| match &handed.what {
        What::Changes(more) => (changes + more.len(), resyncs),
        What::Resync(_) => (changes, resyncs + 1),
    })
}

/// What the check convicts.
#[must_use]
pub fn judge(handed: &[Handed]) -> Vec<String> {
    let mut found = Vec::new();
    convict_events(written(handed), &["diary"], &mut found);
    found
}

/// A history as it is written to a file.
#[must_use]
pub fn written(handed: &[Handed]) -> Vec<history::Record> {
    let mut events = Vec::new();
    for handed in handed {
        let (name, value) = match &handed.what {
            What::Changes(changes) => ("read-changes", Value::List(changes.iter().map(shown).collect())),
            What::Resync(next_seq) => ("resync", int(*next_seq)),
        };
        let event = |at, moment, kind| {
            let process = Process::Client((FIRST_READER + handed.reader) * PROCESSES);
            let event = history::Record::new(time_ns(at, moment), process, kind, name);
            let session = Some(format!("reader {}", handed.reader));
            history::Record { session, ..event.with_key(&format!("shard {}", handed.shard)) }
        };
        let ok = event(handed.at.1, handed.moments.1, Kind::Ok);
        events.push((handed.moments.0, event(handed.at.0, handed.moments.0, Kind::Invoke)));
        events.push((handed.moments.1, history::Record { value, ..ok }));
    }
    events.sort_by_key(|(moment, _)| *moment);
    events.into_iter().map(|(_, event)| event).collect()
}

fn shown(change: &Change) -> Value {
    let Version { stamp, actor } = change.version;
    let version = Value::List([stamp.0, actor.node.0, actor.start.0].map(int).into());
    let key = Value::Text(change.key.escape_ascii().to_string());
    let mut shown = vec![int(change.seq), key, version];
    if change.kind == ChangeKind::Expire {
        shown.push(Value::Text("expire".to_owned()));
    }
    Value::List(shown)
}

fn int(number: u64) -> Value {
    Value::Int(i64::try_from(number).expect("nothing that is counted here comes this far"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use kvorum_api::{Actor, Stamp};

    fn change(seq: u64, kind: ChangeKind, stamp: u64) -> Change {
        Change {
            seq,
            is_last_of_batch: true,
            kind,
            key: Bytes::from_static(b"\xffk"),
            version: Version { stamp: Stamp(stamp), actor: Actor::default() },
            request: None,
            principal: Bytes::new(),
            time_ms: 0,
            new: None,
            old: None,
        }
    }

    fn handed(reader: u64, moment: u64, what: What) -> Handed {
        let at = Duration::from_millis(moment);
        Handed { reader, shard: ShardId(4), moments: (moment, moment + 1), at: (at, at), what }
    }

    fn judged(handed: &[Handed]) -> String {
        judge(handed).join("\n")
    }

    #[test]
    fn honest_readers_pass_and_a_gap_is_convicted() {
        let first =
            handed(1, 0, What::Changes(vec![change(1, ChangeKind::Insert, 5), change(2, ChangeKind::Modify, 6)]));
        let gone = handed(1, 2, What::Changes(vec![change(3, ChangeKind::Expire, 6)]));
        let later = handed(1, 4, What::Changes(vec![change(9, ChangeKind::Insert, 9)]));
        let resync = handed(1, 3, What::Resync(9));
        let resync = Handed { moments: (30, 31), ..resync };
        let later = Handed { moments: (40, 41), ..later };
        assert_eq!(judged(&[first.clone(), gone.clone(), resync.clone(), later.clone()]), "");
        assert!(judged(&[first.clone(), gone, later]).contains("a gap: reader 1 was handed seq 9 after 3"));
        assert_eq!(counted(&[first, resync]), (2, 1));
    }

    /// What a loss of power takes back after it was shown comes again as something else.
    #[test]
    fn a_change_that_was_shown_and_lost_is_convicted() {
        let first = handed(1, 0, What::Changes(vec![change(1, ChangeKind::Insert, 5)]));
        let other = handed(2, 2, What::Changes(vec![change(1, ChangeKind::Insert, 7)]));
        assert!(judged(&[first, other]).contains("two changes have seq 1"));
    }
}
