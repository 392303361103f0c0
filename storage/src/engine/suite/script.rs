//! Long random histories: bytes become steps, the lab and plain ordered maps take the same steps, and every answer is
//! compared after each.
//!
//! **Invariant.** Every byte string is a script, so a property test may shrink it freely.

use super::Lab;
use crate::engine::{Batch, Cached, Column, Direction, Engine, KeyRange, View};
use bytes::Bytes;
use std::{collections::BTreeMap, ops::Bound, sync::Arc};

/// Columns the scripts use: enough to see a flush that is not atomic.
const COLUMNS: [Column; 3] = [Column::Data, Column::Changes, Column::Meta];

type Rows = BTreeMap<(Column, Vec<u8>), Vec<u8>>;

/// What the engine should hold.
#[derive(Default)]
struct Model {
    now: Rows,
    flushed: Rows,
}

/// Reads a script, one byte at a time; zeroes after its end.
struct Script<'a> {
    rest: &'a [u8],
    written: u32,
}

impl Script<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    fn column(&mut self) -> Column {
        COLUMNS[usize::from(self.byte()) % COLUMNS.len()]
    }

    /// One of few keys, some of them prefixes of others.
    fn key(&mut self) -> Vec<u8> {
        let byte = self.byte();
        let letter = b'a' + byte % 8;
        if byte & 0x40 == 0 { vec![letter] } else { vec![letter, b'a' + (byte >> 3) % 4] }
    }

    /// A value that was never written before.
    fn value(&mut self) -> Vec<u8> {
        self.written += 1;
        self.written.to_be_bytes().to_vec()
    }
}

/// Runs a script on a fresh lab.
///
/// # Panics
/// At the first answer that differs from the model's.
pub fn run_script(bytes: &[u8], lab: &mut dyn Lab) {
    let mut script = Script { rest: bytes, written: 0 };
    let mut model = Model::default();
    let mut view: Option<(Arc<dyn View>, Rows)> = None;
    while !script.rest.is_empty() {
        match script.byte() % 16 {
            0..=8 => write(&mut script, lab.engine(), &mut model.now),
            9 | 10 => {
                lab.engine().flush().unwrap();
                model.flushed = model.now.clone();
            }
            11 => {
                view = None;
                lab.lose_power();
                model.now = model.flushed.clone();
            }
            12 => {
                view = None;
                lab.reopen();
                model.now = model.flushed.clone();
            }
            13 => view = Some((lab.engine().view(), model.now.clone())),
            14 => {
                take_in(&mut script, lab.engine(), &mut model.now);
                model.flushed = model.now.clone();
            }
            _ => look_up(&mut script, lab.engine(), &model),
        }
        compare_view(&lab.engine().view(), &model.now, &mut script);
        if let Some((view, rows)) = &view {
            compare_view(view, rows, &mut script);
        }
    }
}

fn write(script: &mut Script<'_>, engine: &dyn Engine, now: &mut Rows) {
    let mut batch = Batch::new();
    for _ in 0..=script.byte() % 4 {
        let (column, key) = (script.column(), script.key());
        match script.byte() % 4 {
            0 | 1 => {
                let value = script.value();
                batch.put(column, key.clone(), value.clone());
                now.insert((column, key), value);
            }
            2 => {
                batch.delete(column, key.clone());
                now.remove(&(column, key));
            }
            _ => {
                let end = script.key();
                batch.delete_range(column, key.clone(), end.clone());
                now.retain(|(of, held), _| *of != column || !(key <= *held && *held < end));
            }
        }
        for (column, key) in now.keys().take(4) {
            let expected = now[&(*column, key.clone())].as_slice();
            let read_through = batch.get(*column, key).map(|said| said.cloned());
            let seen = read_through.unwrap_or_else(|| engine.get(*column, key).unwrap());
            assert_eq!(seen.as_deref(), Some(expected), "read through the batch");
        }
    }
    engine.write(&batch).unwrap();
}

fn take_in(script: &mut Script<'_>, engine: &dyn Engine, now: &mut Rows) {
    let mut rows = Rows::new();
    for _ in 0..script.byte() % 6 {
        let (column, key) = (script.column(), script.key());
        rows.insert((column, key), script.value());
    }
    let mut stage = engine.stage(1).unwrap();
    for ((column, key), value) in &rows {
        stage.put(*column, key, value).unwrap();
    }
    let manifest = stage.finish().unwrap();
    engine.verify_stage(&manifest).unwrap();
    engine.ingest(&manifest).unwrap();
    now.extend(rows);
}

fn look_up(script: &mut Script<'_>, engine: &dyn Engine, model: &Model) {
    for _ in 0..4 {
        let place = (script.column(), script.key());
        let (now, flushed) = (model.now.get(&place), model.flushed.get(&place));
        let (column, key) = (place.0, place.1.as_slice());
        assert_eq!(engine.get(column, key).unwrap().as_deref(), now.map(Vec::as_slice));
        assert_eq!(engine.get_persisted(column, key).unwrap().as_deref(), flushed.map(Vec::as_slice), "persisted");
        match engine.get_cached(column, key).unwrap() {
            Cached::Known(value) => assert_eq!(value.as_deref(), now.map(Vec::as_slice), "cached"),
            Cached::WouldBlock => {}
        }
    }
}

fn compare_view(view: &Arc<dyn View>, rows: &Rows, script: &mut Script<'_>) {
    let (column, start, end) = (script.column(), script.key(), script.key());
    let ranges = [KeyRange::all(), KeyRange::new(start.clone(), Some(end)), KeyRange::new(start, None::<Vec<u8>>)];
    for range in ranges {
        for direction in [Direction::Forward, Direction::Reverse] {
            let mut cursor = view.cursor(column, range.clone(), direction);
            let mut walked: Vec<(Bytes, Bytes)> = Vec::new();
            while let Some(row) = cursor.next().unwrap() {
                walked.push(row);
            }
            if direction == Direction::Reverse {
                walked.reverse();
            }
            let of_column = rows.range((Bound::Included((column, Vec::new())), Bound::Unbounded));
            let expected = of_column.take_while(|((of, _), _)| *of == column);
            let expected: Vec<(Bytes, Bytes)> = expected
                .filter(|((_, key), _)| range.contains(key))
                .map(|((_, key), value)| (Bytes::copy_from_slice(key), Bytes::copy_from_slice(value)))
                .collect();
            assert_eq!(walked, expected, "{direction:?} over {range:?} of {}", column.name());
        }
    }
    let key = script.key();
    assert_eq!(view.get(column, &key).unwrap().as_deref(), rows.get(&(column, key)).map(Vec::as_slice));
}
