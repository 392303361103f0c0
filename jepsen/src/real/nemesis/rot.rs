//! Bits of a stopped node's engine are flipped, in its sorted files, as a disk does that rots.
//!
//! ```text
//!   nothing flushed yet: stopped in order ─┐                    ┌─ refuses, and names the file
//!   else: killed                          ─┴▶ bits flip ▶ start ┼─ serves, and errors where it meets them
//!                                                               └─ promises nothing more
//! ```
//!
//! The places are drawn from the first three quarters of a file, where its rows are; behind them stand filters and
//! indexes. Rows lie in blocks with a checksum each: a block is read only when somebody asks for one of its rows, so a
//! node may serve for long before it finds out, and what nobody asks for is never found.
//!
//! **Invariant.** Nobody is shown garbage: that is for the checks of the workloads to say. A node that refuses to start
//! says which file it was; one that does not say so has no excuse. When it is over every bit that is still there is
//! flipped back, because a disk that is gone for good is another fault.

use super::{Cluster, Nemesis, Outcome, Seen, aim, count, flip, told};
use crate::{
    history::Value,
    real::{node::Readiness, seats::Seat},
};
use anyhow::Result;
use futures::future::BoxFuture;
use rand::{Rng as _, rngs::SmallRng, seq::IndexedRandom as _};
use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::time::{Instant, sleep};

/// Files hit, if there are as many.
const FILES: usize = 3;

/// Bytes flipped in each, close together.
const BYTES: u64 = 4;

/// How far apart they are at most.
const REACH: u64 = 64;

/// Files shorter than this hold no rows.
const FILE_BYTES_MIN: u64 = 256;

/// How long an orderly stop may take.
const STOP_MAX: Duration = Duration::from_secs(15);

/// How long a node may take to refuse or to serve.
const ANSWER_MAX: Duration = Duration::from_secs(15);

const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is in the answer of a node that promises nothing more.
const POISONED: &str = "poisoned";

/// A flipped byte.
#[derive(Clone, Debug)]
struct Flipped {
    file: PathBuf,
    number: u64,
    at: u64,
    mask: u8,
    /// What it is now.
    now: u8,
}

/// Rot in one node's engine.
pub struct Rot {
    target: String,
    chance: SmallRng,
    node: u64,
    is_held_down: bool,
    /// How often it had fallen before.
    falls_before: usize,
    flipped: Vec<Flipped>,
}

impl Rot {
    /// Flips nothing yet.
    pub fn new(target: &str, chance: SmallRng) -> Self {
        let (target, flipped) = (target.to_owned(), Vec::new());
        Rot { target, chance, node: 0, is_held_down: false, falls_before: 0, flipped }
    }

    fn flip(&mut self, files: &[PathBuf]) -> Result<()> {
        let hit: Vec<PathBuf> = files.choose_multiple(&mut self.chance, FILES).cloned().collect();
        for file in hit {
            let found = fs::metadata(&file)?;
            let start = self.chance.random_range(0..found.len() / 4 * 3);
            for _ in 0..BYTES {
                let at = (start + self.chance.random_range(0..REACH)).min(found.len() - 1);
                let mask = 1 << self.chance.random_range(0..8);
                flip::flip_at(&file, at, mask)?;
                self.flipped.push(Flipped { file: file.clone(), number: found.ino(), at, mask, now: byte(&file, at)? });
            }
        }
        Ok(())
    }

    /// Makes good what is still there, the newest first; says how much is.
    fn flip_back(&mut self) -> Result<u64> {
        let mut flipped_back = 0;
        for flipped in self.flipped.drain(..).rev() {
            let Flipped { file, number, at, mask, now } = flipped;
            // The engine may have replaced the file, or power loss the byte: what is there now is not what was flipped.
            let is_same = fs::metadata(&file).is_ok_and(|found| found.ino() == number);
            if is_same && byte(&file, at).is_ok_and(|found| found == now) {
                flip::flip_at(&file, at, mask)?;
                flipped_back += 1;
            }
        }
        Ok(flipped_back)
    }

    /// What a node makes of it, and what it says.
    async fn answer(&mut self, cluster: &mut Cluster, patience: Duration) -> Result<(&'static str, String), String> {
        let node = cluster.node(self.node);
        let until = Instant::now() + patience;
        let readiness = loop {
            match node.readiness(Duration::ZERO).await {
                // One that promises nothing more does not get ready.
                Readiness::NotReady(why) if !why.contains(POISONED) && Instant::now() < until => {
                    sleep(LOOK_EVERY).await;
                }
                readiness => break readiness,
            }
        };
        match readiness {
            Readiness::Ready => Ok(("serves", node.said(NOTICED).unwrap_or_default())),
            Readiness::Ended(_) if node.look().is_err() || node.downfalls().len() == self.falls_before => {
                // Another fault ended it.
                Ok(("is down", String::new()))
            }
            Readiness::Ended(words) => {
                // Started by anybody else, it would refuse again.
                node.hold_down(true);
                self.is_held_down = true;
                if !names_a_file(&words) {
                    node.accuse(format!("was rotten, ended, and named no file of its engine: {words}"));
                }
                Ok(("refused", words))
            }
            Readiness::NotReady(why) if why.contains(POISONED) => {
                let line = why.lines().find(|line| line.contains(POISONED)).unwrap_or_default();
                Ok(("promises nothing more", line.to_owned()))
            }
            Readiness::NotReady(why) => Err(format!("n{} neither refuses nor serves: {why}", self.node)),
        }
    }
}

