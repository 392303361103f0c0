//! The switch: what becomes of each packet, by the state of its directed link.
//!
//! ```text
//!   take ─┬─ cut, lost ──────────────▶ gone, counted
//!         ├─ calm ───────────────────▶ now
//!         └─ delayed, held, doubled ─▶ under way ─ due ─▶ cut meanwhile? gone : now
//! ```
//!
//! **Invariant.** Nothing passes a link while it is cut, what was sent before included. A packet counts as passed once
//! it arrived, and every packet between two ends is counted once: passed or dropped.
//!
//! **Deliberately absent.** Devices and time: packets, moments and the seed are handed in.

use super::{
    packet::Outside,
    subnets::{Plane, Subnets},
};
use crate::real::fabric::{Carried, End, Link, Observed, Weather};
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};
use tokio::time::Instant;

/// Packets under way; more are dropped, as a full queue would.
const UNDER_WAY_MAX: usize = 16_384;

/// How long a packet is held back at most so that later ones overtake it.
const HOLD_MAX: Duration = Duration::from_millis(30);

/// A link, and what it has carried.
#[derive(Clone, Copy, Debug, Default)]
struct Wire {
    /// How often it is cut: nothing passes above zero.
    cuts: u32,
    weather: Weather,
    carried: Carried,
    /// The highest number that has arrived.
    latest: u64,
}

/// A packet that may go on: hand it over, then tell with [`Switch::arrived`] or [`Switch::lost`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Passage {
    /// To whom.
    pub to: End,
    /// `None` = it is nobody's business.
    link: Option<Link>,
    number: u64,
    length: u64,
    is_reset: bool,
}

/// A packet on its way.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct UnderWay {
    due: Instant,
    passage: Passage,
    bytes: Vec<u8>,
}

/// What is done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onward {
    /// It goes on.
    Now(Passage),
    /// It was kept; it may be the next that is due.
    Later {
        /// Whether nothing is due before it.
        is_next: bool,
    },
    /// It is no packet of ours, or it is lost.
    Gone,
}

/// All links.
pub struct Switch {
    subnets: Subnets,
    wires: BTreeMap<Link, Wire>,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    number: u64,
    chance: SmallRng,
}

impl Switch {
    /// Open links between nodes 1 to `nodes` and clients.
    pub fn new(subnets: Subnets, nodes: u64, seed: u64) -> Self {
        let ends: Vec<End> = (1..=nodes).map(End::Node).chain([End::Clients]).collect();
        let pairs = ends.iter().flat_map(|from| ends.iter().map(|to| Link { from: *from, to: *to }));
        let wires = pairs.filter(|link| link.from != link.to).map(|link| (link, Wire::default())).collect();
        let chance = SmallRng::seed_from_u64(seed);
        Switch { subnets, wires, under_way: BinaryHeap::new(), number: 0, chance }
    }

    /// Takes a packet that came from the device of `from`.
    pub fn take(&mut self, from: End, packet: &[u8], now: Instant) -> Onward {
        let Some((plane, to, is_reset)) = self.destination(from, packet) else { return Onward::Gone };
        self.number += 1;
        let (number, length) = (self.number, packet.len() as u64);
        if plane == Plane::Watched {
            return Onward::Now(Passage { to, link: None, number, length, is_reset });
        }
        let link = Link { from, to };
        let Some(wire) = self.wires.get_mut(&link) else { return Onward::Gone };
        let passage = Passage { to, link: Some(link), number, length, is_reset };
        let weather = wire.weather;
        if wire.cuts > 0 {
            wire.carried.dropped_bytes += length;
            return Onward::Gone;
        }
        if weather == Weather::default() {
            return Onward::Now(passage);
        }
        if happens(&mut self.chance, weather.loss_percent) || self.under_way.len() >= UNDER_WAY_MAX {
            wire.carried.dropped_bytes += length;
            wire.carried.disturbed += 1;
            return Onward::Gone;
        }
        let wait = wait(&mut self.chance, weather);
        let is_doubled = happens(&mut self.chance, weather.duplicate_percent);
        wire.carried.disturbed += u64::from(!wait.is_zero());
        wire.carried.duplicated += u64::from(is_doubled);
        if wait.is_zero() && !is_doubled {
            return Onward::Now(passage);
        }
        let next = self.next_due();
        self.under_way.push(Reverse(UnderWay { due: now + wait, passage, bytes: packet.to_vec() }));
        if is_doubled {
            self.number += 1;
            let twin = Passage { number: self.number, ..passage };
            let due = now + self::wait(&mut self.chance, weather);
            self.under_way.push(Reverse(UnderWay { due, passage: twin, bytes: packet.to_vec() }));
        }
        Onward::Later { is_next: next != self.next_due() }
    }

