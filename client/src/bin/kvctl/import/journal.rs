//! How far an import has come: every row up to here has its outcome.
//!
//! ```text
//!   chunks read   │ 1 ✓ │ 2 ✓ │ 3 … │ 4 ✓ │ 5 … │
//!                             ▲ certain up to here, noted beside the file; the rest is sent again
//! ```
//!
//! **Invariant.** The note never claims a row without an outcome. What is sent again are puts in file order, so the
//! last row of a key still wins.

use super::rows::{Chunk, Row};
use crate::{
    exit::{Usage, complain},
    export::sidecar::Sidecar,
};
use flate2::Crc;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, time::Duration};
use tokio::time::Instant;

/// Version of the notes.
const FORMAT: u32 = 1;

/// Longest time between two notes, while rows become certain.
const NOTE_EVERY: Duration = Duration::from_millis(200);

/// A place in the rows of a file, and what the rows before it were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub rows: u64,
    /// Of them were rejected.
    pub rejected: u64,
    /// Checksum of the rows.
    pub checksum: u32,
}

#[derive(Debug, Serialize, Deserialize)]
struct Note {
    format: u32,
    keyspace: String,
    keyspace_id: u32,
    /// Bytes of the file.
    file_bytes: u64,
    mark: Mark,
}

/// What an import is of: it goes on with the same only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    pub keyspace: String,
    pub keyspace_id: u32,
    pub file_bytes: u64,
}

/// The rows under way, and the note beside the file.
#[derive(Debug)]
pub struct Journal {
    sidecar: Option<(Sidecar, Scope)>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    window: Window,
    noted: Option<(Instant, Mark)>,
    is_broken: bool,
}

impl Journal {
    /// Begins at `from`. Without a sidecar nothing is noted.
    pub fn begin(sidecar: Option<(Sidecar, Scope)>, from: Mark) -> Self {
        let state = State { window: Window::begin(from), noted: None, is_broken: false };
        Journal { sidecar, state: Mutex::new(state) }
    }

    /// The mark that an interrupted import left.
    pub fn left(sidecar: &Sidecar, scope: &Scope) -> anyhow::Result<Option<Mark>> {
        let Some(note) = sidecar.read::<Note>()? else { return Ok(None) };
        let problem = if note.format != FORMAT {
            "is of another version of kvctl"
        } else if note.keyspace_id != scope.keyspace_id {
            "is about a keyspace of that name that is gone"
        } else if note.file_bytes != scope.file_bytes {
            "is about a file of another length: the input was changed"
        } else {
            return Ok(Some(note.mark));
        };
        let path = sidecar.path().display();
        Err(Usage(format!("{path} {problem}. Without --resume the import begins anew")).into())
    }

    /// A chunk was read, up to this mark; gives it its number.
    pub fn read(&self, chunk: &mut Chunk, rows: u64, checksum: u32) {
        let mut state = self.state.lock();
        let number = state.window.read(rows, checksum, chunk.rows.len(), chunk.bad.len() as u64);
        chunk.rows.iter_mut().for_each(|row| row.chunk = number);
    }

    /// These rows have their outcome.
    pub fn settled(&self, rows: &[Row], rejected: bool) {
        let mut state = self.state.lock();
        rows.iter().for_each(|row| state.window.settled(row.chunk, rejected));
    }

    /// Every row up to here has its outcome.
    pub fn certain(&self) -> Mark {
        self.state.lock().window.done
    }

    /// Notes how far it is, now and then. Blocks for as long as the disk does.
    pub fn note_now_and_then(&self) {
        let is_due = {
            let state = self.state.lock();
            state.noted.is_none_or(|(at, mark)| at.elapsed() >= NOTE_EVERY && mark != state.window.done)
        };
        if is_due {
            self.note();
        }
    }

    /// Notes how far it is. That this is not possible is said once: the import goes on without.
    pub fn note(&self) {
        let Some((sidecar, scope)) = &self.sidecar else { return };
        let (mark, is_broken) = {
            let state = self.state.lock();
            (state.window.done, state.is_broken)
        };
        if mark.rows == 0 || is_broken {
            return;
        }
        let Scope { keyspace, keyspace_id, file_bytes } = scope.clone();
        let written = sidecar.write(&Note { format: FORMAT, keyspace, keyspace_id, file_bytes, mark });
        let mut state = self.state.lock();
        state.noted = Some((Instant::now(), mark));
        if let Err(error) = written {
            state.is_broken = true;
            complain(&format!("warning: {error:#}: should it be interrupted, this import begins anew"));
        }
    }

