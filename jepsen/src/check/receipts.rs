//! Receipts: does a reply deliver what it claims, and at least what was asked?
//!
//! ```text
//!   write v7 acknowledged ──┤    claimed: within 100 ms    ├── read asked       it must show v7 or newer
//! ```
//!
//! What a read shows is known by its version, or else by its value if only one write wrote that. A claim of
//! `linearizable` is a claim of zero.
//!
//! **Invariant.** Judged against acknowledged writes only: what nobody was told of, no reply owes.

use super::{
    coverage::Coverage,
    report::{Finding, Options, Report, Unfit},
    versions::{is_read, version},
};
use crate::history::{History, Operation, Rank, Receipt, Value};
use kvorum_api::ReadLevel;
use std::collections::BTreeMap;

const MILLISECOND_NS: u64 = 1_000_000;

/// Judges every receipt of a history.
pub fn check(history: &History, _options: &Options) -> Result<Report, Unfit> {
    let mut keys: BTreeMap<Option<&str>, Vec<&Operation>> = BTreeMap::new();
    for operation in &history.operations {
        keys.entry(operation.key.as_deref()).or_default().push(operation);
    }
    let mut findings = Vec::new();
    let mut judged = 0;
    for (key, operations) in keys {
        let writes = Writes::of(&operations);
        for read in operations.iter().filter(|operation| is_read(operation) && operation.is_ok()) {
            let Some(receipt) = &read.receipt else { continue };
            judged += 1;
            if let Some(what) = weaker_than_asked(read, receipt) {
                findings.push(Finding::new(key, what, &[read.id]));
            }
            // Who asks for a bound asks at the moment the call begins, whatever is claimed of a later one.
            let promised = [(asked_ms(read), "asked for"), (claimed_ms(receipt), "said")];
            let promised = promised.into_iter().filter_map(|(within_ms, word)| Some((within_ms?, word))).min();
            let Some((within_ms, word)) = promised else { continue };
            if let Some(missed) = writes.missed(read, within_ms.saturating_mul(MILLISECOND_NS)) {
                let what = format!("older than {word}, within {within_ms} ms: {read} misses {missed}");
                findings.push(Finding::new(key, what, &[missed.id, read.id]));
            }
        }
    }
    Ok(Report::weigh("receipts", Coverage::of(history, judged, "read with a receipt"), findings, Vec::new()))
}

/// How old the answer may be by its own word.
fn claimed_ms(receipt: &Receipt) -> Option<u64> {
    if receipt.level == Some(ReadLevel::Linearizable) { Some(0) } else { receipt.within_ms }
}

/// How old the answer may be by what was asked.
fn asked_ms(read: &Operation) -> Option<u64> {
    match read.level? {
        ReadLevel::Bounded(bound) => Some(u64::try_from(bound.as_millis()).unwrap_or(u64::MAX)),
        ReadLevel::Linearizable => Some(0),
        ReadLevel::Session | ReadLevel::Quorum | ReadLevel::All | ReadLevel::Local | ReadLevel::One => None,
    }
}

/// A claim counts from the last time a node was asked, which may be as late as the answer: a call that was repeated for
/// a while may be told a larger number for the same state.
fn weaker_than_asked(read: &Operation, receipt: &Receipt) -> Option<String> {
    let delivered = receipt.level.map_or("nothing".to_owned(), |level| level.to_string());
    let is_weaker = match read.level? {
        ReadLevel::Bounded(bound) => {
            let bound_ms = u64::try_from(bound.as_millis()).unwrap_or(u64::MAX);
            let took_ns = read.ended_ns.unwrap_or(read.invoked_ns) - read.invoked_ns;
            let bound_ms = bound_ms.saturating_add(took_ns.div_ceil(MILLISECOND_NS));
            claimed_ms(receipt).is_none_or(|within_ms| within_ms > bound_ms)
        }
        ReadLevel::Linearizable => receipt.level != Some(ReadLevel::Linearizable),
        ReadLevel::Session => !matches!(receipt.level, Some(ReadLevel::Session | ReadLevel::Linearizable)),
        ReadLevel::Quorum => !matches!(receipt.level, Some(ReadLevel::Quorum | ReadLevel::All)),
        ReadLevel::All => receipt.level != Some(ReadLevel::All),
        ReadLevel::Local | ReadLevel::One => false,
    };
    let within = receipt.within_ms.map_or("of unknown age".to_owned(), |within_ms| format!("within {within_ms} ms"));
    let asked = read.level?;
    is_weaker.then(|| format!("weaker than asked: {read} asked for {asked}, got {delivered} {within}"))
}

/// The acknowledged writes of one key.
struct Writes<'a> {
    /// By the moment they were acknowledged: the newest version until then.
    by_version: Vec<(u64, &'a Rank, &'a Operation)>,
    /// By the moment they were acknowledged: the one that began last until then.
    by_begin: Vec<(u64, &'a Operation)>,
    /// The only write of each value, where there is only one.
    only: BTreeMap<&'a Value, Option<&'a Operation>>,
    /// Whether "nothing there" may be news.
    has_deletes: bool,
}

