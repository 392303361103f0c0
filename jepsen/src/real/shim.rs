//! The shim in one node: what it is told, what it has seen.
//!
//! ```text
//!   n1/shim/control   a page both sides know        log · held/   for power loss (power)
//! ```
//!
//! **Invariant.** Whoever has a [`Shim`] has a program that can load it; whether it did is asked ([`Shim::check`]).

#[path = "../../shim/src/layout.rs"]
pub mod layout;
#[path = "../../shim/src/record.rs"]
pub mod record;

use super::{
    directory::ProcessName,
    power::{self, Lost},
};
use anyhow::{Context, Result};
use layout::{
    CONTROL, Counter, DATA_VARIABLE, FOR_EVER, Fault, HELD, HOME_VARIABLE, MAGIC, PAGE_BYTES, PARAMETER, PARTS, Part,
    REMAINING, Unmodelled, Word,
};
use rand::rngs::SmallRng;
use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    process::Command,
};

/// What the linker calls it.
const LIBRARY: &str = "libkvorum_jepsen_shim.so";

/// How nodes are started.
#[derive(Clone, Debug)]
pub enum Preload {
    /// As they are.
    NotWanted,
    /// Faults want the shim, and it cannot be had: why, and what to do.
    Missing(String),
    /// With it.
    Library {
        /// Where it is.
        path: PathBuf,
        /// Whether power may be lost.
        is_recording: bool,
    },
}

impl Preload {
    /// Looks for the library: as told, or beside this program.
    #[must_use]
    pub fn find(told: Option<&Path>, kvd: &Path, is_recording: bool) -> Self {
        let here = std::env::current_exe().and_then(|here| here.canonicalize()).unwrap_or_default();
        let beside = here.parent().unwrap_or(Path::new("."));
        let places = match told {
            Some(path) => vec![path.to_owned()],
            // Cargo puts it there along with this program; beside it may lie one of an earlier build.
            None => vec![beside.join("deps").join(LIBRARY), beside.join(LIBRARY)],
        };
        let Some(path) = places.iter().find(|path| path.is_file()) else {
            let how = "build it with `cargo build -p kvorum-jepsen-shim`, or name it with --shim";
            return Preload::Missing(format!("there is no shim at {}: {how}", places[0].display()));
        };
        match is_dynamic(kvd) {
            Ok(true) => {
                let path = path.canonicalize().unwrap_or_else(|_| path.clone());
                Preload::Library { path, is_recording }
            }
            Ok(false) => Preload::Missing(format!(
                "{} is linked statically, and no shim can be loaded into it: link it with the system's C library",
                kvd.display()
            )),
            Err(error) => Preload::Missing(format!("{} is no program for Linux: {error}", kvd.display())),
        }
    }
}

