//! EDN, the notation of Clojure: enough of it to read any history of Jepsen's, and to write one.
//!
//! **Invariant.** Reads what it writes. Any text is answered with forms or with a line and a reason, never with a
//! panic; nesting has a limit.
//!
//! **Deliberately absent.** The meaning of tags (the form behind a tag is read in its place, its tag kept), exact
//! fractions (read as the text they are).

use super::error::Malformed;
use std::fmt::{self, Write};

const DEPTH_MAX: usize = 100;

/// A form.
#[derive(Clone, Debug, PartialEq)]
pub enum Edn {
    Nil,
    Bool(bool),
    Int(i64),
    Text(String),
    /// Without its colon.
    Keyword(String),
    /// A name, or a number that is not a whole one of 64 bits.
    Symbol(String),
    /// Lists, vectors and sets: the difference says nothing about histories.
    List(Vec<Edn>),
    Map(Vec<(Edn, Edn)>),
    Tagged(String, Box<Edn>),
}

impl Edn {
    /// The member of a map under a keyword.
    pub fn field(&self, name: &str) -> Option<&Edn> {
        match self {
            Edn::Map(members) => members
                .iter()
                .find(|(key, _)| matches!(key, Edn::Keyword(word) if word == name))
                .map(|(_, member)| member),
            Edn::Tagged(_, form) => form.field(name),
            Edn::Nil | Edn::Bool(_) | Edn::Int(_) | Edn::Text(_) | Edn::Keyword(_) | Edn::Symbol(_) | Edn::List(_) => {
                None
            }
        }
    }
}

impl fmt::Display for Edn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Edn::Nil => f.write_str("nil"),
            Edn::Bool(yes) => write!(f, "{yes}"),
            Edn::Int(number) => write!(f, "{number}"),
            Edn::Text(text) => write_text(f, text),
            Edn::Keyword(word) => write!(f, ":{word}"),
            Edn::Symbol(word) => f.write_str(word),
            Edn::List(members) => {
                f.write_char('[')?;
                for (at, member) in members.iter().enumerate() {
                    write!(f, "{}{member}", if at == 0 { "" } else { " " })?;
                }
                f.write_char(']')
            }
            Edn::Map(members) => {
                f.write_char('{')?;
                for (at, (key, member)) in members.iter().enumerate() {
                    write!(f, "{}{key} {member}", if at == 0 { "" } else { ", " })?;
                }
                f.write_char('}')
            }
            Edn::Tagged(tag, form) => write!(f, "#{tag} {form}"),
        }
    }
}

fn write_text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for letter in text.chars() {
        match letter {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            '\r' => f.write_str("\\r")?,
            '\t' => f.write_str("\\t")?,
            control if control.is_control() => write!(f, "\\u{:04x}", u32::from(control))?,
            letter => f.write_char(letter)?,
        }
    }
    f.write_char('"')
}

/// The maps of a history with their lines: one after another, or all in one list.
pub fn read_forms(text: &str) -> Result<Vec<(usize, Edn)>, Malformed> {
    let mut parser = Parser { letters: text.chars().collect(), at: 0, line: 1 };
    let mut forms = Vec::new();
    let is_list = parser.next_letter()?.is_some_and(|letter| letter == '[' || letter == '(');
    if is_list {
        parser.at += 1;
    }
    while let Some(letter) = parser.next_letter()? {
        if is_list && (letter == ']' || letter == ')') {
            parser.at += 1;
            return match parser.next_letter()? {
                None => Ok(forms),
                Some(letter) => Err(parser.refuse(format!("{letter:?} after the end of the list"))),
            };
        }
        let line = parser.line;
        forms.push((line, parser.form(0)?));
    }
    if is_list { Err(parser.cut()) } else { Ok(forms) }
}

struct Parser {
    letters: Vec<char>,
    at: usize,
    line: usize,
}

