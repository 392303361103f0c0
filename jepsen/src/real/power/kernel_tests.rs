//! A page cache in miniature, against which the judgement on overlapping syncs is held.
//!
//! ```text
//!   write ─▶ dirty ─┬─ a sync that will succeed, some time before it ends ─▶ on disk
//!                   └─ one that will fail, some time before it ends ───────▶ clean, and not on disk
//! ```

use super::*;
use proptest::prelude::*;
use rand::SeedableRng as _;

const SECTORS: u64 = 3;
const SYNCS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Write(u64),
    /// Begins this sync if it is not under way, and otherwise ends it; it succeeds, or not.
    Sync(usize, bool),
    /// This sync writes a sector back, if it is under way.
    WriteBack(usize, u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0..SECTORS).prop_map(Step::Write),
        4 => (0..SYNCS, prop::bool::weighted(0.6)).prop_map(|(sync, is_ok)| Step::Sync(sync, is_ok)),
        4 => (0..SYNCS, 0..SECTORS).prop_map(|(sync, sector)| Step::WriteBack(sync, sector)),
    ]
}

/// A sync under way.
#[derive(Clone, Copy)]
struct UnderWay {
    number: u64,
    begun: usize,
    is_ok: bool,
}

/// Every sector holds one byte, over and over: the number of the write.
#[derive(Default)]
struct Kernel {
    log: Vec<Record>,
    cache: [u8; SECTORS as usize],
    disk: [u8; SECTORS as usize],
    is_dirty: [bool; SECTORS as usize],
    syncs: [Option<UnderWay>; SYNCS],
    ended: Vec<(UnderWay, usize)>,
    /// Where each sector was written.
    writes: [Vec<usize>; SECTORS as usize],
    number: u64,
}

impl Kernel {
    fn act(&mut self, step: &Step) {
        match *step {
            Step::Write(sector) => {
                let place = sector as usize;
                let before = vec![self.cache[place]; SECTOR_BYTES as usize];
                let (offset, old_length) = (sector * SECTOR_BYTES, SECTORS * SECTOR_BYTES);
                self.writes[place].push(self.log.len());
                self.log.push(Record::Write { file: 1, offset, bytes: SECTOR_BYTES, old_length, before });
                self.number += 1;
                self.cache[place] = self.number as u8;
                self.is_dirty[place] = true;
            }
            Step::WriteBack(sync, sector) => {
                if let Some(sync) = self.syncs[sync] {
                    self.write_back(sync, sector as usize);
                }
            }
            Step::Sync(place, is_ok) => match self.syncs[place].take() {
                None => {
                    self.number += 1;
                    self.syncs[place] = Some(UnderWay { number: self.number, begun: self.log.len(), is_ok });
                    self.log.push(Record::SyncBegun { file: 1, number: self.number });
                }
                Some(sync) => self.end(sync),
            },
        }
    }

    fn write_back(&mut self, sync: UnderWay, sector: usize) {
        if self.is_dirty[sector] {
            self.is_dirty[sector] = false;
            if sync.is_ok {
                self.disk[sector] = self.cache[sector];
            }
        }
    }

    /// What is dirty still is written back before it returns; one that fails gives up somewhere.
    fn end(&mut self, sync: UnderWay) {
        if sync.is_ok {
            (0..SECTORS as usize).for_each(|sector| self.write_back(sync, sector));
        }
        self.ended.push((sync, self.log.len()));
        self.log.push(Record::SyncEnded { file: 1, number: sync.number, is_ok: sync.is_ok });
    }

    /// Whether a successful sync began after the last write of a sector, and no failed one can have been in its way:
    /// each was over before the write, or began after the success.
    fn is_promised(&self, sector: usize) -> bool {
        let Some(written) = self.writes[sector].last() else { return true };
        let failed = |success_ended: usize| {
            let mut failed = self.ended.iter().filter(|(sync, _)| !sync.is_ok);
            failed.any(|(sync, ended)| ended > written && sync.begun < success_ended)
        };
        self.ended.iter().any(|(sync, ended)| sync.is_ok && sync.begun > *written && !failed(*ended))
    }

    fn now(&self) -> Vec<u8> {
        self.cache.iter().flat_map(|byte| [*byte; SECTOR_BYTES as usize]).collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    /// Nothing that must be on disk may be lost, and whatever such a system has on disk is among what may be left.
    #[test]
    fn overlapping_syncs_are_judged_as_a_system_may_treat_them(
        steps in proptest::collection::vec(step(), 1..30), seed: u64,
    ) {
        let mut kernel = Kernel::default();
        steps.iter().for_each(|step| kernel.act(step));
        // One that is under way when the power fails told nobody anything. The model takes it for sound: those that
        // would fail end first.
        let syncs = kernel.syncs.iter_mut();
        let failing: Vec<UnderWay> = syncs.filter_map(|sync| sync.take_if(|sync| !sync.is_ok)).collect();
        failing.into_iter().for_each(|sync| kernel.end(sync));
        let (now, story) = (kernel.now(), stories(&kernel.log).remove(&1).unwrap_or_default());
        let versions = story.versions(&now);
        for sector in 0..SECTORS as usize {
            let possible: Vec<u8> = match versions.get(&(sector as u64)) {
                None => vec![kernel.cache[sector]],
                Some(versions) => versions.iter().map(|(_, bytes)| bytes[0]).collect(),
            };
            prop_assert!(possible.contains(&kernel.disk[sector]), "{sector}: {possible:?}, {:?}", kernel.disk);
            if kernel.is_promised(sector) {
                prop_assert_eq!(possible, vec![kernel.cache[sector]], "sector {} was promised", sector);
            }
        }
        let mut chance = SmallRng::seed_from_u64(seed);
        for survives in [Survives::Nothing, Survives::Anything, Survives::First] {
            for (sector, bytes) in story.lose(&now, survives, &mut chance).sectors {
                prop_assert!(!kernel.is_promised(sector as usize), "{sector} {:?}", bytes[0]);
            }
        }
    }
}
