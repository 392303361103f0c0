//! Forecasts and figures as bytes.
//!
//! ```text
//!   forecast │ count │ (shard (8) │ wish │ bytes? │ spare before (4) │ spare meanwhile (4)) … │ count │ held up …
//!   figures  │ count │ (shard (8) │ bytes (8)) …
//! ```
//!
//! **Invariant.** Decoding takes any bytes without a panic.

use super::{
    codec::text,
    forecast::{Forecast, Foreseen},
    wire::{option, put_option},
    wire_command::{operator_wish, put_operator_wish},
};
use kvorum_api::ShardId;
use kvorum_storage::{
    StorageError,
    codec::{Reader, Writer},
};
use std::collections::BTreeMap;

pub(super) fn put_forecast(writer: &mut Writer, forecast: &Forecast) {
    writer.count(forecast.moves.len());
    for foreseen in &forecast.moves {
        writer.u64(foreseen.shard.0);
        put_operator_wish(writer, foreseen.wish);
        put_option(writer, foreseen.bytes.as_ref(), |writer, bytes| writer.u64(*bytes));
        writer.u32(foreseen.spare_before);
        writer.u32(foreseen.spare_meanwhile);
    }
    writer.count(forecast.held_up.len());
    forecast.held_up.iter().for_each(|why| writer.bytes(why.as_bytes()));
}

pub(super) fn forecast(reader: &mut Reader) -> Result<Forecast, StorageError> {
    let mut moves = Vec::new();
    for _ in 0..reader.count(26)? {
        moves.push(Foreseen {
            shard: ShardId(reader.u64()?),
            wish: operator_wish(reader)?,
            bytes: option(reader, Reader::u64)?,
            spare_before: reader.u32()?,
            spare_meanwhile: reader.u32()?,
        });
    }
    let mut held_up = Vec::new();
    for _ in 0..reader.count(4)? {
        held_up.push(text(reader)?);
    }
    Ok(Forecast { moves, held_up })
}

pub(super) fn put_figures(writer: &mut Writer, figures: &BTreeMap<ShardId, u64>) {
    writer.count(figures.len());
    for (shard, bytes) in figures {
        writer.u64(shard.0);
        writer.u64(*bytes);
    }
}

pub(super) fn figures(reader: &mut Reader) -> Result<BTreeMap<ShardId, u64>, StorageError> {
    let count = reader.count(16)?;
    (0..count).map(|_| Ok((ShardId(reader.u64()?), reader.u64()?))).collect()
}
