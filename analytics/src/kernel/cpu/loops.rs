//! Loops: the arithmetic itself, over pieces of columns that stay in the nearest cache.
//!
//! A mask is a byte a row, 0x00 or 0xFF: it is and-ed, never branched on, so that the time does not depend on how many
//! rows pass. Sums go to 32 places at once, which hides the latency of an addition and is the same on every
//! instruction set: the order of additions is written down here, not left to the compiler.
//!
//! **Invariant.** A value whose mask is 0x00 leaves no trace, be it NaN.

use super::dispatch::{Level, Work, run};
use crate::query::Comparison;
use std::cmp::Ordering;

/// Places a sum is spread over.
const LANES: usize = 32;

/// A number of a packed column.
pub trait Code: Copy + PartialOrd {
    /// As 64 bits.
    fn wide(self) -> u64;
    /// This number less another, around the end.
    fn minus(self, other: Self) -> Self;
    /// As 32 bits.
    fn half(self) -> u32;
}

impl Code for u8 {
    #[inline(always)]
    fn wide(self) -> u64 {
        self.into()
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        self.wrapping_sub(other)
    }

    #[inline(always)]
    fn half(self) -> u32 {
        self.into()
    }
}

impl Code for u16 {
    #[inline(always)]
    fn wide(self) -> u64 {
        self.into()
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        self.wrapping_sub(other)
    }

    #[inline(always)]
    fn half(self) -> u32 {
        self.into()
    }
}

impl Code for u32 {
    #[inline(always)]
    fn wide(self) -> u64 {
        u64::from(self)
    }

    #[inline(always)]
    fn minus(self, other: Self) -> Self {
        self.wrapping_sub(other)
    }

    #[inline(always)]
    fn half(self) -> u32 {
        self
    }
}

/// Whether each number lies within `low ..= low + width`.
struct Within<'a, T> {
    numbers: &'a [T],
    low: T,
    width: T,
    out: &'a mut [u8],
}

impl<T: Code> Work for Within<'_, T> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        for (out, number) in self.out.iter_mut().zip(self.numbers) {
            *out = flag(number.minus(self.low) <= self.width);
        }
    }
}

/// 0xFF or 0x00 for each number, by whether it lies within `low ..= low + width`.
pub fn within<T: Code>(level: Level, numbers: &[T], low: T, width: T, out: &mut [u8]) {
    run(level, Within { numbers, low, width, out });
}

#[inline(always)]
fn flag(holds: bool) -> u8 {
    if holds { 0xFF } else { 0 }
}

/// Two columns of patterns, compared.
struct Compared<'a> {
    operator: Comparison,
    is_float: bool,
    left: &'a [u64],
    right: &'a [u64],
    out: &'a mut [u8],
}

impl Work for Compared<'_> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        let Compared { is_float, left, right, out, .. } = self;
        // The operator is a constant within each arm, so that every loop is one comparison.
        match self.operator {
            Comparison::Equal => compare_all(is_float, left, right, out, Ordering::is_eq),
            Comparison::NotEqual => compare_all(is_float, left, right, out, Ordering::is_ne),
            Comparison::Less => compare_all(is_float, left, right, out, Ordering::is_lt),
            Comparison::LessOrEqual => compare_all(is_float, left, right, out, Ordering::is_le),
            Comparison::Greater => compare_all(is_float, left, right, out, Ordering::is_gt),
            Comparison::GreaterOrEqual => compare_all(is_float, left, right, out, Ordering::is_ge),
        }
    }
}

#[inline(always)]
fn compare_all(is_float: bool, left: &[u64], right: &[u64], out: &mut [u8], holds: impl Fn(Ordering) -> bool) {
    if is_float {
        for ((out, left), right) in out.iter_mut().zip(left).zip(right) {
            *out = flag(holds(ordered(*left).cmp(&ordered(*right))));
        }
    } else {
        for ((out, left), right) in out.iter_mut().zip(left).zip(right) {
            *out = flag(holds(left.cast_signed().cmp(&right.cast_signed())));
        }
    }
}

