//! Accumulate: what each group adds up to, an array an aggregate.
//!
//! ```text
//!   slot 0         rows that are not wanted: they are added too, where nobody looks, instead of being branched around
//!   slot 1, 2, …   groups; few of them are kept four times over, so that rows of one group do not wait for each other
//! ```
//!
//! Counts of values are kept as counts of missing ones: most columns have none, and then there is nothing to count.
//!
//! **Invariant.** Rows go to the copies in turn and the copies are added up in order: the same rows give the same bits.
//! Sums of f64 are added up plainly for as long as [`FloatSum`] allows, then carried over.

use super::{
    decode,
    eval::Piece,
    groups::{Keys, Numbering},
    loops,
};
use crate::{
    aggregate::{FloatSum, Group, Moments, Partial, State},
    chunk::{Encoding, Lanes},
    limits::Limits,
    query::{Aggregate, Expr, Function, Query, QueryError},
    value::{Kind, Value},
};

/// So few slots are kept four times.
const COPIED_SLOTS_MAX: usize = 4_096;

/// Up to so many slots, plain sums of f64 are carried over after every chunk; beyond, after a span.
const CARRIED_SLOTS_MAX: usize = 16_384;

#[derive(Debug)]
enum Sums {
    /// `count()`: the rows of the group.
    Rows,
    /// `count(x)`: how many are missing.
    Counts(Vec<u64>),
    /// Whole numbers: how many are missing, and the sum.
    Whole(Vec<u64>, Vec<i128>),
    /// f64: how many are missing, the plain sum, and what was carried over.
    Float(Vec<u64>, Vec<f64>, Vec<FloatSum>),
    /// Extremes of numbers, ordered as integers.
    Ends { is_max: bool, missing: Vec<u64>, best: Vec<i64> },
    /// Everything else: a state a slot.
    States(Vec<State>),
}

/// What the groups of one span add up to.
#[derive(Debug)]
pub struct Totals<'a> {
    query: &'a Query,
    limits: &'a Limits,
    copies: usize,
    slots: usize,
    rows: Vec<u64>,
    sums: Vec<Sums>,
}