    /// Whether an import after this one can go on where it stands.
    pub fn can_resume(&self) -> bool {
        self.sidecar.is_some() && !self.state.lock().is_broken
    }

    /// All of it is done.
    pub fn remove(&self) -> anyhow::Result<()> {
        self.sidecar.as_ref().map_or(Ok(()), |(sidecar, _)| sidecar.remove())
    }
}

/// The checksum of rows as they come.
#[derive(Debug, Default)]
pub struct Checksum(Crc);

impl Checksum {
    pub fn add(&mut self, chunk: &Chunk) {
        for row in &chunk.rows {
            for part in [&row.key, &row.value] {
                self.0.update(&(part.len() as u64).to_be_bytes());
                self.0.update(part);
            }
        }
        for bad in &chunk.bad {
            self.0.update(&bad.line.to_be_bytes());
            self.0.update(bad.text.as_bytes());
        }
    }

    pub fn sum(&self) -> u32 {
        self.0.sum()
    }
}

/// Chunks that were read and are not certain yet. Pure.
#[derive(Debug)]
struct Window {
    done: Mark,
    /// The number of the first of `waiting`.
    first: u64,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    rows: u64,
    checksum: u32,
    rejected: u64,
    /// Rows without an outcome.
    left: usize,
}

impl Window {
    fn begin(done: Mark) -> Self {
        Window { done, first: 0, waiting: VecDeque::new() }
    }

    fn read(&mut self, rows: u64, checksum: u32, left: usize, rejected: u64) -> u64 {
        let number = self.first + self.waiting.len() as u64;
        self.waiting.push_back(Waiting { rows, checksum, rejected, left });
        self.advance();
        number
    }

    fn settled(&mut self, chunk: u64, rejected: bool) {
        let place = chunk.checked_sub(self.first).and_then(|place| usize::try_from(place).ok());
        let waiting = place.and_then(|place| self.waiting.get_mut(place));
        let waiting = waiting.expect("a chunk stays until all its rows have an outcome");
        waiting.left -= 1;
        waiting.rejected += u64::from(rejected);
        self.advance();
    }

    fn advance(&mut self) {
        while let Some(first) = self.waiting.pop_front_if(|first| first.left == 0) {
            let rejected = self.done.rejected + first.rejected;
            self.done = Mark { rows: first.rows, rejected, checksum: first.checksum };
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tempfile::TempDir;

    #[test]
    fn a_note_is_of_one_file_and_one_keyspace() {
        let folder = TempDir::new().unwrap();
        let sidecar = Sidecar::beside(&folder.path().join("a.csv"), "orders.import");
        let scope = Scope { keyspace: "orders".to_owned(), keyspace_id: 7, file_bytes: 90 };
        assert_eq!(Journal::left(&sidecar, &scope).unwrap(), None);
        let mark = Mark { rows: 5, rejected: 1, checksum: 9 };
        Journal::begin(Some((sidecar.clone(), scope.clone())), mark).note();
        assert_eq!(Journal::left(&sidecar, &scope).unwrap(), Some(mark));
        for other in [Scope { keyspace_id: 8, ..scope.clone() }, Scope { file_bytes: 91, ..scope }] {
            assert!(Journal::left(&sidecar, &other).unwrap_err().is::<Usage>());
        }
    }

    proptest! {
        #[test]
        fn no_row_is_certain_before_all_rows_up_to_it_have_an_outcome(
            chunks in proptest::collection::vec((0..4_usize, 0..3_u64), 1..12),
            order in proptest::collection::vec(any::<(u16, bool)>(), 64),
        ) {
            let mut window = Window::begin(Mark::default());
            let mut rows = 0;
            // Rows that have no outcome yet: the chunk, and where it begins.
            let mut left = Vec::new();
            for (good, bad) in chunks {
                let begin = rows;
                rows += good as u64 + bad;
                let number = window.read(rows, rows as u32, good, bad);
                left.extend(std::iter::repeat_n((number, begin), good));
            }
            for (pick, rejected) in order {
                let first_without = left.iter().map(|(_, begin)| *begin).min();
                prop_assert!(window.done.rows <= first_without.unwrap_or(rows));
                prop_assert_eq!(u64::from(window.done.checksum), window.done.rows);
                if left.is_empty() {
                    prop_assert_eq!(window.done.rows, rows);
                    break;
                }
                let (number, _) = left.swap_remove(usize::from(pick) % left.len());
                window.settled(number, rejected);
            }
        }
    }
}
