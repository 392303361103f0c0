//! TextTest: tests of a text against constants.
//!
//! **Invariant.** A test sees one text and nothing else, so that it can be asked once a dictionary entry instead of
//! once a row.

use super::Comparison;

/// A test of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TextTest {
    /// Compares byte by byte.
    Compare(Comparison, String),
    /// Is one of these.
    In(Vec<String>),
    /// Matches a pattern: `%` any text, `_` any one character.
    Like {
        /// The pattern.
        pattern: String,
        /// Whether upper and lower case are the same.
        ignores_case: bool,
    },
}

impl TextTest {
    /// Whether `text` passes.
    #[must_use]
    pub fn holds(&self, text: &str) -> bool {
        match self {
            TextTest::Compare(operator, other) => operator.holds(text.cmp(other)),
            TextTest::In(list) => list.iter().any(|other| other == text),
            TextTest::Like { pattern, ignores_case: false } => matches(pattern, text),
            TextTest::Like { pattern, ignores_case: true } => matches(&pattern.to_lowercase(), &text.to_lowercase()),
        }
    }
}

/// Greedy matching that goes back to the last `%` only: linear in text times pattern, whatever the pattern.
fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut at, mut in_text) = (0, 0);
    let mut resume: Option<(usize, usize)> = None;
    while in_text < text.len() {
        match pattern.get(at) {
            Some('%') => {
                resume = Some((at + 1, in_text));
                at += 1;
            }
            Some('_') => (at, in_text) = (at + 1, in_text + 1),
            Some(letter) if *letter == text[in_text] => (at, in_text) = (at + 1, in_text + 1),
            _ => match resume {
                Some((after, from)) => {
                    resume = Some((after, from + 1));
                    (at, in_text) = (after, from + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|letter| *letter == '%')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_sql() {
        for (pattern, text, is_match) in [
            ("N%", "N14228", true),
            ("N%", "M", false),
            ("%8", "N14228", true),
            ("%42%", "N14228", true),
            ("_FK", "JFK", true),
            ("_", "", false),
            ("%", "", true),
            ("a%b%c", "axxbyybzc", true),
            ("a%b%c", "axxbyybz", false),
            ("gr_ß", "grüß", true),
        ] {
            assert_eq!(matches(pattern, text), is_match, "{pattern} {text}");
        }
        assert!(TextTest::Like { pattern: "jF%".to_owned(), ignores_case: true }.holds("JFK"));
        assert!(TextTest::Compare(Comparison::Less, "K".to_owned()).holds("JFK"));
        assert!(TextTest::In(vec!["A".to_owned(), "B".to_owned()]).holds("B"));
    }

    #[test]
    fn a_pattern_made_to_be_slow_is_not() {
        assert!(!matches(&"%a".repeat(40), &"a".repeat(39)));
        assert!(!matches(&format!("{}b", "%a".repeat(40)), &"a".repeat(2_000)));
    }
}
