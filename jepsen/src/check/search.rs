//! Search for an order: Wing and Gong's walk with Lowe's memory, for any model.
//!
//! ```text
//!   events in time   call a ─ call b ─ return a ─ call c ─ return c ─ …
//!
//!   call:    if the model allows it next, and this set of calls in this state was never seen:
//!            take it out of the list with its return (lift), start over from the front
//!            else go on to the next event
//!   return:  of a call not taken yet: a dead end. Put the last call taken back (unlift), go on behind it
//! ```
//!
//! A call of unknown outcome has no return: it may be taken at any time or never, and an order is found as soon as no
//! return is left. At moments where nothing is under way (quiescence) a history is cut: what follows starts from the
//! set of states in which the first part may have ended.
//!
//! Remembered is a fingerprint of 128 bits: random words of the calls taken, exclusive-ored, and the state's. Two
//! different situations among 10⁹ share one with a chance below 10⁻²⁰.
//!
//! **Invariant.** "No order" is only said after every order was tried; a limit met before is no answer.
//!
//! Wing and Gong, 1993; Lowe, "Testing for linearizability", 2017; Porcupine for the list.

use super::meter::{Limit, Loan, Meter};
use crate::model::Model;
use std::{
    collections::BTreeSet,
    hash::{BuildHasherDefault, Hasher},
};

/// A call and when it took effect: after `from_ns`, and before `until_ns` if that is known.
#[derive(Clone, Debug)]
pub struct Timed<C> {
    /// Its place among the operations of the history.
    pub operation: usize,
    /// What was asked and told.
    pub call: C,
    /// When it was invoked.
    pub from_ns: u64,
    /// When it had taken effect; `None` = at any later time, or never.
    pub until_ns: Option<u64>,
}

/// No order, and how far any order gets.
#[derive(Clone, Debug)]
pub struct Stuck<S> {
    /// What the object may have held before `first`.
    pub before: BTreeSet<S>,
    /// The first call of the part in which no order was found: everything before it is explained.
    pub first: usize,
    /// The call that every order fails at, at the latest.
    pub call: usize,
}

/// The answer of a search.
#[derive(Clone, Debug)]
pub enum Found<S> {
    /// There is an order.
    Order,
    /// There is none.
    NoOrder(Stuck<S>),
    /// A limit was reached.
    GaveUp(Limit),
}

/// Situations an exhaustive search of one part between cuts may try before it is searched with all that follows.
const TRIES_BEFORE_CUT_MAX: u64 = 4096;

/// How much one remembered situation takes, with the slack of a table that grows by doubling.
const SITUATION_BYTES: u64 = 40;

/// Between two looks at the meter.
const SITUATIONS_PER_LOOK: u64 = 1024;

/// Searches one object. `calls` are sorted by invocation.
pub fn search<M: Model>(
    model: &M,
    starts: BTreeSet<M::State>,
    calls: &[Timed<M::Call>],
    meter: &Meter,
    tries_max: u64,
) -> Found<M::State> {
    let mut starts = starts;
    let mut rest = calls;
    let mut first = 0;
    while !rest.is_empty() {
        let cut = quiescence(rest);
        if cut < rest.len() {
            let mut walk = Walk::new(model, &rest[..cut], meter, TRIES_BEFORE_CUT_MAX);
            match walk.every_end(&starts) {
                Ok(ends) if ends.is_empty() => return stuck(starts, first, walk.stuck_call()),
                Ok(ends) => {
                    starts = ends;
                    rest = &rest[cut..];
                    first += cut;
                    continue;
                }
                Err(Limit::Tries) => {}
                Err(limit) => return Found::GaveUp(limit),
            }
        }
        let mut walk = Walk::new(model, rest, meter, tries_max);
        return match walk.any_end(&starts) {
            Ok(true) => Found::Order,
            Ok(false) => stuck(starts, first, walk.stuck_call()),
            Err(limit) => Found::GaveUp(limit),
        };
    }
    Found::Order
}

fn stuck<S>(before: BTreeSet<S>, first: usize, call: usize) -> Found<S> {
    Found::NoOrder(Stuck { before, first, call: first + call })
}

/// How many calls lie before the first moment at which nothing is under way; all of them if there is no such moment.
fn quiescence<C>(calls: &[Timed<C>]) -> usize {
    let mut until_ns = 0;
    for (at, call) in calls.iter().enumerate() {
        if at > 0 && until_ns < call.from_ns {
            return at;
        }
        match call.until_ns {
            None => return calls.len(),
            Some(end_ns) => until_ns = until_ns.max(end_ns),
        }
    }
    calls.len()
}

/// Why there is no order among a few calls, for people.
#[derive(Clone, Debug)]
pub struct Explained<S> {
    /// Per call: what the object may hold right after it.
    pub after: Vec<BTreeSet<S>>,
    /// The order that gets furthest: calls with the states they lead to.
    pub longest: Vec<(usize, S)>,
    /// What the object may hold when no order gets further.
    pub last: BTreeSet<S>,
    /// The call that fits nowhere.
    pub stuck: usize,
}

