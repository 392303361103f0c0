//! Packed: small numbers side by side in 64-bit words.
//!
//! ```text
//!   4 bits:   word 0 = │15│14│ … │ 2│ 1│ 0│    lowest bits first; on little-endian machines words of 8, 16 and 32 bits
//!             word 1 = │31│30│ … │18│17│16│    are arrays of u8, u16 and u32
//! ```
//!
//! **Invariant.** Widths are 0, 1, 2, 4, 8, 16 or 32 bits, so that no number straddles a word and any of them is one
//! shift and one mask away, on a processor as on a GPU. The words are padded with zeros to 16 bytes, the width of the
//! widest load.
//!
//! **Deliberately absent.** Widths between: they pack up to 45 % better and cost every reader a second word.

use std::sync::Arc;

/// Widths in use.
pub const WIDTHS: [u8; 7] = [0, 1, 2, 4, 8, 16, 32];

/// Numbers of one width.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    bits: u8,
    words: Arc<[u64]>,
}

/// Packed numbers as an array, where they are one.
#[derive(Clone, Copy, Debug)]
pub enum Lanes<'a> {
    /// Every number is zero.
    Zero,
    /// Less than a byte each: (bits, words).
    Narrow(u8, &'a [u64]),
    /// A byte each.
    U8(&'a [u8]),
    /// Two bytes each.
    U16(&'a [u16]),
    /// Four bytes each.
    U32(&'a [u32]),
}

/// The narrowest width that holds `largest`; `None` = none does.
#[must_use]
pub fn width_for(largest: u64) -> Option<u8> {
    let needed = 64 - largest.leading_zeros();
    WIDTHS.into_iter().find(|bits| u32::from(*bits) >= needed)
}

/// How many words `rows` numbers of `bits` bits take, padding included.
#[must_use]
pub fn words_for(rows: usize, bits: u8) -> usize {
    (rows * usize::from(bits)).div_ceil(128) * 2
}

impl Packed {
    /// Packs numbers, each of which fits into `bits` bits.
    ///
    /// # Panics
    /// If `bits` is no width in use.
    #[must_use]
    pub fn pack(bits: u8, numbers: impl Iterator<Item = u32>, rows: usize) -> Packed {
        assert!(WIDTHS.contains(&bits), "{bits} is no width in use");
        let mut words = vec![0_u64; words_for(rows, bits)];
        if bits > 0 {
            let per_word = 64 / usize::from(bits);
            for (row, number) in numbers.enumerate() {
                words[row / per_word] |= u64::from(number) << (row % per_word * usize::from(bits));
            }
        }
        Packed { bits, words: words.into() }
    }

    /// Words that were packed before; `None` if they are not as many as `rows` numbers take.
    #[must_use]
    pub fn of_words(bits: u8, words: Arc<[u64]>, rows: usize) -> Option<Packed> {
        (WIDTHS.contains(&bits) && words.len() == words_for(rows, bits)).then_some(Packed { bits, words })
    }

    /// Bits of a number.
    #[must_use]
    pub fn bits(&self) -> u8 {
        self.bits
    }

    /// The words.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The number of `row`. Beyond the last row, up to the padding, it is zero.
    #[must_use]
    #[inline]
    pub fn get(&self, row: usize) -> u32 {
        if self.bits == 0 {
            return 0;
        }
        let bits = usize::from(self.bits);
        let word = self.words[row * bits / 64];
        (word >> (row * bits % 64)) as u32 & mask(self.bits)
    }

    /// The numbers as an array, where they are one.
    #[must_use]
    pub fn lanes(&self) -> Lanes<'_> {
        match self.bits {
            0 => Lanes::Zero,
            8 => Lanes::U8(bytemuck::cast_slice(&self.words)),
            16 => Lanes::U16(bytemuck::cast_slice(&self.words)),
            32 => Lanes::U32(bytemuck::cast_slice(&self.words)),
            bits => Lanes::Narrow(bits, &self.words),
        }
    }

    /// Writes the numbers from row `first` on into `out`. `first` is a multiple of 64.
    #[inline(always)]
    pub fn unpack(&self, first: usize, out: &mut [u32]) {
        let rows = out.len();
        match self.lanes() {
            Lanes::Zero => out.fill(0),
            Lanes::U8(lanes) => widen(&lanes[first..first + rows], out),
            Lanes::U16(lanes) => widen(&lanes[first..first + rows], out),
            Lanes::U32(lanes) => out.copy_from_slice(&lanes[first..first + rows]),
            Lanes::Narrow(bits, words) => unpack_narrow(bits, &words[first * usize::from(bits) / 64..], out),
        }
    }
}

#[inline]
fn mask(bits: u8) -> u32 {
    if bits == 32 { u32::MAX } else { (1 << bits) - 1 }
}

#[inline(always)]
fn widen<T: Copy + Into<u32>>(from: &[T], to: &mut [u32]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = (*from).into();
    }
}

#[inline(always)]
fn unpack_narrow(bits: u8, words: &[u64], out: &mut [u32]) {
    // The width is a constant within each arm, so that the loops unroll into shifts the compiler knows.
    match bits {
        1 => unpack_constant::<1>(words, out),
        2 => unpack_constant::<2>(words, out),
        _ => unpack_constant::<4>(words, out),
    }
}

#[inline(always)]
fn unpack_constant<const BITS: usize>(words: &[u64], out: &mut [u32]) {
    let per_word = 64 / BITS;
    for (numbers, word) in out.chunks_mut(per_word).zip(words) {
        for (index, number) in numbers.iter_mut().enumerate() {
            *number = (*word >> (index * BITS)) as u32 & ((1 << BITS) - 1);
        }
    }
}

// The arrays above read words as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"), "packed columns are laid out for little-endian machines");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_was_packed_is_there(raw in proptest::collection::vec(any::<u32>(), 0..400), width in 0_usize..7) {
            let bits = WIDTHS[width];
            let numbers: Vec<u32> = raw.iter().map(|number| if bits == 0 { 0 } else { number & mask(bits) }).collect();
            let packed = Packed::pack(bits, numbers.iter().copied(), numbers.len());
            for (row, number) in numbers.iter().enumerate() {
                prop_assert_eq!(packed.get(row), *number);
            }
            for first in (0..numbers.len()).step_by(64) {
                let mut out = vec![u32::MAX; (numbers.len() - first).min(100)];
                packed.unpack(first, &mut out);
                prop_assert_eq!(&out[..], &numbers[first..first + out.len()]);
            }
            prop_assert_eq!(packed.words().len() % 2, 0);
        }
    }

    #[test]
    fn the_narrowest_width_is_chosen() {
        let widths =
            [(0, 0), (1, 1), (2, 2), (4, 4), (15, 4), (16, 8), (256, 16), (65_536, 32), (u64::from(u32::MAX), 32)];
        for (largest, bits) in widths {
            assert_eq!(width_for(largest), Some(bits), "{largest}");
        }
        assert_eq!(width_for(1 << 32), None);
    }
}