impl<'a> Totals<'a> {
    /// Nothing yet. `dense` is how many groups there may be, if that is known.
    pub fn new(query: &'a Query, limits: &'a Limits, dense: Option<usize>) -> Totals<'a> {
        let is_few = dense.is_some_and(|groups| groups < COPIED_SLOTS_MAX);
        let sums = query.aggregates.iter().map(Sums::new).collect();
        let copies = if is_few { 4 } else { 1 };
        let mut totals = Totals { query, limits, copies, slots: 0, rows: Vec::new(), sums };
        totals.grow(dense.unwrap_or(1));
        totals
    }

    /// Makes room for `groups` groups.
    pub fn grow(&mut self, groups: usize) {
        let slots = groups + 1;
        if slots <= self.slots {
            return;
        }
        self.slots = slots;
        let places = slots * self.copies;
        self.rows.resize(places, 0);
        for (sums, aggregate) in self.sums.iter_mut().zip(&self.query.aggregates) {
            sums.grow(places, slots, aggregate);
        }
    }

    /// Adds the rows of a piece: `numbers` says to which group each belongs, `mask` which are wanted.
    pub fn add(&mut self, piece: &Piece<'_>, numbers: &mut [u32], mask: &[u8]) -> Result<(), QueryError> {
        let copies = self.copies;
        decode::places(piece.level, mask, copies, numbers);
        let places = &*numbers;
        count_into(&mut self.rows, places);
        for (aggregate, sums) in self.query.aggregates.iter().zip(&mut self.sums) {
            sums.add(aggregate, piece, (places, mask, copies), self.limits)?;
        }
        Ok(())
    }

    /// Adds the rows of a piece where all belong to one group: no slots, wide sums.
    pub fn add_whole(&mut self, piece: &Piece<'_>, mask: &[u8]) -> Result<(), QueryError> {
        let rows = loops::count(piece.level, mask);
        self.rows[self.copies] += rows;
        for (aggregate, sums) in self.query.aggregates.iter().zip(&mut self.sums) {
            sums.add_whole(aggregate, piece, (mask, rows, self.copies), self.limits)?;
        }
        Ok(())
    }

    /// Adds what a fused loop found: rows, and the sum of the one aggregate.
    pub fn add_fused(&mut self, rows: u64, sum: f64) {
        self.rows[self.copies] += rows;
        if let [Sums::Float(_, _, carried)] = &mut self.sums[..] {
            carried[1].add_sum(sum, 0);
        }
    }

    /// The places of rows and of the one aggregate's sums, for a fused loop, and how many copies there are of each.
    pub fn fused_places(&mut self) -> Option<(&mut [u64], &mut [f64], usize)> {
        match &mut self.sums[..] {
            [Sums::Float(_, plain, _)] => Some((&mut self.rows, plain, self.copies)),
            _ => None,
        }
    }

    /// Carries plain sums over where that is cheap; called after every chunk.
    pub fn end_chunk(&mut self) {
        if self.slots <= CARRIED_SLOTS_MAX {
            self.carry();
        }
    }

    fn carry(&mut self) {
        for sums in &mut self.sums {
            if let Sums::Float(_, plain, carried) = sums {
                for (slot, copies) in plain.chunks_mut(self.copies).enumerate() {
                    for sum in copies {
                        carried[slot].add_sum(std::mem::take(sum), 0);
                    }
                }
            }
        }
    }

    /// Adds what a later span of the same dense groups adds up to.
    pub fn merge(&mut self, mut later: Totals<'_>) -> Result<(), QueryError> {
        self.carry();
        later.carry();
        add_all(&mut self.rows, &later.rows);
        for (mine, theirs) in self.sums.iter_mut().zip(later.sums) {
            mine.merge(theirs, self.limits)?;
        }
        Ok(())
    }

    /// The groups that have rows.
    pub fn finish(mut self, keys: &Keys, numbering: &Numbering<'_>) -> Partial {
        self.carry();
        let mut groups = Vec::new();
        for slot in 1..self.slots {
            let places = slot * self.copies..(slot + 1) * self.copies;
            let rows: u64 = self.rows[places.clone()].iter().sum();
            // Without `group by` there is one group, also of no rows.
            if rows == 0 && !keys.is_whole() {
                continue;
            }
            let states = self.sums.iter().zip(&self.query.aggregates);
            let states = states.map(|(sums, aggregate)| sums.state(slot, places.clone(), rows, aggregate)).collect();
            groups.push(Group { key: keys.key(slot as u32 - 1, numbering.chains()), states });
        }
        Partial::of_groups(groups)
    }
}

/// Counts do not reach 2^64: saying so takes a check out of the loop.
fn count_into(counts: &mut [u64], places: &[u32]) {
    places.iter().for_each(|place| counts[*place as usize] = counts[*place as usize].wrapping_add(1));
}

/// Counts the rows that are wanted and have no value.
fn count_missing(missing: &mut [u64], places: &[u32], known: Option<&[u8]>) {
    let Some(known) = known else { return };
    for (place, _) in places.iter().zip(known).filter(|(_, known)| **known == 0) {
        missing[*place as usize] += 1;
    }
}

fn add_all(mine: &mut [u64], theirs: &[u64]) {
    mine.iter_mut().zip(theirs).for_each(|(mine, theirs)| *mine += theirs);
}

impl Sums {
    fn new(aggregate: &Aggregate) -> Sums {
        let kind = aggregate.argument_kind();
        match aggregate.function {
            Function::Count if aggregate.arguments.is_empty() => Sums::Rows,
            Function::Count => Sums::Counts(Vec::new()),
            Function::Sum | Function::Average if kind == Some(Kind::F64) => {
                Sums::Float(Vec::new(), Vec::new(), Vec::new())
            }
            Function::Sum | Function::Average => Sums::Whole(Vec::new(), Vec::new()),
            Function::Min | Function::Max if kind != Some(Kind::Text) => {
                Sums::Ends { is_max: aggregate.function == Function::Max, missing: Vec::new(), best: Vec::new() }
            }
            _ => Sums::States(Vec::new()),
        }
    }

