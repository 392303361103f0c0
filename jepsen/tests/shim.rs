//! The shim before ordinary programs: what they do not sync is lost, what they sync is not, and the rest is as it is
//! told.
//!
//! The programs are a shell and those of coreutils: they know nothing of the shim.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "helpers of tests panic and print as tests do")]

use kvorum_jepsen::real::shim::{
    Preload, Shim,
    layout::{ALL_PARTS, Counter, Fault, Part},
};
use rand::{SeedableRng as _, rngs::SmallRng};
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

/// A data directory and a shim before it.
struct Place {
    root: tempfile::TempDir,
    shim: Shim,
}

impl Place {
    /// `None` = it cannot be tried here.
    fn new() -> Option<Self> {
        let shell = Path::new("/bin/sh");
        let jepsen = Path::new(env!("CARGO_BIN_EXE_jepsen"));
        let library = jepsen.parent().unwrap().join("deps/libkvorum_jepsen_shim.so");
        let path = match Preload::find(Some(&library), shell, true) {
            Preload::Library { path, .. } => path,
            Preload::Missing(why) => {
                println!("SKIPPED: {why}");
                return None;
            }
            Preload::NotWanted => unreachable!("it is looked for"),
        };
        let root = tempfile::tempdir().unwrap();
        let home = root.path().canonicalize().unwrap();
        fs::create_dir_all(home.join("data/journal")).unwrap();
        let shim = Shim::prepare(&path, home.join("shim"), home.join("data"), true).unwrap();
        Some(Place { root, shim })
    }

    fn data(&self) -> PathBuf {
        self.root.path().canonicalize().unwrap().join("data")
    }

    /// A script, in the data directory.
    fn run(&self, script: &str) -> Output {
        let mut command = Command::new("/bin/sh");
        self.shim.dress(&mut command).unwrap();
        command.arg("-c").arg(script).current_dir(self.data()).output().unwrap()
    }

