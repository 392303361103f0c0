//! What keeps a node from part of its duties, shared by its replicas and its doors.
//!
//! **Invariant.** Poison is for ever: the first failure is kept, and only a restart clears it.

use parking_lot::RwLock;

/// Shared, cheap to ask before every proposal.
#[derive(Debug, Default)]
pub struct Health {
    causes: RwLock<Causes>,
}

/// Why a node refuses part of its duties; `None` = it does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Causes {
    /// A write or sync failed: no leading, no voting, no acknowledging; `local` reads stay.
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
        self.causes.read().clone()
    }

    /// Whether nothing is wrong: the one question of the hot path.
    #[must_use]
    pub fn is_clear(&self) -> bool {
        *self.causes.read() == Causes::default()
    }

    /// Keeps the first failure.
    pub fn poison(&self, why: String) {
        let mut causes = self.causes.write();
        if causes.poisoned.is_none() {
            causes.poisoned = Some(why);
        }
    }

    /// Says whether the clock is trusted.
    pub fn set_clock_suspect(&self, why: Option<String>) {
        self.causes.write().clock_suspect = why;
    }

    /// Says whether there is space.
    pub fn set_disk_full(&self, why: Option<String>) {
        self.causes.write().disk_full = why;
    }

    /// No new requests from now on.
    pub fn set_draining(&self) {
        self.causes.write().draining = true;
    }
}