    fn grow(&mut self, places: usize, slots: usize, aggregate: &Aggregate) {
        match self {
            Sums::Rows => {}
            Sums::Counts(missing) => missing.resize(places, 0),
            Sums::Whole(missing, sums) => {
                missing.resize(places, 0);
                sums.resize(places, 0);
            }
            Sums::Float(missing, plain, carried) => {
                missing.resize(places, 0);
                plain.resize(places, 0.0);
                carried.resize(slots, FloatSum::default());
            }
            Sums::Ends { is_max, missing, best } => {
                missing.resize(places, 0);
                best.resize(places, if *is_max { i64::MIN } else { i64::MAX });
            }
            Sums::States(states) => states.resize_with(slots, || State::new(aggregate)),
        }
    }

    fn add(
        &mut self,
        aggregate: &Aggregate,
        piece: &Piece<'_>,
        (places, mask, copies): (&[u32], &[u8], usize),
        limits: &Limits,
    ) -> Result<(), QueryError> {
        let missing = match self {
            Sums::Rows => return Ok(()),
            Sums::States(states) => {
                return add_states(states, aggregate, piece, (Some((places, copies)), mask), limits);
            }
            Sums::Counts(missing) => {
                let known = known_of(&aggregate.arguments[0], piece, mask)?;
                count_missing(missing, places, known.as_deref());
                return Ok(());
            }
            Sums::Whole(missing, _) | Sums::Float(missing, ..) | Sums::Ends { missing, .. } => missing,
        };
        let argument = &aggregate.arguments[0];
        let numbers = piece.numbers(argument, mask)?;
        count_missing(missing, places, numbers.known.as_deref());
        let places = decode::known_places(places, numbers.known.as_deref(), copies);
        let pairs = places.iter().map(|place| *place as usize).zip(numbers.bits.iter());
        match self {
            Sums::Whole(_, sums) => {
                pairs.for_each(|(place, bits)| sums[place] = sums[place].wrapping_add(i128::from(bits.cast_signed())));
            }
            Sums::Float(_, plain, _) => pairs.for_each(|(place, bits)| plain[place] += f64::from_bits(*bits)),
            Sums::Ends { is_max, best, .. } => {
                let is_float = argument.kind() == Kind::F64;
                for (place, bits) in pairs {
                    let key = if is_float { loops::ordered(*bits) } else { bits.cast_signed() };
                    best[place] = if *is_max { best[place].max(key) } else { best[place].min(key) };
                }
            }
            Sums::Rows | Sums::Counts(_) | Sums::States(_) => {}
        }
        Ok(())
    }

    fn add_whole(
        &mut self,
        aggregate: &Aggregate,
        piece: &Piece<'_>,
        (mask, rows, place): (&[u8], u64, usize),
        limits: &Limits,
    ) -> Result<(), QueryError> {
        match self {
            Sums::Rows => {}
            Sums::States(states) => return add_states(states, aggregate, piece, (None, mask), limits),
            Sums::Counts(missing) => {
                let known = known_of(&aggregate.arguments[0], piece, mask)?;
                let known = known.map_or(rows, |known| loops::count(piece.level, &masked(piece, mask, &known)));
                missing[place] += rows - known;
            }
            Sums::Whole(missing, sums) => {
                if let Some(sum) = packed_sum(&aggregate.arguments[0], piece, (mask, rows)) {
                    sums[place] += sum;
                    return Ok(());
                }
                let numbers = piece.numbers(&aggregate.arguments[0], mask)?;
                let (mask, known) = masked_rows(piece, (mask, rows), numbers.known.as_deref());
                missing[place] += rows - known;
                sums[place] += loops::sum_whole(piece.level, &numbers.bits, &mask);
            }
            Sums::Float(missing, _, carried) => {
                let numbers = piece.numbers(&aggregate.arguments[0], mask)?;
                let (mask, known) = masked_rows(piece, (mask, rows), numbers.known.as_deref());
                missing[place] += rows - known;
                carried[1].add_sum(loops::sum_floats(piece.level, &numbers.bits, &mask), 0);
            }
            Sums::Ends { is_max, missing, best } => {
                let argument = &aggregate.arguments[0];
                let numbers = piece.numbers(argument, mask)?;
                let (mask, known) = masked_rows(piece, (mask, rows), numbers.known.as_deref());
                missing[place] += rows - known;
                let (min, max) = loops::ends(piece.level, argument.kind() == Kind::F64, &numbers.bits, &mask);
                best[place] = if *is_max { best[place].max(max) } else { best[place].min(min) };
            }
        }
        Ok(())
    }