    /// To whom, if it is between two ends of ours and says truly from whom.
    fn destination(&self, from: End, packet: &[u8]) -> Option<(Plane, End, bool)> {
        let outside = Outside::of(packet)?;
        let (plane, to) = self.subnets.end(outside.to)?;
        (self.subnets.end(outside.from) == Some((plane, from)) && to != from).then_some((plane, to, outside.is_reset))
    }

    /// When the next packet under way is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.under_way.peek().map(|Reverse(next)| next.due)
    }

    /// The next packet that is due by now, unless its link was cut meanwhile.
    pub fn due(&mut self, now: Instant) -> Option<(Passage, Vec<u8>)> {
        while self.next_due().is_some_and(|due| due <= now) {
            let Reverse(UnderWay { passage, bytes, .. }) = self.under_way.pop()?;
            if passage.link.and_then(|link| self.wires.get(&link)).is_some_and(|wire| wire.cuts > 0) {
                self.lost(&passage);
            } else {
                return Some((passage, bytes));
            }
        }
        None
    }

    /// It was handed over.
    pub fn arrived(&mut self, passage: &Passage) {
        let Some(wire) = passage.link.and_then(|link| self.wires.get_mut(&link)) else { return };
        wire.carried.passed_bytes += passage.length;
        wire.carried.resets += u64::from(passage.is_reset);
        wire.carried.overtaken += u64::from(passage.number < wire.latest);
        wire.latest = wire.latest.max(passage.number);
    }

    /// It could not be handed over.
    pub fn lost(&mut self, passage: &Passage) {
        if let Some(wire) = passage.link.and_then(|link| self.wires.get_mut(&link)) {
            wire.carried.dropped_bytes += passage.length;
        }
    }

    /// Cuts a link once more, or undoes one cut. Links nobody has are nobody's.
    pub fn cut(&mut self, link: Link, is_cut: bool) {
        if let Some(wire) = self.wires.get_mut(&link) {
            wire.cuts = if is_cut { wire.cuts + 1 } else { wire.cuts.saturating_sub(1) };
        }
    }

    /// Gives a link this weather.
    pub fn degrade(&mut self, link: Link, weather: Weather) {
        if let Some(wire) = self.wires.get_mut(&link) {
            wire.weather = weather;
        }
    }

    /// Every link is whole and calm.
    pub fn heal(&mut self) {
        for wire in self.wires.values_mut() {
            (wire.cuts, wire.weather) = (0, Weather::default());
        }
    }

    /// What every link has carried.
    pub fn observed(&self) -> Observed {
        self.wires.iter().map(|(link, wire)| (*link, wire.carried)).collect()
    }
}

fn happens(chance: &mut SmallRng, percent: f64) -> bool {
    chance.random::<f64>() * 100.0 < percent
}

fn wait(chance: &mut SmallRng, weather: Weather) -> Duration {
    let wait = weather.delay + weather.jitter.mul_f64(chance.random());
    match happens(chance, weather.reorder_percent) {
        true => wait + HOLD_MAX.mul_f64(chance.random_range(0.1..1.0)),
        false => wait,
    }
}

#[cfg(test)]
#[path = "switch_tests.rs"]
mod tests;
