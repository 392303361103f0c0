//! Infer: the kind of a column from a sample of its texts.
//!
//! ```text
//!   all whole numbers → i64 │ all numbers → f64 │ all true or false → bool │ all timestamps → timestamp │ else text
//! ```
//!
//! **Invariant.** The narrowest kind that every text of the sample reads as. A column without values is text.

use super::cells::read;
use crate::value::Kind;

/// In this order: what reads as a whole number would also read as f64.
const CANDIDATES: [Kind; 4] = [Kind::I64, Kind::F64, Kind::Bool, Kind::Timestamp];

/// The kind of texts.
pub fn kind_of<'a>(texts: impl Iterator<Item = &'a str>) -> Kind {
    let mut possible = CANDIDATES.to_vec();
    let mut is_empty = true;
    for text in texts {
        is_empty = false;
        possible.retain(|kind| read(*kind, text).is_some());
        if possible.is_empty() {
            return Kind::Text;
        }
    }
    if is_empty { Kind::Text } else { possible.first().copied().unwrap_or(Kind::Text) }
}
