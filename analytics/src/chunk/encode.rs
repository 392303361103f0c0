//! Encode: from plain values to the layout that takes the fewest bytes.
//!
//! **Invariant.** The choice depends on the values alone: the same rows give the same bytes, wherever they are sealed.
//! Runs are chosen only where they halve what the next best takes, because a run is found by searching.

use super::{Column, Dictionary, Encoding, Packed, Selection, Zone, packed};
use crate::{
    intern::WordInterner,
    value::{Kind, Value, compare_numbers},
};
use std::cmp::Ordering;

/// More distinct values than this are not worth a list.
const DISTINCT_MAX: usize = 4_096;

impl Column {
    /// Encodes the patterns of one column; `present` says which are there.
    ///
    /// # Panics
    /// If the two speak about different numbers of rows, or for text.
    #[must_use]
    pub fn of_patterns(kind: Kind, mut patterns: Vec<u64>, present: Selection) -> Column {
        assert_eq!(patterns.len(), present.rows(), "one presence bit a value");
        assert!(kind != Kind::Text, "text is encoded through its dictionary");
        let rows = patterns.len();
        fill_gaps(&mut patterns, &present);
        let zone = zone_of(kind, &patterns, &present);
        let encoding = if kind == Kind::F64 { encode_numbers(patterns) } else { encode_integers(patterns) };
        Column { kind, rows, encoding, present: some_if_gaps(present), zone }
    }

    /// Encodes texts: a code a row into `texts`, which are distinct and in any order.
    ///
    /// # Panics
    /// If a code has no text.
    #[must_use]
    pub fn of_codes(texts: &[&str], codes: &[u32], present: Selection) -> Column {
        assert_eq!(codes.len(), present.rows(), "one presence bit a value");
        let mut order: Vec<u32> = (0..u32::try_from(texts.len()).expect("codes have 32 bits")).collect();
        order.sort_unstable_by_key(|code| texts[*code as usize]);
        let mut place = vec![0_u32; texts.len()];
        for (rank, code) in (0_u32..).zip(&order) {
            place[*code as usize] = rank;
        }
        let sorted = order.iter().map(|code| texts[*code as usize]);
        let dictionary = Dictionary::of_sorted(sorted).expect("distinct texts of one chunk");
        let bits = packed::width_for(texts.len().saturating_sub(1) as u64).expect("codes have 32 bits");
        let has = |row: usize| present.contains(row);
        let ranks = codes.iter().enumerate().map(|(row, code)| if has(row) { place[*code as usize] } else { 0 });
        let codes = Packed::pack(bits, ranks, codes.len());
        let end = |text: Option<&str>| text.map_or(Value::Missing, |text| Value::Text(text.into()));
        let missing = (present.rows() as u64 - present.count()) as u32;
        let zone =
            Zone { min: end(dictionary.iter().next()), max: end(dictionary.iter().next_back()), missing, nans: 0 };
        let rows = present.rows();
        let encoding = Encoding::Text { dictionary, codes };
        Column { kind: Kind::Text, rows, encoding, present: some_if_gaps(present), zone }
    }
}

fn some_if_gaps(present: Selection) -> Option<Selection> {
    (present.count() < present.rows() as u64).then_some(present)
}

/// A missing value repeats the one before it: that keeps runs whole and widens no range.
fn fill_gaps(patterns: &mut [u64], present: &Selection) {
    if present.count() == present.rows() as u64 {
        return;
    }
    let mut last = (0..patterns.len()).find(|row| present.contains(*row)).map_or(0, |row| patterns[row]);
    for (row, pattern) in patterns.iter_mut().enumerate() {
        if present.contains(row) {
            last = *pattern;
        } else {
            *pattern = last;
        }
    }
}

