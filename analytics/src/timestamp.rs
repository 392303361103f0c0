//! Timestamp: between microseconds since 1970-01-01T00:00:00Z and text.
//!
//! ```text
//!   2013-01-01T10:00:00Z    2013-01-01 10:00:00.123456    2013-01-01T12:00:00+02:00    2013-01-01
//! ```
//!
//! **Invariant.** What is printed is read back as the same number. Time zones other than an offset do not exist here.

const DAY_MICROS: i64 = 86_400_000_000;

/// Days since 1970-01-01 of a date of the proleptic Gregorian calendar (Hinnant, `days_from_civil`).
#[must_use]
pub fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year - era * 400;
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// Year, month and day of a number of days since 1970-01-01 (Hinnant, `civil_from_days`).
#[must_use]
pub fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Reads a timestamp or a date; `None` if the text is neither.
#[must_use]
pub fn parse(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| digits(bytes.get(from..to)?);
    let at = |place: usize| bytes.get(place).copied();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let is_date = at(4) == Some(b'-') && at(7) == Some(b'-') && (1..=12).contains(&month);
    if !is_date || civil(days(year, month, day)) != (year, month, day) {
        return None;
    }
    let midnight = days(year, month, day) * DAY_MICROS;
    if bytes.len() == 10 {
        return Some(midnight);
    }
    let (hour, minute) = (number(11, 13)?, number(14, 16)?);
    if !matches!(at(10), Some(b'T' | b't' | b' ')) || at(13) != Some(b':') || hour > 23 || minute > 59 {
        return None;
    }
    let (second, rest) = match at(16) {
        Some(b':') => (number(17, 19)?, 19),
        _ => (0, 16),
    };
    if second > 59 {
        return None;
    }
    let (micros, rest) = fraction(bytes, rest)?;
    let offset_minutes = offset(bytes.get(rest..)?)?;
    let seconds = (hour * 60 + minute - offset_minutes) * 60 + second;
    Some(midnight + seconds * 1_000_000 + micros)
}

fn digits(bytes: &[u8]) -> Option<i64> {
    bytes.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
}

fn fraction(bytes: &[u8], from: usize) -> Option<(i64, usize)> {
    if bytes.get(from) != Some(&b'.') {
        return Some((0, from));
    }
    let length = bytes[from + 1..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    if length == 0 || length > 9 {
        return None;
    }
    let kept = length.min(6);
    let value = digits(&bytes[from + 1..from + 1 + kept])?;
    Some((value * 10_i64.pow(6 - kept as u32), from + 1 + length))
}

fn offset(bytes: &[u8]) -> Option<i64> {
    match bytes {
        [] | [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), hours @ .., b':', tens, ones] if hours.len() == 2 => {
            let minutes = digits(hours)? * 60 + digits(&[*tens, *ones])?;
            Some(if *sign == b'-' { -minutes } else { minutes })
        }
        _ => None,
    }
}

/// The text of a timestamp: seconds, and microseconds where there are some.
#[must_use]
pub fn format(micros: i64) -> String {
    let (date, rest) = (civil(micros.div_euclid(DAY_MICROS)), micros.rem_euclid(DAY_MICROS));
    let (seconds, fraction) = (rest / 1_000_000, rest % 1_000_000);
    let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    let (year, month, day) = date;
    let whole = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    if fraction == 0 { format!("{whole}Z") } else { format!("{whole}.{fraction:06}Z") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_moments_are_read() {
        assert_eq!(parse("1970-01-01"), Some(0));
        assert_eq!(parse("2013-01-01T10:00:00Z"), Some(1_357_034_400_000_000));
        assert_eq!(parse("2013-01-01 10:00:00.5"), Some(1_357_034_400_500_000));
        assert_eq!(parse("2013-01-01T12:00+02:00"), Some(1_357_034_400_000_000));
        assert_eq!(parse("1969-12-31T23:59:59Z"), Some(-1_000_000));
        for text in ["", "2013", "2013-02-30", "2013-13-01", "2013-01-01T25:00:00", "2013-01-01T10:00:00X", "NA"] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(micros in -62_000_000_000_000_000_i64..253_000_000_000_000_000) {
            prop_assert_eq!(parse(&format(micros)), Some(micros), "{}", format(micros));
        }

        #[test]
        fn no_text_makes_it_panic(text: String) {
            let _ = parse(&text);
        }
    }
}
