//! Schema: which columns there are, what they hold, and where in a row they come from.
//!
//! ```text
//!   "origin:text, distance:i64, day:timestamp=key[0]"
//!    name   kind                          origin, if it is not the field of that name
//! ```
//!
//! **Invariant.** Names are unique; at least one column, at most [`COLUMNS_MAX`].

use crate::value::Kind;
use thiserror::Error;

/// More columns than this are a mistake.
pub const COLUMNS_MAX: usize = 4_096;

/// Where a column's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The field of the column's name, in a CSV row or a JSON object.
    Field,
    /// The part of the key between separators, counted from 0.
    KeyPart(u16),
    /// Bytes of a value of fixed width, big-endian: 1, 2, 4 or 8 of them for numbers, any number for text.
    Bytes {
        /// Where they begin.
        offset: u32,
        /// How many.
        width: u32,
    },
}

/// One column of a schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub kind: Kind,
    /// Where its values come from.
    pub origin: Origin,
}

/// The columns, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    fields: Vec<Field>,
}

/// What is wrong with a declared schema.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum SchemaError {
    /// No columns.
    #[error("a schema has at least one column")]
    Empty,
    /// Too many columns.
    #[error("{0} columns, more than columns_max ({COLUMNS_MAX})")]
    TooMany(usize),
    /// The same name twice.
    #[error("the column `{0}` is declared twice")]
    Twice(String),
    /// Not `name:kind` or `name:kind=origin`.
    #[error("`{0}` is not `name:kind`: the kinds are i64, f64, bool, timestamp, text")]
    Malformed(String),
    /// Not an origin.
    #[error("`{0}` is not an origin: `key[N]` or `bytes[OFFSET..END]`")]
    Origin(String),
}

impl Schema {
    /// A schema of these columns.
    ///
    /// # Errors
    /// If there is none, too many, or a name twice.
    pub fn new(fields: Vec<Field>) -> Result<Self, SchemaError> {
        if fields.is_empty() {
            return Err(SchemaError::Empty);
        }
        if fields.len() > COLUMNS_MAX {
            return Err(SchemaError::TooMany(fields.len()));
        }
        let mut names: Vec<&str> = fields.iter().map(|field| field.name.as_str()).collect();
        names.sort_unstable();
        if let Some(pair) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(SchemaError::Twice(pair[0].to_owned()));
        }
        Ok(Schema { fields })
    }

    /// A schema of named fields.
    ///
    /// # Errors
    /// As [`Schema::new`].
    pub fn of<'a>(columns: impl IntoIterator<Item = (&'a str, Kind)>) -> Result<Self, SchemaError> {
        let field = |(name, kind): (&str, Kind)| Field { name: name.to_owned(), kind, origin: Origin::Field };
        Schema::new(columns.into_iter().map(field).collect())
    }

    /// Reads `name:kind, name:kind=origin, …`.
    ///
    /// # Errors
    /// Names the part that is none.
    pub fn parse(text: &str) -> Result<Self, SchemaError> {
        Schema::new(text.split(',').map(|part| parse_field(part.trim())).collect::<Result<_, _>>()?)
    }

    /// The columns.
    #[must_use]
    pub fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// How many columns.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    /// Never: a schema has columns.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    /// The place of the column with this name; names are matched as they are, then without regard to case.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<usize> {
        let exact = self.fields.iter().position(|field| field.name == name);
        exact.or_else(|| self.fields.iter().position(|field| field.name.eq_ignore_ascii_case(name)))
    }
}

fn parse_field(text: &str) -> Result<Field, SchemaError> {
    let malformed = || SchemaError::Malformed(text.to_owned());
    let (name, rest) = text.split_once(':').ok_or_else(malformed)?;
    let (word, origin) = match rest.split_once('=') {
        Some((word, origin)) => (word.trim(), parse_origin(origin.trim())?),
        None => (rest.trim(), Origin::Field),
    };
    let kind = Kind::ALL.into_iter().find(|kind| kind.word() == word).ok_or_else(malformed)?;
    let name = name.trim();
    if name.is_empty() {
        return Err(malformed());
    }
    Ok(Field { name: name.to_owned(), kind, origin })
}

fn parse_origin(text: &str) -> Result<Origin, SchemaError> {
    let unknown = || SchemaError::Origin(text.to_owned());
    let (word, inside) = text.strip_suffix(']').and_then(|text| text.split_once('[')).ok_or_else(unknown)?;
    match word {
        "key" => inside.parse().map(Origin::KeyPart).map_err(|_| unknown()),
        "bytes" => {
            let (offset, end) = inside.split_once("..").ok_or_else(unknown)?;
            let (offset, end): (u32, u32) =
                (offset.parse().map_err(|_| unknown())?, end.parse().map_err(|_| unknown())?);
            let width = end.checked_sub(offset).filter(|width| *width > 0).ok_or_else(unknown)?;
            Ok(Origin::Bytes { offset, width })
        }
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_declared_schema_is_read() {
        let schema = Schema::parse("origin:text, distance: i64,day:timestamp=key[0],n:i64=bytes[4..8]").unwrap();
        assert_eq!(schema.len(), 4);
        assert_eq!(schema.find("distance"), Some(1));
        assert_eq!(schema.find("DISTANCE"), Some(1));
        assert_eq!(schema.fields()[2].origin, Origin::KeyPart(0));
        assert_eq!(schema.fields()[3].origin, Origin::Bytes { offset: 4, width: 4 });
    }

    #[test]
    fn what_is_no_schema_is_refused_by_name() {
        for (text, word) in [
            ("", "``"),
            ("a", "`a`"),
            ("a:int", "`a:int`"),
            ("a:i64,a:f64", "declared twice"),
            ("a:i64=value", "`value`"),
            ("a:i64=bytes[4..4]", "`bytes[4..4]`"),
            (":i64", "`:i64`"),
        ] {
            let error = Schema::parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}
