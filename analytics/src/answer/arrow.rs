//! Arrow: an answer as an Arrow IPC stream, for whatever reads columns.
//!
//! **Invariant.** A column's type follows its values: Int64, Decimal128 where a sum exceeds 64 bits, Float64, Boolean,
//! Timestamp in microseconds UTC, Utf8; lists are Utf8 holding JSON. A column without any value is Utf8.

use super::{Answer, text_of};
use crate::value::Value;
use arrow_array::{
    ArrayRef, BooleanArray, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{Field, Schema};
use std::{io::Write, sync::Arc};
use thiserror::Error;

/// Why no stream was written.
#[derive(Debug, Error)]
#[error("writing arrow: {0}")]
pub struct ArrowError(#[from] arrow_schema::ArrowError);

impl Answer {
    /// Writes an Arrow IPC stream of one batch.
    ///
    /// # Errors
    /// If writing fails.
    pub fn write_arrow(&self, out: impl Write) -> Result<(), ArrowError> {
        let columns: Vec<ArrayRef> =
            (0..self.names.len()).map(|column| self.array(column)).collect::<Result<_, _>>()?;
        let fields: Vec<Field> = self
            .names
            .iter()
            .zip(&columns)
            .map(|(name, array)| Field::new(name, array.data_type().clone(), true))
            .collect();
        let schema = Arc::new(Schema::new(fields));
        let mut writer = StreamWriter::try_new(out, &schema)?;
        if !columns.is_empty() {
            writer.write(&RecordBatch::try_new(schema, columns)?)?;
        }
        writer.finish()?;
        Ok(())
    }

    fn array(&self, column: usize) -> Result<ArrayRef, ArrowError> {
        let values = || self.rows.iter().map(|row| &row[column]);
        let there = || values().filter(|value| !value.is_missing());
        let is_all = |test: fn(&Value) -> bool| there().next().is_some() && there().all(test);
        Ok(if is_all(|value| matches!(value, Value::I64(_))) {
            Arc::new(
                values().map(|value| if let Value::I64(n) = value { Some(*n) } else { None }).collect::<Int64Array>(),
            )
        } else if is_all(|value| matches!(value, Value::I64(_) | Value::Wide(_))) {
            let wide = |value: &Value| match value {
                Value::I64(number) => Some(i128::from(*number)),
                Value::Wide(number) => Some(*number),
                _ => None,
            };
            Arc::new(values().map(wide).collect::<Decimal128Array>().with_precision_and_scale(38, 0)?)
        } else if is_all(|value| matches!(value, Value::F64(_))) {
            let number = |value: &Value| if let Value::F64(number) = value { Some(*number) } else { None };
            Arc::new(values().map(number).collect::<Float64Array>())
        } else if is_all(|value| matches!(value, Value::Bool(_))) {
            let flag = |value: &Value| if let Value::Bool(flag) = value { Some(*flag) } else { None };
            Arc::new(values().map(flag).collect::<BooleanArray>())
        } else if is_all(|value| matches!(value, Value::Timestamp(_))) {
            let micros = |value: &Value| if let Value::Timestamp(micros) = value { Some(*micros) } else { None };
            Arc::new(values().map(micros).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        } else {
            let text = |value: &Value| (!value.is_missing()).then(|| text_of(value));
            Arc::new(values().map(text).collect::<StringArray>())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow_array::{Array as _, cast::AsArray as _, types::Int64Type};
    use arrow_ipc::reader::StreamReader;

    #[test]
    fn a_stream_is_read_back_with_its_types() {
        let names = ["t", "n", "wide", "x", "at", "none"].map(str::to_owned).to_vec();
        let row = vec![
            Value::Text("JFK".into()),
            Value::I64(7),
            Value::Wide(1 << 70),
            Value::F64(0.5),
            Value::Timestamp(1_000_000),
            Value::Missing,
        ];
        let mut bytes = Vec::new();
        Answer::of_rows(names, vec![row, vec![Value::Missing; 6]]).write_arrow(&mut bytes).unwrap();
        let batch = StreamReader::try_new(&bytes[..], None).unwrap().next().unwrap().unwrap();
        let types: Vec<String> = batch.schema().fields().iter().map(|field| field.data_type().to_string()).collect();
        assert_eq!((batch.num_rows(), types.len()), (2, 6));
        assert_eq!(types[..4], ["Utf8", "Int64", "Decimal128(38, 0)", "Float64"]);
        let numbers = batch.column(1).as_primitive::<Int64Type>();
        assert_eq!((numbers.value(0), numbers.is_null(1)), (7, true));
    }
}
