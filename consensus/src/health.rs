//! What keeps a node from part of its duties, shared by its replicas and its doors.
//!
//! **Invariant.** Poison is for ever: the first failure is kept, and only a restart clears it.

use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::watch;

/// Shared, cheap to ask before every proposal.
#[derive(Debug)]
pub struct Health {
    causes: watch::Sender<Causes>,
    is_clear: AtomicBool,
}

impl Default for Health {
    fn default() -> Self {
        Health { causes: watch::Sender::new(Causes::default()), is_clear: AtomicBool::new(true) }
    }
}

/// Why a node refuses part of its duties; `None` = it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Causes {
    /// A write or sync failed, or the peers refused this node for good: no leading, no voting, no acknowledging;
    /// `local` reads stay.
    pub poisoned: Option<String>,
    /// The clock is off: no leading.
    pub clock_suspect: Option<String>,
    /// Too little space: no new data; deletes, reads and votes stay.
    pub disk_full: Option<String>,
    /// The process is stopping: no new requests.
    pub draining: bool,
}

impl Health {
    /// What is wrong now.
    #[must_use]
    pub fn causes(&self) -> Causes {
        self.causes.borrow().clone()
    }

    /// Follows what is wrong.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Causes> {
        self.causes.subscribe()
    }

    /// Whether nothing is wrong: the one question of the hot path.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        self.is_clear.load(Ordering::Acquire)
    }

    /// Whether this node may acknowledge, vote or lead at all.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        !self.is_clear() && self.causes.borrow().poisoned.is_some()
    }

    /// Keeps the first failure.
    pub fn poison(&self, why: String) {
        self.change(|causes| {
            causes.poisoned.get_or_insert(why);
        });
    }

    /// Says whether the clock is trusted.
    pub fn set_clock_suspect(&self, why: Option<String>) {
        self.change(|causes| causes.clock_suspect = why);
    }

    /// Says whether there is space.
    pub fn set_disk_full(&self, why: Option<String>) {
        self.change(|causes| causes.disk_full = why);
    }

    /// No new requests from now on.
    pub fn set_draining(&self) {
        self.change(|causes| causes.draining = true);
    }

    /// Whoever follows is woken only by a change that is one.
    fn change(&self, edit: impl FnOnce(&mut Causes)) {
        self.causes.send_if_modified(|causes| {
            let before = causes.clone();
            edit(causes);
            self.is_clear.store(*causes == Causes::default(), Ordering::Release);
            *causes != before
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poison_is_for_ever_and_keeps_the_first_failure() {
        let health = Health::default();
        assert!(health.is_clear());
        health.poison("sync of segment 3: I/O error".into());
        health.poison("later".into());
        assert!(!health.is_clear());
        assert!(health.is_poisoned());
        assert_eq!(health.causes().poisoned.as_deref(), Some("sync of segment 3: I/O error"));
    }

    #[test]
    fn what_passes_is_cleared_again() {
        let health = Health::default();
        let mut watch = health.watch();
        health.set_clock_suspect(Some("10000 ms ahead".into()));
        assert!(!health.is_clear());
        assert!(!health.is_poisoned());
        assert!(watch.has_changed().unwrap());
        watch.mark_unchanged();
        health.set_clock_suspect(Some("10000 ms ahead".into()));
        assert!(!watch.has_changed().unwrap(), "nothing changed");
        health.set_clock_suspect(None);
        assert!(health.is_clear());
    }
}
