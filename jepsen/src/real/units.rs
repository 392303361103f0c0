//! Quantities as experiments write them: a number and a unit.

use anyhow::{Context, Result, bail};
use std::{ops::RangeInclusive, time::Duration};

/// `250ms`, `2s`, `1.5s`, `2m`.
pub fn duration(text: &str) -> Result<Duration> {
    let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0)];
    let read = units.iter().find_map(|(unit, seconds)| {
        let number = text.strip_suffix(unit)?.parse::<f64>().ok()?;
        (number >= 0.0 && number * seconds <= 86_400.0).then(|| Duration::from_secs_f64(number * seconds))
    });
    read.with_context(|| format!("{text:?} is no time: write 250ms, 2s or 1m"))
}

/// `2s`, or `1s..5s`.
pub fn duration_range(text: &str) -> Result<RangeInclusive<Duration>> {
    let Some((least, most)) = text.split_once("..") else {
        let exact = duration(text)?;
        return Ok(exact..=exact);
    };
    let (least, most) = (duration(least)?, duration(most)?);
    if least > most {
        bail!("{text:?}: the second time is the longer one");
    }
    Ok(least..=most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_a_unit() {
        assert_eq!(duration("250ms").unwrap(), Duration::from_millis(250));
        assert_eq!(duration("1.5s").unwrap(), Duration::from_millis(1_500));
        assert_eq!(duration("2m").unwrap(), Duration::from_secs(120));
        for wrong in ["", "5", "s", "-1s", "1h", "9999999m", "NaNs"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(duration_range("1s..2s").unwrap(), Duration::from_secs(1)..=Duration::from_secs(2));
        assert!(duration_range("2s..1s").is_err());
    }
}
