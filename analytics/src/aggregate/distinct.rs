//! Distinct: how many different values there were, within a few kilobytes.
//!
//! ```text
//!   up to 1,024 hashes:  a sorted set, exact
//!   beyond:              HyperLogLog, 2^14 registers: the first 14 bits choose one, it keeps the longest run of zeros
//! ```
//!
//! Ertl's estimator (New cardinality estimation algorithms for HyperLogLog sketches, 2017) needs no tables of
//! corrections.
//!
//! **Invariant.** The state depends on the set of hashes alone, not on their order. Beyond the exact range the standard
//! error is 1.04 / sqrt(2^14) = 0.81 %: nineteen answers of twenty are within 1.7 %.

use std::collections::BTreeSet;

const EXACT_MAX: usize = 1_024;
const REGISTER_BITS: u32 = 14;
const REGISTERS: usize = 1 << REGISTER_BITS;

/// A sketch of a set of hashes.
#[derive(Clone, Debug, PartialEq)]
pub enum Distinct {
    /// All of them.
    Exact(BTreeSet<u64>),
    /// The longest run of zeros in each register, plus one.
    Registers(Vec<u8>),
}

impl Default for Distinct {
    fn default() -> Self {
        Distinct::Exact(BTreeSet::new())
    }
}

impl Distinct {
    /// Takes a hash in.
    pub fn insert(&mut self, hash: u64) {
        match self {
            Distinct::Exact(hashes) => {
                hashes.insert(hash);
                if hashes.len() > EXACT_MAX {
                    *self = Distinct::Registers(registers_of(hashes));
                }
            }
            Distinct::Registers(registers) => note(registers, hash),
        }
    }

    /// Takes in the hashes another sketch has seen.
    pub fn merge(&mut self, other: &Distinct) {
        match (&mut *self, other) {
            (_, Distinct::Exact(hashes)) => hashes.iter().for_each(|hash| self.insert(*hash)),
            (Distinct::Registers(registers), Distinct::Registers(more)) => {
                registers.iter_mut().zip(more).for_each(|(register, more)| *register = (*register).max(*more));
            }
            (Distinct::Exact(hashes), Distinct::Registers(more)) => {
                let mut registers = more.clone();
                hashes.iter().for_each(|hash| note(&mut registers, *hash));
                *self = Distinct::Registers(registers);
            }
        }
    }

    /// How many different hashes there were, about.
    #[must_use]
    pub fn estimate(&self) -> f64 {
        match self {
            Distinct::Exact(hashes) => hashes.len() as f64,
            Distinct::Registers(registers) => estimate(registers),
        }
    }
}

fn registers_of(hashes: &BTreeSet<u64>) -> Vec<u8> {
    let mut registers = vec![0; REGISTERS];
    hashes.iter().for_each(|hash| note(&mut registers, *hash));
    registers
}

fn note(registers: &mut [u8], hash: u64) {
    let register = (hash >> (64 - REGISTER_BITS)) as usize;
    // A bit below the rest ends the run of zeros that would otherwise reach into the register's own bits.
    let rest = (hash << REGISTER_BITS) | (1 << (REGISTER_BITS - 1));
    let rank = rest.leading_zeros() as u8 + 1;
    registers[register] = registers[register].max(rank);
}

fn estimate(registers: &[u8]) -> f64 {
    let width = 64 - REGISTER_BITS as usize;
    let mut counts = vec![0_u32; width + 2];
    registers.iter().for_each(|rank| counts[usize::from(*rank).min(width + 1)] += 1);
    let size = registers.len() as f64;
    let mut sum = size * tau(1.0 - f64::from(counts[width + 1]) / size);
    for count in counts[1..=width].iter().rev() {
        sum = 0.5 * (sum + f64::from(*count));
    }
    sum += size * sigma(f64::from(counts[0]) / size);
    size * size / (2.0 * std::f64::consts::LN_2 * sum)
}

fn sigma(mut x: f64) -> f64 {
    if x >= 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z <= before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x) * (1.0 - x) * y;
        if z >= before {
            return z / 3.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intern::mix;

    #[test]
    fn few_values_are_exact_and_many_within_the_bound() {
        for count in [0, 1, 1_024, 1_025, 5_000, 20_000, 60_000, 300_000_u64] {
            let mut distinct = Distinct::default();
            (0..count).chain(0..count / 2).for_each(|value| distinct.insert(mix(value)));
            let error = (distinct.estimate() - count as f64).abs();
            let bound = if count <= 1_024 { 0.0 } else { 0.025 * count as f64 };
            assert!(error <= bound, "{count}: {}", distinct.estimate());
        }
    }

    #[test]
    fn the_state_depends_on_the_set_alone() {
        let sketch = |values: std::ops::Range<u64>| {
            let mut distinct = Distinct::default();
            values.for_each(|value| distinct.insert(mix(value)));
            distinct
        };
        for (cut, end) in [(10, 20), (500, 1_100), (100, 3_000), (2_900, 3_000), (1_500, 3_000)] {
            let whole = sketch(0..end);
            let (mut left, mut right) = (sketch(0..cut), sketch(cut / 2..end));
            let before = left.clone();
            left.merge(&right);
            right.merge(&before);
            assert_eq!(left, whole, "{cut}/{end}");
            assert_eq!(right, whole, "{cut}/{end}, the other way");
        }
    }
}
