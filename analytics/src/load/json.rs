//! Json: one object a line.
//!
//! **Invariant.** A field that is absent or null is missing. A number is not text, and a text is a number only in a
//! column that is declared so. A line that is no object ends the load.

use super::{LoadError, Options, Report, SAMPLE_ROWS, Trouble, cells, infer};
use crate::{
    chunk::Cell,
    schema::{Field, Origin, Schema},
    store::Store,
    value::{Kind, Value},
};
use serde_json::{Map, Value as Json};
use std::io::BufRead;

pub fn load(input: impl BufRead, options: &Options) -> Result<(Store, Report), Trouble> {
    let mut lines = (1_u64..).zip(input.lines());
    let mut sample = Vec::new();
    if options.schema.is_none() {
        while sample.len() < SAMPLE_ROWS {
            let Some((number, line)) = lines.next() else { break };
            sample.extend(object(number, &line.map_err(Trouble::Input)?)?.map(|object| (number, object)));
        }
    }
    let schema = match &options.schema {
        Some(schema) => schema.clone(),
        None => infer_schema(&sample)?,
    };
    let (mut store, mut report) = (Store::new(schema.clone()), Report::new(schema.len()));
    for (number, object) in sample.drain(..) {
        append(&schema, number, &object, &mut store, &mut report);
    }
    for (number, line) in lines {
        if let Some(object) = object(number, &line.map_err(Trouble::Input)?)? {
            append(&schema, number, &object, &mut store, &mut report);
        }
    }
    store.seal();
    report.check(&schema)?;
    Ok((store, report))
}

fn object(number: u64, line: &str) -> Result<Option<Map<String, Json>>, LoadError> {
    if line.trim().is_empty() {
        return Ok(None);
    }
    match serde_json::from_str(line) {
        Ok(Json::Object(object)) => Ok(Some(object)),
        Ok(_) => Err(LoadError::Row { line: number, message: "not a JSON object".to_owned() }),
        Err(error) => Err(LoadError::Row { line: number, message: format!("not JSON: {error}") }),
    }
}

fn infer_schema(sample: &[(u64, Map<String, Json>)]) -> Result<Schema, Trouble> {
    if sample.is_empty() {
        return Err(Trouble::Empty);
    }
    let mut names: Vec<&String> = Vec::new();
    for name in sample.iter().flat_map(|(_, object)| object.keys()) {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    let fields = names.into_iter().map(|name| {
        let values: Vec<&Json> = sample.iter().filter_map(|(_, object)| object.get(name)).collect();
        Field { name: name.clone(), kind: kind_of(&values), origin: Origin::Field }
    });
    Ok(Schema::new(fields.collect()).map_err(LoadError::from)?)
}

fn kind_of(values: &[&Json]) -> Kind {
    let there: Vec<&&Json> = values.iter().filter(|value| !value.is_null()).collect();
    if there.is_empty() {
        return Kind::Text;
    }
    if there.iter().all(|value| value.is_i64()) {
        Kind::I64
    } else if there.iter().all(|value| value.is_number()) {
        Kind::F64
    } else if there.iter().all(|value| value.is_boolean()) {
        Kind::Bool
    } else if there.iter().all(|value| value.is_string())
        && infer::kind_of(there.iter().filter_map(|value| value.as_str())) == Kind::Timestamp
    {
        Kind::Timestamp
    } else {
        Kind::Text
    }
}

/// The cell of a JSON value in a column of `kind`; `None` = malformed. `scratch` holds texts that had to be written.
pub fn cell<'a>(kind: Kind, value: &'a Json, scratch: &'a mut String) -> Option<Cell<'a>> {
    Some(match (kind, value) {
        (_, Json::Null) => Cell::Missing,
        (Kind::I64, Json::Number(number)) => Cell::Pattern(number.as_i64()?.cast_unsigned()),
        (Kind::F64, Json::Number(number)) => Cell::Pattern(Value::canonical(number.as_f64()?).to_bits()),
        (Kind::Bool, Json::Bool(flag)) => Cell::Pattern(u64::from(*flag)),
        (kind, Json::String(text)) => cells::read(kind, text)?,
        (Kind::Text, other) => {
            *scratch = other.to_string();
            Cell::Text(scratch)
        }
        _ => return None,
    })
}

fn append(schema: &Schema, line: u64, object: &Map<String, Json>, store: &mut Store, report: &mut Report) {
    report.rows += 1;
    let mut scratch = vec![String::new(); schema.len()];
    let cells = schema.fields().iter().zip(&mut scratch).enumerate().map(|(column, (field, scratch))| {
        match object.get(&field.name) {
            None | Some(Json::Null) => {
                report.note_missing(column);
                Cell::Missing
            }
            Some(value) => cell(field.kind, value, scratch).unwrap_or_else(|| {
                report.note_malformed(column, line, &value.to_string());
                Cell::Missing
            }),
        }
    });
    store.append(cells);
}