/// Compares two columns of patterns, of f64 or of whole numbers.
pub fn compare(level: Level, operator: Comparison, is_float: bool, left: &[u64], right: &[u64], out: &mut [u8]) {
    run(level, Compared { operator, is_float, left, right, out });
}

/// The bits of an f64 as a number that is ordered as the f64 are: zeros equal, NaN above everything.
#[must_use]
#[inline(always)]
pub fn ordered(bits: u64) -> i64 {
    let number = f64::from_bits(bits);
    let bits = if number.is_nan() { f64::NAN.to_bits() } else { (number + 0.0).to_bits() }.cast_signed();
    bits ^ ((bits >> 63).cast_unsigned() >> 1).cast_signed()
}

/// The f64 that [`ordered`] gave this number for.
#[must_use]
pub fn of_ordered(number: i64) -> f64 {
    f64::from_bits((number ^ ((number >> 63).cast_unsigned() >> 1).cast_signed()).cast_unsigned())
}

struct Marked<'a>(&'a [u8]);

impl Work for Marked<'_> {
    type Output = u64;

    #[inline(always)]
    fn work(self) -> u64 {
        let mut total = 0_u64;
        // 128 ones fit into a byte: bytes are added as bytes, and widened once a block. Nothing here can wrap; saying
        // so takes the checks away that would keep the loop from being one of vectors.
        for block in self.0.chunks(128) {
            total += u64::from(block.iter().fold(0_u8, |sum, mark| sum.wrapping_add(mark & 1)));
        }
        total
    }
}

/// How many rows of a mask are in.
pub fn count(level: Level, mask: &[u8]) -> u64 {
    run(level, Marked(mask))
}

struct FloatTotal<'a> {
    numbers: &'a [u64],
    mask: &'a [u8],
}

impl Work for FloatTotal<'_> {
    type Output = f64;

    #[inline(always)]
    fn work(self) -> f64 {
        let mut lanes = [0.0_f64; LANES];
        let (blocks, rest) = self.numbers.as_chunks::<LANES>();
        let (masks, rest_mask) = self.mask.as_chunks::<LANES>();
        for (block, mask) in blocks.iter().zip(masks) {
            for lane in 0..LANES {
                lanes[lane] += f64::from_bits(block[lane] & wide(mask[lane]));
            }
        }
        for (lane, (number, mask)) in rest.iter().zip(rest_mask).enumerate() {
            lanes[lane] += f64::from_bits(number & wide(*mask));
        }
        // Pairs of pairs: always the same tree.
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                lanes[lane] += lanes[lane + width];
            }
            width /= 2;
        }
        lanes[0]
    }
}

#[inline(always)]
fn wide(mask: u8) -> u64 {
    i64::from(mask.cast_signed()).cast_unsigned()
}

/// The sum of the f64 whose mask is in.
pub fn sum_floats(level: Level, numbers: &[u64], mask: &[u8]) -> f64 {
    run(level, FloatTotal { numbers, mask })
}

struct CodeTotal<'a, T> {
    numbers: &'a [T],
    mask: &'a [u8],
}

impl<T: Code> Work for CodeTotal<'_, T> {
    type Output = u64;

    #[inline(always)]
    fn work(self) -> u64 {
        let mut lanes = [0_u64; LANES];
        let (blocks, rest) = self.numbers.as_chunks::<LANES>();
        let (masks, rest_mask) = self.mask.as_chunks::<LANES>();
        for (block, mask) in blocks.iter().zip(masks) {
            for lane in 0..LANES {
                lanes[lane] = lanes[lane].wrapping_add(block[lane].wide() & wide(mask[lane]));
            }
        }
        let rest: u64 = rest.iter().zip(rest_mask).map(|(number, mask)| number.wide() & wide(*mask)).sum();
        lanes.iter().sum::<u64>() + rest
    }
}

