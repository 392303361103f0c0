//! The conformance suite of the engine seam: every promise of [`Engine`], as a case that a [`Lab`] runs.
//!
//! ```text
//!   CASES   one promise each, small and readable
//!   script  long random histories against ordered maps       (property tests feed it bytes)
//! ```
//!
//! **Invariant.** A case knows nothing of the engine but the seam and what the lab can do to its disk.
//!
//! **Deliberately absent.** Speed.

#![expect(clippy::unwrap_used, reason = "a suite is test code that other crates compile")]

mod script;
mod stages;

pub use script::run_script;

use super::{Batch, Cached, Column, Direction, Engine, KeyRange, StageManifest, View};
use crate::error::StorageError;
use bytes::Bytes;
use std::sync::Arc;

/// What a test does to the bytes of a file.
pub type Damage<'a> = &'a dyn Fn(&mut Vec<u8>);

/// One engine on a disk that can be mistreated.
pub trait Lab {
    /// The engine of the present life.
    fn engine(&self) -> &dyn Engine;

    /// Loses power: what was not flushed is gone. A new life begins.
    fn lose_power(&mut self);

    /// Closes in order, without a flush, and opens again.
    fn reopen(&mut self);

    /// Makes the next flush fail.
    fn break_disk(&mut self);

    /// Rewrites the bytes of a file of a stage.
    fn damage_stage_file(&mut self, id: u64, name: &str, damage: Damage<'_>);

    /// Removes a file of a stage.
    fn remove_stage_file(&mut self, id: u64, name: &str);
}

/// A named promise.
pub type Case = (&'static str, fn(&mut dyn Lab));

/// Every promise.
pub const CASES: &[Case] = &[
    ("reads see earlier writes", reads_see_earlier_writes),
    ("columns are apart", columns_are_apart),
    ("a batch applies in its order", a_batch_applies_in_its_order),
    ("an empty batch is harmless", an_empty_batch_is_harmless),
    ("a range removal is half open", a_range_removal_is_half_open),
    ("scans are ordered and half open both ways", scans_are_ordered_and_half_open_both_ways),
    ("long scans lose and repeat nothing", long_scans_lose_and_repeat_nothing),
    ("views are unmoved by later writes", views_are_unmoved_by_later_writes),
    ("cursors own their view", cursors_own_their_view),
    ("what is flushed survives", what_is_flushed_survives),
    ("what is not flushed is lost wholly", what_is_not_flushed_is_lost_wholly),
    ("a flush is atomic over columns", a_flush_is_atomic_over_columns),
    ("persisted reads see the last flush only", persisted_reads_see_the_last_flush_only),
    ("persisted reads survive a restart", persisted_reads_survive_a_restart),
    ("cached reads never invent", cached_reads_never_invent),
    ("a failed flush is a background error that stays", a_failed_flush_is_a_background_error_that_stays),
    ("figures move", figures_move),
    ("estimates weigh ranges", estimates_weigh_ranges),
    ("a stage is taken in durably", stages::a_stage_is_taken_in_durably),
    ("taking in makes earlier writes durable", stages::taking_in_makes_earlier_writes_durable),
    ("rows of a stage win over older rows", stages::rows_of_a_stage_win_over_older_rows),
    ("a stage replaces a removed range", stages::a_stage_replaces_a_removed_range),
    ("taking in twice is harmless", stages::taking_in_twice_is_harmless),
    ("taking in is repeated after a crash", stages::taking_in_is_repeated_after_a_crash),
    ("views do not see what is taken in later", stages::views_do_not_see_what_is_taken_in_later),
    ("an empty stage is a stage", stages::an_empty_stage_is_a_stage),
    ("large stages have several files", stages::large_stages_have_several_files),
    ("a damaged stage does not verify", stages::a_damaged_stage_does_not_verify),
    ("a name that leads out of the stage is refused", stages::a_name_that_leads_out_of_the_stage_is_refused),
    ("rows out of order are refused", stages::rows_out_of_order_are_refused),
    ("stages are listed and discarded", stages::stages_are_listed_and_discarded),
    ("an existing stage is replaced", stages::an_existing_stage_is_replaced),
];

/// Runs every case, each in a lab of its own.
pub fn run_cases<L: Lab>(new_lab: impl Fn() -> L) {
    for (name, case) in CASES {
        tracing::info!(case = name, "engine suite");
        case(&mut new_lab());
    }
}

/// A batch of puts into one column.
fn puts(column: Column, rows: &[(&str, &str)]) -> Batch {
    let mut batch = Batch::new();
    for (key, value) in rows {
        batch.put(column, Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
    }
    batch
}

fn get(engine: &dyn Engine, column: Column, key: &str) -> Option<String> {
    engine.get(column, key.as_bytes()).unwrap().map(text)
}

fn text(bytes: Bytes) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Everything a cursor gives, as text.
fn walk(view: &Arc<dyn View>, column: Column, range: KeyRange, direction: Direction) -> Vec<(String, String)> {
    let mut cursor = view.cursor(column, range, direction);
    let mut rows = Vec::new();
    while let Some((key, value)) = cursor.next().unwrap() {
        rows.push((text(key), text(value)));
    }
    assert_eq!(cursor.next().unwrap(), None, "the end of a walk stays the end");
    rows
}

fn keys(view: &Arc<dyn View>, range: KeyRange, direction: Direction) -> String {
    walk(view, Column::Data, range, direction).into_iter().map(|(key, _)| key).collect::<Vec<_>>().join(" ")
}

fn reads_see_earlier_writes(lab: &mut dyn Lab) {
    let engine = lab.engine();
    assert_eq!(get(engine, Column::Data, "a"), None);
    engine.write(&puts(Column::Data, &[("a", "1")])).unwrap();
    assert_eq!(get(engine, Column::Data, "a").as_deref(), Some("1"));
    engine.write(&puts(Column::Data, &[("a", "2"), ("empty", "")])).unwrap();
    assert_eq!(get(engine, Column::Data, "a").as_deref(), Some("2"));
    assert_eq!(get(engine, Column::Data, "empty").as_deref(), Some(""), "an empty value is a value");
    let mut batch = Batch::new();
    batch.delete(Column::Data, "a");
    batch.delete(Column::Data, "never there");
    engine.write(&batch).unwrap();
    assert_eq!(get(engine, Column::Data, "a"), None);
}

fn columns_are_apart(lab: &mut dyn Lab) {
    let engine = lab.engine();
    for column in Column::ALL {
        engine.write(&puts(column, &[("k", column.name())])).unwrap();
    }
    for column in Column::ALL {
        assert_eq!(get(engine, column, "k").as_deref(), Some(column.name()));
    }
    let mut batch = Batch::new();
    batch.delete_range(Column::Changes, "a", "z");
    engine.write(&batch).unwrap();
    assert_eq!(get(engine, Column::Changes, "k"), None);
    assert_eq!(get(engine, Column::Meta, "k").as_deref(), Some("meta"));
}

fn a_batch_applies_in_its_order(lab: &mut dyn Lab) {
    let engine = lab.engine();
    let mut batch = puts(Column::Data, &[("a", "old"), ("b", "old"), ("c", "old")]);
    batch.delete_range(Column::Data, "a", "c");
    batch.put(Column::Data, "b", "new");
    batch.delete(Column::Data, "c");
    batch.put(Column::Data, "c", "again");
    engine.write(&batch).unwrap();
    let rows = walk(&engine.view(), Column::Data, KeyRange::all(), Direction::Forward);
    assert_eq!(rows, [("b".into(), "new".into()), ("c".into(), "again".into())]);
}

fn an_empty_batch_is_harmless(lab: &mut dyn Lab) {
    lab.engine().write(&Batch::new()).unwrap();
    lab.engine().flush().unwrap();
    lab.lose_power();
    assert_eq!(keys(&lab.engine().view(), KeyRange::all(), Direction::Forward), "");
}

fn a_range_removal_is_half_open(lab: &mut dyn Lab) {
    let engine = lab.engine();
    engine.write(&puts(Column::Data, &[("a", ""), ("b", ""), ("bb", ""), ("c", ""), ("d", "")])).unwrap();
    engine.flush().unwrap();
    let mut batch = Batch::new();
    batch.delete_range(Column::Data, "b", "c");
    engine.write(&batch).unwrap();
    assert_eq!(keys(&engine.view(), KeyRange::all(), Direction::Forward), "a c d");
    assert_eq!(get(engine, Column::Data, "bb"), None);
    engine.write(&puts(Column::Data, &[("bb", "back")])).unwrap();
    engine.flush().unwrap();
    assert_eq!(keys(&engine.view(), KeyRange::all(), Direction::Forward), "a bb c d");
}

fn scans_are_ordered_and_half_open_both_ways(lab: &mut dyn Lab) {
    let engine = lab.engine();
    engine.write(&puts(Column::Data, &[("c", "3"), ("a", "1"), ("e", "5")])).unwrap();
    engine.flush().unwrap();
    engine.write(&puts(Column::Data, &[("d", "4"), ("b", "2"), ("ab", "1.5")])).unwrap();
    let view = engine.view();
    let cases = [
        (KeyRange::all(), "a ab b c d e"),
        (KeyRange::new("b", Some("d")), "b c"),
        (KeyRange::new("b", None::<&str>), "b c d e"),
        (KeyRange::new("aa", Some("bb")), "ab b"),
        (KeyRange::prefix("a"), "a ab"),
        (KeyRange::new("x", None::<&str>), ""),
        (KeyRange::new("c", Some("c")), ""),
        (KeyRange::new("d", Some("b")), ""),
        (KeyRange::new("", Some("a")), ""),
    ];
    for (range, expected) in cases {
        assert_eq!(keys(&view, range.clone(), Direction::Forward), expected, "forward over {range:?}");
        let reversed = expected.split_whitespace().rev().collect::<Vec<_>>().join(" ");
        assert_eq!(keys(&view, range.clone(), Direction::Reverse), reversed, "reverse over {range:?}");
    }
}

fn long_scans_lose_and_repeat_nothing(lab: &mut dyn Lab) {
    let engine = lab.engine();
    let names: Vec<String> = (0..1_000).map(|number| format!("{number:04}")).collect();
    for half in names.chunks(500) {
        let mut batch = Batch::new();
        half.iter().for_each(|name| batch.put(Column::Data, name.clone(), name.clone()));
        engine.write(&batch).unwrap();
        engine.flush().unwrap();
    }
    let view = engine.view();
    assert_eq!(keys(&view, KeyRange::all(), Direction::Forward), names.join(" "));
    let reversed: Vec<String> = names.iter().rev().cloned().collect();
    assert_eq!(keys(&view, KeyRange::all(), Direction::Reverse), reversed.join(" "));
}

fn views_are_unmoved_by_later_writes(lab: &mut dyn Lab) {
    let engine = lab.engine();
    engine.write(&puts(Column::Data, &[("a", "1"), ("b", "1")])).unwrap();
    engine.write(&puts(Column::Meta, &[("position", "1")])).unwrap();
    let view = engine.view();
    let mut batch = puts(Column::Data, &[("a", "2"), ("c", "2")]);
    batch.delete(Column::Data, "b");
    batch.put(Column::Meta, "position", "2");
    engine.write(&batch).unwrap();
    let mut everything = Batch::new();
    everything.delete_range(Column::Data, "", "zz");
    for moved in [false, true] {
        assert_eq!(view.get(Column::Data, b"a").unwrap().map(text).as_deref(), Some("1"));
        assert_eq!(view.get(Column::Data, b"b").unwrap().map(text).as_deref(), Some("1"));
        assert_eq!(view.get(Column::Data, b"c").unwrap(), None);
        assert_eq!(view.get(Column::Meta, b"position").unwrap().map(text).as_deref(), Some("1"));
        assert_eq!(keys(&view, KeyRange::all(), Direction::Forward), "a b");
        if !moved {
            assert_eq!(get(engine, Column::Data, "a").as_deref(), Some("2"));
            engine.write(&everything).unwrap();
            engine.flush().unwrap();
        }
    }
    assert_eq!(keys(&engine.view(), KeyRange::all(), Direction::Forward), "");
}

fn cursors_own_their_view(lab: &mut dyn Lab) {
    let engine = lab.engine();
    engine.write(&puts(Column::Data, &[("a", "1"), ("b", "2")])).unwrap();
    let mut cursor = engine.view().cursor(Column::Data, KeyRange::all(), Direction::Forward);
    assert_eq!(cursor.next().unwrap(), Some((Bytes::from("a"), Bytes::from("1"))));
    engine.write(&puts(Column::Data, &[("b", "changed"), ("c", "3")])).unwrap();
    engine.flush().unwrap();
    assert_eq!(cursor.next().unwrap(), Some((Bytes::from("b"), Bytes::from("2"))));
    assert_eq!(cursor.next().unwrap(), None);
}

fn what_is_flushed_survives(lab: &mut dyn Lab) {
    lab.engine().write(&puts(Column::Data, &[("a", "1"), ("b", "2")])).unwrap();
    lab.engine().flush().unwrap();
    let mut batch = Batch::new();
    batch.delete(Column::Data, "a");
    lab.engine().write(&batch).unwrap();
    lab.engine().flush().unwrap();
    for life in 0..3 {
        if life % 2 == 0 {
            lab.lose_power()
        } else {
            lab.reopen()
        }
        assert_eq!(keys(&lab.engine().view(), KeyRange::all(), Direction::Forward), "b");
    }
}

fn what_is_not_flushed_is_lost_wholly(lab: &mut dyn Lab) {
    lab.engine().write(&puts(Column::Data, &[("kept", "1")])).unwrap();
    lab.engine().flush().unwrap();
    for life in 0..2 {
        let mut batch = puts(Column::Data, &[("lost", "1"), ("kept", "2")]);
        batch.put(Column::Meta, "position", "2");
        lab.engine().write(&batch).unwrap();
        if life == 0 {
            lab.lose_power()
        } else {
            lab.reopen()
        }
        assert_eq!(get(lab.engine(), Column::Data, "lost"), None, "life {life}");
        assert_eq!(get(lab.engine(), Column::Meta, "position"), None, "life {life}");
        assert_eq!(get(lab.engine(), Column::Data, "kept").as_deref(), Some("1"), "life {life}");
    }
}

fn a_flush_is_atomic_over_columns(lab: &mut dyn Lab) {
    for round in 0..4u32 {
        let value = round.to_string();
        let mut batch = Batch::new();
        // Not the same columns every time: those left out must not be held back or carried ahead.
        for column in Column::ALL.into_iter().filter(|column| round % 2 == 0 || *column != Column::Changes) {
            batch.put(column, "position", value.clone());
        }
        lab.engine().write(&batch).unwrap();
        lab.engine().flush().unwrap();
        lab.engine().write(&puts(Column::Meta, &[("position", "ahead")])).unwrap();
        lab.lose_power();
        for column in Column::ALL {
            let expected = if round % 2 == 1 && column == Column::Changes { round - 1 } else { round };
            assert_eq!(get(lab.engine(), column, "position"), Some(expected.to_string()), "{}", column.name());
        }
    }
}

fn persisted_reads_see_the_last_flush_only(lab: &mut dyn Lab) {
    let engine = lab.engine();
    let persisted = |key: &str| engine.get_persisted(Column::Meta, key.as_bytes()).unwrap().map(text);
    engine.write(&puts(Column::Meta, &[("position", "1")])).unwrap();
    assert_eq!(persisted("position"), None);
    engine.flush().unwrap();
    assert_eq!(persisted("position").as_deref(), Some("1"));
    engine.write(&puts(Column::Meta, &[("position", "2")])).unwrap();
    assert_eq!(get(engine, Column::Meta, "position").as_deref(), Some("2"));
    assert_eq!(persisted("position").as_deref(), Some("1"));
    let mut batch = Batch::new();
    batch.delete(Column::Meta, "position");
    engine.write(&batch).unwrap();
    assert_eq!(persisted("position").as_deref(), Some("1"));
    engine.flush().unwrap();
    assert_eq!(persisted("position"), None);
}

fn persisted_reads_survive_a_restart(lab: &mut dyn Lab) {
    lab.engine().write(&puts(Column::Meta, &[("position", "1")])).unwrap();
    lab.engine().flush().unwrap();
    lab.engine().write(&puts(Column::Meta, &[("position", "2")])).unwrap();
    lab.lose_power();
    let engine = lab.engine();
    assert_eq!(engine.get_persisted(Column::Meta, b"position").unwrap().map(text).as_deref(), Some("1"));
    engine.write(&puts(Column::Meta, &[("position", "3")])).unwrap();
    assert_eq!(engine.get_persisted(Column::Meta, b"position").unwrap().map(text).as_deref(), Some("1"));
}

fn cached_reads_never_invent(lab: &mut dyn Lab) {
    lab.engine().write(&puts(Column::Data, &[("a", "1")])).unwrap();
    assert_eq!(lab.engine().get_cached(Column::Data, b"a").unwrap(), Cached::Known(Some(Bytes::from("1"))));
    lab.engine().flush().unwrap();
    lab.reopen();
    let engine = lab.engine();
    let cold = engine.get_cached(Column::Data, b"a").unwrap();
    assert!(matches!(&cold, Cached::WouldBlock) || cold == Cached::Known(Some(Bytes::from("1"))), "{cold:?}");
    let absent = engine.get_cached(Column::Data, b"absent").unwrap();
    assert!(matches!(&absent, Cached::WouldBlock | Cached::Known(None)), "{absent:?}");
    assert_eq!(get(engine, Column::Data, "a").as_deref(), Some("1"));
    assert_eq!(engine.get_cached(Column::Data, b"a").unwrap(), Cached::Known(Some(Bytes::from("1"))), "warm now");
}

fn a_failed_flush_is_a_background_error_that_stays(lab: &mut dyn Lab) {
    lab.engine().write(&puts(Column::Data, &[("a", "1")])).unwrap();
    lab.engine().flush().unwrap();
    assert_eq!(lab.engine().background_error(), None);
    lab.engine().write(&puts(Column::Data, &[("a", "2")])).unwrap();
    lab.break_disk();
    let engine = lab.engine();
    engine.flush().unwrap_err();
    let error = engine.background_error().expect("the flush failed");
    assert_eq!(engine.write(&puts(Column::Data, &[("b", "1")])), Err(error.clone()));
    assert_eq!(engine.flush(), Err(error.clone()), "no second try: the first may have lost something");
    assert_eq!(engine.background_error(), Some(error), "the first one stays");
    assert_eq!(get(engine, Column::Data, "a").as_deref(), Some("2"), "reads go on for diagnosis");
}

fn figures_move(lab: &mut dyn Lab) {
    let engine = lab.engine();
    let before = engine.stats();
    let mut batch = Batch::new();
    (0..64u8).for_each(|number| batch.put(Column::Data, vec![number], vec![number; 4096]));
    engine.write(&batch).unwrap();
    assert!(engine.stats().memory_bytes >= before.memory_bytes + 64 * 4096);
    let written = engine.stats();
    engine.flush().unwrap();
    assert!(engine.stats().memory_bytes < written.memory_bytes);
    assert!(engine.stats().disk_bytes > before.disk_bytes);
    assert!(!engine.stats().is_stalled);
}

fn estimates_weigh_ranges(lab: &mut dyn Lab) {
    let engine = lab.engine();
    let range = |from: u8, to: u8| KeyRange::new([from], Some([to]));
    let ranges = [range(0, 4), range(4, 8), range(8, 12)];
    let fill = |keys: std::ops::Range<u8>, rows: u16| {
        let mut batch = Batch::new();
        for key in keys {
            for row in 0..rows {
                let [high, low] = row.to_be_bytes();
                // What repeats itself would be compressed to nothing.
                let value: Vec<u8> =
                    (0..1_024_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 ^ low).collect();
                batch.put(Column::Data, vec![key, high, low], value);
            }
        }
        engine.write(&batch).unwrap();
    };
    fill(0..4, 64);
    let unflushed = engine.estimate(Column::Data, &ranges);
    assert!(unflushed[0] > 64 << 10 && unflushed[0] > 4 * unflushed[1].max(unflushed[2]), "{unflushed:?}");
    fill(4..8, 256);
    engine.flush().unwrap();
    let flushed = engine.estimate(Column::Data, &ranges);
    assert!(flushed[1] > 2 * flushed[0] && flushed[0] > 2 * flushed[2], "{flushed:?}");
    assert_eq!(engine.estimate(Column::Changes, &ranges), [0, 0, 0]);
    assert_eq!(engine.estimate(Column::Data, &[]), Vec::<u64>::new());
}

/// Writes a stage of text rows.
fn stage(engine: &dyn Engine, id: u64, rows: &[(Column, &str, &str)]) -> Result<StageManifest, StorageError> {
    let mut stage = engine.stage(id)?;
    for (column, key, value) in rows {
        stage.put(*column, key.as_bytes(), value.as_bytes())?;
    }
    stage.finish()
}
