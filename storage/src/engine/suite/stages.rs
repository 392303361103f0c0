//! Promises about stages: sorted files that are taken in as a whole.

use super::{Damage, Lab, get, keys, puts, stage};
use crate::{
    engine::{Batch, Column, Direction, KeyRange, StageManifest},
    error::StorageError,
};

const ROWS: &[(Column, &str, &str)] =
    &[(Column::Data, "a", "staged"), (Column::Data, "c", "staged"), (Column::Meta, "m", "staged")];

fn data(lab: &dyn Lab) -> String {
    keys(&lab.engine().view(), KeyRange::all(), Direction::Forward)
}

pub(super) fn a_stage_is_taken_in_durably(lab: &mut dyn Lab) {
    let manifest = stage(lab.engine(), 7, ROWS).unwrap();
    assert_eq!(manifest.id, 7);
    let columns: Vec<Column> = manifest.files.iter().map(|file| file.column).collect();
    assert_eq!(columns, [Column::Data, Column::Meta], "one file a column");
    assert_eq!(data(lab), "", "nothing is visible before");
    lab.engine().verify_stage(&manifest).unwrap();
    lab.engine().ingest(&manifest).unwrap();
    for life in 0..3 {
        assert_eq!(data(lab), "a c", "life {life}");
        assert_eq!(get(lab.engine(), Column::Meta, "m").as_deref(), Some("staged"));
        lab.engine().verify_stage(&manifest).unwrap();
        if life == 0 { lab.lose_power() } else { lab.reopen() }
    }
}

pub(super) fn taking_in_makes_earlier_writes_durable(lab: &mut dyn Lab) {
    let manifest = stage(lab.engine(), 1, ROWS).unwrap();
    // Nothing that overlaps the staged rows: an engine that flushes only what it must would leave these behind.
    let mut batch = puts(Column::Data, &[("x", "1")]);
    batch.put(Column::Changes, "before", "1");
    lab.engine().write(&batch).unwrap();
    lab.engine().ingest(&manifest).unwrap();
    assert_eq!(
        lab.engine().get_persisted(Column::Changes, b"before").unwrap().as_deref(),
        Some(b"1".as_slice()),
        "a staged row must not be durable where an earlier write is not"
    );
    lab.lose_power();
    assert_eq!(data(lab), "a c x");
}

pub(super) fn rows_of_a_stage_win_over_older_rows(lab: &mut dyn Lab) {
    lab.engine().write(&puts(Column::Data, &[("a", "flushed"), ("b", "flushed")])).unwrap();
    lab.engine().flush().unwrap();
    lab.engine().write(&puts(Column::Data, &[("c", "unflushed")])).unwrap();
    let manifest = stage(lab.engine(), 1, ROWS).unwrap();
    lab.engine().ingest(&manifest).unwrap();
    assert_eq!(get(lab.engine(), Column::Data, "a").as_deref(), Some("staged"));
    assert_eq!(get(lab.engine(), Column::Data, "b").as_deref(), Some("flushed"));
    assert_eq!(get(lab.engine(), Column::Data, "c").as_deref(), Some("staged"));
    lab.engine().write(&puts(Column::Data, &[("a", "later")])).unwrap();
    assert_eq!(get(lab.engine(), Column::Data, "a").as_deref(), Some("later"));
}

pub(super) fn a_stage_replaces_a_removed_range(lab: &mut dyn Lab) {
    lab.engine().write(&puts(Column::Data, &[("a", "old"), ("b", "old"), ("z", "other shard")])).unwrap();
    lab.engine().flush().unwrap();
    let manifest = stage(lab.engine(), 1, ROWS).unwrap();
    let mut batch = Batch::new();
    batch.delete_range(Column::Data, "a", "y");
    lab.engine().write(&batch).unwrap();
    lab.engine().ingest(&manifest).unwrap();
    for _ in 0..2 {
        assert_eq!(data(lab), "a c z");
        assert_eq!(get(lab.engine(), Column::Data, "a").as_deref(), Some("staged"));
        assert_eq!(get(lab.engine(), Column::Data, "b"), None);
        lab.lose_power();
    }
}

