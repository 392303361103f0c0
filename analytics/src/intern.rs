//! Intern: small numbers for values that come again.
//!
//! Open addressing over a power of two of slots, at most half full. A number is given in the order of first sight, so
//! that what is built from the same rows is the same.
//!
//! **Invariant.** Equal keys have equal numbers, different keys different ones; numbers are 0, 1, 2, … without gaps.

use xxhash_rust::xxh3::xxh3_64;

const EMPTY: u32 = u32::MAX;

/// Mixes the bits of a word so that every input bit moves every output bit (the finalizer of SplitMix64).
#[must_use]
#[inline]
pub fn mix(word: u64) -> u64 {
    let word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ (word >> 31)
}

/// The hash of a text.
#[must_use]
pub fn text_hash(text: &str) -> u64 {
    xxh3_64(text.as_bytes())
}

/// Numbers for pairs of words.
#[derive(Debug, Default)]
pub struct WordInterner {
    slots: Vec<u32>,
    keys: Vec<(u64, u64)>,
}

impl WordInterner {
    /// Knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        WordInterner { slots: vec![EMPTY; 64], keys: Vec::new() }
    }

    /// How many keys it knows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether it knows none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Every key, at the place of its number.
    #[must_use]
    pub fn keys(&self) -> &[(u64, u64)] {
        &self.keys
    }

    /// The number of a pair.
    #[inline]
    pub fn intern(&mut self, left: u64, right: u64) -> u32 {
        let mask = self.slots.len() - 1;
        let mut slot = hash(left, right) as usize & mask;
        loop {
            let number = self.slots[slot];
            if number == EMPTY {
                return self.insert(slot, (left, right));
            }
            if self.keys[number as usize] == (left, right) {
                return number;
            }
            slot = (slot + 1) & mask;
        }
    }

    fn insert(&mut self, slot: usize, key: (u64, u64)) -> u32 {
        let number = u32::try_from(self.keys.len()).expect("fewer distinct keys than rows of a query");
        self.keys.push(key);
        self.slots[slot] = number;
        if self.keys.len() * 2 > self.slots.len() {
            self.grow();
        }
        number
    }

    fn grow(&mut self) {
        let slots = self.slots.len() * 2;
        self.slots.clear();
        self.slots.resize(slots, EMPTY);
        for (number, (left, right)) in (0_u32..).zip(&self.keys) {
            let mut slot = hash(*left, *right) as usize & (slots - 1);
            while self.slots[slot] != EMPTY {
                slot = (slot + 1) & (slots - 1);
            }
            self.slots[slot] = number;
        }
    }
}

#[inline]
fn hash(left: u64, right: u64) -> u64 {
    mix(left ^ right.wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// Numbers for texts.
#[derive(Debug)]
pub struct TextInterner {
    slots: Vec<u32>,
    text: String,
    ends: Vec<usize>,
}

impl Default for TextInterner {
    fn default() -> Self {
        TextInterner { slots: vec![EMPTY; 64], text: String::new(), ends: Vec::new() }
    }
}

impl TextInterner {
    /// How many texts it knows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether it knows none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The text of a number.
    #[must_use]
    pub fn get(&self, number: u32) -> &str {
        let number = number as usize;
        let start = if number == 0 { 0 } else { self.ends[number - 1] };
        &self.text[start..self.ends[number]]
    }

    /// Every text, at the place of its number.
    #[must_use]
    pub fn texts(&self) -> Vec<&str> {
        (0..self.ends.len() as u32).map(|number| self.get(number)).collect()
    }

    /// The number of a text, if it has one.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<u32> {
        let mask = self.slots.len() - 1;
        let mut slot = text_hash(text) as usize & mask;
        loop {
            match self.slots[slot] {
                EMPTY => return None,
                number if self.get(number) == text => return Some(number),
                _ => slot = (slot + 1) & mask,
            }
        }
    }

    /// The number of a text.
    pub fn intern(&mut self, text: &str) -> u32 {
        let mask = self.slots.len() - 1;
        let mut slot = text_hash(text) as usize & mask;
        loop {
            let number = self.slots[slot];
            if number == EMPTY {
                break;
            }
            if self.get(number) == text {
                return number;
            }
            slot = (slot + 1) & mask;
        }
        let number = u32::try_from(self.ends.len()).expect("fewer distinct texts than rows of a query");
        self.text.push_str(text);
        self.ends.push(self.text.len());
        self.slots[slot] = number;
        if self.ends.len() * 2 > self.slots.len() {
            self.grow();
        }
        number
    }

    fn grow(&mut self) {
        let slots = self.slots.len() * 2;
        self.slots.clear();
        self.slots.resize(slots, EMPTY);
        for number in 0..self.ends.len() as u32 {
            let mut slot = text_hash(self.get(number)) as usize & (slots - 1);
            while self.slots[slot] != EMPTY {
                slot = (slot + 1) & (slots - 1);
            }
            self.slots[slot] = number;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn numbers_are_given_in_the_order_of_first_sight(words in proptest::collection::vec(0_u64..300, 0..2_000)) {
            let (mut pairs, mut texts, mut known) = (WordInterner::new(), TextInterner::default(), BTreeMap::new());
            for word in words {
                let next = known.len() as u32;
                let number = *known.entry(word).or_insert(next);
                prop_assert_eq!(pairs.intern(word / 7, word % 7), number);
                prop_assert_eq!(texts.intern(&word.to_string()), number);
                prop_assert_eq!(texts.get(number), word.to_string());
            }
            prop_assert_eq!(pairs.len(), known.len());
            prop_assert_eq!(texts.texts().len(), known.len());
        }
    }
}