    fn done(&self, script: &str) {
        let output = self.run(script);
        assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn lose_power(&self, seed: u64) {
        assert_eq!(self.shim.check(), None);
        assert_eq!(self.shim.is_not_covered(), None);
        self.shim.lose_power(seed.is_multiple_of(3), &mut SmallRng::seed_from_u64(seed)).unwrap();
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read(self.data().join(name)).ok().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}

/// What is found after each of many losses of power.
fn after(script: &str, found: impl Fn(&Place) -> Option<String>) -> Option<BTreeSet<Option<String>>> {
    let mut all = BTreeSet::new();
    for seed in 0..24 {
        let place = Place::new()?;
        place.done(script);
        place.lose_power(seed);
        all.insert(found(&place));
    }
    Some(all)
}

fn set(texts: &[Option<&str>]) -> BTreeSet<Option<String>> {
    texts.iter().map(|text| text.map(str::to_owned)).collect()
}

#[test]
fn what_was_synced_stays_and_what_was_written_later_may_go() {
    let script = "printf old > f && sync f && sync . && printf new | dd of=f conv=notrunc 2>/dev/null";
    let Some(found) = after(script, |place| place.read("f")) else { return };
    assert_eq!(found, set(&[Some("old"), Some("new")]));
    let synced = format!("{script} && sync f");
    assert_eq!(after(&synced, |place| place.read("f")).unwrap(), set(&[Some("new")]));
}

#[test]
fn a_name_whose_directory_was_not_synced_may_go_although_its_file_was() {
    let script = "printf x > f && sync f";
    let Some(found) = after(script, |place| place.read("f")) else { return };
    assert_eq!(found, set(&[None, Some("x")]));
    assert_eq!(after(&format!("{script} && sync ."), |place| place.read("f")).unwrap(), set(&[Some("x")]));
}

#[test]
fn removed_and_replaced_files_come_back() {
    let script = "printf one > a && printf two > b && sync a b && sync . && mv a b && rm b";
    let names = |place: &Place| {
        let (a, b) = (place.read("a"), place.read("b"));
        Some(format!("{} {}", a.as_deref().unwrap_or("-"), b.as_deref().unwrap_or("-")))
    };
    let Some(found) = after(script, names) else { return };
    assert_eq!(found, set(&[Some("one two"), Some("- one"), Some("- -")]));
}

/// Most file systems give the second directory the number of the first.
#[test]
fn a_removed_directory_comes_back_with_its_files_whoever_has_its_number() {
    let script = "mkdir one && printf old > one/a && sync one/a one . && rm one/a && rmdir one && mkdir two && \
                  printf new > two/x && sync two/x two";
    let both = |place: &Place| Some(format!("{:?} {:?}", place.read("one/a"), place.read("two/x")));
    let Some(found) = after(script, both) else { return };
    let whole = Some("Some(\"old\") None".to_owned());
    let later = Some("None Some(\"new\")".to_owned());
    assert!(found.contains(&whole) && found.contains(&later), "{found:?}");
    assert!(found.iter().flatten().all(|text| !text.starts_with("Some") || text.ends_with("None")), "{found:?}");
}

#[test]
fn sectors_of_one_write_are_lost_one_by_one() {
    let zeros = "head -c 4096 /dev/zero > journal/s && sync journal/s journal && sync .";
    let script =
        format!("{zeros} && tr '\\0' x < /dev/zero | head -c 2048 | dd of=journal/s bs=2048 conv=notrunc 2>/dev/null");
    let sectors = |place: &Place| {
        let bytes = fs::read(place.data().join("journal/s")).unwrap();
        assert_eq!(bytes.len(), 4096);
        let is_whole = |sector: &[u8]| sector.iter().all(|byte| *byte == sector[0]);
        assert!(bytes.chunks(512).all(is_whole), "a sector is written or it is not");
        Some(bytes.chunks(512).map(|sector| if sector[0] == 0 { '.' } else { 'x' }).collect())
    };
    let Some(found) = after(&script, sectors) else { return };
    assert!(found.contains(&Some("........".to_owned())) && found.len() > 3, "{found:?}");
    assert!(found.iter().flatten().all(|text| text.ends_with("....")), "{found:?}");
}

#[test]
fn a_cut_file_and_a_directory_that_was_made_may_come_back_and_go() {
    let script = "printf 12345 > f && sync f && sync . && : > f && mkdir d && printf x > d/x && sync d d/x";
    let both = |place: &Place| Some(format!("{:?} {:?}", place.read("f"), place.read("d/x")));
    let Some(found) = after(script, both) else { return };
    let text = |f: &str, x: &str| Some(format!("{f} {x}"));
    let (full, cut, there, gone) = ("Some(\"12345\")", "Some(\"\")", "Some(\"x\")", "None");
    assert_eq!(found, [text(full, there), text(full, gone), text(cut, there), text(cut, gone)].into());
}

#[test]
fn a_sync_fails_as_often_as_told_and_what_it_should_have_covered_stays_unsynced() {
    let mut found = BTreeSet::new();
    for seed in 0..24 {
        let Some(place) = Place::new() else { return };
        place.done("printf old > f && sync f && sync . && printf new | dd of=f conv=notrunc 2>/dev/null");
        place.shim.arm(Fault::FailSync, Part::Other as u64, Some(1), 0).unwrap();
        let output = place.run("sync f");
        assert!(!output.status.success() && String::from_utf8_lossy(&output.stderr).contains("Input/output error"));
        place.done("sync f");
        assert_eq!(place.shim.count(Counter::SyncsFailed), 1);
        assert_eq!(place.read("f").as_deref(), Some("new"), "the cache shows it nevertheless");
        place.lose_power(seed);
        found.insert(place.read("f"));
    }
    assert_eq!(found, set(&[Some("old"), Some("new")]), "the sync that went well covered nothing");
}

#[test]
fn a_full_disk_takes_what_needs_no_room() {
    let Some(place) = Place::new() else { return };
    place.done("printf 12345 > f");
    place.shim.arm(Fault::DiskFull, ALL_PARTS, None, 0).unwrap();
    for script in ["printf x > g", "printf x | dd of=f oflag=append conv=notrunc", "mkdir d", "truncate -s 10 f"] {
        let output = place.run(script);
        assert!(String::from_utf8_lossy(&output.stderr).contains("No space left"), "{script}: {output:?}");
    }
    place.done("printf 54321 | dd of=f conv=notrunc 2>/dev/null");
    assert_eq!((place.read("f").as_deref(), place.shim.count(Counter::RoomRefused)), (Some("54321"), 4));
    place.shim.heal().unwrap();
    place.done("printf x > g");
}

#[test]
fn writes_fail_in_the_part_that_is_named() {
    let Some(place) = Place::new() else { return };
    place.shim.arm(Fault::FailWrite, Part::Journal as u64, None, 0).unwrap();
    place.done("printf x > f");
    let output = place.run("printf x | dd of=journal/f");
    assert!(String::from_utf8_lossy(&output.stderr).contains("Input/output error"), "{output:?}");
    assert_eq!(place.shim.count(Counter::WritesRefused), 1);
}

#[test]
fn a_sync_takes_as_long_as_told() {
    let Some(place) = Place::new() else { return };
    place.shim.arm(Fault::SlowSync, ALL_PARTS, Some(1), 300_000_000).unwrap();
    let begun = tokio::time::Instant::now();
    place.done("printf x > f && sync f");
    assert!(begun.elapsed().as_millis() >= 300);
    assert_eq!((place.shim.count(Counter::SyncsDelayed), place.shim.seen(Part::Other).0), (1, 1));
}

#[test]
fn the_time_of_day_is_off_by_what_is_told_and_the_other_clock_is_not() {
    let Some(place) = Place::new() else { return };
    let seconds = |script: &str| -> i64 {
        let output = place.run(script);
        String::from_utf8_lossy(&output.stdout).trim().parse().unwrap()
    };
    let (now, day) = (seconds("date +%s"), 86_400);
    place.shim.set_clock(-day * 1_000_000_000, 0, 0).unwrap();
    assert!((seconds("date +%s") + day - now).abs() < 60);
    assert!(place.shim.count(Counter::ClockReads) > 0);
    place.shim.set_clock(0, day * 1_000_000_000, 1_000_000).unwrap();
    let told: BTreeSet<bool> = (0..40).map(|_| seconds("date +%s") > now + day / 2).collect();
    assert_eq!(told.len(), 2, "to and fro");
    place.shim.heal().unwrap();
    assert!((seconds("date +%s") - now).abs() < 60);
}

#[test]
fn what_cannot_be_undone_is_counted() {
    let Some(place) = Place::new() else { return };
    place.done("ln -s f link");
    let why = place.shim.is_not_covered().unwrap();
    assert_eq!(why, "1 calls cannot be undone, the first was a symbolic link");
}

#[test]
fn a_stream_over_an_open_file_is_counted_unless_it_is_the_log_of_the_engine() {
    let Some(place) = Place::new() else { return };
    let source = place.root.path().join("stream.c");
    let program = "#include <fcntl.h>\n#include <stdio.h>\nint main(int count, char **name) {\n\
                   FILE *stream = fdopen(open(name[1], O_RDWR | O_CREAT, 0600), name[2]);\n\
                   if (*name[2] != 'r') fputs(\"x\", stream);\nreturn fclose(stream);\n}\n";
    fs::write(&source, program).unwrap();
    let compiled = Command::new("cc").args(["-o", "stream", "stream.c"]).current_dir(place.root.path()).status();
    if !compiled.is_ok_and(|status| status.success()) {
        println!("SKIPPED: there is no compiler for C");
        return;
    }
    place.done("../stream f r && ../stream LOG w");
    assert_eq!(place.shim.is_not_covered(), None);
    place.done("../stream f w");
    let why = place.shim.is_not_covered().unwrap();
    assert_eq!(why, "1 calls cannot be undone, the first was a stream of the C library");
}
