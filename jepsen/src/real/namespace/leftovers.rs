//! Names of namespaces, and what killed runs left of them.
//!
//! ```text
//!   kvorum-4711-98765-3-n1     the harness' process, when it was started, its pair of subnets, the node
//! ```
//!
//! A killed harness takes its TUN devices with it: the kernel removes a device that nobody holds open. The names of
//! namespaces stay, and so do nodes in them.
//!
//! **Invariant.** Only what carries our mark is touched, and only if the process that made it is gone.

use super::host::{Host, Ip};
use crate::real::directory::ProcessName;
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;

/// Where `ip` keeps names of namespaces.
const NAMES: &str = "/run/netns";

/// Begins every name of ours.
const MARK: &str = "kvorum";

/// The name of a node's namespace.
pub fn name(harness: ProcessName, subnets: u16, node: u64) -> String {
    format!("{MARK}-{}-{}-{subnets}-n{node}", harness.id, harness.started_ticks)
}

/// Who made it, if it carries our mark.
fn maker(name: &str) -> Option<ProcessName> {
    let mut parts = name.strip_prefix(MARK)?.strip_prefix('-')?.splitn(3, '-');
    let (id, started_ticks) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    Some(ProcessName { id, started_ticks })
}

/// Names that nobody uses any more.
fn left(names: impl Iterator<Item = String>) -> Vec<String> {
    names.filter(|name| maker(name).is_some_and(|maker| !maker.is_there())).collect()
}

/// What was cleaned up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Namespaces that were removed.
    pub namespaces: usize,
    /// Processes in them that were ended.
    pub ended: usize,
}

/// Ends what runs in the namespaces of killed runs, and removes them.
///
/// # Errors
/// There are some, and they cannot be removed: not as this user.
pub fn clean(host: &Host) -> Result<Cleaned> {
    // No directory: nobody ever made one.
    let Ok(entries) = fs::read_dir(NAMES) else { return Ok(Cleaned::default()) };
    let names = left(entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()));
    let mut cleaned = Cleaned::default();
    if names.is_empty() {
        return Ok(cleaned);
    }
    let ip = host.ip().with_context(|| format!("killed runs left the namespaces {}", names.join(", ")))?;
    for name in names {
        cleaned.ended += end_all(&ip, &name)?;
        ip.run(&["netns", "delete", &name])?;
        cleaned.namespaces += 1;
    }
    Ok(cleaned)
}

fn end_all(ip: &Ip, name: &str) -> Result<usize> {
    let processes = ip.run(&["netns", "pids", name])?;
    let processes = processes.split_whitespace().filter_map(|id| Pid::from_raw(id.parse().ok()?));
    Ok(processes.filter(|process| kill_process(*process, Signal::KILL).is_ok()).count())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_marked_names_of_processes_that_are_gone_are_left_over() {
        let here = ProcessName::of(std::process::id()).unwrap();
        let gone = ProcessName { started_ticks: 0, ..here };
        assert_eq!(maker(&name(here, 3, 1)), Some(here));
        let names = [name(here, 3, 1), name(gone, 3, 1), "kvorum".to_owned(), "kvorum-x-1-2".to_owned(), "blue".into()];
        assert_eq!(left(names.into_iter()), [name(gone, 3, 1)]);
    }
}