/// Whether a program asks for a loader, which is who loads a shim.
fn is_dynamic(program: &Path) -> io::Result<bool> {
    const INTERPRETER: u32 = 3;
    let file = File::open(program)?;
    let mut header = [0; 64];
    file.read_exact_at(&mut header, 0)?;
    if header[..5] != *b"\x7fELF\x02" {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is no ELF file of 64 bits"));
    }
    let short = |at: usize| u64::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let table = u64::from_le_bytes(header[32..40].try_into().expect("eight bytes"));
    for entry in 0..short(56) {
        let mut kind = [0; 4];
        file.read_exact_at(&mut kind, table.saturating_add(entry * short(54)))?;
        if u32::from_le_bytes(kind) == INTERPRETER {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The shim of one node.
#[derive(Clone, Debug)]
pub struct Shim {
    library: PathBuf,
    home: PathBuf,
    data: PathBuf,
}

impl Shim {
    /// Makes its files.
    pub fn prepare(library: &Path, home: PathBuf, data: PathBuf, is_recording: bool) -> Result<Self> {
        fs::create_dir_all(home.join(HELD)).with_context(|| home.display().to_string())?;
        let shim = Shim { library: library.to_owned(), home, data };
        fs::write(shim.home.join(CONTROL), vec![0; PAGE_BYTES as usize])?;
        shim.set(Word::Recording as u64, u64::from(is_recording))?;
        shim.set(Word::Magic as u64, MAGIC)?;
        Ok(shim)
    }

    /// Starts a program with it. Nobody else that has it may run meanwhile: what the last one left is put right.
    pub fn dress(&self, command: &mut Command) -> Result<()> {
        power::mend_log(&self.home)?;
        command.env("LD_PRELOAD", &self.library).env(HOME_VARIABLE, &self.home).env(DATA_VARIABLE, &self.data);
        Ok(())
    }

    /// What is in the way of believing it: it was not loaded, or saw something that it cannot undo.
    #[must_use]
    pub fn check(&self) -> Option<String> {
        if self.word(Word::Starts as u64) == 0 {
            return Some("the shim was not loaded".to_owned());
        }
        let process = u32::try_from(self.word(Word::Process as u64)).unwrap_or_default();
        let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap_or_default();
        let is_loaded = maps.contains(&self.library.display().to_string());
        if ProcessName::of(process).is_some() && !maps.is_empty() && !is_loaded {
            return Some("the process that loaded the shim is another one by now".to_owned());
        }
        None
    }

    /// What the shim saw and cannot undo, if there is any: a rollback would be none.
    #[must_use]
    pub fn is_not_covered(&self) -> Option<String> {
        let failures = self.count(Counter::RecordFailures);
        if failures > 0 {
            return Some(format!("{failures} changes could not be written down"));
        }
        let first = Unmodelled::name(self.word(Counter::UnmodelledKind as u64));
        match self.count(Counter::Unmodelled) {
            0 => None,
            calls => Some(format!("{calls} calls cannot be undone, the first was {first}")),
        }
    }

    /// Why the loss of power would show nothing, if it would not: nothing is written down, or no sync of the journal
    /// was ever seen, so that a write-ahead log that bypasses the shim would survive whole.
    #[must_use]
    pub fn has_nothing_to_lose(&self) -> Option<&'static str> {
        if self.word(Word::Recording as u64) != 1 {
            return Some("what is not synced is not written down");
        }
        (self.seen(Part::Journal).0 == 0).then_some("no sync of the journal was ever seen")
    }

    /// Sets a fault: for which parts (a sum of [`Part`]), how often, with which parameter.
    pub fn arm(&self, fault: Fault, parts: u64, times: Option<u64>, parameter: u64) -> Result<()> {
        let first = fault as u64;
        self.set(first, 0)?;
        self.set(first + PARTS, parts)?;
        self.set(first + REMAINING, times.unwrap_or(FOR_EVER))?;
        self.set(first + PARAMETER, parameter)?;
        self.set(first, 1)
    }

    /// Ends a fault.
    pub fn disarm(&self, fault: Fault) -> Result<()> {
        self.set(fault as u64, 0)
    }

    /// The clock is off by `offset_ns`, and during every other period by `height_ns` more; 0 = no strobe.
    pub fn set_clock(&self, offset_ns: i64, height_ns: i64, period_ns: i64) -> Result<()> {
        self.set(Word::StrobePeriod as u64, 0)?;
        self.set(Word::StrobeHeight as u64, height_ns as u64)?;
        self.set(Word::ClockOffset as u64, offset_ns as u64)?;
        self.set(Word::StrobePeriod as u64, period_ns as u64)
    }

    /// Ends everything.
    pub fn heal(&self) -> Result<()> {
        for fault in [Fault::SlowSync, Fault::FailSync, Fault::FailWrite, Fault::DiskFull] {
            self.disarm(fault)?;
        }
        self.set_clock(0, 0, 0)
    }

    /// A counter.
    #[must_use]
    pub fn count(&self, counter: Counter) -> u64 {
        self.word(counter as u64)
    }

    /// Syncs and writes of a part.
    #[must_use]
    pub fn seen(&self, part: Part) -> (u64, u64) {
        (
            self.word(Counter::word_of(Counter::SyncsJournal, part)),
            self.word(Counter::word_of(Counter::WritesJournal, part)),
        )
    }

    /// The power of a node that does not run fails: nothing unsynced survives, or what is drawn of it.
    pub fn lose_power(&self, loses_all: bool, chance: &mut SmallRng) -> Result<Lost> {
        power::lose(&self.data, &self.home, loses_all, chance)
    }

    fn word(&self, word: u64) -> u64 {
        let mut bytes = [0; 8];
        let read = File::open(self.home.join(CONTROL)).and_then(|file| file.read_exact_at(&mut bytes, word * 8));
        read.map_or(0, |()| u64::from_ne_bytes(bytes))
    }

    fn set(&self, word: u64, value: u64) -> Result<()> {
        let path = self.home.join(CONTROL);
        let file = File::options().write(true).open(&path);
        let set = file.and_then(|file| file.write_all_at(&value.to_ne_bytes(), word * 8));
        set.with_context(|| path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_a_loader_and_a_library_that_is_not_there_are_told() {
        let here = std::env::current_exe().unwrap();
        assert!(is_dynamic(&here).unwrap());
        let directory = tempfile::tempdir().unwrap();
        let library = directory.path().join(LIBRARY);
        let missing = Preload::find(Some(&library), &here, true);
        assert!(matches!(&missing, Preload::Missing(why) if why.contains("cargo build -p kvorum-jepsen-shim")));
        fs::write(&library, b"").unwrap();
        assert!(matches!(Preload::find(Some(&library), &here, true), Preload::Library { .. }));
        // The smallest header of a program that asks for nobody.
        let mut program = vec![0; 64 + 56];
        program[..5].copy_from_slice(b"\x7fELF\x02");
        (program[32], program[54], program[56], program[64]) = (64, 56, 1, 1);
        let file = directory.path().join("static");
        fs::write(&file, &program).unwrap();
        let refused = Preload::find(Some(&library), &file, true);
        assert!(matches!(&refused, Preload::Missing(why) if why.contains("linked statically")), "{refused:?}");
        program[64] = 3;
        fs::write(&file, &program).unwrap();
        assert!(is_dynamic(&file).unwrap());
    }

    #[test]
    fn what_is_set_is_a_word_of_the_page() {
        let home = tempfile::tempdir().unwrap();
        let shim = Shim::prepare(Path::new("x"), home.path().join("shim"), home.path().join("data"), true).unwrap();
        shim.arm(Fault::FailSync, Part::Journal as u64, Some(1), 7).unwrap();
        assert_eq!([0, 1, 2, 3].map(|word| shim.word(Fault::FailSync as u64 + word)), [1, 1, 1, 7]);
        shim.set_clock(-5, 3, 2).unwrap();
        assert_eq!(shim.word(Word::ClockOffset as u64) as i64, -5);
        shim.heal().unwrap();
        assert_eq!((shim.word(Fault::FailSync as u64), shim.word(Word::StrobePeriod as u64)), (0, 0));
        assert_eq!(shim.check().as_deref(), Some("the shim was not loaded"));
    }

    #[test]
    fn power_is_not_lost_where_that_would_show_nothing() {
        let home = tempfile::tempdir().unwrap();
        let prepare = |is_recording| {
            Shim::prepare(Path::new("x"), home.path().join("shim"), home.path().join("data"), is_recording)
        };
        let shim = prepare(false).unwrap();
        shim.set(Counter::SyncsJournal as u64, 5).unwrap();
        assert_eq!(shim.has_nothing_to_lose(), Some("what is not synced is not written down"));
        let shim = prepare(true).unwrap();
        assert_eq!(shim.has_nothing_to_lose(), Some("no sync of the journal was ever seen"));
        shim.set(Counter::SyncsJournal as u64, 5).unwrap();
        assert_eq!(shim.has_nothing_to_lose(), None);
    }
}
