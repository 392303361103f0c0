//! `kvctl correlate`: how the columns of a file move together.

use super::{aggregate::table, read, usage};
use crate::{
    args::{Correlate, Form, Globals, Kernel, Measure},
    output::{Output, Stdout},
};
use kvorum_analytics::{
    answer::Answer,
    correlate::{Matrix, Measure as Of, Series, matrix_by_loop},
    store::Store,
    value::{Kind, Value},
};
use std::process::ExitCode;

pub fn run(globals: &Globals, output: &Output, correlate: &Correlate) -> anyhow::Result<ExitCode> {
    let computer = Computer::new(correlate)?;
    let store = read(&correlate.source, output)?;
    let columns = columns(&store, &correlate.columns)?;
    let named: Vec<(usize, &str)> = columns.iter().map(|(index, name)| (*index, name.as_str())).collect();
    let chunks = store.chunks();
    let series = Series::of_chunks(&chunks, &named).map_err(usage)?;
    let measure = if correlate.of == Measure::Returns { Of::Returns } else { Of::Levels };
    let labels = labels(&store);
    let series = series.measured(measure);
    let window = correlate.window.unwrap_or(series.rows());
    let step = correlate.step.map_or(series.rows(), |step| step as usize);
    let starts = series.windows(window, step).map_err(usage)?;
    // A return belongs to the row it leads to.
    let shift = usize::from(measure == Of::Returns);
    let mut rows = Vec::new();
    for first in starts {
        let matrix = computer.matrix(&series, first, window)?;
        let label = labels.get(first + window - 1 + shift).cloned().unwrap_or(Value::I64((first + window) as i64));
        rows.extend(rows_of(&matrix, &named, correlate.step.map(|_| label)));
    }
    let mut names: Vec<String> = correlate.step.map(|_| "until".to_owned()).into_iter().collect();
    names.push("series".to_owned());
    names.extend(named.iter().map(|(_, name)| (*name).to_owned()));
    let answer = Answer::of_rows(names, rows);
    match globals.output {
        Form::Json => output.json(&answer.json())?,
        Form::Table | Form::Raw => {
            let mut stdout = Stdout::new();
            stdout.line(&table(&rounded(&answer)))?;
            stdout.flush()?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Who multiplies.
enum Computer {
    Cpu(usize),
    Scalar,
}

impl Computer {
    fn new(correlate: &Correlate) -> anyhow::Result<Computer> {
        let threads = correlate.threads.map(usize::from);
        let threads = threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
        match correlate.executor {
            // A matrix of files is small: what a GPU gains is less than waking it up.
            Kernel::Auto | Kernel::Cpu => Ok(Computer::Cpu(threads)),
            Kernel::Scalar => Ok(Computer::Scalar),
            Kernel::Cuda => Err(usage("--executor cuda: there is no kernel for correlations on a GPU")),
        }
    }

    fn matrix(&self, series: &Series, first: usize, rows: usize) -> anyhow::Result<Matrix> {
        match self {
            Computer::Cpu(threads) => Ok(series.matrix(first, rows, *threads)),
            Computer::Scalar => Ok(matrix_by_loop(series, first, rows)),
        }
    }
}

/// The columns to correlate: those named, or all of numbers.
fn columns(store: &Store, wanted: &[String]) -> anyhow::Result<Vec<(usize, String)>> {
    let fields = store.schema().fields();
    if wanted.is_empty() {
        let numbers = fields.iter().enumerate().filter(|(_, field)| matches!(field.kind, Kind::I64 | Kind::F64));
        return Ok(numbers.map(|(index, field)| (index, field.name.clone())).collect());
    }
    wanted
        .iter()
        .map(|name| {
            let index = store.schema().find(name.trim());
            let index = index.ok_or_else(|| usage(format!("--columns: there is no column `{name}`")))?;
            Ok((index, fields[index].name.clone()))
        })
        .collect()
}

/// The first column of timestamps says when a row is.
fn labels(store: &Store) -> Vec<Value> {
    let Some(column) = store.schema().fields().iter().position(|field| field.kind == Kind::Timestamp) else {
        return Vec::new();
    };
    let chunks = store.chunks();
    chunks.iter().flat_map(|chunk| (0..chunk.rows()).map(|row| chunk.columns()[column].get(row))).collect()
}

fn rows_of(matrix: &Matrix, named: &[(usize, &str)], label: Option<Value>) -> Vec<Vec<Value>> {
    let row = |(one, (_, name)): (usize, &(usize, &str))| {
        let cells = (0..named.len()).map(|other| matrix.get(one, other).map_or(Value::Missing, Value::F64));
        label.iter().cloned().chain([Value::Text((*name).into())]).chain(cells).collect()
    };
    named.iter().enumerate().map(row).collect()
}

/// Four digits are what people compare; JSON keeps all.
fn rounded(answer: &Answer) -> Answer {
    let round = |value: &Value| match value {
        Value::F64(number) => Value::Text(format!("{number:.4}").into()),
        other => other.clone(),
    };
    let rows = answer.rows().iter().map(|row| row.iter().map(round).collect()).collect();
    Answer::of_rows(answer.names().to_vec(), rows)
}
