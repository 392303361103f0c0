//! The page that the harness and the shim share: words of 64 bits, in the machine's byte order.
//!
//! ```text
//!   0 magic   1 recording   2 process   3 starts     8.. faults, four words each     40.. clock     64.. counters
//! ```
//!
//! This file is compiled into both sides, so that they cannot disagree.
//!
//! **Invariant.** A fault's first word is written last: whoever sees it sees the other three. Faults are written by
//! the harness (the shim counts `remaining` down), counters by the shim.

/// The first word: who does not find it there leaves everything alone.
pub const MAGIC: u64 = 0x4b76_6f72_756d_0001;

/// Bytes of the page.
pub const PAGE_BYTES: u64 = 4096;

/// Where control, log and held files lie.
pub const HOME_VARIABLE: &str = "KVORUM_SHIM_HOME";

/// The data directory, absolute and without links.
pub const DATA_VARIABLE: &str = "KVORUM_SHIM_DATA";

/// The names below home.
pub const CONTROL: &str = "control";
/// The log of what is not synced.
pub const LOG: &str = "log";
/// The directory of files that were removed or replaced.
pub const HELD: &str = "held";

/// A fault that ends only when it is told to.
pub const FOR_EVER: u64 = u64::MAX;

/// Words with a place of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Word {
    /// [`MAGIC`].
    Magic = 0,
    /// 1 = what is not synced is recorded.
    Recording = 1,
    /// The process that has the shim, by its id.
    Process = 2,
    /// How often it was loaded.
    Starts = 3,
    /// Added to the time of day, nanoseconds, signed.
    ClockOffset = 40,
    /// Added on top during every other period, nanoseconds, signed.
    StrobeHeight = 41,
    /// A period, nanoseconds; 0 = none.
    StrobePeriod = 42,
}

/// What can be done wrong to files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Fault {
    /// A sync takes longer by the parameter, nanoseconds.
    SlowSync = 8,
    /// A sync fails with EIO, and what it should have covered is never synced.
    FailSync = 12,
    /// A write fails with EIO and writes nothing.
    FailWrite = 16,
    /// Whatever needs room fails with ENOSPC: growing a file, making one. Overwriting goes on.
    DiskFull = 20,
}

/// The words of a fault, after its own.
pub const PARTS: u64 = 1;
/// How often it still strikes.
pub const REMAINING: u64 = 2;
/// What it needs to know.
pub const PARAMETER: u64 = 3;

/// A part of the data directory; a fault's parts are a sum of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Part {
    /// `journal/`.
    Journal = 1,
    /// `engine/`.
    Engine = 2,
    /// Everything else.
    Other = 4,
}

/// Every part.
pub const ALL_PARTS: u64 = 7;

impl Part {
    /// By the path below the data directory.
    pub fn of(path: &[u8]) -> Part {
        match path.split(|byte| *byte == b'/').find(|name| !name.is_empty()) {
            Some(b"journal") => Part::Journal,
            Some(b"engine") => Part::Engine,
            _ => Part::Other,
        }
    }
}

/// What was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Counter {
    /// Syncs of the journal; the next two follow [`Part`].
    SyncsJournal = 64,
    /// Syncs of the engine.
    SyncsEngine = 65,
    /// Other syncs.
    SyncsOther = 66,
    /// Writes to the journal; the next two follow [`Part`].
    WritesJournal = 67,
    /// Writes to the engine.
    WritesEngine = 68,
    /// Other writes.
    WritesOther = 69,
    /// Bytes that were asked to be written.
    WrittenBytes = 70,
    /// Syncs that were held up.
    SyncsDelayed = 71,
    /// Syncs that failed because they were told to.
    SyncsFailed = 72,
    /// Writes that failed because they were told to.
    WritesRefused = 73,
    /// Calls that got no room because they were told so.
    RoomRefused = 74,
    /// Times of day that were not true.
    ClockReads = 75,
    /// Records in the log.
    Records = 76,
    /// Records that could not be written: the log is worthless from there.
    RecordFailures = 77,
    /// Calls that change files in a way nobody could undo.
    Unmodelled = 78,
    /// The first of them, by [`Unmodelled`].
    UnmodelledKind = 79,
}

impl Counter {
    /// The one of three that belongs to a part.
    pub fn word_of(first: Counter, part: Part) -> u64 {
        first as u64
            + match part {
                Part::Journal => 0,
                Part::Engine => 1,
                Part::Other => 2,
            }
    }
}

/// What cannot be undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Unmodelled {
    /// A shared mapping that may be written to.
    Mapping = 1,
    /// A file opened for buffered writing by the C library.
    Stream = 2,
    /// A file that is synced by every write.
    SyncedWrites = 3,
    /// A file without a name.
    Nameless = 4,
    /// Holes, collapsed or exchanged ranges.
    Holes = 5,
    /// Two names exchanged.
    Exchange = 6,
    /// A file cut by its name.
    TruncateByName = 7,
    /// A path with `..` in it.
    Path = 8,
    /// A symbolic link.
    Link = 9,
}

impl Unmodelled {
    /// For people.
    pub fn name(kind: u64) -> &'static str {
        const NAMES: [&str; 10] = [
            "nothing",
            "a shared writable mapping",
            "a stream of the C library",
            "a file synced by every write",
            "a file without a name",
            "a hole in a file",
            "exchanged names",
            "a file cut by its name",
            "a path with .. in it",
            "a symbolic link",
        ];
        usize::try_from(kind).ok().and_then(|kind| NAMES.get(kind)).copied().unwrap_or("something newer")
    }
}
