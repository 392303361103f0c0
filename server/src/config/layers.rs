//! Layers: defaults, then the file, then the environment; each checked against the list of fields.
//!
//! ```text
//!   fields.rs defaults ◀── node.toml ◀── KV__SECTION__FIELD      the rightmost wins
//! ```
//!
//! **Invariant.** Nothing is silently ignored: a section, field or variable that is not in the list is refused with the
//! nearest name that is.

use super::fields::{self, FIELDS, LISTS};
use thiserror::Error;
use toml::{Table, Value};

/// Prefix of the environment variables that override fields.
pub const ENVIRONMENT_PREFIX: &str = "KV__";

/// Why a configuration is refused. Each is one sentence that names the place and the fix.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}: {why}")]
    Unreadable {
        /// Which.
        path: String,
        /// What the system said.
        why: String,
    },
    /// The file is no TOML.
    #[error("configuration file, line {line}: {why}")]
    Syntax {
        /// Where.
        line: usize,
        /// What the parser said.
        why: String,
    },
    /// No such section.
    #[error("unknown section [{section}]: did you mean [{nearest}]?")]
    UnknownSection {
        /// As written.
        section: String,
        /// The known one nearest to it.
        nearest: String,
    },
    /// No such field.
    #[error("unknown field {field}: did you mean {nearest}?")]
    UnknownField {
        /// As written.
        field: String,
        /// The known one nearest to it.
        nearest: String,
    },
    /// No such environment variable.
    #[error("environment variable {name} names no field: did you mean {nearest}?")]
    UnknownVariable {
        /// As written.
        name: String,
        /// The known one nearest to it.
        nearest: String,
    },
    /// A value that cannot be meant.
    #[error("{field} {problem}")]
    Invalid {
        /// The field, or the variable that set it.
        field: String,
        /// What is wrong and how to fix it.
        problem: String,
    },
}

impl ConfigError {
    /// A field whose value cannot be meant.
    pub fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        ConfigError::Invalid { field: field.into(), problem: problem.into() }
    }
}

