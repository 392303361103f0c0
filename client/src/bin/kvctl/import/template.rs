//! Key templates: `{time_hour}/{carrier}{flight}/{origin}`.
//!
//! `{name}` stands for the cell of that column, `{{` and `}}` for braces.

/// A parsed template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Column(String),
}

impl Template {
    /// Reads a template; the error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut letters = text.chars().peekable();
        while let Some(letter) = letters.next() {
            match letter {
                '{' | '}' if letters.peek() == Some(&letter) => {
                    letters.next();
                    plain.push(letter);
                }
                '{' => {
                    if !plain.is_empty() {
                        parts.push(Part::Text(std::mem::take(&mut plain)));
                    }
                    parts.push(Part::Column(column(&mut letters)?));
                }
                '}' => return Err("--key: a } without its {: write }} for a brace".to_owned()),
                other => plain.push(other),
            }
        }
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        if !parts.iter().any(|part| matches!(part, Part::Column(_))) {
            return Err("--key names no {column}: all rows would have the same key".to_owned());
        }
        Ok(Template { parts })
    }

    /// The columns it needs, in order of appearance.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            Part::Column(name) => Some(name.as_str()),
            Part::Text(_) => None,
        })
    }

    /// The key of a row. `cell` gives the text of a column, or why there is none.
    pub fn render<'a, T: AsRef<str> + 'a>(&self, cell: impl Fn(&str) -> Result<T, String>) -> Result<String, String> {
        let mut key = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => key.push_str(text),
                Part::Column(name) => key.push_str(cell(name)?.as_ref()),
            }
        }
        Ok(key)
    }
}

fn column(letters: &mut impl Iterator<Item = char>) -> Result<String, String> {
    let mut name = String::new();
    for letter in letters {
        match letter {
            '}' if name.is_empty() => return Err("--key: {} names no column".to_owned()),
            '}' => return Ok(name),
            '{' => break,
            other => name.push(other),
        }
    }
    Err(format!("--key: {{{name} is not closed: write {{{{ for a brace"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rendered(template: &str) -> Result<String, String> {
        Template::parse(template)?.render(|name| match name {
            "missing" => Err("column missing is empty".to_owned()),
            other => Ok(other.to_uppercase()),
        })
    }

    #[test]
    fn columns_are_filled_in_and_the_rest_stands() {
        assert_eq!(rendered("{time_hour}/{carrier}{flight}/{origin}").unwrap(), "TIME_HOUR/CARRIERFLIGHT/ORIGIN");
        assert_eq!(rendered("{{{a b}}}é").unwrap(), "{A B}é");
        assert_eq!(rendered("{a}{missing}").unwrap_err(), "column missing is empty");
        let columns = Template::parse("x{a}/{b}{a}").unwrap();
        assert_eq!(columns.columns().collect::<Vec<_>>(), ["a", "b", "a"]);
    }

    #[test]
    fn a_template_that_cannot_be_meant_is_refused() {
        for bad in ["", "plain", "{", "{a", "{}", "a}", "{a{b}", "{{a}}"] {
            assert!(Template::parse(bad).is_err(), "{bad:?}");
        }
    }

    /// Written down again, its parts are the same template.
    #[test]
    fn fuzz_any_template_is_refused_or_reads_back() {
        let pieces = ["{", "}", "{{", "}}", "{a}", "a", "/", "\u{e9}", " "];
        bolero::check!().with_iterations(4_000).with_max_len(12).for_each(|input: &[u8]| {
            for text in crate::typed::texts(&pieces, input) {
                let Ok(template) = Template::parse(&text) else { continue };
                let written = template.parts.iter().map(|part| match part {
                    Part::Text(text) => text.replace('{', "{{").replace('}', "}}"),
                    Part::Column(name) => format!("{{{name}}}"),
                });
                assert_eq!(Template::parse(&written.collect::<String>()), Ok(template), "{text:?}");
            }
        });
    }

    proptest! {
        #[test]
        fn braces_written_twice_are_braces(text in "[a-z{}]{0,12}") {
            let template = format!("{}{{x}}", text.replace('{', "{{").replace('}', "}}"));
            prop_assert_eq!(rendered(&template).unwrap(), format!("{text}X"));
        }

        #[test]
        fn no_template_makes_the_parser_panic(text in ".*") {
            let _ = Template::parse(&text);
        }
    }
}