impl<'a> Writes<'a> {
    fn of(operations: &[&'a Operation]) -> Self {
        let is_write = |operation: &&&Operation| !is_read(operation) && operation.result != Value::Bool(false);
        let mut acknowledged: Vec<&Operation> =
            operations.iter().filter(is_write).filter(|operation| operation.is_ok()).copied().collect();
        acknowledged.sort_by_key(|operation| operation.ended_ns);
        let has_deletes =
            operations.iter().any(|operation| operation.name == "delete" && operation.may_have_happened());
        let mut writes = Writes { by_version: Vec::new(), by_begin: Vec::new(), only: BTreeMap::new(), has_deletes };
        for write in acknowledged {
            let Some(ended_ns) = write.ended_ns else { continue };
            if let Some(version) = version(write)
                && writes.by_version.last().is_none_or(|(_, known, _)| version > *known)
            {
                writes.by_version.push((ended_ns, version, write));
            }
            if writes.by_begin.last().is_none_or(|(_, known)| write.invoked_ns > known.invoked_ns) {
                writes.by_begin.push((ended_ns, write));
            }
        }
        for write in operations.iter().filter(is_write).filter(|operation| operation.may_have_happened()) {
            let value = match write.name.as_str() {
                "write" | "put" => Some(&write.argument),
                "cas" => write.argument.as_list().and_then(<[Value]>::last),
                _ => None,
            };
            if let Some(value) = value {
                writes.only.entry(value).and_modify(|only| *only = None).or_insert(Some(*write));
            }
        }
        writes
    }

    /// An acknowledged write that the read should have seen.
    fn missed(&self, read: &Operation, within_ns: u64) -> Option<&'a Operation> {
        let owed_ns = read.invoked_ns.saturating_sub(within_ns);
        if let Some(at) = self.by_version.partition_point(|(ended_ns, ..)| *ended_ns < owed_ns).checked_sub(1) {
            let (_, newest, write) = self.by_version[at];
            let is_comparable = version(read).is_some() || (read.result.is_nil() && !self.has_deletes);
            return (is_comparable && version(read) < Some(newest)).then_some(write);
        }
        let at = self.by_begin.partition_point(|(ended_ns, _)| *ended_ns < owed_ns).checked_sub(1)?;
        let (_, last) = self.by_begin[at];
        let is_overwritten = match self.only.get(&read.result) {
            Some(Some(shown)) => shown.precedes(last),
            // Nothing was there before the first write.
            None => read.result.is_nil() && !self.has_deletes,
            Some(None) => false,
        };
        is_overwritten.then_some(last)
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{history, reasons};
    use super::*;

    const WRITES: &str = "1-2 c1 write:x 1 ok version=5\n3-4 c1 write:x 2 ok version=6\n";

    fn judge(lines: &str) -> String {
        reasons(check(&history(lines), &Options::default()).unwrap()).join("\n")
    }

    fn read(at_ms: u64, rest: &str) -> String {
        format!("{}-{} c2 read:x{rest}", at_ms * MILLISECOND_NS, at_ms * MILLISECOND_NS + 1)
    }

    #[test]
    fn an_answer_older_than_it_says_is_found() {
        assert_eq!(judge(&format!("{WRITES}{}", read(50, " - 1 version=5 within=50"))), "");
        assert!(
            judge(&format!("{WRITES}{}", read(50, " - 1 version=5 within=49")))
                .contains("older than said, within 49 ms")
        );
        assert!(judge(&format!("{WRITES}{}", read(50, " - null within=49"))).contains("older than said"));
        assert!(judge(&format!("{WRITES}{}", read(50, " - 1 version=5 level=linearizable"))).contains("within 0 ms"));
        assert_eq!(judge(&format!("{WRITES}{}", read(50, " - 1 version=5 level=local"))), "", "claims nothing");
    }

    #[test]
    fn without_versions_unique_values_name_the_writes() {
        let plain = WRITES.replace(" version=5", "").replace(" version=6", "");
        assert_eq!(judge(&format!("{plain}{}", read(50, " - 2 within=10"))), "");
        assert!(judge(&format!("{plain}{}", read(50, " - 1 within=10"))).contains("misses write 2 on x"));
        assert!(judge(&format!("{plain}{}", read(50, " - null within=10"))).contains("misses write 2 on x"));
        assert_eq!(judge(&format!("{plain}5-6 c1 delete:x - ok\n{}", read(50, " - null within=10"))), "");
    }

    #[test]
    fn a_bounded_read_that_took_long_owes_what_was_there_when_it_began() {
        let took_5_ms =
            |rest: &str| judge(&format!("{WRITES}{}-{} c2 read:x{rest}", 50 * MILLISECOND_NS, 55 * MILLISECOND_NS));
        assert_eq!(took_5_ms("@bounded(20ms) - 2 version=6 within=25 level=bounded(20ms)"), "");
        assert!(took_5_ms("@bounded(20ms) - 2 version=6 within=26").contains("weaker than asked"));
        assert!(took_5_ms("@bounded(20ms) - 1 version=5 within=25").contains("older than asked for, within 20 ms"));
    }

    #[test]
    fn an_answer_weaker_than_asked_is_found() {
        let asked =
            |level: &str, got: &str| judge(&format!("{WRITES}{}", read(50, &format!("@{level} - 2 version=6 {got}"))));
        assert_eq!(asked("bounded(20ms)", "within=20 level=bounded(20ms)"), "");
        assert!(asked("bounded(20ms)", "within=22").contains("weaker than asked"));
        assert!(asked("bounded(20ms)", "level=local").contains("of unknown age"));
        assert!(asked("linearizable", "level=session").contains("got session"));
        assert_eq!(asked("session", "level=linearizable"), "");
        assert!(asked("session", "level=local").contains("weaker than asked"));
        assert_eq!(asked("local", "level=local"), "");
    }
}
