//! Bits of a stopped node's journal are flipped, as a disk does that rots.
//!
//! The place is drawn from the older nine tenths of what the journal holds: at its very end a flipped bit cannot be
//! told from a write that power loss tore, and a node may drop that.
//!
//! **Invariant.** The node refuses to start, or recovers from bytes nobody needs any more. What it refused is flipped
//! back before it is started again, because a disk that is gone for good is another fault.

use super::{Cluster, Nemesis, Outcome, Seen, aim, count, told};
use crate::{history::Value, real::node::Readiness};
use anyhow::{Context, Result};
use futures::future::BoxFuture;
use rand::{Rng as _, rngs::SmallRng, seq::IndexedRandom as _};
use std::{
    fs::{self, File, OpenOptions},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

/// Bytes flipped.
const BYTES: usize = 3;

/// How long a node may take to refuse or to recover.
const ANSWER_MAX: Duration = Duration::from_secs(8);

/// Flipped bits of one node.
pub struct Flip {
    target: String,
    chance: SmallRng,
    node: u64,
    is_held_down: bool,
    flipped: Vec<(PathBuf, u64, u8)>,
}

impl Flip {
    /// Flips nothing yet.
    pub fn new(target: &str, chance: SmallRng) -> Self {
        Flip { target: target.to_owned(), chance, node: 0, is_held_down: false, flipped: Vec::new() }
    }

    fn flip(&mut self, data: &Path) -> Result<bool> {
        let mut segments: Vec<PathBuf> = files(data)?.into_iter().filter(|file| is_journal(file)).collect();
        segments.sort();
        for _ in 0..BYTES {
            let Some(file) = segments.choose(&mut self.chance) else { return Ok(false) };
            let used = used_bytes(file)?;
            if used < 10 {
                continue;
            }
            let at = self.chance.random_range(0..used / 10 * 9);
            let mask = 1 << self.chance.random_range(0..8);
            flip_at(file, at, mask)?;
            self.flipped.push((file.clone(), at, mask));
        }
        Ok(!self.flipped.is_empty())
    }
}

fn is_journal(file: &Path) -> bool {
    file.parent().and_then(Path::file_name).is_some_and(|directory| directory == "journal")
}

pub(super) fn files(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())?.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else {
            found.push(path);
        }
    }
    Ok(found)
}

/// Segments are made in full size: what is used ends with the last byte that is not zero.
fn used_bytes(file: &Path) -> Result<u64> {
    let bytes = fs::read(file)?;
    Ok(bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1))
}

pub(super) fn flip_at(file: &Path, at: u64, mask: u8) -> Result<()> {
    let file: File = OpenOptions::new().read(true).write(true).open(file)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    file.write_all_at(&[byte[0] ^ mask], at)?;
    Ok(file.sync_all()?)
}

impl Nemesis for Flip {
    fn start<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Outcome>> {
        Box::pin(async move {
            self.node = match aim(&self.target, cluster, &mut self.chance) {
                Ok(nodes) => nodes[0],
                Err(reason) => return Ok(Outcome::Skipped(reason)),
            };
            cluster.node(self.node).kill()?;
            let data = cluster.node(self.node).data();
            if !self.flip(&data)? {
                cluster.launch(self.node)?;
                return Ok(Outcome::Skipped(format!("n{} has nothing in its journal", self.node)));
            }
            cluster.node(self.node).excuse("bits of its journal were flipped");
            cluster.launch(self.node)?;
            let answer = cluster.node(self.node).readiness(ANSWER_MAX).await;
            let (word, said) = match answer {
                Readiness::Ready => ("recovered", String::new()),
                Readiness::Ended(words) => {
                    // Started by anybody else, it would refuse again.
                    cluster.node(self.node).hold_down(true);
                    self.is_held_down = true;
                    ("refused", words)
                }
                Readiness::NotReady(why) => {
                    return Ok(Outcome::Indeterminate(format!("n{} neither refuses nor serves: {why}", self.node)));
                }
            };
            let seen = [
                ("bytes", count(self.flipped.len() as u64)),
                ("effect", Value::from(word)),
                ("said", Value::Text(said)),
            ];
            Ok(Outcome::Installed(told(&[self.node], seen)))
        })
    }

    fn stop<'a>(&'a mut self, cluster: &'a mut Cluster) -> BoxFuture<'a, Result<Seen>> {
        Box::pin(async move {
            if self.node == 0 {
                return Ok(told(&[], []).into());
            }
            let node = cluster.node(self.node);
            if node.is_running() || (node.is_held_down() && !self.is_held_down) {
                return Ok(told(&[], []).into());
            }
            cluster.node(self.node).kill()?;
            for (file, at, mask) in self.flipped.iter().rev() {
                flip_at(file, *at, *mask)?;
            }
            cluster.bring_back(&[self.node])?;
            Ok(told(&[self.node], [("flipped_back", Value::Bool(true))]).into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bit_flipped_twice_is_as_it_was_and_the_unused_rest_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("segment");
        fs::write(&file, [7, 7, 7, 0, 0, 0]).unwrap();
        assert_eq!(used_bytes(&file).unwrap(), 3);
        flip_at(&file, 1, 4).unwrap();
        assert_eq!(fs::read(&file).unwrap(), [7, 3, 7, 0, 0, 0]);
        flip_at(&file, 1, 4).unwrap();
        assert_eq!(fs::read(&file).unwrap()[1], 7);
    }
}
