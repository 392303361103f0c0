//! The smallest window that still fails: what can be forgotten is forgotten, clients first, then single operations.
//!
//! Forgetting must not make up a violation. A read that is forgotten is left out. A write that is forgotten still may
//! have happened, at any time since it began: it is left out only if nothing that stays could need it.
//!
//! **Invariant.** What is left has no order: it is convicted by the same search as the whole, from weaker evidence.

use super::{
    meter::Meter,
    report::{Finding, Options, Role, Row},
    search::{Explained, Found, Timed, explain, search},
};
use crate::{history::History, model::Model};
use std::collections::BTreeSet;

/// Calls among which no order was found.
pub struct Suspect<'a, M: Model> {
    /// The key they touch.
    pub key: Option<&'a str>,
    /// What it may have held before them.
    pub starts: BTreeSet<M::State>,
    /// By invocation.
    pub calls: Vec<Timed<M::Call>>,
    /// How many operations touched the key.
    pub of: usize,
    /// Who invoked them.
    pub history: &'a History,
}

/// Situations one attempt to forget something may try. An attempt that needs more fails, and nothing is lost but
/// brevity.
const TRIES_PER_ATTEMPT_MAX: u64 = 10_000;

/// States named per operation.
const STATES_NAMED_MAX: usize = 6;

/// Forgets all it can within `options`, and says what is left.
pub fn shrink<M: Model>(model: &M, suspect: Suspect<'_, M>, options: &Options) -> Finding {
    let meter = Meter::new(options.memory_bytes_max, None);
    let kept = vec![true; suspect.calls.len()];
    let mut window = Window { model, suspect: &suspect, kept, meter, tries_max: options.explaining_tries_max };
    window.forget_clients();
    window.forget_chunks();
    window.finding()
}

struct Window<'a, M: Model> {
    model: &'a M,
    suspect: &'a Suspect<'a, M>,
    kept: Vec<bool>,
    meter: Meter,
    tries_max: u64,
}

impl<M: Model> Window<'_, M> {
    fn forget_clients(&mut self) {
        let process = |timed: &Timed<M::Call>| self.suspect.history.operations[timed.operation].process;
        let processes: Vec<u64> = self.suspect.calls.iter().map(process).collect();
        for client in processes.iter().copied().collect::<BTreeSet<u64>>() {
            self.forget(|at| processes[at] == client);
        }
    }

    /// Halves, quarters, … down to single calls, until no single one can go.
    fn forget_chunks(&mut self) {
        let calls = self.kept.len();
        let mut chunk = calls.div_ceil(2);
        while chunk > 0 {
            let mut has_forgotten = false;
            let mut begin = 0;
            while begin < calls {
                has_forgotten |= self.forget(|at| at >= begin && at < begin + chunk);
                begin += chunk;
            }
            if chunk == 1 && has_forgotten {
                continue;
            }
            chunk /= 2;
        }
    }

    fn forget(&mut self, chunk: impl Fn(usize) -> bool) -> bool {
        let goes = |at: usize| self.kept[at] && chunk(at);
        if self.meter.tried() >= self.tries_max || !(0..self.kept.len()).any(goes) {
            return false;
        }
        let stays = (0..self.kept.len()).map(|at| self.kept[at] && !chunk(at)).collect();
        let before = std::mem::replace(&mut self.kept, stays);
        let calls = self.calls();
        let starts = self.suspect.starts.clone();
        let fails = matches!(search(self.model, starts, &calls, &self.meter, TRIES_PER_ATTEMPT_MAX), Found::NoOrder(_));
        if !fails {
            self.kept = before;
        }
        fails
    }

    /// What stays: calls that are kept as they are, and forgotten ones that may have happened and might matter.
    fn calls(&self) -> Vec<Timed<M::Call>> {
        let all = &self.suspect.calls;
        let mut stays = self.kept.clone();
        let mut needed: Vec<M::Call> =
            all.iter().zip(&stays).filter(|(_, kept)| **kept).map(|(c, _)| c.call.clone()).collect();
        loop {
            let explains = |(at, timed): (usize, &Timed<M::Call>)| {
                !stays[at] && !self.model.is_read(&timed.call) && self.model.may_explain(&timed.call, &needed)
            };
            let more: Vec<usize> = (0..all.len()).filter(|at| explains((*at, &all[*at]))).collect();
            if more.is_empty() {
                break;
            }
            for at in more {
                stays[at] = true;
                needed.push(all[at].call.clone());
            }
        }
        let open = |at: usize| Timed { until_ns: all[at].until_ns.filter(|_| self.kept[at]), ..all[at].clone() };
        (0..all.len()).filter(|at| stays[*at]).map(open).collect()
    }

    fn finding(&self) -> Finding {
        let calls = self.calls();
        let explained = explain(self.model, &self.suspect.starts, &calls, &self.meter, self.tries_max);
        let row = |(at, timed): (usize, &Timed<M::Call>)| Row {
            operation: timed.operation,
            role: if timed.until_ns.is_some() { Role::Fact } else { Role::Source },
            states: explained.as_ref().map_or_else(Vec::new, |explained| self.names(&explained.after[at])),
        };
        let rows: Vec<Row> = calls.iter().enumerate().map(row).collect();
        let facts = rows.iter().filter(|row| row.role == Role::Fact).count();
        let on = self.suspect.key.map_or(String::new(), |key| format!(" on {key}"));
        let what = format!("no order explains {facts} of the {} operations{on}", self.suspect.of);
        Finding {
            key: self.suspect.key.map(str::to_owned),
            what,
            before: self.names(&self.suspect.starts),
            rows,
            because: explained.map_or_else(Vec::new, |explained| vec![self.story(&calls, &explained)]),
        }
    }

    fn names(&self, states: &BTreeSet<M::State>) -> Vec<String> {
        let mut names: Vec<String> =
            states.iter().take(STATES_NAMED_MAX).map(|state| self.model.describe(state)).collect();
        if states.len() > STATES_NAMED_MAX {
            names.push("…".to_owned());
        }
        names
    }

    /// The order that gets furthest, by the places of its operations in the history.
    fn story(&self, calls: &[Timed<M::Call>], explained: &Explained<M::State>) -> String {
        let step = |(at, state): &(usize, M::State)| {
            format!("#{} leaves {}", calls[*at].operation, self.model.describe(state))
        };
        let steps: Vec<String> = explained.longest.iter().map(step).collect();
        let steps = if steps.is_empty() { "nothing can come first".to_owned() } else { steps.join(", ") };
        let last = self.names(&explained.last).join(" or ");
        let stuck = calls[explained.stuck].operation;
        format!("the order that gets furthest: {steps}; then #{stuck} must have happened, and there is only {last}")
    }
}