    fn merge(&mut self, later: Sums, limits: &Limits) -> Result<(), QueryError> {
        match (self, later) {
            (Sums::Rows, Sums::Rows) => {}
            (Sums::Counts(mine), Sums::Counts(theirs)) => add_all(mine, &theirs),
            (Sums::Whole(counts, sums), Sums::Whole(more, other)) => {
                add_all(counts, &more);
                sums.iter_mut().zip(other).for_each(|(mine, theirs)| *mine += theirs);
            }
            (Sums::Float(counts, _, carried), Sums::Float(more, _, other)) => {
                add_all(counts, &more);
                carried.iter_mut().zip(&other).for_each(|(mine, theirs)| mine.merge(theirs));
            }
            (Sums::Ends { is_max, missing, best }, Sums::Ends { missing: more, best: other, .. }) => {
                add_all(missing, &more);
                let better = |mine: i64, theirs: i64| if *is_max { mine.max(theirs) } else { mine.min(theirs) };
                best.iter_mut().zip(other).for_each(|(mine, theirs)| *mine = better(*mine, theirs));
            }
            (Sums::States(mine), Sums::States(theirs)) => {
                for (mine, theirs) in mine.iter_mut().zip(&theirs).skip(1) {
                    mine.merge(theirs, limits)?;
                }
            }
            (mine, theirs) => panic!("{mine:?} and {theirs:?} belong to different aggregates"),
        }
        Ok(())
    }

    fn state(&self, slot: usize, places: std::ops::Range<usize>, rows: u64, aggregate: &Aggregate) -> State {
        let there = |missing: &[u64]| rows - missing[places.clone()].iter().sum::<u64>();
        match self {
            Sums::Rows => State::Count(rows),
            Sums::Counts(missing) => State::Count(there(missing)),
            Sums::Whole(missing, sums) => State::Whole { count: there(missing), sum: sums[places].iter().sum() },
            Sums::Float(missing, _, carried) => {
                let mut sum = carried[slot];
                sum.add_sum(0.0, there(missing));
                State::Float(sum)
            }
            Sums::Ends { is_max, missing, best } => {
                let best = best[places.clone()].iter().copied();
                let key = if *is_max { best.max() } else { best.min() }.unwrap_or(0);
                let kind = aggregate.argument_kind().unwrap_or(Kind::I64);
                let value = match kind {
                    _ if there(missing) == 0 => Value::Missing,
                    Kind::F64 => Value::F64(loops::of_ordered(key)),
                    kind => Value::of_pattern(kind, key.cast_unsigned()),
                };
                State::Extreme { is_max: *is_max, best: value }
            }
            Sums::States(states) => states[slot].clone(),
        }
    }
}