struct ByteTotal<'a> {
    numbers: &'a [u8],
    mask: &'a [u8],
}

impl Work for ByteTotal<'_> {
    type Output = u64;

    #[inline(always)]
    fn work(self) -> u64 {
        let mut total = 0_u64;
        // 256 bytes fit into 16 bits, whatever they are: narrow places mean more of them at once.
        for (numbers, masks) in self.numbers.chunks(256 * LANES).zip(self.mask.chunks(256 * LANES)) {
            let mut lanes = [0_u16; LANES];
            let (blocks, rest) = numbers.as_chunks::<LANES>();
            let (marks, rest_mask) = masks.as_chunks::<LANES>();
            for (block, mask) in blocks.iter().zip(marks) {
                for lane in 0..LANES {
                    lanes[lane] = lanes[lane].wrapping_add(u16::from(block[lane] & mask[lane]));
                }
            }
            total += lanes.iter().map(|lane| u64::from(*lane)).sum::<u64>();
            total += rest.iter().zip(rest_mask).map(|(number, mask)| u64::from(number & mask)).sum::<u64>();
        }
        total
    }
}

/// The sum of the codes whose mask is in; of at most 2^32 of them.
pub fn sum_codes<T: Code>(level: Level, numbers: &[T], mask: &[u8]) -> u64 {
    run(level, CodeTotal { numbers, mask })
}

/// The same for bytes.
pub fn sum_bytes(level: Level, numbers: &[u8], mask: &[u8]) -> u64 {
    run(level, ByteTotal { numbers, mask })
}

struct WholeTotal<'a> {
    numbers: &'a [u64],
    mask: &'a [u8],
}

impl Work for WholeTotal<'_> {
    type Output = i128;

    #[inline(always)]
    fn work(self) -> i128 {
        // Halves of 32 bits, in sums of 64: exact for 2^31 rows.
        let (mut low, mut high) = (0_u64, 0_i64);
        for (number, mask) in self.numbers.iter().zip(self.mask) {
            let number = number & wide(*mask);
            low = low.wrapping_add(number & 0xFFFF_FFFF);
            high = high.wrapping_add(number.cast_signed() >> 32);
        }
        (i128::from(high) << 32) + i128::from(low)
    }
}

/// The exact sum of the whole numbers whose mask is in.
pub fn sum_whole(level: Level, numbers: &[u64], mask: &[u8]) -> i128 {
    run(level, WholeTotal { numbers, mask })
}

struct Ends<'a> {
    is_float: bool,
    numbers: &'a [u64],
    mask: &'a [u8],
}

impl Work for Ends<'_> {
    type Output = (i64, i64);

    #[inline(always)]
    fn work(self) -> (i64, i64) {
        if self.is_float {
            return ends_of(self.numbers, self.mask, ordered);
        }
        ends_of(self.numbers, self.mask, u64::cast_signed)
    }
}

#[inline(always)]
fn ends_of(numbers: &[u64], mask: &[u8], key: impl Fn(u64) -> i64) -> (i64, i64) {
    let (mut min, mut max) = (i64::MAX, i64::MIN);
    for (number, mask) in numbers.iter().zip(mask) {
        let number = key(*number);
        min = min.min(if *mask == 0 { i64::MAX } else { number });
        max = max.max(if *mask == 0 { i64::MIN } else { number });
    }
    (min, max)
}

/// The smallest and largest number whose mask is in, f64 as [`ordered`]; of none, the ends the wrong way round.
pub fn ends(level: Level, is_float: bool, numbers: &[u64], mask: &[u8]) -> (i64, i64) {
    run(level, Ends { is_float, numbers, mask })
}

struct Spread<'a> {
    words: &'a [u64],
    out: &'a mut [u8],
}

impl Work for Spread<'_> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        for (out, word) in self.out.chunks_mut(64).zip(self.words) {
            for (bit, out) in out.iter_mut().enumerate() {
                *out = flag(word >> bit & 1 == 1);
            }
        }
    }
}

