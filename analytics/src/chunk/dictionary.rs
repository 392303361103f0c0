//! Dictionary: the distinct texts of one column of one chunk, in order.
//!
//! **Invariant.** Texts ascend strictly, so that codes compare as their texts do.

use std::sync::Arc;

/// Distinct texts, ascending; the code of a text is its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dictionary {
    text: Arc<str>,
    ends: Arc<[u32]>,
}

impl Dictionary {
    /// A dictionary of texts that ascend strictly; `None` if they do not, or exceed 4 GiB.
    #[must_use]
    pub fn of_sorted<'a>(texts: impl IntoIterator<Item = &'a str>) -> Option<Dictionary> {
        let (mut text, mut ends, mut last) = (String::new(), Vec::new(), None);
        for entry in texts {
            if last.is_some_and(|last| last >= entry) {
                return None;
            }
            text.push_str(entry);
            ends.push(u32::try_from(text.len()).ok()?);
            last = Some(entry);
        }
        Some(Dictionary { text: text.into(), ends: ends.into() })
    }

    /// How many texts.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there is none: every value of the column is missing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The text of a code.
    #[must_use]
    pub fn get(&self, code: usize) -> &str {
        let start = if code == 0 { 0 } else { self.ends[code - 1] as usize };
        &self.text[start..self.ends[code] as usize]
    }

    /// Every text, in order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &str> + ExactSizeIterator {
        (0..self.len()).map(|code| self.get(code))
    }

    /// Bytes of memory.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.text.len() + self.ends.len() * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_compare_as_their_texts_do() {
        let dictionary = Dictionary::of_sorted(["", "JFK", "LGA"]).unwrap();
        assert_eq!(dictionary.iter().collect::<Vec<_>>(), ["", "JFK", "LGA"]);
        assert_eq!(dictionary.get(1), "JFK");
        assert!(Dictionary::of_sorted(["b", "a"]).is_none());
        assert!(Dictionary::of_sorted(["a", "a"]).is_none());
        assert!(Dictionary::of_sorted([]).unwrap().is_empty());
    }
}