/// Tries every order of a few calls and remembers what it saw. `None` if there is an order, or too many to try.
pub fn explain<M: Model>(
    model: &M,
    starts: &BTreeSet<M::State>,
    calls: &[Timed<M::Call>],
    meter: &Meter,
    tries_max: u64,
) -> Option<Explained<M::State>> {
    let mut walk = Walk::new(model, calls, meter, tries_max);
    walk.notes = Some(Notes { after: vec![BTreeSet::new(); calls.len()], longest: Vec::new(), last: BTreeSet::new() });
    if walk.any_end(starts) != Ok(false) {
        return None;
    }
    let stuck = walk.stuck_call();
    let notes = walk.notes.take()?;
    Some(Explained { after: notes.after, longest: notes.longest, last: notes.last, stuck })
}

struct Notes<S> {
    after: Vec<BTreeSet<S>>,
    longest: Vec<(usize, S)>,
    last: BTreeSet<S>,
}

/// The list begins and ends with nodes that are no events.
const HEAD: usize = 0;

struct Node {
    call: u32,
    is_return: bool,
    next: u32,
    previous: u32,
}

/// One walk through the orders of a few calls.
struct Walk<'a, M: Model> {
    model: &'a M,
    calls: &'a [Timed<M::Call>],
    nodes: Vec<Node>,
    /// Per call: its node, and its return's.
    places: Vec<(u32, Option<u32>)>,
    returns_left: usize,
    states: States<M::State>,
    seen: Seen,
    loan: Loan<'a>,
    tries_max: u64,
    /// The latest return that was a dead end.
    furthest: usize,
    notes: Option<Notes<M::State>>,
}

impl<'a, M: Model> Walk<'a, M> {
    fn new(model: &'a M, calls: &'a [Timed<M::Call>], meter: &'a Meter, tries_max: u64) -> Self {
        let mut events: Vec<(u64, bool, u32)> = Vec::with_capacity(calls.len() * 2);
        for (call, timed) in calls.iter().enumerate() {
            events.push((timed.from_ns, false, call as u32));
            events.extend(timed.until_ns.map(|until_ns| (until_ns, true, call as u32)));
        }
        // At the same instant calls come before returns: they overlap.
        events.sort_unstable();
        let mut places = vec![(0, None); calls.len()];
        let last = events.len() as u32 + 1;
        let mut nodes = vec![Node { call: u32::MAX, is_return: false, next: 1, previous: 0 }];
        for (_, is_return, call) in events {
            let at = nodes.len() as u32;
            if is_return {
                places[call as usize].1 = Some(at);
            } else {
                places[call as usize].0 = at;
            }
            nodes.push(Node { call, is_return, next: at + 1, previous: at - 1 });
        }
        nodes.push(Node { call: u32::MAX, is_return: true, next: last, previous: last - 1 });
        let returns_left = places.iter().filter(|(_, until)| until.is_some()).count();
        Walk {
            model,
            calls,
            nodes,
            places,
            returns_left,
            states: States::default(),
            seen: Seen::default(),
            loan: meter.loan(),
            tries_max,
            furthest: HEAD,
            notes: None,
        }
    }

