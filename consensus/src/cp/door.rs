//! The shard's door: only the newest opening of a replica may change the shard.
//!
//! openraft's shutdown does not wait for its state machine's worker, so a group that was closed and opened again may
//! have two of them for a moment. Each opening has a number; a former one is refused (rule G3).
//!
//! **Invariant.** Once [`Door::open`] has returned, nothing of a former opening is applied any more.

use kvorum_storage::planted;
use parking_lot::{Mutex, MutexGuard};
use std::sync::Arc;

/// The door of one shard on this node.
#[derive(Debug, Default)]
pub struct Door {
    newest: Mutex<u64>,
}

/// The right of one opening to change the shard, until the next one.
#[derive(Clone, Debug)]
pub struct Pass {
    door: Arc<Door>,
    number: u64,
}

impl Door {
    /// A new opening: waits for whoever is inside, and refuses all former ones from now on.
    #[must_use]
    pub fn open(self: &Arc<Self>) -> Pass {
        let mut newest = self.newest.lock();
        *newest += 1;
        Pass { door: self.clone(), number: *newest }
    }
}

impl Pass {
    /// Held while the shard is changed; `None` = there is a newer opening.
    #[must_use]
    pub fn enter(&self) -> Option<MutexGuard<'_, u64>> {
        Some(self.door.newest.lock()).filter(|newest| **newest == self.number || planted!("bug-former-instance"))
    }

    /// Which opening of this process it is, from 1.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rule G3.
    #[test]
    fn a_former_opening_is_refused() {
        let door = Arc::new(Door::default());
        let first = door.open();
        assert!(first.enter().is_some());
        let second = door.open();
        assert!(first.enter().is_none(), "its worker may have outlived it");
        assert!(second.enter().is_some());
        assert_eq!((first.number(), second.number()), (1, 2));
    }
}
