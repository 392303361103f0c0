//! Writes a history of perfect registers to a file: 100,000 operations of 8 clients on 100 keys, or as many as named.
//!
//! ```text
//!   cargo run -p kvorum-jepsen --example invent_history -- FILE [OPERATIONS [SWAPS_PERCENT]]
//! ```

use anyhow::{Context, Result};
use kvorum_jepsen::history::{Shape, invent, write_jsonl};
use std::{fs::File, io::BufWriter};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let file = arguments.next().context("name the file to write")?;
    let mut number = |otherwise: u32| arguments.next().map_or(Ok(otherwise), |text| text.parse());
    let operations = number(100_000)? as usize;
    let swaps_percent = number(0)?;
    let values_max = if swaps_percent > 0 { Some(5) } else { None };
    let shape = Shape { operations, keys: 100, clients: 8, swaps_percent, unknown_percent: 0, values_max };
    let mut writer = BufWriter::new(File::create(&file).with_context(|| file.clone())?);
    write_jsonl(&mut writer, &invent(1, shape))?;
    Ok(())
}
