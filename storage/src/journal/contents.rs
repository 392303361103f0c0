//! Contents: whose records each batch of a journal holds, for whoever judges what a recovery has kept.
//!
//! **Invariant.** Reads a copy that nobody else has open, and believes what any start would believe.

use super::BatchNumber;
use super::disk::MemDisk;
use super::medium::Medium as _;
use super::segment::{Role, Segment};
use super::walk::{Visit, Walk};
use crate::error::StorageError;
use kvorum_api::GroupId;
use std::collections::BTreeMap;

/// The batches that stand whole in the segments of a disk and have records, and whose records these are, in order.
/// Every start keeps the numbers of batches, and of a torn one the first records: so what a recovery has cut off is
/// what is here and not in its own contents.
///
/// # Errors
/// The disk cannot be read, or holds a format this build does not know.
///
/// # Panics
/// If a journal has the disk open.
pub fn contents(disk: &MemDisk) -> Result<BTreeMap<BatchNumber, Vec<GroupId>>, StorageError> {
    let medium = disk.take().expect("nobody else has the copy open");
    let io = |operation, why: std::io::Error| StorageError::io(operation, medium.path("."), &why);
    let mut batches: BTreeMap<BatchNumber, Vec<GroupId>> = BTreeMap::new();
    for name in medium.names().map_err(|why| io("list", why))? {
        let Some((Role::Segment, epoch)) = Role::parse(&name) else { continue };
        let file = medium.open(&name).map_err(|why| io("open", why))?;
        let segment = Segment { epoch, length: file.length().map_err(|why| io("open", why))?, file };
        let mut found: Vec<(BatchNumber, GroupId)> = Vec::new();
        let mut visit = |visit| {
            if let Visit::Record { record, place } = visit {
                found.push((place.batch, record.group));
            }
            Ok(())
        };
        let walked = Walk::new(&segment, &medium.path(&name)).run(None, &mut visit)?;
        for (batch, group) in found.into_iter().filter(|(batch, _)| *batch <= walked.complete) {
            batches.entry(batch).or_default().push(group);
        }
    }
    Ok(batches)
}

#[cfg(test)]
mod tests {
    use super::super::{Completion, Journal as _, JournalOptions, Mark, MemJournal};
    use super::*;

    #[test]
    fn a_start_keeps_the_numbers_of_batches() {
        let disk = MemDisk::new();
        let journal = MemJournal::open(disk.clone(), JournalOptions::small()).unwrap();
        for group in [3, 4, 3] {
            let (done, told) = std::sync::mpsc::channel();
            let done = Completion::Signal(Box::new(move |result| done.send(result).unwrap()));
            journal.mark(GroupId(group), Mark::Vote("v".into()), done).unwrap();
            assert_eq!(told.recv().unwrap(), Ok(()));
        }
        let before = contents(&disk.image()).unwrap();
        let groups: Vec<u64> = before.values().flatten().map(|group| group.0).collect();
        assert_eq!(groups, [3, 4, 3]);
        disk.kill();
        MemJournal::open(disk.clone(), JournalOptions::small()).unwrap();
        assert_eq!(contents(&disk.image()).unwrap(), before);
    }
}
