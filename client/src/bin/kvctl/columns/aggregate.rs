//! `kvctl aggregate`: a question about a file, answered from columns.

use super::{read, usage};
use crate::{
    args::{Aggregate, AnswerForm, Form, Globals, Kernel},
    exit::complain,
    output::{Output, Stdout},
};
use anyhow::Context as _;
use comfy_table::{CellAlignment, Table, presets};
use kvorum_analytics::{
    answer::{Answer, text_of},
    chunk::write_chunks,
    executor::{Choice, ExecuteError, Executor, Explain, open_device},
    kernel::Cpu,
    limits::Limits,
    query::{Query, Text},
    store::Store,
    value::Value,
};
use std::{fs::File, io::BufWriter, io::Write as _, path::Path, process::ExitCode, time::Duration};
use tokio::time::Instant;

pub fn run(globals: &Globals, output: &Output, aggregate: &Aggregate) -> anyhow::Result<ExitCode> {
    if aggregate.form.is_some() && globals.output == Form::Json {
        return Err(usage("--as and -o json ask for two forms at once: leave one out"));
    }
    let start = Instant::now();
    let executor = executor(aggregate);
    let store = read(&aggregate.source, output)?;
    let loaded = start.elapsed();
    if let Some(path) = &aggregate.keep {
        keep(&store, path).with_context(|| path.display().to_string())?;
    }
    let limits = Limits::default();
    let (filter, groups) = (aggregate.filter.as_deref(), aggregate.group_by.as_deref());
    let text = Text { aggregates: &aggregate.aggregates, filter, groups };
    let query = Query::parse(text, store.schema(), &limits).map_err(usage)?;
    let choice = choice(aggregate.executor);
    let chunks = store.chunks();
    let outcome = executor.execute((store.schema(), &chunks), &query, choice, &limits, &|| start.elapsed());
    let (answer, explain) = outcome.map_err(|error: ExecuteError| usage(error))?;
    print(globals, output, aggregate, &answer)?;
    if aggregate.explain {
        complain(&explanation(&explain, chunks.len(), loaded));
    }
    Ok(ExitCode::SUCCESS)
}

fn choice(kernel: Kernel) -> Choice {
    match kernel {
        Kernel::Auto => Choice::Auto,
        Kernel::Cuda => Choice::Cuda,
        Kernel::Cpu => Choice::Cpu,
        Kernel::Scalar => Choice::Scalar,
    }
}

fn executor(aggregate: &Aggregate) -> Executor {
    let cpu = aggregate.threads.map_or_else(Cpu::default, |threads| Cpu::new(usize::from(threads)));
    // The driver is not even looked for by those who do not want it: it takes a third of a second to wake up.
    let device = match aggregate.executor {
        Kernel::Auto | Kernel::Cuda => open_device(),
        Kernel::Cpu | Kernel::Scalar => Err("not asked for".to_owned()),
    };
    Executor::new(cpu, device)
}

fn keep(store: &Store, path: &Path) -> anyhow::Result<()> {
    let mut out = BufWriter::new(File::create(path)?);
    write_chunks(&mut out, store.schema(), &store.chunks())?;
    out.flush()?;
    out.into_inner()?.sync_all()?;
    Ok(())
}

fn print(globals: &Globals, output: &Output, aggregate: &Aggregate, answer: &Answer) -> anyhow::Result<()> {
    match (aggregate.form, globals.output) {
        (Some(AnswerForm::Csv), _) => {
            let mut bytes = Vec::new();
            answer.write_csv(&mut bytes)?;
            output.raw(&bytes)
        }
        (Some(AnswerForm::Arrow), _) => {
            let mut bytes = Vec::new();
            answer.write_arrow(&mut bytes)?;
            output.raw(&bytes)
        }
        (None, Form::Json) => output.json(&answer.json()),
        (None, Form::Table | Form::Raw) => {
            let mut stdout = Stdout::new();
            stdout.line(&table(answer))?;
            stdout.flush()
        }
    }
}

/// Numbers to the right, under names.
pub fn table(answer: &Answer) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(answer.names());
    for row in answer.rows() {
        table.add_row(row.iter().map(|value| if value.is_missing() { "-".to_owned() } else { text_of(value) }));
    }
    for (index, column) in table.column_iter_mut().enumerate() {
        let is_number = |row: &Vec<Value>| matches!(row[index], Value::I64(_) | Value::Wide(_) | Value::F64(_));
        if answer.rows().iter().any(is_number) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

fn explanation(explain: &Explain, chunks: usize, loaded: Duration) -> String {
    let cost = explain.cost;
    let mut lines = vec![
        format!("executor  {} ({})", explain.executor, explain.reason),
        format!("rows      {} in {} of {chunks} chunks, {} skipped", cost.rows, cost.chunks_read, cost.chunks_skipped),
        format!("bytes     {}", cost.bytes),
    ];
    lines.extend(explain.fallbacks.iter().map(|fallback| format!("fell back from {fallback}")));
    let stages = std::iter::once(("load", loaded)).chain(explain.stages.iter().copied());
    let stages: Vec<String> =
        stages.map(|(name, took)| format!("{name} {:.3} ms", took.as_secs_f64() * 1_000.0)).collect();
    lines.push(format!("time      {}", stages.join(" · ")));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_value_is_a_dash_and_numbers_stand_to_the_right() {
        let names = vec!["carrier".to_owned(), "n".to_owned()];
        let rows = vec![vec![Value::Text("UA".into()), Value::I64(5)], vec![Value::Missing, Value::I64(1_000)]];
        let text = table(&Answer::of_rows(names, rows));
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!(lines.len(), 3);
        assert!(lines[1].starts_with("UA") && lines[1].ends_with("   5"), "{text}");
        assert!(lines[2].starts_with('-') && lines[2].ends_with("1000"), "{text}");
    }
}
