//! The directory of one run, and what a killed run left in it.
//!
//! ```text
//!   leader-killed-7/
//!     running           who runs it and which nodes it started, while it runs
//!     n1/ n2/ n3/       configuration, data, log of each node
//!     history*.jsonl    result.json   report.html
//! ```
//!
//! **Invariant.** A process is ended only if it is the one that was noted, by its id and the moment it was started:
//! ids are used again.

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where runs lie unless told otherwise.
pub const HOME: &str = ".local/jepsen";

const RUNNING: &str = "running";

/// A process that cannot be mistaken for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessName {
    /// Its id.
    pub id: u32,
    /// When it was started, in ticks since the machine was.
    pub started_ticks: u64,
}

impl ProcessName {
    /// Of a process that runs.
    #[must_use]
    pub fn of(id: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        Some(ProcessName { id, started_ticks: started_ticks(&stat)? })
    }

    /// Whether it is there, stopped or not.
    #[must_use]
    pub fn is_there(&self) -> bool {
        ProcessName::of(self.id) == Some(*self)
    }

    /// Ends it, if it is there.
    fn end(&self) -> bool {
        let process = i32::try_from(self.id).ok().and_then(Pid::from_raw).filter(|_| self.is_there());
        process.is_some_and(|process| kill_process(process, Signal::KILL).is_ok())
    }
}

/// The 22nd field; the second is a name in parentheses that may hold anything. A process that has ended and was not
/// waited for counts as gone.
fn started_ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if fields.next()? == "Z" {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// What `running` says.
#[derive(Debug, Serialize, Deserialize)]
struct Running {
    harness: ProcessName,
    nodes: Vec<ProcessName>,
}

/// A run's directory, held by this process.
pub struct RunDirectory {
    path: PathBuf,
    running: Running,
}

impl RunDirectory {
    /// Takes a directory that nobody uses.
    pub fn take(path: &Path) -> Result<Self> {
        if let Some(running) = running(path) {
            let how = if running.harness.is_there() { "is used by a run" } else { "was left by a killed run" };
            bail!("{} {how}: choose another --out, or clean up with `jepsen clean`", path.display());
        }
        if path.join("n1").exists() || path.join("result.json").exists() {
            bail!("{} holds an earlier run: choose another --out, or remove it", path.display());
        }
        fs::create_dir_all(path).with_context(|| format!("{} cannot be made", path.display()))?;
        let path = path.canonicalize().with_context(|| path.display().to_string())?;
        let harness = ProcessName::of(std::process::id()).context("/proc does not show this process")?;
        let directory = RunDirectory { path, running: Running { harness, nodes: Vec::new() } };
        directory.write()?;
        Ok(directory)
    }

    /// A directory of its own for a run of that name.
    pub fn take_new(home: &Path, name: &str) -> Result<Self> {
        const ATTEMPTS_MAX: usize = 10_000;
        for attempt in 1..=ATTEMPTS_MAX {
            let path = home.join(if attempt == 1 { name.to_owned() } else { format!("{name}-{attempt}") });
            if !path.exists() {
                return Self::take(&path);
            }
        }
        bail!("{} holds {ATTEMPTS_MAX} runs of {name}: remove some", home.display())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Notes a node's process before anything else is done with it.
    pub fn note(&mut self, process: ProcessName) -> Result<()> {
        self.running.nodes.retain(ProcessName::is_there);
        self.running.nodes.push(process);
        self.write()
    }

    fn write(&self) -> Result<()> {
        let text = serde_json::to_string(&self.running)?;
        let (file, fresh) = (self.path.join(RUNNING), self.path.join("running.new"));
        fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &file)).with_context(|| file.display().to_string())
    }
}

impl Drop for RunDirectory {
    fn drop(&mut self) {
        self.running.nodes.iter().for_each(|process| {
            process.end();
        });
        // What cannot be removed is found by `jepsen clean`.
        let _ = fs::remove_file(self.path.join(RUNNING));
    }
}

fn running(path: &Path) -> Option<Running> {
    serde_json::from_str(&fs::read_to_string(path.join(RUNNING)).ok()?).ok()
}

/// What was cleaned up in one directory.
#[derive(Debug, PartialEq, Eq)]
pub struct Cleaned {
    /// The run.
    pub path: PathBuf,
    /// Processes that were ended.
    pub ended: usize,
}

/// Ends what killed runs under `home` left running, and removes their nodes' data. Runs that go on are left alone.
pub fn clean(home: &Path) -> Result<Vec<Cleaned>> {
    let Ok(entries) = fs::read_dir(home) else { return Ok(Vec::new()) };
    let mut cleaned = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let Some(running) = running(&path).filter(|running| !running.harness.is_there()) else { continue };
        let ended = running.nodes.iter().filter(|process| process.end()).count();
        remove_data(&path)?;
        fs::remove_file(path.join(RUNNING)).with_context(|| path.display().to_string())?;
        cleaned.push(Cleaned { path, ended });
    }
    Ok(cleaned)
}

/// Removes what the nodes stored; configurations and logs stay.
pub fn remove_data(run: &Path) -> Result<()> {
    for node in fs::read_dir(run).with_context(|| run.display().to_string())?.flatten() {
        for stored in [node.path().join("data"), node.path().join(super::node::SHIM)] {
            if stored.is_dir() {
                fs::remove_dir_all(&stored).with_context(|| format!("{} cannot be removed", stored.display()))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn the_moment_a_process_was_started_is_read_past_any_name() {
        let rest = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 777 20";
        assert_eq!(started_ticks(&format!("12 (a) b (c)) {rest}")), Some(777));
        assert_eq!(started_ticks(&format!("12 (a) {}", rest.replace('S', "Z"))), None, "ended, not waited for");
        assert!(ProcessName::of(std::process::id()).unwrap().is_there());
    }

    #[test]
    fn leftovers_of_a_killed_run_are_ended_and_a_running_one_is_left_alone() {
        let home = tempfile::tempdir().unwrap();
        let mut node = Command::new("sleep").arg("600").spawn().unwrap();
        let process = ProcessName::of(node.id()).unwrap();
        let path = home.path().join("run");
        fs::create_dir_all(path.join("n1/data")).unwrap();
        let gone = ProcessName { id: std::process::id(), started_ticks: 0 };
        let left = Running { harness: gone, nodes: vec![process] };
        fs::write(path.join(RUNNING), serde_json::to_string(&left).unwrap()).unwrap();

        let refused = RunDirectory::take(&path).err().unwrap().to_string();
        assert!(refused.contains("was left by a killed run"), "{refused}");
        let kept = RunDirectory::take_new(home.path(), "other").unwrap();
        assert_eq!(clean(home.path()).unwrap(), [Cleaned { path: path.clone(), ended: 1 }]);
        node.wait().unwrap();
        assert!(!process.is_there() && !path.join("n1/data").exists());
        assert!(kept.path().join(RUNNING).exists());
        assert!(clean(home.path()).unwrap().is_empty());
    }

    #[test]
    fn a_directory_holds_one_run() {
        let home = tempfile::tempdir().unwrap();
        let first = RunDirectory::take_new(home.path(), "run").unwrap();
        assert!(RunDirectory::take(first.path()).err().unwrap().to_string().contains("is used by a run"));
        let second = RunDirectory::take_new(home.path(), "run").unwrap();
        assert!(second.path().ends_with("run-2"));
        let path = first.path().to_owned();
        drop(first);
        assert!(!path.join(RUNNING).exists());
    }
}
