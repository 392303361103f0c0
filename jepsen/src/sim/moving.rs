//! # Moving: who comes, who goes, and where replicas go, in worlds whose members change
//!
//! ```text
//!   seed ─▶ how many found the cluster and how many join · what the balancer keeps to · how often people ask
//!        └▶ joins, losses, and faults that look for whatever is being changed ─▶ steps of the plan
//! ```
//!
//! **Invariant.** Drawn apart from everything else: a world whose members stay is what it was. At most one machine
//! loses what it had, and only where each shard has two replicas elsewhere: nothing acknowledged may be lost by that.

use super::{
    chance::Chance,
    faults::{CutId, Fault},
};
use kvorum_api::NodeId;
use kvorum_consensus::metadata::balance::Rules;
use std::{fmt, time::Duration};

/// Of a thousand worlds, those whose members change.
const MOVING_PER_MILLE: u32 = 500;

/// How a machine loses what it had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Its directory was emptied, and it starts as if nothing had happened.
    Wiped,
    /// An older image of its disk was put back, and it starts as if nothing had happened.
    Restored,
    /// It is gone for good, is forgotten, and returns after all with what it had.
    Left,
}

/// What is drawn for a world whose members change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moving {
    /// Who founds the cluster.
    pub founders: u64,
    /// Who joins it later.
    pub joins: u64,
    /// What the balancer keeps to.
    pub rules: Rules,
    /// Bytes of snapshots a node sends in a second; 0 = all it can.
    pub move_bytes_per_second: u64,
    /// Between two wishes of people about replicas and nodes, milliseconds, at most.
    pub wishes_ms: u64,
    /// Whether faults look for what is being changed.
    pub is_steered: bool,
    /// How a machine loses what it had, if one does.
    pub loss: Option<Loss>,
}

impl Moving {
    /// What `seed` draws; `None` = its members stay.
    #[must_use]
    pub fn new(seed: u64) -> Option<Self> {
        let mut chance = Chance::new(seed, "moving");
        if !chance.hits(MOVING_PER_MILLE) {
            return None;
        }
        let (founders, joins) = *chance.pick(&[(3, 1), (3, 1), (3, 2), (4, 0), (4, 1), (5, 0), (1, 2), (2, 2)]);
        let rules = Rules {
            is_on: chance.hits(600),
            replace_after: Duration::from_millis(*chance.pick(&[2_500, 4_000, 10_000, 60_000])),
            moves_max: *chance.pick(&[1, 2, 8]),
        };
        let is_lost = chance.hits(500) && founders >= 3;
        Some(Moving {
            founders,
            joins,
            rules,
            move_bytes_per_second: *chance.pick(&[0, 16 << 10, 64 << 20]),
            wishes_ms: *chance.pick(&[400, 1_000, 3_000]),
            is_steered: chance.hits(600),
            loss: is_lost.then(|| *chance.pick(&[Loss::Wiped, Loss::Restored, Loss::Left])),
        })
    }

    /// Everybody that is there once all have joined.
    #[must_use]
    pub fn everybody(&self) -> u64 {
        self.founders + self.joins
    }

    /// What happens to members, and when. `cut`: the first number of a cut that nobody uses.
    #[must_use]
    pub fn steps(&self, seed: u64, length: Duration, cut: CutId) -> Vec<(Duration, Fault)> {
        let mut chance = Chance::new(seed, "members");
        let length_ms = length.as_millis() as u64;
        let mut steps: Vec<(Duration, Fault)> =
            (0..self.joins).map(|_| (chance.millis(200..2_000.max(length_ms / 2)), Fault::Join)).collect();
        if let Some(loss) = self.loss {
            let node = NodeId(1 + chance.within(0..self.founders));
            let imaged = chance.millis(length_ms / 10..length_ms / 4);
            let lost = imaged + chance.millis(length_ms / 10..length_ms / 2);
            steps.push((imaged, Fault::KeepImage(node)));
            steps.push((lost, Fault::Lose(node, loss)));
        }
        if self.is_steered {
            self.steer(&mut chance, length_ms, cut, &mut steps);
        }
        steps
    }

    /// Crashes and cuts that look for whatever is being changed then.
    fn steer(&self, chance: &mut Chance, length_ms: u64, cut: CutId, steps: &mut Vec<(Duration, Fault)>) {
        let mut at = chance.millis(1_000..3_000);
        for cut in cut.. {
            if at.as_millis() as u64 >= length_ms {
                return;
            }
            let draw = chance.any() >> 32;
            let end = at + chance.millis(200..4_000);
            let (fault, remedy) = match chance.within(0..6) {
                0..=1 => (Fault::CrashMover(draw), Fault::RestartAll),
                2 => (Fault::CrashNewcomer(draw), Fault::RestartAll),
                3..=4 => (Fault::CutMover(cut, draw), Fault::Mend(cut)),
                _ => (Fault::CrashMetadataLeader, Fault::RestartAll),
            };
            steps.push((at, fault));
            steps.push((end, remedy));
            at += chance.millis(300..4_000);
        }
    }
}

impl fmt::Display for Moving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Moving { founders, joins, rules, move_bytes_per_second, wishes_ms, .. } = self;
        write!(f, "{founders} found it and {joins} join, people ask every {wishes_ms} ms at most")?;
        match rules.is_on {
            true => write!(f, ", replaced after {:?}, {} at a time", rules.replace_after, rules.moves_max)?,
            false => write!(f, ", nobody is replaced unasked")?,
        }
        write!(f, ", {move_bytes_per_second} bytes/s")?;
        if self.is_steered {
            write!(f, ", steered")?;
        }
        self.loss.map_or(Ok(()), |loss| write!(f, ", one is {}", format!("{loss:?}").to_lowercase()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_half_of_all_worlds_have_members_that_change_in_every_way() {
        let drawn: Vec<Moving> = (0..400).filter_map(Moving::new).collect();
        assert!((150..250).contains(&drawn.len()), "{} of 400", drawn.len());
        assert!(drawn.iter().all(|moving| moving.everybody() <= 5 && (moving.loss.is_none() || moving.founders >= 3)));
        for loss in [Loss::Wiped, Loss::Restored, Loss::Left] {
            assert!(drawn.iter().any(|moving| moving.loss == Some(loss)), "{loss:?}");
        }
        assert!(drawn.iter().any(|moving| moving.everybody() == 4) && drawn.iter().any(|moving| moving.founders == 1));
    }

    #[test]
    fn the_steps_of_a_seed_repeat_and_stay_within_the_run() {
        let length = Duration::from_secs(20);
        for (seed, moving) in (0..60).filter_map(|seed| Some((seed, Moving::new(seed)?))) {
            let steps = moving.steps(seed, length, 1_000);
            assert_eq!(steps, moving.steps(seed, length, 1_000));
            let joins = steps.iter().filter(|(at, fault)| *fault == Fault::Join && *at < length).count();
            assert_eq!(joins as u64, moving.joins, "seed {seed}");
            let lost = steps.iter().filter(|(at, fault)| matches!(fault, Fault::Lose(..)) && *at < length).count();
            assert_eq!(lost, usize::from(moving.loss.is_some()), "seed {seed}");
        }
    }
}