/// The sum of a packed column without gaps, from its codes as they lie.
fn packed_sum(argument: &Expr, piece: &Piece<'_>, (mask, rows): (&[u8], u64)) -> Option<i128> {
    let Expr::Column { index, .. } = argument else { return None };
    let column = piece.column(*index);
    let (None, Encoding::Packed { base, numbers }) = (column.present(), column.encoding()) else { return None };
    let range = piece.first..piece.first + piece.rows;
    let sum = match numbers.lanes() {
        Lanes::Zero => 0,
        Lanes::U8(lanes) => loops::sum_bytes(piece.level, &lanes[range], mask),
        Lanes::U16(lanes) => loops::sum_codes(piece.level, &lanes[range], mask),
        Lanes::U32(lanes) => loops::sum_codes(piece.level, &lanes[range], mask),
        Lanes::Narrow(..) => {
            let codes = decode::narrow(piece.level, numbers, piece.first, piece.rows);
            loops::sum_bytes(piece.level, &codes, mask)
        }
    };
    Some(i128::from(*base) * i128::from(rows) + i128::from(sum))
}

/// Where an argument has a value; `None` = everywhere.
fn known_of(argument: &Expr, piece: &Piece<'_>, mask: &[u8]) -> Result<Option<Vec<u8>>, QueryError> {
    match argument {
        Expr::Column { index, .. } => Ok(piece.present(*index)),
        argument => Ok(piece.numbers(argument, mask)?.known),
    }
}

fn masked(piece: &Piece<'_>, mask: &[u8], known: &[u8]) -> Vec<u8> {
    let mut masked = mask.to_vec();
    loops::and(piece.level, &mut masked, known);
    masked
}

fn masked_rows<'m>(
    piece: &Piece<'_>,
    (mask, rows): (&'m [u8], u64),
    known: Option<&[u8]>,
) -> (std::borrow::Cow<'m, [u8]>, u64) {
    match known {
        None => (mask.into(), rows),
        Some(known) => {
            let masked = masked(piece, mask, known);
            let rows = loops::count(piece.level, &masked);
            (masked.into(), rows)
        }
    }
}

/// The aggregates that keep more than a number: row by row, from columns decoded once.
fn add_states(
    states: &mut [State],
    aggregate: &Aggregate,
    piece: &Piece<'_>,
    (places, mask): (Option<(&[u32], usize)>, &[u8]),
    limits: &Limits,
) -> Result<(), QueryError> {
    let wanted = || (0..piece.rows).filter(|row| mask[*row] != 0);
    let slot = |row: usize| places.map_or(1, |(places, copies)| places[row] as usize / copies);
    let columns: Vec<_> = aggregate
        .arguments
        .iter()
        .filter(|argument| argument.kind() != Kind::Text)
        .map(|argument| Ok((argument.kind(), piece.numbers(argument, mask)?)))
        .collect::<Result<_, QueryError>>()?;
    if columns.len() < aggregate.arguments.len() {
        for row in wanted() {
            let values: Result<Vec<Value>, _> =
                aggregate.arguments.iter().map(|argument| argument.value(piece.chunk, piece.first + row)).collect();
            states[slot(row)].add(&values?, limits)?;
        }
        return Ok(());
    }
    if let (Function::Variance { .. }, None, [(_, numbers)]) = (&aggregate.function, places, &columns[..]) {
        let is_in = |row: &usize| numbers.known.as_ref().is_none_or(|known| known[*row] != 0);
        let values: Vec<f64> = wanted().filter(is_in).map(|row| f64::from_bits(numbers.bits[row])).collect();
        return states[1].merge(&State::Moments(two_passes(&values)), limits);
    }
    let mut values = Vec::with_capacity(columns.len());
    for row in wanted() {
        values.clear();
        values.extend(columns.iter().map(|(kind, numbers)| {
            let is_missing = numbers.known.as_ref().is_some_and(|known| known[row] == 0);
            if is_missing { Value::Missing } else { Value::of_pattern(*kind, numbers.bits[row]) }
        }));
        states[slot(row)].add(&values, limits)?;
    }
    Ok(())
}

/// Mean, then distances from it: no division a row.
fn two_passes(values: &[f64]) -> Moments {
    if values.is_empty() {
        return Moments::default();
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let squares = values.iter().map(|value| (value - mean) * (value - mean)).sum();
    Moments::of_parts(values.len() as u64, mean, squares)
}