/// The effective configuration as one table, every default filled in.
///
/// # Errors
/// Text that is no TOML, names that are unknown, values of the wrong kind.
pub fn effective(
    file: Option<&str>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Table, ConfigError> {
    let mut table = match file {
        None => Table::new(),
        Some(text) => text.parse::<Table>().map_err(|error| ConfigError::Syntax {
            line: error.span().map_or(1, |span| 1 + text[..span.start].matches('\n').count()),
            why: error.message().replace('\n', ", "),
        })?,
    };
    check(&table)?;
    for (name, text) in environment {
        if let Some(path) = name.strip_prefix(ENVIRONMENT_PREFIX) {
            override_field(&mut table, &name, path, &text)?;
        }
    }
    fill(&mut table);
    Ok(table)
}

/// Every name known, every value of its kind.
fn check(table: &Table) -> Result<(), ConfigError> {
    for (section, value) in table {
        if !fields::sections().contains(&section.as_str()) {
            let known: Vec<_> = fields::sections().into_iter().filter(|name| !name.contains('.')).collect();
            let nearest = fields::nearest(section, known).unwrap_or_default().to_owned();
            return Err(ConfigError::UnknownSection { section: section.clone(), nearest });
        }
        match (LISTS.contains(&section.as_str()), value) {
            (true, list) => check_list(section, list)?,
            (false, Value::Table(fields)) => check_section(section, fields)?,
            (false, _) => return Err(ConfigError::invalid(section, format!("is a section: write [{section}]"))),
        }
    }
    Ok(())
}

fn check_list(section: &str, list: &Value) -> Result<(), ConfigError> {
    let Some(entries) = list.as_array() else {
        return Err(ConfigError::invalid(section, format!("is a list: write [[{section}]] once per entry")));
    };
    for entry in entries {
        let Some(fields) = entry.as_table() else {
            return Err(ConfigError::invalid(section, format!("has an entry that is no table: write [[{section}]]")));
        };
        check_section(section, fields)?;
    }
    Ok(())
}

fn check_section(section: &str, table: &Table) -> Result<(), ConfigError> {
    for (name, value) in table {
        let path = format!("{section}.{name}");
        if LISTS.contains(&path.as_str()) {
            check_list(&path, value)?;
            continue;
        }
        let Some(field) = fields::find(section, name) else {
            let known = FIELDS.iter().filter(|field| field.section == section).map(|field| field.name);
            let nearest = format!("{section}.{}", fields::nearest(name, known).unwrap_or_default());
            return Err(ConfigError::UnknownField { field: path, nearest });
        };
        field.check(value).map_err(|problem| ConfigError::invalid(path, problem))?;
    }
    Ok(())
}

fn override_field(table: &mut Table, variable: &str, path: &str, text: &str) -> Result<(), ConfigError> {
    let settable = || FIELDS.iter().filter(|field| !LISTS.contains(&field.section));
    let name_of = |field: &fields::Field| format!("{}__{}", field.section, field.name).to_uppercase();
    let Some(field) = settable().find(|field| name_of(field) == path) else {
        let names: Vec<String> = settable().map(name_of).collect();
        let nearest = fields::nearest(path, names.iter().map(String::as_str)).unwrap_or_default();
        let nearest = format!("{ENVIRONMENT_PREFIX}{nearest}");
        return Err(ConfigError::UnknownVariable { name: variable.to_owned(), nearest });
    };
    let value = field.read(text).map_err(|problem| {
        ConfigError::invalid(format!("{} (from environment variable {variable})", field.path()), problem)
    })?;
    section_mut(table, field.section).insert(field.name.to_owned(), value);
    Ok(())
}

/// Writes every default that is not there.
fn fill(table: &mut Table) {
    for field in FIELDS {
        let Some(default) = field.default else { continue };
        let value = || field.read(default).expect("defaults are valid: a test reads each");
        match field.section {
            "keyspaces" => {
                for entry in table.get_mut("keyspaces").and_then(Value::as_array_mut).into_iter().flatten() {
                    let entry = entry.as_table_mut().expect("checked: entries of lists are tables");
                    entry.entry(field.name).or_insert_with(value);
                }
            }
            section => {
                section_mut(table, section).entry(field.name).or_insert_with(value);
            }
        }
    }
}

fn section_mut<'a>(table: &'a mut Table, section: &str) -> &'a mut Table {
    let section = table.entry(section).or_insert_with(|| Value::Table(Table::new()));
    section.as_table_mut().expect("checked: sections are tables")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variable(name: &str, text: &str) -> [(String, String); 1] {
        [(name.to_owned(), text.to_owned())]
    }

    #[test]
    fn the_environment_wins_over_the_file_and_the_file_over_the_default() {
        let file = "[raft]\nheartbeat = \"100ms\"\nelection_min = \"700ms\"\n";
        let table = effective(Some(file), variable("KV__RAFT__HEARTBEAT", "50ms")).unwrap();
        assert_eq!(table["raft"]["heartbeat"].as_str(), Some("50ms"));
        assert_eq!(table["raft"]["election_min"].as_str(), Some("700ms"));
        assert_eq!(table["raft"]["election_max"].as_str(), Some("1500ms"));
    }

    #[test]
    fn an_unknown_field_is_refused_with_the_nearest_known_one() {
        let error = effective(Some("[node]\nlisten_clinet = \"x\"\n"), []).unwrap_err();
        assert_eq!(error.to_string(), "unknown field node.listen_clinet: did you mean node.listen_client?");
        let error = effective(Some("[[keyspaces]]\nnme = \"x\"\n"), []).unwrap_err();
        assert_eq!(error.to_string(), "unknown field keyspaces.nme: did you mean keyspaces.name?");
        let error = effective(Some("[[cluster.nodes]]\nid = 1\nclent = \"x\"\n"), []).unwrap_err();
        assert_eq!(error.to_string(), "unknown field cluster.nodes.clent: did you mean cluster.nodes.client?");
    }

    #[test]
    fn an_unknown_section_or_variable_is_refused_with_the_nearest_known_one() {
        let error = effective(Some("[nodes]\nid = 1\n"), []).unwrap_err();
        assert_eq!(error.to_string(), "unknown section [nodes]: did you mean [node]?");
        let error = effective(None, variable("KV__NODE__INSECUR", "true")).unwrap_err();
        assert!(error.to_string().ends_with("did you mean KV__NODE__INSECURE?"), "{error}");
        assert!(effective(None, variable("KVCTL_ENDPOINTS", "x")).is_ok());
    }

    #[test]
    fn a_bad_value_names_the_field_and_the_fix() {
        let error = effective(Some("[raft]\nheartbeat = \"250\"\n"), []).unwrap_err().to_string();
        assert!(error.starts_with("raft.heartbeat \"250\" has no unit") && error.contains("\"250ms\""), "{error}");
        let error = effective(Some("[storage]\nlow_water = 5\n"), []).unwrap_err().to_string();
        assert!(error.starts_with("storage.low_water \"5\" has no unit"), "{error}");
        let error = effective(None, variable("KV__NODE__INSECURE", "yes")).unwrap_err().to_string();
        assert!(error.contains("KV__NODE__INSECURE") && error.contains("true or false"), "{error}");
        let error = effective(Some("[node]\nid = 0\n"), []).unwrap_err().to_string();
        assert!(error.contains("whole number from 1"), "{error}");
    }

    #[test]
    fn text_that_is_no_toml_names_its_line() {
        let error = effective(Some("[node]\nid = \n"), []).unwrap_err();
        assert!(matches!(error, ConfigError::Syntax { line: 2, .. }), "{error}");
    }

    #[test]
    fn a_list_written_as_a_section_says_how() {
        let error = effective(Some("[keyspaces]\nname = \"x\"\n"), []).unwrap_err().to_string();
        assert!(error.contains("write [[keyspaces]]"), "{error}");
    }
}
