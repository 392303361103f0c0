//! Command: `jepsen planted`, in a build with planted bugs.
//!
//! ```text
//!   bugs × ranges of seeds ─▶ a hunt each, several at a time ─▶ a line each as soon as known ─▶ table
//! ```
//!
//! **Invariant.** A build without bugs is no harness that finds none: it is refused.

use super::{
    catalogue::{self, Bug},
    hunt,
    table::{HEAD, Hunted, Row, shortened},
};
use crate::sim::command::Request as Simulation;
use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use std::{
    ops::RangeInclusive,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// The seeds that are run unless others are named.
pub const RANGES: &str = "1..201,1001..1201,2001..2201";

/// What to hunt, and how.
#[derive(Clone, Debug)]
pub struct Request {
    /// Names of bugs; empty = all of this build.
    pub bugs: Vec<String>,
    /// In each of these ranges of seeds.
    pub ranges: Vec<RangeInclusive<u64>>,
    /// How seeds are run.
    pub simulation: Simulation,
    /// How many run at the same time.
    pub jobs: usize,
}

/// Hunts each bug in each range. Says whether each was found in most of them, and no seed fails without them.
///
/// # Errors
/// The build has no bug of that name, or a seed could not be run.
pub fn run(request: &Request, compiled_in: &[&str], say: &(dyn Fn(&str) + Sync)) -> Result<bool> {
    let bugs = named(&request.bugs, compiled_in)?;
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    let (ranges, next) = (request.ranges.len(), AtomicUsize::new(0));
    let (hunted, broken) = (Mutex::new(Vec::new()), Mutex::new(None));
    let work = || {
        loop {
            let turn = next.fetch_add(1, Ordering::SeqCst);
            if turn >= bugs.len() * ranges || broken.lock().is_some() {
                return;
            }
            let (bug, range) = (bugs[turn / ranges], request.ranges[turn % ranges].clone());
            match hunt::hunt(&program, bug, range, &request.simulation) {
                Err(error) => *broken.lock() = Some(error),
                Ok(one) => {
                    say(&told(bug, &one));
                    hunted.lock().push((turn, one));
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..request.jobs.max(1) {
            scope.spawn(work);
        }
    });
    if let Some(error) = broken.into_inner() {
        return Err(error);
    }
    let mut hunted = hunted.into_inner();
    hunted.sort_by_key(|(turn, _)| *turn);
    let hunted: Vec<Hunted> = hunted.into_iter().map(|(_, one)| one).collect();
    let rows = bugs.into_iter().zip(hunted.chunks(ranges)).map(|(bug, hunted)| Row { bug, hunted: hunted.to_vec() });
    let rows: Vec<Row> = rows.collect();
    let lines: Vec<String> = rows.iter().map(Row::to_string).collect();
    say(&format!("\n{HEAD}\n{}", lines.join("\n")));
    let missed = rows.iter().filter(|row| !row.is_found()).map(|row| row.bug.name).collect::<Vec<_>>();
    if !missed.is_empty() {
        say(&format!("\nnot found in most ranges: {}", missed.join(", ")));
    }
    let is_sound = rows.iter().flat_map(|row| &row.hunted).all(|hunted| hunted.failing_without.is_empty());
    Ok(missed.is_empty() && is_sound)
}

/// The bugs of these names; without names, all there are.
fn named(names: &[String], compiled_in: &[&str]) -> Result<Vec<Bug>> {
    let there = catalogue::of_build(compiled_in);
    if there.is_empty() {
        bail!("no bug is compiled in: `jepsen/planted.sh` builds a program that has them and asks that");
    }
    if names.is_empty() {
        return Ok(there);
    }
    let find = |name: &String| match there.iter().find(|bug| bug.name == name.trim_start_matches("bug-")) {
        Some(bug) => Ok(*bug),
        None => {
            let there: Vec<&str> = there.iter().map(|bug| bug.name).collect();
            bail!("there is no planted bug {name:?}; there are: {}", there.join(", "))
        }
    };
    names.iter().map(find).collect()
}

/// One hunt, as soon as it is over.
fn told(bug: Bug, hunted: &Hunted) -> String {
    let (name, took) = (bug.name, hunted.took.as_secs());
    let mut text = match &hunted.found {
        Some((seed, by)) => {
            let runs = hunted.runs().unwrap_or_default();
            format!("{name}: found by seed {seed}, {runs} runs, {took} s: {}", shortened(by))
        }
        None => format!("{name}: not found by seeds {} to {}, {took} s", hunted.range.start(), hunted.range.end()),
    };
    for seed in &hunted.failing_without {
        text.push_str(&format!(
            "\n{name}: seed {seed} fails without any bug, too: that is no proof, and a fault of ours"
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_bug_is_refused_with_the_list() {
        let there = &["stale-swap", "rot-is-cut"];
        let refused = named(&["worse".to_owned()], there).unwrap_err().to_string();
        assert!(refused.contains("\"worse\"") && refused.contains("rot-is-cut, stale-swap"), "{refused}");
        let found = named(&["bug-stale-swap".to_owned()], there).unwrap();
        assert_eq!(found.iter().map(|bug| bug.name).collect::<Vec<_>>(), ["stale-swap"]);
        assert_eq!(named(&[], there).unwrap().len(), 2);
    }

    #[test]
    fn a_build_without_bugs_says_how_to_make_one() {
        let refused = named(&[], &[]).unwrap_err().to_string();
        assert!(refused.contains("jepsen/planted.sh"), "{refused}");
    }
}
