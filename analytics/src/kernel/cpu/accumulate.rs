//! Accumulate: what each group adds up to, an array an aggregate.
//!
//! ```text
//!   slot 0         rows that are not wanted: they are added too, where nobody looks, instead of being branched around
//!   slot 1, 2, …   groups; few of them are kept four times over, so that rows of one group do not wait for each other
//! ```
//!
//! **Invariant.** Rows go to the copies in turn and the copies are added up in order: the same rows give the same bits.
//! Sums of f64 are added up plainly for as long as [`FloatSum`] allows, then carried over.

use super::{
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
    /// `count(x)`.
    Counts(Vec<u64>),
    /// Whole numbers: count and sum.
    Whole(Vec<u64>, Vec<i128>),
    /// f64: count and plain sum, and what was carried over.
    Float(Vec<u64>, Vec<f64>, Vec<FloatSum>),
    /// Extremes of numbers, ordered as integers.
    Ends { is_max: bool, counts: Vec<u64>, best: Vec<i64> },
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

    /// Adds the rows of a piece: `slots` says where each belongs, `mask` which are wanted.
    pub fn add(&mut self, piece: &Piece<'_>, slots: &[u32], mask: &[u8]) -> Result<(), QueryError> {
        let copies = self.copies;
        count_into(&mut self.rows, slots, copies);
        for (aggregate, sums) in self.query.aggregates.iter().zip(&mut self.sums) {
            sums.add(aggregate, piece, (slots, mask, copies), self.limits)?;
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

/// Turns the numbers of the copies of each slot: `slot × copies + row mod copies`.
#[inline(always)]
fn places<'a>(slots: &'a [u32], copies: usize) -> impl Iterator<Item = usize> + 'a {
    slots.iter().enumerate().map(move |(row, slot)| *slot as usize * copies + (row & (copies - 1)))
}

fn count_into(counts: &mut [u64], slots: &[u32], copies: usize) {
    places(slots, copies).for_each(|place| counts[place] += 1);
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
                Sums::Ends { is_max: aggregate.function == Function::Max, counts: Vec::new(), best: Vec::new() }
            }
            _ => Sums::States(Vec::new()),
        }
    }

    fn grow(&mut self, places: usize, slots: usize, aggregate: &Aggregate) {
        match self {
            Sums::Rows => {}
            Sums::Counts(counts) => counts.resize(places, 0),
            Sums::Whole(counts, sums) => {
                counts.resize(places, 0);
                sums.resize(places, 0);
            }
            Sums::Float(counts, plain, carried) => {
                counts.resize(places, 0);
                plain.resize(places, 0.0);
                carried.resize(slots, FloatSum::default());
            }
            Sums::Ends { is_max, counts, best } => {
                counts.resize(places, 0);
                best.resize(places, if *is_max { i64::MIN } else { i64::MAX });
            }
            Sums::States(states) => states.resize_with(slots, || State::new(aggregate)),
        }
    }

    fn add(
        &mut self,
        aggregate: &Aggregate,
        piece: &Piece<'_>,
        (slots, mask, copies): (&[u32], &[u8], usize),
        limits: &Limits,
    ) -> Result<(), QueryError> {
        if matches!(self, Sums::Rows) {
            return Ok(());
        }
        if let Sums::States(states) = self {
            return add_states(states, aggregate, piece, (Some(slots), mask), limits);
        }
        let argument = &aggregate.arguments[0];
        if let Sums::Counts(counts) = self {
            let known = known_of(argument, piece, mask)?;
            let slots = known.map(|known| without(slots, &known));
            if let Some(slots) = slots {
                count_into(counts, &slots, copies);
            }
            return Ok(());
        }
        let numbers = piece.numbers(argument, mask)?;
        let known_slots = numbers.known.as_ref().map(|known| without(slots, known));
        let slots = known_slots.as_deref().unwrap_or(slots);
        let pairs = places(slots, copies).zip(numbers.bits.iter());
        match self {
            Sums::Whole(counts, sums) => {
                pairs.for_each(|(place, bits)| sums[place] += i128::from(bits.cast_signed()));
                count_into(counts, slots, copies);
            }
            Sums::Float(counts, plain, _) => {
                pairs.for_each(|(place, bits)| plain[place] += f64::from_bits(*bits));
                count_into(counts, slots, copies);
            }
            Sums::Ends { is_max, counts, best } => {
                let is_float = argument.kind() == Kind::F64;
                for (place, bits) in pairs {
                    let key = if is_float { loops::ordered(*bits) } else { bits.cast_signed() };
                    best[place] = if *is_max { best[place].max(key) } else { best[place].min(key) };
                }
                count_into(counts, slots, copies);
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
            Sums::Counts(counts) => {
                let known = known_of(&aggregate.arguments[0], piece, mask)?;
                counts[place] += known.map_or(0, |known| loops::count(piece.level, &masked(piece, mask, &known)));
            }
            Sums::Whole(counts, sums) => {
                if let Some(sum) = packed_sum(&aggregate.arguments[0], piece, (mask, rows)) {
                    counts[place] += rows;
                    sums[place] += sum;
                    return Ok(());
                }
                let numbers = piece.numbers(&aggregate.arguments[0], mask)?;
                let (mask, rows) = masked_rows(piece, (mask, rows), numbers.known.as_deref());
                counts[place] += rows;
                sums[place] += loops::sum_whole(piece.level, &numbers.bits, &mask);
            }
            Sums::Float(counts, _, carried) => {
                let numbers = piece.numbers(&aggregate.arguments[0], mask)?;
                let (mask, rows) = masked_rows(piece, (mask, rows), numbers.known.as_deref());
                counts[place] += rows;
                carried[1].add_sum(loops::sum_floats(piece.level, &numbers.bits, &mask), 0);
            }
            Sums::Ends { is_max, counts, best } => {
                let argument = &aggregate.arguments[0];
                let numbers = piece.numbers(argument, mask)?;
                let (mask, rows) = masked_rows(piece, (mask, rows), numbers.known.as_deref());
                counts[place] += rows;
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
            (Sums::Ends { is_max, counts, best }, Sums::Ends { counts: more, best: other, .. }) => {
                add_all(counts, &more);
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
        let total = |counts: &[u64]| counts[places.clone()].iter().sum::<u64>();
        match self {
            Sums::Rows => State::Count(rows),
            Sums::Counts(counts) => State::Count(total(counts)),
            Sums::Whole(counts, sums) => State::Whole { count: total(counts), sum: sums[places].iter().sum() },
            Sums::Float(counts, _, carried) => {
                let mut sum = carried[slot];
                sum.add_sum(0.0, total(counts));
                State::Float(sum)
            }
            Sums::Ends { is_max, counts, best } => {
                let best = best[places.clone()].iter().copied();
                let key = if *is_max { best.max() } else { best.min() }.unwrap_or(0);
                let kind = aggregate.argument_kind().unwrap_or(Kind::I64);
                let value = match kind {
                    _ if total(counts) == 0 => Value::Missing,
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
            let mut codes = [0_u32; super::eval::PIECE_ROWS];
            numbers.unpack(piece.first, &mut codes[..piece.rows]);
            loops::sum_codes(piece.level, &codes[..piece.rows], mask)
        }
    };
    Some(i128::from(*base) * i128::from(rows) + i128::from(sum))
}

/// Where an argument has a value; `None` = nowhere.
fn known_of(argument: &Expr, piece: &Piece<'_>, mask: &[u8]) -> Result<Option<Vec<u8>>, QueryError> {
    let known = match argument {
        Expr::Column { index, .. } => piece.present(*index),
        Expr::Constant(value) if value.is_missing() => return Ok(None),
        Expr::Constant(_) => None,
        argument => piece.numbers(argument, mask)?.known,
    };
    Ok(Some(known.unwrap_or_else(|| vec![0xFF; piece.rows])))
}

fn without(slots: &[u32], known: &[u8]) -> Vec<u32> {
    slots.iter().zip(known).map(|(slot, known)| if *known == 0 { 0 } else { *slot }).collect()
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
    (slots, mask): (Option<&[u32]>, &[u8]),
    limits: &Limits,
) -> Result<(), QueryError> {
    let wanted = || (0..piece.rows).filter(|row| mask[*row] != 0);
    let slot = |row: usize| slots.map_or(1, |slots| slots[row] as usize);
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
    if let (Function::Variance { .. }, None, [(_, numbers)]) = (&aggregate.function, slots, &columns[..]) {
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