    /// Whether any order leads from any of the states to an end.
    fn any_end(&mut self, starts: &BTreeSet<M::State>) -> Result<bool, Limit> {
        for start in starts {
            if self.walk(start, None)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Every state in which an order may end.
    fn every_end(&mut self, starts: &BTreeSet<M::State>) -> Result<BTreeSet<M::State>, Limit> {
        let mut ends = BTreeSet::new();
        for start in starts {
            self.walk(start, Some(&mut ends))?;
        }
        Ok(ends)
    }

    /// The call whose return no order passes.
    fn stuck_call(&self) -> usize {
        self.nodes[self.furthest].call as usize
    }

    fn walk(&mut self, start: &M::State, mut ends: Option<&mut BTreeSet<M::State>>) -> Result<bool, Limit> {
        let mut state = self.intern(start.clone())?;
        let mut taken: Vec<(u32, u32)> = Vec::new();
        let mut fingerprint = 0u128;
        let mut at = self.nodes[HEAD].next as usize;
        loop {
            let mut is_dead_end = false;
            if self.returns_left == 0 {
                match &mut ends {
                    None => {
                        self.put_all_back(&taken);
                        return Ok(true);
                    }
                    Some(ends) => {
                        ends.insert(self.states.get(state).clone());
                        is_dead_end = true;
                    }
                }
            } else if self.nodes[at].is_return {
                self.note_dead_end(at, &taken, state);
                is_dead_end = true;
            }
            if is_dead_end {
                let Some((call, earlier)) = taken.pop() else { return Ok(false) };
                self.unlift(call);
                fingerprint ^= word_of(u64::from(call));
                state = earlier;
                at = self.nodes[self.places[call as usize].0 as usize].next as usize;
                continue;
            }
            let call = self.nodes[at].call;
            if let Some(next) = self.try_call(call, state, fingerprint)? {
                taken.push((call, state));
                fingerprint ^= word_of(u64::from(call));
                state = next;
                self.lift(call);
                at = self.nodes[HEAD].next as usize;
            } else {
                at = self.nodes[at].next as usize;
            }
        }
    }

    /// The state after the call, if it may come next and this was never tried.
    fn try_call(&mut self, call: u32, state: u32, fingerprint: u128) -> Result<Option<u32>, Limit> {
        let timed = &self.calls[call as usize];
        let Some(next) = self.model.step(self.states.get(state), &timed.call) else { return Ok(None) };
        let next = self.intern(next)?;
        if timed.until_ns.is_none() && next == state {
            return Ok(None); // Nobody misses a call of unknown outcome that changes nothing.
        }
        if let Some(notes) = &mut self.notes {
            notes.after[call as usize].insert(self.states.get(next).clone());
        }
        let situation = fingerprint ^ word_of(u64::from(call)) ^ word_of(u64::from(next) | 1 << 63);
        if !self.seen.insert(situation) {
            return Ok(None);
        }
        self.loan.tried += 1;
        if self.loan.tried > self.tries_max {
            return Err(Limit::Tries);
        }
        if self.loan.tried.is_multiple_of(SITUATIONS_PER_LOOK) {
            self.loan.charge(SITUATION_BYTES * SITUATIONS_PER_LOOK)?;
        }
        Ok(Some(next))
    }

    fn intern(&mut self, state: M::State) -> Result<u32, Limit> {
        let (number, is_new) = self.states.intern(state);
        if is_new {
            self.loan.charge(self.model.state_bytes(self.states.get(number)))?;
        }
        Ok(number)
    }

    fn note_dead_end(&mut self, at: usize, taken: &[(u32, u32)], state: u32) {
        let is_further = at > self.furthest;
        self.furthest = self.furthest.max(at);
        let Some(notes) = &mut self.notes else { return };
        if is_further {
            notes.last.clear();
        }
        if at < self.furthest {
            return;
        }
        notes.last.insert(self.states.get(state).clone());
        if is_further || taken.len() > notes.longest.len() {
            let after = taken.iter().skip(1).map(|(_, state)| *state).chain([state]);
            let longest =
                taken.iter().zip(after).map(|((call, _), state)| (*call as usize, self.states.get(state).clone()));
            notes.longest = longest.collect();
        }
    }

    fn lift(&mut self, call: u32) {
        let (begin, end) = self.places[call as usize];
        self.unlink(begin);
        if let Some(end) = end {
            self.unlink(end);
            self.returns_left -= 1;
        }
    }

    fn unlift(&mut self, call: u32) {
        let (begin, end) = self.places[call as usize];
        if let Some(end) = end {
            self.relink(end);
            self.returns_left += 1;
        }
        self.relink(begin);
    }

    fn put_all_back(&mut self, taken: &[(u32, u32)]) {
        for (call, _) in taken.iter().rev() {
            self.unlift(*call);
        }
    }

    fn unlink(&mut self, at: u32) {
        let (next, previous) = (self.nodes[at as usize].next, self.nodes[at as usize].previous);
        self.nodes[previous as usize].next = next;
        self.nodes[next as usize].previous = previous;
    }

    fn relink(&mut self, at: u32) {
        let (next, previous) = (self.nodes[at as usize].next, self.nodes[at as usize].previous);
        self.nodes[previous as usize].next = at;
        self.nodes[next as usize].previous = at;
    }
}

/// 128 random bits for a number, the same in every run: two rounds of splitmix.
fn word_of(number: u64) -> u128 {
    let mix = |seed: u64| {
        let mut word = number.wrapping_add(seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    };
    u128::from(mix(0x1234_5678_9ABC_DEF1)) << 64 | u128::from(mix(0xFEDC_BA98_7654_3217))
}

#[expect(clippy::disallowed_types, reason = "asked for members, never for their order")]
type Seen = std::collections::HashSet<u128, BuildHasherDefault<Fold>>;

/// A fingerprint is as random as any hash of it.
#[derive(Default)]
struct Fold(u64);

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, fingerprint: u128) {
        self.0 = fingerprint as u64 ^ (fingerprint >> 64) as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// Every state seen, by number.
#[expect(clippy::disallowed_types, reason = "asked for members, never for their order")]
struct States<S> {
    known: Vec<S>,
    numbers: std::collections::HashMap<S, u32>,
}

impl<S> Default for States<S> {
    #[expect(clippy::disallowed_types, reason = "asked for members, never for their order")]
    fn default() -> Self {
        States { known: Vec::new(), numbers: std::collections::HashMap::new() }
    }
}

impl<S: Clone + Eq + std::hash::Hash> States<S> {
    /// Its number, and whether it is new.
    fn intern(&mut self, state: S) -> (u32, bool) {
        if let Some(number) = self.numbers.get(&state) {
            return (*number, false);
        }
        let number = self.known.len() as u32;
        self.known.push(state.clone());
        self.numbers.insert(state, number);
        (number, true)
    }

    fn get(&self, number: u32) -> &S {
        &self.known[number as usize]
    }
}