pub(super) fn taking_in_twice_is_harmless(lab: &mut dyn Lab) {
    let manifest = stage(lab.engine(), 1, ROWS).unwrap();
    for _ in 0..3 {
        lab.engine().ingest(&manifest).unwrap();
        lab.engine().verify_stage(&manifest).unwrap();
        assert_eq!(data(lab), "a c");
    }
    let mut batch = Batch::new();
    batch.delete(Column::Data, "a");
    lab.engine().write(&batch).unwrap();
    lab.engine().flush().unwrap();
    lab.lose_power();
    assert_eq!(data(lab), "c", "no copy of a row comes back");
}

pub(super) fn taking_in_is_repeated_after_a_crash(lab: &mut dyn Lab) {
    lab.engine().write(&puts(Column::Data, &[("b", "old")])).unwrap();
    lab.engine().flush().unwrap();
    let manifest = stage(lab.engine(), 1, ROWS).unwrap();
    lab.lose_power();
    assert_eq!(data(lab), "b");
    for _ in 0..2 {
        lab.engine().verify_stage(&manifest).unwrap();
        let mut batch = Batch::new();
        batch.delete_range(Column::Data, "a", "z");
        lab.engine().write(&batch).unwrap();
        lab.engine().ingest(&manifest).unwrap();
        lab.lose_power();
        assert_eq!(data(lab), "a c");
    }
}

pub(super) fn views_do_not_see_what_is_taken_in_later(lab: &mut dyn Lab) {
    lab.engine().write(&puts(Column::Data, &[("a", "before")])).unwrap();
    let manifest = stage(lab.engine(), 1, ROWS).unwrap();
    let view = lab.engine().view();
    lab.engine().ingest(&manifest).unwrap();
    assert_eq!(keys(&view, KeyRange::all(), Direction::Forward), "a");
    assert_eq!(view.get(Column::Data, b"a").unwrap().as_deref(), Some(b"before".as_slice()));
    assert_eq!(data(lab), "a c");
    // A column where nothing lies in the way, so that the engine has no other reason to date the rows.
    let manifest = stage(lab.engine(), 2, &[(Column::Changes, "a", "staged")]).unwrap();
    let view = lab.engine().view();
    lab.engine().ingest(&manifest).unwrap();
    assert_eq!(view.get(Column::Changes, b"a").unwrap(), None);
    assert_eq!(get(lab.engine(), Column::Changes, "a").as_deref(), Some("staged"));
}

pub(super) fn an_empty_stage_is_a_stage(lab: &mut dyn Lab) {
    let manifest = stage(lab.engine(), 3, &[]).unwrap();
    assert_eq!(manifest, StageManifest { id: 3, files: Vec::new() });
    lab.engine().verify_stage(&manifest).unwrap();
    lab.engine().ingest(&manifest).unwrap();
    assert_eq!(lab.engine().stages().unwrap(), [3]);
    assert_eq!(data(lab), "");
}

pub(super) fn large_stages_have_several_files(lab: &mut dyn Lab) {
    let mut writer = lab.engine().stage(1).unwrap();
    let mut noise = 1u64;
    for number in 0..2_000u32 {
        // Bytes that do not compress, so that the files grow.
        let value: Vec<u8> = std::iter::repeat_with(|| {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (noise >> 33) as u8
        })
        .take(1024)
        .collect();
        writer.put(Column::Data, &number.to_be_bytes(), &value).unwrap();
    }
    let manifest = writer.finish().unwrap();
    assert!(manifest.files.len() > 1, "{} file", manifest.files.len());
    lab.engine().verify_stage(&manifest).unwrap();
    lab.engine().ingest(&manifest).unwrap();
    lab.lose_power();
    let view = lab.engine().view();
    let mut cursor = view.cursor(Column::Data, KeyRange::all(), Direction::Forward);
    for number in 0..2_000u32 {
        let (key, value) = cursor.next().unwrap().expect("all rows are there");
        assert_eq!((key.as_ref(), value.len()), (number.to_be_bytes().as_slice(), 1024));
    }
    assert_eq!(cursor.next().unwrap(), None);
}

