//! Keyed: rows of a keyspace, from the parts of their key and their value.
//!
//! ```text
//!   key    2013-07-04/UA/1545        parts between `/`
//!   value  {"origin": "JFK", …}      fields; or bytes at fixed places, big-endian
//! ```
//!
//! **Invariant.** A part, field or byte that is not there is missing; one that does not read as its kind is malformed,
//! which is missing and said so. No key and no value makes it panic.

use super::{cells, json};
use crate::{
    chunk::Cell,
    schema::{Field, Origin, Schema},
    store::{RowPlace, Store},
    value::{Kind, Value},
};
use serde_json::{Map, Value as Json};

/// What a row came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Where it is.
    pub place: RowPlace,
    /// How many of its cells were malformed.
    pub malformed: u32,
}

/// Appends the row of one key and its value.
pub fn append(store: &mut Store, separator: u8, key: &[u8], value: &[u8]) -> Appended {
    let schema = store.schema().clone();
    let object = needs_object(&schema).then(|| serde_json::from_slice::<Map<String, Json>>(value).ok()).flatten();
    let is_no_object = needs_object(&schema) && object.is_none();
    let mut scratch = vec![String::new(); schema.len()];
    let mut malformed = 0;
    let cells: Vec<Cell<'_>> = schema
        .fields()
        .iter()
        .zip(&mut scratch)
        .map(|(field, scratch)| {
            let cell = match &field.origin {
                Origin::Field if is_no_object => None,
                Origin::Field => match object.as_ref().and_then(|object| object.get(&field.name)) {
                    None => Some(Cell::Missing),
                    Some(value) => json::cell(field.kind, value, scratch),
                },
                Origin::KeyPart(part) => match key.split(|byte| *byte == separator).nth(usize::from(*part)) {
                    None => Some(Cell::Missing),
                    Some(text) => std::str::from_utf8(text).ok().and_then(|text| cells::read(field.kind, text)),
                },
                Origin::Bytes { offset, width } => fixed(field, value, (*offset, *width)),
            };
            malformed += u32::from(cell.is_none());
            cell.unwrap_or(Cell::Missing)
        })
        .collect();
    Appended { place: store.append(cells), malformed }
}

fn needs_object(schema: &Schema) -> bool {
    schema.fields().iter().any(|field| field.origin == Origin::Field)
}

/// Bytes at a fixed place. Whole numbers are two's complement of 1, 2, 4 or 8 bytes, f64 of 4 or 8.
fn fixed<'a>(field: &Field, value: &'a [u8], (offset, width): (u32, u32)) -> Option<Cell<'a>> {
    let start = offset as usize;
    let Some(bytes) = value.get(start..start.saturating_add(width as usize)) else { return Some(Cell::Missing) };
    let whole = || {
        Some(match bytes {
            [one] => i64::from(one.cast_signed()),
            [a, b] => i64::from(i16::from_be_bytes([*a, *b])),
            [a, b, c, d] => i64::from(i32::from_be_bytes([*a, *b, *c, *d])),
            bytes => i64::from_be_bytes(bytes.try_into().ok()?),
        })
    };
    Some(match field.kind {
        Kind::I64 | Kind::Timestamp => Cell::Pattern(whole()?.cast_unsigned()),
        Kind::Bool => Cell::Pattern(u64::from(whole()? != 0)),
        Kind::F64 => {
            let number = match bytes {
                [a, b, c, d] => f64::from(f32::from_be_bytes([*a, *b, *c, *d])),
                bytes => f64::from_be_bytes(bytes.try_into().ok()?),
            };
            Cell::Pattern(Value::canonical(number).to_bits())
        }
        Kind::Text => Cell::Text(std::str::from_utf8(bytes).ok()?.trim_end_matches('\0')),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(store: &Store, row: usize) -> Vec<Value> {
        store.chunks()[0].columns().iter().map(|column| column.get(row)).collect()
    }

    #[test]
    fn columns_come_from_fields_and_from_parts_of_the_key() {
        let mut store = Store::new(Schema::parse("day:timestamp=key[0],flight:i64=key[2],origin:text").unwrap());
        let sound = append(&mut store, b'/', b"2013-07-04/UA/1545", br#"{"origin": "JFK"}"#);
        let strange = append(&mut store, b'/', b"soon/UA", b"no object");
        assert_eq!((sound.malformed, strange.malformed), (0, 2));
        let day = Value::Timestamp(crate::timestamp::parse("2013-07-04").unwrap());
        assert_eq!(row(&store, 0), [day, Value::I64(1545), Value::Text("JFK".into())]);
        assert_eq!(row(&store, 1), [Value::Missing, Value::Missing, Value::Missing]);
    }

    #[test]
    fn columns_come_from_bytes_at_fixed_places() {
        let mut store = Store::new(Schema::parse("a:i64=bytes[0..2],b:f64=bytes[2..10],c:text=bytes[10..14]").unwrap());
        let mut value = vec![0xFF, 0xFE];
        value.extend(2.5_f64.to_be_bytes());
        value.extend(b"ab\0\0");
        assert_eq!(append(&mut store, b'/', b"k", &value).malformed, 0);
        append(&mut store, b'/', b"k", &value[..5]);
        assert_eq!(row(&store, 0), [Value::I64(-2), Value::F64(2.5), Value::Text("ab".into())]);
        assert_eq!(row(&store, 1), [Value::I64(-2), Value::Missing, Value::Missing]);
    }

    #[test]
    fn fuzz_no_key_and_no_value_makes_it_panic() {
        let schema = Schema::parse("a:i64=bytes[0..3],b:f64=bytes[1..9],c:text=key[1],d:bool,e:text").unwrap();
        bolero::check!().with_iterations(500).with_max_len(40).for_each(|input: &[u8]| {
            let mut store = Store::new(schema.clone());
            let (key, value) = input.split_at(input.len() / 2);
            append(&mut store, b'/', key, value);
            append(&mut store, b'/', value, &[br#"{"d":true,"e":"#.as_slice(), key, b"}"].concat());
            assert_eq!(store.rows(), 2);
        });
    }
}
