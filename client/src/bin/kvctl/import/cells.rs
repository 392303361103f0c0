//! Cells of CSV as JSON: numbers as numbers where nothing is lost, empty as null, the rest as text.
//!
//! | cell | JSON | why |
//! |---|---|---|
//! | empty, or a `--null` text | `null` | |
//! | `517`, `-1`, `0.25`, `1e-5` | the number, as written | 15 significant digits or 64 bits: it reads back exactly |
//! | `007`, `+1`, `-0`, `.5`, 20 digits | text | as a number it would change |
//! | anything else | text | |

/// Significant decimal digits that a 64-bit float keeps.
const EXACT_DIGITS_MAX: usize = 15;

/// Largest exponent, up or down, that stays far from the ends of a 64-bit float.
const EXPONENT_MAX: u32 = 290;

/// Appends the cell as a JSON value.
pub fn push_json(json: &mut Vec<u8>, cell: &str, nulls: &[String]) {
    if is_null(cell, nulls) {
        json.extend_from_slice(b"null");
    } else if is_exact_number(cell) {
        json.extend_from_slice(cell.as_bytes());
    } else {
        push_text(json, cell);
    }
}

/// Appends a JSON string.
pub fn push_text(json: &mut Vec<u8>, text: &str) {
    serde_json::to_writer(json, text).expect("text is always JSON, and a buffer takes all of it");
}

/// Whether the cell holds nothing.
pub fn is_null(cell: &str, nulls: &[String]) -> bool {
    cell.is_empty() || nulls.iter().any(|null| null == cell)
}

/// Whether the text is a JSON number that a reader gets back exactly.
fn is_exact_number(cell: &str) -> bool {
    let (mantissa, exponent) = match cell.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (cell, None),
    };
    let unsigned = mantissa.strip_prefix('-').unwrap_or(mantissa);
    let (whole, fraction) = match unsigned.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (unsigned, None),
    };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || (whole.len() > 1 && whole.starts_with('0')) || fraction.is_some_and(|text| !digits(text)) {
        return false;
    }
    if exponent.is_none() && fraction.is_none() {
        return cell != "-0" && cell.parse::<i64>().is_ok();
    }
    if exponent.is_some_and(|text| !is_small_exponent(text)) {
        return false;
    }
    let significant = format!("{whole}{}", fraction.unwrap_or("")).trim_start_matches('0').len();
    // Minus nothing is not nothing.
    (1..=EXACT_DIGITS_MAX).contains(&significant) || (significant == 0 && !cell.starts_with('-'))
}

fn is_small_exponent(text: &str) -> bool {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_number && digits.parse::<u32>().is_ok_and(|exponent| exponent <= EXPONENT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn json(cell: &str) -> String {
        let mut json = Vec::new();
        push_json(&mut json, cell, &["NA".to_owned()]);
        String::from_utf8(json).unwrap()
    }

    #[test]
    fn numbers_stay_numbers_where_nothing_is_lost() {
        for number in ["0", "517", "-1", "9223372036854775807", "0.25", "-3.10", "1e-5", "1.5E+10", "0.0", "0.000001"] {
            assert_eq!(json(number), number);
        }
        let texts = [
            "007",
            "+1",
            "-0",
            "-0.0",
            ".5",
            "5.",
            "1e",
            "1e999",
            "0x10",
            "1_000",
            "1,5",
            "12345678901234567890",
            "0.1234567890123456789",
            "NaN",
            "inf",
            "-",
            "2013-01-01T10:00:00Z",
            "UA",
            " 1",
        ];
        for text in texts {
            assert_eq!(json(text), format!("\"{text}\""));
        }
    }

    #[test]
    fn nothing_is_null() {
        assert_eq!((json(""), json("NA"), json("na")), ("null".to_owned(), "null".to_owned(), "\"na\"".to_owned()));
    }

    proptest! {
        #[test]
        fn every_cell_is_one_json_value_that_says_the_same(
            cell in "\\PC*|-?[0-9]{1,19}(\\.[0-9]{1,9})?(e-?[0-9]{1,2})?"
        ) {
            let text = json(&cell);
            let value: serde_json::Value = serde_json::from_str(&text).unwrap();
            match value {
                serde_json::Value::Null => prop_assert!(cell.is_empty() || cell == "NA"),
                serde_json::Value::String(string) => prop_assert_eq!(string, cell),
                serde_json::Value::Number(number) => {
                    prop_assert_eq!(&text, &cell);
                    let whole = cell.parse::<i64>().ok();
                    prop_assert!(whole.is_none() || number.as_i64() == whole);
                    let digits = cell.bytes().take_while(|byte| *byte != b'e').filter(u8::is_ascii_digit);
                    let digits: Vec<u8> = digits.skip_while(|digit| *digit == b'0').collect();
                    prop_assert!(whole.is_some() || digits.len() <= EXACT_DIGITS_MAX);
                }
                other => prop_assert!(false, "{}", other),
            }
        }
    }
}
