//! The hybrid logical clock (rules T1, T4).

use crate::env::Clock;
use kvorum_api::Stamp;

/// A node's hybrid logical clock. Every stamp it gives is above every stamp it gave or adopted.
#[derive(Debug)]
pub struct Hlc {}

#[expect(unused_variables, reason = "signatures first")]
impl Hlc {
    /// Starts above `bound`, the stamp persisted ahead by an earlier life.
    pub fn new(clock: Clock, bound: Stamp, offset_max_ms: u64) -> Self {
        unimplemented!()
    }

    /// The next stamp.
    pub fn now(&self) -> Stamp {
        unimplemented!()
    }

    /// Advances past a received stamp; one too far ahead of the physical clock is not adopted.
    ///
    /// # Errors
    /// How far it is ahead, milliseconds.
    pub fn observe(&self, stamp: Stamp) -> Result<(), u64> {
        unimplemented!()
    }

    /// The physical clock, Unix milliseconds.
    pub fn physical_ms(&self) -> u64 {
        unimplemented!()
    }
}
