//! Histories that perfect registers would leave: for tests of the checks, and for measuring them.
//!
//! ```text
//!   each client:  idle ──▶ invoked ──▶ took effect ──▶ told        which client goes next is drawn
//!                             └───────────┴──▶ nobody was told: the client goes on as another process
//! ```
//!
//! **Invariant.** Every operation takes effect at one moment between its two records, or later or never if nobody was
//! told: such a history is linearizable by construction. The same seed, the same history.

use super::{
    record::{Kind, Process, Record},
    value::Value,
};
use rand::{Rng, SeedableRng, rngs::SmallRng};

/// What kind of history.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How many operations are invoked.
    pub operations: usize,
    /// On how many registers.
    pub keys: usize,
    /// By how many clients at once.
    pub clients: usize,
    /// Of a hundred operations, how many compare and swap.
    pub swaps_percent: u32,
    /// Of a hundred operations, how many nobody is told about.
    pub unknown_percent: u32,
    /// Written values are below this; without a limit no value is written twice.
    pub values_max: Option<i64>,
}

#[derive(Clone)]
enum Stage {
    Idle,
    Invoked { name: &'static str, key: usize, argument: Value },
    Done { name: &'static str, key: usize, result: Value },
}

struct World {
    shape: Shape,
    chance: SmallRng,
    registers: Vec<Value>,
    clients: Vec<(u64, Stage)>,
    next_process: u64,
    next_value: i64,
    records: Vec<Record>,
}

/// Invents a history.
#[must_use]
pub fn invent(seed: u64, shape: Shape) -> Vec<Record> {
    let mut world = World {
        shape,
        chance: SmallRng::seed_from_u64(seed),
        registers: vec![Value::Nil; shape.keys],
        clients: (0..shape.clients as u64).map(|process| (process, Stage::Idle)).collect(),
        next_process: shape.clients as u64,
        next_value: 0,
        records: Vec::with_capacity(shape.operations * 2),
    };
    let mut invoked = 0;
    while invoked < shape.operations || world.clients.iter().any(|(_, stage)| !matches!(stage, Stage::Idle)) {
        let client = world.chance.random_range(0..world.clients.len());
        match world.clients[client].1.clone() {
            Stage::Idle if invoked == shape.operations => {}
            Stage::Idle => {
                invoked += 1;
                world.invoke(client);
            }
            Stage::Invoked { name, key, argument } => world.take_effect(client, name, key, argument),
            Stage::Done { name, key, result } => world.tell(client, name, key, result),
        }
    }
    world.records
}

impl World {
    fn invoke(&mut self, client: usize) {
        let key = self.chance.random_range(0..self.shape.keys);
        let name = match self.chance.random_range(0..100) {
            roll if roll < self.shape.swaps_percent => "cas",
            roll if roll % 2 == 0 => "read",
            _ => "write",
        };
        let argument = match name {
            "cas" => {
                // Mostly what is there now, so that some swaps succeed.
                let from = self.registers[key].clone();
                Value::List(vec![from, self.value()])
            }
            "write" => self.value(),
            _ => Value::Nil,
        };
        self.note(client, Kind::Invoke, name, key, argument.clone());
        self.clients[client].1 = Stage::Invoked { name, key, argument };
    }

    fn value(&mut self) -> Value {
        self.next_value += 1;
        Value::Int(self.shape.values_max.map_or(self.next_value, |values_max| self.next_value % values_max))
    }

    fn take_effect(&mut self, client: usize, name: &'static str, key: usize, argument: Value) {
        if self.is_lost() {
            return self.leave_open(client, name, key);
        }
        let register = &mut self.registers[key];
        let result = match (name, &argument) {
            ("cas", Value::List(pair)) => {
                let swaps = *register == pair[0];
                if swaps {
                    *register = pair[1].clone();
                }
                Value::Bool(swaps)
            }
            ("write", _) => {
                *register = argument;
                Value::Nil
            }
            _ => register.clone(),
        };
        self.clients[client].1 = Stage::Done { name, key, result };
    }

    fn tell(&mut self, client: usize, name: &'static str, key: usize, result: Value) {
        if self.is_lost() {
            return self.leave_open(client, name, key);
        }
        self.note(client, Kind::Ok, name, key, result);
        self.clients[client].1 = Stage::Idle;
    }

    fn is_lost(&mut self) -> bool {
        self.chance.random_range(0..200) < self.shape.unknown_percent
    }

    fn leave_open(&mut self, client: usize, name: &'static str, key: usize) {
        self.note(client, Kind::Info, name, key, Value::Nil);
        self.clients[client] = (self.next_process, Stage::Idle);
        self.next_process += 1;
    }

    fn note(&mut self, client: usize, kind: Kind, name: &str, key: usize, value: Value) {
        let time_ns = (self.records.len() as u64 + 1) * 1_000;
        let process = Process::Client(self.clients[client].0);
        self.records.push(Record::new(time_ns, process, kind, name).with_key(&format!("k{key}")).with_value(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::History;

    #[test]
    fn the_same_seed_invents_the_same_history() {
        let shape =
            Shape { operations: 50, keys: 2, clients: 4, swaps_percent: 20, unknown_percent: 10, values_max: None };
        assert_eq!(invent(3, shape), invent(3, shape));
        assert_ne!(invent(3, shape), invent(4, shape));
        assert_eq!(History::from_records(invent(3, shape)).unwrap().operations.len(), 50);
    }
}