/// A byte a row from a bit a row.
pub fn spread(level: Level, words: &[u64], out: &mut [u8]) {
    run(level, Spread { words, out });
}

struct And<'a> {
    into: &'a mut [u8],
    other: &'a [u8],
}

impl Work for And<'_> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        for (into, other) in self.into.iter_mut().zip(self.other) {
            *into &= other;
        }
    }
}

/// Keeps what both have.
pub fn and(level: Level, into: &mut [u8], other: &[u8]) {
    run(level, And { into, other });
}

struct Indices<'a, T> {
    numbers: &'a [T],
    offset: u32,
    stride: u32,
    out: &'a mut [u32],
}

impl<T: Code> Work for Indices<'_, T> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        for (out, number) in self.out.iter_mut().zip(self.numbers) {
            // What a missing row's number comes to is masked later; it must not trap.
            *out = out.wrapping_add(number.half().wrapping_add(self.offset).wrapping_mul(self.stride));
        }
    }
}

/// Adds `(number + offset) × stride` to each place.
pub fn add_indices<T: Code>(level: Level, numbers: &[T], offset: u32, stride: u32, out: &mut [u32]) {
    run(level, Indices { numbers, offset, stride, out });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_instruction_set_gives_the_same_bits(
            numbers in proptest::collection::vec(any::<f64>(), 0..300),
            marks: [bool; 300],
        ) {
            let bits: Vec<u64> = numbers.iter().map(|number| number.to_bits()).collect();
            let mask: Vec<u8> = marks.iter().take(bits.len()).map(|mark| flag(*mark)).collect();
            let bytes: Vec<u8> = bits.iter().map(|bits| *bits as u8).collect();
            let answers = |level| {
                let mut less = vec![0; bits.len()];
                compare(level, Comparison::Less, true, &bits, &vec![0; bits.len()], &mut less);
                let total = sum_floats(level, &bits, &mask).to_bits();
                let whole = sum_whole(level, &bits, &mask);
                (less, total, whole, ends(level, true, &bits, &mask), sum_bytes(level, &bytes, &mask))
            };
            let levels = Level::all();
            for level in &levels {
                prop_assert_eq!(answers(*level), answers(levels[0]), "{}", level.word());
            }
            let in_mask = || bits.iter().zip(&mask).filter(|(_, mask)| **mask != 0).map(|(bits, _)| *bits);
            let whole: i128 = in_mask().map(|bits| i128::from(bits.cast_signed())).sum();
            prop_assert_eq!(sum_whole(levels[0], &bits, &mask), whole);
            let least = in_mask().map(ordered).min().unwrap_or(i64::MAX);
            prop_assert_eq!(ends(levels[0], true, &bits, &mask).0, least);
            let total: u64 = bytes.iter().zip(&mask).map(|(byte, mask)| u64::from(byte & mask)).sum();
            prop_assert_eq!(sum_bytes(levels[0], &bytes, &mask), total);
            prop_assert_eq!(count(levels[0], &mask), in_mask().count() as u64);
        }

        #[test]
        fn ordered_numbers_are_ordered_as_their_floats(left: f64, right: f64) {
            prop_assert_eq!(
                ordered(left.to_bits()).cmp(&ordered(right.to_bits())),
                crate::value::compare_numbers(left, right)
            );
            prop_assert_eq!(of_ordered(ordered(left.to_bits())), left);
        }
    }

    #[test]
    fn a_masked_nan_leaves_no_trace() {
        let bits = [1.0_f64, f64::NAN, f64::INFINITY, 2.0].map(f64::to_bits);
        assert_eq!(sum_floats(Level::detect(), &bits, &[0xFF, 0, 0, 0xFF]), 3.0);
        assert!(sum_floats(Level::detect(), &bits, &[0xFF, 0xFF, 0, 0xFF]).is_nan());
    }
}
