//! Names nobody knows, answered with the nearest that exist.

/// `unknown fault "kil", did you mean kill? There are: …`.
#[must_use]
pub fn unknown<'a>(what: &str, name: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    let nearest = known.iter().min_by_key(|other| distance(other, name));
    let all = known.join(", ");
    match nearest {
        Some(nearest) => format!("unknown {what} {name:?}, did you mean {nearest}? There are: {all}"),
        None => format!("unknown {what} {name:?}"),
    }
}

/// Letters to insert, remove or change to make one of the other.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, letter) in one.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, other) in other.iter().enumerate() {
            let changed = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = changed.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered() {
        let text = unknown("fault", "kil", ["partition", "kill"].into_iter());
        assert_eq!(text, "unknown fault \"kil\", did you mean kill? There are: partition, kill");
    }
}
