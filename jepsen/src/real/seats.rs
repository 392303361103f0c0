//! What of a node only one fault at a time can use: faults may overlap, and the shim has one word for each.
//!
//! **Invariant.** Who has taken a seat is the only one who ends what happens there.

use super::shim::layout::Fault;
use std::collections::BTreeSet;

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seat {
    /// How long syncs take.
    SlowSync,
    /// Whether syncs succeed.
    FailSync,
    /// Whether writes succeed.
    FailWrite,
    /// Whether there is room.
    DiskFull,
    /// The time of day.
    Clock,
    /// The files of its engine.
    Engine,
}

impl From<Fault> for Seat {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::SlowSync => Seat::SlowSync,
            Fault::FailSync => Seat::FailSync,
            Fault::FailWrite => Seat::FailWrite,
            Fault::DiskFull => Seat::DiskFull,
        }
    }
}

impl Seat {
    fn taken(self) -> &'static str {
        match self {
            Seat::SlowSync => "syncs are already slow",
            Seat::FailSync => "syncs already fail",
            Seat::FailWrite => "writes already fail",
            Seat::DiskFull => "disk is already full",
            Seat::Clock => "clock is already wrong",
            Seat::Engine => "engine already rots",
        }
    }

    /// Why a node may end or promise nothing more while this is taken; `None` = it must not.
    #[must_use]
    pub fn excuse(self) -> Option<&'static str> {
        match self {
            Seat::FailSync => Some("its syncs failed"),
            Seat::FailWrite => Some("its writes failed"),
            Seat::DiskFull => Some("its disk was full"),
            Seat::Engine => Some("bits of its engine were flipped"),
            Seat::SlowSync | Seat::Clock => None,
        }
    }
}

/// The seats of one node.
#[derive(Debug, Default)]
pub struct Seats(BTreeSet<Seat>);

impl Seats {
    /// Whether it is free; otherwise what is in the way, for people.
    pub fn is_free(&self, seat: Seat) -> Result<(), &'static str> {
        if self.0.contains(&seat) { Err(seat.taken()) } else { Ok(()) }
    }

    /// Takes a free one.
    pub fn take(&mut self, seat: Seat) {
        assert!(self.0.insert(seat), "a seat is taken once");
    }

    /// Gives one back.
    pub fn release(&mut self, seat: Seat) {
        self.0.remove(&seat);
    }

    /// Gives all back.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Why a node may end while things are as they are.
    pub fn excuses(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().filter_map(|seat| seat.excuse())
    }
}