fn zone_of(kind: Kind, patterns: &[u64], present: &Selection) -> Zone {
    let missing = (present.rows() as u64 - present.count()) as u32;
    let nothing = Zone { min: Value::Missing, max: Value::Missing, missing, nans: 0 };
    // Gaps repeat a value that is there, so only a column without any value needs a second look.
    if present.count() == 0 {
        return nothing;
    }
    if kind == Kind::F64 {
        let is_there = |row: &usize| present.contains(*row);
        let numbers = || (0..patterns.len()).filter(is_there).map(|row| f64::from_bits(patterns[row]));
        let nans = numbers().filter(|number| number.is_nan()).count() as u32;
        let sound = || numbers().filter(|number| !number.is_nan());
        let pick = |wanted: Ordering| {
            let better = |best: f64, next: f64| if compare_numbers(next, best) == wanted { next } else { best };
            sound().reduce(better).map_or(Value::Missing, Value::F64)
        };
        return Zone { min: pick(Ordering::Less), max: pick(Ordering::Greater), missing, nans };
    }
    let (min, max) = integer_range(patterns);
    let value = |number: i64| Value::of_pattern(kind, number.cast_unsigned());
    Zone { min: value(min), max: value(max), missing, nans: 0 }
}

fn integer_range(patterns: &[u64]) -> (i64, i64) {
    patterns.iter().fold((i64::MAX, i64::MIN), |(min, max), pattern| {
        let number = pattern.cast_signed();
        (min.min(number), max.max(number))
    })
}

fn encode_integers(patterns: Vec<u64>) -> Encoding {
    if patterns.is_empty() {
        return Encoding::Words([].into());
    }
    let (min, max) = integer_range(&patterns);
    let Some(bits) = packed::width_for(max.wrapping_sub(min).cast_unsigned()) else {
        return encode_numbers(patterns);
    };
    let best_bytes = packed::words_for(patterns.len(), bits) * 8;
    if let Some(runs) = runs_within(&patterns, best_bytes / 2) {
        return runs;
    }
    if bits == 32
        && let Some(distinct) = distinct_within(&patterns, best_bytes)
    {
        return distinct;
    }
    let offset = |pattern: &u64| pattern.cast_signed().wrapping_sub(min) as u32;
    Encoding::Packed { base: min, numbers: Packed::pack(bits, patterns.iter().map(offset), patterns.len()) }
}

fn encode_numbers(patterns: Vec<u64>) -> Encoding {
    let bytes = patterns.len() * 8;
    runs_within(&patterns, bytes / 4)
        .or_else(|| distinct_within(&patterns, bytes))
        .unwrap_or_else(|| Encoding::Words(padded(patterns)))
}

/// Whole 16-byte loads may read one word past an odd number of rows.
fn padded(mut patterns: Vec<u64>) -> std::sync::Arc<[u64]> {
    if patterns.len() % 2 == 1 {
        patterns.push(0);
    }
    patterns.into()
}

/// Runs, if they take fewer than `bytes_max` bytes.
fn runs_within(patterns: &[u64], bytes_max: usize) -> Option<Encoding> {
    let changes = patterns.windows(2).filter(|pair| pair[0] != pair[1]).count();
    if (changes + 1) * 12 >= bytes_max {
        return None;
    }
    let (mut ends, mut values) = (Vec::with_capacity(changes + 1), Vec::with_capacity(changes + 1));
    for (row, pattern) in (1_u32..).zip(patterns) {
        if values.last() == Some(pattern) {
            *ends.last_mut()? = row;
        } else {
            values.push(*pattern);
            ends.push(row);
        }
    }
    Some(Encoding::Runs { ends: ends.into(), values: values.into() })
}

/// A list of the distinct patterns and a code a row, if that takes fewer than `bytes_max` bytes.
fn distinct_within(patterns: &[u64], bytes_max: usize) -> Option<Encoding> {
    if patterns.is_empty() {
        return None;
    }
    let mut interner = WordInterner::new();
    let mut codes = Vec::with_capacity(patterns.len());
    for pattern in patterns {
        codes.push(interner.intern(*pattern, 0));
        if interner.len() > DISTINCT_MAX {
            return None;
        }
    }
    let bits = packed::width_for(interner.len() as u64 - 1)?;
    let bytes = interner.len() * 8 + packed::words_for(patterns.len(), bits) * 8;
    if bytes >= bytes_max {
        return None;
    }
    let values = interner.keys().iter().map(|(pattern, _)| *pattern).collect();
    Some(Encoding::Distinct { values, codes: Packed::pack(bits, codes.into_iter(), patterns.len()) })
}