impl Parser {
    /// The next letter that means something; it is not taken.
    fn next_letter(&mut self) -> Result<Option<char>, Malformed> {
        loop {
            match self.letters.get(self.at) {
                Some('\n') => {
                    self.line += 1;
                    self.at += 1;
                }
                Some(letter) if letter.is_whitespace() || *letter == ',' => self.at += 1,
                Some(';') => {
                    while self.letters.get(self.at).is_some_and(|letter| *letter != '\n') {
                        self.at += 1;
                    }
                }
                Some('#') if self.letters.get(self.at + 1) == Some(&'_') => {
                    self.at += 2;
                    self.form(1)?;
                }
                other => return Ok(other.copied()),
            }
        }
    }

    fn form(&mut self, depth: usize) -> Result<Edn, Malformed> {
        if depth > DEPTH_MAX {
            return Err(self.refuse(format!("nested deeper than {DEPTH_MAX}")));
        }
        let Some(letter) = self.next_letter()? else { return Err(self.cut()) };
        match letter {
            '"' => self.text(),
            '[' | '(' => Ok(Edn::List(self.members(depth)?)),
            '{' => self.map(depth),
            '#' if self.letters.get(self.at + 1) == Some(&'{') => {
                self.at += 1;
                Ok(Edn::List(self.members(depth)?))
            }
            '#' => {
                self.at += 1;
                let tag = self.word();
                Ok(Edn::Tagged(tag, Box::new(self.form(depth + 1)?)))
            }
            '\\' => {
                self.at += 1;
                let first = *self.letters.get(self.at).ok_or_else(|| self.cut())?;
                self.at += 1;
                Ok(Edn::Text(format!("{first}{}", self.word())))
            }
            ']' | ')' | '}' => Err(self.refuse(format!("{letter:?} closes nothing"))),
            _ => self.atom(),
        }
    }

