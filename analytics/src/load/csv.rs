//! Csv: rows with a delimiter, names in the first line.
//!
//! **Invariant.** Every row has as many cells as there are names, or the load ends with its line. The text `NA` is
//! missing, as is the empty one, unless other texts were named.

use super::{LoadError, Options, Report, SAMPLE_ROWS, Trouble, cells, infer};
use crate::{
    chunk::Cell,
    schema::{Field, Origin, Schema},
    store::Store,
};
use csv::{ByteRecord, Reader, ReaderBuilder};
use std::io::Read;

pub fn load(input: impl Read, delimiter: u8, options: &Options) -> Result<(Store, Report), Trouble> {
    let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(input);
    let header = reader.byte_headers().map_err(trouble)?.clone();
    if header.is_empty() {
        return Err(Trouble::Empty);
    }
    let names: Vec<String> = header
        .iter()
        .map(|name| String::from_utf8_lossy(name).trim().trim_start_matches('\u{feff}').to_owned())
        .collect();
    let missing: Vec<&str> =
        if options.missing.is_empty() { vec!["NA"] } else { options.missing.iter().map(String::as_str).collect() };
    let mut sample = Vec::new();
    if options.schema.is_none() {
        let mut record = ByteRecord::new();
        while sample.len() < SAMPLE_ROWS && reader.read_byte_record(&mut record).map_err(trouble)? {
            sample.push(record.clone());
        }
    }
    let (schema, places) = columns(&names, &sample, &missing, options)?;
    let rows = Rows { schema: &schema, places: &places, missing: &missing };
    let (mut store, mut report) = (Store::new(schema.clone()), Report::new(schema.len()));
    for record in &sample {
        rows.append(record, &mut store, &mut report);
    }
    read_rest(&mut reader, &rows, &mut store, &mut report)?;
    store.seal();
    report.check(&schema)?;
    Ok((store, report))
}

fn read_rest(
    reader: &mut Reader<impl Read>,
    rows: &Rows<'_>,
    store: &mut Store,
    report: &mut Report,
) -> Result<(), Trouble> {
    let mut record = ByteRecord::new();
    while reader.read_byte_record(&mut record).map_err(trouble)? {
        rows.append(&record, store, report);
    }
    Ok(())
}

fn trouble(error: csv::Error) -> Trouble {
    let line = error.position().map_or(1, csv::Position::line);
    match error.into_kind() {
        csv::ErrorKind::Io(error) => Trouble::Input(error),
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => Trouble::Load(LoadError::Row {
            line,
            message: format!("{len} cells, where the first line has {expected_len}"),
        }),
        other => Trouble::Load(LoadError::Row { line, message: format!("{other:?}") }),
    }
}

/// The schema, and for each of its columns the place in a row.
fn columns(
    names: &[String],
    sample: &[ByteRecord],
    missing: &[&str],
    options: &Options,
) -> Result<(Schema, Vec<usize>), LoadError> {
    if let Some(schema) = &options.schema {
        let place = |field: &Field| {
            let is_field = field.origin == Origin::Field;
            let found = if is_field { names.iter().position(|name| *name == field.name) } else { None };
            found.ok_or_else(|| LoadError::NoColumn { column: field.name.clone(), there: names.join(", ") })
        };
        let places = schema.fields().iter().map(place).collect::<Result<_, _>>()?;
        return Ok((schema.clone(), places));
    }
    let text_at =
        |record: &ByteRecord, place: usize| record.get(place).map(|cell| String::from_utf8_lossy(cell).into_owned());
    let fields = names.iter().enumerate().map(|(place, name)| {
        let texts: Vec<String> = sample
            .iter()
            .filter_map(|record| text_at(record, place))
            .filter(|text| !text.is_empty() && !missing.contains(&text.as_str()))
            .collect();
        Field { name: name.clone(), kind: infer::kind_of(texts.iter().map(String::as_str)), origin: Origin::Field }
    });
    Ok((Schema::new(fields.collect())?, (0..names.len()).collect()))
}

struct Rows<'a> {
    schema: &'a Schema,
    places: &'a [usize],
    missing: &'a [&'a str],
}

impl Rows<'_> {
    fn append(&self, record: &ByteRecord, store: &mut Store, report: &mut Report) {
        let line = record.position().map_or(0, csv::Position::line);
        report.rows += 1;
        let cells = self.schema.fields().iter().zip(self.places).enumerate().map(|(column, (field, place))| {
            let bytes = record.get(*place).unwrap_or_default();
            if bytes.is_empty() || self.missing.iter().any(|text| text.as_bytes() == bytes) {
                report.note_missing(column);
                return Cell::Missing;
            }
            let cell = std::str::from_utf8(bytes).ok().and_then(|text| cells::read(field.kind, text));
            cell.unwrap_or_else(|| {
                report.note_malformed(column, line, &String::from_utf8_lossy(bytes));
                Cell::Missing
            })
        });
        store.append(cells);
    }
}