/// What a node writes into its log when it has read what is not what was written.
const NOTICED: &str = "corruption in engine";

fn names_a_file(words: &str) -> bool {
    words.contains(".sst")
}

fn byte(file: &Path, at: u64) -> io::Result<u8> {
    let mut byte = [0];
    File::open(file)?.read_exact_at(&mut byte, at)?;
    Ok(byte[0])
}

/// The engine's sorted files, in the order of their names.
fn sorted_files(data: &Path) -> Result<Vec<PathBuf>> {
    let mut found = flip::files(&data.join("engine"))?;
    found.retain(|file| file.extension().is_some_and(|kind| kind == "sst"));
    found.retain(|file| fs::metadata(file).is_ok_and(|found| found.len() >= FILE_BYTES_MIN));
    found.sort();
    Ok(found)
}

impl Nemesis for Rot {
    fn start<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            let hit = match aim(&self.target, cluster, &mut self.chance) {
                Ok(nodes) => nodes[0],
                Err(reason) => return Ok(Outcome::Skipped(reason)),
            };
            if let Err(reason) = cluster.take(&[hit], Seat::Engine) {
                return Ok(Outcome::Skipped(reason));
            }
            self.node = hit;
            let data = cluster.node(hit).data();
            let is_flushed = sorted_files(&data)?.is_empty();
            match is_flushed {
                true => cluster.node(hit).stop_in_order(STOP_MAX).await?,
                false => cluster.node(hit).kill()?,
            };
            let files = sorted_files(&data)?;
            if files.is_empty() {
                cluster.node(hit).release(Seat::Engine);
                cluster.launch(hit)?;
                self.node = 0;
                return Ok(Outcome::Skipped(format!("n{hit} has no sorted file, nor after an orderly stop")));
            }
            self.flip(&files)?;
            self.falls_before = cluster.node(hit).downfalls().len();
            cluster.launch(hit)?;
            let (word, said) = match self.answer(cluster, ANSWER_MAX).await {
                Ok(answer) => answer,
                Err(doubt) => return Ok(Outcome::Indeterminate(doubt)),
            };
            let seen = [
                ("bytes", count(self.flipped.len() as u64)),
                ("of_files", count(files.len() as u64)),
                ("stopped_in_order", Value::Bool(is_flushed)),
                ("effect", Value::from(word)),
                ("said", Value::Text(said)),
            ];
            Ok(Outcome::Installed(told(&[hit], seen)))
        })
    }

    fn stop<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Seen>> {
        Box::pin(async move {
            if self.node == 0 {
                return Ok(told(&[], []).into());
            }
            // It may have come across it meanwhile.
            let is_refused = self.is_held_down;
            let (word, said) = match self.answer(cluster, Duration::ZERO).await {
                Ok((_, said)) if is_refused => ("refused", said),
                Ok(answer) => answer,
                Err(doubt) => ("neither refuses nor serves", doubt),
            };
            let node = cluster.node(self.node);
            node.kill()?;
            let flipped_back = self.flip_back()?;
            node.release(Seat::Engine);
            // Whom another fault holds down, that one starts.
            if self.is_held_down || !node.is_held_down() {
                cluster.bring_back(&[self.node])?;
            }
            let seen =
                [("effect", Value::from(word)), ("said", Value::Text(said)), ("flipped_back", count(flipped_back))];
            Ok(told(&[self.node], seen).into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn what_is_flipped_is_flipped_back_unless_it_was_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let database = directory.path().join("engine/db");
        fs::create_dir_all(&database).unwrap();
        let rows: Vec<u8> = (0..=255).cycle().take(4_000).collect();
        let [kept, replaced, short] = ["000010.sst", "000011.sst", "000012.sst"].map(|name| database.join(name));
        for file in [&kept, &replaced] {
            fs::write(file, &rows).unwrap();
        }
        fs::write(&short, b"no rows").unwrap();
        fs::write(database.join("MANIFEST-000004"), &rows).unwrap();
        let files = sorted_files(directory.path()).unwrap();
        assert_eq!(files, [kept.clone(), replaced.clone()]);
        let mut rot = Rot::new("one", SmallRng::seed_from_u64(5));
        rot.flip(&files).unwrap();
        for file in &files {
            let found = fs::read(file).unwrap();
            let differing: Vec<usize> = (0..rows.len()).filter(|at| found[*at] != rows[*at]).collect();
            assert!((1..=BYTES as usize).contains(&differing.len()), "{differing:?}");
            assert!(differing.iter().all(|at| *at < 3_000 + REACH as usize), "{differing:?}");
        }
        let new = replaced.with_extension("new");
        fs::write(&new, b"of another file").unwrap();
        fs::rename(&new, &replaced).unwrap();
        assert_eq!(rot.flip_back().unwrap(), BYTES);
        assert_eq!(fs::read(&kept).unwrap(), rows);
        assert_eq!(fs::read(&replaced).unwrap(), b"of another file");
    }

    #[test]
    fn a_refusal_names_a_file() {
        let named =
            "kvd: corruption in engine at byte 0: open: Bad table magic number in /n1/data/engine/db/000012.sst";
        assert!(names_a_file(named));
        assert!(!names_a_file("kvd: engine: open: something is wrong"));
    }
}