    /// What stands between the bracket here and the one that closes it.
    fn members(&mut self, depth: usize) -> Result<Vec<Edn>, Malformed> {
        let closing = match self.letters[self.at] {
            '[' => ']',
            '(' => ')',
            _ => '}',
        };
        self.at += 1;
        let mut members = Vec::new();
        loop {
            match self.next_letter()? {
                None => return Err(self.cut()),
                Some(letter) if letter == closing => {
                    self.at += 1;
                    return Ok(members);
                }
                Some(_) => members.push(self.form(depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Edn, Malformed> {
        let mut members = self.members(depth)?.into_iter();
        let mut pairs = Vec::new();
        while let Some(key) = members.next() {
            let Some(member) = members.next() else { return Err(self.refuse("a map with a key and no value")) };
            pairs.push((key, member));
        }
        Ok(Edn::Map(pairs))
    }

    fn text(&mut self) -> Result<Edn, Malformed> {
        self.at += 1;
        let mut text = String::new();
        loop {
            let letter = *self.letters.get(self.at).ok_or_else(|| self.cut())?;
            self.at += 1;
            match letter {
                '"' => return Ok(Edn::Text(text)),
                '\\' => text.push(self.escaped()?),
                letter => {
                    self.line += usize::from(letter == '\n');
                    text.push(letter);
                }
            }
        }
    }

    fn escaped(&mut self) -> Result<char, Malformed> {
        let letter = *self.letters.get(self.at).ok_or_else(|| self.cut())?;
        self.at += 1;
        match letter {
            'n' => Ok('\n'),
            'r' => Ok('\r'),
            't' => Ok('\t'),
            'u' => {
                let digits: String = self.letters.iter().skip(self.at).take(4).collect();
                self.at += digits.chars().count();
                let letter = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                letter.ok_or_else(|| self.refuse(format!("\\u{digits} is no letter")))
            }
            '"' | '\\' => Ok(letter),
            other => Err(self.refuse(format!("\\{other} in a text"))),
        }
    }

    /// Letters up to the next delimiter.
    fn word(&mut self) -> String {
        let ends = |letter: &char| letter.is_whitespace() || ",\"[](){};".contains(*letter);
        let word: String = self.letters[self.at..].iter().take_while(|letter| !ends(letter)).collect();
        self.at += word.chars().count();
        word
    }

    fn atom(&mut self) -> Result<Edn, Malformed> {
        let word = self.word();
        Ok(match word.as_str() {
            "" => return Err(self.refuse("an empty name")),
            "nil" => Edn::Nil,
            "true" => Edn::Bool(true),
            "false" => Edn::Bool(false),
            name if name.starts_with(':') => Edn::Keyword(name[1..].to_owned()),
            number => match number.strip_suffix('N').unwrap_or(number).parse() {
                Ok(number) => Edn::Int(number),
                Err(_) => Edn::Symbol(word),
            },
        })
    }

    fn cut(&self) -> Malformed {
        self.refuse("truncated in the middle of a form")
    }

    fn refuse(&self, reason: impl Into<String>) -> Malformed {
        Malformed::new(self.line, "record", reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kvorum_storage::spoil::raw_and_spoiled;

    fn one(text: &str) -> Edn {
        read_forms(text).unwrap().remove(0).1
    }

    #[test]
    fn every_form_of_the_notation_is_read() {
        assert_eq!(one("{:a nil, \"b\" [1 -2 3N]}").to_string(), "{:a nil, \"b\" [1 -2 3]}");
        assert_eq!(one("{:set #{1} :list (1 true) :char \\a}").to_string(), "{:set [1], :list [1 true], :char \"a\"}");
        assert_eq!(one("; a remark\n#_ignored {:x 1.5}").to_string(), "{:x 1.5}");
        assert_eq!(one("#jepsen.history.Op{:index 1}").field("index"), Some(&Edn::Int(1)));
        assert_eq!(one("{:t \"a\\n\\\"\\u0041\\\\\"}").field("t"), Some(&Edn::Text("a\n\"A\\".to_owned())));
    }

    #[test]
    fn forms_come_in_a_list_or_one_after_another() {
        let lines = |text| read_forms(text).unwrap().into_iter().map(|(line, _)| line).collect::<Vec<_>>();
        assert_eq!(lines("{:a 1}\n{:a 2}\n"), [1, 2]);
        assert_eq!(lines("[{:a 1}\n\n {:a 2}]\n"), [1, 3]);
    }

    #[test]
    fn what_is_malformed_is_refused_with_its_line() {
        let refusal = |text: &str| read_forms(text).unwrap_err().to_string();
        assert_eq!(refusal("{:a 1}\n{:a"), "line 2: record: truncated in the middle of a form");
        assert_eq!(refusal("[{:a 1}\n"), "line 2: record: truncated in the middle of a form");
        assert_eq!(refusal("{:a}"), "line 1: record: a map with a key and no value");
        assert_eq!(refusal("{:a 1}]"), "line 1: record: ']' closes nothing");
        assert_eq!(refusal("[1] 2"), "line 1: record: '2' after the end of the list");
        assert!(refusal(&"{".repeat(10_000)).contains("nested deeper"));
    }

    /// Letters of the notation and of nothing else get further than any letters.
    const LETTERS: &[u8] = b"[]{}()#:;\"\\abcu0123456789_-^@, \n";

    #[test]
    fn fuzz_any_text_is_refused_or_read_as_what_it_says() {
        let sound = br#"[{:a 1 :b [nil true -2 3.5 "t\n" \c] :c #{x/y} :d #inst "2020"} (1 2)]"#;
        bolero::check!().with_iterations(3_000).with_max_len(60).for_each(|input: &[u8]| {
            let letters: Vec<u8> = input.iter().map(|byte| LETTERS[usize::from(*byte) % LETTERS.len()]).collect();
            for bytes in raw_and_spoiled(sound, input).into_iter().chain([letters.into()]) {
                for (_, form) in read_forms(&String::from_utf8_lossy(&bytes)).unwrap_or_default() {
                    let again = read_forms(&format!("[{form}]")).unwrap();
                    assert_eq!(again.into_iter().map(|(_, form)| form).collect::<Vec<_>>(), [form]);
                }
            }
        });
    }
}
