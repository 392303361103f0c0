//! Decode: packed numbers and group numbers on their way into the loops, with the instructions of a level.

use super::{
    dispatch::{Level, Work, run},
    loops,
};
use crate::chunk::{Column, Lanes, Packed};
use std::borrow::Cow;

struct Narrow<'a> {
    bits: u8,
    bytes: &'a [u8],
    out: &'a mut [u8],
}

impl Work for Narrow<'_> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        // The width is a constant within each arm, so that each loop is one of fixed shifts.
        match self.bits {
            1 => split::<1, 8>(self.bytes, self.out),
            2 => split::<2, 4>(self.bytes, self.out),
            _ => split::<4, 2>(self.bytes, self.out),
        }
    }
}

#[inline(always)]
fn split<const BITS: usize, const EACH: usize>(bytes: &[u8], out: &mut [u8]) {
    let (groups, rest) = out.as_chunks_mut::<EACH>();
    for (group, byte) in groups.iter_mut().zip(bytes) {
        for (index, number) in group.iter_mut().enumerate() {
            *number = (byte >> (index * BITS)) & ((1 << BITS) - 1);
        }
    }
    if let Some(byte) = bytes.get(groups.len()) {
        for (index, number) in rest.iter_mut().enumerate() {
            *number = (byte >> (index * BITS)) & ((1 << BITS) - 1);
        }
    }
}

/// Numbers of less than a byte, a byte each; `first` is a multiple of 64.
pub fn narrow(level: Level, packed: &Packed, first: usize, rows: usize) -> Vec<u8> {
    let mut out = vec![0; rows];
    if let Lanes::Narrow(bits, words) = packed.lanes() {
        let bytes: &[u8] = bytemuck::cast_slice(&words[first * usize::from(bits) / 64..]);
        run(level, Narrow { bits, bytes, out: &mut out });
    }
    out
}

struct Patterns<'a> {
    column: &'a Column,
    first: usize,
    out: &'a mut [u64],
}

impl Work for Patterns<'_> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        self.column.patterns(self.first, self.out);
    }
}

/// The patterns of a column from row `first` on.
pub fn patterns(level: Level, column: &Column, first: usize, out: &mut [u64]) {
    run(level, Patterns { column, first, out });
}

struct Places<'a> {
    mask: &'a [u8],
    copies: u32,
    out: &'a mut [u32],
}

impl Work for Places<'_> {
    type Output = ();

    #[inline(always)]
    fn work(self) {
        for (row, (out, mask)) in self.out.iter_mut().zip(self.mask).enumerate() {
            let is_in = i32::from(mask.cast_signed()).cast_unsigned();
            let slot = out.wrapping_add(1) & is_in;
            *out = slot.wrapping_mul(self.copies).wrapping_add(row as u32 & self.copies.wrapping_sub(1));
        }
    }
}

/// Turns group numbers into places: slot 0 for rows that are not in, group number plus one for the others; times the
/// copies of a slot, plus the row's copy.
pub fn places(level: Level, mask: &[u8], copies: usize, out: &mut [u32]) {
    run(level, Places { mask, copies: copies as u32, out });
}

/// Adds `(number + offset) × stride` to each place, from packed numbers as they lie.
pub fn add_packed(level: Level, (packed, first): (&Packed, usize), (offset, stride): (u32, u32), out: &mut [u32]) {
    let rows = first..first + out.len();
    match packed.lanes() {
        Lanes::U8(lanes) => loops::add_indices(level, &lanes[rows], offset, stride, out),
        Lanes::U16(lanes) => loops::add_indices(level, &lanes[rows], offset, stride, out),
        Lanes::U32(lanes) => loops::add_indices(level, &lanes[rows], offset, stride, out),
        Lanes::Zero => loops::add_indices(level, &vec![0_u8; out.len()], offset, stride, out),
        Lanes::Narrow(..) => {
            let codes = narrow(level, packed, first, out.len());
            loops::add_indices(level, &codes, offset, stride, out);
        }
    }
}

/// Places of known rows, and slot 0 for the others.
#[must_use]
pub fn known_places<'a>(places: &'a [u32], known: Option<&[u8]>, copies: usize) -> Cow<'a, [u32]> {
    let Some(known) = known else { return places.into() };
    let copy = copies as u32 - 1;
    let place = |(place, known): (&u32, &u8)| if *known == 0 { place & copy } else { *place };
    places.iter().zip(known).map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn narrow_numbers_are_what_was_packed(raw in proptest::collection::vec(any::<u8>(), 0..300), width in 0..3) {
            let bits = 1_u8 << width;
            let numbers: Vec<u8> = raw.iter().map(|number| *number & ((1_u8 << bits) - 1)).collect();
            let packed = Packed::pack(bits, numbers.iter().map(|number| u32::from(*number)), numbers.len());
            for level in Level::all() {
                for first in (0..numbers.len()).step_by(64) {
                    let rows = (numbers.len() - first).min(150);
                    prop_assert_eq!(&narrow(level, &packed, first, rows)[..], &numbers[first..first + rows]);
                }
            }
        }
    }
}
