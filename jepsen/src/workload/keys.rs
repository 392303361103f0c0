//! Keys in turn: a handful are used at a time, and each only so often, so that a search for an order stays short.

use crate::history::Value;
use parking_lot::Mutex;
use rand::{Rng as _, rngs::SmallRng};

/// Unknown outcomes a key may have: each doubles what a search must consider.
const UNKNOWN_MAX: u32 = 4;

struct Key {
    number: u64,
    uses: u32,
    unknown: u32,
}

struct Live {
    keys: Vec<Key>,
    next: u64,
}

/// Keys with one prefix.
pub struct KeyRing {
    prefix: &'static str,
    uses_max: u32,
    live: Mutex<Live>,
}

impl KeyRing {
    /// `live` keys at a time, each used at most `uses_max` times.
    pub fn new(prefix: &'static str, live: u64, uses_max: u32) -> Self {
        let keys = (0..live).map(|number| Key { number, uses: 0, unknown: 0 }).collect();
        KeyRing { prefix, uses_max, live: Mutex::new(Live { keys, next: live }) }
    }

    /// One to use now.
    pub fn pick(&self, chance: &mut SmallRng) -> String {
        let mut live = self.live.lock();
        let place = chance.random_range(0..live.keys.len());
        let key = &mut live.keys[place];
        key.uses += 1;
        let name = format!("{}{}", self.prefix, key.number);
        if key.uses >= self.uses_max {
            live.replace(place);
        }
        name
    }

    /// Something on this key was not answered. `answer` is what a call was told.
    pub fn note(&self, name: &str, answer: Option<&Value>) {
        if answer.is_some() {
            return;
        }
        let mut live = self.live.lock();
        let named = |key: &Key| name.strip_prefix(self.prefix) == Some(&key.number.to_string());
        if let Some(place) = live.keys.iter().position(named) {
            live.keys[place].unknown += 1;
            if live.keys[place].unknown >= UNKNOWN_MAX {
                live.replace(place);
            }
        }
    }

    /// Those in use.
    pub fn names(&self) -> Vec<String> {
        self.live.lock().keys.iter().map(|key| format!("{}{}", self.prefix, key.number)).collect()
    }
}

impl Live {
    fn replace(&mut self, place: usize) {
        self.keys[place] = Key { number: self.next, uses: 0, unknown: 0 };
        self.next += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn a_key_is_used_so_often_and_then_replaced() {
        let ring = KeyRing::new("k", 1, 2);
        let mut chance = SmallRng::seed_from_u64(1);
        let picked: Vec<String> = (0..5).map(|_| ring.pick(&mut chance)).collect();
        assert_eq!(picked, ["k0", "k0", "k1", "k1", "k2"]);
        for _ in 0..UNKNOWN_MAX {
            ring.note("k2", None);
        }
        ring.note("k3", Some(&Value::Nil));
        assert_eq!(ring.names(), ["k3"]);
    }
}
