//! Scalar: one row after the other, the way one would explain it. The specification of every kernel.
//!
//! **Deliberately absent.** Speed. What makes this faster belongs into another kernel, so that this one stays obvious.

use super::{Cost, Kernel, ScanError};
use crate::{
    aggregate::{Group, Partial, State, check_groups, states},
    chunk::Chunk,
    limits::Limits,
    query::Query,
    value::Value,
};
use std::{collections::BTreeMap, sync::Arc};

/// The reference kernel.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scalar;

impl Kernel for Scalar {
    fn name(&self) -> &'static str {
        "scalar"
    }

    fn scan(&self, query: &Query, chunks: &[Arc<Chunk>], limits: &Limits) -> Result<(Partial, Cost), ScanError> {
        let mut groups: BTreeMap<Vec<Value>, Vec<State>> = BTreeMap::new();
        if query.groups.is_empty() {
            groups.insert(Vec::new(), states(query));
        }
        let (mut cost, columns) = (Cost::default(), query.columns());
        for chunk in chunks {
            cost.rows += chunk.rows() as u64;
            cost.bytes += columns.iter().map(|column| chunk.columns()[*column].bytes() as u64).sum::<u64>();
            cost.chunks_read += 1;
            let is_alive = |row: &usize| chunk.deleted().is_none_or(|deleted| !deleted.contains(*row));
            for row in (0..chunk.rows()).filter(is_alive) {
                if let Some(filter) = &query.filter
                    && filter.value(chunk, row)? != Value::Bool(true)
                {
                    continue;
                }
                let key: Vec<Value> = query.groups.iter().map(|column| chunk.columns()[*column].get(row)).collect();
                let group = groups.entry(key).or_insert_with(|| states(query));
                for (aggregate, state) in query.aggregates.iter().zip(group) {
                    let arguments: Result<Vec<Value>, _> =
                        aggregate.arguments.iter().map(|argument| argument.value(chunk, row)).collect();
                    state.add(&arguments?, limits)?;
                }
                check_groups(groups.len(), limits)?;
            }
        }
        let groups = groups.into_iter().map(|(key, states)| Group { key, states }).collect();
        Ok((Partial::of_groups(groups), cost))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::suite;

    #[test]
    fn the_scalar_kernel_passes_the_suite() {
        suite::check(&Scalar);
    }
}
