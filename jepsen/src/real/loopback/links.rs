//! The state of every directed link, and what it has carried.
//!
//! **Invariant.** Whoever waits for a link to open is woken by every change: no cut outlives its healing.

use crate::real::fabric::{Carried, End, Link, Observed, Weather};
use parking_lot::Mutex;
use rand::{Rng as _, SeedableRng as _, rngs::SmallRng};
use std::{collections::BTreeMap, time::Duration};
use tokio::sync::watch;

/// How long a lost piece of a connection is late at least: a sender's first patience, as TCP has it.
const RETRANSMIT: Duration = Duration::from_millis(200);

/// How a link is.
#[derive(Clone, Copy, Debug, Default)]
pub struct State {
    /// How often it is cut: nothing passes above zero.
    pub cuts: u32,
    /// What is done to that which passes.
    pub weather: Weather,
}

impl State {
    /// Whether nothing passes.
    pub fn is_cut(&self) -> bool {
        self.cuts > 0
    }
}

/// What becomes of one piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives after this long.
    Arrives(Duration),
    /// It is lost so badly that its connection breaks.
    Breaks,
}

/// All links.
pub struct Links {
    states: BTreeMap<Link, watch::Sender<State>>,
    carried: Mutex<Observed>,
    chance: Mutex<SmallRng>,
}

impl Links {
    /// Open links between nodes 1 to `nodes` and clients.
    pub fn new(nodes: u64, seed: u64) -> Self {
        let ends: Vec<End> = (1..=nodes).map(End::Node).chain([End::Clients]).collect();
        let pairs = ends.iter().flat_map(|from| ends.iter().map(|to| Link { from: *from, to: *to }));
        let links: Vec<Link> = pairs.filter(|link| link.from != link.to).collect();
        Links {
            states: links.iter().map(|link| (*link, watch::Sender::new(State::default()))).collect(),
            carried: Mutex::new(links.iter().map(|link| (*link, Carried::default())).collect()),
            chance: Mutex::new(SmallRng::seed_from_u64(seed)),
        }
    }

    /// Changes one; unknown links are nobody's.
    pub fn change(&self, link: Link, change: impl FnOnce(&mut State)) {
        if let Some(state) = self.states.get(&link) {
            state.send_modify(change);
        }
    }

    /// Changes every one.
    pub fn change_all(&self, change: impl Fn(&mut State)) {
        self.states.values().for_each(|state| state.send_modify(&change));
    }

    /// How one is now.
    pub fn state(&self, link: Link) -> State {
        self.states.get(&link).map(|state| *state.borrow()).unwrap_or_default()
    }

    /// Waits until something may pass; says whether it had to wait.
    pub async fn until_open(&self, link: Link) -> bool {
        let Some(state) = self.states.get(&link) else { return false };
        let mut changes = state.subscribe();
        if !changes.borrow_and_update().is_cut() {
            return false;
        }
        // The sender lives as long as this.
        let _ = changes.wait_for(|state| !state.is_cut()).await;
        true
    }

    /// Notes something.
    pub fn count(&self, link: Link, note: impl FnOnce(&mut Carried)) {
        if let Some(carried) = self.carried.lock().get_mut(&link) {
            note(carried);
        }
    }

    /// What every link has carried.
    pub fn observed(&self) -> Observed {
        self.carried.lock().clone()
    }

    /// Draws what happens to the next piece of a connection.
    pub fn fate(&self, link: Link) -> Fate {
        let Weather { delay, jitter, loss_percent, .. } = self.state(link).weather;
        if delay.is_zero() && jitter.is_zero() && loss_percent <= 0.0 {
            return Fate::Arrives(Duration::ZERO);
        }
        let mut chance = self.chance.lock();
        let mut wait = delay + jitter.mul_f64(chance.random());
        let mut retransmit = RETRANSMIT;
        let mut lost = 0;
        while chance.random::<f64>() * 100.0 < loss_percent {
            // Seven times in a row: a sender gives up.
            lost += 1;
            if lost == 7 {
                return Fate::Breaks;
            }
            wait += retransmit;
            retransmit *= 2;
        }
        Fate::Arrives(wait)
    }

    /// Draws whether a datagram gets through, and after how long.
    pub fn datagram(&self, link: Link) -> Option<Duration> {
        let state = self.state(link);
        let Weather { delay, jitter, loss_percent, .. } = state.weather;
        let mut chance = self.chance.lock();
        let is_lost = state.is_cut() || chance.random::<f64>() * 100.0 < loss_percent;
        (!is_lost).then(|| delay + jitter.mul_f64(chance.random()))
    }

    /// A coin.
    pub fn coin(&self) -> bool {
        self.chance.lock().random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weather_delays_and_loss_is_late() {
        let links = Links::new(3, 1);
        let link = Link::between(1, 2);
        assert_eq!(links.fate(link), Fate::Arrives(Duration::ZERO));
        let delay = Duration::from_millis(40);
        links.change(link, |state| state.weather = Weather { delay, ..Weather::default() });
        assert_eq!(links.fate(link), Fate::Arrives(delay));
        assert_eq!(links.fate(Link::between(2, 1)), Fate::Arrives(Duration::ZERO), "the other way is as it was");
        links.change(link, |state| state.weather = Weather { loss_percent: 100.0, ..Weather::default() });
        assert_eq!(links.fate(link), Fate::Breaks);
        assert_eq!(links.datagram(link), None);
    }

    #[tokio::test]
    async fn who_waits_for_a_cut_link_goes_on_when_it_is_healed() {
        let links = std::sync::Arc::new(Links::new(3, 1));
        let link = Link::between(1, 2);
        assert!(!links.until_open(link).await);
        links.change(link, |state| state.cuts += 1);
        let waiting = {
            let links = links.clone();
            async move { links.until_open(link).await }
        };
        let healing = async { links.change_all(|state| *state = State::default()) };
        assert!(tokio::join!(waiting, healing).0, "it had to wait");
    }
}
