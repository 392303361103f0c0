//! Names nobody knows, answered with the nearest that exist.

use crate::spelling::distance;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_offered() {
        let text = unknown("fault", "kil", ["partition", "kill"].into_iter());
        assert_eq!(text, "unknown fault \"kil\", did you mean kill? There are: partition, kill");
    }
}
