//! Logs: structured, text for people and JSON for machines.
//!
//! **Invariant.** A line says ids and sizes, never keys or values.

use crate::config::{ConfigError, Log, LogFormat};
use std::io::{self, IsTerminal as _};
use tracing_subscriber::EnvFilter;

/// Starts logging to stderr.
///
/// # Errors
/// A filter that cannot be read.
pub fn start(log: &Log) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(&log.filter)
        .map_err(|error| ConfigError::invalid("log.filter", format!("{:?} is no filter: {error}", log.filter)))?;
    let is_json = match log.format {
        LogFormat::Auto => !io::stderr().is_terminal(),
        LogFormat::Json => true,
        LogFormat::Text => false,
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = match is_json {
        true => lines.json().flatten_event(true).with_current_span(true).try_init(),
        false => lines.with_ansi(io::stderr().is_terminal()).try_init(),
    };
    started.map_err(|error| ConfigError::invalid("log", format!("cannot be started: {error}")))
}
