//! Fused: the two shapes that questions most often have, each as one loop over a whole chunk.
//!
//! ```text
//!   sum(x) where k < c       codes ─compare─▶ mask in a register ─▶ sums of x            no mask in memory
//!   sum(x) by k              codes ─▶ place ─▶ count and sum of that place               no places in memory
//! ```
//!
//! Both read two streams side by side, which is what a processor's prefetching is made for; piece by piece it would
//! start anew each time.
//!
//! **Invariant.** Only for columns without gaps in chunks without deleted rows; everything else takes the long way,
//! with the same answer.

use super::{
    dispatch::{Level, Work, run},
    eval::code_range,
    loops::Code,
};
use crate::{
    chunk::{Chunk, Encoding, Lanes},
    query::{Expr, Function, Query},
    value::Kind,
};

/// Places a sum is spread over.
const LANES: usize = 32;

/// The f64 of a column that can be read as they lie.
fn plain<'a>(query: &Query, chunk: &'a Chunk) -> Option<&'a [u64]> {
    let [aggregate] = &query.aggregates[..] else { return None };
    let Expr::Column { index, kind: Kind::F64 } = aggregate.arguments.first()? else { return None };
    let column = &chunk.columns()[*index];
    let is_sum = matches!(aggregate.function, Function::Sum | Function::Average);
    match column.encoding() {
        Encoding::Words(words) if is_sum && column.present().is_none() && chunk.deleted().is_none() => {
            Some(&words[..chunk.rows()])
        }
        _ => None,
    }
}

/// Count and sum of `sum(x) where k < c`, if the query is one and the chunk allows it.
pub fn filtered_sum(level: Level, query: &Query, chunk: &Chunk) -> Option<(u64, f64)> {
    let Some(Expr::Compare { operator, left, right }) = &query.filter else { return None };
    let (Expr::Column { index, .. }, Expr::Constant(value)) = (left.as_ref(), right.as_ref()) else { return None };
    let words = plain(query, chunk)?;
    let column = &chunk.columns()[*index];
    let (Encoding::Packed { base, numbers }, None) = (column.encoding(), column.present()) else { return None };
    let (low, high, true) = code_range(*operator, *base, value)? else { return None };
    if low > high {
        return Some((0, 0.0));
    }
    match numbers.lanes() {
        Lanes::U8(codes) => {
            let (low, high) = (u8::try_from(low).ok()?, u8::try_from(high).unwrap_or(u8::MAX));
            Some(run(level, Filtered { codes, low, width: high - low, words }))
        }
        Lanes::U16(codes) => {
            let (low, high) = (u16::try_from(low).ok()?, u16::try_from(high).unwrap_or(u16::MAX));
            Some(run(level, Filtered { codes, low, width: high - low, words }))
        }
        Lanes::U32(codes) => Some(run(level, Filtered { codes, low, width: high - low, words })),
        Lanes::Zero | Lanes::Narrow(..) => None,
    }
}

struct Filtered<'a, T> {
    codes: &'a [T],
    low: T,
    width: T,
    words: &'a [u64],
}

impl<T: Code> Work for Filtered<'_, T> {
    type Output = (u64, f64);

    #[inline(always)]
    fn work(self) -> (u64, f64) {
        let Filtered { codes, low, width, words } = self;
        let (mut sums, mut counts) = ([0.0_f64; LANES], [0_u64; LANES]);
        let (blocks, rest) = words.as_chunks::<LANES>();
        let (code_blocks, rest_codes) = codes[..words.len()].as_chunks::<LANES>();
        for (block, codes) in blocks.iter().zip(code_blocks) {
            for lane in 0..LANES {
                let mask = if codes[lane].minus(low) <= width { u64::MAX } else { 0 };
                sums[lane] += f64::from_bits(block[lane] & mask);
                counts[lane] = counts[lane].wrapping_sub(mask);
            }
        }
        for (lane, (word, code)) in rest.iter().zip(rest_codes).enumerate() {
            if code.minus(low) <= width {
                sums[lane] += f64::from_bits(*word);
                counts[lane] += 1;
            }
        }
        let mut span = LANES / 2;
        while span > 0 {
            for lane in 0..span {
                sums[lane] += sums[lane + span];
            }
            span /= 2;
        }
        (counts.iter().sum(), sums[0])
    }
}

/// The places of counts and of sums, and how many copies there are of each: four, or one.
type Places<'a> = (&'a mut [u64], &'a mut [f64], usize);

/// Adds counts and sums of `sum(x) by k` to their places, if the query is one and the chunk allows it; `min` is what
/// the group numbers are counted from. Whether it did.
pub fn grouped_sum(query: &Query, chunk: &Chunk, min: i64, (rows, sums, copies): Places<'_>) -> bool {
    let ([key], None) = (&query.groups[..], &query.filter) else { return false };
    let (Some(words), column) = (plain(query, chunk), &chunk.columns()[*key]) else { return false };
    let (Encoding::Packed { base, numbers }, None) = (column.encoding(), column.present()) else { return false };
    // Slot 0 is for rows that are not wanted, of which there are none.
    let offset = (base.wrapping_sub(min) as usize).wrapping_add(1);
    match numbers.lanes() {
        Lanes::U8(codes) => add(&codes[..words.len()], words, offset, (rows, sums, copies)),
        Lanes::U16(codes) => add(&codes[..words.len()], words, offset, (rows, sums, copies)),
        Lanes::U32(codes) => add(&codes[..words.len()], words, offset, (rows, sums, copies)),
        Lanes::Narrow(bits, packed) => {
            let each = 64 / usize::from(bits);
            for (packed, words) in packed.iter().zip(words.chunks(each)) {
                let mut codes = [0_u8; 64];
                for (place, code) in codes[..each].iter_mut().enumerate() {
                    *code = (packed >> (place * usize::from(bits))) as u8 & ((1 << bits) - 1);
                }
                add(&codes[..words.len()], words, offset, (&mut *rows, &mut *sums, copies));
            }
        }
        Lanes::Zero => return false,
    }
    true
}

#[inline(always)]
fn add<T: Code>(codes: &[T], words: &[u64], offset: usize, (rows, sums, copies): Places<'_>) {
    // The number of copies is a constant within each arm, so that a place is a shift and an addition.
    if copies == 4 {
        add_to::<T, 4>(codes, words, offset, rows, sums)
    } else {
        add_to::<T, 1>(codes, words, offset, rows, sums)
    }
}

#[inline(always)]
fn add_to<T: Code, const COPIES: usize>(codes: &[T], words: &[u64], offset: usize, rows: &mut [u64], sums: &mut [f64]) {
    // One check for both: they are as long as each other.
    let sums = &mut sums[..rows.len()];
    for (row, (code, word)) in codes.iter().zip(words).enumerate() {
        let slot = (code.half() as usize).wrapping_add(offset);
        let place = slot.wrapping_mul(COPIES).wrapping_add(row & (COPIES - 1));
        rows[place] = rows[place].wrapping_add(1);
        sums[place] += f64::from_bits(*word);
    }
}
