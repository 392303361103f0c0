//! Cells of one run as a table: medians, their spread, and ratios that can be defended.

use crate::cell::{Cell, Operation};
use comfy_table::{Table, presets::ASCII_MARKDOWN};
use std::collections::BTreeMap;

/// What cells are compared by.
type Row = (&'static str, usize, usize);

/// Repetitions below which nothing is compared: two points always lie apart.
pub const REPETITIONS_MIN: usize = 3;

/// Median, smallest, largest.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Spread {
    count: usize,
    median: f64,
    low: f64,
    high: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let last = values.len() - 1;
        Spread {
            count: values.len(),
            median: (values[last / 2] + values[last.div_ceil(2)]) / 2.0,
            low: values[0],
            high: values[last],
        }
    }

    /// How many times the other this is, or why that cannot be said.
    fn over(self, other: Spread) -> String {
        let is_apart = self.low > other.high || self.high < other.low;
        match self.count.min(other.count) {
            0..REPETITIONS_MIN => format!("under {REPETITIONS_MIN} runs"),
            _ if !is_apart => "overlap".to_owned(),
            _ => format!("{:.2}", self.median / other.median),
        }
    }

    fn text(self) -> String {
        format!("{} [{}, {}]", round(self.median), round(self.low), round(self.high))
    }
}

fn round(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// One line per operation, clients, batch and driver, in the order in which they ran.
pub fn table(cells: &[Cell]) -> String {
    let mut groups: Vec<(Row, &'static str, Vec<&Cell>)> = Vec::new();
    for cell in cells {
        let operation = match cell.operation {
            Operation::Put => "put",
            Operation::Get => "get",
        };
        let row = (operation, cell.clients, cell.batch);
        match groups.iter_mut().find(|(known, driver, _)| (*known, *driver) == (row, cell.driver)) {
            Some((.., group)) => group.push(cell),
            None => groups.push((row, cell.driver, vec![cell])),
        }
    }
    let spread = |group: &[&Cell], of: fn(&Cell) -> f64| Spread::of(group.iter().map(|cell| of(cell)).collect());
    let per_cpu: fn(&Cell) -> f64 = |cell| cell.operations_per_server_cpu_second.unwrap_or(0.0);
    let p50: fn(&Cell) -> f64 = |cell| cell.p50_us as f64;
    let etcd: BTreeMap<Row, (Spread, Spread)> = groups
        .iter()
        .filter(|(_, driver, _)| *driver == "etcd")
        .map(|(row, _, group)| (*row, (spread(group, per_cpu), spread(group, p50))))
        .collect();
    let mut table = Table::new();
    table.load_style(ASCII_MARKDOWN);
    table.set_header([
        "operation",
        "clients",
        "batch",
        "driver",
        "ops/s",
        "ops per server CPU s",
        "× etcd",
        "p50 µs",
        "× etcd",
        "p99 µs",
        "generator busy",
    ]);
    for (row, driver, group) in &groups {
        let (by_cpu, by_p50) = (spread(group, per_cpu), spread(group, p50));
        let ratio = |mine: Spread, theirs: Option<Spread>| match theirs {
            _ if *driver == "etcd" => "1".to_owned(),
            Some(theirs) => mine.over(theirs),
            None => String::new(),
        };
        let theirs = etcd.get(row);
        table.add_row([
            row.0.to_owned(),
            row.1.to_string(),
            row.2.to_string(),
            (*driver).to_owned(),
            spread(group, |cell| cell.operations_per_second).text(),
            by_cpu.text(),
            ratio(by_cpu, theirs.map(|(cpu, _)| *cpu)),
            by_p50.text(),
            ratio(by_p50, theirs.map(|(_, p50)| *p50)),
            spread(group, |cell| cell.p99_us as f64).text(),
            spread(group, |cell| cell.generator_busy).text(),
        ]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_that_overlap_have_no_ratio() {
        let slow = Spread::of(vec![10.0, 12.0, 11.0]);
        assert_eq!(slow, Spread { count: 3, median: 11.0, low: 10.0, high: 12.0 });
        assert_eq!(Spread::of(vec![22.0, 24.0, 23.0]).over(slow), "2.09");
        assert_eq!(Spread::of(vec![12.0, 30.0, 20.0]).over(slow), "overlap");
        assert_eq!(Spread::of(vec![22.0, 24.0]).over(slow), "under 3 runs", "two points always lie apart");
    }
}