pub(super) fn a_damaged_stage_does_not_verify(lab: &mut dyn Lab) {
    let damages: [Damage<'_>; 4] = [
        &|bytes| bytes[0] ^= 1,
        &|bytes| *bytes.last_mut().expect("a file is never empty") ^= 0x80,
        &|bytes| bytes.truncate(bytes.len() - 1),
        &|bytes| bytes.push(0),
    ];
    for damage in damages {
        let manifest = stage(lab.engine(), 1, ROWS).unwrap();
        lab.engine().verify_stage(&manifest).unwrap();
        lab.damage_stage_file(1, &manifest.files[1].name, damage);
        let error = lab.engine().verify_stage(&manifest).unwrap_err();
        let StorageError::Corrupt { file, .. } = &error else { panic!("not called corrupt: {error}") };
        assert!(file.contains(&manifest.files[1].name), "{error}");
    }
    let manifest = stage(lab.engine(), 1, ROWS).unwrap();
    lab.remove_stage_file(1, &manifest.files[0].name);
    assert!(matches!(lab.engine().verify_stage(&manifest), Err(StorageError::Corrupt { .. })));
    lab.engine().ingest(&manifest).unwrap_err();
    assert_eq!(lab.engine().background_error(), None, "a stage that is missing is not a broken disk");
    lab.engine().discard_stage(1).unwrap();
    assert!(matches!(lab.engine().verify_stage(&manifest), Err(StorageError::Corrupt { .. })));
    assert_eq!(data(lab), "");
}

pub(super) fn a_name_that_leads_out_of_the_stage_is_refused(lab: &mut dyn Lab) {
    let genuine = stage(lab.engine(), 1, ROWS).unwrap();
    for name in ["../1/000.sst", "/etc/hostname", "..", ""] {
        let mut manifest = genuine.clone();
        manifest.files[0].name = name.to_owned();
        assert!(matches!(lab.engine().verify_stage(&manifest), Err(StorageError::Corrupt { .. })), "{name:?}");
        lab.engine().ingest(&manifest).unwrap_err();
    }
}

pub(super) fn rows_out_of_order_are_refused(lab: &mut dyn Lab) {
    let engine = lab.engine();
    let sequences: [&[(Column, &str, &str)]; 3] = [
        &[(Column::Data, "b", ""), (Column::Data, "a", "")],
        &[(Column::Data, "a", ""), (Column::Data, "a", "")],
        &[(Column::Data, "a", ""), (Column::Meta, "a", ""), (Column::Data, "b", "")],
    ];
    for rows in sequences {
        assert!(matches!(stage(engine, 1, rows), Err(StorageError::Engine(_))), "{rows:?}");
    }
    // Columns come in any order, once each.
    stage(engine, 1, &[(Column::Meta, "b", ""), (Column::Data, "a", "")]).unwrap();
}

pub(super) fn stages_are_listed_and_discarded(lab: &mut dyn Lab) {
    assert_eq!(lab.engine().stages().unwrap(), Vec::<u64>::new());
    stage(lab.engine(), 5, ROWS).unwrap();
    stage(lab.engine(), u64::MAX, ROWS).unwrap();
    // Begun and left: it lies on the disk like any other.
    drop(lab.engine().stage(2).unwrap());
    for _ in 0..2 {
        assert_eq!(lab.engine().stages().unwrap(), [2, 5, u64::MAX]);
        lab.lose_power();
    }
    lab.engine().discard_stage(2).unwrap();
    lab.engine().discard_stage(5).unwrap();
    lab.engine().discard_stage(5).unwrap();
    lab.lose_power();
    assert_eq!(lab.engine().stages().unwrap(), [u64::MAX]);
}

pub(super) fn an_existing_stage_is_replaced(lab: &mut dyn Lab) {
    let former = stage(lab.engine(), 1, ROWS).unwrap();
    let newer = stage(lab.engine(), 1, &[(Column::Data, "new", "1")]).unwrap();
    assert!(lab.engine().verify_stage(&former).is_err());
    lab.engine().ingest(&newer).unwrap();
    assert_eq!(data(lab), "new");
}
