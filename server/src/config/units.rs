//! Durations and sizes as people write them: `250ms`, `64MiB`.
//!
//! **Invariant.** A number without its unit is refused: `30` never silently means seconds to one reader and
//! milliseconds to another.

use std::time::Duration;

/// Units of a duration, with their length in milliseconds.
const DURATION_UNITS: &[(&str, u64)] =
    &[("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 24 * 3_600_000)];

/// Units of a size, with their length in bytes. Powers of two and powers of ten are told apart by their names.
const SIZE_UNITS: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

/// Reads a duration: a whole number and one of `ms s m h d`.
///
/// # Errors
/// What is wrong with it and how to write it.
pub fn duration(text: &str) -> Result<Duration, String> {
    scaled(text, DURATION_UNITS, "\"250ms\", \"5s\" or \"24h\"").map(Duration::from_millis)
}

/// Reads a duration that may be negative, in milliseconds: `-10s`.
///
/// # Errors
/// What is wrong with it and how to write it.
pub fn signed_duration_ms(text: &str) -> Result<i64, String> {
    let (is_negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let ms = scaled(rest, DURATION_UNITS, "\"10s\" or \"-250ms\"")?;
    let ms = i64::try_from(ms).map_err(|_| format!("{text:?} is too large"))?;
    Ok(if is_negative { -ms } else { ms })
}

/// Reads a size: a whole number and one of `B KiB MiB GiB TiB kB MB GB TB`.
///
/// # Errors
/// What is wrong with it and how to write it.
pub fn size(text: &str) -> Result<u64, String> {
    scaled(text, SIZE_UNITS, "\"64MiB\" or \"4096B\"")
}

fn scaled(text: &str, units: &[(&str, u64)], example: &str) -> Result<u64, String> {
    let names = || units.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(format!("{text:?} does not begin with a whole number: write {example}"));
    }
    let unit = unit.trim_start();
    let Some((_, length)) = units.iter().find(|(name, _)| *name == unit) else {
        return Err(if unit.is_empty() {
            format!("{text:?} has no unit (one of {}): write {example}", names())
        } else {
            format!("{text:?} has the unknown unit {unit:?} (use one of {}): write {example}", names())
        });
    };
    let number: Option<u64> = number.parse().ok();
    number.and_then(|number| number.checked_mul(*length)).ok_or_else(|| format!("{text:?} is too large"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_people_write() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2 h"), Ok(Duration::from_secs(7_200)));
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("1GB"), Ok(1_000_000_000));
        assert_eq!(signed_duration_ms("-10s"), Ok(-10_000));
        assert_eq!(signed_duration_ms("+10s"), Ok(10_000));
    }

    #[test]
    fn refuses_a_missing_or_unknown_unit_and_says_how_to_write_it() {
        let missing = duration("30").unwrap_err();
        assert!(missing.contains("has no unit") && missing.contains("\"250ms\""), "{missing}");
        let unknown = size("64mb").unwrap_err();
        assert!(unknown.contains("unknown unit \"mb\"") && unknown.contains("MiB"), "{unknown}");
        assert!(size("MiB").unwrap_err().contains("whole number"));
        assert!(size("1.5GiB").is_err());
        assert!(size("99999999TiB").unwrap_err().contains("too large"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,20}") {
            let _ = (duration(&text), size(&text), signed_duration_ms(&text));
        }
    }
}
